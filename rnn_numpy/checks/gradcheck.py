"""The gradient check: is this backward pass the gradient of that forward pass, entry by entry, whatever its size?

    report = gradcheck(layer, x)                  a recurrent layer, random signed loss on outputs and final states
    report = gradcheck(layer, x, loss=loss)       with a loss on top: (output, h_n) -> (loss, doutput)
    report = gradcheck(model, x, target)          a model with loss_and_grads(x, target)
    report = gradcheck(loss, params, grads=grads)  two functions of a dict of arrays

No absolute tolerance decides anything, so that a gradient of 1e-100 is judged as one of 1; and no end-to-end run stands
alone, so that chaos does not drown the verdict. What is done with a recurrent layer:

1. The reference is *stepwise* (`rnn_numpy.checks.chain_rule`): each step's forward formula is differentiated at the
   recorded states by the complex step, and chained. Every entry of every parameter, input and initial state is
   compared, and the gradients of the pre-activations at every step as well, where a mistake that has vanished from the
   sums still shows.
2. What rounding may do to each entry is computed, not assumed: from all contributions (t, k) to it, so that an entry in
   which they cancel is given just the error that they bring, and a small entry that does not cancel is given none.
3. The growth of perturbations over the run is measured. Where rounding stays small enough for it, the reference itself
   is confirmed end to end, by the complex step of the whole forward pass along random signed directions.
4. The whole gradient goes through tests that share nothing with the reference: Taylor's, the adjoint test with
   hand-written tangents, real-time recurrent learning.
5. All is run twice and must agree bit for bit; arguments must be left as they were.

A failure is localised and compared with known mistakes (`rnn_numpy.checks.diagnosis.locate`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_numpy.checks.contract import broken_contract
from rnn_numpy.checks.diagnosis.locate import diagnose_tensors
from rnn_numpy.checks.elsewhere import look_elsewhere
from rnn_numpy.checks.groups import in_groups
from rnn_numpy.checks.layer_check import LayerCheck
from rnn_numpy.checks.loss_check import along_directions, by_entries, single_rows
from rnn_numpy.checks.oracles.function import checked_gradients, checked_params
from rnn_numpy.checks.oracles.taylor import TaylorResult, taylor_test
from rnn_numpy.checks.own.diagnose import diagnose_functions
from rnn_numpy.checks.own.patterns import narrow_note
from rnn_numpy.checks.report import UNDECIDED, WRONG, Diagnosis, Findings, GradcheckReport, undecided
from rnn_numpy.checks.targets import FunctionsTarget, LayerTarget, ModelTarget, Point, Target
from rnn_numpy.checks.watch import Watch
from rnn_numpy.errors import DTypeError, GradientCheckError, OptionError

Array = NDArray[Any]
Progress = Callable[[int, int, str], None]

# Of more entries than this, or where a call for each takes about so many seconds, directions come first.
MANY, LONG = 1000, 5.0

DEFAULT_SECONDS = 60.0

METHODS = ("auto", "stepwise", "complex step", "ridders", "fourth order", "central difference", "directional")


def gradcheck(
    target: Any,
    x: Any = None,
    h_0: Any = None,
    lengths: ArrayLike | None = None,
    *further: Any,
    grads: Callable[[dict[str, Array]], Mapping[str, Array]] | None = None,
    doutput: ArrayLike | None = None,
    dh_n: Any = None,
    loss: Callable[..., Any] | None = None,
    method: str = "auto",
    names: Iterable[str] | None = None,
    dropout_masks: Sequence[ArrayLike] | None = None,
    recurrent_masks: Mapping[str, ArrayLike] | None = None,
    zoneout_masks: Mapping[str, Sequence[ArrayLike]] | None = None,
    given: Mapping[str, ArrayLike] | None = None,
    trials: bool = True,
    seed: int = 0,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> GradcheckReport:
    """Check a hand-written gradient, and say what is wrong with it.

    Parameters
    ----------
    target : layer, model, or callable
        A recurrent layer; anything with params, astype, forward and backward like one, also one that takes ids, says so
        by `takes_ids = True`, and has no gradient of x, as Embedding; a model with params, astype and
        loss_and_grads; or a function from a dict of arrays to a number.
    x : ndarray, or dict of str to ndarray
        A layer's input, (T, N, D) as `forward` takes it; a model's first argument; a function's dict of arrays. Of a
        few dozen steps and units: each entry is checked.
    h_0, lengths : optional
        As for `layer.forward`; the next arguments of a model's loss_and_grads.
    *further : optional
        All others that a model's loss_and_grads takes.
    grads : callable
        With a function: the gradients that are checked, from the same dict of arrays to one of the same names.
    doutput, dh_n : optional
        The loss of a layer is sum(doutput * output) + sum(dh_n * h_n). Signed normal numbers where left out.
    loss : callable, optional
        A loss on top of a layer in place of that: maps (output, h_n) to (loss, doutput), or (loss, doutput, dh_n). Its
        own gradient is checked too.
    method : str
        Where the reference comes from. "stepwise": steps at recorded states, for recurrent layers of this package and
        subclasses of them. "complex step", "ridders", "fourth order", "central difference": of the whole loss, entry by
        entry. "directional": the complex step of the whole loss along a few random directions for each array, for what
        is too large for more. "auto": the first of these that is exact and affordable.
    names : iterable of str, optional
        Check these arrays alone: parameters, "x", "h_0".
    dropout_masks, recurrent_masks, zoneout_masks : optional
        As for `layer.forward`. A layer with dropout or zoneout gets masks that are drawn once and replayed.
    given : mapping of str to ndarray, optional
        As for `layer.forward`: a memory to attend to. Gradients of real arrays are checked, under "given['values']".
    trials : bool
        Also run Taylor's test, the adjoint test and RTRL, where they apply.
    seed : int
        Of all random draws: gradients of outputs, masks, directions.
    seconds : float, optional
        After which a check of the whole loss ends, of a function, a model, or a layer of one's own; the report says
        what was not looked at, and that is "undecided". Infinity for as long as it takes; by default a minute, and
        without an end where `method` asks for each entry.
    progress : callable, optional
        Called with (done, total, label) as the work goes on. Where it is left out, a line on a terminal tells of a
        check of more than two seconds.

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
    Cost, chain: as many single forward steps as there are steps, states and pre-activations, in calls of many columns:
    0.2 s for an LSTM of T = 30, H = 32. Otherwise one evaluation of the loss, or some, for each entry; of more than
    a thousand entries, or a slow loss, directions come first, and entries only where a direction disagrees: see
    `rnn_numpy.checks.groups`.

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
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise OptionError(f"{where}: seed must be a whole number of at least 0; got {seed!r}")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0):
        raise OptionError(f"{where}: seconds must be a positive number, or None; got {seconds!r}")
    for name, function in (("progress", progress), ("loss", loss)):
        if function is not None and not callable(function):
            raise DTypeError(f"{where}: {name} must be a function; got {type(function).__name__}")
    if isinstance(target, type) and not callable(grads):
        raise DTypeError(f"{where}: target must be an object; got the class {target.__name__}: make one of it")
    masks = {"dropout_masks": dropout_masks, "recurrent_masks": recurrent_masks, "zoneout_masks": zoneout_masks}
    masks = {name: mask for name, mask in masks.items() if mask is not None}
    is_model = hasattr(target, "loss_and_grads")
    if further and not is_model:
        raise OptionError(
            f"{where}: more than x, h_0 and lengths goes with a model's loss_and_grads alone; got {len(further)} more, "
            f"and a {type(target).__name__}"
        )
    if not is_model and hasattr(target, "forward") and hasattr(target, "backward"):
        if grads is not None:
            raise OptionError(f"{where}: grads goes with a function and its dict of arrays; a layer brings its own")
        if x is None:
            raise OptionError(f"{where}: a layer needs an input x, (T, N, D)")
        checked: Target = LayerTarget(target, x, h_0, lengths, doutput, dh_n, loss, masks, seed, given)
    elif is_model:
        _none(where, "a model", given=given, doutput=doutput, dh_n=dh_n, loss=loss, grads=grads, **masks)
        inputs = [x, h_0, lengths, *further]
        while inputs and inputs[-1] is None:
            inputs.pop()
        checked = ModelTarget(target, tuple(inputs))
    elif callable(target):
        _none(
            where, "a function", given=given, h_0=h_0, lengths=lengths, doutput=doutput, dh_n=dh_n, loss=loss, **masks
        )
        if not callable(grads):
            raise OptionError(
                f"{where}: a function needs grads, the function whose gradients are checked; got {grads!r}"
            )
        params = checked_params(x, where=where)
        checked = FunctionsTarget(target, grads, params.arrays, checked_gradients)
        checked.notes += params.notes
    else:
        raise DTypeError(
            f"{where}: target must be a layer (forward, backward), a model (loss_and_grads) or a function; "
            f"got {type(target).__name__}"
        )
    chosen = _chosen(where, checked, names)
    limit = seconds
    if limit is None:
        limit = DEFAULT_SECONDS if method in ("auto", "directional") else math.inf
    with Watch(where, limit, progress) as watch:
        return _check(checked, chosen, method, trials, seed, watch, seconds is not None)


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


