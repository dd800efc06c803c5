"""What the video shows: classifiers over the glancer's and the focuser's features."""

from __future__ import annotations

from bisect import bisect
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn


class GlobalFeatures(NamedTuple):
    """What the glancer leaves of the T whole frames that it sees."""

    maps: Tensor
    """(B, T, C, h, w)"""
    pooled: Tensor
    """(B, T, C), the maps' spatial mean"""
    logits: Tensor
    """(B, T, K), the glancer's own opinion of each frame"""


class Classifier(Protocol):
    """What predicts from the features of both backbones; a module.

    Attributes:
        predicts_once: whether there is one prediction of the whole video; else one per frame.
    """

    predicts_once: bool

    def __call__(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """Local features (B, T, C) -> logits (B, S, K)."""

    def counterfactual(self, seen: GlobalFeatures, local: Tensor, other: Tensor) -> Tensor:
        """Logits (B, S, K) of each step had that step's patch alone been another one.

        Args:
            local: the real features (B, T, C).
            other: the features put in their place (B, T, C).
        """


class RecurrentClassifier(nn.Module):
    """A GRU over [global, local] features with one prediction per frame.

    Args:
        global_channels: channels of the glancer's features.
        local_channels: channels of the focuser's features.
        hidden: hidden size.
        classes: K.
        dropout: on the GRU's output.
    """

    predicts_once = False

    def __init__(
        self, global_channels: int, local_channels: int, hidden: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.gru = nn.GRU(global_channels + local_channels, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """Local features (B, T, C) -> logits (B, T, K)."""
        return self.predict(self.remember(self.join(seen, local)))

    def join(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """What the GRU sees of T frames: (B, T, G + C)."""
        return torch.cat((seen.pooled, local), dim=-1)

    def remember(self, inputs: Tensor, before: Tensor | None = None) -> Tensor:
        """The GRU's state after each of T frames, (B, T, hidden), from the state ``before`` them,
        (B, 1, hidden)."""
        if before is not None:
            before = before.transpose(0, 1).contiguous()
        states: Tensor = self.gru(inputs, before)[0]
        return states

    def predict(self, states: Tensor) -> Tensor:
        """States (B, T, hidden) -> logits (B, T, K)."""
        logits: Tensor = self.fc(self.dropout(states))
        return logits.float()

    def counterfactual(self, seen: GlobalFeatures, local: Tensor, other: Tensor) -> Tensor:
        """Step t continues the real trajectory: it starts from the hidden state that ``local`` left
        at step t-1 and sees ``other`` at t. All steps are one batch of single GRU steps."""
        states = self.remember(self.join(seen, local))
        before = torch.cat((torch.zeros_like(states[:, :1]), states[:, :-1]), dim=1)
        inputs = self.join(seen, other)
        branch = self.remember(inputs.flatten(0, 1).unsqueeze(1), before.flatten(0, 1).unsqueeze(1))
        return self.predict(branch.view_as(states))


def recurrent(classifier: Classifier) -> RecurrentClassifier:
    """The same; raises `ValueError` for one that cannot predict frame by frame."""
    if not isinstance(classifier, RecurrentClassifier):
        raise ValueError("only a recurrent classifier predicts frame by frame")
    return classifier


class OutOfOrder:
    """The running prediction of videos whose frames come in any order.

    After each frame it is that of all frames so far in the video's own order, as the classifier has
    learnt to see them: those behind the one that came are classified again.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = recurrent(classifier)
        self.frames: list[int] = []
        self.seen: tuple[Tensor, Tensor] | None = None
        """The GRU's inputs and states at these frames."""

    def __call__(self, frame: int, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """One more frame of each of B videos, features (B, 1, C) -> logits (B, 1, K).

        Args:
            frame: its place in the video, the same for all.
        """
        place = bisect(self.frames, frame)
        self.frames.insert(place, frame)
        again = self.classifier.join(seen, local)
        if self.seen is None:
            states = self.classifier.remember(again)
            self.seen = again, states
        else:
            inputs, remembered = self.seen
            again = torch.cat((again, inputs[:, place:]), dim=1)
            before = remembered[:, place - 1 : place] if place else None
            states = self.classifier.remember(again, before)
            self.seen = (
                torch.cat((inputs[:, :place], again), dim=1),
                torch.cat((remembered[:, :place], states), dim=1),
            )
        return self.classifier.predict(states[:, -1:])

    def keep(self, videos: Tensor) -> None:
        """Goes on with some of the videos alone: bool (B,), or their indices."""
        if self.seen is not None:
            inputs, states = self.seen
            self.seen = inputs[videos], states[videos]


class AverageClassifier(nn.Module):
    """The glancer's mean logits plus the mean logits of the local features.

    Args:
        channels: channels of the focuser's features.
        classes: K.
        dropout: on the local features.
    """

    predicts_once = True

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)

    def forward(self, seen: GlobalFeatures, local: Tensor) -> Tensor:
        """Local features (B, T, C) -> logits (B, 1, K)."""
        logits: Tensor = seen.logits.mean(1) + self.fc(self.dropout(local)).mean(1)
        return logits.unsqueeze(1).float()

    def counterfactual(self, seen: GlobalFeatures, local: Tensor, other: Tensor) -> Tensor:
        """There is one step, hence no trajectory to keep."""
        return self.forward(seen, other)
