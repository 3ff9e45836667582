"""Wrong backward passes of RNN, LSTM and GRU, and of attention around them, most of them as they once were in
somebody's code: what a gradient check must find, and exercises for whoever learns to.
"""

from rnn_numpy.checks.diagnosis import DIAGNOSES, PLACES
from rnn_numpy.zoo.catalogue import ZOO, specimen
from rnn_numpy.zoo.specimen import NEEDS, PARTS, STEPS, Exhibit, Specimen, Where

__all__ = ["DIAGNOSES", "NEEDS", "PARTS", "PLACES", "STEPS", "ZOO", "Exhibit", "Specimen", "Where", "specimen"]
