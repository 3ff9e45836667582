"""Time a decoder with attention, ours and others': `python -m benchmarks.attention`.

A pass forward and backward of a GRU or an LSTM that attends to a memory of S = 20 rows at each of T = 20 steps:

    before     the additive score, in front of the cell (Bahdanau)
    feeding    the general score, behind it, fed back into the next step (Luong)
    after      the same without feeding back; beside it, our own decoder without any attention

torch runs a Python loop over its cells, JAX a jitted scan; both get keys that are made once. README.md, beside this
file, says how to read the table.
"""

from __future__ import annotations

import abc
import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import summary
from benchmarks.cases import DTYPES, GATES, Case
from benchmarks.contenders import JAX, OURS, TORCH, Products, TorchLayer, missing
from benchmarks.jax_layer import JaxLayer
from benchmarks.measure import FIELDS, Measurement, measure
from benchmarks.program import reported
from benchmarks.tables import progress
from benchmarks.train_step import PATIENCE, positive, seconds_of, threads_of
from benchmarks.worker import Server, Worker
from benchmarks.worker import main as worker_main

Array = NDArray[Any]

PLAIN = "plain"
CELLS, ORDERS = ("gru", "lstm"), ("before", "feeding", "after")
S = 20
# (T, N, D, H); the memory's width and the score's are H as well.
SIZES, SMOKE_SIZES = ((20, 8, 64, 64), (20, 32, 128, 128)), ((4, 3, 5, 5),)
ROUNDS = 15

# Time of the other over ours, with one thread, by size; of our decoder without attention, our time over its own.
TARGETS = {(TORCH, SIZES[0]): 2.0, (TORCH, SIZES[1]): 1.3, (JAX, SIZES[0]): 1.0, (JAX, SIZES[1]): 1.0}
ON_TOP = 1.4


class Decoded:
    """The arrays of a case: weights by our names, x (T, N, D), memory (S, N, M), and doutput (T, N, H)."""

    def __init__(self, case: Case) -> None:
        steps, batch, inputs, H = case.size
        rng, rows = np.random.default_rng(case.seed), GATES[case.cell] * H
        shapes = {
            "rnn.weight_ih_l0": (rows, inputs),
            "rnn.weight_hh_l0": (rows, H),
            "rnn.bias_ih_l0": (rows,),
            "rnn.bias_hh_l0": (rows,),
        }
        if case.mode == "before":
            shapes |= {"rnn.weight_query_l0": (H, H), "rnn.v_l0": (H,), "rnn.weight_ch_l0": (rows, H)}
            shapes |= {"keys.weight_memory": (H, H), "keys.bias": (H,)}
        elif case.mode == "feeding":
            shapes |= {"rnn.weight_if_l0": (rows, H), "rnn.weight_c_l0": (H, 2 * H), "keys.weight_a": (H, H)}
        else:
            shapes |= {"attention.weight_a": (H, H), "combine.weight": (H, 2 * H)}
        bound = 1 / np.sqrt(H)
        self.weights = {name: rng.uniform(-bound, bound, shape).astype(case.dtype) for name, shape in shapes.items()}
        self.x = rng.standard_normal((steps, batch, inputs)).astype(case.dtype)
        self.memory = rng.standard_normal((S, batch, H)).astype(case.dtype)
        self.doutput = rng.standard_normal((steps, batch, H)).astype(case.dtype)


