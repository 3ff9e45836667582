r"""What theory says of a large random network: its Lyapunov exponent, and the singular values of products of matrices.

Mean field
----------
A tanh network in its pre-activations, driven by noise that differs at each step,

    a_t = W tanh(a_{t-1}) + xi_t,   W_ij ~ N(0, g^2/N),   xi ~ N(0, sigma2)

looks, as N grows, as if each unit were a Gaussian number of its own, of one variance q [1]_:

    (M1)  q = g^2 E[tanh^2(sqrt(q) z)] + sigma2                 z ~ N(0, 1)
    (M2)  lambda_1 = 1/2 ln(g^2 E[sech^4(sqrt(q) z)])

lambda_1 is the growth per step of a small difference between two states; and of a gradient on its way back, which meets
the same Jacobians in the other order: the slope of its log norm. Without noise q = 0 for g <= 1, where
lambda_1 = ln g; above, the network is chaotic, at first faintly: lambda_1 = 2/3 (g - 1)^2. Noise saturates units, so it
calms: at `critical_input_variance(g)` lambda_1 is 0.

A trap
------
The textbook's way to such expectations, Gauss-Hermite quadrature, places its nodes for a function that is smooth on the
scale of z. sech^4(sqrt(q) z) is a peak of width 1/sqrt(q), and at g = 10 it falls between them: with 101 nodes lambda_1
is wrong by 47 %, without a warning. Here the sum runs over an even grid in a = sqrt(q) z, fine on the scale of the
peak, however large q is. Such a sum (the trapezoidal rule on a whole line) converges exponentially for functions that
are analytic near it [2]_: tanh is up to |Im a| < pi/2, so a step of 0.2 leaves e^(-pi^2/0.2) = 4e-22.

Products of random matrices
---------------------------
Of a product of L independent matrices with N(0, 1/N) entries, as L grows, the logarithms of the singular values per
factor [3]_ are

    lambda_i = 1/2 (ln(2/N) + psi((N - i + 1)/2)),   psi the digamma function            i = 1 ... N

And as N grows, with L fixed, the squared singular values follow the Fuss-Catalan law [4]_: mean 1, variance L, largest
(L+1)^(L+1)/L^L. A tied product, W^L, has the same limits.

References
----------
.. [1] L. Molgedey, J. Schuchhardt, H. G. Schuster, "Suppressing chaos in neural networks by noise", Physical Review
   Letters 69, 3717 (1992).
.. [2] L. N. Trefethen, J. A. C. Weideman, "The exponentially convergent trapezoidal rule", SIAM Review 56 (2014),
   theorem 5.1.
.. [3] C. M. Newman, "The distribution of Lyapunov exponents: exact results for random matrices", Communications in
   Mathematical Physics 103 (1986).
.. [4] K. A. Penson, K. Zyczkowski, "Product of Ginibre matrices: Fuss-Catalan and Raney distributions", Physical Review
   E 83, 061118 (2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import OptionError
from rnn_numpy.lab.gates import sech2

Floats = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
# Of the grid; |z| up to 9 holds all but 2e-19 of a Gaussian, and sech^2(a) is below 2e-17 from |a| = 20 on.
STEP, LAST_Z, LAST_A = 0.2, 9.0, 20.0


@dataclass(frozen=True)
class MeanField:
    """A stationary state of the mean-field theory.

    Parameters
    ----------
    g, sigma2 : float
        Gain and input variance.
    q : float
        Variance of a pre-activation.
    lambda_1 : float
        The largest Lyapunov exponent, per step.
    """

    g: float
    sigma2: float
    q: float
    lambda_1: float

    @property
    def chaotic(self) -> bool:
        """True where small differences grow, and gradients explode."""
        return self.lambda_1 > 0


def meanfield(g: float, sigma2: float = 0.0) -> MeanField:
    """Solve the mean-field theory of a tanh network, M1 and M2 of the module.

    Parameters
    ----------
    g : float
        Gain, greater than 0: the standard deviation of a weight is g/sqrt(N).
    sigma2 : float
        Variance of the input to a unit, at least 0.

    Notes
    -----
    For N to infinity. Networks of 1000 units have a lambda_1 that is smaller by 0.01 or less.

    Examples
    --------
    >>> for g, sigma2 in ((2, 0), (3, 0), (2, 0.5), (10, 0)):
    ...     print(f"{g:2} {sigma2:3} {meanfield(g, sigma2).lambda_1:.4f}")
     2   0 0.1547
     3   0 0.3102
     2 0.5 0.0920
    10   0 0.8564
    """
    where = "meanfield"
    g, sigma2 = arguments.positive_number(where, "g", g), arguments.not_negative(where, "sigma2", sigma2)
    if sigma2 == 0 and g <= 1:
        return MeanField(g, sigma2, 0.0, math.log(g))
    # The right side of M1 over the left falls as q rises. tanh^2(a) >= a^2 - 2/3 a^4 and <= min(1, a^2) bracket it.
    low = max(sigma2, (1 - g**-2) / 2 if g > 1 else 0.0)
    high = min(g**2 + sigma2, sigma2 / (1 - g**2) if g < 1 else math.inf)
    q = _root(lambda q: (g**2 * expectations(q)[0] + sigma2) / q - 1, low, high)
    return MeanField(g, sigma2, q, 0.5 * math.log(g**2 * expectations(q)[1]))


def critical_input_variance(g: float) -> float:
    """Return the input variance at which lambda_1 is 0: less is chaos, more is calm.

    Parameters
    ----------
    g : float
        At least 1. Below 1 there is no such variance: lambda_1 is negative without input, and more so with it.

    Notes
    -----
    M2 with lambda_1 = 0 gives q, and M1 then sigma2 = q - g^2 E[tanh^2]. Next to g = 1, where that is 4/3 (g - 1)^3,
    digits cancel: of g = 1.0001 eight are left.

    Examples
    --------
    >>> print(f"{critical_input_variance(2.0):.4f}")
    1.6360
    """
    where = "critical_input_variance"
    g = arguments.real_number(where, "g", g)
    if g < 1:
        raise OptionError(f"{where}: g must be at least 1; got {g}. Below, no input variance makes lambda_1 = 0")
    if g == 1:
        return 0.0
    # E[sech^4] falls as q rises, and is below the integral of sech^4, 4/3, times the Gaussian's largest value.
    high = (g**2 * 4 / 3) ** 2 / (2 * math.pi)
    q = _root(lambda q: g**2 * expectations(q)[1] - 1, 0.0, high)
    return max(q - g**2 * expectations(q)[0], 0.0)


def expectations(q: float) -> tuple[float, float]:
    """Return E[tanh^2(sqrt(q) z)] and E[sech^4(sqrt(q) z)] for a standard Gaussian z.

    91 or 201 nodes; an error of a few units in the last place, of either number.

    >>> tanh2, sech4 = expectations(1.0)
    >>> print(f"{tanh2:.6f} {sech4:.6f}")
    0.394294 0.464403
    """
    width = math.sqrt(arguments.not_negative("expectations", "q", q))
    if width <= 1:
        nodes = _grid(LAST_Z)
        weights = STEP * np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi)
        a = width * nodes
        return float(weights @ np.tanh(a) ** 2), float(weights @ sech2(a) ** 2)
    a = _grid(LAST_A)
    weights = STEP * np.exp(-((a / width) ** 2) / 2) / math.sqrt(2 * math.pi) / width
    slopes = sech2(a)
    # The mean of tanh^2 is above 0.39 here, so that the difference costs nothing.
    return 1 - float(weights @ slopes), float(weights @ slopes**2)


def _grid(last: float) -> Floats:
    count = round(last / STEP)
    return STEP * np.arange(-count, count + 1.0)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the zero of a falling function, or a bound where rounding hides that it lies between."""
    # Next to g = 1 the zero is so close to its bound that the function's sign there is rounding.
    if function(low) <= 0:
        return low
    if function(high) >= 0:
        return high
    optimize = optional_import("scipy.optimize", "mean-field theory")
    return float(optimize.brentq(function, low, high, xtol=EPS * low + 1e-300, rtol=4 * EPS, maxiter=1000))


