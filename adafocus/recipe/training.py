"""How each stage is trained, and what a sweep of its learning rates tries."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from adafocus.recipe.section import Fraction, Positive, Rate, Section


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
    validate_last: Positive | None = None
    """So many epochs at the end are each followed by a validation; the last alone if not given."""

    def validates(self, epoch: int) -> bool:
        """Whether a validation follows an epoch, counted from 1."""
        last = self.epochs - (self.validate_last or 1)
        return epoch % (self.validate_every or 1) == 0 or epoch > last


class HeadTraining(Training):
    """A stage that trains a head: stage 0 the backbones', stages 1 and 3 the classifier."""

    dropout: Fraction | None = None
    """Dropout before the head, where it differs from the model's."""


class Stages(Section):
    """How each stage of a method is trained: an entry for each, by its name."""

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
