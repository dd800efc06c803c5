"""How fast AdaFocus is, against the plain reading of the paper and against whole frames.

    python benchmarks/speed.py [--device cuda]

Every figure is a ratio of two things that are timed alternately in one run, medians of five. Writes
benchmarks/results/speed_cpu.json or speed_cuda.json and the same as a table beside it. Weights are
random; the patch size is 128 for `actnet`, 144 for `sthv1` and 96 for `sthv1-uni-8`.

The opponents get normalised floats, ours gets bytes, whose normalisation is part of its time.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import stepwise
import torch
from machine import machine, take_turns
from torch import Tensor, nn
from torchvision.io import write_jpeg
from whole_frames import WholeFrames, gflops

from adafocus.data.batches import Batch, EpochSampler, loader
from adafocus.data.clips import Clips, read_augmented
from adafocus.data.draws import Draws
from adafocus.evaluation import flops
from adafocus.machine.device import (
    channels_last,
    keep_freed_memory,
    peak_memory,
    pick_precision,
    tune_cudnn,
)
from adafocus.methods import STAGES
from adafocus.methods.adafocus import every_step
from adafocus.model.backbones import Backbone, Normalize
from adafocus.model.building import build
from adafocus.model.frozen import FrozenBackbone
from adafocus.model.looks import Looks
from adafocus.model.video_model import VideoModel
from adafocus.recipe import Recipe, load_recipe, parse_recipe
from adafocus.training import ppo
from adafocus.training.stage import Stage

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

    # --- the rows -----------------------------------------------------------------------------

    def prediction(self) -> None:
        self._step_by_step("actnet", "", lambda m, f: stepwise.walk(m, f, sample=False))
        recipe, patch_size = self.recipe("actnet")
        plain = self.model(recipe, patch_size)
        if self.low == torch.bfloat16:
            model = self.model(recipe, patch_size, self.low).frozen()
            frames = self.videos(recipe, self.batch, recipe.model.frames)
            floats = self.floats(frames)

            def walk() -> None:
                with self.autocast():
                    stepwise.walk(plain, floats, sample=False)

            with torch.inference_mode():
                ours, theirs = self.seconds(lambda: model(frames), walk)
            what = f"prediction in bf16, {self.batch} videos, against step by step"
            self.add("prediction in bf16", what, ours, theirs, theirs / ours)
        self._step_by_step("actnet-uni", "Uni-AdaFocus, ", stepwise.walk_uni)

    def _step_by_step(self, name: str, whose: str, walk: Callable[[Any, Tensor], Any]) -> None:
        recipe, patch_size = self.recipe(name)
        plain = self.model(recipe, patch_size)
        model = plain.frozen()
        for key, count in (("prediction", self.batch), ("latency", 1)):
            frames = self.videos(recipe, count, recipe.model.frames)
            floats = self.floats(frames)
            with torch.inference_mode():
                ours, theirs = self.seconds(
                    lambda frames=frames: model(frames), lambda floats=floats: walk(plain, floats)
                )
            what = f"{whose}{key}, {count} videos, against step by step"
            self.add(f"{whose}{key}", what, ours, theirs, theirs / ours)

    def whole_frames(self) -> None:
        for name in PATCH_SIZES:
            recipe, patch_size = self.recipe(name)
            model = self.model(recipe, patch_size, self.low).frozen()
            whole = WholeFrames(recipe).to(self.device)
            whole.backbone.precision = self.low
            settle(whole.backbone, self.videos(recipe, 1, whole.frames))
            whole.backbone = FrozenBackbone(whole.backbone)
            shape = recipe.model
            frames = self.videos(recipe, self.batch, shape.frames)
            # Only who glances at frames apart takes them.
            glance = self.videos(recipe, self.batch, shape.frames_apart or shape.frames)
            seen = self.videos(recipe, self.batch, whole.frames)
            with torch.inference_mode():
                ours, theirs = self.seconds(
                    lambda m=model, f=frames, g=glance: m(f, g), lambda w=whole, s=seen: w(s)
                )
            saved = gflops(recipe) / flops.count(recipe, patch_size)["total"]
            self.add(
                "prediction, share of GFLOPs",
                f"prediction, {name} {patch_size}, {self.batch} videos, against whole frames, "
                "as a share of the ratio of GFLOPs",
                ours,
                theirs,
                theirs / ours / saved,
                faster=theirs / ours,
                gflops_ratio=saved,
            )

    def parts(self) -> None:
        """What each network alone makes of the machine: where the share of GFLOPs is lost."""
        recipe, patch_size = self.recipe("actnet")
        model = self.model(recipe, patch_size, self.low).frozen()
        frames = self.videos(recipe, self.batch, recipe.model.frames)
        patches = frames[..., :patch_size, :patch_size]
        counts = flops.count(recipe, patch_size)["parts"]
        works = (
            ("glancer on whole frames", counts["glancer"], lambda: model.glancer(frames)),
            ("focuser on patches", counts["focuser"], lambda: model.focuser(patches)),
            ("focuser on whole frames", gflops(recipe), lambda: model.focuser(frames)),
        )
        with torch.inference_mode():
            seconds = self.seconds(*(work for *_, work in works))
        for (what, count, _), taken in zip(works, seconds, strict=True):
            rate = count * self.batch / taken
            self.rows.append({"what": f"{what}, GFLOPs a second", "ours": rate})
            print(f"{what}: {rate:.0f} GFLOPs a second", flush=True)

    def skipping(self) -> None:
        """Whether a skipped frame saves its time: the focuser where 40% of frames are skipped."""
        recipe, patch_size = self.recipe("actnet")
        skipping = recipe.skipping(recipe.skip_costs[0])
        model = self.model(skipping, patch_size, self.low).frozen()
        frames = self.videos(recipe, self.batch, recipe.model.frames)
        looks = Looks.at(model.random_boxes(*frames.shape[:2]).to(self.device), frames.shape[1])
        some, total = looks._replace(skipped=looks.skipped.clone()), looks.skipped.numel()
        skipped = torch.randperm(total, device=self.device)[: round(0.4 * total)]
        some.skipped.view(-1)[skipped] = True
        with torch.inference_mode():
            ours, theirs = self.seconds(
                lambda: model.focus(frames, some), lambda: model.focus(frames, looks)
            )
        share = 1 - len(skipped) / total
        what = f"focuser, {100 * share:.0f}% of frames, against all, as a share of that"
        self.add("skipping", what, ours, theirs, ours / theirs / share)

    def compiling(self) -> None:
        """Whether `torch.compile` pays within an evaluation: what it takes and what it gives."""
        if self.device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
            print("no C++ compiler: torch.compile is not measured")
            return
        recipe, patch_size = self.recipe("actnet")
        plain = self.model(recipe, patch_size, self.low)
        model, compiled = plain.frozen(), plain.frozen()
        for backbone in (compiled.glancer, compiled.focuser):
            for name, part in backbone.trunk.named_children():
                setattr(backbone.trunk, name, torch.compile(part, options={"freezing": True}))
        frames = self.videos(recipe, self.batch, recipe.model.frames)
        with torch.no_grad():
            started = self.now()
            compiled(frames)
            taken = self.now() - started
            ours, theirs = self.seconds(lambda: model(frames), lambda: compiled(frames))
        what = f"prediction against compiled, which takes {taken:.0f} s to compile"
        self.add("compiled", what, ours, theirs, theirs / ours)

    def updates(self) -> None:
        recipe, patch_size = self.recipe("actnet")
        frames = self.videos(recipe, self.batch, recipe.model.frames)
        floats = self.floats(frames)
        index = torch.arange(self.batch, device=self.device)
        labels = torch.eye(recipe.classes, dtype=torch.bool, device=self.device)[index]
        draws = Draws(0, 1, 0, self.batch, slice(0, self.batch))
        batch = Batch(frames, frames, labels.float(), labels, index, None, draws)
        for number in (2, 1, 3):
            name = f"stage{number}"
            stages = []
            for whose in ("ours", "theirs"):
                model = self.model(recipe, patch_size)
                if whose == "ours":
                    channels_last(model).set_precision(self.low)
                stage = STAGES[name](name, model, recipe.stages[name])
                stage.train_mode()
                stages.append((stage, optimizer(stage)))
            (ours, our_optimizer), (theirs, their_optimizer) = stages

            def losses(stage: Stage = theirs, number: int = number) -> Tensor:
                return stepwise_loss(number, stage, floats, batch.target)

            def our_update(stage: Stage = ours, by: torch.optim.Optimizer = our_optimizer) -> None:
                step(stage.loss(stage.prepare(batch))[0], by)

            def their_update(
                loss: Callable[[], Tensor] = losses, by: torch.optim.Optimizer = their_optimizer
            ) -> None:
                with self.autocast():
                    step(loss(), by)

            seconds = self.seconds(our_update, their_update)
            what = f"stage-{number} update, {self.batch} videos, against step by step"
            self.add(f"stage {number}", what, *seconds, seconds[1] / seconds[0])

    def computing(self) -> None:
        """The share of stage 1 in which the GPU computes, data from disk, once each of the loader's
        processes has made its first batch."""
        recipe, patch_size = self.recipe("actnet")
        model = channels_last(self.model(recipe, patch_size, self.low))
        stage = STAGES["stage1"]("stage1", model, recipe.stages.stage1)
        stage.train_mode()
        by = optimizer(stage)
        workers = 0 if self.small else len(os.sched_getaffinity(0))
        first, rest = (1, 1) if self.small else (workers, 3 * workers)
        torch.set_num_threads(1 if self.device.type == "cuda" else torch.get_num_threads())
        with tempfile.TemporaryDirectory() as temporary:
            # Each video is read several times; the disk's cache holds them all in any case.
            written = min(first + rest, 4) * self.batch
            write_videos(Path(temporary), written, 64 if self.small else 360)
            clips = Clips(Path(temporary), "train", recipe, augment=True, seed=0)
            times = -(-(first + rest) * self.batch // written)
            for rows in (clips.videos, clips.paths, clips.frames, clips.labels):
                rows *= times
            sampler = EpochSampler((first + rest) * self.batch, 0)
            batched = loader(clips, self.batch, sampler, workers, self.device)
            draws = Draws(0, 1, 0, self.batch, slice(0, self.batch))

            def update(batch: Batch) -> None:
                step(stage.loss(stage.prepare(batch))[0], by)

            def epoch() -> tuple[float, Batch]:
                for number, items in enumerate(batched):
                    if number == first:
                        started = self.now()
                    batch = Batch.of(items, self.device, draws)
                    update(batch)
                return self.now() - started, batch

            def compute(batch: Batch) -> float:
                started = self.now()
                for _ in range(rest):
                    update(batch)
                return self.now() - started

            times = []
            for _ in range(1 if self.small else 3):
                taken, batch = epoch()
                times.append((taken, compute(batch)))
        taken, computed = (statistics.mean(each) for each in zip(*times[-2:], strict=True))
        what = f"share of stage 1 in which the device computes, {workers} workers"
        self.add("computing", what, taken, computed, computed / taken)

    def decoding(self) -> None:
        """What Uni-AdaFocus' candidates cost that it does not use, beside an update on a video.

        Of 48 it sees 16 and chooses 16, a third of which it has seen. If those alone were decoded
        that it uses, the focuser would have to wait until its frames are there.
        """
        recipe, patch_size = self.recipe("actnet-uni")
        shape, training = recipe.model, recipe.stages["joint"]
        stage = STAGES["joint"]("joint", channels_last(self.model(recipe, patch_size)), training)
        stage.model.set_precision(self.low)
        stage.train_mode()
        by, frames = optimizer(stage), self.videos(recipe, self.batch, shape.frames)
        labels = torch.eye(recipe.classes, dtype=torch.bool, device=self.device)[: self.batch]
        draws = Draws(0, 1, 0, self.batch, slice(0, self.batch))
        batch = Batch(frames, frames, labels.float(), labels, labels[:, 0].long(), None, draws)
        share = shape.glance_frames / shape.frames
        used = round(shape.glance_frames + (1 - share) * shape.focus_frames)
        with tempfile.TemporaryDirectory() as temporary:
            write_videos(Path(temporary), videos=1, side=64 if self.small else 360, frames=48)

            def decode(frames: int) -> None:
                rng = np.random.default_rng(0)
                size, augmentation = shape.frame_size, recipe.augmentation
                read_augmented(Path(temporary, "0"), range(frames), size, augmentation, rng)

            all_of_them, those, update = self.seconds(
                lambda: decode(shape.frames),
                lambda: decode(used),
                lambda: step(stage.loss(stage.prepare(batch))[0], by),
            )
        what = f"decoding {shape.frames} candidates of a video on one core, against {used} of them"
        self.add("decoding", what, all_of_them, those, those / all_of_them)
        saved, taken = all_of_them - those, update / self.batch
        # A GPU's loaders have cores of their own.
        cores = 1 if self.device.type == "cuda" else torch.get_num_threads()
        what = f"the difference, against an update on a video, times {cores} cores that it takes"
        self.add("decoding, share", what, saved, taken, saved / (cores * taken))

    def memory(self) -> None:
        """Each in a process of its own."""
        peaks = []
        for who in ("ours", "stepwise"):
            command = [sys.executable, __file__, "--device", self.device.type, "--peak", who]
            command += ["--small"] * self.small
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout) / 1e6)
        what = f"peak memory of prediction, {self.batch} videos, MB, against step by step"
        self.add("memory", what, *peaks, peaks[0] / peaks[1])

    def peak(self, who: str) -> float:
        """Bytes that one prediction takes at most, with all that it needs."""
        recipe, patch_size = self.recipe("actnet")
        model = self.model(recipe, patch_size)
        frames = self.videos(recipe, self.batch, recipe.model.frames)
        with torch.inference_mode():
            if who == "ours":
                model = model.frozen()
                model(frames)
            else:
                stepwise.walk(model, self.floats(frames), sample=False)
        return peak_memory(self.device)

    def imports(self) -> None:
        """Seconds to import all public names once torch is there."""
        code = (
            "import time, torch; started = time.perf_counter(); import adafocus;"
            "[getattr(adafocus, name) for name in adafocus.__all__];"
            "print(time.perf_counter() - started)"
        )
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        times = [
            float(subprocess.run(command, capture_output=True, env=environment, check=True).stdout)
            for _ in range(self.repeats)
        ]
        self.rows.append(
            {"what": "import beyond torch, s", "ours": statistics.median(times), "goal": 1.5}
        )

    def job(self) -> None:
        """Seconds from the start of a training process to its first batch, its tracking begun."""
        times = []
        with tempfile.TemporaryDirectory() as temporary:
            write_videos(Path(temporary), videos=16, side=96)
            splits = Path(temporary, "splits")
            (splits / "val.csv").write_bytes((splits / "train.csv").read_bytes())
            Path(temporary, "annotations").mkdir()
            Path(temporary, "annotations", "positions.csv").write_text("video,frame,y,x\n")
            for _ in range(self.repeats + 1):  # the first makes the store
                command = [sys.executable, "-c", FIRST_BATCH, temporary, str(time.time())]
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                done = subprocess.run(
                    command, cwd=ROOT, env=environment, capture_output=True, check=True
                )
                times.append(float(done.stdout))
        seconds = statistics.median(times[1:])
        self.rows.append({"what": "a training job's first batch, s", "ours": seconds, "goal": 4.0})


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


FIRST_BATCH = """
import os, sys, time
from pathlib import Path
from adafocus.recipe import load_recipe
from adafocus.methods import train
from adafocus.training import engine

