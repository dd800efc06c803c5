"""One's own videos and their labels, as they lie on disk.

What is written for them, a recipe, stands in `adafocus.recipe.own`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import NamedTuple

import yaml
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.annotations import check_class
from adafocus.data.ffmpeg import TOGETHER, read_headers, timeline
from adafocus.data.film import Header
from adafocus.data.forms import SPLITS, join_labels, read_table, split_labels
from adafocus.data.listing import name_videos
from adafocus.data.names import Names, is_text, readable, write_table
from adafocus.data.store import count_frames
from adafocus.machine.files import atomic
from adafocus.recipe import SPECS, Recipe
from adafocus.recipe.data import Videos
from adafocus.recipe.experiment import NAME
from adafocus.recipe.own import OwnVideos, comment, own_recipe

RULES = {
    *("all", "download", "frames", "splits", "pretrained", "evaluate", "points", "curve", "seeds"),
    *("summary", "sweep"),
    *(spec.rule for spec in SPECS.values()),
}
"""Names of the workflow's rules, which are targets as data sets are."""
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""What folders and tables call splits, in any case."""
VAL_SHARE = 0.2
"""Videos of each class that become validation videos where no split is given."""
PROBED = 8
"""Videos that are decoded where their headers do not tell how long they are, evenly spread."""
MOST_RATE = 240
"""Frames per second above which a header is not believed: some give the clock's rate instead."""


class Labelled(NamedTuple):
    video: str
    """Path under the folder of videos, without a file's suffix"""
    split: str | None
    labels: tuple[str, ...]


def new_dataset(
    name: str, videos: Path, labels: Path | None, recipes: Path, seed: int, method: str
) -> tuple[Recipe, Path]:
    """Writes ``{name}.yaml`` and the labels ``{name}.csv`` to ``recipes``.

    Without ``labels`` the folders tell them: ``videos/{train,val}/{class}/*``, or
    ``videos/{class}/*``, of which a fifth of each class is drawn for validation. The recipe is
    fitted to the number of videos, their length and their classes. What is no video, by its header,
    and what the CSV names and is not there is left out and told.

    Args:
        labels: CSV with the columns ``video,labels`` and perhaps ``split``; videos are paths under
            ``videos``, labels are joined by ``;``.
        seed: of the split, where none is given.
        method: of the recipe, one of `adafocus.recipe.METHODS`.

    Returns:
        The recipe and its file.

    Raises:
        DataError: naming file and line, or the video or class, that is wrong; where more videos are
            left out than extraction allows.
    """
    if not re.fullmatch(NAME, name):
        raise DataError(
            f"{name}: is no name of a data set; give it at most 100 of the letters A to Z and a to"
            " z, digits, - and _, of which the first is a letter or a digit"
        )
    if name in RULES:
        raise DataError(f"{name} is a rule of the workflow; choose another name")
    path = recipes / f"{name}.yaml"
    if path.exists():
        raise DataError(f"{path}: exists; choose another name or remove it")
    if not videos.is_dir():
        raise DataError(f"{videos}: is not a folder")
    if not is_text(str(videos.absolute())):
        raise DataError(
            f"{videos.absolute()}: is not in UTF-8, as a recipe is; give a link to it that is"
            " called otherwise"
        )
    files = name_videos(videos)
    if labels:
        listed, left_out = _from_table(labels, files, videos)
        total = len(listed) + len(left_out)
        headers, bad = _read_headers({video.video: files[video.video] for video in listed})
        listed = [video for video in listed if video.video not in bad]
        _tell([*left_out, *bad.values()], total)
    else:
        headers, bad = _read_headers(files)
        _tell(list(bad.values()), len(files))
        listed = _from_folders({name: files[name] for name in files if name not in bad}, videos)
    listed = _with_splits(listed, seed)
    table_file = recipes / f"{name}.csv"
    known = _known(videos, table_file, listed, files, headers)
    recipe = own_recipe(name, method, known, str(path))
    with atomic(table_file) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        table = write_table(file)
        table.writerow(("video", "split", "labels"))
        table.writerows((video, split, join_labels(names)) for video, split, names in listed)
    with atomic(path) as aside:
        written = recipe.model_dump(mode="json", exclude_unset=True)
        aside.write_text(
            comment(recipe) + yaml.safe_dump(written, sort_keys=False), encoding="utf-8"
        )
    return recipe, path


# --- labels -----------------------------------------------------------------------------------


def _from_folders(files: dict[str, Path], videos: Path) -> list[Labelled]:
    splits = _splits_of({video.split("/")[0] for video in files if "/" in video}, videos)
    listed: list[Labelled] = []
    classes: dict[str, str] = {}
    for video in files:
        first, *others = video.split("/")
        folders = others[:-1] if first in splits else [first][: len(others)]
        if not folders:
            raise DataError(
                f"{files[video]}: lies in no class's folder; videos lie in {videos}/CLASS or"
                f" {videos}/train/CLASS and {videos}/val/CLASS, or a CSV of labels is given"
            )
        label = folders[0].strip()
        check_class(label, str(files[video].parent))
        if classes.setdefault(label, folders[0]) != folders[0]:
            raise DataError(
                f"{files[video].parent}: is class {label!r} too, as white space around a name does"
                " not count; call it otherwise"
            )
        if (split := splits.get(first)) != "":
            listed.append(Labelled(video, split, (label,)))
    return listed


