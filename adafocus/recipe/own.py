"""What is written for one's own videos: a recipe fitted to how many there are, and how long.

Many videos are trained on as the papers do. At the papers' batches and rates few would make few
updates of the weights, and end below a plain fine-tuning: they go in small batches, by Adam.
"""

from __future__ import annotations

from math import ceil, isqrt
from typing import Any, NamedTuple

from adafocus.recipe.adafocus import PolicyTraining
from adafocus.recipe.experiment import Recipe
from adafocus.recipe.loading import parse_recipe
from adafocus.recipe.training import Training

MANY = 5000
"""Videos to train on from which the papers' settings are written."""
UPDATES = 600
"""Of the weights that a phase should make, between the least and the most epochs."""
LEAST_EPOCHS, MOST_EPOCHS = 20, 60
ROLLOUT = 64
"""Videos of a rollout, as in the paper, where there are enough."""
VISITS = 30_000
"""Of videos, that a policy should make: it learns by trial."""
TUNED, NEW = 0.0003, 0.0015
"""Adam's rates of weights that were trained before, and of those that are drawn at random."""


class OwnVideos(NamedTuple):
    """What is known of one's own videos."""

    counts: dict[str, Any]
    """As `Recipe.videos`."""
    classes: int
    several: bool
    """Whether any has several labels."""
    length: int
    """In frames, of one in the middle."""
    folder: str
    labels: str
    """CSV of the labels."""


