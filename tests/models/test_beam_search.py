"""Beam search against tables by hand, against every sentence there is, and a batch against its sentences."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import TOYS, A, B, TableModel, everything, toy, words

from rnn_numpy import GRUCell
from rnn_numpy.core.symbols import BOS, EOS
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.models import beam_search, decode_forced, decode_greedy, decode_sample

# With k = 2 and max_length = 6: the sentence and its score, for powers 0, 1 and 2.
OURS = {
    "A": (("b$", -1.02165), ("b$", -0.51083), ("aaaaa$", -0.18748)),
    "B": (("$", -0.91629), ("aaaa$", -0.30401), ("aaaa$", -0.06080)),
    "C": (("aaaa$", -1.61444), ("aaaa$", -0.32289), ("aaaa$", -0.06458)),
}
BEST_OF_ALL = {
    "A": (("b$", -1.02165), ("b$", -0.51083)),
    "B": (("$", -0.91629), ("aaaa$", -0.30401)),
    "C": (("$", -1.60944), ("aaaa$", -0.32289)),
}


@pytest.mark.parametrize("name", TOYS)
def test_toys(name):
    model = TableModel(TOYS[name])
    for power, (sentence, score) in enumerate(OURS[name]):
        [[best]] = beam_search(model, max_length=6, beam=2, length_power=power)
        assert (words(best), round(best.score, 5), best.finished) == (sentence, score, True)
    for power, (sentence, score) in enumerate(BEST_OF_ALL[name]):
        [[best]] = beam_search(model, max_length=6, beam=3**6, length_power=power)
        assert (words(best), round(best.score, 5)) == (sentence, score)


def test_toys_greedy():
    tied = TOYS["B"]  # after aaa, a and EOS are equal, and EOS has the lower id
    a_first = toy((0.1, 0, 0.9), empty=(0.6, 0, 0.4), a=(0.9, 0, 0.1), aa=(0.9, 0, 0.1), aaa=(0.5, 0, 0.4999999))
    for table, sentence, score in [
        (TOYS["A"], "a$", -1.60944), (tied, "aaa$", -1.41469), (a_first, "aaaa$", -1.52005),
        (TOYS["C"], "aaaa$", -1.61444),
    ]:  # fmt: skip
        [greedy] = decode_greedy(TableModel(table), max_length=6)
        assert (words(greedy), round(greedy.score, 5)) == (sentence, score)
        [[single]] = beam_search(TableModel(table), max_length=6, beam=1)
        assert_same(greedy, single)
    # A last digit that the sum does not have decides neither.
    more = np.nextafter(0.62, 1)
    assert np.log(more) > np.log(0.62) and np.log(0.1) + np.log(more) == np.log(0.1) + np.log(0.62)
    almost = TableModel(toy((0.62, more, 0), empty=(0.1, 0, 0)))
    [greedy], [[single]] = decode_greedy(almost, max_length=2), beam_search(almost, max_length=2, beam=1)
    assert words(greedy) == "aa"
    assert_same(greedy, single)


def assert_same(one, other):
    """Every bit of two hypotheses."""
    assert one.tokens.dtype == other.tokens.dtype == np.int64
    assert one.log_probs.dtype == other.log_probs.dtype == np.float64
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.log_probs.tolist() == other.log_probs.tolist()
    assert (one.total, one.score, one.finished) == (other.total, other.score, other.finished)
    assert (one.alpha is None) == (other.alpha is None)
    if one.alpha is not None:
        assert one.alpha.dtype == other.alpha.dtype and np.array_equal(one.alpha, other.alpha)


@st.composite
def tables(draw, tokens=2, ties=False):
    """A random table: p of a prefix is drawn by a generator that the prefix seeds."""
    seed = draw(st.integers(0, 2**32 - 1))

    def next_p(prefix):
        rng = np.random.default_rng([seed, *prefix])
        p = rng.integers(1, 3, tokens + 1) if ties else rng.exponential(size=tokens + 1)
        p = p / (4 * p.size if ties else p.sum())  # of ties, a sum that is not 1: S of equal p are equal
        return [0, 0, *p]

    return next_p


@given(tables(), st.sampled_from([0.0, 0.6, 1.0, 2.0]), st.sampled_from(["power", "wu"]), st.integers(1, 4))
def test_a_beam_that_holds_everything_finds_the_best_of_all(table, power, penalty, max_length):
    def divisor(n):
        return (n if penalty == "power" else (5 + n) / 6) ** power

    ranked = sorted((-S / divisor(len(tokens)), tokens) for tokens, S in everything(table, max_length, (A, B)))
    options = {"max_length": max_length, "beam": 3**max_length, "length_power": power, "length_penalty": penalty}
    for n_best in (1, 3):
        [found] = beam_search(TableModel(table), n_best=n_best, **options)
        assert [tuple(h.tokens) for h in found] == [tokens for _, tokens in ranked[:n_best]]
        np.testing.assert_allclose([h.score for h in found], [-score for score, _ in ranked[:n_best]], rtol=1e-14)
        assert all(h.finished for h in found)


@given(tables(tokens=3, ties=True), st.integers(1, 6))
def test_a_beam_of_one_is_greedy(table, max_length):
    [greedy] = decode_greedy(TableModel(table), max_length=max_length)
    [[single]] = beam_search(TableModel(table), max_length=max_length, beam=1)
    assert_same(greedy, single)
    assert greedy.finished == (greedy.tokens[-1] == EOS)


def by_the_letter(table, V, rule):
    """The six lines of the module in loops over lists, without an early end: the n best, or the best running one."""
    k, power = rule["beam"], rule["length_power"]
    running, finished = [((), 0.0)], []
    for n in range(1, rule["max_length"] + 1):
        candidates = []
        for rank, (prefix, S) in enumerate(running):
            for token, p in enumerate(table(prefix)):
                if p > 0 and not (token == EOS and n < rule["min_length"]):
                    candidates.append((-(S + np.log(p)), rank, token, prefix))
        candidates = [(-key, prefix, token) for key, _, token, prefix in sorted(candidates)]
        finished += [
            (-S / n**power, n, i, (*prefix, EOS)) for i, (S, prefix, token) in enumerate(candidates[:k]) if token == EOS
        ]
        running = [((*prefix, token), S) for S, prefix, token in candidates if token != EOS][:k]
        if rule["stop"] == "first" and len(finished) >= k:
            break
    return [(tokens, -score) for score, _, _, tokens in sorted(finished)[: rule["n_best"]]] or [
        (running[0][0], running[0][1] / rule["max_length"] ** power)
    ]  # fmt: skip


@given(
    tables(tokens=3, ties=True), st.integers(1, 6), st.integers(1, 5), st.sampled_from([0.0, 0.7, 1.0, 2.0]),
    st.sampled_from(["exact", "first"]), st.data(),
)  # fmt: skip
def test_to_the_letter(table, max_length, beam, power, stop, data):
    rule = {
        "max_length": max_length, "beam": beam, "length_power": power, "stop": stop,
        "n_best": data.draw(st.integers(1, beam)), "min_length": data.draw(st.integers(0, max_length)),
    }  # fmt: skip
    [found] = beam_search(TableModel(table), **rule)
    assert [(tuple(h.tokens), h.score) for h in found] == by_the_letter(table, 6, rule)
    for h in found:
        assert h.finished == (h.tokens[-1] == EOS) and len(h.tokens) <= max_length
        assert h.total == sum(h.log_probs) and h.score == h.total / len(h.tokens) ** power
        # Of each token: how many were before it with BOS and the number of the source, and the last two of these.
        before = [0, BOS, *h.tokens]
        assert h.alpha.tolist() == [[n + 2, *before[n : n + 2]] for n in range(len(h.tokens))]
        [again] = decode_forced(TableModel(table), targets=[h.tokens])
        assert again.total == h.total and again.log_probs.tolist() == h.log_probs.tolist()
        assert np.array_equal(again.alpha, h.alpha)


# ------------------------------------------------------------------------------------------------ rows and batches


class Net:
    """A GRU that attends to a memory of each source's own length, untrained: all that can round differently."""

    def __init__(self, V=9, H=24):
        rng = np.random.default_rng(0)
        self.cell, self.E, self.W = GRUCell(H, H, rng=1), rng.normal(size=(V, H)), rng.normal(size=(2 * H, V))

    def start(self, lengths):
        for length in lengths:
            memory = np.random.default_rng(length).normal(size=(length, 24))
            yield NetState(memory.mean(axis=0, keepdims=True), memory, None)

    def next(self, ids, state):
        h = self.cell(self.E[ids], state.h)
        score = np.exp(h @ state.memory.T / 5)
        alpha = score / score.sum(axis=1, keepdims=True)
        z = np.concatenate([h, alpha @ state.memory], axis=1) @ self.W
        z[:, :EOS] = -np.inf
        z -= z.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True)), NetState(h, state.memory, alpha)


