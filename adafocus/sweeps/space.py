"""What a sweep tries: numbers of the recipe, each between two bounds.

A number goes by its place in the recipe, such as ``stages.stage2.learning_rates.policy``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adafocus.recipe import Recipe, RecipeError, SweepBudget, parse_recipe
from adafocus.recipe.section import find_entry

if TYPE_CHECKING:
    from optuna.distributions import FloatDistribution, IntDistribution

RATES = "learning_rates"


@dataclass(frozen=True)
class Number:
    """The bounds of one number, and how it is drawn between them."""

    low: float
    high: float
    log: bool
    """whether on a logarithmic scale"""
    whole: bool
    """whether it has no fraction"""

    @property
    def distribution(self) -> FloatDistribution | IntDistribution:
        """The same for Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def rounded(self, value: float) -> float:
        """A value with four digits, which are enough, and can be read and typed."""
        return int(value) if self.whole else float(f"{value:.4g}")

    def __contains__(self, value: float) -> bool:
        """Whether a rounded value may have been drawn."""
        return self.rounded(self.low) <= value <= self.rounded(self.high)


def space(recipe: Recipe, stage: str, budget: SweepBudget) -> dict[str, Number]:
    """What a sweep of a stage tries.

    These are the numbers of the budget that the stage depends on; where there are none, the stage's
    learning rates, around those of the recipe.

    Raises:
        RecipeError: where the budget names what cannot be swept with this recipe.
    """
    found = {}
    for name, (low, high) in budget.numbers.items():
        [own] = values_of(recipe, [name]).values()
        ends = [with_values(recipe, {name: end}) for end in (low, high)]
        for end in ends:
            _check_comparable(end, recipe, stage, name)
        if ends[0].needed_by(stage) != ends[1].needed_by(stage):
            log = low > 0 and own > 0
            found[name] = Number(low, high, log, whole=isinstance(own, int))
    low, high = budget.range
    return found or {
        name: Number(low * rate, high * rate, log=True, whole=False)
        for name, rate in rates_of(recipe, stage).items()
    }


def rates_of(recipe: Recipe, stage: str) -> dict[str, float]:
    """A stage's learning rates by their places in the recipe."""
    return named_rates(stage, recipe.stages[stage].learning_rates)


def named_rates(stage: str, rates: Mapping[str, float]) -> dict[str, float]:
    """Learning rates of a stage's parts by their places in the recipe."""
    return {f"stages.{stage}.{RATES}.{part}": rate for part, rate in rates.items()}


def values_of(recipe: Recipe, names: Iterable[str]) -> dict[str, float]:
    """Numbers of a recipe by their names.

    Raises:
        RecipeError: where one of them is no number there.
    """
    entries = recipe.in_todays_words()
    found = {}
    for name in names:
        section, key = find_entry(entries, name)
        value = section.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise RecipeError(
                f"{recipe.name}: {name} is no number there that config/config.yaml could name under"
                " sweep.numbers; where it has no value yet, write one into the recipe: the first"
                " trial has it"
            )
        found[name] = value
    return found


def with_values(recipe: Recipe, values: Mapping[str, float]) -> Recipe:
    """The recipe with other numbers.

    Raises:
        RecipeError: where one of them may not be that.
    """
    entries = recipe.in_todays_words()
    for name, value in values.items():
        section, key = find_entry(entries, name)
        if key not in section:
            raise RecipeError(
                f"{recipe.name}: has no {name}, of which a sweep found the best value"
            )
        section[key] = value
    return parse_recipe(entries, source=recipe.name)


def _check_comparable(end: Recipe, recipe: Recipe, stage: str, name: str) -> None:
    """Raises `RecipeError` where a number decides what trials have in common."""
    why = None
    parts = recipe.spec(stage).depends_on
    if end.model.shaped_by(parts) != recipe.model.shaped_by(parts):
        why = "it decides the shapes of weights"
    elif end.stages[stage].epochs != recipe.stages[stage].epochs:
        why = "trials are compared after as many epochs"
    if why:
        raise RecipeError(f"config/config.yaml: sweep.numbers: {name} cannot be swept: {why}")
