"""What a run leaves on disk. Nothing here knows of MLflow."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from adafocus.machine.files import atomic
from adafocus.tracking.chain import Chain

if TYPE_CHECKING:
    from adafocus.recipe import Recipe

logger = logging.getLogger(__package__)

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""Killed are runs that were told to stop, such as trials of a sweep that do badly."""


class Point(NamedTuple):
    """Metrics of one moment; all of it follows from the files, so that a store knows its own."""

    step: int
    time: int
    metrics: Mapping[str, float]


@dataclass
class Record:
    """What one run has to say, as ``*.run.json`` holds it. Times are in milliseconds since 1970."""

    key: str
    """By which the run is found in any store."""
    fingerprint: str | None
    """Of what fixes the run; a run with the same one goes on where it stopped."""
    experiment: str
    name: str
    chain: Chain
    tags: dict[str, str]
    parameters: dict[str, str]
    recipe: dict[str, Any]
    datasets: list[dict[str, Any]]
    """``name``, ``context``, ``digest``, ``source`` and ``profile`` of each."""
    history: str | None
    """File with one row of metrics per epoch, beside the record like all files here."""
    started: int
    ended: int | None = None
    status: Status = "RUNNING"
    figures: dict[str, float] = field(default_factory=dict)
    """Final metrics."""
    chain_figures: dict[str, float] = field(default_factory=dict)
    """Those that the parent carries."""
    artifacts: list[str] = field(default_factory=list)
    model: str | None = None
    """Checkpoint to log in MLflow's own format."""
    model_sha256: str | None = None
    """Its digest: a later run may have replaced it."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises `ValueError` where the file is no record."""
        try:
            values = json.loads(path.read_text("utf-8"))
            return cls(**values | {"chain": Chain(**values["chain"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: not the record of a run ({error!r})") from None

    def write(self, path: Path) -> None:
        with atomic(path) as aside:
            aside.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def end(self, status: Status, path: Path) -> None:
        # A clock may have gone backwards meanwhile.
        self.status, self.ended = status, max(now(), self.started)
        self.write(path)

    def rows(self, folder: Path) -> list[dict[str, float]]:
        """The epochs done, by their rows."""
        if self.history is None or not (folder / self.history).exists():
            return []
        with (folder / self.history).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [{k: float(v) for k, v in row.items() if v} for row in rows]

    def points(self, folder: Path) -> list[Point]:
        """Those of each epoch and, of a run that has ended, of its final figures."""
        points, at = [], self.started
        history = self.rows(folder)
        for number, row in enumerate(history, start=1):
            at += int(1000 * row.get("seconds", 0))
            points.append(Point(number, at, {k: v for k, v in row.items() if k != "epoch"}))
        if self.status != "RUNNING":
            # A run that has a history ends with it, however often it is taken up again.
            ended = at if history else self.ended or at
            points.append(Point(len(history), ended, self.figures))
        return points

    def digest(self, folder: Path) -> str:
        """Of all that is to be uploaded."""
        known = json.dumps([asdict(self), self.rows(folder)], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()


def finished(path: Path, fingerprints: Sequence[str]) -> Record | None:
    """The record of a run that came to its end, if it has one of these fingerprints."""
    try:
        record = Record.read(path)
    except ValueError:
        return None
    ended = record.status == "FINISHED" and record.fingerprint in fingerprints
    return record if ended else None


def to_go_on(
    path: Path, fingerprints: Sequence[str], history: Path | None, resume: Path | None
) -> Record | None:
    """The record of the run that is to go on; if none is, the epochs of the last one go."""
    if history is None or resume is None:
        return None
    if path.exists() and (resume.exists() or not history.exists()):
        try:
            record = Record.read(path)
        except ValueError as error:
            logger.warning("%s; this is another run", error)
        else:
            if record.fingerprint in fingerprints:
                return record
    history.unlink(missing_ok=True)
    return None


def identity(
    recipe: Recipe,
    patch_size: int | None,
    stage: str,
    kind: str,
    seed: int,
    sweep: Chain | None = None,
) -> dict[str, Any]:
    """What `run` is told of where a run belongs: experiment, chain, tags and recipe.

    Recipes that extend one another are of one data set and stand in one experiment of MLflow.

    Args:
        patch_size: in pixels; None for stage 0.
        kind: ``training``, ``evaluation``, ``trial`` or ``sweep``.
        sweep: the parent of a sweep and its trials.
    """
    of_recipe = {"dataset": recipe.dataset, "recipe": recipe.name}
    tags = {**of_recipe, "patch_size": patch_size, "stage": stage, "seed": seed, "kind": kind}
    chain = sweep or Chain.of(recipe, patch_size, seed)
    return {"experiment": recipe.dataset, "chain": chain, "tags": tags, "recipe": recipe}


def dataset(recipe: Recipe, split: str, folder: Path, digest: str, videos: int) -> dict[str, Any]:
    """An entry of a run's data sets: one split.

    Args:
        recipe: the data set's.
        split: ``train`` or ``val``.
        folder: the data set's.
        digest: hexadecimal, of the split's table.
        videos: how many it holds.
    """
    return {
        "name": f"{recipe.dataset} {split}",
        "context": {"train": "training", "val": "validation"}[split],
        "digest": digest[:32],
        "source": str((folder / "splits" / f"{split}.csv").absolute()),
        "profile": {"videos": videos, "classes": recipe.classes},
    }


def git_commit() -> str | None:
    """Commit of the checkout that holds this code, with ``-dirty`` where tracked files differ.

    None where there is no such checkout, though the code may lie within another project's.
    """
    here = Path(__file__)
    try:
        _git(here, "ls-files", "--error-unmatch", here.name)
        return _git(here, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(file: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def now() -> int:
    """Milliseconds since 1970."""
    return int(1000 * time.time())
