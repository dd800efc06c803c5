"""All figures, drawn from plain data.

Colours are those of Okabe and Ito, told apart by colour-blind readers too; markers and line styles
differ as well, so that a print in grey says the same. The same data give the same file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from adafocus.evaluation.predictions import Predictions, coverage, grid_shares
from adafocus.files import whole

if TYPE_CHECKING:
    import pandas as pd

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
HEAT = "Blues"
"""Colours of all maps: the lightest is zero, and darker is more, in grey too."""
MOST_CLASSES = 4
"""So many of the most and of the least improved classes have a map."""
FULL_CONFUSION = 20
"""Up to so many classes a confusion matrix names each; of more it lists the most frequent pairs."""
MOST_PAIRS = 12
"""So many of them."""
BLANK = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
"""Behind names, so that they are legible where a line runs through them."""
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
    """Loss, learning rates and validation metrics by epoch; in stage 2 what tells how PPO fares.

    Args:
        history: the rows of ``*.metrics.csv``, one per epoch; those of epochs without a validation
            lack its metrics.
    """
    columns = list(max(history, key=len))
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
            _count_on_x(axes, len(history))
            if name == "Learning rate":
                axes.set_ylim(bottom=0)
                axes.ticklabel_format(axis="y", scilimits=(-2, 3))
            if len(series) > 1:
                # Below, as curves may run anywhere within.
                look = {"columnspacing": 1, "handlelength": 2.2, "ncols": len(series)}
                axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), **look)
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


def swept_rates(sweep: Mapping[str, Any], path: Path, title: str) -> None:
    """Accuracy of a sweep's trials against the rate of each part, and how much each rate matters.

    Args:
        sweep: its result, see `adafocus.sweeps`.
    """
    trials = [trial for trial in sweep["trials"] if trial["best"] is not None]
    parts = list(sweep["best"]["learning_rates"])
    best, own = sweep["best"]["trial"], sweep["recipe"]["trial"]
    groups = (
        ("all epochs", {"color": BLUE, "marker": "o"}, "finished"),
        ("stopped early", {"facecolor": "none", "edgecolor": GREY, "marker": "o"}, "stopped early"),
        ("failed later", {"color": VERMILLION, "marker": "x"}, "failed"),
    )
    panels = len(parts) + (len(parts) > 1)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.1 * max(panels, 2), 3.6), layout="constrained")
        figure.suptitle(title)
        for place, part in enumerate(parts, start=1):
            axes = figure.add_subplot(1, panels, place)
            unit = f"best {METRICS[sweep['metric']]} (%)"
            axes.set(xscale="log", xlabel=f"learning rate of the {part}", ylabel=unit)

            def draw(chosen: Sequence[Any], look: dict[str, Any], axes=axes, part=part) -> None:
                rates = [trial["learning_rates"][part] for trial in chosen]
                axes.scatter(rates, [trial["best"] for trial in chosen], **look)

            for label, look, status in groups:
                if chosen := [trial for trial in trials if trial["status"] == status]:
                    draw(chosen, {"s": 22, "label": label, **look})
            ring = {"s": 110, "facecolor": "none"}
            marked = (
                ("the recipe's", own, {"edgecolor": PURPLE, "linestyle": ":", "marker": "s"}),
                ("best", best, {"edgecolor": GREEN, "marker": "o"}),
            )
            for label, number, look in marked:
                chosen = [trial for trial in trials if trial["trial"] == number]
                draw(chosen, ring | look | {"label": label})
            if place == 1:
                handles = axes.get_legend_handles_labels()
                figure.legend(*handles, loc="outside lower center", ncols=len(handles[0]))
        if len(parts) > 1:
            axes = figure.add_subplot(1, panels, panels)
            axes.set(title="Importance", xlabel="share of what the rates decide (%)", xlim=(0, 100))
            shares = [100 * sweep["importance"][part] for part in parts[::-1]]
            axes.barh(parts[::-1], shares, color=BLUE)
            axes.grid(axis="y", visible=False)
        _save(figure, path)


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
    """(T, 2), top and left of each patch in pixels, -1 for frames that have none"""
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
    truth is not known, blue. Frames without a patch are pale. Without clips the sheet says so.
    """
    if not clips:
        return _save_note(f"{title}: none", path)
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
                if (clip.corners[step] < 0).all():
                    veil = Rectangle((x, y), 1, tall, facecolor="white", alpha=0.6)
                    axes.add_patch(veil)
                    continue
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


