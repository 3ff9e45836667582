"""One thread for small products, and as many as before afterwards."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from rnn_numpy.experiments.sweep.threads import one_blas_thread


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_one_thread_and_then_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with threadpool_limits(2, user_api="blas"):
        assert blas_threads() == {2}
        with pytest.raises(KeyboardInterrupt), one_blas_thread():
            assert blas_threads() == {1}
            raise KeyboardInterrupt
        assert blas_threads() == {2}


def test_what_the_user_decided_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threadpool_limits(2, user_api="blas"), one_blas_thread():
        assert blas_threads() == {2}
