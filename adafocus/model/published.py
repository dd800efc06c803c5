"""The authors' published checkpoints, translated name by name into ours.

A published file is a dictionary of sections, ``glancer``, ``focuser``, ``fc`` and, from stage 2 on,
``policy``, each a state dict. The section ``focuser`` of the family ``gru`` also holds two older
copies of the policy, which are passed over: the section ``policy`` is what the model runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from torch import Tensor
from torch.serialization import safe_globals

from adafocus.model.backbones import ShiftedConv2d
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError, list_some
from adafocus.recipe import SPECS, AdaFocusModel

if TYPE_CHECKING:
    from adafocus.recipe import Recipe

SECTIONS = {"glancer": "glancer", "focuser": "focuser", "classifier": "fc", "policy": "policy"}
"""Section of the file that holds each part of the model."""
FLAT_FIRST_BLOCK = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
FLAT_BLOCK = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}
"""Layers of a MobileNetV2 block by their place in an older torchvision's list."""
BASE_MODEL = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
"""Parts of a ResNet-50 by their place in the list into which the family ``tsm`` cuts it."""

NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bhilqBHILQefd"),
    # As NumPy 1 and 2 call it.
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""What makes NumPy's numbers of a file; none of it runs what the file says."""


def import_published(
    path: Path,
    recipe: Recipe,
    patch_size: int | None,
    *,
    class_names: tuple[str, ...] | None = None,
    policy_stage: str = "stage3",
) -> Checkpoint:
    """Reads a published checkpoint as one of ours.

    Which stage it is of follows from its sections: the glancer or the focuser alone is stage 0,
    without a policy it is stage 1. Files of stages 2 and 3 hold the same, so that one has to be
    told. In the family ``tsm`` the focuser's own head, which only stage 0 uses, is in no later
    file; it becomes zero.

    Args:
        path: a file that ``torch.save`` wrote; it is read without executing code.
        recipe: the recipe of the data set that it was trained on.
        patch_size: in pixels; None for stage 0.
        class_names: in the order of the logits; numbers if not given.
        policy_stage: ``stage2`` or ``stage3``, what a file with a policy is.

    Raises:
        CheckpointError: naming the file and, as the file does, what is missing or misshapen.
    """
    sections = _read(path)
    stage = _stage(path, sections, policy_stage)
    if (patch_size is None) != (stage in ("glancer", "focuser")):
        raise CheckpointError(
            f"{path}: is of {stage}, which all patch sizes share: give none"
            if patch_size
            else f"{path}: is of {stage}: give its patch size"
        )
    family = recipe.model.family if isinstance(recipe.model, AdaFocusModel) else None
    if family is None:
        raise CheckpointError(f"{path}: the model of {recipe.name} is none of those published")
    model = build(recipe, patch_size or recipe.patch_sizes[0], with_policy="policy" in sections)
    names = names_of_classes(path, recipe, class_names)

    tensors: dict[str, Tensor] = {}
    problems = []
    for part in SPECS[stage].leaves:
        shifted = {
            name
            for name, module in getattr(model, part).named_modules()
            if isinstance(module, ShiftedConv2d)
        }
        left = {key for key in sections[SECTIONS[part]] if not key.startswith("policy.policy")}
        for name, expected in getattr(model, part).state_dict().items():
            section, key = _published_name(part, name, family, shifted, stage)
            given = sections.get(section, {}).get(key)
            left.discard(key)
            if given is None and part == "focuser" and name.startswith("head."):
                given = torch.zeros_like(expected)
            if given is None:
                problems.append(f"{section}/{key} is missing")
            elif given.shape != expected.shape:
                shapes = f"{tuple(given.shape)}, not {tuple(expected.shape)}"
                problems.append(f"{section}/{key} is {shapes}")
            else:
                tensors[f"{part}.{name}"] = given
        problems += [f"{SECTIONS[part]}/{key} is unknown" for key in left]
    if problems:
        raise CheckpointError(
            f"{path}: does not fit the recipe of {recipe.name}: {list_some(problems)}"
        )
    return Checkpoint(tensors, recipe, stage, patch_size, names)


