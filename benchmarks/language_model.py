"""Time an update of a language model, ours and others': `python -m benchmarks.language_model`.

An update: embedding, recurrent layer, readout, cross-entropy, backward, clipping by norm 5, Adam. README.md, beside
this file, says who is compared and how to read the table.
"""

from __future__ import annotations

import abc
import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import summary
from benchmarks.cases import DTYPES, Case, problem
from benchmarks.contenders import JAX, OURS, PRODUCTS, TORCH, Products, TorchLayer, layer_of, missing
from benchmarks.jax_layer import JaxLayer, network
from benchmarks.measure import FIELDS, Measurement, UnequalResultsError, machine, measure, source_digest
from benchmarks.tables import progress
from benchmarks.train_step import PATIENCE, positive, seconds_of, threads_of
from benchmarks.worker import Server, Worker, WorkerError
from benchmarks.worker import main as worker_main

Array = NDArray[Any]

TRAIN = "train"
CELLS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn-tanh"}
SIZE, SMOKE_SIZE = (64, 32, 32, 128), (8, 4, 8, 16)  # T, N, E, H
V = 103
LR, MAX_NORM = 1e-3, 5.0
BATCHES = 8  # that come round again
COMPARED = 6  # updates whose losses must be equal
ROUNDS = 25
MANY = 10_000  # ids, beside V, of the embedding's own line

# Time of the other over ours, with one thread in float32; of `train`, its time over the bare loop's.
TARGETS = {(TORCH, "lstm"): 0.9, (TORCH, "gru"): 1.5, (TORCH, "rnn"): 2.5, **{(JAX, cell): 1.0 for cell in CELLS}}
OVERHEAD, EMBEDDING = 1.02, 3.0


class Text:
    """The weights of a case's model, by our names, and its batches (ids, targets), each (T, N)."""

    def __init__(self, case: Case) -> None:
        steps, batch, inputs, hidden = case.size
        rng = np.random.default_rng(case.seed)
        bound = 1 / np.sqrt(hidden)
        weights = {f"rnn.{name}": array for name, array in problem(case).weights.items()}
        weights["embedding.weight"] = rng.standard_normal((V, inputs)).astype(case.dtype)
        weights["readout.weight"] = rng.uniform(-bound, bound, (V, hidden)).astype(case.dtype)
        weights["readout.bias"] = rng.uniform(-bound, bound, V).astype(case.dtype)
        ids = rng.integers(0, V, (BATCHES, steps + 1, batch))
        self.weights = weights
        self.batches: list[tuple[Array, Array]] = [(text[:-1].copy(), text[1:].copy()) for text in ids]

    def endless(self) -> Iterator[tuple[Array, Array]]:
        """Yield the batches, again and again."""
        while True:
            yield from self.batches


class Updates(abc.ABC):
    """Base of the contenders: `update` makes the next update and returns its loss."""

    def load(self, case: Case) -> None:
        """Make a new model and a new optimiser."""
        self.case, self.text = case, Text(case)
        self.batches = self.text.endless()
        self.start()

    @abc.abstractmethod
    def start(self) -> None:
        """Make model and optimiser from `text.weights`."""

    @abc.abstractmethod
    def update(self) -> float:
        """Make one update."""

    def step(self) -> None:
        """What is timed."""
        self.update()

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return the losses of the first updates of a new model."""
        self.load(self.case)
        return {"losses": np.array([self.update() for _ in range(COMPARED)])}


class Bare(Updates):
    """Ours, in a loop written by hand."""

    def environment(self) -> dict[str, Any]:
        """Return NumPy's versions and ours."""
        return Products().environment()

    def start(self) -> None:
        """Make the model and Adam."""
        from rnn_numpy import Adam
        from rnn_numpy.models import LanguageModel

        self.model = LanguageModel(layer_of(self.case), V)
        self.model.load_state_dict(self.text.weights)
        self.optimizer = Adam(self.model.params, LR)

    def update(self) -> float:
        """Gradients, clipping, step."""
        from rnn_numpy import clip_grad_norm

        loss, grads, _ = self.model.loss_and_grads(*next(self.batches))
        clip_grad_norm(grads, MAX_NORM)
        self.optimizer.step(grads)
        return float(loss)


