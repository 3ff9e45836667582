"""The operators RNN, LSTM and GRU of an ONNX model, wherever in it: their weights, attributes and initial states.

Inputs are found by their slot in the node, never by their names, and may be computed in the graph
(`rnn_numpy.interop.onnx_constants`). Nodes that stand on top of each other, with nothing between but the change from
Y (T, directions, N, H) to X (T, N, directions H), become one layer of several layers; two that read the same signal,
one of them from its end, and stand side by side, become one of two directions. A Loop or Scan whose body is a cell,
written out, is taken for that cell (`rnn_numpy.interop.onnx_bodies`).

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
from rnn_numpy.interop import common, onnx, state_dict
from rnn_numpy.interop.network import FoundLayer, Network
from rnn_numpy.interop.onnx_bodies import Cell, UnknownError, Unrolled, find_cell, find_unrolled
from rnn_numpy.interop.onnx_constants import DEPTH, OWN_DOMAINS, Scope, Source, plain, refuse_if_not_constant
from rnn_numpy.interop.onnx_quantized import quantized_output

Array = NDArray[Any]

KINDS = ("RNN", "LSTM", "GRU")
QUANTIZED = "DynamicQuantizeLSTM"
SLOTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
SCALES = ("W_scale", "W_zero_point", "R_scale", "R_zero_point")
DIRECTIONS = ("forward", "reverse", "bidirectional")
IN_BETWEEN = ("Identity", "Dropout")
LOOPS = ("Loop", "Scan")


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
    output: str = ""  # the outputs of all steps
    cell: Cell | None = None  # what the body of a Loop or Scan is
    halves: tuple[Node, ...] = ()  # forward and reverse, joined from two nodes

    @property
    def operator(self) -> str:
        """The operator; of a cell that is written out, its kind as well."""
        return str(self.proto.op_type) if self.cell is None else f"{self.cell.kind} in {self.proto.op_type}"

    @property
    def kind(self) -> str:
        """RNN, LSTM or GRU."""
        if self.cell is not None:
            return self.cell.kind
        return "LSTM" if self.proto.op_type == QUANTIZED else str(self.proto.op_type)

    @property
    def masked(self) -> bool:
        """Whether a mask, or lengths in a body, stop it at some steps."""
        return self.cell is not None and bool(self.cell.body.masks)

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
    try:
        layers, unknown = _layers(begin, source, model.graph)
    except RNNNumpyError:
        raise
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        # Operators with too few inputs, attributes of another kind: nobody has checked the graph.
        raise DataError(f"{begin}: not a whole ONNX file: {error}") from error
    producer = " ".join(filter(None, map(plain, (model.producer_name, model.producer_version))))
    notes = [f"written by {producer.removesuffix(' None')}"] if producer else []
    notes += unknown
    if not layers and not unknown:
        notes.append(_said_of_none(model))
    return Network(name, "ONNX", layers, notes)


def _layers(begin: str, source: Source, graph: Any) -> tuple[list[FoundLayer], list[str]]:
    """Return the layers of a graph, and what is said of bodies that are no cell that is known."""
    nodes, unknown = _nodes(Scope(source, graph))
    layers = [_found(begin, chain) for chain in _chains(nodes)]
    if not layers:
        layers = _by_names(begin, source, graph)
    if not layers or any(found.choices for found in layers):
        layers = _step_by_step(begin, Scope(source, graph)) or layers
    return layers, unknown


def _by_names(begin: str, source: Source, graph: Any) -> list[FoundLayer]:
    """Return layers whose operators are written out, where torch's exporter has left the names of their weights."""
    tensors = [tensor for tensor in graph.initializer if state_dict.NAME.fullmatch(tensor.name)]
    found = state_dict.find_layers(begin, {tensor.name: source.array(tensor) for tensor in tensors})
    note = "it is written out in the graph: found by the names of its weights, and taken for torch's"
    return [replace(layer, notes=(*layer.notes, note)) for layer in found]


def _step_by_step(begin: str, scope: Scope) -> list[FoundLayer]:
    """Return layers whose steps are written out one after the other."""
    layers = []
    for proto, cell in find_unrolled(scope):
        name = proto.input[1].rpartition(".")[0] or proto.name or proto.op_type  # of torch's module, or the operator's
        node = Node(scope, name, proto, cell.attributes, {"X": cell.sequence}, cell.arrays, cell=cell)
        layers.append(_found(begin, [node]))
    return layers


