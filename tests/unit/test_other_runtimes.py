"""Which runtime is taken, and where its graphs lie; what they compute, see test_export.py."""

import pytest
import torch
from noise import skipping_recipe, tiny_recipe

from adafocus.deploy import runtimes
from adafocus.deploy.runtimes import Graph, graph_path, pick_runtime
from adafocus.extras import EXTRAS, MissingExtra
from adafocus.model import checkpoint
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adafocus"


def write(path, recipe, model):
    names = tuple(f"class {i}" for i in range(recipe.classes))
    tensors = model.state_dict()
    checkpoint.write(path, Checkpoint(tensors, recipe, recipe.last.name, 32, names))
    return path


def test_a_graph_is_of_its_very_checkpoint(cache, tmp_path):
    recipe = tiny_recipe("gru")
    path = tmp_path / "one.safetensors"
    places = {graph_path(write(path, recipe, build(recipe, 32))) for _ in range(2)}
    assert len(places) == 2 and {place.parent for place in places} == {cache}
    graph = graph_path(path)
    cache.mkdir(parents=True)
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
