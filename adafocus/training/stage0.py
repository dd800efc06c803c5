"""Stage 0: each backbone alone learns to classify whole frames."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from adafocus.data.batches import Batch
from adafocus.model.backbones import pool
from adafocus.training.stage import Stage


class GlancerStage(Stage):
    """The glancer, on frames of its own size; logits are averaged over frames."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = functional.cross_entropy(self.predict(batch), batch.target)
        return loss, {"loss": loss}

    def predict(self, batch: Batch) -> Tensor:
        return self.model.glance(batch.glance).logits.mean(1)


class FocuserStage(GlancerStage):
    """The focuser, on whole frames; logits are averaged over frames."""

    def predict(self, batch: Batch) -> Tensor:
        features = pool(self.model.focuser(batch.frames))
        return self.model.focuser.classify(features).mean(1)
