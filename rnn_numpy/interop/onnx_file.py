"""The operators RNN, LSTM and GRU of an ONNX model, wherever in it: their weights, attributes and initial states.

Inputs are found by their slot in the node, never by their names, and may be computed in the graph
(`rnn_numpy.interop.onnx_constants`). Nodes that stand on top of each other, with nothing between but the change from
Y (T, directions, N, H) to X (T, N, directions H), become one layer of several layers.

ONNX Runtime's DynamicQuantizeLSTM is read as the LSTM of its weights times their scales: the same function but for the
rounding of inputs and states to 8 bits, which ONNX Runtime does with one scale for a whole batch.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import ConversionError, DataError, RNNNumpyError
from rnn_numpy.interop import onnx, state_dict
from rnn_numpy.interop.network import FoundLayer, Network
from rnn_numpy.interop.onnx_constants import OWN_DOMAINS, Scope, Source, plain, refuse_if_not_constant
from rnn_numpy.interop.onnx_quantized import quantized_output

Array = NDArray[Any]

KINDS = ("RNN", "LSTM", "GRU")
QUANTIZED = "DynamicQuantizeLSTM"
SLOTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
SCALES = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
DIRECTIONS = ("forward", "reverse", "bidirectional")
IN_BETWEEN = ("Identity", "Dropout")


@dataclass(eq=False)
class Node:
    """One operator: where it is, its inputs by slot, its attributes, and its arrays where they are constant."""

    scope: Scope
    name: str
    proto: Any
    attributes: dict[str, Any]
    slots: dict[str, str]
    arrays: dict[str, Array] = field(default_factory=dict)
    whole: dict[str, Array] = field(default_factory=dict)  # of 8 bits, with their scales
    problem: RNNNumpyError | None = None

    @property
    def kind(self) -> str:
        """RNN, LSTM or GRU."""
        return "LSTM" if self.proto.op_type == QUANTIZED else str(self.proto.op_type)

    @property
    def direction(self) -> str:
        """The attribute."""
        return str(self.attributes.get("direction", "forward"))


def read_model(model: Any, where: str = "open_network") -> Network:
    """Return the recurrent layers of an onnx.ModelProto or onnx.NodeProto's graph that is in memory."""
    onnx_library = optional_import("onnx", where, "onnx")
    return _network(onnx_library, model, f"{where}: the model", "the model", None)


def read_file(path: Path, data: bytes, where: str = "open_network") -> Network:
    """Return the recurrent layers of an ONNX file, whose bytes are given."""
    onnx_library = optional_import("onnx", where, "onnx")
    decode_error = optional_import("google.protobuf.message", where, "onnx").DecodeError
    begin = f"{where}: {path}"
    try:
        model = onnx_library.ModelProto.FromString(data)
    except (decode_error, ValueError, RecursionError) as error:
        raise DataError(f"{begin}: not a whole ONNX file: {error}") from None
    if not model.opset_import or not (model.graph.node or model.graph.initializer):
        raise DataError(f"{begin}: not an ONNX model: it has no graph with a version of the operators")
    return _network(onnx_library, model, begin, str(path), path.parent)


def _network(library: Any, model: Any, begin: str, name: str, folder: Path | None) -> Network:
    if model.functions:
        model = optional_import("onnx.inliner", begin, "onnx").inline_local_functions(model)
    source = Source(library, begin, folder)
    nodes = _nodes(Scope(source, model.graph))
    layers = [_found(begin, chain) for chain in _chains(nodes)]
    if not layers:
        layers = _by_names(begin, source, model.graph)
    producer = " ".join(filter(None, map(plain, (model.producer_name, model.producer_version))))
    notes = [f"written by {producer}"] if producer else []
    if not layers:
        notes.append(_said_of_none(model))
    return Network(name, "ONNX", layers, notes)


def _by_names(begin: str, source: Source, graph: Any) -> list[FoundLayer]:
    """Return layers whose operators are written out, where torch's exporter has left the names of their weights."""
    tensors = [tensor for tensor in graph.initializer if state_dict.NAME.fullmatch(tensor.name)]
    found = state_dict.find_layers(begin, {tensor.name: source.array(tensor) for tensor in tensors})
    note = "it is written out in the graph: found by the names of its weights, and taken for torch's"
    return [replace(layer, notes=(*layer.notes, note)) for layer in found]


