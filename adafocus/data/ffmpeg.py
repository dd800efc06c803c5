"""The ffmpeg program, run by argument lists and never by a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import ffmpeg

from adafocus.data import DataError

GLOBAL = (
    *("-nostdin", "-hide_banner", "-loglevel", "error"),
    *("-filter_threads", "1", "-filter_complex_threads", "1"),
)
"""Options of every run. One thread each: the caller runs one per core."""


@cache
def ffmpeg_path() -> str:
    """The ffmpeg on the PATH, else the one that imageio-ffmpeg carries."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise DataError("ffmpeg is neither on the PATH nor in imageio-ffmpeg; install it") from None


def run(graph: Any, folder: Path, piped: bytes | memoryview = b"") -> None:
    """Runs an ffmpeg-python graph in ``folder``, with ``piped`` on its standard input.

    Raises `DataError` with the first thing that ffmpeg complained about.
    """
    graph = graph.global_args(*GLOBAL)
    command = ffmpeg.compile(graph, cmd=ffmpeg_path(), overwrite_output=True)
    done = subprocess.run(command, cwd=folder, input=piped, capture_output=True)
    if done.returncode:
        said = re.sub(r"\[[^]]* @ \w+\] ", "", done.stderr.decode(errors="replace")).strip()
        raise DataError(said.partition("\n")[0] or f"ffmpeg ended with status {done.returncode}")
