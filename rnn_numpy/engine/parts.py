"""The parts that a step is made of, and two that any cell can have around its own: recurrent dropout and zoneout.

Recurrent dropout (Gal and Ghahramani 2016, section 4.2, "variational") has one mask m per sequence, the same at every
step, on what the recurrent weights act on; a unit that is dropped is dropped throughout:

    (R1)  h_in = m * h_{t-1}                        m = 0 or 1/(1-p)
    (S1)  dh_{t-1} += m * dh_in

Zoneout (Krueger et al. 2017, eq. 4 and 6) keeps, at each step, a random share of the units of a state as they were; the
cell's own result is s~_t:

    (R2)  s_t = s~_t + k_t * (s_{t-1} - s~_t)       k = 1 keeps, 0 takes the new value; without training k = p
    (S2)  ds~_t = (1 - k_t) * ds_t
    (S3)  ds_{t-1} += k_t * ds_t

The cell's formulas know of neither: they read h_in, write s~, and get ds~. R2 and S2 are a part after the cell. S3 runs
when the cell's own backward has, which writes ds_{t-1}: it is the backward of a part before the cell that does nothing
forward, the way around it. Both lines are linear in the states, so that a change of the states, vh and vs, goes through
them as the states themselves do:

    (T1)  vh_in = m * vh_{t-1}                                      the differential of R1
    (T2)  vs_t  = vs~_t + k_t * (vs_{t-1} - vs~_t)                  the differential of R2

References
----------
.. [1] Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS 2016.
.. [2] D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Formula = Callable[..., None]
Kind = Literal["forward", "partials", "backward", "tangent"]

KINDS: tuple[Kind, ...] = ("forward", "partials", "backward", "tangent")


@functools.cache
def argument_names(formula: Formula) -> tuple[str, ...]:
    """Return the names of a formula's arguments."""
    return tuple(inspect.signature(formula).parameters)


@dataclass(frozen=True)
class Part:
    """One link of the chain that a step is: its formulas.

    Parameters
    ----------
    forward, backward : callable, optional
        A part without `forward` is a way around others: see `rnn_numpy.engine.parts`.
    partials : callable, optional
        What of `backward` needs no gradient from the future, for many steps at once.
    tangent : callable, optional
        The differential of `forward`.
    names : mapping of str to str
        What an argument's name stands for where it does not stand for itself: {"state_prev": "h_prev"}.
    columns : bool, optional
        Whether a column of its arrays is a sequence; as the cell has it where left out.
    path : str
        What to call the way by which its backward reaches the state before the step, where that is one of its own.
    equations : str
        The lines of its derivation, as `rnn_numpy.engine.cell.Cell` has them.
    """

    forward: Formula | None = None
    backward: Formula | None = None
    partials: Formula | None = None
    tangent: Formula | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    columns: bool | None = None
    path: str = ""
    equations: str = ""

    def formula(self, kind: Kind) -> Formula | None:
        """Return one of the four formulas."""
        found: Formula | None = getattr(self, kind)
        return found

    def arguments(self, kind: Kind) -> tuple[str, ...]:
        """Return what the arguments of a formula stand for."""
        formula = self.formula(kind)
        names = () if formula is None else argument_names(formula)
        return tuple(self.names.get(name, name) for name in names)

    def renamed(self, names: Mapping[str, str]) -> Part:
        """Return this part with other arrays behind the names that it has now."""
        formulas = [formula for formula in map(self.formula, KINDS) if formula is not None]
        now = {name: self.names.get(name, name) for formula in formulas for name in argument_names(formula)}
        return replace(self, names={name: names.get(place, place) for name, place in now.items()})


def writing(states: Mapping[str, str]) -> dict[str, str]:
    """Return the new names of what a part writes where a state s is not yet the state but `states[s]`: of s_t, of its
    gradient and of its change.
    """
    return {f"{d}{state}_t": f"{d}{name}_t" for state, name in states.items() for d in ("", "d", "v")}


# ------------------------------------------------------------------------------------------------ masks


def drop_forward(h_prev: Array, m: Array, h_in: Array) -> None:
    """R1. Writes h_in."""
    np.multiply(h_prev, m, out=h_in)


def drop_backward(dh_in: Array, m: Array, dh_prev: Array) -> None:
    """S1: undoes R1. Adds to dh_prev."""
    dh_prev += m * dh_in


def drop_tangent(vh_prev: Array, m: Array, vh_in: Array) -> None:
    """T1. Writes vh_in."""
    np.multiply(vh_prev, m, out=vh_in)


def zone_forward(s_new: Array, s_prev: Array, k_t: Array, s_t: Array) -> None:
    """R2. Writes s_t."""
    np.subtract(s_prev, s_new, out=s_t)
    s_t *= k_t
    s_t += s_new


def zone_backward_new(ds_t: Array, k_t: Array, ds_new: Array) -> None:
    """S2: undoes R2 for the cell's own result. Writes ds_new."""
    np.subtract(1, k_t, out=ds_new)
    ds_new *= ds_t


def zone_backward_prev(ds_t: Array, k_t: Array, ds_prev: Array) -> None:
    """S3: undoes R2 for the state before. Adds to ds_prev."""
    ds_prev += k_t * ds_t


def zone_tangent(vs_new: Array, vs_prev: Array, k_t: Array, vs_t: Array) -> None:
    """T2. Writes vs_t."""
    np.subtract(vs_prev, vs_new, out=vs_t)
    vs_t *= k_t
    vs_t += vs_new


DROP = """
    R1  h_in = m * h_prev
    S1  dh_prev += m * dh_in
"""
ZONE = """
    R2  s = s_new + k * (s_prev - s_new)
    S2  ds_new = (1 - k) * ds
"""
AROUND = "S3  ds_prev += k * ds"


def recurrent_dropout(h: str) -> Part:
    """Return R1, S1, T1 for the state `h`."""
    own = {f"{d}h_{when}": f"{d}{h}_{when}" for d in ("", "d", "v") for when in ("prev", "in")}
    names = {**own, "m": "recurrent_mask_t"}
    return Part(drop_forward, drop_backward, tangent=drop_tangent, names=names, equations=DROP)


def zoneout(s: str) -> Part:
    """Return R2, S2, T2 for the state `s`."""
    names = {f"{d}s_{when}": f"{d}{s}_{when}" for d in ("", "d", "v") for when in ("prev", "t")}
    names |= {f"{d}s_new": f"{d}{s}_new_t" for d in ("", "d", "v")}
    names["k_t"] = f"{s}_kept_t"
    return Part(zone_forward, zone_backward_new, tangent=zone_tangent, names=names, equations=ZONE)


def way_around(s: str) -> Part:
    """Return S3 for the state `s`."""
    names = {"ds_t": f"d{s}_t", "ds_prev": f"d{s}_prev", "k_t": f"{s}_kept_t"}
    return Part(backward=zone_backward_prev, names=names, equations=AROUND)


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


NONE = Masks(None, {})
