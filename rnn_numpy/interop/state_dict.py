"""Recurrent layers among named arrays: torch's state dicts, whatever stands in front of the names.

torch calls the arrays of a layer weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, with a projection weight_hr_l0,
those of the other direction and of further layers weight_ih_l0_reverse, weight_ih_l1, ..., and those of a cell
weight_ih and so on. What stands in front of these is where the layer is in its module. The shapes tell the cell: W_hh
has one, three or four blocks of H rows. They do not tell tanh from relu in an RNN: then both are `choices`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.errors import ConversionError, StateDictError
from rnn_numpy.interop import common
from rnn_numpy.interop.network import FoundLayer

Array = NDArray[Any]
Names = dict[str, str]  # of one layer: this package's name to the file's

ROLES = {"weight_ih": "weight_ih", "w_ih": "weight_ih", "weight_hh": "weight_hh", "w_hh": "weight_hh",
         "bias_ih": "bias_ih", "b_ih": "bias_ih", "bias_hh": "bias_hh", "b_hh": "bias_hh",
         "weight_hr": "weight_hr"}  # fmt: skip
NAME = re.compile(
    rf"(?P<front>.*?)(?P<role>{'|'.join(ROLES)})(?P<place>_l\d{{1,4}}(?:_reverse)?)?(?P<end>_orig|_mask)?"
)
WAY_OUT = {
    "_g": "weight_norm: torch.nn.utils.remove_weight_norm(module, name)",
    "_v": "weight_norm: torch.nn.utils.remove_weight_norm(module, name)",
    "original": "parametrisations: torch.nn.utils.parametrize.remove_parametrizations(module, name)",
}
CELLS = {1: "rnn", 3: "gru", 4: "lstm"}


def find_layers(begin: str, arrays: Mapping[str, Array], batch_first: bool = False) -> list[FoundLayer]:
    """Return the recurrent layers among arrays with torch's names."""
    groups: dict[str, Names] = {}
    for name in arrays:
        match = NAME.fullmatch(name)
        if match is not None and match["end"] != "_mask":
            own = groups.setdefault(match["front"].rstrip("._/"), {})
            own[ROLES[match["role"]] + (match["place"] or "_l0")] = name
    return [_found(begin, front, names, arrays) for front, names in groups.items() if _is_layer(front, names, arrays)]


def notes_of(arrays: Mapping[str, Array]) -> list[str]:
    """Say what of these names is a recurrent layer that cannot be read."""
    notes = []
    for name in arrays:
        if re.search(r"(weight|bias)_[hi]h(_l\d+)?(_reverse)?_[gv]$", name):
            notes.append(f"{name}: weights are parametrised; before saving, undo {WAY_OUT['_g']}")
        elif re.search(r"parametrizations\.(weight|bias)_[hi]h(_l\d+)?(_reverse)?\.original", name):
            notes.append(f"{name}: weights are parametrised; before saving, undo {WAY_OUT['original']}")
        elif "_packed_params" in name or "_all_weight_values" in name:
            notes.append(f"{name}: weights are quantised and packed; save the state dict before quantize_dynamic")
    return notes


def _is_layer(front: str, names: Names, arrays: Mapping[str, Array]) -> bool:
    """Whether these names are those of a layer in torch, and not another library's, with a bias of another name."""
    others = any(f"{front}{separator}{name}" in arrays for separator in "./_" for name in ("bias", "bias_n"))
    others |= not front and ("bias" in arrays or "bias_n" in arrays)
    return {"weight_ih_l0", "weight_hh_l0"} <= names.keys() and ("bias_ih_l0" in names or not others)


def _found(begin: str, front: str, names: Names, arrays: Mapping[str, Array]) -> FoundLayer:
    where = f"{begin}: {front or names['weight_hh_l0']}"
    W_ih, W_hh = arrays[names["weight_ih_l0"]], arrays[names["weight_hh_l0"]]
    count = 1 + max(int(re.findall(r"_l(\d+)", name)[0]) for name in names)
    rows = 2 if "weight_ih_l0_reverse" in names else 1
    projection = arrays[names["weight_hr_l0"]] if "weight_hr_l0" in names else None
    H = int(W_hh.shape[-1]) if W_hh.ndim else 0
    if projection is not None:
        H = int(projection.shape[-1]) if projection.ndim else 0
    blocks, rest = divmod(len(W_hh) if W_hh.ndim else 0, H or 1)
    cell = None if rest else CELLS.get(blocks)
    notes = [f"{name} is pruned: taken times its mask" for name in names.values() if name.endswith("_orig")]

    def make(nonlinearity: str = "tanh") -> Any:
        if cell is None or W_ih.ndim != 2 or W_hh.ndim != 2:
            raise ConversionError(
                f"{where}: weight_hh has shape {W_hh.shape}, which is that of no RNN (H, H), GRU (3 H, H) or "
                "LSTM (4 H, H)"
            )
        present = {name.rpartition("_l")[0] for name in names if name.endswith("_l0")}
        wanted = [
            f"{stem}_l{index}{way}"
            for index in range(count)
            for way in ("", "_reverse")[:rows]
            for stem in sorted(present)
        ]
        if missing := [name for name in wanted if name not in names]:
            some = ", ".join(missing[:4])
            raise ConversionError(f"{where}: the arrays of all layers must be there; {len(missing)} are not: {some}")
        own = {}
        for name, there in names.items():
            array = np.asarray(arrays[there])
            if there.endswith("_orig"):
                mask = arrays.get(there.removesuffix("_orig") + "_mask")
                if mask is None:
                    raise ConversionError(f"{where}: {there} has no mask; make pruning permanent with prune.remove")
                array = array * mask.astype(array.dtype)
            own[name] = array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array
        own = common.real_arrays(where, own)
        options: dict[str, Any] = {"bias": "bias_ih_l0" in own, "bidirectional": rows == 2}
        options |= {"proj_size": len(projection)} if projection is not None else {}
        options |= common.special_options(cell, nonlinearity, "after")
        layer = common.new_layer(cell, W_ih.shape[1], H, count, dtype=own["weight_ih_l0"].dtype, **options)
        try:
            layer.load_state_dict(own)
        except StateDictError as error:
            raise ConversionError(f"{where}: {error}") from None
        return layer

    choices: dict[str, Callable[[], Any]] = {}
    if cell == "rnn":
        choices = {"tanh": lambda: make("tanh"), "relu": lambda: make("relu")}
    return FoundLayer(
        front, (cell or "?").upper(), int(W_ih.shape[-1]) if W_ih.ndim else 0, H, make, count, rows,
        options={"proj_size": len(projection)} if projection is not None else {}, choices=choices,
        parts=tuple(names.values()), notes=tuple(notes),
    )  # fmt: skip
