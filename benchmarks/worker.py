"""The process in which one contender runs, and the parent's handle on it.

They talk in lines of JSON over pipes. A worker waits in a blocking read; before it answers it makes sure that its
library's threads have stopped spinning, so that the next worker finds the cores free.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders import CONTENDERS, Contender

ROOT = Path(__file__).resolve().parents[1]
# The last is XLA's.
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PJRT_NPROC")
# These bind OpenBLAS to the kernels of a processor that is not this one. MKL, oneDNN and XLA look at the processor and
# choose; without these variables OpenBLAS does, too. What it chose is recorded as `blas_kernels`.
DROPPED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
# Beginnings of variables that change times. The user's pass through to the workers, and are recorded with these.
SETTINGS = (
    *("ATEN_", "DNNL_", "GLIBC_TUNABLES", "GOMP_", "JAX_", "KMP_", "MALLOC_", "MKL_", "NPY_", "OMP_", "ONEDNN_"),
    *("OPENBLAS_", "PJRT_", "XLA_"),
)
# What makes libraries choose as on a processor that has AVX2 and no AVX-512. ONNX Runtime cannot be told.
WITHOUT_AVX512 = {
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}

QUIET_SLEEP = 0.005  # seconds between two looks at the process's CPU time
QUIET_SHARE = 0.05  # of that time; a spinning thread has used up about all of it
QUIET_LIMIT = 1.0  # seconds; OpenBLAS's threads spin for some hundredths


class WorkerError(RuntimeError):
    """A worker died or reported an exception."""


def variables(source: Path | None = None) -> dict[str, str]:
    """Return the environment variables of a process that is measured, but for the numbers of threads."""
    inherited = {name: value for name, value in os.environ.items() if name not in DROPPED}
    if source is not None:
        places = [str(source), str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]
        inherited["PYTHONPATH"] = os.pathsep.join(places)
    return inherited


def without_avx512() -> dict[str, str]:
    """Return the environment variables of a process whose libraries are to do without AVX-512."""
    config = np.show_config(mode="dicts")
    simd = config.get("SIMD Extensions", {}) if isinstance(config, dict) else {}
    names = [*simd.get("found", []), *simd.get("not found", [])]
    wide = [name for name in names if name.startswith(("AVX512", "X86_V4"))]
    return {**WITHOUT_AVX512, "NPY_DISABLE_CPU_FEATURES": " ".join(wide)}


def interpreter_options(source: Path | None = None) -> list[str]:
    """Return the interpreter's options: without -P the current folder would come before `source`."""
    return [] if source is None else ["-P"]


