"""What every recurrent layer must hold, as functions that anybody's test suite can call.

A `Case` is a layer class with options; each `check_*` takes a case, returns None, and raises `GradientCheckError` (or
lets the layer's own error through) where the layer breaks the promise in its docstring. In a test file:

    CASES = recurrent_cases(RNN) + recurrent_cases(LSTM)

    @pytest.mark.parametrize(("case", "check"), conformance_checks(CASES), ids=conformance_id)
    def test_conformance(case, check):
        check(case)

ids read `RNN(bias=False)-check_padding`. A check that means nothing for a case is not listed for it, and
`not_applicable(case)` says why. A layer of one's own takes part if it has the constructor, the attributes, `params`,
`astype`, `forward`, `backward` and `backward_steps` of `rnn_numpy.RNN`; a state may be one array or a tuple of arrays.

Data are random, from a seed that the case's name fixes, float64, and small: entry-by-entry references are the point.
For relu they are drawn until no pre-activation lies near the kink. The reference of every case is the stepwise one
(`rnn_numpy.checks.chain_rule`), entry by entry, with the derivative of the whole run along random directions, which
knows nothing of steps; some cases of each class have the whole run entry by entry as well. A cell with a formula that
no complex step passes, np.abs say, has differences for all of these, as `gradcheck` takes them.
"""

from __future__ import annotations

import copy
import functools
import pickle
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnn_numpy.checks.chain_rule import ChainRule
from rnn_numpy.checks.compare import ORACLE_TOLERANCES, assert_grad_close
from rnn_numpy.checks.oracles.complex_step import COMPLEX_STEP, complex_step
from rnn_numpy.checks.oracles.differences import central_difference
from rnn_numpy.checks.oracles.formulas import lines_that_lose
from rnn_numpy.core import memory
from rnn_numpy.core.packing import PackedSequence, pack_padded_sequence
from rnn_numpy.engine.recorded import recorded_steps
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.slopes import slopes
from rnn_numpy.errors import GradientCheckError, ShapeError

Array = NDArray[Any]
States = tuple[Array, ...]
T = TypeVar("T")

# What messages call the states of a layer, first to last; h is the output. The names that its results bear are the
# cell's own, see `_state_names`.
STATE_NAMES = ("h", "c", "third", "fourth", "fifth", "sixth")

# What two ways to sum the same few dozen numbers differ by at most. A sequence alone and in a batch are two ways: a
# product of one column and one of many go through other kernels of the BLAS, so they cannot agree bit for bit.
ROUNDING = 1e-13

# Random directions per tensor along which the derivative of a whole run is compared.
DIRECTIONS = 3

# Differences that know a slope no better than to this, of the gradient's size, are those of a loss that is rough.
ROUGH = 1e-6

# Of a memory.
MEMORY_ROWS = 5

# Far above the step of a central difference, 6e-6, times what a net of this size makes of it.
KINK_DISTANCE = 2e-3


@dataclass(frozen=True)
class Case:
    """A layer class with its options.

    Parameters
    ----------
    layer : callable
        Called as layer(input_size, hidden_size, dtype=..., rng=..., **options).
    options : mapping
        Keyword arguments of the constructor.
    omitted : mapping of str to str
        Names of further checks that mean nothing here, each with the reason.
    """

    layer: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    omitted: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The call that makes the layer, without its sizes: `RNN(bias=False)`."""
        return f"{self.layer.__name__}({', '.join(f'{name}={value}' for name, value in self.options.items())})"

    def __str__(self) -> str:
        return self.name

    @property
    def masks_of_memory(self) -> list[str]:
        """The names of given arrays that say which rows of a memory there are."""
        try:
            cell = self.make().cell
        except Exception:  # what is wrong with the layer its checks say
            return []
        return _masks_of(cell)

    def option(self, name: str) -> Any:
        """Return the value of an option, or something false where it has its default."""
        return self.options.get(name, False)

    def rng(self, seed: int = 0) -> np.random.Generator:
        """Return a generator that the case's name and `seed` fix."""
        return np.random.default_rng([zlib.crc32(self.name.encode()), seed])

    def make(
        self, input_size: int = 2, hidden_size: int = 3, *, dtype: DTypeLike = np.float64, seed: int = 0, **options: Any
    ) -> Any:
        """Return a new layer; `options` go before the case's own."""
        return self.layer(input_size, hidden_size, dtype=dtype, rng=self.rng(seed), **{**self.options, **options})


Check = Callable[[Case], None]


@dataclass(frozen=True)
class Problem:
    """All arrays that go into a forward and a backward pass, time first whatever the layer's batch_first.

    Attributes
    ----------
    x : ndarray, (T, N, D)
    states : tuple of ndarray, (rows, N, ·), or None
        Initial states, one array per state.
    lengths : ndarray of int, (N,), or None
    masks : list of ndarray, (T, N, ·), or None
        Dropout masks; None switches dropout off.
    recurrent_masks : dict of str to ndarray, (N, ·), or None
        Masks of recurrent dropout, by layer and direction.
    zoneout_masks : dict of str to tuple of ndarray, (T, N, ·), or None
        Masks of zoneout, one for each state.
    given : dict of str to ndarray, (N, ·)
        What the layer reads at every step, a memory and its mask say; empty where it reads nothing.
    doutput : ndarray, (T, N, ·), or None
    dstates : tuple of ndarray, (rows, N, ·), or None
        dL/d(final states).
    """

    x: Array
    states: States | None = None
    lengths: Array | None = None
    masks: list[Array] | None = None
    doutput: Array | None = None
    dstates: States | None = None
    recurrent_masks: dict[str, Array] | None = None
    zoneout_masks: dict[str, States] | None = None
    given: dict[str, Array] = field(default_factory=dict)

    def unmasked(self) -> Problem:
        """Return the problem as inference has it: without any mask."""
        return replace(self, masks=None, recurrent_masks=None, zoneout_masks=None)

    def alive(self) -> Array:
        """Return whether step t of sequence n exists, (T, N)."""
        steps, batch = self.x.shape[:2]
        lengths = np.full(batch, steps) if self.lengths is None else self.lengths
        alive: Array = np.arange(steps)[:, None] < lengths
        return alive

    def rows(self, index: Any) -> Problem:
        """Return the problem of some sequences of the batch, in the order of `index`."""
        return Problem(
            self.x[:, index],
            _map(lambda s: s[:, index], self.states),
            None if self.lengths is None else self.lengths[index],
            None if self.masks is None else [mask[:, index] for mask in self.masks],
            None if self.doutput is None else self.doutput[:, index],
            _map(lambda s: s[:, index], self.dstates),
            _each(self.recurrent_masks, lambda mask: mask[index]),
            _each(self.zoneout_masks, lambda masks: tuple(mask[:, index] for mask in masks)),
            {name: array[index] for name, array in self.given.items()},
        )

    def steps(self, index: slice) -> Problem:
        """Return the problem of a stretch of time; initial states and gradients of final ones stay."""
        return replace(
            self,
            x=self.x[index],
            masks=None if self.masks is None else [mask[index] for mask in self.masks],
            doutput=None if self.doutput is None else self.doutput[index],
            zoneout_masks=_each(self.zoneout_masks, lambda masks: tuple(mask[index] for mask in masks)),
        )


@dataclass(frozen=True)
class Result:
    """What a forward and a backward pass gave, time first, gradients of given arrays batch first."""

    output: Array
    states: States
    dx: Array
    dstates_0: States
    grads: dict[str, Array]
    dgiven: dict[str, Array] = field(default_factory=dict)

    def rows(self, index: Any) -> Result:
        """Return what belongs to some sequences of the batch, and the parameters' gradients as they are."""
        return Result(
            self.output[:, index],
            tuple(state[:, index] for state in self.states),
            self.dx[:, index],
            tuple(state[:, index] for state in self.dstates_0),
            self.grads,
            {name: array[index] for name, array in self.dgiven.items()},
        )

    def named(self) -> dict[str, Array]:
        """Return all arrays under the names that messages use."""
        return {
            "output": self.output,
            **{f"{name}_n": state for name, state in zip(STATE_NAMES, self.states, strict=False)},
            **self.gradients(),
        }

    def gradients(self) -> dict[str, Array]:
        """Return all gradients under the names that messages use."""
        return {
            "dx": self.dx,
            **{f"d{name}_0": state for name, state in zip(STATE_NAMES, self.dstates_0, strict=False)},
            **{f"d{name}": grad for name, grad in self.grads.items()},
            **{f"dgiven[{name!r}]": grad for name, grad in self.dgiven.items()},
        }


# ---------------------------------------------------------------------------------------------- the public list


def recurrent_cases(layer: Callable[..., Any], *more: Mapping[str, Any], stacked: bool = True) -> list[Case]:
    """Return the cases in which every recurrent layer is checked.

    Parameters
    ----------
    layer : callable
        The layer's class.
    *more : mapping
        Options of this layer's own, each a further case.
    stacked : bool
        Whether there may be several layers and two directions; with attention there are not.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> [case.name for case in recurrent_cases(RNN, {"nonlinearity": "relu"})][1::10]
    ['RNN(bias=False)', 'RNN(nonlinearity=relu)']
    """
    options: list[Mapping[str, Any]] = [
        {},
        {"bias": False},
        {"batch_first": True},
        {"bidirectional": True},
        {"num_layers": 2},
        {"num_layers": 2, "dropout": 0.4},
        {"num_layers": 2, "bidirectional": True, "batch_first": True},
        {"num_layers": 3, "bidirectional": True, "bias": False, "dropout": 0.3},
        {"recurrent_dropout": 0.4},
        {"zoneout": 0.3},
        {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "recurrent_dropout": 0.3, "zoneout": 0.2},
    ]
    if not stacked:
        options = [one for one in options if not {"num_layers", "bidirectional"} & set(one)]
    # The plainest three, and the first option that makes other formulas.
    thorough = [*range(3), len(options)]
    elsewhere = "the whole run is differentiated entry by entry in other cases of the class"
    omitted = dict.fromkeys((check.__name__ for check in ENTRY_BY_ENTRY), elsewhere)
    return [Case(layer, chosen, {} if i in thorough else omitted) for i, chosen in enumerate([*options, *more])]


