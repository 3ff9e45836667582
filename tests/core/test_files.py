"""Files that take their place in one move: what killed writers have left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rnn_numpy.core import files
from rnn_numpy.core.files import remove_stale, replacing

ROOT = Path(__file__).parents[2]


def test_only_what_a_killed_writer_left_long_ago_is_removed(tmp_path):
    old = time.time() - 2 * 3600
    digits = "0123456789abcdef"
    stale = {f".a.npz.{digits}.tmp", f".a.npz.{digits[::-1]}.tmp"}
    fresh = {".a.npz.ffffffffffffffff.tmp"}
    others = {
        *(f".b.npz.{digits}.tmp", f".aXnpz.{digits}.tmp", f"a.npz.{digits}.tmp", f".a.npz.{digits}.tm"),
        *(f".a.npz.{digits}0.tmp", ".a.npz.0123456789ABCDEF.tmp", ".a.npz.tmp", "notes.txt"),
    }
    for name in stale | fresh | others:
        (tmp_path / name).write_text("x")
        if name not in fresh:
            os.utime(tmp_path / name, (old, old))
    with replacing(tmp_path / "a.npz") as file:
        file.write(b"new")
    assert set(os.listdir(tmp_path)) == fresh | others | {"a.npz"}
    assert (tmp_path / "a.npz").read_bytes() == b"new"


def test_a_failure_removes_its_own_and_leaves_the_others(tmp_path):
    old = time.time() - 2 * 3600
    name = ".a.npz.0123456789abcdef.tmp"
    (tmp_path / name).write_text("x")
    os.utime(tmp_path / name, (old, old))
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.npz"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == [name]


@pytest.fixture
def writer(tmp_path):
    """Start a process that writes, and never ends; yield it and the file."""
    code = f"""
import time
from rnn_numpy.core.files import replacing
with replacing({str(tmp_path / "a.npz")!r}) as file:
    print("open", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"open\n"
        yield process, next(tmp_path.iterdir())
        process.kill()


def test_what_a_running_writer_writes_stays_until_it_is_killed(tmp_path, writer):
    process, file = writer
    old = time.time() - 2 * 3600
    os.utime(file, (old, old))
    for _ in range(2):  # one that stands still, too
        remove_stale(tmp_path)
        with replacing(tmp_path / "a.npz") as mine:
            mine.write(b"mine")
        assert {path.name for path in tmp_path.iterdir()} == {file.name, "a.npz"}
        process.send_signal(signal.SIGSTOP)
    process.kill()
    process.wait()
    remove_stale(tmp_path, "b.npz")
    assert file.exists()
    remove_stale(tmp_path, "a.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_without_locks_age_decides(tmp_path, monkeypatch, writer):
    _, file = writer

    def none(descriptor, wait):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files, "_lock", none)
    remove_stale(tmp_path)
    assert file.exists()
    old = time.time() - 2 * 3600
    os.utime(file, (old, old))
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with replacing(tmp_path / "a.npz") as mine:
        mine.write(b"mine")
    assert (tmp_path / "a.npz").read_bytes() == b"mine"


def test_a_file_that_is_taken_for_stale_before_it_is_locked(tmp_path, monkeypatch):
    lock, taken = files._lock, []

    def late(descriptor, wait):
        if wait and not taken:
            taken.extend(tmp_path.iterdir())
            remove_stale(tmp_path)
            assert list(tmp_path.iterdir()) == []
        lock(descriptor, wait)

    monkeypatch.setattr(files, "_lock", late)
    with replacing(tmp_path / "a.npz") as file:
        file.write(b"new")
    assert len(taken) == 1 and (tmp_path / "a.npz").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
