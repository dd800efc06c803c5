"""Stage 1: focuser and classifier learn on patches from random places."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from adafocus.data.batches import Batch
from adafocus.training.stage import Stage


def every_step(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of the predictions after every step.

    Args:
        logits: (B, S, K).
        target: (B, K), a distribution over classes.
    """
    steps = logits.shape[1]
    return functional.cross_entropy(logits.flatten(0, 1), target.repeat_interleave(steps, dim=0))


class Stage1(Stage):
    """The glancer is frozen; corners are drawn anew for every frame."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = every_step(self._logits(batch), batch.target)
        return loss, {"loss": loss}

    def predict(self, batch: Batch) -> Tensor:
        return self._logits(batch)[:, -1]

    def _logits(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            glimpse = self.frozen.glance(batch.glance)
        local = self.model.focus(batch.frames, batch.random_corners(self.model))
        return self.model.classifier(glimpse, local)
