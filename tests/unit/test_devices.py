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

from adafocus.training import STAGES
from adafocus.training.optimizer import build_optimizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import memory  # noqa: E402

META = torch.device("meta")


@pytest.mark.parametrize("name", STAGES)
def test_a_step_stays_on_its_device(recipe, name):
    step = memory.Step(recipe, 32, name, torch.float32)
    stage = step.begin(META)
    assert stage.frozen
    with FakeTensorMode():
        memory.fake(stage, META)
        batch = step.batch(META)
        optimizer = build_optimizer(recipe.stages[name], stage.parts)
        step.run(stage, optimizer, batch)
        loss, logs = stage.loss(stage.prepare(batch))
        assert {loss.device, *(value.device for value in logs.values())} == {META}
        stage.model.eval()
        assert stage.predict(batch).device == META


def test_a_tensor_of_the_cpu_is_found(monkeypatch):
    """That the test above can fail."""
    recipe = tiny_recipe("gru")
    step = memory.Step(recipe, 32, "stage2", torch.float32)
    stage = step.begin(META)
    assert stage.frozen
    corners = type(stage.model.policy).corners
    monkeypatch.setattr(
        type(stage.model.policy), "corners", lambda *given: corners(*given) + torch.zeros(2).cpu()
    )
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        memory.fake(stage, META)
        stage.prepare(step.batch(META))


def test_parts_of_a_batch_take_less_memory_and_more_parts_less():
    recipe = tiny_recipe("tsm")
    stages = recipe.stages.model_copy(
        update={"focuser": recipe.stages.focuser.model_copy(update={"batch_size": 8})}
    )
    recipe = recipe.model_copy(update={"stages": stages})
    taken = [
        memory.predicted(memory.Step(recipe, 32, "focuser", torch.float32, part))
        for part in (None, 4, 2)
    ]
    assert taken == sorted(taken, reverse=True)
    # What does not shrink with the part: the batch's bytes, weights, gradients and momentum.
    assert 0.25 * taken[0] < taken[2] < 0.5 * taken[0]


def test_a_step_in_bf16_takes_little_more_than_half_the_memory():
    recipe = tiny_recipe("gru")
    whole, half = (
        memory.predicted(memory.Step(recipe, 32, "focuser", precision))
        for precision in (torch.float32, torch.bfloat16)
    )
    assert 0.4 * whole < half < 0.8 * whole
