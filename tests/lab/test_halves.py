"""Jacobians in two halves: the R of the whole, in extended precision; where they cannot be told apart, the whole."""

from unittest import mock

import numpy as np
import pytest

from rnn_numpy import GRU, LSTM, PeepholeLSTM
from rnn_numpy.engine.recorded import RecordedSteps
from rnn_numpy.engine.unitwise import unit_maps
from rnn_numpy.lab import lyapunov
from rnn_numpy.lab import lyapunov as function
from rnn_numpy.lab.halves import LARGE, Halves
from rnn_numpy.lab.lyapunov import Decomposed, Loosener, positive_qr
from tests.support.planting import edited

EPS = np.finfo(float).eps
KINDS = [(LSTM, {}), (LSTM, {"zoneout": 0.2}), (PeepholeLSTM, {})]
MODULE = __import__("sys").modules[function.__module__]


def inputs(steps=60, sequences=2, width=3, rng=7):
    return np.random.default_rng(rng).normal(size=(steps, sequences, width))


def maps_of(net, x):
    steps = RecordedSteps(net, net.forward(x, training=False)[2], "l0")
    return unit_maps(steps, *np.divmod(np.arange(steps.T * steps.N), steps.N))


def jacobians(net, x):
    maps = maps_of(net, x)
    J = np.empty((maps.M, maps.S, maps.S))
    maps.write(J)
    return J.reshape(len(x), -1, *J.shape[1:])


def exactly(J, Q):
    """ln R_kk, mean of all steps, by Gram-Schmidt in extended precision, twice; (N, k)."""
    Q, logs = Q.astype(np.longdouble), 0
    for J_t in J.astype(np.longdouble):
        Q = J_t @ Q
        lengths = np.empty(Q.shape[::2], np.longdouble)
        for k in range(Q.shape[2]):
            before = Q[:, :, :k]
            for _ in range(2):
                Q[:, :, k] -= (before @ (before.swapaxes(1, 2) @ Q[:, :, k, None]))[..., 0]
            lengths[:, k] = np.sqrt((Q[:, :, k] ** 2).sum(axis=1))
            Q[:, :, k] /= lengths[:, k, None]
        logs = logs + np.log(lengths)
    return logs / len(J)


def start(S, k, sequences, rng=0):
    drawn = np.random.default_rng(rng).standard_normal((k, sequences, S)).transpose(1, 2, 0)
    return Decomposed.exactly(drawn).Q


def seen(call):
    """The result, and the steps of each use of the matrices of halves."""
    counts, own = [], Halves.matrices

    def counted(self, left, direct):
        found = own(self, left, direct)
        counts.append((len(found[0]), len(left)))
        return found

    with mock.patch.object(Halves, "matrices", counted):
        return call(), counts


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
@pytest.mark.parametrize("k", [5, 6, 8])
def test_the_triangle_is_that_of_the_whole(kind, options, k, monkeypatch):
    """H3: R of J_4 ... J_1 V, of all columns or of the first ones, by each half alone."""
    monkeypatch.setattr("rnn_numpy.lab.halves.LARGE", 100.0)  # first directions are random
    net, x = kind(3, 4, rng=0, **options), inputs(4)
    maps = maps_of(net, x)
    V = start(8, k, 2)
    halves = Halves(maps.recurrent, maps.units(*maps.beside))
    C, E = halves.split(V)
    for left, direct in maps.pieces(2):
        M, K = halves.matrices(left, direct[..., halves.beside])
        for M_t, K_t in zip(M, K, strict=True):
            C, E = M_t @ C, K_t @ E
    for J_t in jacobians(net, x):
        V = J_t @ V
    expected = np.diagonal(positive_qr(V)[1], axis1=1, axis2=2)
    joined = positive_qr(halves.joined(C, E))[1]
    np.testing.assert_allclose(np.diagonal(joined, axis1=1, axis2=2), expected, rtol=1e-7)
    np.testing.assert_allclose(halves.joined(C, E)[:, :, :4], V[:, :, :4], rtol=1e-9, atol=1e-12)
    # ... and with the metrics, without joining them.
    for half, metric, place in zip((C, E), halves.metrics(), (slice(0, 4), slice(4, k)), strict=True):
        np.testing.assert_allclose(Decomposed.exactly(half, metric).diagonal, expected[:, place], rtol=1e-7)
        np.testing.assert_allclose(Loosener(2, half.shape[2], 4)(half, metric).diagonal, expected[:, place], rtol=1e-6)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)