def patch_maps(
    predictions: Predictions,
    patch_size: int,
    frame_size: int,
    grid: int,
    metric: str,
    path: Path,
    title: str,
    by_class: bool,
) -> None:
    """Where the patches lie over all videos and steps.

    Args:
        patch_size: in pixels.
        frame_size: in pixels.
        grid: cells along each side in which to count corners.
        metric: that of the accuracy by class.
        by_class: whether to map the most and the least improved classes too.
    """
    margin = frame_size - patch_size
    gain = predictions.gain
    order = np.argsort(gain, kind="stable")[: np.isfinite(gain).sum()]
    shown = min(MOST_CLASSES, len(order) // 2) if by_class else 0
    groups = {"Most improved": order[::-1][:shown], "Least improved": order[:shown]}
    # Placed by hand, in inches from the top left: automatic layouts waste the room around squares.
    wide, top, row = 9.6, 4.6, 3.15
    tall = top + row * len(groups) * bool(shown)
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(wide, tall))

        def box(x: float, y: float, width: float, height: float) -> Axes:
            across, up = width / wide, height / tall
            return figure.add_axes((x / wide, 1 - y / tall - up, across, up))

        figure.text(0.5, 1 - 0.25 / tall, title, ha="center", va="center", fontsize=12)
        axes, bar = box(0.75, 0.75, 3.2, 3.2), box(4.05, 0.75, 0.14, 3.2)
        axes.set_title("Corners of patches")
        _draw_grid(axes, bar, grid_shares(predictions.corners, margin, grid), margin)
        axes, bar = box(5.55, 0.75, 3.2, 3.2), box(8.85, 0.75, 0.14, 3.2)
        axes.set(title="What patches cover", ylabel="y (px)")
        covered = coverage(predictions.corners, patch_size, frame_size)
        _draw_coverage(axes, bar, covered, covered.max())
        maps = {
            k: coverage(predictions.corners[predictions.labels[:, k]], patch_size, frame_size)
            for classes in groups.values()
            for k in classes
        }
        most = max((found.max() for found in maps.values()), default=0)
        for line, (group, classes) in enumerate(groups.items()):
            y = top + line * row
            if shown:
                heading = f"{group} over random patches ({METRICS[metric]})"
                figure.text(
                    0.5, 1 - (y + 0.15) / tall, heading, ha="center", va="center", weight="bold"
                )
            for column, k in enumerate(classes):
                axes = box(0.75 + 2.08 * column, y + 0.85, 1.76, 1.76)
                bar = box(8.85, y + 0.85, 0.14, 1.76) if column == 0 else None
                _draw_coverage(axes, bar, maps[k], most)
                axes.set_title(_class_gain(predictions, k), fontsize=8, weight="normal")
                if column == 0:
                    axes.set_ylabel("y (px)")
                else:
                    axes.set_yticklabels([])
        _save(figure, path)


def _draw_grid(axes: Axes, bar: Axes, shares: np.ndarray, margin: int) -> None:
    grid = len(shares)
    image = axes.imshow(shares, cmap=HEAT, vmin=0, interpolation="none")
    axes.figure.colorbar(image, cax=bar, label="share of patches (%)")
    for (row, column), share in np.ndenumerate(shares):
        if grid <= 8 and share >= 0.05:
            dark = share > 0.55 * shares.max()
            text = f"{share:.0f}" if share >= 9.95 else f"{share:.1f}"
            look = {"color": "white" if dark else "black", "fontsize": 7}
            axes.text(column, row, text, ha="center", va="center", **look)
    edges = np.arange(grid + 1)
    pixels = edges * (margin + 1) // grid
    axes.set_xticks(edges - 0.5, pixels)
    axes.set_yticks(edges - 0.5, pixels)
    axes.set(xlabel="left edge of the patch (px)", ylabel="top edge of the patch (px)")


