r"""How a gradient flows back through time: does it vanish, stay, or explode?

What is measured
----------------
A network reads a window of T steps and its loss is that of the *last* step alone, so that a gradient found l steps back
has travelled exactly l steps:

    norm(l) = || dL_T / ds_{T-l} ||_2,        l = 0 ... T        (l = T is the initial state)

for each of N windows, each with its own loss. s_k is the state that step k hands to step k+1: h_k, and of an LSTM the
pair (h_k, c_k). By the chain rule (derivation in `rnn_numpy.layers.rnn`), dL_T/ds_{T-l} = P(T, T-l)^T dL_T/ds_T: the
Jacobian product whose growth or decay the lecture warns of, applied to the gradient that the last step's error really
sends. Of a stack, s is the state of the top layer.

*The gradient of a pair.* dL/ds_k is the vector of 2H numbers

    (dL/dh_k with c_k held fixed,  dL/dc_k with h_k held fixed)

as if h_k and c_k were two inputs of the rest of the net, which they are. Its two halves are what step k+1 hands back,
by the formulas of `rnn_numpy.layers.lstm`:

    dL/dh_k = W_hh^T da_{k+1}        dL/dc_k = dc_{k+1} * f_{k+1}        k < T        and (dL/dh_T, 0) for k = T,

since the loss reads h_T alone. A finished trace's row of `dc` for c_k is another vector: to dL/dc_k step k has added
dL/dh_k * o_k * (1 - tanh(c_k)^2), since c_k acts through h_k as well. Next to dL/dh_k that would count this path twice.
And h_k alone, with c_k held fixed, would leave out the path without weights, for the sake of which there is an LSTM. So
the backward pass is halted after each step (`backward_steps`), and `dh_prev` and `dc_prev` are read as they stand then;
nothing new is differentiated. For a cell with one state this is the row of `trace.dh`, bit for bit.

The norm weighs a unit of c as much as one of h. Measuring c in other units would change the norms at lags above 0 by a
factor that stays between fixed bounds however long the lag, and so hardly the decay per step over many.

How it is summed up
-------------------
- *Typical norm at a lag*: the geometric mean over the windows. A mean of squares would show the single window that
  explodes most.
- *Decay per step*: the slope of a least-squares line through log norm(l) against l; one slope per window, then their
  mean. Where all windows reach the longest lag, that is the slope of the typical norm too, since both means are linear
  in log norm.
- *Standard error*: along one window the residuals from the line are strongly autocorrelated, so the textbook error of a
  regression is far too small. Ours comes from the spread of the slopes between windows. Windows overlap where the
  series is short; then N of them are worth fewer independent ones, about n/T for n samples covered. With m the smaller
  of N and n/T,

      SE^2 = mean (slope_i - slope)^2 / (m - 1)

  which is the usual s^2/N where windows do not overlap, and the overlapping-batch-means estimate [1]_ where they do.
  There is none for m <= 1. It describes this network on other stretches of the same kind of data, not other draws of
  the network. With m of 3 or so it is itself only known to within a factor of about 2.
- *Change*: log of the typical norm at lag T, less that at lag 0. Near the loss the norm often falls or rises at another
  pace than further back, so that this is not T times the slope.
- *Verdict*: "steady" where the slope is within two standard errors of 0, or where both the change and T times the slope
  stay below a factor of 10. Otherwise "vanishing" or "exploding": by the sign of the slope where T times the slope
  reaches a factor of 10, else by the sign of the change. "diverged" where in half of the windows or more the gradient
  is not finite even at lag 0: the states or the weights are too large for a float, and there is nothing to measure.
- *Half-life*: ln 2 / |slope|, in steps; a doubling time where the slope is positive. There is none where the verdict is
  "steady" or "diverged", nor where the slope has the other sign than the verdict.
- *Reach*: the first lag at which the typical norm is a hundredth of that at lag 0, or less: how far back the last
  step's error is still felt. There is none where more is left throughout.
- *Mean gates*: of a cell with gates, the mean of each sigmoid gate of the top layer over windows, steps and units. An
  LSTM's cell keeps the share f of its content, and of its gradient, at each step; a GRU's state the share z.

Exact zeros and infinities have no logarithm, and leaving them out silently would flatter the network. A zero at lag l
is zero at all longer lags: a relu network's units were all off on the way, or the number fell below 1e-308. So a window
takes part up to the first such lag; the number of windows that ended there is reported; and where they are half or
more, the typical norm is 0 (or infinite) and the verdict is vanishing (or exploding), whatever the rest says; but
diverged where it is so from lag 0 on.

References
----------
.. [1] M. S. Meketon, B. Schmeiser, "Overlapping batch means: something for nothing?", Winter Simulation Conference
   (1984).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, states
from rnn_numpy.core.numbers import finite, plain, row_norms
from rnn_numpy.engine import CheckpointedTrace, Recurrent, Step, Trace
from rnn_numpy.errors import OptionError
from rnn_numpy.layers.initializers import identity, orthogonal
from rnn_numpy.models import Forecaster, SequenceModel
from rnn_numpy.models.sequence import LOSSES
from rnn_numpy.tasks import Batch

Floats = NDArray[np.float64]

INITS = ("uniform", "orthogonal", "identity")
# A gradient counts as steady below this change of the norm over the whole window.
STEADY_FACTOR = 10.0
# The reach of a gradient ends where this share of it is left.
REACH_SHARE = 0.01
_TINY = float(np.finfo(np.float64).tiny)


# -------------------------------------------------------------------------------------- one network: measure and sum up


@dataclass(frozen=True)
class GradientFlow:
    """Gradient norms of N windows at lags 0 ... T, and what they say. The module docstring defines every number.

    Parameters
    ----------
    norms : ndarray, (T+1, N)
        Row l: the norm at lag l, window by window.
    independent : float
        The number of independent windows that the N are worth, between 0 and N.
    gates : mapping of str to float
        Mean of each sigmoid gate; empty for a cell without.

    Examples
    --------
    Norms that halve at each step:

    >>> flow = GradientFlow(0.5 ** np.arange(21.0)[:, None] * np.array([1.0, 3.0]), independent=2)
    >>> round(flow.slope, 6), round(flow.half_life, 6), flow.verdict
    (-0.693147, 1.0, 'vanishing')
    >>> flow.hundredth_at  # 1/64 is left after 6 steps, 1/128 after 7
    7
    """

    norms: Floats
    independent: float
    gates: Mapping[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """T, the longest lag."""
        return len(self.norms) - 1

    @property
    def count(self) -> int:
        """N."""
        return len(self.norms[0])

    @cached_property
    def reach(self) -> NDArray[np.intp]:
        """(N,) how many lags, from 0 on, have a norm whose logarithm is a number; T+1 where all have."""
        usable = (self.norms >= _TINY) & np.isfinite(self.norms)
        return np.where(usable.all(axis=0), len(usable), usable.argmin(axis=0))

    @cached_property
    def _ended(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(N,) twice: windows whose norm falls to zero; windows whose norm leaves the float range."""
        short = self.reach <= self.length
        last = self.norms[np.minimum(self.reach, self.length), np.arange(self.count)]
        vanished = short & (last < _TINY)
        return vanished, short & ~vanished

    @property
    def vanished(self) -> int:
        """Number of windows whose gradient becomes exactly zero, or smaller than a float can hold."""
        return int(self._ended[0].sum())

    @property
    def overflowed(self) -> int:
        """Number of windows whose gradient, or whose states, grow larger than a float can hold."""
        return int(self._ended[1].sum())

    @property
    def vanished_at(self) -> int | None:
        """The median lag of the first zero, of the windows that have one."""
        return int(np.median(self.reach[self._ended[0]])) if self.vanished else None

    @cached_property
    def _alive(self) -> NDArray[np.bool_]:
        """(T+1, N) which norms take part."""
        return np.arange(self.length + 1)[:, None] < self.reach

    @cached_property
    def _log_typical(self) -> Floats:
        """(T+1,) mean over the windows of log norm, of those that take part; 0 where none does."""
        logs = np.where(self._alive, np.log(np.where(self._alive, self.norms, 1.0)), 0.0)
        return np.asarray(logs.sum(axis=1) / np.maximum(self._alive.sum(axis=1), 1))

    @cached_property
    def typical(self) -> Floats:
        """(T+1,) geometric mean over the windows; 0 or infinity where half of the windows or more have ended so."""
        alive = self._alive
        with np.errstate(over="ignore"):  # rounding may lift the mean of the largest floats above them
            typical: Floats = np.exp(self._log_typical)
        vanished, overflowed = self._ended
        typical[2 * (~alive & overflowed).sum(axis=1) >= self.count] = np.inf
        typical[2 * (~alive & vanished).sum(axis=1) >= self.count] = 0.0
        return typical

    @cached_property
    def slopes(self) -> Floats:
        """Slope of log norm per step, of each window that has at least two usable lags."""
        slopes: list[float] = []
        for reach, norms in zip(self.reach.tolist(), self.norms.T, strict=True):
            if reach >= 2:
                lag = np.arange(reach) - (reach - 1) / 2
                slopes.append(float(lag @ np.log(norms[:reach]) / (lag @ lag)))
        return np.array(slopes)

    @property
    def slope(self) -> float | None:
        """Decay (negative) or growth (positive) of log norm per step back in time. None if no window can say."""
        return float(self.slopes.mean()) if self.slopes.size else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of the slope. None where the windows are worth no more than one."""
        worth = min(self.independent, float(self.slopes.size))
        if worth <= 1:
            return None
        return math.sqrt(float(self.slopes.var()) / (worth - 1))

    @property
    def change(self) -> float | None:
        """Log of the typical norm at the longest lag, less that at lag 0. None where either is zero or infinite."""
        if 2 * self.vanished >= self.count or 2 * self.overflowed >= self.count:
            return None
        return float(self._log_typical[-1] - self._log_typical[0])

    @property
    def half_life(self) -> float | None:
        """Steps in which the norm halves, or doubles where the slope is positive. None where the verdict is not that
        of the slope."""
        sign = {"vanishing": -1, "exploding": 1}.get(self.verdict, 0)
        return math.log(2) / abs(self.slope) if self.slope and self.slope * sign > 0 else None

    @property
    def hundredth_at(self) -> int | None:
        """The reach: the first lag with a typical norm of at most a hundredth of that at lag 0. None where more is
        left at the longest lag, and where there is nothing to measure."""
        typical = self.typical
        if not 0 < typical[0] < np.inf:
            return None
        below = typical <= REACH_SHARE * typical[0]
        return int(below.argmax()) if below.any() else None

    @property
    def verdict(self) -> str:
        """ "vanishing", "steady", "exploding" or "diverged"."""
        if 2 * int((self._ended[1] & (self.reach == 0)).sum()) >= self.count:
            return "diverged"
        if 2 * self.overflowed >= self.count:
            return "exploding"
        change, slope, error = self.change, self.slope or 0.0, self.standard_error
        if change is None:
            return "vanishing"
        trend, factor = slope * self.length, math.log(STEADY_FACTOR)
        if (error is not None and abs(slope) <= 2 * error) or max(abs(trend), abs(change)) < factor:
            return "steady"
        leading = trend if abs(trend) >= factor else change
        return "vanishing" if leading < 0 else "exploding"

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python ones; what is not finite as None."""
        return {
            "typical_norm": plain(self.typical),
            "windows": self.count,
            "independent_windows": self.independent,
            "windows_with_zero_gradient": self.vanished,
            "median_lag_of_first_zero": self.vanished_at,
            "windows_overflowed": self.overflowed,
            "lags_used": self.reach.tolist(),
            "slope_per_step": self.slope,
            "slope_standard_error": self.standard_error,
            "slope_of_each_window": plain(self.slopes),
            "log_change_to_longest_lag": self.change,
            "half_life_or_doubling_time": self.half_life,
            "lag_of_a_hundredth": self.hundredth_at,
            "mean_gates": {gate: finite(mean) for gate, mean in self.gates.items()},
            "verdict": self.verdict,
        }


