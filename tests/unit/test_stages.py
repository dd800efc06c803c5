"""What each stage changes: after a step, exactly the parameters that the paper's table names."""

import pytest
import torch
from noise import noise_batch, tiny_recipe

from adafocus.methods.adafocus import STAGES, every_step
from adafocus.model.adafocus import build
from adafocus.recipe import SPECS


def step(stage, batch) -> None:
    stage.train_mode()
    parameters = [p for part in stage.parts.values() for p in part.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    videos = stage.prepare(batch)
    for _ in range(stage.steps):
        optimizer.zero_grad()
        stage.loss(videos)[0].backward()
        optimizer.step()


@pytest.mark.parametrize("name", STAGES)
def test_a_step_changes_just_what_the_stage_trains(recipe, batch, name):
    torch.manual_seed(0)
    model = build(recipe, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    step(STAGES[name](name, model, recipe.stages[name]), batch)
    changed = {
        key for key, value in model.state_dict().items() if not torch.equal(value, before[key])
    }
    trained = set(SPECS[name].trains)
    assert {key.split(".")[0] for key in changed} == trained
    # What no loss reaches: the focuser's own head after stage 0, and the recurrent weights of a
    # policy that takes a single step from a state of zeros.
    unused = {"focuser.head.weight", "focuser.head.bias"} if name == "stage1" else set()
    if name == "stage2" and recipe.model.family == "tsm":
        unused = {"policy.gru.weight_hh_l0"}
    weights = {key for key, _ in model.named_parameters() if key.split(".")[0] in trained}
    assert weights - changed == unused


@pytest.mark.parametrize("name", STAGES)
def test_parts_go_together_in_other_ways_than_in_the_paper(name):
    """A shifted model that chooses a place in every frame; one that looks once at what it glanced
    at, and is not shifted."""
    torch.manual_seed(0)
    for family, changes in (("gru", {"shift": True}), ("tsm", {"shift": False})):
        values = tiny_recipe(family).model
        recipe = tiny_recipe(family).model_copy(
            update={"model": values.model_copy(update=changes | {"glance_frames": None})}
        )
        assert recipe.model.family is None
        model = build(recipe, 32)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        step(STAGES[name](name, model, recipe.stages[name]), noise_batch(recipe))
        after = model.state_dict().items()
        changed = {key.split(".")[0] for key, value in after if not torch.equal(value, before[key])}
        assert changed == set(SPECS[name].trains)


def test_frozen_parts_are_in_eval_mode(recipe):
    for name, stage in STAGES.items():
        model = build(recipe, 32)
        stage(name, model, recipe.stages[name]).train_mode()
        modes = {part: module.training for part, module in model.named_children()}
        assert modes == {part: part in SPECS[name].trains for part in modes}


def test_every_step_by_hand():
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    target = torch.tensor([[1.0, 0.0]])
    expected = (torch.log(torch.tensor(2.0)) + torch.log1p(torch.exp(torch.tensor(-2.0)))) / 2
    assert torch.isclose(every_step(logits, target), expected)


def test_stage2_makes_as_many_updates_as_it_is_told(recipe):
    stage = STAGES["stage2"]("stage2", build(recipe, 32), recipe.stages.stage2)
    stage.train_mode()
    assert stage.steps == recipe.stages.stage2.update_epochs == 2
    _, logs = stage.loss(stage.prepare(noise_batch(recipe)))
    assert logs.keys() >= {"loss", "reward", "entropy"}


def test_dropout_of_a_stage_replaces_the_models(recipe):
    model = build(recipe, 32)
    training = recipe.stages.stage3.model_copy(update={"dropout": 0.0})
    STAGES["stage3"]("stage3", model, training)
    assert model.classifier.dropout.p == 0.0
    training = recipe.stages.glancer.model_copy(update={"dropout": 0.3})
    STAGES["glancer"]("glancer", model, training)
    assert model.glancer.dropout.p == 0.3


def test_stage2_counts_the_places_that_were_ever_the_likeliest():
    recipe = tiny_recipe("gru")
    model = build(recipe, 32)
    stage = STAGES["stage2"]("stage2", model, recipe.stages.stage2)
    grid = model.policy.grid
    cells = torch.tensor([[0, 5, 5, grid**2 - 1], [5, grid**2, 0, grid**2]])
    counts = stage._count(model.policy.cells(cells, model.margin))
    assert counts[[0, 5, grid**2 - 1]].tolist() == [2, 3, 1]
    assert counts.sum() == 6
    row = stage.figures({"cells": counts, "reward": torch.tensor(0.5)})
    assert row == {"distinct_cells": 3.0, "reward": 0.5}
    # An epoch that began before they were counted.
    assert stage.figures({"reward": torch.tensor(0.5)}) == {"reward": 0.5}


def test_places_in_the_frame_are_counted_by_the_cells_of_a_grid():
    policy = build(tiny_recipe("tsm"), 32).policy
    grid = policy.grid
    places = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]], [[0.99 / grid, 1.05 / grid]]])
    assert policy.cells(places, 32).tolist() == [[0], [grid**2 - 1], [1]]
