"""Checkpoints in MLflow's own format: loaded, and served to a real request."""

import json
import sys
from types import SimpleNamespace
from urllib.request import Request, urlopen

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from noise import CLASSES, SIZE, tiny_recipe, uni_recipe
from servers import free_port, serving

import adafocus
from adafocus.deploy.serving import save_model
from adafocus.model import checkpoint
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint

NAMES = tuple(f"class {k}" for k in range(CLASSES))


@pytest.fixture(params=["gru", "tsm", "long", "short"])
def saved(request, tmp_path):
    """A model in MLflow's format, two videos for it, and their probabilities (2, K)."""
    torch.manual_seed(0)
    kind = request.param
    recipe = uni_recipe(kind) if kind in ("long", "short") else tiny_recipe(kind)
    path, folder = tmp_path / "tiny_32.safetensors", tmp_path / "model"
    tensors = build(recipe, 32).state_dict()
    checkpoint.write(path, Checkpoint(tensors, recipe, recipe.last.name, 32, NAMES))
    entry = SimpleNamespace(artifact_location=str(folder), model_id="m-1", source_run_id=None)
    save_model(path, folder, entry)

    def videos(count):
        return torch.randint(256, (2, count, 3, SIZE, SIZE), dtype=torch.uint8)

    frames, glance = videos(recipe.model.frames), None
    given = frames.numpy()
    if recipe.model.frames_apart:
        glance = videos(recipe.model.frames_apart)
        given = {"frames": given, "glance": glance.numpy()}
    with torch.inference_mode():
        logits = adafocus.load(path)(frames, glance).logits[:, -1]
    return folder, given, logits.softmax(-1).numpy()


def test_a_loaded_model_predicts_from_frames(saved):
    folder, given, expected = saved
    model = mlflow.pyfunc.load_model(str(folder))
    predicted = model.predict(given)
    assert tuple(predicted.columns) == NAMES
    np.testing.assert_allclose(predicted.to_numpy(), expected, atol=1e-5)
    assert tuple(model.metadata.signature.outputs.input_names()) == NAMES
    example = model.input_example
    assert np.isfinite(model.predict(example).to_numpy()).all()


def test_frames_of_another_size_are_refused(saved):
    folder, given, _ = saved
    model = mlflow.pyfunc.load_model(str(folder))
    cut = {k: v[..., 1:] for k, v in given.items()} if isinstance(given, dict) else given[..., 1:]
    with pytest.raises(MlflowException, match="shape"):
        model.predict(cut)


def test_the_weights_are_in_safetensors_and_no_file_is_a_pickle(saved):
    folder, *_ = saved
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert "tiny_32.safetensors" in names
    assert not {name for name in names if name.endswith((".pkl", ".pt", ".pth", ".bin"))}
    # Models of all versions lie side by side in a store.
    assert "loader_module: adafocus.serving\n" in (folder / "MLmodel").read_text()


@pytest.mark.integration
@pytest.mark.parametrize("saved", ["gru", "long", "short"], indirect=True)
def test_mlflow_serves_it(saved, tmp_path):
    folder, given, expected = saved
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    tensors = given if isinstance(given, dict) else {"": given}
    inputs = {name: array.tolist() for name, array in tensors.items()}
    body = json.dumps({"inputs": inputs if isinstance(given, dict) else inputs[""]})
    url = f"http://127.0.0.1:{port}"
    with serving(command, f"{url}/ping", tmp_path / "log"):
        request = Request(f"{url}/invocations", body.encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            rows = json.load(answer)["predictions"]
    assert [tuple(row) for row in rows] == [NAMES] * 2
    np.testing.assert_allclose([list(row.values()) for row in rows], expected, atol=1e-5)