def _none(where: str, what: str, **arguments: Any) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise OptionError(f"{where}: {', '.join(given)} goes with a layer, not with {what}; leave it out")


def _chosen(where: str, checked: Target, names: Iterable[str] | None) -> list[str]:
    if names is None:
        return list(checked.point)
    if not isinstance(names, Iterable):
        raise OptionError(f"{where}: names must be a list of names; got {names!r}")
    chosen = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    unknown = [name for name in chosen if name not in checked.point]
    if unknown or not chosen:
        raise OptionError(f"{where}: names must be among {', '.join(checked.point)}; got {unknown or chosen}")
    return chosen


def _check(
    checked: Target, names: list[str], method: str, trials: bool, seed: int, watch: Watch, limited: bool
) -> GradcheckReport:
    """Run the check: the claimed gradient, twice; a reference; the verdicts; the diagnosis; further tests."""
    first = checked.analytic()
    touched = checked.touched
    began = watch.spent
    second = checked.analytic()
    each = (watch.spent - began) / 4  # about what a call of the loss takes
    reproducible = all(first[name].tobytes() == second[name].tobytes() for name in first)
    finite = all(np.isfinite(array).all() for array in first.values())
    layer = LayerCheck(checked, names, seed, watch) if isinstance(checked, LayerTarget) and checked.recurrent else None
    if method == "stepwise" and layer is None:
        raise OptionError("gradcheck: method 'stepwise' is for recurrent layers of this package and their subclasses")
    findings: Findings | None = None
    if layer is not None and method in ("auto", "stepwise"):
        findings = layer.compare(first)
        if findings is None and layer.too_large:
            method = "directional"
    if findings is None:
        method = "auto" if method == "stepwise" else method
        size = sum(checked.point[name].size for name in names)
        if method == "directional":
            findings = along_directions(checked, names, first, method, seed, watch)
        elif limited or (method == "auto" and (size > MANY or size * each > LONG)):
            findings = in_groups(checked, names, first, method, seed, watch)
        else:
            findings = by_entries(checked, names, first, method, seed, watch)
        findings.notes[:0] = [] if layer is None else layer.notes
        layer = None
    single: Point | None = None
    if checked.single and finite:
        single = checked.in_single()
        findings.rows += single_rows(checked, single, names, seed, {} if layer is None else layer.tolerances.tensors)
        findings.notes.append(
            "the float64 twin was checked first; the rows marked float32 compare the original with it"
        )
    beyond = not finite and _left_the_range(findings)
    # At a kink the formulas of a lost complex step jump, which is no rounding.
    again = layer is not None and not layer.chain.lost and finite
    if again and layer is not None and any(row.verdict == WRONG for row in findings.rows):
        with np.errstate(over="ignore", invalid="ignore"):
            layer.look_again(first, single, findings)
    excused = False
    if finite and any(row.verdict == WRONG for row in findings.rows):
        with np.errstate(over="ignore", invalid="ignore"):
            excused = look_elsewhere(checked, layer, first, single, findings, watch, seed)
    if isinstance(checked, FunctionsTarget):
        findings.notes += narrow_note({name: first[name] for name in names})
    diagnosis: Diagnosis | None = None
    if touched:
        diagnosis = _modified(touched)
    elif not reproducible:
        diagnosis = _differing(first, second)
    elif (not finite and not beyond) or any(row.verdict == WRONG for row in findings.rows):
        # What is wrong may be of any size; what overflows in looking for its cause is not that cause.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if finite and (top := _loss_is_wrong(findings)) is not None:
                diagnosis = top
            elif single is not None and (alone := _in_single_alone(single, findings)) is not None:
                diagnosis = alone
            elif layer is not None:
                diagnosis = layer.diagnose(first, findings)
            elif finite and method == "directional":
                wrong = ", ".join(row.name for row in findings.rows if row.verdict == WRONG)
                why = f"wrong are {wrong}; directions do not tell more: check a smaller one entry by entry"
                diagnosis = Diagnosis("unknown", why, explained=False)
            elif isinstance(checked, FunctionsTarget):
                diagnosis = diagnose_functions(checked, first, findings.reference, findings.rows, findings.sample)
            else:
                diagnosis = diagnose_tensors(checked, first, findings.reference, findings.rows, findings.sample)
    elif isinstance(checked, LayerTarget) and finite and not excused:
        diagnosis = checked.broken_promise(first)
        if diagnosis is None:
            with np.errstate(over="ignore", invalid="ignore"):
                diagnosis = broken_contract(
                    checked, first, findings.growth, layer is not None and bool(layer.chain.lost)
                )
    if trials and finite and not touched and reproducible:
        _try_taylor(checked, names, first, findings, seed)
        if layer is not None and not any(row.verdict == UNDECIDED for row in findings.rows):
            layer.try_forward_mode(first, findings)
    return GradcheckReport(
        checked.title,
        findings.method,
        findings.rows,
        findings.trials,
        diagnosis,
        findings.growth,
        [*checked.notes, *findings.notes],
        list(findings.kinks),
        seed,
        reproducible,
    )


