"""Passes that are prepared: what a call leaves behind makes the next one faster, and changes nothing else."""

import copy
import hashlib
import itertools
import pickle
import threading

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.engine import binding, prepared
from rnn_numpy.engine.prepared import Shelf
from rnn_numpy.layers.rnn import CELLS
from tests.support.planting import edited

T = 6
LAYERS = {
    "tanh": (RNN, {}),
    "relu": (RNN, {"nonlinearity": "relu"}),
    "lstm": (LSTM, {}),
    "projected": (LSTM, {"proj_size": 2}),
    "gru": (GRU, {}),
    "before": (GRU, {"reset": "before"}),
}
EXTRA = [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """The second call of a size has its pass kept."""
    monkeypatch.setattr(prepared, "CALLS", 2)


@pytest.fixture
def taken(monkeypatch):
    """The prepared passes that forward passes have taken, in turn."""
    found = []
    begin = Shelf.begin

    def noted(self, *arguments):
        run = begin(self, *arguments)
        if run is not None:
            found.append(run.prepared)
        return run

    monkeypatch.setattr(Shelf, "begin", noted)
    return found


def drawn(rng, like):
    if isinstance(like, tuple):
        return tuple(drawn(rng, one) for one in like)
    return rng.normal(size=like.shape).astype(like.dtype)


def bits(array):
    """Stand for an array's bytes: where they differ, pytest would look for the difference in megabytes."""
    return hashlib.sha256(array.tobytes()).hexdigest()


def arrays_of(result):
    """Return all arrays of a forward and a backward pass, as what stands for their bytes."""
    output, h_n, trace, back = result
    found = {"output": output, "grads": back.grads.flat, **back.named()}
    found |= {f"h_n {i}": one for i, one in enumerate(h_n if isinstance(h_n, tuple) else (h_n,))}
    for name, layer in trace.layers.items():
        found |= {f"{name} {array}": getattr(layer, array) for array in layer.names}
        found |= {f"{name} {symbol}": weight for symbol, weight in layer.weights.items()}
    return {name: (array.dtype, array.shape, bits(array)) for name, array in found.items()}


def both(layer, x, h_0=None, doutput=None, dh_n=None):
    output, h_n, trace = layer.forward(x, h_0)
    return output, h_n, trace, layer.backward(trace, np.ones_like(output) if doutput is None else doutput, dh_n)


def alone(layer, *arguments):
    """Return what a layer says that has not been called before: its pass is the ordinary one."""
    return arrays_of(both(copy.deepcopy(layer), *arguments))


@pytest.mark.parametrize("extra", EXTRA, ids=str)
@pytest.mark.parametrize("N", [1, 3, 16])
@pytest.mark.parametrize("name", LAYERS)
def test_bit_for_bit_the_ordinary_pass(name, N, extra, taken):
    kind, options = LAYERS[name]
    for H, dtype in ((5, np.float32), (16, np.float64), (5, np.complex128)):
        layer, rng = kind(4, H, dtype=dtype, rng=0, **options, **extra), np.random.default_rng(1)
        h_0 = dh_n = None
        del taken[:]
        for call in range(5):
            x = rng.normal(size=(N, T, 4) if layer.batch_first else (T, N, 4)).astype(dtype)
            output, h_n = layer(x)
            doutput = drawn(rng, output)
            wanted = alone(layer, x, h_0, doutput, dh_n)
            assert arrays_of(both(layer, x, h_0, doutput, dh_n)) == wanted
            h_0 = drawn(rng, h_n) if call % 2 else None
            dh_n = drawn(rng, h_n) if call % 3 else None
            if call != 2:
                layer.params.flat[:] = drawn(rng, layer.params.flat)
        assert len(taken) > 2


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_all_kinds_of_zeros_and_nan(name, taken):
    kind, options = LAYERS[name]
    layer = kind(2, 3, rng=0, **options)
    x = np.random.default_rng(0).normal(size=(4, 1, 2))
    for value in (0.0, 0.0, 0.0, -0.0, np.nan, np.nan, 0.0, 0.25):
        layer.params.flat[:] = value
        assert arrays_of(both(layer, x)) == alone(layer, x)
    assert len(taken) > 2


def warm(layer, x, calls=4):
    for _ in range(calls):
        both(layer, x)


@pytest.mark.parametrize("name", LAYERS)
def test_a_trace_stays_what_it_is(name, taken):
    kind, options = LAYERS[name]
    layer, rng = kind(2, 3, rng=0, **options), np.random.default_rng(0)
    x = rng.normal(size=(T, 2, 2))
    warm(layer, x)
    held, wanted = [], []
    for _ in range(7):
        x = rng.normal(size=x.shape)
        wanted.append(alone(layer, x))
        held.append(both(layer, x))
        layer.params.flat[:] += 0.01
    assert [arrays_of(one) for one in held] == wanted
    assert len(set(map(id, taken[-7:]))) < len(held)  # some of these were ordinary


@pytest.mark.parametrize(
    "part",
    [
        lambda trace: trace.h[2],
        lambda trace: trace.dh,
        lambda trace: trace.layers["l0"].arrays,
        lambda trace: trace.layers["l0"].arrays["h"].T[0],
        lambda trace: trace.layers["l0"].latest,
        lambda trace: trace.layers["l0"].weights["W_hh"],
        lambda trace: trace[3],
        lambda trace: memoryview(trace.layers["l0"].arrays["x"]),
    ],
)
def test_what_is_kept_of_a_trace_stays(part, taken):
    layer, rng = RNN(2, 3, rng=0), np.random.default_rng(0)
    x = rng.normal(size=(T, 2, 2))
    warm(layer, x)
    kept = part(both(layer, x)[2])
    before = copy.deepcopy(repr(kept)) if not isinstance(kept, memoryview) else kept.tolist()
    mine, count = taken[-1], len(taken)
    layer.params.flat[:] = 0.5
    for _ in range(5):
        both(layer, 2 * x)
    assert mine not in taken[count:]
    assert len(taken) > count
    assert (repr(kept) if not isinstance(kept, memoryview) else kept.tolist()) == before
    del kept
    both(layer, x)
    both(layer, x)
    assert mine in taken[-2:]


def test_what_is_returned_is_the_callers(taken):
    layer, x = LSTM(2, 3, rng=0), np.random.default_rng(0).normal(size=(T, 1, 2))
    warm(layer, x)
    wanted = alone(layer, x)
    for _ in range(3):
        output, h_n, trace, back = both(layer, x)
        assert not np.shares_memory(output, trace.layers["l0"].arrays["h"])
        mine, before = taken[-1], output.copy()
        del trace
        for array in (*h_n, back.dx, back.dh_0, back.dc_0, back.grads.flat):
            array[...] = np.nan
        assert arrays_of(both(layer, x)) == wanted
        assert taken[-1] is mine
        assert np.array_equal(output, before)


def test_two_backward_passes_on_one_trace(taken):
    layer, rng = GRU(2, 3, rng=0), np.random.default_rng(0)
    x, first, second = rng.normal(size=(T, 2, 2)), rng.normal(size=(T, 2, 3)), rng.normal(size=(T, 2, 3))
    warm(layer, x)
    wanted = [alone(layer, x, None, one) for one in (first, second)]
    output, h_n, trace = layer.forward(x)
    done = layer.backward_steps(trace, first)
    for step in itertools.islice(done, 2):
        dh, halfway = step.dh, step.dh.copy()
    back = layer.backward(trace, second)
    assert arrays_of((output, h_n, trace, back)) == wanted[1]
    assert np.array_equal(dh, halfway)
    for _ in done:
        pass
    assert bits(done.result.grads.flat) == wanted[0]["grads"][2]
    assert bits(done.result.dx) == wanted[0]["dx"][2]
    assert len(taken) > 2


def test_steps_that_are_left_halfway(taken):
    layer, rng = RNN(2, 3, num_layers=2, rng=0), np.random.default_rng(0)
    x = rng.normal(size=(T, 1, 2))
    warm(layer, x)
    wanted = alone(layer, x)
    steps = layer.forward_steps(x)
    for _ in range(T + 2):
        next(steps)
    assert arrays_of(both(layer, x)) == wanted
    for _ in steps:
        pass
    output, h_n, trace = steps.result
    assert arrays_of((output, h_n, trace, layer.backward(trace, np.ones_like(output)))) == wanted
    assert len(taken) > 2


def test_a_step_that_is_changed_changes_the_next(taken):
    layer, x = RNN(2, 3, rng=0), np.random.default_rng(0).normal(size=(T, 1, 2))

    def changed(layer):
        steps = layer.forward_steps(x)
        for step in steps:
            if step.t == 2:
                step.write("h", np.zeros((1, 3)))
        output, _, trace = steps.result
        return output, layer.backward(trace, np.ones_like(output)).grads.flat

    wanted = changed(copy.deepcopy(layer))
    warm(layer, x)
    count = len(taken)
    found = changed(layer)
    assert len(taken) == count + 1
    assert list(map(bits, found)) == list(map(bits, wanted))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), copy.copy], ids=["deep", "pickle", "copy"]
)
def test_copies_of_layers_and_of_traces(copied, taken):
    layer, x = LSTM(2, 3, rng=0), np.random.default_rng(0).normal(size=(T, 1, 2))
    warm(layer, x)
    wanted = alone(layer, x)
    output, h_n, trace = layer.forward(x)
    twin, other = copied(trace), copied(layer)
    back = layer.backward(twin, np.ones_like(output))
    assert arrays_of((output, h_n, twin, back)) == wanted
    warm(layer, 2 * x)
    warm(other, 3 * x)
    assert arrays_of((output, h_n, trace, layer.backward(trace, np.ones_like(output)))) == wanted
    assert arrays_of(both(other, x)) == wanted
    assert arrays_of(both(layer, x)) == wanted
    assert len(taken) > 2


