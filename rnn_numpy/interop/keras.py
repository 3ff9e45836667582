"""Layers from and to Keras 3: SimpleRNN, LSTM, GRU, alone or in a Bidirectional.

Keras multiplies from the other side, has other orders of blocks, and mostly a single bias:

    parameter             here                          Keras, u units
    weight_ih             (G H, D)                      kernel (D, G u)
    weight_hh             (G H, H)                      recurrent_kernel (u, G u)
    blocks of an LSTM     i f g o                       i f c o
    blocks of a GRU       r z n                         z r h
    bias_ih, bias_hh      two of (G H,)                 one bias (G u,), their sum; of a GRU with reset_after=True
                                                        a bias (2, 3 u), both of them
    GRU                   reset="after" or "before"     reset_after=True or False

One bias loses nothing: where Keras has one, only the sum of ours acts, and the sum is what this package computes with.
Coming from Keras, it becomes bias_ih, and bias_hh is 0.

A layer of several layers is a list of Keras layers, from the bottom to the top, and dropout is a `Dropout` between
them: Keras' own argument `dropout` zeroes a layer's inputs, the same ones at every step, which this package does not
do. Batches come first in Keras, and so they do in what is converted from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import arguments
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import ConversionError, DTypeError, MissingExtraError, OptionError, ShapeError
from rnn_numpy.interop import common
from rnn_numpy.interop.onnx import Function, plain_function
from rnn_numpy.layers.general import Activation, GeneralGRU, GeneralLSTM, GeneralRNN

Array = NDArray[Any]

# Keras' orders of blocks, in this package's letters.
KERAS_BLOCKS = {"rnn": "h", "lstm": "ifgo", "gru": "zrn"}
CLASSES = {"SimpleRNN": "rnn", "LSTM": "lstm", "GRU": "gru"}


@dataclass(frozen=True)
class Weights:
    """Keras' arrays of one direction of a layer: kernel (D, G u), recurrent_kernel (u, G u), and bias or None."""

    kernel: Array
    recurrent: Array
    bias: Array | None

    def arrays(self) -> list[Array]:
        """Return them in Keras' order."""
        return [self.kernel, self.recurrent] + ([] if self.bias is None else [self.bias])


Stack = list[list[Weights]]  # layers, directions


def from_keras(layers: Any) -> Any:
    """Return the layer of this package with the options and weights of one Keras layer, or of several in a row.

    `from_keras_weights` does without Keras.

    Parameters
    ----------
    layers : keras.layers.SimpleRNN, LSTM, GRU, Bidirectional of one of these, or a list of them
        Built. A list becomes one layer with num_layers, from the bottom to the top; all have the same options and
        number of units. There may be a `keras.layers.Dropout` between one and the next, between all of them the same.

    Returns
    -------
    RNN, LSTM or GRU
        batch_first, of the same dtype, with copies of the weights. It returns all outputs and the final state, whatever
        return_sequences and return_state say.

    Raises
    ------
    ConversionError
        The layer does what this package's do not: another activation, dropout or recurrent_dropout, stateful,
        go_backwards outside of a Bidirectional, another merge_mode than "concat", computation in half precision.

    Notes
    -----
    On all backends but TensorFlow, Keras computes float64 layers in the precision of float32. Their weights keep all
    bits, and are compared in full precision too, with a plain loop over Keras' equations.

    A mask is no property of the layer. Past the end of a masked sequence Keras repeats the last output, this package
    with `lengths` has 0; Keras does as well with zero_output_for_mask. Initialisers, regularisers and constraints are
    not carried over.
    """
    where = "from_keras"
    keras = _keras(where)
    given = list(layers) if isinstance(layers, list | tuple) else [layers]
    recurrent, dropout = _without_dropout(where, keras, given)
    read = [_read(where, keras, index, layer) for index, layer in enumerate(recurrent)]
    for index, part in enumerate(recurrent[:-1]):
        if not getattr(part, "forward_layer", part).return_sequences:
            raise ConversionError(
                f"{where}: layers[{index}] has return_sequences=False, so that the one above it does not get a sequence"
            )
    options = read[0][0]
    for index, (other, _) in enumerate(read):
        different = [name for name in options if options[name] != other[name]]
        if different:
            name = different[0]
            raise ConversionError(
                f"{where}: all layers of one must have the same options; {name} is {options[name]!r} in layers[0], "
                f"{other[name]!r} in layers[{index}]. Convert them one by one"
            )
    cell, reset = options["cell"], options["reset"]
    stack = [weights for _, weights in read]
    layer = _assembled(
        where, cell, stack, dropout=dropout, **common.special_options(cell, options["activation"], reset)
    )
    _verify_with_loop(where, layer, cell, stack)
    _verify_with_keras(where, layer, keras, recurrent)
    return layer


