"""Time stepping with `rnn_numpy.debug`, and the pages that it writes: `python -m benchmarks.debug`.

An LSTM with 64 units, one sequence. Stepping: a backward pass by `backward_steps` alone, by `Stepper.next`, and by
`Stepper.run` with three conditions that never hold, in turns, processor time; and one step printed. Beside torch, where
one gets the record by a loop over the equations of LSTMCell which keeps the gradients of all gates and states by
`retain_grad`: the backward pass by `backward_steps` on a trace that is there, beside that loop and its backward; both
with the forward pass; and both without, on a graph that is there. Gradients equal, each in a process of its own, in
turns, processor time. A page: seconds to write it, its size, and in
Debian's Chromium without a screen the milliseconds until the load event and the script of one frame while the time is
dragged along. Each is the median of some rounds. Without chromium, chromedriver and selenium what a browser does is
left out, and said so.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders import OURS, TORCH, Layer, TorchLayer
from benchmarks.measure import Array, Measurement, machine, measure
from benchmarks.worker import Server, Worker
from benchmarks.worker import main as worker_main
from rnn_numpy import LSTM, debug

STEPS, SMOKE_STEPS = (200, 1000), (12,)
HIDDEN, SMOKE_HIDDEN = 64, 5
INPUTS = 3
ROUNDS, FRAMES = 5, 300
# By T: megabytes, seconds to write, milliseconds until the load event, milliseconds of script a frame.
TARGETS = {200: (2.0, 1.0, 1000.0, 3.0), 1000: (9.5, 1.0, 1000.0, 3.0)}
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1200"
)
# Microseconds that `next` may add to a step, times of a bare pass that a run may take, milliseconds of a printed step.
STEPPING = {"next_us": 30.0, "run_ratio": 1.3, "repr_ms": 8.0}
RECORD_TARGET = 20.0  # torch's time over ours
RECORDED = ("a_i", "a_f", "a_g", "a_o", "i", "f", "g", "o", "c", "tanh_c", "h")
SCRUB = """
const done = arguments[1], [count, last] = arguments[0], time = document.getElementById("time");
const { counts } = window.rnn_numpy, before = counts.times.length;
(async () => {
  for (let frame = 0; frame < count; frame++) {
    time.value = String((frame * 7) % last);
    time.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise(requestAnimationFrame);
  }
  await new Promise(requestAnimationFrame);
  done(counts.times.slice(before));
})();
"""


def run_of(T: int, hidden: int) -> tuple[Any, ...]:
    """Return a layer, its trace and its gradients, of a loss of the last step.

    Examples
    --------
    >>> layer, trace, back = run_of(5, 3)
    >>> len(trace), back.dh_0.shape
    (5, (1, 1, 3))
    """
    rng = np.random.default_rng(0)
    lstm = LSTM(INPUTS, hidden, rng=0)
    output, _, trace = lstm.forward(rng.normal(size=(T, 1, INPUTS)))
    doutput = np.zeros_like(output)
    doutput[-1] = rng.normal(size=doutput[-1].shape)
    return lstm, trace, lstm.backward(trace, doutput)


def stepping(T: int, hidden: int, rounds: int) -> dict[str, Any]:
    """Return what stepping costs over the bare generator.

    Examples
    --------
    >>> sorted(stepping(5, 3, 1))
    ['H', 'T', 'bare_us', 'next_us', 'repr_ms', 'run_ratio']
    """
    layer, trace, _ = run_of(T, hidden)
    doutput = np.ones((T, 1, hidden))
    conditions = [debug.norm_above("dh", 1e300), debug.non_finite("dh", "dc"), debug.when("max(dh) > 1e300")]

    def bare() -> None:
        collections.deque(layer.backward_steps(trace, doutput), maxlen=0)

    def one_by_one() -> None:
        stepper = debug.Stepper(layer, trace, doutput)
        for _ in range(T):
            stepper.next()

    def run() -> None:
        debug.Stepper(layer, trace, doutput).run(*conditions)

    times: dict[Any, list[float]] = {bare: [], one_by_one: [], run: []}
    for _ in range(rounds):
        for way, found in times.items():
            began = time.process_time()
            way()
            found.append(time.process_time() - began)
    alone, each, conditioned = (median(found) for found in times.values())
    began = time.process_time()
    for _ in range(20):
        repr(trace[T // 2])
    printed = (time.process_time() - began) / 20
    return {
        "T": T, "H": hidden, "bare_us": alone / T * 1e6, "next_us": (each - alone) / T * 1e6,
        "run_ratio": conditioned / alone, "repr_ms": printed * 1e3,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ beside torch


class Stepped(Layer):
    """`backward_steps`, from the first step to the last; the trace keeps the gradients of all gates and states."""

    def load(self, case: Case) -> None:
        """Run forward."""
        super().load(case)
        _, _, self.trace = self.layer.forward(self.x)

    def step(self) -> None:
        """Run through the steps."""
        for _ in self.layer.backward_steps(self.trace, self.doutput):
            pass

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return the gradients of the parameters and of x, and the record."""
        steps = self.layer.backward_steps(self.trace, self.doutput)
        collections.deque(steps, maxlen=0)
        top, after = self.trace.top, slice(1, None)
        record = {
            f"d{name}": getattr(top, f"d{name}")[after if name in top.states else slice(None)] for name in RECORDED
        }
        return {**record, "dx": steps.result.dx, **{f"d{name}": grad for name, grad in steps.result.grads.items()}}


