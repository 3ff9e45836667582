"""The driver of every recurrent layer: the only place that knows about time, layers, directions, lengths and dropout.

It knows no formula. A `Cell` brings these: functions on the arrays of one step, whose argument *names* say what the
driver is to hand them, step after step (`rnn_numpy.engine.cell` lists the names).

A sequence's forward pass through one direction is

    a = W_ih x + b_ih + b_hh      for many t at once: one matrix product
    the chain's forward           for t = 0 ... T-1 (reverse direction: T-1 ... 0); a generator, which yields each t

and its backward pass

    the chain's partials          for many t at once: the local derivatives, which need no gradient from the future
    the chain's backward          for t = T-1 ... 0 (reverse direction: 0 ... T-1); a generator, which yields each t
    dW_ih = da^T x,  dW_hh = da^T h_prev,  db = sum da        over all t and n: one matrix product each

so that only what the recurrence forces to be sequential runs inside the loops. A layer of one's own that does one of
these differently overrides `forward_loop`, `open_backward`, `backward_loop` or `close_backward`.

Layout. All arrays are time-major, (T, N, ·), one step a contiguous block, of rows or of columns as the cell's formulas
want it. With `lengths` the sequences are sorted by length, longest first; those alive at step t are then the first n_t,
and the steps get views of just these: padding costs no work. The reverse direction needs no reversed copy: its state
array is filled from the other end, sequence n entering at row length_n.
"""

from __future__ import annotations

import collections
import copy
import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.core import arguments, memory
from rnn_numpy.core.parameters import Gradients, Parameters
from rnn_numpy.engine import checkpointed
from rnn_numpy.engine.batch import SMALL, summed
from rnn_numpy.engine.binding import Binding, as_column, block_size, constants_of
from rnn_numpy.engine.cell import Chain
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.keeping import InMemory
from rnn_numpy.engine.options import Options
from rnn_numpy.engine.parts import NONE, Kind, Masks
from rnn_numpy.engine.prepared import Prepared, Shelf
from rnn_numpy.engine.stream import Stream
from rnn_numpy.engine.trace import NOTHING, CallRecord, GradientPass, LayerTrace, Step, Trace
from rnn_numpy.engine.walk import Direction, Down, Up
from rnn_numpy.errors import DTypeError, OptionError

Array = NDArray[Any]
KEPT_BYTES = 2**25  # of what a backward pass could make again, at most
Result = tuple[Any, Any, Any]


class BackwardResult(Gradients):
    """What a backward pass returns.

    Attributes
    ----------
    dx : ndarray
        Gradient of the input, in the input's shape.
    dh_0 : ndarray
        Gradient of the initial state (of a zero one where none was given), in its shape; for a cell with further states
        also `dc_0`, ...
    grads : Parameters
        Gradients of the parameters, the same object that was handed in, if one was.
    dgiven : dict of str to ndarray
        Gradients of the given arrays, in their shapes.
    given_ways : dict of str to dict of str to ndarray
        The terms of these, by the way that they came: of an attended memory "values" and "weights".
    loss : scalar
        The sum of what a function in place of doutput has returned as losses.
    """

    dh_0: Array
    dc_0: Array
    loss: Any

    def __init__(self, dx: Array, states: Mapping[str, Array], grads: Parameters) -> None:
        super().__init__(dx, states, grads)
        self.dgiven: dict[str, Array] = {}
        self.given_ways: dict[str, dict[str, Array]] = {}

    def named(self) -> dict[str, Any]:
        """Return all gradients but those of the parameters, by name."""
        found = super().named()
        return found | {f"dgiven[{name!r}]": array for name, array in found.pop("dgiven").items()}


@dataclass
class Run:
    """One direction of one layer in one pass: what it records, or has recorded, the arrays of its formulas, what a
    backward pass computes. `sums` are gradients of its parameters by their names without suffix, `ways` those of given
    arrays, (N, ·), by the ways that they came, `bias` is what biases add to a in a forward pass, (slabs * H,). Of a run
    that is not `watched` the driver's own loops yield nothing.
    """

    direction: Direction
    trace: LayerTrace
    binding: Binding
    gradients: GradientPass = field(default_factory=GradientPass)
    sums: dict[str, Array] = field(default_factory=dict)
    ways: dict[str, dict[str, Array]] = field(default_factory=dict)
    prepared: Prepared | None = None
    watched: bool = True
    bias: Array = field(init=False)


@dataclass
class Pass:
    """A whole pass through a layer: what it was asked for, the directions that its loop has come to, the present one
    last, and in the end its result. (It does not hold the loop, which holds it: a pass left halfway is freed at once.)
    It is `watched` where somebody looks at its steps.
    """

    trace: Any
    doutput: Array | None = None
    loss: Callable[..., Any] | None = None  # what returns doutput of a block of steps, in place of it
    dfinals: Sequence[Array | None] = ()
    drecords: Mapping[str, Array] = field(default_factory=dict)
    grads: Parameters | None = None
    at: list[Run] = field(default_factory=list)
    watched: bool = True
    step: Step | None = None  # the latest that was handed out
    results: list[Any] = field(default_factory=list)


class _Steps(Iterator[Step]):
    """A pass, one step at each `next`."""

    def __init__(self, run: Pass, loop: Iterator[int]) -> None:
        self._pass, self._loop, self.trace = run, _steps_of(run, loop), run.trace

    def __iter__(self) -> Iterator[Step]:
        return self._loop  # of which `next` here takes the next step as well

    def __next__(self) -> Step:
        return next(self._loop)

    def __repr__(self) -> str:
        if self._pass.results:
            return f"{type(self).__name__}: done"
        latest = self._pass.step
        step = "before the first step" if latest is None else f"after {latest!r}".partition("\n")[0]
        return f"{type(self).__name__}: {step}"


