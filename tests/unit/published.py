"""Stand-ins for the authors' checkpoints and videos, made by rule as the golden data's were.

Every tensor is drawn by a generator that its name seeds. From weights most of their row's mean is
taken, and they are scaled as for ReLU, so that a deep network of them neither fades nor explodes
and frames do not look alike to it.
"""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

GOLDEN = Path(__file__).parents[1] / "golden"


def sections(name: str) -> dict[str, dict[str, Tensor]]:
    """A published checkpoint, such as ``actnet_128``."""
    keys = json.loads((GOLDEN / f"{name}_keys.json").read_text())
    return {
        section: {key: tensor(section, key, *entry) for key, entry in entries.items()}
        for section, entries in keys.items()
    }


def tensor(section: str, key: str, shape: list[int], kind: str) -> Tensor:
    if kind == "count":
        return torch.zeros(shape, dtype=torch.int64)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{section}/{key}".encode())))
    drawn = rng.standard_normal(shape, dtype=np.float32)
    match kind:
        case "weight":
            rest = tuple(range(1, drawn.ndim))
            mean = drawn.mean(rest, dtype=np.float64, keepdims=True).astype(np.float32)
            scale = np.float32(math.sqrt(2 / math.prod(shape[1:])))
            drawn = (drawn - np.float32(0.7) * mean) * scale
        case "bn_weight":
            drawn = 1 + np.float32(0.1) * drawn
        case "var":
            drawn = 1 + np.float32(0.1) * np.abs(drawn)
        case "bias" | "mean":
            drawn = np.float32(0.05) * drawn
    return torch.from_numpy(drawn)


def videos(seed: int, batch: int, frames: int, size: int = 224) -> Tensor:
    """Normalised videos (B, T, 3, size, size): smooth clouds with a little noise on them."""
    rng = np.random.Generator(np.random.PCG64(seed))
    coarse, noise = (
        torch.from_numpy(rng.standard_normal((batch, frames, 3, side, side), dtype=np.float32))
        for side in (14, size)
    )
    clouds = functional.interpolate(coarse.flatten(0, 1), size=(size, size), mode="bicubic")
    return clouds.unflatten(0, (batch, frames)) + 0.1 * noise
