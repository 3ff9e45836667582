r"""Gates and saturation: how far the gates of a trained or untrained net are open, and how long it remembers.

A gate is a sigmoid: near 0 it is shut, near 1 it is open, and at either end its slope s (1 - s) is small, so that it
hardly learns. Of a *keeping* gate, f of an LSTM or z of a GRU, the value itself is what remains of the cell's content,
and of its gradient, after a step (the path without weights). After n steps that is

    f_1 f_2 ... f_n = exp(-n/tau),   tau = -1/ln f,   ln f the mean of ln f_t over the steps

so a unit's *time constant* tau, in steps, follows from the geometric mean of its gate. Its *effective memory* is the
sum of what remains after 0, 1, 2, ... steps, 1/(1 - f) = 1 + f + f^2 + ...: about tau + 1/2 where f is near 1.
The chrono initialisation [1]_ rests on an identity: with a bias of ln u, sigmoid gives f = u/(1 + u), so the effective
memory is 1 + u exactly, and a bias drawn as ln U(1, T_max - 1) spreads memories evenly from 2 to T_max.

The slope of tanh
-----------------
1 - tanh(a)^2 is exactly 0 from |a| = 19 on in float64, from 10 on in float32, and wrong by 4 % at 18. As

    sech(a)^2 = 4 e^{-2|a|} / (1 + e^{-2|a|})^2

it keeps them all. What reaches the weights hardly differs, since such units contribute next to nothing: the backward
pass has no use for it, a diagnosis that asks how small the slope is has.

References
----------
.. [1] C. Tallec, Y. Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, arXiv:1804.11188, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.engine.trace import LayerTrace, Trace
from rnn_numpy.errors import DTypeError, OptionError

Floats = NDArray[np.float64]

# Sigmoid gates of the package's cells, and those that say what is kept.
SIGMOIDS = ("i", "f", "o", "r", "z")
KEEPING = ("f", "z")
# A gate below the first is counted as shut, above the second as open.
SHUT, OPEN = 0.1, 0.9


# -------------------------------------------------------------------------------------------------------------- numbers


def sech2(a: ArrayLike) -> NDArray[Any]:
    """Return the slope of tanh, 1 - tanh(a)^2, of real a, to full relative accuracy however large it is.

    >>> print(f"{sech2(18.0):.4e} {1 - np.tanh(18.0) ** 2:.4e}")
    9.2781e-16 8.8818e-16
    """
    array = np.asarray(a)
    if array.dtype.kind not in "iuf":
        raise DTypeError(f"sech2: a must be made of real numbers; got dtype {array.dtype}")
    small = np.exp(-2 * np.abs(array))
    slopes: NDArray[Any] = 4 * small / (1 + small) ** 2
    return slopes


def time_constant(f: ArrayLike) -> Floats:
    """Return -1/ln f: in how many steps a gate that stays at f, in [0, 1], leaves 1/e = 37 % of it.

    >>> time_constant([0.0, 0.5, 0.99, 1.0]).round(3).tolist()
    [0.0, 1.443, 99.499, inf]
    """
    with np.errstate(divide="ignore"):
        logs: Floats = np.log(_shares("time_constant", f))
    return _inverse(logs)


def effective_memory(f: ArrayLike) -> Floats:
    """Return 1/(1 - f): the sum of what a gate that stays at f leaves after 0, 1, 2, ... steps.

    >>> effective_memory([0.0, 0.5, 0.99, 1.0]).round(3).tolist()
    [1.0, 2.0, 100.0, inf]
    """
    return _inverse(1 - _shares("effective_memory", f))


def bias_memory(bias: ArrayLike) -> Floats:
    """Return 1 + e^b = 1/(1 - sigmoid(b)), the effective memory of a keeping gate that sees its bias alone, in steps.

    The bias is the sum of b_ih and b_hh. No difference is taken: exact to the last digit also where sigmoid(b) rounds
    to 1. Infinite above b = 709.

    >>> bias_memory(np.log([1.0, 99.0])).round(9).tolist()
    [2.0, 100.0]
    """
    with np.errstate(over="ignore"):
        memory: Floats = 1 + np.exp(np.asarray(bias, np.float64))
    return memory


def saturation(gate: ArrayLike, low: float = SHUT, high: float = OPEN) -> tuple[float, float]:
    """Return the shares of entries below `low` and above `high`; NaN of no entries.

    >>> saturation([0.05, 0.5, 0.95, 0.99])
    (0.25, 0.5)
    """
    where = "saturation"
    low, high = arguments.real_number(where, "low", low), arguments.real_number(where, "high", high)
    if low > high:
        raise OptionError(f"{where}: low must be at most high = {high}; got {low}")
    values = np.asarray(gate)
    if values.size == 0:
        return float("nan"), float("nan")
    return float(np.mean(values < low)), float(np.mean(values > high))


def _inverse(values: Floats) -> Floats:
    """Return 1/|values|, infinite where they are 0."""
    with np.errstate(divide="ignore"):
        inverse: Floats = 1 / np.abs(values)
    return inverse


def _shares(where: str, f: ArrayLike) -> Floats:
    array = np.asarray(f, np.float64)
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        raise OptionError(f"{where}: f must be in [0, 1]; got {np.atleast_1d(array)[np.atleast_1d(wrong)][0]}")
    return array


# --------------------------------------------------------------------------------------------------------------- report


@dataclass(frozen=True)
class GateSummary:
    """One gate over all steps that sequences have, all sequences and all units.

    Parameters
    ----------
    gate : str
    mean : float
    shut, open : float
        Shares of entries below and above the report's thresholds.
    mean_log : ndarray, (H,), or None
        Of a keeping gate, the mean of each unit's ln f_t. None of another gate.
    """

    gate: str
    mean: float
    shut: float
    open: float
    mean_log: Floats | None = None

    @property
    def kept(self) -> Floats | None:
        """(H,) of a keeping gate, each unit's geometric mean: its content after n steps is kept^n."""
        return None if self.mean_log is None else np.exp(self.mean_log)

    @property
    def time_constants(self) -> Floats | None:
        """(H,) of each unit of a keeping gate, in steps: -1/<ln f>."""
        return None if self.mean_log is None else _inverse(self.mean_log)

    @property
    def effective_memories(self) -> Floats | None:
        """(H,) of each unit of a keeping gate, in steps: 1/(1 - kept), without taking that difference."""
        return None if self.mean_log is None else _inverse(np.expm1(self.mean_log))

    @property
    def median_time_constant(self) -> float | None:
        """The median of the units' time constants."""
        constants = self.time_constants
        return None if constants is None else float(np.median(constants))


