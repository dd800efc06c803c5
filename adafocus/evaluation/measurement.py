"""One pass over the validation videos: a model beside its baselines, on the same weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from adafocus.data.batches import Loader, in_order, own_batches
from adafocus.evaluation.metrics import compute_metrics
from adafocus.evaluation.places import Places
from adafocus.machine.distributed import gather_to_first, is_first
from adafocus.machine.meter import Meter
from adafocus.model.looks import Looks


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
    places: Places,
    batches: Loader,
    device: torch.device,
    seed: int,
) -> Measurement | None:
    """Predicts all videos with the patches that a model chooses and with each baseline's.

    Of several processes the first alone is given what all have measured; the others get None.

    Args:
        places: the model's.
        seed: fixes the random patches.
    """
    found: list[tuple[int, tuple[dict[str, Tensor], Tensor, Looks, Tensor]]] = []
    seconds = 0.0
    meter = Meter(device)
    bar = tqdm(batches, desc="evaluation", unit="batch", disable=not is_first())
    for number, batch in own_batches(batches, device, seed, loaded=meter.watch(bar)):
        if not found:
            places.predict(batch)  # to warm up
        started = _now(device)
        prediction = places.predict(batch)
        seconds += _now(device) - started
        logits = {"chosen": prediction.logits[None].cpu()}
        logits |= {name: one.cpu() for name, one in places.beside(batch, prediction).items()}
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


def _now(device: torch.device) -> float:
    """Seconds on a clock that waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