def not_applicable(case: Case) -> dict[str, str]:
    """Return the checks that mean nothing for a case, each with the reason.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> not_applicable(Case(RNN))["check_reversal"]
    'there is no reverse direction'
    """
    reasons = dict(case.omitted)
    if case.option("bidirectional"):
        reasons["check_causality"] = "the reverse direction brings the future to every step"
        reasons["check_chunks"] = "the reverse direction needs the end of the sequence first"
    else:
        reasons["check_reversal"] = "there is no reverse direction"
    if not case.option("dropout"):
        reasons["check_dropout"] = "there is no dropout"
    if not case.option("recurrent_dropout"):
        reasons["check_recurrent_dropout"] = "there is no recurrent dropout"
    if not case.option("zoneout"):
        reasons["check_zoneout"] = "there is no zoneout"
    if not case.options.get("bias", True):
        reasons["check_bias_gradients"] = "there are no biases"
    if not case.masks_of_memory:
        reasons |= dict.fromkeys(("check_memory_padding", "check_memory_order"), "no memory with a mask is read")
    elif case.option("location"):
        reasons["check_memory_order"] = "filters see which rows are neighbours"
    return reasons


def conformance_checks(cases: Iterable[Case]) -> list[tuple[Case, Check]]:
    """Return every case with every check that applies to it, for pytest.mark.parametrize."""
    asked = ((case, not_applicable(case)) for case in cases)
    return [(case, check) for case, omitted in asked for check in CHECKS if check.__name__ not in omitted]


def conformance_id(value: Any) -> str:
    """Return the part of a test's id that stands for a case or a check."""
    return str(value) if isinstance(value, Case) else str(value.__name__)


def conformance_failures(case: Case, checks: Iterable[Check] | None = None) -> dict[str, str]:
    """Run the checks that apply to a case; return the names of those that fail, each with its message.

    Parameters
    ----------
    case : Case
    checks : iterable of callable, optional
        Some of `CHECKS`; all where left out.

    Examples
    --------
    >>> from rnn_numpy import RNN
    >>> conformance_failures(Case(RNN), [check_padding, check_accumulation])
    {}
    """
    failures: dict[str, str] = {}
    chosen = None if checks is None else {check.__name__ for check in checks}
    for _, check in conformance_checks([case]):
        if chosen is None or check.__name__ in chosen:
            try:
                check(case)
            except Exception as error:  # whatever a wrong layer raises is its failure
                failures[check.__name__] = f"{type(error).__name__}: {error}"
    return failures


# ---------------------------------------------------------------------------------------------- the checks: gradients


def check_gradients(case: Case) -> None:
    """Every parameter, input and initial state, through every output and the final state, with lengths: every entry
    against the stepwise reference, and the derivative of the whole run along random directions.
    """
    layer, problem = _setting(case)
    _assert_stepwise(layer, problem)
    _assert_along_directions(layer, problem, case.rng(34))


def check_gradients_by_complex_step(case: Case) -> None:
    """Every entry against the complex step of the whole run, to 1e-13 of the tensor's largest entry."""
    layer, problem = _setting(case)
    if _loses(layer, problem):
        return check_gradients_by_central_difference(case)
    _assert_gradients(layer, problem, complex_step, ORACLE_TOLERANCES["complex step"])


def check_gradients_by_central_difference(case: Case) -> None:
    """The same against central differences, which need no complex twin of the layer."""
    layer, problem = _setting(case)
    _assert_gradients(layer, problem, central_difference, ORACLE_TOLERANCES["central difference"])


def check_gradients_of_output(case: Case) -> None:
    """Through the outputs alone, no initial state given, no lengths. By check_linearity, directions are enough."""
    layer, problem = _setting(case, seed=1)
    problem = replace(problem, states=None, lengths=None, dstates=None)
    _assert_along_directions(layer, problem, case.rng(35))


def check_gradients_of_final_state(case: Case) -> None:
    """Through the final state alone."""
    layer, problem = _setting(case, seed=2)
    _assert_along_directions(layer, replace(problem, doutput=None), case.rng(36))


def check_gradients_of_one_step(case: Case) -> None:
    """T = N = D = 1, and H = 1, or one more than a projection has units."""
    layer, problem = _setting(case, steps=1, batch=1, sizes=(1, 1 + case.option("proj_size")), seed=3)
    _assert_stepwise(layer, problem)
    _assert_along_directions(layer, problem, case.rng(37))


def check_direction(case: Case) -> None:
    """At realistic sizes, with lengths and without, the derivative along one random direction per tensor."""
    layer, padded = _setting(case, steps=40, batch=8, sizes=(4, 32), seed=4)
    # Once for each class as long as a run with real data.
    steps, batch = (60, 4) if case.options else (150, 16)
    _, long = _setting(case, steps=steps, batch=batch, sizes=(4, 32), seed=5)
    for problem in (padded, replace(long, lengths=None)):
        _assert_along_directions(layer, problem, case.rng(6), 1)


def check_first_step(case: Case) -> None:
    """The gradient arrives at the first input and at every initial state, from the last step too."""
    layer, problem = _setting(case, seed=6)
    full = _run(layer, replace(problem, lengths=None, dstates=None))
    for name, array in zip(STATE_NAMES, full.dstates_0, strict=False):
        for row in range(len(array)):
            _require(bool(np.any(array[row] != 0)), f"d{name}_0[{row}]: must not be 0 throughout")
    for name, array in full.dgiven.items():
        for s in range(array.shape[1]):
            _require(bool(np.any(array[:, s] != 0)), f"dgiven[{name!r}]: row {s} must not be 0 throughout")
    late = np.zeros_like(_given(problem.doutput))
    late[-1] = _given(problem.doutput)[-1]
    result = _run(layer, replace(problem, lengths=None, dstates=None, doutput=late))
    _require(bool(np.any(result.dx[0] != 0)), "dx[0]: must not be 0 throughout: output[-1] depends on x[0]")
    _require(bool(np.any(result.dstates_0[0][0] != 0)), "dh_0[0]: must not be 0 throughout: output[-1] depends on h_0")


def check_linearity(case: Case) -> None:
    """Backward of zeros, given or meant by None, is exactly 0; backward is linear in its gradients."""
    layer, problem = _setting(case, seed=7)
    _, other = _setting(case, seed=7, gradient_seed=8)
    u, v = _given(problem.doutput), _given(other.doutput)
    du, dv = _given(problem.dstates), _given(other.dstates)
    zero = replace(problem, doutput=0 * u, dstates=tuple(0 * d for d in du))
    for name, array in _run(layer, zero).gradients().items():
        _require(not np.any(array), f"{name}: backward of zeros must be exactly 0; got {_largest(array)}")
    for given, meant in (
        (replace(problem, doutput=zero.doutput), replace(problem, doutput=None)),
        (replace(problem, dstates=zero.dstates), replace(problem, dstates=None)),
    ):
        _assert_same_all("None in place of zeros", _run(layer, meant).gradients(), _run(layer, given).gradients())
    # Large and small enough that whatever bounds or drops gradients shows.
    for scale in (1e3, 1e-30):
        mixed = tuple(scale * (2 * a - 3 * b) for a, b in zip(du, dv, strict=True))
        found = _run(layer, replace(problem, doutput=scale * (2 * u - 3 * v), dstates=mixed)).gradients()
        first = _run(layer, problem).gradients()
        second = _run(layer, replace(problem, doutput=v, dstates=dv)).gradients()
        for name, array in found.items():
            assert_grad_close(f"{name} of {scale} (2 u - 3 v)", array, scale * (2 * first[name] - 3 * second[name]))


def check_accumulation(case: Case) -> None:
    """Backward adds to the gradients that it is given, and returns them."""
    layer, problem = _setting(case, seed=9)
    once = _run(layer, problem).grads
    trace = _forward(layer, problem)[2]
    grads = layer.params.zeros_like()
    for count in (1, 2):
        back = _backward(layer, trace, problem, grads)
        _require(back.grads is grads, "grads: backward must return the very object that it was given")
        for name, array in grads.items():
            _assert_same(f"d{name} after {count} backward passes", array, count * once[name])
    grads.flat[:] = 1.0
    _backward(layer, trace, problem, grads)
    for name, array in grads.items():
        assert_grad_close(f"d{name} added to ones", array, 1 + once[name])
    lengthless = replace(problem, lengths=None, states=None)
    total = _run(layer, lengthless).gradients()
    alone = [_run(layer, lengthless.rows(slice(n, n + 1))).grads for n in range(problem.x.shape[1])]
    for name in once:
        assert_grad_close(f"d{name} of a batch", total[f"d{name}"], sum(grads[name] for grads in alone))


# ---------------------------------------------------------------------------------------------- state and memory


