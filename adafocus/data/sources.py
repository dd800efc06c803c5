"""Where a data set's videos come from."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.digits import write_videos
from adafocus.data.download import download, unpack
from adafocus.data.store import holds_frames
from adafocus.files import whole
from adafocus.recipe import (
    AnnotationFiles,
    ArchiveSource,
    FolderSource,
    GenerateSource,
    ManualSource,
    Recipe,
)


def fetch(recipe: Recipe, folder: Path, workers: int) -> None:
    """Brings ``folder`` to hold ``videos/``, ``annotations/`` and ``videos.csv``.

    ``videos.csv`` lists each video's name and its path relative to ``folder``. A video is a file,
    or a folder of JPEG files; its name is its path under ``videos/``, without a file's suffix.
    Raises `DataError` that lists what only a person can bring.
    """
    match recipe.source:
        case ManualSource():
            _check_present(recipe, recipe.source, folder)
            if recipe.source.archives:
                parts = [folder / "archives" / name for name in recipe.source.archives]
                _unpack([parts], recipe.source.strip, folder)
        case ArchiveSource():
            _download(recipe.source, folder)
        case FolderSource():
            _bring(recipe.source, recipe.annotations, folder)
        case GenerateSource():
            write_videos(recipe.source, folder, workers)
    _write_listing(folder)


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


def _check_present(recipe: Recipe, source: ManualSource, folder: Path) -> None:
    videos = [f"archives/{name}" for name in source.archives] or ["videos"]
    if source.archives and (folder / "videos").exists():
        videos = []  # unpacked before, and the archives perhaps removed
    annotations = [f"annotations/{name}" for name in recipe.annotations.files]
    missing = [path for path in (*videos, *annotations) if not (folder / path).exists()]
    if missing:
        raise DataError(
            f"{folder}: {', '.join(missing)} not found; {recipe.title} is to be had at "
            f"{source.homepage}, put its files there"
        )


def _download(source: ArchiveSource, folder: Path) -> None:
    for name, file in source.annotations.items():
        download(file.url, folder / "annotations" / name, file.sha256)
    archives = [
        [folder / "archives" / f"{number}-{part}" for part in range(len(archive))]
        for number, archive in enumerate(source.archives)
    ]
    if not (folder / "videos").exists():
        for paths, archive in zip(archives, source.archives, strict=True):
            for path, part in zip(paths, archive, strict=True):
                download(part.url, path, part.sha256)
    _unpack(archives, source.strip, folder)


def _unpack(archives: Sequence[Sequence[Path]], strip: int, folder: Path) -> None:
    """Unpacks archives to ``videos/``, unless that was done before."""
    if (folder / "videos").exists():
        return
    with (
        whole(folder / "videos") as videos,
        tqdm(desc="unpacking", unit="file") as progress,
    ):
        for parts in archives:
            unpack(parts, videos, lambda name: progress.update(), strip)


def _write_listing(folder: Path) -> None:
    videos = name_videos(folder / "videos")
    with whole(folder / "videos.csv") as unfinished, unfinished.open("w", newline="") as file:
        listing = csv.writer(file, lineterminator="\n")
        listing.writerow(("video", "path"))
        listing.writerows((name, path.relative_to(folder)) for name, path in videos.items())


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
