"""The figure of a clip ledger shows what the ledger holds."""

import numpy as np
import pytest
from figures import assert_readable
from matplotlib.figure import Figure

from rnn_numpy import ClipLedger, Parameters, clip_grad_norm
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab import plot_clip_ledger


def ledger_of(*norms):
    ledger = ClipLedger()
    for norm in norms:
        grads = Parameters({"w": (1,)}, np.float64, np.array([norm]))
        ledger.record(clip_grad_norm(grads, 1.0, on_nonfinite="skip"))
    return ledger


def test_norms_before_and_after():
    ax = Figure(layout="constrained").subplots()
    assert plot_clip_ledger(ledger_of(0.5, 4.0, np.nan, 2.0), ax) is ax
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
    assert lines["before"] == [[0, 0.5], [1, 4.0], [3, 2.0]]
    assert lines["after clipping"] == [[0, 0.5], [1, 1.0], [3, 1.0]]
    assert lines["clipping engaged"] == [[1, 4.0], [3, 2.0]]
    assert [x for x, _ in lines["skipped: not finite"]] == [2]
    assert ax.get_title() == "clipping engaged in 2 of 3 updates (67 %)"
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("update", "norm of the gradient", "log")
    assert_readable(ax.figure)


def test_a_run_without_clipping_has_no_marks():
    ax = plot_clip_ledger(ledger_of(0.5, 0.25))
    assert [line.get_label() for line in ax.get_lines()] == ["before", "after clipping"]
    assert ax.get_title() == "clipping engaged in 0 of 2 updates (0 %)"


def test_nothing_to_draw():
    with pytest.raises(DTypeError, match="plot_clip_ledger: ledger must be a ClipLedger; got list"):
        plot_clip_ledger([])
    for ledger in (ClipLedger(), ledger_of(np.nan), ledger_of(0.0)):
        with pytest.raises(OptionError, match="ledger has no update with a finite gradient other than 0"):
            plot_clip_ledger(ledger)
