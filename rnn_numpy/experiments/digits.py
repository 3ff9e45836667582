"""`rnn-numpy train digits`: many-to-one. A digit is read row by row, and named after its last row.

The net is a recurrent layer and a linear readout of its final state (`rnn_numpy.models.SequenceModel`), float32,
trained by Adam with a falling rate on batches drawn from the training part, some images moved by a pixel, all with
noise. The parameters kept are those with the lowest cross-entropy on the validation part; the test part is looked at
once, at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DataError
from rnn_numpy.experiments.experiment import Experiment, Planned, Run
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.models import SequenceModel
from rnn_numpy.tasks import digits
from rnn_numpy.tasks.digits import Digits
from rnn_numpy.training import Adam
from rnn_numpy.training.batches import Draws
from rnn_numpy.training.loop import train
from rnn_numpy.training.schedules import Cosine

Array = NDArray[Any]

CELLS = ("rnn-tanh", "rnn-relu", "lstm", "gru")
BASELINES = {
    "most frequent digit": digits.majority,
    "nearest class mean": digits.nearest_mean,
    "3 nearest neighbours": digits.nearest_neighbours,
}


@dataclass(frozen=True)
class DigitsOptions:
    """What is trained, and how.

    Parameters
    ----------
    cell : {"rnn-tanh", "rnn-relu", "lstm", "gru"}
    hidden, layers : int
        H, and the number of layers.
    directions : {1, 2}
        2 reads the rows from below as well.
    dropout : float
        Between layers.
    updates, batch : int
    lr, clip : float
        Of Adam, at the start: it falls along a cosine to 0. The norm of all gradients together is clipped to `clip`.
    moved : float
        Share of the training images that are moved, by at most a pixel down or up and a pixel to a side.
    noise : float
        Standard deviation of what is added to each pixel of a training image.
    seeds : int
        How many nets; they differ in their random draws.
    seed : int
        Of the first; the others have the numbers that follow.
    """

    cell: str = "gru"
    hidden: int = 64
    layers: int = 1
    directions: int = 2
    dropout: float = 0.0
    updates: int = 4000
    batch: int = 32
    lr: float = 5e-3
    clip: float = 1.0
    moved: float = 0.5
    noise: float = 0.2
    seeds: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        where = "DigitsOptions"
        arguments.one_of(where, "cell", self.cell, CELLS)
        arguments.one_of(where, "directions", self.directions, (1, 2))
        for name in ("hidden", "layers", "updates", "batch", "seeds"):
            arguments.positive_int(where, name, getattr(self, name))
        arguments.step_count(where, "seed", self.seed)
        for name in ("lr", "clip"):
            arguments.positive_number(where, name, getattr(self, name))
        arguments.not_negative(where, "noise", self.noise)
        for name in ("dropout", "moved"):
            arguments.probability(where, name, getattr(self, name))


@dataclass(frozen=True)
class DigitsResult:
    """How well digits are read that were not trained on.

    Attributes
    ----------
    options : DigitsOptions
    test : Digits
    baselines : mapping of str to float
        Share of the test digits that each reads right.
    runs : sequence of Run
        A net each.
    probabilities : ndarray, (nets, n, 10)
        What each net says of the test digits.
    """

    options: DigitsOptions
    test: Digits
    baselines: Mapping[str, float]
    runs: Sequence[Run]
    probabilities: Array

    @property
    def accuracies(self) -> list[float]:
        """Share of the test digits that each net reads right."""
        return [float((said.argmax(axis=1) == self.test.labels).mean()) for said in self.probabilities]

    @property
    def confusion(self) -> NDArray[np.int64]:
        """How often each digit (row) was read as each (column), (10, 10), by all nets together."""
        counts = np.zeros((digits.CLASSES, digits.CLASSES), np.int64)
        for said in self.probabilities:
            np.add.at(counts, (self.test.labels, said.argmax(axis=1)), 1)
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python objects that strict JSON can hold."""
        return {
            "what": {
                "accuracies": "share of the test digits that each net reads right",
                "confusion": "how often a digit (row) was read as one (column), by all nets together",
                "misread": "by the first net: number of the test digit, what it is, what was read, with which "
                "probability",
            },
            "accuracies": self.accuracies,
            "baselines": dict(self.baselines),
            "confusion": self.confusion.tolist(),
            "misread": [list(row) for row in self.misread],
        }

    @property
    def misread(self) -> list[tuple[int, int, int, float]]:
        """What the first net reads wrong: number of the digit, what it is, what was read, with which probability."""
        said = self.probabilities[0]
        read = said.argmax(axis=1)
        wrong = np.flatnonzero(read != self.test.labels)
        return [(int(i), int(self.test.labels[i]), int(read[i]), float(said[i, read[i]])) for i in wrong]


