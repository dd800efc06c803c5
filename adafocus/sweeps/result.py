"""The result of a sweep, and what stages make of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from adafocus.recipe import Recipe, SweepBudget
from adafocus.sweeps.space import Number, named_rates, with_values

FEWEST = 4
"""Trials from which something can be said of what matters."""


class SweepError(ValueError):
    """A sweep that has no result, or a result that cannot be used; the message is one line."""


def translated(found: Mapping[str, Any]) -> dict[str, Any]:
    """A result with what older versions did not say, whose sweeps were of learning rates alone."""
    if "numbers" in found:
        return dict(found)
    stage = f"stage{found['stage']}"

    def named(trial: Mapping[str, Any]) -> dict[str, Any]:
        return {**trial, "values": named_rates(stage, trial["learning_rates"])}

    low, high = found["budget"]["range"]
    rates = named_rates(stage, found["recipe"]["learning_rates"])
    numbers = {name: Number(low * r, high * r, log=True, whole=False) for name, r in rates.items()}
    return {
        **found,
        "numbers": {name: asdict(number) for name, number in numbers.items()},
        "importance": named_rates(stage, found["importance"]),
        **{which: named(found[which]) for which in ("best", "recipe")},
        "trials": [named(trial) for trial in found["trials"]],
    }


def importance(
    trials: Sequence[Mapping[str, Any]], numbers: Mapping[str, Number]
) -> dict[str, float]:
    """How much of the accuracy each number decides, as shares of 1.

    By the functional ANOVA of a random forest (Hutter et al., ICML 2014). Zero where no number
    matters or the trials are too few to tell.

    Args:
        trials: as in a sweep's result.
        numbers: what they try.
    """
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known = [trial for trial in trials if trial["best"] is not None]
    if len(known) < FEWEST or len({trial["best"] for trial in known}) == 1:
        return dict.fromkeys(numbers, 0.0)
    study = optuna.create_study(direction="maximize")
    distributions: dict[str, BaseDistribution] = {}
    for name, number in numbers.items():
        tried = [trial["values"][name] for trial in known]  # the recipe's may be out of bounds
        distributions[name] = replace(number, low=min(tried), high=max(tried)).distribution
    for trial in known:
        values = {name: trial["values"][name] for name in numbers}
        study.add_trial(
            optuna.create_trial(params=values, distributions=distributions, value=trial["best"])
        )
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(shares.get(name, 0.0)) for name in numbers}


def use_best(recipe: Recipe, sweeps: Sequence[Path]) -> Recipe:
    """The recipe with the best numbers of sweeps, and with their budget as `Recipe.swept`.

    Args:
        recipe: a data set's.
        sweeps: results of its stages' sweeps; without any the recipe stays as it is.

    Raises:
        SweepError: where a file is no such result.
    """
    for path in sweeps:
        try:
            found = json.loads(path.read_text("utf-8"))
            best = found["best"]
            [stage] = [
                spec.name
                for spec in recipe.table
                if spec.of_patch_size and spec.number == found["stage"]
            ]
            rates = named_rates(stage, best["learning_rates"])
            recipe = with_values(recipe, rates | best.get("values", {}))
            recipe = recipe.model_copy(update={"swept": SweepBudget(**found["budget"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SweepError(f"{path}: not the result of a sweep ({error!r})") from None
    return recipe


def best_trial(sweep: Path) -> Path:
    """The resume file of a sweep's best trial, which has trained its stage already.

    Args:
        sweep: the sweep's result.
    """
    best = json.loads(sweep.read_text("utf-8"))["best"]["trial"]
    return sweep.with_suffix("") / f"{sweep.stem}_trial_{best:02d}.resume.pt"
