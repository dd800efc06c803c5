"""All results in one table, one page and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from adafocus.evaluation.result import Result, ResultError
from adafocus.figures import METRICS, accuracy_against_gflops
from adafocus.files import remove_abandoned, whole
from adafocus.recipe import Recipe, parse_recipe

HEADINGS = {
    "dataset": "data set",
    "patch_size": "patch",
    "skip_cost": "skip cost",
    "budget": "budget",
    "stage": "stage",
    "metric": "metric",
    "adafocus": "AdaFocus",
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


RUN_HEADINGS = {
    "dataset": "data set",
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
TEXT = (
    "dataset",
    "title",
    "metric",
    "model",
    "rates",
    "device",
    "torch",
    "git_commit",
    "checkpoint",
)
"""Columns that are flush left."""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<title>AdaFocus: results</title>
<style>
body {{ font: 15px/1.5 sans-serif; color: #222; margin: 2em; }}
div {{ overflow-x: auto; }}
p {{ max-width: 50em; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3em 0.7em; border-bottom: 1px solid #ddd; text-align: right; }}
th {{ border-bottom: 2px solid #666; vertical-align: bottom; }}
.text, td {{ white-space: nowrap; }}
.text {{ text-align: left; }}
</style>
</head>
<body>
{}
</body>
</html>
"""


def write_summary(
    results: Sequence[Path], stem: Path, recipes: Mapping[str, Recipe] | None = None
) -> None:
    """Writes ``stem`` plus ``.csv``, ``.md``, ``.html`` and ``.svg`` from results of `evaluate`.

    The page holds the tables of the Markdown and one of what was run.

    Args:
        results: files of results.
        stem: of the files to write.
        recipes: those of now by data set, for titles and published figures; a data set without one
            has those of the time of its result.

    Raises:
        ResultError: where there is no result, or a file is not one.
    """
    if not results:
        raise ResultError("no results to summarise; make one: snakemake --cores all demo")
    rows = sorted((_row(path, recipes or {}) for path in results), key=_order)
    figures = {row["dataset"]: published_figures(row.pop("recipe")) for row in rows}
    beside = _beside(rows, figures)
    remove_abandoned(stem.parent)
    with whole(stem.with_name(f"{stem.name}.csv")) as aside:
        pd.DataFrame(rows).to_csv(aside, index=False)
    with whole(stem.with_name(f"{stem.name}.md")) as aside:
        aside.write_text(table(rows) + published_table(beside), encoding="utf-8")
    with whole(stem.with_name(f"{stem.name}.html")) as aside:
        aside.write_text(page(rows, beside), encoding="utf-8")
    accuracy_against_gflops(rows, figures, stem.with_name(f"{stem.name}.svg"))


def _order(row: dict[str, Any]) -> tuple[str, int, float, int, float]:
    skip_cost, budget = (-1 if row[key] is None else row[key] for key in ("skip_cost", "budget"))
    return row["dataset"], row["patch_size"], skip_cost, row["stage"], budget


def _row(path: Path, recipes: Mapping[str, Recipe]) -> dict[str, Any]:
    """The figures of one result in the data set's own metric, None where there is none."""
    result = Result.read(path)
    try:
        made_with = parse_recipe(result.recipe, source=f"{path}: recipe")
        recipe = recipes.get(result.dataset, made_with)
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
            "title": recipe.title,
            "patch_size": int(result.patch_size),
            "skip_cost": result.skip_cost,
            "budget": result.budget,
            "stage": int(result.stage),
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
        }
    except KeyError as error:
        raise ResultError(f"{path}: not a result of an evaluation: {error} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: not a result of an evaluation ({error})") from None


def published_figures(recipe: Recipe) -> list[dict[str, Any]]:
    """Published figures of a data set in its own metric: AdaFocus's by patch size, then others'."""
    ours = [
        {"model": "AdaFocus", "patch_size": size, "verified": published.verified, "of": published}
        for size, published in recipe.published.items()
    ]
    others = [
        {"model": peer.name, "patch_size": peer.patch_size, "verified": True, "of": peer}
        for peer in recipe.peers
    ]
    for figure in ours + others:
        of = figure.pop("of")
        figure |= {"published": getattr(of, recipe.metric), "published_gflops": of.gflops}
    return [figure for figure in ours + others if figure["published"] is not None]


