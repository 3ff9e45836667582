"""Exact BPTT over a million steps: memory of the whole process, time per step. `python -m benchmarks.long_memory`.

A process of its own for every figure: it makes x, runs forward and backward with the loss sum(output^2) / 2000, and
says how much memory it has had at most, how long the passes took, dx and the gradients. Before a time counts these are
held against each other. `checkpointed` is `forward(x, checkpoint=1000, outputs=False)` with the loss block by block,
`ordinary` is `forward(x)`, which records all; torch and JAX are their usual modules, as in `benchmarks.contenders`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import machine
from benchmarks.worker import ROOT, THREAD_VARIABLES, variables

KINDS = ("RNN", "LSTM", "GRU")
RIVALS = ("torch", "jax")
N, D, H = 1, 8, 64
TOLERANCE = 3e-5  # of float32 sums over 10^5 steps, as a share of the largest entry
SCALE = np.float32(1e-3)
LIMIT, RATIO = 600.0, 1.45  # MB at the longest; checkpointed over ordinary
MB = 1e6


def given(steps: int) -> NDArray[np.float32]:
    """Return x."""
    return np.random.default_rng(0).standard_normal((steps, N, D), dtype=np.float32)


def ours(kind: str, steps: int, checkpointed: bool) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Return seconds, dx and the gradients of one forward and backward pass of ours."""
    import rnn_numpy

    layer, x = getattr(rnn_numpy, kind)(D, H, dtype=np.float32, rng=0), given(steps)
    began = time.perf_counter()
    if checkpointed:
        trace = layer.forward(x, checkpoint=1000, outputs=False)[2]
        back = layer.backward(trace, lambda steps, output: output * SCALE)
    else:
        output, _, trace = layer.forward(x)
        back = layer.backward(trace, output * SCALE)
    return time.perf_counter() - began, back.dx, back.grads.flat


def with_torch(kind: str, steps: int) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """The same by torch."""
    import torch

    import rnn_numpy

    state = getattr(rnn_numpy, kind)(D, H, dtype=np.float32, rng=0).state_dict()
    layer = getattr(torch.nn, kind)(D, H)
    layer.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    x = torch.from_numpy(given(steps)).requires_grad_(True)
    began = time.perf_counter()
    output, _ = layer(x)
    (0.5 * float(SCALE) * (output * output).sum()).backward()
    seconds = time.perf_counter() - began
    grads = np.concatenate([layer.get_parameter(name).grad.numpy().ravel() for name in state])
    return seconds, x.grad.numpy(), grads


def with_jax(kind: str, steps: int) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """The same by JAX: a scan, the input's product outside of it, compiled before the clock runs."""
    import jax

    import rnn_numpy
    from benchmarks.jax_layer import OPTIONS, network

    for name, value in OPTIONS.items():
        jax.config.update(name, value)
    state = getattr(rnn_numpy, kind)(D, H, dtype=np.float32, rng=0).state_dict()
    run = network({"RNN": "rnn-tanh"}.get(kind, kind.lower()))

    def loss(params: Any, x: Any) -> Any:
        output = run(params, x)[0]
        return 0.5 * SCALE * (output * output).sum()

    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    x = given(steps)
    jax.block_until_ready(step(state, x))
    began = time.perf_counter()
    grads, dx = jax.block_until_ready(step(state, x))
    seconds = time.perf_counter() - began
    return seconds, np.asarray(dx), np.concatenate([np.asarray(grads[name]).ravel() for name in state])


