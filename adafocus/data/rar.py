"""RAR archives, read as the TAR that bsdtar makes of them on the way: no file comes to the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from adafocus.data import DataError

SIGNATURE = b"Rar!\x1a\x07"


def is_rar(path: Path) -> bool:
    """Whether a file begins as RAR archives do."""
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


@contextmanager
def read_rar(path: Path) -> Iterator[IO[bytes]]:
    """What an archive holds, as a TAR.

    Raises:
        DataError: where bsdtar is not installed, cannot read the archive, or would take it for one
            of another kind, such as a list of files anywhere on this machine.
    """
    if not is_rar(path):
        raise DataError(f"{path.name}: is no RAR archive; the one it lies in is not to be trusted")
    program = shutil.which("bsdtar")
    if program is None:
        raise DataError(
            f"{path}: is a RAR archive, for which bsdtar is needed (of libarchive; on Debian:"
            " apt-get install libarchive-tools); install it, or unpack the archive yourself, to"
            " the folder videos of the data set"
        )
    command = [program, "--create", "--format=pax", "--file=-", f"@{path.absolute()}"]
    with TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=os.environ | {"LC_ALL": "C.UTF-8"},  # in which names are
        )
        try:
            assert process.stdout is not None
            with process.stdout:
                yield process.stdout
                process.stdout.read()  # what is behind the TAR's end
        finally:
            status = process.wait()
        if status:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise DataError(f"{path}: bsdtar cannot read it ({last}); download it again")
