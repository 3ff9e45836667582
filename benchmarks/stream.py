"""Time one step of a net that answers at once, its state kept between the steps: `python -m benchmarks.stream`.

Ours is `layer.stream()`. Beside it: torch's cell under `inference_mode`; ONNX Runtime's Python API on a model of one
step, whose states go in and out; version 0.2.0's cell; and plain lines of NumPy, for one cell each, with joined weights
and kept buffers, as one writes them for a single purpose. What is timed is T steps in a row; the tables have
microseconds of one. README.md, beside this file, says how to read them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import summary, versions
from benchmarks.cases import DTYPES, Case, problem
from benchmarks.contenders import ONNX, OURS, TORCH, Layer, TorchLayer, covers
from benchmarks.measure import FIELDS, Measurement, measure
from benchmarks.onnx_layer import OnnxLayer, model
from benchmarks.program import reported
from benchmarks.tables import progress
from benchmarks.train_step import PATIENCE, positive, seconds_of, size_of, threads_of
from benchmarks.versions import OLD
from benchmarks.worker import Server, Worker, WorkerError
from benchmarks.worker import main as worker_main

Array = NDArray[Any]

PLAIN = "plain"
MODULE = "benchmarks.stream"
CELLS = ("rnn-tanh", "gru", "lstm")
STEPS = 20
# (T, N, D, H)
SIZES = tuple((STEPS, batch, hidden, hidden) for batch in (1, 8) for hidden in (32, 64, 128, 256, 512))
SMOKE_SIZES = ((4, 1, 5, 5), (4, 3, 5, 5))
ROUNDS = 11
TARGET_SIZE = (STEPS, 1, 128, 128)
TARGETS = {ONNX: 1.5, TORCH: 3.0, OLD: 15.0}  # their time over ours, in float32


class Steps(ABC):
    """T steps in a row, from zero states; `begin` makes these, `once` makes a step and returns its output."""

    case: Case
    once: Callable[[Any], Any]

    @abstractmethod
    def begin(self) -> None:
        """Go back to zero states."""

    @abstractmethod
    def states(self) -> Any:
        """Return the states after the last step, (N, H) each, as arrays."""

    def load_steps(self, case: Case) -> None:
        """Take the inputs of the steps; the first states."""
        self.case, self.xs = case, list(problem(case).x)
        self.begin()

    def step(self) -> None:
        """Make all steps; what they start from makes no difference to their time."""
        once = self.once
        for x in self.xs:
            once(x)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return the outputs and the states after the last step."""
        self.begin()
        output = np.array([np.asarray(self.once(x)) for x in self.xs])
        return self.case.named(output.reshape(self.case.size[:2] + self.case.size[3:]), self.states())


class Ours(Steps, Layer):
    """`rnn_numpy`: the stream of a layer."""

    def load(self, case: Case) -> None:
        """Make the stream."""
        Layer.load(self, case)
        self.stream = self.layer.stream(case.size[1])
        self.once = self.stream.step
        self.load_steps(case)

    def begin(self) -> None:
        """Go back to zero states."""
        self.stream.reset()

    def states(self) -> Any:
        """Return the last states."""
        state = self.stream.state
        return tuple(part[0] for part in state) if isinstance(state, tuple) else state[0]


class Cell(Steps, versions.Version):
    """`rnn_numpy` of 0.2.0: its cell."""

    def load(self, case: Case) -> None:
        """Make the cell."""
        import rnn_numpy

        kind = getattr(rnn_numpy, {"rnn-tanh": "RNNCell", "gru": "GRUCell", "lstm": "LSTMCell"}[case.cell])
        self.cell = kind(case.size[2], case.size[3], dtype=np.dtype(case.dtype), rng=0)
        weights = problem(case).weights
        self.cell.load_state_dict({name.removesuffix("_l0"): array for name, array in weights.items()})
        self.load_steps(case)

    def begin(self) -> None:
        """Go back to zero states."""
        self.state = None

    def once(self, x: Array) -> Any:
        """Make a step."""
        self.state = self.cell(x, self.state)
        return self.state[0] if isinstance(self.state, tuple) else self.state

    def states(self) -> Any:
        """Return the last states."""
        return self.state


