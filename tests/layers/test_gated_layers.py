"""What only the gated layers have: their options, errors in words, forget_bias, and the two forms of a GRU."""

import gc
import pickle
import re
import weakref

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy import GRU, LSTM, RNN, GRUCell, LSTMCell, PackedSequence, chrono, pack_padded_sequence, set_forget_bias
from rnn_numpy.checks import assert_grad_close
from rnn_numpy.errors import DTypeError, OptionError, RNNNumpyError, ShapeError

T, N, D, H, P = 5, 2, 3, 4, 2
X = np.zeros((T, N, D))
LENGTHS = [3, 5]


def projected():
    return LSTM(D, H, 2, proj_size=P, rng=0)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        (LSTM, {"proj_size": -1}, OptionError, "LSTM: proj_size must be positive, or 0 for no projection; got -1"),
        (LSTM, {"proj_size": 2.0}, DTypeError, "LSTM: proj_size must be an int; got float"),
        (LSTM, {"proj_size": True}, DTypeError, "LSTM: proj_size must be an int; got bool"),
        (
            LSTM,
            {"proj_size": H},
            OptionError,
            "LSTM: proj_size must be smaller than hidden_size = 4; got 4. It is the width to which o * tanh(c) is "
            "projected",
        ),
        (LSTM, {"forget_bias": np.nan}, OptionError, "LSTM: forget_bias must be finite; got nan"),
        (LSTM, {"forget_bias": True}, DTypeError, "LSTM: forget_bias must be a number; got bool True"),
        (LSTM, {"forget_bias": "1"}, DTypeError, "LSTM: forget_bias must be a number; got str '1'"),
        (GRU, {"reset": "middle"}, OptionError, "GRU: reset must be one of 'after', 'before'; got 'middle'"),
        (GRU, {"reset": True}, OptionError, "GRU: reset must be one of 'after', 'before'; got True"),
        (
            GRU,
            {"zoneout": (0.1, 0.2)},
            OptionError,
            "GRU: zoneout must be one number, or one for each state, h; got (0.1, 0.2)",
        ),
        (
            LSTM,
            {"zoneout": (0.1, 0.2, 0.3)},
            OptionError,
            "LSTM: zoneout must be one number, or one for each state, h, c; got (0.1, 0.2, 0.3)",
        ),
        (LSTM, {"zoneout": 1.5}, OptionError, "LSTM: zoneout must be in [0, 1]; got 1.5"),
        (LSTM, {"zoneout": (0.5, -0.5)}, OptionError, "LSTM: zoneout must be in [0, 1]; got -0.5"),
        (GRU, {"recurrent_dropout": -0.1}, OptionError, "GRU: recurrent_dropout must be in [0, 1]; got -0.1"),
        (
            RNN,
            {"recurrent_dropout": True},
            DTypeError,
            "RNN: recurrent_dropout must be a number; got bool True",
        ),
    ],
)
def test_options(kind, options, error, message):
    assert_raises(error, message, lambda: kind(D, H, **options))


@pytest.mark.parametrize("kind", [RNN, GRU])
def test_only_an_lstm_has_a_projection(kind):
    with pytest.raises(TypeError, match="proj_size"):
        kind(D, H, proj_size=2)


def test_a_forget_bias_needs_biases():
    with pytest.raises(OptionError, match="bias"):
        LSTM(D, H, bias=False, forget_bias=1.0)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (projected(), "LSTM(3, 4, proj_size=2, num_layers=2, dtype=float64)"),
        (GRU(D, H, reset="before", zoneout=0.5), "GRU(3, 4, reset='before', zoneout=0.5, dtype=float64)"),
        (
            LSTM(D, H, recurrent_dropout=0.25, zoneout=(0.5, 0.0)),
            "LSTM(3, 4, recurrent_dropout=0.25, zoneout=(0.5, 0.0), dtype=float64)",
        ),
    ],
)
def test_repr_shows_what_is_not_the_default(layer, text):
    assert repr(layer) == text


RUNS = pytest.mark.parametrize("run", ["forward", "__call__"])
PAIR = "LSTM.forward: h_0 must be a tuple of 2 arrays, h_0, c_0; got "


