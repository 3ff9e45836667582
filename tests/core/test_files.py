"""Files that take their place in one move: what killed writers have left behind."""

import os
import time

import pytest

from rnn_numpy.core.files import replacing


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
