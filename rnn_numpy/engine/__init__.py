"""The engine: the chain of a cell's parts, bound to arrays and run through time, layers and directions."""

from rnn_numpy.engine.cell import Cell, ExtraParameter, Given
from rnn_numpy.engine.checkpointed import CheckpointedTrace
from rnn_numpy.engine.parts import Part
from rnn_numpy.engine.recurrent import BackwardResult, BackwardSteps, ForwardSteps, Recurrent
from rnn_numpy.engine.stream import Stream
from rnn_numpy.engine.trace import LayerTrace, Step, Trace

__all__ = [
    "BackwardResult",
    "BackwardSteps",
    "Cell",
    "CheckpointedTrace",
    "ExtraParameter",
    "ForwardSteps",
    "Given",
    "LayerTrace",
    "Part",
    "Recurrent",
    "Step",
    "Stream",
    "Trace",
]
