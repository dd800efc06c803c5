"""Commands by which checkpoints are given to others and taken from them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from adafocus.commands.errors import one_line_errors

app = typer.Typer()


@app.command()
def push(
    checkpoint: Annotated[Path, typer.Argument(help="Of any stage that has a result.")],
    destination: Annotated[
        str, typer.Argument(help="hf://user/model on the Hugging Face Hub, or a folder.")
    ],
    result: Annotated[
        Path | None,
        typer.Option(help="Its result; by default NAME.json beside it or one folder above."),
    ] = None,
    licence: Annotated[
        str, typer.Option(help="Of the weights, as the Hub names licences: mit, cc-by-4.0, other.")
    ] = "unknown",
    public: Annotated[
        bool, typer.Option("--public", help="A repository that is made now is for everybody.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the same checkpoint's earlier files there.")
    ] = False,
) -> None:
    """Give a checkpoint to others, with its result and a model card made of it."""
    with one_line_errors():
        from adafocus.deploy import share

        place = share.push(
            checkpoint,
            destination,
            result=result,
            licence=licence,
            public=public,
            replace=replace,
        )
    print(f"{place}\nTo take it from there: adafocus pull {shlex.quote(destination)} FOLDER")


@app.command()
def pull(
    source: Annotated[
        str, typer.Argument(help="hf://user/model, perhaps with @revision, or a folder.")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(help="Where to put it; by default one of the same name, in this folder."),
    ] = None,
) -> None:
    """Fetch a checkpoint that was pushed, to predict with, export or load."""
    with one_line_errors():
        from adafocus.deploy import share

        path = share.pull(source, folder)
    print(path)
