"""Shared by the conversions: blocks of gates by their letters, the making of a layer, and the self-test.

Every format stores the weights of a cell as blocks of H rows (or columns), one block a gate, and every format has its
own order of them. An order is written as a string of this package's letters, "ifgo" or "rzn", and `reordered` takes
blocks from one order to another: no index of a gate stands anywhere.

The self-test
-------------
A conversion is done when both sides compute the same. So, before anything is handed out, this package's layer and the
counterpart run on one small random input, from random initial states, and the results are compared, relative to the
largest entry, to the tolerance of the dtype.

Weights can be such that rounding grows from step to step, in both implementations alike, and a fixed tolerance would
refuse what is right. So the layer runs once more, with parameters, input and states changed in their last bit: what
that does to a result is what rounding can do to it, and is allowed, times SLACK, on top of the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks import discrepancy, tolerance
from rnn_numpy.core import arguments, states
from rnn_numpy.engine import Recurrent
from rnn_numpy.errors import ConversionError, DTypeError
from rnn_numpy.layers import GRU, LSTM, RNN

Array = NDArray[Any]
Results = dict[str, Array]
Run = Callable[[Array, tuple[Array, ...]], Mapping[str, Array]]
Step = Callable[..., tuple[Array, ...]]

LAYERS: dict[str, Any] = {"rnn": RNN, "lstm": LSTM, "gru": GRU}

# The blocks of weight_ih, weight_hh and both biases, as in torch.
BLOCKS = {"rnn": "h", "lstm": "ifgo", "gru": "rzn"}

# Real ones; complex128 layers are made from these, for the complex-step derivative.
CARRIED_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))

# What has a counterpart elsewhere; an option of a layer may bring further ones.
PARAMETERS = {"weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight", "bias"}

FINALS = ("h_n", "c_n")
STEPS, BATCH = 4, 2  # of the self-test's input
SLACK = 64.0


def cell_of(where: str, layer: Any) -> str:
    """Return "rnn", "lstm" or "gru", after what a layer is."""
    for cell, kind in LAYERS.items():
        if isinstance(layer, kind):
            return cell
    raise DTypeError(f"{where}: layer must be an RNN, LSTM or GRU of rnn_numpy; got {type(layer).__name__}")


def checked_nonlinearity(where: str, cell: str, nonlinearity: Any) -> str:
    """Return `nonlinearity` if the cell can have it: tanh, or relu of an RNN."""
    allowed = ("tanh", "relu") if cell == "rnn" else ("tanh",)
    if not isinstance(nonlinearity, str) or nonlinearity not in allowed:
        raise ConversionError(
            f"{where}: nonlinearity of {cell!r} must be {' or '.join(map(repr, allowed))}; got {nonlinearity!r}, "
            "which rnn_numpy does not have"
        )
    return nonlinearity


def refuse_what_is_not_there(
    where: str, layer: Any, there: str, *, trains: bool, projects: bool = False, further: Sequence[str] = ()
) -> None:
    """Raise an error where a layer of this package has something that the counterpart, `there`, does not have.

    `trains` says whether that is for training too, so that recurrent dropout counts, `projects` whether an LSTM can
    have proj_size there; `further` are parameters that it has beyond the usual ones. A parameter that is not finite is
    refused too: nothing could be compared.
    """
    if layer.dtype not in CARRIED_DTYPES:
        raise ConversionError(
            f"{where}: {there} is real, the layer {layer.dtype}, which is for the complex-step derivative; convert the "
            "float64 layer that it was made from"
        )
    proj_size: int = getattr(layer, "proj_size", 0)
    if proj_size and not projects:
        raise ConversionError(f"{where}: {there} has no projection of the state; the layer has proj_size={proj_size}")
    for option in ("zoneout", "recurrent_dropout") if trains else ("zoneout",):
        rate: Any = getattr(layer, option, 0.0)
        if np.any(rate):
            raise ConversionError(
                f"{where}: {there} has no such {option}; the layer has {rate}. To go without, make a layer that has "
                "none, and load this one's state_dict() into it"
            )
    stems = dict.fromkeys(name.rpartition("_l")[0] or name for name in layer.params)
    unknown = [stem for stem in stems if stem not in PARAMETERS and stem not in further]
    if unknown:
        raise ConversionError(f"{where}: {there} has no parameters like the layer's {', '.join(unknown)}")
    for name, array in layer.params.items():
        arguments.finite(where, name, array, "i, j")


def real_arrays(where: str, named: Mapping[str, Any]) -> dict[str, Array]:
    """Return arrays of weights, C-contiguous and in this machine's byte order, all float32 or all float64, finite."""
    arrays = {name: arguments.as_array(where, name, value) for name, value in named.items()}
    first = next(iter(arrays))
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("=")
        if dtype not in CARRIED_DTYPES:
            advice = ""
            if dtype.name in ("float16", "bfloat16"):
                advice = "; widen it with .astype(np.float32), which loses nothing"
            raise ConversionError(f"{where}: {name} must be float32 or float64; got {dtype}{advice}")
        if dtype != arrays[first].dtype.newbyteorder("="):
            raise ConversionError(
                f"{where}: all arrays must have one dtype; {first} is {arrays[first].dtype}, {name} is {dtype}"
            )
        arguments.finite(where, name, array, "i, j, k")
        arrays[name] = np.array(array, dtype, order="C")
    return arrays


