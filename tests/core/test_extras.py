"""Packages that extras bring: imported where needed, or only looked into."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rnn_numpy.core.extras import optional_import, package_folder
from rnn_numpy.errors import MissingExtraError


def test_a_package_is_found_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    assert (package_folder("sklearn", "a test") / "datasets" / "data" / "digits.csv.gz").is_file()
    assert "sklearn" not in sys.modules


def test_a_package_that_is_not_there_is_said_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError) as caught:
        package_folder("sklearn", "this test")
    assert str(caught.value) == (
        'this test needs sklearn, which is not installed; install it with: pip install "rnn_numpy[data]"'
    )


def test_a_module_of_ours_that_misses_one_of_its_own_keeps_its_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        optional_import("half_installed", "a test")
    assert not isinstance(caught.value, MissingExtraError)
