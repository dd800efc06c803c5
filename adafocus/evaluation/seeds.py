"""The results of one model with several seeds: their mean, and how far they lie apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from adafocus.evaluation.result import Result
from adafocus.machine.files import atomic
from adafocus.tracking import Chain

FIGURES = (
    "metrics",
    "baselines",
    "gflops_per_video",
    "steps_per_video",
    "looks_per_video",
    "videos_per_second",
)
"""Fields of a result that are put together."""
SPREAD = ("adafocus", "random", "centre", "glancer", "oracle")
"""Columns of the summary, accuracies, of which the standard deviation is told beside the mean."""
MEANS = (*SPREAD, "gain", "gflops", "videos_per_second", "difference")
"""Columns of the summary that are means over seeds."""
TOLD = ("seed", "rates", "device", "torch", "git_commit", "checkpoint", "file")
"""Columns of the summary in which each seed may have another value; the others are the first's."""


def mean(values: Sequence[float | None]) -> float | None:
    """None where one of the values is not known."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def deviation(values: Sequence[float | None]) -> float | None:
    """The standard deviation of a sample, over n - 1; None of a single value, or where one of them
    is not known."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) == len(values) > 1 else None


def write_seeds(results: Sequence[Path], output: Path) -> None:
    """Writes what results of one model with several seeds have together.

    Args:
        results: one for each seed.
        output: the JSON to write, with ``mean``, ``standard_deviation`` (over n - 1) and, for each
            of the ``seeds``, its own figures; accuracies in percent.

    Raises:
        ResultError: where a file is not a result.
    """
    read = {path: Result.read(path) for path in results}
    each = [{name: getattr(result, name) for name in FIGURES} for result in read.values()]
    first = next(iter(read.values()))
    told = ("dataset", "experiment", "patch_size", "skip_cost", "stage", "metric")
    found = {
        **{name: getattr(first, name) for name in told},
        "mean": _together(each, mean),
        "standard_deviation": _together(each, deviation),
        "seeds": [
            {"seed": result.seed, "result": str(path), **figures}
            for (path, result), figures in zip(read.items(), each, strict=True)
        ],
    }
    with atomic(output) as aside:
        aside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _together(
    each: Sequence[Any], of: Callable[[Sequence[float | None]], float | None]
) -> dict[str, Any] | float | None:
    """Figures of the same form as those of each seed."""
    if not isinstance(each[0], Mapping):
        return of(each)
    return {name: _together([one.get(name) for one in each], of) for name in each[0]}


def over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The summary's rows of models: those of one model with other seeds become one row.

    They are of one model where the recipes that made them are equal, but for numbers that sweeps
    found. Such a row has ``seeds``, how many there are, and beside the accuracies their standard
    deviation, such as ``adafocus_deviation``.

    Args:
        rows: of results, with ``made_with``, the recipe of each.
    """
    models: dict[Any, dict[int, dict[str, Any]]] = {}
    for row in rows:
        chain = Chain.of(row["made_with"], row["patch_size"], seed=0)
        kind = (row["experiment"], row["stage"], row["budget"], row["metric"])
        model = (kind, chain.name, tuple(sorted(chain.parameters.items())))
        # Twice the same seed says nothing of how far seeds lie apart.
        again = sum(row["seed"] in models.get((model, n), {}) for n in range(len(rows)))
        models.setdefault((model, again), {})[row["seed"]] = row
    return [_row(list(of_seeds.values())) for of_seeds in models.values()]


def _row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(rows) == 1:
        return rows[0]
    rows = sorted(rows, key=lambda row: int(row["seed"]))
    told = {name: ", ".join(dict.fromkeys(str(row[name]) for row in rows)) for name in TOLD}
    means = {name: mean([row[name] for row in rows]) for name in MEANS}
    apart = {f"{name}_deviation": deviation([row[name] for row in rows]) for name in SPREAD}
    return {**rows[0], **told, **means, "seeds": len(rows), **apart}
