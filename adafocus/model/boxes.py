"""Boxes of any size and place, and what is seen in them: (top, left, height, width) in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class BoxRange:
    """The boxes that a policy may choose in square frames.

    Raises `ValueError` where there are none.
    """

    smallest: int
    """The least side in pixels."""
    largest: int
    frame_size: int
    """Side of a frame in pixels."""

    def __post_init__(self) -> None:
        if not 0 < self.smallest < self.largest <= self.frame_size:
            raise ValueError(
                "boxes must have 0 < smallest < largest <= frame_size; they have"
                f" {self.smallest}, {self.largest} and {self.frame_size}"
            )

    def place(self, actions: Tensor) -> Tensor:
        """Actions (..., 4), y, x, h, w in [0, 1] -> boxes (..., 4) within the frame."""
        places, sizes = actions.split(2, dim=-1)
        sides = self.smallest + (self.largest - self.smallest) * sizes
        return torch.cat((places * (self.frame_size - sides), sides), dim=-1)

    def squares(self, places: Tensor, side: float) -> Tensor:
        """The actions (..., 4) of square boxes at places (..., 2), y and x in [0, 1]."""
        size = (side - self.smallest) / (self.largest - self.smallest)
        return torch.cat((places, torch.full_like(places, size)), dim=-1)


def over_time(actions: Tensor, frames: int) -> Tensor:
    """The actions of all frames from those of some that lie evenly among them, (B, S, 4) ->
    (B, frames, 4), linear between two and constant before the first and after the last."""
    spread = functional.interpolate(
        actions.transpose(1, 2), size=frames, mode="linear", align_corners=False
    )
    return spread.transpose(1, 2)


def resample(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """What is seen in one box of each image, bilinearly, zero beyond the image's edge.

    Args:
        images: float (..., C, H, W).
        boxes: (..., 4), top, left, height, width in pixels of these images.
        size: height and width of what comes out, in pixels.

    Returns:
        (..., C, size, size), through which gradients reach images and boxes.
    """
    shape, (height, width) = images.shape[:-3], images.shape[-2:]
    tops, lefts, heights, widths = boxes.expand(*shape, 4).flatten(0, -2).unbind(-1)
    zero = torch.zeros_like(tops)
    # From the box to the image, both of which reach from -1 to 1 between their outer edges. In this
    # order sums are rounded as the published ones are: a deep network makes much of the last bit.
    down = (zero, heights / height, (tops + (tops + heights)) / height - 1)
    right = (widths / width, zero, (lefts + (lefts + widths)) / width - 1)
    affine = torch.stack((torch.stack(right, dim=-1), torch.stack(down, dim=-1)), dim=-2)
    flat = images.flatten(0, -4)
    grid = functional.affine_grid(affine, [*flat.shape[:2], size, size], align_corners=False)
    seen = functional.grid_sample(
        flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    patches: Tensor = seen.unflatten(0, shape)
    return patches
