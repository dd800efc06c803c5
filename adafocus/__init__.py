"""AdaFocus: accurate, cheap video recognition by looking hard only where it matters.

model = adafocus.load("results/checkpoints/actnet_128_stage3.safetensors")
out = model(frames)
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adafocus.deploy.predict import Prediction, Predictor
    from adafocus.model.adafocus import AdaFocus
    from adafocus.model.checkpoint import load
    from adafocus.model.uni import UniAdaFocus
    from adafocus.model.video_model import Output
    from adafocus.recipe import Recipe, load_recipe

__version__ = "0.1.0"

# Before torch is loaded: threads that wait would else spin, and take a core from the process that
# loads clips or from another job.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "AdaFocus": "adafocus.model.adafocus",
    "Output": "adafocus.model.video_model",
    "UniAdaFocus": "adafocus.model.uni",
    "Prediction": "adafocus.deploy.predict",
    "Predictor": "adafocus.deploy.predict",
    "load": "adafocus.model.checkpoint",
    "Recipe": "adafocus.recipe",
    "load_recipe": "adafocus.recipe",
}
__all__ = [
    "AdaFocus",
    "Output",
    "Prediction",
    "Predictor",
    "Recipe",
    "UniAdaFocus",
    "load",
    "load_recipe",
]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that reading a recipe does not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'adafocus' has no attribute {name!r}")
