"""Sequence to sequence: vocabularies, pairs, their checks, and how answers are scored."""

import json
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy.core.symbols import BOS, EOS, PAD
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.tasks import Pairs, PairScore, PairTask, SymbolVocabulary, edit_distance, padded
from rnn_numpy.tasks.pairs import part_of, score_answers

PHONES = SymbolVocabulary(["K", "AE", "T"])


# --------------------------------------------------------------------------------------------------------- vocabularies


def test_the_ids_that_come_first():
    assert (PAD, BOS, EOS) == (0, 1, 2)
    assert [PHONES.ids[symbol] for symbol in ("K", "AE", "T")] == [3, 4, 5] and len(PHONES) == 6


def test_symbols_and_ids_are_two_ways_to_say_the_same():
    for symbols in ((), ("T",), ("T", "T", "AE", "K")):
        ids = PHONES.encode(symbols)
        assert ids.dtype == np.int64 and ids.shape == (len(symbols),)
        assert PHONES.decode(ids) == symbols == PHONES.decode(PHONES.encode(symbols, end=True))
    assert PHONES.encode([], end=True).tolist() == [2]
    assert PHONES.decode([5, 2, 4, 2, 0]) == ("T",), "what follows the first EOS"
    assert PHONES.decode([5, 2, 77]) == ("T",)
    again = SymbolVocabulary(json.loads(json.dumps(PHONES.symbols)))
    assert again == PHONES and hash(again) == hash(PHONES)


def test_what_a_vocabulary_refuses():
    for error, message, call in [
        (
            OptionError,
            "SymbolVocabulary.encode: 'ZH' at position 1 is none of the 3 symbols of this vocabulary: K AE T",
            lambda: PHONES.encode(["K", "ZH"]),
        ),
        (
            OptionError,
            "SymbolVocabulary.decode: ids[1] must be EOS = 2 or in [3, V) = [3, 6); got 0 (PAD)",
            lambda: PHONES.decode([3, 0]),
        ),
        (
            OptionError,
            "SymbolVocabulary.decode: ids[0] must be EOS = 2 or in [3, V) = [3, 6); got 1 (BOS)",
            lambda: PHONES.decode([1, 3]),
        ),
        (
            OptionError,
            "SymbolVocabulary.decode: ids[0] must be EOS = 2 or in [3, V) = [3, 6); got 6",
            lambda: PHONES.decode([6]),
        ),
        (
            OptionError,
            "SymbolVocabulary.decode: ids[0] must be EOS = 2 or in [3, V) = [3, 6); got -1",
            lambda: PHONES.decode([-1]),
        ),
        (
            DTypeError,
            "SymbolVocabulary.decode: ids must be integers; got dtype float64",
            lambda: PHONES.decode([3.0]),
        ),
        (
            ShapeError,
            "SymbolVocabulary.decode: ids must have shape (n,) = (1,); got (1, 1)",
            lambda: PHONES.decode([[3]]),
        ),
        (
            OptionError,
            "SymbolVocabulary: symbols must be different; 'a' is there twice",
            lambda: SymbolVocabulary("aba"),
        ),
        (OptionError, "SymbolVocabulary: symbols must not be empty", lambda: SymbolVocabulary([])),
        (DTypeError, "SymbolVocabulary: symbols must be of type str; got int 3", lambda: SymbolVocabulary([3])),
    ]:
        assert_raises(error, message, call)


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_padded_against_a_loop():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(1, 9, size) for size in rng.integers(1, 8, 30)]
    ids, lengths = padded(sequences)
    assert ids.shape == (max(map(len, sequences)), 30) and ids.dtype == lengths.dtype == np.int64
    for n, sequence in enumerate(sequences):
        assert lengths[n] == len(sequence)
        assert ids[:, n].tolist() == [*sequence, *[PAD] * (len(ids) - len(sequence))]


NO_PAD = (
    "must not have PAD = 0 inside of a sequence. PAD is no symbol, and EOS = 2 ends a target: were they the same, a "
    "loss that leaves out PAD would leave out the end, and the model never learn to stop"
)
NO_END = "encode(..., end=True) puts it there; a model that never sees an end never learns to stop"


