"""What a user would pick instead of AdaFocus: ResNet-50 over whole frames, TSN or TSM.

The opponents of `benchmarks/speed.py`: the focuser of the same recipe on frames that are not cut,
tuned as ours is, because it is one of our backbones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adafocus.model.backbones import backbone, pool
from adafocus.recipe import Recipe

TSM_FRAMES = 8


class WholeFrames(nn.Module):
    """A backbone's logits averaged over frames: TSM (Lin et al., ICCV 2019) over 8 frames where the
    recipe's backbones shift in time, else TSN (Wang et al., ECCV 2016) over as many frames as the
    recipe's model glances at."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        shape = recipe.model
        shifted = shape.shift
        self.frames = TSM_FRAMES if shifted else shape.glance_frames or shape.frames
        self.backbone = backbone(shape.focuser, recipe.classes, self.frames if shifted else None)

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 RGB or normalised float frames (B, T, 3, H, W) -> logits (B, K)."""
        return self.backbone.classify(pool(self.backbone(frames))).mean(1)


def gflops(recipe: Recipe) -> float:
    """Multiply-adds per video in GFLOPs; a multiply-add counts once."""
    with torch.device("meta"), torch.inference_mode():
        model = WholeFrames(recipe)
        frames = torch.empty(1, model.frames, 3, recipe.model.frame_size, recipe.model.frame_size)
        with FlopCounterMode(display=False) as counter:
            model(frames)
    # The counter takes a multiply-add for two operations.
    return counter.get_total_flops() / 2e9
