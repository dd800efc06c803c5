"""What a stage is: a row of its method's table, from which all else that is told of it follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

BACKBONES = ("glancer", "focuser")
"""Parts that may begin with pretrained weights; every method has them."""


@dataclass(frozen=True)
class StageSpec:
    """One row: what a stage trains, from what, and what it leaves."""

    name: str
    """As a recipe's ``stages`` calls it."""
    number: int | None
    """In the paper; None where the method is trained in one go."""
    trains: tuple[str, ...]
    """Parts that learn; all else is frozen and in eval mode."""
    work: str
    """What is done, as a person reads it."""
    takes: tuple[str, ...] = ()
    """Parts that it takes from the checkpoints it starts from."""
    after: tuple[str, ...] = ()
    """Stages that leave these."""
    drawn_before: tuple[str, ...] = ()
    """Other parts whose first weights are drawn before its own."""

    @property
    def leaves(self) -> tuple[str, ...]:
        """Parts that its checkpoint holds."""
        return tuple(dict.fromkeys((*self.takes, *self.trains)))

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Parts that decide what weights it leaves."""
        return (*self.leaves, *self.drawn_before)

    @property
    def begins(self) -> tuple[str, ...]:
        """Backbones that are trained from their pretrained weights, where the recipe names any."""
        return tuple(part for part in BACKBONES if part in self.trains and part not in self.takes)

    @property
    def has_policy(self) -> bool:
        """Whether its model chooses where to look. Models that skip frames have a stage of their
        own from there on."""
        return "policy" in self.leaves

    @property
    def of_patch_size(self) -> bool:
        """Whether each patch size has its own; else all share it."""
        return len(self.leaves) > 1

    @property
    def pattern(self) -> str:
        """How its checkpoints are called, such as ``{experiment}_{patch_size}{skip}{seed}_stage2``,
        see `Phase.name`; of a method that is trained in one go ``{experiment}_{patch_size}{seed}``.
        """
        if not self.of_patch_size:
            return f"{{experiment}}_{self.name}{{seed}}{self.ending}"
        skip = "{skip}" if self.has_policy and self.number is not None else ""
        return f"{{experiment}}_{{patch_size}}{skip}{{seed}}{self.ending}"

    @property
    def ending(self) -> str:
        """Of the names of its checkpoints and results: ``_stage2``, or nothing of a method that is
        trained in one go."""
        return "" if self.number is None else f"_stage{self.number}"

    @property
    def title(self) -> str:
        """As figures are called."""
        if self.number is None:
            return self.name
        return f"stage {self.number}" if self.of_patch_size else f"{self.name}, stage {self.number}"

    @property
    def rule(self) -> str:
        """The workflow's, which profiles name too."""
        return self.name if self.of_patch_size else f"train_{self.name}"

    def learning_to_skip(self) -> Self:
        """The stage where its policy learns to skip frames.

        It starts from a policy that knows where to look: before it does, no look is worth its cost,
        and the policy would only learn never to look.
        """
        if "policy" not in self.trains:
            return self
        return replace(self, takes=self.leaves, after=(self.name,))
