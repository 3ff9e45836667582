"""Where a NaN comes from, and where two runs part."""

import functools

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, RNN, debug, pack_padded_sequence
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers.attention import AttentionGRU
from tests.debug.networks import LAYERS, LENGTHS, N, T, ready


def run(layer, x, doutput=None, h_0=None):
    with np.errstate(all="ignore"):
        output, _, trace = layer.forward(x, h_0)
        result = layer.backward(trace, np.ones_like(output) if doutput is None else doutput)
    return trace, result


@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_finite_has_no_origin(kind):
    layer, trace, doutput = ready(kind)
    assert debug.first_non_finite(layer, trace, layer.backward(trace, doutput)) is None


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    "kind", ["rnn", "lstm", "gru", "gru before", "peephole", "projection", "layer norm", "two layers"]
)
def test_an_input_is_found_also_where_no_output_shows_it(kind, bad):
    layer, x = LAYERS[kind](), np.random.default_rng(0).normal(size=(T, N, 2))
    x[5, 2, 1] = bad
    trace, result = run(layer, x)
    origin = debug.first_non_finite(layer, trace, result)
    assert (origin.place, origin.index) == (("l0", 5, "x"), (2, 1))
    assert origin.spoils["l0 x"] == 1 and "grads weight_ih_l0" in origin.spoils


def test_what_stops_an_infinity_is_told():
    lstm, x = LSTM(2, 5, rng=0), np.random.default_rng(0).normal(size=(T, N, 2))
    x[5, 2, 1] = np.inf
    trace, result = run(lstm, x)
    assert np.isfinite(trace.h).all() and np.isfinite(trace.da).all()  # nothing shows it but a, x and the sum
    origin = debug.first_non_finite(lstm, trace, result)
    assert "i = sigmoid(a_i)" in origin.stops
    assert set(origin.spoils) == {"l0 x", "l0 a", "grads weight_ih_l0"}


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "two directions"])
def test_weights_states_and_losses(kind):
    x = np.random.default_rng(0).normal(size=(T, N, 2))
    layer = LAYERS[kind]()
    layer.params["weight_hh_l0"][3, 2] = np.nan
    trace, result = run(layer, x)
    origin = debug.first_non_finite(layer, trace, result)
    assert (origin.place, origin.index) == (("l0", None, "W_hh"), (3, 2))

    layer = LAYERS[kind]()
    layers = len(layer.params) // 4
    h_0 = np.zeros((layers, N, 5))
    h_0[0, 1, 4] = np.inf
    trace, result = run(layer, x, h_0=h_0 if kind not in ("lstm", "two directions") else (h_0, np.zeros_like(h_0)))
    origin = debug.first_non_finite(layer, trace, result)
    assert (origin.place, origin.index) == (("l0", 0, "h_prev"), (1, 4))

    layer = LAYERS[kind]()
    doutput = np.ones((T, N, 5 * (2 if kind == "two directions" else 1)))
    doutput[4, 2, 3] = np.nan
    trace, result = run(layer, x, doutput)
    origin = debug.first_non_finite(layer, trace, result)
    top = trace.top.name
    # It comes to dh of step 4 through the memory of the step before it in the pass, where the loss has put it.
    assert origin.place.layer == top and origin.place.t in (4, 5) and origin.index == (2, 3)
    assert origin.place.name in ("dh", "dh_prev")


def test_an_overflow_of_a_formula_is_found_at_its_line():
    rnn = RNN(1, 2, nonlinearity="relu", rng=0)
    rnn.params["weight_hh_l0"][...] = np.eye(2) * 1e160
    rnn.params["weight_ih_l0"][...] = 1.0
    trace, result = run(rnn, np.ones((5, 1, 1)))
    origin = debug.first_non_finite(rnn, trace, result)
    assert (origin.place, origin.line) == (("l0", 2, "a"), "a = W_ih @ x + W_hh @ h_prev + b")
    assert all(np.isfinite(list(origin.operands.values())))
    assert "made by a = W_ih @ x + W_hh @ h_prev + b" in repr(origin)


