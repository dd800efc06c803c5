"""The parts of a model, wired by ONNX Runtime alone as docs/wired.py does, are the whole one."""

import json
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from noise import skip_half, skipping_recipe, tiny_recipe, uni_recipe
from test_export import scenes, settle
from typer.testing import CliRunner
from wired import Wired

from adafocus.cli import app
from adafocus.deploy.parts import examples, parts_of, wiring
from adafocus.model import checkpoint
from adafocus.model.backbones import Normalize
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint
from adafocus.recipe import parse_recipe

KINDS = {
    "skipping": (skipping_recipe(), "bytes"),
    "tsm": (tiny_recipe("tsm"), "bytes"),
    "long": (uni_recipe("long"), "floats"),
    "short": (uni_recipe("short"), "floats"),
}
NAMES = list("abcde")


def small(kind):
    """A recipe of few layers, its model, two videos, and what PyTorch makes of them."""
    recipe, input_type = KINDS[kind]
    values = recipe.to_dict()
    values["model"]["glancer"] = values["model"]["focuser"]
    recipe = parse_recipe(values, "small")
    recipe = recipe.skipping(0.25) if kind == "skipping" else recipe
    torch.manual_seed(0)
    model, shape = build(recipe, 32), recipe.model
    counts = [n for n in (shape.frames, shape.frames_apart) if n is not None]
    inputs = [scenes(2, count, shape.frame_size) for count in counts]
    if input_type == "floats":
        inputs = list(map(Normalize(), inputs))
    settle(model, *inputs)
    if kind == "skipping":
        skip_half(model, *inputs)
    with torch.inference_mode():
        return recipe, model, [put.numpy() for put in inputs], model(*inputs)


@pytest.fixture(scope="module", params=["skipping", "long"])
def exported(request, tmp_path_factory):
    """The kind, the folder, the videos and what PyTorch makes of them."""
    recipe, model, inputs, out = small(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    file = folder / "model.safetensors"
    tensors = model.state_dict()
    checkpoint.write(file, Checkpoint(tensors, recipe, recipe.last.name, 32, tuple(NAMES)))
    command = ["export", "--checkpoint", file, "--parts", folder / "parts"]
    done = CliRunner().invoke(app, [*map(str, command), "--input", KINDS[request.param][1]])
    assert done.exit_code == 0, done.output
    return request.param, folder / "parts", inputs, out


def check(found, out, video):
    assert np.array_equal(found.looked_at, out.frames[video])
    assert np.abs(found.boxes - out.boxes[video].numpy()).max() < 0.02
    near(found.logits, out.logits[video], out.logits)


def near(found, expected, all_of_them):
    assert found.shape == expected.shape
    assert np.abs(found - expected.numpy()).max() < 1e-4 * all_of_them.std()


def counted(wired):
    """How many patches the focuser computes from now on, call by call."""
    seen, compute = [], wired._compute

    def counting(part, **given):
        if part == "focus":
            seen.append(len(given["frames"]))
        return compute(part, **given)

    wired._compute = counting
    return seen


@pytest.mark.slow
def test_parts_that_are_wired_give_what_the_whole_gives(exported):
    kind, folder, inputs, out = exported
    wired = Wired(folder)
    patches = counted(wired)
    for video in range(2):
        check(wired(*(put[video] for put in inputs)), out, video)
    assert sum(patches) == int(out.looks.looked.sum())
    assert bool(out.looks.skipped.any()) == (kind == "skipping")
    assert wired.told["class_names"] == NAMES


class Eager:
    """A part that PyTorch computes, in place of its graph."""

    def __init__(self, part, inputs):
        self.part, self.inputs = part.eval(), inputs

    def get_inputs(self):
        return [SimpleNamespace(name=name, shape=put.shape) for name, put in self.inputs.items()]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self.part.gives]

    @torch.no_grad()
    def run(self, _, feed):
        return [put.numpy() for put in self.part(**{k: torch.tensor(v) for k, v in feed.items()})]


