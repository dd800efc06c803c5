"""When to leave a video: thresholds for a budget, solved on predictions of the training videos.

After the budgeted batch prediction of MSDNet (Huang et al., ICLR 2018, arXiv 1703.09844).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Self
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from adafocus import legacy
from adafocus.data.batches import Batch, EpochSampler, loader, own_batches
from adafocus.data.clips import Clips, digest_of, digest_of_replaced, digest_of_sizes
from adafocus.evaluation.flops import Cost, per_visit
from adafocus.machine.distributed import all_gather_lists, is_first
from adafocus.machine.files import atomic, check_writable
from adafocus.model.checkpoint import Checkpoint, CheckpointError, digest
from adafocus.model.exits import check_can_leave
from adafocus.model.video_model import VideoModel
from adafocus.training.fingerprint import frames_of


@dataclass(frozen=True)
class Calibration:
    """What N training videos showed of a model that took all T steps of each, see `Exits`."""

    confidence: np.ndarray
    """float32 (N, T): how sure the model was after each step"""
    looked: np.ndarray
    """bool (N, T): whether the step took a look, which AdaFocus+ may not do, and the first step of
    Uni-AdaFocus does not"""
    gflops_visits: np.ndarray
    """float64 (T,), of each step without a look"""
    gflops_look: float
    """of a look"""
    checkpoint_sha256: str
    """see `_digest_of_model`; older versions wrote that of the checkpoint's file"""
    videos_sha256: str
    """see `_digests_of_videos`; older versions wrote that of the training videos' table"""

    @staticmethod
    def path_of(checkpoint: Path) -> Path:
        """Where a checkpoint's calibration lies: beside it."""
        return checkpoint.with_suffix(".exits.npz")

    @classmethod
    def of(cls, checkpoint: Path, source: Checkpoint) -> Self:
        """The calibration beside a checkpoint.

        Args:
            checkpoint: the file.
            source: what it holds.

        Raises:
            CheckpointError: where there is none, or it is of another model.
        """
        path = cls.path_of(checkpoint)
        advice = "make it: adafocus evaluate with --budget, where the training videos are"
        try:
            with np.load(path) as arrays:
                found = cls(**{name: array[()] for name, array in arrays.items()})
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such calibration; {advice}") from None
        except (OSError, EOFError, ValueError, TypeError, BadZipFile) as error:
            raise CheckpointError(f"{path}: not a calibration ({error}); {advice}") from None
        if found.checkpoint_sha256 not in (_digest_of_model(source), *legacy.digests(checkpoint)):
            raise CheckpointError(f"{path}: is of another checkpoint; {advice}")
        return found

    def write(self, path: Path) -> None:
        """Writes all arrays under their names to an ``.npz``."""
        with atomic(path) as aside:
            np.savez_compressed(aside, **asdict(self))

    @property
    def cost(self) -> Cost:
        """What the visits cost."""
        return Cost(self.gflops_visits, float(self.gflops_look))

    @property
    def gflops(self) -> np.ndarray:
        """(N, T): what each video had cost after each step."""
        return self.cost.spent(self.looked)

    def thresholds(self, budget: float) -> np.ndarray:
        """(T,) for `ConditionalExit`, such that the videos cost ``budget`` GFLOPs in the mean.

        Raises:
            ValueError: where that is less than one step costs.
        """
        least = self.gflops[:, 0].mean()
        if budget < least * (1 - 1e-9):
            # Rounded up, so that what is said is taken.
            raise ValueError(
                f"a budget of {budget:g} GFLOPs is less than the first step of a video takes; the"
                f" least is {1.005 * least:.3g}"
            )
        return solve(self.confidence, self.gflops, budget)


def solve(confidence: np.ndarray, gflops: np.ndarray, budget: float) -> np.ndarray:
    """Thresholds whose mean cost on N videos comes up to a budget and does not exceed it.

    They are the same after every step, the highest that the budget allows: the least sure videos go
    on, whichever step they are at. MSDNet lets shares in geometric progression leave after the
    steps, some thus after the first however unsure; what it solves for is the same.

    Args:
        confidence: (N, T).
        gflops: (N, T), what each video has cost after each step.
        budget: in GFLOPs per video, at least what the first step costs.

    Returns:
        (T,); the last is zero, as nobody goes further.
    """
    candidates = np.append(np.unique(confidence[:, :-1]), np.inf)

    def thresholds(candidate: int) -> np.ndarray:
        return np.append(np.full(confidence.shape[1] - 1, candidates[candidate]), 0.0)

    # The cost rises with the threshold.
    low, high = 0, len(candidates)
    while high - low > 1:
        middle = (low + high) // 2
        cost = leave(confidence, thresholds(middle), gflops).mean()
        # Sums of the same numbers may differ in their last digit.
        low, high = (middle, high) if cost <= budget * (1 + 1e-9) else (low, middle)
    return thresholds(low)


