"""Forward mode: the Jacobian-vector products of cells, by steps and through layers, against the complex step."""

import inspect
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mgu import mgu_backward, mgu_forward, mgu_tangent
from planting import planted

import strategies
from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM, pack_padded_sequence
from rnn_numpy.checks import adjoint_error, discrepancy
from rnn_numpy.engine import Cell, ExtraParameter, Recurrent
from rnn_numpy.engine.forward_mode import TangentSteps, UnitChanges, jvp
from rnn_numpy.engine.recorded import recorded_steps
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers import Linear, layer_norm, peephole
from rnn_numpy.layers import gru as gru_module
from rnn_numpy.layers import lstm as lstm_module
from rnn_numpy.layers import rnn as rnn_module

EPS = np.finfo(float).eps
STEP = 1e-20
EVERYTHING = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2}
LAYERS = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (RNN, EVERYTHING),
    (LSTM, {}),
    (LSTM, {"bias": False}),
    (LSTM, {"proj_size": 3}),
    (LSTM, {"proj_size": 3, **EVERYTHING}),
    (LSTM, EVERYTHING),
    (GRU, {}),
    (GRU, {"reset": "before"}),
    (GRU, EVERYTHING),
    (GRU, {"reset": "before", **EVERYTHING}),
    (PeepholeLSTM, {}),
    (PeepholeLSTM, EVERYTHING),
    (LayerNormLSTM, {"epsilon": 0.3}),
    (LayerNormLSTM, {"epsilon": 0.3, **EVERYTHING}),
]
EACH_LAYER = pytest.mark.parametrize(("kind", "options"), LAYERS, ids=str)


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def problem(kind, options, lengths=(4, 7, 2)):
    """Return a layer, its arguments by name, and changes of all of them."""
    rng = np.random.default_rng(5)
    layer = kind(3, 5, rng=1, **options)
    rows = layer.num_layers * layer.num_directions
    states = tuple(rng.normal(size=(rows, 3, layer.width(state))) for state in layer.cell.states)
    point = {"x": rng.normal(size=(7, 3, 3)), "h_0": strategies.single(states), "lengths": lengths}
    changes = {
        "vx": rng.normal(size=(7, 3, 3)),
        "vh_0": strategies.single(tuple(rng.normal(size=state.shape) for state in states)),
        "vparams": {name: rng.normal(size=array.shape) for name, array in layer.params.items()},
    }
    return layer, point, changes


def by_complex_step(layer, point, trace, vx=None, vh_0=None, vparams=None, training=True):
    """Return the changes of output and final states, end to end: one forward pass in complex numbers."""
    twin = layer.astype(np.complex128)
    for name, change in (vparams or {}).items():
        twin.params[name] = layer.params[name] + 1j * STEP * change
    x, states = point["x"].astype(complex), tuple(state.astype(complex) for state in as_tuple(point["h_0"]))
    x += 0 if vx is None else 1j * STEP * vx
    if vh_0 is not None:
        states = tuple(state + 1j * STEP * change for state, change in zip(states, as_tuple(vh_0), strict=True))
    output, h_n, _ = twin.forward(
        x,
        strategies.single(states),
        point["lengths"],
        training=training,
        dropout_masks=trace.masks,
        recurrent_masks=trace.recurrent_masks,
        zoneout_masks=trace.zoneout_masks,
    )
    return output.imag / STEP, tuple(state.imag / STEP for state in as_tuple(h_n))


def assert_close(name, found, expected, rtol):
    assert discrepancy(found, expected).within(rtol), (name, discrepancy(found, expected))


def assert_changes_close(result, expected, rtol):
    output, states = expected
    assert_close("voutput", result.voutput, output, rtol)
    for found, state in zip(as_tuple(result.vh_n), states, strict=True):
        assert_close("vh_n", found, state, rtol)


# ---------------------------------------------------------------------------------------------- whole layers


@EACH_LAYER
def test_is_the_derivative_of_forward(kind, options):
    layer, point, changes = problem(kind, options)
    trace = layer.forward(**point)[2]
    assert_changes_close(jvp(layer, trace, **changes), by_complex_step(layer, point, trace, **changes), 32 * EPS)


