"""Manifests: what each shard has extracted, a row for each video."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from adafocus.machine.files import kept


class Extracted(NamedTuple):
    """A row of a manifest."""

    video: str
    path: str
    """Frame store or folder of JPEG files, relative to the data set's folder."""
    status: str
    """``ok`` or ``failed``."""
    frames: int
    height: int
    width: int
    rate: float | None
    """Frames per second, on average; None where a video is a folder of JPEG files."""
    duration: float | None
    """In seconds, likewise."""
    bytes: int
    """That the frames take on disk."""
    error: str
    """Why a video failed, or what is damaged in one of which ffmpeg could read the rest."""
    modified: int | None = None
    """When the store or folder was changed last, in nanoseconds; None in manifests of old."""
    source: str = ""
    """The `Stamp` of the video that the frames are of; empty in manifests of old."""
    replaced: str = ""
    """Digest of the frames where they took the place of another video's."""

    @classmethod
    def failed(cls, video: str, path: str, error: str) -> Extracted:
        return cls(video, path, "failed", 0, 0, 0, None, None, 0, error)

    @classmethod
    def of_row(cls, row: Mapping[str, str]) -> Extracted:
        """Reads a row; older manifests lack the last columns."""
        return cls(
            row["video"],
            row["path"],
            row["status"],
            int(row["frames"]),
            int(row["height"]),
            int(row["width"]),
            float(row["rate"]) if row["rate"] else None,
            float(row["duration"]) if row["duration"] else None,
            int(row["bytes"]),
            row["error"],
            int(row["modified"]) if row.get("modified") else None,
            row.get("source") or "",
            row.get("replaced") or "",
        )

    def is_of(self, path: Path) -> bool:
        """Whether a store or folder is as it was."""
        found = path.stat()
        same_size = path.is_dir() or found.st_size == self.bytes
        return same_size and self.modified in (None, found.st_mtime_ns)


def read_manifests(folder: Path) -> dict[str, Extracted]:
    """What was extracted before, by any number of shards, also where manifests are being made
    again: one that is kept aside tells of videos that another shard takes now."""
    known = {}
    manifest = folder / "manifests" / "[0-9]*.csv"
    for path in (*manifest.parent.glob(kept(manifest).name), *manifest.parent.glob(manifest.name)):
        # Another shard's may be removed meanwhile.
        with suppress(FileNotFoundError), path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["status"] == "ok":
                    known[row["video"]] = Extracted.of_row(row)
    return known
