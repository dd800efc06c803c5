"""What a prediction costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from adafocus.model.adafocus import build
from adafocus.model.checkpoint import PARTS
from adafocus.model.exits import classified_again

if TYPE_CHECKING:
    from adafocus.recipe import Recipe


def count(recipe: Recipe, patch_size: int) -> dict[str, Any]:
    """Multiply-adds per video of the real modules, in GFLOPs; a multiply-add counts once.

    As in the paper, only convolutions, linear layers and GRUs count. The modules run on torch's
    meta device, so that it takes no weights and next to no time; there, as on a CPU, torch's
    counter sees the products inside a GRU, which it may miss in the fused one of a GPU.

    Of a model that may skip frames (AdaFocus+) this is the cost of a video none of whose frames is
    skipped; its head for skipping, one product of ``hidden`` numbers a frame, is left out.

    Args:
        recipe: the data set's recipe.
        patch_size: in pixels.

    Returns:
        ``parts``, by ``glancer``, ``focuser``, ``classifier`` and ``policy``, and their ``total``.
    """
    shape = recipe.model
    with torch.device("meta"), torch.inference_mode():
        model = build(recipe.never_skipping, patch_size).eval()
        image = (3, shape.frame_size, shape.frame_size)
        frames = torch.empty(1, shape.frames, *image)
        glance = torch.empty(1, shape.glance_frames or shape.frames, *image)
        with FlopCounterMode(display=False) as counter:
            model(frames, glance)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    flops = {part: counts[f"AdaFocus.{part}"] for part in PARTS["stage3"]}
    if shape.family == "tsm":
        # There the glancer's own logits are part of the prediction.
        flops["glancer"] += counts["AdaFocus.glancer.head"]
    # The counter takes a multiply-add for two operations.
    parts = {part: count / 2e9 for part, count in flops.items()}
    return {"parts": parts, "total": sum(parts.values())}


class StepCost(NamedTuple):
    """GFLOPs of one step of a video.

    One that was left after t steps, with l looks, cost t times ``visit`` and l times ``look``.
    """

    visit: float
    """without its look"""
    look: float
    classify: float
    """the classifier's part of a visit"""


def per_step(recipe: Recipe, patch_size: int) -> StepCost:
    """What a step costs. The TSM family has one, which looks at all frames."""
    counted, frames = count(recipe, patch_size), recipe.model.frames
    parts, total = counted["parts"], counted["total"]
    if recipe.model.family == "tsm":
        return StepCost(total, 0.0, parts["classifier"])
    look = parts["focuser"]
    return StepCost((total - look) / frames, look / frames, parts["classifier"] / frames)


def per_visit(recipe: Recipe, patch_size: int) -> tuple[np.ndarray, float]:
    """GFLOPs (T,) of each visit of the conditional exit without its look, and of a look.

    A frame that is classified again counts as one step of the classifier.
    """
    cost = per_step(recipe, patch_size)
    again = np.array(classified_again(recipe.model.frames))
    return cost.visit + cost.classify * again, cost.look
