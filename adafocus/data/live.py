"""Frames of a stream as they come, by PyAV: of a camera, a server or a file.

This is the one place that speaks to other machines to read a film. What is there may be a film in
one of the forms that files have too, and no playlist, which would name other places to read.
"""

from __future__ import annotations

import errno
import re
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import av
import numpy as np
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.decoder import Developer, Unusual
from adafocus.data.film import CONTAINERS
from adafocus.data.names import one_line
from adafocus.machine.signals import Stop
from adafocus.recipe import Frames

PROTOCOLS = {
    "http": "http,tcp",
    "https": "https,tls,tcp",
    "rtsp": "rtsp,rtp,udp,tcp",
}
"""What each kind of address may make ffmpeg speak."""
FORMS = f"{CONTAINERS},mpjpeg,rtsp"
"""What there may be at an address: RTSP is a form too by ffmpeg's reckoning."""
SILENCE = 10.0
"""Seconds after which a source that says nothing is given up."""
TICK = 1e-3
"""Seconds by which stamps are rounded."""
SLACK = 1.0
"""Seconds by which a film may end sooner or later than it tells."""
WAITS = (1, 2, 4, 8, 16, 30)
"""Seconds between one try to connect and the next; the last again and again."""


class Moment(NamedTuple):
    """A frame of a stream."""

    connection: int
    """The how manieth it came by, from 1."""
    time: float
    """In seconds since the first frame of this connection."""
    picture: np.ndarray
    """RGB uint8 (height, width, 3), as frames of the data set are."""
    height: int
    """Of the stream's own frames in pixels, as they are shown."""
    width: int


def moments(source: str, settings: Frames, rate: float, tries: int, stop: Stop) -> Iterator[Moment]:
    """``rate`` frames a second of a source. A file ends, and so does what tells how long it lasts,
    itself or by the server. Anything else is connected to again, and so is what breaks; a line
    tells each try.

    Args:
        source: an address, a device ``/dev/video*`` or a file.
        settings: how high and how good frames are in the data set.
        tries: to connect in a row, after which it is given up. One that brings the frames of the
            last again counts as one that brings none, and so does one of a film that tells how
            long it lasts: it begins at its first frame again.
        stop: ends it, after `SILENCE` at the latest.

    Raises:
        ValueError: where the source is none.
        DataError: where it was given up.
    """
    check_source(source)
    connection = failed = 0
    before = b""
    while not stop.number:
        came, packets, seen = False, None, blake2b()
        try:
            with _open(source) as container:
                packets = _Packets(container, source)
                for frame in _frames(packets, settings, rate, stop):
                    connection += not came
                    came = True
                    seen.update(repr(frame[0]).encode() + frame[1].tobytes())
                    yield Moment(connection, *frame)
            if stop.number or (came and packets.whole()):
                return
            reason = "it broke off" if packets.lasts() else "it ended"
        except (av.FFmpegError, OSError, ValueError, Unusual) as error:
            reason = _reason(error)
        if not is_live(source):
            raise DataError(f"{source}: cannot be read ({reason})")
        if came and packets and not packets.lasts() and seen.digest() != before:
            failed, before = 0, seen.digest()
        failed += 1
        if failed == tries:
            raise DataError(f"{told(source)}: given up after {tries} tries ({reason})")
        wait = WAITS[min(failed, len(WAITS)) - 1]
        line = f"{told(source)}: {reason}; try {failed + 1} of {tries} in {wait} s"
        tqdm.write(one_line(line), file=sys.stderr)
        _sleep(wait, stop)


def told(source: str) -> str:
    """A source as it is told to others: without its password, which may be in the query, too."""
    if "://" not in source:
        return source
    parts = urlsplit(source)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def check_source(source: str) -> None:
    """Raises `ValueError` where it is no source."""
    scheme = re.match(r"([\w+.-]+)://", source)
    if scheme and scheme[1] not in PROTOCOLS:
        kinds = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise ValueError(f"{told(source)}: an address to watch begins with one of {kinds}")
    if not scheme and not Path(source).exists():
        raise ValueError(f"{source}: there is no such file, and it is no address as rtsp://HOST/")


def _is_device(source: str) -> bool:
    return source.startswith("/dev/video")


def is_live(source: str) -> bool:
    """Whether it is no file."""
    return "://" in source or _is_device(source)


