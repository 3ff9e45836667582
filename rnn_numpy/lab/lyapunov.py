r"""Lyapunov exponents and covariant vectors: how fast states, and with them gradients, drift apart.

What is measured
----------------
Along a trajectory the states follow s_t = F(s_{t-1}, a_t), and a small difference v in s_{t-1} becomes J_t v with

    J_t = ds_t / ds_{t-1}   (S, S),        s = h, of an LSTM the pair (h, c), so S = 2H

After t steps it is J_t ... J_1 v. Almost every v grows like exp(lambda_1 t); a volume spanned by k of them grows like
exp((lambda_1 + ... + lambda_k) t) [1]_. A gradient goes back through the same product, transposed, so lambda_1 is also
what a gradient gains per step on a long way back: below 0 it vanishes, above 0 it explodes.

Multiplying the matrices out does not work: all columns turn towards the first direction, and the others are lost in
rounding. So the columns are made orthonormal again, after m steps [2]_:

    (Q1)  V     = J_t ... J_{t-m+1} Q_{t-m}
    (Q2)  Q_t R_t = V                                           QR decomposition, the diagonal of R_t positive
    (Q3)  lambda_i = mean of ln (R_t)_ii, divided by m

The order matters. J_t^T in forward order is no product of a trajectory at all: (J_2 J_1)^T = J_1^T J_2^T. The
exponents of J_1^T ... J_T^T, backward, are the same, which is why the slope of a gradient's norm is lambda_1.

*How many steps.* Exponents do not depend on m, but for rounding: R_t ... R_1 is the R of the whole product. Where no
`interval` is asked for, m follows what was seen: as many steps as leave the longest column at most 20 000 times as long
as the shortest R_kk, twice as many as before at most, and 16. GRUs, whose states leak, get by with a tenth of the
decompositions; where one step alone takes more, each step has one. Why 20 000: exponents of 60 to 100 steps then differ
by 4e-14 of themselves from those with a decomposition at each step, where these are as right; with 2000 by 1e-14,
with a million by 1e-12.

*How orthonormal.* For the same reason Q need not be orthonormal: any V T = Q with an upper triangular T will do whose
diagonal is known. R is T^-1, it need not be there, and what Q lacks comes back in R_{t+1}: only what the last one lacks
is left. So T is found by the inverses of Cholesky factors, of some columns at a time without their parts along those
before. The transient and the last step end with a QR decomposition, and so does each step in which R_kk is smaller than
a millionth of the longest column. Where a batch ends, see below, columns are given the length 1: between batches what Q
lacks goes from one mean to the next with its square alone.

What is left out at first, the transient, gives the states time to reach where they stay, and Q to turn.

*Standard errors.* Neighbouring growth rates along a trajectory are correlated, so the spread of single ones says
little. The series of each sequence is cut into up to 20 batches, and the error is that of the mean of independent batch
means [3]_. Beside it there is a bias that falls as 1/T, from the directions' first turn.

*Rounding.* V is known to about eps |V|, |V| being the length of its longest column, and R_kk is what remains of column
k without its parts along the columns before it: with a relative error of eps |V| / R_kk, or somewhat less. The mean of
this, per step, is the `rounding` of exponent k. It grows with m, and where the slopes of a saturated tanh
are tiny it is large in a single step. Above 1e-3 there is a warning.

*Two numbers of the spectrum.* With lambda_1 + ... + lambda_j >= 0 and the sum of j+1 negative, the Kaplan-Yorke
dimension is j + (lambda_1 + ... + lambda_j) / |lambda_{j+1}|: the number of dimensions of a ball that keeps its volume
[4]_. The entropy rate is the sum of the positive exponents, by Pesin's formula the information in nats per step that a
chaotic net makes of its unknown initial state [5]_.

*Stacks of layers.* A layer reads the one below and is not read by it, so the Jacobian of all states together is block
triangular, and its spectrum consists of the spectra of its blocks: those of each layer by itself, with the outputs of
the layers below as its input. `name` says which one.

Covariant vectors
-----------------
Q's columns are orthogonal by force; only the first is a direction of its own. The covariant vectors v^i, of unit
length, are all: J_t v^i_{t-1} is a multiple of v^i_t, forward and backward they grow at lambda_i. For a fixed matrix
they are its eigenvectors. With v_t = Q_t C_t, C_t upper triangular with columns of length 1 [6]_:

    (C1)  R_t C_{t-1} = C_t D_t          D_t diagonal, since J_t Q_{t-1} = Q_t R_t
    (C2)  C_{t-1} = R_t^{-1} C_t D_t     backward in time, where any C turns into the right one

so that the growth of v^i from t-1 to t is (D_t)_ii. The angle between two of them is small where directions of
growth and of decay nearly touch.

Where J_t comes from
--------------------
No formula of a cell stands here. Of a cell that works unit by unit but for W_hh, one gradient of ones for each state,
through its own `step_backward`, gives the J_t of many steps at once (`rnn_numpy.engine.unitwise`), and a step costs
little more than its product with V and the QR decomposition. Of others, rows of J_t are unit vectors sent through
`step_backward`. Columns, J_t V without J_t, are V sent through its `step_tangent`; or, where a cell has none, they are
the complex step of its `step_forward`. On one core, milliseconds for each step of one sequence, J_t by unit vectors:

    RNN   S = 16:  J_t 0.011;  J_t V 0.043 with 1 column, 0.049 with 16
    RNN   S = 64:  J_t 0.20;   J_t V 0.05 with 1, 0.10 with 64;        complex 0.23, 0.53
    RNN   S = 256: J_t 3.2;    J_t V 0.07 with 1, 0.37 with 64;        complex 0.50, 1.9
    LSTM  S = 128: J_t 1.0;    J_t V 0.12 with 1, 0.40 with 128;       complex 0.33, 2.7
    LSTM  S = 512: J_t 32;     J_t V 0.18 with 1, 2.4 with 128;        complex 2.2, 15

Hence "auto" of cells that do not work unit by unit: columns from N S^2 = 4096 on, else matrices; of a cell without
`step_tangent` columns from S = 128 on, where there are at most S / 4. Of those that do: columns from N S^2 = 4096 on
where there are at most S / 8, else matrices.

References
----------
.. [1] V. I. Oseledets, "A multiplicative ergodic theorem", Trans. Moscow Math. Soc. 19 (1968).
.. [2] G. Benettin, L. Galgani, A. Giorgilli, J.-M. Strelcyn, "Lyapunov characteristic exponents for smooth dynamical
   systems and for Hamiltonian systems", Meccanica 15 (1980).
.. [3] B. Schmeiser, "Batch size effects in the analysis of simulation output", Operations Research 30 (1982).
.. [4] J. L. Kaplan, J. A. Yorke, "Chaotic behavior of multidimensional difference equations" (1979).
.. [5] R. Engelken, F. Wolf, L. F. Abbott, "Lyapunov spectra of chaotic recurrent neural networks", arXiv:2006.02427
   (2020): both numbers for recurrent networks.
.. [6] F. Ginelli et al., "Characterizing dynamics with covariant Lyapunov vectors", Phys. Rev. Lett. 99 (2007).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.numbers import plain, row_norms
from rnn_numpy.core.states import mapped
from rnn_numpy.engine import Recurrent
from rnn_numpy.engine.forward_mode import TangentSteps
from rnn_numpy.engine.recorded import STEP, RecordedSteps
from rnn_numpy.engine.trace import Trace
from rnn_numpy.engine.unitwise import UnitMaps, unit_maps
from rnn_numpy.errors import DTypeError, NonFiniteError, OptionError, ShapeError
from rnn_numpy.lab.jacobians import rows_of_steps

Array = NDArray[Any]
Floats = NDArray[np.float64]
Product = Callable[[Floats], Floats]

PRODUCTS = ("auto", "matrix", "columns")
BATCHES = 20  # of one sequence, for standard errors
# Above this much per step, an exponent is called rounding.
ROUNDING = 1e-3
CHUNK = 2**20  # entries of one array, at most, that are in memory at once
MANY = 4096  # entries of a step's Jacobians from which on `step_tangent` is cheaper
FEW = 8  # times as many units as directions: from there on a Jacobian costs more than it is used for
APART = math.log(20000)  # how many times a column of V may be longer than R_kk, where that is chosen
FAR = math.log(1e100)  # how many times V may become longer or shorter
MOST = 16  # steps without a decomposition
LOOSE = 1e-6  # R_kk relative to the longest column, from which on V^T V has digits for it
RANGE = 1e100  # of lengths whose squares are numbers
PANEL = 16  # columns of Q that are found at once
TOGETHER = 64  # decompositions whose logarithms are taken in one call
CACHED = 2**17  # entries of the matrices that are made orthonormal together
_EPS = float(np.finfo(np.float64).eps)


# ----------------------------------------------------------------------------------------------------------- spectrum


@dataclass(frozen=True)
class LyapunovSpectrum:
    """Exponents per step, and how well they are known. The module docstring defines every number.

    Attributes
    ----------
    name : str
        The layer: "l0", "l1", ...
    size : int
        S, the number of units of all states.
    steps, transient, interval : int
        Steps that count; steps before them that do not; steps from one decomposition to the next, or the most there
        were.
    batch_means : ndarray, (B, N, k)
        Mean exponents of each batch of steps, sequence by sequence.
    spans : ndarray of int, (B,)
        Steps in each batch.
    rounding : ndarray, (k,)
        About how much of each exponent rounding may have changed.

    Examples
    --------
    >>> spectrum = LyapunovSpectrum("l0", 3, 100, 10, 1, np.array([[[0.5, 0.1, -0.8]]]), np.array([100]), np.zeros(3))
    >>> round(spectrum.kaplan_yorke, 12), round(spectrum.entropy_rate, 12)  # 2 + 0.6 / 0.8, 0.5 + 0.1
    (2.75, 0.6)
    """

    name: str
    size: int
    steps: int
    transient: int
    interval: int
    batch_means: Floats
    spans: NDArray[np.intp]
    rounding: Floats

    @functools.cached_property
    def per_sequence(self) -> Floats:
        """(N, k) exponents of each sequence."""
        return np.asarray(np.einsum("b,bnk->nk", self.spans / self.spans.sum(), self.batch_means))

    @functools.cached_property
    def exponents(self) -> Floats:
        """(k,) lambda_1, lambda_2, ..., per step; means over the sequences, in the order of Q's columns. -inf where
        rank is lost: a direction that some step sends to exactly 0."""
        return np.asarray(self.per_sequence.mean(axis=0))

    @functools.cached_property
    def standard_errors(self) -> Floats:
        """(k,) of the exponents, from the spread of the batch means; NaN where there is one batch alone, or -inf."""
        means = self.batch_means.reshape(-1, self.batch_means.shape[2])
        errors = np.full(means.shape[1], np.nan)
        usable = np.isfinite(means).all(axis=0)
        if len(means) > 1:
            errors[usable] = means[:, usable].std(axis=0, ddof=1) / math.sqrt(len(means))
        return errors

    @property
    def count(self) -> int:
        """k, the number of exponents."""
        return len(self.exponents)

    @property
    def kaplan_yorke(self) -> float | None:
        """The Kaplan-Yorke dimension; None where more exponents are needed to tell."""
        exponents = np.sort(self.exponents)[::-1]
        sums = np.cumsum(exponents)
        below = np.flatnonzero(sums < 0)
        if not below.size:
            return float(self.size) if self.count == self.size else None
        j = int(below[0])
        return j + (float(sums[j - 1] / -exponents[j]) if j else 0.0)

    @property
    def entropy_rate(self) -> float | None:
        """Sum of the positive exponents, in nats per step; None where those that were not computed may be positive."""
        if self.count < self.size and self.exponents.min() > 0:
            return None
        return float(self.exponents[self.exponents > 0].sum())

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python ones; what is not finite as None."""
        return {
            "layer": self.name,
            "state_size": self.size,
            "steps": self.steps,
            "transient": self.transient,
            "interval": self.interval,
            "sequences": len(self.per_sequence),
            "exponents": plain(self.exponents),
            "standard_errors": plain(self.standard_errors),
            "rounding": plain(self.rounding),
            "kaplan_yorke_dimension": self.kaplan_yorke,
            "entropy_rate": self.entropy_rate,
        }

    def __repr__(self) -> str:
        N, shown = len(self.per_sequence), min(self.count, 5)
        pairs = zip(self.exponents[:shown].tolist(), self.standard_errors[:shown].tolist(), strict=True)
        texts = [f"{value:.4g}" + ("" if math.isnan(error) else f" ± {error:.1g}") for value, error in pairs]
        dimension = "more exponents needed" if self.kaplan_yorke is None else f"{self.kaplan_yorke:.4g}"
        entropy = "more exponents needed" if self.entropy_rate is None else f"{self.entropy_rate:.4g} nats per step"
        return (
            f"LyapunovSpectrum of {self.name}: {self.count} of {self.size} exponents per step, {self.steps} steps "
            f"of {N} sequence{'s' if N > 1 else ''}\n"
            f"  {', '.join(texts)}{', ...' if shown < self.count else ''}\n"
            f"  Kaplan-Yorke dimension {dimension}, entropy rate {entropy}"
        )


