"""Handwritten digits: the file of scikit-learn, images of one's own, shifts, and readers without a net."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from processes import ended

from rnn_numpy.errors import DataError, MissingExtraError
from rnn_numpy.tasks import digits
from rnn_numpy.tasks.digits import (
    Digits,
    load_digits,
    majority,
    nearest_mean,
    nearest_neighbours,
    read_images,
    shifted,
)

ROOT = Path(__file__).parents[2]


def test_the_real_digits() -> None:
    found = load_digits()
    assert found.images.shape == (1797, 8, 8) and found.images.dtype == np.float64
    assert (found.images.min(), found.images.max()) == (0.0, 1.0)
    assert np.array_equal(found.images * 16, np.round(found.images * 16))
    assert np.bincount(found.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert found.images[0, 0].tolist() == [0, 0, 5 / 16, 13 / 16, 9 / 16, 1 / 16, 0, 0]
    parts = found.split()
    assert [len(part) for part in parts] == [1200, 200, 397]
    assert np.array_equal(np.concatenate([part.images for part in parts]), found.images)
    assert len({part.digest for part in parts}) == 3
    assert load_digits().digest == found.digest != Digits(found.images, found.labels[::-1]).digest


def test_scikit_learn_is_not_imported() -> None:
    code = "import sys; from rnn_numpy.tasks.digits import load_digits; load_digits(); print('sklearn' in sys.modules)"
    assert ended([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True).stdout == b"False\n"


@pytest.mark.parametrize("found", [None, SimpleNamespace(submodule_search_locations=None)])
def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(
        MissingExtraError, match=r'^the set of handwritten digits needs sklearn, .*"rnn_numpy\[data\]"$'
    ):
        load_digits()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "digits.csv.gz: cannot be read: No such file or directory$"),
        (b"no gzip", "digits.csv.gz: cannot be read: Not a gzipped file "),
        (gzip.compress(b"1,2\n", mtime=0)[:-6], "digits.csv.gz: cannot be read: Compressed file ended "),
        (gzip.compress(b"1,two\n", mtime=0), "digits.csv.gz: cannot be read: "),
        (
            gzip.compress(b"1,2\n3,4\n", mtime=0),
            r"digits.csv.gz: expected a table of 1797 x 65 numbers; found \(2, 2\)$",
        ),
    ],
)
def test_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str) -> None:
    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    if content is not None:
        (folder / "digits.csv.gz").write_bytes(content)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=message):
        load_digits()


# Images of one's own ------------------------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 17, (3, 8, 8))


@pytest.mark.parametrize(
    ("array", "images"),
    [(PIXELS, PIXELS), (PIXELS.reshape(3, 64), PIXELS), (PIXELS.reshape(24, 8), PIXELS), (PIXELS[1], PIXELS[1:2])],
    ids=["(n, 8, 8)", "(n, 64)", "(8 n, 8)", "(8, 8)"],
)
def test_read_images(tmp_path: Path, array: np.ndarray, images: np.ndarray) -> None:
    np.save(tmp_path / "images.npy", array.astype(np.float32))
    assert np.array_equal(read_images(str(tmp_path / "images.npy")), images / 16)
    if array.ndim == 2:
        np.savetxt(tmp_path / "images.csv", array, fmt="%d", delimiter=",")
        assert np.array_equal(read_images(str(tmp_path / "images.csv")), images / 16)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (PIXELS[:, :7], r"images must have shape \(n, 64\), \(8 n, 8\) or \(n, 8, 8\); got \(3, 7, 8\)$"),
        (PIXELS[..., :7], r"got \(3, 8, 7\)$"),
        (PIXELS.reshape(12, 16), r"got \(12, 16\)$"),
        (PIXELS.reshape(24, 8)[:23], r"got \(23, 8\)$"),
        (PIXELS.reshape(6, 4, 8), r"got \(6, 4, 8\)$"),
        (PIXELS[0, 0], r"got \(8,\)$"),
        (PIXELS[:0], r"got \(0, 8, 8\)$"),
        (PIXELS * 2, "pixels must go from 0, white, to 16, black; these go from 0 to 32$"),
        (PIXELS - 1, "these go from -1 to 15$"),
        (PIXELS + np.nan, "these go from nan to nan$"),
        (PIXELS / 16, "the darkest pixel is 1; black is 16: multiply pixels from 0 to 1 by it$"),
        (PIXELS.astype(str), "the array must hold real numbers; got dtype "),
    ],
)
def test_no_images(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = tmp_path / "images.npy"
    np.save(path, array)
    with pytest.raises(DataError, match=f"^{path}: .*{message}"):
        read_images(str(path))


def test_no_file_of_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^photo.png: images come in a file that ends in .csv or .npy$"):
        read_images("photo.png")
    with pytest.raises(DataError, match="nowhere.npy: No such file or directory$"):
        read_images(str(tmp_path / "nowhere.npy"))
    with pytest.raises(DataError, match="nowhere.csv: No such file or directory$"):
        read_images(str(tmp_path / "nowhere.csv"))


def test_shifted_images_against_a_loop() -> None:
    steps = np.array([[1, 0], [0, -1], [-1, 1]])
    moved = shifted(PIXELS, steps)
    for image, (down, right), result in zip(PIXELS, steps, moved, strict=True):
        for row in range(8):
            for column in range(8):
                r, c = row - down, column - right
                expected = image[r, c] if 0 <= r < 8 and 0 <= c < 8 else 0
                assert result[row, column] == expected
    assert np.array_equal(shifted(PIXELS, np.zeros((3, 2), int)), PIXELS)


# Readers without a net ----------------------------------------------------------------------------------------------


def test_baselines_of_a_few_images() -> None:
    images = np.zeros((5, 8, 8))
    images[:, 0, 0] = [0.0, 0.1, 0.2, 0.8, 1.0]
    known = Digits(images, np.array([4, 4, 7, 7, 7]))
    asked = np.zeros((3, 8, 8))
    asked[:, 0, 0] = [0.05, 0.3, 0.9]
    assert majority(known, asked).tolist() == [7, 7, 7]
    assert nearest_mean(known, asked[[0, 2]]).tolist() == [4, 7]
    assert nearest_neighbours(known, asked, 1).tolist() == [4, 7, 7]
    assert nearest_neighbours(known, asked, 3).tolist() == [4, 4, 7]


def test_nearest_mean_skips_no_digit() -> None:
    train, _, test = load_digits().split()
    right = {
        read.__name__: int((read(train, test.images) == test.labels).sum())
        for read in (majority, nearest_mean, nearest_neighbours)
    }
    assert right["majority"] < 60 < 320 < right["nearest_mean"] < right["nearest_neighbours"] < 397
    assert digits.CLASSES == len(np.unique(nearest_mean(train, test.images)))
