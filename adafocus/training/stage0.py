"""Stage 0: each backbone alone learns to classify whole frames."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from adafocus.data.clips import Batch
from adafocus.model.backbones import pool
from adafocus.training.engine import Losses, Stage


class GlancerStage(Stage):
    """The glancer, on frames of its own size; logits are averaged over frames."""

    def losses(self, batch: Batch) -> Losses:
        loss = functional.cross_entropy(self.predict(batch), batch.target)
        yield loss, {"loss": loss}

    def predict(self, batch: Batch) -> Tensor:
        return self.model.glance(batch.glance).logits.float().mean(1)


class FocuserStage(GlancerStage):
    """The focuser, on whole frames; logits are averaged over frames."""

    def predict(self, batch: Batch) -> Tensor:
        features = pool(self.model.focuser(batch.frames))
        return self.model.focuser.classify(features).float().mean(1)
