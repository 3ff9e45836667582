"""`rnn-numpy predict`: ask what `rnn-numpy train` has trained."""

from __future__ import annotations

import argparse

from rnn_numpy.cli import common
from rnn_numpy.cli.common import Outcome
from rnn_numpy.cli.train import EXPERIMENTS, reading
from rnn_numpy.experiments.experiment import open_experiment


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `predict` to the sub-commands."""
    parser = commands.add_parser(
        "predict",
        description="Ask the net that `rnn-numpy train` has trained in the folder DIR, finished or not. "
        "Its parameters are those of the best validation so far.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", metavar="DIR", type=common.file_path, help="folder that train wrote, its --out")
    inputs = "; ".join(f"{name}: {kind.inputs}" for name, kind in EXPERIMENTS.items())
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help=inputs)


def run(arguments: argparse.Namespace) -> Outcome:
    """Return the answer."""
    with reading(arguments.folder):
        experiment = open_experiment(arguments.folder, EXPERIMENTS, for_prediction=True)
        return Outcome(experiment.predict(arguments.inputs))