def gaussian_product_exponents(n: int) -> Floats:
    """Return the n Lyapunov exponents, per factor, of a product of independent n x n matrices with N(0, 1/n) entries.

    Exact for each n, not only a limit. The logarithm of a diagonal entry of R, as QR yields it factor after factor, has
    this mean: half that of ln(chi^2/n), with n - i + 1 degrees of freedom, and `gaussian_product_spread` as its
    standard deviation.

    Examples
    --------
    >>> gaussian_product_exponents(10)[[0, -1]].round(5)
    array([-0.05166, -1.78647])
    """
    n = arguments.positive_int("gaussian_product_exponents", "n", n)
    digamma = optional_import("scipy.special", "the exponents of random products").digamma
    return np.asarray(0.5 * (math.log(2 / n) + digamma((n - np.arange(n)) / 2)))


def gaussian_product_spread(n: int) -> Floats:
    """Return the standard deviation of the i-th exponent's estimate from a single factor, for i = 1 ... n.

    Over the root of the number of factors it is the standard error of an estimate from so many, exactly, since the
    factors' contributions are independent.

    Examples
    --------
    >>> gaussian_product_spread(10)[[0, -1]].round(4)
    array([0.2352, 1.1107])
    """
    n = arguments.positive_int("gaussian_product_spread", "n", n)
    polygamma = optional_import("scipy.special", "the exponents of random products").polygamma
    return np.asarray(0.5 * np.sqrt(polygamma(1, (n - np.arange(n)) / 2)))


def fuss_catalan_edge(factors: int) -> float:
    """Return the largest squared singular value of a product of L large matrices with N(0, 1/N) entries.

    It is (L+1)^(L+1)/L^L: about e (L + 1/2).

    Examples
    --------
    >>> fuss_catalan_edge(1), fuss_catalan_edge(2)
    (4.0, 6.75)
    """
    L = arguments.positive_int("fuss_catalan_edge", "factors", factors)
    # Not as two powers, which are too large for a float from L = 143 on.
    return (L + 1) * math.exp(L * math.log1p(1 / L))


def fuss_catalan_variance(factors: int) -> float:
    """Return the variance, L, of the squared singular values of such a product of L matrices; their mean is 1.

    So the singular values of a product spread although each of its factors keeps lengths on average.
    """
    return float(arguments.positive_int("fuss_catalan_variance", "factors", factors))
