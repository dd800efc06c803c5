"""All figures, drawn from plain data; each reader's in a file of its own."""

from adafocus.figures.evaluation import (
    SheetClip,
    confusion_matrix,
    contact_sheet,
    patch_maps,
    step_curve,
)
from adafocus.figures.report import accuracy_against_gflops, run_times, ways_to_spend_less
from adafocus.figures.style import METRICS, YELLOW
from adafocus.figures.training import swept_numbers, training_curves

__all__ = [
    "METRICS",
    "YELLOW",
    "SheetClip",
    "accuracy_against_gflops",
    "confusion_matrix",
    "contact_sheet",
    "patch_maps",
    "run_times",
    "step_curve",
    "swept_numbers",
    "training_curves",
    "ways_to_spend_less",
]
