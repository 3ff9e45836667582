"""Handwritten digits, read row by row: 1797 real ones, 8 x 8 pixels in 17 shades, which come with scikit-learn.

They are the test part of E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning
Repository (1998). The file is read where scikit-learn lies; the package itself, which is slow to load, is not imported.
Read row by row, a digit is a sequence of T = 8 rows of D = 8 pixels.

The split is by place in the file: the first 1400 to train, of which the last 200 validate, and the last 397 to test.
The file does not name its writers, but they come one after the other: what is tested was mostly written by others than
those trained on. It is harder than a random split: three nearest neighbours read 97.0 % of it right, of random ones
98.8 % on average.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.extras import package_folder
from rnn_numpy.errors import DataError
from rnn_numpy.tasks.files import load_array, read_csv

Array = NDArray[Any]
Ints = NDArray[np.int64]

SIDE, CLASSES = 8, 10
DIGITS, TRAINING, VALIDATION = 1797, 1400, 200  # the validation part is the end of the training part
SHADES = 16.0  # the darkest


@dataclass(frozen=True)
class Digits:
    """Images and what they show.

    Attributes
    ----------
    images : ndarray, (n, 8, 8)
        From 0, white, to 1; float64.
    labels : int ndarray, (n,)

    Examples
    --------
    >>> digits = load_digits()
    >>> train, validation, test = digits.split()
    >>> len(train), len(validation), len(test), test.labels[:5]
    (1200, 200, 397, array([2, 8, 2, 2, 5]))
    """

    images: Array
    labels: Ints

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, which: Any) -> Digits:
        return Digits(self.images[which], self.labels[which])

    def split(self) -> tuple[Digits, Digits, Digits]:
        """Return the parts to train, to validate and to test, in the order of the file."""
        begin = TRAINING - VALIDATION
        return self[:begin], self[begin:TRAINING], self[TRAINING:]

    @property
    def digest(self) -> str:
        """SHA-256 of images and labels, which tells whether they are the same."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()


def load_digits() -> Digits:
    """Load scikit-learn's digits from its folder.

    Raises
    ------
    MissingExtraError
        scikit-learn is not installed.
    DataError
        Its file is missing or not as expected.
    """
    path = package_folder("sklearn", "the set of handwritten digits") / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",")
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if table.shape != (DIGITS, SIDE * SIDE + 1):
        raise DataError(f"{path}: expected a table of {DIGITS} x {SIDE * SIDE + 1} numbers; found {table.shape}")
    return Digits(table[:, :-1].reshape(-1, SIDE, SIDE) / SHADES, table[:, -1].astype(np.int64))


def read_images(path: str) -> Array:
    """Read images of digits from a file; return them as `Digits` has them, (n, 8, 8).

    Parameters
    ----------
    path : str
        A .csv file, each row an image of 64 pixels, row after row, or each 8 rows one of 8 pixels a row; or a .npy file
        of shape (8, 8), (n, 8, 8) or (n, 64). Pixels go from 0, white, to 16.

    Raises
    ------
    DataError
        The file cannot be read, has another shape, or pixels out of range.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        values: Array = read_csv(path, ["all"]).values
    elif suffix == ".npy":
        values = load_array(path)
    else:
        raise DataError(f"{path}: images come in a file that ends in .csv or .npy")
    rows = values.ndim >= 2 and values.shape[-1] == SIDE and values.size % (SIDE * SIDE) == 0
    flat = values.ndim == 2 and values.shape[-1] == SIDE * SIDE
    if not values.size or not (flat or (rows and (values.ndim == 2 or values.shape[1:] == (SIDE, SIDE)))):
        raise DataError(f"{path}: images must have shape (n, 64), (8 n, 8) or (n, 8, 8); got {values.shape}")
    images = values.reshape(-1, SIDE, SIDE).astype(np.float64)
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= SHADES):  # NaN neither
        raise DataError(f"{path}: pixels must go from 0, white, to 16, black; these go from {low:g} to {high:g}")
    if high <= 1:
        raise DataError(f"{path}: the darkest pixel is {high:g}; black is 16: multiply pixels from 0 to 1 by it")
    return images / SHADES


def shifted(images: Array, steps: NDArray[np.integer[Any]]) -> Array:
    """Move each image by whole pixels; what enters is white, what leaves is lost.

    Parameters
    ----------
    images : ndarray, (n, 8, 8)
    steps : int ndarray, (n, 2)
        Down and to the right, from -1 to 1.

    Examples
    --------
    >>> image = np.eye(8)[None]
    >>> np.array_equal(shifted(image, np.array([[1, 0]]))[0], np.eye(8, k=-1))
    True
    """
    framed = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows, columns = (1 - steps[:, axis, None] + np.arange(SIDE) for axis in (0, 1))
    moved: Array = framed[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


# ------------------------------------------------------------------------------------------------------------ baselines


def majority(train: Digits, images: Array) -> Ints:
    """Return the most frequent training label, for every image."""
    return np.full(len(images), np.bincount(train.labels, minlength=CLASSES).argmax())


def nearest_mean(train: Digits, images: Array) -> Ints:
    """Return the label whose mean training image is closest to each image, (n,)."""
    known = np.unique(train.labels)
    means = np.stack([train.images[train.labels == label].mean(axis=0) for label in known])
    labels: Ints = known[_distances(images, means).argmin(axis=1)]
    return labels


def nearest_neighbours(train: Digits, images: Array, k: int = 3) -> Ints:
    """Return what most of the k nearest training images show; of a tie the smallest label, (n,)."""
    near = np.argsort(_distances(images, train.images), axis=1, kind="stable")[:, :k]
    votes = (train.labels[near][:, :, None] == np.arange(CLASSES)).sum(axis=1)
    labels: Ints = votes.argmax(axis=1)
    return labels


def _distances(images: Array, others: Array) -> Array:
    """Return squared Euclidean distances, (n, m)."""
    a, b = images.reshape(len(images), -1), others.reshape(len(others), -1)
    distances: Array = (a * a).sum(axis=1)[:, None] - 2 * a @ b.T + (b * b).sum(axis=1)
    return distances