@dataclass(frozen=True)
class NetState:
    h: np.ndarray
    memory: np.ndarray
    alpha: np.ndarray | None

    def take(self, rows):
        return NetState(self.h[rows], self.memory, None if self.alpha is None else self.alpha[rows])


def test_a_batch_gives_what_each_sentence_gives_alone():
    model, lengths = Net(), [5, 17, 2, 9, 33, 5]
    for decode in (
        functools.partial(decode_greedy, model, max_length=12),
        functools.partial(beam_search, model, max_length=12, beam=5, length_power=1, n_best=3),
        functools.partial(decode_forced, model, targets=[[3, 8, 5, 2]]),
    ):
        if decode.func is decode_forced:
            batch = decode_forced(model, lengths, targets=[[3, 8, 5, 2]] * 6)
        else:
            batch = decode(lengths)
        for length, together in zip(lengths, batch, strict=True):
            [alone] = decode([length])
            pairs = zip(together, alone, strict=True) if isinstance(alone, list) else [(together, alone)]
            for one, other in pairs:
                assert_same(one, other)
                assert one.alpha.shape == (len(one.tokens), length)
    assert decode_greedy(model, [], max_length=3) == beam_search(model, [], max_length=3) == []


def test_the_scores_are_those_of_teacher_forcing():
    # Beside other rows, products of matrices round differently.
    model, lengths = Net(), [5, 17, 2]
    for n, found in enumerate(beam_search(model, lengths, max_length=10, beam=5, n_best=5, length_power=0.6)):
        for h in found:
            [forced] = decode_forced(model, lengths[n : n + 1], targets=[h.tokens], length_power=0.6)
            assert forced.tokens.tolist() == h.tokens.tolist() and forced.finished == h.finished
            for one, other in [(forced.log_probs, h.log_probs), (forced.score, h.score), (forced.alpha, h.alpha)]:
                np.testing.assert_allclose(one, other, rtol=1e-13)


