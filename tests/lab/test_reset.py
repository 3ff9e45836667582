"""How far the two forms of a GRU are apart: `lab.reset_difference` against two layers run by hand."""

import re

import numpy as np
import pytest
from messages import assert_raises

from rnn_numpy import GRU, LSTM, pack_padded_sequence
from rnn_numpy.errors import DTypeError, ShapeError
from rnn_numpy.lab import reset_difference

T, N, D, H = 5, 2, 3, 4
X = np.zeros((T, N, D))


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("lengths", [None, [3, 5]])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True}])
def test_reset_difference_is_that_of_two_layers_run_by_hand(reset, lengths, options):
    rng = np.random.default_rng(0)
    gru = GRU(D, H, **options, reset=reset, rng=rng)
    x, h_0 = rng.normal(size=(T, N, D)), rng.normal(size=(gru.num_layers * gru.num_directions, N, H))
    given = x.swapaxes(0, 1) if gru.batch_first else x
    outputs = {}
    for form in ("after", "before"):
        twin = GRU(D, H, **options, reset=form)
        twin.load_state_dict(gru.state_dict())
        output = twin(given, h_0, lengths)[0]
        outputs[form] = output.swapaxes(0, 1) if gru.batch_first else output
    gap = np.abs(outputs["after"] - outputs["before"])
    found = reset_difference(gru, given, h_0, lengths)
    assert found.largest == gap.max() > 1e-3
    assert found.relative == gap.max() / np.abs(outputs["after"]).max()
    assert gap[found.t, found.n, found.unit] == gap.max()
    assert np.array_equal(found.by_step, gap.max(axis=(1, 2)))


def test_reset_difference_of_one_sequence_and_of_none():
    gru, x = GRU(D, H, rng=0), np.random.default_rng(1).normal(size=(T, 1, D))
    alone, batch = reset_difference(gru, x[:, 0]), reset_difference(gru, x)
    assert alone[:5] == batch[:5] and np.array_equal(alone.by_step, batch.by_step)
    empty = reset_difference(gru, np.zeros((T, 0, D)))
    assert (empty.largest, empty.relative, empty.by_step.tolist()) == (0, 0, [0] * T)


def test_both_forms_agree_where_the_reset_gate_is_open_or_nothing_recurs():
    gru, x = GRU(D, H, rng=0), np.random.default_rng(1).normal(size=(T, N, D))
    assert reset_difference(gru, x).relative > 0.01
    wide = GRU(D, H, rng=0)
    wide.params["bias_ih_l0"][:H] = 50.0  # r = s(50) is 1 in float64
    assert reset_difference(wide, x).relative < 1e-14
    gru.params["weight_hh_l0"][2 * H :] = 0
    # r acts on b_hn in one form and not in the other.
    assert reset_difference(gru, x).relative > 0.001
    gru.params["bias_hh_l0"][2 * H :] = 0
    assert reset_difference(gru, x).largest == 0


def test_reset_difference_wants_a_gru():
    message = "reset_difference: gru must be a GRU; got LSTM"
    assert_raises(DTypeError, message, lambda: reset_difference(LSTM(D, H), X))
    with pytest.raises(ShapeError, match=f"^{re.escape('GRU.forward: x must have shape')}"):
        reset_difference(GRU(D, H), np.zeros((T, N, 7)))


def test_reset_difference_of_packed_input():
    gru, x = GRU(3, 4, rng=0), np.random.default_rng(0).normal(size=(6, 3, 3))
    packed = reset_difference(gru, pack_padded_sequence(x, [6, 4, 2]))
    padded = reset_difference(gru, x, lengths=[6, 4, 2])
    assert packed[:5] == padded[:5]
    assert np.array_equal(packed.by_step, padded.by_step)