class Passes(abc.ABC):
    """Base of the contenders: `run` makes a pass and returns output and gradients by name."""

    def load(self, case: Case) -> None:
        """Take the arrays of a case."""
        self.case, self.given = case, Decoded(case)
        self.start()

    @abc.abstractmethod
    def start(self) -> None:
        """Make what runs."""

    @abc.abstractmethod
    def run(self) -> dict[str, Any]:
        """Forward and backward."""

    def step(self) -> None:
        """What is timed."""
        self.run()

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return output and gradients."""
        return {name: np.asarray(array) for name, array in self.run().items()}


class Ours(Passes):
    """`AttentionDecoder`."""

    def environment(self) -> dict[str, Any]:
        """Return NumPy's versions and ours."""
        return Products().environment()

    def start(self) -> None:
        """Make the decoder."""
        from rnn_numpy.layers.attention_decoder import AttentionDecoder

        (_, _, D, H), mode = self.case.size, self.case.mode
        options: dict[str, Any] = {
            "before": {"order": "before", "score": "additive"},
            "feeding": {"input_feeding": True},
            "after": {},
        }[mode]
        self.decoder = AttentionDecoder(D, H, H, cell=self.case.cell, dtype=self.case.dtype, **options)
        self.decoder.load_state_dict({name: self.given.weights[name] for name in self.decoder.params})

    def run(self) -> dict[str, Any]:
        """Forward and backward."""
        output, _, trace = self.decoder.forward(self.given.x, self.given.memory)
        back = self.decoder.backward(trace, self.given.doutput)
        return {"output": output, "dx": back.dx, "dmemory": back.dmemory, **back.grads}


class Plain(Ours):
    """Our layer without attention."""

    def run(self) -> dict[str, Any]:
        """Forward and backward of the recurrent layer alone."""
        output, _, trace = self.decoder.rnn.forward(self.given.x)
        back = self.decoder.rnn.backward(trace, self.given.doutput)
        return {"output": output, "dx": back.dx}

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return what the decoder computes: another network, whose time alone is of interest."""
        return {name: np.asarray(array) for name, array in super().run().items()}


class Torch(Passes, TorchLayer):
    """A loop over torch's cells, with autograd."""

    def start(self) -> None:
        """Make tensors; the cell's input weight is ours for x and for what attention adds, side by side."""
        torch = self.torch
        self.p = {name: torch.from_numpy(array).requires_grad_() for name, array in self.given.weights.items()}
        self.x = torch.from_numpy(self.given.x).requires_grad_()
        self.memory = torch.from_numpy(self.given.memory).requires_grad_()
        self.doutput = torch.from_numpy(self.given.doutput)
        self.leaves = {"dx": self.x, "dmemory": self.memory, **self.p}

    def attended(self, query: Any, keys: Any, values: Any, additive: bool) -> Any:
        """Return the context, (N, M), of a query, (N, H)."""
        torch, p = self.torch, self.p
        if additive:
            score = torch.tanh(keys + (query @ p["rnn.weight_query_l0"].T)[:, None]) @ p["rnn.v_l0"]
        else:
            score = torch.bmm(keys, query[:, :, None])[:, :, 0]
        return torch.bmm(torch.softmax(score, dim=1)[:, None], values)[:, 0]

    def run(self) -> dict[str, Any]:
        """Forget the old gradients, forward, backward."""
        torch, p, mode = self.torch, self.p, self.case.mode
        for leaf in self.leaves.values():
            leaf.grad = None
        values = self.memory.transpose(0, 1).contiguous()
        if mode == "before":
            keys = values @ p["keys.weight_memory"].T + p["keys.bias"]
        else:
            keys = values @ p["keys.weight_a" if mode == "feeding" else "attention.weight_a"].T
        weight = p["rnn.weight_ih_l0"]
        if mode != "after":
            weight = torch.cat([weight, p["rnn.weight_ch_l0" if mode == "before" else "rnn.weight_if_l0"]], dim=1)
        own = weight, p["rnn.weight_hh_l0"], p["rnn.bias_ih_l0"], p["rnn.bias_hh_l0"]
        h = c = attn = torch.zeros(self.x.shape[1], self.case.size[3], dtype=self.x.dtype)
        outputs = []
        for x_t in self.x:
            if mode == "before":
                x_t = torch.cat([x_t, self.attended(h, keys, values, True)], dim=1)
            elif mode == "feeding":
                x_t = torch.cat([x_t, attn], dim=1)
            if self.case.cell == "gru":
                h = torch.gru_cell(x_t, h, *own)
            else:
                h, c = torch.lstm_cell(x_t, (h, c), *own)
            if mode == "feeding":
                both = torch.cat([self.attended(h, keys, values, False), h], dim=1)
                attn = torch.tanh(both @ p["rnn.weight_c_l0"].T)
            outputs.append(attn if mode == "feeding" else h)
        output = torch.stack(outputs)
        if mode == "after":
            query = output.transpose(0, 1)
            alpha = torch.softmax(query @ keys.transpose(1, 2), dim=2)
            both = torch.cat([(alpha @ values).transpose(0, 1), output], dim=2)
            output = torch.tanh(both @ p["combine.weight"].T)
        output.backward(self.doutput)
        grads = {name: leaf.grad.numpy() for name, leaf in self.leaves.items()}
        return {"output": output.detach().numpy(), **grads}


