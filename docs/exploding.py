"""A network whose gradient explodes: it reads a recorded EEG, and its recurrent weights are too large."""

import numpy as np

from rnn_numpy import RNN
from rnn_numpy.lab import set_recurrent_weights
from rnn_numpy.tasks import load_bundled


def case():
    """Return the layer, what its forward pass recorded, and the gradient of the loss: the last output, summed."""
    rnn = RNN(4, 32, rng=0)
    set_recurrent_weights(rnn, gain=2.0, init="uniform", rng=None)  # spectral radius 2
    eeg = load_bundled("eeg").values[:100]
    x = (eeg - eeg.mean(axis=0)) / eeg.std(axis=0)
    output, _, trace = rnn.forward(x[:, None])  # (T, N, D): 100 steps of one sequence, four electrodes
    doutput = np.zeros_like(output)
    doutput[-1] = 1.0
    return rnn, trace, doutput
