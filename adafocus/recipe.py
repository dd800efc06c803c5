"""The typed recipe: everything that distinguishes one data set's experiment from another's.

A recipe is a YAML file in ``config/recipes/``; ``config/config.yaml`` says which recipes to run and
where. Both are read into the frozen models below, which are their schema: an unknown key, a wrong
type or a value out of range is one line that names the file and the key and says what is allowed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError, safe_open

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Cost = Annotated[float, Field(ge=0)]
Metric = Literal["top1", "top5", "mAP"]
Precision = Literal["auto", "bf16", "fp32"]
MicroBatch = Literal["auto"] | Positive

SKIP = "_skip"
"""Stands before the cost of a look in the names of models that may skip frames."""


class RecipeError(ValueError):
    """A configuration or recipe that cannot be used; the message is one line fit for a user."""


AnySection = TypeVar("AnySection", bound="Section")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, values: Any) -> Any:
        unknown = set(values) - set(cls.model_fields) if isinstance(values, dict) else ()
        if unknown:
            allowed = ", ".join(cls.model_fields)
            raise ValueError(f"unknown key {min(map(str, unknown))!r}; allowed: {allowed}")
        return values


# --- data -------------------------------------------------------------------------------------


class ManualSource(Section):
    """Videos and annotations that a person puts on disk, because they are given on request."""

    kind: Literal["manual"]
    homepage: str
    """Where to ask for the data."""
    archives: tuple[str, ...] = ()
    """Archives to put into ``archives/``, where the videos come so; a pattern such as ``videos-??``
    stands for the parts of one, in the order of their names. The videos themselves may be put into
    ``videos/`` instead."""
    strip: Annotated[int, Field(ge=0)] = 0
    """Leading folders to take off the names in the archives."""


class YoutubeSource(Section):
    """Videos that the annotations list by their id on YouTube, downloaded by yt-dlp.

    Those that are in ``videos/`` already are not downloaded. The annotation files are put on disk
    by a person.
    """

    kind: Literal["youtube"]
    homepage: str
    """Where the annotation files are to be had."""
    url: str = "https://www.youtube.com/watch?v={id}"
    """Where a video is, on YouTube or on another site that yt-dlp knows."""


class Download(Section):
    url: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ArchiveSource(Section):
    """Videos and annotations that can be downloaded."""

    kind: Literal["archive"]
    archives: Annotated[tuple[tuple[Download, ...], ...], Field(min_length=1)]
    """Archives of videos, each in one or more parts."""
    strip: Annotated[int, Field(ge=0)] = 0
    """Leading folders to take off the names in the archives."""
    annotations: dict[str, Download] = {}
    """Annotation files by name."""


class FolderSource(Section):
    """One's own videos, wherever they lie; `adafocus new-dataset` writes such a recipe."""

    kind: Literal["folder"]
    videos: str
    """Folder of the videos, which stay there."""
    labels: str
    """CSV with the columns ``video,split,labels``, see `TableFile`."""


class GenerateSource(Section):
    """The demo's roaming digits, see `adafocus.data.digits`."""

    kind: Literal["generate"]
    train: Positive
    val: Positive
    frames: Positive
    """Length of each video."""
    visible: Positive
    """Frames, on end, in which the digit is in sight."""
    size: Positive
    """Height and width of each video in pixels."""
    digit: Positive
    """Height and width of the digit in pixels."""
    fragments: Annotated[int, Field(ge=0)]
    """Moving pieces of other digits in each video."""
    backgrounds: Positive
    """Textures shared by all videos."""
    seed: int = 0

    @model_validator(mode="after")
    def _visible_within_frames(self) -> Self:
        if self.visible > self.frames:
            raise ValueError(f"visible must be at most frames, {self.frames}")
        return self


class AnnotationFiles(Section):
    """Files of one form, relative to the data set's ``annotations`` folder."""

    positions: str | None = None
    """CSV of where the truth is in every frame (`adafocus.data.digits`), where it is known."""

    @property
    def files(self) -> list[str]:
        """What has to be there, whoever brings it."""
        named = self.model_dump(exclude={"format", "separator", "positions"})
        return [file for file in named.values() if file is not None]


