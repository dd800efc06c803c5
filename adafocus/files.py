"""Files and folders that appear under their name only when they are whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a path to write a file or folder to; it replaces ``path`` unless the block raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name[:32]}.", dir=path.parent) as aside:
        unfinished = Path(aside, path.name)
        yield unfinished
        if path.is_dir():
            shutil.rmtree(path)
        unfinished.replace(path)
