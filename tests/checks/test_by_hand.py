"""Backward passes written by hand, which leave nothing but their results: named by these and by calls of one step."""

import numpy as np
import pytest
from by_hand import BY_HAND, LSTM, D, H, N, T, by_hand

from rnn_numpy.checks import gradcheck


@pytest.mark.parametrize(("kind", "kinds"), [each[1:] for each in BY_HAND], ids=[name for name, _, _ in BY_HAND])
def test_it_is_named(kind, kinds):
    layer, rng = kind(D, H, rng=0), np.random.default_rng(50)
    h_0 = tuple(rng.normal(size=(1, N, H)) for _ in layer.cell.states)
    report = gradcheck(layer, rng.normal(size=(T, N, D)), h_0 if len(h_0) > 1 else h_0[0], trials=False)
    assert report.verdict == "FAILED"
    assert report.diagnosis.kind in kinds, report.diagnosis
    assert report.diagnosis.explained, report.diagnosis


@pytest.mark.parametrize(
    ("place", "line", "kinds"),
    [
        ("gates", "df = dc * c * f * (1 - f); di = -di", ()),
        ("end", "dhp = 0.9 * dhp; ddU = da.T @ h", ()),
        ("end", "dhp = dhp * dhp", ()),
        ("end", "dcp = dcp + 0.01", ("starts as the weights",)),
        ("end", "dhp = np.roll(dhp, 1, axis=1)", ("wrong recurrence",)),
        ("end", "dhp = dhp - dhp.mean(0)", ("batch mixed",)),
    ],
)
def test_what_is_none_of_the_known_ones_is_not_given_a_name(place, line, kinds):
    layer, rng = by_hand(LSTM, place, line)(D, H, rng=0), np.random.default_rng(50)
    h_0 = tuple(rng.normal(size=(1, N, H)) for _ in layer.cell.states)
    found = gradcheck(layer, rng.normal(size=(T, N, D)), h_0, trials=False).diagnosis
    assert (found.kind in kinds) if kinds else not found.explained, found
