"""Recipes that extend others: what they take from them, and in what they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from adafocus.recipe.experiment import Recipe
from adafocus.recipe.section import RecipeError, Section

OWN = ("name", "title", "published", "peers")
"""Entries that are not inherited."""
OF_METHOD = ("stages", "skip_costs", "patch_sizes")
"""Entries that a recipe of another method does not inherit."""
OF_ALL_MODELS = ("frame_size", "glance_size", "glancer", "focuser", "shift")
"""Entries of the model that it does."""
OF_VIDEOS = ("source", "frames", "classes")
"""Entries that are the same in all splits of one data set, whose videos and frames they share."""
OF_DATA = (*OF_VIDEOS, "annotations", "videos", "split_of")
"""Entries that are the same in all recipes of one data set, whose videos, frames and splits they
share."""


def extend(ancestor: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a recipe that extends another.

    Mappings merge at every depth, all else replaces what was there, and null removes it. One of
    another method takes neither stages nor, of the model, more than its backbones and sizes.

    Args:
        ancestor: plain values of the recipe that is extended.
        given: what the recipe's own file says.
    """
    inherited = {key: value for key, value in ancestor.items() if key not in OWN}
    if given.get("method", inherited.get("method")) != inherited.get("method"):
        inherited = {key: value for key, value in inherited.items() if key not in OF_METHOD}
        model = inherited.get("model")
        if isinstance(model, dict):
            inherited["model"] = {key: model[key] for key in OF_ALL_MODELS if key in model}
    return _merge(inherited, given)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            merged[key] = _merge(before if isinstance(before, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def check_same_data(recipe: Recipe, ancestor: Recipe, source: str) -> None:
    """Raises `RecipeError` where a recipe is of other data than the one that it extends, or is
    another split of."""
    for entry in OF_DATA if recipe.dataset == ancestor.dataset else OF_VIDEOS:
        if getattr(recipe, entry) != getattr(ancestor, entry):
            raise RecipeError(
                f"{source}: {entry}: differs from that of {ancestor.name}, whose data it shares;"
                " a recipe of other data extends none"
            )


def change(values: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """The plain values of a recipe with another entry.

    Args:
        values: plain values of the recipe.
        setting: such as ``stages.stage2.gamma=0.9``, whose value is read as YAML. It goes over
            what is there as what a recipe's file says goes over what it extends.

    Raises:
        RecipeError: where the setting is none.
    """
    where, equals, text = setting.partition("=")
    *path, key = where.split(".")
    if not equals or "" in (*path, key):
        raise RecipeError(f"--set {setting}: give an entry and its value, stages.stage2.epochs=5")
    if where in ("name", "extends"):
        raise RecipeError(f"--set {setting}: stays as the recipe's file says")
    try:
        given: Any = {key: yaml.safe_load(text)}
    # The others of a day that no month has, a number too long, brackets without end.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"--set {setting}: {' '.join(str(error).split())}") from None
    for name in reversed(path):
        given = {name: given}
    return _merge(values, given)


def differences(recipes: Mapping[str, Recipe]) -> dict[str, dict[str, str]]:
    """The entries in which recipes of one data set differ, such as ``stages.stage2.gamma``.

    Returns:
        For each entry its value by the recipe's name, as text; empty where a recipe lacks it. Names
        and published figures are left out, and which models there are. So are, where methods
        differ, entries that one of them does not have.
    """
    left_out = {*OWN, *OF_DATA, "extends", "patch_sizes", "skip_costs", "swept"}
    flat = {
        name: _flat({k: v for k, v in recipe.never_skipping if k not in left_out})
        for name, recipe in recipes.items()
    }
    entries = dict.fromkeys(entry for values in flat.values() for entry in values)
    if len({recipe.method for recipe in recipes.values()}) > 1:
        entries = {entry: None for entry in entries if all(entry in one for one in flat.values())}
    found = {e: {name: values.get(e, "") for name, values in flat.items()} for e in entries}
    return {entry: values for entry, values in found.items() if len(set(values.values())) > 1}


def _flat(section: Any, prefix: str = "") -> dict[str, str]:
    """The entries of a section and of those in it, as text."""
    flat: dict[str, str] = {}
    for key, value in dict(section).items():
        if isinstance(value, dict | Section):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return flat