@dataclass(frozen=True, repr=False)
class GateReport:
    """What the gates of one layer and direction did; printed as a table.

    Parameters
    ----------
    name : str
        "l0", ...: the layer and direction.
    steps, sequences, units : int
        T, N, H.
    gates : tuple of GateSummary
    shut_below, open_above : float
        The thresholds.
    """

    name: str
    steps: int
    sequences: int
    units: int
    gates: tuple[GateSummary, ...]
    shut_below: float
    open_above: float

    def __getitem__(self, gate: str) -> GateSummary:
        for summary in self.gates:
            if summary.gate == gate:
                return summary
        raise OptionError(f"GateReport: gate must be one of {', '.join(s.gate for s in self.gates)}; got {gate!r}")

    def __repr__(self) -> str:
        below, above = f"< {self.shut_below:g}", f"> {self.open_above:g}"
        lines = [
            f"Gates of {self.name}: T = {self.steps}, N = {self.sequences}, H = {self.units}",
            f"  gate      mean {below:>9} {above:>9}",
            *(f"  {s.gate:<6} {s.mean:7.3f} {100 * s.shut:7.1f} % {100 * s.open:7.1f} %" for s in self.gates),
        ]
        keeping = [summary for summary in self.gates if summary.kept is not None]
        if keeping:
            heads = " ".join(f"{head:>8}" for head in ("10 %", "median", "90 %", "longest"))
            lines.append(f"{'Steps, over the units:':<26}{heads}")
        for s in keeping:
            for title, values in ((f"-1/ln {s.gate}", s.time_constants), (f"1/(1 - {s.gate})", s.effective_memories)):
                what = "time constant" if title.startswith("-1") else "memory"
                lines.append(f"  {what:<13} {title:<9} {_quantiles(values)}")
        return "\n".join(lines)


def _quantiles(values: Floats | None) -> str:
    ordered = np.sort(np.zeros(0) if values is None else values)
    # By rank, not between ranks: half of the way to infinity is no number.
    ranks = [round(share * (len(ordered) - 1)) for share in (0.1, 0.5, 0.9, 1.0)]
    return " ".join(f"{ordered[rank]:8.4g}" for rank in ranks)


