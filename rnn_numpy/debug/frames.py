"""From a breakpoint, or a warning, inside of a formula to the step that it belongs to."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import numpy as np

from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.trace import NOTHING, GradientPass, Step
from rnn_numpy.errors import OptionError

LOOPS = {Recurrent.forward_loop.__code__: False, Recurrent.backward_loop.__code__: True}


class Running(Step):
    """A `Step` that is being computed."""

    __slots__ = ()

    def write(self, name: str, value: Any) -> None:
        """Refuse: the formula would write over it, or take it for its own."""
        raise OptionError(
            f"Step.write: step {self.t} of {self.recorded.name} is being computed; write where a pass is halted, at "
            "the step that `next` of backward_steps, forward_steps or a Stepper returned, or by Stepper.fork"
        )


def here() -> Step:
    """Return the step that is being computed, from anywhere below the driver's loop: at a breakpoint in a formula, or
    at the prompt of pdb, or of a debugger built on it, after an error that has left one (`pdb.pm`, `python -m pdb`).

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
    live = list(_callers(inspect.currentframe()))
    for frame in itertools.chain(live, _looked_at(live)):
        if frame.f_code in LOOPS and "t" in frame.f_locals:
            run, t, backward = frame.f_locals["run"], frame.f_locals["t"], LOOPS[frame.f_code]
            trace = copy.copy(run.trace)
            trace.reached = None if backward else t
            if not backward:
                return Running(trace, t, NOTHING)
            return Running(trace, t, GradientPass(run.gradients.arrays, t))
    raise OptionError(
        "debug.here: no pass is inside of a step; call it at a breakpoint in a formula, as `lstm_step_backward`. "
        "Between two steps, the step is what `next` returned"
    )


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _looked_at(live: Iterable[FrameType]) -> Iterator[FrameType]:
    """Yield the frames of an error that a debugger among the live ones stands in, from the one that it shows outwards,
    then those within.

    A generator's frame that an error has left knows its caller no more; the debugger's stack does.
    """
    if "bdb" not in sys.modules:
        return
    for frame in live:
        debugger = frame.f_locals.get("self")
        if isinstance(debugger, sys.modules["bdb"].Bdb):
            stack, shown = getattr(debugger, "stack", []), getattr(debugger, "curindex", 0) + 1
            yield from (found for found, _ in (*reversed(stack[:shown]), *reversed(stack[shown:])))
            return


@contextlib.contextmanager
def trap() -> Iterator[None]:
    """Stop at the first operation of NumPy's that overflows, divides by 0 or makes a NaN, and say at which step.

    A net with holes: an infinity that is in x or in a weight makes no noise as long as gates saturate, products of BLAS
    do not always tell, and what is made a NaN outside of a step has no step. `first_non_finite` looks at what has been
    recorded, and misses nothing.

    Raises
    ------
    FloatingPointError
        With layer, t, function and line.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> rnn = RNN(1, 1, nonlinearity="relu", rng=0)
    >>> rnn.params["weight_hh_l0"][...] = 1e200
    >>> with trap():  # doctest: +ELLIPSIS
    ...     rnn.forward(np.full((9, 1, 1), 2.0), np.ones((1, 1, 1)))
    Traceback (most recent call last):
        ...
    FloatingPointError: overflow encountered in dot: l0 t = 1, relu_step_forward, line ...: a_t += h_in.dot...
    """
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise"):
            yield
    except FloatingPointError as error:
        error.args = (f"{error}: {_where(error)}",)
        raise  # the same: a debugger that is called afterwards stands in the formula


def _where(error: BaseException) -> str:
    """Say at which step of which layer, and on which line, an error came about."""
    place, trail = "outside of a step", error.__traceback__
    while trail is not None:
        frame = trail.tb_frame
        if frame.f_code in LOOPS and "t" in frame.f_locals:
            recorded = frame.f_locals["run"].trace
            way = ", on the way back" if LOOPS[frame.f_code] else ""
            place = f"{recorded.name} t = {frame.f_locals['t'] + recorded.first}{way}"
        trail = trail.tb_next
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{place}, {last.name}, line {last.lineno}: {last.line}"
