"""An evaluation of which nothing has changed is not measured again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from adafocus.data.clips import digest_of, digest_of_replaced, digest_of_sizes
from adafocus.evaluation.predictions import Predictions
from adafocus.evaluation.result import Result, ResultError
from adafocus.files import kept, sha256
from adafocus.model.checkpoint import Checkpoint, digest
from adafocus.training.fingerprint import REVISION, frames_of


def fingerprint(source: Checkpoint, data: Path, budget: float | None, **facts: object) -> str:
    """Of all that decides what an evaluation measures, and on what.

    Args:
        source: the checkpoint.
        data: the data set's folder, with its splits.
        budget: in GFLOPs per video; for one, the training videos decide too when to leave.
        facts: seed, precision and device.
    """
    splits = ["val"] if budget is None else ["train", "val"]
    recipe, positions = source.recipe, source.recipe.annotations.positions
    known = facts | {
        "revision": REVISION,
        "budget": budget,
        "tensors": digest(source.tensors),
        "stage": source.stage,
        "patch_size": source.patch_size,
        "model": recipe.model.needed_by(source.stage),
        "frames": frames_of(recipe),
        "metric": recipe.metric,
        "splits": [digest_of(data, split) for split in splits],
        "sizes": digest_of_sizes(data, *splits),
        "positions": positions and sha256(data / "annotations" / positions),
    }
    if replaced := digest_of_replaced(data, *splits):
        known["replaced"] = replaced
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def measured_before(
    output: Path, fingerprint: str, source: Checkpoint, anew: str | None
) -> tuple[Result, Predictions] | None:
    """The result and predictions of an evaluation with this fingerprint, by what is there or was
    kept aside; None where there is none, or one under the word ``anew`` is asked for.

    A result tells which predictions are its own, but those by older versions: who was killed
    between the two left those of another.
    """
    for place in (kept, Path):
        beside = place(Predictions.path_of(output))
        try:
            result = Result.read(place(output))
            found = Predictions.read(beside)
            digest = sha256(beside)
        except (ResultError, OSError, EOFError, ValueError, TypeError, BadZipFile):
            continue
        own = result.predictions_sha256 in (None, digest)
        if own and result.fingerprint == fingerprint and anew in (None, result.anew):
            return result, replace(found, classes=np.array(source.class_names))
    return None
