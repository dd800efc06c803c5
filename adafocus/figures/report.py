"""Of results together, for who compares models and their costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adafocus.figures.style import (
    BASELINES,
    BLANK,
    BLUE,
    GREEN,
    GREY,
    METRICS,
    ORANGE,
    PURPLE,
    SERIES,
    SKY,
    STYLE,
    VERMILLION,
    DrawStyle,
    save,
    save_note,
)

if TYPE_CHECKING:
    import pandas as pd


VARIANTS: tuple[DrawStyle, ...] = (
    {"color": ORANGE, "marker": "s", "linestyle": "--"},
    {"color": SKY, "marker": "D", "linestyle": "-"},
    {"color": PURPLE, "marker": "o", "linestyle": ":"},
)
"""Looks of experiments that extend the data set's own."""


def accuracy_against_gflops(
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
) -> None:
    """Our accuracy and the published ones by cost, one panel per data set and metric, in which each
    experiment on it has a line.

    Args:
        rows: those of the summary; of each model the latest stage is drawn, without a budget.
        figures: published figures by experiment: ``model``, ``published``, ``published_gflops``.
    """
    latest: dict[tuple[str, str], dict[tuple[Any, ...], Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["stage"] or 0):
        if row["budget"] is not None:
            continue
        model = (row["experiment"], row["patch_size"], row["skip_cost"])
        latest.setdefault((row["dataset"], row["metric"]), {})[model] = row
    with matplotlib.rc_context(STYLE):
        columns = min(len(latest), 3)
        lines = math.ceil(len(latest) / columns)
        figure = Figure(figsize=(max(5.4, 4.0 * columns), 4.0 * lines), layout="constrained")
        for place, ((dataset, _), models) in enumerate(sorted(latest.items()), start=1):
            axes = figure.add_subplot(lines, columns, place)
            drawn = sorted(models.values(), key=lambda row: row["patch_size"])
            # Peers stand in the recipes of all experiments on a data set.
            names = dict.fromkeys((dataset, *(row["experiment"] for row in drawn)))
            beside: list[Mapping[str, Any]] = []
            for name in names:
                beside += [one for one in figures.get(name, ()) if one not in beside]
            _draw_data_set(axes, dataset, drawn, beside)
        save(figure, path)


def _draw_data_set(
    axes: Axes,
    dataset: str,
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
) -> None:
    metric = METRICS[rows[0]["metric"]]
    axes.set(title=dataset, xlabel="GFLOPs per video", ylabel=f"{metric} (%)")
    costs = [row["gflops"] for row in rows]
    for row in rows:
        if (apart := row.get("adafocus_deviation")) is not None:
            axes.errorbar(row["gflops"], row["adafocus"], apart, color=GREY, capsize=3)
    variants: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["experiment"] != dataset and row["skip_cost"] is None:
            variants.setdefault(row["experiment"], []).append(row)
    rows = [row for row in rows if row["experiment"] == dataset]
    if skipping := [row for row in rows if row["skip_cost"] is not None]:
        places = ([row[axis] for row in skipping] for axis in ("gflops", "adafocus"))
        look = SERIES[2] | {"linestyle": "none"}
        axes.plot(*places, **look, label="AdaFocus+, measured")
    rows = [row for row in rows if row["skip_cost"] is None]
    gflops = [row["gflops"] for row in rows]
    measured = [row["adafocus"] for row in rows]
    if rows:
        axes.plot(gflops, measured, **SERIES[0], label=f"{rows[0]['model']}, measured")
    for number, (experiment, drawn) in enumerate(sorted(variants.items())):
        places = ([row[axis] for row in drawn] for axis in ("gflops", "adafocus"))
        look = VARIANTS[number % len(VARIANTS)]
        axes.plot(*places, **look, fillstyle="none", label=f"{experiment}, measured")
    for row in rows:
        axes.annotate(
            f"{row['patch_size']} px",
            (row["gflops"], row["adafocus"]),
            (6, -10),
            textcoords="offset points",
            bbox=BLANK,
        )
    for name, marker in {"oracle": "^", "random": "v"}.items():
        label, look = BASELINES[name]
        values = [row[name] for row in rows]
        if rows and None not in values:
            axes.plot(gflops, values, **look, marker=marker, fillstyle="none", label=label)
    costs += _draw_published(axes, figures)
    axes.set_xlim(0.85 * min(costs), 1.15 * max(costs))
    axes.margins(y=0.15)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)


