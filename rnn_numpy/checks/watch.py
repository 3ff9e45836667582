"""How far a long check has come: a line on a terminal, and the time that it may take."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

Progress = Callable[[int, int, str], None]

# A check that takes less shows nothing.
SILENT = 2.0
EVERY = 0.2


class Watch:
    """The clock of one check, and its progress.

    Parameters
    ----------
    label : str
        What stands in front of the line.
    seconds : float
        Of the check; infinite for as long as it takes.
    progress : callable, optional
        Called with (done, total, label). Where it is left out and stderr is a terminal, a line appears there once the
        check has lasted two seconds, and goes away at the end.

    Examples
    --------
    >>> with Watch("gradcheck", 60.0) as watch:
    ...     watch(1, 2, "entries of w")
    >>> watch.is_over
    False
    """

    def __init__(self, label: str, seconds: float = math.inf, progress: Progress | None = None) -> None:
        self.label, self.seconds = label, seconds
        self.began = self._written = time.monotonic()
        self._progress = progress
        self._terminal: TextIO | None = None
        if progress is None and sys.stderr is not None and sys.stderr.isatty():
            self._terminal = sys.stderr
        self._shown = 0

    @property
    def spent(self) -> float:
        """Seconds since the check began."""
        return time.monotonic() - self.began

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.spent > self.seconds

    def __call__(self, done: int, total: int, label: str) -> None:
        """Tell how much of the work is done."""
        if self._progress is not None:
            self._progress(done, total, label)
        elif self._terminal is not None:
            self._write(self._terminal, done, total, label)

    def _write(self, terminal: TextIO, done: int, total: int, label: str) -> None:
        now = time.monotonic()
        if now - self.began < SILENT or now - self._written < EVERY:
            return
        self._written = now
        left = (now - self.began) / done * (total - done) if done else math.nan
        text = f"{self.label}: {label}, {done} of {total}" + (f", about {in_words(left)} left" if done else "")
        text = text[: shutil.get_terminal_size().columns - 1]
        terminal.write(f"\r{text:<{self._shown}}")
        terminal.flush()
        self._shown = len(text)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the line away."""
        if self._terminal is not None and self._shown:
            self._terminal.write(f"\r{'':<{self._shown}}\r")
            self._terminal.flush()


def in_words(seconds: float) -> str:
    """Return a time for people.

    Examples
    --------
    >>> in_words(0.2), in_words(42.3), in_words(600), in_words(20000)
    ('1 s', '42 s', '10 min', '5.6 h')
    """
    if seconds < 120:
        return f"{max(1.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
