"""What each stage is: the table from which checkpoints, rates, rules and names follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

PARTS = ("glancer", "focuser", "classifier", "policy")
"""Parts of a model."""


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
        return tuple(part for part in PARTS if part in (*self.takes, *self.trains))

    @property
    def depends_on(self) -> tuple[str, ...]:
        """Parts that decide what weights it leaves."""
        return tuple(part for part in PARTS if part in (*self.leaves, *self.drawn_before))

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


SPECS = {
    spec.name: spec
    for spec in (
        StageSpec("glancer", 0, ("glancer",), "pretraining the glancer on whole frames"),
        StageSpec(
            "focuser",
            0,
            ("focuser",),
            "pretraining the focuser on whole frames",
            drawn_before=("glancer",),
        ),
        StageSpec(
            "stage1",
            1,
            ("focuser", "classifier"),
            "training focuser and classifier on random patches",
            takes=("glancer", "focuser"),
            after=("glancer", "focuser"),
        ),
        StageSpec(
            "stage2",
            2,
            ("policy",),
            "training the policy that picks patches",
            takes=("glancer", "focuser", "classifier"),
            after=("stage1",),
        ),
        StageSpec(
            "stage3",
            3,
            ("classifier",),
            "training the classifier on the policy's patches",
            takes=PARTS,
            after=("stage2",),
        ),
    )
}
"""By name, in the order in which they are trained."""
