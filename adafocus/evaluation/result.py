"""The result of an evaluation, as its JSON file has it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from adafocus.machine.files import atomic
from adafocus.recipe import METHODS, StageSpec

SCHEMA = 3
"""Raised with what a result tells, of which nothing is ever taken away. The first had no number."""


class ResultError(ValueError):
    """A file that is no result; the message is one line that names it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an evaluation found; accuracies are in percent, each by its metric's name.

    What has a default is not in every result of an earlier version.
    """

    schema: int = 1
    """Raised with what a result tells"""
    dataset: str
    """Whose videos, frames and splits it is measured on"""
    experiment: str | None = None
    """Name of the recipe; in results of earlier versions that of the data set"""
    patch_size: int
    """In pixels"""
    method: str = "adafocus"
    """``adafocus`` or ``uni-adafocus``"""
    stage: int | None
    """None of a method that is trained in one go"""
    metric: str
    """The data set's own: ``top1``, ``top5`` or ``mAP``"""
    metrics: Mapping[str, float]
    """``top1``, ``top5`` and ``mAP`` of the whole video"""
    metrics_per_step: Sequence[Mapping[str, float]] = field(default_factory=list)
    """The same after each step"""
    baselines: Mapping[str, Mapping[str, float]]
    """By where the same weights looked"""
    gflops_per_video: float
    """What the videos really cost in the mean"""
    skip_cost: float | None = None
    """Of a look, where the policy may skip frames"""
    budget: float | None = None
    """In GFLOPs per video"""
    steps_per_video: float | None = None
    """Steps until the videos were left, in the mean"""
    looks_per_video: float | None = None
    """Frames focused on, in the mean"""
    choices: Mapping[str, float | None] | None = None
    """What the policy really chose between, see `adafocus.model.choices`; None where it has none"""
    warnings: Sequence[str] = field(default_factory=list)
    """In which things it always does the same"""
    videos_per_second: float
    """By the time that the predictions took, of all processes together"""
    data_wait_share: float | None = None
    """Share of the pass in which it waited for data"""
    peak_memory_gb: float | None = None
    """Of tensors on a GPU, or of the whole process on a CPU"""
    learning_rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By stage and part"""
    swept: Mapping[str, Any] | None = None
    """The sweep that rates come from, see `adafocus.recipe.Recipe.swept`"""
    published: Mapping[str, Any] | None = None
    """See `adafocus.recipe.Recipe.published_beside`"""
    videos: int
    """How many were measured"""
    classes_left_out_of_mAP: int = 0
    """As no video shows them"""
    seed: int
    """Of what is drawn at random"""
    git_commit: str | None
    """Of the code that measured"""
    checkpoint: Mapping[str, str]
    """Its ``path`` and ``sha256``"""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """What trained the checkpoint"""
    fingerprint: str | None = None
    """See `adafocus.evaluation.again`"""
    anew: str | None = None
    """The word under which it was measured anew"""
    mlflow_run_id: str | None = None
    """Of the run of this evaluation"""
    device: str
    """What computed it"""
    precision: str = "fp32"
    """In which the backbones computed"""
    threads: int | None = None
    """Of the CPU, at most"""
    versions: Mapping[str, str]
    """Of Python and of the packages that compute"""
    recipe: Mapping[str, Any]
    """By which the checkpoint was trained"""
    predictions_sha256: str | None = None
    """Of the file of predictions beside it"""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `ResultError` where the file cannot be read or is not a result."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            given = {one.name: values[one.name] for one in fields(cls) if one.name in values}
            required = [one.name for one in fields(cls) if one.default is one.default_factory]
            if missing := [name for name in required if name not in given]:
                raise ValueError(f"{missing[0]!r} is missing")
            return cls(**given)
        except OSError as error:
            raise ResultError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ResultError(f"{path}: not a result of an evaluation ({error})") from None

    def write(self, path: Path) -> None:
        with atomic(path) as aside:
            aside.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """What is fit for JSON."""
        return asdict(self)

    @property
    def accuracy(self) -> float:
        """In the data set's own metric."""
        return self.metrics[self.metric]

    @property
    def told(self) -> str:
        """Accuracy and cost, and the published ones beside them, for a line that a person reads."""
        line = f"{self.metric} {self.accuracy:.1f} at {self.gflops_per_video:.3g} GFLOPs per video"
        if self.published:
            line += f" (published: {self.published['figure']:g} at {self.published['gflops']:g})"
        return line

    @property
    def has_policy(self) -> bool:
        """Whether a policy chose the patches; else they were drawn at random."""
        return self.spec.has_policy

    @property
    def is_finished(self) -> bool:
        """Whether it is of the last stage of its method."""
        return self.spec == METHODS[self.method].table[-1]

    @property
    def spec(self) -> StageSpec:
        """What trained the checkpoint."""
        return next(one for one in METHODS[self.method].table if one.number == self.stage)

    @property
    def is_plain(self) -> bool:
        """Whether it is of a finished model as published ones are: all stages trained, no frame
        skipped, no video left early, in fp32."""
        aside = (self.skip_cost, self.budget, self.precision)
        return self.is_finished and aside == (None, None, "fp32")
