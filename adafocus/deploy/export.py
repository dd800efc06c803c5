"""Models for other runtimes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from adafocus.extras import require
from adafocus.machine.files import atomic
from adafocus.model.adafocus import AdaFocus
from adafocus.model.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone
from adafocus.model.checkpoint import Checkpoint, CheckpointError, assemble, read
from adafocus.model.frozen import FrozenBackbone
from adafocus.model.video_model import Output, VideoModel

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

Input = Literal["floats", "bytes"]
OUTPUTS = {"logits": "logits", "corners": "corners", "boxes": "boxes", "looked_at": "frames"}
"""What a graph gives, and which part of `Output` that is; none may have the name of an input."""
VERSION = 1
"""Of trunks' graphs: it is raised when they become others."""
MOST_BYTES = 2**31
"""Of a file of ONNX."""


class _Exported(nn.Module):
    """The model as plain tensors in and out."""

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, glance: Tensor | None = None) -> tuple[Tensor, ...]:
        out = self.look_at_all(frames, glance)
        return tuple(getattr(out, name) for name in OUTPUTS.values())

    def look_at_all(self, frames: Tensor, glance: Tensor | None) -> Output:
        model = self.model
        if not isinstance(model, AdaFocus) or not model.skips:
            out: Output = model(frames, glance)
            return out
        # A graph has no batches whose size its data decide: all frames are focused on, and what
        # is skipped is left out of what comes of it.
        seen = model.glance(frames)
        looks = model.look(seen, frames.shape[1])
        local = model.focus_on_all(frames, looks.boxes.clamp(min=0))
        return Output(model.classifier(seen, local * looks.looked.unsqueeze(-1)), looks)


def export_onnx(checkpoint: Path, output: Path, input_type: Input = "floats") -> str:
    """Writes a checkpoint's model as ONNX, for batches of any size.

    Inputs: ``frames`` (B, T, 3, S, S), float32 normalised with ImageNet's mean and std, or uint8
    RGB, which the graph normalises; and ``glance``, likewise, where the glancer sees frames of its
    own. Outputs: ``logits``, ``corners`` and ``boxes`` as in `Output`, and its ``frames`` as
    ``looked_at``. The file's metadata are `metadata`.

    Returns:
        What the graph does and does not do, in one line.

    Raises:
        CheckpointError: where the checkpoint cannot be used, has no policy or is too large.
        MissingExtra: where the exporter's packages are not installed.
    """
    source, model = exportable(checkpoint)
    told = "all frames are computed, and no video is left early"
    if isinstance(model, AdaFocus) and model.skips:
        told = "all frames are computed, also those that are skipped, and no video is left early"
    facts = metadata(source, input_type) | {"computes": told}
    shape = source.recipe.model
    counts = {"frames": shape.frames, "glance": shape.frames_apart}
    kind = torch.uint8 if input_type == "bytes" else torch.float32
    inputs = {
        # Two videos, as the exporter takes a batch of one for a constant.
        name: torch.zeros(2, count, 3, shape.frame_size, shape.frame_size, dtype=kind)
        for name, count in counts.items()
        if count is not None
    }
    program = to_onnx(_Exported(model).eval(), inputs, OUTPUTS)
    program.model.metadata_props.update(facts)
    with atomic(output) as aside:
        program.save(aside, external_data=False)
    return told


def exportable(checkpoint: Path) -> tuple[Checkpoint, VideoModel]:
    """What a checkpoint holds, and its model in eval mode; raises what `export_onnx` does."""
    require("export")
    source = read(checkpoint)
    model = assemble(source, checkpoint).eval()
    if model.policy is None:
        raise CheckpointError(f"{checkpoint}: is of stage 1, which has no policy to export")
    if sum(tensor.nbytes for tensor in source.tensors.values()) >= MOST_BYTES:
        raise CheckpointError(f"{checkpoint}: too large for a file of ONNX, which holds 2 GB")
    return source, model


