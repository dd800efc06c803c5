"""The trials of a sweep, as Ray Tune runs them, and what they leave on disk."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from adafocus import tracking
from adafocus.machine.sockets import no_loopback, no_server
from adafocus.recipe import MicroBatch, Precision, Recipe, Sweep, SweepBudget, parse_recipe
from adafocus.sweeps.result import SweepError
from adafocus.sweeps.space import Number, values_of, with_values

if TYPE_CHECKING:
    from ray.tune.search import Searcher

REDUCTION, RUNGS = 4, 2
"""ASHA compares trials after a quarter and a sixteenth of the epochs; one in four goes on."""
RAY = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
"""Ray's settings: the plain table of all trials as progress, no usage reports, and no files of its
own beside ours."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""Settings of a Ray of our own: its servers bind to loopback, as by default they do but on Linux,
and ask for a token."""


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share; paths are absolute, as trials may run on other machines."""

    recipe: Recipe
    stage: str
    patch_size: int
    budget: SweepBudget
    numbers: Mapping[str, Number]
    """What is tried."""
    data: Path
    init: tuple[Path, ...]
    output: Path
    """The sweep's result."""
    seed: int
    device: str
    threads: int
    tracking_uri: str
    precision: Precision
    micro_batch: MicroBatch
    anew: str | None = None

    @property
    def chain(self) -> tracking.Chain:
        return tracking.Chain.of_sweep(
            self.recipe, self.patch_size, self.stage, self.budget, self.seed
        )

    @property
    def epochs(self) -> int:
        return self.recipe.stages[self.stage].epochs

    def checkpoint(self, trial: int) -> Path:
        """Of one trial, whose other files are named after it."""
        name = f"{self.output.stem}_trial_{trial:02d}.safetensors"
        return self.output.with_suffix("") / name

    def record(self, trial: int) -> Path:
        """What MLflow is told of a trial."""
        return self.checkpoint(trial).with_suffix(".run.json")


class Trial(NamedTuple):
    """One trial, by what it tries."""

    number: int
    values: dict[str, float]
    over: bool = False
    """whether it needs no training any more"""
    error: str | None = None
    """why it failed, if it did"""


# --- what there is of them --------------------------------------------------------------------


def trials_before(job: Job) -> list[Trial]:
    """The trials that were begun before and would be trained the same now, by their records.

    Such may be of a sweep that was killed, or of a smaller or larger one.
    """
    found = []
    same = trial_fingerprints(job)
    for path in job.output.with_suffix("").glob(f"{job.output.stem}_trial_*.run.json"):
        try:
            record = tracking.Record.read(path)
            recipe = parse_recipe(record.recipe, source=str(path))
            values = values_of(recipe, job.numbers)
            number = int(path.name.removesuffix(".run.json").rpartition("_")[2])
        except ValueError:  # no record, or of another version of the recipe
            continue
        if record.fingerprint in same(values, number):
            found.append(Trial(number, values, _is_over(job, number, record)))
    return sorted(found, key=attrgetter("number"))


def trial_fingerprints(job: Job) -> Callable[[Mapping[str, float], int], list[str]]:
    """Gives the fingerprints that a trial may have, by its values and number; with the precision
    left to the GPUs, which may be a cluster's, those of each."""
    from adafocus.machine.device import PRECISIONS
    from adafocus.methods import begin, fingerprints

    _, start = begin(job.recipe, job.stage, job.patch_size, job.init)

    def fingerprints_of(values: Mapping[str, float], number: int) -> list[str]:
        return fingerprints(
            with_values(job.recipe, values),
            job.stage,
            job.patch_size,
            seed=job.seed,
            data=job.data,
            start=start,
            init=job.init,
            record=job.record(number),
            precisions=list(PRECISIONS) if job.precision == "auto" else [job.precision],
        )

    return fingerprints_of


def _is_over(job: Job, number: int, record: tracking.Record) -> bool:
    """Whether a trial came to its end, or was stopped early by a sweep that did, and that removed
    its state."""
    epochs = len(record.rows(job.output.with_suffix("")))
    finished = record.status == "FINISHED" and epochs == job.epochs
    state = job.checkpoint(number).with_suffix(".resume.pt")
    return finished or (record.status == "KILLED" and epochs > 0 and not state.exists())


