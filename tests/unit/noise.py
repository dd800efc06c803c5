"""Tiny recipes of both families, and batches, data sets and checkpoints of noise for them."""

from __future__ import annotations

import csv
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torchvision.io import write_jpeg

from adafocus.data.batches import Batch
from adafocus.data.draws import Draws
from adafocus.model import checkpoint
from adafocus.model.adafocus import AdaFocus, build
from adafocus.model.checkpoint import Checkpoint
from adafocus.recipe import SPECS, Recipe, parse_recipe

BATCH, CLASSES, SIZE = 3, 5, 64

GRU = {
    "name": "tiny",
    "title": "Tiny",
    "classes": CLASSES,
    "videos": {"train": 8, "val": 4},
    "metric": "top1",
    "patch_sizes": [32, 48],
    "source": {"kind": "manual", "homepage": "nowhere"},
    "annotations": {
        "format": "split_files",
        "train": "train.txt",
        "val": "val.txt",
        "classes": "classes.txt",
    },
    "model": {
        "family": "gru",
        "frames": 4,
        "frame_size": SIZE,
        "glance_size": 32,
        "glancer": {"name": "mobilenet_v2", "width": 0.25, "output_stride": 8},
        "focuser": {"name": "resnet", "depth": 10, "width": 0.125},
        "policy": {"channels": 4, "hidden": 16, "grid": 3},
        "classifier": {"hidden": 16, "dropout": 0.5},
    },
    "stages": {
        "glancer": {"epochs": 2, "batch_size": 2, "learning_rates": {"glancer": 0.05}},
        "focuser": {"epochs": 2, "batch_size": 2, "learning_rates": {"focuser": 0.05}},
        "stage1": {
            "epochs": 2,
            "batch_size": 2,
            "learning_rates": {"focuser": 0.05, "classifier": 0.05},
        },
        "stage2": {
            "epochs": 2,
            "batch_size": 2,
            "optimizer": "adam",
            "schedule": "constant",
            "weight_decay": 0.0,
            "learning_rates": {"policy": 0.01},
            "passes": 2,
        },
        "stage3": {"epochs": 2, "batch_size": 2, "learning_rates": {"classifier": 0.05}},
    },
}


def tiny_recipe(family: str) -> Recipe:
    values = deepcopy(GRU)
    if family == "tsm":
        values["model"] |= {"family": "tsm", "glance_frames": 2}
    return parse_recipe(values, "tiny.yaml")


def uni_recipe(kind: str, **changes: object) -> Recipe:
    """The tiny recipe of a Uni-AdaFocus for ``long`` or ``short`` videos."""
    values = deepcopy(GRU)
    model = values["model"]
    rates = dict.fromkeys(("glancer", "focuser", "policy", "classifier"), 0.02)
    values |= {"method": "uni-adafocus", "patch_sizes": [24, 32]}
    values["model"] = {name: model[name] for name in ("frame_size", "glance_size")} | {
        "glancer": model["glancer"],
        "focuser": model["focuser"],
        "frames": 8,
        "glance_frames": 4,
        "focus_frames": 3,
        "policy": {"smallest": 24, "largest": 48, "channels": 8, "frame_channels": 8},
        "classifier": {"hidden": 16},
    }
    if kind == "short":
        values["model"] |= {"shift": True, "classifier": {"kind": "average"}}
        del rates["classifier"]
    values["stages"] = {"joint": {"epochs": 2, "batch_size": 2, "learning_rates": rates}}
    return parse_recipe(values | changes, "tiny.yaml")


def skipping_recipe(cost: float = 0.25) -> Recipe:
    """The tiny recipe of a policy that may skip frames."""
    values = tiny_recipe("gru").to_dict() | {"skip_costs": [cost]}
    return parse_recipe(values, "tiny.yaml").skipping(cost)


def draws_of(videos: int, seed: int = 0) -> Draws:
    """Of the first batch of the first epoch."""
    return Draws(seed, 1, 0, videos, slice(0, videos))


def noise_batch(recipe: Recipe) -> Batch:
    model = recipe.model
    frames = torch.randn(BATCH, model.frames, 3, SIZE, SIZE)
    glance = (
        torch.randn(BATCH, model.glance_frames, 3, SIZE, SIZE) if model.glance_frames else frames
    )
    labels = torch.eye(recipe.classes, dtype=torch.bool)[:BATCH]
    return Batch(frames, glance, labels.float(), labels, torch.arange(BATCH), None, draws_of(BATCH))


def skip_half(model: AdaFocus, frames: Tensor) -> AdaFocus:
    """Sets a policy's head for skipping such that it clearly skips half of these frames."""
    nn.init.normal_(model.policy.skip.weight, std=1e4)
    nn.init.zeros_(model.policy.skip.bias)
    with torch.no_grad():
        actions = model.policy(model.glance(frames).maps).actions
        skip = actions.logits[..., -1] - actions.logits[..., :-1].logsumexp(-1)
        model.policy.skip.bias -= skip.median() + 1
    return model


def write_noise(folder: Path, videos: dict[str, int]) -> Path:
    """A data set of folders of noise JPEGs with its split tables, so many videos of each split."""
    torch.manual_seed(7)
    (folder / "splits").mkdir()
    (folder / "splits" / "classes.txt").write_text("".join(f"class {i}\n" for i in range(CLASSES)))
    for split, count in videos.items():
        with (folder / "splits" / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["video", "path", "frames", "labels"])
            for i in range(count):
                video = folder / "videos" / f"{split}{i}"
                video.mkdir(parents=True)
                for t in range(6):
                    noise = torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)
                    write_jpeg(noise, str(video / f"{t:05d}.jpg"))
                table.writerow([f"{split}{i}", f"videos/{split}{i}", 6, i % CLASSES])
    return folder


@cache
def _empty_store() -> bytes:
    from mlflow import MlflowClient  # here, as a machine that is lent has none

    with TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def store_in(folder: Path) -> str:
    """Address of an MLflow store in a folder. Where there is none it is copied, as MLflow takes a
    second to make one."""
    store = folder / "mlflow.db"
    if not store.exists():
        store.write_bytes(_empty_store())
    return f"sqlite:///{store}"


def write_checkpoint(path: Path, recipe: Recipe, stage: str, patch_size: int | None) -> Path:
    """An untrained model as a stage leaves it."""
    model = build(recipe, patch_size or 32)
    tensors = {
        k: v for k, v in model.state_dict().items() if k.split(".")[0] in SPECS[stage].leaves
    }
    names = ("a",) * recipe.classes
    checkpoint.write(path, Checkpoint(tensors, recipe, stage, patch_size, names))
    return path
