"""The conditional exit: a video is left as soon as its running prediction is sure enough.

AdaFocus visits frames out of order, so that the first ones cover the video: the policy sees them in
the order of visits, the classifier in the video's own, see `OutOfOrder`. No weight changes for it
(it is of the authors' later work, AdaFocus V2, Wang et al., CVPR 2022, arXiv 2112.14238).
Uni-AdaFocus may leave a video once it has glanced at it, before any policy is asked, and a long one
after each frame focused on. How sure is enough after each step is solved by
`adafocus.evaluation.exits`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from adafocus.model.adafocus import AdaFocus, FrameByFrame
from adafocus.model.checkpoint import CheckpointError
from adafocus.model.classifier import GlobalFeatures, OutOfOrder
from adafocus.model.looks import Looks
from adafocus.model.uni import LongUniAdaFocus, UniAdaFocus
from adafocus.model.uni_classifier import RunningMaxima
from adafocus.model.uni_policy import choose_frames
from adafocus.model.video_model import Output, VideoModel


class Visit(NamedTuple):
    """What was seen of B videos, step by step up to S, the number of exits."""

    logits: Tensor
    """float32 (B, S, K), one prediction per step, where a video was left the last one again"""
    looks: Looks
    """all that there may be, of which those are skipped that were not taken"""
    steps: Tensor
    """int64 (B,), steps taken"""


class Exits(ABC):
    """The S steps after which a model's videos may be left."""

    @abstractmethod
    def confidence(self, logits: Tensor) -> Tensor:
        """How sure predictions are, (..., K) -> float32 (...)."""

    @abstractmethod
    def looks_after(self, steps: int) -> int:
        """How many looks there may have been after so many steps."""

    @abstractmethod
    def visit_all(self, frames: Tensor, glance: Tensor | None = None) -> Output:
        """What `ConditionalExit` gives where no video is left early: S predictions and all looks,
        of frames as a model takes them. Glance, looks and patches are batched over time."""

    @abstractmethod
    def classify(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """The predictions (B, S, K) from the features of all frames, in the order of visits."""

    @abstractmethod
    def begin(self, frames: Tensor, glance: Tensor | None) -> Visits:
        """Sets out to visit videos step by step, of frames as a model takes them."""

    @abstractmethod
    def looked(self, looks: Looks) -> Tensor:
        """bool (B, S): whether there was a look at each step."""


class Visits(ABC):
    """B videos on their way, of which some are left behind.

    Args:
        frames: as the model takes them.
        order: int64 (B, F), which of them may be looked at.
        places: P, see `Looks`.
    """

    def __init__(self, frames: Tensor, order: Tensor, places: int) -> None:
        boxes = torch.zeros((len(frames), places, 4), device=frames.device)
        skipped = torch.ones((len(frames), places), dtype=torch.bool, device=frames.device)
        self.frames, self.looks = frames, Looks(order, boxes, skipped)
        self.step = 0
        self.videos = torch.arange(len(frames), device=frames.device)
        """int64 (b,), those that are still visited"""

    @abstractmethod
    def __call__(self) -> Tensor:
        """Takes the next step: predictions float32 (b, K)."""

    def keep(self, videos: Tensor) -> None:
        """Goes on with some of the videos alone: bool (b,)."""
        self.videos = self.videos[videos]


class ConditionalExit:
    """Goes step by step, and on with those videos alone that need it.

    Args:
        model: with a policy, in eval mode.
        thresholds: S; a video is left after step t when its prediction is at least as sure as the
            t-th, see `Exits.confidence`.

    Raises:
        ValueError: where the model cannot leave early.
    """

    def __init__(self, model: VideoModel, thresholds: Sequence[float]) -> None:
        self.exits, self.thresholds = exits_of(model), thresholds

    @torch.inference_mode()
    def __call__(self, frames: Tensor, glance: Tensor | None = None) -> Visit:
        """Frames as the model takes them."""
        visits = self.exits.begin(frames, glance)
        steps = torch.full_like(visits.videos, len(self.thresholds))
        predictions: list[Tensor] = []
        for step, threshold in enumerate(self.thresholds):
            logits = visits()
            latest = (
                predictions[-1].clone()
                if predictions
                else logits.new_zeros(len(frames), logits.shape[-1])
            )
            latest[visits.videos] = logits
            predictions.append(latest)
            stays = self.exits.confidence(logits) < threshold
            steps[visits.videos[~stays]] = step + 1
            if not stays.any():
                break
            visits.keep(stays)
        predictions += predictions[-1:] * (len(self.thresholds) - len(predictions))
        return Visit(torch.stack(predictions, dim=1), visits.looks, steps)


def exits_of(model: VideoModel) -> Exits:
    """Those of a model; raises `ValueError` where it cannot leave early."""
    return UniExits(model) if isinstance(model, UniAdaFocus) else FrameExits(model)


def check_can_leave(model: VideoModel, checkpoint: Path) -> Exits:
    """The exits of a checkpoint's model; raises `CheckpointError` where it cannot leave early."""
    try:
        return exits_of(model)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint}: no budget can be kept by leaving its videos early: {error}"
        ) from None


