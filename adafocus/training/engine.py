"""The engine: epochs, optimizer, mixed precision, validation, resume.

It knows nothing of a stage but what it trains, which losses it yields for a batch and how it
predicts; a stage knows nothing of epochs.
"""

from __future__ import annotations

import csv
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from adafocus.data.clips import Batch, EpochSampler
from adafocus.device import autocast
from adafocus.evaluation.metrics import accuracy
from adafocus.files import whole
from adafocus.meter import Meter
from adafocus.model.adafocus import AdaFocus
from adafocus.recipe import TRAINED_PARTS, HeadTraining, Metric, Training

Losses = Iterator[tuple[Tensor, dict[str, Tensor]]]
"""Losses of one batch, each with what is to be logged; one optimizer step follows each."""


class Stage(ABC):
    """What one stage trains and by which loss.

    Args:
        name: ``glancer``, ``focuser``, ``stage1``, ``stage2`` or ``stage3``.
        model: the whole model; only the parts that the stage trains change.
        training: the stage's section of the recipe.
    """

    def __init__(self, name: str, model: AdaFocus, training: Training) -> None:
        self.model = model
        self.training = training
        self.parts = {part: getattr(model, part) for part in TRAINED_PARTS[name]}
        if isinstance(training, HeadTraining) and training.dropout is not None:
            for part in self.parts.values():
                part.dropout.p = training.dropout

    @abstractmethod
    def losses(self, batch: Batch) -> Losses:
        """Yields the losses of a batch; each is computed after the step on the one before."""

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K) of whole videos, for validation."""

    @cached_property
    def frozen(self) -> AdaFocus:
        """The model with faster copies of the backbones that the stage does not train.

        Made on first use, when the model has its weights and is on its device.
        """
        return self.model.frozen(*({"glancer", "focuser"} - self.parts.keys()))

    def train_mode(self) -> None:
        """What is trained is in train mode, all else in eval mode and without gradients."""
        self.model.eval().requires_grad_(False)
        for part in self.parts.values():
            part.train().requires_grad_(True)


@dataclass
class Progress:
    """How far a training run has come; a resume file holds it."""

    epoch: int = 0
    """Epochs done."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row of metrics per epoch."""
    best: float = -math.inf
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    """The trained parts at their best epoch."""


def fit(
    stage: Stage,
    clips: DataLoader,
    validation: DataLoader,
    *,
    metric: Metric,
    seed: int,
    device: torch.device,
    resume: Path,
    fingerprint: str,
    on_epoch: Callable[[dict[str, float]], None],
) -> Progress:
    """Trains a stage and leaves the model with the weights of its best epoch.

    Args:
        clips: training batches, drawn by an `EpochSampler`.
        validation: validation batches.
        metric: chooses the best epoch; the first of equals wins.
        seed: with the epoch's number, fixes all randomness of an epoch.
        resume: file of the latest epoch, taken up if its fingerprint is the same.
        fingerprint: tells whether a resume file belongs to this run.
        on_epoch: is given each epoch's row, those of a resumed run included.
    """
    training = stage.training
    model = stage.model.to(device, memory_format=torch.channels_last)
    stage.train_mode()
    optimizer = _optimizer(stage)
    scheduler = LambdaLR(optimizer, _schedule(training, len(clips)))
    progress = _resumed(resume, fingerprint, stage, optimizer, scheduler) or Progress()
    for row in progress.history:
        on_epoch(row)

    sampler = clips.sampler
    assert isinstance(sampler, EpochSampler)
    with tqdm(
        total=training.epochs * len(clips),
        initial=progress.epoch * len(clips),
        desc="training",
        unit="batch",
    ) as bar:
        for epoch in range(progress.epoch, training.epochs):
            started = time.monotonic()
            sampler.epoch = epoch
            torch.manual_seed(seed * 1_000_003 + epoch)
            rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
            row = {"epoch": epoch + 1, **{f"learning_rate_{k}": v for k, v in rates.items()}}
            row |= _train(stage, clips, optimizer, scheduler, device, bar)
            # The same draws after every epoch, so that stage 1's random patches compare.
            torch.manual_seed(seed)
            row |= {f"val_{k}": v for k, v in validate(stage, validation, device).items()}
            row["seconds"] = time.monotonic() - started
            bar.set_postfix({"epoch": epoch + 1, metric: f"{row[f'val_{metric}']:.1f}"})

            progress.epoch = epoch + 1
            progress.history.append(row)
            if row[f"val_{metric}"] > progress.best:
                progress.best = row[f"val_{metric}"]
                progress.best_tensors = {k: v.clone() for k, v in _tensors(stage).items()}
            _save(resume, fingerprint, stage, optimizer, scheduler, progress)
            on_epoch(row)
    model.load_state_dict(progress.best_tensors, strict=False)
    return progress


