"""The ffmpeg program, run by argument lists and never by a shell.

This is the one file that knows ffmpeg-python, which has had no release since 2019. It only puts
arguments together here; no process is started by it.
"""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeVar

import ffmpeg
import numpy as np

from adafocus.data import DataError
from adafocus.data.film import (
    AS_MOST,
    CONTAINERS,
    FORWARD,
    NO_FILM,
    RISING,
    TICK,
    Header,
    Reading,
    ReadOtherwise,
    Said,
    Timeline,
    read_timeline,
    scaled,
)
from adafocus.data.names import readable

T = TypeVar("T")

GLOBAL = (
    *("-nostdin", "-nostats", "-hide_banner", "-loglevel", "level+info"),
    *("-filter_threads", "1", "-filter_complex_threads", "1"),
)
"""Options of every run. One thread each: the caller runs one per core."""
OLDEST = (4, 2)
"""The first version that is known to do all this."""
FPS_MODE = (5, 1)
"""The first that knows this option, which later ones know alone."""
AS_TEXT = {byte: 0x100000 + byte for byte in range(0xDC80, 0xDD00)}
"""Letters, of none of the world's scripts, that stand in ffmpeg-python's graphs, which take text
alone, for bytes of a file's name that are not UTF-8."""
AS_BYTES = {text: byte for byte, text in AS_TEXT.items()}
TOGETHER = 32
"""Files whose headers one ffmpeg reads."""
MOST_MEMORY = 8 << 30
"""Bytes that one ffmpeg may hold. At a rate, it holds a reference to every picture between stamps
that lie years apart."""
PIECE = 1 << 20
"""Most bytes that are taken out of a pipe at once."""

Sink = tuple[Callable[[str], Any], Callable[[bytes], object]]
"""Function of an address that gives the ffmpeg-python output there, and what takes its bytes."""


@cache
def ffmpeg_path() -> str:
    """The ffmpeg on the PATH, else, or where that is too old, the one that imageio-ffmpeg carries.

    Raises `DataError` that names the version where there is none that can be used.
    """
    found = shutil.which("ffmpeg")
    if found and ffmpeg_version(found) >= OLDEST:
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        carried: str = get_ffmpeg_exe()
        return carried
    except (ImportError, RuntimeError):
        there = "ffmpeg is not on the PATH"
        if found:
            there = f"{found} is of version {'.'.join(map(str, ffmpeg_version(found)))}"
        oldest = ".".join(map(str, OLDEST))
        raise DataError(
            f"{there}, and imageio-ffmpeg is not installed; install ffmpeg {oldest} or later, or"
            " imageio-ffmpeg"
        ) from None


@cache
def ffmpeg_version(path: str) -> tuple[int, int]:
    """Major and minor version of an ffmpeg; one that was built between versions is taken as new."""
    said = subprocess.run([path, "-version"], capture_output=True, text=True, errors="replace")
    found = re.match(r"ffmpeg version n?(\d+)\.(\d+)", said.stdout)
    return (int(found[1]), int(found[2])) if found else (sys.maxsize, 0)


def every_frame() -> dict[str, str]:
    """Options of an output that takes every frame when it comes."""
    name = "fps_mode" if ffmpeg_version(ffmpeg_path()) >= FPS_MODE else "vsync"
    return {name: "passthrough", "enc_time_base": TICK}


def timeline(video: Path) -> Timeline:
    """Reads a video's timeline, for which all of it is decoded.

    Raises `DataError` that names it where it holds no frames that can be decoded.
    """

    def read(reading: Reading) -> Timeline:
        text = bytearray()
        film = open_film(video, reading)
        said = pour([(partial(write_timeline, film), text.extend)], reading)
        whole = read_timeline(text, reading, said)
        said.check()
        return whole

    try:
        return as_it_is(read)
    except DataError as error:
        raise DataError(f"{video}: {error}") from None


def read_headers(videos: Sequence[Path]) -> Iterator[Header | DataError]:
    """What each video tells before a frame is decoded, which takes as long for a film of hours; or,
    as an error that names it, why it holds no film."""
    left = list(videos)
    while left:
        said = _headers_of(left[:TOGETHER])
        if not said.headers:  # alone, as before it ffmpeg may have complained of others
            said = _headers_of(left[:1])
        headers: Sequence[Header | None] = said.headers or [None]
        for header in headers:
            video = readable(str(left.pop(0)))
            if header is None or header.film is None:
                complaint = said.complaint.removeprefix(f"file:{os.path.abspath(video)}: ")
                yield DataError(f"{video}: {NO_FILM if header else complaint}")
            else:
                yield header


def _headers_of(videos: Sequence[Path]) -> Said:
    inputs = [
        argument
        for video in videos
        for argument in ("-format_whitelist", CONTAINERS, "-i", _address(video).translate(AS_BYTES))
    ]
    with TemporaryFile() as errors:
        # It ends with an error, for want of an output.
        done = subprocess.run([ffmpeg_path(), *GLOBAL, *inputs], stderr=errors)
        return Said.of(errors, done.returncode)


def as_it_is(read: Callable[[Reading], T], reading: Reading = AS_MOST) -> T:
    """What ``read`` returns for the way in which a file is to be read, which turns out while it
    is."""
    try:
        return read(reading)
    except ReadOtherwise as found:
        otherwise = found.reading
    return as_it_is(read, otherwise)


