"""Choosing the next token: the rule by hand, ties, limits, and rows that do not see each other."""

import numpy as np
import pytest
from tables import TOYS, A, B, TableModel, everything, words

from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.models import decode_forced, decode_greedy, decode_sample
from rnn_numpy.models.decoding import greedy, probabilities, sample


def by_hand(logits, uniform, temperature, top_k, top_p):
    """One row, in the words of the rule."""
    q = np.exp((np.float64(logits) - np.max(logits)) / temperature)
    q /= q.sum()
    order = sorted(range(len(q)), key=lambda v: (-q[v], v))
    order = order[:top_k]
    q = np.array([q[v] if v in order else 0.0 for v in range(len(q))])
    q /= q.sum()
    if top_p is not None:
        kept, mass = [], 0.0
        for v in order:
            kept.append(v)
            mass += q[v]
            if mass >= top_p:
                break
        q = np.array([q[v] if v in kept else 0.0 for v in range(len(q))])
        q /= q.sum()
    summed = 0.0
    for v in range(len(q)):
        summed += q[v]
        if summed > uniform:
            return q, v
    raise AssertionError("rounding has lost the end")


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 3, 7, 50])
@pytest.mark.parametrize("top_p", [None, 1e-9, 0.5, 0.9, 1.0])
def test_the_rule(temperature, top_k, top_p):
    rng = np.random.default_rng(0)
    logits, uniform = rng.normal(scale=2, size=(40, 7)), rng.random(40)
    logits[::4] = logits[::4].round()  # with ties
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    q, ids = probabilities(logits, **options), sample(logits, uniform, **options)
    for row in range(40):
        expected, token = by_hand(logits[row], uniform[row], temperature, top_k, top_p)
        np.testing.assert_allclose(q[row], expected, rtol=1e-13)
        assert ids[row] == token
        # By itself a row gives the same, bit for bit.
        assert np.array_equal(probabilities(logits[row], **options), q[row])
        assert sample(logits[row], uniform[row], **options) == ids[row]
    shaped = sample(logits.reshape(5, 8, 7), uniform.reshape(5, 8), **options)
    assert np.array_equal(shaped.ravel(), ids)


def test_ties_go_to_the_lower_id():
    logits = np.array([1.0, 3.0, 3.0, 3.0, 0.0])
    assert greedy(logits) == 1 and greedy([logits, -logits]).tolist() == [1, 4]
    assert np.flatnonzero(probabilities(logits, top_k=2)).tolist() == [1, 2]
    assert np.flatnonzero(probabilities(logits, top_p=0.5)).tolist() == [1, 2]
    halves = np.log([0.25, 0.25, 0.5])
    assert np.flatnonzero(probabilities(halves, top_p=0.75)).tolist() == [0, 2]
    assert np.flatnonzero(probabilities(halves, top_p=0.7500001)).tolist() == [0, 1, 2]
    # Mass is that of what top_k has left: here 2/3 of the first alone.
    assert np.flatnonzero(probabilities(halves, top_k=2, top_p=0.6)).tolist() == [2]


def test_draws_have_the_probabilities():
    logits = np.random.default_rng(0).normal(size=5)
    draws = sample(np.tile(logits, (1000, 1)), (np.arange(1000) + 0.5) / 1000, temperature=0.7)
    np.testing.assert_allclose(
        np.bincount(draws, minlength=5) / 1000, probabilities(logits, temperature=0.7), atol=1e-3
    )


def test_extremes():
    end = np.nextafter(1.0, 0)
    logits = np.array([[-np.inf, 0.0, -np.inf], [0.0, -np.inf, -np.inf]])
    for uniform in (0.0, end):
        assert sample(logits, [uniform, uniform]).tolist() == [1, 0]
    third = np.zeros((1, 3))
    assert sample(third, [end]).tolist() == [2] and sample(third, [0.0]).tolist() == [0]
    for size in range(1, 60):  # whatever the sum rounds to, nothing is drawn that has no probability
        q = np.random.default_rng(size).normal(size=size)
        assert 0 <= sample(np.append(q, -np.inf), end) < size
    assert probabilities([1e300, -1e300]).tolist() == [1, 0]
    assert probabilities([1.0, 1.0, 0.0], temperature=1e-300).tolist() == [0.5, 0.5, 0]
    np.testing.assert_allclose(probabilities([5.0, -5.0], temperature=1e300), 0.5, rtol=1e-12)
    single = np.float32([0.1, 0.2])
    assert probabilities(single).dtype == np.float64
    assert np.array_equal(probabilities(single), probabilities(single.astype(np.float64)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0}, OptionError, "temperature must be greater than 0; for the most probable.* greedy"),
        ({"temperature": -1.0}, OptionError, "temperature must be greater than 0; got -1"),
        ({"temperature": True}, DTypeError, "temperature must be a number"),
        ({"top_k": 0}, OptionError, "top_k must be at least 1; got 0"),
        ({"top_k": 2.0}, DTypeError, "top_k must be an integer"),
        ({"top_p": 0.0}, OptionError, r"top_p must be in \(0, 1\]; got 0.0"),
        ({"top_p": 1.1}, OptionError, r"top_p must be in \(0, 1\]; got 1.1"),
    ],
)
def test_options_out_of_range(options, error, message):
    with pytest.raises(error, match=message):
        sample(np.zeros(3), 0.5, **options)


