"""Some frames of a video file, by PyAV: what they need is decoded once, and only they are kept.

They are scaled and coded as JPEG as extraction does it, so that what is predicted from them is what
an evaluation finds. What is unusual in a file is left to extraction by ffmpeg itself. Damage is not
seen where nothing is decoded: frames that cannot be are counted then, and those behind them have
higher numbers than after extraction, which leaves them out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.video.frame import PictureType
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
ONE_A_PACKET = ("h264", "hevc", "vp9", "av1")
"""Codecs of which each packet holds one frame that is shown, fields of interlaced films aside."""


class Unusual(Exception):
    """A file that is left to ffmpeg."""


def decode_some(
    settings: Frames,
    video: Path,
    choose: Callable[[int], Collection[int]],
    stopped: Event | None = None,
) -> tuple[Pictures, Timeline]:
    """Some frames as they would be read after extraction, and the timeline of the whole film.

    Args:
        choose: tells which frames, when told how many there are.
        stopped: set, perhaps by another thread, when nobody waits for them any more.

    Raises:
        CancelledError: where it was stopped.
        Unusual: where ffmpeg is to be asked, which also tells what is wrong with the file.
    """
    if settings.rate or settings.hardware or video.is_dir():
        raise Unusual
    try:
        packets = _list_packets(video)
        count = int(packets.shown.sum())
        wanted = set(choose(count))
        found = None
        if packets.tell:
            found = _decode_needed(settings, video, packets, wanted, stopped)
        pictures, times = found or _decode_all(settings, video, wanted, stopped)
        if len(times.times) != count:  # some packets hold no frame, or more than one
            pictures, times = _decode_all(settings, video, set(choose(len(times.times))), stopped)
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


class Packets(NamedTuple):
    """Those of a film, in the order in which they are decoded."""

    stamps: np.ndarray
    """int64 (P,), when each is shown, in the film's ticks"""
    durations: np.ndarray
    """int64 (P,)"""
    keys: np.ndarray
    """bool (P,), whether decoding can begin there"""
    shown: np.ndarray
    """bool (P,), which are not cut away by MP4's edit list"""
    tell: bool
    """Whether they alone tell how many frames there are, and when each is shown"""

    def needed(self, wanted: np.ndarray) -> np.ndarray:
        """bool (P,), the packets without which some frames cannot be decoded.

        Args:
            wanted: bool (P,), the packets of these frames.
        """
        begins = np.flatnonzero(self.keys)
        needed = np.zeros(len(self.stamps), bool)
        for packet in np.flatnonzero(wanted):
            run = int(np.searchsorted(begins, packet, side="right")) - 1
            # A frame that is shown before the key that it follows may need the run before, too.
            if run > 0 and self.stamps[packet] < self.stamps[begins[run]]:
                run -= 1
            needed[begins[run] if run >= 0 else 0 : packet + 1] = True
        return needed


def _list_packets(video: Path) -> Packets:
    """Nothing is decoded, and no packet is kept: all of a film's would fill the memory."""
    with _open(video) as container:
        film, _ = _film(container)
        found = [
            (packet.pts, packet.duration or 0, packet.is_keyframe, not packet.is_discard)
            for packet in container.demux(film)
            if packet.size
        ]
        codec = film.codec_context.codec.canonical_name
        # AVI says when a packet is decoded, not when it is shown.
        stamped = container.format.name != "avi" and all(pts is not None for pts, *_ in found)
    facts = np.array([(pts or 0, *others) for pts, *others in found], np.int64).reshape(-1, 4)
    stamps, durations, keys, shown = facts.T
    listed = Packets(stamps, durations, keys.astype(bool), shown.astype(bool), tell=False)
    return listed._replace(tell=stamped and codec in ONE_A_PACKET and _complete(listed))


