"""The edge between a caller's arrays and the engine's: one call's sizes, checks, order of sequences and axes.

Whatever has the form of the input, of the output, of the states or of a given array comes in and goes out here:
signals, gradients, and changes. In the engine all are time-major, (T, N, ·), sequences sorted by length.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.engine.batch import Batch
from rnn_numpy.errors import DTypeError, OptionError, ShapeError

if TYPE_CHECKING:
    from rnn_numpy.engine.options import Options

Array = NDArray[Any]


class Edge:
    """One call of a layer: its sizes, and the way of arrays in and out.

    `signature` is what a layer must agree with to use a trace of the call; `factors` are the dropout masks between
    layers, (T, N, directions * H), and `given` the call's given arrays, (N, ·), in the engine's order.
    """

    def __init__(self, layer: Options, unbatched: bool, packed: PackedSequence | None, batch: Batch) -> None:
        self.unbatched, self.packed, self.batch = unbatched, packed, batch
        self.signature = layer.signature()
        self.batch_first, self.dtype, self.input_size = layer.batch_first, layer.params.dtype, layer.input_size
        self.widths = layer.widths
        self.output_width = layer.num_directions * layer.output_width
        self.rows = layer.num_layers * layer.num_directions
        self.factors: list[Array] | None = None
        self.given: dict[str, Array] = {}

    @classmethod
    def opened(
        cls, layer: Options, where: str, x: Any, lengths: ArrayLike | None, copied: bool | None
    ) -> tuple[Edge, Array]:
        """Check x and lengths; return the call's edge and x as (T, N, D) in the engine's order; where `copied` is None,
        a view in the caller's.
        """
        packed, dtype, D = None, layer.params.dtype, layer.input_size
        if isinstance(x, PackedSequence):
            packed = x
            if lengths is not None:
                raise OptionError(f"{where}: a PackedSequence brings its own lengths; leave lengths out")
            if packed.data.ndim != 2:
                raise ShapeError(
                    f"{where}: packed x must hold rows (D,), data (sum of lengths, D); got data {packed.data.shape}"
                )
            x, lengths = packed.padded(batch_first=layer.batch_first)
        array, symbols = arguments.array_of(where, "x", x, dtype), "(N, T, D)" if layer.batch_first else "(T, N, D)"
        if array.ndim not in (2, 3):
            raise ShapeError(
                f"{where}: x must be {symbols}, or (T, D) for one sequence; got {array.ndim} axes, {array.shape}"
            )
        unbatched = array.ndim == 2
        if array.shape[-1] != D:
            letters = "(T, D)" if unbatched else symbols
            raise ShapeError(f"{where}: x must have shape {letters} with D = input_size = {D}; got {array.shape}")
        signal = array[:, None] if unbatched else array.swapaxes(0, 1) if layer.batch_first else array
        T, N = signal.shape[:2]
        if T == 0:
            raise ShapeError(f"{where}: x must have at least one step, T >= 1; got shape {array.shape} with T = 0")
        batch = Batch(T, N, None if lengths is None else arguments.sequence_lengths(where, lengths, T, N))
        if copied is None:
            pass
        elif batch.sort is not None:
            signal = batch.sorted(signal, 1)
        elif copied:
            given, signal = signal, memory.empty(signal.shape, dtype)
            signal[...] = given
        else:
            # As forward's copy is; another memory order can take another route through the matrix product.
            signal = np.ascontiguousarray(signal)
        return cls(layer, unbatched, packed, batch), signal

    def single_steps(self, n: NDArray[np.intp], dtype: np.dtype[Any]) -> Edge:
        """Return the edge of a call of one step whose sequences are these; one may stand in it several times."""
        edge = copy.copy(self)
        edge.batch, edge.dtype, edge.factors = Batch(1, len(n), None), dtype, None
        edge.given = {
            name: array[n].astype(dtype) if array.dtype == self.dtype else array[n]
            for name, array in self.given.items()
        }
        return edge

    def window(self, steps: range) -> Edge:
        """Return the edge of some neighbouring steps of this call."""
        edge = copy.copy(self)
        edge.batch, edge.factors, edge.packed = self.batch.window(steps), None, None
        return edge

    def checked(self, where: str, layer: Options) -> Edge:
        """Return this edge if `layer` is one that could have made it."""
        if self.signature != layer.signature():
            raise ShapeError(f"{where}: trace was recorded by a layer with other options, not by this {layer!r}")
        return self

    # ------------------------------------------------------------------------------------------------ signals

    def like_input(self, where: str, name: str, value: Any) -> Array | None:
        """Check what must have the form of x; return it as (T, N, D), zeros past the ends; None for None."""
        found = self._signal(where, name, value, "x", self.input_size, "D")
        return None if found is None else self.existing(found)

    def like_output(self, where: str, name: str, value: Any) -> Array | None:
        """Check what must have the form of output; return it as (T, N, directions * H); None for None."""
        return self._signal(where, name, value, "output", self.output_width, "directions * H")

    def _signal(self, where: str, name: str, value: Any, model: str, width: int, letters: str) -> Array | None:
        if value is None:
            return None
        T, N = self.batch.T, self.batch.N
        shape: tuple[int, ...]
        if self.packed is not None:
            if not isinstance(value, PackedSequence) or not self.packed.same_layout(value):
                raise ShapeError(
                    f"{where}: x was packed, so {name} must be a PackedSequence with the layout of {model}"
                )
            value = value.padded(batch_first=self.batch_first)[0]
        array = arguments.array_of(where, name, value, self.dtype)
        if self.unbatched:
            symbols, shape = f"(T, {letters})", (T, width)
        elif self.batch_first:
            symbols, shape = f"(N, T, {letters})", (N, T, width)
        else:
            symbols, shape = f"(T, N, {letters})", (T, N, width)
        arguments.shaped(where, name, array, symbols, shape, f"It must have the shape of {model}")
        array = self.time_major(array)
        return array if self.batch.sort is None else self.batch.sorted(array, 1)

    def existing(self, array: Array) -> Array:
        """Return (T, N, K) with zeros past the ends of sequences."""
        return array if self.batch.alive is None else np.where(self.batch.exists(), array, 0)

    def time_major(self, array: Array) -> Array:
        """Return a caller's signal as (T, N, K)."""
        if self.unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first else array

    def signal_out(self, array: Array) -> Any:
        """Return (T, N, K) in the caller's order and axes; packed, where the input was."""
        if self.batch.unsort is not None:
            array = self.batch.unsorted(array, 1)
        if self.packed is not None:
            return self.packed.pack(array)
        if self.unbatched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    # ------------------------------------------------------------------------------------------------ states

    def states_in(self, where: str, name: str, value: Any) -> list[Array | None]:
        """Check initial states, gradients of final ones, or changes; return one (layers * directions, N, H) for each
        state, or None for zeros.
        """
        states = tuple(self.widths)
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
        batch = self.batch
        sizes: tuple[int, ...] = () if self.unbatched else (batch.N,)
        symbols = "(layers * directions, H)" if self.unbatched else "(layers * directions, N, H)"
        checked: list[Array | None] = []
        for (state, H), part in zip(self.widths.items(), value, strict=True):
            if part is None and len(states) > 1:
                checked.append(None)
                continue
            full = name.replace("h", state, 1)
            array = arguments.array_of(where, full, part, self.dtype)
            hint = "States keep this shape with batch_first, too" if self.batch_first else ""
            arguments.shaped(where, full, array, symbols, (self.rows, *sizes, H), hint)
            array = array.reshape(self.rows, batch.N, H)
            checked.append(array if batch.sort is None else batch.sorted(array, 1))
        return checked

    def states_out(self, states: Sequence[Array]) -> tuple[Array, ...]:
        """Return (layers * directions, N, H), one for each state, in the caller's order and axes."""
        if self.batch.unsort is not None:
            states = [self.batch.unsorted(array, 1) for array in states]
        return tuple(array[:, 0] for array in states) if self.unbatched else tuple(states)

    def like_records(self, where: str, layer: Options, values: Mapping[str, Any] | None) -> dict[str, Array]:
        """Check gradients of records that a loss may read; return them as (T, N, ·), zeros past the ends."""
        values, known = {} if values is None else values, layer.cell.from_loss
        if not isinstance(values, Mapping) or set(values) - set(known):
            is_mapping = isinstance(values, Mapping)
            got = [name for name in values if name not in known] if is_mapping else type(values).__name__
            rule = f"be a dict with names among {', '.join(known)}" if known else "be left out: the layer has none"
            raise OptionError(f"{where}: drecords must {rule}; got {got}")
        found: dict[str, Array] = {}
        for name, value in values.items():
            width, title = layer.width_of(layer.cell.records[name], self.given), f"drecords[{name!r}]"
            array = self._signal(where, title, value, f"trace.{name}", width, "width")
            if array is not None:
                found[name] = self.existing(array)
        return found

    # ------------------------------------------------------------------------------------------------ given arrays

    def give(self, layer: Options, given: dict[str, Array]) -> None:
        """Take the call's given arrays, from `given_in`; on them widths of states may depend."""
        self.given = given
        sizes = {state: width(layer, given) for state, width in layer.cell.state_widths.items()}
        self.widths = {**self.widths, **sizes}

    def given_in(
        self, where: str, layer: Options, values: Mapping[str, Any] | None, *, argument: str = "given"
    ) -> dict[str, Array]:
        """Check the call's given arrays, or changes of them; return them with the batch in front, in the engine's
        order, copied. Changes, `argument` "vgiven", must have the sizes of what they are the changes of.

        One that has more than one axis beside the batch's comes as signals do, its first axis in place of the time.
        """
        wanted = layer.cell.given
        if argument == "vgiven":
            wanted = {name: given for name, given in wanted.items() if given.differentiable}
        values = {} if values is None else values
        if not isinstance(values, Mapping) or set(values) - set(wanted):
            is_mapping = isinstance(values, Mapping)
            got = [name for name in values if name not in wanted] if is_mapping else type(values).__name__
            rule = f"be a dict with names among {', '.join(wanted)}" if wanted else "be left out: the layer reads none"
            raise OptionError(f"{where}: {argument} must {rule}; got {got}")
        sizes = layer.given_sizes()
        for name, array in self.given.items():
            sizes.update(zip(layer.cell.given[name].shape, array.shape[1:], strict=True))
        found: dict[str, Array] = {}
        for name, given in wanted.items():
            if values.get(name) is None:
                continue
            title = f"{argument}[{name!r}]"
            if given.differentiable:
                array = arguments.array_of(where, title, values[name], self.dtype)
            else:
                array = arguments.as_array(where, title, values[name])
            axes = ("N", *given.shape)
            if self.unbatched:
                axes = given.shape
            elif len(given.shape) > 1 and not self.batch_first:
                axes = (given.shape[0], "N", *given.shape[1:])
            symbols = f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
            known = {**sizes, "N": self.batch.N}
            if array.ndim != len(axes) or any(
                known.get(axis, n) != n for axis, n in zip(axes, array.shape, strict=True)
            ):
                numbers = ", ".join(str(known.get(axis, axis)) for axis in axes)
                raise ShapeError(f"{where}: {title} must have shape {symbols} = ({numbers}); got {array.shape}")
            sizes.update(zip(axes, array.shape, strict=True))
            if self.unbatched:
                array = array[None]
            elif axes[0] != "N":
                array = array.swapaxes(0, 1)
            found[name] = np.array(self.batch.sorted(array, 0), order="C")
        return found

    def given_out(self, array: Array, axes: int) -> Array:
        """Return (N, ·), what has the form of a given array, in the caller's order and axes."""
        array = self.batch.unsorted(array, 0)
        if self.unbatched:
            alone: Array = array[0]
            return alone
        return array.swapaxes(0, 1) if axes > 1 and not self.batch_first else array