def lyapunov(
    layer: Recurrent,
    x: ArrayLike,
    n_exponents: int | None = None,
    *,
    h_0: Any = None,
    name: str | None = None,
    transient: int | None = None,
    interval: int | None = None,
    products: str = "auto",
    rng: np.random.Generator | int | None = 0,
) -> LyapunovSpectrum:
    """Measure the Lyapunov exponents of a layer along the trajectories on which inputs lead it.

    Parameters
    ----------
    layer : Recurrent
        RNN, LSTM, GRU, or one of your own; one direction, since a reverse one has no next step to go to. Not modified;
        one in float32 is run in float64.
    x : ndarray, (T, N, D), or (N, T, D) where batch_first, or (T, D) for one sequence
        Inputs. For none, `np.broadcast_to(0.0, (T, N, D))` takes no memory: it is read in pieces.
    n_exponents : int, optional
        k, the first ones; all S of them where left out.
    h_0 : ndarray or tuple of ndarray, optional
        As in `layer.forward`.
    name : str, optional
        "l0", "l1", ...: which layer of a stack; the top one where left out.
    transient : int, optional
        Steps at the beginning that do not count; a tenth of T where left out.
    interval : int, optional
        Steps from one QR decomposition to the next; where left out, as many as cost no digits.
    products : {"auto", "matrix", "columns"}
        How J_t V is computed: from J_t out of `step_backward`, or out of `step_tangent`. Equal but for rounding; the
        module says which is faster when.
    rng : numpy.random.Generator, int or None
        Draws the first directions.

    Warns
    -----
    UserWarning
        Rounding may have changed an exponent by more than 0.001 per step.

    Notes
    -----
    Cost of each step and sequence: S columns of a backward step (or k of a tangent step), a product (S, S) with
    (S, k), and a decomposition of (S, k) as often as there is one. Memory does not grow with T: the layer runs in
    pieces, each from the last states of the one before.

    Examples
    --------
    An orthogonal matrix, states near 0: lengths are kept, all exponents are 0.

    >>> from rnn_numpy import RNN
    >>> from rnn_numpy.layers.initializers import initialize
    >>> rnn = RNN(1, 4, bias=False, rng=0)
    >>> initialize(rnn, weight_hh="orthogonal", rng=1)
    >>> spectrum = lyapunov(rnn, np.zeros((50, 1, 1)))
    >>> bool(np.abs(spectrum.exponents).max() < 1e-15)
    True

    A larger one, scaled by 3, away from 0, is chaotic:

    >>> rnn = RNN(1, 30, bias=False, rng=0)
    >>> initialize(rnn, weight_hh="orthogonal", gain=3.0, rng=1)
    >>> bool(lyapunov(rnn, np.zeros((400, 1, 1)), h_0=np.full((1, 1, 30), 0.5)).exponents[0] > 0.1)
    True
    """
    where = "lyapunov"
    walk = prepared(where, layer, x, h_0, name)
    T, S = walk.T, walk.S
    k = counted(where, "n_exponents", n_exponents, S)
    transient = transient_steps(where, T // 10 if transient is None else transient, T)
    if interval is not None:
        interval = arguments.positive_int(where, "interval", interval)
    arguments.one_of(where, "products", products, PRODUCTS)
    pace = Pace(T, transient, interval)
    sums, spans, rounding = np.zeros((pace.batches, walk.N, k)), np.diff(pace.ends), np.zeros(k)
    longest = 1
    walked = walk.decompositions(k, pace, products, arguments.generator(where, rng))
    counting = ((made.t, made.since, made.parts.numbers) for made in walked if made.t > transient)
    while some := list(itertools.islice(counting, TOGETHER)):
        t, since, numbers = zip(*some, strict=True)
        diagonals, own, lengths = map(np.array, zip(*numbers, strict=True))
        longest = max(longest, *since)
        with np.errstate(divide="ignore"):
            np.add.at(sums, list(map(pace.batch, t)), np.log(diagonals))
        rounding += np.minimum(_EPS * lengths[:, :, None] / own, 1).mean(axis=1).sum(axis=0)
    rounding /= T - transient
    longest = longest if interval is None else interval
    spectrum = LyapunovSpectrum(
        walk.name, S, T - transient, transient, longest, sums / spans[:, None, None], spans, rounding
    )
    lost = rounding > ROUNDING
    if lost.any():
        first = int(lost.argmax())
        advice = f"set interval below {longest}, or" if longest > 1 else "single steps do that:"
        warnings.warn(
            f"{where}: exponent {first + 1} may be off by {rounding[first]:.0e} per step from rounding, since "
            f"directions shrink too far between two QR decompositions; {advice} ask for n_exponents = {max(1, first)}",
            UserWarning,
            stacklevel=2,
        )
    return spectrum


# -------------------------------------------------------------------------------------------------- covariant vectors


@dataclass(frozen=True)
class CovariantVectors:
    """Covariant Lyapunov vectors along trajectories.

    Attributes
    ----------
    name : str
        The layer.
    first : int
        Row 0 of `vectors` belongs to the states after this many steps.
    vectors : ndarray, (W+1, N, S, k)
        Column i is v^i, of unit length.
    growth : ndarray, (W, N, k)
        ln |J v^i| from each row of `vectors` to the next.
    """

    name: str
    first: int
    vectors: Floats
    growth: Floats

    @property
    def exponents(self) -> Floats:
        """(k,) mean growth per step: the Lyapunov exponents of these steps."""
        return np.asarray(self.growth.mean(axis=(0, 1)))

    def angle(self, i: int, j: int) -> Floats:
        """Return the angle between the lines of v^i and v^j, (W+1, N), from 0 to pi/2; i and j count from 0.

        From the lengths of u - v and u + v, right to the last digits near 0 as well, where the cosine is not.
        """
        u, v = (self.vectors[..., self._checked("angle", name, index)] for name, index in (("i", i), ("j", j)))
        lengths = np.sort([np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1)], axis=0)
        return np.asarray(2 * np.arctan2(lengths[0], lengths[1]))

    def smallest_angle(self, m: int) -> Floats:
        """Return the smallest angle between the span of v^1 ... v^m and that of the others, (W+1, N).

        1 <= m < k; say the number of positive exponents.
        """
        k = self.vectors.shape[3]
        m = arguments.positive_int("smallest_angle", "m", m)
        if m >= k:
            raise OptionError(f"smallest_angle: m must be smaller than the number of vectors, k = {k}; got {m}")
        leading, rest = np.linalg.qr(self.vectors[..., :m])[0], np.linalg.qr(self.vectors[..., m:])[0]
        cosines = leading.swapaxes(-1, -2) @ rest
        # The sine of the smallest angle needs the part of `rest` that is orthogonal to all of `leading`.
        sine = np.linalg.svd(rest - leading @ cosines, compute_uv=False)[..., -1]
        cosine = np.linalg.svd(cosines, compute_uv=False)[..., 0]
        return np.asarray(np.arctan2(sine, cosine))

    def _checked(self, where: str, name: str, index: int) -> int:
        k = self.vectors.shape[3]
        index = arguments.integer(where, name, index)
        if not 0 <= index < k:
            raise OptionError(f"{where}: {name} must be from 0 to k - 1 = {k - 1}; got {index}")
        return index

    def __repr__(self) -> str:
        W, (N, S, k) = len(self.growth), self.vectors.shape[1:]
        return f"CovariantVectors of {self.name}: {k} of {S}, {N} sequence{'s' if N > 1 else ''}, {W} steps"


