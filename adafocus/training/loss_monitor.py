"""Losses that are not finite, which end a training."""

from __future__ import annotations

import torch
from torch import Tensor


class LossMonitor:
    """Looks out for losses that are not finite.

    On a GPU it looks at each batch when the next one is on its way, so that neither waits.

    Attributes:
        where: the last batch that it looked at.
        videos: names of that batch's.
        broken: likewise, if one of its losses was not finite.
    """

    def __init__(self) -> None:
        self.where = ""
        self.videos: list[str] = []
        self.broken: list[str] = []
        self.pending: tuple[Tensor, torch.cuda.Event, str, list[str]] | None = None

    def see(self, finite: Tensor, where: str, videos: list[str]) -> None:
        """Takes note of a batch.

        Args:
            finite: bool (), whether all its losses are.
            where: which batch it is.
            videos: their names.
        """
        if not finite.is_cuda:
            self._look(finite, where, videos)
            return
        on_host = torch.empty((), dtype=torch.bool, pin_memory=True)
        on_host.copy_(finite, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self.settle()
        self.pending = (on_host, done, where, videos)

    def settle(self) -> None:
        """Looks at the last batch."""
        if self.pending is not None:
            finite, done, where, videos = self.pending
            done.synchronize()
            self._look(finite, where, videos)
            self.pending = None

    def _look(self, finite: Tensor, where: str, videos: list[str]) -> None:
        if not self.broken:
            self.where, self.videos = where, videos
            self.broken = [] if finite else videos
