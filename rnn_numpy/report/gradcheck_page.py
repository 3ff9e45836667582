"""What `rnn-numpy gradcheck` says: one line for each layer that was checked, or for each wrong backward pass of the
zoo.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rnn_numpy.checks.report import OK, UNDECIDED, GradcheckReport
from rnn_numpy.core.numbers import count
from rnn_numpy.report.tables import new_table, paragraph, rendered, short
from rnn_numpy.zoo.specimen import Specimen


def checks_table(reports: Sequence[tuple[str, GradcheckReport]]) -> str:
    """Return a table with a line for each check, a report with the name under which it is listed."""
    trials = list(dict.fromkeys(trial.name for _, report in reports for trial in report.trials))
    titles = ("cell", "tensors", "worst error", "in", "digits", *trials, "verdict")
    table = new_table([title.replace(" ", "\n", 1) for title in titles], left=("cell", "in", "verdict"))
    for name, report in reports:
        worst = max(report.rows, key=lambda row: math.inf if math.isnan(row.error) else row.error)
        digits = min(row.digits for row in report.rows)
        found = {trial.name: f"{trial.text}{'' if trial.ok else ' FAILED'}" for trial in report.trials}
        cells = (name, str(len(report.rows)), short(worst.error), worst.title, str(digits))
        table.add_row(*cells, *(found.get(trial, "-") for trial in trials), report.verdict)
    return rendered(table)


# What the columns of further tests hold.
LEGEND = {
    "end to end": "end to end: the reference against the complex step of the whole forward pass",
    "Taylor": "Taylor: how fast the remainders fall, 2 and 3 where the gradient is right",
    "adjoint": "adjoint: backward against the hand-written forward mode",
    "RTRL": "RTRL: the gradient against real-time recurrent learning",
}


def _legend(trials: Iterable[str]) -> str:
    """Explain the columns in a paragraph."""
    told = ["digits: that are right, of the largest entry of the worst tensor"]
    return paragraph("; ".join([*told, *(text for name, text in LEGEND.items() if name in trials)]) + ".")


def checks_text(reports: Sequence[tuple[str, GradcheckReport]], verbose: bool) -> str:
    """Return what the command prints: the table, the full report of what failed, or of all, and a sentence."""
    parts = [checks_table(reports), _legend({trial.name for _, report in reports for trial in report.trials})]
    shown = [report for _, report in reports if verbose or not report.ok]
    parts += [f"{report}\n" for report in shown]
    failed = [name for name, report in reports if report.verdict == "FAILED"]
    open_ones = [name for name, report in reports if report.verdict == UNDECIDED]
    entries = sum(math.prod(row.shape) for _, report in reports for row in report.rows)
    if failed:
        parts.append(paragraph(f"FAILED: {', '.join(failed)}."))
    if open_ones:
        parts.append(paragraph(f"Undecided: {', '.join(open_ones)}; nothing is seen to be wrong, see the notes."))
    if not failed and not open_ones:
        worst = max(report.error for _, report in reports)
        directed = any("directions" in report.method for _, report in reports)
        how = "in all, checked along random directions" if directed else "compared one by one"
        parts.append(
            paragraph(
                f"All right: {count(len(reports), 'check')}, {entries} entries {how}, the worst off by "
                f"{short(worst)} of the largest of its tensor."
            )
        )
    return "\n".join(parts)


def zoo_text(found: Sequence[tuple[Specimen, GradcheckReport]], verbose: bool) -> str:
    """Return what the command prints of the zoo: what is wrong, whether it was caught, where, and the diagnosis.

    With `verbose` the full reports follow.
    """
    titles = ("wrong backward pass", "caught", "where", "diagnosis")
    table = new_table(titles, left=titles)
    for specimen, report in found:
        diagnosis = report.diagnosis
        kind = "-" if diagnosis is None else diagnosis.kind
        mark = "" if named(specimen, report) else f" (is: {specimen.diagnosis})"
        table.add_row(specimen.name, "-" if report.ok else "caught", _where(report), kind + mark)
    caught, right = sum(not report.ok for _, report in found), sum(named(*pair) for pair in found)
    parts = [
        rendered(table),
        paragraph(
            "where: the layer, its gate, and the block (t, k): going back from a loss at step t alone, k is the first "
            "step at which the gradient is wrong. Without a block, the tensors that are wrong; - where every number is "
            "right, and something else is not."
        ),
    ]
    if verbose:
        for specimen, report in found:
            parts.append(paragraph(f"{specimen.name}: {specimen.mistake} ({specimen.origin})") + f"{report}\n")
    total = len(found)
    parts.append(
        paragraph(
            f"{caught} of {total} wrong backward passes were caught, {right} with the right diagnosis "
            f"({100 * right / total:.0f} %)." + ("" if verbose else " --verbose shows each mistake and its report.")
        )
    )
    return "\n".join(parts)


def named(specimen: Specimen, report: GradcheckReport) -> bool:
    """Return whether a report's diagnosis is the name of a specimen's mistake."""
    return report.diagnosis is not None and report.diagnosis.kind in (specimen.diagnosis, *specimen.also)


def _where(report: GradcheckReport) -> str:
    """Return the first wrong place in a few letters: layer, gate, block (t, k)."""
    where: dict[str, Any] = {} if report.diagnosis is None else report.diagnosis.where
    if "t" not in where:
        wrong = [row.title for row in report.rows if row.verdict != OK]
        return "-" if not wrong else wrong[0] + (f" + {len(wrong) - 1}" if len(wrong) > 1 else "")
    gate = f".{where['gate']}" if where.get("gate") else ""
    return f"{where['layer']}{gate} ({where['t']}, {where['k']})"
