"""What a person sees of jobs in other processes: how far they are, by the bars in their logs."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

BAR = re.compile(
    r"(?:(?P<what>[^|]*): )? *(?P<percent>\d+)%\|[^|]*\| \S+ \[[^<]*<(?P<left>[^,\]]+)"
    r"(?:, *[^,\]]+)?(?:, (?P<beside>[^\]]+))?\]"
)
"""A line of tqdm's."""
REDRAWN_EVERY = 1
TOLD_EVERY = 60
"""Seconds, in a terminal and elsewhere."""
TURN = 4
"""Seconds for which a terminal shows one of several jobs."""
UNKNOWN_WIDTH = 80
"""Columns of a terminal that says it has none, as some in containers do."""
CLEARED = "\r\x1b[K"
"""What takes away the line that the cursor is in."""
END = 4096
"""Bytes of a log in which its last bar is."""


class Bar(NamedTuple):
    share: float
    """Of the work, from 0 to 1"""
    told: str
    """How long it will yet take, and what stands beside it, such as epoch and metric"""


class Board:
    """Shows the running jobs: in a terminal in one line that changes, one job after the other,
    elsewhere in a line for each, once a minute."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self.done, self.total = 0, total
        self._stream = stream
        self._live = stream.isatty()
        self._jobs: dict[int, Path] = {}
        self._began = time.monotonic()
        self._drawn = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def begin(self, job: int, log: Path) -> None:
        """A job runs, and prints to a log."""
        with self._lock:
            self._jobs[job] = log

    def end(self, job: int) -> None:
        with self._lock:
            self._jobs.pop(job, None)

    def clear(self) -> None:
        """Makes way for what others print."""
        with self._lock:
            drawn, self._drawn = self._drawn, False
            if drawn:
                with suppress(OSError, ValueError):  # the terminal is gone
                    self._stream.write(CLEARED)
                    self._stream.flush()

    def close(self) -> None:
        self._closed.set()
        self.clear()

    def lines(self, width: int | None = None) -> list[str]:
        """What there is to tell of each running job, cut to a number of columns."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        chain = f"{self.done}/{self.total} jobs, {minutes}:{seconds:02}"
        with self._lock:
            jobs = list(self._jobs.values())
        found = []
        for log in jobs:
            bar = last_bar(log)
            if bar is None:
                line = f"{log.stem}, {chain}"
            elif width is None:
                line = f"{log.stem}: {bar.share:.0%}, {bar.told}; {chain}"
            else:
                drawn = round(12 * bar.share)
                line = f"{log.stem} [{'#' * drawn:12}] {bar.share:4.0%} {bar.told}; {chain}"
            found.append(line[:width])
        return found

    def _run(self) -> None:
        while not self._closed.wait(REDRAWN_EVERY if self._live else TOLD_EVERY):
            try:
                self._tell()
            except (OSError, ValueError):  # the terminal is gone
                return

    def _tell(self) -> None:
        if not self._live:
            for line in self.lines():
                self._stream.write(f"{time.strftime('%H:%M')} {line}\n")
            self._stream.flush()
            return
        columns = os.get_terminal_size(self._stream.fileno()).columns or UNKNOWN_WIDTH
        lines = self.lines(columns - 1)
        if lines:
            line = lines[int(time.monotonic() / TURN) % len(lines)]
            with self._lock:
                if not self._closed.is_set():
                    self._stream.write(f"{CLEARED}{line}")
                    self._stream.flush()
                    self._drawn = True


def last_bar(log: Path) -> Bar | None:
    """The last bar that was drawn into a log; None where there is none yet."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    bars = [found for line in re.split(r"[\r\n]+", text) if (found := BAR.search(line))]
    if not bars:
        return None
    found = bars[-1]
    told = f"{found['left']} left, {(found['beside'] or found['what'] or '').strip()}"
    return Bar(int(found["percent"]) / 100, told.removesuffix(", "))
