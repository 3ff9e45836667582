"""Layers from and to the operators RNN, LSTM and GRU of ONNX.

A node has both directions in one array, and both biases in one row:

    parameter             here                          ONNX
    weight_ih             (G H, D) per direction        W (directions, G H, D)
    weight_hh             (G H, H) per direction        R (directions, G H, H)
    bias_ih, bias_hh      two of (G H,)                 B (directions, 2 G H): Wb, then Rb
    blocks of an LSTM     i f g o                       i o f c
    blocks of a GRU       r z n                         z r h
    GRU                   reset="after" or "before"     linear_before_reset = 1 or 0 (the default)

A node is one layer. A layer of several layers is a list of nodes, from the bottom to the top; what stands between them,
Y (T, directions, N, H) to X (T, N, directions H), is a transpose and a reshape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, storage
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import ConversionError, DTypeError, OptionError, RNNNumpyError
from rnn_numpy.interop import common
from rnn_numpy.interop.common import Step
from rnn_numpy.interop.onnx_constants import plain
from rnn_numpy.layers.general import FUNCTIONS, Activation, GeneralGRU, GeneralLSTM, GeneralRNN
from rnn_numpy.layers.peephole import PeepholeLSTM

Array = NDArray[Any]
Function = Callable[[Array], Array]

# ONNX's orders of blocks, in this package's letters.
ONNX_BLOCKS = {"rnn": "h", "lstm": "iofg", "gru": "zrn"}

OPSET, IR_VERSION = 17, 8  # of the models that are written: old enough for every runtime of the last years


@dataclass(frozen=True)
class OnnxNode:
    """Weights and attributes of one RNN, LSTM or GRU operator.

    Attributes
    ----------
    op_type : {"RNN", "LSTM", "GRU"}
    W : ndarray, (directions, G H, D)
    R : ndarray, (directions, G H, H)
    B : ndarray, (directions, 2 G H), or None
    attributes : dict
        hidden_size, direction, linear_before_reset of a GRU, and activations with activation_alpha and activation_beta,
        clip, input_forget where they are not the default: as `onnx.helper.make_node` takes them.
    P : ndarray, (directions, 3 H), or None
        Peepholes of an LSTM.
    """

    op_type: str
    W: Array
    R: Array
    B: Array | None
    attributes: dict[str, Any]
    P: Array | None = None


def from_onnx(
    W: ArrayLike | Sequence[ArrayLike],
    R: ArrayLike | Sequence[ArrayLike],
    B: ArrayLike | Sequence[ArrayLike] | None = None,
    *,
    cell: str,
    direction: str = "forward",
    linear_before_reset: int = 0,
    activations: Sequence[str] | None = None,
    hidden_size: int | None = None,
    layout: int = 0,
    clip: float | None = None,
    input_forget: int = 0,
    P: Any = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
) -> Any:
    """Return a layer with the weights and attributes of an ONNX operator, or of several on top of each other.

    Parameters
    ----------
    W : ndarray, (directions, G H, D)
    R : ndarray, (directions, G H, H)
    B : ndarray, (directions, 2 G H), optional
        None stands for zeros. For a layer of several layers, W, R and B are lists, from the bottom to the top.
    cell : {"rnn", "lstm", "gru"}
        The operator; in capitals, as `op_type` has it, as well. Texts may be bytes.
    direction : {"forward", "bidirectional"}
    linear_before_reset : {0, 1}
        Of a GRU. 0, ONNX's default, gives reset="before"; 1 gives reset="after".
    activations : list of str, optional
        Of all directions, which must be the same in both.
    hidden_size : int, optional
        The attribute; checked where it is given.
    layout : {0, 1}
        1 gives a layer with batch_first. States stay (layers * directions, N, H).
    clip : float, optional
        Cuts what enters the activations; of an LSTM's c it does not, as in ONNX Runtime.
    input_forget : {0, 1}
        Of an LSTM: f = 1 - i.
    P : ndarray, (directions, 3 H), or a list of them, optional
        Peepholes of an LSTM, blocks i o f.
    activation_alpha, activation_beta : list of float, optional
        Coefficients, for those of the activations that have them, in their order.

    Returns
    -------
    RNN, LSTM or GRU
        In the dtype of the arrays, with copies of the weights. With P it is a `PeepholeLSTM`; with clip, input_forget
        or other activations a `GeneralRNN`, `GeneralLSTM` or `GeneralGRU` of `rnn_numpy.layers.general`.

    Raises
    ------
    ConversionError
        Arrays of half precision; direction="reverse" alone; activations that differ between the directions, or that
        lack coefficients where what runs such a model disagrees on them: Affine, ScaledTanh, ThresholdedRelu.

    Examples
    --------
    >>> import numpy as np
    >>> from_onnx(np.ones((2, 12, 5)), np.ones((2, 12, 4)), cell="gru", direction="bidirectional")
    GRU(5, 4, reset='before', bias=False, bidirectional=True, dtype=float64)
    """
    where = "from_onnx"
    cell, direction, activations = plain(cell), plain(direction), plain(activations)
    cell = cell.lower() if isinstance(cell, str) and cell.isupper() else cell
    arguments.one_of(where, "cell", cell, common.LAYERS)
    reset = _checked_attributes(where, cell, direction, linear_before_reset, layout, input_forget)
    rows = 2 if direction == "bidirectional" else 1
    functions = _functions(where, cell, activations, activation_alpha, activation_beta, clip, rows)
    P = None if P is None or not _any(where, P) else P
    named = _listed(where, W, R, B, P)
    count = sum(name.startswith("W") for name in named)
    arrays = common.real_arrays(where, named)
    have, want, G = ONNX_BLOCKS[cell], common.BLOCKS[cell], len(ONNX_BLOCKS[cell])
    first_R, first_W = arrays["R[0]"], arrays["W[0]"]
    H = first_R.shape[-1] if first_R.ndim else 0
    D = first_W.shape[-1] if first_W.ndim else 0
    if hidden_size is not None and hidden_size != H:
        raise OptionError(f"{where}: hidden_size must be H = {H}, after the shape of R; got {hidden_size!r}")
    nodes: list[list[Step]] = []
    stack: list[list[dict[str, Array]]] = []
    for index in range(count):
        inputs, symbol = (D, "D") if index == 0 else (rows * H, "directions H")
        own_W, own_R = arrays[f"W[{index}]"], arrays[f"R[{index}]"]
        own_B, own_P = arrays.get(f"B[{index}]"), arrays.get(f"P[{index}]")
        arguments.shaped(where, f"W[{index}]", own_W, f"(directions, {G} H, {symbol})", (rows, G * H, inputs))
        arguments.shaped(where, f"R[{index}]", own_R, f"(directions, {G} H, H)", (rows, G * H, H))
        if own_B is not None:
            arguments.shaped(where, f"B[{index}]", own_B, f"(directions, {2 * G} H)", (rows, 2 * G * H))
        if own_P is not None:
            arguments.shaped(where, f"P[{index}]", own_P, "(directions, 3 H)", (rows, 3 * H))
        nodes.append([])
        stack.append([])
        for row in range(rows):
            own = {"weight_ih": own_W[row], "weight_hh": own_R[row]}
            if own_B is not None:
                own["bias_ih"], own["bias_hh"] = np.split(own_B[row], 2)
            stack[-1].append({name: common.reordered(array, have, want) for name, array in own.items()})
            if own_P is not None:
                parts = np.split(own_P[row], 3)
                stack[-1][-1] |= {f"peephole_{gate}": part for gate, part in zip("iof", parts, strict=True)}
            b, p = (None if array is None else array[row] for array in (own_B, own_P))
            nodes[-1].append(_onnx_step(cell, functions, reset, own_W[row], own_R[row], b, p, bool(input_forget)))
    options = _kind_and_options(cell, functions, reset, P is not None, bool(input_forget))
    layer = common.assembled(cell, stack, batch_first=layout == 1, **options)
    common.verify(where, layer, "ONNX's equations", lambda x, initial: common.stacked_loops(x, initial, nodes))
    return layer


def to_onnx(layer: Any, layer_index: int = 0) -> OnnxNode:
    """Return the weights and attributes of the ONNX operator that computes one layer.

    Parameters
    ----------
    layer : RNN, LSTM or GRU, PeepholeLSTM, GeneralRNN, GeneralLSTM or GeneralGRU
        float32 or float64; not changed.
    layer_index : int
        Which of its num_layers, 0 the lowest.

    Returns
    -------
    OnnxNode
        Of layout 0, ONNX's default: X is (T, N, D), also where the layer is batch_first.

    Raises
    ------
    ConversionError
        What ONNX does not have: a complex128 layer, proj_size, zoneout, different clips.

    Notes
    -----
    An operator is for inference: it has no dropout. No attribute says what weights can say: coupled gates of an LSTM
    become rows of f that are those of -i. Not every runtime heeds clip, input_forget, activations and P: run the model
    where it is to run, and compare.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> node = to_onnx(RNN(3, 4, 2, "relu", bidirectional=True), layer_index=1)
    >>> node.op_type, node.W.shape, node.R.shape, node.B.shape
    ('RNN', (2, 4, 8), (2, 4, 4), (2, 8))
    >>> node.attributes
    {'hidden_size': 4, 'direction': 'bidirectional', 'activations': ['Relu', 'Relu']}
    """
    nodes = _nodes("to_onnx", layer)
    if isinstance(layer_index, bool) or not isinstance(layer_index, int | np.integer):
        raise DTypeError(f"to_onnx: layer_index must be an integer; got {type(layer_index).__name__} {layer_index!r}")
    if not 0 <= layer_index < len(nodes):
        raise OptionError(f"to_onnx: layer_index must be in 0 ... num_layers - 1 = {len(nodes) - 1}; got {layer_index}")
    return nodes[layer_index]


def to_onnx_model(layer: Any, path: storage.PathLike, *, initial_state: bool = False) -> None:
    """Write a model of the whole layer to an .onnx file.

    Parameters
    ----------
    layer : RNN, LSTM or GRU, PeepholeLSTM, GeneralRNN, GeneralLSTM or GeneralGRU
        float32 or float64; not changed.
    path : str or path
        Ends in .onnx. A file of that name is replaced, and keeps its permissions; where anything goes wrong, it stays
        as it was.
    initial_state : bool
        Whether h_0 (of an LSTM c_0, too) is an input of the model; zeros where not.

    Raises
    ------
    ConversionError
        What ONNX does not have: a complex128 layer, proj_size, zoneout.
    DataError
        Another suffix; the file cannot be written.

    Notes
    -----
    Inputs and outputs have the names and axes of this package: x, h_0, c_0; output, h_n, c_n. T and N are free: a model
    runs on any. It is compared, before it is written, in onnx's own reference implementation. A model is for inference:
    it has no dropout. A runtime may silently ignore what it does not know, openvino 2026.4 peepholes and input_forget,
    tract 0.23 clip, input_forget and activations: compare its output of some x with `layer(x)[0]` where it is to run.

    ONNX has these operators for float64 as well, ONNX Runtime (1.32) for float32 alone: for it, write
    `layer.astype(np.float32)`.
    """
    where = "to_onnx_model"
    target = storage.with_suffix(where, path, ".onnx")
    arguments.flag(where, "initial_state", initial_state)
    onnx = optional_import("onnx", where, "onnx")
    reference = optional_import("onnx.reference", where, "onnx")
    optional_import("onnx.reference.op_run", where, "onnx")
    nodes = _nodes(where, layer)
    model = _model(onnx, layer, nodes, initial_state)
    onnx.checker.check_model(model, full_check=True)
    # It knows the usual activations, no clip, and no input_forget.
    known = nodes[0].attributes.keys() <= {"hidden_size", "direction", "linear_before_reset"} and nodes[0].P is None
    own = None if known else [_own_operator(reference, nodes[0].op_type)]
    evaluator = reference.ReferenceEvaluator(model, new_ops=own)
    # An attribute is a float32, whatever the weights are.
    rounded = any(name in nodes[0].attributes for name in ("activation_alpha", "activation_beta", "clip"))

    def run(x: Array, initial: tuple[Array, ...]) -> dict[str, Array]:
        states = ("h", "c")[: len(initial)]
        signal = np.ascontiguousarray(x.swapaxes(0, 1)) if layer.batch_first else x
        given = {f"{state}_0": array for state, array in zip(states, initial, strict=True)} if initial_state else {}
        output, *finals = evaluator.run(None, {"x": signal, **given})
        named = {f"{state}_n": array for state, array in zip(states, finals, strict=True)}
        return {"output": output.swapaxes(0, 1) if layer.batch_first else output, **named}

    precision = np.dtype(np.float32) if rounded else None
    common.verify(
        where, layer, "onnx's reference implementation", run, zero_state=not initial_state, precision=precision
    )
    content = model.SerializeToString()
    storage.write_whole(where, target, lambda file: file.write(content))


# ----------------------------------------------------------------------------------------------------------------------


def _checked_attributes(
    where: str, cell: str, direction: Any, linear_before_reset: Any, layout: Any, input_forget: Any
) -> str | None:
    """Refuse what has no counterpart; return the reset of a GRU."""
    if direction == "reverse":
        raise ConversionError(
            f"{where}: direction='reverse' alone has no counterpart: convert it as 'forward', hand in x[::-1], and "
            "read output[::-1] (with lengths, reverse each sequence within its own)"
        )
    if direction not in ("forward", "bidirectional"):
        raise OptionError(f"{where}: direction must be 'forward' or 'bidirectional'; got {direction!r}")
    flags = (("linear_before_reset", linear_before_reset), ("layout", layout), ("input_forget", input_forget))
    for name, value in flags:
        if value not in (0, 1):
            raise OptionError(f"{where}: {name} must be 0 or 1; got {value!r}")
    for name, value, own in (
        ("linear_before_reset", linear_before_reset, "gru"),
        ("input_forget", input_forget, "lstm"),
    ):
        if value and cell != own:
            raise OptionError(
                f"{where}: {name} is of {'a' if own == 'gru' else 'an'} {own!r} alone; got it with {cell!r}"
            )
    if cell != "gru":
        return None
    return "after" if linear_before_reset else "before"


def _any(where: str, P: Any) -> bool:
    parts = P if isinstance(P, list | tuple) else [P]
    return any(bool(arguments.as_array(where, "P", part).any()) for part in parts)


def _functions(
    where: str, cell: str, activations: Any, alpha: Any, beta: Any, clip: Any, rows: int
) -> tuple[Activation, ...]:
    """Return the activations of one direction, which are those of the other as well."""
    defaults = {"rnn": ["Tanh"], "lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"]}[cell]
    names = defaults * rows if activations is None else list(activations)
    if len(names) != len(defaults) * rows or not all(isinstance(name, str) for name in names):
        raise ConversionError(f"{where}: activations must be {len(defaults) * rows}, as {defaults * rows}; got {names}")
    if clip is not None and (isinstance(clip, bool) or not clip > 0):
        raise OptionError(f"{where}: clip must be greater than 0, or left out; got {clip!r}")
    # Each takes the next coefficient that it has a use for.
    coefficients = {"alpha": list(alpha or ()), "beta": list(beta or ())}
    made = []
    for name in names:
        known = FUNCTIONS.get(name.lower())
        if known is None:
            raise ConversionError(
                f"{where}: the activation {name!r} has no counterpart here; known are {list(FUNCTIONS)}"
            )
        own = {}
        for (which, left), default in zip(coefficients.items(), known[2:], strict=True):
            if default is not None and left:
                own[which] = float(left.pop(0))
        try:
            made.append(Activation(name, clip=clip, **own))
        except RNNNumpyError as error:
            raise ConversionError(f"{where}: {error}") from None
    per_row = [tuple(made[row * len(defaults) : (row + 1) * len(defaults)]) for row in range(rows)]
    if per_row[0] != per_row[-1]:
        raise ConversionError(
            f"{where}: activations of both directions must be the same; got {names}. Convert them one by one"
        )
    return per_row[0]


def _kind_and_options(
    cell: str, functions: tuple[Activation, ...], reset: str | None, peepholes: bool, coupled: bool
) -> dict[str, Any]:
    """Return the class of the layer, None for the cell's usual one, and its options: the plainest that it can be."""
    usual = {"rnn": ["tanh"], "lstm": ["sigmoid", "tanh", "tanh"], "gru": ["sigmoid", "tanh"]}[cell]
    names, clipped = [one.name for one in functions], functions[0].clip is not None
    relu = cell == "rnn" and names == ["relu"]
    if (names == usual or relu) and not clipped and not coupled:
        return {"kind": PeepholeLSTM} if peepholes else common.special_options(cell, names[-1], reset)
    kind = {"rnn": GeneralRNN, "lstm": GeneralLSTM, "gru": GeneralGRU}[cell]
    # Of an LSTM, clip does not act on c.
    activations = (*functions[:2], replace(functions[2], clip=None)) if cell == "lstm" else functions
    options: dict[str, Any] = {"kind": kind, "activations": activations}
    if cell == "lstm":
        options |= {"coupled": coupled, "peepholes": peepholes}
    return options | ({"reset": reset} if cell == "gru" else {})


