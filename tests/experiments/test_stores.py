"""Results in a file: all that JSON can hold comes back as it was, and no kill, no second writer loses a line."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from swept import no_hang

from rnn_numpy.errors import DataError, DTypeError
from rnn_numpy.experiments.sweep import stores
from rnn_numpy.experiments.sweep.stores import Key, Outcome, ResultStore, canonical, from_json, to_json


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    with no_hang():
        yield


# Names that look like what stands for a float that is not finite must stay names.
NAMES = st.one_of(st.text(max_size=8), st.sampled_from(["$float", "$$float", "$", "$$", "a"]))
FLOATS = st.one_of(st.floats(), st.sampled_from([-0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]))
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, st.text(max_size=20))
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))


def refuse(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def same(a: Any, b: Any) -> bool:
    """Whether two values have equal types and equal bits; NaN is NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (a != a and b != b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    return bool(a == b)


@given(VALUES)
def test_a_value_comes_back_with_its_types_and_bits(value: Any) -> None:
    text = to_json(value, "test", "value")
    assert text.isascii() and "\n" not in text
    json.loads(text, parse_constant=refuse)
    assert same(from_json(text), value)
    assert same(from_json(canonical(text)), from_json(canonical(canonical(text))))


@given(VALUES, VALUES)
def test_canonical_texts_are_equal_for_equal_values_only(a: Any, b: Any) -> None:
    pair, swapped = {"a": a, "b": b}, {"b": b, "a": a}
    assert canonical(to_json(pair, "test", "value")) == canonical(to_json(swapped, "test", "value"))
    one, other = (canonical(to_json(value, "test", "value")) for value in (a, b))
    if one == other:
        assert same(from_json(one), from_json(other))
    if same(a, b):
        assert one == other


def test_close_floats_and_other_types_are_other_points() -> None:
    values = [1, 1.0, True, "1", 1.0000000000000002, 0.0, -0.0, float("nan"), "nan", {"$float": "nan"}, [1], None]
    assert len({canonical(to_json(value, "test", "value")) for value in values}) == len(values)


@given(FLOATS, st.integers(-(2**63), 2**63 - 1))
def test_numpy_scalars_become_the_numbers_that_they_are(x: float, n: int) -> None:
    with np.errstate(all="ignore"):
        narrow = np.float32(x)
    for given_, expected in (
        (np.float64(x), x),
        (narrow, float(narrow)),
        (np.longdouble(x), x),
        (np.int64(n), n),
        (np.uint64(n % 2**63), n % 2**63),
        (np.bool_(n % 2), bool(n % 2)),
        (np.str_("text"), "text"),
        (np.array([[x, 1.0]]), [[x, 1.0]]),
        (np.array(n), n),
        (np.array([x, None, "a"], dtype=object), [x, None, "a"]),
        (np.array([x], dtype=np.longdouble), [x]),
        ((x, (n,)), [x, [n]]),
    ):
        assert same(from_json(to_json(given_, "test", "value")), expected)


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Odd(), "f: result must be made of numbers, text, None, lists, dicts with text as keys, and NumPy arrays of at "
                "most 10000 real numbers or texts; got Odd"),
        ({"a": [0, {1, 2}]}, "f: result['a'][1] must be made of .*; got set"),
        (1j, "f: result must be made of .*; got complex"),
        (np.complex128(1j), "f: result must be made of .*; got complex128"),
        (np.zeros(2, complex), "f: result must be made of .*; got ndarray of dtype complex128"),
        (np.datetime64("2020-01-01"), "f: result must be made of .*; got datetime64"),
        (b"bytes", "f: result must be made of .*; got bytes"),
        ({"a": {1: 2}}, "f: result['a'] has the key 1; JSON has text as keys, write '1'"),
        (np.zeros(10_001), "f: result is an array of 10001 entries, more than 10000; save it to a file of its own, "
                           "with numpy.save, and return the file's name"),
        (np.longdouble(1) / 3, "f: result = .* has more digits than a float64; convert it yourself"),
        ("\ud800", "f: result = '\\ud800' is not valid Unicode: it has half of a surrogate pair"),
        ({"\ud800": 1}, "f: a key of result = '\\ud800' is not valid Unicode: it has half of a surrogate pair"),
        ([10**5000], "f: result cannot be written: .*digits.*"),
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_named(value: Any, message: str) -> None:
    with pytest.raises(DTypeError) as caught:
        to_json(value, "f", "result")
    parts = message.split(".*")
    text = str(caught.value)
    assert text.startswith(parts[0]) and text.endswith(parts[-1])
    assert all(part in text for part in parts)


def test_what_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(DTypeError, match="^f: result is nested too deeply, or contains itself$"):
        to_json(value, "f", "result")


