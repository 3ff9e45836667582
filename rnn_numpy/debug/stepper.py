"""Stops, a cursor and what-if over one pass: the generator that trains, halted.

A pass keeps every row that it has done, so going back computes nothing: a `Stepper` owns one generator and moves a
cursor over what it has recorded. It never calls a formula. A run with conditions lets the generator go on for some
steps and looks at all of them at once; what-if is always a new generator (`fork`), replayed to the place, so that this
one stays the true pass, bit for bit.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.packing import PackedSequence
from rnn_numpy.core.parameters import Parameters
from rnn_numpy.debug.conditions import Condition, condition
from rnn_numpy.debug.expressions import Text, evaluate, parsed
from rnn_numpy.debug.rows import Halted, Kept, Rows
from rnn_numpy.engine.checkpointed import CheckpointedTrace
from rnn_numpy.engine.recurrent import BackwardSteps, ForwardSteps, Recurrent
from rnn_numpy.engine.trace import NOTHING, GradientPass, LayerTrace, Step, Trace
from rnn_numpy.errors import OptionError

Array = NDArray[Any]

AHEAD, LEAST = 1024, 32  # the most and the fewest steps that a run with conditions looks at together,
ENTRIES = 2**20  # and about as many entries of an array


def recurrent(where: str, layer: Any) -> None:
    """Refuse what is no recurrent layer; of a model, say where it has its one."""
    if not isinstance(layer, Recurrent):
        inner = getattr(layer, "rnn", None)
        hint = ". It has one, `.rnn`, and so has its trace" if isinstance(inner, Recurrent) else ""
        raise OptionError(f"{where}: layer must be a recurrent layer; got {type(layer).__name__}{hint}")


def _own(value: Any) -> Any:
    """Return a copy of what a caller may write over while a fork may still read it."""
    if isinstance(value, np.ndarray):
        return np.array(value)
    if type(value) in (tuple, list):
        return type(value)(map(_own, value))
    if isinstance(value, Mapping):
        return {name: _own(one) for name, one in value.items()}
    return copy.deepcopy(value) if isinstance(value, PackedSequence) else value


def _numbers(where: str, text: Text, rows: Rows) -> Array:
    """Return what a text says at some steps, one number each."""
    array, count = evaluate(text, rows).array, len(rows.indices)
    if array.size not in (1, count):
        raise OptionError(f"{where}: {text.text!r} is not one number a step; take norm(...) of it")
    return np.broadcast_to(array.reshape(-1), (count,))


class Stop(NamedTuple):
    """Where a run has stopped: the step, the condition that held, and its evidence."""

    step: Step
    condition: Condition
    evidence: str

    def __repr__(self) -> str:
        first = repr(self.step).partition("\n")[0]
        return f"{first}: {self.condition}\n  {self.evidence}"


class _Layer(NamedTuple):
    """What a pass has come to in one layer and direction."""

    trace: LayerTrace
    gradients: GradientPass
    kept: Kept
    handed: list[tuple[Array, Array]]


class Stepper:
    """A backward pass that stops, looks, goes back and asks what if.

    Parameters
    ----------
    layer, trace, doutput, dh_n, grads, drecords
        As of `layer.backward_steps`.

    Attributes
    ----------
    step : Step or None
        Where the cursor stands; None before the first step.
    result : BackwardResult or None
        What `backward` returns, bit for bit, once the pass is through; None until then.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> lstm = LSTM(2, 3, rng=0)
    >>> output, h_n, trace = lstm.forward(np.ones((50, 1, 2)))
    >>> s = Stepper(lstm, trace, None, (np.ones((1, 1, 3)), np.zeros((1, 1, 3))))  # dL/dh_n is 1, dL/dc_n is 0
    >>> s.run("norm(dh_prev) < 1e-3").step.t
    40
    >>> s.back(3).t, s.goto(49).t
    (43, 49)
    >>> fork = s.fork(dh_prev=lambda dh_prev: 0 * dh_prev)  # what if nothing came through h at the last step?
    >>> bool(np.allclose(fork.finish().dh_0, s.finish().dh_0, atol=0))
    False
    """

    def __init__(
        self,
        layer: Recurrent,
        trace: Trace,
        doutput: ArrayLike | None,
        dh_n: Any = None,
        grads: Parameters | None = None,
        *,
        drecords: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        recurrent("debug.Stepper", layer)
        if isinstance(trace, CheckpointedTrace):
            raise OptionError(
                "debug.Stepper: trace must be of a forward pass without checkpoint=K: one with it has no record "
                "of all steps at once; step through it by layer.backward_steps"
            )
        doutput, dh_n, drecords = _own(doutput), _own(dh_n), _own(drecords)
        top = trace.edge.like_output("debug.Stepper", "doutput", doutput) if isinstance(trace, Trace) else None
        top = None if top is None else trace.edge.existing(top)  # what it holds past an end is ignored
        # A fork adds nothing to the gradients of the caller.
        self._start(
            lambda: layer.backward_steps(trace, doutput, dh_n, drecords=drecords), top,
            layer.backward_steps(trace, doutput, dh_n, grads, drecords=drecords),
            {} if drecords is None else trace.edge.like_records("debug.Stepper", layer, drecords),
            trace.edge.states_in("debug.Stepper", "dh_n", dh_n),
        )  # fmt: skip

    @classmethod
    def forward(cls, layer: Recurrent, x: ArrayLike, h_0: Any = None, lengths: Any = None, **options: Any) -> Stepper:
        """Return one of a forward pass: arguments as of `layer.forward_steps`, masks replayed in a fork."""
        recurrent("Stepper.forward", layer)
        stepper = cls.__new__(cls)
        masks: dict[str, Any] = {}
        twin = copy.deepcopy(layer)  # the parameters of this moment
        x, h_0, lengths, options = _own(x), _own(h_0), _own(lengths), _own(options)

        def begin(layer: Recurrent = twin) -> ForwardSteps:
            steps = layer.forward_steps(x, h_0, lengths, **{**options, **masks})
            found = {
                "dropout_masks": steps.trace.masks,
                "recurrent_masks": steps.trace.recurrent_masks,
                "zoneout_masks": steps.trace.zoneout_masks,
            }
            masks.update({name: value for name, value in found.items() if value})
            return steps

        stepper._start(begin, None, begin(layer), {}, ())
        return stepper

    @classmethod
    def replay(cls, layer: Recurrent, trace: Trace) -> Stepper:
        """Return one of the forward pass that a trace recorded: from its inputs, initial states, memory and masks.

        The layer's parameters are those of this moment.

        Examples
        --------
        >>> import numpy as np
        >>> from rnn_numpy import GRU
        >>> gru = GRU(2, 3, rng=0)
        >>> output, h_n, trace = gru.forward(np.ones((6, 1, 2)))
        >>> s = Stepper.replay(gru, trace)
        >>> s.run("t == 4").step.t
        4
        >>> bool(np.array_equal(s.finish()[0], output))
        True
        """
        recurrent("Stepper.replay", layer)
        if not isinstance(trace, Trace) or not trace.layers:
            got = type(trace).__name__
            raise OptionError(f"Stepper.replay: trace must be the third result of forward; got {got}")
        edge = trace.edge.checked("Stepper.replay", layer)
        batch, recorded = edge.batch, list(trace.layers.values())
        if any(one.reached is not None for one in recorded) or len(recorded) < edge.rows:
            raise OptionError("Stepper.replay: the trace's forward pass is not through")
        lengths = batch.lengths
        states = []
        for state in recorded[0].states:
            found = []
            for one in recorded:
                last = len(one) if lengths is None else lengths
                found.append(one.stored(state)[last if one.reverse else 0, np.arange(batch.N)])
            states.append(np.array(found))
        initial = edge.states_out(states)
        given = {name: edge.given_out(array, array.ndim - 1) for name, array in edge.given.items()}
        return cls.forward(
            layer,
            edge.signal_out(recorded[0].stored("x")),
            initial if len(initial) > 1 else initial[0],
            None if lengths is None or edge.packed is not None else batch.unsorted(lengths, 0),
            training=False,  # no mask but those of the trace
            dropout_masks=trace.masks,
            recurrent_masks=trace.recurrent_masks or None,
            zoneout_masks=trace.zoneout_masks or None,
            given=given or None,
        )

    def _start(
        self,
        begin: Callable[[], BackwardSteps | ForwardSteps],
        doutput: Array | None,
        steps: Any,
        drecords: Mapping[str, Array],
        dfinals: Sequence[Array | None],
    ) -> None:
        self._begin, self._doutput, self._drecords, self._dfinals = begin, doutput, drecords, dfinals
        self._steps = steps
        edge = steps.trace.edge
        self._total = edge.rows * (edge.batch.T if edge.batch.lengths is None else int(edge.batch.lengths[0]))
        self._ahead = LEAST
        self._loop: Iterator[Step] = self._steps
        self._layers: dict[str, _Layer] = {}
        self._places: list[tuple[str, int]] = []
        self._cursor = -1
        self._watched: list[Text] = []
        self._written: list[tuple[int, str, Array]] = []

    # ------------------------------------------------------------------------------------------------ going on

    def _advance(self, count: int | None) -> int:
        """Let the pass go on for `count` steps, None to its end; return how many there were.

        A pass that is through adds its gradients to those of the caller: the last step is not the end, which comes when
        the cursor goes beyond it.
        """
        places, current, handed = self._places, None, list[tuple[Array, Array]]()
        before, name = len(places), ""
        for step in itertools.islice(self._loop, None if count is None else min(count, self._total - before)):
            recorded, index = step.recorded, step.index
            if recorded is not current:
                current, name = recorded, recorded.name
                if name not in self._layers:
                    self._enter(step)
                handed = self._layers[name].handed
            places.append((name, index))
            for rows, source in handed:  # the step before it will add to what it has handed back
                rows[index] = source[index]
        return len(self._places) - before

    def _enter(self, step: Step) -> None:
        """Keep, of a layer that the pass comes to, what it will overwrite."""
        trace, gradients = step.recorded, step.gradients or NOTHING
        self._ahead = max(LEAST, min(AHEAD, ENTRIES // max(1, trace.arrays[trace.states[0]][0].size)))
        kept, handed = Kept(), list[tuple[Array, Array]]()
        if gradients.arrays:
            kept.loss = self._drecords
            row = list(self._steps.trace.layers).index(trace.name)
            kept.finals = {
                state: None if whole is None else whole[row]
                for state, whole in zip(trace.states, self._dfinals, strict=True)
            }
            first, *further = trace.states
            source = trace.aligned(f"d{first}_prev", gradients)
            kept.doutput = memory.empty(source.shape, source.dtype)
            kept.doutput[...] = source
            # The step has added to the row before it. Of the top layer, the caller has said what was there.
            at, row = step.index, step.index + (1 if trace.reverse else -1)
            kept.unknown = at
            is_top = trace.layer == max(layer.layer for layer in self._steps.trace.layers.values())
            if is_top:
                width, kept.is_top = kept.doutput.shape[-1], True
                if self._doutput is not None:
                    kept.top = self._doutput[:, :, slice(width, None) if trace.reverse else slice(width)]
                if 0 <= row < len(trace):
                    kept.doutput[at] = 0 if kept.top is None else kept.top[row]
                    kept.unknown = None
            for state in further:
                source = trace.aligned(f"d{state}_prev", gradients)
                kept.handed[state] = memory.empty(source.shape, source.dtype)
                kept.handed[state][...] = 0
                handed.append((kept.handed[state], source))
        self._layers[trace.name] = _Layer(trace, gradients, kept, handed)

    @property
    def step(self) -> Step | None:
        """Where the cursor stands."""
        return None if self._cursor < 0 else self._at(self._cursor)

    def _at(self, place: int) -> Step:
        name, index = self._places[place]
        noted = functools.partial(self._note, place)
        return Halted(self._layers[name].trace, index, *self._layers[name][1:3], noted)

    def _note(self, place: int, name: str, row: Array) -> None:
        """Keep what was written at a step: a fork has it, too."""
        self._written.append((place, name, row))

    def next(self, k: int = 1) -> Step | None:
        """Go on by k steps; return the step there, or None where the pass is through before."""
        k = arguments.positive_int("Stepper.next", "k", k)
        missing = self._cursor + k - (len(self._places) - 1)
        if missing > 0 and self._advance(missing) < missing:
            self._advance(None)
            self._cursor = len(self._places) - 1
            return None
        self._cursor += k
        return self._at(self._cursor)

    def run(self, *until: Any) -> Stop | None:
        """Go on until one of the conditions holds; return the `Stop`, or None where the pass ends before.

        A condition is a text, `when(...)`, one of `debug`'s, or a function of a `Step`. The pass may be ahead of
        the cursor by some steps.
        """
        conditions = self._conditions("Stepper.run", until)
        while True:
            start = self._cursor + 1
            if start == len(self._places):
                self._advance(self._ahead)
            stretch = self._stretch(start)
            if not stretch:
                self._advance(None)
                return None
            found = self._first(conditions, stretch)
            if found is not None:
                self._cursor = start + found[0]
                return Stop(self._at(self._cursor), *found[1:])
            self._cursor = start + len(stretch) - 1

    # ------------------------------------------------------------------------------------------------ going back

    def back(self, k: int = 1) -> Step:
        """Go back by k steps, over what is recorded."""
        k = arguments.positive_int("Stepper.back", "k", k)
        if k > self._cursor:
            behind = max(self._cursor, 0)
            raise OptionError(f"Stepper.back: k must be at most {behind}, the halts behind this one; got {k}")
        self._cursor -= k
        return self._at(self._cursor)

    def goto(self, t: int, layer: str | None = None) -> Step:
        """Go to step t of a layer and direction, that of the cursor where left out, back or on."""
        if layer is None and self._cursor >= 0:
            layer = self._places[self._cursor][0]
        self._cursor = self._place("Stepper.goto", layer, t)
        return self._at(self._cursor)

    def _place(self, where: str, layer: str | None, t: int) -> int:
        """Return the place of a step, if need be of one that the pass goes on to."""
        t = arguments.integer(where, "t", t)
        if layer is not None and not isinstance(layer, str):
            raise OptionError(f"{where}: layer must be the name of one, as 'l0'; got {layer!r}")
        known = self._steps.trace.layers
        while True:
            name = layer if layer is not None or not self._places else self._places[0][0]
            if name in self._layers and (name, t - self._layers[name].trace.first) in self._places:
                return self._places.index((name, t - self._layers[name].trace.first))
            if not self._advance(self._ahead):
                names, last = ", ".join(map(repr, known)), max(len(one) for one in known.values()) - 1
                raise OptionError(f"{where}: there is no step {t} of {name!r}; layers are {names}, t is 0 to {last}")

    def run_back(self, *until: Any) -> Stop | None:
        """Go back until a condition holds; return the `Stop`, or None, and stand at the first halt."""
        conditions = self._conditions("Stepper.run_back", until)
        while self._cursor > 0:
            stretch = self._stretch(max(0, self._cursor - self._ahead), self._cursor)
            if stretch[-1] != self._places[self._cursor - 1]:  # of another layer
                stretch = self._stretch(max(0, self._cursor - 1), self._cursor)
            found = self._first(conditions, stretch, last=True)
            self._cursor -= len(stretch) - (found[0] if found else 0)
            if found is not None:
                return Stop(self._at(self._cursor), *found[1:])
        return None

    def _conditions(self, where: str, until: tuple[Any, ...]) -> list[Condition]:
        if not until:
            raise OptionError(f"{where}: say where to stop, as 'norm(dh) > 1'; to the end goes `finish`")
        return [condition(one) for one in until]

    def _stretch(self, start: int, stop: int | None = None) -> list[tuple[str, int]]:
        """Return the places from `start` on that the pass has done, of one layer, at most `self._ahead`."""
        places = self._places[start : start + self._ahead if stop is None else stop]
        if not places or places[0][0] == places[-1][0]:
            return places
        return list(itertools.takewhile(lambda place: place[0] == places[0][0], places))

    def _rows(self, stretch: list[tuple[str, int]]) -> Rows:
        """Return the rows of places of one layer."""
        (name, first), (_, last) = stretch[0], stretch[-1]
        layer = self._layers[name]
        step = -1 if (not layer.gradients.arrays) == layer.trace.reverse else 1
        return Rows(layer.trace, layer.gradients, range(first, last + step, step), layer.kept)

    def _first(
        self, conditions: list[Condition], stretch: list[tuple[str, int]], last: bool = False
    ) -> tuple[int, Condition, str] | None:
        """Return the first (last) place of a stretch where a condition holds, the condition, its evidence."""
        rows = self._rows(stretch)
        found: list[tuple[int, Condition]] = []
        for one in conditions:
            places = np.flatnonzero(one.holds(rows))
            if len(places):
                found.append((int(places[-1 if last else 0]), one))
        if not found:
            return None
        place, held = (max if last else min)(found, key=lambda pair: pair[0])
        return place, held, held.evidence(self._rows(stretch[place : place + 1]), 0)

    # ------------------------------------------------------------------------------------------------ what if

    def fork(self, at: tuple[str, int] | None = None, **values: Any) -> Stepper:
        """Return a new pass, replayed to a step, with other values written there; this one stays as it is.

        Parameters
        ----------
        at : (layer name, t), optional
            Where; at the cursor where left out.
        **values : ndarray or callable
            By name, as of `Step.write`: dh_prev=lambda dh_prev: 0 * dh_prev, called once. What was written before, in
            this pass by `Step.write` or when it was forked, holds in the fork as well.
        """
        if at is not None and (not isinstance(at, (tuple, list)) or len(at) != 2):
            raise OptionError(f"Stepper.fork: at must be (layer, t), as ('l0', 41); got {at!r}")
        here = self._cursor if at is None else self._place("Stepper.fork", *at)
        if here < 0:
            raise OptionError("Stepper.fork: the pass has not begun; go to a step first, or say at=(layer, t)")
        twin = Stepper.__new__(Stepper)
        twin._start(self._begin, self._doutput, self._begin(), self._drecords, self._dfinals)
        twin._watched = list(self._watched)
        before = [one for one in self._written if one[0] <= here]
        for place, name, value in [*before, *((here, name, value) for name, value in values.items())]:
            twin._advance(place + 1 - len(twin._places))
            twin._at(place).write(name, value)
        twin._advance(here + 1 - len(twin._places))
        twin._cursor = here
        return twin

    # ------------------------------------------------------------------------------------------------ looking

    def watch(self, *texts: str) -> None:
        """Add expressions, of one number a step each, to `table`, each of them once; "t" is there without.

        A name that there is not is told here: of a pass that has not begun, its first step is run ahead.
        """
        known = {"t"} | {text.text for text in self._watched}
        found = {one.text: one for one in (parsed("Stepper.watch", text) for text in texts) if one.text not in known}
        if found and (self._places or self._advance(1)):
            rows = self._rows(self._places[:1])
            for text in found.values():
                _numbers("Stepper.watch", text, rows)
        self._watched += found.values()

    def table(self) -> dict[str, Array]:
        """Return what is watched, at every step from the first to the cursor: columns "layer", "t", and one each."""
        done = self._places[: self._cursor + 1]
        columns: dict[str, list[Any]] = {"layer": [name for name, _ in done], "t": []}
        columns.update({text.text: [] for text in self._watched})
        for name, group in itertools.groupby(done, key=lambda place: place[0]):
            stretch = list(group)
            rows = self._rows(stretch)
            columns["t"] += [index + self._layers[name].trace.first for _, index in stretch]
            for text in self._watched:
                columns[text.text] += list(_numbers("Stepper.table", text, rows))
        return {name: np.array(column) for name, column in columns.items()}

    def done(self) -> dict[str, Rows]:
        """Return, by layer and direction in the order of the pass, the rows of all steps that it has done."""
        groups = itertools.groupby(self._places, key=lambda place: place[0])
        return {name: self._rows(list(group)) for name, group in groups}

    @property
    def trace(self) -> Trace:
        """The trace that the pass runs over."""
        trace: Trace = self._steps.trace
        return trace

    def finish(self) -> Any:
        """Run the pass to its end; return its result."""
        self._advance(None)
        self._cursor = len(self._places) - 1
        return self.result

    @property
    def result(self) -> Any:
        """What `backward`, or `forward`, returns, once the pass is through."""
        return self._steps.result

    def __repr__(self) -> str:
        step = self.step
        if step is None:
            return "Stepper: before the first step"
        return f"Stepper: at {repr(step).partition(chr(10))[0]}, {len(self._places)} done"
