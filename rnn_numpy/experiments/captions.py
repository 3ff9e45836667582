"""`rnn-numpy train captions`: one-to-many. A picture of one to three real digits is described, word by word.

The net is a `Captioner`, float32, trained by Adam with a rate that falls along a cosine, on pictures that are drawn
anew for each update. The parameters kept are those with the lowest loss on pictures of training digits that were drawn
once; the test has digits that training has never seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.errors import DataError
from rnn_numpy.experiments.experiment import Experiment, Planned, Run
from rnn_numpy.models.captioner import Captioner
from rnn_numpy.models.decoding import decode_greedy
from rnn_numpy.tasks.digit_captions import AttentionScore, CaptionBatch, CaptionScore, DigitCaptions, Scenes
from rnn_numpy.training import Adam
from rnn_numpy.training.batches import Draws
from rnn_numpy.training.loop import train
from rnn_numpy.training.schedules import Cosine

Array = NDArray[Any]

CELLS = ("lstm", "gru", "rnn-tanh")
VALIDATED, TESTED, LONGEST, TOGETHER = 500, 2000, 12, 64
TEST_SEED, VALIDATION_SEED = 123, 321  # of the pictures, whatever is trained


@dataclass(frozen=True)
class CaptionOptions:
    """What is trained, and how.

    Parameters
    ----------
    cell : {"lstm", "gru", "rnn-tanh"}
    hidden, memory, embedding : int
        H of the decoder, M of the windows' features and of the score, E of the words.
    penalty : float
        Of the doubly stochastic penalty, lambda.
    updates, batch : int
    lr, clip : float
        Of Adam, at the start: it falls along a cosine to 0. The norm of all gradients together is clipped to `clip`.
    seed : int
    """

    cell: str = "lstm"
    hidden: int = 128
    memory: int = 64
    embedding: int = 32
    penalty: float = 0.0
    updates: int = 6000
    batch: int = 64
    lr: float = 4e-3
    clip: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        where = "CaptionOptions"
        arguments.one_of(where, "cell", self.cell, CELLS)
        for name in ("hidden", "memory", "embedding", "updates", "batch"):
            arguments.positive_int(where, name, getattr(self, name))
        arguments.step_count(where, "seed", self.seed)
        for name in ("lr", "clip"):
            arguments.positive_number(where, name, getattr(self, name))
        arguments.not_negative(where, "penalty", self.penalty)


@dataclass(frozen=True)
class CaptionResult:
    """How well pictures of digits are described that were not trained on.

    Attributes
    ----------
    options : CaptionOptions
    scores : mapping of str to CaptionScore
        "most frequent caption", "nearest digit, told the layout", "net".
    attention : AttentionScore
    run : Run
    scenes : Scenes
        Test pictures.
    said : sequence of tuple of str
        What the net says of them.
    alpha : ndarray, (n, 25), of each of the first pictures
        The weights of each word said.
    """

    options: CaptionOptions
    scores: Mapping[str, CaptionScore]
    attention: AttentionScore
    run: Run
    scenes: Scenes
    said: Sequence[tuple[str, ...]]
    alpha: Sequence[Array]
    parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python objects that strict JSON can hold."""
        return {
            "what": {
                "scores": "shares of the captions that are right word by word, and of the digits that are named",
                "attention": "mean over digits, at the word that names one: weight on its windows; share of digits on "
                "which the largest weight lies; the weight there if all were equal",
            },
            "parameters": self.parameters,
            "scores": {name: score._asdict() for name, score in self.scores.items()},
            "attention": self.attention._asdict(),
        }