@EACH_LAYER
def test_each_tensor_on_its_own(kind, options):
    """A small contribution cannot hide behind a large one; and what is left out counts as no change."""
    layer, point, changes = problem(kind, options)
    trace = layer.forward(**point)[2]
    singles = [{"vx": changes["vx"]}, {"vh_0": changes["vh_0"]}]
    singles += [{"vparams": {name: change}} for name, change in changes["vparams"].items()]
    for single in singles:
        expected = by_complex_step(layer, point, trace, **single)
        assert np.any(expected[0]) or np.any(expected[1][0])
        # Where h_0 is what changes, and lengths are short, some states keep none of it: their errors are those of all.
        scale = max(np.abs(array).max() for array in (expected[0], *expected[1]))
        result = jvp(layer, trace, **single)
        for found, reference in zip((result.voutput, *as_tuple(result.vh_n)), (expected[0], *expected[1]), strict=True):
            assert np.abs(found - reference).max() < 64 * EPS * scale, single.keys()


@given(strategies.setups(), st.integers(0, 2**32 - 1))
def test_any_axes_lengths_and_masks(setup, seed):
    rng = np.random.default_rng(seed)
    layer, trace = setup.layer, setup.forward()[2]
    zero = jvp(layer, trace)
    vx, vparams = rng.normal(size=setup.x.shape), {k: rng.normal(size=v.shape) for k, v in layer.params.items()}
    vh_0 = strategies.single(tuple(rng.normal(size=state.shape) for state in as_tuple(zero.vh_n)))
    states = tuple(np.zeros(state.shape) for state in as_tuple(zero.vh_n)) if setup.states is None else setup.states
    point = {"x": setup.x, "h_0": strategies.single(states), "lengths": setup.lengths}
    expected = by_complex_step(layer, point, trace, vx, vh_0, vparams, training=False)
    # Of a net of one unit and one step the change is a single number, a sum that may happen to cancel.
    assert_changes_close(jvp(layer, trace, vx=vx, vh_0=vh_0, vparams=vparams), expected, 1e-11)
    assert not np.any(zero.voutput) and not any(np.any(state) for state in as_tuple(zero.vh_n))


@EACH_LAYER
def test_is_linear(kind, options):
    layer, point, changes = problem(kind, options)
    trace = layer.forward(**point)[2]
    parts = [jvp(layer, trace, **{name: change}) for name, change in changes.items()]
    whole = jvp(layer, trace, **changes)
    assert_close("voutput", sum(part.voutput for part in parts), whole.voutput, 32 * EPS)
    scaled = jvp(layer, trace, vx=1024 * changes["vx"])
    np.testing.assert_array_equal(scaled.voutput, 1024 * parts[0].voutput)  # powers of two do not round


@EACH_LAYER
def test_nothing_is_modified_and_nothing_is_shared(kind, options):
    layer, point, changes = problem(kind, options)
    trace = layer.forward(**point)[2]
    layer.backward(trace, np.ones_like(trace_output(layer, trace)))
    arrays = {
        (name, key): array.copy()
        for name, run in trace.layers.items()
        for key, array in {**run.arrays, **run.weights, **run.latest.arrays}.items()
    }
    given_changes = [changes["vx"], *as_tuple(changes["vh_0"]), *changes["vparams"].values()]
    before, params = [array.copy() for array in given_changes], layer.params.flat.copy()
    for array in given_changes:
        array.flags.writeable = False
    first = jvp(layer, trace, **changes)
    second = jvp(layer, trace, **changes)
    np.testing.assert_array_equal(first.voutput, second.voutput)
    assert first.voutput.flags.writeable
    assert not any(np.shares_memory(state, array) for state in as_tuple(first.vh_n) for array in given_changes)
    for array, copied in zip(given_changes, before, strict=True):
        np.testing.assert_array_equal(array, copied)
    np.testing.assert_array_equal(layer.params.flat, params)
    for name, run in trace.layers.items():
        for key, array in {**run.arrays, **run.weights, **run.latest.arrays}.items():
            np.testing.assert_array_equal(array, arrays[name, key], err_msg=f"{name} {key}")


def trace_output(layer, trace):
    return jvp(layer, trace).voutput


def test_padding_is_not_read():
    layer, point, changes = problem(LSTM, EVERYTHING)
    trace = layer.forward(**point)[2]
    clean = jvp(layer, trace, **changes)
    past = np.arange(7)[:, None] >= np.array(point["lengths"])
    masks = {"dropout_masks": trace.masks, "recurrent_masks": trace.recurrent_masks}
    point["x"][past] = np.inf
    changes["vx"][past] = np.inf
    again = layer.forward(**point, **masks, zoneout_masks=trace.zoneout_masks)[2]
    result = jvp(layer, again, **changes)
    np.testing.assert_array_equal(result.voutput, clean.voutput)
    assert not result.voutput[past].any()


def test_packed_sequences():
    layer, point, changes = problem(GRU, {"bidirectional": True})
    trace = layer.forward(**point)[2]
    lengths = np.array(point["lengths"])
    packed, vx = (pack_padded_sequence(array, lengths, enforce_sorted=False) for array in (point["x"], changes["vx"]))
    packed_trace = layer.forward(packed, point["h_0"])[2]
    padded = jvp(layer, trace, **changes)
    result = jvp(layer, packed_trace, **{**changes, "vx": vx})
    np.testing.assert_array_equal(result.voutput.padded()[0], padded.voutput)
    np.testing.assert_array_equal(result.vh_n, padded.vh_n)
    with pytest.raises(ShapeError, match="vx must be a PackedSequence with the layout of x"):
        jvp(layer, packed_trace, vx=changes["vx"])


def test_other_dtypes():
    layer, point, changes = problem(LSTM, EVERYTHING)
    trace = layer.forward(**point)[2]
    masks = {"dropout_masks": trace.masks, "recurrent_masks": trace.recurrent_masks}
    masks["zoneout_masks"] = trace.zoneout_masks
    exact = jvp(layer, trace, **changes)
    for dtype, rtol in ((np.float32, 1e-5), (np.complex128, 16 * EPS)):
        twin = layer.astype(dtype)
        cast = {name: array.astype(dtype) for name, array in changes["vparams"].items()}
        states, vstates = (tuple(array.astype(dtype) for array in value) for value in (point["h_0"], changes["vh_0"]))
        twin_trace = twin.forward(point["x"].astype(dtype), states, point["lengths"], **masks)[2]
        result = jvp(twin, twin_trace, vx=changes["vx"].astype(dtype), vh_0=vstates, vparams=cast)
        assert result.voutput.dtype == dtype
        assert_close("voutput", result.voutput, exact.voutput, rtol)


def test_no_sequences():
    layer = LSTM(3, 5, num_layers=2, bidirectional=True, rng=0)
    trace = layer.forward(np.zeros((4, 0, 3)))[2]
    result = jvp(layer, trace, vx=np.zeros((4, 0, 3)))
    assert result.voutput.shape == (4, 0, 10) and result.vh_n[1].shape == (4, 0, 5)


def test_parameters_are_those_of_the_trace():
    layer, point, changes = problem(PeepholeLSTM, {})
    trace = layer.forward(**point)[2]
    before = jvp(layer, trace, **changes)
    layer.params.flat *= 2
    np.testing.assert_array_equal(jvp(layer, trace, **changes).voutput, before.voutput)


# ---------------------------------------------------------------------------------------------- single steps


@EACH_LAYER
def test_steps_have_the_jacobians_of_forward(kind, options):
    layer, point, _ = problem(kind, options)
    trace = layer.forward(**point)[2]
    for steps in recorded_steps(layer, trace).values():
        jacobians, cell = steps.jacobians(), steps.cell
        S, A = steps.S, steps.A
        tangents = TangentSteps(steps, S + A)
        # What enters with the input: a itself, or, where a is computed from it, as with layer normalisation, u.
        entering = "v" + cell.input_gradient[1:] + "_t"
        J, B = np.zeros_like(jacobians.state), np.zeros_like(jacobians.preactivation)
        unit = np.tile(np.eye(S + A), (steps.N, 1))
        for t in steps.order():
            arrays = tangents.begin(steps.split(unit[:, :S]))
            tangents.slot(entering, arrays)[...] += unit[:, S:]
            found = np.concatenate(tangents.step(t, arrays), axis=1).reshape(steps.N, S + A, S)
            ended = np.tile(unit[:, :S], 1).reshape(steps.N, S + A, S)[~steps.alive[t]]
            np.testing.assert_array_equal(found[~steps.alive[t]], ended)  # a sequence without step t keeps its changes
            found = np.where(steps.alive[t][:, None, None], found, 0).swapaxes(1, 2)
            J[t], B[t] = found[:, :, :S], found[:, :, S:]
        # A gate that only the hidden product reaches, q of a GRU, is no part of what enters, but of a.
        assert_close("J", J, jacobians.state, 8 * EPS)
        assert_close("B", B, jacobians.preactivation, 8 * EPS)


