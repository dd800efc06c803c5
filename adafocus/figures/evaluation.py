"""Of one model on the validation videos, for who asks where it looks and what it mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from adafocus.evaluation.predictions import Predictions, coverage, grid_shares, without_skipped
from adafocus.figures.style import (
    BASELINES,
    BLUE,
    GREEN,
    METRICS,
    SERIES,
    STYLE,
    VERMILLION,
    DrawStyle,
    count_on_x,
    save,
    save_note,
    short,
)

HEAT = "Blues"
"""Colours of all maps: the lightest is zero, and darker is more, in grey too."""
MOST_CLASSES = 4
"""So many of the most and of the least improved classes have a map."""
FULL_CONFUSION = 20
"""Up to so many classes a confusion matrix names each; of more it lists the most frequent pairs."""
MOST_PAIRS = 12
"""So many of them."""


def step_curve(
    metrics_per_step: Sequence[Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, float]],
    metric: str,
    path: Path,
    title: str,
    model: str = "AdaFocus",
) -> None:
    """Accuracy of the running prediction after each step, with the baselines as lines.

    Args:
        metrics_per_step: as in the result JSON.
        baselines: as in the result JSON, after the last step.
        metric: which one to draw.
        model: what it is called.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        axes.set(title=title, xlabel="step", ylabel=f"{METRICS[metric]} (%)")
        values = [row[metric] for row in metrics_per_step]
        axes.plot(range(1, len(values) + 1), values, **SERIES[0], label=model)
        count_on_x(axes, len(values))
        for name, (label, look) in BASELINES.items():
            if name in baselines:
                axes.axhline(baselines[name][metric], **look, label=f"{label}, last step")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        save(figure, path)


class SheetClip(NamedTuple):
    """One row of a contact sheet."""

    frames: np.ndarray
    """uint8 (T, 3, H, W)"""
    boxes: np.ndarray
    """(T, 4), top, left, height and width of each patch in pixels, -1 for frames that have none"""
    truth: str | None
    """None where it is not known"""
    prediction: str
    right: bool
    probability: float
    """of the prediction"""


