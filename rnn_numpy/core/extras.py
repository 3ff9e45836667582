"""What the engine does without, and an extra of this package brings: modules to import, packages with data inside."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from rnn_numpy.errors import MissingExtraError


def optional_import(module: str, purpose: str, extra: str = "lab") -> ModuleType:
    """Import `module` when it is needed, not when the package is.

    `purpose` is what cannot be done without it, the subject of the error's sentence; `extra` is the extra of setup.cfg
    that installs it. MissingExtraError is raised where it is not installed.

    >>> optional_import("no_such_module", "the answer")
    Traceback (most recent call last):
        ...
    rnn_numpy.errors.MissingExtraError: the answer needs no_such_module, which is not installed; \
    install it with: pip install "rnn_numpy[lab]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that is there but misses one of its own is another fault, and its message is the better one.
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(_missing(purpose, package, extra)) from None


def package_folder(package: str, purpose: str, extra: str = "data") -> Path:
    """Return the folder of an installed package without importing it, for the data files inside.

    `purpose` and `extra` as of `optional_import`; MissingExtraError is raised where the package is not installed.

    >>> package_folder("no_such_package", "the answer")
    Traceback (most recent call last):
        ...
    rnn_numpy.errors.MissingExtraError: the answer needs no_such_package, which is not installed; \
    install it with: pip install "rnn_numpy[data]"
    """
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found is not None else None
    if not places:
        raise MissingExtraError(_missing(purpose, package, extra))
    return Path(next(iter(places)))


def _missing(purpose: str, package: str, extra: str) -> str:
    return f'{purpose} needs {package}, which is not installed; install it with: pip install "rnn_numpy[{extra}]"'
