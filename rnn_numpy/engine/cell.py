"""What the driver must know of a cell: its formulas, and how their arrays lie in memory.

A new cell is one file: the derivation in its docstring, the formulas, and a `Cell` that lists the names of what they
read and write; `examples/run_your_own_cell.py` is such a file. The driver reads the *names of a formula's arguments*
and hands in, step after step:

    h_t, c_t, ...      the states after this step
    h_prev, c_prev     the states before it
    h_in               what the recurrent weights act on: h_prev, times its mask where there is recurrent dropout
    a_t                all pre-activations, the blocks of `slabs` one after the other; comes in holding W_ih x_t + b
    i_t, oif_t, ...    one slab of it, or neighbouring ones
    tanh_c_t, ...      an array of `records`
    x_t                the input
    da_t, da_i_t, ...  the gradients of pre-activations; dh_t, dc_t, dh_prev, dc_prev, dh_in: those of states
    W_hh, W_hi, W_hrz  the recurrent weights, all or the rows of some slabs; further parameters under their symbol
    db_p, ...          sums to which the gradient of a further parameter is added at each step
    b                  the sum of the biases, where the cell adds it itself
    half, one          1/2 and 1, as arrays of the layer's dtype: cheaper than numbers
    scratch_t          memory for an intermediate result, of the shape of h

What is written must be written into: `h_t[...] = ` or `out=h_t`, since `h_t = ` merely gives another array that name.
Outputs and da come in uninitialised (da as step_partials left it, where there is one). The gradient of the first
state, dh_t, is complete when a step begins; those of further states hold what step t+1 wrote, and what comes through
h_t is to be added: `dc_t += ...`. dh_prev and dh_in are one memory, unless there is recurrent dropout: add to both,
write neither. A further parameter that is a vector, (H,), comes as (H, 1), and so does the sum of its gradient:
`dp += (...).sum(axis=1, keepdims=True)`. A layer of one's own has the arguments of `Recurrent` if it has no
constructor; if it has one, it must take `dtype` and `rng`, and hand on the others.

A cell may bring a third formula, `step_tangent`: the Jacobian-vector product of one step, the line-by-line differential
of step_forward. vX is the change of X along one direction in which parameters, inputs and initial states change; it is
linear in what changes, and reads the values that the step has recorded:

    vh_t, vc_t, vh_prev, vc_prev, vh_in      the changes of the states, named as the states are
    va_t, va_i_t, va_oif_t, ...              those of the pre-activations and of their blocks
    vp_i, ...                                those of further parameters without a product, as these come: (H, 1)

Where a parameter's gradient is a product, dW_hh = da h_in^T say, the driver adds the change of the parameter times what
it acts on to the change of what stands in front: va_t comes in holding vW_ih x_t + W_ih vx_t + vb + vW_hh h_in, and the
formula adds W_hh vh_in; with a product ("dh_t", "m_t") of a further parameter W_hr, vh_t comes in holding vW_hr m_t.
All other outputs come in as zeros. An array of `gradient_records` that input_gradient, hidden_gradient or a product
names, "du" say, has its change, vu_t, in the same way. va is the change of the true pre-activation, as da is its
gradient: weights and biases come whole, whatever `sigmoids` says, and so a sigmoid's change is va_i_t * i_t *
(1 - i_t), without a half.

In a cell with `columns`, the default, these have shape (H, N): a column is a sequence, and a product is
W_hh.dot(h_prev) as in a textbook. A gate is then one contiguous block for all sequences, which is what makes small
steps fast. Without, they are (N, H). A trace shows (T, N, H) in either case.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.errors import OptionError

Array = NDArray[Any]
Formula = Callable[..., None]
P = ParamSpec("P")
R = TypeVar("R")


def _remembered(method: Callable[Concatenate[Cell, P], R]) -> Callable[Concatenate[Cell, P], R]:
    """Keep a method's results in its object. (functools.cache would keep the object as well, for ever.)"""

    @functools.wraps(method)
    def remembering(self: Cell, /, *args: P.args, **kwargs: P.kwargs) -> R:
        results: dict[Any, R] = self.__dict__.setdefault("_remembered", {})
        key = method.__name__, args, *kwargs.values()
        if key not in results:
            results[key] = method(self, *args, **kwargs)
        return results[key]

    return remembering


