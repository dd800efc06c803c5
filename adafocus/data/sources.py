"""Where a data set's videos come from."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.annotations import read_cuts
from adafocus.data.digits import write_videos
from adafocus.data.download import download, unpack
from adafocus.data.store import holds_frames
from adafocus.data.youtube import fetch_videos
from adafocus.files import publish, remove_abandoned, whole
from adafocus.recipe import (
    AnnotationFiles,
    ArchiveSource,
    FolderSource,
    GenerateSource,
    ManualSource,
    Recipe,
    YoutubeSource,
)


def fetch(recipe: Recipe, folder: Path, workers: int) -> None:
    """Brings ``folder`` to hold ``videos/``, ``annotations/`` and ``videos.csv``.

    ``videos.csv`` lists each video's name and its path relative to ``folder``, or why it could not
    be had. A video is a file, or a folder of JPEG files; its name is its path under ``videos/``,
    without a file's suffix. Raises `DataError` that lists what only a person can bring.
    """
    remove_abandoned(folder, folder / "annotations")
    missing: dict[str, str] = {}
    match recipe.source:
        case ManualSource():
            archives = _given_archives(recipe.source, folder)
            _check_present(recipe, recipe.source.homepage, folder, _no_videos(archives, folder))
            _unpack(archives, recipe.source.strip, folder)
        case YoutubeSource():
            _check_present(recipe, recipe.source.homepage, folder, [])
            cuts = read_cuts(recipe, folder)
            missing = fetch_videos(recipe, recipe.source, cuts, folder, workers)
        case ArchiveSource():
            _download(recipe.source, folder)
        case FolderSource():
            _bring(recipe.source, recipe.annotations, folder)
        case GenerateSource():
            write_videos(recipe.source, folder, workers)
    _write_listing(folder, missing)


def _bring(source: FolderSource, annotations: AnnotationFiles, folder: Path) -> None:
    """Links to the videos and copies their labels."""
    videos, labels = Path(source.videos).absolute(), Path(source.labels)
    for path in (videos, labels):
        if not path.exists():
            raise DataError(f"{path}: not found; the recipe names it under source")
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "videos"
    if not link.is_symlink() and link.exists():
        raise DataError(f"{link}: is in the way of a link to {videos}; move it away")
    link.unlink(missing_ok=True)
    link.symlink_to(videos)
    for name in annotations.files:
        with whole(folder / "annotations" / name) as aside:
            shutil.copyfile(labels, aside)


def _given_archives(source: ManualSource, folder: Path) -> dict[str, list[Path]]:
    """The parts of each archive that a person has put there, by the name in the recipe."""
    return {name: sorted((folder / "archives").glob(name)) for name in source.archives}


def _no_videos(archives: dict[str, list[Path]], folder: Path) -> list[str]:
    """What is to be put there for want of videos."""
    if (folder / "videos").exists():
        return []  # perhaps unpacked before
    return [f"archives/{name}" for name, parts in archives.items() if not parts] or (
        [] if archives else ["videos"]
    )


def _check_present(recipe: Recipe, homepage: str, folder: Path, missing: list[str]) -> None:
    annotations = [f"annotations/{name}" for name in recipe.annotations.files]
    missing = [*missing, *(path for path in annotations if not (folder / path).exists())]
    if missing:
        raise DataError(
            f"{folder}: {', '.join(missing)} not found; {recipe.title} is to be had at"
            f" {homepage}, put its files there"
        )


def _download(source: ArchiveSource, folder: Path) -> None:
    """Downloads and unpacks one archive after the other, and removes each that is unpacked, so that
    the disk never holds more than one beside the videos."""
    for name, file in source.annotations.items():
        download(file.url, folder / "annotations" / name, file.sha256)
    if (folder / "videos").exists():
        return
    archives, incoming = folder / "archives", folder / "incoming"
    for number, archive in enumerate(source.archives):
        unpacked = archives / f"{number}.unpacked"
        if unpacked.exists():
            continue
        parts = [archives / f"{number}-{part}" for part in range(len(archive))]
        for path, part in zip(parts, archive, strict=True):
            download(part.url, path, part.sha256)
        _unpack_one(parts, incoming, source.strip)
        unpacked.touch()
        for path in parts:
            path.unlink()
    publish(incoming, folder / "videos")
    shutil.rmtree(archives)


def _unpack(archives: dict[str, list[Path]], strip: int, folder: Path) -> None:
    """Unpacks archives, which stay, to ``videos/``, unless that was done before."""
    if (folder / "videos").exists():
        return
    with whole(folder / "videos") as videos:
        for parts in archives.values():
            _unpack_one(parts, videos, strip)


def _unpack_one(parts: Sequence[Path], folder: Path, strip: int) -> None:
    with tqdm(desc=f"unpacking {parts[0].name}", unit="file") as progress:
        unpack(parts, folder, lambda name: progress.update(), strip)


def _write_listing(folder: Path, missing: dict[str, str]) -> None:
    videos = name_videos(folder / "videos")
    with whole(folder / "videos.csv") as unfinished, unfinished.open("w", newline="") as file:
        listing = csv.writer(file, lineterminator="\n")
        listing.writerow(("video", "path", "error"))
        listing.writerows((name, path.relative_to(folder), "") for name, path in videos.items())
        listing.writerows((name, "", reason) for name, reason in sorted(missing.items()))


def name_videos(folder: Path) -> dict[str, Path]:
    """Every video under a folder by its name, sorted by name.

    A name is the path from the folder, without a file's suffix. Raises `DataError` where there is
    no video, or two have one name.
    """
    videos: dict[str, Path] = {}
    for path in find_videos(folder):
        named = path if path.is_dir() else path.with_suffix("")
        other = videos.setdefault(named.relative_to(folder).as_posix(), path)
        if other != path:
            raise DataError(f"{path}: has the same name as {other}; remove one of them")
    if not videos:
        raise DataError(f"{folder}: holds no video; put the videos there")
    return dict(sorted(videos.items()))


def find_videos(folder: Path) -> Iterator[Path]:
    """Every video under a folder: files that are not hidden, and folders of JPEG files."""
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not holds_frames(path):
            yield from find_videos(path)
        else:
            yield path
