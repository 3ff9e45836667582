"""One thread for small products, and as many as before afterwards."""

from __future__ import annotations

import pytest

from rnn_numpy.lab import threads
from rnn_numpy.lab.threads import one_blas_thread


@pytest.fixture(autouse=True)
def user_has_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


class Library:
    """Stands in for OpenBLAS, so that the test holds for any build of NumPy."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get(self) -> int:
        return self.count

    def set(self, count: int) -> None:
        self.count = count


def test_one_thread_and_then_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(4)
    monkeypatch.setattr(threads, "_openblas", lambda: (library.get, library.set))
    with pytest.raises(KeyboardInterrupt), one_blas_thread():
        assert library.count == 1
        raise KeyboardInterrupt
    assert library.count == 4


def test_the_real_library_if_numpy_brings_one() -> None:
    library = threads._openblas()
    if library is not None:
        before = library[0]()
        with one_blas_thread():
            assert library[0]() == 1
        assert library[0]() == before >= 1


def test_what_the_user_decided_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(3)
    monkeypatch.setattr(threads, "_openblas", lambda: (library.get, library.set))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    with one_blas_thread():
        assert library.count == 3


def test_without_openblas_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(threads.np, "__file__", f"{tmp_path}/numpy/__init__.py")
    assert threads._openblas() is None
    with one_blas_thread():
        pass


def test_a_file_that_is_no_library_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path)) / "numpy.libs"
    folder.mkdir()
    (folder / "libopenblas.so").write_text("not a library")
    monkeypatch.setattr(threads.np, "__file__", f"{tmp_path}/numpy/__init__.py")
    assert threads._openblas() is None
