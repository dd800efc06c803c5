"""The evaluation run: a checkpoint's accuracy, its baselines', its cost and its speed."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

import adafocus
from adafocus import tracking
from adafocus.data.batches import Batch, EpochSampler, loader
from adafocus.data.clips import Clips
from adafocus.device import (
    FREE_SOME,
    name_of,
    name_what_fills_memory,
    pick_device,
    pick_precision,
    share_threads,
)
from adafocus.distributed import gather_to_first, is_first, is_mine, most
from adafocus.draws import Draws
from adafocus.evaluation import again, flops
from adafocus.evaluation.exits import calibrate
from adafocus.evaluation.metrics import accuracy, accuracy_by_class
from adafocus.evaluation.predictions import Predictions
from adafocus.files import kept, remove_abandoned, sha256, whole
from adafocus.meter import Meter
from adafocus.model.adafocus import AdaFocus
from adafocus.model.checkpoint import assemble, read
from adafocus.model.classifier import Glimpse
from adafocus.model.exits import ConditionalExit, classify_visits, visiting_order
from adafocus.model.patches import SKIPPED, centred_corners
from adafocus.plots import SheetClip, confusion_matrix, contact_sheet, patch_maps, step_curve
from adafocus.recipe import Precision

SCHEMA = 2
"""Of the result: raised with what it tells, of which nothing is ever taken away. The first had no
number."""
DRAWS = 5
"""Random patches are drawn so many times; their accuracy is the mean."""
SHEET_CLIPS = 6
"""Rows of each contact sheet."""


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
) -> dict[str, Any]:
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

    Returns:
        What ``output`` holds; nothing where another process is the first (`distributed.joined`).

    Raises:
        CheckpointError: where the checkpoint cannot be used, or its model cannot leave early.
        DataError: where the data cannot be read.
        ValueError: where the budget is too small.
    """
    remove_abandoned(output.parent, plots)
    torch_device = pick_device(device)
    workers = share_threads(threads, torch_device)
    source = read(checkpoint)
    recipe, patch_size, stage = source.recipe, source.patch_size, source.stage
    model = assemble(source, checkpoint).eval().to(torch_device)
    model.set_precision(pick_precision(precision, torch_device))
    model = model.frozen()
    clips = Clips(data, "val", recipe, augment=False, seed=seed)
    sampler = EpochSampler(len(clips), seed, shuffle=False)
    batch_size = recipe.stages[stage].batch_size
    digest = sha256(checkpoint)
    name, beside = output.stem, output.with_suffix(".predictions.npz")
    dtype = name_of(model.precision)
    device_name = _device_name(torch_device)
    fingerprint = again.fingerprint(
        source, data, budget, seed=seed, precision=dtype, device=device_name
    )
    before = None
    if is_first():
        before = again.measured_before(output, beside, fingerprint, source, anew)
    if any(most(before is not None)):
        if before is None:
            return {}
        result, predictions = before
        compared = result["published"] and recipe.published_beside(
            patch_size, result["metrics"][recipe.metric]
        )
        result |= {
            "published": compared,
            "checkpoint": {"path": str(checkpoint), "sha256": digest},
            "made_by": dict(source.made_by),
            "recipe": recipe.to_dict(),
        }
        _leave(result, predictions, clips, output, plots, learned=model.policy is not None)
        tqdm.write(f"{output}: measured before; its figures are drawn again")
        return result

    batches = loader(clips, batch_size, sampler, workers, torch_device)
    exits = None
    if budget is not None:
        with name_what_fills_memory(FREE_SOME):
            calibration = calibrate(
                checkpoint, model, recipe, data, workers=workers, device=torch_device
            )
        exits = ConditionalExit(model, calibration.thresholds(budget).tolist())
    in_memory = name_what_fills_memory(FREE_SOME)
    if not is_first():
        with in_memory:
            measure(model, batches, torch_device, seed, exits)
        return {}
    with tracking.run(
        tracking_uri,
        record=output.with_name(f"{name}_evaluation.run.json"),
        name=f"{name}_evaluation",
        **tracking.identity(recipe, patch_size, stage, "evaluation", seed),
        parameters={
            "seed": seed,
            "checkpoint": checkpoint,
            "checkpoint_sha256": digest,
            "budget": budget,
        },
        datasets=[tracking.dataset(recipe, "val", data, clips.digest, len(clips))],
    ) as run:
        with in_memory:
            measured = measure(model, batches, torch_device, seed, exits)
        steps = measured.steps.double().mean().item()
        looks = measured.looked.sum(-1).double().mean().item()
        cost = calibration.cost if exits else flops.per_step(recipe, patch_size)
        spent = cost.spent(measured.looked.numpy())
        gflops = np.take_along_axis(spent, measured.steps[:, None].numpy() - 1, 1).mean()
        scores = measured.scores()
        chosen = scores.pop("chosen")
        per_step = scores["random"] if model.policy is None else chosen
        baselines = {place: steps[-1] for place, steps in scores.items()}
        result = {
            "schema": SCHEMA,
            "dataset": recipe.name,
            "patch_size": patch_size,
            "stage": int(stage.removeprefix("stage")),
            "metric": recipe.metric,
            "metrics": per_step[-1],
            "metrics_per_step": per_step,
            "baselines": baselines,
            "gflops_per_video": gflops,
            "skip_cost": recipe.skip_cost,
            "budget": budget,
            "steps_per_video": steps,
            "looks_per_video": looks,
            "videos_per_second": len(clips) / measured.seconds,
            "data_wait_share": measured.data_wait_share,
            "peak_memory_gb": measured.peak_memory_gb,
            "learning_rates": {
                name: recipe.stages[name].learning_rates
                for name in ("stage1", "stage2", "stage3")
                if name <= stage
            },
            "swept": recipe.swept and recipe.swept.model_dump(mode="json"),
            "published": recipe.published_beside(patch_size, per_step[-1][recipe.metric])
            if stage == "stage3"
            and recipe.skip_cost is None
            and budget is None
            and model.precision == torch.float32
            else None,
            "videos": len(clips),
            "classes_left_out_of_mAP": int((~measured.labels.any(0)).sum()),
            "seed": seed,
            "git_commit": tracking.git_commit(),
            "checkpoint": {"path": str(checkpoint), "sha256": digest},
            "made_by": dict(source.made_by),
            "fingerprint": fingerprint,
            "anew": anew,
            "mlflow_run_id": run.id,
            "device": device_name,
            "precision": dtype,
            "threads": threads,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "adafocus": adafocus.__version__,
            },
            "recipe": recipe.to_dict(),
        }

        predictions = _predictions(clips, measured, source.class_names, recipe.metric)
        learned = model.policy is not None
        drawn = _leave(result, predictions, clips, output, plots, learned)

        logged = {
            **result["metrics"],
            **{f"{b}_{m}": value for b in baselines for m, value in baselines[b].items()},
            "gflops_per_video": result["gflops_per_video"],
            "steps_per_video": result["steps_per_video"],
            "looks_per_video": result["looks_per_video"],
            "videos_per_second": result["videos_per_second"],
            "data_wait_share": result["data_wait_share"],
            "peak_memory_gb": result["peak_memory_gb"],
        }
        if budget is not None:
            name = f"{stage}_budget_{budget:g}"
            compared = (recipe.metric, "gflops_per_video")
            run.add_figures(logged, {f"{name}_{figure}": logged[figure] for figure in compared})
        elif stage == "stage3":
            run.add_figures(logged, logged)
            run.add_model(checkpoint, digest)
        else:
            run.add_figures(logged, {f"{stage}_{k}": v for k, v in result["metrics"].items()})
        run.add_artifacts(output, beside, *drawn)
    found = f"{recipe.metric} {result['metrics'][recipe.metric]:.1f}"
    tqdm.write(f"{output}: {found} at {gflops:.3g} GFLOPs per video; figures: {plots}")
    return result


