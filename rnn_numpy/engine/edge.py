"""What a recurrent layer is, apart from its passes: its options, its parameters, and the edge, at which callers' arrays
are checked, turned into the engine's order, and back.

It knows no time loop and no formula: those are the driver's and the cells'.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine import masks
from rnn_numpy.engine.cell import Cell
from rnn_numpy.engine.timeline import Plan
from rnn_numpy.engine.trace import Trace
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

Array = NDArray[Any]


@dataclass(frozen=True)
class Direction:
    """One direction of one layer: its name, its row in arrays of initial and final states, its columns in outputs."""

    name: str
    layer: int
    reverse: bool
    row: int
    columns: slice


@dataclass
class Context:
    """What the backward pass must know of the call that made a trace.

    `factors` are the dropout masks between layers, sorted; `packed` is the input where that was packed.
    """

    plan: Plan
    unbatched: bool
    signature: tuple[Any, ...]
    factors: list[Array] | None = None
    packed: PackedSequence | None = None


class Base:
    """Options, parameters and edge of a recurrent layer; see `rnn_numpy.engine.recurrent.Recurrent`."""

    cell: Cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        recurrent_dropout: float = 0.0,
        zoneout: float | tuple[float, ...] = 0.0,
        dtype: DTypeLike = np.float64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        kind = type(self).__name__
        self.input_size = arguments.positive_int(kind, "input_size", input_size)
        self.hidden_size = arguments.positive_int(kind, "hidden_size", hidden_size)
        self.num_layers = arguments.positive_int(kind, "num_layers", num_layers)
        self.bias = arguments.flag(kind, "bias", bias)
        self.batch_first = arguments.flag(kind, "batch_first", batch_first)
        self.dropout = arguments.probability(kind, "dropout", dropout)
        self.bidirectional = arguments.flag(kind, "bidirectional", bidirectional)
        self.recurrent_dropout = arguments.probability(kind, "recurrent_dropout", recurrent_dropout)
        rates = tuple(zoneout) if isinstance(zoneout, tuple | list) else (zoneout,) * len(self.cell.states)
        if len(rates) != len(self.cell.states):
            names = ", ".join(self.cell.states)
            raise OptionError(f"{kind}: zoneout must be one number, or one for each state, {names}; got {zoneout!r}")
        self.zoneout = tuple(arguments.probability(kind, "zoneout", rate) for rate in rates)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"{kind}: dropout = {self.dropout} has no effect with num_layers = 1: it acts between layers",
                UserWarning,
                stacklevel=3,
            )
        self.rng = arguments.generator(kind, rng)
        self._layers = [self._directions(layer) for layer in range(self.num_layers)]
        self.params = Parameters(self._shapes(), arguments.layer_dtype(kind, dtype))
        # torch's default for all recurrent parameters, biases among them, drawn in this order.
        bound = 1 / np.sqrt(self.hidden_size)
        self.params.flat[:] = self.rng.uniform(-bound, bound, self.params.flat.size)
        for direction in itertools.chain(*self._layers):
            for name, extra in self.cell.parameters.items():
                if extra.initial is not None:
                    self.params[f"{name}_{direction.name}"][...] = extra.initial

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of parameters, inputs and outputs."""
        return self.params.dtype

    @property
    def num_directions(self) -> int:
        """2 where bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def state_dict(self) -> dict[str, Array]:
        """Return copies of the parameters under torch.nn's names, in torch.nn's order."""
        return self.params.state_dict()

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Copy parameters in; see `Parameters.load_state_dict` for what is refused."""
        self.params.load_state_dict(mapping)

    def astype(self, dtype: DTypeLike) -> Self:
        """Return a twin of this layer with its parameters converted to `dtype` (float32, float64, complex128).

        Raises
        ------
        DTypeError
            `dtype` is another one, or would drop imaginary parts.
        """
        twin = copy.copy(self)
        twin.params = arguments.converted(type(self).__name__, self.params, dtype)
        return twin

    # ------------------------------------------------------------------------------------------------ parameters

    def _width(self, state: str) -> int:
        """Return the number of units of a state."""
        return self.hidden_size

    @property
    def _output_width(self) -> int:
        """Number of units of the output in one direction."""
        return self._width(self.cell.states[0])

    def _directions(self, layer: int) -> list[Direction]:
        """Return the one or two directions of a layer, in torch's order."""
        H, names = self._output_width, (f"l{layer}", f"l{layer}_reverse")[: self.num_directions]
        return [
            Direction(name, layer, bool(k), layer * self.num_directions + k, slice(k * H, (k + 1) * H))
            for k, name in enumerate(names)
        ]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows = self.cell.gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for direction in itertools.chain(*self._layers):
            inputs = self.input_size if direction.layer == 0 else self.num_directions * self._output_width
            shapes[f"weight_ih_{direction.name}"] = (rows, inputs)
            shapes[f"weight_hh_{direction.name}"] = (rows, self._output_width)
            if self.bias:
                shapes[f"bias_ih_{direction.name}"] = (rows,)
                shapes[f"bias_hh_{direction.name}"] = (rows,)
            for name, extra in self.cell.parameters.items():
                shapes[f"{name}_{direction.name}"] = extra.shape(self)
        return shapes

    def _weights(self, params: Parameters, direction: Direction) -> dict[str, Array]:
        """Return the arrays of one direction of one layer, of parameters or of gradients, without their suffix."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        return {name: params[f"{name}_{direction.name}"] for name in (*names, *self.cell.parameters)}

    def _symbol(self, name: str) -> str:
        """Return what formulas call a parameter: W_ih for weight_ih."""
        extra = self.cell.parameters.get(name)
        return name.replace("weight", "W").replace("bias", "b") if extra is None else extra.symbol

    def _signature(self) -> tuple[Any, ...]:
        """Return what a trace must agree with."""
        return type(self), self.cell.states, self.cell.step_forward, self.params.shapes, self.dtype, self.batch_first

    # ------------------------------------------------------------------------------------------------ the edge

    def _inputs(self, where: str, x: Any, lengths: ArrayLike | None, copied: bool) -> tuple[Context, Array]:
        """Check x and lengths; return the call's context and x as (T, N, D) in the engine's order."""
        packed = x if isinstance(x, PackedSequence) else None
        if packed is not None:
            if lengths is not None:
                raise OptionError(f"{where}: a PackedSequence brings its own lengths; leave lengths out")
            if packed.data.ndim != 2:
                raise ShapeError(
                    f"{where}: packed x must hold rows (D,), data (sum of lengths, D); got data {packed.data.shape}"
                )
            x, lengths = packed.padded(batch_first=self.batch_first)
        array = arguments.array_of(where, "x", x, self.dtype)
        D, symbols = self.input_size, "(N, T, D)" if self.batch_first else "(T, N, D)"
        if array.ndim not in (2, 3):
            raise ShapeError(
                f"{where}: x must be {symbols}, or (T, D) for one sequence; got {array.ndim} axes, {array.shape}"
            )
        unbatched = array.ndim == 2
        if array.shape[-1] != D:
            letters = "(T, D)" if unbatched else symbols
            raise ShapeError(f"{where}: x must have shape {letters} with D = input_size = {D}; got {array.shape}")
        signal = self._time_major(array, unbatched)
        T, N = signal.shape[:2]
        if T == 0:
            raise ShapeError(f"{where}: x must have at least one step, T >= 1; got shape {array.shape} with T = 0")
        plan = Plan(T, N, arguments.sequence_lengths(where, lengths, T, N))
        if plan.sort is None and not copied:
            # As forward's copy is; another memory order can take another route through the matrix product.
            signal = np.ascontiguousarray(signal)
        if plan.sort is None and copied:
            copied_signal = memory.empty(signal.shape, self.dtype)
            copied_signal[...] = signal
            signal = copied_signal
        return Context(plan, unbatched, self._signature(), packed=packed), plan.sorted(signal, 1)

    def _states_in(self, where: str, name: str, value: Any, context: Context) -> list[Array | None]:
        """Check initial states or gradients of final ones; return one (layers * directions, N, H) per state, or None
        for zeros.
        """
        states = self.cell.states
        if value is None:
            return [None] * len(states)
        if len(states) == 1:
            if isinstance(value, tuple):
                raise DTypeError(
                    f"{where}: {name} must be one array, the state {states[0]}; got a tuple of {len(value)}"
                )
            value = (value,)
        if not isinstance(value, tuple) or len(value) != len(states):
            wanted = f"a tuple of {len(states)} arrays, {', '.join(name.replace('h', state, 1) for state in states)}"
            got = f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
            raise DTypeError(f"{where}: {name} must be {wanted}; got {got}")
        rows, plan = self.num_layers * self.num_directions, context.plan
        batch: tuple[int, ...] = () if context.unbatched else (plan.N,)
        symbols = "(layers * directions, H)" if context.unbatched else "(layers * directions, N, H)"
        checked: list[Array | None] = []
        for state, part in zip(states, value, strict=True):
            full, H = name.replace("h", state, 1), self._width(state)
            array = arguments.array_of(where, full, part, self.dtype)
            hint = "States keep this shape with batch_first, too" if self.batch_first else ""
            arguments.shaped(where, full, array, symbols, (rows, *batch, H), hint)
            checked.append(plan.sorted(array.reshape(rows, plan.N, H), 1))
        return checked

    def _dropout_factors(
        self, where: str, given: Sequence[ArrayLike] | None, training: bool, plan: Plan
    ) -> list[Array] | None:
        """Return what each layer's output but the last is multiplied with, in the engine's order, or None for no
        dropout.
        """
        count, shape = self.num_layers - 1, (plan.T, plan.N, self.num_directions * self._output_width)
        if given is not None:
            if not isinstance(given, Sequence) or len(given) != count:
                got = len(given) if isinstance(given, Sequence) else type(given).__name__
                raise ShapeError(f"{where}: dropout_masks must be a list of num_layers - 1 = {count} arrays; got {got}")
            symbols = "(T, N, directions * H)"
            checked = [self._mask(where, f"dropout_masks[{i}]", mask, symbols, shape) for i, mask in enumerate(given)]
            return [plan.sorted(mask, 1) for mask in checked]
        if not training or self.dropout == 0 or count == 0:
            return None
        return [plan.sorted(self._drawn(self.dropout, shape), 1) for _ in range(count)]

    def _state_masks(
        self, where: str, recurrent: Any, zoneout: Any, training: bool, plan: Plan
    ) -> dict[str, masks.Masks]:
        """Return the masks of recurrent dropout and zoneout of each layer and direction, in the engine's order."""
        names = [direction.name for direction in itertools.chain(*self._layers)]
        states, found = self.cell.states, dict[str, masks.Masks]()
        for kind, given in (("recurrent_masks", recurrent), ("zoneout_masks", zoneout)):
            if given is None or (isinstance(given, Mapping) and not given):
                continue  # what a trace without such masks has
            if not isinstance(given, Mapping) or sorted(given) != sorted(names):
                got = sorted(given) if isinstance(given, Mapping) else type(given).__name__
                wanted = f"a dict with an entry for each of {', '.join(names)}"
                raise OptionError(f"{where}: {kind} must be {wanted}; got {got}")
        drops = recurrent or (training and self.recurrent_dropout > 0)
        zones = zoneout or any(self.zoneout)
        for name in names if drops or zones else ():
            mask, kept = None, dict[str, Array]()
            if drops:
                shape, title = (plan.N, self._output_width), f"recurrent_masks[{name!r}]"
                if recurrent:
                    mask = self._mask(where, title, recurrent[name], "(N, H)", shape)
                else:
                    mask = self._drawn(self.recurrent_dropout, shape)
                mask = plan.sorted(mask, 0)
            if zoneout and (not isinstance(zoneout[name], tuple | list) or len(zoneout[name]) != len(states)):
                wanted = f"a tuple with an array for each state, {', '.join(states)}"
                entry = zoneout[name]
                got = f"{len(entry)} arrays" if isinstance(entry, tuple | list) else type(entry).__name__
                raise ShapeError(f"{where}: zoneout_masks[{name!r}] must be {wanted}; got {got}")
            for index, state in enumerate(states) if zones else ():
                full, rate = (plan.T, plan.N, self._width(state)), self.zoneout[index]
                if zoneout:
                    title = f"zoneout_masks[{name!r}][{index}]"
                    array = self._mask(where, title, zoneout[name][index], "(T, N, H)", full)
                else:
                    array = self.rng.random(full) < rate if training else np.full(full, rate)
                kept[state] = plan.sorted(array.astype(self.dtype), 1)
            found[name] = masks.Masks(mask, kept)
        return found

    def _drawn(self, rate: float, shape: tuple[int, ...]) -> Array:
        """Return a dropout mask: 0 with probability `rate`, else what keeps the mean; p = 1 leaves nothing to scale."""
        scale = 0.0 if rate == 1 else 1 / (1 - rate)
        mask: Array = np.where(self.rng.random(shape) >= rate, scale, 0).astype(self.dtype)
        return mask

    def _mask(self, where: str, name: str, given: Any, symbols: str, shape: tuple[int, ...]) -> Array:
        """Check a mask that a caller has given."""
        array = arguments.as_array(where, name, given)
        arguments.shaped(where, name, array, symbols, shape)
        if array.dtype.kind not in "biuf" and array.dtype != self.dtype:
            raise DTypeError(f"{where}: {name} must hold real numbers; got dtype {array.dtype}")
        arguments.finite(where, name, array, "index")
        return array.astype(self.dtype)

    def _context(self, where: str, trace: Trace) -> Context:
        if not isinstance(trace, Trace):
            raise DTypeError(f"{where}: trace must be the third result of forward; got {type(trace).__name__}")
        context: Context = trace.context
        if context.signature != self._signature():
            raise ShapeError(f"{where}: trace was recorded by a layer with other options, not by this {self!r}")
        return context

    def _gradient_in(self, where: str, doutput: Any, context: Context) -> Array | None:
        """Check dL/doutput; return it as (T, N, directions * H) in the engine's order."""
        if doutput is None:
            return None
        packed = context.packed
        if packed is not None:
            if not isinstance(doutput, PackedSequence) or not packed.same_layout(doutput):
                raise ShapeError(
                    f"{where}: x was packed, so doutput must be a PackedSequence with the layout of output"
                )
            doutput = doutput.padded(batch_first=self.batch_first)[0]
        plan, width = context.plan, self.num_directions * self._output_width
        array = arguments.array_of(where, "doutput", doutput, self.dtype)
        shape: tuple[int, ...] = (plan.N, plan.T, width) if self.batch_first else (plan.T, plan.N, width)
        symbols = "(N, T, directions * H)" if self.batch_first else "(T, N, directions * H)"
        if context.unbatched:
            symbols, shape = "(T, directions * H)", (plan.T, width)
        arguments.shaped(where, "doutput", array, symbols, shape, "It must have the shape of output")
        return plan.sorted(self._time_major(array, context.unbatched), 1)

    def _time_major(self, array: Array, unbatched: bool) -> Array:
        if unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _to_caller(self, array: Array, context: Context) -> Any:
        """Return (T, N, K) in the caller's order and axes; packed, where the input was."""
        array = context.plan.unsorted(array, 1)
        if context.packed is not None:
            return context.packed.pack(array)
        if context.unbatched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _states_to_caller(self, states: tuple[Array, ...], context: Context) -> tuple[Array, ...]:
        ordered = (context.plan.unsorted(array, 1) for array in states)
        return tuple(array[:, 0] if context.unbatched else array for array in ordered)

    def _options(self) -> list[str]:
        """Return the options that differ from their defaults, for the repr."""
        options = [f"num_layers={self.num_layers}"] if self.num_layers > 1 else []
        options += [] if self.bias else ["bias=False"]
        options += ["batch_first=True"] if self.batch_first else []
        options += [f"dropout={self.dropout}"] if self.dropout else []
        options += ["bidirectional=True"] if self.bidirectional else []
        options += [f"recurrent_dropout={self.recurrent_dropout}"] if self.recurrent_dropout else []
        if any(self.zoneout):
            options.append(f"zoneout={self.zoneout[0] if len(set(self.zoneout)) == 1 else self.zoneout}")
        return [*options, f"dtype={self.dtype}"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([str(self.input_size), str(self.hidden_size), *self._options()])})"
