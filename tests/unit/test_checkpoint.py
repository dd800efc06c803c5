import json
import random

import pytest
import torch
from noise import tiny_recipe, uni_recipe, write_checkpoint
from safetensors.torch import save_file
from torchvision.models import resnet18

import adafocus
from adafocus.model import checkpoint
from adafocus.model.adafocus import build
from adafocus.model.backbones import backbone
from adafocus.model.building import build as build_any
from adafocus.model.checkpoint import Checkpoint, CheckpointError
from adafocus.model.frozen import FrozenBackbone
from adafocus.recipe import SPECS, BackboneRecipe, parse_recipe

NAMES = ("a", "b, c", 'd "e"', "ü", "f")


def held(model, stage):
    return {k: v for k, v in model.state_dict().items() if k.split(".")[0] in SPECS[stage].leaves}


def write(path, model, recipe, stage="stage3", patch_size=32, **changes):
    tensors = held(model, stage) | changes
    checkpoint.write(path, Checkpoint(tensors, recipe, stage, patch_size, NAMES))


def test_a_loaded_model_predicts_the_same(recipe, batch, tmp_path):
    model = build(recipe, 48).eval()
    write(tmp_path / "c.safetensors", model, recipe, patch_size=48)
    loaded = adafocus.load(tmp_path / "c.safetensors", train=True)
    fast = adafocus.load(tmp_path / "c.safetensors")
    assert not (loaded.training or fast.training)
    with torch.inference_mode():
        expected, out, faster = (
            each(batch.frames, glance=batch.glance) for each in (model, loaded, fast)
        )
    assert torch.equal(out.logits, expected.logits)
    assert torch.equal(out.corners, expected.corners)
    assert torch.allclose(faster.logits, expected.logits, atol=1e-4 * expected.logits.std().item())
    assert torch.equal(faster.corners, expected.corners)


@pytest.mark.parametrize("kind", ["gru", "long"])
def test_what_is_loaded_is_fast_and_what_learns_on_says_so(kind, tmp_path):
    recipe = tiny_recipe(kind) if kind == "gru" else uni_recipe(kind)
    path = tmp_path / "c.safetensors"
    tensors = build_any(recipe, 32).state_dict()
    checkpoint.write(path, Checkpoint(tensors, recipe, recipe.last.name, 32, NAMES))
    fast = adafocus.load(path)
    for part in (fast.glancer, fast.focuser):
        assert isinstance(part, FrozenBackbone)
    assert fast.frozen() is fast and fast.frozen("glancer") is fast
    half = adafocus.load(path, train=True).frozen("glancer")
    assert half.frozen().glancer is half.glancer
    for frozen in (fast, half):
        with pytest.raises(ValueError, match="learns no more: take adafocus.load.*train=True"):
            frozen.train()
        assert not any(module.training for module in frozen.modules()), "half of it was changed"
    with pytest.raises(ValueError, match="in which it was frozen: .*train=True"):
        fast.set_precision(torch.bfloat16)

    model = adafocus.load(path, train=True).train()
    shape = recipe.model
    frames = torch.randn(2, shape.frames, 3, shape.frame_size, shape.frame_size)
    model(frames).logits.sum().backward()
    assert model.focuser.trunk.conv1.weight.grad is not None
    assert model.state_dict().keys() == tensors.keys()


def test_everything_comes_back(recipe, tmp_path):
    write(tmp_path / "c.safetensors", build(recipe, 32), recipe, "stage1")
    read = checkpoint.read(tmp_path / "c.safetensors")
    assert (read.recipe, read.stage, read.patch_size) == (recipe, "stage1", 32)
    assert read.class_names == NAMES
    assert adafocus.load(tmp_path / "c.safetensors").policy is None
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_others_may_read_it_as_they_may_read_any_file(tmp_path):
    (tmp_path / "any").touch()
    path = write_checkpoint(tmp_path / "a.safetensors", tiny_recipe("gru"), "stage1", 32)
    assert path.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint"):
        checkpoint.read(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="text: not an AdaFocus checkpoint"):
        checkpoint.read(tmp_path / "text")
    save_file({"weight": torch.zeros(1)}, tmp_path / "other", {"recipe": json.dumps({"a": 1})})
    with pytest.raises(CheckpointError, match="other: not an AdaFocus checkpoint.*unknown key 'a'"):
        checkpoint.read(tmp_path / "other")