def reordered(array: Array, have: str, want: str) -> Array:
    """Return a copy of an array (G * H, ...) with its G blocks of rows in another order.

    >>> import numpy as np
    >>> reordered(np.array([0, 1, 2, 3, 4, 5]), "rzn", "zrn")
    array([2, 3, 0, 1, 4, 5])
    """
    blocks = dict(zip(have, np.split(array, len(have)), strict=True))
    return np.concatenate([blocks[letter] for letter in want])


def suffixes(layer: Recurrent, index: int) -> list[str]:
    """Return what the names of a layer's parameters end in: "l0", and "l0_reverse" where it is bidirectional."""
    return [f"l{index}", f"l{index}_reverse"][: layer.num_directions]


def arrays_of(layer: Any, index: int) -> list[dict[str, Array]]:
    """Return weights and biases of a layer, for each direction, under their names without suffix."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if layer.bias else 2]
    return [{name: layer.params[f"{name}_{suffix}"] for name in names} for suffix in suffixes(layer, index)]


def special_options(cell: str, nonlinearity: str, reset: str | None) -> dict[str, Any]:
    """Return those of the two options that this cell has."""
    options: dict[str, dict[str, Any]] = {"rnn": {"nonlinearity": nonlinearity}, "lstm": {}, "gru": {"reset": reset}}
    return options[cell]


def new_layer(cell: str, *sizes: int, dropout: float = 0.0, kind: Any = None, **options: Any) -> Any:
    """Return a layer of this package, made from input_size, hidden_size, num_layers and options.

    `kind` is its class, where that is another one than the cell's usual one.
    """
    layer = (LAYERS[cell] if kind is None else kind)(*sizes, **options)
    # Not in the constructor, which warns of dropout in a single layer: who made the counterpart has been warned.
    layer.dropout = arguments.probability(type(layer).__name__, "dropout", dropout)
    return layer


def assembled(cell: str, stack: Sequence[Sequence[Mapping[str, Array]]], **options: Any) -> Any:
    """Return the layer with these arrays: for each layer and direction what `arrays_of` returns."""
    first = stack[0][0]
    options |= {"bias": "bias_ih" in first, "bidirectional": len(stack[0]) == 2, "dtype": first["weight_ih"].dtype}
    layer = new_layer(cell, first["weight_ih"].shape[1], first["weight_hh"].shape[1], len(stack), **options)
    for index, directions in enumerate(stack):
        for suffix, arrays in zip(suffixes(layer, index), directions, strict=True):
            for name, array in arrays.items():
                layer.params[f"{name}_{suffix}"] = array
    return layer


# -------------------------------------------------------------------------------------------------------- the self-test


def verify(
    where: str, layer: Any, other: str, run: Run, *, zero_state: bool = False, precision: np.dtype[Any] | None = None
) -> None:
    """Run `layer` and its counterpart, called `other`, on one input; ConversionError where they differ.

    `run` takes x, (T, N, D), and the initial states, each (num_layers * num_directions, N, ·), to results by name, time
    first: any of "output", "h_n", "c_n", and "last output", which is the last layer's final states side by side.
    `zero_state` says that the counterpart begins with zeros, whatever it is handed; `precision` in which dtype it
    computes, where that is not the layer's.
    """
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        x = rng.normal(size=(STEPS, BATCH, layer.input_size)).astype(layer.dtype)
        shapes = [state.shape for state in states.split(layer(_axes(layer, x))[1])]
        scale = 0.0 if zero_state else 0.5
        initial = tuple((scale * rng.normal(size=shape)).astype(layer.dtype) for shape in shapes)
        ours = _results(layer, x, initial)
        eps = float(np.finfo(layer.dtype if precision is None else precision).eps)
        moved = _results(nudged_layer(layer, eps), nudged(x, eps), tuple(nudged(state, eps) for state in initial))
        try:
            theirs = run(x.copy(), tuple(state.copy() for state in initial))
        except Exception as error:  # of another library, which may raise anything
            lines = str(error).strip().splitlines() or [""]
            raise ConversionError(
                f"{where}: self-test failed: {other} does not run: {type(error).__name__}: {lines[0]}"
            ) from error
    assert_same(where, other, ours, theirs, moved, tolerance(layer.dtype if precision is None else precision))


def assert_same(
    where: str, other: str, ours: Results, theirs: Mapping[str, Array], moved: Results, rtol: float
) -> None:
    """Raise ConversionError where results differ by more than rounding explains; see the module."""
    for name, reference in theirs.items():
        if ours[name].shape != reference.shape:
            raise ConversionError(
                f"{where}: self-test failed: {name} has shape {ours[name].shape} here, {reference.shape} in {other}"
            )
        found = discrepancy(ours[name], reference)
        allowed = rtol + SLACK * discrepancy(moved[name], ours[name]).error
        if not found.within(allowed):
            raise ConversionError(
                f"{where}: self-test failed: {name} differs from that of {other} by {found.error:.1e} of its largest "
                f"entry, at {list(found.index)}: {found.analytic} here, {found.reference} there; allowed {allowed:.1e}"
            )


def _results(layer: Any, x: Array, initial: tuple[Array, ...]) -> Results:
    output, final = layer(_axes(layer, x), states.join(initial))
    parts = states.split(final)
    last = np.concatenate(list(parts[0][-layer.num_directions :]), axis=1)
    return {"output": _axes(layer, output), **dict(zip(FINALS, parts, strict=False)), "last output": last}


def _axes(layer: Any, array: Array) -> Array:
    """Take an array from time-major axes to those of the layer, or back."""
    return array.swapaxes(0, 1) if layer.batch_first else array


def nudged_layer(layer: Any, eps: float) -> Any:
    """Return a twin of a layer whose parameters are changed as `nudged` does."""
    twin = layer.astype(layer.dtype)
    twin.params.flat[:] = nudged(twin.params.flat, eps)
    return twin


def nudged(array: Array, eps: float) -> Array:
    """Return a copy with every entry changed by a share of eps, up and down in turns."""
    twin = array.copy()
    flat = twin.reshape(-1)
    flat[::2] *= 1 + eps
    flat[1::2] *= 1 - eps
    return twin


def single_step_loop(
    x: Array, initial: tuple[Array, ...], directions: Sequence[Step]
) -> tuple[Array, list[tuple[Array, ...]]]:
    """Run one layer of step functions through time: the plain loop that a conversion of arrays is compared with.

    `step(x_t, *states)` of each direction returns the new states, h first; the second direction gets the steps from the
    last to the first. Return the output, (T, N, directions * H), and the final states of each direction.
    """
    outputs, finals = [], []
    for row, step in enumerate(directions):
        states = tuple(state[row] for state in initial)
        order = range(len(x)) if row == 0 else reversed(range(len(x)))
        hidden: dict[int, Array] = {}
        for t in order:
            states = step(x[t], *states)
            hidden[t] = states[0]
        outputs.append(np.stack([hidden[t] for t in range(len(x))]))
        finals.append(states)
    return np.concatenate(outputs, axis=2), finals


def stacked_loops(x: Array, initial: tuple[Array, ...], layers: Sequence[Sequence[Step]]) -> Results:
    """Run layers of step functions, each on the outputs of the one below; return what `verify` compares."""
    finals: list[tuple[Array, ...]] = []
    rows = len(layers[0])
    for index, directions in enumerate(layers):
        own = tuple(state[index * rows : (index + 1) * rows] for state in initial)
        x, final = single_step_loop(x, own, directions)
        finals += final
    states_of = zip(FINALS, zip(*finals, strict=True), strict=False)
    return {"output": x} | {name: np.stack(parts) for name, parts in states_of}


def sigmoid(a: Array) -> Array:
    """The logistic function, as it is defined; of the step loops."""
    return np.asarray(1 / (1 + np.exp(-a)))
