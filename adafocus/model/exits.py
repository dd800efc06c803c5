"""The conditional exit: a video is left as soon as its running prediction is sure enough.

Frames are visited out of order, so that the first ones cover the video: the policy sees them in the
order of visits, the classifier in the video's own, see `OutOfOrder`. No weight changes for it (it
is of the authors' later work, AdaFocus V2, Wang et al., CVPR 2022, arXiv 2112.14238). How sure is
enough after each step is solved by `adafocus.evaluation.exits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from adafocus.model.adafocus import AdaFocus, Looking, Output
from adafocus.model.checkpoint import CheckpointError
from adafocus.model.classifier import Classifier, Glimpse, OutOfOrder
from adafocus.model.patches import SKIPPED


def visiting_order(frames: int) -> list[int]:
    """An order of frames that covers a video early: each next one halves a longest stretch that was
    not yet visited, the earliest first. Of eight frames: 4, 2, 6, 1, 3, 5, 7, 0."""
    order, stretches = [], [(0, frames)]
    for begin, end in stretches:  # which grows meanwhile
        if begin < end:
            middle = (begin + end) // 2
            order.append(middle)
            stretches += [(begin, middle), (middle + 1, end)]
    return order


def classified_again(frames: int) -> list[int]:
    """How many frames `OutOfOrder` classifies again at each visit: those visited before that lie
    behind the one visited now."""
    order = visiting_order(frames)
    return [sum(seen > frame for seen in order[:step]) for step, frame in enumerate(order)]


def check_can_leave(model: AdaFocus, checkpoint: Path) -> None:
    """Raises `CheckpointError` unless a checkpoint's model decides frame by frame."""
    try:
        Looking(model)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint}: no budget can be kept by leaving its videos early: {error}"
        ) from None


class Visit(NamedTuple):
    """What was seen of B videos of T frames, step by step in `visiting_order`."""

    logits: Tensor
    """float32 (B, T, K), one prediction per step, where a video was left the last one again"""
    corners: Tensor
    """int64 (B, T, 2), top and left of each patch in pixels, `SKIPPED` where there was none"""
    steps: Tensor
    """int64 (B,), frames that were visited"""


class ConditionalExit:
    """Visits frames one by one and goes on with those videos alone that need it.

    Args:
        model: with a policy, in eval mode.
        thresholds: T; a video is left after step t when its likeliest class has at least the t-th
            as its probability.

    Raises:
        ValueError: where the model cannot decide frame by frame.
    """

    def __init__(self, model: AdaFocus, thresholds: Sequence[float]) -> None:
        Looking(model)  # which knows whether it can
        self.model, self.thresholds = model, thresholds
        self.order = visiting_order(len(thresholds))

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Visit:
        """(B, T, 3, H, W) as in `AdaFocus.forward`."""
        looking, running = Looking(self.model), OutOfOrder(self.model.classifier)
        videos = torch.arange(len(frames), device=frames.device)
        steps = torch.full_like(videos, len(self.order))
        corners = torch.full((*frames.shape[:2], 2), SKIPPED, device=frames.device)
        predictions: list[Tensor] = []
        for step, (frame, threshold) in enumerate(zip(self.order, self.thresholds, strict=True)):
            glimpse, local, chosen = looking(frames[videos, frame])
            logits = running(frame, glimpse, local)
            latest = (
                predictions[-1].clone()
                if predictions
                else logits.new_zeros(len(frames), logits.shape[-1])
            )
            latest[videos] = logits[:, 0]
            predictions.append(latest)
            corners[videos, step] = chosen[:, 0]
            stays = logits[:, 0].softmax(-1).amax(-1) < threshold
            steps[videos[~stays]] = step + 1
            videos = videos[stays]
            if not len(videos):
                break
            looking.keep(stays)
            running.keep(stays)
        predictions += predictions[-1:] * (len(self.order) - len(predictions))
        return Visit(torch.stack(predictions, dim=1), corners, steps)


def visit_all(model: AdaFocus, frames: Tensor) -> Output:
    """What `ConditionalExit` gives where no video is left early, (B, T, 3, H, W) in their own order
    -> T steps. Glance, looks and patches are batched over time."""
    visited = frames[:, visiting_order(frames.shape[1])]
    glimpse = model.glance(visited)
    corners = model.look(glimpse)
    return Output(
        classify_visits(model.classifier, glimpse, model.focus(visited, corners)), corners
    )


def classify_visits(classifier: Classifier, glimpse: Glimpse, local: Tensor) -> Tensor:
    """The running predictions (B, T, K) of all frames in `visiting_order`."""
    running = OutOfOrder(classifier)
    steps = zip(*(part.split(1, dim=1) for part in (*glimpse, local)), strict=True)
    predictions = [
        running(frame, Glimpse(*step[:-1]), step[-1])
        for frame, step in zip(visiting_order(local.shape[1]), steps, strict=True)
    ]
    return torch.cat(predictions, dim=1)