@RUNS
@pytest.mark.parametrize(
    ("h_0", "error", "message"),
    [
        (np.zeros((2, N, P)), DTypeError, PAIR + "ndarray"),
        ([np.zeros((2, N, P)), np.zeros((2, N, H))], DTypeError, PAIR + "list"),
        ((np.zeros((2, N, P)),), DTypeError, PAIR + "a tuple of 1"),
        (
            (np.zeros((2, N, H)), np.zeros((2, N, H))),
            ShapeError,
            "LSTM.forward: h_0 must have shape (layers * directions, N, H) = (2, 2, 2); got (2, 2, 4)",
        ),
        (
            (np.zeros((2, N, P)), np.zeros((2, N, P))),
            ShapeError,
            "LSTM.forward: c_0 must have shape (layers * directions, N, H) = (2, 2, 4); got (2, 2, 2)",
        ),
        (
            (np.zeros((2, N, P)), np.zeros((2, N, H), np.float32)),
            DTypeError,
            "LSTM.forward: c_0 must have dtype float64, the layer's; got float32. Convert it with c_0.astype("
            "np.float64), or the layer with .astype(np.float32)",
        ),
    ],
)
def test_states_of_an_lstm(run, h_0, error, message):
    assert_raises(error, message, lambda: getattr(projected(), run)(X, h_0))


@RUNS
def test_the_state_of_a_gru_is_one_array(run):
    pair = (np.zeros((1, N, H)), np.zeros((1, N, H)))
    message = "GRU.forward: h_0 must be one array, the state h; got a tuple of 2"
    assert_raises(DTypeError, message, lambda: getattr(GRU(D, H), run)(X, pair))


def test_gradients_of_final_states():
    layer = projected()
    trace = layer.forward(X)[2]
    message = "LSTM.backward: dh_n must be a tuple of 2 arrays, dh_n, dc_n; got ndarray"
    assert_raises(DTypeError, message, lambda: layer.backward(trace, None, np.zeros((2, N, P))))
    message = "LSTM.backward: dc_n must have shape (layers * directions, N, H) = (2, 2, 4); got (2, 2, 2)"
    assert_raises(ShapeError, message, lambda: layer.backward(trace, None, (np.zeros((2, N, P)),) * 2))
    message = (
        "LSTM.backward: doutput must have shape (T, N, directions * H) = (5, 2, 2); got (5, 2, 4). It must have the "
        "shape of output"
    )
    assert_raises(ShapeError, message, lambda: layer.backward(trace, np.zeros((T, N, H))))


def test_a_trace_of_the_other_form_is_refused():
    after, before = GRU(D, H, rng=0), GRU(D, H, reset="before", rng=0)
    with pytest.raises(ShapeError, match="trace was recorded by a layer with other options, not by this GRU"):
        before.backward(after.forward(X)[2], None)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (
            {"recurrent_masks": {"l0": np.ones((N, P))}},
            OptionError,
            "recurrent_masks must be a dict with an entry for each of l0, l1; got ['l0']",
        ),
        (
            {"recurrent_masks": [np.ones((N, P))] * 2},
            OptionError,
            "recurrent_masks must be a dict with an entry for each of l0, l1; got list",
        ),
        (
            {"recurrent_masks": {"l0": np.ones((N, H)), "l1": np.ones((N, H))}},
            ShapeError,
            "recurrent_masks['l0'] must have shape (N, H) = (2, 2); got (2, 4)",
        ),
        (
            {"recurrent_masks": {"l0": np.ones((N, P)), "l1": np.full((N, P), "1")}},
            DTypeError,
            "recurrent_masks['l1'] must hold real numbers; got dtype <U1",
        ),
        (
            {"zoneout_masks": {"l0": [np.ones((T, N, P))] * 2}},
            OptionError,
            "zoneout_masks must be a dict with an entry for each of l0, l1; got ['l0']",
        ),
        (
            {"zoneout_masks": {"l0": [np.ones((T, N, P))], "l1": [np.ones((T, N, P))]}},
            ShapeError,
            "zoneout_masks['l0'] must be a tuple with an array for each state, h, c; got 1 arrays",
        ),
        (
            {"zoneout_masks": {"l0": [np.ones((T, N, P))] * 2, "l1": [np.ones((T, N, P))] * 2}},
            ShapeError,
            "zoneout_masks['l0'][1] must have shape (T, N, H) = (5, 2, 4); got (5, 2, 2)",
        ),
        (
            {"dropout_masks": [np.ones((T, N, H))]},
            ShapeError,
            "dropout_masks[0] must have shape (T, N, directions * H) = (5, 2, 2); got (5, 2, 4)",
        ),
    ],
)
def test_masks(masks, error, message):
    assert_raises(error, f"LSTM.forward: {message}", lambda: projected().forward(X, **masks))


