"""What the configuration, the recipes and this call's targets ask for."""

import json
import os
import re
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path

from snakemake.exceptions import WorkflowError

from adafocus.data import DataError, listing, splits
from adafocus.data.annotations import annotation_files
from adafocus.data.disk import check_space
from adafocus.data.names import one_line
from adafocus.machine.files import WriteError, check_writable, keep, atomic
from adafocus.machine.gpus import visible_gpus, why_no_gpu
from adafocus.machine.locks import enter
from adafocus.recipe import (
    SEED,
    SPECS,
    Phase,
    RecipeError,
    differences,
    find_recipe,
    load_recipes,
    parse_config,
    read_config,
    results_in,
)
from adafocus.sweeps.space import space


@contextmanager
def one_line_errors():
    try:
        yield
    except (DataError, RecipeError, WorkflowError, WriteError) as error:
        sys.exit(f"Error: {one_line(str(error))}")


def recipe_of(wildcards):
    """The recipe of an experiment, where there is one and it allows the patch size, cost of a look
    and stage; or that of a data set, which is not one that extends another."""
    with one_line_errors():
        name = wildcards.get("experiment") or wildcards.dataset
        recipe = find_recipe(recipes, name)
        if "dataset" in wildcards.keys() and recipe.extends:
            raise RecipeError(
                f"{name} has no data of its own: it shares {config['data']}/{recipe.dataset}"
            )
        if "patch_size" in wildcards.keys():
            recipe.check_patch_size(int(wildcards.patch_size))
        if "stage" in wildcards.keys():
            spec = spec_of(recipe, wildcards.stage)
            if wildcards.get("skip") and not spec.has_policy:
                raise RecipeError(
                    f"{recipe.name}: {spec.title} has no policy that could skip frames"
                )
        if wildcards.get("seed") in (f"{SEED}0", f"{SEED}{settings.plain_seed}"):
            raise RecipeError(
                f"{recipe.name}: what is of seed {settings.plain_seed} has names that tell no seed:"
                f" leave out {wildcards.seed}"
            )
        return recipe.named(wildcards.get("skip", ""))


def spec_of(recipe, ending):
    """The stage of a recipe's method whose results end like this."""
    for spec in recipe.table:
        if spec.of_patch_size and spec.ending == ending:
            return spec
    finished = Phase(recipe.name, recipe.last.name, recipe.patch_sizes[0])
    raise RecipeError(
        f"{recipe.name} has no {ending.removeprefix('_') or 'model without stages'}; the result of"
        f" its finished model is results/{finished.name}.json"
    )


def seed_of(wildcards):
    """The seed of what the wildcards name."""
    told = wildcards.get("seed", "").removeprefix(SEED)
    return int(told) if told else settings.plain_seed


def recipe_text(recipe, names, **others):
    """Entries of a recipe, and others, in a form that neither their order changes nor an entry that
    says what is the default anyhow."""
    given = recipe.model_dump(mode="json", exclude_defaults=True)
    found = {
        name: reduce(lambda section, key: section.get(key, {}), name.split("."), given)
        for name in names
    }
    return json.dumps(found | others, sort_keys=True)


def recipe_entries(*names, of_config=()):
    """Function of the wildcards for `params`: these entries of the recipe, and of config.yaml, as
    text. `{stage}` in a name is the stage that the wildcards name.

    What depends on them is made again when they change, and not when the rest of the recipe does.
    """

    def entries(wildcards):
        recipe = recipe_of(wildcards)
        named = "stage" in wildcards.keys()
        stage = spec_of(recipe, wildcards.stage).name if named else None
        filled = [name.format(stage=stage) for name in names]
        defaults = type(settings).model_fields
        others = {
            name: config[name] for name in of_config if config[name] != defaults[name].default
        }
        return recipe_text(recipe, filled, **others)

    return entries


def sources_of(wildcards):
    """For `params`: where the data set comes from, written as commit 78f3339 did, whose chains are
    not to bring their videos again: defaults stand there too, but those of later entries."""
    known = {"annotations", "archives", "classes", "positions", "seed", "separator", "strip", "url"}

    def written(section):
        given = section.model_dump(mode="json", exclude_defaults=True)
        entries = section.model_dump(mode="json").items()
        return {name: value for name, value in entries if name in given or name in known}

    recipe = recipe_of(wildcards)
    return {"source": written(recipe.source), "annotations": written(recipe.annotations)}


