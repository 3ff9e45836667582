"""The networks that the tests of the room run: every cell, with what can be put around it."""

import numpy as np

from rnn_numpy import GRU, LSTM, RNN, LayerNormLSTM, PeepholeLSTM

T, N = 9, 4
LAYERS = {
    "rnn": lambda: RNN(2, 5, rng=0),
    "relu": lambda: RNN(2, 5, nonlinearity="relu", rng=0),
    "no bias": lambda: LSTM(2, 5, bias=False, rng=0),
    "lstm": lambda: LSTM(2, 5, rng=0),
    "projection": lambda: LSTM(2, 5, proj_size=3, rng=0),
    "gru": lambda: GRU(2, 5, rng=0),
    "gru before": lambda: GRU(2, 5, reset="before", rng=0),
    "peephole": lambda: PeepholeLSTM(2, 5, rng=0),
    "layer norm": lambda: LayerNormLSTM(2, 5, rng=0),
    "rnn dropout and zoneout": lambda: RNN(2, 5, recurrent_dropout=0.3, zoneout=0.3, rng=0),
    "lstm dropout and zoneout": lambda: LSTM(2, 5, recurrent_dropout=0.3, zoneout=(0.3, 0.2), rng=0),
    "gru dropout and zoneout": lambda: GRU(2, 5, recurrent_dropout=0.3, zoneout=0.3, rng=0),
    "projection and zoneout": lambda: LSTM(2, 5, proj_size=3, zoneout=(0.3, 0.2), rng=0),
    "two layers": lambda: GRU(2, 5, 2, dropout=0.4, rng=0),
    "two directions": lambda: LSTM(2, 5, 2, bidirectional=True, rng=0),
}
LENGTHS = {"all": None, "out of order": [3, 9, 7, 8]}


def ready(kind, lengths="all", dtype=np.float64, gain=1.0):
    """Return a layer, its trace and a gradient of its output."""
    layer = LAYERS[kind]().astype(dtype)
    layer.params.flat[:] *= gain
    rng = np.random.default_rng(1)
    output, _, trace = layer.forward(rng.normal(size=(T, N, 2)).astype(dtype), lengths=LENGTHS[lengths])
    return layer, trace, rng.normal(size=output.shape).astype(dtype)


def flat(result):
    """Return all that a backward pass says, as one vector."""
    found = [result.dx, result.dh_0, *([result.dc_0] if hasattr(result, "dc_0") else []), result.grads.flat]
    return np.concatenate([np.ravel(array) for array in found])