class Trained(Bare):
    """Ours, by `train`."""

    def start(self) -> None:
        """Make the training as well."""
        from rnn_numpy.training import train

        super().start()
        self.training = train(self.model, self.batches, self.optimizer, clip=MAX_NORM)

    def update(self) -> float:
        """The next update of the training."""
        return next(self.training).loss


class Torch(Updates, TorchLayer):
    """torch.nn's modules, its cross_entropy, and its fused Adam."""

    def start(self) -> None:
        """Make the modules with the same weights."""
        nn, dtype = self.torch.nn, getattr(self.torch, self.case.dtype)
        _, _, inputs, hidden = self.case.size
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn-tanh": nn.RNN}[self.case.cell]
        self.model = nn.ModuleDict(
            {
                "embedding": nn.Embedding(V, inputs, dtype=dtype),
                "rnn": kind(inputs, hidden, dtype=dtype),
                "readout": nn.Linear(hidden, V, dtype=dtype),
            }
        )
        self.model.load_state_dict({name: self.torch.from_numpy(array) for name, array in self.text.weights.items()})
        self.parameters = list(self.model.parameters())
        self.optimizer = self.torch.optim.Adam(self.parameters, lr=LR, fused=True)
        tensors = [tuple(map(self.torch.from_numpy, batch)) for batch in self.text.batches]
        self.batches = (batch for _ in iter(int, 1) for batch in tensors)

    def update(self) -> float:
        """Forward, backward, clipping, step."""
        torch, model = self.torch, self.model
        ids, targets = next(self.batches)
        output, _ = model["rnn"](model["embedding"](ids))
        logits = model["readout"](output)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), targets.reshape(-1))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()
        return float(loss.detach())


class Jax(Updates, JaxLayer):
    """One jitted function for the whole update: a scan, its gradient, Adam; it gets the old parameters' memory."""

    def start(self) -> None:
        """Hand the arrays to JAX; the first update compiles."""
        jax, jnp = self.jax, self.jax.numpy
        run = network(self.case.cell)
        layer = [name for name in self.text.weights if name.startswith("rnn.")]

        def loss_of(params: dict[str, Any], ids: Any, targets: Any) -> Any:
            weights = {name.removeprefix("rnn."): params[name] for name in layer}
            output, _ = run(weights, params["embedding.weight"][ids])
            logits = output @ params["readout.weight"].T + params["readout.bias"]
            log_p = jax.nn.log_softmax(logits)
            return -jnp.mean(jnp.take_along_axis(log_p, targets[..., None], axis=-1))

        def update(state: tuple[Any, Any, Any, Any], ids: Any, targets: Any) -> tuple[Any, Any]:
            params, first, second, t = state
            loss, grads = jax.value_and_grad(loss_of)(params, ids, targets)
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
            grads = jax.tree.map(lambda g: g * jnp.minimum(1, MAX_NORM / norm), grads)
            t = t + 1
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
            rate, scale = LR / (1 - 0.9**t), 1 / jnp.sqrt(1 - 0.999**t)
            params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) * scale + 1e-8), params, first, second)
            return (params, first, second, t), loss

        params = {name: jnp.array(array) for name, array in self.text.weights.items()}
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
        self.state = (params, *zeros, jnp.zeros((), self.case.dtype))
        if not hasattr(self, "compiled"):
            self.compiled = jax.jit(update, donate_argnums=0)
        arrays = [tuple(map(jnp.asarray, batch)) for batch in self.text.batches]
        self.batches = (batch for _ in iter(int, 1) for batch in arrays)

    def load(self, case: Case) -> None:
        """Another case needs another function."""
        if getattr(self, "case", case) != case:
            del self.compiled
        super().load(case)

    def update(self) -> float:
        """Call the compiled function and wait for its results."""
        self.state, loss = self.compiled(self.state, *next(self.batches))
        self.jax.block_until_ready(self.state)
        return float(loss)


