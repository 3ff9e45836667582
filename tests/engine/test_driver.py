"""The driver without the RNN: a cell with two states and two gates, written here, runs through the same loops.

    i = sigmoid(a_i),  g = tanh(a_g),  c = (1 - i) c_prev + i g,  h = tanh(c)

It needs no time loop of its own; its gradients come out right with layers, directions, lengths and dropout.
"""

import copy
import dataclasses
import functools
import gc
import pickle
import threading
import tracemalloc

import numpy as np
import pytest

from rnn_numpy import LSTM, RNN, SGD, Forecaster, Parameters
from rnn_numpy.checks.conformance import Case, conformance_failures
from rnn_numpy.core import memory
from rnn_numpy.engine import Cell, ExtraParameter, Recurrent
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.binding import InPieces
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError


def leaky_step_forward(a_t, i_t, g_t, h_in, c_prev, W_hh, c_t, h_t):
    a_t += W_hh.dot(h_in)
    i_t[...] = (1 + np.tanh(i_t / 2)) / 2
    g_t[...] = np.tanh(g_t)
    c_t[...] = (1 - i_t) * c_prev + i_t * g_t
    h_t[...] = np.tanh(c_t)


def leaky_step_partials(i_t, g_t, c_prev, da_i_t, da_g_t):
    da_i_t[...] = (g_t - c_prev) * i_t * (1 - i_t)
    da_g_t[...] = i_t * (1 - g_t * g_t)


def leaky_step_backward(dh_t, dc_t, h_t, i_t, W_hh, da_t, da_i_t, da_g_t, dh_in, dc_prev):
    dc_t += dh_t * (1 - h_t * h_t)
    da_i_t *= dc_t
    da_g_t *= dc_t
    dc_prev += dc_t * (1 - i_t)
    dh_in += W_hh.T.dot(da_t)


class Leaky(Recurrent):
    cell = Cell(("i", "g"), ("h", "c"), leaky_step_forward, leaky_step_backward, leaky_step_partials)


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


@pytest.mark.parametrize("entries", [1024, 1025, 10**4, 10**5 + 1])
def test_an_array_begins_at_a_cache_line(entries):
    for kind in (np.float32, np.float64):
        array = memory.empty((entries,), np.dtype(kind))
        assert (array.ctypes.data % memory.ALIGNED, array.size, array.dtype) == (0, entries, kind)


def test_memory_kept_is_limited(monkeypatch):
    memory.release()
    monkeypatch.setattr(memory, "LIMIT", 5 * 80000)
    arrays = [memory.empty((100, 100), np.dtype(np.float64)) for _ in range(9)]
    assert sum(block.size for block in memory._blocks) <= memory.LIMIT
    assert len({array.ctypes.data for array in arrays}) == 9
    memory.release()


@pytest.mark.parametrize("batch", [16, 17, 64])
@pytest.mark.parametrize("shape", [(512, 128), (384, 256), (96, 384), (1024, 512)])
def test_a_product_in_pieces_is_the_product(shape, batch):
    rng = np.random.default_rng(0)
    weight, columns = rng.normal(size=shape), rng.normal(size=(shape[1], batch))
    for order in "CF":
        laid_out = np.array(weight, order=order)
        product = laid_out.view(InPieces).dot(columns)
        assert type(product) is np.ndarray and product.flags.c_contiguous
        bound = np.abs(weight) @ np.abs(columns)
        assert np.all(np.abs(product - weight @ columns) <= 2 * shape[1] * np.finfo(float).eps * bound)
        assert type(laid_out.view(InPieces).T) is InPieces


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
    twins = copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.astype(np.float32)
    for twin in twins:
        twin.params.flat[:] = 5
        assert (twin.rnn.params["weight_hh_l0"] == 5).all() and (twin.readout.params["weight"] == 5).all()
    assert not (model.params.flat == 5).any()
    model.params.flat[:] = 6
    assert (model.rnn.params["weight_hh_l0"] == 6).all() and (model.readout.params["weight"] == 6).all()


def test_an_optimiser_saved_with_its_model_goes_on_training_it():
    model = Forecaster(2, 3, rng=0)
    twin, optimizer = pickle.loads(pickle.dumps((model, SGD(model.params, 0.1))))
    gradient = twin.params.zeros_like()
    gradient.flat[:] = 1
    optimizer.step(gradient)
    for name, array in twin.rnn.params.items():
        assert np.array_equal(array, model.rnn.params[name] - 0.1)


