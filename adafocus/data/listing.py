"""The listing of a data set's videos, and whether it is still true of the folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

from adafocus.data import DataError
from adafocus.data.annotations import annotation_files, read_cuts
from adafocus.machine.files import atomic, kept
from adafocus.recipe import Recipe, YoutubeSource


class Stamp(NamedTuple):
    """What tells a video from another that took its name and place, as text."""

    size: str
    """In bytes; empty for a folder of JPEG files, whose own size tells nothing."""
    time: str
    """When it was changed last, in whole seconds, as that is what every way to copy it keeps."""

    @classmethod
    def of(cls, path: Path | os.DirEntry[str]) -> Stamp:
        """The stamp of a video, empty where it cannot be looked at, as a link to nothing."""
        try:
            found = path.stat()
        except OSError:
            return cls("", "")
        size = "" if S_ISDIR(found.st_mode) else str(found.st_size)
        return cls(size, str(int(found.st_mtime)))


def write_listing(
    folder: Path, missing: dict[str, str], done: Mapping[str, dict[str, str]] | None = None
) -> None:
    """Writes ``videos.csv``: ``video,path,error,size,time``.

    It lists the name of every video under ``videos/``, its path relative to ``folder`` and its
    `Stamp`, or why it could not be had, which ``missing`` tells by the name. Those of `done_with`
    stay listed as they were.
    """
    done = done or {}
    videos = {} if done and _is_empty(folder / "videos") else name_videos(folder / "videos")
    with (
        atomic(folder / "videos.csv") as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        listing = csv.writer(file, lineterminator="\n")
        listing.writerow(("video", "path", "error", *Stamp._fields))
        for name, path in videos.items():
            listing.writerow((name, path.relative_to(folder), "", *Stamp.of(path)))
        for name, row in done.items():
            listing.writerow((name, row["path"], "", *(row.get(key, "") for key in Stamp._fields)))
        listing.writerows((name, "", reason, "", "") for name, reason in sorted(missing.items()))
    kept(folder / "videos.csv").unlink(missing_ok=True)


def done_with(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of the listing that is there or was kept aside, by name, of the videos that were deleted
    when their frames were there."""
    for listing in (kept(folder / "videos.csv"), folder / "videos.csv"):
        with (
            suppress(OSError, ValueError, KeyError, csv.Error),
            listing.open(newline="", encoding="utf-8") as file,
        ):
            return {
                row["video"]: row
                for row in csv.DictReader(file)
                if row["path"] and _is_done(folder, row["path"], row["video"])
            }
    return {}


def _is_done(folder: Path, path: str, name: str) -> bool:
    return not (folder / path).exists() and (folder / "frames" / f"{name}.zip").exists()


def video_changes(recipe: Recipe, folder: Path) -> str:
    """How a data set's videos differ from ``videos.csv``, in one line; empty where they do not.

    A video differs by its size or time. Listings by older versions hold neither: there manifests
    tell them, once a later version has looked at the frames. A folder that is empty or gone is no
    change: its disk may not be mounted, or the videos were deleted when all frames were there.
    Raises `DataError` where the listing or a folder of videos cannot be read.
    """
    listing = folder / "videos.csv"
    try:
        with listing.open(newline="", encoding="utf-8") as file:
            _, *rows = csv.reader(file)
        unseen = {path: tuple(stamp) for _, path, _, *stamp in rows if path}
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"{listing}: cannot be read as a listing of videos ({error}); remove it, and have"
            f" the videos listed again by: snakemake --cores all {listing}"
        ) from None
    told, added, replaced = [], [], []
    # There the annotations say which are wanted, not the folder.
    youtube = isinstance(recipe.source, YoutubeSource)
    if youtube:
        known = {row[0] for row in rows}
        told = _told("to download", [name for name in _wanted(recipe, folder) if name not in known])
    if rows and len(rows[0]) == 3:
        stamps = _stamps_in_manifests(folder)
        unseen = {path: stamps.get(name, ()) for name, path, _ in rows if path}
    listed = len(unseen)
    for path, now in _scan(folder / "videos", "videos", unseen):
        before = unseen.pop(path, None)
        if before is None:
            added.append(path)
        elif before and before != now:
            replaced.append(path)
    if added or len(unseen) < listed:
        names = {row[1]: row[0] for row in rows}
        gone = [path for path in unseen if not (youtube and _is_done(folder, path, names[path]))]
        told += _told("added", added) + _told("replaced", replaced) + _told("taken out", gone)
    return f"videos changed since they were listed: {', '.join(told)}" if told else ""


def _stamps_in_manifests(folder: Path) -> dict[str, Stamp]:
    """Of which videos the frames are, where manifests tell it."""
    found = {}
    for path in folder.glob("manifests/[0-9]*.csv"):
        # What cannot be read is made again by who reads it next.
        with (
            suppress(OSError, ValueError, csv.Error),
            path.open(newline="", encoding="utf-8") as file,
        ):
            for row in csv.DictReader(file):
                if told := row.get("source"):
                    found[row["video"]] = Stamp(*told.split(" "))
    return found


def _told(what: str, names: list[str]) -> list[str]:
    return [f"{len(names)} {what} ({names[0]})"] if names else []


def _wanted(recipe: Recipe, folder: Path) -> Collection[str]:
    """Videos that the annotations list, where those are there."""
    there = all(path.exists() for path in annotation_files(recipe, folder))
    return read_cuts(recipe, folder) if there else ()


def _scan(folder: Path, name: str, listed: Collection[str]) -> Iterator[tuple[str, Stamp]]:
    """Every video under a folder as `find_videos` finds them, but by names that start with
    ``name``: a folder that is listed as a video is not opened again."""
    try:
        entries = os.scandir(folder)
    except OSError:
        return
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{name}/{entry.name}"
            if path not in listed and entry.is_dir() and not holds_frames(Path(entry.path)):
                yield from _scan(Path(entry.path), path, listed)
            else:
                yield path, Stamp.of(entry)


def _is_empty(folder: Path) -> bool:
    return not folder.is_dir() or next(find_videos(folder), None) is None


def name_videos(folder: Path) -> dict[str, Path]:
    """Every video under a folder by its name, sorted by name.

    A name is the path from the folder, without a file's suffix. Raises `DataError` where there is
    no video, or two have one name.
    """
    videos: dict[str, Path] = {}
    for path in find_videos(folder):
        named = path if path.is_dir() else path.with_suffix("")
        other = videos.setdefault(named.relative_to(folder).as_posix(), path)
        if other != path:
            raise DataError(f"{path}: has the same name as {other}; remove one of them")
    if not videos:
        raise DataError(f"{folder}: holds no video; put the videos there")
    return dict(sorted(videos.items()))


def holds_frames(folder: Path) -> bool:
    """Whether a folder is a video, that is, directly holds JPEG files."""
    return any(is_frame(file.name) for file in _inside(folder))


def is_frame(name: str) -> bool:
    """Whether a file in a folder of JPEG files is a frame, by its name."""
    return name.lower().endswith((".jpg", ".jpeg")) and not name.startswith(".")


def find_videos(folder: Path) -> Iterator[Path]:
    """Every video under a folder: files that are not hidden, and folders of JPEG files."""
    for path in _inside(folder):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not holds_frames(path):
            yield from find_videos(path)
        else:
            yield path


def _inside(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); make it readable, or take it out of the"
            " videos"
        ) from None