def to_keras(layer: Any) -> list[Any]:
    """Return Keras layers with the options and weights of a layer; `to_keras_weights` does without Keras.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        float32 or float64; not changed.

    Returns
    -------
    list of keras.layers.Layer
        One SimpleRNN, LSTM or GRU per layer, in a Bidirectional where the layer is, with a Dropout after each but the
        last where it has dropout; built, of the same dtype. `keras.Sequential(to_keras(layer))` is the whole, with
        inputs (N, T, D) also where `layer` is not batch_first; all steps are returned.

    Raises
    ------
    ConversionError
        What Keras does not have: a complex128 layer, proj_size, zoneout, recurrent_dropout (its own drops other things
        in a GRU). The Keras backend does not keep the dtype.
    """
    where = "to_keras"
    keras = _keras(where)
    cell, stack = _stack(where, layer)
    result, recurrent = [], []
    for index, directions in enumerate(stack):
        made = _new_keras_layer(keras, cell, layer)
        arrays = [array for weights in directions for array in weights.arrays()]
        made.build((None, None, directions[0].kernel.shape[0]))
        made.set_weights(arrays)
        for kept, array in zip(_get_weights(keras, made), arrays, strict=True):
            if kept.dtype != array.dtype or kept.tobytes() != array.tobytes():
                raise ConversionError(
                    f"{where}: the Keras backend {keras.backend.backend()!r} has made {kept.dtype} of {array.dtype} "
                    "weights; allow it the dtype (with jax: jax_enable_x64), or convert layer.astype(np.float32)"
                )
        recurrent.append(made)
        result.append(made)
        if layer.dropout and index < len(stack) - 1:
            result.append(keras.layers.Dropout(layer.dropout, dtype=layer.dtype.name))
    _verify_with_keras(where, layer, keras, recurrent)
    return result


def from_keras_weights(
    weights: Sequence[Any],
    cell: str,
    *,
    bidirectional: bool = False,
    nonlinearity: str = "tanh",
    reset: str | None = None,
) -> Any:
    """Return a layer with weights as `get_weights()` of a Keras layer returns them; Keras is not needed.

    Parameters
    ----------
    weights : list of ndarray, or list of such lists
        kernel (D, G u), recurrent_kernel (u, G u) and, unless use_bias is False, bias: (u,) of a SimpleRNN, (4 u,) of
        an LSTM, (2, 3 u) of a GRU with reset_after, (3 u,) of one without. Of a Bidirectional, those of the forward
        layer, then those of the backward layer. A list of such lists is one per layer, from the bottom to the top.
    cell : {"rnn", "lstm", "gru"}
    bidirectional : bool
    nonlinearity : {"tanh", "relu"}
        The activation; relu is for "rnn" alone. The weights do not tell, and for every cell it must have been this one,
        and sigmoid the recurrent_activation.
    reset : {"after", "before"}, optional
        Of a GRU: "after" is Keras' reset_after=True. The bias tells; it must be given where there is none.

    Returns
    -------
    RNN, LSTM or GRU
        batch_first, in the dtype of the arrays, with copies of the weights.

    Raises
    ------
    ConversionError
        Arrays of half precision; an activation that is not here; a bias that is not that of `reset`.

    Examples
    --------
    >>> import numpy as np
    >>> kernel, recurrent, bias = np.ones((2, 6)), np.ones((2, 6)), np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    >>> gru = from_keras_weights([kernel, recurrent, bias], "gru")
    >>> gru
    GRU(2, 2, reset='before', batch_first=True, dtype=float64)
    >>> gru.params["bias_ih_l0"]  # Keras' z r h has become r z n
    array([2., 3., 0., 1., 4., 5.])
    """
    where = "from_keras_weights"
    arguments.one_of(where, "cell", cell, common.LAYERS)
    common.checked_nonlinearity(where, cell, nonlinearity)
    arguments.flag(where, "bidirectional", bidirectional)
    if reset not in (None, "after", "before") or (reset is not None and cell != "gru"):
        raise OptionError(f"{where}: reset must be 'after' or 'before', of a 'gru' alone; got {reset!r} with {cell!r}")
    if not isinstance(weights, list | tuple) or not weights:
        raise DTypeError(f"{where}: weights must be a list of arrays, or of lists of arrays; got {weights!r:.60}")
    lists = weights if isinstance(weights[0], list | tuple) else [weights]
    stack: Stack = []
    for index, arrays in enumerate(lists):
        name = f"weights[{index}]" if lists is weights else "weights"
        stack.append(_paired(where, name, arrays, 2 if bidirectional else 1))
    reset = _reset_of(where, cell, stack, reset)
    layer = _assembled(where, cell, stack, **common.special_options(cell, nonlinearity, reset))
    _verify_with_loop(where, layer, cell, stack)
    return layer


