r"""Scheduled sampling, update by update: at update i the decoder reads the right token with probability eps_i, its own
one otherwise.

    linear            eps_i = max(least, first - slope i)
    exponential       eps_i = k^i                            0 < k < 1
    inverse sigmoid   eps_i = k / (k + exp(i / k))           k >= 1

These are those of Bengio et al. [1]_, section 2.4. What is drawn comes from generators whose states a checkpoint keeps,
so that such a training, too, is taken up again bit for bit.

References
----------
.. [1] S. Bengio et al., "Scheduled sampling for sequence prediction with recurrent neural networks", NIPS (2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.models.encoder_decoder import EncoderDecoder
from rnn_numpy.training.batches import Batch
from rnn_numpy.training.saved import called, checked_state, load_generator, state_of, whole_number


@dataclass(frozen=True)
class LinearDecay:
    """max(least, first - slope i).

    >>> [LinearDecay(0.25)(i) for i in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """

    slope: float
    first: float = 1.0
    least: float = 0.0

    def __post_init__(self) -> None:
        arguments.not_negative("LinearDecay", "slope", self.slope)
        for name in ("first", "least"):
            arguments.probability("LinearDecay", name, getattr(self, name))
        if self.least > self.first:
            raise OptionError(f"LinearDecay: least must be at most first = {self.first}; got {self.least}")

    def __call__(self, i: int) -> float:
        """Return the probability of the right token at update i = 0, 1, ..."""
        return max(self.least, self.first - self.slope * i)


@dataclass(frozen=True)
class ExponentialDecay:
    """k^i.

    >>> [ExponentialDecay(0.5)(i) for i in range(3)]
    [1.0, 0.5, 0.25]
    """

    k: float

    def __post_init__(self) -> None:
        arguments.probability("ExponentialDecay", "k", self.k)

    def __call__(self, i: int) -> float:
        """Return the probability of the right token at update i = 0, 1, ..."""
        return float(self.k**i)


@dataclass(frozen=True)
class InverseSigmoidDecay:
    """k / (k + exp(i / k)): long near 1, half at i = k log k, then falling.

    >>> [round(InverseSigmoidDecay(10.0)(i), 4) for i in (0, 10, 23, 100, 100_000)]
    [0.9091, 0.7863, 0.5006, 0.0005, 0.0]
    """

    k: float

    def __post_init__(self) -> None:
        if arguments.positive_number("InverseSigmoidDecay", "k", self.k) < 1:
            raise OptionError(f"InverseSigmoidDecay: k must be at least 1; got {self.k}")

    def __call__(self, i: int) -> float:
        """Return the probability of the right token at update i = 0, 1, ..."""
        share = self.k * math.exp(-i / self.k)  # exp(i / k) would overflow
        return share / (share + 1)


class ScheduledSampling(Iterator[Batch]):
    """Batches for an `EncoderDecoder`, each with inputs of which some are the model's own tokens.

    Parameters
    ----------
    model : EncoderDecoder
        The one that is trained: it is rolled out, as it then is, when a batch is asked for.
    batches : iterator of (source, source_lengths, target, target_lengths)
        `LikeLength`, or `Pairs.batches`.
    decay : callable
        From the number of the batch, 0, 1, ..., to the probability of the right token: `LinearDecay`,
        `ExponentialDecay`, `InverseSigmoidDecay`, or a function.
    by, greedy
        As for `EncoderDecoder.scheduled`.
    rng : numpy.random.Generator, int or None

    Attributes
    ----------
    drawn : int
        Batches so far.
    epoch : int
        That of the batches.
    rng : numpy.random.Generator

    Examples
    --------
    >>> from rnn_numpy import GRU, Adam
    >>> from rnn_numpy.layers.attention_decoder import AttentionDecoder
    >>> from rnn_numpy.training import LikeLength, train
    >>> model = EncoderDecoder(GRU(4, 4, rng=0), AttentionDecoder(4, 4, 4, rng=1), 5, 5, rng=2)
    >>> words, ends = np.array([[3, 4, 3], [4, 3, 0]]), np.array([[3, 4, 3], [4, 3, 2], [2, 2, 0]])
    >>> pairs = LikeLength((words, [2, 2, 1]), (ends, [3, 3, 2]), batch_size=3, rng=3)
    >>> mixed = ScheduledSampling(model, pairs, LinearDecay(0.01), rng=4)
    >>> training = train(model, mixed, Adam(model.params, 0.01))
    >>> [next(training).number for _ in range(3)], mixed.drawn
    ([1, 2, 3], 3)
    """

    def __init__(
        self,
        model: EncoderDecoder,
        batches: Any,
        decay: Callable[[int], float],
        *,
        by: str = "step",
        greedy: bool = False,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        where = type(self).__name__
        if not isinstance(model, EncoderDecoder):
            raise DTypeError(f"{where}: model must be an EncoderDecoder; got {type(model).__name__}")
        if not callable(decay):
            raise DTypeError(f"{where}: decay must be callable, with the number of a batch; got {decay!r}")
        arguments.one_of(where, "by", by, ("step", "sequence"))
        self.model, self.batches, self.decay = model, batches, decay
        self.by, self.greedy = by, arguments.flag(where, "greedy", greedy)
        self.rng = arguments.generator(where, rng)
        self.drawn = 0

    @property
    def epoch(self) -> int:
        """The epoch of the batch that came last."""
        return int(getattr(self.batches, "epoch", 0))

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self.batches)

    def __next__(self) -> Batch:
        batch = tuple(next(self.batches))
        right = arguments.probability(type(self).__name__, "decay(i)", self.decay(self.drawn))
        mixed = self.model.scheduled(*batch, probability=1 - right, rng=self.rng, by=self.by, greedy=self.greedy)
        self.drawn += 1
        return (*batch, mixed)

    def in_order(self) -> Iterator[Batch]:
        """Go through all samples once, with the right tokens as inputs: for `evaluate`."""
        yield from self.batches.in_order()

    def state_dict(self) -> dict[str, Any]:
        """Return where it stands: the number of batches, the generator, and where the batches stand."""
        return {
            "kind": "ScheduledSampling",
            "decay": called(self.decay),
            "by": self.by,
            "greedy": self.greedy,
            "drawn": self.drawn,
            "rng": state_of(self.rng),
            "batches": self.batches.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another one stood, which has the same data and options; nothing is changed where it has not."""
        where = f"{type(self).__name__}.load_state_dict"
        same = {"kind": "ScheduledSampling", "decay": called(self.decay), "by": self.by, "greedy": self.greedy}
        found = checked_state(where, state, same, ("drawn", "rng", "batches"))
        drawn = whole_number(where, "drawn", found["drawn"])
        self.batches.load_state_dict(found["batches"])
        load_generator(where, "rng", self.rng, found["rng"])
        self.drawn = drawn

    def __repr__(self) -> str:
        return f"ScheduledSampling: {self.decay!r} by {self.by}, of {self.batches!r}"
