"""Many networks, each measured by itself: in parallel where it is worth it, and each kept as soon as it is finished.

A measurement is a function of a network's point: its cell, its seed, and so on. All else that it depends on, options
and data, is part of the function, and of its *fingerprint*: so is the source of this package, and the version of NumPy.
What a run that was broken off has kept is taken up by a run with the same fingerprint, and by no other.
"""

from __future__ import annotations

import base64
import concurrent.futures
import functools
import hashlib
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import rnn_numpy
from rnn_numpy import errors
from rnn_numpy.errors import OptionError, StalledError
from rnn_numpy.experiments.progress import Progress
from rnn_numpy.experiments.sweep import sweep
from rnn_numpy.lab.gradient_flow import GradientFlow

Point = Mapping[str, Any]
Executor = concurrent.futures.Executor | int | str | None


@functools.cache
def sources() -> str:
    """Return what tells this package and this NumPy from any others: a hash of their sources and version."""
    found = hashlib.sha256(np.__version__.encode())
    root = Path(rnn_numpy.__file__).parent
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


class Measurement(ABC):
    """A function of points that can be sent to another process; a subclass has `measured`, and what that needs.

    Its result is made of what JSON has; `kept_flow` and `flow_of` are for flows of gradients.
    """

    def __init__(self) -> None:
        self.sources = sources()

    def __call__(self, **point: Any) -> Any:
        """Measure the network of a point, wherever this has come to."""
        if self.sources != sources():
            raise OptionError(
                f"{rnn_numpy.__file__}: a process on another machine, or one that was started earlier, has another "
                "version of rnn_numpy or of NumPy than the one that asks it; install the same there, and start it again"
            )
        return self.measured(**point)

    @abstractmethod
    def measured(self, **point: Any) -> Any:
        """Return what is measured of a network."""

    @property
    def fingerprint(self) -> str:
        """What tells this function from others of its kind, in 16 hexadecimal digits."""
        return hashlib.sha256(pickle.dumps(self.__dict__, protocol=5)).hexdigest()[:16]


def kept_flow(flow: GradientFlow | None) -> dict[str, Any] | None:
    """Return a flow as what JSON can hold, bit for bit; None for none.

    >>> flow = GradientFlow(np.array([[1.0, 2.0], [0.1, np.inf]]), 2.0, {"f": 0.5})
    >>> again = flow_of(kept_flow(flow))
    >>> again.norms.tolist(), again.independent, again.gates
    ([[1.0, 2.0], [0.1, inf]], 2.0, {'f': 0.5})
    """
    if flow is None:
        return None
    norms = base64.b64encode(np.ascontiguousarray(flow.norms, "<f8").tobytes()).decode()
    return {"norms": norms, "windows": flow.count, "independent": flow.independent, "gates": dict(flow.gates)}


def flow_of(kept: Mapping[str, Any] | None) -> Any:
    """Return the flow that `kept_flow` was given."""
    if kept is None:
        return None
    norms = np.frombuffer(base64.b64decode(kept["norms"]), "<f8").astype(np.float64)
    return GradientFlow(norms.reshape(-1, kept["windows"]), kept["independent"], kept["gates"])


def measure_all(
    measurement: Measurement,
    points: Sequence[Point],
    told: Callable[[Point, Any], str],
    progress: Progress | None,
    executor: Executor,
    store: str | os.PathLike[str] | None,
) -> list[Any]:
    """Return what is measured at each point, in order.

    `progress` is called with the number of networks that are finished, their total, and what `told` makes of the last
    one, a point and its result; `executor` and `store` are those of `sweep`. What was measured is in the store when an
    error is raised, Ctrl-C among them.
    """
    total, report = len(points), progress or (lambda done, total, label: None)
    done = 0

    def each(row: Mapping[str, Any]) -> None:
        nonlocal done
        if row["error"] is None:
            done += 1
            report(done, total, told(row["point"], row["result"]))

    report(0, total, "")
    result = sweep(
        measurement, points, executor, store, version=measurement.fingerprint, retry_failed=True,
        progress=lambda done, total, label: None, each=each,
    )  # fmt: skip
    for row in result.rows:
        if row["error"] is not None:
            raise _raised(row["point"], row["error"])
    return [row["result"] for row in result.rows]


def _raised(point: Point, error: Mapping[str, str]) -> Exception:
    """Return the error of a network, to raise it here."""
    kind, message = error["type"], error["message"]
    label = ", ".join(f"{name} {value}" for name, value in point.items())
    if kind == "MemoryError":
        return MemoryError(f"{label}: {message}")
    if kind in errors.__all__:
        return getattr(errors, kind)(message)  # type: ignore[no-any-return]
    if not error["traceback"] or kind == "KilledWorker":
        return StalledError(f"{label}: {message}")
    return RuntimeError(f"{label}: {error['traceback']}")