# --- AdaFocus ---------------------------------------------------------------------------------


def visiting_order(frames: int) -> list[int]:
    """An order of frames that covers a video early: each next one halves a longest stretch that was
    not yet visited, the earliest first. Of eight frames: 4, 2, 6, 1, 3, 5, 7, 0."""
    order, stretches = [], [(0, frames)]
    for begin, end in stretches:  # which grows meanwhile
        if begin < end:
            middle = (begin + end) // 2
            order.append(middle)
            stretches += [(begin, middle), (middle + 1, end)]
    return order


def classified_again(frames: int) -> list[int]:
    """How many frames `OutOfOrder` classifies again at each visit: those visited before that lie
    behind the one visited now."""
    order = visiting_order(frames)
    return [sum(seen > frame for seen in order[:step]) for step, frame in enumerate(order)]


class FrameExits(Exits):
    """AdaFocus may leave a video after each frame.

    Args:
        model: see `FrameByFrame`.
    """

    def __init__(self, model: VideoModel) -> None:
        # Which knows whether it can.
        self.model = FrameByFrame(model).model

    def confidence(self, logits: Tensor) -> Tensor:
        """The likeliest class's probability."""
        return logits.float().softmax(-1).amax(-1)

    def looks_after(self, steps: int) -> int:
        return steps

    def looked(self, looks: Looks) -> Tensor:
        return looks.looked

    def visit_all(self, frames: Tensor, glance: Tensor | None = None) -> Output:
        """Of frames (B, T, 3, H, W) in their own order -> T steps."""
        order = visiting_order(frames.shape[1])
        visited = frames[:, order]
        seen = self.model.glance(visited)
        looks = self.model.look(seen, len(order))
        logits = self.classify(seen, self.model.focus(visited, looks))
        return Output(logits, looks.of_frames(order))

    def classify(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        running = OutOfOrder(self.model.classifier)
        steps = zip(*(part.split(1, dim=1) for part in (*seen, local)), strict=True)
        predictions = [
            running(frame, GlobalFeatures(*step[:-1]), step[-1])
            for frame, step in zip(visiting_order(local.shape[1]), steps, strict=True)
        ]
        return torch.cat(predictions, dim=1)

    def begin(self, frames: Tensor, glance: Tensor | None) -> Visits:
        return FrameVisits(self.model, frames)


class FrameVisits(Visits):
    """Frame by frame in `visiting_order`."""

    def __init__(self, model: AdaFocus, frames: Tensor) -> None:
        self.order = visiting_order(frames.shape[1])
        order = torch.tensor(self.order, device=frames.device).expand(len(frames), -1)
        super().__init__(frames, order, places=len(self.order))
        self.next_frame, self.running = FrameByFrame(model), OutOfOrder(model.classifier)

    def __call__(self) -> Tensor:
        frame, at = self.order[self.step], (self.videos, self.step)
        seen, local, look = self.next_frame(self.frames[self.videos, frame])
        logits = self.running(frame, seen, local)
        self.looks.boxes[at], self.looks.skipped[at] = look.boxes[:, 0], look.skipped[:, 0]
        self.step += 1
        return logits[:, 0]

    def keep(self, videos: Tensor) -> None:
        super().keep(videos)
        self.next_frame.keep(videos)
        self.running.keep(videos)


# --- Uni-AdaFocus -----------------------------------------------------------------------------


class UniExits(Exits):
    """Uni-AdaFocus may leave a video after all glances; a long one after each frame focused on as
    well, a short one at its end."""

    def __init__(self, model: UniAdaFocus) -> None:
        self.model = model

    def confidence(self, logits: Tensor) -> Tensor:
        """The largest logit."""
        return logits.float().amax(-1)

    def looks_after(self, steps: int) -> int:
        together = 1 if isinstance(self.model, LongUniAdaFocus) else self.model.shape.focused
        return (steps - 1) * together

    def looked(self, looks: Looks) -> Tensor:
        return functional.pad(looks.looked, (1, 0))

    def visit_all(self, frames: Tensor, glance: Tensor | None = None) -> Output:
        model = self.model
        seen = model.glance(model.glanced_frames(frames, glance))
        looks = model.look(seen)
        return Output(self.classify(seen, model.focus(frames, looks)), looks)

    def classify(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        logits = self.model.classify(seen, local)
        if isinstance(self.model, LongUniAdaFocus):
            return logits[:, self.model.shape.glanced - 1 :]
        return torch.cat((self.model.opinions(seen.logits), logits), dim=1)

    def begin(self, frames: Tensor, glance: Tensor | None) -> Visits:
        if isinstance(self.model, LongUniAdaFocus):
            return LongVisits(self.model, frames, glance)
        return ShortVisits(self.model, frames, glance)


class UniVisits(Visits):
    """All glances at once; boxes and frames are chosen for those videos alone that stay.

    Args:
        together: looks that one step takes.
    """

    def __init__(
        self, model: UniAdaFocus, frames: Tensor, glance: Tensor | None, together: int
    ) -> None:
        shape, places = model.shape, 1 if model.policy.where.once else model.shape.focused
        self.seen = model.glance(model.glanced_frames(frames, glance))
        even = choose_frames(
            torch.ones(len(frames), 1, device=frames.device), shape.candidates, shape.focused
        )
        super().__init__(frames, even, places)
        self.model, self.together = model, together
        self.chosen: Looks | None = None

    def __call__(self) -> Tensor:
        step, self.step = self.step, self.step + 1
        if step == 0:
            return self._after_glances().float()
        if self.chosen is None:
            self.chosen = self.model.look(self.seen)
            self.looks.frames[self.videos] = self.chosen.frames
            self.looks.boxes[self.videos] = self.chosen.boxes
        part = slice((step - 1) * self.together, step * self.together)
        self.looks.skipped[self.videos, part] = False
        frames = self.frames[self.videos.unsqueeze(1), self.chosen.frames[:, part]]
        looks = Looks.at(self.chosen.boxes[:, part], self.together)
        return self._after_looks(self.model.focus(frames, looks)).float()

    def keep(self, videos: Tensor) -> None:
        super().keep(videos)
        self.seen = GlobalFeatures(*(part[videos] for part in self.seen))
        if self.chosen is not None:
            self.chosen = Looks(*(part[videos] for part in self.chosen))

    @abstractmethod
    def _after_glances(self) -> Tensor:
        """(b, K)"""

    @abstractmethod
    def _after_looks(self, local: Tensor) -> Tensor:
        """The features (b, F, C) of F further looks -> (b, K)."""


class LongVisits(UniVisits):
    """One look at a time."""

    def __init__(self, model: LongUniAdaFocus, frames: Tensor, glance: Tensor | None) -> None:
        super().__init__(model, frames, glance, together=1)
        self.running = RunningMaxima(model.classifier, self.seen.pooled)

    def keep(self, videos: Tensor) -> None:
        super().keep(videos)
        self.running.keep(videos)

    def _after_glances(self) -> Tensor:
        return self.running.logits

    def _after_looks(self, local: Tensor) -> Tensor:
        return self.running(local[:, 0])


class ShortVisits(UniVisits):
    """All looks at once, as their frames see each other."""

    def __init__(self, model: UniAdaFocus, frames: Tensor, glance: Tensor | None) -> None:
        super().__init__(model, frames, glance, together=model.shape.focused)

    def _after_glances(self) -> Tensor:
        """By the head from which the glancer learns."""
        return self.model.opinions(self.seen.logits)[:, 0]

    def _after_looks(self, local: Tensor) -> Tensor:
        return self.model.classify(self.seen, local)[:, 0]
