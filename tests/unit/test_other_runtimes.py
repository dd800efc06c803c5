"""Predictions by ONNX Runtime and OpenVINO, which runtime is taken, and where graphs lie."""

import json
import subprocess
import sys

import onnx
import pytest
import torch
from miniature import make_video
from noise import skip_half, skipping_recipe, tiny_recipe
from test_export import scenes, settle
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.deploy import runtimes
from adafocus.deploy.export import export_trunk
from adafocus.deploy.predict import Predictor
from adafocus.deploy.runtimes import RUNNERS, GraphBackbone, graph_path, pick_runtime
from adafocus.extras import EXTRAS, MissingExtra
from adafocus.model import checkpoint
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError
from adafocus.model.exits import ConditionalExit
from adafocus.model.frozen import FrozenBackbone
from adafocus.recipe import parse_recipe

CPU = torch.device("cpu")
SIGNALLED = """
import os, signal, sys
from adafocus.deploy.runtimes import RUNNERS
first, second = (RUNNERS["openvino"](sys.argv[1], 1) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
"""Hears a signal after two networks of OpenVINO are gone."""
RUNTIMES = ("torch", "onnx", "openvino")


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
    places = {graph_path(write(path, recipe, build(recipe, 32)), "focuser") for _ in range(2)}
    assert len(places) == 2 and {place.parent for place in places} == {cache}
    cache.mkdir(parents=True)
    for backbone in ("glancer", "focuser"):
        graph = graph_path(path, backbone)
        graph.write_bytes(b"half a graph")
    for runtime in ("onnx", "openvino"):
        with pytest.raises(CheckpointError, match=r"-glancer-.*: cannot be read .*remove it"):
            Predictor(path, "cpu", runtime=runtime)


def test_a_signal_is_heard_when_openvinos_networks_are_gone(tmp_path):
    ends = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("in", "out")]
    nodes = [onnx.helper.make_node("Relu", ["in"], ["out"])]
    graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, ir_version=10), tmp_path / "graph.onnx")
    command = [sys.executable, "-c", SIGNALLED, tmp_path / "graph.onnx"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def skipping(recipe):
    """A recipe's model whose policy skips half of the frames of four scenes, and these."""
    torch.manual_seed(0)
    frames = scenes(4, recipe.model.frames, 64)
    return skip_half(settle(build(recipe, 32), frames), frames), frames


@pytest.mark.slow
def test_all_runtimes_predict_the_same_and_leave_out_what_is_skipped(cache, tmp_path, capsys):
    values = skipping_recipe().to_dict()
    values["model"]["glancer"] = values["model"]["focuser"]  # with fewer layers to export
    recipe = parse_recipe(values, "small").skipping(0.25)
    model, frames = skipping(recipe)
    weights = write(tmp_path / "weights.safetensors", recipe, model)
    predictors = {name: Predictor(weights, "cpu", runtime=name) for name in RUNTIMES}
    said = f"{weights}: is exported for other runtimes, once, to {cache}\n"
    assert capsys.readouterr().err == said
    assert len(list(cache.glob("*.onnx"))) == 2

    seen = []
    for name, predictor in predictors.items():
        with torch.inference_mode():
            found = predictor.model(frames)
            if name == "torch":
                out = found
                assert 0 < out.looks.skipped.sum() < out.looks.skipped.numel()
                continue
            assert torch.equal(found.looks.skipped, out.looks.skipped)
            assert torch.equal(found.corners, out.corners)
            assert (found.logits - out.logits).abs().max() < 1e-4 * out.logits.std()
            focuser = predictor.model.focuser
            run = focuser.run
            focuser.run = lambda feed, run=run: seen.append(len(feed["frames"])) or run(feed)
            predictor.model(frames)
    looked = int((~out.looks.skipped).sum())
    assert seen == [looked, looked], "the focuser computes the patches of frames looked at alone"

    # Early exits take the same way, frame by frame.
    exits = [ConditionalExit(one.model, [0.3, 0.3, 0.3, 0]) for one in predictors.values()]
    with torch.inference_mode():
        expected, *others = (leave(frames) for leave in exits)
    assert len(expected.steps.unique()) > 1
    for other in others:
        assert torch.equal(other.steps, expected.steps)
        assert (other.logits - expected.logits).abs().max() < 1e-4 * out.logits.std()

    video = make_video(tmp_path / "video.mp4", 10, "146x73", rate=10)
    command = ["predict", video, "--checkpoint", weights, "--json", tmp_path / "out.jsonl"]
    done = CliRunner().invoke(app, [*map(str, command), "--runtime", "openvino"])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out.jsonl").read_text())
    assert told["runtime"] == "openvino"
    expected = predictors["torch"](video)
    assert told["predictions"][0]["label"] == expected.guesses[0].label
    probability = expected.guesses[0].probability
    assert told["predictions"][0]["probability"] == pytest.approx(probability, rel=1e-4)

    # A stream takes one frame at a time.
    steps = []
    for name in RUNTIMES:
        command = ["watch", video, "--checkpoint", weights, "--rate", "5", "--runtime", name]
        done = CliRunner().invoke(app, list(map(str, command)))
        assert done.exit_code == 0, done.output
        steps.append([json.loads(line) for line in done.stdout.splitlines()])
        assert {step.pop("runtime") for step in steps[-1]} == {name}
    by_torch, *others = steps
    assert len(by_torch) == 5
    for other in others:
        for found, expected in zip(other, by_torch, strict=True):
            assert found["looks"] == expected["looks"]
            guesses = [
                {g["label"]: g["probability"] for g in step["predictions"]}
                for step in (found, expected)
            ]
            assert guesses[0] == pytest.approx(guesses[1], rel=1e-4)


