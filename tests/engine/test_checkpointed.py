"""Passes that keep states at every K-th step: what an ordinary pass computes, bit for bit, in the memory of a block."""

import contextlib
import gc
import itertools
import json
import tracemalloc

import numpy as np
import pytest
from mgu import mgu_backward, mgu_forward
from planting import edited

from rnn_numpy import GRU, LSTM, RNN
from rnn_numpy.core import memory, states
from rnn_numpy.engine import Cell, CheckpointedTrace, Recurrent, Step, binding, checkpointed, in_folder
from rnn_numpy.errors import DataError, DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab import state_jacobians
from rnn_numpy.layers.attention import AttentionLSTM
from rnn_numpy.layers.layer_norm import LayerNormLSTM
from rnn_numpy.layers.peephole import PeepholeLSTM


class MGU(Recurrent):
    cell = Cell(("f", "n"), ("h",), mgu_forward, mgu_backward, hidden_inputs={"n": "k_t"}, records={"k": 1})


KINDS = (RNN, LSTM, GRU, PeepholeLSTM, LayerNormLSTM, MGU)
OPTIONS = (
    {},
    {"num_layers": 2, "dropout": 0.3},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "zoneout": 0.2},
    {"recurrent_dropout": 0.3, "zoneout": 0.1, "batch_first": True},
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """The driver's own blocks, to multiples of which K is rounded up, of few steps."""
    monkeypatch.setattr(binding, "BLOCK_BYTES", 200)


@pytest.fixture(params=[0, 20_000], ids=["none kept", "some kept"])
def kept(request, monkeypatch):
    monkeypatch.setattr(checkpointed, "KEPT_BYTES", request.param)


def same(found, expected):
    for one, other in zip(states.split(found), states.split(expected), strict=True):
        assert one.shape == other.shape
        assert np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


def replayed(trace):
    return {
        "dropout_masks": trace.masks,
        "recurrent_masks": trace.recurrent_masks,
        "zoneout_masks": trace.zoneout_masks,
    }


def case(kind, options, N, lengths, dtype=np.float64, T=41, H=6):
    layer = kind(3, H, dtype=dtype, rng=0, **options)
    rng = np.random.default_rng(N)
    x = rng.normal(size=(N, T, 3) if layer.batch_first else (T, N, 3)).astype(dtype)
    counts = rng.integers(1, T + 1, size=N) if lengths else None
    h_0, dh_n = layer(x)[1], layer(2 * x)[1]
    output, _, trace = layer.forward(x, h_0, counts)
    return layer, (x, h_0, counts), trace, rng.normal(size=output.shape).astype(dtype), dh_n


@pytest.mark.sampled(5)
@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_all_is_equal_bit_for_bit_but_sums(kind, options, lengths, kept):
    for N, dtype in ((1, np.float64), (5, np.float32)):
        layer, call, trace, doutput, dh_n = case(kind, options, N, lengths, dtype)
        output, h_n, _ = layer.forward(*call, **replayed(trace))
        found = layer.forward(*call, checkpoint=4, **replayed(trace))
        assert isinstance(found[2], CheckpointedTrace) and len(found[2].sections["l0"].blocks) > 1
        same(found[0], output)
        same(found[1], h_n)
        for _ in range(2):  # a trace may be used several times
            expected, back = layer.backward(trace, doutput, dh_n), layer.backward(found[2], doutput, dh_n)
            for name, array in expected.named().items():
                same(back.named()[name], array)
            scale = 300 * np.finfo(dtype).eps * np.abs(expected.grads.flat).max()
            assert np.abs(back.grads.flat - expected.grads.flat).max() < scale


