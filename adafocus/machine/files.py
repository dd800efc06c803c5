"""Files and folders that appear under their name only when they are whole."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from adafocus.machine.processes import Process

ASIDE = ".aside"
"""How the names of folders end in which something is being made. Before it they say of what, and
by which process."""
FILLING = f".incoming{ASIDE}"
"""What of a folder that is being filled has not its place yet."""
ABANDONED = 2 * 24 * 3600
"""Seconds after which what another machine's process left untouched is taken to be abandoned."""
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
ROOM = 64 * 1024
"""A disk that has not even so many bytes is full."""


class WriteError(ValueError):
    """A file that cannot be written; the message is one line that names it and says why."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a path to write a file or folder to; it replaces ``path`` unless the block raises.

    It is on the disk, not only on its way there, before it has its name. Into a device or a pipe,
    which nothing may replace, it is written when it is whole.

    Raises:
        WriteError: where the disk is full or cannot be written to, or ``path`` is a folder and what
            was written a file.
    """
    if is_outlet(path):
        with TemporaryDirectory() as folder_name:
            unfinished = Path(folder_name, path.name)
            yield unfinished
            try:
                with unfinished.open("rb") as whole, path.open("wb") as outlet:
                    shutil.copyfileobj(whole, outlet)
            except OSError as error:
                raise write_error(path, error) from error
        return
    with aside(path.parent, path.name) as folder:
        unfinished = folder / path.name
        yield unfinished
        publish(unfinished, path)


def is_outlet(path: Path) -> bool:
    """Whether a path is that of a device or a pipe, or leads to what a process has open, as
    ``/dev/stdout`` does."""
    opened = path.is_symlink() and path.absolute().is_relative_to("/dev")
    opened = opened or path.absolute().is_relative_to("/proc")
    return opened or (path.exists() and not path.is_file() and not path.is_dir())


@contextmanager
def aside(parent: Path, name: str) -> Iterator[Path]:
    """Yields a folder in which to make what is to be called ``name``; it is gone after the block.

    Where the process is killed it stays, for `remove_abandoned`.

    Raises:
        WriteError: where the disk is full or cannot be written to.
    """
    path = parent / name
    prefix = f".{name[:32]}.{Process.this()}."
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = TemporaryDirectory(prefix=prefix, suffix=ASIDE, dir=parent)
    except OSError as error:
        raise write_error(path, error) from error
    with made:
        try:
            yield Path(made.name)
        except WriteError:
            raise
        except Exception as error:
            # Libraries name a full disk in many ways, and some not at all.
            if is_full(error) or shutil.disk_usage(parent).free < ROOM:
                raise WriteError(_full(path)) from error
            if isinstance(error, OSError) and error.errno == errno.EROFS:
                raise WriteError(_unwritable(path, error)) from error
            raise


def publish(unfinished: Path, path: Path) -> None:
    """Gives what lies whole at ``unfinished``, on the same disk, its name.

    Where that is a link to a folder, or a disk is mounted there, the folder gets what is in it.
    """
    if unfinished.is_dir() and (path.is_symlink() or is_mount(path)):
        fill(path.resolve(), unfinished)
        return
    if path.is_dir() and not unfinished.is_dir():
        raise WriteError(_folder(path))
    _flush_all(unfinished)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    unfinished.replace(path)
    _flush(path.parent)


def fill(folder: Path, unfinished: Path) -> None:
    """Puts what lies whole at ``unfinished`` into a folder, perhaps on another disk, in place of
    what has the same names there; a person's other files stay.

    While `FILLING` is there, not all of it is.
    """
    folder.mkdir(exist_ok=True)
    near = folder / FILLING
    shutil.rmtree(near, ignore_errors=True)  # of one that was killed
    shutil.move(unfinished, near)
    _flush_all(near)
    for new in near.iterdir():
        path = folder / new.name
        if path.is_dir():
            publish(new, path)
        else:
            new.replace(path)
    near.rmdir()
    _flush(folder)


