"""A stream is the layer, a step at a time: the bits of calls of one step, and of a call of all steps to rounding."""

import contextlib
import copy
import pickle
import threading

import numpy as np
import pytest
from attended import MGU
from messages import assert_raises
from mgu import mgu_forward
from planting import planted

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.core.states import join, split
from rnn_numpy.engine import stepper
from rnn_numpy.engine.batch import Batch
from rnn_numpy.errors import CellError, DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention_decoder import with_attention
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.layers.lstm import lstm_step_forward
from rnn_numpy.layers.rnn import tanh_step_forward

D, H, T, S, M = 3, 5, 6, 4, 6
DTYPES = [np.float32, np.float64, np.complex128]


def drawn(layer, N, sizes=(), steps=T):
    """Return inputs and an initial state."""
    rng, dtype = np.random.default_rng(0), layer.dtype
    widths = {**layer.widths, **dict(sizes)}
    states = [rng.normal(size=(layer.num_layers, N, widths[name])).astype(dtype) for name in layer.cell.states]
    return rng.normal(size=(steps, N, layer.input_size)).astype(dtype), join(states)


def streamed(stream, x):
    """Return the outputs of all steps, and the state after them."""
    return np.array([stream.step(x_t) for x_t in x]), stream.state


def whole(layer, x, state, **given):
    """Return the same by a call of the layer; time first, whatever the layer has first."""
    if not layer.batch_first:
        return layer(x, state, **given)
    output, state = layer(x.swapaxes(0, 1), state, **given)
    return output.swapaxes(0, 1), state


def called(layer, x, state, **given):
    """Return the same by calls of the layer, of one step each."""
    outputs = []
    for x_t in x:
        output, state = whole(layer, x_t[None], state, **given)
        outputs.append(output[0])
    return np.array(outputs), state


def assert_same(one, other):
    for a, b in zip([one[0], *split(one[1])], [other[0], *split(other[1])], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)


def assert_close(one, other):
    for a, b in zip([one[0], *split(one[1])], [other[0], *split(other[1])], strict=True):
        assert a.shape == b.shape and abs(a - b).max() <= 50 * np.finfo(a.dtype).eps * abs(b).max()


def assert_is_layer(layer, N):
    x, h_0 = drawn(layer, N)
    found = streamed(layer.stream(N, h_0), x)
    assert_close(found, whole(layer, x, h_0))
    assert_as_steps(found, called(layer, x, h_0), N)
    assert_as_steps(streamed(layer.stream(N), x), called(layer, x, None), N)


def assert_as_steps(found, expected, N):
    """Of several sequences BLAS adds in another order."""
    (assert_same if N == 1 else assert_close)(found, expected)


@pytest.mark.parametrize("N", [1, 2, 5])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind(name, N):
    for dtype in DTYPES:
        for options in ({}, {"num_layers": 3}, {"bias": False}, {"batch_first": True}):
            assert_is_layer(KINDS[name](D, H, **options, dtype=dtype, rng=0), N)


@pytest.mark.parametrize("H", [16, 33, 128])
def test_widths_at_which_products_take_other_ways(H):
    for kind in (RNN, GRU, LSTM):
        for dtype in DTYPES[:2]:
            for N in (1, 8, 16, 17):
                assert_is_layer(kind(H, H, dtype=dtype, rng=0), N)


def test_weights_so_large_that_their_products_go_in_pieces():
    layer = LSTM(4, 256, dtype=np.float32, rng=0)
    assert_is_layer(layer, 32)