# ------------------------------------------------------------------------------------------------ lines and bytes

ERROR = {"type": "ValueError", "message": "a\nb", "traceback": "Traceback é"}
RECORDS: list[tuple[Key, str, Outcome]] = [
    (("m.f", None, '{"x":1.0}'), '{"x": 1.0}', Outcome("0.5")),
    (("m.f", "2", '{"a":1,"x":{"$float":"nan"}}'), '{"x": {"$float": "nan"}, "a": 1}', Outcome('{"$float": "inf"}')),
    (("m.f", None, '{"x":"\\u00e9"}'), '{"x": "\\u00e9"}', Outcome(error=ERROR)),
]
LINES = [
    b'{"function": "m.f", "version": null, "point": {"x": 1.0}, "result": 0.5}\n',
    b'{"function": "m.f", "version": "2", "point": {"x": {"$float": "nan"}, "a": 1}, "result": {"$float": "inf"}}\n',
    b'{"function": "m.f", "version": null, "point": {"x": "\\u00e9"}, "error": {"type": "ValueError", "message": '
    b'"a\\nb", "traceback": "Traceback \\u00e9"}}\n',
]


def reopened(path: Path) -> dict[Key, Outcome]:
    with ResultStore.opened("f", path) as store:
        return store.outcomes


def test_the_bytes_of_a_store(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for number, (key, point, outcome) in enumerate(RECORDS):
        with ResultStore.opened("f", path) as store:
            store.append(key, point, outcome)
            assert path.read_bytes() == b"".join(LINES[: number + 1])
    assert reopened(path) == {key: outcome for key, _, outcome in RECORDS}
    assert path.read_bytes() == b"".join(LINES)
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_line_torn_at_any_byte_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    whole = b"".join(LINES)
    ends = [0, *np.cumsum([len(line) for line in LINES])]
    for cut in range(len(whole) + 1):
        for zeros in (b"", b"\0" * 7) if cut % 10 == 0 else (b"",):
            path.write_bytes(whole[:cut] + zeros)
            kept = max(i for i in range(4) if ends[i] <= cut)
            if not zeros and cut + 1 in ends:
                kept += 1  # nothing but the end of the line was missing
            assert reopened(path) == {key: outcome for key, _, outcome in RECORDS[:kept]}, cut
            assert path.read_bytes() == b"".join(LINES[:kept]), cut


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# Read me\n", "line 1 is not a result of a sweep: "),
        (b"no end of line", "its end, after line 0, is not a result of a sweep; name another file"),
        (LINES[0] + b"{\n" + LINES[1], "line 2 is not a result of a sweep: "),
        (b"[1]\n", "line 1 is not a result of a sweep: it is no JSON object; name another file, or delete"),
        (b"{}\n", 'line 1 is not a result of a sweep: it lacks "function", "version" or "point"; '),
        (LINES[0].replace(b"null", b"3"), 'it lacks "function", "version" or "point"; '),
        (LINES[0].replace(b"0.5", b"NaN"), "NaN is not JSON; "),
        (LINES[0].replace(b"0.5", b'{"$float": null}'), '"$float" stands for nan, inf or -inf; got None; '),
        (LINES[0].replace(b"1.0", b'{"$float": "1"}'), "\"$float\" stands for nan, inf or -inf; got '1'; "),
        (LINES[0].replace(b'"result"', b'"other"'), 'it must have one of "result" and "error"; '),
        (LINES[0].replace(b'"result"', b'"error"'), '"error" lacks one of type, message, traceback; '),
        (LINES[0].replace(b"0.5", b"[" * 100_000), "line 1 is not a result of a sweep: "),
        (b"\xff\xfe\n", "line 1 is not a result of a sweep: "),
    ],
)
def test_a_file_that_is_no_store_is_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content + LINES[0][:9])  # and nothing is cut off at its end either
    with pytest.raises(DataError) as caught:
        reopened(path)
    assert str(caught.value).startswith(f"f: {path}: ")
    assert message in str(caught.value)
    assert path.read_bytes() == content + LINES[0][:9]


def test_blank_lines_and_ends_of_other_systems_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    content = b"\n" + LINES[0].replace(b"\n", b"\r\n") + b"\n" + LINES[1]
    path.write_bytes(content)
    assert reopened(path) == {key: outcome for key, _, outcome in RECORDS[:2]}
    assert path.read_bytes() == content


