"""A progress bar on stderr, for work that may or may not take long."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import MissingExtraError

# Called with the number of steps done, their total, and what is being done.
Progress: TypeAlias = Callable[[int, int, str], None]


def part_of(progress: Progress | None, number: int, steps: int, parts: int, label: str) -> Callable[[int], None]:
    """Return the callback, of steps done, of one of several equal parts of some work."""
    return lambda done: None if progress is None else progress(number * steps + done, parts * steps, label)


_quiet = False


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Show no bar, and nothing else of how far the work is, within."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Tell whether nothing is to be shown of how far the work is."""
    return _quiet


@contextlib.contextmanager
def progress_bar(after: float = 2.0, label: str = "") -> Iterator[Progress]:
    """Show a bar once the work has lasted `after` seconds, and take it away at the end; yield what updates it.

    That is called with the number of steps done, their total, and what is being done; `label` stands in front of the
    bar until then. Nothing is shown where stderr is no terminal, or where rich, which draws the bar, is not installed.

    >>> with progress_bar() as progress:
    ...     progress(1, 2, "half of it")
    """
    # NumPy loads it when it is first used, and drops a Ctrl-C that comes meanwhile; who sees a bar may press it.
    import numpy.random  # noqa: F401

    bar = _bar()
    if bar is None:
        yield lambda done, total, label: None
        return
    job = bar.add_task(label, total=None)
    # A timer, not a look at the clock at each call: a first step of an hour shows its bar too.
    timer = threading.Timer(after, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda done, total, label: bar.update(job, completed=done, total=total, description=label)
    finally:
        timer.cancel()
        timer.join()  # it may be starting the bar just now
        bar.stop()


def _bar() -> Any:
    if _quiet or sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        progress = optional_import("rich.progress", "the progress bar")
        console = optional_import("rich.console", "the progress bar")
    except MissingExtraError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=console.Console(stderr=True),
        transient=True,
    )
