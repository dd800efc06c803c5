"""What all figures share: colours, the look of lines, the way to a file.

Colours are those of Okabe and Ito, told apart by colour-blind readers too; markers and line styles
differ as well, so that a print in grey says the same. The same data give the same file.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import Any
from unicodedata import category

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.typing import RcKeyType
from PIL import Image

from adafocus.figures.fonts import legible
from adafocus.machine.files import atomic

BLUE, VERMILLION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
YELLOW, ORANGE, SKY = "#F0E442", "#E69F00", "#56B4E9"
DrawStyle = dict[str, Any]
"""How a line, a text or markers are drawn, as matplotlib names it."""
SERIES: tuple[DrawStyle, ...] = (
    {"color": BLUE, "marker": "o", "linestyle": "-"},
    {"color": VERMILLION, "marker": "s", "linestyle": "--"},
    {"color": GREEN, "marker": "^", "linestyle": "-."},
    {"color": PURPLE, "marker": "D", "linestyle": ":"},
)
BASELINES: dict[str, tuple[str, DrawStyle]] = {
    "oracle": ("true position", {"color": GREEN, "linestyle": "--"}),
    "random": ("random patches", {"color": VERMILLION, "linestyle": "-."}),
    "centre": ("centre patch", {"color": PURPLE, "linestyle": (0, (5, 2, 1, 2, 1, 2))}),
    "glancer": ("glancer alone", {"color": GREY, "linestyle": ":"}),
}
"""Label and line of each baseline."""
BLANK: DrawStyle = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
"""Behind names, so that they are legible where a line runs through them."""
METRICS = {"top1": "top-1", "top5": "top-5", "mAP": "mAP"}
STYLE: dict[RcKeyType, Any] = {
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


def count_on_x(axes: Axes, last: int) -> None:
    """Whole numbers from 1 to ``last`` along the x axis."""
    room = 0.2 + 0.03 * last
    axes.set_xlim(1 - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def short(name: str, most: int = 40) -> str:
    """A name on one line of at most so many letters, with no sign that cannot be drawn."""
    words = " ".join(name.split())
    drawn = "".join(
        "\ufffd" if category(sign) in ("Cc", "Cs", "Co", "Cn") else sign for sign in words
    )
    fitting = shorten(drawn, most, placeholder="…")
    # Some scripts put no spaces between words.
    return fitting if len(fitting) > most // 2 else drawn[: most - 1] + "…" * (len(drawn) >= most)


def save_note(text: str, path: Path) -> None:
    """Draws a figure that says why there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 0.8))
        figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12)
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    with atomic(path) as aside, legible(figure):
        if path.suffix == ".svg":
            figure.savefig(aside, metadata={"Date": None}, bbox_inches="tight")
        else:
            # A palette holds a sheet of photographs to a third of its size.
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
            image = Image.fromarray(pixels).quantize(192, Image.Quantize.FASTOCTREE)
            image.save(aside, "PNG", optimize=True)
