"""What the models of all methods have in common."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping
from copy import copy
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from adafocus.model.backbones import Backbone
from adafocus.model.frozen import FrozenBackbone
from adafocus.model.looks import Looks

NO_STREAM = (
    "a stream of frames cannot choose among frames to come, as Uni-AdaFocus does: take"
    " model.window, which predicts from the latest frames, or give Predictor a file or a folder"
)
"""What is told of a model that must have all frames before it looks."""


class Output(NamedTuple):
    """Predictions of B videos after each of S steps, and where the model looked."""

    logits: Tensor
    """float32 (B, S, K), one prediction per step; the last is the video's"""
    looks: Looks

    @property
    def corners(self) -> Tensor:
        """int64 (B, P, 2), top and left of each patch in pixels, -1 where the frame is skipped; P
        is 1 where one place serves all frames, else as many as frames were looked at."""
        return self.looks.corners

    @property
    def boxes(self) -> Tensor:
        """float32 (B, P, 4), top, left, height and width of each patch in pixels, -1 likewise."""
        return self.looks.patches

    @property
    def frames(self) -> Tensor:
        """int64 (B, F), which frames were looked at, in this order."""
        return self.looks.frames


class VideoModel(nn.Module, ABC):
    """A light network, the glancer, sees whole frames; a heavy one, the focuser, sees patches.

    Called with frames, and where it needs them others to glance at, it gives an `Output`.
    """

    class_names: tuple[str, ...] = ()
    """Name of each class in the order of the logits, where a checkpoint told them."""
    glancer: Backbone
    focuser: Backbone
    frame_size: int
    """Side of a frame in pixels."""
    patch_size: int
    """Side of what the focuser sees in pixels."""

    __call__: Callable[..., Output]

    @property
    def precision(self) -> torch.dtype:
        """In which the backbones compute; all else does in float32."""
        return self.focuser.precision

    def set_precision(self, precision: torch.dtype) -> None:
        """Lets the backbones compute in bfloat16 or float32. Raises `ValueError` where one is
        frozen."""
        self._check_learns("keeps the precision in which it was frozen")
        self.glancer.precision = self.focuser.precision = precision

    def frozen(self, *backbones: str) -> Self:
        """The same model on faster backbones, which are copies and learn no more.

        All else is not copied but shared, so that it may go on learning. What is frozen already
        stays as it is.

        Args:
            backbones: ``glancer``, ``focuser`` or, where none is named, both.
        """
        left = set(backbones or ("glancer", "focuser")) - self._frozen()
        return self.on_backbones({name: FrozenBackbone(getattr(self, name)) for name in left})

    def on_backbones(self, backbones: Mapping[str, Backbone]) -> Self:
        """The same model on other backbones, by name; all else is shared. The model itself where
        none are given."""
        if not backbones:
            return self
        model = copy(self)
        model._modules = {**self._modules, **backbones}
        return model

    def train(self, mode: bool = True) -> Self:
        """As of any module. Raises `ValueError` where a backbone is frozen, which cannot learn."""
        if mode:
            self._check_learns("learns no more")
        return super().train(mode)

    def _frozen(self) -> set[str]:
        return {name for name, part in self.named_children() if isinstance(part, FrozenBackbone)}

    def _check_learns(self, but: str) -> None:
        if self._frozen():
            raise ValueError(f"a frozen model {but}: take adafocus.load(path, train=True)")
