"""The lecture's numbers: its worked neuron, the double sum of BPTT, and the exercise of naming every size."""

import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from frameworks import torch
from processes import ended

from rnn_numpy import RNN

U, W, B = 0.2, 0.3, -0.1
SIGNAL = [0.7, 0.9, 1.1]
TARGET = [0.9, 1.1, 1.3]


def worked_neuron(b=B):
    """Return the lecture's neuron as a layer; its one bias is b_ih."""
    rnn = RNN(1, 1)
    for name, value in {"weight_ih_l0": U, "weight_hh_l0": W, "bias_ih_l0": b, "bias_hh_l0": 0.0}.items():
        rnn.params[name][...] = value
    return rnn


def column(values):
    return np.array(values).reshape(-1, 1)


# ------------------------------------------------------------------------------------------------ the worked neuron


def test_worked_neuron_gives_the_printed_states():
    output, h_n = worked_neuron()(column(SIGNAL))
    # The slides cut after four digits: .03998, .09173, .14646.
    assert [math.floor(h * 1e4) / 1e4 for h in output.ravel()] == [0.0399, 0.0917, 0.1464]
    assert output.ravel().round(5).tolist() == [0.03998, 0.09173, 0.14646]
    assert h_n.tolist() == [[output[2, 0]]]


def test_worked_neuron_is_not_that_of_the_printed_bias():
    # The slides print -0,3 inside of the tanh; the results are those of b = -0.1.
    output, _ = worked_neuron(b=-0.3)(column(SIGNAL))
    assert output.ravel().round(4).tolist() == [-0.1586, -0.166, -0.1291]


def test_worked_neuron_step_by_step():
    _, _, trace = worked_neuron().forward(column(SIGNAL))
    h = 0.0
    for t, x in enumerate(SIGNAL):
        a = B + W * h + U * x
        assert trace[t].h_prev.item() == pytest.approx(h, rel=1e-14)
        assert trace[t].a.item() == pytest.approx(a, rel=1e-14)
        h = math.tanh(a)
        assert trace[t].h.item() == pytest.approx(h, rel=1e-14)


# ------------------------------------------------------------------------------------------------ its BPTT


def double_sum(immediate, factors_too_many=0):
    """Return sum over t and k <= t of delta_t P(t, k) slope_k immediate_k, with plain floats.

    P(t, k) = J_t ... J_{k+1} has t - k factors. With `factors_too_many` = 1 it is the slides' product, of dh_{j+1}/dh_j
    over j = k ... t, to the letter; where that asks for a step after t, J_t stands in for its derivative.
    """
    h = [0.0]
    for x in SIGNAL:
        h.append(math.tanh(B + W * h[-1] + U * x))
    slope = [1 - state**2 for state in h[1:]]
    total = 0.0
    for t in range(3):
        delta = h[t + 1] - TARGET[t]
        for k in range(t + 1):
            product = math.prod(slope[j] * W for j in range(k + 1, t + 1)) * (slope[t] * W) ** factors_too_many
            total += delta * product * slope[k] * immediate(h, k)
    return total


IMMEDIATE = {
    "weight_hh_l0": lambda h, k: h[k],  # h_{k-1}: row 0 of h is the initial state
    "weight_ih_l0": lambda h, k: SIGNAL[k],
    "bias_ih_l0": lambda h, k: 1.0,
    "bias_hh_l0": lambda h, k: 1.0,
}


def neuron_gradients():
    """Return the gradients of L = sum_t (h_t - y_t)^2 / 2."""
    rnn = worked_neuron()
    output, _, trace = rnn.forward(column(SIGNAL))
    return rnn.backward(trace, output - column(TARGET)).grads


@pytest.mark.parametrize("name", IMMEDIATE)
def test_bptt_is_the_double_sum(name):
    gradient = neuron_gradients()[name].item()
    assert gradient == pytest.approx(double_sum(IMMEDIATE[name]), rel=1e-14)
    # One factor more, as the slides' inclusive product has it, is another number by far.
    assert abs(double_sum(IMMEDIATE[name], factors_too_many=1) / gradient) < 0.5


def test_gradients_of_the_worked_neuron():
    gradients = {name: round(array.item(), 6) for name, array in neuron_gradients().items()}
    assert gradients == {
        "weight_ih_l0": -3.324763,
        "weight_hh_l0": -0.156944,
        "bias_ih_l0": -3.723043,
        "bias_hh_l0": -3.723043,
    }


# ------------------------------------------------------------------------------------------------ the exercise of sizes

T, N = 10, 5

