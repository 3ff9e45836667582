"""`rnn-numpy gradflow --model FILE`: how the gradient flows in a recurrent layer of a file of trained weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnn_numpy.cli import common
from rnn_numpy.cli.common import BadInputError, Outcome
from rnn_numpy.core import storage
from rnn_numpy.tasks import BUNDLED

Array = NDArray[Any]
OPTIONS = ("node", "direction", "choice")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what --model FILE asks for further."""
    node = "of a file: the recurrent layer, by its name or the end of it; there may be several"
    parser.add_argument("--node", metavar="NAME", help=node)
    way = "of a bidirectional layer in a file: which way; of several layers, the lowest"
    parser.add_argument("--direction", choices=("forward", "backward"), help=way)
    choice = "where a file does not tell which of several functions a layer is: this one, of those that inspect names"
    parser.add_argument("--choice", metavar="NAME", help=choice)


def refuse_options(arguments: argparse.Namespace) -> None:
    """Refuse these options where there is no file that they are about."""
    for option in OPTIONS:
        if getattr(arguments, option) is not None:
            raise BadInputError(f"--{option}: is of --model FILE, a file of trained weights, which is not given")


def measured(arguments: argparse.Namespace) -> Outcome:
    """Measure, write the figure and the numbers, and return the page."""
    from rnn_numpy.report import diagnose

    data = [] if arguments.data in BUNDLED else [Path(arguments.data)]
    common.check_before(arguments, [arguments.model, *data])
    name, layer, reverse = _layer(arguments)
    x, independent = _inputs(arguments, name, layer.input_size)
    if reverse:
        x = x[::-1]
    x = np.ascontiguousarray(x.swapaxes(0, 1) if layer.batch_first else x)
    with common.working("gradflow", layer.hidden_size) as progress:
        progress(0, 2, "measuring")
        found = diagnose(layer.astype(np.float64), x, independent=independent)
        progress(1, 2, "drawing")
        figure = found.figure()
    page = f"{arguments.model}: {name}{', backward' if reverse else ''}\n{found!r}\n"
    return common.written(arguments, page, figure, {"file": str(arguments.model), "node": name} | found.to_dict())


def _layer(arguments: argparse.Namespace) -> tuple[str, Any, bool]:
    """Return the layer of the file that is meant, its name, and whether it reads from the last step to the first."""
    from rnn_numpy.interop import one_direction, open_network

    network = open_network(arguments.model)
    if not len(network):
        raise BadInputError(f"--model: {arguments.model}: {'; '.join(network.notes)}")
    if arguments.node is None and len(network) > 1:
        raise BadInputError(
            f"--node: {arguments.model} has {len(network)} recurrent layers: {', '.join(network.names)}"
        )
    found = network[arguments.node or 0]
    found = found if arguments.choice is None else found.choose(arguments.choice)
    layer, reverse = found.layer, found.reverse
    if layer.bidirectional:
        if arguments.direction is None:
            raise BadInputError(f"--direction: {found.name} has two directions; a lag means something in one of them")
        reverse = arguments.direction == "backward"
        layer = one_direction(layer, 0, reverse)
    elif arguments.direction is not None:
        raise BadInputError(f"--direction: {found.name} has one direction")
    return found.name or arguments.model.name, layer, reverse


def _inputs(arguments: argparse.Namespace, name: str, D: int) -> tuple[Array, float]:
    """Return windows (T, N, D) of --data: an array of numpy.save as it is, or as many as --batch of a series; and how
    many independent ones they are worth."""
    path = Path(arguments.data)
    if arguments.data not in BUNDLED and path.suffix == ".npy":
        array = storage.npy_array(f"--data: {path}", storage.read_whole("--data", path))
        if array.ndim == 3 and array.shape[2] == D and len(array) > 1 and array.size:
            return array.astype(np.float64), float(array.shape[1])
        if array.ndim == 3:
            raise BadInputError(f"--data: {path} must be (T, N, {D}) with T > 1, what {name} reads; got {array.shape}")
    values = common.read_series(arguments).values
    if values.shape[1] != D:
        raise BadInputError(
            f"--data: {arguments.data} has {values.shape[1]} channels, {name} reads {D}; save its inputs with "
            f"numpy.save, as (T, {D}) or (T, N, {D})"
        )
    T = min(arguments.length, len(values))
    starts = np.unique(np.linspace(0, len(values) - T, min(arguments.batch, len(values) - T + 1)).astype(int))
    windows = np.stack([values[start : start + T] for start in starts], axis=1).astype(np.float64)
    return windows, min(float(len(starts)), len(values) / T)