def test_what_cannot_be_padded():
    for error, message, sequences in [
        (ShapeError, "padded: sequences must have at least one sequence of ids", []),
        (ShapeError, "padded: sequences[1] must have shape (length,), length at least 1; got (0,)", [[3], []]),
        (ShapeError, "padded: sequences[0] must have shape (length,), length at least 1; got (1, 1)", [[[3]]]),
        (DTypeError, "padded: sequences[0] must hold integers, ids; got dtype float64", [[3.0]]),
        (OptionError, f"padded: sequences {NO_PAD}", [[3], [4, 0, 3]]),
    ]:
        assert_raises(error, message, lambda sequences=sequences: padded(sequences))


def test_some_pairs_are_no_longer_than_their_longest():
    pairs = Pairs.of([[3, 4, 5], [3], [4, 4]], [[3, 2], [4, 4, 4, 2], [2]])
    some = pairs[np.array([2, 1])]
    assert [part.tolist() for part in some] == [[[4, 3], [4, 0]], [2, 1], [[2, 4], [0, 4], [0, 4], [0, 2]], [1, 4]]
    assert [part.shape for part in pairs[:1]] == [(3, 1), (1,), (2, 1), (1,)] and len(pairs) == 3
    found = [*pairs.batches(2, rng=0, epochs=1)]
    assert sorted(n for _, lengths, *_ in found for n in lengths) == [1, 2, 3]
    assert all((target[ends - 1, np.arange(len(ends))] == EOS).all() for *_, target, ends in found)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        # What other libraries let pass: PAD in the place of EOS, so that no end is ever seen.
        ({"target": [[3, 4], [0, 5], [0, 0]]}, OptionError, f"target {NO_PAD}"),
        (
            {"target": [[3, 4], [4, 5], [0, 2]]},
            OptionError,
            f"target[1, 0] must be EOS = 2, the end of its sequence; got 4. {NO_END}",
        ),
        ({"target": [[3, 2], [2, 5], [0, 2]]}, OptionError, "target[0, 1] must not be EOS = 2: it ends a target"),
        (
            {"target": [[3, 1], [2, 5], [0, 2]]},
            OptionError,
            "target[0, 1] must not be BOS = 1: the model puts it before what its decoder reads",
        ),
        (
            {"target": [[3, 4], [2, 5], [2, 2]]},
            OptionError,
            "target[2, 0] must be PAD = 0, after the end of its sequence; got 2",
        ),
        ({"source": [[3, 0]]}, OptionError, f"source {NO_PAD}"),
        ({"source": [3, 3]}, ShapeError, "source must have shape (S, N), none of them 0; got (2,)"),
        ({"target": np.zeros((0, 2), int)}, ShapeError, "target must have shape (T, N), none of them 0; got (0, 2)"),
        ({"source": [[3.0, 3.0]]}, DTypeError, "source must hold integers, ids; got dtype float64"),
        ({"target_lengths": [2]}, ShapeError, "target_lengths must have shape (N,) = (2,); got (1,)"),
        ({"source": [[3, 3, 3]]}, ShapeError, "source_lengths must have shape (N,) = (3,); got (2,)"),
    ],
)  # fmt: skip
def test_pairs_that_no_model_should_see_are_refused(changes, error, message):
    right = {
        "source": [[3, 3]], "source_lengths": [1, 1], "target": [[3, 4], [2, 5], [0, 2]], "target_lengths": [2, 3],
    }  # fmt: skip
    Pairs(**{name: np.array(value) for name, value in right.items()})
    wrong = {name: np.array(value) for name, value in (right | changes).items()}
    assert_raises(error, f"Pairs: {message}", lambda: Pairs(**wrong))


# --------------------------------------------------------------------------------------------------------------- scores