def gradient_flow(layer: Recurrent, x: ArrayLike, dh_last: ArrayLike, independent: float | None = None) -> GradientFlow:
    """Send a gradient back from the last step of a recurrent layer and measure what arrives at each lag.

    Parameters
    ----------
    layer : RNN, LSTM, GRU
        One direction: in a bidirectional one a gradient reaches every step both ways, and a lag means nothing.
    x : ndarray, (T, N, D), or (N, T, D) where the layer is batch_first
        N windows.
    dh_last : ndarray, (N, H)
        dL_n/dh_T: of each window's own loss with respect to the top layer's last output.
    independent : float, optional
        What the N windows are worth in independent ones; N where left out.

    Returns
    -------
    GradientFlow
        Norms of the whole state's gradient: of an LSTM, that of h and that of c together.

    Notes
    -----
    Cost: two forward passes, and the backward pass of the top layer. Memory does not grow with T but by x, the norms
    and, of a stack, the outputs of the layers below the top one. With proj_size, h has P numbers and c has H.

    Examples
    --------
    >>> from rnn_numpy import LSTM, RNN
    >>> flow = gradient_flow(RNN(1, 8, rng=0), np.zeros((30, 1, 1)), np.ones((1, 8)))
    >>> flow.norms.shape, flow.verdict
    ((31, 1), 'vanishing')
    >>> closed, opened = LSTM(1, 8, rng=0), LSTM(1, 8, forget_bias=3.0, rng=0)
    >>> [gradient_flow(lstm, np.zeros((200, 1, 1)), np.ones((1, 8))).hundredth_at for lstm in (closed, opened)]
    [11, 31]
    """
    where = "gradient_flow"
    if layer.bidirectional:
        raise OptionError(f"{where}: layer must have one direction; got a bidirectional {type(layer).__name__}")
    # Here and below: an overflow or a NaN is a finding to report, not a mistake to warn about.
    with np.errstate(all="ignore"):
        # Block by block: the record of a long window need not exist at once.
        _, h_n, trace = layer.forward(x, training=False, checkpoint=1, outputs=False)
        last = np.asarray(dh_last)
        arguments.shaped(where, "dh_last", last, "(N, H)", states.split(h_n)[0].shape[1:])
        sigmoids = [gate for gate in layer.cell.gate_names if gate in layer.cell.sigmoids]
        sums = dict.fromkeys(sigmoids, 0.0)

        def add(step: Step) -> None:
            for gate in sigmoids:
                sums[gate] += float(getattr(step, gate).mean())

        norms = flow_norms(layer, trace, last, visit=add)[0]
        gates = {gate: total / len(trace) for gate, total in sums.items()}
    return GradientFlow(norms, float(norms.shape[1]) if independent is None else independent, gates)


