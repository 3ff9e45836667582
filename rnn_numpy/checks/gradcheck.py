"""The gradient check: is this backward pass the gradient of that forward pass, entry by entry, whatever its size?

    report = gradcheck(layer, x)                          a recurrent layer, random signed loss on outputs and final state
    report = gradcheck(layer, x, loss=loss)               with a loss on top: (output, h_n) -> (loss, doutput)
    report = gradcheck(model, x, target)                  a model with loss_and_grads(x, target)
    report = gradcheck(loss, params, grads=grads)         two functions of a dict of arrays

No absolute tolerance decides anything, so that a gradient of 1e-100 is judged as one of 1; and no end-to-end run stands
alone, so that chaos does not drown the verdict. What is done with a recurrent layer:

1. The reference is *state-forced* (`rnn_numpy.checks.forced`): each step's forward formula is differentiated at the
   recorded states by the complex step, and chained. Every entry of every parameter, input and initial state is compared,
   and the gradients of the pre-activations at every step as well, where a mistake that has vanished from the sums still
   shows.
2. What rounding may do to each entry is computed, not assumed: from all contributions (t, k) to it, so that an entry in
   which they cancel is given just the error that they bring, and a small entry that does not cancel is given none.
3. The growth of perturbations over the run is measured. Where rounding stays small enough for it, the reference itself
   is confirmed end to end, by the complex step of the whole forward pass along random signed directions.
4. The whole gradient goes through tests that share nothing with the reference: Taylor's, the adjoint test with
   hand-written tangents, real-time recurrent learning.
5. All is run twice and must agree bit for bit; arguments must be left as they were.

A failure is localised and compared with known mistakes (`rnn_numpy.checks.diagnosis`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.checks.diagnosis import diagnose_layer, diagnose_tensors
from rnn_numpy.checks.forced import Forced
from rnn_numpy.checks.functions import checked_gradients, checked_params
from rnn_numpy.checks.reference import Reference, reference_gradients
from rnn_numpy.checks.report import OK, UNDECIDED, WRONG, Diagnosis, GradcheckReport, Row, Trial
from rnn_numpy.checks.subjects import LayerSubject, ModelSubject, PairSubject, Point, Subject
from rnn_numpy.errors import DTypeError, OptionError
from rnn_numpy.layers.local import STEP

Array = NDArray[Any]
Tell = Callable[[int, int, str], None]

EPS = float(np.finfo(np.float64).eps)

METHODS = ("auto", "forced", "complex step", "ridders", "fourth order", "central difference", "directional")

# Beyond this many complex numbers, all matrices of all steps together, a layer is checked along directions only.
MOST = 2**31


def gradcheck(
    target: Any,
    x: Any = None,
    h_0: Any = None,
    lengths: ArrayLike | None = None,
    *,
    grads: Callable[[dict[str, Array]], Mapping[str, Array]] | None = None,
    doutput: ArrayLike | None = None,
    dh_n: Any = None,
    loss: Callable[..., Any] | None = None,
    method: str = "auto",
    names: Iterable[str] | None = None,
    dropout_masks: Sequence[ArrayLike] | None = None,
    recurrent_masks: Mapping[str, ArrayLike] | None = None,
    zoneout_masks: Mapping[str, Sequence[ArrayLike]] | None = None,
    trials: bool = True,
    seed: int = 0,
    tell: Tell | None = None,
) -> GradcheckReport:
    """Check a hand-written gradient, and say what is wrong with it.

    Parameters
    ----------
    target : layer, model, or callable
        A recurrent layer; anything with params, astype, forward and backward like one; a model with params, astype and
        loss_and_grads; or a function from a dict of arrays to a number.
    x : ndarray, or dict of str to ndarray
        A layer's input, (T, N, D) as `forward` takes it; a model's first argument; a function's dict of arrays. Of a
        few dozen steps and units: each entry is checked.
    h_0, lengths : optional
        As for `layer.forward`; the further arguments of a model's loss_and_grads.
    grads : callable
        With a function: the gradients that are checked, from the same dict of arrays to one of the same names.
    doutput, dh_n : optional
        The loss of a layer is sum(doutput * output) + sum(dh_n * h_n). Signed normal numbers where left out.
    loss : callable, optional
        A loss on top of a layer in place of that: maps (output, h_n) to (loss, doutput), or (loss, doutput, dh_n). Its
        own gradient is checked too.
    method : str
        Where the reference comes from. "forced": steps at recorded states, for recurrent layers of this package and
        subclasses of them. "complex step", "ridders", "fourth order", "central difference": of the whole loss, entry by
        entry. "directional": the complex step of the whole loss along a few random directions for each array, for what
        is too large for more. "auto": the first of these that is exact and affordable.
    names : iterable of str, optional
        Check these arrays alone: parameters, "x", "h_0".
    dropout_masks, recurrent_masks, zoneout_masks : optional
        As for `layer.forward`. A layer with dropout or zoneout gets masks that are drawn once and replayed.
    trials : bool
        Also run Taylor's test, the adjoint test and RTRL, where they apply.
    seed : int
        Of all random draws: gradients of outputs, masks, directions.
    tell : callable, optional
        Called with (done, total, label) as the work goes on.

    Returns
    -------
    GradcheckReport
        Print it; `.ok`, `.rows`, `.diagnosis`, `.raise_if_failed()`, `.to_dict()`.

    Raises
    ------
    DTypeError, OptionError, ShapeError
        An argument does not fit.
    GradientCheckError
        There is no gradient to check: a function is not deterministic, modifies its argument or returns no number; a
        gradient has another shape than its array, is complex, or has another name. What is merely wrong raises nothing:
        it stands in the report.

    Notes
    -----
    Cost, forced: as many single forward steps as there are steps, states and pre-activations, in calls of many columns:
    0.2 s for an LSTM of T = 30, H = 32. Otherwise one evaluation of the loss, or some, for each entry.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import GRU
    >>> report = gradcheck(GRU(2, 4, rng=0), np.random.default_rng(1).normal(size=(30, 2, 2)))
    >>> report.ok, report.error < 1e-14
    (True, True)

    A gradient of one's own, wrong in one entry, however small:

    >>> report = gradcheck(
    ...     lambda params: np.sum(1e-100 * np.sin(params["w"])),
    ...     {"w": np.array([0.1, 0.2])},
    ...     grads=lambda params: {"w": 1e-100 * np.cos(params["w"]) * [1.0, 1.001]},
    ... )
    >>> report.ok, report["w"].index
    (False, (1,))
    """
    where = "gradcheck"
    if method not in METHODS:
        raise OptionError(f"{where}: method must be one of {', '.join(METHODS)}; got {method!r}")
    masks = {"dropout_masks": dropout_masks, "recurrent_masks": recurrent_masks, "zoneout_masks": zoneout_masks}
    masks = {name: mask for name, mask in masks.items() if mask is not None}
    if hasattr(target, "forward") and hasattr(target, "backward"):
        if grads is not None:
            raise OptionError(f"{where}: grads goes with a function and its dict of arrays; a layer brings its own")
        if x is None:
            raise OptionError(f"{where}: a layer needs an input x, (T, N, D)")
        subject: Subject = LayerSubject(target, x, h_0, lengths, doutput, dh_n, loss, masks, seed)
    elif hasattr(target, "loss_and_grads"):
        _none(where, "a model", doutput=doutput, dh_n=dh_n, loss=loss, grads=grads, **masks)
        given = [x, h_0, lengths]
        while given and given[-1] is None:
            given.pop()
        subject = ModelSubject(target, tuple(given))
    elif callable(target):
        _none(where, "a function", h_0=h_0, lengths=lengths, doutput=doutput, dh_n=dh_n, loss=loss, **masks)
        if not callable(grads):
            raise OptionError(
                f"{where}: a function needs grads, the function whose gradients are checked; got {grads!r}"
            )
        checked = checked_params(x, where=where)
        subject = PairSubject(target, grads, checked.arrays, checked_gradients)
        subject.notes += checked.notes
    else:
        raise DTypeError(
            f"{where}: target must be a layer (forward, backward), a model (loss_and_grads) or a function; "
            f"got {type(target).__name__}"
        )
    chosen = _chosen(where, subject, names)
    return _Check(subject, chosen, method, trials, seed, tell or _silence).report()


def assert_gradients(*args: Any, **kwargs: Any) -> GradcheckReport:
    """Run `gradcheck` with these arguments, raise `GradientCheckError` with its report unless it passes.

    For test suites: one line is one test.

    Examples
    --------
    >>> import numpy as np
    >>> from rnn_numpy import LSTM
    >>> report = assert_gradients(LSTM(2, 3, rng=0), np.ones((4, 2, 2)), lengths=[4, 2])
    """
    report = gradcheck(*args, **kwargs)
    report.raise_if_failed()
    return report


def _silence(done: int, total: int, label: str) -> None:
    """Of a check that nobody watches."""


def _none(where: str, what: str, **arguments: Any) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise OptionError(f"{where}: {', '.join(given)} goes with a layer, not with {what}; leave it out")


def _chosen(where: str, subject: Subject, names: Iterable[str] | None) -> list[str]:
    if names is None:
        return list(subject.point)
    chosen = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in subject.point]
    if unknown or not chosen:
        raise OptionError(f"{where}: names must be among {', '.join(subject.point)}; got {unknown or chosen}")
    return chosen


class _Check:
    """One run of the check: the claimed gradient, a reference, the verdicts."""

    def __init__(self, subject: Subject, names: list[str], method: str, trials: bool, seed: int, tell: Tell) -> None:
        self.subject = subject
        self.names = names
        self.method = method
        self.with_trials = trials
        self.seed = seed
        self.tell = tell
        self.notes: list[str] = []
        self.trials: list[Trial] = []
        self.kinks: list[Any] = []
        self.growth = math.nan

    def report(self) -> GradcheckReport:
        subject = self.subject
        first = subject.analytic()
        touched = subject.touched()
        second = subject.analytic()
        reproducible = all(first[name].tobytes() == second[name].tobytes() for name in first)
        self.notes += subject.notes
        finite = all(np.isfinite(array).all() for array in first.values())
        method, rows = self._compared(first)
        diagnosis = None
        if touched:
            kind = "parameters modified" if all(name.startswith("params") for name in touched) else "input modified"
            diagnosis = Diagnosis(
                kind, f"the backward pass has changed {', '.join(touched)}, which it was handed to read"
            )
        elif not reproducible:
            diagnosis = self._differing(first, second)
        elif not finite or any(row.verdict == WRONG for row in rows):
            diagnosis = self._diagnosed(first, rows)
        elif isinstance(subject, LayerSubject):
            diagnosis = subject.broken_promise(first)
        if self.with_trials and finite:
            self._run_trials(first)
        return GradcheckReport(
            subject.title,
            method,
            rows,
            self.trials,
            diagnosis,
            self.growth,
            self.notes,
            self.kinks,
            self.seed,
            reproducible,
        )

    # -------------------------------------------------------------------------------------------- the reference

    def _compared(self, analytic: Point) -> tuple[str, list[Row]]:
        """Return the method that was used in the end, and the rows."""
        subject, method = self.subject, self.method
        layer = isinstance(subject, LayerSubject) and subject.recurrent
        if method == "forced" and not layer:
            raise OptionError("gradcheck: method 'forced' is for recurrent layers of this package and their subclasses")
        if layer and method in ("auto", "forced"):
            return self._forced(analytic)
        if method == "directional":
            return self._along_directions(analytic)
        return self._by_entries(analytic, method)

    def _forced(self, analytic: Point) -> tuple[str, list[Row]]:
        subject = self.subject
        layer, trace = subject.layer, subject.trace
        size = trace.context.plan.T * trace.context.plan.N * _matrices(layer)
        if size > MOST:
            self.notes.append(
                f"{size:.0e} numbers in the matrices of all steps: too many to check each entry; checked along directions. "
                "A shorter run, or fewer units, is checked in full"
            )
            return self._along_directions(analytic)
        self.forced = forced = Forced(layer, trace, subject.doutput, subject.dfinal, self.tell)
        method = "complex step of every forward step at the recorded states, chained"
        exact = forced.exact.tensors
        self.growth = _growth(forced)
        confirmed = self._confirm(exact)
        if forced.deviation > 1e-12 or not confirmed:
            # The forward pass is not the chain of its steps: a subclass that changes more than formulas.
            self.notes.append(
                "the layer's forward pass is not the chain of its cell's steps; compared end to end instead"
            )
            del self.forced
            self.trials.clear()
            return self._by_entries(analytic, "auto")
        tolerances = forced.tolerances(seed=self.seed)
        self.tolerances = tolerances
        rows: list[Row] = []
        for name in self.names:
            scale = _step_scales(exact[name], subject) if name == "x" else None
            kappa = _kappas(exact[name], tolerances.absolute[name])
            rows += self._rows(name, analytic[name], exact[name], tolerances.tensors[name], kappa, scale)
        rows += self._step_rows(trace)
        if np.dtype(subject.source.params.dtype) == np.float32:
            rows = self._single(rows)
        self._find_layer_kinks(trace)
        if subject.on_top is not None:
            rows += self._loss_rows()
        return method, rows

    def _rows(
        self,
        name: str,
        analytic: Array,
        reference: Array,
        allowed: Array,
        kappa: Array | None = None,
        scale: Array | None = None,
    ) -> list[Row]:
        """Return a row for each gate's rows of a tensor, or one for all of it."""
        blocks: list[tuple[str | None, slice]] = list(self.subject.gates.get(name, [])) or [(None, slice(None))]
        rows = []
        for gate, part in blocks:
            offset = part.start or 0
            index, error, bound, verdict = _judged(
                analytic[part], reference[part], allowed[part], None if scale is None else scale[part]
            )
            place = (index[0] + offset, *index[1:]) if index and analytic.ndim else index
            at = place if analytic.size else ()
            value = analytic[at] if analytic.size else 0.0
            truth = reference[at] if analytic.size else 0.0
            cancels = math.nan if kappa is None or not analytic.size else float(kappa[at])
            shape = analytic[part].shape if analytic.ndim else ()
            rows.append(Row(name, gate, shape, error, at, float(value), float(truth), cancels, bound, verdict))
        return rows

    def _step_rows(self, trace: Any) -> list[Row]:
        """Return rows for the gradients of the pre-activations at every step, as the layer's trace has them."""
        rows = []
        for name, run in self.forced.exact.runs.items():
            layer_trace = trace.runs[name]
            found = layer_trace.latest.arrays.find("da")
            if (
                found is None
                or self.subject.layer.cell.input_gradient != "da"
                or layer_trace.latest.reached is not None
            ):
                continue
            scale = np.abs(run.da).max(axis=2, keepdims=True, initial=0.0) * np.ones_like(run.da)
            alive = self.forced.maps[name].steps.alive[..., None]
            found = np.where(alive, found, 0)
            rows += self._rows(f"da_{name}", found, run.da, self.tolerances.da[name], None, scale)
        return rows

    def _confirm(self, exact: Point) -> bool:
        """Compare the reference with the complex step of the whole forward pass, along signed random directions."""
        subject, rng = self.subject, np.random.default_rng([self.seed, 1])
        drift = EPS * max(self.growth, 1.0)
        worst, confirmed = 0.0, True
        if drift > 1e-9:
            rate = math.log(self.growth) / max(1, subject.trace.context.plan.T)
            self.notes.append(
                f"perturbations grow {self.growth:.0e}-fold over the run (about {rate:+.2f} per step): rounding alone moves an "
                f"end-to-end reference by {drift:.0e} of it. The check is state-forced, step by step from the recorded "
                "states, where nothing drifts"
            )
            return True
        if subject.on_top is not None:
            return True  # the loss on top need not be analytic: it is checked by itself
        for name, gradient in exact.items():
            draw = rng.normal(size=gradient.shape)
            expected, size = float(np.sum(gradient * draw)), float(np.sum(np.abs(gradient * draw)))
            error = abs(self._slope(name, draw) - expected)
            worst = max(worst, error / size if size else error)
        # What is to be found here is a forward pass that is another function than its steps, not rounding.
        confirmed = worst <= max(1e-10, 64 * drift * subject.trace.context.plan.T)
        self.trials.append(Trial("reference end to end", f"{worst:.0e}", confirmed, worst))
        return confirmed

    def _single(self, rows: list[Row]) -> list[Row]:
        """Compare a float32 layer with its float64 twin, which has been checked."""
        subject = self.subject
        exact = self.forced.exact.tensors
        eps = float(np.finfo(np.float32).eps)
        # At the very same numbers, the double twin's forward pass and the single one's round differently; how much that
        # matters is asked of the double one, with its data moved by as much.
        single = subject.single()
        noise = {name: np.zeros_like(array) for name, array in exact.items()}
        rng = np.random.default_rng([self.seed, 2])
        for _ in range(4):
            moved = {n: a * (1 + eps * rng.choice([-1.0, 1.0], a.shape)) for n, a in subject.point.items()}
            gradients = subject.at(moved)
            for name in noise:
                noise[name] = np.maximum(noise[name], np.abs(gradients[name] - exact[name]))
        ratio = eps / EPS
        found = []
        for name in self.names:
            largest = noise[name].max(initial=0.0)
            allowed = 4 * self.tolerances.tensors[name] * ratio + 8 * largest
            found += [
                Row(**{**vars(row), "note": "float32"}) for row in self._rows(name, single[name], exact[name], allowed)
            ]
        self.notes.append("float32: the float64 twin was checked first; its rows stand first, then float32 against it")
        return [*rows, *found]

    def _loss_rows(self) -> list[Row]:
        """Check the gradient of the loss on top, by what it says of outputs and final states."""
        subject = self.subject
        output, final, _ = subject.forward()
        states = final if isinstance(final, tuple) else (final,)
        point = {"output": np.array(output)} | {
            f"{n}_n": np.array(s) for n, s in zip(subject.names, states, strict=False)
        }

        def loss(at: Mapping[str, Array]) -> Any:
            finals = tuple(at[f"{name}_n"] for name in subject.names[: len(states)])
            return subject._top(at["output"], finals if isinstance(final, tuple) else finals[0])[0]

        reference = reference_gradients(loss, point, seed=self.seed, where="gradcheck: loss")
        claimed = {"output": np.asarray(subject.doutput)}
        dfinals = subject.dfinal if isinstance(subject.dfinal, tuple) else (subject.dfinal,)
        for name, dfinal in zip(subject.names, dfinals, strict=False):
            claimed[f"{name}_n"] = np.zeros(point[f"{name}_n"].shape) if dfinal is None else np.asarray(dfinal)
        rows = []
        for name, gradient in claimed.items():
            allowed = _allowed(reference, name, 16 * EPS * np.abs(reference.gradients[name]).max(initial=0.0))
            row = self._rows(f"d{name} (loss)", gradient, reference.gradients[name], allowed)
            rows += row
        return rows

    # -------------------------------------------------------------------------------------------- other references

    def _by_entries(self, analytic: Point, method: str) -> tuple[str, list[Row]]:
        """Differentiate the whole loss, entry by entry."""
        subject = self.subject
        point = {name: subject.point[name] for name in subject.point}
        reference = reference_gradients(
            subject.loss, point, method=method, seed=self.seed, names=self.names, tell=self.tell, where="gradcheck"
        )
        self.notes += reference.notes
        self.kinks += reference.kinks
        noise, undecided = self._noise(analytic)
        rows: list[Row] = []
        for name in self.names:
            largest = float(np.abs(reference.gradients[name]).max(initial=0.0))
            allowed = _allowed(reference, name, 16 * EPS * largest + 4 * noise[name])
            found = self._rows(name, analytic[name], reference.gradients[name], allowed)
            rows += [_undecided(row) if undecided[name] and row.verdict == OK else row for row in found]
        return reference.method, rows

    def _noise(self, analytic: Point) -> tuple[Point, dict[str, bool]]:
        """Return how much the claimed gradient changes when its point moves in its last digit, and where that leaves too few
        digits to judge.
        """
        subject, rng = self.subject, np.random.default_rng([self.seed, 3])
        noise = {name: np.zeros(array.shape) for name, array in analytic.items()}
        for _ in range(3):
            moved = {n: a * (1 + EPS * rng.choice([-1.0, 1.0], a.shape)) for n, a in subject.point.items()}
            found = subject.at(moved)
            for name in noise:
                noise[name] = np.maximum(noise[name], np.abs(found[name] - analytic[name]))
        undecided = {}
        for name, array in analytic.items():
            largest = float(np.abs(array).max(initial=0.0))
            undecided[name] = bool(noise[name].max(initial=0.0) > 1e-6 * largest)
            # A gradient that jumps by more than this excuses nothing.
            noise[name] = np.minimum(noise[name], 1e-6 * largest)
        if any(undecided.values()):
            self.notes.append(
                "moving the point in its last digit changes the gradient by more than a millionth: rounding is amplified "
                "too much for an end-to-end verdict. Check a shorter run, or hand in the recurrent layer itself, which is "
                "then checked step by step"
            )
        return noise, undecided

    def _along_directions(self, analytic: Point) -> tuple[str, list[Row]]:
        """Check each array along a few random directions, by one complex forward pass for each."""
        subject, rng = self.subject, np.random.default_rng([self.seed, 4])
        rows, count = [], 4
        for number, name in enumerate(self.names):
            gradient, worst = analytic[name], (-1.0, 0.0, 0.0, 0.0)
            for _ in range(count):
                draw = rng.normal(size=gradient.shape)
                found = self._slope(name, draw)
                claimed = float(np.sum(gradient * draw))
                norm = float(np.linalg.norm(gradient)) * float(np.sqrt(max(1, gradient.size)))
                norm = max(norm, abs(found))
                error = abs(found - claimed) / norm if norm else 0.0
                worst = max(worst, (error, claimed, found, norm))
            error, claimed, found, _ = worst
            allowed = 1e-13 * max(1.0, self.growth if self.growth > 1 else 1.0)
            verdict = OK if error <= allowed else WRONG
            row = Row(name, None, gradient.shape, error, (), claimed, found, math.nan, allowed, verdict)
            rows.append(row)
            self.tell(number + 1, len(self.names), f"directions of {name}")
        self.notes.append(
            f"each array was checked along {count} signed random directions, relative to the gradient's norm: analytic and "
            "reference are the slopes along the worst of them"
        )
        return "complex step along random directions", rows

    def _slope(self, name: str, direction: Array) -> float:
        """Return the slope of the loss along a change of one array, by the complex step of the whole forward pass."""
        shifted = {key: array.astype(np.complex128) for key, array in self.subject.point.items()}
        shifted[name] += 1j * STEP * direction
        return float(complex(self.subject.loss(shifted)).imag / STEP)

    # -------------------------------------------------------------------------------------------- further tests

    def _run_trials(self, analytic: Point) -> None:
        return

    def _find_layer_kinks(self, trace: Any) -> None:
        """List pre-activations of a relu that are exactly at its kink, where the two slopes differ."""
        if getattr(self.subject.layer, "nonlinearity", None) != "relu":
            return
        count = 0
        for name, run in trace.runs.items():
            alive = self.forced.maps[name].steps.alive[..., None]
            count += int(np.sum((run.arrays["a"] == 0) & alive))
        if count:
            self.notes.append(
                f"{count} pre-activations are exactly 0, the kink of relu: its derivative there is 0 by convention, as in "
                "torch; one-sided slopes are 0 and 1"
            )

    # -------------------------------------------------------------------------------------------- the diagnosis

    def _differing(self, first: Point, second: Point) -> Diagnosis:
        names = [name for name in first if first[name].tobytes() != second[name].tobytes()]
        pairs = [(first[name], second[name]) for name in names]
        if all(np.allclose(b, 2 * a, rtol=1e-12, atol=0) for a, b in pairs):
            why = (
                f"a second run gives twice the gradient of {', '.join(names)}: something adds to the first run's result"
            )
            return Diagnosis("accumulated over calls", why)
        return Diagnosis("not deterministic", f"two runs on the same arrays differ in {', '.join(names)}")

    def _diagnosed(self, analytic: Point, rows: list[Row]) -> Diagnosis:
        forced = getattr(self, "forced", None)
        subject = self.subject
        if forced is not None and isinstance(subject, LayerSubject):
            return diagnose_layer(subject, forced, self.tolerances, analytic, rows)
        references = getattr(self, "references", {})
        return diagnose_tensors(subject, analytic, references, rows)


