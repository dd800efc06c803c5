"""The demo's videos: one handwritten digit roams among fragments of others.

In the tradition of the cluttered, translated MNIST of the visual-attention papers (Mnih et al.,
NeurIPS 2014, arXiv 1406.6247), but as encoded video. The class is the digit, a real scan of
scikit-learn's ``load_digits``; training and validation share textures, but no scans. The pieces of
other digits are as bright as the digit and half its side, so that a glance finds the digit by its
size, but only a closer look reads it. The digit comes into sight at a random moment and leaves it
again, while the fragments stay: in the other frames there is nothing to look at.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from adafocus.data.ffmpeg import raw_frames, run_graph
from adafocus.data.forms import SPLITS
from adafocus.machine.files import atomic
from adafocus.recipe import GenerateSource

DIGITS = 10
VIDEOS_AT_A_TIME = 50
"""Videos that one ffmpeg encodes; starting it takes longer than encoding one."""
H264 = {"vcodec": "libx264", "preset": "ultrafast", "crf": 18, "pix_fmt": "yuv420p", "threads": 1}
RATE = 25
"""Frames per second."""
SPEED = (3.0, 8.0)
"""Slowest and fastest motion along each axis, as a percentage of the frame's side per frame."""


class Truth(NamedTuple):
    video: str
    split: str
    digit: int
    centres: np.ndarray
    """Floats (T, 2): y and x of the digit's centre as fractions of the frame."""


def write_videos(source: GenerateSource, folder: Path, workers: int) -> None:
    """Writes ``videos/*.mp4`` and ``annotations/`` to ``folder``, the same for the same seed.

    A video that was there before, and is the same, is as old as it was, so that its frames stay.

    The annotations are split files in the authors' form, ``classes.txt``, and ``positions.csv``
    with the digit's centre in every frame. ``workers`` batches are drawn and encoded at a time.
    """
    studio = Studio(source)
    with atomic(folder / "videos") as videos, atomic(folder / "annotations") as annotations:
        videos.mkdir()

        def write(split: str, numbers: range) -> list[Truth]:
            frames, truths = zip(*(studio.draw(split, number) for number in numbers), strict=True)
            _encode(frames, videos / f"{split}_%05d.mp4", numbers.start)
            return list(truths)

        counts = {"train": source.train, "val": source.val}
        batches = [
            (split, range(count)[start : start + VIDEOS_AT_A_TIME])
            for split, count in counts.items()
            for start in range(0, count, VIDEOS_AT_A_TIME)
        ]
        truths: list[Truth] = []
        with (
            ThreadPoolExecutor(workers) as pool,
            tqdm(desc="videos", total=sum(counts.values()), unit="video") as progress,
        ):
            for written in pool.map(write, *zip(*batches, strict=True)):
                truths += written
                progress.update(len(written))
        _annotate(truths, annotations)
        for made, before in ((path, folder / "videos" / path.name) for path in videos.iterdir()):
            if before.exists() and filecmp.cmp(made, before, shallow=False):
                shutil.copystat(before, made)


def _annotate(truths: list[Truth], folder: Path) -> None:
    folder.mkdir()
    tables = {f"{split}.txt": "" for split in SPLITS}
    tables["classes.txt"] = "".join(f"{digit}\n" for digit in range(DIGITS))
    tables["positions.csv"] = "video,frame,y,x\n"
    for video, split, digit, centres in truths:
        tables[f"{split}.txt"] += f"{video},{len(centres)},{digit}\n"
        for frame, (y, x) in enumerate(centres):
            tables["positions.csv"] += f"{video},{frame},{y:.6f},{x:.6f}\n"
    for name, text in tables.items():
        (folder / name).write_text(text, encoding="utf-8")


def _encode(videos: Sequence[np.ndarray], pattern: Path, start: int) -> None:
    """Encodes videos of one shape to files numbered from ``start``, in one stream cut apart."""
    length, height, width = videos[0].shape[:3]
    encoded = raw_frames(height, width, RATE).output(
        pattern.name,
        **H264,
        g=length,
        keyint_min=length,
        sc_threshold=0,
        format="segment",
        segment_frames=",".join(str(length * (video + 1)) for video in range(len(videos))),
        segment_start_number=start,
        reset_timestamps=1,
    )
    run_graph(encoded, pattern.parent, b"".join(video.tobytes() for video in videos))