def manifests_of(wildcards):
    """What each shard of the frame extraction leaves."""
    recipe = recipe_of(wildcards)
    folder = f"{config['data']}/{recipe.videos_of}/manifests"
    return [f"{folder}/{shard}.csv" for shard in range(recipe.frames.shards)]


def splits_of(wildcards):
    """The split files that training and evaluation read."""
    names = ("train.csv", "val.csv", "classes.txt")
    folder = f"{config['data']}/{dataset_of(wildcards)}/splits"
    return [f"{folder}/{name}" for name in names]


def dataset_of(wildcards):
    """Whose videos, frames and splits an experiment uses."""
    return recipe_of(wildcards).dataset


@cache
def mark_changes(dataset):
    """Leaves a file that is newer than what was made of a data set's videos, or of its annotations,
    where these have changed since; returns the folder of such files.

    Snakemake alone sees no file that took another's place and is older, and no folder's content. It
    has not looked into this folder when it asks what a job needs.
    """
    recipe, folder = recipes[dataset], Path(config["data"], dataset)
    looks = {"annotations": splits.annotation_changes}
    if settings.scan_videos:
        looks["videos"] = listing.video_changes
    for what, changes in looks.items() if is_main_process() else ():
        with one_line_errors():
            if told := changes(recipe, folder):
                logger.info(f"{dataset}: {told}")
                with atomic(folder / "changed" / what) as mark:
                    mark.write_text(f"{told}\n", encoding="utf-8")
    return folder / "changed"


def changed_videos(wildcards):
    """What makes a listing of videos out of date: nothing before they ever changed. Another split
    has none."""
    recipe = recipe_of(wildcards)
    if recipe.split_of:
        with one_line_errors():
            raise RecipeError(
                f"{recipe.name} has no videos of its own: it is another split of"
                f" {config['data']}/{recipe.split_of}"
            )
    mark = mark_changes(recipe.name) / "videos"
    return [str(mark)] if mark.exists() else []


def changed_annotations(wildcards):
    """What makes splits out of date beside the manifests: the annotations, once a person has edited
    them. Before that they may be yet to come, by `download`."""
    recipe = recipe_of(wildcards)
    mark = mark_changes(recipe.name) / "annotations"
    files = [mark, *annotation_files(recipe, Path(config["data"], recipe.name))]
    return [str(file) for file in files if file.exists()] if mark.exists() else []


def phase_of(wildcards, stage):
    """The training run of a stage that makes the model which the wildcards name."""
    told = wildcards.get("seed", "").removeprefix(SEED)
    seed = int(told) if told else None
    if not SPECS[stage].of_patch_size:
        return Phase(wildcards.experiment, stage, seed=seed)
    size, suffix = int(wildcards.patch_size), wildcards.get("skip", "")
    return Phase(wildcards.experiment, stage, size, suffix, seed)


@cache
def owner_of(phase):
    """The training run that is done for another: itself, or an equal one of an experiment that its
    experiment extends. Tells of those that are shared."""
    with one_line_errors():
        find_recipe(recipes, phase.experiment)
    owner = phase.owner(recipes, settings.pretrained)
    if owner != phase and is_main_process():
        tell_differences(phase.experiment)
        logger.info(f"{phase.name} is shared: {owner.name}")
    return owner


@cache
def tell_differences(experiment):
    """Tells in what an experiment differs from the one that it extends, whose entries follow in
    brackets."""
    ancestor = recipes[experiment].extends[0]
    found = differences({name: recipes[name] for name in (experiment, ancestor)})
    told = [f"{key} {values[experiment]} ({values[ancestor]})" for key, values in found.items()]
    logger.info(f"{experiment} extends {ancestor}; other: {', '.join(told) or 'nothing'}")


def checkpoint_of(phase):
    """The checkpoint that the configuration has pretrained, or else the one that the workflow
    trains; of an experiment that is extended, where nothing differs up to there."""
    name = owner_of(phase).name
    return settings.pretrained.get(name, f"results/checkpoints/{name}.safetensors")