def test_an_overflow_of_backward_alone_is_found_there():
    rnn = RNN(1, 2, rng=0)
    rnn.params["weight_hh_l0"][...] = np.eye(2) * 1e120
    rnn.params["weight_ih_l0"][...] = 0
    rnn.params["bias_ih_l0"][...] = rnn.params["bias_hh_l0"][...] = 0
    trace, result = run(rnn, np.zeros((5, 1, 1)))
    origin = debug.first_non_finite(rnn, trace, result)
    assert (origin.place, origin.line) == (("l0", 2, "dh_prev"), "dh_prev = doutput_prev + W_hh.T @ da")


def test_a_sum_over_t_that_overflows():
    rnn = RNN(1, 1, rng=0)
    rnn.params.flat[:] = 0
    x = np.full((4, 1, 1), 1e308)
    trace, result = run(rnn, x, np.full((4, 1, 1), 1.0))
    origin = debug.first_non_finite(rnn, trace, result)
    assert str(origin.place) == " grads weight_ih_l0" or origin.place.name == "grads weight_ih_l0"
    assert "no step made it" in repr(origin) or "grads weight_ih_l0[0, 0] = inf" in repr(origin)


def test_only_the_forward_pass():
    rnn, x = RNN(2, 3, rng=0), np.zeros((4, 1, 2))
    x[2] = np.nan
    with np.errstate(all="ignore"):
        _, _, trace = rnn.forward(x)
    assert debug.first_non_finite(rnn, trace).place == ("l0", 2, "x")
    with pytest.raises(OptionError, match="trace must be the third result of forward; got int"):
        debug.first_non_finite(rnn, 3)


# ------------------------------------------------------------------------------------------------ two runs


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_run_twice_does_not_differ(kind, lengths):
    layer, trace, doutput = ready(kind, lengths)
    _, again, _ = ready(kind, lengths)
    layer.backward(trace, doutput)
    LAYERS[kind]().backward(again, doutput) if not again.masks else layer.backward(again, doutput)
    assert debug.diff(trace, again) is None


@pytest.mark.parametrize(
    "kind", ["rnn", "lstm", "gru", "gru before", "peephole", "projection", "lstm dropout and zoneout"]
)
def test_one_ulp_planted_in_any_array_is_found_in_its_place(kind):
    layer, trace, doutput = ready(kind)
    _, other, _ = ready(kind)
    layer.backward(trace, doutput)
    layer.backward(other, doutput)
    top = other.top
    for arrays in (top.arrays, top.latest.arrays):
        for name, array in arrays.items():
            if name in ("a", "da") and len(layer.cell.slabs) > 1:
                continue  # under the names of its gates
            at = (5 + top.is_state(name), 2, 1)  # step 5: of a state, the row after it
            if name in ("recurrent_mask", "h_kept", "c_kept") or array[at] == 0:
                continue
            kept = array[at]
            array[at] = np.nextafter(kept, np.inf)
            found = debug.diff(trace, other)
            array[at] = kept
            # The gradient at h_5 is what step 6 has written, as the gradient of its state before.
            handed = name in [f"d{state}" for state in top.states]
            place = ("l0", 6, f"{name}_prev") if handed else ("l0", 5, name)
            assert (found.place, found.index, found.ulps) == (place, (2, 1), 1)


def test_inherited_or_arising_here():
    gru, x = GRU(2, 3, rng=0), np.random.default_rng(0).normal(size=(6, 1, 2))
    _, _, a = gru.forward(x)
    _, _, b = gru.forward(x)
    b.top.arrays["h"][4, 0, 1] += 1e-9  # after step 3
    found = debug.diff(a, b)
    assert (found.place, found.inherited, found.line) == (("l0", 3, "h"), False, "h = n + z * (h_prev - n)")
    assert "arises here" in repr(found)
    gru.params["weight_hh_l0"][0, 0] += 1e-9
    _, _, c = gru.forward(x)
    found = debug.diff(a, c)
    assert found.inherited and found.place.name in ("r", "z", "q")
    assert found.line.startswith("r = sigmoid(")


def test_two_dtypes_agree_to_the_coarser_one():
    gru, x = GRU(2, 3, rng=0), np.random.default_rng(0).normal(size=(6, 1, 2))
    single = gru.astype(np.float32)
    gru = single.astype(np.float64)  # with the same weights
    _, _, a = gru.forward(x.astype(np.float32).astype(float))
    _, _, b = single.forward(x.astype(np.float32))
    assert debug.diff(a, b, within=64) is None
    assert debug.diff(a, b) is not None