def test_assigning_to_parameters_copies_into_the_one_vector():
    params = Parameters({"a": (2, 2), "b": (3,)}, np.float64)
    vector = params.flat
    params.flat = np.arange(7)
    params.flat -= 1
    params["b"] = [10, 20, 30]
    assert params.flat is vector and vector.tolist() == [-1, 0, 1, 2, 10, 20, 30]
    with pytest.raises(ShapeError, match=r"^Parameters: b must have shape \(3,\); got \(2,\)"):
        params["b"] = [1, 2]
    with pytest.raises(DTypeError, match="^Parameters: flat must be convertible to float64; got complex128"):
        params.flat = np.full(7, 1j)
    with pytest.raises(KeyError, match="'c'; names are a, b"):
        params["c"]


def test_a_state_dict_may_be_made_of_the_layers_own_arrays():
    layer = RNN(2, 3, bidirectional=True, rng=0)
    before = layer.state_dict()
    swapped = {name: name.removesuffix("_reverse") if "reverse" in name else name + "_reverse" for name in before}
    layer.load_state_dict({name: layer.params[other] for name, other in swapped.items()})
    assert all(np.array_equal(layer.params[name], before[other]) for name, other in swapped.items())


def test_two_stepped_passes_over_one_trace_do_not_mix():
    layer = RNN(2, 3, rng=0)
    output, _, trace = layer.forward(np.ones((4, 2, 2)))
    one, ten = (layer.backward_steps(trace, factor * np.ones(output.shape)) for factor in (1.0, 10.0))
    for first, second in zip(one, ten, strict=True):
        np.testing.assert_allclose(second.da, 10 * first.da, rtol=1e-13)
        np.testing.assert_allclose(second.dh_prev, 10 * first.dh_prev, rtol=1e-13)


def test_a_stepped_pass_keeps_the_gradients_it_was_given():
    layer = RNN(2, 3, rng=0)
    output, _, trace = layer.forward(np.ones((4, 2, 2)))
    doutput, dh_n = np.ones(output.shape), np.ones((1, 2, 3))
    expected = layer.backward(trace, doutput, dh_n).grads.flat
    steps = layer.backward_steps(trace, doutput, dh_n)
    doutput[:] = dh_n[:] = 0
    for _ in steps:
        pass
    assert np.array_equal(steps.result.grads.flat, expected)


def test_inference_is_forward_bit_for_bit_whatever_the_memory_order():
    rng = np.random.default_rng(0)
    for _ in range(20):
        layer = RNN(8, 1, rng=rng)
        x = np.asfortranarray(rng.normal(size=(50, 1, 8)))
        assert np.array_equal(layer(x)[0], layer.forward(x)[0])


@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_relu_passes_a_nan_on(dtype):
    layer = RNN(1, 1, nonlinearity="relu", dtype=dtype, rng=0)
    output, _, trace = layer.forward(np.array([[[np.nan]], [[1.0]]], dtype))
    assert np.isnan(output).all()
    assert not layer.backward(trace, np.ones((2, 1, 1), dtype)).grads["bias_ih_l0"] == 0


def test_memory_counts_references_where_no_debugger_can_add_one():
    assert memory._references([np.empty(1, np.uint8)], 0) == memory._IDLE
    block = np.empty(8, np.uint8)
    assert memory._references([block], 0) == memory._IDLE + 1
    assert memory._references([block[:4].base], 0) > memory._IDLE


def test_a_masked_array_is_refused():
    with pytest.raises(DTypeError, match="^RNN.forward: x must not be a masked array: its mask would be lost"):
        RNN(1, 1).forward(np.ma.masked_array(np.ones((2, 1, 1)), False))


def test_backward_differentiates_what_forward_computed_even_if_the_parameters_changed_since():
    layer = RNN(2, 3, rng=0)
    output, _, trace = layer.forward(np.ones((4, 2, 2)))
    expected = layer.backward(trace, np.ones_like(output)).grads.flat
    layer.params.flat[:] = 7
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


