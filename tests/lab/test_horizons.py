"""dL_h/dW by horizon: the exact gradient, its two parts, and what stopping at what is fed back loses."""

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab import horizon_gradients
from rnn_numpy.models import Rollout, SequenceModel


def small(layer=GRU, horizon=6, **options):
    out = Rollout(SequenceModel(layer(2, 3, num_layers=2, rng=0, **options), 2, reads="all", rng=1))
    rng = np.random.default_rng(2)
    x, target = rng.normal(size=(4, 3, 2)), rng.normal(size=(horizon, 3, 2))
    if out.model.rnn.batch_first:
        x, target = x.swapaxes(0, 1), target.swapaxes(0, 1)
    return out, x, target


@pytest.mark.parametrize("layer", [RNN, LSTM, GRU])
def test_the_two_ways_add_up_to_the_gradient(layer):
    found = horizon_gradients(*small(layer))
    for name in (None, *found.params):
        exact, *ways = (found.gradient(kind, name) for kind in ("exact", "recurrence", "feedback"))
        for h, row in enumerate(exact):
            assert np.abs(row - ways[0][h] - ways[1][h]).max() < 1e-14 * np.abs(row).max()
    assert not found.gradient("feedback")[0].any() and (found.norms("feedback")[1:] > 1e-3 * found.norms()[1:]).all()


@pytest.mark.parametrize(("kind", "mode"), [("exact", "free"), ("recurrence", "stop"), ("teacher", "teacher")])
@pytest.mark.parametrize("options", [{}, {"batch_first": True}])
def test_horizons_add_up_to_the_whole_loss(kind, mode, options):
    out, x, target = small(**options)
    h_0, lengths = np.random.default_rng(3).normal(size=(2, 3, 3)), [2, 4, 3]
    found = horizon_gradients(out, x, target, h_0, lengths)
    loss, grads, _ = Rollout(out.model, mode).loss_and_grads(x, target, None, lengths, h_0)
    if mode != "teacher":
        assert found.losses.mean() == pytest.approx(float(loss), rel=1e-14)
    whole = found.gradient(kind).mean(axis=0)
    assert np.abs(whole - grads.flat).max() < 1e-14 * np.abs(grads.flat).max()


def test_the_linear_net_has_the_polynomials_parts():
    # y_k = v h_k, h_k = a u_k + b h_{k-1}, all powers of two: no rounding. The target is 1 below each prediction,
    # so that dL_h/dy = 2.
    a, b, v = 0.5, 0.25, 0.5
    model = SequenceModel(RNN(1, 1, nonlinearity="relu", bias=False), 1, reads="all")
    model.params.flat[:] = a, b, v, 0.0
    x, g, H = np.ones((1, 1, 1)), a * v + b, 6
    predictions, _ = Rollout(model)(x, H)
    found = horizon_gradients(Rollout(model), x, predictions - 1)
    assert found.losses.tolist() == [1.0] * H
    by_v = {kind: found.gradient(kind, "readout.weight").ravel() for kind in ("exact", "recurrence", "feedback")}
    for k in range(H):
        path = k * g ** (k - 1) * v * a if k else 0.0
        assert by_v["recurrence"][k] == 2 * a * g**k and by_v["feedback"][k] == 2 * a * path
        assert by_v["exact"][k] == 2 * a * (g**k + path)


def test_norms_and_cosines():
    found = horizon_gradients(*small())
    name = "rnn.weight_hh_l1"
    exact, stopped = found.gradient("exact", name), found.gradient("recurrence", name)
    assert exact.shape == (6, 9, 3) and found.gradient("exact").shape == (6, found.params.flat.size)
    np.testing.assert_allclose(found.norms("exact", name), np.sqrt((exact**2).sum(axis=(1, 2))), rtol=1e-14)
    cosines = (exact * stopped).sum(axis=(1, 2)) / (found.norms("exact", name) * found.norms("recurrence", name))
    np.testing.assert_allclose(found.cosines("recurrence", name), cosines, rtol=1e-13)
    lost = np.sqrt(((exact - stopped) ** 2).sum(axis=(1, 2))) / found.norms("exact", name)
    np.testing.assert_allclose(found.lost(name)[1:], lost[1:], rtol=1e-12)
    assert found.lost()[0] == 0 and np.isnan(found.cosines("feedback")[0])
    assert repr(found).splitlines()[0] == "HorizonGradients of 6 horizons" and len(repr(found).splitlines()) == 8


def test_a_gradient_of_zero_has_no_direction():
    out, x, target = small()
    out.params.flat[:] = 0
    found = horizon_gradients(out, x, target)
    assert np.isnan(found.cosines(name="rnn.weight_hh_l0")).all() and np.isnan(found.lost("rnn.weight_hh_l0")).all()


def test_refusals():
    out, x, target = small()
    with pytest.raises(
        DTypeError, match=r"^horizon_gradients: rollout must be a Rollout of a model; got SequenceModel$"
    ):
        horizon_gradients(out.model, x, target)
    with pytest.raises(DTypeError, match=r"^horizon_gradients: target must have dtype float64"):
        horizon_gradients(out, x, target.astype(np.float32))
    found = horizon_gradients(out, x, target)
    with pytest.raises(
        OptionError, match=r"kind must be one of 'exact', 'recurrence', 'feedback', 'teacher'; got 'all'"
    ):
        found.gradient("all")
    with pytest.raises(OptionError, match=r"name must be one of rnn\.weight_ih_l0, .*, or left out; got 'W'"):
        found.norms("exact", "W")