class Floor(Products):
    """The products of our update and nothing else: those of the layer and the readout's three, each the fastest way."""

    def load(self, case: Case) -> None:
        """Allocate operands and results."""
        from rnn_numpy.engine.binding import InPieces

        super().load(case)
        steps, batch, _, hidden = case.size
        self.readout = np.ones((V, hidden), case.dtype)
        self.logits, self.output = np.ones((steps * batch, V), case.dtype), np.ones((steps * batch, hidden), case.dtype)
        self.dreadout, self.doutput = np.empty_like(self.readout), np.empty_like(self.output)
        for name in ("forward", "backward"):
            plain, repeats = getattr(self, name), range(20)
            if plain.units_first:
                pieces = plain.weight.view(InPieces)
                run = lambda left=plain.left, pieces=pieces: [pieces.dot(columns) for columns in left]  # noqa: E731
                if min(_seconds(run) for _ in repeats) < min(_seconds(plain.run) for _ in repeats):
                    plain.run = run

    def step(self) -> None:
        """Those of the layer, then logits, dW and dh of the readout."""
        super().step()
        np.dot(self.output, self.readout.T, out=self.logits)
        np.dot(self.logits.T, self.output, out=self.dreadout)
        np.dot(self.logits, self.readout, out=self.doutput)


CONTENDERS: dict[str, Callable[[], Any]] = {OURS: Bare, TRAIN: Trained, TORCH: Torch, JAX: Jax, PRODUCTS: Floor}


class LanguageServer(Server):
    """One contender's process; it also makes a first update, and times the embedding."""

    def first(self, case: dict[str, Any]) -> float:
        """Load a case, make one update, and return its loss."""
        self.contender.load(Case.from_json(case))
        return self.contender.update()  # type: ignore[attr-defined, no-any-return]

    def embedding(self, case: dict[str, Any], ids: int, rounds: int) -> list[list[float]]:
        """Return microseconds of Embedding.backward and of np.add.at, by round, for uniform ids below `ids`."""
        from rnn_numpy.layers import Embedding

        given = Case.from_json(case)
        steps, batch, width, _ = given.size
        rng = np.random.default_rng(0)
        layer = Embedding(ids, width, dtype=given.dtype)
        text = rng.integers(0, ids, (steps, batch))
        _, trace = layer.forward(text)
        de = rng.standard_normal((steps, batch, width)).astype(given.dtype)
        grads, other = layer.params.zeros_like(), layer.params.zeros_like()
        ours: Callable[[], Any] = lambda: layer.backward(trace, de, grads)  # noqa: E731
        theirs: Callable[[], Any] = lambda: np.add.at(other["weight"], text, de)  # noqa: E731
        ours(), theirs()
        bound = 8 * np.finfo(given.dtype).eps * steps * batch * np.abs(de).max()
        if not np.all(np.abs(grads["weight"] - other["weight"]) <= bound):
            raise UnequalResultsError("Embedding.backward and np.add.at do not add up to the same")
        return [[1e6 * _seconds(ours, 20), 1e6 * _seconds(theirs, 20)] for _ in range(rounds)]

    def overhead(self, case: dict[str, Any], rounds: int) -> list[list[float]]:
        """Return milliseconds of an update by the bare loop and by `train`, by round, in this one process.

        Two processes lay their memory out differently, which alone makes a difference of some per cent.
        """
        sides: list[Updates] = [Bare(), Trained()]
        for side in sides:
            side.load(Case.from_json(case))
        found: list[list[float]] = []
        for number in range(rounds):
            pair = [0.0, 0.0]
            for index in (0, 1) if number % 2 else (1, 0):
                sides[index].step()
                pair[index] = 1e3 * _seconds(sides[index].step, 2)
            found.append(pair)
        return found


