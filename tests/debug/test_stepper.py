"""A `Stepper` over the one generator: stops, cursor, forks; and the pass is still the pass."""

import ast
import dataclasses
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rnn_numpy.debug
from rnn_numpy import GRU, LSTM, RNN, debug
from rnn_numpy.debug.rows import Rows
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from tests.debug.networks import LAYERS, LENGTHS, N, T, flat, ready


def exploding(T=300, N=2):
    """An RNN whose gradient grows towards the past, and a loss of its last step."""
    rnn = RNN(1, 4, rng=0)
    rnn.params["weight_hh_l0"][...] = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0] * 1.1
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        rnn.params[name][...] = 0
    output, _, trace = rnn.forward(np.zeros((T, N, 1)), np.full((1, N, 4), 1e-20))
    doutput = np.zeros_like(output)
    doutput[-1] = 1e-6
    return rnn, trace, doutput


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_pass_that_was_looked_at_is_backward_bit_for_bit(kind, lengths):
    layer, trace, doutput = ready(kind, lengths)
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.watch("norm(dh)", "ratio(dh_prev)")
    stepper.next(3)
    stepper.run("t == 2", debug.violated(), debug.non_finite())
    stepper.back()
    stepper.table()
    fork = stepper.fork((trace.top.name, 2), **{f"d{state}_prev": lambda rows: 2 * rows for state in trace.top.states})
    fork.run("t == 1")
    stepper.run_back("t == 7")
    result = stepper.finish()
    assert result is stepper.result
    assert flat(result).tobytes() == flat(layer.backward(trace, doutput)).tobytes()


def test_gradients_are_added_to_those_of_the_caller():
    layer, trace, doutput = ready("lstm")
    grads = layer.params.zeros_like()
    stepper = debug.Stepper(layer, trace, doutput, grads=grads)
    stepper.fork(at=("l0", 4), dh_prev=np.zeros((N, 5))).finish()
    assert not grads.flat.any()  # a fork has gradients of its own, and looking ahead adds none
    assert stepper.run("t == 0").step.t == 0 and stepper.result is None and not grads.flat.any()
    assert stepper.next() is None and stepper.result is not None
    assert grads.flat.tobytes() == layer.backward(trace, doutput).grads.flat.tobytes()


