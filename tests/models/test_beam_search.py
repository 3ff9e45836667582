"""Beam search against tables by hand, against every sentence there is, and a batch against its sentences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import TOYS, A, B, TableModel, everything, toy, words

from rnn_numpy.core.symbols import BOS, EOS
from rnn_numpy.models import beam_search, decode_forced, decode_greedy

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
    almost = toy(
        (0.25, 0.25, 0.5), empty=(0.9, 0, 0.1), a=(np.nextafter(0.3, 1), 0.3, 0.4), aa=(0.3, np.nextafter(0.3, 1), 0)
    )
    [greedy] = decode_greedy(TableModel(almost), max_length=3)
    [[single]] = beam_search(TableModel(almost), max_length=3, beam=1)
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
