"""The equations of every cell are claims, held against the recorded numbers."""

import re
from dataclasses import replace

import numpy as np
import pytest

from rnn_numpy import LSTM, RNN, debug
from rnn_numpy.debug.explain import rows_of
from rnn_numpy.debug.rows import checkable, lines, targets
from rnn_numpy.errors import OptionError
from tests.debug.networks import ATTENDING, LAYERS, LENGTHS, ready

# Arrays that no trace keeps: equations make them for others.
MADE = {"covered", "located", "units", "dunits"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gain", [1.0, 4.0])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_every_equation_holds_at_every_step(kind, lengths, gain, dtype):
    layer, trace, doutput = ready(kind, lengths, dtype, gain)
    stepper = debug.Stepper(layer, trace, doutput)
    # 2 where 8 is the default: twice the bound that the evaluation's own rounding has.
    assert stepper.run(debug.violated(2)) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ATTENDING)
def test_every_equation_of_attention_holds(kind, lengths, dtype):
    layer, trace, doutput = ready(kind, lengths, dtype, gain=2.0)
    assert debug.Stepper(layer, trace, doutput).run(debug.violated(2)) is None


@pytest.mark.parametrize("kind", LAYERS | ATTENDING)
def test_all_of_a_step_is_checked(kind):
    """But what no trace keeps: it is made by its equation."""
    layer, trace, doutput = ready(kind)
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.next(2)
    rows = rows_of(stepper.step)
    unchecked = set(targets(stepper.step.recorded)) - set(checkable(rows))
    assert unchecked <= MADE


@pytest.mark.parametrize("kind", LAYERS | ATTENDING)
def test_the_equations_say_all_that_a_step_writes(kind):
    _, trace, _ = ready(kind)
    for recorded in trace.layers.values():
        cell = recorded.chain.cell
        said = set(targets(recorded))
        wrote = {*cell.forward_names, *cell.gradient_names, *recorded.states, *(f"d{s}_prev" for s in recorded.states)}
        if "c" in recorded.states and not recorded.chain.zoneout:
            wrote.add("dc")
        assert wrote <= said


def cases():
    for kind in (
        "rnn",
        "lstm",
        "projection",
        "gru",
        "gru before",
        "peephole",
        "layer norm",
        "general lstm",
        "general coupled",
        "general gru before",
        "lstm dropout and zoneout",
        "attention",
        "attention additive",
        "attention fed",
    ):
        _, trace, _ = ready(kind)
        for number, (_, equation) in enumerate(lines(trace.top)):
            yield pytest.param(kind, number, id=f"{kind} {equation}")


SLIPS = [
    (" * ", " + "),
    (" + ", " - "),
    (" - ", " + "),
    ("tanh(", "sigmoid("),
    ("sigmoid(", "tanh("),
    ("relu(", "tanh("),
]


@pytest.mark.parametrize(("kind", "number"), list(cases()))
def test_a_slip_in_an_equation_is_found_and_named(kind, number):
    """Each operator of each equation planted wrong, one after the other: the stop names the line."""
    layer, trace, doutput = ready(kind)
    _, equation = lines(trace.top)[number]
    text = equation.right.text
    slips = [text.replace(right, wrong, 1) for right, wrong in SLIPS if right in text]
    if not slips and "@" not in text:
        slips = ["1" if text == "0" else f"2 * {text}"]
    for slip in slips:
        parts = []
        for part in trace.top.chain.parts:
            at = str(equation).replace(" ", "")
            text = "\n".join(
                f"{line.split(maxsplit=1)[0]}  {equation.target} {'+=' if equation.adds else '='} {slip}"
                if line.split(maxsplit=1)[1].replace(" ", "") == at
                else line
                for line in map(str.strip, part.equations.splitlines())
                if line
            )
            parts.append(replace(part, equations=text))
        chain, original = trace.top.chain, trace.top.chain.parts
        chain.parts = tuple(parts)
        chain.__dict__.pop("_lines", None)
        try:
            stop = debug.Stepper(layer, trace, doutput).run(debug.violated())
        finally:
            chain.parts = original
            chain.__dict__.pop("_lines", None)
        assert stop is not None, slip
        # Of what no trace keeps, the line that reads it is found.
        labels = stop.evidence.partition(" = ")[0].split(", ")
        assert equation.label in labels or equation.target in MADE, (slip, stop)
    assert slips or "@" in text  # one product alone


