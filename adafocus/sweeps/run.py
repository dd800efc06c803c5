"""A sweep: what there is of it is used, the rest is run, and the best is written."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adafocus import tracking
from adafocus.extras import require
from adafocus.machine.files import atomic, kept
from adafocus.recipe import MicroBatch, Precision, Recipe, Sweep, SweepBudget
from adafocus.sweeps.result import SweepError, importance, translated
from adafocus.sweeps.space import space, values_of
from adafocus.sweeps.trials import Job, keep_only, outcome, run_trials, trial_fingerprints

OF_TRIAL = ("trial", "values", "learning_rates", "best")
"""What the result says of the best trial and the recipe's apart from all of them."""


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
    """Trains a stage with many values of its numbers and writes which were best.

    Asynchronous successive halving (ASHA, Li et al., MLSys 2020) stops trials that are behind
    others after as many epochs. A trial that fails is recorded, and the others go on. Trials run on
    the Ray cluster at ``RAY_ADDRESS`` where the environment has one, which must see the same files,
    and else on this machine.

    Where ``output`` is there, or was kept aside, and nothing has changed for it, it stays as it is,
    and only its figure is drawn again.

    Args:
        recipe: the data set's recipe; its own numbers are those of the first trial.
        stage: one that each patch size has its own of.
        patch_size: in pixels.
        settings: how many trials, of which numbers, and what each may take.
        data: the data set's folder, with its splits.
        init: checkpoints of the stages before.
        output: the result to write, JSON. The trials lie in a folder of its name, and of the best
            one the resume file is kept, see `best_trial`.
        plot: the figure of accuracy against the numbers to write.
        seed: of all trials, and of the search.
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
        MissingExtra: where what it needs is not installed.
        RecipeError: where a number cannot be swept.
        SweepError: where no trial got through all its epochs.
    """
    require("sweep", "tracking", "plots")
    budget = SweepBudget(**{name: getattr(settings, name) for name in SweepBudget.model_fields})
    job = Job(
        recipe,
        stage,
        patch_size,
        budget,
        space(recipe, stage, budget),
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
    name = f"{output.stem}_sweep"
    record = output.with_name(f"{name}.run.json")
    if (before := _swept_before(job)) is not None:
        _leave(before, output, plot)
        # It may have been killed when all but this was done.
        keep_only(job, before["best"]["trial"])
        with suppress(ValueError):  # a record that is gone
            tracking.close(record, "FINISHED", job.tracking_uri)
        tqdm.write(f"{output}: swept before; its figure is drawn again")
        return before
    begun = sorted(run_trials(job, settings), key=attrgetter("number"))
    trials = [outcome(job, trial) for trial in begun]
    finished = [trial for trial in trials if trial["status"] == "finished"]
    if not finished:
        reasons = {trial["error"] for trial in trials if trial["error"]}
        raise SweepError(f"none of {len(trials)} trials came to its end: {'; '.join(reasons)}")
    best = max(finished, key=lambda trial: trial["best"])  # the first of equals
    own = values_of(recipe, job.numbers)
    first = next(trial for trial in trials if trial["values"] == own)
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
            "stage": recipe.spec(stage).number,
            "metric": recipe.metric,
            "epochs": job.epochs,
            "seed": seed,
            "budget": budget.model_dump(mode="json"),
            "numbers": {name: asdict(number) for name, number in job.numbers.items()},
            "best": {key: best[key] for key in OF_TRIAL},
            "recipe": {key: first[key] for key in OF_TRIAL},
            "importance": importance(trials, job.numbers),
            "plot": os.path.relpath(plot, output.parent),
            "trials": trials,
            "fingerprint": tracking.Record.read(job.record(best["trial"])).fingerprint,
            "anew": anew,
            "git_commit": tracking.git_commit(),
            "mlflow_run_id": run.id,
        }
        run.add_artifacts(output, plot)
        figures = {f"best_val_{recipe.metric}": best["best"]}
        figures |= {f"best_{_short(name)}": value for name, value in best["values"].items()}
        run.add_figures(figures, figures)
        _leave(result, output, plot)
        keep_only(job, best["trial"])
    return result


def _swept_before(job: Job) -> dict[str, Any] | None:
    """The result that is there or was kept aside, where the same sweep led to it."""
    own, same = values_of(job.recipe, job.numbers), trial_fingerprints(job)
    for path in (kept(job.output), job.output):
        try:
            found: dict[str, Any] = json.loads(path.read_text("utf-8"))
            told = translated(found)
            best = told["best"]
            unchanged = (
                SweepBudget(**told["budget"]) == job.budget
                and told["seed"] == job.seed
                and told["recipe"]["values"] == own
                and job.anew in (None, told.get("anew"))
            )
            fingerprints = same(best["values"], best["trial"]) if unchanged else []
            known = told.get("fingerprint")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        # Commit 78f3339 left it in the record alone.
        if known in fingerprints or (
            known is None and tracking.finished(job.record(best["trial"]), fingerprints)
        ):
            return found
    return None


def _leave(result: dict[str, Any], output: Path, plot: Path) -> None:
    """Writes a result and its figure."""
    from adafocus import figures

    figures.swept_numbers(translated(result), plot, title=output.stem)
    with atomic(output) as aside:
        aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    kept(output).unlink(missing_ok=True)


def _short(name: str) -> str:
    """A number's name in MLflow: that of a rate as ever, of others their place in the recipe."""
    _, _, rate = name.partition(".learning_rates.")
    return f"learning_rate_{rate}" if rate else name