def from_weights(where: str, stack: Stack, cell: str, reset: str | None, functions: tuple[Activation, ...]) -> Any:
    """Return the layer with Keras' arrays and any activations: of the gates, of the candidate, of an LSTM's output."""
    names = [one.name for one in functions]
    usual = names == {"rnn": ["tanh"], "gru": ["sigmoid", "tanh"], "lstm": ["sigmoid", "tanh", "tanh"]}[cell]
    options: dict[str, Any] = {}
    if usual or (cell == "rnn" and names == ["relu"]):
        options = common.special_options(cell, names[-1], reset)
    else:
        kind = {"rnn": GeneralRNN, "lstm": GeneralLSTM, "gru": GeneralGRU}[cell]
        options = {"kind": kind, "activations": functions} | ({"reset": reset} if cell == "gru" else {})
    layer = _assembled(where, cell, stack, **options)
    _verify_with_loop(where, layer, cell, stack, functions)
    return layer


def to_keras_weights(layer: Any) -> list[list[Array]]:
    """Return the weights of a layer as `set_weights()` of Keras layers takes them; Keras is not needed.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
        float32 or float64; not changed. The Keras layers must be made with its options: use_bias=layer.bias,
        activation=layer.nonlinearity of an RNN, reset_after=(layer.reset == "after") of a GRU.

    Returns
    -------
    list of list of ndarray
        For each layer, from the bottom to the top: kernel, recurrent_kernel and, where there are biases, bias; where
        bidirectional, those of the forward direction, then those of the reverse one.

    Raises
    ------
    ConversionError
        What Keras does not have: a complex128 layer, proj_size, zoneout, recurrent_dropout.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> [array.shape for array in to_keras_weights(RNN(2, 3))[0]]
    [(2, 3), (3, 3), (3,)]
    """
    where = "to_keras_weights"
    _, stack = _stack(where, layer)
    return [[array for weights in directions for array in weights.arrays()] for directions in stack]


# ----------------------------------------------------------------------------------------------------------- the arrays


def _to_here(cell: str, reset: str | None, weights: Weights) -> dict[str, Array]:
    """Return one direction's arrays under this package's names, without suffix."""
    have, want = KERAS_BLOCKS[cell], common.BLOCKS[cell]
    found = {
        "weight_ih": common.reordered(weights.kernel.T, have, want),
        "weight_hh": common.reordered(weights.recurrent.T, have, want),
    }
    if weights.bias is not None:
        bias_ih, bias_hh = weights.bias if reset == "after" else (weights.bias, np.zeros_like(weights.bias))
        found["bias_ih"] = common.reordered(bias_ih, have, want)
        found["bias_hh"] = common.reordered(bias_hh, have, want)
    return found


