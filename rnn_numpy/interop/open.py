"""`open_network`: a file with a recurrent layer in it, whichever library wrote it.

What a file is, its first bytes say, and the names of what it holds; its own name is asked last. Nothing in it is run: a
pickle, a TorchScript archive or a Lambda layer is refused.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from rnn_numpy.core import storage
from rnn_numpy.errors import DataError, DTypeError
from rnn_numpy.interop import array_files, keras_file, onnx_file
from rnn_numpy.interop.network import Network

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
# The number that torch pickled at the beginning of a file before it wrote zip files.
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

# Formats that trained networks lie in and that are not read here, by what a file begins with, and the way out.
REFUSED = {
    b"\x93NUMPY": ("one array of numpy.save", "save all arrays of the layer with numpy.savez, under names"),
    b"GGUF": ("GGUF", "convert it to safetensors with the library that wrote it"),
    b"#Parameter#": ("DyNet's text", "write its arrays with numpy.savez, and open these with from_arrays"),
    b"#LookupParameter#": ("DyNet's text", "write its arrays with numpy.savez, and open these with from_arrays"),
    b"\x1f\x8b": ("a gzip archive", "unpack it first"),
    b"BZh": ("a bzip2 archive", "unpack it first"),
    b"\xfd7zXZ": ("an xz archive", "unpack it first"),
}
REFUSED_NAMES = {
    ".mlmodel": ("Core ML", "convert it back with coremltools, or take its arrays, and open these with from_arrays"),
    ".traineddata": ("Tesseract's", "no small reader of it is known; train or export the network elsewhere"),
    ".tflite": ("TFLite", "open the Keras file that it was converted from"),
}


def open_network(path: Any) -> Network:
    """Return the recurrent layers of a file of trained weights, ready to run.

    Parameters
    ----------
    path : str or path, or onnx.ModelProto
        An ONNX model; a state dict or checkpoint of torch, or .safetensors; a file of Keras, .keras, .weights.h5 or its
        older HDF5; arrays of numpy.savez under torch's names. What it is, is told by its content.

    Returns
    -------
    Network
        A list of `FoundLayer`, each with its name, sizes and options; `.layer` of one is a layer of this package with
        its weights, made when it is asked for. A file without a recurrent layer gives an empty one, whose `notes` say
        what was found instead.

    Raises
    ------
    DataError
        The file cannot be read, is damaged, or of a format that is not read here; the message has the way out.
    MissingExtraError
        The library that reads the format is not installed.
    ConversionError
        From `.layer`: it computes something that has no counterpart here.

    Notes
    -----
    Nothing in a file is executed, and nothing that it declares is believed before the bytes are there for it. (HDF5 is
    read by its own library in C, which follows what a damaged file says before anybody can look: a file made to harm
    can take memory there, or end the process.) A layer whose weights are put in another order is compared, before it is
    handed out, with a plain loop over the equations of its format.

    Examples
    --------
    >>> import tempfile
    >>> from rnn_numpy import GRU
    >>> from rnn_numpy.interop import save_npz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_npz(f"{folder}/encoder.npz", GRU(3, 4))
    ...     network = open_network(f"{folder}/encoder.npz")
    >>> network[0].layer
    GRU(3, 4, dtype=float64)
    """
    where = "open_network"
    if hasattr(path, "SerializeToString") and hasattr(path, "graph"):
        return onnx_file.read_model(path, where)
    try:
        file = Path(path)
    except TypeError:
        raise DTypeError(
            f"{where}: path must be a str, a path or an onnx.ModelProto; got {type(path).__name__}"
        ) from None
    data = storage.read_whole(where, file)
    return _read(where, file, data)


def _read(where: str, file: Path, data: bytes) -> Network:
    begin = f"{where}: {file}"
    if not data:
        raise DataError(f"{begin}: is empty")
    if data.startswith(ZIP):
        return _read_zip(where, file, data)
    if data.startswith(HDF5):
        return keras_file.read_hdf5(where, file, data)
    if data.startswith(OLD_TORCH):
        return array_files.read_torch(where, file)
    if data[:1] == b"\x80" and data[1:2] <= b"\x05":
        raise DataError(
            f"{begin}: is a pickle, which can run code when it is read; it is not read. Where it was written, save the "
            "weights alone: torch.save(model.state_dict(), ...), or numpy.savez"
        )
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data) - 8:
        return array_files.read_safetensors(where, file)
    if data[4:8] == b"TFL3":
        _refuse(begin, *REFUSED_NAMES[".tflite"])
    for first, (name, advice) in REFUSED.items():
        if data.startswith(first):
            _refuse(begin, name, advice)
    if file.suffix in REFUSED_NAMES:
        _refuse(begin, *REFUSED_NAMES[file.suffix])
    # Protocol buffers have no mark; a model begins with its version, in field 1.
    if file.suffix == ".onnx" or data[:1] == b"\x08":
        return onnx_file.read_file(file, data, where)
    raise DataError(
        f"{begin}: its format is not known: it begins with {data[:8]!r}. Read are ONNX, torch's zip files and "
        "safetensors, Keras' HDF5 and .keras, and .npz"
    )


def _refuse(begin: str, name: str, advice: str) -> None:
    raise DataError(f"{begin}: is {name}, which is not read here: {advice}")


def _read_zip(where: str, file: Path, data: bytes) -> Network:
    """Read what lies in a zip file."""
    begin = f"{where}: {file}"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names, total = archive.namelist(), sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise DataError(f"{begin}: not a whole zip file: {error}") from None
    if total > max(storage.UNPACKED, 50 * len(data)):
        raise DataError(f"{begin}: its {len(data)} bytes would become {total}; not unpacked")
    bare = {name.partition("/")[2] or name for name in names}
    if "data.pkl" in bare or "data.pkl" in names:
        if any(name.startswith("code/") for name in bare) or "constants.pkl" in bare:
            raise DataError(
                f"{begin}: is a TorchScript archive, which holds code; it is not run. Where torch is: "
                "torch.save(torch.jit.load(FILE).state_dict(), ...), and open that"
            )
        return array_files.read_torch(where, file)
    if {"config.json", "model.weights.h5"} <= set(names):
        return keras_file.read_keras(where, file, data)
    if names and all(name.endswith(".npy") for name in names):
        return array_files.read_npz(where, file, data)
    inside = ", ".join(names[:5]) or "nothing"
    raise DataError(
        f"{begin}: is an archive that holds {inside}; unpack it first (python -m zipfile -e), and open what is in it"
    )