def test_the_room_calls_next_in_one_place_and_no_formula():
    """One place where a generator goes on, and no name of a formula anywhere."""
    found = []
    for path in Path(rnn_numpy.debug.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "_loop" and isinstance(node.ctx, ast.Load):
                found.append(path.name)
            assert not (isinstance(node, ast.Attribute) and node.attr.endswith(("_step_forward", "_step_backward")))
    assert found == ["stepper.py"]


def test_a_run_stops_where_a_loop_would():
    layer, trace, doutput = exploding()
    norms = {step.t: np.linalg.norm(step.dh_prev) for step in layer.backward_steps(trace, doutput)}
    bound = 1e-3
    expected = max(t for t, norm in norms.items() if norm > bound)
    stepper = debug.Stepper(layer, trace, doutput)
    for condition in (
        "norm(dh_prev) > 1e-3",
        debug.when("norm(dh_prev) > 1e-3"),
        debug.norm_above("dh_prev", bound),
        ~debug.norm_below("dh_prev", bound),
        lambda step: np.linalg.norm(step.dh_prev) > bound,
    ):
        fresh = debug.Stepper(layer, trace, doutput)
        stop = fresh.run(condition)
        assert stop.step.t == expected < 299
        assert fresh.step.t == expected
    stop = stepper.run("norm(dh_prev) > 1e-3 and t < 100")
    assert stop.step.t == min(99, expected)
    assert repr(stop).splitlines()[0] == f"step t = {stop.step.t} of l0: norm(dh_prev) > 1e-3 and t < 100"
    assert stop.evidence.startswith("norm(dh_prev) = ")
    assert stepper.run("norm(dh_prev) < 0") is None
    assert stepper.step.t == 0 and stepper.result is not None


def test_of_several_conditions_the_first_to_hold_stops():
    layer, trace, doutput = exploding()
    stepper = debug.Stepper(layer, trace, doutput)
    stop = stepper.run("t == 10", "t == 250", "t == 251")
    assert (stop.step.t, repr(stop.condition)) == (251, "t == 251")
    assert stepper.run("t == 10", "t == 250").step.t == 250


def test_joined_conditions():
    layer, trace, doutput = exploding()
    either = debug.when("t == 200") | "t == 150"
    both = debug.norm_above("dh_prev", 1e-4) & "t < 150"
    stepper = debug.Stepper(layer, trace, doutput)
    assert stepper.run(either).step.t == 200
    assert stepper.run(either).step.t == 150
    assert stepper.run(both).step.t < 150
    assert repr(both) == "(norm_above('dh_prev', 0.0001) & t < 150)"


def test_back_and_goto_compute_nothing():
    layer, trace, doutput = ready("lstm")
    seen = {step.t: {name: np.array(getattr(step, name)) for name in step.names}
            for step in layer.backward_steps(trace, doutput)}  # fmt: skip
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.finish()
    for t in (8, 0, 5, 3):
        step = stepper.goto(t)
        # As it was when the pass stood there, also what step t - 1 has overwritten since.
        for name, array in seen[t].items():
            assert getattr(step, name).tobytes() == array.tobytes(), (t, name)
    assert stepper.goto(2).t == 2 and stepper.back(3).t == 5
    assert not np.array_equal(trace[4].dc_prev, seen[4]["dc_prev"])  # which a trace by itself no longer has
    with pytest.raises(OptionError, match="k must be at most 3, the halts behind this one; got 9"):
        stepper.back(9)
    with pytest.raises(OptionError, match="there is no step 9 of 'l0'; layers are 'l0', t is 0 to 8"):
        stepper.goto(9)
    with pytest.raises(OptionError, match="there is no step 1 of 'l1'"):
        stepper.goto(1, "l1")


def test_going_back_before_the_first_halt():
    layer, trace, doutput = ready("lstm")
    stepper = debug.Stepper(layer, trace, doutput)
    assert stepper.step is None and repr(stepper) == "Stepper: before the first step"
    with pytest.raises(OptionError, match="k must be at most 0, the halts behind this one; got 1"):
        stepper.back()
    with pytest.raises(OptionError, match=r"the pass has not begun; go to a step first, or say at=\(layer, t\)"):
        stepper.fork(dh_prev=np.zeros((N, 5)))
    assert stepper.run_back("t == 3") is None


def test_run_back_stops_where_the_condition_last_held():
    layer, trace, doutput = exploding(T=600)
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.finish()
    assert stepper.run_back("t == 400").step.t == 400
    assert stepper.run_back("norm(dh_prev) < 1e-3").step.t > 400
    assert stepper.run_back("t < 0") is None
    assert stepper.step.t == 599


@pytest.mark.parametrize("kind", ["two layers", "two directions"])
def test_layers_and_directions(kind):
    layer, trace, doutput = ready(kind)
    order = [(step.recorded.name, step.t) for step in layer.backward_steps(trace, doutput)]
    stepper = debug.Stepper(layer, trace, doutput)
    places = []
    while (step := stepper.next()) is not None:
        places.append((step.recorded.name, step.t))
    assert places == order
    while stepper._cursor:
        stop = stepper.run_back(lambda step: True)
        assert (stop.step.recorded.name, stop.step.t) == order[stepper._cursor]
    assert stepper.goto(3, "l0").layer == 0
    assert [*zip(stepper.table()["layer"], stepper.table()["t"], strict=True)] == order[: stepper._cursor + 1]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_fork_of_every_cell_is_linear_and_obeys_the_equations(kind, lengths):
    layer, trace, doutput = ready(kind, lengths)
    rng = np.random.default_rng(3)
    stepper = debug.Stepper(layer, trace, doutput)
    for name in (f"d{state}_prev" for state in trace.top.states):
        step = stepper.goto(4, trace.top.name)
        exists = step.recorded.exists(step.index)
        change = rng.normal(size=getattr(step, name).shape) * (1 if exists is None else exists)
        forks = [stepper.fork(**{name: lambda rows, k=k, change=change: rows + k * change}) for k in (1, 2)]
        np.testing.assert_array_equal(getattr(forks[0].step, name), getattr(step, name) + change)
        assert forks[0].run(debug.violated(2)) is None  # after what was written all is as the equations say
        true, one, two = (flat(each.finish()) for each in (stepper, *forks))
        assert abs((two - true) - 2 * (one - true)).max() <= 1e-13 * abs(two - true).max()


def test_what_if_is_the_linear_response_and_leaves_this_pass_alone():
    layer, trace, doutput = ready("gru")
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.run("t == 5")
    change = np.random.default_rng(3).normal(size=(N, 5))
    one = stepper.fork(dh_prev=lambda dh: dh + change)
    two = stepper.fork(dh_prev=lambda dh: dh + 2 * change)
    assert (one.step.t, two.step.t, stepper.step.t) == (5, 5, 5)
    plain, first, second = (flat(one.finish()) for one in (stepper, one, two))
    scale = abs(first - plain).max()
    assert scale > 0 and abs((second - plain) - 2 * (first - plain)).max() <= 1e-14 * abs(second).max()
    assert plain.tobytes() == flat(layer.backward(trace, doutput)).tobytes()
    # A fork of a fork holds both; one from before the first writing holds none.
    both = one.fork(at=("l0", 2), dh_prev=lambda dh: dh + change)
    assert abs(flat(both.finish()) - first).max() > 0
    assert flat(one.fork(at=("l0", 7)).finish()).tobytes() == plain.tobytes()


def test_what_is_watched():
    layer, trace, doutput = ready("lstm")
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.watch("norm(dh)", "mean(f)", "t * 2")
    stepper.next(4)
    table = stepper.table()
    assert table["t"].tolist() == [8, 7, 6, 5] and table["t * 2"].tolist() == [16, 14, 12, 10]
    expected = [np.linalg.norm(stepper.goto(t).dh) for t in (8, 7, 6, 5)]
    np.testing.assert_allclose(table["norm(dh)"], expected, rtol=1e-15)


def test_what_cannot_be_watched_is_told_at_once():
    layer, trace, doutput = ready("two directions")
    fresh, begun = (debug.Stepper(layer, trace, doutput) for _ in range(2))
    begun.next(12)
    for stepper in (fresh, begun, debug.Stepper.replay(layer, trace)):
        for text, said in {
            "dh" if stepper.trace is trace else "h": "Stepper.watch: 'd?h' is not one number a step; take norm",
            "foo": "has no 'foo'; it has t, x",
            "norm(": "Stepper.watch: 'norm\\(' is no expression",
        }.items():
            with pytest.raises(OptionError, match=said):
                stepper.watch("norm(h)", text)
        stepper.next()
        assert set(stepper.table()) == {"layer", "t"}


def test_twice_watched_is_once_and_a_fork_watches_as_well():
    layer, trace, doutput = ready("lstm")
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.watch("norm(dh)", "norm(dh)", "t")
    stepper.watch(" norm(dh) ", "2")
    stepper.next(3)
    fork = stepper.fork(dh_prev=lambda row: 0 * row)
    fork.watch("norm(h)")
    fork.next()
    table, twin = stepper.table(), fork.table()
    assert {name: len(column) for name, column in table.items()} == {"layer": 3, "t": 3, "norm(dh)": 3, "2": 3}
    assert {name: len(column) for name, column in twin.items()} == dict.fromkeys([*table, "norm(h)"], 4)
    np.testing.assert_allclose(twin["norm(dh)"][:3], table["norm(dh)"], rtol=1e-15)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "lstm dropout and zoneout", "two layers"])