def test_rows_are_hypotheses_of_one_sentence_alone():
    model = TableModel(*TOYS.values())
    nexts = model.next

    def watched(ids, state):
        assert len({row[0] for row in state.rows}) == 1
        return nexts(ids, state)

    model.next = watched
    batch = beam_search(model, max_length=6, beam=2, length_power=2)
    assert [words(best) for [best] in batch] == ["aaaaa$", "aaaa$", "aaaa$"]
    assert max(model.calls) == 2


@pytest.mark.parametrize("together", [2, 3, 8])
def test_sentences_that_share_calls_are_the_same(together):
    """Tables have no rounding, so that here all digits are equal."""
    model, sources = TableModel(*TOYS.values()), [0, 1, 2, 0, 2]
    options = {"max_length": 6, "beam": 2, "length_power": 2, "n_best": 2}
    for decode in (
        functools.partial(beam_search, **options),
        functools.partial(decode_greedy, max_length=6),
        functools.partial(decode_sample, max_length=6, rng=0),
        functools.partial(decode_forced, targets=[[A, EOS], [A], [B, B, A, EOS], [EOS], [A, A, A, A, A, A, EOS]]),
    ):
        alone = decode(model, *sources)
        model.calls.clear()
        for one, other in zip(alone, decode(model, *sources, together=together), strict=True):
            for pair in zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]:
                assert_same(*pair)
        assert max(model.calls) >= min(together, 5)
    [found] = beam_search(TableModel(TOYS["A"]), max_length=6, together=4)
    assert words(found[0]) == "b$"


