"""Equal results first, then times: what one point of the grid goes through."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import summary
from benchmarks.cases import Case
from benchmarks.contenders import JAX, OURS, PRODUCTS
from benchmarks.worker import ROOT, Worker

Array = NDArray[Any]

# Largest difference between contenders, relative to the largest entry of the tensor. The products sum in different
# orders, and each library has a tanh of its own; README.md says what was seen. One tolerance holds for all.
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}

BLOCK_SECONDS = 0.04
FOREIGN_LIMIT = 0.25  # cores; a single-threaded program on the same machine takes up to 1
MIN_QUIET = 0.2  # of the rounds must be undisturbed
BLOCK_STEPS = 20  # at most; of more, the raw times would fill the file and tell nothing new


class UnequalResultsError(Exception):
    """Two contenders do not compute the same numbers: their times cannot be compared."""


@dataclass(frozen=True)
class Measurement:
    """One case with one number of threads.

    Parameters
    ----------
    case : Case
    threads : int
    differences : dict of str to dict of str to float
        Largest relative difference between ours and a rival's, by rival and tensor.
    silent : dict of str to list of int
        Sequences that were left out of the comparison of gradients, by rival; see `on_kink`.
    times : dict of str to list of list of int
        Nanoseconds of single steps: contender, round, step.
    foreign : list of float
        Cores that other programs used during each round; NaN where the system does not tell.
    cores : dict of str to list of float
        Cores that a contender itself kept busy, by contender and round.
    """

    case: Case
    threads: int
    differences: dict[str, dict[str, float]]
    silent: dict[str, list[int]]
    times: dict[str, list[list[int]]]
    foreign: list[float]
    cores: dict[str, list[float]]

    @property
    def noisy(self) -> bool:
        """Whether other programs ran during so many rounds that the times are not the contenders' own."""
        return len(self._undisturbed()) < max(1, MIN_QUIET * len(self.foreign))

    def used(self, name: str) -> list[list[int]]:
        """Return a contender's blocks of the undisturbed rounds; of all where the point is noisy."""
        rounds = range(len(self.foreign)) if self.noisy else self._undisturbed()
        return [self.times[name][number] for number in rounds]

    def _undisturbed(self) -> list[int]:
        # Decided by what others did, never by what was measured. "not >" keeps rounds of which nothing is known.
        return [number for number, load in enumerate(self.foreign) if not load > FOREIGN_LIMIT]

    @property
    def rivals(self) -> list[str]:
        """The contenders that compute the same network."""
        return [name for name in self.times if name not in (OURS, PRODUCTS)]

    def ratio(self, rival: str) -> summary.Ratio:
        """Return a rival's time over ours."""
        return summary.ratio(self.used(rival), self.used(OURS))

    @property
    def lost(self) -> float | None:
        """The share of our time that is not matrix products; None where these were not timed."""
        return summary.lost(self.used(OURS), self.used(PRODUCTS)) if PRODUCTS in self.times else None

    @property
    def misses(self) -> list[str]:
        """What misses its target at this point: names of rivals, "lost"."""
        missed = [rival for rival in self.rivals if summary.missed(self.case, rival, self.ratio(rival).median)]
        share, lost = summary.lost_target(self.case), self.lost
        return missed + (["lost"] if share is not None and lost is not None and lost >= share else [])

    def to_json(self) -> dict[str, Any]:
        """Return everything measured, and what follows from it, as a JSON object."""
        return {
            "case": self.case.to_json(),
            "threads": self.threads,
            "ratio": {rival: asdict(self.ratio(rival)) for rival in self.rivals},
            "lost": self.lost,
            "noisy": self.noisy,
            "foreign_cores": [None if math.isnan(load) else round(load, 3) for load in self.foreign],
            "own_cores": {name: round(median(rounds), 2) for name, rounds in self.cores.items()},
            "misses": self.misses,
            "median_ms": {name: summary.typical(self.used(name)) / 1e6 for name in self.times},
            "min_ms": {name: summary.least(self.used(name)) / 1e6 for name in self.times},
            "largest_relative_difference": self.differences,
            "sequences_on_a_kink": self.silent,
            "times_ns": self.times,
        }


# What the keys of `Measurement.to_json` mean, for readers of the file.
FIELDS = {
    "case": "cell, size (T, N, D, H), dtype, seed of the numbers, mode",
    "threads": "that all contenders were given",
    "ratio": "by contender: its time over ours. median: over the undisturbed rounds, of the ratio of the two blocks' "
    "medians; low, high: the middle half of the rounds; of_minima: of the shortest times",
    "lost": "share of our time outside of matrix products: 1 - products / ours",
    "noisy": "true: other programs ran during nearly all rounds; not to be relied on, and not counted anywhere",
    "foreign_cores": "by round: cores that other programs kept busy; rounds above 0.25 are disturbed",
    "own_cores": "by contender: cores that it kept busy, CPU time over time",
    "misses": "contenders against which the point misses a target for single points; lost: the same for that share",
    "median_ms": "by contender: milliseconds of a step, median over undisturbed rounds of the blocks' medians",
    "min_ms": "by contender: milliseconds of the shortest step in these rounds",
    "largest_relative_difference": "by contender and tensor: to our result, over the tensor's largest entry",
    "sequences_on_a_kink": "by contender: sequences without part in the comparison of gradients (relu alone)",
    "times_ns": "by contender, round, step: nanoseconds of every single step, disturbed rounds too",
}