def test_a_wrong_number_in_the_memory_is_found_where_it_lies():
    layer, trace, doutput = ready("lstm")
    trace.top.arrays["tanh_c"][3][2, 3] *= 1 + 1e-13
    stop = debug.Stepper(layer, trace, doutput).run(debug.violated())
    assert (stop.step.t, stop.step.layer) == (3, 0)
    assert stop.evidence.startswith("F4, tanh_c = tanh(c): tanh_c[n = 2, unit 3] is ")


def test_what_the_loss_says_of_attention_weights_is_known():
    layer, trace, doutput = ready("attention", "out of order")
    dalpha = np.random.default_rng(2).normal(size=(9, 4, 3))
    stepper = debug.Stepper(layer, trace, doutput, drecords={"alpha": dalpha})
    assert stepper.run(debug.violated(2)) is None
    text = debug.explain(stepper.goto(2), "dalpha", unit=1, n=3)
    assert text.splitlines()[1] == "dalpha = dalpha_loss + values @ dcontext"
    assert f"= {dalpha[2, 3, 1]:.4g} + " in text.replace("(", "").replace(")", "")
    fork = stepper.fork(dh_prev=lambda rows: 0 * rows)
    assert fork.run(debug.violated(2)) is None  # a fork has what the loss says as well
    assert (
        stepper.finish().grads.flat.tobytes()
        == layer.backward(trace, doutput, drecords={"alpha": dalpha}).grads.flat.tobytes()
    )
    # Of a trace alone nobody knows it.
    assert "dalpha_loss is the rest of what is recorded" in debug.explain(trace[2], "dalpha", unit=1)
    with pytest.raises(OptionError, match="drecords must be a dict with names among alpha; got \\['beta'\\]"):
        debug.Stepper(layer, trace, doutput, drecords={"beta": dalpha})


def test_what_no_trace_keeps_is_made_by_its_equation():
    layer, trace, doutput = ready("attention additive")
    step = debug.Stepper(layer, trace, doutput).goto(4)
    units = rows_of(step).value("units").array
    assert units.shape == (1, 4, 3, 4)
    np.testing.assert_allclose(units[0] @ layer.params["v_l0"], step.score, rtol=1e-13)
    with pytest.raises(OptionError, match=r"units has \(N, S, units\) = \(4, 3, 4\), and no trace keeps it"):
        debug.explain(step, "units")
    assert debug.explain(step, "score", unit=1, n=0).splitlines()[1] == "score = units @ v_a"
    text = debug.explain(step, "alpha", unit=1, n=1)
    assert "softmax: exp(" in text and " rows that exist" in text


def test_around_attention_without_equations_it_is_said():
    """A part of one's own that adds to dh_prev and says nothing: what is said of the sum must not be said to be all."""
    layer, trace, doutput = ready("attention")
    chain = trace.top.chain
    original = chain.parts
    chain.parts = tuple(replace(part, equations="") if "score" in part.equations else part for part in original)
    chain.__dict__.pop("_lines", None)
    try:
        stepper = debug.Stepper(layer, trace, doutput)
        assert stepper.run(debug.violated(2)) is None
        with pytest.raises(OptionError, match="there is no equation of 'score' in l0; there are a, i, "):
            debug.explain(trace[1], "score")
        text = debug.explain(stepper.goto(3), "dh_prev")
        assert "doutput_prev is the rest of what is recorded: parts without equations add to it, too" in text
    finally:
        chain.parts = original
        chain.__dict__.pop("_lines", None)
    trace.top.arrays["context"][2] *= 1 + 1e-12
    assert debug.Stepper(layer, trace, doutput).run(debug.violated()).step.t == 2