def test_a_copy_has_a_shelf_of_its_own():
    layer = RNN(2, 3, rng=0)
    warm(layer, np.ones((T, 1, 2)))
    assert layer.shelf.passes
    assert copy.deepcopy(layer).shelf.passes == pickle.loads(pickle.dumps(layer)).shelf.passes == {}


def test_what_a_layer_is_may_change(taken):
    layer, rng = RNN(2, 3, rng=0), np.random.default_rng(0)
    x = rng.normal(size=(T, 2, 2))

    def check(called=True):
        for _ in range(4):
            count = len(taken)
            wanted = alone(layer, x)
            assert arrays_of(both(layer, x)) == wanted
        assert (len(taken) > count) == called

    check()
    layer.params = layer.params.copy()
    layer.params.flat[:] *= 2
    check()
    layer.load_state_dict(RNN(2, 3, rng=5).state_dict())
    check()
    layer.cell = CELLS["relu"]
    check()
    layer.cell = copy.copy(CELLS["tanh"])
    check()
    for dtype in (np.float32, np.complex128):
        twin = layer.astype(dtype)
        for _ in range(4):
            assert arrays_of(both(twin, x.astype(dtype))) == alone(twin, x.astype(dtype))
    layer.batch_first, x = True, x.swapaxes(0, 1)
    check()
    x = x[0]
    check()
    layer.bias = False
    layer.params = RNN(2, 3, bias=False, rng=0).params
    layer.shapes()
    check()
    layer.recurrent_dropout = 0.5
    check(called=False)


