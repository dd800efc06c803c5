"""Small films assembled from packets, whose stamps may be any."""

import struct
from typing import NamedTuple

import numpy as np
from simplejpeg import encode_jpeg

SIDE = 16


def packet(shade):
    """A frame of one grey, as it is stored."""
    return encode_jpeg(np.full((SIDE, SIDE, 3), shade, np.uint8), quality=90)


PACKETS = [packet(shade) for shade in range(0, 256, 32)]


def ivf(stamps, tick=(1, 10)):
    """A film whose stamps, of 64 bits, are in ticks of so many seconds."""
    rest = (SIDE, SIDE, tick[1], tick[0], len(stamps), 0)
    head = struct.pack("<4s2H4s2H4I", b"DKIF", 0, 32, b"MJPG", *rest)
    return head + b"".join(
        struct.pack("<IQ", len(one), stamp % 2**64) + one
        for stamp, one in zip(stamps, PACKETS * len(stamps), strict=False)
    )


class Track(NamedTuple):
    stamps: tuple[int, ...]
    """In milliseconds, each up to 32 seconds before or after that of its cluster."""
    default: bool = True
    codec: str = "V_MJPEG"
    shown: tuple[int, int] = (SIDE, SIDE)


def matroska(tracks, jump=0, tick=1_000_000, seconds=None):
    """Several streams in one file; a block of each in turn, and after 3 blocks a cluster that is
    ``jump`` later."""
    entries = b"".join(
        element(
            0xAE,
            number(0xD7, place),
            number(0x73C5, place),
            number(0x83, 1),
            number(0x88, track.default),
            element(0x86, track.codec.encode()),
            element(
                0xE0,
                number(0xB0, SIDE),
                number(0xBA, SIDE),
                number(0x54B0, track.shown[0]),
                number(0x54BA, track.shown[1]),
            ),
        )
        for place, track in enumerate(tracks, 1)
    )
    length = b"" if seconds is None else element(0x4489, struct.pack(">d", seconds * 1e9 / tick))
    blocks = [
        (track.stamps[place], element(0xA3, *block(number, track.stamps[place], place)))
        for place in range(max(len(track.stamps) for track in tracks))
        for number, track in enumerate(tracks, 1)
        if place < len(track.stamps)
    ]
    clusters = [
        element(
            0x1F43B675,
            number(0xE7, jump * first % 2**64),
            *(one for _, one in blocks[first : first + 3]),
        )
        for first in range(0, len(blocks), 3)
    ]
    return element(
        0x1A45DFA3, element(0x4282, b"matroska"), number(0x4287, 4), number(0x4285, 2)
    ) + element(
        0x18538067,
        element(0x1549A966, number(0x2AD7B1, tick), length),
        element(0x1654AE6B, entries),
        *clusters,
    )


def block(track, stamp, place):
    return bytes([0x80 | track]), struct.pack(">hB", stamp, 0x80), PACKETS[place % len(PACKETS)]


def element(name, *content):
    """Of EBML: its name, its length in 8 bytes, and what it holds."""
    body = b"".join(content)
    length = (len(body) | 1 << 56).to_bytes(8, "big")
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + length + body


def number(name, value):
    return element(name, int(value).to_bytes(8, "big"))
