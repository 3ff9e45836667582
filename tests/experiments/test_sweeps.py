"""Sweeps: every point once, on any executor, whoever is killed on the way; and what is told about it."""

from __future__ import annotations

import concurrent.futures
import fcntl
import functools
import itertools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import swept
from hypothesis import given
from hypothesis import strategies as st
from processes import ended, interruptible
from swept import (
    LIMIT,
    Trivial,
    begin,
    blas_threads,
    calls,
    ends,
    executors,
    fails,
    grid,
    interrupts,
    is_slow,
    kills_itself,
    no_hang,
    sees,
    square,
    two_threads,
    waits_for_the_other,
)
from threadpoolctl import threadpool_limits

from rnn_numpy.errors import DataError, DTypeError, OptionError, StalledError
from rnn_numpy.experiments import SweepResult, sweep
from rnn_numpy.experiments.sweep import threads, workers
from rnn_numpy.experiments.sweep.workers import GUARD
from tests.experiments.test_stores import VALUES, same

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    with no_hang():
        yield


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def spawned() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


# ------------------------------------------------------------------------------------------------ grid and rows


def echo(**point: Any) -> Any:
    return point


def test_the_grid_is_a_product_in_its_order() -> None:
    result = sweep(echo, {"a": [2, 1], "b": ["u", "v", None]}, "serial", None)
    expected = [{"a": a, "b": b} for a, b in itertools.product([2, 1], ["u", "v", None])]
    assert result.rows == [{"point": p, "result": p, "error": None, "reused": False} for p in expected]
    assert (result.computed, result.reused, result.failed) == (6, 0, 0)


def test_a_grid_may_list_its_points() -> None:
    points = [{"a": 1}, {"b": 2.0}, {}]
    assert [row["result"] for row in sweep(echo, iter(points), "serial", None).rows] == points
    assert [row["point"] for row in sweep(echo, {}, "serial", None).rows] == [{}]


def test_a_function_gets_what_the_store_would_hold() -> None:
    given_ = {"a": np.float32(0.5), "b": (1, 2), "c": np.arange(2), "d": math.nan, "e": np.linspace(0, 1, 11)[3]}
    row = sweep(echo, [given_], "serial", None).rows[0]
    expected = {"a": 0.5, "b": [1, 2], "c": [0, 1], "d": math.nan, "e": 0.30000000000000004}
    assert same(row["point"], expected) and same(row["result"], expected)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_points_and_results_come_back_from_a_store(
    tmp_path_factory: pytest.TempPathFactory, point: dict[str, Any]
) -> None:
    store = tmp_path_factory.mktemp("store") / "results.jsonl"
    first = sweep(echo, [point], "serial", store)
    content = store.read_bytes()
    second = sweep(echo, [point], "serial", store)
    assert (first.computed, second.reused) == (1, 1)
    for result in (first, second):
        assert same(result.rows[0]["point"], point) and same(result.rows[0]["result"], point)
    assert store.read_bytes() == content


# Another test of this process may have started JAX's threads, and JAX warns of every fork; the child here does nothing
# with them.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "executor", [None, 1, 3, "serial", Trivial, lambda: ThreadPoolExecutor(2), spawned, lambda: ProcessPoolExecutor(2)],
    ids=["default", "one", "three", "serial", "trivial", "threads", "spawned", "processes"],
)  # fmt: skip
def test_every_executor_gives_the_same(tmp_path: Path, executor: Any) -> None:
    store = tmp_path / "results.jsonl"
    executor = executor() if callable(executor) else executor
    try:
        result = sweep(square, grid(tmp_path), executor, store)
        again = sweep(square, grid(tmp_path, 6), executor, store)
    finally:
        if isinstance(executor, concurrent.futures.Executor):
            executor.shutdown()
    assert [row["result"] for row in result.rows] == [{"square": x * x, "types": ["int"]} for x in range(5)]
    assert (result.computed, result.reused, result.failed) == (5, 0, 0)
    assert (again.computed, again.reused, again.failed) == (1, 5, 0)
    assert calls(tmp_path) == Counter(map(str, range(6)))
    assert {record["point"]["x"] for record in records(store)} == set(range(6))
    assert len(records(store)) == 6


