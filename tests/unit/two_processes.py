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
from noise import tiny_recipe
from test_engine import CPU, run

from adafocus.data.batches import EpochSampler, loader
from adafocus.data.clips import Clips
from adafocus.distributed import is_first, joined, rank
from adafocus.evaluation.exits import calibrate
from adafocus.evaluation.measurement import measure
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint, write
from adafocus.model.exits import ConditionalExit
from adafocus.recipe import Recipe
from adafocus.signals import Stopped
from adafocus.training import STAGES
from adafocus.training.engine import TrainingError

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
            write(checkpoint, Checkpoint(model.state_dict(), recipe, "stage3", 32, names))
            model, exits = model.frozen(), None
            if how == "exits":
                found = calibrate(checkpoint, model, recipe, folder, workers=0, device=CPU)
                done["calibration"] = asdict(found)
                exits = ConditionalExit(model, np.median(found.confidence, axis=0).tolist())
            clips = Clips(folder, "val", recipe, augment=False, seed=0)
            sampler = EpochSampler(len(clips), 0, shuffle=False)
            measured = measure(model, loader(clips, 2, sampler, 0, CPU), CPU, 1, exits)
            assert (measured is None) == (not is_first())
            if measured is not None:
                scores = {"scores": measured.scores()}
                done[f"{family} evaluation {how}"] = vars(measured) | scores

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
        found = everything(data, out)
        if is_first():
            torch.save(found, out / "found.pt")