class Batch:
    def of(*_):
        print(time.time() - float(sys.argv[2]), flush=True)
        os._exit(0)

engine.Batch = Batch
folder = Path(sys.argv[1])
train(
    load_recipe("config/recipes/demo.yaml"), "glancer", None, data=folder, init=[],
    output=folder / "glancer.safetensors", curves=folder / "curves.svg", seed=0, device="cpu",
    threads=1, tracking_uri=f"sqlite:///{folder}/mlflow.db",
)
"""


def optimizer(stage: Stage) -> torch.optim.Optimizer:
    parameters = [p for part in stage.parts.values() for p in part.parameters()]
    return torch.optim.SGD(parameters, lr=1e-4, momentum=0.9)


def step(loss: Tensor, by: torch.optim.Optimizer) -> None:
    by.zero_grad(set_to_none=True)
    loss.backward()
    by.step()


def stepwise_loss(number: int, stage: Stage, frames: Tensor, target: Tensor) -> Tensor:
    """The loss of stage 1, 2 or 3, step by step."""
    if number == 1:
        return every_step(stepwise.stage1_logits(stage.model, frames), target)
    if number == 3:
        return every_step(stepwise.stage3_logits(stage.model, frames), target)
    training = stage.training
    rollout = stepwise.rollout(stage.model, frames, target)
    return ppo.loss(
        stage.model.policy(rollout.maps),
        rollout,
        ppo.standardized(ppo.discounted_returns(rollout.reward, training.gamma)),
        clip=training.clip,
        value_coefficient=training.value_coefficient,
        entropy_coefficient=training.entropy_coefficient,
    ).total


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--small", action="store_true", help="prove that all of it runs")
    parser.add_argument("--peak", choices=("ours", "stepwise"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_cudnn() if options.device == "cuda" else keep_freed_memory()
    bench = Bench(options.device, options.small)
    if options.peak:
        print(bench.peak(options.peak))
        return
    report = {"machine": machine(bench.device), "rows": bench.rows}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"speed_{options.device}.json"
    # Memory first, as a process begins with the peak of the one that it came from.
    measures = [bench.memory, bench.prediction, bench.whole_frames, bench.updates]
    if options.device == "cuda" or options.small:
        measures.append(bench.computing)
    measures += [bench.parts, bench.skipping, bench.decoding]
    measures += [] if options.small else [bench.compiling]
    if find_spec("mlflow") and find_spec("ffmpeg"):
        measures += [bench.imports, bench.job]
    else:
        print("no MLflow or ffmpeg-python: imports and a job's first batch are not measured")
    for measure in measures:
        try:
            measure()
        except Exception as error:  # a machine lent for minutes must tell all that it can
            traceback.print_exc()
            bench.rows.append({"what": f"{measure.__name__} failed: {type(error).__name__}"})
        # What is measured stays, though the time may run out.
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(table(report), encoding="utf-8")
    print(table(report))
    if not all("ours" in row for row in bench.rows):
        sys.exit("Not all could be measured.")


if __name__ == "__main__":
    main()