def test_only_what_can_be_joined_shares_calls():
    with pytest.raises(OptionError, match="together must be 1 for a model whose states, NetState, have no `joined`"):
        decode_greedy(Net(), [3, 4], max_length=3, together=2)


# ------------------------------------------------------------------------------------------------ ids and ties


@given(tables(tokens=3), st.permutations([3, 4, 5]), st.sampled_from([0.0, 1.0]), st.integers(1, 4))
def test_permuting_the_vocabulary_permutes(table, order, power, beam):
    to, back = {EOS: EOS, **dict(zip([3, 4, 5], order, strict=True))}, dict(zip(order, [3, 4, 5], strict=True))

    def permuted(prefix):
        p = table(tuple(back[i] for i in prefix))
        return [0, 0, p[EOS], *(p[back[i]] for i in (3, 4, 5))]

    for decode in (
        lambda model: beam_search(model, max_length=6, beam=beam, n_best=beam, length_power=power)[0],
        lambda model: decode_greedy(model, max_length=6),
    ):
        for one, other in zip(decode(TableModel(table)), decode(TableModel(permuted)), strict=True):
            assert [to[i] for i in one.tokens.tolist()] == other.tokens.tolist()
            assert one.score == other.score and one.log_probs.tolist() == other.log_probs.tolist()


def test_ties():
    equal = toy((0.25, 0.25, 0.25))
    # Equal candidates go by their parent's rank, then their id, EOS 2, a 3, b 4: $ a b, then a$ aa ab, b$ ba bb.
    [found] = beam_search(TableModel(equal), max_length=3, beam=3, n_best=3)
    assert [words(h) for h in found] == ["$", "a$", "aa$"]
    [found] = beam_search(TableModel(equal), max_length=3, beam=4, n_best=3)
    assert [words(h) for h in found] == ["$", "a$", "b$"]
    # Of equal scores, the one that is finished first; here they are equal only once they are divided.
    halving = toy((0, 0, 1), empty=(0.25, 0, 0.5), a=(0, 0, 1))
    [found] = beam_search(TableModel(halving), max_length=3, beam=2, n_best=2, length_power=1)
    assert [words(h) for h in found] == ["$", "a$"] and found[0].score == found[1].score


# ------------------------------------------------------------------------------------------------ ends


def test_nothing_is_forced_at_the_maximal_length():
    never = toy((0.6, 0.4, 0))
    for n in (1, 4):
        [[best]] = beam_search(TableModel(never), max_length=n, beam=3, n_best=2, length_power=1)
        assert (words(best), best.finished) == ("a" * n, False)
        assert best.score == best.total / n
        [greedy] = decode_greedy(TableModel(never), max_length=n)
        assert (words(greedy), greedy.finished) == ("a" * n, False)
    # A finished one comes before running ones that are more probable.
    late = toy((0.9, 0.09, 0.01))
    [found] = beam_search(TableModel(late), max_length=2, beam=5, n_best=5)
    assert [words(h) for h in found] == ["$", "a$"]