def _from_here(cell: str, reset: str | None, arrays: dict[str, Array]) -> Weights:
    """The inverse of `_to_here`, but that biases are added where Keras has one."""
    have, want = common.BLOCKS[cell], KERAS_BLOCKS[cell]
    bias = None
    if "bias_ih" in arrays:
        bias_ih, bias_hh = (common.reordered(arrays[name], have, want) for name in ("bias_ih", "bias_hh"))
        # A sum with 0 is no sum, so that a bias of -0 comes back from a round trip with its sign.
        bias = np.stack([bias_ih, bias_hh]) if reset == "after" else np.where(bias_hh == 0, bias_ih, bias_ih + bias_hh)
    return Weights(
        np.ascontiguousarray(common.reordered(arrays["weight_ih"], have, want).T),
        np.ascontiguousarray(common.reordered(arrays["weight_hh"], have, want).T),
        bias,
    )


def _stack(where: str, layer: Any) -> tuple[str, Stack]:
    """Return cell and Keras weights of a layer of this package, compared with a plain loop."""
    cell = common.cell_of(where, layer)
    common.refuse_what_is_not_there(where, layer, f"Keras' {cell.upper()}", trains=True)
    reset = getattr(layer, "reset", None)
    stack = [
        [_from_here(cell, reset, arrays) for arrays in common.arrays_of(layer, index)]
        for index in range(layer.num_layers)
    ]
    _verify_with_loop(where, layer, cell, stack)
    return cell, stack


def _verify_with_loop(where: str, layer: Any, cell: str, stack: Stack, functions: tuple[Activation, ...] = ()) -> None:
    """Compare a layer with a plain loop over Keras' equations and weights."""
    reset, nonlinearity = getattr(layer, "reset", None), getattr(layer, "nonlinearity", "tanh")
    if not functions:
        functions = (Activation(nonlinearity),) if cell == "rnn" else (Activation("sigmoid"), Activation("tanh"))
    phi, activation = plain_function(functions[0]), plain_function(functions[-1])
    loops = [[_keras_step(cell, reset, phi, activation, weights) for weights in directions] for directions in stack]
    common.verify(where, layer, "Keras' equations", lambda x, initial: common.stacked_loops(x, initial, loops))


def _assembled(where: str, cell: str, stack: Stack, **options: Any) -> Any:
    """Check the shapes of Keras weights, and return the layer that has them."""
    named = {
        f"{name} of layer {index}, direction {row}": array
        for index, directions in enumerate(stack)
        for row, weights in enumerate(directions)
        for name, array in zip(("kernel", "recurrent_kernel", "bias"), weights.arrays(), strict=False)
    }
    arrays = common.real_arrays(where, named)
    G, rows, reset = len(KERAS_BLOCKS[cell]), len(stack[0]), options.get("reset")
    first = arrays["recurrent_kernel of layer 0, direction 0"]
    if first.ndim != 2 or first.shape[1] != G * first.shape[0] or not first.size:
        raise ShapeError(
            f"{where}: recurrent_kernel of layer 0, direction 0 must have shape (u, {G} u); got {first.shape}"
        )
    u, bias = len(first), stack[0][0].bias is not None
    kernel = arrays["kernel of layer 0, direction 0"]
    D = kernel.shape[0] if kernel.ndim else 0
    here: list[list[dict[str, Array]]] = []
    for index in range(len(stack)):
        here.append([])
        inputs = D if index == 0 else rows * u
        for row in range(rows):
            place = f"of layer {index}, direction {row}"
            kernel, recurrent = arrays[f"kernel {place}"], arrays[f"recurrent_kernel {place}"]
            symbols = f"({'D' if index == 0 else 'directions u'}, {G} u)"
            arguments.shaped(where, f"kernel {place}", kernel, symbols, (inputs, G * u))
            arguments.shaped(where, f"recurrent_kernel {place}", recurrent, f"(u, {G} u)", (u, G * u))
            own_bias = arrays.get(f"bias {place}")
            if (own_bias is not None) != bias:
                raise ShapeError(f"{where}: all layers and directions must have a bias, or none; {place} differs")
            if own_bias is not None and reset == "after":
                arguments.shaped(where, f"bias {place}", own_bias, "(2, 3 u)", (2, 3 * u))
            elif own_bias is not None:
                arguments.shaped(where, f"bias {place}", own_bias, f"({G} u,)", (G * u,))
            here[-1].append(_to_here(cell, reset, Weights(kernel, recurrent, own_bias)))
    return common.assembled(cell, here, batch_first=True, **options)


