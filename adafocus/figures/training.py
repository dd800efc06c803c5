"""Of how a training went, for who tunes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adafocus.figures.style import (
    BLUE,
    GREEN,
    GREY,
    METRICS,
    PURPLE,
    SERIES,
    STYLE,
    VERMILLION,
    DrawStyle,
    count_on_x,
    save,
)


def training_curves(history: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Loss, learning rates and validation metrics by epoch; in stage 2 what tells how PPO fares.

    Args:
        history: the rows of ``*.metrics.csv``, one per epoch; those of epochs without a validation
            lack its metrics.
    """
    fullest = max(history, key=len)
    columns = list(fullest)
    panels = {
        "Loss": ("loss", [name for name in columns if name.endswith("loss")]),
        "Validation": ("accuracy (%)", [name for name in columns if name.startswith("val_")]),
        "Learning rate": ("rate", [name for name in columns if name.startswith("learning_rate_")]),
        "Reward": ("gain in probability of the truth", ["reward"]),
        "Entropy of the policy": ("entropy (nats)", ["entropy"]),
        "Change of the policy": ("KL divergence (nats)", ["approximate_kl"]),
        "Clipped ratios": ("share of actions", ["clipped_share"]),
        "Value": ("explained variance", ["explained_variance"]),
        "Likeliest places": ("distinct cells of the grid", ["distinct_cells"]),
        "Looks": ("share of frames", ["looked"]),
    }
    panels = {name: panel for name, panel in panels.items() if set(panel[1]) <= set(columns)}
    with matplotlib.rc_context(STYLE):
        rows = math.ceil(len(panels) / 3)
        figure = Figure(figsize=(9.6, 0.5 + 2.6 * rows), layout="constrained")
        figure.suptitle(title)
        for place, (name, (unit, series)) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, 3, place)
            axes.set(title=name, xlabel="epoch", ylabel=unit)
            for column, look in zip(series, SERIES, strict=False):
                known = [row for row in history if column in row]
                epochs, values = ([row[key] for row in known] for key in ("epoch", column))
                every = max(1, len(values) // 10)
                axes.plot(epochs, values, **look, markevery=every, label=_series_label(column))
            count_on_x(axes, len(history))
            if name == "Learning rate":
                axes.set_ylim(bottom=0)
                axes.ticklabel_format(axis="y", scilimits=(-2, 3))
            if len(series) > 1:
                # Below, as curves may run anywhere within.
                axes.legend(
                    loc="upper center",
                    bbox_to_anchor=(0.5, -0.2),
                    columnspacing=1,
                    handlelength=2.2,
                    ncols=len(series),
                )
        save(figure, path)


def _series_label(column: str) -> str:
    if column.startswith("val_"):
        return METRICS[column.removeprefix("val_")]
    if column == "loss":
        return "total"
    return column.removeprefix("learning_rate_").removesuffix("_loss")


def swept_numbers(sweep: Mapping[str, Any], path: Path, title: str) -> None:
    """Accuracy of a sweep's trials against each number, and how much each of them matters.

    Args:
        sweep: its result, see `adafocus.sweeps`.
    """
    trials = [trial for trial in sweep["trials"] if trial["best"] is not None]
    labels = {name: _label_of(name) for name in sweep["numbers"]}
    best, own = sweep["best"]["trial"], sweep["recipe"]["trial"]
    groups: tuple[tuple[str, DrawStyle, str], ...] = (
        ("all epochs", {"color": BLUE, "marker": "o"}, "finished"),
        ("stopped early", {"facecolor": "none", "edgecolor": GREY, "marker": "o"}, "stopped early"),
        ("failed later", {"color": VERMILLION, "marker": "x"}, "failed"),
    )
    panels = len(labels) + (len(labels) > 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.1 * max(panels, 2), 3.6), layout="constrained")
        figure.suptitle(title)
        for place, name in enumerate(labels, start=1):
            axes = figure.add_subplot(1, panels, place)
            unit = f"best {METRICS[sweep['metric']]} (%)"
            scale = "log" if sweep["numbers"][name]["log"] else "linear"
            axes.set(xscale=scale, xlabel=labels[name], ylabel=unit)

            def draw(
                chosen: Sequence[Any], look: DrawStyle, axes: Axes = axes, name: str = name
            ) -> None:
                values = [trial["values"][name] for trial in chosen]
                axes.scatter(values, [trial["best"] for trial in chosen], **look)

            for label, look, status in groups:
                if chosen := [trial for trial in trials if trial["status"] == status]:
                    draw(chosen, {"s": 22, "label": label, **look})
            ring: DrawStyle = {"s": 110, "facecolor": "none"}
            marked: tuple[tuple[str, int, DrawStyle], ...] = (
                ("the recipe's", own, {"edgecolor": PURPLE, "linestyle": ":", "marker": "s"}),
                ("best", best, {"edgecolor": GREEN, "marker": "o"}),
            )
            for label, number, look in marked:
                chosen = [trial for trial in trials if trial["trial"] == number]
                draw(chosen, ring | look | {"label": label})
            if place == 1:
                handles = axes.get_legend_handles_labels()
                figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))
        if len(labels) > 1:
            axes = figure.add_subplot(1, panels, panels)
            axes.set(title="Importance", xlabel="share of what they decide (%)", xlim=(0, 100))
            names = list(labels)[::-1]
            shares = [100 * sweep["importance"][name] for name in names]
            axes.barh([name.rpartition(".")[2] for name in names], shares, color=BLUE)
            axes.grid(axis="y", visible=False)
        save(figure, path)


def _label_of(number: str) -> str:
    """What an axis calls a number of the recipe."""
    section, _, name = number.rpartition(".")
    if section.endswith(".learning_rates"):
        return f"learning rate of the {name}"
    return number.split(".", 2)[2] if number.startswith("stages.") else number
