"""Sweeps of a stage's learning rates with Ray Tune, and what the workflow makes of them.

A trial is real training of the stage at other rates, in a folder of its own beside the result. It
can be resumed as any training can, so a sweep that was killed is simply run again: finished trials
tell their epochs at once, cut-off ones go on. Of a sweep that is done the best trial's state is
kept, and its result stays as long as nothing changes for it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from adafocus import tracking
from adafocus.machine.files import kept, whole
from adafocus.recipe import MicroBatch, Precision, Recipe, Sweep, SweepBudget, parse_recipe

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


class SweepError(ValueError):
    """A sweep that has no result, or a result that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep share; paths are absolute, as trials may run on other machines."""

    recipe: Recipe
    stage: str
    patch_size: int
    budget: SweepBudget
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

    def checkpoint(self, trial: int) -> Path:
        """Of one trial, whose other files are named after it."""
        name = f"{self.output.stem}_trial_{trial:02d}.safetensors"
        return self.output.with_suffix("") / name

    def record(self, trial: int) -> Path:
        """What MLflow is told of a trial."""
        return self.checkpoint(trial).with_suffix(".run.json")


def draw_rates(rates: dict[str, float], budget: SweepBudget, seed: int) -> list[dict[str, float]]:
    """The learning rates of each trial by part: first those given, then others around them.

    They are log-uniform, from a Halton sequence: it leaves fewer gaps than independent draws do
    (Bergstra and Bengio, JMLR 2012, section 4), and a longer one begins with the shorter one.
    """
    from scipy.stats import qmc

    low, high = map(math.log10, budget.range)
    drawn = qmc.Halton(len(rates), rng=np.random.default_rng(seed)).random(budget.trials - 1)
    factors = 10 ** (low + (high - low) * drawn)
    return [
        dict(rates),
        *(
            # Four digits are enough, and can be read and typed.
            {
                part: float(f"{rate * factor:.4g}")
                for (part, rate), factor in zip(rates.items(), row, strict=True)
            }
            for row in factors
        ),
    ]


def with_rates(recipe: Recipe, stage: str, rates: dict[str, float]) -> Recipe:
    """The recipe with other learning rates for one stage."""
    values = recipe.to_dict()
    values["stages"][stage]["learning_rates"] = dict(rates)
    return parse_recipe(values, source=recipe.name)


# --- the sweep --------------------------------------------------------------------------------


def sweep(
    recipe: Recipe,
    stage: str,
    patch_size: int,
    settings: Sweep,
    *,
    data: Path,
    init: list[Path],
    output: Path,
    plot: Path,
    seed: int,
    device: str,
    threads: int,
    tracking_uri: str,
    precision: Precision = "auto",
    micro_batch: MicroBatch = "auto",
    anew: str | None = None,
) -> dict[str, Any]:
    """Trains a stage at many learning rates and writes which were best.

    Asynchronous successive halving (ASHA, Li et al., MLSys 2020) stops trials that are behind
    others after as many epochs. A trial that fails is recorded, and the others go on. Trials run on
    the Ray cluster at ``RAY_ADDRESS`` where the environment has one, which must see the same files,
    and else on this machine.

    Where ``output`` is there, or was kept aside, and nothing has changed for it, it stays as it is,
    and only its figure is drawn again.

    Args:
        recipe: the data set's recipe; its own rates are those of the first trial.
        stage: ``stage1``, ``stage2`` or ``stage3``.
        patch_size: in pixels.
        settings: how many trials, in which range, and what each may take.
        data: the data set's folder, with its splits.
        init: checkpoints of the stages before.
        output: the result to write, JSON. The trials lie in a folder of its name, and of the best
            one the resume file is kept, see `best_trial`.
        plot: the figure of accuracy against rates to write.
        seed: of all trials, and of their rates.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads to use on this machine.
        tracking_uri: MLflow's store.
        precision: as `train` takes it.
        micro_batch: likewise.
        anew: any word; what was not swept under the same one is swept anew, see
            `adafocus.methods.train`.

    Returns:
        What ``output`` holds.

    Raises:
        SweepError: where no trial got through all its epochs.
    """
    budget = SweepBudget(trials=settings.trials, range=settings.range)
    job = Job(
        recipe,
        stage,
        patch_size,
        budget,
        data.absolute(),
        tuple(path.absolute() for path in init),
        output.absolute(),
        seed,
        device,
        threads,
        tracking.absolute(tracking_uri),
        precision,
        micro_batch,
        anew,
    )
    drawn = draw_rates(recipe.stages[stage].learning_rates, budget, seed)
    name = f"{output.stem}_sweep"
    record = output.with_name(f"{name}.run.json")
    if (before := _swept_before(job, drawn)) is not None:
        _leave(before, output, plot)
        # It may have been killed when all but this was done.
        _keep_only(job, before["best"]["trial"])
        with suppress(ValueError):  # a record that is gone
            tracking.close(record, "FINISHED", job.tracking_uri)
        tqdm.write(f"{output}: swept before; its figure is drawn again")
        return before
    errors = _run_trials(job, drawn, settings)
    trials = [
        _outcome(job, number, rates, error)
        for number, (rates, error) in enumerate(zip(drawn, errors, strict=True))
    ]
    finished = [trial for trial in trials if trial["status"] == "finished"]
    if not finished:
        reasons = {trial["error"] for trial in trials if trial["error"]}
        raise SweepError(f"none of {len(trials)} trials came to its end: {'; '.join(reasons)}")
    best = max(finished, key=lambda trial: trial["best"])  # the first of equals
    with tracking.run(
        job.tracking_uri,
        record=record,
        name=name,
        **tracking.identity(recipe, patch_size, stage, "sweep", seed, job.chain),
        parameters={"seed": seed, "sweep": budget.model_dump(mode="json")},
    ) as run:
        result = {
            "dataset": recipe.dataset,
            "experiment": recipe.name,
            "patch_size": patch_size,
            "stage": int(stage.removeprefix("stage")),
            "metric": recipe.metric,
            "epochs": recipe.stages[stage].epochs,
            "seed": seed,
            "budget": budget.model_dump(mode="json"),
            "best": {key: best[key] for key in ("trial", "learning_rates", "best")},
            "recipe": {key: trials[0][key] for key in ("trial", "learning_rates", "best")},
            "importance": importance(trials),
            "plot": os.path.relpath(plot, output.parent),
            "trials": trials,
            "fingerprint": tracking.Record.read(job.record(best["trial"])).fingerprint,
            "anew": anew,
            "git_commit": tracking.git_commit(),
            "mlflow_run_id": run.id,
        }
        run.add_artifacts(output, plot)
        figures = {f"best_val_{recipe.metric}": best["best"]}
        figures |= {f"best_learning_rate_{k}": v for k, v in best["learning_rates"].items()}
        run.add_figures(figures, figures)
        _leave(result, output, plot)
        _keep_only(job, best["trial"])
    return result


def _swept_before(job: Job, drawn: Sequence[dict[str, float]]) -> dict[str, Any] | None:
    """The result that is there or was kept aside, where the same trials would lead to it again."""
    for path in (kept(job.output), job.output):
        try:
            found = json.loads(path.read_text("utf-8"))
            same = (
                SweepBudget(**found["budget"]) == job.budget
                and found["seed"] == job.seed
                and [trial["learning_rates"] for trial in found["trials"]] == drawn
                and job.anew in (None, found.get("anew"))
            )
            record = job.record(found["best"]["trial"])
            recipe = with_rates(job.recipe, job.stage, found["best"]["learning_rates"])
            known = found.get("fingerprint")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if not same:
            continue
        accepted = _accepted(job, recipe, record)
        # Commit 78f3339 left it in the record alone.
        if known in accepted or (known is None and tracking.finished(record, accepted)):
            return found
    return None


def _accepted(job: Job, recipe: Recipe, record: Path) -> list[str]:
    """The fingerprints that a trial with this recipe may have; with the precision left to the GPUs,
    which may be a cluster's, of each."""
    from adafocus.data.clips import digest_of, digest_of_replaced, digest_of_sizes
    from adafocus.machine.device import PRECISIONS
    from adafocus.methods import begin
    from adafocus.training import fingerprint

    _, start = begin(recipe, job.stage, job.patch_size, job.init)
    return fingerprint.accepted(
        recipe,
        job.stage,
        job.patch_size,
        seed=job.seed,
        data=[digest_of(job.data, split) for split in ("train", "val")],
        sizes=digest_of_sizes(job.data, "train", "val"),
        replaced=digest_of_replaced(job.data, "train", "val"),
        start=start,
        init=job.init,
        record=record,
        precisions=list(PRECISIONS) if job.precision == "auto" else [job.precision],
    )