class Retained(TorchLayer):
    """A loop over the equations of torch's LSTMCell, with `retain_grad` on every gate and state."""

    def load(self, case: Case) -> None:
        """Run forward, once: the graph is kept."""
        super().load(case)
        self.forward()

    def forward(self) -> None:
        """Run the loop."""
        case = self.case
        torch, p = self.torch, dict(self.layer.named_parameters())
        linear = torch.nn.functional.linear
        h = c = torch.zeros(case.size[1], case.size[3], dtype=self.x.dtype)
        outputs: list[Any] = []
        self.kept: dict[str, list[Any]] = {name: [] for name in RECORDED}
        for x_t in self.x:
            a = linear(x_t, p["weight_ih_l0"], p["bias_ih_l0"]) + linear(h, p["weight_hh_l0"], p["bias_hh_l0"])
            a_i, a_f, a_g, a_o = a.chunk(4, dim=1)
            i, f, g, o = torch.sigmoid(a_i), torch.sigmoid(a_f), torch.tanh(a_g), torch.sigmoid(a_o)
            c = f * c + i * g
            tanh_c = torch.tanh(c)
            h = o * tanh_c
            for name, tensor in zip(RECORDED, (a_i, a_f, a_g, a_o, i, f, g, o, c, tanh_c, h), strict=True):
                tensor.retain_grad()
                self.kept[name].append(tensor)
            outputs.append(h)
        self.output = torch.stack(outputs)

    def step(self) -> None:
        """Forget the old gradients, and run backward."""
        self.x.grad = None
        for parameter in self.parameters:
            parameter.grad = None
        for tensors in self.kept.values():
            for tensor in tensors:
                tensor.grad = None
        self.output.backward(self.doutput, retain_graph=True)

    def results(self, silent: Sequence[int]) -> dict[str, Array]:
        """Return the gradients of the parameters and of x, and the record."""
        self.step()
        record = {f"d{name}": np.array([one.grad.numpy() for one in tensors]) for name, tensors in self.kept.items()}
        grads = {f"d{name}": parameter.grad.numpy() for name, parameter in self.layer.named_parameters()}
        return {**record, "dx": self.x.grad.numpy(), **grads}


class WholeStepped(Stepped):
    """The same, with the forward pass that records."""

    def step(self) -> None:
        """Run forward, and through the steps."""
        _, _, self.trace = self.layer.forward(self.x)
        super().step()


class WholeRetained(Retained):
    """The same, with the loop that makes the graph, which is freed."""

    def step(self) -> None:
        """Run the loop, and backward."""
        self.x.grad = None
        for parameter in self.parameters:
            parameter.grad = None
        self.forward()
        self.output.backward(self.doutput)


WHOLE = " with forward"
CONTENDERS: dict[str, Callable[[], Any]] = {
    OURS: Stepped, TORCH: Retained, OURS + WHOLE: WholeStepped, TORCH + WHOLE: WholeRetained,
}  # fmt: skip


def new_server(name: str) -> Server:
    """Return the server of a contender."""
    return Server(CONTENDERS[name]())


# What the JSON calls a comparison: what is done here, and there, and what each contender's name ends in.
COMPARED = {
    "record": ("a backward pass in steps", "the loop with retain_grad and its backward", "", WHOLE),
    "record_with_forward": ("the same with our forward pass", "the loop and its backward", WHOLE, WHOLE),
    "record_without_loop": ("a backward pass in steps", "backward alone, on a graph that is kept", "", ""),
}


def beside_torch(T: int, hidden: int, rounds: int, which: str) -> Measurement:
    """Check that all gradients are the same, then measure one of `COMPARED`."""
    *_, ours, theirs = COMPARED[which]
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name + ending, 1, "benchmarks.debug"))
            for name, ending in ((OURS, ours), (TORCH, theirs))
        }
        return measure(workers, Case("lstm", (T, 1, INPUTS, hidden), "float64"), 1, rounds, 0.0, cpu=True)


def record_table(found: dict[str, Any], which: str) -> str:
    """Return a measurement of both as text.

    Examples
    --------
    >>> case, ratio = {"size": [9, 1, 3, 4]}, {"torch": {"median": 23.42}}
    >>> found = {"case": case, "median_ms": {"rnn_numpy": 12.13, "torch": 282.7}, "ratio": ratio}
    >>> print(record_table(found, "record"))
    T = 9, H = 4: a backward pass in steps 12.1 ms, torch: the loop with retain_grad and its backward 283 ms:
      23.4 times as long (target 20)
    """
    T, _, _, H = found["case"]["size"]
    ours, theirs = (found["median_ms"][name] for name in (OURS, TORCH))
    here, there, *_ = COMPARED[which]
    return (
        f"T = {T}, H = {H}: {here} {ours:.3g} ms, torch: {there} {theirs:.3g} ms:\n  "
        f"{found['ratio'][TORCH]['median']:.1f} times as long (target {RECORD_TARGET:g})"
    )


