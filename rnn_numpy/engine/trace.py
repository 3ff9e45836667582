"""The record that a forward pass leaves: named, time-major arrays, read by the backward pass, the debugger and the lab.

State arrays (`h`, `dh`) have T+1 rows, step arrays (`x`, `a`, `da`) have T. With

    forward direction   row t   of a state array is the state before step t, row t+1 the state after it;
    reverse direction   row t+1 of a state array is the state before step t, row t   the state after it,

row 0 of `h` is the initial state of a forward direction (what the lecture writes h[-1]) and the final state of a
reverse one.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.cell import Chain
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import NONE, Masks
from rnn_numpy.engine.step_html import table
from rnn_numpy.engine.walk import Direction
from rnn_numpy.errors import DTypeError, OptionError

Array = NDArray[Any]

_HINT = "Gradients are there once backward or backward_steps has run on this trace"


class GradientPass:
    """What one backward pass has computed for one layer and direction.

    Attributes
    ----------
    arrays : dict of str to ndarray
        dh, da, ...
    reached : int or None
        The step at which the pass stands; None once it has done all.
    """

    def __init__(self, arrays: Any = None, reached: int | None = None) -> None:
        self.arrays: dict[str, Array] = {} if arrays is None else arrays
        self.reached = reached


NOTHING = GradientPass()  # of a trace that no backward pass has begun on


class LayerTrace:
    """What one layer recorded in one direction.

    Attributes
    ----------
    name : str
        "l0", "l0_reverse", "l1", ...: the suffix of the layer's parameters.
    layer : int
    reverse : bool
    x, a, h, ... : ndarray, (T, N, ·) or (T+1, N, ·)
        The recorded arrays; see the module. `names` lists them. Of a cell with gates these are the gates, i, f, g, o
        say; what can be computed from them (a, di, ...) is, when asked for. Past the end of a sequence all
        but x are 0 (in the reverse direction, row `length` of a state array holds the initial state). Rows are in
        the caller's order: where the engine had to sort them by length, the array is a copy, otherwise it is the memory
        that backward reads.
    dh, da, ... : ndarray
        Gradients, once a backward pass has run; those of the latest one. Where it was stopped early, rows that it has
        not completed are NaN, in a copy.
    weights : dict of str to ndarray
        Copies of W_ih and W_hh as they were in the forward pass: the gradient is that of what was computed, whatever
        happened to the parameters since.
    given : dict of str to ndarray, (N, ·)
        The call's given arrays, in the engine's order.
    kept : dict of str to ndarray, (T, N, ·)
        What steps would have to make again in a backward pass, where it is small.
    latest : GradientPass
        The latest backward pass.
    reached : int or None
        The step at which a forward pass stands that is not through; None once it has done all.
    first : int
        The step of the call that row 0 belongs to: of a block of a longer pass, its first one.
    prepared : Prepared, or None
        What the pass was prepared by (see `rnn_numpy.engine.prepared`).
    unsort : ndarray of int, (N,), or None
        Puts the engine's rows into the caller's order; None where they are.
    """

    def __init__(self, direction: Direction, chain: Chain, batch: Batch, masks: Masks = NONE) -> None:
        self.name, self.layer, self.reverse = direction.name, direction.layer, direction.reverse
        self.chain, self.masks = chain, masks
        self.states = chain.cell.states
        self.arrays: dict[str, Array] = {}
        self.given: dict[str, Array] = {}
        self.kept: dict[str, Array] = {}
        self.weights: dict[str, Array] = {}
        self.latest = NOTHING
        self.reached: int | None = None
        self.first = 0
        self.prepared: Any = None
        self._derived = chain.cell.derived
        self._alive, self.unsort = batch.alive, batch.unsort

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays recorded so far, and of those that follow from them."""
        return self.names_of(self.latest)

    def names_of(self, gradients: GradientPass) -> tuple[str, ...]:
        """Return the names of the arrays that there are with a backward pass, or without one that has not begun."""
        found = [name for name in self._derived if name[:1] != "d"]
        names = ["x", *_masked(self.arrays), *found, *self.chain.cell.forward_names, *self.states]
        if gradients.arrays:
            names += [
                *(f"d{state}" for state in self.states),
                *_masked(gradients.arrays),
                *self.chain.cell.gradient_names,
            ]
            names += [name for name in self._derived if name[:1] == "d"]
        return tuple(names)

    def is_state(self, name: str) -> bool:
        """Whether `name` is a state or the gradient of one: an array of T+1 rows."""
        return name in self.states or (name[:1] == "d" and name[1:] in self.states)

    def is_gradient(self, name: str) -> bool:
        """Whether `name` is an array that a backward pass computes, or follows from one."""
        return self.find(name) is None and (name[:1] == "d" or name in self.latest.arrays)

    def find(self, name: str, arrays: Mapping[str, Array] | None = None) -> Array | None:
        """Return a recorded array, or one of `arrays`, or the columns of one that are called by a name of their own, a
        gate's; None where there is none.
        """
        arrays = self.arrays if arrays is None else arrays
        if name in arrays:
            return arrays[name]
        place = self.chain.blocks_by_name.get(name)
        return arrays[place[0]][:, :, place[1]] if place is not None and place[0] in arrays else None

    def stored(self, name: str, gradients: GradientPass | None = None) -> Array:
        """Return the array `name` as the engine holds it: rows sorted by length, longest first."""
        chosen = gradients or self.latest
        if name in self._derived:  # also where the engine has an array of this name, with blocks in its own order
            computed = self.derive(name, lambda argument: self.aligned(self.resolved(argument, chosen), chosen))
            return computed if self._alive is None else np.where(self._alive[:, :, None], computed, 0)
        array = self.find(name)
        if array is None:
            array = self.find(name, chosen.arrays)
        if name in ("a", "da", "scratch") and name not in self.names_of(chosen):
            array = None  # the engine's own memory: gates in its order
        if array is None:
            has, hint = ", ".join(self.names), "" if chosen.arrays else f". {_HINT}"
            raise AttributeError(f"the trace of {self.name} has no array {name!r}; it has {has}{hint}")
        return array

    def derive(self, name: str, find: Callable[[str], Array]) -> Array:
        """Compute an array from those that `find` returns."""
        function = self._derived[name]
        names = inspect.signature(function).parameters
        return function(
            *(
                self.bias if name == "b" else self.weights[name] if name in self.weights else find(name)
                for name in names
            )
        )

    @property
    def bias(self) -> Array:
        """The sum of the biases, blocks in the parameters' order; zeros without."""
        W_hh = self.weights["W_hh"]
        return sum(
            (self.weights[name] for name in ("b_ih", "b_hh") if name in self.weights), np.zeros(len(W_hh), W_hh.dtype)
        )

    def is_derived(self, name: str) -> bool:
        """Whether an array is computed when asked for."""
        return name in self._derived

    def aligned(self, name: str, gradients: GradientPass) -> Array:
        """Return the array whose row t belongs to step t, (T, N, ·), for a name as a Step has it; rows of a step in the
        engine's order.
        """
        before, after = (1, 0) if self.reverse else (0, 1)
        if name.endswith("_prev"):
            return self.stored(name[:-5], gradients)[before : before + len(self)]
        array = self.stored(name, gradients)
        return array[after : after + len(self)] if self.is_state(name) else array

    def resolved(self, name: str, gradients: GradientPass) -> str:
        """Return the name of the array that a formula means by `name`: h_in is h_prev but for recurrent dropout; h, dh
        are what the cell itself computes and gets, with zoneout h_new, dh_new.
        """
        present = self.find(name) is not None or self.find(name, gradients.arrays) is not None
        if name.endswith("_in") and not present:
            return name[:-3] + "_prev"
        fresh = name + "_new"
        return fresh if fresh in self.arrays or fresh in gradients.arrays else name

    def exists(self, index: int) -> Array | None:
        """Return which sequences have step `index`, (N, 1), in the caller's order; None for all."""
        if self._alive is None:
            return None
        alive: Array = self._alive[index] if self.unsort is None else self._alive[index][self.unsort]
        return alive[:, None]

    def row(self, name: str, index: int, gradients: GradientPass) -> Array:
        """Return row `index` of the array `name`, (N, ·), in the caller's order."""
        row: Array = self.stored(name, gradients)[index]
        return read_only(row if self.unsort is None else row[self.unsort])

    def write(self, name: str, index: int, value: Array, gradients: GradientPass) -> None:
        """Write row `index` of a state or of a state's gradient, (N, ·) in the caller's order, for the pass to read."""
        row = (self.arrays if name in self.arrays else gradients.arrays)[name][index]
        row[...] = value if self.unsort is None else value[np.argsort(self.unsort)]

    def __getattr__(self, name: str) -> Array:
        # Reached for recorded names only: Python looks for real attributes first.
        if name.startswith("_") or "latest" not in self.__dict__:
            raise AttributeError(name)
        array = self.stored(name)
        reached = self.latest.reached if self.is_gradient(name) else self.reached
        if reached is not None and name != "x":
            array = array.copy()
            if not self.is_gradient(name):
                # Of a state, the row after a step belongs to it.
                state = int(self.is_state(name))
                array[slice(0, reached) if self.reverse else slice(reached + 1 + state, None)] = np.nan
            # Of the first state's gradient, the row that the last step added to is complete, too; of a further one's,
            # it still lacks what comes through the first.
            elif self.reverse:
                array[reached + (2 if name == "d" + self.states[0] else 1) :] = np.nan
            else:
                array[: reached + (1 if name[1:] in self.states[1:] else 0)] = np.nan
        return read_only(array if self.unsort is None else array[:, self.unsort])

    def __getitem__(self, t: int) -> Step:
        steps = len(self)
        try:
            index = operator.index(t)
        except TypeError:
            raise DTypeError(f"trace[{t!r}]: a step is one integer t, 0 <= t < T; for many, take the arrays") from None
        if not -steps <= index < steps:
            raise IndexError(
                f"trace[{t}]: t must be in [-T, T) = [-{steps}, {steps}); negative ones count from the end"
            )
        return Step(self, index % steps)

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def __iter__(self) -> Iterator[Step]:
        return (self[t] for t in range(len(self)))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.names]

    def __repr__(self) -> str:
        rows = "\n".join(f"  {name:<8} {self.stored(name).shape}" for name in self.names)
        return f"LayerTrace {self.name}: T = {len(self)}\n{rows}"