def test_min_length_counts_the_end():
    for least, sentence in [(0, "b$"), (1, "b$"), (2, "b$"), (3, "aa$"), (6, "aaaaa$")]:
        [[best]] = beam_search(TableModel(TOYS["A"]), max_length=6, beam=9, min_length=least)
        assert words(best) == sentence


def test_a_search_that_has_nowhere_to_go():
    only_end = toy((0, 0, 1))
    [[best]] = beam_search(TableModel(only_end), max_length=5, beam=3, length_power=1)
    assert words(best) == "$" and best.score == 0
    with pytest.raises(NonFiniteError, match="beam_search: no token can follow: log p = -inf of all, after 0 tokens"):
        beam_search(TableModel(only_end), max_length=5, min_length=2)
    dead = toy((0, 0, 0), empty=(1, 0, 0))
    with pytest.raises(NonFiniteError, match="beam_search: no token can follow: log p = -inf of all, after 1 tokens"):
        beam_search(TableModel(dead), max_length=5)
    with pytest.raises(NonFiniteError, match="decode_greedy: no token can follow: log p = -inf of all, after 1 tokens"):
        decode_greedy(TableModel(dead), max_length=5)
    [forced] = decode_forced(TableModel(dead), targets=[[A, B, EOS]])
    assert forced.log_probs.tolist() == [0, -np.inf, -np.inf] and forced.score == -np.inf


def test_the_search_ends_as_soon_as_nothing_better_can_come():
    model = TableModel(TOYS["B"])
    # Of power 0, aaaa is less probable than EOS alone; of power 1, aaaaa cannot become better than aaaa$.
    for power, steps in [(0, 4), (1, 5)]:
        model.calls.clear()
        beam_search(model, max_length=6, beam=2, length_power=power)
        assert len(model.calls) == steps
    model = TableModel(TOYS["A"])
    beam_search(model, max_length=6, beam=5)  # b$ .36 against aa .15, with three of five finished
    assert len(model.calls) == 2
    model = TableModel(toy((0.25, 0.25, 0.25)))
    beam_search(model, max_length=6)  # a running one can become as good, which is not better
    assert len(model.calls) == 1
    model = TableModel(TOYS["B"])
    [[best]] = beam_search(model, max_length=6, beam=2, length_power=1, stop="first")
    assert (words(best), len(model.calls)) == ("$", 2)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_length": 0}, OptionError, "max_length must be at least 1; got 0"),
        ({"max_length": 2.0}, DTypeError, "max_length must be an integer"),
        ({"beam": 0}, OptionError, "beam must be at least 1; got 0"),
        ({"n_best": 0}, OptionError, "n_best must be at least 1; got 0"),
        ({"n_best": 3}, OptionError, "n_best must be at most beam = 2; got 3"),
        ({"stop": "never"}, OptionError, "stop must be one of 'exact', 'first'; got 'never'"),
        ({"length_power": -1}, OptionError, "length_power must be at least 0; got -1"),
        ({"length_power": np.nan}, OptionError, "length_power must be finite; got nan"),
        ({"length_power": "wu"}, DTypeError, "length_power must be a number; got str 'wu'"),
        ({"length_power": 1e3}, OptionError, "length_power must be small enough that 6 tokens to it"),
        ({"length_penalty": "avg"}, OptionError, "length_penalty must be one of 'power', 'wu'; got 'avg'"),
        ({"min_length": -1}, OptionError, "min_length must be at least 0; got -1"),
        ({"together": 0}, OptionError, "together must be at least 1; got 0"),
        ({"min_length": 7}, OptionError, "min_length must be at most max_length = 6; got 7"),
    ],
)  # fmt: skip
def test_options_out_of_range(options, error, message):
    model = TableModel(TOYS["A"])
    with pytest.raises(error, match=f"^beam_search: {message}"):
        beam_search(model, **{"max_length": 6, "beam": 2, **options})
    assert model.calls == []


