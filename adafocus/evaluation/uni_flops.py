"""What a prediction of Uni-AdaFocus costs, part by part and exit by exit."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from adafocus.model.uni import LongUniAdaFocus, UniAdaFocus

UNI_PARTS = ("glancer", "where", "when", "focuser", "classifier")


def count_uni(model: UniAdaFocus) -> dict[str, float]:
    """Multiply-adds per video of the real modules, in GFLOPs, by `UNI_PARTS`; a multiply-add counts
    once.

    As in the paper, only convolutions and linear layers count. Heads from which only training
    learns are left out; those that predict are the classifier's.

    Args:
        model: in eval mode on torch's meta device, where it takes no weights and next to no time.
    """
    return _by_part(_by_module(model))


def cost_of_exits(model: UniAdaFocus) -> np.ndarray:
    """GFLOPs that a video has cost at each exit, float64: after all glances and, of a long video,
    after each frame focused on; of a short one, at its end. Who leaves after the glances pays for
    no policy.

    Args:
        model: see `count_uni`.
    """
    counts = _by_module(model)
    parts = _by_part(counts)
    local = parts["focuser"] + parts["classifier"]
    if isinstance(model, LongUniAdaFocus):
        first = counts["classifier.global_mlp"] + counts["classifier.global_heads"]
        local -= first
        looks = model.shape.focused
    else:
        first, looks = counts["glancer.head"], 1
    glances = parts["glancer"] + first
    policy = parts["where"] + parts["when"]
    looked = glances + policy + local / looks * np.arange(1, looks + 1)
    return np.concatenate(([glances], looked))


def _by_part(counts: dict[str, float]) -> dict[str, float]:
    predicting = ("classifier", "glancer.others.prediction", "focuser.others.prediction")
    return {
        "glancer": counts["glancer.trunk"],
        "where": counts["policy.where"],
        "when": counts["policy.when"],
        "focuser": counts["focuser.trunk"],
        "classifier": sum(counts.get(name, 0.0) for name in predicting),
    }


def _by_module(model: UniAdaFocus) -> dict[str, float]:
    """GFLOPs of each module in a prediction of one video."""
    shape = model.shape
    image = (3, shape.frame_size, shape.frame_size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        frames = torch.empty(1, shape.candidates, *image, device="meta")
        model(frames, torch.empty(1, shape.glanced, *image, device="meta"))
    prefix = f"{type(model).__name__}."
    # The counter takes a multiply-add for two operations.
    return {
        name.removeprefix(prefix): sum(operations.values()) / 2e9
        for name, operations in counter.get_flop_counts().items()
    }
