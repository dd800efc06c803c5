"""The authors' published checkpoints of Uni-AdaFocus, translated name by name into ours.

A published file holds one flat ``state_dict`` whose names begin with ``module.``, and more beside
it, such as the epoch. A long model's keeps the heads for ImageNet that its backbones came with,
which nothing uses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adafocus.model.backbones import ShiftedConv2d
from adafocus.model.checkpoint import Checkpoint, CheckpointError, list_some
from adafocus.model.published import flat_block, names_of_classes, read_safely
from adafocus.model.uni import LongUniAdaFocus, UniAdaFocus, build

if TYPE_CHECKING:
    from adafocus.recipe import UniRecipe

PREFIX = "module."
UNUSED = ("global_CNN.classifier.", "local_CNN.fc.")
"""Of the long model."""


def import_uni(
    path: Path,
    recipe: UniRecipe,
    patch_size: int | None,
    *,
    class_names: tuple[str, ...] | None = None,
) -> Checkpoint:
    """Reads a published checkpoint of Uni-AdaFocus as one of ours.

    Args:
        path: a file that ``torch.save`` wrote; it is read without executing code.
        recipe: the recipe of the data set that it was trained on.
        patch_size: in pixels; None is an error.
        class_names: in the order of the logits; numbers if not given.

    Raises:
        CheckpointError: naming the file and, as the file does, what is missing or misshapen.
    """
    published = read_published(path)
    if patch_size is None:
        raise CheckpointError(f"{path}: is a whole model: give its patch size")
    names = names_of_classes(path, recipe, class_names)
    with torch.device("meta"):  # which knows names and shapes
        model = build(recipe, recipe.check_patch_size(patch_size))
    (stage,) = recipe.table
    tensors = translate(path, published, model)
    return Checkpoint(tensors, recipe, stage.name, patch_size, names)


def read_published(path: Path) -> dict[str, Tensor]:
    """The weights of a published file by their names without prefix.

    Raises:
        CheckpointError: where it is not such a file, or cannot be read without executing code.
    """
    content = read_safely(path)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or f"{PREFIX}aux_fc.weight" not in state:
        raise CheckpointError(
            f"{path}: not a published checkpoint of Uni-AdaFocus: no {PREFIX}aux_fc.weight is in"
            " its state_dict"
        )
    return {
        name.removeprefix(PREFIX): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def translate(path: Path, published: dict[str, Tensor], model: UniAdaFocus) -> dict[str, Tensor]:
    """Published weights by our names, fit for ``model.load_state_dict``.

    Args:
        path: the file, for errors.
        published: see `read_published`.
        model: of the file's numbers of classes and frames and its size of patches.

    Raises:
        CheckpointError: naming, as the file does, what is missing, misshapen or unknown.
    """
    left = {name for name in published if not name.startswith(UNUSED)}
    tensors: dict[str, Tensor] = {}
    problems = []
    for name, expected in model.state_dict().items():
        keys = published_names(model, name)
        left -= set(keys)
        missing = [key for key in keys if key not in published]
        problems += [f"{key} is missing" for key in missing]
        if missing:
            continue
        given = [published[key] for key in keys]
        # The published temporal policy has convolutions of images of width 1.
        if name.startswith("policy.when.") and given[0].ndim == 4:
            given = [tensor.squeeze(-1) for tensor in given]
        shape = expected.shape[1:] if len(keys) > 1 else expected.shape
        wrong = [(k, t) for k, t in zip(keys, given, strict=True) if t.shape != shape]
        problems += [f"{key} is {tuple(t.shape)}, not {tuple(shape)}" for key, t in wrong]
        if not wrong:
            tensors[name] = torch.stack(given) if len(keys) > 1 else given[0]
    problems += [f"{name} is unknown" for name in left]
    if problems:
        raise CheckpointError(f"{path}: does not fit the model: {list_some(problems)}")
    return tensors


def published_names(model: UniAdaFocus, name: str) -> list[str]:
    """The names, without prefix, under which a published file holds a tensor of ours: one, or one
    for each step's head."""
    module, _, leaf = name.rpartition(".")
    long = isinstance(model, LongUniAdaFocus)
    if isinstance(model.get_submodule(module), ShiftedConv2d):
        name = f"{module}.net.{leaf}"
    part, _, rest = name.partition(".")
    match part, rest.split("."):
        case "glancer", ["others", "where", _]:
            return [f"aux_fc.{leaf}"]
        case "classifier", [("global_heads" | "local_heads") as heads, _]:
            steps = range(len(model.get_parameter(name)))
            kind = heads.removesuffix("_heads")
            return [f"classifier.{kind}_classifiers.{step}.1.{leaf}" for step in steps]
        case "classifier", [mlp, *place]:
            return [f"classifier.{mlp}.layers.{'.'.join(place)}"]
        case "policy", ["where", *place]:
            return [f"spatial_policy.{'.'.join(place)}"]
        case "policy", [_, _, *place]:
            return [f"temporal_policy.Tconv.{'.'.join(place)}"]
    network = "global_CNN" if part == "glancer" else "local_CNN"
    if rest.startswith("head."):
        return [f"{network}_fc.1.{leaf}" if long else f"{network}.new_new_fc.{leaf}"]
    if rest.startswith("others."):
        return [f"{network}.new_fc.{leaf}"]
    layer = rest.removeprefix("trunk.")
    if part == "glancer":
        layer = re.sub(r"^features\.(\d+)\.conv\.(.+)$", flat_block, f"features.{layer}")
    return [f"{network}.{layer}" if long else f"{network}.base_model.{layer}"]
