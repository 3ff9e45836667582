"""Files of named arrays: .npz, .safetensors, and what torch.save writes; nothing in them is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rnn_numpy.core import storage
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import DataError
from rnn_numpy.interop import conventions, state_dict
from rnn_numpy.interop.network import Network

Array = NDArray[Any]


def read_npz(where: str, file: Path, data: bytes) -> Network:
    """Return the recurrent layers of an .npz file, whose bytes are given."""
    arrays = storage.npz_arrays(f"{where}: {file}", data)
    return _network(where, file, "npz", arrays)


def read_safetensors(where: str, file: Path) -> Network:
    """Return the recurrent layers of a .safetensors file."""
    return _network(where, file, "safetensors", storage.safetensors_arrays(where, file))


def read_torch(where: str, file: Path) -> Network:
    """Return the recurrent layers of a file of torch.save, read with weights_only=True: nothing in it is run."""
    begin = f"{where}: {file}"
    torch = optional_import("torch", where, "torch")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own, of many kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        needs = "Unsupported global" in str(error) or "weights_only" in str(error) or "Unsupported" in str(error)
        if needs:
            raise DataError(
                f"{begin}: holds more than weights, a whole pickled module perhaps, which would run code when it is "
                "read; it is not read. Where it was written: torch.save(model.state_dict(), ...)"
            ) from None
        raise DataError(f"{begin}: not a whole file of torch.save: {said[0]}") from None
    arrays: dict[str, Array] = {}
    _collect(torch, content, "", arrays)
    return _network(where, file, "torch", arrays)


def _collect(torch: Any, content: Any, front: str, arrays: dict[str, Array], depth: int = 0) -> None:
    """Add the tensors of nested dicts under the names that lead to them."""
    if isinstance(content, torch.Tensor):
        if content.is_quantized or content.layout != torch.strided or content.device.type == "meta":
            return
        wide = content.float() if content.dtype in (torch.float16, torch.bfloat16) else content
        arrays[front] = wide.detach().numpy()
    elif isinstance(content, Mapping) and depth < 8:
        for name, value in content.items():
            if not str(name).startswith("optimizer"):
                _collect(torch, value, f"{front}.{name}" if front else str(name), arrays, depth + 1)


def _network(where: str, file: Path, format: str, arrays: Mapping[str, Array]) -> Network:
    layers, notes = state_dict.find_layers(f"{where}: {file}", arrays), state_dict.notes_of(arrays)
    if not layers and not notes:
        others = conventions.from_arrays(arrays)
        layers, notes = list(others), others.notes
    return Network(str(file), format, layers, notes)
