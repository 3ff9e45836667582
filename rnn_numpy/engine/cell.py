"""What the driver must know of a cell: a chain of parts, the formulas of each, and how their arrays lie in memory.

A new cell is one file: the derivation in its docstring, the formulas, and a `Cell` that lists the names of what they
read and write; `examples/run_your_own_cell.py` is such a file. The driver reads the *names of a formula's arguments*
and hands in, step after step:

    h_t, c_t, ...      the states after this step
    h_prev, c_prev     the states before it
    h_in               what the recurrent weights act on: h_prev, times its mask where there is recurrent dropout
    a_t                all pre-activations, the blocks of `slabs` one after the other; comes in holding W_ih x_t + b
    i_t, oif_t, ...    one slab of it, or neighbouring ones
    i_f_g_t, ...       neighbouring slabs, stacked along an axis in front, (3, H, N): one operation for all of them
    input_t            the slabs that W_ih x_t goes to
    tanh_c_t, ...      an array of `records`
    x_t                the input
    da_t, da_i_t, ...  the gradients of pre-activations; dh_t, dc_t, dh_prev, dc_prev, dh_in: those of states
    W_hh, W_hi, W_hrz  the recurrent weights, all or the rows of some slabs; further parameters under their symbol
    db_p, ...          sums to which the gradient of a further parameter is added at each step
    values, ...        an array of `given`, the same at every step; dvalues: the sum to which its gradient is added
    u_t, ...           an array of `work`: what the parts of one step hand each other, and no trace keeps
    b                  the sum of the biases, where the cell adds it itself
    half, one          1/2 and 1, as arrays of the layer's dtype: cheaper than numbers
    scratch_t          memory for an intermediate result, of the shape of h

What is written must be written into: `h_t[...] = ` or `out=h_t`, since `h_t = ` merely gives another array that name.
Outputs and da come in uninitialised (da as step_partials left it, where there is one). The gradient of the first
state, dh_t, is complete when a step begins; those of further states hold what step t+1 wrote, and what comes through
h_t is to be added: `dc_t += ...`. dh_prev and dh_in are one memory, unless there is recurrent dropout: add to both,
write neither. A gradient that a loss may add to directly, one of `from_loss`, comes in holding that, too. A further
parameter that is a vector, (H,), comes as (H, 1), and so does the sum of its gradient:
`dp += (...).sum(axis=1, keepdims=True)`. A layer of one's own has the arguments of `Recurrent` if it has no
constructor; if it has one, it must take `dtype` and `rng`, and hand on the others.

A cell may bring a third formula, `step_tangent`: the Jacobian-vector product of one step, the line-by-line differential
of step_forward. vX is the change of X along one direction in which parameters, inputs and initial states change; it is
linear in what changes, and reads the values that the step has recorded:

    vh_t, vc_t, vh_prev, vc_prev, vh_in      the changes of the states, named as the states are
    va_t, va_i_t, va_oif_t, vinput_t, ...    those of the pre-activations and of their blocks
    vp_i, ...                                those of further parameters without a product, as these come: (H, 1)
    vm_t, valpha_t, ...                      those of `records`, where a formula names them

Where a parameter's gradient is a product, dW_hh = da h_in^T say, the driver adds the change of the parameter times what
it acts on to the change of what stands in front: va_t comes in holding vW_ih x_t + W_ih vx_t + vb + vW_hh h_in, and the
formula adds W_hh vh_in; with a product ("dh_t", "m_t") of a further parameter W_hr, vh_t comes in holding vW_hr m_t.
All other outputs come in as zeros. An array of `gradient_records` that input_gradient, hidden_gradient or a product
names, "du" say, has its change, vu_t, in the same way. va is the change of the true pre-activation, as da is its
gradient: weights and biases come whole, whatever `sigmoids` says, and so a sigmoid's change is va_i_t * i_t *
(1 - i_t), without a half.

A step is a chain: the cell's own part, made of the formulas above, with further parts before and after it, each with
formulas of its own (attention before, a projection after). Forward runs the chain from its beginning, backward from its
end. Recurrent dropout and zoneout are parts as well (`rnn_numpy.engine.parts`), put around the cell's when they are
asked for; what the cell calls h_t is then h_new_t.

In a cell with `columns`, the default, arrays have shape (H, N): a column is a sequence, and a product is
W_hh.dot(h_prev) as in a textbook. A gate is then one contiguous block for all sequences, which is what makes small
steps fast. Without, they are (N, H). A part may differ from its cell in this. A trace shows (T, N, H) in either case.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.engine import parts
from rnn_numpy.engine.parts import KINDS, Formula, Kind, Part, argument_names, writing
from rnn_numpy.errors import CellError

Array = NDArray[Any]
Size = Callable[[Any, Mapping[str, Array]], int]
Width = int | Size

# What "d" and "v" in front of a name stand for, by the formula that has it as an argument.
DERIVATIVES = {"forward": "", "partials": "d", "backward": "d", "tangent": "v"}
ALWAYS_KNOWN = ("W_hh", "b", "half", "one", "scratch_t")


@dataclass(frozen=True)
class ExtraParameter:
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
    like_input : bool
        Its rows are those of W_ih, one block a gate: it acts on `input_t`, and its product is with the gradient of
        that, "dinput_t".
    """

    symbol: str
    shape: Callable[[Any], tuple[int, ...]]
    initial: float | None = None
    product: tuple[str, str] | None = None
    like_input: bool = False


