"""What an evaluation leaves: its result, predictions and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from adafocus.data.clips import Clips
from adafocus.evaluation.measurement import Measurement
from adafocus.evaluation.metrics import metric_by_class
from adafocus.evaluation.predictions import Predictions
from adafocus.evaluation.result import Result
from adafocus.figures import SheetClip, confusion_matrix, contact_sheet, patch_maps, step_curve
from adafocus.machine.files import kept, sha256
from adafocus.model.choices import Choices
from adafocus.model.exits import visiting_order

SHEET_CLIPS = 6
"""Rows of each contact sheet."""


def predictions_of(
    measured: Measurement, clips: Clips, class_names: Sequence[str], metric: str
) -> Predictions:
    """What was predicted, video by video and class by class."""
    last = measured.logits["chosen"][0, :, -1].float()
    probability, predicted = last.softmax(-1).max(-1)
    draws = measured.logits["random"][:, :, -1]
    random = [metric_by_class(draw, measured.labels, metric) for draw in draws]
    by_class = metric_by_class(last, measured.labels, metric)
    looks = measured.looks
    return Predictions(
        classes=np.array(class_names),
        videos=np.array(clips.videos),
        labels=measured.labels.numpy(),
        predicted=predicted.numpy().astype(np.int16),
        probability=probability.numpy(),
        corners=looks.corners.numpy().astype(np.int16),
        accuracy=by_class.astype(np.float32),
        accuracy_random=np.mean(random, axis=0).astype(np.float32),
        boxes=looks.patches.numpy(),
        frames=looks.frames.numpy().astype(np.int16),
    )


def write_outcome(
    result: Result, predictions: Predictions, clips: Clips, output: Path, plots: Path
) -> tuple[Result, list[Path]]:
    """Writes a result, its predictions beside it and its figures, and says what it warns of.

    Returns:
        The result as it was written, which tells what was chosen between and names its predictions,
        and the figures' paths.
    """
    beside = Predictions.path_of(output)
    predictions.write(beside)
    result = replace(result, predictions_sha256=sha256(beside))
    choices = None
    if result.has_policy:
        looks = predictions.looks(result.patch_size, clips.recipe.model.frames)
        choices = Choices.of(looks, clips.recipe)
    if choices is not None:
        told = list(choices.warnings(clips.recipe))
        result = replace(result, choices=asdict(choices), warnings=told)
    for warning in result.warnings:
        tqdm.write(f"{output}: {warning}")
    drawn = draw(result, predictions, clips, plots, output.stem)
    result.write(output)
    for path in (output, beside):
        kept(path).unlink(missing_ok=True)
    return result, drawn


def draw(
    result: Result, predictions: Predictions, clips: Clips, folder: Path, name: str
) -> list[Path]:
    """Draws all figures of one evaluation and returns their paths."""
    size, shape = result.patch_size, clips.recipe.model
    learned = result.has_policy
    chooser = "chosen by the policy" if learned else "drawn at random"
    # The same few clips for every model, drawn at random, as classes may alternate.
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(0)).numpy()
    right = predictions.right[order]
    sheets = {
        "sheet": (order, f"patches {chooser}"),
        "right": (order[right], f"right predictions, {right.sum()} of {len(order)}"),
        "wrong": (order[~right], f"wrong predictions, {(~right).sum()} of {len(order)}"),
    }
    frames, boxes = shape.frames, predictions.boxes_of(size)
    order_of_frames = range(frames) if result.budget is None else visiting_order(frames)
    paths = []
    for sheet, (videos, title) in sheets.items():
        paths.append(folder / f"{name}_{sheet}.png")
        rows = [
            _sheet_clip(
                clips, predictions, video, predictions.frames_of(video, order_of_frames), boxes
            )
            for video in videos[:SHEET_CLIPS].tolist()
        ]
        contact_sheet(rows, paths[-1], f"{name}: {title}")
    paths += [folder / f"{name}_{figure}.svg" for figure in ("steps", "patches", "confusion")]
    steps, patches, confusion = paths[-3:]
    metric = result.metric
    model = clips.recipe.model_name
    step_curve(result.metrics_per_step, result.baselines, metric, steps, name, model)
    title = f"{name}: patches {chooser}"
    grid = shape.cells
    patch_maps(predictions, size, shape.frame_size, grid, metric, patches, title, learned)
    confusion_matrix(predictions, confusion, name)
    return paths


def _sheet_clip(
    clips: Clips, predictions: Predictions, video: int, looked_at: np.ndarray, boxes: np.ndarray
) -> SheetClip:
    return SheetClip(
        clips[0, video]["frames"].numpy()[looked_at],
        np.broadcast_to(boxes[video], (len(looked_at), 4)),
        truth=", ".join(predictions.classes[predictions.labels[video]]),
        prediction=str(predictions.classes[predictions.predicted[video]]),
        right=bool(predictions.right[video]),
        probability=float(predictions.probability[video]),
    )