def peak_bytes() -> float:
    """Return the most memory that this process has had; Linux's ru_maxrss counts what it was forked from, too."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found is not None:
            return 1024.0 * int(found[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)


def measured(contender: str, kind: str, steps: int, folder: Path) -> dict[str, Any]:
    """Run one figure in a process of its own."""
    environment = {**variables(), **dict.fromkeys(THREAD_VARIABLES, "1")}
    results = folder / f"{contender}.npz"
    command = [sys.executable, "-m", "benchmarks.long_memory", "--one", contender, kind, str(steps), str(results)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {contender} {kind} {steps}: {done.stderr.strip().splitlines()[-1]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def one(contender: str, kind: str, steps: int, results: Path) -> None:
    """What such a process does."""
    runs = {"torch": with_torch, "jax": with_jax}
    if contender in runs:
        seconds, dx, grads = runs[contender](kind, steps)
    else:
        seconds, dx, grads = ours(kind, steps, contender == "checkpointed")
    peak = peak_bytes()
    np.savez(results, dx=dx, grads=grads)
    print(json.dumps({"peak_MB": peak / MB, "us_a_step": seconds / steps * 1e6}))


def difference(folder: Path, one: str, other: str) -> dict[str, float]:
    """Return the largest difference of dx and of the gradients, as a share of the largest entry."""
    with np.load(folder / f"{one}.npz") as a, np.load(folder / f"{other}.npz") as b:
        return {name: float(np.abs(a[name] - b[name]).max() / np.abs(b[name]).max()) for name in ("dx", "grads")}


def compared(kind: str, steps: int, contenders: Sequence[str], rounds: int) -> dict[str, Any]:
    """Return the figures of all contenders for one kind of layer and one length, in turns."""
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    differences: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for _ in range(rounds):
            for name in contenders:
                figures[name].append(measured(name, kind, steps, folder))
        for name in contenders[1:]:
            differences[name] = difference(folder, contenders[0], name)
            limit = {"dx": 0.0 if name == "ordinary" else TOLERANCE, "grads": TOLERANCE}
            if any(differences[name][tensor] > limit[tensor] for tensor in limit):
                raise SystemExit(f"error: {kind} {steps}: {name} has other results: {differences[name]}")
    row: dict[str, Any] = {"kind": kind, "T": steps, "differences": differences}
    for name, found in figures.items():
        row[name] = {key: median(figure[key] for figure in found) for key in found[0]}
    if "ordinary" in figures:
        pairs = zip(figures["checkpointed"], figures["ordinary"], strict=True)
        row["ratio"] = median(long["us_a_step"] / short["us_a_step"] for long, short in pairs)
    return row


def line(row: dict[str, Any]) -> str:
    """Return one row of the table, at most 100 columns."""
    cells = [f"{row['kind']:5}{row['T']:>9}"]
    for name in ("checkpointed", "ordinary", *RIVALS):
        figure = row.get(name)
        cells.append(f"{figure['peak_MB']:6.0f} MB {figure['us_a_step']:5.1f}" if figure else f"{'-':>15}")
    cells.append(f"{row['ratio']:6.2f}" if "ratio" in row else f"{'-':>6}")
    return "  ".join(cells)


def parser() -> argparse.ArgumentParser:
    """Return the parser of this program's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.long_memory", description=(__doc__ or "").split(":")[0])
    made.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    made.add_argument("--steps", nargs="+", type=int, default=[10**4, 10**5, 10**6])
    made.add_argument("--longest", type=int, default=10**5, help="up to which length the others run")
    made.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS))
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--json", type=Path, help="write the figures to this file")
    made.add_argument("--smoke", action="store_true", help="two short lengths, one round, no rivals")
    made.add_argument("--one", nargs=4, metavar=("CONTENDER", "KIND", "T", "FILE"), help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; return the exit code: 1 where a target is missed."""
    options = parser().parse_args(arguments)
    if options.one is not None:
        contender, kind, steps, results = options.one
        one(contender, kind, int(steps), Path(results))
        return 0
    if options.smoke:
        options.steps, options.rivals, options.rounds = [3000, 6000], [], 1
    print(f"{'':14}  {'checkpointed':>15}  {'ordinary':>15}  {'torch':>15}  {'JAX':>15}   ratio")
    print(f"{'':5}{'T':>9}" + 4 * f"  {'peak, us a step':>15}")
    rows: list[dict[str, Any]] = []
    for kind in options.kinds:
        for steps in options.steps:
            others = ["ordinary", *options.rivals] if steps <= options.longest else []
            rows.append(compared(kind, steps, ["checkpointed", *others], options.rounds if others else 1))
            print(line(rows[-1]), flush=True)
    peak, ratio = max(row["checkpointed"]["peak_MB"] for row in rows), max(row.get("ratio", 0.0) for row in rows)
    print(f"peak at most {peak:.0f} MB (target {LIMIT:.0f}), checkpointed over ordinary at most {ratio:.2f} ({RATIO})")
    if options.json is not None:
        known = {"machine": machine(), "N, D, H": [N, D, H], "dtype": "float32", "rows": rows}
        options.json.write_text(json.dumps(known, indent=1) + "\n")
    return int(not options.smoke and (peak > LIMIT or ratio > RATIO))


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.exit(main())