def _steps_of(run: Pass, loop: Iterator[int]) -> Iterator[Step]:
    """Yield the step that each turn of a pass's loop has made; a generator of its own, since a method takes as long
    again.
    """
    latest = None
    for t in loop:
        if run.at[-1] is not latest:
            latest = run.at[-1]
            recorded, gradients = latest.trace, latest.gradients if latest.gradients.arrays else None
        run.step = step = Step(recorded, t, gradients)
        yield step


class ForwardSteps(_Steps):
    """The forward pass, one step at each `next`: what `forward_steps` returns.

    Attributes
    ----------
    trace : Trace
        What has been recorded so far.
    result : tuple (output, h_n, trace), or None
        What `forward` returns, once the steps have run out.
    """

    @property
    def result(self) -> Result | None:
        """The result of the whole pass, once the steps have run out."""
        return self._pass.results[0] if self._pass.results else None


class BackwardSteps(_Steps):
    """The backward pass, one step at each `next`: what `backward_steps` returns.

    Attributes
    ----------
    trace : Trace
        What it runs through.
    result : BackwardResult or None
        None until the last step is done. Only then are gradients added to `grads`; stopping early leaves them
        untouched.
    """

    @property
    def result(self) -> BackwardResult | None:
        """The result of the whole pass, once the steps have run out."""
        return self._pass.results[0] if self._pass.results else None