def test_a_forward_pass_steps_as_well(kind):
    layer, x = LAYERS[kind](), np.random.default_rng(1).normal(size=(T, N, 2))
    stepper = debug.Stepper.forward(layer, x)
    assert stepper.run("t == 3").step.t == 3
    fork = stepper.fork(h=lambda h: 0 * h)
    assert not fork.step.h.any()
    output, _, trace = stepper.finish()
    other = fork.finish()[0]
    assert np.array_equal(other[:3], output[:3]) or kind == "two layers"
    assert not np.array_equal(other[4:], output[4:])
    masks = {"dropout_masks": trace.masks} if trace.masks else {}
    masks |= (
        {"recurrent_masks": trace.recurrent_masks, "zoneout_masks": trace.zoneout_masks} if trace.zoneout_masks else {}
    )
    assert layer.forward(x, **masks)[0].tobytes() == output.tobytes()
    assert debug.Stepper.forward(layer, x).run(debug.violated(2)) is None


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_forward_pass_is_replayed_bit_for_bit(kind, lengths):
    layer, trace, _ = ready(kind, lengths)
    stepper = debug.Stepper.replay(layer, trace)
    assert stepper.run(debug.violated(2)) is None
    again = stepper.finish()[2]
    for name, recorded in trace.layers.items():
        for array in recorded.arrays:
            assert np.array_equal(recorded.arrays[array], again.layers[name].arrays[array], equal_nan=True), array


