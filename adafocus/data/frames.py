"""From videos to frame stores, by ffmpeg."""

from __future__ import annotations

import csv
from concurrent.futures import ThreadPoolExecutor
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


class Extracted(NamedTuple):
    """A row of a manifest."""

    video: str
    path: str
    """Frame store or folder of JPEG files, relative to the data set's folder."""
    status: str
    """``ok`` or ``failed``."""
    frames: int = 0
    height: int = 0
    width: int = 0
    error: str = ""


def extract(recipe: Recipe, folder: Path, shard: int, threads: int) -> Path:
    """Extracts the frames of every ``shards``-th video of ``videos.csv``; returns the manifest.

    Each video becomes ``frames/{video}.zip``; a video that is a folder of JPEG files is used where
    it is. What was extracted before at the same settings is left alone. A video that fails is a
    row of the manifest with its error. ``threads`` videos are decoded at a time.
    """
    with (folder / "videos.csv").open(newline="", encoding="utf-8") as file:
        videos = list(csv.DictReader(file))[shard :: recipe.frames.shards]

    def extracted(video: dict[str, str]) -> Extracted:
        return _extract(recipe.frames, folder, video["video"], video["path"])

    manifest = folder / "manifests" / f"{shard}.csv"
    with (
        whole(manifest) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
        ThreadPoolExecutor(threads) as pool,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Extracted._fields)
        done = pool.map(extracted, videos)
        rows.writerows(tqdm(done, f"frames {shard}", len(videos), unit="video"))
    return manifest


def _extract(settings: Frames, folder: Path, video: str, source: str) -> Extracted:
    in_place = (folder / source).is_dir()
    path = source if in_place else f"frames/{video}.zip"
    try:
        if not in_place:
            _fill_store(settings, folder / source, folder / path)
        height, width = read_frames(folder / path, [0]).shape[-2:]
        return Extracted(video, path, "ok", count_frames(folder / path), height, width)
    except DataError as error:
        return Extracted(video, path, "failed", error=str(error))


def _fill_store(settings: Frames, source: Path, store: Path) -> None:
    made_with = f"height {settings.height} quality {settings.quality}"
    if _is_current(store, source, made_with):
        return
    store.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=store.parent) as jpegs:
        # An absolute file: address and a bare pattern in the working directory, so that no
        # character of a video's name means anything to ffmpeg.
        video = ffmpeg.input(f"file:{source.absolute()}", threads=1)
        scaled = video.filter("scale", -1, f"min({settings.height},ih)")
        images = scaled.output(
            "%06d.jpg", fps_mode="passthrough", threads=1, **{"q:v": settings.quality}
        )
        run(images, Path(jpegs))
        write_store(store, Path(jpegs), made_with)


def _is_current(store: Path, source: Path, made_with: str) -> bool:
    try:
        newer = store.stat().st_mtime_ns >= source.stat().st_mtime_ns
        return newer and read_comment(store) == made_with
    except (OSError, BadZipFile):
        return False
