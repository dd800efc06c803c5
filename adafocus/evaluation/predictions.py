"""What an evaluation predicted, video by video and class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from adafocus.machine.files import atomic
from adafocus.model.looks import Looks
from adafocus.model.patches import SKIPPED, grid_cells


@dataclass(frozen=True)
class Predictions:
    """N validation videos of K classes, and where the model looked, see `Looks`."""

    classes: np.ndarray
    """str (K,)"""
    videos: np.ndarray
    """str (N,)"""
    labels: np.ndarray
    """bool (N, K)"""
    predicted: np.ndarray
    """int16 (N,): the most probable class after the last step"""
    probability: np.ndarray
    """float32 (N,): that of ``predicted``"""
    corners: np.ndarray
    """int16 (N, P, 2): rounded top and left of each patch in pixels, -1 where there was no look; P
    is 1 where one serves all frames"""
    accuracy: np.ndarray
    """float32 (K,): the data set's metric of each class in percent, NaN for one without a video"""
    accuracy_random: np.ndarray
    """float32 (K,): likewise on random patches, mean over draws"""
    boxes: np.ndarray | None = None
    """float32 (N, P, 4): top, left, height and width of each patch in pixels, -1 where there was no
    look; None in files of older versions"""
    frames: np.ndarray | None = None
    """int16 (N, F): which of the frames that it was given the model looked at, in this order; None
    likewise"""

    @staticmethod
    def path_of(result: Path) -> Path:
        """Where a result's predictions lie: beside it."""
        return result.with_suffix(".predictions.npz")

    def write(self, path: Path) -> None:
        """Writes all arrays under their names to an ``.npz``."""
        known = {name: array for name, array in asdict(self).items() if array is not None}
        with atomic(path) as aside:
            np.savez_compressed(aside, **known)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

    def boxes_of(self, patch_size: int) -> np.ndarray:
        """``boxes``; older versions told corners alone, of patches of one size."""
        if self.boxes is not None:
            return self.boxes
        sides = np.where(self.corners == SKIPPED, SKIPPED, patch_size)
        return np.concatenate((self.corners, sides), axis=-1).astype(np.float32)

    def looks(self, patch_size: int, frames: int) -> Looks:
        """Where the model looked; older versions knew none but all of so many frames."""
        boxes = torch.from_numpy(self.boxes_of(patch_size))
        skipped = (boxes == SKIPPED).all(-1)
        if self.frames is None:
            return Looks.at(boxes, frames, skipped)
        return Looks(torch.from_numpy(self.frames).long(), boxes, skipped)

    def frames_of(self, video: int, order: Sequence[int]) -> np.ndarray:
        """(F,), ``frames`` of a video; older versions knew none but the ``order`` of all."""
        return np.array(order) if self.frames is None else self.frames[video]

    @property
    def right(self) -> np.ndarray:
        """bool (N,): whether the predicted class is one of the video's labels."""
        right: np.ndarray = self.labels[np.arange(len(self.labels)), self.predicted]
        return right

    @property
    def gain(self) -> np.ndarray:
        """(K,): accuracy minus that on random patches, in percent points."""
        gain: np.ndarray = self.accuracy - self.accuracy_random
        return gain

    def confusion(self) -> np.ndarray:
        """Videos by true and predicted class.

        A video with several labels counts once where the prediction is one of them; else it counts
        in equal parts for each of them.

        Returns:
            float (K, K), true classes as rows.
        """
        counts = np.zeros((len(self.classes),) * 2)
        right = self.right
        hits = self.predicted[right]
        np.add.at(counts, (hits, hits), 1)
        missed = np.flatnonzero(~right)
        rows, truth = np.nonzero(self.labels[missed])
        parts = 1 / self.labels[missed].sum(axis=1)
        np.add.at(counts, (truth, self.predicted[missed][rows]), parts[rows])
        return counts


def grid_shares(boxes: np.ndarray, margin: int, grid: int) -> np.ndarray:
    """How often patches' corners lie in each cell of a grid over all corners that there may be.

    Of a policy that chooses among ``grid`` by ``grid`` positions each has a cell of its own, and
    corners drawn at random fall into all cells alike.

    Args:
        boxes: (..., 4), see `Predictions.boxes`; frames without a patch are passed over.
        margin: the largest corner: the frame's side minus the smallest patch's.
        grid: cells along each side.

    Returns:
        (grid, grid) in percent of all patches, from top to bottom and left to right; of fewer cells
        where there are fewer corners.
    """
    corners = np.rint(without_skipped(boxes)[:, :2]).astype(int)
    cells = grid_cells(corners, grid, margin)
    counts = np.zeros((min(grid, margin + 1),) * 2)
    np.add.at(counts, tuple(cells.T), 1)
    return 100 * counts / max(1, len(cells))


def coverage(boxes: np.ndarray, frame_size: int) -> np.ndarray:
    """How often each pixel of the frame lies, by its centre, within a patch.

    Args:
        boxes: (..., 4), see `Predictions.boxes`; frames without a patch are passed over.

    Returns:
        (frame_size, frame_size) in percent of all patches.
    """
    patches = without_skipped(boxes)
    # The first pixel whose centre lies within, and the first that lies beyond.
    first = np.ceil(patches[:, :2] - 0.5).astype(int)
    beyond = np.ceil(patches[:, :2] + patches[:, 2:] - 0.5).astype(int)
    edges = np.zeros((frame_size + 1, frame_size + 1))
    for rows, columns, sign in (
        (first[:, 0], first[:, 1], 1),
        (first[:, 0], beyond[:, 1], -1),
        (beyond[:, 0], first[:, 1], -1),
        (beyond[:, 0], beyond[:, 1], 1),
    ):
        np.add.at(edges, (rows, columns), sign)
    return 100 * edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] / max(1, len(patches))


def without_skipped(boxes: np.ndarray) -> np.ndarray:
    """(M, 4), those of `Predictions.boxes` where there was a look."""
    boxes = boxes.reshape(-1, 4)
    patches: np.ndarray = boxes[np.any(boxes != SKIPPED, axis=-1)]
    return patches
