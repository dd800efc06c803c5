"""What a batch of videos draws at random: the same for any number of processes and of parts.

Each draw has a generator of its own, made of the seed, the epoch, the batch and what is drawn. All
numbers are drawn for the whole batch, of which each process or part takes its rows. So nobody needs
to know how many numbers anybody else drew, and a run that goes on from within an epoch draws what
it would have drawn.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Purpose(IntEnum):
    """What random numbers are drawn for."""

    CORNERS = 0
    ACTIONS = 1
    DROPOUT = 2
    FRAMES = 3
    GLANCES = 4
    LABELS = 5


class Draws(NamedTuple):
    """The random numbers of some videos of one batch."""

    seed: int
    epoch: int
    """From 1; 0 for the videos of a validation, which draw the same after every epoch."""
    batch: int
    videos: int
    """Of the whole batch."""
    rows: slice
    """Those of them that are meant."""

    def generator(self, purpose: Purpose, number: int = 0) -> torch.Generator:
        """A generator on the CPU that nothing else has, so that all devices draw the same.

        Args:
            number: tells several draws of one purpose apart.
        """
        return torch.Generator().manual_seed(self._seed(purpose, number))

    def exponential(self, shape: tuple[int, ...]) -> Tensor:
        """Exponential with mean 1, to choose actions by: (rows, *shape) on the CPU."""
        noise = torch.empty((self.videos, *shape))
        return noise.exponential_(generator=self.generator(Purpose.ACTIONS))[self.rows]

    def uniform(self, shape: tuple[int, ...], kind: Purpose, number: int = 0) -> Tensor:
        """Uniform in [0, 1): (rows, *shape) on the CPU; for ``number`` see `generator`."""
        return torch.rand((self.videos, *shape), generator=self.generator(kind, number))[self.rows]

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal, to choose actions by: (rows, *shape) on the CPU."""
        noise = torch.randn((self.videos, *shape), generator=self.generator(Purpose.ACTIONS))
        return noise[self.rows]

    def seed_dropout(self, rank: int) -> None:
        """Lets torch's own generators, which draw dropout's masks, begin anew for this batch.

        Args:
            rank: of the process, each of which draws masks of its own.
        """
        torch.manual_seed(self._seed(Purpose.DROPOUT, rank))

    def part(self, rows: slice) -> Draws:
        """The numbers of some of these videos."""
        first = self.rows.start
        return self._replace(rows=slice(first + rows.start, first + rows.stop))

    def _seed(self, purpose: Purpose, number: int) -> int:
        key = (self.seed, self.epoch, self.batch, purpose, number)
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
