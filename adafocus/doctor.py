"""Looks at what the work stands on, before hours go into it: programs, GPUs, disks, stores.

Each check is a function that yields its findings; none changes anything or reaches beyond this
machine but for the answer of MLflow's server.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import requests
import torch

from adafocus.data.disk import check_space
from adafocus.data.ffmpeg import OLDEST, every_frame, ffmpeg_path, raw_frames, run_graph
from adafocus.machine import shared_memory
from adafocus.machine.device import why_not_cuda
from adafocus.machine.files import WriteError, check_writable
from adafocus.machine.gpus import DRIVER, visible_gpus
from adafocus.recipe import Config, Recipe, load_config
from adafocus.tracking import SQLITE, chosen, database_of, internals, without_password

State = Literal["ok", "note", "fails"]
DECODERS = {"h264": "h264", "hevc": "hevc", "vp8": "vp8", "vp9": "vp9", "av1": "av1|libdav1d"}
"""What videos are coded in for the most part, and the decoders of it."""
ONE_MACHINE = {"nolock", "localflock", "local_lock=all", "local_lock=flock", "fuse.sshfs"}
"""Options and kinds of network file systems whose locks end at the machine."""
ANSWER_TIMEOUT = 5
"""Seconds for MLflow's server to answer."""


class Finding(NamedTuple):
    state: State
    """``note`` is what a person should know; ``fails`` is what some command will fail for."""
    text: str
    """One line, with what to do."""


class Project(NamedTuple):
    """What the folder's configuration asks for."""

    config: Config
    recipes: dict[str, Recipe]
    """Of the configuration's data sets."""


Check = Callable[[Path, Project], Iterator[Finding]]


def examine(folder: Path) -> Iterator[Finding]:
    """All findings, as they come.

    Args:
        folder: the project's; it may be empty.
    """
    project = Project(Config(datasets={}), {})
    try:
        if (folder / "config" / "config.yaml").exists():
            config, recipes = load_config(folder / "config")
            project = Project(config, {name: recipes[name] for name in config.datasets})
            sets = ", ".join(project.recipes) or "none"
            yield Finding("ok", f"config/config.yaml: can be used; data sets: {sets}")
        else:
            yield Finding("note", "config/config.yaml: not in this folder; what follows is general")
    except ValueError as error:
        yield Finding("fails", str(error))
    for check in CHECKS:
        yield from _guarded(check, folder, project)


def _guarded(check: Check, folder: Path, project: Project) -> Iterator[Finding]:
    """What a check finds; an error, such as of a broken library, is a finding too."""
    try:
        yield from check(folder, project)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        yield Finding("fails", f"{check.__name__.strip('_').replace('_', ' ')}: {reason}")