def is_mount(path: Path) -> bool:
    """Whether a disk, or a folder from elsewhere, is mounted at a path."""
    if os.path.ismount(path):
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    # Blanks and the like stand there as numbers to the base of eight.
    told = (re.sub(rb"\\(\d{3})", lambda n: bytes([int(n[1], 8)]), m.split()[4]) for m in mounts)
    return os.fsencode(path.resolve()) in told


def check_writable(folder: Path) -> None:
    """Raises `WriteError` where nothing can be written to a folder, or it cannot be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        reason = OSError(errno.EROFS, "read-only, or another person's")
        raise WriteError(_unwritable(folder, reason))


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Looks, before any work is done, at the files that a command is to write.

    Args:
        outputs: None for what is not asked for.
        inputs: what the command reads, and must find again after it.

    Raises:
        WriteError: where one of them is a folder, is read or is to be written twice.
    """
    # Unlike `Path.resolve` also of links that go round in a circle.
    taken = {os.path.realpath(path) for path in inputs if path}
    for output in outputs:
        if output is None or is_outlet(output):
            continue
        if output.is_dir():
            raise WriteError(_folder(output))
        if os.path.realpath(output) in taken:
            raise WriteError(
                f"{output}: is read or written in this call already; name another file"
            )
        taken.add(os.path.realpath(output))


def make_private(folder: Path) -> None:
    """Makes a folder in which nobody else can write; one of a name that others can guess may be
    another person's, or a link.

    Raises:
        WriteError: where it is.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not ours or found.st_mode & 0o022:
        raise WriteError(
            f"{folder}: is another person's, or others can write to it: remove it, or name another"
            " folder for temporary files in TMPDIR"
        )


def remove_abandoned(*parents: Path) -> None:
    """Removes what processes were making in these folders that were killed.

    Of this machine's processes it is known which live. What others made, or an older version, goes
    when nothing in it was written for two days: no lock is sure between machines.
    """
    for parent in filter(Path.is_dir, parents):
        for folder in parent.glob(f".*{ASIDE}"):
            maker = Process.parse(".".join(folder.name.split(".")[-6:-2]))
            try:
                if maker is not None and maker.is_here:
                    abandoned = maker.is_gone()
                else:
                    abandoned = _idle(folder) > ABANDONED
            except OSError:  # it has just been finished
                continue
            if abandoned:
                shutil.rmtree(folder, ignore_errors=True)


def keep(path: Path) -> None:
    """Keeps a file aside before Snakemake removes it, for the job that makes it again.

    Raises:
        WriteError: where it cannot be kept.
    """
    if not path.exists():
        return
    aside = kept(path)
    try:
        aside.unlink(missing_ok=True)
        try:
            os.link(path, aside)
        except OSError:  # a file system without links
            shutil.copyfile(path, aside)
    except OSError as error:
        raise write_error(aside, error) from error


def kept(path: Path) -> Path:
    """Where `keep` has put what was at ``path``."""
    return path.with_name(f".{path.name}.old")


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is that of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in DISK_FULL or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_error(path: Path, error: OSError) -> WriteError:
    """What to raise where the system refuses to write a file."""
    return WriteError(_full(path) if is_full(error) else _unwritable(path, error))


def _idle(folder: Path) -> float:
    """Seconds since something in a folder was written, by the clock of the disk that it lies on."""
    inside = (Path(parent, name) for parent, *names in os.walk(folder) for name in sum(names, []))
    written = max(path.lstat().st_mtime for path in (folder, *inside))
    with TemporaryFile(dir=folder.parent) as file:
        return os.fstat(file.fileno()).st_mtime - written


def _full(path: Path) -> str:
    return (
        f"{path}: the disk is full; what was finished before is whole: make room, and the same"
        " command goes on from there"
    )


def _folder(path: Path) -> str:
    return f"{path}: is a folder; name a file in it"


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"{path}: cannot be written ({error.strerror}): make its folder writable, or work in"
        " another"
    )


def _flush_all(path: Path) -> None:
    """`_flush` of a file, or of a folder and all that is in it."""
    if path.is_file():
        _flush(path)
    for folder, _, names in os.walk(path):
        for name in names:
            _flush(Path(folder, name))
        _flush(Path(folder))


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