def _loss_is_wrong(findings: Findings) -> Diagnosis | None:
    """Whether both passes of a layer are right, and what the loss on top says of its own gradient is not."""
    wrong = [row.name for row in findings.rows if row.verdict == WRONG]
    if not all(name.startswith("loss: ") for name in wrong):
        return None
    titles = ", ".join(name.removeprefix("loss: ") for name in wrong)
    why = f"the layer's passes are right; the {titles} that loss returns is not the gradient of the number it returns"
    return Diagnosis("wrong derivative", why, where={"part": "entry of the loss"})


def _in_single_alone(single: Point, findings: Findings) -> Diagnosis | None:
    """Whether the gradient is right in double precision, and wrong in single; in how narrow numbers it is, then."""
    wrong = [row for row in findings.rows if row.verdict == WRONG]
    if not wrong or any(row.note != "float32" for row in wrong):
        return None
    titles = ", ".join(dict.fromkeys(row.name for row in wrong))
    arrays = [single[row.name] for row in wrong if row.name in single]
    half = [np.array_equal(array, array.astype(np.float16)) for array in arrays]
    if half and all(half) and sum(map(np.count_nonzero, arrays)) > 8:
        why = f"the gradient of {titles} is right in float64, and in float32 has numbers of float16 alone"
        return Diagnosis("lower precision", why)
    why = f"the gradient of {titles} is right in float64, and wrong in float32: something is done to float32 alone"
    return Diagnosis("unknown", why, explained=False)


