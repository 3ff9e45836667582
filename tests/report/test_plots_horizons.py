"""Figures of the gradients of a roll-out, horizon by horizon."""

import numpy as np
import pytest
from figures import assert_readable

from rnn_numpy import Forecaster
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab import horizon_gradients
from rnn_numpy.models import Rollout
from rnn_numpy.report import plot_horizon_cosines, plot_horizon_norms


def found(seed=0, horizon=12):
    wave = np.sin(0.3 * np.arange(30.0)).reshape(30, 1, 1)
    return horizon_gradients(Rollout(Forecaster(1, 4, rng=seed)), wave[:10], wave[10 : 10 + horizon])


def test_norms_of_the_parts():
    gradients = found()
    ax = plot_horizon_norms(gradients)
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    assert list(lines) == ["exact", "through the state alone (stop)", "through what was fed back"]
    np.testing.assert_array_equal(lines["exact"], gradients.norms())
    np.testing.assert_array_equal(lines["through the state alone (stop)"], gradients.norms("recurrence"))
    fed = lines["through what was fed back"]
    assert np.isnan(fed[0])  # one step ahead nothing is
    np.testing.assert_array_equal(fed[1:], gradients.norms("feedback")[1:])
    assert ax.lines[0].get_xdata().tolist() == list(range(1, 13)) and ax.get_yscale() == "log"
    assert_readable(ax.figure)
    one = plot_horizon_norms(gradients, name="rnn.weight_hh_l0")
    np.testing.assert_array_equal(one.lines[0].get_ydata(), gradients.norms("exact", "rnn.weight_hh_l0"))
    assert one.get_ylabel() == "norm of d$L_h$/d(rnn.weight_hh_l0)"
    assert_readable(one.figure)


def test_cosines():
    several = {"one": found(0), "another": found(1, 8)}
    ax = plot_horizon_cosines(several)
    for line, (label, gradients) in zip(ax.lines, several.items(), strict=True):
        assert line.get_label() == label
        np.testing.assert_array_equal(line.get_ydata(), gradients.cosines())
    assert ax.get_xlim() == (0.5, 12.5) and ax.get_ylim()[1] == 1.05
    assert_readable(ax.figure)
    assert plot_horizon_cosines(several, ax, name="readout.weight") is ax


def test_refusals():
    with pytest.raises(DTypeError, match=r"^plot_horizon_norms: gradients must be a HorizonGradients; got dict$"):
        plot_horizon_norms({})
    with pytest.raises(OptionError, match=r"^plot_horizon_cosines: several must have at least one"):
        plot_horizon_cosines({})
    with pytest.raises(DTypeError, match=r"^plot_horizon_cosines: several\['a'\] must be a HorizonGradients; got int$"):
        plot_horizon_cosines({"a": 1})
