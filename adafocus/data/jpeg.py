"""Where JPEG pictures that follow each other in a stream end (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Callable

from adafocus.data import DataError

MARKER, START, END, SCAN = 0xFF, 0xD8, 0xD9, 0xDA
ALONE = {0x01, START, END, *range(0xD0, 0xD8)}
"""Markers that no segment follows; after any other one stands its length."""
CODED_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""The marker that ends coded data. In these a 0xFF stands before a zero or a restart only."""


class Pictures:
    """Cuts a stream, fed piece by piece, into its pictures; holds at most one of them.

    It goes from segment to segment, as what lies in one, such as a thumbnail, may look like an end.
    """

    def __init__(self, take: Callable[[bytearray], object]) -> None:
        """``take`` is given each picture."""
        self._take, self._held = take, bytearray()
        self._place = 0
        """Where the next marker is, or coded data that are still to be looked through."""
        self._coded = False

    def feed(self, piece: bytes) -> None:
        """Raises `DataError` where the stream holds anything but pictures."""
        self._held += piece
        while end := self._end():
            self._take(self._held[:end])
            del self._held[:end]
            self._place = 0

    def close(self) -> None:
        """Raises `DataError` where the stream ended within a picture."""
        if self._held:
            raise DataError("the last picture is not whole")

    def _end(self) -> int | None:
        """Length of the first picture that is held, if it is whole."""
        held = self._held
        while True:
            if self._coded:
                found = CODED_END.search(held, self._place)
                if not found:
                    self._place = max(self._place, len(held) - 1)
                    return None
                self._place, self._coded = found.start(), False
            if len(held) < self._place + 4:
                # An end has no length after it.
                return self._place + 2 if held[self._place :] == bytes((MARKER, END)) else None
            first, kind = held[self._place : self._place + 2]
            if first != MARKER or (kind == START) != (self._place == 0):
                raise DataError("what follows a picture is none")
            if kind == END:
                return self._place + 2
            if kind == MARKER:  # fills up
                self._place += 1
            elif kind in ALONE:
                self._place += 2
            else:
                length = int.from_bytes(held[self._place + 2 : self._place + 4])
                self._place += 2 + length
                self._coded = kind == SCAN
