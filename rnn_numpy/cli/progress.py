"""How far the work is, on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rnn_numpy.core.extras import optional_import

Tell = Callable[[int, int, str], None]


@contextlib.contextmanager
def progress(label: str) -> Iterator[Tell]:
    """A bar on stderr while the work lasts; silent where stderr is not a terminal.

    Parameters
    ----------
    label : str
        What stands in front of the bar until the work tells more.

    Yields
    ------
    tell : callable
        tell(done, total, label): so many of so many are done, and this is being done now.

    Raises
    ------
    MissingExtraError
        stderr is a terminal and rich, which draws the bar, is not installed.

    Examples
    --------
    >>> with progress("counting") as tell:
    ...     for number in range(3):
    ...         tell(number, 3, f"at {number}")
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total, label: None
        return
    bars = optional_import("rich.progress", "the progress bar")
    console = optional_import("rich.console", "the progress bar")
    columns: list[Any] = [
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeRemainingColumn(),
    ]
    with bars.Progress(*columns, console=console.Console(stderr=True), transient=True) as bar:
        job = bar.add_task(label, total=None)
        yield lambda done, total, label: bar.update(job, completed=done, total=total, description=label)