# ---------------------------------------------------------------------------------------------------- equal results


def differences(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, float]:
    """Return for each tensor the largest difference relative to the largest entry.

    Parameters
    ----------
    ours, theirs : mapping of str to ndarray
        The same names and shapes.

    Returns
    -------
    dict of str to float
        NaN where either side is not finite; infinity where one side is all zeros and the other is not.

    Raises
    ------
    UnequalResultsError
        Names or shapes differ.

    Examples
    --------
    >>> differences({"dx": np.array([1.0, 4.0])}, {"dx": np.array([1.5, 4.0])})
    {'dx': 0.125}
    """
    if set(ours) != set(theirs):
        raise UnequalResultsError(f"results must have the same names; got {sorted(ours)} and {sorted(theirs)}")
    found: dict[str, float] = {}
    for name, mine in ours.items():
        other = theirs[name]
        if mine.shape != other.shape:
            raise UnequalResultsError(f"{name} must have the same shape; got {mine.shape} and {other.shape}")
        if not (np.isfinite(mine).all() and np.isfinite(other).all()):
            found[name] = float("nan")
            continue
        error = float(np.max(np.abs(mine - other)))
        largest = float(np.max(np.abs(other)))
        found[name] = error / largest if largest > 0 else (0.0 if error == 0 else float("inf"))
    return found


def require_equal(case: Case, rival: str, found: Mapping[str, float]) -> None:
    """Raise UnequalResultsError if a difference is above the dtype's tolerance, or not a number."""
    tolerance = TOLERANCE[case.dtype]
    for name, value in found.items():
        if not value <= tolerance:
            raise UnequalResultsError(
                f"{case}: {name} differs by {value:.2e} of its largest entry, more than {tolerance:.0e}: "
                f"{OURS} and {rival} do not compute the same, so their times say nothing"
            )


def on_kink(case: Case, ours: Array, theirs: Array) -> list[int]:
    """Return the sequences whose gradients cannot be compared, because a unit is on for one side and off for the other.

    relu has a kink at 0. Where a pre-activation is 0 but for rounding, the sides may take its derivative as 1 and as 0,
    both rightly. Among the 10^6 pre-activations of a case, in float32, that happens to a few.

    Parameters
    ----------
    case : Case
    ours, theirs : ndarray, (T, N, H)
        Outputs.

    Returns
    -------
    list of int
        Rows n; none in inference, where no derivative is taken.

    Raises
    ------
    UnequalResultsError
        More than half of the sequences are such: that is no rounding.
    """
    if not (case.cell.endswith("relu") and case.mode == "training"):
        return []
    rows = np.flatnonzero(((ours > 0) != (theirs > 0)).any(axis=(0, 2)))
    if 2 * len(rows) > ours.shape[1]:
        raise UnequalResultsError(
            f"{case}: units are on in {OURS} and off in the other contender, or the reverse, in {len(rows)} rows"
        )
    return [int(row) for row in rows]


def compare(case: Case, mine: Mapping[str, Array], ours: Worker, rival: Worker) -> tuple[dict[str, float], list[int]]:
    """Return the differences of all results, and the sequences left out of the gradients; see `on_kink`.

    Parameters
    ----------
    case : Case
    mine : mapping of str to ndarray
        Our results with all sequences.
    ours, rival : Worker

    Raises
    ------
    UnequalResultsError
        A difference is too large.
    """
    other = results_of(rival, [])
    silent = on_kink(case, mine["output"], other["output"]) if "output" in mine else []
    if silent:
        mine, other = results_of(ours, silent), results_of(rival, silent)
    found = differences(mine, other)
    require_equal(case, rival.name, found)
    return found, silent


# ------------------------------------------------------------------------------------------------------- measuring


