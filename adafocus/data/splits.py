"""The split tables: annotations joined with what was really extracted."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adafocus.data import DataError
from adafocus.data.annotations import annotation_files, digest_annotations, read_annotations
from adafocus.data.forms import SPLITS
from adafocus.data.listing import BYTES
from adafocus.data.names import Names, one_line, write_table
from adafocus.machine.files import atomic, kept, remove_abandoned
from adafocus.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


def write_splits(recipe: Recipe, folder: Path) -> None:
    """Writes ``splits/train.csv``, ``val.csv``, ``classes.txt`` and ``report.json``.

    The tables have the columns ``video, path, frames, labels``: ``path`` relative to ``folder``,
    ``labels`` joined by ``;``. A video without frames is left out and listed in the report with
    the reason; it also tells which videos took the place of others, whose frames were there before.
    ``train_split.txt`` and ``val_split.txt`` say the same in the authors' form,
    ``video,frames,label[,label...]``. The report also holds the digests of the annotation files.
    Raises `DataError` where a split ends empty, or more of its videos are missing than the recipe
    allows.
    """
    report: dict[str, Any] = {"annotations": digest_annotations(recipe, folder)}
    annotated, classes = read_annotations(recipe, folder)
    made = _manifest_table(recipe, folder)
    found, reasons = Names(made["video"]).find(annotated["video"])
    annotated = annotated.assign(video=[found.get(video, video) for video in annotated["video"]])
    table = annotated.merge(made, on="video", how="left")
    table["error"] = table["error"].fillna(table["video"].map(reasons))

    remove_abandoned(folder)
    with atomic(folder / "splits") as splits:
        splits.mkdir()
        for split in SPLITS:
            listed = table[table["split"] == split]
            used, missing = listed[listed["status"] == "ok"], listed[listed["status"] != "ok"]
            if used.empty:
                video, error = missing.iloc[0][["video", "error"]]
                raise DataError(f"{folder}: no video of {split} has frames; {video}: {error}")
            if len(missing) > recipe.videos.missing * len(listed):
                video, error = missing.iloc[0][["video", "error"]]
                raise DataError(
                    f"{folder}: {len(missing)} of {len(listed)} videos of {split} are missing, more"
                    f" than the recipe's videos.missing allows ({recipe.videos.missing:.0%});"
                    f" the first is {video}: {error}"
                )
            _write_split(used, splits / f"{split}.csv")
            _write_authors_form(used, splits / f"{split}_split.txt")
            report[split] = {
                "published": getattr(recipe.videos, split),
                "listed": len(listed),
                "used": len(used),
                "missing": dict(zip(missing["video"], missing["error"], strict=True)),
                "classes": _count_classes(used, classes),
            }
            replaced = used[used["replaced"] != ""]
            if not replaced.empty:
                report[split]["replaced"] = dict(
                    zip(replaced["video"], replaced["replaced"], strict=True)
                )
        (splits / "classes.txt").write_text("".join(f"{name}\n" for name in classes), "utf-8")
        (splits / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    for path in (folder / "manifests").glob(kept(Path("[0-9]*.csv")).name):
        path.unlink(missing_ok=True)  # all shards have taken from it what they needed


def check_names(recipe: Recipe, folder: Path) -> None:
    """Raises `DataError` where more of the annotated videos are not among those listed than the
    recipe allows, so that nothing is extracted in vain."""
    with (folder / "videos.csv").open(newline="", encoding="utf-8", errors=BYTES) as file:
        names = [row["video"] for row in csv.DictReader(file)]
    annotated, _ = read_annotations(recipe, folder)
    _, reasons = Names(names).find(annotated["video"])
    for split in SPLITS:
        listed = annotated["video"][annotated["split"] == split]
        missing = [video for video in listed if video in reasons]
        if len(missing) > recipe.videos.missing * len(listed):
            raise DataError(
                f"{folder}: {len(missing)} of {len(listed)} videos of {split} are not there, more"
                f" than the recipe's videos.missing allows ({recipe.videos.missing:.0%}); the first"
                f" is {missing[0]}: {reasons[missing[0]]}, where one is called {names[0]}: name"
                " files as the annotations do, in any folders"
            )


def annotation_changes(recipe: Recipe, folder: Path) -> str:
    """How a data set's annotations differ from those that its splits were made of, in one line;
    empty where they do not, or where there are no splits.

    Splits by older versions do not tell their digests: there, what was edited later differs. Raises
    `DataError` where a file cannot be read.
    """
    path = folder / "splits" / "report.json"
    try:
        report = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise _no_report(path, error) from None
    if not isinstance(report, dict) or not isinstance(report.get("annotations", {}), dict):
        raise _no_report(path, "it holds something else")
    before = report.get("annotations")
    if before is None:
        made = path.stat().st_mtime
        files = [file for file in annotation_files(recipe, folder) if file.exists()]
        changed = [file.name for file in files if file.stat().st_mtime > made]
    else:
        now = digest_annotations(recipe, folder)
        changed = [name for name in now if now[name] != before.get(name)]
    return (
        f"annotations changed since the splits were made: {', '.join(changed)}" if changed else ""
    )


def _no_report(path: Path, reason: object) -> DataError:
    return DataError(
        f"{path}: cannot be read as a report on splits ({reason}); remove it, and have the"
        f" splits made again by: snakemake --cores all {path}"
    )


def _manifest_table(recipe: Recipe, folder: Path) -> pd.DataFrame:
    import pandas as pd

    paths = [folder / "manifests" / f"{shard}.csv" for shard in range(recipe.frames.shards)]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: not found; extract the frames of all shards first")
    text = dict.fromkeys(("video", "path", "status", "error", "replaced"), str)
    found = pd.concat(pd.read_csv(path, dtype=text, keep_default_na=False) for path in paths)
    # Manifests by older versions do not tell it.
    replaced = found["replaced"].fillna("") if "replaced" in found else ""
    return found.assign(replaced=replaced)


def _write_split(table: pd.DataFrame, path: Path) -> None:
    labels = table["labels"].map(lambda labels: ";".join(map(str, labels)))
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = write_table(file)
        rows.writerow(("video", "path", "frames", "labels"))
        rows.writerows(
            zip(table["video"], table["path"], table["frames"].astype(int), labels, strict=True)
        )


def _write_authors_form(table: pd.DataFrame, path: Path) -> None:
    rows = zip(table["video"], table["frames"].astype(int), table["labels"], strict=True)
    lines = [
        ",".join(map(str, (one_line(video), frames, *labels))) for video, frames, labels in rows
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _count_classes(table: pd.DataFrame, classes: list[str]) -> dict[str, int]:
    counts = table["labels"].explode().value_counts()
    return {name: int(counts.get(index, 0)) for index, name in enumerate(classes)}
