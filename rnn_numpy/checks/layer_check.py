"""The check of a recurrent layer, step by step at the recorded states; what `gradcheck` does with one by default."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.checks.chain_rule import QUANTUM, ChainRule, pulled
from rnn_numpy.checks.diagnosis.locate import diagnose_layer, diagnose_tensors
from rnn_numpy.checks.loss_check import HOPELESS, TOO_NOISY, slope
from rnn_numpy.checks.oracles.adjoint import adjoint_error
from rnn_numpy.checks.oracles.complex_step import COMPLEX_STEP
from rnn_numpy.checks.oracles.function import EPS
from rnn_numpy.checks.oracles.reference import reference_gradients
from rnn_numpy.checks.report import OK, WRONG, Diagnosis, Findings, Row, kappas, rows_of, step_scales, undecided
from rnn_numpy.checks.rounding import Tolerances, tolerances
from rnn_numpy.checks.targets import LayerTarget, Point
from rnn_numpy.core.states import split
from rnn_numpy.engine.influence import rtrl_by_rows
from rnn_numpy.engine.recurrent import Recurrent
from rnn_numpy.engine.slopes import slopes

Array = NDArray[Any]
Progress = Callable[[int, int, str], None]

# Beyond this many numbers, all matrices of all steps together, a layer is checked along directions only.
MOST = 2**31

# Beyond this many multiplications the influence matrix of real-time recurrent learning is not carried along.
MOST_FOR_RTRL = 2**27

# Of more parameters than these, it carries rows of the matrices along in place of their entries.
MOST_BY_ENTRIES = 256

# How far an end-to-end run may drift before it proves nothing any more.
DRIFT = 1e-9

# Slopes of a loss of the size of 1 below this have lost digits: in the imaginary parts they are next to underflow.
UNDERFLOW = float(np.finfo(np.float64).tiny) / COMPLEX_STEP


# What is below this may be carried across a kink by what a complex step leaves in the real parts.
SMALLEST = 1e-15

# How far arrays are moved away from a point, relative to the largest entry of each, or to 1.
MOVED = 0.1


def away(point: Point, seed: int) -> Point:
    """Return a point at which all arrays have moved."""
    rng = np.random.default_rng([seed, 13])
    return {
        name: array + MOVED * float(np.abs(array).max(initial=1.0)) * rng.uniform(-1, 1, array.shape)
        for name, array in point.items()
    }


class LayerCheck:
    """One check of the named tensors of a layer."""

    def __init__(self, target: LayerTarget, names: list[str], seed: int, progress: Progress) -> None:
        self.target = target
        self.names = names
        self.seed = seed
        self.progress = progress
        self.notes: list[str] = []
        self.layer: Recurrent = target.layer
        self.steps = target.trace.edge.batch.T
        states = sum(target.trace.edge.widths.values())
        width = states + len(self.layer.cell.slabs) * self.layer.hidden_size
        directions = self.layer.num_layers * self.layer.num_directions
        self.size = self.steps * target.trace.edge.batch.N * width * width * directions
        self.chain: ChainRule
        self.tolerances: Tolerances
        self.steepest: float

    @property
    def too_large(self) -> bool:
        """Whether there are too many matrices to check each entry."""
        return bool(self.size > MOST)

    def compare(self, analytic: Point) -> Findings | None:
        """Compare a gradient with the stepwise one; None where that cannot be had, for the reason in `notes`."""
        target, trace = self.target, self.target.trace
        if self.too_large:
            self.notes.append(
                f"{self.size:.0e} numbers in the matrices of all steps are too many to check each entry: checked along "
                "directions. A shorter run, or fewer units, is checked in full"
            )
            return None
        self.chain = chain = ChainRule(self.layer, trace, target.doutput, target.dfinal, self.progress)
        exact = chain.tensors
        whole = any(not each.overflows for each in chain.lost)
        way = "differences" if whole else "complex step, in part differences," if chain.lost else "complex step"
        method = f"{way} of each forward step at the recorded states, chained"
        findings = Findings(method, [], exact, growth=_growth(chain))
        self.tolerances = allowed = tolerances(chain, seed=self.seed)
        # A step that is steep, as one with layer normalisation may be, makes more of rounding.
        self.steepest = max(
            float(np.abs(maps.jacobians.preactivation).max(initial=1.0)) for maps in chain.maps.values()
        )
        # Of a pass that has left the range of numbers there is nothing to confirm.
        known = all(np.isfinite(array).all() for array in exact.values())
        if known and not (chain.deviation <= 1e-12 * self.steepest and self._confirmed(exact, findings)):
            self.notes.append(
                "the layer's forward pass is not the chain of its cell's steps: compared end to end instead"
            )
            return None
        for name in self.names:
            findings.rows += rows_of(
                name,
                target.gates,
                analytic[name],
                exact[name],
                allowed.tensors[name],
                kappa=kappas(exact[name], allowed.absolute[name]),
                scale=step_scales(exact[name]) if name == "x" else None,
            )
        findings.rows += self._rows_of_steps(all(row.verdict == OK for row in findings.rows))
        if target.on_top is not None:
            findings.rows += self._loss_rows()
        findings.notes += self._kinks()
        if chain.lost:
            self._of_differences(findings)
        return findings

    def look_again(self, analytic: Point, single: Point | None, findings: Findings) -> None:
        """Take a second look at what seems wrong: whether rounding at the size of open gates is all that is the matter,
        behind gates that are shut, where the formulas' own derivatives have no digits left.
        """
        exact, loose = self.chain.tensors, self._shrinking(EPS)
        found, bounds, looser = dict(analytic), dict(loose.tensors), dict[str, Array]()
        beyond = False
        if single is not None:
            eps, most = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).max)
            looser = self._shrinking(eps).tensors
            arrays = [
                *exact.values(),
                *(each for run in self.chain.exact.runs.values() for each in (run.da, run.dstates)),
            ]
            beyond = max(float(np.abs(array).max(initial=0.0)) for array in arrays) > 1e-3 * most
            # Or float32's own path may be another one: of what is moved by as much, the gradient moves by a hundredth.
            moved = max(row.allowed for row in findings.rows if row.note == "float32")
            beyond = beyond or moved > 0.01 or eps * findings.growth > 0.01
        exact |= self.steps_exact()
        found |= self.steps_found()
        bounds |= {f"da_{name}": array for name, array in loose.da.items()}
        excused = []
        for k, row in enumerate(findings.rows):
            if row.verdict != WRONG or row.name not in exact or row.name not in found:
                continue
            part = dict(self.target.gates.get(row.name, [])).get(row.gate or "", ...)
            claimed, truth, bound = (each[row.name][part] for each in (found, exact, bounds))
            # Early steps, where a gradient has vanished, are not judged by late ones.
            over_time = row.name == "x" or row.name.startswith("da_")
            size = step_scales(exact[row.name])[part] if over_time else np.abs(exact[row.name]).max(initial=0.0)
            bound = bound + 64 * EPS * self.steepest * size
            if row.note == "float32" and single is not None:
                tiny = float(np.finfo(np.float32).tiny)  # below it few digits are left, of products first
                claimed, bound = single[row.name][part].astype(np.float64), looser[row.name][part] + tiny * self.steps
                bound = bound + 8 * row.allowed * float(np.abs(truth).max(initial=0.0))
            within = np.isfinite(claimed).all() and np.all(np.abs(claimed - truth) <= bound)
            if within or (beyond and row.note):
                doubt = float(bound.max(initial=0.0)) > TOO_NOISY * float(np.abs(truth).max(initial=0.0))
                findings.rows[k] = undecided(row) if doubt or row.note else dataclasses.replace(row, verdict=OK)
                excused.append(row.title)
        if excused:
            findings.notes.append(
                f"what is off of {', '.join(dict.fromkeys(excused))} is no more than rounding explains: gates are so "
                "far shut, or numbers so large, that few digits are left. Smaller weights would tell more"
            )

    def steps_exact(self) -> Point:
        """Return the reference of the gradients of the pre-activations at every step, by the titles of their rows."""
        return {f"da_{name}": run.da for name, run in self.chain.exact.runs.items()}

    def steps_found(self) -> Point:
        """Return these gradients as the claimed pass has left them, where it has."""
        found = {f"da_{name}": self._recorded_da(name) for name in self.chain.exact.runs}
        return {title: array for title, array in found.items() if array is not None}

    def open_gates(self, units: float, eps: float) -> Point:
        """Return what rounding would make of all gradients, those of the steps too, if all gates were open."""
        bounds = tolerances(self.chain, units, 1, self.seed, eps=eps, open_gates=True)
        return {**bounds.tensors, **{f"da_{name}": array for name, array in bounds.da.items()}}

    def at_kinks(self) -> tuple[Point, Point, int]:
        """Return a reference that is made of differences on both sides, what it may be off by, being at a kink, and at
        how many entries of recorded steps it is; of none, no more than that.
        """
        other, trace = copy.copy(self), self.target.trace
        other.chain = ChainRule(self.layer, trace, self.target.doutput, self.target.dfinal, differences=True)
        count = sum(maps.jacobians.kinks for maps in other.chain.maps.values())
        if not count:  # as nearly always: the rest takes most of the time of a check that fails
            return {}, {}, 0
        found = tolerances(other.chain, seed=self.seed)
        steps = {f"da_{name}": array for name, array in found.da.items()}
        # Slopes of several steps are multiplied with each other.
        bounds = {
            name: np.full(array.shape, 2.0 ** min(count, self.steps) * float(array.max(initial=0.0)))
            for name, array in {**found.tensors, **steps}.items()
        }
        return {**other.chain.tensors, **other.steps_exact()}, bounds, count

    def _shrinking(self, eps: float) -> Tolerances:
        """Return generous tolerances, but where they do not fall with the unit of rounding: a formula that jumps, as a
        relu's derivative does at 0, is excused by no rounding.
        """
        wide, narrow = (tolerances(self.chain, 64.0, 24, self.seed, True, unit) for unit in (eps, eps / 64))
        for bounds, smaller in ((wide.tensors, narrow.tensors), (wide.da, narrow.da)):
            for name, array in bounds.items():
                jumps = smaller[name] > array / 8
                bounds[name] = np.where(jumps, np.minimum(array, 64 * eps * float(array.max(initial=0.0))), array)
        return wide

    def diagnose(self, analytic: Point, findings: Findings) -> Diagnosis:
        """Name the mistake behind rows that are wrong."""
        memory = self.target.memory
        if all(row.name in memory for row in findings.rows if row.verdict == WRONG):
            return diagnose_tensors(self.target, analytic, findings.reference, findings.rows)
        return diagnose_layer(self.target, self.chain, self.tolerances, analytic, findings.rows)

    def try_forward_mode(self, analytic: Point, findings: Findings) -> None:
        """Compare with hand-written tangents: the adjoint test, and real-time recurrent learning where that is
        affordable.
        """
        target, layer, trace = self.target, self.layer, self.target.trace
        if not layer.cell.has_tangent:
            return
        allowed = 64 * EPS * self.steps
        error = adjoint_error(layer, trace, seed=self.seed, directions=2)
        for more in (1, 2) if error > allowed else ():
            # J v of one or two numbers may happen to cancel: what is wrong is so for every seed.
            error = min(error, adjoint_error(layer, trace, seed=self.seed + more, directions=2))
        findings.add("adjoint", f"{error:.0e}", error <= allowed, error)
        plan = trace.edge.batch
        # Row by row of the matrices, each along a random direction, where there are many entries.
        rng = np.random.default_rng([self.seed, 7])
        along = {
            name: rng.choice([-1.0, 1.0], array.shape) * rng.uniform(0.5, 1.5, array.shape)
            for name, array in layer.params.items()
            if array.ndim == 2 and layer.params.flat.size > MOST_BY_ENTRIES
        }
        count = sum(len(array) if name in along else array.size for name, array in layer.params.items())
        if count * self.steps * plan.N * layer.hidden_size * layer.cell.gates > MOST_FOR_RTRL:
            return
        worst, right, generous = 0.0, True, Point()
        # What it carries along, of a tiny input say, may have lost its digits to underflow.
        underflow = QUANTUM * sum(float(np.abs(run.dstates).sum()) for run in self.chain.exact.runs.values())
        slopes_of = rtrl_by_rows(layer, trace, target.doutput, target.dfinal, along)
        if not all(np.isfinite(array).all() for array in slopes_of.values()):
            return
        for name, expected in slopes_of.items():
            found, allowed_here = analytic[name], self.tolerances.tensors[name]
            if name in along:
                found = (along[name] * found).sum(axis=1)
                allowed_here = (np.abs(along[name]) * allowed_here).sum(axis=1)
            scale = float(np.abs(expected).max(initial=0.0))
            distance = np.abs(found - expected)
            worst = max(worst, float(distance.max(initial=0.0)) / scale if scale else 0.0)
            if not np.all(distance <= 4 * allowed_here):  # as RTRL itself rounds behind shut gates
                generous = generous or self.open_gates(64.0, EPS)
                bound = generous[name] if name not in along else (np.abs(along[name]) * generous[name]).sum(axis=1)
                right = right and bool(np.all(distance <= bound + underflow))
        findings.add("RTRL", f"{worst:.0e}", right, worst)

    # -------------------------------------------------------------------------------------------- parts

    def _of_differences(self, findings: Findings) -> None:
        """Say why differences were taken; where they leave too few digits, or a kink, nothing is decided."""
        lost = "; ".join(map(str, self.chain.lost))
        findings.notes.append(f"no complex step passes {lost}. Differences were taken, with errors of their own")
        kinks = sum(maps.jacobians.kinks for maps in self.chain.maps.values())
        if kinks:
            findings.notes.append(f"at {kinks} entries of recorded steps a formula has a kink: two slopes")
        doubt = 0.0
        for name, run in self.chain.exact.runs.items():
            errors = self.chain.maps[name].jacobians.errors
            for matrix, gradient in zip(errors or (), (run.dstates, run.da), strict=False):
                size = float(np.abs(gradient).max(initial=0.0))
                worst = float(pulled(matrix, np.abs(run.dstates)).max(initial=0.0))
                doubt = max(doubt, worst / size if size else 0.0)
        if doubt > TOO_NOISY:
            findings.notes.append(f"differences leave a doubt of {doubt:.0e}: what is not wrong is not proved right")
            findings.rows[:] = [undecided(row) if row.verdict == OK else row for row in findings.rows]

        narrow = self._narrow_states()
        if narrow:
            findings.notes.append(
                f"{narrow} holds numbers of single precision alone: forward formulas round to it inside, and "
                "differences of them tell little. In double precision throughout more can be told"
            )
            most = HOPELESS if doubt < HOPELESS / 2 else math.inf
            rough = [row.verdict == WRONG and row.error <= most for row in findings.rows]
            findings.rows[:] = [undecided(row) if r else row for row, r in zip(findings.rows, rough, strict=True)]

    def _narrow_states(self) -> str:
        """Return the names of states whose recorded numbers are all those of single precision."""
        arrays: dict[str, list[Array]] = {state: [] for state in self.layer.cell.states}
        for maps in self.chain.maps.values():
            for state, array in zip(arrays, maps.steps.split(maps.steps.states("after")), strict=True):
                arrays[state].append(array[maps.steps.alive].ravel())
        found = {state: np.concatenate(each) for state, each in arrays.items()}
        alone = [s for s, a in found.items() if len(np.unique(a)) > 8 and np.array_equal(a, a.astype(np.float32))]
        return ", ".join(alone)

    def _rows_of_steps(self, right: bool) -> list[Row]:
        """Return rows for the gradients of the pre-activations at every step, as the layer's trace has them: a
        mistake may have vanished from the sums. Where all these are `right`, so is a factor times the gradient.
        """
        rows = []
        for name, run in self.chain.exact.runs.items():
            found = self._recorded_da(name)
            if found is None:
                continue
            title, allowed = f"da_{name}", self.tolerances.da[name]
            at = int(np.argmax(np.abs(run.da))) if run.da.size else 0
            if right and run.da.size and run.da.flat[at] and np.isfinite(found.flat[at]):
                with np.errstate(over="ignore"):
                    factor = float(found.flat[at] / run.da.flat[at])
                if math.isfinite(factor) and factor > 0 and abs(factor - 1) > DRIFT:
                    found = found / factor  # a scaled loss, which is divided by at the end
            rows += rows_of(title, {}, found, run.da, allowed, scale=step_scales(run.da))
        return rows

    def _recorded_da(self, name: str) -> Array | None:
        """Return the gradients of pre-activations that the claimed pass has left; None where it has left none."""
        latest = self.target.trace.layers[name].latest
        found = latest.arrays.get("da")
        if found is None or latest.reached is not None or self.layer.cell.input_gradient != "da":
            return None
        return np.where(self.chain.maps[name].steps.alive[..., None], found, 0)

    def _confirmed(self, exact: Point, findings: Findings) -> bool:
        """Confirm the reference by the complex step of the whole forward pass, along random signed directions."""
        drift = EPS * findings.growth
        if drift > DRIFT:
            rate = math.log(findings.growth) / self.steps
            findings.notes.append(
                f"perturbations grow {findings.growth:.0e}-fold within the run (about {rate:+.2f} per step): "
                f"rounding moves any end-to-end reference by {drift:.0e} of it. The check is stepwise: at the recorded "
                "states, where nothing drifts"
            )
            return True
        if self.target.on_top is not None:
            return True  # a loss on top need not be analytic: it is checked by itself
        if self.chain.lost:
            return self._confirmed_by_differences(exact, findings)
        # The loss is linear in doutput: brought to the size of 1, what the imaginary parts hold does not underflow.
        unit, factor = self.target.normalised()
        rng = np.random.default_rng([self.seed, 1])
        draws, expected, sizes, known = {}, {}, {}, {}
        for name, gradient in exact.items():
            draws[name] = draw = rng.normal(size=gradient.shape)
            expected[name] = factor * float(np.sum(gradient * draw))
            # What cancels in the sums over the steps has left its rounding in them.
            sizes[name] = factor * float(np.sum(self.tolerances.absolute[name] * np.abs(draw)))
            known[name] = factor * float(np.sum(self.tolerances.tensors[name] * np.abs(draw)))
        largest, most = max(sizes.values()), max(1e-10, 64 * drift * self.steps)

        def off(names: list[str]) -> float:
            """Return how far the slope along some tensors, each brought to the largest size, is off."""
            weights = {name: largest / sizes[name] if len(names) > 1 else 1.0 for name in names}
            found = slope(unit, {name: weights[name] * draws[name] for name in names})
            error = abs(found - sum(weights[name] * expected[name] for name in names))
            return float(error) - sum(weights[name] * known[name] for name in names) - UNDERFLOW

        # Those of about one size in one pass. On the kink of a relu, two of them together may be on another side of it.
        alike = [name for name, size in sizes.items() if size > 1e-3 * largest]
        together = off(alike) if len(alike) > 1 else math.inf
        alone = [name for name in sizes if not (together <= most * largest and name in alike)]
        errors = dict.fromkeys(sizes, max(0.0, together)) | {name: max(0.0, off([name])) for name in alone}
        # Behind shut gates, states are rounded at the size of open ones: what is smaller by that much is not told.
        least = 64 * EPS * largest
        pairs = [(errors[name], sizes[name] if name in alone else largest) for name in sizes]
        worst = max([0.0, *(error / size if size else math.inf for error, size in pairs if error > least)])
        # What is to be found here is a forward pass that is another function than its steps, not rounding.
        confirmed = worst <= most
        if not confirmed and self._confirmed_elsewhere():
            return True
        findings.add("end to end", f"{worst:.0e}", confirmed, worst)
        return bool(confirmed)

    def _confirmed_elsewhere(self) -> bool:
        """Confirm the reference where all arrays have moved: what is 0, or smaller than a complex step, the square of
        the step may carry across a kink.
        """
        sizes = [float(np.abs(array).max(initial=0.0)) for array in self.target.point.values()]
        if all(size >= SMALLEST for size in sizes):
            return False
        other = self.target.at_point(away(self.target.point, self.seed))
        return LayerCheck(other, self.names, self.seed, self.progress).compare(other.analytic()) is not None

    def _confirmed_by_differences(self, exact: Point, findings: Findings) -> bool:
        """Confirm the reference by differences of the whole forward pass along one random direction."""
        target, rng = self.target, np.random.default_rng([self.seed, 1])
        along = {name: rng.choice([-1.0, 1.0], gradient.shape) for name, gradient in exact.items()}

        def loss(step: float) -> Array:
            return np.array(float(target.loss({n: a + step * along[n] for n, a in target.point.items() if n in along})))

        found = slopes(loss)
        expected = sum(float(np.sum(gradient * along[name])) for name, gradient in exact.items())
        known = sum(float(self.tolerances.tensors[name].sum()) for name in exact)
        size = sum(float(self.tolerances.absolute[name].sum()) for name in exact)
        off = max(0.0, abs(float(found.slopes) - expected) - 4 * (float(found.errors) + known))
        worst = off / size if size else 0.0
        findings.add("end to end", f"{worst:.0e}", worst <= 1e-6, worst)
        return bool(worst <= 1e-6)

    def _loss_rows(self) -> list[Row]:
        """Check what the loss on top says of outputs and final states."""
        target = self.target
        output, final, _ = target.forward()
        states = split(final)
        point = {"output": np.array(output)}
        point |= {f"{name}_n": np.array(state) for name, state in zip(target.names, states, strict=True)}

        def loss(at: Mapping[str, Array]) -> Any:
            finals = tuple(at[f"{name}_n"] for name in target.names)
            return target.top(at["output"], finals if isinstance(final, tuple) else finals[0])[0]

        reference = reference_gradients(loss, point, seed=self.seed, where="gradcheck: loss")
        dfinals = (None,) * len(states) if target.dfinal is None else split(target.dfinal)
        claimed = dict(zip(point, (target.doutput, *dfinals), strict=True))
        rows = []
        for name, gradient in claimed.items():
            found = np.zeros(point[name].shape) if gradient is None else np.asarray(gradient)
            expected = reference.gradients[name]
            allowed = reference.errors[name] + 16 * EPS * np.abs(expected).max(initial=0.0)
            rows += rows_of(f"loss: d{name}", {}, found, expected, allowed)
        return rows

    def _kinks(self) -> list[str]:
        """Return a note on the pre-activations of a relu that are exactly at its kink."""
        if getattr(self.layer, "nonlinearity", None) != "relu":
            return []
        places = []
        for name, run in self.target.trace.layers.items():
            at_kink = (run.stored("a") == 0) & self.chain.maps[name].steps.alive[..., None]
            places += [f"{name} t={t} n={n} unit {u}" for t, n, u in np.argwhere(at_kink)]
        if not places:
            return []
        shown = "; ".join(places[:3]) + (" ..." if len(places) > 3 else "")
        return [
            f"{len(places)} pre-activations are exactly 0, the kink of relu, where the slopes are 0 from below "
            f"and 1 from "
            f"above: 0, between both, is taken, as torch does ({shown})"
        ]


def _growth(chain: ChainRule) -> float:
    """Return how much a random perturbation grows, at most, from any step to any later one; by the matrices of the
    steps. The worst perturbation may grow a few times as much.

    One random vector for each sequence goes through the steps, and starts anew, at length 1, wherever it has become
    shorter. What a layer makes of an error goes into the next one.
    """
    by_layer: dict[int, float] = {}
    for maps in chain.maps.values():
        steps, rng, worst = maps.steps, np.random.default_rng(0), 1.0
        vector, fresh = _unit(rng, 1, steps.N, steps.S)[0], _unit(rng, steps.T, steps.N, steps.S)
        for t in steps.order():
            moved = np.matmul(maps.jacobians.state[t], vector[..., None])[..., 0]
            length = np.sqrt(np.einsum("ns,ns->n", moved, moved))[:, None]
            vector = np.where(steps.alive[t][:, None], np.where(length < 1, fresh[t], moved), vector)
            worst = max(worst, float(np.where(steps.alive[t], length[:, 0], 0).max(initial=0.0)))
        number = steps.direction.layer
        by_layer[number] = max(worst, by_layer.get(number, 1.0))
    return math.prod(by_layer.values())


def _unit(rng: np.random.Generator, *shape: int) -> Array:
    vectors = rng.normal(size=shape)
    unit: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