def test_the_bytes_of_a_store(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    sweep(echo, {"b": [math.inf, 1], "a": ["é"]}, "serial", store, version="2")
    head = f'{{"function": "{__name__}.echo", "version": "2", "point": '
    points = ['{"b": {"$float": "inf"}, "a": "\\u00e9"}', '{"b": 1, "a": "\\u00e9"}']
    assert store.read_bytes().decode() == "".join(f'{head}{point}, "result": {point}}}\n' for point in points)


def other(x: int, folder: str) -> int:
    return -x


def test_function_version_and_types_tell_points_apart(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    folder = str(tmp_path)
    assert sweep(square, grid(tmp_path, 2), "serial", store).computed == 2
    assert sweep(other, grid(tmp_path, 2), "serial", store).computed == 2
    assert sweep(square, grid(tmp_path, 2), "serial", store, version="2").computed == 2
    assert sweep(square, [{"folder": folder, "x": 1.0}], "serial", store).computed == 1
    assert sweep(square, [{"folder": folder, "x": True}], "serial", store).computed == 1
    # In another order of names it is the same point.
    assert sweep(square, [{"folder": folder, "x": 1}], "serial", store).reused == 1


def test_equal_points_are_refused() -> None:
    with pytest.raises(OptionError) as caught:
        sweep(echo, [{"a": 1, "b": 2}, {"a": 2}, {"b": 2, "a": 1}], "serial", None)
    assert str(caught.value) == (
        'sweep: points 0 and 2 of grid are equal, {"b": 2, "a": 1}; leave one out, or tell them apart by a seed'
    )


def takes_one(x: int) -> int:
    return x


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (DTypeError, {"function": 3}, "sweep: function must be callable; got int 3"),
        (DTypeError, {"version": 2}, "sweep: version must be a str or None; got int 2"),
        (DTypeError, {"retry_failed": 1}, "sweep: retry_failed must be True or False; got int 1"),
        (DTypeError, {"grid": 3}, "sweep: grid must be a mapping of names to values, or an iterable of points, each a "
                                  "mapping of names to one value; got int"),
        (DTypeError, {"grid": "x"}, "sweep: grid must be a mapping of names to values, or an iterable of points, each "
                                    "a mapping of names to one value; got str"),
        (DTypeError, {"grid": [{"x": 1}, 2]}, "sweep: point 1 of grid must be a mapping of names to values; got 2"),
        (DTypeError, {"grid": {"x": "ab"}}, "sweep: grid['x'] must be a list of values; got 'ab'; write ['ab']"),
        (DTypeError, {"grid": {"x": 0.5}}, "sweep: grid['x'] must be a list of values; got 0.5; write [0.5]"),
        (DTypeError, {"grid": {1: [2]}}, "sweep: point 0 has the key 1; JSON has text as keys, write '1'"),
        (OptionError, {"grid": {"x": []}}, "sweep: grid has no points: 'x' has no values"),
        (OptionError, {"grid": []}, "sweep: grid has no points: it is an empty list"),
        (OptionError, {"grid": {"y": [2]}}, f"sweep: {__name__}.takes_one(x: 'int') -> 'int' cannot be called with "
                                            "point 0, {'y': 2}: missing a required argument: 'x'"),
        (OptionError, {"executor": "fast"}, 'sweep: executor must be None, a number of processes, "serial" or a '
                                            "concurrent.futures.Executor; got str 'fast'"),
        (OptionError, {"executor": 0}, "sweep: executor must be at least 1; got 0"),
        (OptionError, {"executor": True}, 'sweep: executor must be None, a number of processes, "serial" or a '
                                          "concurrent.futures.Executor; got bool True"),
        (OptionError, {"function": lambda x: x}, f"sweep: function {__name__}.<lambda> has no name that tells it from "
                       "others like it, so the store could not tell their results apart; define it at module level, or "
                       "give a version, or store=None"),
    ],
)  # fmt: skip
def test_messages(tmp_path: Path, error: type[Exception], arguments: dict[str, Any], message: str) -> None:
    store = tmp_path / "results.jsonl"
    everything = {"function": takes_one, "grid": {"x": [1]}, "executor": "serial", "store": store, **arguments}
    with pytest.raises(error) as caught:
        sweep(**everything)
    assert str(caught.value) == message
    assert not store.exists()


def test_a_client_of_dask_is_told_apart_from_its_executor() -> None:
    class Client:
        def get_executor(self) -> None: ...

    with pytest.raises(OptionError, match=r"; pass its get_executor\(\)$"):
        sweep(takes_one, {"x": [1]}, Client(), None)  # type: ignore[arg-type]