# ------------------------------------------------------------------------------------------------ pages


def pages(steps: Sequence[int], hidden: int, rounds: int, frames: int) -> list[dict[str, Any]]:
    """Return a row for each length: what a page costs to write and to show."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for T in steps:
            path, given, times = Path(folder, f"{T}.html"), run_of(T, hidden), []
            for _ in range(rounds):
                began = time.perf_counter()
                debug.write_html(path, *given)
                times.append(time.perf_counter() - began)
            row: dict[str, Any] = {
                "T": T,
                "H": hidden,
                "megabytes": path.stat().st_size / 1e6,
                "write_s": median(times),
            }
            row.update(shown(path, T, rounds, frames))
            rows.append(row)
    return rows


def shown(path: Path, T: int, rounds: int, frames: int) -> dict[str, Any]:
    """Return what a browser needs for a page: milliseconds until the load event and of script a frame, medians."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        return {}
    if chromium is None or driver is None:
        return {}
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS.split():
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_script_timeout(120)
    loads, scripts = [], []
    try:
        for _ in range(rounds):
            browser.get("about:blank")
            browser.get(path.as_uri())
            loads.append(browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
            scripts.append(median(browser.execute_async_script(SCRUB, [frames, T])))
    finally:
        browser.quit()
    return {"load_ms": median(loads), "frame_ms": median(scripts)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text.

    Examples
    --------
    >>> print(table([{"T": 200, "H": 64, "megabytes": 1.912, "write_s": 0.0812, "load_ms": 272, "frame_ms": 1.7}]))
    T = 200, H = 64: 1.91 MB (target 2), written in 0.081 s (target 1)
      load event after 272 ms (target 1000), script of a frame 1.70 ms (target 3)
    """
    lines = []
    for row in rows:
        size, write, load, frame = TARGETS.get(row["T"], (float("inf"),) * 4)
        said = (
            f"load event after {row['load_ms']:.0f} ms (target {load:g}), script of a frame {row['frame_ms']:.2f} ms "
            f"(target {frame:g})"
            if "load_ms" in row
            else "in a browser not measured: no chromium or selenium"
        )
        lines.append(
            f"T = {row['T']}, H = {row['H']}: {row['megabytes']:.2f} MB (target {size:g}), written in "
            f"{row['write_s']:.2g} s (target {write:g})\n  {said}"
        )
    return "\n".join(lines)


def stepping_table(row: dict[str, Any]) -> str:
    """Return what stepping costs as text.

    Examples
    --------
    >>> print(stepping_table({"T": 9, "H": 3, "bare_us": 11.2, "next_us": 2.1, "run_ratio": 1.3, "repr_ms": 0.6}))
    T = 9, H = 3: a bare step 11.2 us, `next` adds 2.1 us (target 30); a run with three conditions takes 1.30
      times a bare pass (target 1.3); a step is printed in 0.60 ms (target 8)
    """
    return (
        f"T = {row['T']}, H = {row['H']}: a bare step {row['bare_us']:.1f} us, `next` adds {row['next_us']:.1f} us "
        f"(target {STEPPING['next_us']:g}); a run with three conditions takes {row['run_ratio']:.2f}\n  times a bare "
        f"pass (target {STEPPING['run_ratio']:g}); a step is printed in {row['repr_ms']:.2f} ms (target "
        f"{STEPPING['repr_ms']:g})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.debug", description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="small, once, and without a browser's many frames")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    options = parser.parse_args(arguments)
    if options.smoke:
        T, hidden, rounds = SMOKE_STEPS[0], SMOKE_HIDDEN, 1
        stepped, rows = stepping(T, hidden, 1), pages(SMOKE_STEPS, hidden, 1, 5)
    else:
        T, hidden, rounds = STEPS[-1], HIDDEN, 2 * ROUNDS
        stepped, rows = stepping(T, hidden, 8 * ROUNDS), pages(STEPS, hidden, ROUNDS, FRAMES)
    beside = {which: beside_torch(T, hidden, rounds, which).to_json() for which in COMPARED}
    said = [record_table(found, which) for which, found in beside.items()]
    print(stepping_table(stepped), *said, table(rows), sep="\n")
    if options.json is not None:
        document = {
            "machine": machine(),
            "stepping": stepped,
            **beside,
            "pages": rows,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    # With a contender's name alone this is that contender's process.
    if len(sys.argv) == 2 and sys.argv[1] in CONTENDERS:
        sys.exit(worker_main(make=new_server))
    sys.exit(main())
