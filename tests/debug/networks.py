"""The networks that the tests of the room run: every cell, with what can be put around it."""

import numpy as np

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM
from rnn_numpy.layers.attention import AttentionGRU, AttentionLSTM, AttentionRNN
from rnn_numpy.layers.attention_decoder import with_attention
from rnn_numpy.layers.general import Activation, GeneralGRU, GeneralLSTM, GeneralRNN

T, N, S = 9, 4, 3
ADDITIVE = {"score": "additive", "memory_size": 3, "attention_size": 4}


def with_gains(layer):
    """Return a layer whose gains and shifts are not the 1 and 0 of the beginning."""
    rng = np.random.default_rng(3)
    for name, array in layer.params.items():
        if name.startswith(("gain", "bias_c")):
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    return layer


LAYERS = {
    "rnn": lambda: RNN(2, 5, rng=0),
    "relu": lambda: RNN(2, 5, nonlinearity="relu", rng=0),
    "no bias": lambda: LSTM(2, 5, bias=False, rng=0),
    "lstm": lambda: LSTM(2, 5, rng=0),
    "projection": lambda: LSTM(2, 5, proj_size=3, rng=0),
    "gru": lambda: GRU(2, 5, rng=0),
    "gru before": lambda: GRU(2, 5, reset="before", rng=0),
    "peephole": lambda: PeepholeLSTM(2, 5, rng=0),
    "layer norm": lambda: with_gains(LayerNormLSTM(2, 5, rng=0)),
    "rnn dropout and zoneout": lambda: RNN(2, 5, recurrent_dropout=0.3, zoneout=0.3, rng=0),
    "lstm dropout and zoneout": lambda: LSTM(2, 5, recurrent_dropout=0.3, zoneout=(0.3, 0.2), rng=0),
    "gru dropout and zoneout": lambda: GRU(2, 5, recurrent_dropout=0.3, zoneout=0.3, rng=0),
    "projection and zoneout": lambda: LSTM(2, 5, proj_size=3, zoneout=(0.3, 0.2), rng=0),
    "two layers": lambda: GRU(2, 5, 2, dropout=0.4, rng=0),
    "two directions": lambda: LSTM(2, 5, 2, bidirectional=True, rng=0),
    "general rnn": lambda: GeneralRNN(2, 5, activations=["elu"], rng=0),
    "general lstm": lambda: GeneralLSTM(
        2, 5, activations=["HardSigmoid", Activation("tanh", clip=0.5), "softsign"], peepholes=True, rng=0
    ),
    "general coupled": lambda: GeneralLSTM(
        2, 5, activations=["sigmoid", Activation("LeakyRelu", 0.1), "tanh"], coupled=True, zoneout=0.2, rng=0
    ),
    "general gru": lambda: GeneralGRU(2, 5, activations=["sigmoid", Activation("ScaledTanh", 1.2, 0.7)], rng=0),
    "general gru before": lambda: GeneralGRU(
        2, 5, activations=["HardSigmoid", "softplus"], reset="before", recurrent_dropout=0.3, rng=0
    ),
    "attention": lambda: AttentionLSTM(2, 5, rng=0),
    "attention additive": lambda: AttentionGRU(2, 5, **ADDITIVE, coverage=True, location=(2, 3), rng=0),
    "attention fed": lambda: AttentionRNN(2, 5, score="keys", memory_size=3, gate="vector", input_feeding=True, rng=0),
}
# Further ways to attend, around further cells.
ATTENDING = {
    "keys, gru before": lambda: AttentionGRU(2, 5, reset="before", score="keys", memory_size=3, rng=0),
    "keys, peephole": lambda: with_attention(PeepholeLSTM)(2, 5, score="keys", memory_size=3, gate="scalar", rng=0),
    "additive, layer norm": lambda: with_gains(with_attention(LayerNormLSTM)(2, 5, **ADDITIVE, rng=0)),
    "keys, general lstm": lambda: with_attention(GeneralLSTM)(
        2, 5, activations=["HardSigmoid", "tanh", "tanh"], peepholes=True, score="keys", memory_size=3, rng=0
    ),
    "fed, general gru": lambda: with_attention(GeneralGRU)(2, 5, reset="before", input_feeding=True, rng=0),
    "coverage": lambda: AttentionLSTM(2, 5, **ADDITIVE, coverage=True, recurrent_dropout=0.3, rng=0),
    "location": lambda: AttentionRNN(2, 5, **ADDITIVE, location=(2, 5), rng=0),
    "dot, zoneout": lambda: AttentionGRU(2, 5, zoneout=0.3, rng=0),
    "fed, lstm": lambda: AttentionLSTM(2, 5, input_feeding=True, gate="scalar", rng=0),
    "fed, gru": lambda: AttentionGRU(2, 5, input_feeding=True, **ADDITIVE, coverage=True, rng=0),
    "fed, peephole": lambda: with_attention(PeepholeLSTM)(2, 5, input_feeding=True, gate="vector", rng=0),
}
LENGTHS = {"all": None, "out of order": [1, 9, 7, 8]}


def memory(layer, rng):
    """Return what a layer attends to, of which the second sequence has one row less, the third nothing; or None."""
    if not hasattr(layer, "memory_size"):
        return None
    exists = np.ones((N, S), bool)
    exists[1, 2] = exists[2] = False
    given = {"values": rng.normal(size=(S, N, layer.memory_size)).astype(layer.dtype), "exists": exists}
    if layer.score != "dot":
        width = layer.hidden_size if layer.score == "keys" else layer.attention_size
        given["keys"] = rng.normal(size=(S, N, width)).astype(layer.dtype)
    return given


def ready(kind, lengths="all", dtype=np.float64, gain=1.0):
    """Return a layer, its trace and a gradient of its output."""
    layer = (LAYERS | ATTENDING)[kind]().astype(dtype)
    layer.params.flat[:] *= gain
    rng = np.random.default_rng(1)
    x = rng.normal(size=(T, N, 2)).astype(dtype)
    output, _, trace = layer.forward(x, lengths=LENGTHS[lengths], given=memory(layer, rng))
    return layer, trace, rng.normal(size=output.shape).astype(dtype)


def flat(result):
    """Return all that a backward pass says, as one vector."""
    found = [result.dx, result.dh_0, *([result.dc_0] if hasattr(result, "dc_0") else []), result.grads.flat]
    return np.concatenate([np.ravel(array) for array in found])
