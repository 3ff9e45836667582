"""Layers whose gradient is right in the call that was checked, and wrong in one that people will make."""

import copy

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, Embedding, LayerNormLSTM, LSTMCell, PeepholeLSTM
from rnn_numpy.checks import gradcheck
from rnn_numpy.checks.diagnosis.known_mistakes import DIAGNOSES
from rnn_numpy.layers.attention import AttentionLSTM


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


class BiasSkipped(GRU):
    """Without h_0 the first step's hidden bias is left out, as mlx's GRU does."""

    def forward(self, x, h_0=None, *args, **options):
        if h_0 is not None:
            return super().forward(x, h_0, *args, **options)
        kept = self.params["bias_hh_l0"].copy()
        self.params["bias_hh_l0"][...] = 0
        try:
            return super().forward(x, h_0, *args, **options)
        finally:
            self.params["bias_hh_l0"][...] = kept


class NeedsStart(RNN):
    """Takes h_0 for an array, though it may be left out."""

    def forward(self, x, h_0=None, *args, **options):
        return super().forward(x, h_0.copy(), *args, **options)


class OnesForNoFinal(LSTM):
    def backward(self, trace, doutput, dh_n=None, grads=None, **options):
        if dh_n is None:
            dh_n = tuple(np.ones((1, doutput.shape[1], self.hidden_size)) for _ in range(2))
        return super().backward(trace, doutput, dh_n, grads, **options)


class OnesForNoOutput(RNN):
    def backward(self, trace, doutput, dh_n=None, grads=None, **options):
        if doutput is None:
            doutput = np.ones_like(trace.h[1:])
        return super().backward(trace, doutput, dh_n, grads, **options)


class ReadsMemory(RNN):
    """Reads doutput as the memory behind it, whatever its strides."""

    def backward(self, trace, doutput, dh_n=None, grads=None, **options):
        if doutput is not None and not doutput.flags.c_contiguous:
            base = doutput.base if doutput.base is not None else doutput
            doutput = np.resize(np.nan_to_num(base.ravel(order="K")), doutput.shape)
        return super().backward(trace, doutput, dh_n, grads, **options)


class WritesDoutput(RNN):
    """Clears doutput for a while, and puts it back."""

    def backward(self, trace, doutput, dh_n=None, grads=None, **options):
        if doutput is not None:
            doutput += 0.0
        return super().backward(trace, doutput, dh_n, grads, **options)


class OneOutput(LSTM):
    """Has one array for all outputs."""

    def forward(self, x, *args, **options):
        output, final, trace = super().forward(x, *args, **options)
        if getattr(self, "_kept", None) is None or self._kept.shape != output.shape:
            self._kept = np.empty_like(output)
        if output.dtype.kind == "c":
            return output, final, trace
        self._kept[...] = output
        return self._kept, final, trace


class OneGradient(RNN):
    """Has one array for all dx."""

    def backward(self, *args, **options):
        back = super().backward(*args, **options)
        if getattr(self, "_dx", None) is None or self._dx.shape != back.dx.shape:
            self._dx = np.empty_like(back.dx)
        self._dx[...] = back.dx
        back.dx = self._dx
        return back


class OneTrace(GRU):
    """Keeps what the latest forward pass recorded, and no other."""

    def forward(self, *args, **options):
        result = super().forward(*args, **options)
        self._latest = result[-1]
        return result

    def backward(self, trace, *args, **options):
        return super().backward(self._latest, *args, **options)


class PresentWeights(RNN):
    """Goes back with the weights of now, not with those of the forward pass."""

    def bptt(self, run):
        for layer in run.trace.layers.values():
            layer.weights = dict(layer.weights)
            layer.weights["W_hh"] = self.params["weight_hh_l0"].copy()
        yield from super().bptt(run)


