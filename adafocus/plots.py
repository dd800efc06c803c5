"""All figures, drawn from plain data.

Colours are those of Okabe and Ito, told apart by colour-blind readers too; markers and line styles
differ as well, so that a print in grey says the same. The same data give the same file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from adafocus.files import whole

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
YELLOW = "#F0E442"
SERIES = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": VERMILLION, "marker": "s", "linestyle": "--"},
    {"color": GREEN, "marker": "^", "linestyle": "-."},
    {"color": PURPLE, "marker": "D", "linestyle": ":"},
)
BASELINES = {
    "oracle": ("true position", {"color": GREEN, "linestyle": "--"}),
    "random": ("random patches", {"color": VERMILLION, "linestyle": "-."}),
    "centre": ("centre patch", {"color": PURPLE, "linestyle": (0, (5, 2, 1, 2, 1, 2))}),
    "glancer": ("glancer alone", {"color": GREY, "linestyle": ":"}),
}
"""Label and line of each baseline."""
METRICS = {"top1": "top-1", "top5": "top-5", "mAP": "mAP"}
STYLE = {
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.titlesize": 12,
    "font.size": 9,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    # Otherwise the names inside an SVG are drawn at random.
    "svg.hashsalt": "adafocus",
}


# --- training ---------------------------------------------------------------------------------


def training_curves(history: Sequence[Mapping[str, float]], path: Path, title: str) -> None:
    """Loss, learning rates and validation metrics by epoch; in stage 2 reward and entropy too.

    Args:
        history: the rows of ``*.metrics.csv``, one per epoch.
    """
    columns = list(history[0])
    panels = {
        "Loss": ("loss", [name for name in columns if name.endswith("loss")]),
        "Validation": ("accuracy (%)", [name for name in columns if name.startswith("val_")]),
        "Learning rate": ("rate", [name for name in columns if name.startswith("learning_rate_")]),
        "Reward": ("gain in probability of the truth", ["reward"]),
        "Entropy of the policy": ("entropy (nats)", ["entropy"]),
    }
    panels = {name: panel for name, panel in panels.items() if set(panel[1]) <= set(columns)}
    epochs = [row["epoch"] for row in history]
    with matplotlib.rc_context(STYLE):
        rows = math.ceil(len(panels) / 3)
        figure = Figure(figsize=(9.6, 0.5 + 2.6 * rows), layout="constrained")
        figure.suptitle(title)
        for place, (name, (unit, series)) in enumerate(panels.items(), start=1):
            axes = figure.add_subplot(rows, 3, place)
            axes.set(title=name, xlabel="epoch", ylabel=unit)
            for column, look in zip(series, SERIES, strict=False):
                values = [row[column] for row in history]
                every = max(1, len(values) // 10)
                axes.plot(epochs, values, **look, markevery=every, label=_series_label(column))
            _count_on_x(axes, len(epochs))
            if name == "Learning rate":
                axes.set_ylim(bottom=0)
                axes.ticklabel_format(axis="y", scilimits=(-2, 3))
            if len(series) > 1:
                axes.legend()
        _save(figure, path)


def _count_on_x(axes: Axes, last: int) -> None:
    """Whole numbers from 1 to ``last`` along the x axis."""
    room = 0.2 + 0.03 * last
    axes.set_xlim(1 - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _series_label(column: str) -> str:
    if column.startswith("val_"):
        return METRICS[column.removeprefix("val_")]
    if column == "loss":
        return "total"
    return column.removeprefix("learning_rate_").removesuffix("_loss")


# --- evaluation -------------------------------------------------------------------------------


def step_curve(
    metrics_per_step: Sequence[Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, float]],
    metric: str,
    path: Path,
    title: str,
) -> None:
    """Accuracy of the running prediction after each step, with the baselines as lines.

    Args:
        metrics_per_step: as in the result JSON.
        baselines: as in the result JSON, after the last step.
        metric: which one to draw.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel="step", ylabel=f"{METRICS[metric]} (%)")
        values = [row[metric] for row in metrics_per_step]
        axes.plot(range(1, len(values) + 1), values, **SERIES[0], label="AdaFocus")
        _count_on_x(axes, len(values))
        for name, (label, look) in BASELINES.items():
            if name in baselines:
                axes.axhline(baselines[name][metric], **look, label=f"{label}, last step")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        _save(figure, path)


class SheetClip(NamedTuple):
    """One row of a contact sheet."""

    frames: np.ndarray
    """uint8 (T, 3, H, W)"""
    corners: np.ndarray
    """(T, 2), top and left of each patch in pixels"""
    truth: str | None
    """None where it is not known"""
    prediction: str
    right: bool
    probability: float
    """of the prediction"""