class TorchCell(Steps, TorchLayer):
    """`torch.nn`'s cell; the context that says there will be no gradient is entered once for all steps."""

    def load(self, case: Case) -> None:
        """Make the cell, and tensors of the inputs."""
        torch = self.torch
        kind = {"rnn-tanh": torch.nn.RNNCell, "gru": torch.nn.GRUCell, "lstm": torch.nn.LSTMCell}[case.cell]
        self.cell = kind(case.size[2], case.size[3], dtype=getattr(torch, case.dtype))
        weights = problem(case).weights
        self.cell.load_state_dict({name.removesuffix("_l0"): torch.from_numpy(a) for name, a in weights.items()})
        self.load_steps(case)
        self.xs = [torch.from_numpy(x) for x in self.xs]

    def begin(self) -> None:
        """Go back to zero states."""
        zeros = self.torch.zeros(self.case.size[1], self.case.size[3], dtype=getattr(self.torch, self.case.dtype))
        self.state = (zeros, zeros) if self.case.cell == "lstm" else zeros

    def once(self, x: Any) -> Any:
        """Make a step."""
        self.state = self.cell(x, self.state)
        return self.state[0] if isinstance(self.state, tuple) else self.state

    def step(self) -> None:
        """Make all steps."""
        with self.torch.inference_mode():
            super().step()

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return the outputs and the last states."""
        with self.torch.inference_mode():
            return super().results(silent)

    def states(self) -> Any:
        """Return the last states."""
        return tuple(part.numpy() for part in self.state) if isinstance(self.state, tuple) else self.state.numpy()


class OnnxStep(Steps, OnnxLayer):
    """An `onnxruntime.InferenceSession` of one step."""

    def load(self, case: Case) -> None:
        """Make the model and its session."""
        self.session = self.runtime.InferenceSession(
            model(case, one_step=True), sess_options=self.options, providers=["CPUExecutionProvider"]
        )
        self.load_steps(case)
        self.xs = [x[None] for x in self.xs]

    def begin(self) -> None:
        """Go back to zero states."""
        _, batch, _, hidden = self.case.size
        self.names = ("h_0", "c_0")[: len(self.case.finals)]
        self.state: Any = [np.zeros((1, batch, hidden), self.case.dtype) for _ in self.names]

    def once(self, x: Array) -> Array:
        """Make a step."""
        self.state = self.session.run(None, {"X": x, **dict(zip(self.names, self.state, strict=True))})
        h: Array = self.state[0]
        return h

    def states(self) -> Any:
        """Return the last states."""
        return tuple(part[0] for part in self.state) if len(self.state) > 1 else self.state[0][0]


class PlainRNN:
    """h = tanh([W_ih W_hh b] [x; h; 1]), a column each sequence, the result in h's place."""

    def __init__(self, p: dict[str, Array], batch: int) -> None:
        b = p["bias_ih_l0"] + p["bias_hh_l0"]
        self.W = np.concatenate([p["weight_ih_l0"], p["weight_hh_l0"], b[:, None]], axis=1)
        D, H = p["weight_ih_l0"].shape[1], len(b)
        self.s = np.zeros((D + H + 1, batch), b.dtype)
        self.x, self.h, self.a = self.s[:D], self.s[D:-1], np.zeros((H, batch), b.dtype)
        self.s[-1] = 1

    def __call__(self, x: Array) -> Array:
        self.x[...] = x.T
        np.dot(self.W, self.s, self.a)
        np.tanh(self.a, self.h)
        return self.h.T.copy()


class PlainGRU:
    """Two products, since the reset gate acts on one of them; r and z by one tanh."""

    def __init__(self, p: dict[str, Array], batch: int) -> None:
        H, D = p["weight_hh_l0"].shape[1], p["weight_ih_l0"].shape[1]
        self.half = np.array(0.5, p["bias_ih_l0"].dtype)
        scale = np.repeat(np.array([0.5, 0.5, 1], self.half.dtype), H)[:, None]
        self.W, self.U = scale * p["weight_ih_l0"], scale * p["weight_hh_l0"]
        b, c = scale * p["bias_ih_l0"][:, None], scale * p["bias_hh_l0"][:, None]
        b[: 2 * H] += c[: 2 * H]
        self.b, self.c = np.repeat(b, batch, axis=1), np.repeat(c[2 * H :], batch, axis=1)
        self.a, self.q = np.zeros((2, 3 * H, batch), self.half.dtype)
        self.x, self.h = np.zeros((D, batch), self.half.dtype), np.zeros((H, batch), self.half.dtype)
        self.r, self.z, self.n = self.a[:H], self.a[H : 2 * H], self.a[2 * H :]
        self.rz, self.qrz, self.qn = self.a[: 2 * H], self.q[: 2 * H], self.q[2 * H :]

    def __call__(self, x: Array) -> Array:
        self.x[...] = x.T
        np.dot(self.W, self.x, self.a)
        np.dot(self.U, self.h, self.q)
        np.add(self.a, self.b, self.a)
        np.add(self.rz, self.qrz, self.rz)
        np.tanh(self.rz, self.rz)
        np.multiply(self.rz, self.half, self.rz)
        np.add(self.rz, self.half, self.rz)
        np.add(self.qn, self.c, self.qn)
        np.multiply(self.qn, self.r, self.qn)
        np.add(self.n, self.qn, self.n)
        np.tanh(self.n, self.n)
        np.subtract(self.h, self.n, self.h)
        np.multiply(self.h, self.z, self.h)
        np.add(self.h, self.n, self.h)
        return self.h.T.copy()


