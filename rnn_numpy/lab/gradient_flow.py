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
  explodes most. *Peak*: its largest value, and the lag at which it stands.
- *What is left*: the first lags at which the typical norm is a half, a tenth, a hundredth of that at lag 0, or less.
  There is none where more is left throughout. The last one is the *reach*: how far back the error is still felt.
- *Slope*: that of a least-squares line through log norm(l) against l; one slope per window, then their mean. Where all
  windows reach the longest lag, that is the slope of the typical norm too, since both means are linear in log norm.
  *Early slope*: that of the first tenth of the lags, of two steps at least; *late slope*: that of their second half.
- *Standard error*: along one window the residuals from the line are strongly autocorrelated, so the textbook error of a
  regression is far too small. Ours comes from the spread of the slopes between windows. Windows overlap where the
  series is short; then N of them are worth fewer independent ones, about n/T for n samples covered. With m the smaller
  of N and n/T,

      SE^2 = mean (slope_i - slope)^2 / (m - 1)

  which is the usual s^2/N where windows do not overlap, and the overlapping-batch-means estimate [1]_ where they do.
  There is none for m <= 1. It describes this network on other stretches of the same kind of data, not other draws of
  the network, whose spread may be many times as wide: for that, draw it again. With m of 3 or so it is itself only
  known to within a factor of about 2.
- *One number or two*: the slope describes a decay that goes on at one pace. No exponential fits where the typical norm
  leaves its own line by a factor of 1.25 somewhere, late and early slope differ by more than two standard errors, and
  either by a factor of 2 or in sign, or that departure is, in logs, a seventh of all that the norm changes. Then there
  is no half-life, and the lags and the two slopes are what to look at.
- *Half-life*: ln 2 / |slope|, in steps; a doubling time where the slope is positive. There is one where an exponential
  fits, the slope is more than two standard errors from 0, and the verdict is that of its sign.
- *Change*: log of the typical norm at lag T, less that at lag 0. Near the loss the norm often falls or rises at another
  pace than further back, so that this is not T times the slope. Its standard error is found as that of the slope.
- *Mean gates*: of a cell with gates, the mean of each sigmoid gate of the top layer over windows, steps and units. An
  LSTM's cell keeps the share f of its content, and of its gradient, at each step; a GRU's state the share z.

The verdict
-----------
"Sure" is what is more than two standard errors from 0, or has none. In this order:

- *diverged*: in half of the windows or more the gradient is not finite even at lag 0: the states or the weights are too
  large for a float, and there is nothing to measure;
- *mixed*: in a quarter of the windows or more it grows tenfold, and in a quarter it falls to a tenth or ends at zero;
- *exploding*, *cut off*, *vanishing*: in half of the windows or more it leaves the range of floats; is exactly zero
  from some lag on, where a hundredth of it or more was left one lag before; is zero after it had become less than that;
- *vanishing*, *exploding*: over the T lags, slope or change make a factor of 10, and are sure;
- *uneven*: a factor of 10 somewhere, but neither slope nor change is sure: it goes up and down, or differs from window
  to window;
- *fading*, *growing*: less than a factor of 10, but more than a hundredth, and the slope is sure;
- *steady*: the rest.

Exact zeros and infinities have no logarithm, and leaving them out silently would flatter the network. A zero at lag l
is zero at all longer lags: a relu network's units were all off on the way, or the number fell below 1e-308. So a window
takes part up to the first such lag; the number of windows that ended there is reported; and where they are half or
more, the typical norm is 0 (or infinite).

What is in less than float64 is measured in float64: below 1e-38 float32 has fewer digits at each step, then none.

References
----------
.. [1] M. S. Meketon, B. Schmeiser, "Overlapping batch means: something for nothing?", Winter Simulation Conference
   (1984).