def test_functions_without_a_name_of_their_own(tmp_path: Path) -> None:
    factor = 3

    def closure(x: int) -> int:
        return factor * x

    @functools.wraps(takes_one)
    def wrapped(x: int) -> int:
        return closure(x)

    class CallableObject:
        def __call__(self, x: int) -> int:
            return x

    store = tmp_path / "results.jsonl"
    for function in (closure, functools.partial(takes_one), CallableObject(), CallableObject().__call__, lambda x: x):
        with pytest.raises(OptionError, match="no name that tells it from others"):
            sweep(function, {"x": [1]}, "serial", store)
        assert sweep(function, {"x": [1]}, "serial", None).computed == 1
        assert sweep(function, {"x": [1]}, "serial", store, version="this one").rows[0]["error"] is None
    assert sweep(wrapped, {"x": [1]}, "serial", store).rows[0]["result"] == 3
    assert sweep(dict, {"x": [1]}, "serial", store).rows[0]["result"] == {"x": 1}
    names = [record["function"] for record in records(store)]
    qualified = test_functions_without_a_name_of_their_own.__name__ + ".<locals>"
    assert names == [
        f"{__name__}.{qualified}.closure",
        "functools.partial",
        f"{__name__}.{qualified}.CallableObject",
        f"{__name__}.{qualified}.CallableObject.__call__",
        f"{__name__}.{qualified}.<lambda>",
        f"{__name__}.takes_one",
        "builtins.dict",
    ]


# ------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("executor", ["serial", 2], ids=str)
def test_a_failure_is_recorded_and_can_be_tried_again(tmp_path: Path, executor: Any) -> None:
    store = tmp_path / "results.jsonl"
    result = sweep(fails, grid(tmp_path), executor, store)
    assert (result.computed, result.reused, result.failed) == (5, 0, 3)
    assert [row["result"] for row in result.rows] == [0, None, None, None, 4]
    value, exits, unwritable = (row["error"] for row in result.rows[1:4])
    assert (value["type"], value["message"]) == ("ValueError", "x is one\nand that is bad")
    lines = value["traceback"].splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{swept.__file__}", line ') and lines[1].endswith(", in fails")
    assert lines[-2:] == ["ValueError: x is one", "and that is bad"]
    assert (exits["type"], exits["message"]) == ("SystemExit", "enough")
    assert unwritable["type"] == "DTypeError"
    assert unwritable["message"].startswith("sweep: result['a'][0] must be made of ")
    assert unwritable["message"].endswith("; got object")

    again = sweep(fails, grid(tmp_path), executor, store)
    assert (again.computed, again.reused, again.failed) == (0, 5, 3)
    assert [{**row, "reused": False} for row in again.rows] == result.rows

    retried = sweep(fails, grid(tmp_path), executor, store, retry_failed=True)
    assert (retried.computed, retried.reused, retried.failed) == (3, 2, 2)
    assert [row["result"] for row in retried.rows] == [0, 1, None, None, 4]
    assert [row["reused"] for row in retried.rows] == [True, False, False, False, True]
    assert calls(tmp_path) == Counter("01122334")
    assert sweep(fails, grid(tmp_path), executor, store).failed == 2


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def fails_oddly(kind: str) -> None:
    raise OddError if kind == "odd" else OSError("\udcff")


