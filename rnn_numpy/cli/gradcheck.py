"""`rnn-numpy gradcheck`: compare gradients with independent references, entry by entry.

What is checked are the layers of this package, or the function that TARGET names: one of the user's, which returns the
loss, the gradients and the parameters.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import numpy as np

from rnn_numpy.checks import GradcheckReport, gradcheck
from rnn_numpy.checks.report import UNDECIDED
from rnn_numpy.cli import common
from rnn_numpy.cli.common import BadInputError, Outcome, Progress
from rnn_numpy.cli.target import load_target, target_error
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import RNNNumpyError
from rnn_numpy.experiments.progress import progress_bar
from rnn_numpy.layers import KINDS, GRUCell, Linear, LSTMCell, RNNCell
from rnn_numpy.report.gradcheck_page import checks_text, named, zoo_text

# Their order decides which random draws each gets.
LAYERS = ("rnn-tanh", "rnn-relu", "lstm", "lstm-projected", "gru", "gru-before", "peephole", "layernorm")
SINGLE = {"rnn-cell": RNNCell, "lstm-cell": LSTMCell, "gru-cell": GRUCell, "linear": Linear}
CELLS = (*LAYERS, *SINGLE)
METHODS = ("auto", "stepwise", "complex-step", "ridders", "fourth-order", "central-difference", "directional")
DTYPES = ("float64", "float32")

PARTS = 1000  # of which the bar thinks a single check to be made


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `gradcheck` to the sub-commands; TARGET, --cells and --zoo exclude each other.

    >>> parser = add_parser(argparse.ArgumentParser().add_subparsers())
    >>> arguments = parser.parse_args("--cells lstm gru --length 50".split())
    >>> arguments.cells, arguments.length, arguments.method, arguments.target
    (['lstm', 'gru'], 50, 'auto', None)
    """
    parser = commands.add_parser(
        "gradcheck",
        description="Compare each entry of each gradient of a loss with a reference that does not use the backward "
        "pass. Without TARGET, the layers of this package are checked. Exit code 1 says that a gradient is wrong, 3 "
        "that it could not be told.",
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="FILE.py:FUNCTION, a function of yours that returns (loss, grads, params); the file is run as "
        '`python FILE.py` would, except for what stands below `if __name__ == "__main__"`',
    )
    cells = f"any of {', '.join(CELLS)} (default: all)"
    what.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS, metavar="CELL", help=cells)
    zoo = "check a collection of wrong backward passes instead, to see each of them found"
    what.add_argument("--zoo", action="store_true", help=zoo)
    # Sizes that all differ: swapped axes cannot pass for each other.
    sizes = {"layers": 1, "length": 10, "hidden": 4, "batch": 3, "input": 2}
    defaults = argparse.Namespace(**sizes, method="auto", dtype="float64", seed=0)
    add = functools.partial(common.add_option, parser, defaults)
    add("--layers", "recurrent layers", "L", type=common.positive_int)
    parser.add_argument("--bidirectional", action="store_true", help="with a second direction, from the last step back")
    add("--length", "time steps", "T", type=common.positive_int)
    add("--hidden", "hidden units", "H", type=common.positive_int)
    add("--batch", "sequences at a time", "N", type=common.positive_int)
    add("--input", "inputs of a step", "D", type=common.positive_int)
    add("--method", f"the reference: {', '.join(METHODS)}", choices=METHODS)
    add("--dtype", f"of the checked pass: {' or '.join(DTYPES)}", choices=DTYPES)
    add("--seed", "of all random draws", "S", type=common.whole_number)
    parser.add_argument(
        "--seconds",
        type=common.positive_number,
        metavar="S",
        help="with TARGET: stop after so many, and say what was not looked at (default: 60, or no end where --method "
        "asks for each entry)",
    )
    common.add_numbers(parser)
    parser.add_argument("--verbose", action="store_true", help="print the full report of each check")
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> Outcome:
    """Check, write the numbers, and return the table; the exit code is 1 where a gradient is wrong."""
    if arguments.seconds is not None and not arguments.target:
        raise BadInputError("--seconds: goes with TARGET; the layers of this package are checked step by step")
    optional_import("rich", "the table")
    common.check_outputs({"--json": arguments.json})
    try:
        with progress_bar(0.0, "gradcheck") as progress:
            text, code, numbers = _zoo(arguments, progress) if arguments.zoo else _checks(arguments, progress)
    except RNNNumpyError as error:
        raise BadInputError(str(error).removeprefix("gradcheck: ")) from error  # that is the command's name as well
    return common.told(arguments.json, text, {"ok": not code, **numbers}, code)