class SplitFiles(AnnotationFiles):
    """The authors' form: ``video,frames,label[,label...]`` or ``video frames label``."""

    format: Literal["split_files"]
    train: str
    val: str
    classes: str
    separator: Literal[",", " "] = ","


class ActivityNetFiles(AnnotationFiles):
    """ActivityNet's JSON; videos are called ``v_`` and their id, as in the organisers' archives."""

    format: Literal["activitynet"]
    file: str
    classes: str | None = None
    """One class a line, for the order of the logits; alphabetical if not given."""


class FcvidFiles(AnnotationFiles):
    """FCVID's list of ``video train|test`` and its table of zeros and ones, line by line alike."""

    format: Literal["fcvid"]
    splits: str
    labels: str
    classes: str


class ListedFiles(AnnotationFiles):
    """A list of videos per split, and one of classes, as the organisers give them.

    ``kinetics``: CSV files, of which the listed classes are used; videos are called as in the
    public archives, ``{youtube_id}_{start:06d}_{end:06d}``. ``something_v1``: ``id;label`` and a
    list of labels, which are numbered in alphabetical order, as in the published models.
    ``something_v2``: JSON lists of ``id`` and ``template``, and the labels' indices.
    """

    format: Literal["kinetics", "something_v1", "something_v2"]
    train: str
    val: str
    classes: str


class TableFile(AnnotationFiles):
    """One's own videos: a CSV with the columns ``video,split,labels``, labels joined by ``;``.

    Splits are ``train`` and ``val``; classes are in alphabetical order.
    """

    format: Literal["table"]
    file: str


Annotations = Annotated[
    SplitFiles | ActivityNetFiles | FcvidFiles | ListedFiles | TableFile,
    Field(discriminator="format"),
]


class Frames(Section):
    """How ffmpeg turns a video into frames."""

    height: Positive = 360
    """Frames are scaled to this height in pixels, keeping the aspect ratio, unless smaller."""
    quality: Annotated[int, Field(ge=2, le=31)] = 2
    """ffmpeg's JPEG quality scale: 2 is best, 31 is worst."""
    rate: Rate | None = None
    """Frames per second to keep; all frames if not given."""
    hardware: Literal["auto", "cuda", "qsv", "vaapi", "videotoolbox"] | None = None
    """What decodes the videos, where not the CPU; it must be there, but for ``auto``."""
    time_limit: Rate = 600
    """Seconds that one video may take; it fails if it takes longer."""
    shards: Positive = 8
    """Jobs that share the extraction."""
    pack: bool | None = None
    """Whether videos that are folders of JPEG files become one file each too, byte for byte, rather
    than being read where they are. If not given, they do where a data set has more than 10,000
    of them and none is read in place yet."""