def _draw_coverage(axes: Axes, bar: Axes | None, covered: np.ndarray, most: float) -> None:
    size = len(covered)
    look = {"cmap": HEAT, "vmin": 0, "vmax": most, "interpolation": "none"}
    image = axes.imshow(covered, extent=(0, size, size, 0), **look)
    axes.set(xlabel="x (px)", xticks=[0, size // 2, size], yticks=[0, size // 2, size])
    if bar:
        axes.figure.colorbar(image, cax=bar, label="share of patches (%)")


def _class_gain(predictions: Predictions, k: int) -> str:
    name = str(predictions.classes[k])
    # A number alone would not say what it is.
    name = "\n".join(wrap(_short(name, 56), 28)) if len(name) > 3 else f"class {name}"
    before, after = predictions.accuracy_random[k], predictions.accuracy[k]
    return f"{name}\n{after - before:+.1f} points, from {before:.0f} to {after:.0f}%"


def confusion_matrix(predictions: Predictions, path: Path, title: str) -> None:
    """Predicted by true classes; of many classes the pairs that are confused most beside it."""
    counts = predictions.confusion()
    classes = len(counts)
    of_truth = counts.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(counts, of_truth, out=np.zeros_like(counts), where=of_truth > 0)
    names = [str(name) for name in predictions.classes]
    if numbered := max(map(len, names)) > 3:
        names = [f"{k} {name}" for k, name in enumerate(names)]
    few = classes <= FULL_CONFUSION
    with matplotlib.rc_context(STYLE | {"axes.grid": False}):
        if few:
            side = 2.2 + 0.38 * classes
            figure = Figure(figsize=(side + (3 if numbered else 0.9), side), layout="constrained")
            matrix = figure.subplots()
            matrix.set_xticks(range(classes), range(classes) if numbered else names)
            matrix.set_yticks(range(classes), [_short(name) for name in names])
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.5:
                    look = {"color": "white" if share > 55 else "black", "fontsize": 7}
                    matrix.text(column, row, f"{share:.0f}", ha="center", va="center", **look)
        else:
            figure = Figure(figsize=(11, 5.4), layout="constrained")
            matrix, pairs = figure.subplots(1, 2, width_ratios=[1, 0.5])
            _draw_confused(pairs, counts, of_truth[:, 0], names)
        figure.suptitle(title)
        # Of many classes, each is mistaken for many, a little for each.
        norm = Normalize(0, 100) if few else PowerNorm(0.5, 0, 100)
        image = matrix.imshow(shares, cmap=HEAT, norm=norm, interpolation="none")
        bar = figure.colorbar(image, ax=matrix, label="share of the true class (%)", shrink=0.8)
        if not few:
            bar.set_ticks([0, 1, 5, 10, 25, 50, 100])
        number = ", by number" if numbered else ""
        matrix.set(xlabel=f"predicted class{number}", ylabel="true class" + number * (not few))
        _save(figure, path)


def _draw_confused(
    axes: Axes, counts: np.ndarray, of_truth: np.ndarray, names: Sequence[str]
) -> None:
    """The pairs of classes that are confused most often, as bars."""
    missed = counts * (1 - np.eye(len(counts)))
    worst = np.argsort(-missed, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [np.unravel_index(place, missed.shape) for place in worst if missed.flat[place] > 0]
    values = [missed[pair] for pair in pairs]
    axes.set(title="Confused most often", xlabel="videos", ylim=(max(len(pairs), 1) - 0.4, -0.6))
    axes.barh(range(len(pairs)), values, color=BLUE, height=0.6)
    for place, ((truth, _), value) in enumerate(zip(pairs, values, strict=True)):
        axes.text(value, place, f" {value:.3g} of {of_truth[truth]:.3g}", va="center", fontsize=7)
    labels = [f"{_short(names[truth], 44)}\n→ {_short(names[other], 44)}" for truth, other in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.5 * max(values, default=1))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))


# --- results together -------------------------------------------------------------------------


def accuracy_against_gflops(
    rows: Sequence[Mapping[str, Any]],
    figures: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
) -> None:
    """Our accuracy and the published ones by cost, one panel per data set.

    Args:
        rows: those of the summary; of each model the latest stage is drawn, without a budget.
        figures: published figures by data set: ``model``, ``published`` and ``published_gflops``.
    """
    latest: dict[str, dict[tuple[int, float | None], Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["stage"]):
        if row["budget"] is not None:
            continue
        latest.setdefault(row["dataset"], {})[row["patch_size"], row["skip_cost"]] = row
    with matplotlib.rc_context(STYLE):
        columns = min(len(latest), 3)
        lines = math.ceil(len(latest) / columns)
        figure = Figure(figsize=(max(5.4, 4.0 * columns), 4.0 * lines), layout="constrained")
        for place, (dataset, models) in enumerate(sorted(latest.items()), start=1):
            axes = figure.add_subplot(lines, columns, place)
            drawn = sorted(models.values(), key=lambda row: row["patch_size"])
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
    costs = [row["gflops"] for row in rows]
    if skipping := [row for row in rows if row["skip_cost"] is not None]:
        places = ([row[axis] for row in skipping] for axis in ("gflops", "adafocus"))
        look = SERIES[2] | {"linestyle": "none"}
        axes.plot(*places, **look, label="AdaFocus+, measured")
    rows = [row for row in rows if row["skip_cost"] is None]
    gflops = [row["gflops"] for row in rows]
    measured = [row["adafocus"] for row in rows]
    axes.plot(gflops, measured, **SERIES[0], label="AdaFocus, measured")
    for row in rows:
        axes.annotate(
            f"{row['patch_size']} px",
            (row["gflops"], row["adafocus"]),
            (6, -10),
            textcoords="offset points",
            bbox=BLANK,
        )
    drawn = {"oracle": "^", "random": "v"}
    for name, marker in drawn.items():
        label, look = BASELINES[name]
        values = [row[name] for row in rows]
        if None not in values:
            axes.plot(gflops, values, **look, marker=marker, fillstyle="none", label=label)
    costs += _draw_published(axes, figures)
    axes.set_xlim(0.85 * min(costs), 1.15 * max(costs))
    axes.margins(y=0.15)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)


def _draw_published(axes: Axes, figures: Sequence[Mapping[str, Any]]) -> list[float]:
    """Published figures, peers by their names; returns their GFLOPs."""
    families = {"AdaFocus": "*", "AdaFocus+": "P"}
    for figure in figures:
        place = (figure["published_gflops"], figure["published"])
        if figure["model"] not in families:
            axes.plot(*place, color=GREY, marker="x", linestyle="none")
            look = {"textcoords": "offset points", "color": GREY, "bbox": BLANK}
            axes.annotate(figure["model"], place, (5, 3), **look)
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
    return [figure["published_gflops"] for figure in figures]


WAYS = {
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
) -> None:
    """Accuracy against GFLOPs of all ways to spend less, one panel for each patch size.

    Args:
        points: a row for each, see `adafocus.evaluation.curves`.
        figures: published ones: ``model``, ``patch_size``, ``published``, ``published_gflops``.
        metric: of both.
    """
    sizes = sorted(points["patch_size"].unique())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(5.4, 4.0 * len(sizes)), 4.4), layout="constrained")
        figure.suptitle(title)
        panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
        handles = {}
        for axes, size in zip(panels, sizes, strict=True):
            axes.set(title=f"patches of {size} px", xlabel="GFLOPs per video")
            of_size = points[points["patch_size"] == size]
            whole_model = of_size[of_size["skip_cost"].isna() & (of_size["way"] == "all frames")]
            look = {"color": BLUE, "marker": "o", "markersize": 7, "linestyle": "none"}
            axes.plot(whole_model["gflops"], whole_model["accuracy"], **look, label="AdaFocus")
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
            of_others = [row for row in figures if row["patch_size"] in (None, size)]
            _draw_published(axes, of_others)
            found, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        panels[0].set_ylabel(f"{METRICS[metric]} (%)")
        columns = min(2 * len(sizes), 4)
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns)
        _save(figure, path)


