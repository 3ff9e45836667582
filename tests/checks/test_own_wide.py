"""The line of the mistake is found whatever the network: layers, layouts, learnable starts, attention."""

from __future__ import annotations

import pytest
from own_wide import NETS, mistakes, right

from rnn_numpy.checks import gradcheck
from tests.own_backward import NAMED, verdict


@pytest.mark.parametrize(
    ("net", "what"),
    [
        *(("stacked_lstm", what) for what in ("no -1", "dx and dh exchanged layer 2", "i f order in da")),
        *(("gru", what) for what in ("both roles", "Vn reset before", "dr uses h", "r derivative r(1+r)")),
        *(
            ("tanh_layers", what)
            for what in ("s2 is d of step 0", "loss off by one", "R2 from d2", "first step left out")
        ),
        *(("attention", what) for what in ("softmax diagonal", "dM reversed", "key path missing", "decoder uses Ue")),
    ],
)
def test_whatever_the_layout(net: str, what: str) -> None:
    line, instead, expected = next(each[1:] for each in mistakes(net) if each[0] == what)
    found, said = verdict(net, line, instead, expected, seed=0)
    assert found == NAMED, said


@pytest.mark.parametrize("net", NETS)
def test_right_ones_of_any_layout_pass(net: str) -> None:
    params, loss, grads = right(net)(0)
    assert gradcheck(loss, params, grads=grads, trials=False).ok
