"""The ffmpeg program, run by argument lists and never by a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, NamedTuple

import ffmpeg
import numpy as np

from adafocus.data import DataError

GLOBAL = (
    *("-nostdin", "-hide_banner", "-loglevel", "error"),
    *("-filter_threads", "1", "-filter_complex_threads", "1"),
)
"""Options of every run. One thread each: the caller runs one per core."""

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,h264,hevc,gif,"
    "dv,mxf,ivf,nut,wtv,rm"
)
"""What a video may be. Playlists are not among them: they would have other files read."""


@cache
def ffmpeg_path() -> str:
    """The ffmpeg on the PATH, else the one that imageio-ffmpeg carries."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise DataError("ffmpeg is neither on the PATH nor in imageio-ffmpeg; install it") from None


class Timeline(NamedTuple):
    """When the frames of a video are shown, and how large they are."""

    times: np.ndarray
    """float64 (frames,): seconds from the first frame"""
    end: float
    """Seconds until the last frame has been shown."""
    height: int
    width: int


def timeline(video: Path) -> Timeline:
    """Reads a video's timeline. Raises `DataError` where it holds no frames that can be decoded."""
    with TemporaryDirectory() as folder:
        run(write_timeline(open_video(video), "timeline.txt"), folder)
        return read_timeline(Path(folder, "timeline.txt"), video)


def open_video(video: Path, **options: Any) -> Any:
    """A video as an input of an ffmpeg-python graph.

    It is an absolute ``file:`` address, so that no character of its name means anything to ffmpeg.
    """
    return ffmpeg.input(
        f"file:{video.absolute()}", threads=1, format_whitelist=CONTAINERS, **options
    )


def write_timeline(source: Any, name: str) -> Any:
    """An output that lists when each frame of an input is shown, for `read_timeline`.

    The frames themselves are not looked at, so it costs nothing beside another output.
    """
    return source.video.output(
        name, format="framecrc", vcodec="wrapped_avframe", fps_mode="passthrough"
    )


def read_timeline(path: Path, video: Path) -> Timeline:
    """The timeline of ``video`` that was written to ``path``. Raises `DataError` if it is empty."""
    text = path.read_text()
    tick = re.search(r"^#tb 0: (\d+)/(\d+)", text, re.MULTILINE)
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)", text, re.MULTILINE)
    # Each line is: stream, decoding time, time shown, duration, bytes, checksum.
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    if not (tick and size and rows):
        raise DataError(f"{video}: holds no frames")
    shown = np.array([[int(row[2]), int(row[3])] for row in rows]) * int(tick[1]) / int(tick[2])
    times = shown[:, 0] - shown[0, 0]
    return Timeline(times, times[-1] + shown[-1, 1], int(size[2]), int(size[1]))


def decode(video: Path, height: int, width: int) -> Iterator[np.ndarray]:
    """Every frame of a video in its own size, uint8 (height, width, 3), one at a time."""
    raw = open_video(video).video.output(
        "pipe:", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough"
    )
    size = height * width * 3
    with _started(raw, stdout=subprocess.PIPE) as process:
        while len(frame := process.stdout.read(size)) == size:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)


def encode(frames: Iterator[bytes], path: Path, height: int, width: int, rate: float) -> None:
    """Writes frames, height · width · 3 bytes each, as an H.264 MP4 that any player shows."""
    raw = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", video_size=(width, height), framerate=rate
    )
    # H.264 with colours at half resolution wants even sides.
    even = raw.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2")
    encoded = even.output(
        f"file:{path.absolute()}", vcodec="libx264", pix_fmt="yuv420p", crf=20, format="mp4"
    )
    with _started(encoded, stdin=subprocess.PIPE) as process, suppress(BrokenPipeError):
        for frame in frames:
            process.stdin.write(frame)


@contextmanager
def _started(graph: Any, **pipes: int) -> Iterator[subprocess.Popen[bytes]]:
    """An ffmpeg that runs beside the block and has to end well after it."""
    command = ffmpeg.compile(graph.global_args(*GLOBAL), cmd=ffmpeg_path(), overwrite_output=True)
    # Its complaints go to a file, as a full pipe would stop it.
    with TemporaryFile() as errors:
        with subprocess.Popen(command, stderr=errors, **pipes) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise
            if process.stdin:
                with suppress(BrokenPipeError):
                    process.stdin.close()
        errors.seek(0)
        _check(process.returncode, errors.read())


def run(
    graph: Any, folder: Path | str, piped: bytes | memoryview = b"", limit: float | None = None
) -> str:
    """Runs an ffmpeg-python graph in ``folder``, with ``piped`` on its standard input.

    Returns the first thing that ffmpeg complained about though it went on, or nothing. Raises
    `DataError` with it where ffmpeg gave up, or where it took longer than ``limit`` seconds.
    """
    graph = graph.global_args(*GLOBAL)
    command = ffmpeg.compile(graph, cmd=ffmpeg_path(), overwrite_output=True)
    try:
        done = subprocess.run(command, cwd=folder, input=piped, capture_output=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise DataError(f"took longer than {limit:g} seconds") from None
    return _check(done.returncode, done.stderr)


def _check(status: int, complaints: bytes) -> str:
    said = re.sub(r"\[[^]]* @ \w+\] ", "", complaints.decode(errors="replace")).strip()
    first = said.partition("\n")[0]
    if status:
        raise DataError(first or f"ffmpeg ended with status {status}")
    return first
