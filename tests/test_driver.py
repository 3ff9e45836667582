"""The driver without the RNN: a cell with two states and two gates, written here, runs through the same loops.

    i = sigmoid(a_i),  g = tanh(a_g),  c = (1 - i) c_prev + i g,  h = tanh(c)

It needs no time loop of its own; its gradients come out right with layers, directions, lengths and dropout.
"""

import copy
import pickle
import threading

import numpy as np
import pytest

from rnn_numpy import RNN, Forecaster, Parameters
from rnn_numpy.core import memory
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.layers import Cell, Recurrent


def leaky_step_forward(a_t, h_prev, c_prev, W_hh, c_t, h_t):
    H = c_t.shape[-1]
    a_t += h_prev.dot(W_hh.T)
    a_t[..., :H] = (1 + np.tanh(a_t[..., :H] / 2)) / 2
    a_t[..., H:] = np.tanh(a_t[..., H:])
    i_t, g_t = a_t[..., :H], a_t[..., H:]
    c_t[...] = (1 - i_t) * c_prev + i_t * g_t
    h_t[...] = np.tanh(c_t)


def leaky_step_partials(a_t, c_prev, da_t):
    H = c_prev.shape[-1]
    i_t, g_t = a_t[..., :H], a_t[..., H:]
    da_t[..., :H] = (g_t - c_prev) * i_t * (1 - i_t)
    da_t[..., H:] = i_t * (1 - g_t * g_t)


def leaky_step_backward(dh_t, dc_t, h_t, a_t, W_hh, da_t, dh_prev, dc_prev):
    H = dc_t.shape[-1]
    dc_t += dh_t * (1 - h_t * h_t)
    da_t[..., :H] *= dc_t
    da_t[..., H:] *= dc_t
    dc_prev += dc_t * (1 - a_t[..., :H])
    dh_prev += da_t.dot(W_hh)


class Leaky(Recurrent):
    cell = Cell(2, ("h", "c"), leaky_step_forward, leaky_step_partials, leaky_step_backward)

    def __init__(self, *sizes, num_layers=1, dropout=0.0, bidirectional=False, dtype=np.float64, rng=None):
        super().__init__(*sizes, num_layers, True, False, dropout, bidirectional, dtype, rng)


@pytest.mark.parametrize("lengths", [None, [2, 4, 1]])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_cell_with_two_states_and_two_gates_needs_no_second_driver(lengths, bidirectional):
    rng = np.random.default_rng(3)
    layer = Leaky(2, 3, num_layers=2, dropout=0.4, bidirectional=bidirectional, rng=rng)
    directions = 2 if bidirectional else 1
    state_shape = (2 * directions, 3, 3)
    values = {"x": rng.normal(size=(4, 3, 2)), "h_0": rng.normal(size=state_shape), "c_0": rng.normal(size=state_shape)}
    output, (_, c_n), trace = layer.forward(values["x"], (values["h_0"], values["c_0"]), lengths)
    doutput, dh_n, dc_n = (rng.normal(size=a.shape) for a in (output, c_n, c_n))
    back = layer.backward(trace, doutput, (dh_n, dc_n))
    got = {"x": back.dx, "h_0": back.dh_0, "c_0": back.dc_0, **back.grads}

    twin = layer.astype(np.complex128)
    values |= layer.state_dict()
    for name, value in values.items():
        reference = np.empty_like(value)
        for index in np.ndindex(value.shape):
            changed = {key: array.astype(complex) for key, array in values.items()}
            changed[name][index] += 1e-20j
            twin.load_state_dict({key: changed[key] for key in layer.params})
            states = changed["h_0"], changed["c_0"]
            out, (h, c), _ = twin.forward(changed["x"], states, lengths, dropout_masks=trace.masks)
            reference[index] = ((doutput * out).sum() + (dh_n * h).sum() + (dc_n * c).sum()).imag / 1e-20
        error = np.abs(got[name] - reference).max() / np.abs(reference).max()
        assert error < 1e-13, f"{name}: relative error {error:.1e}"


