"""Large arrays whose memory is used again once nobody can read them any more.

A training step needs the same few large arrays as the step before. Taken from the operating system each time, their
pages are mapped and zeroed anew, which costs up to half of a step's time (figures in benchmarks/README.md); so the
blocks behind them are kept here. A block is free when its reference count says that no array views it; NumPy arrays,
however they are sliced, reshaped or exported, hold a reference to the block they live in, so nothing that can still be
read is handed out twice.

Arrays begin at multiples of `ALIGNED` bytes, where malloc's begin 16 after one: vector instructions then never load
across two cache lines, which takes a small operation up to 1.7 times as long.

Up to `MOST` blocks, together up to `LIMIT` bytes, are kept; what is larger comes and goes as ordinary arrays do.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LIMIT = 512 * 2**20  # bytes
MOST = 64  # blocks: a search for a free one takes microseconds
SMALLEST = 2**15  # bytes; below, malloc itself reuses memory without returning pages
ALIGNED = 64  # bytes: a cache line, and the widest vector
ALIGNING = 2**12  # bytes from which on an array is aligned

POISON = float(np.uint64(0x7FF8DEAD00000000).view(np.float64))  # a NaN with bits of its own, in any dtype

_poisoned = 0  # contexts that last, in all threads
_blocks: list[NDArray[np.uint8]] = []
_lock = threading.RLock()


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an uninitialised C-contiguous array, as np.empty does.

    >>> array = empty((100, 100), np.dtype(np.float64))
    >>> row = array[3]
    >>> del array
    >>> np.shares_memory(row, empty((100, 100), np.dtype(np.float64)))  # `row` still reads its block
    False
    """
    size = math.prod(shape) * dtype.itemsize
    if size < ALIGNING:
        array: Array = np.empty(shape, dtype)
    else:
        if size < SMALLEST or size > LIMIT or not COUNTED:
            block = np.empty(size + ALIGNED, np.uint8)
        else:
            with _lock:
                block = _free_block(size + ALIGNED)
        start = -block.__array_interface__["data"][0] % ALIGNED
        array = np.ndarray(shape, dtype, block, start)  # in half the time of slice, view and shape
    if _poisoned:
        array.fill(complex(POISON, POISON) if array.dtype.kind == "c" else POISON)
    return array


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of zeros; otherwise as `empty`."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def together(arrays: Mapping[Any, Array]) -> tuple[Array, dict[Any, Array]]:
    """Return uninitialised arrays like these, of one dtype, each in its memory order, in a block of their own, and the
    block as one vector; it is the `base` of all.
    """
    dtype = next((array.dtype for array in arrays.values()), np.dtype(float))
    unit, starts, size = ALIGNED // dtype.itemsize, list[int](), 0
    for array in arrays.values():
        starts.append(size)
        size += -(-array.size // unit) * unit
    block = np.empty(size * dtype.itemsize + ALIGNED, np.uint8)
    first = -block.__array_interface__["data"][0] % ALIGNED
    whole = block[first : first + size * dtype.itemsize].view(dtype)
    found: dict[Any, Array] = {}
    for (name, array), start in zip(arrays.items(), starts, strict=True):
        order = np.argsort([-stride for stride in array.strides], kind="stable")
        laid_out = whole[start : start + array.size].reshape([array.shape[axis] for axis in order])
        found[name] = laid_out.transpose(np.argsort(order))
    return whole, found


def is_poisoned() -> bool:
    """Whether `poisoned` lasts in some thread."""
    return _poisoned > 0


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Fill what `empty` hands out with NaN while the context lasts: what a formula forgets to write then shows.

    >>> with poisoned():
    ...     empty((2,), np.dtype(np.float64))
    array([nan, nan])
    """
    global _poisoned
    with _lock:
        _poisoned += 1
    try:
        yield
    finally:
        with _lock:
            _poisoned -= 1


def is_poison(array: Array) -> NDArray[np.bool_]:
    """Return which entries still are what `poisoned` has filled them with, not a NaN that was computed."""
    parts = (array.real, array.imag) if array.dtype.kind == "c" else (array,)
    bits, filled = f"u{parts[0].itemsize}", np.array(POISON).astype(parts[0].dtype)
    found: NDArray[np.bool_] = np.any([part.view(bits) == filled.view(bits) for part in parts], axis=0)
    return found


def release() -> None:
    """Give up all blocks that are kept: free ones at once, others when their last array goes."""
    with _lock:
        _blocks.clear()


def _free_block(size: int) -> NDArray[np.uint8]:
    """Return a block of at least `size` bytes that no array views; a new one where there is none. Needs the lock."""
    for index in range(len(_blocks)):
        # Not a much larger one: that would be missing where it is needed.
        if size <= _blocks[index].size <= 2 * size and _references(_blocks, index) == _IDLE:
            return _blocks[index]
    block = np.empty(size, np.uint8)
    _blocks.append(block)
    kept = sum(block.size for block in _blocks)
    while kept > LIMIT or len(_blocks) > MOST:
        # The oldest goes; if it is in use, it lives on as long as its arrays do.
        kept -= _blocks.pop(0).size
    return block


def _references(blocks: list[NDArray[np.uint8]], index: int) -> int:
    """Return the reference count of a block. No variable holds it here, so that no debugger can add to the count."""
    return sys.getrefcount(blocks[index])


def _new_lock() -> None:
    # A child that was forked while another thread held the lock would wait for it for ever.
    global _lock
    _lock = threading.RLock()


# Reference counts decide on CPython with its global lock alone; elsewhere every array is an ordinary one.
COUNTED = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
_IDLE = _references([np.empty(1, np.uint8)], 0) if COUNTED else 0
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def machine_memory() -> int | None:
    """Return the bytes of memory that there are for this process: of the machine, or of its control group; or None."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(name, encoding="ascii") as file:
            found.append(int(file.read()))  # "max", which is no number, where there is no limit
    return min(found)
