"""Downloads that go on where they stopped, and archives that cannot leave their folder."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, NamedTuple, Self

import requests
from requests.exceptions import ChunkedEncodingError
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.rar import is_rar, read_rar
from adafocus.machine.files import is_full, publish

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ATTEMPTS = 6
"""Tries of one download in a run; each waits twice as long as the one before."""
TIMEOUT = (15, 60)
"""Seconds to wait for a connection, and for the next bytes."""
CHUNK = 1 << 20
UNFINISHED = ".unfinished"
"""What a file is called while it is unpacked."""
BROKEN = tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError
COUNT_WIDTH = 12
"""Of the number of members in a journal."""


class _Interrupted(Exception):
    """What may be well at the next try."""


def download(url: str, path: Path, sha256: str, pause: float = 1.0) -> None:
    """Downloads a file, which appears as ``path`` only when it is whole and verified.

    What came of a download that was cut off stays beside it as ``*.part``, and the next call goes
    on from there where the server can.

    Args:
        sha256: hexadecimal digest of the whole file.
        pause: seconds before the second try.

    Raises:
        DataError: where the server refuses, all tries fail or the digest is another.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for attempt in range(ATTEMPTS):
        try:
            _go_on(url, part)
            break
        except _Interrupted as error:
            if attempt + 1 == ATTEMPTS:
                raise DataError(
                    f"{url}: {error}, {ATTEMPTS} times; run again to go on from"
                    f" {part.stat().st_size if part.exists() else 0} bytes"
                ) from None
            time.sleep(pause * 2**attempt)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        part.unlink()
        raise DataError(f"{url}: its SHA-256 is {digest}, not {sha256}; what came was removed")
    publish(part, path)


