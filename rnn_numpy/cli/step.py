"""`rnn-numpy step`: a prompt inside of a backward pass, for a network on a series or for one's own."""

from __future__ import annotations

import argparse
import functools
import io
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rnn_numpy.cli import common
from rnn_numpy.cli.common import BadInputError, Outcome
from rnn_numpy.cli.prompt import Prompt, script
from rnn_numpy.cli.session import Case
from rnn_numpy.cli.target import load_target, target_error
from rnn_numpy.core import states
from rnn_numpy.engine import Recurrent, Trace
from rnn_numpy.errors import RNNNumpyError
from rnn_numpy.lab.gradient_flow import set_recurrent_weights
from rnn_numpy.layers import KINDS
from rnn_numpy.models import SequenceModel
from rnn_numpy.models.sequence import LOSSES
from rnn_numpy.tasks import ForecastTask
from rnn_numpy.tasks.files import READING

LOSS = ("last", "all")
DATA = "eeg"  # where neither --data nor a model is given
# Options of the network that is drawn, and of what it reads: what brings its own takes none of them.
NETWORK = {"cell": "lstm", "hidden": 32, "layers": 1, "gain": 1.5, "bidirectional": False}
READS = {"length": 100, "batch": 1, "loss": "last", "seed": 0}
LONG = 2**22  # steps, and units times steps times sequences, of a pass that is no longer looked at step by step

