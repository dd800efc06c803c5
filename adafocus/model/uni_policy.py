"""Where and when to look in Uni-AdaFocus: boxes and frames, both from one look at a glimpse."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SpatialPolicy(nn.Module):
    """Where to look: boxes of any size from the glancer's maps.

    Args:
        channels: C of the maps.
        map_size: h = w of the maps.
        frames: T, glanced at.
        once: whether one box serves the whole video; else each frame glanced at has its own.
        hidden: channels within.
    """

    def __init__(
        self, channels: int, map_size: int, frames: int, *, once: bool, hidden: int = 128
    ) -> None:
        super().__init__()
        self.once = once
        last = (frames if once else 1, map_size, map_size)
        self.encoder = nn.Sequential(
            nn.Conv3d(channels, hidden, 1, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU(),
            nn.Conv3d(hidden, hidden, 3, padding=1, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU(),
            nn.Conv3d(hidden, hidden, 3, padding=1, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU(),
            nn.Conv3d(hidden, 4, last, bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, T, C, h, w) -> actions (B, S, 4), y, x, h, w in (0, 1), S = T or 1."""
        found: Tensor = self.encoder(maps.transpose(1, 2))
        return found.flatten(2).transpose(1, 2).sigmoid()


class TemporalPolicy(nn.Module):
    """When to look: how much each part of a video is worth, from the glancer's features.

    Args:
        channels: C of the features.
        hidden: channels within.
    """

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv1d(channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, 3, padding=1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, 1, 1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, T, C) -> weights (B, T) of the T frames glanced at, which sum to 1."""
        worth: Tensor = self.encoder(features.transpose(1, 2))
        return worth.squeeze(1).softmax(-1)


class LookPolicy(nn.Module):
    """Both policies, as one part of the model."""

    def __init__(self, where: SpatialPolicy, when: TemporalPolicy) -> None:
        super().__init__()
        self.where, self.when = where, when


def choose_frames(
    weights: Tensor, candidates: int, count: int, offsets: Tensor | None = None
) -> Tensor:
    """Frames that lie dense where the weights are large.

    The weights are spread over the video as a density, constant within each of T equal parts, and
    its sum is inverted at evenly spread levels. A frame that is not above the one before becomes
    the next one.

    Args:
        weights: (B, T), which sum to 1.
        candidates: N, frames to choose from.
        count: frames to choose, at most N.
        offsets: (B, count) in [0, 1), places of the levels within their shares; the middles if not
            given.

    Returns:
        int64 (B, count) in [0, N), rising.
    """
    parts = weights.shape[-1]
    order = torch.arange(count, device=weights.device)
    levels = (order + (0.5 if offsets is None else offsets)) / count
    ends = weights.cumsum(-1).clamp(max=1)
    ends[:, -1] = 1
    # Weights that are not numbers must still give frames: the loss tells of them.
    part = torch.searchsorted(ends, levels.expand(weights.shape[0], -1).contiguous()).clamp(
        max=parts - 1
    )
    edges = functional.pad(ends, (1, 0))
    start, end = edges.gather(1, part), edges.gather(1, part + 1)
    within = (levels - start) / (end - start).clamp_min(torch.finfo(weights.dtype).tiny)
    frames = ((part + within) * candidates / parts).floor().long()
    # Less their order, rising frames are those that do not fall.
    return (frames - order).cummax(1).values.clamp(0, candidates - count) + order
