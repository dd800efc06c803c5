"""Downloads that go on where they stopped, and archives that cannot leave their folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import requests
from requests.exceptions import ChunkedEncodingError
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.files import publish

ATTEMPTS = 6
"""Tries of one download in a run; each waits twice as long as the one before."""
TIMEOUT = (15, 60)
"""Seconds to wait for a connection, and for the next bytes."""
CHUNK = 1 << 20


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
                total = answer.headers.get("Content-Range", "").rpartition("/")[2]
                if total == str(have):
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


def unpack(
    parts: Sequence[Path], folder: Path, on_member: Callable[[str], None], strip: int = 0
) -> None:
    """Unpacks a ZIP, or a TAR of any compression in one or several parts, into ``folder``.

    Parts are read one after the other as one stream, so that they need not be joined on disk.

    Args:
        on_member: is told the name of each file.
        strip: leading folders to take off every name; what has no more than these is left out.

    Raises:
        DataError: where the archive is broken, or a member, link or device would lie outside.
    """
    names = ", ".join(path.name for path in parts)
    try:
        if len(parts) == 1 and zipfile.is_zipfile(parts[0]):
            _unpack_zip(parts[0], folder, on_member, strip)
        else:
            _unpack_tar(parts, folder, on_member, strip)
    except tarfile.FilterError as error:
        raise DataError(f"{names}: {error}; the archive is not to be trusted") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{names}: cannot be unpacked ({error}); download it again") from None


def _unpack_tar(
    parts: Sequence[Path], folder: Path, on_member: Callable[[str], None], strip: int
) -> None:
    with (
        io.BufferedReader(_Joined(parts), CHUNK) as stream,
        tarfile.open(fileobj=stream, mode="r|*") as archive,
    ):
        for member in archive:
            if name := _stripped(member.name, strip):
                member.name = name
                archive.extract(member, folder, filter="data")
                if member.isfile():
                    on_member(name)


def _stripped(name: str, strip: int) -> str:
    """A name without its first folders; empty where it has no more than these."""
    if not strip:
        return name
    return "/".join([part for part in name.split("/") if part not in ("", ".")][strip:])


def _unpack_zip(path: Path, folder: Path, on_member: Callable[[str], None], strip: int) -> None:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            directory = member.is_dir()
            member.filename = _stripped(member.filename, strip)
            if not member.filename:
                continue
            inside = PurePosixPath(member.filename.replace("\\", "/"))
            if inside.is_absolute() or ".." in inside.parts:
                raise DataError(
                    f"{path.name}: {member.filename!r} would be outside the destination; the"
                    " archive is not to be trusted"
                )
            if not directory:
                archive.extract(member, folder)
                on_member(member.filename)


class _Joined(io.RawIOBase):
    """Several files read as one, each opened when the one before has ended."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.file: BinaryIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while self.file or self.paths:
            self.file = self.file or self.paths.pop(0).open("rb")
            if count := self.file.readinto(buffer):
                return count
            self.file.close()
            self.file = None
        return 0
