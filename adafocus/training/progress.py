"""How far a training run has come, and the table of its epochs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adafocus.machine.files import atomic
from adafocus.model.choices import Choices


@dataclass
class EpochProgress:
    """How far an epoch has come."""

    batches: int = 0
    """Done, all steps on each of them included."""
    steps: int = 0
    videos: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Of what the stage logs, over steps, in float64."""
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds of them spent waiting for data."""


@dataclass
class Progress:
    """How far a training run has come; a resume file holds it."""

    epoch: int = 0
    """Epochs done."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One row of metrics per epoch."""
    best: float = -math.inf
    best_tensors: dict[str, Tensor] = field(default_factory=dict)
    """The trained parts at their best epoch."""
    choices: Choices | None = None
    """What the policy chose between in the validation after it, where the stage trains one."""
    begun: EpochProgress = field(default_factory=EpochProgress)
    """The epoch after those done."""
    micro_batch: int | None = None
    """Videos that fit into the memory at a time, where a whole batch did not."""

    @classmethod
    def of(cls, values: Mapping[str, Any], device: torch.device) -> Progress:
        """What `to_dict` gave, perhaps of an older version; sums are put on a device."""
        known = EpochProgress.__dataclass_fields__.keys()
        begun = EpochProgress(**{k: v for k, v in values.get("begun", {}).items() if k in known})
        begun.sums = {name: value.to(device) for name, value in begun.sums.items()}
        choices = values.get("choices")
        known_choices = None if choices is None else Choices(**choices)
        return cls(**{**values, "begun": begun, "choices": known_choices})

    def to_dict(self) -> dict[str, Any]:
        """Plain values and tensors, as a resume file holds them."""
        choices = None if self.choices is None else vars(self.choices)
        return vars(self) | {"begun": vars(self.begun), "choices": choices}


def write_history(history: list[dict[str, float]], path: Path) -> None:
    """One row per epoch as CSV; epochs without a validation have nothing in its columns."""
    columns = max(history, key=len).keys()
    with atomic(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(history)
