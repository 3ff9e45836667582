"""Where the forward formulas of a user's cell lose what a complex step carries: which formula, which line, and why.

A formula is run by itself, on what a recorded step read: once in complex numbers, all that it reads moved by an
imaginary step along a random direction; some times in real ones, moved along the same. Where the slopes of what it
writes differ, its variables are compared line by line, and the first line after which one of them has another slope is
the one to blame. No name need be known for it. The formulas of this package are known to be analytic.
"""

from __future__ import annotations

import linecache
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.oracles.analytic import ANALYTIC_HAZARDS, HAZARD_ALIASES
from rnn_numpy.engine.parts import Formula
from rnn_numpy.engine.recorded import STEP, RecordedSteps
from rnn_numpy.engine.slopes import slopes

Array = NDArray[Any]

MOST = 512  # columns that are tried

# Of what is written, slopes that differ by more than this, of the largest of the array, are two.
DIFFERENT = 1e-8

_NAMES = re.compile(r"np\.((?:linalg\.)?\w+)|\.(real|imag|conj|max|min|argmax|argmin|var|std)\b|\b(abs)\(")


class Lost(NamedTuple):
    """A line that a complex step does not pass.

    Attributes
    ----------
    formula : str
    line : int
        In its file; 0 where it could not be told.
    source : str
        The line.
    why : str
        What happens there, and what to write for it.
    overflows : bool
        Whether it is lost where a number leaves the range of numbers alone.
    """

    formula: str
    line: int
    source: str
    why: str
    overflows: bool = False

    def __str__(self) -> str:
        place = f", line {self.line}, `{self.source}`" if self.line else ""
        return f"{self.formula}{place}: {self.why}"


def lines_that_lose(steps: RecordedSteps) -> list[Lost]:
    """Return where formulas of these steps lose a complex step: the first line of each; of this package's own, none."""
    chain = steps.recorded.chain
    if not any(_is_foreign(formula) for formula, *_ in chain.formulas["forward"]):
        return []
    t, n = np.nonzero(steps.alive)
    if len(t) > MOST:
        chosen = np.linspace(0, len(t) - 1, MOST).astype(int)
        t, n = t[chosen], n[chosen]
    if not len(t):
        return []
    found = []
    with np.errstate(all="ignore"):
        for formula, _, arguments in steps.formulas(t, n):
            if _is_foreign(formula):
                lost = _lost(formula, arguments)
                found += [lost] if lost is not None else []
    return found


def _is_foreign(formula: Formula) -> bool:
    return not str(getattr(formula, "__module__", "")).startswith("rnn_numpy.")


def _lost(formula: Formula, arguments: list[Array]) -> Lost | None:
    rng = np.random.default_rng(0)
    # What is to be written comes in uninitialised.
    real = [np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0) for array in arguments]
    along = [rng.normal(size=array.shape) if array.dtype.kind == "f" else None for array in real]

    def moved(step: float, unit: complex = 1.0) -> list[Array]:
        return [a if v is None else a + step * unit * v for a, v in zip(real, along, strict=True)]

    def written(step: float, unit: complex = 1.0) -> Array:
        arrays = moved(step, unit)
        formula(*arrays)
        return np.concatenate([np.ravel(a) for a, v in zip(arrays, along, strict=True) if v is not None])

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            by_step = written(STEP, 1j)
    except Exception as error:  # whatever a formula for real numbers does with complex ones
        return _raised(formula, error)
    found = slopes(written)
    scale = np.concatenate([np.full(a.size, _largest(a)) for a in real if a.dtype.kind == "f"])
    sizes = np.concatenate([np.full(len(part), _largest(part)) for part in _parts(found.slopes, real)] or [np.zeros(0)])
    with np.errstate(all="ignore"):
        told = np.isfinite(found.errors)
        off = np.abs(by_step.imag / STEP - found.slopes) > 8 * found.errors + DIFFERENT * np.maximum(
            sizes, 1e-8 * scale
        )
        nothing = np.isfinite(found.values) & ~np.isfinite(by_step)
    if np.any(off & told & ~found.kinks & ~nothing):
        return _line(formula, moved, "what a complex step carries is lost")
    if nothing.any():
        why = (
            "in complex numbers it is NaN where it is a number in real ones, as 1 / (1 + exp(-a)) is far below -709; "
            "(1 + tanh(a / 2)) / 2 is the same, and does not overflow"
        )
        return _line(formula, moved, why)._replace(overflows=True)
    if found.kinks.any():
        return _line(formula, moved, "it has two slopes at a recorded step, of which a complex step sees one")
    return None


