"""A cell's formulas on trial, once, before they are first used: do they write what they promise, and nothing else?

The first call of a layer with a cell runs two steps of a small twin of it, forward or backward, on memory full of a
NaN that no operation makes and with all that formulas only read locked. A formula that forgets an output leaves it
there; one that writes over an input is stopped. Both would otherwise be wrong numbers somewhere else.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.engine.binding import Binding, constants_of
from rnn_numpy.engine.cell import Chain, Slot
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import Formula, Kind, argument_names
from rnn_numpy.errors import CellError

if TYPE_CHECKING:
    from rnn_numpy.engine.recurrent import Recurrent, Run

Array = NDArray[Any]

T, N, SIZE = 2, 2, 3


class Unwritten(NamedTuple):
    """An array that has poison in it after a call of a formula, what the formula calls it, the number of the call."""

    array: str
    name: str
    call: int


def try_formulas(layer: Recurrent, kind: Kind, run: type[Run]) -> None:
    """Run the formulas of a layer's cell, "forward" or "backward".

    Raises
    ------
    CellError
        A formula leaves an output unwritten, or writes what it is to read.
    """
    layer.cell.tried.add(kind)
    # What else is wrong with them shows in the call itself, with its own arrays.
    with np.errstate(all="ignore"), memory.poisoned(), _letting(CellError):
        unwritten: list[Unwritten] = []
        forward = _forward(_small(layer), unwritten)
        if kind == "forward":
            _look(forward.binding, "forward", [*layer.cell.states, *layer.cell.records], unwritten)
        else:
            binding = _backward(_small(layer), forward, run, unwritten)
            _look(binding, "backward", ["da", *layer.cell.gradient_records], unwritten)
            _look_at_states(binding)


@contextlib.contextmanager
def _letting(kind: type[Exception]) -> Iterator[None]:
    """Suppress all errors but one kind."""
    try:
        yield
    except kind:
        raise
    except Exception:
        return


def _small(layer: Recurrent) -> Recurrent:
    """Return a twin with one layer, one direction, few units, and parameters of its own."""
    twin = copy.copy(layer)
    twin.input_size = twin.hidden_size = SIZE
    twin.num_layers, twin.num_directions, twin.bidirectional = 1, 1, False
    twin.measure()
    twin.stack = [twin.directions_of(0)]
    shapes = twin.shapes()
    values = np.random.default_rng(0).uniform(-0.5, 0.5, sum(map(np.prod, shapes.values())))
    twin.params = Parameters(shapes, layer.params.dtype, values.astype(layer.params.dtype))
    return twin


def _drawn(layer: Recurrent, *shape: int) -> Array:
    return np.random.default_rng(1).uniform(-0.5, 0.5, shape).astype(layer.params.dtype)


def _forward(layer: Recurrent, unwritten: list[Unwritten]) -> Run:
    x = _drawn(layer, *((N, T) if layer.batch_first else (T, N)), SIZE)
    edge, signal = Edge.opened(layer, "trial", x, None, copied=True)
    sizes, arrays = layer.given_sizes(), dict[str, Array]()
    for name, given in layer.cell.given.items():
        shape = (N, *(sizes.get(axis, SIZE) for axis in given.shape))
        arrays[name] = _drawn(layer, *shape) if given.differentiable else np.ones(shape, bool)
    edge.give(layer, arrays)
    initial = [_drawn(layer, 1, N, width) for width in edge.widths.values()]
    run = layer.open_forward(layer.stack[0][0], edge, signal, initial)
    run.binding.guard = _guard(lambda slot: _is_constant(slot) or slot.when == "before" or slot.array == "x", unwritten)
    for _ in layer.forward_loop(run):
        pass
    return run


def _backward(layer: Recurrent, forward: Run, run: type[Run], unwritten: list[Unwritten]) -> Binding:
    recorded, batch = forward.trace, forward.binding.batch
    constants = constants_of(recorded.chain, recorded.weights, N)
    binding = Binding(recorded.chain, batch, False, dict(recorded.arrays), constants, recorded.given)
    binding.guard = _guard(lambda slot: _is_constant(slot) or slot.array in recorded.arrays, unwritten)
    own = layer.params.zeros_like()
    backward = run(layer.stack[0][0], recorded, binding, sums=layer.own(own, layer.stack[0][0]))
    layer.open_backward(backward, _drawn(layer, T, N, layer.output_width), [None] * len(layer.cell.states))
    for state in _promised(binding.chain):  # begins as zeros, and nothing that is added to -0 leaves it as it is
        binding.arrays[f"d{state}"][binding.entry] = -0.0
    for _ in layer.backward_loop(backward):
        pass
    return binding


def _promised(chain: Chain) -> list[str]:
    """Return the further states whose gradients before the step a backward formula takes, and so promises to write."""
    named = {slot.name for _, slots, _ in chain.formulas["backward"] for slot in slots}
    return [state for state in chain.cell.states[1:] if f"d{state}_prev" in named and state not in chain.zoneout]


def _look_at_states(binding: Binding) -> None:
    """Find a gradient of a further state that no formula has written."""
    for state in _promised(binding.chain):
        row = binding.arrays[f"d{state}"][binding.entry]  # what the first step hands on; others, steps have added to
        if np.all((row == 0) & np.signbit(row)):
            calls = binding.chain.formulas["backward"]
            formulas = [
                _title(each) for each, slots, _ in calls if any(slot.name == f"d{state}_prev" for slot in slots)
            ]
            raise CellError(
                f"Cell: d{state}_prev is left unwritten by {' and '.join(formulas)}; write it with `[...] = ` or "
                "`+=`, 0 if nothing goes that way"
            )


def _is_constant(slot: Slot) -> bool:
    """Whether an argument is the same at every step and only read."""
    return slot.when in ("fixed", "given") and slot.name != "scratch_t" and slot.name[:1] not in ("d", "v")


def _look(binding: Binding, kind: Kind, names: list[str], unwritten: list[Unwritten]) -> None:
    """Find what has been left unwritten: of what was so when a formula with this argument had run, the first, since
    NaN spreads; nothing if no NaN is left in the end.
    """
    left = [each for each in unwritten if each.array in names]
    left += [Unwritten(name, f"{name}_t", -1) for name in names if memory.is_poison(binding.arrays[name]).any()]
    if left and any(np.isnan(binding.arrays[name]).any() for name in names):
        calls = binding.chain.formulas[kind]
        array = left[0][0]
        formulas = [_title(formula) for formula, slots, _ in calls if any(slot.array == array for slot in slots)]
        # Of the call after which it was found so, all arguments that are rows of this array.
        arguments = ", ".join(name for each, name, call in left if each == array and call == left[0][2])
        wanted = ", ".join(f"{name}_t" for name in names)
        raise CellError(
            f"Cell: {arguments} is left unwritten, in whole or in part, by {' and '.join(formulas) or 'all formulas'}; "
            f"a step must write {wanted}, with `[...] = ` or `out=`"
        )


def _guard(
    is_read: Callable[[Slot], bool], unwritten: list[Unwritten]
) -> Callable[[Formula, tuple[Slot, ...]], Formula]:
    """Return what makes of a formula one that cannot write what it is to read, and tells what it leaves unwritten."""

    def guarded(formula: Formula, slots: tuple[Slot, ...]) -> Formula:
        read = [is_read(slot) for slot in slots]
        locked = functools.partial(_locked, formula, read)

        def run(*arguments: Array) -> None:
            locked(*arguments)
            call = len(unwritten)
            for slot, is_input, array in zip(slots, read, arguments, strict=True):
                if not is_input and slot.when not in ("fixed", "given", "work") and memory.is_poison(array).any():
                    unwritten.append(Unwritten(slot.array, slot.name, call))

        return run

    return guarded


def _locked(formula: Formula, read: list[bool], *arguments: Array) -> None:
    """Run a formula with the arguments locked that it is to read."""
    own = argument_names(formula)
    for name, is_read in zip(own, read, strict=True):
        if is_read:  # one by one, on copies, so that the one that is written can be named
            copies = [np.copy(array) for array in arguments]
            copies[own.index(name)].flags.writeable = False
            try:
                _unseen(formula, copies)
            except ValueError as error:
                if "read-only" in str(error):
                    raise CellError(
                        f"Cell: {_title(formula)} writes {name}, which it is to read; it may write its outputs, "
                        f"{', '.join(other for other, locked in zip(own, read, strict=True) if not locked)}"
                    ) from None
                raise
    _unseen(formula, arguments)


def _unseen(formula: Formula, arguments: Sequence[Array]) -> None:
    """Run a formula so that a debugger does not stop in it: its breakpoints are for the caller's steps."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        formula(*arguments)
    finally:
        sys.settrace(tracer)


def _title(formula: Formula) -> str:
    return str(getattr(formula, "__name__", repr(formula)))