def _said_of_none(model: Any) -> str:
    """Say what a model without recurrent operators has instead."""
    operators = {
        node.op_type for scope in Scope(Source(None, "", None), model.graph).inner() for node in scope.graph.node
    }
    loops = sorted(operators & {"Loop", "Scan"})
    if loops:
        return (
            f"no operator RNN, LSTM or GRU, but {' and '.join(loops)}: a recurrent layer may be written out in its "
            "body, as tf2onnx does with a masked layer, and with Keras' GRU and SimpleRNN; open the Keras file that it "
            "was exported from, or take its weights with from_arrays"
        )
    if operators & {"Sigmoid", "Tanh"} and operators & {"MatMul", "Gemm"}:
        return (
            "no operator RNN, LSTM or GRU, but Gemm or MatMul, and Sigmoid or Tanh: a recurrent layer may be written "
            "out step by step; take its weights with from_arrays"
        )
    return "no operator RNN, LSTM or GRU, Loop or Scan: no recurrent layer"


def _nodes(outermost: Scope) -> list[Node]:
    """Return all recurrent operators."""
    found: list[Node] = []
    for scope in outermost.inner():
        for index, proto in enumerate(scope.graph.node):
            usual = proto.op_type in KINDS and proto.domain in OWN_DOMAINS
            if not usual and proto.op_type != QUANTIZED:
                continue
            slots = SLOTS if usual else (*SLOTS, *SCALES)
            name = proto.name or f"{proto.op_type}_{index}"
            if any(name == other.name for other in found):
                name = f"{scope.path}/{name}"
            given = {slot: given for slot, given in zip(slots, proto.input, strict=False) if given}
            node = Node(scope, name, proto, scope.source.attributes(proto), given)
            try:
                node.arrays = _arrays(node)
            except RNNNumpyError as problem:
                node.problem = problem
            found.append(node)
    return found


def _arrays(node: Node) -> dict[str, Array]:
    """Return W, R, B and P of an operator, as an RNN, LSTM or GRU has them."""
    place = f"{node.scope.source.begin}: {node.name}"
    for slot in ("X", "W", "R"):
        if slot not in node.slots:
            raise DataError(f"{place}: the operator {node.proto.op_type} has no {slot}")
    wanted = [slot for slot in ("W", "R", "B", "P", *SCALES) if slot in node.slots]
    arrays = {slot: refuse_if_not_constant(node.scope, place, slot, node.slots[slot]) for slot in wanted}
    if node.proto.op_type == QUANTIZED:
        for slot in ("W", "R"):
            node.whole |= _whole_numbers(place, slot, arrays)
            wide = (node.whole[slot] * node.whole[f"{slot}_scale"][:, None]).astype(np.float32)
            arrays[slot] = np.ascontiguousarray(wide.swapaxes(1, 2))
        node.whole |= {"B": arrays["B"]} if "B" in arrays else {}
    for slot in ("W", "R"):
        if arrays[slot].ndim != 3:
            raise DataError(f"{place}: {slot} must have three axes; got shape {arrays[slot].shape}")
    H = arrays["R"].shape[2]
    for slot in ("initial_h", "initial_c"):
        state = node.scope.constant(node.slots[slot]) if slot in node.slots else None
        if state is not None and state.ndim == 3 and state.shape[2] != H:
            raise DataError(
                f"{place}: {slot} has {state.shape[2]} units, R {H}: torch's default exporter (2.13) drops the "
                "projection of an LSTM, and the rest of its weights with it. Export with dynamo=False, or save the "
                "state dict"
            )
    # float16 and bfloat16 become wider, which loses nothing.
    half = ("float16", "bfloat16")
    return {
        slot: array.astype(np.float32) if array.dtype.name in half else array
        for slot, array in arrays.items()
        if slot in ("W", "R", "B", "P")
    }