@pytest.mark.parametrize(("units", "sequences", "steps"), [(1, 2, 40), (5, 3, 60), (33, 1, 50), (20, 2, 130)])
def test_exponents_are_those_of_extended_precision(kind, options, units, sequences, steps):
    """To 1e-12, or what they say of their own rounding: versions of BLAS differ (one net is off by 3e-13 or by 2e-12 of
    its largest exponent, a decomposition of the whole at each step by 4e-15; of another by 1e-13 and 2e-12).
    """
    net, x = kind(3, units, rng=1, **options), inputs(steps, sequences)
    spectrum, counts = seen(lambda: lyapunov(net, x, transient=0))
    assert sum(taken for taken, _ in counts) >= steps - 12
    expected = exactly(jacobians(net, x), start(2 * units, 2 * units, sequences))
    error = np.abs(spectrum.per_sequence - expected)
    assert (error < 40 * sequences * spectrum.rounding + 10 * EPS).all()
    assert error.max() < max(1e-12 * np.abs(expected).max(), sequences * spectrum.rounding.max())


@pytest.mark.parametrize("transient", [0, 7])
def test_batches_are_those_of_the_whole(transient):
    net, x = LSTM(3, 6, rng=2), inputs(90)
    halved, each = (lyapunov(net, x, transient=transient, interval=interval) for interval in (None, 1))
    np.testing.assert_array_equal(halved.spans, each.spans)
    parts = each.batch_means.shape[0] * each.batch_means.shape[1]  # that the exponents are means of
    assert (np.abs(halved.batch_means - each.batch_means) < 1e-13 + 100 * parts * each.rounding).all()
    np.testing.assert_allclose(halved.standard_errors, each.standard_errors, rtol=1e-7)


def test_the_first_exponents_do_not_depend_on_how_many_there_are():
    net, x = LSTM(3, 8, rng=2), inputs(80)
    every, halved = seen(lambda: lyapunov(net, x))
    for k, used in ((16, True), (12, True), (11, False), (8, False), (1, False)):
        some, counts = seen(lambda k=k: lyapunov(net, x, k))
        assert bool(counts) == used and halved
        np.testing.assert_allclose(some.exponents, every.exponents[:k], rtol=1e-11)


def test_only_of_cells_with_two_states_and_steps_that_are_chosen():
    others = [
        (GRU(3, 4, rng=0), {}),
        (LSTM(3, 4, rng=0), {"interval": 2}),
        (LSTM(3, 4, rng=0), {"products": "columns"}),
        (LSTM(3, 4, proj_size=2, rng=0), {}),
    ]
    for net, options in others:
        assert not seen(lambda net=net, options=options: lyapunov(net, inputs(30), **options))[1]


def forgetful(unit, from_step, steps=60):
    """A unit whose gates i and f an input closes from some step on: c is 0 then, whatever was before."""
    net = LSTM(3, 4, rng=3)
    for gate in (0, 1):
        net.params["weight_ih_l0"][gate * 4 + unit] = [0, 0, -1e4]
    x = inputs(steps, 1)
    x[:, :, 2] = 0
    x[from_step:, :, 2] = 1
    return net, x


LOST = pytest.mark.filterwarnings("ignore:.* from rounding, since directions shrink:UserWarning")


@LOST
@pytest.mark.parametrize("from_step", [0, 1, 20, 59])
def test_a_cell_that_is_cleared_has_no_relation(from_step):
    """M_t cannot be inverted: the halves are joined, and the whole goes on. One direction is lost, the others not."""
    net, x = forgetful(1, from_step)
    spectrum, counts = seen(lambda: lyapunov(net, x, transient=0))
    assert any(taken < asked for taken, asked in counts) == (from_step > 0)
    each = lyapunov(net, x, transient=0, interval=1)
    known = each.rounding < 1e-11
    assert 6 <= known.sum() < 8
    np.testing.assert_allclose(spectrum.exponents[known], each.exponents[known], rtol=1e-9)
    assert (spectrum.rounding[~known] > 1e-3).any()


