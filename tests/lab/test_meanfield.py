"""Mean-field theory and random products: against quadrature in many digits, and against simulated networks."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from rnn_numpy import RNN
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.lab import (
    critical_input_variance,
    fuss_catalan_edge,
    gaussian_product_exponents,
    gaussian_product_spread,
    gradient_flow,
    meanfield,
)
from rnn_numpy.lab.meanfield import expectations, fuss_catalan_variance

EPS = np.finfo(np.float64).eps


def quadrature(width):
    """E[tanh^2(width z)] and E[sech^4(width z)] in 30 digits, split where either factor bends."""
    with mpmath.workdps(30):
        width = mpmath.mpf(width)
        cuts = sorted(
            {mpmath.mpf(cut) for cut in (0, 2, 5, 12)} | {cut / width for cut in (1, 4, 20) if cut < 12 * width}
        )
        tanh2 = 2 * mpmath.quad(lambda z: mpmath.tanh(width * z) ** 2 * mpmath.npdf(z), cuts)
        sech4 = 2 * mpmath.quad(lambda z: mpmath.sech(width * z) ** 4 * mpmath.npdf(z), cuts)
        return float(tanh2), float(sech4)


# ------------------------------------------------------------------------------------------------ mean field


@pytest.mark.parametrize("width", [1e-3, 0.1, 0.7, 1.0, 1.001, 2.0, 9.6, 100.0, 1e4])
def test_expectations_have_all_their_digits(width):
    np.testing.assert_allclose(expectations(width**2), quadrature(width), rtol=8 * EPS)


def test_expectations_at_the_ends():
    assert expectations(0.0) == pytest.approx((0.0, 1.0), rel=8 * EPS)
    # tanh^2(a) = a^2 - 2/3 a^4 + ..., sech^4(a) = 1 - 2 a^2 + ...
    q = 1e-9
    np.testing.assert_allclose(expectations(q), [q * (1 - 2 * q), 1 - 2 * q], rtol=1e-15)
    # sech^4 has the integral 4/3.
    np.testing.assert_allclose(expectations(1e20)[1] * 1e10, 4 / 3 / math.sqrt(2 * math.pi), rtol=1e-13)


@pytest.mark.parametrize(
    ("g", "sigma2", "lambda_1"), [(2, 0, 0.1547), (3, 0, 0.3103), (2, 0.5, 0.0920), (10, 0, 0.8564)]
)
def test_known_exponents(g, sigma2, lambda_1):
    assert meanfield(g, sigma2).lambda_1 == pytest.approx(lambda_1, rel=0, abs=1e-4)  # four decimals are known


@pytest.mark.parametrize(("g", "sigma2"), [(2, 0.0), (3, 0.0), (2, 0.5), (10, 0.0), (0.5, 0.3), (1.0, 0.1), (1.2, 0.0)])
def test_both_equations_hold_in_many_digits(g, sigma2):
    state = meanfield(g, sigma2)
    tanh2, sech4 = quadrature(math.sqrt(state.q))
    np.testing.assert_allclose(g**2 * tanh2 + sigma2, state.q, rtol=1e-14)
    np.testing.assert_allclose(0.5 * math.log(g**2 * sech4), state.lambda_1, rtol=1e-12)
    assert state.chaotic == (state.lambda_1 > 0) == (g > 1)


def test_hermite_nodes_fall_into_the_trap():
    """The textbook quadrature is wrong by 47 % at g = 10, with no warning, where the grid is right."""
    x, weights = np.polynomial.hermite.hermgauss(101)
    z, weights = math.sqrt(2) * x, weights / math.sqrt(math.pi)

    def tanh2(q):
        return weights @ np.tanh(math.sqrt(q) * z) ** 2

    def exponent(g):
        q = brentq(lambda q: g**2 * tanh2(q) - q, 0.1, g**2)
        return 0.5 * math.log(g**2 * (weights @ (1 - np.tanh(math.sqrt(q) * z) ** 2) ** 2))

    np.testing.assert_allclose(exponent(10) / meanfield(10).lambda_1 - 1, 0.47, rtol=0.01)
    # It is not the theory that differs: on smooth ground they agree.
    np.testing.assert_allclose(exponent(1.5), meanfield(1.5).lambda_1, rtol=1e-7)


@given(st.floats(1e-3, 50), st.one_of(st.just(0.0), st.floats(1e-9, 100)))
def test_noise_calms_and_gain_excites(g, sigma2):
    state = meanfield(g, sigma2)
    assert state.q >= sigma2
    np.testing.assert_allclose(g**2 * expectations(state.q)[0] + sigma2, state.q, rtol=1e-12, atol=0)
    noisier, wilder = meanfield(g, sigma2 + 0.1), meanfield(g * 1.1, sigma2)
    assert noisier.q > state.q and noisier.lambda_1 < state.lambda_1
    assert wilder.q >= state.q
    assert meanfield(g, 0.0).lambda_1 == pytest.approx(math.log(g), rel=1e-15) or g > 1


def test_without_noise_a_small_gain_is_a_linear_net():
    assert (meanfield(0.5).q, meanfield(0.5).lambda_1) == (0.0, math.log(0.5))
    assert meanfield(1.0).lambda_1 == 0.0 and not meanfield(1.0).chaotic
    # Beyond g = 1: expanding M1 and M2 to third order in q, lambda_1 = 2/3 q^2 with q = g - 1.
    for step in (1e-2, 1e-3):
        state = meanfield(1 + step)
        np.testing.assert_allclose([state.q / step, state.lambda_1 / step**2], [1, 2 / 3], rtol=5 * step)


@given(st.floats(1e-16, 1e-4))
def test_the_theory_holds_next_to_the_onset_of_chaos(step):
    """Where q, and lambda_1 the more, are within rounding of 0: the expansion, to what rounding leaves of it."""
    g = 1 + step
    step = g - 1  # as far as a float next to 1 can say
    state, sigma2 = meanfield(g), critical_input_variance(g)
    assert abs(state.q - step) <= 5 * step**2 + 16 * EPS
    assert abs(state.lambda_1 - 2 / 3 * step**2) <= 5 * step**3 + 16 * EPS
    assert 0 <= sigma2 and abs(sigma2 - 4 / 3 * step**3) <= 5 * step**4 + 16 * EPS * step


@given(st.floats(1.05, 100))
def test_at_the_critical_variance_the_exponent_is_zero(g):
    sigma2 = critical_input_variance(g)
    assert sigma2 > 0
    assert abs(meanfield(g, sigma2).lambda_1) <= 1e-12
    assert meanfield(g, 1.01 * sigma2).lambda_1 < 0 < meanfield(g, 0.99 * sigma2).lambda_1


def test_the_known_critical_variance():
    assert critical_input_variance(2.0) == pytest.approx(1.6360, rel=0, abs=5e-5)  # four decimals are known
    assert critical_input_variance(1.0) == 0.0


@pytest.mark.parametrize(("g", "sigma2"), [(2.0, 0.0), (3.0, 0.0), (2.0, 0.5), (10.0, 0.0)])
def test_a_simulated_network_grows_as_theory_says(g, sigma2):
    N, transient, steps = 1000, 100, 500
    rng = np.random.default_rng(int(10 * g))
    W = rng.normal(size=(N, N)) * g / math.sqrt(N)
    a, tangent, logs = rng.normal(size=N), rng.normal(size=N), []
    for _ in range(transient + steps):
        h = np.tanh(a)
        tangent = W @ ((1 - h**2) * tangent)
        a = W @ h + rng.normal(size=N) * math.sqrt(sigma2)
        length = np.linalg.norm(tangent)
        tangent /= length
        logs.append(math.log(length))
    # N = 1000 lies below the limit by 0.003 to 0.008; 500 steps scatter by about 0.003.
    np.testing.assert_allclose(np.mean(logs[transient:]), meanfield(g, sigma2).lambda_1, rtol=0, atol=0.015)


def test_a_gradient_grows_on_its_way_back_as_theory_says():
    """The slope that the lab's gradient flow measures is lambda_1: same products, other end."""
    g, sigma2, H, T = 2.0, 0.5, 400, 150
    rng = np.random.default_rng(3)
    rnn = RNN(H, H, rng=0)
    rnn.params.flat[:] = 0.0
    rnn.params["weight_hh_l0"][:] = rng.normal(size=(H, H)) * g / math.sqrt(H)
    rnn.params["weight_ih_l0"][:] = np.eye(H) * math.sqrt(sigma2)
    flow = gradient_flow(rnn, rng.normal(size=(T, 6, H)), rng.normal(size=(6, H)))
    assert flow.verdict == "exploding"
    np.testing.assert_allclose(flow.slope, meanfield(g, sigma2).lambda_1, rtol=0, atol=0.015)


