"""Attention with all its options around all cells: what holds for every layer, and what holds for weights."""

import numpy as np
import pytest
from attended import CASES, CELLS, EXISTS, Attended, H, N, S, T, title
from messages import assert_raises
from planting import planted

from rnn_numpy.checks import Case, conformance_checks, conformance_failures
from rnn_numpy.checks.conformance import check_memory_order, check_memory_padding, conformance_id, not_applicable
from rnn_numpy.core.states import join, split
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers import attention
from rnn_numpy.layers.attention_decoder import with_attention

EACH_CASE = pytest.mark.parametrize(("cell", "how"), [pytest.param(*case, id=title(*case)) for case in CASES])

ENTRY_BY_ENTRY = ("check_gradients", "check_gradients_by_complex_step", "check_gradients_by_central_difference")
ELSEWHERE = {
    **dict.fromkeys(ENTRY_BY_ENTRY, "test_attention_parts.py"),
    "check_direction": "test_attention.py",
    # The scores' gradients add up to 0: what one unit of the additive score leaves of that is rounding.
    "check_gradients_of_one_step": "test_attention_parts.py, of more units",
}
PARTS = [
    Case(
        with_attention(CELLS[cell][0]),
        {**CELLS[cell][1], **{name: value for name, value in how.items() if value}},
        ELSEWHERE,
    )
    for cell, how in CASES
]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("case", "check"), conformance_checks(PARTS), ids=conformance_id)
def test_conformance(case, check):
    check(case)


def test_which_checks_apply():
    plain, located = PARTS[0], next(case for case in PARTS if case.option("location"))
    assert {"check_memory_padding", "check_memory_order"}.isdisjoint(not_applicable(plain))
    assert not_applicable(located)["check_memory_order"] == "filters see which rows are neighbours"
    without = not_applicable(Case(CELLS["LSTM"][0]))
    assert without["check_memory_padding"] == without["check_memory_order"] == "no memory with a mask is read"


# ------------------------------------------------------------------------------------------------ weights


@EACH_CASE
def test_a_memory_of_one_row_is_the_context(cell, how):
    problem = Attended(cell, how, sizes=(T, N, 1), lengths=None, exists=None)
    trace = problem.forward()[2]
    problem.backward(trace)
    assert np.all(trace.alpha == 1)
    assert np.array_equal(trace.context, np.broadcast_to(problem.memory["values"], trace.context.shape))
    assert np.any(trace.dalpha)
    assert not np.any(trace.dscore)


