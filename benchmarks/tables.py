"""What is said about measurements: tables, the conclusion, and how far a run has come."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

from benchmarks import summary
from benchmarks.cases import DTYPES, GRID
from benchmarks.contenders import ONNX, OURS
from benchmarks.measure import Measurement

TITLES = {ONNX: "onnx"}  # of columns, where the name is too long
Report = Callable[[float, str], None]


def table(measurements: Sequence[Measurement]) -> str:
    """Return the table of one cell, mode and number of threads, at most 100 columns wide.

    Parameters
    ----------
    measurements : sequence of Measurement
        Rows are sizes, in the order in which they first come. The columns repeat for each dtype: our milliseconds, how
        many times as long each rival takes, and the share of our time that is not matrix products.

    Returns
    -------
    str
    """
    first, threads = measurements[0].case, measurements[0].threads
    sizes = list(dict.fromkeys(m.case.size for m in measurements))
    by_dtype = {dtype: [m for m in measurements if m.case.dtype == dtype] for dtype in DTYPES}
    by_dtype = {dtype: points for dtype, points in by_dtype.items() if points}
    rivals = {dtype: list(dict.fromkeys(r for m in points for r in m.rivals)) for dtype, points in by_dtype.items()}
    heads = {
        dtype: f"  {'ours ms':>9}"
        + "".join(f"{TITLES.get(name, name):>7} " for name in rivals[dtype])
        + f"{'lost':>6}  "
        for dtype in by_dtype
    }
    lines = [
        f"{first.cell}, {first.mode}, {threads} thread{'s' if threads > 1 else ''}",
        f"{'':18}" + "".join(f"  {dtype + ' ':-<{len(head) - 4}}  " for dtype, head in heads.items()),
        f"{'T, N, D, H':18}" + "".join(heads.values()),
    ]
    for size in sizes:
        line = f"{', '.join(map(str, size)):18}"
        for dtype, points in by_dtype.items():
            found = [m for m in points if m.case.size == size]
            line += _cells(found[0], rivals[dtype]) if found else " " * len(heads[dtype])
        lines.append(line)
    line = f"{'geometric mean':18}"
    for dtype, points in by_dtype.items():
        line += f"{'':11}" + "".join(f"{_mean(points, rival):>8}" for rival in rivals[dtype]) + f"{'':8}"
    return "\n".join(line.rstrip() for line in [*lines, line])


def _cells(m: Measurement, rivals: Sequence[str]) -> str:
    ours = summary.typical(m.used(OURS)) / 1e6
    text = f"  {ours:9.3f}"
    for rival in rivals:
        mark = "!" if rival in m.misses else " "
        text += f"{_number(m.ratio(rival).median):>7}{mark}" if rival in m.rivals else f"{'-':>7} "
    # Less than nothing is lost where something else kept the machine busy.
    lost = "-" if m.lost is None else f"{max(m.lost, -9.99):.0%}"
    return f"{text}{lost:>6}{'!' if 'lost' in m.misses else ' '}{'~' if m.noisy else ' '}"


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 999.5 else f"{ratio:.0f}"


def _mean(measurements: Iterable[Measurement], rival: str) -> str:
    """Return the geometric mean of a rival's ratios, with a mark where points are missing."""
    points = [m for m in measurements if rival in m.rivals]
    ratios = [m.ratio(rival).median for m in points if not m.noisy]
    if not ratios:
        return "-~" if points else "- "
    return f"{summary.geometric_mean(ratios):.2f}{' ' if len(ratios) == len(points) else '~'}"


