"""The model card of a checkpoint: what its result says, for people and for the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from shlex import quote
from typing import Any
from urllib.parse import quote as url

import yaml

from adafocus import __version__
from adafocus.data.names import one_line
from adafocus.evaluation.result import Result
from adafocus.model.checkpoint import Checkpoint

METRICS = {
    "top1": ("accuracy", "top-1"),
    "top5": ("accuracy", "top-5"),
    "mAP": ("mAP", "mAP"),
}
"""What the Hub calls them, and what people do."""
PLACES = {
    "random": "random places",
    "centre": "the centre",
    "glancer": "nowhere: the glancer alone",
    "oracle": "the true place",
}
"""Where baselines look, as a person reads it."""
SOURCES = {
    "adafocus": "[AdaFocus](https://arxiv.org/abs/2105.03245) (Wang et al., ICCV 2021)",
    "uni-adafocus": "[Uni-AdaFocus](https://arxiv.org/abs/2412.11228) (Wang et al., 2024)",
}
"""By method."""


def card(result: Result, checkpoint: Checkpoint, name: str, place: str | None, licence: str) -> str:
    """The text of a README.md with YAML front matter.

    Args:
        result: of the checkpoint.
        name: of the checkpoint's file, without its ending.
        place: what `adafocus pull` is given; None of a folder, which may be anywhere later.
        licence: of the weights, an identifier that the Hub knows.
    """
    return "\n".join(_lines(result, checkpoint, name, place, licence)) + "\n"


def _lines(
    result: Result, checkpoint: Checkpoint, name: str, place: str | None, licence: str
) -> Iterator[str]:
    recipe = checkpoint.recipe
    title, (_, metric) = _text(recipe.title), METRICS[result.metric]
    head = yaml.safe_dump(_head(result, title, name, licence), sort_keys=False, allow_unicode=True)
    yield f"---\n{head}---\n"
    yield f"# {_text(name)}\n"
    yield (
        f"{title}: a video classifier of {recipe.classes} classes by {SOURCES[result.method]}. A"
        " light network glances at frames, a policy says where to look closely, and a heavy network"
        f" sees patches of {result.patch_size} pixels alone.\n"
    )
    yield f"| where it looks | {metric} |\n|---|---:|"
    chosen = "chosen by the policy" if result.has_policy else "drawn at random"
    yield f"| {chosen} | **{result.accuracy:.1f}** |"
    for where, scores in result.baselines.items():
        yield f"| {_text(PLACES.get(where, where))} | {scores[result.metric]:.1f} |"
    yield (
        f"\nPercent, of {result.videos:,} validation videos, by the same weights, in"
        f" {result.precision}, seed {result.seed}. A video costs"
        f" **{result.gflops_per_video:.3g} GFLOPs** in the mean; {result.videos_per_second:.3g}"
        f" videos per second were predicted on {_text(result.device)}."
    )
    if result.published:
        yield (
            f"Published: {result.published['figure']:g} at {result.published['gflops']:g} GFLOPs."
        )
    for warning in result.warnings:
        yield f"\nNote: {_text(warning)}."
    yield f"\n## Use\n\nBy the Python package `adafocus`, {__version__} or later:\n"
    file = f"{name}.safetensors" if place is None else f"{name}/{name}.safetensors"
    commands = [] if place is None else [f"adafocus pull {quote(place)} {quote(name)}"]
    if result.has_policy:
        commands.append(f"adafocus predict film.mp4 --checkpoint {quote(file)}")
    if commands:
        yield "\n".join(["```sh", *commands, "```\n"])
    yield f"```python\nimport adafocus\n\nmodel = adafocus.load({json.dumps(file)})\n```\n"
    yield (
        "## Data\n\n"
        f"{title} (`{result.dataset}`): {recipe.videos.train:,} videos to train on and"
        f" {recipe.videos.val:,} to validate on. The best epoch was chosen by the validation"
        " videos."
    )
    if homepage := getattr(recipe.source, "homepage", None):
        yield f"It is to be had at {_text(homepage)}."
    yield f"\nClasses: {', '.join(map(_text, checkpoint.class_names))}.\n"
    stage = "in one go" if result.stage is None else f"up to stage {result.stage}"
    yield (
        f"## Training\n\n{recipe.model_name}, trained {stage}. The recipe, with every number, is"
        f" in the weights and in [the result]({url(name)}.json), which has all figures too, those"
        " after each step of a video as well.\n"
    )
    yield (
        f"## Licence\n\nOf the weights: {_text(licence)}. What they learned from has terms of its"
        " own."
    )


def _head(result: Result, title: str, name: str, licence: str) -> dict[str, Any]:
    """The front matter, in the words of the Hub."""
    metrics = [
        {"type": kind, "name": told, "value": round(result.metrics[key], 2)}
        for key, (kind, told) in METRICS.items()
        if key in result.metrics
    ]
    cost = {
        "type": "gflops",
        "name": "GFLOPs per video",
        "value": round(result.gflops_per_video, 4),
    }
    task = "video-classification"
    return {
        "library_name": "adafocus",
        "pipeline_tag": task,
        "license": licence,
        "tags": [result.method, "video-recognition", "safetensors"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {"name": title, "type": result.dataset, "split": "validation"},
                        "metrics": [*metrics, cost],
                    }
                ],
            }
        ],
    }


def _text(value: str) -> str:
    """Plain text in Markdown: a name from elsewhere makes no markup, link or second line."""
    return "".join(f"\\{c}" if c in r"\`*[]<>#|" else c for c in one_line(value))
