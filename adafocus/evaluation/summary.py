"""All results in one table, one page and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adafocus.evaluation.result import Result, ResultError
from adafocus.evaluation.seeds import over_seeds
from adafocus.evaluation.summary_text import as_page, in_markdown
from adafocus.figures import accuracy_against_gflops
from adafocus.machine.files import atomic, remove_abandoned
from adafocus.recipe import Recipe, differences, parse_recipe


def write_summary(
    results: Sequence[Path], stem: Path, recipes: Mapping[str, Recipe] | None = None
) -> None:
    """Writes ``stem`` plus ``.csv``, ``.md``, ``.html`` and ``.svg`` from results of `evaluate`.

    The page holds the tables of the Markdown and one of what was run. A model has one row, of all
    its seeds together; in what was run each has its own.

    Args:
        results: files of results.
        stem: of the files to write.
        recipes: those of now by experiment, for titles and published figures; an experiment without
            one has those of the time of its result.

    Raises:
        ResultError: where there is no result, or a file is not one.
    """
    if not results:
        raise ResultError("no results to summarise; make one: snakemake --cores all demo")
    runs = sorted((_row(path, recipes or {}) for path in results), key=_order)
    rows = over_seeds(runs)
    figures = {row["experiment"]: published_figures(row["recipe"]) for row in rows}
    beside = _beside(rows, figures)
    variants = _variants(rows)
    remove_abandoned(stem.parent)
    with atomic(stem.with_name(f"{stem.name}.csv")) as aside:
        table = pd.DataFrame(rows).drop(columns=["recipe", "made_with", "warnings"])
        table.astype({"stage": "Int64", "seeds": "Int64"}).to_csv(aside, index=False)
    with atomic(stem.with_name(f"{stem.name}.md")) as aside:
        aside.write_text(in_markdown(rows, runs, variants, beside), encoding="utf-8")
    with atomic(stem.with_name(f"{stem.name}.html")) as aside:
        aside.write_text(as_page(rows, runs, variants, beside), encoding="utf-8")
    accuracy_against_gflops(rows, figures, stem.with_name(f"{stem.name}.svg"))


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    """Experiments of one data set stand together, so that equal models can be compared."""
    skip_cost, budget = (-1 if row[key] is None else row[key] for key in ("skip_cost", "budget"))
    model = (row["patch_size"], skip_cost, row["stage"] or 0, budget)
    return (row["dataset"], *model, _extends(row), row["experiment"], row["seed"])


def _extends(row: dict[str, Any]) -> bool:
    return bool(row["experiment"] != row["dataset"])


def _row(path: Path, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """The figures of one result in the data set's own metric, None where there is none."""
    result = Result.read(path)
    try:
        made_with = parse_recipe(result.recipe, source=f"{path}: recipe")
        experiment = result.experiment or result.dataset
        recipe = recipes.get(experiment, made_with)
        # Of another metric a figure would say nothing.
        if recipe.metric != result.metric:
            recipe = made_with
        baselines = {name: scores[result.metric] for name, scores in result.baselines.items()}
        random, oracle = baselines["random"], baselines.get("oracle")
        published: dict[str, Any] = {}
        if result.is_plain:
            published = recipe.published_beside(result.patch_size, result.accuracy) or {}
        return {
            "dataset": result.dataset,
            "experiment": experiment,
            "title": recipe.title,
            "model": recipe.model_name,
            "patch_size": int(result.patch_size),
            "skip_cost": result.skip_cost,
            "budget": result.budget,
            "stage": result.stage,
            "seeds": None,
            "metric": result.metric,
            "adafocus": result.accuracy,
            "random": random,
            "centre": baselines["centre"],
            "glancer": baselines["glancer"],
            "oracle": oracle,
            "gain": _share(random, result.accuracy, oracle),
            "gflops": result.gflops_per_video,
            "videos_per_second": result.videos_per_second,
            "published": published.get("figure"),
            "published_gflops": published.get("gflops"),
            "verified": published.get("verified"),
            "difference": published.get("difference"),
            "videos": result.videos,
            "seed": result.seed,
            "rates": "of sweeps" if made_with.swept else "of the recipe",
            "device": result.device,
            "torch": result.versions["torch"],
            "git_commit": result.git_commit,
            "checkpoint": result.checkpoint["sha256"],
            "file": str(path),
            "recipe": recipe,
            "made_with": made_with,
            **_choices(result),
            "warnings": result.warnings,
        }
    except KeyError as error:
        raise ResultError(f"{path}: not a result of an evaluation: {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: not a result of an evaluation ({error})") from None


def _choices(result: Result) -> dict[str, Any]:
    """What the policy chose between, None for what is not known, as of earlier versions."""
    known = result.choices or {}
    names = ("commonest_place", "centre_deviation", "side", "side_deviation", "frame_entropy")
    places = f"{known['places']} of {known['cells']}" if known else None
    return {"places": places} | {name: known.get(name) for name in (*names, "commonest_frames")}


def published_figures(recipe: Recipe) -> list[dict[str, Any]]:
    """An experiment's published figures in its metric: its own by patch size, then others'."""
    ours: list[dict[str, Any]] = [
        {
            "own": True,
            "model": recipe.model_name,
            "patch_size": size,
            "verified": published.verified,
            "of": published,
        }
        for size, published in recipe.published.items()
    ]
    others: list[dict[str, Any]] = [
        {
            "own": False,
            "model": peer.name,
            "patch_size": peer.patch_size,
            "verified": True,
            "of": peer,
        }
        for peer in recipe.peers
    ]
    for figure in ours + others:
        of = figure.pop("of")
        figure |= {"published": getattr(of, recipe.metric), "published_gflops": of.gflops}
    return [figure for figure in ours + others if figure["published"] is not None]


def _beside(
    rows: Sequence[dict[str, Any]], figures: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Every published figure of a method beside what was measured, None where nothing was."""
    measured = {
        (row["experiment"], row["patch_size"]): row
        for row in rows
        if row["stage"] in (3, None) and row["skip_cost"] is None and row["budget"] is None
    }
    known = {row["experiment"]: row for row in rows}
    beside = []
    for experiment in sorted(figures):
        for figure in figures[experiment]:
            if figure["patch_size"] is None:
                continue
            own = figure["own"]
            row = measured.get((experiment, figure["patch_size"]), {}) if own else {}
            accuracy = row.get("adafocus")
            beside.append(
                {
                    **{key: known[experiment][key] for key in ("dataset", "experiment", "metric")},
                    **figure,
                    "adafocus": accuracy,
                    "adafocus_deviation": row.get("adafocus_deviation"),
                    "gflops": row.get("gflops"),
                    "difference": None if accuracy is None else accuracy - figure["published"],
                }
            )
    return beside


def _variants(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What differs between the recipes by which experiments of one data set were made, an entry a
    row, by data set."""
    made_with: dict[str, dict[str, Recipe]] = {}
    # The data set's own first; of each the latest stage tells.
    for row in sorted(rows, key=lambda row: (_extends(row), row["experiment"], row["stage"] or 0)):
        made_with.setdefault(row["dataset"], {})[row["experiment"]] = row["made_with"]
    return {
        dataset: [
            {"entry": entry, **{f"of {name}": values[name] for name in recipes}}
            for entry, values in found.items()
        ]
        for dataset, recipes in sorted(made_with.items())
        if (found := differences(recipes))
    }


def _share(random: float, accuracy: float, oracle: float | None) -> float | None:
    """How much of the way from random patches to the oracle's the accuracy is, in percent."""
    if oracle is None or oracle <= random:
        return None
    return 100 * (accuracy - random) / (oracle - random)
