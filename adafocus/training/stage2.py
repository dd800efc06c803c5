"""Stage 2: the policy learns where to look; all else is frozen."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adafocus.data.batches import Batch
from adafocus.training import ppo
from adafocus.training.parts import InParts, at_once
from adafocus.training.stage import Stage


class Experience(NamedTuple):
    """A rollout and what all passes over it learn from."""

    rollout: ppo.Rollout
    returns: Tensor
    """(B, S), standardized over the whole batch"""
    logs: dict[str, Tensor]
    """Of the whole batch"""

    def part(self, rows: slice) -> Experience:
        rollout = ppo.Rollout(*(tensor[rows] for tensor in self.rollout))
        return Experience(rollout, self.returns[rows], self.logs)


class Stage2(Stage):
    @property
    def latest_is_best(self) -> bool:
        """Where the policy may skip frames: by accuracy alone the epoch would win that skips least,
        whatever its looks cost."""
        return self.training.skip_cost is not None

    @property
    def steps(self) -> int:
        return self.training.update_epochs

    @property
    def least(self) -> int:
        return self.model.policy.least

    def prepare(self, batch: Batch, in_parts: InParts = at_once) -> Experience:
        training = self.training
        rollout = ppo.joined(
            in_parts(batch, lambda part: ppo.rollout(self.frozen, part, training.skip_cost or 0.0))
        )
        returns = ppo.standardized(ppo.discounted_returns(rollout.reward, training.gamma))
        logs = {
            "reward": rollout.reward.mean(),
            "explained_variance": ppo.explained_variance(rollout.value, returns),
            "cells": self._count(rollout.likeliest),
        }
        if training.skip_cost is not None:
            logs["looked"] = (rollout.actions < self.model.policy.grid**2).float().mean()
        return Experience(rollout, returns, logs)

    def loss(self, experience: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        training = self.training
        loss = ppo.loss(
            self.model.policy(experience.rollout.maps),
            experience.rollout,
            experience.returns,
            clip=training.clip,
            value_coefficient=training.value_coefficient,
            entropy_coefficient=training.entropy_coefficient,
        )
        return loss.total, {
            "loss": loss.total,
            "policy_loss": loss.policy,
            "value_loss": loss.value,
            "entropy": loss.entropy,
            "approximate_kl": loss.divergence,
            "clipped_share": loss.clipped,
            **experience.logs,
        }

    def predict(self, batch: Batch) -> Tensor:
        return self.frozen(batch.frames, batch.glance).logits[:, -1]

    def figures(self, means: dict[str, Tensor]) -> dict[str, float]:
        """Of how often each cell was the likeliest, an epoch's row says how many ever were."""
        cells = means.pop("cells", None)
        row = super().figures(means)
        # Revision 1 counted none; an epoch that it began may have no batch left.
        return row if cells is None else row | {"distinct_cells": float((cells > 0).sum())}

    def _count(self, cells: Tensor) -> Tensor:
        """How often each cell of the policy's grid is among these, skipped frames left out."""
        counts = torch.zeros(self.model.policy.grid**2 + 1, device=cells.device)
        ones = torch.ones((), device=cells.device).expand(cells.numel())
        return counts.scatter_add(0, cells.flatten(), ones)[:-1]