def _listed(where: str, W: Any, R: Any, B: Any, P: Any = None) -> dict[str, Any]:
    """Return W[0], R[0], B[0], W[1], ... of one node or a list of them."""
    lists = {"W": W, "R": R, "B": B, "P": P}
    if not isinstance(W, list | tuple):
        lists = {name: None if value is None else [value] for name, value in lists.items()}
    count = len(lists["W"] or ())
    for name, value in lists.items():
        if (name in "WR" or value is not None) and (
            not isinstance(value, list | tuple) or len(value) != count or not count
        ):
            raise DTypeError(
                f"{where}: W, R, B and P must be arrays, or lists of as many arrays as there are layers; {name} is not"
            )
    return {
        f"{name}[{index}]": value[index] for index in range(count) for name, value in lists.items() if value is not None
    }


GENERAL = {GeneralRNN: "rnn", GeneralLSTM: "lstm", PeepholeLSTM: "lstm", GeneralGRU: "gru"}
ONNX_NAMES = {
    "hardsigmoid": "HardSigmoid", "leakyrelu": "LeakyRelu", "scaledtanh": "ScaledTanh",
    "thresholdedrelu": "ThresholdedRelu",
}  # fmt: skip


def activation_names(functions: Sequence[Activation]) -> list[str]:
    """Return the names of activations as ONNX writes them."""
    return [ONNX_NAMES.get(one.name, one.name.capitalize()) for one in functions]


