"""Every form in which it is said which video is in which split and shows which classes.

A parser reads one form and yields its entries; what they say is looked at in
`adafocus.data.annotations`, whatever the form.
"""

from __future__ import annotations

import csv
import json
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from adafocus.data import DataError
from adafocus.recipe import (
    ActivityNetFiles,
    FcvidFiles,
    HmdbFiles,
    ListedFiles,
    SplitFiles,
    TableFile,
)

SPLITS = ("train", "val")
SPREADSHEETS = (b"PK\3\4", b"\xd0\xcf\x11\xe0")
"""How files of Excel and LibreOffice begin, of today and of old."""


class Cut(NamedTuple):
    """A video on YouTube, or a piece of it."""

    id: str
    start: int | None = None
    """Where the piece begins, in seconds; None for the whole video."""
    end: int | None = None


class Entry(NamedTuple):
    """A video as a file lists it."""

    where: str
    """File and line, or what else tells a person where it stands."""
    video: str
    split: str
    labels: set[str] | set[int]
    """Names or indices of classes"""
    cut: Cut | None = None
    """Where it comes from, if the file tells"""


# --- classes ----------------------------------------------------------------------------------


def split_labels(text: str) -> list[str]:
    """Names of classes that are joined by ``;``, where ``\\;`` is a semicolon in a name."""
    return [label.strip().replace(r"\;", ";") for label in re.split(r"(?<!\\);", text)]


def join_labels(names: Iterable[str]) -> str:
    """What `split_labels` takes apart."""
    return ";".join(name.replace(";", r"\;") for name in names)


def read_class_list(path: Path) -> list[str]:
    """Names from a list with or without a leading number on each line."""
    names = [line for _, line in _lines(path)]
    numbered = [re.fullmatch(r"(\d{1,9})[\s,]+(.+)", name) for name in names]
    by_number = {int(match[1]): match[2] for match in numbered if match}
    if len(by_number) == len(names) == max(by_number, default=0) - min(by_number, default=0) + 1:
        names = [name for _, name in sorted(by_number.items())]
    return names