def test_two_forks_part_where_one_was_written():
    layer, trace, doutput = ready("lstm")
    a = debug.Stepper(layer, trace, doutput)
    a.goto(5)
    b = a.fork(dh_prev=lambda dh_prev: 2 * dh_prev)
    found = debug.diff(a, b)
    assert (found.place, found.inherited) == (("l0", 5, "dh_prev"), False)
    b.next(2)
    assert debug.diff(a, b).place.t == 5  # as far as both are
    a.finish()
    b.finish()
    assert debug.diff(b, a).place.t == 5
    assert debug.diff(a, debug.Stepper(layer, trace, doutput)) is None  # it has done nothing
    same = a.fork(("l0", 3))
    assert debug.diff(a, same) is None
    same.finish()
    assert debug.diff(a, same) is None
    with pytest.raises(OptionError, match="of the same layers"):
        debug.diff(a, debug.Stepper(*ready("two layers")))


def test_what_cannot_be_compared():
    gru, x = GRU(2, 3, rng=0), np.zeros((6, 1, 2))
    _, _, a = gru.forward(x)
    with pytest.raises(OptionError, match="a and b must be two traces, or two Steppers; got Trace and int"):
        debug.diff(a, 3)
    with pytest.raises(ShapeError, match="a and b must have the same steps; l0 has T = 6 and 4"):
        debug.diff(a, gru.forward(x[:4])[2])
    with pytest.raises(ShapeError, match=r"l0 has x of \(N, units\) = \(1, 2\) and \(2, 2\)"):
        debug.diff(a, gru.forward(np.zeros((6, 2, 2)))[2])
    with pytest.raises(OptionError, match=r"of the same layers; got \['l0'\] and \['l0', 'l1'\]"):
        debug.diff(a, GRU(2, 3, 2, rng=0).forward(x)[2])


# ------------------------------------------------------------------------------------------------ from a breakpoint


def test_here_is_the_step_at_a_breakpoint_in_a_formula(monkeypatch):
    seen = []

    def stopping(*arguments):
        from rnn_numpy.layers.lstm import lstm_step_backward

        step = debug.here()
        seen.append((step.t, step.layer, step.reverse, np.array(step.dh)))
        lstm_step_backward(*arguments)

    from rnn_numpy.layers import lstm

    layer, trace, doutput = ready("lstm")
    stopping = functools.wraps(lstm.lstm_step_backward)(stopping)
    from dataclasses import replace

    layer.cell = replace(layer.cell, step_backward=stopping, trial=False)
    layer.backward(trace, doutput)
    assert [t for t, *_ in seen] == list(range(T - 1, -1, -1))
    for t, number, reverse, dh in seen:
        assert (number, reverse) == (0, False) and dh.tobytes() == np.array(trace[t].dh).tobytes()


def test_here_in_a_forward_pass_and_elsewhere():
    from dataclasses import replace

    seen = []
    layer = RNN(2, 3, rng=0)
    forward = layer.cell.step_forward

    def stopping(a_t, h_in, W_hh, h_t):
        seen.append((debug.here().t, np.array(debug.here().h_prev)))
        forward(a_t, h_in, W_hh, h_t)

    layer.cell = replace(layer.cell, step_forward=stopping, trial=False)
    _, _, trace = layer.forward(np.ones((4, 1, 2)))
    assert [t for t, _ in seen] == [0, 1, 2, 3]
    assert all(h.tobytes() == np.array(trace[t].h_prev).tobytes() for t, h in seen)
    with pytest.raises(OptionError, match="no pass is inside of a step; call it at a breakpoint in a formula"):
        debug.here()