@EACH_CASE
def test_equal_scores_give_equal_weights(cell, how):
    """Filters see where the memory ends, if anything has been attended to: their last map is 0 here."""
    problem = Attended(cell, how, lengths=None, weighed=False)
    for name, array in problem.memory.items():
        problem.memory[name] = np.repeat(array[:1], S, axis=0)
    for k, state in enumerate(problem.states):
        if state in ("cov", "focus"):
            problem.initial[k], problem.dfinal[k] = np.zeros((1, N, S)), np.zeros((1, N, S))
    if how["location"]:
        problem.layer.params["weight_location_l0"][...] = 0
    trace = problem.forward()[2]
    problem.backward(trace)
    uniform = EXISTS / np.maximum(EXISTS.sum(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(trace.alpha, np.broadcast_to(uniform, trace.alpha.shape), rtol=1e-15)
    # All rows alike: it does not matter which is read, and the query gets nothing.
    assert np.abs(trace.dscore).max() <= 1e-15 * np.abs(trace.dalpha).max()


@EACH_CASE
def test_weights_add_up_and_their_scores_gradients_to_nothing(cell, how):
    problem = Attended(cell, how, lengths=None)
    trace = problem.forward()[2]
    problem.backward(trace)
    np.testing.assert_allclose(trace.alpha.sum(axis=2), np.tile(EXISTS.any(axis=1), (T, 1)), rtol=1e-15)
    assert np.abs(trace.dscore.sum(axis=2)).max() <= 1e-15 * np.abs(trace.dalpha).max()
    assert np.all(trace.alpha[:, EXISTS] > 0)
    for name in ("alpha", "dscore"):
        assert not np.any(getattr(trace, name)[:, ~EXISTS])
    assert not np.any(trace.context[:, 2])


@EACH_CASE
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_of_any_size(cell, how, sign):
    """Products of 1e4; an additive score is at most the sum of |v|."""
    problem = Attended(cell, how, lengths=None)
    if how["score"] == "additive":
        problem.layer.params["v_l0"][...] *= sign * 1e6
    else:
        problem.memory["values" if how["score"] == "dot" else "keys"] *= sign * 1e5
    trace = problem.forward()[2]
    assert np.abs(trace.score).max() > 1e4
    for name, array in problem.gradients(problem.backward(trace)).items():
        assert np.all(np.isfinite(array)), name
    np.testing.assert_allclose(trace.alpha.sum(axis=2), np.tile(EXISTS.any(axis=1), (T, 1)), rtol=1e-15)


# ------------------------------------------------------------------------------------------------ as the plain layer


@EACH_CASE
def test_a_context_that_nothing_reads_leaves_the_plain_layer_bit_for_bit(cell, how):
    problem = Attended(cell, how, weighed=False)
    name, own = "weight_if_l0" if how["input_feeding"] else "weight_ch_l0", CELLS[cell]
    problem.layer.params[name][...] = 0
    plain = own[0](problem.layer.input_size, H, **own[1])
    plain.load_state_dict({name: problem.layer.params[name] for name in plain.params})
    for state, array in zip(problem.states, problem.dfinal, strict=True):
        if state in ("cov", "focus"):  # what a loss says of these it says of the weights
            array[...] = 0
    initial, dfinal = (dict(zip(problem.states, arrays, strict=True)) for arrays in (problem.initial, problem.dfinal))
    states = plain.cell.states
    output, finals, trace = problem.forward()
    same = plain.forward(problem.x, join([initial[state] for state in states]), problem.lengths)
    found = dict(zip(problem.states, split(finals), strict=True))
    for state, final in zip(states, split(same[1]), strict=True):
        assert final.tobytes() == found[state].tobytes()
    if how["input_feeding"]:  # what is read of h is not W_if's, and has a gradient of its own
        assert np.array_equal(trace.h[1:], same[2].h[1:])
        return
    assert output.tobytes() == same[0].tobytes()
    back = problem.backward(trace)
    expected = plain.backward(same[2], problem.doutput, join([dfinal[state] for state in states]))
    assert np.array_equal(back.dx, expected.dx)
    for name, gradient in expected.grads.items():
        assert np.array_equal(back.grads[name], gradient), name


@EACH_CASE
def test_forward_step_by_step_is_the_whole_bit_for_bit(cell, how):
    problem = Attended(cell, how)
    output, finals, trace = problem.forward()
    steps = problem.layer.forward_steps(
        problem.x, join(problem.initial), problem.lengths, given=problem.given(problem.point)
    )
    assert [step.t for step in steps] == list(range(T))
    again = steps.result
    assert np.array_equal(again[0], output)
    for one, other in zip(split(again[1]), split(finals), strict=True):
        assert np.array_equal(one, other)
    for name in trace["l0"].names:
        assert np.array_equal(getattr(again[2], name), getattr(trace, name)), name


# ------------------------------------------------------------------------------------------------ wrong arguments


@EACH_CASE
def test_errors_of_the_memory(cell, how):
    problem = Attended(cell, how)
    layer, kind = problem.layer, type(problem.layer).__name__
    for name in problem.memory:
        given = {other: array for other, array in problem.given(problem.point).items() if other != name}
        what = "the memory" if name == "values" else "a map of the memory"
        message = f"{kind}.forward: given must have an array {name!r}, {what}; it is missing"
        assert_raises(OptionError, message, lambda given=given: layer.forward(problem.x, given=given))
    for exists in (EXISTS.astype(float), EXISTS.astype(int)):
        message = f"{kind}.forward: given['exists'] must hold bools, True where a row of the memory counts; got "
        given = {**problem.given(problem.point), "exists": exists}
        for run in (layer.forward, layer):
            assert_raises(DTypeError, message + str(exists.dtype), lambda r=run, g=given: r(problem.x, given=g))


# ------------------------------------------------------------------------------------------------ planted mistakes


def mask_after_the_softmax(score_t, exists, values, alpha_t, context_t):
    attention.weights_forward(score_t, np.ones_like(exists), values, alpha_t, context_t)
    alpha_t *= exists
    np.einsum("ns,nsm->nm", alpha_t, values, out=context_t)


def mask_of_a_large_number(score_t, exists, values, alpha_t, context_t):
    every = np.ones_like(exists)
    attention.weights_forward(np.where(exists, score_t, -1e9), every, values, alpha_t, context_t)


def later_rows_count_less(score_t, exists, values, alpha_t, context_t):
    attention.weights_forward(score_t - 0.1 * np.arange(score_t.shape[1]), exists, values, alpha_t, context_t)


@pytest.mark.parametrize("mistake", [mask_after_the_softmax, mask_of_a_large_number, later_rows_count_less])
def test_planted_mistakes_are_caught(mistake):
    """Right gradients of another function: what the memory is padded with, and its order, give them away."""

    class Wrong(with_attention(CELLS["GRU"][0])):
        def with_parts(self, cell):
            return planted(super().with_parts(cell), attention.weights_forward, mistake)

    found = conformance_failures(Case(Wrong, {"score": "keys"}), [check_memory_padding, check_memory_order])
    assert list(found) == ["check_memory_order" if mistake is later_rows_count_less else "check_memory_padding"]
