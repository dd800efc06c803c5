"""A model as its recipe says, of whatever method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from adafocus.model import adafocus, uni
from adafocus.model.video_model import VideoModel

if TYPE_CHECKING:
    from adafocus.recipe import Recipe

BUILDERS: Mapping[str, Callable[[Any, int, bool], VideoModel]] = {
    "adafocus": adafocus.build,
    "uni-adafocus": uni.build,
}
"""By method."""


def build(recipe: Recipe, patch_size: int, with_policy: bool = True) -> VideoModel:
    """A model with random weights.

    Args:
        recipe: the experiment's.
        patch_size: in pixels.
        with_policy: whether it chooses where to look; of `BUILDERS` that make one without.

    Raises:
        RecipeError: where the recipe does not allow the patch size.
    """
    return BUILDERS[recipe.method](recipe, recipe.check_patch_size(patch_size), with_policy)