def _checks(arguments: argparse.Namespace, progress: Progress) -> tuple[str, int, dict[str, Any]]:
    """Check layers, or the user's function; return the text, the exit code, and the numbers."""
    reports = _target(arguments, progress) if arguments.target else _layers(arguments, progress)
    text = checks_text(reports, arguments.verbose or arguments.target is not None)
    numbers = {"checks": [{"name": name, **report.to_dict()} for name, report in reports]}
    verdicts = {report.verdict for _, report in reports}
    code = common.FAILED if "FAILED" in verdicts else common.UNDECIDED if UNDECIDED in verdicts else 0
    return text, code, numbers


def _layers(arguments: argparse.Namespace, progress: Progress) -> list[tuple[str, GradcheckReport]]:
    """Check the layers that --cells names."""
    T, N, D, H = arguments.length, arguments.batch, arguments.input, arguments.hidden
    stacked = arguments.layers > 1 or arguments.bidirectional
    names = list(dict.fromkeys(arguments.cells))
    single = [name for name in names if name in SINGLE]
    if arguments.cells is not CELLS and stacked and single:
        raise BadInputError(f"--cells {' '.join(single)}: has a single step, and neither layers nor directions")
    if "lstm-projected" in names and H < 2:
        raise BadInputError("--hidden: a projected LSTM needs at least 2 units")
    names = [name for name in names if not (stacked and name in SINGLE)]
    reports = []
    for number, name in enumerate(names):
        rng = np.random.default_rng([arguments.seed, CELLS.index(name)])
        options: dict[str, Any] = {"dtype": arguments.dtype, "rng": rng}
        shape: tuple[int, ...] = (N, D)
        if name in LAYERS:
            options |= {"num_layers": arguments.layers, "bidirectional": arguments.bidirectional}
            options |= {"proj_size": max(1, H // 2)} if name == "lstm-projected" else {}
            shape = (T, N, D)
        kind = SINGLE[name] if name in SINGLE else KINDS["lstm" if name == "lstm-projected" else name]
        layer = kind(D, H, **options)
        x = rng.normal(size=shape)
        # Unequal, unsorted lengths: padding, and the way back from each sequence's own end, are checked as well.
        lengths = rng.permutation(np.linspace(1, T, N).round().astype(int)) if name in LAYERS and N > 1 else None
        method = arguments.method.replace("-", " ")
        method = "auto" if method == "stepwise" and name in SINGLE else method
        part = _part(progress, number, len(names), name)
        reports.append((name, gradcheck(layer, x, None, lengths, method=method, seed=arguments.seed, progress=part)))
    return reports


def _part(progress: Progress, number: int, count: int, name: str) -> Progress:
    """Return the progress callback of one check of several: the bar runs once over all of them."""
    progress(number * PARTS, count * PARTS, name)
    return lambda done, total, label: progress(
        number * PARTS + PARTS * done // max(1, total), count * PARTS, f"{name}: {label}"
    )


def _target(arguments: argparse.Namespace, progress: Progress) -> list[tuple[str, GradcheckReport]]:
    """Check the user's function."""
    function = load_target(arguments.target)
    try:
        result = function()
        if not isinstance(result, tuple) or len(result) != 3:
            got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
            raise BadInputError(f"{arguments.target}: must return a tuple (loss, grads, params); got {got}")
        loss, grads, params = result
        method = arguments.method.replace("-", " ")
        options: dict[str, Any] = {"method": method, "seed": arguments.seed, "seconds": arguments.seconds}
        report = gradcheck(loss, params, grads=grads, progress=progress, **options)
    except (BadInputError, RNNNumpyError):
        raise
    except (Exception, SystemExit) as error:
        raise target_error(arguments.target, error) from error
    return [(arguments.target.rpartition(":")[2], report)]


def _zoo(arguments: argparse.Namespace, progress: Progress) -> tuple[str, int, dict[str, Any]]:
    """Check the zoo: it fails where a wrong backward pass is not caught."""
    from rnn_numpy.zoo import ZOO

    found = []
    for number, specimen in enumerate(ZOO):
        part = _part(progress, number, len(ZOO), specimen.name)
        shown = specimen.exhibit(seed=arguments.seed)
        given = {"doutput": shown.doutput, "dh_n": shown.dh_n, "seed": arguments.seed, "progress": part, **shown.masks}
        report = gradcheck(shown.layer, shown.x, shown.h_0, shown.lengths, **given)
        found.append((specimen, report))
    numbers = [
        {
            "name": specimen.name,
            "mistake": specimen.mistake,
            "origin": specimen.origin,
            "expected": [specimen.diagnosis, *specimen.also],
            "caught": not report.ok,
            "named": named(specimen, report),
            **report.to_dict(),
        }
        for specimen, report in found
    ]
    return zoo_text(found, arguments.verbose), int(any(report.ok for _, report in found)), {"zoo": numbers}
