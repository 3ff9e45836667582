"""Sweeps: one function computed at many points, in parallel, with every finished point safe on the disk.

A sweep keeps three things apart:

- what is computed: a function, and the points that are its arguments;
- where (workers.py): in processes of our own, in any `concurrent.futures.Executor`, or here, one after the other;
- what is kept (stores.py): one line of JSON per finished point, from which a sweep that was killed goes on.

What a point gives is always read from its JSON, be it computed just now or taken from the store: a result does not
depend on when it was computed.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import inspect
import itertools
import os
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.arguments import flag, positive_int, positive_number
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.experiments.progress import Progress, progress_bar
from rnn_numpy.experiments.sweep.stores import Key, Outcome, ResultStore, canonical, from_json, to_json
from rnn_numpy.experiments.sweep.workers import GUARD, compute_here, compute_in_processes, compute_on, is_starting

WIDTH = 100
GAP = "  "
# Of a table: characters of a cell, the least of an error, and rows that repr shows.
CELL, LEAST_ERROR, ROWS = 24, 30, 20


def sweep(
    function: Callable[..., Any],
    grid: Mapping[str, Iterable[Any]] | Iterable[Mapping[str, Any]],
    executor: concurrent.futures.Executor | int | str | None = None,
    store: str | os.PathLike[str] | None = "results.jsonl",
    *,
    version: str | None = None,
    retry_failed: bool = False,
    timeout: float | None = None,
    progress: Progress | None = None,
    each: Callable[[Mapping[str, Any]], None] | None = None,
) -> SweepResult:
    """Compute a function at every point of a grid; keep each result at once, and compute none twice.

    Parameters
    ----------
    function : callable
        Called as function(**point). What it returns must be made of numbers, text, None, lists, dicts with text as
        keys, and NumPy arrays of at most 10 000 entries. NumPy's scalars become Python's, arrays and tuples lists.
    grid : mapping or iterable of mappings
        A mapping of names to values stands for all their combinations, the last name changing fastest; an iterable
        of mappings lists the points themselves. Values are made of the same as results, and the function gets them in
        the same form: a tuple arrives as a list. 1, 1.0 and True are three different values.
    executor : None, int, "serial", or concurrent.futures.Executor
        None: worker processes of our own, as many as there are cores; an int: so many. "serial": here, one after the
        other, which is for debugging: breakpoints work. Or an executor that someone else made and will shut down: a
        ThreadPoolExecutor, a ProcessPoolExecutor, `client.get_executor()` of dask.distributed, mpi4py's
        MPIPoolExecutor.
    store : path or None
        File to which each finished point is appended, and from which finished points are taken. None keeps nothing.
    version : str, optional
        Of the function. Results of another version are not reused, nor touched: change it when the function changes.
    retry_failed : bool
        Compute points again whose record in the store is an error.
    timeout : float, optional
        Seconds. With processes of our own, a point that takes longer is stopped, and recorded as failed. Nobody can
        stop a point in an executor of someone else's: there the sweep gives up when no point at all has finished for so
        long. Not for "serial".
    progress : callable, optional
        Called as progress(done, total, label), in points that are to be computed. Left out, a bar appears on stderr
        after two seconds if that is a terminal; not for "serial", where it would be in a debugger's way.
    each : callable, optional
        Called with the row of each point, one of `SweepResult.rows`: first those that are reused, in order, then each
        other one as soon as it is kept.

    Returns
    -------
    SweepResult
        One row per point, in the grid's order.

    Raises
    ------
    DTypeError
        A point is not made of what JSON can hold, function is not callable, grid is not a grid.
    OptionError
        The grid has no points, or one of them twice; function does not take a point's names; executor is none, or
        "serial" with a timeout; the worker processes cannot be started, or cannot import the function.
    DataError
        The store is not one, cannot be written, or another sweep is writing it.
    StalledError
        The executor has finished no point for `timeout` seconds.

    Notes
    -----
    Worker processes import the script that calls sweep: the call must stand under `if __name__ == "__main__":`, and the
    function in a file. They are not forked, since a fork copies locks of the matrix library that nobody would open.

    A point is known by the function's qualified name, the version, and its own JSON: names in alphabetical order,
    floats with all their digits. A lambda, a functools.partial or a closure has no name that would tell it from
    another one, so with a store it needs a version.

    A store is text. NaN and infinities, which JSON lacks, are written as {"$float": "nan"} and read back as what they
    were. Each line is forced to the disk before the next one is written, which takes some milliseconds. A kill can
    tear the last line; the next sweep cuts it off and computes its point again. Where a point stands in a store more
    than once (retry_failed, stores that were concatenated), a result counts more than an error, and the last one more
    than those before. A second sweep on a store in use is refused; the lock is the system's and ends with the process.

    A point whose function raises is recorded with its error, and the others go on. A worker of ours that dies is
    replaced, and its point computed again; at the third time the point is recorded as failed. With an executor of
    someone else's it is the executor that copes, as Dask does, or breaks, as a ProcessPoolExecutor does, and then its
    error ends the sweep. A cluster that has lost its last worker may wait for another one for ever, as Dask's does
    where a worker is killed while it starts: with a timeout the sweep ends. Ctrl-C raises KeyboardInterrupt as ever,
    when all points finished by then are in the store; our workers are stopped, and points that run in a foreign
    executor run on and are not recorded.

    While a point is computed, matrix products use one thread of their process: the points are what runs in parallel.
    Where OPENBLAS_NUM_THREADS or OMP_NUM_THREADS is set, that stands instead. In processes that we do not start this
    needs threadpoolctl.

    Examples
    --------
    >>> def area(width, height):
    ...     return {"area": width * height}
    >>> result = sweep(area, {"width": [1.0, 2.0], "height": [3.0, "x"]}, executor="serial", store=None)
    >>> result
    SweepResult: 4 points, 4 computed, 0 reused, 2 failed
    width  height  area  error
        1  3          3
        1  x          -  TypeError: can't multiply sequence by non-int of type 'float'
        2  3          6
        2  x          -  TypeError: can't multiply sequence by non-int of type 'float'
    >>> result.to_columns()["area"]
    array([ 3., nan,  6., nan])
    """
    if is_starting():
        raise OptionError(f"sweep: called while a worker process imports the script that calls it; {GUARD}")
    if not callable(function):
        raise DTypeError(f"sweep: function must be callable; got {type(function).__name__} {function!r}")
    if version is not None and not isinstance(version, str):
        raise DTypeError(f"sweep: version must be a str or None; got {type(version).__name__} {version!r}")
    retry_failed = flag("sweep", "retry_failed", retry_failed)
    compute = _computing(executor, None if timeout is None else positive_number("sweep", "timeout", timeout))
    name = _name_of(function)
    if store is not None and version is None and not _is_known_by_name(function):
        raise OptionError(
            f"sweep: function {name} has no name that tells it from others like it, so the store could not tell their "
            "results apart; define it at module level, or give a version, or store=None"
        )
    points = _points(grid)
    _check_arguments(function, name, points)
    keys: list[Key] = [(name, version, canonical(point)) for point in points]
    _check_distinct(points, keys)
    with contextlib.ExitStack() as stack:
        book = None if store is None else stack.enter_context(ResultStore.opened("sweep", store))
        outcomes: dict[int, Outcome] = {}
        if book is not None:
            known = ((number, book.outcomes.get(key)) for number, key in enumerate(keys))
            outcomes = {n: found for n, found in known if found and not (retry_failed and found.error)}
        reused = set(outcomes)
        todo = {number: point for number, point in enumerate(points) if number not in reused}
        tell = each or (lambda row: None)
        for number in sorted(reused):
            tell(_row(points[number], outcomes[number], True))
        if todo:
            if progress is None and executor != "serial":
                progress = stack.enter_context(progress_bar())
            report = progress or (lambda done, total, label: None)
            report(0, len(todo), name)

            def finish(number: int, outcome: Outcome) -> None:
                if book is not None:
                    book.append(keys[number], points[number], outcome)
                outcomes[number] = outcome
                report(len(outcomes) - len(reused), len(todo), name)
                tell(_row(points[number], outcome, False))

            compute(function, name, todo, finish)
    return SweepResult([_row(point, outcomes[number], number in reused) for number, point in enumerate(points)])


def _row(point: str, outcome: Outcome, reused: bool) -> dict[str, Any]:
    result = None if outcome.result is None else from_json(outcome.result)
    return {"point": from_json(point), "result": result, "error": outcome.error, "reused": reused}


# ------------------------------------------------------------------------------------------------------------ arguments


def _computing(
    executor: Any, timeout: float | None
) -> Callable[[Callable[..., Any], str, Mapping[int, str], Callable[[int, Outcome], None]], None]:
    """Return the function that computes points on `executor`."""
    if executor is None or (isinstance(executor, int) and not isinstance(executor, bool)):
        workers = cores() if executor is None else positive_int("sweep", "executor", executor)
        return lambda function, name, points, finish: compute_in_processes(
            workers, function, name, points, finish, timeout
        )
    if executor == "serial":
        if timeout is not None:
            raise OptionError('sweep: timeout needs other processes or threads than this one; got executor="serial"')
        return lambda function, name, points, finish: compute_here(function, points, finish)
    if isinstance(executor, concurrent.futures.Executor):
        return lambda function, name, points, finish: compute_on(executor, function, points, finish, timeout)
    hint = "; pass its get_executor()" if hasattr(executor, "get_executor") else ""
    raise OptionError(
        'sweep: executor must be None, a number of processes, "serial" or a concurrent.futures.Executor; got '
        f"{type(executor).__name__} {executor!r}{hint}"
    )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _name_of(function: Callable[..., Any]) -> str:
    """Return module.qualname. A script goes by the name that it has when it is imported."""
    named = function if hasattr(function, "__qualname__") else type(function)
    module = str(named.__module__)
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        if spec is not None:
            module = spec.name
        elif file is not None:
            module = Path(file).stem
    return f"{module}.{named.__qualname__}"


def _is_known_by_name(function: Callable[..., Any]) -> bool:
    """Return whether a function's results depend on nothing but its name and its arguments."""
    inner = inspect.unwrap(function)  # what functools.wraps has made keeps the inner function's name
    if isinstance(inner, (types.BuiltinFunctionType, type)):
        return True
    return isinstance(inner, types.FunctionType) and inner.__closure__ is None and "<lambda>" not in inner.__qualname__