class PlainLSTM:
    """One product with [W_ih W_hh b], gates o, i, f, g, the first three halved, one tanh for all of them."""

    def __init__(self, p: dict[str, Array], batch: int) -> None:
        b = p["bias_ih_l0"] + p["bias_hh_l0"]
        i, f, g, o = np.split(np.concatenate([p["weight_ih_l0"], p["weight_hh_l0"], b[:, None]], axis=1), 4)
        D, H, self.half = p["weight_ih_l0"].shape[1], len(b) // 4, np.array(0.5, b.dtype)
        self.W = np.concatenate([o * self.half, i * self.half, f * self.half, g])
        self.s, self.a = np.zeros((D + H + 1, batch), b.dtype), np.zeros((4 * H, batch), b.dtype)
        self.c, self.k = np.zeros((2, H, batch), b.dtype)
        self.x, self.h, self.oif = self.s[:D], self.s[D:-1], self.a[: 3 * H]
        self.o, self.i, self.f, self.g = np.split(self.a, 4)
        self.s[-1] = 1

    def __call__(self, x: Array) -> Array:
        self.x[...] = x.T
        np.dot(self.W, self.s, self.a)
        np.tanh(self.a, self.a)
        np.multiply(self.oif, self.half, self.oif)
        np.add(self.oif, self.half, self.oif)
        np.multiply(self.f, self.c, self.c)
        np.multiply(self.i, self.g, self.k)
        np.add(self.c, self.k, self.c)
        np.tanh(self.c, self.k)
        np.multiply(self.o, self.k, self.h)
        return self.h.T.copy()


class Plain(Steps):
    """Lines of NumPy for this one net."""

    def environment(self) -> dict[str, Any]:
        """Return NumPy's version."""
        return {"numpy": np.__version__}

    def load(self, case: Case) -> None:
        """Join the weights, take the buffers."""
        made: dict[str, Any] = {"rnn-tanh": PlainRNN, "gru": PlainGRU, "lstm": PlainLSTM}
        self.once = self.net = made[case.cell](problem(case).weights, case.size[1])
        self.load_steps(case)

    def begin(self) -> None:
        """Go back to zero states."""
        self.net.h[...] = 0
        if isinstance(self.net, PlainLSTM):
            self.net.c[...] = 0

    def states(self) -> Any:
        """Return the last states."""
        h = self.net.h.T.copy()
        return (h, self.net.c.T.copy()) if isinstance(self.net, PlainLSTM) else h


CONTENDERS: dict[str, Callable[[], Any]] = {OURS: Ours, TORCH: TorchCell, ONNX: OnnxStep, OLD: Cell, PLAIN: Plain}
RIVALS = tuple(name for name in CONTENDERS if name != OURS)


def new_server(name: str) -> Server:
    """Return the server of a contender."""
    return Server(CONTENDERS[name]())


