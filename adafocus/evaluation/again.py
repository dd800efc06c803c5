"""Evaluations and curves of which nothing has changed are not measured again."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from adafocus import tracking
from adafocus.data.clips import digest_of, digest_of_replaced, digest_of_sizes
from adafocus.evaluation.predictions import Predictions
from adafocus.evaluation.result import Result, ResultError
from adafocus.machine.files import kept, sha256
from adafocus.model.checkpoint import Checkpoint, digest
from adafocus.training.fingerprint import REVISION, frames_of


def fingerprint(source: Checkpoint, data: Path, early: bool, **facts: object) -> str:
    """Of all that decides what an evaluation or a curve measures, and on what.

    Args:
        source: the checkpoint.
        data: the data set's folder, with its splits.
        early: whether videos are left early; then the training videos decide too when.
        facts: what else does, such as the seed.
    """
    splits = ["train", "val"] if early else ["val"]
    recipe, positions = source.recipe, source.recipe.annotations.positions
    known = facts | {
        "revision": REVISION,
        "tensors": digest(source.tensors),
        "stage": source.stage,
        "patch_size": source.patch_size,
        "model": recipe.model.needed_by(source.spec.depends_on),
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


def points_before(output: Path, record: Path, fingerprint: str, anew: str | None) -> bytes | None:
    """The points of a curve with this fingerprint, by what is there or was kept aside; None where
    there are none, or those under the word ``anew`` are asked for.

    A table has no room for its fingerprint: its run's record tells, which ended well after it had
    been written.
    """
    import pandas as pd

    ended = tracking.finished(record, [fingerprint])
    if ended is None or anew not in (None, ended.parameters.get("anew")):
        return None
    for path in (kept(output), output):
        with suppress(OSError, ValueError):
            table = path.read_bytes()
            if "accuracy" in pd.read_csv(BytesIO(table)):
                return table
    return None
