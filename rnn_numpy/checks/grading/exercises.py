"""What is asked of a student: one step of a backward pass, or all of it, with the arguments of the textbook.

The right answers are the textbook's, also those of one step: it is a sequence of T = 1 to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.grading.slips import ATTENTION, CROSS_ENTROPY, GRU, LSTM, RNN, Slips
from rnn_numpy.layers import textbook as _textbook

Array = NDArray[Any]

textbook: Any = _textbook  # which has no annotations
Sizes = Mapping[str, int]

# All that one exercise has are different; N is smallest, so that dW_ih has all of da in it.
GENERAL: tuple[Sizes, ...] = (
    {"T": 5, "N": 2, "D": 3, "H": 4, "S": 5, "M": 4, "V": 6},
    {"T": 4, "N": 3, "D": 6, "H": 5, "S": 4, "M": 5, "V": 7},
)
WEIGHTS = {"dW_ih": "GH D", "dW_hh": "GH H", "db_ih": "GH", "db_hh": "GH"}


@dataclass(frozen=True)
class Exercise:
    """One thing to write.

    Parameters
    ----------
    name : str
    arguments : tuple of str
        Of the student's function, in order.
    results : mapping of str to str
        What it returns, with the sizes' letters.
    right : callable
        The textbook's function.
    slips : Slips
        What people write in place of its lines.
    draw : callable
        Maps sizes and a generator to the textbook's arguments.
    gates : int
        G of GH.
    step : bool
        Whether it is one step: T = 1, and the student's arrays have no axis of time.
    taken : callable
        Maps the textbook's arguments to the student's.
    """

    name: str
    arguments: tuple[str, ...]
    results: Mapping[str, str]
    right: Callable[..., Any]
    slips: Slips
    draw: Callable[[Sizes, np.random.Generator], tuple[Any, ...]]
    gates: int = 1
    step: bool = False
    taken: Callable[..., tuple[Any, ...]] = lambda *arguments: arguments

    def sizes(self, given: Sizes) -> dict[str, int]:
        """Return the sizes that this exercise has, T = 1 in a step."""
        letters = set("".join(self.results.values()).replace(" ", "")) - {"G"}
        if not self.step and self.gates and "D" in letters:
            letters.add("T")
        return {letter: given[letter] for letter in sorted(letters, key="TNDHSMV".index)}

    def drawn(self, sizes: Sizes, seed: int) -> tuple[Any, ...]:
        """Return arguments for the textbook's function."""
        given = {**sizes, "T": 1} if self.step else sizes
        return self.draw(given, np.random.default_rng([seed, *sizes.values()]))

    def shape(self, result: str, sizes: Sizes) -> tuple[int, ...]:
        """Return the shape that a result must have."""
        sizes = {**sizes, "GH": self.gates * sizes.get("H", 0)}
        return tuple(sizes[letters] for letters in self.results[result].split())

    def letters(self, result: str) -> str:
        """Return that shape in letters.

        Examples
        --------
        >>> EXERCISES["lstm_backward"].letters("dW_hh")
        '(4 H, H)'
        """
        told = [
            word.replace("GH", f"{self.gates} H" if self.gates > 1 else "H") for word in self.results[result].split()
        ]
        return f"({', '.join(told)}{',' if len(told) == 1 else ''})"

    def cut(self, results: Any) -> list[Any]:
        """Return what the textbook's function returned, as a list of what the student's returns."""
        found = list(results) if isinstance(results, tuple) else [results]
        if self.step:
            found[0] = found[0][0]
        return found


# ------------------------------------------------------------------------------------------------ arguments


def _weights(sizes: Sizes, rng: np.random.Generator, gates: int) -> tuple[Array, Array, Array, Array]:
    D, H = sizes["D"], sizes["H"]
    return tuple(0.7 * rng.normal(size=shape) for shape in ((gates * H, D), (gates * H, H), gates * H, gates * H))  # type: ignore[return-value]


def _states(sizes: Sizes, rng: np.random.Generator, count: int) -> list[Array]:
    return [rng.normal(size=(sizes["N"], sizes["H"])) for _ in range(count)]


def _sequence(sizes: Sizes, rng: np.random.Generator) -> tuple[Array, Array]:
    T, N, D, H = (sizes[letter] for letter in "TNDH")
    return rng.normal(size=(T, N, D)), rng.normal(size=(T, N, H))


