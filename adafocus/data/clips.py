"""Clips: the frames that a model sees of a video, sampled, decoded and cropped.

Sampling and augmentation are those of TSN (Wang et al., ECCV 2016, arXiv 1608.00859), as the
published code of AdaFocus uses them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from adafocus.data import DataError
from adafocus.data.listing import BYTES
from adafocus.data.store import Crop, read_frames
from adafocus.machine.files import WriteError
from adafocus.recipe import Augmentation, ModelRecipe, Recipe, Sampling

# --- sampling ---------------------------------------------------------------------------------


def sample_train(
    frames: int, segments: int, sampling: Sampling, rng: np.random.Generator
) -> np.ndarray:
    """Indices ``(segments,)``, one drawn from each of as many equal segments of the video."""
    if sampling == "even":
        return _sample_even(frames, segments, rng.random(segments))
    if frames < segments:
        return _sample_short(frames, segments, sampling)
    length = frames // segments
    return np.arange(segments) * length + rng.integers(length, size=segments)


def sample_val(frames: int, segments: int, sampling: Sampling = "last") -> np.ndarray:
    """Indices ``(segments,)``, the middle of each of as many equal segments of the video."""
    if sampling == "even":
        return _sample_even(frames, segments, 0.5)
    if frames < segments:
        return _sample_short(frames, segments, sampling)
    tick = frames / segments
    return (tick / 2 + tick * np.arange(segments)).astype(int)


def _sample_short(frames: int, segments: int, sampling: Sampling) -> np.ndarray:
    """Every frame, then the last again and again; or else the first alone, as TSM does."""
    return np.arange(segments).clip(max=frames - 1 if sampling == "last" else 0)


def _sample_even(frames: int, segments: int, offsets: np.ndarray | float) -> np.ndarray:
    """One of each share of the video, which may be less than a frame; offsets are in [0, 1)."""
    # A sum just below a whole number may be rounded up to it.
    places = (np.arange(segments) + offsets) / segments * frames
    return places.astype(int).clip(max=frames - 1)


# --- transforms -------------------------------------------------------------------------------

CROP_POSITIONS = [(y, x) for y in range(5) for x in range(5) if y % 2 == x % 2]
"""The 13 fixed positions of TSN's multi-scale crop, in quarters of the room that the crop has."""


