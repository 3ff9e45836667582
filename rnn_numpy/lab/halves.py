r"""Jacobians of a cell with two states, as two matrices of H units for each step.

An LSTM's state is the pair s = (h, c), and of its Jacobian only the columns of h are full:

    J_t = [[J_hh, D_hc],
           [J_ch, D_cc]]        (2H, 2H), both D diagonal

After a few steps the first H columns of J_t ... J_1 Q all have nearly the same relation between their two halves: rows
of h = Y times rows of c. Which relation it is follows from that of the step before, and in the basis of the columns of

    B_t = [[Y_t, I],
           [I,   0]]

the Jacobian is block triangular:

    (H1)  [[P_t], [M_t]] = J_t [[Y_{t-1}], [I]],    Y_t = P_t M_t^{-1}
    (H2)  K_t = J_hh - Y_t J_ch
    (H3)  J_t B_{t-1} = B_t [[M_t, J_ch], [0, K_t]]

So V = B_t [[C_t, *], [0, E_t]], with C_t = M_t C_{t-1} and E_t = K_t E_{t-1}: the diagonal of V's R is made of C and E
alone, and * may be left out, being the product by an upper triangular matrix with a diagonal of ones. C are the cell's
own directions, E those by which a change of h lasts for a step: of usual LSTMs the first grow at about ln f, the others
fall behind by an order of magnitude in every step. Each half by itself stays independent for longer than both together.

Errors of Y die out as fast as the directions of E fall behind. Where M_t can hardly be inverted, as when the gates i
and f of a unit are closed, Y is `LARGE`, K has lost its digits, and V is better left whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory

Floats = NDArray[np.float64]

LARGE = 3.0  # an entry of Y: of usual LSTMs they are below 1; with 100, exponents of wild ones were off by 5e-8


class Halves:
    """Y, and V in two halves.

    `full` and `beside` are the rows of the state whose columns of J_t are full, h, and of the other one, c.

    >>> V = np.random.default_rng(0).normal(size=(1, 6, 5))
    >>> halves = Halves(slice(0, 3), slice(3, 6))
    >>> C, E = halves.split(V)
    >>> joined = halves.joined(C, E)
    >>> bool(np.allclose(joined[:, :, :3], V[:, :, :3]))  # the others without a part along these
    True
    >>> bool(np.allclose(np.linalg.qr(V[0])[1].diagonal(), np.linalg.qr(joined[0])[1].diagonal()))
    True
    """

    def __init__(self, full: slice, beside: slice) -> None:
        self.full, self.beside, self.H = full, beside, full.stop - full.start
        self.Y: Floats = np.empty((0, self.H, self.H))

    def split(self, V: Floats) -> tuple[Floats, Floats] | None:
        """Return C and E of V, (N, 2H, k), with k > H; None where Y would be large, or is not there."""
        rows, C = V[:, self.full], V[:, self.beside, : self.H]
        try:
            turned = np.linalg.solve(C.swapaxes(1, 2), rows[:, :, : self.H].swapaxes(1, 2))
        except np.linalg.LinAlgError:
            return None
        if not np.abs(turned).max() <= LARGE:
            return None
        self.Y = Y = np.asarray(turned.swapaxes(1, 2))
        return C, rows[:, :, self.H :] - Y @ V[:, self.beside, self.H :]

    def joined(self, C: Floats, E: Floats) -> Floats:
        """Return V, (N, 2H, k)."""
        V = memory.zeros((len(C), 2 * self.H, self.H + E.shape[2]), C.dtype)
        np.matmul(self.Y, C, out=V[:, self.full, : self.H])
        V[:, self.beside, : self.H] = C
        V[:, self.full, self.H :] = E
        return V

    def matrices(self, left: Floats, direct: Floats) -> tuple[Floats, Floats]:
        """Return M and K of some steps, (m, N, H, H), and move Y on; of fewer steps where Y would become large.

        `left` are the full columns of each J_t, (m, N, 2H, H); `direct` the diagonals of the others, (m, N, 2, H).
        """
        m, N, S, H = left.shape
        products, K = memory.empty((m, N, S, H), left.dtype), memory.empty((m, N, H, H), left.dtype)
        turned = memory.empty((m, N, H, H), left.dtype)  # each Y transposed, as `solve` has it
        diagonals = products.reshape(m, N, 2, H * H)[..., :: H + 1]
        P, M = (products[:, :, rows].swapaxes(2, 3) for rows in (self.full, self.beside))
        Y, t = self.Y, 0
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # looked at just below
                for t in range(m):
                    np.matmul(left[t], Y, out=products[t])
                    diagonals[t] += direct[t]
                    turned[t] = found = np.linalg.solve(M[t], P[t])
                    Y = found.swapaxes(1, 2)
        except np.linalg.LinAlgError:
            m = t
        small = np.abs(turned[:m]).max(axis=(1, 2, 3)) <= LARGE
        if not small.all():
            m = int(small.argmin())
        if m:
            self.Y = turned[m - 1].swapaxes(1, 2).copy()
        np.matmul(turned[:m].swapaxes(2, 3), left[:m, :, self.beside], out=K[:m])
        return products[:m, :, self.beside], np.subtract(left[:m, :, self.full], K[:m], out=K[:m])

    def metrics(self) -> tuple[Floats, Floats]:
        """Return Z of C and Z of E, (N, H, H), by which C^T Z C = R^T R for the R of [[Y], [I]] C, and so for E."""
        Y, unit = self.Y, np.eye(self.H)
        return unit + Y.swapaxes(1, 2) @ Y, np.asarray(np.linalg.inv(unit + Y @ Y.swapaxes(1, 2)))
