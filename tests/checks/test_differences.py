import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnn_numpy.checks import assert_grad_close, central_difference, complex_step, ridders
from rnn_numpy.checks.oracles import fourth_order_difference, one_sided_slopes, step_scan
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError


def ridders_values(*arguments, **options):
    return ridders(*arguments, **options).values


ridders_values.__name__ = "ridders"
FUNCTIONS = [central_difference, fourth_order_difference, ridders_values, complex_step]
ORACLES = pytest.mark.parametrize("oracle", FUNCTIONS, ids=lambda oracle: oracle.__name__)
POINT = {"a": np.array([[0.3, -1.2], [0.0, 2.0]]), "b": np.array(0.7)}


def smooth(p):
    """Return a function whose gradient is known: sin(a) b + a^2."""
    return np.sum(np.sin(p["a"]) * p["b"] + p["a"] ** 2)


def smooth_gradient(p):
    return {"a": np.cos(p["a"]) * p["b"] + 2 * p["a"], "b": np.sum(np.sin(p["a"]))}


@pytest.mark.parametrize(
    ("oracle", "rtol"),
    [(central_difference, 1e-9), (fourth_order_difference, 2e-12), (ridders_values, 2e-12), (complex_step, 1e-15)],
)
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

    with pytest.raises(GradientCheckError) as caught:
        oracle(careless, POINT)
    assert str(caught.value) == (
        f"{oracle.__name__}: loss must not modify its arrays, which are read-only (output array is read-only); copy an "
        "array before changing it"
    )


@ORACLES
def test_every_entry_is_restored(oracle):
    seen = []

    def spying(p):
        seen.append(p["a"].copy())
        return np.sum(p["a"] * 1.0)

    # What verifies that a loss is analytic moves all entries at once.
    oracle(spying, {"a": np.array([1.0, 2.0, 4.0])}, **({"verify": False} if oracle is complex_step else {}))
    # By more than the last digits, by whose changes the rounding of a loss is measured; a line through all entries
    # tells how rough it is.
    changes = [
        np.flatnonzero(np.abs(array - [1.0, 2.0, 4.0]) > (0 if array.dtype.kind == "c" else 1e-13)) for array in seen
    ]
    assert {tuple(change) for change in changes} - {(0, 1, 2)} == {(), (0,), (1,), (2,)}


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
    with pytest.raises(GradientCheckError) as caught:
        central_difference(lambda p: np.sum(p["a"]) + rng.normal(), POINT)
    assert re.fullmatch(
        r"central_difference: loss must return the same number for the same arrays; two calls differ: [\d.]+ and "
        r"[\d.]+. Fix its random numbers, and let it keep no state",
        str(caught.value),
    )


@pytest.mark.parametrize("where", [{}, {"where": "gradcheck"}])
def test_messages_name_the_function_that_the_caller_wants(where):
    with pytest.raises(
        GradientCheckError, match=f"^{where.get('where', 'ridders')}: loss must return one number; got str$"
    ):
        ridders(lambda p: "1.0", POINT, **where)


# ---------------------------------------------------------------------------------------------- errors, scans, kinks

T, H, D = 20, 5, 3


def rnn_problem(seed, function=np.tanh):
    """Return the loss of a small net, and its parameters."""
    rng = np.random.default_rng(seed)
    point = {"W": rng.normal(size=(H, H)) / np.sqrt(H), "U": rng.normal(size=(H, D)), "b": 0.1 * rng.normal(size=H)}
    x, weight = rng.normal(size=(T, D)), rng.normal(size=H)

    def loss(p):
        h = np.zeros(H, p["W"].dtype)
        for x_t in x:
            h = function(p["W"] @ h + p["U"] @ x_t + p["b"])
        return weight @ h

    return loss, point


@pytest.mark.parametrize("seed", range(5))
def test_orders_on_a_net(seed):
    loss, point = rnn_problem(seed)
    exact = complex_step(loss, point)
    for oracle, rtol in ((central_difference, 1e-8), (fourth_order_difference, 1e-10), (ridders_values, 1e-10)):
        for name, found in oracle(loss, point).items():
            assert_grad_close(name, found, exact[name], rtol)


@pytest.mark.parametrize("seed", range(5))
def test_ridders_knows_its_error(seed):
    loss, point = rnn_problem(seed)
    exact, found = complex_step(loss, point), ridders(loss, point)
    for name, values in found.values.items():
        assert np.all(np.abs(values - exact[name]) <= found.errors[name])
        assert np.max(found.errors[name]) < 1e-9 * np.max(np.abs(exact[name]))


def test_ridders_error_is_that_of_rounding_where_large_terms_cancel():
    # The derivative is 1; the loss has the rounding errors of 1e6, and nothing in its size says so.
    found = ridders(lambda p: np.sum(p["a"] + 1e6) - 1e6, {"a": np.array([0.25])})
    assert abs(found.values["a"][0] - 1) <= found.errors["a"][0]
    assert 1e-9 < found.errors["a"][0] < 1e-5


