"""What a stage's optimizer steps on, and how fast, as the recipe gives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, Optimizer

from adafocus.recipe import Multiplier, Training

ParameterKind = Literal["plain", "head", "head_bias", "bias", "norm"]
PARAMETER_KINDS: tuple[ParameterKind, ...] = ("plain", "head", "head_bias", "bias", "norm")
"""Of weights, see `Training.multipliers`; groups stand in this order."""


def build_optimizer(training: Training, parts: Mapping[str, nn.Module]) -> Optimizer:
    """The optimizer of the parts that a stage trains, by their name in ``learning_rates``.

    Each part is a group of parameters, or as many as the recipe's multipliers make of it.
    """
    groups = []
    for name, part in parts.items():
        rate = training.learning_rates[name]
        if not training.multipliers:
            groups.append({"params": list(part.parameters()), "lr": rate, "name": name})
            continue
        for kind, parameters in _by_kind(part).items():
            times = Multiplier()
            if kind != "plain":
                times = training.multipliers.get(kind, times)
            groups.append(
                {
                    "params": parameters,
                    "lr": rate * times.rate,
                    "weight_decay": training.weight_decay * times.decay,
                    "name": f"{name}.{kind}",
                }
            )
    if training.optimizer == "adam":
        return Adam(groups, weight_decay=training.weight_decay)
    return SGD(groups, momentum=training.momentum, weight_decay=training.weight_decay)


def _by_kind(part: nn.Module) -> dict[ParameterKind, list[nn.Parameter]]:
    """A part's parameters by their kind, those kinds that it has."""
    ends = [*part.children(), *getattr(part, "others", {}).values()]
    heads = [module for module in ends if isinstance(module, nn.Linear)]
    found: dict[ParameterKind, list[nn.Parameter]] = {kind: [] for kind in PARAMETER_KINDS}
    kind: ParameterKind
    for module in part.modules():
        for name, parameter in module.named_parameters(recurse=False):
            bias = name.startswith("bias")
            if isinstance(module, _BatchNorm):
                kind = "norm"
            elif module in heads:
                kind = "head_bias" if bias else "head"
            else:
                kind = "bias" if bias else "plain"
            found[kind].append(parameter)
    return {kind: parameters for kind, parameters in found.items() if parameters}


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