def _points(grid: Any) -> list[str]:
    """Return the points as JSON, in order."""
    if isinstance(grid, Mapping):
        listed = {name: _values(name, values) for name, values in grid.items()}
        empty = [name for name, values in listed.items() if not values]
        if empty:
            raise OptionError(f"sweep: grid has no points: {empty[0]!r} has no values")
        points: list[Any] = [dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())]
    elif isinstance(grid, Iterable) and not isinstance(grid, (str, bytes)):
        points = list(grid)
        if not points:
            raise OptionError("sweep: grid has no points: it is an empty list")
    else:
        raise DTypeError(
            "sweep: grid must be a mapping of names to values, or an iterable of points, each a mapping of names to "
            f"one value; got {type(grid).__name__}"
        )
    for number, point in enumerate(points):
        if not isinstance(point, Mapping):
            raise DTypeError(f"sweep: point {number} of grid must be a mapping of names to values; got {point!r}")
    return [to_json(point, "sweep", f"point {number}") for number, point in enumerate(points)]


def _values(name: Any, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise DTypeError(f"sweep: grid[{name!r}] must be a list of values; got {values!r}; write [{values!r}]")
    return list(values)


def _check_arguments(function: Callable[..., Any], name: str, points: list[str]) -> None:
    """Find out before the work, not at each point, whether the function takes what it will get."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return
    for number, point in enumerate(points):
        arguments = from_json(point)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise OptionError(
                f"sweep: {name}{signature} cannot be called with point {number}, {arguments!r}: {error}"
            ) from None


def _check_distinct(points: list[str], keys: list[Key]) -> None:
    first: dict[Key, int] = {}
    for number, key in enumerate(keys):
        if first.setdefault(key, number) != number:
            raise OptionError(
                f"sweep: points {first[key]} and {number} of grid are equal, {points[number]}; leave one out, or tell "
                "them apart by a seed"
            )


# -------------------------------------------------------------------------------------------------------- what it gives


@dataclasses.dataclass(frozen=True, repr=False)
class SweepResult:
    """The results of a sweep, point by point.

    Attributes
    ----------
    rows : list of dict
        In the grid's order. "point": the arguments; "result": what the function returned, None where it failed;
        "error": None, or the error's "type", "message" and "traceback"; "reused": whether it was taken from the store.
    """

    rows: list[dict[str, Any]]

    @property
    def computed(self) -> int:
        """Number of points that this sweep has computed, failures among them."""
        return len(self.rows) - self.reused

    @property
    def reused(self) -> int:
        """Number of points taken from the store, failures among them."""
        return sum(row["reused"] for row in self.rows)

    @property
    def failed(self) -> int:
        """Number of points that have an error in place of a result."""
        return sum(row["error"] is not None for row in self.rows)

    def to_columns(self) -> dict[str, NDArray[Any]]:
        """Return one array per name, whose first axis is the points, for plots; `rows` has every value as it was.

        First come the names of the points, then those of the results, which are the keys of a dict and else "result",
        then "error", of text or None, if anything failed. Numbers are float64 or int64, lists of numbers of one shape
        have further axes, all else is of dtype object. Where a point has no such value it is NaN among numbers, else
        None. A name that a point has as well gets "result." in front.

        >>> def powers(x):
        ...     return {"x^2": x**2, "all": [x, x**2, x**3]}
        >>> columns = sweep(powers, {"x": [1, 2]}, executor="serial", store=None).to_columns()
        >>> columns["x^2"]
        array([1, 4])
        >>> columns["all"]
        array([[1, 1, 1],
               [2, 4, 8]])
        """
        return {name: _array(values) for name, values in self._columns().items()}

    def table(self, rows: int | None = None) -> str:
        """Return the result as text, a line of at most 100 columns for each point, or for the first `rows`.

        Columns that do not fit are named below; long values are cut.
        """
        shown = len(self.rows) if rows is None else positive_int("SweepResult.table", "rows", rows)
        arguments = {name for row in self.rows for name in row["point"]}
        columns = self._columns()
        errors = columns.pop(self._error_name()) if self.failed else []
        if not columns and not errors[:shown]:
            return "nothing to show: neither a point nor a result has a name in it"
        room = WIDTH - (len(GAP) + LEAST_ERROR if errors else 0)
        lines = [""] * (1 + min(shown, len(self.rows)))
        hidden: list[str] = []
        for name, values in columns.items():
            written, right = _written(values[:shown], name in arguments)
            texts = [_cut(text, CELL) for text in (name, *written)]
            width, gap = max(map(len, texts)), GAP if lines[0] else ""
            if hidden or len(lines[0]) + len(gap) + width > room:
                hidden.append(texts[0])
                continue
            padded = [text.rjust(width) if right else text.ljust(width) for text in texts]
            lines = [line + gap + text for line, text in zip(lines, padded, strict=True)]
        if errors:
            gap = GAP if lines[0] else ""
            texts = [self._error_name(), *("" if error is _NONE else error for error in errors[:shown])]
            lines = [line + gap + _cut(text, WIDTH - len(line + gap)) for line, text in zip(lines, texts, strict=True)]
        if shown < len(self.rows):
            lines.append(f"... and {len(self.rows) - shown} more")
        if hidden:
            lines += textwrap.wrap(f"no room for: {', '.join(hidden)}", WIDTH)
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        counts = f"{self.computed} computed, {self.reused} reused, {self.failed} failed"
        return f"SweepResult: {len(self.rows)} points, {counts}\n{self.table(ROWS)}"

    def _error_name(self) -> str:
        return list(self._columns())[-1]

    def _columns(self) -> dict[str, list[Any]]:
        """Return the values by name, ABSENT where a point has none; the errors come last, if there are any."""
        columns: dict[str, list[Any]] = {}
        for name in dict.fromkeys(name for row in self.rows for name in row["point"]):
            columns[name] = [row["point"].get(name, _NONE) for row in self.rows]
        results = [
            {} if row["error"] else row["result"] if isinstance(row["result"], dict) else {"result": row["result"]}
            for row in self.rows
        ]
        for name in dict.fromkeys(name for result in results for name in result):
            columns[_free(name, columns)] = [result.get(name, _NONE) for result in results]
        if self.failed:
            told = [row["error"] and f"{row['error']['type']}: {row['error']['message']}" for row in self.rows]
            columns[_free("error", columns)] = [text or _NONE for text in told]
        return columns


# What stands for a value that a point does not have: in columns, and in a table.
_NONE = object()
ABSENT = "-"


def _free(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name = f"result.{name}"
    return name


def _array(values: list[Any]) -> NDArray[Any]:
    present = [value for value in values if value is not _NONE]
    kinds = {type(value) for value in present}
    whole = len(present) == len(values)
    if kinds == {bool} and whole:
        return np.array(values)
    if kinds and kinds <= {int, float}:
        with contextlib.suppress(OverflowError):  # an int that no float64 or int64 can hold
            if kinds == {int} and whole:
                return np.array(values, dtype=np.int64)
            if all(float(value) == value for value in present if isinstance(value, int)):
                return np.array([np.nan if value is _NONE else value for value in values], dtype=np.float64)
    if kinds == {list} and whole:
        with contextlib.suppress(ValueError):  # rows of several lengths
            array = np.array(values)
            if array.dtype.kind in "if":
                return array
    column = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        column[index] = None if value is _NONE else value
    return column


def _written(values: list[Any], exact: bool) -> tuple[list[str], bool]:
    """Return a column's texts, and whether all are numbers.

    Floats have six digits; if `exact`, all 17 where six do not tell two of them apart.
    """
    floats = {repr(value): f"{value:.6g}" for value in values if isinstance(value, float)}
    digits = 17 if exact and len(set(floats.values())) < len(floats) else 6
    texts = [f"{v:.{digits}g}" if isinstance(v, float) else ABSENT if v is _NONE else str(v) for v in values]
    there = [value for value, text in zip(values, texts, strict=True) if text != ABSENT]
    return texts, all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there)


def _cut(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."