class Jax(Passes, JaxLayer):
    """A jitted scan and its vjp."""

    def start(self) -> None:
        """Hand the arrays to JAX; the first pass compiles."""
        jax, jnp, mode, cell = self.jax, self.jax.numpy, self.case.mode, self.case.cell

        def attended(p: Any, query: Any, keys: Any, values: Any) -> Any:
            if mode == "before":
                score = jnp.tanh(keys + (query @ p["rnn.weight_query_l0"].T)[:, None]) @ p["rnn.v_l0"]
            else:
                score = jnp.einsum("nq,nsq->ns", query, keys)
            return jnp.einsum("ns,nsm->nm", jax.nn.softmax(score, axis=1), values)

        def moved(p: Any, weight: Any, x_t: Any, h: Any, c: Any) -> tuple[Any, Any]:
            a = x_t @ weight.T + p["rnn.bias_ih_l0"]
            b = h @ p["rnn.weight_hh_l0"].T + p["rnn.bias_hh_l0"]
            if cell == "gru":
                (r, z, n), (r_h, z_h, n_h) = jnp.split(a, 3, 1), jnp.split(b, 3, 1)
                r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
                n = jnp.tanh(n + r * n_h)
                return (1 - z) * n + z * h, c
            i, f, g, o = jnp.split(a + b, 4, 1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return jax.nn.sigmoid(o) * jnp.tanh(c), c

        def forward(p: Any, x: Any, memory: Any) -> Any:
            values, weight = memory.swapaxes(0, 1), p["rnn.weight_ih_l0"]
            if mode == "before":
                keys = values @ p["keys.weight_memory"].T + p["keys.bias"]
                weight = jnp.concatenate([weight, p["rnn.weight_ch_l0"]], 1)
            elif mode == "feeding":
                keys = values @ p["keys.weight_a"].T
                weight = jnp.concatenate([weight, p["rnn.weight_if_l0"]], 1)
            else:
                keys = values @ p["attention.weight_a"].T

            def step(carry: Any, x_t: Any) -> tuple[Any, Any]:
                h, c, attn = carry
                if mode == "before":
                    x_t = jnp.concatenate([x_t, attended(p, h, keys, values)], 1)
                elif mode == "feeding":
                    x_t = jnp.concatenate([x_t, attn], 1)
                h, c = moved(p, weight, x_t, h, c)
                if mode == "feeding":
                    both = jnp.concatenate([attended(p, h, keys, values), h], 1)
                    attn = jnp.tanh(both @ p["rnn.weight_c_l0"].T)
                return (h, c, attn), attn if mode == "feeding" else h

            zeros = jnp.zeros((x.shape[1], self.case.size[3]), x.dtype)
            _, output = jax.lax.scan(step, (zeros, zeros, zeros), x)
            if mode == "after":
                alpha = jax.nn.softmax(jnp.einsum("tnq,nsq->tns", output, keys), axis=2)
                both = jnp.concatenate([jnp.einsum("tns,nsm->tnm", alpha, values), output], 2)
                output = jnp.tanh(both @ p["combine.weight"].T)
            return output

        def both_ways(p: Any, x: Any, memory: Any, doutput: Any) -> Any:
            output, pull = jax.vjp(forward, p, x, memory)
            return (output, *pull(doutput))

        given = self.given
        self.arguments = [
            {name: jnp.asarray(array) for name, array in given.weights.items()},
            *map(jnp.asarray, (given.x, given.memory, given.doutput)),
        ]
        self.compiled = jax.jit(both_ways)

    def run(self) -> dict[str, Any]:
        """Call the compiled function and wait for its results."""
        output, grads, dx, dmemory = self.jax.block_until_ready(self.compiled(*self.arguments))
        return {"output": output, "dx": dx, "dmemory": dmemory, **grads}


CONTENDERS: dict[str, Callable[[], Any]] = {OURS: Ours, PLAIN: Plain, TORCH: Torch, JAX: Jax}


def new_server(name: str) -> Server:
    """Return the server of a contender."""
    return Server(CONTENDERS[name]())


def started(name: str, threads: int) -> Worker:
    """Start the process of a contender."""
    return Worker(name, threads, "benchmarks.attention")


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
                chosen = {name: worker for name, worker in workers.items() if name != PLAIN or case.mode == "after"}
                measurements.append(measure(chosen, case, count, rounds, patience))
    return measurements, environments


def judged(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return each target with its value and whether it is met."""
    rows: list[dict[str, Any]] = []
    for m in measurements:
        if m.threads != 1 or m.case.size not in SIZES:
            continue
        for rival in filter((TORCH, JAX).__contains__, m.rivals):
            if m.case.mode != "after":
                value, bound = m.ratio(rival).median, TARGETS[rival, m.case.size]
                rows.append(
                    {"target": f"{m.case}: {rival} over ours at least {bound}", "value": value, "met": value >= bound}
                )
        if PLAIN in m.rivals:
            value = 1 / m.ratio(PLAIN).median
            text = f"{m.case}: ours over the decoder without attention at most {ON_TOP}"
            rows.append({"target": text, "value": value, "met": value <= ON_TOP})
    return rows


def table(measurements: Sequence[Measurement]) -> str:
    """Return the table: a line for each cell, order, size, dtype and number of threads."""
    heads = [name for name in (PLAIN, TORCH, JAX) if any(name in m.times for m in measurements)]
    lines = [
        f"{'cell':5} {'order':8} {'T,N,D,H':13} {'dtype':8} {'thr':>3} {'ours ms':>8}"
        + "".join(f"{name + ' ms':>10}{'/ ours':>7}" for name in heads)
    ]
    for m in measurements:
        line = f"{m.case.cell:5} {m.case.mode:8} {','.join(map(str, m.case.size)):13} {m.case.dtype:8} {m.threads:3d}"
        line += f" {summary.typical(m.used(OURS)) / 1e6:8.2f}"
        for name in heads:
            if name in m.times:
                line += f"{summary.typical(m.used(name)) / 1e6:10.2f}{m.ratio(name).median:7.2f}"
            else:
                line += f"{'':17}"
        lines.append(line.rstrip() + (" ~" if m.noisy else ""))
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=(__doc__ or "").split(":")[0])
    made.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), help="default: all")
    made.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS), help="default: all")
    made.add_argument("--contenders", nargs="+", choices=(TORCH, JAX), help="default: those that are installed")
    made.add_argument("--threads", nargs="+", type=threads_of, metavar="K|all", default=[1], help="default: 1")
    made.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="default: both")
    made.add_argument("--repeats", type=positive, help=f"rounds, each a block of passes of all; default {ROUNDS}")
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
    rounds, patience = (1, 0.0) if options.smoke else (options.repeats or ROUNDS, options.patience)
    cases = [
        Case(cell, size, dtype, mode=order)
        for order in dict.fromkeys(options.orders)
        for cell in dict.fromkeys(options.cells)
        for size in (SMOKE_SIZES if options.smoke else SIZES)
        for dtype in dict.fromkeys(options.dtypes)
    ]
    threads = list(dict.fromkeys(options.threads))
    asked = {"sizes": SIZES, "memory": S, "repeats": rounds, "patience": patience}
    return reported(
        lambda: run(cases, [OURS, PLAIN, *rivals], threads, rounds, patience),
        judged,
        table,
        FIELDS,
        asked,
        options.json,
    )


if __name__ == "__main__":
    # With a contender's name alone this is that contender's process.
    if len(sys.argv) == 2 and sys.argv[1] in CONTENDERS:
        sys.exit(worker_main(make=new_server))
    sys.exit(main())
