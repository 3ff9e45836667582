"""What all models share: one vector, what a mean counts, generators, states carried from window to window."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, Linear
from rnn_numpy.errors import StateDictError
from rnn_numpy.models import Model, SequenceModel


def test_a_layers_parameters_are_views_of_the_models():
    model = SequenceModel(GRU(2, 3, rng=0), 2, rng=1)
    model.params.flat[:] = 0
    assert not model.rnn.params.flat.any() and not model.readout.params.flat.any()
    assert list(model.state_dict()) == list(model.params) and model.dtype == np.float64
    model.load_state_dict({name: np.full(array.shape, 2.0) for name, array in model.state_dict().items()})
    assert (model.readout.params["bias"] == 2).all()
    with pytest.raises(StateDictError, match="names must be"):
        model.load_state_dict({})


def test_what_a_mean_counts():
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(6, 4, 2)), [3, 6, 1, 5]
    mask = rng.random((6, 4)) < 0.5
    for loss, target, each in (
        ("mse", rng.normal(size=(6, 4, 3)), 3),
        ("cross_entropy", rng.integers(3, size=(6, 4)), 1),
    ):
        model = SequenceModel(GRU(2, 3, rng=0), 3, reads="all", loss=loss, rng=1)
        assert model.count(x, target) == 24 * each
        assert model.count(x, target, None, lengths) == 15 * each
        assert model.count(x, target, mask) == mask.sum() * each
        # Sums over parts of a batch add up to the sum over all of it.
        parts = [(x[:, n], target[:, n], None, lengths[n]) for n in (slice(0, 1), slice(1, 4))]
        sums = [model.count(*part) * model.loss_of(*part) for part in parts]
        whole = model.count(x, target, None, lengths) * model.loss_of(x, target, None, lengths)
        assert sum(sums) == pytest.approx(whole, rel=1e-14)
    last = SequenceModel(GRU(2, 3, rng=0), 3, rng=1)
    assert last.count(x, target[0], None, lengths) == 4
    entries = rng.random((6, 4, 3)) < 0.5
    every = SequenceModel(GRU(2, 3, rng=0), 3, reads="all", rng=1)
    assert every.count(x, np.zeros((6, 4, 3)), entries) == entries.sum()


def test_a_state_goes_from_window_to_window():
    rng = np.random.default_rng(0)
    model = SequenceModel(LSTM(2, 3, num_layers=2, rng=0), 1, reads="all", rng=1)
    x, target = rng.normal(size=(8, 4, 2)), rng.normal(size=(8, 4, 1))
    state, losses = None, []
    for window in (slice(0, 4), slice(4, 8)):
        loss, grads, _ = model.loss_and_grads(x[window], target[window], h_0=state)
        assert loss == pytest.approx(float(model.loss_of(x[window], target[window], h_0=state)), rel=1e-14)
        losses.append(loss)
        state = model(x[window], state)[1]
    assert np.mean(losses) == pytest.approx(float(model.loss_of(x, target)), rel=1e-13)
    # The state is a constant: what the second window says of the first one is left out.
    _, whole, _ = model.loss_and_grads(x, target, np.repeat([False, True], 4)[:, None] & np.ones((8, 4), bool))
    np.testing.assert_allclose(grads["readout.weight"], whole["readout.weight"], rtol=1e-12)
    assert not np.allclose(grads["rnn.weight_hh_l0"], whole["rnn.weight_hh_l0"], rtol=1e-3)


def test_generators_are_those_of_dropout():
    model = SequenceModel(LSTM(2, 3, num_layers=2, dropout=0.5, rng=0), 1, rng=1)
    assert model.generators() == {"rnn": model.rnn.rng}
    x, target = np.ones((3, 2, 2)), np.zeros((2, 1))
    before = model.generators()["rnn"].bit_generator.state
    first = model.loss_and_grads(x, target)[0]
    assert model.loss_and_grads(x, target)[0] != first
    model.generators()["rnn"].bit_generator.state = before
    assert model.loss_and_grads(x, target)[0] == first


def test_a_model_brings_its_loss():
    class Half(Model):
        layers = ("readout",)

    with pytest.raises(TypeError, match="abstract"):
        Half()

    class Whole(Half):
        def __init__(self):
            self.readout = Linear(2, 1, rng=0)
            self.join()

        def loss_and_grads(self, *batch):
            return 0.0, self.params.zeros_like(), None

        loss_of = count = loss_and_grads

    assert list(Whole().params) == ["readout.weight", "readout.bias"] and Whole().generators() == {}
    assert repr(Whole()) == "Whole(Linear(2, 1, dtype=float64))"
