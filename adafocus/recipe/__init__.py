"""The typed recipe: everything that distinguishes one data set's experiment from another's.

A recipe is a YAML file in ``config/recipes/``; ``config/config.yaml`` says which recipes to run and
where. Both are read into frozen models, one file per topic, which are their schema: an unknown key,
a wrong type or a value out of range is one line that names the file and the key and says what is
allowed.
"""

from adafocus.recipe.adafocus import AdaFocusModel, AdaFocusRecipe, PolicyRecipe, PolicyTraining
from adafocus.recipe.config import (
    Config,
    Sweep,
    load_config,
    parse_config,
    parse_micro_batch,
    read_config,
)
from adafocus.recipe.data import (
    ActivityNetFiles,
    AnnotationFiles,
    ArchiveSource,
    Augmentation,
    FcvidFiles,
    FolderSource,
    Frames,
    GenerateSource,
    HmdbFiles,
    ListedFiles,
    ManualSource,
    SplitFiles,
    TableFile,
    YoutubeSource,
)
from adafocus.recipe.experiment import Recipe, compatibility
from adafocus.recipe.extending import differences
from adafocus.recipe.loading import find_recipe, load_recipe, load_recipes, parse_recipe
from adafocus.recipe.methods import METHODS, SPECS
from adafocus.recipe.model import BackboneRecipe, ModelRecipe, Sampling
from adafocus.recipe.phases import SEED, Phase, results_in
from adafocus.recipe.section import Metric, MicroBatch, Precision, RecipeError
from adafocus.recipe.stages import StageSpec
from adafocus.recipe.training import (
    HeadTraining,
    Multiplier,
    Stages,
    SweepBudget,
    Training,
)
from adafocus.recipe.uni import JointTraining, UniModel, UniRecipe

__all__ = [
    "METHODS",
    "SEED",
    "SPECS",
    "AdaFocusModel",
    "AdaFocusRecipe",
    "StageSpec",
    "JointTraining",
    "UniModel",
    "UniRecipe",
    "ActivityNetFiles",
    "AnnotationFiles",
    "ArchiveSource",
    "Augmentation",
    "BackboneRecipe",
    "Config",
    "FcvidFiles",
    "HmdbFiles",
    "FolderSource",
    "Frames",
    "GenerateSource",
    "HeadTraining",
    "ListedFiles",
    "ManualSource",
    "Metric",
    "MicroBatch",
    "ModelRecipe",
    "Multiplier",
    "Phase",
    "PolicyRecipe",
    "PolicyTraining",
    "Precision",
    "Recipe",
    "RecipeError",
    "Sampling",
    "SplitFiles",
    "Stages",
    "Sweep",
    "SweepBudget",
    "TableFile",
    "Training",
    "YoutubeSource",
    "differences",
    "find_recipe",
    "compatibility",
    "load_config",
    "load_recipe",
    "load_recipes",
    "parse_config",
    "parse_micro_batch",
    "parse_recipe",
    "read_config",
    "results_in",
]
