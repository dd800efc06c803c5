"""From videos to frame stores, by ffmpeg."""

from __future__ import annotations

import csv
import errno
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile
from zlib import crc32

from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.ffmpeg import (
    Sink,
    as_it_is,
    open_film,
    pour,
    write_pictures,
    write_timeline,
)
from adafocus.data.film import AS_MOST, Reading, ReadOtherwise, Timeline, read_timeline
from adafocus.data.jpeg import Pictures
from adafocus.data.listing import BYTES, Stamp
from adafocus.data.manifests import Extracted, read_manifests
from adafocus.data.names import is_text, write_table
from adafocus.data.store import (
    Writer,
    count_frames,
    digest_frames,
    is_sound,
    read_comment,
    read_digest,
    read_frames,
    read_pictures,
    write_store,
)
from adafocus.machine.files import WriteError, atomic, remove_abandoned
from adafocus.recipe import Frames, Recipe

MADE_WITH = re.compile(r"height (\d+) quality (\d+) rate (None|[\d.e+-]+)")
"""What the store of a video file is made with, see `Video.made_with`."""
PACKED = "packed"
"""What the store of a folder of JPEG files is made with."""


TOO_LONG = "its name is too long for a file with its frames; give it one of at most 200 bytes"


class Video(NamedTuple):
    """A video to extract."""

    name: str
    source: Path
    """Its file, or folder of JPEG files."""
    path: Path
    """The store that its frames come to, or the source where that is a folder to be read as it is.
    """

    @classmethod
    def of(cls, name: str, source: Path, folder: Path, pack: bool = False) -> Video:
        """A video of the data set in ``folder``; a folder of JPEG files becomes a store by ``pack``
        alone."""
        if source.is_dir() and not pack:
            return cls(name, source, source)
        return cls(name, source, folder / "frames" / f"{name}.zip")

    def made_with(self, settings: Frames) -> str:
        """What decides the frames of its store, as the store's comment begins."""
        if self.source.is_dir():
            return PACKED
        return f"height {settings.height} quality {settings.quality} rate {settings.rate}"


GROUP, GROUP_BYTES = 8, 500_000
"""Videos that one ffmpeg takes at a time, and their size: for short ones it starts longer than it
works."""
FOLDERS = 10_000
"""Videos that are folders of JPEG files, of which more are packed if the recipe does not say."""


def extract(recipe: Recipe, folder: Path, shard: int, threads: int) -> Path:
    """Extracts the frames of every ``shards``-th video of ``videos.csv``; returns the manifest.

    Each video becomes ``frames/{video}.zip``; one that is a folder of JPEG files is packed so, or
    used where it is. What was extracted before at the same settings is left alone. A video that
    fails, or that could not be had, is a row of the manifest with its error. ``threads`` of ffmpeg
    run at a time.
    """
    settings = recipe.frames
    with (folder / "videos.csv").open(newline="", encoding="utf-8", errors=BYTES) as file:
        listed = list(csv.DictReader(file))
    known = read_manifests(folder)
    pack = _packs(settings, listed, known)
    listed = listed[shard :: settings.shards]
    missing = [Extracted.failed(row["video"], "", row["error"]) for row in listed if row["error"]]
    videos = [
        # Where the names of files are not text they stay in the listing.
        Video.of(row["video"], folder / row["path"], folder, pack or not is_text(row["path"]))
        for row in listed
        if not row["error"]
    ]

    paths = {video.name: video.path.relative_to(folder).as_posix() for video in videos}
    known = {name: row for name, row in known.items() if row.path == paths.get(name)}

    def extracted(group: list[Video]) -> list[Extracted]:
        stale = [v for v in group if not _is_current(settings, v, known.get(v.name))]
        errors = _fill_each(settings, stale, known)
        return [
            Extracted.failed(video.name, paths[video.name], errors[video.name])
            if video.name in errors
            else _describe(video, paths[video.name], known.get(video.name), video in stale)
            for video in group
        ]

    manifest = folder / "manifests" / f"{shard}.csv"
    stores = {video.path.parent for video in videos if video.path != video.source}
    remove_abandoned(folder, manifest.parent, *stores)
    with (
        atomic(manifest) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
        ThreadPoolExecutor(threads) as pool,
        tqdm(desc=f"frames {shard}", total=len(videos), unit="video") as progress,
    ):
        rows = write_table(file)
        rows.writerow(Extracted._fields)
        rows.writerows(missing)
        for done in pool.map(extracted, _groups(videos)):
            rows.writerows(done)
            progress.update(len(done))
    return manifest


