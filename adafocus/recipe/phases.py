"""Phases of training: what they are called, and which of them experiments share."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from adafocus.recipe.experiment import Recipe
from adafocus.recipe.methods import SPECS
from adafocus.recipe.stages import StageSpec

SEED = "_seed"
"""Stands before the seed in names that tell one."""
GRAMMAR = {
    "experiment": r"(?P<experiment>[\w-]+)",
    "patch_size": r"(?P<patch_size>[1-9][0-9]*)",
    "skip": r"(?P<skip>(_skip[0-9.]+)?)",
    "seed": rf"({SEED}(?P<seed>[1-9][0-9]*))?",
}
"""What stands for the fields of `StageSpec.pattern`. From its end a name can be read in one way
alone, whatever the experiment is called."""


@dataclass(frozen=True)
class Phase:
    """One training run of an experiment, which leaves one checkpoint; and the result of that."""

    experiment: str
    """Name of its recipe."""
    stage: str
    """``glancer``, ``focuser``, ``stage1``, ``stage2`` or ``stage3``"""
    patch_size: int | None = None
    """In pixels; None for the backbones, stage 0, which all patch sizes share."""
    suffix: str = ""
    """One of `Recipe.suffixes`; for stages 2 and 3."""
    seed: int | None = None
    """As its name tells it; None where it tells none, see `Config.plain_seed`."""

    @property
    def name(self) -> str:
        """Of its checkpoint and its result, such as ``actnet_128_stage1`` or
        ``actnet_128_seed1_stage1``."""
        return SPECS[self.stage].pattern.format(
            experiment=self.experiment,
            patch_size=self.patch_size,
            skip=self.suffix,
            seed="" if self.seed is None else f"{SEED}{self.seed}",
        )

    @classmethod
    def parse(cls, name: str) -> Phase | None:
        """The phase of that name; None where nothing is called so."""
        for spec in SPECS.values():
            if found := re.fullmatch(spec.pattern.format(**GRAMMAR), name):
                told = found.groupdict()
                size, seed = (told.get(number) for number in ("patch_size", "seed"))
                return cls(
                    told["experiment"],
                    spec.name,
                    None if size is None else int(size),
                    told.get("skip", ""),
                    None if seed is None else int(seed),
                )
        return None

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
            return Phase(self.experiment, before.name, seed=self.seed)
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
                ancestor.method == recipe.method
                and (self.patch_size is None or self.patch_size in ancestor.patch_sizes)
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


def results_in(folder: Path) -> dict[Path, Phase]:
    """The results, or those of sweeps, that lie in a folder, by their names: of all experiments,
    stages and seeds."""
    found = {path: Phase.parse(path.stem) for path in sorted(folder.glob("[!.]*.json"))}
    return {path: phase for path, phase in found.items() if phase and phase.patch_size}