@pytest.mark.parametrize(
    ("options", "x", "call"),
    [
        ({"batch_first": True, "bidirectional": True, "num_layers": 2}, (3, 6, 2), {"lengths": [2, 6, 4]}),
        ({}, (6, 2), {}),  # one sequence without an axis of its own
        ({"zoneout": 0.3, "dropout": 0.3, "num_layers": 2}, (6, 3, 2), {"training": False}),
        ({"recurrent_dropout": 0.5, "dropout": 0.3, "num_layers": 2}, (6, 3, 2), {}),
        ({"proj_size": 2}, (1, 1, 2), {}),
    ],
)
def test_every_form_of_a_forward_pass_is_replayed(options, x, call):
    layer, rng = LSTM(2, 5, **options, rng=0), np.random.default_rng(0)
    output, finals, trace = layer.forward(rng.normal(size=x), **call)
    again, states, _ = debug.Stepper.replay(layer, trace).finish()
    assert again.tobytes() == output.tobytes()
    assert all(one.tobytes() == other.tobytes() for one, other in zip(states, finals, strict=True))


def test_a_pass_that_is_not_through_is_not_replayed():
    layer = RNN(2, 5, rng=0)
    steps = layer.forward_steps(np.ones((4, 1, 2)))
    next(steps)
    with pytest.raises(OptionError, match="the trace's forward pass is not through"):
        debug.Stepper.replay(layer, steps.trace)
    with pytest.raises(OptionError, match="Stepper.replay: trace must be the third result of forward; got int"):
        debug.Stepper.replay(layer, 3)
    with pytest.raises(ShapeError, match="trace was recorded by a layer with other options"):
        debug.Stepper.replay(GRU(2, 5, rng=0), layer.forward(np.ones((4, 1, 2)))[2])


def test_conditions_stand_by_their_names_in_a_text():
    layer, trace, doutput = ready("lstm")
    stepper = debug.Stepper(layer, trace, doutput)
    stop = stepper.run("not violated() and jump(dh_prev, 1.05) and t < 6")
    first = next(
        t
        for t in range(5, -1, -1)
        if not 1 / 1.05 <= np.linalg.norm(trace[t].dh_prev) / np.linalg.norm(trace[t + 1].dh_prev) <= 1.05
    )
    assert stop.step.t == first and "norm(dh_prev) = " in stop.evidence
    trace.top.arrays["tanh_c"][3] *= 1 + 1e-12
    assert debug.Stepper(layer, trace, doutput).run("violated(4) or non_finite()").step.t == 3
    assert repr(debug.when("jump(dh, factor=3) | saturated(f, 0.5)")) == "(jump('dh', 3) | saturated('f', 0.5))"
    for text, message in (
        ("jump(dh, 1) > 3", "jump, non_finite, .* stand by themselves, joined by and, or, not"),
        ("norm(jump(dh))", "stand by themselves"),
        ("jump(dh, 0.5)", "factor must be greater than 1; got 0.5"),
        ("jump(norm(dh))", "takes names of arrays and numbers; got 'norm\\(dh\\)'"),
        ("violated(1, 2, 3)", "takes from 0 to 1 positional arguments but 3 were given"),
        ("sign_change(dh)", "missing 1 required positional argument: 'unit'"),
        ("jump(dh, factr=3)", "unexpected keyword argument 'factr'"),
        ("jump(dh) and __import__('os')", "is not of this language"),
        ("jump(dh, *x)", "takes names of arrays and numbers"),
        ("jump(dh, 9**9**9)", r"'9 \*\* 9 \*\* 9' cannot be computed: it is too large"),
        ("jump(dh, 1/(1-1))", "cannot be computed: .*division by zero"),
        ("jump(dh, (-8)**0.5)", "cannot be computed: it is no real number"),
        ("jump(dh, 1e308*10)", "cannot be computed: it is no real number"),
        ("jump(dh, 2 << 3)", "takes names of arrays and numbers; got '2 << 3'"),
        ("jump(dh, 2 * 'a')", "takes names of arrays and numbers"),
        ("jump(dh, 2 * True)", "takes names of arrays and numbers"),
        ("sign_change(dh, 3 / 2)", "unit must be an int"),
    ):
        with pytest.raises(OptionError, match=message):
            debug.when(text)


def test_numbers_in_conditions_may_be_computed():
    assert repr(debug.when("jump(dh, 2**2 + 3*4 - -1)")) == "jump('dh', 17)"
    assert repr(debug.when("norm_above(dh, 10**-3 / 2)")) == "norm_above('dh', 0.0005)"
    assert repr(debug.when("sign_change(dh, unit=4-1, n=2**0)")) == "sign_change('dh', unit=3, n=1)"


