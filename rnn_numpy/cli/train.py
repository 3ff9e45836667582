"""`rnn-numpy train`: train a net on real data, in a folder from which the training can be taken up again."""

from __future__ import annotations

import argparse
import contextlib
import functools
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rnn_numpy.cli import common
from rnn_numpy.cli.common import BadInputError, Outcome
from rnn_numpy.core.extras import optional_import
from rnn_numpy.experiments import captions, digits, forecasting, language, pairs
from rnn_numpy.experiments.experiment import (
    FIGURE,
    NUMBERS,
    REPORT,
    Experiment,
    finished,
    open_experiment,
    run_experiment,
)
from rnn_numpy.layers.attention_decoder import ORDERS
from rnn_numpy.layers.attention_layer import SCORES
from rnn_numpy.models.horizons import STRATEGIES
from rnn_numpy.models.sequence import CELLS, READS
from rnn_numpy.report.captions_page import caption_report
from rnn_numpy.report.digits_page import digits_report
from rnn_numpy.report.forecast_page import forecast_report
from rnn_numpy.report.language_page import language_report
from rnn_numpy.report.pairs_page import pair_report
from rnn_numpy.report.plots.captions import caption_figure
from rnn_numpy.report.plots.digits import digits_figure
from rnn_numpy.report.plots.forecast import forecast_figure
from rnn_numpy.report.plots.language import language_figure
from rnn_numpy.report.plots.pairs import pair_figure
from rnn_numpy.report.plots.style import save_figure

Add = Callable[..., None]


