"""Checkpoints: all that a training depends on, in one file, from which another process goes on bit for bit.

The file is an .npz file, a zip archive of arrays that `numpy.load` reads, with one JSON text as its first member: the
nested state, in which each array is the name of its member. Its last 64 bytes, a comment of the archive, are the
SHA-256, in hexadecimal digits, of all bytes before them, so that a file that was cut off or changed anywhere is found.
Nothing is pickled. The name of the first member and the digest belong to all versions of the format.

A file appears at once and whole, by `core.files.replacing`: whenever a process is killed, the last checkpoint is there.

Bit for bit means: on the same machine, with the same number of threads, the same versions of Python and NumPy. What
differs is no error, since most results do not depend on it; `Checkpoint.notes` tells it.
"""

from __future__ import annotations

import io
import math
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.errors import DataError, DTypeError

if TYPE_CHECKING:
    from rnn_numpy.training.loop import Training

Array = NDArray[Any]

VERSION = 1
FIRST = "rnn_numpy_checkpoint.json"  # the member with the JSON text
DIGITS = 64  # of a SHA-256
DEPTH = 100  # of nested containers, at most


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` returns.

    Attributes
    ----------
    training : dict
        For `Training.load_state_dict`.
    extra : dict
        What else was saved, by its keyword.
    versions : dict of str to str
        Of rnn_numpy, NumPy, Python, the BLAS and the processor, when it was saved.
    notes : tuple of str
        Which of these are others here; with them, the last bits may be.
    """

    training: dict[str, Any] = field(repr=False)
    extra: dict[str, Any] = field(repr=False)
    versions: dict[str, str]
    notes: tuple[str, ...]


def save_checkpoint(path: str | os.PathLike[str], training: Training, /, **extra: Any) -> None:
    """Write a training, between two updates or two micro-batches, to one file.

    Parameters
    ----------
    path : str or path
        Ends in .npz. A file of that name is replaced, in one move, once the new one is on the disk.
    training : Training
    **extra
        What else is to be saved: nested dicts with str as keys, lists and tuples, of numbers, str, bool, None and
        arrays of numbers. It comes back as it is, floats to the last bit, but that NumPy's scalars become Python's and
        all mappings dicts.

    Raises
    ------
    DataError
        Another suffix; the file cannot be written, the disk being full, say. The file that was there stays.
    DTypeError
        Something in `extra` is none of these; its place is named. Or the batches cannot tell where they stand.

    Examples
    --------
    >>> import tempfile
    >>> from rnn_numpy import Forecaster
    >>> from rnn_numpy.training import Adam, Batches, load_checkpoint, save_checkpoint, train
    >>> def start(seed):
    ...     wave = np.sin(np.arange(210.0)).reshape(21, 10, 1)
    ...     model = Forecaster(1, 8, rng=seed)
    ...     batches = Batches(wave[:-1], wave[1:], batch_size=5, axis=1, rng=seed)
    ...     return train(model, batches, Adam(model.params, lr=0.01))
    >>> training, twin = start(0), start(1)
    >>> for update in training:
    ...     if update.number == 5:
    ...         break
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(f"{folder}/training.npz", training, note="so far")
    ...     checkpoint = load_checkpoint(f"{folder}/training.npz")
    >>> twin.load_state_dict(checkpoint.training)
    >>> next(twin).loss == next(training).loss, checkpoint.extra, checkpoint.notes
    (True, {'note': 'so far'}, ())
    """
    import hashlib
    import json
    import zipfile

    from rnn_numpy.core.storage import npy_bytes, with_suffix, write_whole

    where = "save_checkpoint"
    target = with_suffix(where, path, ".npz")
    arrays: dict[str, Array] = {}
    state = {
        "format": "rnn_numpy checkpoint",
        "version": VERSION,
        "versions": versions(),
        "training": _pack(where, training.state_dict(), ("training",), arrays),
        "extra": _pack(where, extra, ("extra",), arrays),
    }
    text = json.dumps(state, allow_nan=False).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo's date is 1980, not today: equal trainings make equal files.
        archive.writestr(zipfile.ZipInfo(FIRST), text)
        for name, array in arrays.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), npy_bytes(array))
        archive.comment = b"0" * DIGITS
    content = memoryview(buffer.getvalue())[:-DIGITS]
    digest = hashlib.sha256(content).hexdigest().encode()

    def write(file: io.BufferedIOBase) -> None:
        file.write(content)
        file.write(digest)

    write_whole(where, target, write)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save_checkpoint` has written.

    Parameters
    ----------
    path : str or path
        Ends in .npz.

    Raises
    ------
    DataError
        The file cannot be read; is no checkpoint; was cut off, or a byte of it changed; has a newer format.
    """
    import hashlib
    import json
    import zipfile

    from rnn_numpy.core.storage import npy_array, read_whole, with_suffix

    where = "load_checkpoint"
    target = with_suffix(where, path, ".npz")
    begin = f"{where}: {target}"
    data = read_whole(where, target)
    name = FIRST.encode()
    if data[:2] != b"PK" or data[30 : 30 + len(name)] != name:  # 30 bytes in front of the name of a first member
        said = "is empty" if not data else "is not a checkpoint of rnn_numpy, or only the beginning of one"
        raise DataError(f"{begin}: {said}")
    digest = hashlib.sha256(memoryview(data)[:-DIGITS]).hexdigest().encode()
    if digest != data[-DIGITS:]:
        raise DataError(f"{begin}: is damaged: it was cut off or changed, its SHA-256 is another one")
    # From here on it is as it was written: what does not fit was written by somebody else.
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            state = json.loads(archive.read(FIRST))
            version = state["version"]
            if type(version) is not int or version < 1:
                raise ValueError(f"version {version!r}")
            if version > VERSION:
                raise DataError(
                    f"{begin}: has format {version}, this rnn_numpy reads up to {VERSION}; it was saved by rnn_numpy "
                    f"{state['versions']['rnn_numpy']}: update to that"
                )

            def read(name: str) -> Array:
                return npy_array(f"{begin}: {name}", archive.read(f"{name}.npy"))

            training, extra = (_unpack(state[part], read) for part in ("training", "extra"))
            saved = {str(name): str(found) for name, found in state["versions"].items()}
    except DataError:
        raise
    except Exception as error:  # whatever zipfile, json and the nested state may stumble over
        raise DataError(f"{begin}: is not in the form of a checkpoint: {type(error).__name__}: {error}") from None
    here = versions()
    notes = [f"{name} was {was}, is {here[name]}" for name, was in saved.items() if here.get(name, was) != was]
    return Checkpoint(training, extra, saved, tuple(notes))


def versions() -> dict[str, str]:
    """Return what the last bits of results may depend on."""
    built: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    blas = built.get("Build Dependencies", {}).get("blas", {})
    vectors = built.get("SIMD Extensions", {}).get("found") or ["no extensions"]
    return {
        "rnn_numpy": sys.modules["rnn_numpy"].__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "blas": f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip(),
        "processor": f"{platform.machine()} {vectors[-1]}",
    }


# ------------------------------------------------------------------------------------- a nested state as JSON


def _pack(where: str, value: Any, path: tuple[str, ...], arrays: dict[str, Array]) -> Any:
    """Return a value as JSON can hold it. Its arrays go to `arrays`, and their names there stand in their places.

    A dict, a tuple, an array and a number that is not finite become a JSON object with one entry, which says what they
    were; nothing else becomes an object, so that they cannot be mistaken.
    """
    place = ".".join(path)
    if len(path) > DEPTH:
        raise DTypeError(f"{where}: {'.'.join(path[:3])}... is nested deeper than {DEPTH}, or holds itself")
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc" or isinstance(value, np.ma.MaskedArray):
            raise DTypeError(f"{where}: {place} must hold plain numbers or booleans; got dtype {value.dtype}")
        name = "/".join(re.sub(r"[^\w.-]", "_", part)[:60] for part in path)
        while name in arrays:
            name += "_"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise DTypeError(f"{where}: {place} must have keys that are str; got {type(key).__name__} {key!r}")
        return {"dict": {key: _pack(where, part, (*path, key), arrays) for key, part in value.items()}}
    if isinstance(value, list | tuple):
        packed = [_pack(where, part, (*path, str(index)), arrays) for index, part in enumerate(value)]
        return packed if isinstance(value, list) else {"tuple": packed}
    raise DTypeError(
        f"{where}: {place} must be a dict, list, tuple, number, str, bool, None or array; got {type(value).__name__}"
    )


def _unpack(value: Any, read: Any) -> Any:
    """Undo `_pack`."""
    if isinstance(value, list):
        return [_unpack(part, read) for part in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {key: _unpack(part, read) for key, part in content.items()}
    if kind == "tuple":
        return tuple(_unpack(part, read) for part in content)
    if kind == "array":
        return read(content)
    if kind == "float":
        return float(content)
    raise ValueError(f"unknown kind {kind!r}")
