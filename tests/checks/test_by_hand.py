"""Backward passes written by hand, which leave nothing but their results: named by these and by calls of one step."""

import numpy as np
import pytest
from by_hand import BY_HAND, D, H, N, T

from rnn_numpy.checks import gradcheck


@pytest.mark.parametrize(("kind", "kinds"), [each[1:] for each in BY_HAND], ids=[name for name, _, _ in BY_HAND])
def test_it_is_named(kind, kinds):
    layer, rng = kind(D, H, rng=0), np.random.default_rng(50)
    h_0 = tuple(rng.normal(size=(1, N, H)) for _ in layer.cell.states)
    report = gradcheck(layer, rng.normal(size=(T, N, D)), h_0 if len(h_0) > 1 else h_0[0], trials=False)
    assert report.verdict == "FAILED"
    assert report.diagnosis.kind in kinds, report.diagnosis
    assert report.diagnosis.explained, report.diagnosis