# ------------------------------------------------------------------------------------------------ products


def test_exponents_of_a_product_of_gaussian_matrices():
    N, steps = 10, 4000
    rng = np.random.default_rng(5)
    Q, logs = np.eye(N), np.empty((steps, N))
    for row in logs:
        Q, R = np.linalg.qr(rng.normal(size=(N, N)) / math.sqrt(N) @ Q)
        row[:] = np.log(np.abs(np.diag(R)))
    exponents, spread = gaussian_product_exponents(N), gaussian_product_spread(N)
    z = (logs.mean(axis=0) - exponents) / (spread / math.sqrt(steps))
    assert np.abs(z).max() < 4 and np.sqrt(np.mean(z**2)) < 1.8
    np.testing.assert_allclose(logs.std(axis=0), spread, rtol=0.06)  # five standard errors of a spread
    assert (np.diff(exponents) < 0).all()


def test_exponents_that_are_known():
    np.testing.assert_allclose(gaussian_product_exponents(10)[[0, -1]], [-0.05166, -1.78647], rtol=0, atol=5e-6)
    # The mean of ln |x| for a standard normal number.
    np.testing.assert_allclose(gaussian_product_exponents(1), [-(math.log(2) + np.euler_gamma) / 2], rtol=1e-14)
    # Of a large matrix: Newman's triangle law, lambda_i = 1/2 ln(1 - i/N).
    np.testing.assert_allclose(gaussian_product_exponents(2000)[1000], 0.5 * math.log(0.5), rtol=2e-3)