def test_runs_of_other_layers_and_wrong_results_are_refused():
    lstm, trace, _ = ready("lstm")
    gru, other, _ = ready("gru")
    with pytest.raises(OptionError, match="a and b must be of one kind of layer; l0 has states \\('h', 'c'\\), gates"):
        debug.diff(trace, other)
    with pytest.raises(ShapeError, match="debug.first_non_finite: trace was recorded by a layer with other options"):
        debug.first_non_finite(gru, trace)
    with pytest.raises(OptionError, match="result must be what backward returned, or None; got int"):
        debug.first_non_finite(lstm, trace, 3)
    with pytest.raises(ShapeError, match="debug.html: trace was recorded by a layer with other options"):
        debug.html(gru, trace)
    with pytest.raises(OptionError, match="debug.html: result must be what backward returned, or None; got int"):
        debug.html(lstm, trace, 3)
    for name, call in {
        "write_html": lambda: debug.write_html("x.html", lstm, 3),
        "show": lambda: debug.show(lstm, 3),
    }.items():
        with pytest.raises(OptionError, match=f"^debug.{name}: trace must be the third result of forward; got int"):
            call()
    back = lstm.backward(trace, np.zeros_like(trace["l0"].h[1:]))
    for name, call in {"debug.Stepper": debug.Stepper, "LSTM.backward": type(lstm).backward}.items():
        with pytest.raises(DTypeError, match=f"{name}: doutput must be an array of .* BackwardResult, what a backward"):
            call(lstm, trace, back)
    with pytest.raises(OptionError, match="a and b must be of one kind of layer"):
        debug.html(lstm, trace, compare=other)


@pytest.mark.parametrize("lengths", [None, [4, 6]])
def test_what_is_attended_to_goes_in_as_well(lengths):
    """An infinity or a difference in the memory is found there, not in what reads it first."""
    layer, rng = AttentionGRU(2, 3, rng=0), np.random.default_rng(0)
    x, values = rng.normal(size=(6, 2, 2)), rng.normal(size=(4, 2, 3))

    def run(change):
        given = values.copy()
        given[2, 1, 0] += change
        with np.errstate(all="ignore"):
            return layer.forward(x, lengths=lengths, given={"values": given})[2]

    origin = debug.first_non_finite(layer, run(np.inf))
    assert (origin.place, origin.index) == (("l0", None, "values"), (1, 2, 0))
    assert repr(origin).startswith("l0 values[1, 2, 0] = inf\n  spoils: ")
    found = debug.diff(run(0), run(1e-9))
    assert (found.place, found.index, found.inherited) == (("l0", None, "values"), (1, 2, 0), False)
    assert debug.diff(run(0), run(0)) is None
    values = rng.normal(size=(5, 2, 3))
    with pytest.raises(ShapeError, match=r"l0 has values \(2, 4, 3\) and \(2, 5, 3\)"):
        debug.diff(layer.forward(x, given={"values": values[:4]})[2], run(0))


def test_a_long_list_of_what_is_spoilt_is_shortened():
    layer, _, doutput = ready("two directions")
    with np.errstate(all="ignore"):
        _, _, trace = layer.forward(np.full((9, 4, 2), np.nan))
        origin = debug.first_non_finite(layer, trace, layer.backward(trace, doutput))
    line = repr(origin).splitlines()[1]
    assert line.startswith("  spoils: l0 x (72), ") and line.count("(") == 16
    assert f", {len(origin.spoils) - 16} more, grads " in line and line.endswith(", grads bias_hh_l1_reverse (20)")


def test_here_writes_nothing():
    """Not even where a pass is stepped through: the formula is in the middle of its lines."""
    from dataclasses import replace

    layer, refused = RNN(2, 3, rng=0), []

    def stopping(formula, name):
        def stopped(*arguments):
            with pytest.raises(OptionError, match="is being computed; write where a pass is halted, at the step that"):
                debug.here().write(name, lambda row: 0 * row)
            refused.append(name)
            formula(*arguments)

        return functools.wraps(formula)(stopped)

    cell, x = layer.cell, np.ones((4, 1, 2))
    plain = layer.backward(layer.forward(x)[2], np.ones((4, 1, 3)))
    layer.cell = replace(
        cell,
        step_forward=stopping(cell.step_forward, "h"),
        step_backward=stopping(cell.step_backward, "dh_prev"),
        trial=False,
    )
    _, _, trace = layer.forward(x)
    steps = layer.backward_steps(trace, np.ones((4, 1, 3)))
    assert [step.t for step in steps] == [3, 2, 1, 0]
    assert refused == ["h"] * 4 + ["dh_prev"] * 4
    assert steps.result.dx.tobytes() == plain.dx.tobytes()