"""

from __future__ import annotations

import math
from collections import Counter
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

TOGETHER = 256  # steps whose norms are taken in one call
RECORDED = 2**20  # entries of the gates of all layers and steps, up to which a forward pass keeps its record
INITS = ("uniform", "orthogonal", "identity")
VERDICTS = ("vanishing", "cut off", "fading", "steady", "growing", "exploding", "uneven", "mixed", "diverged")
# A gradient vanishes or explodes from this change of the norm over the whole window on.
STEADY_FACTOR = 10.0
# And it neither fades nor grows below this one.
LEVEL_FACTOR = 1.01
# The reach of a gradient ends where this share of it is left.
REACH_SHARE = 0.01
# No exponential fits where it is off by this factor, and early and late slope differ by the other one, or it is off by
# such a share of the whole change.
OFF_LINE, TWO_PACES, OFF_SHARE = 1.25, 2.0, 1 / 7


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
    >>> flow.half_at, flow.tenth_at, flow.hundredth_at  # 1/64 is left after 6 steps, 1/128 after 7
    (1, 4, 7)

    Norms that halve ten times and then stay have no half-life:

    >>> flow = GradientFlow(0.5 ** np.minimum(np.arange(101.0), 10)[:, None] * np.ones(2), independent=2)
    >>> flow.half_life, flow.exponential, round(flow.early_slope, 2), abs(flow.late_slope) < 1e-15
    (None, False, -0.69, True)
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
    def _tiny(self) -> float:
        """The smallest norm that has all its digits."""
        return float(np.finfo(self.norms.dtype).tiny)

    @cached_property
    def reach(self) -> NDArray[np.intp]:
        """(N,) how many lags, from 0 on, have a norm whose logarithm is a number; T+1 where all have."""
        usable = (self.norms >= self._tiny) & np.isfinite(self.norms)
        return np.where(usable.all(axis=0), len(usable), usable.argmin(axis=0))

    @cached_property
    def _ended(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(N,) twice: windows whose norm falls to zero; windows whose norm leaves the float range."""
        short = self.reach <= self.length
        last = self.norms[np.minimum(self.reach, self.length), np.arange(self.count)]
        vanished = short & (last < self._tiny)
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

    @property
    def peak(self) -> float:
        """The largest typical norm."""
        return float(self.typical.max())

    @property
    def peak_at(self) -> int:
        """The lag of it, the first one."""
        return int(self.typical.argmax())

    def left_at(self, share: float) -> int | None:
        """Return the first lag with a typical norm of at most a share of that at lag 0. None where more is left at all
        lags, and where there is nothing to measure."""
        typical = self.typical
        if not 0 < typical[0] < np.inf:
            return None
        below = typical <= share * typical[0]
        return int(below.argmax()) if below.any() else None

    @property
    def half_at(self) -> int | None:
        """The first lag at which a half of the typical norm is left, or less."""
        return self.left_at(0.5)

    @property
    def tenth_at(self) -> int | None:
        """The first lag at which a tenth is left, or less."""
        return self.left_at(0.1)

    @property
    def hundredth_at(self) -> int | None:
        """The reach: the first lag at which a hundredth is left, or less."""
        return self.left_at(REACH_SHARE)

    @cached_property
    def _logs(self) -> list[Floats]:
        """Log norm by lag, of each window that has at least two usable lags."""
        pairs = zip(self.reach.tolist(), self.norms.T, strict=True)
        return [np.log(norms[:reach]) for reach, norms in pairs if reach >= 2]

    @cached_property
    def slopes(self) -> Floats:
        """Slope of log norm per step, of each window that has at least two usable lags."""
        return np.array([slope_of(logs) for logs in self._logs])

    @cached_property
    def _paces(self) -> Floats:
        """(2, ·) early and late slope, of each window that has at least four usable lags."""
        logs = [logs for logs in self._logs if len(logs) >= 4]
        early = [slope_of(row[: max(3, math.ceil(len(row) / 10))]) for row in logs]
        return np.array([early, [slope_of(row[(len(row) - 1) // 2 :]) for row in logs]])

    @property
    def slope(self) -> float | None:
        """Decay (negative) or growth (positive) of log norm per step back in time. None if no window can say."""
        return _mean(self.slopes)

    @property
    def early_slope(self) -> float | None:
        """The slope over the first tenth of the lags."""
        return _mean(self._paces[0])

    @property
    def late_slope(self) -> float | None:
        """The slope over the second half of the lags."""
        return _mean(self._paces[1])

    @property
    def standard_error(self) -> float | None:
        """Standard error of the slope. None where the windows are worth no more than one."""
        return self._error(self.slopes)

    def _error(self, values: Floats) -> float | None:
        """Return the standard error of the mean of what each window says."""
        worth = min(self.independent, float(values.size))
        return None if worth <= 1 else math.sqrt(float(values.var()) / (worth - 1))

    @cached_property
    def _misfit(self) -> tuple[float, float]:
        """The farthest, in log norm, that the typical norm is from its own least-squares line; and how far it goes."""
        usable = (self.typical >= self._tiny) & np.isfinite(self.typical)
        logs = np.log(self.typical[: len(usable) if usable.all() else int(usable.argmin())])
        if len(logs) < 3:
            return 0.0, 0.0
        lags = np.arange(len(logs)) - (len(logs) - 1) / 2
        return float(np.abs(logs - logs.mean() - slope_of(logs) * lags).max()), float(np.ptp(logs))

    @property
    def exponential(self) -> bool:
        """False where no single slope describes the norms; True also where nothing speaks against one."""
        (early, late), (off, whole) = self._paces, self._misfit
        if (
            not early.size
            or off <= math.log(OFF_LINE)
            or not _sure(float((late - early).mean()), self._error(late - early))
        ):
            return True
        first, last = float(early.mean()), float(late.mean())
        alike = first * last > 0 and max(abs(first), abs(last)) < TWO_PACES * min(abs(first), abs(last))
        return alike and off < OFF_SHARE * whole

    @property
    def change(self) -> float | None:
        """Log of the typical norm at the longest lag, less that at lag 0. None where either is zero or infinite."""
        if 2 * self.vanished >= self.count or 2 * self.overflowed >= self.count:
            return None
        return float(self._log_typical[-1] - self._log_typical[0])

    @property
    def half_life(self) -> float | None:
        """Steps in which the norm halves, or doubles where the slope is positive. None where no exponential fits, the
        slope is not sure, or the verdict is not that of its sign."""
        sign = {"vanishing": -1, "fading": -1, "growing": 1, "exploding": 1}.get(self.verdict, 0)
        slope = self.slope
        if slope is None or slope * sign <= 0 or not self.exponential or not _sure(slope, self.standard_error):
            return None
        return math.log(2) / abs(slope)

    @cached_property
    def kinds(self) -> Mapping[str, int]:
        """How many windows are "diverged", "exploding", "vanishing", "cut off" or "level", each by itself."""
        kinds: Counter[str] = Counter()
        for window, (reach, norms) in enumerate(zip(self.reach.tolist(), self.norms.T, strict=True)):
            change = math.log(norms[reach - 1]) - math.log(norms[0]) if reach else 0.0
            if self._ended[1][window]:
                kinds["exploding" if reach else "diverged"] += 1
            elif self._ended[0][window]:
                kinds["vanishing" if change < math.log(REACH_SHARE) else "cut off"] += 1
            else:
                kinds[_direction(change) if abs(change) >= math.log(STEADY_FACTOR) else "level"] += 1
        return kinds

    @cached_property
    def verdict(self) -> str:
        """One of `VERDICTS`, which the module docstring defines."""
        count, kinds = self.count, self.kinds
        if 2 * kinds["diverged"] >= count:
            return "diverged"
        if 4 * kinds["exploding"] >= count and 4 * (kinds["vanishing"] + kinds["cut off"]) >= count:
            return "mixed"
        if 2 * self.overflowed >= count:
            return "exploding"
        change, slope, error = self.change, self.slope or 0.0, self.standard_error
        if change is None:
            return "cut off" if 2 * kinds["cut off"] >= self.vanished else "vanishing"
        factor, trend, T = math.log(STEADY_FACTOR), slope * self.length, self.length
        whole = self.norms[:, self.reach > T]
        changes = np.log(whole[-1]) - np.log(whole[0])
        if abs(trend) >= factor and _sure(slope, error):
            return _direction(trend)
        if abs(change) >= factor and _sure(change, self._error(changes)):
            return _direction(change)
        logs = self._log_typical - self._log_typical[0]
        if max(abs(trend), float(np.abs(logs).max())) >= factor:
            return "uneven"
        if abs(trend) >= math.log(LEVEL_FACTOR) and error is not None and _sure(slope, error):
            return "fading" if slope < 0 else "growing"
        return "steady"

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
            "early_slope": self.early_slope,
            "late_slope": self.late_slope,
            "one_exponential_fits": self.exponential,
            "half_life_or_doubling_time": self.half_life,
            "lag_of_a_half": self.half_at,
            "lag_of_a_tenth": self.tenth_at,
            "lag_of_a_hundredth": self.hundredth_at,
            "peak": finite(self.peak),
            "lag_of_the_peak": self.peak_at,
            "kinds_of_windows": dict(self.kinds),
            "mean_gates": {gate: finite(mean) for gate, mean in self.gates.items()},
            "verdict": self.verdict,
        }


def slope_of(logs: Floats) -> float:
    """Return the slope of a least-squares line through numbers at lags 0, 1, ..."""
    lag = np.arange(len(logs)) - (len(logs) - 1) / 2
    return float(lag @ logs / (lag @ lag))


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def _sure(value: float, error: float | None) -> bool:
    """Return whether a number is more than two standard errors from 0, or has none."""
    return error is None or abs(value) > 2 * error


def _direction(change: float) -> str:
    return "vanishing" if change < 0 else "exploding"


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
    A layer in float32 is measured in float64. Cost: two forward passes, and the backward pass of the top layer. Memory
    does not grow with T but by x, the norms and, of a stack, the outputs of the layers below the top one. With
    proj_size, h has P numbers and c has H.

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
        raise OptionError(
            f"{where}: layer must have one direction; got a bidirectional {type(layer).__name__}. Take one of them, "
            "with rnn_numpy.interop.one_direction"
        )
    largest = float(np.finfo(layer.dtype).max)
    # Here and below: an overflow or a NaN is a finding to report, not a mistake to warn about.
    with np.errstate(all="ignore"):
        layer, x = in_float64(where, layer, x)
        # Block by block where the record is long: it need not exist at once.
        width = layer.num_layers * len(layer.cell.gate_names) * layer.hidden_size
        whole = x.size // layer.input_size * width <= RECORDED
        _, h_n, trace = layer.forward(x, training=False, checkpoint=None if whole else 1, outputs=whole)
        last = np.asarray(dh_last)
        arguments.shaped(where, "dh_last", last, "(N, H)", states.split(h_n)[0].shape[1:])
        last = np.where((np.abs(states.split(h_n)[0][-1]) <= largest).all(axis=1, keepdims=True), last, np.nan)
        sigmoids = [gate for gate in layer.cell.gate_names if gate in layer.cell.sigmoids]
        sums = dict.fromkeys(sigmoids, 0.0)

        def add(step: Step) -> None:
            if step.index == len(step.recorded) - 1:  # once for all steps that are recorded together
                for gate in sigmoids:
                    sums[gate] += float(getattr(step.recorded, gate).mean()) * len(step.recorded)

        norms = flow_norms(layer, trace, last, visit=add)[0]
        gates = {gate: total / len(trace) for gate, total in sums.items()}
    return GradientFlow(norms, float(norms.shape[1]) if independent is None else independent, gates)


def in_float64(where: str, layer: Recurrent, x: ArrayLike) -> tuple[Recurrent, NDArray[Any]]:
    """Return a layer and its input; where it has fewer digits than float64, copies that have those."""
    given, wide = arguments.array_of(where, "x", x, layer.dtype), np.result_type(layer.dtype, np.float64)
    return (layer, given) if layer.dtype == wide else (layer.astype(wide), given.astype(wide))


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
    T, cell = len(trace), layer.cell

    def doutput(steps: range) -> NDArray[Any]:
        found = np.zeros((len(steps), *dh_last.shape), layer.dtype)
        if steps.stop == T:
            found[-1] = dh_last
        return found.swapaxes(0, 1) if layer.batch_first else found

    loss = doutput(range(T)) if isinstance(trace, Trace) else lambda steps, output: doutput(steps)
    widths = [layer.width(state) for state in cell.states]
    stops = np.cumsum(widths).tolist()
    columns = [slice(stop - width, stop) for stop, width in zip(stops, widths, strict=True)]
    places = [(f"d{state}", place) for state, place in zip(cell.states, columns, strict=True)]
    norms: list[list[Floats]] = []
    # Stacked, rows are in one order in memory, and so summed in one order, however the engine lays its arrays out.
    rows, count = np.zeros((min(T + 1, TOGETHER), len(dh_last), stops[-1]), layer.dtype), 0
    for number, step in enumerate(islice(layer.backward_steps(trace, loss), T * (layer.num_layers if below else 1))):
        arrays = (step.gradients or step.recorded.latest).arrays
        if number % T == 0:
            norms.append([])
            rows[0], count = 0, 1
            rows[0, :, columns[0]] = step.dh
        for name, place in places:
            rows[count, :, place] = arrays[name][step.index]  # row index + 1 is that of the state after the step
        count += 1
        if visit is not None:
            visit(step)
        if count == len(rows) or number % T == T - 1:
            norms[-1].append(row_norms(rows[:count]))
            count = 0
    return [np.concatenate(found) for found in norms]


def last_step_gradient(model: SequenceModel, h_last: NDArray[Any], target: ArrayLike) -> NDArray[Any]:
    """Return dL_n/dh_T, (N, H): each sequence has the loss of its last step to itself, not their mean."""
    prediction, trace = model.readout.forward(h_last)
    dprediction = LOSSES[model.loss](prediction, target)[1] * len(prediction)
    return model.readout.backward(trace, dprediction).dx


def forecast_gradient_flow(model: Forecaster, windows: Batch, independent: float | None = None) -> GradientFlow:
    """Measure the gradient flow of a forecaster's squared error at the last step of each window, as `gradient_flow`."""
    with np.errstate(all="ignore"):
        wide = np.result_type(model.params.flat.dtype, np.float64)
        if model.params.flat.dtype != wide:
            model, windows = model.astype(wide), Batch(windows.x.astype(wide), windows.target.astype(wide))
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
