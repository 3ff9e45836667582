"""Gradient clipping, in place on the flat vector of all gradients.

    by norm         g <- g * min(1, c / ||g||_2)                            keeps the direction
    by value        g_i <- min(max(g_i, -c), c)                             turns it towards the corners of the box
    per layer       by norm, each parameter or layer by itself              keeps it within each, not between them
    adaptive [1]_   row i of a gradient by norm, to l * max(||W_i||, eps)   keeps it within each row

Where torch adds 1e-6 to the norm, so that a clipped gradient ends a little below max_norm, this one ends on it.

A clipping that turns the gradient around, or makes NaN of an infinity, would do so unseen. So a limit must be a finite
number above 0, a gradient that is not finite is an error or, if asked for, an update that is left out, and each
function tells what it did: how much shorter the gradient is, how far it was turned, which parameter made it long.
A `ClipLedger` keeps that over a run.

References
----------
.. [1] A. Brock, S. De, S. L. Smith, K. Simonyan, "High-performance large-scale image recognition without
   normalization", ICML (2021), eq. 3.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite, largest_of, norm_of
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError

Array = NDArray[Any]

ON_NONFINITE, GROUPINGS = ("raise", "skip"), ("parameter", "layer")


@dataclass(frozen=True)
class ClipResult:
    """The result of a clipping: norms before and after, the angle between, and what was touched.

    Attributes
    ----------
    norm : float
        Euclidean norm of all gradients before; infinite if that is too large for a float, as with entries of 1e308.
    factor : float
        Norm after, divided by norm before; 1 where nothing was done.
    engaged : bool
        Whether any entry was changed.
    norm_after : float
        Euclidean norm of all gradients after.
    cosine : float
        Of the angle between the gradient before and after: 1 where only its length changed, as by norm; 1 for a
        gradient of zeros.
    touched, total : int
        How many of the `total` entries (rows, of adaptive clipping) were changed, or belong to a group that was.
    unit : {"entries", "rows"}
        What these two count.
    dominant : str or None
        The parameter whose gradient was the longest before, the first of equals; None where all gradients are 0. Of a
        gradient that is not finite, the first parameter that is not.
    share : float
        Its share of the squared norm before.
    lag : int or None
        Where a trace was handed in: how many steps before the last one the step stands that adds most to dL/dW_hh, as
        `lag_norms` defines it. None without a trace, or where nothing is added.
    skipped : bool
        Whether the gradient was not finite and was set to 0. Its norm, infinite or NaN, says in which way; factor,
        norm_after and cosine are 0.
    """

    norm: float
    factor: float
    engaged: bool
    norm_after: float = math.nan
    cosine: float = 1.0
    touched: int = 0
    total: int = 0
    unit: str = "entries"
    dominant: str | None = None
    share: float = 0.0
    lag: int | None = None
    skipped: bool = False


def clip_grad_norm(
    grads: Parameters, max_norm: float, *, trace: Trace | LayerTrace | None = None, on_nonfinite: str = "raise"
) -> ClipResult:
    """Scale all gradients together so that their Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grads : Parameters
        Changed in place.
    max_norm : float
        Greater than 0, finite.
    trace : Trace or LayerTrace, optional
        Whose backward pass has computed `grads`: the result then names the lag that adds most. That takes up to a half
        of the time of a training step; `lag_norms` says why.
    on_nonfinite : {"raise", "skip"}
        What to do with a gradient that has a NaN or an infinity. "skip" sets all gradients to 0 and says so in the
        result. An optimiser with momentum moves all the same, so leave its step out:
        `if not result.skipped: optimizer.step(grads)`.

    Raises
    ------
    NonFiniteError
        A gradient is NaN or infinite, and is not to be skipped; the message names the parameter. Nothing is changed
        then.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,), "b": (1,)}, np.float64, np.array([3.0, 0.0, 4.0]))
    >>> result = clip_grad_norm(grads, 1.0)
    >>> result.norm, result.norm_after, result.factor, result.cosine
    (5.0, 1.0, 0.2, 1.0)
    >>> result.dominant, result.share
    ('b', 0.64)
    >>> grads["w"].round(12)
    array([0.6, 0. ])
    """
    where = "clip_grad_norm"
    limit = arguments.positive_number(where, "max_norm", max_norm)
    found = _untouched(where, grads, trace, on_nonfinite)
    if found.skipped or found.norm <= limit:
        return found
    before = grads.flat.copy() if limit < _least_exact(grads.flat) else None
    _shorten([grads.flat], found.norm, limit)
    if before is not None:  # entries may have been rounded to 0
        return _compared(found, before, grads, found.total)
    return replace(found, factor=limit / found.norm, engaged=True, norm_after=limit, touched=found.total)


def clip_grad_value(
    grads: Parameters, clip_value: float, *, trace: Trace | LayerTrace | None = None, on_nonfinite: str = "raise"
) -> ClipResult:
    """Limit every entry to [-clip_value, clip_value].

    Parameters
    ----------
    grads : Parameters
        Changed in place; real, since complex numbers have no order.
    clip_value : float
        Greater than 0, finite.
    trace, on_nonfinite
        As in `clip_grad_norm`.

    Notes
    -----
    The smaller the limit, the more entries stand in a corner of the box: the cosine to the unclipped gradient then
    falls to ||g||_1 / (sqrt(P) ||g||_2), for P entries, its value for the sign of g.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,)}, np.float64, np.array([3.0, -0.25]))
    >>> result = clip_grad_value(grads, 1.0)
    >>> result.engaged, result.touched, result.total, round(result.cosine, 4)
    (True, 1, 2, 0.9869)
    >>> grads["w"]
    array([ 1.  , -0.25])
    """
    where = "clip_grad_value"
    limit = arguments.positive_number(where, "clip_value", clip_value)
    if isinstance(grads, Parameters) and np.iscomplexobj(grads.flat):
        raise DTypeError(f"{where}: grads must be real; complex numbers have no order to clip by")
    found = _untouched(where, grads, trace, on_nonfinite)
    limit = min(limit, float(np.finfo(grads.dtype).max))
    outside = np.abs(grads.flat) > limit
    if found.skipped or not outside.any():
        return found
    before = grads.flat.copy()
    np.clip(grads.flat, -limit, limit, out=grads.flat)
    return _compared(found, before, grads, int(np.count_nonzero(outside)))


def clip_grad_norm_per_layer(
    grads: Parameters,
    max_norm: float,
    by: str = "parameter",
    *,
    trace: Trace | LayerTrace | None = None,
    on_nonfinite: str = "raise",
) -> ClipResult:
    """Scale the gradient of each parameter, or of each layer, so that its own Euclidean norm is at most `max_norm`.

    Parameters
    ----------
    grads, max_norm, trace, on_nonfinite
        As in `clip_grad_norm`; the limit is the same for every group.
    by : {"parameter", "layer"}
        What has a norm of its own: each named array, or what belongs together by `layer_of`.

    Returns
    -------
    ClipResult
        `touched` counts the entries of the groups that were scaled.

    Examples
    --------
    >>> import numpy as np
    >>> grads = Parameters({"w": (2,), "b": (1,)}, np.float64, np.array([3.0, 4.0, 0.5]))
    >>> result = clip_grad_norm_per_layer(grads, 1.0)
    >>> grads.flat.round(12), result.touched
    (array([0.6, 0.8, 0.5]), 2)
    >>> round(result.cosine, 4)  # b is now half of w, and was a tenth
    0.9345
    """
    where = "clip_grad_norm_per_layer"
    limit = arguments.positive_number(where, "max_norm", max_norm)
    arguments.one_of(where, "by", by, GROUPINGS)
    found = _untouched(where, grads, trace, on_nonfinite)
    if found.skipped:
        return found
    groups: dict[str, list[Array]] = {}
    for name, array in grads.items():
        groups.setdefault(name if by == "parameter" else layer_of(name), []).append(array)
    norms = {group: norm_of(np.array([norm_of(array) for array in arrays])) for group, arrays in groups.items()}
    clipped = [group for group, norm in norms.items() if norm > limit]
    if not clipped:
        return found
    before = grads.flat.copy()
    for group in clipped:
        _shorten(groups[group], norms[group], limit)
    return _compared(found, before, grads, sum(array.size for group in clipped for array in groups[group]))


def clip_grad_adaptive(
    grads: Parameters,
    params: Parameters,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    *,
    exclude: Collection[str] = (),
    trace: Trace | LayerTrace | None = None,
    on_nonfinite: str = "raise",
) -> ClipResult:
    """Scale each row of each gradient so that its norm is at most clip_factor * max(norm of the parameter's row, eps).

    Row i of a matrix holds what one unit (or gate of a unit) reads. A vector, a bias, counts as one row. The cap
    follows the weights: no update by plain gradient descent changes a row by more than lr * clip_factor of itself.

    Parameters
    ----------
    grads : Parameters
        Changed in place.
    params : Parameters
        The parameters that `grads` belong to, finite; only read.
    clip_factor : float
        lambda; greater than 0, finite.
    eps : float
        What the norm of a row of parameters counts at least: otherwise a row of zeros could never learn. Greater than
        0, finite.
    exclude : collection of str
        Parameters to leave as they are. The paper leaves out the last linear layer.
    trace, on_nonfinite
        As in `clip_grad_norm`.

    Returns
    -------
    ClipResult
        `touched` and `total` count rows.

    Examples
    --------
    >>> import numpy as np
    >>> params = Parameters({"w": (2, 2)}, np.float64, np.array([3.0, 4.0, 0.0, 0.0]))
    >>> grads = Parameters({"w": (2, 2)}, np.float64, np.array([0.6, 0.8, 3e-6, 4e-6]))
    >>> result = clip_grad_adaptive(grads, params)
    >>> result.touched, result.total
    (1, 2)
    >>> grads["w"]
    array([[3.e-02, 4.e-02],
           [3.e-06, 4.e-06]])
    """
    where = "clip_grad_adaptive"
    factor = arguments.positive_number(where, "clip_factor", clip_factor)
    least = arguments.positive_number(where, "eps", eps)
    arguments.parameters(where, "params", params, "such as layer.params")
    if isinstance(grads, Parameters):
        arguments.gradients(where, grads, params)
    unknown = [name for name in exclude if name not in params.shapes]
    if unknown or isinstance(exclude, str):
        raise OptionError(f"{where}: exclude must be a list of names among {list(params)}; got {exclude!r}")
    found = _untouched(where, grads, trace, on_nonfinite)
    chosen = [name for name in params if name not in exclude]
    found = replace(found, unit="rows", total=sum(len(_rows(params[name])) for name in chosen))
    if found.skipped:
        return replace(found, touched=found.total)
    before = grads.flat.copy()
    touched = 0
    for name in chosen:
        arguments.finite(where, name, params[name])
        weights, rows = _rows(params[name]), _rows(grads[name])
        largest, lengths = _scaled_lengths(rows)
        weight_largest, weight_lengths = _scaled_lengths(weights)
        # In double precision: the two factors, and their product, may leave the range of the gradient's own. Where even
        # this one is too small, nothing needs clipping.
        wide = np.result_type(weight_largest.dtype, np.float64)
        with np.errstate(over="ignore"):
            cap = factor * np.maximum(weight_largest.astype(wide) * weight_lengths, least)
        # Where the norm itself, largest * lengths, may be too large for a float.
        over = largest > cap / lengths
        rows[over] /= largest[over, None]
        rows[over] *= (cap / lengths)[over, None]
        touched += int(np.count_nonzero(over))
    return _compared(found, before, grads, touched) if touched else found


def layer_of(name: str) -> str:
    """Return the layer to which a parameter belongs: what stands before the last dot, and the layer's number.

    Both directions of a layer are one layer. A name that tells neither gives "all".

    Examples
    --------
    >>> layer_of("rnn.weight_ih_l0"), layer_of("rnn.bias_hh_l1_reverse"), layer_of("readout.weight"), layer_of("weight")
    ('rnn.l0', 'rnn.l1', 'readout', 'all')
    """
    prefix, _, last = name.rpartition(".")
    number = re.search(r"_(l\d+)(_reverse)?$", last)
    return ".".join(part for part in (prefix, number[1] if number else "") if part) or "all"


def _untouched(where: str, grads: Parameters, trace: Trace | LayerTrace | None, on_nonfinite: str) -> ClipResult:
    """Measure the gradients: the result of a clipping that does nothing. Set them to 0 where they are not finite and
    are to be skipped.
    """
    arguments.parameters(where, "grads", grads, "as backward returns them")
    if grads.of:
        raise OptionError(
            f"{where}: grads must be gradients, as backward returns them; got the parameters of {grads.of} themselves, "
            "which would have been changed"
        )
    arguments.one_of(where, "on_nonfinite", on_nonfinite, ON_NONFINITE)
    size = grads.flat.size
    largest = largest_of(grads.flat)
    if not math.isfinite(largest):
        if on_nonfinite == "skip":
            bad = next((name for name, array in grads.items() if not np.isfinite(array).all()), None)
            grads.flat[:] = 0
            return ClipResult(largest, 0.0, True, 0.0, 0.0, size, size, dominant=bad, skipped=True)
        for name, array in grads.items():
            arguments.finite(where, f"the gradient of {name}", array)
        raise NonFiniteError(f"{where}: the gradient has entries too large for {grads.dtype}")
    lag = None
    if trace is not None:
        by_lag = lag_norms(trace)
        lag = int(by_lag.argmax()) if by_lag.any() else None
    if largest == 0:
        return ClipResult(0.0, 1.0, False, 0.0, total=size, lag=lag)
    scaled = Parameters(grads.shapes, grads.dtype, grads.flat / grads.dtype.type(largest))
    squares = {name: float(np.vdot(array, array).real) for name, array in scaled.items()}
    whole = math.fsum(squares.values())
    norm = largest * math.sqrt(whole)
    dominant = max(squares, key=squares.__getitem__)
    return ClipResult(norm, 1.0, False, norm, total=size, dominant=dominant, share=squares[dominant] / whole, lag=lag)


def _compared(found: ClipResult, before: Array, grads: Parameters, touched: int) -> ClipResult:
    """Return the result of a clipping, with what the gradients have become beside what they were."""
    after = norm_of(grads.flat)
    cosine = 0.0
    if after > 0:
        unit = before.dtype.type
        old = before / unit(largest_of(before))
        new = grads.flat / unit(largest_of(grads.flat))
        lengths = float(np.linalg.norm(old)) * float(np.linalg.norm(new))
        cosine = min(1.0, float(np.vdot(old, new).real) / lengths)
    return replace(found, factor=after / found.norm, engaged=True, norm_after=after, cosine=cosine, touched=touched)


def _shorten(arrays: Sequence[Array], norm: float, limit: float) -> None:
    """Scale arrays of one norm, taken together, to the norm `limit`."""
    factor = limit / norm
    if factor >= np.finfo(arrays[0].dtype).tiny:
        for array in arrays:
            array *= factor
        return
    # The factor is too small for a number of this precision, or the norm too large: scale in two steps.
    largest = max(largest_of(array) for array in arrays)
    for array in arrays:
        array /= array.dtype.type(largest)
    rest = math.hypot(*(float(np.linalg.norm(array.ravel())) for array in arrays))
    for array in arrays:
        array *= limit / rest


def _least_exact(array: Array) -> float:
    """Return a norm below which entries may lose digits that count: they come near the smallest float."""
    info = np.finfo(array.dtype)
    return float(info.tiny / info.eps) * math.sqrt(array.size)


def _rows(array: Array) -> Array:
    """Return a matrix (rows, entries) that views `array`; a vector is one row."""
    return array.reshape(1, array.size) if array.ndim < 2 else array.reshape(len(array), math.prod(array.shape[1:]))


def _scaled_lengths(rows: Array) -> tuple[Array, Array]:
    """Return the largest absolute value of each row, and the norm of the row over it; of a row of zeros 0 and 1."""
    largest = np.max(np.abs(rows), axis=1, initial=0.0)
    scale = np.where(largest == 0, 1, largest).astype(largest.dtype)
    return largest, np.maximum(np.linalg.norm(rows / scale[:, None], axis=1), 1)


# ---------------------------------------------------------------------------------------------- the ledger


class ClipLedger:
    """A record of all clippings of a training run.

    Attributes
    ----------
    results : list of ClipResult
        One for each update, in order.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import Parameters, clip_grad_norm
    >>> ledger = ClipLedger()
    >>> for size in (0.5, 2.0, np.nan):
    ...     grads = Parameters({"w": (1,)}, np.float64, np.array([size]))
    ...     result = ledger.record(clip_grad_norm(grads, 1.0, on_nonfinite="skip"))
    >>> ledger
    ClipLedger
      updates              3
      skipped              1   33.3 %   not finite: w 1
      engaged              1   50.0 %   of those with a finite gradient
      mean factor     0.7500
      mean cosine     1.0000
      largest norm  2.00e+00
      dominant             w 2
    """

    def __init__(self) -> None:
        self.results: list[ClipResult] = []

    def record(self, result: ClipResult) -> ClipResult:
        """Keep the result of a clipping, and return it."""
        if not isinstance(result, ClipResult):
            raise DTypeError(f"ClipLedger.record: result must be a ClipResult; got {type(result).__name__}")
        self.results.append(result)
        return result

    def __len__(self) -> int:
        return len(self.results)

    @property
    def skipped(self) -> int:
        """Updates that were left out, their gradient not being finite."""
        return sum(result.skipped for result in self.results)

    @property
    def finite(self) -> list[ClipResult]:
        """The results of the updates that were not left out: what shares and means are of."""
        return [result for result in self.results if not result.skipped]

    @property
    def engaged(self) -> int:
        """Updates at which clipping changed a finite gradient."""
        return sum(result.engaged for result in self.finite)

    @property
    def engaged_share(self) -> float | None:
        """Their share of the updates with a finite gradient; None where there is none."""
        return _mean([float(result.engaged) for result in self.finite])

    @property
    def mean_factor(self) -> float | None:
        """Mean of norm after / norm before over the updates with a finite gradient."""
        return _mean([result.factor for result in self.finite])

    @property
    def mean_cosine(self) -> float | None:
        """Mean cosine of the gradient before and after, over the updates with a finite gradient."""
        return _mean([result.cosine for result in self.finite])

    @property
    def largest_norm(self) -> float | None:
        """The largest norm before clipping; infinite where that was too large for a float."""
        return max((result.norm for result in self.finite), default=None)

    @property
    def dominant(self) -> Counter[str]:
        """Updates in which each parameter had the longest gradient, of those with a finite one."""
        return Counter(result.dominant for result in self.finite if result.dominant is not None)

    @property
    def not_finite(self) -> Counter[str]:
        """Updates in which each parameter was the first whose gradient was not finite."""
        return Counter(result.dominant for result in self.results if result.skipped and result.dominant is not None)

    @property
    def lags(self) -> Counter[int]:
        """Updates in which each lag added most to dL/dW_hh, where traces were handed to the clipping."""
        return Counter(result.lag for result in self.finite if result.lag is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain Python objects that strict JSON can hold; what is not finite as None."""
        names = ("skipped", "engaged", "engaged_share", "mean_factor", "mean_cosine")
        counts: dict[str, Counter[Any]] = {"dominant": self.dominant, "not_finite": self.not_finite, "lags": self.lags}
        return {
            "updates": len(self),
            **{name: getattr(self, name) for name in names},
            "largest_norm": finite(self.largest_norm),
            **{name: {str(k): count for k, count in found.most_common()} for name, found in counts.items()},
        }

    def __repr__(self) -> str:
        if not self.results:
            return "ClipLedger: no updates yet"
        lines = ["ClipLedger", f"  updates       {len(self):>8}"]
        bad = f"   not finite: {_counted(self.not_finite)}" if self.skipped else ""
        lines.append(f"  skipped       {self.skipped:>8}   {100 * self.skipped / len(self):4.1f} %{bad}")
        if self.finite:
            share, factor, cosine = self.engaged_share or 0.0, self.mean_factor or 0.0, self.mean_cosine or 0.0
            lines += [
                f"  engaged       {self.engaged:>8}   {100 * share:4.1f} %   of those with a finite gradient",
                f"  mean factor   {factor:>8.4f}",
                f"  mean cosine   {cosine:>8.4f}",
                f"  largest norm  {self.largest_norm:>8.2e}",
            ]
        if self.dominant:
            lines.append(f"  dominant      {_counted(self.dominant)}")
        if self.lags:
            lines.append(f"  lag           {_counted(self.lags)}")
        return "\n".join(lines)


def _mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _counted(counts: Counter[Any], most: int = 4) -> str:
    """Name the most frequent ones with their counts."""
    named = [f"{name} {count}" for name, count in counts.most_common(most)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(most))
    return ", ".join([*named, f"others {rest}"] if rest else named)


# ---------------------------------------------------------------------------------------------- lags


def lag_norms(trace: Trace | LayerTrace) -> NDArray[np.float64]:
    """Return, for each lag, the norm of what the step at this lag adds to dL/dW_hh.

    dL/dW_hh is a sum over the steps k at which W_hh acts, and over the batch. With da_k the gradient of the
    pre-activations of step k, and h_{k-1} the state it read, (N, H),

        norm(l) = || sum_n da_k[n] h_{k-1}[n]^T ||_F,        k = last - l

    last is the last step of the longest sequence, so that l is how far an error at the end has travelled; of a
    direction that runs from the end to the start, last is step 0, and k = l. An error that enters at other steps has
    travelled less far. Where no initial state was given, the first step adds nothing: W_hh acts on zeros there.

    Parameters
    ----------
    trace : Trace or LayerTrace
        On which a backward pass has run to its end. Of a Trace, its last layer's forward direction is taken.

    Returns
    -------
    ndarray, (T,)
        T the steps of the longest sequence.

    Raises
    ------
    OptionError, DTypeError
        There is no such backward pass; it is no trace.

    Notes
    -----
    The norm of the sum follows from products of rows, without the sum: its square is the sum over n and m of
    (da_k[n] . da_k[m]) (h_{k-1}[n] . h_{k-1}[m]): 2 T N^2 (G + 1) H operations, G the number of gates, which with N
    below H is cheaper than the matrix. Of a GRU, da_k is the gradient of W_hh h_{k-1} + b_hh; where its candidate reads
    r * h_{k-1}, the product is with h_{k-1} all the same.

    Examples
    --------
    >>> from rnn_numpy.layers import RNN
    >>> rnn = RNN(1, 4, rng=0)
    >>> output, h_n, trace = rnn.forward(np.ones((5, 1, 1)))
    >>> back = rnn.backward(trace, None, np.ones((1, 1, 4)))
    >>> lag_norms(trace).round(4)
    array([1.5706, 0.7756, 0.1999, 0.0904, 0.    ])
    """
    run = trace.top if isinstance(trace, Trace) else trace
    if not isinstance(run, LayerTrace):
        raise DTypeError(f"lag_norms: trace must be the third result of forward; got {type(trace).__name__}")
    if not run.latest.arrays or run.latest.reached is not None:
        raise OptionError("lag_norms: trace must have the gradients of a whole pass; run backward on it first")
    da = run.da_hh if "da_hh" in run.names else run.da
    before = 1 if run.reverse else 0
    h_prev = getattr(run, run.states[0])[before : before + len(run)]
    scales, products = zip(*(_inner(array) for array in (da, h_prev)), strict=True)
    norms = np.sqrt(np.maximum(np.sum(products[0] * products[1], axis=(1, 2)).real, 0)) * scales[0] * scales[1]
    alive = [t for t in range(len(run)) if run.exists(t) is None or bool(np.any(run.exists(t)))]
    by_step: NDArray[np.float64] = norms[: len(alive)]
    return by_step if run.reverse else by_step[::-1]


def _inner(array: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the largest absolute value of each step, (T,), and the products of all rows of a step with each other,
    (T, N, N), of entries divided by it, so that no square leaves the range of floats.
    """
    largest = np.max(np.abs(array), axis=(1, 2), initial=0.0)
    scale = np.where(largest > 0, largest, 1)
    rows = np.divide(array, scale[:, None, None].astype(array.dtype), order="C")
    return scale.astype(np.float64), np.matmul(rows, rows.conj().swapaxes(1, 2))
