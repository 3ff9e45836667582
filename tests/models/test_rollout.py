"""Roll-outs: the exact gradient of predictions that are fed back, in every mode and for every layer."""

import inspect
import textwrap

import numpy as np
import pytest
from frameworks import torch
from mgu import mgu_backward, mgu_forward

from rnn_numpy import GRU, LSTM, RNN, SGD, Forecaster, LayerNormLSTM, PeepholeLSTM, gradcheck
from rnn_numpy.core import states
from rnn_numpy.engine import Cell, Recurrent
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention import AttentionGRU
from rnn_numpy.models import Rollout, Seq2SeqForecaster, SequenceModel, rollout
from rnn_numpy.training import Batches, train


class MGU(Recurrent):
    """A layer of one's own."""

    cell = Cell(
        gate_names=("f", "n"),
        states=("h",),
        step_forward=mgu_forward,
        step_backward=mgu_backward,
        hidden_inputs={"n": "k_t"},
        records={"k": 1},
    )


D, N, T, H = 2, 3, 4, 4

LAYERS = {
    "rnn": lambda **o: RNN(D, 3, rng=0, **o),
    "rnn-3": lambda **o: RNN(D, 3, num_layers=3, rng=0, **o),
    "lstm": lambda **o: LSTM(D, 3, rng=0, **o),
    "lstm-2-proj": lambda **o: LSTM(D, 3, num_layers=2, proj_size=2, rng=0, **o),
    "gru-2": lambda **o: GRU(D, 3, num_layers=2, rng=0, **o),
    "gru-reset-before": lambda **o: GRU(D, 3, reset="before", rng=0, **o),
    "layer-norm": lambda **o: LayerNormLSTM(D, 3, rng=0, **o),
    "peephole": lambda **o: PeepholeLSTM(D, 3, rng=0, **o),
    "own": lambda **o: MGU(D, 3, num_layers=2, rng=0, **o),
}
every_layer = pytest.mark.parametrize("layer", LAYERS)


def rolled(layer, mode="free", **options):
    return Rollout(SequenceModel(LAYERS[layer](**options), D, reads="all", rng=1), mode)


def data(out, seed=2, steps=T, horizon=H):
    """Return inputs of all kinds and what a loss says to predictions and to the last state."""
    rng = np.random.default_rng(seed)
    rnn = out.model.rnn
    x, targets, dpredictions = (rng.normal(size=(k, N, D)) for k in (steps, horizon, horizon))
    h_0, dh_n = (
        states.join([rng.normal(size=(rnn.num_layers, N, width)) for width in rnn.widths.values()]) for _ in range(2)
    )
    return {"x": x, "h_0": h_0, "targets": targets}, dpredictions, dh_n


def objective(out, inputs, dpredictions, dh_n, seed=None, **options):
    if seed is not None:
        out.model.rnn.rng = np.random.default_rng(seed)
    predictions, h_n, _ = out.forward(
        inputs["x"], len(dpredictions), inputs["h_0"], targets=inputs["targets"], **options
    )
    ends = zip(states.split(h_n), states.split(dh_n), strict=True)
    return (predictions * dpredictions).sum() + sum((state * d).sum() for state, d in ends)


def claimed(out, inputs, dpredictions, dh_n, seed=None, **options):
    """Return the gradients that the roll-out claims, by name."""
    if seed is not None:
        out.model.rnn.rng = np.random.default_rng(seed)
    _, _, trace = out.forward(inputs["x"], len(dpredictions), inputs["h_0"], targets=inputs["targets"], **options)
    result = out.backward(trace, dpredictions, dh_n)
    named = {name.removeprefix("d"): array for name, array in result.named().items()}
    return {**named, **result.grads}


