"""Where a model looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from adafocus.model.patches import SKIPPED


class Looks(NamedTuple):
    """F frames of each of B videos and a box on each of them, in the order of the looks.

    Boxes and what is skipped are told for P places: P = F, or 1 where one serves all frames.
    """

    frames: Tensor
    """int64 (B, F), which of the frames that a model is given, counted from 0"""
    boxes: Tensor
    """float32 (B, P, 4), top, left, height and width in pixels of these frames; one that is skipped
    means nothing"""
    skipped: Tensor
    """bool (B, P), where there is no look"""

    @classmethod
    def at(cls, boxes: Tensor, frames: int, skipped: Tensor | None = None) -> Self:
        """Looks at each of so many frames, in their own order."""
        # Its length would be a number of its own in an exported graph.
        every = torch.arange(frames, device=boxes.device).expand(boxes.shape[0], -1)
        if skipped is None:
            skipped = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
        return cls(every, boxes, skipped)

    @classmethod
    def joined(cls, parts: Sequence[Looks]) -> Self:
        """Those of all videos, part by part."""
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    @property
    def corners(self) -> Tensor:
        """int64 (B, P, 2), rounded tops and lefts, `SKIPPED` where there is no look."""
        return self.patches[..., :2].round().long()

    @property
    def patches(self) -> Tensor:
        """float32 (B, P, 4), the boxes, `SKIPPED` where there is no look."""
        return self.boxes.masked_fill(self.skipped.unsqueeze(-1), SKIPPED)

    @property
    def looked(self) -> Tensor:
        """bool (B, P), the opposite of ``skipped``."""
        return ~self.skipped

    def elsewhere(self, boxes: Tensor) -> Self:
        """The same frames, looked at in other places.

        Args:
            boxes: (B, N, 4), one for each of the N frames that the model is given, or (B, 1, 4).
        """
        if boxes.shape[1] > 1:
            boxes = boxes.take_along_dim(self.frames.unsqueeze(-1), dim=1)
        places = max(boxes.shape[1], self.skipped.shape[1])
        return self._replace(
            boxes=boxes.expand(-1, places, -1), skipped=self.skipped.expand(-1, places)
        )

    def of_frames(self, order: Sequence[int]) -> Self:
        """The same, where the frames looked at were the video's in this order."""
        return self._replace(frames=torch.tensor(order, device=self.frames.device)[self.frames])

    def cpu(self) -> Self:
        """The same in the CPU's memory."""
        return self._replace(**{name: part.cpu() for name, part in self._asdict().items()})
