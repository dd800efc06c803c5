"""The whole Uni-AdaFocus: glance, choose frames and boxes, focus there, classify."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional

from adafocus.model.backbones import Backbone, backbone, pool
from adafocus.model.boxes import BoxRange, over_time, resample
from adafocus.model.classifier import GlobalFeatures
from adafocus.model.looks import Looks
from adafocus.model.uni_classifier import MaximaClassifier
from adafocus.model.uni_policy import LookPolicy, SpatialPolicy, TemporalPolicy, choose_frames
from adafocus.model.video_model import NO_STREAM, Output, VideoModel
from adafocus.model.window import Window

if TYPE_CHECKING:
    from adafocus.recipe import BackboneRecipe, UniRecipe


@dataclass(frozen=True)
class UniShape:
    """What a Uni-AdaFocus takes and looks at, in frames and pixels.

    Raises `ValueError` where that cannot be.
    """

    candidates: int
    """N, frames to choose from"""
    glanced: int
    """T, frames glanced at"""
    focused: int
    """F, frames focused on"""
    apart: bool
    """Whether the frames glanced at are none of the candidates."""
    frame_size: int
    """Side of a frame."""
    glance_size: int
    """Side of what the glancer sees."""
    patch_size: int
    """Side of what the focuser sees, to which boxes are resampled."""
    smallest: int
    """The least side of a box."""
    largest: int
    """The greatest."""

    def __post_init__(self) -> None:
        if self.focused > self.candidates:
            raise ValueError(
                f"{self.focused} frames cannot be chosen from {self.candidates} candidates"
            )
        if not self.apart and self.candidates % self.glanced:
            raise ValueError(
                f"{self.candidates} candidates are no multiple of the {self.glanced} frames that"
                " are glanced at"
            )
        if not self.smallest <= self.patch_size <= self.largest:
            raise ValueError(
                f"a patch of {self.patch_size} pixels is none of the boxes of {self.smallest} to"
                f" {self.largest}"
            )
        _ = self.boxes

    @property
    def boxes(self) -> BoxRange:
        """Those that the policy may choose."""
        return BoxRange(self.smallest, self.largest, self.frame_size)

    @property
    def share(self) -> int:
        """Candidates to each frame glanced at, where that is one of them."""
        return self.candidates // self.glanced

    def check(self, name: str, frames: Tensor, count: int) -> None:
        """Raises `ValueError` unless there are so many frames, of the right size."""
        wanted = (count, 3, self.frame_size, self.frame_size)
        if frames.shape[1:] != wanted:
            raise ValueError(
                f"{name} must be (B, {', '.join(map(str, wanted))}); they are {tuple(frames.shape)}"
            )


class UniAdaFocus(VideoModel):
    """Uni-AdaFocus (Wang et al., 2024): a glance at a video, a hard look at some boxes in it.

    Of many candidate frames few are focused on, in boxes of any shape, which are resampled to
    squares. Nothing here loops over frames or videos.

    Args:
        glancer: light network, sees whole frames. Its other head ``where`` learns from what lies in
            the policy's boxes.
        focuser: heavy network, sees what lies in boxes.
        policy: chooses boxes and frames.
        shape: sizes and numbers of frames.
    """

    def __init__(
        self, glancer: Backbone, focuser: Backbone, policy: LookPolicy, shape: UniShape
    ) -> None:
        super().__init__()
        self.glancer = glancer
        self.focuser = focuser
        self.policy = policy
        self.shape = shape
        self.frame_size, self.patch_size = shape.frame_size, shape.patch_size

    def forward(
        self, frames: Tensor, glance: Tensor | None = None, looks: Looks | None = None
    ) -> Output:
        """Classifies videos.

        Args:
            frames: the candidates (B, N, 3, H, W), float normalised with ImageNet's mean and std,
                or uint8 RGB.
            glance: (B, T, 3, H, W), the frames glanced at where they are none of the candidates.
            looks: where to look instead of the policy's choice.
        """
        seen = self.glance(self.glanced_frames(frames, glance))
        if looks is None:
            looks = self.look(seen)
        logits = self.classify(seen, self.focus(frames, looks))
        return Output(logits, looks)

    def glanced_frames(
        self, frames: Tensor, glance: Tensor | None, places: Tensor | None = None
    ) -> Tensor:
        """The frames glanced at (B, T, 3, H, W): ``glance``, or else some of the candidates.

        Args:
            frames: see `forward`.
            glance: see `forward`; of a model that glances at candidates no others are taken.
            places: int64 (B, T), which candidates; the middle one of each share if not given.
        """
        shape = self.shape
        shape.check("frames", frames, shape.candidates)
        if not shape.apart:
            first, step = shape.share // 2, shape.share
            return frames[:, first::step] if places is None else pick(frames, places)
        if glance is None:
            raise ValueError("this model glances at frames apart from the candidates: pass glance")
        shape.check("glance", glance, shape.glanced)
        return glance

    def glance(self, frames: Tensor) -> GlobalFeatures:
        """Whole frames (B, T, 3, H, W) through the glancer, shrunk (nearest) to its size."""
        if self.shape.glance_size != frames.shape[-1]:
            size = (frames.shape[2], self.shape.glance_size, self.shape.glance_size)
            frames = functional.interpolate(frames, size)
        maps = self.glancer(frames)
        features = self.features(self.glancer, maps)
        return GlobalFeatures(maps, features, self.opinion(self.glancer, features))

    def look(self, seen: GlobalFeatures) -> Looks:
        """The policy's choice."""
        weights = self.weigh(seen)
        chosen = choose_frames(weights, self.shape.candidates, self.shape.focused)
        return self.place(self.policy.where(seen.maps), chosen)

    def place(self, actions: Tensor, chosen: Tensor) -> Looks:
        """Looks at chosen candidates.

        Args:
            actions: (B, S, 4), y, x, h, w in [0, 1], of each frame glanced at or (S = 1) of all.
            chosen: int64 (B, F).
        """
        if actions.shape[1] > 1:
            actions = pick(over_time(actions, self.shape.candidates), chosen)
        return look_at(chosen, self.shape.boxes.place(actions))

    def focus(self, frames: Tensor, looks: Looks) -> Tensor:
        """The focuser's features (B, F, C) of what is seen at F looks into the candidates."""
        return self.features(self.focuser, self.focuser(self.patches(frames, looks)))

    def patches(self, frames: Tensor, looks: Looks) -> Tensor:
        """What the focuser sees: float (B, F, 3, P, P)."""
        # Beyond a frame's edge is the mean colour, which is zero once frames are normalised.
        chosen = self.focuser.normalize(pick(frames, looks.frames))
        return resample(chosen, looks.boxes, self.shape.patch_size)

    def in_boxes(self, maps: Tensor, actions: Tensor) -> Tensor:
        """The mean of what lies in the boxes of the frames glanced at, (B, C), through which
        gradients reach the actions.

        Args:
            maps: the glancer's (B, T, C, h, w).
            actions: see `place`.
        """
        shape, cells = self.shape, maps.shape[-1]
        # Whole cells, and the boxes with them, so that a box of the patch's size is cut as it is.
        size = max(shape.patch_size * cells // shape.frame_size, 1)
        sides = shape.boxes.place(actions)[..., 2:] * size / shape.patch_size
        boxes = torch.cat((actions[..., :2] * (cells - sides), sides), dim=-1)
        return resample(maps, boxes, size).mean((1, 3, 4))

    def window(self, every: int | None = None) -> Window:
        """Of new videos whose frames come one by one, see `Window`."""
        return Window(self, every)

    def stream(self) -> NoReturn:
        """Raises `ValueError`: there is no such thing as of `AdaFocus.stream`, but a `window`."""
        raise ValueError(NO_STREAM)

    # Long and short videos differ in what their heads see.

    @abstractmethod
    def features(self, backbone: Backbone, maps: Tensor) -> Tensor:
        """A backbone's maps (B, T, C, h, w) -> features (B, T, C)."""

    @abstractmethod
    def opinion(self, backbone: Backbone, features: Tensor) -> Tensor:
        """A backbone's own view (B, T, K) of each frame, from which it learns."""

    @abstractmethod
    def opinions(self, logits: Tensor) -> Tensor:
        """The predictions (B, S, K) that a loss sees of a backbone's own view (B, T, K)."""

    @abstractmethod
    def weigh(self, seen: GlobalFeatures) -> Tensor:
        """The weights (B, T) of the frames glanced at, which sum to 1."""

    @abstractmethod
    def to_mix(self, seen: GlobalFeatures) -> Tensor:
        """The logits (B, T, K) from whose mixture the frames' weights are learned."""

    @abstractmethod
    def classify(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """The focuser's features (B, F, C) -> logits (B, S, K)."""


class LongUniAdaFocus(UniAdaFocus):
    """For long videos: a prediction after every frame, and gradients of all losses reach the
    backbones.

    Args:
        classifier: predicts from the features of both backbones.
    """

    def __init__(
        self,
        glancer: Backbone,
        focuser: Backbone,
        policy: LookPolicy,
        classifier: MaximaClassifier,
        shape: UniShape,
    ) -> None:
        super().__init__(glancer, focuser, policy, shape)
        self.classifier = classifier

    def features(self, backbone: Backbone, maps: Tensor) -> Tensor:
        return pool(maps)

    def opinion(self, backbone: Backbone, features: Tensor) -> Tensor:
        return backbone.classify(features)

    def opinions(self, logits: Tensor) -> Tensor:
        """One for every frame."""
        return logits

    def weigh(self, seen: GlobalFeatures) -> Tensor:
        weights: Tensor = self.policy.when(seen.pooled)
        return weights

    def to_mix(self, seen: GlobalFeatures) -> Tensor:
        return seen.logits

    def classify(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """T + F steps."""
        logits: Tensor = self.classifier(seen.pooled, local)
        return logits


class ShortUniAdaFocus(UniAdaFocus):
    """For short videos: one prediction, the mean of both backbones' views of each frame.

    Backbones learn by their own heads alone. What predicts are other heads, ``prediction``, and
    they and the policy see detached features.
    """

    def features(self, backbone: Backbone, maps: Tensor) -> Tensor:
        features: Tensor = backbone.dropout(pool(maps))
        return features

    def opinion(self, backbone: Backbone, features: Tensor) -> Tensor:
        logits: Tensor = backbone.head(features)
        return logits

    def opinions(self, logits: Tensor) -> Tensor:
        """One, the mean over frames."""
        return logits.mean(1, keepdim=True)

    def weigh(self, seen: GlobalFeatures) -> Tensor:
        weights: Tensor = self.policy.when(seen.pooled.detach())
        return weights

    def to_mix(self, seen: GlobalFeatures) -> Tensor:
        return seen.logits.detach()

    def classify(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """One step."""
        glances = self.glancer.others["prediction"](seen.pooled.detach())
        looks = self.focuser.others["prediction"](local.detach())
        logits: Tensor = glances.mean(1, keepdim=True) + looks.mean(1, keepdim=True)
        return logits


def look_at(chosen: Tensor, boxes: Tensor) -> Looks:
    """Looks at candidates int64 (B, F) in boxes (B, F, 4) or (B, 1, 4)."""
    return Looks.at(boxes, chosen.shape[1])._replace(frames=chosen)


def pick(frames: Tensor, places: Tensor) -> Tensor:
    """Some of each video's frames, (B, N, ...) at int64 (B, F) -> (B, F, ...)."""
    videos = torch.arange(frames.shape[0], device=frames.device).unsqueeze(1)
    return frames[videos, places]


def build_uni(
    glancer: BackboneRecipe,
    focuser: BackboneRecipe,
    classes: int,
    shape: UniShape,
    *,
    shift: bool,
    once: bool,
    classifier: Literal["maxima", "average"],
    hidden: int = 4096,
    dropout: float = 0.2,
    head_dropout: float = 0.2,
    spatial_hidden: int = 128,
    temporal_hidden: int = 64,
) -> UniAdaFocus:
    """A Uni-AdaFocus with random weights.

    Args:
        glancer: the light backbone.
        focuser: the heavy one.
        classes: K.
        shape: sizes and numbers of frames.
        shift: whether both backbones shift channels in time.
        once: whether one box serves the whole video.
        classifier: ``maxima`` for long videos, ``average`` for short ones.
        hidden: channels within the classifier, of ``maxima``.
        dropout: before the classifier's heads, of ``maxima``.
        head_dropout: before the backbones' own heads; of ``average`` before all heads.
        spatial_hidden: channels within the spatial policy.
        temporal_hidden: channels within the temporal policy.
    """
    light = backbone(glancer, classes, shape.glanced if shift else None)
    heavy = backbone(focuser, classes, shape.focused if shift else None)
    light.others["where"] = nn.Linear(light.channels, classes)
    light.dropout.p = heavy.dropout.p = head_dropout
    map_size = -(-shape.glance_size // glancer.output_stride)
    policy = LookPolicy(
        SpatialPolicy(light.channels, map_size, shape.glanced, once=once, hidden=spatial_hidden),
        TemporalPolicy(light.channels, temporal_hidden),
    )
    if classifier == "maxima":
        predicting = MaximaClassifier(
            light.channels,
            heavy.channels,
            glanced=shape.glanced,
            focused=shape.focused,
            hidden=hidden,
            classes=classes,
            dropout=dropout,
        )
        return LongUniAdaFocus(light, heavy, policy, predicting, shape)
    for network in (light, heavy):
        prediction = nn.Linear(network.channels, classes)
        network.others["prediction"] = prediction
        for head in (network.head, prediction):
            nn.init.normal_(head.weight, std=0.001)
            nn.init.zeros_(head.bias)
    return ShortUniAdaFocus(light, heavy, policy, shape)


def build(recipe: UniRecipe, patch_size: int, with_policy: bool = True) -> UniAdaFocus:
    """A Uni-AdaFocus with random weights, as the recipe says; it always has a policy."""
    model = recipe.model
    shape = UniShape(
        candidates=model.frames,
        glanced=model.glance_frames,
        focused=model.focus_frames,
        apart=model.looks_once,
        frame_size=model.frame_size,
        glance_size=model.glance_size,
        patch_size=patch_size,
        smallest=model.policy.smallest,
        largest=model.policy.largest,
    )
    return build_uni(
        model.glancer,
        model.focuser,
        recipe.classes,
        shape,
        shift=model.shift,
        once=model.looks_once,
        classifier=model.classifier.kind,
        hidden=model.classifier.hidden,
        dropout=model.classifier.dropout,
        head_dropout=model.head_dropout,
        spatial_hidden=model.policy.channels,
        temporal_hidden=model.policy.frame_channels,
    )
