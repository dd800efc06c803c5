"""What of a video file is the film: which stream, in which shape, and when its frames are shown.

A file may hold more than one stream of pictures, pixels that are not square, and stamps that stand
still or run back. What is done then is decided here alone, from what ffmpeg says of the file.
"""

from __future__ import annotations

import re
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from adafocus.data import DataError

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,h264,hevc,gif,"
    "dv,mxf,ivf,nut,wtv,rm,obu,vc1,yuv4mpegpipe,mjpeg,smjpeg,apng,webp_anim"
)
"""What a video may be, by ffmpeg's names. Playlists are not among them: they would have other files
read. Nor are single pictures."""
INPUT = re.compile(r"Input #\d+, (\S+), from ")
DURATION = re.compile(r"  Duration: (\d+):(\d\d):(\d\d\.\d+)")
STREAM = re.compile(r" +Stream #\d+:(\d+)(?:\[\w+\])?(?:\([^)]*\))?: Video: (.*)")
RATE = re.compile(r", ([\d.]+)(k?) fps")
MOST_UNEVEN = 8
"""A pixel that is said to be more than so many times as wide as high, or as high as wide, is taken
to be square: it is a mistake in the file."""


class Reading(NamedTuple):
    """How a video file is read."""

    stream: str = "V:0"
    """The film, as ffmpeg names streams: in nearly all files the first that is no picture beside
    it."""
    edits: bool = True
    """Whether what the file says is cut away is left out (MP4's edit list); not where that is
    all."""
    brief: bool = False
    """Whether it is shorter than the time from one frame that is taken to the next: of such a film
    the first frame is taken."""


AS_MOST = Reading()


class ReadOtherwise(DataError):
    """A file that has to be read in another way."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(f"has to be read otherwise, as {reading}")
        self.reading = reading


NOT_TAKEN = "is none of the forms of videos that are read{}; convert it to MP4, say"
NO_FILM = "holds no film, only sound or a picture"


class Header(NamedTuple):
    """What a file tells before a frame is decoded."""

    form: str
    """ffmpeg's names of its form, joined by commas."""
    streams: tuple[tuple[int, str], ...]
    """Streams of pictures: their number and what ffmpeg says of them."""
    seconds: float | None
    """How long it lasts; None where it does not tell."""

    @property
    def film(self) -> int | None:
        """The stream that is the film: of those that are no picture beside it the default one, else
        the first; None where there is none."""
        films = self._films()
        default = [number for number, told in films if "(default)" in told]
        return next(iter(default or (number for number, _ in films)), None)

    @property
    def rate(self) -> float | None:
        """Frames per second of the film; None where it does not tell."""
        found = next(
            (RATE.search(told) for number, told in self.streams if number == self.film), None
        )
        return float(found[1]) * (1000 if found[2] else 1) if found else None

    def check(self, reading: Reading) -> None:
        """Raises `ReadOtherwise` where another stream is the film than was read, `DataError` where
        there is none."""
        if self.film is None:
            raise DataError(NO_FILM)
        first, _ = self._films()[0]
        if reading == AS_MOST and self.film != first:
            raise ReadOtherwise(Reading(stream=str(self.film)))

    def _films(self) -> list[tuple[int, str]]:
        return [stream for stream in self.streams if "(attached pic)" not in stream[1]]


LINE = re.compile(r"^(?:\[(\w*)[^]]* @ \w+\] )*\[(\w+)\] (.*)$", re.MULTILINE)
"""What ffmpeg says: which part of it, how grave it is, and a text."""


class Said(NamedTuple):
    """What ffmpeg said in a run."""

    status: int
    """With which it ended; negative where a signal ended it."""
    complaint: str
    """The first error, in one line; empty where there was none."""
    headers: list[Header]
    """Of the files that it could open, in their order."""

    @classmethod
    def of(cls, errors: BinaryIO, status: int) -> Self:
        """What was written to a file on disk."""
        errors.seek(0)
        text = errors.read().decode(errors="replace")
        lines = [found.groups() for found in LINE.finditer(text)]
        complaints = (
            NOT_TAKEN.format("" if by == "in" else f" ({by})")
            if "not on whitelist" in line
            else line.strip()
            for by, level, line in lines
            if level in ("error", "fatal", "panic")
        )
        complaint = next(complaints, "")
        if status and not complaint:
            # What comes before ffmpeg itself, such as a library that is missing, has no level.
            plain = (line.strip() for line in text.splitlines() if not LINE.match(line))
            complaint = next(filter(None, plain), "")
        told = [line for _, level, line in lines if level == "info"]
        return cls(status, complaint, _headers(told))

    def check(self) -> None:
        """Raises `DataError` where ffmpeg gave up."""
        if self.status:
            raise DataError(self.complaint or f"ffmpeg ended with status {self.status}")


