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

Blocks = Sequence[Sequence[float]]

TIE_HIDDEN = 512  # from this H on the matrix product is everything
TIE_RATIO = 0.95
LOST_HIDDEN = 256
LOST_TARGET = 0.35
MEAN_TARGET = 2.5


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


def ratio_target(hidden: int) -> float:
    """Return the ratio that a point of the grid must reach; 0.95 counts as a tie where H >= 512."""
    return TIE_RATIO if hidden >= TIE_HIDDEN else 1.0


def lost_target(hidden: int) -> float | None:
    """Return the share that may be lost, None where there is no target."""
    return LOST_TARGET if hidden >= LOST_HIDDEN else None


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value at `share` of the way through `ordered`, between neighbours linearly."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
