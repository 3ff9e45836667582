"""Shared by the sub-commands: exit codes, options and their types, files, a progress bar, and the results.

json and tempfile are imported where they are used: `--help` and `--version` need neither, and would wait for them.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, NamedTuple

from rnn_numpy.cli.outcome import FAILED as FAILED
from rnn_numpy.cli.outcome import UNDECIDED as UNDECIDED
from rnn_numpy.cli.outcome import BadInputError as BadInputError
from rnn_numpy.cli.outcome import Outcome as Outcome
from rnn_numpy.core.extras import optional_import
from rnn_numpy.core.files import replacing
from rnn_numpy.errors import DataError, RNNNumpyError
from rnn_numpy.experiments.experiment import Interrupted
from rnn_numpy.experiments.networks import Executor, Measurement
from rnn_numpy.experiments.progress import is_quiet, progress_bar
from rnn_numpy.experiments.sweep.stores import InUseError, ResultStore
from rnn_numpy.experiments.sweep.sweeps import cores
from rnn_numpy.experiments.sweep.threads import one_blas_thread
from rnn_numpy.report.plots.style import check_figure_path, save_figure
from rnn_numpy.tasks.bundled import BUNDLED, load_series
from rnn_numpy.tasks.files import DECIMAL, HEADER, MISSING, Reading
from rnn_numpy.tasks.series import Series

STDOUT = Path("-")

LARGE = 5e7  # steps of a unit, some four seconds, from which on processes of one's own are worth their start
CONNECT, WATCH = 10.0, 10.0  # seconds to wait for a cluster; between looks whether it is still there
SMALL = 256  # hidden units up to which matrix products gain nothing from more threads

Progress = Callable[[int, int, str], None]


# ---------------------------------------------------------------------------------------------- options


def add_option(
    parser: argparse.ArgumentParser, defaults: Any, name: str, explanation: str, metavar: str | None = None, **how: Any
) -> None:
    """Add an option, whose default is the attribute of `defaults` with its name; where that is False, it has no value.

    >>> parser = argparse.ArgumentParser(prog="measure", usage="measure", add_help=False)
    >>> defaults = argparse.Namespace(gain=(0.5, 1.0))
    >>> add_option(parser, defaults, "--gain", "spectral radius", "G", nargs="+", type=positive_number)
    >>> parser.print_help()
    usage: measure
    <BLANKLINE>
    options:
      --gain G [G ...]  spectral radius (default: 0.5 1.0)
    """
    default = getattr(defaults, name.removeprefix("--").replace("-", "_"))
    if default is False:  # an option without a value
        parser.add_argument(name, action="store_true", help=explanation)
        return
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    text = explanation + (f" (default: {shown})" if shown else "")
    parser.add_argument(name, default=default, metavar=metavar, help=text, **how)


def add_outputs(parser: argparse.ArgumentParser, figure: str) -> None:
    """Add --out, whose default is the file `figure`, --json and --quiet."""
    defaults = argparse.Namespace(out=Path(figure))
    add_option(parser, defaults, "--out", "figure to write: .png, .pdf or .svg", "FILE", type=file_path)
    add_numbers(parser)


def add_numbers(parser: argparse.ArgumentParser) -> None:
    """Add --json and --quiet."""
    where = "write all numbers here; - prints them in place of the report"
    parser.add_argument("--json", metavar="FILE", type=json_path, help=where)
    add_quiet(parser)


def add_quiet(parser: argparse.ArgumentParser, default: Any = False) -> None:
    """Add --quiet."""
    silent = "print neither the report nor how far the work is; errors, and what --json - asks for, are printed"
    parser.add_argument("--quiet", action="store_true", default=default, help=silent)


def add_series(add: Callable[..., None]) -> None:
    """Add --data and what says how to read it, fields of `Reading`, by `add`, which is `add_option` of a parser."""
    data = (
        f"{', '.join(BUNDLED)} (they come with the extras lab and data), or a file: .csv and other text, .npy, .npz, "
        ".mat, .parquet; time runs down the rows, a channel is a column"
    )
    add("--data", data, "SERIES")
    columns = (
        "channels to use, by name, number from 1 or range of numbers, 2-5; all: all of them; auto: all but text, and "
        "columns that count by equal steps"
    )
    add("--columns", columns, "C", nargs="+")
    add("--skip", "columns to leave out", "C", nargs="+")
    add("--header", "whether the first row names the columns: auto, yes, no", choices=tuple(HEADER), metavar="WHETHER")
    add("--decimal", "decimal mark: auto, . or ,", choices=DECIMAL, metavar="MARK")
    missing = "what becomes of missing values: refuse, interpolate, or drop, which leaves their rows out"
    add("--missing", missing, choices=MISSING, metavar="HOW")
    add("--absent", "numbers that stand for a missing value, -9999 for one", "X", nargs="+", type=finite_number)
    add("--rows", "rows of the file to read, header and all: 5-300 or 5-", "A-B")
    add("--separator", "of fields: one character, tab, space, auto", "S")
    add("--array", "which array of an .npz or .mat file", "NAME")


def reading_of(options: Any) -> dict[str, Any]:
    """Return the fields of `Reading` among parsed arguments."""
    return {field.name: getattr(options, field.name) for field in fields(Reading)}


def read_series(arguments: argparse.Namespace) -> Series:
    """Read the series of --data as the options say; a bar shows when that takes more than two seconds."""
    label = f"reading {arguments.data}"
    with progress_bar(2.0, label) as progress:
        return load_series(arguments.data, **reading_of(arguments), progress=lambda done, of: progress(done, of, label))


def add_dask(parser: argparse.ArgumentParser) -> None:
    """Add --dask."""
    where = (
        "hand the networks to the cluster of Dask whose scheduler is at this address, tcp://host:8786; left out, to "
        "processes on the cores of this machine"
    )
    parser.add_argument("--dask", metavar="ADDRESS", help=where)


def options_of(kind: Any, arguments: argparse.Namespace, **given: Any) -> Any:
    """Return an instance of a dataclass of options: its fields as given, or else as parsed under their names."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in vars(arguments).items()}
    return kind(**{field.name: (values | given)[field.name] for field in fields(kind)})


