"""Files that appear at once and whole.

A file is written under another name in the same folder, forced to the disk, and then takes its name in one move:
whoever reads meanwhile, or after a crash, finds the old file or the new one, and no half of either.

What a process that was killed has left of the other name is removed when the file is next written. A writer locks its
file as long as it has the other name, and the system unlocks it when the writer dies: only a file that can be locked is
removed. Where there are no locks (Windows, some file systems; files of version 0.2.0), one that is an hour old.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

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
    target = Path(os.path.realpath(path))
    mode = _mode_to_keep(target)
    temporary, descriptor = _locked_file(target)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name != "nt":
                _take_name(temporary, target, mode)  # while the lock holds
        if os.name == "nt":  # where an open file cannot be moved
            _take_name(temporary, target, mode)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)
    remove_stale(target.parent, target.name)


def _locked_file(target: Path) -> tuple[Path, int]:
    """Create the file that is to become `target`, and lock it."""
    import secrets  # here: `--help` of the command needs none

    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(10)}.tmp")
        # Created as open() creates files, so that the umask decides who may read a new one.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with contextlib.suppress(OSError):
            _lock(descriptor, wait=True)
        if os.name == "nt" or os.fstat(descriptor).st_nlink:
            return temporary, descriptor
        os.close(descriptor)  # between the two lines above, another process took it for left by a dead one


def _take_name(temporary: Path, target: Path, mode: int | None) -> None:
    if mode is not None:
        os.chmod(temporary, mode)
    os.replace(temporary, target)


def _lock(descriptor: int, wait: bool) -> None:
    """Lock a file until its descriptor is closed; OSError: there are no locks, BlockingIOError: it has one."""
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


class Claim:
    """A folder that this process has for itself, as long as the object lives; all that claim it here share the object.

    BlockingIOError says that another process has it. Where there are no locks (Windows, some file systems) there are no
    claims, and everybody may go on.
    """

    here: ClassVar[weakref.WeakValueDictionary[tuple[int, int], Claim]] = weakref.WeakValueDictionary()

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        try:
            _lock(descriptor, wait=False)
        except BlockingIOError:
            raise  # __del__ closes it
        except OSError:
            pass

    @classmethod
    def of(cls, folder: Path) -> Claim | None:
        """Claim a folder that there is."""
        if os.name == "nt":  # where a folder cannot be opened
            return None
        descriptor = os.open(folder, os.O_RDONLY)
        status = os.fstat(descriptor)
        key = status.st_dev, status.st_ino
        found = cls.here.get(key)
        if found is None:
            found = cls.here[key] = cls(descriptor)
        else:
            os.close(descriptor)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # a copy claims nothing

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _let_go() -> None:
    """Leave all claims of a process to it, in a child that it has forked."""
    for claim in list(Claim.here.values()):
        claim.__del__()
    Claim.here.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def remove_stale(folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Remove what was to become a file of a folder, the one of this name or any, and whose writer was killed."""
    file = ".+" if name is None else re.escape(name)
    # 16 digits: of version 0.2.0, which locks nothing.
    ours = re.compile(rf"\.{file}\.([0-9a-f]{{16}}|[0-9a-f]{{20}})\.tmp", re.DOTALL)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if (match := ours.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _remove_if_dead(entry, locks=len(match[1]) == 20)


def _remove_if_dead(entry: os.DirEntry[str], locks: bool) -> None:
    old = time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE
    if not locks:
        if old:
            os.unlink(entry.path)
        return
    descriptor = os.open(entry.path, os.O_RDONLY)
    try:
        _lock(descriptor, wait=False)
        os.unlink(entry.path)
    except BlockingIOError:  # its writer lives
        pass
    except OSError:
        if old:
            os.unlink(entry.path)
    finally:
        os.close(descriptor)


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