def test_without_equations_none_is_violated():
    lstm = LSTM(2, 3, rng=0)
    lstm.cell = dataclasses.replace(lstm.cell, equations="")
    _, _, trace = lstm.forward(np.ones((4, 1, 2)))
    with pytest.raises(OptionError, match="cell of l0 has no equations.*none can be violated"):
        debug.Stepper(lstm, trace, np.ones((4, 1, 3))).run(debug.violated())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_first_look_misses_nothing(kind, bad, monkeypatch):
    """Of each array that a pass holds an entry is spoilt: what is found is what is found without a first look."""
    layer, trace, doutput = ready(kind)
    stepper = debug.Stepper(layer, trace, doutput)
    assert stepper.run(debug.non_finite()) is None
    places = {name: len(rows.indices) // 2 for name, rows in stepper.done().items()}
    assert all(rows.is_moderate() for rows in stepper.done().values())
    seen = 0
    for name, place in places.items():
        recorded = trace.layers[name]
        for array in (*recorded.arrays.values(), *recorded.latest.arrays.values()):
            if array.dtype.kind != "f" or not array.flags.writeable:
                continue
            row = array[place, 1]
            kept, row[-1] = row[-1], bad
            found = debug.non_finite().holds(stepper.done()[name])
            with monkeypatch.context() as without:
                without.setattr(Rows, "is_moderate", lambda rows: False)
                expected = debug.non_finite().holds(stepper.done()[name])
            row[-1] = kept
            assert np.array_equal(found, expected)
            seen += expected.any()
    assert seen >= 4


def test_what_overflows_only_when_it_is_asked_for_is_found():
    """The pre-activation of a gate is infinite; all that a pass holds is finite."""
    lstm = LSTM(1, 2, rng=0)
    lstm.params["weight_ih_l0"][...] = 1e200
    x = np.array([1.0, 1e150, 1.0]).reshape(3, 1, 1)
    with np.errstate(over="ignore"):
        _, _, trace = lstm.forward(x)
    assert all(np.isfinite(array).all() for array in trace.top.arrays.values())
    stop = debug.Stepper(lstm, trace, np.ones((3, 1, 2))).run(debug.non_finite())
    assert stop.step.t == 1 and stop.evidence.startswith("a[n = 0, unit 0] = inf")


def test_what_a_cell_of_ones_own_derives_is_looked_at():
    rnn = RNN(1, 2, rng=0)
    rnn.cell = replace(rnn.cell, derived={**rnn.cell.derived, "far": _far})
    x = np.array([1.0, 1000.0, 1.0]).reshape(3, 1, 1)
    _, _, trace = rnn.forward(x)
    with np.errstate(over="ignore"):
        stop = debug.Stepper(rnn, trace, np.ones((3, 1, 2))).run(debug.non_finite())
    assert stop.step.t == 1 and stop.evidence.startswith("far[")


def _far(x):
    return np.exp(x)


def test_what_came_from_the_loss_is_known_at_the_first_step():
    layer, trace, doutput = ready("lstm", "out of order")
    dh_n, dc_n = np.random.default_rng(5).normal(size=(2, 1, N, 5))
    stepper = debug.Stepper(layer, trace, doutput, (dh_n, dc_n))
    first = stepper.next()  # of the second sequence alone
    text = debug.explain(first, "dh", unit=2, n=1)
    assert text.splitlines()[1] == "dh = doutput + dh_n"
    assert f"= {doutput[8, 1, 2]:.4g} + {dh_n[0, 1, 2]:.4g}" in text.replace("(", "").replace(")", "")
    assert "recorded" in text and text.endswith(" ulp")
    assert f"= {dc_n[0, 1, 2]:.4g} + " in debug.explain(first, "dc", unit=2, n=1).replace("(", "").replace(")", "")
    # Of a sequence that ends earlier, where it ends; else it is what the step after handed back.
    assert f" + {dh_n[0, 2, 2]:.4g}" in debug.explain(stepper.goto(6), "dh", 2, 2).replace("(", "").replace(")", "")
    lines = debug.explain(stepper.goto(5), "dh", unit=2, n=2).splitlines()
    assert lines[1].endswith("dh_prev of t = 6") and lines[3] == "dh_prev = doutput_prev + W_hh.T @ da"
    assert debug.explain(trace[8], "dh", 2, 1).endswith("the trace does not keep the two apart, a Stepper does")
    with pytest.raises(OptionError, match=r"dh has \(N, units\) = \(4, 5\); got n = 4, unit = 0"):
        debug.explain(first, "dh", n=4)
    # A lower layer's comes from the layer above.
    layer, trace, doutput = ready("two layers")
    stepper = debug.Stepper(layer, trace, doutput, np.ones((2, N, 5)))
    text = debug.explain(stepper.goto(8, "l0"), "dh", unit=2, n=1)
    assert "+ 1\n" in text and "doutput is the rest of what is recorded: it comes from the layer above" in text


def test_conditions_say_why():
    layer, trace, doutput = exploding()
    stepper = debug.Stepper(layer, trace, doutput)
    stop = stepper.run(debug.jump("dh_prev", 1.05))
    assert (
        stop.evidence.startswith("norm(dh_prev) = ")
        and " 1.1 times " in stop.evidence
        and "most in [n = " in stop.evidence
    )
    layer, trace, doutput = ready("lstm", gain=30.0)
    stop = debug.Stepper(layer, trace, doutput).run(debug.saturated("f", 0.5))
    assert "entries are within 0.01 of 0" in stop.evidence and "% of f" in stop.evidence
    stop = debug.Stepper(layer, trace, doutput).run(debug.sign_change("dh", unit=2, n=1))
    now, before = (trace_row[1, 2] for trace_row in (stop.step.dh, trace[stop.step.t + 1].dh))
    assert now * before < 0
    layer, trace, doutput = ready("rnn", gain=1e-100)
    stop = debug.Stepper(layer, trace, doutput).run(debug.norm_below("dh_prev", 1e-200) & "t < 6")
    assert stop is None or "entries are 0" in stop.evidence or "norm(dh_prev)" in stop.evidence


def test_a_nan_stops_with_its_place():
    layer, trace, doutput = ready("gru", "out of order")
    doutput[5, 2, 3] = np.nan
    stop = debug.Stepper(layer, trace, doutput).run(debug.non_finite())
    assert (stop.step.t, stop.evidence.split(",")[0]) == (6, "dh_prev[n = 2")
    assert debug.Stepper(layer, trace, np.zeros_like(doutput)).run(debug.non_finite("dh", "da_r")) is None


def test_wrong_arguments():
    layer, trace, doutput = ready("lstm")
    with pytest.raises(OptionError, match="layer must be a recurrent layer; got str"):
        debug.Stepper("lstm", trace, doutput)
    with pytest.raises(ShapeError, match="doutput must have shape"):
        debug.Stepper(layer, trace, doutput[1:])
    with pytest.raises(ShapeError, match="trace was recorded by a layer with other options"):
        debug.Stepper(GRU(2, 5, rng=0), trace, doutput)
    stepper = debug.Stepper(layer, trace, doutput)
    with pytest.raises(OptionError, match="say where to stop, as 'norm\\(dh\\) > 1'; to the end goes `finish`"):
        stepper.run()
    with pytest.raises(OptionError, match="a condition is a text, a function of a Step, or one of debug's; got int"):
        stepper.run(3)
    with pytest.raises(OptionError, match=r"'dh > 1' is an array \(N, units\) = \(4, 5\) at each step"):
        stepper.run("dh > 1")
    with pytest.raises(OptionError, match="a step of l0 has no 'foo'; it has t, x, "):
        stepper.run("norm(foo) > 1")
    with pytest.raises(OptionError, match=r"dh has \(N, units\) = \(4, 5\) entries"):
        stepper.run(debug.sign_change("dh", unit=9))
    with pytest.raises(OptionError, match="factor must be greater than 1; got 0.5"):
        debug.jump("dh", 0.5)
    with pytest.raises(OptionError, match="the name of an array of a step is asked for, as 'dh'; got 'norm\\(dh\\)'"):
        debug.norm_above("norm(dh)", 1)
    with pytest.raises(OptionError, match="name must be what a backward pass reads next"):
        stepper.fork(at=("l0", 3), da=np.zeros(3))


def test_wrong_arguments_of_a_fork_and_of_functions():
    layer, trace, doutput = ready("lstm")
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.next()
    for at in (3, "l0", ("l0", 3, 4)):
        with pytest.raises(OptionError, match=r"at must be \(layer, t\), as \('l0', 41\)"):
            stepper.fork(at=at)
    with pytest.raises(
        OptionError, match=r"must return one truth for a step; above returned an array \(4, 5\): take .any"
    ):

        def above(step):
            return step.dh > 0

        stepper.run(above)
    with pytest.raises(OptionError, match="layer must be a recurrent layer; got int"):
        debug.Stepper.forward(3, np.ones((2, 1, 2)))
    for text, words in (
        ("norm(tail(dh, 3)) > 0", "tail(...) is of two arrays of a step; got dh, 3"),
        ("softmax(1, 2) > 0", "softmax(...) is of scores, (N, S), and which rows of the memory exist; got 1, 2"),
        ("total(dh) > 0", "total(...) is of an array of a step and a memory's rows; got dh"),
        ("norm(overlap(dh, W_hh)) > 0", "overlap(...) is of windows and filters; got dh, W_hh"),
        ("norm(dh.T) > 0", "dh.T is of a weight, or of a memory; dh is none"),
    ):
        with pytest.raises(OptionError, match=re.escape(words)):
            stepper.run(text)


def test_of_a_model_it_is_said_where_its_layer_is():
    decoder, rng = (
        AttentionDecoder(2, 4, cell="gru", score="dot", memory_size=4, order="before", rng=0),
        np.random.default_rng(0),
    )
    output, _, trace = decoder.forward(rng.normal(size=(5, 2, 2)), rng.normal(size=(6, 2, 4)))
    for refused in (
        lambda: debug.Stepper(decoder, trace, np.ones_like(output)),
        lambda: debug.Stepper.replay(decoder, trace),
        lambda: debug.html(decoder, trace),
        lambda: debug.first_non_finite(decoder, trace),
    ):
        with pytest.raises(OptionError, match="got AttentionDecoder. It has one, `.rnn`, and so has its trace"):
            refused()
    stepper = debug.Stepper(decoder.rnn, trace.rnn, np.ones_like(output))
    assert stepper.run(debug.violated(2), "max(alpha) < 0") is None
    grads = decoder.backward(trace, np.ones_like(output)).grads
    assert np.array_equal(stepper.finish().grads["weight_hh_l0"], grads["rnn.weight_hh_l0"])


def test_the_time_of_the_step_before():
    layer, trace, doutput = ready("lstm")
    assert debug.Stepper(layer, trace, doutput).run("ratio(t) < 0.8").step.t == 3
    stop = debug.Stepper(layer, trace, doutput).run(debug.norm_below("t", 4))
    assert stop.evidence == "norm(t) = 3, below 4; the step before 4"


def test_steps_of_a_million_numbers_are_looked_at_in_blocks(monkeypatch):
    """A run with conditions holds some steps at a time, the fewer the larger they are: no array of all is made."""
    layer = LSTM(1, 4, rng=0)
    output, _, trace = layer.forward(np.zeros((1000, 1, 1)))
    seen = []

    class Counting(debug.Condition):
        def holds(self, rows):
            seen.append(len(rows.indices))
            return np.zeros(len(rows.indices), bool)

        def evidence(self, rows, k):
            return "never"

    assert debug.Stepper(layer, trace, np.ones_like(output)).run(Counting("counting")) is None
    assert sum(seen) == 1000 and seen[0] == 32 and max(seen) == 968
    monkeypatch.setattr(rnn_numpy.debug.stepper, "ENTRIES", 4 * 100)
    seen.clear()
    assert debug.Stepper(layer, trace, np.ones_like(output)).run(Counting("counting")) is None
    assert sum(seen) == 1000 and max(seen) == 100


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_function_sees_what_a_loop_sees(kind, lengths):
    """Also of steps that the pass has run past: each name at each halt, forward and backward."""
    layer, trace, doutput = ready(kind, lengths)

    def rows_of(step):
        return {name: np.array(getattr(step, name)).tobytes() for name in step.names}

    forward = debug.Stepper.replay(layer, trace)
    for loop, stepper in (
        (layer.backward_steps(trace, doutput), debug.Stepper(layer, trace, doutput)),
        (forward._begin(), forward),
    ):
        expected = [(step.recorded.name, step.t, rows_of(step)) for step in loop]
        seen = []
        stepper.run(lambda step, seen=seen: seen.append((step.recorded.name, step.t, rows_of(step))))
        assert seen == expected


def test_a_function_of_a_step_writes_nothing():
    layer, trace, doutput = ready("lstm")
    with pytest.raises(OptionError, match="a condition only looks at a step; write at `Stepper.step`"):
        debug.Stepper(layer, trace, doutput).run(lambda step: step.write("dh_prev", lambda row: 0 * row))


@pytest.mark.parametrize("kind", ["lstm", "gru", "two directions"])
def test_a_fork_has_what_was_written_before(kind):
    layer, trace, doutput = ready(kind)
    plain = layer.backward(trace, doutput)
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.next(3)
    for state in trace.top.states:
        stepper.step.write(f"d{state}_prev", lambda row: 2 * row)
    stepper.next(2)
    stepper.step.write("dh_prev", lambda row: row + 1)
    fork, earlier = stepper.fork(), stepper.fork((trace.top.name, 7))
    again = fork.fork()
    written = flat(stepper.finish())
    assert not np.array_equal(written, flat(plain))
    assert flat(fork.finish()).tobytes() == flat(again.finish()).tobytes() == written.tobytes()
    assert flat(earlier.finish()).tobytes() == flat(plain).tobytes()


def test_a_fork_has_the_numbers_of_the_beginning():
    """Whatever the caller writes into the arrays that were handed over, and however often a function would answer."""
    layer, trace, doutput = ready("lstm")
    dh_n, row, calls = (np.ones((1, N, 5)), np.ones((1, N, 5))), np.ones((N, 5)), []
    noise = np.random.default_rng(0)
    stepper = debug.Stepper(layer, trace, doutput, dh_n)
    stepper.next(3)
    fork = stepper.fork(dh_prev=row, dc_prev=lambda dc_prev: calls.append(1) or noise.normal(size=dc_prev.shape))
    plain, written = flat(stepper.fork().finish()), flat(fork.fork().finish())
    for array in (doutput, *dh_n, row):
        array[...] = 0
    assert flat(stepper.fork().finish()).tobytes() == plain.tobytes() == flat(stepper.finish()).tobytes()
    assert flat(fork.fork().finish()).tobytes() == written.tobytes() == flat(fork.finish()).tobytes()
    assert len(calls) == 1


def test_a_fork_of_a_forward_pass_has_the_numbers_of_the_beginning():
    layer, x, h_0 = GRU(2, 5, 2, dropout=0.4, recurrent_dropout=0.3, rng=0), np.ones((T, N, 2)), np.ones((2, N, 5))
    stepper = debug.Stepper.forward(layer, x, h_0)
    stepper.next(3)
    x[...], h_0[...], layer.params.flat[:] = 0, 0, 0
    assert stepper.fork().finish()[0].tobytes() == stepper.finish()[0].tobytes()


@pytest.mark.parametrize("name", ["values", "exists", "W_hh", "b_ih", "units"])
@pytest.mark.parametrize(
    "text",
    ["sign_change({}, 0)", "jump({})", "norm_above({}, 1)", "norm_below({}, 1)", "saturated({})", "non_finite({})"],
)
def test_conditions_by_their_names_are_of_arrays_of_a_step(text, name):
    layer, trace, doutput = ready("attention additive")
    with pytest.raises(OptionError, match=rf"{name} is no array of a step, \(N, units\); it is (a|given|of)"):
        debug.Stepper(layer, trace, doutput).run(text.format(name))


def test_evidence_of_what_does_not_hold():
    layer, trace, doutput = ready("lstm")
    stepper = debug.Stepper(layer, trace, doutput)
    for text, said in {
        "not jump(dh)": "not: norm\\(dh\\) = [0-9.e+-]+; there is no step before",
        "not sign_change(dh, 0)": "not: dh\\[n = 0, unit 0\\] = [0-9.e+-]+; there is no step before",
        "norm(dh) < 2**64": "norm\\(dh\\) = [0-9.e+-]+",
    }.items():
        stepper = debug.Stepper(layer, trace, doutput)
        assert re.fullmatch(said, stepper.run(text).evidence)
    again = debug.Stepper(layer, trace, None)
    again.next()
    assert again.run("not jump(dh)").evidence == "not: norm(dh) = 0; the step before 0"


def test_what_is_no_name_is_refused(tmp_path):
    layer, trace, doutput = ready("lstm")
    stepper = debug.Stepper(layer, trace, doutput)
    stepper.next()
    for call, said in (
        (lambda: debug.explain(stepper.step, ["h"]), r"debug.explain: name must be that of an array .* got \['h'\]"),
        (lambda: stepper.goto(3, ["l0"]), r"Stepper.goto: layer must be the name of one, as 'l0'; got \['l0'\]"),
        (lambda: stepper.fork((0, 3)), "Stepper.fork: layer must be the name of one, as 'l0'; got 0"),
        (lambda: debug.write_html(None, layer, trace), "debug.write_html: path must be that of the file .* got None"),
        (lambda: debug.when("jump(dh, nan)"), "^debug.jump: factor must be a number; got str 'nan'$"),
    ):
        with pytest.raises(OptionError, match=said):
            call()
