"""Proximal policy optimization (Schulman et al., 2017, arXiv 1707.06347) of where to look.

The order is that in which things happen: a rollout by the present policy, its rewards, their
discounted returns, then one or more passes of the clipped loss over the same rollout.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from adafocus.data.batches import Batch
from adafocus.machine.distributed import all_gather
from adafocus.model.adafocus import AdaFocus
from adafocus.model.policy import Decision


class Rollout(NamedTuple):
    """What the policy did on a batch of B videos in S steps, and what came of it."""

    maps: Tensor
    """(B, T, C, h, w), the glancer's, which the policy sees"""
    actions: Tensor
    """(B, S) cells or (B, S, 2) positions"""
    log_probability: Tensor
    """(B, S), of the actions under the policy that took them"""
    value: Tensor
    """(B, S), what that policy expected"""
    reward: Tensor
    """(B, S)"""
    likeliest: Tensor
    """int64 (B, S), cells of that policy's likeliest actions; one more than there are for a skip"""


@torch.no_grad()
def rollout(model: AdaFocus, batch: Batch, skip_cost: float) -> Rollout:
    """Lets the policy choose patches at random and pays it for each.

    Args:
        skip_cost: what a look costs, see `contrast`; 0 where the policy may not skip.
    """
    seen = model.glance(batch.glance)
    policy = model.required_policy
    decision = policy(seen.maps)
    actions = policy.sample(decision.actions, batch.draws)
    looks = model.looks_at(policy.corners(actions, model.margin), batch.frames.shape[1])
    local = model.focus(batch.frames, looks)
    elsewhere = looks.elsewhere(batch.random_boxes(model))
    reward = contrast(
        model.classifier(seen, local),
        model.classifier.counterfactual(seen, local, model.focus(batch.frames, elsewhere)),
        batch.target,
    )
    reward = (reward - skip_cost) * looks.looked
    return Rollout(
        seen.maps,
        actions,
        decision.actions.log_prob(actions),
        decision.value,
        reward,
        policy.cells(decision.actions.mode, model.margin),
    )


def concatenate(rollouts: list[Rollout]) -> Rollout:
    """The rollout of all videos of a batch, made of those of its parts."""
    if len(rollouts) == 1:
        return rollouts[0]
    return Rollout(*(torch.cat(tensors) for tensors in zip(*rollouts, strict=True)))


def contrast(logits: Tensor, baseline: Tensor, target: Tensor) -> Tensor:
    """The reward: how much likelier the truth is after the policy's patch than after a random one.

    r_t = p_t(truth | policy's patch) - p_t(truth | random patch), where only the patch of step t
    differs (the paper's equation for the reward of stage 2). With several labels, their mean.

    Where the policy may skip frames (AdaFocus+), a look is paid its contrast less the cost lambda,
    and a skipped frame, whose baseline is skipped too, nothing. So a look must gain more than
    lambda over a look at a random place to be worth it; the paper tells the idea, of punishing
    looks by a constant, not the formula.

    Args:
        logits: (B, S, K).
        baseline: (B, S, K).
        target: (B, K), a distribution over classes.

    Returns:
        (B, S), each in [-1, 1].
    """
    gained = logits.softmax(-1) - baseline.softmax(-1)
    return torch.einsum("bsk,bk->bs", gained, target)


def discounted_returns(reward: Tensor, gamma: float) -> Tensor:
    """R_t = r_t + gamma · R_{t+1}, along the last axis: (B, S) -> (B, S).

    As one product with the triangle of gamma's powers, so that no step waits for the next.
    """
    step = torch.arange(reward.shape[-1], device=reward.device)
    ahead = step[:, None] - step[None, :]
    weights = torch.where(ahead >= 0, float(gamma) ** ahead.clamp(min=0), 0.0)
    return reward @ weights.to(reward.dtype)


def standardized(returns: Tensor) -> Tensor:
    """Returns with mean 0 and standard deviation 1 over the whole batch and its steps."""
    everyones = all_gather(returns)
    return (returns - everyones.mean()) / (everyones.std() + 1e-5)


def explained_variance(value: Tensor, returns: Tensor) -> Tensor:
    """Share of the returns' variance that the value foretells, over the whole batch: 1 at best, 0
    for a value that knows no more than the mean, below 0 for one that is worse than that."""
    value, returns = all_gather(value), all_gather(returns)
    return 1 - (returns - value).var() / (returns.var() + 1e-8)


class Loss(NamedTuple):
    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    divergence: Tensor
    """Estimate of the Kullback-Leibler divergence of the present policy from the rollout's."""
    clipped: Tensor
    """Share of actions whose ratio of probabilities is clipped."""


def loss(
    decision: Decision[Any],
    rollout: Rollout,
    returns: Tensor,
    *,
    clip: float,
    value_coefficient: float,
    entropy_coefficient: float,
) -> Loss:
    """The clipped surrogate loss plus the value's error less an entropy bonus, means over (B, S).

    Args:
        decision: the policy's present view of the rollout's maps.
        returns: (B, S), standardized.
    """
    log_ratio = decision.actions.log_prob(rollout.actions) - rollout.log_probability
    ratio = log_ratio.exp()
    advantage = returns - decision.value.detach()
    clipped = ratio.clamp(1 - clip, 1 + clip)
    policy = -torch.min(ratio * advantage, clipped * advantage).mean()
    value = functional.mse_loss(decision.value, returns)
    entropy = decision.actions.entropy().mean()
    total = policy + value_coefficient * value - entropy_coefficient * entropy
    with torch.no_grad():
        # The estimator k3 of Schulman's note "Approximating KL divergence": never below 0.
        divergence = (ratio - 1 - log_ratio).mean()
        beyond = ((ratio - 1).abs() > clip).float().mean()
    return Loss(total, policy, value, entropy, divergence, beyond)
