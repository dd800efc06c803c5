"""The authors' checkpoints give the authors' numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from published import GOLDEN, sections, videos
from torchvision.io import write_jpeg

from adafocus.evaluation import evaluate
from adafocus.model import checkpoint
from adafocus.model.checkpoint import CheckpointError
from adafocus.model.published import import_published
from adafocus.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
ACTNET = load_recipe(RECIPES / "actnet.yaml")
STH = load_recipe(RECIPES / "sthv1.yaml")


@pytest.fixture(scope="module")
def actnet():
    """The sections of a published file of the GRU family."""
    return sections("actnet_128")


@pytest.fixture(scope="module")
def sth():
    """Those of the TSM family."""
    return sections("sth_144")


@pytest.fixture
def write(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "published.pth.tar")
        return tmp_path / "published.pth.tar"

    return write


def probe(images):
    """What the golden data say of their inputs: the sum and the sum of squares."""
    images = images.double()
    return images.sum().item(), images.square().sum().item()


def test_actnet_predicts_what_the_published_model_does(actnet, write, tmp_path):
    golden = np.load(GOLDEN / "actnet_128.npz")
    imported = import_published(write(actnet), ACTNET, 128)
    assert imported.stage == "stage3"
    checkpoint.write(tmp_path / "ours.safetensors", imported)
    frames = videos(7, 2, 16)
    assert probe(frames) == pytest.approx(golden["image_probe"][:2], rel=1e-5)

    model = checkpoint.load(tmp_path / "ours.safetensors")
    with torch.inference_mode():
        out = model(frames)
        actions = model.policy(model.glance(frames).maps).actions.probs
    assert np.array_equal(actions.argmax(-1), golden["actions"])
    assert np.array_equal(out.corners, golden["coords"])
    assert np.allclose(actions, golden["probs"], atol=1e-5)
    logits = out.logits.flatten(0, 1).numpy()
    spread = golden["logits"].std()
    assert np.abs(logits - golden["logits"]).max() <= 1e-4 * spread


def test_sth_predicts_what_the_published_model_does(sth, write, tmp_path):
    golden = np.load(GOLDEN / "sth_144.npz")
    imported = import_published(write(sth), STH, 144)
    checkpoint.write(tmp_path / "ours.safetensors", imported)
    glance, frames = videos(7, 2, 8), videos(8, 2, 12)
    assert probe(glance) == pytest.approx(golden["glance_image_probe"][:2], rel=1e-5)
    assert probe(frames) == pytest.approx(golden["focus_image_probe"][:2], rel=1e-5)

    model = checkpoint.load(tmp_path / "ours.safetensors")
    with torch.inference_mode():
        out = model(frames, glance=glance)
        actions = model.policy(model.glance(glance).maps).actions.mode
    assert np.allclose(actions[:, 0], golden["actions"], atol=1e-5)
    assert np.array_equal(out.corners[:, 0], golden["coords"])
    spread = golden["logits"].std()
    assert np.abs(out.logits[:, -1].numpy() - golden["logits"]).max() <= 1e-4 * spread


@pytest.mark.slow
def test_an_imported_checkpoint_is_evaluated(actnet, write, tmp_path):
    """At another patch size, on videos of noise, as the recipe of ActivityNet has it."""
    checkpoint.write(tmp_path / "ours.safetensors", import_published(write(actnet), ACTNET, 96))
    (tmp_path / "splits").mkdir()
    names = "".join(f"{number}\n" for number in range(200))
    (tmp_path / "splits" / "classes.txt").write_text(names)
    rows = ["video,path,frames,labels"]
    for label in range(2):
        video = tmp_path / f"video{label}"
        video.mkdir()
        for frame in range(16):
            noise = torch.randint(256, (3, 240, 320), dtype=torch.uint8)
            write_jpeg(noise, str(video / f"{frame}.jpg"))
        rows.append(f"{video.name},{video.name},16,{label}")
    (tmp_path / "splits" / "val.csv").write_text("\n".join(rows))
    result = evaluate(
        tmp_path / "ours.safetensors",
        data=tmp_path,
        output=tmp_path / "result.json",
        plots=tmp_path,
        seed=0,
        device="cpu",
        threads=1,
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
    )
    assert (result.dataset, result.patch_size, result.stage) == ("actnet", 96, 3)
    assert result.published["figure"] == 71.9
    assert result.gflops_per_video == pytest.approx(17.18, abs=0.01)
    assert result.classes_left_out_of_mAP == 198


def parts(tensors):
    return {name.partition(".")[0] for name in tensors}


def test_the_sections_tell_the_stage(actnet, sth, write):
    for name in ("glancer", "focuser"):
        imported = import_published(write({name: actnet[name], "epoch": 14}), ACTNET, None)
        assert (imported.stage, imported.patch_size) == (name, None)
        assert parts(imported.tensors) == {name}
    untaught = {name: section for name, section in actnet.items() if name != "policy"}
    imported = import_published(write(untaught), ACTNET, 96)
    assert (imported.stage, imported.patch_size) == ("stage1", 96)
    assert parts(imported.tensors) == {"glancer", "focuser", "classifier"}
    imported = import_published(write(actnet), ACTNET, 128, policy_stage="stage2")
    assert imported.stage == "stage2"
    assert parts(imported.tensors) == {"glancer", "focuser", "classifier", "policy"}
    # The head of a focuser with temporal shift lies in a section of its own.
    stage0 = {"focuser": sth["focuser"], "fc": sth["fc"]}
    imported = import_published(write(stage0), STH, None)
    assert torch.equal(imported.tensors["focuser.head.weight"], sth["fc"]["weight"])


def test_the_policy_is_the_sections_and_not_the_focusers_copy(actnet, write):
    ours = import_published(write(actnet), ACTNET, 128).tensors["policy.actor.weight"]
    assert torch.equal(ours, actnet["policy"]["actor.0.weight"])
    assert not torch.equal(ours, actnet["focuser"]["policy.policy.actor.0.weight"])


def test_class_names_are_carried(actnet, write):
    path = write({"glancer": actnet["glancer"]})
    names = tuple(f"class {i}" for i in range(200))
    assert import_published(path, ACTNET, None, class_names=names).class_names == names
    assert import_published(path, ACTNET, None).class_names[7] == "7"
    with pytest.raises(CheckpointError, match="2 class names given, but actnet has 200"):
        import_published(path, ACTNET, None, class_names=("a", "b"))


def test_a_file_that_does_not_fit_names_its_keys(actnet, sth, write):
    glancer = dict(actnet["glancer"])
    del glancer["net.features.0.0.weight"]
    glancer["net.features.0.1.bias"] = torch.zeros(7)
    glancer["net.novelty"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        import_published(write({"glancer": glancer}), ACTNET, None)
    assert "published.pth.tar: does not fit the recipe of actnet" in str(error.value)
    assert "glancer/net.features.0.0.weight is missing" in str(error.value)
    assert "glancer/net.features.0.1.bias is (7,), not (32,)" in str(error.value)
    assert "glancer/net.novelty is unknown" in str(error.value)
    with pytest.raises(CheckpointError, match="does not fit the recipe of actnet"):
        import_published(write({"glancer": sth["glancer"]}), ACTNET, None)
    with pytest.raises(CheckpointError, match="section fc is missing"):
        import_published(
            write({"glancer": actnet["glancer"], "focuser": actnet["focuser"]}), ACTNET, 128
        )


def test_patch_size_and_stage_must_agree(actnet, write):
    with pytest.raises(CheckpointError, match="all patch sizes share"):
        import_published(write({"glancer": actnet["glancer"]}), ACTNET, 128)
    with pytest.raises(CheckpointError, match="is of stage3: give its patch size"):
        import_published(write(actnet), ACTNET, None)


def test_a_file_is_read_without_executing_code(write, tmp_path):
    class Payload:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    with pytest.raises(CheckpointError, match="not a file of weights"):
        import_published(write({"glancer": Payload()}), ACTNET, None)
    with pytest.raises(CheckpointError, match="not a published checkpoint"):
        import_published(write({"weights": {}}), ACTNET, None)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        import_published(tmp_path / "missing", ACTNET, None)