def _draw_published(axes: Axes, figures: Sequence[Mapping[str, Any]]) -> list[float]:
    """Published figures, peers by their names; returns their GFLOPs."""
    families = {"AdaFocus": "*", "AdaFocus+": "P", "Uni-AdaFocus": "p"}
    for figure in figures:
        place = (figure["published_gflops"], figure["published"])
        if figure["model"] not in families:
            axes.plot(*place, color=GREY, marker="x", linestyle="none")
            axes.annotate(
                figure["model"],
                place,
                (5, 3),
                textcoords="offset points",
                color=GREY,
                bbox=BLANK,
            )
    for model, marker in families.items():
        points = [
            (figure["published_gflops"], figure["published"])
            for figure in figures
            if figure["model"] == model
        ]
        if points:
            look: DrawStyle = {
                "color": "black",
                "linestyle": "none",
                "markersize": 9,
                "fillstyle": "none",
            }
            label = f"{model}, published"
            axes.plot(*zip(*points, strict=True), **look, marker=marker, label=label)
    return [figure["published_gflops"] for figure in figures]


WAYS: dict[tuple[str, bool], tuple[str, DrawStyle]] = {
    ("conditional exit", False): ("conditional exit", {"color": BLUE, "linestyle": "-"}),
    ("random exit", False): ("random exit", {"color": VERMILLION, "linestyle": "-."}),
    ("fewer frames", False): ("fewer frames", {"color": GREY, "linestyle": ":", "marker": "x"}),
    ("all frames", True): ("AdaFocus+", {"color": GREEN, "linestyle": "--", "marker": "^"}),
    ("random frames", True): ("random frames skipped", {"color": VERMILLION, "marker": "v"}),
    ("conditional exit", True): ("AdaFocus+ and exit", {"color": PURPLE, "linestyle": "-"}),
}
"""Label and look of each way to spend less, of models that skip no frames and of those that do."""