def covariant_vectors(
    layer: Recurrent,
    x: ArrayLike,
    n_vectors: int | None = None,
    *,
    h_0: Any = None,
    name: str | None = None,
    transient: int | None = None,
    settling: int | None = None,
    rng: np.random.Generator | int | None = 0,
) -> CovariantVectors:
    """Compute the covariant Lyapunov vectors of a layer along trajectories.

    Parameters
    ----------
    layer, x, h_0, name
        As in `lyapunov`.
    n_vectors : int, optional
        k, the first ones; all S where left out.
    transient : int, optional
        Steps at the beginning, for Q to turn; a quarter of T where left out.
    settling : int, optional
        Steps at the end, for C to turn on the way back; a quarter of T where left out.
    rng : numpy.random.Generator, int or None
        Draws the first directions, and the last C.

    Returns
    -------
    CovariantVectors
        Of the W = T - transient - settling steps between.

    Raises
    ------
    NonFiniteError
        A step sends a direction to exactly 0, so that there is no way back; or numbers leave the range of floats.

    Notes
    -----
    Memory: (W N S k + (W + settling) N k^2) numbers; Q is not kept where C still settles. A QR decomposition at every
    step.

    Examples
    --------
    Near 0, a tanh net is its matrix, and the vectors are its eigenvectors:

    >>> from rnn_numpy import RNN
    >>> rnn = RNN(1, 2, bias=False, rng=0)
    >>> rnn.params["weight_hh_l0"] = [[0.5, 1.0], [0.0, 0.25]]
    >>> vectors = covariant_vectors(rnn, np.zeros((200, 1, 1)))
    >>> vectors.vectors[0, 0].round(6) * np.sign(vectors.vectors[0, 0, 0])  # (1, 0) and (4, -1) / sqrt(17)
    array([[ 1.      ,  0.970143],
           [ 0.      , -0.242536]])
    """
    where = "covariant_vectors"
    walk = prepared(where, layer, x, h_0, name)
    T, N, S = walk.T, walk.N, walk.S
    k = counted(where, "n_vectors", n_vectors, S)
    transient = T // 4 if transient is None else arguments.step_count(where, "transient", transient)
    settling = T // 4 if settling is None else arguments.step_count(where, "settling", settling)
    W = T - transient - settling
    if W < 1:
        raise OptionError(
            f"{where}: transient + settling must be smaller than T = {T}, the steps of x; got {transient} + {settling}"
        )
    generator = arguments.generator(where, rng)
    vectors, triangles = np.empty((W + 1, N, S, k)), np.empty((T - transient, N, k, k))
    for made in walk.decompositions(k, Pace(T, transient, 1), "auto", generator):
        t, Q, R = made.t, made.parts.Q, made.parts.R
        if 0 <= t - transient <= W:
            vectors[t - transient] = Q
        if t > transient and R is not None:  # with an interval of 1 each is exact
            if not np.diagonal(R, axis1=1, axis2=2).all():
                lost = int(np.argwhere(np.diagonal(R, axis1=1, axis2=2) == 0)[:, 1].min())
                raise NonFiniteError(
                    f"{where}: step {t} sends direction {lost + 1} to exactly 0, and nothing leads back; "
                    f"ask for n_vectors = {lost}, or none if that is 0"
                )
            triangles[t - transient - 1] = R
    C = np.triu(generator.standard_normal((N, k, k)))
    C /= np.linalg.norm(C, axis=1, keepdims=True)
    growth = np.empty((W, N, k))
    for row in reversed(range(T - transient)):
        if row == W - 1:
            vectors[W] = vectors[W] @ C
        C = np.linalg.solve(triangles[row], C)  # C2; D is the inverse of the lengths
        lengths = np.linalg.norm(C, axis=1)
        C /= lengths[:, None]
        if row < W:
            growth[row] = -np.log(lengths)
            vectors[row] = vectors[row] @ C
    return CovariantVectors(walk.name, transient, vectors, growth)


