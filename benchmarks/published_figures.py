"""Published figures on the dynamics of recurrent nets, beside ours: what was printed, what this package finds.

    python -m benchmarks.published_figures                     # all; about a minute
    python -m benchmarks.published_figures --only demo cliff   # some
    python -m benchmarks.published_figures --json out.json

Each figure is a function that returns rows (quantity, published, ours, tolerance). A tolerance says what it covers: the
spread of other draws of the same random net, a finite size where theory is for an infinite one, or rounding.

Chaotic trajectories part after some hundred steps between machines whose last digits differ, so statistics are
compared, never states.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy import RNN, Cell, Recurrent
from rnn_numpy.lab import LyapunovSpectrum, cliff, fold_points, gaussian_product_spread, lyapunov, meanfield
from rnn_numpy.layers.initializers import orthogonal

Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One number: what was published, what we find, and how far apart they may be."""

    figure: str
    quantity: str
    published: float
    ours: float
    tolerance: float
    why: str

    @property
    def passed(self) -> bool:
        """Whether ours is within the tolerance."""
        return bool(abs(self.ours - self.published) <= self.tolerance)


# ---------------------------------------------------------------------------------------------------- cells of our own


def product_step_forward(x_t: Array, h_prev: Array, h_t: Array) -> None:
    """h_t = X_t h_{t-1}, X_t (H, H) being what the input holds."""
    H = len(h_t)
    h_t[...] = np.einsum("ijn,jn->in", x_t.reshape(H, H, -1), h_prev)


def product_step_backward(dh_t: Array, x_t: Array, da_t: Array, dh_prev: Array) -> None:
    """dh_{t-1} += X_t^T dh_t; no pre-activation takes part."""
    H = len(dh_t)
    da_t[...] = 0
    dh_prev += np.einsum("ijn,in->jn", x_t.reshape(H, H, -1), dh_t)


class MatrixProduct(Recurrent):
    """A net whose Jacobians are the matrices that its input brings: J_t = X_t."""

    cell = Cell(("h",), ("h",), product_step_forward, product_step_backward)


def rate_cell(dt: float) -> Cell:
    """Return the cell of a rate network in steps of dt (Euler): h_t = (1 - dt) h_{t-1} + dt (W tanh(h_{t-1}) + a_t).

    Backward, with k_t = tanh(h_{t-1}):  da_t = dt dh_t,  dh_{t-1} += (1 - dt) dh_t + (1 - k_t^2) * W^T da_t.
    """

    def rate_step_forward(a_t: Array, h_prev: Array, W_hh: Array, k_t: Array, h_t: Array) -> None:
        np.tanh(h_prev, out=k_t)
        h_t[...] = h_prev * (1 - dt) + (W_hh.dot(k_t) + a_t) * dt

    def rate_step_backward(dh_t: Array, k_t: Array, W_hh: Array, da_t: Array, dh_prev: Array) -> None:
        da_t[...] = dt * dh_t
        dh_prev += (1 - dt) * dh_t + (1 - k_t**2) * W_hh.T.dot(da_t)

    return Cell(("h",), ("h",), rate_step_forward, rate_step_backward, hidden_inputs={"h": "k_t"}, records={"k": 1})


def rate_network(weights: Array, dt: float) -> Recurrent:
    """Return the rate network with these weights (N, N), without inputs."""
    kind = type("RateNetwork", (Recurrent,), {"cell": rate_cell(dt)})
    net: Recurrent = kind(1, len(weights), bias=False)
    net.params["weight_ih_l0"][...] = 0
    net.params["weight_hh_l0"] = weights
    return net


def linear_step_forward(a_t: Array, h_in: Array, W_hh: Array, h_t: Array) -> None:
    """h_t = W h_{t-1} + W_ih x_t."""
    h_t[...] = a_t + W_hh.dot(h_in)


def linear_step_backward(dh_t: Array, W_hh: Array, da_t: Array, dh_in: Array) -> None:
    """da_t = dh_t,  dh_{t-1} += W^T da_t."""
    da_t[...] = dh_t
    dh_in += W_hh.T.dot(da_t)


