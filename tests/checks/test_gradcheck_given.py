"""The gradient check of layers that read a given memory: its gradient is checked as that of the input is."""

import numpy as np
import pytest

from rnn_numpy import LSTM
from rnn_numpy.checks import gradcheck
from rnn_numpy.errors import OptionError
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN

KINDS = pytest.mark.parametrize("kind", [AttentionRNN, AttentionLSTM, AttentionGRU])


def data(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@KINDS
@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"recurrent_dropout": 0.3, "zoneout": 0.2}], ids=str)
def test_right_layers_pass(kind, options):
    batch = (2, 6) if "batch_first" in options else (6, 2)
    memory = data(2, 5, 4) if "batch_first" in options else data(5, 2, 4)
    exists = np.arange(5) < np.array([[5], [3]])
    given = {"values": memory, "exists": exists}
    report = gradcheck(kind(3, 4, rng=0, **options), data(*batch, 3), lengths=[4, 6], given=given)
    assert report.ok, report
    assert report["given['values']"].digits >= 12


@KINDS
def test_a_wrong_gradient_of_the_memory_is_found(kind):
    class Wrong(kind):
        def bptt(self, run):
            yield from super().bptt(run)
            run.results[0].dgiven["values"] = 1.001 * run.results[0].dgiven["values"]

    report = gradcheck(Wrong(3, 4, rng=0), data(6, 2, 3), given={"values": data(5, 2, 4)})
    assert [row.title for row in report.rows if row.verdict != "ok"] == ["given['values']"]
    assert report.diagnosis.kind == "constant factor"


def test_a_backward_pass_that_changes_the_memory_is_told():
    class Wrong(AttentionRNN):
        def bptt(self, run):
            yield from super().bptt(run)
            run.trace.edge.given["values"][...] = 0

    report = gradcheck(Wrong(3, 4, rng=0), data(6, 2, 3), given={"values": data(5, 2, 4)})
    assert not report.ok


def test_float32():
    layer = AttentionLSTM(3, 4, rng=0, dtype=np.float32)
    assert gradcheck(layer, data(6, 2, 3), given={"values": data(5, 2, 4)}).ok


def test_messages():
    with pytest.raises(OptionError, match="LSTM.forward: given must be left out"):
        gradcheck(LSTM(3, 4, rng=0), data(6, 2, 3), given={"values": data(5, 2, 4)})
    with pytest.raises(OptionError, match="given goes with a layer, not with a function"):
        gradcheck(lambda p: 0.0, {"w": np.ones(1)}, grads=dict, given={})