def test_ridders_comes_closer_where_the_first_steps_leave_the_domain():
    with np.errstate(invalid="ignore"):
        found = ridders(lambda p: np.sum(np.log(p["a"])), {"a": np.array([1e-3])})
    assert_grad_close("a", found.values["a"], np.array([1e3]), 1e-10)
    with np.errstate(invalid="ignore"), pytest.raises(GradientCheckError) as caught:
        ridders(lambda p: np.sum(np.log(p["a"])), {"a": np.array([1e-9])})
    assert str(caught.value).startswith("ridders: loss must return a finite number; got nan where a[0] is -6.0")


@pytest.mark.parametrize("distance", [3e-5, 1e-4, 1e-3, 3e-3, 8e-3])
@pytest.mark.parametrize("side", [-1, 1])
def test_ridders_stays_on_one_side_of_a_kink_that_is_near(distance, side):
    def loss(p):
        return np.sum(3 * np.maximum(p["a"], 0) + np.exp(p["a"]))

    point = {"a": np.array([side * distance])}
    found = ridders(loss, point)
    expected = np.exp(point["a"]) + (3 if side > 0 else 0)
    assert abs(found.values["a"] - expected)[0] <= found.errors["a"][0] < 1e-6
    slopes = one_sided_slopes(loss, point, "a", 0)
    assert not slopes.differ
    assert slopes.left == pytest.approx(expected[0], rel=1e-7)
    assert slopes.right == pytest.approx(expected[0], rel=1e-7)


def test_one_sided_slopes_of_a_kink():
    slopes = one_sided_slopes(
        lambda p: np.sum(3 * np.maximum(p["a"], 0) + np.exp(p["a"])), {"a": np.zeros(1)}, "a", (0,)
    )
    assert slopes.differ
    for found, error, expected in ((slopes.left, slopes.left_error, 1), (slopes.right, slopes.right_error, 4)):
        assert abs(found - expected) <= error < 1e-8


def test_one_sided_slopes_of_a_smooth_function_agree():
    loss, point = rnn_problem(0)
    exact = complex_step(loss, point)["W"][1, 2]
    slopes = one_sided_slopes(loss, point, "W", (1, -3))
    assert not slopes.differ
    assert abs(slopes.left - exact) <= slopes.left_error < 1e-7
    assert abs(slopes.right - exact) <= slopes.right_error < 1e-7


def test_step_scan_shows_truncation_and_rounding():
    loss, point = rnn_problem(1)
    exact = complex_step(loss, point)["W"][0, 1]
    scan = step_scan(loss, point, "W", (0, 1), reference=exact)
    assert len(scan.steps) == 13
    assert scan.uncertainty == 0
    # On the left of the V each decade brings two digits, on the right it costs one.
    assert 50 < scan.errors[0] / scan.errors[1] < 200
    assert 50 < scan.errors[1] / scan.errors[2] < 200
    assert scan.errors[-1] > 1e3 * scan.errors[-6]
    assert 1e-6 <= scan.best_step <= 1e-4
    assert scan.errors[scan.best] == min(scan.errors) < 1e-9
    # The same without knowing the derivative.
    blind = step_scan(loss, point, "W", (0, 1))
    assert abs(blind.reference - exact) <= blind.uncertainty
    assert 1e-6 <= blind.best_step <= 1e-3


def test_step_scan_prints_a_table():
    loss, point = rnn_problem(1)
    for scan in (step_scan(loss, point, "W", (0, 1)), step_scan(loss, {"b" * 30: 1e300 * np.ones(1)} | point, "b", 2)):
        lines = repr(scan).splitlines()
        assert len(lines) == 15
        assert max(map(len, lines)) <= 100
        assert [i for i, line in enumerate(lines) if line.endswith("<- best")] == [2 + scan.best]
    exact = step_scan(lambda p: p["a"] * 2, {"a": np.array(1.0)}, "a", (), steps=[0.5, 0.25])
    assert exact.errors == (0.0, 0.0)
    assert "  0.0e+00   <- best" in repr(exact)


def test_step_scan_refuses_what_it_cannot_scan():
    point = {"a": np.array([1.0])}
    with pytest.raises(GradientCheckError, match=r"^step_scan: step 1e-17 does not change a\[0\] = 1.0; enlarge it$"):
        step_scan(lambda p: np.sum(p["a"]), point, "a", 0, steps=[1e-3, 1e-17])
    with pytest.raises(OptionError, match="^step_scan: steps must have at least one step; got none$"):
        step_scan(lambda p: np.sum(p["a"]), point, "a", 0, steps=[])
    with pytest.raises(OptionError, match=r"^step_scan: name must be among \['a'\]; got 'b'$"):
        step_scan(lambda p: np.sum(p["a"]), point, "b", 0)
    for index in (1, (0, 0), ()):
        with pytest.raises(OptionError, match=r"^step_scan: index must be one of an entry of a, of shape \(1,\); got "):
            step_scan(lambda p: np.sum(p["a"]), point, "a", index)
