"""The sigmoid of gates, in place: by tanh, or by exp where that is faster, which dtype and processor decide.

    s(u) = (1 + tanh(u/2)) / 2          by tanh
    s(u) = 1 / (1 + exp(-u))            by exp

The memory of a gate holds u/2 in both cases, since the driver halves the weights (`rnn_numpy.engine.cell`). By tanh, s
has an absolute error of half an eps of the dtype, and no right digit where it is smaller; by exp it has a relative one,
at most 2 units in the last place down to s = 1e-16 (u = -36.7), 2.5 below, and is never less than 3e-308.

NumPy has a vectorised exp in double precision for AVX-512 alone, and its tanh is then nearly as fast; without, the C
library's exp takes a third of the time of tanh. So it is exp for float64 on processors without AVX-512, and tanh for
all others: float32, whose exp has an error of 2.5 units there, and complex numbers, whose derivative by the complex
step is then that of the same function. The last bits of a gate thus depend on the processor, as those of a matrix
product do; on one machine all ways to run a step give the same ones. Figures in benchmarks/README.md.

tanh itself is np.tanh everywhere: what exp gives of it near 0, exp(2u) - 1, has lost its digits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Arrays, not numbers: turning a number into one at each step takes as long as a small operation itself.
MINUS_TWO, ONE = np.array(-2.0), np.array(1.0)
LARGEST = np.array(708.0)  # whose exp, and one over that, are normal numbers


@functools.cache
def has_avx512() -> bool:
    """Whether NumPy has found AVX-512, which decides what is fastest in its loops and in OpenBLAS's kernels."""
    config = np.show_config(mode="dicts")
    found = config.get("SIMD Extensions", {}).get("found", []) if isinstance(config, dict) else []
    return any(name.startswith(("AVX512", "X86_V4")) for name in found)


BY_EXP = not has_avx512()
FEW = 256  # entries below which the two calls more cost what exp gains


def sigmoid(u: Array, half: Array) -> None:
    """Turn u/2 into s(u), in place; `half` is 1/2 in the dtype of `u`.

    >>> gates = np.array([-4.0, 0.0, 4.0]) / 2
    >>> sigmoid(gates, np.array(0.5))
    >>> gates.round(4)
    array([0.018, 0.5  , 0.982])
    """
    if BY_EXP and u.dtype.char == "d" and u.size >= FEW:
        sigmoid_by_exp(u)
    else:
        sigmoid_by_tanh(u, half)


def sigmoid_and_tanh(a: Array, u: Array, v: Array, half: Array) -> None:
    """Turn u/2 into s(u) and v into tanh(v), in place; `a` is the memory of both, u and v one after the other."""
    if BY_EXP and u.dtype.char == "d" and u.size >= FEW:
        sigmoid_by_exp(u)
        np.tanh(v, out=v)
    else:
        np.tanh(a, out=a)  # one call for both
        u *= half
        u += half


def sigmoid_by_tanh(u: Array, half: Array) -> None:
    """Turn u/2 into s(u), in place, of any dtype."""
    np.tanh(u, out=u)
    u *= half
    u += half


def sigmoid_by_exp(u: Array) -> None:
    """Turn u/2 into s(u), in place, in float64."""
    u *= MINUS_TWO
    np.minimum(u, LARGEST, out=u)  # so that exp does not overflow
    np.exp(u, out=u)
    u += ONE
    np.reciprocal(u, out=u)