def outcome(job: Job, trial: Trial) -> dict[str, Any]:
    """What became of a trial, by the files that it left; its run in MLflow ends if it did not."""
    metric, error = f"val_{job.recipe.metric}", trial.error
    rows: list[dict[str, float]] = []
    if (path := job.record(trial.number)).exists():
        try:
            rows = tracking.Record.read(path).rows(path.parent)
            tracking.close(path, "FAILED" if error else "KILLED", job.tracking_uri)
        except ValueError as unreadable:
            error = error or str(unreadable)
    done = "finished" if len(rows) == job.epochs else "stopped early"
    recipe = with_values(job.recipe, trial.values)
    return {
        "trial": trial.number,
        "values": trial.values,
        "learning_rates": recipe.stages[job.stage].learning_rates,
        "status": "failed" if error else done,
        "epochs": len(rows),
        "best": max((row[metric] for row in rows if metric in row), default=None),
        "seconds": sum(row["seconds"] for row in rows),
        "error": error,
    }


def keep_only(job: Job, best: int) -> None:
    """Removes the trials' large files, but what the stage can go on from."""
    kept = job.checkpoint(best).with_suffix(".resume.pt")
    for pattern in ("*.safetensors", "*.resume*.pt"):
        for path in kept.parent.glob(pattern):
            if path != kept:
                path.unlink()


# --- running them -----------------------------------------------------------------------------


def run_trials(job: Job, settings: Sweep) -> list[Trial]:
    """Runs as many trials as the budget has; returns them in order.

    First the recipe's own numbers are tried, then those of trials that were begun before, then what
    Optuna proposes: at random in the beginning, later where trials did well (TPE, Bergstra et al.,
    NeurIPS 2011). A trial that is over tells what it told before.
    """
    os.environ.update(RAY)
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.update(LOOPBACK, RAY_AUTH_TOKEN=secrets.token_hex(32))
    elif "RAY_AUTH_TOKEN" in os.environ or Path("~/.ray/auth_token").expanduser().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # which `ray start` asks for
    # It would warn of files that were not asked for.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    metric = f"val_{job.recipe.metric}"
    folder = job.output.with_suffix("")
    known = trials_before(job)
    before = tried_first(job, known)[: job.budget.trials]
    # Under a word that is new their states are looked at, which know it.
    over = {trial.number for trial in before if trial.over and not job.anew}
    begun: list[Trial] = []
    # Ray itself would try without end.
    if address and (reason := no_server(address)):
        raise SweepError(f"no Ray at {address}, RAY_ADDRESS: {reason}")
    if not address and (reason := no_loopback()):
        raise SweepError(f"Ray cannot begin: {reason}")
    # Ray's own choice is a name that others on the machine can guess, and take before.
    own = TemporaryDirectory(
        prefix="ray-", dir=os.environ.get("RAY_TMPDIR"), ignore_cleanup_errors=True
    )
    try:
        ray.init(**_cluster(job, own.name))
    except OSError as error:
        if address:
            raise SweepError(f"no Ray at {address}, RAY_ADDRESS: {error}") from None
        raise SweepError(
            f"Ray cannot begin: {error}; name a folder with room, of a short path, in RAY_TMPDIR"
        ) from None
    try:
        on_gpu = job.device != "cpu" and "GPU" in ray.cluster_resources()
        gpus = settings.gpus_per_trial if on_gpu else 0
        cpus = min(settings.cpus_per_trial, int(ray.cluster_resources()["CPU"]))
        trial = tune.with_parameters(
            _train, job=job, over=over, threads=cpus, device="cuda" if gpus else "cpu"
        )
        grid = tune.Tuner(
            tune.with_resources(trial, {"cpu": cpus, "gpu": gpus}),
            tune_config=tune.TuneConfig(
                metric=metric,
                mode="max",
                num_samples=job.budget.trials,
                search_alg=optuna_search(job, metric, before, _free([*known, *before]), begun),
                scheduler=ASHAScheduler(
                    "epoch",
                    max_t=job.epochs,
                    grace_period=max(1, job.epochs // REDUCTION**RUNGS),
                    reduction_factor=REDUCTION,
                    stop_last_trials=False,
                ),
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"trial_{trial.config['trial']:02d}",
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder),
                verbose=1,
                progress_reporter=tune.CLIReporter(
                    metric_columns={"epoch": "epoch", metric: metric, "seconds": "s/epoch"},
                    parameter_columns={"trial": "trial"}
                    | {name: name.rpartition(".")[2] for name in job.numbers},
                    max_progress_rows=job.budget.trials,
                    max_report_frequency=30,
                ),
            ),
        ).fit()
        errors = [grid[place].error for place in range(len(grid))]
        return [
            trial._replace(error=_reason(error)) for trial, error in zip(begun, errors, strict=True)
        ]
    finally:
        ray.shutdown()
        own.cleanup()
        shutil.rmtree(folder / "ray", ignore_errors=True)


