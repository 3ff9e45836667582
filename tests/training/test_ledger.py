"""A ledger of clippings: counts, means and the table."""

import json
import math

import numpy as np
import pytest

from rnn_numpy import RNN, Parameters, clip_grad_norm, clip_grad_value
from rnn_numpy.errors import DTypeError
from rnn_numpy.training import ClipLedger


def filled():
    """Four updates: untouched, clipped by half with a corner, not finite in b, clipped to a tenth."""
    ledger = ClipLedger()
    for values in ([0.5, 0.0], [2.0, 1.0], [0.0, math.inf], [0.0, 10.0]):
        grads = Parameters({"a": (1,), "b": (1,)}, np.float64, np.array(values))
        assert ledger.record(clip_grad_value(grads, 1.0, on_nonfinite="skip")) is ledger.results[-1]
    return ledger


def test_counts_and_means():
    ledger = filled()
    assert (len(ledger), ledger.skipped, ledger.engaged) == (4, 1, 2)
    assert ledger.engaged_share == pytest.approx(2 / 3, rel=1e-15)
    assert ledger.mean_factor == pytest.approx((1 + math.sqrt(2 / 5) + 0.1) / 3, rel=1e-14)
    assert ledger.mean_cosine == pytest.approx((1 + 3 / math.sqrt(10) + 1) / 3, rel=1e-14)
    assert ledger.largest_norm == 10
    assert ledger.dominant == {"a": 2, "b": 1} and ledger.not_finite == {"b": 1}
    assert ledger.to_dict() == json.loads(json.dumps(ledger.to_dict(), allow_nan=False))
    assert ledger.to_dict()["dominant"] == {"a": 2, "b": 1}


def test_the_table():
    lines = repr(filled()).splitlines()
    assert lines[0] == "ClipLedger"
    assert [line.split() for line in lines[1:]] == [
        ["updates", "4"],
        ["skipped", "1", "25.0", "%", "not", "finite:", "b", "1"],
        ["engaged", "2", "66.7", "%", "of", "those", "with", "a", "finite", "gradient"],
        ["mean", "factor", "0.5775"],
        ["mean", "cosine", "0.9829"],
        ["largest", "norm", "1.00e+01"],
        ["dominant", "a", "2,", "b", "1"],
    ]


def test_an_empty_ledger_and_one_of_skipped_updates_alone():
    ledger = ClipLedger()
    assert repr(ledger) == "ClipLedger: no updates yet"
    assert ledger.to_dict()["mean_factor"] is None and ledger.largest_norm is None
    grads = Parameters({"w": (1,)}, np.float64, np.array([math.nan]))
    ledger.record(clip_grad_norm(grads, 1.0, on_nonfinite="skip"))
    assert ledger.engaged_share is None and ledger.engaged == 0
    assert "engaged" not in repr(ledger) and "100.0 %" in repr(ledger)
    with pytest.raises(DTypeError, match="ClipLedger.record: result must be a ClipResult; got float"):
        ledger.record(1.0)


def test_an_infinite_norm_is_none_in_json_and_lags_are_counted():
    ledger = ClipLedger()
    ledger.record(clip_grad_norm(Parameters({"w": (4,)}, np.float64, np.full(4, 1e308)), 1.0))
    assert ledger.largest_norm == math.inf and ledger.to_dict()["largest_norm"] is None
    rnn = RNN(1, 3, rng=0)
    for _ in range(2):
        _, _, trace = rnn.forward(np.ones((4, 1, 1)))
        grads = rnn.backward(trace, None, np.ones((1, 1, 3))).grads
        ledger.record(clip_grad_norm(grads, 1.0, trace=trace))
    assert ledger.lags == {0: 2} and ledger.to_dict()["lags"] == {"0": 2}
    assert "lag           0 2" in repr(ledger)


def test_many_dominating_parameters_are_summed_up():
    ledger = ClipLedger()
    for index in range(7):
        shapes = {f"w{k}": (1,) for k in range(7)}
        ledger.record(clip_grad_norm(Parameters(shapes, np.float64, np.eye(7)[index]), 1.0))
    assert repr(ledger).endswith("w0 1, w1 1, w2 1, w3 1, others 3")
