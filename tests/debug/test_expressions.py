"""The language of conditions: what it says, and that nothing else can be said in it."""

import ast
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_numpy import debug
from rnn_numpy.debug.expressions import evaluate, norm, parsed, ulps
from rnn_numpy.debug.rows import Rows
from rnn_numpy.errors import OptionError
from tests.debug.networks import LENGTHS, T, ready


def rows(kind="lstm", lengths="all"):
    layer, trace, doutput = ready(kind, lengths)
    layer.backward(trace, doutput)
    return trace.top, Rows(trace.top, trace.top.latest, range(T - 1, -1, -1))


def said(text, names):
    return evaluate(parsed("test", text), names).array


@pytest.mark.parametrize("lengths", ["all", "out of order"])
def test_every_name_of_a_step_means_what_the_step_has(lengths):
    for kind in ("rnn", "lstm", "gru", "gru before", "peephole", "lstm dropout and zoneout"):
        trace, names = rows(kind, lengths)
        for name in trace[0].names:
            found = names.value(name).array
            for k, t in enumerate(names.indices):
                assert np.array_equal(found[k], getattr(trace[t], name)), (kind, name, t)
        for name, weight in trace.weights.items():
            assert names.value(name).array is weight


def test_rows_of_gates():
    trace, names = rows()
    for gate, letter in enumerate("ifgo"):
        block = slice(5 * gate, 5 * gate + 5)
        assert np.array_equal(names.value(f"W_i{letter}").array, trace.weights["W_ih"][block])
        assert np.array_equal(names.value(f"W_h{letter}").array, trace.weights["W_hh"][block])
        assert np.array_equal(names.value(f"b_{letter}").array, (trace.weights["b_ih"] + trace.weights["b_hh"])[block])
        assert np.array_equal(names.value(f"b_h{letter}").array, trace.weights["b_hh"][block])
        assert np.array_equal(names.value(f"a_{letter}").array, trace.a[::-1][..., block])


def test_arithmetic_and_functions_are_numpys():
    trace, names = rows()
    dh, da_f, f, W_hh = trace.dh[1:][::-1], trace.da_f[::-1], trace.f[::-1], trace.weights["W_hh"]
    t = np.arange(T)[::-1]
    flat = dh.reshape(T, -1)
    for text, expected in {
        "norm(dh)": np.linalg.norm(flat, axis=1),
        "max(dh)": flat.max(axis=1),
        "min(abs(dh))": abs(flat).min(axis=1),
        "mean(f)": f.reshape(T, -1).mean(axis=1),
        "t": t,
        "-t + 2 * t ** 2 - t / 4": -t + 2 * t**2 - t / 4,
        "dh[2, 3]": dh[:, 2, 3],
        "norm(dh[1, 1:4])": np.linalg.norm(dh[:, 1, 1:4], axis=1),
        "norm(dh[-1])": np.linalg.norm(dh[:, :, -1], axis=1),
        "max(da_f) > 0.01 and t < 5": (da_f.reshape(T, -1).max(axis=1) > 0.01) & (t < 5),
        "not t == 3 or t == 3": np.ones(T, bool),
        "2 < t < 5": (t > 2) & (t < 5),
        "isfinite(dh)": np.ones(T, bool),
        "norm(W_hh.T @ da)": np.linalg.norm((trace.da[::-1] @ W_hh).reshape(T, -1), axis=1),
        "norm(tanh(a) - tanh(a))": np.zeros(T),
        "sat(f)": ((f < 0.01) | (f > 0.99)).reshape(T, -1).mean(axis=1),
        "cos(dh, dh)": np.ones(T),
        "ulps(dh, dh)": np.zeros(T),
        "norm(W_hh)": np.linalg.norm(W_hh),
    }.items():
        found = said(text, names).reshape(-1)
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-13, atol=1e-15, err_msg=text)
    ratio = said("ratio(dh)", names).reshape(-1)
    norms = np.linalg.norm(flat, axis=1)
    assert np.isnan(ratio[0])
    np.testing.assert_allclose(ratio[1:], norms[1:] / norms[:-1], rtol=1e-14)


