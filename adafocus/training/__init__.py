"""Training: one engine, one small file per stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from adafocus import legacy, tracking
from adafocus.data.batches import EpochSampler, loader
from adafocus.data.clips import (
    Clips,
    class_names,
    digest_of,
    digest_of_replaced,
    digest_of_sizes,
)
from adafocus.device import PRECISIONS, name_of, pick_device, pick_precision, share_threads
from adafocus.distributed import first_alone, is_first, size
from adafocus.extras import require
from adafocus.files import kept, remove_abandoned
from adafocus.model import checkpoint
from adafocus.model.adafocus import AdaFocus, build
from adafocus.model.checkpoint import Checkpoint, CheckpointError
from adafocus.recipe import SPECS, MicroBatch, Precision, Recipe
from adafocus.training.engine import CHECKPOINT_MINUTES, fit, write_history
from adafocus.training.fingerprint import accepted, made_by
from adafocus.training.resume import ResumeFile, previous_state
from adafocus.training.stage import Stage
from adafocus.training.stage0 import FocuserStage, GlancerStage
from adafocus.training.stage1 import Stage1
from adafocus.training.stage2 import Stage2
from adafocus.training.stage3 import Stage3

STAGES: dict[str, type[Stage]] = {
    "glancer": GlancerStage,
    "focuser": FocuserStage,
    "stage1": Stage1,
    "stage2": Stage2,
    "stage3": Stage3,
}


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
    on_epoch: Callable[[dict[str, float]], None] | None = None,
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
    training = recipe.stages[stage]
    model, start = begin(recipe, stage, patch_size, init)
    name = output.stem
    record, metrics = (output.with_name(f"{name}.{kind}") for kind in ("run.json", "metrics.csv"))
    # Chosen by the device, a precision is not what makes it another run.
    others = [other for other in PRECISIONS.values() if other != dtype and precision == "auto"]
    resume = ResumeFile(
        output.with_name(f"{output.stem}.resume.pt"),
        accepted(
            recipe,
            stage,
            patch_size,
            seed=seed,
            data=[digest_of(data, split) for split in ("train", "val")],
            sizes=digest_of_sizes(data, "train", "val"),
            replaced=digest_of_replaced(data, "train", "val"),
            start=start,
            init=init,
            record=record,
            precisions=[name_of(one) for one in (dtype, *others)],
        ),
        made_by(seed, anew)
        | {"precision": name_of(dtype)}
        | _in_parts(None if micro_batch == "auto" else micro_batch, training.batch_size),
    )
    if stage == "stage2" and recipe.skip_cost is not None:
        model.policy.learn_to_skip()
    with first_alone():
        state = resume.read(trial)

    def write(history: Sequence[dict[str, float]], facts: Mapping[str, Any]) -> None:
        from adafocus import figures  # here, as matplotlib would hold up the first batch

        figures.training_curves(history, curves, title=name)
        tensors, names = _tensors(model, SPECS[stage].leaves), tuple(class_names(data))
        checkpoint.replace(output, Checkpoint(tensors, recipe, stage, patch_size, names, facts))

    ended = tracking.finished(record, resume.fingerprints)
    if ended and state and state["progress"]["epoch"] == training.epochs:
        if is_first():
            tqdm.write("trained before; its checkpoint is written again")
            history = state["progress"]["history"]
            write_history(history, metrics)
            for row in history if on_epoch else ():
                on_epoch(row)
            model.load_state_dict(state["progress"]["best_tensors"], strict=False)
            facts = state.get("made_by") or legacy.made_by(seed, ended.tags)
            fitted = state["progress"].get("micro_batch")
            write(history, facts | _in_parts(fitted, training.batch_size))
        return
    history = ended.rows(output.parent) if ended and not resume.path.exists() else []
    complete = len(history) == training.epochs
    if complete and (trained := _trained(output, model, recipe, stage, patch_size, anew)):
        if is_first():
            tqdm.write("trained before, its state was removed; its checkpoint is written again")
            for row in history if on_epoch else ():
                on_epoch(row)
            model.load_state_dict(trained.tensors, strict=False)
            write(history, trained.made_by or legacy.made_by(seed, ended.tags))
        return
    if state is None and trial is not None:
        state = resume.take_over(trial)
    if state:
        resume.make_own(state)
    if stage in ("glancer", "focuser"):
        backbone, section = getattr(model, stage), getattr(recipe.model, stage)
        checkpoint.load_pretrained(backbone, section, key=f"{recipe.name}: model.{stage}")

    clips = Clips(data, "train", recipe, augment=True, seed=seed)
    validation = Clips(data, "val", recipe, augment=False, seed=seed)
    learn = partial(
        fit,
        STAGES[stage](stage, model, training),
        loader(
            clips,
            training.batch_size,
            EpochSampler(len(clips), seed, shuffle=True),
            workers,
            torch_device,
        ),
        loader(
            validation,
            training.batch_size,
            EpochSampler(len(validation), seed, shuffle=False),
            workers,
            torch_device,
        ),
        metric=recipe.metric,
        seed=seed,
        device=torch_device,
        resume=resume,
        state=state,
        checkpoint_minutes=checkpoint_minutes,
        precision=dtype,
        micro_batch=micro_batch,
    )
    if not is_first():
        learn(on_epoch=lambda row: None)
        return
    history = []
    with tracking.run(
        tracking_uri,
        record=record,
        name=name,
        **tracking.identity(
            recipe, patch_size, stage, "trial" if trial_of else "training", seed, trial_of
        ),
        parameters={"seed": seed, "precision": name_of(dtype), **training.model_dump(mode="json")},
        datasets=[
            tracking.dataset(recipe, split, data, part.digest, len(part))
            for split, part in (("train", clips), ("val", validation))
        ],
        history=metrics,
        resume=resume.path,
        fingerprints=resume.fingerprints,
    ) as run:

        def epoch_done(row: dict[str, float]) -> None:
            history.append(row)
            write_history(history, metrics)
            run.epoch_done()
            if on_epoch:
                on_epoch(row)

        progress = learn(on_epoch=epoch_done)
        write(history, resume.made_by | _in_parts(progress.micro_batch, training.batch_size))
        run.add_artifacts(curves)
        # What a chain with swept rates cannot tell beforehand.
        rates = training.learning_rates if recipe.swept else {}
        of_chain = {f"{stage}_learning_rate_{part}": rate for part, rate in rates.items()}
        of_chain[f"{stage}_val_{recipe.metric}"] = progress.best
        run.add_figures({f"best_val_{recipe.metric}": progress.best}, {} if trial_of else of_chain)
    previous_state(resume.path).unlink(missing_ok=True)
    best = f"the epoch kept has {recipe.metric} {progress.best:.1f}"
    tqdm.write(f"{output}: {best}; curves: {curves}")
    if history[-1].get("distinct_cells") == 1:
        tqdm.write(
            f"{name}: the policy's likeliest place was one and the same in every frame of the last"
            f" epoch. It has learnt a place, not where to look: more epochs or update_epochs in"
            f" stages.{stage}, or more videos, may help"
        )


def begin(
    recipe: Recipe, stage: str, patch_size: int | None, init: Sequence[Path]
) -> tuple[AdaFocus, dict[str, Tensor]]:
    """The model that a stage starts from, and what it has of the checkpoints before.

    Raises:
        CheckpointError: where ``init`` does not fit the recipe or lacks a part.
    """
    spec = SPECS[stage]
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


def _trained(
    output: Path,
    model: AdaFocus,
    recipe: Recipe,
    stage: str,
    patch_size: int | None,
    anew: str | None,
) -> Checkpoint | None:
    """The stage's checkpoint that is there or was kept aside, if it fits the model."""
    shapes = {key: value.shape for key, value in _tensors(model, SPECS[stage].leaves).items()}
    for path in (kept(output), output):
        with suppress(CheckpointError):
            found = checkpoint.read(path)
            checkpoint.check_fit(found, path, recipe, patch_size)
            if (
                (found.stage, found.patch_size) == (stage, patch_size)
                and {key: value.shape for key, value in found.tensors.items()} == shapes
                and anew in (None, found.made_by.get("anew"))
            ):
                return found
    return None


def _in_parts(micro_batch: int | None, batch_size: int) -> dict[str, Any]:
    """What a checkpoint says of videos that went through at a time, if not whole batches did."""
    whole = micro_batch is None or micro_batch * size() >= batch_size
    return {} if whole else {"micro_batch": micro_batch}


def _tensors(model: AdaFocus, parts: Sequence[str]) -> dict[str, Tensor]:
    """Weights and buffers of parts of a model."""
    return {key: value for key, value in model.state_dict().items() if key.split(".")[0] in parts}
