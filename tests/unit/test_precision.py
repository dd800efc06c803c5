"""Backbones alone compute in bf16; all else is what it is in fp32."""

from copy import deepcopy

import pytest
import torch
from noise import noise_batch, tiny_recipe, write_noise
from test_engine import run
from torch import nn

from adafocus.machine.device import pick_precision
from adafocus.methods.adafocus import STAGES, Stage2
from adafocus.model.adafocus import build
from adafocus.model.looks import Looks
from adafocus.training import ppo

CPU = torch.device("cpu")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(params=PRECISIONS)
def precision(request):
    return PRECISIONS[request.param]


def test_auto_is_low_only_where_the_device_has_units_for_it(monkeypatch):
    assert pick_precision("auto", CPU) == torch.float32
    assert pick_precision("bf16", CPU) == torch.bfloat16
    gpu = torch.device("cuda")
    for capability, expected in (((7, 5), torch.float32), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda,
            "get_device_properties",
            lambda *_, capability=capability: type("Card", (), {"major": capability[0]}),
        )
        assert pick_precision("auto", gpu) == expected
    assert pick_precision("fp32", gpu) == torch.float32


@pytest.mark.parametrize("name", STAGES)
def test_all_but_the_backbones_is_float32(recipe, batch, precision, name):
    """Types of what enters and leaves every layer that is not a backbone's trunk."""
    model = build(recipe, 32)
    model.set_precision(precision)
    types, low = set(), set()
    for part, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.GRU):
            found = low if ".trunk." in part else types
            module.register_forward_hook(
                lambda _, given, made, found=found: found.update(
                    {given[0].dtype, (made[0] if isinstance(made, tuple) else made).dtype}
                )
            )
    stage = STAGES[name](name, model, recipe.stages[name])
    stage.train_mode()
    videos = stage.prepare(batch)
    loss, logs = stage.loss(videos)
    loss.backward()
    assert types == {torch.float32}
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in logs.values())
    trained = [p for part in stage.parts.values() for p in part.parameters() if p.grad is not None]
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in trained)
    if {"glancer", "focuser"} & stage.parts.keys():
        assert precision in low


def test_frozen_backbones_keep_their_weights_in_the_type_they_compute_in(recipe, batch):
    model = build(recipe, 32).eval()
    expected = model.glance(batch.glance)
    model.set_precision(torch.bfloat16)
    frozen = model.frozen()
    for network in (frozen.glancer, frozen.focuser):
        assert {weight.dtype for weight in network.trunk.parameters()} == {torch.bfloat16}
        assert network.head.weight.dtype == torch.float32
    seen = frozen.glance(batch.glance)
    assert seen.maps.dtype == seen.logits.dtype == torch.float32
    difference = (seen.maps - expected.maps).std() / expected.maps.std()
    assert 0 < difference < 0.05
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_every_pass_computes_on_the_weights_of_the_pass_before(tmp_path, precision):
    folder = write_noise(tmp_path, {"train": 6, "val": 2})
    recipe = tiny_recipe("gru")
    training = recipe.stages.stage2.model_copy(
        update={"update_epochs": 4, "learning_rates": {"policy": 0.01}, "epochs": 1}
    )
    stages = recipe.stages.model_copy(update={"stage2": training})
    recipe = recipe.model_copy(update={"stages": stages})
    losses = []

    class Watched(Stage2):
        def loss(self, experience):
            # A copy's weights are new to whatever might keep low ones.
            fresh = deepcopy(self.model.policy)
            with torch.no_grad():
                expected = ppo.loss(
                    fresh(experience.rollout.maps),
                    experience.rollout,
                    experience.returns,
                    clip=training.clip,
                    value_coefficient=training.value_coefficient,
                    entropy_coefficient=training.entropy_coefficient,
                )
            found = super().loss(experience)
            losses.append((found[0].item(), expected.total.item()))
            return found

    run(recipe, Watched, folder, tmp_path / "r.pt", precision=precision)
    assert len(losses) == 3 * 4
    for found, expected in losses:
        assert found == pytest.approx(expected, abs=1e-6)
    for first in range(0, len(losses), 4):
        assert len({found for found, _ in losses[first : first + 4]}) == 4


def test_the_same_actions_are_paid_the_same():
    """The mean reward within 2%, where it is far from 0: truths are what the patches speak for."""
    recipe = tiny_recipe("gru")
    batch = noise_batch(recipe)
    torch.manual_seed(0)
    model = build(recipe, 32).eval()
    for weight in model.classifier.parameters():
        nn.init.normal_(weight, std=0.5)
    target, means = None, []
    for precision in PRECISIONS.values():
        model.set_precision(precision)
        frozen = model.frozen()
        with torch.no_grad():
            seen = frozen.glance(batch.glance)
            local, other = (
                frozen.focus(batch.frames, Looks.at(batch.random_boxes(frozen, number), 4))
                for number in (1, 2)
            )
            logits = frozen.classifier(seen, local)
            baseline = frozen.classifier.counterfactual(seen, local, other)
        if target is None:
            gained = (logits.softmax(-1) - baseline.softmax(-1)).mean(1)
            target = nn.functional.one_hot(gained.argmax(-1), gained.shape[-1]).float()
        means.append(ppo.contrast(logits, baseline, target).mean().item())
    assert means[0] > 0.001
    assert means[1] == pytest.approx(means[0], rel=0.02)


def test_what_an_epoch_logs_is_added_up_in_float64(tmp_path):
    folder = write_noise(tmp_path, {"train": 6, "val": 2})
    run(tiny_recipe("gru"), "stage2", folder, tmp_path / "r.pt", until=1, minutes=0)

    def cut(clip):
        if clip > 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(tiny_recipe("gru"), "stage2", folder, tmp_path / "c.pt", on_clip=cut, minutes=0)
    sums = torch.load(tmp_path / "c.pt", weights_only=True)["progress"]["begun"]["sums"]
    assert {"reward", "approximate_kl", "clipped_share", "explained_variance"} <= sums.keys()
    assert {value.dtype for value in sums.values()} == {torch.float64}