@RUNS
def test_packed_input(run):
    layer = GRU(D, H, rng=0)
    packed = pack_padded_sequence(X, LENGTHS, enforce_sorted=False)
    message = "GRU.forward: a PackedSequence brings its own lengths; leave lengths out"
    assert_raises(OptionError, message, lambda: getattr(layer, run)(packed, None, LENGTHS))
    deep = pack_padded_sequence(X[..., None], LENGTHS, enforce_sorted=False)
    message = "GRU.forward: packed x must hold rows (D,), data (sum of lengths, D); got data (8, 3, 1)"
    assert_raises(ShapeError, message, lambda: getattr(layer, run)(deep))
    wide = pack_padded_sequence(np.zeros((T, N, 7)), LENGTHS, enforce_sorted=False)
    with pytest.raises(ShapeError, match="^GRU.forward: x must have shape .* with D = input_size = 3; got "):
        getattr(layer, run)(wide)
    with pytest.raises(DTypeError, match="^GRU.forward: x must have dtype float64, the layer's; got float32"):
        getattr(layer, run)(packed.astype(np.float32))


def test_gradients_of_packed_output_are_packed():
    layer = GRU(D, H, rng=0)
    output, _, trace = layer.forward(pack_padded_sequence(X, LENGTHS, enforce_sorted=False))
    message = "GRU.backward: x was packed, so doutput must be a PackedSequence with the layout of output"
    other = pack_padded_sequence(np.zeros((T, N, H)), LENGTHS[::-1], enforce_sorted=False)
    for wrong in (np.zeros((T, N, H)), np.zeros((8, H)), other):
        assert_raises(ShapeError, message, lambda wrong=wrong: layer.backward(trace, wrong))
    assert isinstance(layer.backward(trace, output).dx, PackedSequence)
    trace = layer.forward(X)[2]
    with pytest.raises(RNNNumpyError, match="PackedSequence"):
        layer.backward(trace, output)


@pytest.mark.parametrize("value", [1.0, 0.0, -2.5])
def test_forget_bias_is_the_total_bias_of_the_forget_gates(value):
    layer, plain = (LSTM(D, H, 2, bidirectional=True, rng=0, **given) for given in ({"forget_bias": value}, {}))
    for name in layer.params:
        changed = np.zeros(len(plain.params[name]), bool)
        if name.startswith("bias"):
            changed[H : 2 * H] = True
            assert np.all(layer.params[name][changed] == (value if name.startswith("bias_ih") else 0))
        assert np.array_equal(layer.params[name][~changed], plain.params[name][~changed])
    trace = LSTM(D, H, forget_bias=value, rng=0).forward(X)[2]
    assert_grad_close("f", trace[0].f, np.full((N, H), 1 / (1 + np.exp(-value))), 1e-15)


# ------------------------------------------------------------------------------------------ passes side by side


@pytest.mark.parametrize("layer", [LSTM(16, 48, rng=0), LSTM(16, 48, proj_size=7, rng=0), GRU(16, 48, rng=0)], ids=str)
@pytest.mark.parametrize("lengths", [None, [30, 12, 30, 5]])
def test_passes_on_one_trace_may_run_side_by_side(layer, lengths):
    output, _, trace = layer.forward(np.random.default_rng(0).normal(size=(30, 4, 16)), lengths=lengths)
    gradients = [np.full_like(output, 1.0), np.full_like(output, -3.0)]
    expected = [layer.backward(trace, gradient).grads.flat for gradient in gradients]
    passes = [layer.backward_steps(trace, gradient) for gradient in gradients]
    for _ in zip(*passes, strict=True):  # turn by turn, as threads might
        pass
    for steps, grads in zip(passes, expected, strict=True):
        list(steps)
        assert np.array_equal(steps.result.grads.flat, grads)


