"""From a breakpoint inside of a formula to the step that it belongs to."""

from __future__ import annotations

import copy
import inspect
from types import FrameType

from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import NOTHING, GradientPass, Step
from rnn_numpy.errors import OptionError

LOOPS = {Recurrent.forward_loop.__code__: False, Recurrent.backward_loop.__code__: True}


def here() -> Step:
    """Return the step that is being computed, from anywhere below the driver's loop: at a breakpoint in a formula.

    Its rows are the memory as it is at this moment: of lines that have not run yet, what they come in with.

    Raises
    ------
    OptionError
        No pass is inside of a step.

    Examples
    --------
    >>> here()  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    rnn_numpy.errors.OptionError: debug.here: no pass is inside of a step; call it at a breakpoint in a formula, as ...
    """
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        if frame.f_code in LOOPS and "t" in frame.f_locals:
            run, t, backward = frame.f_locals["run"], frame.f_locals["t"], LOOPS[frame.f_code]
            trace = copy.copy(run.trace)
            trace.reached = None if backward else t
            if not backward:
                return Step(trace, t, NOTHING)
            return Step(trace, t, GradientPass(run.gradients.arrays, t))
        frame = frame.f_back
    raise OptionError(
        "debug.here: no pass is inside of a step; call it at a breakpoint in a formula, as `lstm_step_backward`. "
        "Between two steps, the step is what `next` returned"
    )
