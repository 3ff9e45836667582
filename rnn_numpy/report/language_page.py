"""What `rnn-numpy train lm` says: a table of models, a few plain sentences, a sample. At most 100 columns wide."""

from __future__ import annotations

import math
import textwrap

from rnn_numpy.core.numbers import count
from rnn_numpy.core.terminal import line_width
from rnn_numpy.experiments.language import TEMPERATURE, LanguageOptions, LanguageResult
from rnn_numpy.report.tables import new_table, paragraph, rendered


def language_report(result: LanguageResult) -> str:
    """Return the report of a run as text; rich lays out the table."""
    lengths = result.lengths
    head = (
        f"lm: after each character of a text, which one is the next (many-to-many, aligned)? {result.options.data}, "
        f"{sum(lengths)} characters, {result.size} different ones, in the order of the text: {lengths.train} to train, "
        f"{lengths.valid} to validate, {lengths.test} to test."
    )
    parts = [paragraph(head), _models(result), *map(paragraph, _sentences(result))]
    return "\n".join(parts if math.isnan(result.bits) else [*parts, _sample(result)])


def net_name(options: LanguageOptions) -> str:
    """Return what to call the net: "lstm of 128"."""
    layers = f"{options.layers} layers of {options.hidden}" if options.layers > 1 else f"of {options.hidden}"
    return f"{options.cell} {layers}{', tied' if options.tied else ''}"


def _models(result: LanguageResult) -> str:
    """Return the table, the best model first."""
    table = new_table(("model", "bits per character\nof the test part", "as sure as\na guess among"), left=["model"])
    net = net_name(result.options)
    rows = {**result.baselines, net: result.bits}
    for name, bits in sorted(rows.items(), key=lambda row: (math.isnan(row[1]), row[1])):
        table.add_row(f"{name}{'  <' if name == net else ''}", f"{bits:.3f}", f"{2**bits:.1f}")
    return rendered(table)


def _sentences(result: LanguageResult) -> list[str]:
    options, run, cuts = result.options, result.run, result.truncations
    epochs = run.training.history["count"].sum() / (result.lengths.train - 1)
    jitter = f", their lengths drawn about it (sd {options.jitter:g})" if options.jitter else ""
    kept = ""
    if run.best.best is not None:
        kept = (
            f" The parameters are those after update {run.best_update}, with the fewest bits per character on the "
            f"validation part, {run.best.best:.3f}."
        )
    sentences = [
        f"{count(result.parameters, 'parameter')}, float32; {count(options.batch, 'column')} of text read side by side "
        f"in windows of {count(options.length, 'character')}{jitter}, the state carried on; "
        f"{count(run.training.number, 'update')} by AdamW, {epochs:.1f} times through the text, "
        f"{run.cpu_seconds:.0f} CPU seconds.{kept}",
        "Kneser-Ney k interpolates counts of runs of up to k + 1 characters; gzip and xz: the bits that the test part "
        "adds to the compressed training part. Where a text repeats whole passages, xz finds them.",
    ]
    if math.isnan(result.bits):
        sentences.append("The training has diverged: what the net says is not finite. Take a lower rate.")
    if options.length in cuts.lengths:
        k = cuts.lengths.index(options.length)
        sentences.append(
            f"Truncation: on a stretch of {cuts.steps} characters of the test part, the gradient that is cut every "
            f"{options.length}, as in training, is off by {100 * cuts.chunk[k]:.2g} % of the norm of the whole one, at "
            f"an angle of {cuts.angles[k]:.2g} degrees. If each loss went back {options.length} steps it would be off "
            f"by {100 * cuts.window[k]:.2g} %."
        )
    return sentences


def _sample(result: LanguageResult) -> str:
    """Return the sample, indented, long lines broken."""
    lines = (result.prompt + result.sample).split("\n")
    broken = [
        piece for line in lines for piece in (textwrap.wrap(line, line_width() - 4, drop_whitespace=False) or [""])
    ]
    text = "\n".join(f"    {line}".rstrip() for line in broken)
    title = f"A sample at temperature {TEMPERATURE:g}, begun with {result.prompt!r}:"
    return f"{title}\n\n{text}\n"
