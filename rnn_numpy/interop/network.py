"""The recurrent layers that a file has, whoever wrote it: what `open_network` returns."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.checks import discrepancy
from rnn_numpy.core import arguments, states
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine import Recurrent
from rnn_numpy.errors import ConversionError, OptionError, RNNNumpyError

Array = NDArray[Any]


@dataclass(eq=False)
class FoundLayer:
    """A recurrent layer of a file, and how to have it as one of this package.

    Attributes
    ----------
    name : str
        The file's: of a node, of a module, or what stands in front of its weights' names.
    kind : str
        What the file's format calls it: "LSTM", "GRU", "RNN", "SimpleRNN", ...
    input_size, hidden_size, num_layers, num_directions : int
        0 where the file does not tell.
    options : dict
        What the file says of it that is not the format's default.
    reverse : bool
        It goes through time from the end: hand `layer` x[::-1], and read output[::-1].
    initial_states : tuple of ndarray, or None
        Those that the file has, each (num_layers * num_directions, 1 or N, ·).
    parts : tuple of str
        The names of what it is joined from; its own, where it is a single one.
    notes : tuple of str
        What is worth knowing of it, a sentence each.
    choices : dict
        Where the file does not tell which of several functions it is, these, by name: `choose` takes one of them,
        `decide` the one that a pair of input and output fits.
    emulate : callable, or None
        Of a layer of 8 bits: the output that its own runtime makes of x, rounding included;
        `rnn_numpy.interop.onnx_quantized.quantized_output` is what it calls.
    """

    name: str
    kind: str
    input_size: int
    hidden_size: int
    make: Callable[[], Any] = field(repr=False)
    num_layers: int = 1
    num_directions: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    reverse: bool = False
    initial_states: tuple[Array, ...] | None = field(default=None, repr=False)
    parts: tuple[str, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)
    choices: dict[str, Callable[[], Any]] = field(default_factory=dict, repr=False)
    emulate: Callable[..., Array] | None = field(default=None, repr=False)

    @functools.cached_property
    def layer(self) -> Recurrent:
        """The layer, made when it is first asked for; ConversionError says why there is none."""
        if len(self.choices) > 1:
            raise ConversionError(
                f"{self.name}: the file does not tell which of {' and '.join(map(repr, self.choices))} it is: say it "
                "with choose, or let a pair of input and output say it with decide"
            )
        made: Recurrent = self.make()
        return made

    def choose(self, choice: str) -> FoundLayer:
        """Return it with one of `choices`."""
        if not self.choices:
            raise OptionError(f"{self.name}: there is nothing to choose: the file tells which function it is")
        arguments.one_of("choose", "choice", choice, self.choices)
        return replace(self, make=self.choices[choice], choices={}, options=self.options | {"chosen": choice})

    def decide(self, x: ArrayLike, output: ArrayLike, rtol: float = 1e-4) -> FoundLayer:
        """Return it with the one of `choices` that makes `output` of `x`, both as the layer has them, from zeros.

        ConversionError says how far each is off where none or several are within `rtol` of the largest entry.
        """
        errors: dict[str, float] = {}
        made: dict[str, tuple[str, bytes]] = {}
        for choice in self.choices or {"": self.make}:
            try:
                layer = self.choices.get(choice, self.make)()
                made[choice] = repr(layer), layer.params.flat.tobytes()
                found, want = layer(np.asarray(x, layer.dtype))[0], np.asarray(output, layer.dtype)
                errors[choice] = discrepancy(found, want).error if found.shape == want.shape else math.inf
            except RNNNumpyError:
                errors[choice] = math.inf
        fitting = [choice for choice, error in errors.items() if error <= rtol]
        # One function may have several names.
        if len({made[choice] for choice in fitting}) != 1:
            said = ", ".join(
                f"{choice} {error:.1e}" for choice, error in sorted(errors.items(), key=lambda one: one[1])[:6]
            )
            what = "several fit" if fitting else "none fits"
            raise ConversionError(f"{self.name}: {what} this input and output; relative to the largest entry: {said}")
        return self.choose(fitting[0]) if self.choices else self

    @property
    def h_0(self) -> Any:
        """The initial states as the layer takes them, None for zeros."""
        return None if self.initial_states is None else states.join(self.initial_states)


class Network(Sequence[FoundLayer]):
    """The recurrent layers of a file, in its order; `open_network` makes one.

    A layer is had by its place, or by its name: the last words of the name are enough where no other layer ends in
    them. `len`, `in` and `for` are a list's.

    Attributes
    ----------
    source : str
        The file, or what was handed in.
    format : str
        "ONNX", "torch", "safetensors", "Keras", "npz".
    notes : list of str
        What is worth knowing of the whole file, a sentence each.
    """

    def __init__(self, source: str, format: str, layers: Sequence[FoundLayer], notes: Sequence[str] = ()) -> None:
        self.source, self.format, self.notes = source, format, list(notes)
        self._layers = list(layers)

    @property
    def names(self) -> list[str]:
        """The layers' names, in their order."""
        return [found.name for found in self._layers]

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[FoundLayer]:
        return iter(self._layers)

    @overload
    def __getitem__(self, which: int | str) -> FoundLayer: ...
    @overload
    def __getitem__(self, which: slice) -> list[FoundLayer]: ...
    def __getitem__(self, which: int | str | slice) -> FoundLayer | list[FoundLayer]:
        if not isinstance(which, str):
            return self._layers[which]
        exact = [found for found in self._layers if which in (found.name, *found.parts)]
        fitting = exact or [
            found for found in self._layers if any(name.endswith(which) for name in (found.name, *found.parts))
        ]
        if len(fitting) != 1 or not which:
            said = "is the end of several names" if fitting else "is not the name of a recurrent layer"
            has = ", ".join(map(repr, self.names)) or "none"
            raise OptionError(f"{self.source}: {which!r} {said}; its recurrent layers are {has}")
        return fitting[0]

    def __repr__(self) -> str:
        lines = [f"Network({self.source!r}, {self.format}), {len(self)} recurrent"]
        for found in self._layers:
            several = f", num_layers={found.num_layers}" if found.num_layers > 1 else ""
            two = ", bidirectional" if found.num_directions == 2 else ""
            lines.append(f"  {found.name}: {found.kind}({found.input_size}, {found.hidden_size}{several}{two})")
        return "\n".join(lines)


