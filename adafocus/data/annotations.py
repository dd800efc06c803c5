"""Which video is in which split and shows which classes, as the split files say it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adafocus.data import DataError
from adafocus.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val")


def read_annotations(recipe: Recipe, folder: Path) -> pd.DataFrame:
    """The table ``video, split, labels`` of split files in the authors' form.

    ``folder`` is the data set's. A line is ``video,frames,label[,label...]``, or with spaces
    ``video frames label``, where the video's name may hold spaces too. ``labels`` are lists of
    class indices; the number of frames is not used, since the frames are counted once extracted.
    Raises `DataError` with file and line.
    """
    import pandas as pd

    seen: dict[str, str] = {}
    rows = []
    for split in SPLITS:
        path = folder / "annotations" / getattr(recipe.annotations, split)
        before = len(rows)
        for where, line in _lines(path):
            video, labels = _parse(line, recipe.annotations.separator, where)
            if not all(0 <= label < recipe.classes for label in labels):
                raise DataError(f"{where}: a label is not one of 0 to {recipe.classes - 1}: {line}")
            if video in seen:
                raise DataError(f"{where}: video {video!r} is listed before, in {seen[video]}")
            seen[video] = where
            rows.append((video, split, labels))
        if len(rows) == before:
            raise DataError(f"{path}: lists no video")
    return pd.DataFrame(rows, columns=["video", "split", "labels"])


def read_classes(recipe: Recipe, folder: Path) -> list[str]:
    """Names of the classes by index, from a list with or without a leading number on each line."""
    path = folder / "annotations" / recipe.annotations.classes
    names = [line for _, line in _lines(path)]
    numbered = [re.fullmatch(r"(\d+)[\s,]+(.+)", name) for name in names]
    by_number = {int(match[1]): match[2] for match in numbered if match}
    if len(by_number) == len(names) == max(by_number, default=0) - min(by_number, default=0) + 1:
        names = [name for _, name in sorted(by_number.items())]
    if len(names) != recipe.classes:
        raise DataError(f"{path}: lists {len(names)} classes, but the recipe has {recipe.classes}")
    return names


def _parse(line: str, separator: str, where: str) -> tuple[str, list[int]]:
    fields = line.split(",") if separator == "," else line.rsplit(maxsplit=2)
    try:
        video, _, *labels = fields[0].strip(), int(fields[1]), *map(int, fields[2:])
    except (IndexError, ValueError):
        video, labels = "", []
    if not video or not labels:
        form = separator.join(("video", "frames", "label"))
        raise DataError(f"{where}: is not of the form {form}: {line}")
    return video, sorted(set(labels))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """File and line number, and the line, of all lines that are not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()