def test_cells_without_equations_step_and_say_so():
    layer = RNN(2, 5, rng=0)
    layer.cell = replace(layer.cell, equations="")
    output, _, trace = layer.forward(np.ones((6, 2, 2)))
    stepper = debug.Stepper(layer, trace, np.ones_like(output))
    with pytest.raises(OptionError, match="cell of l0 has no equations, .* none can be violated"):
        stepper.run(debug.violated())
    assert stepper.run("t == 1").step.t == 1 and stepper.run_back("t == 3").step.t == 3
    with pytest.raises(OptionError, match="no equation of 'h' in l0; there are none: `Cell.equations` is empty"):
        debug.explain(trace[1], "h")


# ------------------------------------------------------------------------------------------------ explain


def numbers(text):
    """Return what an explanation computes and what is recorded."""
    line = next(line for line in text.splitlines() if "recorded" in line)
    said, recorded = line.split("=", 1)[1].split("recorded")
    return float(said), float(recorded.split(",")[0])


@pytest.mark.parametrize("kind", LAYERS)
def test_every_equation_is_explained_with_its_numbers(kind):
    layer, trace, doutput = ready(kind)
    stepper = debug.Stepper(layer, trace, doutput)
    while (step := stepper.next()) is not None:
        for name in set(targets(step.recorded)) - MADE:
            text = debug.explain(step, name, unit=1, n=2)
            gate = name[2:] if name[:2] == "a_" else ""
            value = step.a[2, 5 * "ifgo".index(gate) + 1] if gate else getattr(step, name)[2, 1]
            head, equation, placed, *_ = text.splitlines()
            assert head.startswith(f"{step.recorded.name}  t = {step.t}  n = 2  unit 1   ")
            assert equation.startswith(f"{name} = ") and placed.lstrip().startswith("= ")
            assert f"{value:.4g}" in text
            # The printed numbers, put into the printed equation, give the result to their four digits.
            functions = {
                "tanh": np.tanh, "exp": np.exp, "log": np.log, "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
                "sech": lambda a: 1 / np.cosh(a), "relu": lambda a: max(a, 0),
                "where": lambda holds, yes, no: yes if holds else no,
                "clip": lambda a, low, high: min(max(a, low), high),
            }  # fmt: skip
            again = eval(placed.split("=", 1)[1], {"__builtins__": {}}, functions)  # of our own text
            terms = [
                abs(float(one)) for one in placed.replace("(", " ").replace(")", " ").split() if one[-1:].isdigit()
            ]
            assert abs(again - value) <= 2e-3 * max(1.0, *terms)


def test_what_came_from_the_output_is_the_rest_where_nobody_kept_it():
    layer, trace, doutput = ready("rnn")
    layer.backward(trace, doutput)
    text = debug.explain(trace[4], "dh_prev", unit=1, n=2)
    assert f"= {doutput[3, 2, 1]:.4g} + " in text.replace("(", "").replace(")", "")
    assert "doutput_prev is the rest of what is recorded: the trace does not keep it, a Stepper does" in text
    stepper = debug.Stepper(layer, trace, doutput)
    kept = debug.explain(stepper.goto(4), "dh_prev", unit=1, n=2)
    assert "the rest" not in kept and f"= {doutput[3, 2, 1]:.4g} + " in kept.replace("(", "").replace(")", "")


def test_a_gate_s_part_of_a_is_explained():
    _, trace, _ = ready("lstm")
    text = debug.explain(trace[3], "a_g", unit=2, n=1)
    assert text.startswith("l0  t = 3  n = 1  unit 12   F1\na = W_ih @ x + ")
    assert f"recorded {trace.a[3, 1, 12]:.4g}" in text
    with pytest.raises(OptionError, match=r"a_g has \(N, units\) = \(N, 5\); got n = 0, unit = 5"):
        debug.explain(trace[3], "a_g", unit=5)


