"""The ground floor, which knows no time: parameters, packed sequences, files, and the checks of arguments."""

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

__all__ = [
    "PackedSequence", "Parameters", "invert_permutation", "pack_padded_sequence", "pack_sequence",
    "pad_packed_sequence", "pad_sequence", "unpack_sequence", "unpad_sequence",
]  # fmt: skip
