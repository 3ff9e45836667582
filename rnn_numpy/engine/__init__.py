"""Time, once: the driver that runs any cell forward and backward, its traces, and its forward mode."""

from rnn_numpy.engine.cell import (
    Cell,
    ExtraParameter,
    Given,
)
from rnn_numpy.engine.forward_mode import (
    TangentResult,
    jvp,
)
from rnn_numpy.engine.parts import Part
from rnn_numpy.engine.recurrent import (
    BackwardResult,
    BackwardSteps,
    ForwardSteps,
    Recurrent,
)
from rnn_numpy.engine.rtrl import (
    ForwardGradients,
    rtrl,
)
from rnn_numpy.engine.trace import (
    LayerTrace,
    Step,
    Trace,
)

__all__ = [
    "BackwardResult",
    "BackwardSteps",
    "Cell",
    "ExtraParameter",
    "ForwardGradients",
    "ForwardSteps",
    "Given",
    "LayerTrace",
    "Part",
    "Recurrent",
    "Step",
    "TangentResult",
    "Trace",
    "jvp",
    "rtrl",
]
