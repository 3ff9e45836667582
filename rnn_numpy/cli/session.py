"""What a prompt over a pass holds: forks, breakpoints, displays, and where it stands. It prints nothing."""

from __future__ import annotations

import ast
import contextlib
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.debug import Condition, Stepper, when
from rnn_numpy.debug.conditions import NAMED
from rnn_numpy.debug.explain import rows_of
from rnn_numpy.debug.expressions import ELEMENTWISE, OF_MEMORY, OF_NAMES, REDUCTIONS, Value, evaluate, parsed
from rnn_numpy.debug.rows import Rows, targets
from rnn_numpy.engine import Recurrent, Step, Trace
from rnn_numpy.engine.trace import NOTHING
from rnn_numpy.errors import OptionError, RNNNumpyError

Array = NDArray[Any]

CHUNK = 128  # steps between two looks at whether Ctrl-C was pressed

# A step, a layer, a step of a layer, and what must hold there: 41, l1, l1:41, "41, norm(dh) > 1".
PLACE = re.compile(r"(?P<layer>l\d+(?:_reverse)?)?\s*:?\s*(?P<t>-?\d+)?\s*(?:(?:,|\bif\b)(?P<rest>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Case:
    """What is stepped through, the pass back or the forward one, and what to call it."""

    layer: Recurrent
    trace: Trace
    doutput: Any
    dh_n: Any = None
    title: str = ""
    forward: bool = False


@dataclass
class Fork:
    """A pass: number 1 is the true one, each other one has something written into it."""

    number: int
    stepper: Stepper
    origin: str = ""
    parent: int = 0


@dataclass
class Breakpoint:
    """A numbered condition; `ignore` is how many more times it is passed over."""

    number: int
    text: str
    condition: Condition
    temporary: bool = False
    enabled: bool = True
    ignore: int = 0
    hits: int = 0


class Session:
    """Forks, breakpoints and displays over one pass.

    The pass stands on its first step from the beginning: the names that there are at a step are then known.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        stepper = (
            Stepper.replay(case.layer, case.trace)
            if case.forward
            else Stepper(case.layer, case.trace, case.doutput, case.dh_n)
        )
        self.forks = [Fork(1, stepper)]
        self.fork = self.forks[0]
        self.stepper.next()
        self.breakpoints: dict[int, Breakpoint] = {}
        self.displays: dict[int, str] = {}
        self._numbers = {"breakpoint": 0, "display": 0}
        self._untouched = True  # nobody has moved yet: `c` looks at the first step as well
        self._asked = False  # Ctrl-C was pressed

    # ------------------------------------------------------------------------------------------------ where it stands

    @property
    def stepper(self) -> Stepper:
        """The pass that the prompt is in."""
        return self.fork.stepper

    @property
    def step(self) -> Step:
        """The step on which it stands."""
        step = self.stepper.step
        if step is None:
            raise OptionError("the pass has not begun")  # a Session has made the first step
        return step

    @property
    def rows(self) -> Rows:
        """The names of an expression at this step."""
        return rows_of(self.step)

    @property
    def behind(self) -> Rows:
        """The same for all steps of this layer from the first one to this one, in the order of the pass."""
        rows, trace = self.rows, self.step.recorded
        direction = rows.indices.step
        first = 0 if direction > 0 else len(trace) - 1
        return Rows(trace, rows.gradients, range(first, self.step.index + direction, direction), rows.kept)

    def number(self, text: str) -> Any:
        """Return the one number that an expression is at this step; the norm of an array."""
        array = evaluate(parsed("step", text), self.rows).array
        return array.reshape(-1)[0] if array.size == 1 else self.number(f"norm({text})")

    def saturated(self) -> float:
        """Return the share of the gates' entries, or without gates of the state's, at their limits, sequences that have
        no such step left out.
        """
        rows, trace = self.rows, self.step.recorded
        cell, exists = trace.chain.cell, trace.exists(self.step.index)
        names = [name for name in cell.gate_names if name in rows] if cell.gates > 1 else list(trace.states)
        found = []
        for name in names:
            low, high = rows.limits(name)
            array = rows.value(name).array[0].real
            array = array if exists is None else array[exists[:, 0]]
            found.append((array < low + 0.01) | (array > high - 0.01))
        return float(np.mean(found)) if np.size(found) else 0.0

    def equations(self) -> list[str]:
        """Return what the equations of a step write, on the way that the pass goes, in their order."""
        rows, recorded = self.rows, self.step.recorded
        forward = {*recorded.names_of(NOTHING), *recorded.states}
        forward |= {f"a_{gate}" for gate in recorded.chain.cell.gate_names} if self.case.forward else set()
        found = [name for name in targets(recorded) if (name in forward) == self.case.forward and name in rows]
        return [name for name in found if not rows.is_made(name)]

    def largest(self, name: str) -> tuple[int, int]:
        """Return the sequence and the unit of a row's largest entry; of the first that is not finite, if one is."""
        array = self.rows.value(name).array
        if array.ndim != 3:
            raise OptionError(f"{name} is no array of a step")
        if not array.size:
            raise OptionError(f"{name} has no entry: (N, units) = {array.shape[1:]}")
        sizes = abs(array[0])
        sizes = np.where(np.isfinite(sizes), sizes, np.inf)
        found = np.unravel_index(sizes.argmax(), sizes.shape)
        return int(found[0]), int(found[1])

    # ------------------------------------------------------------------------------------------------ Ctrl-C

    @contextlib.contextmanager
    def postponing(self) -> Iterator[None]:
        """Let Ctrl-C wait until the pass is between two steps: a generator that it hits would be over."""
        self._asked = False

        def note(signum: int, frame: FrameType | None) -> None:
            self._asked = True

        try:
            before = signal.signal(signal.SIGINT, note)
        except ValueError:  # not in the main thread, where no signal arrives
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        self.look()

    def look(self) -> None:
        """Raise the KeyboardInterrupt that was postponed."""
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    # ------------------------------------------------------------------------------------------------ moving

    def next(self, k: int = 1) -> int:
        """Go on by k steps; return how many there were."""
        self._untouched = False
        made = 0
        with self.postponing():
            while made < k:
                many = min(CHUNK, k - made)
                before = len(self.stepper.table()["t"])
                if self.stepper.next(many) is None:
                    return made + len(self.stepper.table()["t"]) - before
                made += many
                self.look()
        return made

    def back(self, k: int = 1) -> int:
        """Go back by k steps; return how many there were."""
        self._untouched = False
        k = min(k, len(self.stepper.table()["t"]) - 1)
        if k:
            self.stepper.back(k)
        return k

    def go(
        self, until: Condition | None = None, back: bool = False, breaks: bool = True
    ) -> list[tuple[str, str]] | None:
        """Go on, or back, until a breakpoint or `until` holds; return what held, as pairs of what it is called and its
        evidence. None: the pass has ended.
        """
        fresh, self._untouched = self._untouched and not back, False
        with self.postponing():
            if fresh and (found := self._held(until, breaks)):
                return found
            while True:
                watched: list[Condition] = [_Poll(self.look)]
                watched += [one.condition for one in self.breakpoints.values() if one.enabled] if breaks else []
                watched += [until] if until is not None else []
                stop = self.stepper.run_back(*watched) if back else self.stepper.run(*watched)
                if stop is None:
                    return None
                if found := self._held(until, breaks):
                    return found

    def _held(self, until: Condition | None, breaks: bool) -> list[tuple[str, str]]:
        """Return what holds at this step; breakpoints that are to be ignored are counted down instead."""
        rows, found = self.rows, []
        if until is not None and until.holds(rows)[0]:
            found.append((until.text, until.evidence(rows, 0)))
        for one in list(self.breakpoints.values()) if breaks else []:
            if not one.enabled or not one.condition.holds(rows)[0]:
                continue
            one.hits += 1
            if one.ignore:
                one.ignore -= 1
                continue
            found.append((f"{one.number}: {one.text}", one.condition.evidence(rows, 0)))
            if one.temporary:
                del self.breakpoints[one.number]
        return found

    def goto(self, t: int, layer: str | None = None) -> None:
        """Go to a step, back or on."""
        self._untouched = False
        with self.postponing():
            self.stepper.goto(t, layer)

    def finish(self) -> Any:
        """Run the pass to its end, past all breakpoints; return its result."""
        self.go(breaks=False)
        with self.postponing():
            return self.stepper.finish()

    def restart(self) -> None:
        """Go back to the first step."""
        self.stepper.run_back(_Poll(lambda: None))
        self._untouched = True

    # ------------------------------------------------------------------------------------------------ breakpoints

    def condition(self, text: str) -> Condition:
        """Return the condition that a text says: a step, `41` or `l1:41`, or a layer, `l1`, where the pass comes to it,
        with `, EXPR` behind it if more must hold; an expression; a condition of `debug` by its name, as `jump(dh, 10)`;
        several, by and, or, not.
        """
        text = text.strip()
        match = PLACE.fullmatch(text)
        if text and match is not None and (match["layer"] or match["t"]):
            known = self.case.trace.layers
            if match["layer"] and match["layer"] not in known:
                raise OptionError(f"there is no layer {match['layer']!r}; there are {', '.join(known)}")
            T = len(self.step.recorded)
            t = None if match["t"] is None else int(match["t"])
            if t is not None and not 0 <= t < T:
                raise OptionError(f"there is no step t = {t}; t is 0 to {T - 1}")
            place: Condition = _At(match["layer"], t)
            return place if match["rest"] is None else place & self.condition(match["rest"])
        text = re.sub(r"\bnan\b", "non_finite", text)
        words = text.split()
        if words and words[0] in NAMED and all(re.fullmatch(r"\w+|[\d.e+-]+", word) for word in words[1:]):
            text = f"{words[0]}({', '.join(words[1:])})"  # jump dh 10, violated
        found = when(re.sub(rf"\b({'|'.join(NAMED)})\b(?!\s*\()", r"\1()", text))  # not violated
        found.holds(self.rows)  # a name that there is not is told now, not in the middle of a run
        return found

    def add_breakpoint(self, text: str, temporary: bool = False) -> tuple[Breakpoint, bool]:
        """Add a breakpoint; return it, and whether it holds where the pass stands."""
        condition = self.condition(text)
        holds = bool(condition.holds(self.rows)[0])
        self._numbers["breakpoint"] += 1
        number = self._numbers["breakpoint"]
        found = Breakpoint(number, " ".join(text.split()), condition, temporary)
        self.breakpoints[number] = found
        return found, holds

    def breakpoint(self, number: int) -> Breakpoint:
        """Return a breakpoint by its number."""
        if number not in self.breakpoints:
            known = f"there are {', '.join(map(str, self.breakpoints))}" if self.breakpoints else "there are none"
            raise OptionError(f"there is no breakpoint {number}; {known}")
        return self.breakpoints[number]

    def add_display(self, text: str) -> int:
        """Show an expression at each halt; return its number."""
        self.number(text)
        self._numbers["display"] += 1
        self.displays[self._numbers["display"]] = " ".join(text.split())
        return self._numbers["display"]

    # ------------------------------------------------------------------------------------------------ what if

    def write(self, text: str) -> Fork:
        """Write into a row, `dh_prev[0, 3] = 0`, in a new fork, and go to it."""
        match = re.fullmatch(r"\s*(\w+)\s*(\[[^\]]*\])?\s*([-+*/]?)=(?!=)\s*(\S.*)", text, re.DOTALL)
        if match is None:
            raise OptionError(f"set: say NAME = EXPR, NAME[n, units] = EXPR, or *= and the like; got {text.strip()!r}")
        name, index, operator, right = match.groups()
        rows = self.rows
        present = rows.value(name).array
        if present.ndim != 3:
            raise OptionError(f"set: {name} is no array of a step")
        said = f"{name}{index or ''} {operator} ({right})" if operator else right
        value = evaluate(parsed("set", said), rows).array
        places = self.places(f"{name}{index or ''}")
        written = np.array(present[0], order="C")  # so that what is written below is no copy
        if np.iscomplexobj(value) and not np.iscomplexobj(written):
            raise OptionError(f"set: {right!r} is complex, and {name} is not")
        value = value[0] if value.ndim == 3 else value
        try:
            written.reshape(-1)[places] = value.astype(written.dtype)
        except ValueError:
            raise OptionError(f"set: {right!r} has shape {value.shape}, what is written {places.shape}") from None
        exists = self.step.recorded.exists(self.step.index)
        if exists is not None and index is None:  # sequences that have no such step are not meant by "all"
            written = np.where(exists, written, present[0])
        values: dict[str, Any] = {name: written}
        twin = self.stepper.fork(None, **values)
        self.fork = Fork(len(self.forks) + 1, twin, f"{self.place()}: {' '.join(text.split())}", self.fork.number)
        self.forks.append(self.fork)
        return self.fork

    def places(self, text: str) -> Array:
        """Return where in a row the entries of NAME or NAME[n, units] stand: numbers n * units + unit, (n, units)."""
        tree = parsed("step", text)
        node = tree.tree.value if isinstance(tree.tree, ast.Subscript) else tree.tree
        if not isinstance(node, ast.Name):
            raise OptionError(f"say NAME, or NAME[n, a:b]; got {text!r}")
        array = self.rows.value(node.id).array
        if array.ndim != 3:
            raise OptionError(f"{node.id} is no array of a step")
        numbers = np.arange(array[0].size).reshape(1, *array.shape[1:])
        found: Array = evaluate(tree, _Numbers(numbers)).array[0]
        return found

    def place(self) -> str:
        """Say where the pass stands."""
        return f"{self.step.recorded.name} t = {self.step.t}"

    def choose(self, number: int) -> Fork:
        """Go to a fork."""
        self.fork = self.numbered(number)
        return self.fork

    def numbered(self, number: int) -> Fork:
        """Return a fork by its number."""
        if not 1 <= number <= len(self.forks):
            raise OptionError(f"there is no fork {number}; there are 1 to {len(self.forks)}")
        return self.forks[number - 1]


class _Numbers:
    """Names that all stand for the numbers of the entries."""

    def __init__(self, numbers: Array) -> None:
        self.numbers = numbers

    def value(self, name: str, before: bool = False) -> Value:
        return Value(self.numbers)

    def limits(self, name: str) -> tuple[float, float]:
        return -1.0, 1.0

    def exists(self) -> Array | None:
        return None


class _At(Condition):
    """A place."""

    def __init__(self, layer: str | None, t: int | None) -> None:
        super().__init__(f"{layer or ''}{':' if layer and t is not None else ''}{'' if t is None else t}")
        self.layer, self.t = layer, t

    def holds(self, rows: Rows) -> Array:
        trace = rows.trace
        first = 0 if rows.indices.step > 0 else len(trace) - 1  # where the pass comes to a layer
        wanted = first if self.t is None else self.t - trace.first
        here = self.layer in (None, trace.name)
        return np.array([here and index == wanted for index in rows.indices], bool)

    def evidence(self, rows: Rows, k: int) -> str:
        return f"t = {rows.indices[k] + rows.trace.first}"


class _Poll(Condition):
    """Holds nowhere, and asks between two stretches of steps whether to go on."""

    def __init__(self, look: Callable[[], None]) -> None:
        super().__init__("")
        self.look = look

    def holds(self, rows: Rows) -> Array:
        self.look()
        return np.zeros(len(rows.indices), bool)

    def evidence(self, rows: Rows, k: int) -> str:
        return ""


def known_words() -> tuple[str, ...]:
    """Return the functions of expressions and the conditions by name."""
    return (*REDUCTIONS, *ELEMENTWISE, *OF_NAMES, *OF_MEMORY, *NAMED)


def said(error: Exception) -> str:
    """Return the message of an error for a prompt: without the function that a caller would have called."""
    text = str(error)
    if isinstance(error, RNNNumpyError):
        text = re.sub(r"^(debug|Stepper|step)[.\w]*: ", "", text)
    return text