def test_a_sequence_that_has_ended_has_no_saturated_gate():
    trace, names = rows("lstm", "out of order")
    assert not said("sat(f)", names).any()
    alive = np.array(LENGTHS["out of order"])[None, :] > np.array(names.indices)[:, None]
    trace.arrays["a"][...] = 1  # every gate, and those of sequences that have ended
    again = Rows(trace, names.gradients, names.indices)
    assert alive.any(axis=1).all() and (said("sat(f)", again) == 1).all()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()",
        "dh.tofile",
        "dh.T",  # of weights alone
        "W_hh.T.T",
        "(lambda: 1)()",
        "[x for x in dh]",
        "{1: 2}",
        "'text'",
        "f'{dh}'",
        "dh if t else dc",
        "print(dh)",
        "print()",
        "norm()",
        "softmax(dh)",
        "norm(dh, 2)",
        "norm(*dh)",
        "norm(x=dh)",
        "ratio(dh + 1)",
        "dh[t]",
        "dh[::2]",
        "dh[1, 2, 3]",
        "dh[1.5]",
        "dh[[1]]",
        "t := 3",
        "a; b",
        "import os",
        "~t",
        "t << 3",
        "t // 2",
        "t % 2",
        "t is t",
        "t in t",
        "1j * t",
        "...",
        "None",
        "await t",
        "yield",
        "",
        "(",
        "dh dh",
        "\0",
        "1e999",
        "t" * 501,
        "+".join("t" * 250),
        "-" * 499 + "t",
    ],
)
def test_what_is_not_of_this_language_is_refused(text):
    with pytest.raises(OptionError):
        said(text, rows()[1])


@given(st.text(max_size=60))
def test_no_text_does_anything_but_evaluate_or_be_refused(text):
    names = rows()[1]
    try:
        evaluate(parsed("test", text), names)
    except OptionError:
        pass


NODES = st.recursive(
    st.sampled_from(["t", "dh", "f", "W_hh", "0", "2", "1e308", "dh[0, 1]", "W_hh.T", "norm", "nothing"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " * ", " / ", " ** ", " @ ", " < ", " and ", " == "]), inner).map(
            lambda parts: f"({''.join(parts)})"
        ),
        st.tuples(st.sampled_from(["norm", "max", "abs", "exp", "log", "sqrt", "ratio", "sat", "isfinite"]), inner).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
    ),
    max_leaves=8,
)


@given(NODES, st.booleans())
def test_texts_that_look_right_are_evaluated_or_refused_in_words(text, bounded):
    try:
        evaluate(parsed("test", text), rows()[1], bounded)
    except OptionError:
        pass


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("text", ["0 ** 0", "0 ** -1", "0 / 0", "1 / 0 + t", "10 ** 200 * t", "(0 * t) ** -2"])
def test_numbers_at_the_edge_are_evaluated_or_refused_in_words(text, bounded):
    try:
        evaluate(parsed("test", text), rows("rnn")[1], bounded)
    except OptionError as error:
        assert "cannot be computed" in str(error)


def test_errors_name_what_there_is():
    with pytest.raises(
        OptionError, match=r"has \"__import__\('os'\)\", which is not of this language. There are names"
    ):
        debug.when("1 + __import__('os')")
    with pytest.raises(OptionError, match="a step of l0 has no 'dq'; it has t, x, h_prev, c_prev, a, i, f, g, o, "):
        said("norm(dq)", rows()[1])
    with pytest.raises(
        OptionError, match=r"@ is a matrix times an array of a step; got shapes \(20, 5\) and \(4, 20\)"
    ):
        said("W_hh @ da", rows()[1])
    with pytest.raises(OptionError, match=r"\[7, 0\] is outside of an array \(N, units\) = \(4, 5\)"):
        said("dh[7, 0]", rows()[1])
    with pytest.raises(OptionError, match="'dh - x' cannot be computed: operands could not be broadcast together"):
        said("dh - x", rows()[1])
    with pytest.raises(OptionError, match="an expression must be a text, as 'norm\\(dh\\) > 1'; got int"):
        debug.when(3)


@given(st.floats(width=64, allow_nan=False), st.integers(0, 40))
def test_ulps_count_floating_point_numbers(value, steps):
    other = value
    with np.errstate(over="ignore"):
        for _ in range(steps):
            other = np.nextafter(other, math.inf)
    if math.isfinite(value) and math.isfinite(other):
        assert ulps(np.array([value]), np.array([other]))[0] == steps


