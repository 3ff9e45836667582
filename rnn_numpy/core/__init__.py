"""What flows between the rooms: parameters, traces, and the checks of arguments."""

from rnn_numpy.core.parameters import Parameters
from rnn_numpy.core.trace import LayerTrace, Step, Trace

__all__ = ["LayerTrace", "Parameters", "Step", "Trace"]
