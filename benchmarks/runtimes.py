"""Which runtime is the fastest on this CPU: PyTorch, ONNX Runtime or OpenVINO.

    python benchmarks/runtimes.py

The very same model of `actnet` at a patch size of 128, with random weights, and of `actnet-uni`;
one video and four, of bytes. All take turns in one run on one thread, medians of seven, in seconds
of processor time, which other work on the machine disturbs least. Writes
benchmarks/results/runtimes.json; `adafocus.deploy.runtimes.FASTEST` is what this found.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from machine import machine, take_turns

from adafocus.deploy.runtimes import on_runtime
from adafocus.model import checkpoint
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint
from adafocus.recipe import load_recipe

ROOT = Path(__file__).parents[1]
PATCH_SIZE, REPEATS = 128, 7


def measure(name: str, folder: Path, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each number of videos: median seconds of processor time by each runtime."""
    recipe = load_recipe(ROOT / "config" / "recipes" / f"{name}.yaml")
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    tensors = build(recipe, PATCH_SIZE).state_dict()
    names = tuple(map(str, range(recipe.classes)))
    checkpoint.write(path, Checkpoint(tensors, recipe, recipe.last.name, PATCH_SIZE, names))
    model = checkpoint.load(path, train=True).eval()
    models = {
        runtime: on_runtime(model, path, recipe.model.glance_size, runtime)
        for runtime in ("torch", "onnx", "openvino")
    }
    rows = []
    shape = recipe.model
    for count in counts:
        frames = torch.randint(
            256, (count, shape.frames, 3, shape.frame_size, shape.frame_size), dtype=torch.uint8
        )
        glance = None
        if shape.frames_apart:
            glance = frames[:, :: shape.frames // shape.frames_apart][:, : shape.frames_apart]
        with torch.inference_mode():
            works = [lambda m=m: m(frames, glance) for m in models.values()]  # noqa: B023
            seconds = dict(zip(models, take_turns(works, REPEATS, time.process_time), strict=True))
        rows.append({"model": name, "videos": count, "seconds": seconds})
        print(name, count, "videos:", {key: round(value, 3) for key, value in seconds.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["actnet", "actnet-uni"])
    models = parser.parse_args().models
    torch.set_num_threads(1)
    found: dict[str, Any] = {"machine": machine(torch.device("cpu"))}
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # where graphs are kept
        found["rows"] = [row for name in models for row in measure(name, Path(folder), (1, 4))]
    output = ROOT / "benchmarks" / "results" / "runtimes.json"
    output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(output)


if __name__ == "__main__":
    main()