def new_server(name: str) -> Server:
    """Return the server of a contender."""
    return LanguageServer(CONTENDERS[name]())


def started(name: str, threads: int) -> Worker:
    """Start the process of a contender."""
    return Worker(name, threads, "benchmarks.language_model")


def cold_start(name: str, case: Case, threads: int) -> float:
    """Return the seconds from the start of a process to its first loss: imports, compilation, one update."""
    began = time.perf_counter()
    with started(name, threads) as worker:
        worker.ask("first", case=case.to_json())
        return time.perf_counter() - began


def run(
    cases: Sequence[Case], names: Sequence[str], threads: Sequence[int], rounds: int, patience: float
) -> tuple[list[Measurement], dict[str, Any]]:
    """Measure all cases with each number of threads; return also what the contenders say of themselves."""
    measurements: list[Measurement] = []
    environments: dict[str, Any] = {}
    with progress(len(cases) * len(threads)) as report, contextlib.ExitStack() as stack:
        for count in threads:
            workers = {name: stack.enter_context(started(name, count)) for name in names}
            environments[str(count)] = {name: worker.environment for name, worker in workers.items()}
            for case in cases:
                report(len(measurements), f"{case}, threads {count}")
                measurements.append(measure(workers, case, count, rounds, patience))
    return measurements, environments


