"""Recurrent dropout and zoneout: what a mask does to any cell, forward and backward, step by step.

Recurrent dropout (Gal and Ghahramani 2016, section 4.2, "variational") has one mask m per sequence, the same at every
step, on what the recurrent weights act on; a unit that is dropped is dropped throughout:

    (R1)  h_in = m * h_{t-1}                        m = 0 or 1/(1-p)
    (S1)  dh_{t-1} += m * dh_in

Zoneout (Krueger et al. 2017, eq. 4 and 6) keeps, at each step, a random share of the units of a state as they were; the
cell's own result is s~_t:

    (R2)  s_t = s~_t + k_t * (s_{t-1} - s~_t)       k = 1 keeps, 0 takes the new value; without training k = p
    (S2)  ds~_t = (1 - k_t) * ds_t
    (S3)  ds_{t-1} += k_t * ds_t

The cell's formulas know of neither: they read h_in, write s~, and get ds~. Both lines are linear in the states, so that
a change of the states, vh and vs, goes through them as the states themselves do:

    (T1)  vh_in = m * vh_{t-1}                                      the differential of R1
    (T2)  vs_t  = vs~_t + k_t * (vs_{t-1} - vs~_t)                  the differential of R2

References
----------
.. [1] Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.
.. [2] D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Part = tuple[Callable[..., None], tuple[str, ...]]


def drop_forward(state_prev: Array, mask: Array, state_in: Array) -> None:
    """R1. Writes state_in."""
    np.multiply(state_prev, mask, out=state_in)


def drop_backward(dstate_in: Array, mask: Array, dstate_prev: Array) -> None:
    """S1: undoes R1. Adds to dstate_prev."""
    dstate_prev += mask * dstate_in


def zone_forward(state_new: Array, state_prev: Array, kept: Array, state: Array) -> None:
    """R2. Writes state."""
    np.subtract(state_prev, state_new, out=state)
    state *= kept
    state += state_new


def zone_backward_new(dstate: Array, kept: Array, dstate_new: Array) -> None:
    """S2: undoes R2 for the cell's own result. Writes dstate_new."""
    np.subtract(1, kept, out=dstate_new)
    dstate_new *= dstate


def zone_backward_prev(dstate: Array, kept: Array, dstate_prev: Array) -> None:
    """S3: undoes R2 for the state before. Adds to dstate_prev."""
    dstate_prev += kept * dstate


@dataclass(frozen=True)
class Masks:
    """The masks of one layer and direction.

    Parameters
    ----------
    recurrent : ndarray, (N, H), or None
        Factors for h_{t-1}; None without recurrent dropout.
    zoneout : mapping of str to ndarray, (T, N, H)
        By state, the share of the old one that is kept; empty without zoneout.
    """

    recurrent: Array | None
    zoneout: Mapping[str, Array]

    def forward(self, output: str, step: Part, change: str = "") -> list[Part]:
        """Return the parts of a forward step around the cell's own, each with the names of its arguments; those of a
        step of changes, T1 and T2, where `change` is "v".
        """
        v = change
        before: list[Part] = []
        if self.recurrent is not None:
            before.append((drop_forward, (f"{v}{output}_prev", "recurrent_mask_t", f"{v}{output}_in")))
        after: list[Part] = [
            (zone_forward, (f"{v}{state}_new_t", f"{v}{state}_prev", f"{state}_kept_t", f"{v}{state}_now"))
            for state in self.zoneout
        ]
        return [*before, step, *after]

    def backward(self, output: str, step: Part) -> list[Part]:
        """Return the parts of a backward step around the cell's own."""
        before: list[Part] = [
            (zone_backward_new, (f"d{state}_now", f"{state}_kept_t", f"d{state}_new_t")) for state in self.zoneout
        ]
        after: list[Part] = [
            (zone_backward_prev, (f"d{state}_now", f"{state}_kept_t", f"d{state}_prev")) for state in self.zoneout
        ]
        if self.recurrent is not None:
            after.append((drop_backward, (f"d{output}_in", "recurrent_mask_t", f"d{output}_prev")))
        return [*before, step, *after]


NONE = Masks(None, {})


def chained(parts: Sequence[Part]) -> Callable[..., None]:
    """Return one function that runs the parts of a step, each with its own tuple of arguments."""
    functions = [function for function, _ in parts]

    def step(*calls: tuple[Array, ...]) -> None:
        for function, arguments in zip(functions, calls, strict=True):
            function(*arguments)

    return step
