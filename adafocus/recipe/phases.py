"""Phases of training, and which of them experiments share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from adafocus.recipe.experiment import Recipe
from adafocus.recipe.stages import SPECS, StageSpec


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
        return SPECS[self.stage].pattern.format(
            experiment=self.experiment, patch_size=self.patch_size, skip=self.suffix
        )

    @property
    def before(self) -> tuple[Phase, ...]:
        """The phases that it starts from. A policy that may skip frames starts from the plain
        one."""
        spec = SPECS[self.stage]
        if self.suffix:
            spec = spec.learning_to_skip()
        return tuple(self._of(SPECS[stage]) for stage in spec.after)

    def _of(self, before: StageSpec) -> Phase:
        """The phase before it of that stage. A policy that learns to skip follows a plain one."""
        if not before.of_patch_size:
            return Phase(self.experiment, before.name)
        plain = not before.has_policy or before.name == self.stage
        return replace(self, stage=before.name, suffix="" if plain else self.suffix)

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
