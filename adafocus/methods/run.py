"""The run that trains one stage: what it starts from, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from adafocus import legacy, tracking
from adafocus.data.batches import EpochSampler, Loader, loader
from adafocus.data.clips import (
    Clips,
    class_names,
    digest_of,
    digest_of_replaced,
    digest_of_sizes,
)
from adafocus.extras import require
from adafocus.machine.device import PRECISIONS, name_of, pick_device, pick_precision, share_threads
from adafocus.machine.distributed import first_alone, is_first, size
from adafocus.machine.files import kept, remove_abandoned
from adafocus.methods import adafocus, uni
from adafocus.model import checkpoint
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError
from adafocus.model.video_model import VideoModel
from adafocus.recipe import MicroBatch, Precision, Recipe
from adafocus.training.engine import CHECKPOINT_MINUTES, fit
from adafocus.training.fingerprint import accepted_fingerprints, made_by
from adafocus.training.progress import Progress, write_history
from adafocus.training.resume import ResumeFile, previous_state
from adafocus.training.stage import Stage

OnEpoch = Callable[[dict[str, float]], None]
STAGES: Mapping[str, type[Stage[Any, Any, Any]]] = {**adafocus.STAGES, **uni.STAGES}
"""Those of all methods, by their names."""


def train(
    recipe: Recipe,
    stage: str,
    patch_size: int | None,
    *,
    data: Path,
    init: list[Path],
    output: Path,
    curves: Path,
    seed: int,
    device: str,
    threads: int,
    tracking_uri: str,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    precision: Precision = "auto",
    micro_batch: MicroBatch = "auto",
    anew: str | None = None,
    trial: Path | None = None,
    trial_of: tracking.Chain | None = None,
    on_epoch: OnEpoch | None = None,
) -> None:
    """Trains one stage and writes its checkpoint.

    Beside ``output`` it leaves ``*.metrics.csv``, one row per epoch, ``*.resume.pt``, from which a
    run that was cut off goes on, and ``*.run.json``, what MLflow is told. After a signal it saves
    its state and raises `Stopped`. Of several processes (`distributed.joined`) the first does so.

    A run that came to its end before only has its checkpoint written again, see
    `adafocus.training.fingerprint`; from that checkpoint itself where its state was removed.

    Args:
        recipe: the data set's recipe.
        stage: ``glancer``, ``focuser``, ``stage1``, ``stage2`` or ``stage3``.
        patch_size: in pixels; None for stage 0, which is shared by all patch sizes.
        data: the data set's folder, with its splits.
        init: checkpoints of the stages before, see `StageSpec`.
        output: the checkpoint to write.
        curves: the figure of training curves to write.
        seed: fixes the run; on a CPU bit for bit, for one number of threads.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads to use.
        tracking_uri: MLflow's store.
        checkpoint_minutes: the state is saved after so many, and after every epoch.
        precision: in which the backbones compute, see `pick_precision`.
        micro_batch: videos of a batch that go through at a time, see `fit`.
        anew: any word; what was not begun under the same one is trained from its start.
        trial: the resume file of a sweep's trial, which has trained this stage already; where
            nothing of this training is beside ``output``, it goes on from there.
        trial_of: the run's parent in MLflow, where it is a trial of a sweep.
        on_epoch: is given each epoch's row of metrics when it is on disk.

    Raises:
        CheckpointError: where ``init`` does not fit the recipe or lacks a part.
        DataError: where the data cannot be read.
        MissingExtra: where what its end needs is not installed.
        TrainingError: where a loss is not finite.
        ValueError: where a batch does not fit into the GPU's memory.
        WriteError: where the disk is full.
    """
    require("tracking", "plots")
    remove_abandoned(output.parent, curves.parent)
    torch.manual_seed(seed)
    torch_device = pick_device(device)
    workers = share_threads(threads, torch_device)
    dtype = pick_precision(precision, torch_device)
    spec, training = recipe.spec(stage), recipe.stages[stage]
    model, start = begin(recipe, stage, patch_size, init)
    learner = STAGES[stage](stage, model, training)
    files = _Files(recipe, stage, patch_size, data, output, curves, model)
    # Chosen by the device, a precision is not what makes it another run.
    others = [other for other in PRECISIONS.values() if other != dtype and precision == "auto"]
    known = fingerprints(
        recipe,
        stage,
        patch_size,
        data=data,
        seed=seed,
        start=start,
        init=init,
        record=files.record,
        precisions=[name_of(one) for one in (dtype, *others)],
    )
    told = made_by(seed, anew) | {"precision": name_of(dtype)}
    told |= files.in_parts(None if micro_batch == "auto" else micro_batch)
    resume = ResumeFile(files.resume, known, told)
    with first_alone():
        state = resume.read(trial)
    if before := files.trained_before(resume, state, seed, anew):
        if is_first():
            files.write_again(before, on_epoch)
        return
    if state is None and trial is not None:
        state = resume.take_over(trial)
    if state:
        resume.make_own(state)
    for part in spec.begins:
        backbone, section = getattr(model, part), getattr(recipe.model, part)
        checkpoint.load_pretrained(backbone, section, key=f"{recipe.name}: model.{part}")

    batches = {
        split: _batches(data, split, recipe, stage, seed, workers, torch_device)
        for split in ("train", "val")
    }

    def learn(on_epoch: OnEpoch) -> Progress:
        return fit(
            learner,
            *batches.values(),
            metric=recipe.metric,
            seed=seed,
            device=torch_device,
            resume=resume,
            state=state,
            checkpoint_minutes=checkpoint_minutes,
            precision=dtype,
            micro_batch=micro_batch,
            on_epoch=on_epoch,
        )

    if not is_first():
        learn(on_epoch=lambda row: None)
        return
    run = tracking.run(
        tracking_uri,
        record=files.record,
        name=output.stem,
        **tracking.identity(
            recipe, patch_size, stage, "trial" if trial_of else "training", seed, trial_of
        ),
        parameters={
            "seed": seed,
            "precision": name_of(dtype),
            **tracking.stage_parameters(recipe, stage),
        },
        datasets=[
            tracking.dataset(recipe, split, data, part.dataset.digest, len(part.dataset))
            for split, part in batches.items()
        ],
        history=files.metrics,
        resume=files.resume,
        fingerprints=resume.fingerprints,
    )
    with run:
        progress = files.follow(run, learn, resume, on_epoch, batches.clear)
        best = {f"best_val_{recipe.metric}": progress.best}
        of_chain = tracking.swept_figures(recipe, stage)
        of_chain[f"{stage}_val_{recipe.metric}"] = progress.best
        run.add_figures(best, {} if trial_of else of_chain)
    previous_state(files.resume).unlink(missing_ok=True)
    kept_epoch = f"the epoch kept has {recipe.metric} {progress.best:.1f}"
    tqdm.write(f"{output}: {kept_epoch}; curves: {curves}")
    if progress.choices is not None:
        for warning in progress.choices.warnings(recipe):
            tqdm.write(f"{output.stem}: {warning}")


def begin(
    recipe: Recipe, stage: str, patch_size: int | None, init: Sequence[Path]
) -> tuple[VideoModel, dict[str, Tensor]]:
    """The model that a stage starts from, and what it has of the checkpoints before.

    Raises:
        CheckpointError: where ``init`` does not fit the recipe or lacks a part.
    """
    spec = recipe.spec(stage)
    # A policy starts as a plain one, which is taught to skip frames.
    starts_as = recipe if "policy" in spec.takes else recipe.never_skipping
    model = build(starts_as, patch_size or recipe.patch_sizes[0])
    sources = {path: checkpoint.read(path) for path in init}
    for path, source in sources.items():
        checkpoint.check_fit(source, path, starts_as, patch_size)
    if recipe.skip_cost is not None:
        spec = spec.learning_to_skip()
    checkpoint.fill(model, sources, spec.takes)
    return model, _tensors(model, spec.takes)


def fingerprints(
    recipe: Recipe, stage: str, patch_size: int | None, *, data: Path, **others: Any
) -> list[str]:
    """Those of states that a run may go on from; the first is its own.

    Args:
        data: the data set's folder, with its splits.
        others: what else `adafocus.training.fingerprint.accepted_fingerprints` takes.
    """
    return accepted_fingerprints(
        recipe,
        stage,
        patch_size,
        data=[digest_of(data, split) for split in ("train", "val")],
        sizes=digest_of_sizes(data, "train", "val"),
        replaced=digest_of_replaced(data, "train", "val"),
        **others,
    )


def _batches(
    data: Path,
    split: str,
    recipe: Recipe,
    stage: str,
    seed: int,
    workers: int,
    device: torch.device,
) -> Loader:
    """Of the clips that a stage learns from (``train``) or is validated on (``val``)."""
    learns = split == "train"
    clips = Clips(data, split, recipe, augment=learns, seed=seed)
    sampler = EpochSampler(len(clips), seed, shuffle=learns)
    return loader(clips, recipe.stages[stage].batch_size, sampler, workers, device)


class _Before(NamedTuple):
    """What a run that came to its end before has left of itself."""

    line: str
    """Says so."""
    history: Sequence[dict[str, float]]
    tensors: Mapping[str, Tensor]
    made_by: Mapping[str, Any]


@dataclass(frozen=True)
class _Files:
    """What a run leaves: a checkpoint, and beside it its state, record and metrics."""

    recipe: Recipe
    stage: str
    patch_size: int | None
    data: Path
    output: Path
    curves: Path
    model: VideoModel

    @property
    def resume(self) -> Path:
        return self._beside("resume.pt")

    @property
    def record(self) -> Path:
        return self._beside("run.json")

    @property
    def metrics(self) -> Path:
        return self._beside("metrics.csv")

    def _beside(self, kind: str) -> Path:
        return self.output.with_name(f"{self.output.stem}.{kind}")

    def write(self, history: Sequence[dict[str, float]], facts: Mapping[str, Any]) -> None:
        """The checkpoint, of the weights that the model has now, and its curves.

        Args:
            facts: of the code and the run that made it.
        """
        from adafocus import figures  # here, as matplotlib would hold up the first batch

        figures.training_curves(history, self.curves, title=self.output.stem)
        tensors = _tensors(self.model, self.recipe.spec(self.stage).leaves)
        names = tuple(class_names(self.data))
        made = Checkpoint(tensors, self.recipe, self.stage, self.patch_size, names, facts)
        checkpoint.replace(self.output, made)

    def follow(
        self,
        run: tracking.Run,
        learn: Callable[[OnEpoch], Progress],
        resume: ResumeFile,
        on_epoch: OnEpoch | None,
        end_loading: Callable[[], None],
    ) -> Progress:
        """Writes what a training leaves, and tells MLflow, epoch by epoch and at its end.

        Args:
            run: MLflow is told by it.
            learn: trains.
            resume: says what made the checkpoint.
            on_epoch: is given each epoch's row when it is on disk.
            end_loading: ends the processes that load clips.
        """
        history: list[dict[str, float]] = []

        def epoch_done(row: dict[str, float]) -> None:
            history.append(row)
            write_history(history, self.metrics)
            run.epoch_done()
            if on_epoch:
                on_epoch(row)

        progress = learn(epoch_done)
        end_loading()
        self.write(history, resume.made_by | self.in_parts(progress.micro_batch))
        run.add_artifacts(self.curves)
        return progress

    def write_again(self, before: _Before, on_epoch: OnEpoch | None) -> None:
        """What a run that came to its end before has left, once more."""
        tqdm.write(before.line)
        if on_epoch:
            for row in before.history:
                on_epoch(row)
        self.model.load_state_dict(before.tensors, strict=False)
        self.write(before.history, before.made_by)

    def trained_before(
        self, resume: ResumeFile, state: Mapping[str, Any] | None, seed: int, anew: str | None
    ) -> _Before | None:
        """What this very run has left, if it came to its end: its last state, or its checkpoint
        where the state was removed."""
        ended = tracking.finished(self.record, resume.fingerprints)
        if ended is None:
            return None
        epochs = self.recipe.stages[self.stage].epochs
        old = legacy.made_by_revision_1(seed, ended.tags)
        if state and state["progress"]["epoch"] == epochs:
            progress = state["progress"]
            if is_first():
                write_history(progress["history"], self.metrics)
            return _Before(
                "trained before; its checkpoint is written again",
                progress["history"],
                progress["best_tensors"],
                (state.get("made_by") or old) | self.in_parts(progress.get("micro_batch")),
            )
        history = [] if resume.path.exists() else ended.rows(self.output.parent)
        if len(history) == epochs and (trained := self._trained(anew)):
            return _Before(
                "trained before, its state was removed; its checkpoint is written again",
                history,
                trained.tensors,
                trained.made_by or old,
            )
        return None

    def _trained(self, anew: str | None) -> Checkpoint | None:
        """The stage's checkpoint that is there or was kept aside, if it fits the model."""
        leaves = _tensors(self.model, self.recipe.spec(self.stage).leaves)
        shapes = {key: value.shape for key, value in leaves.items()}
        for path in (kept(self.output), self.output):
            with suppress(CheckpointError):
                found = checkpoint.read(path)
                checkpoint.check_fit(found, path, self.recipe, self.patch_size)
                if (
                    (found.stage, found.patch_size) == (self.stage, self.patch_size)
                    and {key: value.shape for key, value in found.tensors.items()} == shapes
                    and anew in (None, found.made_by.get("anew"))
                ):
                    return found
        return None

    def in_parts(self, micro_batch: int | None) -> dict[str, Any]:
        """What a checkpoint says of videos that went through at a time, if not all of a batch."""
        batch_size = self.recipe.stages[self.stage].batch_size
        whole = micro_batch is None or micro_batch * size() >= batch_size
        return {} if whole else {"micro_batch": micro_batch}


def _tensors(model: VideoModel, parts: Sequence[str]) -> dict[str, Tensor]:
    """Weights and buffers of parts of a model."""
    return {key: value for key, value in model.state_dict().items() if key.split(".")[0] in parts}