def _leave(result: dict[str, Any], output: Path, plot: Path) -> None:
    """Writes a result and its figure."""
    from adafocus import figures

    figures.swept_rates(result, plot, title=f"{output.stem}: learning rates")
    with whole(output) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    kept(output).unlink(missing_ok=True)


def _run_trials(job: Job, drawn: Sequence[dict[str, float]], settings: Sweep) -> list[str | None]:
    """Runs the trials; returns why each failed, None where it did not."""
    os.environ.update(RAY)
    if "RAY_ADDRESS" not in os.environ:
        os.environ.update(LOOPBACK, RAY_AUTH_TOKEN=secrets.token_hex(32))
    elif "RAY_AUTH_TOKEN" in os.environ or Path("~/.ray/auth_token").expanduser().exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # which `ray start` asks for
    # It would warn of files that were not asked for.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    epochs, parts = job.recipe.stages[job.stage].epochs, list(drawn[0])
    metric = f"val_{job.recipe.metric}"
    folder = job.output.with_suffix("")
    # Ray's own choice is a name that others on the machine can guess, and take before.
    own = TemporaryDirectory(
        prefix="ray-", dir=os.environ.get("RAY_TMPDIR"), ignore_cleanup_errors=True
    )
    try:
        ray.init(**_cluster(job, own.name))
    except ConnectionError as error:
        address = os.environ.get("RAY_ADDRESS", "this machine")
        raise SweepError(f"no Ray at {address}, RAY_ADDRESS: {error}") from None
    try:
        on_gpu = job.device != "cpu" and "GPU" in ray.cluster_resources()
        gpus = settings.gpus_per_trial if on_gpu else 0
        cpus = min(settings.cpus_per_trial, int(ray.cluster_resources()["CPU"]))
        trial = tune.with_parameters(
            _train, job=job, threads=cpus, device="cuda" if gpus else "cpu"
        )
        grid = tune.Tuner(
            tune.with_resources(trial, {"cpu": cpus, "gpu": gpus}),
            param_space={"trial": tune.randint(0, len(drawn))}
            | {part: tune.loguniform(*job.budget.range) for part in parts},
            tune_config=tune.TuneConfig(
                metric=metric,
                mode="max",
                num_samples=len(drawn),
                # All are given, so that a later run draws the same.
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=[{"trial": n} | rates for n, rates in enumerate(drawn)]
                ),
                scheduler=ASHAScheduler(
                    "epoch",
                    max_t=epochs,
                    grace_period=max(1, epochs // REDUCTION**RUNGS),
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
                    parameter_columns=["trial", *parts],
                    max_progress_rows=len(drawn),
                    max_report_frequency=30,
                ),
            ),
        ).fit()
        return [_reason(result.error) for result in grid]
    finally:
        ray.shutdown()
        own.cleanup()
        shutil.rmtree(folder / "ray", ignore_errors=True)


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


