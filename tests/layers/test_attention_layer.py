"""Attention over all steps at once: golden numbers, the complex step, torch, and what attention must hold."""

import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from attended import assert_all_close
from frameworks import torch
from messages import assert_raises

from rnn_numpy.checks import assert_grad_close, complex_step
from rnn_numpy.errors import DTypeError, OptionError, ShapeError
from rnn_numpy.layers import attention, attention_layer
from rnn_numpy.layers.attention_layer import Attention, Keys
from tests.layers.test_attention_parts import ADDITIVE, ONE_STEP, assert_golden, fill

T, N, S = 4, 3, 5
EXISTS = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
SIZES = {"dot": (3, 3), "scaled_dot": (3, 3), "general": (2, 4), "additive": (2, 4)}
EACH_SCORE = pytest.mark.parametrize("score", SIZES)
EACH_MASK = pytest.mark.parametrize("exists", [None, EXISTS], ids=["all", "masked"])


class Problem:
    """Attention, what goes in, and what the loss says: a weighted sum of contexts and weights."""

    def __init__(self, score, exists=None, *, sizes=(T, N, S), scale=1.0, dtype=np.float64):
        rng = np.random.default_rng(0)
        (T, N, S), (Q, M) = sizes, SIZES[score]
        self.attention = Attention(Q, M, score, 6 if score == "additive" else None, rng=1).astype(dtype)
        self.query, self.memory = scale * rng.normal(size=(T, N, Q)), rng.normal(size=(S, N, M))
        self.dcontext, self.dalpha = rng.normal(size=(T, N, M)), rng.normal(size=(T, N, S))
        for name in ("query", "memory", "dcontext", "dalpha"):
            setattr(self, name, getattr(self, name).astype(dtype))
        self.exists = exists

    @property
    def point(self):
        return {"query": self.query, "memory": self.memory, **self.attention.params}

    def loss(self, at):
        at = {**self.point, **at}
        dtype = np.result_type(*at.values())
        twin = self.attention.astype(dtype)
        twin.load_state_dict({name: np.asarray(at[name], dtype) for name in twin.params})
        arrays = (np.asarray(at[name], dtype) for name in ("query", "memory"))
        context, alpha, _ = twin.forward(*arrays, mask=self.exists)
        return np.sum(self.dcontext * context) + np.sum(self.dalpha * alpha)

    def forward(self):
        return self.attention.forward(self.query, self.memory, mask=self.exists)

    def backward(self, trace):
        return self.attention.backward(trace, self.dcontext, dalpha=self.dalpha)

    def gradients(self):
        back = self.backward(self.forward()[2])
        return {"query": back.dquery, "memory": back.dmemory, **back.grads}


# -------------------------------------------------------------------------------------------- every gradient


@pytest.mark.parametrize("score", ONE_STEP)
def test_golden_numbers_of_one_step(score):
    layer = Attention(2, 2, "scaled_dot" if score == "scaled" else score)
    if score == "general":
        layer.load_state_dict({"weight_a": fill((2, 2), 0)})
    if score == "additive":
        own = {"weight_memory": fill((2, 2), 0), "bias": fill((2,), 2)}
        layer.load_state_dict({**own, **{name.removesuffix("_l0"): weight for name, weight in ADDITIVE.items()}})
    _, alpha, trace = layer.forward(fill((1, 1, 2), 5), fill((3, 1, 2), 4, 1.0))
    back = layer.backward(trace, fill((1, 1, 2), 6))
    names = {"weight_a": "dW_a", "v": "dv", "weight_memory": "dU_a", "weight_query": "dW_q", "bias": "db_a"}
    found = {"alpha": alpha, "dquery": back.dquery, "dvalues": back.dmemory}
    assert_golden({**found, **{names[name]: grad for name, grad in back.grads.items()}}, **ONE_STEP[score])


@EACH_SCORE
@EACH_MASK
def test_gradients_are_complex_steps(score, exists):
    problem = Problem(score, exists)
    assert_all_close(problem.gradients(), complex_step(problem.loss, problem.point))