def draw_crop(height: int, width: int, scales: tuple[float, ...], rng: np.random.Generator) -> Crop:
    """A multi-scale crop of a frame of that height and width.

    Both sides are the frame's short side times a scale, two scales that are at most one step apart.
    """
    steps = range(len(scales))
    pairs = [(i, j) for i in steps for j in steps if abs(i - j) <= 1]
    short, (down, across) = min(height, width), pairs[rng.integers(len(pairs))]
    part_height, part_width = int(short * scales[down]), int(short * scales[across])
    y, x = CROP_POSITIONS[rng.integers(len(CROP_POSITIONS))]
    top, left = y * ((height - part_height) // 4), x * ((width - part_width) // 4)
    return top, left, part_height, part_width


def read_augmented(
    path: Path,
    indices: Sequence[int],
    size: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Tensor:
    """Frames of a video, see `read_frames`, with one crop and one flip for all.

    uint8 ``(T, 3, size, size)``.
    """
    crop = partial(draw_crop, scales=augmentation.scales, rng=rng)
    resized: Tensor = F.resize(read_frames(path, indices, crop), [size, size], antialias=True)
    return resized.flip(-1) if augmentation.flip and rng.random() < 0.5 else resized


def crop_centre(clip: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The centre of each frame, uint8 ``(T, 3, H, W)`` to ``(T, 3, size, size)``.

    The short side is resized to 256/224 of ``size`` first, unless the frame has that size already.
    Also returns the height and width ``(2,)`` before the crop in units of ``size``.
    """
    if clip.shape[-2:] != (size, size):
        clip = F.resize(clip, [round(size * 256 / 224)], antialias=True)
    return F.center_crop(clip, [size, size]), torch.tensor(clip.shape[-2:]) / size


class Centred(NamedTuple):
    """What a model sees of a video that it does not learn from."""

    frames: Tensor
    """uint8 (T, 3, S, S)."""
    glance: Tensor | None
    """uint8 (frames_apart, 3, S, S), where the glancer sees others."""
    indices: np.ndarray
    """(T,), which of the video's frames they are."""
    extent: Tensor
    """(2,), see `crop_centre`."""


def centred_indices(count: int, model: ModelRecipe) -> np.ndarray:
    """The middle of each segment of a video of ``count`` frames, then those to glance at, where the
    glancer sees others."""
    segments = filter(None, (model.frames, model.frames_apart))
    return np.concatenate([sample_val(count, each, model.sampling) for each in segments])


def read_centred(
    read: Callable[[Sequence[int]], Tensor], count: int, model: ModelRecipe
) -> Centred:
    """What a model sees of a video of ``count`` frames, cropped at the centre.

    Args:
        read: gives frames as `read_frames` does, when told their indices.
    """
    indices = centred_indices(count, model)
    seen, extent = crop_centre(read([*indices]), model.frame_size)
    glance = None if model.frames_apart is None else seen[model.frames :]
    return Centred(seen[: model.frames], glance, indices[: model.frames], extent)


# --- the data set -----------------------------------------------------------------------------


class Clip(TypedDict):
    frames: Tensor
    """uint8 (T, 3, S, S)."""
    glance: NotRequired[Tensor]
    """uint8 (frames_apart, 3, S, S), cropped as ``frames`` are."""
    labels: Tensor
    """bool (classes,)."""
    index: int
    """Row of the split table."""
    positions: NotRequired[Tensor]
    """float32 (T, 2): where the truth is, y and x as fractions of the cropped frame."""


class Clips(Dataset[Clip]):
    """One clip per video of a split.

    A clip is a pure function of ``seed`` and its key ``(epoch, index)``, whichever worker loads it.
    With ``augment`` it is sampled, cropped and flipped at random, else it is the same in every
    epoch and carries ``positions`` where the recipe's annotations name them.

    Of 48 candidates, a Uni-AdaFocus uses but 27 in the mean. All are decoded all the same: 360
    pixels high they take 0.04 to 0.05 s of one core, of which 0.02 could be saved, and a prediction
    0.6 s; the focuser would wait for frames that no process can load ahead. `benchmarks/speed.py`
    measures it.
    """

    def __init__(self, folder: Path, split: str, recipe: Recipe, augment: bool, seed: int) -> None:
        text = _read_split(folder, split)
        rows = list(csv.DictReader(StringIO(text.decode(), newline="")))
        self.digest = sha256(text).hexdigest()
        """SHA-256 of the split table."""
        self.folder = folder
        self.videos = [row["video"] for row in rows]
        self.paths = [folder / row["path"] for row in rows]
        self.frames = [int(row["frames"]) for row in rows]
        self.labels = [[int(label) for label in row["labels"].split(";")] for row in rows]
        self.recipe, self.augment, self.seed = recipe, augment, seed
        self.positions = None
        if recipe.annotations.positions and not augment:
            self.positions = _read_positions(folder / "annotations" / recipe.annotations.positions)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> Clip:
        epoch, index = key
        try:
            return self._clip(epoch, index)
        except DataError as error:
            self._restore(index, error)
            return self._clip(epoch, index)

    def _clip(self, epoch: int, index: int) -> Clip:
        labels = torch.zeros(self.recipe.classes, dtype=torch.bool)
        labels[self.labels[index]] = True
        if self.augment:
            frames, glance = self._augmented(epoch, index)
            clip = Clip(frames=frames, labels=labels, index=index)
        else:
            read = partial(read_frames, self.paths[index])
            seen = read_centred(read, self.frames[index], self.recipe.model)
            clip, glance = Clip(frames=seen.frames, labels=labels, index=index), seen.glance
            if self.positions:
                whole = torch.from_numpy(self.positions[self.videos[index]][seen.indices])
                clip["positions"] = 0.5 + (whole - 0.5) * seen.extent
        if glance is not None:
            clip["glance"] = glance
        return clip

    def _augmented(self, epoch: int, index: int) -> tuple[Tensor, Tensor | None]:
        """Frames drawn from segments, cropped and flipped at random, and those to glance at."""
        model, count = self.recipe.model, self.frames[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        drawn = [*sample_train(count, model.frames, model.sampling, rng)]
        apart = []
        if model.frames_apart:
            apart = [*sample_train(count, model.frames_apart, model.sampling, rng)]

        def read(indices: list[int]) -> Tensor:
            augmentation = self.recipe.augmentation
            return read_augmented(self.paths[index], indices, model.frame_size, augmentation, rng)

        if model.crops_apart:
            return read(drawn), read(apart)
        seen = read(drawn + apart)
        return seen[: len(drawn)], seen[len(drawn) :] if apart else None

    def _restore(self, index: int, error: DataError) -> None:
        """Extracts a video again whose store has been damaged: else it would stop each attempt."""
        from adafocus.data.frames import extract_again  # here, as it needs ffmpeg

        print(f"{error}; extracting the video again", flush=True)
        try:
            video = self.videos[index], self.paths[index]
            extract_again(self.recipe.frames, self.folder, *video, others=self.paths)
        except (DataError, WriteError, OSError) as reason:
            raise DataError(
                f"{error}; it cannot be extracted again ({reason}): put a sound copy there"
            ) from None


def digest_of(folder: Path, split: str) -> str:
    """SHA-256 of a split table; raises `DataError` where there is none."""
    return sha256(_read_split(folder, split)).hexdigest()


def digest_of_sizes(folder: Path, *splits: str) -> str | None:
    """SHA-256 of the sizes of the videos that split tables name, as ``videos.csv`` lists them:
    another video under the same name has another. None where it lists none."""
    try:
        with (folder / "videos.csv").open(newline="", encoding="utf-8", errors=BYTES) as file:
            sizes = {row["video"]: row["size"] for row in csv.DictReader(file)}
    except (OSError, KeyError):
        return None
    used = (
        row["video"]
        for split in splits
        for row in csv.DictReader(StringIO(_read_split(folder, split).decode(), newline=""))
    )
    listed = "".join(f"{video},{sizes.get(video)}\n" for video in sorted(used))
    return sha256(listed.encode()).hexdigest()


def digest_of_replaced(folder: Path, *splits: str) -> str | None:
    """SHA-256 of what tells the videos of splits that took the place of others, as the report on
    splits has them; None where there are none, or an older version wrote it."""
    try:
        report = json.loads((folder / "splits" / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    found = {split: report.get(split, {}).get("replaced") for split in splits}
    if not any(found.values()):
        return None
    return sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _read_split(folder: Path, split: str) -> bytes:
    table = folder / "splits" / f"{split}.csv"
    try:
        return table.read_bytes()
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error}); write the splits first") from None


def class_names(folder: Path) -> list[str]:
    """Names of the data set's classes by index."""
    text = (folder / "splits" / "classes.txt").read_text("utf-8")
    return text.removesuffix("\n").split("\n")  # names may hold what else ends lines


def _read_positions(path: Path) -> dict[str, np.ndarray]:
    """float32 (frames, 2) by video, from rows ``video,frame,y,x``."""
    positions: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            positions.setdefault(row["video"], []).append((float(row["y"]), float(row["x"])))
    return {video: np.array(centres, np.float32) for video, centres in positions.items()}
