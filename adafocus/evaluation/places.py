"""Where a model looks, and where its baselines look instead, on the same weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from adafocus.data.batches import Batch
from adafocus.data.draws import Purpose
from adafocus.model.adafocus import AdaFocus
from adafocus.model.classifier import GlobalFeatures
from adafocus.model.exits import ConditionalExit, visiting_order
from adafocus.model.looks import Looks
from adafocus.model.patches import centred_corners, squares
from adafocus.model.uni import UniAdaFocus, look_at
from adafocus.model.uni_policy import choose_frames
from adafocus.model.video_model import VideoModel

DRAWS = 5
"""Random patches, exits and frames are drawn so many times; their accuracy is the mean."""


@dataclass(frozen=True)
class Predicted:
    """A whole prediction of B videos."""

    seen: GlobalFeatures | None
    """Of all frames; None where some may never be visited"""
    looks: Looks
    logits: Tensor
    """(B, S, K)"""
    steps: Tensor
    """int64 (B,)"""


class Places(ABC):
    """A model and its baselines."""

    @abstractmethod
    def predict(self, batch: Batch) -> Predicted:
        """As the model itself does."""

    @abstractmethod
    def beside(self, batch: Batch, predicted: Predicted) -> dict[str, Tensor]:
        """Each baseline's logits (D, B, S, K), for D draws, by its name. They look at the frames
        that the model looks at, unless they choose frames themselves."""


def places_of(model: VideoModel, exits: ConditionalExit | None = None) -> Places:
    """Those of a model.

    Args:
        exits: by which it leaves videos early.
    """
    if isinstance(model, UniAdaFocus):
        return UniAdaFocusPlaces(model, exits)
    assert isinstance(model, AdaFocus)  # there is no other
    return AdaFocusPlaces(model, exits)


class AdaFocusPlaces(Places):
    """Random patches, the centre, the truth and the glancer alone. A model without a policy chooses
    at random itself."""

    def __init__(self, model: AdaFocus, exits: ConditionalExit | None = None) -> None:
        self.model, self.exits = model, exits

    def predict(self, batch: Batch) -> Predicted:
        model = self.model
        if self.exits is not None:
            visit = self.exits(batch.frames)
            return Predicted(None, visit.looks, visit.logits, visit.steps)
        seen, frames = model.glance(batch.glance), batch.frames.shape[1]
        if model.policy is None:
            looks = Looks.at(batch.random_boxes(model), frames)
        else:
            looks = model.look(seen, frames)
        logits = model.classifier(seen, model.focus(batch.frames, looks))
        steps = batch.rows.new_full(batch.rows.shape, logits.shape[1])
        return Predicted(seen, looks, logits, steps)

    def beside(self, batch: Batch, predicted: Predicted) -> dict[str, Tensor]:
        model, exits = self.model, self.exits
        classify: Callable[[GlobalFeatures, Tensor], Tensor] = model.classifier
        seen, chosen = predicted.seen, predicted.looks
        if seen is None:
            assert exits is not None  # which alone leaves none
            classify, order = exits.exits.classify, visiting_order(batch.frames.shape[1])
            batch = batch.in_order(order)
            chosen = Looks.at(chosen.boxes, len(order), chosen.skipped)
            seen = model.glance(batch.glance)
        last = predicted.steps[:, None, None] - 1
        found = {}
        for place, draws in self._elsewhere(batch):
            local = (model.focus(batch.frames, chosen.elsewhere(boxes)) for boxes in draws)
            logits = torch.stack([classify(seen, features) for features in local])
            if model.policy is not None or place != "random":
                logits = logits.take_along_dim(last[None], dim=2)
            found[place] = logits
        opinions = seen.logits.float()
        if exits is not None:
            counts = torch.arange(1, opinions.shape[1] + 1, device=opinions.device)[:, None]
            so_far = opinions.cumsum(1) / counts
            opinions = so_far.take_along_dim(last, dim=1)
        return found | {"glancer": opinions.mean(1)[None, :, None]}

    def _elsewhere(self, batch: Batch) -> Iterator[tuple[str, list[Tensor]]]:
        """Boxes of each baseline, one tensor per draw, see `Looks.elsewhere`."""
        model, frames = self.model, batch.frames
        centre = torch.full((len(frames), 1, 2), model.margin // 2, device=frames.device)
        yield "random", [batch.random_boxes(model, number) for number in range(1, DRAWS + 1)]
        yield "centre", [squares(centre, model.patch_size)]
        if batch.positions is not None:
            centred = centred_corners(batch.positions, model.frame_size, model.patch_size)
            yield "oracle", [squares(centred, model.patch_size)]


class UniAdaFocusPlaces(Places):
    """Squares of the patch's size at random places, in the centre and on the truth, in the frames
    that the policy chooses; its boxes on evenly spread frames (``even``); random squares on evenly
    spread frames (``random_even``); and the glancer alone."""

    def __init__(self, model: UniAdaFocus, exits: ConditionalExit | None = None) -> None:
        self.model, self.exits = model, exits

    def predict(self, batch: Batch) -> Predicted:
        if self.exits is not None:
            visit = self.exits(batch.frames, batch.glance)
            return Predicted(None, visit.looks, visit.logits, visit.steps)
        seen = self._seen(batch)
        looks = self.model.look(seen)
        logits = self.model.classify(seen, self.model.focus(batch.frames, looks))
        steps = batch.rows.new_full(batch.rows.shape, logits.shape[1])
        return Predicted(seen, looks, logits, steps)

    def beside(self, batch: Batch, predicted: Predicted) -> dict[str, Tensor]:
        seen = predicted.seen or self._seen(batch)
        found = {
            name: torch.stack([self._last(batch, seen, looks, predicted.steps) for looks in draws])
            for name, draws in self._elsewhere(batch, seen, predicted.looks)
        }
        return found | {"glancer": seen.logits.float().mean(1)[None, :, None]}

    def _seen(self, batch: Batch) -> GlobalFeatures:
        glance = batch.glance if self.model.shape.apart else None
        return self.model.glance(self.model.glanced_frames(batch.frames, glance))

    def _last(self, batch: Batch, seen: GlobalFeatures, looks: Looks, steps: Tensor) -> Tensor:
        """The prediction (B, 1, K) after so many steps int64 (B,)."""
        classify = self.model.classify if self.exits is None else self.exits.exits.classify
        logits = classify(seen, self.model.focus(batch.frames, looks))
        return logits.take_along_dim(steps[:, None, None] - 1, dim=1)

    def _elsewhere(
        self, batch: Batch, seen: GlobalFeatures, chosen: Looks
    ) -> Iterator[tuple[str, list[Looks]]]:
        """Looks of each baseline, one for each draw."""
        model, device = self.model, batch.frames.device
        weights = self.model.weigh(seen)
        even = choose_frames(
            torch.full_like(weights, 1 / weights.shape[1]),
            model.shape.candidates,
            model.shape.focused,
        )
        places = chosen.boxes.shape[1]
        random = [
            self._squares(batch.draws.uniform((places, 2), Purpose.CORNERS, number).to(device))
            for number in range(1, DRAWS + 1)
        ]
        centre = self._squares(torch.full((len(batch.frames), places, 2), 0.5, device=device))
        yield "random", [chosen._replace(boxes=boxes) for boxes in random]
        yield "random_even", [look_at(even, boxes) for boxes in random]
        yield "even", [model.place(model.policy.where(seen.maps), even)]
        yield "centre", [chosen._replace(boxes=centre)]
        if batch.positions is not None:
            positions = batch.positions.take_along_dim(chosen.frames.unsqueeze(-1), dim=1)
            corners = centred_corners(positions, model.frame_size, model.patch_size)
            if places == 1:
                corners = corners.float().mean(1, keepdim=True)
            yield "oracle", [chosen._replace(boxes=squares(corners, model.patch_size))]

    def _squares(self, places: Tensor) -> Tensor:
        """Boxes of the patch's size at places (B, P, 2), y and x in [0, 1]."""
        boxes = self.model.shape.boxes
        return boxes.place(boxes.squares(places, self.model.patch_size))