def _whole_numbers(place: str, slot: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """Return a weight of DynamicQuantizeLSTM, (directions, in, 4 H), without its zero point, and its scales."""
    array, scale, zero = (arrays.get(name) for name in (slot, f"{slot}_scale", f"{slot}_zero_point"))
    if array is None or scale is None or array.ndim != 3:
        raise DataError(f"{place}: {slot} must have three axes and a scale")
    # One scale a direction, or one for each of its 4 H columns.
    try:
        scales = scale.reshape(len(array), -1)
        zeros = np.zeros((len(array), 1), np.int32) if zero is None else zero.astype(np.int32).reshape(len(array), -1)
        shifted = array.astype(np.int32) - zeros[:, None]
        np.broadcast_shapes(array.shape, scales[:, None].shape)
    except ValueError:
        raise DataError(f"{place}: {slot} {array.shape} and its scale {scale.shape} do not fit together") from None
    return {slot: shifted, f"{slot}_scale": scales}


# --------------------------------------------------------------------------------------------------- chains of nodes


def _chains(nodes: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes, those in one list that make one layer of several layers, from the bottom to the top."""
    by_output = {(id(node.scope), node.proto.output[0]): node for node in nodes if node.proto.output}
    below = {id(node): _below(node, by_output) for node in nodes}
    taken = {id(lower) for lower in below.values() if lower is not None}
    chains = []
    for node in nodes:
        if id(node) in taken and sum(lower is node for lower in below.values()) == 1:
            continue  # it will come with the one above it
        chain = [node]
        while (lower := below[id(chain[0])]) is not None and sum(one is lower for one in below.values()) == 1:
            chain.insert(0, lower)
        chains.append(chain)
    order = {id(node): index for index, node in enumerate(nodes)}
    return sorted(chains, key=lambda chain: order[id(chain[0])])


def _below(node: Node, by_output: dict[tuple[int, str], Node]) -> Node | None:
    """Return the node whose Y, directions side by side, is this one's X, if both can be one layer."""
    scope, name = node.scope, node.slots.get("X", "")
    turns = [0, 1, 2]  # of the transposes on the way, which must cancel
    while (maker := scope.maker(name)) is not None:
        perm = scope.attribute(maker, "perm")
        if maker.op_type == "Transpose" and perm is not None and sorted(perm) == [0, 1, 2]:
            turns = [perm[axis] for axis in turns]
        elif maker.op_type not in IN_BETWEEN:
            lower = _side_by_side(scope, maker, by_output) if turns == [0, 1, 2] else None
            return lower if lower is not None and _alike(lower, node) else None
        name = maker.input[0]
    return None


def _side_by_side(scope: Scope, maker: Any, by_output: dict[tuple[int, str], Node]) -> Node | None:
    """Return the node of whose Y, (T, directions, N, H), an operator makes (T, N, directions H)."""

    def node_of(name: str, rows: int) -> Node | None:
        found = by_output.get((id(scope.owner(name)), name))
        return found if found is not None and rows == (2 if found.direction == "bidirectional" else 1) else None

    def numbers(operator: Any, at: int, attribute: str) -> list[int]:
        given = scope.constant(operator.input[at]) if len(operator.input) > at else None
        found = scope.source.attributes(operator).get(attribute) if given is None else given
        return [] if found is None else [int(one) for one in np.reshape(found, -1)]

    if maker.op_type == "Squeeze" and numbers(maker, 1, "axes") == [1]:
        return node_of(maker.input[0], 1)
    if maker.op_type == "Reshape":
        step, shape = scope.maker(maker.input[0]), numbers(maker, 1, "shape")
        if step is None or step.op_type != "Transpose" or len(shape) != 3:
            return None
        if scope.attribute(step, "perm") != [0, 2, 1, 3]:
            return None
        lower = node_of(step.input[0], 1) or node_of(step.input[0], 2)
        if lower is None or "R" not in lower.arrays:
            return None
        return lower if shape[2] in (-1, lower.arrays["R"].shape[0] * lower.arrays["R"].shape[2]) else None
    if maker.op_type == "Concat" and len(maker.input) == 2 and scope.attribute(maker, "axis") in (2, -1):
        lowers = []
        for row, name in enumerate(maker.input):
            squeeze = scope.maker(name)
            cut = scope.maker(squeeze.input[0]) if squeeze is not None and squeeze.op_type == "Squeeze" else None
            if cut is None or cut.op_type != "Slice" or numbers(squeeze, 1, "axes") != [1]:
                return None
            places = [numbers(cut, at, name) for at, name in ((1, "starts"), (2, "ends"), (3, "axes"))]
            if places[0] != [row] or places[2] != [1] or len(places[1]) != 1 or places[1][0] < row + 1:
                return None
            lowers.append(node_of(cut.input[0], 2))
        return lowers[0] if lowers[0] is lowers[1] else None
    return None


def _alike(lower: Node, upper: Node) -> bool:
    """Whether two nodes can be two layers of one."""
    if lower.problem or upper.problem or lower.proto.op_type != upper.proto.op_type or lower.direction == "reverse":
        return False
    same_inputs = all((slot in lower.slots) == (slot in upper.slots) for slot in ("B", "P", "initial_h", "initial_c"))
    same_lengths = lower.slots.get("sequence_lens") == upper.slots.get("sequence_lens")
    same_size = lower.arrays["R"].shape == upper.arrays["R"].shape
    return same_inputs and same_lengths and same_size and lower.attributes == upper.attributes and not _layout(lower)


def _layout(node: Node) -> int:
    return int(node.attributes.get("layout", 0))


# -------------------------------------------------------------------------------------------------------- a layer


def _found(begin: str, chain: list[Node]) -> FoundLayer:
    """Return what is said of a chain of nodes, and how a layer is made from it."""
    first = chain[0]
    reverse = first.direction == "reverse"
    W, R = first.arrays.get("W"), first.arrays.get("R")
    options = {name: value for name, value in first.attributes.items() if name not in ("hidden_size", "direction")}
    initial, notes = _initial_states(chain)
    if "sequence_lens" in first.slots:
        notes.append("it is run with the lengths of its sequences: hand them in as lengths")
    if first.proto.op_type == QUANTIZED:
        notes.append(
            "weights of 8 bits times their scales; ONNX Runtime rounds inputs and states as well, those of all "
            "sequences together: emulate does it, too"
        )
    if reverse:
        notes.append("it reads from the last step to the first: hand in x[::-1], and read output[::-1]")

    def make() -> Any:
        for node in chain:
            if node.problem is not None:
                raise node.problem
        given: list[Any] = []
        for slot in ("W", "R", "B", "P"):
            given.append([node.arrays[slot] for node in chain] if slot in first.arrays else None)
        attributes = dict(first.attributes)
        if reverse:
            attributes["direction"] = "forward"
        unknown = attributes.keys() - set(ATTRIBUTES)
        if unknown:
            raise ConversionError(
                f"{begin}: {first.name}: the attribute {', '.join(sorted(unknown))} is not known here"
            )
        try:
            W, R, B, P = given
            return onnx.from_onnx(W, R, B, P=P, cell=first.kind, **attributes)
        except RNNNumpyError as error:
            raise type(error)(f"{begin}: {first.name}: {error}") from None

    emulate = functools.partial(quantized_output, [node.whole for node in chain]) if first.whole else None
    return FoundLayer(
        name=first.name, kind=first.kind,
        input_size=0 if W is None else W.shape[2], hidden_size=0 if R is None else R.shape[2],
        num_layers=len(chain), num_directions=2 if first.direction == "bidirectional" else 1,
        options=options, reverse=reverse, initial_states=initial, make=make,
        parts=tuple(node.name for node in chain), notes=tuple(notes), emulate=emulate,
    )  # fmt: skip


# Of from_onnx.
ATTRIBUTES = (
    "direction", "linear_before_reset", "activations", "hidden_size", "layout", "clip", "input_forget",
    "activation_alpha", "activation_beta",
)  # fmt: skip


def _initial_states(chain: list[Node]) -> tuple[tuple[Array, ...] | None, list[str]]:
    """Return the initial states of a chain where they are constant and not 0, and what is to be said of others."""
    slots = [
        slot
        for slot in ("initial_h", "initial_c")
        if any(slot in node.slots and not node.scope.always_zero(node.slots[slot]) for node in chain)
    ]
    found: list[Array] = []
    for slot in slots:
        try:
            parts = [node.scope.constant(node.slots[slot]) if slot in node.slots else None for node in chain]
        except DataError:
            parts = [None]
        if any(part is None or part.ndim != 3 for part in parts):
            return None, ["its initial states are computed from what goes into the network: hand them in as h_0"]
        batched = [part.swapaxes(0, 1) if _layout(chain[0]) else part for part in parts if part is not None]
        found.append(np.concatenate(batched))
    if not any(state.any() for state in found):
        return None, []
    if chain[0].kind == "LSTM" and len(found) == 1:
        found.append(np.zeros_like(found[0])) if slots == ["initial_h"] else found.insert(0, np.zeros_like(found[0]))
    return tuple(found), ["its initial states are in the file: h_0"]
