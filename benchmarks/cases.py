"""What is measured: cells, sizes, dtypes and the numbers that every contender starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Size = tuple[int, int, int, int]

CELLS = ("rnn-tanh", "rnn-relu")
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
    """

    cell: str
    size: Size
    dtype: str
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the case as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Case:
        """Return the case that `to_json` described."""
        return cls(fields["cell"], tuple(fields["size"]), fields["dtype"], fields["seed"])

    def __str__(self) -> str:
        return f"{self.cell} {','.join(map(str, self.size))} {self.dtype}"


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
    >>> problem(Case("rnn-tanh", (5, 2, 3, 4), "float32")).weights["weight_ih_l0"].shape
    (4, 3)
    """
    steps, batch, inputs, hidden = case.size
    rng = np.random.default_rng(case.seed)
    bound = 1 / np.sqrt(hidden)
    shapes = {
        "weight_ih_l0": (hidden, inputs),
        "weight_hh_l0": (hidden, hidden),
        "bias_ih_l0": (hidden,),
        "bias_hh_l0": (hidden,),
    }
    weights = {name: rng.uniform(-bound, bound, shape).astype(case.dtype) for name, shape in shapes.items()}
    x = rng.standard_normal((steps, batch, inputs)).astype(case.dtype)
    doutput = rng.standard_normal((steps, batch, hidden)).astype(case.dtype)
    return Problem(weights, x, doutput)