def _train(
    stage: Stage,
    clips: DataLoader,
    optimizer: Optimizer,
    scheduler: LambdaLR,
    device: torch.device,
    bar: tqdm,
) -> dict[str, float]:
    """One epoch; returns the means of what the stage logs, and what its `Meter` says."""
    stage.train_mode()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sums: dict[str, Tensor] = {}
    steps = videos = 0
    meter = Meter(device)
    for items in meter.watch(clips):
        batch = Batch.of(items, device)
        videos += len(batch.index)
        with autocast(device):
            losses = stage.losses(batch)
            for loss, logs in losses:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if stage.training.clip_gradient is not None:
                    nn.utils.clip_grad_norm_(parameters, stage.training.clip_gradient)
                optimizer.step()
                steps += 1
                for name, value in logs.items():
                    sums[name] = sums.get(name, 0) + value.detach()
        scheduler.step()
        bar.update()
    # Reading the sums waits for the device, so that all its work is counted below.
    means = {name: float(value) / steps for name, value in sums.items()}
    return means | meter.figures(videos)


@torch.inference_mode()
def validate(stage: Stage, clips: DataLoader, device: torch.device) -> dict[str, float]:
    """Accuracy of a stage's predictions."""
    stage.model.eval()
    logits, labels = [], []
    for items in clips:
        batch = Batch.of(items, device)
        with autocast(device):
            logits.append(stage.predict(batch).float().cpu())
        labels.append(items["labels"])
    return accuracy(torch.cat(logits), torch.cat(labels))


def _optimizer(stage: Stage) -> Optimizer:
    training = stage.training
    groups = [
        {"params": list(part.parameters()), "lr": training.learning_rates[name], "name": name}
        for name, part in stage.parts.items()
    ]
    if training.optimizer == "adam":
        return Adam(groups, weight_decay=training.weight_decay)
    return SGD(groups, momentum=training.momentum, weight_decay=training.weight_decay)


def _schedule(training: Training, batches: int) -> Callable[[int], float]:
    """The factor on all rates after so many batches."""

    def factor(batch: int) -> float:
        match training.schedule:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * batch / (training.epochs * batches)))
            case "step":
                return 0.1 ** sum(batch >= m * batches for m in training.milestones)
            case _:
                return 1.0

    return factor


# --- resume -----------------------------------------------------------------------------------


def _tensors(stage: Stage) -> dict[str, Tensor]:
    """Weights and buffers of what the stage trains, by their name in the model."""
    return {
        f"{name}.{key}": tensor
        for name, part in stage.parts.items()
        for key, tensor in part.state_dict().items()
    }


def _save(
    path: Path,
    fingerprint: str,
    stage: Stage,
    optimizer: Optimizer,
    scheduler: LambdaLR,
    progress: Progress,
) -> None:
    state = {
        "fingerprint": fingerprint,
        "tensors": _tensors(stage),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "progress": vars(progress),
    }
    with whole(path) as aside:
        torch.save(state, aside)


def _resumed(
    path: Path, fingerprint: str, stage: Stage, optimizer: Optimizer, scheduler: LambdaLR
) -> Progress | None:
    """Takes up a resume file, if there is one of the same run."""
    if not path.exists():
        return None
    device = next(stage.model.parameters()).device
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if state["fingerprint"] != fingerprint:
        tqdm.write(
            f"{path} is of another run (recipe, data, seed or checkpoints changed): starting over"
        )
        return None
    stage.model.load_state_dict(state["tensors"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    progress = Progress(**state["progress"])
    tqdm.write(f"resuming after epoch {progress.epoch} from {path}")
    return progress


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """One row per epoch as CSV."""
    with whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, history[-1].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(history)
