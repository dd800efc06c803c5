"""What a person sees of jobs in other processes: how far they are, by the bars in their logs."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from adafocus.machine.estimate import Plan, PlannedJob

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
    left: float | None
    """Seconds that it will yet take; None where that cannot be told yet"""


class Board:
    """Shows the running jobs: in a terminal in one line that changes, one job after the other,
    elsewhere in a line for each, once a minute.

    Args:
        total: how many jobs there are.
        jobs: what is known of those that have a log.
    """

    def __init__(self, stream: TextIO, total: int, jobs: Mapping[Path, PlannedJob]) -> None:
        self.done, self.total = 0, total
        self._plan = Plan(jobs)
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
            self._plan.begin(log)

    def end(self, job: int, done: bool) -> None:
        """A job has ended, well or not."""
        with self._lock:
            if log := self._jobs.pop(job, None):
                self._plan.end(log, done)

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
        """What there is to tell of each running job, with a bar and cut to a number of columns,
        where there is one, and how long the whole will yet take, or else how long it has run."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        with self._lock:
            bars = {log: last_bar(log) for log in self._jobs.values()}
            left = self._plan.seconds_left({log: bar and bar.left for log, bar in bars.items()})
        chain = f"{self.done}/{self.total} jobs, "
        chain += f"{minutes}:{seconds:02}" if left is None else f"~{_round(left)} left"
        found = []
        for log, bar in bars.items():
            if bar is None:
                line = f"{log.stem}, {chain}"
            else:
                line = f"{log.stem}: {bar.share:.0%}, {bar.told}; {chain}"
                # The bar makes room for the words, and is at least 4 columns wide or not there.
                room = min(12, (width or 0) - len(line) - len("[]"))
                if room >= 4:
                    drawn = f"[{'#' * round(room * bar.share):{room}}] {bar.share:.0%}"
                    line = f"{log.stem} {drawn} {bar.told}; {chain}"
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
    clock = [int(part) for part in found["left"].split(":") if part.isdigit()]
    left = sum(part * 60**place for place, part in enumerate(reversed(clock))) if clock else None
    return Bar(int(found["percent"]) / 100, told.removesuffix(", "), left)


def _round(seconds: float) -> str:
    """As one says it of what is not known closely."""
    units = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))
    unit, length = next(one for one in units if seconds >= 1.5 * one[1] or one[1] == 1)
    return f"{seconds / length:.0f} {unit}"
