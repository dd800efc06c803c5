"""Where to look: recurrent policies over the glancer's feature maps.

Both policies map the glancer's maps to a distribution over actions and a value at each step, and
turn actions into corners. Their input does not depend on earlier patches, so that all steps of all
videos are one pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.nn.functional import logsigmoid

from adafocus.data.draws import Draws
from adafocus.model.patches import SKIPPED, grid_cells, grid_corners, unit_corners

if TYPE_CHECKING:
    from adafocus.recipe import PolicyRecipe


Actions = TypeVar("Actions", bound=Distribution)
"""The kind of distribution that a policy gives."""


class Decision(NamedTuple, Generic[Actions]):
    """A policy's view of each of S steps: a distribution over actions and the value (B, S)."""

    actions: Actions
    value: Tensor


class Policy(Protocol[Actions]):
    """What chooses where to look; a module.

    Attributes:
        looks_once: whether one place serves the whole video; else each frame has its own.
        skips: whether it may skip frames (AdaFocus+).
        grid: cells along each side of the grid in which its places are counted.
        least: videos that it must see at once to learn.
    """

    looks_once: bool
    grid: int
    least: int

    @property
    def skips(self) -> bool: ...

    def __call__(self, maps: Tensor) -> Decision[Actions]:
        """The glancer's maps (B, T, C, h, w) -> S steps."""

    def sample(self, actions: Actions, draws: Draws) -> Tensor:
        """One action for each of S steps."""

    def cells(self, actions: Tensor, margin: int) -> Tensor:
        """int64 (B, S), cells of the grid, counted row by row, and one more for a skip."""

    def corners(self, actions: Tensor, margin: int) -> Tensor:
        """int64 (B, S, 2), top and left in pixels, at most ``margin``; `SKIPPED` for a skip."""


class CellOrSkip(Categorical):
    """A cell of the grid to focus on, or else, the last outcome, to skip the frame.

    One distribution of both decisions: a look at cell c has the probability p(focus) · p(c), so
    that its logarithm is the sum of the two heads', and where a frame is skipped no cell counts.

    Args:
        cells: logits (..., cells).
        skip: logit (..., 1) of skipping.
    """

    def __init__(self, cells: Tensor, skip: Tensor) -> None:
        looks = cells.log_softmax(-1) + logsigmoid(-skip)
        super().__init__(logits=torch.cat((looks, logsigmoid(skip)), -1), validate_args=False)

    @property
    def best_cell(self) -> Tensor:
        """The likeliest cell, whether or not the frame is skipped."""
        return self.logits[..., :-1].argmax(-1)

    @property
    def mode(self) -> Tensor:
        """Decided head by head: to skip where that is likelier than all cells together."""
        skipped = self.logits.shape[-1] - 1
        return self.best_cell.masked_fill(self.probs[..., -1] > 0.5, skipped)