def _cell_of(where: str, layer: Any) -> str:
    found = [cell for kind, cell in GENERAL.items() if isinstance(layer, kind)]
    return found[0] if found else common.cell_of(where, layer)


def _own_attributes(where: str, layer: Any, cell: str) -> dict[str, Any]:
    """Return the attributes of one direction that say which functions a layer has."""
    if getattr(layer, "nonlinearity", "tanh") == "relu":
        return {"activations": ["Relu"]}
    functions = getattr(layer, "functions", None)
    if functions is None:
        return {}
    phi, gamma, eta, coupled = functions
    own = {"rnn": [phi], "lstm": [phi, gamma, eta], "gru": [phi, gamma]}[cell]
    found: dict[str, Any] = {}
    if (
        activation_names(own)
        != {"rnn": ["Tanh"], "lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"]}[cell]
    ):
        found["activations"] = activation_names(own)
    for which in ("alpha", "beta"):
        if numbers := [number for one in own if (number := getattr(one, which)) is not None]:
            found[f"activation_{which}"] = numbers
    clips = {one.clip for one in (phi, gamma)}
    if len(clips) > 1 or (cell == "lstm" and eta.clip is not None):
        raise ConversionError(
            f"{where}: ONNX has one clip for the gates and the candidate, and none for c; the layer has "
            f"{[one.clip for one in own]}"
        )
    if phi.clip is not None:
        found["clip"] = phi.clip
    if coupled and not _is_even(phi):
        found["input_forget"] = 1
    return found