def _ffmpeg(folder: Path, project: Project) -> Iterator[Finding]:
    path = ffmpeg_path()

    def said(*options: str) -> str:
        command = [path, "-hide_banner", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout

    version = said("-version").partition("\n")[0].partition(" Copyright")[0]
    grey = raw_frames(16, 16, 25, "gray")
    frame = grey.output("-", format="null", vcodec="mjpeg", **every_frame())
    try:
        run_graph(frame, folder, piped=bytes(16 * 16))
    except ValueError as error:
        oldest = ".".join(map(str, OLDEST))
        advice = f"install ffmpeg {oldest} or later with its MJPEG encoder"
        yield Finding("fails", f"ffmpeg: {path} ({version}) writes no frame ({error}): {advice}")
        return
    decoders = set(re.findall(r"^ V\S+ +(\S+)", said("-decoders"), re.MULTILINE))
    lacking = [name for name, of in DECODERS.items() if not decoders & set(of.split("|"))]
    if lacking:
        yield Finding(
            "note",
            f"ffmpeg: {path} ({version}) cannot read {', '.join(lacking)}: videos in that are left"
            " out as unreadable; install a fuller ffmpeg",
        )
    else:
        yield Finding("ok", f"ffmpeg: {path} ({version}) reads {', '.join(DECODERS)}")
    if "libx264" not in said("-encoders"):
        yield Finding(
            "note", f"ffmpeg: {path} has no libx264, which the demo and `predict --overlay` need"
        )


def _bsdtar(folder: Path, project: Project) -> Iterator[Finding]:
    program = shutil.which("bsdtar")
    if program is None:
        yield Finding(
            "note",
            "bsdtar: not here; the RAR archives of ucf101 and hmdb51 need it (of libarchive; on"
            " Debian: apt-get install libarchive-tools)",
        )
    else:
        yield Finding("ok", f"bsdtar: {program}, for RAR archives")


def _gpus(folder: Path, project: Project) -> Iterator[Finding]:
    config = project.config
    driver = re.search(r"Module\s+(?:for \S+\s+)?(\S+)", _text(DRIVER))
    known = f", driver {driver[1]}" if driver else ""
    wanted: State = "fails" if config.device == "cuda" else "note"
    if config.device == "cpu":
        yield Finding("ok", "GPUs: not asked for, as device: is cpu in config/config.yaml")
    elif not torch.cuda.is_available():
        reason = why_not_cuda() or "none is here"
        advice = "all is computed on the CPU, which is for small data sets"
        if wanted == "fails":
            advice = "let device: be auto or cpu in config/config.yaml, or give it a GPU"
        yield Finding(wanted, f"GPUs: torch can use none ({reason}{known}): {advice}")
    else:
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            native = bool(torch.version.hip) or gpu.major >= 8
            precision = "bf16 natively" if native else "no bf16 of its own: precision auto is fp32"
            text = f"GPU {number}: {gpu.name}, {gpu.total_memory / 1e9:.0f} GB, compute capability"
            yield Finding(
                "ok",
                f"{text} {gpu.major}.{gpu.minor}, {precision}; torch {torch.__version__}{known}",
            )
        gpus = len(visible_gpus())
        if gpus < config.gpus:
            yield Finding("fails", f"config/config.yaml: gpus: is {config.gpus}, of {gpus} here")


def _shared_memory(folder: Path, project: Project) -> Iterator[Finding]:
    if not shared_memory.SHM_FOLDER.is_dir():
        return
    on_gpu = project.config.device != "cpu" and torch.cuda.is_available()
    wanted = project.config.threads * project.config.gpus if on_gpu else 1
    recipes = project.recipes.values()
    batch = max((_largest_batch(recipe) for recipe in recipes), default=64 * 16 * 3 * 224**2)
    need, free = shared_memory.needed(wanted, batch), shared_memory.free()
    text = f"shared memory: {free / 1e9:.2g} GB are free in {shared_memory.SHM_FOLDER}"
    if free < need:
        advice = f"a training takes up to {need / 1e9:.2g} to load clips fast"
        yield Finding("note", f"{text}; {advice}: {shared_memory.ADVICE}")
    else:
        yield Finding("ok", text)


def _largest_batch(recipe: Recipe) -> int:
    """Bytes of the frames of the largest batch of any stage."""
    model, stages = recipe.model, recipe.stages
    frames = model.frames + (model.frames_apart or 0)
    largest = max(stages[name].batch_size for name in type(stages).model_fields)
    return largest * frames * 3 * model.frame_size**2


def _locks(folder: Path, project: Project) -> Iterator[Finding]:
    results = folder / "results"
    check_writable(results)
    place = (results if results.exists() else folder).absolute()
    try_it = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
        advice = "MLflow's SQLite store needs them: work on another disk, or put tracking_uri there"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            yield Finding("fails", f"locks: {place} has none ({error.strerror}); {advice}")
            return
        command = [sys.executable, "-S", "-c", try_it, file.name]
        other = subprocess.run(command, capture_output=True, timeout=20)
    if other.returncode == 0:
        yield Finding("fails", f"locks: {place} gives two processes the same one; {advice}")
        return
    mounted, kind, options = _mount(place)
    if ONE_MACHINE & {kind, *options}:
        yield Finding(
            "note",
            f"locks: those of {mounted} ({kind}) end at this machine: where jobs run on several,"
            " give MLflow a server (tracking_uri), or mount it with locks for all; outputs have"
            " locks of their own that need none",
        )
    else:
        yield Finding("ok", f"locks: processes keep out of each other's way on {mounted} ({kind})")


def _mount(path: Path) -> tuple[str, str, set[str]]:
    """Where the file system that holds a path is mounted, its kind and its options."""
    best = ("/", "unknown", "")
    for line in _text(Path("/proc/self/mounts")).splitlines():
        _, at, kind, options, *_ = line.split()
        at = at.replace("\\040", " ")
        if path.is_relative_to(at) and len(at) >= len(best[0]):
            best = (at, kind, options)
    return best[0], best[1], set(best[2].split(","))


def _weights(folder: Path, project: Project) -> Iterator[Finding]:
    models = [recipe.model for recipe in project.recipes.values()]
    sections = [section for model in models for section in (model.glancer, model.focuser)]
    wanted = {f"{s.name}{s.depth or ''}" for s in sections if s.pretrained == "imagenet"}
    if wanted:  # which takes seconds
        from torchvision.models import get_model_weights

        from adafocus.model.checkpoint import cached_weights, fetch_weights
    for name in sorted(wanted):
        url = get_model_weights(name).IMAGENET1K_V1.url
        path = cached_weights(url)
        if path.exists():
            yield Finding("ok", f"weights: {fetch_weights(url)}: whole")
        else:
            yield Finding(
                "note",
                f"weights: {path}: not there yet; the first job downloads it from {url}: without a"
                " network, put a copy there",
            )
    files = {s.pretrained for s in sections if s.pretrained is not None} - {"imagenet"}
    for file in sorted(files):
        there = (folder / file).exists()
        text = "is there" if there else "no such file; correct pretrained: in the recipe"
        yield Finding("ok" if there else "fails", f"weights: {file}: {text}")


def _mlflow(folder: Path, project: Project) -> Iterator[Finding]:
    uri = chosen(project.config.tracking_uri)
    database = database_of(uri)
    if uri.startswith(("http://", "https://")):
        address = without_password(uri)
        try:
            answer = requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_TIMEOUT)
        except requests.RequestException as error:
            reason = f"no answer ({type(error).__name__})"
        else:
            reason = "" if answer.ok else f"it answers {answer.status_code} {answer.reason}"
        if reason:
            yield Finding(
                "note",
                f"MLflow: {address}: {reason}; runs are kept on disk all the same, and `adafocus"
                " sync-tracking` uploads them later",
            )
        else:
            yield Finding("ok", f"MLflow: {address} answers")
    elif database is None:
        yield Finding(
            "note", f"MLflow: {uri.partition(':')[0]}: a store that is not looked at here"
        )
    elif not (path := folder / database).exists():
        yield Finding("ok", f"MLflow: {path}: made by the first run")
    else:
        yield _database(path)


