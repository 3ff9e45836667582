r"""Which cell learns a task of which length, how fast, and what its gradient does meanwhile.

A run is a cell, a length and a seed: a recurrent layer and a linear readout (`rnn_numpy.models.SequenceModel`),
float32, trained by Adam on a fresh batch at each update, the norm of the gradient clipped. It ends when the task is
solved, or at a cap on the updates.

What is measured
----------------
- *Held-out loss*: every 50 updates, on 500 sequences that are no part of the training. The task is *solved* at the
  first of these updates at which it is below the task's goal, and the run ends there.
- *Error*: the held-out loss at the end over the baseline of the task: 1 is what needs no memory, or a linear fit.
- *Clip rate*: the share of the updates at which clipping engaged, from a `ClipLedger`. An update whose gradient is not
  finite is left out and counted; ten of them in a row end the run.
- *Reach* of the gradient, at the start and at the end, by `rnn_numpy.lab.gradient_flow` in float64: the first lag at
  which a hundredth is left of the gradient of the last step's error (the whole error, of a task that reads the last
  step) with respect to the state, on 16 sequences. Where it halves every 2 steps, 2^-50, 1e-15, of it is left 100 steps
  back, too little to learn from. A cell with gates can begin there and still learn: what it learns at short lags opens
  the gates, and the reach at the end, much longer, is what says so.

All cells of a length see the same sequences for the same seed, so that they differ in the cell alone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite
from rnn_numpy.engine import Recurrent
from rnn_numpy.errors import OptionError
from rnn_numpy.experiments.gradflow import all_different, quiet_loss, some_cells, versions
from rnn_numpy.experiments.networks import Executor, Measurement, Point, flow_of, kept_flow, measure_all
from rnn_numpy.experiments.progress import Progress
from rnn_numpy.lab.gradient_flow import GradientFlow, gradient_flow, last_step_gradient
from rnn_numpy.layers import KINDS
from rnn_numpy.layers.initializers import irnn
from rnn_numpy.models import SequenceModel
from rnn_numpy.tasks import NARMA10, Adding, Batch, CopyMemory, MackeyGlass, Parity, SequenceTask, TemporalOrder
from rnn_numpy.training import Adam, ClipLedger, ClipResult, clip_grad_norm

CELLS = ("rnn-tanh", "rnn-relu", "irnn", "lstm", "gru")


TASKS: Mapping[str, Callable[[int], SequenceTask]] = {
    "adding": Adding,
    "copy": CopyMemory,
    "temporal-order": TemporalOrder,
    "temporal-order-3": partial(TemporalOrder, symbols=3),
    "parity": Parity,
    "narma10": NARMA10,
    "mackey-glass": MackeyGlass,
}

CHECK_EVERY = 50  # updates
HELD_OUT = 500  # sequences
MEASURED = 16  # sequences, of the gradient flow
GIVE_UP = 10  # updates in a row without a finite gradient


@dataclass(frozen=True)
class BenchmarkOptions:
    """What `run_benchmark` compares, and how.

    Parameters
    ----------
    task : str
        One of `TASKS`.
    lengths : sequence of int
        Of the task: T, or the delay of copy.
    cells : sequence of {"rnn-tanh", "rnn-relu", "irnn", "lstm", "gru"}
        "irnn" is the relu RNN that starts at the identity.
    seeds : int
        How many; they are 0, 1, ...
    hidden, batch, max_updates : int
        H, N, and the cap on the updates.
    lr, clip : float
        Of Adam; the norm of all gradients together is clipped to `clip`.
    forget_bias : float
        Of lstm, at the start.
    """

    task: str = "adding"
    lengths: Sequence[int] = (50,)
    cells: Sequence[str] = ("rnn-tanh", "irnn", "lstm", "gru")
    seeds: int = 1
    hidden: int = 64
    batch: int = 50
    max_updates: int = 4000
    lr: float = 2e-3
    clip: float = 1.0
    forget_bias: float = 1.0

    def __post_init__(self) -> None:
        where = "BenchmarkOptions"
        arguments.one_of(where, "task", self.task, TASKS)
        some_cells(where, self.cells, CELLS)
        all_different(where, "lengths", self.lengths)
        for length in self.lengths:
            TASKS[self.task](length)
        # NumPy's numbers become Python's, which JSON can hold.
        numbers: dict[str, Any] = {"lengths": tuple(int(length) for length in self.lengths)}
        for name in ("seeds", "hidden", "batch", "max_updates"):
            numbers[name] = arguments.positive_int(where, name, getattr(self, name))
        for name in ("lr", "clip"):
            numbers[name] = arguments.positive_number(where, name, getattr(self, name))
        numbers["forget_bias"] = arguments.real_number(where, "forget_bias", self.forget_bias)
        for name, number in numbers.items():
            object.__setattr__(self, name, number)


@dataclass(frozen=True)
class BenchmarkRun:
    """One cell at one length with one seed.

    Attributes
    ----------
    cell : str
    length, seed : int
    checked : list of int
        The updates after which the held-out loss was measured, from 0 on.
    losses : list of float
        These losses.
    solved_at : int or None
        The first of these updates with a loss below the goal.
    ledger : ClipLedger
        Of all updates.
    before, after : GradientFlow
    seconds, cpu_seconds : float
        Of training and the checks: on the clock, and of this process's work. The second is the time on a core of one's
        own.
    stopped : str
        Why the run ended early without being solved; empty if it did not.
    """

    cell: str
    length: int
    seed: int
    checked: list[int]
    losses: list[float]
    solved_at: int | None
    ledger: ClipLedger
    before: GradientFlow
    after: GradientFlow
    seconds: float
    cpu_seconds: float
    stopped: str = ""

    @property
    def updates(self) -> int:
        """Updates, the skipped ones included."""
        return len(self.ledger)

    def kept(self) -> dict[str, Any]:
        """Return all but cell, length and seed as what JSON can hold, bit for bit."""
        return {
            "checked": self.checked,
            "losses": self.losses,
            "solved_at": self.solved_at,
            "ledger": [list(asdict(result).values()) for result in self.ledger.results],
            "before": kept_flow(self.before),
            "after": kept_flow(self.after),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "stopped": self.stopped,
        }

    @classmethod
    def of(cls, cell: str, length: int, seed: int, kept: Mapping[str, Any]) -> BenchmarkRun:
        """Return the run of which `kept` has returned this."""
        ledger = ClipLedger()
        for values in kept["ledger"]:
            ledger.record(ClipResult(*values))
        made = {"ledger": ledger, "before": flow_of(kept["before"]), "after": flow_of(kept["after"])}
        return cls(cell, length, seed, **{**kept, **made})


@dataclass(frozen=True)
class BenchmarkResult:
    """All runs, and what they were compared on.

    Attributes
    ----------
    options : BenchmarkOptions
    baselines, goals : mapping of int to float
        Of the task, by length.
    runs : list of BenchmarkRun
        By length, then cell, then seed.
    """

    options: BenchmarkOptions
    baselines: Mapping[int, float]
    goals: Mapping[int, float]
    runs: list[BenchmarkRun] = field(default_factory=list)

    def of(self, length: int, cell: str) -> list[BenchmarkRun]:
        """Return the runs of one cell at one length, seed after seed."""
        return [run for run in self.runs if run.length == length and run.cell == cell]

    def flows(self, length: int, cell: str) -> tuple[GradientFlow, GradientFlow]:
        """Return the gradient flow at the start and at the end, all seeds' sequences taken together."""
        runs = self.of(length, cell)
        return _pooled([run.before for run in runs]), _pooled([run.after for run in runs])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python objects that strict JSON can hold; what is not finite as None."""
        return {
            "what": {
                "losses": f"on {HELD_OUT} held-out sequences, after as many updates as 'checked' says",
                "solved_at": "first of these updates with a loss below the goal, where the run ends; null: none",
                "error": "last of these losses over the baseline",
                "before, after": "how the gradient of the last step's error flows back through time, at the start and "
                "at the end; slopes are of the natural log of its norm, per step",
                "cpu_seconds": "processor time of the process; on a busy machine 'seconds' is longer",
            },
            "versions": versions(),
            "options": asdict(self.options)
            | {"cells": list(self.options.cells), "lengths": list(self.options.lengths)}
            | {"dtype": "float32", "check_every": CHECK_EVERY},
            "baselines": {str(length): value for length, value in self.baselines.items()},
            "goals": {str(length): value for length, value in self.goals.items()},
            "runs": [
                {
                    "cell": run.cell,
                    "length": run.length,
                    "seed": run.seed,
                    "updates": run.updates,
                    "solved_at": run.solved_at,
                    "stopped": run.stopped or None,
                    "error": finite(run.losses[-1] / self.baselines[run.length]),
                    "checked": run.checked,
                    "losses": [finite(loss) for loss in run.losses],
                    "clipping": run.ledger.to_dict(),
                    "before": run.before.to_dict(),
                    "after": run.after.to_dict(),
                    "seconds": run.seconds,
                    "cpu_seconds": run.cpu_seconds,
                }
                for run in self.runs
            ],
        }


def run_benchmark(
    options: BenchmarkOptions,
    progress: Progress | None = None,
    *,
    executor: Executor = "serial",
    store: str | os.PathLike[str] | None = None,
) -> BenchmarkResult:
    """Train every cell on the task at every length with every seed.

    Parameters
    ----------
    options : BenchmarkOptions
    progress : callable, optional
        Called with the number of runs that are finished, their total, and what the last one has shown.
    executor, store
        Where runs are computed, and the file that keeps each one as soon as it is finished: see
        `rnn_numpy.experiments.sweep`. Runs of other options or sources than these are not taken from it.

    Notes
    -----
    The same seed gives the same numbers to the last bit on the same machine with the same number of threads, but for
    the times. Elsewhere sums are rounded in another order, and the updates to a solution differ.

    Examples
    --------
    >>> options = BenchmarkOptions("adding", lengths=[2], cells=["gru"], hidden=16, max_updates=500, lr=0.01)
    >>> result = run_benchmark(options)
    >>> result.runs[0].solved_at is not None, result.runs[0].losses[-1] < result.goals[2]
    (True, True)
    """
    tasks = {length: TASKS[options.task](length) for length in options.lengths}
    result = BenchmarkResult(
        options,
        {length: task.baseline for length, task in tasks.items()},
        {length: task.goal for length, task in tasks.items()},
    )
    points: list[dict[str, Any]] = [
        {"length": length, "cell": cell, "seed": seed}
        for length in tasks
        for cell in options.cells
        for seed in range(options.seeds)
    ]

    def told(point: Point, kept: Any) -> str:
        run = BenchmarkRun.of(**point, kept=kept)
        label = f"{run.cell}, length {run.length}" + (f", seed {run.seed}" if options.seeds > 1 else "")
        solved = f"solved after {run.solved_at}" if run.solved_at is not None else f"not solved in {run.updates}"
        return f"{label}: {solved} updates, {run.seconds:.1f} s"

    found = measure_all(benchmark_measurement(options), points, told, progress, executor, store)
    result.runs.extend(BenchmarkRun.of(**point, kept=kept) for point, kept in zip(points, found, strict=True))
    return result


def benchmark_measurement(options: BenchmarkOptions) -> Measurement:
    """Return what `run_benchmark` computes for each run; runs of other lengths, cells and seeds share it."""
    shortest = next(length for length in range(1, 1000) if _has_length(options.task, length))
    return _Measurement(replace(options, lengths=(shortest,), cells=CELLS, seeds=1))


def _has_length(task: str, length: int) -> bool:
    try:
        TASKS[task](length)
    except OptionError:
        return False
    return True


class _Measurement(Measurement):
    """Train a net on a task."""

    def __init__(self, options: BenchmarkOptions) -> None:
        super().__init__()
        self.options = options

    def measured(self, length: int, cell: str, seed: int) -> dict[str, Any]:  # type: ignore[override]
        """Return the run as `BenchmarkRun.kept` does."""
        return _run(TASKS[self.options.task](length), self.options, cell, length, seed).kept()


def benchmark_layer(cell: str, inputs: int, options: BenchmarkOptions, rng: np.random.Generator) -> Recurrent:
    """Make the recurrent layer that a benchmark calls `cell`, float32, as it is at the start."""
    if cell == "irnn":
        layer = KINDS["rnn-relu"](inputs, options.hidden, dtype=np.float32, rng=rng)
        irnn(layer, rng=rng)
        return layer
    more = {"forget_bias": options.forget_bias} if cell == "lstm" else {}
    return KINDS[cell](inputs, options.hidden, dtype=np.float32, rng=rng, **more)


def task_gradient_flow(model: SequenceModel, batch: Batch) -> GradientFlow:
    """Measure, in float64, how the gradient of each sequence's error at the last step flows back through time."""
    with np.errstate(all="ignore"):
        twin = model.astype(np.float64)
        target = batch.target[-1] if twin.reads == "all" else batch.target
        return gradient_flow(twin.rnn, batch.x, last_step_gradient(twin, twin.rnn(batch.x)[0][-1], target))


