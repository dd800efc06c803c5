"""The evaluation run: a checkpoint's accuracy, its baselines', its cost and its speed."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from tqdm import tqdm

import adafocus
from adafocus import tracking
from adafocus.data.batches import EpochSampler, loader
from adafocus.data.clips import Clips
from adafocus.evaluation import again, flops
from adafocus.evaluation.exits import calibrate
from adafocus.evaluation.flops import Cost
from adafocus.evaluation.measurement import Measurement, measure
from adafocus.evaluation.outcome import predictions_of, write_outcome
from adafocus.evaluation.places import places_of
from adafocus.evaluation.predictions import Predictions
from adafocus.evaluation.result import SCHEMA, Result
from adafocus.machine.device import (
    FREE_SOME,
    name_of,
    name_what_fills_memory,
    pick_device,
    pick_precision,
    share_threads,
)
from adafocus.machine.distributed import all_reduce_max, is_first
from adafocus.machine.files import remove_abandoned, sha256
from adafocus.model.checkpoint import Checkpoint, assemble, read
from adafocus.model.exits import ConditionalExit
from adafocus.recipe import Precision, Recipe


def evaluate(
    checkpoint: Path,
    *,
    data: Path,
    output: Path,
    plots: Path,
    seed: int,
    device: str,
    threads: int,
    tracking_uri: str,
    budget: float | None = None,
    precision: Precision = "fp32",
    anew: str | None = None,
    experiment: str | None = None,
) -> Result | None:
    """Evaluates a stage 1, 2 or 3 checkpoint on the validation videos and writes the result.

    All baselines are measured in the same pass on the same weights: random patches (mean of five
    draws), the centre patch, the glancer alone (its logits averaged over frames) and, where the
    clips carry the truth's positions, the oracle, whose patches are centred on them. A stage-1
    model has no policy, so its own metrics are those of random patches. The baselines look at the
    same frames as the model does, where it skips some or leaves a video early.

    ``gflops_per_video`` is what the videos really cost in the mean.

    ``videos_per_second`` is the speed of prediction alone on this device, in batches of the stage's
    size and after a warm-up: glance, choice of patches, focus and classification, but neither
    loading nor decoding. ``data_wait_share`` and ``peak_memory_gb`` are of the whole pass, with its
    baselines.

    Where a result is there of which nothing has changed, it is not measured again, but its figures
    are drawn.

    Args:
        checkpoint: the file, which carries its recipe.
        data: the data set's folder, with its splits.
        output: the JSON to write; its stem names the figures and the MLflow run. The `Predictions`
            lie beside it in ``*.predictions.npz``.
        plots: folder for ``*_sheet.png``, validation clips with the chosen patches, ``*_right.png``
            and ``*_wrong.png``, such clips by prediction, ``*_steps.svg``, the accuracy after each
            step, ``*_patches.svg``, where the patches lie, and ``*_confusion.svg``, the predictions
            by true class.
        seed: fixes the random patches.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads to use.
        tracking_uri: MLflow's store.
        budget: in GFLOPs per video, to be kept by leaving those early that are sure, see
            `adafocus.model.exits`; None to look at all frames. Then the training videos must be
            there, unless the checkpoint's `Calibration` is.
        precision: in which the backbones compute, see `pick_precision`; published figures are
            compared with in fp32 alone.
        anew: any word; what was not measured under the same one is measured again.
        experiment: the one that the result is of, where it shares the checkpoint of another.

    Returns:
        What ``output`` holds; None where another process is the first (`distributed.joined`).

    Raises:
        CheckpointError: where the checkpoint cannot be used, or its model cannot leave early.
        DataError: where the data cannot be read.
        ValueError: where the budget is too small.
    """
    remove_abandoned(output.parent, plots)
    torch_device = pick_device(device)
    workers = share_threads(threads, torch_device)
    source = read(checkpoint)
    recipe = source.recipe.called(experiment)
    source = replace(source, recipe=recipe)
    model = assemble(source, checkpoint).eval().to(torch_device)
    model.set_precision(pick_precision(precision, torch_device))
    model = model.frozen()
    clips = Clips(data, "val", recipe, augment=False, seed=seed)
    facts: dict[str, str | float | None] = {
        "budget": budget,
        "seed": seed,
        "precision": name_of(model.precision),
        "device": _device_name(torch_device),
    }
    fingerprint = again.fingerprint(source, data, early=budget is not None, **facts)
    before = again.measured_before(output, fingerprint, source, anew) if is_first() else None
    if any(all_reduce_max(before is not None)):
        if before is None:
            return None
        result, predictions = before
        result = _with_source(result, source, checkpoint)
        result, _ = write_outcome(result, predictions, clips, output, plots)
        tqdm.write(f"{output}: measured before; its figures are drawn again")
        return result

    cost, exits = flops.per_step(recipe, model.patch_size), None
    with name_what_fills_memory(FREE_SOME):
        if budget is not None:
            calibration = calibrate(
                checkpoint, source, model, data, workers=workers, device=torch_device
            )
            cost = calibration.cost
            exits = ConditionalExit(model, calibration.thresholds(budget).tolist())
        batch_size = recipe.stages[source.stage].batch_size
        sampler = EpochSampler(len(clips), seed, shuffle=False)
        batches = loader(clips, batch_size, sampler, workers, torch_device)
        if not is_first():
            measure(places_of(model, exits), batches, torch_device, seed)
            return None
    with tracking.run(
        tracking_uri,
        record=output.with_name(f"{output.stem}_evaluation.run.json"),
        name=f"{output.stem}_evaluation",
        **tracking.identity(recipe, source.patch_size, source.stage, "evaluation", seed),
        parameters={
            "seed": seed,
            "checkpoint": checkpoint,
            "checkpoint_sha256": sha256(checkpoint),
            "budget": budget,
        },
        datasets=[tracking.dataset(recipe, "val", data, clips.digest, len(clips))],
    ) as run:
        with name_what_fills_memory(FREE_SOME):
            measured = measure(places_of(model, exits), batches, torch_device, seed)
        del batches  # ends the processes that load them; figures may keep this frame for long
        assert measured is not None  # as in the first process
        told = facts | {"fingerprint": fingerprint, "anew": anew, "threads": threads}
        result = _result(measured, source, checkpoint, cost, mlflow_run_id=run.id, **told)
        predictions = predictions_of(measured, clips, source.class_names, recipe.metric)
        result, drawn = write_outcome(result, predictions, clips, output, plots)
        _log(run, result, checkpoint)
        run.add_artifacts(output, Predictions.path_of(output), *drawn)
    tqdm.write(f"{output}: {result.told}; figures: {plots}")
    return result


def _result(
    measured: Measurement, source: Checkpoint, checkpoint: Path, cost: Cost, **told: Any
) -> Result:
    """What was measured of a checkpoint, by what its visits and looks cost.

    Args:
        told: other fields of the result.
    """
    assert source.patch_size is not None  # as of every stage that is evaluated
    recipe = source.recipe
    spent = cost.spent(measured.looked.numpy())
    scores = measured.scores()
    chosen = scores.pop("chosen")
    result = Result(
        schema=SCHEMA,
        dataset=recipe.dataset,
        experiment=recipe.name,
        patch_size=source.patch_size,
        method=recipe.method,
        stage=recipe.spec(source.stage).number,
        metric=recipe.metric,
        metrics=chosen[-1],
        metrics_per_step=chosen,
        baselines={place: steps[-1] for place, steps in scores.items()},
        gflops_per_video=float(spent[np.arange(len(spent)), measured.steps.numpy() - 1].mean()),
        skip_cost=recipe.skip_cost,
        steps_per_video=measured.steps.double().mean().item(),
        looks_per_video=measured.looked.sum(-1).double().mean().item(),
        videos_per_second=len(measured.labels) / measured.seconds,
        data_wait_share=measured.data_wait_share,
        peak_memory_gb=measured.peak_memory_gb,
        learning_rates=_rates(recipe, source.stage),
        videos=len(measured.labels),
        classes_left_out_of_mAP=int((~measured.labels.any(0)).sum()),
        git_commit=tracking.git_commit(),
        checkpoint={},
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "adafocus": adafocus.__version__,
        },
        recipe={},
        **told,
    )
    if not result.has_policy:
        # Its own patches are random ones, of which it has been given several draws.
        result = replace(result, metrics=scores["random"][-1], metrics_per_step=scores["random"])
    return _with_source(result, source, checkpoint)


def _rates(recipe: Recipe, last: str) -> dict[str, dict[str, float]]:
    """At which the stages up to the last were trained, but for the backbones' own."""
    names = [spec.name for spec in recipe.table if spec.of_patch_size]
    found = {name: recipe.stages[name].learning_rates for name in names}
    return dict(list(found.items())[: names.index(last) + 1])


