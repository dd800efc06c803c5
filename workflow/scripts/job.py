"""What every script of the workflow does around its one call of the package."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from adafocus.gpus import claim_gpus
from adafocus.recipe import Recipe, parse_recipe
from adafocus.signals import Stopped


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


def recipe_of(snakemake: Any) -> Recipe:
    """The recipe of the job's data set, as it was when the workflow started."""
    dataset = snakemake.wildcards.dataset
    return parse_recipe(
        snakemake.config["recipes"][dataset], source=f"config/recipes/{dataset}.yaml"
    )


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