def test_a_trace_shows_the_pass_that_began_last():
    layer = LSTM(3, 4, 2, rng=0)
    output, _, trace = layer.forward(np.ones((5, 1, 3)))
    first = layer.backward_steps(trace, np.ones_like(output))
    next(first)
    second = layer.backward_steps(trace, np.zeros_like(output))
    next(second)
    list(first)
    list(second)
    assert [np.abs(run.dh).max() for run in trace.layers.values()] == [0.0, 0.0]
    assert np.any(first.result.dx)


# ------------------------------------------------------------------------------------------ masks come and go


@pytest.mark.parametrize("options", [{}, {"recurrent_dropout": 0.3}, {"zoneout": 0.3}, {"dropout": 0.3}], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_the_masks_of_a_trace_repeat_its_pass(options, training):
    layer, x = LSTM(3, 4, 2, **options, rng=0), np.ones((5, 2, 3))
    output, _, trace = layer.forward(x)
    masks = {
        "dropout_masks": trace.masks,
        "recurrent_masks": trace.recurrent_masks,
        "zoneout_masks": trace.zoneout_masks,
    }
    again, _, repeated = layer.forward(x, **masks, training=training)
    assert np.array_equal(again, output)
    assert repeated.zoneout_masks.keys() == trace.zoneout_masks.keys()
    assert repeated.recurrent_masks.keys() == trace.recurrent_masks.keys()


def test_masks_of_a_trace_cannot_be_written_to():
    _, _, trace = LSTM(3, 4, 2, dropout=0.3, recurrent_dropout=0.3, zoneout=0.3, rng=0).forward(np.ones((5, 2, 3)))
    kept = [*trace.masks, *trace.recurrent_masks.values(), *trace.zoneout_masks["l0"]]
    assert [mask.flags.writeable for mask in kept] == [False] * len(kept)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"recurrent_masks": {"l0": None}}, "recurrent_masks['l0'] must have shape (N, H) = (2, 4); got ()"),
        (
            {"zoneout_masks": {"l0": None}},
            "zoneout_masks['l0'] must be a tuple with an array for each state, h, c; got NoneType",
        ),
    ],
)
def test_a_mask_that_is_none_is_refused(masks, message):
    with pytest.raises(ShapeError, match=f"^{re.escape('LSTM.forward: ' + message)}$"):
        LSTM(3, 4, rng=0).forward(np.ones((5, 2, 3)), **masks, training=False)


# ------------------------------------------------------------------------------------------ further edges


def test_a_projection_is_compared_with_any_integer():
    with pytest.raises(OptionError, match="proj_size must be smaller than hidden_size = 4; got 8"):
        LSTM(3, np.int64(4), proj_size=8)


@pytest.mark.parametrize("value", [1e300, -1e39])
def test_a_forget_bias_beyond_the_dtype_is_refused(value):
    with pytest.raises(OptionError, match="value must be a number of the layer's dtype, float32"):
        LSTM(3, 4, forget_bias=value, dtype=np.float32)


def test_gates_of_step_cells_can_be_given_initial_values():
    cell = LSTMCell(3, 4)
    set_forget_bias(cell, 2.0)
    assert (cell.params["bias_ih"][4:8] == 2).all()
    gru = GRUCell(3, 4)
    chrono(gru, 10, rng=0)
    assert (gru.params["bias_ih"][4:8] > 0).all()


def test_gradients_cannot_go_into_the_parameters():
    layer = LSTM(3, 4, rng=0)
    output, _, trace = layer.forward(np.ones((5, 2, 3)))
    with pytest.raises(OptionError, match="grads must not be the parameters themselves"):
        layer.backward(trace, np.ones_like(output), grads=layer.params)


def test_copies_of_a_layer_go_when_nobody_has_them():
    layer = LSTM(3, 4, rng=0)
    twin = pickle.loads(pickle.dumps(layer))
    output, _, trace = twin.forward(np.ones((5, 2, 3)))
    twin.backward(trace, np.ones_like(output))
    cell = weakref.ref(twin.cell)
    assert cell() is not layer.cell
    del twin, trace, output
    gc.collect()
    assert cell() is None
