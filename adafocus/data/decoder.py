"""Some frames of a video file, by PyAV: it is decoded once, and only these are kept.

They are scaled and coded as JPEG as extraction does it, so that what is predicted from them is what
an evaluation finds. What is unusual in a file is left to extraction by ffmpeg itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from simplejpeg import decode_jpeg
from torch import Tensor

from adafocus.data.film import CONTAINERS, Reading, Timeline, scaled, shown_width
from adafocus.recipe import Frames

Pictures = dict[int, np.ndarray]
"""RGB uint8 (height, width, 3) by the number of the frame."""
TURNS = {
    (1, 0, 0, 1): (),
    (0, 1, -1, 0): (("transpose", "clock"),),
    (-1, 0, 0, -1): (("hflip", ""), ("vflip", "")),
    (0, -1, 1, 0): (("transpose", "cclock"),),
}
"""Filters that turn a frame as its display matrix says."""
JPEG_PIXELS = "pix_fmts=yuvj420p|yuvj422p|yuvj444p"


class Unusual(Exception):
    """A file that is left to ffmpeg."""


def decode_some(
    settings: Frames, video: Path, choose: Callable[[int], Collection[int]]
) -> tuple[Pictures, Timeline]:
    """Some frames as they would be read after extraction, and the timeline of the whole film.

    Args:
        choose: tells which frames, when told how many there are.

    Raises:
        Unusual: where ffmpeg is to be asked, which also tells what is wrong with the file.
    """
    if settings.rate or settings.hardware or video.is_dir():
        raise Unusual
    try:
        count = _count_packets(video)
        pictures, times = _decode(settings, video, set(choose(count)))
        if len(times.times) != count:  # some packets hold no frame, or more than one
            pictures, times = _decode(settings, video, set(choose(len(times.times))))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise Unusual from error
    return pictures, times


def stacked(pictures: Pictures, indices: Sequence[int]) -> Tensor:
    """Frames as `store.read_frames` has them, uint8 (T, 3, H, W)."""
    return torch.from_numpy(np.stack([pictures[index] for index in indices])).permute(0, 3, 1, 2)


def _open(video: Path) -> Any:
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    return av.open(f"file:{video.absolute()}", container_options=options)


def _film(container: Any) -> tuple[Any, Reading]:
    """The stream that is the film, as `Header.film` has it, and how ffmpeg reads it."""
    pictures = av.stream.Disposition.attached_pic
    films = [stream for stream in container.streams.video if not stream.disposition & pictures]
    default = [one for one in films if one.disposition & av.stream.Disposition.default]
    if not films:
        raise Unusual
    film = (default or films)[0]
    return film, Reading() if film is films[0] else Reading(stream=str(film.index))


def _count_packets(video: Path) -> int:
    """How many frames a film has, if each of its packets holds one; nothing is decoded."""
    with _open(video) as container:
        film, _ = _film(container)
        return sum(packet.size > 0 and not packet.is_discard for packet in container.demux(film))


def _decode(settings: Frames, video: Path, wanted: set[int]) -> tuple[Pictures, Timeline]:
    late = time.monotonic() + settings.time_limit
    pictures: Pictures = {}
    stamps: list[tuple[int, int]] = []
    with ExitStack() as stack:
        container = stack.enter_context(_open(video))
        film, reading = _film(container)
        film.thread_type = "AUTO"
        develop = None
        for number, frame in enumerate(_frames(container, film)):
            if frame.pts is None or time.monotonic() > late:
                raise Unusual
            if stamps and frame.pts <= stamps[-1][0]:
                raise Unusual  # whose stamps ffmpeg mends
            stamps.append((frame.pts, frame.duration))
            if develop is None:
                develop = Developer(settings, frame, film)
            if number in wanted:
                pictures[number] = develop(frame)
    if develop is None:
        raise Unusual
    return pictures, develop.timeline(np.array(stamps), reading)


def _frames(container: Any, film: Any) -> Iterator[Any]:
    for packet in container.demux(film):
        yield from packet.decode()


class Developer:
    """Makes the pictures of a film's frames, as `ffmpeg.write_pictures` does.

    Args:
        settings: how high and how good.
        first: frame of the film, whose size and shape the others have too.
        film: the stream.
    """

    def __init__(self, settings: Frames, first: Any, film: Any) -> None:
        self.shape = first.width, first.height, first.format.name, _matrix(first)
        self.tick = film.time_base
        pixel = film.sample_aspect_ratio or Fraction(1)
        turns = _turns(self.shape[-1])
        turned = ("transpose", "clock") in turns or ("transpose", "cclock") in turns
        width, height = (first.height, first.width) if turned else (first.width, first.height)
        self.height = height
        self.width = shown_width(width, float(1 / pixel if turned else pixel))
        self.graph = graph = av.filter.Graph()
        source = {
            "video_size": f"{first.width}x{first.height}",
            "pix_fmt": first.format.name,
            "time_base": f"{self.tick.numerator}/{self.tick.denominator}",
            "pixel_aspect": f"{pixel.numerator}/{pixel.denominator}",
            "colorspace": str(int(first.colorspace)),
            "range": str(int(first.color_range)),
        }
        across, down = scaled(settings.height)
        filters = [
            graph.add("buffer", ":".join(f"{key}={value}" for key, value in source.items())),
            *(graph.add(name, given or None) for name, given in turns),
            graph.add("scale", w=across, h=down),
            graph.add("format", JPEG_PIXELS),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*filters).configure()
        self.quality = str(settings.quality)

    def __call__(self, frame: Any) -> np.ndarray:
        """Raises `Unusual` where the frame has another shape than the first."""
        if self.shape != (frame.width, frame.height, frame.format.name, _matrix(frame)):
            raise Unusual
        self.graph.vpush(frame)
        small = self.graph.vpull()
        encoder: Any = av.CodecContext.create("mjpeg", "w")
        encoder.width, encoder.height = small.width, small.height
        encoder.pix_fmt, encoder.time_base = small.format.name, self.tick
        encoder.options = {"qmin": self.quality, "qmax": self.quality}
        encoder.thread_count = 1
        packets = [*encoder.encode(small), *encoder.encode(None)]
        picture: np.ndarray = decode_jpeg(b"".join(map(bytes, packets)))
        return picture

    def timeline(self, stamps: np.ndarray, reading: Reading) -> Timeline:
        """As `film.read_timeline` has it, of stamps and durations (frames, 2) in ticks."""
        shown = stamps * self.tick.numerator / self.tick.denominator
        times = np.maximum.accumulate(shown[:, 0]) - shown[0, 0]
        last = shown[-1, 1] if shown[-1, 1] > 0 else times[-1] / max(1, len(times) - 1)
        return Timeline(times, float(times[-1] + last), self.height, self.width, reading)


def _matrix(frame: Any) -> bytes | None:
    found = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else bytes(found)


def _turns(matrix: bytes | None) -> tuple[tuple[str, str], ...]:
    """Raises `Unusual` where a frame is not turned by quarters alone."""
    if matrix is None:
        return ()
    numbers = np.frombuffer(matrix, np.int32) / 65536
    turn = tuple(numbers[[0, 1, 3, 4]])
    if turn not in TURNS:
        raise Unusual
    return TURNS[turn]
