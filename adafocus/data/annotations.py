"""Which video is in which split and shows which classes.

What is wrong with an entry whatever its form, a video listed twice or a label that there is not, is
found here; the forms are read in `adafocus.data.forms`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adafocus.data import DataError
from adafocus.data.forms import PARSERS, SPLITS, Cut, Entry, read_class_index, read_class_list
from adafocus.data.names import readable
from adafocus.machine.files import sha256
from adafocus.recipe import FolderSource, Recipe

if TYPE_CHECKING:
    import pandas as pd


class Annotated(NamedTuple):
    table: pd.DataFrame
    """``video, split, labels``, a row per video; labels are sorted lists of class indices"""
    classes: list[str]
    """Names by index"""


def read_annotations(recipe: Recipe, folder: Path) -> Annotated:
    """Reads the annotations of a data set, in whichever form its recipe names.

    ``folder`` is the data set's. The number of frames that a file may tell is not used, since the
    frames are counted once extracted. Raises `DataError` with file and line.
    """
    import pandas as pd

    listed = _entries(recipe, folder)
    for split in SPLITS:
        if not any(entry.split == split for entry in listed):
            raise DataError(f"{_files(recipe, folder)}: no video of {split} is listed")
    for where, _, _, labels, _ in listed:
        for label in labels:
            check_class(label, where)
    classes = _classes(recipe, folder, listed)
    index = {name: number for number, name in enumerate(classes)}
    seen: dict[str, str] = {}
    rows = []
    for where, told, split, labels, _ in listed:
        video = readable(told)
        if video in seen:
            raise DataError(f"{where}: video {video!r} is listed before, in {seen[video]}")
        seen[video] = where
        for label in labels:
            if not (label in index if isinstance(label, str) else 0 <= label < len(classes)):
                raise DataError(
                    f"{where}: label {label!r} of video {video!r} is not one of the"
                    f" {len(classes)} classes"
                )
        numbers = sorted(index[label] if isinstance(label, str) else label for label in labels)
        rows.append((video, split, numbers))
    return Annotated(pd.DataFrame(rows, columns=["video", "split", "labels"]), classes)


def read_cuts(recipe: Recipe, folder: Path) -> dict[str, Cut]:
    """Where each listed video comes from. Raises `DataError` where the annotations do not tell."""
    cuts = {}
    for where, video, *_, cut in _entries(recipe, folder):
        if cut is None:
            raise DataError(f"{where}: tells no id on YouTube; annotations.format must be another")
        # It becomes part of a file's name and of an address.
        if not re.fullmatch(r"[\w-]+", cut.id):
            raise DataError(f"{where}: {cut.id!r} is no id on YouTube")
        cuts[video] = cut
    return cuts


def annotation_files(recipe: Recipe, folder: Path) -> list[Path]:
    """The files that a data set's annotations are read from; one's own CSV stays where it is."""
    if isinstance(recipe.source, FolderSource):
        return [Path(recipe.source.labels)]
    return [folder / "annotations" / name for name in recipe.annotations.files]


def digest_annotations(recipe: Recipe, folder: Path) -> dict[str, str]:
    """SHA-256 of each annotation file that is there, by its name in the recipe.

    Raises `DataError` where one cannot be read.
    """
    found = {}
    for name, path in zip(recipe.annotations.files, annotation_files(recipe, folder), strict=False):
        try:
            found[name] = sha256(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); make it readable"
            ) from None
    return found


def _entries(recipe: Recipe, folder: Path) -> list[Entry]:
    given, folder = recipe.annotations, folder / "annotations"
    if isinstance(recipe.source, FolderSource):
        labels = Path(recipe.source.labels)
        given, folder = given.model_copy(update={"file": labels.name}), labels.parent
    return list(PARSERS[given.format](given, folder))


def _files(recipe: Recipe, folder: Path) -> str:
    return ", ".join(map(str, annotation_files(recipe, folder)))


# --- classes ----------------------------------------------------------------------------------


def check_class(name: str | int, where: str) -> None:
    """Raises `DataError` where a class's name cannot stand on a line of its own, in UTF-8."""
    if isinstance(name, str) and (not name or re.search("[\0\r\n\ud800-\udfff]", name)):
        raise DataError(
            f"{where}: class {name!r} is no line of text in UTF-8; give the class another name, or"
            " save the table that has it as UTF-8, in Excel as CSV UTF-8"
        )


def _classes(recipe: Recipe, folder: Path, listed: list[Entry]) -> list[str]:
    """Names of the classes by index: those that a file lists, or all that occur, sorted."""
    name = getattr(recipe.annotations, "classes", None)
    if name is None:
        names = sorted({str(label) for entry in listed for label in entry.labels})
        source = _files(recipe, folder)
    else:
        path = folder / "annotations" / name
        names = (read_class_index if name.endswith(".json") else read_class_list)(path)
        source = str(path)
    if recipe.annotations.format == "something_v1":
        names = sorted(names)  # see `ListedFiles`
    for label in names:
        check_class(label, source)
    if len(names) != recipe.classes:
        raise DataError(
            f"{source}: lists {len(names)} classes, but the recipe has {recipe.classes}"
        )
    return names