class Worker:
    """A contender in a process of its own.

    Parameters
    ----------
    name : str
        A key of `CONTENDERS`.
    threads : int
        For BLAS, OpenMP and XLA; set in the process's environment, before its libraries are loaded.
    module : str
        Whose `main` the process runs.
    source : Path, optional
        The folder from which the process imports `rnn_numpy`; this repository's root where left out. The programs of
        `benchmarks` are this repository's in any case.
    avx512 : bool
        False for a process whose libraries do without these instructions, as most laptops' must.

    Notes
    -----
    The process begins to import its library at once; `environment` and `ask` wait for it, so that several workers can
    start side by side.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        module: str = "benchmarks.worker",
        source: Path | None = None,
        avx512: bool = True,
    ) -> None:
        self.name = name
        environment = {**variables(source), **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        environment |= {} if avx512 else without_avx512()
        self._process = subprocess.Popen(
            [sys.executable, *interpreter_options(source), "-m", module, name],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send("environment", {})

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, thread counts and variables, as the process reports them.

        Raises
        ------
        WorkerError
            The contender cannot be made: its library is missing.
        """
        try:
            found: dict[str, Any] = self._receive("environment")
        except WorkerError:
            self.close()
            raise
        return found

    def ask(self, request: str, **arguments: Any) -> Any:
        """Send a request, wait for its answer and return that.

        Raises
        ------
        WorkerError
        """
        self.environment  # noqa: B018  (the answer to the first request comes first)
        self._send(request, arguments)
        return self._receive(request)

    def _send(self, request: str, arguments: dict[str, Any]) -> None:
        stdin = self._process.stdin
        if stdin is None:
            raise WorkerError(f"worker {self.name} has no pipes")
        # A process that has ended gives no answer either, which is where it is told.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps({"request": request, **arguments}) + "\n")
            stdin.flush()

    def _receive(self, request: str) -> Any:
        line = "" if self._process.stdout is None else self._process.stdout.readline()
        if not line:
            raise WorkerError(f"worker {self.name} ended with exit code {self._process.wait()} at {request!r}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"worker {self.name} at {request!r}: {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        process = self._process
        if process.stdin is not None:
            # What could not be written to a process that has ended would be tried once more.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Server:
    """The worker's side: one method per request."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender

    def environment(self) -> dict[str, Any]:
        """Return the contender's versions and thread counts, and the variables that it found."""
        found = {name: os.environ[name] for name in sorted(os.environ) if name.startswith(SETTINGS)}
        return {**self.contender.environment(), "variables": found}

    def load(self, case: dict[str, Any]) -> float:
        """Load a case, warm up, and return an estimate of a step's seconds."""
        self.contender.load(Case.from_json(case))
        self.contender.step()
        times: list[int] = []
        while len(times) < 3 or (sum(times) < 5e7 and len(times) < 50):
            times += self._times(1)
        quiet()
        return min(times) / 1e9

    def results(self, path: str, silent: list[int]) -> None:
        """Save what a step computes as an .npz file."""
        np.savez(path, **self.contender.results(silent))  # type: ignore[arg-type]  # stub takes **kwds for a flag
        quiet()

    def block(self, repeats: int, cpu: bool = False) -> dict[str, Any]:
        """Return the nanoseconds of `repeats` steps, of CPU time if asked, the CPU seconds that this took all in all,
        and the cores in use.

        One more step, before them, fills the caches again. `cores` is CPU time over time, during the steps alone.
        """
        began = time.process_time()
        self.contender.step()
        used = time.process_time()
        started = time.perf_counter()
        times = self._times(repeats, time.process_time_ns if cpu else time.perf_counter_ns)
        cores = (time.process_time() - used) / (time.perf_counter() - started)
        quiet()
        return {"times": times, "cpu": time.process_time() - began, "cores": cores}

    def peak(self, case: dict[str, Any]) -> int | None:
        """Return by how many bytes resident memory rises in a case's first step; None where it cannot be told."""
        first = Case.from_json(case)
        # A tiny net first: what libraries allocate once and for all is not the step's.
        self.contender.load(replace(first, size=(2, 2, 4, 4)))
        self.contender.step()
        self.contender.load(first)
        _trim()
        before = _resident("VmRSS", reset=True)
        self.contender.step()
        after = _resident("VmHWM")
        return None if before is None or after is None else after - before

    def _times(self, repeats: int, clock: Callable[[], int] = time.perf_counter_ns) -> list[int]:
        step = self.contender.step
        times = []
        for _ in range(repeats):
            start = clock()
            step()
            times.append(clock() - start)
        return times


def quiet() -> float:
    """Wait until this process uses no CPU; return the seconds waited."""
    start = time.perf_counter()
    while time.perf_counter() - start < QUIET_LIMIT:
        used, began = time.process_time(), time.perf_counter()
        time.sleep(QUIET_SLEEP)
        if time.process_time() - used < QUIET_SHARE * (time.perf_counter() - began):
            break
    return time.perf_counter() - start


def new_server(name: str) -> Server:
    """Return the server of a contender of `CONTENDERS`."""
    return Server(CONTENDERS[name]())


def serve(name: str, requests: TextIO, answers: TextIO, make: Callable[[str], Server] = new_server) -> None:
    """Answer requests until there are no more. Exceptions go to the parent as one line."""
    server: Server | None = None
    for line in requests:
        arguments = json.loads(line)
        try:
            server = server or make(name)
            result = getattr(server, arguments.pop("request"))(**arguments)
            answer = {"result": result}
        except Exception as error:  # whatever a contender's library raises, the parent is to say it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _trim() -> None:
    """Give memory that was freed but kept back to the system, where the C library can: it would hide what is new."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str, reset: bool = False) -> int | None:
    """Return a field of /proc/self/status in bytes; `reset` first sets the peak (VmHWM) to the present size."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def main(arguments: list[str] | None = None, make: Callable[[str], Server] = new_server) -> int:
    """Run one worker: `python -m benchmarks.worker NAME`."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    # What a library prints, from Python or from C, must not end up between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(name, sys.stdin, answers, make)
    return 0


if __name__ == "__main__":
    sys.exit(main())