class LinearNet(Recurrent):
    """A net without nonlinearity."""

    cell = Cell(("h",), ("h",), linear_step_forward, linear_step_backward)


def tanh_network(g: float, N: int, sigma2: float, seed: int) -> tuple[RNN, np.random.Generator]:
    """Return h_t = tanh(W h_{t-1} + sigma x_t), W from N(0, g^2/N), x of N units; and what else to draw from."""
    rng = np.random.default_rng(seed)
    net = RNN(N if sigma2 else 1, N, bias=False, rng=seed)
    net.params["weight_ih_l0"] = math.sqrt(sigma2) * np.eye(N) if sigma2 else np.zeros((N, 1))
    net.params["weight_hh_l0"] = g * rng.standard_normal((N, N)) / math.sqrt(N)
    return net, rng


# -------------------------------------------------------------------------------------------------------------- figures


def gaussian_products(steps: int = 20_000) -> list[Row]:
    """Lyapunov exponents of independent N(0, 1/N) matrices, N = 10: (ln(2/N) + psi((N - i + 1)/2))/2 (Newman 1986)."""
    N = 10
    matrices = np.random.default_rng(0).standard_normal((steps, 1, N * N)) / math.sqrt(N)
    # States would under- or overflow in the end, and J_t does not depend on them: they start at 0 and stay there.
    spectrum = lyapunov(MatrixProduct(N * N, N, bias=False), matrices, transient=100)
    spreads, why = gaussian_product_spread(N) / math.sqrt(steps), "four standard errors of so many steps"
    return [
        Row("products", f"lambda_{i}", value, float(spectrum.exponents[i - 1]), float(4 * spreads[i - 1]), why)
        for i, value in ((1, -0.05166), (10, -1.78647))
    ]


def engelken_demo(time_units: float = 1000.0) -> list[Row]:
    """The demonstration script of R. Engelken's RNN-LyapunovSpectra, arguments (100, 4, .1, 1e3, 100, 1, 1, 1, 1).

    Weights and start are drawn as there, with NumPy's old generators. A product summed in another order moves the
    trajectory to another stretch of its attractor after some hundred steps, all the same.
    """
    N, g, dt = 100, 4.0, 0.1
    weights = g * np.random.RandomState(1).randn(N, N) / math.sqrt(N)
    np.fill_diagonal(weights, 0)
    start = (g - 1) * np.random.RandomState(1).randn(N)
    steps = round(time_units / dt)
    transient = round(100 / dt) + steps // 10
    silence = np.broadcast_to(0.0, (transient + steps, 1, 1))
    spectrum = lyapunov(rate_network(weights, dt), silence, h_0=start[None, None], transient=transient, interval=10)
    exponents = spectrum.exponents / dt
    rows = [
        Row("demo", f"lambda_{i + 1}", value, float(exponents[i]), 0.03, "another stretch of the trajectory")
        for i, value in enumerate((0.1634, 0.0898, 0.0164, 0.0013, -0.0753))
    ]
    dimension, entropy = _whole(spectrum)
    pairs = float((exponents + exponents[::-1]).mean())
    return [
        *rows,
        Row("demo", "Kaplan-Yorke dimension", 6.349, dimension, 0.5, "another stretch of the trajectory"),
        Row("demo", "entropy rate", 0.2710, entropy / dt, 0.06, "the same"),
        Row("demo", "mean of lambda_i + lambda_{N+1-i}", 2 * math.log(1 - dt) / dt, pairs, 0.01, "the slopes' mean"),
    ]


