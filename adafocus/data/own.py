"""A recipe for one's own videos."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

from adafocus.data import DataError
from adafocus.data.annotations import SPLITS, read_table
from adafocus.data.ffmpeg import timeline
from adafocus.data.listing import name_videos
from adafocus.data.store import count_frames
from adafocus.machine.files import atomic
from adafocus.recipe import Recipe, parse_recipe

VAL_SHARE = 0.2
"""Videos of each class that become validation videos where no split is given."""
PAPER_BATCH = 64
"""Videos of a batch, as in the paper, where there are enough."""
PROBED = 8
"""Videos whose length is looked at, evenly spread."""


class Labelled(NamedTuple):
    video: str
    """Path under the folder of videos, without a file's suffix"""
    split: str | None
    labels: tuple[str, ...]


def new_dataset(
    name: str, videos: Path, labels: Path | None, recipes: Path, seed: int
) -> tuple[Recipe, Path]:
    """Writes ``{name}.yaml`` and the labels ``{name}.csv`` to ``recipes``.

    Without ``labels`` the folders tell them: ``videos/{train,val}/{class}/*``, or
    ``videos/{class}/*``, of which a fifth of each class is drawn for validation. The recipe holds
    the paper's settings, fitted to the number of videos, their length and their classes.

    Args:
        labels: CSV with the columns ``video,labels`` and perhaps ``split``; videos are paths under
            ``videos``, labels are joined by ``;``.
        seed: of the split, where none is given.

    Returns:
        The recipe and its file.

    Raises:
        DataError: naming file and line, or the video or class, that is wrong.
    """
    path = recipes / f"{name}.yaml"
    if path.exists():
        raise DataError(f"{path}: exists; choose another name or remove it")
    if not videos.is_dir():
        raise DataError(f"{videos}: is not a folder")
    files = name_videos(videos)
    listed = _from_table(labels, files, videos) if labels else _from_folders(files, videos)
    listed = _with_splits(listed, seed)
    recipe = parse_recipe(_values(name, videos, recipes, listed, files), source=str(path))
    with atomic(recipes / f"{name}.csv") as aside, aside.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("video", "split", "labels"))
        table.writerows((video, split, ";".join(names)) for video, split, names in listed)
    with atomic(path) as aside:
        written = recipe.model_dump(mode="json", exclude_unset=True)
        aside.write_text(
            _comment(recipe) + yaml.safe_dump(written, sort_keys=False), encoding="utf-8"
        )
    return recipe, path


# --- labels -----------------------------------------------------------------------------------


def _from_folders(files: dict[str, Path], videos: Path) -> list[Labelled]:
    listed = []
    for video in files:
        *folders, _ = video.split("/")
        split = folders.pop(0) if folders and folders[0] in SPLITS else None
        if not folders:
            raise DataError(
                f"{files[video]}: lies in no class's folder; videos lie in {videos}/CLASS or"
                f" {videos}/train/CLASS and {videos}/val/CLASS, or a CSV of labels is given"
            )
        if ";" in folders[0]:
            raise DataError(
                f"{files[video]}: the class's name holds a semicolon; rename its folder"
            )
        listed.append(Labelled(video, split, (folders[0],)))
    if len({video.split is None for video in listed}) > 1:
        odd = next(video for video in listed if video.split is None)
        raise DataError(
            f"{files[odd.video]}: lies beside train/ and val/; move it into one of them"
        )
    return listed


def _from_table(table: Path, files: dict[str, Path], videos: Path) -> list[Labelled]:
    result: dict[str, Labelled] = {}
    by_file = {file.relative_to(videos).as_posix(): name for name, file in files.items()}
    for where, row in read_table(table, ("video", "labels"), optional=("split",)):
        video = by_file.get(row["video"], row["video"])
        labels = tuple(label.strip() for label in row["labels"].split(";"))
        split = row["split"] or None
        if video not in files:
            raise DataError(f"{where}: there is no video {row['video']!r} in {videos}")
        if video in result:
            raise DataError(f"{where}: video {row['video']!r} is listed before")
        if "" in labels:
            raise DataError(f"{where}: has no label, or an empty one")
        if split not in (*SPLITS, None):
            raise DataError(f"{where}: split is {split!r}; it must be train, val or empty")
        result[video] = Labelled(video, split, labels)
    if len({video.split is None for video in result.values()}) > 1:
        raise DataError(f"{table}: gives a split to some videos only; give it to all or to none")
    return list(result.values())


