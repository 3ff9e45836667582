"""One step of a layer, made again and again: what streams and decoding do.

A call of a layer checks its arguments, copies weights into the order in which formulas read them, takes memory, and
works out which rows each argument of each formula is; for a single step all that takes many times as long as the step.
`BoundSteps` does it once, for a number of rows: a step is then a list of calls, each of a formula, or of a product, on
arrays that stay where they are. Formulas and their order are the driver's; so are the products, and the bits, but where
the caller wants the fastest ones: the memory order of a weight decides in which order BLAS adds.

A formula reads the states before the step and writes those after it, two rows of one array. The next step finds the old
state where this one has left the new one: there are two lists of calls, which take turns.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.core import memory
from rnn_numpy.engine.batch import SMALL, Batch
from rnn_numpy.engine.binding import Binding, InStepPieces, laid_out_for_step
from rnn_numpy.engine.edge import Edge
from rnn_numpy.engine.parts import NONE
from rnn_numpy.errors import OptionError

if TYPE_CHECKING:
    from rnn_numpy.engine.recurrent import Recurrent, Run

Array = NDArray[Any]
Calls = list[tuple[Callable[..., Any], tuple[Any, ...]]]


class BoundSteps:
    """The calls that are a step of a layer, without dropout and without a record, and the arrays that they work on.

    Parameters
    ----------
    layer : Recurrent
        Of one direction; its parameters are not to change any more.
    edge : Edge
        Of one step: its rows, and what the cell is given.
    fastest : bool
        Whether weights lie as they are fastest in a step of several rows, not as the driver has them.
    like : BoundSteps, optional
        Of the same layer and as many rows, whose weights, laid out for the formulas, are shared.

    Attributes
    ----------
    x : ndarray, (N, D)
        What the next step reads.
    calls : pair of lists of (function, arguments)
        The first one steps from rows 0 of `states` to rows 1, the second one back.
    states : list of dict of str to ndarray, (2, N, H)
        Of each layer.
    outputs : pair of ndarrays, (N, H)
        What each of `calls` writes as the last layer's output.
    arrays : dict of str to ndarray, (1, N, ·)
        What a step of the last layer writes, and does not hand on.
    """

    def __init__(self, layer: Recurrent, edge: Edge, fastest: bool = False, like: BoundSteps | None = None) -> None:
        if "forward" not in layer.cell.tried:
            layer.trial("forward")
        batch, cell, first = edge.batch, layer.cell, layer.cell.states[0]
        masks = layer.state_masks(type(layer).__name__, None, None, False, batch)
        fastest = fastest and batch.N > 1
        signal = batch.new(1, layer.input_size, layer.params.dtype, fastest and cell.columns)
        self.x: Array = signal[0]
        self.calls: tuple[Calls, Calls] = [], []
        self.states: list[dict[str, Array]] = []
        self.weights: list[tuple[dict[str, Array], Array]] = []
        signals = [signal, signal]
        for level, direction in enumerate(itertools.chain(*layer.stack)):
            chosen = masks.get(direction.name, NONE)
            run = layer.open_forward(direction, edge, signal, [None] * len(cell.states), chosen, None, record=False)
            arrays, constants = run.binding.arrays, run.binding.constants
            if like is not None:
                constants, weight = like.weights[level]
            else:
                weight = cell.arranged("input", run.trace.weights["W_ih"], halved=True)
                if fastest:
                    weight = laid_out_for_step(weight, batch.N, cell.columns)
                    blocks = {
                        "W_hh": slice(None),
                        **{name: run.binding.chain.scales[name[3:]] for name in cell.constant_names},
                    }
                    whole = constants["W_hh"].view(np.ndarray)
                    constants |= {
                        n: laid_out_for_step(whole[rows], batch.N, cell.columns) for n, rows in blocks.items()
                    }
                elif cell.columns and batch.N > 1 and weight.size < SMALL:
                    weight = np.asfortranarray(weight)  # as the driver has it
            self.weights.append((constants, weight))
            self.states.append({state: arrays[state] for state in cell.states})
            in_place = np.shares_memory(arrays["a"], arrays[first])
            outputs = []
            for turn in (0, 1):
                binding = Binding(
                    run.binding.chain, batch, bool(turn), {**arrays, "x": signals[turn]}, constants, edge.given
                )
                output = binding.output(arrays[first])
                if in_place:
                    binding.arrays["a"] = output
                self.calls[turn].extend(input_part(run, weight, signals[turn][0], binding.arrays["a"][0]))
                self.calls[turn].extend((formula, next(rows)) for formula, rows in binding.calls("forward"))
                outputs.append(output)
            signals = outputs
        self.outputs = signals[0][0], signals[1][0]
        self.arrays = arrays

    def load(self, states: Sequence[Array | None], row: int = 0) -> None:
        """Copy states, (num_layers, N, H) each, to a row of each array; zeros for None."""
        for level, arrays in enumerate(self.states):
            for array, state in zip(arrays.values(), states, strict=True):
                array[row] = 0 if state is None else state[level]

    def kept(self, row: int) -> list[Array]:
        """Return copies of the states of a row, (num_layers, N, H) each."""
        return [np.array([arrays[state][row] for arrays in self.states]) for state in self.states[0]]


def input_part(run: Run, weight: Array, x: Array, a: Array) -> Calls:
    """Return the calls that write W_ih x_t and the biases into a, (N, slabs * H): what the driver's `filling` does."""
    cell, filled, width = run.binding.chain.cell, run.binding.chain.span, a.shape[1]
    bias = run.bias if cell.biased and "b_ih" in run.trace.weights else None
    out = a[:, filled]
    if cell.columns:
        left, right, out = weight, x.T, out.T
    else:
        left, right = x, weight.T
    calls: Calls
    pieces = weight.pieces(len(a)) if isinstance(weight, InStepPieces) else 1
    if pieces > 1:
        rows, columns = weight.shape
        parts = weight.view(np.ndarray).reshape(pieces, rows // pieces, columns)
        calls = [(np.matmul, (parts, right, out.reshape(pieces, rows // pieces, len(a))))]
    else:
        # Both are the same routine of BLAS, and `dot` is called sooner.
        calls = [(np.dot if out.flags.c_contiguous else np.matmul, (left.view(np.ndarray), right, out))]
    if bias is not None:
        added = np.broadcast_to(bias[filled], (len(a), filled.stop - filled.start))
        added = np.ascontiguousarray(added.T) if cell.columns else added
        calls.append((np.add, (out, added, out)))
    for columns in (slice(None, filled.start), slice(filled.stop, None)):
        rest = a[:, columns]
        if rest.shape[1] and width:
            value = np.zeros(rest.shape, a.dtype) if bias is None else np.broadcast_to(bias[columns], rest.shape)
            calls.append((np.copyto, (rest.T, np.ascontiguousarray(value.T))))
    return calls


class Stepper:
    """Steps of a layer on N rows of states of the caller's choosing, with its weights of this moment: for decoding.

    Parameters
    ----------
    layer : Recurrent
        Of one direction.
    rows : int
        N.
    given : mapping of ndarray, (N, ·), optional
        All that the cell is given at every step, the rows in front, in the form of the engine; `load` takes others.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> lstm, x = LSTM(2, 3, rng=0), np.ones((4, 5, 2))
    >>> step, states = Stepper(lstm, 5), (np.zeros((1, 5, 3)), np.zeros((1, 5, 3)))
    >>> for x_t in x:
    ...     output_t, states = step(x_t, states)
    >>> bool(np.array_equal(output_t, lstm(x)[0][-1]))
    True
    """

    def __init__(self, layer: Recurrent, rows: int, given: Mapping[str, Array] | None = None) -> None:
        if layer.num_directions != 1:
            raise OptionError("Stepper: layer must not be bidirectional: its reverse direction begins at the end")
        edge = Edge(layer, False, None, Batch(1, rows, None))
        self._given = {name: np.array(array, order="C") for name, array in (given or {}).items()}
        if self._given:
            edge.give(layer, self._given)
        self.loaded: Any = None  # for callers to remember what is loaded
        self._steps = BoundSteps(with_own_parameters(layer), edge)
        self.arrays = self._steps.arrays

    def load(self, given: Mapping[str, Array]) -> None:
        """Take other given arrays, of the same shapes."""
        for name, array in given.items():
            self._given[name][...] = array

    def __call__(self, x_t: Array, states: Sequence[Array]) -> tuple[Array, tuple[Array, ...]]:
        """Make a step from x_t (N, D) and states, each (num_layers, N, H); return its output (N, H) and the new states.

        Nothing is checked.
        """
        steps = self._steps
        steps.x[...] = x_t
        steps.load(states)
        for function, arguments in steps.calls[0]:
            function(*arguments)
        return steps.outputs[0].copy(), tuple(steps.kept(1))


def with_own_parameters(layer: Recurrent) -> Recurrent:
    """Return a twin of a layer with a copy of its parameters."""
    twin, params = copy.copy(layer), layer.params
    flat = memory.empty(params.flat.shape, params.dtype)
    flat[...] = params.flat
    twin.params = params.twin(flat)
    return twin
