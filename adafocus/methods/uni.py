"""Uni-AdaFocus (Wang et al., 2024): how the whole model learns in one go.

What it starts from stands in `adafocus.recipe.uni`, its losses in `adafocus.methods.uni_loss`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adafocus.data.batches import Batch
from adafocus.methods.uni_loss import UniDraws, draw_label, uni_loss
from adafocus.model.looks import Looks
from adafocus.model.uni import UniAdaFocus
from adafocus.recipe import JointTraining
from adafocus.training.parts import InParts, at_once
from adafocus.training.stage import Stage


class JointStage(Stage[UniAdaFocus, Batch, JointTraining]):
    """All parts learn at once, from both backbones' pretrained weights."""

    def prepare(self, batch: Batch, in_parts: InParts = at_once) -> Batch:
        """A video of several labels learns one of them, drawn each time."""
        return batch._replace(target=draw_label(batch.labels, batch.draws))

    def loss(self, videos: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        model = self.model
        glance = videos.glance if model.shape.apart else None
        drawn = UniDraws.of(model, videos.draws)
        weight = self.training.size_weight
        return uni_loss(model, videos.frames, glance, videos.target, drawn, weight)

    def predict(self, batch: Batch) -> tuple[Tensor, Looks]:
        glance = batch.glance if self.model.shape.apart else None
        out = self.model(batch.frames, glance)
        return out.logits[:, -1], out.looks


STAGES: dict[str, type[Stage[Any, Any, Any]]] = {"joint": JointStage}