def test_calls_that_are_not_prepared(taken):
    layer, x = LSTM(2, 3, rng=0), np.ones((T, 2, 2))
    for _ in range(4):
        layer(x)
        layer.forward(x, lengths=[T, 3])
        layer.forward(x, recurrent_masks={"l0": np.ones((2, 3))})
        layer.forward(x, checkpoint=2)
        layer.forward(np.ones((prepared.STEPS + 1, 1, 2)))
        layer.forward(np.ones((3, 0, 2)))
    assert taken == []
    warm(layer, x)
    assert taken
    count = len(taken)
    wanted = arrays_of(both(LSTM(2, 3, rng=0), x))
    trace = layer.forward(x, lengths=[T, 3])[2]
    layer.backward(trace, np.ones((T, 2, 3)))
    assert len(taken) == count
    assert arrays_of(both(layer, x)) == wanted


@pytest.mark.parametrize("name", ["open_backward", "close_backward", "backward_loop", "forward_loop", "bptt"])
def test_a_way_of_ones_own_is_gone(name, taken):
    called = []

    def own(self, *arguments):
        called.append(name)
        return getattr(RNN, name)(self, *arguments)

    x = np.ones((T, 1, 2))
    layer = type("Own", (RNN,), {name: own})(2, 3, rng=0)
    warm(layer, x)
    assert len(called) == 4
    assert taken == []
    layer = RNN(2, 3, rng=0)
    warm(layer, x)
    count = len(taken)
    setattr(layer, name, own.__get__(layer))
    warm(layer, x)
    assert (len(called), len(taken)) == (8, count)