def _beside(
    rows: Sequence[dict[str, Any]], figures: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Every published figure of AdaFocus beside what was measured, None where nothing was."""
    measured = {
        (row["dataset"], row["patch_size"]): row
        for row in rows
        if row["stage"] == 3 and row["skip_cost"] is None and row["budget"] is None
    }
    metrics = {row["dataset"]: row["metric"] for row in rows}
    beside = []
    for dataset in sorted(figures):
        for figure in figures[dataset]:
            if figure["patch_size"] is None:
                continue
            plain = figure["model"] == "AdaFocus"
            row = measured.get((dataset, figure["patch_size"]), {}) if plain else {}
            accuracy = row.get("adafocus")
            beside.append(
                {
                    "dataset": dataset,
                    "metric": metrics[dataset],
                    **figure,
                    "adafocus": accuracy,
                    "gflops": row.get("gflops"),
                    "difference": None if accuracy is None else accuracy - figure["published"],
                }
            )
    return beside


def _share(random: float, accuracy: float, oracle: float | None) -> float | None:
    """How much of the way from random patches to the oracle's the accuracy is, in percent."""
    if oracle is None or oracle <= random:
        return None
    return 100 * (accuracy - random) / (oracle - random)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All results, with notes on what the columns mean.

    Args:
        rows: as in the CSV.
    """
    columns = _columns(rows)
    lines = ["# Results", "", *_markdown(columns, rows), "", *_notes(rows, columns)]
    return "\n".join(lines) + "\n"


def published_table(beside: Sequence[dict[str, Any]]) -> str:
    """AdaFocus's published figures beside those measured; nothing where none are published."""
    if not beside:
        return ""
    lines = ["", "## Published and measured", "", *_markdown(PUBLISHED_HEADINGS, beside), ""]
    return "\n".join([*lines, _published_notes(beside)]) + "\n"


def page(rows: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]]) -> str:
    """What was run, its results and the published figures, as a web page of its own.

    Args:
        rows: as in the CSV.
        beside: published figures and those measured.
    """
    columns = _columns(rows)
    parts = ["<h1>Results</h1>", *_html(columns, rows)]
    parts += [f"<p>{escape(note)}</p>" for note in _notes(rows, columns) if note]
    if beside:
        parts += ["<h2>Published and measured</h2>", *_html(PUBLISHED_HEADINGS, beside)]
        notes = _published_notes(beside).replace("\\*", "*")
        parts.append(f"<p>{escape(notes)}</p>")
    parts += ["<h2>What was run</h2>", *_html(RUN_HEADINGS, rows)]
    return PAGE.format("\n".join(parts))


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Headings of the table of results, without columns that are empty."""
    return {
        name: heading
        for name, heading in HEADINGS.items()
        if any(row[name] is not None for row in rows)
    }


def _html(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> list[str]:
    def line(tag: str, cells: Mapping[str, str]) -> str:
        filled = (
            f'<{tag} class="text">{escape(text)}</{tag}>'
            if name in TEXT
            else f"<{tag}>{escape(text)}</{tag}>"
            for name, text in cells.items()
        )
        return f"<tr>{''.join(filled)}</tr>"

    body = [line("td", {name: _cell(name, row) for name in headings}) for row in rows]
    return ["<div><table>", line("th", headings), *body, "</table></div>"]


def _markdown(headings: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """A Markdown table that also reads well as plain text, line by line."""
    cells = [list(headings.values())]
    cells += [[_cell(name, row) for name in headings] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_text = [name in TEXT for name in headings]
    rule = [
        ":" + "-" * (width - 1) if text else "-" * (width - 1) + ":"
        for width, text in zip(widths, is_text, strict=True)
    ]
    padded = [
        [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ]
        for line in (cells[0], rule, *cells[1:])
    ]
    return [f"| {' | '.join(line)} |" for line in padded]


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None:
        return ""
    match name:
        case "git_commit" | "checkpoint":
            return value[:12] + ("-dirty" if value.endswith("-dirty") else "")
        case "gain":
            return f"{value:.1f}%"
        case "metric":
            return METRICS[value]
        case "skip_cost" | "budget":
            return f"{value:g}"
        case "gflops" | "published_gflops":
            return f"{value:.2f}" if value < 1 else f"{value:.1f}"
        case "published":
            return f"{value:.1f}" + ("" if row["verified"] else "*")
        case "difference":
            return f"{value:+.1f}"
        case _:
            return f"{value:.1f}" if isinstance(value, float) else str(value)


def _published_notes(beside: Sequence[dict[str, Any]]) -> str:
    notes = ["A blank was not measured. Measured figures are of stage 3."]
    if any(not row["verified"] for row in beside):
        notes.append("\\* This figure could not be checked against the paper.")
    return " ".join(notes)


def _notes(rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> list[str]:
    notes = [
        "Accuracy in percent on the validation videos, the baselines' on the same weights; random"
        " is the mean of five draws. Patches in pixels, GFLOPs and videos/s of AdaFocus."
    ]
    if any(row["stage"] == 1 for row in rows):
        notes.append("Stage 1 has no policy: its accuracy is that of random patches.")
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
            " from random patches to it AdaFocus goes."
        )
    return [line for note in notes for line in (note, "")][:-1]