@dataclass(frozen=True)
class Extra:
    """A parameter that a cell has beside W_ih, W_hh and the biases.

    Parameters
    ----------
    symbol : str
        What formulas call it.
    shape : callable
        Maps the layer to the shape.
    initial : float, optional
        The value of all entries at first; drawn as the other parameters are where left out.
    product : tuple of str, optional
        Names (gradient, input) of arrays whose product, summed over t and n, is its gradient. Where left out,
        `step_backward` adds to its argument "d" + symbol.
    """

    symbol: str
    shape: Callable[[Any], tuple[int, ...]]
    initial: float | None = None
    product: tuple[str, str] | None = None


@dataclass(frozen=True, eq=False)
class Cell:
    """The formulas of one recurrent cell. See the module for how argument names are read.

    Parameters
    ----------
    gate_names : tuple of str
        The row blocks of W_ih, W_hh and the biases, in the parameters' order; each is (H, ·).
    states : tuple of str
        Names of the states that go from step to step; the first is the output.
    step_forward : callable
        Writes the new states.
    step_backward : callable
        Writes the gradients of the pre-activations, adds to dh_in and dh_prev, writes the gradients of further states
        before the step.
    step_partials : callable, optional
        Writes into the gradient arrays all factors that do not depend on a gradient from the future. Works element by
        element: it gets many steps at once, with the time as a further axis in front.
    step_tangent : callable, optional
        Adds to the changes of pre-activations, writes those of the new states: what forward mode runs
        (`rnn_numpy.engine.tangent`).
    slabs : tuple of str, optional
        The blocks of a and da in memory order; the gates where left out.
    input_slabs, hidden_slabs : tuple of str, optional
        For each gate, the slab to which its W_ih x_t + b_ih, and its W_hh h + b_hh, go; the slab of the same name where
        left out.
    sigmoids : tuple of str
        Slabs whose weights and biases are halved beforehand, since sigmoid(u) = (1 + tanh(u/2)) / 2: their
        pre-activations come as u/2.
    hidden_inputs : mapping of str to str
        Gates whose rows of W_hh act on another array than h_in.
    records, gradient_records : mapping of str to int
        Further arrays of a step, written forward or backward, with their widths in units of H.
    input_gradient, hidden_gradient : str
        The gradient arrays from which those of W_ih and W_hh follow.
    parameters : mapping of str to Extra
        Further parameters, under the names of the state dict.
    derived : mapping of str to callable
        Arrays that a trace computes when asked for, from the arrays that the arguments' names say.
    biased : bool
        Whether the biases belong to what a_t comes in with.
    columns : bool
        Whether a column is a sequence in the formulas' arrays; else a row is.
    in_place : bool
        `step_forward` works where a_t and h_t are one memory. (Inference then needs one array less.)
    overwritten : tuple of str
        States of which `step_forward` may find the old and the new one in one memory.

    Raises
    ------
    OptionError
        Slabs of the input or of the recurrent product are not neighbours in memory; a formula's argument or an entry of
        hidden_inputs names nothing; with step_tangent, the name of a change is that of another array, too.
    """

    gate_names: tuple[str, ...]
    states: tuple[str, ...]
    step_forward: Formula
    step_backward: Formula
    step_partials: Formula | None = None
    step_tangent: Formula | None = None
    slabs: tuple[str, ...] = ()
    input_slabs: tuple[str, ...] = ()
    hidden_slabs: tuple[str, ...] = ()
    sigmoids: tuple[str, ...] = ()
    hidden_inputs: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, int] = field(default_factory=dict)
    gradient_records: Mapping[str, int] = field(default_factory=dict)
    input_gradient: str = "da"
    hidden_gradient: str = "da"
    parameters: Mapping[str, Extra] = field(default_factory=dict)
    derived: Mapping[str, Callable[..., Array]] = field(default_factory=dict)
    biased: bool = True
    columns: bool = True
    in_place: bool = False
    overwritten: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The names are all that the driver has to go by: a slip in one must not wait for the first call to show.
        for name in ("slabs", "input_slabs", "hidden_slabs"):
            if not getattr(self, name):
                object.__setattr__(self, name, self.gate_names)
        for name in ("input_slabs", "hidden_slabs", "sigmoids"):
            unknown = [slab for slab in getattr(self, name) if slab not in self.slabs]
            if unknown:
                raise OptionError(f"Cell: {name} must be among slabs = {self.slabs}; got {unknown}")
        for name in ("input_slabs", "hidden_slabs"):
            places = sorted(self.slabs.index(slab) for slab in getattr(self, name))
            if places != list(range(places[0], places[0] + len(self.gate_names))):
                raise OptionError(f"Cell: {name} must be neighbours in slabs = {self.slabs}; got {getattr(self, name)}")
        for gate, source in self.hidden_inputs.items():
            if gate not in self.gate_names:
                raise OptionError(f"Cell: hidden_inputs must be of gates, {self.gate_names}; got {gate!r}")
            if not self._knows(source):
                raise OptionError(f"Cell: hidden_inputs[{gate!r}] must name an array, as 'k_t'; got {source!r}")
        for title, extra in self.parameters.items():
            if not isinstance(extra, Extra):
                raise OptionError(f"Cell: parameters[{title!r}] must be an Extra; got {type(extra).__name__}")
            for source in extra.product or ():
                if not self._knows(source):
                    raise OptionError(f"Cell: product of {title!r} must name arrays, as 'dh_t'; got {source!r}")
        for formula in self._formulas:
            derivative = "v" if formula is self.step_tangent else "d"
            for name in inspect.signature(formula).parameters:
                if not self._knows(name, derivative) or (name == "scratch_t" and formula is self.step_partials):
                    title = getattr(formula, "__name__", repr(formula))
                    raise OptionError(
                        f"Cell: {title} has an argument {name!r}, which names no array of this cell; the module "
                        "rnn_numpy.engine.cell lists what there is"
                    )
        if self.step_tangent is not None:
            others = {*self.records, *self.states, *self._runs}
            taken = [name for name in self.tangent_widths if name in others]
            if taken:
                raise OptionError(f"Cell: with step_tangent, {taken[0]!r} is the change of {taken[0][1:]!r}; rename it")

    @property
    def gates(self) -> int:
        """Number of row blocks of W_ih."""
        return len(self.gate_names)

    @functools.cached_property
    def _shown_slabs(self) -> tuple[str, ...]:
        gates = [gate for gate in self.gate_names if gate in self.slabs]
        return (*gates, *(slab for slab in self.slabs if slab not in gates))

    @functools.cached_property
    def forward_names(self) -> tuple[str, ...]:
        """Names of the step arrays that forward writes, as a user sees them."""
        return (*self._shown_slabs, *self.records)

    @functools.cached_property
    def gradient_names(self) -> tuple[str, ...]:
        """Names of the step arrays that backward writes, as a user sees them."""
        blocks = ("da",) if len(self.slabs) == 1 else tuple(f"da_{slab}" for slab in self._shown_slabs)
        return (*blocks, *self.gradient_records)

    @functools.cached_property
    def tangent_widths(self) -> dict[str, int | None]:
        """Names of the arrays of changes, "va" say, and their widths in units of H; None for a state's own."""
        products = [extra.product[0].rpartition("_")[0] for extra in self.parameters.values() if extra.product]
        widths: dict[str, int | None] = {"v" + state: None for state in self.states}
        widths["va"] = len(self.slabs)
        for name in (self.input_gradient, self.hidden_gradient, *products):
            if name in self.gradient_records:
                widths["v" + name[1:]] = self.gradient_records[name]
        return widths

    @_remembered
    def columns_of(self, name: str, hidden: int) -> tuple[str, slice] | None:
        """Return where one slab, or neighbouring ones, lie: the array and its columns; None if `name` is no such."""
        array, letters = (name[:2], name[3:]) if name.startswith(("da_", "va_")) else ("a", name)
        run = self._runs.get(letters)
        return None if run is None else (array, slice(run[0] * hidden, run[1] * hidden))

    @functools.cached_property
    def _runs(self) -> dict[str, tuple[int, int]]:
        return _runs(self.slabs)

    @functools.cached_property
    def _hidden_runs(self) -> dict[str, tuple[int, int]]:
        return _runs(tuple(slab for slab in self.slabs if slab in self.hidden_slabs))

    @functools.cached_property
    def constant_names(self) -> frozenset[str]:
        """What the formulas call rows of W_hh, `W_hrz` say."""
        names = {name for formula in self._formulas for name in inspect.signature(formula).parameters}
        return frozenset(name for name in names if name.startswith("W_h") and name[3:] in self._hidden_runs)

    @property
    def _formulas(self) -> list[Formula]:
        further = [formula for formula in (self.step_partials, self.step_tangent) if formula is not None]
        return [self.step_forward, *further, self.step_backward]

    def _knows(self, name: str, derivative: str = "d") -> bool:
        """Whether the driver can hand in an argument of this name, to a formula of gradients, "d", or changes, "v"."""
        symbols = {extra.symbol for extra in self.parameters.values()}
        if name in ("W_hh", "b", "half", "one", "scratch_t") or name in symbols:
            return True
        if name[:1] == derivative and name[1:] in symbols:
            return derivative == "d" or name[1:] in self.own_symbols
        if name.startswith("W_h") and name[3:] in self._hidden_runs:
            return True
        stem, _, when = name.rpartition("_")
        state = stem[1:] if stem[:1] == derivative and stem not in self.states else stem
        if when in ("t", "prev", "in") and state in self.states:
            return when != "in" or state == self.states[0]
        own = ("da", *self.gradient_records) if derivative == "d" else tuple(self.tangent_widths)
        place = self.columns_of(stem, 1)
        known = stem in ("x", "a", *self.records, *own) or (place is not None and place[0] in ("a", derivative + "a"))
        return when == "t" and known

    @functools.cached_property
    def own_symbols(self) -> dict[str, str]:
        """Symbol and name of each further parameter whose gradient step_backward sums itself: it has no product."""
        return {extra.symbol: name for name, extra in self.parameters.items() if extra.product is None}

    @_remembered
    def span(self, kind: str, hidden: int) -> slice:
        """Return the columns of a that the "input" or the "hidden" product goes to."""
        first = min(self.slabs.index(slab) for slab in self._slabs_of(kind))
        return slice(first * hidden, (first + self.gates) * hidden)

    def _slabs_of(self, kind: str) -> tuple[str, ...]:
        return self.input_slabs if kind == "input" else self.hidden_slabs

    def arranged(self, kind: str, weight: Array, halved: bool) -> Array:
        """Return W_ih ("input") or W_hh ("hidden"), blocks in memory order, those of sigmoids halved if asked."""
        order, scales = self._order(kind)
        if order == list(range(self.gates)) and not (halved and self.sigmoids):
            return weight
        blocks = weight.reshape(self.gates, -1, weight.shape[1])
        result = memory.empty(blocks.shape, weight.dtype)
        for target, gate, scale in zip(result, order, scales, strict=True):
            if halved:
                np.multiply(blocks[gate], scale, out=target)
            else:
                target[...] = blocks[gate]
        return result.reshape(weight.shape)

    @_remembered
    def _order(self, kind: str) -> tuple[list[int], list[float]]:
        """Return the gates in the order in which their blocks lie in memory, and what each is multiplied with."""
        slabs = self._slabs_of(kind)
        order = sorted(range(self.gates), key=lambda gate: self.slabs.index(slabs[gate]))
        return order, [0.5 if slabs[gate] in self.sigmoids else 1.0 for gate in order]

    def bias(self, bias_ih: Array, bias_hh: Array, halved: bool = True) -> Array:
        """Return what the biases add to a, (slabs * H,)."""
        hidden = len(bias_ih) // self.gates
        total = np.zeros(len(self.slabs) * hidden, bias_ih.dtype)
        for kind, bias in (("input", bias_ih), ("hidden", bias_hh)):
            for rows, columns, _ in self.blocks(kind, hidden):
                total[columns] += bias[rows]
        for slab in self.sigmoids if halved else ():
            start, stop = self._runs[slab]
            total[start * hidden : stop * hidden] *= 0.5
        return total

    def rows_of(self, name: str, hidden: int) -> slice:
        """Return the rows that a formula calls W_hrz, say, of W_hh in memory order."""
        start, stop = self._hidden_runs[name[3:]]
        return slice(start * hidden, stop * hidden)

    @_remembered
    def blocks(self, kind: str, hidden: int) -> list[tuple[slice, slice, str]]:
        """Return (rows of the parameter, columns of da, input array) of the products that make a weight's gradient.

        Gates that are neighbours in both orders and act on the same input share a product.
        """
        found: list[tuple[slice, slice, str]] = []
        for gate, (name, slab) in enumerate(zip(self.gate_names, self._slabs_of(kind), strict=True)):
            place = self.slabs.index(slab)
            rows = slice(gate * hidden, (gate + 1) * hidden)
            columns = slice(place * hidden, (place + 1) * hidden)
            source = "x_t" if kind == "input" else self.hidden_inputs.get(name, f"{self.states[0]}_in")
            if found and found[-1][1].stop == columns.start and found[-1][2] == source:
                rows, columns = slice(found[-1][0].start, rows.stop), slice(found[-1][1].start, columns.stop)
                found.pop()
            found.append((rows, columns, source))
        return found


def _runs(names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Return where each stretch of `names` begins and ends, under the names written together."""
    ends = range(1, len(names) + 1)
    return {"".join(names[start:stop]): (start, stop) for stop in ends for start in range(stop)}
