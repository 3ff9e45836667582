"""Files that appear at once and whole.

A file is written under another name in the same folder, forced to the disk, and then takes its name in one move:
whoever reads meanwhile, or after a crash, finds the old file or the new one, and no half of either. What a process that
was killed has left of the other name is removed when the file is next written, once it is an hour old.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

STALE = 3600.0  # seconds; nobody takes so long to write a file


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a new file for writing bytes, which takes the place of `path` when the with-statement is left.

    A link stays a link, and what it leads to is replaced; a file that was there hands on its permissions. OSError says
    that the system refuses, or that what is there is write-protected or no file; ValueError that `path` holds a NUL.
    Whatever is raised, by the body of the with-statement too, what was there stays as it was.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "answer.txt")) as file:
    ...         count = file.write(b"42")
    ...         before = len(os.listdir(folder)), Path(folder, "answer.txt").exists()
    ...     before, Path(folder, "answer.txt").read_text(), len(os.listdir(folder))
    ((1, False), '42', 1)
    """
    import secrets  # here: `--help` of the command needs none

    target = Path(os.path.realpath(path))
    mode = _mode_to_keep(target)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        # Created as open() creates files, so that the umask decides who may read a new one.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)
    _remove_stale(target)


def _remove_stale(target: Path) -> None:
    """Remove what was to become `target` and has not been touched for long: its writer was killed."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.tmp")
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            if ours.fullmatch(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _mode_to_keep(target: Path) -> int | None:
    """Return the permissions of a file that is to be replaced, None where there is none yet."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "there is something there which is not a file")
    if not os.access(target, os.W_OK):
        # Replacing it needs no such permission, but whoever took it away meant the file to stay.
        raise OSError(0, "the file there is write-protected")
    return stat.S_IMODE(status.st_mode)


def sync_folder(folder: Path) -> None:
    """Force a new name in a folder to the disk, where the system can: the content is there already."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
