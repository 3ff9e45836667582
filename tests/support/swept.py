"""What the tests of sweeps compute, in a module that a worker process imports quickly.

Points that kill, wait or fail do so by files in a folder that is part of the point: a file is made by one process only.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import fcntl
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_info, threadpool_limits

from rnn_numpy.experiments.sweep import workers

# Far more than anything here takes, on any machine: what is still there then hangs.
LIMIT = 120


class HangsError(BaseException):
    """No Exception, so that nothing on the way takes it for a failure of a point."""


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    """Raise HangsError after LIMIT seconds, whatever is waited for, with the stacks of all threads on stderr."""

    def stop(number: int, frame: Any) -> None:
        faulthandler.dump_traceback(sys.stderr)
        raise HangsError(f"not finished after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT, 10)  # once more where it was suppressed on its way
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def first_time(folder: str, name: str) -> bool:
    """Whether nobody, in whatever process, has asked this before."""
    try:
        os.close(os.open(Path(folder) / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def begin(folder: str, x: float) -> None:
    """Leave a trace of having been called."""
    with open(Path(folder) / "calls", "a") as file:
        file.write(f"{x:g}\n")


def calls(folder: Path) -> Counter[str]:
    path = folder / "calls"
    return Counter(path.read_text().split()) if path.exists() else Counter()


def square(x: float, folder: str) -> dict[str, Any]:
    begin(folder, x)
    return {"square": x * x, "types": [type(x).__name__]}


def grid(folder: Path, n: int = 5, **more: Any) -> dict[str, Any]:
    return {"x": range(n), "folder": [str(folder)], **more}


class Trivial(concurrent.futures.Executor):
    """What somebody might write for debugging."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def fails(x: int, folder: str) -> Any:
    begin(folder, x)
    if x == 1 and first_time(folder, "failed"):
        raise ValueError("x is one\nand that is bad")
    if x == 2:
        sys.exit("enough")
    if x == 3:
        return {"a": [object()]}
    return x


def kills_itself(x: int, folder: str, times: int, at: list[int]) -> int:
    begin(folder, x)
    if x in at and any(first_time(folder, f"killed-{x}-{number}") for number in range(times)):
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def ends(x: int) -> None:
    os._exit(7)


executors: dict[str, Callable[[], Any]] = {
    "one process": lambda: 1,
    "serial": lambda: "serial",
    "trivial": Trivial,
    "threads": lambda: ThreadPoolExecutor(1),
}


def ends_the_sweep(x: int, folder: str) -> float:
    """At the point 2, for the first time, do to the process that sweeps what the file "signal" says, and wait."""
    begin(folder, x)
    if x == 2 and first_time(folder, "ended"):
        target = os.getppid() if multiprocessing.parent_process() else os.getpid()
        lock = open(Path(folder) / "alive", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = Path(folder) / "results.jsonl"
        while store.read_bytes().count(b"\n") < 2:  # a thread may be ahead of the one that writes
            time.sleep(0.01)
        number = int((Path(folder) / "signal").read_text())
        if number == signal.SIGINT:
            os.killpg(os.getpgid(target), number)  # as a terminal does: to all of them
        else:
            os.kill(target, number)
        time.sleep(10 * LIMIT)
    return x / 2


def interrupts(x: int, folder: str) -> int:
    if x == 2:
        raise KeyboardInterrupt
    return x


def waits_for_the_other(x: int, folder: str) -> int:
    begun, go = Path(folder) / "begun", Path(folder) / "go"
    if x == 1:
        begun.touch()
    while not (begun if x == 0 else go).exists():
        time.sleep(0.01)
    return x


def is_slow(x: int, folder: str) -> int:
    """Wait for ever at the points 1 and 3."""
    begin(folder, x)
    time.sleep(10 * LIMIT if x in (1, 3) else 0)
    return x


def blas_threads() -> list[int]:
    return sorted({library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"})


def sees(x: int) -> dict[str, Any]:
    return {"threads": blas_threads(), "environment": [os.environ.get(name) for name in workers.THREAD_VARIABLES]}


def two_threads() -> None:
    threadpool_limits(2, user_api="blas")
