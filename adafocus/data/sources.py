"""Where a data set's videos come from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.annotations import read_cuts
from adafocus.data.digits import write_videos
from adafocus.data.download import download, unpack
from adafocus.data.listing import Stamp, done_with, has_videos, write_listing
from adafocus.data.youtube import fetch_videos
from adafocus.machine.files import fill, publish, remove_abandoned, sha256
from adafocus.recipe import (
    ArchiveSource,
    FolderSource,
    GenerateSource,
    ManualSource,
    Recipe,
    YoutubeSource,
)

SHARED = ("annotations", "frames", "manifests", "videos")
"""Folders of a data set that its other splits have too."""


def fetch(recipe: Recipe, folder: Path, workers: int) -> None:
    """Brings ``folder`` to hold ``videos/``, ``annotations/`` and ``videos.csv``.

    A video is a file, or a folder of JPEG files; its name is its path under ``videos/``, without a
    file's suffix, see `write_listing`. One's own videos and labels stay where they are. Videos of
    YouTube that were deleted when their frames were there are not downloaded again. Raises
    `DataError` that lists what only a person can bring.
    """
    remove_abandoned(folder, folder / "annotations")
    missing: dict[str, str] = {}
    done: dict[str, dict[str, str]] = {}
    match recipe.source:
        case ManualSource():
            archives = _given_archives(recipe.source, folder)
            _check_present(recipe, recipe.source.homepage, folder, _no_videos(archives, folder))
            _unpack(archives, recipe.source.strip, folder)
        case YoutubeSource():
            _check_present(recipe, recipe.source.homepage, folder, [])
            cuts, done = read_cuts(recipe, folder), done_with(folder)
            missing = fetch_videos(recipe, recipe.source, cuts, folder, workers, done)
        case ArchiveSource():
            _download(recipe.source, folder)
        case FolderSource():
            _link_own(recipe.source, folder)
        case GenerateSource():
            write_videos(recipe.source, folder, workers)
    write_listing(folder, missing, done)


def link_shared(recipe: Recipe, folder: Path) -> None:
    """Links the folder of another split of a data set to all that it has of that, whose folder lies
    beside it. Raises `DataError` where something else is in the way."""
    for name in SHARED if recipe.split_of else ():
        _link(folder / name, Path("..", recipe.videos_of, name))


def _link_own(source: FolderSource, folder: Path) -> None:
    """Links to the videos."""
    videos = Path(source.videos).absolute()
    for path in (videos, Path(source.labels)):
        if not path.exists():
            raise DataError(f"{path}: not found; the recipe names it under source")
    _link(folder / "videos", videos)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() and link.exists():
        raise DataError(f"{link}: is in the way of a link to {target}; move it away")
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _given_archives(source: ManualSource, folder: Path) -> dict[str, list[Path]]:
    """The parts of each archive that a person has put there, by the name in the recipe."""
    archives = folder / "archives"

    def parts(name: str) -> list[Path]:
        found = {path.stem: path for path in archives.glob(f"{name}.zip")}
        # One that was taken out of its ZIP stands for both.
        return sorted((found | {path.name: path for path in archives.glob(name)}).values())

    return {name: parts(name) for name in source.archives}


def _no_videos(archives: dict[str, list[Path]], folder: Path) -> list[str]:
    """What is to be put there for want of videos."""
    if has_videos(folder / "videos"):
        return []  # perhaps unpacked before
    return [f"archives/{name}" for name, parts in archives.items() if not parts] or (
        [] if archives else ["videos"]
    )


def check_lists(recipe: Recipe, folder: Path) -> None:
    """Raises `DataError` where annotation files of a split are not there that only a person can
    bring.

    Args:
        folder: of the data set that has its videos.
    """
    if isinstance(recipe.source, ManualSource | YoutubeSource):
        _check_present(recipe, recipe.source.homepage, folder, [])


def _check_present(recipe: Recipe, homepage: str, folder: Path, missing: list[str]) -> None:
    annotations = [f"annotations/{name}" for name in recipe.annotations.files]
    missing = [*missing, *(path for path in annotations if not (folder / path).exists())]
    if missing:
        shown = ", ".join(missing[:6])
        if len(missing) > 6:
            shown += f" and {len(missing) - 6} more"
        raise DataError(
            f"{folder}: {shown} not found; {recipe.title} is to be had at {homepage}, put its files"
            " there"
        )


def _download(source: ArchiveSource, folder: Path) -> None:
    """Downloads and unpacks one archive after the other, and removes each that is unpacked, so that
    the disk never holds more than one beside the videos."""
    for name, file in source.annotations.items():
        download(file.url, folder / "annotations" / name, file.sha256)
    if has_videos(folder / "videos"):
        return
    archives, state = folder / "archives", source.model_dump_json(include={"archives", "strip"})
    _remove_others(source, archives, begun=folder / "unpacked" / "archives", state=state)
    with _unpacking(folder, state) as unpack_one:
        for number, archive in enumerate(source.archives):
            unpacked = archives / f"{number}.unpacked"
            if unpacked.exists():
                continue
            parts = [archives / f"{number}-{part}" for part in range(len(archive))]
            for path, part in zip(parts, archive, strict=True):
                download(part.url, path, part.sha256)
            unpack_one(parts, source.strip)
            unpacked.touch()
            for path in parts:
                path.unlink()
    shutil.rmtree(archives)


def _remove_others(source: ArchiveSource, archives: Path, begun: Path, state: str) -> None:
    """Removes parts of archives that came before the recipe named others.

    Args:
        archives: folder of the parts.
        begun: file that tells the ``state`` in which the recipe was when they came. There is none
            where an older version began: then the parts themselves tell.
    """
    told = begun.read_text() if begun.exists() else None
    if told == state:
        return
    came = {}
    with suppress(ValueError):  # half written, or of archives that a person gave
        for number, archive in enumerate(json.loads(told or "{}").get("archives", ())):
            for part, file in enumerate(archive):
                came[f"{number}-{part}"] = file["sha256"]
    for number, archive in enumerate(source.archives):
        for part, file in enumerate(archive):
            path = archives / f"{number}-{part}"
            if path.exists() and path.name not in came:
                came[path.name] = sha256(path)
            if came.get(path.name, file.sha256) != file.sha256:
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.part").unlink(missing_ok=True)


def _unpack(archives: dict[str, list[Path]], strip: int, folder: Path) -> None:
    """Unpacks archives, which stay, to ``videos/``, unless that was done before."""
    if has_videos(folder / "videos"):
        return
    given = [f"{path.name} {Stamp.of(path)}" for parts in archives.values() for path in parts]
    with _unpacking(folder, "\n".join([f"strip {strip}", *given])) as unpack_one:
        for parts in archives.values():
            unpack_one(parts, strip)


@contextmanager
def _unpacking(folder: Path, archives: str) -> Iterator[Callable[[list[Path], int], None]]:
    """Yields what unpacks an archive, given as its parts, for ``videos/``, which appears after the
    block.

    After a kill the next call goes on from what is unpacked, unless ``archives``, which says what
    they are, is another.
    """
    incoming, state = folder / "incoming", folder / "unpacked"
    of, done = state / "archives", list((folder / "archives").glob("*.unpacked"))
    # What an older version began has no state.
    if of.read_text() != archives if of.exists() else not done:
        shutil.rmtree(incoming, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
        for unpacked in done:
            unpacked.unlink()
    for path in (incoming, state):
        path.mkdir(parents=True, exist_ok=True)
    of.write_text(archives)

    def unpack_one(parts: list[Path], strip: int) -> None:
        with tqdm(desc=f"unpacking {parts[0].name}", unit="file") as progress:
            journal = state / f"{parts[0].name}.members"
            unpack(parts, incoming, lambda name: progress.update(), strip, journal)

    yield unpack_one
    videos = folder / "videos"
    if videos.is_dir():  # with other files of a person in it, perhaps
        fill(videos.resolve(), incoming)
    else:
        publish(incoming, videos)
    shutil.rmtree(state)
