"""Which runs make one model."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from adafocus.recipe.earlier import written_place

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
        values = recipe.to_dict()
        model, stages = values["model"], values["stages"]
        note = (
            "Stages 1 to 3 and their evaluations. The metrics without a stage's name are the"
            " finished model's, of stage 3, on the validation videos."
        )
        if patch_size is None:
            note = "Both backbones' pretraining (stage 0), which all patch sizes share."
            model = {k: v for k, v in model.items() if k not in ("policy", "classifier")}
            stages = {k: v for k, v in stages.items() if k in ("glancer", "focuser")}
        elif recipe.swept:
            # Each stage's are known when it begins, and are figures of the chain.
            for stage in ("stage1", "stage2", "stage3"):
                stages[stage].pop("learning_rates")
            for number in recipe.swept.numbers:
                *path, key = written_place(number).split(".")
                reduce(lambda section, part: section.get(part, {}), path, values).pop(key, None)
            stages["swept"] = values["swept"]
        name = _model_name(recipe, patch_size)
        return cls._of(name, values | {"model": model}, patch_size, seed, stages, note)

    @classmethod
    def of_sweep(
        cls, recipe: Recipe, patch_size: int, stage: str, budget: SweepBudget, seed: int
    ) -> Chain:
        """The parent of a sweep's trials."""
        values = recipe.to_dict()
        # Of a larger sweep the same trials are part.
        swept = budget.model_dump(mode="json", exclude={"trials"})
        stages = {"sweep": swept, stage: values["stages"][stage]}
        note = (
            "Trials of other numbers; the run called sweep has the best of them. Killed runs are"
            " trials that were stopped early, as others did better after as many epochs."
        )
        name = f"{_model_name(recipe, patch_size)} {stage} sweep"
        return cls._of(name, values, patch_size, seed, stages, note)

    @classmethod
    def _of(
        cls,
        name: str,
        values: Mapping[str, Any],
        patch_size: int | None,
        seed: int,
        stages: Mapping[str, Any],
        note: str,
    ) -> Chain:
        sections = {key: values[key] for key in ("model", "augmentation")}
        parameters = flat({"patch_size": patch_size, "seed": seed, **stages, **sections})
        facts = json.dumps([name, _person(), parameters], sort_keys=True)
        return cls(name, hashlib.sha256(facts.encode()).hexdigest()[:32], parameters, note)


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
