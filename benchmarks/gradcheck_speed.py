"""Time our gradient check and torch's on the same networks: `python -m benchmarks.gradcheck_speed`.

All parameters, x and the initial states are checked, in float64. torch.autograd.gradcheck is given the function that
torch.nn's module calls, with its parameters listed, in two forms, and in its default and its fast mode:

    loss      a weighted sum of the outputs and final states: one row of the Jacobian, as ours is given
    outputs   outputs and final states themselves: all rows

Ours is `gradcheck(layer, x, h_0, doutput=..., dh_n=...)`: every entry of the gradient of that loss, and its further
tests. Before anything is timed, torch's gradient of the loss must be ours to 1e-12.

`--functions` times our check alone, of a function of a dict of arrays: a net of two tanh layers, of 10 150 and 22 725
entries, right, and with one entry, a row or all of a weight wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import summary
from benchmarks.cases import Case, problem
from benchmarks.contenders import OURS, Contender, Layer, TorchLayer, missing
from benchmarks.gradcheck_zoo import has_ours
from benchmarks.measure import UnequalResultsError, differences, machine, require_equal, results_of
from benchmarks.train_step import positive
from benchmarks.worker import Server, Worker, WorkerError, quiet
from benchmarks.worker import main as worker_main

Array = NDArray[Any]

CELLS = ("rnn-tanh", "lstm", "gru")
HIDDEN = (16, 32, 64)
T, N, D = 30, 1, 3
ROUNDS, SMOKE_ROUNDS = 3, 1
SMOKE_SIZE = (6, 1, 3, 4)


def given(case: Case) -> dict[str, tuple[Array, ...]]:
    """Return initial states and gradients of final states: h_0 and dh_n, of an LSTM pairs of them.

    Examples
    --------
    >>> [array.shape for array in given(Case("lstm", (30, 1, 3, 16), "float64"))["h_0"]]
    [(1, 1, 16), (1, 1, 16)]
    """
    _, batch, _, hidden = case.size
    rng = np.random.default_rng([case.seed, 1])
    shape = (1, batch, hidden)
    return {name: tuple(rng.standard_normal(shape) for _ in case.finals) for name in ("h_0", "dh_n")}


class OurCheck(Layer):
    """`rnn_numpy.checks.gradcheck`."""

    def load(self, case: Case) -> None:
        """Make the layer with the weights of the case."""
        super().load(case)
        states = given(case)
        self.h_0, self.dh_n = (one[0] if len(one) == 1 else one for one in (states["h_0"], states["dh_n"]))

    def step(self) -> None:
        """Check; a report that is not ok ends the run."""
        from rnn_numpy.checks import gradcheck  # type: ignore[attr-defined,unused-ignore]

        report = gradcheck(self.layer, self.x, self.h_0, doutput=self.doutput, dh_n=self.dh_n)
        if not report.ok:
            raise RuntimeError(f"gradcheck rejects a layer that is right: {report}")

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return the gradient of the loss, from back-propagation through time."""
        _, _, trace = self.layer.forward(self.x, self.h_0)
        back = self.layer.backward(trace, self.doutput, self.dh_n)
        initial = {f"d{state}_0": getattr(back, f"d{state}_0") for state in self.layer.cell.states}
        return {"dx": back.dx, **initial, **{f"d{name}": gradient for name, gradient in back.grads.items()}}


