"""What revision 1 of the training code (commit 78f3339) left on disk, so that it stays of use.

Its fingerprints rest on the SHA-256 of whole checkpoint files, whose metadata it wrote in random
order: no later code can write such a file again. So the digest of an old file goes with its tensors
into the file that takes its place.

All here is frozen: an entry of the recipe that comes later must not change what is computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from adafocus.machine.files import sha256
from adafocus.recipe import Recipe

FIRST_REVISION = 1
_BACKBONE = ("name", "depth", "width", "output_stride", "pretrained")
_TRAINING = (
    "epochs",
    "batch_size",
    "optimizer",
    "learning_rates",
    "schedule",
    "milestones",
    "momentum",
    "weight_decay",
    "clip_gradient",
)
_HEAD = (*_TRAINING, "dropout")
_POLICY = (
    *_TRAINING,
    "discount",
    "clip",
    "value_weight",
    "entropy_weight",
    "passes",
    "skip_cost",
)
_MODEL = ("family", "frames", "glance_frames", "frame_size", "glance_size")
_PARTS = {
    "glancer": _BACKBONE,
    "focuser": _BACKBONE,
    "policy": ("channels", "hidden", "grid", "std"),
    "classifier": ("hidden", "dropout"),
}


def fingerprints_of_revision_1(
    recipe: Recipe,
    stage: str,
    patch_size: int | None,
    *,
    seed: int,
    data: Sequence[str],
    init: Sequence[Path],
) -> list[str]:
    """Those by which revision 1 may have known this run; none where the recipe says what none could
    say then. For the arguments see `adafocus.training.fingerprint.accepted_fingerprints`."""
    entries = recipe.model_dump(mode="json")
    given = recipe.model_dump(mode="json", exclude_defaults=True)
    model, training = entries["model"], entries["stages"][stage]
    known = [
        (given["model"], (*_MODEL, *_PARTS)),
        *((given["model"].get(part, {}), names) for part, names in _PARTS.items()),
        (given["stages"][stage], _POLICY if stage == "stage2" else _HEAD),
        (given.get("augmentation", {}), ("scales", "flip")),
    ]
    if any(set(section) - set(names) for section, names in known):
        return []
    facts = {
        "recipe": _only(model, _MODEL)
        | {part: _only(model[part], names) for part, names in _PARTS.items()},
        "augmentation": _only(entries["augmentation"], ("scales", "flip")),
        "training": _only(training, _POLICY if stage == "stage2" else _HEAD),
        "metric": recipe.metric,
        "patch_size": patch_size,
        "data": list(data),
        "seed": seed,
    }
    return [
        hashlib.sha256(json.dumps(facts | {"init": found}, sort_keys=True).encode()).hexdigest()
        for found in map(list, product(*(digests(path) for path in init)))
    ]


def may_be_of(record: Path, known: Sequence[str], recipe: Recipe) -> bool:
    """Whether a state of one of these fingerprints may be of a run of revision 1 that saw frames as
    the recipe has them extracted now.

    The fingerprints do not tell; the run's record does, until a later run writes its own.
    """
    try:
        left = json.loads(record.read_text("utf-8"))
        fingerprint, before = left["fingerprint"], left["recipe"]["frames"]
    except (OSError, ValueError, KeyError):
        return True
    if fingerprint not in (*known, None):
        return False
    now = recipe.model_dump(mode="json")["frames"]
    return all(before.get(name) == now[name] for name in ("height", "quality", "rate"))


def made_by_revision_1(seed: int, tags: Mapping[str, str]) -> dict[str, Any]:
    """What a state of revision 1 would say of the code that made it, by its run's tags."""
    return {"commit": tags.get("git_commit"), "revision": FIRST_REVISION, "seed": seed}


def _only(section: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: section[name] for name in names}


def digests(path: Path) -> Iterator[str]:
    """SHA-256 of a checkpoint's file, and of the one that revision 1 wrote of the same tensors,
    where that is known."""
    yield sha256(path)
    if (before := _metadata(path).get("formerly")) is not None:
        yield before


def is_old(path: Path) -> bool:
    """Whether revision 1 wrote the checkpoint at ``path``: it did not say so itself."""
    metadata = _metadata(path)
    return "recipe" in metadata and "made_by" not in metadata


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}