def run(
    cases: Sequence[Case], threads: Sequence[int], rivals: Sequence[str], old: Path | None, rounds: int, patience: float
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measure all cases with each number of threads; return also what the contenders say of themselves."""
    measurements: list[Measurement] = []
    environments: dict[str, Any] = {}
    with progress(len(cases) * len(threads)) as report, contextlib.ExitStack() as stack:
        source = stack.enter_context(versions.sources(old, False))[OLD] if OLD in rivals else None
        for count in threads:
            workers = {
                name: stack.enter_context(Worker(name, count, MODULE, source=source if name == OLD else None))
                for name in (OURS, *rivals)
            }
            environments[str(count)] = {name: worker.environment for name, worker in workers.items()}
            if source is not None and Path(workers[OLD].environment.pop("source")) != source:
                raise WorkerError(f"worker {OLD} has another package than that of {source}")
            for case in cases:
                report(len(measurements), f"{case}, threads {count}")
                # ONNX Runtime's cells know float32 alone.
                able = {name: worker for name, worker in workers.items() if covers(name, case)}
                measurements.append(measure(able, case, count, rounds, patience))
    return measurements, environments


def judged(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return each target with its value, and whether it is met."""
    return [
        {
            "target": f"{m.case}: {name} over {OURS} at least {bound:g}",
            "value": m.ratio(name).median,
            "met": m.ratio(name).median >= bound,
        }
        for m in measurements
        if m.threads == 1 and m.case.size == TARGET_SIZE and m.case.dtype == "float32"
        for name, bound in TARGETS.items()
        if name in m.rivals
    ]


def table(measurements: Sequence[Measurement], rivals: Sequence[str] = RIVALS) -> str:
    """Return the table: a line for each cell, size, dtype, number of threads; microseconds of a step, then ratios."""
    lines = [
        f"{'cell':8} {'N':>3} {'H':>4} {'dtype':8} {'thr':>3} {'ours us':>8}"
        + "".join(f"{name:>12}" for name in rivals)
        + "  their time over ours:"
        + "".join(f"{name:>12}" for name in rivals)
    ]
    for m in measurements:
        steps, batch, _, hidden = m.case.size
        line = f"{m.case.cell:8} {batch:3d} {hidden:4d} {m.case.dtype:8} {m.threads:3d}"
        line += f" {summary.typical(m.used(OURS)) / 1e3 / steps:8.1f}"
        for name in rivals:
            line += f"{summary.typical(m.used(name)) / 1e3 / steps:12.1f}" if name in m.rivals else f"{'-':>12}"
        line += " " * 23
        for name in rivals:
            line += f"{m.ratio(name).median:12.2f}" if name in m.rivals else f"{'-':>12}"
        lines.append(line + (" ~" if m.noisy else ""))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=(__doc__ or "").split(":")[0])
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all")
    made.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS), help="default: all")
    made.add_argument("--sizes", nargs="+", type=size_of, metavar="T,N,D,H", help="default: N 1 and 8, H 32 to 512")
    made.add_argument("--threads", nargs="+", type=threads_of, metavar="K|all", default=[1], help="default: 1")
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="default: both")
    made.add_argument("--repeats", type=positive, help=f"rounds, each a block of all contenders; default {ROUNDS}")
    made.add_argument("--patience", type=seconds_of, default=PATIENCE, metavar="S", help="seconds to wait for quiet")
    made.add_argument("--old", type=Path, metavar="FOLDER", help=f"source tree of {OLD}; default: out of git")
    made.add_argument("--json", type=Path, help="write everything, raw times included, to this file")
    made.add_argument("--smoke", action="store_true", help="small sizes, one round: does it all work?")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 for unequal results or a worker that fails."""
    options = parser().parse_args(arguments)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser().error(f"--json: there is no folder {options.json.resolve().parent}")
    rounds, patience = (1, 0.0) if options.smoke else (options.repeats or ROUNDS, options.patience)
    sizes = options.sizes or (SMOKE_SIZES if options.smoke else SIZES)
    kinds = itertools.product(options.cells, sizes, options.dtypes)
    cases = [Case(cell, size, dtype, mode="inference") for cell, size, dtype in dict.fromkeys(kinds)]
    rivals = tuple(dict.fromkeys(options.rivals))
    threads = list(dict.fromkeys(options.threads))
    asked = {"sizes": sizes, "repeats": rounds, "patience": patience}
    return reported(
        lambda: run(cases, threads, rivals, options.old, rounds, patience), judged,
        lambda measurements: table(measurements, rivals), FIELDS, asked, options.json,
    )  # fmt: skip


if __name__ == "__main__":
    # With a contender's name alone this is that contender's process.
    if len(sys.argv) == 2 and sys.argv[1] in CONTENDERS:
        sys.exit(versions.serve(new_server) if sys.argv[1] == OLD else worker_main(make=new_server))
    sys.exit(main())