def _complete(packets: Packets) -> bool:
    """Whether no packet is missing: decoding can begin at the first, and no two frames that follow
    each other are much further apart than others. Frames that need what is missing are no
    frames."""
    stamps = packets.stamps
    if not packets.shown.any() or not packets.keys[0] or stamps[0] > stamps.min():
        return False
    gaps = np.diff(np.sort(stamps))
    return not len(gaps) or 0 < gaps.min() <= gaps.max() < 1.5 * np.median(gaps)


def _decode_needed(
    settings: Frames,
    video: Path,
    packets: Packets,
    wanted: set[int],
    stopped: Event | None = None,
) -> tuple[Pictures, Timeline] | None:
    """What of a film some frames need; None where it turns out that all must be decoded."""
    order = np.flatnonzero(packets.shown)
    order = order[np.argsort(packets.stamps[order])]
    stamps = np.stack([packets.stamps, packets.durations], 1)[order]
    numbers = {int(stamps[number, 0]): number for number in wanted}
    chosen = np.isin(packets.stamps, list(numbers)) & packets.shown
    needed = packets.needed(chosen)
    jumps = needed & ~np.roll(needed, 1) & packets.shown
    begins = set(packets.stamps[jumps].tolist())
    pictures: Pictures = {}
    with ExitStack() as stack:
        container = stack.enter_context(_open(video))
        film, reading = _film(container)
        develop, last = None, int(stamps[0, 0]) - 1
        limit = partial(_check, time.monotonic() + settings.time_limit, stopped)
        for frame in _needed_frames(container, film, needed, chosen, limit):
            # Of interlaced films each field may have a packet of its own.
            if frame.pts is None or frame.interlaced_frame or frame.is_corrupt:
                return None
            if frame.pts <= last:
                return None
            last = frame.pts
            if frame.pts in begins:
                begins.remove(frame.pts)
                # A key that is no whole picture takes some frames to be as sharp as the film.
                if frame.pict_type != PictureType.I:
                    return None
            if frame.pts in numbers:
                develop = develop or Developer(settings, frame, film)
                pictures[numbers[frame.pts]] = develop(frame)
    if develop is None or begins or pictures.keys() != wanted:
        return None
    return pictures, develop.timeline(stamps, reading)


def _needed_frames(
    container: Any, film: Any, needed: np.ndarray, chosen: np.ndarray, limit: Callable[[], None]
) -> Iterator[Any]:
    """Frames of the packets that are needed; of others of theirs some."""
    film.thread_type = "AUTO"
    decoder = film.codec_context
    fed = False
    packets = (packet for packet in container.demux(film) if packet.size)
    for packet, need, wanted in zip(packets, needed, chosen, strict=True):
        limit()
        if need:
            if decoder.name == "h264":  # whose packets tell whether another frame needs theirs
                decoder.skip_frame = "DEFAULT" if wanted else "NONREF"
            yield from decoder.decode(packet)
        elif fed:
            yield from decoder.decode(None)
            decoder.flush_buffers()
        fed = need
    yield from decoder.decode(None)


def _check(late: float, stopped: Event | None) -> None:
    """Raises where a decoding is to go on no longer."""
    if stopped and stopped.is_set():
        raise CancelledError
    if time.monotonic() > late:
        raise Unusual


def _decode_all(
    settings: Frames, video: Path, wanted: set[int], stopped: Event | None = None
) -> tuple[Pictures, Timeline]:
    late = time.monotonic() + settings.time_limit
    pictures: Pictures = {}
    stamps: list[tuple[int, int]] = []
    with ExitStack() as stack:
        container = stack.enter_context(_open(video))
        film, reading = _film(container)
        film.thread_type = "AUTO"
        develop = None
        frames = (frame for packet in container.demux(film) for frame in packet.decode())
        for number, frame in enumerate(frames):
            _check(late, stopped)
            if frame.pts is None:
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

    def fits(self, frame: Any) -> bool:
        """Whether a frame has the first one's size and shape."""
        return self.shape == (frame.width, frame.height, frame.format.name, _matrix(frame))

    def __call__(self, frame: Any) -> np.ndarray:
        """Raises `Unusual` where the frame does not fit."""
        if not self.fits(frame):
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
