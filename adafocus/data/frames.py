"""From videos to frame stores, by ffmpeg."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import ffmpeg
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.ffmpeg import open_video, read_timeline, run, write_timeline
from adafocus.data.store import count_bytes, count_frames, read_comment, read_frames, write_store
from adafocus.files import aside, remove_abandoned, whole
from adafocus.recipe import Frames, Recipe


class Video(NamedTuple):
    """A video to extract: its name and its file, or folder of JPEG files."""

    name: str
    source: Path

    def store(self, folder: Path) -> Path:
        """Where its frames will be."""
        return self.source if self.source.is_dir() else folder / "frames" / f"{self.name}.zip"


class Extracted(NamedTuple):
    """A row of a manifest."""

    video: str
    path: str
    """Frame store or folder of JPEG files, relative to the data set's folder."""
    status: str
    """``ok`` or ``failed``."""
    frames: int
    height: int
    width: int
    rate: float | None
    """Frames per second, on average; None where a video is a folder of JPEG files."""
    duration: float | None
    """In seconds, likewise."""
    bytes: int
    """That the frames take on disk."""
    error: str
    """Why a video failed, or what is damaged in one of which ffmpeg could read the rest."""


GROUP, GROUP_BYTES = 8, 500_000
"""Videos that one ffmpeg takes at a time, and their size: for short ones it starts longer than it
works."""


def extract(recipe: Recipe, folder: Path, shard: int, threads: int) -> Path:
    """Extracts the frames of every ``shards``-th video of ``videos.csv``; returns the manifest.

    Each video becomes ``frames/{video}.zip``; a video that is a folder of JPEG files is used where
    it is. What was extracted before at the same settings is left alone. A video that fails, or that
    could not be had, is a row of the manifest with its error. ``threads`` of ffmpeg run at a time.
    """
    with (folder / "videos.csv").open(newline="", encoding="utf-8") as file:
        listed = list(csv.DictReader(file))[shard :: recipe.frames.shards]
    missing = [_failed(row["video"], "", row["error"]) for row in listed if row["error"]]
    videos = [Video(row["video"], folder / row["path"]) for row in listed if not row["error"]]

    def extracted(group: list[Video]) -> list[Extracted]:
        # Where one video fails all of its group do, so each is then tried by itself.
        with suppress(DataError):
            _fill_stores(recipe.frames, folder, group)
        return [_extract(recipe.frames, folder, video) for video in group]

    manifest = folder / "manifests" / f"{shard}.csv"
    remove_abandoned(folder, folder / "frames", manifest.parent)
    with (
        whole(manifest) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
        ThreadPoolExecutor(threads) as pool,
        tqdm(desc=f"frames {shard}", total=len(videos), unit="video") as progress,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Extracted._fields)
        rows.writerows(missing)
        for done in pool.map(extracted, _groups(videos)):
            rows.writerows(done)
            progress.update(len(done))
    return manifest


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


def extract_alone(settings: Frames, source: Path, folder: Path) -> Path:
    """Extracts one video as `extract` does, to a store in ``folder``; returns the store.

    A folder of JPEG files is its own store. Raises `DataError` where ffmpeg cannot read the video.
    """
    video = Video("video", source)
    if not source.is_dir():
        _fill_stores(settings, folder, [video])
    return video.store(folder)


def _extract(settings: Frames, folder: Path, video: Video) -> Extracted:
    path = video.store(folder)
    name = path.relative_to(folder).as_posix()
    try:
        _fill_stores(settings, folder, [video])
        height, width = read_frames(path, [0]).shape[-2:]
        frames, size = count_frames(path), count_bytes(path)
        if path.is_dir():
            return Extracted(video.name, name, "ok", frames, height, width, None, None, size, "")
        _, seconds, complaint = read_comment(path).split("\n")
        duration = float(seconds)
        rate = round(frames / duration, 3) if duration else None
        return Extracted(
            video.name, name, "ok", frames, height, width, rate, duration, size, complaint
        )
    except DataError as error:
        return _failed(video.name, name, str(error))


def _failed(video: str, path: str, error: str) -> Extracted:
    return Extracted(video, path, "failed", 0, 0, 0, None, None, 0, error)


def _fill_stores(settings: Frames, folder: Path, videos: list[Video]) -> None:
    """Extracts those of the videos that have no store made with these settings.

    A store's comment tells the settings, the video's duration and what ffmpeg complained about.
    """
    made_with = f"height {settings.height} quality {settings.quality} rate {settings.rate}"
    stores = {
        video.source: video.store(folder)
        for video in videos
        if not video.source.is_dir()
        and not _is_current(video.store(folder), video.source, made_with)
    }
    if not stores:
        return
    decoding = {"hwaccel": settings.hardware} if settings.hardware else {}
    with aside(folder, "frames") as jpegs:
        outputs = []
        for number, source in enumerate(stores):
            Path(jpegs, str(number)).mkdir()
            video = open_video(source, **decoding)
            sampled = video.filter("fps", settings.rate) if settings.rate else video
            scaled = sampled.filter("scale", -1, f"min({settings.height},ih)")
            outputs += (
                # A bare pattern in the working directory, as a folder's name may hold a %.
                scaled.output(
                    f"{number}/%06d.jpg",
                    fps_mode="passthrough",
                    threads=1,
                    **{"q:v": settings.quality},
                ),
                write_timeline(video, f"{number}.txt"),
            )
        limit = settings.time_limit * len(stores)
        complaint = run(ffmpeg.merge_outputs(*outputs), jpegs, limit=limit)
        if complaint and len(stores) > 1:
            raise DataError(f"of which video is not known: {complaint}")
        for number, (source, store) in enumerate(stores.items()):
            duration = read_timeline(Path(jpegs, f"{number}.txt"), source).end
            comment = "\n".join((made_with, f"{duration:.3f}", complaint))
            write_store(store, Path(jpegs, str(number)), comment)


def _is_current(store: Path, source: Path, made_with: str) -> bool:
    try:
        newer = store.stat().st_mtime_ns >= source.stat().st_mtime_ns
        return newer and read_comment(store).partition("\n")[0] == made_with
    except (OSError, BadZipFile):
        return False