def complex_step(out, inputs, dpredictions, dh_n, seed=None, **options):
    """Return the same by the complex step of the whole roll-out, entry by entry."""
    twin, ends = out.astype(complex), states.split(inputs["h_0"])
    names = [f"{name}_0" for name in twin.model.rnn.cell.states]
    point = {"x": inputs["x"].astype(complex)} | {n: a.astype(complex) for n, a in zip(names, ends, strict=True)}
    found = {}
    for name, array in (point | dict(twin.params)).items():
        found[name] = np.empty(array.shape)
        for index in np.ndindex(array.shape):
            array[index] += 1e-20j
            h_0 = states.join([point[n] for n in names])
            targets = inputs["targets"].astype(complex)
            value = objective(
                twin, {"x": point["x"], "h_0": h_0, "targets": targets}, dpredictions, dh_n, seed, **options
            )
            found[name][index] = value.imag / 1e-20
            array[index] = array[index].real
    return found


def error(found, reference):
    """Return the largest error of all tensors, each relative to its largest entry."""
    assert found.keys() == reference.keys()
    assert all(np.abs(array).max() > 0 for array in reference.values())
    return max(np.abs(found[name] - array).max() / np.abs(array).max() for name, array in reference.items())


# ------------------------------------------------------------------------------------------------ the gradient


@every_layer
@pytest.mark.parametrize("mode", ["free", "teacher"])
def test_the_gradient_is_that_of_the_complex_step(layer, mode):
    out = rolled(layer, mode)
    case = data(out)
    assert error(claimed(out, *case), complex_step(out, *case)) < 1e-13


@every_layer
def test_stop_is_the_gradient_of_the_forced_pass_at_ones_own_predictions(layer):
    out = rolled(layer, "stop")
    inputs, *rest = data(out)
    predictions, _, _ = out.forward(inputs["x"], H, inputs["h_0"])
    forced = rolled(layer, "teacher")
    at_predictions = {**inputs, "targets": predictions}
    assert error(claimed(out, inputs, *rest), complex_step(forced, at_predictions, *rest)) < 1e-13
    assert error(claimed(out, inputs, *rest), complex_step(rolled(layer), inputs, *rest)) > 1e-3


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.4, "num_layers": 2}, {"recurrent_dropout": 0.4}, {"zoneout": 0.4}],
    ids=lambda options: next(iter(options)),
)
def test_the_gradient_with_masks(options):
    out = Rollout(SequenceModel(GRU(D, 6, rng=0, **options), D, reads="all", rng=1))
    case = data(out)
    assert error(claimed(out, *case, seed=7), complex_step(out, *case, seed=7)) < 1e-13
    assert objective(out, *case, seed=7) != objective(out, *case, seed=8)
    assert objective(out, *case, training=False) == objective(out, *case, training=False)


def test_masks_of_recurrent_dropout_stay_and_others_are_drawn_anew():
    model = SequenceModel(GRU(D, 8, num_layers=2, dropout=0.5, recurrent_dropout=0.5, rng=0), D, reads="all", rng=1)
    _, _, trace = Rollout(model).forward(np.ones((T, N, D)), H)
    warm_up, *others = [chunk.trace for chunk in trace.chunks]
    for other in others:
        for name, mask in warm_up.recurrent_masks.items():
            assert np.array_equal(other.recurrent_masks[name], mask) and 0 < np.count_nonzero(mask) < mask.size
    assert not np.array_equal(others[0].masks[0], others[1].masks[0])


def test_the_memory_of_an_attention_layer_gets_its_gradient():
    out = Rollout(SequenceModel(AttentionGRU(D, 3, rng=0), D, reads="all", rng=1))
    inputs, dpredictions, _ = data(out)
    values = np.random.default_rng(3).normal(size=(5, N, 3))
    exists = np.ones((N, 5), bool)
    exists[1, 2:] = False

    def run(out, values):
        return out.forward(inputs["x"].astype(values.dtype), H, given={"values": values, "exists": exists})

    _, _, trace = run(out, values)
    result = out.backward(trace, dpredictions)
    twin, reference = out.astype(complex), np.empty_like(values)
    for index in np.ndindex(values.shape):
        nudged = values.astype(complex)
        nudged[index] += 1e-20j
        reference[index] = (run(twin, nudged)[0] * dpredictions).sum().imag / 1e-20
    assert error({"values": result.dgiven["values"]}, {"values": reference}) < 1e-13
    ways = result.given_ways["values"]
    assert error({"values": ways["values"] + ways["weights"]}, {"values": reference}) < 1e-13
    free, _ = out(inputs["x"], H, given={"values": values, "exists": exists})
    assert np.array_equal(free, trace.predictions)