@pytest.mark.parametrize("kind", ["tsm", "short"])
def test_parts_whose_frames_see_each_other_go_together(kind):
    """By PyTorch, as the exporter takes long."""
    recipe, model, inputs, out = small(kind)
    parts = parts_of(model)
    given = examples(model, parts, recipe, KINDS[kind][1])
    wired = Wired.__new__(Wired)
    wired.told = wiring(model, parts)
    wired.graphs = {name: Eager(part, given[name]) for name, part in parts.items()}
    patches = counted(wired)
    for video in range(2):
        check(wired(*(put[video] for put in inputs)), out, video)
    assert patches == [1, 1]
    assert not torch.equal(out.boxes[0].round(), out.boxes[1].round())


@pytest.mark.slow
def test_a_video_is_left_early(exported):
    kind, folder, inputs, out = exported
    wired = Wired(folder)
    patches = counted(wired)
    looks = out.frames.shape[1]
    first = out.logits.shape[1] - looks
    sure = out.logits[0, first:].softmax(-1).amax(-1)
    leaves = 1 + int((sure[:-1] >= sure[:-1].max() - 1e-6).int().argmax())
    found = wired(inputs[0][0], sure=float(sure[:-1].max()) - 1e-6)
    assert len(found.boxes) == len(found.looked_at) == leaves < looks
    near(found.logits, out.logits[0, : first + leaves], out.logits)
    assert sum(patches) == int((out.boxes[0, :leaves, 2] > 0).sum())


@pytest.mark.slow
@pytest.mark.parametrize("exported", ["skipping"], indirect=True)
def test_frames_come_one_by_one(exported):
    """The parts remember by their states."""
    _, folder, inputs, out = exported
    wired = Wired(folder)
    states = {"policy": None, "classifier": None}

    def step(part, **given):
        graph = wired.graphs[part]
        takes = {put.name: put for put in graph.get_inputs()}
        if states[part] is None:
            states[part] = np.zeros((2, *takes["state"].shape[1:]), np.float32)
        names = [put.name for put in graph.get_outputs()]
        given = dict(zip(names, graph.run(None, given | {"state": states[part]}), strict=True))
        states[part] = given.pop("state_after")
        return given

    for t, frame in enumerate(inputs[0].swapaxes(0, 1)):
        seen = wired._compute("glance", frames=frame[:, None])
        boxes = step("policy", maps=seen["maps"])["boxes"]
        local = wired._compute("focus", frames=frame[:, None], boxes=boxes.clip(0))["local"]
        local[boxes[..., 2] < 0] = 0
        logits = step("classifier", pooled=seen["pooled"], local=local)["logits"]
        near(logits[:, 0], out.logits[:, t], out.logits)


@pytest.mark.slow
def test_what_there_is_to_wire_is_told(exported):
    """Each part takes what frames or others give it."""
    told = json.loads((exported[1] / "parts.json").read_text())
    parts = told["parts"]
    assert {path.name for path in exported[1].iterdir()} == {
        "parts.json",
        *(part["file"] for part in parts.values()),
    }
    given = {f"{name}.{put}" for name, part in parts.items() for put in part["outputs"]}
    for name, part in parts.items():
        graph = onnxruntime.InferenceSession(exported[1] / part["file"])
        assert [put.name for put in graph.get_outputs()] == part["outputs"]
        assert [put.name for put in graph.get_inputs()] == list(part["inputs"])
        assert set(part["inputs"].values()) <= {"frames", *given}, name


def test_parts_are_asked_for_alone(tmp_path):
    for options in (["--parts", tmp_path, "--onnx", "a.onnx"], []):
        done = CliRunner().invoke(app, ["export", "--checkpoint", "a", *map(str, options)])
        assert done.exit_code == 1 and "--parts" in done.stderr
