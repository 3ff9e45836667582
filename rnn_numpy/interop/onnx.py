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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, storage
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import ConversionError, DTypeError, OptionError
from rnn_numpy.interop import common
from rnn_numpy.interop.onnx_constants import plain

Array = NDArray[Any]

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
        hidden_size, direction, activations where they are not the default, linear_before_reset of a GRU: as
        `onnx.helper.make_node` takes them.
    """

    op_type: str
    W: Array
    R: Array
    B: Array | None
    attributes: dict[str, Any]


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
        The operator.
    direction : {"forward", "bidirectional"}
    linear_before_reset : {0, 1}
        Of a GRU. 0, ONNX's default, gives reset="before"; 1 gives reset="after".
    activations : list of str, optional
        Of both directions, as the attribute; only the default ones can be had, and "Relu" of "rnn".
    hidden_size : int, optional
        The attribute; checked where it is given.
    layout : {0, 1}
        1 gives a layer with batch_first. States stay (layers * directions, N, H).
    clip, input_forget, P
        What this package does not have: anything but None, 0 and zeros is refused.

    Returns
    -------
    RNN, LSTM or GRU
        In the dtype of the arrays, with copies of the weights.

    Raises
    ------
    ConversionError
        Arrays of half precision; direction="reverse" alone; clip, input_forget, peepholes P or other activations.

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
    reset = _checked_attributes(where, cell, direction, linear_before_reset, layout, clip, input_forget, P)
    rows = 2 if direction == "bidirectional" else 1
    nonlinearity = _nonlinearity(where, cell, activations, rows)
    named = _listed(where, W, R, B)
    count = sum(name.startswith("W") for name in named)
    arrays = common.real_arrays(where, named)
    have, want, G = ONNX_BLOCKS[cell], common.BLOCKS[cell], len(ONNX_BLOCKS[cell])
    first_R, first_W = arrays["R[0]"], arrays["W[0]"]
    H = first_R.shape[-1] if first_R.ndim else 0
    D = first_W.shape[-1] if first_W.ndim else 0
    if hidden_size is not None and hidden_size != H:
        raise OptionError(f"{where}: hidden_size must be H = {H}, after the shape of R; got {hidden_size!r}")
    nodes: list[tuple[Array, Array, Array | None]] = []
    stack: list[list[dict[str, Array]]] = []
    for index in range(count):
        inputs, symbol = (D, "D") if index == 0 else (rows * H, "directions H")
        own_W, own_R, own_B = arrays[f"W[{index}]"], arrays[f"R[{index}]"], arrays.get(f"B[{index}]")
        arguments.shaped(where, f"W[{index}]", own_W, f"(directions, {G} H, {symbol})", (rows, G * H, inputs))
        arguments.shaped(where, f"R[{index}]", own_R, f"(directions, {G} H, H)", (rows, G * H, H))
        if own_B is not None:
            arguments.shaped(where, f"B[{index}]", own_B, f"(directions, {2 * G} H)", (rows, 2 * G * H))
        nodes.append((own_W, own_R, own_B))
        stack.append([])
        for row in range(rows):
            own = {"weight_ih": own_W[row], "weight_hh": own_R[row]}
            if own_B is not None:
                own["bias_ih"], own["bias_hh"] = np.split(own_B[row], 2)
            stack[-1].append({name: common.reordered(array, have, want) for name, array in own.items()})
    special = common.special_options(cell, nonlinearity, reset)
    layer = common.assembled(cell, stack, batch_first=layout == 1, **special)
    _verify(where, layer, cell, nodes)
    return layer


def to_onnx(layer: Any, layer_index: int = 0) -> OnnxNode:
    """Return the weights and attributes of the ONNX operator that computes one layer.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
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
        What ONNX does not have: a complex128 layer, proj_size, zoneout.

    Notes
    -----
    An operator is for inference: it has no dropout.

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
    layer : RNN, LSTM or GRU
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
    it has no dropout.

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
    # It knows tanh, but no relu.
    relu = getattr(layer, "nonlinearity", "tanh") == "relu"
    evaluator = reference.ReferenceEvaluator(model, new_ops=[_relu_operator(reference)] if relu else None)

    def run(x: Array, initial: tuple[Array, ...]) -> dict[str, Array]:
        states = ("h", "c")[: len(initial)]
        signal = np.ascontiguousarray(x.swapaxes(0, 1)) if layer.batch_first else x
        given = {f"{state}_0": array for state, array in zip(states, initial, strict=True)} if initial_state else {}
        output, *finals = evaluator.run(None, {"x": signal, **given})
        named = {f"{state}_n": array for state, array in zip(states, finals, strict=True)}
        return {"output": output.swapaxes(0, 1) if layer.batch_first else output, **named}

    common.verify(where, layer, "onnx's reference implementation", run, zero_state=not initial_state)
    content = model.SerializeToString()
    storage.write_whole(where, target, lambda file: file.write(content))


