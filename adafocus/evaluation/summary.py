"""All results in one table, one page and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from adafocus.evaluation.result import Result, ResultError
from adafocus.evaluation.seeds import over_seeds
from adafocus.evaluation.tables import PAGE, html, markdown
from adafocus.figures import accuracy_against_gflops
from adafocus.machine.files import atomic, remove_abandoned
from adafocus.recipe import Recipe, differences, parse_recipe

MODEL_HEADINGS = {
    "dataset": "data set",
    "experiment": "experiment",
    "patch_size": "patch",
    "skip_cost": "skip cost",
    "budget": "budget",
    "stage": "stage",
}
"""Columns that say which model a row is of."""


HEADINGS = MODEL_HEADINGS | {
    "seeds": "seeds",
    "metric": "metric",
    "adafocus": "accuracy",
    "random": "random",
    "centre": "centre",
    "glancer": "glancer alone",
    "oracle": "oracle",
    "gain": "of oracle's gain",
    "gflops": "GFLOPs",
    "videos_per_second": "videos/s",
}
"""Columns of the table that a person reads, and their headings."""


PUBLISHED_HEADINGS = {
    "dataset": "data set",
    "experiment": "experiment",
    "model": "model",
    "patch_size": "patch",
    "metric": "metric",
    "published": "published",
    "adafocus": "measured",
    "difference": "difference",
    "published_gflops": "GFLOPs published",
    "gflops": "counted",
}
"""Columns of the table of published figures."""


CHOICES_HEADINGS = MODEL_HEADINGS | {
    "seed": "seed",
    "places": "places",
    "commonest_place": "at the commonest",
    "centre_deviation": "deviation of centres",
    "side": "side of boxes",
    "side_deviation": "deviation of sides",
    "frame_entropy": "entropy of frames",
    "commonest_frames": "at the commonest frames",
}
"""Columns of the table of what policies chose between."""


RUN_HEADINGS = {
    "dataset": "data set",
    "experiment": "experiment",
    "title": "title",
    "patch_size": "patch",
    "skip_cost": "skip cost",
    "budget": "budget",
    "stage": "stage",
    "videos": "validation videos",
    "seed": "seed",
    "rates": "learning rates",
    "device": "evaluated on",
    "torch": "PyTorch",
    "git_commit": "commit",
    "checkpoint": "checkpoint's SHA-256",
}
"""Columns of the table of what was run."""


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
        tables = (choices_table(runs), variants_tables(variants), published_table(beside))
        aside.write_text(results_table(rows) + "".join(tables), encoding="utf-8")
    with atomic(stem.with_name(f"{stem.name}.html")) as aside:
        aside.write_text(page(rows, runs, variants, beside), encoding="utf-8")
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


def results_table(rows: Sequence[dict[str, Any]]) -> str:
    """All results, with notes on what the columns mean.

    Args:
        rows: as in the CSV.
    """
    columns = _columns(HEADINGS, rows)
    lines = ["# Results", "", *markdown(columns, rows), "", *_notes(rows, columns)]
    return "\n".join(lines) + "\n"


def choices_table(runs: Sequence[dict[str, Any]]) -> str:
    """What each policy chose between, and where it always does the same; nothing where no result
    tells."""
    if not (told := _told(runs)):
        return ""
    columns = _columns(CHOICES_HEADINGS, told)
    lines = ["", "## What the policies chose between", "", *markdown(columns, told), ""]
    notes = (line for note in _choices_notes(told, columns) for line in (note, ""))
    return "\n".join([*lines, *notes])


def variants_tables(variants: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """For each data set of several experiments what differs between them; nothing where there is
    none."""
    lines = []
    for dataset, rows in variants.items():
        table = markdown(_entry_headings(rows), rows)
        lines += ["", f"## Experiments on {dataset} differ in", "", *table]
    return "\n".join([*lines, ""]) if lines else ""


def _entry_headings(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {name: name.removeprefix("of ") for name in rows[0]}


def published_table(beside: Sequence[dict[str, Any]]) -> str:
    """Published figures beside those measured; nothing where none are published."""
    if not beside:
        return ""
    columns = _headings(PUBLISHED_HEADINGS, beside)
    lines = ["", "## Published and measured", "", *markdown(columns, beside), ""]
    return "\n".join([*lines, _published_notes(beside)]) + "\n"


def page(
    rows: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
    variants: Mapping[str, Sequence[dict[str, Any]]],
    beside: Sequence[dict[str, Any]],
) -> str:
    """What was run, its results and the published figures, as a web page of its own.

    Args:
        rows: as in the CSV.
        runs: each seed's.
        variants: what differs between experiments, by data set.
        beside: published figures and those measured.
    """
    columns = _columns(HEADINGS, rows)
    parts = ["<h1>Results</h1>", *html(columns, rows)]
    parts += [f"<p>{escape(note)}</p>" for note in _notes(rows, columns) if note]
    if told := _told(runs):
        chosen = _columns(CHOICES_HEADINGS, told)
        parts += ["<h2>What the policies chose between</h2>", *html(chosen, told)]
        parts += [f"<p>{escape(note)}</p>" for note in _choices_notes(told, chosen)]
    for dataset, entries in variants.items():
        parts.append(f"<h2>Experiments on {escape(dataset)} differ in</h2>")
        parts += html(_entry_headings(entries), entries)
    if beside:
        published = _headings(PUBLISHED_HEADINGS, beside)
        parts += ["<h2>Published and measured</h2>", *html(published, beside)]
        notes = _published_notes(beside).replace("\\*", "*")
        parts.append(f"<p>{escape(notes)}</p>")
    parts += ["<h2>What was run</h2>", *html(_headings(RUN_HEADINGS, runs), runs)]
    return PAGE.format("\n".join(parts))


def _told(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs of which it is known what the policy chose between."""
    return [row for row in runs if row["places"] is not None]