def _said_of_none(model: Any) -> str:
    """Say what a model without recurrent operators has instead."""
    operators = {
        node.op_type for scope in Scope(Source(None, "", None), model.graph).inner() for node in scope.graph.node
    }
    loops = sorted(operators & {"Loop", "Scan"})
    if loops:
        return f"no operator RNN, LSTM or GRU, but {' and '.join(loops)}, without a Sigmoid or Tanh in it"
    if operators & {"Sigmoid", "Tanh"} and operators & {"MatMul", "Gemm"}:
        return (
            "no operator RNN, LSTM or GRU, but Gemm or MatMul, and Sigmoid or Tanh: a recurrent layer may be written "
            "out step by step, in fewer steps than four, or as no cell that is known (Keras on torch exports a model "
            "of free length as its first step alone); take its weights with from_arrays"
        )
    return "no operator RNN, LSTM or GRU, Loop or Scan: no recurrent layer"


def _nodes(outermost: Scope) -> tuple[list[Node], list[str]]:
    """Return all recurrent operators and cells, and what is said of bodies that are none that is known."""
    found: list[Node] = []
    unknown: list[str] = []
    for scope in outermost.inner():
        for index, proto in enumerate(scope.graph.node):
            usual = proto.op_type in KINDS and proto.domain in OWN_DOMAINS
            name = proto.name or f"{proto.op_type}_{index}"
            if any(name == other.name for other in found):
                name = f"{scope.path}/{name}"
            if proto.op_type in LOOPS and proto.domain in OWN_DOMAINS:
                try:
                    found.append(_written_out(scope, name, proto))
                except UnknownError as problem:
                    if _has_gates(scope, proto):
                        unknown.append(f"{name}: a {proto.op_type} whose body is no cell that is known: {problem}")
            if not usual and proto.op_type != QUANTIZED:
                continue
            slots = SLOTS if usual else (*SLOTS, *SCALES)
            given = {slot: given for slot, given in zip(slots, proto.input, strict=False) if given}
            output = proto.output[0] if proto.output else ""
            node = Node(scope, name, proto, scope.source.attributes(proto), given, output=output)
            try:
                node.arrays = _arrays(node)
            except RNNNumpyError as problem:
                node.problem = problem
            found.append(node)
    return found, unknown


def _written_out(scope: Scope, name: str, proto: Any) -> Node:
    """Return the cell that is written out in the body of a Loop or Scan."""
    bodies = [attribute.g for attribute in proto.attribute if attribute.name == "body" and attribute.HasField("g")]
    if len(bodies) != 1:
        raise UnknownError("it has no body")
    cell = find_cell(scope, proto, Scope(scope.source, bodies[0], scope, f"{scope.path}/{name}"))
    slots = {"X": cell.sequence, **cell.initial}
    return Node(scope, name, proto, cell.attributes, slots, cell.arrays, output=cell.output, cell=cell)


def _has_gates(scope: Scope, proto: Any) -> bool:
    """Whether there is an activation in a body, and no recurrent operator, which is found by itself."""
    bodies = [attribute.g for attribute in proto.attribute if attribute.HasField("g")]
    inner = [one for body in bodies for one in Scope(scope.source, body, scope).inner()]
    operators = {node.op_type for one in inner for node in one.graph.node}
    return bool(operators & {"Sigmoid", "Tanh", "HardSigmoid"}) and not operators & {*KINDS, QUANTIZED}


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

Part = tuple[Node, int, bool]  # a node, which of its directions, and whether the last step is the first