def check_writes(case: Case) -> None:
    """All that comes out was written by somebody: a formula that says `h_t = ...` gives an array a name, and leaves the
    one that it was handed as it was.
    """
    layer, problem = _setting(case, seed=33)
    problem = replace(problem, lengths=None)  # memory with padding comes as zeros
    expected, inferred = _run(layer, problem).named(), _infer(layer, problem)
    with memory.poisoned():
        found, inferred_again = _run(layer, problem).named(), _infer(layer, problem)
    for name, array in (*found.items(), *inferred_again.items()):
        _require(
            not np.isnan(array).any(),
            f"{name}: comes from memory that nothing was written to; a formula must write into its arguments, "
            "`h_t[...] = ` or `out=h_t`, in step_backward into all of da_t and the gradients of further states",
        )
    _assert_same_all("with memory filled with NaN", found, expected)
    _assert_same_all("with memory filled with NaN", inferred_again, inferred)


def check_unchanged(case: Case) -> None:
    """Neither pass changes its arguments, the parameters, or the layer; read-only arrays are accepted."""
    layer = case.make(seed=10)
    attributes, params = _attributes(layer), layer.params.flat.copy()
    _, padded = _setting(case, seed=10)
    for problem in (padded, replace(padded, lengths=None)):  # sorting by length would copy what comes without it
        given = _arrays(problem)
        before = _copied(given)
        for locked in (False, True):
            for array in (*given.values(), layer.params.flat, *layer.params.values()):
                array.flags.writeable = not locked
            _run(layer, problem)
            for _ in layer.backward_steps(_forward(layer, problem)[2], *_gradients_in(layer, problem)):
                pass
            _infer(layer, problem)
            for name, array in given.items():
                _assert_same(f"{name} after the passes", array, before[name])
            _assert_same("params after the passes", layer.params.flat, params)
        for array in (*given.values(), layer.params.flat, *layer.params.values()):
            array.flags.writeable = True
    after = _attributes(layer)
    _require(list(after) == list(attributes), f"layer: attributes must stay {list(attributes)}; got {list(after)}")
    for name, (value, text) in after.items():
        _require(
            value is attributes[name][0] and text == attributes[name][1],
            f"layer.{name}: must not change in forward or backward; was {attributes[name][1]}, is {text}",
        )


def check_reentrant(case: Case) -> None:
    """Two forward passes, then their backward passes in either order, give what each gives alone; what was returned
    stays as it was. At a size at which large arrays are used again.
    """
    layer, first = _setting(case, steps=24, batch=8, sizes=(3, 32), seed=11)
    _, second = _setting(case, steps=24, batch=8, sizes=(3, 32), seed=12)
    problems = (first, second)
    alone = [_copied(_run(layer, problem).named()) for problem in problems]
    for order in ((0, 1), (1, 0)):
        runs = [_forward(layer, problem) for problem in problems]
        backs: dict[int, Any] = {}
        for index in order:
            backs[index] = _backward(layer, runs[index][2], problems[index])
        for index in order:
            result = _result(layer, runs[index], backs[index])
            _assert_same_all(f"pass {index} of two, backward order {order}", result.named(), alone[index])
    output, states, trace = _forward(layer, first)
    early = _copied(_result(layer, (output, states, trace), _backward(layer, trace, first)).named())
    again = _backward(layer, trace, first)
    _assert_same_all("second backward of one trace", _result(layer, (output, states, trace), again).named(), early)


def check_steps(case: Case) -> None:
    """Stepped and one-shot gradients agree bit for bit; stopping early, wherever, leaves the gradients untouched."""
    layer, problem = _setting(case, seed=13)
    expected = _run(layer, problem)
    output, states, trace = _forward(layer, problem)
    arguments = _gradients_in(layer, problem)
    grads = layer.params.zeros_like()
    steps = layer.backward_steps(trace, *arguments, grads)
    _require(steps.result is None, "backward_steps: result must be None before the first step")
    visited: list[tuple[int, bool, int]] = []
    for step in steps:
        _require(steps.result is None or bool(visited), "backward_steps: result must be None until the steps run out")
        visited.append((step.layer, step.reverse, step.t))
    _require(steps.result is not None, "backward_steps: result must be there after the last step")
    _assert_same_all("stepped", _result(layer, (output, states, trace), steps.result).named(), expected.named())
    span = len(problem.x) if problem.lengths is None else int(problem.lengths.max())
    wanted = [
        (k, reverse, t)
        for k in reversed(range(layer.num_layers))
        for reverse in (False, True)[: layer.num_directions]
        for t in (range(span) if reverse else reversed(range(span)))
    ]
    _require(visited == wanted, f"backward_steps: must visit (layer, reverse, t) newest first, {wanted}; got {visited}")
    for stop in range(len(wanted)):
        grads.flat[:] = 7.0
        steps = layer.backward_steps(trace, *arguments, grads)
        for _ in range(stop):
            next(steps)
        _require(bool(np.all(grads.flat == 7.0)), f"grads: must be untouched when stopped after {stop} steps")
        _require(steps.result is None, f"backward_steps: result must be None when stopped after {stop} steps")
    _assert_same_all("backward after broken-off steps", _run(layer, problem).named(), expected.named())


def check_repeatable(case: Case) -> None:
    """Two runs agree bit for bit."""
    layer, problem = _setting(case, seed=14)
    _assert_same_all("second run", _run(layer, problem).named(), _run(layer, problem).named())


def check_inference(case: Case) -> None:
    """Calling the layer gives, bit for bit, what forward gives without dropout; no initial state means zeros."""
    layer, problem = _setting(case, seed=15)
    problem = problem.unmasked()
    for states in (problem.states, None):
        for lengths in (problem.lengths, None):
            variant = replace(problem, states=states, lengths=lengths)
            _assert_same_all("inference", _infer(layer, variant), _outputs(layer, variant))
    zeros = _map(np.zeros_like, problem.states)
    given, meant = replace(problem, states=zeros), replace(problem, states=None)
    _assert_same_all("no initial state", _run(layer, meant).named(), _run(layer, given).named())


def check_state_dict(case: Case) -> None:
    """Parameters go out under torch.nn's names and in again; pickled and deep copies work, and are independent."""
    layer, problem = _setting(case, seed=16)
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"][: 4 if layer.bias else 2]
    # A projection adds its own weights, and so may other cells.
    kinds += list(layer.cell.parameters) if hasattr(layer, "cell") else []
    names = [
        f"{kind}_l{k}{suffix}"
        for k in range(layer.num_layers)
        for suffix in ("", "_reverse")[: layer.num_directions]
        for kind in kinds
    ]
    found = list(layer.state_dict())
    _require(found == names, f"state_dict: names must be {names}, in this order; got {found}")
    expected = _run(layer, problem)
    twin = case.make(seed=17)
    _require(not np.array_equal(twin.params.flat, layer.params.flat), "rng: two seeds must give two layers")
    _assert_same("params of one seed", case.make(seed=17).params.flat, twin.params.flat)
    twin.load_state_dict(layer.state_dict())
    copies = {
        "load_state_dict": twin,
        "pickle": pickle.loads(pickle.dumps(layer)),
        "deepcopy": copy.deepcopy(layer),
        "astype": layer.astype(layer.dtype),
    }
    before = layer.params.flat.copy()
    for how, other in copies.items():
        _assert_same_all(how, _run(other, problem).named(), expected.named())
        other.params.flat[:] = 0
        for name, array in other.params.items():
            _require(not np.any(array), f"{how}: params[{name!r}] must be a view of params.flat")
        _assert_same(f"params of the original, after {how}", layer.params.flat, before)
    for array in layer.state_dict().values():
        array[...] = 0
    _assert_same("params after writing into a state dict", layer.params.flat, before)
    for name in names:
        incomplete = {key: np.zeros_like(value) for key, value in layer.state_dict().items() if key != name}
        _raises(functools.partial(layer.load_state_dict, incomplete), ValueError, name)
    _assert_same("params after refused state dicts", layer.params.flat, before)


# ---------------------------------------------------------------------------------------------- time


def check_chunks(case: Case) -> None:
    """A sequence cut in pieces, the state carried forward and its gradient back, is the sequence in one run; and where
    there is one state, what the trace of that shows as its gradient at a cut is what is carried.
    """
    layer, problem = _setting(case, steps=6, seed=18)
    problem = replace(problem, lengths=None)
    run = _forward(layer, problem)
    whole, doutput = _result(layer, run, _backward(layer, run[2], problem)), _given(problem.doutput)
    shown = getattr(run[2], f"d{_state_names(layer)[0]}")
    cuts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    states, runs = problem.states, []
    for cut in cuts:
        piece = replace(problem.steps(cut), states=states)
        runs.append((piece, _forward(layer, piece)))
        states = _tuple(runs[-1][1][1])
    grads, dstates = layer.params.zeros_like(), problem.dstates
    outputs: list[Array] = []
    inputs: list[Array] = []
    dgiven = {name: np.zeros_like(array) for name, array in whole.dgiven.items()}
    for cut, (piece, run) in zip(reversed(cuts), reversed(runs), strict=True):
        result = _result(layer, run, _backward(layer, run[2], replace(piece, dstates=dstates), grads))
        dstates = result.dstates_0
        if cut.start and len(dstates) == 1:  # one of several states may get a part of its gradient within the step
            assert_grad_close(f"trace.dh[{cut.start}]", shown[cut.start], doutput[cut.start - 1] + dstates[0][-1])
        outputs.insert(0, result.output)
        inputs.insert(0, result.dx)
        for name, array in result.dgiven.items():
            dgiven[name] += array
    pieces = Result(
        np.concatenate(outputs), _given(states), np.concatenate(inputs), _given(dstates), dict(grads), dgiven
    )
    _assert_close_all("in chunks", pieces.named(), whole.named())