class Step:
    """One time step of one layer and direction: the arrays of the trace at this step under index-free names.

    Attributes
    ----------
    t, layer : int
    reverse : bool
    recorded : LayerTrace
        What the step is of; `index` is its row there, `gradients` the backward pass, None for the latest.
    x, a, h, h_prev, da, dh, dh_prev : ndarray, (N, ·)
        `h_prev` is the state that the step read, `h` the one that it wrote; `dh` is the total gradient at `h` (from the
        loss and from the steps that came after). `names` lists what there is; gradients are there once backward has
        reached the step. Of a further state, c, `dc_prev` is what this step handed back, dc * f, as long as the pass is
        halted here; step t-1 then adds what comes through h, and `dc_prev` is the total gradient at c_{t-1}. Rows are
        read-only; `write` changes what the next step reads. With zoneout the cell's own results are `h_new`, `c_new`,
        their gradients `dh_new`, `dc_new`.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import RNN
    >>> output, h_n, trace = RNN(1, 1, rng=0).forward(np.ones((3, 1, 1)))
    >>> trace[1]
    step t = 1 of l0
      name     shape             min        max       norm   non-finite
      x        (1, 1)       1.00e+00   1.00e+00   1.00e+00   0
      h_prev   (1, 1)      -9.23e-01  -9.23e-01   9.23e-01   0
      a        (1, 1)      -1.19e+00  -1.19e+00   1.19e+00   0
      h        (1, 1)      -8.29e-01  -8.29e-01   8.29e-01   0
    """

    __slots__ = ("gradients", "index", "recorded")

    def __init__(self, trace: LayerTrace, t: int, gradients: GradientPass | None = None) -> None:
        self.recorded = trace
        self.index = t
        self.gradients = gradients

    @property
    def t(self) -> int:
        """The step, counted from the beginning of the sequence."""
        return self.index + self.recorded.first

    def _pass(self) -> GradientPass:
        """Return the backward pass that this step belongs to: its own, or the trace's latest."""
        return self.gradients or self.recorded.latest

    def _is_done(self) -> bool:
        """Whether that pass has done this step."""
        reached = self._pass().reached
        return reached is None or (self.index <= reached if self.reverse else self.index >= reached)

    def _is_recorded(self) -> bool:
        """Whether the forward pass has done this step."""
        reached = self.recorded.reached
        return reached is None or (self.index >= reached if self.reverse else self.index <= reached)

    @property
    def layer(self) -> int:
        """Number of the layer, 0 the lowest."""
        return self.recorded.layer

    @property
    def reverse(self) -> bool:
        """Whether the step belongs to the direction that runs from the end to the start."""
        return self.recorded.reverse

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays of this step: what the step reads before what it writes."""
        states = self.recorded.states
        if not self._is_recorded():
            return ("x",)
        names = self.recorded.names_of(self._pass() if self._is_done() else NOTHING)
        gradients = [name + "_prev" for name in names if name[:1] == "d" and self.recorded.is_state(name)]
        return ("x", *(state + "_prev" for state in states), *names[1:], *gradients)

    def __getattr__(self, name: str) -> Array:
        if name.startswith("_"):
            raise AttributeError(name)
        trace = self.recorded
        gradients = self._pass()
        if not self._is_recorded() and name != "x" and name in trace.names_of(NOTHING):
            raise AttributeError(
                f"step {self.t} has no {name} yet: the forward pass stands at t = {(trace.reached or 0) + trace.first}"
            )
        if gradients.arrays and trace.is_gradient(name.removesuffix("_prev")) and not self._is_done():
            stands = (gradients.reached or 0) + trace.first
            raise AttributeError(f"step {self.t} has no {name} yet: the backward pass stands at t = {stands}")
        before, after = (1, 0) if trace.reverse else (0, 1)
        if name.endswith("_prev") and trace.is_state(name[:-5]):
            return trace.row(name[:-5], self.index + before, gradients)
        if trace.is_derived(name):
            array = trace.derive(name, lambda argument: self.__getattr__(trace.resolved(argument, gradients)))
            exists = trace.exists(self.index)
            return read_only(array if exists is None else np.where(exists, array, 0))
        return trace.row(name, self.index + (after if trace.is_state(name) else 0), gradients)

    def write(self, name: str, value: Any) -> None:
        """What if? Put another value in place of what the next step of this pass reads, and let the pass go on.

        Rows of a step are read-only: a slip in a debugger changes no gradient. This method is the one way to change
        one, and knows the order in which the engine holds the sequences.

        Parameters
        ----------
        name : str
            Halted in a backward pass the gradient of a state before the step, "dh_prev": the pass goes on as if the
            loss and all later steps had said this. All that follows changes by exactly the linear response. Of a
            further state, "dc_prev" is what came through c alone; step t-1 adds its own. Halted in a forward pass the
            state after the step, "h" or "c".
        value : ndarray, (N, ·), or callable
            The layer's dtype, the caller's order; or a function of the present value that returns it.

        Raises
        ------
        OptionError
            The pass does not stand at this step, or no pass reads `name` next, or a sequence would be changed that has
            no such step.
        ShapeError, DTypeError
            The value does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from rnn_numpy import RNN
        >>> rnn = RNN(1, 1, rng=0)
        >>> output, h_n, trace = rnn.forward(np.ones((3, 1, 1)))
        >>> steps = rnn.backward_steps(trace, np.ones((3, 1, 1)))
        >>> next(steps).write("dh_prev", lambda dh_prev: 0 * dh_prev)  # nothing reaches the steps before
        >>> for step in steps:
        ...     pass
        >>> steps.result.dh_0
        array([[[0.]]])
        """
        trace, gradients, where = self.recorded, self._pass(), "Step.write"
        # A pass that stands somewhere has a place, `reached`; a backward pass can only begin when forward is through.
        forward = trace.reached is not None
        stands = trace.reached if forward else gradients.reached
        names = trace.states if forward else tuple(f"d{state}_prev" for state in trace.states)
        if stands != self.index:
            place = "is over" if stands is None else f"stands at t = {stands + trace.first}"
            raise OptionError(
                f"{where}: step {self.t} of {trace.name} is not where a pass is halted: the pass {place}. Write at the "
                "step that `next` has just returned"
            )
        if name not in names:
            kind = "forward" if forward else "backward"
            raise OptionError(
                f"{where}: name must be what a {kind} pass reads next, {' or '.join(map(repr, names))}; got {name!r}"
            )
        present = getattr(self, name)
        value = arguments.array_of(where, "value", value(present) if callable(value) else value, present.dtype)
        arguments.shaped(where, "value", value, f"(N, {name})", present.shape)
        exists = trace.exists(self.index)
        if exists is not None:
            changed = ~exists[:, 0] & (value != present).any(axis=-1)
            if changed.any():
                n = int(changed.argmax())
                raise OptionError(f"{where}: sequence n = {n} has no step {self.t}; leave its row of {name} as it is")
        before, after = (1, 0) if trace.reverse else (0, 1)
        array, offset = (name, after) if forward else (name.removesuffix("_prev"), before)
        trace.write(array, self.index + offset, value, gradients)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.names]

    def __repr__(self) -> str:
        lines = [
            f"step t = {self.t} of {self.recorded.name}",
            "  name     shape             min        max       norm   non-finite",
        ]
        for name in self.names:
            lines.append("  {:<8} {:<10} {:>10} {:>10} {:>10}   {}".format(*_row(name, getattr(self, name))))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [_row(name, getattr(self, name)) for name in self.names]
        return table(f"step t = {self.t} of {self.recorded.name}", rows)


class CallRecord:
    """What every forward pass keeps of its call: masks, to repeat it, and the final states."""

    def __init__(self, masks: list[Array] | None, edge: Edge) -> None:
        self.h_n: Any = None
        self.masks = masks
        self.recurrent_masks: dict[str, Array] = {}
        self.zoneout_masks: dict[str, tuple[Array, ...]] = {}
        self.edge = edge


class Trace(CallRecord):
    """What a recurrent layer recorded in one forward pass: one `LayerTrace` per layer and direction.

    `trace["l1_reverse"]` is one of them. `trace[t]`, and the arrays as attributes (`trace.h`), are those of the last
    layer's forward direction: the only one of a plain RNN.

    Attributes
    ----------
    masks : list of ndarray, (T, N, directions * H), or None
        The dropout masks between the layers, 0 or 1/(1-p); hand them to `forward` as `dropout_masks` to repeat the
        pass.
    recurrent_masks : dict of str to ndarray, (N, H)
        By layer and direction, the masks of recurrent dropout, for `forward`'s argument of this name; empty without.
    zoneout_masks : dict of str to tuple of ndarray, (T, N, H)
        The same of zoneout, an array for each state.
    h_n : ndarray, or tuple of ndarray
        The final states as `forward` returned them; None as long as the pass is not through.
    """

    def __init__(self, layers: dict[str, LayerTrace], masks: list[Array] | None, edge: Edge) -> None:
        super().__init__(masks, edge)
        self.layers = layers

    @property
    def top(self) -> LayerTrace:
        """The last layer's forward direction; of a forward pass that is not through, of the last layer so far."""
        found = [layer for layer in self.layers.values() if not layer.reverse]
        if not found:
            raise OptionError("the trace is empty: its forward pass has not begun")
        return found[-1]

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            if key not in self.layers:
                names = ", ".join(map(repr, self.layers)) or "none, its forward pass has not begun"
                raise OptionError(f"trace[{key!r}]: layers and directions are {names}")
            return self.layers[key]
        step: Step = self.top[key]
        return step

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "layers" not in self.__dict__:
            raise AttributeError(name)
        if not self.layers:
            raise AttributeError(f"the trace has no {name} yet: its forward pass has not begun")
        return getattr(self.top, name)

    def __len__(self) -> int:
        return self.edge.batch.T

    def __iter__(self) -> Iterator[Step]:
        return iter(self.top)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(self.top.names if self.layers else ())]

    def __repr__(self) -> str:
        return "\n".join(["Trace", *map(repr, self.layers.values())])


def read_only(array: Array) -> Array:
    """Return a view of an array through which nothing is written."""
    view = array.view()
    view.flags.writeable = False
    return view


def _masked(arrays: Mapping[str, Array]) -> list[str]:
    """Return the names of what recurrent dropout and zoneout put between the states and a cell's formulas."""
    return [name for name in arrays if name.endswith(("_in", "_new"))]


def _row(name: str, array: Array) -> tuple[str, ...]:
    """The fields of a line of the table of a step: name, shape, min, max, norm, count of what is NaN or infinite.

    Of complex numbers, min and max are those of the real part; the norm is of all.
    """
    finite = array[np.isfinite(array)]
    bad = array.size - finite.size
    low, high = (float(finite.real.min()), float(finite.real.max())) if finite.size else (np.nan, np.nan)
    # Scaled by the largest entry, so that the norm of tiny or huge entries neither vanishes nor overflows.
    scale = float(abs(finite).max()) if finite.size else 0.0
    norm = scale * float(np.sqrt(np.sum(abs(finite / scale) ** 2))) if scale > 0 else 0.0
    return name, str(array.shape), f"{low:.2e}", f"{high:.2e}", f"{norm:.2e}", str(bad)