class CachedTranspose(RNN):
    """Makes W_hh's transpose once, when it is first called."""

    def bptt(self, run):
        layer = run.trace.layers["l0"]
        if getattr(self, "_cached", None) is None:
            self._cached = layer.weights["W_hh"].copy()
        layer.weights = dict(layer.weights)
        layer.weights["W_hh"] = self._cached
        yield from super().bptt(run)

    def astype(self, dtype):
        twin = super().astype(dtype)
        twin._cached = None
        return twin


class NotTransposed(RNN):
    """Goes back through W_hh where its transpose belongs."""

    def bptt(self, run):
        layer = run.trace.layers["l0"]
        layer.weights = dict(layer.weights)
        layer.weights["W_hh"] = layer.weights["W_hh"].T.copy()
        yield from super().bptt(run)


BROKEN = [
    (BiasSkipped, "left out is not zeros", "without h_0 the output is another one than with h_0 of zeros"),
    (
        NeedsStart,
        "left out is not zeros",
        "without h_0 forward raises AttributeError: 'NoneType' object has no attribute",
    ),
    (OnesForNoFinal, "left out is not zeros", "without dh_n the gradient of"),
    (OnesForNoOutput, "left out is not zeros", "with doutput None the gradient of"),
    (ReadsMemory, "layout in memory", "of a doutput that is not contiguous the gradient of"),
    (WritesDoutput, "layout in memory", "backward raises ValueError for a doutput that is read-only"),
    (OneOutput, "results overwritten", "a second forward pass writes over the output of the first"),
    (OneGradient, "results overwritten", "a second backward pass writes over the first one's gradients of x"),
    (OneTrace, "traces mixed", "traces share memory"),
    (PresentWeights, "weights of another time", "where weights change between forward and backward"),
    (CachedTranspose, "weights of another time", "still made with those before"),
    (NotTransposed, "right at these weights alone", "as W_hh for its transpose does where W_hh is symmetric"),
]


@pytest.mark.parametrize(("kind", "named", "why"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_broken_promise_is_named(kind, named, why):
    layer = kind(2, 3, rng=0)
    if kind is NotTransposed:
        layer.params["weight_hh_l0"][...] = np.eye(3)
    report = gradcheck(layer, data(5, 2, 2), np.zeros((1, 2, 3)) if kind is NeedsStart else None, trials=False)
    assert all(row.verdict == "ok" for row in report.rows), report
    assert report.verdict == "FAILED"
    assert report.diagnosis.kind == named, report.diagnosis
    assert why in report.diagnosis.why
    assert named in DIAGNOSES


RIGHT = [
    (RNN, {}),
    (RNN, {"nonlinearity": "relu"}),
    (LSTM, {"proj_size": 2}),
    (GRU, {"num_layers": 2, "bidirectional": True}),
    (PeepholeLSTM, {"dropout": 0.3, "num_layers": 2}),
    (LayerNormLSTM, {}),
    (LSTM, {"zoneout": 0.2}),
]


@pytest.mark.parametrize(("kind", "options"), RIGHT)
def test_right_layers_keep_their_promises(kind, options):
    layer = kind(2, 3, rng=0, **options)
    before = copy.deepcopy(layer.params.flat)
    assert gradcheck(layer, data(4, 3, 2), lengths=[2, 3, 1]).ok
    assert gradcheck(layer, data(4, 2)).ok  # without a batch
    np.testing.assert_array_equal(layer.params.flat, before)


def test_cells_ids_memories_and_growth_keep_them_too():
    assert gradcheck(LSTMCell(2, 3, rng=0), data(2, 2)).ok
    assert gradcheck(Embedding(5, 3, rng=0), np.array([[1, 2], [0, 4]])).ok
    assert gradcheck(AttentionLSTM(2, 3, rng=0), data(4, 2, 2), given={"values": data(3, 2, 3)}).ok
    layer = RNN(2, 8, rng=0)
    layer.params["weight_hh_l0"][...] *= 8
    assert gradcheck(layer, data(60, 1, 2)).ok