def check_causality(case: Case) -> None:
    """Later inputs change no earlier output, not by a bit; earlier outputs send no gradient to later inputs."""
    layer, problem = _setting(case, steps=6, seed=19)
    problem = replace(problem, lengths=None, dstates=None)
    before = _run(layer, problem)
    for t in range(1, len(problem.x)):
        x, doutput = problem.x.copy(), _given(problem.doutput).copy()
        x[t:] += 1.0
        doutput[t:] = 0
        after = _run(layer, replace(problem, x=x))
        _assert_same(f"output[:{t}] after a change of x[{t}:]", after.output[:t], before.output[:t])
        _require(bool(np.any(after.output[t] != before.output[t])), f"output[{t}]: must depend on x[{t}]")
        result = _run(layer, replace(problem, doutput=doutput))
        _require(not np.any(result.dx[t:]), f"dx[{t}:]: must be exactly 0 where the loss reads output[:{t}] only")
    doutput = np.zeros_like(_given(problem.doutput))
    doutput[0] = _given(problem.doutput)[0]
    _require(bool(np.any(_run(layer, replace(problem, doutput=doutput)).dx[0])), "dx[0]: output[0] depends on x[0]")


def check_reversal(case: Case) -> None:
    """With the weights of both directions exchanged, the reversed sequences give the reversed result, halves exchanged:
    the reverse direction is the forward one on the sequence read from its own end.
    """
    layer, problem = _setting(case, steps=5, seed=20)
    twin = case.make(seed=20)
    for name, array in layer.params.items():
        other = _other_direction(name)
        twin.params[other][...] = _halves_swapped(array) if _reads_layer_below(name) else array
    for lengths in (problem.lengths, None):
        variant = replace(problem, lengths=lengths)

        def flipped(masks: States, variant: Problem = variant) -> States:
            return tuple(_flipped(mask, variant) for mask in masks)

        forward = _run(layer, variant)
        mirrored = replace(
            variant,
            x=_flipped(variant.x, variant),
            states=_map(_directions_swapped, variant.states),
            masks=None if variant.masks is None else [_halves_swapped(_flipped(m, variant)) for m in variant.masks],
            recurrent_masks=_names_swapped(variant.recurrent_masks),
            zoneout_masks=_names_swapped(_each(variant.zoneout_masks, flipped)),
            doutput=_halves_swapped(_flipped(_given(variant.doutput), variant)),
            dstates=_map(_directions_swapped, variant.dstates),
        )
        result = _run(twin, mirrored)
        grads: dict[str, Array] = {}
        for name in forward.grads:
            other = _other_direction(name)
            grads[name] = _halves_swapped(result.grads[other]) if _reads_layer_below(name) else result.grads[other]
        back = Result(
            _halves_swapped(_flipped(result.output, variant)),
            tuple(map(_directions_swapped, result.states)),
            _flipped(result.dx, variant),
            tuple(map(_directions_swapped, result.dstates_0)),
            grads,
            result.dgiven,
        )
        _assert_close_all("reversed twin", back.named(), forward.named())


def check_padding(case: Case) -> None:
    """What stands past the end of a sequence, be it NaN, changes nothing; output and dx are exactly 0 there; and every
    sequence gives what it gives alone at its own length.
    """
    layer, problem = _setting(case, steps=6, batch=4, seed=21)
    dead, doutput = ~problem.alive(), _given(problem.doutput)
    clean = replace(problem, x=_filled(problem.x, dead, 0.0), doutput=_filled(doutput, dead, 0.0))
    expected = _run(layer, clean)
    for filler in (1e3, np.nan):
        dirty = replace(problem, x=_filled(problem.x, dead, filler), doutput=_filled(doutput, dead, filler))
        _assert_same_all(f"padding of {filler}", _run(layer, dirty).named(), expected.named())
        _assert_same_all(f"inference, padding of {filler}", _infer(layer, dirty), _infer(layer, clean))
    for name, array in (("output", expected.output), ("dx", expected.dx)):
        _require(not np.any(array[dead]), f"{name}: must be exactly 0 past the end of a sequence")
    grads = {name: np.zeros_like(array) for name, array in expected.grads.items()}
    for n, length in enumerate(_given(problem.lengths)):
        alone = _run(layer, replace(problem.rows(slice(n, n + 1)).steps(slice(0, int(length))), lengths=None))
        row = replace(expected.rows(slice(n, n + 1)), grads=alone.grads)
        row = replace(row, output=row.output[:length], dx=row.dx[:length])
        what = f"sequence {n} of length {length} in a padded batch"
        _assert_close_all(what, row.named(), alone.named(), ROUNDING)
        for name, array in alone.grads.items():
            grads[name] += array
    for name, array in expected.grads.items():
        assert_grad_close(f"d{name} of a padded batch", array, grads[name])
    # Padding that no sequence reaches.
    longer = replace(
        clean,
        x=_extended(clean.x),
        masks=None if clean.masks is None else list(map(_extended, clean.masks)),
        zoneout_masks=_each(clean.zoneout_masks, lambda masks: tuple(map(_extended, masks))),
        doutput=_extended(_filled(doutput, dead, 0.0)),
    )
    more = _run(layer, longer)
    steps = len(problem.x)
    for name, array in (("output", more.output), ("dx", more.dx)):
        _require(not np.any(array[steps:]), f"{name}: must be exactly 0 past the longest sequence")
    more = replace(more, output=more.output[:steps], dx=more.dx[:steps])
    _assert_close_all("padding past the longest sequence", more.named(), expected.named())


# ---------------------------------------------------------------------------------------------- batch, axes, dtype


def check_batch(case: Case) -> None:
    """Sequences do not see each other: in another order they give the same, and alone too."""
    layer, problem = _setting(case, batch=4, seed=22)
    expected = _run(layer, problem)
    order = np.array([2, 0, 3, 1])
    result = _run(layer, problem.rows(order))
    what = f"sequences in the order {order.tolist()}"
    _assert_close_all(what, result.named(), expected.rows(order).named())
    for n in range(problem.x.shape[1]):
        alone = _run(layer, problem.rows(slice(n, n + 1)))
        row = replace(expected.rows(slice(n, n + 1)), grads=alone.grads)
        _assert_close_all(f"sequence {n} of a batch", row.named(), alone.named(), ROUNDING)


def check_unbatched(case: Case) -> None:
    """One sequence without a batch axis is a batch of one."""
    layer, problem = _setting(case, batch=1, seed=23)
    problem = replace(problem, lengths=None)
    expected = _run(layer, problem)
    h_0 = _untuple(tuple(state[:, 0] for state in _given(problem.states)))
    alone = {"given": {name: array[0] for name, array in problem.given.items()}} if problem.given else {}
    output, states, trace = layer.forward(problem.x[:, 0], h_0, **alone, **_mask_options(problem))
    dh_n = _untuple(tuple(state[:, 0] for state in _given(problem.dstates)))
    back = layer.backward(trace, _given(problem.doutput)[:, 0], dh_n)
    result = Result(
        output[:, None],
        tuple(state[:, None] for state in _tuple(states)),
        back.dx[:, None],
        tuple(getattr(back, f"d{name}_0")[:, None] for name in _state_names(layer)),
        dict(back.grads),
        {name: back.dgiven[name][None] for name in _differentiable(layer, problem)},
    )
    _assert_same_all("unbatched", result.named(), expected.named())


def check_batch_first(case: Case) -> None:
    """The layer with the other batch_first gives the same, axes exchanged; states keep their axes."""
    layer, problem = _setting(case, seed=24)
    twin = case.make(seed=24, batch_first=not layer.batch_first)
    twin.load_state_dict(layer.state_dict())
    _assert_close_all(f"batch_first={twin.batch_first}", _run(twin, problem).named(), _run(layer, problem).named())


def check_dropout(case: Case) -> None:
    """Masks are in the trace, 0 or 1/(1-p); handed in again they repeat the pass bit for bit; another pass draws
    others; without training there are none.
    """
    layer, problem = _setting(case, seed=25)
    runs = [_trained(layer, problem) for _ in range(2)]
    masks = [run[2].masks for run in runs]
    _require(
        masks[0] is not None and len(masks[0]) == layer.num_layers - 1,
        f"trace.masks: must be num_layers - 1 = {layer.num_layers - 1} arrays",
    )
    kept = 1 / (1 - layer.dropout)
    for mask in masks[0]:
        _require(bool(np.all((mask == 0) | (mask == kept))), f"trace.masks: entries must be 0 or 1/(1-p) = {kept}")
    _require(not np.array_equal(masks[0][0], masks[1][0]), "dropout: two passes must draw two masks")
    _assert_replayed(layer, problem, runs[0])
    _require(_trained(layer, problem, training=False)[2].masks is None, "trace.masks: must be None without training")
    ones = [np.ones_like(mask) for mask in masks[0]]
    _assert_same_all(
        "masks of ones",
        _run(layer, replace(problem, masks=ones)).named(),
        _run(layer, replace(problem, masks=None)).named(),
    )


