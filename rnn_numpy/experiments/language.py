"""`rnn-numpy train lm`: many-to-many, aligned. After each character of a real text, which one is the next?

The net is an embedding, a recurrent layer and a readout (`rnn_numpy.models.LanguageModel`), float32, trained by AdamW
to a falling rate. The text lies in N columns, which are read side by side in windows of T characters: the state goes on
from window to window, the gradient does not. What that cuts off is measured afterwards, on a longer stretch of text, by
the table of (t, k) (`rnn_numpy.lab.decompose`). The parameters kept are those with the fewest bits per character on the
validation part; the test part is read once, in one pass from a state of zeros.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.numbers import finite
from rnn_numpy.errors import DataError, NonFiniteError, OptionError
from rnn_numpy.experiments.experiment import Experiment, Planned, Run
from rnn_numpy.lab.decomposition import decompose
from rnn_numpy.layers.kinds import KINDS
from rnn_numpy.layers.losses import cross_entropy_loss
from rnn_numpy.models import LanguageModel
from rnn_numpy.tasks.text import Parts, Vocabulary, load_text, split
from rnn_numpy.tasks.text_baselines import baselines
from rnn_numpy.training import AdamW
from rnn_numpy.training.batches import Windows
from rnn_numpy.training.loop import train
from rnn_numpy.training.schedules import Linear

Ids = NDArray[np.int64]

CELLS = ("rnn-tanh", "rnn-relu", "lstm", "gru")
LABEL = "model"
END = 0.03  # of the learning rate
VALIDATED = 50_000  # characters of the validation part that are read, at most
PROMPT, TEMPERATURE = "The ", 0.7  # of samples


@dataclass(frozen=True)
class LanguageOptions:
    """What is trained, and how.

    Parameters
    ----------
    data : str
        "pydoc" or a file that ends in .txt, as `load_text` takes them.
    cell : {"rnn-tanh", "rnn-relu", "lstm", "gru"}
    embedding, hidden, layers : int
        E, H, and the number of layers.
    tied : bool
        Whether the readout's weight is the embedding's; needs E = H.
    dropout : float
        Between layers.
    batch, length : int
        N columns, and T, the characters of a window.
    jitter : float
        Of the windows' lengths, as `Windows` has it, in characters.
    updates : int
    lr, decay, clip : float
        Of AdamW: the learning rate at the start, which falls along a line to 3 %, and the weight decay. The norm of all
        gradients together is clipped to `clip`.
    characters : int
        Of a sample.
    seed : int
        Of all random draws.
    """

    data: str = "pydoc"
    cell: str = "gru"
    embedding: int = 32
    hidden: int = 256
    layers: int = 1
    tied: bool = False
    dropout: float = 0.0
    batch: int = 16
    length: int = 64
    jitter: float = 0.0
    updates: int = 4500
    lr: float = 4e-3
    decay: float = 0.3
    clip: float = 5.0
    characters: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        where = "LanguageOptions"
        arguments.one_of(where, "cell", self.cell, CELLS)
        for name in ("embedding", "hidden", "layers", "batch", "length", "updates"):
            arguments.positive_int(where, name, getattr(self, name))
        for name in ("characters", "seed"):
            arguments.step_count(where, name, getattr(self, name))
        for name in ("lr", "clip"):
            arguments.positive_number(where, name, getattr(self, name))
        for name in ("decay", "jitter"):
            arguments.not_negative(where, name, getattr(self, name))
        arguments.probability(where, "dropout", self.dropout)
        if arguments.flag(where, "tied", self.tied) and self.embedding != self.hidden:
            raise OptionError(
                f"{where}: tied needs an embedding as wide as the state; got embedding {self.embedding} and hidden "
                f"{self.hidden}"
            )


@dataclass(frozen=True)
class Truncations:
    """What truncated back-propagation leaves of a gradient, on a stretch of `steps` characters.

    Attributes
    ----------
    steps : int
    lengths : tuple of int
        K, rising, below `steps`.
    chunk, window : tuple of float
        |G_K - G| / |G| of the last recurrent layer's parameters, G being the gradient of the whole stretch: where the
        text is cut at multiples of K, as it is in training, and where each loss goes back K steps.
    angles : tuple of float
        Degrees between G_K and G, of chunks.
    """

    steps: int
    lengths: tuple[int, ...]
    chunk: tuple[float, ...]
    window: tuple[float, ...]
    angles: tuple[float, ...]


NOTHING = Truncations(0, (), (), (), ())


@dataclass(frozen=True)
class LanguageResult:
    """How well a text is foretold that was not trained on.

    Attributes
    ----------
    options : LanguageOptions
    size : int
        V, different characters.
    lengths : Parts of int
        Characters to train, to validate, to test.
    parameters : int
        Of the net.
    bits : float
        Per character, of the test part; NaN where the training has diverged, and then there is no sample and no table.
    baselines : mapping of str to float
        The same, by models without a net.
    truncations : Truncations
    prompt, sample : str
        What the net was given, and how it goes on.
    run : Run
    """

    options: LanguageOptions
    size: int
    lengths: Parts
    parameters: int
    bits: float
    baselines: Mapping[str, float]
    truncations: Truncations
    prompt: str
    sample: str
    run: Run

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as plain Python objects that strict JSON can hold."""
        return {
            "what": {
                "bits": "per character of the test part",
                "baselines": "the same, by models without a net that have read the training part",
                "truncations": "what cutting the gradient to K steps changes, relative to its norm, on a stretch of "
                "the test part: cut at multiples of K (chunk), or K steps behind each loss (window); angles in degrees",
            },
            "bits": finite(self.bits),
            "baselines": dict(self.baselines),
            "characters": {"vocabulary": self.size, **self.lengths._asdict()},
            "parameters": self.parameters,
            "truncations": asdict(self.truncations),
            "prompt": self.prompt,
            "sample": self.sample,
        }


