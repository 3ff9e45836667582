"""Results in a text file: one line of JSON per finished point, safe on the disk before the next one is begun.

What JSON lacks is written with what it has. A float that is not finite becomes {"$float": "nan"}, "inf" or "-inf"; a
name in a dict that begins with $ gets a second one, so that no dict of a user's is taken for such a float.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rnn_numpy.core.files import sync_folder
from rnn_numpy.errors import DataError, DTypeError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Larger arrays belong into files of their own.
LARGEST_ARRAY = 10_000
MADE_OF = (
    "numbers, text, None, lists, dicts with text as keys, and NumPy arrays of at most "
    f"{LARGEST_ARRAY} real numbers or texts"
)
# How each line begins. What a kill has left of one is a part of a line: it begins like this as far as it goes.
BEGIN = b'{"function": "'

ERROR_PARTS = ("type", "message", "traceback")

# A function's name, the version, a point in canonical JSON.
Key: TypeAlias = tuple[str, str | None, str]


def to_json(value: Any, where: str, name: str) -> str:
    """Write a value as standard JSON, ASCII on one line, from which `from_json` makes it again.

    It is made of numbers, text, None, lists, tuples, mappings with text as keys, NumPy's scalars and small arrays;
    anything else is a DTypeError, which calls it `name`, in `where`.

    >>> text = to_json({"gain": np.float32(0.5), "norms": np.array([1.0, np.inf])}, "sweep", "result")
    >>> print(text)
    {"gain": 0.5, "norms": [1.0, {"$float": "inf"}]}
    >>> from_json(text)
    {'gain': 0.5, 'norms': [1.0, inf]}
    """
    try:
        return json.dumps(_encoded(value, where, name), allow_nan=False)
    except RecursionError:
        raise DTypeError(f"{where}: {name} is nested too deeply, or contains itself") from None
    except ValueError as error:  # an int of more digits than Python converts
        raise DTypeError(f"{where}: {name} cannot be written: {error}") from None


def from_json(text: str) -> Any:
    """Return the value of a text of `to_json`: NumPy's scalars as Python's, arrays and tuples as lists."""
    return _decoded(json.loads(text))


def canonical(text: str) -> str:
    """Return JSON in the one form that equal values have: names sorted, no blanks."""
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _encoded(value: Any, where: str, name: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _encoded_text(value, where, name)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Mapping):
        encoded = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise DTypeError(f"{where}: {name} has the key {key!r}; JSON has text as keys, write {str(key)!r}")
            inner = _encoded_text(key, where, f"a key of {name}")
            encoded["$" + inner if inner.startswith("$") else inner] = _encoded(item, where, f"{name}[{key!r}]")
        return encoded
    if isinstance(value, (list, tuple)):
        return [_encoded(item, where, f"{name}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufUO":
        if value.size > LARGEST_ARRAY:
            raise DTypeError(
                f"{where}: {name} is an array of {value.size} entries, more than {LARGEST_ARRAY}; save it to a file of "
                "its own, with numpy.save, and return the file's name"
            )
        return _encoded(value.tolist(), where, name)
    if isinstance(value, np.generic) and value.dtype.kind in "biufU":
        plain = value.item()
        if isinstance(plain, np.generic):  # longdouble has no counterpart in Python
            plain = float(value)
            if plain != value and not math.isnan(plain):
                raise DTypeError(f"{where}: {name} = {value!r} has more digits than a float64; convert it yourself")
        return _encoded(plain, where, name)
    got = type(value).__name__ + (f" of dtype {value.dtype}" if isinstance(value, np.ndarray) else "")
    raise DTypeError(f"{where}: {name} must be made of {MADE_OF}; got {got}")


def _encoded_text(value: str, where: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DTypeError(f"{where}: {name} = {value!r} is not valid Unicode: it has half of a surrogate pair") from None
    return str.__str__(value)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, dict):
        if "$float" in value:
            if value["$float"] not in ("nan", "inf", "-inf"):
                raise ValueError(f'"$float" stands for nan, inf or -inf; got {value["$float"]!r}')
            return float(value["$float"])
        return {key.removeprefix("$") if key.startswith("$$") else key: _decoded(item) for key, item in value.items()}
    return value


# ------------------------------------------------------------------------------------------------------------ the store


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a point, as `to_json` wrote it, or the "type", "message" and "traceback" of its error."""

    result: str | None = None
    error: dict[str, str] | None = None


class InUseError(DataError):
    """Another sweep is writing the store."""


