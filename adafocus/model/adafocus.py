"""The whole AdaFocus: glance at every frame, choose a patch, focus there, classify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from adafocus.model.backbones import Backbone, backbone, pool
from adafocus.model.classifier import (
    AverageClassifier,
    Classifier,
    GlobalFeatures,
    RecurrentClassifier,
    recurrent,
)
from adafocus.model.looks import Looks
from adafocus.model.patches import SKIPPED, crop, random_corners, squares
from adafocus.model.policy import GaussianPolicy, GridPolicy, Policy
from adafocus.model.video_model import NO_STREAM, Output, VideoModel

if TYPE_CHECKING:
    from adafocus.recipe import AdaFocusRecipe


class AdaFocus(VideoModel):
    """Adaptive focus (Wang et al., ICCV 2021): a glance at frames, a hard look at patches.

    Nothing here loops over frames or videos: the glance, all actions, all patches and the focuser
    are one batched call each.

    Args:
        glancer: light network, sees frames shrunk to ``glance_size``.
        focuser: heavy network, sees patches.
        policy: chooses the patches; None in stage 1, where they are drawn at random.
        classifier: predicts from the features of both.
        frame_size: side of a frame in pixels.
        glance_size: side of what the glancer sees in pixels.
        patch_size: side of a patch in pixels.
    """

    def __init__(
        self,
        glancer: Backbone,
        focuser: Backbone,
        policy: Policy[Any] | None,
        classifier: Classifier,
        *,
        frame_size: int,
        glance_size: int,
        patch_size: int,
    ) -> None:
        super().__init__()
        self.glancer = glancer
        self.focuser = focuser
        self.policy = policy
        self.classifier = classifier
        self.frame_size = frame_size
        self.glance_size = glance_size
        self.patch_size = patch_size

    @property
    def margin(self) -> int:
        """The largest top or left of a corner in pixels."""
        return self.frame_size - self.patch_size

    @property
    def skips(self) -> bool:
        """Whether the policy may skip frames (AdaFocus+)."""
        return self.policy is not None and self.policy.skips

    @property
    def required_policy(self) -> Policy[Any]:
        """The policy; raises `ValueError` where there is none."""
        if self.policy is None:
            raise ValueError("a stage-1 model has no policy: pass corners, or load a later stage")
        return self.policy

    def forward(
        self, frames: Tensor, glance: Tensor | None = None, corners: Tensor | None = None
    ) -> Output:
        """Classifies videos.

        Args:
            frames: (B, T, 3, H, W), float normalised with ImageNet's mean and std, or uint8 RGB.
            glance: the frames the glancer sees where they are others.
            corners: int64 (B, P, 2), patches to look at instead of the policy's choice; P is T, or
                1 for one place in all frames.
        """
        self._check(frames)
        seen = self.glance(frames if glance is None else glance)
        if corners is None:
            looks = self.look(seen, frames.shape[1])
        else:
            looks = self.looks_at(corners, frames.shape[1])
        return Output(self.classifier(seen, self.focus(frames, looks)), looks)

    def glance(self, frames: Tensor) -> GlobalFeatures:
        """Whole frames (B, T, 3, H, W) through the glancer, shrunk (nearest) to its size."""
        if self.glance_size != frames.shape[-1]:
            size = (frames.shape[2], self.glance_size, self.glance_size)
            frames = functional.interpolate(frames, size)
        maps = self.glancer(frames)
        pooled = pool(maps)
        return GlobalFeatures(maps, pooled, self.glancer.classify(pooled))

    def look(self, seen: GlobalFeatures, frames: int) -> Looks:
        """The policy's most likely choice of where to look in so many frames."""
        policy = self.required_policy
        return self.looks_at(policy.corners(policy(seen.maps).actions.mode, self.margin), frames)

    def looks_at(self, corners: Tensor, frames: int) -> Looks:
        """Patches at corners int64 (B, P, 2) of each of so many frames, none where `SKIPPED`."""
        boxes = squares(corners, self.patch_size)
        return Looks.at(boxes, frames, (corners == SKIPPED).all(-1))

    def focus(self, frames: Tensor, looks: Looks) -> Tensor:
        """The focuser's features (B, T, C) of one patch per frame: it looks at each, in order.

        They are zero for frames that are skipped; the others go through the focuser as one dense
        batch, so that a skipped frame costs nothing.
        """
        if not self.skips:
            return self.focus_on_all(frames, looks.boxes)
        kept = looks.looked
        if not kept.any():
            return frames.new_zeros((*kept.shape, self.focuser.channels), dtype=torch.float32)
        features = self.focus_on_all(frames[kept].unsqueeze(1), looks.boxes[kept].unsqueeze(1))
        local = features.new_zeros((*kept.shape, self.focuser.channels))
        local[kept] = features.squeeze(1)
        return local

    def focus_on_all(self, frames: Tensor, boxes: Tensor) -> Tensor:
        """`focus` where no frame is skipped; boxes (B, P, 4) are whole and of the patch's size."""
        corners = boxes[..., :2].round().long()
        return pool(self.focuser(crop(frames, corners, self.patch_size)))

    def stream(self) -> Stream:
        """A new video of which the frames come one by one, see `FrameByFrame`."""
        return Stream(self)

    def random_boxes(
        self, videos: int, frames: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Uniform places (B, P, 4) on the CPU: anew for every frame, or for every video where one
        place serves all frames."""
        places = 1 if self.classifier.predicts_once else frames
        corners = random_corners((videos, places), self.margin, generator)
        return squares(corners, self.patch_size)

    def _check(self, frames: Tensor) -> None:
        if frames.ndim != 5 or frames.shape[-2:] != (self.frame_size, self.frame_size):
            raise ValueError(
                f"frames must be (B, T, 3, {self.frame_size}, {self.frame_size}); "
                f"they are {tuple(frames.shape)}"
            )


class FrameByFrame:
    """Glances, looks and focuses on videos whose frames come one by one.

    Only a policy that chooses a place in every frame can: one that looks once sees the whole video
    before.

    Args:
        model: with a policy, in eval mode.

    Raises:
        ValueError: where the model cannot decide frame by frame.
    """

    def __init__(self, model: VideoModel) -> None:
        if not isinstance(model, AdaFocus):
            raise ValueError(NO_STREAM)
        if not isinstance(model.policy, GridPolicy):
            raise ValueError(
                "only a model whose policy chooses a place in every frame goes frame by frame, of"
                " stage 2 or 3"
            )
        self.model = model
        self.policy = model.policy
        self.state: Tensor | None = None

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> tuple[GlobalFeatures, Tensor, Looks]:
        """The next frame of each of B videos, (B, 3, H, W) as in `AdaFocus.forward` -> its global
        features, its patch's features (B, 1, C) and the look at this one frame."""
        model, frames = self.model, frames.unsqueeze(1)
        model._check(frames)
        seen = model.glance(frames)
        decision, self.state = self.policy.advance(seen.maps, self.state)
        looks = model.looks_at(self.policy.corners(decision.actions.mode, model.margin), 1)
        return seen, model.focus(frames, looks), looks

    def keep(self, videos: Tensor) -> None:
        """Goes on with some of the videos alone: bool (B,), or their indices."""
        if self.state is not None:
            self.state = self.state[:, videos]


class Stream:
    """The running prediction of videos whose frames come one by one, in order.

    After t frames it has given what `AdaFocus.forward` gives for those t frames at once.

    Args:
        model: see `FrameByFrame`.
    """

    def __init__(self, model: AdaFocus) -> None:
        self.next_frame = FrameByFrame(model)
        self.classifier = recurrent(model.classifier)
        self.state: Tensor | None = None
        self.frame = 0
        """How many frames have come."""

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> Output:
        """The next frame of each of B videos, (B, 3, H, W) as in `AdaFocus.forward` -> one step."""
        seen, local, looks = self.next_frame(frames)
        looks = looks._replace(frames=looks.frames + self.frame)
        self.frame += 1
        self.state = self.classifier.remember(self.classifier.join(seen, local), self.state)
        return Output(self.classifier.predict(self.state), looks)


def build(recipe: AdaFocusRecipe, patch_size: int, with_policy: bool = True) -> AdaFocus:
    """An AdaFocus with random weights, as the recipe says."""
    model = recipe.model
    glanced_at = model.glance_frames or model.frames
    glancer = backbone(model.glancer, recipe.classes, glanced_at if model.shift else None)
    focuser = backbone(model.focuser, recipe.classes, model.frames if model.shift else None)
    map_size = -(-model.glance_size // model.glancer.output_stride)
    classifier: Classifier
    if model.classifier.kind == "average":
        classifier = AverageClassifier(focuser.channels, recipe.classes, model.classifier.dropout)
    else:
        classifier = RecurrentClassifier(
            glancer.channels,
            focuser.channels,
            model.classifier.hidden,
            recipe.classes,
            model.classifier.dropout,
        )
    policy: Policy[Any] | None = None
    if with_policy and model.policy.kind == "gaussian":
        policy = GaussianPolicy(glancer.channels, map_size, glanced_at, model.policy)
    elif with_policy:
        skips = recipe.skip_cost is not None
        policy = GridPolicy(glancer.channels, map_size, model.policy, skips)
    return AdaFocus(
        glancer,
        focuser,
        policy,
        classifier,
        frame_size=model.frame_size,
        glance_size=model.glance_size,
        patch_size=recipe.check_patch_size(patch_size),
    )
