"""Who computes the points of a sweep: worker processes of our own, an executor of someone else's, or the caller.

A point travels as the text of its JSON, and so does what became of it: {"result": ...} or {"error": ...}. Only errors
of the function become an error of the point. Whatever else goes wrong on the way (a cluster that shuts down, a function
that a worker cannot import) is raised, and ends the sweep with what is finished kept.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pickle
import queue
import secrets
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from rnn_numpy.errors import DataError, OptionError, StalledError
from rnn_numpy.experiments.sweep.stores import Outcome, from_json, to_json
from rnn_numpy.experiments.sweep.threads import one_blas_thread

# multiprocessing is imported where processes are started: importing the experiments does not need it.
if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Function = Callable[..., Any]
Finish = Callable[[Any, Outcome], None]

# A worker that dies takes its point along. A point that was there each of so many times is to blame.
DEATHS = 3
# After so many workers in a row that died before they could compute anything, no other will live.
FAILED_STARTS = 3
# So often a point is handed once more to an executor of someone else's that has lost it.
LOSSES = 3
# Libraries of matrix products read these when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
GUARD = 'in a script, the call of sweep must stand under `if __name__ == "__main__":`'
ELSEWHERE = 'define it in a file, at module level; or use executor="serial" or a ThreadPoolExecutor'
# Seconds for a worker that has nothing more to do to end by itself.
PATIENCE = 10.0
# Python lets Ctrl-C through a wait without an end on some systems only.
TICK = 1.0


def compute_point(function: Function, point: str, run: str = "") -> str:
    """Call a function at one point, JSON of its arguments; return JSON of {"result"}, or of {"error"} and its parts.

    `run` is not used here: Dask takes two tasks with the same arguments for one task, and two sweeps must not be that.

    >>> compute_point(dict, '{"x": 1.0}')
    '{"result": {"x": 1.0}}'
    """
    try:
        with one_blas_thread(needed=False):
            result = function(**from_json(point))
        return f'{{"result": {to_json(result, "sweep", "result")}}}'
    except (Exception, SystemExit) as error:
        return f'{{"error": {json.dumps(_described(error))}}}'


def outcome_of(text: str) -> Outcome:
    """Return what a text of `compute_point` says."""
    fields = json.loads(text)
    return Outcome(error=fields["error"]) if "error" in fields else Outcome(result=json.dumps(fields["result"]))


def _described(error: BaseException) -> dict[str, str]:
    trace = error.__traceback__
    # The first frame is ours, and tells nothing about the function.
    told = traceback.TracebackException(type(error), error, trace.tb_next if trace is not None else None)
    parts = {"type": type(error).__name__, "message": str(told), "traceback": "".join(told.format())}
    return {part: text.encode(errors="backslashreplace").decode() for part, text in parts.items()}


# ------------------------------------------------------------------------------------------------------------ executors


@one_blas_thread(needed=False)
def compute_here(function: Function, points: Mapping[int, str], finish: Finish) -> None:
    """Compute points in this thread, one after the other, so that breakpoints work, and so does Ctrl-C."""
    for number, point in points.items():
        finish(number, outcome_of(compute_point(function, point)))


# OpenBLAS has one limit for the process. Were each thread of a pool to set it and to put back what it found, the first
# one to finish would lift it under the others; so it is set once, here. Other libraries have one per thread, and
# another process has its own: these are set at each point.
@one_blas_thread(needed=False)
def compute_on(
    executor: concurrent.futures.Executor,
    function: Function,
    points: Mapping[int, str],
    finish: Finish,
    timeout: float | None = None,
) -> None:
    """Compute points, JSON by number, on an executor, which stays open; hand each outcome to `finish`, in this thread.

    After `timeout` seconds without any point finished, raise StalledError. Raise also what the executor and `finish`
    raise, and KeyboardInterrupt: then points finished by then have been handed to `finish`, points not begun are
    cancelled.
    """
    run = secrets.token_hex(8)
    done: queue.SimpleQueue[concurrent.futures.Future[str]] = queue.SimpleQueue()
    numbers: dict[concurrent.futures.Future[str], int] = {}
    lost: Counter[int] = Counter()

    def submit(number: int) -> None:
        future = executor.submit(compute_point, function, points[number], f"{run}-{lost[number]}")
        numbers[future] = number
        future.add_done_callback(done.put)

    def take(future: concurrent.futures.Future[str]) -> None:
        error = future.exception()
        if error is None:
            finish(numbers.pop(future), outcome_of(future.result()))
        elif _killed_worker(error):
            finish(numbers.pop(future), Outcome(error=_described(error)))
        elif _may_pass(error) and lost[numbers[future]] < LOSSES:
            number = numbers.pop(future)
            lost[number] += 1
            submit(number)
        else:
            raise error

    try:
        for number in points:
            submit(number)
            # What is finished is kept before more is handed out: an executor may compute within submit.
            while not done.empty():
                take(done.get())
        heard = time.monotonic()
        while numbers:
            with contextlib.suppress(queue.Empty):
                take(done.get(timeout=TICK if timeout is None else min(TICK, timeout)))
                heard = time.monotonic()
                continue
            if timeout is not None and time.monotonic() - heard >= timeout:
                raise StalledError(
                    f"sweep: no point has finished for {timeout:g} s, the timeout, and {len(numbers)} of {len(points)} "
                    f"are left; is {type(executor).__name__} alive? What is finished is kept: look at the workers, "
                    "call sweep again, or allow a longer timeout"
                )
    except BaseException as error:
        for future in numbers:
            future.cancel()
        if not isinstance(error, DataError):  # the store takes no more
            for future in list(numbers):
                if future.done() and not future.cancelled() and future.exception() is None:
                    take(future)
        raise


def _may_pass(error: BaseException) -> bool:
    """Return whether an error of the executor's may be gone the next time.

    That of Dask loses a result, with a ValueError about unpacking, where a worker dies while it hands the result over.
    """
    return isinstance(error, Exception) and not isinstance(error, concurrent.futures.BrokenExecutor)


def _killed_worker(error: BaseException) -> bool:
    """Return whether Dask has given up on one point, at which worker after worker died."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(error, distributed.KilledWorker)