def _left_the_range(findings: Findings) -> bool:
    """Leave rows undecided where the right gradient itself is no number; whether it was not."""
    lost = [name for name, array in findings.reference.items() if not np.isfinite(array).all()]
    if findings.method.endswith("along random directions") or not lost:
        return False
    findings.rows[:] = [undecided(row) if row.verdict == WRONG else row for row in findings.rows]
    findings.notes.append(
        f"the forward pass, or the right gradient of {', '.join(lost)}, leaves the range of numbers: there is "
        "nothing to compare with. Smaller weights or inputs would tell"
    )
    return True


def _modified(touched: list[str]) -> Diagnosis:
    kind = "parameters modified" if all(name.startswith("params") for name in touched) else "input modified"
    return Diagnosis(kind, f"the backward pass has changed {', '.join(touched)}, which it was handed to read")


def _differing(first: Point, second: Point) -> Diagnosis:
    names = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    titles = ", ".join(names)
    with np.errstate(all="ignore"):
        twice = all(np.allclose(second[name], 2 * first[name], rtol=1e-12, atol=0) for name in names)
    if twice:
        why = f"a second run gives twice the gradient of {titles}: something adds to the first run's result"
        return Diagnosis("accumulated over calls", why)
    return Diagnosis("not deterministic", f"two runs on the same arrays differ in {titles}")


def _try_taylor(checked: Target, names: list[str], analytic: Point, findings: Findings, seed: int) -> None:
    """Taylor's test of the whole gradient: its remainders fall as e^2, and in the odd version as e^3."""
    if findings.growth > 1e3 or findings.kinks or not any(array.any() for array in analytic.values()):
        return  # where e is amplified a thousandfold, or there is a corner, no remainder falls as a power of e
    single = any(array.dtype == np.float32 for array in analytic.values())
    if single or any(row.verdict == UNDECIDED for row in findings.rows):
        return  # or where the gradient has too few digits to tell
    fixed = {name: array for name, array in checked.point.items() if name not in names}
    point = {name: checked.point[name] for name in names}

    def loss(at: Mapping[str, Array]) -> Any:
        return checked.loss({**fixed, **at})

    def tested(gradients: Point) -> TaylorResult:
        gradient = {name: gradients[name] for name in names}
        return taylor_test(loss, point, gradient, directions=1, seed=seed, steps=4)

    try:
        with np.errstate(over="raise"):
            result = tested(analytic)
            wrong = "wrong" in result.verdicts.values()
            # A loss on top is none of the reference's business: what it says of the outputs is taken as it says it.
            known = not (isinstance(checked, LayerTarget) and checked.on_top is not None)
            known = known and all(np.isfinite(findings.reference[name]).all() for name in names)
            if wrong and known and "wrong" in tested(findings.reference).verdicts.values():
                # Inputs of 1e8, or gates next to saturation: the loss bends within the smallest of the steps.
                findings.notes.append("no Taylor test: the loss bends within the smallest of its steps")
                return
    except (GradientCheckError, FloatingPointError) as error:
        findings.notes.append(f"no Taylor test: {str(error).removeprefix('taylor_test: ')}")
        return
    rates = {
        kind: float(np.nanmin(rates)) for kind in result.rates if np.isfinite(rates := result.last_rates(kind)).any()
    }
    if rates:
        findings.add("Taylor", " ".join(f"{rate:.2f}" for rate in rates.values()), not wrong, list(rates.values()))