class LanguageExperiment(Experiment):
    """A net that foretells characters; see the module."""

    name: ClassVar[str] = "lm"
    Options: ClassVar[type[Any]] = LanguageOptions
    inputs: ClassVar[str] = "the beginning of a text, in quotes, which is continued; a sample without"
    options: LanguageOptions
    every = 500

    @cached_property
    def text(self) -> Parts:
        """The text to train, to validate and to test."""
        return split(load_text(self.options.data))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All characters of the text."""
        return Vocabulary(self.kept["characters"])

    @cached_property
    def ids(self) -> Parts:
        """The parts as ids."""
        return Parts(*map(self.vocabulary.encode, self.text))

    def from_data(self) -> Mapping[str, Any]:
        """Return the characters, how a sample begins, and a digest of the text."""
        whole = "".join(self.text)
        beginning = PROMPT if set(PROMPT) <= set(whole) else whole[0]
        return {
            "characters": Vocabulary.of(whole).characters,
            "prompt": beginning,
            "sha256": hashlib.sha256(whole.encode()).hexdigest(),
        }

    def make_models(self) -> Mapping[str, Any]:
        """Return the net."""
        options = self.options
        rng = np.random.default_rng([options.seed, 0])
        rnn = KINDS[options.cell](
            options.embedding,
            options.hidden,
            options.layers,
            dropout=options.dropout,
            dtype=np.float32,
            rng=rng,
        )
        return {LABEL: LanguageModel(rnn, len(self.vocabulary), tied=options.tied, rng=rng)}

    @property
    def model(self) -> LanguageModel:
        """The net."""
        found: LanguageModel = self.models[LABEL]
        return found

    def trainings(self) -> Sequence[Planned]:
        """Return the one training."""
        options = self.options
        if len(self.ids.train) <= options.batch * options.length:
            raise DataError(
                f"{options.data}: the training part has {len(self.ids.train)} characters, too few for {options.batch} "
                f"columns of a window of {options.length}; take fewer columns or shorter windows"
            )
        windows = Windows(
            self.ids.train,
            options.batch,
            options.length,
            jitter=options.jitter,
            rng=np.random.default_rng([options.seed, 1]),
        )
        training = train(
            self.model,
            windows,
            AdamW(self.model.params, options.lr, weight_decay=options.decay),
            schedule=Linear(options.lr, total=options.updates, end_factor=END),
            clip=options.clip,
            stateful=True,
        )
        return [Planned(LABEL, training, options.updates)]

    def validate(self, index: int) -> float:
        """Return the bits per character of the validation part, of a very long one of its beginning."""
        return self.model.bits(self.ids.valid[:VALIDATED])

    def result(self, runs: Sequence[Run]) -> LanguageResult:
        """Read the test part."""
        text, ids, model = self.text, self.ids, self.model
        bits = model.bits(ids.test)
        try:
            sample = self._continued(self.kept["prompt"])
        except NonFiniteError:
            bits, sample = math.nan, ""
        return LanguageResult(
            options=self.options,
            size=len(self.vocabulary),
            lengths=Parts(*map(len, text)),
            parameters=model.params.flat.size,
            bits=bits,
            baselines=baselines(text.train, text.test, self.vocabulary),
            truncations=truncations(model, ids.test, self.options.length) if math.isfinite(bits) else NOTHING,
            prompt=self.kept["prompt"],
            sample=sample,
            run=runs[0],
        )

    def _continued(self, prompt: str) -> str:
        rng = np.random.default_rng([self.options.seed, 2])
        ids = self.model.generate(
            self.vocabulary.encode(prompt), self.options.characters, temperature=TEMPERATURE, rng=rng
        )
        return self.vocabulary.decode(ids)

    def predict(self, inputs: Sequence[str]) -> str:
        """Continue each input; without one, what the sample of the report begins with."""
        texts = []
        for prompt in inputs or [self.kept["prompt"]]:
            try:
                texts.append(f"{prompt}{self._continued(prompt or chr(10))}\n")
            except NonFiniteError:
                raise DataError(
                    "what the net says is not finite: its training has diverged; take a lower rate"
                ) from None
            except OptionError as error:
                raise DataError(f"{prompt!r}: {str(error).partition(': ')[2]}") from None
        return "\n".join(texts)


def truncations(model: LanguageModel, ids: Ids, length: int) -> Truncations:
    """Return what truncation at K = 1, 2, 4, ... and at `length` cuts, on a stretch of at most four times `length`.

    The stretch begins from the state that as many characters before it leave; the loss is the mean over it.
    """
    model = model.astype(np.float64)
    T = min(4 * length, (len(ids) - 1) // 2)
    _, state = model(ids[:T])
    output, _, trace = model.rnn.forward(model.embedding(ids[T : 2 * T]), state, training=False)
    logits, readout_trace = model.readout.forward(output)
    _, dlogits = cross_entropy_loss(logits, ids[T + 1 : 2 * T + 1])
    # Of the last layer alone: what a cut above has lost before it enters a lower layer is not in that layer's table.
    last = f"l{model.rnn.num_layers - 1}"
    table = decompose(model.rnn, trace, model.readout.backward(readout_trace, dlogits).dx, name=last)
    lengths = sorted(K for K in {length, *(2**k for k in range(T.bit_length()))} if K < T)
    chunks = [table.truncated(K, "chunk") for K in lengths]
    return Truncations(
        steps=T,
        lengths=tuple(lengths),
        chunk=tuple(cut.bias() for cut in chunks),
        window=tuple(table.truncated(K).bias() for K in lengths),
        angles=tuple(math.degrees(math.acos(min(1.0, cut.cosine()))) for cut in chunks),
    )
