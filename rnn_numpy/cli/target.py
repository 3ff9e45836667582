"""A function of the user's, named on the command line as FILE.py:FUNCTION."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import operator
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from rnn_numpy.cli.common import BadInputError


def load_target(text: str) -> Callable[..., Any]:
    """Run a file of the user's, as `python FILE.py` would, and return one of the functions that it defines.

    The function's name may be dotted: "model.py:Model.loss". The last colon divides the two, so that of
    "C:/work/model.py:loss" is left alone. While the file or the function runs, the file's folder is the first of
    sys.path, so that imports of its neighbours work. The file runs under a name of its own, without what stands below
    `if __name__ == "__main__":`; no compiled copy is written beside it; modules that it imports stay imported.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "my model.py")
    ...     count = path.write_text("def square(x):\\n    return x * x\\n")
    ...     square = load_target(f"{path}:square")
    >>> square(3.0)
    9.0
    >>> load_target("model.py")
    Traceback (most recent call last):
        ...
    rnn_numpy.cli.outcome.BadInputError: TARGET: must be FILE.py:FUNCTION; got 'model.py'
    """
    shown, name = _file_and_name(text)
    try:
        file = Path(shown).absolute()
        source = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BadInputError(f"{shown}: there is no such file") from None
    except OSError as error:
        raise BadInputError(f"{shown}: cannot be read: {error.strerror or error}") from None
    folder = str(file.resolve().parent)
    try:
        with _first_on_path(folder):
            module = _run(file, source)
    except (Exception, SystemExit) as error:  # SystemExit: main would take it for its own
        raise target_error(text, error) from error
    try:
        function = operator.attrgetter(name)(module)
    except AttributeError:
        raise BadInputError(f"{shown}: has no {name!r}; {_definitions(module)}") from None
    if not callable(function):
        raise BadInputError(f"{shown}: {name!r} cannot be called; it is of type {type(function).__name__}")

    @functools.wraps(function)
    def call(*positional: Any, **named: Any) -> Any:
        with _first_on_path(folder):
            return function(*positional, **named)

    return call


def target_error(text: str, error: BaseException) -> BadInputError:
    """Return what to raise where the user's file, or the function from it, has raised something.

    Its text is one line: the file, the line at which the exception left it, type and message of the exception.

    >>> target_error("model.py:loss", ZeroDivisionError("division by zero"))
    BadInputError('model.py: ZeroDivisionError: division by zero')
    """
    shown, _ = _file_and_name(text)
    line, message = None, str(error)
    file = str(Path(shown).absolute())
    if isinstance(error, SyntaxError) and error.filename == file:
        line, message = error.lineno, error.msg  # its text would repeat file and line
    else:
        for frame, number in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename == file:
                line = number
    where = shown if line is None else f"{shown}, line {line}"
    return BadInputError(": ".join(filter(None, [where, type(error).__name__, " ".join(message.split())])))


def _file_and_name(text: str) -> tuple[str, str]:
    # A name has no slash: the colon of C:\model.py divides nothing.
    match = re.fullmatch(r"(.+):([\w.]+)", text, re.DOTALL)
    if match is None:
        raise BadInputError(f"TARGET: must be FILE.py:FUNCTION; got {text!r}")
    file, name = match.groups()
    if Path(file).suffix.lower() != ".py":
        raise BadInputError(f"{file}: must be a Python file, whose name ends in .py")
    return file, name


def _run(file: Path, source: bytes) -> ModuleType:
    """Return the module that the file makes; it stays in sys.modules, where dataclasses and pickle look for it."""
    # A dot would make it part of a package.
    name = "rnn_numpy_target_" + file.stem.replace(".", "_")
    loader = SourceFileLoader(name, str(file))
    spec = ModuleSpec(name, loader, origin=str(file))
    spec.has_location = True
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        # The loader's exec_module would write a compiled copy, and take one of the same second for up to date.
        exec(loader.source_to_code(source, str(file)), vars(module))
    except BaseException:
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
        raise
    return module


@contextlib.contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file may have removed it
            sys.path.remove(folder)


def _definitions(module: ModuleType) -> str:
    names = [
        name
        for name, value in vars(module).items()
        if isinstance(value, FunctionType | type) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    return f"it defines {', '.join(names)}" if names else "it defines no function"