@pytest.mark.needs_torch
@pytest.mark.parametrize("mode", ["free", "stop", "teacher"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_torchs_unrolled_graph_says_the_same(kind, mode):
    layer = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}[kind](D, 5, num_layers=2, rng=0)
    out = Rollout(SequenceModel(layer, D, reads="all", rng=1), mode)
    inputs, dpredictions, dh_n = data(out, horizon=6)
    theirs = getattr(torch.nn, kind)(D, 5, num_layers=2, dtype=torch.float64)
    readout = torch.nn.Linear(5, D, dtype=torch.float64)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in layer.params.items()})
    readout.load_state_dict({name: torch.tensor(array) for name, array in out.model.readout.params.items()})
    x = torch.tensor(inputs["x"], requires_grad=True)
    h_0 = states.mapped(lambda array: torch.tensor(array, requires_grad=True), inputs["h_0"])
    output, state = theirs(x, h_0)
    made = [readout(output[-1:])]
    for k in range(1, 6):
        if mode == "teacher":
            read = torch.tensor(inputs["targets"][k - 1 : k])
        else:
            read = made[-1].detach() if mode == "stop" else made[-1]
        output, state = theirs(read, state)
        made.append(readout(output))
    loss = (torch.cat(made) * torch.tensor(dpredictions)).sum()
    for last, d in zip(states.split(state), states.split(dh_n), strict=True):
        loss = loss + (last * torch.tensor(d)).sum()
    loss.backward()
    reference = {"x": x.grad.numpy()}
    for name, first in zip(layer.cell.states, states.split(h_0), strict=True):
        reference[f"{name}_0"] = first.grad.numpy()
    reference |= {f"rnn.{name}": array.grad.numpy() for name, array in theirs.named_parameters()}
    reference |= {f"readout.{name}": array.grad.numpy() for name, array in readout.named_parameters()}
    assert error(claimed(out, inputs, dpredictions, dh_n), reference) < 1e-13
    predictions, _, _ = out.forward(inputs["x"], 6, inputs["h_0"], targets=inputs["targets"])
    np.testing.assert_allclose(predictions, torch.cat(made).detach().numpy(), rtol=0, atol=1e-14)


def linear(a=0.5, b=0.25, v=0.5, mode="free"):
    """Return y_k = v h_k, h_k = a u_k + b h_{k-1}: relu of what is positive."""
    model = SequenceModel(RNN(1, 1, nonlinearity="relu", bias=False), 1, reads="all")
    model.params.flat[:] = a, b, v, 0.0
    return Rollout(model, mode)


@pytest.mark.parametrize("k", range(8))
def test_the_linear_net_has_the_polynomials_derivatives(k):
    # All numbers are sums of few powers of two: there is no rounding, and == is meant.
    a, b, v, x = 0.5, 0.25, 0.5, 2.0
    free, stop = linear(a, b, v), linear(a, b, v, "stop")
    predictions, _, trace = free.forward(np.full((1, 1, 1), x), k + 1)
    g = a * v + b  # h_k = g h_{k-1}, h_0 = a x
    assert predictions.ravel().tolist() == [v * a * x * g**j for j in range(k + 1)]
    only_last = np.zeros_like(predictions)
    only_last[k] = 1
    slope = k * g ** (k - 1) if k else 0.0  # d g^k / dg
    exact = free.backward(trace, only_last)
    assert exact.grads["rnn.weight_ih_l0"].item() == v * x * g**k + v * a * x * slope * v
    assert exact.grads["rnn.weight_hh_l0"].item() == v * a * x * slope
    assert exact.grads["readout.weight"].item() == a * x * g**k + v * a * x * slope * a
    assert exact.dx.item() == v * a * g**k
    h = [a * x * g**j for j in range(k + 1)]
    read = [x, *(v * state for state in h)]
    stopped = stop.backward(trace, only_last)
    assert stopped.grads["rnn.weight_ih_l0"].item() == v * sum(b ** (k - j) * read[j] for j in range(k + 1))
    assert stopped.grads["rnn.weight_hh_l0"].item() == v * sum(b ** (k - j) * h[j - 1] for j in range(1, k + 1))
    assert stopped.grads["readout.weight"].item() == h[k]
    assert stopped.dx.item() == v * a * b**k