# --- drawing ----------------------------------------------------------------------------------


class Studio:
    """Draws any video of the data set."""

    def __init__(self, source: GenerateSource) -> None:
        self.source = source
        rng = np.random.default_rng(source.seed)
        self.scans = _scans(rng, source.digit)
        self.textures = [_texture(rng, source.size) for _ in range(source.backgrounds)]

    def draw(self, split: str, index: int) -> tuple[np.ndarray, Truth]:
        """Frames of the video, uint8 (T, S, S, 3), and what they show."""
        source = self.source
        rng = np.random.default_rng((source.seed, split == "val", index))
        scans = self.scans[split]
        digit = index % DIGITS
        scan = scans[digit][index // DIGITS % len(scans[digit])]
        corners = self._path(rng, source.digit)

        ink = np.zeros((source.frames, source.size, source.size), np.float32)
        for _ in range(source.fragments):
            other = scans[(digit + rng.integers(1, DIGITS)) % DIGITS]
            fragment = _fragment(rng, other[rng.integers(len(other))])
            _draw(ink, fragment, self._path(rng, len(fragment)))
        begin = rng.integers(source.frames - source.visible + 1)
        in_sight = slice(begin, begin + source.visible)
        _draw(ink[in_sight], scan, corners[in_sight])

        texture = self.textures[rng.integers(len(self.textures))]
        drift = self._path(rng, 0)
        ground = np.stack([np.roll(texture, step, axis=(0, 1)) for step in drift])
        frames = ground + (255 - ground) * ink[..., None]
        centres = (corners + source.digit / 2) / source.size
        return frames.astype(np.uint8), Truth(f"{split}_{index:05d}", split, digit, centres)

    def _path(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """Corners (T, 2) of a square of ``side`` pixels that bounces off the frame's edges."""
        span = self.source.size - side
        start = rng.uniform(0, 2 * span, 2)
        speed = rng.uniform(*SPEED, 2) * self.source.size / 100
        travelled = start + speed * np.arange(self.source.frames)[:, None]
        corners: np.ndarray = np.rint(span - np.abs(travelled % (2 * span) - span))
        return corners.astype(int)


def _scans(rng: np.random.Generator, side: int) -> dict[str, list[np.ndarray]]:
    """Scans of each digit by split, float (N, side, side) in [0, 1]; a quarter is val's."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = zoom(images.reshape(-1, 8, 8) / 16, (1, side / 8, side / 8), order=3, mode="nearest")
    images = np.clip(2 * images - 0.3, 0, 1).astype(np.float32)
    by_digit = [rng.permutation(images[digits == digit]) for digit in range(DIGITS)]
    return {
        "train": [scans[len(scans) // 4 :] for scans in by_digit],
        "val": [scans[: len(scans) // 4] for scans in by_digit],
    }


def _fragment(rng: np.random.Generator, scan: np.ndarray) -> np.ndarray:
    """A piece of half the scan's side, from where the ink is."""
    side = len(scan) // 2
    top, left = rng.integers(0, side + 1), rng.integers(side // 4, side - side // 4 + 1)
    return scan[top : top + side, left : left + side]


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Coloured clouds that tile, float32 (size, size, 3) from dark to mid-grey."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)) * size
    spectrum = np.fft.rfft2(rng.normal(size=(3, size, size))) / np.maximum(frequency, 3) ** 1.7
    clouds = np.fft.irfft2(spectrum, (size, size))
    clouds = (clouds - clouds.mean((1, 2), keepdims=True)) / clouds.std((1, 2), keepdims=True)
    texture: np.ndarray = np.clip(60 + 25 * clouds, 0, 120)
    return texture.astype(np.float32).transpose(1, 2, 0)


def _draw(ink: np.ndarray, piece: np.ndarray, corners: np.ndarray) -> None:
    """Lays a piece on every frame of ``ink`` (T, S, S) at its corner; strokes do not add up."""
    side = len(piece)
    for frame, (top, left) in zip(ink, corners, strict=True):
        area = frame[top : top + side, left : left + side]
        np.maximum(area, piece, out=area)