def ways_to_spend_less(
    points: pd.DataFrame,
    figures: Sequence[Mapping[str, Any]],
    metric: str,
    path: Path,
    title: str,
    model: str = "AdaFocus",
    beside: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Accuracy against GFLOPs of all ways to spend less, one panel for each patch size.

    Args:
        points: a row for each, see `adafocus.evaluation.curves`.
        figures: published ones: ``model``, ``patch_size``, ``published``, ``published_gflops``.
        metric: of both.
        model: what it is called.
        beside: points of other experiments, by their names, of which those models are drawn that
            skip no frames, whole and with the conditional exit.
    """
    sizes = sorted(points["patch_size"].unique())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.4, 4.0 * len(sizes)), 4.4), layout="constrained")
        figure.suptitle(title)
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        handles: dict[str, Artist] = {}
        for axes, size in zip(panels, sizes, strict=True):
            axes.set(title=f"patches of {size} px", xlabel="GFLOPs per video")
            of_size = points[points["patch_size"] == size]
            whole_model = of_size[of_size["skip_cost"].isna() & (of_size["way"] == "all frames")]
            axes.plot(
                whole_model["gflops"],
                whole_model["accuracy"],
                color=BLUE,
                marker="o",
                markersize=7,
                linestyle="none",
                label=model,
            )
            for (way, skips), (label, look) in WAYS.items():
                chosen = of_size[(of_size["way"] == way) & (of_size["skip_cost"].notna() == skips)]
                # Exits of each model are a line of their own.
                by = "skip_cost" if way == "conditional exit" and skips else "way"
                for _, line in chosen.sort_values("gflops").groupby(by):
                    style = {"markersize": 5, "fillstyle": "none", **look}
                    axes.plot(line["gflops"], line["accuracy"], **style, label=label)
                if way == "all frames":
                    for number, row in enumerate(chosen.sort_values("gflops").itertuples()):
                        place = (row.gflops, row.accuracy)
                        # In turns below and above, as costs may differ little.
                        offset = (4, 6 if number % 2 else -12)
                        text = f"{row.skip_cost:g}"
                        axes.annotate(text, place, offset, textcoords="offset points", bbox=BLANK)
            for number, (name, others) in enumerate((beside or {}).items()):
                _draw_beside(axes, name, others[others["patch_size"] == size], number)
            of_others = [row for row in figures if row["patch_size"] in (None, size)]
            _draw_published(axes, of_others)
            found, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        panels[0].set_ylabel(f"{METRICS[metric]} (%)")
        columns = min(2 * len(sizes), 4)
        figure.legend([*handles.values()], [*handles], loc="outside lower center", ncols=columns)
        save(figure, path)


def _draw_beside(axes: Axes, name: str, points: pd.DataFrame, number: int) -> None:
    """The plain model of another experiment and its conditional exit."""
    look = VARIANTS[number % len(VARIANTS)]
    plain = points[points["skip_cost"].isna()]
    whole, early = (plain[plain["way"] == way] for way in ("all frames", "conditional exit"))
    marker = look | {"linestyle": "none", "markersize": 7}
    if len(whole):
        axes.plot(whole["gflops"], whole["accuracy"], **marker, label=name)
    if len(early):
        line = early.sort_values("gflops")
        look = look | {"marker": ""}
        axes.plot(line["gflops"], line["accuracy"], **look, label=f"{name}, conditional exit")


def run_times(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Wall-clock time of each job as bars, one panel per data set.

    Args:
        rows: as in ``results/runtimes.csv``, in the order in which to draw them.
    """
    if not rows:
        return save_note("no run times", path)
    panels: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault(row["dataset"], []).append(row)
    with matplotlib.rc_context(STYLE | {"axes.grid.axis": "x"}):
        tall = [0.9 + 0.24 * len(jobs) for jobs in panels.values()]
        figure = Figure(figsize=(8, sum(tall)), layout="constrained")
        columns = figure.subplots(len(panels), 1, squeeze=False, height_ratios=tall)[:, 0]
        for axes, (dataset, jobs) in zip(columns, panels.items(), strict=True):
            total = sum(job["seconds"] for job in jobs)
            unit, length = _time_unit(max(job["seconds"] for job in jobs))
            longest = max(job["seconds"] for job in jobs) / length
            axes.set(
                title=f"{dataset}: {_duration(total)} of wall-clock time in all",
                xlabel=f"wall-clock time ({unit})",
                xlim=(0, 1.45 * longest),
                ylim=(len(jobs) - 0.4, -0.6),
            )
            axes.barh(range(len(jobs)), [job["seconds"] / length for job in jobs], color=BLUE)
            axes.set_yticks(range(len(jobs)), [job["label"] for job in jobs])
            axes.tick_params(axis="y", length=0)
            for place, job in enumerate(jobs):
                text = f"  {_duration(job['seconds'])}"
                if job["cpu_seconds"] is not None:
                    text += f", CPU {_duration(job['cpu_seconds'])}"
                if job["peak_memory_mb"] is not None:
                    text += f", {job['peak_memory_mb'] / 1000:.1f} GB"
                for part in ("CPU", "GPU"):
                    if (joules := job[f"{part.lower()}_joules"]) is not None:
                        text += f", {part} {_energy(joules)}"
                axes.text(job["seconds"] / length, place, text, va="center", fontsize=7)
        save(figure, path)


def _time_unit(seconds: float) -> tuple[str, int]:
    """The unit that fits a time, and its length in seconds."""
    return next(
        (name, length)
        for name, length in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if seconds >= 2 * length or length == 1
    )


def _energy(joules: float) -> str:
    unit, length = next(
        (name, length)
        for name, length in (("kWh", 3.6e6), ("Wh", 3.6e3), ("J", 1))
        if joules >= 2 * length or length == 1
    )
    return f"{joules / length:.1f} {unit}"


def _duration(seconds: float) -> str:
    unit, length = _time_unit(seconds)
    short = {"hours": "h", "minutes": "min", "seconds": "s"}[unit]
    return f"{seconds / length:.1f} {short}"