@EACH_LAYER
def test_unit_changes_of_a_step(kind, options):
    """One column for every entry, all at once, is the change of that entry alone."""
    layer, point, _ = problem(kind, options)
    trace = layer.forward(**point)[2]
    steps = recorded_steps(layer, trace)["l0"]
    unit = UnitChanges(steps)
    tangents = unit.tangents()
    found = np.zeros((steps.T, steps.N, unit.count, steps.S))
    for t in steps.order():
        arrays = tangents.begin(tangents.initial([None] * len(steps.widths)))
        unit.enter(t, tangents, arrays)
        found[t] = np.concatenate(tangents.step(t, arrays), axis=1).reshape(steps.N, unit.count, steps.S)
    rng = np.random.default_rng(0)
    for name, (place, shape) in unit.places.items():
        index = tuple(rng.integers(shape))
        change = np.zeros(shape)
        change[index] = 1
        expected = steps.parameter_jvp(name, change)
        column = found[:, :, place].reshape(steps.T, steps.N, *shape, steps.S)[(slice(None), slice(None), *index)]
        assert_close(name, column, expected, 16 * EPS)


@pytest.mark.parametrize(("kind", "options"), [layer for layer in LAYERS if layer[0] in (RNN, LSTM, GRU)], ids=str)
def test_column_gradients_sum_to_those_of_backward(kind, options):
    """Of a pass with a single step, sequence by sequence."""
    layer, point, _ = problem(kind, options)
    output, h_n, trace = layer.forward(point["x"][:1], point["h_0"])
    rng = np.random.default_rng(3)
    doutput, dh_n = rng.normal(size=output.shape), tuple(rng.normal(size=state.shape) for state in as_tuple(h_n))
    grads = layer.backward(trace, doutput, strategies.single(dh_n)).grads
    last = layer.num_layers - 1
    for row, (name, steps) in enumerate(recorded_steps(layer, trace).items()):
        if steps.recorded.layer == last:
            dstates = np.concatenate([dstate[row] for dstate in dh_n], axis=1)
            dstates[:, : steps.widths[0]] += doutput[0][:, steps.direction.columns]
            columns = steps.column_gradients(steps.vjp(np.zeros(3, int), np.arange(3), dstates))
            for parameter, gradient in columns.items():
                assert_close(name, gradient.sum(axis=0), grads[f"{parameter}_{name}"], 16 * EPS)


def test_column_gradients_need_products():
    layer, point, _ = problem(PeepholeLSTM, {})
    steps = recorded_steps(layer, layer.forward(**point)[2])["l0"]
    pulled = steps.vjp(np.array([0]), np.array([0]), np.ones((1, steps.S)))
    with pytest.raises(OptionError, match="peephole_i, peephole_f, peephole_o must have a product"):
        steps.column_gradients(pulled)


# ---------------------------------------------------------------------------------------------- planted mistakes

FORMULAS = [
    (RNN, {}, rnn_module.tanh_step_tangent),
    (RNN, {"nonlinearity": "relu"}, rnn_module.relu_step_tangent),
    (LSTM, {}, lstm_module.lstm_step_tangent),
    (LSTM, {"proj_size": 3}, lstm_module.lstm_step_tangent),
    (LSTM, {"proj_size": 3}, lstm_module.project_tangent),
    (GRU, {}, gru_module.after_step_tangent),
    (GRU, {"reset": "before"}, gru_module.before_step_tangent),
    (PeepholeLSTM, {}, peephole.peephole_step_tangent),
    (LayerNormLSTM, {"epsilon": 0.3}, layer_norm.layer_norm_step_tangent),
]


