"""Files and folders that appear under their name only when they are whole."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ASIDE = ".aside"
"""How the names of folders end in which something is being made."""
FULL = {errno.ENOSPC, errno.EDQUOT}
ROOM = 64 * 1024
"""A disk that has not even so many bytes is full."""


class WriteError(ValueError):
    """A file that cannot be written; the message is one line that names it and says why."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path to write a file or folder to; it replaces ``path`` unless the block raises.

    It is on the disk, not only on its way there, before it has its name.

    Raises:
        WriteError: where the disk is full or cannot be written to.
    """
    with aside(path.parent, path.name) as folder:
        unfinished = folder / path.name
        yield unfinished
        publish(unfinished, path)


@contextmanager
def aside(parent: Path, name: str) -> Iterator[Path]:
    """Yields a folder in which to make what is to be called ``name``; it is gone after the block.

    Where the process is killed it stays, for `remove_abandoned`.

    Raises:
        WriteError: where the disk is full or cannot be written to.
    """
    path = parent / name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _locked(parent, fcntl.LOCK_SH):
            made = TemporaryDirectory(prefix=f".{name[:32]}.", suffix=ASIDE, dir=parent)
            lock = _lock(Path(made.name), fcntl.LOCK_EX)
            inside = Path(made.name, "inside")  # not locked itself, so that writers may be nested
            inside.mkdir()
    except OSError as error:
        raise WriteError(_full(path) if is_full(error) else _unwritable(path, error)) from error
    try:
        with made:
            try:
                yield inside
            except WriteError:
                raise
            except Exception as error:
                # Libraries name a full disk in many ways, and some not at all.
                if is_full(error) or shutil.disk_usage(parent).free < ROOM:
                    raise WriteError(_full(path)) from error
                if isinstance(error, OSError) and error.errno == errno.EROFS:
                    raise WriteError(_unwritable(path, error)) from error
                raise
    finally:
        _unlock(lock)


def publish(unfinished: Path, path: Path) -> None:
    """Gives what lies whole at ``unfinished``, on the same disk, its name."""
    for folder, _, names in os.walk(unfinished):
        for name in names:
            _flush(Path(folder, name))
        _flush(Path(folder))
    if unfinished.is_file():
        _flush(unfinished)
    if path.is_dir():
        shutil.rmtree(path)
    unfinished.replace(path)
    _flush(path.parent)


def check_writable(folder: Path) -> None:
    """Raises `WriteError` where nothing can be written to a folder, or it cannot be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        reason = OSError(errno.EROFS, "read-only, or another person's")
        raise WriteError(_unwritable(folder, reason))


def remove_abandoned(*parents: Path) -> None:
    """Removes what processes that were killed were making in these folders."""
    for parent in filter(Path.is_dir, parents):
        # While the parent is locked, nobody makes a folder and has not locked it yet.
        with _locked(parent, fcntl.LOCK_EX) as alone:
            for entry in os.scandir(parent) if alone else ():
                if entry.name.startswith(".") and entry.name.endswith(ASIDE):
                    with _locked(Path(entry.path), fcntl.LOCK_EX | fcntl.LOCK_NB) as abandoned:
                        if abandoned:
                            shutil.rmtree(entry.path, ignore_errors=True)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _full(path: Path) -> str:
    return (
        f"{path}: the disk is full; what was finished before is whole: make room, and the same"
        " command goes on from there"
    )


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"{path}: cannot be written ({error.strerror}): make its folder writable, or work in"
        " another"
    )


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _lock(folder: Path, how: int) -> int | None:
    """A lock that ends with the process, however it ends; None where it cannot be had."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how)
        return descriptor
    except OSError:  # another holds it, or the file system has none
        os.close(descriptor)
        return None


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[bool]:
    """Yields whether the lock was had."""
    lock = _lock(folder, how)
    try:
        yield lock is not None
    finally:
        _unlock(lock)
