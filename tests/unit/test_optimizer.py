"""Which weights are trained at which rate and weight decay."""

from pathlib import Path

import pytest
import torch
from torch import nn

from adafocus.model.adafocus import build
from adafocus.recipe import load_recipe
from adafocus.training.optimizer import build_optimizer

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
TSM = {
    "head": {"rate": 5},
    "head_bias": {"rate": 10, "decay": 0},
    "bias": {"rate": 2, "decay": 0},
    "norm": {"decay": 0},
}


class Part(nn.Module):
    """One weight of each kind, which are ones."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Linear(1, 1))
        self.head = nn.Linear(1, 1)
        for parameter in self.parameters():
            nn.init.ones_(parameter)


def with_multipliers(recipe, stage, multipliers):
    training = recipe.stages[stage].model_dump() | {"multipliers": multipliers}
    return type(recipe.stages[stage]).model_validate(training)


def test_each_kind_of_weight_is_stepped_at_its_own_rate_and_decay(recipe):
    training = with_multipliers(recipe, "focuser", TSM)
    part = Part()
    optimizer = build_optimizer(training, {"focuser": part})
    for parameter in part.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    rate, decay = training.learning_rates["focuser"], 1 + training.weight_decay
    stepped = {name: (1 - parameter.item()) / rate for name, parameter in part.named_parameters()}
    assert stepped == pytest.approx(
        {
            "trunk.0.weight": decay,
            "trunk.0.bias": 2,
            "trunk.1.weight": 1,
            "trunk.1.bias": 1,
            "trunk.2.weight": decay,
            "trunk.2.bias": 2,
            "head.weight": 5 * decay,
            "head.bias": 10,
        },
        rel=1e-5,
    )


def test_without_multipliers_a_part_is_one_group(recipe):
    model = build(recipe, 32)
    parts = {"focuser": model.focuser, "classifier": model.classifier}
    groups = build_optimizer(recipe.stages.stage1, parts).param_groups
    assert [group["name"] for group in groups] == list(parts)
    for group, part in zip(groups, parts.values(), strict=True):
        assert all(map(torch.equal, group["params"], part.parameters()))
        assert group["weight_decay"] == recipe.stages.stage1.weight_decay


def test_the_order_of_multipliers_does_not_matter(recipe):
    """For a resumed run finds its state of each group by the groups' order."""
    part = build(recipe, 32).focuser
    names = [
        [
            group["name"]
            for group in build_optimizer(
                with_multipliers(recipe, "focuser", multipliers), {"focuser": part}
            ).param_groups
        ]
        for multipliers in (TSM, dict(reversed(TSM.items())))
    ]
    assert names[0] == names[1]
    assert names[0] == [f"focuser.{kind}" for kind in ("plain", "head", "head_bias", "norm")]


@pytest.mark.parametrize("name", ["sthv1", "sthv2"])
@pytest.mark.parametrize("stage", ["glancer", "focuser"])
def test_stage_0_of_something_something_is_tsms(name, stage):
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    part = getattr(build(recipe, 144), stage)
    groups = build_optimizer(recipe.stages[stage], {stage: part}).param_groups
    found = {
        group["name"].removeprefix(f"{stage}."): (group["lr"], group["weight_decay"])
        for group in groups
    }
    assert found == {
        "plain": pytest.approx((0.01, 5e-4)),
        "head": pytest.approx((0.05, 5e-4)),
        "head_bias": pytest.approx((0.1, 0)),
        "norm": pytest.approx((0.01, 0)),
    }
    assert sum(len(group["params"]) for group in groups) == len(list(part.parameters()))
