"""What a stage is: what it trains, its loss on some videos and how it predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Generic, Protocol, Self, TypeVar

from torch import Tensor

from adafocus.data.batches import Batch
from adafocus.model.adafocus import AdaFocus
from adafocus.model.looks import Looks
from adafocus.model.video_model import VideoModel
from adafocus.recipe import SPECS, HeadTraining, Training
from adafocus.training.parts import InParts, at_once


class Splittable(Protocol):
    """What a stage computes its loss of: some videos, of which it can give a part."""

    def part(self, rows: slice) -> Self: ...


Model = TypeVar("Model", bound=VideoModel)
Prepared = TypeVar("Prepared", bound=Splittable)
TrainingSection = TypeVar("TrainingSection", bound=Training)


class Stage(ABC, Generic[Model, Prepared, TrainingSection]):
    """What one stage trains and by which loss, which it computes of what it has ``Prepared``.

    Args:
        name: ``glancer``, ``focuser``, ``stage1``, ``stage2`` or ``stage3``.
        model: the whole model; only the parts that the stage trains change.
        training: the stage's section of the recipe.
    """

    def __init__(self, name: str, model: Model, training: TrainingSection) -> None:
        self.name = name
        self.model = model
        self.training = training
        self.parts = {
            part: getattr(model, part)
            for part in SPECS[name].trains
            if part in training.learning_rates
        }

    @property
    def latest_is_best(self) -> bool:
        """Whether the last epoch's weights are kept, not those of the best metric."""
        return False

    @property
    def steps(self) -> int:
        """Optimizer steps on each batch."""
        return 1

    @property
    def least(self) -> int:
        """Videos that a part of a batch must have."""
        return 1

    @abstractmethod
    def prepare(self, batch: Batch, in_parts: InParts = at_once) -> Prepared:
        """What all steps on a batch start from, computed once, without gradients.

        Args:
            in_parts: does what needs much memory.
        """

    @abstractmethod
    def loss(self, videos: Prepared) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of some videos, and what is to be logged, means as well, ``loss`` among it.

        Args:
            videos: what `prepare` gave, or a part of it.
        """

    @abstractmethod
    def predict(self, batch: Batch) -> tuple[Tensor, Looks | None]:
        """Logits (B, K) of whole videos, for validation, and where the policy chose to look, in a
        stage that trains it."""

    def figures(self, means: dict[str, Tensor]) -> dict[str, float]:
        """What an epoch's row says of the means, over its steps, of what was logged."""
        return {name: float(value) for name, value in means.items()}

    @cached_property
    def frozen(self) -> Model:
        """The model with faster copies of the backbones that the stage does not train.

        Made on first use, when the model has its weights and is on its device.
        """
        return self.model.frozen(*({"glancer", "focuser"} - self.parts.keys()))

    def train_mode(self) -> None:
        """What is trained is in train mode, all else in eval mode and without gradients."""
        self.model.eval().requires_grad_(False)
        for part in self.parts.values():
            part.train().requires_grad_(True)


class HeadStage(Stage[AdaFocus, Batch, HeadTraining]):
    """A stage that trains heads, on batches as they are, with the recipe's dropout before them."""

    def __init__(self, name: str, model: AdaFocus, training: HeadTraining) -> None:
        super().__init__(name, model, training)
        if training.dropout is not None:
            for part in self.parts.values():
                part.dropout.p = training.dropout

    def prepare(self, batch: Batch, in_parts: InParts = at_once) -> Batch:
        return batch