def test_what_is_no_logits():
    for logits in ([0.0, np.nan], [0.0, np.inf], [-np.inf, -np.inf], [[0.0, 1.0], [-np.inf, np.nan]]):
        with pytest.raises(NonFiniteError, match="greedy: logits must be finite"):
            greedy(logits)
    with pytest.raises(ShapeError, match=r"logits must have shape \(..., V\) with V >= 1; got \(2, 0\)"):
        greedy(np.zeros((2, 0)))
    with pytest.raises(DTypeError, match="logits must be real numbers; got dtype complex128"):
        greedy([1j])
    with pytest.raises(ShapeError, match=r"uniform must have shape logits.shape\[:-1\] = \(2,\); got \(3,\)"):
        sample(np.zeros((2, 3)), np.zeros(3))
    for uniform in (1.0, -0.1, np.nan):
        with pytest.raises(OptionError, match=r"uniform must be numbers in \[0, 1\)"):
            sample(np.zeros(3), uniform)


# ------------------------------------------------------------------------------------------------ sentences


def test_drawn_sentences_have_their_probabilities():
    table, rng = TOYS["A"], np.random.default_rng(0)
    drawn = [words(h) for h in decode_sample(TableModel(table), *[0] * 4000, max_length=8, rng=rng)]
    for tokens, S in everything(table, 3, (A, B)):
        p = np.exp(S)
        share = drawn.count("".join({2: "$", A: "a", B: "b"}[i] for i in tokens)) / 4000
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / 4000)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.6, "temperature": 2.0}])
def test_a_sentence_is_drawn_by_its_own_numbers(options):
    model = TableModel(*TOYS.values())
    sources = [0, 1, 2, 0, 2]
    batch = decode_sample(model, *sources, max_length=6, rng=3, **options)
    uniform = np.random.default_rng(3).random((5, 6))
    for n, source in enumerate(sources):
        tokens, log_probs = [], []
        while len(tokens) < 6 and 2 not in tokens:
            with np.errstate(divide="ignore"):
                log_p = np.log(list(TOYS.values())[source](tuple(tokens)))
            tokens.append(int(sample(log_p, uniform[n, len(tokens)], **options)))
            log_probs.append(log_p[tokens[-1]])
        assert batch[n].tokens.tolist() == tokens and batch[n].finished == (tokens[-1] == 2)
        assert batch[n].log_probs.tolist() == log_probs  # the model's own, whatever the temperature
        assert batch[n].score == batch[n].total == sum(log_probs)
        [forced] = decode_forced(model, source, targets=[tokens])
        assert np.array_equal(forced.alpha, batch[n].alpha) and forced.score == batch[n].score
    for count in (1, 3):
        fewer = decode_sample(model, *sources[:count], max_length=6, rng=3, **options)
        assert [h.tokens.tolist() for h in fewer] == [h.tokens.tolist() for h in batch[:count]]
    # Cold, or one token at a time: greedy.
    for sure in ({"temperature": 1e-3}, {"top_k": 1}, {"top_p": 1e-9}):
        drawn = decode_sample(model, 0, 2, max_length=6, rng=0, **sure)
        assert [h.tokens.tolist() for h in drawn] == [
            h.tokens.tolist() for h in decode_greedy(model, 0, 2, max_length=6)
        ]


def test_sentences_are_not_drawn_by_impossible_options():
    model = TableModel(TOYS["A"])
    with pytest.raises(OptionError, match="decode_sample: temperature must be greater than 0;.* greedy"):
        decode_sample(model, max_length=3, temperature=0)
    with pytest.raises(DTypeError, match="decode_sample: rng must be"):
        decode_sample(model, max_length=3, rng=1.5)
    assert model.calls == []
    dead = TableModel(lambda prefix: [0, 0, 0, 0, 0] if prefix else [0, 0, 0, 1, 0])
    with pytest.raises(NonFiniteError, match="decode_sample: no token can follow: log p = -inf of all, after 1 tokens"):
        decode_sample(dead, max_length=3)
