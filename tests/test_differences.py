import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnn_numpy.checks import assert_grad_close, central_difference, complex_step
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError

ORACLES = pytest.mark.parametrize("oracle", [central_difference, complex_step])
POINT = {"a": np.array([[0.3, -1.2], [0.0, 2.0]]), "b": np.array(0.7)}


def smooth(p):
    """Return a function whose gradient is known: sin(a) b + a^2."""
    return np.sum(np.sin(p["a"]) * p["b"] + p["a"] ** 2)


def smooth_gradient(p):
    return {"a": np.cos(p["a"]) * p["b"] + 2 * p["a"], "b": np.sum(np.sin(p["a"]))}


@pytest.mark.parametrize(("oracle", "rtol"), [(central_difference, 1e-9), (complex_step, 1e-15)])
def test_known_gradient(oracle, rtol):
    found = oracle(smooth, POINT)
    assert list(found) == ["a", "b"]
    for name, expected in smooth_gradient(POINT).items():
        assert found[name].dtype == np.float64
        assert_grad_close(name, found[name], expected, rtol)


entries = hnp.arrays(np.float64, (2, 3), elements=st.floats(-3, 3).filter(lambda v: v == 0 or abs(v) > 1e-3))


@given(entries)
def test_both_oracles_agree(a):
    point = {"a": a, "b": np.array(0.7)}
    by_difference, by_complex = central_difference(smooth, point), complex_step(smooth, point)
    ours, theirs = (np.append(part["a"], part["b"]) for part in (by_difference, by_complex))
    assert_grad_close("d(a, b)", ours, theirs, 1e-8)


def test_complex_step_sees_what_has_vanished():
    found = complex_step(lambda p: 1.0 + 1e-136 * np.sum(np.cos(p["a"])), POINT)
    assert_grad_close("a", found["a"], -1e-136 * np.sin(POINT["a"]), 1e-15)


@ORACLES
def test_names_choose_the_arrays(oracle):
    assert list(oracle(smooth, POINT, names=["b"])) == ["b"]
    with pytest.raises(OptionError) as caught:
        oracle(smooth, POINT, names=["b", "weight"])
    assert str(caught.value) == f"{oracle.__name__}: names must be among ['a', 'b']; got ['weight']"


@ORACLES
def test_empty_arrays_and_empty_points(oracle):
    found = oracle(smooth, {"a": np.zeros((0, 2)), "b": np.array(1.0)})
    assert found["a"].shape == (0, 2)
    assert found["b"] == 0
    assert oracle(lambda p: np.complex128(1.0) if oracle is complex_step else 1.0, {}) == {}


@ORACLES
def test_the_point_is_not_modified_and_the_function_cannot_modify_its_argument(oracle):
    point = {name: array.copy() for name, array in POINT.items()}
    for array in point.values():
        array.flags.writeable = False
    oracle(smooth, point)
    for name, array in point.items():
        assert np.array_equal(array, POINT[name])

    def careless(p):
        p["a"] *= 2
        return np.sum(p["a"])

    with pytest.raises(ValueError, match="read-only"):
        oracle(careless, POINT)


@ORACLES
def test_every_entry_is_restored(oracle):
    seen = []

    def spying(p):
        seen.append(p["a"].copy())
        return np.sum(p["a"] * 1.0)

    oracle(spying, {"a": np.array([1.0, 2.0, 4.0])})
    for array in seen:
        assert np.sum(array != [1.0, 2.0, 4.0]) <= 1
    moved = {tuple(np.flatnonzero(array != [1.0, 2.0, 4.0])) for array in seen}
    assert moved == {(), (0,), (1,), (2,)}


@ORACLES
def test_fortran_ordered_arrays(oracle):
    point = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    found = oracle(lambda p: np.sum(p["a"] * [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), point)
    assert_grad_close("a", found["a"], np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), 1e-8)


@ORACLES
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, np.complex128])
def test_points_must_be_float64(oracle, dtype):
    with pytest.raises(DTypeError) as caught:
        oracle(smooth, {"a": np.ones(2, dtype), "b": np.array(1.0)})
    assert str(caught.value) == (
        f"{oracle.__name__}: a must be a float64 array; got {np.dtype(dtype)}. Convert the point first"
    )


@ORACLES
@pytest.mark.parametrize("step", [0, -1e-6, np.nan, np.inf, "small"])
def test_steps_must_be_positive(oracle, step):
    with pytest.raises(OptionError, match=f"^{oracle.__name__}: step must be a positive number; got {step!r}$"):
        oracle(smooth, POINT, step=step)


def test_central_difference_refuses_a_step_that_does_not_move_an_entry():
    with pytest.raises(GradientCheckError) as caught:
        central_difference(smooth, POINT, step=1e-17)
    assert str(caught.value) == ("central_difference: step 1e-17 does not change a[0, 0] = 0.3; enlarge it")


def test_central_difference_takes_larger_steps_for_larger_entries():
    found = central_difference(lambda p: np.sum(p["a"] ** 2), {"a": np.array([1e12])})
    assert_grad_close("a", found["a"], np.array([2e12]), 1e-9)


def test_random_functions_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(GradientCheckError, match="two calls differ. Fix its random numbers"):
        central_difference(lambda p: np.sum(p["a"]) + rng.normal(), POINT)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.ones(2), "central_difference: loss must return one real number; got float64 of shape (2,)"),
        (1j, "central_difference: loss must return one real number; got complex128 of shape ()"),
        ("1.0", "central_difference: loss must return one real number; got <U3 of shape ()"),
        (np.nan, "central_difference: loss must return a finite number; got nan"),
    ],
)
def test_central_difference_wants_one_finite_real_number(result, message):
    with pytest.raises(GradientCheckError) as caught:
        central_difference(lambda p: result, POINT)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p: p["a"] + 0, "complex_step: loss must return one number; got an array of shape (2, 2)"),
        (lambda p: np.sum(p["a"]) * complex(np.inf, 0.0), "complex_step: loss must return a finite number; got "),
        (lambda p: np.sum(p["a"]) + 1j, "complex_step: loss must be real where its arguments are"),
        (lambda p: np.sum(np.abs(p["a"])), "complex_step: loss must return a complex number for complex arrays; got "),
        (lambda p: 1.0, "complex_step: loss must return a complex number for complex arrays; got float64"),
    ],
)
def test_complex_step_wants_one_finite_complex_number(loss, message):
    with np.errstate(invalid="ignore"), pytest.raises(GradientCheckError) as caught:
        complex_step(loss, POINT)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("how", ["astype", "buffer"])
def test_a_dropped_imaginary_part_is_an_error_even_where_warnings_are_off(how):
    def dropping(p):
        if how == "astype":
            return np.sum(p["a"].astype(float)) + 0j
        buffer = np.zeros(p["a"].shape)
        buffer[...] = p["a"]
        return np.sum(buffer) + 0j

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(GradientCheckError, match="^complex_step: loss drops the imaginary part, which carries the"):
            complex_step(dropping, POINT)
