"""Mistakes that are named by what they make of a step, of its neighbours, of another precision; and right layers."""

from dataclasses import replace
from types import FunctionType

import numpy as np
import pytest
from unseen import after, by_hand, product, rows, with_entry, with_factors, with_formula, with_loop, with_sums

from rnn_numpy import GRU, LSTM, RNN, Cell, LayerNormLSTM, PeepholeLSTM, Recurrent
from rnn_numpy.checks import gradcheck
from rnn_numpy.layers import layer_norm

T, N, D, H = 7, 3, 3, 4


class WithoutMean(LayerNormLSTM):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        names = {**vars(layer_norm), "normalized_backward": lambda dy, y, s: (dy - y * (y * dy).mean(axis=0)) / s}
        formula = FunctionType(layer_norm.layer_norm_step_backward.__code__, names)
        bound = layer_norm.Bound(formula, *self.cell.step_backward.args)
        self.cell = replace(self.cell, step_backward=bound, trial=False)


class GateOfTheNextStep(GRU):
    def backward_loop(self, run):
        kept = run.binding.arrays["z"] if "z" in run.binding.arrays else None
        assert kept is None  # a block of a
        stored, span = run.binding.chain.blocks_by_name["z"]
        moved = run.binding.arrays[stored].copy(order="K")
        moved[:-1, :, span] = run.binding.arrays[stored][1:, :, span]
        run.binding.arrays[stored] = moved
        yield from super().backward_loop(run)


class WeightsOfBefore(LSTM):
    """The transpose of the recurrent weights is that of before a step of training."""

    def bound(self, recorded, *more):
        run = super().bound(recorded, *more)
        run.binding.constants["W_hh"] = run.binding.constants["W_hh"] + np.sin(np.arange(16 * 4)).reshape(16, 4) / 10
        return run


class NeedsAWholePass(LSTM):
    """A driver of its own that no single step can be run by; the bias is frozen besides."""

    def open_backward(self, run, doutput, dfinals):
        assert doutput.shape[0] == T
        super().open_backward(run, doutput, dfinals)

    def close_backward(self, run):
        dx = super().close_backward(run)
        run.sums["bias_hh"][rows("f", LSTM)] = 0
        return dx


class HalfOfASingle(GRU):
    """dW_ih is summed in half precision, in single precision alone."""

    def close_backward(self, run):
        dx = super().close_backward(run)
        if self.params.dtype == np.float32:
            total = np.zeros(run.sums["weight_ih"].shape, np.float16)
            da = np.concatenate([run.binding.aligned(f"da_{gate}_t") for gate in "rzn"], axis=2)
            for da_t, x_t in zip(da, run.binding.aligned("x_t"), strict=True):
                total += (da_t.T @ x_t).astype(np.float16)
            run.sums["weight_ih"][...] = total
        return dx


class ScaledLoss(RNN):
    """Right: it goes back with 1024 times the gradient, and divides by that at the end."""

    def backward(self, trace, doutput, dh_n=None, grads=None, **options):
        given = [None if each is None else 1024 * np.asarray(each) for each in (doutput, dh_n)]
        result = super().backward(trace, *given, **options)
        for array in (result.grads.flat, result.dx, result.dh_0):
            array /= 1024
        if grads is not None:
            grads.flat += result.grads.flat
            result.grads = grads
        return result


def without_way(dh_t, da_o_t, p_o, dc_t):
    pass


class NoWayThroughO(PeepholeLSTM):
    def with_parts(self, cell):
        cell = super().with_parts(cell)
        return replace(cell, after=tuple(replace(p, backward=without_way) for p in cell.after), trial=False)


def _guided(right):
    def backward(dh_t, h_t, W_hh, da_t, dh_in):
        da_t[...] = np.maximum(dh_t, 0) * (h_t > 0)
        dh_in += da_t.dot(W_hh)

    return backward


def _whole(right):
    def backward(dh_t, W_hh, da_t, dh_in):
        da_t[...] = dh_t
        dh_in += da_t.dot(W_hh)

    return backward


def _swapped_rows(layer, trace, result):
    result.dh_0[...] = result.dh_0[::-1].copy()


def _decayed(run, sums, dx):
    sums["weight_ih"] += 1e-4 * run.trace.weights["W_ih"]


def _reverse_alone(run, sums, dx):
    if not run.direction.reverse:
        dx[...] = 0


def _twelve_bits(run, t):
    row = run.binding.arrays["dh"][t]
    size = np.abs(row).max() / 127 or 1
    row[...] = np.round(row / size) * size


def _norm(run, t):
    row = run.binding.arrays["dh"][t]
    row *= min(1.0, 0.3 / max(float(np.linalg.norm(row)), 1e-300))


def _tanh_for_m(run, sums, dx):
    sums["weight_hr"][...] = product(run, "dh_t", "tanh_c_t", 0)


def _without_o(run, sums, dx):
    if run.direction.layer:
        da, weight = run.binding.aligned("da_o_t"), run.trace.weights["W_ih"][rows("o", LSTM)]
        dx -= (da @ weight).reshape(dx.shape)


def _half_of_dc_n(self, run, doutput, dfinals):
    return doutput, [dfinals[0], dfinals[1] if dfinals[1] is None else 0.7 * dfinals[1]]


