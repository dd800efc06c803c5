"""What the video shows: classifiers over the glancer's and the focuser's features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Glimpse(NamedTuple):
    """What the glancer leaves of the T frames it sees."""

    maps: Tensor
    """(B, T, C, h, w)"""
    features: Tensor
    """(B, T, C), the maps' spatial mean"""
    logits: Tensor
    """(B, T, K), the glancer's own opinion of each frame"""


class RecurrentClassifier(nn.Module):
    """A GRU over [global, local] features with one prediction per step (GRU family).

    Args:
        global_channels: channels of the glancer's features.
        local_channels: channels of the focuser's features.
        hidden: hidden size.
        classes: K.
        dropout: on the GRU's output.
    """

    def __init__(
        self, global_channels: int, local_channels: int, hidden: int, classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.gru = nn.GRU(global_channels + local_channels, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, glimpse: Glimpse, local: Tensor) -> Tensor:
        """Local features (B, T, C) -> logits (B, T, K)."""
        return self.advance(glimpse, local, None)[0]

    def advance(
        self, glimpse: Glimpse, local: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits of T more steps from where the GRU's ``state`` was left, and the state after."""
        hidden, state = self.gru(torch.cat((glimpse.features, local), dim=-1), state)
        return self.fc(self.dropout(hidden)).float(), state

    def counterfactual(self, glimpse: Glimpse, local: Tensor, other: Tensor) -> Tensor:
        """Logits of each step had that step's patch alone been another one.

        Step t continues the real trajectory: it starts from the hidden state that ``local`` left at
        step t-1 and sees ``other`` at t. All steps are one batch of single GRU steps.

        Args:
            local: the real features (B, T, C).
            other: the features put in their place (B, T, C).

        Returns:
            (B, T, K).
        """
        hidden, _ = self.gru(torch.cat((glimpse.features, local), dim=-1))
        before = torch.cat((torch.zeros_like(hidden[:, :1]), hidden[:, :-1]), dim=1)
        inputs = torch.cat((glimpse.features, other), dim=-1)
        branch, _ = self.gru(inputs.flatten(0, 1).unsqueeze(1), before.flatten(0, 1).unsqueeze(0))
        return self.fc(self.dropout(branch.view_as(hidden))).float()


class AverageClassifier(nn.Module):
    """The glancer's mean logits plus the mean logits of the local features (TSM family).

    Args:
        channels: channels of the focuser's features.
        classes: K.
        dropout: on the local features.
    """

    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, classes)

    def forward(self, glimpse: Glimpse, local: Tensor) -> Tensor:
        """Local features (B, T, C) -> logits (B, 1, K)."""
        logits = glimpse.logits.mean(1) + self.fc(self.dropout(local)).mean(1)
        return logits.unsqueeze(1).float()

    def counterfactual(self, glimpse: Glimpse, local: Tensor, other: Tensor) -> Tensor:
        """Logits had the patches been others: there is one step, hence no trajectory to keep."""
        return self(glimpse, other)


Classifier = RecurrentClassifier | AverageClassifier
