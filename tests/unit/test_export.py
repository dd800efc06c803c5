import json

import numpy as np
import onnxruntime
import pytest
import torch
from noise import noise_batch, skip_half, skipping_recipe, tiny_recipe

from adafocus.deploy.export import export_onnx
from adafocus.model import checkpoint
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gru", "tsm", "skipping"])
def test_onnxruntime_gives_the_same(kind, tmp_path):
    torch.manual_seed(0)
    recipe = skipping_recipe() if kind == "skipping" else tiny_recipe(kind)
    model = build(recipe, 32).eval()
    if kind == "skipping":
        skip_half(model, noise_batch(recipe).frames)
    names = tuple("abcde")
    file = tmp_path / "model.safetensors"
    checkpoint.write(file, Checkpoint(model.state_dict(), recipe, "stage3", 32, names))
    export_onnx(file, tmp_path / "model.onnx")

    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for videos in (1, 3):
        batch = noise_batch(recipe)
        frames, glance = batch.frames[:videos], batch.glance[:videos]
        inputs = {"frames": frames.numpy(), "glance": glance.numpy()}
        asked = {put.name for put in session.get_inputs()}
        logits, corners = session.run(None, {name: inputs[name] for name in asked})
        with torch.inference_mode():
            expected = model(frames, glance)
        assert np.array_equal(corners, expected.corners)
        assert np.allclose(logits, expected.logits, atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == list(names)
    assert metadata["patch_size"] == "32"


def test_a_model_without_policy_is_not_exported(recipe, tmp_path):
    model = build(recipe, 32, with_policy=False)
    file = tmp_path / "model.safetensors"
    checkpoint.write(file, Checkpoint(model.state_dict(), recipe, "stage1", 32, tuple("abcde")))
    with pytest.raises(CheckpointError, match="no policy to export"):
        export_onnx(file, tmp_path / "model.onnx")