def open_film(video: Path, reading: Reading, **options: Any) -> Any:
    """The film in a file, as a stream of an ffmpeg-python graph."""
    if not reading.edits:
        options["ignore_editlist"] = 1
    source = ffmpeg.input(_address(video), threads=1, format_whitelist=CONTAINERS, **options)
    return source[reading.stream]


def _address(path: Path) -> str:
    """Of which no character means anything to ffmpeg."""
    return f"file:{path.absolute()}".translate(AS_TEXT)


def write_timeline(film: Any, address: str) -> Any:
    """An output that lists when each frame of a film is shown, for `read_timeline`.

    The frames themselves are not looked at, so it costs nothing beside another output.
    """
    return film.output(address, format="framecrc", vcodec="wrapped_avframe", **every_frame())


def write_pictures(
    film: Any, reading: Reading, height: int, quality: int, rate: float | None, address: str
) -> Any:
    """An output of JPEG pictures, one after the other, of each frame of a film or ``rate`` a
    second."""
    sampled = film
    if reading.brief:
        sampled = film.filter("trim", end_frame=1)
    elif rate:
        sampled = film.filter("setpts", FORWARD).filter("fps", rate)
    pictures = _rising(sampled.filter("scale", *scaled(height)))
    coded = {"format": "image2pipe", "vcodec": "mjpeg", "q:v": quality, "threads": 1}
    return pictures.output(address, **coded, **every_frame())


def decode(video: Path, times: Timeline) -> Iterator[np.ndarray]:
    """Every frame of a video as it is shown, uint8 (height, width, 3), one at a time."""
    film = open_film(video, times.reading).filter("scale", times.width, times.height)
    raw = _rising(film).output("pipe:", format="rawvideo", pix_fmt="rgb24", **every_frame())
    size = times.height * times.width * 3
    with TemporaryFile() as errors:
        with _running(raw, errors, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while len(frame := process.stdout.read(size)) == size:
                yield np.frombuffer(frame, np.uint8).reshape(times.height, times.width, 3)
        Said.of(errors, process.returncode).check()


def _rising(frames: Any) -> Any:
    """Frames each with a stamp above the last, as encoders leave out those that have none."""
    return frames.filter("settb", TICK).filter("setpts", RISING)


def raw_frames(height: int, width: int, rate: float, pixels: str = "rgb24") -> Any:
    """Frames that come on the standard input, as a stream of an ffmpeg-python graph."""
    size = f"{width}x{height}"
    return ffmpeg.input("pipe:", format="rawvideo", pix_fmt=pixels, s=size, framerate=rate)


def encode(frames: Iterator[bytes], path: Path, height: int, width: int, rate: float) -> None:
    """Writes frames, height · width · 3 bytes each, as an H.264 MP4 that any player shows."""
    raw = raw_frames(height, width, rate)
    # H.264 with colours at half resolution wants even sides.
    even = raw.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2")
    encoded = even.output(_address(path), vcodec="libx264", pix_fmt="yuv420p", crf=20, format="mp4")
    with TemporaryFile() as errors:
        with (
            # A terminal interrupts all of a command, also what ends with its input.
            _running(encoded, errors, stdin=subprocess.PIPE, start_new_session=True) as process,
            suppress(BrokenPipeError),
        ):
            assert process.stdin is not None
            for frame in frames:
                process.stdin.write(frame)
        Said.of(errors, process.returncode).check()


def pour(outputs: Sequence[Sink], reading: Reading, limit: float = math.inf) -> Said:
    """Runs one ffmpeg for all outputs and hands on, piece by piece, what comes out of each.

    Returns what it said, also where it gave up. Raises `ReadOtherwise` where a file is not to be
    read by ``reading``, `DataError` where it holds no film, and where ffmpeg took longer than
    ``limit`` seconds.
    """
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
        with _running(ffmpeg.merge_outputs(*graphs), errors, pass_fds=numbers) as process:
            for writer in writers:
                writer.close()
            _hand_on(process, ready, limit)
        said = Said.of(errors, process.returncode)
        for header in said.headers:
            header.check(reading)
        return said


def _hand_on(process: subprocess.Popen[bytes], ready: DefaultSelector, limit: float) -> None:
    """Until all pipes have ended, and the process too."""
    late = DataError(f"took longer than {limit:g} seconds")
    end = time.monotonic() + limit
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


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    reader, writer = os.pipe()
    return open(reader, "rb", buffering=0), open(writer, "wb", buffering=0)


@contextmanager
def _running(graph: Any, errors: BinaryIO, **pipes: Any) -> Iterator[subprocess.Popen[bytes]]:
    """An ffmpeg that runs beside the block and ends before what follows it.

    What it says goes to the file ``errors``, as a full pipe would stop it.
    """
    with subprocess.Popen(_command(graph), stderr=errors, **pipes) as process:
        if sys.platform == "linux":  # no other system limits a process that runs
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        if process.stdin:
            with suppress(BrokenPipeError):
                process.stdin.close()


def run_graph(graph: Any, folder: Path | str, piped: bytes | memoryview = b"") -> None:
    """Runs an ffmpeg-python graph in ``folder``, with ``piped`` on its standard input.

    Raises `DataError` with the first thing that ffmpeg complained about where it gave up.
    """
    with TemporaryFile() as errors:
        done = subprocess.run(_command(graph), cwd=folder, input=piped, stderr=errors)
        Said.of(errors, done.returncode).check()


def _command(graph: Any) -> list[str]:
    command: list[str] = ffmpeg.compile(
        graph.global_args(*GLOBAL), cmd=ffmpeg_path(), overwrite_output=True
    )
    return [argument.translate(AS_BYTES) for argument in command]
