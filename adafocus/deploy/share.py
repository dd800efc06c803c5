"""Checkpoints given to others and taken from them: as a folder, or on the Hugging Face Hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adafocus import __version__, legacy
from adafocus.deploy.card import card
from adafocus.evaluation.exits import Calibration
from adafocus.evaluation.result import Result
from adafocus.extras import require
from adafocus.machine.files import aside, fill, is_full, write_error
from adafocus.model import checkpoint

HUB = "hf://"
"""How the names of repositories on the Hub begin, as in ``hf://user/model``."""
CARD = "README.md"
TIMEOUT = 60
"""Seconds without an answer after which the Hub is given up."""


class Location(Protocol):
    """Where a checkpoint lies with what belongs to it, or shall lie."""

    @property
    def name(self) -> str:
        """What a folder of its content may be called."""

    @property
    def missing(self) -> str:
        """What to say where there is no such place."""

    def names(self) -> set[str] | None:
        """Of the files there; None where there is no such place."""

    def put(self, text: str, files: Mapping[str, Path], public: bool) -> str:
        """Puts files there and says where they are.

        Args:
            text: the card.
            files: by the names that they get.
            public: whether everybody may see a place that is made now.
        """

    def get(self, name: str, path: Path) -> None:
        """Copies a file."""


def push(
    path: Path,
    destination: str,
    *,
    result: Path | None = None,
    licence: str = "unknown",
    public: bool = False,
    replace: bool = False,
) -> str:
    """Puts a checkpoint, its result and a model card made of that into a place.

    Args:
        path: the checkpoint.
        destination: ``hf://user/model``, or a folder.
        result: of an evaluation of it; if not given, where the workflow writes it.
        licence: of the weights, by the Hub's identifiers.
        public: whether everybody may see a repository that is made now.
        replace: whether it may replace files of the same names.

    Returns:
        Where it is.

    Raises:
        ValueError: where something is there that would be overwritten, the checkpoint or its result
            cannot be used, or the Hub refuses.
    """
    place = place_of(destination)
    if public and isinstance(place, Folder):
        raise ValueError(f"--public is for the Hub; {destination} is a folder")
    source = checkpoint.read(path)
    result = result or _result_of(path)
    measured = Result.read(result)
    _check_same(measured, result, path)
    of_hub = None if isinstance(place, Folder) else destination
    text = card(measured, source, path.stem, of_hub, licence)
    files = {f"{path.stem}.json": result, f"{path.stem}.safetensors": path}
    calibration = Calibration.path_of(path)
    if calibration.exists():
        files[calibration.name] = calibration
    there = place.names() or set()
    if not replace:
        _check_free(destination, there, (CARD, *files), "--replace puts the new one in its place")
    _check_alone(destination, there, files)
    return place.put(text, files, public)


def pull(source: str, folder: Path | None = None) -> Path:
    """Fetches the checkpoint of a place, and its card and result if they are there.

    No other file is fetched, and none whose name is a path.

    Args:
        source: ``hf://user/model``, perhaps with ``@revision``, or a folder.
        folder: where to put them; if not given, one of the place's name in the current folder.

    Returns:
        The checkpoint.

    Raises:
        ValueError: where there is not one checkpoint, it cannot be used or is not that of the
            result, something would be overwritten, or the Hub refuses.
    """
    place = place_of(source)
    if (names := place.names()) is None:
        raise ValueError(f"{source}: {place.missing}")
    there = {name for name in names if is_plain(name)}
    weights = sorted(name for name in there if name.endswith(".safetensors"))
    if len(weights) != 1:
        raise ValueError(f"{source}: holds not one checkpoint but {', '.join(weights) or 'none'}")
    stem = weights[0].removesuffix(".safetensors")
    wanted = [*weights, *({CARD, f"{stem}.json", f"{stem}.exits.npz"} & there)]
    folder = folder or Path(place.name)
    kept = Folder(folder).names() or set()
    _check_free(folder, kept, wanted, "name another folder")
    _check_alone(folder, kept, wanted)
    with _disk_errors(folder), aside(folder.parent, folder.name) as made:
        whole = made / "whole"
        whole.mkdir()
        for name in wanted:
            place.get(name, whole / name)
        fetched = whole / weights[0]
        try:
            checkpoint.read(fetched)
            if f"{stem}.json" in wanted:
                result = whole / f"{stem}.json"
                _check_same(Result.read(result), result, fetched)
        except ValueError as error:  # names files as they were there
            raise ValueError(str(error).replace(f"{whole}/", f"{source}/")) from None
        fill(folder, whole)
    return folder / weights[0]


def place_of(text: str) -> Location:
    """Raises ValueError where the name of a repository is none, or an address is given."""
    if text.startswith(HUB):
        return Repository(text)
    if re.match(r"[\w+.-]+://|hf:", text):
        raise ValueError(f"{text}: is no folder; names of the Hugging Face Hub begin with {HUB}")
    return Folder(Path(text))


def is_plain(name: str) -> bool:
    """Whether a file's name is no path, nor hidden."""
    return bool(name) and not name.startswith(".") and not {"/", "\\", "\0"} & set(name)