def check_distinct(option: str, values: Sequence[Any]) -> None:
    """Refuse a list with the same value twice.

    >>> check_distinct("--gain", [1.0, 0.5, 1.0])
    Traceback (most recent call last):
        ...
    rnn_numpy.cli.outcome.BadInputError: --gain: 1.0 0.5 1.0 names one network twice
    """
    if len(set(values)) < len(values):
        raise BadInputError(f"{option}: {' '.join(map(str, values))} names one network twice")


# The type of an option takes the text and returns the value, or raises what argparse prints after the option's name.


def file_path(text: str) -> Path:
    """Return the name of a file: neither empty nor "-", which elsewhere stands for a stream."""
    if text in ("", "-"):
        raise argparse.ArgumentTypeError(f"must be the name of a file; got {text!r}")
    return Path(text)


def json_path(text: str) -> Path:
    """Return the name of a file for numbers, or "-", standard output."""
    return STDOUT if text == "-" else file_path(text)


def positive_int(text: str) -> int:
    """Return a whole number of at least 1."""
    return _at_least(text, 1)


def whole_number(text: str) -> int:
    """Return a whole number of at least 0."""
    return _at_least(text, 0)


def finite_number(text: str) -> float:
    """Return a number, neither infinite nor NaN."""
    return _above(text, -math.inf, "must be a finite number")


def positive_number(text: str) -> float:
    """Return a finite number greater than 0."""
    return _above(text, 0, "must be a finite number greater than 0")


def not_negative(text: str) -> float:
    """Return a finite number of at least 0."""
    number = _above(text, -math.inf, "must be a finite number of at least 0")
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0; got {text!r}")
    return number


def share(text: str) -> float:
    """Return a number from 0 to 1."""
    number = _above(text, -math.inf, "must be a number from 0 to 1")
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1; got {text!r}")
    return number


