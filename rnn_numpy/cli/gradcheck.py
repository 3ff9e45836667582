"""`rnn-numpy gradcheck`: compare gradients with independent references, entry by entry.

What is checked are the layers of this package, or the function that TARGET names: one of the user's, which returns the
loss, the gradients and the parameters.
"""

from __future__ import annotations

import argparse
import functools

from rnn_numpy.cli.arguments import add_option, file_path, positive_int, whole_number

CELLS = (
    "rnn-tanh",
    "rnn-relu",
    "lstm",
    "lstm-projected",
    "gru",
    "gru-before",
    "peephole",
    "layernorm",
    "rnn-cell",
    "lstm-cell",
    "gru-cell",
    "linear",
)
METHODS = ("auto", "forced", "complex-step", "ridders", "fourth-order", "central-difference")
DTYPES = ("float64", "float32")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `gradcheck` to the sub-commands.

    Parameters
    ----------
    commands
        What `add_subparsers` of the main parser returns.

    Returns
    -------
    argparse.ArgumentParser
        Of the sub-command. TARGET, --cells and --zoo exclude each other. Parsed, they are `target` (str or None),
        `cells` (list of str, or all of `CELLS`), `zoo` (bool), `layers`, `length`, `hidden`, `batch`, `input`, `seed`
        (int), `bidirectional`, `verbose` (bool), `method`, `dtype` (str), `json` (Path or None).

    Examples
    --------
    >>> parser = add_parser(argparse.ArgumentParser().add_subparsers())
    >>> arguments = parser.parse_args("--cells lstm gru --length 50".split())
    >>> arguments.cells, arguments.length, arguments.method, arguments.target
    (['lstm', 'gru'], 50, 'auto', None)
    """
    parser = commands.add_parser(
        "gradcheck",
        help="compare gradients, ours or yours, with independent references",
        description="Compare each entry of each gradient of a loss with a reference that does not use the backward "
        "pass. Without TARGET, the layers of this package are checked. Exit code 1 says that a gradient is wrong.",
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
    what.add_argument(
        "--cells",
        nargs="+",
        default=CELLS,
        choices=CELLS,
        metavar="CELL",
        help=f"any of {', '.join(CELLS)} (default: all)",
    )
    what.add_argument(
        "--zoo",
        action="store_true",
        help="check a collection of wrong backward passes instead, to see each of them found",
    )
    # Sizes that all differ: swapped axes cannot pass for each other.
    add = functools.partial(add_option, parser)
    add("--layers", "recurrent layers", 1, "L", type=positive_int)
    parser.add_argument("--bidirectional", action="store_true", help="with a second direction, from the last step back")
    add("--length", "time steps", 10, "T", type=positive_int)
    add("--hidden", "hidden units", 4, "H", type=positive_int)
    add("--batch", "sequences at a time", 3, "N", type=positive_int)
    add("--input", "inputs of a step", 2, "D", type=positive_int)
    add("--method", f"the reference: {', '.join(METHODS)}", "auto", choices=METHODS)
    add("--dtype", f"of the checked pass: {' or '.join(DTYPES)}", "float64", choices=DTYPES)
    add("--seed", "of all random draws", 0, "S", type=whole_number)
    add("--json", "write all numbers here", None, "FILE", type=file_path)
    parser.add_argument("--verbose", action="store_true", help="print the full report of each check")
    return parser