class Augmentation(Section):
    """One multi-scale crop, as in TSN, and one flip per clip."""

    scales: tuple[Fraction, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True


# --- model ------------------------------------------------------------------------------------


class BackboneRecipe(Section):
    """A torchvision backbone, whole or slimmed."""

    name: Literal["mobilenet_v2", "resnet"]
    depth: Literal[10, 18, 34, 50, 101] | None = None
    """Layers of a ResNet."""
    width: Rate = 1.0
    """Multiplies the number of channels."""
    output_stride: Literal[4, 8, 16, 32] = 32
    """Input pixels per feature-map pixel; strides beyond it are turned into 1."""
    pretrained: str | None = None
    """``imagenet``, a weights file, or null to train from scratch."""

    @model_validator(mode="after")
    def _depth_belongs_to_resnet(self) -> Self:
        if (self.name == "resnet") != (self.depth is not None):
            raise ValueError("depth is for resnet, which needs one of 10, 18, 34, 50, 101")
        return self


class PolicyRecipe(Section):
    channels: Positive = 32
    """Channels that the 1x1 convolution leaves of each feature map."""
    hidden: Positive = 1024
    grid: Annotated[int, Field(ge=2)] = 7
    """Cells along each side of the grid of patch positions (GRU family)."""
    std: Rate = 0.25
    """Standard deviation of the Gaussian over (y, x) in [0, 1] (TSM family)."""


class ClassifierRecipe(Section):
    hidden: Positive = 1024
    """Hidden size of the GRU (GRU family)."""
    dropout: Fraction = 0.5


class ModelRecipe(Section):
    family: Literal["gru", "tsm"]
    frames: Positive
    """Frames the focuser sees, T; in the GRU family the glancer sees the same."""
    glance_frames: Positive | None = None
    """Frames the glancer sees, sampled apart (TSM family only)."""
    frame_size: Positive = 224
    glance_size: Positive = 224
    glancer: BackboneRecipe
    focuser: BackboneRecipe
    policy: PolicyRecipe = PolicyRecipe()
    classifier: ClassifierRecipe = ClassifierRecipe()

    @model_validator(mode="after")
    def _glance_frames_belong_to_tsm(self) -> Self:
        if (self.family == "tsm") != (self.glance_frames is not None):
            raise ValueError("glance_frames is for the tsm family, which needs it")
        return self

    def needed_by(self, stage: str) -> dict[str, Any]:
        """The entries that the weights of a stage's checkpoint depend on, defaults left out."""
        given = self.model_dump(mode="json", exclude_defaults=True)
        others = {"glancer", "focuser", "classifier", "policy"} - set(DRAWN_PARTS[stage])
        return {name: entry for name, entry in given.items() if name not in others}

    def shaped_by(self, stage: str) -> dict[str, Any]:
        """Those of them that decide the shapes of its tensors and of what they are used on."""
        return {
            name: {k: v for k, v in entry.items() if k not in SHAPELESS}
            if isinstance(entry, dict)
            else entry
            for name, entry in self.needed_by(stage).items()
        }


SHAPELESS = {"pretrained", "std", "dropout"}
"""Entries of the model's parts that only matter while they are trained."""
DRAWN_PARTS = {
    "glancer": ("glancer",),
    "focuser": ("glancer", "focuser"),
    "stage1": ("glancer", "focuser", "classifier"),
    "stage2": ("glancer", "focuser", "classifier", "policy"),
    "stage3": ("glancer", "focuser", "classifier", "policy"),
}
"""Parts of the model that decide what weights each stage leaves: those that it uses, and those
whose first weights are drawn before its own."""


# --- training ---------------------------------------------------------------------------------


class Multiplier(Section):
    """How some weights of a part are trained otherwise than the rest of it."""

    rate: Rate = 1.0
    """Times the part's learning rate."""
    decay: Annotated[float, Field(ge=0)] = 1.0
    """Times the stage's weight decay."""


class Training(Section):
    """How one stage is trained; the paper's values stand in the recipes."""

    epochs: Positive
    batch_size: Positive
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rates: dict[str, Rate]
    """One rate per part that the stage trains."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[Positive, ...] = ()
    """Epochs at which the step schedule divides the rates by ten."""
    momentum: Fraction = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    multipliers: dict[Literal["head", "head_bias", "bias", "norm"], Multiplier] = {}
    """Of the linear layers in which a part ends, of their biases, of other biases, and of batch
    norms; all else is trained as the stage says."""
    clip_gradient: Rate | None = None
    """Largest norm of the gradient."""
    validate_every: Positive | None = None
    """Epochs from one validation to the next, of which the best is kept; after each epoch if not
    given, and in any case after the last."""


class HeadTraining(Training):
    """A stage that trains a head: stage 0 the backbones', stages 1 and 3 the classifier."""

    dropout: Fraction | None = None
    """Dropout before the head, where it differs from the model's."""


class PolicyTraining(Training):
    """Proximal policy optimization (stage 2)."""

    discount: Fraction = 0.7
    clip: Rate = 0.2
    value_weight: Rate = 0.5
    entropy_weight: Annotated[float, Field(ge=0)] = 0.01
    passes: Positive = 1
    """Updates on each batch of clips."""
    skip_cost: Cost | None = None
    """What a look costs the policy where it may skip frames, see `Recipe.skipping`."""


class Stages(Section):
    glancer: HeadTraining
    focuser: HeadTraining
    stage1: HeadTraining
    stage2: PolicyTraining
    stage3: HeadTraining

    @model_validator(mode="after")
    def _rates_name_what_is_trained(self) -> Self:
        for stage, parts in TRAINED_PARTS.items():
            given = set(self[stage].learning_rates)
            if given != set(parts):
                raise ValueError(
                    f"{stage}.learning_rates must name exactly {', '.join(parts)}; "
                    f"it names {', '.join(sorted(given)) or 'nothing'}"
                )
        return self

    def __getitem__(self, stage: str) -> Training:
        return getattr(self, stage)


TRAINED_PARTS = {
    "glancer": ("glancer",),
    "focuser": ("focuser",),
    "stage1": ("focuser", "classifier"),
    "stage2": ("policy",),
    "stage3": ("classifier",),
}
"""What each stage trains; all else is frozen and in eval mode."""


class Published(Section):
    """Figures of the paper for one patch size."""

    top1: float | None = None
    mAP: float | None = None
    gflops: float
    verified: bool = True
    """False where the figure could not be checked against the paper."""


class Peer(Section):
    """A published figure of another model, or of AdaFocus in another variant."""

    name: str
    patch_size: Positive | None = None
    """In pixels, for variants of AdaFocus."""
    top1: float | None = None
    mAP: float | None = None
    gflops: float


class Videos(Section):
    """What is known of a data set's videos; counts are the published ones."""

    train: Positive
    val: Positive
    missing: Fraction = 0.1
    """Share of a split's listed videos that may be missing or unreadable."""
    seconds: Rate | None = None
    """Mean length, to tell beforehand how much disk the frames take; None if they are there."""
    rate: Rate = 30
    """Mean number of frames per second, likewise."""
    gigabytes: Rate | None = None
    """Disk that the videos themselves take, where they are downloaded or unpacked."""


class SweepBudget(Section):
    """What a sweep of a stage's learning rates tries."""

    trials: Annotated[int, Field(ge=2)] = 16
    """Sets of rates; the first is the recipe's own."""
    range: tuple[Rate, Rate] = (0.1, 10.0)
    """Each rate is drawn log-uniformly between so many times the recipe's."""

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.range[0] >= self.range[1]:
            raise ValueError("range must be two numbers of which the second is larger")
        return self


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    title: str
    classes: Annotated[int, Field(ge=2)]
    videos: Videos
    """How many there are, how many of them may be missing, and how much disk they take."""
    metric: Metric
    """Chooses the best epoch and is the one compared with the published figure."""
    patch_sizes: tuple[Positive, ...]
    """Side of the patch in pixels."""
    skip_costs: tuple[Cost, ...] = ()
    """Costs lambda of a look, for each of which there may be a model that skips frames (AdaFocus+,
    GRU family)."""
    source: Annotated[
        ManualSource | YoutubeSource | ArchiveSource | FolderSource | GenerateSource,
        Field(discriminator="kind"),
    ]
    annotations: Annotations
    frames: Frames = Frames()
    augmentation: Augmentation = Augmentation()
    model: ModelRecipe
    stages: Stages
    published: dict[Positive, Published] = {}
    peers: tuple[Peer, ...] = ()
    """Figures to compare with, in the same metric."""
    swept: SweepBudget | None = None
    """The sweeps that the rates of stages 1 to 3 come from; None where a person chose them. The
    workflow fills it in, see `adafocus.sweeps`."""

    @model_validator(mode="after")
    def _patches_fit_the_frame(self) -> Self:
        if not self.patch_sizes or max(self.patch_sizes) > self.model.frame_size:
            raise ValueError(
                f"patch_sizes must be one or more sizes up to frame_size {self.model.frame_size}"
            )
        return self

    @model_validator(mode="after")
    def _skipping_is_for_steps(self) -> Self:
        if self.skip_costs and self.model.family == "tsm":
            raise ValueError("skip_costs is for the gru family: the tsm family looks once a video")
        for cost in self.skip_costs:
            if float(f"{cost:g}") != cost or "e" in f"{cost:g}":
                raise ValueError(
                    f"skip_costs: {cost!r} cannot stand in a file's name; give at least 0.0001 and"
                    " at most six digits"
                )
        return self

    def check_patch_size(self, patch_size: int) -> int:
        """Returns ``patch_size``; raises `RecipeError` where the recipe does not allow it."""
        if patch_size not in self.patch_sizes:
            allowed = ", ".join(map(str, self.patch_sizes))
            raise RecipeError(
                f"patch size {patch_size} is not in the recipe of {self.name}; allowed: {allowed}"
            )
        return patch_size

    def published_beside(self, patch_size: int, accuracy: float) -> dict[str, Any] | None:
        """The paper's figure for the finished plain model in the data set's metric, and an accuracy
        minus it in percent points; None where none is published."""
        published = self.published.get(patch_size)
        figure = getattr(published, self.metric, None)
        if published is None or figure is None:
            return None
        return {
            "figure": figure,
            "gflops": published.gflops,
            "verified": published.verified,
            "difference": accuracy - figure,
        }

    @property
    def skip_cost(self) -> float | None:
        """What a look costs the policy; None where it may not skip frames."""
        return self.stages.stage2.skip_cost

    def skipping(self, cost: float) -> Self:
        """The recipe of the models that may skip frames at this cost of a look.

        Raises `RecipeError` where the recipe does not allow it.
        """
        return self.named(f"{SKIP}{cost!r}" if cost not in self.skip_costs else f"{SKIP}{cost:g}")

    @property
    def suffixes(self) -> list[str]:
        """What follows the patch size in the names of the models that may be: nothing for the plain
        one, such as ``_skip0.02`` for those that skip frames."""
        return ["", *(f"{SKIP}{cost:g}" for cost in self.skip_costs)]

    def named(self, suffix: str) -> Self:
        """The recipe of the models with one of these `suffixes`; raises `RecipeError` where it is
        another."""
        if suffix not in self.suffixes:
            allowed = ", ".join(f"{cost:g}" for cost in self.skip_costs) or "none"
            raise RecipeError(
                f"skip cost {suffix.removeprefix(SKIP)} is not in the recipe of {self.name};"
                f" skip_costs: {allowed}"
            )
        return self._with_skip_cost(float(suffix.removeprefix(SKIP)) if suffix else None)

    @property
    def never_skipping(self) -> Self:
        """The recipe of the plain models, which skip no frame."""
        return self._with_skip_cost(None)

    def _with_skip_cost(self, cost: float | None) -> Self:
        stage2 = self.stages.stage2.model_copy(update={"skip_cost": cost})
        stages = self.stages.model_copy(update={"stage2": stage2})
        return self.model_copy(update={"stages": stages})

    def write(self, folder: Path) -> Path:
        """Writes the recipe to a file that `load_recipe` reads, and returns it."""
        path = folder / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), encoding="utf-8")
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and mappings; `parse_recipe` reads them back."""
        return self.model_dump(mode="json")


class Sweep(SweepBudget):
    """How the workflow sweeps learning rates, and whether it uses what it finds."""

    cpus_per_trial: Positive = 4
    """At most; as many trials run at once as the job's threads allow."""
    gpus: Positive = 1
    """GPUs of a sweep, where there are any and no Ray cluster has its own."""
    gpus_per_trial: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of a GPU that one trial takes, so that several may run on one."""
    use_best: bool = False
    """Whether stages 1 to 3 are swept and train at the best rates."""


class Config(Section):
    """``config/config.yaml``, the one file that a user edits."""

    data: str = "data"
    """Folder of videos, frames and split files."""
    datasets: dict[str, tuple[Positive, ...]]
    """What `snakemake --cores all` makes: patch sizes by data set."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
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
    pretrained: dict[str, str] = {}
    """Checkpoints to use instead of training them, by their name in results/checkpoints."""
    sweep: Sweep = Sweep()