def test_memory_is_not_handed_out_while_any_view_of_it_lives():
    arrays = [memory.empty((100, 100), np.dtype(np.float64)) for _ in range(4)]
    views = [array[::7].T for array in arrays]
    for number, array in enumerate(arrays):
        array.fill(number)
    del arrays, array
    for _ in range(20):
        memory.empty((100, 100), np.dtype(np.float64)).fill(-1)
    assert [int(view.min()) for view in views] == [int(view.max()) for view in views] == [0, 1, 2, 3]


def test_memory_is_used_again_once_free():
    memory.release()
    place = memory.empty((100, 100), np.dtype(np.float64)).ctypes.data
    assert memory.empty((100, 100), np.dtype(np.float64)).ctypes.data == place
    memory.release()


def test_memory_kept_is_limited(monkeypatch):
    memory.release()
    monkeypatch.setattr(memory, "LIMIT", 5 * 80000)
    arrays = [memory.empty((100, 100), np.dtype(np.float64)) for _ in range(9)]
    assert sum(block.size for block in memory._blocks) <= memory.LIMIT
    assert len({array.ctypes.data for array in arrays}) == 9
    memory.release()


def test_one_layer_in_many_threads_gives_the_gradients_of_one():
    layer = RNN(16, 32, 2, rng=0)
    inputs = [np.random.default_rng(seed).normal(size=(40, 8, 16)) for seed in range(4)]

    def gradients(x):
        output, _, trace = layer.forward(x)
        return layer.backward(trace, np.ones_like(output)).grads.flat

    expected = [gradients(x) for x in inputs]
    differing = []

    def work(number):
        for _ in range(5):
            if not np.array_equal(gradients(inputs[number]), expected[number]):
                differing.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert differing == []


def test_parameters_stay_views_of_one_vector_through_copies():
    params = Parameters({"a": (2, 2), "b": (3,)}, np.float64)
    for twin in (copy.deepcopy(params), pickle.loads(pickle.dumps(params)), params.copy(), params.astype(np.float32)):
        twin.flat[:] = 5
        assert (twin["a"] == 5).all() and (twin["b"] == 5).all()
    assert not params.flat.any()


def test_a_models_layers_follow_its_joint_vector_through_copies():
    model = Forecaster(2, 3, rng=0)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.astype(np.float32)):
        twin.params.flat[:] = 5
        assert (twin.rnn.params["weight_hh_l0"] == 5).all() and (twin.readout.params["weight"] == 5).all()
    assert not (model.params.flat == 5).any()


def test_parameters_that_changed_since_forward_are_noticed():
    layer = RNN(2, 3, rng=0)
    output, _, trace = layer.forward(np.ones((4, 2, 2)))
    expected = layer.backward(trace, np.ones_like(output)).grads.flat
    layer.params["weight_hh_l0"][0, 0] += 1e-12
    with pytest.raises(OptionError, match="^RNN.backward: the parameters have changed since forward"):
        layer.backward(trace, np.ones_like(output))
    layer.load_state_dict(RNN(2, 3, rng=0).state_dict())
    assert np.array_equal(layer.backward(trace, np.ones_like(output)).grads.flat, expected)


def test_a_trace_of_a_layer_with_another_nonlinearity_is_refused():
    layer, twin = RNN(2, 3, rng=0), RNN(2, 3, nonlinearity="relu", rng=0)
    _, _, trace = layer.forward(np.ones((4, 2, 2)))
    with pytest.raises(ShapeError, match="trace was recorded by a layer with other options, not by this RNN"):
        twin.backward(trace, None)


def test_check_finite_sees_the_initial_state():
    layer = RNN(2, 3, rng=0)
    h_0 = np.zeros((1, 2, 3))
    h_0[0, 1, 2] = np.inf
    with pytest.raises(NonFiniteError, match="h_0 is inf at layer . directions = 0, n = 1, unit = 2"):
        layer.forward(np.ones((4, 2, 2)), h_0, check_finite=True)


@pytest.mark.parametrize("mask", [np.ones((4, 3, 3), complex), np.full((4, 3, 3), "1.0")])
def test_dropout_masks_must_be_real(mask):
    layer = RNN(2, 3, 2, rng=0)
    with pytest.raises(DTypeError, match=r"RNN.forward: dropout_masks\[0\] must hold real numbers; got dtype"):
        layer.forward(np.ones((4, 3, 2)), dropout_masks=[mask])