# ------------------------------------------------------------------------------------------------- processes of our own


def is_starting() -> bool:
    """Return whether this process, a worker of somebody's, is importing the script that it was started from."""
    processes = sys.modules.get("multiprocessing.process")
    # The mark that multiprocessing itself looks at, before it refuses to start a process there.
    return processes is not None and getattr(processes.current_process(), "_inheriting", False)


class _Worker:
    """A process and the point that it computes.

    Not a ProcessPoolExecutor: one process that dies breaks all of it, and it does not tell which point was to blame.
    """

    def __init__(self, pickled: bytes) -> None:
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        self.number: int | None = None
        self.given = 0.0
        self.ready = False
        self.connection, theirs = context.Pipe()
        # Not daemonic, so that a function may start processes itself; who ends ours is `stop`, and else `_end_with`.
        self.process = context.Process(target=_serve, args=(theirs, pickled), name="sweep worker")
        try:
            with _one_thread_environment(), _interrupts_later():
                self.process.start()
        finally:
            theirs.close()  # only the worker holds that end now: its death is the end of the pipe

    def give(self, number: int, point: str) -> None:
        self.number, self.given = number, time.monotonic()
        with contextlib.suppress(OSError):  # it is dead, which the loop will notice
            self.connection.send(point)

    def receive(self) -> str | None:
        """Return the text that it has sent; None if it is dead."""
        try:
            if self.connection.poll():
                text = self.connection.recv()
                return text if isinstance(text, str) else None
        except (EOFError, OSError):
            pass
        return None

    def dismiss(self) -> None:
        """Tell it to end, or kill it where it is not ready yet, which would take its time."""
        if self.ready:
            with contextlib.suppress(OSError):
                self.connection.send(None)
        else:
            self.process.kill()

    def stop(self, patience: float = 0.0) -> str:
        """Wait for its end for some seconds, then force it, and return how it ended."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def compute_in_processes(
    workers: int, function: Function, name: str, points: Mapping[int, str], finish: Finish, timeout: float | None = None
) -> None:
    """Compute points, JSON by number, in worker processes, which end with this call; hand each outcome to `finish`.

    A point that takes longer than `timeout` seconds is stopped, with its worker, and has failed. Raise OptionError
    where the function, called `name`, cannot be sent to a worker or imported there, or where workers die as they start.
    """
    from multiprocessing.connection import wait

    try:
        pickled = pickle.dumps(function)
    except Exception as error:
        raise OptionError(f"sweep: function {name} cannot be sent to worker processes: {error}; {ELSEWHERE}") from None
    waiting = deque(points)
    deaths: Counter[int] = Counter()
    failed_starts = 0
    crew: list[_Worker] = []
    try:
        for _ in range(min(workers, len(points))):
            crew.append(_Worker(pickled))
        while any(worker.number is not None for worker in crew) or waiting:
            ends = {worker.connection: worker for worker in crew} | {worker.process.sentinel: worker for worker in crew}
            heard = wait(list(ends), TICK if timeout is None else min(TICK, timeout))
            for worker in {id(ends[end]): ends[end] for end in heard}.values():  # type: ignore[index]
                text = worker.receive()
                number = worker.number
                if text is None:
                    crew.remove(worker)
                    # Its end of the pipe closes a moment before it ends, and how it ends is worth knowing.
                    how = worker.stop(PATIENCE)
                    if number is None:
                        failed_starts += 1
                        if failed_starts == FAILED_STARTS:
                            raise OptionError(f"sweep: worker processes die as they start ({how}), see stderr; {GUARD}")
                    else:
                        deaths[number] += 1
                        if deaths[number] < DEATHS:
                            waiting.appendleft(number)
                        else:
                            finish(number, _died(how))
                    if waiting:
                        crew.append(_Worker(pickled))
                    continue
                failed_starts = 0
                worker.ready = True
                worker.number = None
                if number is not None:
                    finish(number, outcome_of(text))
                elif text:
                    raise OptionError(f"sweep: worker processes cannot load function {name}: {text}; {ELSEWHERE}")
                if waiting:
                    following = waiting.popleft()
                    worker.give(following, points[following])
            if timeout is None:
                continue
            now = time.monotonic()
            for worker in [one for one in crew if one.number is not None and now - one.given >= timeout]:
                crew.remove(worker)
                worker.stop()
                text = worker.receive()  # it may have been about to finish
                finish(cast(int, worker.number), _overran(timeout) if text is None else outcome_of(text))
                worker.connection.close()
                if waiting:
                    crew.append(_Worker(pickled))
    except BaseException as error:
        for worker in crew:
            worker.stop()
            text = worker.receive()
            if worker.number is not None and text is not None and not isinstance(error, DataError):
                finish(worker.number, outcome_of(text))
        raise
    finally:
        for worker in crew:
            worker.dismiss()
        for worker in crew:
            worker.stop(PATIENCE)
            worker.connection.close()


def _overran(timeout: float) -> Outcome:
    message = f"this point was not finished after {timeout:g} s, the timeout; its worker process was stopped"
    return Outcome(error={"type": "TimeoutError", "message": message, "traceback": ""})


def _died(how: str) -> Outcome:
    message = (
        f"{DEATHS} worker processes died while they computed this point, the last one: {how}; a lack of memory, or a "
        "crash in compiled code?"
    )
    return Outcome(error={"type": "WorkerDied", "message": message, "traceback": ""})


def _serve(connection: Connection, pickled: bytes) -> None:
    """Run a worker: say that the function is there, or why not; then compute the points that arrive."""
    import multiprocessing

    # Ctrl-C reaches all processes of a terminal. It is the parent who decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what _interrupts_later has left
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        function = pickle.loads(pickled)
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        return
    connection.send("")
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while (point := connection.recv()) is not None:
            connection.send(compute_point(function, point))


def _end_with(sentinel: int) -> None:
    """End this process when its parent is gone, in the middle of a point too: nobody would record it."""
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back meanwhile: a process that is started now does not see it before it says that it ignores it."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # its start would lift what is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _one_thread_environment() -> Iterator[None]:
    """Let processes that are started meanwhile load their matrix libraries with one thread."""
    if {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & set(os.environ):  # as in one_blas_thread: the user has decided
        yield
        return
    ours = [name for name in THREAD_VARIABLES if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