EPILOG = """commands, as in pdb and gdb (h lists them all):
  n, c, until EXPR, finish     go on              rn, rc, goto T      go back
  b EXPR, tb, info b, cl K     stops              p, x, display       look
  e NAME UNIT                  the equation with its numbers in place
  set dh_prev[0, 3] = 0        what if, in a fork; diff 1 2
  assert EXPR                  for scripts: the exit code is 1 where one fails
examples:
  rnn-numpy step --cell gru -c "b norm(dh_prev) < 1e-6" -c c -c "e dh_prev"
  rnn-numpy step --forward -c "b saturated(i, 0.5)" -c c -c "e i"
  rnn-numpy step mine.py:case -x check.txt"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `step` to the sub-commands.

    >>> parser = add_parser(argparse.ArgumentParser().add_subparsers())
    >>> arguments = parser.parse_args(["--cell", "gru", "-c", "n 3", "-x", "file", "-c", "p t"])
    >>> arguments.cell, [(kind, str(text)) for kind, text in arguments.commands]
    ('gru', [('c', 'n 3'), ('x', 'file'), ('c', 'p t')])
    """
    parser = commands.add_parser(
        "step",
        description="A debugger for backpropagation through time, and with --forward for the pass before it: step, "
        "stop at conditions, go back, print, explain an equation with its numbers, and ask what if. What is stepped "
        "through is a network that forecasts the next sample of a series, a layer of a file (--model), or what "
        "TARGET returns.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="FILE.py:FUNCTION, a function of yours that returns (layer, trace, doutput), or these and dh_n, as "
        "layer.backward takes them",
    )
    defaults = argparse.Namespace(**{**READING, **NETWORK, **READS, "data": ""})
    add = functools.partial(common.add_option, parser, defaults)
    common.add_series(add)
    add("--cell", f"one of {', '.join(KINDS)}", "CELL", choices=tuple(KINDS))
    add("--hidden", "hidden units", "H", type=common.positive_int)
    add("--length", "time steps", "T", type=common.positive_int)
    add("--layers", "recurrent layers", "L", type=common.positive_int)
    add("--batch", "windows of the series", "N", type=common.positive_int)
    add("--bidirectional", "with a second direction, from the last step back")
    gain = "spectral radius of W_hh, with gates of each gate's block of it"
    add("--gain", gain, "G", type=common.positive_number)
    add("--loss", "the error of the last step, or of all", choices=LOSS)
    add("--seed", "of all random draws", "S", type=common.whole_number)
    model = (
        "step through the recurrent layer of this file of trained weights instead (see rnn-numpy inspect), on --data "
        "or else random numbers; the loss is half the square of its outputs"
    )
    parser.add_argument("--model", metavar="FILE", type=common.file_path, help=model)
    parser.add_argument(
        "--forward", action="store_true", help="step through the forward pass, from its first step on, not the way back"
    )
    parser.add_argument("--model-layer", metavar="NAME", help="which layer of it, where there are several")
    one = "run this command; several in their order; there is no prompt then"
    parser.add_argument(
        "-c", dest="commands", action="append", default=[], metavar="COMMAND", type=lambda text: ("c", text), help=one
    )
    parser.add_argument(
        "-x",
        dest="commands",
        action="append",
        metavar="FILE",
        type=lambda text: ("x", common.file_path(text)),
        help="run the commands of a file, a line each; # begins a comment",
    )
    parser.add_argument(
        "--html", metavar="FILE", type=common.file_path, help="at the end write the pass here, a page for a browser"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each command")
    return parser


def run(arguments: argparse.Namespace) -> Outcome:
    """Run commands, or the prompt; the exit code is 1 where an assert has failed."""
    scripts: list[tuple[str, Iterable[str]]] = [
        ("-c", [item]) if kind == "c" else (f"{item}, line {{}}", script(item)) for kind, item in arguments.commands
    ]
    if not scripts and sys.stdin is None:
        raise BadInputError("standard input is closed; say what to do with -c or -x")
    common.check_outputs({"--html": arguments.html}, [Path(item) for kind, item in arguments.commands if kind == "x"])
    case = _case(arguments)
    if arguments.forward:
        case = replace(case, forward=True, title=case.title.partition("; dL/dh")[0] + "; forward")
    prompt = Prompt(case, sys.stdin or io.StringIO(), sys.stdout, arguments.json)
    if not scripts and prompt.terminal:
        prompt.interact()
    else:
        prompt.greet()
        try:
            for name, lines in scripts or [("standard input, line {}", sys.stdin)]:
                if prompt.run(lines, name):
                    break
        except UnicodeDecodeError as error:
            raise BadInputError(f"standard input: is no text in {error.encoding}") from None
    if arguments.html is not None:
        prompt.run([f"html {arguments.html}"], "--html")
    return Outcome("", prompt.code)


def _case(arguments: argparse.Namespace) -> Case:
    """Return what is to be stepped through."""
    if arguments.target is not None:
        if arguments.model is not None or arguments.data:
            raise BadInputError("TARGET: brings its own network and data; leave out --model and --data")
        _refuse(arguments, "TARGET", {**NETWORK, **READS, "model_layer": None})
        return _target(arguments.target)
    if arguments.model is not None:
        _refuse(arguments, "--model", NETWORK)
    else:
        _refuse(arguments, "without --model", {"model_layer": None})
    size = arguments.length * arguments.hidden * arguments.batch * arguments.layers
    if arguments.length > LONG or size > 2**28:
        raise BadInputError(
            f"--length {arguments.length}, --hidden {arguments.hidden}: {size:.1e} entries in each array of the pass; "
            f"step through a shorter one"
        )
    with np.errstate(all="ignore"):
        return _opened(arguments) if arguments.model is not None else _forecaster(arguments)


def _refuse(arguments: argparse.Namespace, what: str, options: dict[str, Any]) -> None:
    """Refuse options that would change nothing."""
    given = [f"--{name.replace('_', '-')}" for name, default in options.items() if getattr(arguments, name) != default]
    if given:
        raise BadInputError(
            f"{what}: {', '.join(given)} would change nothing; leave {'it' if len(given) == 1 else 'them'} out"
        )


def _forecaster(arguments: argparse.Namespace) -> Case:
    """Return a network that forecasts the next sample of the series, drawn as those of `rnn-numpy gradflow`."""
    arguments.data = arguments.data or DATA
    task = ForecastTask.of(common.read_series(arguments), arguments.length)
    windows = task.spread_windows(arguments.batch)
    rng, recurrent = (np.random.default_rng([arguments.seed, stream]) for stream in range(2))
    layer = KINDS[arguments.cell](
        task.channels, arguments.hidden, num_layers=arguments.layers, bidirectional=arguments.bidirectional, rng=rng
    )
    model = SequenceModel(layer, task.channels, reads="all", rng=rng)
    set_recurrent_weights(model.rnn, arguments.gain, "uniform", recurrent)
    output, _, trace = model.rnn.forward(windows.x)
    prediction, readout = model.readout.forward(output)
    dprediction = LOSSES["mse"](prediction, windows.target)[1]
    if arguments.loss == "last":
        dprediction[:-1] = 0
        dprediction[-1] *= arguments.length  # the mean is over one step
    doutput = model.readout.backward(readout, dprediction).dx
    which = "the last step" if arguments.loss == "last" else "all steps"
    title = f"{_words(arguments.cell, layer, trace)}, {task.series.name}; dL/dh of the squared error of {which}"
    return Case(layer, trace, doutput, None, title)


def _opened(arguments: argparse.Namespace) -> Case:
    """Return a layer of a file of trained weights."""
    from rnn_numpy.interop import open_network

    network = open_network(arguments.model)
    names = [found.name for found in network]
    wanted = arguments.model_layer
    if not names:
        raise BadInputError(f"--model {arguments.model}: has no recurrent layer: {'; '.join(network.notes)}")
    if wanted is None and len(names) > 1:
        raise BadInputError(f"--model {arguments.model}: has {', '.join(names)}; say which with --model-layer")
    if wanted is not None and wanted not in names:
        raise BadInputError(f"--model-layer: {arguments.model} has {', '.join(names)}; got {wanted!r}")
    layer = network[names.index(wanted) if wanted is not None else 0].layer
    D, dtype = layer.input_size, layer.dtype
    if arguments.data:
        task = ForecastTask.of(common.read_series(arguments), arguments.length)
        if task.channels != D:
            raise BadInputError(f"--data: {arguments.data} has {task.channels} channels, {names[0]} reads {D}")
        x, source = task.spread_windows(arguments.batch).x, task.series.name
    else:
        rng = np.random.default_rng(arguments.seed)
        x, source = rng.standard_normal((arguments.length, arguments.batch, D)), "random numbers"
    x = x.astype(dtype)
    output, _, trace = layer.forward(x.swapaxes(0, 1) if layer.batch_first else x)
    doutput = np.array(output)
    if arguments.loss == "last":
        (doutput[:, :-1] if layer.batch_first else doutput[:-1])[...] = 0
    which = "the last output" if arguments.loss == "last" else "all outputs"
    name = wanted or names[0] or Path(arguments.model).name
    title = f"{_words(name, layer, trace)}, {source}; dL/dh of half the square of {which}"
    return Case(layer, trace, doutput, None, title)


def _target(text: str) -> Case:
    """Return what the user's function says."""
    function = load_target(text)
    try:
        result: Any = function()
    except RNNNumpyError:
        raise
    except (Exception, SystemExit) as error:
        raise target_error(text, error) from error
    if not isinstance(result, tuple) or not 3 <= len(result) <= 4:
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise BadInputError(f"{text}: must return (layer, trace, doutput), or these and dh_n; got {got}")
    layer, trace = result[:2]
    if not isinstance(layer, Recurrent):
        raise BadInputError(f"{text}: the first it returns must be a recurrent layer; got {type(layer).__name__}")
    if not isinstance(trace, Trace):
        raise BadInputError(
            f"{text}: the second it returns must be the trace, the third result of layer.forward(x); got "
            f"{type(trace).__name__}"
        )
    doutput, dh_n = (*result[2:], None)[:2]
    return Case(layer, trace, doutput, dh_n, _words(Path(text.rpartition(":")[0]).name, layer, trace))


def _words(name: str, layer: Recurrent, trace: Trace) -> str:
    N = states.split(trace.h_n)[0].shape[1]
    return f"{name}: {layer}, T = {len(trace)}, N = {N}"
