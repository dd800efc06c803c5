"""The benchmarks' opponents compute what ours computes, so that their times compare."""

import sys
from pathlib import Path

import pytest
import torch
from noise import noise_batch, tiny_recipe, uni_recipe

from adafocus.data.clips import Clips
from adafocus.methods.adafocus import STAGES
from adafocus.model.adafocus import build
from adafocus.model.backbones import Normalize
from adafocus.model.building import build as build_any
from adafocus.recipe import load_recipe

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import data  # noqa: E402
import stepwise  # noqa: E402
import whole_frames  # noqa: E402


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(tiny_recipe("gru"), 32).eval()


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return noise_batch(tiny_recipe("gru"))


@torch.no_grad()
def test_prediction(model, batch):
    out = model.frozen()(batch.frames)
    steps = stepwise.walk(model, batch.frames, sample=False)
    assert torch.equal(model.policy.corners(steps.actions, model.margin), out.corners)
    assert torch.allclose(steps.logits, out.logits, atol=1e-4)
    assert torch.allclose(steps.maps, model.glance(batch.frames).maps, atol=1e-4)


@torch.no_grad()
def test_prediction_of_uni_adafocus():
    torch.manual_seed(0)
    recipe = uni_recipe("long")
    model, frames = build_any(recipe, 32).eval(), noise_batch(recipe).frames
    out = model.frozen()(frames)
    assert torch.allclose(stepwise.walk_uni(model, frames), out.logits, atol=1e-4)


@torch.no_grad()
def test_stage_3_looks_where_the_policy_chooses(model, batch):
    logits = stepwise.stage3_logits(model, batch.frames)
    assert torch.allclose(logits, model(batch.frames).logits, atol=1e-4)


@torch.no_grad()
def test_stage_1_on_the_same_patches(model, batch, monkeypatch):
    # With a margin of 0 there is but one random patch.
    monkeypatch.setattr(model, "patch_size", model.frame_size)
    stage = STAGES["stage1"]("stage1", model, tiny_recipe("gru").stages.stage1)
    logits = stepwise.stage1_logits(model, batch.frames)
    assert torch.allclose(logits[:, -1], stage.predict(batch)[0], atol=1e-4)


@torch.no_grad()
def test_a_rollout_scores_the_actions_it_took(model, batch):
    rollout = stepwise.rollout(model, batch.frames, batch.target)
    again = model.policy(rollout.maps).actions.log_prob(rollout.actions)
    assert torch.allclose(again, rollout.log_probability, atol=1e-4)
    assert rollout.reward.shape == rollout.actions.shape
    assert rollout.reward.abs().max() > 0


def test_the_baseline_continues_the_real_trajectory(model, batch):
    """With one patch position, the random patch is the chosen one and pays nothing."""
    model.patch_size = model.frame_size
    rollout = stepwise.rollout(model, batch.frames, batch.target)
    assert torch.allclose(rollout.reward, torch.zeros(()), atol=1e-6)


def test_whole_frames_cost_what_resnets_cost():
    recipes = ROOT / "config" / "recipes"
    # ResNet-50 takes 4.09 GFLOPs per frame of 224 pixels.
    assert whole_frames.gflops(load_recipe(recipes / "actnet.yaml")) == pytest.approx(
        16 * 4.09, rel=0.005
    )
    assert whole_frames.gflops(load_recipe(recipes / "sthv1.yaml")) == pytest.approx(
        8 * 4.09, rel=0.005
    )


@torch.no_grad()
def test_whole_frames_predict(recipe, batch):
    model = whole_frames.WholeFrames(recipe)
    frames = torch.randn(2, model.frames, 3, 64, 64)
    assert model(frames).shape == (2, recipe.classes)


def test_loading_by_pil(tmp_path):
    data.make_frames(tmp_path, frames=30)
    ours = Clips(tmp_path, "train", data.loading_recipe(), augment=True, seed=0)
    theirs = data.PilClips(tmp_path, frames=30)
    for key in ((0, 0), (1, 0), (2, 3), (5, 1)):  # flipped and not
        frames = Normalize()(ours[key]["frames"])
        # PIL rounds between its two passes: some bytes differ by one, which is 0.018 here.
        assert torch.allclose(theirs[key]["frames"].unflatten(0, (-1, 3)), frames, atol=0.04)
