"""How fast a model learns: updates, the data for them, and how soon a job begins."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import stepwise
import torch
from bench import ROOT, Bench, write_videos
from torch import Tensor

from adafocus.data.batches import Batch, EpochSampler, loader
from adafocus.data.clips import Clips, read_augmented
from adafocus.data.draws import Draws
from adafocus.machine.device import channels_last
from adafocus.methods import STAGES
from adafocus.methods.adafocus import every_step
from adafocus.training import ppo
from adafocus.training.stage import Stage

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


def updates(bench: Bench) -> None:
    recipe, patch_size = bench.recipe("actnet")
    frames = bench.videos(recipe, bench.batch, recipe.model.frames)
    floats = bench.floats(frames)
    index = torch.arange(bench.batch, device=bench.device)
    labels = torch.eye(recipe.classes, dtype=torch.bool, device=bench.device)[index]
    draws = Draws(0, 1, 0, bench.batch, slice(0, bench.batch))
    batch = Batch(frames, frames, labels.float(), labels, index, None, draws)
    for number in (2, 1, 3):
        name = f"stage{number}"
        stages = []
        for whose in ("ours", "theirs"):
            model = bench.model(recipe, patch_size)
            if whose == "ours":
                channels_last(model).set_precision(bench.low)
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
            with bench.autocast():
                step(loss(), by)

        seconds = bench.seconds(our_update, their_update)
        what = f"stage-{number} update, {bench.batch} videos, against step by step"
        bench.add(f"stage {number}", what, *seconds, seconds[1] / seconds[0])


def computing(bench: Bench) -> None:
    """The share of stage 1 in which the GPU computes, data from disk, once each of the loader's
    processes has made its first batch."""
    recipe, patch_size = bench.recipe("actnet")
    model = channels_last(bench.model(recipe, patch_size, bench.low))
    stage = STAGES["stage1"]("stage1", model, recipe.stages.stage1)
    stage.train_mode()
    by = optimizer(stage)
    workers = 0 if bench.small else len(os.sched_getaffinity(0))
    first, rest = (1, 1) if bench.small else (workers, 3 * workers)
    torch.set_num_threads(1 if bench.device.type == "cuda" else torch.get_num_threads())
    with tempfile.TemporaryDirectory() as temporary:
        # Each video is read several times; the disk's cache holds them all in any case.
        written = min(first + rest, 4) * bench.batch
        write_videos(Path(temporary), written, 64 if bench.small else 360)
        clips = Clips(Path(temporary), "train", recipe, augment=True, seed=0)
        times = -(-(first + rest) * bench.batch // written)
        for rows in (clips.videos, clips.paths, clips.frames, clips.labels):
            rows *= times
        sampler = EpochSampler((first + rest) * bench.batch, 0)
        batched = loader(clips, bench.batch, sampler, workers, bench.device)
        draws = Draws(0, 1, 0, bench.batch, slice(0, bench.batch))

        def update(batch: Batch) -> None:
            step(stage.loss(stage.prepare(batch))[0], by)

        def epoch() -> tuple[float, Batch]:
            for number, items in enumerate(batched):
                if number == first:
                    started = bench.now()
                batch = Batch.of(items, bench.device, draws)
                update(batch)
            return bench.now() - started, batch

        def compute(batch: Batch) -> float:
            started = bench.now()
            for _ in range(rest):
                update(batch)
            return bench.now() - started

        times = []
        for _ in range(1 if bench.small else 3):
            taken, batch = epoch()
            times.append((taken, compute(batch)))
    taken, computed = (statistics.mean(each) for each in zip(*times[-2:], strict=True))
    what = f"share of stage 1 in which the device computes, {workers} workers"
    bench.add("computing", what, taken, computed, computed / taken)


def decoding(bench: Bench) -> None:
    """What Uni-AdaFocus' candidates cost that it does not use, beside an update on a video.

    Of 48 it sees 16 and chooses 16, a third of which it has seen. If those alone were decoded
    that it uses, the focuser would have to wait until its frames are there.
    """
    recipe, patch_size = bench.recipe("actnet-uni")
    shape, training = recipe.model, recipe.stages["joint"]
    stage = STAGES["joint"]("joint", channels_last(bench.model(recipe, patch_size)), training)
    stage.model.set_precision(bench.low)
    stage.train_mode()
    by, frames = optimizer(stage), bench.videos(recipe, bench.batch, shape.frames)
    labels = torch.eye(recipe.classes, dtype=torch.bool, device=bench.device)[: bench.batch]
    draws = Draws(0, 1, 0, bench.batch, slice(0, bench.batch))
    batch = Batch(frames, frames, labels.float(), labels, labels[:, 0].long(), None, draws)
    share = shape.glance_frames / shape.frames
    used = round(shape.glance_frames + (1 - share) * shape.focus_frames)
    with tempfile.TemporaryDirectory() as temporary:
        write_videos(Path(temporary), videos=1, side=64 if bench.small else 360, frames=48)

        def decode(frames: int) -> None:
            rng = np.random.default_rng(0)
            size, augmentation = shape.frame_size, recipe.augmentation
            read_augmented(Path(temporary, "0"), range(frames), size, augmentation, rng)

        all_of_them, those, update = bench.seconds(
            lambda: decode(shape.frames),
            lambda: decode(used),
            lambda: step(stage.loss(stage.prepare(batch))[0], by),
        )
    what = f"decoding {shape.frames} candidates of a video on one core, against {used} of them"
    bench.add("decoding", what, all_of_them, those, those / all_of_them)
    saved, taken = all_of_them - those, update / bench.batch
    # A GPU's loaders have cores of their own.
    cores = 1 if bench.device.type == "cuda" else torch.get_num_threads()
    what = f"the difference, against an update on a video, times {cores} cores that it takes"
    bench.add("decoding, share", what, saved, taken, saved / (cores * taken))


def imports(bench: Bench) -> None:
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
        for _ in range(bench.repeats)
    ]
    bench.rows.append(
        {"what": "import beyond torch, s", "ours": statistics.median(times), "goal": 1.5}
    )


def job(bench: Bench) -> None:
    """Seconds from the start of a training process to its first batch, its tracking begun."""
    times = []
    with tempfile.TemporaryDirectory() as temporary:
        write_videos(Path(temporary), videos=16, side=96)
        splits = Path(temporary, "splits")
        (splits / "val.csv").write_bytes((splits / "train.csv").read_bytes())
        Path(temporary, "annotations").mkdir()
        Path(temporary, "annotations", "positions.csv").write_text("video,frame,y,x\n")
        for _ in range(bench.repeats + 1):  # the first makes the store
            command = [sys.executable, "-c", FIRST_BATCH, temporary, str(time.time())]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, check=True
            )
            times.append(float(done.stdout))
    seconds = statistics.median(times[1:])
    bench.rows.append({"what": "a training job's first batch, s", "ours": seconds, "goal": 4.0})


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