def one_direction(layer: Recurrent, index: int = -1, reverse: bool = False) -> Recurrent:
    """Return one direction of one layer as a layer of its own, with copies of its weights.

    Parameters
    ----------
    layer : Recurrent
        Not changed.
    index : int
        Which of its num_layers; -1 the top one.
    reverse : bool
        Its other direction: hand it x from the last step to the first. Its input, above the lowest layer, is the output
        of the layer below.

    Examples
    --------
    >>> from rnn_numpy import GRU
    >>> gru = GRU(2, 3, num_layers=2, bidirectional=True, rng=0)
    >>> one_direction(gru, reverse=True)
    GRU(6, 3, dtype=float64)
    """
    index = range(layer.num_layers)[index]
    suffix = f"_l{index}" + ("_reverse" if reverse else "")
    own = {name.removesuffix(suffix): array for name, array in layer.params.items() if name.endswith(suffix)}
    if not own:
        raise OptionError(f"one_direction: {layer!r} has no reverse direction")
    twin = copy.copy(layer)
    twin.num_layers, twin.num_directions, twin.bidirectional, twin.dropout = 1, 1, False, 0.0
    twin.input_size = own["weight_ih"].shape[1]
    twin.stack = [twin.directions_of(0)]
    twin.params = Parameters(twin.shapes(), layer.dtype)
    for name, array in own.items():
        twin.params[f"{name}_l0"] = array
    return twin
