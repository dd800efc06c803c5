"""The engine: epochs, optimizer, mixed precision, validation, resume.

It knows nothing of a stage but what it trains, which losses it yields for a batch and how it
predicts; a stage knows nothing of epochs.
"""

from __future__ import annotations

import csv
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from adafocus.device import autocast, name_what_fills_memory
from adafocus.evaluation.metrics import accuracy
from adafocus.files import whole
from adafocus.meter import Meter
from adafocus.model.adafocus import AdaFocus
from adafocus.recipe import TRAINED_PARTS, Config, HeadTraining, Metric, Training
from adafocus.signals import Stop, Stopped
from adafocus.training.resume import ResumeFile

CHECKPOINT_MINUTES: float = Config.model_fields["checkpoint_minutes"].default

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
        self.name = name
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


class TrainingError(ValueError):
    """Training that cannot go on; the message is one line that says what to do."""


@dataclass
class Pass:
    """How far an epoch has come."""

    batches: int = 0
    """Done, all steps on each of them included."""
    steps: int = 0
    videos: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Of what the stage logs, over steps."""
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of them spent waiting for data."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """States of torch's random generators, by kind of device."""


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
    begun: Pass = field(default_factory=Pass)
    """The epoch after those done."""


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
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
) -> Progress:
    """Trains a stage and leaves the model with the weights of its best epoch.

    Args:
        clips: training batches, drawn by an `EpochSampler`.
        validation: validation batches.
        metric: chooses the best epoch; the first of equals wins.
        seed: with the epoch's number, fixes all randomness of an epoch.
        resume: file of the latest state, taken up if its fingerprint is the same.
        fingerprint: tells whether a resume file belongs to this run.
        on_epoch: is given each epoch's row, those of a resumed run included.
        checkpoint_minutes: the state is saved after so many, and after every epoch.

    Raises:
        Stopped: after a signal, when the step is done and the state is saved.
        TrainingError: where a loss is not finite; the state saved last is from before it.
        ValueError: where a batch does not fit into the GPU's memory.
        WriteError: where the state cannot be saved.
    """
    model = stage.model.to(device, memory_format=torch.channels_last)
    stage.train_mode()
    optimizer = _optimizer(stage)
    factor = _schedule(stage.training, len(clips))
    scheduler = LambdaLR(optimizer, factor)
    run = _Run(
        stage=stage,
        clips=clips,
        optimizer=optimizer,
        scheduler=scheduler,
        device=device,
        resume=ResumeFile(resume, fingerprint),
        interval=60 * checkpoint_minutes,
    )
    progress = run.progress
    for row in progress.history:
        on_epoch(row)
    epochs = stage.training.epochs
    with (
        run.stop,
        name_what_fills_memory(stage.name, stage.training.batch_size),
        tqdm(
            total=epochs * len(clips),
            initial=progress.epoch * len(clips) + progress.begun.batches,
            desc="training",
            unit="batch",
        ) as bar,
    ):
        while progress.epoch < epochs:
            epoch = progress.epoch
            torch.manual_seed(seed * 1_000_003 + epoch)
            row = {"epoch": epoch + 1}
            for part, rate in zip(stage.parts, scheduler.base_lrs, strict=True):
                row[f"learning_rate_{part}"] = rate * factor(epoch * len(clips))
            row |= run.train(bar)
            # The same draws after every epoch, so that stage 1's random patches compare.
            torch.manual_seed(seed)
            started = time.monotonic()
            scores = validate(stage, run.unless_stopped(validation), device)
            row |= {f"val_{k}": v for k, v in scores.items()}
            row["seconds"] = progress.begun.seconds + time.monotonic() - started
            bar.set_postfix({"epoch": epoch + 1, metric: f"{row[f'val_{metric}']:.1f}"})

            progress.epoch, progress.begun = epoch + 1, Pass()
            progress.history.append(row)
            if row[f"val_{metric}"] > progress.best:
                progress.best = row[f"val_{metric}"]
                progress.best_tensors = {k: v.clone() for k, v in _tensors(stage).items()}
            run.save()
            on_epoch(row)
            run.end_if_stopped()
    model.load_state_dict(progress.best_tensors, strict=False)
    return progress