# The lecture leaves the table of sizes to be filled in. Options, then every size, by torch.nn's names.
SIZES = {
    "basic": (
        {"input_size": 1, "hidden_size": 1},
        {"x": (T, N, 1), "h": (1, N, 1), "output": (T, N, 1)},
        {"weight_ih_l0": (1, 1), "weight_hh_l0": (1, 1), "bias_ih_l0": (1,), "bias_hh_l0": (1,)},
    ),
    "several hidden": (
        {"input_size": 1, "hidden_size": 4},
        {"x": (T, N, 1), "h": (1, N, 4), "output": (T, N, 4)},
        {"weight_ih_l0": (4, 1), "weight_hh_l0": (4, 4), "bias_ih_l0": (4,), "bias_hh_l0": (4,)},
    ),
    "multivariable input": (
        {"input_size": 3, "hidden_size": 4},
        {"x": (T, N, 3), "h": (1, N, 4), "output": (T, N, 4)},
        {"weight_ih_l0": (4, 3), "weight_hh_l0": (4, 4), "bias_ih_l0": (4,), "bias_hh_l0": (4,)},
    ),
    "2 layers": (
        {"input_size": 3, "hidden_size": 4, "num_layers": 2},
        {"x": (T, N, 3), "h": (2, N, 4), "output": (T, N, 4)},
        {
            "weight_ih_l0": (4, 3),
            "weight_hh_l0": (4, 4),
            "bias_ih_l0": (4,),
            "bias_hh_l0": (4,),
            "weight_ih_l1": (4, 4),  # the second layer reads the states of the first
            "weight_hh_l1": (4, 4),
            "bias_ih_l1": (4,),
            "bias_hh_l1": (4,),
        },
    ),
    "multivariable input, bidirectional": (
        {"input_size": 3, "hidden_size": 4, "bidirectional": True},
        {"x": (T, N, 3), "h": (2, N, 4), "output": (T, N, 8)},
        {
            "weight_ih_l0": (4, 3),
            "weight_hh_l0": (4, 4),
            "bias_ih_l0": (4,),
            "bias_hh_l0": (4,),
            "weight_ih_l0_reverse": (4, 3),
            "weight_hh_l0_reverse": (4, 4),
            "bias_ih_l0_reverse": (4,),
            "bias_hh_l0_reverse": (4,),
        },
    ),
    "2 layers, bidirectional": (
        {"input_size": 3, "hidden_size": 4, "num_layers": 2, "bidirectional": True},
        {"x": (T, N, 3), "h": (4, N, 4), "output": (T, N, 8)},
        {
            "weight_ih_l0": (4, 3),
            "weight_hh_l0": (4, 4),
            "bias_ih_l0": (4,),
            "bias_hh_l0": (4,),
            "weight_ih_l0_reverse": (4, 3),
            "weight_hh_l0_reverse": (4, 4),
            "bias_ih_l0_reverse": (4,),
            "bias_hh_l0_reverse": (4,),
            "weight_ih_l1": (4, 8),  # the second layer reads both directions of the first
            "weight_hh_l1": (4, 4),
            "bias_ih_l1": (4,),
            "bias_hh_l1": (4,),
            "weight_ih_l1_reverse": (4, 8),
            "weight_hh_l1_reverse": (4, 4),
            "bias_ih_l1_reverse": (4,),
            "bias_hh_l1_reverse": (4,),
        },
    ),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_of_the_exercise(case):
    options, arrays, parameters = SIZES[case]
    rnn = RNN(**options, rng=0)
    assert [(name, array.shape) for name, array in rnn.params.items()] == list(parameters.items())

    x = np.random.default_rng(1).standard_normal(arrays["x"])
    h_0 = np.zeros(arrays["h"])
    output, h_n, trace = rnn.forward(x, h_0)
    assert output.shape == arrays["output"]
    assert h_n.shape == arrays["h"]

    # A gradient has the size of what it is the gradient of.
    back = rnn.backward(trace, np.ones(arrays["output"]), np.ones(arrays["h"]))
    assert back.dx.shape == arrays["x"]
    assert back.dh_0.shape == arrays["h"]
    assert [(name, array.shape) for name, array in back.grads.items()] == list(parameters.items())


@pytest.mark.needs_torch
@pytest.mark.parametrize("case", SIZES)
def test_sizes_of_the_exercise_are_those_of_torch(case):
    options, arrays, parameters = SIZES[case]
    layer = torch.nn.RNN(**options)
    assert [(name, tuple(array.shape)) for name, array in layer.named_parameters()] == list(parameters.items())
    output, h_n = layer(torch.zeros(arrays["x"]), torch.zeros(arrays["h"]))
    assert tuple(output.shape) == arrays["output"]
    assert tuple(h_n.shape) == arrays["h"]


def test_heads_of_the_worked_examples_tables_stand_over_their_columns(tmp_path):
    script = Path(__file__).parents[2] / "examples" / "plot_worked_neuron.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1]), "MPLBACKEND": "Agg"}
    done = ended(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    tables = [lines[i : i + 5] for i, line in enumerate(lines) if line.startswith("G(t, k) for ")]
    assert len(tables) == 2
    for heads, *rows in tables:
        ends = [heads.index(head) + len(head) for head in ("k = 0", "k = 1", "k = 2", "sum")]
        assert {len(row) for row in rows} == {ends[-1]}
        numbers = [match.end() for match in re.finditer(r"-?\d\.\d{6}", rows[2])]
        assert numbers == ends
