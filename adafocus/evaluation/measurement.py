"""One pass over the validation videos: a model beside its baselines, on the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from adafocus.data.batches import Batch, Loader, in_order, own_batches
from adafocus.evaluation.metrics import compute_metrics
from adafocus.machine.distributed import gather_to_first, is_first
from adafocus.machine.meter import Meter
from adafocus.model.adafocus import AdaFocus
from adafocus.model.classifier import GlobalFeatures
from adafocus.model.exits import ConditionalExit, classify_visits
from adafocus.model.looks import Looks
from adafocus.model.patches import centred_corners, squares

DRAWS = 5
"""Random patches, exits and frames are drawn so many times; their accuracy is the mean."""


@dataclass
class Measurement:
    """What one pass over N validation videos leaves."""

    logits: dict[str, Tensor]
    """(D, N, S, K) by where the model looked, for D draws and S steps; of the baselines only the
    last step, but where a model has no policy all of ``random``"""
    labels: Tensor
    """bool (N, K)"""
    looks: Looks
    """Where the model chose to look"""
    steps: Tensor
    """int64 (N,), steps after which it left the video"""
    seconds: float
    """that its predictions took, of all processes together"""
    data_wait_share: float
    """Share of the pass in which it waited for data"""
    peak_memory_gb: float
    """See `peak_memory`"""

    @property
    def looked(self) -> Tensor:
        """bool (N, P): where it did."""
        return self.looks.looked

    def scores(self) -> dict[str, list[dict[str, float]]]:
        """Accuracy after each step by where the model looked, means over draws."""
        return {
            place: [
                _mean([compute_metrics(draw, self.labels) for draw in draws])
                for draws in logits.unbind(dim=2)
            ]
            for place, logits in self.logits.items()
        }


@torch.inference_mode()
def measure(
    model: AdaFocus,
    batches: Loader,
    device: torch.device,
    seed: int,
    exits: ConditionalExit | None = None,
) -> Measurement | None:
    """Predicts all videos with the patches that the model chooses and with each baseline's.

    A model without a policy chooses at random. With ``exits`` videos are left early. Of several
    processes the first alone is given what all have measured; the others get None.

    Args:
        seed: fixes the random patches.
    """
    found: list[tuple[int, tuple[dict[str, Tensor], Tensor, Looks, Tensor]]] = []
    seconds = 0.0
    meter = Meter(device)
    bar = tqdm(batches, desc="evaluation", unit="batch", disable=not is_first())
    for number, batch in own_batches(batches, device, seed, loaded=meter.watch(bar)):
        if not found:
            _predict(model, batch, exits)  # to warm up
        started = _now(device)
        prediction = _predict(model, batch, exits)
        seconds += _now(device) - started
        logits = {"chosen": prediction.logits[None].cpu()}
        logits |= _beside(model, batch, prediction, exits)
        kept = (logits, batch.labels.cpu(), prediction.looks.cpu(), prediction.steps.cpu())
        found.append((number, kept))
    figures = meter.figures(len(batches.dataset))
    gathered, all_seconds = in_order(found), gather_to_first([seconds])
    if gathered is None or all_seconds is None:
        return None
    all_logits, labels, looks, steps = zip(*gathered, strict=True)
    return Measurement(
        {place: torch.cat([one[place] for one in all_logits], dim=1) for place in all_logits[0]},
        torch.cat(labels),
        Looks.joined(looks),
        torch.cat(steps),
        sum(all_seconds),
        figures["data_wait_share"],
        figures["peak_memory_gb"],
    )


@dataclass(frozen=True)
class _Prediction:
    seen: GlobalFeatures | None
    """Of all frames; None where some may never be visited"""
    looks: Looks
    logits: Tensor
    """(B, S, K)"""
    steps: Tensor
    """int64 (B,)"""


def _predict(model: AdaFocus, batch: Batch, exits: ConditionalExit | None) -> _Prediction:
    """A whole prediction."""
    if exits is not None:
        visit = exits(batch.frames)
        return _Prediction(None, visit.looks, visit.logits, visit.steps)
    seen, frames = model.glance(batch.glance), batch.frames.shape[1]
    if model.policy is None:
        looks = Looks.at(batch.random_boxes(model), frames)
    else:
        looks = model.look(seen, frames)
    logits = model.classifier(seen, model.focus(batch.frames, looks))
    steps = batch.rows.new_full(batch.rows.shape, logits.shape[1])
    return _Prediction(seen, looks, logits, steps)


def _beside(
    model: AdaFocus, batch: Batch, prediction: _Prediction, exits: ConditionalExit | None
) -> dict[str, Tensor]:
    """Each baseline's logits (D, B, S, K); they look at the frames that the model looks at."""
    classify: Callable[[GlobalFeatures, Tensor], Tensor] = model.classifier
    seen, chosen = prediction.seen, prediction.looks
    if seen is None:
        assert exits is not None  # which alone leaves none
        classify = partial(classify_visits, model.classifier)
        batch = batch.in_order(exits.order)
        chosen = Looks.at(chosen.boxes, len(exits.order), chosen.skipped)
        seen = model.glance(batch.glance)
    last = prediction.steps[:, None, None] - 1
    found = {}
    for place, draws in _elsewhere(model, batch).items():
        local = (model.focus(batch.frames, chosen.elsewhere(boxes)) for boxes in draws)
        logits = torch.stack([classify(seen, features) for features in local])
        if model.policy is not None or place != "random":
            logits = logits.take_along_dim(last[None], dim=2)
        found[place] = logits.cpu()
    opinions = seen.logits.float()
    if exits is not None:
        counts = torch.arange(1, opinions.shape[1] + 1, device=opinions.device)[:, None]
        so_far = opinions.cumsum(1) / counts
        opinions = so_far.take_along_dim(last, dim=1)
    return found | {"glancer": opinions.mean(1)[None, :, None].cpu()}


def _elsewhere(model: AdaFocus, batch: Batch) -> dict[str, list[Tensor]]:
    """Boxes of each baseline, one tensor per draw, see `Looks.elsewhere`."""
    centre = torch.full((len(batch.frames), 1, 2), model.margin // 2, device=batch.frames.device)
    boxes = {
        "random": [batch.random_boxes(model, number) for number in range(1, DRAWS + 1)],
        "centre": [squares(centre, model.patch_size)],
    }
    if batch.positions is not None:
        centred = centred_corners(batch.positions, model.frame_size, model.patch_size)
        boxes["oracle"] = [squares(centred, model.patch_size)]
    return boxes


def _now(device: torch.device) -> float:
    """Seconds on a clock that waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
