"""Files of named arrays: NumPy's .npz, which needs nothing more, and .safetensors, through that library.

Nothing is ever pickled, neither on the way out nor on the way in: a pickle may run code when it is read, and weights
are numbers. What comes back from a file is a dict for `load_state_dict`. A file appears at once and whole, by
`core.files.replacing`.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.core.files import replacing
from rnn_numpy.errors import DataError, DTypeError, StateDictError

Array = NDArray[Any]
PathLike = str | os.PathLike[str]

UNPACKED = 2**30  # bytes that an .npz file may always become; beyond, it may shrink to a fiftieth

# NumPy's dtypes that the safetensors format has a name for.
_SAFETENSORS_DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64".split()


class HasStateDict(Protocol):
    """A layer or a model: what can name its arrays."""

    def state_dict(self) -> dict[str, Array]:
        """Return the arrays by name."""


def save_npz(path: PathLike, arrays: Mapping[str, ArrayLike] | HasStateDict) -> None:
    """Write a layer's parameters, or any named arrays, to an .npz file, which `numpy.load` reads as well.

    Parameters
    ----------
    path : str or path
        Ends in .npz. A file of that name is replaced, and keeps its permissions; where anything goes wrong, it stays as
        it was.
    arrays : layer, or mapping of str to array_like
        A layer stands for its `state_dict()`. Arrays of numbers or booleans, of any shape; they are stored in their own
        dtype, in this machine's byte order. A name is a str without slashes or control characters.

    Raises
    ------
    DataError
        Another suffix; the file cannot be written.
    StateDictError, DTypeError
        A name or an array that cannot be stored, or no array at all.

    Notes
    -----
    Not compressed: weights hardly shrink. Equal arrays make equal files, byte for byte.

    Examples
    --------
    >>> import tempfile
    >>> from rnn_numpy import RNN
    >>> rnn, twin = RNN(2, 3, rng=0), RNN(2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_npz(f"{folder}/rnn.npz", rnn)
    ...     twin.load_state_dict(load_npz(f"{folder}/rnn.npz"))
    >>> twin.params.flat.tobytes() == rnn.params.flat.tobytes()
    True
    """
    where = "save_npz"
    target = with_suffix(where, path, ".npz")
    checked = _storable(where, arrays)

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in checked.items():
                # A ZipInfo's date is 1980, not today: equal arrays make equal files.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    write_whole(where, target, write)


def load_npz(path: PathLike) -> dict[str, Array]:
    """Read the named arrays of an .npz file, from `save_npz` or `numpy.savez`.

    Parameters
    ----------
    path : str or path
        Ends in .npz.

    Returns
    -------
    dict of str to ndarray
        In the order of the file; writable, C-contiguous, in the dtype of the file and this machine's byte order. Ready
        for `load_state_dict`.

    Raises
    ------
    DataError
        The file cannot be read, is not a whole .npz file, or holds something else than arrays of numbers. Pickled
        objects are not loaded.

    Notes
    -----
    A zip file carries a checksum of every array, so that a changed one is found. It is no signature: who changes a file
    on purpose can change the checksum too, and then you read other numbers, but never run anything.
    """
    where = "load_npz"
    target = with_suffix(where, path, ".npz")
    return npz_arrays(f"{where}: {target}", read_whole(where, target))


def npz_arrays(begin: str, data: bytes) -> dict[str, Array]:
    """Return the arrays that the bytes of an .npz file say. `begin` names the file for the message.

    A few bytes can be a large array of one number, compressed; what is promised is looked at before it is unpacked.
    """
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            # zipfile believes a list of members that was cut short; the file's end knows how many there should be.
            promised = struct.unpack_from("<H", data, data.rfind(b"PK\x05\x06") + 10)[0]
            if promised != min(len(members), 0xFFFF):
                raise zipfile.BadZipFile(f"{promised} arrays promised, {len(members)} found")
            total = sum(info.file_size for info in members)
            if total > max(UNPACKED, 50 * len(data)):
                raise DataError(f"{begin}: its {len(data)} bytes would become {total}; not unpacked")
            for info in members:
                name = info.filename.removesuffix(".npy")
                if name in ("", info.filename):
                    raise DataError(f"{begin}: holds {info.filename!r}, which is not an array of numpy.savez")
                if name in found:
                    raise DataError(f"{begin}: holds two arrays named {name!r}")
                found[name] = npy_array(f"{begin}: {name}", archive.read(info))
    except DataError:
        raise
    except _UNZIPPING as error:
        raise DataError(f"{begin}: not a whole .npz file, as save_npz and numpy.savez write: {error}") from None
    return found


# What zipfile raises of damaged, encrypted and exotic files.
_UNZIPPING = zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, OverflowError, RuntimeError, ValueError


def save_safetensors(path: PathLike, arrays: Mapping[str, ArrayLike] | HasStateDict) -> None:
    """Write a layer's parameters, or any named arrays, to a .safetensors file.

    Arguments and errors are those of `save_npz`; the format has no complex128 and no long double, and MissingExtraError
    says that safetensors is not installed.
    """
    where = "save_safetensors"
    target = with_suffix(where, path, ".safetensors")
    numpy_api = optional_import("safetensors.numpy", where, "safetensors")
    checked = _storable(where, arrays)
    for name, array in checked.items():
        if array.dtype.name not in _SAFETENSORS_DTYPES:
            raise DTypeError(
                f"{where}: {name} has dtype {array.dtype}, for which the format has no place; use save_npz"
            )
        if name == "__metadata__":
            raise StateDictError(f"{where}: the format keeps the name '__metadata__' to itself; choose another one")
    content = numpy_api.save(checked)
    write_whole(where, target, lambda file: file.write(content))


def load_safetensors(path: PathLike) -> dict[str, Array]:
    """Read the named arrays of a .safetensors file.

    Parameters
    ----------
    path : str or path
        Ends in .safetensors.

    Returns
    -------
    dict of str to ndarray
        Writable, in the dtype of the file. Ready for `load_state_dict`.

    Raises
    ------
    DataError
        The file cannot be read, is not a whole .safetensors file, or holds arrays of a dtype that NumPy lacks, such as
        bfloat16. The format has no checksum: an array whose numbers were changed is not found out.
    MissingExtraError
        safetensors is not installed.
    """
    where = "load_safetensors"
    return safetensors_arrays(where, with_suffix(where, path, ".safetensors"))


def safetensors_arrays(where: str, target: Path) -> dict[str, Array]:
    """Return the arrays of a .safetensors file, whatever its name ends in."""
    numpy_api = optional_import("safetensors.numpy", where, "safetensors")
    library = optional_import("safetensors", where, "safetensors")
    data = read_whole(where, target)
    try:
        loaded = numpy_api.load(data)
    except KeyError as error:
        raise DataError(
            f"{where}: {target}: holds an array of dtype {error.args[0]}, which NumPy lacks; save it as F32, in torch "
            "with tensor.float()"
        ) from None
    except (library.SafetensorError, ValueError, TypeError) as error:
        raise DataError(f"{where}: {target}: not a whole .safetensors file: {error}") from None
    # The library's arrays look into the bytes of the file, and cannot be written.
    return {name: np.array(array, _native(array.dtype)) for name, array in loaded.items()}


def write_whole(where: str, target: Path, write: Any) -> None:
    """Let `write(file)` fill a new file, which then takes the place of `target` in one move.

    DataError says that the system refuses. Whatever is raised, the file that was there is untouched.
    """
    try:
        with replacing(target) as file:
            write(file)
    except (OSError, ValueError) as error:
        # ValueError: a path that holds a NUL.
        raise DataError(f"{where}: {target}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def with_suffix(where: str, path: Any, suffix: str) -> Path:
    """Return `path` as a Path if it ends in `suffix`."""
    try:
        target = Path(path)
    except TypeError:
        got = type(path).__name__
        raise DTypeError(f"{where}: path, the first argument, must be a str or a path; got {got}") from None
    if target.suffix != suffix:
        raise DataError(f"{where}: path must end in {suffix}; got {str(path)!r}")
    return target


def read_whole(where: str, target: Path) -> bytes:
    """Return the bytes of a file; DataError says that the system refuses."""
    try:
        return target.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {target}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _storable(where: str, arrays: Any) -> dict[str, Array]:
    """Return the arrays as they are stored: C-contiguous, in this machine's byte order."""
    if not isinstance(arrays, Mapping):
        state_dict = getattr(arrays, "state_dict", None)
        if not callable(state_dict):
            raise DTypeError(
                f"{where}: arrays must be a layer or a mapping of names to arrays; got {type(arrays).__name__}"
            )
        arrays = state_dict()
    if not arrays:
        raise StateDictError(f"{where}: arrays must hold at least one array; got an empty mapping")
    checked: dict[str, Array] = {}
    for name, value in arrays.items():
        if not isinstance(name, str):
            raise StateDictError(f"{where}: names must be str; got {type(name).__name__} {name!r}")
        if not name.isprintable() or not name or "/" in name or "\\" in name:
            raise StateDictError(
                f"{where}: a name must be printable, not empty, and without slashes, since it becomes that of a file "
                f"in the archive; got {name!r}"
            )
        array = arguments.as_array(where, name, value)
        if array.dtype.kind not in "biufc":
            raise DTypeError(f"{where}: {name} must hold numbers or booleans; got dtype {array.dtype}")
        checked[name] = np.array(array, _native(array.dtype), order="C")
    return checked


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")


def npy_bytes(array: Array) -> bytes:
    """Return an array of numbers as the bytes of a .npy file: C-contiguous, in this machine's byte order."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array(array, _native(array.dtype), order="C"), allow_pickle=False)
    return stream.getvalue()


def npy_array(begin: str, data: bytes) -> Array:
    """Return the array that the bytes of a .npy file say. `begin` names file and array for the message.

    `numpy.load` would make the array that the header promises before it looks whether the numbers are there.
    """
    stream = io.BytesIO(data)
    try:
        first = np.lib.format.read_magic(stream) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
    except (ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise DataError(f"{begin}: not an array as numpy.save writes: {str(error) or type(error).__name__}") from None
    if dtype.hasobject:
        raise DataError(f"{begin}: holds Python objects, which are pickled; pickles are not loaded, they can run code")
    if dtype.kind not in "biufc":
        raise DataError(f"{begin}: must hold numbers or booleans; got dtype {dtype}")
    start = stream.tell()
    size = dtype.itemsize * math.prod(shape)
    if min(shape, default=0) < 0 or size != len(data) - start:
        raise DataError(f"{begin}: shape {shape} of {dtype} takes {size} bytes; the file has {len(data) - start}")
    array: Array = np.ndarray(shape, dtype, data, start, order="F" if fortran_order else "C")
    return np.array(array, _native(dtype), order="C")