# ------------------------------------------------------------------------------------------------ passes not through


def backward_to(layer, trace, doutput, t, name=None):
    for step in layer.backward_steps(trace, doutput):
        if step.t == t and name in (None, step.recorded.name):
            return


def spoil(trace):
    """Put NaN into all memory of gradients that the pass has not reached: what an earlier run may have left there."""
    for recorded in trace.layers.values():
        reached = recorded.latest.reached
        for name, array in recorded.latest.arrays.items() if reached is not None else ():
            # The row that the loss has filled, dh's, is no memory without a value.
            if name != f"d{recorded.states[0]}":
                array[slice(reached + 1 + recorded.is_state(name), None) if recorded.reverse else slice(reached)] = (
                    np.nan
                )


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "projection", "layer norm", "two directions"])
def test_what_a_pass_has_not_reached_is_not_looked_at(kind):
    layer, trace, doutput = ready(kind)
    backward_to(layer, trace, doutput, 5)
    spoil(trace)
    assert debug.first_non_finite(layer, trace) is None
    doutput[7, 2, 1] = np.nan
    backward_to(layer, trace, doutput, 5)
    origin = debug.first_non_finite(layer, trace)
    assert origin.place.t in (7, 8) and f"backward pass of {origin.place.layer} at t = 5" in repr(origin)
    with pytest.raises(OptionError, match=r"step 2 has no dh_prev yet: the backward pass of \w+ stands at t = 5"):
        debug.explain(trace[2], "dh_prev")


def test_nor_what_a_forward_pass_has_not_reached():
    layer, x = LSTM(2, 5, rng=0), np.random.default_rng(0).normal(size=(T, N, 2))
    stepper = debug.Stepper.forward(layer, x)
    stepper.next(2)
    for name, array in stepper.trace.top.arrays.items():
        if name != "x":
            array[2 + (name in ("h", "c")) :] = np.nan
    assert debug.first_non_finite(layer, stepper.trace) is None
    with pytest.raises(OptionError, match="step 5 has no h yet: the forward pass of l0 stands at t = 1"):
        debug.explain(stepper.trace[5], "h")
    assert "ulp" in debug.explain(stepper.trace[1], "h")


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "projection", "two directions"])
def test_two_passes_not_through_are_compared_as_far_as_both_are(kind):
    layer, a, doutput = ready(kind)
    _, b, _ = ready(kind)
    for ours, theirs in ((7, 5), (5, 7), (3, 3), (0, 4)):
        backward_to(layer, a, doutput, ours)
        backward_to(layer, b, doutput, theirs)
        spoil(a)
        spoil(b)
        assert debug.diff(a, b) is None
    layer.backward(b, doutput)
    assert debug.diff(a, b) is None and debug.diff(b, a) is None
    backward_to(layer, a, 2 * doutput, 6)
    found = debug.diff(a, b)
    assert found.place.name == "dh" and "not through: backward pass of " in repr(found)


def test_runs_over_sequences_of_other_lengths_are_refused():
    gru, x = GRU(2, 3, rng=0), np.ones((5, 2, 2))
    a, b, whole = (gru.forward(x, lengths=lengths)[2] for lengths in ([2, 5], [3, 5], None))
    with pytest.raises(ShapeError, match=r"of the same lengths, \(N,\); got \[2, 5\] and \[3, 5\]"):
        debug.diff(a, b)
    with pytest.raises(ShapeError, match=r"got \[2, 5\] and \[5, 5\]"):
        debug.diff(a, whole)
    assert debug.diff(whole, gru.forward(x, lengths=[5, 5])[2]) is None


# ------------------------------------------------------------------------------------------------ results, the loss


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_result_belongs_to_the_latest_pass_on_its_trace(kind, lengths):
    layer, trace, doutput = ready(kind, lengths)
    _, other, _ = ready(kind, lengths)
    result = layer.backward(trace, doutput)
    debug.first_non_finite(layer, trace, result)
    with pytest.raises(OptionError, match="no backward pass has run on this trace: result is of another one"):
        debug.first_non_finite(layer, other, result)
    layer.backward(other, 2 * doutput)
    with pytest.raises(OptionError, match="debug.html: result is not of the latest backward pass on this trace: d"):
        debug.html(layer, other, result)


