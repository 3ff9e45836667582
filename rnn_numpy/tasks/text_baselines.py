r"""What models without a network say of a text, in bits per character of a part that they have not seen.

Interpolated Kneser-Ney: the frequencies of runs of characters, each corrected by shorter ones. With h the last k
characters, h' all of them but the oldest, w the next one, c counts and the discount d = 0.9:

    (1)  p_k(w | h) = max(c_k(h w) - d, 0) / c_k(h) + d n_k(h) / c_k(h) p_{k-1}(w | h')
    (2)  p_{-1}(w)  = 1 / V
    c_k(h w)  how often h w occurs; below the longest context, after how many different characters it does
    c_k(h)    the sum of c_k(h w) over w,   n_k(h) the number of w with c_k(h w) > 0

Where h has never been seen, p_k is p_{k-1}. For every h, p_k sums to 1 over w.

Compressors: the bits that the test part adds to the compressed training part. Long repeats of the training part cost
xz next to nothing, and gzip forgets what is further back than 32 768 bytes.

References
----------
.. [1] S. F. Chen, J. Goodman, "An empirical study of smoothing techniques for language modeling", Computer Speech and
   Language 13 (1999) 359-394, section 2.7 and equation (25) in the interpolated form of section 2.8.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.tasks.text import Vocabulary

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

DISCOUNT = 0.9
CONTEXTS = 6


@dataclass(frozen=True)
class _Order:
    """What runs of k + 1 characters are known: a context h of k characters has a number, a run h w a key h V + w."""

    contexts: Ids  # sorted keys h' V + the oldest character; a context's number is its place
    runs: Ids  # sorted keys h V + w
    counts: Ids  # how often each run occurs
    varied: Ids  # after how many different characters


class KneserNey:
    """Counts of the runs of a text up to a length, and the probabilities that interpolated Kneser-Ney makes of them.

    Parameters
    ----------
    ids : int ndarray, (n,)
        What is counted: the training part.
    size : int
        V, the number of ids.
    context : int
        The longest context, in characters; shorter ones need no further counts.

    Examples
    --------
    >>> import numpy as np
    >>> model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), size=3, context=1)
    >>> model.distribution([0]).round(4)
    array([0.2   , 0.5667, 0.2333])
    """

    def __init__(self, ids: ArrayLike, size: int, context: int = CONTEXTS) -> None:
        where = "KneserNey"
        self.size = arguments.positive_int(where, "size", size)
        self.context = arguments.step_count(where, "context", context)
        text = _checked(where, ids, self.size)
        if len(text) <= self.context:
            raise OptionError(f"{where}: ids must be more than the context, {self.context}; got {len(text)}")
        number = np.zeros(len(text), np.int64)  # of the context of each position
        orders: list[tuple[Ids, Ids, Ids]] = []
        for k in range(self.context + 1):
            contexts = np.zeros(1, np.int64)
            if k:
                keys = number[k:] * self.size + text[: len(text) - k]
                contexts, number[k:] = np.unique(keys, return_inverse=True)
            runs, counts = np.unique(number[k:] * self.size + text[k:], return_counts=True)
            orders.append((contexts, runs, counts))
        self.orders: list[_Order] = []
        for k, (contexts, runs, counts) in enumerate(orders):
            varied = np.zeros_like(counts)
            if k < self.context:
                longer, longer_runs, _ = orders[k + 1]
                shorter = longer[longer_runs // self.size] // self.size  # the context without its oldest character
                keys, found = np.unique(shorter * self.size + longer_runs % self.size, return_counts=True)
                varied[np.searchsorted(runs, keys)] = found
            self.orders.append(_Order(contexts, runs, counts, varied))

    def probabilities(self, ids: ArrayLike, context: int | None = None) -> Floats:
        """Return the probability of each character of a text given those before it.

        Parameters
        ----------
        ids : int ndarray, (n,)
            A text by itself: its first character has no context, the second one of 1, and so on.
        context : int, optional
            At most that of the model, which it is where left out.

        Returns
        -------
        p : ndarray, (n,)
        """
        where = "KneserNey.probabilities"
        text = _checked(where, ids, self.size)
        longest = self.context if context is None else arguments.step_count(where, "context", context)
        if longest > self.context:
            raise OptionError(f"{where}: context must be at most {self.context}, that of the model; got {longest}")
        before = np.full((longest, len(text)), -1)
        for k in range(longest):
            before[k, k + 1 :] = text[: max(0, len(text) - k - 1)]
        return self._interpolated(text, before)

    def distribution(self, context: ArrayLike) -> Floats:
        """Return the probabilities of all V characters after a context, (k,), of which the last ones count."""
        before = np.full(self.context, -1)
        newest_first = _checked("KneserNey.distribution", context, self.size)[::-1][: self.context]
        before[: len(newest_first)] = newest_first
        return self._interpolated(np.arange(self.size), np.repeat(before[:, None], self.size, axis=1))

    def _interpolated(self, text: Ids, before: Ids) -> Floats:
        """Return p of characters (n,) after contexts (k, n), newest first, -1 where there is nothing before."""
        p = np.full(len(text), 1 / self.size)  # 2
        number = np.zeros(len(text), np.int64)
        for k, order in enumerate(self.orders[: len(before) + 1]):
            if k:
                known = (number >= 0) & (before[k - 1] >= 0)
                number = _place(np.where(known, number * self.size + before[k - 1], -1), order.contexts)
            counts = order.counts if k == len(before) else order.varied
            owners = order.runs // self.size
            total = np.bincount(owners, counts)
            kinds = np.bincount(owners, counts > 0)
            at = np.flatnonzero((number >= 0) & (total[number] > 0))
            h = number[at]
            run = _place(h * self.size + text[at], order.runs)
            found = np.where(run >= 0, counts[run], 0)
            p[at] = np.maximum(found - DISCOUNT, 0) / total[h] + DISCOUNT * kinds[h] / total[h] * p[at]  # 1
        return p


def _place(keys: Ids, of: Ids) -> Ids:
    """Return the places of keys among sorted ones, -1 where they are not there."""
    at = np.minimum(np.searchsorted(of, keys), len(of) - 1)
    return np.where(of[at] == keys, at, -1)


def _checked(where: str, ids: ArrayLike, size: int) -> Ids:
    text = arguments.as_array(where, "ids", ids)
    if text.ndim != 1:
        raise ShapeError(f"{where}: ids must have shape (n,); got {text.shape}")
    if text.size and not np.issubdtype(text.dtype, np.integer):
        raise DTypeError(f"{where}: ids must be integers; got dtype {text.dtype}")
    if text.size and not 0 <= text.min() <= text.max() < size:
        raise OptionError(f"{where}: ids must be in [0, V) = [0, {size}); got {text.min()} to {text.max()}")
    return text.astype(np.int64)


def added_bits(train: str, test: str) -> dict[str, float]:
    """Return the bits per character that `test` adds to what gzip and xz make of `train`, both at their best.

    >>> added_bits("to and fro, " * 50, "to and fro, " * 50)["gzip -9"] < 0.1
    True
    """
    sizes: dict[str, Callable[[bytes], int]] = {"gzip -9": lambda data: len(gzip.compress(data, 9, mtime=0))}
    try:
        import lzma
    except ImportError:  # a Python that was built without it
        pass
    else:
        sizes["xz -9e"] = lambda data: len(lzma.compress(data, preset=lzma.PRESET_EXTREME | 9))
    first, both = train.encode(), (train + test).encode()
    return {name: 8 * (size(both) - size(first)) / max(1, len(test)) for name, size in sizes.items()}


def baselines(train: str, test: str, vocabulary: Vocabulary) -> dict[str, float]:
    """Return bits per character of `test` by the baselines that have read `train`, by their names.

    "unigram", "Kneser-Ney 1" to "Kneser-Ney 6", the number being that of the characters of a context, "gzip -9" and
    "xz -9e" (unless this Python lacks it).
    """
    model = KneserNey(vocabulary.encode(train), len(vocabulary))
    ids = vocabulary.encode(test)
    bits: dict[str, float] = {}
    for context in range(CONTEXTS + 1):
        name = f"Kneser-Ney {context}" if context else "unigram"
        bits[name] = -float(np.log2(model.probabilities(ids, context)).mean())
    return bits | added_bits(train, test)
