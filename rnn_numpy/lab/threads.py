"""Threads of the matrix library that NumPy calls."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# OpenBLAS gives its functions a prefix and a suffix that tell its builds apart: those in NumPy's wheels, and plain
# ones.
_NAMES = [(f"{prefix}openblas_", suffix) for prefix in ("scipy_", "") for suffix in ("64_", "")]


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let matrix products use one thread for a while, where NumPy brings its own OpenBLAS; elsewhere do nothing.

    Products as small as those of a net of 64 units gain nothing from a second thread; and on a busy machine threads
    wait for each other at each product. A run of `rnn-numpy gradflow` that takes 5 s with one thread took 22 to 31 s
    with two on two cores that others used as well. Where OPENBLAS_NUM_THREADS or OMP_NUM_THREADS is set, the user has
    decided.

    Examples
    --------
    >>> with one_blas_thread():
    ...     product = np.ones((2, 3)) @ np.ones((3, 2))
    """
    library = None if {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & set(os.environ) else _openblas()
    if library is None:
        yield
        return
    get_threads, set_threads = library
    before = get_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


def _openblas() -> tuple[Any, Any] | None:
    """Return the functions that get and set the number of threads of the OpenBLAS in NumPy's wheel, if it is there."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))  # NumPy has loaded it: this is the same one, not a second
            except OSError:
                continue
            for start, end in _NAMES:
                get_threads = getattr(library, f"{start}get_num_threads{end}", None)
                set_threads = getattr(library, f"{start}set_num_threads{end}", None)
                if get_threads is not None and set_threads is not None:
                    return get_threads, set_threads
    return None