def run_times(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Wall-clock time of each job as bars, one panel per data set.

    Args:
        rows: as in ``results/runtimes.csv``, in the order in which to draw them.
    """
    if not rows:
        return _save_note("no run times", path)
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
                axes.text(job["seconds"] / length, place, text, va="center", fontsize=7)
        _save(figure, path)


def _time_unit(seconds: float) -> tuple[str, int]:
    """The unit that fits a time, and its length in seconds."""
    return next(
        (name, length)
        for name, length in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if seconds >= 2 * length or length == 1
    )


def _duration(seconds: float) -> str:
    unit, length = _time_unit(seconds)
    short = {"hours": "h", "minutes": "min", "seconds": "s"}[unit]
    return f"{seconds / length:.1f} {short}"


# --- files ------------------------------------------------------------------------------------


def _short(name: str, most: int = 40) -> str:
    return shorten(name, most, placeholder="…")


def _save_note(text: str, path: Path) -> None:
    """Draws a figure that says why there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 0.8))
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with whole(path) as aside:
        if path.suffix == ".svg":
            figure.savefig(aside, metadata={"Date": None}, bbox_inches="tight")
        else:
            # A palette holds a sheet of photographs to a third of its size.
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
            image = Image.fromarray(pixels).quantize(192, Image.Quantize.FASTOCTREE)
            image.save(aside, optimize=True)
