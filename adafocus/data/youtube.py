"""Videos from YouTube, by the yt-dlp library."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from shutil import rmtree

from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.annotations import Cut
from adafocus.data.ffmpeg import ffmpeg_path
from adafocus.files import publish
from adafocus.recipe import Recipe, YoutubeSource

log = logging.getLogger(__name__)


def fetch_videos(
    recipe: Recipe, source: YoutubeSource, cuts: dict[str, Cut], folder: Path, workers: int
) -> dict[str, str]:
    """Brings all of ``cuts`` to ``folder/videos`` that are not there, ``workers`` at a time.

    A video appears under its name when it is whole; what came of one that was cut off is used by
    the next call.

    Returns:
        Why a video could not be had, by its name.

    Raises:
        DataError: where yt-dlp is not installed, or as soon as more videos than
            ``recipe.videos.missing`` allows could not be had.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    there = {path.stem for path in videos.iterdir()}
    wanted = {name: cut for name, cut in cuts.items() if name not in there}
    allowed = recipe.videos.missing * len(cuts)
    reasons: dict[str, str] = {}
    download = _downloader(recipe, source)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(cuts), initial=len(cuts) - len(wanted), unit="video") as progress,
    ):
        tasks = {
            pool.submit(download, cut, folder / "incoming" / name, videos): name
            for name, cut in wanted.items()
        }
        for task in as_completed(tasks):
            progress.update()
            if reason := task.result():
                reasons[tasks[task]] = reason
                progress.set_postfix(missing=len(reasons))
            if len(reasons) > allowed:
                pool.shutdown(wait=False, cancel_futures=True)
                name, reason = next(iter(reasons.items()))
                raise DataError(
                    f"{videos}: {len(reasons)} of {len(cuts)} videos could not be had so far, more"
                    f" than the recipe's videos.missing allows ({recipe.videos.missing:.0%}); the"
                    f" first is {name}: {reason}; run again to try once more"
                )
    rmtree(folder / "incoming", ignore_errors=True)
    return reasons


def _downloader(recipe: Recipe, source: YoutubeSource) -> Callable[[Cut, Path, Path], str]:
    """What downloads a cut by way of a folder to work in, named as the video, to the folder of
    videos, and returns why it could not be had."""
    try:
        from yt_dlp import YoutubeDL
        from yt_dlp.utils import YoutubeDLError, download_range_func
    except ImportError:
        raise DataError(
            "yt-dlp is not installed; run `pip install yt-dlp`, or put the videos in place"
        ) from None

    options = {
        "format": "bv*/b",
        # The largest up to this height, else the smallest above it.
        "format_sort": [f"res:{recipe.frames.height}"],
        "retries": 10,
        "fragment_retries": 10,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment"), lambda n: min(60, 2**n)),
        "ffmpeg_location": ffmpeg_path(),
        "noplaylist": True,
        "noprogress": True,
        "quiet": True,
        "logger": log,
        "cachedir": False,
    }

    def download(cut: Cut, incoming: Path, videos: Path) -> str:
        cutting = {}
        if cut.start is not None:
            cutting = {
                "download_ranges": download_range_func(None, [(cut.start, cut.end)]),
                "force_keyframes_at_cuts": True,
            }
        template = {"paths": {"home": str(incoming)}, "outtmpl": {"default": "video.%(ext)s"}}
        try:
            with YoutubeDL(options | cutting | template) as client:
                client.download([source.url.format(id=cut.id)])
        except YoutubeDLError as error:
            reason = str(error).removeprefix("ERROR: ").partition("\n")[0]
            return reason or type(error).__name__
        [video] = (path for path in incoming.iterdir() if path.stem == "video")
        publish(video, videos / f"{incoming.name}{video.suffix}")
        return ""

    return download
