"""Version 0.2.0 beside the working tree: where its source comes from, and the process in which either of them runs.

Both sides run the programs of this folder; `rnn_numpy` itself is imported from the source tree of the side, and a side
that finds another one than its own is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.contenders import OURS, Contender, Layer
from benchmarks.worker import ROOT, Server, Worker, WorkerError
from benchmarks.worker import main as worker_main

OLD = "0.2.0"
COMMIT = "90c78f51cd6e562c65eb515b3543700537f0f0b1"
PACKAGE = "rnn_numpy"

HINT = (
    f"{OLD} is commit {COMMIT[:7]} of this repository. A shallow clone gets it by: git fetch --unshallow. Where there "
    f"is no git, or no repository, unpack the source of that version and name the folder that has {PACKAGE}/ in it: "
    "--old FOLDER"
)


class SourceError(Exception):
    """There is no source tree of 0.2.0 to compare with."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what both programs ask about the two sides."""
    parser.add_argument("--old", type=Path, metavar="FOLDER", help=f"source tree of {OLD}; default: out of git")
    parser.add_argument(
        "--itself", action="store_true", help=f"{OLD} on both sides: what does the program say of equal code?"
    )


@contextlib.contextmanager
def sources(old: Path | None, itself: bool) -> Iterator[dict[str, Path]]:
    """Provide the source trees of both sides, while the block lasts.

    Parameters
    ----------
    old : Path or None
        That of 0.2.0; None takes it out of git into a temporary folder.
    itself : bool
        0.2.0 on both sides.

    Yields
    ------
    dict of str to Path
        Under `OLD` and `OURS`.

    Raises
    ------
    SourceError
    """
    with contextlib.ExitStack() as stack:
        if old is None:
            old = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{PACKAGE}-{OLD}-")))
            with tarfile.open(fileobj=io.BytesIO(archive())) as packed:
                packed.extractall(old, filter="data")
        if not (old / PACKAGE / "__init__.py").is_file():
            raise SourceError(f"--old: {old} has no {PACKAGE}/__init__.py. {HINT}")
        old = old.resolve()
        yield {OLD: old, OURS: old if itself else ROOT}


def archive() -> bytes:
    """Return the package as it was in version 0.2.0, a tar file, out of this repository.

    Raises
    ------
    SourceError
        There is no git, no repository, or no such commit in it.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", COMMIT, PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise SourceError(f"git cannot be run ({error}). {HINT}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise SourceError(f"git archive failed ({said[-1] if said else done.returncode}). {HINT}")
    return done.stdout


@contextlib.contextmanager
def start(trees: Mapping[str, Path], module: str, threads: int = 1) -> Iterator[dict[str, Worker]]:
    """Start a process for each side, which runs `main` of `module`; end them at the end of the block.

    Raises
    ------
    WorkerError
        A side has imported another package than that of its tree.
    """
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name, threads, module, source=tree)) for name, tree in trees.items()
        }
        for name, worker in workers.items():
            found = Path(worker.environment["source"])
            if found != trees[name]:
                raise WorkerError(f"worker {name} should have {PACKAGE} from {trees[name]}; got that of {found}")
        yield workers


class OwnModules(MetaPathFinder):
    """Finds the modules of a package in its own folder, or says that there are none.

    Where the package is installed for editing, the installation offers the modules of another version for those that a
    version does not have.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module is; None for those of other packages."""
        if not fullname.startswith(f"{PACKAGE}."):
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return found


def serve(make: Callable[[str], Server]) -> int:
    """Be the process of one side; return its exit code."""
    sys.meta_path.insert(0, OwnModules())
    return worker_main(make=make)


class Version(Layer):
    """`rnn_numpy` of one side."""

    def environment(self) -> dict[str, Any]:
        """Return versions, and the folder from which the package comes."""
        import rnn_numpy

        return {"source": str(Path(rnn_numpy.__file__).resolve().parents[1]), **super().environment()}


def contender(name: str) -> Contender:
    """Return the contender that a side's process runs."""
    if name not in (OURS, OLD):
        raise KeyError(name)
    return Version()


def is_worker(arguments: Sequence[str]) -> bool:
    """Whether a program's arguments make it the process of one side."""
    return len(arguments) == 2 and arguments[1] in (OURS, OLD)


def sides(environments: Mapping[str, Mapping[str, Any]], itself: bool) -> str:
    """Return in words what is compared with what."""
    old, new = (environments[name] for name in (OLD, OURS))
    text = f"{OLD} against itself" if itself else f"{OLD} against the working tree, {new['rnn_numpy']}"
    lines = [f"{text}; NumPy {new['numpy']}, Python {new['python']}"]
    if old["rnn_numpy"] != OLD:
        lines.append(f"note: {old['source']}, which stands for {OLD}, holds version {old['rnn_numpy']}")
    return "\n".join(lines)