# ----------------------------------------------------------------------------------------------------------------------


def _checked_attributes(
    where: str, cell: str, direction: Any, linear_before_reset: Any, layout: Any, clip: Any, input_forget: Any, P: Any
) -> str | None:
    """Refuse what has no counterpart; return the reset of a GRU."""
    if direction == "reverse":
        raise ConversionError(
            f"{where}: direction='reverse' alone has no counterpart: convert it as 'forward', hand in x[::-1], and "
            "read output[::-1] (with lengths, reverse each sequence within its own)"
        )
    if direction not in ("forward", "bidirectional"):
        raise OptionError(f"{where}: direction must be 'forward' or 'bidirectional'; got {direction!r}")
    for name, value in (("linear_before_reset", linear_before_reset), ("layout", layout)):
        if value not in (0, 1):
            raise OptionError(f"{where}: {name} must be 0 or 1; got {value!r}")
    if linear_before_reset and cell != "gru":
        raise OptionError(f"{where}: linear_before_reset is of a 'gru' alone; got it with {cell!r}")
    if clip is not None:
        raise ConversionError(f"{where}: clip={clip!r} cuts what enters the activations, which has no counterpart here")
    if input_forget not in (0, None):
        raise ConversionError(
            f"{where}: input_forget={input_forget!r} couples input and forget gate, which has no counterpart here"
        )
    if P is not None and arguments.as_array(where, "P", P).any():
        raise ConversionError(f"{where}: P, weights of peepholes from c to the gates, have no counterpart here")
    if cell != "gru":
        return None
    return "after" if linear_before_reset else "before"


def _nonlinearity(where: str, cell: str, activations: Any, rows: int) -> str:
    defaults = {"rnn": ["Tanh"], "lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"]}[cell]
    if activations is None:
        return "tanh"
    given = [str(name).lower() for name in activations]
    for names in [defaults, *([["Relu"]] if cell == "rnn" else [])]:
        if given == [name.lower() for name in names] * rows:
            return names[-1].lower()
    also = ", or 'Relu' for each direction" if cell == "rnn" else ""
    raise ConversionError(
        f"{where}: activations must be {defaults * rows}{also}; got {list(activations)}, which have no counterpart here"
    )


def _listed(where: str, W: Any, R: Any, B: Any) -> dict[str, Any]:
    """Return W[0], R[0], B[0], W[1], ... of one node or a list of them."""
    lists = {"W": W, "R": R, "B": B}
    if not isinstance(W, list | tuple):
        lists = {name: None if value is None else [value] for name, value in lists.items()}
    count = len(lists["W"] or ())
    for name, value in lists.items():
        if (name != "B" or value is not None) and (
            not isinstance(value, list | tuple) or len(value) != count or not count
        ):
            raise DTypeError(
                f"{where}: W, R and B must be arrays, or lists of as many arrays as there are layers; {name} is not"
            )
    return {
        f"{name}[{index}]": value[index] for index in range(count) for name, value in lists.items() if value is not None
    }


def _nodes(where: str, layer: Any) -> list[OnnxNode]:
    """Return the operators of all layers, compared with a plain loop over ONNX's equations."""
    cell = common.cell_of(where, layer)
    common.refuse_what_is_not_there(where, layer, f"ONNX's {cell.upper()}", trains=False)
    have, want = common.BLOCKS[cell], ONNX_BLOCKS[cell]
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size}
    attributes["direction"] = "bidirectional" if layer.bidirectional else "forward"
    if getattr(layer, "nonlinearity", "tanh") == "relu":
        attributes["activations"] = ["Relu"] * layer.num_directions
    if cell == "gru":
        attributes["linear_before_reset"] = int(layer.reset == "after")
    nodes = []
    for index in range(layer.num_layers):
        own = [
            {name: common.reordered(array, have, want) for name, array in arrays.items()}
            for arrays in common.arrays_of(layer, index)
        ]
        W, R = (np.stack([arrays[name] for arrays in own]) for name in ("weight_ih", "weight_hh"))
        B = None
        if layer.bias:
            B = np.stack([np.concatenate([arrays["bias_ih"], arrays["bias_hh"]]) for arrays in own])
        nodes.append(OnnxNode(cell.upper(), W, R, B, dict(attributes)))
    _verify(where, layer, cell, [(node.W, node.R, node.B) for node in nodes])
    return nodes


