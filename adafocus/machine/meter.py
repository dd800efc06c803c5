"""How fast a pass over videos goes, and what it needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from adafocus.machine.device import peak_memory


class Meter:
    """Watches one pass over batches, from its making on.

    Args:
        device: the one that computes.
        seconds: that the pass took before, where it was cut off and goes on.
        waited: seconds of them in which it waited for data.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, waited: float = 0.0) -> None:
        self.device = device
        self.waited = waited
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.started = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self.started

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time until each is there counts as waiting for data."""
        remaining = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(remaining, None)
            self.waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def figures(self, videos: int) -> dict[str, float]:
        """Videos per second, the share of time spent waiting for data, peak memory in GB.

        Args:
            videos: seen so far.
        """
        seconds = self.seconds
        return {
            "videos_per_second": videos / seconds,
            "data_wait_share": self.waited / seconds,
            "peak_memory_gb": peak_memory(self.device) / 1e9,
        }
