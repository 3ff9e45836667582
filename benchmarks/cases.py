"""What is measured: cells, modes, sizes, dtypes and the numbers that every contender starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Size = tuple[int, int, int, int]

# Rows of the weights in units of H, in torch.nn's order: LSTM i f g o, GRU r z n.
GATES = {"rnn-tanh": 1, "rnn-relu": 1, "lstm": 4, "gru": 3}
CELLS = tuple(GATES)
MODES = ("training", "inference")
DTYPES = ("float32", "float64")

# (T, N, D, H): from nets where a step costs microseconds to nets where the matrix product is everything.
GRID: tuple[Size, ...] = (
    (100, 1, 32, 32),
    (100, 1, 128, 128),
    (100, 8, 64, 64),
    (100, 32, 32, 32),
    (100, 32, 128, 128),
    (100, 64, 256, 256),
    (50, 64, 512, 512),
    (20, 128, 1024, 1024),
    (1000, 16, 64, 64),
)
SMOKE_GRID: tuple[Size, ...] = ((100, 1, 32, 32), (100, 32, 32, 32), (50, 32, 256, 256))


@dataclass(frozen=True)
class Case:
    """One point of the grid, in one dtype.

    Parameters
    ----------
    cell : str
        One of `CELLS`.
    size : tuple of int
        (T, N, D, H): steps, batch, inputs, hidden units.
    dtype : {"float32", "float64"}
    seed : int
        Of weights, inputs and output gradient.
    mode : {"training", "inference"}
        Forward and backward, or forward alone, with nothing recorded.
    """

    cell: str
    size: Size
    dtype: str
    seed: int = 0
    mode: str = "training"

    @property
    def gates(self) -> int:
        """Rows of the weights in units of H."""
        return GATES[self.cell]

    @property
    def finals(self) -> tuple[str, ...]:
        """Names of the final states."""
        return ("h_n", "c_n") if self.cell == "lstm" else ("h_n",)

    def named(self, output: Any, state: Any) -> dict[str, Any]:
        """Return output and final states by name.

        Parameters
        ----------
        output : array of any library
        state : array of any library, or the pair of them that LSTM has
        """
        finals = state if len(self.finals) > 1 else (state,)
        return {"output": output, **dict(zip(self.finals, finals, strict=True))}

    def to_json(self) -> dict[str, Any]:
        """Return the case as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Case:
        """Return the case that `to_json` described."""
        return cls(**{**fields, "size": tuple(fields["size"])})

    def __str__(self) -> str:
        mode = "" if self.mode == "training" else f" {self.mode}"
        return f"{self.cell}{mode} {','.join(map(str, self.size))} {self.dtype}"


@dataclass(frozen=True)
class Problem:
    """The arrays of a case: weights by torch.nn's names, x (T, N, D) and doutput (T, N, H)."""

    weights: dict[str, Array]
    x: Array
    doutput: Array


def problem(case: Case) -> Problem:
    """Draw the arrays of a case; the same bits in every process.

    Parameters
    ----------
    case : Case

    Returns
    -------
    Problem
        Weights from U(-1/sqrt(H), 1/sqrt(H)), torch.nn's default; x and doutput standard normal.

    Examples
    --------
    >>> problem(Case("lstm", (5, 2, 3, 4), "float32")).weights["weight_ih_l0"].shape
    (16, 3)
    """
    steps, batch, inputs, hidden = case.size
    rows = case.gates * hidden
    rng = np.random.default_rng(case.seed)
    bound = 1 / np.sqrt(hidden)
    shapes = {
        "weight_ih_l0": (rows, inputs),
        "weight_hh_l0": (rows, hidden),
        "bias_ih_l0": (rows,),
        "bias_hh_l0": (rows,),
    }
    weights = {name: rng.uniform(-bound, bound, shape).astype(case.dtype) for name, shape in shapes.items()}
    x = rng.standard_normal((steps, batch, inputs)).astype(case.dtype)
    doutput = rng.standard_normal((steps, batch, hidden)).astype(case.dtype)
    return Problem(weights, x, doutput)
