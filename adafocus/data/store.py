"""The frame store: the JPEG frames of a video in one file with random access.

A store is an uncompressed ZIP archive of ``000001.jpg``, ``000002.jpg``, ... A folder of JPEG files
is read just as well, whatever prefix their names carry. Frames are counted from 0, in the natural
order of their names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile, ZipFile, ZipInfo
from zlib import crc32

import numpy as np
import torch
from simplejpeg import decode_jpeg, decode_jpeg_header
from torch import Tensor

from adafocus.data import DataError
from adafocus.data.listing import is_frame
from adafocus.machine.files import atomic

Crop = tuple[int, int, int, int]
"""Top, left, height and width of a part of a frame, in pixels."""


def whole_frame(height: int, width: int) -> Crop:
    return 0, 0, height, width


def read_frames(
    path: Path, indices: Sequence[int], crop: Callable[[int, int], Crop] = whole_frame
) -> Tensor:
    """Frames of the video at ``path``, uint8 ``(T, 3, H, W)``, one for each of ``indices``.

    Of each only the part is kept that ``crop`` names when it is told their height and width. They
    lie channels last in memory, as they are decoded and are resized fastest. An index may occur
    more than once; its frame is decoded once.

    Raises `DataError` that names the video and the frame which is missing, broken or of another
    size than the first.
    """
    frame: np.ndarray | None = None
    clip: np.ndarray | None = None
    places: dict[int, int] = {}
    with _opened(path) as stored:
        for place, index in enumerate(indices):
            first = places.setdefault(index, place)
            if clip is not None and first < place:
                clip[place] = clip[first]
                continue
            _, frame = _decode(path, stored, index, frame)
            if clip is None:
                top, left, height, width = crop(*frame.shape[:2])
                clip = np.empty((len(indices), height, width, 3), np.uint8)
            clip[place] = frame[top : top + height, left : left + width]
    return torch.from_numpy(clip).permute(0, 3, 1, 2)


def count_frames(path: Path) -> int:
    """Number of frames of the video at ``path``, a store or a folder."""
    with _opened(path) as stored:
        return stored.frames


MOST_FRAMES = 1_000_000
"""Of a store. A film that gives more has wrong times: at 30 a second it runs for nine hours."""


class Writer:
    """Appends frames to a new store."""

    def __init__(self, archive: ZipFile) -> None:
        self._archive, self.count = archive, 0

    def append(self, picture: bytes | bytearray) -> None:
        """Adds a JPEG picture as the next frame; raises `DataError` for one too many."""
        if self.count == MOST_FRAMES:
            raise DataError(
                f"more than {MOST_FRAMES:,} frames, as its times run on for so long: cut the film"
                " into parts, or leave out frames.rate in the recipe"
            )
        self.count += 1
        self._archive.writestr(ZipInfo(f"{self.count:06d}.jpg"), picture)

    def digest(self) -> str:
        """As `read_digest` finds it."""
        return digest_frames((entry.CRC, entry.file_size) for entry in self._archive.infolist())

    def comment(self, text: str) -> None:
        """What `read_comment` finds."""
        self._archive.comment = text.encode()


@contextmanager
def write_store(path: Path) -> Iterator[Writer]:
    """Yields what writes a new store, which is at ``path`` after the block unless it raises."""
    with atomic(path) as unfinished, ZipFile(unfinished, "w") as archive:
        yield Writer(archive)


def is_sound(path: Path) -> bool:
    """Whether all that a store holds has the checksums that it was written with."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, BadZipFile):
        return False


def read_digest(path: Path) -> str:
    """What tells the frames of a store from others, by its directory alone."""
    with ZipFile(path) as archive:
        return digest_frames((entry.CRC, entry.file_size) for entry in archive.infolist())


def digest_frames(pictures: Iterable[tuple[int, int]]) -> str:
    """SHA-256 of the CRC-32 and length of each JPEG picture of a video, in their order."""
    return sha256("".join(f"{crc},{length}\n" for crc, length in pictures).encode()).hexdigest()


def read_pictures(folder: Path) -> Iterator[bytes]:
    """The JPEG files of a folder, as they are, in the order of its frames.

    Each is decoded, so that `DataError` names one that is broken or of another size than the first
    before anything relies on it.
    """
    frame = None
    with _opened(folder) as stored:
        for index in range(stored.frames):
            encoded, frame = _decode(folder, stored, index, frame)
            yield encoded