class ResultStore:
    """The file that keeps what is finished; `ResultStore.opened` makes and locks it.

    `outcomes` has the file's results, and those appended since, by key.
    """

    def __init__(self, where: str, path: Path, descriptor: int, outcomes: dict[Key, Outcome]) -> None:
        self._where = where
        self._path = path
        self._descriptor = descriptor
        self.outcomes = outcomes

    @classmethod
    @contextlib.contextmanager
    def opened(cls, where: str, path: str | os.PathLike[str]) -> Iterator[ResultStore]:
        """Open a store, or begin one, for as long as the with-statement lasts.

        A line that a kill has torn is cut off. DataError where it cannot be opened or locked, or holds something else
        than results: it is then left as it is.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ResultStore.opened("doctest", Path(folder) / "results.jsonl") as store:
        ...         store.append(("module.run", None, '{"gain":0.5}'), '{"gain": 0.5}', Outcome("0.25"))
        ...     with ResultStore.opened("doctest", Path(folder) / "results.jsonl") as store:
        ...         store.outcomes
        {('module.run', None, '{"gain":0.5}'): Outcome(result='0.25', error=None)}
        """
        try:
            target = Path(path)
        except TypeError:
            raise DTypeError(f"{where}: store must be a path or None; got {type(path).__name__}") from None
        with contextlib.ExitStack() as stack:
            try:
                begun = not target.exists()
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
                descriptor = os.open(target, flags, 0o666)
                _DESCRIPTORS.add(descriptor)
                stack.callback(_close, descriptor)
                stack.callback(_unlock, descriptor)
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(0, "is not a regular file")
                if not _lock(descriptor):
                    raise InUseError(
                        f"{where}: {target}: another sweep is writing it; wait for that one, or name another"
                    )
                if begun:
                    sync_folder(target.parent)
                outcomes = _read(where, target, descriptor)
            except (OSError, ValueError) as error:
                if isinstance(error, DataError):
                    raise
                reason = getattr(error, "strerror", None) or error  # ValueError: a path that holds a NUL
                raise DataError(f"{where}: {target}: cannot be used as a store: {reason}") from None
            yield cls(where, target, descriptor, outcomes)

    def append(self, key: Key, point: str, outcome: Outcome) -> None:
        """Add a line, with the point in JSON in the order in which it was given; return when it is on the disk.

        DataError where the system refuses, or the file was moved away or deleted: of the line nothing is left then.
        """
        if outcome.error is None:
            end = f'"result": {outcome.result}'
        else:
            end = f'"error": {json.dumps(outcome.error)}'
        line = f'{{"function": {json.dumps(key[0])}, "version": {json.dumps(key[1])}, "point": {point}, {end}}}\n'
        size = os.fstat(self._descriptor).st_size
        try:
            if not os.path.samestat(os.fstat(self._descriptor), os.stat(self._path)):
                raise OSError(0, "another file stands in its place now")
            _write(self._descriptor, line.encode())
        except OSError as error:
            # A disk that is full may have taken half of the line.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            reason = error.strerror or error
            raise DataError(f"{self._where}: {self._path}: a result cannot be written: {reason}") from None
        self.outcomes[key] = outcome


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _read(where: str, path: Path, descriptor: int) -> dict[Key, Outcome]:
    """Return what the file holds, and mend its end; raise, with the file untouched, if it is not a store."""
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read()
    end = data.rfind(b"\n") + 1
    outcomes: dict[Key, Outcome] = {}
    lines = data[:end].split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                _take(outcomes, line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{where}: {path}: line {number} is not a result of a sweep: {error}; name another file, or delete "
                    "the line if you know what it was, and its point will be computed again"
                ) from None
    # A machine that lost its power may have made room for a line and filled it with zeros.
    tail = data[end:].rstrip(b"\0")
    if len(data) > end:
        try:
            _take(outcomes, data[end:])
        except (ValueError, RecursionError):
            if not (tail.startswith(BEGIN) or BEGIN.startswith(tail)):
                raise DataError(
                    f"{where}: {path}: its end, after line {len(lines)}, is not a result of a sweep; name another file"
                ) from None
            os.ftruncate(descriptor, end)
            os.fsync(descriptor)
        else:
            _write(descriptor, b"\n")  # all there but its end
    return outcomes


def _take(outcomes: dict[Key, Outcome], line: bytes) -> None:
    """Add the outcome that a line holds; raise ValueError if it holds something else."""
    record = json.loads(line, parse_constant=_refuse_constant)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    function, version, point = record.get("function"), record.get("version"), record.get("point")
    if not isinstance(function, str) or not isinstance(version, str | None) or not isinstance(point, dict):
        raise ValueError('it lacks "function", "version" or "point"')
    if ("result" in record) == ("error" in record):
        raise ValueError('it must have one of "result" and "error"')
    text = json.dumps(point)
    from_json(text)
    key = (function, version, canonical(text))
    if "result" in record:
        result = json.dumps(record["result"])
        from_json(result)
        outcomes[key] = Outcome(result=result)
        return
    error = record["error"]
    if not (isinstance(error, dict) and all(isinstance(error.get(part), str) for part in ERROR_PARTS)):
        raise ValueError(f'"error" lacks one of {", ".join(ERROR_PARTS)}')
    # Of a point that failed in one file and succeeded in another, concatenated, the success counts.
    if key not in outcomes or outcomes[key].error is not None:
        outcomes[key] = Outcome(error={part: error[part] for part in ERROR_PARTS})


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# ----------------------------------------------------------------------------------------------------------- the system

# A lock lasts until it is lifted, or the last copy of the descriptor is closed. A forked worker would have a copy, and
# might outlive a parent that is killed: the store would stay locked, and nobody be writing it.
_DESCRIPTORS: set[int] = set()


def _close(descriptor: int) -> None:
    _DESCRIPTORS.discard(descriptor)
    os.close(descriptor)


def _close_all() -> None:
    for descriptor in list(_DESCRIPTORS):
        _close(descriptor)


if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        # Of one byte far behind the end, since Windows keeps readers from what is locked.
        os.lseek(descriptor, 2**40, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        pass  # Windows does so when the descriptor is closed

else:

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)

    os.register_at_fork(after_in_child=_close_all)