def flow_norms(
    layer: Recurrent,
    trace: Trace | CheckpointedTrace,
    dh_last: NDArray[Any],
    below: bool = False,
    visit: Callable[[Step], None] | None = None,
) -> list[Floats]:
    """Return the norms by lag, (T+1, N), of the top layer; with `below` those of the layers below it as well; `visit`
    is called with each step.

    The loss reads the last step's h, (N, H), and nothing else. The top layer comes first, and without `below` the pass
    ends there. An array belongs to its step only while the pass is halted at it: the step before will add to dc_prev.
    """
    T = len(trace)

    def doutput(steps: range) -> NDArray[Any]:
        found = np.zeros((len(steps), *dh_last.shape), layer.dtype)
        if steps.stop == T:
            found[-1] = dh_last
        return found.swapaxes(0, 1) if layer.batch_first else found

    loss = doutput(range(T)) if isinstance(trace, Trace) else lambda steps, output: doutput(steps)
    rows: dict[int, list[Floats]] = {}
    for step in islice(layer.backward_steps(trace, loss), T * (layer.num_layers if below else 1)):
        found = rows.setdefault(step.layer, [])
        if not found:
            others = [np.zeros_like(getattr(step, state)) for state in layer.cell.states[1:]]
            found.append(_norms([step.dh, *others]))
        found.append(_norms([getattr(step, f"d{state}_prev") for state in layer.cell.states]))
        if visit is not None:
            visit(step)
    return [np.stack(found) for found in rows.values()]


