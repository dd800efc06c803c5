"""The workflow and its configuration as the package carries them, for folders that have none."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from adafocus.data.disk import estimate
from adafocus.machine.files import write_error
from adafocus.recipe import Phase, Recipe, load_recipes

PARTS = ("Snakefile", "workflow", "config", "environment.yml")
"""What a folder needs to run the workflow."""
RECIPES = Path("config", "recipes")


def carried() -> Path:
    """The folder that has `PARTS`: within an installed package, else the repository around it."""
    here = Path(__file__).resolve()
    inside = here.with_name("carried")
    return inside if inside.is_dir() else here.parents[1]


def known_recipes() -> dict[str, Recipe]:
    """Those of the folder at hand, else of the nearest above it that has some, else those that the
    package carries, which a line on stderr tells."""
    for folder in (Path(), *Path.cwd().parents):
        if recipes := load_recipes(folder / RECIPES):
            return recipes
    print(
        f"{RECIPES}: neither here nor in a folder above; those of adafocus itself are taken",
        file=sys.stderr,
    )
    return load_recipes(carried() / RECIPES)


def lay_out(folder: Path) -> None:
    """Copies `PARTS` to a folder, to run and to change there.

    Raises:
        ValueError: where one of them is there already.
        WriteError: where the folder cannot be written to.
    """
    for part in (*PARTS, "profiles"):
        if (folder / part).exists():
            raise ValueError(f"{folder / part}: exists; name another folder, or move it away")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            source = carried() / part
            if source.is_dir():
                left_out = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, folder / part, ignore=left_out)
            else:
                shutil.copy(source, folder / part)
        # Where Snakemake looks for the default profile.
        (folder / "profiles").symlink_to(Path("workflow", "profiles"))
    except OSError as error:
        raise write_error(folder, error) from error


def table(recipes: Mapping[str, Recipe], results: Path) -> Iterator[str]:
    """Lines that tell what recipes there are, those of one data set together.

    Args:
        results: folder with what was trained, for GPU hours.
    """
    yield f"{'recipe':17} {'videos':>8} {'disk':>8}  {'metric':6} patch sizes: published figures"
    for dataset, first in recipes.items():
        if first.extends or first.split_of:
            continue
        yield f"\n{first.title}"
        for name, recipe in sorted(recipes.items(), key=_natural):
            if recipe.videos_of == dataset:
                videos = recipe.videos.train + recipe.videos.val
                size = 0 if recipe.split_of else sum(estimate(recipe)) / 1e9
                disk = f"{size:,.0f} GB" if size else ""
                figures = ", ".join(_figure(recipe, size, results) for size in recipe.patch_sizes)
                if not recipe.published:  # what else there is to compare with
                    told = (peer.told(recipe.metric) for peer in recipe.peers)
                    figures += "".join(f"; {one}" for one in told if one)
                yield f"{name:17} {videos:8,} {disk:>8}  {recipe.metric:6} {figures}"


def _natural(item: tuple[str, Recipe]) -> list[tuple[str, int]]:
    """For `sorted`: -8 before -12."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D+)(\d*)", item[0])]


def _figure(recipe: Recipe, patch_size: int, results: Path) -> str:
    told = str(patch_size)
    if (published := recipe.published_beside(patch_size, 0.0)) is not None:
        told += f": {published['figure']}{'' if published['verified'] else '?'}"
    hours = gpu_hours(recipe, patch_size, results)
    return told if hours is None else f"{told} ({hours:.1f} GPU h)"


def gpu_hours(recipe: Recipe, patch_size: int, results: Path) -> float | None:
    """Of GPUs in all epochs of all stages of a model, as measured; None where not all of them were
    trained on GPUs by the workflow.

    Args:
        results: folder with what was trained.
    """
    seconds = 0.0
    for spec in recipe.table:
        name = Phase(recipe.name, spec.name, patch_size if spec.of_patch_size else None).name
        try:
            told = json.loads((results / "benchmarks" / f"{name}.energy.json").read_text())
            with (results / "checkpoints" / f"{name}.metrics.csv").open(newline="") as file:
                seconds += told["gpus"] * sum(float(row["seconds"]) for row in csv.DictReader(file))
        except (OSError, ValueError, KeyError):
            return None
    return seconds / 3600
