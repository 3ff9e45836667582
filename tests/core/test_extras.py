"""Data files inside of packages that are not imported."""

from __future__ import annotations

import sys

import pytest

from rnn_numpy.core.extras import package_folder
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
