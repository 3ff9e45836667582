"""Some of the wrong backward passes whose author did not know the checker: what was said at first is still said."""

import pytest
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
}
UNKNOWN = ("leak-without-sigmoid", "coupled-gate-sign")


@pytest.mark.parametrize("name", SAID)
def test_it_is_named(name):
    (case,) = [case for case in CASES if case["name"] == name]
    report = report_of(case)
    assert report.verdict == "FAILED"
    assert str(report.diagnosis).startswith(SAID[name])


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_not_explained(name):
    (case,) = [case for case in CASES if case["name"] == name]
    report = report_of(case)
    assert report.verdict == "FAILED" and not report.diagnosis.explained