def _run(task: SequenceTask, options: BenchmarkOptions, cell: str, length: int, seed: int) -> BenchmarkRun:
    # Four streams of one seed: weights, training, held-out sequences, those of the gradient flow.
    weights, drawn, held_out, measured = (np.random.default_rng([seed, stream]) for stream in range(4))
    layer = benchmark_layer(cell, task.inputs, options, weights)
    model = SequenceModel(layer, task.outputs, reads=task.reads, loss=task.loss, rng=weights)
    flow_batch, test = task.held_out(MEASURED, measured), _single(task.held_out(HELD_OUT, held_out))
    before = task_gradient_flow(model, flow_batch)
    optimizer, ledger = Adam(model.params, options.lr), ClipLedger()
    checked, losses = [0], [quiet_loss(model, test)]
    stopped, bad = "", 0
    clock, processor = time.perf_counter(), time.process_time()
    with np.errstate(all="ignore"):
        for update in range(1, options.max_updates + 1):
            batch = _single(task.draw(options.batch, drawn))
            _, grads, _ = model.loss_and_grads(*batch)
            clipping = ledger.record(clip_grad_norm(grads, options.clip, on_nonfinite="skip"))
            bad = bad + 1 if clipping.skipped else 0
            if bad == GIVE_UP:
                stopped = f"the gradient was not finite in {GIVE_UP} updates in a row"
                break
            if not clipping.skipped:
                optimizer.step(grads)
            if update % CHECK_EVERY == 0 or update == options.max_updates:
                checked.append(update)
                losses.append(quiet_loss(model, test))
                if losses[-1] < task.goal:
                    break
    seconds, cpu_seconds = time.perf_counter() - clock, time.process_time() - processor
    solved_at = checked[-1] if losses[-1] < task.goal else None
    after = task_gradient_flow(model, flow_batch)
    return BenchmarkRun(
        cell, length, seed, checked, losses, solved_at, ledger, before, after, seconds, cpu_seconds, stopped
    )


def _single(batch: Batch) -> Batch:
    """Return a batch in the precision in which it is trained; classes stay integers."""
    target = batch.target.astype(np.float32) if batch.target.dtype.kind == "f" else batch.target
    return Batch(batch.x.astype(np.float32), target, batch.mask)


def _pooled(flows: Sequence[GradientFlow]) -> GradientFlow:
    """Return one flow of the sequences of several."""
    gates = {gate: math.fsum(flow.gates[gate] for flow in flows) / len(flows) for gate in flows[0].gates}
    norms = np.concatenate([flow.norms for flow in flows], axis=1)
    return GradientFlow(norms, sum(flow.independent for flow in flows), gates)