def test_the_sum_of_the_exponents_is_the_mean_log_determinant():
    N = 6
    matrices = np.random.default_rng(2).normal(size=(20000, N, N)) / math.sqrt(N)
    logs = np.linalg.slogdet(matrices)[1]
    z = (logs.mean() - gaussian_product_exponents(N).sum()) / (logs.std() / math.sqrt(len(logs)))
    assert abs(z) < 4
    # The entries of R are independent, so the variances add up.
    np.testing.assert_allclose(logs.var(), np.sum(gaussian_product_spread(N) ** 2), rtol=0.05)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("factors", [1, 2, 3])
def test_singular_values_of_a_product_follow_fuss_catalan(factors, tied):
    N = 600
    rng = np.random.default_rng(factors)
    matrices = [rng.normal(size=(N, N)) / math.sqrt(N) for _ in range(1 if tied else factors)]
    product = np.eye(N)
    for i in range(factors):
        product = matrices[i % len(matrices)] @ product
    squares = np.linalg.svd(product, compute_uv=False) ** 2
    np.testing.assert_allclose(squares.mean(), 1.0, rtol=0.03)
    np.testing.assert_allclose(squares.var(), fuss_catalan_variance(factors), rtol=0.08)
    np.testing.assert_allclose(squares.max(), fuss_catalan_edge(factors), rtol=0.08)


def test_the_edge_is_a_quotient_of_powers():
    for factors in (1, 2, 5, 50):
        exact = (factors + 1) ** (factors + 1) / factors**factors
        np.testing.assert_allclose(fuss_catalan_edge(factors), exact, rtol=16 * EPS)
    np.testing.assert_allclose(fuss_catalan_edge(10**6), math.e * (10**6 + 0.5), rtol=1e-12)


def test_what_the_theory_refuses():
    with pytest.raises(OptionError, match=r"meanfield: g must be greater than 0; got 0"):
        meanfield(0.0)
    with pytest.raises(OptionError, match=r"meanfield: sigma2 must be at least 0; got -0.1"):
        meanfield(2.0, -0.1)
    with pytest.raises(DTypeError, match=r"meanfield: sigma2 must be a number; got None"):
        meanfield(2.0, None)
    with pytest.raises(OptionError, match=r"critical_input_variance: g must be at least 1; got 0.9. Below"):
        critical_input_variance(0.9)
    with pytest.raises(OptionError, match=r"expectations: q must be at least 0; got -1"):
        expectations(-1.0)
    for function in (gaussian_product_exponents, gaussian_product_spread, fuss_catalan_edge, fuss_catalan_variance):
        with pytest.raises(OptionError, match=rf"{function.__name__}: (n|factors) must be at least 1; got 0"):
            function(0)
