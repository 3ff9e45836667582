"""What a recurrent layer is, apart from its passes: its options, its parameters, its masks.

It knows no time loop and no formula: those are the driver's and the cells'.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.parametric import Parametric
from rnn_numpy.engine import parts
from rnn_numpy.engine.batch import Batch
from rnn_numpy.engine.cell import Cell, Width
from rnn_numpy.engine.prepared import Shelf
from rnn_numpy.engine.walk import Direction
from rnn_numpy.errors import CellError, DTypeError, OptionError, ShapeError

Array = NDArray[Any]


class Options(Parametric):
    """Options, parameters and masks of a recurrent layer; see `rnn_numpy.engine.recurrent.Recurrent`."""

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
        if not isinstance(getattr(self, "cell", None), Cell):
            raise CellError(
                f"{kind}: a subclass of Recurrent says what a step computes: cell = Cell(...) in the class's body; "
                f"got {type(getattr(self, 'cell', None)).__name__}. examples/run_your_own_cell.py is the smallest one"
            )
        self.input_size = arguments.positive_int(kind, "input_size", input_size)
        self.hidden_size = arguments.positive_int(kind, "hidden_size", hidden_size)
        self.num_layers = arguments.positive_int(kind, "num_layers", num_layers)
        self.bias = arguments.flag(kind, "bias", bias)
        self.batch_first = arguments.flag(kind, "batch_first", batch_first)
        self.dropout = arguments.probability(kind, "dropout", dropout)
        self.bidirectional = arguments.flag(kind, "bidirectional", bidirectional)
        self.recurrent_dropout = arguments.probability(kind, "recurrent_dropout", recurrent_dropout)
        cell = self.with_parts(self.cell)
        if cell is not self.cell:  # a class's own cell stays the class's, which pickle finds by name
            self.cell = cell
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
        self.num_directions = 2 if self.bidirectional else 1
        self.measure()
        self.stack = [self.directions_of(layer) for layer in range(self.num_layers)]
        self.shelf = Shelf()
        self.params = Parameters(self.shapes(), arguments.layer_dtype(kind, dtype))
        self.params.of = type(self).__name__
        # torch's default for all recurrent parameters, biases among them, drawn in this order.
        bound = 1 / np.sqrt(self.hidden_size)
        self.params.flat[:] = self.rng.uniform(-bound, bound, self.params.flat.size)
        for direction in itertools.chain(*self.stack):
            for name, extra in self.cell.parameters.items():
                if extra.initial is not None:
                    self.params[f"{name}_{direction.name}"][...] = extra.initial

    # ------------------------------------------------------------------------------------------------ parameters

    def with_parts(self, cell: Cell) -> Cell:
        """Return the cell that the layer runs: a subclass may put further parts around it."""
        return cell

    def width(self, state: str) -> int:
        """Return the number of units of a state."""
        if state in self.cell.state_widths:
            raise OptionError(
                f"{type(self).__name__}: {state} must have a fixed width here; it is as wide as the memory of a call"
            )
        return self.hidden_size

    def measure(self) -> None:
        """Note the widths of all states; 0 of one that is as wide as a call's given arrays say."""
        cell = self.cell
        self.widths = {state: 0 if state in cell.state_widths else self.width(state) for state in cell.states}
        self.output_width = self.widths[cell.states[0]]
        self.recurrent_width = self.widths[cell.recurrent_state]

    def width_of(self, width: Width, given: Mapping[str, Array]) -> int:
        """Return the width of a record."""
        return width * self.hidden_size if isinstance(width, int) else width(self, given)

    def given_sizes(self) -> dict[str, int]:
        """Return the sizes of axes of given arrays that the layer fixes, by their letters."""
        return {"H": self.hidden_size}

    def directions_of(self, layer: int) -> list[Direction]:
        """Return the one or two directions of a layer, in torch's order."""
        H, names = self.output_width, (f"l{layer}", f"l{layer}_reverse")[: self.num_directions]
        return [
            Direction(name, layer, bool(k), layer * self.num_directions + k, slice(k * H, (k + 1) * H))
            for k, name in enumerate(names)
        ]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of all parameters, and note what each is called where."""
        rows, shapes = self.cell.gates * self.hidden_size, dict[str, tuple[int, ...]]()
        self._titles: dict[str, tuple[list[str], list[str], list[str]]] = {}
        for direction in itertools.chain(*self.stack):
            inputs = self.input_size if direction.layer == 0 else self.num_directions * self.output_width
            own: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, self.recurrent_width)}
            own |= {"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {}
            own |= {name: extra.shape(self) for name, extra in self.cell.parameters.items()}
            symbols, titles = map(self.symbol, own), [self.full_name(name, direction) for name in own]
            self._titles[direction.name] = list(own), list(symbols), titles
            shapes |= zip(titles, own.values(), strict=True)
        return shapes

    def full_name(self, name: str, direction: Direction) -> str:
        """Return what a parameter of one direction of one layer is called in `params`."""
        return f"{name}_{direction.name}"

    def symbol(self, name: str) -> str:
        """Return what formulas call a parameter: W_ih for weight_ih."""
        extra = self.cell.parameters.get(name)
        return name.replace("weight", "W").replace("bias", "b") if extra is None else extra.symbol

    def own(self, params: Parameters, direction: Direction) -> dict[str, Array]:
        """Return the arrays of one direction of one layer, of parameters or of gradients, without their suffix."""
        names, _, titles = self._titles[direction.name]
        return dict(zip(names, map(params.arrays.__getitem__, titles), strict=True))

    def by_symbol(self, params: Parameters, direction: Direction) -> dict[str, Array]:
        """Return the same under the symbols that formulas have for them."""
        _, symbols, titles = self._titles[direction.name]
        return dict(zip(symbols, map(params.arrays.__getitem__, titles), strict=True))

    def signature(self) -> tuple[Any, ...]:
        """Return what a trace must agree with."""
        return (
            type(self),
            self.cell.states,
            self.cell.step_forward,
            self.params.shapes,
            self.params.dtype,
            self.batch_first,
        )

    # ------------------------------------------------------------------------------------------------ masks

    def dropout_factors(
        self, where: str, given: Sequence[ArrayLike] | None, training: bool, batch: Batch
    ) -> list[Array] | None:
        """Return what each layer's output but the last is multiplied with, in the engine's order, or None for no
        dropout.
        """
        count, shape = self.num_layers - 1, (batch.T, batch.N, self.num_directions * self.output_width)
        if given is not None:
            if not isinstance(given, Sequence) or len(given) != count:
                got = len(given) if isinstance(given, Sequence) else type(given).__name__
                raise ShapeError(f"{where}: dropout_masks must be a list of num_layers - 1 = {count} arrays; got {got}")
            symbols = "(T, N, directions * H)"
            checked = [self._mask(where, f"dropout_masks[{i}]", mask, symbols, shape) for i, mask in enumerate(given)]
            return [batch.sorted(mask, 1) for mask in checked]
        if not training or self.dropout == 0 or count == 0:
            return None
        return [batch.sorted(self.drawn_mask(self.dropout, shape), 1) for _ in range(count)]

    def state_masks(
        self, where: str, recurrent: Any, zoneout: Any, training: bool, batch: Batch
    ) -> dict[str, parts.Masks]:
        """Return the masks of recurrent dropout and zoneout of each layer and direction, in the engine's order."""
        if recurrent is None and zoneout is None and not self.recurrent_dropout and not any(self.zoneout):
            return {}
        names = [direction.name for direction in itertools.chain(*self.stack)]
        states, found = self.cell.states, dict[str, parts.Masks]()
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
                shape, title = (batch.N, self.recurrent_width), f"recurrent_masks[{name!r}]"
                if recurrent:
                    mask = self._mask(where, title, recurrent[name], "(N, H)", shape)
                else:
                    mask = self.drawn_mask(self.recurrent_dropout, shape)
                mask = batch.sorted(mask, 0)
            if zoneout and (not isinstance(zoneout[name], tuple | list) or len(zoneout[name]) != len(states)):
                wanted = f"a tuple with an array for each state, {', '.join(states)}"
                entry = zoneout[name]
                got = f"{len(entry)} arrays" if isinstance(entry, tuple | list) else type(entry).__name__
                raise ShapeError(f"{where}: zoneout_masks[{name!r}] must be {wanted}; got {got}")
            for index, state in enumerate(states) if zones else ():
                full, rate = (batch.T, batch.N, self.width(state)), self.zoneout[index]
                if zoneout:
                    title = f"zoneout_masks[{name!r}][{index}]"
                    array = self._mask(where, title, zoneout[name][index], "(T, N, H)", full)
                else:
                    array = self.rng.random(full) < rate if training else np.full(full, rate)
                kept[state] = batch.sorted(array.astype(self.dtype), 1)
            found[name] = parts.Masks(mask, kept)
        return found

    def drawn_mask(self, rate: float, shape: tuple[int, ...]) -> Array:
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

    # ------------------------------------------------------------------------------------------------ words

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments that make a layer like this one: its sizes, and all options.

        JSON can hold them. Generators and initial values are not among them: `type(layer)(**layer.config())` has
        parameters of its own, which `load_state_dict` replaces.
        """
        zoneout = self.zoneout[0] if len(set(self.zoneout)) == 1 else self.zoneout
        translated = {"zoneout": zoneout, "dtype": self.dtype.name}
        return {name: translated.get(name, getattr(self, name)) for name in self._arguments() if hasattr(self, name)}

    @classmethod
    @functools.cache
    def _arguments(cls) -> Mapping[str, Any]:
        """Return the arguments of the constructor, but for `self` and `rng`, and their defaults."""
        found: dict[str, Any] = {}
        for kind in reversed(cls.__mro__):
            if issubclass(kind, Options) and "__init__" in vars(kind):
                given = inspect.signature(vars(kind)["__init__"]).parameters
                found |= {name: parameter.default for name, parameter in given.items()}
        shared = list(inspect.signature(Options.__init__).parameters)
        names = [*shared[1:3], *(name for name in found if name not in shared), *shared[3:]]
        return MappingProxyType({name: found[name] for name in names if name != "rng"})

    def __repr__(self) -> str:
        config, defaults = self.config(), self._arguments()
        options = [f"{name}={value!r}" for name, value in list(config.items())[2:-1] if value != defaults[name]]
        words = [str(self.input_size), str(self.hidden_size), *options, f"dtype={self.dtype}"]
        return f"{type(self).__name__}({', '.join(words)})"
