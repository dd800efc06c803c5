"""What the video shows, from the most that any frame so far has shown of each feature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class StepHeads(nn.Module):
    """A linear head of its own for each of S steps, all in one product.

    Args:
        steps: S.
        channels: C.
        classes: K.
    """

    def __init__(self, steps: int, channels: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(steps, classes, channels))
        self.bias = nn.Parameter(torch.empty(steps, classes))
        for parameter in (self.weight, self.bias):  # as `nn.Linear` begins
            nn.init.uniform_(parameter, -1 / math.sqrt(channels), 1 / math.sqrt(channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, K)."""
        weight = self.weight.transpose(1, 2)
        return torch.baddbmm(self.bias.unsqueeze(1), features.transpose(0, 1), weight).transpose(
            0, 1
        )

    def at(self, step: int, features: Tensor) -> Tensor:
        """One step alone: (B, C) -> (B, K)."""
        return functional.linear(features, self.weight[step], self.bias[step])


class MaximaClassifier(nn.Module):
    """An MLP on each frame's features, running maxima over frames, and a head for every step.

    Steps are first the T frames glanced at, then the F frames focused on, which also see the
    maximum of all glances.

    Args:
        global_channels: channels of the glancer's features.
        local_channels: channels of the focuser's features.
        glanced: T.
        focused: F.
        hidden: channels within.
        classes: K.
        dropout: before each head.
    """

    def __init__(
        self,
        global_channels: int,
        local_channels: int,
        *,
        glanced: int,
        focused: int,
        hidden: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.global_mlp = _mlp(global_channels, hidden)
        self.local_mlp = _mlp(local_channels, hidden)
        self.dropout = nn.Dropout(dropout)
        self.global_heads = StepHeads(glanced, hidden, classes)
        self.local_heads = StepHeads(focused, 2 * hidden, classes)

    def forward(self, glances: Tensor, local: Tensor) -> Tensor:
        """Features (B, T, G) of the glancer and (B, F, C) of the focuser -> logits (B, T + F, K),
        one prediction after each frame."""
        seen = self.maxima(self.global_mlp, glances)
        found = self.maxima(self.local_mlp, local)
        both = torch.cat((found, seen[:, -1:].expand_as(found)), dim=-1)
        steps = self.global_heads(self.dropout(seen)), self.local_heads(self.dropout(both))
        return torch.cat(steps, dim=1)

    @staticmethod
    def maxima(mlp: nn.Sequential, features: Tensor) -> Tensor:
        """Features (B, T, C) -> (B, T, hidden), of each frame the maximum up to it."""
        hidden = mlp(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        maxima: Tensor = hidden.cummax(dim=1).values
        return maxima


class RunningMaxima:
    """The running prediction of B videos whose frames focused on come one by one.

    After each it is that of the classifier for all of them at once.

    Args:
        classifier: in eval mode.
        glances: the glancer's features (B, T, G).
    """

    def __init__(self, classifier: MaximaClassifier, glances: Tensor) -> None:
        seen = classifier.maxima(classifier.global_mlp, glances)
        self.classifier, self.seen = classifier, seen[:, -1]
        self.logits: Tensor = classifier.global_heads(classifier.dropout(seen))[:, -1]
        """(B, K), the prediction after all glances"""
        self.found: Tensor | None = None
        self.step = 0

    def __call__(self, local: Tensor) -> Tensor:
        """The focuser's features (B, C) of the next frame -> logits (B, K)."""
        found: Tensor = self.classifier.local_mlp(local)
        self.found = found if self.found is None else torch.maximum(self.found, found)
        both = torch.cat((self.found, self.seen), dim=-1)
        logits = self.classifier.local_heads.at(self.step, self.classifier.dropout(both))
        self.step += 1
        return logits

    def keep(self, videos: Tensor) -> None:
        """Goes on with some of the videos alone: bool (B,)."""
        self.seen = self.seen[videos]
        if self.found is not None:
            self.found = self.found[videos]


def _mlp(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