def test_any_bit_that_flips_is_noticed(tmp_path):
    path = tmp_path / "c.safetensors"
    recipe = tiny_recipe("gru")
    write(path, build(recipe, 32), recipe, "stage3")
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"c.safetensors: "):
            checkpoint.read(path)
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"c.safetensors: damaged on disk.*remove it"):
        checkpoint.read(path)


def test_missing_unknown_and_misshapen_keys_are_named(recipe, tmp_path):
    model = build(recipe, 32)
    tensors = held(model, "stage3")
    bias = "classifier.fc.bias"
    for changed, message in (
        ({k: v for k, v in tensors.items() if k != bias}, f"{bias} is missing"),
        (tensors | {bias: torch.zeros(9)}, rf"{bias} is \(9,\), not \(5,\)"),
        (tensors | {"policy.extra": torch.zeros(1)}, "policy.extra is unknown"),
    ):
        path = tmp_path / "c.safetensors"
        checkpoint.write(path, Checkpoint(changed, recipe, "stage3", 32, NAMES))
        with pytest.raises(CheckpointError, match=f"c.safetensors: {message}"):
            adafocus.load(path)


def test_stage0_is_not_a_model(recipe, tmp_path):
    write(tmp_path / "g.safetensors", build(recipe, 32), recipe, "glancer", None)
    with pytest.raises(CheckpointError, match="a stage-0 checkpoint is a glancer"):
        adafocus.load(tmp_path / "g.safetensors")


def test_a_checkpoint_of_another_recipe_does_not_fit(recipe, tmp_path):
    write(tmp_path / "c.safetensors", build(recipe, 32), recipe)
    read = checkpoint.read(tmp_path / "c.safetensors")
    checkpoint.check_fit(read, tmp_path, recipe, 32)
    with pytest.raises(CheckpointError, match="another patch size than the recipe's: 32, not 48"):
        checkpoint.check_fit(read, tmp_path, recipe, 48)
    other = recipe.model_copy(update={"name": "other"})
    with pytest.raises(
        CheckpointError, match="another data set than the recipe's: tiny, not other"
    ):
        checkpoint.check_fit(read, tmp_path, other, 32)
    model = recipe.model.model_copy(update={"glance_size": 64})
    with pytest.raises(CheckpointError, match="another model"):
        checkpoint.check_fit(read, tmp_path, recipe.model_copy(update={"model": model}), 32)


def test_a_checkpoint_fits_whatever_its_parts_were_trained_by(tmp_path):
    """A recipe may give another dropout, say, than when a file of the authors was imported."""
    recipe = tiny_recipe("tsm")
    path = write_checkpoint(tmp_path / "a.safetensors", recipe, "stage3", 32)
    values = recipe.to_dict()
    values["model"]["classifier"]["dropout"] = 0.8
    values["model"]["policy"]["std"] = 0.1
    values["model"]["focuser"]["pretrained"] = "imagenet"
    other = parse_recipe(values, "other.yaml")
    checkpoint.check_fit(checkpoint.read(path), path, other, 32)
    values["model"]["policy"]["hidden"] += 1
    with pytest.raises(CheckpointError, match="another model"):
        other = parse_recipe(values, "other.yaml")
        checkpoint.check_fit(checkpoint.read(path), path, other, 32)


def test_a_folder_with_one_checkpoint_is_that_checkpoint(recipe, tmp_path):
    with pytest.raises(CheckpointError, match="holds not one checkpoint but none"):
        checkpoint.load(tmp_path)
    write(tmp_path / "c.safetensors", build(recipe, 32), recipe)
    model = checkpoint.load(tmp_path)
    assert model.patch_size == 32
    assert model.class_names == checkpoint.read(tmp_path / "c.safetensors").class_names
    write(tmp_path / "d.safetensors", build(recipe, 32), recipe)
    with pytest.raises(CheckpointError, match="c.safetensors, d.safetensors; name the file"):
        checkpoint.load(tmp_path)


# --- pretrained backbones ---------------------------------------------------------------------


def test_a_torchvision_weights_file_fills_the_trunk(tmp_path):
    reference = resnet18()
    torch.save(reference.state_dict(), tmp_path / "resnet18.pth")
    recipe = BackboneRecipe(name="resnet", depth=18, pretrained=str(tmp_path / "resnet18.pth"))
    ours = backbone(recipe, classes=3)
    checkpoint.load_pretrained(ours, recipe, "model.focuser")
    assert torch.equal(ours.trunk.layer4[1].conv2.weight, reference.layer4[1].conv2.weight)