def _reverse_finals(kind):
    class Wrong(kind):
        def bptt(self, run):
            run.dfinals[:] = [each[::-1].copy() if each is not None else None for each in run.dfinals]
            yield from super().bptt(run)

    return Wrong


def _residual(share):
    """Return a layer that keeps its state, h_t = h_{t-1} + tanh(a_t) / 2, and hands back a share of that alone."""

    def forward(a_t, h_prev, h_in, W_hh, h_t):
        a_t += W_hh @ h_in
        h_t[...] = h_prev + np.tanh(a_t) / 2

    def backward(dh_t, a_t, W_hh, da_t, dh_prev, dh_in):
        da_t[...] = dh_t * (1 - np.tanh(a_t) ** 2) / 2
        dh_prev += share * dh_t
        dh_in += W_hh.T @ da_t

    class Residual(Recurrent):
        cell = Cell(gate_names=("a",), states=("h",), step_forward=forward, step_backward=backward)

    return Residual


BOTH, STACK = {"bidirectional": True}, {"num_layers": 2}
KINDS = [
    (_residual(0.0), {}, "hidden path missing", "before it lacks its own gradient", {"part": "recurrence"}),
    (_residual(0.75), {}, "constant factor", "before it lacks 0.25 times its own gradient", {"part": "recurrence"}),
    (_residual(2.0), {}, "accumulated twice", "before it has its own gradient too much", {"part": "recurrence"}),
    (_residual(1.5), {}, "constant factor", "it has 0.5 times its own gradient too much", {"part": "recurrence"}),
    (WithoutMean, {}, "wrong derivative", "lacks the mean of dy", {}),
    (GateOfTheNextStep, {}, "off by one step", "z of the step after", {"gate": "z", "part": "immediate partial"}),
    (WeightsOfBefore, {}, "weights of another time", "another matrix", {"part": "recurrence"}),
    (NeedsAWholePass, {}, "bias ignored", "bias_hh_l0.f", {"gate": "f", "part": "sums"}),
    (HalfOfASingle, {"dtype": np.float32}, "lower precision", "float16", {}),
    (NoWayThroughO, {}, "gate path missing", "o's peephole", {"gate": "o", "part": "immediate partial"}),
    (with_formula(RNN, "step_backward", _guided, nonlinearity="relu"), {}, "clipped", "guided", {}),
    (with_formula(RNN, "step_backward", _whole, nonlinearity="relu"), {}, "gate derivative missing", "activation", {}),
    (by_hand(RNN, _swapped_rows), BOTH, "layers exchanged", "l0 has that of l0_reverse", {}),
    (with_sums(GRU, _decayed), {}, "weight decay", "0.0001 times", {"part": "sums"}),
    (with_sums(GRU, _reverse_alone), BOTH, "overwritten, not added", "the share of l0: missing", {"part": "sums"}),
    (with_loop(GRU, _twelve_bits), {}, "lower precision", "127 levels", {"part": "recurrence"}),
    (with_loop(LSTM, _norm), {}, "clipped", "large numbers", {}),
    (with_sums(LSTM, _tanh_for_m), {"proj_size": 2}, "wrong derivative", "tanh_c_t where m_t", {"part": "sums"}),
    (with_sums(LSTM, _without_o), STACK, "lower layer cut off", "gate o", {"part": "between layers"}),
    (with_entry(LSTM, _half_of_dc_n), {}, "constant factor", "dc_n", {"part": "entry of the loss"}),
    (_reverse_finals(LSTM), BOTH, "final-state gradient ignored", "other order", {"part": "entry of the loss"}),
    (with_factors(RNN, lambda f: np.roll(f, 1, axis=1)), {**STACK, "dropout": 0.4}, "dropout mask ignored", "sequences",
     {"part": "between layers"}),
]  # fmt: skip


def checked(kind, **options):
    layer, rng = kind(D, H, **options, rng=0), np.random.default_rng(50)
    rows = layer.num_layers * layer.num_directions
    h_0 = tuple(rng.normal(size=(rows, N, layer.width(state))).astype(layer.dtype) for state in layer.cell.states)
    x = rng.normal(size=(T, N, D)).astype(layer.dtype)
    return gradcheck(layer, x, h_0 if len(h_0) > 1 else h_0[0], trials=False)


@pytest.mark.parametrize(("kind", "options", "name", "words", "where"), KINDS)
def test_it_is_named_and_placed(kind, options, name, words, where):
    report = checked(kind, **options)
    assert report.verdict == "FAILED"
    found = report.diagnosis
    assert (found.kind, found.explained) == (name, True), found
    assert words in found.why
    assert {key: found.where.get(key) for key in where} == where, found


def test_a_loss_that_is_scaled_on_the_way_is_right():
    assert checked(ScaledLoss).verdict == "ok"


def _o_of_the_next(da_o_t):
    da_o_t *= 1.5


def test_a_step_that_is_wrong_by_itself_is_no_fault_of_the_recurrence():
    report = checked(with_formula(LSTM, "step_partials", after(_o_of_the_next)))
    assert report.diagnosis.where["part"] == "immediate partial"
    assert report.diagnosis.where["gate"] == "o"