@pytest.mark.parametrize("N", [1, 4])
def test_options_of_layers(N):
    for layer in (
        LSTM(D, H, proj_size=2, num_layers=2, rng=0),
        LSTM(D, H, zoneout=(0.3, 0.2), recurrent_dropout=0.5, num_layers=2, dropout=0.5, rng=0),
        RNN(D, H, zoneout=0.4, num_layers=2, rng=0),
        GRU(D, H, reset="before", zoneout=0.1, rng=0),
        MGU(D, H, num_layers=2, rng=0),
        MGU(D, H, zoneout=0.5, rng=0),
    ):
        assert_is_layer(layer, N)


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM, MGU])
def test_attention_around_a_cell(kind):
    layer = with_attention(kind)(
        D, H, memory_size=M, score="additive", attention_size=2, coverage=True, input_feeding=True, gate="vector", rng=0
    )
    N, rng = 5, np.random.default_rng(1)
    given = {
        "values": rng.normal(size=(S, N, M)),
        "keys": rng.normal(size=(S, N, 2)),
        "exists": np.arange(S) < np.array([[4], [1], [2], [4], [3]]),
    }
    x, h_0 = drawn(layer, N, {"cov": S})
    stream = layer.stream(N, h_0, given=given)
    expected = called(layer, x, h_0, given=given)
    given["values"][...] = 0  # it was copied
    assert_close(streamed(stream, x), expected)
    other = stream.copy()
    assert_same(streamed(other, x), streamed(stream, x))
    message = f"{type(layer).__name__}.stream: given must have an array 'values', the memory; it is missing"
    assert_raises(OptionError, message, layer.stream)


def test_one_sequence_without_an_axis():
    layer = LSTM(D, H, num_layers=2, rng=0)
    x, (h, c) = drawn(layer, 1)
    stream = layer.stream(None, (h[:, 0], c[:, 0]))
    y, (h_n, c_n) = streamed(stream, x[:, 0])
    expected, (h_e, c_e) = called(layer, x, (h, c))
    assert_same((y, (h_n, c_n)), (expected[:, 0], (h_e[:, 0], c_e[:, 0])))
    assert repr(stream) == f"Stream({layer!r}, batch=None)"


# ------------------------------------------------------------------------------------------------ the state


@pytest.mark.parametrize("N", [1, 2])
@pytest.mark.parametrize("name", KINDS)
def test_the_state_is_read_set_and_left(name, N):
    layer = KINDS[name](D, H, num_layers=2, rng=0)
    x, h_0 = drawn(layer, N)
    expected = streamed(layer.stream(N, h_0), x)
    for cut in (1, 2, 3):  # after odd and even numbers of steps
        stream = layer.stream(N, h_0)
        first, state = streamed(stream, x[:cut])
        kept = copy.deepcopy(state)
        rest, _ = streamed(stream, x[cut:])
        assert_same((rest, state), (expected[0][cut:], kept))  # what was read is not written any more
        stream.state = state
        assert_same(streamed(stream, x[cut:]), (rest, expected[1]))
        other = layer.stream(N)
        other.step(x[0])
        other.state = state
        for array in split(state):
            array[...] = 7  # nor is what was set
        assert_same(streamed(other, x[cut:]), (rest, expected[1]))
        assert_as_steps((first, kept), called(layer, x[:cut], h_0), N)
        stream.reset()
        assert_same(streamed(stream, x), expected)
        stream.state = None
        assert_as_steps(streamed(stream, x), called(layer, x, None), N)


