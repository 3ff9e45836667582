"""The command `rnn-numpy`.

    rnn-numpy gradflow        measure how the gradient flows back through time, on a real series
    rnn-numpy gradcheck       compare gradients, ours or yours, with independent references
    rnn-numpy benchmark       train cells on tasks that need memory, and say which solve them
    rnn-numpy train           train a net on real data; stop it, and go on with it
    rnn-numpy predict         ask what train has trained
    rnn-numpy inspect         list the recurrent layers of a file of trained weights
    rnn-numpy step            step through a backward pass at a prompt, as in a debugger

Exit codes: 0 success; 1 a check failed, and the report on stdout says where; 2 bad input, with one line on stderr that
says what is wrong; 130 interrupted (train then says how to go on; 143, if terminated); 141 the reader of our output
went away.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import rnn_numpy
from rnn_numpy.cli.outcome import BAD_INPUT, CLOSED_PIPE, INTERRUPTED, BadInputError, Outcome
from rnn_numpy.errors import RNNNumpyError

# A sub-command is a file of this folder with two functions: `add_parser(commands)`, whose arguments name as `run` the
# other one, which takes the parsed arguments and returns an `Outcome`. It is loaded when it is called.
COMMANDS = {
    "gradflow": "measure how the gradient flows back through time",
    "gradcheck": "compare gradients, ours or yours, with independent references",
    "benchmark": "train cells on tasks that need memory, and say which solve them",
    "train": "train a net on real data; stop it, and go on with it",
    "predict": "ask what train has trained",
    "inspect": "list the recurrent layers of a file of trained weights",
    "step": "step through a backward pass at a prompt, as in a debugger",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with some arguments, or those of the process; return the exit code.

    >>> main(["--version"])
    rnn-numpy 0.3.0
    0
    """
    prog = "rnn-numpy"
    try:
        argv = sys.argv[1:] if argv is None else argv
        arguments, unknown = parser_of(argv[0] if argv else "").parse_known_args(argv)
        prog = f"rnn-numpy {arguments.command}"
        if unknown:
            raise BadInputError(f"unrecognized arguments: {' '.join(unknown)} (see {prog} --help)")
        if sys.stdout is None:
            raise BadInputError("standard output is closed; there is nowhere to print the report")
        silent = getattr(arguments, "quiet", False)
        with _silence() if silent else contextlib.nullcontext():
            outcome: Outcome = arguments.run(arguments)
        _print(outcome.numbers or ("" if silent else outcome.text))
    except SystemExit as request:  # argparse: after --help, --version or a usage error
        return request.code if isinstance(request.code, int) else 0
    except (BadInputError, RNNNumpyError) as error:
        _complain(prog, str(error))
        return BAD_INPUT
    except MemoryError:
        _complain(prog, "not enough memory; try a smaller --hidden, --length or --batch")
        return BAD_INPUT
    except KeyboardInterrupt as stopped:  # an `Interrupted` says how to go on, and has a code of its own
        _complain(prog, str(stopped) or "interrupted")
        return getattr(stopped, "code", INTERRUPTED)
    except BrokenPipeError:
        # Python flushes stdout once more at exit; that must not fail again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return outcome.code


def parser_of(called: str) -> argparse.ArgumentParser:
    """Return the parser of the whole command, which knows the options of one sub-command alone, the one called."""
    parser = _Parser(prog="rnn-numpy", description="Recurrent networks in NumPy: what their gradients do over time.")
    parser.add_argument("--version", action="version", version=f"rnn-numpy {rnn_numpy.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name == called:
            importlib.import_module(f"rnn_numpy.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser


def _silence() -> contextlib.AbstractContextManager[None]:
    from rnn_numpy.experiments.progress import quiet  # which the sub-command has loaded by now

    return quiet()


def _complain(prog: str, message: str) -> None:
    line = " ".join(message.split())
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: stderr is closed, and thus None
        sys.stderr.write(f"{prog}: {line}\n")


def _print(text: str) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        # A terminal that cannot show ± gets a question mark rather than a traceback.
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise BadInputError(f"standard output: {error.strerror}") from None