def test_weights_that_do_not_fit_say_so(tmp_path):
    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    recipe = BackboneRecipe(name="resnet", depth=34, pretrained=str(tmp_path / "resnet18.pth"))
    with pytest.raises(CheckpointError, match="model.focuser.pretrained: .*does not fit resnet34"):
        checkpoint.load_pretrained(backbone(recipe, 3), recipe, "model.focuser")


def test_weights_are_read_without_executing_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    torch.save({"conv1.weight": Payload()}, tmp_path / "evil.pth")
    recipe = BackboneRecipe(name="resnet", depth=18, pretrained=str(tmp_path / "evil.pth"))
    with pytest.raises(CheckpointError, match="cannot read .*evil.pth"):
        checkpoint.load_pretrained(backbone(recipe, 3), recipe, "model.focuser")


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Where torch's cache has ResNet-18."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    return path


def load_imagenet():
    recipe = BackboneRecipe(name="resnet", depth=18, pretrained="imagenet")
    ours = backbone(recipe, 3)
    checkpoint.load_pretrained(ours, recipe, "model.focuser")
    return ours


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("digest_fits", [False, True])
def test_a_file_planted_in_the_cache_runs_no_code(
    tmp_path, cached, monkeypatch, legacy, digest_fits
):
    mark = tmp_path / "executed"

    class Payload:
        def __reduce__(self):
            return (exec, (f"open({str(mark)!r}, 'w')",))

    torch.save({"conv1.weight": Payload()}, cached, _use_new_zipfile_serialization=not legacy)
    if digest_fits:
        monkeypatch.setitem(checkpoint.DIGESTS, cached.name, checkpoint.sha256(cached))
    refusal = "cannot read" if digest_fits else "not the file that torchvision publishes"
    with pytest.raises(CheckpointError, match=refusal) as error:
        load_imagenet()
    assert str(cached) in str(error.value) and "\n" not in str(error.value)
    assert not mark.exists()
    torch.load(cached, weights_only=False)
    assert mark.exists()  # it would have


@pytest.mark.parametrize("legacy", [False, True])
def test_cached_weights_are_checked_whole_each_time(cached, monkeypatch, legacy):
    reference = resnet18()
    torch.save(reference.state_dict(), cached, _use_new_zipfile_serialization=not legacy)
    monkeypatch.setitem(checkpoint.DIGESTS, cached.name, checkpoint.sha256(cached))
    assert torch.equal(load_imagenet().trunk.conv1.weight, reference.conv1.weight)
    content = bytearray(cached.read_bytes())
    content[-5000] ^= 1
    for other in (content, content[: len(content) // 2], b"<html>Log in first</html>", b""):
        cached.write_bytes(other)
        with pytest.raises(CheckpointError, match="resnet18-f37072fd.pth: not the file.*remove it"):
            load_imagenet()


def test_a_login_page_is_not_kept_as_weights(tmp_path, cached):
    """What a server answers in place of the file."""
    page = tmp_path / "served" / cached.name
    page.parent.mkdir()
    page.write_text("<html>Log in first</html>")
    with pytest.raises(RuntimeError, match="invalid hash value"):
        checkpoint.fetch_weights(page.as_uri())
    assert list(cached.parent.iterdir()) == []


def test_an_offline_machine_is_told_what_to_do(tmp_path, monkeypatch):
    # An empty cache and a proxy that is not there: the download fails as it does offline.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    recipe = BackboneRecipe(name="resnet", depth=18, pretrained="imagenet")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_pretrained(backbone(recipe, 3), recipe, "actnet: model.focuser")
    assert "actnet: model.focuser.pretrained: cannot get ImageNet weights of resnet18" in str(
        error.value
    )
    assert "weights file" in str(error.value)
    assert "null to train from scratch" in str(error.value)


def test_a_depth_without_imagenet_weights_says_so():
    recipe = BackboneRecipe(name="resnet", depth=10, pretrained="imagenet")
    with pytest.raises(CheckpointError, match="cannot get ImageNet weights of resnet10"):
        checkpoint.load_pretrained(backbone(recipe, 3), recipe, "model.focuser")
