"""Predictions by ONNX Runtime and OpenVINO, and which runtime is taken."""

import json

import pytest
import torch
from miniature import make_video
from noise import skipping_recipe, tiny_recipe, uni_recipe
from test_export import scenes, settle
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.deploy import runtimes
from adafocus.deploy.predict import Predictor
from adafocus.deploy.runtimes import Graph, graph_path, pick_runtime
from adafocus.extras import EXTRAS, MissingExtra
from adafocus.model import checkpoint
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A user's cache that all of these tests share, as exporting takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "adafocus"


@pytest.fixture(scope="module", params=["gru", "long"])
def weights(request, cache, tmp_path_factory):
    recipe = tiny_recipe("gru") if request.param == "gru" else uni_recipe("long")
    torch.manual_seed(0)
    model = settle(build(recipe, 32), scenes(2, recipe.model.frames, 64))
    return write(tmp_path_factory.mktemp("model") / f"{request.param}.safetensors", recipe, model)


def write(path, recipe, model):
    names = tuple(f"class {i}" for i in range(recipe.classes))
    tensors = model.state_dict()
    checkpoint.write(path, Checkpoint(tensors, recipe, recipe.last.name, 32, names))
    return path


@pytest.mark.slow
def test_all_runtimes_predict_the_same(weights, cache, tmp_path, capsys):
    video = make_video(tmp_path / "video.mp4", 10, "146x73", rate=10)
    before = set(cache.glob("*"))
    predictors = [Predictor(weights, runtime=name) for name in ("torch", "onnx", "openvino")]
    [graph] = set(cache.glob("*")) - before
    said = f"{weights}: is exported for other runtimes, once, to {graph}\n"
    assert capsys.readouterr().err == said
    assert Predictor(weights, runtime="onnx") and capsys.readouterr().err == ""

    expected, *others = (predictor(video) for predictor in predictors)
    names = [prediction.to_dict()["runtime"] for prediction in (expected, *others)]
    assert names == ["torch", "onnx", "openvino"]
    for found in others:
        assert [step.time for step in found.steps] == [step.time for step in expected.steps]
        for step, other in zip(expected.steps, found.steps, strict=True):
            assert other.box == pytest.approx(step.box, abs=0.05)
        assert found.guesses[0].label == expected.guesses[0].label

    shape = predictors[0].recipe.model
    frames = scenes(2, shape.frames, 64)
    with torch.inference_mode():
        ours, *theirs = (predictor.classify(frames) for predictor in predictors)
    assert len(ours.corners.flatten(0, 1).unique(dim=0)) > 1
    for out in theirs:
        assert torch.equal(out.frames, ours.frames)
        assert torch.equal(out.corners, ours.corners)
        assert (out.logits - ours.logits).abs().max() < 1e-4 * ours.logits.std()

    command = ["predict", video, "--checkpoint", weights, "--json", tmp_path / "out.jsonl"]
    done = CliRunner().invoke(app, [*map(str, command), "--runtime", "onnx"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out.jsonl").read_text())["runtime"] == "onnx"


def test_a_graph_is_of_its_very_checkpoint(cache, tmp_path):
    recipe = tiny_recipe("gru")
    path = tmp_path / "one.safetensors"
    places = {graph_path(write(path, recipe, build(recipe, 32))) for _ in range(2)}
    assert len(places) == 2 and {place.parent for place in places} == {cache}
    graph = graph_path(path)
    cache.mkdir(exist_ok=True)
    graph.write_bytes(b"half a graph")
    for runtime in ("onnx", "openvino"):
        with pytest.raises(CheckpointError, match=f"{graph.name}: cannot be read .*remove it"):
            Graph(path, runtime)


@pytest.fixture
def absent(monkeypatch):
    """Takes a runtime away."""
    return lambda runtime: monkeypatch.setitem(EXTRAS, runtime, ("not_a_module",))


def test_auto_is_the_fastest_that_is_installed_and_can_do_it(cache, absent, monkeypatch):
    model = build(tiny_recipe("gru"), 32)
    monkeypatch.setattr(runtimes, "FASTEST", ("openvino", "onnx"))
    assert pick_runtime("auto", model, CPU, budget=False) == "openvino"
    assert pick_runtime("auto", model, torch.device("cuda"), budget=False) == "torch"
    assert pick_runtime("auto", model, CPU, budget=True) == "torch"
    skipping = build(skipping_recipe(), 32)
    assert pick_runtime("auto", skipping, CPU, budget=False) == "torch"
    model.set_precision(torch.bfloat16)
    assert pick_runtime("auto", model, CPU, budget=False) == "torch"
    model.set_precision(torch.float32)
    absent("openvino")
    assert pick_runtime("auto", model, CPU, budget=False) == "onnx"
    absent("onnx")
    assert pick_runtime("auto", model, CPU, budget=False) == "torch"


def test_what_a_runtime_cannot_do_is_told(cache, absent, capsys):
    model = build(tiny_recipe("gru"), 32)
    with pytest.raises(ValueError, match="--runtime onnx: computes on the CPU alone"):
        pick_runtime("onnx", model, torch.device("cuda"), budget=False)
    with pytest.raises(ValueError, match="a budget saves nothing there: take --runtime torch"):
        pick_runtime("onnx", model, CPU, budget=True)
    model.set_precision(torch.bfloat16)
    with pytest.raises(ValueError, match="--runtime onnx: computes in fp32 alone"):
        pick_runtime("onnx", model, CPU, budget=False)
    assert pick_runtime("openvino", build(skipping_recipe(), 32), CPU, budget=False) == "openvino"
    assert "--runtime openvino: computes the frames that are skipped" in capsys.readouterr().err
    model.set_precision(torch.float32)
    absent("onnx")
    with pytest.raises(MissingExtra, match=r"pip install 'adafocus\[onnx\]'"):
        pick_runtime("onnx", model, CPU, budget=False)


def test_a_relative_cache_is_none(monkeypatch, tmp_path):
    """As the XDG Base Directory Specification says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert runtimes.cache_folder() == tmp_path / ".cache" / "adafocus"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert runtimes.cache_folder() == tmp_path / ".cache" / "adafocus"