def _database(path: Path) -> Finding:
    """What MLflow will say to its SQLite file."""
    try:
        tables = internals.tables_of(path, ANSWER_TIMEOUT)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            return Finding("note", f"MLflow: {path}: another program is writing to it")
        return Finding("fails", f"MLflow: {path}: not a store of MLflow's ({error}); move it away")
    if tables == "as now":
        return Finding("ok", f"MLflow: {path}: as MLflow makes it")
    if tables == "older":
        advice = f"`mlflow db upgrade {SQLITE}{path}`, after a copy of it"
        return Finding("fails", f"MLflow: {path}: of an older MLflow: {advice}")
    return Finding("fails", f"MLflow: {path}: of a newer MLflow: `pip install -U mlflow`")


def _disk(folder: Path, project: Project) -> Iterator[Finding]:
    data = folder / project.config.data
    ahead = {
        name: {"download", "frames"}
        for name in project.recipes
        if not (data / name / "splits" / "report.json").exists()
    }
    check_writable(data)
    lines = check_space(ahead, project.recipes, data)
    yield from (Finding("ok", f"disk: {line}") for line in lines)
    if not lines:
        there = next(path for path in (data, *data.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free
        yield Finding("ok", f"disk: {free / 1e9:,.0f} GB are free in {there}")


def _caches(folder: Path, project: Project) -> Iterator[Finding]:
    """Where Snakemake, Matplotlib and torchvision keep files of theirs."""
    home = Path(os.environ.get("HOME", "/"))
    caches = Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"))
    try:
        caches.mkdir(parents=True, exist_ok=True)
        check_writable(caches)
    except (OSError, WriteError):
        yield Finding(
            "fails",
            f"caches: {caches} cannot be written to, and Snakemake does not begin without: name a"
            " folder in XDG_CACHE_HOME, as `make` does by itself",
        )
    else:
        yield Finding("ok", f"caches: {caches}")


def _temporary_files(folder: Path, project: Project) -> Iterator[Finding]:
    wanted, taken = os.environ.get("TMPDIR"), tempfile.gettempdir()
    free = shutil.disk_usage(taken).free
    if wanted and Path(wanted).absolute() != Path(taken).absolute():
        yield Finding("fails", f"TMPDIR: {wanted} cannot be written to; make it, or unset TMPDIR")
    elif free < 2e9:
        yield Finding(
            "note",
            f"temporary files: {free / 1e9:.1f} GB are free in {taken}: set TMPDIR to a folder of"
            " a larger disk",
        )
    else:
        yield Finding("ok", f"temporary files: {free / 1e9:,.0f} GB are free in {taken}")


def _text(path: Path) -> str:
    """A file's content, nothing where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


CHECKS: tuple[Check, ...] = (
    _ffmpeg,
    _bsdtar,
    _gpus,
    _shared_memory,
    _locks,
    _weights,
    _mlflow,
    _disk,
    _caches,
    _temporary_files,
)