def _matrices(layer: Any) -> int:
    """Return the complex numbers that one step of one sequence takes, all its matrices together."""
    states = sum(layer._width(state) for state in layer.cell.states)
    slabs = len(layer.cell.slabs) * layer.hidden_size
    return (states + slabs) * (states + slabs) * layer.num_layers * layer.num_directions


def _growth(forced: Forced) -> float:
    """Return how much a perturbation grows, at most, from any step to any later one; by the matrices of the steps.

    One random vector for each sequence follows the steps, and starts anew at length 1 wherever it has become shorter.
    """
    total = 1.0
    for directions in forced._stack():
        worst = 1.0
        for maps in directions:
            steps, rng = maps.steps, np.random.default_rng(0)
            vector = rng.normal(size=(steps.N, steps.S))
            vector /= np.linalg.norm(vector, axis=1, keepdims=True)
            for t in steps.order():
                alive = steps.alive[t][:, None]
                moved = np.matmul(maps.jacobians.state[t], vector[..., None])[..., 0]
                norm = np.linalg.norm(moved, axis=1, keepdims=True)
                fresh = rng.normal(size=vector.shape)
                fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)
                vector = np.where(alive, np.where(norm < 1, fresh, moved), vector)
                worst = max(worst, float(np.linalg.norm(vector, axis=1).max(initial=0.0)))
        total *= worst  # what a layer makes of an error goes into the next one
    return total


