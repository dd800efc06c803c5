"""How long jobs that depend on each other will yet take, from what they and their like took."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from graphlib import TopologicalSorter
from heapq import heapify, heappop, heappush
from pathlib import Path
from statistics import fmean
from typing import NamedTuple


class PlannedJob(NamedTuple):
    """What is known of a job before it runs."""

    kind: Hashable
    """Jobs of one kind take about as long as each other"""
    needs: frozenset[Path]
    """Jobs that come before it, by their logs"""
    seconds: float | None
    """That it took another time, or others of its kind; None where none has run"""


class Plan:
    """The jobs of a call, by their logs, and when they begin and end."""

    def __init__(self, jobs: Mapping[Path, PlannedJob]) -> None:
        self._jobs = dict(jobs)
        known = {log: job.needs & self._jobs.keys() for log, job in self._jobs.items()}
        self._order = list(TopologicalSorter(known).static_order())
        self._began: dict[Path, float] = {}
        self._took: dict[Path, float] = {}
        self._of_kind: dict[Hashable, list[float]] = {}
        """What those of each kind took that are done"""
        self._side_by_side = 1
        """The most jobs that ran at once"""

    def begin(self, log: Path) -> None:
        self._began[log] = time.monotonic()
        self._side_by_side = max(self._side_by_side, len(self._began))

    def end(self, log: Path, done: bool) -> None:
        """A job has ended, well or not."""
        began = self._began.pop(log, None)
        if done and began is not None and log in self._jobs:
            self._took[log] = time.monotonic() - began
            self._of_kind.setdefault(self._jobs[log].kind, []).append(self._took[log])

    def seconds_left(self, told: Mapping[Path, float | None]) -> float | None:
        """Until the last job ends, if as many run side by side as so far.

        Args:
            told: what each running job tells of itself; None where it tells nothing yet.

        Returns:
            None where nothing is known of how long one of the jobs takes.
        """
        if not self._began.keys() <= self._jobs.keys():
            return None
        ends: dict[Path, float] = {}
        for log, began in self._began.items():
            seconds = told.get(log)
            if seconds is None:
                expected = self._expected(log)
                if expected is None:
                    return None
                seconds = max(0.0, expected - (time.monotonic() - began))
            ends[log] = seconds
        places = [*ends.values(), *[0.0] * (self._side_by_side - len(ends))]
        heapify(places)
        for log in self._order:
            if log in ends or log in self._took:
                continue
            expected = self._expected(log)
            if expected is None:
                return None
            ready = max((ends.get(need, 0.0) for need in self._jobs[log].needs), default=0.0)
            ends[log] = max(ready, heappop(places)) + expected
            heappush(places, ends[log])
        return max(ends.values(), default=None)

    def _expected(self, log: Path) -> float | None:
        job = self._jobs[log]
        if job.seconds is not None:
            return job.seconds
        like = self._of_kind.get(job.kind)
        return fmean(like) if like else None