def _columns(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Those of a table, without columns that are empty."""
    return {
        name: heading
        for name, heading in _headings(headings, rows).items()
        if any(row[name] is not None for row in rows)
    }


def _headings(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Those of a table, without the experiments where these are the data sets themselves."""
    only = all(row["experiment"] == row["dataset"] for row in rows)
    return {name: text for name, text in headings.items() if not (only and name == "experiment")}


def _choices_notes(told: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> list[str]:
    notes = [
        "Places: cells of a grid in which boxes lay, of those that there are; beside it the share"
        " of looks at the commonest one. Lengths are in percent of the frame's side."
    ]
    if "frame_entropy" in columns:
        notes.append(
            "Entropy of frames, in bits: of how often each was looked at. Beside it the share of"
            " looks at the commonest frames, as many as a video has looks: 100% where they are"
            " always the same."
        )
    for row in told:
        name = f"{row['experiment']}, patch {row['patch_size']}"
        name += "" if row["stage"] is None else f", stage {row['stage']}"
        notes += [f"Warning: {name}, seed {row['seed']}: {text}." for text in row["warnings"]]
    return notes


def _published_notes(beside: Sequence[dict[str, Any]]) -> str:
    notes = ["A blank was not measured. Measured figures are of finished models."]
    if any(not row["verified"] for row in beside):
        notes.append("\\* This figure could not be checked against the paper.")
    return " ".join(notes)


def _notes(rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> list[str]:
    notes = [
        "Accuracy in percent on the validation videos, the baselines' on the same weights; random"
        " is the mean of five draws. Patches in pixels, GFLOPs and videos/s of the model itself."
    ]
    if any(row["stage"] == 1 for row in rows):
        notes.append("Stage 1 has no policy: its accuracy is that of random patches.")
    if "seeds" in columns:
        notes.append(
            "Of several seeds it is the mean; after ± stands the standard deviation of the sample"
            " (n - 1)."
        )
    if "skip_cost" in columns:
        notes.append(
            "With a skip cost the policy skips frames (AdaFocus+): GFLOPs are those really spent,"
            " and the baselines look at the same frames."
        )
    if "budget" in columns:
        notes.append(
            "With a budget, in GFLOPs per video, videos are left as soon as the prediction is sure."
        )
    if "gain" in columns:
        notes.append(
            "The oracle's patches are centred on the truth. Of oracle's gain: how much of the way"
            " from random patches to it the model goes."
        )
    return [line for note in notes for line in (note, "")][:-1]
