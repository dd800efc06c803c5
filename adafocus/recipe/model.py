"""The model: its two backbones, its policy and its classifier."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from adafocus.recipe.section import Fraction, Positive, Rate, Section


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
    channels: Positive = 32
    """Channels that the 1x1 convolution leaves of each feature map."""
    hidden: Positive = 1024
    grid: Annotated[int, Field(ge=2)] = 7
    """Cells along each side of the grid of patch positions (GRU family)."""
    std: Rate = 0.25
    """Standard deviation of the Gaussian over (y, x) in [0, 1] (TSM family)."""


class ClassifierRecipe(Section):
    hidden: Positive = 1024
    """Hidden size of the GRU (GRU family)."""
    dropout: Fraction = 0.5


class ModelRecipe(Section):
    family: Literal["gru", "tsm"]
    frames: Positive
    """Frames the focuser sees, T; in the GRU family the glancer sees the same."""
    glance_frames: Positive | None = None
    """Frames the glancer sees, sampled apart (TSM family only)."""
    frame_size: Positive = 224
    glance_size: Positive = 224
    glancer: BackboneRecipe
    focuser: BackboneRecipe
    policy: PolicyRecipe = PolicyRecipe()
    classifier: ClassifierRecipe = ClassifierRecipe()

    @model_validator(mode="after")
    def _glance_frames_belong_to_tsm(self) -> Self:
        if (self.family == "tsm") != (self.glance_frames is not None):
            raise ValueError("glance_frames is for the tsm family, which needs it")
        return self

    def needed_by(self, stage: str) -> dict[str, Any]:
        """The entries that the weights of a stage's checkpoint depend on, defaults left out."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        others = {"glancer", "focuser", "classifier", "policy"} - set(DRAWN_PARTS[stage])
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
DRAWN_PARTS = {
    "glancer": ("glancer",),
    "focuser": ("glancer", "focuser"),
    "stage1": ("glancer", "focuser", "classifier"),
    "stage2": ("glancer", "focuser", "classifier", "policy"),
    "stage3": ("glancer", "focuser", "classifier", "policy"),
}
"""Parts of the model that decide what weights each stage leaves: those that it uses, and those
whose first weights are drawn before its own."""