class TorchCheck(TorchLayer):
    """torch.autograd.gradcheck of torch.rnn_tanh, torch.lstm or torch.gru, which torch.nn's modules call.

    Parameters
    ----------
    form : {"loss", "outputs"}
    fast : bool
    """

    def __init__(self, form: str, fast: bool) -> None:
        super().__init__()
        self.form, self.fast = form, fast

    def load(self, case: Case) -> None:
        """Make leaves of all arrays."""
        self.case = case
        arrays, states = problem(case), given(case)

        def leaf(array: Array) -> Any:
            return self.torch.tensor(array, requires_grad=True)

        self.names = ["dx", *(f"d{name[0]}_0" for name in case.finals), *(f"d{name}" for name in arrays.weights)]
        self.inputs = [leaf(array) for array in (arrays.x, *states["h_0"], *arrays.weights.values())]
        self.weights = [self.torch.tensor(array) for array in (arrays.doutput, *states["dh_n"])]

    def outputs(self, *inputs: Any) -> tuple[Any, ...]:
        """Return output and final states."""
        count = len(self.case.finals)
        x, states, parameters = inputs[0], inputs[1 : 1 + count], inputs[1 + count :]
        function = getattr(self.torch, self.case.cell.replace("-", "_"))
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        found: tuple[Any, ...] = function(
            x, states if count > 1 else states[0], parameters, True, 1, 0.0, False, False, False
        )
        return found

    def loss(self, *inputs: Any) -> Any:
        """Return the weighted sum of them."""
        pairs = zip(self.weights, self.outputs(*inputs), strict=True)
        return sum((weight * value).sum() for weight, value in pairs)

    def step(self) -> None:
        """Check; it raises where it finds something."""
        from torch.autograd.gradcheck import gradcheck

        gradcheck(getattr(self, self.form), self.inputs, fast_mode=self.fast)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return the gradient of the loss, from autograd."""
        gradients = self.torch.autograd.grad(self.loss(*self.inputs), self.inputs)
        return {name: gradient.numpy() for name, gradient in zip(self.names, gradients, strict=True)}


RIVALS: dict[str, tuple[str, bool]] = {
    "torch loss": ("loss", False),
    "torch outputs": ("outputs", False),
    "torch fast loss": ("loss", True),
    "torch fast outputs": ("outputs", True),
}


class PatientServer(Server):
    """A worker's side that takes a step for what it is: some take a minute, so none is for warming up."""

    def load(self, case: dict[str, Any]) -> float:
        """Load a case, after a step of a tiny one, which loads what libraries load on first use."""
        wanted = Case.from_json(case)
        self.contender.load(Case(wanted.cell, SMOKE_SIZE, wanted.dtype))
        self.contender.step()
        self.contender.load(wanted)
        quiet()
        return 0.0

    def once(self) -> float:
        """Return the seconds of one step."""
        began = time.perf_counter()
        self.contender.step()
        seconds = time.perf_counter() - began
        quiet()
        return seconds


def new_server(name: str) -> Server:
    """Return the server of a contender."""
    contender: Contender = OurCheck() if name == OURS else TorchCheck(*RIVALS[name])
    return PatientServer(contender)


def measure(workers: Mapping[str, Worker], case: Case, rounds: int) -> dict[str, Any]:
    """Compare gradients, then time all contenders in turn, `rounds` times.

    Returns
    -------
    dict
        "case", "differences" by contender and tensor, "seconds" by contender and round.

    Raises
    ------
    UnequalResultsError, WorkerError
    """
    for worker in workers.values():
        worker.ask("load", case=case.to_json())
    reference = OurCheck()
    reference.load(case)
    mine = reference.results([])
    found: dict[str, dict[str, float]] = {}
    for name, worker in workers.items():
        found[name] = differences(mine, results_of(worker, []))
        require_equal(case, name, found[name])
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for number in range(rounds):
        for name in sorted(workers, reverse=number % 2 == 1):
            seconds[name].append(workers[name].ask("once"))
    return {"case": case.to_json(), "differences": found, "seconds": seconds}


def ratios(point: Mapping[str, Any]) -> dict[str, float]:
    """Return each rival's time over ours, the median over rounds; empty without ours."""
    seconds = point["seconds"]
    if OURS not in seconds:
        return {}
    mine = [[value] for value in seconds[OURS]]
    return {
        name: summary.ratio([[value] for value in values], mine).median
        for name, values in seconds.items()
        if name != OURS
    }


def table(points: Sequence[Mapping[str, Any]]) -> str:
    """Return the median times and, behind them, how many times ours these are."""
    lines = [f"{'cell':9}{'H':>4}{'ours':>10}" + "".join(f"{name.removeprefix('torch '):>19}" for name in RIVALS)]
    for point in points:
        case, times, over = Case.from_json(point["case"]), point["seconds"], ratios(point)
        line = f"{case.cell:9}{case.size[3]:4d}"
        line += f"{median(times[OURS]):8.2f} s" if OURS in times else f"{'-':>10}"
        for name in RIVALS:
            if name in times:
                share = f" ({over[name]:.1f} x)" if name in over else ""
                cell = f"{median(times[name]):.2f} s{share}"
                line += f"{cell:>19}"
            else:
                line += f"{'-':>19}"
        lines.append(line)
    return "\n".join(lines)


Net = tuple[Callable[[Any], Any], dict[str, Array], Callable[[Any], dict[str, Array]]]


def tanh_net(inputs: int, hidden: int, outputs: int, seed: int = 0) -> Net:
    """Return the loss of a net of two tanh layers, its parameters, and its gradients, in plain NumPy."""
    rng = np.random.default_rng(seed)
    params = {
        "W": rng.normal(size=(hidden, inputs)) / inputs**0.5,
        "b": rng.normal(size=hidden) / 10,
        "V": rng.normal(size=(outputs, hidden)) / hidden**0.5,
        "c": rng.normal(size=outputs) / 10,
    }
    x, target = rng.normal(size=(8, inputs)), rng.normal(size=(8, outputs))

    def forward(p: Any) -> tuple[Any, Any]:
        h = np.tanh(x @ p["W"].T + p["b"])
        return h, np.tanh(h @ p["V"].T + p["c"])

    def loss(p: Any) -> Any:
        return np.sum((forward(p)[1] - target) ** 2)

    def grads(p: Any) -> dict[str, Array]:
        h, y = forward(p)
        da = 2 * (y - target) * (1 - y * y)
        dz = da @ p["V"] * (1 - h * h)
        return {"W": dz.T @ x, "b": dz.sum(axis=0), "V": da.T @ h, "c": da.sum(axis=0)}

    return loss, params, grads


