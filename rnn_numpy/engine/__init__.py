"""Time, once: the driver that runs any cell forward and backward, its traces, and its forward mode."""

from rnn_numpy.engine.cell import (
    Cell,
    Extra,
)
from rnn_numpy.engine.forward_mode import (
    ForwardGradients,
    rtrl,
)
from rnn_numpy.engine.recurrent import (
    BackwardResult,
    BackwardSteps,
    Recurrent,
)
from rnn_numpy.engine.tangent import (
    TangentResult,
    jvp,
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
    "Extra",
    "ForwardGradients",
    "LayerTrace",
    "Recurrent",
    "Step",
    "TangentResult",
    "Trace",
    "jvp",
    "rtrl",
]
