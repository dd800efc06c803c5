"""Frozen backbones give what the plain ones give."""

import pytest
import torch
from noise import noise_batch, tiny_recipe
from torch import nn

from adafocus.model.adafocus import build
from adafocus.model.backbones import backbone
from adafocus.model.frozen import FrozenBackbone
from adafocus.recipe import BackboneRecipe


def settle(model: nn.Module) -> nn.Module:
    """Weights and batch norms as training leaves them: no two channels are scaled alike."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return model.eval()


@pytest.mark.parametrize("kind", ["floats", "bytes"])
@pytest.mark.parametrize("segments", [None, 4])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet"])
def test_a_frozen_backbone_is_the_same_function(name, segments, kind, monkeypatch):
    # At most seven frames at once, of one video where the shift ties its frames together; some
    # parts take one at a time and others all.
    monkeypatch.setattr("adafocus.model.frozen.MOST_PIXELS", 7 * 64**2)
    monkeypatch.setattr("adafocus.model.frozen.CACHE", 2**19)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    recipe = BackboneRecipe(name=name, depth=50 if name == "resnet" else None)
    plain = settle(backbone(recipe, classes=2, segments=segments))
    frames = torch.randn(2, 4, 3, 64, 64)
    if kind == "bytes":
        frames = (frames * 40 + 128).clamp(0, 255).byte()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    with torch.no_grad():
        expected = plain(frames)
        frozen = FrozenBackbone(plain)
        maps = frozen(frames)
        assert torch.equal(frozen(frames), maps)
    [plan] = frozen.plans.values()
    assert [part for parts, _ in plan for part in parts] == list(frozen.trunk)
    assert len({size for _, size in plan}) > 1
    assert all(size % (segments or 1) == 0 for _, size in plan)
    assert maps.shape == expected.shape
    assert expected.std() > 0.01
    assert torch.allclose(maps, expected, atol=1e-4 * expected.abs().max().item())
    after = plain.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_every_batch_norm_is_folded():
    for recipe in (
        BackboneRecipe(name="mobilenet_v2"),
        BackboneRecipe(name="resnet", depth=50),
        BackboneRecipe(name="resnet", depth=10, width=0.25),
    ):
        frozen = FrozenBackbone(backbone(recipe, classes=2))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
        assert not any(weight.requires_grad for weight in frozen.parameters())


def test_a_frozen_model_predicts_the_same(recipe, batch):
    model = settle(build(recipe, 32))
    with torch.inference_mode():
        out = model(batch.frames, batch.glance)
        frozen = model.frozen()(batch.frames, batch.glance)
    assert torch.equal(frozen.corners, out.corners)
    assert torch.allclose(frozen.logits, out.logits, atol=1e-4)


def test_just_the_named_backbone_is_copied():
    model = build(tiny_recipe("gru"), 32)
    model.class_names = tuple("abcde")
    frozen = model.frozen("glancer")
    assert isinstance(frozen.glancer, FrozenBackbone)
    assert frozen.focuser is model.focuser
    assert frozen.policy is model.policy
    assert frozen.classifier is model.classifier
    assert frozen.class_names == model.class_names


def test_a_frozen_model_streams():
    recipe = tiny_recipe("gru")
    model, frames = settle(build(recipe, 32)), noise_batch(recipe).frames
    stream = model.frozen().stream()
    logits = torch.cat([stream(frame).logits for frame in frames.unbind(1)], 1)
    with torch.inference_mode():
        assert torch.allclose(logits, model(frames).logits, atol=1e-4)
