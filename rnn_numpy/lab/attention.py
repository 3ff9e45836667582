r"""What attention does to the gradient: its ways back to the source, how long they are, and when they are shut.

The gradient of an encoder comes by three ways:

    values   (A1)  sum_t alpha_t,s dcontext_t                      each row of the memory, as it was read
    weights  (A2)  what the scores say, sum_t dscore_t,s query_t   each row, as it was compared
    bridge   (A3)  the decoder's initial states                    the last row alone, and from there step by step

Backward is linear, so that each of them can be sent through the encoder alone; the three gradients add up to the whole
to rounding. The first two reach a row s at once, whatever the lag from the end of the source; the third falls as
lambda^lag does, with what the encoder's Jacobians leave of it: the lecture's case for attention.

The decoder's own Jacobian has two terms, where attention stands before the cell:

    (A4)  J_t = ds_t/ds_{t-1} = J_t|context fixed + B_t W_ch C_t,   C_t = d context_t / d h_{t-1}
          C_t = sum_s alpha_s (values_s - context) keys_s^T         of a product score; symmetric and positive
                                                                    semidefinite where the keys are the values

A saturated softmax passes nothing. With p = max_s alpha_t,s, by B2 of `rnn_numpy.layers.attention`,

    (A5)  sum_s |dscore_t,s| <= 2 (1 - p) (max_s dalpha_t,s - min_s dalpha_t,s)

since sum_s alpha_s |dalpha_s - mean| is at most twice the mass beside the largest weight times the range.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.recurrent import BackwardResult, Recurrent
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention import Attending
from rnn_numpy.models.encoder_decoder import EncoderDecoder, EncoderDecoderTrace

Array = NDArray[Any]
Floats = NDArray[np.float64]

WAYS = ("values", "weights", "bridge")
SATURATED = 1e-6  # of a softmax: the mass beside the largest weight


@dataclass
class AttentionSplit:
    """The gradient of an encoder by the way that it came; see `attention_split`.

    Attributes
    ----------
    whole : BackwardResult
        Of all ways together: what training uses.
    ways : dict of str to BackwardResult
        "values", "weights" and "bridge": dx, dh_0 and grads of each.
    traces : dict of str to Trace
        The encoder's trace with the gradients of each way: `split.traces["values"]["l0"].da`.
    lengths : ndarray of int, (N,)
    """

    whole: BackwardResult
    ways: dict[str, BackwardResult]
    traces: dict[str, Trace]
    lengths: NDArray[np.intp]

    @property
    def residual(self) -> float:
        """The largest difference of the sum of the ways and the whole, relative to the whole's largest entry."""
        parts = [(self.whole.dx, [way.dx for way in self.ways.values()])]
        parts.append((self.whole.grads.flat, [way.grads.flat for way in self.ways.values()]))
        worst = 0.0
        for whole, shares in parts:
            largest = float(np.abs(whole).max(initial=0.0))
            if largest:
                worst = max(worst, float(np.abs(sum(shares) - whole).max()) / largest)
        return worst

    def by_position(self, way: str) -> Floats:
        """Return the norm of dL/dx at each source position, (S, N), by one of the ways, or "whole"."""
        result = self.whole if way == "whole" else self._way(way)
        norms: Floats = np.linalg.norm(result.dx, axis=2).astype(np.float64)
        return norms

    def by_lag(self, way: str) -> Floats:
        """Return the same by the distance from each source's end, (S, N); NaN where there is no such position."""
        norms = self.by_position(way)
        lag = self.lengths - 1 - np.arange(len(norms))[:, None]
        found = np.full(norms.shape, np.nan)
        s, n = np.nonzero(lag >= 0)
        found[lag[s, n], n] = norms[s, n]
        return found

    def by_parameter(self) -> dict[str, dict[str, float]]:
        """Return the norm of each parameter's gradient, by way, and of the whole."""
        every = {**self.ways, "whole": self.whole}
        return {
            name: {way: float(np.linalg.norm(result.grads[name])) for way, result in every.items()}
            for name in self.whole.grads
        }

    def by_gate(self, way: str, name: str = "l0") -> dict[str, Floats]:
        """Return the norm of the gradient at each gate's pre-activations, (S, N), of one layer and direction."""
        self._way(way)
        layer: LayerTrace = self.traces[way][name]
        blocks = [title for title in layer.chain.cell.gradient_names if title == "da" or title.startswith("da_")]
        return {block: np.linalg.norm(getattr(layer, block), axis=2).astype(np.float64) for block in blocks}

    def _way(self, way: str) -> BackwardResult:
        if way not in self.ways:
            raise OptionError(f"AttentionSplit: way must be one of {', '.join(map(repr, self.ways))}; got {way!r}")
        return self.ways[way]

    def __repr__(self) -> str:
        norms = ", ".join(f"{way} {np.linalg.norm(result.dx):.2e}" for way, result in self.ways.items())
        return f"AttentionSplit(|dx| by {norms}; residual {self.residual:.1e})"


