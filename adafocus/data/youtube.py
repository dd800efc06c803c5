"""Videos from YouTube, by the yt-dlp library."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from shutil import rmtree
from threading import Event, Thread
from typing import Any

import psutil
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.ffmpeg import ffmpeg_path
from adafocus.data.forms import Cut
from adafocus.data.listing import find_videos
from adafocus.data.names import Names, readable
from adafocus.machine.files import publish
from adafocus.recipe import Recipe, YoutubeSource

log = logging.getLogger(__name__)

STOP_TIMEOUT = 5
"""Seconds that running downloads have to stop, before they are left to end with the process."""


def fetch_videos(
    recipe: Recipe,
    source: YoutubeSource,
    cuts: dict[str, Cut],
    folder: Path,
    workers: int,
    done: Collection[str] = (),
) -> dict[str, str]:
    """Brings all of ``cuts`` to ``folder/videos`` that are neither there nor ``done`` with,
    ``workers`` at a time.

    A video appears under its name when it is whole; what came of one that was cut off is used by
    the next call. An error, or a signal that raises one, stops those that run and starts no other.

    Returns:
        Why a video could not be had, by its name.

    Raises:
        DataError: where yt-dlp is not installed, or as soon as more videos than
            ``recipe.videos.missing`` allows could not be had.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    brought = (path.relative_to(videos).with_suffix("").as_posix() for path in find_videos(videos))
    there, _ = Names([*map(readable, brought), *done]).find(cuts)
    wanted = {name: cut for name, cut in cuts.items() if name not in there}
    allowed = recipe.videos.missing * len(cuts)
    reasons: dict[str, str] = {}
    with (
        _downloads(_downloader(recipe, source), wanted, folder, workers) as results,
        tqdm(total=len(cuts), initial=len(cuts) - len(wanted), unit="video") as progress,
    ):
        for name, reason in results:
            progress.update()
            if reason:
                reasons[name] = reason
                progress.set_postfix(missing=len(reasons))
            if len(reasons) > allowed:
                name, reason = next(iter(reasons.items()))
                raise DataError(
                    f"{videos}: {len(reasons)} of {len(cuts)} videos could not be had so far, more"
                    f" than the recipe's videos.missing allows ({recipe.videos.missing:.0%}); the"
                    f" first is {name}: {reason}; run again to try once more"
                )
    rmtree(folder / "incoming", ignore_errors=True)
    return reasons


Downloader = Callable[[Cut, Path, Path, Event], str]
"""What downloads a cut by way of a folder to work in, named as the video, to the folder of videos,
unless the event is set meanwhile; returns why it could not be had."""


@contextmanager
def _downloads(
    download: Downloader, wanted: dict[str, Cut], folder: Path, workers: int
) -> Iterator[Iterator[tuple[str, str]]]:
    """Yields what came of each download, its name and why it could not be had, as they come.

    Threads of an executor would all be waited for at the end, however long a server lets them.
    """
    waiting: SimpleQueue[tuple[str, Cut]] = SimpleQueue()
    done: SimpleQueue[tuple[str, str | Exception]] = SimpleQueue()
    stop = Event()
    for item in wanted.items():
        waiting.put(item)

    def work() -> None:
        with suppress(Empty):
            while not stop.is_set():
                name, cut = waiting.get_nowait()
                try:
                    reason = download(cut, folder / "incoming" / name, folder / "videos", stop)
                except Exception as error:
                    done.put((name, error))
                else:
                    done.put((name, reason))

    def results() -> Iterator[tuple[str, str]]:
        for _ in wanted:
            name, reason = done.get()
            if isinstance(reason, Exception):
                raise reason
            yield name, reason

    threads = [Thread(target=work, daemon=True) for _ in range(min(workers, len(wanted)))]
    for thread in threads:
        thread.start()
    try:
        yield results()
    finally:
        stop.set()
        deadline = time.monotonic() + STOP_TIMEOUT
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            _kill_those_that_write_to(folder / "incoming")
            time.sleep(0.05)


def _kill_those_that_write_to(folder: Path) -> None:
    """Kills this process's children, ffmpeg for yt-dlp, whose arguments name the folder."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(str(folder) in argument for argument in child.cmdline()):
                child.kill()


def _downloader(recipe: Recipe, source: YoutubeSource) -> Downloader:
    """Raises `DataError` where yt-dlp is not installed."""
    try:
        from yt_dlp import YoutubeDL
        from yt_dlp.utils import DownloadCancelled, YoutubeDLError, download_range_func
    except ImportError:
        raise DataError(
            "yt-dlp is not installed: pip install 'adafocus[youtube]', or put the videos in place"
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

    def download(cut: Cut, incoming: Path, videos: Path, stop: Event) -> str:
        def watch(_: dict[str, Any]) -> None:
            if stop.is_set():
                raise DownloadCancelled("stopped")

        cutting = {}
        if cut.start is not None:
            cutting = {
                "download_ranges": download_range_func(None, [(cut.start, cut.end)]),
                "force_keyframes_at_cuts": True,
            }
        template = {"paths": {"home": str(incoming)}, "outtmpl": {"default": "video.%(ext)s"}}
        try:
            with YoutubeDL(options | cutting | template | {"progress_hooks": [watch]}) as client:
                client.download([source.url.format(id=cut.id)])
        except YoutubeDLError as error:
            reason = str(error).removeprefix("ERROR: ").partition("\n")[0]
            return reason or type(error).__name__
        [video] = (path for path in incoming.iterdir() if path.stem == "video")
        publish(video, videos / f"{incoming.name}{video.suffix}")
        return ""

    return download
