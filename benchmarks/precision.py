"""The demo trained in bf16 and in fp32, from the same seed: does the accuracy differ?

    python benchmarks/precision.py FOLDER [--data data/demo] [--epochs 3] [--device auto]

Trains all stages in both precisions in FOLDER, on frames and splits that are there (`make demo`
makes them), prints a line for each stage and writes benchmarks/results/precision_cpu.json, or
precision_cuda.json. Both are evaluated in fp32, as every checkpoint is. ``--epochs`` shortens the
stages that have more. A CPU without units for bf16 emulates it and is slower for it: on one core,
three epochs a stage take about seven minutes. What is in FOLDER already is not trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from machine import machine

from adafocus.evaluation.run import evaluate
from adafocus.machine.device import pick_device
from adafocus.methods import train
from adafocus.methods.adafocus import STAGES
from adafocus.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[1]
PATCH_SIZE, SEED = 28, 0
STARTS = {
    "glancer": (),
    "focuser": (),
    "stage1": ("glancer", "focuser"),
    "stage2": ("glancer", "stage1"),
    "stage3": ("glancer", "stage1", "stage2"),
}
"""Stages whose checkpoints a stage is given."""


def shortened(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe with no more epochs in a stage, validated after the last of them."""
    changed = {}
    for name in STAGES:
        training = recipe.stages[name]
        fewer = min(training.epochs, epochs or training.epochs)
        changed[name] = training.model_copy(update={"epochs": fewer, "validate_every": fewer})
    return recipe.model_copy(update={"stages": recipe.stages.model_copy(update=changed)})


def train_all(recipe: Recipe, precision: str, folder: Path, data: Path, device: str) -> Any:
    """A line for each stage: top-1 on the validation videos, in percent, and seconds of epochs."""
    rows = {}
    store = f"sqlite:///{folder / 'mlflow.db'}"
    common = {"data": data, "seed": SEED, "device": device, "threads": 1, "tracking_uri": store}
    for stage, before in STARTS.items():
        checkpoint = folder / f"{stage}.safetensors"
        train(
            recipe,
            stage,
            None if stage in ("glancer", "focuser") else PATCH_SIZE,
            init=[folder / f"{name}.safetensors" for name in before],
            output=checkpoint,
            curves=folder / f"{stage}.svg",
            precision=precision,
            **common,
        )
        with (folder / f"{stage}.metrics.csv").open() as file:
            epochs = list(csv.DictReader(file))
        seconds = sum(float(row["seconds"]) for row in epochs)
        rows[stage] = {"top1": float(epochs[-1]["val_top1"]), "seconds": seconds}
    result = evaluate(checkpoint, output=folder / "stage3.json", plots=folder, **common)
    rows["evaluation"] = {
        "top1": result["metrics"]["top1"],
        "random_patches": result["baselines"]["random"]["top1"],
    }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "demo")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    recipe = shortened(load_recipe(ROOT / "config" / "recipes" / "demo.yaml"), options.epochs)
    report: dict[str, Any] = {
        "what": "top-1 in percent on the demo's validation videos, trained in each precision from"
        " one seed; of stages in the precision that trained them, of the evaluation in fp32",
        "seed": SEED,
        "epochs": {name: recipe.stages[name].epochs for name in STAGES},
        "machine": machine(device),
    }
    for precision in ("fp32", "bf16"):
        folder = options.folder.absolute() / precision
        folder.mkdir(parents=True, exist_ok=True)
        report[precision] = train_all(recipe, precision, folder, options.data, device.type)
        for stage, row in report[precision].items():
            print(f"{precision} {stage}: {json.dumps(row)}", flush=True)
    output = ROOT / "benchmarks" / "results" / f"precision_{device.type}.json"
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {output.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
