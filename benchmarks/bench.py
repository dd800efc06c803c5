"""What benchmarks of speed share: models of random weights, their frames, turns and rows."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from machine import take_turns
from torch import Tensor, nn
from torchvision.io import write_jpeg

from adafocus.machine.device import pick_precision
from adafocus.model.backbones import Backbone, Normalize
from adafocus.model.building import build
from adafocus.model.video_model import VideoModel
from adafocus.recipe import Recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
REPEATS = 5
PATCH_SIZES = {"actnet": 128, "sthv1": 144, "actnet-uni": 128, "sthv1-uni-8": 96}
GOALS = {
    "cpu": {
        "prediction": 2.5,
        "prediction, share of GFLOPs": 0.9,
        "latency": 3.3,
        "stage 1": 1.3,
        "stage 2": 2.0,
        "stage 3": 1.3,
        "memory": 1.3,
        "skipping": 1.1,
    },
    "cuda": {
        "prediction": 4.0,
        "prediction in bf16": 10.0,
        "prediction, share of GFLOPs": 0.85,
        "latency": 8.0,
        "stage 1": 5.0,
        "stage 2": 10.0,
        "stage 3": 5.0,
        "computing": 0.9,
        "memory": 1.5,
        "skipping": 1.1,
    },
}

Work = Callable[[], Any]


class Bench:
    """One machine's measurements.

    Args:
        device: ``cpu`` or ``cuda``.
        small: tiny networks and frames, to prove that all of it runs.
    """

    def __init__(self, device: str, small: bool) -> None:
        self.device, self.small = torch.device(device), small
        self.batch = 4 if device == "cpu" else 64
        if small:
            self.batch = 2
        self.repeats = 1 if small else REPEATS
        self.low = pick_precision("auto", self.device)
        self.goals = GOALS[device]
        self.rows: list[dict[str, Any]] = []

    def recipe(self, name: str) -> tuple[Recipe, int]:
        """A data set's recipe and the patch size in pixels that is measured."""
        recipe = load_recipe(ROOT / "config" / "recipes" / f"{name}.yaml")
        if not self.small:
            return recipe, PATCH_SIZES[name]
        values = recipe.to_dict()
        values["model"]["frame_size"] = values["model"]["glance_size"] = 64
        values["model"]["focuser"] |= {"depth": 10, "width": 0.125}
        values["patch_sizes"], values["published"], values["peers"] = [32], {}, []
        if recipe.method == "uni-adafocus":
            values["model"]["policy"] |= {"smallest": 24, "largest": 48}
        return parse_recipe(values, name), 32

    def model(self, recipe: Recipe, patch_size: int, precision: torch.dtype = torch.float32) -> Any:
        """A `VideoModel` with random weights."""
        torch.manual_seed(0)
        model: VideoModel = build(recipe, patch_size).to(self.device)
        model.set_precision(precision)
        shape = recipe.model
        settle(model.glancer, self.videos(recipe, 1, shape.glance_frames or 1))
        settle(model.focuser, self.videos(recipe, 1, getattr(shape, "focus_frames", shape.frames)))
        return model.eval()

    def videos(self, recipe: Recipe, count: int, frames: int) -> Tensor:
        """Noise, uint8 (count, frames, 3, S, S), channels last in memory as a loader gives it."""
        side = recipe.model.frame_size
        shape = (count, frames, side, side, 3)
        noise = torch.randint(256, shape, dtype=torch.uint8, device=self.device)
        return noise.permute(0, 1, 4, 2, 3)

    def floats(self, frames: Tensor) -> Tensor:
        """Bytes as the opponents get them: normalised, and contiguous in memory."""
        return Normalize().to(self.device)(frames.contiguous())

    def seconds(self, *works: Work) -> list[float]:
        """Median seconds of each of several things, which take turns."""
        return take_turns(list(works), self.repeats, self.now)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def autocast(self) -> torch.autocast:
        """For the opponents: low precision wherever PyTorch thinks it safe, as is usual."""
        low = self.low != torch.float32
        return torch.autocast(self.device.type, torch.bfloat16, enabled=low)

    def add(
        self, key: str, what: str, ours: float, theirs: float, ratio: float, **more: Any
    ) -> None:
        """Keeps a row: what each took, in seconds unless said, and how they compare."""
        goal = self.goals.get(key)
        row = {"what": what, "ours": ours, "theirs": theirs, "ratio": ratio, "goal": goal, **more}
        self.rows.append(row)
        print(f"{what}: {ours:.4g} to {theirs:.4g}, ratio {ratio:.3g}, goal {goal}", flush=True)


@torch.no_grad()
def settle(backbone: Backbone, frames: Tensor) -> None:
    """Sets batch norms by what they see, as training does.

    Otherwise the features of random weights fade to numbers so small that a CPU is slow with them.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    backbone.train()(frames)
    for norm in norms:
        norm.momentum = 0.1
    backbone.eval()


def write_videos(folder: Path, videos: int, side: int, frames: int = 32) -> None:
    """A data set of folders of JPEG frames, smooth as filmed ones are."""
    (folder / "splits").mkdir()
    with (folder / "splits" / "train.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["video", "path", "frames", "labels"])
        for video in range(videos):
            place = folder / f"{video}"
            place.mkdir()
            table.writerow([video, place.name, frames, 0])

    def write(video: int) -> None:
        for t in range(frames):
            coarse = torch.randint(256, (1, 3, side // 8, side // 6)).float()
            frame = torch.nn.functional.interpolate(coarse, (side, side * 4 // 3))[0].byte()
            write_jpeg(frame, str(folder / f"{video}" / f"{t:06d}.jpg"))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(write, range(videos)))


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = ["| figure | ours | theirs | ratio | goal |", "|---|---|---|---|---|"]
    for row in report["rows"]:
        cells = [
            f"{row[key]:.3g}" if row.get(key) else "" for key in ("ours", "theirs", "ratio", "goal")
        ]
        lines.append(f"| {row['what']} | {' | '.join(cells)} |")
    facts = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    return "\n".join(
        [*lines, "", f"Seconds unless said; medians of {REPEATS}. Machine: {facts}.", ""]
    )