def test_one_step_ahead_all_modes_are_one_bit_for_bit():
    inputs, dpredictions, dh_n = data(rolled("lstm-2-proj"), horizon=1)
    ones = [claimed(rolled("lstm-2-proj", mode), inputs, dpredictions, dh_n) for mode in ("teacher", "free", "stop")]
    for other in ones[1:]:
        assert all(np.array_equal(other[name], array) for name, array in ones[0].items())


def test_teacher_is_the_model_itself_with_the_last_steps_counted():
    out = rolled("gru-2", "teacher")
    inputs, *_ = data(out)
    x, target = inputs["x"], inputs["targets"]
    loss, grads, _ = out.loss_and_grads(x, target)
    series, mask = np.concatenate([x, target]), np.zeros((T + H - 1, N), bool)
    mask[-H:] = True
    whole, reference, _ = out.model.loss_and_grads(series[:-1], series[1:], mask)
    assert loss == pytest.approx(float(whole), rel=1e-14)
    assert error(dict(grads), dict(reference)) < 1e-13


# ------------------------------------------------------------------------------------------------ gradcheck


@pytest.mark.parametrize("mode", ["free", "teacher"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradcheck_passes(mode, dtype):
    inputs, *_ = data(rolled("gru-2"))
    out = Rollout(Forecaster(D, 3, cell="gru", dtype=dtype, rng=0), mode)
    mask = np.ones((H, N), bool)
    mask[1, 2] = False
    report = gradcheck(out, inputs["x"].astype(dtype), inputs["targets"].astype(dtype), mask)
    assert report.ok, report


def test_gradcheck_says_what_stop_leaves_out(monkeypatch):
    inputs, *_ = data(rolled("rnn-3"))
    kind = "feedback path missing"
    names = ["rnn.weight_hh_l0", "readout.weight"]
    report = gradcheck(rolled("rnn-3", "stop"), inputs["x"], inputs["targets"], names=names)
    assert not report.ok and report.diagnosis.kind == kind
    assert str(report.diagnosis) == (
        "feedback path missing: what a prediction did to later ones, which read it as their input, is left out, as in "
        "mode 'stop'"
    )
    assert kind in str(report)
    net = Seq2SeqForecaster(RNN(D, 3, rng=0), RNN(D, 3, rng=1), mode="stop", rng=2)
    report = gradcheck(net, inputs["x"], inputs["targets"], names=["readout.weight"], trials=False)
    assert report.diagnosis.kind == kind
    out = rolled("rnn-3")
    planted(monkeypatch, 'if self.mode == "free"', 'if self.mode == "freed"')
    report = gradcheck(out, inputs["x"], inputs["targets"], names=names, trials=False)
    assert report.diagnosis.kind == kind
    monkeypatch.undo()
    planted(monkeypatch, *MUTANTS["nothing comes back at one step"])
    report = gradcheck(out, inputs["x"], inputs["targets"], names=names, trials=False)
    assert report.diagnosis.kind != kind


# ------------------------------------------------------------------------------------------------ stepping


@every_layer
@pytest.mark.parametrize("mode", ["free", "teacher", "stop"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_stepped_is_whole_bit_for_bit(layer, mode, dtype):
    out = rolled(layer, mode, dtype=dtype)
    inputs, dpredictions, dh_n = data(out)
    x, h_0, targets, dh_n = (states.mapped(lambda array: array.astype(dtype), a) for a in (*inputs.values(), dh_n))
    _, _, trace = out.forward(x, H, h_0, targets=targets)
    whole = out.backward(trace, dpredictions.astype(dtype), dh_n)
    assert whole.grads.dtype == whole.dx.dtype == trace.predictions.dtype == dtype
    grads = out.params.zeros_like()
    steps = out.backward_steps(trace, dpredictions.astype(dtype), dh_n, grads)
    for chunk in steps:
        assert steps.result is None or chunk.first == 0
        assert not grads.flat.any() or chunk.first == 0
    assert np.array_equal(steps.result.dx, whole.dx) and np.array_equal(grads.flat, whole.grads.flat)
    assert steps.result.grads is grads
    again = out.backward(trace, dpredictions.astype(dtype), dh_n, grads)
    assert np.array_equal(again.grads.flat, whole.grads.flat + whole.grads.flat)


def test_steps_show_what_comes_from_where():
    out = rolled("lstm")
    inputs, dpredictions, dh_n = data(out)
    _, _, trace = out.forward(inputs["x"], H, inputs["h_0"])
    V = out.model.readout.params["weight"]
    steps = out.backward_steps(trace, dpredictions, dh_n)
    newest = next(steps)
    assert (newest.first, len(trace), newest.x.shape) == (H - 1, H, (1, N, D))
    assert not newest.dfed.any() and all(np.array_equal(a, b) for a, b in zip(newest.dh, dh_n, strict=True))
    later = newest
    for chunk in steps:
        assert np.array_equal(chunk.dloss, dpredictions[chunk.first : chunk.first + 1])
        assert np.array_equal(chunk.dfed, later.dx) and np.array_equal(chunk.dy, chunk.dloss + later.dx)
        assert np.array_equal(later.x, chunk.y)
        assert all(a is b for a, b in zip(chunk.dh, later.dh_prev, strict=True))
        # The layer's own trace has them, too: of the last step, all that says anything to its output.
        np.testing.assert_allclose(chunk.trace.dh[-1], chunk.dh[0][0] + (chunk.dy @ V)[0], rtol=1e-12)
        later = chunk
    assert np.array_equal(steps.result.dx, trace[0].dx)
    stopped = Rollout(out.model, "stop").backward_steps(trace, dpredictions, dh_n)
    assert all(not chunk.dfed.any() for chunk in stopped)


def test_breaking_out_leaves_grads_alone():
    out = rolled("rnn")
    inputs, dpredictions, _ = data(out)
    _, _, trace = out.forward(inputs["x"], H)
    grads = out.params.zeros_like()
    steps = out.backward_steps(trace, dpredictions, None, grads)
    next(steps), next(steps)
    assert steps.result is None and not grads.flat.any()
    dpredictions[:] = 0  # copied at the start
    assert [chunk.first for chunk in steps] == [1, 0] and grads.flat.any()


def test_the_gradient_is_that_of_what_was_computed():
    out = rolled("gru-2")
    inputs, dpredictions, dh_n = data(out)
    predictions, _, trace = out.forward(inputs["x"], H, inputs["h_0"])
    before = out.backward(trace, dpredictions, dh_n)
    inputs["x"][:], predictions[:], out.params.flat[:] = 0, 0, 0
    after = out.backward(trace, dpredictions, dh_n)
    assert np.array_equal(before.grads.flat, after.grads.flat) and np.array_equal(before.dx, after.dx)


# ------------------------------------------------------------------------------------------------ wrong ones

MUTANTS = {
    "nothing comes back at one step": ('if self.mode == "free"', 'if self.mode == "free" and chunk.first != 2'),
    "what comes back is a step late": ("fed = chunk.dx", "fed = trace[min(chunk.first + 1, len(trace) - 1)].dx"),
    "what comes back is the sum of both": ("fed = chunk.dx", "fed = chunk.dx + (0 if fed is None else fed)"),
    "the readout counts once": ("chunk.dy, of_readout)", "chunk.dy, of_readout if chunk.first == 0 else None)"),
    "the readout hears of the loss alone": (
        "backward(chunk.readout, chunk.dy,",
        "backward(chunk.readout, chunk.dloss,",
    ),
    "the state is cut": ("chunk.trace, dread, dstate, of_rnn)", "chunk.trace, dread, None, of_rnn)"),
    "dh_n is not read": ("dstate, fed = dh_n, None", "dstate, fed = None, None"),
    "the warm-up hears in its lowest layer": ("first[-1] +=", "first[0] +="),
}


def planted(monkeypatch, right, wrong):
    source = textwrap.dedent(inspect.getsource(Rollout._unroll))
    assert source.count(right) == 1, f"{right!r} stands {source.count(right)} times in the source"
    made = {}
    exec(source.replace(right, wrong), vars(rollout), made)
    monkeypatch.setattr(Rollout, "_unroll", made["_unroll"])


def small():
    out = Rollout(SequenceModel(RNN(D, 3, num_layers=2, rng=0), D, reads="all", rng=1))
    return out, *data(out)


@pytest.fixture(scope="module")
def reference():
    return complex_step(*small())


@pytest.mark.parametrize("mutant", MUTANTS)
def test_wrong_ones_are_found(mutant, reference, monkeypatch):
    out, *case = small()
    assert error(claimed(out, *case), reference) < 1e-13
    planted(monkeypatch, *MUTANTS[mutant])
    assert error(claimed(out, *case), reference) > 1e-4
    if mutant != "dh_n is not read":  # a loss of predictions alone shows it, too
        names = ["rnn.weight_hh_l0", "rnn.weight_hh_l1", "readout.weight"]
        assert not gradcheck(out, case[0]["x"], case[0]["targets"], names=names, trials=False).ok


# ------------------------------------------------------------------------------------------------ forms


@pytest.mark.parametrize("mode", ["free", "teacher"])
def test_lengths_axes_and_single_sequences(mode):
    out = rolled("lstm-2-proj", mode)
    inputs, dpredictions, dh_n = data(out)
    lengths = [2, 4, 1]
    x, h_0, targets = inputs.values()
    predictions, h_n, trace = out.forward(x, H, h_0, lengths, targets=targets)
    back = out.backward(trace, dpredictions, dh_n)
    first = rolled("lstm-2-proj", mode, batch_first=True)
    turned, h_turned, trace = first.forward(x.swapaxes(0, 1), H, h_0, lengths, targets=targets.swapaxes(0, 1))
    assert np.array_equal(turned.swapaxes(0, 1), predictions) and np.array_equal(h_turned[1], h_n[1])
    turned_back = first.backward(trace, dpredictions.swapaxes(0, 1), dh_n)
    assert np.array_equal(turned_back.dx.swapaxes(0, 1), back.dx)
    total = out.params.zeros_like()
    for n, length in enumerate(lengths):
        alone = states.mapped(lambda array, n=n: array[:, n], h_0)
        single, single_n, trace = out.forward(x[:length, n], H, alone, targets=targets[:, n])
        np.testing.assert_allclose(single, predictions[:, n], rtol=1e-12)
        np.testing.assert_allclose(single_n[1], h_n[1][:, n], rtol=1e-12)
        d_n = states.mapped(lambda array, n=n: array[:, n], dh_n)
        result = out.backward(trace, dpredictions[:, n], d_n, total)
        assert error({"x": result.dx}, {"x": back.dx[:length, n]}) < 1e-13
        assert error({"c": result.dc_0}, {"c": back.dc_0[:, n]}) < 1e-13
    assert error(dict(total), dict(back.grads)) < 1e-13


def assert_same_bits(found, expected):
    assert np.array_equal(found[0], expected[0])
    for one, other in zip(states.split(found[1]), states.split(expected[1]), strict=True):
        assert one.shape == other.shape and np.array_equal(one, other)


@every_layer
def test_calls_without_a_trace_have_the_bits_of_the_others(layer):
    for options in ({}, {"batch_first": True}):
        out = rolled(layer, **options)
        inputs, *_ = data(out)
        x, h_0 = inputs["x"].swapaxes(0, 1) if options else inputs["x"], inputs["h_0"]
        assert_same_bits(out(x, H, h_0, [2, 4, 1]), out.forward(x, H, h_0, [2, 4, 1])[:2])
        assert_same_bits(out(x, 1, h_0), out.forward(x, 1, h_0)[:2])
        alone = inputs["x"][:, 0]
        assert_same_bits(out(alone, H), out.forward(alone, H)[:2])


def test_calls_of_a_layer_that_reads_or_does_something_of_its_own():
    memory = np.random.default_rng(1).normal(size=(5, N, 3))
    out = Rollout(SequenceModel(AttentionGRU(D, 3, rng=0), D, reads="all", rng=1))
    x = data(out)[0]["x"]
    assert_same_bits(
        out(x, H, given={"values": memory}), out.forward(x, H, given={"values": memory}, training=False)[:2]
    )

    class Counted(GRU):
        calls = 0

        def __call__(self, *arguments, **options):
            self.calls += 1
            return super().__call__(*arguments, **options)

    own, plain = (Rollout(SequenceModel(kind(D, 3, rng=0), D, reads="all", rng=1)) for kind in (Counted, GRU))
    assert_same_bits(own(x, H), plain(x, H))
    assert own.model.rnn.calls == H


def test_calls_without_a_trace_are_the_same_and_free():
    for mode in ("free", "teacher", "stop"):
        out = rolled("gru-2", mode)
        x = data(out)[0]["x"]
        predictions, h_n = out(x, H)
        expected, ends, _ = rolled("gru-2").forward(x, H)
        assert np.array_equal(predictions, expected) and np.array_equal(h_n, ends)
    # Where predictions are what really comes, forced and free are one.
    forced, _, _ = rolled("gru-2", "teacher").forward(x, H, targets=predictions)
    np.testing.assert_allclose(forced, predictions, rtol=1e-13)


@pytest.mark.parametrize("mode", ["free", "teacher", "stop"])
def test_losses_counts_and_masks(mode):
    out = rolled("lstm", mode)
    inputs, *_ = data(out)
    x, h_0, target = inputs.values()
    mask = np.random.default_rng(0).random((H, N)) < 0.6
    for batch in ((x, target), (x, target, mask, [2, 4, 1], h_0)):
        loss, grads, trace = out.loss_and_grads(*batch)
        assert loss == out.loss_of(*batch)
        keep = np.ones((H, N), bool) if len(batch) == 2 else mask
        assert loss == pytest.approx(float(((trace.predictions - target)[keep] ** 2).mean()), rel=1e-14)
        assert out.count(*batch) == D * keep.sum()
        assert list(grads) == list(out.params) and not np.array_equal(trace.h_n[0], h_0[0])


def test_training_a_roll_out_trains_the_model():
    model = Forecaster(1, 8, cell="gru", rng=0)
    wave = np.sin(0.5 * np.arange(40.0)[:, None] + np.arange(4.0)).reshape(40, 4, 1)
    out, before = Rollout(model), model.loss_of(wave[:-1], wave[1:])
    optimizer = SGD(out.params, 0.2)
    losses = []
    for _ in range(100):
        loss, grads, _ = out.loss_and_grads(wave[:30], wave[30:])
        optimizer.step(grads)
        losses.append(float(loss))
    assert out.params is model.params and losses[-1] < 0.2 * losses[0]
    assert model.loss_of(wave[:-1], wave[1:]) < before
    assert out.generators()["rnn"] is model.rnn.rng


def test_the_training_loop_takes_it_as_a_model():
    wave = np.sin(0.5 * np.arange(20.0)[:, None] + np.arange(6.0)).reshape(20, 6, 1)

    def trained(accumulate, size):
        out = Rollout(Forecaster(1, 4, cell="gru", rng=0))
        batches = Batches(wave[:15], wave[15:], batch_size=size, axis=1, rng=1, epochs=2, shuffle=False)
        updates = list(train(out, batches, SGD(out.params, 0.1), accumulate=accumulate))
        return out.params.flat, [update.loss for update in updates]

    whole, parts = trained(1, 6), trained(3, 2)
    np.testing.assert_allclose(whole[0], parts[0], rtol=1e-12)
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-12)
    for net in (Rollout(Forecaster(1, 4, rng=0), "stop"), Seq2SeqForecaster(GRU(1, 3, rng=0), GRU(1, 3, rng=1))):
        batches = Batches(wave[:15], wave[15:], batch_size=6, axis=1, rng=1, epochs=20)
        losses = [update.loss for update in train(net, batches, SGD(net.params, 0.1))]
        assert losses[-1] < losses[0]


def test_words():
    out = Rollout(Forecaster(1, 2, rng=0))
    assert repr(out) == "Rollout(Forecaster(RNN(1, 2, dtype=float64), Linear(2, 1, dtype=float64)), 'free')"
    _, _, trace = out.forward(np.ones((3, 1, 1)), 2)
    assert repr(trace) == (
        "RolloutTrace, mode 'free'\n"
        "  Chunk from k = 0: x (3, 1, 1), y (1, 1, 1)\n"
        "  Chunk from k = 1: x (1, 1, 1), y (1, 1, 1)"
    )


def test_refusals():
    def message(kind, call, *arguments, **options):
        with pytest.raises(kind) as told:
            call(*arguments, **options)
        return str(told.value)

    model = Forecaster(2, 3, rng=0)
    assert message(OptionError, Rollout, model, "forced") == (
        "Rollout: mode must be one of 'teacher', 'free', 'stop'; got 'forced'"
    )
    assert message(DTypeError, Rollout, RNN(2, 2)).endswith("as a Forecaster has; got RNN")
    both = SequenceModel(RNN(2, 3, bidirectional=True, rng=0), 2, reads="all")
    assert message(OptionError, Rollout, both).startswith("Rollout: the layer must not be bidirectional: its other")
    classes = SequenceModel(RNN(2, 3, rng=0), 2, reads="all", loss="cross_entropy")
    assert message(OptionError, Rollout, classes).endswith("of numbers to be fed; got 'cross_entropy'")
    assert message(ShapeError, Rollout, Forecaster(2, 3, 1, rng=0)).endswith("out_features = input_size = 2; got 1")
    out, x = Rollout(model), np.ones((T, N, 2))
    assert message(OptionError, out, x, 0) == "Rollout.forward: horizon must be at least 1; got 0"
    _, _, trace = out.forward(x, H)
    assert message(ShapeError, out.backward, trace, x[:2]) == (
        "Rollout.backward: dpredictions must have shape predictions.shape = (4, 3, 2); got (2, 3, 2)"
    )
    assert message(DTypeError, out.backward, trace[0].trace, x).endswith("the third result of forward; got Trace")
    teacher = Rollout(model, "teacher")
    assert message(OptionError, teacher.backward, trace, x) == (
        "Rollout.backward: a roll-out in mode 'teacher' cannot go back through one of 'free'"
    )
    assert message(OptionError, teacher.forward, x, H).endswith(
        "targets must be given in mode 'teacher', which reads them"
    )
    assert message(ShapeError, teacher.forward, x, H, targets=x[:3]) == (
        "Rollout.forward: targets must have shape (horizon, N, D), axes as those of x = (4, 3, 2); got (3, 3, 2)"
    )
    assert message(ShapeError, out.loss_of, x, 1.0).endswith(
        "target must be (H, N, D), axes as those of x; got shape ()"
    )
    assert message(ShapeError, out.loss_of, x, x[:, :1]).startswith("mse_loss: target must have shape prediction.shape")