def _is_even(function: Activation) -> bool:
    """Whether 1 - phi(u) = phi(-u), so that weights can say what an attribute would."""
    return function.name == "sigmoid" or (function.name == "hardsigmoid" and function.beta == 0.5)


def _nodes(where: str, layer: Any) -> list[OnnxNode]:
    """Return the operators of all layers, compared with a plain loop over ONNX's equations."""
    cell = _cell_of(where, layer)
    common.refuse_what_is_not_there(where, layer, f"ONNX's {cell.upper()}", trains=False, further=PEEPHOLES)
    have, want = common.BLOCKS[cell], ONNX_BLOCKS[cell]
    rows = layer.num_directions
    own_attributes = _own_attributes(where, layer, cell)
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size}
    attributes["direction"] = "bidirectional" if layer.bidirectional else "forward"
    attributes |= {name: value * rows if isinstance(value, list) else value for name, value in own_attributes.items()}
    if cell == "gru":
        attributes["linear_before_reset"] = int(layer.reset == "after")
    coupled = getattr(layer, "functions", (None,) * 4)[3] and "input_forget" not in attributes
    nodes = []
    for index in range(layer.num_layers):
        found = common.arrays_of(layer, index)
        peepholes = [
            {gate: layer.params[f"peephole_{gate}_{suffix}"] for gate in "iof"}
            for suffix in common.suffixes(layer, index)
            if f"peephole_i_{suffix}" in layer.params
        ]
        if coupled:  # f = 1 - i = phi(-u_i): there are runtimes that ignore input_forget
            found = [{name: _coupled(array) for name, array in arrays.items()} for arrays in found]
            peepholes = [{**own, "f": -own["i"]} for own in peepholes]
        own = [{name: common.reordered(array, have, want) for name, array in arrays.items()} for arrays in found]
        W, R = (np.stack([arrays[name] for arrays in own]) for name in ("weight_ih", "weight_hh"))
        B = P = None
        if layer.bias:
            B = np.stack([np.concatenate([arrays["bias_ih"], arrays["bias_hh"]]) for arrays in own])
        if peepholes:
            P = np.stack([np.concatenate([arrays[gate] for gate in "iof"]) for arrays in peepholes])
        nodes.append(OnnxNode(cell.upper(), W, R, B, dict(attributes), P))
    loops = [_loops(where, node, getattr(layer, "reset", None)) for node in nodes]
    common.verify(where, layer, "ONNX's equations", lambda x, initial: common.stacked_loops(x, initial, loops))
    return nodes


