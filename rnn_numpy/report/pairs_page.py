"""What `rnn-numpy train g2p`, `roman` and `dates` say, and `rnn-numpy gradflow --model`. At most 100 columns wide."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rnn_numpy.core.numbers import count
from rnn_numpy.experiments.pairs import ModelFlow, PairResult
from rnn_numpy.report.tables import new_table, paragraph, rendered

LAGS = (0, 1, 2, 4, 8, 16, 32)
WAYS = ("values", "weights", "bridge", "whole")


class Words(NamedTuple):
    """What a task is called, and its two error rates."""

    head: str
    symbols: str
    wrong: str


WORDS = {
    "g2p": Words(
        "words of the CMU Pronouncing Dictionary, letter by letter, and their phones, without stress", "PER", "WER"
    ),
    "roman": Words(
        "numbers from 1 to 3999, digit by digit, and their Roman numerals", "letters wrong", "numbers wrong"
    ),
    "dates": Words("dates as twelve locales write them, and as ISO 8601 does", "characters wrong", "dates wrong"),
}


def pair_report(result: PairResult) -> str:
    """Return the report of a run as text; rich lays out the table."""
    words, options = WORDS[result.task], result.options
    head = (
        f"{result.task}: {words.head}. An encoder reads a source from both sides, a decoder that attends to it writes "
        f"the answer. {count(result.sources, 'test source')}, none of which was trained on. An answer counts as right "
        "where it is one of those that the data has."
    )
    table = new_table(("answers by", words.symbols, words.wrong, "updates", "best at\nupdate", "CPU s"), ["answers by"])
    run = result.run
    for name, score in result.scores.items():
        shares = f"{100 * score.symbols:.2f} %", f"{100 * score.wrong:.1f} %"
        more = () if name == "rules" else (str(run.training.number), str(run.best_update), f"{run.cpu_seconds:.0f}")
        table.add_row(f"{options.cell}, {name}" if more else "rules that count, no net", *shares, *more)
    place = "before the cell" if options.order == "before" else "after the cell"
    fed = ", fed back into the next step" if options.feeding else ""
    smoothing = f", label smoothing {options.smoothing:g}" if options.smoothing else ""
    settings = (
        f"{count(result.parameters, 'parameter')}: embeddings of {options.embedding}, 2 x {options.hidden // 2} units "
        f"in the encoder, {options.hidden} in the decoder, attention {place}{fed}, score {options.score}. Batches of "
        f"{options.batch}, float32, Adam with a learning rate of {options.lr:g} that falls linearly, norm clipped to "
        f"{options.clip:g}{smoothing}. The parameters are those with the lowest cross-entropy on validation pairs. The "
        "rules replace each symbol by what training pairs say of it and its neighbours."
    )
    wrong = min(score.wrong for name, score in result.scores.items() if name != "rules")
    goal = f"The goal, {100 * result.goal:g} % wrong, is {'reached' if wrong <= result.goal else 'missed'}."
    return "\n".join([paragraph(head), rendered(table), paragraph(goal), paragraph(settings)])


def flow_report(flow: ModelFlow) -> str:
    """Return the table of a trained net's gradient by lag and way."""
    lags = flow.by_lag
    head = (
        f"{flow.name}: how the gradient of the loss gets back to the source of {count(flow.count, 'validation pair')}: "
        "norm of dL/d(embedding), by the distance from the source's end, by way. Values: through the rows that were "
        f"read; weights: through what chose them; bridge: through the decoder's initial state. The three add up to the "
        f"whole to {flow.split.residual:.0e}."
    )
    table = new_table(("lag", *WAYS))
    last = len(lags["whole"]) - 1
    for lag in sorted({*(lag for lag in LAGS if lag <= last), last}):
        table.add_row(str(lag), *(f"{lags[way][lag]:.2e}" for way in WAYS))
    focus = flow.focus
    passed = "" if focus.passed is None else f" The softmax lets {np.nanmean(focus.passed):.1e} of dalpha through."
    tail = (
        f"The weights have {np.nanmean(focus.entropy):.2f} nats, {np.nanmean(focus.effective):.1f} rows in effect; "
        f"{100 * focus.saturated:.0f} % of the steps are saturated.{passed} Rank correlation of weights and gradients, "
        f"token by position: {np.nanmean(flow.correlation):.2f} in the mean of {len(flow.correlation)} words, "
        f"{np.nanmin(flow.correlation):.2f} at least."
    )
    return "\n".join([paragraph(head), rendered(table), paragraph(tail)])