def _packs(settings: Frames, listed: list[dict[str, str]], known: dict[str, Extracted]) -> bool:
    """Whether folders of JPEG files become stores."""
    if settings.pack is not None:
        return settings.pack
    # A name is a path without a file's suffix, of which a folder has none.
    folders = [row for row in listed if row["path"] == f"videos/{row['video']}"]
    in_place = any(
        row["video"] in known and known[row["video"]].path == row["path"] for row in folders
    )
    return len(folders) > FOLDERS and not in_place


def _groups(videos: list[Video]) -> Iterator[list[Video]]:
    group: list[Video] = []
    size = 0
    for video in videos:
        length = video.source.stat().st_size if video.source.exists() else 0
        if group and (len(group) == GROUP or size + length > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(video)
        size += length
    if group:
        yield group


def extract_alone(settings: Frames, source: Path, folder: Path) -> tuple[Path, Timeline | None]:
    """Extracts one video as `extract` does, to a store in ``folder``.

    Returns the store and the video's timeline, which comes of the same decoding. A folder of JPEG
    files is its own store and has no timeline. Raises `DataError` where ffmpeg cannot read the
    video.
    """
    video = Video.of("video", source, folder)
    if video.path == video.source:
        return video.path, None
    [whole] = _fill_stores(settings, [video], {})
    return video.path, whole


def extract_again(
    settings: Frames, folder: Path, name: str, path: Path, others: Iterable[Path]
) -> None:
    """Makes the store of a video anew at ``path``, as what it holds cannot be read.

    Its frames come as they were: at what the store itself tells, or else ``others`` of the data
    set, which may have been made at other ``settings`` than those of a checkpoint's recipe. Raises
    `DataError` where that cannot be done, as with a folder of JPEG files read as it is.
    """
    if path.is_dir():
        raise DataError("it is a folder of JPEG files")
    with (folder / "videos.csv").open(newline="", encoding="utf-8", errors=BYTES) as file:
        sources = [row["path"] for row in csv.DictReader(file) if row["video"] == name]
    if not sources:
        raise DataError(f"{file.name} does not list its video")
    source = folder / sources[0]
    if not source.is_dir():
        settings = _made_at(settings, (path, *others))
    _fill_stores(settings, [Video(name, source, path)], read_manifests(folder))


def _made_at(settings: Frames, stores: Iterable[Path]) -> Frames:
    """Settings with what the first store tells that tells it."""
    for store in stores:
        with suppress(OSError, BadZipFile, ValueError):
            made_with = read_comment(store).partition("\n")[0]
            if told := MADE_WITH.fullmatch(made_with):
                height, quality, rate = told.groups()
                made_at = {
                    "height": int(height),
                    "quality": int(quality),
                    "rate": None if rate == "None" else float(rate),
                }
                return settings.model_copy(update=made_at)
    raise DataError("no store tells at which settings it was made")


def _describe(video: Video, name: str, known: Extracted | None, made: bool) -> Extracted:
    """A row of the manifest, the one that is ``known`` where it still holds."""
    path = video.path
    modified = path.stat().st_mtime_ns
    if known and not made and known.is_of(path):
        source = known.source or _Origin.of(video, known).source
        return known._replace(modified=modified, source=source or "")
    try:
        rate = duration = None
        complaint = ""
        source, replaced = _Origin.of(video, known)
        if path.is_dir():
            pictures = [(crc32(picture), len(picture)) for picture in read_pictures(path)]
            frames, size = len(pictures), sum(length for _, length in pictures)
            source = " ".join(Stamp.of(path))
            if known and known.bytes != size:
                replaced = digest_frames(pictures)
        else:
            frames, size = count_frames(path), path.stat().st_size
            _, seconds, complaint, *_ = read_comment(path).split("\n")
            duration = float(seconds) if seconds else None
            rate = round(frames / duration, 3) if duration else None
        height, width = read_frames(path, [0]).shape[-2:]
        return Extracted(
            *(video.name, name, "ok", frames, height, width, rate, duration, size, complaint),
            *(modified, source or "", replaced),
        )
    except DataError as error:
        return Extracted.failed(video.name, name, str(error))


class _Origin(NamedTuple):
    """Which video the frames that are there are of."""

    source: str | None
    """Its `Stamp`; empty if it is another than that of now, None if nothing tells."""
    replaced: str
    """As in `Extracted`."""

    @classmethod
    def of(cls, video: Video, known: Extracted | None, comment: str | None = None) -> _Origin:
        """By the store's comment, the manifest, or else their times: a newer video is another."""
        path = video.path
        if comment is None and path != video.source:
            with suppress(OSError, BadZipFile):
                comment = read_comment(path)
        told = (comment or "").split("\n")[3:]
        if told:
            return cls(told[0], "".join(told[1:]))
        source, replaced = (known.source, known.replaced) if known else ("", "")
        if source or not (path.exists() and video.source.exists()):
            return cls(source or None, replaced)
        older = path == video.source or video.source.stat().st_mtime_ns <= path.stat().st_mtime_ns
        return cls(" ".join(Stamp.of(video.source)) if older else "", replaced)


def _fill_each(
    settings: Frames, videos: list[Video], known: Mapping[str, Extracted]
) -> dict[str, str]:
    """`_fill_stores`, all at once or else one by one; returns why, by the names of those that
    failed."""
    try:
        _fill_stores(settings, videos, known)
        return {}
    except DataError as error:
        if len(videos) == 1:
            return {videos[0].name: str(error)}
    except (OSError, WriteError) as error:  # of the store, or of its folder
        if getattr(error.__cause__ or error, "errno", None) != errno.ENAMETOOLONG:
            raise
        if len(videos) == 1:
            return {videos[0].name: TOO_LONG}
    singly = (_fill_each(settings, [video], known) for video in videos)
    return {name: why for errors in singly for name, why in errors.items()}


def _fill_stores(
    settings: Frames, videos: list[Video], known: Mapping[str, Extracted]
) -> list[Timeline]:
    """Makes the videos' stores, all or none; returns the timelines of those that are files.

    One that has to be read otherwise than most is not made among several.

    A store's comment tells the settings, the video's duration, what ffmpeg complained about and the
    video's `Stamp`, a line each; a fifth its digest where other frames of another video were there
    before, so that what was learnt from those is known to be so.
    """
    if len(videos) == 1:
        return as_it_is(lambda reading: _fill_by(reading, settings, videos, known))
    return _fill_by(AS_MOST, settings, videos, known)


def _fill_by(
    reading: Reading, settings: Frames, videos: list[Video], known: Mapping[str, Extracted]
) -> list[Timeline]:
    """`_fill_stores`; raises `ReadOtherwise` where a file is not to be read so."""
    decoding = {"hwaccel": settings.hardware} if settings.hardware else {}
    outputs: list[Sink] = []

    def end(store: Writer, video: Video, stamp: str, *told: str) -> None:
        source, replaced = _Origin.of(video, known.get(video.name))
        if source not in (None, stamp) and (digest := store.digest()) != _digest_of(video.path):
            replaced = digest
        lines = (video.made_with(settings), *told, stamp, *([replaced] if replaced else []))
        store.comment("\n".join(lines))

    with ExitStack() as stack:
        begun = []
        for video in videos:
            store = stack.enter_context(write_store(video.path))
            stamp = " ".join(Stamp.of(video.source))
            if video.source.is_dir():
                for picture in read_pictures(video.source):
                    store.append(picture)
                end(store, video, stamp, "", "")
                continue
            pictures, timeline = Pictures(store.append), bytearray()
            begun.append((video, store, pictures, timeline, stamp))
            film = open_film(video.source, reading, **decoding)
            wanted = reading, settings.height, settings.quality, settings.rate
            outputs += (
                (partial(write_pictures, film, *wanted), pictures.feed),
                (partial(write_timeline, film), timeline.extend),
            )
        if not begun:
            return []
        said = pour(outputs, reading, settings.time_limit * len(begun))
        if said.complaint and len(begun) > 1:
            raise DataError(f"of which video is not known: {said.complaint}")
        timelines = []
        for video, store, pictures, timeline, stamp in begun:
            timelines.append(read_timeline(timeline, reading, said))
            if not store.count and settings.rate and not reading.brief:
                raise ReadOtherwise(reading._replace(brief=True))
            said.check()
            pictures.close()
            end(store, video, stamp, f"{timelines[-1].end:.3f}", said.complaint)
        return timelines


def _is_current(settings: Frames, video: Video, known: Extracted | None) -> bool:
    """Whether a video's frames need not be made, as they are there and whole.

    What a store holds is read where the store is not as it was when the manifest was written.
    """
    store = video.path
    if store == video.source:
        return True
    try:
        comment = read_comment(store)
    except (OSError, BadZipFile):
        return False
    wanted = {video.made_with(settings)}
    if video.source.exists():
        replaced = _Origin.of(video, known, comment).source != " ".join(Stamp.of(video.source))
    else:  # deleted when its frames were there
        wanted.add(PACKED)
        replaced = False
    if replaced or comment.partition("\n")[0] not in wanted:
        return False
    if known is None or known.is_of(store) or is_sound(store):
        return True
    print(f"{store}: is damaged on disk, its frames are extracted again")
    return False


def _digest_of(store: Path) -> str | None:
    try:
        return read_digest(store)
    except (OSError, BadZipFile):
        return None
