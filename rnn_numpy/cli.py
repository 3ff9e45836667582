"""The command `rnn-numpy`.

    rnn-numpy gradflow        measure how the gradient flows back through time, on a real series
    rnn-numpy benchmark       train cells on tasks that need memory, and say which solve them

Exit codes: 0 success; 2 bad input, with one line on stderr that says what is wrong; 130 interrupted; 141 the reader of
our output went away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import rnn_numpy
from rnn_numpy.core.extras import optional_import
from rnn_numpy.errors import RNNNumpyError
from rnn_numpy.lab.gradient_flow import INITS, GradflowOptions, run_gradflow
from rnn_numpy.lab.plots import check_figure_path, gradient_flow_figure, save_figure
from rnn_numpy.lab.report import gradflow_report
from rnn_numpy.lab.threads import one_blas_thread
from rnn_numpy.models.forecaster import CELLS
from rnn_numpy.tasks import BUNDLED, ForecastTask, load_series

BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage in front of it."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _BadInputError(Exception):
    """What the command cannot work with; its text is the line to print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where left out.

    Returns
    -------
    int
        Exit code.

    Examples
    --------
    >>> main(["--version"])
    rnn-numpy 0.2.0
    0
    """
    prog = "rnn-numpy"
    try:
        arguments, unknown = _parser().parse_known_args(argv)
        prog = f"rnn-numpy {arguments.command}"
        if unknown:
            raise _BadInputError(f"unrecognized arguments: {' '.join(unknown)} (see {prog} --help)")
        if sys.stdout is None:
            raise _BadInputError("standard output is closed; there is nowhere to print the report")
        _print(arguments.run(arguments))
    except SystemExit as request:  # argparse: after --help, --version or a usage error
        return request.code if isinstance(request.code, int) else 0
    except (_BadInputError, RNNNumpyError) as error:
        _complain(prog, str(error))
        return BAD_INPUT
    except MemoryError:
        _complain(prog, "not enough memory; try a smaller --hidden, --length or --batch")
        return BAD_INPUT
    except KeyboardInterrupt:
        _complain(prog, "interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; that must not fail again.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return 0


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
        raise _BadInputError(f"standard output: {error.strerror}") from None


# ----------------------------------------------------------------------------------------------------------------------
# Arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rnn-numpy", description="Recurrent networks in NumPy: what their gradients do over time.")
    parser.add_argument("--version", action="version", version=f"rnn-numpy {rnn_numpy.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    defaults = GradflowOptions()
    gradflow = commands.add_parser(
        "gradflow",
        help="measure how the gradient flows back through time",
        description="Train networks to forecast the next sample of a series, and measure how the gradient of the last "
        "step's error flows back through time: norm by lag, decay per step, half-life, and whether it vanishes or "
        "explodes. Every cell is combined with every gain. Of an LSTM it is the gradient of h and c together.",
        allow_abbrev=False,
    )
    gradflow.set_defaults(run=_gradflow)

    def add(name: str, explanation: str, default: Any, metavar: str | None = None, **how: Any) -> None:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        gradflow.add_argument(name, default=default, metavar=metavar, help=f"{explanation} (default: {shown})", **how)

    add(
        "--data",
        f"{', '.join(BUNDLED)} (they come with matplotlib), or a file .csv or .npy: time runs down the rows, "
        "a channel is a column",
        "eeg",
        "SERIES",
    )
    add("--columns", "channels to use, by name or by number from 1, or all of them: all", "all", "C", nargs="+")
    add("--cells", f"any of {', '.join(CELLS)}", tuple(defaults.cells), "CELL", nargs="+", choices=tuple(CELLS))
    add(
        "--gain",
        "spectral radius of W_hh at the start; of lstm and gru, of each gate's block of it",
        tuple(defaults.gains),
        "G",
        nargs="+",
        type=_positive_number,
    )
    add(
        "--init",
        f"how W_hh, or each gate's block of it, is drawn: {', '.join(INITS)}; then it is scaled to the gain",
        defaults.init,
        choices=INITS,
    )
    add(
        "--forget-bias",
        "bias of the forget gates of lstm at the start; 1, say, makes the cell keep more of what it holds, and of its "
        "gradient; left out, it is drawn as all other parameters are, near 0",
        defaults.forget_bias,
        "B",
        type=_number,
    )
    add("--length", "steps of a window: the longest lag", defaults.length, "T", type=_positive_int)
    add("--hidden", "hidden units", defaults.hidden, "H", type=_positive_int)
    add("--batch", "windows measured, and windows per training step", defaults.batch, "N", type=_positive_int)
    add("--layers", "recurrent layers; the top one is measured", defaults.layers, "L", type=_positive_int)
    add(
        "--train-steps",
        "training steps, after which all is measured again; 0 measures untrained networks only",
        defaults.train_steps,
        "K",
        type=_whole_number,
    )
    add("--lr", "learning rate of gradient descent with momentum 0.9", defaults.lr, "RATE", type=_positive_number)
    add("--clip", "clip the norm of all gradients together to this", defaults.clip, "NORM", type=_positive_number)
    add("--seed", "of all random draws", defaults.seed, "S", type=_whole_number)
    add("--out", "figure to write: .png, .pdf or .svg", Path("gradflow.png"), "FILE", type=_file)
    add("--json", "write all numbers here", None, "FILE", type=_file)
    from rnn_numpy import cli_benchmark  # here, since it takes its helpers from this module

    cli_benchmark.add_parser(commands)
    return parser


def _file(text: str) -> Path:
    if text in ("", "-"):
        raise argparse.ArgumentTypeError(f"must be the name of a file; got {text!r}")
    return Path(text)


def _positive_int(text: str) -> int:
    return _at_least(text, 1)


def _whole_number(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, smallest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if number < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {smallest}; got {text!r}")
    return number


def _number(text: str) -> float:
    number = _finite(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"must be a finite number; got {text!r}")
    return number


def _positive_number(text: str) -> float:
    number = _finite(text)
    if number is None or number <= 0:
        raise argparse.ArgumentTypeError(f"must be a finite number greater than 0; got {text!r}")
    return number


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# ----------------------------------------------------------------------------------------------------------------------
# gradflow


def _gradflow(arguments: argparse.Namespace) -> str:
    for module, purpose in (("rich", "the table"), ("matplotlib", "the figure")):
        optional_import(module, purpose)
    json_path: Path | None = arguments.json
    suffix = check_figure_path(arguments.out)
    outputs = [arguments.out] if json_path is None else [arguments.out, json_path]
    _check_outputs(outputs, arguments.data)
    for name, values in (("--cells", arguments.cells), ("--gain", arguments.gain)):
        if len(set(values)) < len(values):
            raise _BadInputError(f"{name}: {' '.join(map(str, values))} names one network twice")
    if arguments.forget_bias is not None and "lstm" not in arguments.cells:
        raise _BadInputError(f"--forget-bias: is for lstm, which is not among --cells {' '.join(arguments.cells)}")
    options = GradflowOptions(
        cells=tuple(arguments.cells),
        gains=tuple(arguments.gain),
        init=arguments.init,
        length=arguments.length,
        hidden=arguments.hidden,
        batch=arguments.batch,
        layers=arguments.layers,
        train_steps=arguments.train_steps,
        lr=arguments.lr,
        clip=arguments.clip,
        seed=arguments.seed,
        forget_bias=arguments.forget_bias,
    )
    task = ForecastTask.of(
        load_series(arguments.data, None if arguments.columns in ("all", ["all"]) else arguments.columns),
        options.length,
    )
    # Large products are the ones that gain from more threads.
    threads = one_blas_thread() if options.hidden <= 256 else contextlib.nullcontext()
    with _progress() as tell, threads:
        result = run_gradflow(task, options, tell)
        tell(1, 1, "drawing")
        figure = gradient_flow_figure(result)
        report = gradflow_report(result)
    with _atomic(arguments.out) as file:
        save_figure(figure, file, suffix)
    written = [f"Figure: {arguments.out}"]
    if json_path is not None:
        with _atomic(json_path) as file:
            file.write((json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n").encode())
        written.append(f"Numbers: {json_path}")
    return f"{report}\n" + "\n".join(written) + "\n"


def _check_outputs(paths: Sequence[Path], data: str) -> None:
    """Find out before the work, not after it, whether the results can be written."""
    seen: set[Path] = set()
    for path in paths:
        try:
            target = path.resolve()
            if target in seen:
                raise _BadInputError(f"{path}: --out and --json are the same file")
            if data not in BUNDLED and target == Path(data).resolve():
                raise _BadInputError(f"{path}: this is the file to read; the results would overwrite it")
            if target.is_dir():
                raise _BadInputError(f"{path}: is a directory; name a file")
            if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
                raise _BadInputError(f"{path}: exists and is not a file that can be written")
            if not target.parent.is_dir():
                raise _BadInputError(f"{path}: there is no directory {target.parent}; create it first")
            with tempfile.TemporaryFile(dir=target.parent):
                seen.add(target)
        except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
            raise _BadInputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its place under its name only once it is complete: a reader never sees half of it."""
    target = path.resolve()
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".gradflow-", delete=False) as file:
            temporary = file.name
            yield file
        # Temporary files are private; a result has the permissions of any new file.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise _BadInputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr while the work lasts; silent where stderr is not a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda done, total, label: None
        return
    progress = optional_import("rich.progress", "the progress bar")
    console = optional_import("rich.console", "the progress bar")
    columns: list[Any] = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
    ]
    with progress.Progress(*columns, console=console.Console(stderr=True), transient=True) as bar:
        job = bar.add_task("gradflow", total=None)
        yield lambda done, total, label: bar.update(job, completed=done, total=total, description=label)
