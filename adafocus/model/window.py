"""Frames that come one by one, for a model that chooses among them: it sees the latest ones."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adafocus.model.video_model import Output

if TYPE_CHECKING:
    from adafocus.model.uni import UniAdaFocus


class Window:
    """Predictions of the latest N frames of videos whose frames come one by one, in order, where N
    is what the model chooses among.

    Args:
        model: in eval mode.
        every: frames from one prediction to the next; N, so that windows do not overlap, where it
            is not given.

    Raises:
        ValueError: where ``every`` is not positive.
    """

    def __init__(self, model: UniAdaFocus, every: int | None = None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"a prediction every {every} frames: give 1 or more")
        shape = model.shape
        self.model, self.every = model, every or shape.candidates
        self.latest: deque[Tensor] = deque(maxlen=shape.candidates)
        self.frame = 0
        """How many frames have come."""
        # As they are sampled from a video of N frames.
        between = (torch.arange(shape.glanced) + 0.5) * shape.candidates / shape.glanced
        self.glanced = between.long().tolist() if shape.apart else None

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Output | None:
        """The next frame of each of B videos, (B, 3, H, W) as in `UniAdaFocus.forward` -> what it
        says of the window that ends here, with ``frames`` counted from the first that ever came;
        None where no window ends."""
        self.latest.append(frames)
        self.frame += 1
        count = self.model.shape.candidates
        if self.frame < count or (self.frame - count) % self.every:
            return None
        window = torch.stack(tuple(self.latest), dim=1)
        glance = None if self.glanced is None else window[:, self.glanced]
        logits, looks = self.model(window, glance)
        first = self.frame - count
        return Output(logits, looks._replace(frames=looks.frames + first))
