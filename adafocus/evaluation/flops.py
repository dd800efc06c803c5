"""What a prediction costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from adafocus.model.adafocus import build
from adafocus.model.checkpoint import PARTS

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


def per_step(recipe: Recipe, patch_size: int) -> tuple[float, float]:
    """GFLOPs of one step without a look, and of one look.

    A video that was left after t steps, with l looks, cost t times the one and l times the other.
    The TSM family has one step, which looks at all frames.
    """
    counted, frames = count(recipe, patch_size), recipe.model.frames
    if recipe.model.family == "tsm":
        return counted["total"], 0.0
    look = counted["parts"]["focuser"]
    return (counted["total"] - look) / frames, look / frames