@dataclass(frozen=True)
class Folder:
    """Any folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def missing(self) -> str:
        return f"no such folder; names of the Hugging Face Hub begin with {HUB}"

    def names(self) -> set[str] | None:
        if not self.path.exists():
            return None
        with _disk_errors(self.path):
            return {path.name for path in self.path.iterdir() if path.is_file()}

    def put(self, text: str, files: Mapping[str, Path], public: bool) -> str:
        with _disk_errors(self.path), aside(self.path.parent, self.path.name) as made:
            whole = made / "whole"
            whole.mkdir()
            for name, path in files.items():
                shutil.copyfile(path, whole / name)
            (whole / CARD).write_text(text, encoding="utf-8")
            fill(self.path, whole)
        return str(self.path)

    def get(self, name: str, path: Path) -> None:
        with _disk_errors(self.path):
            shutil.copyfile(self.path / name, path)


class Repository:
    """A model on the Hugging Face Hub, or on the server that HF_ENDPOINT names. Who one is there
    its library knows: by HF_TOKEN, or by ``hf auth login``.

    Args:
        text: ``hf://user/model`` or ``hf://user/model@revision``.

    Raises:
        ValueError: where that is no such name.
    """

    def __init__(self, text: str) -> None:
        require("hub")
        from huggingface_hub import HfApi, get_session, parse_hf_uri

        try:
            found = parse_hf_uri(text)
        except ValueError as error:
            raise ValueError(f"{text}: is no name of a model on the Hub ({error})") from None
        if found.type != "model" or found.path_in_repo:
            raise ValueError(f"{text}: is no name of a model on the Hub, as hf://user/model is")
        self.text = text
        self.identifier = found.id
        self.revision = found.revision
        self.commit: str | None = None
        """That whose files `names` told of."""
        self.api = HfApi(library_name="adafocus", library_version=__version__)
        get_session().timeout = TIMEOUT  # which has none

    @property
    def name(self) -> str:
        return self.identifier.rpartition("/")[2]

    @property
    def missing(self) -> str:
        return (
            "is not on the Hub, or is not for you to see: look at the name, or log in with"
            " `hf auth login`"
        )

    def names(self) -> set[str] | None:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        with self._errors():
            try:
                found = self.api.model_info(
                    self.identifier, revision=self.revision, timeout=TIMEOUT
                )
            except GatedRepoError:
                raise
            except RepositoryNotFoundError:
                return None
        self.commit = found.sha
        return {one.rfilename for one in found.siblings or ()}

    def put(self, text: str, files: Mapping[str, Path], public: bool) -> str:
        from huggingface_hub import CommitOperationAdd, ModelCard

        with self._errors():
            ModelCard(text).validate()
            if self.commit is None:
                self.api.create_repo(self.identifier, private=not public)
            operations = [CommitOperationAdd(name, path) for name, path in files.items()]
            operations.append(CommitOperationAdd(CARD, text.encode()))
            done = self.api.create_commit(
                self.identifier,
                operations,
                commit_message="A checkpoint of adafocus",
                revision=self.revision,
                parent_commit=self.commit,
            )
            found = self.api.model_info(self.identifier, timeout=TIMEOUT)
        seen = "private" if found.private else "for everybody to see"
        return f"{HUB}{self.identifier}@{done.oid[:10]}, {seen}"

    def get(self, name: str, path: Path) -> None:
        with self._errors():
            cached = self.api.hf_hub_download(
                self.identifier, name, revision=self.commit, etag_timeout=TIMEOUT
            )
        with _disk_errors(path):
            shutil.copyfile(cached, path)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Makes one line of what the library raises, in which no token stands."""
        from httpx2 import HTTPError
        from huggingface_hub.errors import RepositoryNotFoundError, XetDownloadError

        try:
            yield
        except RepositoryNotFoundError:
            raise ValueError(f"{self.text}: {self.missing}") from None
        except (
            HTTPError,
            XetDownloadError,
            OSError,
            LookupError,
            RuntimeError,
            ValueError,
        ) as error:
            said = " ".join(str(error).split())
            raise ValueError(
                f"{self.text}: the Hub cannot be used for that ({said[:400]})"
            ) from None


def _result_of(path: Path) -> Path:
    """The result of a checkpoint: beside it, or where the workflow writes it."""
    places = (path.with_suffix(".json"), path.absolute().parent.parent / f"{path.stem}.json")
    found = next(filter(Path.exists, places), None)
    if found is None:
        raise ValueError(
            f"{path}: its result is neither {places[0]} nor {places[1]}; make it with adafocus"
            " evaluate, or name it with --result"
        )
    return found


def _check_same(result: Result, path: Path, weights: Path) -> None:
    if result.checkpoint.get("sha256") not in set(legacy.digests(weights)):
        raise ValueError(f"{path}: is the result of another checkpoint than {weights}")


def _check_free(
    place: object, there: Collection[str], wanted: Collection[str], remedy: str
) -> None:
    if taken := sorted(set(there) & set(wanted)):
        raise ValueError(f"{place}: holds {taken[0]} already; {remedy}")


def _check_alone(place: object, there: Collection[str], wanted: Collection[str]) -> None:
    """A place holds one checkpoint: with two, who loads or pulls it would have to choose."""
    others = sorted(name for name in set(there) - set(wanted) if name.endswith(".safetensors"))
    if others:
        raise ValueError(f"{place}: holds another checkpoint, {others[0]}; name another place")


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise write_error(path, error) from error
        raise ValueError(
            f"{error.filename or path}: cannot be read or written ({error.strerror or error})"
        ) from error
