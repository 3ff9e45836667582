"""Where a gradient is wrong, and which known mistake would make it so."""

from rnn_numpy.checks.diagnosis.known_mistakes import DIAGNOSES, PLACES
from rnn_numpy.checks.diagnosis.locate import diagnose_layer, diagnose_tensors

__all__ = ["DIAGNOSES", "PLACES", "diagnose_layer", "diagnose_tensors"]