def _splits_of(folders: set[str], videos: Path) -> dict[str, str | None]:
    """The splits that folders stand for, by their names; empty for one that is left out."""
    named = {folder: SPLIT_NAMES.get(folder.casefold()) for folder in sorted(folders)}
    if not any(named.values()):
        return {}
    known = f"folders of splits are called {', '.join(SPLIT_NAMES)}"
    if odd := [folder for folder, split in named.items() if split is None]:
        raise DataError(
            f"{videos / odd[0]}: lies beside {_joined(f for f in named if named[f])}; move it into"
            f" one of them ({known}, and no class is)"
        )
    found = list(named.values())
    if twice := [split for split in found if found.count(split) > 1]:
        same = _joined(folder for folder, split in named.items() if split == twice[0])
        raise DataError(f"{videos}: {same} are one split; put them together ({known})")
    if "train" not in found:
        raise DataError(f"{videos}: no folder is that of the videos to train on ({known})")
    if "val" in found and "test" in found:
        test = next(folder for folder, split in named.items() if split == "test")
        print(f"left out: {videos / test}: validation has a folder of its own", flush=True)
        return named | {test: ""}
    return {folder: "val" if split == "test" else split for folder, split in named.items()}


def _joined(folders: Iterable[str]) -> str:
    return " and ".join(f"{folder}/" for folder in folders)


def _from_table(
    table: Path, files: dict[str, Path], videos: Path
) -> tuple[list[Labelled], list[str]]:
    """The videos that it lists, and lines on those that are not there."""
    result: dict[str, Labelled] = {}
    absent = []
    by_file = {readable(file.relative_to(videos).as_posix()): name for name, file in files.items()}
    rows = list(read_table(table, ("video", "labels"), optional=("split",)))
    told = [by_file.get(readable(row["video"]), readable(row["video"])) for _, row in rows]
    found, reasons = Names(files).find(told)
    for (where, row), name in zip(rows, told, strict=True):
        if name not in found:
            absent.append(
                f"{where}: there is no video {row['video']!r} in {videos}; it {reasons[name]}"
            )
            continue
        video = found[name]
        labels = tuple(split_labels(row["labels"]))
        split = SPLIT_NAMES.get(row["split"].casefold()) if row["split"] else None
        if video in result:
            raise DataError(f"{where}: video {row['video']!r} is listed before")
        if "" in labels:
            raise DataError(f"{where}: has no label, or an empty one")
        if split not in SPLITS and row["split"]:
            raise DataError(f"{where}: split is {row['split']!r}; it must be train, val or empty")
        for label in labels:
            check_class(label, where)
        result[video] = Labelled(video, split, labels)
    if len({video.split is None for video in result.values()}) > 1:
        raise DataError(f"{table}: gives a split to some videos only; give it to all or to none")
    return list(result.values()), absent


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


# --- what the videos tell ---------------------------------------------------------------------


def _read_headers(files: Mapping[str, Path]) -> tuple[dict[str, Header], dict[str, str]]:
    """What the files among the videos tell, by name, and lines on those that are no film."""
    names = [name for name, file in files.items() if not file.is_dir()]
    pieces = [names[start : start + TOGETHER] for start in range(0, len(names), TOGETHER)]
    headers: dict[str, Header] = {}
    bad: dict[str, str] = {}
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(desc="headers", total=len(names), unit="video") as progress,
    ):
        read = pool.map(lambda piece: list(read_headers([files[n] for n in piece])), pieces)
        for piece, found in zip(pieces, read, strict=True):
            for name, header in zip(piece, found, strict=True):
                if isinstance(header, DataError):
                    bad[name] = str(header)
                else:
                    headers[name] = header
            progress.update(len(piece))
    return headers, bad


def _tell(left_out: list[str], total: int) -> None:
    """Raises `DataError` where too many are left out, of all; one may be in any case."""
    for line in left_out:
        print(f"left out: {line}", flush=True)
    share = Videos.model_fields["missing"].default
    if left_out and (len(left_out) == total or len(left_out) > max(1, share * total)):
        raise DataError(
            f"{len(left_out)} of {total} videos cannot be used, more than {share:.0%}; mend them or"
            f" take them out; the first: {left_out[0]}"
        )


def _known(
    videos: Path,
    table: Path,
    listed: list[Labelled],
    files: dict[str, Path],
    headers: Mapping[str, Header],
) -> OwnVideos:
    """What is to be known of the videos, by their headers."""
    counts = Counter(video.split for video in listed)
    folders, films, untold = [], [], []
    for name in (video.video for video in listed):
        header = headers.get(name)
        if header is None:
            folders.append(count_frames(files[name]))
        elif header.seconds and header.rate and header.rate <= MOST_RATE:
            films.append((max(1, round(header.seconds * header.rate)), header.seconds))
        else:
            untold.append(files[name])
    for file in untold[:: max(1, len(untold) // PROBED)]:
        times = timeline(file)
        films.append((len(times.times), times.end))
    lengths = [*folders, *(frames for frames, _ in films)]
    known = {}
    if seconds := sum(seconds for _, seconds in films):
        rate = sum(frames for frames, _ in films) / seconds
        known = {"seconds": round(seconds / len(lengths), 3), "rate": round(rate, 3)}
    return OwnVideos(
        counts={split: counts[split] for split in SPLITS} | known,
        classes=len({label for video in listed for label in video.labels}),
        several=any(len(video.labels) > 1 for video in listed),
        length=int(median(lengths)),
        folder=str(videos.absolute()),
        labels=str(table),
    )
