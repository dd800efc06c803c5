"""The listing of a data set's videos, and whether it is still true of the folder."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

from adafocus.data import DataError
from adafocus.data.annotations import annotation_files, read_cuts
from adafocus.data.beside import companions, is_no_video, is_service
from adafocus.data.names import readable, write_table
from adafocus.machine.files import FILLING, atomic, kept
from adafocus.recipe import Recipe, YoutubeSource

TOLD = 10
"""Files of one folder that are left out for one reason, up to which each is told."""
BYTES = "surrogateescape"
"""How the listing is read and written, whose paths may be any bytes."""


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
    none = done and not has_videos(folder / "videos")
    videos = {} if none else name_videos(folder / "videos")
    with (
        atomic(folder / "videos.csv") as unfinished,
        unfinished.open("w", newline="", encoding="utf-8", errors=BYTES) as file,
    ):
        listing = write_table(file)
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
            listing.open(newline="", encoding="utf-8", errors=BYTES) as file,
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
        with listing.open(newline="", encoding="utf-8", errors=BYTES) as file:
            columns, *rows = csv.reader(file)
        if columns[:3] != ["video", "path", "error"]:
            raise ValueError("it has other columns")
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
    there = _walk(folder / "videos", {}, unseen, "videos/") if (folder / "videos").is_dir() else ()
    for video, path in there:
        now, before = Stamp.of(video), unseen.pop(path, None)
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
    return [f"{len(names)} {what} ({readable(names[0])})"] if names else []


def _wanted(recipe: Recipe, folder: Path) -> Collection[str]:
    """Videos that the annotations list, where those are there."""
    there = all(path.exists() for path in annotation_files(recipe, folder))
    return read_cuts(recipe, folder) if there else ()


def has_videos(folder: Path) -> bool:
    """Whether there is such a folder and a video in it, and none is still on its way there."""
    there = folder.is_dir() and not (folder / FILLING).exists()
    return there and next(find_videos(folder), None) is not None


def name_videos(folder: Path) -> dict[str, Path]:
    """Every video under a folder by its name, sorted by name.

    A name is the path from the folder, without a file's suffix, as `readable` has it. What else is
    there is left out and told. Raises `DataError` where there is no video, or two have one name.
    """
    videos: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for entry, _ in _walk(folder, left_out):
        path = Path(entry.path)
        named = path if path.is_dir() else path.with_suffix("")
        other = videos.setdefault(readable(named.relative_to(folder).as_posix()), path)
        if other != path:
            raise DataError(
                f"{readable(str(path))}: has the same name as {readable(str(other))}; remove one of"
                " them"
            )
    _tell(left_out)
    if not videos:
        raise DataError(f"{folder}: holds no video; put the videos there")
    return dict(sorted(videos.items()))


def _tell(left_out: dict[str, str]) -> None:
    alike = defaultdict(list)
    for path, reason in sorted(left_out.items()):
        alike[os.path.dirname(path), reason].append(readable(path))
    for (_, reason), (*paths, last) in alike.items():
        if len(paths) >= TOLD:
            paths, last = [], f"{last} and {len(paths)} more there"
        for told in (*paths, last):
            print(f"left out: {told}: {reason}", flush=True)


def is_frame(name: str) -> bool:
    """Whether a file in a folder of JPEG files is a frame, by its name."""
    return name.lower().endswith((".jpg", ".jpeg")) and not name.startswith(".")


def find_videos(folder: Path) -> Iterator[Path]:
    """Every video under a folder: files that are not hidden nor of a kind that lies beside videos,
    and folders of JPEG files, of which a folder with a video in it is none.

    A link is followed but into what is found anyhow.
    """
    return (Path(entry.path) for entry, _ in _walk(folder, {}))


def _walk(
    folder: Path,
    left_out: dict[str, str],
    listed: Collection[str] = (),
    name: str = "",
    trees: list[str] | None = None,
) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Every video as `find_videos` finds them, and its path from the first folder, after ``name``.

    Args:
        left_out: is told why something is no video.
        listed: folders that are not opened, as they are known to be videos.
        trees: what has been gone into by a link.
    """
    trees = [os.path.realpath(folder)] if trees is None else trees
    entries = _inside(folder)
    beside = companions(entry.name for entry in entries)
    for entry in entries:
        told = f"{name}{entry.name}"
        try:
            is_folder = entry.is_dir()
            is_file = entry.is_file() or entry.is_symlink()
        except OSError:  # a link that goes round in a circle
            is_folder = is_file = False
        if is_folder and told not in listed:
            if entry.is_symlink() and _within(entry.path, trees):
                left_out[entry.path] = "is a link to what is there anyhow"
            elif holds_frames(Path(entry.path)):
                yield entry, told
            else:
                yield from _walk(Path(entry.path), left_out, listed, f"{told}/", trees)
        elif is_folder:
            yield entry, told
        elif not is_file:
            left_out[entry.path] = "is neither file nor folder"
        elif is_no_video(entry.name):
            left_out[entry.path] = "is no video, by its name"
        elif entry.name in beside:
            left_out[entry.path] = "is of the film beside it, by its name"
        else:
            yield entry, told


def _within(link: str, trees: list[str]) -> bool:
    """Whether a link leads to where others have been, or that lies there; else it is noted."""
    real = os.path.realpath(link)
    if any(os.path.commonpath((real, tree)) in (real, tree) for tree in trees):
        return True
    trees.append(real)
    return False


def holds_frames(folder: Path) -> bool:
    """Whether a folder is a video: it holds JPEG files and no video."""
    frames, others = False, []
    for entry in _inside(folder):
        if is_frame(entry.name):
            frames = True
        elif not is_no_video(entry.name):
            others.append(entry)
    # A link may lead back here.
    return frames and not any(
        next(find_videos(Path(entry.path)), None) if entry.is_dir() else True
        for entry in others
        if not entry.is_symlink()
    )


def _inside(folder: Path) -> list[os.DirEntry[str]]:
    """What a person put there, by name, so that of two links to one place it is always the same
    that is followed."""
    try:
        with os.scandir(folder) as entries:
            found = (entry for entry in entries if not is_service(entry.name))
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{readable(str(folder))}: cannot be read ({error.strerror}); make it readable, or take"
            " it out of the videos"
        ) from None
