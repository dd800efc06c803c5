"""The model: its two backbones, its policy and its classifier."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from adafocus.recipe.earlier import family_of, written_model
from adafocus.recipe.section import Fraction, Positive, Rate, Section
from adafocus.recipe.stages import PARTS, SPECS


class BackboneRecipe(Section):
    """A torchvision backbone, whole or slimmed."""

    name: Literal["mobilenet_v2", "resnet"]
    depth: Literal[10, 18, 34, 50, 101] | None = None
    """Layers of a ResNet."""
    width: Rate = 1.0
    """Multiplies the number of channels."""
    output_stride: Literal[4, 8, 16, 32] = 32
    """Input pixels per feature-map pixel; strides beyond it are turned into 1."""
    pretrained: str | None = None
    """``imagenet``, a weights file, or null to train from scratch."""

    @model_validator(mode="after")
    def _depth_belongs_to_resnet(self) -> Self:
        if (self.name == "resnet") != (self.depth is not None):
            raise ValueError("depth is for resnet, which needs one of 10, 18, 34, 50, 101")
        return self


class PolicyRecipe(Section):
    kind: Literal["grid", "gaussian"] = "grid"
    """``grid``: one cell of a grid of patch positions for every frame; ``gaussian``: one place for
    the whole video, drawn around a mean."""
    channels: Positive = 32
    """Channels that the 1x1 convolution leaves of each feature map."""
    hidden: Positive = 1024
    grid: Annotated[int, Field(ge=2)] = 7
    """Cells along each side of the grid; ``gaussian`` only counts its places by it."""
    std: Rate = 0.25
    """Standard deviation over (y, x) in [0, 1], of ``gaussian``."""


class ClassifierRecipe(Section):
    kind: Literal["recurrent", "average"] = "recurrent"
    """``recurrent``: a GRU with a prediction after every frame; ``average``: one prediction, the
    mean over frames."""
    hidden: Positive = 1024
    """Hidden size of the GRU."""
    dropout: Fraction = 0.5


class ModelRecipe(Section):
    frames: Positive
    """Frames the focuser sees, T."""
    glance_frames: Positive | None = None
    """Frames the glancer sees, sampled apart; the focuser's if not given."""
    shift: bool = False
    """Whether both backbones shift a part of their channels in time (TSM)."""
    padding: Literal["last", "first"] = "last"
    """The frame that stands for those that a video of fewer than T frames lacks."""
    frame_size: Positive = 224
    glance_size: Positive = 224
    glancer: BackboneRecipe
    focuser: BackboneRecipe
    policy: PolicyRecipe = PolicyRecipe()
    classifier: ClassifierRecipe = ClassifierRecipe()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.looks_once != (self.classifier.kind == "average"):
            raise ValueError(
                "a policy of the kind grid goes with a classifier of the kind recurrent, and"
                f" gaussian with average; they are {self.policy.kind} and {self.classifier.kind}"
            )
        if self.glance_frames is not None and not self.looks_once:
            raise ValueError(
                "glance_frames is for a policy of the kind gaussian: grid glances at every frame"
                " that it focuses on"
            )
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        return values if self.family is None else written_model(values, self.family)

    @property
    def family(self) -> str | None:
        """``gru`` or ``tsm`` for the two models of the paper; None for another one."""
        parts = {
            "shift": self.shift,
            "padding": self.padding,
            "policy.kind": self.policy.kind,
            "classifier.kind": self.classifier.kind,
        }
        return family_of(parts)

    @property
    def looks_once(self) -> bool:
        """Whether one place and one prediction serve the whole video, not each frame its own."""
        return self.policy.kind == "gaussian"

    @property
    def steps(self) -> int:
        """Predictions of a video."""
        return 1 if self.looks_once else self.frames

    def needed_by(self, stage: str) -> dict[str, Any]:
        """The entries that the weights of a stage's checkpoint depend on, defaults left out."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        others = set(PARTS) - set(SPECS[stage].depends_on)
        return {name: entry for name, entry in given.items() if name not in others}

    def shaped_by(self, stage: str) -> dict[str, Any]:
        """Those of them that decide the shapes of its tensors and of what they are used on."""
        return {
            name: {k: v for k, v in entry.items() if k not in SHAPELESS}
            if isinstance(entry, dict)
            else entry
            for name, entry in self.needed_by(stage).items()
        }


SHAPELESS = {"pretrained", "std", "dropout"}
"""Entries of the model's parts that only matter while they are trained."""