def contact_sheet(clips: Sequence[SheetClip], path: Path, title: str, columns: int = 8) -> None:
    """Clips as rows and frames as columns, each frame with its patch as a box.

    Right predictions are green, solid and ticked; wrong ones red, dashed and crossed; where the
    truth is not known, blue. Frames without a patch are pale. Without clips the sheet says so.
    """
    if not clips:
        return save_note(f"{title}: none", path)
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
            text = f"prediction: {short(clip.prediction)} ({clip.probability:.0%})"
            if clip.truth is None:
                colour, dashes = BLUE, "-"
            else:
                colour, mark, dashes = (GREEN, "✓", "-") if clip.right else (VERMILLION, "✗", "--")
                text = f"{mark} truth: {short(clip.truth)}, {text}"
            axes.text(0, y - 0.05, text, color=colour, weight="bold")
            for column, step in enumerate(shown):
                x = column * (1 + gap)
                picture = clip.frames[step].transpose(1, 2, 0)
                axes.imshow(picture, extent=(x, x + 1, y + tall, y))
                if (clip.boxes[step] < 0).all():
                    veil = Rectangle((x, y), 1, tall, facecolor="white", alpha=0.6)
                    axes.add_patch(veil)
                    continue
                top, left, high, wide = clip.boxes[step].astype(float) / width
                for edge, style, thickness in (("white", "-", 3.2), (colour, dashes, 1.8)):
                    box = Rectangle(
                        (x + left, y + top),
                        wide,
                        high,
                        fill=False,
                        edgecolor=edge,
                        linestyle=style,
                        linewidth=thickness,
                    )
                    axes.add_patch(box)
        axes.set(xlim=(-margin, across + margin), ylim=(down + margin, -margin))
        save(figure, path)


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
        patch_size: what the focuser sees, in pixels; boxes may have other sides.
        frame_size: in pixels.
        grid: cells along each side in which to count corners.
        metric: that of the accuracy by class.
        by_class: whether to map the most and the least improved classes too.
    """
    boxes = predictions.boxes_of(patch_size)
    margin = frame_size - int(without_skipped(boxes)[:, 2:].min(initial=patch_size))
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
        bar: Axes | None
        axes, bar = box(0.75, 0.75, 3.2, 3.2), box(4.05, 0.75, 0.14, 3.2)
        axes.set_title("Corners of patches")
        _draw_grid(axes, bar, grid_shares(boxes, margin, grid), margin)
        axes, bar = box(5.55, 0.75, 3.2, 3.2), box(8.85, 0.75, 0.14, 3.2)
        axes.set(title="What patches cover", ylabel="y (px)")
        covered = coverage(boxes, frame_size)
        _draw_coverage(axes, bar, covered, covered.max())
        maps = {
            k: coverage(boxes[predictions.labels[:, k]], frame_size)
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
        save(figure, path)


def _draw_grid(axes: Axes, bar: Axes, shares: np.ndarray, margin: int) -> None:
    grid = len(shares)
    image = axes.imshow(shares, cmap=HEAT, vmin=0, interpolation="none")
    axes.figure.colorbar(image, cax=bar, label="share of patches (%)")
    for (row, column), share in np.ndenumerate(shares):
        if grid <= 8 and share >= 0.05:
            dark = share > 0.55 * shares.max()
            text = f"{share:.0f}" if share >= 9.95 else f"{share:.1f}"
            colour = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    edges = np.arange(grid + 1)
    pixels = edges * (margin + 1) // grid
    axes.set_xticks(edges - 0.5, pixels)
    axes.set_yticks(edges - 0.5, pixels)
    axes.set(xlabel="left edge of the patch (px)", ylabel="top edge of the patch (px)")


def _draw_coverage(axes: Axes, bar: Axes | None, covered: np.ndarray, most: float) -> None:
    size = len(covered)
    image = axes.imshow(
        covered, HEAT, vmin=0, vmax=most, interpolation="none", extent=(0, size, size, 0)
    )
    axes.set(xlabel="x (px)", xticks=[0, size // 2, size], yticks=[0, size // 2, size])
    if bar:
        axes.figure.colorbar(image, cax=bar, label="share of patches (%)")


def _class_gain(predictions: Predictions, k: int) -> str:
    name = str(predictions.classes[k])
    # A number alone would not say what it is.
    name = "\n".join(wrap(short(name, 56), 28)) if len(name) > 3 else f"class {short(name)}"
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
            numbers = [str(k) for k in range(classes)]
            matrix.set_xticks(
                range(classes), numbers if numbered else [short(name) for name in names]
            )
            matrix.set_yticks(range(classes), [short(name) for name in names])
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.5:
                    look: DrawStyle = {"color": "white" if share > 55 else "black", "fontsize": 7}
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
        save(figure, path)


def _draw_confused(
    axes: Axes, counts: np.ndarray, of_truth: np.ndarray, names: Sequence[str]
) -> None:
    """The pairs of classes that are confused most often, as bars."""
    missed = counts * (1 - np.eye(len(counts)))
    worst = np.argsort(-missed, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [np.unravel_index(place, missed.shape) for place in worst if missed.flat[place] > 0]
    values = [float(missed[pair]) for pair in pairs]
    axes.set(title="Confused most often", xlabel="videos", ylim=(max(len(pairs), 1) - 0.4, -0.6))
    axes.barh(range(len(pairs)), values, color=BLUE, height=0.6)
    for place, ((truth, _), value) in enumerate(zip(pairs, values, strict=True)):
        axes.text(value, place, f" {value:.3g} of {of_truth[truth]:.3g}", va="center", fontsize=7)
    labels = [f"{short(names[truth], 44)}\n→ {short(names[other], 44)}" for truth, other in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.5 * max(values, default=1))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