def names_of_classes(path: Path, recipe: Recipe, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Those given, or else numbers. Raises `CheckpointError`, naming the file, for too few or too
    many."""
    names = given or tuple(str(number) for number in range(recipe.classes))
    if len(names) != recipe.classes:
        raise CheckpointError(
            f"{path}: {len(names)} class names given, but {recipe.name} has {recipe.classes}"
        )
    return names


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """The sections of a published file, whatever else it holds left aside."""
    content = read_safely(path)
    found = {}
    if isinstance(content, dict):
        for name in SECTIONS.values():
            section = content.get(name)
            if isinstance(section, dict) and section:
                found[name] = {key: v for key, v in section.items() if isinstance(v, Tensor)}
    if not found:
        raise CheckpointError(
            f"{path}: not a published checkpoint: none of {', '.join(SECTIONS.values())} is in it"
        )
    return found


def read_safely(path: Path) -> Any:
    """What ``torch.save`` wrote, read without executing code: tensors, plain values and NumPy's
    numbers, such as the best accuracy. Raises `CheckpointError`."""
    try:
        with safe_globals(NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:
        # Whatever a hostile or broken file makes torch raise.
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{path}: not a file of weights ({reason})") from None


def _stage(path: Path, sections: dict[str, dict[str, Tensor]], policy_stage: str) -> str:
    backbones = sections.keys() & {"glancer", "focuser"}
    if "policy" in sections:
        stage = policy_stage
    elif len(backbones) == 1:
        (stage,) = backbones
    else:
        stage = "stage1"
    if missing := {SECTIONS[part] for part in SPECS[stage].leaves} - sections.keys():
        raise CheckpointError(f"{path}: section {', '.join(sorted(missing))} is missing")
    return stage


def _published_name(
    part: str, name: str, family: str, shifted: set[str], stage: str
) -> tuple[str, str]:
    """Section and key under which a published file holds ``part.name``.

    Args:
        shifted: modules of the part that carry temporal shift, which wraps them in a ``net``.
    """
    module, _, leaf = name.rpartition(".")
    key = f"{module}.net.{leaf}" if module in shifted else name
    match part, family:
        case "glancer", _:
            key = re.sub(r"^trunk\.", "features.", key)
            if family == "gru":
                key = re.sub(r"^head\.", "classifier.1.", key)
            else:
                key = re.sub(r"^head\.", "classifier.", key)
                key = re.sub(r"^features\.(\d+)\.conv\.(.+)$", flat_block, key)
            return "glancer", f"net.{key}"
        case "focuser", "gru":
            return "focuser", f"net.{re.sub(r'^head[.]', 'fc.', key.removeprefix('trunk.'))}"
        case "focuser", "tsm":
            if name.startswith("head."):
                return ("fc" if stage == "focuser" else "focuser"), leaf
            first, _, rest = key.removeprefix("trunk.").partition(".")
            return "focuser", f"net.base_model.{BASE_MODEL[first]}.{rest}"
        case "classifier", "tsm":
            return "fc", key.removeprefix("fc.")
        case "classifier", "gru":
            return "fc", key
        case _:
            key = re.sub(r"^encoder\.", "state_encoder.", key)
            return "policy", re.sub(r"^(actor|critic)\.", r"\1.0.", key)


def flat_block(match: re.Match[str]) -> str:
    """The layer of a block, whose place has one or two numbers, in one flat list."""
    block, layer = match.groups()
    places = FLAT_FIRST_BLOCK if block == "1" else FLAT_BLOCK
    place = next(place for place in places if layer.startswith(f"{place}."))
    return f"features.{block}.conv.{places[place]}{layer.removeprefix(place)}"