def _train(config: dict[str, Any], job: Job, threads: int, device: str) -> None:
    """One trial, in a process of Ray's."""
    from ray import tune

    from adafocus.methods import train

    rates = {part: rate for part, rate in config.items() if part != "trial"}
    checkpoint = job.checkpoint(config["trial"])
    train(
        with_rates(job.recipe, job.stage, rates),
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
        # Trials are compared after epochs with a validation.
        on_epoch=lambda row: tune.report(row) if f"val_{job.recipe.metric}" in row else None,
    )


def _outcome(job: Job, number: int, rates: dict[str, float], error: str | None) -> dict[str, Any]:
    """What became of a trial, by the files that it left; its run in MLflow ends if it did not."""
    epochs, metric = job.recipe.stages[job.stage].epochs, f"val_{job.recipe.metric}"
    rows: list[dict[str, float]] = []
    if (path := job.record(number)).exists():
        try:
            rows = tracking.Record.read(path).rows(path.parent)
            tracking.close(path, "FAILED" if error else "KILLED", job.tracking_uri)
        except ValueError as unreadable:
            error = error or str(unreadable)
    done = "finished" if len(rows) == epochs else "stopped early"
    return {
        "trial": number,
        "learning_rates": rates,
        "status": "failed" if error else done,
        "epochs": len(rows),
        "best": max((row[metric] for row in rows if metric in row), default=None),
        "seconds": sum(row["seconds"] for row in rows),
        "error": error,
    }


