"""Sentences written one token at a time: what a model must offer, what comes out, and the loop around both.

A sentence begins with BOS, which is read and not written, and ends with EOS. The lecture writes its loop as

    while last_token != <EOS>:  last_token, state = decode(last_token, state)

which need not end: nothing makes a net give EOS, an untrained one rarely does, and a trained one can fall into a cycle.
Its missing bound is `max_length`, which everything here asks for and counts with EOS. A sentence that has reached it
without EOS is returned as it is, `finished=False`: to force an EOS would hide it.

Each sentence is decoded by itself, in calls whose rows are its own hypotheses. A product of matrices may round
differently when other rows stand beside a row, at the discretion of the BLAS, and one last digit can turn a choice and
all that follows. So a batch gives what each of its sentences gives alone, bit for bit, whatever the machine. Fixed
blocks of rows would not do: with OpenBLAS's kernels for Haswell, the place within a block of 32 already counts.

`together` > 1 gives that up for speed: as many sentences share each call, and last digits depend on the company.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.symbols import BOS, EOS, PAD
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Found = TypeVar("Found")


class TokenState(Protocol):
    """Where a model stands in R hypotheses; nothing that is done with it changes it.

    For `together` > 1 it has two things more: `width`, the columns S of its alpha, and a class method `joined(states)`,
    which returns the rows of several as one state, their alphas filled up with zeros.
    """

    @property
    def alpha(self) -> Array | None:
        """The attention weights of the step that led here, (R, S); None where there are none."""

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Return the hypotheses of these numbers, which can repeat, each with all that belongs to it."""