PEEPHOLES = ("peephole_i", "peephole_f", "peephole_o")


def _coupled(array: Array) -> Array:
    """Return blocks i f g o with those of -i in place of f."""
    i, _, g, o = np.split(array, 4)
    return np.concatenate([i, -i, g, o])


def _loops(where: str, node: OnnxNode, reset: str | None) -> list[Step]:
    """Return one step of each direction of an operator."""
    cell, attributes, rows = node.op_type.lower(), node.attributes, len(node.W)
    activations = attributes.get("activations")
    functions = _functions(
        where, cell, None if activations is None else activations[: rows * {"rnn": 1, "lstm": 3, "gru": 2}[cell]],
        attributes.get("activation_alpha"), attributes.get("activation_beta"), attributes.get("clip"), rows,
    )  # fmt: skip
    coupled = bool(attributes.get("input_forget"))
    return [
        _onnx_step(
            cell, functions, reset, node.W[k], node.R[k], None if node.B is None else node.B[k],
            None if node.P is None else node.P[k], coupled,
        )
        for k in range(rows)
    ]  # fmt: skip


def plain_function(chosen: Activation) -> Function:
    """Return an activation as ONNX's specification writes it, after the cut; nothing is shared with the layers."""
    a, b = chosen.alpha or 0.0, chosen.beta or 0.0
    known: dict[str, Function] = {
        "sigmoid": common.sigmoid,
        "tanh": np.tanh,
        "relu": lambda u: np.maximum(u, 0),
        "affine": lambda u: a * u + b,
        "leakyrelu": lambda u: np.where(u < 0, a * u, u),
        "thresholdedrelu": lambda u: np.where(u > a, u, 0),
        "scaledtanh": lambda u: a * np.tanh(b * u),
        "hardsigmoid": lambda u: np.maximum(0, np.minimum(1, a * u + b)),
        "elu": lambda u: np.where(u < 0, a * np.expm1(np.minimum(u, 0)), u),
        "softsign": lambda u: u / (1 + np.abs(u)),
        "softplus": lambda u: np.logaddexp(0, u),
    }
    function = known[chosen.name]
    if chosen.clip is None:
        return function
    bound = chosen.clip
    return lambda u: function(np.clip(u, -bound, bound))


