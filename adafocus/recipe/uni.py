"""Uni-AdaFocus (Wang et al., 2024): what a recipe says of its model and its one training."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from adafocus.recipe.experiment import Recipe
from adafocus.recipe.model import ModelRecipe, Sampling
from adafocus.recipe.section import Fraction, NonNegative, Positive, Section
from adafocus.recipe.stages import StageSpec
from adafocus.recipe.training import Stages, Training

TABLE = (
    StageSpec(
        "joint",
        None,
        ("glancer", "focuser", "policy", "classifier"),
        "training the whole model in one go, on patches",
    ),
)
"""Its one stage."""
CELLS = 7
"""Along each side of the grid in which places are counted."""


class BoxPolicyRecipe(Section):
    smallest: Positive = 96
    """The least side of a box in pixels."""
    largest: Positive = 224
    """The greatest."""
    channels: Positive = 128
    """Within the part that chooses where to look."""
    frame_channels: Positive = 64
    """Within the part that chooses frames."""


class MaximaRecipe(Section):
    kind: Literal["maxima", "average"] = "maxima"
    """``maxima``: from running maxima, a prediction after every frame, for long videos;
    ``average``: one prediction, the mean over frames, for short ones."""
    hidden: Positive = 4096
    """Channels of what the maxima are taken of."""
    dropout: Fraction = 0.2


class UniModel(ModelRecipe):
    """Of ``frames`` candidates it glances at ``glance_frames`` and focuses on ``focus_frames``.

    In long videos it glances at some of the candidates. In short ones (a classifier of the kind
    ``average``) it glances at frames that are sampled apart, and one box and one prediction serve
    the whole video.
    """

    glance_frames: Positive = 16
    focus_frames: Positive = 16
    policy: BoxPolicyRecipe = BoxPolicyRecipe()
    classifier: MaximaRecipe = MaximaRecipe()
    head_dropout: Fraction = 0.2
    """Before the backbones' own heads."""

    @model_validator(mode="after")
    def _frames_can_be_chosen(self) -> Self:
        if self.focus_frames > self.frames:
            raise ValueError(f"focus_frames must be at most frames, {self.frames}")
        if not self.looks_once and self.frames % self.glance_frames:
            raise ValueError(f"frames must be a multiple of glance_frames, {self.glance_frames}")
        if not self.policy.smallest < self.policy.largest <= self.frame_size:
            raise ValueError(
                f"policy.smallest and largest must rise and be at most frame_size {self.frame_size}"
            )
        return self

    @property
    def looks_once(self) -> bool:
        return self.classifier.kind == "average"

    @property
    def frames_apart(self) -> int | None:
        return self.glance_frames if self.looks_once else None

    @property
    def crops_apart(self) -> bool:
        return self.looks_once

    @property
    def sampling(self) -> Sampling:
        return "even"

    @property
    def steps(self) -> int:
        return 1 if self.looks_once else self.glance_frames + self.focus_frames

    @property
    def cells(self) -> int:
        return CELLS

    @property
    def box_sides(self) -> tuple[int, int]:
        return self.policy.smallest, self.policy.largest


class JointTraining(Training):
    """The whole model in one go."""

    size_weight: NonNegative = 1.0
    """Lambda, of the term that draws boxes to the largest size."""


class UniStages(Stages):
    joint: JointTraining


class UniRecipe(Recipe):
    """A recipe for a model that is trained in one go and chooses frames and boxes."""

    table: ClassVar = TABLE
    model_name: ClassVar = "Uni-AdaFocus"

    method: Literal["uni-adafocus"]
    model: UniModel
    stages: UniStages

    @model_validator(mode="after")
    def _patches_are_boxes(self) -> Self:
        policy = self.model.policy
        if self.skip_costs:
            raise ValueError("skip_costs is for the method adafocus: uni-adafocus chooses frames")
        for size in self.patch_sizes:
            if not policy.smallest <= size <= policy.largest:
                raise ValueError(
                    f"patch_sizes: {size} is none of the boxes' sides, {policy.smallest} to"
                    f" {policy.largest}: see model.policy"
                )
        return self

    def spec(self, stage: str) -> StageSpec:
        spec = super().spec(stage)
        if self.model.classifier.kind == "maxima":
            return spec
        # There the backbones' heads predict.
        return replace(spec, trains=tuple(part for part in spec.trains if part != "classifier"))
