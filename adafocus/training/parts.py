"""A batch in as many parts as the GPU's memory asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from itertools import pairwise
from typing import Protocol, TypeVar

import torch
from torch import nn

from adafocus.data.batches import Batch
from adafocus.data.draws import Draws
from adafocus.machine import distributed
from adafocus.machine.device import reason_of
from adafocus.recipe import MicroBatch
from adafocus.training.progress import Progress

T = TypeVar("T")


class InParts(Protocol):
    """Does some work on a batch in parts; gives what comes of each."""

    def __call__(self, batch: Batch, work: Callable[[Batch], T]) -> list[T]: ...


def at_once(batch: Batch, work: Callable[[Batch], T]) -> list[T]:
    """Does some work on a whole batch."""
    return [work(batch)]


class Parts:
    """How many videos go through at a time: half as many each time that the memory is full.

    Of several processes all take smaller parts where the memory of one is full. Within a part they
    meet where batch norms that learn put their statistics together: nobody who waits there hears of
    one that does not come. So they ask each other before, until a batch has gone through. When the
    memory of one is full later on, such a stage ends with an error; others go on.

    Args:
        progress: is told of how many fit.
        asked: videos at a time, or ``auto``.
        least: videos that a part must have.
        modules: what is trained.
        norms: their batch norms that share statistics.
    """

    def __init__(
        self,
        progress: Progress,
        asked: MicroBatch,
        least: int,
        modules: Iterable[nn.Module],
        norms: list[nn.Module],
    ) -> None:
        self.progress, self.asked, self.least, self.norms = progress, asked, least, norms
        self.buffers = [buffer for module in modules for buffer in module.buffers()]
        self.proven = False
        """Whether a batch has gone through in parts of the present size."""

    def of(self, videos: int) -> list[slice]:
        """As even parts of so many videos as go through at a time."""
        asked = videos if self.asked == "auto" else self.asked
        at_once = min(asked, self.progress.micro_batch or videos)
        parts = min(-(-videos // at_once), max(videos // self.least, 1))
        ends = [videos * part // parts for part in range(parts + 1)]
        return [slice(*ends) for ends in pairwise(ends)]

    def alone(self, videos: int, work: Callable[[list[slice]], T]) -> T:
        """What work gives, which this process does by itself on so many videos.

        Raises `torch.OutOfMemoryError` where parts cannot become smaller.
        """
        while True:
            try:
                return work(self.of(videos))
            except torch.OutOfMemoryError as error:
                full = error
            self._halve(videos, full)

    def together(self, draws: Draws, work: Callable[[list[slice]], T]) -> T:
        """What work gives, which all processes do at the same time, each on its own videos.

        Where the memory of one is full all begin anew, with the same random numbers and the same
        statistics of batch norms.

        Args:
            draws: of this process's videos.

        Raises:
            torch.OutOfMemoryError: where parts cannot become smaller.
            ValueError: where the others cannot be told.
        """
        before = [buffer.clone() for buffer in self.buffers]

        def attempt(parts: list[slice]) -> T:
            draws.seed_dropout(distributed.rank())
            try:
                with nullcontext() if self.proven else distributed.meeting_at(self.norms):
                    done = work(parts)
                distributed.meet()
                return done
            except torch.OutOfMemoryError as full:
                self._tell(full)
                for buffer, value in zip(self.buffers, before, strict=True):
                    buffer.copy_(value)
                self.proven = False
                raise

        return self.alone(draws.rows.stop - draws.rows.start, attempt)

    def on_batch(self, batch: Batch, work: Callable[[Batch], T]) -> list[T]:
        """`InParts`, by all processes `together`."""
        return self.together(
            batch.draws,
            lambda parts: [work(batch if len(parts) == 1 else batch.part(rows)) for rows in parts],
        )

    def agree(self) -> None:
        """After what each process did alone, all go on with the smallest parts of any."""
        found = distributed.all_gather_lists([self.progress.micro_batch])
        self.progress.micro_batch = min(filter(None, found), default=None)

    def _tell(self, full: torch.OutOfMemoryError) -> None:
        """Lets the other processes know."""
        if isinstance(full, distributed.FullElsewhere):
            return
        waiting = self.norms and self.proven
        if waiting or not distributed.tell_full():
            raise ValueError(
                f"the GPU's memory is full ({reason_of(full)}) and the other processes wait for"
                " this one's statistics: give micro_batch in config/config.yaml (--micro-batch) a"
                " smaller number"
            ) from full

    def _halve(self, videos: int, full: torch.OutOfMemoryError) -> None:
        """Takes half as many videos at a time from now on; raises ``full`` where it cannot."""
        before = _longest(self.of(videos))
        self.progress.micro_batch = max(before // 2, self.least)
        if _longest(self.of(videos)) == before:
            raise full
        full.__traceback__ = None  # which holds what fills the memory
        torch.cuda.empty_cache()
        distributed.say(
            f"the GPU's memory is full with {before} videos at a time: going on with"
            f" {self.progress.micro_batch}, whose gradients add up to those of the whole batch"
        )


def _longest(parts: list[slice]) -> int:
    lengths: list[int] = [rows.stop - rows.start for rows in parts]
    return max(lengths)