@dataclass(frozen=True)
class Given:
    """An array of the call that is the same at every step: a memory to attend to, say.

    Parameters
    ----------
    shape : tuple of str
        Letters of the axes after the batch's, which is first: ("S", "H"). Equal letters are equal sizes; H is the
        layer's.
    products : mapping of str to tuple of str
        Names (row, column) of step arrays, (T, N, S) and (T, N, M); the sum over t of their outer products, sequence
        by sequence, is what its gradient has by each way. Without, `step_backward` adds to "d" + name.
    differentiable : bool
        A mask is not.
    """

    shape: tuple[str, ...]
    products: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    differentiable: bool = True


@dataclass(frozen=True)
class Product:
    """Of `derived`: an array that is the product of two, entry by entry."""

    left: str
    right: str

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(name, kind) for name in (self.left, self.right)])

    def __call__(self, left: Array, right: Array) -> Array:
        return left * right


class Slot(NamedTuple):
    """Where an argument is found: the array, which of its rows a step gets, which of its columns.

    `when` is "before" or "after" (a state's rows), "step", "given", "work" or "fixed" (the same at every step). `stack`
    is the number of slabs that are stacked along an axis in front; 0 for none.
    """

    name: str
    array: str
    when: str
    block: slice | None = None
    stack: int = 0


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
        (`rnn_numpy.engine.forward_mode`).
    before, after : tuple of Part
        Further parts of the step.
    own : mapping of str to str
        What the cell's own formulas write in place of a state, {"h": "m"}, where a part after them makes the state.
    recurrent_state : str, optional
        The state that the recurrent weights act on; the first where left out.
    state_widths : mapping of str to callable
        States whose widths are those of the call, as functions of the layer and the call's given arrays.
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
    records, gradient_records : mapping of str to int or callable
        Further arrays of a step, written forward or backward, with their widths in units of H, or a function of the
        layer and the call's given arrays that returns the width.
    work : mapping of str to callable
        Memory of one step alone, in rows, (N, S, K) say: its shape without N, as a function of the given arrays.
    kept : tuple of str
        Which of it a trace keeps where it is small, of all steps up to `KEPT_BYTES` in the driver.
    again : tuple of callable
        Backward formulas that make `kept` again, which are left out where it has been kept.
    rows : tuple of str
        Records and states that lie in rows in memory where the cell works on columns.
    from_loss : tuple of str
        Records whose gradients come in holding what the loss says of the record directly.
    given : mapping of str to Given
        Arrays of the call that formulas read, the same at every step.
    input_gradient, hidden_gradient : str
        The gradient arrays from which those of W_ih and W_hh follow.
    parameters : mapping of str to ExtraParameter
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
    equations : str
        The lines of the derivation, one a line, for `rnn_numpy.debug`: a label and what is written, "F3  c = f * c_prev
        + i * g", or added to, "B1  dh_in += W_hh.T @ da". Names are those of a `Step`, `W_hi` or `b_i` a gate's rows,
        `a_i` its pre-activation.
    trial : bool
        Whether the formulas are tried, once, before they are first used: do they write all outputs, and those alone?

    Raises
    ------
    CellError
        Slabs of the input or of the recurrent product are not neighbours in memory; a formula's argument or an entry of
        hidden_inputs names nothing; a parameter's symbol is the name of an array; with step_tangent, the name of a
        change is that of another array, too.
    """

    gate_names: tuple[str, ...]
    states: tuple[str, ...]
    step_forward: Formula
    step_backward: Formula
    step_partials: Formula | None = None
    step_tangent: Formula | None = None
    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()
    own: Mapping[str, str] = field(default_factory=dict)
    recurrent_state: str = ""
    state_widths: Mapping[str, Size] = field(default_factory=dict)
    slabs: tuple[str, ...] = ()
    input_slabs: tuple[str, ...] = ()
    hidden_slabs: tuple[str, ...] = ()
    sigmoids: tuple[str, ...] = ()
    hidden_inputs: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Width] = field(default_factory=dict)
    gradient_records: Mapping[str, Width] = field(default_factory=dict)
    work: Mapping[str, Callable[[Mapping[str, Array]], tuple[int, ...]]] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    again: tuple[Formula, ...] = ()
    rows: tuple[str, ...] = ()
    from_loss: tuple[str, ...] = ()
    given: Mapping[str, Given] = field(default_factory=dict)
    input_gradient: str = "da"
    hidden_gradient: str = "da"
    parameters: Mapping[str, ExtraParameter] = field(default_factory=dict)
    derived: Mapping[str, Callable[..., Array]] = field(default_factory=dict)
    biased: bool = True
    columns: bool = True
    in_place: bool = False
    overwritten: tuple[str, ...] = ()
    equations: str = ""
    trial: bool = True
    tried: set[str] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        formulas = [formula for part in self.parts for formula in map(part.formula, KINDS) if formula is not None]
        # The package's own have been tried; a breakpoint in one of them stops at the caller's steps alone.
        if not self.trial or all(str(getattr(one, "__module__", "")).startswith("rnn_numpy.") for one in formulas):
            self.tried.update(("forward", "backward"))
        if not self.recurrent_state:
            object.__setattr__(self, "recurrent_state", self.states[0])
        # The names are all that the driver has to go by: a slip in one must not wait for the first call to show.
        for name in ("slabs", "input_slabs", "hidden_slabs"):
            if not getattr(self, name):
                object.__setattr__(self, name, self.gate_names)
        for name in ("input_slabs", "hidden_slabs", "sigmoids"):
            unknown = [slab for slab in getattr(self, name) if slab not in self.slabs]
            if unknown:
                raise CellError(f"Cell: {name} must be among slabs = {self.slabs}; got {unknown}")
        for name in ("input_slabs", "hidden_slabs"):
            places = sorted(self.slabs.index(slab) for slab in getattr(self, name))
            if places != list(range(places[0], places[0] + len(self.gate_names))):
                raise CellError(f"Cell: {name} must be neighbours in slabs = {self.slabs}; got {getattr(self, name)}")
        for gate, source in self.hidden_inputs.items():
            if gate not in self.gate_names:
                raise CellError(f"Cell: hidden_inputs must be of gates, {self.gate_names}; got {gate!r}")
            if self.place_of(source) is None:
                raise CellError(f"Cell: hidden_inputs[{gate!r}] must name an array, as 'k_t'; got {source!r}")
        for title, extra in self.parameters.items():
            if not isinstance(extra, ExtraParameter):
                raise CellError(f"Cell: parameters[{title!r}] must be an ExtraParameter; got {type(extra).__name__}")
            if extra.symbol in {*self.records, *self.gradient_records, *self.states, *self.slabs, *self.given}:
                # `derived` reads both under their bare names.
                raise CellError(f"Cell: symbol of {title!r} must not be the name of an array; got {extra.symbol!r}")
            for source in extra.product or ():
                if self.place_of(source) is None:
                    raise CellError(f"Cell: product of {title!r} must name arrays, as 'dh_t'; got {source!r}")
        for title, given in self.given.items():
            for ways in given.products.values():
                for source in ways:
                    if self.place_of(source) is None:
                        raise CellError(
                            f"Cell: products of given {title!r} must name arrays, as 'dk_t'; got {source!r}"
                        )
        for part in self.parts:
            self._check(part)
        if self.has_tangent:
            others = {*self.records, *self.states, *self.runs}
            taken = [name for name in self.tangent_widths if name in others]
            if taken:
                raise CellError(f"Cell: with step_tangent, {taken[0]!r} is the change of {taken[0][1:]!r}; rename it")

    def _check(self, part: Part) -> None:
        for kind in KINDS:
            formula = part.formula(kind)
            for name, place in zip(argument_names(formula), part.arguments(kind), strict=True) if formula else ():
                if self.place_of(place, DERIVATIVES[kind] or "d") is None or (place, kind) == ("scratch_t", "partials"):
                    raise CellError(
                        f"Cell: {getattr(formula, '__name__', repr(formula))} has an argument {name!r}, which names no "
                        f"array of this cell; known are {', '.join(self._known_names(DERIVATIVES[kind]))}"
                    )

    # ------------------------------------------------------------------------------------------------ parts

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """The chain, recurrent dropout and zoneout apart."""
        own = Part(
            self.step_forward, self.step_backward, self.step_partials, self.step_tangent, equations=self.equations
        )
        return (*self.before, own.renamed(writing(self.own)) if self.own else own, *self.after)

    @functools.cached_property
    def has_tangent(self) -> bool:
        """Whether forward mode can run: all parts that run forward have a tangent."""
        return all(part.tangent is not None for part in self.parts if part.forward is not None)

    @functools.cached_property
    def has_partials(self) -> bool:
        """Whether a part computes local derivatives beforehand."""
        return any(part.partials is not None for part in self.parts)

    def chain(self, hidden: int, recurrent: bool = False, zoneout: tuple[str, ...] = ()) -> Chain:
        """Return the whole chain of a step of `hidden` units, with recurrent dropout and zoneout of these states."""
        chains: dict[Any, Chain] = self.__dict__.setdefault("_chains", {})
        key = hidden, recurrent, zoneout
        found = chains.get(key)
        if found is None:
            found = chains[key] = Chain(self, hidden, recurrent, zoneout)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_chains"}

    # ------------------------------------------------------------------------------------------------ names

    @functools.cached_property
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
    def tangent_widths(self) -> dict[str, Width | None]:
        """Names of the arrays of changes, "va" say, and their widths; None for a state's own."""
        products = [extra.product[0].rpartition("_")[0] for extra in self.parameters.values() if extra.product]
        widths: dict[str, Width | None] = {"v" + state: None for state in self.states}
        widths["va"] = len(self.slabs)
        for name in (self.input_gradient, self.hidden_gradient, *products):
            if name in self.gradient_records:
                widths["v" + name[1:]] = self.gradient_records[name]
        # The change of a record goes from one part to another, or to the product of a further parameter.
        named = [name for part in self.parts for name in set(part.arguments("tangent"))]
        named += ["v" + extra.product[1] for extra in self.parameters.values() if extra.product]
        for name, width in self.records.items():
            if named.count(f"v{name}_t") > 1:
                widths["v" + name] = width
        return widths

    @functools.cached_property
    def runs(self) -> dict[str, tuple[int, int]]:
        """Where each stretch of neighbouring slabs begins and ends, in units of H."""
        return _runs(self.slabs)

    @functools.cached_property
    def hidden_runs(self) -> dict[str, tuple[int, int]]:
        """Where the rows of neighbouring slabs begin and end in W_hh in memory order, in units of H."""
        return _runs(tuple(slab for slab in self.slabs if slab in self.hidden_slabs))

    @functools.cached_property
    def constant_names(self) -> tuple[str, ...]:
        """What the formulas call rows of W_hh, `W_hrz` say."""
        names = {name for part in self.parts for kind in KINDS for name in part.arguments(kind)}
        return tuple(sorted(name for name in names if name.startswith("W_h") and name[3:] in self.hidden_runs))

    @functools.cached_property
    def own_symbols(self) -> dict[str, str]:
        """Symbol and name of each further parameter whose gradient step_backward sums itself: it has no product."""
        return {extra.symbol: name for name, extra in self.parameters.items() if extra.product is None}

    @functools.cached_property
    def can_be_prepared(self) -> bool:
        """Whether all that its formulas get is arrays of the pass and weights (see `rnn_numpy.engine.prepared`)."""
        return not (self.given or self.work or self.own_symbols or self.from_loss or self.state_widths)

    @functools.cached_property
    def symbols_in_rows(self) -> frozenset[str]:
        """Symbols of further parameters that no formula on columns reads."""
        on_columns = [part for part in self.parts if (self.columns if part.columns is None else part.columns)]
        read = {name for part in on_columns for kind in KINDS for name in part.arguments(kind)}
        return frozenset(extra.symbol for extra in self.parameters.values() if extra.symbol not in read)

    def place_of(self, name: str, derivative: str = "d") -> Slot | None:
        """Return where an argument is found, blocks in units of H: the grammar of names, all of it. None for a name
        that says nothing to a formula of gradients, "d", or of changes, "v".
        """
        symbols = {extra.symbol for extra in self.parameters.values()}
        bare = name[1:] if name[:1] == derivative else ""
        if name in self.given or (bare in self.given and self.given[bare].differentiable):
            return Slot(name, name, "given")
        if name in ALWAYS_KNOWN or name in symbols or bare in (symbols if derivative == "d" else self.own_symbols):
            return Slot(name, name, "fixed")
        if name.startswith("W_h") and name[3:] in self.hidden_runs:
            return Slot(name, name, "fixed")
        stem, _, when = name.rpartition("_")
        state = stem[1:] if stem[:1] == derivative and stem not in self.states else stem
        if state in self.states and when in ("t", "prev"):
            return Slot(name, stem, "after" if when == "t" else "before")
        if state == self.recurrent_state and when == "in":
            return Slot(name, name, "step")
        if when != "t":
            return None
        own = ("da", *self.gradient_records) if derivative == "d" else self.tangent_widths
        if stem in self.work:
            return Slot(name, stem, "work")
        if stem in ("x", "a") or stem in self.records or stem in own:
            return Slot(name, stem, "step")
        if stem in ("input", derivative + "input"):
            first = min(map(self.slabs.index, self.input_slabs))
            array = "a" if stem == "input" else derivative + self.input_gradient[1:]
            return Slot(name, array, "step", slice(first, first + self.gates))
        array, letters = (derivative + "a", stem[3:]) if stem.startswith(derivative + "a_") else ("a", stem)
        run = self.runs.get(letters, self.runs.get(letters.replace("_", "")))
        if run is None:
            return None
        stack = run[1] - run[0] if letters not in self.runs else 0
        return Slot(name, array, "step", slice(*run), stack)

    def _known_names(self, derivative: str) -> list[str]:
        """Return the names that a formula may have as arguments, for an error: of slabs one by one."""
        states = [
            f"{d}{state}_{when}"
            for d in dict.fromkeys(("", derivative))
            for state in self.states
            for when in ("t", "prev")
        ]
        output = self.recurrent_state
        arrays = ["x_t", "a_t", *(f"{name}_t" for name in (*self.forward_names, *self.work)), f"{output}_in"]
        if derivative:
            blocks = self.gradient_names if derivative == "d" else self.tangent_widths
            arrays += [f"{derivative}a_t", *(f"{name}_t" for name in blocks), f"{derivative}{output}_in"]
        symbols = [extra.symbol for extra in self.parameters.values()]
        sums = [derivative + symbol for symbol in self.own_symbols] if derivative else []
        return list(dict.fromkeys([*states, *arrays, *symbols, *sums, *self.given, *ALWAYS_KNOWN]))

    # ------------------------------------------------------------------------------------------------ weights

    def slabs_of(self, kind: str) -> tuple[str, ...]:
        """Return the slab of each gate that the "input" or the "hidden" product goes to."""
        return self.input_slabs if kind == "input" else self.hidden_slabs

    @functools.cached_property
    def _orders(self) -> dict[str, NDArray[np.intp]]:
        """For "input" and "hidden", the gates as their blocks of rows lie in memory."""
        found = {}
        for kind in ("input", "hidden"):
            slabs = self.slabs_of(kind)
            found[kind] = np.array([slabs.index(slab) for slab in sorted(slabs, key=self.slabs.index)], np.intp)
        return found

    @functools.cached_property
    def _scales(self) -> dict[tuple[str, bool], NDArray[np.float32] | None]:
        """What these blocks are multiplied with, halved or not, (gates, 1, 1): exact in any dtype; None for nothing."""
        found: dict[tuple[str, bool], NDArray[np.float32] | None] = {}
        for kind, order in self._orders.items():
            slabs = self.slabs_of(kind)
            scales = np.array([0.5 if slabs[gate] in self.sigmoids else 1 for gate in order], np.float32)
            found[kind, True] = scales[:, None, None] if (scales != 1).any() else None
            found[kind, False] = None
        return found

    @functools.cached_property
    def _in_order(self) -> dict[str, bool]:
        return {kind: bool((order == np.arange(self.gates)).all()) for kind, order in self._orders.items()}

    def arranged(self, kind: str, weight: Array, halved: bool) -> Array:
        """Return W_ih ("input") or W_hh ("hidden"), blocks in memory order, those of sigmoids halved if asked."""
        scales = self._scales[kind, halved]
        if scales is None and self._in_order[kind]:
            return weight
        blocks = weight.reshape(self.gates, -1, weight.shape[1])
        result = memory.empty(blocks.shape, weight.dtype)
        np.take(blocks, self._orders[kind], axis=0, out=result, mode="clip")  # "raise" would go through a buffer
        if scales is not None:
            result *= scales
        return result.reshape(weight.shape)

    def bias(self, bias_ih: Array, bias_hh: Array, halved: bool = True) -> Array:
        """Return what the biases add to a, (slabs * H,)."""
        if len(self.slabs) == 1 and not self.sigmoids:
            return bias_ih + bias_hh
        hidden = len(bias_ih) // self.gates
        total = np.zeros((len(self.slabs), hidden), bias_ih.dtype)
        for kind, bias in (("input", bias_ih), ("hidden", bias_hh)):
            start = self._starts[kind]
            total[start : start + self.gates] += bias.reshape(self.gates, hidden)[self._orders[kind]]
        if halved and self.sigmoids:
            total *= self._halves
        return total.ravel()

    @functools.cached_property
    def _starts(self) -> dict[str, int]:
        """The first of the slabs that the "input" and the "hidden" product go to."""
        return {kind: min(map(self.slabs.index, self.slabs_of(kind))) for kind in ("input", "hidden")}

    @functools.cached_property
    def _halves(self) -> NDArray[np.float32]:
        """1/2 for slabs of sigmoids, 1 for others, (slabs, 1): exact in any dtype."""
        return np.array([[0.5 if slab in self.sigmoids else 1.0] for slab in self.slabs], np.float32)


