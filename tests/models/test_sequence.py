"""Models of a recurrent layer and a readout: exact gradients of every head, lengths, copies."""

import copy
import pickle

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Forecaster, Linear, Parameters, PeepholeLSTM
from rnn_numpy.engine import CheckpointedTrace, binding, checkpointed
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.models import SequenceModel
from rnn_numpy.training import Adam

LAYERS = {
    "rnn": lambda: RNN(2, 3, rng=0),
    "rnn-2-bi": lambda: RNN(2, 3, num_layers=2, bidirectional=True, rng=0),
    "lstm": lambda: LSTM(2, 3, num_layers=2, rng=0),
    "lstm-proj-bi": lambda: LSTM(2, 3, bidirectional=True, proj_size=2, rng=0),
    "gru-bi": lambda: GRU(2, 3, bidirectional=True, rng=0),
    "peephole": lambda: PeepholeLSTM(2, 3, rng=0),
    "batch-first": lambda: GRU(2, 3, batch_first=True, rng=0),
}


def data(model, T=6, N=4, seed=1):
    rng = np.random.default_rng(seed)
    shape = (N, T) if model.rnn.batch_first else (T, N)
    leading = shape if model.reads == "all" else (N,)
    K = model.readout.out_features
    target = rng.normal(size=(*leading, K)) if model.loss == "mse" else rng.integers(K, size=leading)
    return rng.normal(size=(*shape, 2)), target


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("reads", ["last", "all"])
@pytest.mark.parametrize("lengths", [None, [3, 6, 1, 5]], ids=["full", "padded"])
@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_are_those_of_the_complex_step(layer, lengths, reads, loss):
    model = SequenceModel(LAYERS[layer](), 3, reads=reads, loss=loss, rng=1)
    x, target = data(model)
    value, grads, _ = model.loss_and_grads(x, target, lengths=lengths)
    assert value == pytest.approx(float(model.loss_of(x, target, lengths=lengths)), rel=1e-14)
    twin = model.astype(np.complex128)
    reference = np.empty_like(grads.flat)
    for index in range(grads.flat.size):
        twin.params.flat[:] = model.params.flat
        twin.params.flat[index] += 1e-20j
        reference[index] = twin.loss_of(x.astype(complex), target, lengths=lengths).imag / 1e-20
    for name, ours in grads.items():
        theirs = Parameters(grads.shapes, np.float64, reference)[name]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-14 * np.abs(theirs).max(), err_msg=name)
        assert np.abs(theirs).max() > 0, name


def test_the_last_step_is_each_sequences_own():
    model = SequenceModel(LSTM(2, 3, rng=0), 2, rng=1)
    x, _ = data(model)
    together, _ = model(x, lengths=[3, 6, 1, 5])
    for n, length in enumerate([3, 6, 1, 5]):
        np.testing.assert_allclose(together[n], model(x[:length, n : n + 1])[0][0], rtol=1e-13)
    output, _ = model.rnn(x)
    np.testing.assert_allclose(model(x)[0], model.readout(output[-1]), rtol=1e-14)


def test_padding_does_not_count():
    model = SequenceModel(GRU(2, 3, rng=0), 2, reads="all", rng=1)
    x, target = data(model)
    spoilt = x.copy(), target.copy()
    spoilt[0][3:, 0] = spoilt[1][3:, 0] = 1e6
    lengths = [3, 6, 6, 6]
    loss, grads, _ = model.loss_and_grads(x, target, lengths=lengths)
    other, others, _ = model.loss_and_grads(*spoilt, lengths=lengths)
    assert loss == other and np.array_equal(grads.flat, others.flat)
    mask = np.zeros((6, 4), bool)
    mask[2] = True
    expected = ((model(x, lengths=lengths)[0][2] - target[2]) ** 2).mean()
    assert float(model.loss_of(x, target, mask, lengths)) == pytest.approx(expected, rel=1e-14)


