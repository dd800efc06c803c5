"""What every script of the workflow does around its one call of the package."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

import adafocus
from adafocus.gpus import claim_gpus
from adafocus.recipe import Recipe, parse_recipe
from adafocus.signals import Stop, Stopped


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Sends all output to the job's log, that of child processes too, and holds the job's GPUs.

    An error is one line on the terminal and a traceback in the log. A signal that asks the job to
    end ends it as an error would, so that nothing is left half done.
    """
    log = Path(snakemake.log[0])
    terminal = os.fdopen(os.dup(2), "w")
    try:
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, _stop)
        with ExitStack() as stack:
            if snakemake.resources.get("gpu"):
                stack.enter_context(claim_gpus(snakemake.resources.gpu))
            yield
    except Stopped as stopped:
        print(f"{stopped.message} (log: {log})", file=terminal)
        raise
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"Error: {reason} (log: {log})", file=terminal)
        sys.exit(1)


def _stop(number: int, _: object) -> None:
    raise Stopped(number, f"{signal.Signals(number).name} came")


def launch(snakemake: Any, command: str, *arguments: object, **options: object) -> None:
    """Runs a command of `adafocus` in as many processes as the job has GPUs.

    They share its ``threads``. Raises `ChildError` with the command's error line, and `Stopped`
    after a signal.
    """
    gpus = snakemake.resources.gpu
    options["threads"] = max(1, options["threads"] // gpus)
    given = [str(argument) for argument in arguments]
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            given += [f"--{name.replace('_', '-')}={one}"] if one is not None else []
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += [f"--nproc-per-node={gpus}", "-m", "adafocus", command, *given]
    paths = [str(Path(adafocus.__file__).parents[1]), os.environ.get("PYTHONPATH")]
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
    said = Path(snakemake.log[0]).read_text(errors="replace").splitlines()
    if stop.number:
        saved = [line for line in said if " came: saved " in line]
        raise Stopped(stop.number, (saved or [f"{signal.Signals(stop.number).name} came"])[-1])
    if status:
        errors = [line.removeprefix("Error: ") for line in said if line.startswith("Error: ")]
        raise ChildError((errors or [f"torchrun ended with status {status}"])[-1])


class ChildError(Exception):
    """An error of a process that `launch` started."""


def recipe_of(snakemake: Any) -> Recipe:
    """The recipe of the job's data set, as it was when the workflow started."""
    dataset = snakemake.wildcards.dataset
    recipe = parse_recipe(
        snakemake.config["recipes"][dataset], source=f"config/recipes/{dataset}.yaml"
    )
    return recipe.named(snakemake.wildcards.get("skip", ""))


def data_of(snakemake: Any) -> Path:
    """Folder of the job's data set."""
    return Path(snakemake.config["data"], snakemake.wildcards.dataset)


def run_options(snakemake: Any) -> dict[str, Any]:
    """What training and evaluation are told alike: seed, device, threads and MLflow's store."""
    return {
        "seed": snakemake.params.seed,
        "device": snakemake.config["device"] if snakemake.resources.get("gpu") else "cpu",
        "threads": snakemake.threads,
        "tracking_uri": snakemake.config["tracking_uri"],
    }
