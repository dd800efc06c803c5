"""What `test_distributed.py` does alone, and `torchrun` in two processes that share the batches."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from noise import tiny_recipe, uni_recipe
from test_engine import CPU, run
from torch import nn

from adafocus.data.batches import EpochSampler, loader
from adafocus.data.clips import Clips
from adafocus.evaluation.exits import calibrate
from adafocus.evaluation.measurement import measure
from adafocus.evaluation.places import places_of
from adafocus.machine.distributed import all_gather_lists, is_first, joined, rank
from adafocus.machine.signals import Stopped
from adafocus.methods.adafocus import STAGES
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, write
from adafocus.model.exits import ConditionalExit
from adafocus.recipe import Recipe, parse_recipe
from adafocus.training.engine import TrainingError
from adafocus.training.stage import Stage

VIDEOS = {"train": 12, "val": 5}
"""The last batch of a validation is of one video, which two processes cannot share."""


def steady_recipe(family: str) -> Recipe:
    """Without dropout, of which each process draws its own. Where batch norms leave a gradient of
    nothing but rounding, Adam would make whole steps of it, hence SGD. Slowly, as at higher rates
    rounding grows a millionfold in a few steps on few videos, on some processors more than others.
    """
    recipe = tiny_recipe(family)
    changes: dict[str, dict[str, Any]] = {name: {"dropout": 0.0} for name in STAGES}
    changes["stage2"] = {"optimizer": "sgd"} if family == "tsm" else {}
    for name in STAGES:
        rates = recipe.stages[name].learning_rates
        changes[name]["learning_rates"] = {part: rate / 10 for part, rate in rates.items()}
    stages = {name: recipe.stages[name].model_copy(update=changes[name]) for name in STAGES}
    classifier = recipe.model.classifier.model_copy(update={"dropout": 0.0})
    return recipe.model_copy(
        update={
            "stages": recipe.stages.model_copy(update=stages),
            "model": recipe.model.model_copy(update={"classifier": classifier}),
        }
    )


def steady_uni(kind: str) -> Recipe:
    """A Uni-AdaFocus for ``long`` or ``short`` videos, likewise."""
    values = uni_recipe(kind).to_dict()
    values["model"]["head_dropout"] = values["model"]["classifier"]["dropout"] = 0.0
    rates = values["stages"]["joint"]["learning_rates"]
    rates |= {part: rate / 10 for part, rate in rates.items()}
    return parse_recipe(values, "steady.yaml")


FULL = "CUDA out of memory. Tried to allocate 20.00 GiB."


def crowded(stage: str, where: str, process: int = 1, times: int = 1) -> type[Stage]:
    """A stage during which the memory of one of both processes is full.

    Args:
        where: ``rollout``, ``backward``: in the middle of the first, ``later``: after the first
            batch, or ``validation``.
        times: so often.
    """

    class Crowded(STAGES[stage]):
        left, losses = times, 0

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if where == "backward":
                convolutions = [
                    module
                    for part in self.parts.values()
                    for module in part.modules()
                    if isinstance(module, nn.Conv2d)
                ]
                middle = convolutions[len(convolutions) // 2]
                middle.weight.register_hook(lambda gradient: self.fill())

        def fill(self) -> None:
            if rank() == process and self.left:
                Crowded.left -= 1
                raise torch.OutOfMemoryError(FULL)

        def prepare(self, batch, in_parts):
            def on_parts(batch, work):
                return in_parts(batch, lambda part: (work(part), self.fill())[0])

            return super().prepare(batch, on_parts if where == "rollout" else in_parts)

        def loss(self, videos):
            Crowded.losses += 1
            if where == "later" and self.losses > 1:
                self.fill()
            return super().loss(videos)

        def predict(self, batch):
            if where == "validation" and not self.model.training:
                self.fill()
            return super().predict(batch)

    return Crowded


def with_full_memory(folder: Path, kept: Path) -> dict[str, Any]:
    """What comes of stages during which the memory of one process is full, and what should."""
    done: dict[str, Any] = {}
    for stage, family, where in (
        ("stage1", "gru", "backward"),
        ("stage2", "tsm", "rollout"),
        ("stage3", "gru", "later"),
    ):
        # A batch norm over videos needs two.
        batch_size = 8 if where == "rollout" else 4
        recipe, full = steady_recipe(family), crowded(stage, where)
        for name, what, parts in (
            ("full", full, "auto"),
            ("expected", stage, batch_size // 4),
        ):
            file = kept / f"{stage}_{name}.pt"
            done[f"{where} {name}"] = run(
                recipe, what, folder, file, batch_size=batch_size, micro_batch=parts
            )
        done[f"{where} left"] = all_gather_lists([full.left])

    # All videos are in one batch, which the first process validates, and so is the whole training.
    full = crowded("stage1", "validation", process=0)
    run(steady_recipe("gru"), full, folder, kept / "validation.pt", batch_size=8)
    done["validation losses"] = all_gather_lists([full.losses])
    try:
        none = crowded("stage3", "later", times=9)
        run(steady_recipe("gru"), none, folder, kept / "none.pt", batch_size=4)
    except ValueError as error:
        done["no room"] = str(error)
    return done


def everything(folder: Path, kept: Path) -> dict[str, Any]:
    """What comes of all stages, of both families, and of evaluations."""
    done: dict[str, Any] = {}
    for family in ("gru", "tsm"):
        recipe = steady_recipe(family)
        for stage in STAGES:
            # MobileNetV2 is the worst.
            torch.set_default_dtype(torch.float64 if stage == "glancer" else torch.float32)
            # Stage 3 in parts too, whose gradients the processes put together once.
            parts = 1 if stage == "stage3" else "auto"
            done[f"{family} {stage}"] = run(
                recipe,
                stage,
                folder,
                kept / f"{family}_{stage}.pt",
                batch_size=4,
                micro_batch=parts,
            )
        for how in ("policy", "random", "exits") if family == "gru" else ("policy", "random"):
            torch.manual_seed(1)
            model = build(recipe, 32, with_policy=how != "random").eval()
            # Each process has its own, which only the first one's calibration is written beside.
            checkpoint = kept / f"{rank()}.safetensors"
            names = tuple(map(str, range(recipe.classes)))
            source = Checkpoint(model.state_dict(), recipe, "stage3", 32, names)
            write(checkpoint, source)
            model, exits = model.frozen(), None
            if how == "exits":
                found = calibrate(checkpoint, source, model, folder, workers=0, device=CPU)
                done["calibration"] = asdict(found)
                exits = ConditionalExit(model, np.median(found.confidence, axis=0).tolist())
            clips = Clips(folder, "val", recipe, augment=False, seed=0)
            sampler = EpochSampler(len(clips), 0, shuffle=False)
            measured = measure(places_of(model, exits), loader(clips, 2, sampler, 0, CPU), CPU, 1)
            assert (measured is None) == (not is_first())
            if measured is not None:
                scores = {"scores": measured.scores()}
                done[f"{family} evaluation {how}"] = vars(measured) | scores

    for kind in ("long", "short"):
        # MobileNetV2 learns here too.
        torch.set_default_dtype(torch.float64)
        file = kept / f"{kind}_joint.pt"
        done[f"{kind} joint"] = run(steady_uni(kind), "joint", folder, file, batch_size=4)
        torch.set_default_dtype(torch.float32)

    # In bf16 sums of halves differ from sums of wholes; that it trains is enough.
    low = kept / "low.pt"
    run(steady_recipe("gru"), "stage1", folder, low, batch_size=4, precision=torch.bfloat16)

    def stop(clip: int) -> None:
        if clip == 3 and rank() == 1:  # of one of both, in its second batch
            os.kill(os.getpid(), signal.SIGTERM)

    recipe, cut = steady_recipe("gru"), kept / "cut.pt"
    try:
        run(recipe, "stage1", folder, cut, on_clip=stop, batch_size=4)
    except Stopped as stopped:
        done["saved before any ends"] = all_gather_lists([cut.exists()])
        done["stopped"] = stopped.message
    done["cut"] = run(recipe, "stage1", folder, cut, batch_size=4)

    training = recipe.stages.glancer.model_copy(update={"learning_rates": {"glancer": 1e30}})
    stages = recipe.stages.model_copy(update={"glancer": training})
    broken = recipe.model_copy(update={"stages": stages})
    try:
        run(broken, "glancer", folder, kept / "broken.pt")
    except TrainingError as error:
        done["broken"] = str(error)
    return done


if __name__ == "__main__":
    torch.set_num_threads(1)
    data, out = map(Path, sys.argv[1:])
    with joined("cpu"):
        found = everything(data, out) | with_full_memory(data, out)
        if is_first():
            torch.save(found, out / "found.pt")