# --- reading ----------------------------------------------------------------------------------


def load_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe file. Raises `RecipeError` naming the file and the key."""
    path = Path(path)
    recipe = parse_recipe(_read_yaml(path), source=str(path))
    if recipe.name != path.stem:
        raise RecipeError(f"{path}: name: is {recipe.name!r}, but the file is {path.name}")
    return recipe


def parse_recipe(values: Any, source: str) -> Recipe:
    """Checks a recipe given as plain values; ``source`` names them in errors."""
    return _validate(Recipe, values, source)


def load_recipes(folder: str | Path) -> dict[str, Recipe]:
    """Every recipe of a folder by name, each that of the plain models."""
    recipes = {path: load_recipe(path) for path in sorted(Path(folder).glob("*.yaml"))}
    for path, recipe in recipes.items():
        if recipe.skip_cost is not None:
            raise RecipeError(
                f"{path}: stages.stage2.skip_cost: list the costs of a look in skip_costs; each"
                " makes a model of its own"
            )
    return {path.stem: recipe for path, recipe in recipes.items()}


def load_config(folder: Path) -> tuple[Config, dict[str, Recipe]]:
    """``config.yaml`` of a folder and all recipes in its ``recipes``. Raises `RecipeError`."""
    recipes = load_recipes(folder / "recipes")
    path = folder / "config.yaml"
    return parse_config(_read_yaml(path), recipes, source=str(path)), recipes


def parse_config(values: Any, recipes: dict[str, Recipe], source: str) -> Config:
    """Checks a configuration and that its data sets and patch sizes have recipes."""
    config = _validate(Config, values, source)
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


CHECKPOINT_NAME = re.compile(
    r"(?P<dataset>.+)_((?P<part>glancer|focuser)_stage0"
    r"|(?P<patch_size>\d+)(?P<suffix>_skip[\d.]+(?!_stage1))?_(?P<stage>stage[123]))"
)


def _check_pretrained(name: str, path: str, recipes: dict[str, Recipe]) -> None:
    """Raises `RecipeError` unless the checkpoint at ``path`` may stand for the one named."""
    match = CHECKPOINT_NAME.fullmatch(name)
    if match is None:
        raise RecipeError(
            "not a checkpoint's name; it must be like actnet_glancer_stage0,"
            " actnet_focuser_stage0 or actnet_128_stage1, stage2 or stage3"
        )
    recipe = find_recipe(recipes, match["dataset"])
    patch_size = match["patch_size"] and recipe.check_patch_size(int(match["patch_size"]))
    recipe = recipe.named(match["suffix"] or "")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        made_by = parse_recipe(json.loads(metadata["recipe"]), source="its recipe")
        theirs = (metadata["stage"], json.loads(metadata["patch_size"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RecipeError(f"{path} is not a checkpoint of AdaFocus ({error})") from None
    ours = (match["part"] or match["stage"], patch_size)
    for what, its, wanted in (
        ("stage and patch size", theirs, ours),
        *fit(made_by, recipe, metadata["stage"]),
    ):
        if its != wanted:
            raise RecipeError(f"{path} is of another {what}: {its}, not {wanted}")


def fit(made_by: Recipe, recipe: Recipe, stage: str) -> list[tuple[str, Any, Any]]:
    """What has to be equal where a stage's checkpoint of one recipe serves another: name, both
    values."""
    has_policy = stage in ("stage2", "stage3")
    return [
        ("data set", made_by.name, recipe.name),
        ("number of classes", made_by.classes, recipe.classes),
        ("model", made_by.model.shaped_by(stage), recipe.model.shaped_by(stage)),
        *([("skip cost", made_by.skip_cost, recipe.skip_cost)] if has_policy else []),
    ]


def find_recipe(recipes: dict[str, Recipe], dataset: str) -> Recipe:
    """The recipe of a data set; raises `RecipeError` that lists the known ones."""
    if dataset not in recipes:
        raise RecipeError(f"data set {dataset!r} has no recipe; allowed: {', '.join(recipes)}")
    return recipes[dataset]


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from None


def _validate(model: type[AnySection], values: Any, source: str) -> AnySection:
    try:
        return model.model_validate(values)
    except ValidationError as errors:
        error = errors.errors()[0]
        where = ".".join(map(str, error["loc"]))
        what = error["msg"].removeprefix("Value error, ")
        raise RecipeError(": ".join(filter(None, (source, where, what)))) from None
