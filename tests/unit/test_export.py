"""What other runtimes compute is what PyTorch computes."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from noise import skip_half, tiny_recipe, write_noise
from test_predict import write_weights
from test_uni_policy import cases
from torch import nn
from torch.nn.functional import interpolate

from adafocus.deploy.export import export_onnx, to_onnx
from adafocus.deploy.quantize import export_int8, in_trunk, quantize
from adafocus.deploy.runtimes import RUNNERS, openvino_core
from adafocus.model import checkpoint
from adafocus.model.backbones import Normalize
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError
from adafocus.model.uni_policy import choose_frames
from adafocus.recipe import load_recipe, parse_recipe

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
KINDS = {
    "gru": ("actnet", 128, "bytes"),
    "skipping": ("actnet", 128, "floats"),
    "tsm": ("sthv1", 144, "bytes"),
    "long": ("actnet-uni", 128, "bytes"),
    "short": ("sthv1-uni-8", 128, "floats"),
}
"""Recipe, patch size and what goes in."""
SMALL = {"name": "resnet", "depth": 10, "width": 0.25}


def slim(name, skips):
    """A published recipe, its sizes and frames as they are, with small networks."""
    values = load_recipe(RECIPES / f"{name}.yaml").to_dict()
    values["model"] |= {"glancer": SMALL, "focuser": SMALL}
    if skips:
        values["skip_costs"] = [0.25]
    recipe = parse_recipe(values, name)
    return recipe.skipping(0.25) if skips else recipe


def scenes(videos, count, size):
    """Random coarse pictures, uint8 (B, T, 3, S, S), smooth as boxes are told to the last bit."""
    coarse = torch.rand(videos * count, 3, 9, 9) * 255
    pictures = interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255).byte()
    return pictures.unflatten(0, (videos, count))


def settle(model, *inputs):
    """Batch norms fit the inputs, and policies choose very different places and frames."""
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.momentum = 1.0
    with torch.no_grad():
        model.train()(*inputs)
        policy = model.eval().policy
        if hasattr(policy, "where"):
            policy.where.encoder[-1].weight *= 2
            policy.when.encoder[-1].weight *= 2
        elif not policy.looks_once:
            cells = policy(model.glance(inputs[0]).maps).actions.logits[..., : policy.grid**2]
            policy.actor.bias -= cells.flatten(0, 1).mean(0)
    return model


@pytest.fixture(scope="module", params=list(KINDS))
def exported(request, tmp_path_factory):
    """The file, what it was made of, two videos for it, and what PyTorch makes of them."""
    name, patch_size, kind = KINDS[request.param]
    skips = request.param == "skipping"
    recipe = slim(name, skips)
    torch.manual_seed(0)
    model, shape = build(recipe, patch_size), recipe.model
    counts = [n for n in (shape.frames, shape.frames_apart) if n is not None]
    inputs = [scenes(2, count, shape.frame_size) for count in counts]
    if kind == "floats":
        inputs = list(map(Normalize(), inputs))
    settle(model, *inputs)
    if skips:
        skip_half(model, *inputs)
    folder = tmp_path_factory.mktemp(request.param)
    file = folder / "model.safetensors"
    names = tuple(f"class {i}" for i in range(recipe.classes))
    stage = list(recipe.table)[-1].name
    checkpoint.write(file, Checkpoint(model.state_dict(), recipe, stage, patch_size, names))
    told = export_onnx(file, folder / "model.onnx", kind)
    with torch.inference_mode():
        out = model(*inputs)
    feed = dict(zip(("frames", "glance"), (put.numpy() for put in inputs), strict=False))
    return folder / "model.onnx", checkpoint.read(file), told, feed, out


def check(found, out):
    """As far as there are so many videos."""
    videos = len(found["logits"])
    assert np.array_equal(found["looked_at"], out.frames[:videos])
    assert np.array_equal(found["corners"], out.corners[:videos])
    assert np.abs(found["boxes"] - out.boxes[:videos].numpy()).max() < 0.02
    difference = np.abs(found["logits"] - out.logits[:videos].numpy()).max()
    assert difference < 1e-4 * out.logits.std()


@pytest.mark.slow
def test_onnxruntime_gives_the_same(exported):
    path, source, told, feed, out = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [put.name for put in session.get_inputs()] == list(feed)
    outputs = [put.name for put in session.get_outputs()]
    check(dict(zip(outputs, session.run(None, feed), strict=True)), out)

    facts = session.get_modelmeta().custom_metadata_map
    assert facts["computes"] == told
    assert facts["input_type"] == ("bytes" if feed["frames"].dtype == np.uint8 else "floats")
    assert json.loads(facts["class_names"]) == list(source.class_names)
    assert json.loads(facts["patch_size"]) == source.patch_size
    assert parse_recipe(json.loads(facts["recipe"]), "metadata") == source.recipe


@pytest.mark.slow
def test_openvino_gives_the_same(exported):
    path, _, _, feed, out = exported
    # Where the processor has it, OpenVINO would compute in bfloat16.
    model = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = model({name: put[:1] for name, put in feed.items()})
    check({port.any_name: results[port] for port in model.outputs}, out)


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["long"], indirect=True)
def test_int8_is_of_backbones_alone(exported, tmp_path):
    path, _, _, feed, out = exported
    one = {name: put[:1] for name, put in feed.items()}
    quantize(path, tmp_path / "int8.onnx", [one])
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    makers = {name: node for node in nodes for name in node.output}
    kinds = ("Conv", "Gemm", "MatMul")
    in_int8 = {
        node.name: makers[node.input[1]].op_type == "DequantizeLinear"
        for node in nodes
        if node.op_type in kinds and node.input[1] in makers
    }
    expected = {node.name for node in nodes if node.op_type in kinds and in_trunk(node)}
    assert {name for name, quantized in in_int8.items() if quantized} == expected
    assert len(expected) == 2 * 12  # of two ResNet-10
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"])[0] == "class 0"
    assert facts["backbones"] == "int8"
    [logits] = session.run(["logits"], feed)
    near = np.corrcoef(logits.flatten(), out.logits.flatten())[0, 1]
    assert 0.9 < near < 0.99999, near


@pytest.mark.slow
def test_int8_writes_over_no_result_and_is_compared_with_floats(tmp_path, monkeypatch):
    values = tiny_recipe("gru").to_dict()
    values["model"]["glancer"] = values["model"]["focuser"]  # with fewer layers to export
    weights = write_weights(parse_recipe(values, "small"), tmp_path, "stage3")
    result, output = tmp_path / "float.json", tmp_path / "float.onnx"
    result.write_text("of the workflow")
    compared, run = [], RUNNERS["onnx"]

    def runner(path, threads):
        compared.append(path)
        return run(path, threads)

    monkeypatch.setitem(RUNNERS, "onnx", runner)
    cost = export_int8(weights, output, write_noise(tmp_path, {"train": 2, "val": 1}), "bytes")
    assert result.read_text() == "of the workflow"
    assert json.loads((tmp_path / "float.onnx.json").read_text()) == cost
    assert len(set(compared)) == 2


@pytest.mark.slow
def test_the_models_compared_look_at_different_places(exported):
    """Else their being equal would say little."""
    *_, out = exported
    assert len(out.boxes.flatten(0, 1).round().unique(dim=0)) >= 2
    assert out.logits.std() > 0.005
    assert len(out.frames.unique(dim=0)) == (2 if "uni" in exported[1].recipe.name else 1)
    assert out.looks.skipped.any() == ("skipped" in exported[2])


class Chooser(nn.Module):
    def __init__(self, candidates, count):
        super().__init__()
        self.sizes = candidates, count

    def forward(self, weights):
        return choose_frames(weights, *self.sizes)


@pytest.mark.slow
def test_onnxruntime_chooses_the_very_frames(tmp_path):
    """Of hard cases, and of many: it adds weights up as PyTorch does."""
    weights, candidates, count, expected = next(cases()).values
    module = Chooser(candidates, count)
    program = to_onnx(module, {"weights": torch.from_numpy(weights)}, ["chosen"])
    program.save(tmp_path / "chooser.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "chooser.onnx")
    assert np.array_equal(session.run(None, {"weights": weights})[0], expected)
    torch.manual_seed(0)
    many = torch.distributions.Dirichlet(torch.full((weights.shape[1],), 0.5)).sample((50_000,))
    assert np.array_equal(session.run(None, {"weights": many.numpy()})[0], module(many))


def test_a_model_without_policy_is_not_exported(recipe, tmp_path):
    model = build(recipe, 32, with_policy=False)
    file = tmp_path / "model.safetensors"
    checkpoint.write(file, Checkpoint(model.state_dict(), recipe, "stage1", 32, tuple("abcde")))
    with pytest.raises(CheckpointError, match="no policy to export"):
        export_onnx(file, tmp_path / "model.onnx")