class Chain:
    """The parts of a cell's step, with those of recurrent dropout and zoneout around them, for H units.

    All that follows from names alone is worked out here, once: which array and which rows each argument of each
    formula means. `blocks` has, for "input" and "hidden", the products that make a weight's gradient: rows of the
    parameter, columns of the gradient, what the rows act on; gates that are neighbours in both orders and act on the
    same array share one. `span` are the columns of a that the input's product goes to.
    """

    def __init__(self, cell: Cell, hidden: int, recurrent: bool, zoneout: tuple[str, ...]) -> None:
        self.cell, self.hidden = cell, hidden
        self.recurrent, self.zoneout = recurrent, zoneout
        output = cell.recurrent_state
        self._renamed = writing({state: f"{state}_new" for state in zoneout})
        if not recurrent:
            self._renamed |= {f"{d}{output}_in": f"{d}{output}_prev" for d in ("", "d", "v")}
        before = [parts.recurrent_dropout(output)] if recurrent else []
        before += [parts.way_around(state) for state in zoneout]
        own = [part.renamed(self._renamed) for part in cell.parts] if self._renamed else list(cell.parts)
        self.parts: tuple[Part, ...] = (*before, *own, *(parts.zoneout(state) for state in zoneout))
        self._places: dict[str, Slot] = {}
        self.places: dict[str, Slot] = {}
        self.blocks = {kind: self._products(kind) for kind in ("input", "hidden")}
        first = min(cell.slabs.index(slab) for slab in cell.input_slabs)
        self.span = slice(first * hidden, (first + cell.gates) * hidden)
        self.scales = {
            symbol: slice(start * hidden, stop * hidden) for symbol, (start, stop) in cell.hidden_runs.items()
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # A trace has its chain, and no use for the shapes of parameters: often a lambda, which pickle cannot take.
        parameters = {name: replace(extra, shape=_no_shape) for name, extra in self.cell.parameters.items()}
        return Chain, (replace(self.cell, parameters=parameters), self.hidden, self.recurrent, self.zoneout)

    @functools.cached_property
    def formulas(self) -> dict[Kind, list[tuple[Formula, tuple[Slot, ...], bool]]]:
        """For each kind, the formulas in the order in which a step runs them, the places of their arguments, and
        whether these come as columns.
        """
        found: dict[Kind, list[tuple[Formula, tuple[Slot, ...], bool]]] = {}
        for kind in KINDS:
            found[kind] = []
            for part in reversed(self.parts) if kind in ("partials", "backward") else self.parts:
                formula = part.formula(kind)
                if formula is not None:
                    columns = self.cell.columns if part.columns is None else part.columns
                    slots = tuple(self._place(name) for name in part.arguments(kind))
                    found[kind].append((formula, slots, columns))
        return found

    @functools.cached_property
    def paths(self) -> dict[Formula, str]:
        """The ways of their own by which backward formulas reach the state before the step."""
        return {part.backward: part.path for part in self.parts if part.backward is not None and part.path}

    def place(self, name: str) -> Slot:
        """Return where an argument of one of the cell's own formulas is found."""
        slot = self.places.get(name)
        if slot is None:
            slot = self.places[name] = self._place(self._renamed.get(name, name))
        return slot

    def _place(self, name: str) -> Slot:
        slot = self._places.get(name)
        if slot is None:
            slot = self.cell.place_of(name, "v" if name[:1] == "v" else "d")
            if slot is None:  # what masks read and write, s_new, s_kept and the mask itself
                slot = Slot(name, name.removesuffix("_t"), "step")
            if slot.block is not None:
                start, stop = slot.block.start * self.hidden, slot.block.stop * self.hidden
                slot = slot._replace(block=slice(start, stop))
            self._places[name] = slot
        return slot

    @functools.cached_property
    def needs(self) -> frozenset[str]:
        """Names of all arguments: some need memory that others do not."""
        return frozenset(slot.name for calls in self.formulas.values() for _, slots, _ in calls for slot in slots)

    @functools.cached_property
    def blocks_by_name(self) -> dict[str, tuple[str, slice]]:
        """The array and the columns of each slab, and of neighbouring ones, by their names in a trace."""
        found: dict[str, tuple[str, slice]] = {}
        for letters, (start, stop) in self.cell.runs.items():
            for name, array in ((letters, "a"), (f"da_{letters}", "da")):
                found[name] = array, slice(start * self.hidden, stop * self.hidden)
        return found

    def work(self, given: Mapping[str, Array], count: int, dtype: np.dtype[Any]) -> dict[str, Array]:
        """Return memory for the cell's `work`, (count, ...) each."""
        return {name: memory.empty((count, *shape(given)), dtype) for name, shape in self.cell.work.items()}

    def _products(self, kind: str) -> list[tuple[slice, slice, str]]:
        cell, H = self.cell, self.hidden
        found: list[tuple[slice, slice, str]] = []
        for gate, (name, slab) in enumerate(zip(cell.gate_names, cell.slabs_of(kind), strict=True)):
            place = cell.slabs.index(slab)
            rows, columns = slice(gate * H, (gate + 1) * H), slice(place * H, (place + 1) * H)
            source = "x_t" if kind == "input" else cell.hidden_inputs.get(name, f"{cell.recurrent_state}_in")
            if found and found[-1][1].stop == columns.start and found[-1][2] == source:
                rows, columns = slice(found[-1][0].start, rows.stop), slice(found[-1][1].start, columns.stop)
                found.pop()
            found.append((rows, columns, source))
        return found


def _no_shape(layer: Any) -> tuple[int, ...]:
    return ()


def _runs(names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return where each stretch of `names` begins and ends, under the names written together."""
    ends = range(1, len(names) + 1)
    return {"".join(names[start:stop]): (start, stop) for stop in ends for start in range(stop)}
