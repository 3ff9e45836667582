"""Time what `rnn_numpy.debug` writes: `python -m benchmarks.debug`.

A page of an LSTM with 64 units, one sequence: seconds to write it, its size, and in Debian's Chromium without a screen
the milliseconds until the load event and the script of one frame while the time is dragged along. Each is the median
of some rounds. Without chromium, chromedriver and selenium what a browser does is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import machine
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.debug", description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="small, once, and without a browser's many frames")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    options = parser.parse_args(arguments)
    if options.smoke:
        rows = pages(SMOKE_STEPS, SMOKE_HIDDEN, 1, 5)
    else:
        rows = pages(STEPS, HIDDEN, ROUNDS, FRAMES)
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), "pages": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