class GridPolicy(nn.Module):
    """One cell of a grid of patch positions for every frame.

    Args:
        channels: C of the glancer's maps.
        map_size: h = w of the glancer's maps.
        recipe: channels kept, hidden size, cells along each side of the grid.
        skips: whether it may skip a frame, which is the action after the last cell (AdaFocus+).
    """

    looks_once = False
    least = 1

    def __init__(
        self, channels: int, map_size: int, recipe: PolicyRecipe, skips: bool = False
    ) -> None:
        super().__init__()
        self.grid = recipe.grid
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, recipe.channels, 1, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(recipe.channels * map_size**2, recipe.hidden),
            nn.ReLU(),
        )
        self.gru = nn.GRU(recipe.hidden, recipe.hidden, batch_first=True)
        self.actor = nn.Linear(recipe.hidden, self.grid**2)
        self.critic = nn.Linear(recipe.hidden, 1)
        self.skip: nn.Linear | None = None
        if skips:
            self.learn_to_skip()

    @property
    def skips(self) -> bool:
        return self.skip is not None

    def learn_to_skip(self) -> None:
        """Adds the head that decides whether to skip a frame, with random weights."""
        self.skip = nn.Linear(self.gru.hidden_size, 1)

    def forward(self, maps: Tensor) -> Decision[Categorical]:
        """(B, T, C, h, w) -> T steps; actions are int64 (B, T)."""
        return self.advance(maps, None)[0]

    def advance(self, maps: Tensor, state: Tensor | None) -> tuple[Decision[Categorical], Tensor]:
        """T more steps from where the GRU's ``state`` was left, and the state that they leave."""
        encoded = self.encoder(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        hidden, state = self.gru(encoded, state)
        cells = self.actor(hidden).float()
        if self.skip is None:
            actions = Categorical(logits=cells, validate_args=False)
        else:
            actions = CellOrSkip(cells, self.skip(hidden).float())
        return Decision(actions, self.critic(hidden).squeeze(-1).float()), state

    def sample(self, actions: Categorical, draws: Draws) -> Tensor:
        """int64 (B, T), each outcome as often as it is probable.

        The outcome whose probability over an exponential number is the greatest, as a race of
        exponential clocks is won. Unlike `torch.multinomial`, it neither waits for the device nor
        stops at a probability that is not a number, of which the loss will tell.
        """
        probability = actions.probs
        clocks = draws.exponential(probability.shape[1:])
        return (probability / clocks.to(probability.device, non_blocking=True)).argmax(-1)

    def cells(self, actions: Tensor, margin: int) -> Tensor:
        """Actions are cells of the grid, counted row by row, and one more for a skip."""
        return actions

    def corners(self, actions: Tensor, margin: int) -> Tensor:
        """int64 (B, T) -> (B, T, 2), `SKIPPED` where the frame is."""
        corners = grid_corners(actions, self.grid, margin)
        if self.skip is None:
            return corners
        return corners.masked_fill((actions == self.grid**2).unsqueeze(-1), SKIPPED)


class GaussianPolicy(nn.Module):
    """One position (y, x) in [0, 1] for the whole video.

    Args:
        channels: C of the glancer's maps.
        map_size: h = w of the glancer's maps.
        frames: frames glanced at, whose maps are joined along the channels.
        recipe: channels kept, hidden size, standard deviation, cells along each side of the grid in
            which the places that it chooses are counted.
    """

    looks_once = True
    skips = False
    least = 2  # as a batch norm over videos needs

    def __init__(self, channels: int, map_size: int, frames: int, recipe: PolicyRecipe) -> None:
        super().__init__()
        self.std, self.grid = recipe.std, recipe.grid
        self.encoder = nn.Sequential(
            nn.Conv2d(channels * frames, recipe.channels, 1, bias=False),
            nn.BatchNorm2d(recipe.channels),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(recipe.channels * map_size**2, recipe.hidden),
            nn.BatchNorm1d(recipe.hidden),
            nn.ReLU(),
        )
        self.gru = nn.GRU(recipe.hidden, recipe.hidden, batch_first=True)
        self.actor = nn.Linear(recipe.hidden, 2)
        self.critic = nn.Linear(recipe.hidden, 1)

    def forward(self, maps: Tensor) -> Decision[Independent[Normal]]:
        """(B, T, C, h, w) -> one step; actions are float (B, 1, 2)."""
        state, _ = self.gru(self.encoder(maps.flatten(1, 2)).unsqueeze(1))
        mean = self.actor(state).float().sigmoid()
        # A deviation that is a number would be sent to the GPU, for which it would wait.
        normal = Normal(mean, torch.full_like(mean, self.std), validate_args=False)
        gaussian = Independent(normal, 1, validate_args=False)
        return Decision(gaussian, self.critic(state).squeeze(-1).float())

    def sample(self, actions: Independent[Normal], draws: Draws) -> Tensor:
        """float (B, 1, 2) in [0, 1]."""
        mean = actions.base_dist.mean
        noise = draws.normal(mean.shape[1:]).to(mean.device, non_blocking=True)
        # The published code trains on the clamped action and its own log-probability.
        return (mean + self.std * noise).clamp(0, 1)

    def cells(self, actions: Tensor, margin: int) -> Tensor:
        """(B, 1, 2) in [0, 1] -> int64 (B, 1), cells of the grid, counted row by row."""
        corners = self.corners(actions, margin)
        row, column = grid_cells(corners, self.grid, margin).unbind(-1)
        return row * self.grid + column

    def corners(self, actions: Tensor, margin: int) -> Tensor:
        """(B, 1, 2) in [0, 1] -> int64 (B, 1, 2)."""
        return unit_corners(actions, margin)