def _headers(lines: list[str]) -> list[Header]:
    headers: list[Header] = []
    for line in lines:
        if line.startswith("Output #"):
            break
        if found := INPUT.match(line):
            headers.append(Header(found[1], (), None))
        elif headers and (found := DURATION.match(line)):
            hours, minutes, seconds = map(float, found.groups())
            headers[-1] = headers[-1]._replace(seconds=3600 * hours + 60 * minutes + seconds)
        elif headers and (found := STREAM.match(line)):
            stream = int(found[1]), found[2]
            headers[-1] = headers[-1]._replace(streams=(*headers[-1].streams, stream))
    return headers


class Timeline(NamedTuple):
    """When the frames of a film are shown, and how large they are."""

    times: np.ndarray
    """float64 (frames,): seconds from the first frame; they never run back."""
    end: float
    """Seconds until the last frame has been shown."""
    height: int
    width: int
    """In square pixels, as it is shown."""
    reading: Reading = AS_MOST
    """How it was read."""


def read_timeline(listed: bytes | bytearray, reading: Reading, said: Said) -> Timeline:
    """The timeline in ffmpeg's list of frames (framecrc).

    Raises `DataError` if it is empty, `ReadOtherwise` if all may be cut away.
    """
    text = listed.decode()
    tick = re.search(r"^#tb 0: (\d+)/(\d+)", text, re.MULTILINE)
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)", text, re.MULTILINE)
    shape = re.search(r"^#sar 0: (\d+)/(\d+)", text, re.MULTILINE)
    # Each line is: stream, decoding time, time shown, duration, bytes, checksum.
    rows = [line.split(",") for line in text.splitlines() if not line.startswith("#")]
    if not (tick and size and rows):
        edited = any("mov" in header.form for header in said.headers)
        if reading.edits and edited and said.status >= 0:
            raise ReadOtherwise(reading._replace(edits=False))
        said.check()
        raise DataError("holds no frames")
    shown = np.array([[int(row[2]), int(row[3])] for row in rows]) * int(tick[1]) / int(tick[2])
    # A frame whose stamp lies before that of the last one comes at once after it.
    times = np.maximum.accumulate(shown[:, 0]) - shown[0, 0]
    # Where nothing tells how long the last frame lasts (ffmpeg 4), it is as long as the others.
    last = shown[-1, 1] if shown[-1, 1] > 0 else times[-1] / max(1, len(times) - 1)
    width, height = int(size[1]), int(size[2])
    pixel = int(shape[1]) / int(shape[2]) if shape and int(shape[2]) else 1
    return Timeline(times, float(times[-1] + last), height, shown_width(width, pixel), reading)


# --- the shape of pixels ------------------------------------------------------------------------


def shown_width(width: int, pixel: float) -> int:
    """Width in square pixels of a frame whose pixels are ``pixel`` times as wide as they are high.

    Its height stays as it is.
    """
    return max(1, round(width * pixel)) if 1 / MOST_UNEVEN <= pixel <= MOST_UNEVEN else width


def scaled(height: int) -> tuple[str, str]:
    """Width and height of a frame that is to be ``height`` high at most, and as it is shown, as
    expressions for ffmpeg's filter ``scale``. Where pixels are square, the width is -1, by which
    ffmpeg keeps the shape."""
    limit = f"min({height},ih)"
    uneven = f"between(sar,1/{MOST_UNEVEN},{MOST_UNEVEN})*not(eq(sar,1))"
    return f"if({uneven},max(1,round({limit}*iw*sar/ih)),-1)", limit


# --- stamps -------------------------------------------------------------------------------------

FORWARD = "if(isnan(PREV_OUTPTS),PTS,max(PTS,PREV_OUTPTS))"
"""Stamps that never run back, as in a `Timeline`, for ffmpeg's filter ``setpts``."""
TICK = "1/1000000"
RISING = "if(isnan(PREV_OUTPTS),if(isnan(PTS),0,PTS),max(PTS,PREV_OUTPTS+1))"
"""Likewise, each at least a tick above the last."""