def test_padding_costs_no_work(monkeypatch):
    seen = {"forward": 0, "partials": 0, "backward": 0, "products": 0}

    def counting(part, formula, argument):
        @functools.wraps(formula)
        def counted(*arguments):
            seen[part] += len(arguments[argument])
            formula(*arguments)

        return counted

    flat = Batch.flat

    def counted_flat(self, array):
        rows = flat(self, array)
        seen["products"] = max(seen["products"], len(rows))
        return rows

    layer = RNN(2, 3, rng=0)
    layer.cell = dataclasses.replace(
        layer.cell,
        step_forward=counting("forward", layer.cell.step_forward, 0),
        step_partials=counting("partials", layer.cell.step_partials, 1),
        step_backward=counting("backward", layer.cell.step_backward, 2),
        trial=False,
    )
    monkeypatch.setattr(Batch, "flat", counted_flat)
    lengths = [3, 50, 1, 7]
    output, _, trace = layer.forward(np.ones((50, 4, 2)), lengths=lengths)
    layer.backward(trace, np.ones(output.shape))
    assert seen == dict.fromkeys(seen, sum(lengths))


# ------------------------------------------------------------------------------------------ names of one's own


def moving_step_forward(a_t, s_in, s_prev, e_prev, m_prev, W_hh, s_t, e_t, m_t):
    """Three states, none of them called h or c: s = tanh(a) + m_prev, e = (e_prev + s) / 2, m = e_prev m_prev / 3."""
    a_t += W_hh.dot(s_in)
    np.multiply(e_prev, m_prev, out=m_t)
    m_t /= 3
    np.add(np.tanh(a_t), m_prev, out=s_t)
    np.add(e_prev, s_t, out=e_t)
    e_t /= 2


def moving_step_backward(ds_t, de_t, dm_t, a_t, e_prev, m_prev, W_hh, da_t, de_prev, dm_prev, ds_in):
    ds_t += de_t / 2
    de_prev[...] = de_t / 2 + dm_t * m_prev / 3
    dm_prev[...] = ds_t + dm_t * e_prev / 3
    da_t[...] = ds_t * (1 - np.tanh(a_t) ** 2)
    ds_in += W_hh.T.dot(da_t)


class Moving(Recurrent):
    cell = Cell(("a",), ("s", "e", "m"), moving_step_forward, moving_step_backward)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"zoneout": 0.3}], ids=str)
def test_states_may_have_any_names_and_number(options):
    assert conformance_failures(Case(Moving, options)) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sigmoids": ("q",)}, "sigmoids must be among slabs"),
        ({"input_slabs": ("q",)}, "input_slabs must be among slabs"),
        ({"hidden_inputs": {"q": "s_in"}}, "hidden_inputs must be of gates"),
        ({"hidden_inputs": {"a": "q_t"}}, r"hidden_inputs\['a'\] must name an array"),
        ({"parameters": {"leak": max}}, r"parameters\['leak'\] must be an Extra"),
        (
            {"parameters": {"leak": ExtraParameter("W_l", len, product=("dz_t", "s_t"))}},
            "product of 'leak' must name arrays",
        ),
        ({"step_forward": lambda a_t, h_prev: None}, "argument 'h_prev', which names no array"),
    ],
)
def test_slips_in_a_cell_are_told_when_it_is_made(fields, message):
    with pytest.raises(OptionError, match=message):
        dataclasses.replace(Moving.cell, **fields)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_pass_broken_off_shows_no_partial_gradient_of_a_further_state(reverse):
    layer = LSTM(2, 3, bidirectional=reverse, rng=0)
    output, _, trace = layer.forward(np.random.default_rng(0).normal(size=(5, 1, 2)))
    whole = layer.backward_steps(trace, np.ones_like(output))
    list(whole)
    run = trace["l0_reverse" if reverse else "l0"]
    expected = {"dh": run.dh.copy(), "dc": run.dc.copy()}
    steps = layer.backward_steps(trace, np.ones_like(output))
    for _ in range(5 * reverse + 2):
        next(steps)
    rows = {"dh": slice(0, 3), "dc": slice(0, 2)} if reverse else {"dh": slice(3, 6), "dc": slice(4, 6)}
    for name, array in expected.items():
        shown = getattr(run, name)
        assert np.array_equal(shown[rows[name]], array[rows[name]])
        assert np.isnan(np.delete(shown, rows[name], axis=0)).all()