def attention_split(
    model: EncoderDecoder | Recurrent,
    trace: EncoderDecoderTrace | Trace,
    values: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    bridge: Any = None,
) -> AttentionSplit:
    """Split the gradient of an encoder into its ways: by the values, by the weights, by the bridge.

    Parameters
    ----------
    model : EncoderDecoder or Recurrent
        A model, whose trace has been through a backward pass; or an encoder by itself, and then what comes to it:
    trace : EncoderDecoderTrace or Trace
        From `forward`, or `loss_and_grads`.
    values, weights : ndarray, like the encoder's output, optional
        The memory's gradient by each of the two ways of attention: `given_ways["values"]` of a layer with attention,
        dmemory_values and dmemory_weights of an AttentionDecoder. Zeros where left out.
    bridge : like the encoder's final states, optional
        Their gradient.

    Returns
    -------
    AttentionSplit

    Raises
    ------
    DTypeError, OptionError, ShapeError
        A trace without a backward pass; gradients that do not fit the encoder.

    Notes
    -----
    Cost: four backward passes of the encoder. The trace that is handed in keeps its gradients.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> from rnn_numpy.layers.attention import AttentionRNN
    >>> rng = np.random.default_rng(0)
    >>> encoder, decoder = RNN(2, 4, rng=0), AttentionRNN(3, 4, rng=1)
    >>> memory, h_n, trace = encoder.forward(rng.normal(size=(9, 1, 2)))
    >>> output, _, read = decoder.forward(rng.normal(size=(5, 1, 3)), h_n, given={"values": memory})
    >>> back = decoder.backward(read, np.ones_like(output))
    >>> split = attention_split(encoder, trace, **back.given_ways["values"], bridge=back.dh_0)
    >>> split.residual < 1e-15, sorted(split.ways)
    (True, ['bridge', 'values', 'weights'])
    """
    where = "attention_split"
    if isinstance(model, EncoderDecoder):
        if not isinstance(trace, EncoderDecoderTrace):
            raise DTypeError(f"{where}: trace must be that of an EncoderDecoder; got {type(trace).__name__}")
        if trace.back is None:
            raise OptionError(f"{where}: trace must have been through a backward pass: take that of loss_and_grads")
        initial = tuple(getattr(trace.back, f"d{state}_0") for state in model.decoder.own)
        scratch = model.bridge.params.zeros_like()
        finals, of_memory = model.bridge.backward(trace.bridge, initial, scratch)
        encoder, recorded = model.encoder, trace.encoder
        ways: dict[str, tuple[Any, Any]] = {
            "values": (trace.back.dmemory_values, None),
            "weights": (trace.back.dmemory_weights, None),
            "bridge": (of_memory, finals),
        }
    else:
        if not isinstance(model, Recurrent) or not isinstance(trace, Trace):
            raise DTypeError(
                f"{where}: model must be an EncoderDecoder or a recurrent layer, with its own trace; got "
                f"{type(model).__name__} and {type(trace).__name__}"
            )
        encoder, recorded = model, trace
        ways = {"values": (values, None), "weights": (weights, None), "bridge": (None, bridge)}
    found: dict[str, BackwardResult] = {}
    traces: dict[str, Trace] = {}
    for way, (doutput, dh_n) in ways.items():
        traces[way] = _copied(recorded)
        found[way] = encoder.backward(traces[way], doutput, dh_n)
    outputs = [np.asarray(doutput) for doutput, _ in ways.values() if doutput is not None]
    if len({array.shape for array in outputs}) > 1:
        raise ShapeError(f"{where}: values and weights must have one shape; got {[array.shape for array in outputs]}")
    whole = encoder.backward(_copied(recorded), sum(outputs) if outputs else None, ways["bridge"][1])
    batch = recorded.edge.batch
    lengths = np.full(batch.N, batch.T) if batch.lengths is None else batch.unsorted(batch.lengths, 0)
    return AttentionSplit(whole, found, traces, np.asarray(lengths, np.intp))


