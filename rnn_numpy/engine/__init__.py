"""The engine: the chain of a cell's parts, bound to arrays and run through time, layers and directions.

Forward mode is loaded when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rnn_numpy.engine.cell import Cell, ExtraParameter, Given
from rnn_numpy.engine.parts import Part
from rnn_numpy.engine.recurrent import BackwardResult, BackwardSteps, ForwardSteps, Recurrent
from rnn_numpy.engine.trace import LayerTrace, Step, Trace

if TYPE_CHECKING:
    from rnn_numpy.engine.forward_mode import TangentResult, jvp
    from rnn_numpy.engine.influence import ForwardGradients, rtrl

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

_LATE = {"TangentResult": "forward_mode", "jvp": "forward_mode", "ForwardGradients": "influence", "rtrl": "influence"}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(importlib.import_module(f"rnn_numpy.engine.{_LATE[name]}"), name)
    raise AttributeError(f"module 'rnn_numpy.engine' has no attribute {name!r}")