def _go_on(url: str, part: Path) -> None:
    """Appends to ``part`` what it lacks, or fetches all of it from a server without ranges."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:
                if answer.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                    return
                part.unlink()
                raise _Interrupted("the part on disk is not one of this file")
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _Interrupted(f"the server answered {answer.status_code}")
            if not answer.ok:
                raise DataError(f"{url}: the server answered {answer.status_code} {answer.reason}")
            if answer.status_code != 206:
                have = 0
            total = have + int(answer.headers.get("Content-Length", 0))
            with (
                part.open("ab" if have else "wb") as file,
                tqdm(
                    desc=part.stem, initial=have, total=total or None, unit="B", unit_scale=True
                ) as bar,
            ):
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
        raise _Interrupted(f"the connection broke ({error})") from None
    except requests.RequestException as error:
        raise DataError(f"{url}: cannot be asked for ({error})") from None


# --- archives ---------------------------------------------------------------------------------


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    """Relative to the folder that it is unpacked to, which it cannot leave."""
    size: int
    time: float | None
    """When it was changed last, if the archive tells."""
    open: Callable[[], IO[bytes] | None]


def unpack(
    parts: Sequence[Path],
    folder: Path,
    on_member: Callable[[str], object],
    strip: int = 0,
    journal: Path | None = None,
) -> None:
    """Unpacks ZIPs, RARs, or a TAR of any compression in one or several parts, into ``folder``.

    Parts are read one after the other as one stream, so that they need not be joined on disk. Each
    may lie in a ZIP of its own. A file appears under its name when it is whole.

    Args:
        on_member: is told the name of each file.
        strip: leading folders to take off every name; what has no more than these is left out.
        journal: file that keeps how many members are done. After a kill, the next call with the
            same archive and folder goes on from there.

    Raises:
        DataError: where the archive is broken, a member, link or device would lie outside, or the
            disk is full; where a ZIP is encrypted, or packed in a way that is not known here.
    """
    names = ", ".join(path.name for path in parts)
    try:
        with _Journal(journal) as done:
            for number, member in enumerate(_read(parts, folder, strip)):
                target = folder / member.name
                # The journal may be on the disk and a file not yet, where the power failed.
                if number >= done.members or not _is_whole(target, member.size):
                    _write(member, target, folder / UNFINISHED)
                done.count(number + 1)
                on_member(member.name)
    except tarfile.FilterError as error:
        raise DataError(f"{names}: {error}; the archive is not to be trusted") from None
    except RuntimeError as error:  # encrypted, or packed in a way that `zipfile` does not know
        raise DataError(
            f"{names}: cannot be unpacked ({error}); unpack it yourself, to the folder videos of"
            " the data set"
        ) from None
    except (*BROKEN, EOFError, OSError, KeyError) as error:
        if is_full(error):
            raise DataError(
                f"{folder}: the disk is full; what is unpacked stays: make room, and the same"
                " command goes on from there"
            ) from None
        raise DataError(f"{names}: cannot be unpacked ({error}); download it again") from None
    finally:
        (folder / UNFINISHED).unlink(missing_ok=True)


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write(member: _Member, target: Path, unfinished: Path) -> None:
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    content = member.open()
    assert content is not None  # as of every file
    with content, unfinished.open("wb") as file:
        shutil.copyfileobj(content, file, CHUNK)
        if file.tell() != member.size:
            raise EOFError(f"{member.name} ends early")
    if member.time is not None:
        os.utime(unfinished, (member.time, member.time))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished.replace(target)


def _read(parts: Sequence[Path], folder: Path, strip: int) -> Iterator[_Member]:
    """Yields the files of an archive."""
    if is_rar(parts[0]):
        for part in parts:
            yield from _read_rar(part, folder, strip)
    elif not all(map(zipfile.is_zipfile, parts)) or _begins_tar(_unwrapped(parts[0])):
        with io.BufferedReader(_Joined(map(_unwrapped, parts)), CHUNK) as stream:
            yield from _read_tar(stream, folder, strip)
    else:
        for part in parts:
            yield from _read_zip(part, strip)


def _unwrapped(part: Path) -> Callable[[], IO[bytes]]:
    """What opens a part of an archive, in the ZIP that it alone lies in if there is one."""
    if zipfile.is_zipfile(part):
        with zipfile.ZipFile(part) as archive:
            files = [member for member in archive.infolist() if not member.is_dir()]
        if len(files) == 1:
            return lambda: zipfile.ZipFile(part).open(files[0])
    return lambda: part.open("rb")


def _begins_tar(opening: Callable[[], IO[bytes]]) -> bool:
    with opening() as stream:
        try:
            tarfile.open(fileobj=stream, mode="r|*").close()
        except (*BROKEN, EOFError):
            return False
    return True


def _read_tar(stream: IO[bytes], folder: Path, strip: int) -> Iterator[_Member]:
    """Yields the files of a TAR, and makes its folders and links."""
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            if name := _stripped(member.name, strip):
                member.name = name
                if member.islnk():  # to another member, by its name
                    member.linkname = _stripped(member.linkname, strip)
                safe = tarfile.data_filter(member, str(folder))
                if safe.isfile():
                    content = partial(archive.extractfile, member)
                    yield _Member(safe.name, member.size, member.mtime, content)
                    continue
                if not safe.isdir():
                    (folder / safe.name).unlink(missing_ok=True)
                archive.extract(member, folder, filter="data")


def _read_rar(part: Path, folder: Path, strip: int, within: bool = False) -> Iterator[_Member]:
    """Yields the files of a RAR, and in the place of RARs in it theirs, unless it is one itself."""
    with read_rar(part) as stream:
        for member in _read_tar(stream, folder, strip):
            if within or not member.name.lower().endswith(".rar"):
                yield member
                continue
            with TemporaryDirectory() as aside:
                inner = Path(aside, PurePosixPath(member.name).name)
                _write(member, inner, inner.with_name(UNFINISHED))
                yield from _read_rar(inner, folder, strip, within=True)


def _stripped(name: str, strip: int) -> str:
    """A name without its first folders; empty where it has no more than these."""
    if not strip:
        return name
    return "/".join([part for part in name.split("/") if part not in ("", ".")][strip:])


def _read_zip(part: Path, strip: int) -> Iterator[_Member]:
    """Yields the files of a ZIP, links as files too."""
    with zipfile.ZipFile(part) as archive:
        for member in archive.infolist():
            name = _stripped(member.filename, strip)
            inside = PurePosixPath(name.replace("\\", "/"))
            if inside.is_absolute() or ".." in inside.parts:
                raise DataError(
                    f"{part.name}: {name!r} would be outside the destination; the"
                    " archive is not to be trusted"
                )
            if name and not member.is_dir():
                yield _Member(name, member.file_size, None, partial(archive.open, member))


class _Journal:
    """How many members of an archive are unpacked, kept in a file if there is a path for it."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.members = 0

    def __enter__(self) -> Self:
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            self.members = int(os.pread(self.file, COUNT_WIDTH, 0) or 0)
        return self

    def __exit__(self, *_: object) -> None:
        if self.path:
            os.close(self.file)

    def count(self, members: int) -> None:
        """Keeps that the first ``members`` are done, perhaps of more."""
        if self.path and members > self.members:
            os.pwrite(self.file, b"%0*d" % (COUNT_WIDTH, members), 0)
            self.members = members


class _Joined(io.RawIOBase):
    """Several files read as one, each opened when the one before has ended."""

    def __init__(self, openings: Iterable[Callable[[], IO[bytes]]]) -> None:
        self.openings = iter(openings)
        self.file: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        while True:
            if self.file is None:
                if (opening := next(self.openings, None)) is None:
                    return 0
                self.file = opening()
            if piece := self.file.read(len(view)):
                view[: len(piece)] = piece
                return len(piece)
            self.file.close()
            self.file = None
