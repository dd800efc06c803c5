"""What every script of the workflow does around its one call of the package."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from platform import node
from typing import Any, TextIO

import psutil

import adafocus
from adafocus.data.names import one_line
from adafocus.machine.board import CLEARED
from adafocus.machine.energy import metered
from adafocus.machine.gpus import claim_gpus
from adafocus.machine.locks import Lock
from adafocus.machine.signals import Stop, Stopped
from adafocus.machine.sockets import no_loopback
from adafocus.recipe import Recipe, parse_recipe


@contextmanager
def job(snakemake: Any, output: Path | None = None) -> Iterator[Lock]:
    """Holds the lock of the job's output, and its GPUs, and sends what it prints to the job's log.
    What it consumes is written beside the benchmark that Snakemake leaves.

    It waits for another process that writes the same output, such as a job of a Snakemake that was
    killed; if that did the same work, the script ends here. The log also keeps what the attempts
    printed since the last that ended well. An error is one line on the terminal and a traceback in
    the log. A signal that asks the job to end ends it as an error would, so that nothing is left
    half done.

    Args:
        output: what is locked, if not the first output.
    """
    log = Path(snakemake.log[0])
    terminal = os.fdopen(os.dup(2), "w", errors="backslashreplace")
    # In the place of what Snakemake shows in a terminal's last line.
    start = CLEARED if terminal.isatty() else ""
    lock = Lock(output or Path(snakemake.output[0]), log.stem, _work(snakemake))
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        # Before the log is opened, as its holder may be writing there.
        lock.acquire()
        if lock.done_by and all(Path(path).exists() for path in snakemake.output):
            print(f"{start}{lock.output}: {lock.done_by} has made it", file=terminal)
            sys.exit()
        with _open(log) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        with ExitStack() as stack:
            gpus = []
            if snakemake.resources.get("gpu"):
                gpus = stack.enter_context(claim_gpus(snakemake.resources.gpu))
            stack.enter_context(metered(energy_of(log), gpus))
            yield lock
        _close(log)
    except Stopped as stopped:
        print(f"{start}{stopped.message} (log: {log})", file=terminal)
        raise
    except Exception as error:
        traceback.print_exc()
        reason = one_line(" ".join(str(error).split())) or type(error).__name__
        print(f"{start}Error: {reason} (log: {log})", file=terminal)
        sys.exit(1)
    finally:
        lock.release()


def energy_of(log: Path) -> Path:
    """The file of what a job consumed, by its log: benchmarks and logs have the same names."""
    return log.parents[1] / "benchmarks" / f"{log.stem}.energy.json"


def _work(snakemake: Any) -> str:
    """Digest of all that a job's output depends on, its inputs by their time."""
    facts = (
        snakemake.rule,
        dict(snakemake.wildcards.items()),
        dict(snakemake.params.items()),
        snakemake.config,
        [(path, os.stat(path).st_mtime_ns) for path in snakemake.input],
    )
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


ATTEMPT = "=== attempt "
"""How the first line of an attempt begins in a log."""


def _open(log: Path) -> TextIO:
    """Opens a log for another attempt, behind those before that did not end well.

    Snakemake removes a log before each attempt; its second name keeps it.
    """
    with suppress(OSError):  # the file system may have no hard links
        _kept(log).touch()
        log.unlink(missing_ok=True)
        os.link(_kept(log), log)
    number = log.read_text(errors="replace").count(ATTEMPT) + 1 if log.exists() else 1
    file = log.open("a")
    file.write(f"{ATTEMPT}{number}, {datetime.now():%Y-%m-%d %H:%M:%S}, on {node()}\n")
    file.flush()
    return file


def _close(log: Path) -> None:
    """Ends a log well: the next attempt is another job's."""
    with suppress(OSError):
        if not log.exists():  # a Snakemake whose job waits for this one removed it
            os.link(_kept(log), log)
        _kept(log).unlink()


def _kept(log: Path) -> Path:
    return log.with_name(f".{log.name}")


def _stop(number: int, _: object) -> None:
    raise Stopped(number, f"{signal.Signals(number).name} came")


def launch(snakemake: Any, lock: Lock, command: str, *arguments: object, **options: object) -> None:
    """Runs a command of `adafocus` in as many processes as the job has GPUs.

    They share its ``threads``. The first of them holds the output's lock, as they may outlive the
    job. Raises `ChildError` with the command's error line, and `Stopped` after a signal.
    """
    if reason := no_loopback():
        raise ChildError(f"several processes cannot train together: {reason}")
    gpus = snakemake.resources.gpu
    options["threads"] = max(1, options["threads"] // gpus)
    given = [str(argument) for argument in arguments]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            given += [f"--{name.replace('_', '-')}={one}"] if one is not None else []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={gpus}", "-m", "adafocus", command, *given]
    paths = [str(Path(adafocus.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    lock.release()
    with Stop() as stop:
        # Of SIGUSR1, which it must outlive, torchrun knows nothing.
        process = subprocess.Popen(
            torchrun,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            preexec_fn=lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        )
        while (status := process.poll()) is None:
            if stop.number:
                with suppress(psutil.NoSuchProcess):
                    for child in psutil.Process(process.pid).children():
                        child.send_signal(signal.SIGUSR1)
            time.sleep(0.5)
    logged = Path(snakemake.log[0]).read_text(errors="replace")
    said = logged.rpartition(ATTEMPT)[2].splitlines()
    if stop.number:
        saved = [line for line in said if " came: saved " in line]
        raise Stopped(stop.number, (saved or [f"{signal.Signals(stop.number).name} came"])[-1])
    if status:
        errors = [line.removeprefix("Error: ") for line in said if line.startswith("Error: ")]
        raise ChildError((errors or [f"torchrun ended with status {status}"])[-1])


class ChildError(Exception):
    """An error of a process that `launch` started."""


def recipe_of(snakemake: Any) -> Recipe:
    """The recipe of the job's experiment, as it was when the workflow started."""
    name = snakemake.wildcards.get("experiment") or snakemake.wildcards.dataset
    recipe = parse_recipe(snakemake.config["recipes"][name], source=f"config/recipes/{name}.yaml")
    return recipe.named(snakemake.wildcards.get("skip", ""))


def data_of(snakemake: Any) -> Path:
    """Folder of the job's data set."""
    return Path(snakemake.config["data"], recipe_of(snakemake).dataset)


def run_options(snakemake: Any) -> dict[str, Any]:
    """What training and evaluation are told alike: seed, device, threads and MLflow's store."""
    return {
        "seed": snakemake.params.seed,
        "device": snakemake.config["device"] if snakemake.resources.get("gpu") else "cpu",
        "threads": snakemake.threads,
        "tracking_uri": snakemake.config["tracking_uri"],
    }


def training_options(snakemake: Any) -> dict[str, Any]:
    """What training alone is told: how backbones compute, how many videos go through at once, and
    whether it starts over."""
    return {name: snakemake.config[name] for name in ("precision", "micro_batch", "anew")}
