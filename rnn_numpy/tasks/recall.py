r"""Tasks that nothing but memory solves, each with the loss of a predictor that has none, in closed form.

All baselines follow from one fact: the best constant prediction of a target y has the mean squared error Var y, and, of
a class drawn with probabilities p, the cross-entropy -sum p ln p. What a network without memory of the relevant inputs
sees is independent of the target, so that it cannot do better than the best constant.

Adding [1]_, in the form of [2]_. Two numbers are marked, one in each half of the sequence, and their sum is asked for:
y = a + b with a, b independent and uniform in [0, 1]. The best constant is E y = 1, and

    baseline = Var a + Var b = 1/12 + 1/12 = 1/6                  of the half-sum (a + b)/2, as in [3]_, 1/24

Copy memory [2]_. Ten symbols of eight are shown; they must be repeated `delay` steps later, after a signal, and "blank"
be said at all other steps. Who knows when, but not what, is right for certain at delay + 10 steps and guesses among
eight at ten:

    baseline = 10 ln 8 / (delay + 20)                             a mean over all delay + 20 steps

Temporal order [1]_. Among random distractors stand two symbols (or three), each X or Y; their order is the class. All
2^m orders are equally likely:

    baseline = ln 4 for two, ln 8 for three

Parity. Is the number of ones among T random bits odd? Given all bits but one, that is still a toss of a coin:

    baseline = ln 2

A task counts as solved below a mean squared error of 0.01 (adding; a quarter of it for the half-sum), the bound that is
usual for it, and below a tenth of the baseline where the loss is a cross-entropy, a bound of our own.

References
----------
.. [1] S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9 (1997): experiments 4 and 6.
.. [2] M. Arjovsky, A. Shah, Y. Bengio, "Unitary evolution recurrent neural networks", ICML (2016).
.. [3] R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML (2013): the
   half-sum, and the places of the symbols of temporal order, in its code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rnn_numpy.core import arguments
from rnn_numpy.errors import OptionError
from rnn_numpy.tasks.task import Batch, SequenceTask, one_hot, sizes

SOLVED_MSE = 0.01

SYMBOLS, SHOWN = 8, 10  # of copy memory
DISTRACTORS = 4  # of temporal order
# The tenths of the sequence in which the symbols of temporal order stand.
PLACES = {2: (1, 5), 3: (1, 3, 6)}


@dataclass(frozen=True)
class Adding(SequenceTask):
    """Add the two marked ones of T numbers.

    x[..., 0] is uniform in [0, 1]; x[..., 1] is 1 at two steps, one in each half, and 0 elsewhere. The target (N, 1) is
    the sum of the two numbers so marked.

    Parameters
    ----------
    length : int
        T, at least 2.
    half_sum : bool
        Half of the sum is asked for.

    Examples
    --------
    >>> task = Adding(5)
    >>> x, target, _ = task.draw(1, np.random.default_rng(0))
    >>> x[:, 0].T.round(2)
    array([[0.27, 0.04, 0.02, 0.81, 0.91],
           [0.  , 1.  , 0.  , 1.  , 0.  ]])
    >>> target.round(2), round(task.baseline, 4)
    (array([[0.85]]), 0.1667)
    """

    length: int
    half_sum: bool = False
    inputs: ClassVar[int] = 2
    outputs: ClassVar[int] = 1
    loss: ClassVar[str] = "mse"
    reads: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        arguments.positive_int("Adding", "length", self.length, 2)
        arguments.flag("Adding", "half_sum", self.half_sum)

    @property
    def baseline(self) -> float:
        """1/6, the variance of the sum; 1/24 of the half-sum."""
        return 1 / 24 if self.half_sum else 1 / 6

    @property
    def goal(self) -> float:
        """0.01; of the half-sum 0.0025."""
        return SOLVED_MSE / (4 if self.half_sum else 1)

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw sequences; see the class."""
        batch, rng = sizes("Adding.draw", batch, rng)
        middle, every = self.length // 2, np.arange(batch)
        first, second = rng.integers(middle, size=batch), rng.integers(middle, self.length, size=batch)
        x = np.zeros((self.length, batch, 2))
        x[..., 0] = rng.random((self.length, batch))
        x[first, every, 1] = x[second, every, 1] = 1
        total = x[first, every, 0] + x[second, every, 0]
        return Batch(x, (total / 2 if self.half_sum else total)[:, None])