# --- one pass over the validation videos ------------------------------------------------------


@dataclass
class Measurement:
    """What one pass over N validation videos leaves."""

    logits: dict[str, Tensor]
    """(D, N, S, K) by where the model looked, for D draws and S steps; of the baselines only the
    last step, but where a model has no policy all of ``random``"""
    labels: Tensor
    """bool (N, K)"""
    corners: Tensor
    """(N, S, 2), where the model chose to look, `SKIPPED` where it did not"""
    steps: Tensor
    """int64 (N,), steps after which it left the video"""
    seconds: float
    """that its predictions took, of all processes together"""
    data_wait_share: float
    """Share of the pass in which it waited for data"""
    peak_memory_gb: float
    """See `peak_memory`"""

    @property
    def looked(self) -> Tensor:
        """bool (N, S): the steps at which the model looked at a patch."""
        return (self.corners != SKIPPED).all(-1)

    def scores(self) -> dict[str, list[dict[str, float]]]:
        """Accuracy after each step by where the model looked, means over draws."""
        return {
            place: [
                _mean([accuracy(draw, self.labels) for draw in draws])
                for draws in logits.unbind(dim=2)
            ]
            for place, logits in self.logits.items()
        }


@torch.inference_mode()
def measure(
    model: AdaFocus,
    batches: DataLoader,
    device: torch.device,
    seed: int,
    exits: ConditionalExit | None = None,
) -> Measurement | None:
    """Predicts all videos with the patches that the model chooses and with each baseline's.

    A model without a policy chooses at random. With ``exits`` videos are left early. Of several
    processes the first alone is given what all have measured; the others get None.

    Args:
        seed: fixes the random patches.
    """
    found: list[tuple[int, dict[str, Tensor], Tensor, Tensor, Tensor]] = []
    seconds = 0.0
    meter = Meter(device)
    mine = meter.watch(tqdm(batches, desc="evaluation", unit="batch", disable=not is_first()))
    for number, videos in enumerate(batches.sampler.batches):
        if not is_mine(number):
            continue
        items = next(mine)
        batch = Batch.of(items, device, Draws(seed, 0, number, videos, slice(0, videos)))
        if not found:
            _predict(model, batch, exits)  # to warm up
        started = _now(device)
        glimpse, chosen, prediction, steps = _predict(model, batch, exits)
        seconds += _now(device) - started

        logits = {"chosen": prediction[None].cpu()}
        classify: Callable[[Glimpse, Tensor], Tensor] = model.classifier
        if exits is not None:
            classify = partial(classify_visits, model.classifier)
            batch = batch.in_order(exits.order)
            glimpse = model.glance(batch.glance)
        last = steps[:, None, None] - 1
        for place, draws in _elsewhere(model, batch).items():
            if model.skips:
                draws = [torch.where(chosen == SKIPPED, chosen, draw) for draw in draws]
            predictions = torch.stack(
                [classify(glimpse, model.focus(batch.frames, draw)) for draw in draws]
            )
            if model.policy is not None or place != "random":
                predictions = predictions.take_along_dim(last[None], dim=2)
            logits[place] = predictions.cpu()
        opinions = glimpse.logits.float()
        if exits is not None:
            counts = torch.arange(1, opinions.shape[1] + 1, device=device)[:, None]
            so_far = opinions.cumsum(1) / counts
            opinions = so_far.take_along_dim(last, dim=1)
        logits["glancer"] = opinions.mean(1)[None, :, None].cpu()
        found.append((number, logits, items["labels"], chosen.cpu(), steps.cpu()))
    next(mine, None)  # the end, so that the bar is drawn to it
    figures = meter.figures(len(batches.dataset))
    gathered, all_seconds = gather_to_first(found), gather_to_first([seconds])
    if gathered is None or all_seconds is None:
        return None
    _, logits, labels, corners, steps = zip(*sorted(gathered, key=itemgetter(0)), strict=True)
    return Measurement(
        {place: torch.cat([batch[place] for batch in logits], dim=1) for place in logits[0]},
        torch.cat(labels),
        torch.cat(corners),
        torch.cat(steps),
        sum(all_seconds),
        figures["data_wait_share"],
        figures["peak_memory_gb"],
    )


