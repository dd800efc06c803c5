from __future__ import annotations

import pytest
import torch
from noise import noise_batch, tiny_recipe

from adafocus.data.clips import Batch
from adafocus.recipe import Recipe

torch.set_num_threads(1)


@pytest.fixture(params=["gru", "tsm"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return tiny_recipe(request.param)


@pytest.fixture
def batch(recipe: Recipe) -> Batch:
    torch.manual_seed(0)
    return noise_batch(recipe)
