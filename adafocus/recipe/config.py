"""``config/config.yaml``, checked together with the recipes that it names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator
from safetensors import SafetensorError, safe_open

from adafocus.recipe.experiment import Recipe, compatibility
from adafocus.recipe.loading import find_recipe, load_recipes, parse_recipe
from adafocus.recipe.phases import Phase
from adafocus.recipe.section import (
    MicroBatch,
    Positive,
    Precision,
    RecipeError,
    Section,
    Seed,
    parse_section,
    read_yaml,
)
from adafocus.recipe.training import SweepBudget


class Sweep(SweepBudget):
    """How the workflow sweeps a stage's numbers, and whether it uses what it finds."""

    cpus_per_trial: Positive = 4
    """At most; as many trials run at once as the job's threads allow."""
    gpus: Positive = 1
    """GPUs of a sweep, where there are any and no Ray cluster has its own."""
    gpus_per_trial: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a GPU that one trial takes, so that several may run on one."""
    use_best: bool = False
    """Whether stages 1 to 3 are swept and train with the best numbers."""


class Config(Section):
    """``config/config.yaml``, the one file that a user edits."""

    data: str = "data"
    """Folder of videos, frames and split files."""
    datasets: dict[str, tuple[Positive, ...]]
    """What `snakemake --cores all` makes: patch sizes by experiment."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` is a GPU where there is one, and for every job on a cluster."""
    seed: int | None = 0
    """Of all that is drawn at random; not given, or None, where there are ``seeds``."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """Instead of ``seed``: every experiment is trained and measured with each of them."""
    gpus: Positive = 1
    """GPUs that one job of training or evaluation uses, where there are any."""
    threads: Positive = 8
    """Most CPU threads that one job uses, for each of its GPUs where it has some."""
    precision: Precision = "auto"
    """In which backbones compute in training, see `device.pick_precision`."""
    micro_batch: MicroBatch = "auto"
    """Videos of a batch that training takes at a time on each GPU; ``auto`` is all of them, and
    fewer where the memory asks for it."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    """Training saves its state after so many, and after every epoch."""
    anew: Annotated[str, BeforeValidator(str)] | None = None
    """Any word: what the jobs of a call train, or sweep, is trained from its start, unless that was
    begun under the same word."""
    scan_videos: bool = True
    """Whether planning looks if videos were added, replaced or taken out."""
    tracking_uri: str = "sqlite:///results/mlflow.db"
    """MLflow's store; the environment's MLFLOW_TRACKING_URI overrides it."""
    container: str | None = None
    """Image in which jobs run where Snakemake is told to use containers."""
    pretrained: dict[str, str] = {}
    """Checkpoints to use instead of training them, by their name in results/checkpoints."""
    sweep: Sweep = Sweep()

    @model_validator(mode="after")
    def _seeds_are_told_once(self) -> Self:
        if self.seeds is None:
            return self
        if self.seed is not None and "seed" in self.model_fields_set:
            raise ValueError(
                "seed and seeds are both given: leave one out, on the command line"
                " --config seed= 'seeds=[0, 1, 2]'"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each must be another")
        return self

    @property
    def plain_seed(self) -> int:
        """The seed of what is called by names that tell none."""
        return (self.seed or 0) if self.seeds is None else 0

    @property
    def seeds_in_names(self) -> tuple[int | None, ...]:
        """The seeds that are asked for, as names tell them, see `Phase.seed`."""
        return tuple(seed or None for seed in self.seeds or (0,))


def load_config(folder: Path) -> tuple[Config, dict[str, Recipe]]:
    """``config.yaml`` of a folder and all recipes in its ``recipes``. Raises `RecipeError`."""
    recipes = load_recipes(folder / "recipes")
    path = folder / "config.yaml"
    return parse_config(read_config(path), recipes, source=str(path)), recipes


def read_config(path: Path) -> dict[str, Any]:
    """Plain values of ``config.yaml``. Raises `RecipeError`."""
    # As Snakemake reads it, which refuses some of what is read in C.
    values = read_yaml(path, yaml.SafeLoader)
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: holds no entries such as `data: data`")
    return values


def parse_config(values: Any, recipes: dict[str, Recipe], source: str) -> Config:
    """Checks a configuration and that its data sets and patch sizes have recipes."""
    config = parse_section(Config, values, source)
    if set("{}") & set(config.data):
        raise RecipeError(
            f"{source}: data: {config.data!r} holds a brace, by which Snakemake takes it for a"
            " pattern; name another folder, or a link to this one"
        )
    for dataset, patch_sizes in config.datasets.items():
        try:
            for patch_size in patch_sizes:
                find_recipe(recipes, dataset).check_patch_size(patch_size)
        except RecipeError as error:
            raise RecipeError(f"{source}: datasets.{dataset}: {error}") from None
    for name, path in config.pretrained.items():
        try:
            _check_pretrained(name, path, recipes)
        except RecipeError as error:
            raise RecipeError(f"{source}: pretrained.{name}: {error}") from None
    return config


def parse_micro_batch(text: str) -> MicroBatch:
    """``auto``, or a number of videos. Raises `RecipeError` for anything else."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) == 0:
        raise RecipeError(f"--micro-batch is {text!r}: give a number of videos, or auto")
    return int(text)


def _check_pretrained(name: str, path: str, recipes: dict[str, Recipe]) -> None:
    """Raises `RecipeError` unless the checkpoint at ``path`` may stand for the one named."""
    phase = Phase.parse(name)
    if phase is None:
        raise RecipeError(
            "not a checkpoint's name; it must be like actnet_glancer_stage0,"
            " actnet_focuser_stage0 or actnet_128_stage1, stage2 or stage3"
        )
    recipe = find_recipe(recipes, phase.experiment)
    if phase.patch_size is not None:
        recipe.check_patch_size(phase.patch_size)
    recipe = recipe.named(phase.suffix)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        made_by = parse_recipe(json.loads(metadata["recipe"]), source="its recipe")
        theirs = (metadata["stage"], json.loads(metadata["patch_size"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RecipeError(f"{path} is not a checkpoint of AdaFocus ({error})") from None
    ours = (phase.stage, phase.patch_size)
    for what, its, wanted in (
        ("stage and patch size", theirs, ours),
        *compatibility(made_by, recipe, metadata["stage"]),
    ):
        if its != wanted:
            raise RecipeError(f"{path} is of another {what}: {its}, not {wanted}")
