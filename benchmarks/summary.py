"""From raw times to the few numbers that are printed.

Contenders are asked in rounds: in each, every one of them times a block of steps, one after the other. Load that other
programs put on the machine changes from second to second, so a block is compared with the blocks of its own round, and
the figure that counts is the median over the rounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import DTYPES, Case

Blocks = Sequence[Sequence[float]]

LOST_HIDDEN = 256
LOST_TARGET = 0.35


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contender takes as another.

    Parameters
    ----------
    median : float
        Over rounds, of the ratio of the blocks' medians.
    low, high : float
        The middle half of the rounds lies between these.
    of_minima : float
        Ratio of the shortest times of all.
    """

    median: float
    low: float
    high: float
    of_minima: float


def ratio(numerator: Blocks, denominator: Blocks) -> Ratio:
    """Compare two contenders' times, block by block.

    Parameters
    ----------
    numerator, denominator : sequence of sequences of float
        One block of times per round; equally many rounds.

    Returns
    -------
    Ratio

    Examples
    --------
    In the second round something else kept the machine busy, for both alike:

    >>> ratio([[4.0, 4.0], [8.0, 8.8]], [[2.0, 2.0], [4.0, 4.4]])
    Ratio(median=2.0, low=2.0, high=2.0, of_minima=2.0)
    """
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"ratio: both must have one block per round; got {len(numerator)} and {len(denominator)}")
    rounds = sorted(median(above) / median(below) for above, below in zip(numerator, denominator, strict=True))
    return Ratio(
        median(rounds), _quantile(rounds, 0.25), _quantile(rounds, 0.75), least(numerator) / least(denominator)
    )


def typical(blocks: Blocks) -> float:
    """Return the median over rounds of the blocks' medians."""
    return median(median(block) for block in blocks)


def least(blocks: Blocks) -> float:
    """Return the shortest time of all."""
    return min(min(block) for block in blocks)


def lost(ours: Blocks, products: Blocks) -> float:
    """Return the share of our time that is not matrix products: 1 - products / ours.

    Examples
    --------
    >>> lost([[10.0], [12.0]], [[8.0], [9.6]])
    0.2
    """
    return round(1 - ratio(products, ours).median, 12)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean.

    Examples
    --------
    >>> round(geometric_mean([0.5, 8.0]), 12)
    2.0
    """
    logs = [math.log(value) for value in values]
    if not logs:
        raise ValueError("geometric_mean: there are no values")
    return math.exp(math.fsum(logs) / len(logs))


@dataclass(frozen=True)
class Target:
    """What the ratios of a part of the grid are to reach.

    Parameters
    ----------
    cells, dtypes : sequence of str
    mode, rival : str
        Who is compared with us, doing what.
    bound : float
    mean : bool
        The bound is on the geometric mean of all points, not on each of them.
    ahead : bool
        A ratio must be above the bound, not only reach it.
    batch : int
        Only points with at least so many sequences count.
    """

    cells: Sequence[str]
    mode: str
    rival: str
    bound: float = 1.0
    dtypes: Sequence[str] = DTYPES
    mean: bool = False
    ahead: bool = False
    batch: int = 1

    def covers(self, case: Case) -> bool:
        """Return whether a case belongs to this part of the grid."""
        return (
            case.cell in self.cells
            and case.mode == self.mode
            and case.dtype in self.dtypes
            and case.size[1] >= self.batch
        )

    def reached(self, value: float) -> bool:
        """Return whether a ratio, or the mean of ratios, is high enough.

        Examples
        --------
        >>> tie = 1.0
        >>> Target(("gru",), "training", "torch").reached(tie)
        True
        >>> Target(("gru",), "training", "torch", ahead=True).reached(tie)
        False
        """
        return value > self.bound if self.ahead else value >= self.bound

    def __str__(self) -> str:
        dtypes = "" if tuple(self.dtypes) == DTYPES else ", " + ", ".join(self.dtypes)
        batch = f", N >= {self.batch}" if self.batch > 1 else ""
        bound = f"{'above' if self.ahead else 'at least'} {self.bound:g}"
        what = f"geometric mean {bound}" if self.mean else f"each {bound}"
        return f"{', '.join(self.cells)}, {self.mode}, {self.rival}{dtypes}{batch}: {what}"


RNNS = ("rnn-tanh", "rnn-relu")
TARGETS = (
    Target(RNNS, "training", "torch"),
    Target(RNNS, "training", "torch", 2.5, mean=True),
    Target(("lstm",), "training", "torch", dtypes=("float32",)),
    Target(("lstm",), "training", "torch", dtypes=("float64",), ahead=True),
    Target(("gru",), "training", "torch"),
    Target(("gru",), "training", "torch", 2.0, mean=True),
    *(
        Target(cells, mode, "jax", ahead=True, batch=8)
        for cells in (RNNS, ("lstm",), ("gru",))
        for mode in ("training", "inference")
    ),
)


def missed(case: Case, rival: str, value: float) -> bool:
    """Return whether a point's ratio misses a target that each point must reach."""
    return any(
        target.rival == rival and target.covers(case) and not target.mean and not target.reached(value)
        for target in TARGETS
    )


def lost_target(case: Case) -> float | None:
    """Return the share of a case's time that may be lost, None where there is no target."""
    return LOST_TARGET if case.cell in RNNS and case.mode == "training" and case.size[3] >= LOST_HIDDEN else None


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value at `share` of the way through `ordered`, between neighbours linearly."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
