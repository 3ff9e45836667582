"""Sequence to sequence: vocabularies, pairs of sequences, the base of tasks made of them, and how answers are scored.

A source is a sequence of symbols, its target another one, which ends with EOS. Ids 0, 1 and 2 are PAD, BOS and EOS
(`rnn_numpy.core.symbols`); a vocabulary's own symbols follow. What is held out is decided by a hash of the source, so
that it is the same on every machine, and all answers to a source fall on one side:

    crc32(source) mod 100      0-9 test,   10-11 valid,   12-99 train
"""

from __future__ import annotations

import abc
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.symbols import BOS, EOS, PAD, SPECIAL
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.tasks.rules import Rules
from rnn_numpy.training.like_length import LikeLength

Ids = NDArray[np.int64]

PARTS = ("train", "valid", "test")
TEST, VALID = 10, 12  # of 100: below the first, below the second


@dataclass(frozen=True)
class SymbolVocabulary:
    """Symbols of one or more characters, and their ids, 3 to V - 1; 0, 1, 2 are PAD, BOS and EOS.

    Parameters
    ----------
    symbols : sequence of str
        V - 3 different ones, in the order of their ids. They say all there is to say, and JSON can hold them.

    Raises
    ------
    DTypeError, OptionError
        `symbols` are no strings, there is none, or one is there twice.

    Examples
    --------
    >>> phones = SymbolVocabulary(["K", "AE", "T"])
    >>> len(phones), phones.encode(["T", "AE", "K"], end=True), phones.decode([3, 4, 5, 2, 0, 0])
    (6, array([5, 4, 3, 2]), ('K', 'AE', 'T'))
    """

    symbols: tuple[str, ...]

    def __init__(self, symbols: Iterable[str]) -> None:
        where, found = "SymbolVocabulary", tuple(symbols)
        if not found:
            raise OptionError(f"{where}: symbols must not be empty")
        seen: set[str] = set()
        for symbol in found:
            if not isinstance(symbol, str):
                raise DTypeError(f"{where}: symbols must be of type str; got {type(symbol).__name__} {symbol!r}")
            if symbol in seen:
                raise OptionError(f"{where}: symbols must be different; {symbol!r} is there twice")
            seen.add(symbol)
        object.__setattr__(self, "symbols", found)

    @cached_property
    def ids(self) -> Mapping[str, int]:
        """The id of each symbol."""
        return {symbol: i for i, symbol in enumerate(self.symbols, start=len(SPECIAL))}

    def __len__(self) -> int:
        """Return V, with PAD, BOS and EOS."""
        return len(SPECIAL) + len(self.symbols)

    def encode(self, symbols: Iterable[str], *, end: bool = False) -> Ids:
        """Return the ids of symbols, (n,), or of the characters of a string; with `end`, EOS after them.

        OptionError names the first symbol that has no id, and its position.
        """
        found = list(symbols)
        for position, symbol in enumerate(found):
            if symbol not in self.ids:
                raise OptionError(
                    f"SymbolVocabulary.encode: {symbol!r} at position {position} is none of the {len(self.symbols)} "
                    f"symbols of this vocabulary: {_shown(self.symbols)}"
                )
        return np.array([*(self.ids[symbol] for symbol in found), *[EOS] * end], np.int64)

    def decode(self, ids: ArrayLike) -> tuple[str, ...]:
        """Return the symbols of ids, (n,), up to the first EOS; what follows it is not looked at."""
        where, array = "SymbolVocabulary.decode", arguments.as_array("SymbolVocabulary.decode", "ids", ids)
        arguments.shaped(where, "ids", array, "(n,)", (array.size,))
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise DTypeError(f"{where}: ids must be integers; got dtype {array.dtype}")
        symbols: list[str] = []
        for position, i in enumerate(array.tolist()):
            if i == EOS:
                break
            if not len(SPECIAL) <= i < len(self):
                what = f"{i} ({SPECIAL[i]})" if 0 <= i < len(SPECIAL) else i
                raise OptionError(
                    f"{where}: ids[{position}] must be EOS = 2 or in [3, V) = [3, {len(self)}); got {what}"
                )
            symbols.append(self.symbols[i - len(SPECIAL)])
        return tuple(symbols)


