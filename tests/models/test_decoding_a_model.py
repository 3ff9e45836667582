"""Decoding of `EncoderDecoder`, as a user would: train, decode, look at scores and weights."""

import itertools

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.core.symbols import EOS
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.models import beam_search, decode_forced, decode_greedy, decode_sample, search_errors
from rnn_numpy.models.encoder_decoder import EncoderDecoder
from rnn_numpy.tasks.pairs import padded
from rnn_numpy.training import Adam

V = 7  # of PAD, BOS, EOS, and four symbols
MODELS = {
    "after": lambda dtype: (
        GRU(4, 6, bidirectional=True, dtype=dtype, rng=0), AttentionDecoder(4, 5, 12, dtype=dtype, rng=1)
    ),
    "before": lambda dtype: (
        LSTM(4, 6, dtype=dtype, rng=0),
        AttentionDecoder(
            4, 6, 6, cell="lstm", order="before", score="additive", coverage=True, num_layers=2, dtype=dtype, rng=1
        ),
    ),
    "feeding": lambda dtype: (
        RNN(4, 6, bidirectional=True, dtype=dtype, rng=0),
        AttentionDecoder(4, 5, 12, cell="rnn", input_feeding=True, dtype=dtype, rng=1),
    ),
}  # fmt: skip


def made(name, dtype=np.float64, sharpness=4):
    model = EncoderDecoder(*MODELS[name](dtype), source_vocabulary=V, target_vocabulary=V, rng=2)
    model.readout.params["weight"][...] *= sharpness  # so that choices are clear, and sentences differ
    return model


def sources(N=6):
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 9, N)
    return padded([rng.integers(3, V, length) for length in lengths])


def decoded(model, source, lengths, **shared):
    """All ways of decoding that draw nothing, as lists of hypotheses of each sentence."""
    options = {"max_length": 9, "beam": 5, "n_best": 5, "length_power": 0.7}
    greedy = decode_greedy(model, source, lengths, max_length=9, **shared)
    searched = beam_search(model, source, lengths, **options, **shared)
    forced = decode_forced(model, source, lengths, targets=[[3, 4, EOS]] * len(lengths), **shared)
    return [[one, *many, other] for one, many, other in zip(greedy, searched, forced, strict=True)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_batch_gives_what_each_sentence_gives_alone(name, dtype):
    model, (source, lengths) = made(name, dtype), sources()
    together = decoded(model, source, lengths)
    for n, length in enumerate(lengths):
        [alone] = decoded(model, source[:length, n : n + 1], lengths[n : n + 1])
        assert len(alone) == len(together[n])
        for one, other in zip(alone, together[n], strict=True):
            assert one.tokens.tolist() == other.tokens.tolist() and one.score == other.score
            assert one.log_probs.tolist() == other.log_probs.tolist() and one.log_probs.dtype == np.float64
            assert np.array_equal(one.alpha, other.alpha) and one.alpha.shape == (len(one.tokens), length)
    # In another order, and of a source that stands there twice.
    order = [3, 0, 0, 5]
    for one, n in zip(decoded(model, source[:, order], lengths[order]), order, strict=True):
        assert [h.score for h in one] == [h.score for h in together[n]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("together", [2, 4, 6])
def test_sentences_that_share_calls_differ_by_rounding_alone(name, together):
    model, (source, lengths) = made(name), sources()
    alone, shared = decoded(model, source, lengths), decoded(model, source, lengths, together=together)
    for one, other in zip(itertools.chain(*alone), itertools.chain(*shared), strict=True):
        assert one.tokens.tolist() == other.tokens.tolist() and one.finished == other.finished
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=1e-11)
        np.testing.assert_allclose(one.alpha, other.alpha, rtol=1e-11)
    drawn = [decode_sample(model, source, lengths, max_length=9, rng=0, together=count) for count in (1, together)]
    assert [h.tokens.tolist() for h in drawn[0]] == [h.tokens.tolist() for h in drawn[1]]


@pytest.mark.parametrize("name", MODELS)
def test_all_sentences_there_are_scored_as_in_training(name):
    model, (source, lengths) = made(name, sharpness=2), sources(2)
    for n, found in enumerate(beam_search(model, source, lengths, max_length=3, beam=5**3, n_best=30)):
        assert {tuple(h.tokens) for h in found} == {
            (*symbols, EOS) for size in range(3) for symbols in itertools.product(range(3, V), repeat=size)
        }
        assert sorted(-h.score for h in found) == [-h.score for h in found]
        one, length = source[: lengths[n], n : n + 1], lengths[n : n + 1]
        for h in found:
            loss = model.loss_of(one, length, *padded([h.tokens]))
            np.testing.assert_allclose(h.total, -loss * len(h.tokens), rtol=1e-12)
            [forced] = decode_forced(model, one, length, targets=[h.tokens])
            np.testing.assert_allclose(forced.log_probs, h.log_probs, rtol=1e-11)
            np.testing.assert_allclose(forced.alpha, h.alpha, rtol=1e-11)
            np.testing.assert_allclose(h.alpha.sum(axis=1), 1, rtol=1e-14)


def test_learned_sentences_end_by_themselves():
    """Copying: train, then greedy, a beam, samples, and the errors of the search."""
    rng = np.random.default_rng(0)
    model = EncoderDecoder(
        GRU(8, 16, bidirectional=True, rng=0), AttentionDecoder(8, 16, 32, rng=1), source_vocabulary=V,
        target_vocabulary=V, rng=2,
    )  # fmt: skip
    optimizer = Adam(model.params, lr=0.02)
    for _ in range(400):
        words = [rng.integers(3, V, rng.integers(1, 5)) for _ in range(16)]
        _, grads, _ = model.loss_and_grads(*padded(words), *padded([[*word, EOS] for word in words]))
        optimizer.step(grads)
    words = [[3], [6, 4], [5, 5, 3], [4, 6, 3, 5]]
    batch, answers = padded(words), [[*word, EOS] for word in words]
    for found in (
        decode_greedy(model, *batch, max_length=8),
        [best for best, *_ in beam_search(model, *batch, max_length=8, beam=3, n_best=2)],
        decode_sample(model, *batch, max_length=8, temperature=0.2, rng=0),
    ):
        assert [h.tokens.tolist() for h in found] == answers
        assert all(h.finished for h in found)
    report = search_errors(model, *batch, references=[[answer] for answer in answers], max_length=8)
    assert report.right.all()
    # Before the last symbol a bound cuts off what would have gone on.
    assert [h.finished for h in decode_greedy(model, *batch, max_length=3)] == [True, True, False, False]