def test_explain_refuses_what_there_is_not():
    _, trace, _ = ready("rnn")
    with pytest.raises(OptionError, match="there is no equation of 'foo' in l0; there are a, h, da, dh_prev"):
        debug.explain(trace[1], "foo")
    with pytest.raises(OptionError, match=r"h has \(N, units\) = \(4, 5\); got n = 4, unit = 0"):
        debug.explain(trace[1], "h", n=4)
    with pytest.raises(OptionError, match="step must be a Step"):
        debug.explain(trace, "h")


def test_an_equation_that_is_none_is_refused():
    class Slip(RNN):
        pass

    layer = Slip(2, 3, rng=0)
    layer.cell = replace(layer.cell, equations="F1 a : 3")
    _, _, trace = layer.forward(np.ones((2, 1, 2)))
    with pytest.raises(OptionError, match="a line must be 'LABEL NAME = EXPRESSION', or with \\+=; got 'F1 a : 3'"):
        debug.explain(trace[0], "a")


def test_infinite_gains_and_saturation_do_not_violate():
    layer = LSTM(2, 5, rng=0)
    layer.params.flat[:] *= 1e4
    output, _, trace = layer.forward(np.random.default_rng(0).normal(size=(8, 3, 2)))
    assert debug.Stepper(layer, trace, np.ones_like(output)).run(debug.violated()) is None


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_complex_numbers_stand_in_brackets(kind):
    """So that the line, read by Python, gives the result that is told, but for its four digits."""
    layer, trace, doutput = ready(kind, dtype=np.complex128)
    stepper = debug.Stepper(layer, trace, doutput + 0.5j)
    stepper.next(3)
    for name in ("h", "dh_prev", "a" if kind != "gru" else "n"):
        lines = debug.explain(stepper.step, name, unit=1, n=1).splitlines()
        numbers = re.findall(r"[-+.\de]+j", lines[2])
        assert numbers and all(re.search(rf"\([^()]*{re.escape(number)}\)", lines[2]) for number in numbers)
        told = eval(lines[2].partition("= ")[2], {"tanh": np.tanh, "sigmoid": lambda a: 1 / (1 + np.exp(-a))})
        result = complex(re.match(r" *= (\S+) ", lines[3])[1])
        assert abs(told - result) < 4e-3 * (1 + abs(result))


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "two directions"])
def test_a_sequence_that_has_ended_has_no_ulp(kind):
    layer, trace, doutput = ready(kind, "out of order")
    layer.backward(trace, doutput)
    for name in ("h", "a_f" if kind == "lstm" else "h", "dh", "dh_prev"):
        text = debug.explain(trace[5], name, unit=1, n=0)
        assert "sequence n = 0 has no step 5: it has ended" in text and "ulp" not in text.partition("\nl0")[0]
        assert "has ended" not in debug.explain(trace[5], name, unit=1, n=1)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "projection", "peephole", "lstm dropout and zoneout"])
def test_what_was_written_is_said_to_be_and_violates_nothing(kind):
    layer, trace, doutput = ready(kind)
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.goto(5)
    fork = stepper.fork(dh_prev=lambda row: 2 * row)
    fork.finish()
    assert debug.explain(fork.goto(5), "dh_prev").splitlines()[3].endswith(": it was written here")
    assert "it was written" not in debug.explain(fork.goto(4), "dh_prev")
    assert fork.fork(("l0", 8)).run(debug.violated()) is None
    again = fork.fork(("l0", 3))
    again.finish()
    assert again.run_back(debug.violated()) is None
    states = trace.top.states
    forward = debug.Stepper.replay(layer, trace)
    forward.goto(4)
    for state in states:
        fork = forward.fork(**{state: lambda row: 2 * row + 1})
        fork.finish()
        assert "it was written here" in debug.explain(fork.goto(4), state)
        assert fork.run_back(debug.violated()) is None
        fork.finish()
    # What nobody has said to be written is still found.
    forward.finish()
    forward.goto(4).recorded.arrays["h"][5, 1, 1] += 1e-3
    assert forward.run_back(debug.violated()) is None and forward.goto(3) is not None
    assert forward.run(debug.violated()).step.t == 4