def tried_first(job: Job, known: list[Trial]) -> list[Trial]:
    """The trial of the recipe's own numbers, begun or not, and those that were begun before between
    the bounds of now."""
    own = values_of(job.recipe, job.numbers)
    first = next((trial for trial in known if trial.values == own), None)
    if first is None:
        first = Trial(next(_free(known)), own)
    within = [
        trial
        for trial in known
        if all(value in job.numbers[name] for name, value in trial.values.items())
    ]
    return [first, *(trial for trial in within if trial != first)]


def _free(trials: Collection[Trial]) -> Iterator[int]:
    """Numbers that none of the trials has."""
    taken = {trial.number for trial in trials}
    return (number for number in count() if number not in taken)


def optuna_search(
    job: Job, metric: str, before: list[Trial], numbers: Iterator[int], begun: list[Trial]
) -> Searcher:
    """Optuna's search through Ray, which tries the trials of ``before`` first, gives the others
    ``numbers``, and notes in ``begun`` which there are."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    free = list(islice(numbers, job.budget.trials))  # which can be pickled

    class Search(OptunaSearch):
        def suggest(self, trial_id: str) -> dict[str, float]:
            values = super().suggest(trial_id)
            if len(begun) < len(before):
                trial = before[len(begun)]
            else:
                assert values is not None  # as where nothing bounds the trials
                rounded = {
                    name: number.rounded(values[name]) for name, number in job.numbers.items()
                }
                trial = Trial(free.pop(0), rounded)
            begun.append(trial)
            return {"trial": trial.number, **trial.values}

    # Not what a sweep drew that had fewer trials, or was killed.
    rng = np.random.default_rng([job.seed, len(before)])
    return Search(
        {name: number.distribution for name, number in job.numbers.items()},
        metric=metric,
        mode="max",
        points_to_evaluate=[trial.values for trial in before],
        seed=int(rng.integers(2**31)),
    )


def _train(
    config: dict[str, Any], job: Job, over: Collection[int], threads: int, device: str
) -> None:
    """One trial, in a process of Ray's."""
    from ray import tune

    from adafocus.methods import train

    def report(row: Mapping[str, float]) -> None:
        # Trials are compared after epochs with a validation.
        if f"val_{job.recipe.metric}" in row:
            tune.report(row)

    checkpoint = job.checkpoint(config["trial"])
    if config["trial"] in over:
        for row in tracking.Record.read(job.record(config["trial"])).rows(checkpoint.parent):
            report(row)
        return
    recipe = with_values(job.recipe, {name: config[name] for name in job.numbers})
    train(
        recipe.model_copy(update={"swept": job.budget}),  # so that MLflow is told the numbers
        job.stage,
        job.patch_size,
        data=job.data,
        init=list(job.init),
        output=checkpoint,
        curves=checkpoint.with_suffix(".curves.svg"),
        seed=job.seed,
        device=device,
        threads=threads,
        tracking_uri=job.tracking_uri,
        precision=job.precision,
        micro_batch=job.micro_batch,
        anew=job.anew,
        trial_of=job.chain,
        on_epoch=report,
    )


def _reason(error: Exception | None) -> str | None:
    """Why a trial failed, in one line."""
    if error is None:
        return None
    cause = getattr(error, "cause", None)  # what was raised in the trial's process
    if cause is None:
        return f"its process died ({type(error).__name__})"
    return " ".join(str(cause).split()) or type(cause).__name__


def _cluster(job: Job, folder: str) -> dict[str, Any]:
    """Arguments of `ray.init`; a Ray of this machine keeps its files in ``folder``."""
    settings: dict[str, Any] = {
        "log_to_driver": False,
        "runtime_env": {"env_vars": {"MLFLOW_TRACKING_URI": job.tracking_uri}},
    }
    if address := os.environ.get("RAY_ADDRESS"):
        return settings | {"address": address}
    import torch

    from adafocus.machine.device import pick_device

    on_gpu = pick_device(job.device).type == "cuda"
    return settings | {
        "address": "local",
        "num_cpus": job.threads,
        "num_gpus": torch.cuda.device_count() if on_gpu else 0,
        "include_dashboard": False,
        "_temp_dir": folder,
    }