@EACH_SCORE
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 5), (4, 1, 5), (4, 3, 1), (2, 2, 7)], ids=str)
def test_gradients_are_complex_steps_at_other_sizes(score, sizes):
    problem = Problem(score, sizes=sizes)
    expected = complex_step(problem.loss, problem.point)
    if sizes[2] == 1:  # weights of 1, whatever the scores
        assert not any(np.any(array) for name, array in expected.items() if name != "memory")
    assert_all_close(problem.gradients(), expected)


@pytest.mark.needs_torch
@EACH_SCORE
@EACH_MASK
def test_torch(score, exists):
    """The memory's two ways apart, as a memory for the values and one for the keys."""
    exists = np.ones((N, S), bool) if exists is None else exists | (np.arange(N) == 2)[:, None]
    problem = Problem(score, exists)
    point = {**problem.point, "memory_values": problem.memory, "memory_weights": problem.memory}
    p = {name: torch.tensor(np.array(array), requires_grad=True) for name, array in point.items()}
    keys = p["memory_weights"]
    if score == "additive":
        projected = p["query"] @ p["weight_query"].T
        units = torch.tanh((keys @ p["weight_memory"].T + p["bias"])[None] + projected[:, None])
        scores = torch.einsum("tsnk,k->tns", units, p["v"])
    else:
        keys = keys @ p["weight_a"].T if score == "general" else keys
        scores = torch.einsum("tnq,snq->tns", p["query"], keys) * (3**-0.5 if score == "scaled_dot" else 1)
    alpha = torch.softmax(scores.masked_fill(torch.tensor(~exists), -torch.inf), dim=2)
    context = torch.einsum("tns,snm->tnm", alpha, p["memory_values"])
    loss = (torch.tensor(problem.dcontext) * context).sum() + (torch.tensor(problem.dalpha) * alpha).sum()
    loss.backward()
    found_context, found_alpha, trace = problem.forward()
    back = problem.backward(trace)
    np.testing.assert_allclose(found_alpha, alpha.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(found_context, context.detach().numpy(), rtol=1e-13)
    found = {"query": back.dquery, **back.grads, "memory_values": back.dmemory_values}
    for name, gradient in {**found, "memory_weights": back.dmemory_weights}.items():
        assert_grad_close(name, gradient, p[name].grad.numpy(), 1e-13)
    assert np.array_equal(back.dmemory, back.dmemory_values + back.dmemory_weights)


def test_gradients_are_added():
    problem = Problem("additive")
    trace = problem.forward()[2]
    once, grads = problem.backward(trace).grads, problem.attention.params.zeros_like()
    for _ in range(2):
        assert problem.attention.backward(trace, problem.dcontext, grads, dalpha=problem.dalpha).grads is grads
    assert_grad_close("grads", grads.flat, 2 * once.flat, 1e-14)


# --------------------------------------------------------------------------------------- what attention must hold


@EACH_SCORE
@pytest.mark.parametrize(("T", "N"), [(0, 2), (2, 0)])
def test_no_queries(score, T, N):
    layer = Attention(4, 4, score, rng=0)
    context, _, trace = layer.forward(np.ones((T, N, 4)), np.ones((5, N, 4)))
    back = layer.backward(trace, np.ones_like(context))
    assert back.dquery.shape == (T, N, 4)
    assert back.dmemory.shape == (5, N, 4)
    assert not back.dmemory.any()
    assert not back.grads.flat.any()


@EACH_SCORE
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
def test_a_query_without_memory_has_zeros(score, dtype):
    problem = Problem(score, EXISTS, dtype=dtype)
    expected, problem.memory = problem.gradients(), problem.memory.copy()
    problem.memory[~EXISTS.T] = np.nan  # what does not count is not read
    context, alpha, trace = problem.forward()
    back = problem.backward(trace)
    assert context.dtype == alpha.dtype == back.dquery.dtype == back.dmemory.dtype == dtype
    assert np.all(trace.score[:, 2] == trace.score[:, 2, :1])
    for array in (context[:, 2], back.dquery[:, 2], back.dmemory[:, 2], trace.dscore[:, 2]):
        assert not np.any(array)
    assert not np.any(alpha[:, ~EXISTS])
    assert np.all(alpha[:, EXISTS] != 0)
    for array in (back.dmemory, back.dmemory_values, back.dmemory_weights):
        assert not np.any(array[~EXISTS.T])
        assert np.all(array[EXISTS.T] != 0)
    for name, array in {"query": back.dquery, "memory": back.dmemory, **back.grads}.items():
        assert array.dtype == dtype
        assert np.array_equal(array, expected[name])
    rtol = 1e-5 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(alpha.sum(axis=2), np.tile(EXISTS.any(axis=1), (T, 1)), rtol=rtol)


@EACH_SCORE
def test_lengths_are_masks_of_the_first_rows(score):
    problem = Problem(score)
    lengths = np.array([5, 0, 2])
    found = problem.attention.forward(problem.query, problem.memory, lengths)
    same = problem.attention.forward(problem.query, problem.memory, mask=np.arange(S) < lengths[:, None])
    assert np.array_equal(found[0], same[0])
    assert np.array_equal(found[1], same[1])
    assert np.array_equal(found[1] != 0, np.tile(np.arange(S) < lengths[:, None], (T, 1, 1)))


@EACH_SCORE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_do_not_exist_change_no_digit(score, dtype):
    """At many sizes: which sums BLAS and einsum take in which order depends on them."""
    rng = np.random.default_rng(0)
    for N, S, M in itertools.product((1, 2, 20), (1, 2, 5, 13), (1, 3, 33)):
        layer = Attention(M if "dot" in score else 7, M, score, dtype=dtype, rng=0)
        query, memory = (rng.normal(size=size).astype(dtype) for size in ((2, N, layer.query_size), (S, N, M)))
        context, alpha, _ = layer.forward(query, memory)
        for rows in (1, 4, 11):
            longer = np.concatenate([memory, np.full((rows, N, M), np.nan, dtype)])
            same_context, same_alpha, _ = layer.forward(query, longer, [S] * N)
            assert np.array_equal(same_context, context), (N, S, M, rows)
            assert np.array_equal(same_alpha[:, :, :S], alpha), (N, S, M, rows)


@EACH_SCORE
def test_rows_that_do_not_exist_change_gradients_by_rounding(score):
    """Their products are over all rows at once, whose sums BLAS takes in an order that depends on S."""
    problem = Problem(score)
    expected = problem.gradients()
    problem.memory = np.concatenate([problem.memory, np.full((3, N, SIZES[score][1]), np.nan)])
    problem.dalpha = np.concatenate([problem.dalpha, np.ones((T, N, 3))], axis=2)
    problem.exists = np.tile(np.arange(S + 3) < S, (N, 1))
    found = problem.gradients()
    assert not np.any(found["memory"][S:])
    assert_all_close({**found, "memory": found["memory"][:S]}, expected, 1e-14)


@EACH_SCORE
@EACH_MASK
def test_queries_one_by_one_are_all_at_once_bit_for_bit(score, exists):
    problem = Problem(score, exists)
    context, alpha, _ = problem.forward()
    for t in range(T):
        one = problem.attention.forward(problem.query[t : t + 1], problem.memory, mask=exists)
        assert np.array_equal(one[0][0], context[t])
        assert np.array_equal(one[1][0], alpha[t])


@EACH_SCORE
def test_rows_of_the_memory_in_another_order(score):
    problem = Problem(score, EXISTS)
    found, alpha, order = problem.gradients(), problem.forward()[1], np.array([3, 0, 1, 4, 2])
    problem.memory, problem.exists = problem.memory[order], EXISTS[:, order]
    problem.dalpha = problem.dalpha[:, :, order]
    assert_grad_close("alpha", problem.forward()[1], alpha[:, :, order], 1e-13)
    assert_all_close(problem.gradients(), {**found, "memory": found["memory"][order]})


@EACH_SCORE
def test_a_memory_of_one_row_is_the_context(score):
    problem = Problem(score, sizes=(T, N, 1))
    context, alpha, trace = problem.forward()
    back = problem.backward(trace)
    assert np.all(alpha == 1)
    assert np.array_equal(context, np.broadcast_to(problem.memory, context.shape))
    assert np.any(trace.dalpha)
    assert not np.any(trace.dscore)
    assert not np.any(back.dquery)
    assert not np.any(back.dmemory_weights)


@EACH_SCORE
def test_equal_rows_get_equal_weights(score):
    problem = Problem(score)
    problem.memory = np.repeat(problem.memory[:1], S, axis=0)
    _, alpha, trace = problem.forward()
    back = problem.attention.backward(trace, problem.dcontext)
    np.testing.assert_allclose(alpha, 1 / S, rtol=1e-15)
    for array in (trace.dscore, back.dquery):  # of a constant memory the context does not depend on the query
        assert np.abs(array).max() <= 1e-14 * np.abs(trace.dalpha).max()


@EACH_SCORE
def test_a_constant_added_to_dalpha_changes_nothing(score):
    """Weights add up to 1."""
    problem = Problem(score)
    found = problem.gradients()
    problem.dalpha = problem.dalpha + 3
    assert_all_close(problem.gradients(), found)


@EACH_SCORE
@pytest.mark.parametrize("scale", [1e5, -1e5])
def test_scores_of_any_size(score, scale):
    problem = Problem(score, EXISTS, scale=scale)
    if score == "additive":  # bounded but for v
        problem.attention.params["v"][...] *= scale
    _, alpha, trace = problem.forward()
    assert np.abs(trace.score[:, :2]).max() > 1e4
    for name, array in problem.gradients().items():
        assert np.all(np.isfinite(array)), name
    np.testing.assert_allclose(alpha.sum(axis=2), np.tile(EXISTS.any(axis=1), (T, 1)), rtol=1e-15)


@EACH_SCORE
def test_float32_is_float64_up_to_rounding(score):
    expected, problem = Problem(score, EXISTS).gradients(), Problem(score, EXISTS, dtype=np.float32)
    for name, array in problem.gradients().items():
        assert array.dtype == np.float32
        assert_grad_close(name, array, expected[name], 1e-5)


def test_the_additive_score_keeps_no_array_of_all_its_hidden_units():
    T, N, S, K = 200, 2, 30, 50
    layer, rng = Attention(3, 4, "additive", K, rng=0), np.random.default_rng(0)
    query, memory = rng.normal(size=(T, N, 3)), rng.normal(size=(S, N, 4))
    tracemalloc.start()
    try:
        context, _, trace = layer.forward(query, memory)
        layer.backward(trace, context)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < T * N * S * K * 8 / 5


# ---------------------------------------------------------------------------------------------- traces, parameters


@EACH_SCORE
def test_a_trace_keeps_what_it_was_made_of(score):
    problem = Problem(score, EXISTS.copy())
    trace = problem.forward()[2]
    shapes = {name: getattr(trace, name).shape for name in trace.names}
    Q, M = SIZES[score]
    assert shapes == {"query": (T, N, Q), "score": (T, N, S), "alpha": (T, N, S), "context": (T, N, M)}
    expected = problem.backward(trace)
    assert not any(getattr(trace, name).flags.writeable for name in ("score", "alpha", "context"))
    assert trace.names == ("query", "score", "alpha", "context", "dscore", "dalpha", "dcontext", "dquery")
    assert np.array_equal(trace.dquery, expected.dquery)
    assert np.array_equal(trace.dcontext, problem.dcontext)
    problem.query[...], problem.memory[...], problem.exists[...] = np.nan, np.nan, False
    problem.attention.params.flat[:] = 7
    again = problem.backward(pickle.loads(pickle.dumps(trace)))
    for name in ("dquery", "dmemory", "dmemory_values", "dmemory_weights"):
        assert np.array_equal(getattr(again, name), getattr(expected, name))
    assert np.array_equal(again.grads.flat, expected.grads.flat)


@EACH_SCORE
def test_layers_are_copied_and_converted(score):
    problem = Problem(score)
    layer, context = problem.attention, problem.forward()[0]
    again = pickle.loads(pickle.dumps(layer))
    assert np.array_equal(again.forward(problem.query, problem.memory)[0], context)
    other = Attention(*SIZES[score], score, 6 if score == "additive" else None, rng=9)
    other.load_state_dict(layer.state_dict())
    assert np.array_equal(other.forward(problem.query, problem.memory)[0], context)
    assert layer.astype(np.float32).dtype == np.float32
    names = {"general": ["weight_a"], "additive": ["weight_memory", "bias", "weight_query", "v"]}
    assert list(layer.state_dict()) == names.get(score, [])
    assert eval(repr(layer).replace("float64", "'float64'")).params.shapes == layer.params.shapes


# ------------------------------------------------------------------------------------------------ wrong arguments

QUERY, MEMORY = np.zeros((T, N, 2)), np.zeros((S, N, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Attention(3, 4, "dot"),
            OptionError,
            "Attention: score 'dot' must have a query as wide as the memory, Q = M; got Q = 3 and M = 4. For other "
            "widths take 'general', which has a weight between the two",
        ),
        (
            lambda: Attention(4, 3, "scaled_dot"),
            OptionError,
            "Attention: score 'scaled_dot' must have a query as wide as the memory, Q = M; got Q = 4 and M = 3. For "
            "other widths take 'general', which has a weight between the two",
        ),
        (
            lambda: Attention(4, 3, "cosine"),
            OptionError,
            "Attention: score must be one of 'dot', 'scaled_dot', 'general', 'additive'; got 'cosine'",
        ),
        (
            lambda: Attention(4, 3, "general", 5),
            OptionError,
            "Attention: attention_size must be left out: it is of the score 'additive', not 'general'",
        ),
        (lambda: Attention(0, 3), OptionError, "Attention: query_size must be at least 1; got 0"),
        (
            lambda: Attention(2, 4).forward(np.zeros((T, N, 3)), MEMORY),
            ShapeError,
            f"Attention.forward: query must have shape (T, N, Q) with Q = query_size = 2; got ({T}, {N}, 3)",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, np.zeros((S, N + 1, 4))),
            ShapeError,
            f"Attention.forward: memory must have shape (S, N, M) = (S, {N}, 4) with S >= 1; got ({S}, {N + 1}, 4)",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, np.zeros((0, N, 4))),
            ShapeError,
            f"Attention.forward: memory must have shape (S, N, M) = (S, {N}, 4) with S >= 1; got (0, {N}, 4)",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY.astype(np.float32)),
            DTypeError,
            "Attention.forward: memory must have dtype float64, the layer's; got float32. Convert it with "
            "memory.astype(np.float64), or the layer with .astype(np.float32)",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY, mask=EXISTS.T),
            ShapeError,
            f"Attention.forward: mask must have shape (N, S) = ({N}, {S}); got ({S}, {N})",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY, mask=EXISTS.astype(int)),
            DTypeError,
            "Attention.forward: mask must hold bools, True where a row counts; got int64",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY, [5, 6, 0]),
            OptionError,
            f"Attention.forward: lengths must be integers from 0 to S = {S}; got [5, 6, 0]",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY, [5, -1, 0]),
            OptionError,
            f"Attention.forward: lengths must be integers from 0 to S = {S}; got [5, -1, 0]",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY, [1.0, 2.0, 0.0]),
            OptionError,
            f"Attention.forward: lengths must be integers from 0 to S = {S}; got [1.0, 2.0, 0.0]",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY, [5, 5]),
            ShapeError,
            f"Attention.forward: lengths must have shape (N,) = ({N},); got (2,)",
        ),
        (
            lambda: Attention(2, 4).forward(QUERY, MEMORY, [5, 5, 5], mask=EXISTS),
            OptionError,
            "Attention.forward: lengths or mask must be left out: each says which rows count",
        ),
        (
            lambda: Attention(2, 4).backward(None, np.zeros((T, N, 4))),
            DTypeError,
            "Attention.backward: trace must be the third result of forward; got NoneType",
        ),
        (
            lambda: Attention(3, 4).backward(Attention(2, 4).forward(QUERY, MEMORY)[2], np.zeros((T, N, 4))),
            ShapeError,
            f"Attention.backward: query in trace must have shape (T, N, Q) = ({T}, {N}, 3); got ({T}, {N}, 2)",
        ),
        (
            lambda: Attention(2, 4).backward(Attention(2, 4).forward(QUERY, MEMORY)[2], np.zeros((T, N, 3))),
            ShapeError,
            f"Attention.backward: dcontext must have shape (T, N, M) = ({T}, {N}, 4); got ({T}, {N}, 3)",
        ),
        (
            lambda: Attention(2, 4).backward(
                Attention(2, 4).forward(QUERY, MEMORY)[2], np.zeros((T, N, 4)), dalpha=np.zeros((N, S))
            ),
            ShapeError,
            f"Attention.backward: dalpha must have shape (T, N, S) = ({T}, {N}, {S}); got ({N}, {S})",
        ),
        (
            lambda: Attention(2, 4).backward(
                Attention(2, 4, "additive").forward(QUERY, MEMORY)[2], np.zeros((T, N, 4))
            ),
            OptionError,
            "Attention.backward: trace must be of an attention with score 'general'; got 'additive'",
        ),
        (
            lambda: Attention(2, 4, "additive").backward(
                Attention(2, 4, "additive", 5).forward(QUERY, MEMORY)[2], np.zeros((T, N, 4))
            ),
            ShapeError,
            "Attention.backward: weight_memory in trace must have shape that of params = (2, 4); got (5, 4)",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    assert_raises(error, message, call)


# --------------------------------------------------------------------------------------------- planted mistakes

RIGHT = {name: getattr(attention, name) for name in ("softmax_backward", "softmax_forward", "additive_backward")}


def no_softmax_jacobian(dalpha, alpha, dscore):
    dscore[...] = dalpha


def its_diagonal_alone(dalpha, alpha, dscore):
    dscore[...] = alpha * (1 - alpha) * dalpha


def without_the_derivative_of_tanh(dscore, units, W_q, v, dunits, dprojected, dquery, dkeys, dv):
    RIGHT["additive_backward"](dscore, np.zeros_like(units), W_q, v, dunits, dprojected, dquery, dkeys, dv * 0)
    dv += np.einsum("ns,nsk->k", dscore, units)


def keys_without_the_scale(self, dkeys, values, weights, grads):
    return dkeys


def memory_by_values_alone(self, dkeys, values, weights, grads):
    return RIGHT_KEYS(self, dkeys, values, weights, grads) * 0


RIGHT_KEYS = Keys.backward
MISTAKES = [
    # What is wrong, where, and which gradients show it, of which score.
    (no_softmax_jacobian, attention_layer, "softmax_backward", "dot", {"query", "memory"}),
    (no_softmax_jacobian, attention_layer, "softmax_backward", "general", {"query", "memory", "weight_a"}),
    (its_diagonal_alone, attention_layer, "softmax_backward", "general", {"query", "memory", "weight_a"}),
    (without_the_derivative_of_tanh, attention_layer, "additive_backward", "additive",
     {"query", "memory", "weight_memory", "bias", "weight_query"}),
    (keys_without_the_scale, Keys, "backward", "scaled_dot", {"memory"}),
    (memory_by_values_alone, Keys, "backward", "dot", {"memory"}),
    (memory_by_values_alone, Keys, "backward", "general", {"memory"}),
    (memory_by_values_alone, Keys, "backward", "additive", {"memory"}),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "place", "name", "score", "shown"), MISTAKES)
def test_a_planted_mistake_is_caught(monkeypatch, wrong, place, name, score, shown):
    problem = Problem(score, EXISTS)
    expected = complex_step(problem.loss, problem.point)
    monkeypatch.setattr(place, name, wrong)
    found = problem.gradients()
    errors = {of: np.abs(found[of] - array).max() / np.abs(array).max() for of, array in expected.items()}
    assert {of for of, error in errors.items() if error > 1e-6} == shown


def test_a_mask_after_the_softmax_is_caught(monkeypatch):
    """Another function, with a right gradient: its weights do not add up."""

    def masked_afterwards(score, exists, alpha):
        RIGHT["softmax_forward"](score, np.ones_like(exists), alpha)
        alpha *= exists

    monkeypatch.setattr(attention_layer, "softmax", masked_afterwards)
    assert np.all(Problem("general", EXISTS).forward()[1].sum(axis=2)[:, 1] < 1)