def gate_report(
    trace: LayerTrace | Trace,
    low: float = SHUT,
    high: float = OPEN,
    gates: Sequence[str] | None = None,
    keeping: Sequence[str] = KEEPING,
) -> GateReport:
    """Sum up what the gates of a layer did in a forward pass.

    Parameters
    ----------
    trace : LayerTrace or Trace
        `trace["l0"]`, say; of a Trace, its top layer's forward direction.
    low, high : float
        Below and above them a gate counts as shut and open.
    gates : sequence of str, optional
        Arrays of the trace with values in [0, 1]. Where left out, those of i, f, o, r, z that there are: the gates of
        LSTM and GRU.
    keeping : sequence of str
        The gates whose value is the share of its content that a unit keeps.

    Raises
    ------
    OptionError
        There are no gates, as in a plain RNN, or none of such a name; a value outside of [0, 1], so that the array is
        no gate; a batch of no sequences.
    DTypeError
        It is no trace.

    Notes
    -----
    Steps beyond a sequence's length do not count. A unit whose gate was exactly 0 once has a geometric mean of 0: it
    remembers nothing across that step.

    Examples
    --------
    >>> from rnn_numpy import LSTM
    >>> _, _, trace = LSTM(2, 16, forget_bias=3.0, rng=0).forward(np.random.default_rng(1).normal(size=(40, 4, 2)))
    >>> gate_report(trace)
    Gates of l0: T = 40, N = 4, H = 16
      gate      mean     < 0.1     > 0.9
      i        0.502     0.0 %     0.0 %
      f        0.951     0.0 %    98.5 %
      o        0.488     0.0 %     0.0 %
    Steps, over the units:        10 %   median     90 %  longest
      time constant -1/ln f     17.42    21.83    24.31    25.11
      memory        1/(1 - f)   17.93    22.33    24.81    25.61
    """
    where = "gate_report"
    layer = layer_of(where, trace)
    names = [name for name in SIGMOIDS if name in layer.names] if gates is None else list(gates)
    if not names:
        raise OptionError(f"{where}: the trace of {layer.name} has no gates; it has {', '.join(layer.names)}")
    alive = existing_steps(layer)
    summaries: list[GateSummary] = []
    for name in names:
        values = gate_values(where, layer, name)
        there = values[alive]
        if there.size == 0:
            raise OptionError(f"{where}: the batch must have at least one sequence; got gates of shape {values.shape}")
        with np.errstate(divide="ignore"):
            mean_log = np.log(there).mean(axis=0) if name in keeping else None
        summaries.append(GateSummary(name, float(there.mean()), *saturation(there, low, high), mean_log))
    steps, sequences, units = values.shape
    return GateReport(layer.name, steps, sequences, units, tuple(summaries), float(low), float(high))


def layer_of(where: str, trace: LayerTrace | Trace) -> LayerTrace:
    """Return the LayerTrace that a figure or a report reads: of a Trace, its top layer's forward direction."""
    layer = trace.top if isinstance(trace, Trace) else trace
    if not isinstance(layer, LayerTrace):
        raise DTypeError(f"{where}: trace must be a Trace or a LayerTrace, as trace['l0']; got {type(trace).__name__}")
    return layer


def existing_steps(layer: LayerTrace) -> NDArray[np.bool_]:
    """Return which sequences have which steps, (T, N), in the caller's order of the sequences."""
    alive = np.ones(layer.x.shape[:2], bool)
    for t in range(len(layer)):
        exists = layer.exists(t)
        if exists is not None:
            alive[t] = exists[:, 0]
    return alive


def gate_values(where: str, layer: LayerTrace, gate: str) -> Floats:
    """Return a gate of a trace as float64, (T, N, H); refuse an array with values outside of [0, 1]."""
    if gate not in layer.names:
        raise OptionError(f"{where}: gates must be arrays of the trace, {', '.join(layer.names)}; got {gate!r}")
    values = getattr(layer, gate)
    if np.iscomplexobj(values) or not ((values >= 0) & (values <= 1)).all():
        raise OptionError(f"{where}: a gate has values in [0, 1]; {gate!r} of {layer.name} has others")
    return np.array(values, np.float64)
