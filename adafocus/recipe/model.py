"""What the models of all methods have: two backbones, and the frames that they see."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, Self

from pydantic import model_validator

from adafocus.recipe.section import Positive, Rate, Section

Sampling = Literal["last", "first", "even"]
"""``last``, ``first``: one frame from each of as many segments of whole frames, and for those that
a short video lacks this one of it; ``even``: from each of as many equal shares of a video of any
length, see `adafocus.data.clips`."""


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


class ModelRecipe(Section):
    frames: Positive
    """Frames of a clip, T."""
    glance_frames: Positive | None = None
    """Frames the glancer sees; the clip's if not given."""
    shift: bool = False
    """Whether both backbones shift a part of their channels in time (TSM)."""
    frame_size: Positive = 224
    glance_size: Positive = 224
    glancer: BackboneRecipe
    focuser: BackboneRecipe

    @property
    def frames_apart(self) -> int | None:
        """Frames the glancer sees that are sampled apart from the clip's; None where it sees the
        clip's."""
        return self.glance_frames

    @property
    def crops_apart(self) -> bool:
        """Whether those are cropped apart from the clip's too, in training."""
        return False

    @property
    @abstractmethod
    def sampling(self) -> Sampling:
        """How frames are drawn from a video."""

    @property
    @abstractmethod
    def looks_once(self) -> bool:
        """Whether one place and one prediction serve the whole video, not each frame its own."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Predictions of a video."""

    @property
    @abstractmethod
    def cells(self) -> int:
        """Along each side of the grid in which places are counted."""

    @property
    def box_sides(self) -> tuple[int, int] | None:
        """The least and the greatest side of a box in pixels; None where all have the patch's."""
        return None

    def needed_by(self, parts: tuple[str, ...]) -> dict[str, Any]:
        """The entries that the weights of a checkpoint depend on, defaults left out.

        Args:
            parts: those of the model that decide them.
        """
        given = self.model_dump(mode="json", exclude_defaults=True)
        others = {
            name
            for name in type(self).model_fields
            if isinstance(getattr(self, name), Section) and name not in parts
        }
        return {name: entry for name, entry in given.items() if name not in others}

    def shaped_by(self, parts: tuple[str, ...]) -> dict[str, Any]:
        """Those of them that decide the shapes of its tensors and of what they are used on."""
        return {
            name: {k: v for k, v in entry.items() if k not in SHAPELESS}
            if isinstance(entry, dict)
            else entry
            for name, entry in self.needed_by(parts).items()
        }


SHAPELESS = {"pretrained", "std", "dropout"}
"""Entries of the model's parts that only matter while they are trained."""