def _copied(trace: Trace) -> Trace:
    """Return a trace whose backward passes leave the other one's gradients as they are."""
    twin = copy.copy(trace)
    twin.layers = {name: copy.copy(layer) for name, layer in trace.layers.items()}
    return twin


# ------------------------------------------------------------------------------------------------ token by position


def token_gradients(
    model: EncoderDecoder, source: ArrayLike, target: ArrayLike, inputs: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Return how much each token that is written depends on each one that was read, beside the weights.

    Parameters
    ----------
    model : EncoderDecoder
    source : int ndarray, (S,)
    target : int ndarray, (T,)
        y_1 ... y_L EOS.
    inputs : int ndarray, (T,), optional
        What the decoder reads; the target, shifted, where left out.

    Returns
    -------
    gradients : ndarray, (T, S)
        The norm of d log p(y_t) / d(embedding of source s).
    alpha : ndarray, (T, S)

    Notes
    -----
    Cost: one forward and one backward pass of T sequences.
    """
    where = "token_gradients"
    if not isinstance(model, EncoderDecoder):
        raise DTypeError(f"{where}: model must be an EncoderDecoder; got {type(model).__name__}")
    read, written = arguments.as_array(where, "source", source), arguments.as_array(where, "target", target)
    for name, array, letters in (("source", read, "(S,)"), ("target", written, "(T,)")):
        if array.ndim != 1:
            raise ShapeError(f"{where}: {name} must have shape {letters}, one sentence; got {array.shape}")
    S, T = len(read), len(written)
    batch = [np.repeat(read[:, None], T, axis=1), np.full(T, S), np.repeat(written[:, None], T, axis=1), np.full(T, T)]
    if inputs is not None:
        batch.append(np.repeat(arguments.as_array(where, "inputs", inputs)[:, None], T, axis=1))
    _, trace = model.forward(*batch, training=False)
    # Copy t of the sentence has the loss log p(y_t) alone: d log p / d logits is one-hot minus p.
    logits = trace.logits[np.arange(T), np.arange(T)]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    dlogits = np.zeros_like(trace.logits)
    dlogits[np.arange(T), np.arange(T)] = -shares
    dlogits[np.arange(T), np.arange(T), written] += 1
    trace.dlogits = dlogits
    steps = model.backward_steps(trace)
    for _ in steps:
        pass
    gradients = np.linalg.norm(np.asarray(trace.dsource), axis=2).T.astype(np.float64)
    return gradients, np.asarray(trace.decoder.alpha[:, 0], np.float64)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation of two arrays of one shape, ties taking their mean rank; NaN of a constant.

    >>> rank_correlation([1.0, 2.0, 3.0], [1.0, 4.0, 9.0]), rank_correlation([1.0, 2.0, 2.0], [3.0, 1.0, 2.0])
    (1.0, -0.8660254037844387)
    """
    x, y = _ranks(np.ravel(a)), _ranks(np.ravel(b))
    if x.shape != y.shape:
        raise ShapeError(f"rank_correlation: a and b must have one shape; got {np.shape(a)} and {np.shape(b)}")
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norm if norm else float("nan")


def _ranks(values: Array) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middle: Floats = (ends - (counts - 1) / 2)[places]
    return middle


# ------------------------------------------------------------------------------------------------ saturation


@dataclass(frozen=True)
class AttentionFocus:
    """How sharply a decoder attends; all (T, N), NaN where nothing can be attended to.

    Attributes
    ----------
    entropy : ndarray
        Of the weights, in nats: 0 for one row, ln S for all alike.
    effective : ndarray
        exp of it: how many rows are read in effect.
    largest : ndarray
        The largest weight.
    passed : ndarray or None
        |dscore| / |dalpha|, largest entries: what the softmax lets through backward. None before a backward pass.
    saturated : float
        The share of steps at which less than 1e-6 of the mass is beside the largest weight.
    """

    entropy: Floats
    effective: Floats
    largest: Floats
    passed: Floats | None
    saturated: float

    def __repr__(self) -> str:
        words = f"entropy {np.nanmean(self.entropy):.2f} nats, {np.nanmean(self.effective):.1f} rows in effect"
        passed = "" if self.passed is None else f", {np.nanmean(self.passed):.1e} of dalpha passed"
        return f"AttentionFocus({words}, {100 * self.saturated:.0f} % of steps saturated{passed})"


def attention_focus(trace: Any) -> AttentionFocus:
    """Measure how sharply a decoder attends, step by step, and what its softmax lets through backward.

    Parameters
    ----------
    trace : EncoderDecoderTrace, DecoderTrace, AttentionTrace, or Trace of a layer with attention
        Anything with alpha, (T, N, S); after a backward pass with dscore and dalpha as well.

    Examples
    --------
    >>> from rnn_numpy.layers.attention_layer import Attention
    >>> _, _, trace = Attention(2, 2, "dot").forward(np.zeros((3, 1, 2)), np.ones((4, 1, 2)))
    >>> attention_focus(trace)
    AttentionFocus(entropy 1.39 nats, 4.0 rows in effect, 0 % of steps saturated)
    """
    source = trace.decoder if isinstance(trace, EncoderDecoderTrace) else trace
    alpha = getattr(source, "alpha", None)
    if alpha is None or np.ndim(alpha) != 3:
        raise DTypeError(f"attention_focus: trace must have alpha, (T, N, S); got {type(trace).__name__}")
    weights = np.asarray(alpha, np.float64)
    there = weights.sum(axis=2) > 0
    logs = np.log(np.where(weights > 0, weights, 1))
    entropy = np.where(there, -(weights * logs).sum(axis=2), np.nan)
    largest = np.where(there, weights.max(axis=2, initial=0.0), np.nan)
    passed: Floats | None = None
    try:
        dscore, dalpha = np.asarray(source.dscore, np.float64), np.asarray(source.dalpha, np.float64)
    except AttributeError:
        pass
    else:
        most = np.abs(dalpha).max(axis=2, initial=0.0)
        passed = np.full(most.shape, np.nan)
        np.divide(np.abs(dscore).max(axis=2, initial=0.0), most, out=passed, where=there & (most > 0))
    saturated = float(np.mean(largest[there] > 1 - SATURATED)) if there.any() else float("nan")
    return AttentionFocus(entropy, np.exp(entropy), largest, passed, saturated)


# ------------------------------------------------------------------------------------------------ Jacobians


def attention_jacobians(layer: Attending, trace: Trace) -> tuple[Floats, Floats]:
    """Return the decoder's Jacobians J_t = ds_t/ds_{t-1} and, of each, the term that attention adds, A4.

    Parameters
    ----------
    layer : Attending
        With attention before the cell and a product score, "dot" or "keys".
    trace : Trace
        From its forward pass.

    Returns
    -------
    whole, attention : ndarray, (T, N, S, S)
        S units of all states; their difference is the Jacobian with contexts held fixed. In the engine's order.

    Notes
    -----
    Both come from forward formulas alone: the whole from the complex step of a step, the term from the step's
    derivative by its pre-activations, W_ch, and the covariance of the memory under the weights.

    Examples
    --------
    For the lecture's decoder J_t = diag(1 - h_t^2) (W_hh + W_ch Cov):

    >>> from rnn_numpy.layers.attention import AttentionRNN
    >>> decoder, rng = AttentionRNN(2, 3, rng=0), np.random.default_rng(0)
    >>> memory = rng.normal(size=(5, 1, 3))
    >>> output, _, trace = decoder.forward(rng.normal(size=(4, 1, 2)), given={"values": memory})
    >>> whole, attention = attention_jacobians(decoder, trace)
    >>> plain = (1 - trace.h[1:, :, :, None] ** 2) * decoder.params["weight_hh_l0"]
    >>> bool(np.abs(whole - attention - plain).max() < 1e-14 * np.abs(plain).max())
    True
    """
    where = "attention_jacobians"
    if not isinstance(layer, Attending) or layer.input_feeding or layer.score == "additive":
        raise OptionError(
            f"{where}: layer must have attention before the cell and a product score, 'dot' or 'keys'; got {layer!r}"
        )
    if layer.gate:
        raise OptionError(f"{where}: layer must have no gate, through which the state acts as well; got {layer!r}")
    layer.edge_of(where, trace)
    steps = RecordedSteps(layer, trace, "l0")
    maps, recorded = steps.maps, steps.recorded
    alpha, context, values = recorded.arrays["alpha"], recorded.arrays["context"], recorded.given["values"]
    keys = recorded.given.get("keys", values)
    moved = alpha[:, :, :, None] * (values[None] - context[:, :, None])
    C = np.einsum("tnsm,nsq->tnmq", moved, keys)
    slabs, H = recorded.chain.span, layer.hidden_size
    weight = layer.cell.arranged("input", recorded.weights["W_ch"], halved=False)
    term = maps.preactivation[:, :, :, slabs] @ (weight @ C)
    whole = np.asarray(maps.state, np.float64)
    attention = np.zeros_like(whole)
    attention[..., :H] = term
    return whole, attention


def spectrum(jacobians: ArrayLike) -> Floats:
    """Return the finite-time Lyapunov exponents of a product of Jacobians, per step, the largest first, (N, S).

    jacobians are J_0 ... J_{T-1}, (T, N, S, S); the product is taken by repeated QR, so that no factor is lost.

    >>> spectrum(np.broadcast_to(np.diag([0.5, 2.0]), (10, 1, 2, 2))).round(12) / np.log(2)
    array([[ 1., -1.]])
    """
    factors = np.asarray(jacobians, np.float64)
    if factors.ndim != 4 or factors.shape[2] != factors.shape[3] or not len(factors):
        raise ShapeError(f"spectrum: jacobians must have shape (T, N, S, S) with T >= 1; got {factors.shape}")
    T, N, S = factors.shape[:3]
    Q = np.linalg.qr(np.broadcast_to(np.random.default_rng(0).standard_normal((S, S)), (N, S, S)))[0]
    logs = np.zeros((N, S))
    for factor in factors:
        Q, R = np.linalg.qr(factor @ Q)
        with np.errstate(divide="ignore"):
            logs += np.log(np.abs(np.diagonal(R, axis1=1, axis2=2)))
    return -np.sort(-logs / T, axis=1)


def lag_profile(split: AttentionSplit) -> Mapping[str, Floats]:
    """Return the mean over sequences of `by_lag`, by way: what a figure draws."""
    with np.errstate(invalid="ignore"):
        return {way: np.nanmean(split.by_lag(way), axis=1) for way in split.ways}