def check_recurrent_dropout(case: Case) -> None:
    """Masks are in the trace, 0 or 1/(1-p), one for each sequence, layer and direction; handed in again they repeat the
    pass bit for bit. A mask that all sequences share is a factor of the columns of W_hh, at every step and in no other
    place; p = 1 leaves no recurrent weight, p = 0 draws nothing.
    """
    layer, problem = _setting(case, seed=29)
    runs = [_trained(layer, problem) for _ in range(2)]
    masks, width = runs[0][2].recurrent_masks, _given(problem.states)[0].shape[-1]
    wanted = _direction_names(layer)
    _require(list(masks) == wanted, f"trace.recurrent_masks: must have {wanted}; got {list(masks)}")
    kept, shape = 1 / (1 - layer.recurrent_dropout), (problem.x.shape[1], width)
    for name, mask in masks.items():
        _require(mask.shape == shape, f"trace.recurrent_masks[{name!r}]: must have shape (N, ·) = {shape}")
        _require(bool(np.all((mask == 0) | (mask == kept))), f"trace.recurrent_masks[{name!r}]: 0 or 1/(1-p) = {kept}")
    drawn = [np.concatenate(list(run[2].recurrent_masks.values())) for run in runs]
    _require(not np.array_equal(drawn[0], drawn[1]), "recurrent dropout: two passes must draw two masks")
    _assert_replayed(layer, problem, runs[0])
    untrained = _trained(layer, problem, training=False)[2]
    _require(not untrained.recurrent_masks, "trace.recurrent_masks: must be empty without training")
    # (W_hh diag(m)) h = W_hh (m h), step after step.
    factors = {name: case.rng(30 + i).uniform(0.5, 2.0, width) for i, name in enumerate(wanted)}
    shared = {name: np.tile(factor, (shape[0], 1)) for name, factor in factors.items()}
    twin = layer.astype(layer.dtype)
    for name, factor in factors.items():
        twin.params[f"weight_hh_{name}"][...] *= factor
    expected = _run(twin, replace(problem, recurrent_masks=None))
    for name, factor in factors.items():
        expected.grads[f"weight_hh_{name}"][...] *= factor
    found = _run(layer, replace(problem, recurrent_masks=shared))
    _assert_close_all("one mask for all sequences", found.named(), expected.named())
    for rate, nothing in ((1.0, True), (0.0, False)):
        extreme = case.make(seed=29, recurrent_dropout=rate)
        given = _mask_options(replace(problem, recurrent_masks=None)) | {"training": True}
        output, states, trace = _trained(extreme, problem, **given)
        for name in wanted if nothing else ():
            extreme.params[f"weight_hh_{name}"][...] = 0
            _require(not np.any(trace.recurrent_masks[name]), "recurrent_dropout=1.0: every mask must be 0 throughout")
        _require(nothing or not trace.recurrent_masks, "recurrent_dropout=0.0: no mask may be drawn")
        without = _outputs(extreme, replace(problem, recurrent_masks=None))
        _assert_close_all(f"recurrent_dropout={rate}", _named_outputs(layer, output, states), without)


def check_zoneout(case: Case) -> None:
    """Masks are in the trace, 0 or 1, for every state, step and sequence; handed in again they repeat the pass bit for
    bit. Without training, states are the mean over masks. A mask of ones, or p = 1, keeps the initial state and lets
    no gradient through to x or a parameter; zeros, or p = 0, are the layer without zoneout.
    """
    layer, problem = _setting(case, seed=31)
    runs = [_trained(layer, problem) for _ in range(2)]
    masks, wanted = runs[0][2].zoneout_masks, _direction_names(layer)
    _require(list(masks) == wanted, f"trace.zoneout_masks: must have {wanted}; got {list(masks)}")
    shapes = [(*problem.x.shape[:2], state.shape[-1]) for state in _given(problem.states)]
    for name in wanted:
        found = [mask.shape for mask in masks[name]]
        _require(found == shapes, f"trace.zoneout_masks[{name!r}]: must have shapes {shapes}; got {found}")
        for mask in masks[name]:
            _require(bool(np.all((mask == 0) | (mask == 1))), f"trace.zoneout_masks[{name!r}]: entries must be 0 or 1")
    drawn = [np.concatenate([m.ravel() for masks in run[2].zoneout_masks.values() for m in masks]) for run in runs]
    _require(not np.array_equal(drawn[0], drawn[1]), "zoneout: two passes must draw two masks")
    _assert_replayed(layer, problem, runs[0])
    untrained = _trained(layer, problem, training=False)[2]
    _require(not untrained.zoneout_masks, "trace.zoneout_masks: must be empty without training")

    def constant(*rates: float) -> dict[str, States]:
        return {name: tuple(map(np.full, shapes, rates)) for name in wanted}

    inferred = problem.unmasked()
    mean = _outputs(layer, replace(inferred, zoneout_masks=constant(*layer.zoneout)))
    _assert_same_all("zoneout without training", _infer(layer, inferred), mean)
    plain = case.make(seed=31, zoneout=0.0)
    unzoned = _run(plain, replace(problem, zoneout_masks=None)).named()
    none = _run(layer, replace(problem, zoneout_masks=constant(*(0.0 for _ in shapes))))
    _assert_close_all("zoneout masks of zeros", none.named(), unzoned)
    _require(not _trained(plain, problem)[2].zoneout_masks, "zoneout=0.0: no mask may be drawn")
    frozen = _run(layer, replace(problem, zoneout_masks=constant(*(1.0 for _ in shapes))))
    states, alive = _given(problem.states), problem.alive()[:, :, None]
    top = np.concatenate(list(states[0][-layer.num_directions :]), axis=-1)
    still = {f"{name}_n": state for name, state in zip(STATE_NAMES, states, strict=False)}
    still["output"] = np.where(alive, top, 0)
    _assert_close_all("zoneout masks of ones", frozen.named(), still)
    for name, array in {"dx": frozen.dx, **frozen.grads}.items():
        _require(not np.any(array), f"zoneout masks of ones: the gradient {name} must be exactly 0")
    from_output = np.split(np.where(alive, _given(problem.doutput), 0).sum(axis=0), layer.num_directions, axis=-1)
    dh_0 = _given(problem.dstates)[0].copy()
    dh_0[-layer.num_directions :] += from_output
    assert_grad_close("zoneout masks of ones: dh_0", frozen.dstates_0[0], dh_0)
    always = case.make(seed=31, zoneout=1.0)
    output, finals, _ = _trained(always, problem)
    _assert_close_all("zoneout=1.0", _named_outputs(layer, output, finals), still)


def check_packed(case: Case) -> None:
    """A PackedSequence gives, bit for bit, what the padded array with its lengths gives: outputs, states, all
    gradients, packed as the input is, whether its sequences were sorted before or had to be; inference too.
    """
    layer, problem = _setting(case, batch=4, seed=32)
    by_length = np.argsort(-_given(problem.lengths), kind="stable")
    for order, enforced in ((np.arange(4), False), (by_length[::-1], False), (by_length, True)):
        ordered = problem.rows(order)
        expected, lengths = _run(layer, ordered), _given(ordered.lengths)

        def pack(array: Array, lengths: Array = lengths, enforced: bool = enforced) -> PackedSequence:
            return pack_padded_sequence(_axes(layer, array), lengths, layer.batch_first, enforce_sorted=enforced)

        x, states = pack(ordered.x), _state_in(ordered.states)
        given = _memory(layer, ordered)
        output, finals, trace = layer.forward(x, states, **given, **_mask_options(ordered))
        doutput, dstates = pack(_given(ordered.doutput)), _state_in(ordered.dstates)
        back = layer.backward(trace, doutput, dstates)
        inferred, inferred_finals = layer(x, states, **given)
        for name, array in (("output", output), ("dx", back.dx), ("output of inference", inferred)):
            is_packed = isinstance(array, PackedSequence) and x.same_layout(array)
            _require(is_packed, f"{name}: must be a PackedSequence with the layout of x, {x!r}; got {array!r:.80}")
        what = f"packed, lengths {lengths.tolist()}, enforce_sorted={enforced}"
        run = (output.padded(layer.batch_first)[0], finals, trace)
        back.dx = back.dx.padded(layer.batch_first)[0]
        _assert_same_all(what, _result(layer, run, back).named(), expected.named())
        found = _named_outputs(layer, inferred.padded(layer.batch_first)[0], inferred_finals)
        _assert_same_all(f"inference, {what}", found, _infer(layer, ordered))


def check_memory_padding(case: Case) -> None:
    """What stands in rows of a memory that the mask leaves out, be it NaN, changes nothing, and neither do further such
    rows; their gradient is exactly 0, and so is that of a sequence that has no other.
    """
    layer, problem = _setting(case, batch=4, seed=38)
    exists = _exists(problem, case)
    rows, states = _rows_of_memory(layer, problem)
    expected = _run(layer, problem)
    for name, array in expected.dgiven.items():
        if name in rows:
            _require(not np.any(array[~exists]), f"dgiven[{name!r}]: must be exactly 0 in rows that do not exist")
    for filler in (1e3, np.nan):
        changed = {name: _filled(problem.given[name], ~exists, filler) for name in rows}
        dirty = replace(problem, given={**problem.given, **changed})
        _assert_same_all(f"rows of {filler} that do not exist", _run(layer, dirty).named(), expected.named())
        _assert_same_all(f"inference, rows of {filler} that do not exist", _infer(layer, dirty), _infer(layer, problem))

    def more(array: Array, value: float, axis: int = 1) -> Array:
        width = [(0, 0)] * array.ndim
        width[axis] = (0, 3)
        return np.pad(array, width, constant_values=value)

    longer = {name: more(array, np.nan if name in rows else 0) for name, array in problem.given.items()}
    found = _run(layer, _with_states(replace(problem, given=longer), states, lambda state: more(state, 0, 2)))
    S = exists.shape[1]
    for name in rows:
        _require(not np.any(found.dgiven[name][:, S:]), f"dgiven[{name!r}]: must be exactly 0 in further rows")
    cut = tuple(state[..., :S] if k in states else state for k, state in enumerate(found.states))
    dcut = tuple(state[..., :S] if k in states else state for k, state in enumerate(found.dstates_0))
    found = replace(found, states=cut, dstates_0=dcut, dgiven={name: a[:, :S] for name, a in found.dgiven.items()})
    _assert_same_all("further rows that do not exist", found.named(), expected.named())


