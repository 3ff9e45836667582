"""A folder in which a long pass has its whole arrays: a run that was killed goes on from it.

Arrays of T rows are .npy files in which blocks are written as they come; the place (see `rnn_numpy.engine.keeping`),
and what is carried from block to block or summed up, is one small file, written at once, at most every `SECONDS`. A
block that was done after the last of these is done again, with the same result.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.files import Claim
from rnn_numpy.core.storage import load_npz, save_npz
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.keeping import FORWARD_DONE, InMemory, Place
from rnn_numpy.errors import DataError, DTypeError, OptionError

Array = NDArray[Any]
SECONDS = 1.0


class InFolder(InMemory):
    """Everything is in a folder; `call` is what two runs must have in common to be one.

    Raises
    ------
    OptionError
        The folder has the progress of another call.
    DataError
        Another process has the folder, or it cannot be made, or holds a file that is none of ours.
    """

    def __init__(self, where: str, folder: Any, call: int) -> None:
        super().__init__()
        if not isinstance(folder, str | os.PathLike):
            raise DTypeError(f"{where}: folder must be a str or a path; got {type(folder).__name__}")
        if not os.fspath(folder):
            raise OptionError(f"{where}: folder must not be empty; Path('.') is the current one")
        self.folder, self._saved, self._call = Path(folder), time.monotonic(), call
        self._file = self.folder / "progress.npz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{where}: folder {self.folder} cannot be made: {error.strerror}") from None
        try:
            self._claim = Claim.of(self.folder)  # lives as long as the trace does
        except BlockingIOError:
            raise DataError(
                f"{where}: folder {self.folder}: another process is running a pass in it, or holds its trace; wait for "
                "that one, or name another folder"
            ) from None
        except OSError as error:
            raise DataError(f"{where}: folder {self.folder} cannot be opened: {error.strerror}") from None
        if not self._file.exists():
            return
        self.arrays = load_npz(self._file)
        try:
            place = json.loads(self.arrays.pop("place").tobytes())
            phase, section, blocks = place["place"]
            self.words, self.about = str(place["words"]), place["about"]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{where}: {self._file} is not the progress of a forward pass with folder=...") from None
        if place["call"] != call:
            raise OptionError(
                f"{where}: folder {self.folder} has the progress of another call ({self.words}): x, parameters, masks "
                "or options differ. Name another folder, or remove this one"
            )
        self.found = phase, section, blocks

    def begin_backward(self, parts: Iterable[Any]) -> None:
        """Go on with the pass that is there if it was asked for the same, else begin anew."""
        about = digest(parts)
        if self.found > FORWARD_DONE and self.about != about:
            self.end()
        self.about = about

    def new(
        self, name: str, batch: Batch, rows: int, width: int, dtype: np.dtype[Any], columns: bool, phase: int = 0
    ) -> Array:
        """Return an array in a file, the one that is there where the pass goes on."""
        shape = (rows, width, batch.N) if columns else (rows, batch.N, width)
        path = self.folder / f"{name}.npy"
        goes_on = self.found > (phase, 0, 0) and path.exists()
        try:
            if not goes_on:
                path.unlink(missing_ok=True)  # what an earlier pass has returned stays as it is
            stored = np.lib.format.open_memmap(path, "r+" if goes_on else "w+", dtype, shape)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be opened: {error}") from None
        if stored.shape != shape or stored.dtype != dtype:
            raise DataError(f"{path}: must hold {dtype} of shape {shape}; it has {stored.dtype} of {stored.shape}")
        array = np.asarray(stored)
        return array.swapaxes(1, 2) if columns else array

    def save(self, place: Place, words: str, carried: Callable[[], dict[str, Array]], now: bool = False) -> None:
        """Write the place, where the last time is a while ago."""
        if not now and time.monotonic() - self._saved < SECONDS:
            return
        known = {"call": self._call, "about": self.about, "place": place, "words": words}
        text = json.dumps(known).encode()
        save_npz(self._file, {"place": np.frombuffer(text, np.uint8), **carried()})
        self._saved, self.words = time.monotonic(), words


def digest(parts: Iterable[Any]) -> int:
    """Return a checksum of arrays, of None, and of what `repr` tells apart."""
    found = 0
    for part in parts:
        if isinstance(part, np.ndarray):
            # Some rows at a time: x may be larger than memory.
            found = zlib.crc32(repr((part.shape, part.dtype.str)).encode(), found)
            rows = max(1, 2**20 // max(1, part[:1].nbytes))
            for start in range(0, len(part), rows):
                found = zlib.crc32(np.ascontiguousarray(part[start : start + rows]).view(np.uint8).data, found)
        else:
            found = zlib.crc32(repr(part).encode(), found)
    return found