def _verify(where: str, layer: Any, cell: str, nodes: Sequence[tuple[Array, Array, Array | None]]) -> None:
    """Compare a layer with a plain loop over ONNX's equations and weights."""
    nonlinearity, reset = getattr(layer, "nonlinearity", "tanh"), getattr(layer, "reset", None)
    loops = [
        [_onnx_step(cell, nonlinearity, reset, W[k], R[k], None if B is None else B[k]) for k in range(len(W))]
        for W, R, B in nodes
    ]
    common.verify(where, layer, "ONNX's equations", lambda x, initial: common.stacked_loops(x, initial, loops))


def _onnx_step(cell: str, nonlinearity: str, reset: str | None, W: Array, R: Array, B: Array | None) -> common.Step:
    """Return one step of an operator, as ONNX's specification writes it; nothing is shared with the engine."""
    f = common.sigmoid
    Wb, Rb = np.split(np.zeros(2 * len(W), W.dtype) if B is None else B, 2)

    def rnn(Xt: Array, H: Array) -> tuple[Array, ...]:
        a = Xt @ W.T + H @ R.T + Wb + Rb
        return (np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0),)

    def lstm(Xt: Array, H: Array, C: Array) -> tuple[Array, ...]:
        Wi, Wo, Wf, Wc = np.split(W, 4)
        Ri, Ro, Rf, Rc = np.split(R, 4)
        bi, bo, bf, bc = np.split(Wb + Rb, 4)
        it = f(Xt @ Wi.T + H @ Ri.T + bi)
        ft = f(Xt @ Wf.T + H @ Rf.T + bf)
        ct = np.tanh(Xt @ Wc.T + H @ Rc.T + bc)
        Ct = ft * C + it * ct
        ot = f(Xt @ Wo.T + H @ Ro.T + bo)
        return ot * np.tanh(Ct), Ct

    def gru(Xt: Array, H: Array) -> tuple[Array, ...]:
        (Wz, Wr, Wh), (Rz, Rr, Rh) = np.split(W, 3), np.split(R, 3)
        (Wbz, Wbr, Wbh), (Rbz, Rbr, Rbh) = np.split(Wb, 3), np.split(Rb, 3)
        zt = f(Xt @ Wz.T + H @ Rz.T + Wbz + Rbz)
        rt = f(Xt @ Wr.T + H @ Rr.T + Wbr + Rbr)
        if reset == "after":
            ht = np.tanh(Xt @ Wh.T + rt * (H @ Rh.T + Rbh) + Wbh)
        else:
            ht = np.tanh(Xt @ Wh.T + (rt * H) @ Rh.T + Rbh + Wbh)
        return ((1 - zt) * ht + zt * H,)

    if cell == "gru":
        return gru
    return lstm if cell == "lstm" else rnn


def _relu_operator(reference: Any) -> Any:
    """Return the operator RNN with relu as onnx's reference implementation takes it."""

    def run(
        self: Any,
        X: Array,
        W: Array,
        R: Array,
        B: Any = None,
        sequence_lens: Any = None,
        initial_h: Any = None,
        **_: Any,
    ) -> tuple[Array, ...]:
        steps, batch = X.shape[:2]
        rows, H = len(W), R.shape[2]
        directions = [_onnx_step("rnn", "relu", None, W[k], R[k], None if B is None else B[k]) for k in range(rows)]
        H_0 = np.zeros((rows, batch, H), X.dtype) if initial_h is None else initial_h
        output, finals = common.single_step_loop(X, (H_0,), directions)
        return output.reshape(steps, batch, rows, H).swapaxes(1, 2), np.stack([states[0] for states in finals])

    return type("RNN", (reference.op_run.OpRun,), {"op_domain": "", "_run": run})


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
