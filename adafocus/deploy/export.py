"""Models for other runtimes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from adafocus.extras import require
from adafocus.machine.files import atomic
from adafocus.model.adafocus import AdaFocus
from adafocus.model.backbones import IMAGENET_MEAN, IMAGENET_STD
from adafocus.model.checkpoint import CheckpointError, assemble, read


class _Exported(nn.Module):
    """The model as plain tensors in and out."""

    def __init__(self, model: AdaFocus) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, glance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not self.model.skips:
            out = self.model(frames, glance)
            return out.logits, out.corners
        # A graph has no batches whose size its data decide: all frames are focused on, and what
        # is skipped is left out of what comes of it.
        seen = self.model.glance(frames)
        looks = self.model.look(seen, frames.shape[1])
        local = self.model.focus_on_all(frames, looks.boxes.clamp(min=0))
        local = local * looks.looked.unsqueeze(-1)
        return self.model.classifier(seen, local), looks.corners


def export_onnx(checkpoint: Path, output: Path) -> None:
    """Writes a checkpoint's model as ONNX, for batches of any size.

    Inputs: ``frames``, float32 (B, T, 3, S, S) normalised with ImageNet's mean and std, and
    ``glance``, likewise, where the glancer sees other frames. Outputs: ``logits`` (B, S, K) and
    ``corners`` (B, S, 2), as `Output`. A model that skips frames gives the same, but takes its
    full time. Class names, patch size and normalisation are the file's metadata.

    Raises:
        CheckpointError: where the checkpoint cannot be used or has no policy.
        MissingExtra: where the exporter's packages are not installed.
    """
    require("export")
    source = read(checkpoint)
    model = assemble(source, checkpoint).eval()
    if not isinstance(model, AdaFocus):
        raise CheckpointError(f"{checkpoint}: only a model of the method adafocus is exported")
    if model.policy is None:
        raise CheckpointError(f"{checkpoint}: is of stage 1, which has no policy to export")
    recipe = source.recipe.model
    image = (3, recipe.frame_size, recipe.frame_size)
    # Two videos, as the exporter takes a batch of one for a constant.
    inputs = {"frames": torch.randn(2, recipe.frames, *image)}
    if recipe.glance_frames:
        inputs["glance"] = torch.randn(2, recipe.glance_frames, *image)
    batch = Dim("batch", min=1)
    with warnings.catch_warnings():
        # The exporter's, about its own workings.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Exported(model).eval(),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["logits", "corners"],
            dynamic_shapes={name: {0: batch} for name in inputs},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as of dynamo
    program.model.metadata_props.update(
        class_names=json.dumps(source.class_names),
        patch_size=str(source.patch_size),
        mean=json.dumps(IMAGENET_MEAN),
        std=json.dumps(IMAGENET_STD),
    )
    with atomic(output) as aside:
        program.save(aside)