def _shown(symbols: Sequence[str]) -> str:
    return " ".join(symbols[:40]) + (" ..." if len(symbols) > 40 else "")


# ---------------------------------------------------------------------------------------------------------------- pairs


def padded(sequences: Sequence[ArrayLike]) -> tuple[Ids, Ids]:
    """Lay sequences of ids side by side.

    Parameters
    ----------
    sequences : sequence of N int array_like, each (length,)
        At least one id each, none of them PAD.

    Returns
    -------
    ids : int ndarray, (T, N)
        T is the length of the longest; PAD after the others.
    lengths : int ndarray, (N,)

    Examples
    --------
    >>> ids, lengths = padded([[3, 4, 2], [5, 2]])
    >>> ids.T.tolist(), lengths.tolist()
    ([[3, 4, 2], [5, 2, 0]], [3, 2])
    """
    where = "padded"
    if not len(sequences):
        raise ShapeError(f"{where}: sequences must have at least one sequence of ids")
    arrays = [arguments.as_array(where, f"sequences[{n}]", sequence) for n, sequence in enumerate(sequences)]
    for n, array in enumerate(arrays):
        if array.ndim != 1 or not array.size:
            raise ShapeError(f"{where}: sequences[{n}] must have shape (length,), length at least 1; got {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise DTypeError(f"{where}: sequences[{n}] must hold integers, ids; got dtype {array.dtype}")
    lengths = np.array([len(array) for array in arrays], np.int64)
    ids = np.full((int(lengths.max()), len(arrays)), PAD, np.int64)
    # Row by row in the transposed array: sequence after sequence.
    exists = np.arange(len(ids)) < lengths[:, None]
    ids.T[exists] = np.concatenate(arrays)
    _no_pad(where, "sequences", ids[exists.T])
    return ids, lengths


class PairBatch(NamedTuple):
    """What `EncoderDecoder.loss_and_grads` is called with.

    Attributes
    ----------
    source : int ndarray, (S, N)
        PAD after the end of each.
    source_lengths : int ndarray, (N,)
    target : int ndarray, (T, N)
        Each ends with EOS; PAD after it. No BOS: the model puts it before what it reads.
    target_lengths : int ndarray, (N,)
        With EOS.
    """

    source: Ids
    source_lengths: Ids
    target: Ids
    target_lengths: Ids


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of a source and its target, side by side; the fields are those of `PairBatch`, checked.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        The arrays do not belong together, there is PAD inside of a sequence, or a target's only EOS is not its end.

    Examples
    --------
    >>> letters, phones = SymbolVocabulary("act"), SymbolVocabulary(["K", "AE", "T"])
    >>> pairs = Pairs.of([letters.encode("cat"), letters.encode("act")],
    ...                  [phones.encode(["K", "AE", "T"], end=True), phones.encode(["AE", "K", "T"], end=True)])
    >>> len(pairs), pairs.source.T.tolist(), pairs.target.T.tolist()
    (2, [[4, 3, 5], [3, 4, 5]], [[3, 4, 5, 2], [4, 3, 5, 2]])
    >>> Pairs.of([letters.encode("cat")], [phones.encode(["K", "AE", "T"])])
    Traceback (most recent call last):
        ...
    rnn_numpy.errors.OptionError: Pairs: target[2, 0] must be EOS = 2, the end of its sequence; got 5. \
    encode(..., end=True) puts it there; a model that never sees an end never learns to stop
    """

    source: Ids
    source_lengths: Ids
    target: Ids
    target_lengths: Ids

    def __post_init__(self) -> None:
        where = "Pairs"
        for name in ("source", "target"):
            ids, lengths = (np.asarray(getattr(self, field)) for field in (name, f"{name}_lengths"))
            if ids.ndim != 2 or not ids.size:
                letters = "(S, N)" if name == "source" else "(T, N)"
                raise ShapeError(f"{where}: {name} must have shape {letters}, none of them 0; got {ids.shape}")
            if not np.issubdtype(ids.dtype, np.integer):
                raise DTypeError(f"{where}: {name} must hold integers, ids; got dtype {ids.dtype}")
            arguments.shaped(where, f"{name}_lengths", lengths, "(N,)", (np.shape(self.source)[1],))
            arguments.sequence_lengths(where, lengths, *ids.shape)
            exists = np.arange(len(ids))[:, None] < lengths
            _no_pad(where, name, ids[exists])
            if (ids[~exists] != PAD).any():
                t, n = np.argwhere(~exists & (ids != PAD))[0]
                raise OptionError(
                    f"{where}: {name}[{t}, {n}] must be PAD = 0, after the end of its sequence; got {ids[t, n]}"
                )
        _ends(where, np.asarray(self.target), np.asarray(self.target_lengths))

    @classmethod
    def of(cls, sources: Sequence[ArrayLike], targets: Sequence[ArrayLike]) -> Pairs:
        """Return pairs of sequences of ids; the targets end with EOS."""
        return cls(*padded(sources), *padded(targets))

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.source_lengths)

    def __getitem__(self, rows: Any) -> PairBatch:
        """Return some pairs, by a slice or an array of their numbers, no longer than the longest of them."""
        lengths, ends = self.source_lengths[rows], self.target_lengths[rows]
        return PairBatch(
            self.source[: lengths.max(), rows], lengths, self.target[: ends.max(), rows], ends,
        )  # fmt: skip

    def batches(
        self, batch_size: int, rng: np.random.Generator | int | None = None, epochs: int | None = None
    ) -> LikeLength:
        """Return batches of pairs of like length, in a new order each epoch, to train on."""
        return LikeLength(
            (self.source, self.source_lengths), (self.target, self.target_lengths),
            batch_size=batch_size, rng=rng, epochs=epochs,
        )  # fmt: skip


def _no_pad(where: str, name: str, inside: Ids) -> None:
    """Refuse PAD among the ids inside of sequences, in any order."""
    if (inside == PAD).any():
        raise OptionError(
            f"{where}: {name} must not have PAD = 0 inside of a sequence. PAD is no symbol, and EOS = 2 ends a target: "
            "were they the same, a loss that leaves out PAD would leave out the end, and the model never learn to stop"
        )


def _ends(where: str, target: Ids, lengths: Ids) -> None:
    every = np.arange(len(lengths))
    last = target[lengths - 1, every]
    if (last != EOS).any():
        n = int(np.flatnonzero(last != EOS)[0])
        raise OptionError(
            f"{where}: target[{lengths[n] - 1}, {n}] must be EOS = 2, the end of its sequence; got {last[n]}. "
            "encode(..., end=True) puts it there; a model that never sees an end never learns to stop"
        )
    for name, i in (("EOS", EOS), ("BOS", BOS)):
        early = (target == i) & (np.arange(len(target))[:, None] < lengths - 1)
        if early.any():
            t, n = np.argwhere(early)[0]
            advice = "it ends a target" if i == EOS else "the model puts it before what its decoder reads"
            raise OptionError(f"{where}: target[{t}, {n}] must not be {name} = {i}: {advice}")


# --------------------------------------------------------------------------------------------------------------- scores


class PairScore(NamedTuple):
    """How far answers are from what is right.

    Attributes
    ----------
    symbols : float
        Edits (symbols put in, left out or exchanged) to the closest right answer, per symbol of it; both summed over
        all sources. Of phones the phone error rate, PER. It may exceed 1.
    wrong : float
        Share of the sources whose answer is none of the right ones. Of words the word error rate, WER.
    """

    symbols: float
    wrong: float


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Return the least number of items put in, left out or exchanged that makes `b` of `a`.

    >>> edit_distance("kitten", "sitting"), edit_distance(["K", "AE", "T"], [])
    (3, 3)
    """
    row = list(range(len(b) + 1))  # of the first i items of a, to the first j of b
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def score_answers(answers: Sequence[Sequence[str]], right: Sequence[Sequence[Sequence[str]]]) -> PairScore:
    """Score an answer to each source against the right ones of that source, of which there may be several.

    The closest right answer is the one with the fewest edits; of several the longest, which counts least.

    >>> score_answers([["T", "AH"], ["K"]], [[["T", "AH"], ["T", "EY"]], [["K", "S"]]])
    PairScore(symbols=0.25, wrong=0.5)
    """
    where = "score_answers"
    if len(answers) != len(right) or not len(answers):
        raise ShapeError(
            f"{where}: answers must be as many as the sources, N = {len(right)}, at least one; got {len(answers)}"
        )
    edits = total = wrong = 0
    for answer, known in zip(answers, right, strict=True):
        if not known:
            raise OptionError(f"{where}: right must have at least one right answer to each source")
        least, length = min((edit_distance(answer, one), -len(one)) for one in known)
        edits, total, wrong = edits + least, total - length, wrong + (least > 0)
    return PairScore(edits / max(total, 1), wrong / len(answers))


# ---------------------------------------------------------------------------------------------------------------- tasks


def part_of(source: str) -> str:
    """Return "train", "valid" or "test", by the hash of a source.

    >>> [part_of(word) for word in ("table", "gradient", "descent")]
    ['train', 'train', 'test']
    """
    place = zlib.crc32(source.encode()) % 100
    return "test" if place < TEST else "valid" if place < VALID else "train"


class PairTask(abc.ABC):
    """Base of the tasks that answer a sequence by a sequence. A task is a small frozen dataclass: the same fields mean
    the same task. It says what is right to each source; vocabularies, parts, pairs and scores follow.
    """

    longest_output: ClassVar[int] = 2  # the most symbols that the baseline writes for one symbol of the source

    @property
    @abc.abstractmethod
    def source_vocabulary(self) -> SymbolVocabulary:
        """The symbols of sources."""

    @property
    @abc.abstractmethod
    def target_vocabulary(self) -> SymbolVocabulary:
        """The symbols of answers."""

    @property
    @abc.abstractmethod
    def answers(self) -> Mapping[str, Sequence[tuple[str, ...]]]:
        """The right answers to each source, at least one."""

    @property
    @abc.abstractmethod
    def goal(self) -> float:
        """The share of wrong answers, `PairScore.wrong`, below which the task counts as learned."""

    @cached_property
    def sources(self) -> Mapping[str, Sequence[str]]:
        """The sources of "train", "valid" and "test", each once."""
        found: dict[str, list[str]] = {part: [] for part in PARTS}
        for source in self.answers:
            found[part_of(source)].append(source)
        return found

    def pairs(self, part: str) -> Pairs:
        """Return all pairs of "train", "valid" or "test": a source once with each of its answers."""
        return self._pairs[self._part("pairs", part)]

    def _part(self, method: str, part: str) -> str:
        arguments.one_of(f"{type(self).__name__}.{method}", "part", part, PARTS)
        return part

    @cached_property
    def _pairs(self) -> Mapping[str, Pairs]:
        sources, targets = self.source_vocabulary, self.target_vocabulary
        found = {}
        for part in PARTS:
            both = [(source, answer) for source in self.sources[part] for answer in self.answers[source]]
            found[part] = Pairs.of(
                [sources.encode(source) for source, _ in both],
                [targets.encode(answer, end=True) for _, answer in both],
            )
        return found

    def encode(self, sources: Sequence[str]) -> tuple[Ids, Ids]:
        """Return sources as a model reads them: ids (S, N) and lengths (N,).

        OptionError names a symbol that the vocabulary does not have, and its position.
        """
        return padded([self.source_vocabulary.encode(source) for source in sources])

    def score(self, sources: Sequence[str], answers: Sequence[Sequence[str]]) -> PairScore:
        """Score an answer to each of some sources of this task: symbols, as `target_vocabulary.decode` returns them."""
        for source in sources:
            if source not in self.answers:
                raise OptionError(f"{type(self).__name__}.score: sources must be of this task; {source!r} is not")
        return score_answers(answers, [self.answers[source] for source in sources])

    @cached_property
    def rules(self) -> Rules:
        """What the pairs to train on say that each symbol is to be replaced by, given its neighbours."""
        train = self.pairs("train")
        return Rules(train.source, train.source_lengths, train.target, train.target_lengths - 1, self.longest_output)

    def baseline_answers(self, sources: Sequence[str]) -> list[tuple[str, ...]]:
        """Answer sources without a net: by `rules`, where a task does not know better."""
        return [self.target_vocabulary.decode(ids) for ids in self.rules(*self.encode(sources))]

    @cached_property
    def baseline(self) -> PairScore:
        """How the sources of the test part are answered without a net."""
        sources = self.sources["test"]
        return self.score(sources, self.baseline_answers(sources))