def lines_of(formula):
    """Return the source of a formula and its lines of mathematics."""
    source = inspect.getsource(formula)
    body = source[source.rindex('"""') + 3 :]
    return source, [line for line in body.splitlines() if re.search(r"(\+=|(?<!=)=(?!=)) ", line)]


def mutants():
    """Yield each term of each line left out, each sum turned into a difference, each 1 - x into x."""
    for kind, options, formula in FORMULAS:
        source, lines = lines_of(formula)
        for line in lines:
            changed = {line.replace(" += ", " -= ", 1), line.replace("(1 - ", "(2 - ", 1)}
            if " += " in line and ";" not in line:
                changed.add(re.sub(r"^( *).*$", r"\1pass", line))
            head, _, right = line.partition(" = ")
            terms = right.split("  #")[0].split(" + ")
            for k in range(len(terms)) if len(terms) > 1 and "(" not in head else ():
                changed.add(f"{head} = {' + '.join(terms[:k] + terms[k + 1 :])}")
            for new in sorted(changed - {line}):
                name = f"{kind.__name__} {options} {formula.__name__}: {line.strip()} -> {new.strip()}"
                yield pytest.param(kind, options, formula, source.replace(line, new, 1), id=name)


@pytest.mark.parametrize(("kind", "options", "formula", "source"), list(mutants()))
def test_a_wrong_tangent_is_caught(kind, options, formula, source):
    space = dict(vars(inspect.getmodule(formula)))
    exec(source, space)
    layer, point, changes = problem(kind, options)
    right, wrong = formula, space[formula.__name__]
    if kind is LayerNormLSTM:
        right, wrong = (layer_norm.Bound(one, options["epsilon"]) for one in (right, wrong))
    trace = layer.forward(**point)[2]
    layer.cell = planted(layer.cell, right, wrong)
    with pytest.raises(AssertionError):
        assert_changes_close(jvp(layer, trace, **changes), by_complex_step(layer, point, trace, **changes), 1e-6)
    assert adjoint_error(layer, trace) > 1e-5


def test_many_mistakes_were_planted():
    assert len(list(mutants())) > 60


# ---------------------------------------------------------------------------------------------- cells of one's own


MINIMAL = {
    "gate_names": ("f", "n"),
    "states": ("h",),
    "step_forward": mgu_forward,
    "step_backward": mgu_backward,
    "hidden_inputs": {"n": "k_t"},
    "records": {"k": 1},
}


class Minimal(Recurrent):
    cell = Cell(**MINIMAL, step_tangent=mgu_tangent)


def test_a_cell_of_ones_own():
    layer, point, changes = problem(Minimal, EVERYTHING)
    trace = layer.forward(**point)[2]
    assert_changes_close(jvp(layer, trace, **changes), by_complex_step(layer, point, trace, **changes), 32 * EPS)
    assert adjoint_error(layer, trace) < 4 * EPS


def test_a_cell_without_a_tangent():
    layer, point, _ = problem(Minimal, {})
    layer.cell = Cell(**MINIMAL)
    trace = layer.forward(**point)[2]
    with pytest.raises(OptionError, match=r"jvp: Minimal has no formula for forward mode: its Cell needs a step_tan"):
        jvp(layer, trace)
    with pytest.raises(OptionError, match=r"TangentSteps: forward mode needs a cell with step_tangent"):
        TangentSteps(recorded_steps(layer, trace)["l0"])


@pytest.mark.parametrize("name", ["dh_t", "da_f_t", "vq_t", "vx_t", "vW_hh", "vk_t", "va_q_t", "vh", "vb"])
def test_names_of_a_tangent_are_checked(name):
    space = {}
    exec(f"def planted(va_t, vh_in, {name}, vh_t): pass", space)
    with pytest.raises(OptionError, match=f"Cell: planted has an argument '{name}', which names no array"):
        Cell(**MINIMAL, step_tangent=space["planted"])


@pytest.mark.parametrize("name", ["vh_t", "va_t", "va_f_t", "vh_prev"])
def test_changes_are_for_the_tangent_alone(name):
    space = {}
    exec(f"def planted(f_t, n_t, {name}, h_t): pass", space)
    with pytest.raises(OptionError, match=f"Cell: planted has an argument '{name}', which names no array"):
        Cell(**{**MINIMAL, "step_forward": space["planted"]}, step_tangent=mgu_tangent)