def check_memory_order(case: Case) -> None:
    """Rows of a memory in another order give the same, and its gradient in that order."""
    layer, problem = _setting(case, batch=4, seed=39)
    rows, states = _rows_of_memory(layer, problem)
    order = case.rng(40).permutation(_exists(problem, case).shape[1])
    expected = _run(layer, problem)
    given = {name: array[:, order] for name, array in problem.given.items()}
    found = _run(layer, _with_states(replace(problem, given=given), states, lambda state: state[..., order]))
    back = np.argsort(order)
    found = replace(
        found,
        states=tuple(state[..., back] if k in states else state for k, state in enumerate(found.states)),
        dstates_0=tuple(state[..., back] if k in states else state for k, state in enumerate(found.dstates_0)),
        dgiven={name: array[:, back] if name in rows else array for name, array in found.dgiven.items()},
    )
    _assert_close_all(f"rows of the memory in the order {order.tolist()}", found.named(), expected.named())


def _exists(problem: Problem, case: Case) -> Array:
    """Return which rows of the memory there are, (N, S)."""
    return problem.given[case.masks_of_memory[0]]


def _rows_of_memory(layer: Any, problem: Problem) -> tuple[list[str], list[int]]:
    """Return the names of given arrays with a row for each of the mask's entries, and the places of states that have
    such rows as their units.
    """
    given = layer.cell.given
    axis = given[_masks_of(layer.cell)[0]].shape[0]
    names = [name for name in _differentiable(layer, problem) if given[name].shape[0] == axis]
    return names, [k for k, state in enumerate(layer.cell.states) if state in layer.cell.state_widths]


def _with_states(problem: Problem, places: Sequence[int], change: Callable[[Array], Array]) -> Problem:
    """Return the problem with some of its states and of their gradients changed."""

    def changed(states: States | None) -> States | None:
        return None if states is None else tuple(change(s) if k in places else s for k, s in enumerate(states))

    return replace(problem, states=changed(problem.states), dstates=changed(problem.dstates))


def check_bias_gradients(case: Case) -> None:
    """Where both biases of a gate are summed before anything else happens to them, their gradients agree bit for bit;
    where something stands between (the reset gate of a GRU), they differ.
    """
    layer, problem = _setting(case, seed=33)
    grads, H = _run(layer, problem).grads, layer.hidden_size
    gates = [("a", True)] if not hasattr(layer, "cell") else _summed_biases(layer.cell)
    for name in _direction_names(layer):
        pairs = zip(
            grads[f"bias_ih_{name}"].reshape(len(gates), H),
            grads[f"bias_hh_{name}"].reshape(len(gates), H),
            strict=True,
        )
        for (gate, summed), (db_ih, db_hh) in zip(gates, pairs, strict=True):
            if summed:
                _assert_same(f"dbias_hh_{name}, gate {gate}, beside dbias_ih_{name}", db_hh, db_ih)
            else:
                different = bool(np.all(db_ih != db_hh))
                _require(different, f"dbias_hh_{name}, gate {gate}: must differ from dbias_ih_{name} in every entry")


def check_float32(case: Case) -> None:
    """A float32 layer stays float32 throughout, and agrees with its float64 twin to float32's digits."""
    twin, problem = _setting(case, steps=8, sizes=(3, 5), seed=26)
    layer = twin.astype(np.float32)
    single = _as_dtype(problem, np.float32)
    # The twin gets the rounded values, so that only the arithmetic differs.
    twin.load_state_dict(layer.state_dict())
    result, expected = _run(layer, single), _run(twin, _as_dtype(single, np.float64))
    for name, array in result.named().items():
        _require(array.dtype == np.float32, f"{name}: must be float32; got {array.dtype}")
        assert_grad_close(f"{name} in float32", array, expected.named()[name])
    for name, array in _infer(layer, single).items():
        _require(array.dtype == np.float32, f"{name} of inference: must be float32; got {array.dtype}")


def check_strides(case: Case) -> None:
    """How the arguments lie in memory does not matter."""
    layer, problem = _setting(case, seed=27)
    expected = _run(layer, problem).named()
    layouts: dict[str, Callable[[Array], Array]] = {
        "Fortran order": np.asfortranarray,
        "every other entry": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
        "backwards": lambda array: array[::-1].copy()[::-1],
        "batch axis last": lambda array: np.moveaxis(np.moveaxis(array, 1, -1).copy(), -1, 1),
    }
    for layout, arrange in layouts.items():
        _assert_close_all(f"arguments in {layout}", _run(layer, _mapped(problem, arrange)).named(), expected)
        inferred = _infer(layer, _mapped(problem, arrange))
        _assert_close_all(f"inference, arguments in {layout}", inferred, _infer(layer, problem))


def check_empty_batch(case: Case) -> None:
    """N = 0 gives empty arrays and gradients of exactly 0."""
    layer, problem = _setting(case, seed=28)
    problem = problem.rows(slice(0, 0))
    result = _run(layer, problem)
    for name, like in {"output": _given(problem.doutput), "dx": problem.x}.items():
        _require(result.named()[name].shape == like.shape, f"{name}: must have shape {like.shape} for N = 0")
    for state in (*result.states, *result.dstates_0):
        _require(state.shape[1] == 0, f"states: must have N = 0 columns; got shape {state.shape}")
    for name, array in result.grads.items():
        _require(not np.any(array), f"d{name}: must be exactly 0 for N = 0")
    _infer(layer, problem)


def check_no_steps(case: Case) -> None:
    """T = 0 is refused, by a message that says so, in training and in inference."""
    layer = case.make()
    for x in (np.zeros((0, 3, 2)), np.zeros((0, 2))):
        shaped = _axes(layer, x) if x.ndim == 3 else x
        for run in (layer.forward, layer):
            _raises(functools.partial(run, shaped), ShapeError, "T = 0")


# What takes two runs for every number, and so is for some cases only.
ENTRY_BY_ENTRY: tuple[Check, ...] = (check_gradients_by_complex_step, check_gradients_by_central_difference)

CHECKS: tuple[Check, ...] = (
    check_gradients,
    check_gradients_by_complex_step,
    check_gradients_by_central_difference,
    check_gradients_of_output,
    check_gradients_of_final_state,
    check_gradients_of_one_step,
    check_direction,
    check_first_step,
    check_linearity,
    check_accumulation,
    check_writes,
    check_unchanged,
    check_reentrant,
    check_steps,
    check_repeatable,
    check_inference,
    check_state_dict,
    check_chunks,
    check_causality,
    check_reversal,
    check_padding,
    check_batch,
    check_unbatched,
    check_batch_first,
    check_dropout,
    check_recurrent_dropout,
    check_zoneout,
    check_packed,
    check_memory_padding,
    check_memory_order,
    check_bias_gradients,
    check_float32,
    check_strides,
    check_empty_batch,
    check_no_steps,
)


# ---------------------------------------------------------------------------------------------- data


def _setting(
    case: Case,
    *,
    steps: int = 4,
    batch: int = 3,
    sizes: tuple[int, int] = (2, 3),
    seed: int = 0,
    gradient_seed: int | None = None,
) -> tuple[Any, Problem]:
    """Return a layer and a problem in which everything is there: initial states, unsorted lengths, masks, gradients.

    For relu, seeds are tried until all pre-activations keep their distance from the kink.
    """
    for attempt in range(100):
        layer = case.make(*sizes, seed=seed)
        problem = _problem(case, layer, steps, batch, 1000 * attempt + seed, gradient_seed)
        if getattr(layer, "nonlinearity", None) != "relu" or steps > 10:  # long ones meet no finite differences
            return layer, problem
        if _kink_distance(layer, problem) > KINK_DISTANCE:
            return layer, problem
    raise GradientCheckError(f"{case}: no data found whose pre-activations stay {KINK_DISTANCE} away from relu's kink")