def _with_source(result: Result, source: Checkpoint, checkpoint: Path) -> Result:
    """The result with what its checkpoint tells."""
    swept = source.recipe.swept
    return replace(
        result,
        published=source.recipe.published_beside(result.patch_size, result.accuracy)
        if result.is_plain
        else None,
        checkpoint={"path": str(checkpoint), "sha256": sha256(checkpoint)},
        made_by=dict(source.made_by),
        swept=None if swept is None else swept.model_dump(mode="json"),
        recipe=source.recipe.to_dict(),
    )


def _log(run: tracking.Run, result: Result, checkpoint: Path) -> None:
    """Tells MLflow: the run, and what its chain is compared by."""
    figures = {
        **result.metrics,
        **{
            f"{place}_{name}": value
            for place, scores in result.baselines.items()
            for name, value in scores.items()
        },
    }
    spent = ("gflops_per_video", "steps_per_video", "looks_per_video")
    speed = ("videos_per_second", "data_wait_share", "peak_memory_gb")
    figures |= {name: getattr(result, name) for name in (*spent, *speed)}
    stage = "" if result.stage is None else f"stage{result.stage}_"
    if result.budget is not None:
        compared = (result.metric, "gflops_per_video")
        of_chain = {f"{stage}budget_{result.budget:g}_{name}": figures[name] for name in compared}
    elif result.is_finished:
        of_chain = figures
    else:
        of_chain = {f"{stage}{name}": value for name, value in result.metrics.items()}
    run.add_figures(figures, of_chain)
    if result.is_finished and result.budget is None:
        run.add_model(checkpoint, result.checkpoint["sha256"])


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"