def _keep_only(job: Job, best: int) -> None:
    """Removes the trials' large files, but what the stage can go on from."""
    kept = job.checkpoint(best).with_suffix(".resume.pt")
    for pattern in ("*.safetensors", "*.resume*.pt"):
        for path in kept.parent.glob(pattern):
            if path != kept:
                path.unlink()


def importance(trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How much of the accuracy each part's rate decides, as shares of 1.

    A random forest learns the accuracy from the rates' logarithms; a rate matters as much as the
    forest errs more when that rate is shuffled among the trials (Breiman, 2001, section 10). Zero
    where no rate matters or the trials are too few to tell.

    Args:
        trials: as in a sweep's result.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    known = [trial for trial in trials if trial["best"] is not None]
    parts = list(trials[0]["learning_rates"])
    if len(known) < 4:
        return dict.fromkeys(parts, 0.0)
    rates = np.log10([[trial["learning_rates"][part] for part in parts] for trial in known])
    accuracy = [trial["best"] for trial in known]
    forest = RandomForestRegressor(random_state=0).fit(rates, accuracy)
    errs = permutation_importance(forest, rates, accuracy, n_repeats=20, random_state=0)
    shares = np.clip(errs.importances_mean, 0, None)
    return dict(zip(parts, (shares / max(shares.sum(), 1e-9)).tolist(), strict=True))


# --- what stages make of it ---------------------------------------------------------------------


def use_best(recipe: Recipe, sweeps: Sequence[Path]) -> Recipe:
    """The recipe with the best rates of sweeps, and with their budget as `Recipe.swept`.

    Args:
        recipe: a data set's.
        sweeps: results of its stages' sweeps; without any the recipe stays as it is.

    Raises:
        SweepError: where a file is no such result.
    """
    for path in sweeps:
        try:
            found = json.loads(path.read_text("utf-8"))
            recipe = with_rates(recipe, f"stage{found['stage']}", found["best"]["learning_rates"])
            recipe = recipe.model_copy(update={"swept": SweepBudget(**found["budget"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SweepError(f"{path}: not the result of a sweep ({error!r})") from None
    return recipe


def best_trial(sweep: Path) -> Path:
    """The resume file of a sweep's best trial, which has trained its stage already.

    Args:
        sweep: the sweep's result.
    """
    best = json.loads(sweep.read_text("utf-8"))["best"]["trial"]
    return sweep.with_suffix("") / f"{sweep.stem}_trial_{best:02d}.resume.pt"