@pytest.mark.parametrize("kind", ["recurrent_masks", "zoneout_masks"])
@pytest.mark.parametrize("masks", [np.ones((2, 3)), np.ones((0, 3)), np.ones(1)])
def test_an_array_in_place_of_masks_by_name(kind, masks):
    with pytest.raises(OptionError) as told:
        RNN(2, 3, rng=0).forward(np.ones((4, 2, 2)), **{kind: masks})
    assert str(told.value) == f"RNN.forward: {kind} must be a dict with an entry for each of l0; got ndarray"


def _scaled_forward(a_t, h_prev, W_hh, p, h_t):
    a_t += W_hh @ h_prev
    np.multiply(p, a_t, out=h_t)


def _scaled_backward(dh_t, a_t, p, W_hh, da_t, dp, dh_prev):
    np.multiply(p, dh_t, out=da_t)
    dp += (dh_t * a_t).sum(axis=1, keepdims=True)
    dh_prev += W_hh.T @ da_t


class Scaled(Recurrent):
    cell = Cell(
        ("n",),
        ("h",),
        _scaled_forward,
        _scaled_backward,
        parameters={"scale": ExtraParameter("p", lambda layer: (layer.hidden_size,))},
    )


def test_a_layer_and_a_trace_of_ones_own_are_pickled_though_a_shape_is_a_lambda():
    net = Scaled(2, 3, num_layers=2, recurrent_dropout=0.2, rng=0)
    assert "cell" not in vars(net)  # the class has it
    output, _, trace = net.forward(np.ones((4, 2, 2)))
    expected = net.backward(trace, np.ones_like(output)).grads.flat
    loaded, loaded_trace = pickle.loads(pickle.dumps((net, trace)))
    assert repr(loaded_trace) == repr(trace)
    for layer, recorded in ((net, loaded_trace), (loaded, trace), (loaded, loaded_trace)):
        np.testing.assert_array_equal(layer.backward(recorded, np.ones_like(output)).grads.flat, expected)


def test_a_deep_layers_inference_keeps_no_weights_of_the_layers_below():
    net, x = RNN(64, 64, num_layers=8, rng=0), np.ones((1, 2, 64))
    net(x)
    gc.collect()
    tracemalloc.start()
    try:
        net(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 64 * 64 * 8  # of eight layers' copies of W_hh


@pytest.mark.parametrize("on_the_layer", [False, True])
def test_a_loop_of_ones_own_sees_every_step_of_whole_passes(on_the_layer):
    """The driver's own loops yield nothing where nobody looks; a way of one's own around them does."""
    seen = []

    def forward_loop(self, run, *nudge):
        for t in RNN.forward_loop(self, run, *nudge):
            seen.append(("forward", t))
            yield t

    def backward_loop(self, run):
        for t in RNN.backward_loop(self, run):
            seen.append(("backward", t))
            yield t

    x, loops = np.ones((3, 2, 2)), {"forward_loop": forward_loop, "backward_loop": backward_loop}
    for name in loops:
        del seen[:]
        layer = type("Own", (RNN,), {} if on_the_layer else {name: loops[name]})(2, 3, rng=0)
        if on_the_layer:
            setattr(layer, name, loops[name].__get__(layer))
        layer(x)
        layer.backward(layer.forward(x)[2], np.ones((3, 2, 3)))
        steps = [0, 1, 2, 0, 1, 2] if name == "forward_loop" else [2, 1, 0]
        assert seen == [(name.removesuffix("_loop"), t) for t in steps]


def test_whole_passes_and_passes_step_by_step_make_the_same_steps():
    layer, x, doutput = RNN(2, 3, num_layers=2, bidirectional=True, rng=0), np.ones((3, 2, 2)), np.ones((3, 2, 6))
    steps = layer.forward_steps(x)
    assert len(list(steps)) == 12
    output, _, trace = layer.forward(x)
    np.testing.assert_array_equal(steps.result[0], output)
    back = layer.backward_steps(trace, doutput)
    assert len(list(back)) == 12
    np.testing.assert_array_equal(layer.backward(trace, doutput).grads.flat, back.result.grads.flat)