def _step_scales(gradient: Array, subject: Any) -> Array:
    """Return, for each entry of dx, the largest entry of its step: early steps are not judged by late ones."""
    return np.abs(gradient).max(axis=-1, keepdims=True, initial=0.0) * np.ones_like(gradient)


def _kappas(gradient: Array, absolute: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.divide(absolute, np.abs(gradient), out=np.full(gradient.shape, np.nan), where=gradient != 0)


def _judged(
    analytic: Array, reference: Array, allowed: Array, scale: Array | None
) -> tuple[tuple[int, ...], float, float, str]:
    """Return the worst entry, the largest relative error, what is allowed there, and the verdict."""
    if not analytic.size:
        return (), 0.0, 0.0, OK
    bad = ~np.isfinite(analytic)
    if bad.any():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
        return index, math.nan, 0.0, WRONG
    distance = np.abs(analytic - reference)
    if scale is None:
        scale = np.full(reference.shape, float(np.abs(reference).max()))
    with np.errstate(over="ignore"):
        relative = np.divide(distance, scale, out=np.where(distance > 0, np.inf, 0.0), where=scale > 0)
        bounds = np.divide(allowed, scale, out=np.zeros(reference.shape), where=scale > 0)
        excess = np.divide(distance, allowed, out=np.where(distance > 0, np.inf, 0.0), where=allowed > 0)
    # Among entries that are allowed nothing, the one that is furthest off.
    worst = excess if np.isfinite(excess).all() else np.where(np.isinf(excess), 1 + distance / distance.max(), 0)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(worst)), worst.shape))
    return index, float(relative.max()), float(bounds[index]), OK if excess.max() <= 1 else WRONG


def _allowed(reference: Reference, name: str, further: Any) -> Array:
    return np.asarray(reference.errors[name] + further)


def _undecided(row: Row) -> Row:
    return Row(**{**vars(row), "verdict": UNDECIDED, "note": "rounding is amplified too much to judge"})