def test_a_result_counts_more_than_an_error_and_the_last_one_most(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = LINES[0], LINES[0].replace(b"0.5", b"0.25")
    failed, again = (
        LINES[2].replace(b'"\\u00e9"}', b"1.0}").replace(b"ValueError", name) for name in (b"OneError", b"TwoError")
    )
    key = RECORDS[0][0]
    for lines, expected in (
        ([first, second], Outcome("0.25")),
        ([first, failed], Outcome("0.5")),
        ([failed, first], Outcome("0.5")),
        ([failed, again], Outcome(error={**ERROR, "type": "TwoError"})),
    ):
        path.write_bytes(b"".join(lines))
        assert reopened(path) == {key: expected}


@pytest.mark.parametrize("kind", ["folder", "missing", "device", "zero byte"])
def test_what_cannot_be_a_store(tmp_path: Path, kind: str) -> None:
    path, reason = {
        "folder": (tmp_path, "Is a directory"),
        "missing": (tmp_path / "no" / "results.jsonl", "No such file or directory"),
        "device": (Path(os.devnull), "is not a regular file"),
        # "embedded null byte", and since Python 3.13 "open: embedded null character in path".
        "zero byte": (tmp_path / "a\0b", "(open: )?embedded null (byte|character in path)"),
    }[kind]
    with pytest.raises(DataError) as caught:
        reopened(path)
    assert re.fullmatch(f"{re.escape(f'f: {path}: cannot be used as a store: ')}{reason}", str(caught.value))


def test_a_store_is_a_path() -> None:
    with pytest.raises(DTypeError, match="^f: store must be a path or None; got int$"):
        reopened(3)  # type: ignore[arg-type]


def test_a_disk_that_is_full_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.jsonl"
    real = os.write
    left = 40

    def write(descriptor: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(28, "No space left on device")
        done = real(descriptor, data[:left])
        left -= done
        return done

    with ResultStore.opened("f", path) as store:
        store.append(*RECORDS[0])
        monkeypatch.setattr(stores.os, "write", write)
        with pytest.raises(DataError) as caught:
            store.append(*RECORDS[1])
        assert left == 0
        assert str(caught.value) == f"f: {path}: a result cannot be written: No space left on device"
        assert path.read_bytes() == LINES[0]
        left = 10_000
        store.append(*RECORDS[2])
    assert path.read_bytes() == LINES[0] + LINES[2]


def test_a_store_that_is_moved_away_or_deleted_is_missed(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ResultStore.opened("f", path) as store:
        store.append(*RECORDS[0])
        path.rename(tmp_path / "moved")
        with pytest.raises(DataError, match="a result cannot be written: No such file or directory$"):
            store.append(*RECORDS[1])
        path.write_bytes(b"")
        with pytest.raises(DataError, match="a result cannot be written: another file stands in its place now$"):
            store.append(*RECORDS[1])
    assert (tmp_path / "moved").read_bytes() == LINES[0]
    assert path.read_bytes() == b""


# ------------------------------------------------------------------------------------------------ one writer


def hold(path: Path, connection: Any, fork: bool) -> None:
    with ResultStore.opened("f", path) as store:
        store.append(*RECORDS[0])
        # The forked process lives on when its parent is killed.
        if not fork or os.fork() == 0:
            connection.send("locked")
        connection.recv()


@pytest.fixture(params=[False, True], ids=["alone", "with a forked process"])
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process that writes the store tmp_path/results.jsonl, and does not end by itself."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path / "results.jsonl", theirs, request.param))
    process.start()
    theirs.close()
    assert ours.recv() == "locked"
    yield process
    process.kill()
    process.join()
    ours.close()  # which ends the forked process as well


def test_a_second_writer_is_refused_until_the_first_is_gone(
    tmp_path: Path, holder: multiprocessing.process.BaseProcess
) -> None:
    path = tmp_path / "results.jsonl"
    message = f"f: {path}: another sweep is writing it; wait for that one, or name another"
    with pytest.raises(DataError) as caught:
        reopened(path)
    assert str(caught.value) == message
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert reopened(path) == {RECORDS[0][0]: RECORDS[0][2]}  # the lock has ended with the process
    with ResultStore.opened("f", path):
        with pytest.raises(DataError) as caught:
            reopened(path)  # nor twice in one process
        assert str(caught.value) == message
        path.read_bytes()  # that somebody reads it lifts no lock
        with pytest.raises(DataError):
            reopened(path)


# Another test of this process may have started JAX's threads, and JAX warns of every fork; the child here does nothing
# with them.
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_process_forked_meanwhile_keeps_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    reader, writer = os.pipe()
    with ResultStore.opened("f", path):
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)  # until the parent closes its end
            os._exit(0)
    try:
        assert reopened(path) == {}
        with ResultStore.opened("f", path), pytest.raises(DataError):
            reopened(path)
    finally:
        os.close(writer)
        os.close(reader)
        assert os.waitpid(child, 0)[1] == 0