def leave(confidence: np.ndarray, thresholds: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(N,): of each video the one of its ``values`` (N, T) at the step after which it is left."""
    return np.take_along_axis(values, exit_steps(confidence, thresholds)[:, None], 1)[:, 0]


def exit_steps(confidence: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(N,): the step after which each video is left, counted from 0."""
    sure: np.ndarray = confidence >= thresholds
    sure[:, -1] = True
    steps: np.ndarray = np.argmax(sure, axis=1)
    return steps


# --- passes over videos -----------------------------------------------------------------------


def calibrate(
    checkpoint: Path,
    source: Checkpoint,
    model: VideoModel,
    data: Path,
    *,
    workers: int,
    device: torch.device,
) -> Calibration:
    """The calibration beside a checkpoint; made on all training videos where there is none of both.

    Args:
        checkpoint: the file.
        source: what it holds.
        model: the checkpoint's, in eval mode on the device.
        data: the data set's folder, with its splits.
        workers: processes that load clips.

    Raises:
        CheckpointError: where the model cannot leave early.
        DataError: where the data cannot be read.
        WriteError: where nothing can be written beside the checkpoint.
    """
    exits = check_can_leave(model, checkpoint)
    clips = Clips(data, "train", source.recipe, augment=False, seed=0)
    of_videos = _digests_of_videos(data)
    with suppress(CheckpointError):
        found = Calibration.of(checkpoint, source)
        if found.videos_sha256 in of_videos:
            return found
    check_writable(checkpoint.parent)
    seen: list[tuple[int, Tensor, Tensor]] = []
    for number, batch in my_batches(clips, workers, device, "calibration"):
        with torch.inference_mode():
            out = exits.visit_all(batch.frames, batch.glance)
        sure = exits.confidence(out.logits)
        seen.append((number, sure.cpu(), exits.looked(out.looks).cpu()))
    _, confidence, looked = zip(*sorted(all_gather_lists(seen), key=itemgetter(0)), strict=True)
    cost = per_visit(source.recipe, model.patch_size)
    made = Calibration(
        torch.cat(confidence).numpy(),
        torch.cat(looked).numpy(),
        cost.visits,
        cost.look,
        _digest_of_model(source),
        of_videos[0],
    )
    if is_first():
        made.write(Calibration.path_of(checkpoint))
    return made


def _digest_of_model(source: Checkpoint) -> str:
    """SHA-256 of what decides what a checkpoint's model sees and says: no name in its recipe, nor
    what trained it."""
    recipe = source.recipe
    facts = {
        "tensors": digest(source.tensors),
        "patch_size": source.patch_size,
        "model": recipe.model.shaped_by(source.spec.depends_on),
        "frames": frames_of(recipe),
    }
    return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digests_of_videos(data: Path) -> list[str]:
    """By which the training videos may be known: first their table, their sizes and which of them
    took the place of others; then without sizes, where listings do not tell them; and as older
    versions wrote it, unless videos were replaced since."""
    table, sizes = digest_of(data, "train"), digest_of_sizes(data, "train")
    replaced = digest_of_replaced(data, "train")
    found = [
        sha256(json.dumps([table, known, replaced]).encode()).hexdigest() for known in (sizes, None)
    ]
    return found if replaced else [*found, table]


def my_batches(
    clips: Clips, workers: int, device: torch.device, name: str
) -> Iterator[tuple[int, Batch]]:
    """This process's batches of clips in order, with their numbers; ``name`` is the bar's."""
    sampler = EpochSampler(len(clips), 0, shuffle=False)
    batch_size = clips.recipe.stages[clips.recipe.last.name].batch_size
    batches = loader(clips, batch_size, sampler, workers, device)
    bar = tqdm(batches, desc=name, unit="batch", disable=not is_first())
    return own_batches(batches, device, 0, loaded=bar)
