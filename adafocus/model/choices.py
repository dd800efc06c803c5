"""What a policy has really chosen between: places, sizes and frames, over many videos."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from adafocus.model.looks import Looks
from adafocus.recipe import Recipe

NEARLY_ALL = 98.0
"""Percent of all looks; what is the same in so many of them was not chosen."""
LEAST_DEVIATION = 0.005
"""Of centres, in frames: that of boxes that lie closer together is one place."""
LARGEST, SMALLEST = 0.02, 0.001
"""How near the end of the range of sides a side is no longer chosen, as a part of the range. Of
large boxes little else is left to choose. Small ones may well be best, so that only those that have
come to the end itself count."""


@dataclass(frozen=True)
class Choices:
    """Over all looks at some videos. Lengths are in sides of the frame, shares in percent."""

    places: int
    """Cells that boxes lay in, of a grid over all places that a box of its size can have"""
    cells: int
    """Of that grid"""
    commonest_place: float
    """Share of looks in the cell that was chosen most"""
    centre_deviation: float
    """Standard deviation of the boxes' centres, the root mean square over both axes"""
    side: float
    """Mean of the boxes' heights and widths"""
    side_deviation: float
    """Standard deviation of heights and of widths, the root mean square of both"""
    largest: float | None
    """Share of boxes of all but the largest size; None where all have one size"""
    smallest: float | None
    """Likewise of the smallest"""
    frame_entropy: float | None
    """Of which frames were looked at, in bits; None where that is no choice. As many looks that are
    always at the same frames have the binary logarithm of their number"""
    commonest_frames: float | None
    """Share of looks at the same few frames, as many as a video has looks; None where some looks of
    all videos were left out"""

    @classmethod
    def of(cls, looks: Looks, recipe: Recipe) -> Self | None:
        """Those of looks at some videos; None where there is no look.

        Args:
            looks: on the CPU.
            recipe: of the model that looked.
        """
        model, looked = recipe.model, looks.looked
        boxes = looks.boxes[looked].double()
        if not len(boxes):
            return None
        counts = torch.bincount(_cells(boxes, model.frame_size, model.cells))
        corners, sides = (boxes / model.frame_size).split(2, dim=-1)
        centres = corners + sides / 2
        largest = smallest = entropy = commonest = None
        if model.box_sides is not None:
            least, most = (side / model.frame_size for side in model.box_sides)
            of_range = (sides - least) / (most - least)
            largest = _percent((of_range > 1 - LARGEST).all(-1))
            smallest = _percent((of_range < SMALLEST).all(-1))
        if looks.frames.shape[1] < model.frames:
            everywhere = looked.expand_as(looks.frames)
            shares = _shares(looks.frames[everywhere], model.frames)
            entropy = torch.special.entr(shares).sum().item() / math.log(2)
            whole = looks.frames[everywhere.all(-1)]
            if len(whole):
                shares = _shares(whole.flatten(), model.frames)
                commonest = 100 * shares.topk(whole.shape[1]).values.sum().item()
        return cls(
            places=int((counts > 0).sum()),
            cells=model.cells**2,
            commonest_place=100 * counts.max().item() / len(boxes),
            centre_deviation=_deviation(centres),
            side=sides.mean().item(),
            side_deviation=_deviation(sides),
            largest=largest,
            smallest=smallest,
            frame_entropy=entropy,
            commonest_frames=commonest,
        )

    def warnings(self, recipe: Recipe) -> Iterator[str]:
        """A line for each thing in which the policy always does the same, with what may help."""
        stage = next(one.name for one in recipe.table if "policy" in one.trains)
        more = (
            f"more epochs or a higher learning rate of the policy in stages.{stage}, or more"
            " videos, may help"
        )
        if self.largest is not None and self.largest >= NEARLY_ALL:
            yield (
                f"{self.largest:.0f}% of the policy's boxes have the largest size: it has not"
                f" learnt where to look. A smaller size_weight in stages.{stage}, or more epochs,"
                " may help"
            )
        elif self.commonest_place >= NEARLY_ALL or self.centre_deviation < LEAST_DEVIATION:
            yield (
                "the policy looks at one and the same place in nearly all frames of all videos: it"
                f" has learnt a place, not where to look. For it {more}"
            )
        if self.smallest is not None and self.smallest >= NEARLY_ALL:
            yield (
                f"{self.smallest:.0f}% of the policy's boxes have the smallest size: it does not"
                f" choose sizes. A larger size_weight in stages.{stage}, or a smaller"
                " model.policy.smallest, may help"
            )
        if self.commonest_frames is not None and self.commonest_frames >= NEARLY_ALL:
            yield (
                "the policy looks at the same frames in nearly all videos: it has not learnt which"
                f" frames to look at. For it {more}"
            )


def _cells(boxes: Tensor, frame_size: int, grid: int) -> Tensor:
    """Cells of the grid, counted row by row, int64 (M,), that boxes (M, 4) in pixels lie in."""
    # As `patches.grid_cells`, with a margin for each box.
    corners, sides = boxes.round().long().split(2, dim=-1)
    margin = frame_size - sides
    places = ((corners + 1) * (margin + 1).clamp(max=grid) - 1) // (margin + 1)
    rows, columns = places.clamp(0, grid - 1).unbind(-1)
    cells: Tensor = rows * grid + columns
    return cells


def _shares(frames: Tensor, count: int) -> Tensor:
    """float64 (``count``,), how often each frame is among these."""
    return torch.bincount(frames, minlength=count).double() / len(frames)


def _percent(which: Tensor) -> float:
    return 100 * which.double().mean().item()


def _deviation(values: Tensor) -> float:
    """The root mean square over columns of each one's standard deviation."""
    return values.var(0, correction=0).mean().sqrt().item()