class _Trunk(nn.Module):
    """A trunk, of videos (B, T, 3, S, S), as temporal shift needs all frames of one."""

    def __init__(self, trunk: nn.Sequential) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, frames: Tensor) -> Tensor:
        maps: Tensor = self.trunk(frames.flatten(0, 1))
        return maps


def export_trunk(backbone: Backbone, size: int, output: Path) -> None:
    """Writes a backbone's trunk as ONNX: ``frames``, float32 normalised (B, T, 3, size, size), with
    T = 1 unless they are shifted in time, become ``maps`` (B·T, C, h, w)."""
    require("export")
    together = FrozenBackbone(backbone).together
    example = torch.zeros(2, together, 3, size, size)
    program = to_onnx(_Trunk(backbone.trunk).eval(), {"frames": example}, ["maps"])
    with atomic(output) as aside:
        program.save(aside, external_data=False)


def facts_of(source: Checkpoint, input_type: Input) -> dict[str, Any]:
    """What there is to tell of a model, fit for JSON."""
    recipe, model = source.recipe, source.recipe.model
    return {
        "experiment": recipe.name,
        "stage": source.stage,
        "input_type": input_type,
        "class_names": source.class_names,
        "patch_size": source.patch_size,
        "frame_size": model.frame_size,
        "frames": model.frames,
        "glance_frames": model.frames_apart,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "recipe": recipe.to_dict(),
    }


def metadata(source: Checkpoint, input_type: Input) -> dict[str, str]:
    """What a file tells of its model: plain words, and all else as JSON."""
    facts = facts_of(source, input_type)
    return {
        name: fact if isinstance(fact, str) else json.dumps(fact) for name, fact in facts.items()
    }


def to_onnx(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Iterable[str],
    stepped: Collection[str] = (),
) -> ONNXProgram:
    """The graph of a module, whose first dimension may have any size.

    Args:
        module: in eval mode.
        inputs: examples by name, at least two in a batch.
        outputs: names of what it gives.
        stepped: inputs whose second dimension, the same of all, may have any size too; at least two
            in the examples.
    """
    sizes = {0: Dim("batch", min=1), 1: Dim("steps", min=1)}
    free = {name: (0, 1) if name in stepped else (0,) for name in inputs}
    with warnings.catch_warnings():
        # The exporter's, about its own workings.
        warnings.simplefilter("ignore")
        traced = torch.export.export(
            module,
            (),
            dict(inputs),
            dynamic_shapes={
                name: {at: sizes[at] for at in places} for name, places in free.items()
            },
        )
        program = torch.onnx.export(
            traced.run_decompositions(PLAIN),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={
                name: {at: sizes[at].__name__ for at in places} for name, places in free.items()
            },
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as of dynamo
    return program


# --- what ONNX lacks, made of what it has -----------------------------------------------------


def running_maxima(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`torch.cummax` without its indices: each maximum reaches back twice as far as before."""
    size, reach = values.shape[dim], 1
    while reach < size:
        first, rest = values.split((reach, size - reach), dim)
        values = torch.cat((first, rest.maximum(values.narrow(dim, 0, size - reach))), dim)
        reach *= 2
    return values, torch.zeros_like(values, dtype=torch.int64)


def places_among(rising: Tensor, values: Tensor) -> Tensor:
    """`torch.searchsorted`: how many of (B, T) are below each of (B, F) -> int64 (B, F)."""
    below: Tensor = (rising.unsqueeze(-2) < values.unsqueeze(-1)).sum(-1)
    return below


def running_sums(values: Tensor, dim: int) -> Any:
    """`torch.cumsum`, which adds floats up in double precision: frames are chosen by such sums."""
    if values.dtype != torch.float32:
        return NotImplemented  # so that it stays as it is
    return values.double().cumsum(dim).float()


PLAIN = {
    torch.ops.aten.cummax.default: running_maxima,
    torch.ops.aten.searchsorted.Tensor: places_among,
    torch.ops.aten.cumsum.default: running_sums,
}