@LOST
def test_halves_are_taken_apart_again():
    """A single step in which c is cleared: joined there, in two halves again from the next batch on."""
    net, x = forgetful(2, 20, steps=100)
    x[21:, :, 2] = 0
    _, counts = seen(lambda: lyapunov(net, x, transient=0))
    short = [number for number, (taken, asked) in enumerate(counts) if taken < asked]
    assert len(short) == 1 and len(counts) > short[0] + 3


@pytest.mark.parametrize("missing", [{1}, {0, 2}, {2, 3, 4}])
def test_pieces_of_which_there_are_no_maps_are_walked_as_a_whole(missing, monkeypatch):
    net, x = LSTM(3, 4, rng=0), inputs(50)
    expected = lyapunov(net, x, transient=0)
    calls = iter(range(100))
    monkeypatch.setattr(MODULE, "CHUNK", 10 * 2 * 4 * len(net.cell.slabs))  # pieces of 10 steps
    monkeypatch.setattr(MODULE, "unit_maps", lambda *given: None if next(calls) in missing else unit_maps(*given))
    found, counts = seen(lambda: lyapunov(net, x, transient=0))
    assert counts and next(calls) == 5
    np.testing.assert_allclose(found.batch_means, expected.batch_means, rtol=1e-9)


@LOST
def test_a_piece_in_which_c_is_not_kept_at_all(monkeypatch):
    """All f are 0 there: no block of J_t has anything of c, as if there were h alone."""
    net, x = LSTM(3, 4, rng=0), inputs(40, 1)
    net.params["weight_ih_l0"][4:8] = [0, 0, -1e4]
    x[:, :, 2] = 0
    x[20:30, :, 2] = 1
    monkeypatch.setattr(MODULE, "CHUNK", 10 * 4 * len(net.cell.slabs))
    found, counts = seen(lambda: lyapunov(net, x, transient=0))
    each = lyapunov(net, x, transient=0, interval=1)
    assert counts
    np.testing.assert_allclose(found.exponents[:4], each.exponents[:4], rtol=1e-9)


@pytest.mark.parametrize(
    ("size", "apart"), [(0.99 * LARGE, True), (1.01 * LARGE, False), (np.inf, False), (np.nan, False)]
)
def test_a_relation_that_is_large_is_none(size, apart):
    V = np.eye(4)[None].copy()
    V[0, 0, 0], V[0, 2, 0], V[0, 1, 1], V[0, 3, 1] = size, 1, 0.5, 1
    assert (Halves(slice(0, 2), slice(2, 4)).split(V) is not None) == apart
    V[0, 2, 0] = 0  # no inverse
    assert Halves(slice(0, 2), slice(2, 4)).split(V) is None