def test_errors_that_cannot_be_printed(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    for _ in range(2):
        rows = sweep(fails_oddly, {"kind": ["odd", "half"]}, "serial", store).rows
        assert [(row["error"]["type"], row["error"]["message"]) for row in rows] == [
            ("OddError", "<exception str() failed>"),
            ("OSError", "\\udcff"),
        ]


# ------------------------------------------------------------------------------------------------ workers that die


@pytest.mark.parametrize(("workers", "at"), [(1, [2]), (3, [0, 1, 2])], ids=str)
def test_a_point_whose_worker_is_killed_is_computed_again(tmp_path: Path, workers: int, at: list[int]) -> None:
    store = tmp_path / "results.jsonl"
    result = sweep(kills_itself, grid(tmp_path, 6, times=[2], at=[at]), workers, store)
    assert [row["result"] for row in result.rows] == list(range(6))
    # Nobody else's point is taken along.
    assert calls(tmp_path) == Counter({str(x): 3 if x in at else 1 for x in range(6)})
    assert Counter(record["point"]["x"] for record in records(store)) == Counter(range(6))


def test_a_point_that_kills_three_workers_has_failed(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    points = grid(tmp_path, 6, times=[3], at=[[1, 5]])
    result = sweep(kills_itself, points, 2, store)
    assert [row["result"] for row in result.rows] == [0, None, 2, 3, 4, None]
    assert result.rows[1]["error"] == result.rows[5]["error"] == {
        "type": "WorkerDied",
        "message": "3 worker processes died while they computed this point, the last one: killed by SIGKILL; a lack of "
        "memory, or a crash in compiled code?",
        "traceback": "",
    }  # fmt: skip
    assert calls(tmp_path) == Counter({str(x): 3 if x in (1, 5) else 1 for x in range(6)})
    assert sweep(kills_itself, points, 2, store, retry_failed=True).failed == 0


def test_how_a_worker_ended_is_told() -> None:
    error = sweep(ends, {"x": [1]}, 1, None).rows[0]["error"]
    assert "the last one: exit code 7;" in error["message"]


def test_a_foreign_pool_that_breaks_ends_the_sweep(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    points = grid(tmp_path, 4, times=[1], at=[[2]])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(BrokenProcessPool):
            sweep(kills_itself, points, pool, store)
        finished = [record["point"]["x"] for record in records(store)]
        assert finished == [0, 1]
        with pytest.raises(BrokenProcessPool):
            sweep(kills_itself, points, pool, store)
    result = sweep(kills_itself, points, "serial", store)
    assert (result.computed, result.reused, result.failed) == (2, 2, 0)
    assert calls(tmp_path) == Counter("01223")


def run_script(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ended(
        [sys.executable, "-W", "error", str(path), *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"},
        cwd=path.parent,
        capture_output=True,
        text=True,
        limit=LIMIT,
        start_new_session=True,  # a signal to the script and its workers must not reach the tests
    )


def test_a_module_that_kills_workers_or_cannot_be_imported(tmp_path: Path) -> None:
    body = "import multiprocessing, os\nif multiprocessing.parent_process():\n    {}\ndef run(x):\n    return x\n"
    (tmp_path / "kills.py").write_text(body.format("os._exit(3)"))
    (tmp_path / "raises.py").write_text(body.format("import no_such_module"))
    script = tmp_path / "script.py"
    script.write_text(
        """import importlib, sys
from rnn_numpy.experiments import sweep
if __name__ == "__main__":
    try:
        sweep(importlib.import_module(sys.argv[1]).run, {"x": [1, 2, 3]}, 2, None)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""
    )
    assert run_script(script, "kills").stdout == (
        f"OptionError: sweep: worker processes die as they start (exit code 3), see stderr; {GUARD}\n"
    )
    assert run_script(script, "raises").stdout == (
        "OptionError: sweep: worker processes cannot load function raises.run: ModuleNotFoundError: No module named "
        "'no_such_module'; define it in a file, at module level; or use executor=\"serial\" or a ThreadPoolExecutor\n"
    )


def test_what_cannot_be_sent_to_workers() -> None:
    with pytest.raises(
        OptionError, match=f"^sweep: function {__name__}.*<lambda> cannot be sent to worker processes: "
    ):
        sweep(lambda x: x, {"x": [1]}, 1, None)


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from rnn_numpy.experiments import sweep\ndef run(x):\n    return x\nprint(sweep(run, {'x': [1, 2]}, 1).rows)\n"
    )
    done = run_script(script)
    assert done.returncode == 1
    assert f"sweep: called while a worker process imports the script that calls it; {GUARD}" in done.stderr
    assert done.stderr.rstrip().endswith(f"worker processes die as they start (exit code 1), see stderr; {GUARD}")
    assert (tmp_path / "results.jsonl").read_bytes() == b""


def test_a_script_has_one_name_run_or_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "some_script.py"
    script.write_text(
        """from rnn_numpy.experiments import sweep
def run(x):
    return x
def main():
    result = sweep(run, {"x": [1, 2]}, 1)
    print(result.computed, result.reused)
if __name__ == "__main__":
    main()
"""
    )
    assert run_script(script).stdout == "2 0\n"
    importing = tmp_path / "importing.py"
    importing.write_text("import some_script\nif __name__ == '__main__':\n    some_script.main()\n")
    assert run_script(importing).stdout == "0 2\n"
    assert {record["function"] for record in records(tmp_path / "results.jsonl")} == {"some_script.run"}
    named = ended(
        [sys.executable, "-m", "some_script"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        limit=LIMIT,
        check=True,
    )
    assert named.stdout == "0 2\n"


# ------------------------------------------------------------------------------------------------ sweeps that die

SCRIPT = """
import os
import sys
import swept
from rnn_numpy.experiments import sweep

if __name__ == "__main__":
    folder, executor = sys.argv[1:]
    try:
        result = sweep(swept.ends_the_sweep, swept.grid(folder), swept.executors[executor]())
        print(result.computed, result.reused, [row["result"] for row in result.rows])
    except KeyboardInterrupt:
        print("interrupted")
    sys.stdout.flush()
    if executor == "threads":
        os._exit(0)  # a thread cannot be stopped, and Python would wait for it
"""


def wait_until_unlocked(path: Path) -> None:
    """Wait for the end of the process that has locked a file; a lock is gone with its process."""
    until = time.monotonic() + LIMIT
    with open(path) as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < until, "the worker of a sweep that is gone lives on"
                time.sleep(0.01)
            else:
                return


@pytest.mark.parametrize("executor", executors)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_sweep_that_was_ended_goes_on_where_it_stopped(tmp_path: Path, executor: str, number: signal.Signals) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "signal").write_text(str(int(number)))
    broken_off = run_script(script, str(tmp_path), executor)
    assert (broken_off.returncode, broken_off.stdout) == {
        signal.SIGKILL: (-signal.SIGKILL, ""),
        signal.SIGINT: (0, "interrupted\n"),
    }[number]
    if executor == "one process":
        assert broken_off.stderr == ""  # no worker complains of an interrupt that was meant for the sweep
    wait_until_unlocked(tmp_path / "alive")
    store = tmp_path / "results.jsonl"
    lines = [
        '{"function": "swept.ends_the_sweep", "version": null, '
        f'"point": {{"x": {x}, "folder": {json.dumps(str(tmp_path))}}}, "result": {x / 2}}}\n'
        for x in range(5)
    ]
    assert store.read_text() == "".join(lines[:2])
    assert calls(tmp_path) == Counter("012")

    continued = run_script(script, str(tmp_path), executor)
    assert continued.stdout == "3 2 [0.0, 0.5, 1.0, 1.5, 2.0]\n", continued.stderr
    assert store.read_text() == "".join(lines)
    assert calls(tmp_path) == Counter("012234")


@pytest.mark.parametrize("executor", ["serial", Trivial(), "pool"], ids=["serial", "trivial", "processes"])
def test_an_interrupt_within_a_point_is_no_failure_of_it(tmp_path: Path, executor: Any) -> None:
    store = tmp_path / "results.jsonl"
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(KeyboardInterrupt):
            sweep(interrupts, grid(tmp_path), pool if executor == "pool" else executor, store)
    # On a pool the points behind it may have been finished before it was heard of.
    assert [record["point"]["x"] for record in records(store)][:2] == [0, 1]
    assert all(record["point"]["x"] == record["result"] != 2 for record in records(store))


def waits(x: int, folder: str) -> int:
    begin(folder, x)
    while not (Path(folder) / f"go-{x}").exists():
        time.sleep(0.01)
    return x


def test_results_that_wait_at_an_interrupt_are_kept(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"

    class HeldUntilTheLast(ThreadPoolExecutor):
        """A pool whose first points wait for the last one to be handed in: results come when all wait."""

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(fn, *args, **kwargs)
            for x in (0, 1, 2) if '"x": 9' in args[1] else ():
                (tmp_path / f"go-{x}").touch()
            return future

    def heard_of(done: int, total: int, label: str) -> None:
        if done == 1:
            until = time.monotonic() + LIMIT
            while calls(tmp_path) != Counter("0123"):  # so 1 and 2 are finished, and 3 is begun
                assert time.monotonic() < until
                time.sleep(0.01)
            raise KeyboardInterrupt

    with HeldUntilTheLast(1) as pool:
        try:
            with pytest.raises(KeyboardInterrupt):
                sweep(waits, grid(tmp_path, 10), pool, store, progress=heard_of)
            assert [record["point"]["x"] for record in records(store)] == [0, 1, 2]
        finally:
            for x in range(3, 10):
                (tmp_path / f"go-{x}").touch()
    assert calls(tmp_path) == Counter("0123")  # the others were cancelled


def test_what_a_process_has_finished_at_an_interrupt_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "results.jsonl"
    crew = []

    class Known(workers._Worker):
        def __init__(self, pickled: bytes) -> None:
            super().__init__(pickled)
            crew.append(self)

    def heard_of(done: int, total: int, label: str) -> None:
        if done == 1:
            (tmp_path / "go").touch()
            busy = next(worker for worker in crew if worker.number == 1)
            assert busy.connection.poll(LIMIT)  # its result has arrived, and nobody has looked at it
            raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_Worker", Known)
    with pytest.raises(KeyboardInterrupt):
        sweep(waits_for_the_other, grid(tmp_path, 2), 2, store, progress=heard_of)
    assert [record["point"]["x"] for record in records(store)] == [0, 1]
    assert not any(worker.process.is_alive() for worker in crew)


def test_a_store_that_fails_ends_the_sweep(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"

    def heard_of(done: int, total: int, label: str) -> None:
        if done == 1:
            store.rename(tmp_path / "moved")

    for executor in ("serial", 2):
        with pytest.raises(DataError, match="a result cannot be written: No such file or directory$"):
            sweep(square, grid(tmp_path), executor, store, progress=heard_of)
        assert len(records(tmp_path / "moved")) == 1


def test_a_store_in_use_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"

    def heard_of(done: int, total: int, label: str) -> None:
        with pytest.raises(DataError, match="another sweep is writing it"):
            sweep(square, grid(tmp_path), "serial", store)

    assert sweep(square, grid(tmp_path, 2), "serial", store, progress=heard_of).computed == 2
    assert sweep(square, grid(tmp_path, 2), "serial", store).reused == 2


class Loses(Trivial):
    """An executor that computes, and then has an error of its own in place of the result, a few times."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.times = error, times

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        if '"x": 2' in args[1] and self.times:
            self.times -= 1
            future = Future()
            future.set_exception(self.error)
        return future


def test_a_result_that_the_executor_has_lost_is_computed_again(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    with pytest.raises(ValueError, match="lost"):
        sweep(square, grid(tmp_path), Loses(ValueError("lost"), 4), store)
    assert [record["point"]["x"] for record in records(store)] == [0, 1]
    result = sweep(square, grid(tmp_path), Loses(ValueError("lost"), 3), store)
    assert [row["result"]["square"] for row in result.rows] == [0, 1, 4, 9, 16]
    assert Counter(record["point"]["x"] for record in records(store)) == Counter(range(5))
    assert calls(tmp_path) == Counter({"0": 1, "1": 1, "2": 8, "3": 1, "4": 1})


# ------------------------------------------------------------------------------------------------ what never ends


def test_a_point_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    result = sweep(is_slow, grid(tmp_path), 2, store, timeout=0.5)
    assert [row["result"] for row in result.rows] == [0, None, 2, None, 4]
    assert result.rows[1]["error"] == result.rows[3]["error"] == {
        "type": "TimeoutError",
        "message": "this point was not finished after 0.5 s, the timeout; its worker process was stopped",
        "traceback": "",
    }  # fmt: skip
    assert calls(tmp_path) == Counter(map(str, range(5)))
    assert sweep(is_slow, grid(tmp_path), 2, store, timeout=0.5).reused == 5


class Forgets(Trivial):
    """An executor whose futures of some points stay pending for ever."""

    def __init__(self, *forgotten: int) -> None:
        self.forgotten = list(forgotten)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        x = json.loads(args[1])["x"]
        if x in self.forgotten:
            self.forgotten.remove(x)
            return Future()
        return super().submit(fn, *args, **kwargs)


def test_a_sweep_gives_up_on_an_executor_that_is_silent(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    with pytest.raises(StalledError) as caught:
        sweep(square, grid(tmp_path), Forgets(1, 3), store, timeout=0.2)
    assert str(caught.value) == (
        "sweep: no point has finished for 0.2 s, the timeout, and 2 of 5 are left; is Forgets alive? What is finished "
        "is kept: look at the workers, call sweep again, or allow a longer timeout"
    )
    assert [record["point"]["x"] for record in records(store)] == [0, 2, 4]
    assert sweep(square, grid(tmp_path), Forgets(), store, timeout=0.2).computed == 2


def test_a_timeout_needs_somebody_who_can_wait() -> None:
    with pytest.raises(
        OptionError, match='^sweep: timeout needs other processes or threads .*; got executor="serial"$'
    ):
        sweep(echo, {"x": [1]}, "serial", None, timeout=1)
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(OptionError, match="^sweep: timeout must be "):
            sweep(echo, {"x": [1]}, 1, None, timeout=wrong)


# ------------------------------------------------------------------------------------------------ Dask


def test_a_point_that_dask_gives_up_has_failed(tmp_path: Path) -> None:
    last_worker = types.SimpleNamespace(address="tcp://127.0.0.1:1")
    error = distributed.KilledWorker("compute_point-1", last_worker, 3)
    result = sweep(square, grid(tmp_path), Loses(error, 1), tmp_path / "results.jsonl")
    assert (result.computed, result.failed) == (5, 1)
    told = result.rows[2]["error"]
    assert told["type"] == "KilledWorker"
    assert told["message"].startswith("Attempted to run task 'compute_point-1' on 4 different workers, but all those ")


@pytest.fixture
def cluster() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # None would be 8787, which may be taken
            worker_dashboard_address=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_dask_and_a_worker_that_is_killed(tmp_path: Path, cluster: Any) -> None:
    store = tmp_path / "results.jsonl"
    points = grid(tmp_path, 12, times=[1], at=[[5]])
    result = sweep(kills_itself, points, cluster.get_executor(), store)
    assert (tmp_path / "killed-5-0").exists()
    assert [row["result"] for row in result.rows] == list(range(12))
    assert (result.computed, result.reused, result.failed) == (12, 0, 0)
    assert Counter(record["point"]["x"] for record in records(store)) == Counter(range(12))
    assert calls(tmp_path)["5"] == 2
    assert sweep(kills_itself, points, cluster.get_executor(), store).reused == 12


# ------------------------------------------------------------------------------------------------ threads


@pytest.fixture
def nothing_decided(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in workers.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, user_api="blas"):
        yield
        assert blas_threads() == [2]
        assert not set(workers.THREAD_VARIABLES) & set(os.environ)


def test_our_workers_load_their_libraries_with_one_thread(nothing_decided: None) -> None:
    row = sweep(sees, {"x": [1]}, 1, None).rows[0]
    assert row["result"] == {"threads": [1], "environment": ["1"] * 4}


def test_foreign_workers_are_limited_while_they_compute(nothing_decided: None) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=two_threads) as pool:
        row = sweep(sees, {"x": [1]}, pool, None).rows[0]
        assert pool.submit(blas_threads).result() == [2]
    assert row["result"] == {"threads": [1], "environment": [None] * 4}


def test_what_the_user_decided_stays(nothing_decided: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as decided:
        decided.setenv("OMP_NUM_THREADS", "2")
        assert sweep(sees, {"x": [1]}, 1, None).rows[0]["result"]["environment"] == ["2", None, None, None]
        assert sweep(sees, {"x": [1]}, "serial", None).rows[0]["result"]["threads"] == [2]


def test_one_limit_for_all_threads_of_a_process(nothing_decided: None) -> None:
    first_done, second_begun = threading.Event(), threading.Event()

    def overlap(x: int) -> list[int]:
        if x == 0:
            assert second_begun.wait(LIMIT)
        else:
            second_begun.set()
            assert first_done.wait(LIMIT)
        return blas_threads()  # of the second one: when the first is gone

    def heard_of(done: int, total: int, label: str) -> None:
        if done == 1:
            first_done.set()

    with ThreadPoolExecutor(2) as pool:
        rows = sweep(overlap, {"x": [0, 1]}, pool, None, progress=heard_of).rows
    assert [row["result"] for row in rows] == [[1], [1]]


def test_no_threadpoolctl_no_limit(nothing_decided: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.importlib.util, "find_spec", lambda name: None)
    assert sweep(sees, {"x": [1]}, "serial", None).rows[0]["result"]["threads"] == [2]


# ------------------------------------------------------------------------------------------------ what is told


def test_progress_hears_of_every_point_that_is_left(tmp_path: Path) -> None:
    store = tmp_path / "results.jsonl"
    heard: list[tuple[int, int, str]] = []
    for n in (2, 5, 5):
        sweep(square, grid(tmp_path, n), "serial", store, progress=lambda *args: heard.append(args))
    name = "swept.square"
    assert heard == [*((done, 2, name) for done in range(3)), *((done, 3, name) for done in range(4))]


def various(x: int) -> Any:
    if x == 3:
        raise ValueError("three")
    return {
        "whole": x, "real": x / 2, "mixed": x if x else 0.5, "flag": x > 1, "text": "a" * x, "row": [x, x + 1],
        "ragged": [0] * x, "big": 2**70, "x": -x, **({"some": x} if x else {}), **({"wide": 2**60 + 1} if x else {}),
    }  # fmt: skip


def equal_columns(columns: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(columns) == list(expected)
    for name, array in expected.items():
        assert columns[name].dtype == array.dtype, name
        np.testing.assert_array_equal(columns[name], array)


def objects(*values: Any) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_columns() -> None:
    equal_columns(
        sweep(various, {"x": [0, 1, 2]}, "serial", None).to_columns(),
        {
            "x": np.array([0, 1, 2]),
            "whole": np.array([0, 1, 2]),
            "real": np.array([0.0, 0.5, 1.0]),
            "mixed": np.array([0.5, 1.0, 2.0]),
            "flag": np.array([False, False, True]),
            "text": objects("", "a", "aa"),
            "row": np.array([[0, 1], [1, 2], [2, 3]]),
            "ragged": objects([], [0], [0, 0]),
            "big": objects(2**70, 2**70, 2**70),
            "result.x": np.array([0, -1, -2]),
            "some": np.array([np.nan, 1.0, 2.0]),
            "wide": objects(None, 2**60 + 1, 2**60 + 1),  # no float64 is this number
        },
    )


def test_columns_of_failures() -> None:
    columns = sweep(various, {"x": [2, 3]}, "serial", None).to_columns()
    equal_columns(
        {name: columns[name] for name in ("whole", "flag", "row", "error")},
        {
            "whole": np.array([2.0, np.nan]),
            "flag": objects(True, None),
            "row": objects([2, 3], None),
            "error": objects(None, "ValueError: three"),
        },
    )
    assert list(columns)[-1] == "error"


def half(x: float) -> float:
    return x / 2


def test_what_is_no_dict_is_called_result() -> None:
    equal_columns(
        sweep(half, {"x": [1.0, 3.0]}, "serial", None).to_columns(),
        {"x": np.array([1.0, 3.0]), "result": np.array([0.5, 1.5])},
    )


def test_the_table() -> None:
    result = sweep(half, {"x": [0.1, 0.1 + 1e-9, 2, "a\nb"]}, "serial", None)
    assert repr(result).splitlines() == [
        "SweepResult: 4 points, 4 computed, 0 reused, 1 failed",
        "x                    result  error",
        "0.10000000000000001    0.05",
        "0.10000000100000001    0.05",
        "2                         1",
        "a b                       -  TypeError: unsupported operand type(s) for /: 'str' and 'int'",
    ]
    nothing = sweep(echo, {}, "serial", None)
    assert nothing.table() == "nothing to show: neither a point nor a result has a name in it"
    assert result.table(2).splitlines()[-1] == "... and 2 more"
    with pytest.raises(OptionError, match="^SweepResult.table: rows must be at least 1; got 0$"):
        result.table(0)
    assert len(repr(sweep(half, {"x": range(50)}, "serial", None)).splitlines()) == 1 + 1 + 20 + 1


@given(st.lists(st.dictionaries(st.text(max_size=40), VALUES, max_size=12), min_size=1, max_size=4), st.data())
def test_a_table_fits(points: list[dict[str, Any]], data: st.DataObject) -> None:
    rows = []
    for point in points:
        failed = data.draw(st.booleans())
        error = {"type": "E", "message": data.draw(st.text(max_size=150)), "traceback": ""} if failed else None
        result = None if failed else data.draw(VALUES)
        rows.append({"point": point, "result": result, "error": error, "reused": False})
    lines = repr(SweepResult(rows)).split("\n")  # the last row may be blank
    assert max(map(len, lines)) <= 100
    named = any(row["point"] or row["error"] or row["result"] != {} for row in rows)
    assert len(lines) >= 2 + (len(points) if named else 0)
    assert {len(array) for array in SweepResult(rows).to_columns().values()} <= {len(points)}


def test_columns_without_room_are_named() -> None:
    columns = {f"column_{number:02d}": "v" * 30 for number in range(30)}
    lines = repr(sweep(echo, [columns], "serial", None)).splitlines()
    assert lines[1].split() == ["column_00", "column_01", "column_02"]
    assert lines[2].split() == ["v" * 21 + "..."] * 3
    assert lines[3].startswith("no room for: column_03, column_04, ")
    assert " ".join(lines[3:]).endswith("result.column_28, result.column_29")


def test_each_point_is_told_when_it_is_kept(tmp_path: Path) -> None:
    store, told = tmp_path / "results.jsonl", list[Any]()
    sweep(square, grid(tmp_path, 2), "serial", store)

    def each(row: Any) -> None:
        assert row["reused"] or len(records(store)) == len(told) + 1  # safe on the disk by then
        told.append((row["point"]["x"], row["result"], row["reused"]))

    result = sweep(square, grid(tmp_path, 4), "serial", store, each=each)
    assert told == [(row["point"]["x"], row["result"], row["reused"]) for row in result.rows]
    assert [reused for _, _, reused in told] == [True, True, False, False]


def sees_interrupts(x: int) -> list[bool]:
    return [signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(2) is signal.SIG_IGN]


def test_workers_that_are_starting_do_not_see_ctrl_c() -> None:
    code = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    began = False
    with interruptible(), pytest.raises(KeyboardInterrupt), workers._interrupts_later():
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"True\n"
        # To this thread: of a process with others one of these would get it, at some later time. It comes when the
        # worker has been started.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        began = True
    assert began and signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert sweep(sees_interrupts, {"x": [1]}, 1, None).rows[0]["result"] == [False, True]