def _rnn(sizes: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    (x, doutput), (h_0, dh_n) = _sequence(sizes, rng), _states(sizes, rng, 2)
    W_ih, W_hh, b_ih, b_hh = _weights(sizes, rng, 1)
    return doutput, dh_n, x, textbook.rnn_forward(x, h_0, W_ih, W_hh, b_ih, b_hh), W_ih, W_hh


def _lstm(sizes: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    (x, doutput), (h_0, c_0, dh_n, dc_n) = _sequence(sizes, rng), _states(sizes, rng, 4)
    W_ih, W_hh, b_ih, b_hh = _weights(sizes, rng, 4)
    return doutput, dh_n, dc_n, x, *textbook.lstm_forward(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh), W_ih, W_hh


def _gru(sizes: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    (x, doutput), (h_0, dh_n) = _sequence(sizes, rng), _states(sizes, rng, 2)
    W_ih, W_hh, b_ih, b_hh = _weights(sizes, rng, 3)
    return doutput, dh_n, x, *textbook.gru_forward(x, h_0, W_ih, W_hh, b_ih, b_hh), W_ih, W_hh


def _attention(sizes: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    N, S, M = (sizes[letter] for letter in "NSM")
    query, dcontext = rng.normal(size=(2, N, M))
    keys, values = rng.normal(size=(2, S, N, M))
    exists = np.ones((N, S), bool)
    exists[0, -1] = False  # one row is masked: its alpha is 0
    return dcontext, textbook.attend_forward(query, keys, values, exists)[0], query, keys, values


def _cross_entropy(sizes: Sizes, rng: np.random.Generator) -> tuple[Any, ...]:
    N, V = sizes["N"], sizes["V"]
    return 2 * rng.normal(size=(N, V)), rng.integers(V, size=N)


def _of_one_rnn_step(doutput: Array, dh_n: Array, x: Array, h: Array, W_ih: Array, W_hh: Array) -> tuple[Any, ...]:
    return doutput[0] + dh_n, x[0], h[0], h[1], W_ih, W_hh


def _of_one_lstm_step(
    doutput: Array, dh_n: Array, dc_n: Array, x: Array, h: Array, c: Array, gates: Array, W_ih: Array, W_hh: Array
) -> tuple[Any, ...]:
    return doutput[0] + dh_n, dc_n, x[0], h[0], c[0], c[1], *np.split(gates[0], 4, axis=-1), W_ih, W_hh


def _of_one_gru_step(
    doutput: Array, dh_n: Array, x: Array, h: Array, gates: Array, W_ih: Array, W_hh: Array
) -> tuple[Any, ...]:
    return doutput[0] + dh_n, x[0], h[0], *np.split(gates[0], 4, axis=-1), W_ih, W_hh


# ------------------------------------------------------------------------------------------------ exercises


def _named(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ALL = (
    Exercise(
        "rnn_step_backward", _named("dh_t x_t h_prev h_t W_ih W_hh"), {"dx_t": "N D", "dh_prev": "N H", **WEIGHTS},
        textbook.rnn_backward, RNN, _rnn, 1, True, _of_one_rnn_step,
    ),
    Exercise(
        "rnn_backward", _named("doutput dh_n x h W_ih W_hh"), {"dx": "T N D", "dh_0": "N H", **WEIGHTS},
        textbook.rnn_backward, RNN, _rnn,
    ),
    Exercise(
        "lstm_step_backward", _named("dh_t dc_t x_t h_prev c_prev c_t i f g o W_ih W_hh"),
        {"dx_t": "N D", "dh_prev": "N H", "dc_prev": "N H", **WEIGHTS},
        textbook.lstm_backward, LSTM, _lstm, 4, True, _of_one_lstm_step,
    ),
    Exercise(
        "lstm_backward", _named("doutput dh_n dc_n x h c gates W_ih W_hh"),
        {"dx": "T N D", "dh_0": "N H", "dc_0": "N H", **WEIGHTS}, textbook.lstm_backward, LSTM, _lstm, 4,
    ),
    Exercise(
        "gru_step_backward", _named("dh_t x_t h_prev r z n q W_ih W_hh"),
        {"dx_t": "N D", "dh_prev": "N H", **WEIGHTS}, textbook.gru_backward, GRU, _gru, 3, True, _of_one_gru_step,
    ),
    Exercise(
        "gru_backward", _named("doutput dh_n x h gates W_ih W_hh"), {"dx": "T N D", "dh_0": "N H", **WEIGHTS},
        textbook.gru_backward, GRU, _gru, 3,
    ),
    Exercise(
        "attend_backward", _named("dcontext alpha query keys values"),
        {"dquery": "N M", "dkeys": "S N M", "dvalues": "S N M"}, textbook.attend_backward, ATTENTION, _attention,
    ),
    Exercise(
        "cross_entropy_backward", _named("logits target"), {"dlogits": "N V"},
        textbook.cross_entropy_backward, CROSS_ENTROPY, _cross_entropy,
    ),
)  # fmt: skip
EXERCISES: Mapping[str, Exercise] = {exercise.name: exercise for exercise in _ALL}
