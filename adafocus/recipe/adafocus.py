"""AdaFocus (Wang et al., ICCV 2021): its stages, and what a recipe says of model and training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from adafocus.recipe.earlier import family_of, written_model, written_ppo
from adafocus.recipe.experiment import Recipe
from adafocus.recipe.model import ModelRecipe, Sampling
from adafocus.recipe.section import Fraction, NonNegative, Positive, Rate, Section
from adafocus.recipe.stages import StageSpec
from adafocus.recipe.training import HeadTraining, Stages, Training

TABLE = (
    StageSpec("glancer", 0, ("glancer",), "pretraining the glancer on whole frames"),
    StageSpec(
        "focuser",
        0,
        ("focuser",),
        "pretraining the focuser on whole frames",
        drawn_before=("glancer",),
    ),
    StageSpec(
        "stage1",
        1,
        ("focuser", "classifier"),
        "training focuser and classifier on random patches",
        takes=("glancer", "focuser"),
        after=("glancer", "focuser"),
    ),
    StageSpec(
        "stage2",
        2,
        ("policy",),
        "training the policy that picks patches",
        takes=("glancer", "focuser", "classifier"),
        after=("stage1",),
    ),
    StageSpec(
        "stage3",
        3,
        ("classifier",),
        "training the classifier on the policy's patches",
        takes=("glancer", "focuser", "classifier", "policy"),
        after=("stage2",),
    ),
)
"""Its stages, in the order in which they are trained."""


# --- the model --------------------------------------------------------------------------------


class PolicyRecipe(Section):
    kind: Literal["grid", "gaussian"] = "grid"
    """``grid``: one cell of a grid of patch positions for every frame; ``gaussian``: one place for
    the whole video, drawn around a mean."""
    channels: Positive = 32
    """Channels that the 1x1 convolution leaves of each feature map."""
    hidden: Positive = 1024
    grid: Annotated[int, Field(ge=2)] = 7
    """Cells along each side of the grid; ``gaussian`` only counts its places by it."""
    std: Rate = 0.25
    """Standard deviation over (y, x) in [0, 1], of ``gaussian``."""


class ClassifierRecipe(Section):
    kind: Literal["recurrent", "average"] = "recurrent"
    """``recurrent``: a GRU with a prediction after every frame; ``average``: one prediction, the
    mean over frames."""
    hidden: Positive = 1024
    """Hidden size of the GRU."""
    dropout: Fraction = 0.5


class AdaFocusModel(ModelRecipe):
    padding: Literal["last", "first"] = "last"
    """The frame that stands for those that a video of fewer than T frames lacks."""
    policy: PolicyRecipe = PolicyRecipe()
    classifier: ClassifierRecipe = ClassifierRecipe()

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.looks_once != (self.classifier.kind == "average"):
            raise ValueError(
                "a policy of the kind grid goes with a classifier of the kind recurrent, and"
                f" gaussian with average; they are {self.policy.kind} and {self.classifier.kind}"
            )
        if self.glance_frames is not None and not self.looks_once:
            raise ValueError(
                "glance_frames is for a policy of the kind gaussian: grid glances at every frame"
                " that it focuses on"
            )
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        return values if self.family is None else written_model(values, self.family)

    @property
    def family(self) -> str | None:
        """``gru`` or ``tsm`` for the two models of the paper; None for another one."""
        parts = {
            "shift": self.shift,
            "padding": self.padding,
            "policy.kind": self.policy.kind,
            "classifier.kind": self.classifier.kind,
        }
        return family_of(parts)

    @property
    def looks_once(self) -> bool:
        return self.policy.kind == "gaussian"

    @property
    def sampling(self) -> Sampling:
        return self.padding

    @property
    def steps(self) -> int:
        return 1 if self.looks_once else self.frames

    @property
    def cells(self) -> int:
        return self.policy.grid


# --- training ---------------------------------------------------------------------------------


class PolicyTraining(Training):
    """Proximal policy optimization (stage 2)."""

    gamma: Fraction = 0.7
    """By which a step's return discounts the next one's."""
    clip: Rate = 0.2
    """The ratio of probabilities counts between so much less and more than one."""
    value_coefficient: Rate = 0.5
    entropy_coefficient: Annotated[float, Field(ge=0)] = 0.01
    update_epochs: Positive = 1
    """Updates on each batch of clips."""
    skip_cost: NonNegative | None = None
    """What a look costs the policy where it may skip frames, see `Recipe.skipping`."""

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return written_ppo(handler(self))


class AdaFocusStages(Stages):
    glancer: HeadTraining
    focuser: HeadTraining
    stage1: HeadTraining
    stage2: PolicyTraining
    stage3: HeadTraining


class AdaFocusRecipe(Recipe):
    """A recipe for a model that is trained in four stages, its policy by reinforcement."""

    table: ClassVar = TABLE
    model_name: ClassVar = "AdaFocus"

    # Not written, as recipes of earlier versions name none.
    method: Literal["adafocus"] = Field("adafocus", exclude=True)
    model: AdaFocusModel
    stages: AdaFocusStages

    @model_validator(mode="after")
    def _skipping_is_for_steps(self) -> Self:
        if self.skip_costs and self.model.looks_once:
            raise ValueError(
                "skip_costs is for a policy of the kind grid: gaussian looks once a video"
            )
        return self

    @property
    def skip_cost(self) -> float | None:
        return self.stages.stage2.skip_cost

    def _with_skip_cost(self, cost: float | None) -> Self:
        stage2 = self.stages.stage2.model_copy(update={"skip_cost": cost})
        stages = self.stages.model_copy(update={"stage2": stage2})
        return self.model_copy(update={"stages": stages})