def _with_splits(listed: list[Labelled], seed: int) -> list[Labelled]:
    """The given splits, or a stratified one by each video's first label."""
    if not listed:
        raise DataError("no video has a label")
    if listed[0].split is None:
        from sklearn.model_selection import train_test_split

        counts = Counter(video.labels[0] for video in listed)
        if rare := [label for label, count in counts.items() if count < 2]:
            raise DataError(
                f"class {rare[0]!r} has one video; two are needed, for training and validation"
            )
        share = max(round(VAL_SHARE * len(listed)), len(counts))
        _, val = train_test_split(
            [video.video for video in listed],
            test_size=share,
            random_state=seed,
            stratify=[video.labels[0] for video in listed],
        )
        chosen = set(val)
        listed = [v._replace(split="val" if v.video in chosen else "train") for v in listed]
    taught = {label for video in listed if video.split == "train" for label in video.labels}
    for video in listed:
        if unknown := set(video.labels) - taught:
            raise DataError(
                f"class {min(unknown)!r} occurs in validation only, as in {video.video}"
            )
    if not any(video.split == "val" for video in listed):
        raise DataError("no video is in val")
    return listed


# --- the recipe -------------------------------------------------------------------------------


def _values(
    name: str, videos: Path, recipes: Path, listed: list[Labelled], files: dict[str, Path]
) -> dict[str, Any]:
    """The paper's settings for untrimmed videos, fitted to these videos."""
    classes = {label for video in listed for label in video.labels}
    counts = Counter(video.split for video in listed)
    several = any(len(video.labels) > 1 for video in listed)
    probed = [files[video.video] for video in listed[:: max(1, len(listed) // PROBED)]]
    timelines = [timeline(file) for file in probed if not file.is_dir()]
    lengths = [count_frames(file) for file in probed if file.is_dir()]
    lengths += [len(times.times) for times in timelines]
    seconds = sum(times.end for times in timelines)
    known = {}
    if seconds:
        rate = sum(len(times.times) for times in timelines) / seconds
        known = {"seconds": round(seconds / len(probed), 3), "rate": round(rate, 3)}
    # Small sets still need some updates per epoch; smaller batches want smaller steps.
    batch = max(2, min(PAPER_BATCH, counts["train"] // 8))

    def sgd(epochs: int, **rates: float) -> dict[str, Any]:
        scaled = {part: float(f"{rate * batch / PAPER_BATCH:.3g}") for part, rate in rates.items()}
        return {"epochs": epochs, "batch_size": batch, "learning_rates": scaled}

    adam = {"optimizer": "adam", "schedule": "constant", "weight_decay": 0.0}
    # The returns are standardized over the batch: the more videos, the better.
    adam["batch_size"] = max(2, min(PAPER_BATCH, counts["train"]))
    return {
        "name": name,
        "title": name,
        "classes": len(classes),
        "videos": {split: counts[split] for split in SPLITS} | known,
        "metric": "mAP" if several else "top1",
        "patch_sizes": [96, 128, 160, 192],
        "skip_costs": [0.01, 0.02, 0.05],
        "source": {
            "kind": "folder",
            "videos": str(videos.absolute()),
            "labels": str(recipes / f"{name}.csv"),
        },
        "annotations": {"format": "table", "file": "labels.csv"},
        "frames": {"height": 360, "shards": max(1, min(128, len(listed) // 250))},
        "model": {
            "frames": max(2, min(16, int(median(lengths)))),
            "glancer": {"name": "mobilenet_v2", "pretrained": "imagenet"},
            "focuser": {"name": "resnet", "depth": 50, "pretrained": "imagenet"},
        },
        "stages": {
            "glancer": sgd(15, glancer=0.01),
            "focuser": sgd(15, focuser=0.01),
            "stage1": sgd(50, focuser=0.0005, classifier=0.05),
            "stage2": {"epochs": 50, **adam, "learning_rates": {"policy": 0.0003}},
            "stage3": sgd(10, classifier=0.005),
        },
    }


def _comment(recipe: Recipe) -> str:
    """What stands above the recipe's entries."""
    lines = ["Own videos, at the paper's settings; every entry may be changed."]
    batch, rollout = (recipe.stages[stage].batch_size for stage in ("stage1", "stage2"))
    if batch < PAPER_BATCH:
        lines += [
            f"Batches have {batch} videos, not the paper's {PAPER_BATCH}, so that few make some"
            " updates.",
            f"SGD's rates are scaled with them, by {batch}/{PAPER_BATCH}. Stage 2, whose returns"
            " are",
            f"standardized over the batch, takes {rollout} videos, at Adam's rate in the paper.",
        ]
    return "".join(f"# {line}\n" for line in lines)