def clark_spectrum(N: int = 400, steps: int = 600) -> list[Row]:
    """The spectrum of a tanh network with g = 3 (D. G. Clark's rnn-lyapunov, delta = 1), published for N = 4096."""
    net, rng = tanh_network(3.0, N, 0.0, 0)
    silence = np.broadcast_to(0.0, (steps, 1, 1))
    spectrum = lyapunov(net, silence, h_0=rng.standard_normal((1, 1, N)), transient=steps // 3)
    dimension, entropy = _whole(spectrum)
    mean = float(spectrum.exponents.mean())
    return [
        Row("spectrum", "lambda_1", 0.30958, float(spectrum.exponents[0]), 0.012, "N = 400 in place of 4096"),
        Row("spectrum", "Kaplan-Yorke dimension / N", 0.28717, dimension / N, 0.02 * 0.28717, "2 %: the same"),
        Row("spectrum", "entropy rate / N", 0.02511, entropy / N, 0.04 * 0.02511, "4 %: the same"),
        Row("spectrum", "mean exponent", -2.2739, mean, 0.03, "the same"),
    ]


def mean_field(N: int = 1000, steps: int = 400, seeds: int = 4) -> list[Row]:
    """lambda_1(g, sigma^2) of large tanh networks: theory (Molgedey, Schuchhardt, Schuster 1992), simulation."""
    rows = []
    for g, sigma2, value in ((2.0, 0.0, 0.1547), (3.0, 0.0, 0.3102), (2.0, 0.5, 0.0920), (10.0, 0.0, 0.8564)):
        found = []
        for seed in range(seeds):
            net, rng = tanh_network(g, N, sigma2, seed)
            x = rng.standard_normal((steps, 1, N)) if sigma2 else np.broadcast_to(0.0, (steps, 1, 1))
            spectrum = lyapunov(net, x, 1, h_0=rng.standard_normal((1, 1, N)), transient=steps // 4)
            found.append(float(spectrum.exponents[0]))
        name = f"lambda_1, g = {g:g}, sigma^2 = {sigma2:g}"
        rows.append(Row("mean-field", f"{name}: theory", value, meanfield(g, sigma2).lambda_1, 1e-4, "printed digits"))
        rows.append(Row("mean-field", f"{name}: nets", value, float(np.mean(found)), 0.01, f"N = {N}, draws"))
    return rows


def backward_slope(N: int = 800, steps: int = 1500) -> list[Row]:
    """The slope of ln |dL/dh| in an ordinary backward pass is lambda_1: g = 2, sigma^2 = 0.5."""
    net, rng = tanh_network(2.0, N, 0.5, 3)
    output, _, trace = net.forward(rng.standard_normal((steps, 1, N)), rng.standard_normal((1, 1, N)))
    doutput = np.zeros_like(output)
    doutput[-1] = rng.standard_normal(N)
    net.backward(trace, doutput)
    logs = np.log(np.linalg.norm(trace.dh[:, 0], axis=1))
    low, high = steps // 10, steps - steps // 10
    slope = float(logs[low] - logs[high]) / (high - low)
    return [Row("backward", "slope of ln |dL/dh|", 0.0920, slope, 0.01, f"N = {N}")]


def fuss_catalan(N: int = 1000) -> list[Row]:
    """Squared singular values of a product of two N(0, 1/N) matrices: Fuss-Catalan, largest 27/4, variance 2."""
    rng = np.random.default_rng(0)
    product = np.linalg.multi_dot([rng.standard_normal((N, N)) / math.sqrt(N) for _ in range(2)])
    squares = np.linalg.svd(product, compute_uv=False) ** 2
    return [
        Row("singular values", "largest square, 2 factors", 6.75, float(squares.max()), 0.05 * 6.75, "5 %: N = 1000"),
        Row("singular values", "variance of squares", 2.0, float(squares.var()), 0.03 * 2, "3 %: N = 1000"),
    ]


def cliff_and_folds() -> list[Row]:
    """The cliff of R. Pascanu et al. (2013), Figure 6, and the folds behind it (Figure 4), for one sigmoid unit."""
    golden = (1 + math.sqrt(5)) / 2
    low, high = (sign * 2 * math.log(golden) - 2.5 * (1 + sign / math.sqrt(5)) for sign in (1, -1))
    grid = cliff(np.linspace(2, 8, 201), np.linspace(-3.5, 0, 141))
    found = [float(fold) for fold in fold_points(5.0)]
    return [
        Row("cliff", "largest gradient on the grid", 3.32e3, grid.steepest[2], 3.32, "1e-3 of it"),
        Row("cliff", "largest over median", 9.0e4, grid.ratio, 0.05e4, "printed digits"),
        Row("cliff", "lower fold, w = 5", min(low, high), found[0], 1e-6, "closed form"),
        Row("cliff", "upper fold, w = 5", max(low, high), found[1], 1e-6, "closed form"),
    ]


def memory_capacity(N: int = 50) -> list[Row]:
    """The linear memory capacity of a linear net of N units is N (Jaeger 2001; Ballarin et al. 2024).

    The best linear readout of x_{t-k} from h_t explains a share of its variance, and the capacity is the sum over k.
    With K, (T, N), the responses to a pulse, it is the trace of the projector on K's columns, K (K^T K)^{-1} K^T. The
    inverse of a nearly singular matrix loses some (39 of 50 were reported so); here the projector is Q Q^T of a QR
    decomposition of K, with those columns whose own part is above rounding: they are all.
    """
    net = LinearNet(1, N, bias=False, rng=0)
    net.params["weight_hh_l0"] = orthogonal((N, N), 0.95, rng=0)
    pulse = np.zeros((1500, 1, 1))
    pulse[0] = 1.0
    responses = net(pulse)[0][:, 0]
    Q, R = np.linalg.qr(responses)
    own = np.abs(np.diagonal(R)) > 1e-12 * np.linalg.norm(responses, axis=0)
    return [Row("memory", f"linear memory capacity, N = {N}", N, float((Q[:, own] ** 2).sum()), 1e-8, "rounding")]


FIGURES: dict[str, Callable[[], list[Row]]] = {
    "products": gaussian_products,
    "demo": engelken_demo,
    "spectrum": clark_spectrum,
    "mean-field": mean_field,
    "backward": backward_slope,
    "singular-values": fuss_catalan,
    "cliff": cliff_and_folds,
    "memory": memory_capacity,
}


def _whole(spectrum: LyapunovSpectrum) -> tuple[float, float]:
    """Return Kaplan-Yorke dimension and entropy rate; NaN, which fails, where exponents are missing to tell."""
    dimension, entropy = spectrum.kaplan_yorke, spectrum.entropy_rate
    return math.nan if dimension is None else dimension, math.nan if entropy is None else entropy


# -------------------------------------------------------------------------------------------------------------- telling


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, at most 120 columns wide."""
    lines = [f"{'figure':16} {'quantity':40} {'published':>11} {'ours':>11} {'tolerance':>10}        why so much"]
    for row in rows:
        word, ours, published = "pass" if row.passed else "FAIL", f"{row.ours:.5g}", f"{row.published:.5g}"
        lines.append(
            f"{row.figure:16} {row.quantity:40} {published:>11} {ours:>11} {row.tolerance:>10.2g}  {word}  {row.why}"
        )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.published_figures", description="Published figures.")
    made.add_argument("--only", nargs="+", choices=list(FIGURES), metavar="NAME", help=", ".join(FIGURES))
    made.add_argument("--json", metavar="FILE", help="write all rows, with the seconds that each figure took")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the figures, print the table; 1 where one fails."""
    options = parser().parse_args(arguments)
    rows, seconds = list[Row](), dict[str, float]()
    for name in options.only or FIGURES:
        began = time.perf_counter()
        rows += FIGURES[name]()
        seconds[name] = time.perf_counter() - began
    print(table(rows))
    print("seconds: " + ", ".join(f"{name} {taken:.1f}" for name, taken in seconds.items()))
    if options.json:
        told = [{**asdict(row), "passed": row.passed} for row in rows]
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"numpy": np.__version__, "seconds": seconds, "rows": told}, file, indent=1)
            file.write("\n")
    return int(not all(row.passed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
