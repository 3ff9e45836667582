"""What flows between the rooms: parameters, initial values, packed sequences, traces, and the checks of arguments."""

from rnn_numpy.core.initializers import (
    chrono,
    identity,
    initialize,
    irnn,
    normal,
    orthogonal,
    set_forget_bias,
    uniform,
    xavier_normal,
    xavier_uniform,
)
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
from rnn_numpy.core.trace import LayerTrace, Step, Trace

__all__ = [
    "LayerTrace",
    "PackedSequence",
    "Parameters",
    "Step",
    "Trace",
    "chrono",
    "identity",
    "initialize",
    "invert_permutation",
    "irnn",
    "normal",
    "orthogonal",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "set_forget_bias",
    "uniform",
    "unpack_sequence",
    "unpad_sequence",
    "xavier_normal",
    "xavier_uniform",
]
