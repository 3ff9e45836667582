"""The recurrent layers of Keras' files: .keras, .weights.h5 and the older HDF5, read by h5py without Keras.

A .keras file is a zip file of config.json, which says what each layer is, and model.weights.h5, its arrays; .weights.h5
is the latter alone, and then neither names nor shapes tell the activations. In the older HDF5 the configuration is an
attribute, or missing where save_weights wrote it. Nothing is run: a Lambda layer is not looked at.

What a file does not say otherwise is as Keras has it by default: tanh, and sigmoid of the gates. Two things are told by
the file's own version and shapes:

    hard_sigmoid       0.2 x + 0.5 up to Keras 2, x / 6 + 0.5 from Keras 3 on; up to 2.2 it was the gates' default
    CuDNNLSTM, -GRU    a bias of 2 G u entries; the matrices of each gate lie turned around in memory
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import ConversionError, DataError, RNNNumpyError
from rnn_numpy.interop import keras
from rnn_numpy.interop.network import FoundLayer, Network
from rnn_numpy.layers.general import FUNCTIONS, Activation

Array = NDArray[Any]
Config = Mapping[str, Any]

KINDS = {"SimpleRNN": "rnn", "LSTM": "lstm", "GRU": "gru", "CuDNNLSTM": "lstm", "CuDNNGRU": "gru",
         "SimpleRNNCell": "rnn", "LSTMCell": "lstm", "GRUCell": "gru"}  # fmt: skip
ROLES = ("kernel", "recurrent_kernel", "bias")
UNPACKED = 2**28  # bytes that an array may always take; beyond, a compressed one up to 1000 times what is stored


@dataclass
class Record:
    """What a file says of a layer: its arrays by direction, and its configuration where there is one."""

    name: str
    directions: list[dict[str, Any]]
    config: Config | None = None
    notes: list[str] = field(default_factory=list)
    problem: DataError | None = None

    def read(self, begin: str) -> None:
        """Take the arrays into memory, before the file is closed."""
        try:
            self.directions = [
                {role: _array(f"{begin}: {self.name}: {role}", dataset) for role, dataset in one.items()}
                for one in self.directions
            ]
        except DataError as problem:
            self.problem = problem


def read_hdf5(where: str, file: Path, data: bytes) -> Network:
    """Return the recurrent layers of an HDF5 file of Keras, whose bytes are given."""
    begin = f"{where}: {file}"
    with _opened(where, begin, data) as hdf5:
        root = hdf5.get("model_weights", hdf5)
        version = _text(root.attrs.get("keras_version", hdf5.attrs.get("keras_version", "")))
        if "layer_names" in root.attrs:
            config = _json(begin, "model_config", hdf5.attrs.get("model_config"))
            records = list(_older(root, config))
        else:
            config, version = None, version or "3"
            records = list(_without_config(_datasets(hdf5)))
        return _network(str(file), begin, records, version, config is None)


def read_keras(where: str, file: Path, data: bytes) -> Network:
    """Return the recurrent layers of a .keras file, whose bytes are given."""
    begin = f"{where}: {file}"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            total = sum(info.file_size for info in archive.infolist())
            if total > max(UNPACKED, 50 * len(data)):
                raise DataError(f"{begin}: its {len(data)} bytes would become {total}; not unpacked")
            config = _json(begin, "config.json", archive.read("config.json"))
            metadata = _json(begin, "metadata.json", archive.read("metadata.json")) or {}
            weights = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        if isinstance(error, RNNNumpyError):
            raise
        raise DataError(f"{begin}: not a whole .keras file: {error}") from None
    with _opened(where, begin, weights) as hdf5:
        records = list(_newer(_datasets(hdf5), config or {}))
        return _network(str(file), begin, records, _text(metadata.get("keras_version", "3")), False)


# -------------------------------------------------------------------------------------------------------------- HDF5


@contextlib.contextmanager
def _opened(where: str, begin: str, data: bytes) -> Iterator[Any]:
    """Open HDF5 that lies in memory; whatever h5py raises of damage, then and later, is a DataError."""
    h5py = optional_import("h5py", where, "h5py")
    try:
        with h5py.File(io.BytesIO(data), "r") as hdf5:
            yield hdf5
    except RNNNumpyError:
        raise
    except Exception as error:  # of any kind: it follows pointers that are damaged
        raise DataError(f"{begin}: not a whole HDF5 file: {error}") from None


def _datasets(group: Any) -> dict[str, Any]:
    """Return all arrays of a group by their paths; links to elsewhere are not followed."""
    found: dict[str, Any] = {}

    def visit(path: str, item: Any) -> None:
        if hasattr(item, "shape") and path.isprintable():
            found[path] = item

    group.visititems(visit)
    return found


def _array(place: str, dataset: Any) -> Array:
    """Return the numbers of a dataset, if they are there."""
    try:
        if dataset.external or dataset.is_virtual:
            raise DataError(f"{place}: lies in another file; not read")
        stored, takes = int(dataset.id.get_storage_size()), int(dataset.nbytes)
        if dataset.dtype.kind != "f" or takes > max(stored, min(UNPACKED, 1000 * stored)):
            raise DataError(
                f"{place}: must hold floating-point numbers; shape {dataset.shape} of {dataset.dtype} takes {takes} "
                f"bytes, stored are {stored}"
            )
        array = np.asarray(dataset[()])
    except RNNNumpyError:
        raise
    except Exception as error:  # of any kind, as above
        raise DataError(f"{place}: cannot be read: {error}") from None
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _json(begin: str, name: str, text: Any) -> Config | None:
    if text is None:
        return None
    try:
        found = json.loads(_text(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{begin}: {name} is no JSON: {error}") from None
    return found if isinstance(found, dict) else None


# ----------------------------------------------------------------------------------------------- where the arrays are


def _older(root: Any, config: Config | None) -> Iterator[Record]:
    """Yield the layers of the older HDF5: names of layers and of their weights are attributes."""
    configs = {layer.get("config", {}).get("name"): layer for layer in _layers_of(config or {})}
    masked = _is_masked(config)
    for title in root.attrs["layer_names"]:
        name = _text(title)
        group = root.get(name)
        if group is None or not hasattr(group, "attrs"):
            continue
        arrays = _datasets(group)
        owners: dict[str, dict[str, Any]] = {}
        for weight in group.attrs.get("weight_names", ()):
            path = _text(weight)
            front, _, role = path.rpartition("/")
            if path in arrays and role.partition(":")[0] in ROLES:
                owners.setdefault(front, {})[role.partition(":")[0]] = arrays[path]
        parts = {front: own for front, own in owners.items() if "recurrent_kernel" in own}
        yield from _by_direction(name, parts, configs, masked)


def _by_direction(
    name: str, parts: Mapping[str, dict[str, Any]], configs: Mapping[Any, Config], masked: bool
) -> Iterator[Record]:
    """Yield what is in one entry of a file: a layer, both directions of one, or those of a model inside."""
    pairs: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for front, own in parts.items():
        key = re.sub(r"(^|/|_)(forward|backward)(_|$)", r"\1*\3", front)
        pairs.setdefault(key, []).append((front, own))
    for key, both in pairs.items():
        two = len(both) == 2 and "*" in key
        ordered = sorted(both, key=lambda one: "backward" in one[0]) if two else both
        title = name if len(pairs) == 1 else key
        layer = next((configs[word] for word in [name, *reversed(key.split("/"))] if word in configs), None)
        for group in [ordered] if two else [[one] for one in ordered]:
            yield Record(title, [own for _, own in group], layer, notes=_mask_note(masked))


def _newer(arrays: Mapping[str, Any], config: Config) -> Iterator[Record]:
    """Yield the layers of a .keras file: groups are named after classes, and counted in the order of the layers."""

    def walk(layers: Sequence[Any], front: str) -> Iterator[Record]:
        counts: dict[str, int] = {}
        for layer in layers:
            if not isinstance(layer, dict):
                continue
            title = str(layer.get("class_name", ""))
            own = layer.get("config") if isinstance(layer.get("config"), dict) else {}
            snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", title)).lower()
            counts[snake] = counts.get(snake, -1) + 1
            path = f"{front}layers/{snake}" + (f"_{counts[snake]}" if counts[snake] else "")
            if own and isinstance(own.get("layers"), list):
                yield from walk(own["layers"], f"{path}/")
                continue
            name = str((own or {}).get("name", snake))
            inner = (f"{path}/forward_layer", f"{path}/backward_layer") if title == "Bidirectional" else (path,)
            found = [_vars(arrays, one) for one in inner]
            if all(found):
                yield Record(name, [one for one in found if one], layer, notes=_mask_note(masked))

    own = config.get("config") if isinstance(config.get("config"), dict) else {}
    masked = _is_masked(config)
    yield from walk((own or {}).get("layers") or [], "")


def _without_config(arrays: Mapping[str, Any]) -> Iterator[Record]:
    """Yield the layers of a .weights.h5 file: wherever a cell has its three arrays, or two."""
    fronts = [path.removesuffix("/cell/vars/0") for path in arrays if path.endswith("/cell/vars/0")]
    for front in fronts:
        if front.endswith("/backward_layer"):
            continue
        place = front.removesuffix("/forward_layer")
        both = [front] if place == front else [front, f"{place}/backward_layer"]
        found = [_vars(arrays, one) for one in both]
        if all(found):
            yield Record(place.removeprefix("layers/"), [one for one in found if one])


def _vars(arrays: Mapping[str, Any], front: str) -> dict[str, Any] | None:
    """Return the arrays of a layer by what they are, None where it is none with a recurrent kernel."""
    for inside in ("cell/vars", "vars"):
        own = [arrays.get(f"{front}/{inside}/{index}") for index in range(4)]
        shapes = [array.shape for array in own if array is not None]
        if len(shapes) in (2, 3) and all(len(shape) == 2 for shape in shapes[:2]) and shapes[0][1] == shapes[1][1]:
            return {role: array for role, array in zip(ROLES, own, strict=False) if array is not None}
    return None


def _layers_of(config: Config) -> Iterator[Config]:
    """Yield the configurations of all layers, those of models inside and of wrapped ones among them."""
    todo: list[Any] = [config]
    while todo:
        layer = todo.pop()
        own = layer.get("config") if isinstance(layer, dict) else None
        if isinstance(own, list):  # a Sequential of Keras 2.1
            todo += own
        elif isinstance(own, dict):
            todo += [one for one in own.get("layers", ()) if isinstance(one, dict)]
            yield layer


def _is_masked(config: Config | None) -> bool:
    return any(
        layer.get("class_name") == "Masking" or (layer.get("config") or {}).get("mask_zero") is True
        for layer in _layers_of(config or {})
    )


def _mask_note(masked: bool) -> list[str]:
    if not masked:
        return []
    return ["the model has a mask: hand in lengths; past them outputs are 0 here, and the last one or 0 in Keras"]


# ------------------------------------------------------------------------------------------------------------ a layer


def _network(name: str, begin: str, records: Sequence[Record], version: str, bare: bool) -> Network:
    notes = [f"written by Keras {version}"] if version else []
    if bare and records:
        notes.append("no configuration in the file: activations are taken for Keras' defaults")
    if not records:
        notes.append("no recurrent layer: no arrays with a kernel and a recurrent kernel")
    for record in records:
        record.read(begin)
    return Network(name, "Keras", [_found(begin, record, version) for record in records], notes)


def _found(begin: str, record: Record, version: str) -> FoundLayer:
    title, own = _class_and_config(record.config)
    shapes = [{role: tuple(dataset.shape) for role, dataset in one.items()} for one in record.directions]
    kernel, recurrent = shapes[0].get("kernel", ()), shapes[0]["recurrent_kernel"]
    u = int(recurrent[0]) if len(recurrent) == 2 else 0
    G = int(recurrent[1]) // u if u else 0
    cell = KINDS.get(title) or {1: "rnn", 3: "gru", 4: "lstm"}.get(G, "")
    bias = shapes[0].get("bias")
    cudnn = cell in ("lstm", "gru") and bias == (2 * G * u,)
    notes = list(record.notes)
    if cudnn:
        notes.append("CuDNN's layout, by the shape of its bias: converted")
    merge = ((record.config or {}).get("config") or {}).get("merge_mode")
    if len(record.directions) == 2 and merge not in (None, "concat"):
        notes.append(f"merge_mode={merge!r} there; here both directions are side by side")
    if own.get("stateful"):
        notes.append("stateful: hand its state from call to call")
    reverse = bool(own.get("go_backwards")) and len(record.directions) == 1
    if reverse:
        notes.append("it reads from the last step to the first: hand in x[:, ::-1]; its outputs are in that order")
    make = functools.partial(_make, begin, record, cell, own, version, cudnn)
    choices: dict[str, Any] = {}
    if record.config is None and cell != "rnn" and not cudnn and _before(version, 2, 3):
        choices = {gate: functools.partial(make, gates=gate) for gate in ("sigmoid", "hard_sigmoid")}
    if cell == "gru" and bias is None and "reset_after" not in own:
        choices = {f"reset {way}": functools.partial(make, reset=way) for way in ("after", "before")}
    options = {name: own[name] for name in ("activation", "recurrent_activation", "reset_after") if name in own}
    return FoundLayer(
        record.name, title or cell.upper(), int(kernel[0]) if len(kernel) == 2 else 0, u, make,
        num_directions=len(record.directions), options=options, reverse=reverse, choices=choices,
        parts=(record.name,), notes=tuple(notes),
    )  # fmt: skip


def _class_and_config(layer: Config | None) -> tuple[str, Config]:
    """Return class and configuration of a recurrent layer, out of what is around it."""
    while layer is not None:
        title, own = str(layer.get("class_name", "")), layer.get("config")
        own = own if isinstance(own, dict) else {}
        inner = own.get("layer") or own.get("cell")
        if title in KINDS or not isinstance(inner, dict):
            return (title if title in KINDS else ""), own
        layer = inner
    return "", {}


def _before(version: str, major: int, minor: int) -> bool:
    numbers = [int(number) for number in re.findall(r"\d+", version.partition("-")[0])[:2]]
    return bool(numbers) and "tf" not in version and tuple([*numbers, 0][:2]) < (major, minor)


def _make(
    begin: str, record: Record, cell: str, own: Config, version: str, cudnn: bool, gates: str = "", reset: str = ""
) -> Any:
    """Return the layer."""
    where = f"{begin}: {record.name}"
    if record.problem is not None:
        raise record.problem
    stack = []
    for one in record.directions:
        if "kernel" not in one:
            raise DataError(f"{where}: has a recurrent kernel, and no kernel")
        arrays = [one[role] for role in ROLES if role in one]
        weights = keras.Weights(arrays[0], arrays[1], arrays[2] if len(arrays) == 3 else None)
        stack.append(_from_cudnn(where, cell, weights) if cudnn else weights)
    if not cell:
        raise ConversionError(
            f"{where}: recurrent_kernel {stack[0].recurrent.shape} is that of no SimpleRNN, GRU or LSTM"
        )
    if reset == "" and cell == "gru":
        bias = stack[0].bias
        after = own.get("reset_after", bias is not None and bias.ndim == 2)
        reset = "after" if after or cudnn else "before"
    activation = _activation(where, own.get("activation", "tanh"), version)
    gate = _activation(where, gates or own.get("recurrent_activation", "sigmoid"), version)
    functions = {"rnn": (activation,), "gru": (gate, activation), "lstm": (gate, activation, activation)}[cell]
    try:
        return keras.from_weights(where, [stack], cell, reset or None, functions)
    except RNNNumpyError as error:
        text = str(error)
        raise type(error)(text if text.startswith(where) else f"{where}: {text}") from None


def _activation(where: str, name: Any, version: str) -> Activation:
    if isinstance(name, dict):
        name = name.get("config") if name.get("class_name") == "function" else name.get("class_name")
    plain = str(name).lower().replace("_", "")
    if plain in ("linear", "none"):
        return Activation("affine", 1.0, 0.0)
    if plain == "hardsigmoid":
        return Activation("hardsigmoid", 0.2 if _before(version, 3, 0) or "tf" in version else 1 / 6, 0.5)
    if plain not in FUNCTIONS or plain in ("affine", "leakyrelu", "thresholdedrelu", "scaledtanh"):
        raise ConversionError(f"{where}: the activation {name!r} has no counterpart here")
    return Activation(plain)


def _from_cudnn(where: str, cell: str, weights: keras.Weights) -> keras.Weights:
    """Return CuDNN's arrays as those of the plain layer: each gate's matrices turned around in memory, two biases."""
    G, bias = len(keras.KERAS_BLOCKS[cell]), weights.bias
    if bias is None:
        raise DataError(f"{where}: CuDNN's layout without a bias")
    kernel = np.hstack([part.T.reshape(part.shape, order="F") for part in np.hsplit(weights.kernel, G)])
    recurrent = np.hstack([part.T for part in np.hsplit(weights.recurrent, G)])
    two = bias.reshape(2, -1)
    return keras.Weights(kernel, recurrent, two if cell == "gru" else two.sum(axis=0))
