"""What a stage's optimizer steps on, and how fast, as the recipe gives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn
from torch.optim import SGD, Adam, Optimizer

from adafocus.recipe import Training


def build_optimizer(training: Training, parts: Mapping[str, nn.Module]) -> Optimizer:
    """The optimizer of the parts that a stage trains, by their name in ``learning_rates``."""
    groups = [
        {"params": list(part.parameters()), "lr": training.learning_rates[name], "name": name}
        for name, part in parts.items()
    ]
    if training.optimizer == "adam":
        return Adam(groups, weight_decay=training.weight_decay)
    return SGD(groups, momentum=training.momentum, weight_decay=training.weight_decay)


def schedule(training: Training, batches: int) -> Callable[[int], float]:
    """The factor on all rates after so many batches, of which an epoch has ``batches``."""

    def factor(batch: int) -> float:
        match training.schedule:
            case "cosine":
                return 0.5 * (1 + math.cos(math.pi * batch / (training.epochs * batches)))
            case "step":
                return 0.1 ** sum(batch >= m * batches for m in training.milestones)
            case _:
                return 1.0

    return factor