# What is done to the gradient of W, and whether the check is to pass.
CHANGES: dict[str, Callable[[Array], Array]] = {
    "right": lambda array: array,
    "one entry, 1e-9": lambda array: array * np.where(np.arange(array.size).reshape(array.shape) == 307, 1 + 1e-9, 1),
    "a row, 1e-3": lambda array: array * np.where(np.arange(len(array)) == 5, 1.001, 1)[:, None],
    "sign": lambda array: -array,
}


def functions(rounds: int) -> str:
    """Time the check of functions; return a table of the medians. A wrong verdict ends the run."""
    from rnn_numpy.checks import gradcheck  # type: ignore[attr-defined,unused-ignore]

    lines = [f"{'entries':>8}  {'gradient':16}{'seconds':>8}"]
    for sizes in ((50, 100, 50), (75, 150, 75)):
        loss, params, grads = tanh_net(*sizes)
        for name, change in CHANGES.items():
            seconds = []
            for _ in range(rounds):
                began = time.perf_counter()
                report = gradcheck(loss, params, grads=lambda p, c=change, g=grads: {**g(p), "W": c(g(p)["W"])})
                seconds.append(time.perf_counter() - began)
                if report.ok != (name == "right"):
                    raise RuntimeError(f"gradcheck is mistaken in a gradient that is {name}: {report}")
            lines.append(f"{sum(array.size for array in params.values()):8d}  {name:16}{median(seconds):8.3f}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.gradcheck_speed", description=(__doc__ or "").split(":")[0]
    )
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all")
    made.add_argument("--hidden", nargs="+", type=positive, default=list(HIDDEN), metavar="H", help="default: 16 32 64")
    made.add_argument("--threads", type=positive, default=1, metavar="K", help="default: 1")
    made.add_argument("--repeats", type=positive, help=f"rounds, each one check of all; default {ROUNDS}")
    made.add_argument("--json", type=Path, help="write everything to this file")
    made.add_argument("--smoke", action="store_true", help="one tiny size, one round: does it work?")
    made.add_argument("--functions", action="store_true", help="time our check of functions of many entries, alone")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 for unequal gradients or a worker that fails."""
    options = parser().parse_args(arguments)
    if options.functions:
        print(functions(options.repeats or (SMOKE_ROUNDS if options.smoke else ROUNDS)))
        return 0
    if missing("torch"):
        print("error: torch is not installed", file=sys.stderr)
        return 1
    names = [*([OURS] if has_ours() else []), *RIVALS]
    if OURS not in names:
        print("left out, ours: not there")
    sizes = [SMOKE_SIZE] if options.smoke else [(T, N, D, hidden) for hidden in options.hidden]
    rounds = options.repeats or (SMOKE_ROUNDS if options.smoke else ROUNDS)
    points: list[dict[str, Any]] = []
    began = time.perf_counter()
    try:
        with contextlib.ExitStack() as stack:
            made = {name: Worker(name, options.threads, "benchmarks.gradcheck_speed") for name in names}
            workers = {name: stack.enter_context(worker) for name, worker in made.items()}
            environments = {name: worker.environment for name, worker in workers.items()}
            for cell, size in itertools.product(options.cells, sizes):
                print(f"{cell}, H = {size[3]} ...", file=sys.stderr, flush=True)
                points.append(measure(workers, Case(cell, size, "float64"), rounds))
    except (UnequalResultsError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    steps, batch, inputs, _ = sizes[0]
    print(f"T = {steps}, N = {batch}, D = {inputs}, float64, threads {options.threads}, median of {rounds} rounds;")
    print(f"in brackets how many times ours\n\n{table(points)}")
    if options.json is not None:
        document = {
            "threads": options.threads,
            "rounds": rounds,
            "machine": machine(),
            "contenders": environments,
            "seconds": round(time.perf_counter() - began, 1),
            "points": [point | {"ratios": ratios(point)} for point in points],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    # With a contender's name alone this is that contender's process.
    if len(sys.argv) == 2 and sys.argv[1] in (OURS, *RIVALS):
        sys.exit(worker_main(make=new_server))
    sys.exit(main())
