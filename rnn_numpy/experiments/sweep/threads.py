"""Threads of the matrix library that NumPy calls."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator

from rnn_numpy.core.extras import optional_import


@contextlib.contextmanager
def one_blas_thread(needed: bool = True) -> Iterator[None]:
    """Let matrix products use one thread for a while.

    Products as small as those of a net of 64 units gain nothing from a second thread; and on a busy machine threads
    wait for each other at each product. A run of `rnn-numpy gradflow` that takes 5 s with one thread took 22 to 31 s
    with two on two cores that others used as well. Where OPENBLAS_NUM_THREADS or OMP_NUM_THREADS is set, the user has
    decided, and nothing changes; likewise, unless it is `needed`, where threadpoolctl is not installed.
    """
    decided = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"} & set(os.environ)
    if decided or (not needed and importlib.util.find_spec("threadpoolctl") is None):
        yield
        return
    threadpoolctl = optional_import("threadpoolctl", "limiting the threads of matrix products")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
