r"""Beam search: the k best beginnings of a sentence are kept at each step, not the best one alone.

    (F1)  S = sum of log p(token | those before), in float64             of n tokens, EOS counted, BOS not
    (F2)  score = S / n^a,  or  S / ((5 + n) / 6)^a                       a = length_power; the second is that of [1]_
    (F3)  candidates are the k V continuations, ordered by (-S, rank of what they continue, id of their token)
    (F4)  of the first k candidates, those with EOS are finished
    (F5)  the first k candidates without EOS are the beam of the next step, ranked in this order
    (F6)  the end: "exact", when n_best finished ones have at least the score S / L^a of the best running S; "first",
          when k are finished; either, after L = max_length steps

S never rises and n never exceeds L, so that no running hypothesis can get past the bound of F6: the search ends as
early as it can without a change of its result. The length is divided out at the end alone, F2: inside of F3 all
candidates are equally long. At L nothing is forced. Ties are decided by F3, never by the order of a sort.

With a = 0, k = 1 is the greedy choice; with k >= V^L nothing is left out and the best of all sentences is found.
In between a search can err: see the example, and `rnn_numpy.models.search_errors`.

References
----------
.. [1] Y. Wu et al., "Google's neural machine translation system", arXiv:1609.08144 (2016), equation 14.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.symbols import EOS
from rnn_numpy.errors import NonFiniteError, OptionError
from rnn_numpy.models.decoding import Floats, length_rule
from rnn_numpy.models.sentences import START, Hypothesis, TokenModel, Writer, hypothesis, written

STOPS = ("exact", "first")


def beam_search(
    model: TokenModel,
    *source: Any,
    max_length: int,
    beam: int = 4,
    length_power: float = 0.0,
    length_penalty: str = "power",
    min_length: int = 0,
    n_best: int = 1,
    stop: str = "exact",
    together: int = 1,
) -> list[list[Hypothesis]]:
    """Search for the best sentences; the module says how, line by line.

    Parameters
    ----------
    model : TokenModel
        Such as `EncoderDecoder`.
    *source
        What `model.start` takes, such as ids (S, N) and lengths (N,).
    max_length : int
        L, the most tokens of a sentence, at least 1, EOS counted.
    beam : int
        k, at least 1.
    length_power : float
        At least 0. At 0 the score is log p, of which every token takes away some: short sentences win. 0.6 to 1 for
        long ones.
    length_penalty : {"power", "wu"}
        What is raised to `length_power`: n, or (5 + n) / 6.
    min_length : int
        No sentence has fewer tokens, EOS counted.
    n_best : int
        How many hypotheses to return of each sentence, at most k.
    stop : {"exact", "first"}
        "first" ends sooner, with what happens to be finished.
    together : int
        How many sentences share a call of the model. More than 1 is faster, and last digits depend on the company.

    Returns
    -------
    list of N lists of Hypothesis
        The best first; of equal scores the one that was finished first. Up to `n_best` that are finished, or, where
        none is, the best running one alone.

    Raises
    ------
    OptionError, DTypeError, ShapeError
        An option is out of its range; the model has no EOS, or does not rule out PAD and BOS.
    NonFiniteError
        log p is NaN or greater than 0, or nothing can follow any hypothesis while none is finished.

    Notes
    -----
    The rows of a step are the running hypotheses of one sentence: never more than k, and at the first step one.

    Examples
    --------
    A model in a table: what follows each prefix, as p of PAD, BOS, EOS, and two tokens a and b. The best sentence is
    the empty one, EOS alone; of the candidates of the first step it is the third, so that a beam of two never sees it:

    >>> import numpy as np
    >>> table = {"": [0, 0, 0.20, 0.45, 0.35], "a": [0, 0, 0.4, 0.5, 0.1], "b": [0, 0, 0.4, 0.1, 0.5],
    ...          "aa": [0, 0, 0.02, 0.95, 0.03], "aaa": [0, 0, 0.02, 0.95, 0.03], "aaaa": [0, 0, 0.98, 0.01, 0.01],
    ...          "bb": [0, 0, 0.7, 0.1, 0.2]}
    >>> class Prefixes:
    ...     alpha = None
    ...     def __init__(self, prefixes): self.prefixes = prefixes
    ...     def take(self, rows): return Prefixes([self.prefixes[row] for row in rows])
    >>> class Table:
    ...     def start(self): return [Prefixes([""])]
    ...     def next(self, ids, state):
    ...         after = [(prefix + "__$ab"[i]).strip("_") for prefix, i in zip(state.prefixes, ids, strict=True)]
    ...         with np.errstate(divide="ignore"):
    ...             return np.log([table.get(prefix, [0, 0, 0.4, 0.3, 0.3]) for prefix in after]), Prefixes(after)
    >>> for beam in (2, 3):
    ...     [[best]] = beam_search(Table(), beam=beam, max_length=6)
    ...     print("".join("__$ab"[i] for i in best.tokens), round(best.score, 5))
    aaaa$ -1.61444
    $ -1.60944
    """
    rule = _Rule.checked(max_length, beam, length_power, length_penalty, min_length, n_best, stop)
    writers = (_search(rule) for _ in itertools.count())
    return list(written("beam_search", model, model.start(*source), writers, together))


@dataclass(frozen=True)
class _Rule:
    max_length: int
    beam: int
    divisor: Callable[[int], float]
    min_length: int
    n_best: int
    stop: str

    @classmethod
    def checked(
        cls, max_length: int, beam: int, power: float, penalty: str, min_length: int, n_best: int, stop: str
    ) -> _Rule:
        where = "beam_search"
        arguments.one_of(where, "stop", stop, STOPS)
        rule = cls(
            (longest := arguments.positive_int(where, "max_length", max_length)),
            arguments.positive_int(where, "beam", beam),
            length_rule(where, power, penalty, longest),
            arguments.step_count(where, "min_length", min_length),
            arguments.positive_int(where, "n_best", n_best),
            stop,
        )
        if rule.n_best > rule.beam:
            raise OptionError(f"{where}: n_best must be at most beam = {rule.beam}; got {rule.n_best}")
        if rule.min_length > rule.max_length:
            raise OptionError(
                f"{where}: min_length must be at most max_length = {rule.max_length}; got {rule.min_length}"
            )
        return rule


@dataclass(eq=False)
class _Step:
    """Where the hypotheses after a step come from: of each its parent, its last token and log p of that."""

    alpha: NDArray[Any] | None  # of the parents
    parents: list[int]
    ids: list[int]
    log_p: list[float]


class _End(NamedTuple):
    """A finished hypothesis; sorted, the best comes first, of equal ones the first."""

    negative_score: float
    n: int
    rank: int
    parent: int
    log_p: float


def _search(rule: _Rule) -> Writer[list[Hypothesis]]:
    """Search for one sentence."""
    k = rule.beam
    steps: list[_Step] = []
    ends: list[_End] = []
    S = np.zeros(1)
    ids: list[int]
    rows: list[int] | None
    ids, rows = START
    for n in range(1, rule.max_length + 1):
        log_p, alpha = yield ids, rows
        V, total = log_p.shape[1], S[:, None] + log_p  # F1
        if n < rule.min_length:
            total[:, EOS] = -np.inf
        flat_S, flat_log_p = total.ravel(), log_p.ravel()
        kept: list[int] = []
        for rank, candidate in enumerate(_first(flat_S, 2 * k)):  # F3; k of them have EOS at most, one of each parent
            if candidate % V != EOS:
                kept.append(candidate)  # F5
                if len(kept) == k:
                    break
            elif rank < k:  # F4
                score, log_p_end = float(flat_S[candidate]) / rule.divisor(n), float(flat_log_p[candidate])
                insort(ends, _End(-score, n, rank, candidate // V, log_p_end))
        at = np.array(kept, np.intp)
        ids, rows = [candidate % V for candidate in kept], [candidate // V for candidate in kept]
        steps.append(_Step(alpha, rows, ids, flat_log_p[at].tolist()))
        S = flat_S[at]
        if not kept or _done(ends, float(S[0]), rule):
            break
    if ends:
        return [
            _retraced(steps[: end.n - 1], end.parent, end, steps[end.n - 1].alpha, rule) for end in ends[: rule.n_best]
        ]
    if not kept:
        raise NonFiniteError(
            f"beam_search: no token can follow: log p = -inf of all, after {n - 1} tokens, none finished"
        )
    return [_retraced(steps, 0, None, None, rule)]


def _first(S: Floats, count: int) -> list[int]:
    """Return the positions of the largest, at most `count`, those of equals in their order; -inf is not possible."""
    least = np.partition(S, -count)[-count] if count < S.size else -np.inf
    found = (S >= least).nonzero()[0]
    best: list[int] = found[(-S[found]).argsort(kind="stable")][:count].tolist()
    return best if S[best[-1]] > -np.inf else [i for i in best if S[i] > -np.inf]


def _done(ends: list[_End], running: float, rule: _Rule) -> bool:
    """Tell whether the search can end, with `running` as the best S that is not finished."""  # F6
    if rule.stop == "first":
        return len(ends) >= rule.beam
    return len(ends) >= rule.n_best and -ends[rule.n_best - 1].negative_score >= running / rule.divisor(rule.max_length)


def _retraced(steps: list[_Step], row: int, end: _End | None, alpha: NDArray[Any] | None, rule: _Rule) -> Hypothesis:
    """Go back from a row after the last of some steps to the beginning; `end` comes after it."""
    tokens, log_probs, alphas = [], [], []
    if end is not None:
        tokens, log_probs = [EOS], [end.log_p]
        if alpha is not None:
            alphas.append(alpha[row])
    for step in reversed(steps):
        tokens.append(step.ids[row])
        log_probs.append(step.log_p[row])
        row = step.parents[row]
        if step.alpha is not None:
            alphas.append(step.alpha[row])
    return hypothesis(tokens[::-1], log_probs[::-1], alphas[::-1], rule.divisor(len(tokens)))