def read_class_index(path: Path) -> list[str]:
    """Names from a JSON object that gives each its index."""
    try:
        index = {str(name): int(number) for name, number in _json(path).items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise DataError(f"{path}: is not an object of class names and their numbers") from None
    if sorted(index.values()) != list(range(len(index))):
        raise DataError(f"{path}: the numbers are not 0 to {len(index) - 1}")
    return sorted(index, key=index.__getitem__)


# --- one parser per form ----------------------------------------------------------------------


def _split_files(given: SplitFiles, folder: Path) -> Iterator[Entry]:
    for split in SPLITS:
        for where, line in _lines(folder / getattr(given, split)):
            yield Entry(where, *_video_and_labels(line, given.separator, where, split))


def _video_and_labels(
    line: str, separator: str, where: str, split: str
) -> tuple[str, str, set[int]]:
    fields = line.split(",") if separator == "," else line.rsplit(maxsplit=2)
    try:
        video, _, *labels = fields[0].strip(), int(fields[1]), *map(int, fields[2:])
    except (IndexError, ValueError):
        video, labels = "", []
    if not video or not labels:
        form = separator.join(("video", "frames", "label"))
        raise DataError(f"{where}: is not of the form {form}: {line}")
    return video, split, set(labels)


def _activitynet(given: ActivityNetFiles, folder: Path) -> Iterator[Entry]:
    path = folder / given.file
    splits = {"training": "train", "validation": "val", "testing": None}
    for video, entry in _mapping(_json(path), "database", path).items():
        where = f"{path}, database.{video}"
        try:
            split = splits[entry["subset"]]
            labels = {str(annotation["label"]) for annotation in entry["annotations"]}
        except (KeyError, TypeError):
            raise DataError(f"{where}: lacks a known subset or annotations with labels") from None
        if split is None:
            continue
        if not labels:
            raise DataError(f"{where}: has no label")
        yield Entry(where, f"v_{video}", split, labels, Cut(video))


def _fcvid(given: FcvidFiles, folder: Path) -> Iterator[Entry]:
    names, tables = (list(_lines(folder / name)) for name in (given.splits, given.labels))
    if len(names) != len(tables):
        raise DataError(
            f"{folder / given.splits}: lists {len(names)} videos, but {folder / given.labels}"
            f" has {len(tables)} lines"
        )
    for (where, line), (where_labels, flags) in zip(names, tables, strict=True):
        video, *split = line.rsplit(maxsplit=1)
        if split not in (["train"], ["test"]):
            raise DataError(f"{where}: is not of the form 'video train' or 'video test': {line}")
        marks = flags.replace(",", " ").split()
        if not set(marks) <= {"0", "1"} or "1" not in marks:
            raise DataError(f"{where_labels}: is not a line of zeros and at least a one")
        labels = {number for number, mark in enumerate(marks) if mark == "1"}
        name = Path(video.replace("\\", "/")).with_suffix("").as_posix()
        yield Entry(where, name, "train" if split == ["train"] else "val", labels)


def _kinetics(given: ListedFiles, folder: Path) -> Iterator[Entry]:
    used = set(read_class_list(folder / given.classes))
    columns = ("label", "youtube_id", "time_start", "time_end", "split")
    for split in SPLITS:
        for where, row in read_table(folder / getattr(given, split), columns):
            if row["label"] not in used:
                continue
            try:
                start, end = int(row["time_start"]), int(row["time_end"])
            except ValueError:
                raise DataError(f"{where}: time_start and time_end are not seconds") from None
            cut = Cut(row["youtube_id"], start, end)
            name = f"{cut.id}_{start:06d}_{end:06d}"
            yield Entry(where, name, split, {row["label"]}, cut)


def _something_v1(given: ListedFiles, folder: Path) -> Iterator[Entry]:
    for split in SPLITS:
        for where, line in _lines(folder / getattr(given, split)):
            video, semicolon, label = line.partition(";")
            if not (video and semicolon and label):
                raise DataError(f"{where}: is not of the form id;label: {line}")
            yield Entry(where, video.strip(), split, {label.strip()})


def _something_v2(given: ListedFiles, folder: Path) -> Iterator[Entry]:
    for split in SPLITS:
        path = folder / getattr(given, split)
        entries = _json(path)
        if not isinstance(entries, list):
            raise DataError(f"{path}: is not a list of videos")
        for number, entry in enumerate(entries, 1):
            where = f"{path}, entry {number}"
            try:
                video, template = str(entry["id"]), str(entry["template"])
            except (KeyError, TypeError):
                raise DataError(f"{where}: has no id or no template") from None
            yield Entry(where, video, split, {template.replace("[", "").replace("]", "")})


def _ucf(given: ListedFiles, folder: Path) -> Iterator[Entry]:
    """A video's class is the folder that it is in; what stands behind it is the class's number, in
    lists of training alone."""
    for split in SPLITS:
        for where, line in _lines(folder / getattr(given, split)):
            match = re.fullmatch(r"(([^/]+)/.+?)\.\w+(?:\s+\d+)?", line)
            if match is None:
                raise DataError(f"{where}: is not of the form class/video.avi: {line}")
            yield Entry(where, match[1], split, {match[2]})


def _hmdb(given: HmdbFiles, folder: Path) -> Iterator[Entry]:
    splits = {"0": None, "1": "train", "2": "val"}
    for label, name in zip(given.names, given.files, strict=True):
        for where, line in _lines(folder / name):
            video, *number = line.rsplit(maxsplit=1)
            if len(number) != 1 or number[0] not in splits:
                raise DataError(f"{where}: is not of the form 'video.avi 0', 1 or 2: {line}")
            if split := splits[number[0]]:
                stem = video.rpartition(".")[0] or video
                yield Entry(where, f"{label}/{stem}", split, {label})


def _table(given: TableFile, folder: Path) -> Iterator[Entry]:
    for where, row in read_table(folder / given.file, ("video", "split", "labels")):
        labels = set(split_labels(row["labels"]))
        if row["split"] not in SPLITS:
            raise DataError(f"{where}: split is {row['split']!r}; it must be train or val")
        if not row["video"].strip() or "" in labels:
            raise DataError(f"{where}: the video's name or a label is empty")
        yield Entry(where, row["video"], row["split"], labels)


PARSERS: dict[str, Callable[[Any, Path], Iterator[Entry]]] = {
    "split_files": _split_files,
    "activitynet": _activitynet,
    "fcvid": _fcvid,
    "kinetics": _kinetics,
    "something_v1": _something_v1,
    "something_v2": _something_v2,
    "ucf101": _ucf,
    "hmdb51": _hmdb,
    "table": _table,
}


# --- files ------------------------------------------------------------------------------------


def _text(path: Path, errors: str = "strict") -> str:
    """What a file holds, in UTF-8 or, by the mark before it, UTF-16, without that mark."""
    try:
        content = path.read_bytes()
        if content.startswith(SPREADSHEETS):
            raise DataError(f"{path}: is a spreadsheet, not a text; save it as CSV")
        encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
        return content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: cannot be read as UTF-8 ({error.reason} at byte {error.start}); save it so"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """File and line number, and the line, of all lines that are not blank."""
    for number, line in enumerate(re.split(r"\r\n?|\n", _text(path)), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def read_table(
    path: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    """File and line number, and the row, of a CSV with these columns and perhaps others.

    Fields are apart by commas, or by semicolons or tabs as spreadsheets write them; rows whose
    fields are all empty are none. Of optional columns that there are not, fields are empty. White
    space around a field is none of it, but around a ``video``: a file's name may have it. Bytes
    that are not UTF-8 stay as in names of files, see `readable`. Raises `DataError` with file and
    line.
    """
    text, skipped = _text(path, "surrogateescape"), 0
    if text.startswith("sep="):  # how some programs are told what fields are apart by
        text, skipped = re.sub(r"^.*(\r\n?|\n|$)", "", text, count=1), 1
    head = re.match(r"[^\r\n]*", text)[0].lower()  # type: ignore[index]
    # What the names of the columns stand apart by; a field's own semicolons are in quotes then.
    separator = max(",;\t", key=lambda sign: len(set(columns) & set(_names(head, sign))))
    rows = csv.reader(StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        while names and not names[-1]:
            names.pop()
        missing = [name for name in columns if name not in names]
        if missing:
            raise DataError(f"{path}, line {1 + skipped}: lacks the column {', '.join(missing)}")
        for fields in rows:
            where = f"{path}, line {rows.line_num + skipped}"
            if not any(map(str.strip, fields)):
                continue
            if len(fields) < len(names) or any(fields[len(names) :]):
                raise DataError(f"{where}: has not the {len(names)} fields of line {1 + skipped}")
            row = {
                name: field if name == "video" else field.strip()
                for name, field in zip(names, fields, strict=False)
            }
            yield where, {name: row.get(name, "") for name in (*columns, *optional)}
    except csv.Error as error:
        raise DataError(f"{path}, line {rows.line_num + skipped}: is not CSV ({error})") from None


def _names(head: str, separator: str) -> list[str]:
    return [name.strip(' "') for name in head.split(separator)]


def _json(path: Path) -> Any:
    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise DataError(f"{path}: {twice!r} is listed twice")
        return mapping

    text = _text(path)
    try:
        return json.loads(text, object_pairs_hook=without_doubles)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: is not JSON ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # numbers or lists that no program takes
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None


def _mapping(values: Any, key: str, path: Path) -> dict[str, Any]:
    found = values.get(key) if isinstance(values, dict) else None
    if not isinstance(found, dict):
        raise DataError(f"{path}: has no object {key!r}")
    return found