def _predict(
    model: AdaFocus, batch: Batch, exits: ConditionalExit | None
) -> tuple[Glimpse | None, Tensor, Tensor, Tensor]:
    """A whole prediction: the glimpse of all frames, unless some may never be visited, the corners
    chosen, the logits (B, S, K) and the number of steps (B,)."""
    if exits is not None:
        visit = exits(batch.frames)
        return None, visit.corners, visit.logits, visit.steps
    glimpse = model.glance(batch.glance)
    corners = batch.random_corners(model) if model.policy is None else model.look(glimpse)
    logits = model.classifier(glimpse, model.focus(batch.frames, corners))
    return glimpse, corners, logits, batch.index.new_full(batch.index.shape, logits.shape[1])


def _elsewhere(model: AdaFocus, batch: Batch) -> dict[str, list[Tensor]]:
    """Corners of the patches of each baseline, one tensor per draw."""
    frames = batch.frames
    corners = {
        "random": [batch.random_corners(model, number) for number in range(1, DRAWS + 1)],
        "centre": [torch.full((len(frames), 1, 2), model.margin // 2, device=frames.device)],
    }
    if batch.positions is not None:
        centred = centred_corners(batch.positions, model.frame_size, model.patch_size)
        corners["oracle"] = [centred]
    return corners


def _now(device: torch.device) -> float:
    """Seconds on a clock that waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


# --- what the result says besides -------------------------------------------------------------


def _predictions(
    clips: Clips, measured: Measurement, names: Sequence[str], metric: str
) -> Predictions:
    last = measured.logits["chosen"][0, :, -1].float()
    probability, predicted = last.softmax(-1).max(-1)
    draws = measured.logits["random"][:, :, -1]
    random = [accuracy_by_class(draw, measured.labels, metric) for draw in draws]
    by_class = accuracy_by_class(last, measured.labels, metric)
    return Predictions(
        classes=np.array(names),
        videos=np.array(clips.videos),
        labels=measured.labels.numpy(),
        predicted=predicted.numpy().astype(np.int16),
        probability=probability.numpy(),
        corners=measured.corners.numpy().astype(np.int16),
        accuracy=by_class.astype(np.float32),
        accuracy_random=np.mean(random, axis=0).astype(np.float32),
    )


def _leave(
    result: dict[str, Any],
    predictions: Predictions,
    clips: Clips,
    output: Path,
    plots: Path,
    learned: bool,
) -> list[Path]:
    """Writes a result, its predictions and figures; returns the figures' paths."""
    beside = output.with_suffix(".predictions.npz")
    predictions.write(beside)
    result["predictions_sha256"] = sha256(beside)
    drawn = _draw(result, predictions, clips, plots, output.stem, learned)
    with whole(output) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for path in (output, beside):
        kept(path).unlink(missing_ok=True)
    return drawn


def _draw(
    result: dict[str, Any],
    predictions: Predictions,
    clips: Clips,
    folder: Path,
    name: str,
    learned: bool,
) -> list[Path]:
    """Draws all figures of one evaluation and returns their paths."""
    size, shape = result["patch_size"], clips.recipe.model
    chooser = "chosen by the policy" if learned else "drawn at random"
    # The same few clips for every model, drawn at random, as classes may alternate.
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0)).numpy()
    right = predictions.right[order]
    sheets = {
        "sheet": (order, f"patches {chooser}"),
        "right": (order[right], f"right predictions, {right.sum()} of {len(order)}"),
        "wrong": (order[~right], f"wrong predictions, {(~right).sum()} of {len(order)}"),
    }
    frames = shape.frames
    order_of_frames = range(frames) if result["budget"] is None else visiting_order(frames)
    paths = []
    for sheet, (videos, title) in sheets.items():
        paths.append(folder / f"{name}_{sheet}.png")
        rows = [
            _sheet_clip(clips, predictions, video, order_of_frames)
            for video in videos[:SHEET_CLIPS].tolist()
        ]
        contact_sheet(rows, size, paths[-1], f"{name}: {title}")
    paths += [folder / f"{name}_{figure}.svg" for figure in ("steps", "patches", "confusion")]
    steps, patches, confusion = paths[-3:]
    metric = result["metric"]
    step_curve(result["metrics_per_step"], result["baselines"], metric, steps, name)
    title = f"{name}: patches {chooser}"
    grid = shape.policy.grid
    patch_maps(predictions, size, shape.frame_size, grid, metric, patches, title, learned)
    confusion_matrix(predictions, confusion, name)
    return paths


def _sheet_clip(
    clips: Clips, predictions: Predictions, video: int, order: Sequence[int]
) -> SheetClip:
    frames = clips[0, video]["frames"].numpy()[order]
    steps = predictions.corners[video].astype(int)
    return SheetClip(
        frames,
        np.broadcast_to(steps, (len(frames), 2)),
        truth=", ".join(predictions.classes[predictions.labels[video]]),
        prediction=str(predictions.classes[predictions.predicted[video]]),
        right=bool(predictions.right[video]),
        probability=float(predictions.probability[video]),
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU"
