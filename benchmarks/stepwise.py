"""AdaFocus and Uni-AdaFocus as a plain reading of the papers has them: one frame after another.

The opponent of `benchmarks/speed.py`, with the modules of one of our models and hence its weights.
As in the published code, every step also classifies a random patch, in prediction too, where nobody
asks for it. Only the GRU family and long videos have steps: elsewhere temporal shift ties all
frames together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from adafocus.model.adafocus import AdaFocus
from adafocus.model.boxes import over_time, resample
from adafocus.model.uni import LongUniAdaFocus
from adafocus.model.uni_policy import choose_frames
from adafocus.training import ppo


class Steps(NamedTuple):
    """What T steps leave."""

    logits: Tensor
    """(B, T, K)"""
    baseline: Tensor
    """(B, T, K), had the patch of that step been a random one"""
    actions: Tensor
    """int64 (B, T)"""
    log_probability: Tensor
    """(B, T), of the actions"""
    value: Tensor
    """(B, T), what the policy expects"""
    likeliest: Tensor
    """int64 (B, T), cells of its likeliest actions"""
    maps: Tensor
    """(B, T, C, h, w), the glancer's"""


def walk(model: AdaFocus, frames: Tensor, sample: bool) -> Steps:
    """Glances, chooses, focuses and classifies, step by step.

    Args:
        frames: normalised float (B, T, 3, H, W).
        sample: draws the actions, as stage 2 does, rather than taking the likeliest.
    """
    policy = model.policy
    choosing = classifying = None
    steps = []
    for frame in frames.unbind(1):
        maps = glance(model, frame, model.glance_size)
        seen, choosing = policy.gru(policy.encoder(maps).unsqueeze(1), choosing)
        seen = seen.squeeze(1)
        actions = torch.distributions.Categorical(logits=policy.actor(seen))
        action = actions.sample() if sample else actions.mode
        corners = policy.corners(action, model.margin)
        random = torch.randint_like(corners, model.margin + 1)
        baseline, _ = classify(model, maps, cut(frame, random, model.patch_size), classifying)
        patch = cut(frame, corners, model.patch_size)
        logits, classifying = classify(model, maps, patch, classifying)
        value, likeliest = policy.critic(seen), policy.cells(actions.mode, model.margin)
        chance = actions.log_prob(action)
        steps.append(Steps(logits, baseline, action, chance, value.squeeze(-1), likeliest, maps))
    return Steps(*(torch.stack(values, dim=1) for values in zip(*steps, strict=True)))


def walk_uni(model: LongUniAdaFocus, frames: Tensor) -> Tensor:
    """Logits (B, T + F, K) of Uni-AdaFocus' steps, one frame after another; frames as of `walk`."""
    shape, classifier = model.shape, model.classifier
    glanced = model.glanced_frames(frames, None).unbind(1)
    maps = [glance(model, frame, shape.glance_size) for frame in glanced]
    pooled = [of_frame.mean((-2, -1)) for of_frame in maps]
    actions = model.policy.where(torch.stack(maps, dim=1))
    chosen = choose_frames(
        model.policy.when(torch.stack(pooled, dim=1)), shape.candidates, shape.focused
    )
    boxes = shape.boxes.place(over_time(actions, shape.candidates))
    videos = torch.arange(len(frames), device=frames.device)
    seen = found = torch.zeros((), device=frames.device)  # as low as a ReLU goes
    logits = []
    for step, features in enumerate(pooled):
        seen = torch.maximum(seen, classifier.global_mlp(features))
        logits.append(classifier.global_heads.at(step, classifier.dropout(seen)))
    for step, frame in enumerate(chosen.unbind(1)):
        patch = resample(frames[videos, frame], boxes[videos, frame], shape.patch_size)
        local = model.focuser.trunk(patch).mean((-2, -1))
        found = torch.maximum(found, classifier.local_mlp(local))
        both = classifier.dropout(torch.cat((found, seen), dim=-1))
        logits.append(classifier.local_heads.at(step, both))
    return torch.stack(logits, dim=1)


def glance(model: AdaFocus | LongUniAdaFocus, frame: Tensor, size: int) -> Tensor:
    """The glancer's maps (B, C, h, w) of one frame (B, 3, H, W), shrunk to its size."""
    if size != frame.shape[-1]:
        frame = functional.interpolate(frame, (size, size))
    return model.glancer.trunk(frame)


def cut(frame: Tensor, corners: Tensor, size: int) -> Tensor:
    """One patch of each video's frame: (B, 3, H, W) and int64 (B, 2) -> (B, 3, size, size)."""
    return torch.stack(
        [
            image[:, top : top + size, left : left + size]
            for image, (top, left) in zip(frame, corners.tolist(), strict=True)
        ]
    )


def classify(
    model: AdaFocus, maps: Tensor, patch: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) of one more step, and the state after it."""
    local = model.focuser.trunk(patch).mean((-2, -1))
    features = torch.cat((maps.mean((-2, -1)), local), dim=-1)
    hidden, state = model.classifier.gru(features.unsqueeze(1), state)
    return model.classifier.fc(model.classifier.dropout(hidden.squeeze(1))), state


# --- training ---------------------------------------------------------------------------------


def stage1_logits(model: AdaFocus, frames: Tensor) -> Tensor:
    """(B, T, K) with random patches; focuser and classifier learn."""
    state, logits = None, []
    for frame in frames.unbind(1):
        with torch.no_grad():
            maps = glance(model, frame, model.glance_size)
        corners = torch.randint(model.margin + 1, (len(frame), 2), device=frame.device)
        step, state = classify(model, maps, cut(frame, corners, model.patch_size), state)
        logits.append(step)
    return torch.stack(logits, dim=1)


@torch.no_grad()
def rollout(model: AdaFocus, frames: Tensor, target: Tensor) -> ppo.Rollout:
    """Stage 2's rollout; ``target`` (B, K) is a distribution over classes."""
    steps = walk(model, frames, sample=True)
    reward = ppo.contrast(steps.logits, steps.baseline, target)
    chance = steps.log_probability
    return ppo.Rollout(steps.maps, steps.actions, chance, steps.value, reward, steps.likeliest)


def stage3_logits(model: AdaFocus, frames: Tensor) -> Tensor:
    """(B, T, K) with the patches that the policy chooses; the classifier learns."""
    policy, choosing, state, logits = model.policy, None, None, []
    for frame in frames.unbind(1):
        with torch.no_grad():
            maps = glance(model, frame, model.glance_size)
            seen, choosing = policy.gru(policy.encoder(maps).unsqueeze(1), choosing)
            corners = policy.corners(policy.actor(seen.squeeze(1)).argmax(-1), model.margin)
        step, state = classify(model, maps, cut(frame, corners, model.patch_size), state)
        logits.append(step)
    return torch.stack(logits, dim=1)