def _problem(case: Case, layer: Any, steps: int, batch: int, seed: int, gradient_seed: int | None) -> Problem:
    rng = case.rng(seed)
    x = rng.normal(size=(steps, batch, layer.input_size))
    # Unsorted, with ties, one sequence of full length, and for three or more also one of a single step.
    lengths = rng.integers(1, steps + 1, size=batch)
    lengths[batch // 2] = steps
    if batch > 2:
        lengths[0] = 1
    given = _given_arrays(layer, batch, rng)
    output, finals = layer(_axes(layer, x), **_memory(layer, Problem(x, given=given)))
    output = _axes(layer, output)
    states = tuple(rng.normal(size=state.shape) for state in _tuple(finals))
    masks = None
    if getattr(layer, "dropout", 0):
        masks = [(rng.random(output.shape) >= layer.dropout) / (1 - layer.dropout) for _ in range(layer.num_layers - 1)]
    widths = [state.shape[-1] for state in states]
    recurrent, zoneout, directions = None, None, _direction_names(layer)
    if getattr(layer, "recurrent_dropout", 0):
        p = layer.recurrent_dropout
        recurrent = {name: (rng.random((batch, widths[0])) >= p) / (1 - p) for name in directions}
    if any(getattr(layer, "zoneout", ())):
        zoneout = {
            name: tuple(1.0 * (rng.random((steps, batch, w)) < p) for w, p in zip(widths, layer.zoneout, strict=True))
            for name in directions
        }
    rng = rng if gradient_seed is None else case.rng(gradient_seed)
    doutput = rng.normal(size=output.shape)
    dstates = tuple(rng.normal(size=state.shape) for state in _tuple(finals))
    return Problem(x, states, lengths, masks, doutput, dstates, recurrent, zoneout, given)


def _given_arrays(layer: Any, batch: int, rng: np.random.Generator) -> dict[str, Array]:
    """Return what the layer reads at every step; of three sequences or more the first has all rows
    of a memory, the last none."""
    wanted = getattr(getattr(layer, "cell", None), "given", {})
    sizes = layer.given_sizes() if wanted else {}
    found: dict[str, Array] = {}
    for name, one in wanted.items():
        shape = (batch, *(sizes.get(axis, MEMORY_ROWS) for axis in one.shape))
        if one.differentiable:
            found[name] = rng.normal(size=shape)
            continue
        mask = rng.random(shape) < 0.7
        mask[:, 0] = mask[:1] = True
        if batch > 2:
            mask[-1] = False
        found[name] = mask
    return found


def _direction_names(layer: Any) -> list[str]:
    """Return "l0", "l0_reverse", "l1", ...: what masks and traces call the layers and directions."""
    suffixes = ("", "_reverse")[: layer.num_directions]
    return [f"l{k}{suffix}" for k in range(layer.num_layers) for suffix in suffixes]


def _kink_distance(layer: Any, problem: Problem) -> float:
    """Return the smallest |a| over all layers, directions and living steps, with the problem's lengths and without."""
    distances = []
    for lengths in (problem.lengths, None):
        for states in (problem.states, None):
            variant = replace(problem, lengths=lengths, states=states)
            trace = _forward(layer, variant)[2]
            distances += [np.abs(run.a[variant.alive()]).min() for run in trace.layers.values()]
    return float(min(distances))


# ---------------------------------------------------------------------------------------------- running a layer


def _axes(layer: Any, array: Array) -> Array:
    """Exchange time and batch where the layer has the batch first: from our axes to the layer's, and back."""
    return array.swapaxes(0, 1) if layer.batch_first else array


def _tuple(states: Any) -> States:
    return states if isinstance(states, tuple) else (states,)


def _untuple(states: States) -> Any:
    return states[0] if len(states) == 1 else states


def _state_in(states: States | None) -> Any:
    return None if states is None else _untuple(states)


def _map(function: Callable[[Array], Array], states: States | None) -> States | None:
    return None if states is None else tuple(map(function, states))


def _each(masks: Mapping[str, T] | None, function: Callable[[T], T]) -> dict[str, T] | None:
    return None if masks is None else {name: function(value) for name, value in masks.items()}


def _forward(layer: Any, problem: Problem) -> tuple[Array, Any, Any]:
    """Run forward; return what the layer returns, in the layer's axes."""
    return _trained(layer, problem, **_mask_options(problem))


def _trained(layer: Any, problem: Problem, **options: Any) -> tuple[Array, Any, Any]:
    """Run forward with the problem's arrays but for its masks."""
    result: tuple[Array, Any, Any] = layer.forward(*_arguments(layer, problem), **_memory(layer, problem), **options)
    return result


def _memory(layer: Any, problem: Problem) -> dict[str, Any]:
    """Return the argument `given` of a layer that has one, in its axes."""
    given = {name: _memory_axes(layer, array) for name, array in problem.given.items()}
    return {"given": given} if given else {}


def _memory_axes(layer: Any, array: Array) -> Array:
    """Put what is (N, S, ·) into the layer's axes, and back."""
    return array if layer.batch_first or array.ndim < 3 else array.swapaxes(0, 1)


def _differentiable(layer: Any, problem: Problem) -> list[str]:
    """Return the names of given arrays that have a gradient."""
    return [name for name in problem.given if layer.cell.given[name].differentiable]


def _masks_of(cell: Any) -> list[str]:
    """Return the names of given arrays that say which rows of a memory there are."""
    return [name for name, one in getattr(cell, "given", {}).items() if not one.differentiable and len(one.shape) == 1]


def _arguments(layer: Any, problem: Problem) -> tuple[Any, Any, Any]:
    """Return the positional arguments of forward."""
    return _axes(layer, problem.x), _state_in(problem.states), problem.lengths


def _mask_options(problem: Problem) -> dict[str, Any]:
    """Return forward's arguments for the problem's masks; where it has none, nothing is drawn either."""
    masks = {
        "dropout_masks": problem.masks,
        "recurrent_masks": problem.recurrent_masks,
        "zoneout_masks": problem.zoneout_masks,
    }
    return {"training": False, **{name: value for name, value in masks.items() if value is not None}}


def _drawn_masks(trace: Any) -> dict[str, Any]:
    """Return the masks of a trace as forward's arguments: they repeat the pass."""
    masks = {"recurrent_masks": trace.recurrent_masks or None, "zoneout_masks": trace.zoneout_masks or None}
    return {"dropout_masks": trace.masks, **masks}


def _gradients_in(layer: Any, problem: Problem) -> tuple[Any, Any]:
    doutput = None if problem.doutput is None else _axes(layer, problem.doutput)
    return doutput, _state_in(problem.dstates)


def _backward(layer: Any, trace: Any, problem: Problem, grads: Any = None) -> Any:
    return layer.backward(trace, *_gradients_in(layer, problem), grads)


def _state_names(layer: Any) -> tuple[str, ...]:
    """Return the names of a layer's states: `back.dh_0`, `back.dc_0` are called after them."""
    return tuple(layer.cell.states)


def _result(layer: Any, run: tuple[Array, Any, Any], back: Any) -> Result:
    states = _tuple(run[1])
    return Result(
        _axes(layer, run[0]),
        states,
        _axes(layer, back.dx),
        tuple(getattr(back, f"d{name}_0") for name in _state_names(layer)),
        dict(back.grads),
        {name: _memory_axes(layer, array) for name, array in getattr(back, "dgiven", {}).items()},
    )


def _run(layer: Any, problem: Problem) -> Result:
    """Run both passes."""
    run = _forward(layer, problem)
    return _result(layer, run, _backward(layer, run[2], problem))


def _infer(layer: Any, problem: Problem) -> dict[str, Array]:
    """Call the layer; return outputs and states by name."""
    output, states = layer(*_arguments(layer, problem), **_memory(layer, problem))
    return _named_outputs(layer, output, states)


def _outputs(layer: Any, problem: Problem) -> dict[str, Array]:
    output, states, _ = _forward(layer, problem)
    return _named_outputs(layer, output, states)


def _named_outputs(layer: Any, output: Array, states: Any) -> dict[str, Array]:
    named = {f"{name}_n": state for name, state in zip(STATE_NAMES, _tuple(states), strict=False)}
    return {"output": _axes(layer, output), **named}


# ---------------------------------------------------------------------------------------------- oracles of a layer


def _point(layer: Any, problem: Problem) -> dict[str, Array]:
    """Return all arrays by which the loss is differentiated."""
    states = {f"{name}_0": state for name, state in zip(STATE_NAMES, problem.states or (), strict=False)}
    given = {f"given[{name!r}]": problem.given[name] for name in _differentiable(layer, problem)}
    return {**{name: array.copy() for name, array in layer.params.items()}, "x": problem.x, **states, **given}


def _point_gradients(result: Result) -> dict[str, Array]:
    return {name[1:]: array for name, array in result.gradients().items()}


def _loss(layer: Any, problem: Problem) -> Callable[[Mapping[str, Array]], Any]:
    """Return the function whose gradient the backward pass claims to be: sum(doutput * output) + sum(dh_n * h_n)."""
    twins = {np.dtype(dtype): layer.astype(dtype) for dtype in (np.float64, np.complex128)}

    def loss(point: Mapping[str, Array]) -> Any:
        twin = twins[point["x"].dtype]
        for name, array in twin.params.items():
            array[...] = point[name]
        states = None
        if problem.states is not None:
            states = tuple(point[f"{name}_0"] for name in STATE_NAMES[: len(problem.states)])
        given = {name: point.get(f"given[{name!r}]", array) for name, array in problem.given.items()}
        output, finals, _ = _forward(twin, replace(problem, x=point["x"], states=states, given=given))
        total = point["x"].dtype.type(0)
        if problem.doutput is not None:
            total += np.sum(problem.doutput * _axes(twin, output))
        for dstate, state in zip(problem.dstates or (), _tuple(finals), strict=False):
            total += np.sum(dstate * state)
        return total

    return loss


def _assert_gradients(layer: Any, problem: Problem, oracle: Callable[..., dict[str, Array]], rtol: float) -> None:
    analytic = _point_gradients(_run(layer, problem))
    for name, reference in oracle(_loss(layer, problem), _point(layer, problem)).items():
        assert_grad_close(f"d{name}", analytic[name], reference, rtol)


def _assert_stepwise(layer: Any, problem: Problem) -> None:
    """Compare every entry with the chain rule over single steps; what is no `Recurrent` has no steps to differentiate,
    and its whole run is.
    """
    if not isinstance(layer, Recurrent):
        _assert_gradients(layer, problem, complex_step, ORACLE_TOLERANCES["complex step"])
        return
    run = _forward(layer, problem)
    analytic = _point_gradients(_result(layer, run, _backward(layer, run[2], problem)))
    found = ChainRule(layer, run[2], *_gradients_in(layer, problem)).exact.tensors
    states = {f"{own}_0": f"{name}_0" for own, name in zip(_state_names(layer), STATE_NAMES, strict=False)}
    reference = {states.get(name, name): array for name, array in found.items()}
    reference["x"] = _axes(layer, reference["x"])
    point = _point(layer, problem)
    # No parameter, nor what a step hands to the next: by the complex step of the whole run.
    memory = [f"given[{name!r}]" for name in _differentiable(layer, problem)]
    if memory:
        reference |= complex_step(_loss(layer, problem), point, names=memory)
    rtol = ORACLE_TOLERANCES["central difference" if _loses(layer, problem) else "complex step"]
    for name in point:
        assert_grad_close(f"d{name}", analytic[name], reference[name], rtol)


def _loses(layer: Any, problem: Problem) -> bool:
    """Whether a forward formula is not analytic: a complex step through it proves nothing."""
    if not isinstance(layer, Recurrent):
        return False
    trace = _forward(layer, problem)[2]
    return any(lines_that_lose(steps) for steps in recorded_steps(layer, trace).values())


def _assert_along_directions(layer: Any, problem: Problem, rng: np.random.Generator, count: int = DIRECTIONS) -> None:
    """Raise unless <gradient, v> is the complex-step derivative of the whole run along random v, for each tensor."""
    gradients = _point_gradients(_run(layer, problem))
    point, loss = _point(layer, problem), _loss(layer, problem)
    lost = _loses(layer, problem)
    way = "differences" if lost else "complex step"
    moved = {name: array.astype(complex) for name, array in point.items()}
    for name, array in point.items():
        for _ in range(count):
            v = rng.normal(size=array.shape)
            if lost:
                along = slopes(functools.partial(_loss_along, loss, point, name, v))
                derivative, error = float(along.slopes), 8 * float(along.errors)
            else:
                moved[name] = array + 1j * COMPLEX_STEP * v
                derivative, error = complex(loss(moved)).imag / COMPLEX_STEP, 0.0
            projected = float(np.sum(gradients[name] * v))
            # Relative to the gradient, not to its projection, which cancels.
            size = float(np.linalg.norm(gradients[name]) * np.linalg.norm(v))
            bound = ORACLE_TOLERANCES["central difference" if lost else "complex step"] * size + error
            rough = f"d{name}: differences along a random direction are known to {error:.1e} only: the loss is rough"
            _require(error <= ROUGH * size, f"{rough}, as one that computes in single precision")
            _require(
                abs(projected - derivative) <= bound,
                f"d{name}: along a random direction {projected!r}, but {derivative!r} by {way}; allowed error "
                f"{bound:.1e}",
            )
        moved[name] = array.astype(complex)


def _loss_along(
    loss: Callable[[Mapping[str, Array]], Any], point: Mapping[str, Array], name: str, v: Array, step: float
) -> Array:
    return np.array(float(loss({**point, name: point[name] + step * v})))


# ---------------------------------------------------------------------------------------------- changes of arrays


def _filled(array: Array, where: Array, value: float) -> Array:
    filled = array.copy()
    filled[where] = value
    return filled


def _extended(array: Array) -> Array:
    """Return `array` with two more steps, of ones."""
    return np.concatenate([array, np.ones((2, *array.shape[1:]), array.dtype)])


def _flipped(array: Array, problem: Problem) -> Array:
    """Return each sequence read from its own end; what is past the end stays."""
    flipped = array.copy()
    for n, length in enumerate(problem.alive().sum(axis=0)):
        flipped[:length, n] = array[:length, n][::-1]
    return flipped


def _halves_swapped(array: Array) -> Array:
    """Exchange the halves of the last axis: outputs of both directions stand side by side."""
    return np.roll(array, array.shape[-1] // 2, axis=-1)


def _directions_swapped(state: Array) -> Array:
    """Exchange rows 2k and 2k+1 of a state: the directions of layer k."""
    return state.reshape(-1, 2, *state.shape[1:])[:, ::-1].reshape(state.shape)


def _other_direction(name: str) -> str:
    return name.removesuffix("_reverse") if name.endswith("_reverse") else name + "_reverse"


def _names_swapped(masks: dict[str, T] | None) -> dict[str, T] | None:
    return None if masks is None else {_other_direction(name): value for name, value in masks.items()}


def _reads_layer_below(name: str) -> bool:
    return name.startswith("weight_ih") and not name.startswith("weight_ih_l0")


def _as_dtype(problem: Problem, dtype: DTypeLike) -> Problem:
    return _mapped(problem, lambda array: array.astype(dtype))


def _mapped(problem: Problem, function: Callable[[Array], Array]) -> Problem:
    """Return the problem with every floating array replaced."""
    return Problem(
        function(problem.x),
        _map(function, problem.states),
        problem.lengths,
        None if problem.masks is None else [function(mask) for mask in problem.masks],
        None if problem.doutput is None else function(problem.doutput),
        _map(function, problem.dstates),
        _each(problem.recurrent_masks, function),
        _each(problem.zoneout_masks, lambda masks: tuple(map(function, masks))),
        {name: array if array.dtype == bool else function(array) for name, array in problem.given.items()},
    )


def _arrays(problem: Problem) -> dict[str, Array]:
    """Return all arrays of the problem by name."""
    named: dict[str, Array] = {"x": problem.x}
    for name, states in (("h_0", problem.states), ("dh_n", problem.dstates)):
        named |= {f"{name}[{i}]": state for i, state in enumerate(states or ())}
    named |= {f"dropout_masks[{i}]": mask for i, mask in enumerate(problem.masks or ())}
    named |= {f"recurrent_masks[{name!r}]": mask for name, mask in (problem.recurrent_masks or {}).items()}
    for name, masks in (problem.zoneout_masks or {}).items():
        named |= {f"zoneout_masks[{name!r}][{i}]": mask for i, mask in enumerate(masks)}
    if problem.lengths is not None:
        named["lengths"] = problem.lengths
    if problem.doutput is not None:
        named["doutput"] = problem.doutput
    named |= {f"given[{name!r}]": array for name, array in problem.given.items()}
    return named


def _attributes(layer: Any) -> dict[str, tuple[Any, str]]:
    """Return the layer's attributes, each with its value as text; a generator may draw, that is what it is for."""
    return {
        name: (value, "" if isinstance(value, np.random.Generator) else repr(value))
        for name, value in vars(layer).items()
    }


def _copied(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in arrays.items()}


# ---------------------------------------------------------------------------------------------- verdicts


def _summed_biases(cell: Any) -> list[tuple[str, bool]]:
    """Return the gates of a cell, each with whether its two biases are summed at once."""
    slabs = zip(cell.input_slabs, cell.hidden_slabs, strict=True)
    return [(gate, one == other) for gate, (one, other) in zip(cell.gate_names, slabs, strict=True)]


def _given(value: T | None) -> T:
    """Return a part of a problem that the check needs."""
    if value is None:
        raise GradientCheckError("conformance: the problem lacks a part that the check needs")
    return value


def _largest(array: Array) -> float:
    return float(np.max(np.abs(array)))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise GradientCheckError(message)


def _assert_same(name: str, found: Array, expected: Array) -> None:
    """Raise unless both agree bit for bit (0 and -0 being one number)."""
    _require(found.dtype == expected.dtype, f"{name}: must have dtype {expected.dtype}; got {found.dtype}")
    _require(found.shape == expected.shape, f"{name}: must have shape {expected.shape}; got {found.shape}")
    if not np.array_equal(found, expected):
        index = tuple(int(i) for i in np.argwhere(~(found == expected))[0])
        raise GradientCheckError(
            f"{name}: must agree bit for bit; first difference at {list(index)}: {found[index]!r} and "
            f"{expected[index]!r}"
        )


def _assert_same_all(what: str, found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    for name, array in expected.items():
        _assert_same(f"{what}: {name}", found[name], array)


def _assert_replayed(layer: Any, problem: Problem, run: tuple[Array, Any, Any]) -> None:
    """Raise unless the masks of a run's trace, handed in, repeat both passes bit for bit."""
    again = _trained(layer, problem, **_drawn_masks(run[2]))
    first, second = (_result(layer, one, _backward(layer, one[2], problem)).named() for one in (run, again))
    _assert_same_all("replayed masks", second, first)


def _assert_close_all(
    what: str, found: Mapping[str, Array], expected: Mapping[str, Array], rtol: float | None = None
) -> None:
    for name, array in expected.items():
        assert_grad_close(f"{what}: {name}", found[name], array, rtol)


def _raises(call: Callable[[], Any], error: type[Exception], *words: str) -> None:
    """Raise unless the call raises `error` with a message that has all `words`."""
    try:
        call()
    except error as raised:
        missing: Sequence[str] = [word for word in words if word not in str(raised)]
        _require(not missing, f"message must name {missing}; got {str(raised)!r}")
    else:
        raise GradientCheckError(f"must raise {error.__name__}; nothing was raised")
