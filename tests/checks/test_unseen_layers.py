"""Some of the wrong backward passes whose author did not know the checker: what is said of them."""

import re

import pytest
from more_unseen_layers import CASES as MORE
from unseen_layers import CASES

from tests.unseen_layers import report_of

SAID = {
    "lstm-forget-gate-of-step-before": "off by one step: what flows back from c is multiplied with f of the",
    "lstm-clipped-in-time": "clipped: ",
    "rnn-recurrent-weights-turned": "transposed: the recurrence multiplies with W_hh where it should with its",
    "rnn-truncated": "recurrence dropped: once in 3 steps nothing is handed back",
    "rnn-bias-mean": "missing 1/N: bias_ih_l0, bias_hh_l0: 1/N times the right gradient",
    "rnn-buffer-kept": "accumulated over calls: a second run gives twice the gradient",
    "rnn-stale-weights": "weights of another time: ",
    "rnn-initial-too-early": "off by one step: h_0: that of h after the first step",
    "gru-reverse-unaligned": "padding leaks: ",
    "peephole-output-way-missing": "gate path missing: nothing flows back to c through o's peephole",
    # Said since: at first of these it was told what is wrong and where, and of one another thing that is true as well.
    "lstm-zoneout-inverted": "dropout mask ignored: the mask of zoneout of c is taken the other way round",
    "rnn-batch-first-reshaped": "transposed: x: the right numbers in another order",
    "softmax-mask-forgotten": "memory's mask ignored: backward takes the softmax of all scores again",
    "score-scale-forward-alone": "constant factor: what the scores get lacks the factor 1/sqrt(H)",
    "location-filters-flipped": "transposed: filters_l0: the right gradient, turned round along axis 1",
    "leak-without-sigmoid": "gate derivative missing: leak_l0: the derivative of a sigmoid is missing",
    "coupled-gate-sign": "sign: the gradient of gate f has (g + c_{t-1}) where (c_{t-1} - g) belongs",
}


@pytest.mark.collection
@pytest.mark.parametrize("name", SAID)
def test_it_is_named(name):
    (case,) = [case for case in CASES if case["name"] == name]
    report = report_of(case)
    assert report.verdict == "FAILED"
    assert str(report.diagnosis).startswith(SAID[name])


@pytest.mark.collection
@pytest.mark.parametrize("case", MORE, ids=lambda case: case["name"])
def test_more_are_named(case):
    report = report_of(case)
    assert report.verdict == "FAILED" and report.diagnosis.explained
    assert re.search(case["said"], str(report.diagnosis))