def _paired(where: str, name: str, arrays: Any, directions: int) -> list[Weights]:
    """Return the weights of each direction from a flat list."""
    count = len(arrays) if isinstance(arrays, list | tuple) else 0
    if count not in (2 * directions, 3 * directions):
        expected = "kernel, recurrent_kernel and bias, or the first two"
        of = ", of both directions" if directions == 2 else ""
        raise ShapeError(f"{where}: {name} must be {expected}{of}; got {count} arrays")
    each = count // directions
    found = []
    for row in range(directions):
        parts = [arguments.as_array(where, f"{name}[{i}]", arrays[i]) for i in range(row * each, (row + 1) * each)]
        found.append(Weights(parts[0], parts[1], parts[2] if each == 3 else None))
    return found


def _reset_of(where: str, cell: str, stack: Stack, reset: str | None) -> str | None:
    """Return "after" or "before" for a GRU, by what the shape of its bias says."""
    if cell != "gru":
        return None
    bias = stack[0][0].bias
    if bias is None:
        if reset is None:
            raise OptionError(
                f"{where}: reset must be given for a GRU without bias: 'after' for reset_after=True, else 'before'"
            )
        return reset
    found = "before" if bias.ndim == 1 else "after"
    if reset not in (None, found):
        raise ConversionError(
            f"{where}: reset={reset!r} does not go with a bias of shape {bias.shape}: with reset_after=True Keras has "
            "two biases, (2, 3 u), the second one inside of the reset; with False it has one, (3 u,). Neither can be "
            "made from the other"
        )
    return found


def _keras_step(cell: str, reset: str | None, sigmoid: Function, tanh: Function, weights: Weights) -> common.Step:
    """Return one step of a Keras layer, as its documentation and source write it; nothing is shared with the engine.

    `sigmoid` is its recurrent_activation, `tanh` its activation; of a SimpleRNN both are.
    """
    kernel, recurrent = weights.kernel, weights.recurrent
    width = kernel.shape[1]
    bias = np.zeros(width, kernel.dtype) if weights.bias is None else weights.bias

    def simple_rnn(x: Array, h: Array) -> tuple[Array, ...]:
        a = x @ kernel + bias + h @ recurrent
        return (tanh(a),)

    def lstm(x: Array, h: Array, c: Array) -> tuple[Array, ...]:
        z0, z1, z2, z3 = np.split(x @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(z1) * c + sigmoid(z0) * tanh(z2)
        return sigmoid(z3) * tanh(c), c

    def gru_reset_after(x: Array, h: Array) -> tuple[Array, ...]:
        input_bias, recurrent_bias = np.broadcast_to(bias, (2, width))
        x_z, x_r, x_h = np.split(x @ kernel + input_bias, 3, axis=1)
        recurrent_z, recurrent_r, recurrent_h = np.split(h @ recurrent + recurrent_bias, 3, axis=1)
        z, r = sigmoid(x_z + recurrent_z), sigmoid(x_r + recurrent_r)
        return (z * h + (1 - z) * tanh(x_h + r * recurrent_h),)

    def gru_reset_before(x: Array, h: Array) -> tuple[Array, ...]:
        x_z, x_r, x_h = np.split(x @ kernel + bias, 3, axis=1)
        kernel_z, kernel_r, kernel_h = np.split(recurrent, 3, axis=1)
        z, r = sigmoid(x_z + h @ kernel_z), sigmoid(x_r + h @ kernel_r)
        return (z * h + (1 - z) * tanh(x_h + (r * h) @ kernel_h),)

    if cell == "gru":
        return gru_reset_after if reset == "after" else gru_reset_before
    return lstm if cell == "lstm" else simple_rnn


# ----------------------------------------------------------------------------------------------------- the Keras layers


def _keras(where: str) -> Any:
    """Import Keras 3, and say so where only its backend is missing, or where it is an older one."""
    try:
        keras = optional_import("keras", where, "keras")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{where}: Keras needs its backend, {error.name}, which is not installed; install it, or set KERAS_BACKEND "
            "to torch or another one that is, before Keras is imported"
        ) from None
    if not hasattr(keras, "ops"):
        raise MissingExtraError(f"{where} needs Keras 3; got {keras.__version__}")
    return keras