@pytest.mark.parametrize("lengths", [False, True], ids=["whole", "lengths"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
@pytest.mark.parametrize("kind", [LSTM, GRU], ids=lambda kind: kind.__name__)
def test_every_step_shows_what_it_shows_in_an_ordinary_pass(kind, options, lengths, kept):
    layer, call, trace, doutput, dh_n = case(kind, options, 3, lengths, T=20)
    long = layer.forward(*call, checkpoint=3, **replayed(trace))[2]
    found, expected = (layer.backward_steps(one, doutput, dh_n) for one in (long, trace))
    count = 0
    for step, other in zip(found, expected, strict=True):
        assert (step.t, step.layer, step.reverse, step.names) == (other.t, other.layer, other.reverse, other.names)
        for name in other.names:
            same(getattr(step, name), getattr(other, name))
        assert repr(step) == repr(other)
        count += 1
    steps = trace.edge.batch.T if call[2] is None else call[2].max()
    assert count == steps * layer.num_layers * layer.num_directions
    for t in (0, 7, steps - 1):
        assert isinstance(long[t], Step) and long[t].t == t
        same(long[t].h_prev, trace[t].h_prev)


def test_attention_is_carried_along():
    layer, rng = AttentionLSTM(3, 4, memory_size=5, score="additive", rng=0), np.random.default_rng(0)
    given = {"values": rng.normal(size=(7, 2, 5)), "keys": rng.normal(size=(7, 2, layer.params["v_l0"].size))}
    x, dalpha = rng.normal(size=(30, 2, 3)), rng.normal(size=(30, 2, 7))
    output, h_n, trace = layer.forward(x, given=given)
    long = layer.forward(x, given=given, checkpoint=5)
    same(long[0], output)
    same(long[1], h_n)
    doutput = rng.normal(size=output.shape)
    back, expected = (layer.backward(t, doutput, drecords={"alpha": dalpha}) for t in (long[2], trace))
    same(back.dx, expected.dx)
    for name, array in expected.dgiven.items():
        assert np.abs(back.dgiven[name] - array).max() < 1e-14 * np.abs(array).max()
    assert np.abs(back.grads.flat - expected.grads.flat).max() < 1e-14 * np.abs(expected.grads.flat).max()


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_loss_block_by_block(num_layers, batch_first):
    """Outputs need not exist at once: a function gets each block's, in the caller's axes, the newest first."""
    layer = GRU(2, 5, num_layers, batch_first=batch_first, rng=0)
    x = np.random.default_rng(0).normal(size=(3, 50, 2))
    x = x if batch_first else x.swapaxes(0, 1)
    output, h_n, trace = layer.forward(x, lengths=[50, 9, 33])
    expected = layer.backward(trace, np.tanh(output))
    none, final, long = layer.forward(x, lengths=[50, 9, 33], checkpoint=4, outputs=False)
    assert none is None
    same(final, h_n)
    asked = []

    def loss(steps, block):
        asked.append(steps)
        same(block, output[:, steps.start : steps.stop] if batch_first else output[steps.start : steps.stop])
        with pytest.raises(ValueError, match="read-only"):
            block[...] = 0
        return np.tanh(block)

    back = layer.backward(long, loss)
    same(back.dx, expected.dx)
    assert asked == sorted(asked, key=lambda steps: -steps.start) and [t for s in asked[::-1] for t in s] == [
        *range(50)
    ]


def test_memory_is_that_of_blocks_and_x_may_be_a_memmap(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointed, "KEPT_BYTES", 2**18)
    monkeypatch.setattr(binding, "BLOCK_BYTES", 2**15)
    layer, T = RNN(4, 16, dtype=np.float32, rng=0), 20_000
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((T, 1, 4), dtype=np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")

    def peak(**options):
        memory.release()
        gc.collect()
        tracemalloc.start()
        trace = layer.forward(x, **options)[2]
        layer.backward(trace, (lambda steps, output: output) if options else None)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    ordinary, long = peak(), peak(checkpoint=1, outputs=False)
    assert long < 0.3 * ordinary  # dx alone, 4 of 16 * 4 + 2 * 4 numbers a step, is a tenth


MISTAKES = {  # what stands there, what in its place, and whether only sequences that end show it
    "border after the rest": ("np.where(goes_on, border, row[binding.entry])", "row[binding.entry]", False),
    "border twice": ("np.where(goes_on, carry, added)", "added", False),
    "nothing carried": ("np.where(exists, arrays[", "0 * np.where(exists, arrays[", False),
    "carried past the end": ("np.where(shown, carry, 0)", "carry", True),
    "final gradient lost": ("np.where(exists, arrays[\"d\" + state][binding.entry], carry)",
                            "arrays[\"d\" + state][binding.entry].copy()", True),
    "sums of one block": ("sums[name] += array", "sums[name][...] = array", False),
    "first block forgotten": ("if not index:", "if index < 2:", False),
}  # fmt: skip


@pytest.mark.parametrize("wrong", MISTAKES)
def test_planted_mistakes_show(wrong, monkeypatch):
    old, new, lengths = MISTAKES[wrong]
    layer, call, _, doutput, dh_n = case(GRU, {}, 5, lengths)

    def wholly():
        long = layer.forward(*call, checkpoint=4)[2]
        passing = layer.backward_steps(long, doutput, dh_n)
        steps = [step.dh.tobytes() + step.dh_prev.tobytes() for step in passing]
        return [passing.result.dx.tobytes(), passing.result.dh_0.tobytes(), *steps], passing.result.grads.flat

    expected, grads = wholly()
    owner = checkpointed.Account if wrong == "sums of one block" else checkpointed.Section
    name = "add" if wrong == "sums of one block" else "backward"
    monkeypatch.setattr(owner, name, edited(getattr(owner, name), old, new))
    found, sums = wholly()
    assert found != expected or np.abs(sums - grads).max() > 1e-3 * np.abs(grads).max()


def test_what_has_changed_since_the_forward_pass_is_an_error(monkeypatch):
    layer, (x, h_0, _), _, doutput, _ = case(RNN, {}, 2, False)
    long = layer.forward(x, h_0, checkpoint=4)[2]
    own = layer.params.flat.copy()
    layer.params.flat[...] = 0  # the trace has a copy of the parameters
    expected = layer.backward(long, doutput).dx
    assert expected.any()
    layer.params.flat[...] = own
    monkeypatch.setattr(checkpointed, "KEPT_BYTES", 0)
    long = layer.forward(x, h_0, checkpoint=4)[2]
    x[30] += 1e-3
    with pytest.raises(OptionError, match=r"RNN: steps \d+ to \d+ do not end as they did in the forward pass; x must"):
        layer.backward(long, doutput)


def test_what_does_not_fit_is_refused():
    layer, (x, _, _), trace, doutput, _ = case(RNN, {}, 2, False)
    long = layer.forward(x, checkpoint=4)[2]
    for checkpoint, error in ((0, OptionError), (-3, OptionError), (2.5, DTypeError), (True, DTypeError)):
        with pytest.raises(error, match=r"RNN.forward: checkpoint"):
            layer.forward(x, checkpoint=checkpoint)
    with pytest.raises(OptionError, match="outputs=False needs checkpoint=K"):
        layer.forward(x, outputs=False)
    with pytest.raises(
        OptionError, match=r"RNN.backward: doutput may be a function .* after a forward pass with check"
    ):
        layer.backward(trace, lambda steps, output: output)
    with pytest.raises(
        ShapeError, match=r"doutput\(range\(\d+, 41\), output\) must have shape \(T, N, directions \* H\)"
    ):
        layer.backward(long, lambda steps, output: output[:-1])
    with pytest.raises(ShapeError, match="RNN.backward: doutput must have shape"):
        layer.backward(long, doutput[:-1])
    with pytest.raises(ShapeError, match="other options"):
        RNN(3, 7).backward(long, None)
    with pytest.raises(IndexError, match=r"t must be in \[-T, T\), T = 41 steps; got 41"):
        long[41]
    assert long[-1].t == 40
    for name in ("h", "da"):
        with pytest.raises(
            AttributeError, match=rf"no {name} of all steps at once: trace\[t\].{name} is that of a step"
        ):
            getattr(long, name)
    assert not hasattr(long, "other")
    for wrong in ("3", 1.5, True, None):
        with pytest.raises(DTypeError, match="CheckpointedTrace.block: t must be an integer"):
            long.block(wrong)
    shorter = layer.forward(x, lengths=np.full(x.shape[1], 30), checkpoint=4)[2]
    assert shorter[29].t == 29
    for past in (30, 40, -1):
        with pytest.raises(IndexError, match=rf"no sequence has step t = {past} of T = 41: the longest has 30 steps"):
            shorter[past]
    assert len(list(shorter)) == 30
    with pytest.raises(OptionError, match=r"RNN.forward: folder must not be empty; Path\('.'\) is the current one"):
        layer.forward(x, checkpoint=4, folder="")
    with pytest.raises(DTypeError, match=r"trace\[t\] is a step, t an int; got 'l0'"):
        long["l0"]
    with pytest.raises(OptionError, match="run forward without checkpoint"):
        state_jacobians(layer, long)
    with pytest.raises(OptionError, match=r"must return dL/doutput, or \(loss, dL/doutput\); got 3 results"):
        layer.backward(long, lambda steps, output: (0, output, 1))
    with pytest.raises(DTypeError, match="RNN.forward: folder must be a str or a path; got int"):
        layer.forward(x, checkpoint=4, folder=3)
    with pytest.raises(DTypeError, match="RNN.forward: outputs must be True or False"):
        layer.forward(x, checkpoint=4, outputs=0)
    with pytest.raises(OptionError, match="name must be one of 'l0'; got 'l1'"):
        long.block(3, "l1")
    both = RNN(3, 6, bidirectional=True, rng=0)
    with pytest.raises(OptionError, match="one direction"):
        both.backward(both.forward(x, checkpoint=4)[2], lambda steps, output: output)
    x[5, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="RNN.forward"):
        layer.forward(x, checkpoint=4, check_finite=True)


class StopError(Exception):
    pass


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3]], ids=["plain", "layers and directions"])
def test_a_run_that_was_stopped_goes_on_from_its_last_block(options, tmp_path, monkeypatch):
    """Wherever it is stopped, the end is that of a run that was not, bit for bit, sums too."""
    monkeypatch.setattr(in_folder, "SECONDS", 0.0)
    layer, call, trace, doutput, dh_n = case(LSTM, options, 3, False, T=30)
    long = layer.forward(*call, checkpoint=4, **replayed(trace))
    whole = layer.backward(long[2], doutput, dh_n)
    loops = {name: getattr(Recurrent, name) for name in ("forward_loop", "backward_loop")}

    def run(folder, stop=None):
        steps = itertools.count()

        def stopping(name):
            def loop(self, *arguments):
                for t in loops[name](self, *arguments):
                    if next(steps) == stop:
                        raise StopError
                    yield t

            return loop

        for name in loops:
            monkeypatch.setattr(Recurrent, name, stopping(name))
        found = layer.forward(*call, checkpoint=4, folder=folder, **replayed(trace))
        return found, layer.backward(found[2], doutput, dh_n), found[2].keeper.words, next(steps)

    count = run(tmp_path / "whole")[3]
    words = set()
    for number, stop in enumerate(range(3, 5 * count // 2, count // 6)):
        folder = tmp_path / f"at {number}"
        for place in (stop, stop // 2):  # stopped twice
            with contextlib.suppress(StopError):
                run(folder, place)
            if (folder / "progress.npz").exists():
                words.add(json.loads(np.load(folder / "progress.npz")["place"].tobytes())["words"].split(" of ")[0])
        found, back, said, steps = run(folder)
        assert said == "both passes are through"
        if stop >= 2 * count:  # it was through before: nothing is done again
            assert steps == 0
        same(found[0], long[0])
        same(found[1], long[1])
        for name, array in whole.named().items():
            same(back.named()[name], array)
        same(back.grads.flat, whole.grads.flat)
    assert words == {"forward pass", "the forward pass is through", "backward pass", "both passes are through"}


def test_a_loss_goes_on_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(in_folder, "SECONDS", 0.0)
    layer, x = GRU(2, 5, rng=0), np.random.default_rng(0).normal(size=(50, 3, 2))
    asked = []

    def loss(steps, output):
        asked.append(steps)
        if len(asked) == 4:
            raise StopError
        return 0.5 * float(np.sum(output**2)), output

    for _ in range(2):
        trace = layer.forward(x, checkpoint=4, outputs=False, folder=tmp_path)[2]
        with contextlib.suppress(StopError):
            back = layer.backward(trace, loss)
    output, _, plain = layer.forward(x)
    assert abs(back.loss - 0.5 * np.sum(output**2)) < 1e-13 * back.loss
    same(back.dx, layer.backward(plain, output).dx)
    assert trace.keeper.words == "both passes are through"
    count = len(asked)
    again = layer.backward(layer.forward(x, checkpoint=4, outputs=False, folder=tmp_path)[2], loss)
    assert len(asked) == count and again.loss == back.loss  # all is there
    same(again.dx, back.dx)
    double = layer.backward(layer.forward(x, checkpoint=4, outputs=False, folder=tmp_path)[2], 2 * output)
    same(double.dx, 2 * back.dx)  # asked for something else, it begins anew


def test_a_folder_of_another_call_is_refused(tmp_path):
    layer, x = RNN(2, 5, rng=0), np.random.default_rng(0).normal(size=(50, 3, 2))
    layer.forward(x, checkpoint=4, folder=tmp_path / "run")
    for other, signal in ((layer, 2 * x), (RNN(2, 5, rng=1), x), (GRU(2, 5, rng=0), x)):
        with pytest.raises(OptionError, match=r"another call \(the forward pass is through\): x, parameters, masks"):
            other.forward(signal, checkpoint=4, folder=tmp_path / "run")
    with pytest.raises(OptionError, match=r"RNN.forward: folder needs checkpoint=K"):
        layer.forward(x, folder=tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match=r"RNN.forward: folder .*file cannot be made"):
        layer.forward(x, checkpoint=4, folder=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "run" / "progress.npz").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"progress.npz"):
        layer.forward(x, checkpoint=4, folder=tmp_path / "run")
    np.savez(tmp_path / "run" / "progress.npz", place=np.zeros(3))
    with pytest.raises(DataError, match=r"progress.npz is not the progress of a forward pass"):
        layer.forward(x, checkpoint=4, folder=tmp_path / "run")
