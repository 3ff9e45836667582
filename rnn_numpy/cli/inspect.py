"""`rnn-numpy inspect`: the recurrent layers of a file of trained weights."""

from __future__ import annotations

import argparse

from rnn_numpy.cli import common
from rnn_numpy.cli.common import Outcome
from rnn_numpy.core.extras import optional_import


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `inspect` to the sub-commands."""
    parser = commands.add_parser(
        "inspect",
        description="List the recurrent layers of a file, whichever library wrote it: an ONNX model, a state dict or "
        "checkpoint of torch, .safetensors, .npz, a file of Keras. Each is made as a layer of this package, and "
        "compared with the equations of its format, or it is said why not. Nothing in the file is executed.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "file", metavar="FILE", type=common.file_path, help="file of weights; its content says what it is"
    )
    common.add_numbers(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    """Return the table."""
    from rnn_numpy.errors import RNNNumpyError
    from rnn_numpy.interop import open_network
    from rnn_numpy.report.network_page import network_numbers, network_report, opened_layers

    optional_import("rich", "the table")
    common.check_outputs({"--json": arguments.json}, [arguments.file])
    network = open_network(arguments.file)
    opened = opened_layers(network, RNNNumpyError)
    text = network_report(network, opened)
    if arguments.json is None:
        return Outcome(text)
    return common.told(arguments.json, f"{text}\n", network_numbers(network, opened))
