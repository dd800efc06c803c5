"""The recipe as a whole: everything that distinguishes one experiment from another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import Field, model_validator

from adafocus.recipe.data import (
    Annotations,
    ArchiveSource,
    Augmentation,
    FolderSource,
    Frames,
    GenerateSource,
    ManualSource,
    Videos,
    YoutubeSource,
)
from adafocus.recipe.earlier import modern
from adafocus.recipe.model import ModelRecipe
from adafocus.recipe.section import Metric, NonNegative, Positive, RecipeError, Section
from adafocus.recipe.stages import BACKBONES, StageSpec
from adafocus.recipe.training import Stages, SweepBudget

NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
"""What experiments and data sets may be called: much is called after them, on disk too."""
SKIP = "_skip"
"""Stands before the cost of a look in the names of models that may skip frames."""


class Published(Section):
    """Figures of the paper for one patch size."""

    top1: float | None = None
    mAP: float | None = None
    gflops: float
    verified: bool = True
    """False where the figure could not be checked against the paper."""


class Peer(Section):
    """A published figure of another model, or of AdaFocus in another variant."""

    name: str
    patch_size: Positive | None = None
    """In pixels, for variants of AdaFocus."""
    top1: float | None = None
    mAP: float | None = None
    gflops: float

    def told(self, metric: str) -> str:
        """Its figure in words; empty where it has none of this metric."""
        figure = getattr(self, metric)
        return "" if figure is None else f"{self.name}: {figure} at {self.gflops} GFLOPs"


class Recipe(Section):
    """An experiment; each method has a class of its own, see `adafocus.recipe.METHODS`."""

    table: ClassVar[tuple[StageSpec, ...]]
    """The stages of its method, in the order in which they are trained."""
    model_name: ClassVar[str]
    """What its method calls a model, as a person reads it."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    title: str
    method: str
    """How its model is trained, one of `adafocus.recipe.METHODS`."""
    extends: tuple[str, ...] = ()
    """Recipes that it extends, nearest first. A file names the nearest alone, see
    `adafocus.recipe.extending`."""
    split_of: str | None = None
    """The data set of which it is another split: it has that one's videos, frames and folder of
    annotations, and splits of its own. Entries that its file does not hold are that one's too."""
    classes: Annotated[int, Field(ge=2)]
    videos: Videos
    """How many there are, how many of them may be missing, and how much disk they take."""
    metric: Metric
    """Chooses the best epoch and is the one compared with the published figure."""
    patch_sizes: tuple[Positive, ...]
    """Side of the patch in pixels."""
    skip_costs: tuple[NonNegative, ...] = ()
    """Costs lambda of a look, for each of which there may be a model that skips frames
    (AdaFocus+)."""
    source: Annotated[
        ManualSource | YoutubeSource | ArchiveSource | FolderSource | GenerateSource,
        Field(discriminator="kind"),
    ]
    annotations: Annotations
    frames: Frames = Frames()
    augmentation: Augmentation = Augmentation()
    model: ModelRecipe
    stages: Stages
    published: dict[Positive, Published] = {}
    peers: tuple[Peer, ...] = ()
    """Figures to compare with, in the same metric."""
    swept: SweepBudget | None = None
    """The sweeps that numbers of stages 1 to 3 come from; None where a person chose them. The
    workflow fills it in, see `adafocus.sweeps`."""

    @model_validator(mode="after")
    def _logs_have_names_of_their_own(self) -> Self:
        if self.name.endswith("_frames") and self.last.number is None:
            raise ValueError(
                "name: ends in _frames, so that the logs of a model of 16 pixels would be called as"
                f" those of {self.name.removesuffix('_frames')}'s frames, shard 16: give the"
                " experiment another name"
            )
        return self

    @model_validator(mode="after")
    def _patches_fit_the_frame(self) -> Self:
        if not self.patch_sizes or max(self.patch_sizes) > self.model.frame_size:
            raise ValueError(
                f"patch_sizes must be one or more sizes up to frame_size {self.model.frame_size}"
            )
        return self

    @model_validator(mode="after")
    def _rates_name_what_is_trained(self) -> Self:
        for name in [spec.name for spec in self.table]:
            spec = self.spec(name)
            given = set(self.stages[spec.name].learning_rates)
            if given != set(spec.trains):
                raise ValueError(
                    f"stages.{spec.name}.learning_rates must name exactly"
                    f" {', '.join(spec.trains)}; it names {', '.join(sorted(given)) or 'nothing'}"
                )
        return self

    @model_validator(mode="after")
    def _costs_can_be_named(self) -> Self:
        for cost in self.skip_costs:
            if float(f"{cost:g}") != cost or "e" in f"{cost:g}":
                raise ValueError(
                    f"skip_costs: {cost!r} cannot stand in a file's name; give at least 0.0001 and"
                    " at most six digits"
                )
        return self

    @property
    def last(self) -> StageSpec:
        """The stage that leaves the finished model."""
        return self.table[-1]

    def spec(self, stage: str) -> StageSpec:
        """One of these stages; raises `RecipeError` where there is none of that name."""
        specs = {spec.name: spec for spec in self.table}
        if stage not in specs:
            allowed = ", ".join(specs)
            raise RecipeError(
                f"stage {stage} is not one of {self.method}, the method of {self.name}; allowed:"
                f" {allowed}"
            )
        return specs[stage]

    def check_patch_size(self, patch_size: int) -> int:
        """Returns ``patch_size``; raises `RecipeError` where the recipe does not allow it."""
        if patch_size not in self.patch_sizes:
            allowed = ", ".join(map(str, self.patch_sizes))
            raise RecipeError(
                f"patch size {patch_size} is not in the recipe of {self.name}; allowed: {allowed}"
            )
        return patch_size

    def published_beside(self, patch_size: int, accuracy: float) -> dict[str, Any] | None:
        """The paper's figure for the finished plain model in the data set's metric, and an accuracy
        minus it in percent points; None where none is published."""
        published = self.published.get(patch_size)
        figure = getattr(published, self.metric, None)
        if published is None or figure is None:
            return None
        return {
            "figure": figure,
            "gflops": published.gflops,
            "verified": published.verified,
            "difference": accuracy - figure,
        }

    @property
    def dataset(self) -> str:
        """The data set whose splits it uses."""
        return self.extends[-1] if self.extends else self.name

    @property
    def videos_of(self) -> str:
        """The data set that has its videos and frames: its own, or the one that it is another split
        of."""
        return self.split_of or self.dataset

    def called(self, experiment: str | None) -> Self:
        """The recipe of an experiment that shares what was made by this one; None is this one."""
        if experiment in (None, self.name):
            return self
        extends = (self.name, *self.extends) if experiment != self.dataset else ()
        others = {"title": experiment, "extends": extends, "published": {}, "peers": ()}
        return self.model_copy(update={"name": experiment, **others})

    def needed_by(self, stage: str) -> dict[str, Any]:
        """The entries that the weights of a stage depend on, beside its data and the checkpoints
        that it starts from, defaults left out."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        spec = self.spec(stage)
        model = self.model.needed_by(spec.depends_on)
        for part in model.keys() & set(BACKBONES) - set(spec.begins):
            model[part].pop("pretrained", None)
        return {
            "classes": self.classes,
            "metric": self.metric,
            "model": model,
            "augmentation": given.get("augmentation"),
            "training": given["stages"][stage],
        }

    @property
    def skip_cost(self) -> float | None:
        """What a look costs the policy; None where it may not skip frames."""
        return None

    def skipping(self, cost: float) -> Self:
        """The recipe of the models that may skip frames at this cost of a look.

        Raises `RecipeError` where the recipe does not allow it.
        """
        return self.named(f"{SKIP}{cost!r}" if cost not in self.skip_costs else f"{SKIP}{cost:g}")

    @property
    def suffixes(self) -> list[str]:
        """What follows the patch size in the names of the models that may be: nothing for the plain
        one, such as ``_skip0.02`` for those that skip frames."""
        return ["", *(f"{SKIP}{cost:g}" for cost in self.skip_costs)]

    def named(self, suffix: str) -> Self:
        """The recipe of the models with one of these `suffixes`; raises `RecipeError` where it is
        another."""
        if suffix not in self.suffixes:
            allowed = ", ".join(f"{cost:g}" for cost in self.skip_costs) or "none"
            raise RecipeError(
                f"skip cost {suffix.removeprefix(SKIP)} is not in the recipe of {self.name};"
                f" skip_costs: {allowed}"
            )
        return self._with_skip_cost(float(suffix.removeprefix(SKIP)) if suffix else None)

    @property
    def never_skipping(self) -> Self:
        """The recipe of the plain models, which skip no frame."""
        return self._with_skip_cost(None)

    def _with_skip_cost(self, cost: float | None) -> Self:
        return self

    def write(self, folder: Path) -> Path:
        """Writes the recipe to a file that `load_recipe` reads, and returns it."""
        path = folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and mappings; `parse_recipe` reads them back."""
        return self.model_dump(mode="json")

    def in_todays_words(self) -> dict[str, Any]:
        """The same, not in the words that files keep, see `adafocus.recipe.earlier`."""
        values: dict[str, Any] = modern(self.to_dict(), source=self.name)
        return values


def compatibility(made_by: Recipe, recipe: Recipe, stage: str) -> list[tuple[str, Any, Any]]:
    """What has to be equal where a stage's checkpoint of one recipe serves another: name, both
    values."""
    spec = made_by.spec(stage)
    theirs, ours = (one.model.shaped_by(spec.depends_on) for one in (made_by, recipe))
    found: list[tuple[str, Any, Any]] = [
        ("data set", made_by.dataset, recipe.dataset),
        ("method", made_by.method, recipe.method),
        ("number of classes", made_by.classes, recipe.classes),
        ("model", theirs, ours),
        ("skip cost", made_by.skip_cost, recipe.skip_cost),
    ]
    return found if spec.has_policy else found[:-1]