def _onnx_step(
    cell: str, functions: tuple[Activation, ...], reset: str | None, W: Array, R: Array, B: Array | None,
    P: Array | None = None, coupled: bool = False,
) -> Step:  # fmt: skip
    """Return one step of an operator, as ONNX's specification writes it; nothing is shared with the engine."""
    f, g = plain_function(functions[0]), plain_function(functions[min(1, len(functions) - 1)])
    h = plain_function(replace(functions[-1], clip=None))  # c is not cut, as in ONNX Runtime
    Wb, Rb = np.split(np.zeros(2 * len(W), W.dtype) if B is None else B, 2)
    Pi, Po, Pf = np.split(np.zeros(3 * R.shape[1], W.dtype) if P is None else P, 3)

    def rnn(Xt: Array, H: Array) -> tuple[Array, ...]:
        return (f(Xt @ W.T + H @ R.T + Wb + Rb),)

    def lstm(Xt: Array, H: Array, C: Array) -> tuple[Array, ...]:
        Wi, Wo, Wf, Wc = np.split(W, 4)
        Ri, Ro, Rf, Rc = np.split(R, 4)
        bi, bo, bf, bc = np.split(Wb + Rb, 4)
        it = f(Xt @ Wi.T + H @ Ri.T + Pi * C + bi)
        ft = 1 - it if coupled else f(Xt @ Wf.T + H @ Rf.T + Pf * C + bf)
        ct = g(Xt @ Wc.T + H @ Rc.T + bc)
        Ct = ft * C + it * ct
        ot = f(Xt @ Wo.T + H @ Ro.T + Po * Ct + bo)
        return ot * h(Ct), Ct

    def gru(Xt: Array, H: Array) -> tuple[Array, ...]:
        (Wz, Wr, Wh), (Rz, Rr, Rh) = np.split(W, 3), np.split(R, 3)
        (Wbz, Wbr, Wbh), (Rbz, Rbr, Rbh) = np.split(Wb, 3), np.split(Rb, 3)
        zt = f(Xt @ Wz.T + H @ Rz.T + Wbz + Rbz)
        rt = f(Xt @ Wr.T + H @ Rr.T + Wbr + Rbr)
        if reset == "after":
            ht = g(Xt @ Wh.T + rt * (H @ Rh.T + Rbh) + Wbh)
        else:
            ht = g(Xt @ Wh.T + (rt * H) @ Rh.T + Rbh + Wbh)
        return ((1 - zt) * ht + zt * H,)

    if cell == "gru":
        return gru
    return lstm if cell == "lstm" else rnn


