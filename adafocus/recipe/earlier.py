"""What earlier versions called things: recipes and checkpoints of theirs are read for good.

Whatever is made of a recipe, such as checkpoints, results and fingerprints, is written in their
words where they had any, so that what is finished stays what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adafocus.recipe.section import RecipeError, brief

PPO = {
    "discount": "gamma",
    "value_weight": "value_coefficient",
    "entropy_weight": "entropy_coefficient",
    "passes": "update_epochs",
}
"""Entries of ``stages.stage2``."""
FAMILIES: dict[str, dict[str, Any]] = {
    "gru": {
        "shift": False,
        "padding": "last",
        "policy.kind": "grid",
        "classifier.kind": "recurrent",
    },
    "tsm": {
        "shift": True,
        "padding": "first",
        "policy.kind": "gaussian",
        "classifier.kind": "average",
    },
}
"""What the two models of the paper are made of; a recipe had but a name for each, its
``model.family``."""


def modern(values: Any, source: str) -> Any:
    """A recipe's plain values in today's words.

    Raises:
        RecipeError: where they say a thing in both, and not alike; ``source`` names the recipe.
    """
    if not isinstance(values, dict):
        return values
    values = dict(values)
    if isinstance(model := values.get("model"), dict) and "family" in model:
        values["model"] = _of_parts(model, source)
    stages = values.get("stages")
    if isinstance(stages, dict) and isinstance(stages.get("stage2"), dict):
        values["stages"] = stages | {"stage2": _renamed(stages["stage2"], source)}
    return values


def _of_parts(model: Mapping[str, Any], source: str) -> dict[str, Any]:
    model = dict(model)
    family = model.pop("family")
    if not isinstance(family, str) or family not in FAMILIES:
        allowed = ", ".join(FAMILIES)
        raise RecipeError(f"{source}: model.family: is {brief(family)}; allowed: {allowed}")
    for name, entry in FAMILIES[family].items():
        section, _, key = name.rpartition(".")
        where = model
        if section:
            where = model[section] = dict(model.get(section) or {})
        if where.setdefault(key, entry) != entry:
            raise RecipeError(
                f"{source}: model.{name}: is {brief(where[key])} though family is {family}: leave"
                " family out"
            )
    return model


def _renamed(stage2: Mapping[str, Any], source: str) -> dict[str, Any]:
    for old, new in PPO.items():
        if old in stage2 and new in stage2:
            raise RecipeError(f"{source}: stages.stage2.{old}: is now called {new}: leave it out")
    return {PPO.get(name, name): entry for name, entry in stage2.items()}


def family_of(parts: Mapping[str, Any]) -> str | None:
    """The name of a model of these parts, as `FAMILIES` lists them; None where it had none."""
    return next((family for family, entries in FAMILIES.items() if entries == parts), None)


def written_model(values: Mapping[str, Any], family: str) -> dict[str, Any]:
    """A model's plain values with the family's name for its parts, none of which is there else."""
    values = dict(values)
    for name in FAMILIES[family]:
        section, _, key = name.rpartition(".")
        if not section:
            values.pop(key, None)
        elif section in values:
            left = {name: entry for name, entry in values[section].items() if name != key}
            if left:
                values[section] = left
            else:
                del values[section]
    return {"family": family} | values


def written_place(place: str) -> str:
    """Where an entry such as ``stages.stage2.gamma`` stands in what is written of a recipe."""
    section, _, key = place.rpartition(".")
    old = {new: old for old, new in PPO.items()} if section == "stages.stage2" else {}
    return f"{section}.{old.get(key, key)}"


def written_ppo(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of ``stages.stage2`` with the names that they had."""
    old = {new: old for old, new in PPO.items()}
    return {old.get(name, name): entry for name, entry in values.items()}
