"""Recipes read from their files, and found by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adafocus.recipe.earlier import modern
from adafocus.recipe.experiment import Recipe
from adafocus.recipe.extending import change, check_same_data, extend
from adafocus.recipe.methods import DEFAULT, METHODS
from adafocus.recipe.section import RecipeError, brief, parse_section, read_yaml


def load_recipe(path: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe file, and those beside it that it extends.

    Args:
        path: the file.
        settings: entries that are otherwise than the file says, such as
            ``stages.stage2.gamma=0.9``.

    Raises:
        RecipeError: naming the file and the key, or the setting.
    """
    values, recipe = _load(Path(path), ())
    changed = recipe
    for setting in settings:
        values = change(values, setting)
        changed = parse_recipe(values, source=f"--set {setting}")
        check_same_data(changed, recipe, f"--set {setting}")
    return changed


def _load(path: Path, extended_by: tuple[str, ...]) -> tuple[Any, Recipe]:
    """A recipe's plain values, what it extends among them, and what they say."""
    values = modern(read_yaml(path), str(path))
    ancestor = None
    if (key := _names_another(values)) is not None:
        named = values[key]
        extended_by = (*extended_by, path.stem)
        beside = _files(path.parent)
        if not isinstance(named, str) or named not in beside:
            allowed = ", ".join(name for name in beside if name != path.stem) or "none"
            raise RecipeError(f"{path}: {key}: {brief(named)} has no recipe; allowed: {allowed}")
        if named in extended_by:
            circle = " -> ".join((*extended_by, named))
            raise RecipeError(f"{path}: {key}: goes round in a circle: {circle}")
        theirs, ancestor = _load(beside[named], extended_by)
        values = extend(theirs, values)
        if key == "extends":
            values["extends"] = [named, *ancestor.extends]
        else:
            values |= {"extends": [], "split_of": ancestor.videos_of}
    recipe = parse_recipe(values, source=str(path))
    if recipe.name != path.stem:
        raise RecipeError(f"{path}: name: is {brief(recipe.name)}, but the file is {path.name}")
    if ancestor:
        check_same_data(recipe, ancestor, str(path))
    return values, recipe


def _names_another(values: Any) -> str | None:
    """The entry by which a recipe's file names another, whose entries it takes."""
    if not isinstance(values, dict):
        return None
    if values.get("extends") is not None:
        # Of a list all is there already: that is how `Recipe.write` writes it.
        return None if isinstance(values["extends"], list) else "extends"
    return None if values.get("split_of") is None else "split_of"


def parse_recipe(values: Any, source: str) -> Recipe:
    """Checks a recipe given as plain values; ``source`` names them in errors."""
    values = modern(values, source)
    method = values.get("method", DEFAULT) if isinstance(values, dict) else DEFAULT
    if not isinstance(method, str) or method not in METHODS:
        raise RecipeError(f"{source}: method: is {brief(method)}; allowed: {', '.join(METHODS)}")
    return parse_section(METHODS[method], values, source)


def load_recipes(folder: str | Path) -> dict[str, Recipe]:
    """Every recipe of a folder by name, each that of the plain models."""
    files = _files(Path(folder))
    recipes = {name: load_recipe(path) for name, path in files.items()}
    for name, recipe in recipes.items():
        path = files[name]
        if unknown := [name for name in recipe.extends if name not in files]:
            raise RecipeError(f"{path}: extends: {unknown[0]!r} has no recipe")
        if recipe.videos_of not in files:
            raise RecipeError(f"{path}: split_of: {recipe.videos_of!r} has no recipe")
        if recipe.skip_cost is not None:
            raise RecipeError(
                f"{path}: stages.stage2.skip_cost: list the costs of a look in skip_costs; each"
                " makes a model of its own"
            )
    return recipes


def _files(folder: Path) -> dict[str, Path]:
    """Those of recipes by their names; what editors and file servers hide there is none."""
    paths = sorted(folder.glob("[!.]*.yaml"), key=lambda path: path.stem)
    return {path.stem: path for path in paths}


def find_recipe(recipes: dict[str, Recipe], dataset: str) -> Recipe:
    """The recipe of a data set; raises `RecipeError` that lists the known ones."""
    if dataset not in recipes:
        raise RecipeError(f"data set {dataset!r} has no recipe; allowed: {', '.join(recipes)}")
    return recipes[dataset]
