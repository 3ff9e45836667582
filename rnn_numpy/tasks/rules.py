r"""What each symbol of a source is replaced by, given its neighbours: the baseline where both have one order.

A source symbol writes e, 0 to `longest` symbols of the target. How a pair is divided is found by hard
expectation-maximisation [1]_. With n(s, e) the times that symbol s wrote e, E the number of e there could be, and
c(i, j) the least cost of writing the first j symbols of the target y by the first i of the source s,

    (1)  cost(s, e) = -ln (n(s, e) + 1) / (sum_e' n(s, e') + E)
    (2)  c(i, j) = min_a  c(i - 1, j - a) + cost(s_i, y_{j-a+1} ... y_j)         the best a of each (i, j) is remembered
    (3)  the way back from c(S, T) divides the pair; what it counts is n of the next pass

In the first pass e costs (a - T / S)^2, a its length: all symbols write alike. Pairs with T > longest S are left out.
After the last pass, for each window of k source symbols to either side of the middle one, k = 0, 1, ..., the most
frequent e of the middle one is kept, the first of equally frequent ones in the order of their ids. The widest window
that has been seen answers. It is a baseline in earnest: a decision list, as letter-to-sound rules are.

References
----------
.. [1] S. Jiampojamarn, G. Kondrak, T. Sherif, "Applying many-to-many alignments and hidden Markov models to
   letter-to-phoneme conversion", NAACL-HLT (2007), section 3, there with sums in place of the best way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.symbols import PAD
from rnn_numpy.errors import OptionError

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

PASSES = 5
TOGETHER = 4096  # pairs that are divided in one go
LARGEST = 2**62  # of the numbers that stand for windows and for what is written


class Rules:
    """Rules of replacement, counted in pairs; see the module.

    Parameters
    ----------
    source : int ndarray, (S, N)
        PAD after the end of each.
    source_lengths : int ndarray, (N,)
    target : int ndarray, (T, N)
        What follows the target's length, such as EOS, is not looked at.
    target_lengths : int ndarray, (N,)
        Without EOS.
    longest : int
        The most symbols that one symbol of the source writes.
    neighbours : int
        The most symbols to either side that a rule looks at.

    Attributes
    ----------
    divided : int
        Pairs that could be divided, and were counted.

    Examples
    --------
    >>> source, target = np.array([[3, 3], [4, 5]]), np.array([[7, 8], [9, 8]])  # 3 writes 7 before 4, 8 before 5
    >>> rules = Rules(source, np.array([2, 2]), target, np.array([2, 2]), longest=1)
    >>> [ids.tolist() for ids in rules(np.array([[3, 3, 5], [5, 4, 3]]), np.array([2, 2, 1]))]
    [[8, 8], [7, 9], [8]]
    """

    def __init__(
        self, source: Ids, source_lengths: Ids, target: Ids, target_lengths: Ids, longest: int, neighbours: int = 4
    ) -> None:
        where = "Rules"
        self.longest = arguments.positive_int(where, "longest", longest)
        self.neighbours = arguments.step_count(where, "neighbours", neighbours)
        # Windows and what is written are numbers in these bases, PAD where there is nothing.
        self.base, self.written = int(source.max()) + 1, int(target.max()) + 1
        largest = max(self.base ** (2 * self.neighbours + 1), self.base * self.written**self.longest)
        if largest > LARGEST:
            raise OptionError(f"{where}: neighbours and longest are too large for {self.base} source symbols")
        fits = np.flatnonzero(target_lengths <= self.longest * source_lengths)
        self.divided = len(fits)
        order = fits[np.lexsort([target_lengths[fits], source_lengths[fits]])]
        chunks = [order[start : start + TOGETHER] for start in range(0, len(order), TOGETHER)]
        cut = [
            (
                source[: source_lengths[rows].max(), rows], source_lengths[rows],
                target[: target_lengths[rows].max(initial=0), rows], target_lengths[rows],
            )
            for rows in chunks
        ]  # fmt: skip
        spoken = self.written**self.longest
        cost: Floats | None = None
        for _ in range(PASSES):
            wrote = [self._divide(*chunk, cost) for chunk in cut]
            counts = np.zeros(self.base * spoken)
            for (ids, lengths, _, _), e in zip(cut, wrote, strict=True):
                exists = np.arange(len(ids))[:, None] < lengths
                counts += np.bincount(ids[exists] * spoken + e[exists], minlength=counts.size)
            n = counts.reshape(self.base, spoken)
            cost = np.log(n.sum(axis=1, keepdims=True) + spoken) - np.log(n + 1)  # 1
        self._rules = [self._count(k, cut, wrote) for k in range(self.neighbours + 1)]

    def _divide(self, source: Ids, lengths: Ids, target: Ids, ends: Ids, cost: Floats | None) -> Ids:
        """Return what each symbol of the sources wrote, (S, N), as numbers."""
        S, N = source.shape
        T, every = len(target), np.arange(N)
        # What the a symbols before j are, as a number; they stand at j = a, ..., T.
        spans = [np.zeros((T + 1, N), np.int64)]
        for a in range(1, self.longest + 1):
            span = np.zeros((T + 1, N), np.int64)
            span[a:] = spans[-1][a - 1 : -1] * self.written + target[a - 1 :]
            spans.append(span)
        c = np.full((T + 1, N), np.inf)
        c[0] = 0
        best = np.zeros((S, T + 1, N), np.int8)
        for i in range(S):
            ways = np.full((self.longest + 1, T + 1, N), np.inf)
            for a, span in enumerate(spans[: T + 1]):
                price: Floats = (a - ends / lengths) ** 2 if cost is None else cost[source[i], span[a:]]
                ways[a, a:] = c[: T + 1 - a] + price  # 2
            best[i] = ways.argmin(axis=0)
            c = ways.min(axis=0)
        wrote = np.zeros((S, N), np.int64)
        j = ends.copy()
        table = np.stack(spans)
        for i in reversed(range(S)):  # 3
            size = np.where(i < lengths, best[i, j, every], 0)
            wrote[i] = table[size, j, every]
            j = j - size
        return wrote

    def _windows(self, source: Ids, k: int) -> Ids:
        """Return the windows of k symbols to either side of each symbol, as numbers, (S, N)."""
        framed = np.pad(source, ((k, k), (0, 0)), constant_values=PAD)
        windows = np.zeros_like(source)
        for shift in range(2 * k + 1):
            windows = windows * self.base + framed[shift : shift + len(source)]
        return windows

    def _count(self, k: int, cut: list[tuple[Ids, Ids, Ids, Ids]], wrote: list[Ids]) -> tuple[Ids, Ids]:
        """Return the windows seen, sorted, and what the middle symbol of each wrote most often."""
        windows, answers = [], []
        for (ids, lengths, _, _), e in zip(cut, wrote, strict=True):
            exists = np.arange(len(ids))[:, None] < lengths
            windows.append(self._windows(ids, k)[exists])
            answers.append(e[exists])
        window, e = np.concatenate(windows), np.concatenate(answers)
        order = np.lexsort([e, window])
        window, e = window[order], e[order]
        first = np.flatnonzero(np.r_[True, (window[1:] != window[:-1]) | (e[1:] != e[:-1])])
        window, e, counts = window[first], e[first], np.diff(np.r_[first, len(order)])
        order = np.lexsort([e, -counts, window])
        window, e = window[order], e[order]
        most = np.r_[True, window[1:] != window[:-1]]
        return window[most], e[most]

    def __call__(self, source: Ids, lengths: Ids) -> list[Ids]:
        """Return what sources (S, N), PAD after the end of each, are replaced by: ids (n,) of each, without EOS."""
        wrote = np.zeros_like(source)
        known = np.where(source < self.base, source, PAD)
        for k, (windows, answers) in enumerate(self._rules):
            asked = self._windows(known, k)
            at = np.minimum(np.searchsorted(windows, asked), len(windows) - 1)
            wrote = np.where(windows[at] == asked, answers[at], wrote)
        exists = np.arange(len(source))[:, None] < lengths
        powers = self.written ** np.arange(self.longest)[::-1]
        symbols = np.where(exists, wrote, 0)[:, None] // powers[:, None] % self.written  # (S, longest, N)
        flat = symbols.reshape(-1, source.shape[1]).T
        return [row[row != PAD] for row in flat]
