"""A checkpoint as a model in MLflow's own format.

It holds the checkpoint as it is, in safetensors, and names `adafocus.serving` as its loader: no
pickle is read. So where it is loaded or served, ``adafocus`` must be installed.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from adafocus.machine.device import pick_device
from adafocus.model.checkpoint import assemble, read

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel

    from adafocus.recipe import Recipe

REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "safetensors", "torch", "torchvision")


class ServedModel:
    """What ``mlflow.pyfunc.load_model`` puts behind its ``predict``.

    Args:
        checkpoint: of stage 2 or 3.
    """

    def __init__(self, checkpoint: Path) -> None:
        source = read(checkpoint)
        self.class_names = source.class_names
        self.device = pick_device("auto")
        self.model = assemble(source, checkpoint).eval().to(self.device).frozen()

    @torch.inference_mode()
    def predict(self, frames: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classifies videos.

        Args:
            frames: uint8 RGB (B, T, 3, H, W), T and H = W as the model's signature says. A model
                that glances at other frames takes ``{"frames": ..., "glance": ...}``.
            params: none are known; MLflow passes it.

        Returns:
            B rows with one column per class: probabilities under the names of the classes.
        """
        import pandas as pd

        given = frames if isinstance(frames, dict) else {"frames": frames}
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
            for name, array in given.items()
        }
        out = self.model(**tensors)
        probabilities = out.logits[:, -1].float().softmax(-1).cpu().numpy()
        return pd.DataFrame(probabilities, columns=list(self.class_names))


def _load_pyfunc(data_path: str) -> ServedModel:
    """Called by MLflow under this name."""
    return ServedModel(Path(data_path))


def save_model(checkpoint: Path, folder: Path, model: LoggedModel) -> None:
    """Writes a checkpoint in MLflow's own format, with signature and input example.

    Args:
        checkpoint: of stage 2 or 3.
        folder: to write.
        model: MLflow's entry that the files will belong to.

    Raises:
        CheckpointError: where the checkpoint cannot be used.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    source = read(checkpoint)
    example = _example(source.recipe)
    named = example if isinstance(example, dict) else {None: example}
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(v.dtype, (-1, *v.shape[1:]), name=k) for k, v in named.items()
    ]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.float, name) for name in source.class_names
    ]
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module="adafocus.serving",
        data_path=str(checkpoint),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            model_uuid=model.model_id,
            run_id=model.source_run_id,
            model_id=model.model_id,
        ),
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        input_example=example,
        pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
    )
    # MLflow writes each number on a line of its own.
    for path in folder.glob("*input_example.json"):
        values = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(values, separators=(",", ":")), encoding="utf-8")


def _example(recipe: Recipe) -> np.ndarray | dict[str, np.ndarray]:
    """One black video."""
    model = recipe.model
    counts = {"frames": model.frames, "glance": model.frames_apart or 0}
    size = model.frame_size
    videos = {k: np.zeros((1, n, 3, size, size), np.uint8) for k, n in counts.items() if n}
    return videos if "glance" in videos else videos["frames"]
