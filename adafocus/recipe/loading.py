"""Recipes read from their files, and found by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adafocus.recipe.experiment import Recipe
from adafocus.recipe.section import RecipeError, read_yaml, validate


def load_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe file. Raises `RecipeError` naming the file and the key."""
    path = Path(path)
    recipe = parse_recipe(read_yaml(path), source=str(path))
    if recipe.name != path.stem:
        raise RecipeError(f"{path}: name: is {recipe.name!r}, but the file is {path.name}")
    return recipe


def parse_recipe(values: Any, source: str) -> Recipe:
    """Checks a recipe given as plain values; ``source`` names them in errors."""
    return validate(Recipe, values, source)


def load_recipes(folder: str | Path) -> dict[str, Recipe]:
    """Every recipe of a folder by name, each that of the plain models."""
    recipes = {path: load_recipe(path) for path in sorted(Path(folder).glob("*.yaml"))}
    for path, recipe in recipes.items():
        if recipe.skip_cost is not None:
            raise RecipeError(
                f"{path}: stages.stage2.skip_cost: list the costs of a look in skip_costs; each"
                " makes a model of its own"
            )
    return {path.stem: recipe for path, recipe in recipes.items()}


def find_recipe(recipes: dict[str, Recipe], dataset: str) -> Recipe:
    """The recipe of a data set; raises `RecipeError` that lists the known ones."""
    if dataset not in recipes:
        raise RecipeError(f"data set {dataset!r} has no recipe; allowed: {', '.join(recipes)}")
    return recipes[dataset]