# ---------------------------------------------------------------------------------------------------------- the walk


def positive_qr(V: Floats) -> tuple[Floats, Floats]:
    """Return Q, R of V, (..., S, k), with a diagonal of R that is not negative: the decomposition is then unique.

    >>> Q, R = positive_qr(np.array([[-2.0, 1.0], [0.0, -3.0]]))
    >>> R + 0.0
    array([[ 2., -1.],
           [ 0.,  3.]])
    """
    Q, R = np.linalg.qr(V)
    signs = np.where(np.diagonal(R, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    Q *= signs[..., None, :]
    R *= signs[..., :, None]
    return Q, R


class Loosener:
    """Room in which columns are made independent again: V T for an upper triangular T, whose diagonal is known.

    Which T makes no difference, and so it is the cheapest: of each panel the inverse of its Cholesky factor, out of one
    factor of [[G, I], [I, large]], without the parts along the panels before. Columns of V T are orthonormal to about
    eps times the square of V's condition; with R = T^-1, Q R = V to the rounding of V itself.
    """

    def __init__(self, N: int, k: int, S: int) -> None:
        double = np.dtype(np.float64)
        panel = min(k, PANEL if N > 1 else 2 * PANEL)  # of one sequence, calls cost more than what they do
        self.some = max(1, min(N, CACHED // max(1, S * k)))  # sequences
        self.panels = [slice(start, min(start + panel, k)) for start in range(0, k, panel)]
        self.Q = memory.empty((N, S, k), double)
        self.rooms = {place.stop - place.start: _room(self.some, place.stop - place.start) for place in self.panels}

    def __call__(self, V: Floats, unit: bool = False) -> Decomposed | None:
        """Return Q, in memory that the next call writes over, and R's diagonal; None where V^T V has no digits for it.

        With `unit` columns have length 1 to rounding: the diagonal is that of an orthonormal Q, but for the square of
        what Q lacks.

        >>> V = np.random.default_rng(0).normal(size=(1, 40, 40))
        >>> found = Loosener(1, 40, 40)(V)
        >>> bool(np.allclose(found.Q[0].T @ found.Q[0], np.eye(40), rtol=0, atol=1e-10))
        True
        >>> bool(np.allclose(found.diagonal[0], np.diagonal(positive_qr(V[0])[1]), rtol=1e-10))
        True
        """
        squares, diagonal = _squares(V).max(axis=1).tolist(), np.empty((len(V), V.shape[2]))
        try:
            for start in range(0, len(V), self.some):
                some = slice(start, start + self.some)
                self._columns(V[some], self.Q[some], diagonal[some])
        except np.linalg.LinAlgError:
            return None
        least, longest = diagonal.min(axis=1).tolist(), list(map(math.sqrt, squares))
        # NaN is not within.
        within = [1 / RANGE < far < RANGE and own >= LOOSE * far for own, far in zip(least, longest, strict=True)]
        if not all(within):
            return None
        if unit:
            lengths = np.sqrt(_squares(self.Q))
            self.Q /= lengths[:, None]
            diagonal *= lengths
        return Decomposed(self.Q, diagonal, diagonal, least, longest)

    def _columns(self, V: Floats, Q: Floats, diagonal: Floats) -> None:
        for place in self.panels:
            panel, p = V[:, :, place], place.stop - place.start
            if place.start:
                before = Q[:, :, : place.start]
                panel = panel - before @ (before.swapaxes(1, 2) @ panel)
            room = self.rooms[p][: len(V)]
            np.matmul(panel.swapaxes(1, 2), panel, out=room[:, :p, :p])
            factor = np.linalg.cholesky(room)  # below L, the transpose of its inverse
            np.matmul(panel, factor[:, p:, :p], out=Q[:, :, place])
            diagonal[:, place] = factor.diagonal(0, 1, 2)[:, :p]


def _squares(V: Floats) -> Floats:
    rows = V.swapaxes(1, 2)
    return np.asarray(np.vecdot(rows, rows))


def _room(n: int, k: int) -> Floats:
    room, unit = np.zeros((n, 2 * k, 2 * k)), np.arange(k)
    room[:, k + unit, unit], room[:, k + unit, k + unit] = 1, RANGE**2
    return room


class Decomposed(NamedTuple):
    """Q with Q R = V, (N, S, k), and what is wanted of R.

    That is its diagonal, (N, k); `own`, the same but at least eps of each column of V, and infinite where that is 0;
    of each sequence the `least` of the diagonal and the length of V's `longest` column; and R itself where Q is
    orthonormal to rounding.
    """

    Q: Floats
    diagonal: Floats
    own: Floats
    least: list[float]
    longest: list[float]
    R: Floats | None = None

    @classmethod
    def exactly(cls, V: Floats) -> Decomposed:
        """Return the QR decomposition of V."""
        Q, R = positive_qr(V)
        diagonal, lengths = np.diagonal(R, axis1=1, axis2=2), row_norms(R, 1)
        # A column that is 0 is so exactly; one whose own part is 0 has lost it to rounding.
        own = np.where(lengths == 0, np.inf, np.maximum(diagonal, _EPS * lengths))
        return cls(Q, diagonal.copy(), own, diagonal.min(axis=1).tolist(), lengths.max(axis=1).tolist(), R)

    @property
    def numbers(self) -> tuple[Floats, Floats, list[float]]:
        """What is kept of it: diagonal, own, longest."""
        return self.diagonal, self.own, self.longest


class Made(NamedTuple):
    """A decomposition after t steps, `since` of them after the one before."""

    t: int
    since: int
    parts: Decomposed


class Pace:
    """The steps after which V is made orthonormal: every `interval` ones, or as many as cost no digits.

    Steps that count are cut into `batches`; a batch ends with a decomposition, and so does the transient: after the
    steps `ends`, the first of them the transient's last.
    """

    def __init__(self, T: int, transient: int, interval: int | None) -> None:
        self.T, self.transient, self.interval = T, transient, interval
        every = interval or 1
        intervals = -(-(T - transient) // every)
        self.batches = max(1, min(BATCHES, math.isqrt(intervals)))
        ends = [-(-batch * intervals // self.batches) * every for batch in range(self.batches + 1)]
        self.ends = [min(T, transient + end) for end in ends]

    def batch(self, t: int) -> int:
        """Return the batch of the decomposition after step t."""
        return bisect.bisect_left(self.ends, t) - 1

    def end(self, t: int) -> int:
        """Return the next end after step t, or T."""
        return self.ends[min(bisect.bisect_right(self.ends, t), self.batches)]

    def after(self, t: int, last: Made | None) -> int:
        """Return the step after which the next decomposition is due, t steps being done; `last` is the one before."""
        if self.interval is not None:
            return min(self.T, t + 1 + (self.transient - t - 1) % self.interval)
        return min(self.end(t), t + _steps(last))


def _steps(last: Made | None) -> int:
    if last is None:
        return 1
    since, least, longest = last.since, last.parts.least, last.parts.longest
    if not since or not all(least):
        return 1
    apart = math.log(max(map(operator.truediv, longest, least))) / since
    moved = max(abs(math.log(min(least))), abs(math.log(max(longest)))) / since
    return max(1, int(min(MOST, 2 * since, APART / max(apart, 1e-9), FAR / max(moved, 1e-9))))


class Columns:
    """Columns V after t steps, on their way; the last decomposition says when the next one is due."""

    def __init__(self, where: str, pace: Pace, Q: Floats) -> None:
        self.where, self.pace = where, pace
        self.loose = Loosener(len(Q), Q.shape[2], Q.shape[1]) if pace.interval is None else None
        self.t, self.V, self.begun, self.due = 0, Q, 0, pace.after(0, None)

    def along(self, products: Iterable[Product], until: int) -> Iterator[Made]:
        """Multiply by J_t of the steps up to `until`; yield the decompositions, also one that is due after the last."""
        products = iter(products)
        while self.t < until:
            stop = min(self.due, until)
            with np.errstate(over="ignore", invalid="ignore"):
                for product in itertools.islice(products, stop - self.t):
                    self.V = product(self.V)
            self.t = stop
            if stop == self.due:
                yield self.decomposed()

    def decomposed(self) -> Made:
        """Make V independent columns again: Q1 and Q2. Q belongs to this step: the next ones may write over it."""
        pace, t, V = self.pace, self.t, self.V
        found: Decomposed | None = None
        if self.loose is not None and t not in (pace.transient, pace.T):
            with np.errstate(over="ignore", invalid="ignore"):
                found = self.loose(V, unit=t in pace.ends)
        if found is None:
            if not np.isfinite(V).all():
                raise NonFiniteError(
                    f"{self.where}: directions leave the range of floats before step {t}; "
                    f"set interval below {t - self.begun}"
                )
            found = Decomposed.exactly(V)
        made = Made(t, t - self.begun, found)
        self.V, self.begun, self.due = found.Q, t, pace.after(t, made)
        return made


@dataclass(frozen=True)
class Walk:
    """A layer on its way along inputs, in pieces of steps; `prepared` makes it of a caller's arguments.

    `where` is the function that was called, for messages; `layer` a twin in float64, time first; x (T, N, D); `name`
    the layer of the stack that is measured; S the number of units of all its states.
    """

    where: str
    layer: Recurrent
    x: Array
    h_0: Any
    name: str
    S: int

    @property
    def T(self) -> int:
        """The number of steps."""
        return len(self.x)

    @property
    def N(self) -> int:
        """The number of sequences."""
        return int(self.x.shape[1])

    def pieces(self) -> Iterator[tuple[int, RecordedSteps]]:
        """Yield (first step, steps) piece by piece; each begins with the last states of the one before."""
        width = max(1, self.N * len(self.layer.cell.slabs) * self.layer.hidden_size * self.layer.num_layers)
        size = max(1, min(1024, CHUNK // width))
        states = self.h_0
        for start in range(0, self.T, size):
            piece = self.x[start : start + size].astype(np.float64)
            with np.errstate(over="ignore", invalid="ignore"):  # looked at just below
                _, states, trace = self.layer.forward(piece, states, training=False)
            self._finite(trace, start)
            yield start, RecordedSteps(self.layer, trace, self.name)

    def _finite(self, trace: Trace, start: int) -> None:
        run = trace.layers[self.name]
        for state in self.layer.cell.states:
            rows = np.isfinite(run.arrays[state]).all(axis=(1, 2))
            if not rows.all():
                raise NonFiniteError(
                    f"{self.where}: {state} of {self.name} is not finite after {start + int(rows.argmin())} steps: the "
                    "trajectory leaves the range of floats, or x does"
                )

    def products(self, steps: RecordedSteps, k: int, kind: str) -> Iterator[Product]:
        """Yield the function V -> J_t V, for (N, S, k), of one step after the other."""
        S, tangent = self.S, steps.cell.has_tangent
        few = kind == "auto" and self.N * S**2 >= MANY and FEW * k <= S
        maps: UnitMaps | None = None
        if kind != "columns" and not (few and tangent):
            maps = unit_maps(steps, *np.divmod(np.arange(steps.T * self.N), self.N))
        if maps is not None:
            yield from maps.products(self.N)
            return
        if kind == "auto":
            cheaper = self.N * S**2 >= MANY if tangent else S >= 128 and 4 * k <= S
            kind = "columns" if cheaper else "matrix"
        if kind == "columns":
            push = pusher(steps, k)
            for t in range(steps.T):
                yield functools.partial(push, t)
        else:
            size = max(1, CHUNK // (self.N * S * max(S, steps.A)))
            for low in range(0, steps.T, size):
                for J in rows_of_steps(steps, np.arange(low, min(low + size, steps.T))):
                    yield functools.partial(np.matmul, J)

    def decompositions(self, k: int, pace: Pace, kind: str, generator: np.random.Generator) -> Iterator[Made]:
        """Yield Q1 and Q2; first Q_0 and I, after no step. Q belongs to its step: the next may write over it."""
        # Column after column, so that the first ones are the same whatever k is.
        Q = generator.standard_normal((k, self.N, self.S)).transpose(1, 2, 0)
        made = Made(0, 0, Decomposed.exactly(Q))
        yield made
        columns = Columns(self.where, pace, made.parts.Q)
        for start, steps in self.pieces():
            yield from columns.along(self.products(steps, k, kind), start + steps.T)


def pusher(steps: RecordedSteps, k: int) -> Callable[[int, Floats], Floats]:
    """Return the function (t, V) -> J_t V, for V (N, S, k), of a layer in float64 whose sequences have all steps.

    It runs the cell's `step_tangent`; of a cell that has none, the complex step of `step_forward`.
    """
    N, S, cell = steps.N, steps.S, steps.cell
    if cell.has_tangent:
        tangents = TangentSteps(steps, k)

        def moved(t: int, rows: Floats) -> Array:
            return np.concatenate(tangents.step(t, tangents.begin(steps.split(rows))), axis=1)

    else:
        states, n = steps.states("before"), np.repeat(np.arange(N), k)

        def moved(t: int, rows: Floats) -> Array:
            # Columns with entries up to 1: the complex step of a long one would be no small step.
            lengths = np.abs(rows).max(axis=1, keepdims=True)
            unit = rows / np.where(lengths > 0, lengths, 1)
            pushed = steps.evaluate(np.full(N * k, t), n, states[t, n] + 1j * STEP * unit)
            return np.asarray(pushed.imag / STEP * lengths)

    def push(t: int, V: Floats) -> Floats:
        return moved(t, V.swapaxes(1, 2).reshape(N * k, S)).reshape(N, k, S).swapaxes(1, 2)

    return push


def prepared(where: str, layer: Recurrent, x: ArrayLike, h_0: Any, name: str | None) -> Walk:
    """Check the arguments that all functions here share, and make a twin of the layer in float64, time first."""
    if not isinstance(layer, Recurrent):
        raise DTypeError(f"{where}: layer must be a recurrent layer, RNN, LSTM, GRU; got {type(layer).__name__}")
    if layer.bidirectional:
        raise OptionError(
            f"{where}: layer must have one direction; got a bidirectional {type(layer).__name__}. Take one of "
            "them, with rnn_numpy.interop.one_direction, the reverse one for reversed sequences"
        )
    if layer.dtype.kind == "c":
        raise DTypeError(f"{where}: layer must have real parameters; got dtype {layer.dtype}")
    names = [f"l{number}" for number in range(layer.num_layers)]
    name = names[-1] if name is None else name
    arguments.one_of(where, "name", name, names)
    array = arguments.as_array(where, "x", x)
    if array.dtype.kind not in "biuf":
        raise DTypeError(f"{where}: x must hold real numbers; got dtype {array.dtype}")
    D, symbols = layer.input_size, "(N, T, D)" if layer.batch_first else "(T, N, D)"
    if array.ndim not in (2, 3) or array.shape[-1] != D:
        raise ShapeError(
            f"{where}: x must be {symbols}, or (T, D) for one sequence, with D = input_size = {D}; got {array.shape}"
        )
    unbatched = array.ndim == 2
    array = array[:, None] if unbatched else array.swapaxes(0, 1) if layer.batch_first else array
    if 0 in array.shape[:2]:
        raise ShapeError(
            f"{where}: x must have at least one step and one sequence; got T = {len(array)}, N = {array.shape[1]}"
        )
    twin = layer.astype(np.float64)
    twin.batch_first = False
    if h_0 is not None:
        # Their shapes are checked by the layer itself.
        h_0 = mapped(lambda part: np.asarray(part, np.float64), h_0)
        if unbatched:
            h_0 = mapped(lambda part: part[:, None] if part.ndim == 2 else part, h_0)
    S = sum(layer.width(state) for state in layer.cell.states)
    return Walk(where, twin, array, h_0, name, S)


def transient_steps(where: str, value: int, T: int) -> int:
    """Return a number of first steps that do not count: fewer than all."""
    transient = arguments.step_count(where, "transient", value)
    if transient >= T:
        raise OptionError(f"{where}: transient must be smaller than T = {T}, the steps of x; got {transient}")
    return transient


def counted(where: str, name: str, value: int | None, S: int) -> int:
    """Return a number of directions: all S where it is left out."""
    if value is None:
        return S
    k = arguments.positive_int(where, name, value)
    if k > S:
        raise OptionError(f"{where}: {name} must be at most S = {S}, the number of units of all states; got {k}")
    return k
