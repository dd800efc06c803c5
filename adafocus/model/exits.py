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

from adafocus.model.adafocus import AdaFocus, FrameByFrame
from adafocus.model.checkpoint import CheckpointError
from adafocus.model.classifier import Classifier, GlobalFeatures, OutOfOrder
from adafocus.model.looks import Looks
from adafocus.model.video_model import Output, VideoModel


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


def check_can_leave(model: VideoModel, checkpoint: Path) -> AdaFocus:
    """Returns a checkpoint's model; raises `CheckpointError` unless it decides frame by frame."""
    try:
        return FrameByFrame(model).model
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint}: no budget can be kept by leaving its videos early: {error}"
        ) from None


class Visit(NamedTuple):
    """What was seen of B videos of T frames, step by step in `visiting_order`."""

    logits: Tensor
    """float32 (B, T, K), one prediction per step, where a video was left the last one again"""
    looks: Looks
    """at all T frames, of which those are skipped that were not visited"""
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

    def __init__(self, model: VideoModel, thresholds: Sequence[float]) -> None:
        # Which knows whether it can.
        self.model, self.thresholds = FrameByFrame(model).model, thresholds
        self.order = visiting_order(len(thresholds))

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Visit:
        """(B, T, 3, H, W) as in `AdaFocus.forward`."""
        next_frame, running = FrameByFrame(self.model), OutOfOrder(self.model.classifier)
        videos = torch.arange(len(frames), device=frames.device)
        steps = torch.full_like(videos, len(self.order))
        boxes = torch.zeros((*frames.shape[:2], 4), device=frames.device)
        skipped = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        predictions: list[Tensor] = []
        for step, (frame, threshold) in enumerate(zip(self.order, self.thresholds, strict=True)):
            seen, local, look = next_frame(frames[videos, frame])
            logits = running(frame, seen, local)
            latest = (
                predictions[-1].clone()
                if predictions
                else logits.new_zeros(len(frames), logits.shape[-1])
            )
            latest[videos] = logits[:, 0]
            predictions.append(latest)
            boxes[videos, step], skipped[videos, step] = look.boxes[:, 0], look.skipped[:, 0]
            stays = logits[:, 0].softmax(-1).amax(-1) < threshold
            steps[videos[~stays]] = step + 1
            videos = videos[stays]
            if not len(videos):
                break
            next_frame.keep(stays)
            running.keep(stays)
        predictions += predictions[-1:] * (len(self.order) - len(predictions))
        looks = Looks.at(boxes, len(self.order), skipped).of_frames(self.order)
        return Visit(torch.stack(predictions, dim=1), looks, steps)


def visit_all(model: AdaFocus, frames: Tensor) -> Output:
    """What `ConditionalExit` gives where no video is left early, (B, T, 3, H, W) in their own order
    -> T steps. Glance, looks and patches are batched over time."""
    order = visiting_order(frames.shape[1])
    visited = frames[:, order]
    seen = model.glance(visited)
    looks = model.look(seen, len(order))
    logits = classify_visits(model.classifier, seen, model.focus(visited, looks))
    return Output(logits, looks.of_frames(order))


def classify_visits(classifier: Classifier, seen: GlobalFeatures, local: Tensor) -> Tensor:
    """The running predictions (B, T, K) of all frames in `visiting_order`."""
    running = OutOfOrder(classifier)
    steps = zip(*(part.split(1, dim=1) for part in (*seen, local)), strict=True)
    predictions = [
        running(frame, GlobalFeatures(*step[:-1]), step[-1])
        for frame, step in zip(visiting_order(local.shape[1]), steps, strict=True)
    ]
    return torch.cat(predictions, dim=1)