class TokenModel(Protocol):
    """What can be decoded; PAD, BOS and EOS are those of `rnn_numpy.core.symbols`."""

    def start(self, *source: Any, **options: Any) -> Iterable[Any]:
        """Return a state of one row for each sentence, made from that sentence alone: without its batch's padding."""

    def next(self, ids: Ids, state: Any) -> tuple[Floats, Any]:
        """Read one token in each row, (R,), BOS first; return log p of those that may follow, and the state then.

        log p is (R, V) in float64, -inf for PAD and BOS.
        """


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A sentence that a model may mean.

    Attributes
    ----------
    tokens : int ndarray, (n,)
        EOS is the last one of those that are finished, and of no other.
    log_probs : ndarray, (n,)
        log p of each token, given those before it; float64.
    total : float
        S, their sum: log p of the sentence.
    score : float
        What hypotheses are compared by: S, divided by a power of n where a beam search was told so.
    finished : bool
        Whether it ends with EOS.
    alpha : ndarray, (n, S), or None
        The attention weights with which each token was chosen.
    """

    tokens: Ids
    log_probs: Floats
    total: float
    score: float
    finished: bool
    alpha: Array | None = None


# A sentence at work: it yields tokens to be read and, of each, the row of the last call that it goes on from (None: the
# same rows), is sent log p of what may follow and alpha, and returns what has been found.
Writer = Generator[tuple[list[int], list[int] | None], tuple[Floats, Array | None], Found]

START: tuple[list[int], None] = [BOS], None


def written(
    where: str, model: TokenModel, states: Iterable[Any], writers: Iterator[Writer[Found]], together: int
) -> Iterator[Found]:
    """Yield what the writer of each state finds, `together` sentences in each call of the model."""
    together = arguments.positive_int(where, "together", together)
    remaining = _each(where, model, states)
    if together == 1:
        for state in remaining:
            yield _alone(where, model, state, next(writers))
        return
    while block := list(islice(remaining, together)):
        yield from _together(where, model, block, list(islice(writers, len(block))))


def _each(where: str, model: TokenModel, states: Any) -> Iterator[Any]:
    if not isinstance(states, Iterable):
        name, got = f"{type(model).__name__}.start", type(states).__name__
        raise DTypeError(f"{where}: {name} must return the states of all sentences, one after the other; got {got}")
    return iter(states)


def _alone(where: str, model: TokenModel, state: Any, writer: Writer[Found]) -> Found:
    ids, rows = next(writer)
    step = 0
    while True:
        if rows is not None:
            state = state.take(np.array(rows))
        log_p, state = next_tokens(where, model, np.array(ids), state, step)
        step += 1
        try:
            ids, rows = writer.send((log_p, state.alpha))
        except StopIteration as end:
            found: Found = end.value
            return found


def _together(where: str, model: TokenModel, states: list[Any], writers: list[Writer[Found]]) -> list[Found]:
    kind = type(states[0])
    if not hasattr(kind, "joined"):
        raise OptionError(f"{where}: together must be 1 for a model whose states, {kind.__name__}, have no `joined`")
    found: dict[int, Found] = {}
    widths = [state.width for state in states]
    asked = {n: next(writer) for n, writer in enumerate(writers)}
    at = {n: range(n, n + 1) for n in asked}  # the rows of each sentence in the last call
    state, step, size = kind.joined(states), 0, 0
    while asked:
        ids: list[int] = []
        rows: list[int] = []
        place: dict[int, range] = {}
        for n, (tokens, own) in asked.items():
            place[n] = range(len(ids), len(ids) + len(tokens))
            ids += tokens
            rows += at[n] if own is None else [at[n][row] for row in own]
        # Rows without a meaning, so that their number, for which a model may prepare, changes rarely.
        size = size if len(ids) <= size <= 4 / 3 * len(ids) else len(ids)
        more = size - len(ids)
        state = state.take(np.array(rows + rows[:1] * more))
        log_p, state = next_tokens(where, model, np.array(ids + ids[:1] * more), state, step)
        alpha, step = state.alpha, step + 1
        for n, own_rows in place.items():
            part = slice(own_rows.start, own_rows.stop)
            try:
                asked[n] = writers[n].send((log_p[part], None if alpha is None else alpha[part, : widths[n]]))
            except StopIteration as end:
                found[n] = end.value
                del asked[n]
        at = place
    return [found[n] for n in range(len(states))]


def hypothesis(
    tokens: Sequence[int], log_probs: Sequence[float], alphas: Sequence[Array], divisor: float
) -> Hypothesis:
    """Return a hypothesis of these tokens, whose score is S / `divisor`."""
    total = 0.0
    for log_p in log_probs:  # from the first to the last, as a search adds them up
        total += log_p
    alpha = np.array(alphas) if len(alphas) else None
    return Hypothesis(np.array(tokens), np.array(log_probs), total, total / divisor, tokens[-1] == EOS, alpha)


def next_tokens(where: str, model: TokenModel, ids: Ids, state: Any, step: int) -> tuple[Floats, Any]:
    """Return what `model.next` does, checked: completely at step 0, afterwards that no number is impossible."""
    log_p, after = model.next(ids, state)
    if step == 0:
        name = f"{type(model).__name__}.next"
        if log_p.dtype != np.float64:
            raise DTypeError(f"{where}: {name} must return log p of dtype float64; got {log_p.dtype}")
        if log_p.ndim != 2 or len(log_p) != len(ids):
            raise ShapeError(f"{where}: {name} must return log p of shape (R, V), R = {len(ids)}; got {log_p.shape}")
        if (V := log_p.shape[1]) <= EOS:
            raise OptionError(
                f"{where}: {name} knows V = {V} tokens, and EOS = {EOS} is none of them: no sentence could ever end"
            )
        if (log_p[:, [PAD, BOS]] > -np.inf).any():
            raise OptionError(f"{where}: {name} must rule out PAD = {PAD} and BOS = {BOS}: log p = -inf")
    if not log_p.max() <= 0:
        raise NonFiniteError(
            f"{where}: {type(model).__name__}.next must return log p, at most 0; got {log_p.max()} at step {step}. "
            "Logits become log p by subtracting log(sum(exp(logits)))"
        )
    return log_p, after
