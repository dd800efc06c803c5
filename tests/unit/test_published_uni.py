import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from published import GOLDEN
from uni_models import published, published_recipe

from adafocus.model.checkpoint import CheckpointError, assemble
from adafocus.model.published_uni import (
    UNUSED,
    import_uni,
    published_names,
    read_published,
    translate,
)

KEYS = {"long": "uni_actnet_128_keys.json", "short": "uni_sth_96_8_keys.json"}


@pytest.fixture(scope="module", params=["long", "short"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def model(kind):
    with torch.device("meta"):
        return published(kind)


@pytest.fixture
def content(kind):
    """What a published file holds: weights, and what training left beside them. All values of a
    tensor are one in memory and on disk, which tells the tensors apart."""
    keys = json.loads((GOLDEN / KEYS[kind]).read_text())["state_dict"]
    state = {
        name: torch.tensor(float(number)).expand(shape)
        for number, (name, (shape, _)) in enumerate(keys.items())
    }
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], 0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    return {
        "state_dict": state,
        "epoch": 49,
        "best_acc": np.float64(80.7),
        "top1": np.float32(55.5),
        "best_epoch": np.int64(48),
        "optimizer": optimizer.state_dict(),
    }


@pytest.fixture
def path(content, tmp_path):
    torch.save(content, tmp_path / "published.pth.tar")
    return tmp_path / "published.pth.tar"


def test_every_tensor_has_its_place(model, content, path):
    published = read_published(path)
    ours = translate(path, published, model)
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    taken = Counter(key for name in ours for key in published_names(model, name))
    assert set(taken.values()) == {1}
    assert taken.keys() == {key for key in published if not key.startswith(UNUSED)}
    # The numbers tell which is which.
    for name, tensor in ours.items():
        for step, key in enumerate(published_names(model, name)):
            part = tensor[step] if "_heads." in name else tensor
            assert part.flatten()[0] == content["state_dict"][f"module.{key}"].flatten()[0]


def test_some_places_by_hand(kind, model):
    where = {
        "glancer.others.where.bias": "aux_fc.bias",
        "policy.where.encoder.9.weight": "spatial_policy.encoder.9.weight",
        "policy.when.encoder.0.weight": "temporal_policy.Tconv.0.weight",
    }
    if kind == "long":
        where |= {
            "glancer.head.bias": "global_CNN_fc.1.bias",
            "glancer.trunk.3.conv.1.0.weight": "global_CNN.features.3.conv.3.weight",
            "focuser.head.bias": "local_CNN_fc.1.bias",
            "focuser.trunk.layer1.0.conv1.weight": "local_CNN.layer1.0.conv1.weight",
            "classifier.local_mlp.1.running_var": "classifier.local_mlp.layers.1.running_var",
        }
        heads = published_names(model, "classifier.local_heads.bias")
        assert heads == [f"classifier.local_classifiers.{step}.1.bias" for step in range(16)]
    else:
        where |= {
            # The live head, and the one on detached features.
            "glancer.head.bias": "global_CNN.new_new_fc.bias",
            "glancer.others.prediction.bias": "global_CNN.new_fc.bias",
            "glancer.trunk.3.conv.0.0.weight": "global_CNN.base_model.features.3.conv.0.net.weight",
            "focuser.head.bias": "local_CNN.new_new_fc.bias",
            "focuser.others.prediction.bias": "local_CNN.new_fc.bias",
            "focuser.trunk.layer1.0.conv1.weight": "local_CNN.base_model.layer1.0.conv1.net.weight",
        }
    assert {name: published_names(model, name) for name in where} == {
        name: [key] for name, key in where.items()
    }


def test_a_file_that_does_not_fit_names_its_keys(model, path):
    given = read_published(path)
    del given["aux_fc.bias"]
    given["novelty"] = torch.zeros(1)
    given["spatial_policy.encoder.1.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError) as error:
        translate(path, given, model)
    assert "published.pth.tar: does not fit the model" in str(error.value)
    assert "aux_fc.bias is missing" in str(error.value)
    assert "novelty is unknown" in str(error.value)
    assert "spatial_policy.encoder.1.bias is (7,), not (128,)" in str(error.value)


def test_a_head_that_a_step_lacks_is_missing():
    with torch.device("meta"):
        model = published("long")
    keys = json.loads((GOLDEN / KEYS["long"]).read_text())["state_dict"]
    given = {
        name.removeprefix("module."): torch.empty(shape, device="meta")
        for name, (shape, _) in keys.items()
    }
    del given["classifier.global_classifiers.7.1.bias"]
    with pytest.raises(CheckpointError, match=r"global_classifiers\.7\.1\.bias is missing$"):
        translate(Path("file"), given, model)


def test_numbers_of_numpy_1_are_read(path, tmp_path):
    old = tmp_path / "old.pth.tar"
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(old, "w") as renamed:
        for entry in file.infolist():
            data = file.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            renamed.writestr(entry, data)
    assert read_published(old).keys() == read_published(path).keys()


def test_other_files_say_so(tmp_path):
    for content in ({"state_dict": {"fc.weight": torch.zeros(1)}}, {"glancer": {}}, [1]):
        torch.save(content, tmp_path / "other")
        with pytest.raises(CheckpointError, match="not a published checkpoint of Uni-AdaFocus"):
            read_published(tmp_path / "other")


def test_a_file_becomes_a_checkpoint(kind, path):
    recipe = published_recipe(kind)
    patch_size, names = recipe.patch_sizes[0], tuple(f"class {i}" for i in range(recipe.classes))
    imported = import_uni(path, recipe, patch_size, class_names=names)
    assert (imported.stage, imported.patch_size) == ("joint", patch_size)
    model = assemble(imported, path)
    assert model.class_names == names
    assert all(torch.equal(t, imported.tensors[n]) for n, t in model.state_dict().items())
    with pytest.raises(CheckpointError, match="whole model: give its patch size"):
        import_uni(path, recipe, None)
    with pytest.raises(CheckpointError, match="2 class names given"):
        import_uni(path, recipe, patch_size, class_names=("a", "b"))


def test_a_file_of_the_other_kind_does_not_fit(kind, path):
    other = published_recipe("short" if kind == "long" else "long")
    with pytest.raises(CheckpointError, match="does not fit the model"):
        import_uni(path, other, other.patch_sizes[0])


def test_a_file_is_read_without_executing_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (exec, ("raise SystemExit('executed')",))

    objects = np.array([Payload()], dtype=object)
    for content in (Payload(), objects, np.void(b"1234")):
        torch.save({"state_dict": {}, "best": content}, tmp_path / "hostile")
        with pytest.raises(CheckpointError, match="not a file of weights"):
            read_published(tmp_path / "hostile")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        read_published(tmp_path / "missing")
