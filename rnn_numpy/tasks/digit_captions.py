r"""Captions of images whose truth is known to the pixel: real handwritten digits, and where they stand.

A canvas of 30 x 30 pixels has 3 x 3 cells. One to three of scikit-learn's digits (`rnn_numpy.tasks.digits`) stand in
different cells, each moved by 0 to 2 pixels down and to the right; noise lies over all of it. The caption names them in
reading order: "seven top left two bottom right", a digit, its row and its column. Digits 0 to 1399 of the file are
drawn to train on, 1400 to 1796 are held out: each digit of a test has never been seen.

What a net attends to are 25 windows of 10 x 10 pixels, 5 pixels apart: window s = 5 i + j begins at pixel (5 i, 5 j),
and its centre is the corner of pixels (5 i + 5, 5 j + 5). It lies on a digit if it lies in the digit's 8 x 8 pixels or
on their edge. So it can be said whether attention is where it should be: its *mass* is the sum of alpha over the
windows that lie on a digit, at the step that names it; it *points* right if the largest alpha is one of them. Uniform
alpha has a mass of (13/9)^2 / 25 = 0.083 on average: over all cells and moves, 13/9 of five centres lie on a digit in
each direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import OptionError, ShapeError
from rnn_numpy.tasks.digits import SIDE, TRAINING, Digits, load_digits
from rnn_numpy.tasks.pairs import SymbolVocabulary, padded

Array = NDArray[Any]
Ids = NDArray[np.int64]
Caption = tuple[str, ...]

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")

CELL, CELLS = 10, 3  # pixels of a cell, cells of a row
CANVAS = CELL * CELLS
MOVES = CELL - SIDE  # the most pixels that a digit is moved
STRIDE = 5
WINDOWS = (CANVAS - CELL) // STRIDE + 1  # of a row
CENTRES = CELL // 2 + STRIDE * np.stack(np.divmod(np.arange(WINDOWS**2), WINDOWS), axis=1)  # (25, 2), down and right


def windows(images: ArrayLike) -> Array:
    """Return the windows of images: a memory to attend to.

    Parameters
    ----------
    images : ndarray, (N, 30, 30) or (30, 30)

    Returns
    -------
    memory : ndarray, (25, N, 100)
        In reading order, of the dtype of the images.

    Examples
    --------
    >>> image = np.arange(900).reshape(30, 30)
    >>> memory = windows(image)
    >>> memory.shape, memory[6, 0, :3], image[5, 5:8]
    ((25, 1, 100), array([155, 156, 157]), array([155, 156, 157]))
    """
    found = arguments.as_array("windows", "images", images)
    if found.ndim not in (2, 3) or found.shape[-2:] != (CANVAS, CANVAS):
        raise ShapeError(f"windows: images must have shape (N, 30, 30) or (30, 30); got {found.shape}")
    cut = sliding_window_view(found.reshape(-1, CANVAS, CANVAS), (CELL, CELL), axis=(1, 2))[:, ::STRIDE, ::STRIDE]
    return np.ascontiguousarray(cut.reshape(-1, WINDOWS**2, CELL * CELL).swapaxes(0, 1))


class CaptionBatch(NamedTuple):
    """What a captioner's `loss_and_grads` is called with.

    Attributes
    ----------
    memory : ndarray, (25, N, 100)
    target : int ndarray, (T, N)
        Words, then EOS, then PAD; T = 3 * digits + 1 of the image with most of them.
    target_lengths : int ndarray, (N,)
        With EOS.
    """

    memory: Array
    target: Ids
    target_lengths: Ids


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images, and what is on them; digits in reading order.

    Attributes
    ----------
    images : ndarray, (N, 30, 30)
        0 is white, 1 black, and noise.
    counts : int ndarray, (N,)
        Digits of each image.
    labels : int ndarray, (N, most)
        What they show; -1 where there are no more.
    corners : int ndarray, (N, most, 2)
        The first row and column of their 8 x 8 pixels; -1 where there are no more.
    """

    images: Array
    counts: Ids
    labels: Ids
    corners: Ids

    def __len__(self) -> int:
        """Return N."""
        return len(self.counts)

    @cached_property
    def captions(self) -> list[Caption]:
        """The words of each caption."""
        rows, columns = (self.corners[..., axis] // CELL for axis in (0, 1))
        return [
            tuple(
                word
                for k in range(count)
                for word in (DIGIT_WORDS[self.labels[n, k]], ROWS[rows[n, k]], COLUMNS[columns[n, k]])
            )
            for n, count in enumerate(self.counts)
        ]

    @cached_property
    def batch(self) -> CaptionBatch:
        """The windows and the captions' ids, to train on."""
        ids = [DigitCaptions.vocabulary.encode(words, end=True) for words in self.captions]
        return CaptionBatch(windows(self.images), *padded(ids))

    @cached_property
    def on_digit(self) -> NDArray[np.bool_]:
        """Which windows lie on the digit that is named at a step, (T, N, 25); none at steps that name no digit."""
        offsets = CENTRES - self.corners[:, :, None]  # (N, most, 25, 2)
        inside = ((offsets >= 0) & (offsets <= SIDE)).all(axis=-1)
        inside &= (np.arange(self.labels.shape[1]) < self.counts[:, None])[..., None]
        found = np.zeros((len(self.batch.target), *inside.shape[::2]), np.bool_)
        for k in range(self.counts.max()):
            found[3 * k] = inside[:, k]
        return found


class CaptionScore(NamedTuple):
    """How well images were described.

    Attributes
    ----------
    exact : float
        Share of the captions that are right, word by word.
    digit_words : float
        Share of the digits that are named: the word that is right stands where it should in the caption.
    """

    exact: float
    digit_words: float


class AttentionScore(NamedTuple):
    """Where attention is when a digit is named; means over all digits.

    Attributes
    ----------
    mass : float
        Sum of alpha over the windows that lie on the digit.
    pointing : float
        Share of the digits on which the window with the largest alpha lies, the first of equals.
    uniform : float
        The mass that equal alphas would have on these images.
    """

    mass: float
    pointing: float
    uniform: float


@dataclass(frozen=True)
class DigitCaptions:
    """Images of digits to describe; see the module.

    Parameters
    ----------
    most : int
        The most digits of an image, 1 to 9; 1 to `most` are equally likely.
    noise : float
        Standard deviation of what is added to each pixel.

    Examples
    --------
    >>> task = DigitCaptions()
    >>> scenes = task.scenes(2, rng=0)
    >>> [" ".join(words) for words in scenes.captions]
    ['zero top right one middle center four middle right', 'five top right eight bottom right']
    >>> memory, target, lengths = scenes.batch
    >>> memory.shape, target.T.tolist(), len(task.vocabulary)
    ((25, 2, 100), [[3, 13, 18, 4, 14, 17, 7, 14, 18, 2], [8, 13, 18, 11, 15, 18, 2, 0, 0, 0]], 19)
    >>> task.score(scenes, [scenes.captions[0], ("five", "top", "left")])
    CaptionScore(exact=0.5, digit_words=0.8)
    """

    most: int = 3
    noise: float = 0.05
    vocabulary: ClassVar[SymbolVocabulary] = SymbolVocabulary(DIGIT_WORDS + ROWS + COLUMNS)
    inputs: ClassVar[int] = CELL * CELL
    goal: ClassVar[float] = 0.78  # of `CaptionScore.exact`

    def __post_init__(self) -> None:
        arguments.positive_int("DigitCaptions", "most", self.most)
        if self.most > CELLS**2:
            raise OptionError(f"DigitCaptions: most must be at most 9, a digit in each cell; got {self.most}")
        arguments.not_negative("DigitCaptions", "noise", self.noise)

    @cached_property
    def digits(self) -> tuple[Digits, Digits]:
        """Those to train on, and those held out."""
        digits = load_digits()
        return digits[:TRAINING], digits[TRAINING:]

    def scenes(self, batch: int, rng: np.random.Generator | int | None = None, *, held_out: bool = False) -> Scenes:
        """Draw images of the digits to train on, or of those held out.

        Raises
        ------
        MissingExtraError, DataError
            The digits are not where scikit-learn keeps them, or it is not installed.
        """
        where = "DigitCaptions.scenes"
        N, rng = arguments.positive_int(where, "batch", batch), arguments.generator(where, rng)
        digits = self.digits[arguments.flag(where, "held_out", held_out)]
        counts = rng.integers(1, self.most + 1, size=N)
        there = np.arange(self.most) < counts[:, None]
        cells = rng.permuted(np.tile(np.arange(CELLS**2), (N, 1)), axis=1)[:, : self.most]
        cells = np.sort(np.where(there, cells, CELLS**2), axis=1)
        which = rng.integers(len(digits), size=(N, self.most))
        corners = CELL * np.stack(np.divmod(cells, CELLS), axis=-1) + rng.integers(MOVES + 1, size=(N, self.most, 2))
        images = np.zeros((N, CANVAS, CANVAS))
        for k in range(self.most):
            n = np.flatnonzero(there[:, k])
            rows, columns = (corners[n, k, axis, None] + np.arange(SIDE) for axis in (0, 1))
            images[n[:, None, None], rows[:, :, None], columns[:, None]] = digits.images[which[n, k]]
        images += self.noise * rng.normal(size=images.shape)
        labels = np.where(there, digits.labels[which], -1)
        return Scenes(images, counts, labels, np.where(there[..., None], corners, -1))

    def draw(self, batch: int, rng: np.random.Generator | int | None = None) -> CaptionBatch:
        """Draw images to train on, and their captions, as a model takes them."""
        return self.scenes(batch, rng).batch

    def held_out(self, batch: int, rng: np.random.Generator | int | None = None) -> CaptionBatch:
        """Draw images of the digits that are held out, and their captions."""
        return self.scenes(batch, rng, held_out=True).batch

    def score(self, scenes: Scenes, captions: list[Caption]) -> CaptionScore:
        """Score captions, words as `vocabulary.decode` returns them, one of each image."""
        if len(captions) != len(scenes):
            raise ShapeError(
                f"DigitCaptions.score: captions must be one of each image, N = {len(scenes)}; got {len(captions)}"
            )
        exact = named = 0
        for right, said in zip(scenes.captions, captions, strict=True):
            exact += right == tuple(said)
            named += sum(a == b for a, b in zip(right[::3], said[::3], strict=False))
        return CaptionScore(exact / len(scenes), named / int(scenes.counts.sum()))

    def attention(self, scenes: Scenes, alpha: ArrayLike) -> AttentionScore:
        """Measure where attention was when a decoder read the right captions, word after word.

        Parameters
        ----------
        scenes : Scenes
        alpha : ndarray, (T, N, 25)
            What each step gave to each window; step t has named target[t].
        """
        where, on_digit = "DigitCaptions.attention", scenes.on_digit
        weights = arguments.as_array(where, "alpha", alpha)
        arguments.shaped(where, "alpha", weights, "(T, N, 25)", on_digit.shape)
        named = on_digit.any(axis=-1)
        on, weights = on_digit[named], weights[named]
        points = on[np.arange(len(on)), weights.argmax(axis=1)]
        return AttentionScore(float((weights * on).sum(axis=1).mean()), float(points.mean()), float(on.mean()))

    # ------------------------------------------------------------------------------------------------------- baselines

    @property
    def majority(self) -> Caption:
        """The most frequent caption: the most frequent digit by itself, in any cell, of which the first is taken."""
        labels = self.digits[0].labels
        return (DIGIT_WORDS[int(np.bincount(labels).argmax())], ROWS[0], COLUMNS[0])

    def nearest(self, scenes: Scenes) -> list[Caption]:
        """Read images by the nearest digit to train on: what a reader reaches that is told all about the canvas.

        It knows the cells and the moves: of each cell that is not empty, it says what the digit to train on shows that
        is, at one of the nine places, at the least squared distance.
        """
        known = self.digits[0]
        flat = known.images.reshape(len(known), -1)
        squares = (flat * flat).sum(axis=1)
        cells = scenes.images.reshape(-1, CELLS, CELL, CELLS, CELL).swapaxes(2, 3)  # (N, row, column, 10, 10)
        # Beyond what noise is expected to be, half of the ink of the lightest digit.
        there = (cells * cells).sum(axis=(3, 4)) - (CELL * self.noise) ** 2 > squares.min() / 2
        patches = sliding_window_view(cells[there], (SIDE, SIDE), axis=(1, 2)).reshape(-1, (MOVES + 1) ** 2, SIDE**2)
        labels = np.array([known.labels[(squares - 2 * (p @ flat.T)).min(axis=0).argmin()] for p in patches], np.int64)
        captions: list[Caption] = [()] * len(scenes)
        for (n, row, column), label in zip(np.argwhere(there), labels, strict=True):
            captions[n] += (DIGIT_WORDS[label], ROWS[row], COLUMNS[column])
        return captions
