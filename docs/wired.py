"""Predicts with the parts that `adafocus export --parts FOLDER` writes, by ONNX Runtime.

Needs NumPy and ONNX Runtime alone: take this file along with the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

Feed = dict[str, np.ndarray]


class Prediction(NamedTuple):
    """Of one video."""

    logits: np.ndarray
    """(S, K), one prediction after each step that was taken; the last is the video's"""
    boxes: np.ndarray
    """(L, 4), of each look: top, left, height and width in pixels of the frame, -1 if skipped"""
    looked_at: np.ndarray
    """(L,), in which of the frames"""


class Wired:
    """A model in parts.

    Args:
        folder: with ``parts.json`` and the graphs.
    """

    def __init__(self, folder: str | Path) -> None:
        self.told: dict[str, Any] = json.loads(Path(folder, "parts.json").read_text("utf-8"))
        self.graphs = {
            name: onnxruntime.InferenceSession(Path(folder, part["file"]))
            for name, part in self.told["parts"].items()
        }

    def __call__(
        self, frames: np.ndarray, glance: np.ndarray | None = None, sure: float | None = None
    ) -> Prediction:
        """Predicts one video.

        Args:
            frames: (T, 3, S, S), uint8 RGB or normalised floats, as the parts were exported for.
            glance: likewise, where the model glances at frames of their own.
            sure: the video is left when its label has this probability, where each look predicts.
        """
        seen = self._glance(frames, glance)
        chosen = self._compute("policy", **seen)
        looked_at = chosen.get("looked_at", np.arange(len(frames))[None])[0]
        boxes = np.broadcast_to(chosen["boxes"][0], (len(looked_at), 4))
        if self._shape("focus", "frames")[1] > 1:  # as frames see each other
            given = {"frames": frames[looked_at][None], "boxes": chosen["boxes"]}
            local = self._compute("focus", **given)["local"]
            logits = self._compute("classifier", **seen, local=local)["logits"][0]
            return Prediction(logits, boxes, looked_at)

        looks = np.arange(len(looked_at))
        local = np.zeros((1, len(looks), self._shape("classifier", "local")[-1]), np.float32)
        for some in [looks] if sure is None else looks[:, None]:
            kept = some[boxes[some, 2] > 0]
            if len(kept):  # a frame that is skipped costs nothing
                given = {"frames": frames[looked_at[kept], None], "boxes": boxes[kept, None]}
                local[0, kept] = self._compute("focus", **given)["local"][:, 0]
            # No step depends on looks that come after it.
            logits = self._compute("classifier", **seen, local=local)["logits"][0]
            taken, steps = some[-1] + 1, len(logits) - len(looks) + some[-1] + 1
            if sure is not None and softmax(logits[steps - 1]).max() >= sure:
                break
        return Prediction(logits[:steps], boxes[:taken], looked_at[:taken])

    def _glance(self, frames: np.ndarray, glance: np.ndarray | None) -> Feed:
        if glance is None:
            glance = frames[self.told.get("glanced", slice(None))]
        alone = self._shape("glance", "frames")[1] == 1
        seen = self._compute("glance", frames=glance[:, None] if alone else glance[None])
        return {name: put.reshape(1, len(glance), *put.shape[2:]) for name, put in seen.items()}

    def _compute(self, part: str, **given: np.ndarray) -> Feed:
        """What a part gives by name; a recurrent one begins anew."""
        graph = self.graphs[part]
        takes = {put.name: put.shape for put in graph.get_inputs()}
        if "state" in takes:
            given["state"] = np.zeros((1, *takes["state"][1:]), np.float32)
        outputs = graph.run(None, {name: given[name] for name in takes})
        return dict(zip([put.name for put in graph.get_outputs()], outputs, strict=True))

    def _shape(self, part: str, name: str) -> list[Any]:
        """Of an input; what may have any size is a word there."""
        [shape] = [put.shape for put in self.graphs[part].get_inputs() if put.name == name]
        return list(shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.exp(logits - logits.max())
    return shares / shares.sum()