def checkpoint_of_model(wildcards):
    """The checkpoint of the stage that the wildcards name, of the finished model where they name
    none."""
    recipe = recipe_of(wildcards)
    named = "stage" in wildcards.keys()
    spec = spec_of(recipe, wildcards.stage) if named else recipe.last
    return checkpoint_of(phase_of(wildcards, spec.name))


def checkpoints_before(spec=None):
    """Function of the wildcards for `input`: the checkpoints that a stage starts from, where it is
    not shared; None is the one that the wildcards name."""

    def paths(wildcards):
        recipe = recipe_of(wildcards)
        with one_line_errors():
            stage = recipe.spec((spec or spec_of(recipe, wildcards.stage)).name)
        phase = phase_of(wildcards, stage.name)
        if owner_of(phase) != phase:
            with one_line_errors():
                raise RecipeError(
                    f"{phase.name} is not trained, as {phase.experiment} does not differ so far"
                    f" from what it extends: use {checkpoint_of(phase)}"
                )
        return [checkpoint_of(before) for before in phase.before]

    return paths


def points_of(wildcards):
    """What each model of an experiment measures for its curve: all patch sizes, with and without
    skipping frames."""
    recipe = recipe_of(wildcards)
    sizes = settings.datasets.get(recipe.name, recipe.patch_sizes)
    folder = f"results/curves/{recipe.name}"
    return [f"{folder}/{size}{suffix}.csv" for size in sizes for suffix in recipe.suffixes]


def points_beside(wildcards):
    """For `params`: what other experiments on the same data set and in the same metric have
    measured for their curves, as far as it is on disk, by their names."""
    recipe, found = recipe_of(wildcards), {}
    for name, other in sorted(recipes.items()):
        if name != recipe.name and (other.dataset, other.metric) == (recipe.dataset, recipe.metric):
            paths = sorted(Path("results/curves", name).glob("[!.]*.csv"))
            found |= {name: [str(path) for path in paths]} if paths else {}
    return found


def sweeps_up_to(spec):
    """Function of the wildcards for `input`: sweeps whose best rates a stage and those before it
    train at, its own last; none unless the configuration says so. A policy learns to skip frames at
    the plain one's rates: accuracy alone would choose those at which it skips least."""

    def paths(wildcards):
        found = []
        table = [one for one in recipe_of(wildcards).table if one.of_patch_size]
        used = settings.sweep.use_best and spec.of_patch_size
        for one in reversed(table[: table.index(spec) + 1] if used else []):
            phase = phase_of(wildcards, one.name)
            name = owner_of(phase if "policy" in one.takes else replace(phase, suffix="")).name
            if name in settings.pretrained:
                break
            found.insert(0, f"results/sweeps/{name}.json")
        return found

    return paths


def sweep_budget(wildcards):
    """For `params`: what a sweep tries, once it is sure that its recipe has such numbers."""
    with one_line_errors():
        recipe = recipe_of(wildcards)
        space(recipe, spec_of(recipe, wildcards.stage).name, settings.sweep)
    budget = {"trials": config["sweep"]["trials"], "range": config["sweep"]["range"]}
    numbers = config["sweep"]["numbers"]
    return budget | ({"numbers": numbers} if numbers else {})


def pretrained_of(wildcards):
    """What says that the backbones' pretrained weights are there, where the recipe names any."""
    model = recipe_of(wildcards).model
    if model.glancer.pretrained or model.focuser.pretrained:
        return f"{config['data']}/{wildcards.experiment}/pretrained.json"
    return []


def threads_of(gpus):
    """CPU threads of a job that has so many GPUs: what the configuration gives for each of them."""
    return config["threads"] * max(1, gpus)


def more_memory(mb):
    """Function for `mem_mb`: as much, twice as much for the second attempt, and so on."""
    return lambda wildcards, attempt: mb * attempt


def figure_labels(figure):
    """Function of the wildcards for `report`: what a figure is and which model it is of."""

    def labels(wildcards):
        found = {"figure": figure, "experiment": wildcards.experiment, "patch": "", "stage": ""}
        if "patch_size" in wildcards.keys():
            skip = wildcards.get("skip", "").replace("_skip", ", skip cost ")
            seed = wildcards.get("seed", "").replace(SEED, ", seed ")
            found["patch"] = f"{wildcards.patch_size} px{skip}{seed}"
        if "stage" in wildcards.keys():
            found["stage"] = wildcards.stage.removeprefix("_stage")
        return found

    return labels


