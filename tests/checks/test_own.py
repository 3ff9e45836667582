"""Mistakes in backward passes that people wrote by hand: named, with the line of their code, or honestly unknown."""

from __future__ import annotations

import pytest
from own_nets import LSTM_MISTAKES, RNN_MISTAKES, OwnNet, lstm, rnn

from rnn_numpy.checks import GradcheckReport, gradcheck
from rnn_numpy.checks.diagnosis import DIAGNOSES


def checked(net: OwnNet, mistake: str) -> GradcheckReport:
    return gradcheck(net.loss, net.params, grads=lambda p: net.grads(p, mistake), trials=False)


@pytest.mark.parametrize("make", [lstm, rnn])
def test_right_ones_pass(make: type[OwnNet]) -> None:
    report = checked(make(), "")
    assert report.ok and report.diagnosis is None


@pytest.mark.parametrize(
    ("make", "mistake", "kind", "words"),
    [(lstm, mistake, *told) for mistake, told in LSTM_MISTAKES.items()]
    + [(rnn, mistake, *told) for mistake, told in RNN_MISTAKES.items()],
)
def test_a_mistake_is_named(make: type[OwnNet], mistake: str, kind: str, words: str) -> None:
    diagnosis = checked(make(), mistake).diagnosis
    assert diagnosis is not None and diagnosis.explained and diagnosis.kind in DIAGNOSES
    assert diagnosis.kind == kind and words in diagnosis.why
