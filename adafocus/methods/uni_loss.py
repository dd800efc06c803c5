"""What Uni-AdaFocus learns by: all of it at once, by cross-entropy alone.

The focuser and the classifier learn on the policy's boxes and on random ones, which go through the
focuser as one batch. No gradient reaches the policy from there. It learns where to look from what
the glancer's maps show within its boxes, and when from what is left of the glancer's view of the
video when frames are taken away.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from adafocus.data.draws import Draws, Purpose
from adafocus.methods.adafocus import every_step
from adafocus.model.classifier import GlobalFeatures
from adafocus.model.looks import Looks
from adafocus.model.uni import UniAdaFocus, look_at
from adafocus.model.uni_policy import choose_frames

MIXTURES = 128
"""Times that frames are taken away, for each number of them."""


class UniDraws(NamedTuple):
    """What is drawn at random for B videos."""

    glanced: Tensor | None
    """int64 (B, T), which candidates are glanced at; None where other frames are"""
    offsets: Tensor
    """(B, F) in [0, 1), see `choose_frames`"""
    places: Tensor
    """(B, P, 2) in [0, 1), y and x of random boxes; P = F, or 1 where one serves the video"""
    clocks: Tensor
    """(B, R, `MIXTURES`, T), exponential, see `mixed`"""

    @classmethod
    def of(cls, model: UniAdaFocus, draws: Draws) -> Self:
        """On the model's device."""
        shape = model.shape
        device = next(model.policy.parameters()).device
        glanced = None
        if not shape.apart:
            within = shape.share * draws.uniform((shape.glanced,), Purpose.GLANCES)
            # A product just below the share may be rounded up to it.
            within = within.long().clamp(max=shape.share - 1)
            glanced = within + torch.arange(0, shape.candidates, shape.share)
            glanced = glanced.to(device, non_blocking=True)
        places = 1 if model.policy.where.once else shape.focused
        rounds = max(shape.glanced // 3, 1)
        clocks = draws.exponential((rounds, MIXTURES, shape.glanced))
        return cls(
            glanced,
            draws.uniform((shape.focused,), Purpose.FRAMES).to(device, non_blocking=True),
            draws.uniform((places, 2), Purpose.CORNERS).to(device, non_blocking=True),
            clocks.to(device, non_blocking=True),
        )


def draw_label(labels: Tensor, draws: Draws) -> Tensor:
    """One of each video's labels, all as likely: bool (B, K) -> float32 (B, K), 1 for that one."""
    numbers = draws.uniform(labels.shape[1:], Purpose.LABELS)
    drawn = (labels * (1 - numbers.to(labels.device, non_blocking=True))).argmax(-1)
    return functional.one_hot(drawn, labels.shape[-1]).float()


def uni_loss(
    model: UniAdaFocus,
    frames: Tensor,
    glance: Tensor | None,
    target: Tensor,
    drawn: UniDraws,
    size_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of B videos, and what is to be logged: the loss and its terms, the mean side of the
    policy's boxes in pixels and the entropy of the frames' weights.

    Args:
        model: in train mode.
        frames: the candidates, see `UniAdaFocus.forward`.
        glance: see there.
        target: (B, K), a distribution over classes.
        drawn: for these videos.
        size_weight: of the term that draws boxes to the largest size.
    """
    seen = model.glance(model.glanced_frames(frames, glance, drawn.glanced))
    actions = model.policy.where(seen.maps.detach())
    weights = model.weigh(seen)
    shape = model.shape
    chosen = choose_frames(weights.detach(), shape.candidates, shape.focused, drawn.offsets)
    squares = shape.boxes.place(shape.boxes.squares(drawn.places, shape.patch_size))
    halves = model.place(actions.detach(), chosen), look_at(chosen, squares)
    terms = focus_terms(model, frames, seen, halves, target)
    terms |= policy_terms(model, seen, actions, weights, drawn.clocks, target)
    losses = [term for name, term in terms.items() if name.startswith("loss_")]
    total = torch.stack((*losses, size_weight * terms["size"])).sum()
    return total, {
        "loss": total,
        **terms,
        "box_side": shape.boxes.place(actions)[..., 2:].mean(),
        "frame_entropy": torch.special.entr(weights).sum(-1).mean(),
    }


def focus_terms(
    model: UniAdaFocus,
    frames: Tensor,
    seen: GlobalFeatures,
    halves: tuple[Looks, Looks],
    target: Tensor,
) -> dict[str, Tensor]:
    """What does not teach the policy where to look: the prediction's loss, and those of both
    backbones' own heads, means over both halves.

    Args:
        halves: two looks at the same frames.
    """
    patches = torch.cat([model.patches(frames, looks) for looks in halves])
    local = model.features(model.focuser, model.focuser(patches))
    # The classifier's batch norms see each half alone, as they will when it predicts.
    steps = torch.cat([model.classify(seen, half) for half in local.chunk(2)])
    glances = model.opinions(seen.logits)
    looks = model.opinions(model.opinion(model.focuser, local))
    both = target.repeat(2, 1)
    return {
        "loss_steps": every_step(steps, both),
        "loss_glance": every_step(glances, target),
        "loss_focus": every_step(looks, both),
    }


def policy_terms(
    model: UniAdaFocus,
    seen: GlobalFeatures,
    actions: Tensor,
    weights: Tensor,
    clocks: Tensor,
    target: Tensor,
) -> dict[str, Tensor]:
    """What teaches the policy where and when to look, and how far its boxes are from the largest.

    Args:
        actions: (B, S, 4), of the spatial policy.
        weights: (B, T), of the temporal policy.
        clocks: see `UniDraws`.
    """
    within = model.in_boxes(seen.maps.detach(), actions)
    where = model.glancer.others["where"](within)
    when = mixed(model.to_mix(seen), weights, clocks)
    return {
        "loss_where": functional.cross_entropy(where, target),
        "loss_when": functional.cross_entropy(when, target),
        "size": (1 - actions[..., 2:]).square().mean(),
    }


def mixed(logits: Tensor, weights: Tensor, clocks: Tensor) -> Tensor:
    """The view of a video that is left when frames are taken away, on average over which ones.

    For r = 0, 1, ..., R - 1 frames, each time r are drawn one after the other, by their weights and
    without replacement, and the logits of the others are mixed by what they weigh. By the sum that
    this is divided by nothing is learned.

    Args:
        logits: (B, T, K), of the frames.
        weights: (B, T).
        clocks: (B, R, D, T), exponential with mean 1: the frames whose clock, over their weight,
            rings first are drawn first, as the races of exponential clocks go.

    Returns:
        (B, K)
    """
    order = (clocks / weights.detach()[:, None, None]).argsort(-1).argsort(-1)
    taken = torch.arange(clocks.shape[1], device=clocks.device)[:, None, None]
    left = weights[:, None, None] * (order >= taken)
    total = left.detach().sum(-1, keepdim=True).clamp_min(torch.finfo(left.dtype).tiny)
    mixing = (left / total).mean((1, 2))
    return torch.einsum("bt,btk->bk", mixing, logits)