def _at_least(text: str, smallest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = smallest - 1
    if number < smallest:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {smallest}; got {text!r}")
    return number


def _above(text: str, bound: float, must: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not bound < number < math.inf:
        raise argparse.ArgumentTypeError(f"{must}; got {text!r}")
    return number


# ---------------------------------------------------------------------------------------------- files


def check_outputs(outputs: Mapping[str, Path | None], inputs: Iterable[Path] = ()) -> None:
    """Find out before the work, not after it, whether the results can be written.

    `outputs` are files by the option that names them, None where there is none; `inputs` are files that the command
    reads. Refused are two options that name one file, an input, a directory, and what cannot be written.

    >>> check_outputs({"--out": Path("flow.png"), "--json": Path("./flow.png")})
    Traceback (most recent call last):
        ...
    rnn_numpy.cli.outcome.BadInputError: flow.png: --out and --json are the same file
    """
    import tempfile

    reads, seen = tuple(inputs), dict[Path, str]()
    for option, path in outputs.items():
        if path is None or path == STDOUT:
            continue
        try:
            target = path.resolve()
            if target.is_symlink():  # links that lead in a circle, which Python 3.13 no longer finds
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target in seen:
                raise BadInputError(f"{path}: {seen[target]} and {option} are the same file")
            if any(target == read.resolve() for read in reads):
                raise BadInputError(f"{path}: this is the file to read; the results would overwrite it")
            if target.is_dir():
                raise BadInputError(f"{path}: is a directory; name a file")
            if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
                raise BadInputError(f"{path}: exists and is not a file that can be written")
            if not target.parent.is_dir():
                raise BadInputError(f"{path}: there is no directory {target.parent}; create it first")
            with tempfile.TemporaryFile(dir=target.parent):
                seen[target] = option
        except (OSError, RuntimeError) as error:  # RuntimeError: such links, before Python 3.13
            raise BadInputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name once it is whole, as `core.files.replacing` does; what fails is bad input."""
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written: {error.strerror or error}") from None


def as_json(numbers: Any) -> str:
    """Return numbers as JSON that every reader takes: no NaN, no Infinity, so that these must be None in `numbers`."""
    import json

    return json.dumps(numbers, indent=1, allow_nan=False) + "\n"


def told(path: Path | None, text: str, numbers: Any, code: int = 0) -> Outcome:
    """Return a report, and write its numbers to the file that --json names, or have them printed in its place."""
    if path is None:
        return Outcome(text, code)
    if path == STDOUT:
        return Outcome(text, code, as_json(numbers))
    write_json(path, numbers)
    return Outcome(f"{text}Numbers: {path}\n", code)


def write_json(path: Path, numbers: Any) -> None:
    """Write numbers as JSON, see `as_json`."""
    with atomic(path) as file:
        file.write(as_json(numbers).encode())


# ---------------------------------------------------------------------------------------------- measurements


def check_before(arguments: argparse.Namespace, inputs: Iterable[Path] = ()) -> None:
    """Find out before the work whether the packages are there, and whether --out and --json can be written."""
    for module, purpose in (("rich", "the table"), ("matplotlib", "the figure")):
        optional_import(module, purpose)
    check_figure_path(arguments.out)
    check_outputs({"--out": arguments.out, "--json": arguments.json}, inputs)


class Networks(NamedTuple):
    """What a measurement of many networks is handed: see `rnn_numpy.experiments.networks.measure_all`."""

    progress: Progress
    executor: Executor
    store: Path


@contextlib.contextmanager
def networks(
    label: str, measurement: Measurement, total: int, work: float, out: Path, dask: str | None
) -> Iterator[Networks]:
    """Let `total` networks be measured in parallel, if the work is large, or on Dask's cluster; keep each beside `out`.

    `work` is in steps of a unit. What is kept is removed at the end, unless an error is raised: then the error says
    where it is, and the same command goes on from there. On a terminal a bar says how far it is, else there is a line
    for each network.
    """
    store = out.with_name(f"{out.stem}-unfinished-{measurement.fingerprint}.jsonl")
    finished = 0
    with contextlib.ExitStack() as stack:
        executor: Executor = None if work >= LARGE and total > 1 and cores() > 1 and _has_file() else "serial"
        if dask is not None:
            executor = stack.enter_context(_cluster(dask))
        bar = stack.enter_context(progress_bar(0.0, label))
        lines = sys.stderr is not None and not sys.stderr.isatty() and not is_quiet()

        def progress(done: int, total: int, said: str) -> None:
            nonlocal finished
            finished = done
            bar(done, total, said.partition(":")[0] or label)
            if lines and said:
                _say(f"{done} of {total}: {said}")

        def kept() -> str:
            return f"{finished} of {total} networks are kept in {store}: the same command goes on from there"

        try:
            with _held(store) as free:
                if not free:
                    running = "this very command is running, and keeps its networks there; wait for it"
                    raise BadInputError(f"{store}: {running}")
        except DataError as error:
            raise BadInputError(f"{error}; or delete the file, and this command begins anew") from None
        if store.exists() and store.stat().st_size and not is_quiet():
            _say(f"going on with what {store} has kept")
        try:
            yield Networks(progress, executor, store)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {kept()}" if finished else "interrupted") from None
        except (BadInputError, RNNNumpyError) as error:
            raise BadInputError(f"{error}; {kept()}" if finished else str(error)) from None
        except MemoryError:
            raise
        except Exception as error:
            if dask is None:
                raise
            reason = f"--dask {dask}: {type(error).__name__}: {error}"
            raise BadInputError(f"{reason}; {kept()}" if finished else reason) from None
        else:
            finished = 0
        finally:
            if not finished:
                with _held(store) as ours:
                    if ours:
                        store.unlink(missing_ok=True)


def _has_file() -> bool:
    """Return whether another process can import what this one has begun with: not what it reads from a pipe."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return file is None or os.path.exists(file)


@contextlib.contextmanager
def _held(store: Path) -> Iterator[bool]:
    """Yield whether a file of kept networks is nobody else's, and keep others from it meanwhile."""
    try:
        with ResultStore.opened("networks", store) if store.exists() else contextlib.nullcontext():
            yield True
    except InUseError:
        yield False


def _say(line: str) -> None:
    with contextlib.suppress(OSError, AttributeError, ValueError):  # stderr is closed
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """Connect with Dask's scheduler, and yield an executor of its workers."""
    distributed = optional_import("distributed", "--dask", "distributed")
    # In two steps: a client that finds nobody has a running thread, and its finaliser stops that from whichever thread
    # collects it. Where that is one that is just starting, both wait for ever.
    client = distributed.Client.__new__(distributed.Client)
    try:
        client.__init__(address, timeout=CONNECT)
    except (OSError, ValueError) as error:
        client.close()
        raise BadInputError(f"--dask: no scheduler of Dask answers at {address}: {error}") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT)
        except TimeoutError:
            raise BadInputError(f"--dask: the scheduler at {address} has no worker") from None
        ended = threading.Event()

        def watch() -> None:
            """Say once that nobody is left to work: Dask waits for another worker, for ever if need be."""
            while not ended.wait(WATCH):
                with contextlib.suppress(Exception):
                    if not client.nthreads() and not ended.is_set():
                        _say(f"--dask: no worker is left at {address}; waiting for one, Ctrl-C ends that")
                        return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield client.get_executor()
        finally:
            ended.set()


@contextlib.contextmanager
def working(label: str, hidden: int) -> Iterator[Progress]:
    """Show a bar from the start on, and let the matrix products of a small net use one thread; yield `progress`."""
    threads = one_blas_thread() if hidden <= SMALL else contextlib.nullcontext()
    with progress_bar(0.0, label) as progress, threads:
        yield progress


def written(arguments: argparse.Namespace, report: str, figure: Any, numbers: Any) -> Outcome:
    """Write the figure and the numbers, and return the report with the names of the files.

    What was there and is not the same gets another name, and the report says so.
    """
    import io

    def drawn() -> bytes:
        file = io.BytesIO()
        save_figure(figure, file, check_figure_path(arguments.out))
        return file.getvalue()

    lines = [report, f"Figure: {arguments.out}{_put(arguments.out, drawn)}"]
    text = "" if arguments.json is None else as_json(numbers)
    if text and arguments.json != STDOUT:
        lines.append(f"Numbers: {arguments.json}{_put(arguments.json, text.encode)}")
    return Outcome("\n".join(lines) + "\n", numbers=text if arguments.json == STDOUT else "")


def _put(path: Path, made: Callable[[], bytes]) -> str:
    """Write a file, and say what has become of the one that was there."""
    import shutil

    with atomic(path) as file:
        data = made()
        file.write(data)
        target = Path(os.path.realpath(path))
        if not target.exists() or target.read_bytes() == data:
            return ""
        number = 1
        while (aside := target.with_name(f"{target.stem}.{number}{target.suffix}")).exists():
            number += 1
        shutil.copy2(target, aside)
    return f" (what was there is {path.with_name(aside.name)} now)"