def test_ulps_of_other_kinds():
    assert ulps(np.array([0.0]), np.array([-0.0]))[0] == 0
    assert ulps(np.array([np.nan, np.nan]), np.array([np.nan, 1.0])).tolist() == [0, np.inf]
    one = np.float32(1)
    assert ulps(np.array([one]), np.array([np.nextafter(one, np.float32(2))]))[0] == 1
    assert ulps(np.array([1.0]), np.array([np.nextafter(one, np.float32(2))]))[0] == 1  # in the coarser one
    z = np.array([1 + 1j])
    assert ulps(z, z + np.spacing(1.0) * 1j)[0] == 1


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1.0, 1e200, 1.7e308])
def test_norms_neither_underflow_nor_overflow(scale):
    array = np.array([[[0.6, -0.8], [0.0, 0.0]]]) * scale
    np.testing.assert_allclose(norm(array).ravel(), scale, rtol=1e-15 if scale > 1e-300 else 1e-2)
    assert norm(0 * array).ravel() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("size", [(1, 64), (3, 7), (5, 33)])
def test_a_norm_does_not_depend_on_how_many_steps_are_looked_at(size, columns, dtype):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(50, *size)).astype(dtype)
    array[3] *= np.finfo(dtype).tiny  # also beside steps whose squares cannot be held
    array[7] *= np.finfo(dtype).max / 8
    if columns:
        array = np.ascontiguousarray(array.swapaxes(1, 2)).swapaxes(1, 2)
    together = norm(array)
    for K in (1, 2, 7):
        for k in range(0, 50 - K, K):
            assert np.array_equal(norm(array[k : k + K]), together[k : k + K])
    assert np.array_equal(norm(array[::-1]), together[::-1])


def test_bounds_hold_and_are_not_idle():
    """Against longdouble: what rounds stays within the bound, and comes within a factor of 40 of it somewhere."""
    rng = np.random.default_rng(0)

    class Drawn:
        def __init__(self, dtype):
            from rnn_numpy.debug.expressions import Value

            self.values = {n: Value(rng.normal(size=(50, 4, 6)).astype(dtype)) for n in "abc"}
            self.values["W"] = Value(rng.normal(size=(6, 6)).astype(dtype))

        def value(self, name, before=False):
            return self.values[name]

        def limits(self, name):
            return 0.0, 1.0

        def exists(self):
            return None

    for text in (
        "a * b + c",
        "a - b * (1 - c ** 2)",
        "W @ a + b",
        "tanh(W.T @ a - b) * c",
        "a / b",
        "sigmoid(a + b) * c",
    ):
        names = Drawn(np.float32)
        found = evaluate(parsed("test", text), names, bounded=True)
        names.values = {n: v._replace(array=v.array.astype(np.float64)) for n, v in names.values.items()}
        exact = evaluate(parsed("test", text), names).array
        used = abs(found.array - exact) / (np.finfo(np.float32).eps * np.maximum(found.bound, abs(exact)))
        assert 1 / 40 < used.max() <= 1, (text, used.max())


def test_the_tree_is_pythons():
    assert isinstance(parsed("test", "a + b").tree, ast.BinOp)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_floats(dtype):
    """No 64 bits to overflow, and no dtype of their own: a text's numbers leave float32 as it is."""
    layer, trace, doutput = ready("lstm", dtype=dtype)
    layer.backward(trace, doutput)
    names = Rows(trace.top, trace.top.latest, range(T - 1, -1, -1))
    for text, expected in {
        "2 ** 64": 2.0**64,
        "10 ** 20": 1e20,
        "10 ** -3": 1e-3,
        "2 ** 62 * 4 - 1": 2.0**64,
        "9223372036854775807 + 1": 2.0**63,
        "-2 ** 63 - 2 ** 63": -(2.0**64),
        "0 ** -1": np.inf,
        "(1 < 2) + (2 < 3)": 2.0,
        "-(1 < 2)": -1.0,
        "abs(-(10 ** 19))": 1e19,
    }.items():
        for bounded in (False, True):
            assert evaluate(parsed("test", text), names, bounded).array == expected, text
    for text in ("-1 * dh", "dh * 2 ** -1", "sqrt(2) * dh", "(1 - dh) ** 2", "-(1 + 1) * dh", "dh / (3 * 7)"):
        for bounded in (False, True):
            assert evaluate(parsed("test", text), names, bounded).array.dtype == dtype, text
    assert np.array_equal(said("dh[-1, 0:2] * 1", names), trace.dh[1:][::-1, -1:, 0:2])


@pytest.mark.parametrize(
    "text",
    ["(norm(dh) > 1) & (t < 3)", "(t < 3) | (t > 5)", "~(t < 3)", "t < 3 && t > 1", "t < 3 || t > 5", "!(t < 3)"],
)
def test_signs_of_other_languages_are_told_in_words(text):
    with pytest.raises(OptionError, match="Write `and`, `or`, `not` in place of &, |, ~"):
        debug.when(text)
