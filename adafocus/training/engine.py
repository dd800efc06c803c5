"""The engine: epochs, mixed precision, validation, resume.

It knows nothing of a stage but what it trains, which losses it yields for a batch and how it
predicts; a stage knows nothing of epochs.
"""

from __future__ import annotations

import csv
import math
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from tqdm import tqdm

from adafocus import distributed
from adafocus.data.clips import Batch, EpochSampler
from adafocus.device import autocast, name_what_fills_memory
from adafocus.evaluation.metrics import accuracy
from adafocus.files import whole
from adafocus.meter import Meter
from adafocus.model.adafocus import AdaFocus
from adafocus.recipe import TRAINED_PARTS, Config, HeadTraining, Metric, Training
from adafocus.signals import Stop, Stopped
from adafocus.training.optimizer import build_optimizer, schedule
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

    latest_is_best = False
    """Whether the last epoch's weights are kept, not those of the best metric."""

    @abstractmethod
    def losses(self, batch: Batch) -> Losses:
        """Yields the losses of a batch; each is computed after the step on the one before."""

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, K) of whole videos, for validation."""

    def skip(self, frames: Tensor) -> None:  # noqa: B027
        """Makes the random draws of `predict`, if there are any, for a batch of another process.

        Args:
            frames: (B, T), of no content.
        """

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
        metric: chooses the best epoch, unless the stage keeps the last; the first of equals wins.
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
    for part in stage.parts.values():
        distributed.share_statistics(part)
    stage.train_mode()
    optimizer = build_optimizer(stage.training, stage.parts)
    factor = schedule(stage.training, len(clips))
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
            disable=not distributed.is_first(),
        ) as bar,
    ):
        while progress.epoch < epochs:
            epoch = progress.epoch
            torch.manual_seed(seed * 1_000_003 + epoch)
            row = {"epoch": epoch + 1}
            for part in stage.parts:
                rate = stage.training.learning_rates[part]
                row[f"learning_rate_{part}"] = rate * factor(epoch * len(clips))
            row |= run.train(bar)
            # The same draws after every epoch, so that stage 1's random patches compare.
            torch.manual_seed(seed)
            started = time.monotonic()
            scores = validate(stage, validation, device, run.end_if_asked)
            row |= {f"val_{k}": v for k, v in scores.items()}
            row["seconds"] = progress.begun.seconds + time.monotonic() - started
            bar.set_postfix({"epoch": epoch + 1, metric: f"{row[f'val_{metric}']:.1f}"})

            progress.epoch, progress.begun = epoch + 1, Pass()
            progress.history.append(row)
            if stage.latest_is_best or row[f"val_{metric}"] > progress.best:
                progress.best = row[f"val_{metric}"]
                progress.best_tensors = {k: v.clone() for k, v in _tensors(stage).items()}
            run.save()
            on_epoch(row)
            run.end_if_asked()
    model.load_state_dict(progress.best_tensors, strict=False)
    return progress


class _Step(nn.Module):
    """The trained parts as one module, whose forward pass is a stage's next loss."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(stage.parts)

    def forward(self, losses: Losses) -> tuple[Tensor, dict[str, Tensor]] | None:
        return next(losses, None)


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
        assert isinstance(clips.sampler, EpochSampler)
        self.stage, self.clips, self.device = stage, clips, device
        self.sampler, self.videos = clips.sampler, clips.dataset.videos
        self.optimizer, self.scheduler = optimizer, scheduler
        self.resume, self.interval = resume, interval
        self.saved = time.monotonic()
        self.stop = Stop()
        self.losses = _Losses()
        self.step = distributed.synchronized(_Step(stage))
        with distributed.first_alone():
            self.progress = self._resumed()

    def train(self, bar: tqdm) -> dict[str, float]:
        """What is left of an epoch; returns the means of what the stage logs over all of it, and
        what its `Meter` says."""
        stage, optimizer, part = self.stage, self.optimizer, self.progress.begun
        stage.train_mode()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.sampler.epoch, self.sampler.skip = self.progress.epoch, part.batches
        meter = Meter(self.device, part.seconds, part.waited)
        batches = iter(self.clips)  # which draws a number
        _set_random_states(part.random)
        totals = self.sampler.batches[part.batches :]
        for items, total in zip(meter.watch(batches), totals, strict=True):
            batch = Batch.of(items, self.device, total)
            finite = torch.ones((), dtype=torch.bool, device=self.device)
            with autocast(self.device):
                losses = stage.losses(batch)
                while (next_one := self.step(losses)) is not None:
                    loss, logs = next_one
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
            part.videos += total
            part.seconds, part.waited = meter.seconds, meter.waited
            names = [self.videos[i] for i in items["index"].tolist()]
            self.losses.see(finite, self._where(), names)
            self.end_if_asked()
        self.check()
        # Reading the sums waits for the device, so that all its work is counted below.
        self._put_sums_together()
        means = {name: float(value) / part.steps for name, value in part.sums.items()}
        part.seconds = meter.seconds
        return means | meter.figures(part.videos)

    def end_if_asked(self) -> None:
        """Between two batches: saves the state where it is time, and raises `Stopped` after a
        signal or `TrainingError` after a loss that is not finite, in all processes alike."""
        due = time.monotonic() - self.saved >= self.interval and distributed.is_first()
        number, due, broken = distributed.most(self.stop.number, due, bool(self.losses.broken))
        if broken:
            self._give_up()
        if number or due:
            self.save()
        if number:
            message = (
                f"{signal.Signals(number).name} came: saved {self._where()} in {self.resume.path};"
                " the same command goes on from there"
            )
            distributed.say(message)
            raise Stopped(number, message)

    def check(self) -> None:
        """Raises `TrainingError` where a loss or weight is not finite."""
        self.losses.settle()
        # The last step may have spoilt weights of which no loss tells yet.
        if not all(tensor.isfinite().all() for tensor in _tensors(self.stage).values()):
            self.losses.broken = self.losses.videos
        if any(distributed.most(bool(self.losses.broken))):
            self._give_up()

    def save(self) -> None:
        """Leaves the file alone where the state is of no use, see `check`."""
        self.check()
        progress = self.progress
        if progress.begun.batches:
            progress.begun.random = _random_states(self.device)
        self._put_sums_together()
        if distributed.is_first():
            self.resume.write(
                {
                    "tensors": _tensors(self.stage),
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
        progress = state["progress"]
        begun = Pass(**progress.get("begun", {}))
        within = f", batch {begun.batches} of the next" if begun.batches else ""
        distributed.say(f"resuming after epoch {progress['epoch']}{within}")
        return Progress(**progress | {"begun": begun})

    def _put_sums_together(self) -> None:
        """Each process has added up the means over its slices."""
        part = self.progress.begun
        part.sums = {name: distributed.mean(value) for name, value in part.sums.items()}

    def _give_up(self) -> NoReturn:
        name, videos = self.stage.name, distributed.gather_lists(self.losses.broken)
        message = (
            f"{name}: the loss is not finite any more after {self.losses.where}, of the videos"
            f" {', '.join(videos)}: look at them, or lower stages.{name}.learning_rates in the"
            " recipe"
        )
        if self.resume.path.exists():
            message += f"; {self.resume.path} keeps the state before"
        raise TrainingError(message)

    def _where(self) -> str:
        """The batch that was the last."""
        epoch, batch = self.progress.epoch, self.progress.begun.batches
        return f"batch {batch} of epoch {epoch + 1}" if batch else f"epoch {epoch}"


class _Losses:
    """Looks out for losses that are not finite.

    On a GPU it looks at each batch when the next one is on its way, so that neither waits.

    Attributes:
        where: the last batch that it looked at.
        videos: names of that batch's.
        broken: likewise, if one of its losses was not finite.
    """

    def __init__(self) -> None:
        self.where = ""
        self.videos: list[str] = []
        self.broken: list[str] = []
        self.pending: tuple[Tensor, torch.cuda.Event, str, list[str]] | None = None

    def see(self, finite: Tensor, where: str, videos: list[str]) -> None:
        """Takes note of a batch.

        Args:
            finite: bool (), whether all its losses are.
            where: which batch it is.
            videos: their names.
        """
        if not finite.is_cuda:
            self._look(finite, where, videos)
            return
        on_host = torch.empty((), dtype=torch.bool, pin_memory=True)
        on_host.copy_(finite, non_blocking=True)
        done = torch.cuda.Event()
        done.record()
        self.settle()
        self.pending = (on_host, done, where, videos)

    def settle(self) -> None:
        """Looks at the last batch."""
        if self.pending is not None:
            finite, done, where, videos = self.pending
            done.synchronize()
            self._look(finite, where, videos)
            self.pending = None

    def _look(self, finite: Tensor, where: str, videos: list[str]) -> None:
        if not self.broken:
            self.where, self.videos = where, videos
            self.broken = [] if finite else videos


@torch.inference_mode()
def validate(
    stage: Stage,
    clips: DataLoader,
    device: torch.device,
    between: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Accuracy of a stage's predictions.

    Args:
        clips: batches, drawn by an `EpochSampler`.
        between: is called before each batch, or before each round of them.
    """
    stage.model.eval()
    found = []
    batches = iter(clips)
    for number, videos in enumerate(clips.sampler.batches):
        if number % distributed.size() == 0:
            between()
        if not distributed.is_mine(number):
            stage.skip(torch.empty((videos, clips.dataset.recipe.model.frames), device=device))
            continue
        items = next(batches)
        with autocast(device):
            logits = stage.predict(Batch.of(items, device))
        found.append((number, logits.float().cpu(), items["labels"]))
    _, logits, labels = zip(
        *sorted(distributed.gather_lists(found), key=itemgetter(0)), strict=True
    )
    return accuracy(torch.cat(logits), torch.cat(labels))


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