class CaptionExperiment(Experiment):
    """A net that describes pictures of digits; see the module."""

    name: ClassVar[str] = "captions"
    Options: ClassVar[type[Any]] = CaptionOptions
    inputs: ClassVar[str] = f"numbers of test pictures from 0 to {TESTED - 1}"
    options: CaptionOptions
    every = 250

    @cached_property
    def task(self) -> DigitCaptions:
        """The task, which reads scikit-learn's digits when they are first drawn."""
        return DigitCaptions()

    @cached_property
    def test(self) -> Scenes:
        """The test pictures."""
        return self.task.scenes(TESTED, TEST_SEED, held_out=True)

    def from_data(self) -> Mapping[str, Any]:
        """Return the number of digits that pictures are drawn from: their file is pinned by its reader."""
        return {"digits": [len(part) for part in self.task.digits]}

    def make_models(self) -> Mapping[str, Captioner]:
        """Return the net."""
        options = self.options
        return {
            "net": Captioner(
                DigitCaptions.inputs,
                25,
                len(DigitCaptions.vocabulary),
                hidden_size=options.hidden,
                memory_size=options.memory,
                embedding_dim=options.embedding,
                cell=options.cell,
                penalty=options.penalty,
                dtype=np.float32,
                rng=np.random.default_rng([options.seed, 0]),
            )
        }

    @property
    def model(self) -> Captioner:
        """The net."""
        found: Captioner = self.models["net"]
        return found

    def trainings(self) -> Sequence[Planned]:
        """Return the one training."""
        options = self.options
        training = train(
            self.model,
            Draws(self._draw, rng=np.random.default_rng([options.seed, 1])),
            Adam(self.model.params, options.lr),
            schedule=Cosine(options.lr, options.updates),
            clip=options.clip,
        )
        return [Planned("net", training, options.updates)]

    def _draw(self, rng: np.random.Generator) -> CaptionBatch:
        return _single(self.task.draw(self.options.batch, rng))

    @cached_property
    def _validation(self) -> CaptionBatch:
        return _single(self.task.draw(VALIDATED, VALIDATION_SEED))

    def validate(self, index: int) -> float:
        """Return the loss on pictures of training digits."""
        return float(self.model.loss_of(*self._validation))

    def result(self, runs: Sequence[Run]) -> CaptionResult:
        """Describe the test pictures."""
        task, test, model = self.task, self.test, self.model
        batch = _single(test.batch)
        _, alpha, _, _ = model.read(*batch)
        written = decode_greedy(model, batch.memory, max_length=LONGEST, together=TOGETHER)
        said = [tuple(task.vocabulary.decode(one.tokens)) for one in written]
        scores = {
            "most frequent caption": task.score(test, [task.majority] * len(test)),
            "nearest digit, told the layout": task.score(test, task.nearest(test)),
            "net": task.score(test, said),
        }
        shown = [np.asarray(one.alpha) for one in written[:20]]
        attention = task.attention(test, alpha)
        return CaptionResult(self.options, scores, attention, runs[0], test, said, shown, model.params.flat.size)

    def predict(self, inputs: Sequence[str]) -> str:
        """Describe test pictures by number, and say where the net looked."""
        if not inputs:
            raise DataError(f"say which picture to describe: {self.inputs}")
        lines = []
        for given in inputs:
            if not given.isdecimal() or int(given[:10]) >= len(self.test):
                raise DataError(f"{given}: test pictures have the numbers 0 to {len(self.test) - 1}")
            number = int(given)
            memory = _single(self.test.batch).memory[:, number : number + 1]
            (one,) = decode_greedy(self.model, np.ascontiguousarray(memory), max_length=LONGEST)
            said = self.task.vocabulary.decode(one.tokens)
            right = self.test.captions[number]
            verdict = "right" if tuple(said) == right else f"is: {' '.join(right)}"
            lines.append(f"picture {number}: {' '.join(said)} ({100 * np.exp(one.total):.1f} %; {verdict})")
            for word, row in zip([*said, "end"], np.asarray(one.alpha), strict=False):
                place = int(row.argmax())
                where = f"window {place // 5 + 1} down, {place % 5 + 1} to the right"
                lines.append(f"  {word:7} looks most at {where}: {100 * row[place]:.0f} %")
        return "\n".join(lines) + "\n"


def _single(batch: CaptionBatch) -> CaptionBatch:
    """Return a batch with its windows in the precision in which the net is trained."""
    return batch._replace(memory=batch.memory.astype(np.float32))
