"""Models that are tables: what follows each prefix, exactly known. The toys are those of a comparison of decoders."""

from itertools import product

import numpy as np

from rnn_numpy.core.symbols import EOS

A, B = 3, 4  # ids of the two tokens, after PAD, BOS and EOS


class Prefixes:
    """The rows' tokens so far, BOS first, and weights that tell which step and prefix they are of."""

    def __init__(self, rows, alpha=None):
        self.rows, self.alpha = rows, alpha

    def take(self, rows):
        assert rows.dtype.kind == "i"
        return Prefixes([self.rows[row] for row in rows], None if self.alpha is None else self.alpha[rows])

    width = 3

    @classmethod
    def joined(cls, states):
        return cls([row for state in states for row in state.rows])


class TableModel:
    """`next_p(prefix)` gives p of all V tokens; each source is a table, and `start` takes any number of them."""

    def __init__(self, *tables):
        self.tables, self.calls = tables, []

    def start(self, *sources):
        return [Prefixes([(n,)]) for n in (sources or range(len(self.tables)))]

    def next(self, ids, state):
        self.calls.append(len(ids))
        rows = [(*row, int(i)) for row, i in zip(state.rows, ids, strict=True)]
        with np.errstate(divide="ignore"):
            log_p = np.log([self.tables[row[0]](row[2:]) for row in rows])
        alpha = np.array([[len(row), *row[-2:]] for row in rows], float)
        return log_p, Prefixes(rows, alpha)


def toy(other, **p):
    """Return a table of p(a, b, EOS) by prefix, "" as `empty`; `other` is for all that are not there."""

    def next_p(prefix):
        a, b, end = p.get("".join("ab"[i - A] for i in prefix) or "empty", other)
        return [0, 0, end, a, b]

    return next_p


TOYS = {
    "A": toy((0.25, 0.25, 0.5), empty=(0.5, 0.4, 0.1), a=(0.3, 0.3, 0.4), b=(0.05, 0.05, 0.9)),
    "B": toy((0.1, 0, 0.9), empty=(0.6, 0, 0.4), a=(0.9, 0, 0.1), aa=(0.9, 0, 0.1), aaa=(0.5, 0, 0.5)),
    "C": toy(
        (0.3, 0.3, 0.4), empty=(0.45, 0.35, 0.2), a=(0.5, 0.1, 0.4), b=(0.1, 0.5, 0.4), aa=(0.95, 0.03, 0.02),
        aaa=(0.95, 0.03, 0.02), aaaa=(0.01, 0.01, 0.98), bb=(0.1, 0.2, 0.7),
    ),
}  # fmt: skip


def words(hypothesis):
    return "".join({EOS: "$", A: "a", B: "b"}[i] for i in hypothesis.tokens.tolist())


def everything(next_p, max_length, tokens):
    """Yield (tokens, S) of every sentence that ends with EOS within max_length."""
    for n in range(max_length):
        for prefix in product(tokens, repeat=n):
            S = 0.0
            for step, token in enumerate((*prefix, EOS)):
                p = next_p(prefix[:step])[token]
                S += np.log(p) if p > 0 else -np.inf
            yield (*prefix, EOS), S