class Recurrent(Options):
    """Base of the recurrent layers: parameters and the passes through layers, directions and time.

    A subclass sets `cell` and, in its constructor, the options that are its own. See `rnn_numpy.RNN` for the meaning of
    all options.
    """

    def __call__(
        self,
        x: ArrayLike,
        h_0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        given: Mapping[str, ArrayLike] | None = None,
    ) -> tuple[Array, Any]:
        """Run the layer for its outputs alone: no trace is kept, no dropout is applied.

        Arguments, shapes and errors are those of `forward`.

        Returns
        -------
        output, h_n
            As `forward` returns them, bit for bit (without dropout), but writable.
        """
        run, loop = self._start_forward(x, h_0, lengths, training=False, given=given, record=False)
        run.watched = False
        collections.deque(loop, maxlen=0)
        output, h_n, _ = run.results[0]
        return output, h_n

    def forward(
        self,
        x: ArrayLike,
        h_0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        training: bool = True,
        dropout_masks: Sequence[ArrayLike] | None = None,
        recurrent_masks: Mapping[str, ArrayLike] | None = None,
        zoneout_masks: Mapping[str, Sequence[ArrayLike]] | None = None,
        given: Mapping[str, ArrayLike] | None = None,
        check_finite: bool = False,
        checkpoint: int | None = None,
        outputs: bool = True,
        folder: str | os.PathLike[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Run the layer and record what its backward pass needs.

        Parameters
        ----------
        x : ndarray, (T, N, D), or (N, T, D) where batch_first, or (T, D) for one sequence
            Inputs, D = input_size, dtype that of the layer. Copied into the trace: later changes of `x` do no harm.
            Also a PackedSequence, in place of `x` and `lengths`; the output is then packed, too, and so are doutput and
            dx of the backward pass.
        h_0 : ndarray, (num_layers * num_directions, N, H), or (num_layers * num_directions, H) for one sequence,
        optional
            Initial states, row layer * num_directions + direction; zeros where left out. Of a layer with several
            states, an LSTM's h and c, a tuple of such arrays, here and wherever a state or its gradient stands.
        lengths : int array_like, (N,), optional
            Steps of each sequence, 1 <= lengths <= T, in any order. Past its length a sequence has output 0, and its
            state stays that of its last step; the reverse direction starts there. What `x` holds there is not read.
        training : bool
            Whether there are masks: dropout, recurrent dropout, zoneout. Without, zoneout takes the mean of old and new
            state, and the others nothing.
        dropout_masks : list of num_layers - 1 ndarrays, (T, N, num_directions * H), optional
            Factors for the outputs of all layers but the last, in place of random ones: `trace.masks` of an earlier
            pass repeats it.
        recurrent_masks : mapping of str to ndarray, (N, H), optional
            For each layer and direction ("l0", "l0_reverse", ...) the factors of the state that the recurrent weights
            act on, the same at all steps, in place of random ones: `trace.recurrent_masks`.
        zoneout_masks : mapping of str to sequence of ndarray, (T, N, H), optional
            For each layer and direction, and each state, the share of the old state that is kept, in place of random
            ones: `trace.zoneout_masks`.
        given : mapping of str to ndarray, optional
            What the cell reads at every step, under the names of its `given`: a memory to attend to. As (S, N, M), or
            (N, S, M) where batch_first, or (S, M) for one sequence; a mask is (N, S).
        check_finite : bool
            Look for NaN and infinity in inputs, states, given arrays and outputs.
        checkpoint : int, optional
            K: keep the states at every K-th step alone, and let backward make the rest again, block by block, for
            sequences whose record memory has no room for. K is rounded up to a multiple of the driver's own blocks of
            steps, which take half a MiB each; what a run needs is about 10 (T / K) N S + 30 K N G H numbers, beside x,
            which is not copied (it may be a `numpy.memmap`), and the outputs of all layers but the last. Everything is
            what it is without, bit for bit, but sums over t, which are equal to rounding.
        outputs : bool
            With `checkpoint`: whether to keep the outputs. Without, `output` is None; `backward` hands them out, block
            by block.
        folder : str or path, optional
            With `checkpoint`: where the pass, and the backward pass after it, write what they have done, at most every
            second. The same call in a new process goes on from there, and so does its `backward`; `trace.keeper.words`
            says where that was. What is kept is then in files, not in memory. Other processes are refused as long as
            this one has the trace.

        Returns
        -------
        output : ndarray, (T, N, num_directions * H), axes as those of `x`
            The last layer's states after each step, forward then reverse direction. Read-only, since backward reads it
            too.
        h_n : ndarray, like h_0
            Each direction's state after its last step.
        trace : Trace
            For `backward`, `backward_steps`, and for reading. With `checkpoint` a `CheckpointedTrace`.

        Raises
        ------
        ShapeError, DTypeError, OptionError
            An argument does not fit; the message has the symbolic and the actual shape.
        NonFiniteError
            Where `check_finite`: names the first layer, t and n that are not finite.

        Notes
        -----
        Cost: 2 T N G H (D + H) multiplications and additions per direction of the first layer. The trace keeps
        T N (D + K H) numbers for it, and copies of its weights. RNN has G = 1, K = 2; LSTM G = 4, K = 7; GRU G = 3,
        K = 5.
        """
        masks = dropout_masks, recurrent_masks, zoneout_masks
        run, loop = self._start_forward(
            x, h_0, lengths, training=training, masks=masks, given=given, check_finite=check_finite,
            checkpoint=checkpoint, outputs=outputs, folder=folder,
        )  # fmt: skip
        run.watched = False
        collections.deque(loop, maxlen=0)
        result: Result = run.results[0]
        return result

    def forward_steps(
        self,
        x: ArrayLike,
        h_0: ArrayLike | None = None,
        lengths: ArrayLike | None = None,
        *,
        training: bool = True,
        dropout_masks: Sequence[ArrayLike] | None = None,
        recurrent_masks: Mapping[str, ArrayLike] | None = None,
        zoneout_masks: Mapping[str, Sequence[ArrayLike]] | None = None,
        given: Mapping[str, ArrayLike] | None = None,
        check_finite: bool = False,
    ) -> ForwardSteps:
        """Run the layer one step at a time, oldest step first.

        Arguments and errors are those of `forward`, which runs this very loop. All arguments, and the parameters, are
        copied at once.

        Returns
        -------
        ForwardSteps
            An iterator of `Step`; it visits the lowest layer first and, within a layer, the forward direction first.
            After the last step `.result` is what `forward` returns.

        Examples
        --------
        >>> import numpy as np
        >>> from rnn_numpy import RNN
        >>> rnn = RNN(2, 3, rng=0)
        >>> steps = rnn.forward_steps(np.ones((4, 1, 2)))
        >>> [step.t for step in steps]
        [0, 1, 2, 3]
        >>> output, h_n, trace = steps.result
        """
        masks = dropout_masks, recurrent_masks, zoneout_masks
        started = self._start_forward(
            x, h_0, lengths, training=training, masks=masks, given=given, check_finite=check_finite, copied=True
        )
        return ForwardSteps(*started)

    def backward(
        self,
        trace: CallRecord,
        doutput: ArrayLike | Callable[[range, Array], Any] | None,
        dh_n: ArrayLike | None = None,
        grads: Parameters | None = None,
        *,
        drecords: Mapping[str, ArrayLike] | None = None,
    ) -> BackwardResult:
        """Back-propagate through time: the steps of `backward_steps`, run to the end.

        Parameters
        ----------
        trace : Trace
            From `forward` of this layer. It may be used several times, also after the parameters have changed: it holds
            those of the forward pass. It keeps the gradients of the latest backward pass.
        doutput : ndarray, like output, or None
            dL/doutput; what it holds past the end of a sequence is ignored. None stands for zeros. After a forward pass
            with `checkpoint`, of one direction, also a function: it is called with the steps of a block, a range, and
            the block's outputs, newest block first, and returns dL/doutput of these, or a pair of the block's loss and
            that; the sum of the losses is the result's `loss`.
        dh_n : ndarray, like h_n, optional
            dL/dh_n; zeros where left out.
        grads : Parameters, optional
            Gradients are added to these (`layer.params.zeros_like()` makes them). New ones are made where left out.
        drecords : mapping of str to ndarray, (T, N, ·), optional
            What the loss says directly of what steps record, of attention weights say: {"alpha": dL/dalpha}. Of the
            names that the cell lists as `from_loss`.

        Returns
        -------
        BackwardResult
            dx, dh_0 and grads: sums over time and batch of L's derivatives, divided by nothing.

        Raises
        ------
        ShapeError, DTypeError
            A gradient does not have the shape or dtype of what it is the gradient of; the trace is another layer's.

        Notes
        -----
        Cost: twice the products of the forward pass.
        """
        run, loop = self._start_backward(trace, doutput, dh_n, grads, drecords, copied=False)
        run.watched = False
        collections.deque(loop, maxlen=0)
        result: BackwardResult = run.results[0]
        return result

    def backward_steps(
        self,
        trace: CallRecord,
        doutput: ArrayLike | Callable[[range, Array], Any] | None,
        dh_n: ArrayLike | None = None,
        grads: Parameters | None = None,
        *,
        drecords: Mapping[str, ArrayLike] | None = None,
    ) -> BackwardSteps:
        """Back-propagate through time one step at a time, newest step first.

        Arguments and errors are those of `backward`, which runs this very loop. `doutput` and `dh_n` are copied at
        once.

        Returns
        -------
        BackwardSteps
            An iterator of `Step`; it visits the last layer first and, within a layer, the forward direction first.
            After the last step `grads` are complete and `.result` is the BackwardResult. Breaking out early leaves
            `grads` untouched.

        Examples
        --------
        >>> import numpy as np
        >>> from rnn_numpy import RNN
        >>> rnn = RNN(2, 3, rng=0)
        >>> output, h_n, trace = rnn.forward(np.ones((4, 1, 2)))
        >>> steps = rnn.backward_steps(trace, np.ones((4, 1, 3)))
        >>> [step.t for step in steps]
        [3, 2, 1, 0]
        >>> steps.result.dx.shape
        (4, 1, 2)
        """
        return BackwardSteps(*self._start_backward(trace, doutput, dh_n, grads, drecords, copied=True))

    def stream(self, batch: int | None = 1, h_0: Any = None, *, given: Mapping[str, ArrayLike] | None = None) -> Stream:
        """Return what runs the layer one step at a time, and keeps its state: `y = stream.step(x_t)`.

        Parameters
        ----------
        batch : int or None
            N, the sequences that step together; None for one sequence without an axis of its own, x_t (D,).
        h_0, given
            As of `forward`; zeros, and nothing, where left out.

        Returns
        -------
        Stream
            With the weights of this moment.

        Raises
        ------
        OptionError
            The layer is bidirectional, or has a loop of its own; what the cell is to be given is missing.
        ShapeError, DTypeError
            An argument does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from rnn_numpy import GRU
        >>> gru, x = GRU(2, 3, rng=0), np.ones((4, 5, 2))
        >>> stream = gru.stream(batch=5)
        >>> for x_t in x:
        ...     y = stream.step(x_t)
        >>> bool(np.allclose(y, gru(x)[0][-1], rtol=1e-14, atol=0))
        True
        """
        name = self.own_way()
        if name:
            kind = type(self).__name__
            raise OptionError(
                f"{kind}.stream: {kind} has a {name} of its own, which a stream would not run; call the layer step by "
                "step"
            )
        return Stream(self, batch, h_0, given)

    def own_way(self) -> str:
        """Return the name of what a layer of one's own does in its own way when it is called; "" if nothing."""
        names = ("__call__", "forward", "_start_forward", "_climb", "open_forward", "forward_loop", "filling")
        return next((name for name in names if getattr(type(self), name) is not getattr(Recurrent, name)), "")

    def trial(self, kind: Kind) -> None:
        """Try the formulas of a cell of one's own, before they run for the first time."""
        from rnn_numpy.engine.trial import try_formulas  # for cells of one's own alone: loaded when one is there

        try_formulas(self, kind, Run)

    def edge_of(self, where: str, trace: CallRecord) -> Edge:
        """Return the edge of the call that made a trace, which must be this layer's; errors name `where`."""
        if not isinstance(trace, CallRecord):
            raise DTypeError(f"{where}: trace must be the third result of forward; got {type(trace).__name__}")
        edge = trace.edge.checked(where, self)
        if not isinstance(trace, Trace):
            return edge
        is_whole = len(trace.layers) == edge.rows
        for recorded in trace.layers.values():
            is_whole = is_whole and recorded.reached is None
            if recorded.chain.cell is not self.cell:  # the layer has other backward formulas than when it ran
                recorded.chain = self.cell.chain(self.hidden_size, recorded.chain.recurrent, recorded.chain.zoneout)
        if not is_whole:
            raise OptionError(f"{where}: trace must be of a whole forward pass; run the steps of this one to the end")
        return edge

    # ------------------------------------------------------------------------------------------------ forward

    def _start_forward(
        self,
        x: Any,
        h_0: Any,
        lengths: ArrayLike | None,
        *,
        training: bool,
        masks: tuple[Any, Any, Any] = (None, None, None),
        given: Mapping[str, Any] | None = None,
        record: bool = True,
        check_finite: bool = False,
        copied: bool = False,
        checkpoint: int | None = None,
        outputs: bool = True,
        folder: Any = None,
    ) -> tuple[Pass, Iterator[int]]:
        """Check the arguments; return the pass and its loop, not yet begun."""
        where = f"{type(self).__name__}.forward"
        if "forward" not in self.cell.tried:
            self.trial("forward")
        flags: dict[str, Any] = {"training": training, "check_finite": check_finite, "outputs": outputs}
        for name, value in flags.items():
            if type(value) is not bool:
                arguments.flag(where, name, value)
        if checkpoint is not None:
            checkpoint = arguments.positive_int(where, "checkpoint", checkpoint)
        elif not outputs or folder is not None:
            option = "folder" if outputs else "outputs=False"
            raise OptionError(f"{where}: {option} needs checkpoint=K; without, all is recorded in memory anyhow")
        edge, signal = Edge.opened(self, where, x, lengths, copied=record if checkpoint is None else None)
        batch = edge.batch
        if given is not None or self.cell.given:
            edge.give(self, self.given_arrays(where, edge, given))
        initial = edge.states_in(where, "h_0", h_0)
        dropout_masks, recurrent_masks, zoneout_masks = masks
        if self.dropout or dropout_masks is not None:
            edge.factors = self.dropout_factors(where, dropout_masks, training, batch)
        state_masks = self.state_masks(where, recurrent_masks, zoneout_masks, training, batch)
        if check_finite:
            for state, array in zip(self.cell.states, initial, strict=True):
                if array is not None:
                    arguments.finite(where, f"{state}_0", batch.unsorted(array, 1), "layer * directions, n, unit")
            arguments.finite(where, "x", batch.unsorted(np.where(batch.exists(), signal, 0), 1), "t, n, d")
            for name, array in edge.given.items():
                axes = ", ".join(("n", *self.cell.given[name].shape)).lower()
                arguments.finite(where, f"given[{name!r}]", batch.unsorted(array, 0), axes)
        params = self.params
        if record:  # the gradient is that of what was computed, whatever happens to the parameters
            flat = params.flat
            own = memory.empty(flat.shape, flat.dtype)
            own[...] = flat
            params = params.twin(own)
        kept = None if edge.factors is None else [locked(batch.unsorted(factor, 1)) for factor in edge.factors]
        trace: Any = Trace({}, kept, edge)
        if checkpoint is not None:
            keeper = InMemory()
            if folder is not None:
                from rnn_numpy.engine.in_folder import InFolder, digest  # files, which few programs need

                call: list[Any] = [
                    self.config(),
                    checkpoint,
                    outputs,
                    batch.lengths,
                    params.flat,
                    signal,
                    *initial,
                    *edge.given.values(),
                ]
                call += edge.factors or ()
                for chosen in state_masks.values():
                    call += [chosen.recurrent, *chosen.zoneout.values()]
                keeper = InFolder(where, folder, digest(call))
            trace = checkpointed.CheckpointedTrace(
                self, edge, kept, signal, params, state_masks, checkpoint, keeper
            )  # fmt: skip
        for name, chosen in state_masks.items():
            if chosen.recurrent is not None:
                trace.recurrent_masks[name] = locked(batch.unsorted(chosen.recurrent, 0))
            if chosen.zoneout and (training or zoneout_masks):
                trace.zoneout_masks[name] = tuple(locked(batch.unsorted(k, 1)) for k in chosen.zoneout.values())
        if copied:
            initial = copy.deepcopy(initial)
        run, finite = Pass(trace), where if check_finite else None
        if checkpoint is not None:
            return run, checkpointed.climb(self, run, signal, initial, outputs, finite)
        return run, self._climb(signal, initial, state_masks, run, params, record, finite)

    def given_arrays(self, where: str, edge: Edge, given: Mapping[str, Any] | None) -> dict[str, Array]:
        """Check the call's given arrays; all must be there, in a layer that does not say otherwise."""
        found = edge.given_in(where, self, given)
        missing = [name for name in self.cell.given if name not in found]
        if missing:
            raise OptionError(f"{where}: given must have {', '.join(self.cell.given)}; {', '.join(missing)} is missing")
        return found

    def read_of_given(self, arrays: dict[str, Array], given: Mapping[str, Array]) -> dict[str, Array]:
        """Return given arrays, or changes of them, (N, ·), with zeros where the call's `given` say that nothing is
        read: here everything is.
        """
        return arrays

    def _climb(
        self,
        x: Array,
        initial: Sequence[Array | None],
        state_masks: Mapping[str, Masks],
        run: Pass,
        params: Parameters,
        record: bool,
        finite: str | None,
    ) -> Iterator[int]:
        """The whole forward pass; yields t after each step of each layer and direction, and hands in its result at the
        end. `finite` is the function to name where an output is not finite, None not to look.
        """
        trace, edge, states = run.trace, run.trace.edge, self.cell.states
        batch = edge.batch
        finals: list[Array] = []
        walk, watched = Up(self.stack, edge.factors, x), run.watched or not self._is_driven_as_always()
        for direction in walk:
            masks = state_masks.get(direction.name, NONE)
            at = self.prepared(direction, edge, masks, params, walk.signal, initial) if record else None
            if at is None:
                at = self.open_forward(direction, edge, walk.signal, initial, masks, params, record)
            trace.layers[direction.name] = at.trace
            run.at, at.watched = [at], watched
            yield from self.forward_loop(at)
            binding = at.binding
            binding.constants = {}  # copies of weights, which the next direction's take the place of
            if not finals:
                finals = [np.empty((edge.rows, batch.N, width), params.dtype) for width in edge.widths.values()]
            output = binding.output(binding.arrays[states[0]])
            if at.prepared is not None:  # who keeps the output does not keep its memory
                output = output.copy(order="K")
            walk.give(output)
            for final, state in zip(finals, states, strict=True):
                final[direction.row] = binding.arrays[state][binding.exit]
            if finite is not None:
                arguments.finite(finite, f"output of {direction.name}", batch.unsorted(output, 1), "t, n, unit")
        output = edge.signal_out(walk.signal)
        if record and edge.packed is None:
            output = locked(output)
        h_n = edge.states_out(finals)
        trace.h_n = h_n[0] if len(h_n) == 1 else h_n
        run.results.append((output, trace.h_n, trace))

    def _is_driven_as_always(self) -> bool:
        """Whether all that a pass does is done by this class, and by nothing in its place."""
        return hooks_of(type(self)) == HOOKS and NAMES_OF_HOOKS.isdisjoint(self.__dict__)

    def prepared(
        self,
        direction: Direction,
        edge: Edge,
        masks: Masks,
        params: Parameters,
        x: Array,
        initial: Sequence[Array | None],
    ) -> Run | None:
        """Return what `open_forward` does, in memory of an earlier pass, where this is a pass that can be prepared and
        there is memory free.
        """
        if masks is not NONE or edge.batch.lengths is not None or not self.cell.can_be_prepared:
            return None
        if not self._is_driven_as_always():
            return None
        shelf: Shelf | None = self.__dict__.get("shelf")
        return None if shelf is None else shelf.begin(self, direction, edge, params, x, initial, Run)

    def open_forward(
        self,
        direction: Direction,
        edge: Edge,
        x: Array,
        initial: Sequence[Array | None],
        masks: Masks = NONE,
        params: Parameters | None = None,
        record: bool = True,
    ) -> Run:
        """Return one direction of one layer with arrays for all that its steps write; the states hold the initial ones,
        row `direction.row` of `initial`.

        Without a record, what the next step overwrites has memory for one step or one block of steps alone. A record
        keeps `params`, which must not change any more.
        """
        cell, H, batch, dtype = self.cell, self.hidden_size, edge.batch, self.params.dtype
        T, columns, widths, width = batch.T, cell.columns, edge.widths, len(cell.slabs) * H
        chain = cell.chain(H, masks.recurrent is not None, tuple(masks.zoneout))
        trace = LayerTrace(direction, chain, batch, masks)
        trace.weights = weights = self.by_symbol(self.params if params is None else params, direction)
        run = Run(direction, trace, Binding(chain, batch, direction.reverse, {"x": x}, {}, edge.given), NOTHING)
        run.bias = cell.bias(weights["b_ih"], weights["b_hh"]) if self.bias else np.zeros(width, dtype)
        run.binding.constants = constants_of(chain, weights, batch.N, bias=run.bias, halved=True)
        arrays = run.binding.arrays
        new, alone = batch.new if record else batch.reused, not record and masks is NONE
        for state, state_0 in zip(cell.states, initial, strict=True):
            make = batch.reused if alone and state in cell.overwritten else batch.new
            arrays[state] = make(T + 1, widths[state], dtype, columns and state not in cell.rows)
            arrays[state][run.binding.entry] = 0 if state_0 is None else state_0[direction.row]
        for name, units in cell.records.items():
            arrays[name] = new(T, self.width_of(units, edge.given), dtype, columns and name not in cell.rows)
        if masks is not NONE:
            _lay_masks(run.binding, masks, widths, new)
        if cell.in_place and alone:
            arrays["a"] = arrays[cell.states[0]][run.binding.after : run.binding.after + T]
        else:
            size = T if record or batch.counts is not None else min(T, block_size(batch.N * width * dtype.itemsize))
            arrays["a"] = batch.new(size, width, dtype, columns)
        if record:
            trace.arrays, trace.given = arrays, edge.given
            if cell.kept:
                shapes = {name: (T, batch.N, *cell.work[name](edge.given)) for name in cell.kept}
                if sum(map(math.prod, shapes.values())) * dtype.itemsize <= KEPT_BYTES:
                    trace.kept = {name: memory.empty(shape, dtype) for name, shape in shapes.items()}
                    run.binding.kept = trace.kept
            trace.reached = run.binding.span if direction.reverse else -1
        return run

    def forward_loop(self, run: Run, nudge: Array | None = None) -> Iterator[int]:
        """Run the steps of one direction of one layer; yields t after each, if somebody looks.

        `nudge`, (T, N, slabs * H), is added to a before the steps: how one differentiates by a (see
        `rnn_numpy.engine.recorded`).
        """
        binding, trace, batch, watched = run.binding, run.trace, run.binding.batch, run.watched
        width, fill = len(self.cell.slabs) * self.hidden_size, self.filling(run)
        (formula, rows), *others = binding.calls("forward")
        for block in binding.blocks(batch.N * width * self.params.dtype.itemsize, False):
            a = fill(block)
            if nudge is not None:
                a += binding.block_of(nudge, block)
            for t, row in zip(block, rows, strict=False):
                formula(*row)
                for other, rows_of_other in others:
                    other(*next(rows_of_other))
                trace.reached = t
                if watched:
                    yield t
        trace.reached = None

    def filling(self, run: Run, weight_ih: Array | None = None, added: Array | None = None) -> Callable[[range], Array]:
        """Return what writes the input's products and the biases into a, for a block of steps; it returns a's rows.

        `weight_ih` and `added` are W_ih and the biases as they are wanted, if they are there already.
        """
        if run.prepared is not None:
            return run.prepared.fill
        binding, cell = run.binding, self.cell
        batch, chain, x = binding.batch, binding.chain, binding.arrays["x"]
        filled = chain.span
        if weight_ih is None:
            weight_ih = cell.arranged("input", run.trace.weights["W_ih"], halved=True)
        if cell.columns and batch.N > 1 and batch.counts is None and weight_ih.size < SMALL:
            weight_ih = np.asfortranarray(weight_ih)  # as the product wants it, once
        width = len(cell.slabs) * self.hidden_size
        if added is None:
            added = batch.repeated(run.bias, cell.columns)
        to_input = added[:, filled] if self.bias and cell.biased else None
        rest = [slice(None, filled.start), slice(filled.stop, None)] if filled.stop - filled.start < width else []

        def fill(block: range) -> Array:
            low = min(block[0], block[-1])
            a = binding.arrays["a"]
            if len(block) < batch.T:
                a = binding.block_of(a, block)
            batch.product(x[low : low + len(block)], weight_ih, a[..., filled], to_input, low)  # F1, the input's part
            for columns in rest:
                exists = True if batch.alive is None else batch.alive[low : low + len(block), :, None]
                np.copyto(a[..., columns], added[:, columns] if cell.biased else 0, where=exists)
            return a

        return fill

    # ------------------------------------------------------------------------------------------------ backward

    def _start_backward(
        self,
        trace: CallRecord,
        doutput: ArrayLike | Callable[[range, Array], Any] | None,
        dh_n: Any,
        grads: Parameters | None,
        drecords: Mapping[str, Any] | None,
        copied: bool,
    ) -> tuple[Pass, Iterator[int]]:
        """Check the arguments; return the pass and its loop, not yet begun."""
        where = f"{type(self).__name__}.backward"
        if "backward" not in self.cell.tried:
            self.trial("backward")
        edge = self.edge_of(where, trace)
        if grads is not None:
            grads = arguments.gradients(where, grads, self.params)
        loss = doutput if callable(doutput) else None
        if loss is not None and (not isinstance(trace, checkpointed.CheckpointedTrace) or self.num_directions > 1):
            rule = "a forward pass with checkpoint=K, of a layer with one direction"
            raise OptionError(f"{where}: doutput may be a function of a block's outputs after {rule}; hand in an array")
        top = None if loss is not None else edge.like_output(where, "doutput", doutput)
        dfinals = edge.states_in(where, "dh_n", dh_n)
        found = edge.like_records(where, self, drecords) if drecords is not None else {}
        if copied:
            top, dfinals, found = copy.deepcopy((top, dfinals, found))
        run = Pass(trace, top, loss, dfinals, found, grads)
        if isinstance(trace, checkpointed.CheckpointedTrace):
            return run, checkpointed.bptt(self, run, BackwardResult)
        return run, self.bptt(run)

    def bptt(self, run: Pass) -> Iterator[int]:
        """The whole backward pass; yields t after each step of each layer and direction, and hands in its result at the
        end.
        """
        trace, edge, states = run.trace, run.trace.edge, self.cell.states
        N, dtype = edge.batch.N, self.params.dtype
        own = self.params.twin(memory.empty(self.params.flat.shape, dtype))
        initial: list[Array] = []
        for width in edge.widths.values():
            initial.append(np.empty((len(trace.layers), N, width), dtype))
        passes: dict[str, GradientPass] = {}
        # All at once: with two passes side by side, a trace shows the arrays of the one that began last.
        for name, layer in trace.layers.items():
            passes[name] = layer.latest = GradientPass()
        walk, watched = Down(self.stack, edge.factors, run.doutput), run.watched or not self._is_driven_as_always()
        for direction in walk:
            from_loss = None if walk.signal is None else walk.signal[:, :, direction.columns]
            recorded, finals = (
                trace.layers[direction.name],
                [checkpointed.of_row(final, direction) for final in run.dfinals],
            )
            sums, gradients, prepared = self.own(own, direction), passes[direction.name], recorded.prepared
            at = None
            if prepared is not None:
                at = prepared.backward(recorded, gradients, sums, from_loss, finals, Run)
            if at is None:
                at = self.bound(recorded, direction, edge, gradients, sums)
                self.open_backward(at, from_loss, finals)
            for name, drecord in run.drecords.items():
                at.gradients.arrays["d" + name][...] = drecord
            run.at.append(at)
            at.watched = watched
            yield from self.backward_loop(at)
            at.gradients.reached, at.binding.constants = None, {}
            for dstate_0, state in zip(initial, states, strict=True):
                dstate_0[direction.row] = at.binding.arrays["d" + state][at.binding.entry]
            walk.give(self.close_backward(at))
        grads = own if run.grads is None else run.grads
        if grads is not own:
            grads.flat += own.flat
        dinitial = dict(zip([f"d{state}_0" for state in states], edge.states_out(initial), strict=True))
        result = BackwardResult(edge.signal_out(walk.signal), dinitial, grads)
        if edge.given:
            self.give_back(edge, [at.ways for at in run.at], result)
        run.results.append(result)

    def bound(
        self, recorded: LayerTrace, direction: Direction, edge: Edge, gradients: GradientPass, sums: dict[str, Array]
    ) -> Run:
        """Return what one direction has recorded, bound to go back through."""
        chain = recorded.chain
        constants = constants_of(chain, recorded.weights, edge.batch.N)
        binding = Binding(chain, edge.batch, direction.reverse, dict(recorded.arrays), constants, edge.given)
        binding.kept = recorded.kept
        return Run(direction, recorded, binding, gradients, sums)

    def open_backward(self, run: Run, doutput: Array | None, dfinals: Sequence[Array | None]) -> None:
        """Make the arrays of one direction's gradients; those of the states hold what the loss adds directly.

        Parameters
        ----------
        doutput : ndarray, (T, N, H), or None
        dfinals : sequence of ndarray, (N, H), or None
            One for each state.
        """
        binding, cell, H = run.binding, self.cell, self.hidden_size
        batch, dtype, columns = binding.batch, self.params.dtype, cell.columns
        gradients = run.gradients.arrays
        for index, (state, dfinal) in enumerate(zip(cell.states, dfinals, strict=True)):
            size, layout = binding.arrays[state].shape[2], columns and state not in cell.rows
            dstate = gradients["d" + state] = batch.new(batch.T + 1, size, dtype, layout)
            if index > 0 or doutput is None:
                dstate[...] = 0
            else:
                from_loss = dstate[binding.after : binding.after + batch.T]
                if batch.alive is None:
                    from_loss[...] = doutput
                    dstate[binding.entry] = 0
                else:
                    from_loss[batch.alive] = doutput[batch.alive]
            if dfinal is not None:
                dstate[binding.exit] += dfinal
        gradients["da"] = batch.new(batch.T, len(cell.slabs) * H, dtype, columns)
        for name, width in cell.gradient_records.items():
            size = self.width_of(width, run.trace.given)
            gradients[name] = batch.new(batch.T, size, dtype, columns and name not in cell.rows)
            if name[1:] in cell.from_loss:
                gradients[name][...] = 0
        for state in binding.chain.zoneout:
            gradients[f"d{state}_new"] = batch.new(batch.T, binding.arrays[state].shape[2], dtype, columns)
        if binding.chain.recurrent:
            output = cell.recurrent_state
            dstate_in = batch.new(batch.T, binding.arrays[output].shape[2], dtype, columns)
            dstate_in[...] = 0
            gradients[f"d{output}_in"] = dstate_in
        binding.arrays.update(gradients)
        for name, array in run.trace.given.items():
            if cell.given[name].differentiable:
                binding.given["d" + name] = np.zeros_like(array)
                run.ways[name] = {"": binding.given["d" + name]}
        run.gradients.reached = -1 if binding.reverse else binding.span

    def backward_loop(self, run: Run) -> Iterator[int]:
        """BPTT through one direction of one layer; yields t after each step, if somebody looks."""
        binding, cell, gradients, watched = run.binding, self.cell, run.gradients, run.watched
        for symbol, name in cell.own_symbols.items():
            run.sums[name][...] = 0
            binding.constants["d" + symbol] = as_column(run.sums[name], cell)
        (formula, rows), *others = binding.calls("backward")
        for block in binding.blocks(binding.arrays["da"][0].nbytes, True):
            if cell.has_partials:
                binding.run_partials(block)
            for t, row in zip(block, rows, strict=False):
                formula(*row)
                for other, rows_of_other in others:
                    other(*next(rows_of_other))
                gradients.reached = t
                if watched:
                    yield t

    def close_backward(self, run: Run) -> Array:
        """Write one direction's parameter gradients, sums over t and n, as products; return the gradient of its input.

        The weights' rows may lie in memory in another order than in the parameters; each block of rows has a product.
        """
        binding, cell, sums = run.binding, self.cell, run.sums
        if run.prepared is not None:
            return run.prepared.sums.write(sums)
        batch, blocks, dtype = binding.batch, binding.chain.blocks, self.params.dtype
        flattened: dict[str, Array] = {}

        def flat(name: str) -> Array:
            if name not in flattened:
                flattened[name] = batch.flat(binding.aligned(name))
            return flattened[name]

        for gradient, columns, source, name, rows in self.products(binding.chain):
            summed(flat(gradient)[:, columns].T, flat(source), sums[name][rows])
        if self.bias:
            da = flat("da_t")
            db = da.T.dot(np.ones(len(da), dtype))  # several times as fast as da.sum(axis=0)
            for rows, columns, _ in blocks["input"]:
                sums["bias_ih"][rows] = db[columns]
            for rows, columns, _ in blocks["hidden"]:
                sums["bias_hh"][rows] = db[columns]
        for name, ways in run.ways.items():
            for way, (left, right) in cell.given[name].products.items():
                # The outer products, summed over t, sequence by sequence.
                ways[way] = binding.aligned(left).transpose(1, 2, 0) @ binding.aligned(right).swapaxes(0, 1)
        dx: Array = batch.new(batch.T, run.trace.arrays["x"].shape[2], dtype, False)
        weight_ih = cell.arranged("input", run.trace.weights["W_ih"], halved=False)
        da_in = flat(cell.input_gradient + "_t")[:, binding.chain.span]
        # Block by block, as forward: a long sequence then has the same bits as its pieces. (`dot` would copy them.)
        blocks_of_steps = binding.blocks(batch.N * len(cell.slabs) * self.hidden_size * dtype.itemsize, False)
        first = 0
        for block in blocks_of_steps if not binding.reverse else blocks_of_steps[::-1]:
            low, high = min(block[0], block[-1]), max(block[0], block[-1]) + 1
            count = (high - low) * batch.N if batch.counts is None else sum(batch.counts[low:high])
            da = da_in[first : first + count]
            first += count
            if batch.alive is not None:
                dx[low:high][batch.alive[low:high]] = da @ weight_ih
            else:
                np.matmul(da, weight_ih, out=dx[low:high].reshape(len(da), dx.shape[2]))
        return dx

    def products(self, chain: Chain) -> Iterator[tuple[str, slice, str, str, slice]]:
        """Yield the products that make gradients of weights: the argument that is the gradient, its columns, what these
        act on, the parameter and its rows.
        """
        cell = self.cell
        for kind, name, gradient in (
            ("input", "weight_ih", cell.input_gradient), ("hidden", "weight_hh", cell.hidden_gradient),
        ):  # fmt: skip
            for rows, columns, source in chain.blocks[kind]:
                yield gradient + "_t", columns, source, name, rows
        for name, extra in cell.parameters.items():
            if extra.product is None:
                continue
            gradient, source = extra.product
            if not extra.like_input:
                yield gradient, slice(None), source, name, slice(None)
                continue
            for rows, columns, _ in chain.blocks["input"]:
                yield cell.input_gradient + "_t", columns, source, name, rows

    def give_back(self, edge: Edge, every: Sequence[Mapping[str, Mapping[str, Array]]], result: BackwardResult) -> None:
        """Add up the gradients of the given arrays over layers and directions, whose `ways` these are."""
        for name, given in self.cell.given.items():
            if not given.differentiable or name not in edge.given:
                continue
            total: dict[str, Array] = {}
            for ways in every:
                for way, array in ways[name].items():
                    total[way] = total[way] + array if way in total else array
            if given.products:
                del total[""]
            shares = {way: edge.given_out(array, len(given.shape)) for way, array in total.items()}
            result.dgiven[name] = sum(shares.values(), np.zeros((), edge.dtype))
            result.given_ways[name] = {way: array for way, array in shares.items() if way}


# What a layer of one's own may do in its own way; where it does, or something takes their place, no pass is prepared.
NAMES_OF_HOOKS = frozenset(
    (
        "_start_forward", "_climb", "open_forward", "forward_loop", "filling",
        "_start_backward", "bptt", "bound", "open_backward", "backward_loop", "close_backward",
    )
)  # fmt: skip
hooks_of = operator.attrgetter(*NAMES_OF_HOOKS)
HOOKS = hooks_of(Recurrent)


def _lay_masks(binding: Binding, masks: Masks, widths: Mapping[str, int], new: Any) -> None:
    """Add the arrays that masks read, and those that hold what they have changed."""
    batch, cell, arrays = binding.batch, binding.chain.cell, binding.arrays
    dtype = binding.constants["half"].dtype

    def laid_out(array: Array) -> Array:
        return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2) if cell.columns else array

    if masks.recurrent is not None:
        output = cell.recurrent_state
        shape = (batch.T, *masks.recurrent.shape)
        arrays["recurrent_mask"] = np.broadcast_to(laid_out(masks.recurrent), shape)
        arrays[f"{output}_in"] = new(batch.T, widths[output], dtype, cell.columns)
    for state, kept in masks.zoneout.items():
        arrays[f"{state}_kept"] = laid_out(kept)
        arrays[f"{state}_new"] = new(batch.T, widths[state], dtype, cell.columns)


def locked(array: Array) -> Array:
    """Return a view that cannot be written to: backward may read its memory."""
    view = array.view()
    view.flags.writeable = False
    return view
