"""How commands end where something is wrong that a person can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from adafocus.data.names import one_line
from adafocus.extras import missing_extra


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors that a person can mend end the program in one line: all of them are `ValueError`s, but
    for an extra that is not installed."""
    found: Exception | None
    try:
        yield
        return
    except ModuleNotFoundError as error:
        found = missing_extra(error)
        if found is None:
            raise
    except ValueError as error:
        found = error
    typer.echo(f"Error: {one_line(str(found))}", err=True)
    raise typer.Exit(1)
