"""The cliff: values and gradients against the engine, the complex step and closed forms; descents; fixed points."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq, fsolve

from rnn_numpy import RNN
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab import bifurcation, cliff, cliff_gradient, cliff_line, descend, fold_points

EPS = np.finfo(np.float64).eps
W, B = np.linspace(2, 8, 201), np.linspace(-3.5, 0, 141)


@pytest.fixture(scope="module")
def grid():
    return cliff(W, B)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# ------------------------------------------------------------------------------------------------ the landscape


def test_the_error_is_that_of_the_recurrence(grid):
    for row, column in ((0, 0), (30, 77), (140, 200), (60, 150)):
        x = 0.5
        for _ in range(50):
            x = W[column] * sigmoid(x) + B[row]
        np.testing.assert_allclose(grid.error[row, column], (sigmoid(x) - 0.7) ** 2, rtol=1e-11)


def test_the_gradient_is_that_of_the_complex_step_everywhere(grid):
    h, step = 1e-20, 1e-9
    w, b = W[None, :] + 0j, B[:, None] + 0j
    near = cliff(W, B + step)
    for found, moved, error in (
        (grid.dw, near.dw, cliff_gradient(w + 1j * h, b).error),
        (grid.db, near.db, cliff_gradient(w, b + 1j * h).error),
    ):
        reference = error.imag / h
        # Of each entry's own size. Complex and real exp may round differently, which acts as a change of b by eps does:
        # next to the cliff, and in the valley, where s - target cancels, the gradient feels it more than elsewhere.
        felt = 8 * EPS * np.abs(moved - found) / (step * np.abs(found))
        assert (np.abs(found - reference) <= (1e-13 + felt) * np.abs(reference)).all()
        assert np.abs(reference).min() > 0
        assert np.mean(felt < 1e-13) > 0.95  # the bound is 1e-13 nearly everywhere


def test_the_gradient_is_that_of_the_engine():
    """With h = tanh(x/2), x_{t+1} = w (1 + h_t)/2 + b is a tanh RNN: W_hh = w/4, bias w/4 + b/2, h_0 = tanh(x_0/2)."""
    for w, b in ((3.0, -1.0), (4.7, -2.3), (5.0, -2.65), (7.5, -0.5)):
        rnn = RNN(1, 1, rng=0)
        rnn.params.flat[:] = 0.0
        rnn.params["weight_hh_l0"][:] = w / 4
        rnn.params["bias_hh_l0"][:] = w / 4 + b / 2
        output, _, trace = rnn.forward(np.zeros((50, 1, 1)), np.full((1, 1, 1), math.tanh(0.25)))
        s = (1 + output[-1, 0, 0]) / 2
        doutput = np.zeros_like(output)
        doutput[-1] = s - 0.7  # d (s - 0.7)^2 / dh
        grads = rnn.backward(trace, doutput).grads
        dweight, dbias = grads["weight_hh_l0"][0, 0], grads["bias_hh_l0"][0]
        error, dw, db = cliff_gradient(w, b)
        # A rounding error of a state grows as the gradient does: by up to the multiplier's power, 1e2 here.
        np.testing.assert_allclose([error, dw, db], [(s - 0.7) ** 2, (dweight + dbias) / 4, dbias / 2], rtol=1e-11)


def test_the_gradient_on_the_cliff_has_a_closed_form():
    """x_t = x_0 for all t, and the sums over t are geometric series."""
    s = sigmoid(0.5)
    slope = s * (1 - s)
    for w in (2.0, 4.0, 4.3, 4.5):
        b = float(cliff_line(w))
        m = w * slope
        db = 2 * (s - 0.7) * slope * (m**50 - 1) / (m - 1)
        error, dw, found = cliff_gradient(w, b)
        # Off its line by a rounding error, the state leaves it by that, times m^50 = 16 at most.
        np.testing.assert_allclose([error, found, dw], [(s - 0.7) ** 2, db, s * db], rtol=1e-12)


def test_the_wall_is_as_high_as_the_module_says():
    for w, expected, width in ((4.94, 4e3, 1e-2), (8.0, 1e13, 1e-11)):
        below = cliff_line(w) - np.geomspace(width / 1e5, width, 2000)
        _, dw, db = cliff_gradient(w, below)
        highest = np.hypot(dw, db).max()
        assert expected / 1.5 < highest < expected * 1.5
        s = sigmoid(0.5)
        m = w * s * (1 - s)
        on_it = 2 * (0.7 - s) * s * (1 - s) * (m**50 - 1) / (m - 1) * math.hypot(1, s)
        assert 2 < highest / on_it < 10


def test_the_grid_has_the_known_figures(grid):
    w, b, norm = grid.steepest
    assert (w, b) == pytest.approx((4.94, -2.575), rel=1e-12)
    np.testing.assert_allclose(norm, 3.3e3, rtol=0.01)
    np.testing.assert_allclose(np.median(grid.gradient_norm), 0.037, rtol=0.01)
    np.testing.assert_allclose(grid.ratio, 9e4, rtol=0.01)
    np.testing.assert_allclose(grid.gradient_norm**2, grid.dw**2 + grid.db**2, rtol=1e-13)


def test_the_median_does_not_depend_on_the_grid_and_the_largest_does(grid):
    finer = cliff(np.linspace(2, 8, 301), np.linspace(-3.5, 0, 351))
    np.testing.assert_allclose(np.median(finer.gradient_norm), np.median(grid.gradient_norm), rtol=0.01)
    assert finer.steepest[2] < 0.1 * grid.steepest[2]


def test_the_largest_gradients_lie_along_the_line(grid):
    rows, columns = np.nonzero(grid.gradient_norm > 5)
    assert len(rows) > 10
    assert np.abs(B[rows] - cliff_line(W[columns])).max() < 0.03  # about a cell


def test_the_two_sides_of_the_line_are_two_basins():
    for w in (4.5, 5.0, 6.0, 7.5):
        line = float(cliff_line(w))
        low, high = fold_points(w)
        assert low < line < high
        below, above = cliff_gradient(w, line - 1e-3).error, cliff_gradient(w, line + 1e-3).error
        s_low, _, s_high = (sigmoid(x) for x in bifurcation(w, [line]).points[0])
        assert below > 5 * above
        if w > 5:  # closer to the fold it takes longer than 50 steps to arrive
            np.testing.assert_allclose([below, above], [(s_low - 0.7) ** 2, (s_high - 0.7) ** 2], rtol=0.05)


@given(st.integers(1, 60), st.floats(-8, 8), st.floats(-8, 8), st.floats(-3, 3), st.floats(0.05, 0.95))
def test_the_gradient_is_right_for_any_net(steps, w, b, start, target):
    h = 1e-20
    options = {"steps": steps, "start": start, "target": target}
    _, dw, db = cliff_gradient(w, b, **options)
    reference = [cliff_gradient(w + 1j * h, b + 0j, **options).error.imag / h]
    reference += [cliff_gradient(w + 0j, b + 1j * h, **options).error.imag / h]
    # dw sums terms of both signs where w < 0. Each term's error is relative to itself: the bound is the sum of sizes.
    bound = 1e-13 * sum_of_sizes(w, b, **options) + 1e-290  # below, h times the derivative underflows
    assert abs(dw - reference[0]) <= bound and abs(db - reference[1]) <= bound


def sum_of_sizes(w, b, steps, start, target):
    """The sum of |terms| of db, which bounds those of dw, since s < 1."""
    x, slopes = start, []
    for _ in range(steps):
        x = w * sigmoid(x) + b
        slopes.append(sigmoid(x) * sigmoid(-x))
    # At least 0.01: of a smaller difference the rounding of s is more than 1e-14.
    term, total = 2 * max(abs(sigmoid(x) - target), 0.01), 0.0
    for slope in reversed(slopes):
        term *= slope
        total += term
        term *= abs(w)
    return total


def test_w_and_b_broadcast_and_are_left_alone():
    w, b = np.array([[3.0, 5.0]]), np.array([[-1.0], [-2.0], [-3.0]])
    w.flags.writeable = b.flags.writeable = False
    error, dw, db = cliff_gradient(w, b)
    assert error.shape == dw.shape == db.shape == (3, 2)
    assert (error[1, 1], dw[1, 1], db[1, 1]) == cliff_gradient(5, -2)
    grid = cliff([3, 5], [-1, -2, -3], steps=50)
    np.testing.assert_array_equal(grid.dw, dw)
    assert (grid.steps, grid.start, grid.target) == (50, 0.5, 0.7)


# ------------------------------------------------------------------------------------------------ descent


def test_an_update_is_what_it_says():
    found = descend(5.0, -2.3, lr=0.1, updates=7)
    assert found.path.shape == (8, 2) and found.errors.shape == found.norms.shape == (8,)
    assert not found.clipped.any() and found.clipped.shape == (7,)
    for (w, b), after, error, norm in zip(found.path, found.path[1:], found.errors, found.norms, strict=False):
        value, dw, db = cliff_gradient(w, b)
        assert (error, norm) == (value, np.hypot(dw, db))
        np.testing.assert_array_equal(after, np.array([w, b]) - 0.1 * np.array([dw, db]))
    assert found.errors[-1] == cliff_gradient(*found.path[-1]).error


def test_a_clipped_update_has_the_direction_and_the_length_of_the_clip():
    free, short = (descend(4.94, -2.575, 0.1, 1, clip) for clip in (None, 0.5))
    moves = [np.diff(found.path, axis=0)[0] for found in (free, short)]
    assert free.longest > 100 and short.clipped.tolist() == [True]
    np.testing.assert_allclose(short.longest, 0.05, rtol=1e-13)
    np.testing.assert_allclose(moves[0] / np.linalg.norm(moves[0]), moves[1] / np.linalg.norm(moves[1]), rtol=1e-12)


def test_clipping_above_all_norms_changes_nothing():
    free, clipped = (descend(3.0, -0.5, 0.2, 60, clip) for clip in (None, 1e6))
    np.testing.assert_array_equal(free.path, clipped.path)
    assert not clipped.clipped.any()
    assert (np.diff(free.errors) < 0).all() and free.errors[-1] < 0.2 * free.errors[0]


# ------------------------------------------------------------------------------------------------ fixed points


@given(st.floats(4.0, 1e6))
def test_folds_of_a_sigmoid_unit_are_where_root_finding_has_them(w):
    low, high = fold_points(w)
    # w s (1 - s) = 1 on either side of x = 0, by Brent's method on its logarithm, which has no flat parts.
    reference = []
    for sign in (1, -1):
        x = sign * brentq(
            lambda x: math.log(w) - x - 2 * math.log1p(math.exp(-x)), 0, 50 + math.log(w), xtol=1e-300, rtol=4 * EPS
        )
        reference.append(x - w * sigmoid(x))
    # Twice the tolerance of a root: near w = 4 the curve is flat there, and b does not feel it.
    np.testing.assert_allclose([low, high], reference, rtol=1e-12)


@given(st.floats(1.0, 1e6))
def test_folds_of_a_tanh_unit_are_where_root_finding_has_them(w):
    low, high = fold_points(w, "tanh")
    x = brentq(lambda x: math.log(4 * w) - 2 * x - 2 * math.log1p(math.exp(-2 * x)), 0, 50 + math.log(w), xtol=1e-300)
    assert low == -high
    # Relative to the two terms, whose difference is 0 at w = 1.
    assert abs(low - (x - w * math.tanh(x))) <= 16 * EPS * (x + w * math.tanh(x)) + 1e-290


def test_both_equations_of_a_fold_hold_at_once():
    """A fixed point, and a multiplier of 1: two equations for (x, b), given to a solver that knows no closed form."""
    for w in (4.2, 5.0, 7.0, 20.0):
        low, high = fold_points(w)
        for fold, guess in ((low, 2.0), (high, -2.0)):
            x, b = fsolve(
                lambda p, w=w: [p[0] - w * sigmoid(p[0]) - p[1], w * sigmoid(p[0]) * sigmoid(-p[0]) - 1],
                [guess, -w / 2],
                xtol=1e-14,
            )
            assert abs(x) > 0.1
            np.testing.assert_allclose(fold, b, rtol=1e-12)


def test_folds_at_w_5_are_those_of_the_golden_ratio():
    golden = 2 * math.log((1 + math.sqrt(5)) / 2)
    half = 2.5 / math.sqrt(5)
    np.testing.assert_allclose(fold_points(5.0), [-2.5 - half + golden, -2.5 + half - golden], rtol=4 * EPS)
    np.testing.assert_allclose(fold_points(5.0), [-2.655610, -2.344390], rtol=0, atol=5e-7)  # six decimals are given


def test_there_are_no_folds_below_the_critical_weight():
    low, high = fold_points([-5.0, 3.99, 4.0, 4.01])
    np.testing.assert_array_equal(np.isnan(low), [True, True, False, False])
    assert low[2] == high[2] == -2.0
    assert low[3] < -2.005 < high[3]
    np.testing.assert_array_equal(fold_points(1.0, "tanh"), [0.0, 0.0])


@pytest.mark.parametrize("unit", ["sigmoid", "tanh"])
@given(w=st.floats(-30, 30), b=st.floats(-20, 20))
def test_every_point_is_fixed_and_none_is_missed(unit, w, b):
    found = bifurcation(w, [b], unit)
    function = sigmoid if unit == "sigmoid" else math.tanh
    points = found.points[0]
    for x in points[np.isfinite(points)]:
        assert abs(x - w * function(x) - b) <= 8 * EPS * (abs(x) + abs(w) + abs(b)) + 1e-300
    # Sign changes on a grid that is finer than two roots lie apart, but at a fold.
    x = np.linspace(-60, 60, 200_001)
    f = 1 / (1 + np.exp(-x)) if unit == "sigmoid" else np.tanh(x)
    signs = np.sign(x - w * f - b)
    low, high = fold_points(w, unit)
    if np.isnan(low) or min(abs(b - low), abs(b - high)) > 1e-4:
        assert found.count[0] == np.count_nonzero(np.diff(signs[signs != 0]))
        assert found.count[0] == (3 if low < b < high else 1)


def test_multipliers_and_stability():
    """A stable point draws states near it; an unstable one drives them off."""
    found = bifurcation(5.0, np.linspace(-3, -2, 41))
    assert {int(count) for count in found.count} == {1, 3}
    for b, points, multipliers, stable in zip(found.values, found.points, found.multipliers, found.stable, strict=True):
        for x, multiplier, is_stable in zip(points, multipliers, stable, strict=True):
            if np.isfinite(x):
                step = 1e-6
                near = 5 * sigmoid(x + step) + b
                np.testing.assert_allclose((near - x) / step, multiplier, rtol=1e-5)
                assert is_stable == (abs(near - x) < step)
            else:
                assert not is_stable
    assert found.stable[20].tolist() == [True, False, True]


def test_branches_appear_in_order():
    found = bifurcation(5.0, np.linspace(-4, -1, 301))
    has = np.isfinite(found.points)
    low, high = fold_points(5.0)
    np.testing.assert_array_equal(has[:, 0], found.values <= high)
    np.testing.assert_array_equal(has[:, 2], found.values >= low)
    np.testing.assert_array_equal(has[:, 1], (found.values > low) & (found.values < high))
    inside = found.points[found.count == 3]
    assert (np.diff(inside, axis=1) > 0).all()


def test_a_pitchfork_of_a_tanh_unit():
    found = bifurcation(np.linspace(0.5, 2, 31), 0.0, "tanh")
    assert (found.parameter, found.other) == ("w", 0.0)
    below = found.values <= 1
    np.testing.assert_array_equal(found.count, np.where(below, 1, 3))
    assert (np.abs(found.points[:, 1]) < 1e-15).all()  # 0 is fixed throughout
    np.testing.assert_array_equal(found.stable[:, 1], found.values < 1)
    assert found.stable[~below][:, [0, 2]].all()
    np.testing.assert_allclose(found.points[:, 0], -found.points[:, 2], rtol=1e-12)
    np.testing.assert_allclose(found.multipliers[:, 1], found.values, rtol=1e-13)


@pytest.mark.parametrize(("b", "branch"), [(-2.5, 0), (-2.0, 2), (-1.5, 2)])
def test_the_single_point_belongs_to_the_branch_that_goes_on(b, branch):
    found = bifurcation(np.linspace(3, 4.2, 121), b)
    branches = np.isfinite(found.points)
    assert branches[:, branch].all()
    step = np.diff(found.points[:, branch])
    assert np.abs(step).max() < 0.5  # b = -2 leads through the cusp, where the branch bends as a cube root


def test_a_negative_weight_makes_a_point_that_flips():
    found = bifurcation([-8.0, -3.0], 4.0)
    assert found.count.tolist() == [1, 1]
    x = found.points[0, 1] if np.isfinite(found.points[0, 1]) else found.points[0, 2]
    assert abs(x + 8 * sigmoid(x) - 4) < 1e-14
    assert np.nanmin(found.multipliers[0]) < -1 and not found.stable[0].any() and found.stable[1].any()


# ------------------------------------------------------------------------------------------------ messages


def test_what_the_landscape_refuses():
    with pytest.raises(OptionError, match=r"cliff_gradient: steps must be at least 1; got 0"):
        cliff_gradient(5, -2, steps=0)
    with pytest.raises(OptionError, match=r"cliff_gradient: start must be finite; got inf"):
        cliff_gradient(5, -2, start=math.inf)
    with pytest.raises(NonFiniteError, match=r"cliff_gradient: w is nan at axis 0 = 1"):
        cliff_gradient([1.0, math.nan], -2)
    with pytest.raises(DTypeError, match=r"cliff_gradient: b must be made of numbers; got dtype <U1"):
        cliff_gradient(1.0, "a")
    with pytest.raises(ShapeError, match=r"cliff: w must have shape \(n,\) with n >= 1; got \(2, 1\)"):
        cliff([[1.0], [2.0]], [1.0])
    with pytest.raises(ShapeError, match=r"cliff: b must have shape \(n,\) with n >= 1; got \(0,\)"):
        cliff([1.0], [])
    with pytest.raises(DTypeError, match=r"cliff: w must be real; got dtype complex128"):
        cliff([1j], [1.0])
    with pytest.raises(OptionError, match=r"fold_points: unit must be one of 'sigmoid', 'tanh'; got 'relu'"):
        fold_points(5.0, "relu")
    with pytest.raises(DTypeError, match=r"fold_points: w must be real; got dtype complex128"):
        fold_points(5j)
    with pytest.raises(ShapeError, match=r"bifurcation: one of w and b must be a vector \(n,\), the other a number"):
        bifurcation(5.0, -2.5)
    with pytest.raises(ShapeError, match=r"got shapes \(1,\) and \(1,\)"):
        bifurcation([5.0], [-2.5])
    with pytest.raises(NonFiniteError, match=r"bifurcation: b is inf at i = 0"):
        bifurcation(5.0, [math.inf])
    with pytest.raises(OptionError, match=r"bifurcation: unit must be one of"):
        bifurcation(5.0, [1.0], "relu")
    with pytest.raises(OptionError, match=r"lr must be greater than 0; got -1"):
        descend(5.0, -2.0, -1.0, 3)
    with pytest.raises(OptionError, match=r"max_norm must be greater than 0; got 0"):
        descend(5.0, -2.0, 1.0, 3, clip=0.0)
