"""What knows no time, and flows between the rooms: parameters, packed sequences, files, and the checks of arguments."""

from rnn_numpy.core.packing import (
    PackedSequence,
    invert_permutation,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.storage import load_npz, load_safetensors, save_npz, save_safetensors

__all__ = [
    "PackedSequence",
    "Parameters",
    "invert_permutation",
    "load_npz",
    "load_safetensors",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "save_npz",
    "save_safetensors",
    "unpack_sequence",
    "unpad_sequence",
]
