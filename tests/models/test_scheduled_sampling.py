"""How often the own token is read, update by update; batches that are mixed so; what is refused."""

import math

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy import GRU, Adam
from rnn_numpy.errors import DTypeError, OptionError, StateDictError
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.models import EncoderDecoder, ExponentialDecay, InverseSigmoidDecay, LinearDecay, ScheduledSampling
from rnn_numpy.models.encoder_decoder import shifted
from rnn_numpy.tasks.pairs import Pairs
from rnn_numpy.training import evaluate, train

DECAYS = [LinearDecay(0.1, 0.9, 0.2), ExponentialDecay(0.7), InverseSigmoidDecay(3.0)]


def model_of():
    return EncoderDecoder(GRU(3, 4, rng=0), AttentionDecoder(3, 4, 4, rng=1), 8, 8, rng=2)


def batches_of(rng=3):
    draw = np.random.default_rng(4)
    words = [draw.integers(3, 8, length) for length in range(1, 9)]
    return Pairs.of(words, [[*word, 2] for word in words]).batches(4, rng=rng)


def test_decays_are_their_formulas_and_fall():
    steps = range(60)
    expected = [
        [max(0.2, 0.9 - 0.1 * i) for i in steps],
        [0.7**i for i in steps],
        [3 / (3 + math.exp(i / 3)) for i in steps],
    ]
    for decay, values in zip(DECAYS, expected, strict=True):
        assert [decay(i) for i in steps] == pytest.approx(values, rel=1e-14)
        assert all(0 <= decay(i + 1) <= decay(i) <= 1 for i in steps)
        assert 0 <= decay(10**9) <= decay(59)


@pytest.mark.parametrize(("right", "share"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_a_share_of_the_inputs_is_the_models_own(right, share):
    model, batches = model_of(), batches_of()
    forced = []
    for batch in ScheduledSampling(model, batches_of(), lambda i: right, rng=5):
        plain = next(batches)
        assert all(np.array_equal(a, b) for a, b in zip(batch, plain, strict=False))
        inputs, mask = shifted(batch[2]), np.arange(len(batch[2]))[:, None] < batch[3]
        assert np.array_equal(batch[4][0], inputs[0]), "BOS stays"
        forced.append((batch[4] == inputs)[1:][mask[1:]])
        if len(forced) == 40:
            break
    equal = np.mean(np.concatenate(forced))
    # An untrained net draws the right one of six tokens now and then.
    by_chance = 1 / 6
    assert equal == 1 if share == 0 else abs(equal - (1 - share + share * by_chance)) < 0.05


def test_it_moves_on_with_each_batch_and_stands_where_its_batches_do():
    seen = []

    def decay(i):
        seen.append(i)
        return 0.5

    model = model_of()
    mixed = ScheduledSampling(model, batches_of(), decay, by="sequence", greedy=True, rng=0)
    training = train(model, mixed, Adam(model.params, 0.01), accumulate=2)
    for _ in range(2):
        next(training)
    assert seen == [0, 1, 2, 3]
    assert (mixed.drawn, mixed.epoch, len(mixed)) == (4, 2, 2)
    assert repr(mixed).startswith("ScheduledSampling: ")
    place = mixed.state_dict()["batches"]["position"]
    losses = [evaluate(model, batches) for batches in (mixed, mixed.batches, list(mixed.batches.in_order()))]
    assert losses == losses[:1] * 3
    assert mixed.state_dict()["batches"]["position"] == place
    again = ScheduledSampling(model, batches_of(9), decay, by="sequence", greedy=True, rng=8)
    again.load_state_dict(mixed.state_dict())
    assert all(np.array_equal(a, b) for a, b in zip(next(again), next(mixed), strict=True))
    assert again.drawn == 5


def test_refusals():
    model, batches = model_of(), batches_of()
    for call, error, message in (
        (lambda: LinearDecay(-1.0), OptionError, None),
        (lambda: LinearDecay(0.1, least=1.5), OptionError, None),
        (lambda: LinearDecay(0.1, first=0.2, least=0.3), OptionError,
         "LinearDecay: least must be at most first = 0.2; got 0.3"),
        (lambda: ExponentialDecay(1.1), OptionError, "ExponentialDecay: k must be in [0, 1]; got 1.1"),
        (lambda: InverseSigmoidDecay(0.5), OptionError, "InverseSigmoidDecay: k must be at least 1; got 0.5"),
        (lambda: ScheduledSampling(GRU(2, 2), batches, DECAYS[0]), DTypeError,
         "ScheduledSampling: model must be an EncoderDecoder; got GRU"),
        (lambda: ScheduledSampling(model, batches, 0.5), DTypeError,
         "ScheduledSampling: decay must be callable, with the number of a batch; got 0.5"),
        (lambda: ScheduledSampling(model, batches, DECAYS[0], by="word"), OptionError,
         "ScheduledSampling: by must be one of 'step', 'sequence'; got 'word'"),
        (lambda: next(ScheduledSampling(model, batches, lambda i: 1.5)), OptionError,
         "ScheduledSampling: decay(i) must be in [0, 1]; got 1.5"),
    ):  # fmt: skip
        if message is None:
            with pytest.raises(error, match=r"^LinearDecay: "):
                call()
        else:
            assert_raises(error, message, call)
    state = ScheduledSampling(model, batches_of(), DECAYS[0]).state_dict()
    other = ScheduledSampling(model, batches_of(), DECAYS[1])
    with pytest.raises(
        StateDictError, match=r"^ScheduledSampling.load_state_dict: decay is 'ExponentialDecay\(k=0.7\)'"
    ):
        other.load_state_dict(state)
