"""What a training run depends on, as one digest: a state of the same digest is of this run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from adafocus import legacy
from adafocus.machine.files import sha256
from adafocus.model.checkpoint import CheckpointError, digest
from adafocus.recipe import Recipe
from adafocus.tracking import git_commit

REVISION = 2
"""Of the training code. Raise it with a change after which the same recipe, data and seed lead to
other weights: what is finished is then trained anew when its job runs, unless `TAKEN_OVER` has the
revision before."""
TAKEN_OVER = frozenset({1})
"""Earlier revisions whose states are used as they are, and gone on from. Since revision 1 other
random numbers are drawn, and a GPU computes more in float32: there, of several passes of PPO over a
rollout all but the first saw old weights. Who had such a stage 2 trains it anew by ``anew``."""


def made_by(seed: int, anew: str | None = None) -> dict[str, Any]:
    """What checkpoints, states and results say of the code and the run that made them."""
    facts = {"commit": git_commit(), "revision": REVISION, "seed": seed, "anew": anew}
    return {name: fact for name, fact in facts.items() if fact is not None}


def accepted_fingerprints(
    recipe: Recipe,
    stage: str,
    patch_size: int | None,
    *,
    seed: int,
    data: Sequence[str],
    sizes: str | None,
    replaced: str | None = None,
    start: Mapping[str, Tensor],
    init: Sequence[Path],
    record: Path,
    precisions: Sequence[str] = ("fp32",),
) -> list[str]:
    """The fingerprints of states that a run may go on from; the first is its own.

    Nothing else counts than what may change the weights: neither the order of entries nor those
    that say what would be so anyhow, and of the checkpoints before only their tensors.

    Args:
        recipe: the data set's recipe.
        stage: the one to train.
        patch_size: in pixels; None for stage 0.
        seed: of the run.
        data: digests of the split tables.
        sizes: digest of the videos' sizes; None where older listings do not tell them, and states
            that were begun then are accepted ever after.
        replaced: digest of videos that took the place of others; None where none did. What was
            begun before they did is not accepted.
        start: tensors that the stage takes from the checkpoints before.
        init: those checkpoints.
        record: what the run before has left of itself, see `adafocus.tracking.Record`.
        precisions: in which the backbones compute, or else might have. Revision 1 did not say it.

    Raises:
        CheckpointError: where a weights file that the recipe names cannot be read.
    """
    facts = {
        **_entries(recipe, stage),
        "stage": stage,
        "patch_size": patch_size,
        "seed": seed,
        "data": list(data),
        "replaced": replaced,
        "start": digest(start) if start else None,
    }
    found = [
        _digest(
            facts
            | {"revision": revision, "sizes": known}
            | {"precision": None if precision == "fp32" else precision}
        )
        for precision in precisions
        for revision in (REVISION, *sorted(TAKEN_OVER))
        for known in (sizes, None)
    ]
    if 1 in {REVISION, *TAKEN_OVER} and replaced is None:
        old = legacy.fingerprints_of_revision_1(
            recipe, stage, patch_size, seed=seed, data=data, init=init
        )
        found += old if legacy.may_be_of(record, old, recipe) else []
    return list(dict.fromkeys(found))


def frames_of(recipe: Recipe) -> dict[str, Any]:
    """The entries that decide how frames look, where they are not the defaults."""
    given = recipe.frames.model_dump(mode="json", exclude_defaults=True)
    return {name: given[name] for name in ("height", "quality", "rate") if name in given}


def _entries(recipe: Recipe, stage: str) -> dict[str, Any]:
    """The recipe's entries that a stage depends on, where they are not the defaults."""
    entries = recipe.needed_by(stage)
    for part in recipe.spec(stage).begins:
        own = entries["model"].get(part, {})
        if pretrained := own.pop("pretrained", None):
            own["pretrained"] = _weights(pretrained, f"{recipe.name}: model.{part}")
    return entries | {"frames": frames_of(recipe)}


def _weights(pretrained: str, key: str) -> str:
    """What stands for pretrained weights: their name, or their file's content."""
    if pretrained == "imagenet":
        return pretrained
    try:
        return sha256(Path(pretrained))
    except OSError as error:
        raise CheckpointError(f"{key}.pretrained: cannot read {pretrained}: {error}") from None


def _digest(facts: Mapping[str, Any]) -> str:
    """A fact that is None is as good as none, so that later ones change nothing."""
    known = {name: fact for name, fact in facts.items() if fact is not None}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
