"""What an evaluation predicted, video by video and class by class."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np

from adafocus.machine.files import atomic
from adafocus.model.patches import SKIPPED, grid_cells


@dataclass(frozen=True)
class Predictions:
    """N validation videos of K classes, of which the model saw patches at S steps."""

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
    """int16 (N, S, 2): top and left of each patch in pixels, -1 where a step had none; S is 1 where
    one serves all frames"""
    accuracy: np.ndarray
    """float32 (K,): the data set's metric of each class in percent, NaN for one without a video"""
    accuracy_random: np.ndarray
    """float32 (K,): likewise on random patches, mean over draws"""

    @staticmethod
    def path_of(result: Path) -> Path:
        """Where a result's predictions lie: beside it."""
        return result.with_suffix(".predictions.npz")

    def write(self, path: Path) -> None:
        """Writes all arrays under their names to an ``.npz``."""
        with atomic(path) as aside:
            np.savez_compressed(aside, **asdict(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

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


def grid_shares(corners: np.ndarray, margin: int, grid: int) -> np.ndarray:
    """How often patches' corners lie in each cell of a grid over all corners that there may be.

    Of a policy that chooses among ``grid`` by ``grid`` positions each has a cell of its own, and
    corners drawn at random fall into all cells alike.

    Args:
        corners: (..., 2), top and left in pixels; steps without a patch are passed over.
        margin: the largest corner: the frame's side minus the patch's.
        grid: cells along each side.

    Returns:
        (grid, grid) in percent of all patches, from top to bottom and left to right; of fewer cells
        where there are fewer corners.
    """
    cells = grid_cells(_patches(corners), grid, margin)
    counts = np.zeros((min(grid, margin + 1),) * 2)
    np.add.at(counts, tuple(cells.T), 1)
    return 100 * counts / max(1, len(cells))


def coverage(corners: np.ndarray, patch_size: int, frame_size: int) -> np.ndarray:
    """How often each pixel of the frame lies within a patch.

    Args:
        corners: (..., 2), top and left in pixels; steps without a patch are passed over.

    Returns:
        (frame_size, frame_size) in percent of all patches.
    """
    tops, lefts = _patches(corners).T
    edges = np.zeros((frame_size + 1, frame_size + 1))
    for down, right, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
        np.add.at(edges, (tops + down * patch_size, lefts + right * patch_size), sign)
    return 100 * edges.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] / max(1, len(tops))


def _patches(corners: np.ndarray) -> np.ndarray:
    """int (M, 2), those corners that are one."""
    corners = corners.reshape(-1, 2).astype(int)
    patches: np.ndarray = corners[np.all(corners != SKIPPED, axis=-1)]
    return patches
