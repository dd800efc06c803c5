"""Phases of training, and which of them experiments share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from adafocus.recipe.experiment import Recipe


@dataclass(frozen=True)
class Phase:
    """One training run of an experiment, which leaves one checkpoint."""

    experiment: str
    """Name of its recipe."""
    stage: str
    """``glancer``, ``focuser``, ``stage1``, ``stage2`` or ``stage3``"""
    patch_size: int | None = None
    """In pixels; None for the backbones, stage 0, which all patch sizes share."""
    suffix: str = ""
    """One of `Recipe.suffixes`; for stages 2 and 3."""

    @property
    def name(self) -> str:
        """Of its checkpoint, such as ``actnet_128_stage1``."""
        if self.patch_size is None:
            return f"{self.experiment}_{self.stage}_stage0"
        return f"{self.experiment}_{self.patch_size}{self.suffix}_{self.stage}"

    @property
    def before(self) -> tuple[Phase, ...]:
        """The phases that it starts from. A policy that may skip frames starts from the plain
        one."""
        match self.stage:
            case "stage1":
                parts = ("glancer", "focuser")
                return tuple(Phase(self.experiment, part) for part in parts)
            case "stage2":
                return (replace(self, stage="stage2" if self.suffix else "stage1", suffix=""),)
            case "stage3":
                return (replace(self, stage="stage2"),)
            case _:
                return ()

    def owner(self, recipes: Mapping[str, Recipe], given: Collection[str] = ()) -> Phase:
        """The phase that is trained for this one: itself, or that of the furthest ancestor whose
        weights depend on equal entries and come from the same phases.

        Args:
            recipes: all of them by name.
            given: names of checkpoints that a person gives; these are shared with none.
        """
        if self.name in given:
            return self
        recipe = recipes[self.experiment]
        for name in reversed(recipe.extends):
            theirs, ancestor = replace(self, experiment=name), recipes[name]
            if (
                (self.patch_size is None or self.patch_size in ancestor.patch_sizes)
                and self.suffix in ancestor.suffixes
                and self._entries(recipe) == theirs._entries(ancestor)
                and self._owners_before(recipes, given) == theirs._owners_before(recipes, given)
            ):
                return theirs
        return self

    def _entries(self, recipe: Recipe) -> object:
        return recipe.named(self.suffix).needed_by(self.stage)

    def _owners_before(self, recipes: Mapping[str, Recipe], given: Collection[str]) -> list[Phase]:
        return [phase.owner(recipes, given) for phase in self.before]