def judged(
    measurements: Sequence[Measurement], overhead: Mapping[str, float], embedding: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return each target with its value and whether it is met."""
    rows: list[dict[str, Any]] = []
    titles = {cell: title for title, cell in CELLS.items()}
    for m in measurements:
        if m.threads == 1 and m.case.dtype == "float32" and m.case.size == SIZE:
            for rival in filter((TORCH, JAX).__contains__, m.rivals):
                value, bound = m.ratio(rival).median, TARGETS[rival, titles[m.case.cell]]
                text = f"{m.case.cell}: {rival} over ours at least {bound}"
                rows.append({"target": text, "value": value, "met": value >= bound})
    for case, value in overhead.items():
        text = f"{case}: train over a bare loop below {OVERHEAD}"
        rows.append({"target": text, "value": value, "met": value < OVERHEAD})
    for ids, value in embedding.items():
        text = f"np.add.at over Embedding.backward, {ids} ids, at least {EMBEDDING:g}"
        rows.append({"target": text, "value": value, "met": value >= EMBEDDING})
    return rows


def table(measurements: Sequence[Measurement], cold: Mapping[str, Mapping[str, float]]) -> str:
    """Return the table: a line for each cell, dtype and number of threads."""
    names = list(measurements[0].times)
    heads = [name for name in (TRAIN, TORCH, JAX) if name in names]
    lines = [
        f"{'cell':9} {'dtype':8} {'thr':>3} {'ours ms':>8} {'products':>9}"
        + "".join(f"{name + ' ms':>10}{'/ ours':>8}" for name in heads)
    ]
    for m in measurements:
        milliseconds = {name: summary.typical(m.used(name)) / 1e6 for name in names}
        line = (
            f"{m.case.cell:9} {m.case.dtype:8} {m.threads:3d} {milliseconds[OURS]:8.2f} {milliseconds[PRODUCTS]:9.2f}"
        )
        line += "".join(f"{milliseconds[name]:10.2f}{m.ratio(name).median:8.3f}" for name in heads)
        lines.append(line + (" ~" if m.noisy else ""))
    for cell, seconds in cold.items():
        lines.append(f"first loss of a new process, {cell}: " + ", ".join(f"{n} {s:.2f} s" for n, s in seconds.items()))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.language_model", description=(__doc__ or "").split(":")[0]
    )
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all")
    made.add_argument("--contenders", nargs="+", choices=(TORCH, JAX), help="default: those that are installed")
    made.add_argument("--threads", nargs="+", type=threads_of, metavar="K|all", default=[1], help="default: 1")
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="default: float32")
    made.add_argument("--repeats", type=positive, help=f"rounds, each a block of updates of all; default {ROUNDS}")
    made.add_argument("--patience", type=seconds_of, default=PATIENCE, metavar="S", help="seconds to wait for quiet")
    made.add_argument("--json", type=Path, help="write everything, raw times included, to this file")
    made.add_argument("--smoke", action="store_true", help="a small size, one round: does it all work?")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 for unequal results or a worker that fails."""
    options = parser().parse_args(arguments)
    if options.json is not None and not options.json.resolve().parent.is_dir():
        parser().error(f"--json: there is no folder {options.json.resolve().parent}")
    rivals = [name for name in options.contenders or (TORCH, JAX) if options.contenders or not missing(name)]
    names, threads = [OURS, TRAIN, *rivals, PRODUCTS], list(dict.fromkeys(options.threads))
    rounds, patience = (1, 0.0) if options.smoke else (options.repeats or ROUNDS, options.patience)
    size = SMOKE_SIZE if options.smoke else SIZE
    cases = [Case(CELLS[cell], size, dtype) for cell in options.cells for dtype in dict.fromkeys(options.dtypes)]
    began, state = time.perf_counter(), source_digest()
    try:
        measurements, environments = run(cases, names, threads, rounds, patience)
        cold = {
            str(case): {name: min(cold_start(name, case, 1) for _ in range(min(3, rounds))) for name in [OURS, *rivals]}
            for case in cases
        }
        with started(OURS, 1) as worker:
            both = {str(case): worker.ask("overhead", case=case.to_json(), rounds=4 * rounds) for case in cases}
            found = {
                str(ids): worker.ask("embedding", case=cases[0].to_json(), ids=ids, rounds=rounds) for ids in (V, MANY)
            }
    except (UnequalResultsError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if source_digest() != state:
        print("error: rnn_numpy's source changed during the run", file=sys.stderr)
        return 1
    embedding = {ids: _ratio(times) for ids, times in found.items()}
    overhead = {case: _ratio(times) for case, times in both.items()}
    targets = [] if options.smoke else judged(measurements, overhead, embedding)
    print(table(measurements, cold))
    for name, ratio in overhead.items():
        print(f"train over a bare loop, in one process, {name}: {ratio:.4f}")
    for ids, ratio in embedding.items():
        print(f"np.add.at over Embedding.backward, {ids} ids: {ratio:.2f}")
    for row in targets:
        print(f"{'met' if row['met'] else 'missed':7}{row['target']}: {row['value']:.3f}")
    if options.json is not None:
        document = {
            "options": {"size": size, "vocabulary": V, "repeats": rounds, "patience": patience},
            "machine": machine(),
            "contenders": environments,
            "seconds": round(time.perf_counter() - began, 1),
            "targets": targets,
            "cold_start_seconds": cold,
            "overhead_milliseconds": both,
            "embedding_microseconds": found,
            "fields": FIELDS,
            "measurements": [m.to_json() for m in measurements],
        }
        options.json.write_text(json.dumps(document, separators=(",", ":")) + "\n")
    return 0


def _ratio(times: Sequence[Sequence[float]]) -> float:
    """Return the median over rounds of the second time over the first."""
    return summary.ratio([[second] for _, second in times], [[first] for first, _ in times]).median


def _seconds(action: Callable[[], Any], repeats: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        action()
    return (time.perf_counter() - start) / repeats


if __name__ == "__main__":
    # With a contender's name alone this is that contender's process.
    if len(sys.argv) == 2 and sys.argv[1] in CONTENDERS:
        sys.exit(worker_main(make=new_server))
    sys.exit(main())