def read_comment(path: Path) -> str:
    """The comment that a store was written with."""
    with path.open("rb") as file:
        return _end_of_zip(file)[-1].decode(errors="replace")


class _Stored(NamedTuple):
    """The frames of an open store or folder."""

    frames: int
    """How many."""
    name: Callable[[int], str]
    read: Callable[[int], bytes]


@contextmanager
def _opened(path: Path) -> Iterator[_Stored]:
    try:
        if path.is_dir():
            names = _frame_names(file.name for file in path.iterdir())
            yield _Stored(
                len(names), names.__getitem__, lambda index: (path / names[index]).read_bytes()
            )
            return
        with path.open("rb", buffering=0) as file:
            if indexed := _indexed(file):
                yield indexed
                return
            with ZipFile(file) as archive:
                names = _frame_names(archive.namelist())
                yield _Stored(
                    len(names), names.__getitem__, lambda index: archive.read(names[index])
                )
    except (OSError, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _decode(
    path: Path, stored: _Stored, index: int, memory: np.ndarray | None
) -> tuple[bytes, np.ndarray]:
    """A frame as it is stored, and uint8 ``(H, W, 3)``, decoded into the memory of the one before
    if there is one: what is still in the processor's cache is written and cropped faster."""
    if not 0 <= index < stored.frames:
        raise DataError(f"{path}: frame {index} is missing, it has {stored.frames}")
    try:
        encoded = stored.read(index)
        if memory is None or decode_jpeg_header(encoded)[:2] == memory.shape[:2]:
            return encoded, decode_jpeg(encoded, buffer=memory)
    except (OSError, BadZipFile, ValueError) as error:
        raise DataError(f"{path}: frame {stored.name(index)} is broken ({error})") from None
    raise DataError(f"{path}: frame {stored.name(index)} is not of the size of the others")


# --- the ZIP format (APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16) ---------------------

ENTRY = Struct("<10x H 4x 2I 18x I")
"""Of the directory: method, checksum, length and where the frame's local header lies."""
LOCAL_HEADER = 30
END = Struct("<10x H 2I H")
"""Number of entries, size and start of the directory, and the length of the comment that follows.
"""
NAME_LENGTH = len("000001.jpg")


def _indexed(file: BinaryIO) -> _Stored | None:
    """Reads single frames without reading the whole directory first, as `ZipFile` does.

    All entries of a store that extraction wrote are of one length, so that the place of each is
    known: sixteen frames of a long video cost no more than opening sixteen files. None where the
    entries are others, as in the 64-bit form that stores of more than 65,535 frames have.
    """
    count, size, start, _ = _end_of_zip(file)
    step = ENTRY.size + NAME_LENGTH

    def name(index: int) -> str:
        return f"{index + 1:06d}.jpg"

    def entry(index: int) -> bytes:
        return os.pread(file.fileno(), step, start + index * step)

    def read(index: int) -> bytes:
        method, checksum, length, offset = ENTRY.unpack_from(found := entry(index))
        if found[ENTRY.size :] != name(index).encode() or method:
            raise BadZipFile("its entry is broken")
        content = os.pread(file.fileno(), length, offset + LOCAL_HEADER + NAME_LENGTH)
        if crc32(content) != checksum:
            raise BadZipFile("its checksum is another")
        return content

    if not count or size != count * step or not entry(0).endswith(name(0).encode()):
        return None
    return _Stored(count, name, read)


def _end_of_zip(file: BinaryIO) -> tuple[int, int, int, bytes]:
    """What `END` holds, and the comment."""
    most = END.size + 65_535
    tail = os.pread(file.fileno(), most, max(0, os.fstat(file.fileno()).st_size - most))
    found = tail.rfind(b"PK\5\6")
    if not 0 <= found <= len(tail) - END.size:
        raise BadZipFile("File is not a zip file")
    count, size, start, length = END.unpack_from(tail, found)
    comment = tail[found + END.size :]
    if len(comment) != length:
        raise BadZipFile("its end is missing")
    return count, size, start, comment


# --- names ------------------------------------------------------------------------------------


def _frame_names(names: Iterable[str]) -> list[str]:
    return sorted(filter(is_frame, names), key=_natural)


def _natural(name: str) -> list[str | int]:
    """Sorts ``frame_10`` after ``frame_9``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
