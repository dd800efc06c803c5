"""The frame store: the JPEG frames of a video in one file with random access.

A store is an uncompressed ZIP archive of ``000001.jpg``, ``000002.jpg``, ... A folder of JPEG files
is read just as well, whatever prefix their names carry. Frames are counted from 0, in the natural
order of their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from adafocus.data import DataError
from adafocus.files import whole


def read_frames(path: Path, indices: Sequence[int]) -> Tensor:
    """Frames of the video at ``path``, uint8 ``(T, 3, H, W)``, one for each of ``indices``.

    An index may occur more than once; its frame is decoded once. Raises `DataError` that names the
    video and the frame which is missing, broken or of another size than the first.
    """
    with _opened(path) as (names, read):
        frames: dict[int, Tensor] = {}
        for index in indices:
            if index not in frames:
                frames[index] = _decode(path, names, read, index)
    first = frames[indices[0]]
    for index, frame in frames.items():
        if frame.shape != first.shape:
            raise DataError(f"{path}: frame {names[index]} is not of the size of the others")
    return torch.stack([frames[index] for index in indices])


def count_frames(path: Path) -> int:
    """Number of frames of the video at ``path``, a store or a folder."""
    with _opened(path) as (names, _):
        return len(names)


def write_store(path: Path, folder: Path, comment: str) -> None:
    """Packs the frames of a folder into a store that carries ``comment``."""
    with whole(path) as unfinished, ZipFile(unfinished, "w") as archive:
        archive.comment = comment.encode()
        for name in _frame_names(file.name for file in folder.iterdir()):
            archive.writestr(ZipInfo(name), (folder / name).read_bytes())


def read_comment(path: Path) -> str:
    """The comment that a store was written with."""
    with ZipFile(path) as archive:
        return archive.comment.decode()


def holds_frames(folder: Path) -> bool:
    """Whether a folder is a video, that is, directly holds JPEG files."""
    return any(_is_frame(file.name) for file in folder.iterdir())


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Names of the frames in order, and what reads one of them."""
    try:
        if path.is_dir():
            names = _frame_names(file.name for file in path.iterdir())
            yield names, lambda name: (path / name).read_bytes()
        else:
            with ZipFile(path) as archive:
                yield _frame_names(archive.namelist()), archive.read
    except (OSError, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read ({error}); extract its frames again") from None


def _decode(path: Path, names: list[str], read: Callable[[str], bytes], index: int) -> Tensor:
    if not 0 <= index < len(names):
        raise DataError(f"{path}: frame {index} is missing, it has {len(names)}")
    try:
        encoded = torch.frombuffer(bytearray(read(names[index])), dtype=torch.uint8)
        return decode_jpeg(encoded, ImageReadMode.RGB)
    except (OSError, BadZipFile, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{path}: frame {names[index]} is broken ({reason})") from None


def _frame_names(names: Iterable[str]) -> list[str]:
    return sorted(filter(_is_frame, names), key=_natural)


def _is_frame(name: str) -> bool:
    return name.lower().endswith((".jpg", ".jpeg")) and not name.startswith(".")


def _natural(name: str) -> list[str | int]:
    """Sorts ``frame_10`` after ``frame_9``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
