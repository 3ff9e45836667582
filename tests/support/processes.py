"""Processes that tests start: Ctrl-C works in them, and none is waited for without end.

A process whose parent ignores SIGINT ignores it too: pytest started by nohup, cron or a job runner hands that on to
what it starts, and a test that interrupts its child would wait for ever. `started` gives children Python's own handler
back, and every wait here ends with an error that names the test.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

# Seconds; much more than anything takes on a busy machine.
LIMIT = 120


class NotEndedError(AssertionError):
    """A process was waited for, and did not do what the test waits for."""


def too_late(command: Sequence[str], what: str, limit: float) -> NotEndedError:
    test = os.environ.get("PYTEST_CURRENT_TEST", "outside of a test")
    return NotEndedError(f"{test}: after {limit} s, {what}: {' '.join(map(str, command))}")


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let processes that are started within be interrupted, even where this one is not to be.

    What is ignored stays ignored across exec; what is handled falls back to the default, where Python's handler goes.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def started(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a process in which Ctrl-C works."""
    with interruptible():
        return subprocess.Popen(command, **options)


def ended(
    command: Sequence[str], *, check: bool = False, limit: float = LIMIT, input: Any = None, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a process to its end, as `subprocess.run` does; without `input`, with nothing to read."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options["stdin"] = subprocess.DEVNULL if input is None else subprocess.PIPE
    with started(command, **options) as process:
        try:
            out, err = process.communicate(input, timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise too_late(command, "still running", limit) from None
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check and done.returncode:
        raise AssertionError(f"exit code {done.returncode}: {err!r}")
    return done


def interrupted_on_a_terminal(command: Sequence[str], words: Sequence[bytes], **options: Any) -> tuple[int, bytes]:
    """Run a process whose stderr is a terminal, interrupt it once all words stand there.

    Returns
    -------
    code : int
    seen : bytes
        All that came to the terminal; nothing must come to standard output.
    """
    controller, terminal = pty.openpty()
    until = time.monotonic() + LIMIT
    seen = b""

    def read(what: str) -> bytes:
        if not select.select([controller], [], [], max(0.0, until - time.monotonic()))[0]:
            raise too_late(command, f"{what}; seen {seen[-500:]!r}", LIMIT)
        try:
            return os.read(controller, 4096)
        except OSError:  # the terminal is closed
            return b""

    with started(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, **options) as process:
        os.close(terminal)
        try:
            while not all(word in seen for word in words):
                piece = read(f"no {words} on the terminal")
                assert piece, f"ended before {words} were seen: {seen!r}"
                seen += piece
            process.send_signal(signal.SIGINT)
            while piece := read("not ended by SIGINT"):
                seen += piece
            try:
                code = process.wait(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                raise too_late(command, "not ended by SIGINT", LIMIT) from None
        finally:
            process.kill()
            os.close(controller)
        assert process.stdout is not None and process.stdout.read() == b""
    return code, seen