class Kind(NamedTuple):
    """What can be trained: the experiment, its report and figure, and what the command line says of it."""

    experiment: type[Experiment]
    report: Callable[[Any], str]
    figure: Callable[[Any], Any]
    summary: str
    description: str
    add_options: Callable[[Add], None]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `train` to the sub-commands, with a sub-command for each experiment."""
    parser = commands.add_parser(
        "train",
        description="Train a net on real data, and compare it with baselines. All goes into a folder: checkpoints, "
        f"{REPORT}, {FIGURE} and {NUMBERS}. Ctrl-C saves, and the training can be taken up again with --resume; it "
        "then ends bit for bit where it would have ended, but for times. `rnn-numpy predict` asks the trained net.",
        usage="rnn-numpy train [-h] WHAT [OPTION ...]\n       rnn-numpy train --resume DIR",
        allow_abbrev=False,
    )
    parser.add_argument("--resume", metavar="DIR", type=common.file_path, help="go on with the training in this folder")
    common.add_quiet(parser)
    parser.set_defaults(run=run)
    kinds = parser.add_subparsers(dest="what", metavar="WHAT", prog="rnn-numpy train")
    for name, kind in WHAT.items():
        one = kinds.add_parser(name, help=kind.summary, description=kind.description, allow_abbrev=False)
        defaults = argparse.Namespace(**vars(kind.experiment.Options()), out=Path(f"{name}-run"))
        add = functools.partial(common.add_option, one, defaults)
        kind.add_options(add)
        common.add_quiet(one, argparse.SUPPRESS)
        one.add_argument("--resume", type=common.file_path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        add("--out", "folder to make for all that comes of it", "DIR", type=common.file_path)


def _language(add: Add) -> None:
    add("--data", "the help of CPython, pydoc, or a file FILE.txt, UTF-8", "TEXT")
    _net(add, language.CELLS)
    add("--embedding", "width of the embedding", "E", type=common.positive_int)
    add("--tied", "one weight for embedding and readout; needs E = H")
    add("--batch", "columns of text that are read side by side", "N", type=common.positive_int)
    add("--length", "characters of a window, which the gradient does not leave", "T", type=common.positive_int)
    add("--jitter", "standard deviation of the windows' lengths, in characters", "S", type=common.not_negative)
    _training(add)
    add("--decay", "weight decay of AdamW", "W", type=common.not_negative)
    add("--characters", "of a sample", "K", type=common.whole_number)


def _forecast(add: Add) -> None:
    common.add_series(add)
    season = "samples after which the series repeats itself, for the seasonal baseline and MASE; 0: what is known of it"
    add("--season", season, "M", type=common.whole_number)
    difference = (
        "whether nets read differences from sample to sample; auto: where validation leaves the range of training"
    )
    add("--difference", difference, choices=tuple(forecasting.DIFFERENCE))
    add("--horizon", "steps ahead", "H", type=common.positive_int)
    strategy = (
        "recursive: one step, fed with its own forecasts; direct: all H at once; seq2seq: a decoder trained through "
        "its own forecasts"
    )
    add("--strategy", strategy, choices=STRATEGIES)
    add("--reads", "a loss at all steps of a window (many-to-many), or at the last one (many-to-one)", choices=READS)
    _net(add, CELLS)
    add("--length", "steps of a window; fewer where the series is short", "T", type=common.positive_int)
    _training(add)
    add("--batch", "windows an update", "N", type=common.positive_int)
    add("--seeds", "nets to train, with the seeds S, S + 1, ...", "K", type=common.positive_int)


def _digits(add: Add) -> None:
    _net(add, digits.CELLS)
    add("--directions", "2 reads each digit from below, too", choices=(1, 2), type=int)
    add("--moved", "share of the training images that are moved by a pixel", "P", type=common.share)
    noise = "standard deviation of what is added to pixels in training; black is 1"
    add("--noise", noise, "SD", type=common.not_negative)
    _training(add)
    add("--batch", "digits an update", "N", type=common.positive_int)
    add("--seeds", "nets to train, with the seeds S, S + 1, ...", "K", type=common.positive_int)


def _pairs(add: Add) -> None:
    add("--cell", f"of encoder and decoder: {', '.join(pairs.CELLS)}", "CELL", choices=pairs.CELLS)
    add("--hidden", "units of the decoder; each direction of the encoder has half", "H", type=common.positive_int)
    add("--embedding", "width of both embeddings", "E", type=common.positive_int)
    add("--score", f"how the state is compared with the source: {', '.join(SCORES)}", "SCORE", choices=SCORES)
    add("--order", "attention after the cell (Luong), or before it (Bahdanau)", choices=ORDERS)
    add("--feeding", "input feeding: the next step reads what attention made of this one")
    _training(add)
    add("--batch", "pairs an update", "N", type=common.positive_int)
    add("--smoothing", "label smoothing", "P", type=common.share)
    add("--beam", "hypotheses of the beam search, beside greedy answers; 1: none", "K", type=common.positive_int)
    add("--test", "test sources to answer, spread over all; 0: all", "K", type=common.whole_number)


def _captions(add: Add) -> None:
    add("--cell", f"of the decoder: {', '.join(captions.CELLS)}", "CELL", choices=captions.CELLS)
    add("--hidden", "units of the decoder", "H", type=common.positive_int)
    add("--memory", "features of a window, and width of the score", "M", type=common.positive_int)
    add("--embedding", "width of the words' embedding", "E", type=common.positive_int)
    add("--penalty", "doubly stochastic penalty, lambda", "L", type=common.not_negative)
    _training(add)
    add("--batch", "pictures an update", "N", type=common.positive_int)


def _net(add: Add, cells: tuple[str, ...]) -> None:
    add("--cell", f"one of {', '.join(cells)}", "CELL", choices=cells)
    add("--hidden", "hidden units", "H", type=common.positive_int)
    add("--layers", "recurrent layers", "L", type=common.positive_int)
    add("--dropout", "between layers", "P", type=common.share)


def _training(add: Add) -> None:
    add("--updates", "updates of the parameters", "K", type=common.positive_int)
    add("--lr", "learning rate of Adam at the start", "RATE", type=common.positive_number)
    add("--clip", "clip the norm of all gradients together to this", "NORM", type=common.positive_number)
    add("--seed", "of all random draws", "S", type=common.whole_number)


WHAT = {
    "lm": Kind(
        language.LanguageExperiment,
        language_report,
        language_figure,
        "foretell a text, character by character",
        "Foretell a text, character by character, beside counts and compressors. Many-to-many, aligned.",
        _language,
    ),
    "forecast": Kind(
        forecasting.ForecastExperiment,
        forecast_report,
        forecast_figure,
        "forecast a series, some steps ahead",
        "Forecast a series 1 to H steps ahead, with several nets, a band, and baselines. The last fifth is the test, "
        "the last tenth of the rest chooses when to stop; means and deviations are those of what trains alone.",
        _forecast,
    ),
    "digits": Kind(
        digits.DigitsExperiment,
        digits_report,
        digits_figure,
        "name handwritten digits, read row by row",
        "Name handwritten digits, read row by row: 1797 real ones of scikit-learn. Many-to-one.",
        _digits,
    ),
    "captions": Kind(
        captions.CaptionExperiment,
        caption_report,
        caption_figure,
        "describe pictures of handwritten digits, word by word",
        "Describe pictures of one to three real handwritten digits, word by word, and see where the net looks. "
        "One-to-many, with attention.",
        _captions,
    ),
    "g2p": Kind(
        pairs.G2PExperiment,
        pair_report,
        pair_figure,
        "write how English words are pronounced (needs the extra g2p)",
        "Write how English words are pronounced: the CMU Pronouncing Dictionary, 103 403 words to train. Sequence to "
        "sequence with attention, beside rules that count. Needs the extra g2p.",
        _pairs,
    ),
    "roman": Kind(
        pairs.RomanExperiment,
        pair_report,
        pair_figure,
        "write numbers in Roman numerals",
        "Write numbers from 1 to 3999 in Roman numerals. Sequence to sequence with attention: half a minute.",
        _pairs,
    ),
    "dates": Kind(
        pairs.DateExperiment,
        pair_report,
        pair_figure,
        "write dates of twelve locales as ISO does (needs the extra babel)",
        "Write dates, as twelve locales write them, as ISO 8601 does. Sequence to sequence with attention. Needs the "
        "extra babel.",
        _pairs,
    ),
}
EXPERIMENTS = {name: kind.experiment for name, kind in WHAT.items()}


def run(arguments: argparse.Namespace) -> Outcome:
    """Train, write all files into the folder, and return the table."""
    folder: Path | None = arguments.resume or getattr(arguments, "out", None)
    if arguments.resume is not None and arguments.what is not None:
        raise BadInputError(f"--resume goes on as the training began; leave out {arguments.what} and its options")
    if folder is None:
        raise BadInputError(f"say what to train: {', '.join(WHAT)} (see rnn-numpy train --help)")
    for module, purpose in (("rich", "the table"), ("matplotlib", "the figure")):
        optional_import(module, purpose)
    resume = arguments.resume is not None
    with reading(folder):
        if resume:
            experiment = open_experiment(folder, EXPERIMENTS)
            if finished(folder):
                return Outcome(f"{folder}: this training has finished; its table is in {folder / REPORT}\n")
        else:
            if getattr(arguments, "dropout", 0) > 0 and arguments.layers == 1:
                raise BadInputError("--dropout: acts between layers, and there is one; say --layers 2, or more")
            kind = EXPERIMENTS[arguments.what]
            experiment = kind(common.options_of(kind.Options, arguments))
        with common.working("train", experiment.options.hidden) as progress:
            run_experiment(
                experiment, folder, progress, functools.partial(_write_pages, experiment.name), resume=resume
            )
        report = (folder / REPORT).read_text(encoding="utf-8")
    files = f"Figure: {folder / FIGURE}\nNumbers: {folder / NUMBERS}"
    return Outcome(f"{report}\n{files}\nTo ask it: rnn-numpy predict {shlex.quote(str(folder))}\n")


def _write_pages(name: str, result: Any, folder: Path) -> None:
    kind = WHAT[name]
    with common.atomic(folder / REPORT) as file:
        file.write(kind.report(result).encode())
    with common.atomic(folder / FIGURE) as file:
        save_figure(kind.figure(result), file, ".png")


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn what the system refuses, in the folder of a training, into bad input."""
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str) else folder
        raise BadInputError(f"{named}: {error.strerror or error}") from None