@pytest.mark.slow
def test_frames_that_see_each_other_go_together(tmp_path):
    """As they are shifted in time."""
    recipe = tiny_recipe("tsm")
    torch.manual_seed(0)
    plain = build(recipe, 32).eval().focuser
    export_trunk(plain, 32, tmp_path / "trunk.onnx")
    frames = scenes(3, recipe.model.frames, 32)
    with torch.inference_mode():
        expected = FrozenBackbone(plain)(frames)
        for run in RUNNERS.values():
            found = GraphBackbone(plain, run(tmp_path / "trunk.onnx", 1))(frames)
            assert (found - expected).abs().max() < 1e-4 * expected.std()
        assert (plain(frames.flip(1)).flip(1) - expected).abs().max() > 0.01 * expected.std()


@pytest.fixture
def absent(monkeypatch):
    """Takes a runtime away."""
    return lambda runtime: monkeypatch.setitem(EXTRAS, runtime, ("not_a_module",))


def test_auto_is_the_fastest_that_is_installed_and_can_do_it(cache, absent, monkeypatch):
    model = build(tiny_recipe("gru"), 32)
    monkeypatch.setattr(runtimes, "FASTEST", ("openvino", "onnx"))
    assert pick_runtime("auto", model, CPU) == "openvino"
    assert pick_runtime("auto", model, torch.device("cuda")) == "torch"
    model.set_precision(torch.bfloat16)
    assert pick_runtime("auto", model, CPU) == "torch"
    model.set_precision(torch.float32)
    absent("openvino")
    assert pick_runtime("auto", model, CPU) == "onnx"
    absent("onnx")
    assert pick_runtime("auto", model, CPU) == "torch"


def test_what_a_runtime_cannot_do_is_told(cache, absent):
    model = build(tiny_recipe("gru"), 32)
    with pytest.raises(ValueError, match="--runtime onnx: computes on the CPU alone"):
        pick_runtime("onnx", model, torch.device("cuda"))
    model.set_precision(torch.bfloat16)
    with pytest.raises(ValueError, match="--runtime onnx: computes in fp32 alone"):
        pick_runtime("onnx", model, CPU)
    model.set_precision(torch.float32)
    absent("onnx")
    with pytest.raises(MissingExtra, match=r"pip install 'adafocus\[onnx\]'"):
        pick_runtime("onnx", model, CPU)


def test_a_relative_cache_is_none(monkeypatch, tmp_path):
    """As the XDG Base Directory Specification says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert runtimes.cache_folder() == tmp_path / ".cache" / "adafocus"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert runtimes.cache_folder() == tmp_path / ".cache" / "adafocus"
