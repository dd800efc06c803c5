"""Names of videos: as files bear them, as text, and as annotations tell them."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, TextIO
from unicodedata import category, normalize

if TYPE_CHECKING:
    from _csv import Writer

LONGEST = 2000
"""Letters of a line that is told."""
UNSEEN = {"Cc", "Zl", "Zp"}
"""Unicode's categories of characters that break a line or steer a terminal."""


def readable(name: str) -> str:
    """A file's name in UTF-8: bytes of it that are not stand there as ``\\xe9``."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a letter, as JSON can hold it
        return name.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """What is told to a person, in UTF-8 and on one line, whatever the names in it hold.

    Characters that break a line or steer a terminal stand there as ``\\n`` or ``\\x1b``. Of what is
    too long to read the middle is left out.
    """
    line = "".join(
        letter.encode("unicode_escape").decode() if category(letter) in UNSEEN else letter
        for letter in readable(text)
    )
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 400]} ... {line[-400:]}"


def is_text(name: str) -> bool:
    """Whether a file's name is in UTF-8 as it is."""
    return readable(name) == name


def write_table(file: TextIO) -> Writer:
    """A writer of CSV whose fields may be any text.

    Python before 3.13 puts no quotes around a carriage return unless it ends lines, and what is
    written so cannot be read.
    """
    return csv.writer(_Lines(file), lineterminator="\r\n")


class _Lines:
    """Ends each row with a line feed alone."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, row: str) -> int:
        return self.file.write(row.removesuffix("\r\n") + "\n")


class Names:
    """Names of the videos that there are, to be found by what annotations call them.

    A video may be called by its name, or by the end of it, or by a longer path that ends in it, as
    on another machine; with or without its suffix or ActivityNet's ``v_``; in other case, with
    other white space around it, or in letters that are put together in another way.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def find(self, wanted: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
        """The names of those that are wanted, and why others have none."""
        wanted = list(wanted)
        exact = self.names.intersection(wanted)
        found, reasons = {name: name for name in exact}, {}
        for name in wanted:
            if name in exact:
                continue
            fitting = [one for one in self._fitting(name) if one not in exact]
            if len(fitting) == 1:
                found[name] = fitting[0]
            else:
                several = f"is not sure: {' or '.join(sorted(fitting)[:2])}"
                reasons[name] = several if fitting else "is not among the videos"
        claims = Counter(found.values())
        for name, one in list(found.items()):
            if claims[one] > 1:
                reasons[name] = f"is not sure: {one} goes by another's name too"
                del found[name]
        return found, reasons

    @cached_property
    def _by_last(self) -> dict[str, list[tuple[str, list[str]]]]:
        found = defaultdict(list)
        for name in self.names:
            *folders, last = _parts(name) or [""]
            found[last].append((name, folders))
        return found

    def _fitting(self, wanted: str) -> list[str]:
        *folders, last = _parts(wanted) or [""]
        bare = re.sub(r"\.\w{1,5}$", "", last)
        for spelling in (last, bare, f"v_{bare}", bare.removeprefix("v_")):
            shared: dict[str, int] = {}
            for name, theirs in self._by_last.get(spelling, ()):
                length = min(len(folders), len(theirs))
                if folders[len(folders) - length :] == theirs[len(theirs) - length :]:
                    shared[name] = length
            if shared:
                most = max(shared.values())
                return [name for name, length in shared.items() if length == most]
        return []


def _parts(name: str) -> list[str]:
    """The folders of a name and its last part, alike for all ways to write them."""
    latin = re.sub(r"\\x([89a-f][0-9a-f])", lambda byte: chr(int(byte[1], 16)), name)
    alike = normalize("NFC", latin).casefold().replace("\\", "/")
    parts = (part.strip() for part in alike.split("/"))
    return [part for part in parts if part not in ("", ".")]