@pytest.mark.parametrize(
    "make", [lambda s: s.copy(), copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_copies_go_on_by_themselves(make):
    for kind in (RNN, GRU, LSTM):
        layer = kind(D, H, num_layers=2, zoneout=0.2, rng=0)
        x, h_0 = drawn(layer, 2)
        expected = streamed(layer.stream(2, h_0), x)
        for cut in (1, 2):
            stream = layer.stream(2, h_0)
            streamed(stream, x[:cut])
            other = make(stream)
            other.step(x[0] + 1)
            other.reset()
            assert_same(streamed(other, x), expected)
            other = make(stream)
            layer.params.flat[:] += 1  # weights are those of the stream's making, in copies of it, too
            rest = expected[0][cut:], expected[1]
            assert_same(streamed(stream, x[cut:]), rest)
            assert_same(streamed(other, x[cut:]), rest)
            layer.params.flat[:] -= 1
            expected = streamed(layer.stream(2, h_0), x)


def test_a_copy_shares_the_weights():
    stream = LSTM(D, H, rng=0).stream()
    mine, copied = (s._steps.weights[0][0]["W_hh"] for s in (stream, stream.copy()))
    assert np.shares_memory(mine, copied)


def test_threads_on_streams_of_their_own():
    layer = LSTM(16, 32, rng=0)
    x, _ = drawn(layer, 1, steps=300)
    stream, found = layer.stream(), {}
    streams = [stream, *(stream.copy() for _ in range(3))]
    threads = [
        threading.Thread(target=lambda n=n, own=own: found.update({n: streamed(own, x)}))
        for n, own in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = streamed(layer.stream(), x)
    for n in range(4):
        assert_same(found[n], expected)


# ------------------------------------------------------------------------------------------------ inputs


def test_what_is_read_and_returned_is_the_callers():
    layer = GRU(D, H, rng=0)
    x, _ = drawn(layer, 2)
    expected, _ = streamed(layer.stream(2), x)
    stream, read = layer.stream(2), np.empty((2, D))
    ys = []
    for x_t in x:
        read[...] = x_t
        ys.append(stream.step(read))
        read[...] = np.nan
    assert np.array_equal(ys, expected)
    ys[0][...] = 7  # writable
    locked = x.copy()
    locked.flags.writeable = False
    for form in (locked, np.asfortranarray(x), np.repeat(x, 2, axis=2)[:, :, ::2], x.tolist()):
        assert np.array_equal(streamed(layer.stream(2), form)[0], expected)


def test_a_slip_in_a_name_is_no_state():
    stream = LSTM(3, 4, rng=0).stream()
    for name in ("states", "h", "State"):
        with pytest.raises(AttributeError, match=name):
            setattr(stream, name, None)


def test_no_sequences():
    for kind in (RNN, GRU, LSTM):
        layer = kind(D, H, rng=0)
        assert layer.stream(0).step(np.zeros((0, D))).shape == (0, H)


def test_nan_and_infinity_go_where_they_go_in_the_layer():
    for kind in (RNN, GRU, LSTM):
        layer = kind(D, H, rng=0)
        x, _ = drawn(layer, 2)
        x[1, 0, 1], x[2, 1, 0] = np.nan, np.inf
        with np.errstate(invalid="ignore"):
            found, expected = streamed(layer.stream(2), x), called(layer, x, None)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-13)
        assert np.isnan(found[0]).any() and not np.isnan(found[0][0]).any()


def test_errors():
    layer, two = LSTM(D, H, dtype=np.float32, rng=0), GRU(D, H, bidirectional=True, rng=0)
    stream = layer.stream(2)
    x = np.ones((2, D), np.float32)
    y = stream.step(x)
    hint = "N is the batch of layer.stream(batch=N); for steps (D,) it is None"
    shape = f"Stream.step: x must have shape (N, D) = (2, 3); got {{}}. {hint}"
    dtype = "Stream.step: x must have dtype float32, the layer's; got {}. Convert it with x.astype(np.float32)"
    for kind, message, wrong in (
        (ShapeError, shape.format((2, 4)), np.ones((2, 4), np.float32)),
        (ShapeError, shape.format((3,)), np.ones(3, np.float32)),
        (ShapeError, shape.format((1, 2, 3)), x[None]),
        (DTypeError, dtype.format("float64") + ", or the layer with .astype(np.float64)", np.ones((2, D))),
        (DTypeError, dtype.format("int64"), np.ones((2, D), int)),
        (DTypeError, dtype.format(">f4"), x.astype(">f4")),
        (DTypeError, "Stream.step: x must be an array of dtype float32; got None", None),
    ):
        assert_raises(kind, message, lambda wrong=wrong: stream.step(wrong))
    after = layer.stream(2)
    assert np.array_equal(after.step(x), y) and np.array_equal(after.step(x), stream.step(x))  # errors left it alone
    assert_raises(
        OptionError,
        "GRU.stream: the layer must not be bidirectional: its reverse direction begins at the end of a sequence, which "
        "a stream does not know. Call the layer with whole sequences, or make it with bidirectional=False",
        two.stream,
    )
    h, c = stream.state
    for kind, message, arguments in (
        (OptionError, "batch must be at least 0; got -1", (-1,)),
        (DTypeError, "batch must be an integer; got float 1.0", (1.0,)),
        (DTypeError, "h_0 must be a tuple of 2 arrays, h_0, c_0; got ndarray", (2, h)),
        (ShapeError, "h_0 must have shape (layers * directions, H) = (1, 5); got (1, 2, 5)", (None, (h, c))),
    ):
        assert_raises(kind, f"LSTM.stream: {message}", lambda arguments=arguments: layer.stream(*arguments))
    message = "LSTM.stream: given must be left out: the layer reads none; got ['values']"
    assert_raises(OptionError, message, lambda: layer.stream(given={"values": x}))
    for kind, message, wrong in (
        (ShapeError, "c must have shape (layers * directions, N, H) = (1, 2, 5); got (2, 5)", (h, c[0])),
        (DTypeError, "h must be a tuple of 2 arrays, h, c; got ndarray", h),
    ):
        assert_raises(kind, f"Stream.state: {message}", lambda wrong=wrong: setattr(stream, "state", wrong))
    assert_same((h, (h, c)), (h, stream.state))


@pytest.mark.parametrize("name", ["__call__", "forward", "_start_forward", "forward_loop", "filling"])
def test_a_layer_with_a_way_of_its_own_is_refused(name):
    Own = type("Own", (GRU,), {name: lambda self, *arguments: None})
    message = f"Own.stream: Own has a {name} of its own, which a stream would not run; call the layer step by step"
    assert_raises(OptionError, message, Own(D, H, rng=0).stream)


def test_a_cells_first_formulas_are_tried():
    def forgetful(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
        h_t = h_prev  # noqa: F841

    class Forgetful(MGU):
        cell = planted(MGU.cell, MGU.cell.step_forward, forgetful)

    with pytest.raises(CellError):
        Forgetful(D, H, rng=0).stream()


# ------------------------------------------------------------------------------------------------ what it rests on


def test_a_step_runs_the_formulas_of_the_layer():
    """There is no second version of a formula: one that is planted in the layer's cell is the stream's."""

    def without_tanh(a_t, h_in, W_hh, h_t):
        a_t += h_in.dot(W_hh.T)
        h_t[...] = a_t

    layer = RNN(D, H, rng=0)
    x, h_0 = drawn(layer, 2)
    right = streamed(layer.stream(2, h_0), x)
    layer.cell = planted(layer.cell, tanh_step_forward, without_tanh)
    assert_is_layer(layer, 2)
    assert not np.array_equal(streamed(layer.stream(2, h_0), x)[0], right[0])
    assert [call for call, _ in LSTM(D, H, rng=0).stream()._steps.calls[0]][-1] is lstm_step_forward


def test_planted_one_memory_for_the_old_and_the_new_state(monkeypatch):
    """A formula may write h_t before it has read h_prev: the two must not be one memory."""

    def written_first(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t):
        h_t[...] = 0
        mgu_forward(f_t, n_t, h_prev, h_in, W_hf, W_hn, k_t, h_t)

    layer = MGU(D, H, rng=0)
    layer.cell = planted(layer.cell, mgu_forward, written_first)
    assert_is_layer(layer, 2)
    reused = Batch.reused
    monkeypatch.setattr(Batch, "new", lambda self, *sizes: reused(self, *sizes))
    with pytest.raises(AssertionError):
        assert_is_layer(layer, 2)


def test_planted_one_list_of_calls(monkeypatch):
    made = stepper.BoundSteps.__init__

    def one(self, *arguments, **options):
        made(self, *arguments, **options)
        self.calls = self.calls[0], self.calls[0]

    monkeypatch.setattr(stepper.BoundSteps, "__init__", one)
    for kind in (RNN, GRU, LSTM):
        with pytest.raises(AssertionError):
            assert_is_layer(kind(D, H, rng=0), 2)


@pytest.mark.parametrize("name", KINDS)
def test_planted_a_bias_that_is_forgotten(name, monkeypatch):
    part = stepper.input_part
    monkeypatch.setattr(
        stepper, "input_part", lambda *given: [call for call in part(*given) if call[0] not in (np.add, np.copyto)]
    )
    # Layer normalisation adds the bias itself.
    with contextlib.nullcontext() if name == "layernorm" else pytest.raises(AssertionError):
        assert_is_layer(KINDS[name](D, H, rng=0), 2)
