"""Wrong backward passes that stand in no zoo: named, or said to be unknown, and never placed wrongly."""

import functools

import numpy as np
import pytest
from unseen import UNSEEN, D, H, N, T

from rnn_numpy.checks import gradcheck
from rnn_numpy.checks.diagnosis.known_mistakes import DIAGNOSES


@functools.cache
def report_of(number, seed):
    _, kind, options, _, _ = UNSEEN[number]
    layer, rng = kind(D, H, **options, rng=seed), np.random.default_rng(seed + 50)
    rows = layer.num_layers * layer.num_directions
    h_0 = tuple(rng.normal(size=(rows, N, layer.width(state))) for state in layer.cell.states)
    x = rng.normal(size=(T, N, D))
    return gradcheck(layer, x, h_0 if len(h_0) > 1 else h_0[0], seed=seed, trials=False)


@pytest.mark.parametrize("number", range(len(UNSEEN)), ids=lambda number: UNSEEN[number][0])
def test_it_is_caught_and_nothing_false_is_said(number):
    _, _, _, kinds, where = UNSEEN[number]
    report = report_of(number, 0)
    assert report.verdict == "FAILED"
    found = report.diagnosis
    assert found.kind in DIAGNOSES
    assert found.kind in kinds or not found.explained, found
    assert {name: found.where[name] for name in where if name in found.where} == {
        name: value for name, value in where.items() if name in found.where
    }, found


@pytest.mark.collection
@pytest.mark.parametrize("seed", [0, 1])
def test_nine_in_ten_are_named(seed):
    unnamed = [UNSEEN[k][0] for k in range(len(UNSEEN)) if report_of(k, seed).diagnosis.kind not in UNSEEN[k][3]]
    assert len(unnamed) <= len(UNSEEN) // 10, unnamed