def test_threads_on_one_layer(taken):
    layer, rng = LSTM(2, 3, rng=0), np.random.default_rng(0)
    inputs = [rng.normal(size=(T, 1, 2)) for _ in range(4)]
    wanted = [alone(layer, x) for x in inputs]
    warm(layer, inputs[0])
    wrong, ready = [], threading.Barrier(4)

    def work(index):
        ready.wait()
        for _ in range(60):
            if arrays_of(both(layer, inputs[index])) != wanted[index]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(taken) > 60


def test_few_passes_are_kept():
    layer = RNN(2, 3, rng=0)
    for _ in range(3 * prepared.TURNS):
        for steps in range(1, 12):
            layer.forward(np.ones((steps, 1, 2)))
    assert 1 < sum(map(len, layer.shelf.passes.values())) <= prepared.MOST + 2


def test_large_passes_make_room_for_each_other(monkeypatch):
    layer = RNN(2, 3, rng=0)
    for steps in (20, 30):
        warm(layer, np.ones((steps, 1, 2)))
    most = sum(kept[0].size for kept in layer.shelf.passes.values())
    assert len(layer.shelf.passes) == 2
    monkeypatch.setattr(prepared, "KEPT", most)
    for steps in range(21, 30):
        for _ in range(prepared.TURNS):
            layer.forward(np.ones((steps, 1, 2)))
        assert ("l0", (steps, 1, 2)) in [key[:2] for key in layer.shelf.passes]
        sizes = [one.size for kept in layer.shelf.passes.values() for one in kept]
        assert sum(sizes[:-1]) + min(sizes) // 2 <= most  # before a pass is made, its weights and padding are not known
    monkeypatch.setattr(prepared, "BYTES", 100)
    warm(layer, np.ones((31, 1, 2)), prepared.TURNS)
    assert ("l0", (31, 1, 2)) not in [key[:2] for key in layer.shelf.passes]


@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("extra", EXTRA, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_several_blocks_of_steps(name, extra, N, taken, monkeypatch):
    """Products go block by block as in the ordinary pass, and what has no gradient in it is made once."""
    kind, options = LAYERS[name]
    layer, rng = kind(4, 16, rng=0, **options, **extra), np.random.default_rng(1)
    monkeypatch.setattr(binding, "BLOCK_BYTES", 2**12)
    for _ in range(5):
        x = rng.normal(size=(N, 40, 4) if layer.batch_first else (40, N, 4))
        doutput = drawn(rng, layer(x)[0])
        wanted = alone(layer, x, None, doutput)
        assert arrays_of(both(layer, x, None, doutput)) == wanted
    assert len(taken) > 2
    back = taken[-1].back
    assert len(back.blocks(back.arrays["da"][0].nbytes, False)) > 1


# ------------------------------------------------------------------------------------------------ planted


@pytest.mark.parametrize(
    ("owner", "method", "right", "wrong", "test"),
    [
        (prepared.Prepared, "is_free", "self.references() == self.idle", "True", test_a_trace_stays_what_it_is),
        (prepared.Prepared, "backward", "self.unused.pop()", "self.unused", test_two_backward_passes_on_one_trace),
        (prepared.Prepared, "forward", "(new != self.bits).any()", "False", test_bit_for_bit_the_ordinary_pass),
        (prepared.Prepared, "backward", "entry.fill(0)", "pass", test_bit_for_bit_the_ordinary_pass),
    ],
)
def test_planted(owner, method, right, wrong, test, taken, monkeypatch):
    monkeypatch.setattr(owner, method, edited(getattr(owner, method), right, wrong))
    arguments = {"name": "lstm", "N": 2, "extra": {}, "taken": taken}
    names = test.__code__.co_varnames[: test.__code__.co_argcount]
    with pytest.raises(AssertionError):
        test(**{name: arguments[name] for name in names})


def test_what_is_made_again_at_each_block_is_seen(taken, monkeypatch):
    monkeypatch.setattr(binding, "BLOCK_BYTES", 2**12)  # as the edited function has it, too
    monkeypatch.setattr(binding.Binding, "blocks", edited(binding.Binding.blocks, '"partials" in self.ready', "False"))
    with pytest.raises(AssertionError):
        test_several_blocks_of_steps("lstm", {}, 2, taken, monkeypatch)
