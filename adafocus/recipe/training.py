"""How each stage is trained, and what a sweep of its learning rates tries."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from adafocus.recipe.earlier import written_ppo
from adafocus.recipe.section import Fraction, NonNegative, Positive, Rate, Section
from adafocus.recipe.stages import SPECS


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


class Stages(Section):
    glancer: HeadTraining
    focuser: HeadTraining
    stage1: HeadTraining
    stage2: PolicyTraining
    stage3: HeadTraining

    @model_validator(mode="after")
    def _rates_name_what_is_trained(self) -> Self:
        for stage, spec in SPECS.items():
            given = set(self[stage].learning_rates)
            if given != set(spec.trains):
                raise ValueError(
                    f"{stage}.learning_rates must name exactly {', '.join(spec.trains)}; "
                    f"it names {', '.join(sorted(given)) or 'nothing'}"
                )
        return self

    def __getitem__(self, stage: str) -> Training:
        training: Training = getattr(self, stage)
        return training


class SweepBudget(Section):
    """What a sweep of a stage tries."""

    trials: Annotated[int, Field(ge=2)] = 16
    """Sets of numbers; the first is the recipe's own."""
    range: tuple[Rate, Rate] = (0.1, 10.0)
    """Each learning rate is tried between so many times the recipe's."""
    numbers: dict[str, tuple[float, float]] = {}
    """Numbers that are tried instead, by their places in the recipe, and between which values. A
    stage that depends on none of them is swept over its learning rates."""

    @model_validator(mode="after")
    def _bounds_rise(self) -> Self:
        for name, (low, high) in {"range": self.range, **self.numbers}.items():
            if low >= high:
                raise ValueError(f"{name} must be two numbers of which the second is larger")
        return self
