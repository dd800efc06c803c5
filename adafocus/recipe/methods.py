"""All methods: which recipe each has, and the stages of all of them."""

from __future__ import annotations

from collections.abc import Mapping

from adafocus.recipe.adafocus import AdaFocusRecipe
from adafocus.recipe.experiment import Recipe
from adafocus.recipe.stages import StageSpec
from adafocus.recipe.uni import UniRecipe

METHODS: Mapping[str, type[Recipe]] = {"adafocus": AdaFocusRecipe, "uni-adafocus": UniRecipe}
"""By their names, as a recipe's ``method`` gives them."""
DEFAULT = "adafocus"
"""The method of a recipe that names none."""
SPECS: Mapping[str, StageSpec] = {
    spec.name: spec for recipe in METHODS.values() for spec in recipe.table
}
"""All stages by their names, those of each method in the order in which they are trained."""