def _largest(array: Array) -> float:
    return float(np.abs(array).max(initial=0.0))


def _parts(flat: Array, like: list[Array]) -> Iterator[Array]:
    start = 0
    for array in like:
        if array.dtype.kind == "f":
            yield flat[start : start + array.size]
            start += array.size


def _raised(formula: Formula, error: Exception) -> Lost:
    """Return the line of the formula in which an error came up."""
    code, line = getattr(formula, "__code__", None), 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is code:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, np.exceptions.ComplexWarning):
        why = "the imaginary part, which carries the derivative, is cut off where a number is made real"
    else:
        why = f"it takes no complex numbers ({type(error).__name__})"
    return _told(formula, line, why)


def _told(formula: Formula, line: int, why: str) -> Lost:
    code = getattr(formula, "__code__", None)
    source = linecache.getline(code.co_filename, line).strip() if code is not None and line else ""
    instead: list[tuple[str, str]] = []
    for match in _NAMES.finditer(source):
        name = next(group for group in match.groups() if group)
        name = HAZARD_ALIASES.get(name, name)
        hazard = ANALYTIC_HAZARDS.get(name)
        if hazard is not None and name not in [each for each, _ in instead]:
            instead.append((name, hazard.instead))
    advice = "; ".join(f"for {name} write {text}" for name, text in instead)
    title = str(getattr(formula, "__name__", repr(formula)))
    return Lost(title, line if source else 0, source, f"{why}{f' ({advice})' if advice else ''}")


def _line(formula: Formula, moved: Callable[..., list[Array]], why: str) -> Lost:
    """Find the first line after which a variable has another slope by the complex step than by differences."""
    step = 1e-6
    runs = [_variables(formula, moved(*args)) for args in ((STEP, 1j), (0.0,), (step,), (-step,))]
    for (line, by_step), (_, middle), (_, up), (_, down) in zip(*runs, strict=False):
        for name, value in by_step.items():
            if not all(name in each and each[name].shape == value.shape for each in (middle, up, down)):
                continue
            if np.any(np.isfinite(middle[name]) & ~np.isfinite(value)):
                return _told(formula, line, why)
            slope = (up[name] - down[name]) / (2 * step)
            bend = np.abs(up[name] - 2 * middle[name] + down[name]) / step
            off = np.abs(value.imag / STEP - slope)
            size = max(_largest(slope), _largest(value.imag) / STEP)
            if np.any((off > 1e-4 * size) | (bend > 1e-4 * size)):
                return _told(formula, line, why)
    return _told(formula, 0, why)


def _variables(formula: Formula, arguments: list[Array]) -> list[tuple[int, dict[str, Array]]]:
    """Run a formula; return after each of its lines the line, and the arrays of numbers that it has by name."""
    found: list[tuple[int, dict[str, Array]]] = []
    code, last = getattr(formula, "__code__", None), 0

    def traced(frame: Any, event: str, _: Any) -> Any:
        nonlocal last
        if frame.f_code is not code:
            return None
        if event in ("line", "return"):
            if last:
                arrays = {
                    name: np.array(value)
                    for name, value in frame.f_locals.items()
                    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fc"
                }
                found.append((last, arrays))
            last = frame.f_lineno
        return traced

    with _tracing(traced):
        formula(*arguments)
    return found


@contextmanager
def _tracing(tracer: Any) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        yield
    finally:
        sys.settrace(before)