def unlock_if_alone():
    """Removes Snakemake's locks where the runs that set them were killed.

    Jobs of theirs may live on; who would write what they write waits for them, see `job`.
    """
    with one_line_errors():
        if enter(Path(".snakemake/at_work"), "snakemake"):
            remove_locks()


if is_main_process():
    unlock_if_alone()

# A scheduler's warning is for jobs, which save what they have; Snakemake waits for them.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


with one_line_errors():
    # Snakemake tells neither the file nor the line of what it cannot read.
    if os.path.exists("config/config.yaml"):
        read_config(Path("config/config.yaml"))

    configfile: "config/config.yaml"

    recipes = load_recipes("config/recipes")
    settings = parse_config(config, recipes, source="config/config.yaml")


# Scripts find the configuration as it was checked, defaults filled in, in `snakemake.config`.
config.update(settings.model_dump(mode="json"))
config["recipes"] = {name: recipe.to_dict() for name, recipe in recipes.items()}

# One job at a time on each GPU of this machine. A cluster's scheduler, for which the number of
# jobs is given instead of cores, looks after its own: there `auto` asks it for a GPU, whatever the
# machine has on which one submits.
gpus = visible_gpus() if settings.device != "cpu" else []
on_cluster = is_on_cluster()
on_gpus = settings.device == "cuda" or bool(gpus) or (settings.device == "auto" and on_cluster)
gpus_per_job = settings.gpus if on_gpus else 0
# A Ray cluster has GPUs of its own.
gpus_per_sweep = settings.sweep.gpus if on_gpus and "RAY_ADDRESS" not in os.environ else 0
if is_main_process() and not on_cluster and settings.device != "cpu":
    why = None if gpus else why_no_gpu()
    with one_line_errors():
        if settings.device == "cuda" and not gpus and "RAY_ADDRESS" not in os.environ:
            why = why or "there is none here"
            raise RecipeError(f"config/config.yaml: device: is cuda, but CUDA shows no GPU ({why})")
        if gpus and settings.gpus > len(gpus):
            raise RecipeError(f"config/config.yaml: gpus: is {settings.gpus}, of {len(gpus)} here")
    if why:
        logger.warning(f"device: auto is the CPU, though a driver for GPUs is here: {why}")
    offer_gpus(len(gpus))


# What jobs look at that make it again: where nothing has changed for them, they end at once.
KEPT = {
    "download": [0],
    "frames": [0],
    **{spec.rule: ["checkpoint"] for spec in SPECS.values()},
    "evaluate": ["result", "predictions"],
    "points": [0],
    "sweep": ["result"],
}


wildcard_constraints:
    dataset=r"[\w-]+",
    shard=r"\d+",
    experiment=r"[\w-]+",
    patch_size=r"[1-9]\d*",
    # Nothing, or the cost of a look where the policy may skip frames.
    skip=r"(_skip[\d.]+)?",
    # Nothing where names need none: of `Config.plain_seed`.
    seed=rf"({SEED}(0|[1-9]\d*))?",
    # Nothing for a method that is trained in one go.
    stage="|".join(spec.ending for spec in SPECS.values() if spec.of_patch_size) + "|",


# Before any job: whether results can be written, what the data sets will take, and whether there
# is room. What is made again is kept until then.
onstart:
    steps = {}
    with one_line_errors():
        check_writable(Path("results"))
        for job in jobs_to_run():
            if job.rule.name in ("download", "frames"):
                steps.setdefault(job.wildcards.dataset, set()).add(job.rule.name)
            elif job.rule.name == "splits":
                from adafocus.data.sources import check_lists

                recipe = recipes[job.wildcards.dataset]
                if recipe.split_of:  # of others the download looks, which comes first
                    check_lists(recipe, Path(config["data"], recipe.videos_of))
            for name in KEPT.get(job.rule.name, ()):
                keep(Path(job.output[name]))
        for line in check_space(steps, recipes, Path(config["data"])):
            logger.info(line)
    watch_jobs()
