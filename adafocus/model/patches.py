"""Where patches lie and how they are cut: corners are (top, left) in pixels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)

SKIPPED = -1
"""Top and left of the patch of a frame that nobody looks at."""


def grid_corners(cells: Tensor, grid: int, margin: int) -> Tensor:
    """Corners of grid cells, counted row by row: cell (i, j) lies at floor(i/(n-1) · margin).

    Args:
        cells: integers in [0, grid²), any shape.
        grid: cells along each side.
        margin: frame size minus patch size in pixels.

    Returns:
        int64, the shape of ``cells`` plus (2,).
    """
    rows_and_columns = torch.stack((cells // grid, cells % grid), dim=-1)
    # In integers, because (i/6)·96 in floating point may fall just below its whole value.
    return rows_and_columns * margin // (grid - 1)


def grid_cells(corners: Array, grid: int, margin: int) -> Array:
    """Rows and columns of the cells of a grid that corners lie in.

    The cells share all corners that there may be as evenly as whole pixels allow, and each of
    `grid_corners` has a cell of its own. Where there are fewer corners than cells, the grid has as
    many cells as corners.

    Args:
        corners: integers in [0, margin], any shape, also of NumPy.
        grid: cells along each side.
        margin: frame size minus patch size in pixels.

    Returns:
        Integers in [0, min(grid, margin + 1)), of the same shape.
    """
    # Cell i begins at floor(i · (margin+1)/n), which is never beyond floor(i · margin/(n-1)).
    return ((corners + 1) * min(grid, margin + 1) - 1) // (margin + 1)


def squares(corners: Tensor, size: int) -> Tensor:
    """Boxes of patches of one size: (..., 2) in whole pixels -> float32 (..., 4), top, left, height
    and width."""
    return torch.cat((corners, torch.full_like(corners, size)), dim=-1).float()


def unit_corners(positions: Tensor, margin: int) -> Tensor:
    """Corners of positions (y, x) in [0, 1], 1 being the last that fits: int64, same shape."""
    # A position that is not a number must still be one within the frame: the loss tells of it.
    return (positions * margin).floor().long().clamp(0, margin)


def centred_corners(centres: Tensor, frame_size: int, patch_size: int) -> Tensor:
    """Corners of patches centred on (y, x), given as fractions of the frame, kept within the frame.

    Returns:
        int64, the shape of ``centres`` (..., 2).
    """
    corners = (centres * frame_size - patch_size / 2).round().long()
    return corners.clamp(0, frame_size - patch_size)


def random_corners(
    shape: tuple[int, ...], margin: int, generator: torch.Generator | None = None
) -> Tensor:
    """Uniform over all positions that fit: int64 on the CPU, ``shape`` plus (2,)."""
    return torch.randint(margin + 1, (*shape, 2), generator=generator)


def crop(frames: Tensor, corners: Tensor, size: int) -> Tensor:
    """Cuts one patch out of every frame, all in one gather.

    Args:
        frames: (B, T, C, H, W).
        corners: int64 (B, T, 2), or (B, 1, 2) where one corner serves all frames of a video.
        size: side of the patch in pixels.

    Returns:
        (B, T, C, size, size), a copy.
    """
    batch, time = frames.shape[:2]
    tops, lefts = corners.expand(-1, time, -1).flatten(0, 1).unbind(-1)
    cut = cut_in_two if torch.compiler.is_exporting() else cut_windows
    patches: Tensor = cut(frames.flatten(0, 1), tops, lefts, size).unflatten(0, (batch, time))
    return patches


def cut_windows(images: Tensor, tops: Tensor, lefts: Tensor, size: int) -> Tensor:
    """One patch of each image (N, C, H, W), at int64 tops and lefts (N,) -> (N, C, size, size)."""
    # A view of every window there is; indexing it copies just those that are asked for.
    windows = images.unfold(2, size, 1).unfold(3, size, 1)
    return windows[torch.arange(images.shape[0], device=images.device), :, tops, lefts]


def cut_in_two(images: Tensor, tops: Tensor, lefts: Tensor, size: int) -> Tensor:
    """The same by rows and then by columns, for runtimes that know no views: they would copy every
    window. In PyTorch it takes three times as long."""
    count, channels = images.shape[:2]
    within = torch.arange(size, device=images.device)
    image = torch.arange(count, device=images.device)[:, None, None]
    channel = torch.arange(channels, device=images.device)[:, None]
    rows = images[image, channel, (tops[:, None] + within)[:, None]]
    columns = (lefts[:, None] + within)[:, None, None]
    return rows.gather(3, columns.expand(-1, channels, size, -1))