def _norms(parts: list[NDArray[Any]]) -> Floats:
    # In one order in memory, and so summed in one order, however the engine lays its arrays out.
    return row_norms(np.ascontiguousarray(np.concatenate(parts, axis=-1)))


def last_step_gradient(model: SequenceModel, h_last: NDArray[Any], target: ArrayLike) -> NDArray[Any]:
    """Return dL_n/dh_T, (N, H): each sequence has the loss of its last step to itself, not their mean."""
    prediction, trace = model.readout.forward(h_last)
    dprediction = LOSSES[model.loss](prediction, target)[1] * len(prediction)
    return model.readout.backward(trace, dprediction).dx


def forecast_gradient_flow(model: Forecaster, windows: Batch, independent: float | None = None) -> GradientFlow:
    """Measure the gradient flow of a forecaster's squared error at the last step of each window, as `gradient_flow`."""
    with np.errstate(all="ignore"):
        h_last = states.split(model.rnn.forward(windows.x, training=False, checkpoint=1, outputs=False)[1])[0][-1]
        dh_last = last_step_gradient(model, h_last, windows.target[-1])
    return gradient_flow(model.rnn, windows.x, dh_last, independent)


def set_recurrent_weights(layer: Recurrent, gain: float, init: str, rng: np.random.Generator | int | None) -> None:
    """Give the recurrent weights of every layer a known spectral radius.

    The W_hh (4H, H) of an LSTM, and (3H, H) of a GRU, has no eigenvalues: it is a stack of one matrix (H, H) for each
    gate. Each of them gets the spectral radius. torch's default gives about 0.58 = 1/sqrt(3), for large H, to each.

    Parameters
    ----------
    layer : RNN, LSTM without projection, GRU
        Its weight_hh are overwritten, the block of each gate by itself; biases stay as they are.
    gain : float
        Spectral radius: the largest absolute eigenvalue. Greater than 0.
    init : {"uniform", "orthogonal", "identity"}
        "uniform": scale the weights that are there (the constructor drew them from a uniform distribution), not all 0.
        "orthogonal": gain times a random orthogonal matrix, which keeps the length of every vector but for the gain.
        "identity": gain times the identity, as in the IRNN [1]_.
    rng : numpy.random.Generator, int or None
        Draws the orthogonal matrices.

    References
    ----------
    .. [1] Q. V. Le, N. Jaitly, G. E. Hinton, "A simple way to initialize recurrent networks of rectified linear units",
       arXiv:1504.00941 (2015).

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> rnn = RNN(2, 5, rng=0)
    >>> set_recurrent_weights(rnn, 1.5, "uniform", rng=None)
    >>> round(float(np.abs(np.linalg.eigvals(rnn.params["weight_hh_l0"])).max()), 12)
    1.5
    """
    where = "set_recurrent_weights"
    gain = arguments.positive_number(where, "gain", gain)
    arguments.one_of(where, "init", init, INITS)
    rng = arguments.generator(where, rng)
    H = layer.hidden_size
    if getattr(layer, "proj_size", 0):
        raise OptionError(
            f"{where}: layer must have no projection: blocks of weight_hh that are not square have no radius"
        )
    for name, weight in layer.params.items():
        if not name.startswith("weight_hh"):
            continue
        for block in weight.reshape(-1, H, H):
            if init == "uniform":
                radius = float(np.abs(np.linalg.eigvals(block)).max())
                if radius == 0:
                    raise OptionError(f"{where}: {name} has spectral radius 0 and cannot be scaled")
                block *= gain / radius
            else:
                rule = orthogonal if init == "orthogonal" else identity
                block[...] = rule((H, H), gain, rng)