def test_a_record_with_the_name_of_a_change():
    with pytest.raises(OptionError, match="Cell: with step_tangent, 'vh' is the change of 'h'; rename it"):
        Cell(**{**MINIMAL, "records": {"k": 1, "vh": 1}}, step_tangent=mgu_tangent)
    Cell(**{**MINIMAL, "records": {"k": 1, "vh": 1}})  # without, it is a name as any other


def mixed_step_forward(a_t, h_in, W_hh, M, h_t):
    a_t += W_hh @ h_in
    h_t[...] = M @ np.tanh(a_t)


def mixed_step_backward(a_t, h_in, W_hh, M, dM, dh_t, da_t, dh_in):
    m = np.tanh(a_t)
    dM += dh_t @ m.T
    da_t[...] = (M.T @ dh_t) * (1 - m * m)
    dh_in += W_hh.T @ da_t


def mixed_step_tangent(a_t, va_t, vh_in, W_hh, M, vM, vh_t):
    m = np.tanh(a_t)
    va_t += W_hh @ vh_in
    vh_t[...] = M @ (va_t * (1 - m * m)) + vM @ m


class Mixed(Recurrent):
    cell = Cell(
        ("a",),
        ("h",),
        mixed_step_forward,
        mixed_step_backward,
        step_tangent=mixed_step_tangent,
        parameters={"mix": ExtraParameter("M", lambda layer: (layer.hidden_size, layer.hidden_size))},
    )


def test_a_matrix_without_a_product():
    """One change of it is a matrix for all columns; a change for each of its entries has no place."""
    layer, point, changes = problem(Mixed, EVERYTHING)
    trace = layer.forward(**point)[2]
    assert_changes_close(jvp(layer, trace, **changes), by_complex_step(layer, point, trace, **changes), 32 * EPS)
    message = r"UnitChanges: mix, M in the formulas, must be a vector, or its ExtraParameter needs"
    with pytest.raises(OptionError, match=message):
        UnitChanges(recorded_steps(layer, trace)["l0"])


# ---------------------------------------------------------------------------------------------- errors


def test_messages():
    layer, point, _ = problem(LSTM, {"batch_first": True})
    trace = layer.forward(point["x"], None)[2]
    cases = [
        ({"vx": np.zeros((3, 7, 3))}, ShapeError, r"jvp: vx must have shape (N, T, D) = (7, 3, 3); got (3, 7, 3)"),
        ({"vx": np.zeros((7, 3, 3), np.float32)}, DTypeError, "jvp: vx must"),
        ({"vh_0": np.zeros((1, 7, 5))}, DTypeError, "jvp: vh_0 must be a tuple of 2 arrays, vh_0, vc_0; got ndarray"),
        ({"vh_0": (np.zeros((1, 7, 5)), np.zeros((1, 6, 5)))}, ShapeError, "jvp: vc_0 must have shape"),
        ({"vparams": {"weight": np.zeros(2)}}, OptionError, "jvp: vparams must have names of ['weight_ih_l0', "),
        ({"vparams": [1]}, DTypeError, "jvp: vparams must be Parameters, or a mapping from some of their names"),
        (
            {"vparams": {"bias_ih_l0": np.zeros(2)}},
            ShapeError,
            "jvp: vparams['bias_ih_l0'] must have shape params['bias_ih_l0'].shape = (20,); got (2,)",
        ),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error) as caught:
            jvp(layer, trace, **arguments)
        assert str(caught.value).startswith(message)
    with pytest.raises(ShapeError, match="trace was recorded by a layer with other options"):
        jvp(LSTM(3, 6, rng=0), trace)
    with pytest.raises(DTypeError, match="jvp: layer must be a recurrent layer, an RNN say; got Linear"):
        jvp(Linear(3, 5), trace)
    unbatched = RNN(3, 5, rng=0)
    with pytest.raises(ShapeError, match=r"vx must have shape \(T, D\) = \(7, 3\)"):
        jvp(unbatched, unbatched.forward(np.zeros((7, 3)))[2], vx=np.zeros((7, 1, 3)))