class DigitsExperiment(Experiment):
    """Nets that read handwritten digits; see the module."""

    name: ClassVar[str] = "digits"
    Options: ClassVar[type[Any]] = DigitsOptions
    inputs: ClassVar[str] = "numbers of test digits from 0 to 396, or files .csv or .npy of images with 8 x 8 pixels"
    options: DigitsOptions
    every = 100

    @cached_property
    def parts(self) -> tuple[Digits, Digits, Digits]:
        """The digits to train, to validate and to test."""
        return digits.load_digits().split()

    def from_data(self) -> Mapping[str, Any]:
        """Return a digest: to predict, nothing of the data is needed."""
        return {"sha256": self.parts[0].digest}

    def make_models(self) -> Mapping[str, Any]:
        """Return a net for each seed."""
        options = self.options
        models = {}
        for seed in self._seeds:
            rng = np.random.default_rng([seed, 0])
            rnn = KINDS[options.cell](
                digits.SIDE,
                options.hidden,
                options.layers,
                bidirectional=options.directions == 2,
                dropout=options.dropout,
                dtype=np.float32,
                rng=rng,
            )
            models[f"seed {seed}"] = SequenceModel(rnn, digits.CLASSES, loss="cross_entropy", rng=rng)
        return models

    @property
    def _seeds(self) -> range:
        return range(self.options.seed, self.options.seed + self.options.seeds)

    def trainings(self) -> Sequence[Planned]:
        """Return a training for each seed."""
        options = self.options
        return [
            Planned(
                label,
                train(
                    model,
                    Draws(self._draw, rng=np.random.default_rng([seed, 1])),
                    Adam(model.params, options.lr),
                    schedule=Cosine(options.lr, options.updates),
                    clip=options.clip,
                ),
                options.updates,
            )
            for seed, (label, model) in zip(self._seeds, self.models.items(), strict=True)
        ]

    def _draw(self, rng: np.random.Generator) -> tuple[Array, Array]:
        training = self.parts[0]
        size = self.options.batch
        drawn = training[rng.integers(len(training), size=size)]
        steps = rng.integers(-1, 2, (size, 2)) * (rng.random((size, 1)) < self.options.moved)
        images = digits.shifted(drawn.images, steps)
        return _sequences(images + self.options.noise * rng.standard_normal(images.shape)), drawn.labels

    def validate(self, index: int) -> float:
        """Return the cross-entropy on the validation part."""
        model = list(self.models.values())[index]
        return float(model.loss_of(_sequences(self.parts[1].images), self.parts[1].labels))

    def result(self, runs: Sequence[Run]) -> DigitsResult:
        """Read the test digits."""
        training, validation, test = self.parts
        known = Digits(
            np.concatenate([training.images, validation.images]), np.concatenate([training.labels, validation.labels])
        )
        baselines = {name: float((read(known, test.images) == test.labels).mean()) for name, read in BASELINES.items()}
        said = np.stack([_probabilities(model, test.images) for model in self.models.values()])
        return DigitsResult(self.options, test, baselines, runs, said)

    def predict(self, inputs: Sequence[str]) -> str:
        """Say what the first net reads: in files of images (`tasks.digits.read_images`), in test digits by number.

        The test digits have the numbers 0 to 396. Without inputs it reads all of them, and tells those it reads wrong.
        """
        model = next(iter(self.models.values()))
        if not inputs:
            return _all_of(self.parts[2], model)
        lines = ["read  probability  next         image"]
        for given in inputs:
            names, images, labels = self._images(given)
            for name, said, label in zip(names, _probabilities(model, images), labels, strict=True):
                first, second = (int(k) for k in np.argsort(-said, kind="stable")[:2])
                verdict = "" if label in (None, first) else f", which is a {label}"
                lines.append(
                    f"{first:>4}  {_percent(said[first]):>11}  {second} {_percent(said[second]):>9}  {name}{verdict}"
                )
        return "\n".join(lines) + "\n"

    def _images(self, given: str) -> tuple[list[str], Array, list[int | None]]:
        """Return names, images and, where they are known, labels."""
        if not re.fullmatch(r"-?\d+", given):
            images = digits.read_images(given)
            several = [f"{given}, image {k}" for k in range(1, len(images) + 1)]
            return several if len(images) > 1 else [given], images, [None] * len(images)
        test = self.parts[2]
        if not 0 <= int(given[:10]) < len(test):
            raise DataError(
                f"{given}: test digits have the numbers 0 to {len(test) - 1}; an image is a file .csv or .npy"
            )
        chosen = test[int(given) : int(given) + 1]
        return [f"test digit {int(given)}"], chosen.images, [int(chosen.labels[0])]


def _all_of(test: Digits, model: SequenceModel) -> str:
    said = _probabilities(model, test.images)
    read = said.argmax(axis=1)
    wrong = np.flatnonzero(read != test.labels)
    lines = [
        f"{len(test) - len(wrong)} of {len(test)} test digits are read right: {_percent(1 - len(wrong) / len(test))}."
    ]
    lines += [
        f"test digit {i:3} is a {test.labels[i]}, read as {read[i]} with a probability of {_percent(said[i, read[i]])}"
        for i in wrong
    ]
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _sequences(images: Array) -> Array:
    """Return images as sequences of rows, (T, N, D), in the precision in which the nets are trained."""
    return np.ascontiguousarray(images.swapaxes(0, 1), dtype=np.float32)


def _probabilities(model: SequenceModel, images: Array) -> Array:
    """Return the softmax of what a net says of images, (n, 10), in float64."""
    logits = model(_sequences(images))[0].astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares
