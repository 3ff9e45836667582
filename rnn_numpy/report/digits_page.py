"""What `rnn-numpy train digits` says: a table of readers, and a few plain sentences. At most 100 columns wide."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnn_numpy.core.numbers import count
from rnn_numpy.experiments.digits import DigitsOptions, DigitsResult
from rnn_numpy.report.tables import listed, new_table, paragraph, rendered
from rnn_numpy.tasks.digits import DIGITS, TRAINING, VALIDATION


def digits_report(result: DigitsResult) -> str:
    """Return the report of a run as text; rich lays out the table."""
    head = (
        f"digits: a handwritten digit is read row by row and named after its last row (many-to-one). {DIGITS} real "
        f"digits of scikit-learn, in the order of the file: {TRAINING - VALIDATION} to train, {VALIDATION} to validate "
        f"and {DIGITS - TRAINING} to test. Those are mostly of other writers, and harder than a random choice."
    )
    return "\n".join([paragraph(head), _readers(result), *map(paragraph, _sentences(result))])


def net_name(options: DigitsOptions) -> str:
    """Return what to call the nets: "gru, both directions"."""
    layers = f"{options.layers} layers, " if options.layers > 1 else ""
    return f"{options.cell}, {layers}{'both directions' if options.directions == 2 else 'one direction'}"


def _readers(result: DigitsResult) -> str:
    table = new_table(("reader", "test digits\nread right", "updates", "best at\nupdate", "CPU s"), left=["reader"])

    def row(name: str, share: float, *more: Any) -> None:
        table.add_row(name, f"{100 * share:.1f} %", *(map(str, more)))

    for name, share in result.baselines.items():
        row(name, share)
    for run, share in zip(result.runs, result.accuracies, strict=True):
        seconds = f"{run.cpu_seconds:.0f}"
        row(f"{net_name(result.options)}, {run.label}", share, run.training.number, run.best_update, seconds)
    return rendered(table)


def _sentences(result: DigitsResult) -> list[str]:
    options = result.options
    sentences = []
    mistakes = result.confusion * (1 - np.eye(len(result.confusion), dtype=int))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:3]
    pairs = [(int(k) // len(mistakes), int(k) % len(mistakes)) for k in order if mistakes.flat[k]]
    if pairs:
        told = [f"{label} read as {read} ({mistakes[label, read]})" for label, read in pairs]
        where = "" if len(result.runs) == 1 else f", by {len(result.runs)} nets together"
        sentences.append(f"Mistaken most often{where}: {listed(told)}; all mistakes: {mistakes.sum()}.")
    else:
        sentences.append("No test digit is mistaken.")
    drop = f", dropout {options.dropout:g}" if options.dropout else ""
    sentences.append(
        f"{count(options.hidden, 'unit')} in each direction, batches of {options.batch}, float32, Adam with a learning "
        f"rate of {options.lr:g} that falls along a cosine, norm clipped to {options.clip:g}{drop}. In training "
        f"{100 * options.moved:.0f} % of the images are moved by a pixel, all get noise with a standard deviation of "
        f"{options.noise:g}, black being 1. The parameters are those with the lowest cross-entropy on the validation "
        "digits. The baselines know training and validation digits."
    )
    return sentences
