"""What `rnn-numpy benchmark` says: a table with one row per length and cell, and a few plain sentences. At most 100
columns wide."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from rnn_numpy.core.numbers import count
from rnn_numpy.experiments.task_benchmark import HELD_OUT, MEASURED, BenchmarkResult, BenchmarkRun
from rnn_numpy.lab.gradient_flow import REACH_SHARE, GradientFlow
from rnn_numpy.report.gradflow_page import lags_left
from rnn_numpy.report.tables import listed, new_table, paragraph, plain, rendered, short, span

# What the task is, and what its baseline does.
WORDS = {
    "adding": ("add the two marked ones of T numbers", "the mean"),
    "copy": ("repeat ten symbols after a delay", "knowing when, and guessing what"),
    "temporal-order": ("say in which order X and Y have come, twice", "guessing"),
    "temporal-order-3": ("say in which order X and Y have come, three times", "guessing"),
    "parity": ("say whether an odd number of T bits is set", "guessing"),
    "narma10": ("follow a nonlinear system of order ten", "a linear fit to the last 20 inputs"),
    "mackey-glass": ("forecast a chaotic series 17 steps ahead", "a linear fit to the last 20 inputs"),
}


def benchmark_report(result: BenchmarkResult) -> str:
    """Return the report of a run as text, in lines of at most 100 columns; rich lays out the table."""
    options = result.options
    what, how = WORDS[options.task]
    bars = dict.fromkeys(f"{plain(result.baselines[k])} (solved below {result.goals[k]:.3g})" for k in options.lengths)
    where = "" if len(bars) == 1 else f" at lengths {listed([str(length) for length in options.lengths])}"
    head = f"{options.task}: {what}. Baseline, {how}: a loss of {listed(list(bars))}{where}."
    parts = [paragraph(head), _results_table(result)]
    parts += [paragraph(sentence) for sentence in _sentences(result)]
    return "\n".join(parts)


def _results_table(result: BenchmarkResult) -> str:
    columns = ("length", "cell", "solved", "updates\nto solve", "error /\nbaseline", "clip\nrate")
    table = new_table((*columns, "reach\nat start", "reach\nat end", "s per\nrun"), left=["cell"])
    for length in result.options.lengths:
        for cell in result.options.cells:
            runs = result.of(length, cell)
            errors = [run.losses[-1] / result.baselines[length] for run in runs]
            rate = _clip_rate(runs)
            table.add_row(
                str(length),
                cell,
                f"{len(_solved(runs))} of {len(runs)}",
                span(_solved(runs), str) or f">{result.options.max_updates}",
                span(errors, _two_digits),
                "-" if rate is None else f"{100 * rate:.0f} %",
                lags_left([run.before for run in runs], REACH_SHARE),
                lags_left([run.after for run in runs], REACH_SHARE),
                _seconds(statistics.fmean(run.cpu_seconds for run in runs)),
            )
    seeds = f", {result.options.seeds} seeds" if result.options.seeds > 1 else ""
    return f"After training{seeds}\n{rendered(table)}"


def _by_kind(flows: Sequence[GradientFlow]) -> dict[str, list[float]]:
    """Return half-lives ("halves") and doubling times ("doubles"), and the verdicts of flows without either."""
    kinds: dict[str, list[float]] = {}
    for flow in flows:
        if flow.half_life is None:
            kinds.setdefault(flow.verdict, [])
        else:
            kinds.setdefault("doubles" if (flow.slope or 0.0) > 0 else "halves", []).append(flow.half_life)
    return kinds


def _clip_rate(runs: Sequence[BenchmarkRun]) -> float | None:
    """Return the mean share of the updates, of those with a finite gradient, at which clipping engaged."""
    rates = [share for run in runs if (share := run.ledger.engaged_share) is not None]
    return statistics.fmean(rates) if rates else None


def _solved(runs: Sequence[BenchmarkRun]) -> list[int]:
    return [run.solved_at for run in runs if run.solved_at is not None]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"


def _two_digits(value: float) -> str:
    return f"{value:.2f}" if value < 100 else short(value)


# ------------------------------------------------------------------------------------------------------------ sentences


def _sentences(result: BenchmarkResult) -> list[str]:
    options = result.options
    sentences = [_verdict(result, length) for length in options.lengths]
    sentences += [_why(result, length, cell) for length in options.lengths for cell in options.cells]
    sentences += [
        f"{run.cell} at length {run.length}, seed {run.seed}: {count(run.ledger.skipped, 'update')} left out, the "
        f"gradient not being finite" + (f"; ended early, since {run.stopped}" if run.stopped else "") + "."
        for run in result.runs
        if run.ledger.skipped
    ]
    sentences.append(_dominant(result))
    forget = f", forget bias {options.forget_bias:g}" if "lstm" in options.cells else ""
    states = ", of lstm that of h and c together" if "lstm" in options.cells else ""
    sentences.append(
        f"{options.hidden} units, batches of {options.batch}, float32, Adam with a learning rate of {options.lr:g}, "
        f"norm clipped to {options.clip:g}{forget}. Error: loss on {HELD_OUT} held-out sequences. Reach: steps back in "
        f"time until a hundredth is left of the gradient of the last step's error{states}; geometric mean over "
        f"{MEASURED} sequences for each seed. Seconds: processor time of a run."
    )
    return [sentence for sentence in sentences if sentence]


def _verdict(result: BenchmarkResult, length: int) -> str:
    """Say which cells have solved a length, and which have not."""
    solved: list[str] = []
    unsolved: list[str] = []
    for cell in result.options.cells:
        runs = result.of(length, cell)
        updates = _solved(runs)
        if updates:
            share = "" if len(updates) == len(runs) else f" with {len(updates)} of {len(runs)} seeds"
            solved.append(f"{cell}{share} (after {span(updates, str, ' to ')} updates)")
        if len(updates) < len(runs):
            unsolved.append(cell if not updates else f"{cell} with the others")
    clauses = [f"solved by {listed(solved)}"] if solved else []
    if unsolved:
        clauses.append(f"not solved by {listed(unsolved)} in {count(result.options.max_updates, 'update')}")
    return f"Length {length}: {'; '.join(clauses)}."


def _why(result: BenchmarkResult, length: int, cell: str) -> str:
    """Say how much of the gradient arrives at the longest lag, for a cell that has not solved a length."""
    runs = result.of(length, cell)
    if _solved(runs):
        return ""
    clauses: list[str] = []
    parts = ("at the start", [run.before for run in runs]), ("at the end", [run.after for run in runs])
    for (when, flows), pooled in zip(parts, result.flows(length, cell), strict=True):
        if pooled.verdict == "diverged":
            clauses.append(f"it is not finite {when}")
            continue
        kinds = _by_kind(flows)
        paces = [f"{kind} every {span(steps, plain, ' to ')} steps" for kind, steps in kinds.items() if steps]
        if words := [kind for kind, steps in kinds.items() if not steps]:
            paces.append(f"is {' or '.join(words)}")
        left = plain(float(pooled.typical[-1] / pooled.typical[0])) if pooled.typical[0] > 0 else "nothing"
        clauses.append(f"{when} it {' or '.join(paces)}, and {left} of it is left {pooled.length} steps back")
    return f"{cell} at length {length}, and its gradient: {'; '.join(clauses)}."


def _dominant(result: BenchmarkResult) -> str:
    """Say how often clipping engaged at most, and which parameter made the gradients long."""
    options = result.options
    pairs = [(length, cell) for length in options.lengths for cell in options.cells]
    rates = {pair: rate for pair in pairs if (rate := _clip_rate(result.of(*pair))) is not None}
    if not rates:
        return ""
    (length, cell), share = max(rates.items(), key=lambda item: item[1])
    if share == 0:
        return f"Clipping to a norm of {options.clip:g} never engaged."
    counts = sum((run.ledger.dominant for run in result.of(length, cell)), Counter[str]())
    name, _ = counts.most_common(1)[0]
    return (
        f"Clipping engaged most often in {cell} at length {length}: at {100 * share:.0f} % of the updates; the longest "
        f"gradient there was mostly that of {name}."
    )
