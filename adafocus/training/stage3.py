"""Stage 3: the classifier is tuned to the patches that the policy chooses; all else is frozen."""

from __future__ import annotations

import torch
from torch import Tensor

from adafocus.data.batches import Batch
from adafocus.training.stage import Stage
from adafocus.training.stage1 import every_step


class Stage3(Stage):
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            glimpse = self.frozen.glance(batch.glance)
            local = self.frozen.focus(batch.frames, self.frozen.look(glimpse))
        loss = every_step(self.model.classifier(glimpse, local), batch.target)
        return loss, {"loss": loss}

    def predict(self, batch: Batch) -> Tensor:
        return self.frozen(batch.frames, batch.glance).logits[:, -1]