class Signals:
    """Which outputs of nodes the arrays of a graph are, side by side, turned and reversed."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.by_output = {(id(node.scope), node.output): node for node in nodes if node.output}
        self.pairs: dict[int, tuple[Node, int]] = {}  # of the halves of a bidirectional layer
        self.known: dict[tuple[int, str], tuple[list[Part], str] | None] = {}

    def parts(self, scope: Scope, name: str, depth: int = 0) -> tuple[list[Part], str] | None:
        """Return what a name is made of, and its axes: T, N, F for features, D for directions."""
        owner = scope.owner(name)
        if owner is None or depth > DEPTH:
            return None
        key = id(owner), name
        if key not in self.known:
            self.known[key] = None  # whatever asks for itself
            found = self._parts(owner, name, depth)
            self.known[key] = found if found is not None and len(found[0]) <= 2 else None
        return self.known[key]

    def _parts(self, owner: Scope, name: str, depth: int) -> tuple[list[Part], str] | None:
        node = self.by_output.get((id(owner), name))
        if node is not None:
            rows = range(2 if node.direction == "bidirectional" else 1)
            own = [self._part(node, row, False) for row in rows]
            return own, "TNF" if node.cell is not None else "NTDF" if _layout(node) else "TDNF"
        maker = owner.made.get(name)
        if maker is None or maker.domain not in OWN_DOMAINS or not maker.input:
            return None
        if maker.op_type == "Concat":
            several = [self.parts(owner, given, depth + 1) for given in maker.input]
            found = [one for one in several if one is not None]
            axis = owner.attribute(maker, "axis")
            if len(found) < len(several) or len({axes for _, axes in found}) != 1 or not isinstance(axis, int):
                return None
            axes = found[0][1]
            if not -len(axes) <= axis < len(axes) or axes[axis] != ("D" if "D" in axes else "F"):
                return None
            return [part for parts, _ in found for part in parts], axes
        below = self.parts(owner, maker.input[0], depth + 1)
        return None if below is None else self._through(owner, maker, name, *below)

    def _part(self, node: Node, row: int, reversed_: bool) -> Part:
        pair = self.pairs.get(id(node))
        return (node, row, reversed_) if pair is None else (*pair, reversed_)

    def _through(self, scope: Scope, maker: Any, name: str, parts: list[Part], axes: str) -> Any:
        """Return what an operator makes of parts that lie along `axes`, None where it is something else."""
        kind = maker.op_type
        if kind in IN_BETWEEN and name == maker.output[0]:
            return parts, axes
        if kind == "Transpose":
            perm = scope.attribute(maker, "perm")
            if perm is None or sorted(perm) != list(range(len(axes))):
                return None
            return parts, "".join(axes[axis] for axis in perm)
        if (flipped := _reversed_axis(scope, maker)) is not None:
            if not -len(axes) <= flipped < len(axes) or axes[flipped] != "T":
                return None
            return [(node, row, not back) for node, row, back in parts], axes
        at = axes.find("D")
        if at < 0:
            return None
        if kind == "Squeeze" and len(parts) == 1:
            wanted = _numbers(scope, maker, 1, "axes")
            return (parts, axes.replace("D", "")) if wanted in ([at], [at - len(axes)]) else None
        if kind == "Reshape" and axes.endswith("DF") and len(axes) == 4:
            shape, R = _numbers(scope, maker, 1, "shape"), parts[0][0].arrays.get("R")
            if len(shape) != 3 or R is None or shape[2] not in (-1, len(parts) * R.shape[2]):
                return None
            return parts, axes.replace("D", "")
        if kind == "Split" and scope.attribute(maker, "axis") in (at, at - len(axes)):
            return ([parts[list(maker.output).index(name)]], axes) if len(maker.output) == len(parts) else None
        if kind == "Gather" and (scope.attribute(maker, "axis") or 0) in (at, at - len(axes)):
            row = scope.constant(maker.input[1])
            if row is None or row.ndim or not -len(parts) <= int(row) < len(parts):
                return None
            return [parts[int(row)]], axes.replace("D", "")
        if kind == "Slice":
            places = [_numbers(scope, maker, i, name) for i, name in enumerate(("starts", "ends", "axes"), 1)]
            if any(len(place) != 1 for place in places) or places[2][0] not in (at, at - len(axes)):
                return None
            if _numbers(scope, maker, 4, "steps") not in ([], [1]):
                return None
            return parts[slice(places[0][0], places[1][0])], axes
        return None

    def source(self, node: Node) -> tuple[int, str, tuple[int, ...], bool]:
        """Return what a node reads before it is turned or reversed: scope, name, the order of axes, reversed or not."""
        scope, name, order, back = node.scope, node.slots.get("X", ""), [0, 1, 2], False
        if _layout(node):
            order = [1, 0, 2]
        for _ in range(DEPTH):
            owner = scope.owner(name)
            maker = None if owner is None else owner.made.get(name)
            if owner is None or maker is None:
                break
            perm = scope.attribute(maker, "perm")
            if maker.op_type == "Transpose" and perm is not None and sorted(perm) == [0, 1, 2]:
                order = [perm[axis] for axis in order]
            elif (flipped := _reversed_axis(owner, maker)) is not None and flipped % 3 == order[0]:
                back = not back
            elif maker.op_type not in IN_BETWEEN:
                break
            scope, name = owner, maker.input[0]
        return id(scope.owner(name)), name, tuple(order), back

    def join_directions(self, nodes: list[Node]) -> list[Node]:
        """Return the nodes, two that read the same in both directions, and stand side by side, as one."""
        scopes = {id(node.scope): node.scope for node in nodes}.values()
        for scope, maker in [(one, maker) for one in scopes for maker in one.graph.node]:
            if maker.op_type != "Concat" or len(maker.input) != 2:
                continue
            found = self.parts(scope, maker.output[0])
            if found is None or len(found[0]) != 2:
                continue
            (first, _, first_back), (second, _, second_back) = found[0]
            if first is second or not {first.direction, second.direction} <= {"forward", "reverse"}:
                continue
            one, other = self.source(first), self.source(second)
            if one[:3] != other[:3] or not _halves(first, second):
                continue
            # The way that each takes, and whether its outputs lie in the order of the steps.
            ways = [(node.direction == "reverse") != one_of[3] for node, one_of in ((first, one), (second, other))]
            if ways != [False, True] or first_back != one[3] or second_back != other[3]:
                continue
            pair = _paired(first, second)
            self.pairs |= {id(first): (pair, 0), id(second): (pair, 1)}
            self.known.clear()
            at = next(index for index, node in enumerate(nodes) if node is first)
            nodes = [node for node in nodes if node is not second]
            nodes[at if nodes[at : at + 1] == [first] else nodes.index(first)] = pair
        return nodes

    def below(self, node: Node) -> Node | None:
        """Return the node whose outputs, directions side by side, are what this one reads, if both can be one layer."""
        found = self.parts(node.scope, node.slots.get("X", ""))
        if found is None:
            return None
        parts, axes = found
        lower = parts[0][0]
        # In the order of time, but for the second half of a pair, which may be read and written the other way round.
        rows = [row for one, row, back in parts if one is lower and not (back and not one.halves)]
        own = list(range(2 if lower.direction == "bidirectional" else 1))
        fits = axes == "TNF" and rows == own and len(parts) == len(own)
        return lower if fits and not _layout(node) and _alike(lower, node) else None


def _numbers(scope: Scope, maker: Any, at: int, attribute: str) -> list[int]:
    """Return axes, starts, ...: an input in newer versions of an operator, an attribute in older ones."""
    given = scope.constant(maker.input[at]) if len(maker.input) > at and maker.input[at] else None
    found = scope.attribute(maker, attribute) if given is None else given
    return [] if found is None else [int(one) for one in np.reshape(found, -1)]


def _reversed_axis(scope: Scope, maker: Any) -> int | None:
    """Return the axis that an operator turns round, None where it does something else."""
    if maker.op_type == "Slice":
        places = [_numbers(scope, maker, at, name) for at, name in enumerate(("starts", "ends", "axes", "steps"), 1)]
        whole = places[0] == [-1] and len(places[1]) == 1 and places[1][0] < -(2**31) + 2
        return places[2][0] if whole and len(places[2]) == 1 and places[3] == [-1] else None
    if maker.op_type == "ReverseSequence" and _is_whole_length(scope, maker.input[1]):
        return int(scope.attribute(maker, "time_axis") or 0)
    return None


def _is_whole_length(scope: Scope, name: str) -> bool:
    """Whether lengths are made of the shape of the signal alone, as tf2onnx does where it reverses all steps."""
    todo, done = [name], set[str]()
    while todo and len(done) < DEPTH:
        one = todo.pop()
        maker = scope.maker(one)
        if one in done or scope.constant(one) is not None or (maker is not None and maker.op_type == "Shape"):
            continue
        done.add(one)
        if maker is None:
            return False
        todo += [given for given in maker.input if given]
    return not todo


def _halves(first: Node, second: Node) -> bool:
    """Whether two nodes can be the directions of one layer."""
    if first.problem or second.problem or first.operator != second.operator or _layout(first) != _layout(second):
        return False
    without = ({name: v for name, v in one.attributes.items() if name != "direction"} for one in (first, second))
    same_shapes = [{slot: a.shape for slot, a in one.arrays.items()} for one in (first, second)]
    return next(without) == next(without) and same_shapes[0] == same_shapes[1] and _same_slots(first, second)


def _paired(first: Node, second: Node) -> Node:
    """Return two nodes, forward and reverse, as one that goes both ways."""
    lists = {
        name: [*value, *second.attributes[name]] for name, value in first.attributes.items() if isinstance(value, list)
    }
    join = {slot: np.concatenate([array, second.arrays[slot]]) for slot, array in first.arrays.items()}
    whole = {slot: np.concatenate([array, second.whole[slot]]) for slot, array in first.whole.items()}
    attributes = {**first.attributes, **lists, "direction": "bidirectional"}
    return replace(first, attributes=attributes, arrays=join, whole=whole, halves=(first, second), output="")


def _chains(nodes: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes, those in one list that make one layer of several layers, from the bottom to the top."""
    signals = Signals(nodes)
    nodes = signals.join_directions(list(nodes))
    below = {id(node): signals.below(node) for node in nodes}
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


