"""Uni-AdaFocus for tests: as published, and small ones for noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from adafocus.model.uni import UniAdaFocus, UniShape, build_uni
from adafocus.recipe import UniRecipe, load_recipe
from adafocus.recipe.model import BackboneRecipe

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
LONG = UniShape(
    candidates=48,
    glanced=16,
    focused=16,
    apart=False,
    frame_size=224,
    glance_size=224,
    patch_size=128,
    smallest=96,
    largest=224,
)
SHORT = replace(LONG, candidates=24, glanced=8, focused=8, apart=True, patch_size=96)
TINY = UniShape(
    candidates=12,
    glanced=4,
    focused=5,
    apart=False,
    frame_size=64,
    glance_size=32,
    patch_size=28,
    smallest=20,
    largest=36,
)
CLASSES = 5


def published(kind: str, patch_size: int | None = None, focused: int | None = None) -> UniAdaFocus:
    """The model for ``long`` or ``short`` videos, with random weights."""
    backbones = load_recipe(RECIPES / "actnet.yaml").model
    shape, classes = (LONG, 200) if kind == "long" else (SHORT, 174)
    shape = replace(shape, patch_size=patch_size or shape.patch_size)
    if focused is not None:
        shape = replace(shape, focused=focused, candidates=3 * focused)
    return build_uni(
        backbones.glancer,
        backbones.focuser,
        classes,
        shape,
        shift=kind == "short",
        once=kind == "short",
        classifier="maxima" if kind == "long" else "average",
    )


def published_recipe(kind: str) -> UniRecipe:
    """What a recipe says of `published`."""
    name = "actnet-uni" if kind == "long" else "sthv1-uni-8"
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    assert isinstance(recipe, UniRecipe)
    return recipe


def tiny(kind: str) -> UniAdaFocus:
    """A small one for ``long`` or ``short`` videos, the same each time."""
    torch.manual_seed(0)
    short = kind == "short"
    return build_uni(
        BackboneRecipe(name="resnet", depth=10, width=0.125, output_stride=4),
        BackboneRecipe(name="resnet", depth=10, width=0.125, output_stride=16),
        CLASSES,
        replace(TINY, apart=short),
        shift=short,
        once=short,
        classifier="average" if short else "maxima",
        hidden=16,
        spatial_hidden=8,
        temporal_hidden=8,
    )


def noise(model: UniAdaFocus, videos: int = 3) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Candidates, and frames to glance at where these are others."""
    shape, size = model.shape, model.shape.frame_size
    frames = torch.randn(videos, shape.candidates, 3, size, size)
    return frames, torch.randn(videos, shape.glanced, 3, size, size) if shape.apart else None
