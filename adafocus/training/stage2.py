"""Stage 2: the policy learns where to look; all else is frozen."""

from __future__ import annotations

from torch import Tensor

from adafocus.data.clips import Batch
from adafocus.training import ppo
from adafocus.training.engine import Losses, Stage


class Stage2(Stage):
    def losses(self, batch: Batch) -> Losses:
        training = self.training
        rollout = ppo.rollout(self.frozen, batch)
        returns = ppo.standardized(ppo.discounted_returns(rollout.reward, training.discount))
        for _ in range(training.passes):
            loss = ppo.loss(
                self.model.policy(rollout.maps),
                rollout,
                returns,
                clip=training.clip,
                value_weight=training.value_weight,
                entropy_weight=training.entropy_weight,
            )
            yield (
                loss.total,
                {
                    "loss": loss.total,
                    "policy_loss": loss.policy,
                    "value_loss": loss.value,
                    "entropy": loss.entropy,
                    "reward": rollout.reward.mean(),
                },
            )

    def predict(self, batch: Batch) -> Tensor:
        return self.frozen(batch.frames, batch.glance).logits[:, -1]