def _same_slots(one: Node, other: Node) -> bool:
    """Whether both have biases, peepholes and initial states, or neither, and the same lengths, and masks or none."""
    same_inputs = all((slot in one.slots) == (slot in other.slots) for slot in ("initial_h", "initial_c"))
    same_arrays = one.arrays.keys() == other.arrays.keys()
    same_lengths = one.slots.get("sequence_lens") == other.slots.get("sequence_lens")
    return same_inputs and same_arrays and same_lengths and one.masked == other.masked


def _alike(lower: Node, upper: Node) -> bool:
    """Whether two nodes can be two layers of one."""
    if lower.problem or upper.problem or lower.operator != upper.operator or lower.direction == "reverse":
        return False
    same_size = lower.arrays["R"].shape == upper.arrays["R"].shape
    return same_size and _same_slots(lower, upper) and lower.attributes == upper.attributes and not _layout(lower)


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
    if first.cell is not None and isinstance(first.cell.body, Unrolled):
        notes.append(
            "its steps are written out one after the other; read from the second of them, and compared with a run of "
            "it. What the first begins with is not looked at: hand it in as h_0 where it is not 0"
        )
    elif first.cell is not None:
        notes.append(f"written out in the body of a {first.proto.op_type}; compared with a run of that body")
    if first.masked:
        notes.append(
            "it has a mask or lengths: hand in lengths; past the end of a sequence outputs are 0 here, there the last "
            "one goes on, or they are 0"
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
            layer = onnx.from_onnx(W, R, B, P=P, cell=first.kind, **attributes)
            _compare_with_bodies(layer, chain)
            return layer
        except RNNNumpyError as error:
            raise type(error)(f"{begin}: {first.name}: {error}") from None

    emulate = functools.partial(quantized_output, [node.whole for node in chain]) if first.whole else None
    return FoundLayer(
        name=first.name, kind=first.kind,
        input_size=0 if W is None else W.shape[2], hidden_size=0 if R is None else R.shape[2],
        num_layers=len(chain), num_directions=2 if first.direction == "bidirectional" else 1,
        options=options, reverse=reverse, initial_states=initial, make=make,
        parts=tuple(one.name for node in chain for one in node.halves or (node,)), notes=tuple(notes), emulate=emulate,
    )  # fmt: skip


def _compare_with_bodies(layer: Any, chain: list[Node]) -> None:
    """Run the bodies that cells are written out in, operator by operator; ConversionError where they differ."""
    rows = [[one.cell for one in node.halves or (node,) if one.cell is not None] for node in chain]
    if not all(rows):
        return

    def run(x: Array, initial: tuple[Array, ...]) -> dict[str, Array]:
        return common.stacked_loops(x, initial, [[cell.step for cell in cells] for cells in rows])

    steps = rows[0][0].body
    what = "the step" if isinstance(steps, Unrolled) else f"the body of the {chain[0].proto.op_type}"
    common.verify(chain[0].name, layer, what, run)
    for cell in (cell for cells in rows for cell in cells):
        if not cell.keeps_states():
            raise ConversionError(f"{chain[0].name}: a masked step does something else than to leave the states alone")


# Of from_onnx.
ATTRIBUTES = (
    "direction", "linear_before_reset", "activations", "hidden_size", "layout", "clip", "input_forget",
    "activation_alpha", "activation_beta",
)  # fmt: skip


def _initial_states(chain: list[Node]) -> tuple[tuple[Array, ...] | None, list[str]]:
    """Return the initial states of a chain where they are constant and not 0, and what is to be said of others."""
    chain = [one for node in chain for one in node.halves or (node,)]
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
        # A body has one direction, and no axis for it.
        parts = [
            part[None] if node.cell is not None and part is not None and part.ndim == 2 else part
            for node, part in zip(chain, parts, strict=False)
        ]
        if any(part is None or part.ndim != 3 for part in parts):
            return None, ["its initial states are computed from what goes into the network: hand them in as h_0"]
        batched = [part.swapaxes(0, 1) if _layout(chain[0]) else part for part in parts if part is not None]
        found.append(np.concatenate(batched))
    if not any(state.any() for state in found):
        return None, []
    if chain[0].kind == "LSTM" and len(found) == 1:
        found.append(np.zeros_like(found[0])) if slots == ["initial_h"] else found.insert(0, np.zeros_like(found[0]))
    return tuple(found), ["its initial states are in the file: h_0"]