def _without_dropout(where: str, keras: Any, given: list[Any]) -> tuple[list[Any], float]:
    """Return the recurrent layers of a list, and the rate of the Dropout between them."""
    if not given:
        raise DTypeError(f"{where}: layers must be a Keras layer or a list of them; got an empty list")
    recurrent, rates = [], []
    for index, layer in enumerate(given):
        if type(layer) is not keras.layers.Dropout:
            recurrent.append(layer)
            rates.append(0.0)
            continue
        if layer.noise_shape is not None and any(size is not None for size in layer.noise_shape):
            raise ConversionError(
                f"{where}: layers[{index}] drops whole stretches, noise_shape={layer.noise_shape}; here every entry is "
                "dropped for itself"
            )
        if index in (0, len(given) - 1) or type(given[index - 1]) is keras.layers.Dropout:
            raise ConversionError(
                f"{where}: layers[{index}] is a Dropout that is not between two recurrent layers: leave it out, and "
                "drop entries of inputs or outputs yourself"
            )
        rates[-1] = float(layer.rate)
    between = rates[:-1]
    if len(set(between)) > 1:
        raise ConversionError(f"{where}: Dropout must be the same between all layers; got the rates {between}")
    return recurrent, between[0] if between else 0.0


def _read(where: str, keras: Any, index: int, layer: Any) -> tuple[dict[str, Any], list[Weights]]:
    """Return options and weights of one Keras layer, or say why it cannot be converted."""
    name = f"layers[{index}]"
    inner, bidirectional = [layer], type(layer) is keras.layers.Bidirectional
    if bidirectional:
        inner = [layer.forward_layer, layer.backward_layer]
        if layer.merge_mode != "concat":
            raise ConversionError(
                f"{where}: {name} has merge_mode={layer.merge_mode!r}; here outputs are concatenated, as with 'concat'"
            )
    both = [_read_one(where, keras, name, part, reverse=bool(row)) for row, part in enumerate(inner)]
    if len({str(options) for options, _ in both}) > 1:
        raise ConversionError(
            f"{where}: both directions of {name} must have the same options; got {both[0][0]} forward, "
            f"{both[1][0]} backward"
        )
    return both[0][0] | {"bidirectional": bidirectional}, [weights for _, weights in both]


def _read_one(where: str, keras: Any, name: str, layer: Any, reverse: bool) -> tuple[dict[str, Any], Weights]:
    kinds = {getattr(keras.layers, kind): cell for kind, cell in CLASSES.items()}
    cell = kinds.get(type(layer))
    if cell is None:
        raise DTypeError(
            f"{where}: {name} must be a keras.layers.SimpleRNN, LSTM or GRU, or a Bidirectional of one; got "
            f"{type(layer).__name__}"
        )
    if not layer.built:
        raise ConversionError(f"{where}: {name} has no weights yet: call it once, or layer.build((None, None, D))")

    def refuse(option: str, reason: str) -> None:
        raise ConversionError(f"{where}: {name} has {option}={getattr(layer, option)!r}, {reason}")

    if layer.go_backwards != reverse:
        refuse(
            "go_backwards",
            "which exists here as half of a bidirectional layer only: set it to the direction's own "
            "(False; True in the backward layer of a Bidirectional), and reverse what it reads in time",
        )
    if layer.stateful:
        refuse("stateful", "which keeps the state inside of the layer; here it is handed in and out: h_0, h_n")
    for option in ("dropout", "recurrent_dropout"):
        if getattr(layer, option):
            refuse(
                option,
                "which drops the same entries at every step; here dropout acts between layers. Set it to 0; a "
                "keras.layers.Dropout between two layers can be converted",
            )
    if layer.variable_dtype not in ("float32", "float64"):
        advice = "and weights here are float32 or float64: make a float32 layer of the same weights first"
        refuse("variable_dtype", advice)
    if layer.compute_dtype != layer.variable_dtype:
        refuse("compute_dtype", f"while its weights are {layer.variable_dtype}; here both are one")
    activation = _activation(keras, layer.activation)
    if activation not in (("tanh", "relu") if cell == "rnn" else ("tanh",)):
        has = "tanh and relu" if cell == "rnn" else "tanh"
        refuse("activation", f"for which this package's {cell.upper()} has no counterpart; it has {has}")
    if cell != "rnn" and _activation(keras, layer.recurrent_activation) != "sigmoid":
        refuse("recurrent_activation", "for which there is no counterpart; the gates here are sigmoid")
    arrays = _get_weights(keras, layer)
    weights = Weights(arrays[0], arrays[1], arrays[2] if layer.use_bias else None)
    reset = None if cell != "gru" else "after" if layer.reset_after else "before"
    units, use_bias = layer.units, layer.use_bias
    return {"cell": cell, "units": units, "use_bias": use_bias, "reset": reset, "activation": activation}, weights


