"""Every stage computes on one device: a tensor of the CPU among others fails, without a GPU.

With fake tensors, which have a shape, a type and a device, and no content. Fake ones on ``cuda``
can neither make GRUs nor run backward without a driver, so that they are on ``meta``.
"""

import sys
from pathlib import Path

import pytest
import torch
from noise import tiny_recipe
from torch._subclasses.fake_tensor import FakeTensorMode

from adafocus.methods.adafocus import STAGES
from adafocus.recipe import Recipe, load_recipe, parse_recipe

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import memory  # noqa: E402

META = torch.device("meta")


@pytest.mark.parametrize("name", STAGES)
def test_a_step_stays_on_its_device(recipe, name):
    step = memory.OptimizerStep(recipe, 32, name, torch.float32)
    stage = step.begin(META)
    assert stage.frozen
    with FakeTensorMode():
        memory.fake(stage, META)
        batch = step.batch(META)
        step.run(stage, step.optimizer(stage), batch)
        loss, logs = stage.loss(stage.prepare(batch))
        assert {loss.device, *(value.device for value in logs.values())} == {META}
        stage.model.eval()
        assert stage.predict(batch)[0].device == META


def test_a_tensor_of_the_cpu_is_found(monkeypatch):
    """That the test above can fail."""
    recipe = tiny_recipe("gru")
    step = memory.OptimizerStep(recipe, 32, "stage2", torch.float32)
    stage = step.begin(META)
    assert stage.frozen
    corners = type(stage.model.policy).corners
    monkeypatch.setattr(
        type(stage.model.policy), "corners", lambda *given: corners(*given) + torch.zeros(2).cpu()
    )
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        memory.fake(stage, META)
        stage.prepare(step.batch(META))


def focuser_of(videos: int) -> Recipe:
    """A batch of so many videos that their maps take more than all else."""
    values = tiny_recipe("tsm").to_dict()
    values["stages"]["focuser"]["batch_size"] = videos
    return parse_recipe(values, "tiny.yaml")


def test_less_memory_is_predicted_for_more_parts():
    taken = [
        memory.predicted(memory.OptimizerStep(focuser_of(64), 32, "focuser", torch.float32, part))
        for part in (None, 32, 16)
    ]
    assert 0.5 * taken[0] < taken[1] < 0.65 * taken[0]
    assert 0.5 * taken[1] < taken[2] < 0.65 * taken[1]


def test_the_prediction_of_a_published_step():
    """41.8 GiB of it were counted otherwise: what autograd keeps for the backward pass."""
    recipe = load_recipe(ROOT / "config" / "recipes" / "actnet.yaml")
    low, full = (
        memory.predicted(memory.OptimizerStep(recipe, 128, "focuser", precision))
        for precision in (torch.bfloat16, torch.float32)
    )
    assert 41.8 < low < 45
    assert 1.8 * low < full < 2 * low
