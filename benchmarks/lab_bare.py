"""The bare products of the lab's jobs: what is left of a job if nothing but its products is done.

They are those that this package does, as many and as large, on arrays that are ready, into memory that is there: no
activations, no norms, no checks, no set-up. So they are a limit of what NumPy can reach. `benchmarks.lab --bare` times
them beside the whole job and JAX's.

dh        W_hh at each step, forward and backward; W_ih of all steps, the gradients of both
table     W_hh, or J_k, at each step, for the losses that have been met; R_k of several sequences, squares of one
lyapunov  J_t V at each step, and a QR decomposition by LAPACK (scipy's, else `np.linalg.qr`) as often as there is one
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab_contenders import GATES, Job, problem

Array = NDArray[Any]


def _bare_dh(cell: str, point: tuple[int, ...]) -> Job:
    T, N, D, H = point
    weights, x, _ = problem(cell, point)
    W_ih, W_hh = weights["weight_ih_l0"], weights["weight_hh_l0"]
    flat, h, da = x.reshape(-1, D), np.zeros((N, H)), np.ones((N, len(W_hh)))
    a, every_h, every_da = np.empty((T * N, len(W_ih))), np.ones((T * N, H)), np.ones((T * N, len(W_hh)))
    by_h, by_x, moved, back = np.empty_like(W_hh), np.empty_like(W_ih), np.empty_like(da), np.empty_like(h)
    dx = np.empty_like(flat)

    def job() -> None:
        np.dot(flat, W_ih.T, out=a)
        for _ in range(T):
            np.dot(h, W_hh.T, out=moved)
        for _ in range(T):
            np.dot(da, W_hh, out=back)
        np.dot(every_da.T, every_h, out=by_h)
        np.dot(every_da.T, flat, out=by_x)
        np.dot(every_da, W_ih, out=dx)

    return job


def _bare_table(cell: str, point: tuple[int, ...]) -> Job:
    T, N, _, H = point
    states, slabs = 2 if cell == "LSTM" else 1, GATES[cell]
    if N == 1:  # one matrix a step, and the squares of eight steps times those of slopes
        S, several = states * H, min(8, T)
        adjoints, matrix, after = np.ones((T, S)), np.eye(S), np.empty((T, S))
        squares, slopes = np.ones((several, T, S)), np.ones((several, S, slabs + (1 if cell == "RNN" else 2)))
        sums = np.empty((several, T, slopes.shape[2]))

        def alone() -> None:
            for width in range(1, T + 1):
                np.matmul(adjoints[:width], matrix, out=after[:width])
                if width % several == 0:
                    np.matmul(squares[:, :width], slopes, out=sums[:, :width])

        return alone
    if cell == "RNN":  # rows (losses, n, H); pieces of 64 of them, as OpenBLAS has it fastest
        W, R = problem(cell, point)[0]["weight_hh_l0"], np.ones((N, N))
        da, out, mixed = (np.ones((-(-T * N // 64) * 64, H)) for _ in range(3))
        pieces, results = da.reshape(-1, 64, H), out.reshape(-1, 64, H)

        def rows() -> None:
            for width in range(1, T + 1):
                some, into = (array[: width * N].reshape(width, N, H) for array in (da, mixed))
                np.matmul(R, some, out=into)
                count = -(-width * N // 64)
                np.matmul(pieces[:count], W, out=results[:count])

        return rows
    left, slopes = np.ones((N, H, states * H)), np.ones((H, slabs * N, N * states))
    adjoints, after = np.ones((N, states * H, T)), np.empty((N, H, T))
    units = adjoints.reshape(N * states, H, T).swapaxes(0, 1)
    norms = np.empty(H * slabs * N * T)

    def columns() -> None:
        for width in range(1, T + 1):
            np.matmul(left, adjoints[:, :, :width], out=after[:, :, :width])
            found = norms[: H * slabs * N * width].reshape(H, slabs * N, width)
            np.matmul(slopes, units[:, :, :width], out=found)

    return columns


def _bare_lyapunov(cell: str, point: tuple[int, ...]) -> Job:
    import rnn_numpy
    from rnn_numpy.lab.lyapunov import Pace, prepared

    T, N, D, H = point
    weights, x, _ = problem(cell, point)
    layer = getattr(rnn_numpy, cell)(D, H, rng=0)
    layer.load_state_dict(weights)
    walk = prepared("bare", layer, x, None, None)
    rng = np.random.default_rng(0)
    times = [made.t for made in walk.decompositions(walk.S, Pace(T, 0, None), "auto", rng)]
    left, rows = np.ones((N, walk.S, H)), rng.normal(size=(N, walk.S, walk.S))
    out, qr = np.empty_like(rows), _qr(walk.S)
    matrices = [np.asfortranarray(matrix) for matrix in rows]

    def job() -> None:
        for _ in range(T):
            np.matmul(rows[:, :, :H], left.swapaxes(1, 2), out=out)
        for _ in times[1:]:
            for matrix in matrices:
                qr(matrix)

    return job


def _qr(S: int) -> Callable[[Array], Any]:
    try:
        from scipy.linalg import lapack
    except ImportError:
        return np.linalg.qr
    size, room = int(lapack.dgeqrf_lwork(S, S)[0].real), 64 * S  # asked once; dorgqr's best is at most 64 columns

    def qr(matrix: Array) -> Any:
        factored, tau, _, _ = lapack.dgeqrf(matrix, lwork=size)
        return lapack.dorgqr(factored, tau, lwork=room, overwrite_a=1)

    return qr


def bare(cell: str, point: tuple[int, ...]) -> dict[str, Job]:
    """Return the bare products of the jobs of which there are some."""
    return {
        "dh": _bare_dh(cell, point),
        "table": _bare_table(cell, point),
        "lyapunov": _bare_lyapunov(cell, point),
    }
