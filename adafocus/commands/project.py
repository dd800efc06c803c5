"""Commands about the folder that one works in: its workflow, recipes and machine."""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from adafocus.commands.errors import one_line_errors
from adafocus.project import RECIPES, known_recipes, lay_out, table
from adafocus.recipe import METHODS, Phase

app = typer.Typer()

Method = StrEnum("Method", list(METHODS))  # type: ignore[misc]


@app.command("new-dataset")
def new_dataset(
    name: Annotated[str, typer.Argument(help="What to call it; results are named after it.")],
    videos: Annotated[
        Path, typer.Option(help="Folder: {train,val}/CLASS/*, or CLASS/*, or with --labels any.")
    ],
    labels: Annotated[
        Path | None, typer.Option(help="CSV: video,labels and perhaps split; labels joined by ;")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split, where none is given.")] = 0,
    method: Annotated[Method, typer.Option(help="By which to train.")] = Method["uni-adafocus"],
) -> None:
    """Check your own videos and write a recipe for them."""
    with one_line_errors():
        if not RECIPES.is_dir():
            raise ValueError(f"{RECIPES}: not in this folder; lay it out first: adafocus init .")
        from adafocus.data.own import new_dataset

        recipe, path = new_dataset(name, videos, labels, RECIPES, seed, method.value)
        result = Phase(name, recipe.last.name, 128).name
    print(
        f"{path}: {recipe.videos.train} videos to train on, {recipe.videos.val} to validate on,"
        f" {recipe.classes} classes, {recipe.model.frames} frames of each\n"
        f"Next: snakemake --cores all results/{result}.json"
    )


@app.command()
def recipes() -> None:
    """Tell what there are recipes for, and which figures are published."""
    with one_line_errors():
        for line in table(known_recipes(), Path("results")):
            print(line)
    print(
        "\nDisk: of frames, and of videos that are downloaded. ?: not checked against the paper.\n"
        "GPU h: of a model's whole training, as measured in results, where it was trained there."
    )


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to put them; it may exist.")],
) -> None:
    """Lay out the workflow and its configuration, to run and to change."""
    with one_line_errors():
        lay_out(folder)
    print(
        f"{folder}: Snakefile, workflow and config are there\n"
        "Next, in this folder: snakemake --cores all results/demo-uni_28.json"
    )
    if find_spec("snakemake") is None:
        print("Snakemake is not installed: pip install 'adafocus[workflow,tracking,plots]'")


@app.command()
def doctor() -> None:
    """Look at what the work stands on: ffmpeg, GPUs, disks, locks, weights, MLflow's store."""
    with one_line_errors():
        from adafocus.doctor import examine

    fails = 0
    for finding in examine(Path()):
        fails += finding.state == "fails"
        print(f"{finding.state:<5} {finding.text}", flush=True)
    if fails:
        raise typer.Exit(1)
