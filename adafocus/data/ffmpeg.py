"""The ffmpeg program, run by argument lists and never by a shell."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple

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


AS_TEXT = {byte: 0x100000 + byte for byte in range(0xDC80, 0xDD00)}
"""Letters, of none of the world's scripts, that stand in ffmpeg-python's graphs, which take text
alone, for bytes of a file's name that are not UTF-8."""

PIECE = 1 << 20
"""Most bytes that are taken out of a pipe at once."""

Sink = tuple[Callable[[str], Any], Callable[[bytes], object]]
"""Function of an address that gives the ffmpeg-python output there, and what takes its bytes."""


@cache
def ffmpeg_path() -> str:
    """The ffmpeg on the PATH, else the one that imageio-ffmpeg carries."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        carried: str = get_ffmpeg_exe()
        return carried
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
    text = bytearray()
    pour([(partial(write_timeline, open_video(video)), text.extend)])
    return read_timeline(text, video)


def open_video(video: Path, **options: Any) -> Any:
    """A video as an input of an ffmpeg-python graph.

    It is an absolute ``file:`` address, so that no character of its name means anything to ffmpeg.
    """
    return ffmpeg.input(
        f"file:{video.absolute()}".translate(AS_TEXT),
        threads=1,
        format_whitelist=CONTAINERS,
        **options,
    )


def write_timeline(source: Any, address: str) -> Any:
    """An output that lists when each frame of an input is shown, for `read_timeline`.

    The frames themselves are not looked at, so it costs nothing beside another output.
    """
    return source.video.output(
        address, format="framecrc", vcodec="wrapped_avframe", fps_mode="passthrough"
    )


def read_timeline(listed: bytes | bytearray, video: Path) -> Timeline:
    """The timeline of ``video`` that was listed. Raises `DataError` if it is empty."""
    text = listed.decode()
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
    with TemporaryFile() as errors, _started(raw, errors, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
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
    with (
        TemporaryFile() as errors,
        _started(encoded, errors, stdin=subprocess.PIPE) as process,
        suppress(BrokenPipeError),
    ):
        assert process.stdin is not None
        for frame in frames:
            process.stdin.write(frame)


def pour(outputs: Sequence[Sink], limit: float = math.inf) -> str:
    """Runs one ffmpeg for all outputs and hands on, piece by piece, what comes out of each.

    Returns the first thing that ffmpeg complained about though it went on, or nothing. Raises
    `DataError` with it where ffmpeg gave up, or where it took longer than ``limit`` seconds.
    """
    late = DataError(f"took longer than {limit:g} seconds")
    end = time.monotonic() + limit
    with ExitStack() as stack:
        ready = stack.enter_context(DefaultSelector())
        graphs, writers = [], []
        for output, take in outputs:
            reader, writer = map(stack.enter_context, _pipe())
            ready.register(reader, EVENT_READ, (reader, take))
            writers.append(writer)
            graphs.append(output(f"pipe:{writer.fileno()}"))
        errors = stack.enter_context(TemporaryFile())
        numbers = [writer.fileno() for writer in writers]
        with _started(ffmpeg.merge_outputs(*graphs), errors, pass_fds=numbers) as process:
            for writer in writers:
                writer.close()
            while ready.get_map():
                if time.monotonic() > end:
                    raise late
                for key, _ in ready.select(min(60, end - time.monotonic())):
                    reader, take = key.data
                    if piece := reader.read(PIECE):
                        take(piece)
                    else:
                        ready.unregister(reader)
            try:
                process.wait(end - time.monotonic())
            except subprocess.TimeoutExpired:
                raise late from None
        return _first_line(errors)


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    reader, writer = os.pipe()
    return open(reader, "rb", buffering=0), open(writer, "wb", buffering=0)


@contextmanager
def _started(graph: Any, errors: BinaryIO, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """An ffmpeg that runs beside the block and has to end well after it.

    Its complaints go to the file ``errors``, as a full pipe would stop it.
    """
    with subprocess.Popen(_command(graph), stderr=errors, **pipes) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        if process.stdin:
            with suppress(BrokenPipeError):
                process.stdin.close()
    _check(process.returncode, _first_line(errors))


def _command(graph: Any) -> list[str]:
    command: list[str] = ffmpeg.compile(
        graph.global_args(*GLOBAL), cmd=ffmpeg_path(), overwrite_output=True
    )
    as_bytes = {text: byte for byte, text in AS_TEXT.items()}
    return [argument.translate(as_bytes) for argument in command]


def run_graph(graph: Any, folder: Path | str, piped: bytes | memoryview = b"") -> None:
    """Runs an ffmpeg-python graph in ``folder``, with ``piped`` on its standard input.

    Raises `DataError` with the first thing that ffmpeg complained about where it gave up.
    """
    with TemporaryFile() as errors:
        done = subprocess.run(_command(graph), cwd=folder, input=piped, stderr=errors)
        _check(done.returncode, _first_line(errors))


def _first_line(errors: BinaryIO) -> str:
    errors.seek(0)
    said = re.sub(r"\[[^]]* @ \w+\] ", "", errors.read().decode(errors="replace")).strip()
    return said.partition("\n")[0]


def _check(status: int, complaint: str) -> None:
    if status:
        raise DataError(complaint or f"ffmpeg ended with status {status}")