@pytest.mark.parametrize("seed", [881, 1229])
def test_wild_networks_lose_no_digits_by_their_halves(seed):
    """Weights several times as large as usual: with relations up to 100, exponents would be off by 5e-8."""
    rng = np.random.default_rng(seed)
    H, N, T = int(rng.integers(1, 14)), int(rng.integers(1, 4)), int(rng.integers(1, 60))
    net = PeepholeLSTM(3, H, rng=seed)
    net.params.flat[...] *= 10 ** rng.uniform(-1, 1.3)
    x = rng.normal(size=(T, N, 3)) * 10 ** rng.uniform(-1, 1)
    transient, k = int(rng.integers(0, T)), int(rng.integers(-(-3 * H // 2), 2 * H + 1))
    spectrum, counts = seen(lambda: lyapunov(net, x, k, transient=transient))
    assert counts
    each = lyapunov(net, x, k, transient=transient, interval=1)
    assert np.abs(spectrum.exponents - each.exponents).max() < 1e-10


@LOST
def test_output_gates_without_recurrent_weights_lose_the_second_half():
    """h_t depends on h_{t-1} through c_t alone: K = 0."""
    net, x = LSTM(3, 4, rng=0), inputs(50)
    net.params["weight_hh_l0"][12:] = 0
    spectrum, counts = seen(lambda: lyapunov(net, x, transient=5))
    assert counts and np.isfinite(spectrum.exponents[:4]).all()
    each = lyapunov(net, x, transient=5, interval=1)
    np.testing.assert_allclose(spectrum.exponents[:4], each.exponents[:4], rtol=1e-11)
    # Zeros that rounding may fill: beyond all that floats can tell, in both ways.
    assert (spectrum.exponents[4:] < -30).all() and (each.exponents[4:] < -30).all()


def test_sequences_of_different_growth():
    net, x = LSTM(3, 6, rng=5), inputs(60, 3)
    x[:, 0] *= 0.01
    x[:, 2] *= 4
    together = lyapunov(net, x, transient=0).per_sequence
    alone = [lyapunov(net, x[:, n], transient=0, rng=np.random.default_rng(0)).exponents for n in range(3)]
    assert np.abs(together[0] - together[2]).max() > 0.1
    # Each from first directions of its own, the mean of as many steps.
    assert np.abs(together.sum(axis=1) - np.sum(alone, axis=1)).max() < 1e-9 * np.abs(together).sum(axis=1).max()


def test_single_precision_is_run_in_double():
    net, x = LSTM(3, 6, rng=5), inputs(60)
    expected = lyapunov(net.astype(np.float32).astype(np.float64), x.astype(np.float32).astype(float)).exponents
    found, counts = seen(lambda: lyapunov(net.astype(np.float32), x.astype(np.float32)))
    assert counts
    np.testing.assert_allclose(found.exponents, expected, rtol=1e-12)


@pytest.mark.parametrize("lost", [1.0, 1e-4])
@pytest.mark.parametrize(("sequences", "k"), [(2, 7), (1, 40)])
def test_columns_that_are_orthonormal_in_a_metric(sequences, k, lost):
    rng = np.random.default_rng(0)
    V, A = rng.normal(size=(sequences, k, k)), rng.normal(size=(sequences, k, k))
    V[:, :, -1] = lost * V[:, :, -1] + (1 - lost) * V[:, :, 0]
    Z = np.eye(k) + A.swapaxes(1, 2) @ A / k
    root = np.linalg.cholesky(Z).swapaxes(1, 2)
    expected = np.diagonal(positive_qr(root @ V)[1], axis1=1, axis2=2)
    for found in (
        Decomposed.exactly(V, Z),
        Loosener(sequences, k, k)(V, Z),
        Loosener(sequences, k, k)(V, Z, unit=True),
    ):
        np.testing.assert_allclose(found.diagonal, expected, rtol=1e5 * EPS / lost**1.5)
        assert np.abs(found.Q.swapaxes(1, 2) @ Z @ found.Q - np.eye(k)).max() < 1e5 * EPS / lost**2
    unit = Loosener(sequences, k, k)(V, Z, unit=True).Q
    np.testing.assert_allclose(np.einsum("nsk,nst,ntk->nk", unit, Z, unit), 1, rtol=1e-14)


@LOST
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("matrices", "np.subtract(left", "np.add(left"),
        ("matrices", "diagonals[t] += direct[t]", "pass"),
        ("matrices", "self.Y = turned[m - 1].swapaxes(1, 2).copy()", "pass"),
        ("metrics", "np.linalg.inv(unit + Y @ Y.swapaxes(1, 2))", "unit + 0 * Y"),
        ("split", "- Y @ V", "- 0 * Y @ V"),
    ],
)
def test_planted_mistakes_are_seen(name, old, new, monkeypatch):
    net, x = LSTM(3, 5, rng=1), inputs(60, 1)
    right = lyapunov(net, x, transient=0)
    monkeypatch.setattr(Halves, name, edited(getattr(Halves, name), old, new))
    wrong = lyapunov(net, x, transient=0)
    assert np.abs(wrong.batch_means - right.batch_means).max() > 1e-6