def measure(
    workers: Mapping[str, Worker], case: Case, threads: int, rounds: int, patience: float, cpu: bool = False
) -> Measurement:
    """Check that results agree, then time all contenders in turn, `rounds` times.

    Parameters
    ----------
    workers : mapping of str to Worker
        Contenders that cover the case; `OURS` among them.
    case : Case
    threads : int
        As the workers were started with.
    rounds : int
    patience : float
        Seconds for which rounds in which other programs ran are repeated. All rounds are kept, disturbed ones too;
        figures come from the others.
    cpu : bool
        Count the contenders' CPU time, in which other programs have no part but by the caches: of their load nothing is
        asked then.

    Returns
    -------
    Measurement

    Raises
    ------
    UnequalResultsError, WorkerError
    """
    seconds = {name: worker.ask("load", case=case.to_json()) for name, worker in workers.items()}
    mine = results_of(workers[OURS], [])
    found: dict[str, dict[str, float]] = {}
    silent: dict[str, list[int]] = {}
    for name, worker in workers.items():
        if name not in (OURS, PRODUCTS):
            found[name], silent[name] = compare(case, mine, workers[OURS], worker)
    repeats = {name: _block(estimate) for name, estimate in seconds.items()}
    times: dict[str, list[list[int]]] = {name: [] for name in workers}
    own_cores: dict[str, list[float]] = {name: [] for name in workers}
    foreign: list[float] = []
    wanted, deadline = rounds, time.monotonic() + patience
    while len(foreign) < wanted:
        # There and back: what one contender leaves in the caches, or a drift within a round, hits each side alike.
        names = sorted(workers, reverse=len(foreign) % 2 == 0)
        busy, began, own = busy_seconds(), time.monotonic(), time.process_time()
        used = 0.0
        for name in names:
            answer = workers[name].ask("block", repeats=repeats[name], cpu=cpu)
            times[name].append(answer["times"])
            own_cores[name].append(answer["cores"])
            used += answer["cpu"]
        used += time.process_time() - own
        others = max(0.0, busy_seconds() - busy - used) / (time.monotonic() - began)
        foreign.append(math.nan if cpu else others)
        if foreign[-1] > FOREIGN_LIMIT and time.monotonic() < deadline:
            wanted += 1
            time.sleep(0.2)
    return Measurement(case, threads, found, silent, times, foreign, own_cores)


def _block(seconds: float) -> int:
    """Return how many steps of so many seconds make a block."""
    return max(1, min(BLOCK_STEPS, int(BLOCK_SECONDS / seconds)))


def expected(case: Case, threads: int, names: Sequence[str], rounds: int, rates: Mapping[str, float]) -> float:
    """Return roughly how many seconds `measure` takes on a quiet machine.

    Parameters
    ----------
    case : Case
    threads : int
    names : sequence of str
        The contenders.
    rounds : int
    rates : mapping of str to float
        Operations per second of a matrix product on one core, by dtype; see `rate`.

    Returns
    -------
    float
    """
    steps, batch, inputs, hidden = case.size
    passes = 3 if case.mode == "training" else 1
    operations = 2 * passes * steps * batch * case.gates * hidden * (inputs + hidden)
    # Half as long again as the products alone, and some microseconds per step.
    seconds = 1.5 * operations / (rates[case.dtype] * min(threads, cores())) + passes * steps * 3e-6
    compiling = 0.5 if JAX in names else 0.0
    # Beside the rounds there are loading, the first steps, and those whose results are compared.
    return compiling + len(names) * (0.06 + 8 * seconds + rounds * (0.01 + (_block(seconds) + 1) * seconds))


def rate(dtype: str) -> float:
    """Return the operations per second of a product of two 64 x 64 matrices: too small for a second thread."""
    left = np.ones((64, 64), dtype)
    out = np.empty_like(left)
    seconds = []
    for _ in range(200):
        start = time.perf_counter()
        left.dot(left, out)
        seconds.append(time.perf_counter() - start)
    return float(2 * 64**3 / min(seconds))


def busy_seconds() -> float:
    """Return the seconds that all cores together have worked since the machine started; NaN where there is no /proc.

    Time that a virtual machine's host took away counts as work: of others, like any program beside ours.
    """
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return float("nan")
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def results_of(worker: Worker, silent: list[int]) -> dict[str, Array]:
    """Return what a worker's contender computes, by way of a file; see `Contender.results`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.npz"
        worker.ask("results", path=str(path), silent=silent)
        with np.load(path) as archive:
            return dict(archive)


@contextlib.contextmanager
def start(names: Sequence[str], threads: int, avx512: bool = True) -> Iterator[dict[str, Worker]]:
    """Start one worker per contender, all at once; end them all at the end of the block."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(Worker(name, threads, avx512=avx512)) for name in names}


# ----------------------------------------------------------------------------------------------------- the machine


def machine() -> dict[str, Any]:
    """Return what the times depend on and no contender reports: CPU, cores, system."""
    model = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": model,
        "cores": cores(),
        "system": platform.platform(),
        "load": list(os.getloadavg()),
        "rnn_numpy": source_digest(),
    }


def source_digest() -> str:
    """Return a digest of the package's source files: times belong to one state of the code, and to no other."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "rnn_numpy").rglob("*.py")):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