class _Run:
    """A training run that goes on from where its resume file says."""

    def __init__(
        self,
        *,
        stage: Stage,
        clips: DataLoader,
        optimizer: Optimizer,
        scheduler: LambdaLR,
        device: torch.device,
        resume: ResumeFile,
        interval: float,
    ) -> None:
        self.stage, self.clips, self.device = stage, clips, device
        self.optimizer, self.scheduler = optimizer, scheduler
        self.resume, self.interval = resume, interval
        self.saved = time.monotonic()
        self.stop = Stop()
        self.watch = _LossWatch(stage, clips.dataset.videos, resume.path)
        self.progress = self._resumed()

    def train(self, bar: tqdm) -> dict[str, float]:
        """What is left of an epoch; returns the means of what the stage logs over all of it, and
        what its `Meter` says."""
        stage, optimizer, part = self.stage, self.optimizer, self.progress.begun
        stage.train_mode()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        sampler = self.clips.sampler
        assert isinstance(sampler, EpochSampler)
        sampler.epoch, sampler.skip = self.progress.epoch, part.batches * self.clips.batch_size
        meter = Meter(self.device, part.seconds, part.waited)
        batches = iter(self.clips)  # which draws a number
        _set_random_states(part.random)
        for items in meter.watch(batches):
            batch = Batch.of(items, self.device)
            finite = torch.ones((), dtype=torch.bool, device=self.device)
            with autocast(self.device):
                for loss, logs in stage.losses(batch):
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    if stage.training.clip_gradient is not None:
                        nn.utils.clip_grad_norm_(parameters, stage.training.clip_gradient)
                    optimizer.step()
                    part.steps += 1
                    finite &= loss.detach().isfinite()
                    for name, value in logs.items():
                        part.sums[name] = part.sums.get(name, 0) + value.detach()
            self.scheduler.step()
            bar.update()
            part.batches += 1
            part.videos += len(batch.index)
            part.seconds, part.waited = meter.seconds, meter.waited
            self.watch.see(finite, items["index"], self._where())
            if time.monotonic() - self.saved >= self.interval:
                self.save()
            self.end_if_stopped()
        self.watch.settle()
        self.watch.check(_tensors(stage).values())
        # Reading the sums waits for the device, so that all its work is counted below.
        means = {name: float(value) / part.steps for name, value in part.sums.items()}
        part.seconds = meter.seconds
        return means | meter.figures(part.videos)

    def unless_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches, unless a signal ends the run."""
        for batch in batches:
            self.end_if_stopped()
            yield batch

    def end_if_stopped(self) -> None:
        """Saves the state and raises `Stopped` where a signal came."""
        if number := self.stop.number:
            self.save()
            message = (
                f"{signal.Signals(number).name} came: saved {self._where()} in {self.resume.path};"
                " the same command goes on from there"
            )
            tqdm.write(message)
            raise Stopped(number, message)

    def save(self) -> None:
        """Raises `TrainingError` and leaves the file alone where the state is of no use."""
        self.watch.settle()
        tensors = _tensors(self.stage)
        self.watch.check(tensors.values())
        progress = self.progress
        if progress.begun.batches:
            progress.begun.random = _random_states(self.device)
        self.resume.write(
            {
                "tensors": tensors,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "progress": vars(progress) | {"begun": vars(progress.begun)},
            }
        )
        self.saved = time.monotonic()

    def _resumed(self) -> Progress:
        state = self.resume.read(self.device)
        if state is None:
            return Progress()
        self.stage.model.load_state_dict(state["tensors"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        return Progress(**state["progress"] | {"begun": Pass(**state["progress"]["begun"])})

    def _where(self) -> str:
        """The batch after which the run is."""
        epoch, batch = self.progress.epoch, self.progress.begun.batches
        return f"batch {batch} of epoch {epoch + 1}" if batch else f"epoch {epoch}"


class _LossWatch:
    """Stops training at a loss that is not finite.

    On a GPU it looks at each batch when the next one is on its way, so that neither waits.

    Args:
        stage: that is trained.
        videos: names of all, by their index.
        resume: what errors say the state before is in.
    """

    def __init__(self, stage: Stage, videos: Sequence[str], resume: Path) -> None:
        self.stage, self.videos, self.resume = stage, videos, resume
        self.pending: tuple[Tensor, torch.cuda.Event | None] | None = None
        self.batch: tuple[Tensor, str] = (torch.empty(0), "")

    def see(self, finite: Tensor, index: Tensor, where: str) -> None:
        """Takes note of a batch.

        Args:
            finite: bool (), whether all its losses are.
            index: (B,), its videos.
            where: the batch, for errors.
        """
        if not finite.is_cuda:
            self.batch = (index, where)
            self._look(finite)
            return
        on_host = torch.empty((), dtype=torch.bool, pin_memory=True)
        on_host.copy_(finite, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self.settle()
        self.pending, self.batch = (on_host, done), (index, where)

    def settle(self) -> None:
        """Looks at the last batch."""
        if self.pending is not None:
            finite, done = self.pending
            done.synchronize()
            self._look(finite)
            self.pending = None

    def check(self, tensors: Iterable[Tensor]) -> None:
        """Raises `TrainingError` where weights are not finite, as the losses after them would be
        and the last ones were not yet."""
        for tensor in tensors:
            self._look(tensor.isfinite().all())

    def _look(self, finite: Tensor) -> None:
        if finite:
            return
        index, where = self.batch
        name = self.stage.name
        names = ", ".join(self.videos[i] for i in index.tolist())
        kept = f"{self.resume} keeps the state before" if self.resume.exists() else ""
        raise TrainingError(
            f"{name}: the loss is not finite any more after {where}, of the videos {names}: look"
            f" at them, or lower stages.{name}.learning_rates in the recipe"
            + (f"; {kept}" if kept else "")
        )


@torch.inference_mode()
def validate(stage: Stage, clips: Iterable[Any], device: torch.device) -> dict[str, float]:
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


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Tensor]) -> None:
    if states:
        torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """One row per epoch as CSV."""
    with whole(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, history[-1].keys(), lineterminator="\n")
        table.writeheader()
        table.writerows(history)