def test_nor_is_a_result_of_another_network_taken():
    layer, trace, doutput = ready("lstm")
    layer.backward(trace, doutput)
    wide = LSTM(2, 6, rng=0)
    result = wide.backward(wide.forward(np.ones((T, N, 2)))[2], np.ones((T, N, 6)))
    with pytest.raises(ShapeError, match=r"not of this layer: its gradient of weight_ih_l0 has shape \(24, 2\), the"):
        debug.first_non_finite(layer, trace, result)
    result = layer.backward(layer.forward(np.ones((4, N, 2)))[2], np.ones((4, N, 5)))
    with pytest.raises(ShapeError, match="result.dx must have shape"):
        debug.html(layer, trace, result)


def test_a_packed_pass_with_its_result():
    layer, x = LSTM(2, 5, rng=0), np.random.default_rng(0).normal(size=(5, 2, 2))
    x[1, 1, 0] = np.inf
    packed = pack_padded_sequence(x, [2, 5], enforce_sorted=False)
    with np.errstate(all="ignore"):
        output, _, trace = layer.forward(packed)
        result = layer.backward(trace, output)
    origin = debug.first_non_finite(layer, trace, result)
    assert (origin.place, origin.index) == (("l0", 1, "x"), (1, 0))
    assert "l0 t = 1 x[1, 0] = inf" in debug.html(layer, trace, result)


def test_the_loss_is_named_where_a_nan_came_from_it():
    for kind in ("rnn", "lstm", "gru"):
        layer, trace, doutput = ready(kind)
        doutput[2, 1, 3] = np.nan
        origin = debug.first_non_finite(layer, trace, layer.backward(trace, doutput))
        assert (origin.place, origin.index) == (("l0", 3, "dh_prev"), (1, 3))
        assert "not finite is doutput_prev, doutput of the loss" in repr(origin)
    layer, trace, doutput = ready("lstm")
    dc_n = np.zeros((1, N, 5))
    dc_n[0, 1, 3] = np.nan
    origin = debug.first_non_finite(layer, trace, layer.backward(trace, doutput, (np.zeros_like(dc_n), dc_n)))
    assert origin.place == ("l0", 8, "dc") and origin.came_in == "dc_handed, dc_n of the loss"


def test_the_factors_of_a_product_that_overflows_are_named():
    rnn = RNN(1, 2, nonlinearity="relu", rng=0)
    rnn.params.flat[:] = 0
    rnn.params["weight_ih_l0"][0] = 1e200
    rnn.params["weight_hh_l0"][1, 0] = 1e200  # of a zero of unit 1 and a large unit 0
    trace, _ = run(rnn, np.array([1.0, 0]).reshape(2, 1, 1))
    origin = debug.first_non_finite(rnn, trace)
    assert (origin.place, origin.index, origin.came_in) == (("l0", 1, "a"), (0, 1), "")
    assert {"W_hh[1, 0]": 1e200, "h_prev[0, 0]": 1e200}.items() <= origin.operands.items()
    assert "h_prev" not in origin.operands


def test_a_difference_that_the_loss_makes_is_inherited():
    layer, trace, doutput = ready("lstm")
    _, other, _ = ready("lstm")
    zero = np.zeros((1, N, 5))
    one = zero.copy()
    one[0, 2, 1] = 1e-3
    changed = doutput.copy()
    changed[5, 2, 1] += 1e-3
    for arguments, place, said in (
        ((changed,), (6, "dh_prev"), "doutput_prev, doutput of the loss"),
        ((doutput, (one, zero)), (8, "dh"), "doutput or dh_n"),
        ((doutput, (zero, one)), (8, "dc"), "dc_handed, dc_n of the loss"),
    ):
        layer.backward(trace, doutput)
        layer.backward(other, *arguments)
        found = debug.diff(trace, other)
        assert (found.place, found.index, found.inherited) == (("l0", *place), (2, 1), True)
        assert f"inherited: {said} differs" in repr(found)
        steppers = debug.Stepper(layer, trace, doutput), debug.Stepper(layer, trace, *arguments)
        for stepper in steppers:
            stepper.finish()
        assert debug.diff(*steppers).came_in == said