def test_the_bound_must_be_given():
    for decode in (decode_greedy, decode_sample, beam_search):
        with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'max_length'"):
            decode(TableModel(TOYS["A"]))
        with pytest.raises(OptionError, match=f"{decode.__name__}: max_length must be at least 1; got 0"):
            decode(TableModel(TOYS["A"]), max_length=0)


@pytest.mark.parametrize("decode", [decode_greedy, decode_sample, beam_search])
def test_what_a_model_must_not_say(decode):
    class Saying(TableModel):
        def __init__(self, log_p):
            super().__init__(TOYS["A"])
            self.log_p = np.asarray(log_p)

        def next(self, ids, state):
            return self.log_p, super().next(ids, state)[1]

    class Whole(TableModel):
        def start(self):
            return super().start()[0]

    with pytest.raises(
        DTypeError, match=f"^{decode.__name__}: Whole.start must return the states of all sentences, one"
    ):
        decode(Whole(TOYS["A"]), max_length=3)
    inf = np.inf
    for log_p, error, message in [
        ([[-inf, -inf]], OptionError, r"Saying.next knows V = 2 tokens, and EOS = 2 is none of them: no sentence"),
        ([[-inf, -1.0, -1.0]], OptionError, r"Saying.next must rule out PAD = 0 and BOS = 1: log p = -inf"),
        ([[-1.0, -inf, -1.0]], OptionError, r"Saying.next must rule out PAD = 0 and BOS = 1: log p = -inf"),
        ([-inf, -inf, -1.0], ShapeError, r"Saying.next must return log p of shape \(R, V\), R = 1; got \(3,\)"),
        ([[-inf, -inf, -1.0]] * 2, ShapeError, r"Saying.next must return log p of shape \(R, V\), R = 1; got \(2, 3\)"),
        (np.float32([[-inf, -inf, -1]]), DTypeError, r"Saying.next must return log p of dtype float64; got float32"),
        ([[-inf, -inf, 1.5]], NonFiniteError, r"Saying.next must return log p, at most 0; got 1.5 at step 0. Logits"),
        ([[-inf, -inf, np.nan]], NonFiniteError, r"Saying.next must return log p, at most 0; got nan at step 0"),
    ]:
        with pytest.raises(error, match=f"^{decode.__name__}: {message}"):
            decode(Saying(log_p), max_length=3)


@pytest.mark.parametrize("together", [1, 2])
def test_the_step_of_an_impossible_number_is_told(together):
    later = TableModel(toy((0.5, 0.4, 0.1), aa=(0.5, np.nan, 0)), TOYS["A"])
    with pytest.raises(NonFiniteError, match=r"TableModel.next must return log p, at most 0; got nan at step 2"):
        decode_greedy(later, max_length=5, together=together)


def test_targets_that_do_not_fit():
    model = TableModel(*TOYS.values())
    for targets, error, message in [
        ([[3, 2]], ShapeError, "targets must be as many as sentences, 3; got 1"),
        ([[3, 2]] * 4, ShapeError, "targets must be as many as sentences, 3; got 4"),
        ([[3, 2], [], [2]], ShapeError, r"targets\[1\] must have shape \(n,\), n at least 1; got \(0,\)"),
        ([[3, 2], [3, 5], [2]], OptionError, r"targets\[1\] must be ids in \[0, V\) = \[0, 5\); got 5 at 1"),
        ([[3, 2], [-1, 2], [2]], OptionError, r"targets\[1\] must hold ids of at least 0, and EOS at its end alone"),
        ([[3, 2], [3], [2, 2]], OptionError, r"targets\[2\] must hold ids of at least 0, and EOS at its end alone"),
        ([[3, 2], [3.0], [2]], DTypeError, r"targets\[1\] must hold integers, ids; got dtype float64"),
    ]:
        with pytest.raises(error, match=f"^decode_forced: {message}"):
            decode_forced(model, targets=targets)