def _open(source: str) -> Any:
    if _is_device(source):
        return av.open(source, format="v4l2", timeout=SILENCE)
    scheme, mark, _ = source.partition("://")
    if not mark:
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
        return av.open(f"file:{Path(source).absolute()}", container_options=options)
    options = {"format_whitelist": FORMS, "protocol_whitelist": PROTOCOLS[scheme]}
    if scheme != "rtsp":
        # Without it FFmpeg 9 takes the proper end of what comes in chunks for an error, and what
        # the decoder still holds is lost.
        options["multiple_requests"] = "1"
        return av.open(source, container_options=options, timeout=SILENCE)
    # Of UDP's packets some are lost, so it is for servers that have nothing else.
    by_tcp, by_udp = (options | {"rtsp_transport": name} for name in ("tcp", "udp"))
    try:
        return av.open(source, container_options=by_tcp, timeout=SILENCE)
    except av.FFmpegError as error:
        # A server says the one or the other of a transport that it does not have.
        if error.errno != errno.EPROTONOSUPPORT and not isinstance(error, av.HTTPBadRequestError):
            raise
        return av.open(source, container_options=by_udp, timeout=SILENCE)


class _Packets:
    """Those of one connection, and what tells whether all have come."""

    def __init__(self, container: Any, source: str) -> None:
        if not container.streams.video:
            raise Unusual("holds no film")
        self.container = container
        self.film = container.streams.video[0]
        self.http = source.startswith(("http:", "https:"))
        self.sized = not is_live(source) or (container.size or 0) > 0
        """Whether it is known how many bytes there are."""
        length = container.duration
        begin = container.start_time or 0
        self.end: float | None = None if length is None else (begin + length) / av.time_base
        """Of the film in seconds, where it tells how long it lasts."""
        self.latest = 0.0
        """End of what came of any stream, in seconds."""

    def __iter__(self) -> Iterator[Any]:
        """Packets of the film, and an empty one at the end, at which the decoder gives the rest."""
        try:
            for packet in self.container.demux():
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self.latest = max(self.latest, end)
                if packet.stream is self.film:
                    yield packet
        except av.FFmpegError as error:
            # By FFmpeg any connection that is closed has failed where the server has not told
            # how many bytes come. In HTTP/1.0 this is the end.
            if not self.http or self.sized or error.errno != errno.EIO:
                raise
            last = av.Packet()
            last.stream, last.time_base = self.film, self.film.time_base
            yield last

    def lasts(self) -> bool:
        """Whether the film tells how long it lasts. Of an MP4 that comes in parts FFmpeg tells how
        long the first ones last, and a camera goes on."""
        return self.end is not None and self.latest < self.end + SLACK

    def whole(self) -> bool:
        """Whether the film is over, now that nothing more comes."""
        if self.sized or self.end is None or not self.http:
            return self.sized or self.end is not None
        return abs(self.latest - self.end) < SLACK


def _frames(
    packets: _Packets, settings: Frames, rate: float, stop: Stop
) -> Iterator[tuple[float, np.ndarray, int, int]]:
    """Time, picture, height and width of ``rate`` frames a second, until ``stop``."""
    film = packets.film
    film.thread_type = "AUTO"
    develop, begin, latest, due = None, None, 0.0, 0.0
    interval = 1 / float(film.average_rate or 25)
    decoded = (frame for packet in packets for frame in packet.decode())
    for number, frame in enumerate(decoded):
        if stop.number:  # also between the frames that are given, which may be minutes apart
            return
        stamp = number * interval if frame.time is None else frame.time
        begin = stamp if begin is None else begin
        if stamp - begin < latest:
            # By RTSP the first frames come before the server's clock is known.
            begin = stamp - latest - interval
        latest = now = stamp - begin
        if now < due - TICK:
            continue
        # Where time has jumped it is counted from there.
        due = (due if now - due < 1 / rate else now) + 1 / rate
        if develop is None or not develop.fits(frame):
            develop = Developer(settings, frame, film)
        yield now, develop(frame), develop.height, develop.width


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ExitError):
        return f"silent for {SILENCE:g} s"
    return getattr(error, "strerror", None) or str(error) or "a picture that cannot be turned"


def _sleep(seconds: float, stop: Stop) -> None:
    end = time.monotonic() + seconds
    while not stop.number and time.monotonic() < end:
        time.sleep(0.1)
