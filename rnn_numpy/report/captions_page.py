"""What `rnn-numpy train captions` says: a table of describers, and where the net looks. At most 100 columns wide."""

from __future__ import annotations

from rnn_numpy.core.numbers import count
from rnn_numpy.experiments.captions import CaptionResult
from rnn_numpy.report.tables import new_table, paragraph, rendered


def caption_report(result: CaptionResult) -> str:
    """Return the report of a run as text; rich lays out the table."""
    options, run, attention = result.options, result.run, result.attention
    head = (
        "captions: a picture of 30 x 30 pixels with one to three real handwritten digits is described in reading "
        f"order, word by word (one-to-many): digit, row, column. {count(len(result.scenes), 'test picture')} of "
        "scikit-learn's digits 1400 to 1796, none of which was trained on."
    )
    table = new_table(("described by", "captions\nright", "digits\nnamed", "updates", "CPU s"), left=["described by"])
    for name, score in result.scores.items():
        more = (str(run.training.number), f"{run.cpu_seconds:.0f}") if name == "net" else ()
        title = f"{options.cell} with attention" if name == "net" else name
        table.add_row(title, f"{100 * score.exact:.1f} %", f"{100 * score.digit_words:.1f} %", *more)
    where = (
        f"When a digit is named, {100 * attention.mass:.1f} % of the attention lies on its windows (equal weights: "
        f"{100 * attention.uniform:.1f} %), and the largest weight in {100 * attention.pointing:.1f} % of the cases."
    )
    penalty = f", doubly stochastic penalty {options.penalty:g}" if options.penalty else ""
    settings = (
        f"{count(result.parameters, 'parameter')}: {options.hidden} units, 25 windows with {options.memory} features "
        f"each, words of {options.embedding}{penalty}. Batches of {options.batch}, float32, Adam with a learning rate "
        f"of {options.lr:g} that falls along a cosine, norm clipped to {options.clip:g}. The reader by nearest digits "
        "knows cells and moves, which the net has to find out."
    )
    return "\n".join([paragraph(head), rendered(table), paragraph(where), paragraph(settings)])
