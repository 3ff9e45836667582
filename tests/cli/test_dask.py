"""`--dask`: networks on a cluster of real processes, one of which is killed; and clusters that are not there."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed.utils import LoopRunner

from rnn_numpy.cli import common, main

GRADFLOW = "gradflow --cells rnn-tanh gru --gain 1 --length 20 --hidden 8 --batch 4 --seeds 3 --train-steps 60".split()
BENCHMARK = "benchmark --lengths 8 --cells gru lstm --hidden 8 --batch 8 --max-updates 60 --seeds 2".split()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address=None,
    ) as running:
        yield running


def kill_one(pids: list[int], folder: Path) -> threading.Thread:
    """Kill a worker when the first network is finished: then it has the next one in hand."""

    def wait() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if any(path.read_bytes().count(b"\n") for path in folder.glob("*-unfinished-*.jsonl")):
                os.kill(pids[0], signal.SIGKILL)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_the_same_table_from_a_cluster_that_loses_a_worker(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GRADFLOW, "--json", "n.json"]) == 0
    table, numbers = capsys.readouterr().out, (here / "n.json").read_bytes()
    with cluster(2) as running:
        with distributed.Client(running) as client:
            pids = list(client.run(os.getpid).values())
        killer = kill_one(pids, here)
        assert main([*GRADFLOW, "--json", "n.json", "--dask", running.scheduler_address]) == 0
        killer.join()
        with pytest.raises(ProcessLookupError):
            os.kill(pids[0], 0)
        out, err = capsys.readouterr()
        assert main([*BENCHMARK, "--dask", running.scheduler_address]) == 0
        assert [line[:7] for line in capsys.readouterr().err.splitlines()] == [f"{k} of 4:" for k in range(1, 5)]
    assert out == table and (here / "n.json").read_bytes() == numbers
    assert err.count(" of 6: ") == 6
    assert {path.name for path in here.iterdir()} == {"gradflow.png", "benchmark.png", "n.json"}


def test_a_cluster_that_is_not_there_is_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "CONNECT", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    for wrong in (address, "nowhere", "tcp://"):
        assert main([*GRADFLOW, "--dask", wrong]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and "Traceback" not in err
        assert err.startswith(f"rnn-numpy gradflow: --dask: no scheduler of Dask answers at {wrong}: ")
    with cluster(0) as running:
        assert main([*GRADFLOW, "--dask", running.scheduler_address]) == 2
        assert capsys.readouterr().err == (
            f"rnn-numpy gradflow: --dask: the scheduler at {running.scheduler_address} has no worker\n"
        )
    assert list(here.iterdir()) == []


def test_a_client_that_found_nobody_is_not_in_the_way_of_the_next(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finaliser that runs while the next client starts its thread must not want the lock of that start."""
    monkeypatch.setattr(common, "CONNECT", 0.5)
    gc.collect()
    gc.disable()
    try:
        for wrong in ("tcp://127.0.0.1:9", "nowhere", "tcp://"):
            assert main([*GRADFLOW, "--dask", wrong]) == 2
        with LoopRunner._lock:
            collector = threading.Thread(target=gc.collect, daemon=True)
            collector.start()
            collector.join(20)
            assert not collector.is_alive()
    finally:
        gc.enable()
    capsys.readouterr()


def test_a_cluster_that_loses_its_last_worker_is_waited_for_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        running.scale(1)

    monkeypatch.setattr(common, "_say", say)
    monkeypatch.setattr(common, "WATCH", 0.2)
    with cluster(1) as running, common._cluster(running.scheduler_address) as executor:
        running.scale(0)
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.05)
        # Done by the worker that came for the line.
        assert executor.submit(abs, -2).result(timeout=60) == 2
    assert said == [f"--dask: no worker is left at {running.scheduler_address}; waiting for one, Ctrl-C ends that"]


def test_without_dask_it_says_what_to_install(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main([*GRADFLOW, "--dask", "tcp://127.0.0.1:1"]) == 2
    assert 'install it with: pip install "rnn_numpy[distributed]"' in capsys.readouterr().err
