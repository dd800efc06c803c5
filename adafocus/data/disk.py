"""How much disk a data set will take, told before hours are spent."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path

from adafocus.data import DataError
from adafocus.data.listing import done_with, has_videos
from adafocus.recipe import ArchiveSource, ManualSource, Recipe, YoutubeSource

BYTES_PER_PIXEL = 0.056
"""Of a frame at the best quality, 2: ActivityNet's 14,950 videos, 117 seconds long on average, take
679 GB at 30 frames per second of about 640x360 pixels. It falls as the reciprocal of quality."""
ASPECT = 16 / 9


def estimate(recipe: Recipe) -> tuple[float, float]:
    """Bytes that the videos and their frames take, as far as the recipe tells."""
    videos, frames = recipe.videos, recipe.frames
    count = (videos.train + videos.val) * (videos.seconds or 0) * (frames.rate or videos.rate)
    pixels = frames.height**2 * ASPECT
    return (videos.gigabytes or 0) * 1e9, count * pixels * BYTES_PER_PIXEL * 2 / frames.quality


def _videos_to_come(recipe: Recipe, folder: Path) -> float:
    """Bytes that downloading and unpacking will yet take.

    Archives that a person gave stay beside what is unpacked of them, which takes no less. What is
    downloaded goes, one archive after the other.
    """
    source = recipe.source
    archived = isinstance(source, ArchiveSource | ManualSource)
    if archived and has_videos(folder / "videos"):
        return 0
    whole, _ = estimate(recipe)
    if isinstance(source, ManualSource):
        given = [path for name in source.archives for path in (folder / "archives").glob(name)]
        whole = max(whole, sum(path.stat().st_size for path in given))
    if isinstance(source, YoutubeSource):
        whole *= 1 - len(done_with(folder)) / (recipe.videos.train + recipe.videos.val)
    return whole - _size(folder, "videos", "incoming")


def check_space(steps: dict[str, set[str]], recipes: dict[str, Recipe], data: Path) -> list[str]:
    """Compares what data sets will yet take under ``data`` with the free space of its disks.

    Args:
        steps: what is to be done, ``download`` or ``frames`` or both, by data set.

    Returns:
        A line for each data set, fit for a person.

    Raises:
        DataError: where a disk has not enough space for all that will come to it.
    """
    lines = []
    needed: dict[int, float] = defaultdict(float)
    free: dict[int, int] = {}
    for name, ahead in sorted(steps.items()):
        folder = data / name
        coming = {}
        if "download" in ahead:
            coming["videos"] = _videos_to_come(recipes[name], folder)
        if "frames" in ahead:
            coming["frames"] = estimate(recipes[name])[1] - _size(folder, "frames")
        coming = {what: size for what, size in coming.items() if size > 0}
        if not coming:
            continue
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        disk = there.stat().st_dev
        free[disk] = shutil.disk_usage(there).free
        needed[disk] += sum(coming.values())
        sizes = " and ".join(f"{_gigabytes(size)} of {what}" for what, size in coming.items())
        lines.append(
            f"about {sizes} will come to {folder}, where {_gigabytes(free[disk])} are free"
        )
    for disk, size in needed.items():
        if size > free[disk]:
            raise DataError(
                f"{'; '.join(lines)}: free {_gigabytes(size - free[disk])}, name another folder as"
                " data in config/config.yaml, or keep fewer or smaller frames by the recipe's"
                " frames.rate, height or quality (the estimate is by its videos section)"
            )
    return lines


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.0f} GB" if size >= 1e9 else f"{size / 1e9:.1f} GB"


def _size(folder: Path, *names: str) -> int:
    """Bytes of all files in these folders; what links point to is elsewhere."""
    return sum(
        os.lstat(os.path.join(path, file)).st_size
        for name in names
        for path, _, files in os.walk(folder / name)
        for file in files
    )
