"""Where a pass begins, has no sequence, or belongs to a cell whose equations do not say all."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from rnn_numpy import LSTM, RNN, Cell, Recurrent, debug
from rnn_numpy.errors import OptionError


def residual_step_forward(a_t, h_prev, h_in, W_hh, h_t):
    a_t += W_hh @ h_in
    h_t[...] = h_prev + np.tanh(a_t) / 2


def residual_step_backward(dh_t, a_t, W_hh, da_t, dh_prev, dh_in):
    da_t[...] = dh_t * (1 - np.tanh(a_t) ** 2) / 2
    dh_prev += dh_t
    dh_in += W_hh.T @ da_t


def layer_with(equations, **options):
    class Residual(Recurrent):
        cell = Cell(("a",), ("h",), residual_step_forward, residual_step_backward, equations=equations)

    return Residual(3, 4, rng=0, **options)


FORWARD = "F2  h = h_prev + tanh(a) / 2"
WITHOUT_W = f"{FORWARD}\nB2  da = dh * (1 - tanh(a) ** 2) / 2\nB2  dh_prev += dh"
WHOLE = f"{WITHOUT_W}\nB1  dh_in += W_hh.T @ da"
OPTIONS = [{}, {"recurrent_dropout": 0.1}, {"zoneout": 0.2}, {"recurrent_dropout": 0.1, "zoneout": 0.2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("equations", [FORWARD, WITHOUT_W, WHOLE], ids=["forward", "without W_hh", "whole"])
def test_a_right_cell_whose_equations_do_not_say_all_is_not_called_wrong(equations, options):
    layer = layer_with(equations, **options)
    output, _, trace = layer.forward(np.random.default_rng(0).normal(size=(6, 2, 3)))
    assert debug.Stepper(layer, trace, output).run("violated()") is None


def test_one_whose_equations_do_is_checked():
    layer = layer_with(WHOLE.replace("dh_prev += dh", "dh_prev += 2 * dh"), zoneout=0.2)
    output, _, trace = layer.forward(np.random.default_rng(0).normal(size=(6, 2, 3)))
    stop = debug.Stepper(layer, trace, output).run("violated()")
    assert stop is not None and "dh_prev" in str(stop)


@pytest.mark.parametrize(
    "text", ["ratio(a) > 1", "jump(di, 2)", "sign_change(da, 0)", "jump(dtanh_c, 2)", "jump(dh, 2)"]
)
@pytest.mark.parametrize("T", [1, 3])
def test_at_the_first_halt_there_is_no_step_before(text, T):
    lstm = LSTM(2, 3, rng=0)
    output, _, trace = lstm.forward(np.ones((T, 2, 2)))
    stepper = debug.Stepper(lstm, trace, np.ones_like(output))
    stepper.next()
    stop = stepper.run_back(text)
    assert stop is None
    stop = debug.Stepper(lstm, trace, np.ones_like(output)).run(text)
    assert stop is None or stop.step.t < T - 1


def test_no_sequence_at_all():
    lstm = LSTM(2, 3, rng=0)
    output, _, trace = lstm.forward(np.ones((5, 0, 2)))
    stepper = debug.Stepper(lstm, trace, output)
    assert stepper.next().dh.shape == (0, 3)
    assert not stepper.finish().grads.flat.any()
    with pytest.raises(OptionError, match=r"^debug.html: trace has no sequence, N = 0"):
        debug.html(lstm, trace)


def test_a_trace_with_checkpoints_is_refused_at_once():
    lstm = LSTM(2, 3, rng=0)
    output, _, trace = lstm.forward(np.ones((50, 1, 2)), checkpoint=5)
    with pytest.raises(OptionError, match=r"^debug.Stepper: trace must be of a forward pass without checkpoint=K"):
        debug.Stepper(lstm, trace, output)


def test_a_number_beyond_the_largest_is_told_as_one():
    with pytest.raises(OptionError, match="'min.dh. > 1e999' has a number beyond 1e308"):
        debug.when("min(dh) > 1e999")


def test_after_an_error_a_debugger_stands_in_the_formula():
    """The error that `trap` raises ends in the formula, and `here` finds its step from a debugger's stack."""
    import bdb

    relu = RNN(1, 2, nonlinearity="relu", rng=0)
    relu.params["weight_hh_l0"][...] = 1e150 * np.eye(2)
    with pytest.raises(FloatingPointError) as caught, debug.trap():
        relu.forward(np.ones((6, 1, 1)), np.ones((1, 1, 2)))
    assert caught.traceback[-1].name == "relu_step_forward"

    class Debugger(bdb.Bdb):
        def interaction(self, trail, up=0):
            self.stack, self.curindex = self.get_stack(None, trail)
            self.curindex -= up
            self.curframe = self.stack[self.curindex][0]
            return debug.here()

    at = Debugger().interaction(caught.tb)
    assert at.t == 2 and at.h_prev.shape == (1, 2)
    assert Debugger().interaction(caught.tb, up=3).t == 2
    with pytest.raises(OptionError, match="is being computed"):
        at.write("h", at.h)
    # Without an error to stand in there is no step, debugger or none.
    outside = Debugger()
    outside.stack, outside.curindex = [(inspect.currentframe(), 1)], 0
    with pytest.raises(OptionError, match="no pass is inside of a step"):
        debug.here()