def own_recipe(name: str, method: str, videos: OwnVideos, source: str) -> Recipe:
    """The recipe to write.

    Args:
        name: of the data set.
        method: one of `adafocus.recipe.METHODS`.
        source: what to call it in errors.

    Raises:
        RecipeError: where the name or the number of classes cannot be.
    """
    shared = {
        "name": name,
        "title": name,
        "method": method,
        "classes": videos.classes,
        "videos": videos.counts,
        "metric": "mAP" if videos.several else "top1",
        "source": {"kind": "folder", "videos": videos.folder, "labels": videos.labels},
        "annotations": {"format": "table", "file": "labels.csv"},
    }
    total = videos.counts["train"] + videos.counts["val"]
    frames = {"frames": {"height": 360, "shards": max(1, min(128, total // 250))}}
    backbones = {
        "glancer": {"name": "mobilenet_v2", "pretrained": "imagenet"},
        "focuser": {"name": "resnet", "depth": 50, "pretrained": "imagenet"},
    }
    own: dict[str, Any]
    if method == "uni-adafocus":
        # Of as many candidates as a video has frames.
        glances = max(2, min(16, videos.length // 3))
        share = max(1, min(3, videos.length // glances))
        counts = {"frames": share * glances, "glance_frames": glances, "focus_frames": glances}
        own = {"patch_sizes": [96, 128, 160], "model": counts | backbones}
    else:
        own = {
            "patch_sizes": [96, 128, 160, 192],
            "skip_costs": [0.01, 0.02, 0.05],
            "model": {"frames": max(2, min(16, videos.length)), **backbones},
        }
    stages = own_stages(method, videos.counts["train"])
    return parse_recipe(shared | own | frames | {"stages": stages}, source=source)


# --- how each stage is trained ----------------------------------------------------------------


def own_stages(method: str, videos: int, pretrained: bool = True) -> dict[str, Any]:
    """A recipe's ``stages``.

    Args:
        method: one of `adafocus.recipe.METHODS`.
        videos: to train on.
        pretrained: whether both backbones begin with pretrained weights.
    """
    if method == "uni-adafocus":
        return _published_uni() if videos >= MANY else _few_uni(videos, pretrained)
    return _published_adafocus() if videos >= MANY else _few_adafocus(videos, pretrained)


def _few_uni(videos: int, pretrained: bool) -> dict[str, Any]:
    backbone = TUNED if pretrained else NEW
    rates = {"glancer": backbone, "focuser": backbone, "policy": NEW, "classifier": NEW}
    # At the published weight, 1, the boxes of so few updates would stay the whole frame.
    return {"joint": _adam(videos, rates, pretrained) | {"size_weight": 0.1}}


def _few_adafocus(videos: int, pretrained: bool) -> dict[str, Any]:
    backbone = TUNED if pretrained else NEW
    # A rollout is made once and learned from several times, in which the policy costs next to
    # nothing beside the backbones.
    rollout = {"batch_size": max(2, min(ROLLOUT, videos)), "update_epochs": 8}
    epochs = max(LEAST_EPOCHS, ceil(VISITS / videos))
    validations = {"epochs": epochs, "validate_every": ceil(epochs / LEAST_EPOCHS)}
    policy = _adam(videos, {"policy": NEW}) | rollout | validations
    return {
        "glancer": _adam(videos, {"glancer": backbone}, pretrained),
        "focuser": _adam(videos, {"focuser": backbone}, pretrained),
        "stage1": _adam(videos, {"focuser": backbone, "classifier": NEW}),
        "stage2": policy,
        "stage3": _adam(videos, {"classifier": TUNED}) | {"epochs": LEAST_EPOCHS // 2},
    }


def _adam(videos: int, rates: dict[str, float], new_heads: bool = False) -> dict[str, Any]:
    """A stage of few videos.

    Args:
        new_heads: whether backbones, which are tuned, have heads that are drawn at random.
    """
    batch = 4
    while 2 * batch <= min(32, isqrt(videos // 2)):
        batch *= 2
    per_epoch = max(1, videos // batch)
    epochs = max(LEAST_EPOCHS, min(MOST_EPOCHS, ceil(UPDATES / per_epoch)))
    # Without decay: once videos are learned by heart, it is all that Adam would follow.
    stage = {"epochs": epochs, "batch_size": batch, "optimizer": "adam", "weight_decay": 0.0}
    if new_heads:
        times = {"rate": round(NEW / TUNED, 3)}
        stage["multipliers"] = {"head": times, "head_bias": times}
    return stage | {"learning_rates": rates}


def _published_uni() -> dict[str, Any]:
    """As of actnet-uni."""
    rates = {"glancer": 0.001, "focuser": 0.002, "policy": 0.0004, "classifier": 0.04}
    joint = {"epochs": 50, "batch_size": 32, "weight_decay": 0.0002, "learning_rates": rates}
    return {"joint": joint | {"size_weight": 1.0, "validate_every": 5, "validate_last": 9}}


def _published_adafocus() -> dict[str, Any]:
    def sgd(epochs: int, **rates: float) -> dict[str, Any]:
        return {"epochs": epochs, "batch_size": 64, "learning_rates": rates}

    adam = {"optimizer": "adam", "schedule": "constant", "weight_decay": 0.0}
    return {
        "glancer": sgd(15, glancer=0.01),
        "focuser": sgd(15, focuser=0.01),
        "stage1": sgd(50, focuser=0.0005, classifier=0.05),
        "stage2": sgd(50, policy=0.0003) | adam,
        "stage3": sgd(10, classifier=0.005),
    }


# --- what stands above them -------------------------------------------------------------------


SCHEMA = "yaml-language-server: $schema=../schemas/recipe.json"
"""By what editors know the keys of a recipe in config/recipes."""


def comment(recipe: Recipe) -> str:
    """What stands above the recipe's entries, such as how many updates each stage will make."""
    videos = recipe.videos.train
    lines = [SCHEMA, f"Own videos by {recipe.model_name}; every entry may be changed."]
    if videos < MANY:
        lines += [
            f"{videos} videos are few to train on, so they go in small batches, by Adam. Rates are"
            f" {TUNED} for",
            f"weights that were trained before and {NEW} for new ones: with `pretrained: null`"
            f" give backbones {NEW}",
            "too, without multipliers.",
        ]
    lines.append("Updates of the weights:")
    for spec in recipe.table:
        training = recipe.stages[spec.name]
        lines.append(f"  {spec.name}: {_updates(training, videos)}")
    return "".join(f"# {line}\n" for line in lines)


def _updates(training: Training, videos: int) -> str:
    batches = max(1, videos // training.batch_size)
    times = training.update_epochs if isinstance(training, PolicyTraining) else 1
    total = training.epochs * batches * times
    one = f"{batches} batches" if batches > 1 else "1 batch"
    again = f", each used {times} times" if times > 1 else ""
    size = min(videos, training.batch_size)
    return f"{total}, in {training.epochs} epochs of {one} of {size} videos{again}"
