"""What a prediction costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from adafocus.evaluation.uni_flops import cost_of_exits, count_uni
from adafocus.model import uni
from adafocus.model.building import build
from adafocus.model.exits import classified_again
from adafocus.recipe import UniRecipe

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
    if isinstance(recipe, UniRecipe):
        with torch.device("meta"):
            parts = count_uni(uni.build(recipe, patch_size).eval())
        return {"parts": parts, "total": sum(parts.values())}
    with torch.device("meta"), torch.inference_mode():
        model = build(recipe.never_skipping, patch_size).eval()
        image = (3, shape.frame_size, shape.frame_size)
        frames = torch.empty(1, shape.frames, *image)
        glance = torch.empty(1, shape.frames_apart or shape.frames, *image)
        with FlopCounterMode(display=False) as counter:
            model(frames, glance)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    flops = {part: counts[f"AdaFocus.{part}"] for part in recipe.last.leaves}
    if shape.looks_once:
        # There the glancer's own logits are part of the prediction.
        flops["glancer"] += counts["AdaFocus.glancer.head"]
    # The counter takes a multiply-add for two operations.
    parts = {part: count / 2e9 for part, count in flops.items()}
    return {"parts": parts, "total": sum(parts.values())}


@dataclass(frozen=True)
class Cost:
    """GFLOPs of a video, step by step."""

    visits: np.ndarray
    """float64 (S,), of each step without its look"""
    look: float

    @property
    def total(self) -> float:
        """Of all steps, each with a look."""
        return float(self.visits.sum()) + self.look * len(self.visits)

    def spent(self, looked: np.ndarray) -> np.ndarray:
        """(N, S): what videos had cost after each step, by whether it was a look, bool (N, S)."""
        if not self.look:
            return np.broadcast_to(self.visits.cumsum(), (len(looked), len(self.visits)))
        return (self.visits + self.look * looked).cumsum(axis=1)


def per_step(recipe: Recipe, patch_size: int) -> Cost:
    """What each frame costs where all come in order. A model that looks once has one step, which
    looks at all frames."""
    return _in_order(recipe, count(recipe, patch_size))


def per_visit(recipe: Recipe, patch_size: int) -> Cost:
    """What each step costs in the conditional exit.

    Of AdaFocus a step is a frame, where those that lie behind one that comes late are classified
    again: a step of the classifier each. Of Uni-AdaFocus all glances are one, see `cost_of_exits`;
    no look is a thing apart.
    """
    if isinstance(recipe, UniRecipe):
        with torch.device("meta"):
            exits = cost_of_exits(uni.build(recipe, patch_size).eval())
        return Cost(np.diff(exits, prepend=0), 0.0)
    counted, frames = count(recipe, patch_size), recipe.model.frames
    in_order, classify = _in_order(recipe, counted), counted["parts"]["classifier"] / frames
    return Cost(in_order.visits + classify * np.array(classified_again(frames)), in_order.look)


def _in_order(recipe: Recipe, counted: dict[str, Any]) -> Cost:
    if isinstance(recipe, UniRecipe):
        # What is not spent at its last step alone is spent at no step that a video is left after.
        return Cost(np.append(np.zeros(recipe.model.steps - 1), counted["total"]), 0.0)
    if recipe.model.looks_once:
        return Cost(np.array([counted["total"]]), 0.0)
    frames, look = recipe.model.frames, counted["parts"]["focuser"]
    return Cost(np.full(frames, (counted["total"] - look) / frames), look / frames)
