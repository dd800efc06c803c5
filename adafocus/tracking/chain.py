"""Which runs make one model."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adafocus.recipe.earlier import written_place
from adafocus.recipe.section import find_entry
from adafocus.recipe.stages import BACKBONES

if TYPE_CHECKING:
    from adafocus.recipe import Recipe, SweepBudget


@dataclass(frozen=True)
class Chain:
    """The parent of the runs that make one model.

    There is one for each patch size, named like ``actnet 128``: stages 1 to 3 and their
    evaluations. All patch sizes share stage 0, so that its two runs hang under a parent of their
    own, ``actnet backbones``; the trials of a sweep hang under ``actnet 128 stage2 sweep``. Every
    process finds the parent by its key, which stands for data set, patch size, seed,
    hyper-parameters and person. So a changed learning rate begins another parent, and the parents
    of an experiment are the configurations to compare: each carries all parameters and the final
    figures.

    Attributes:
        name: of the parent run.
        key: hexadecimal digest.
        parameters: of all its stages, such as ``stage2.learning_rates.policy``.
        note: what a person should know of it.
    """

    name: str
    key: str
    parameters: dict[str, str]
    note: str = ""

    @classmethod
    def of(cls, recipe: Recipe, patch_size: int | None, seed: int) -> Chain:
        """The chain of a patch size, or of the backbones where it is None."""
        note = (
            "The training of one model and its evaluations. The metrics without a stage's name are"
            " the finished model's, on the validation videos."
        )
        if patch_size is None:
            note = "Both backbones' pretraining (stage 0), which all patch sizes share."
        own = [spec.name for spec in recipe.table if spec.of_patch_size]
        parts = {part for spec in recipe.table for part in spec.leaves}

        def choose(values: dict[str, Any]) -> dict[str, Any]:
            model, stages = values["model"], values["stages"]
            if patch_size is None:
                model = {k: v for k, v in model.items() if k not in parts - set(BACKBONES)}
                stages = {k: v for k, v in stages.items() if k not in own}
            elif recipe.swept:
                # Each stage's are known when it begins, see `swept_figures`.
                for stage in own:
                    stages[stage].pop("learning_rates")
                for number in recipe.swept.numbers:
                    for place in (number, written_place(number)):
                        section, key = find_entry(values, place)
                        section.pop(key, None)
                stages["swept"] = values["swept"]
            return {**stages, "model": model, "augmentation": values["augmentation"]}

        name = _model_name(recipe, patch_size)
        return cls._of(name, recipe, patch_size, seed, choose, note)

    @classmethod
    def of_sweep(
        cls, recipe: Recipe, patch_size: int, stage: str, budget: SweepBudget, seed: int
    ) -> Chain:
        """The parent of a sweep's trials."""
        # Of a larger sweep the same trials are part.
        swept = budget.model_dump(mode="json", exclude={"trials"})
        note = (
            "Trials of other numbers; the run called sweep has the best of them. Killed runs are"
            " trials that were stopped early, as others did better after as many epochs."
        )

        def choose(values: dict[str, Any]) -> dict[str, Any]:
            shared = {key: values[key] for key in ("model", "augmentation")}
            return {"sweep": swept, stage: values["stages"][stage], **shared}

        name = f"{_model_name(recipe, patch_size)} {stage} sweep"
        return cls._of(name, recipe, patch_size, seed, choose, note)

    @classmethod
    def _of(
        cls,
        name: str,
        recipe: Recipe,
        patch_size: int | None,
        seed: int,
        choose: Callable[[dict[str, Any]], dict[str, Any]],
        note: str,
    ) -> Chain:
        """The key is of the recipe as it is written, so that a chain that an earlier version began
        is found; the parameters are in today's words."""
        written, parameters = (
            flat({"patch_size": patch_size, "seed": seed, **choose(values)})
            for values in (recipe.to_dict(), recipe.in_todays_words())
        )
        facts = json.dumps([name, _person(), written], sort_keys=True)
        return cls(name, hashlib.sha256(facts.encode()).hexdigest()[:32], parameters, note)


def stage_parameters(recipe: Recipe, stage: str) -> dict[str, Any]:
    """What MLflow is told of a run that trains a stage: the stage's section of the recipe, and such
    swept numbers as are in no stage's, by their places."""
    section: dict[str, Any] = recipe.in_todays_words()["stages"][stage]
    others = {k: v for k, v in _swept(recipe, stage).items() if not k.startswith("stages.")}
    return section | others


def swept_figures(recipe: Recipe, stage: str) -> dict[str, float]:
    """The numbers that a stage has of sweeps, which its chain carries as figures: when the chain
    begins nobody knows them."""
    rates = recipe.stages[stage].learning_rates if recipe.swept else {}
    figures = {f"{stage}_learning_rate_{part}": rate for part, rate in rates.items()}
    own = f"stages.{stage}."
    for place, number in _swept(recipe, stage).items():
        if not place.startswith(f"{own}learning_rates."):
            figures[place.replace(own, f"{stage}_")] = number
    return figures


def _swept(recipe: Recipe, stage: str) -> dict[str, float]:
    """Swept numbers by their places in the recipe, those of other stages left out."""
    values, found = recipe.in_todays_words(), {}
    for place in recipe.swept.numbers if recipe.swept else ():
        section, key = find_entry(values, place)
        of_another = place.startswith("stages.") and not place.startswith(f"stages.{stage}.")
        if key in section and not of_another:
            found[place] = section[key]
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters by names such as ``learning_rates.policy``, without those that are None."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None and value != []:
            found[prefix + key] = str(value)
    return found


def _model_name(recipe: Recipe, patch_size: int | None) -> str:
    if patch_size is None:
        return f"{recipe.name} backbones"
    skip = "" if recipe.skip_cost is None else f" skip {recipe.skip_cost:g}"
    return f"{recipe.name} {patch_size}{skip}"


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return str(os.getuid())