def by_definition(a, b):
    @lru_cache(None)
    def least(i, j):
        if not i or not j:
            return i + j
        return min(least(i - 1, j) + 1, least(i, j - 1) + 1, least(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return least(len(a), len(b))


def test_edit_distance_against_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = ("".join(rng.choice(list("abc"), size)) for size in rng.integers(0, 8, 2))
        assert edit_distance(a, b) == edit_distance(b, a) == by_definition(a, b)
    assert edit_distance("intention", "execution") == 5
    assert edit_distance([("K", "S"), "X"], [("K", "S")]) == 1


def test_the_closest_right_answer_counts():
    one, two = ("A", "B"), ("C", "D", "E", "F")
    assert score_answers([("C", "D", "E")], [[one, two]]) == PairScore(1 / 4, 1.0)
    assert score_answers([("A",)], [[two, one]]) == PairScore(1 / 2, 1.0)
    assert score_answers([two, ()], [[one, two], [one]]) == PairScore(2 / 6, 0.5)
    # As far from both: the longer one.
    assert score_answers([("X", "A")], [[("A",), ("X", "A", "A")]]) == PairScore(1 / 3, 1.0)
    # Errors may outnumber the symbols.
    assert score_answers([("A", "A", "A")], [[("B",)]]) == PairScore(3.0, 1.0)
    assert score_answers([()], [[()]]) == PairScore(0.0, 0.0)


def test_answers_that_cannot_be_scored():
    message = "score_answers: answers must be as many as the sources, N = 2, at least one; got 1"
    assert_raises(ShapeError, message, lambda: score_answers([("A",)], [[("A",)], [("A",)]]))
    message = "score_answers: answers must be as many as the sources, N = 0, at least one; got 0"
    assert_raises(ShapeError, message, lambda: score_answers([], []))
    message = "score_answers: right must have at least one right answer to each source"
    assert_raises(OptionError, message, lambda: score_answers([("A",)], [[]]))


# ----------------------------------------------------------------------------------------------------------------- task


@dataclass(frozen=True)
class Doubled(PairTask):
    """Each letter twice; "b" may be silent."""

    longest_output = 2
    source_vocabulary = target_vocabulary = SymbolVocabulary("ab")
    goal = 0.1

    @property
    def answers(self):
        words = [bin(number)[2:].replace("0", "a").replace("1", "b") for number in range(1, 257)]
        return {word: (tuple("".join(2 * letter for letter in word)), tuple(word.strip("b"))) for word in words}


def test_the_parts_of_a_task():
    task = Doubled()
    parts = {part: set(task.sources[part]) for part in ("train", "valid", "test")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 256
    assert all(part_of(source) == part for part, sources in parts.items() for source in sources)
    for part, sources in parts.items():
        pairs = task.pairs(part)
        assert len(pairs) == 2 * len(sources) and task.pairs(part) is pairs
        for n in range(len(pairs)):
            source, _, target, _ = pairs[n : n + 1]
            word = "".join(task.source_vocabulary.decode(source[:, 0]))
            assert word in sources and task.target_vocabulary.decode(target[:, 0]) in task.answers[word]
    # CRC-32 modulo 100 of these: 9, 10, 11, 12; of "é" in UTF-8 26.
    edges = ["0", "273", "3", "134"]
    assert [part_of(source) for source in [*edges, "é"]] == ["test", "valid", "valid", "train", "train"]
    message = "Doubled.pairs: part must be one of 'train', 'valid', 'test'; got 'dev'"
    assert_raises(OptionError, message, lambda: task.pairs("dev"))


def test_the_baseline_of_a_task():
    task = Doubled()
    assert task.rules.divided == len(task.pairs("train"))
    sources = task.sources["test"]
    answers = [task.target_vocabulary.decode(ids) for ids in task.rules(*task.encode(sources))]
    assert task.baseline == score_answers(answers, [task.answers[source] for source in sources])
    message = "Doubled.score: sources must be of this task; 'ab' is not"
    assert_raises(OptionError, message, lambda: task.score(["ab"], [["a"]]))
    assert_raises(
        OptionError,
        "SymbolVocabulary.encode: 'c' at position 1 is none of the 2 symbols of this vocabulary: a b",
        lambda: task.encode(["ab", "bc"]),
    )