def contact_sheet(
    clips: Sequence[SheetClip], patch_size: int, path: Path, title: str, columns: int = 8
) -> None:
    """Clips as rows and frames as columns, each frame with its patch as a box.

    Right predictions are green, solid and ticked; wrong ones red, dashed and crossed; where the
    truth is not known, blue.
    """
    time, _, height, width = clips[0].frames.shape
    shown = np.linspace(0, time - 1, min(time, columns)).round().astype(int)
    # One frame is one inch wide and one unit of x; one set of axes holds them all.
    tall, gap, line, margin = height / width, 0.03, 0.25, 0.1
    across = len(shown) + gap * (len(shown) - 1)
    down = 0.3 + len(clips) * (line + tall)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(across + 2 * margin, down + 2 * margin), dpi=100)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.text(across / 2, 0, title, ha="center", va="top", fontsize=12)
        for row, clip in enumerate(clips):
            y = down - (len(clips) - row) * (line + tall) + line
            text = f"prediction: {_short(clip.prediction)} ({clip.probability:.0%})"
            if clip.truth is None:
                colour, dashes = BLUE, "-"
            else:
                colour, mark, dashes = (GREEN, "✓", "-") if clip.right else (VERMILLION, "✗", "--")
                text = f"{mark} truth: {_short(clip.truth)}, {text}"
            axes.text(0, y - 0.05, text, color=colour, weight="bold")
            for column, step in enumerate(shown):
                x = column * (1 + gap)
                picture = clip.frames[step].transpose(1, 2, 0)
                axes.imshow(picture, extent=(x, x + 1, y + tall, y))
                top, left = clip.corners[step] / width
                for edge, style, thickness in (("white", "-", 3.2), (colour, dashes, 1.8)):
                    box = Rectangle(
                        (x + left, y + top),
                        patch_size / width,
                        patch_size / width,
                        fill=False,
                        edgecolor=edge,
                        linestyle=style,
                        linewidth=thickness,
                    )
                    axes.add_patch(box)
        axes.set(xlim=(-margin, across + margin), ylim=(down + margin, -margin))
        _save(figure, path)


def accuracy_against_gflops(
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
) -> None:
    """Our accuracy and the published ones by cost, one panel per data set.

    Args:
        rows: those of the summary; of each patch size the latest stage is drawn.
        figures: published figures by data set: ``model``, ``published`` and ``published_gflops``.
    """
    latest: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["stage"]):
        latest.setdefault(row["dataset"], {})[row["patch_size"]] = row
    with matplotlib.rc_context(STYLE):
        columns = min(len(latest), 3)
        lines = math.ceil(len(latest) / columns)
        figure = Figure(figsize=(max(5.4, 4.0 * columns), 3.6 * lines), layout="constrained")
        for place, (dataset, by_size) in enumerate(sorted(latest.items()), start=1):
            axes = figure.add_subplot(lines, columns, place)
            drawn = [by_size[size] for size in sorted(by_size)]
            _draw_data_set(axes, dataset, drawn, figures.get(dataset, ()))
        _save(figure, path)


def _draw_data_set(
    axes: Axes,
    dataset: str,
    rows: Sequence[Mapping[str, Any]],
    figures: Sequence[Mapping[str, Any]],
) -> None:
    metric = METRICS[rows[0]["metric"]]
    axes.set(title=dataset, xlabel="GFLOPs per video", ylabel=f"{metric} (%)")
    gflops = [row["gflops"] for row in rows]
    measured = [row["adafocus"] for row in rows]
    axes.plot(gflops, measured, **SERIES[0], label="AdaFocus, measured")
    for row in rows:
        axes.annotate(
            f"{row['patch_size']} px",
            (row["gflops"], row["adafocus"]),
            (6, -10),
            textcoords="offset points",
        )
    drawn = {"oracle": "^", "random": "v"}
    for name, marker in drawn.items():
        label, look = BASELINES[name]
        values = [row[name] for row in rows]
        if None not in values:
            axes.plot(gflops, values, **look, marker=marker, fillstyle="none", label=label)
    costs = list(gflops)
    families = {"AdaFocus": "*", "AdaFocus+": "P"}
    for figure in figures:
        costs.append(figure["published_gflops"])
        place = (figure["published_gflops"], figure["published"])
        if figure["model"] not in families:
            axes.plot(*place, color=GREY, marker="x", linestyle="none")
            axes.annotate(figure["model"], place, (5, 3), textcoords="offset points", color=GREY)
    for model, marker in families.items():
        points = [
            (figure["published_gflops"], figure["published"])
            for figure in figures
            if figure["model"] == model
        ]
        if points:
            look = {"color": "black", "linestyle": "none", "markersize": 9, "fillstyle": "none"}
            label = f"{model}, published"
            axes.plot(*zip(*points, strict=True), **look, marker=marker, label=label)
    axes.set_xlim(0.85 * min(costs), 1.15 * max(costs))
    axes.margins(y=0.15)
    axes.legend()


# --- files ------------------------------------------------------------------------------------


def _short(name: str) -> str:
    return shorten(name, 40, placeholder="…")


def _save(figure: Figure, path: Path) -> None:
    with whole(path) as aside:
        if path.suffix == ".svg":
            figure.savefig(aside, metadata={"Date": None})
        else:
            # A palette holds a sheet of photographs to a third of its size.
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
            image = Image.fromarray(pixels).quantize(192, Image.Quantize.FASTOCTREE)
            image.save(aside, optimize=True)