def test_copies_and_pickles_are_whole_and_on_their_own():
    model = SequenceModel(LSTM(2, 3, rng=0), 2, rng=1)
    x, target = data(model)
    loss = model.loss_of(x, target)
    for twin in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.astype(np.float64)):
        assert twin.loss_of(x, target) == loss and (twin.reads, twin.loss) == ("last", "mse")
        twin.params.flat[:] = 0
        assert twin.loss_of(x, target) != loss and not twin.rnn.params.flat.any()
        assert model.loss_of(x, target) == loss


def test_a_forecaster_is_one_that_reads_all_steps():
    model = Forecaster(2, 3, cell="gru", rng=0)
    assert isinstance(model, SequenceModel) and (model.reads, model.loss) == ("all", "mse")
    assert repr(model).startswith("Forecaster(GRU(2, 3")
    twin = SequenceModel(GRU(2, 3, rng=5), 2, reads="all", rng=6)
    twin.params.flat[:] = model.params.flat
    x, target = data(model)
    assert twin.loss_of(x, target) == model.loss_of(x, target)


def test_training_lowers_the_loss_in_float32():
    rng = np.random.default_rng(0)
    model = SequenceModel(LSTM(1, 8, dtype=np.float32, rng=0), 1, rng=0)
    optimizer = Adam(model.params, 0.02)
    x = rng.random((8, 64, 1)).astype(np.float32)
    target = x.mean(axis=0)
    losses = []
    for _ in range(150):
        loss, grads, _ = model.loss_and_grads(x, target)
        optimizer.step(grads)
        losses.append(float(loss))
    assert model.params.dtype == np.float32
    assert losses[-1] < 0.05 * float(target.var()) < losses[0]


def test_refusals():
    with pytest.raises(DTypeError, match="SequenceModel: rnn must be a recurrent layer: RNN, LSTM or GRU; got Linear"):
        SequenceModel(Linear(1, 1), 1)
    with pytest.raises(OptionError, match="SequenceModel: reads must be one of 'last', 'all'; got 'first'"):
        SequenceModel(RNN(1, 1), 1, reads="first")
    with pytest.raises(OptionError, match="SequenceModel: loss must be one of 'mse', 'cross_entropy'; got 'mae'"):
        SequenceModel(RNN(1, 1), 1, loss="mae")
    model = SequenceModel(RNN(2, 3, rng=0), 2)
    x, target = data(model)
    with pytest.raises(ShapeError, match="mse_loss: target must have shape prediction.shape"):
        model.loss_and_grads(x, target[:, :1])


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [30, 4, 17]])
@pytest.mark.parametrize(
    ("reads", "loss", "options"),
    [("all", "mse", {}), ("all", "cross_entropy", {"bidirectional": True}), ("last", "cross_entropy", {}),
     ("all", "cross_entropy", {})],
)  # fmt: skip
def test_long_sequences_block_by_block(reads, loss, options, lengths, batch_first, monkeypatch):
    """Loss and gradients are those of one pass, to rounding; no more than a block's predictions exist at a time."""
    monkeypatch.setattr(binding, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(checkpointed, "KEPT_BYTES", 0)
    rng = np.random.default_rng(0)
    model = SequenceModel(GRU(2, 5, batch_first=batch_first, rng=0, **options), 3, reads=reads, loss=loss, rng=0)
    x = rng.normal(size=(3, 30, 2) if batch_first else (30, 3, 2))
    shape = x.shape[:2] if reads == "all" else (3,)
    target = rng.integers(3, size=shape) if loss == "cross_entropy" else rng.normal(size=(*shape, 3))
    predictions = []
    forward = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda self, read: predictions.append(read.size) or forward(self, read))
    expected, grads, _ = model.loss_and_grads(x, target, lengths=lengths)
    found, blocks, trace = model.loss_and_grads(x, target, lengths=lengths, checkpoint=1)
    assert isinstance(trace, CheckpointedTrace) and len(trace.sections["l0"].blocks) > 2
    assert abs(found - expected) < 1e-14 * expected
    assert np.abs(blocks.flat - grads.flat).max() < 1e-14 * np.abs(grads.flat).max()
    if reads == "all" and not options:
        assert max(predictions[1:]) < predictions[0] / 3
