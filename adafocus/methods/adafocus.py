"""AdaFocus (Wang et al., ICCV 2021): how each of its stages learns.

Stage 0: each backbone alone on whole frames. Stage 1: focuser and classifier on random patches.
Stage 2: the policy, by reinforcement. Stage 3: the classifier on the policy's patches. What each of
them starts from and leaves stands in `adafocus.recipe.stages`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from adafocus.data.batches import Batch
from adafocus.model.adafocus import AdaFocus
from adafocus.model.backbones import pool
from adafocus.model.looks import Looks
from adafocus.model.policy import GridPolicy
from adafocus.recipe import PolicyTraining
from adafocus.training import ppo
from adafocus.training.parts import InParts, at_once
from adafocus.training.stage import HeadStage, Stage

# --- stage 0 ----------------------------------------------------------------------------------


class GlancerStage(HeadStage):
    """The glancer, on frames of its own size; logits are averaged over frames."""

    def loss(self, videos: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = functional.cross_entropy(self._logits(videos), videos.target)
        return loss, {"loss": loss}

    def predict(self, batch: Batch) -> tuple[Tensor, None]:
        return self._logits(batch), None

    def _logits(self, batch: Batch) -> Tensor:
        return self.model.glance(batch.glance).logits.mean(1)


class FocuserStage(GlancerStage):
    """The focuser, on whole frames; logits are averaged over frames."""

    def _logits(self, batch: Batch) -> Tensor:
        features = pool(self.model.focuser(batch.frames))
        return self.model.focuser.classify(features).mean(1)


# --- stage 1 ----------------------------------------------------------------------------------


def every_step(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of the predictions after every step.

    Args:
        logits: (B, S, K).
        target: (B, K), a distribution over classes.
    """
    steps = logits.shape[1]
    return functional.cross_entropy(logits.flatten(0, 1), target.repeat_interleave(steps, dim=0))


class Stage1(HeadStage):
    """Focuser and classifier learn on patches from random places, drawn anew for every frame; the
    glancer is frozen."""

    def loss(self, videos: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = every_step(self._logits(videos), videos.target)
        return loss, {"loss": loss}

    def predict(self, batch: Batch) -> tuple[Tensor, None]:
        return self._logits(batch)[:, -1], None

    def _logits(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            seen = self.frozen.glance(batch.glance)
        looks = Looks.at(batch.random_boxes(self.model), batch.frames.shape[1])
        return self.model.classifier(seen, self.model.focus(batch.frames, looks))


# --- stage 2 ----------------------------------------------------------------------------------


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


class Stage2(Stage[AdaFocus, Experience, PolicyTraining]):
    """The policy learns where to look, by PPO; all else is frozen.

    One that is to skip frames is the plain one until then.
    """

    def __init__(self, name: str, model: AdaFocus, training: PolicyTraining) -> None:
        if training.skip_cost is not None and not model.skips:
            assert isinstance(model.policy, GridPolicy)  # as the recipe has checked
            model.policy.learn_to_skip()
        super().__init__(name, model, training)

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
        least: int = self.model.required_policy.least
        return least

    def prepare(self, batch: Batch, in_parts: InParts = at_once) -> Experience:
        training = self.training
        rollout = ppo.concatenate(
            in_parts(batch, lambda part: ppo.rollout(self.frozen, part, training.skip_cost or 0.0))
        )
        returns = ppo.standardized(ppo.discounted_returns(rollout.reward, training.gamma))
        logs = {
            "reward": rollout.reward.mean(),
            "explained_variance": ppo.explained_variance(rollout.value, returns),
            "cells": self._count(rollout.likeliest),
        }
        if training.skip_cost is not None:
            cells = self.model.required_policy.grid**2
            logs["looked"] = (rollout.actions < cells).float().mean()
        return Experience(rollout, returns, logs)

    def loss(self, videos: Experience) -> tuple[Tensor, dict[str, Tensor]]:
        training = self.training
        loss = ppo.loss(
            self.model.required_policy(videos.rollout.maps),
            videos.rollout,
            videos.returns,
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
            **videos.logs,
        }

    def predict(self, batch: Batch) -> tuple[Tensor, Looks]:
        out = self.frozen(batch.frames, batch.glance)
        return out.logits[:, -1], out.looks

    def figures(self, means: dict[str, Tensor]) -> dict[str, float]:
        """Of how often each cell was the likeliest, an epoch's row says how many ever were."""
        cells = means.pop("cells", None)
        row = super().figures(means)
        # Revision 1 counted none; an epoch that it began may have no batch left.
        return row if cells is None else row | {"distinct_cells": float((cells > 0).sum())}

    def _count(self, cells: Tensor) -> Tensor:
        """How often each cell of the policy's grid is among these, skipped frames left out."""
        counts = torch.zeros(self.model.required_policy.grid**2 + 1, device=cells.device)
        ones = torch.ones((), device=cells.device).expand(cells.numel())
        return counts.scatter_add(0, cells.flatten(), ones)[:-1]


# --- stage 3 ----------------------------------------------------------------------------------


class Stage3(HeadStage):
    """The classifier is tuned to the patches that the policy chooses; all else is frozen."""

    def loss(self, videos: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            seen = self.frozen.glance(videos.glance)
            looks = self.frozen.look(seen, videos.frames.shape[1])
            local = self.frozen.focus(videos.frames, looks)
        loss = every_step(self.model.classifier(seen, local), videos.target)
        return loss, {"loss": loss}

    def predict(self, batch: Batch) -> tuple[Tensor, None]:
        return self.frozen(batch.frames, batch.glance).logits[:, -1], None


STAGES: dict[str, type[Stage[Any, Any, Any]]] = {
    "glancer": GlancerStage,
    "focuser": FocuserStage,
    "stage1": Stage1,
    "stage2": Stage2,
    "stage3": Stage3,
}
