"""From videos to frame stores, by ffmpeg."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from zipfile import BadZipFile

import ffmpeg
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.ffmpeg import run
from adafocus.data.store import count_frames, read_comment, read_frames, write_store
from adafocus.files import whole
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
    error: str


GROUP = 8
"""Videos that one ffmpeg takes at a time: for short ones it starts longer than it works."""


def extract(recipe: Recipe, folder: Path, shard: int, threads: int) -> Path:
    """Extracts the frames of every ``shards``-th video of ``videos.csv``; returns the manifest.

    Each video becomes ``frames/{video}.zip``; a video that is a folder of JPEG files is used where
    it is. What was extracted before at the same settings is left alone. A video that fails is a
    row of the manifest with its error. ``threads`` processes of ffmpeg run at a time.
    """
    with (folder / "videos.csv").open(newline="", encoding="utf-8") as file:
        videos = [Video(row["video"], folder / row["path"]) for row in csv.DictReader(file)][
            shard :: recipe.frames.shards
        ]
    groups = [videos[start : start + GROUP] for start in range(0, len(videos), GROUP)]

    def extracted(group: list[Video]) -> list[Extracted]:
        # Where one video fails all of its group do, so each is then tried by itself.
        with suppress(DataError):
            _fill_stores(recipe.frames, folder, group)
        return [_extract(recipe.frames, folder, video) for video in group]

    manifest = folder / "manifests" / f"{shard}.csv"
    with (
        whole(manifest) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
        ThreadPoolExecutor(threads) as pool,
        tqdm(desc=f"frames {shard}", total=len(videos), unit="video") as progress,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Extracted._fields)
        for done in pool.map(extracted, groups):
            rows.writerows(done)
            progress.update(len(done))
    return manifest


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
    try:
        _fill_stores(settings, folder, [video])
        height, width = read_frames(path, [0]).shape[-2:]
        status = ("ok", count_frames(path), height, width, "")
    except DataError as error:
        status = ("failed", 0, 0, 0, str(error))
    return Extracted(video.name, path.relative_to(folder).as_posix(), *status)


def _fill_stores(settings: Frames, folder: Path, videos: list[Video]) -> None:
    """Extracts those of the videos that have no store made with these settings."""
    made_with = f"height {settings.height} quality {settings.quality}"
    stores = {
        video.source: video.store(folder)
        for video in videos
        if not video.source.is_dir()
        and not _is_current(video.store(folder), video.source, made_with)
    }
    if not stores:
        return
    with TemporaryDirectory(prefix=".frames.", dir=folder) as jpegs:
        images = []
        for number, source in enumerate(stores):
            Path(jpegs, str(number)).mkdir()
            # An absolute file: address and a bare pattern in the working directory, so that no
            # character of a video's name means anything to ffmpeg.
            decoded = ffmpeg.input(f"file:{source.absolute()}", threads=1)
            scaled = decoded.filter("scale", -1, f"min({settings.height},ih)")
            images.append(
                scaled.output(
                    f"{number}/%06d.jpg",
                    fps_mode="passthrough",
                    threads=1,
                    **{"q:v": settings.quality},
                )
            )
        run(ffmpeg.merge_outputs(*images), Path(jpegs))
        for number, store in enumerate(stores.values()):
            write_store(store, Path(jpegs, str(number)), made_with)


def _is_current(store: Path, source: Path, made_with: str) -> bool:
    try:
        newer = store.stat().st_mtime_ns >= source.stat().st_mtime_ns
        return newer and read_comment(store) == made_with
    except (OSError, BadZipFile):
        return False
