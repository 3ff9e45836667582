"""An encoder and a decoder that reads its own predictions: exact gradients of both, copies, refusals."""

import copy
import pickle

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Adam, Linear, gradcheck
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.models import Seq2SeqForecaster


def model(kind=LSTM, mode="free", **options):
    return Seq2SeqForecaster(kind(2, 3, rng=0, **options), kind(2, 3, rng=1, **options), mode=mode, rng=2)


def data(T=3, N=3, H=4):
    rng = np.random.default_rng(3)
    return rng.normal(size=(T, N, 2)), rng.normal(size=(H, N, 2))


@pytest.mark.parametrize("mode", ["free", "teacher"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(RNN, {}), (LSTM, {"num_layers": 2}), (GRU, {"batch_first": True})],
    ids=["rnn", "lstm-2", "gru-batch-first"],
)
def test_gradients(kind, options, mode):
    x, target = (a.swapaxes(0, 1) for a in data()) if "batch_first" in options else data()
    mask = np.ones(target.shape, bool)
    mask[1, 2] = False
    net = model(kind, mode, **options)
    names = [name for name in net.params if "bias" not in name or "readout" in name]
    report = gradcheck(net, x, target, mask, names=names, trials=False)
    assert report.ok, report
    assert all(np.any(array) for array in net.loss_and_grads(x, target)[1].values())
    assert net.loss_and_grads(x, target, mask)[0] == net.loss_of(x, target, mask)
    assert net.count(x, target, mask) == mask.sum()


def test_it_goes_on_from_the_last_value_and_the_encoders_state():
    net = model()
    x, target = data()
    _, state = net.encoder(x)
    read, made = x[-1:], []
    for _ in range(4):
        output, state = net.decoder(read, state)
        read = net.readout(output)
        made.append(read)
    assert np.array_equal(net(x, 4), np.concatenate(made))
    assert net.loss_of(x, target) == pytest.approx(float(((net(x, 4) - target) ** 2).mean()), rel=1e-14)
    assert np.array_equal(model(mode="teacher")(x, 4), net(x, 4))
    stop = model(mode="stop")
    assert stop.loss_of(x, target) == net.loss_of(x, target)
    assert not np.allclose(stop.loss_and_grads(x, target)[1].flat, net.loss_and_grads(x, target)[1].flat, rtol=1e-3)


def test_copies_and_pickles_are_whole_and_on_their_own():
    net = model()
    x, target = data()
    loss, grads, _ = net.loss_and_grads(x, target)
    for twin in (copy.copy(net), pickle.loads(pickle.dumps(net)), net.astype(np.float64)):
        other, others, _ = twin.loss_and_grads(x, target)
        assert other == loss and np.array_equal(others.flat, grads.flat)
        twin.params.flat[:] = 0
        assert not twin.encoder.params.flat.any() and twin.loss_of(x, target) != loss == net.loss_of(x, target)
    assert set(net.generators()) == {"encoder", "decoder"}


def test_training_lowers_the_loss():
    net = Seq2SeqForecaster(GRU(1, 8, dtype=np.float32, rng=0), GRU(1, 8, dtype=np.float32, rng=1), rng=2)
    wave = np.sin(0.5 * np.arange(40.0)[:, None] + np.arange(4.0)).reshape(40, 4, 1).astype(np.float32)
    optimizer = Adam(net.params, 0.02)
    losses = []
    for _ in range(100):
        loss, grads, _ = net.loss_and_grads(wave[:30], wave[30:])
        optimizer.step(grads)
        losses.append(float(loss))
    assert loss.dtype == np.float32 and losses[-1] < 0.05 * losses[0]


def test_refusals():
    def message(kind, *arguments, **options):
        with pytest.raises(kind) as told:
            Seq2SeqForecaster(*arguments, **options)
        return str(told.value)

    one = GRU(2, 3, rng=0)
    assert message(DTypeError, one, Linear(2, 3)).startswith("Seq2SeqForecaster: decoder must be a recurrent layer")
    assert message(OptionError, GRU(2, 3, bidirectional=True), one).startswith(
        "Seq2SeqForecaster: encoder must not be bidirectional"
    )
    assert message(OptionError, one, one).endswith("must be two layers; got one for both")
    assert message(OptionError, one, GRU(2, 3), mode="half").endswith("'teacher', 'free', 'stop'; got 'half'")
    for other, told in (
        (GRU(1, 3), "input_size, 2; got 1"),
        (GRU(2, 3, 2), "num_layers, 1; got 2"),
        (LSTM(2, 3), "widths, {'h': 3}; got {'h': 3, 'c': 3}"),
        (GRU(2, 3, dtype=np.float32), "dtype, float64; got float32"),
    ):
        assert message(ShapeError, one, other) == f"Seq2SeqForecaster: the decoder must have the encoder's {told}"
