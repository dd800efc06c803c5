"""The engine: epochs, accumulation, validation, resume.

It knows nothing of a stage but what it trains, its loss on some videos and how it predicts; a stage
knows nothing of epochs.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from adafocus.data.batches import Batch, Loader, in_order, own_batches
from adafocus.data.draws import Draws
from adafocus.evaluation.metrics import compute_metrics
from adafocus.machine import distributed
from adafocus.machine.device import channels_last, name_what_fills_memory
from adafocus.machine.meter import Meter
from adafocus.machine.signals import Stop, Stopped
from adafocus.model.choices import Choices
from adafocus.model.looks import Looks
from adafocus.recipe import Config, Metric, MicroBatch
from adafocus.training.loss_monitor import LossMonitor
from adafocus.training.optimizer import build_optimizer, schedule
from adafocus.training.parts import Parts
from adafocus.training.progress import EpochProgress, Progress
from adafocus.training.resume import ResumeFile
from adafocus.training.stage import Splittable, Stage

CHECKPOINT_MINUTES: float = Config.model_fields["checkpoint_minutes"].default


class TrainingError(ValueError):
    """Training that cannot go on; the message is one line that says what to do."""


@name_what_fills_memory(
    "let fewer videos go through at a time, by micro_batch in config/config.yaml (--micro-batch)"
)
def fit(
    stage: Stage[Any, Any, Any],
    clips: Loader,
    validation: Loader,
    *,
    metric: Metric,
    seed: int,
    device: torch.device,
    resume: ResumeFile,
    state: Mapping[str, Any] | None,
    on_epoch: Callable[[dict[str, float]], None],
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    precision: torch.dtype = torch.float32,
    micro_batch: MicroBatch = "auto",
) -> Progress:
    """Trains a stage and leaves the model with the weights of its best epoch.

    A batch goes through in parts where its maps would not fit into the device's memory, and the
    gradients of the parts add up to those of the whole batch, of which all random numbers are
    drawn. Two things are each part's own: the statistics of batch norms that learn, which also
    move their running means once a part, and the masks of dropout. `Parts` says what several
    processes do.

    Args:
        clips: training batches, drawn by an `EpochSampler`.
        validation: validation batches.
        metric: chooses the best epoch, unless the stage keeps the last; the first of equals wins.
        seed: with the epoch's number, fixes all randomness of an epoch.
        resume: the file to save states to.
        state: what was read from it, to go on from.
        on_epoch: is given each epoch's row, those of a resumed run included.
        checkpoint_minutes: the state is saved after so many, and after every epoch.
        precision: in which the backbones compute; all else does in float32.
        micro_batch: videos of a batch that go through at a time in each process; ``auto`` is all of
            them, and half as many each time that the GPU's memory is full.

    Raises:
        Stopped: after a signal, when the step is done and the state is saved.
        TrainingError: where a loss is not finite; the state saved last is from before it.
        ValueError: where the GPU's memory is full all the same.
        WriteError: where the state cannot be saved.
    """
    model = channels_last(stage.model.to(device))
    model.set_precision(precision)
    norms = [norm for part in stage.parts.values() for norm in distributed.share_statistics(part)]
    stage.train_mode()
    optimizer = build_optimizer(stage.training, stage.parts)
    factor = schedule(stage.training, len(clips))
    scheduler = LambdaLR(optimizer, factor)
    run = _Loop(
        stage=stage,
        clips=clips,
        optimizer=optimizer,
        scheduler=scheduler,
        device=device,
        seed=seed,
        resume=resume,
        state=state,
        interval=60 * checkpoint_minutes,
        micro_batch=micro_batch,
        norms=norms,
    )
    progress = run.progress
    for row in progress.history:
        on_epoch(row)
    epochs = stage.training.epochs
    with (
        run.stop,
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
            row = {"epoch": epoch + 1}
            for part in stage.parts:
                rate = stage.training.learning_rates[part]
                row[f"learning_rate_{part}"] = rate * factor(epoch * len(clips))
            row |= run.train(bar)
            started = time.monotonic()
            if stage.training.validates(epoch + 1):
                scores, choices = validate(
                    stage, validation, device, seed, run.predict, between=run.end_if_asked
                )
                run.parts.agree()
                row |= {f"val_{k}": v for k, v in scores.items()}
                bar.set_postfix({"epoch": epoch + 1, metric: f"{scores[metric]:.1f}"})
            row["seconds"] = progress.begun.seconds + time.monotonic() - started

            progress.epoch, progress.begun = epoch + 1, EpochProgress()
            progress.history.append(row)
            score = row.get(f"val_{metric}", -math.inf)
            if score > progress.best or (stage.latest_is_best and score > -math.inf):
                progress.best = score
                progress.best_tensors = {k: v.clone() for k, v in _tensors(stage).items()}
                progress.choices = choices
            run.save()
            on_epoch(row)
            run.end_if_asked()
    model.load_state_dict(progress.best_tensors, strict=False)
    return progress


class _Loop:
    """A training run that goes on from where its resume file says."""

    def __init__(
        self,
        *,
        stage: Stage[Any, Any, Any],
        clips: Loader,
        optimizer: Optimizer,
        scheduler: LambdaLR,
        device: torch.device,
        seed: int,
        resume: ResumeFile,
        state: Mapping[str, Any] | None,
        interval: float,
        micro_batch: MicroBatch,
        norms: list[nn.Module],
    ) -> None:
        self.stage, self.clips, self.device, self.seed = stage, clips, device, seed
        self.sampler, self.videos = clips.sampler, clips.dataset.videos
        self.optimizer, self.scheduler = optimizer, scheduler
        self.resume, self.interval = resume, interval
        self.saved = time.monotonic()
        self.stop = Stop()
        self.monitor = LossMonitor()
        self.progress = self._resumed(state)
        modules = stage.parts.values()
        self.parts = Parts(self.progress, micro_batch, stage.least, modules, norms)

    def train(self, bar: tqdm[NoReturn]) -> dict[str, float]:
        """What is left of an epoch; returns the means of what the stage logs over all of it, and
        what its `Meter` says."""
        stage, part = self.stage, self.progress.begun
        stage.train_mode()
        self.sampler.epoch, self.sampler.skip = self.progress.epoch, part.batches
        meter = Meter(self.device, part.seconds, part.waited)
        totals = self.sampler.batches[part.batches :]
        for items, total in zip(meter.watch(self.clips), totals, strict=True):
            own = distributed.local_shard(total)
            draws = Draws(self.seed, self.progress.epoch + 1, part.batches, total, own)
            videos = stage.prepare(Batch.of(items, self.device, draws), self.parts.on_batch)
            finite = torch.ones((), dtype=torch.bool, device=self.device)
            for _ in range(stage.steps):
                logs = self._learn(videos, draws)
                finite &= logs["loss"].isfinite()
                part.steps += 1
                for name, value in logs.items():
                    part.sums[name] = part.sums.get(name, 0) + value
            self.parts.proven = True
            self.scheduler.step()
            bar.update()
            part.batches += 1
            part.videos += total
            part.seconds, part.waited = meter.seconds, meter.waited
            names = [self.videos[i] for i in items["index"].tolist()]
            self.monitor.see(finite, self._where(), names)
            self.end_if_asked()
        self.check()
        # Reading the sums waits for the device, so that all its work is counted below.
        self._put_sums_together()
        means = stage.figures({name: value / part.steps for name, value in part.sums.items()})
        part.seconds = meter.seconds
        return means | meter.figures(part.videos)

    def predict(self, batch: Batch) -> tuple[Tensor, Looks | None]:
        """See `Stage.predict`; in parts."""

        def predictions(parts: list[slice]) -> tuple[Tensor, Looks | None]:
            found = [self.stage.predict(batch.part(rows)) for rows in parts]
            logits, looks = zip(*found, strict=True)
            return torch.cat(logits), None if looks[0] is None else Looks.joined(looks)

        return self.parts.alone(len(batch.rows), predictions)

    def _learn(self, videos: Splittable, draws: Draws) -> dict[str, Tensor]:
        """One optimizer step on a batch; what the stage logs of it, in float64."""
        clip = self.stage.training.clip_gradient
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        logs = self.parts.together(draws, partial(self._backward, videos))
        distributed.average_gradients(parameters)
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        self.optimizer.step()
        return logs

    def _backward(self, videos: Splittable, parts: list[slice]) -> dict[str, Tensor]:
        """Gradients of the mean loss, added up over parts; what the stage logs."""
        self.optimizer.zero_grad(set_to_none=True)
        means: dict[str, Tensor] = {}
        for rows in parts:
            share = (rows.stop - rows.start) / parts[-1].stop
            loss, logs = self.stage.loss(videos if len(parts) == 1 else videos.part(rows))
            (loss * share).backward()
            for name, value in logs.items():
                means[name] = means.get(name, 0) + value.detach().double() * share
        return means

    def end_if_asked(self) -> None:
        """Between two batches: saves the state where it is time, and raises `Stopped` after a
        signal or `TrainingError` after a loss that is not finite, in all processes alike."""
        due = time.monotonic() - self.saved >= self.interval and distributed.is_first()
        number, save, broken = distributed.all_reduce_max(
            self.stop.number, due, bool(self.monitor.broken)
        )
        if broken:
            self._give_up()
        if number or save:
            self.save()
        if number:
            # Whoever ends first lets torchrun end all, half a minute later for good.
            distributed.meet()
            message = (
                f"{signal.Signals(number).name} came: saved {self._where()} in {self.resume.path};"
                " the same command goes on from there"
            )
            distributed.say(message)
            raise Stopped(number, message)

    def check(self) -> None:
        """Raises `TrainingError` where a loss or weight is not finite."""
        self.monitor.settle()
        # The last step may have spoilt weights of which no loss tells yet.
        if not all(tensor.isfinite().all() for tensor in _tensors(self.stage).values()):
            self.monitor.broken = self.monitor.videos
        if any(distributed.all_reduce_max(bool(self.monitor.broken))):
            self._give_up()

    def save(self) -> None:
        """Leaves the file alone where the state is of no use, see `check`."""
        self.check()
        self._put_sums_together()
        if distributed.is_first():
            self.resume.write(
                {
                    "tensors": _tensors(self.stage),
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.scheduler.state_dict(),
                    "progress": self.progress.to_dict(),
                }
            )
        self.saved = time.monotonic()

    def _resumed(self, state: Mapping[str, Any] | None) -> Progress:
        if state is None:
            return Progress()
        self.stage.model.load_state_dict(state["tensors"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        progress = Progress.of(state["progress"], self.device)
        batches = progress.begun.batches
        within = f", batch {batches} of the next" if batches else ""
        distributed.say(f"resuming after epoch {progress.epoch}{within}")
        return progress

    def _put_sums_together(self) -> None:
        """Each process has added up the means over its slices."""
        part = self.progress.begun
        part.sums = {name: distributed.all_reduce_mean(value) for name, value in part.sums.items()}

    def _give_up(self) -> NoReturn:
        name, videos = self.stage.name, distributed.all_gather_lists(self.monitor.broken)
        message = (
            f"{name}: the loss is not finite any more after {self.monitor.where}, of the videos"
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


@torch.inference_mode()
def validate(
    stage: Stage[Any, Any, Any],
    clips: Loader,
    device: torch.device,
    seed: int,
    predict: Callable[[Batch], tuple[Tensor, Looks | None]] | None = None,
    between: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], Choices | None]:
    """Accuracy of a stage's predictions, and what its policy chose between, where it trains one.

    Args:
        clips: batches, drawn by an `EpochSampler`.
        seed: fixes stage 1's random patches, which are the same after every epoch.
        predict: predicts a batch; the stage's own where it is None.
        between: is called before each round of batches, one for each process.
    """
    stage.model.eval()
    found = []
    for number, batch in own_batches(clips, device, seed, between=between):
        logits, looks = (predict or stage.predict)(batch)
        kept = (logits.float().cpu(), batch.labels.cpu(), None if looks is None else looks.cpu())
        found.append((number, kept))
    gathered, told = in_order(found), None
    if gathered is not None:
        of_videos, labels, looked = zip(*gathered, strict=True)
        scores = compute_metrics(torch.cat(of_videos), torch.cat(labels))
        choices = None
        if looked[0] is not None:
            choices = Choices.of(Looks.joined(looked), clips.dataset.recipe)
        told = scores, choices
    of_all: tuple[dict[str, float], Choices | None] = distributed.broadcast(told)
    return of_all


def _tensors(stage: Stage[Any, Any, Any]) -> dict[str, Tensor]:
    """Weights and buffers of what the stage trains, by their name in the model."""
    return {
        f"{name}.{key}": tensor
        for name, part in stage.parts.items()
        for key, tensor in part.state_dict().items()
    }