def means(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return the geometric means of the ratios: for each cell, mode and rival, over sizes, dtypes and threads.

    Parameters
    ----------
    measurements : sequence of Measurement

    Returns
    -------
    list of dict
        "cell", "mode", "contender", "mean" (None without any undisturbed point), and how many points were "counted" of
        how many.
    """
    rows = []
    for cell, mode in dict.fromkeys((m.case.cell, m.case.mode) for m in measurements):
        points = [m for m in measurements if (m.case.cell, m.case.mode) == (cell, mode)]
        for rival in dict.fromkeys(rival for m in points for rival in m.rivals):
            compared = [m for m in points if rival in m.rivals]
            ratios = [m.ratio(rival).median for m in compared if not m.noisy]
            mean = summary.geometric_mean(ratios) if ratios else None
            row = {"cell": cell, "mode": mode, "contender": rival, "mean": mean}
            rows.append({**row, "counted": len(ratios), "of": len(compared)})
    return rows


def judge(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Hold the measurements against the targets.

    Parameters
    ----------
    measurements : sequence of Measurement

    Returns
    -------
    list of dict
        For each target of which there are points: "target" in words; "verdict"; "value", that is the mean or the point
        that comes out worst; how many points were "counted" of how many; "misses", the points below it. A verdict is
        "met", "missed", or "open" where points are disturbed: a mean without them is no match for the target, since the
        slow ones, where ratios are lowest, are disturbed most.
    """
    rows = []
    for target in summary.TARGETS:
        points = [m for m in measurements if target.covers(m.case) and target.rival in m.rivals]
        if not points:
            continue
        counted = [m for m in points if not m.noisy]
        ratios = [m.ratio(target.rival).median for m in counted]
        low = [] if target.mean else [m for m in counted if not target.reached(m.ratio(target.rival).median)]
        value = None
        if ratios:
            value = summary.geometric_mean(ratios) if target.mean else min(ratios)
        verdict = "met" if value is not None and target.reached(value) else "missed"
        if len(counted) < len(points) and not low:
            verdict = "open"
        misses = [{**_where(m), "value": m.ratio(target.rival).median} for m in low]
        rows.append(_verdict(str(target), verdict, value, counted, points, misses))
    points = [m for m in measurements if summary.lost_target(m.case) is not None and m.lost is not None]
    if points:
        counted = [m for m in points if not m.noisy]
        low = [m for m in counted if "lost" in m.misses]
        verdict = "missed" if low else "open" if len(counted) < len(points) else "met"
        shares = [m.lost for m in counted if m.lost is not None]
        name = f"{', '.join(summary.RNNS)}, training, H >= {summary.LOST_HIDDEN}: lost below {summary.LOST_TARGET:g}"
        misses = [{**_where(m), "value": m.lost} for m in low]
        rows.append(_verdict(name, verdict, max(shares, default=None), counted, points, misses))
    return rows


def _where(m: Measurement) -> dict[str, Any]:
    return {"case": str(m.case), "threads": m.threads}


def _verdict(
    target: str, verdict: str, value: float | None, counted: Sized, points: Sized, misses: list[dict[str, Any]]
) -> dict[str, Any]:
    row = {"target": target, "verdict": verdict, "value": value}
    return {**row, "counted": len(counted), "of": len(points), "misses": misses}


def conclusion(measurements: Sequence[Measurement]) -> str:
    """Return what the tables amount to: how to read them, overall means, and the targets with the points below them."""
    counted = [m for m in measurements if not m.noisy]
    lines = [
        "ours ms: milliseconds of a step. torch, jax, onnx: their time over ours, median of the rounds; above 1 we are",
        "faster. lost: share of our time outside of matrix products. ! misses its target.",
        "~ other programs were running: no figure to rely on, and not counted; a mean with ~ lacks such points.",
        f"points counted: {len(counted)} of {len(measurements)}",
        "",
        "geometric mean of the ratios:",
    ]
    for row in means(measurements):
        mean = "-" if row["mean"] is None else f"{row['mean']:.2f}"
        name = f"{row['cell']}, {row['mode']}, {row['contender']}"
        lines.append(f"  {name:32}{mean:>6}  ({_count(row)})")
    # A few points say nothing about the others.
    part = (
        "" if set(GRID) <= {m.case.size for m in measurements} else " (they are about the whole grid; this is a part)"
    )
    lines += ["", f"targets{part}:"]
    for row in judge(measurements):
        value = "-" if row["value"] is None else f"{row['value']:.2f}"
        lines.append(f"  {row['verdict']:6}  {row['target']}: {value} ({_count(row)})")
        lines += [f"{'':10}{miss['case']}, threads {miss['threads']}: {miss['value']:.3f}" for miss in row["misses"]]
    return "\n".join(lines)


def _count(row: dict[str, Any]) -> str:
    return f"{row['of']} points" if row["counted"] == row["of"] else f"{row['counted']} of {row['of']} points"


def duration(seconds: float) -> str:
    """Return seconds in words, as exact as an estimate can be.

    Examples
    --------
    >>> [duration(s) for s in (4.0, 34.0, 95.0, 5000.0)]
    ['5 s', '35 s', '2 min', '83 min']
    """
    return f"{5 * max(1, round(seconds / 5))} s" if seconds < 90 else f"{round(seconds / 60)} min"


@contextlib.contextmanager
def progress(total: float) -> Iterator[Report]:
    """Show on stderr how far the work is, while it lasts; silent where stderr is not a terminal.

    Parameters
    ----------
    total : float
        Amount of work, in any unit.

    Yields
    ------
    callable
        To be called with the amount that is done and what comes next.
    """
    if not sys.stderr.isatty():
        yield lambda done, text: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield lambda done, text: print(f"\r\033[K{done / total:4.0%}  {text}", end="", file=sys.stderr, flush=True)
        print("\r\033[K", end="", file=sys.stderr, flush=True)
        return
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    # A bar that moves by itself would be drawn while times are taken.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        job = bar.add_task("", total=total)
        yield lambda done, text: bar.update(job, completed=done, description=text, refresh=True)