def _own_operator(reference: Any, op_type: str) -> Any:
    """Return an operator with all attributes as onnx's reference implementation takes it."""

    def run(
        self: Any, X: Array, W: Array, R: Array, B: Any = None, sequence_lens: Any = None, initial_h: Any = None,
        initial_c: Any = None, P: Any = None, **attributes: Any,
    ) -> tuple[Array, ...]:  # fmt: skip
        steps, batch = X.shape[:2]
        rows, H = len(W), R.shape[2]
        given = {name: value for name, value in attributes.items() if value is not None}
        reset = "after" if given.get("linear_before_reset") else "before"
        directions = _loops("to_onnx_model", OnnxNode(op_type, W, R, B, given, P), reset)
        zeros = np.zeros((rows, batch, H), X.dtype)
        first = [zeros if state is None else state for state in (initial_h, initial_c)]
        output, finals = common.single_step_loop(X, tuple(first[: 1 + (op_type == "LSTM")]), directions)
        Y = output.reshape(steps, batch, rows, H).swapaxes(1, 2)
        return Y, *(np.stack(states) for states in zip(*finals, strict=True))

    return type(op_type, (reference.op_run.OpRun,), {"op_domain": "", "_run": run})


def _model(onnx: Any, layer: Any, nodes: Sequence[OnnxNode], initial_state: bool) -> Any:
    """Return the graph: one operator a layer, transposes and reshapes between, states split by layer and joined."""
    helper, from_array = onnx.helper, onnx.numpy_helper.from_array
    kind = helper.np_dtype_to_tensor_dtype(layer.dtype)
    states = list(layer.cell.states)
    rows, H, count = layer.num_directions, layer.hidden_size, layer.num_layers
    axes = ["N", "T"] if layer.batch_first else ["T", "N"]
    weights = [from_array(np.array([0, 0, -1], np.int64), "side_by_side")]
    steps: list[Any] = []
    inputs = [helper.make_tensor_value_info("x", kind, [*axes, layer.input_size])]
    outputs = [helper.make_tensor_value_info("output", kind, [*axes, rows * H])]

    def add(operator: str, given: Sequence[str], made: Sequence[str], **attributes: Any) -> None:
        steps.append(helper.make_node(operator, list(given), list(made), **attributes))

    for state in states:
        outputs.append(helper.make_tensor_value_info(f"{state}_n", kind, [count * rows, "N", H]))
        if initial_state:
            inputs.append(helper.make_tensor_value_info(f"{state}_0", kind, [count * rows, "N", H]))
            add("Split", [f"{state}_0", "rows"], [f"{state}_0_l{index}" for index in range(count)], axis=0)
    if initial_state:
        weights.append(from_array(np.full(count, rows, np.int64), "rows"))
    signal = "x"
    if layer.batch_first:
        add("Transpose", ["x"], ["time_major"], perm=[1, 0, 2])
        signal = "time_major"
    for index, node in enumerate(nodes):
        names = []
        for letter, array in (("W", node.W), ("R", node.R), ("B", node.B)):
            names.append("" if array is None else f"{letter}_l{index}")
            if array is not None:
                weights.append(from_array(array, names[-1]))
        # The empty names are optional inputs that are left out: biases, and the lengths of the sequences.
        first = [f"{state}_0_l{index}" for state in states] if initial_state else []
        if node.P is not None:
            weights.append(from_array(node.P, f"P_l{index}"))
            first = [*(first or [""] * len(states)), f"P_l{index}"]
        given, made = [signal, *names, "", *first], [f"Y_l{index}", *(f"{state}_n_l{index}" for state in states)]
        while not given[-1]:
            given.pop()
        add(node.op_type, given, made, name=f"l{index}", **node.attributes)
        signal = "output" if index == count - 1 and not layer.batch_first else f"output_l{index}"
        add("Transpose", [f"Y_l{index}"], [f"by_sequence_l{index}"], perm=[0, 2, 1, 3])
        add("Reshape", [f"by_sequence_l{index}", "side_by_side"], [signal])
    if layer.batch_first:
        add("Transpose", [signal], ["output"], perm=[1, 0, 2])
    for state in states:
        add("Concat", [f"{state}_n_l{index}" for index in range(count)], [f"{state}_n"], axis=0)
    graph = helper.make_graph(steps, type(layer).__name__, inputs, outputs, weights)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="rnn_numpy")