@dataclass(frozen=True)
class CopyMemory(SequenceTask):
    """Repeat ten symbols after a delay.

    x is one-hot, of ten kinds: the eight symbols, 8 for blank, 9 for "now". It shows ten symbols, delay - 1 blanks,
    "now", and ten blanks; the target (T, N), T = delay + 20, is blank (8) but for the last ten steps, which repeat the
    symbols in their order.

    Parameters
    ----------
    delay : int
        Steps from the last symbol to the signal, at least 1.

    Examples
    --------
    >>> task = CopyMemory(3)
    >>> x, target, _ = task.draw(1, np.random.default_rng(0))
    >>> x[:, 0].argmax(axis=-1)
    array([6, 5, 4, 2, 2, 0, 0, 0, 1, 6, 8, 8, 9, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8])
    >>> target[:, 0]
    array([8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 6, 5, 4, 2, 2, 0, 0, 0, 1, 6])
    >>> round(task.baseline, 4)
    0.9041
    """

    delay: int
    inputs: ClassVar[int] = SYMBOLS + 2
    outputs: ClassVar[int] = SYMBOLS + 1
    loss: ClassVar[str] = "cross_entropy"
    reads: ClassVar[str] = "all"

    def __post_init__(self) -> None:
        arguments.positive_int("CopyMemory", "delay", self.delay)

    @property
    def steps(self) -> int:
        """delay + 20."""
        return self.delay + 2 * SHOWN

    @property
    def baseline(self) -> float:
        """10 ln 8 / (delay + 20): knowing when, and guessing what."""
        return SHOWN * math.log(SYMBOLS) / self.steps

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw sequences; see the class."""
        batch, rng = sizes("CopyMemory.draw", batch, rng)
        blank, now = SYMBOLS, SYMBOLS + 1
        shown = rng.integers(SYMBOLS, size=(SHOWN, batch))
        symbols = np.full((self.steps, batch), blank)
        symbols[:SHOWN] = shown
        symbols[SHOWN + self.delay - 1] = now
        target = np.full((self.steps, batch), blank)
        target[-SHOWN:] = shown
        return Batch(one_hot(symbols, self.inputs), target)


@dataclass(frozen=True)
class TemporalOrder(SequenceTask):
    """Say in which order X and Y have come.

    x is one-hot, of six kinds: X, Y, and four distractors, drawn at random for all steps but two (or three). These, at
    a random step each of the second and the sixth tenth (of three: the second, fourth and seventh tenth) of the
    sequence, are X or Y. The target (N,) is the class: the symbols read as binary digits, X = 0 and Y = 1, the first
    one leading.

    Parameters
    ----------
    length : int
        T, at least 10.
    symbols : {2, 3}

    Examples
    --------
    >>> task = TemporalOrder(10)
    >>> x, target, _ = task.draw(1, np.random.default_rng(0))
    >>> "".join("XYabcd"[k] for k in x[:, 0].argmax(axis=-1)), target
    ('dYcbbYaaad', array([3]))
    >>> round(task.baseline, 4)
    1.3863
    """

    length: int
    symbols: int = 2
    inputs: ClassVar[int] = 2 + DISTRACTORS
    loss: ClassVar[str] = "cross_entropy"
    reads: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        arguments.positive_int("TemporalOrder", "length", self.length, 10)
        if arguments.positive_int("TemporalOrder", "symbols", self.symbols) not in PLACES:
            raise OptionError(f"TemporalOrder: symbols must be 2 or 3; got {self.symbols!r}")

    @property
    def outputs(self) -> int:
        """4 classes, or 8."""
        return int(2**self.symbols)

    @property
    def baseline(self) -> float:
        """ln 4, or ln 8: all orders are equally likely."""
        return self.symbols * math.log(2)

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw sequences; see the class."""
        batch, rng = sizes("TemporalOrder.draw", batch, rng)
        kinds = 2 + rng.integers(DISTRACTORS, size=(self.length, batch))
        target = np.zeros(batch, np.intp)
        for tenth in PLACES[self.symbols]:
            low, high = tenth * self.length // 10, (tenth + 1) * self.length // 10
            symbol = rng.integers(2, size=batch)
            kinds[rng.integers(low, high, size=batch), np.arange(batch)] = symbol
            target = 2 * target + symbol
        return Batch(one_hot(kinds, self.inputs), target)


@dataclass(frozen=True)
class Parity(SequenceTask):
    """Say whether the number of ones is odd.

    x (T, N, 1) is 1 for a bit that is set and -1 for one that is not; the target (N,) is 1 where an odd number is set.

    Parameters
    ----------
    length : int
        T, at least 2: the parity of one bit needs no memory.

    Examples
    --------
    >>> x, target, _ = Parity(4).draw(1, np.random.default_rng(0))
    >>> x.ravel(), target
    (array([ 1.,  1.,  1., -1.]), array([1]))
    """

    length: int
    inputs: ClassVar[int] = 1
    outputs: ClassVar[int] = 2
    loss: ClassVar[str] = "cross_entropy"
    reads: ClassVar[str] = "last"

    def __post_init__(self) -> None:
        arguments.positive_int("Parity", "length", self.length, 2)

    @property
    def baseline(self) -> float:
        """ln 2: a coin."""
        return math.log(2)

    def draw(self, batch: int, rng: np.random.Generator) -> Batch:
        """Draw sequences; see the class."""
        batch, rng = sizes("Parity.draw", batch, rng)
        bits = rng.integers(2, size=(self.length, batch))
        return Batch(2.0 * bits[:, :, None] - 1, bits.sum(axis=0) % 2)