def _activation(keras: Any, function: Any) -> str | None:
    """Return the name of an activation of Keras' own; of another function, whatever its name, None."""
    return next((name for name in ("tanh", "relu", "sigmoid") if function is getattr(keras.activations, name)), None)


def _get_weights(keras: Any, layer: Any) -> list[Array]:
    return [_to_numpy(keras, variable.value) for variable in layer.weights]


def _to_numpy(keras: Any, tensor: Any) -> Array:
    # Keras' own way from a torch tensor to NumPy 2 ends in a warning.
    return np.asarray(tensor.detach().cpu() if hasattr(tensor, "detach") else keras.ops.convert_to_numpy(tensor))


def _to_tensor(keras: Any, array: Array) -> Any:
    # With its dtype, which some backends would reduce to Keras' default.
    return keras.ops.convert_to_tensor(np.ascontiguousarray(array), dtype=array.dtype.name)


def _new_keras_layer(keras: Any, cell: str, layer: Any) -> Any:
    options = {"activation": layer.nonlinearity} if cell == "rnn" else {}
    options |= {"reset_after": layer.reset == "after"} if cell == "gru" else {}
    kind = next(getattr(keras.layers, name) for name, own in CLASSES.items() if own == cell)
    dtype = layer.dtype.name
    made = kind(layer.hidden_size, use_bias=layer.bias, return_sequences=True, dtype=dtype, **options)
    return keras.layers.Bidirectional(made, dtype=dtype) if layer.bidirectional else made


def _verify_with_keras(where: str, layer: Any, keras: Any, layers: list[Any]) -> None:
    """Compare a layer with Keras layers, in the precision in which their backend computes."""
    # All backends but TensorFlow multiply float64 matrices in float32.
    precision = np.dtype(keras.backend.result_type(layer.dtype.name, layer.dtype.name))
    other = f"Keras on {keras.backend.backend()}"
    common.verify(where, layer, other, lambda x, initial: _run(keras, layers, x, initial), precision=precision)


def _run(keras: Any, layers: list[Any], x: Array, initial: tuple[Array, ...]) -> dict[str, Array]:
    """Run Keras layers, one on the outputs of the other; return the output of the last, time first."""
    signal, row = _to_tensor(keras, x.swapaxes(0, 1)), 0
    sequences = True
    for layer in layers:
        bidirectional = type(layer) is keras.layers.Bidirectional
        states: list[Any] = []
        for _ in range(2 if bidirectional else 1):
            states += [_to_tensor(keras, state[row]) for state in initial]
            row += 1
        returned = layer(signal, initial_state=states, training=False)
        signal = returned[0] if isinstance(returned, list | tuple) else returned
        sequences = (layer.forward_layer if bidirectional else layer).return_sequences
    output = _to_numpy(keras, signal)
    return {"output": output.swapaxes(0, 1)} if sequences else {"last output": output}
