"""Stage 2: the policy learns where to look; all else is frozen."""

from __future__ import annotations

from torch import Tensor

from adafocus.data.clips import Batch
from adafocus.training import ppo
from adafocus.training.engine import Losses, Stage


class Stage2(Stage):
    @property
    def latest_is_best(self) -> bool:
        """Where the policy may skip frames: by accuracy alone the epoch would win that skips least,
        whatever its looks cost."""
        return self.training.skip_cost is not None

    def losses(self, batch: Batch) -> Losses:
        training = self.training
        rollout = ppo.rollout(self.frozen, batch, training.skip_cost or 0.0)
        returns = ppo.standardized(ppo.discounted_returns(rollout.reward, training.discount))
        logs = {"reward": rollout.reward.mean()}
        if training.skip_cost is not None:
            logs["looked"] = (rollout.actions < self.model.policy.grid**2).float().mean()
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
                    **logs,
                },
            )

    def predict(self, batch: Batch) -> Tensor:
        return self.frozen(batch.frames, batch.glance).logits[:, -1]
