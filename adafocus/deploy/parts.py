"""A model in parts, each a graph of its own, for who wires them without PyTorch.

They can do what one graph cannot: a frame that is skipped costs nothing, and a video is left early.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic_multi_out

from adafocus.deploy.export import Input, exportable, facts_of, to_onnx
from adafocus.machine.files import atomic
from adafocus.model.adafocus import AdaFocus
from adafocus.model.backbones import Backbone
from adafocus.model.classifier import Classifier, GlobalFeatures, RecurrentClassifier
from adafocus.model.frozen import FrozenBackbone
from adafocus.model.looks import Looks
from adafocus.model.policy import GridPolicy
from adafocus.model.uni import ShortUniAdaFocus, UniAdaFocus
from adafocus.recipe import Recipe

Model = AdaFocus | UniAdaFocus
WIRING = "parts.json"


def export_parts(checkpoint: Path, folder: Path, input_type: Input = "floats") -> None:
    """Writes a checkpoint's model as four graphs, and beside them ``parts.json``, which has what
    `facts_of` tells and which part gives what another takes.

    - ``glance``: ``frames`` (N, g, 3, S, S) -> ``maps`` (N, g, C, h, w), and what others take of
      ``pooled`` (N, g, C) and ``glance_logits`` (N, g, K). Where each frame is seen alone, g is 1.
    - ``policy``: these of all T frames of B videos, (B, T, ...) -> ``boxes`` (B, P, 4), top, left,
      height and width in pixels, -1 for a frame that is skipped. Where one serves all frames, P is
      1. Uni-AdaFocus gives ``looked_at`` as well, int64 (B, F), the frames chosen.
    - ``focus``: ``frames`` (N, f, 3, S, S) and the ``boxes`` on them -> ``local`` (N, f, C). Where
      each frame is seen alone, f is 1.
    - ``classifier``: ``local`` of all looks, (B, F, C), zeros where there was none, and what the
      glance gave -> ``logits`` (B, S, K). No step depends on looks that come after it.

    Recurrent policies and classifiers take any number of frames at a time, and a ``state``
    (B, 1, H): zeros at first, then the ``state_after`` that they gave with the frames before.

    Raises:
        CheckpointError: where the checkpoint cannot be used, has no policy or is too large.
        MissingExtra: where the exporter's packages are not installed.
        WriteError: where nothing can be written.
    """
    source, model = exportable(checkpoint)
    assert isinstance(model, Model)
    parts = parts_of(model)
    inputs = examples(model, parts, source.recipe, input_type)
    for name, part in parts.items():
        program = to_onnx(part.eval(), inputs[name], part.gives, part.stepped)
        with atomic(folder / f"{name}.onnx") as aside:
            program.save(aside, external_data=False)
    facts = facts_of(source, input_type) | wiring(model, parts)
    with atomic(folder / WIRING) as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


class Part(nn.Module):
    """A graph to be: tensors in and out.

    Attributes:
        takes: names of its inputs.
        gives: names of its outputs.
        stepped: inputs that may be of any number of frames, see `to_onnx`.
        hidden: H of its state, where it has one.
    """

    takes: tuple[str, ...]
    gives: tuple[str, ...]
    stepped: tuple[str, ...] = ()
    hidden = 0

    def of(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its inputs, among what others gave."""
        state = {"state": torch.zeros(2, 1, self.hidden)} if self.hidden else {}
        return {name: {**given, **state}[name] for name in self.takes}


def parts_of(model: Model) -> dict[str, Part]:
    """The parts of a model in eval mode, in the order in which they compute."""
    policy: Part
    classifier: Part
    if isinstance(model, UniAdaFocus):
        policy, classifier = FramesAndBoxes(model), UniClassifier(model)
    else:
        policy = Cells(model) if isinstance(model.policy, GridPolicy) else Place(model)
        if isinstance(model.classifier, RecurrentClassifier):
            classifier = Recurrent(model.classifier)
        else:
            classifier = Average(model.classifier)
    taken = {*policy.takes, *classifier.takes}
    if isinstance(model, ShortUniAdaFocus):
        taken.add("glance_logits")  # by which a video is left after its glances
    glance = Glance(model, tuple(name for name in Glance.fields if name in taken))
    return {"glance": glance, "policy": policy, "focus": Focus(model), "classifier": classifier}


@torch.no_grad()
def examples(
    model: Model, parts: Mapping[str, Part], recipe: Recipe, input_type: Input
) -> dict[str, dict[str, Tensor]]:
    """Inputs of each part by name, two in a batch."""
    shape, kind = recipe.model, torch.uint8 if input_type == "bytes" else torch.float32

    def frames(backbone: Backbone) -> Tensor:
        together, size = FrozenBackbone(backbone).together, shape.frame_size
        return torch.zeros(2, together, 3, size, size, dtype=kind)

    def of_video(part: Part, inputs: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        outputs = zip(part.gives, part(**inputs), strict=True)
        return {name: torch.zeros(2, count, *put.shape[2:]) for name, put in outputs}

    glance, policy, focus, classifier = parts.values()
    glances, looks = {"frames": frames(model.glancer)}, {"frames": frames(model.focuser)}
    seen = of_video(glance, glances, shape.glance_frames or shape.frames)
    places = policy(**policy.of(seen))[0].shape[1]
    # Of frames that are seen alone each has its own box.
    looks["boxes"] = torch.zeros(2, min(places, looks["frames"].shape[1]), 4)
    found = of_video(focus, looks, getattr(shape, "focus_frames", shape.frames))
    inputs = glances, policy.of(seen), looks, classifier.of(seen | found)
    return dict(zip(parts, inputs, strict=True))


def wiring(model: Model, parts: Mapping[str, Part]) -> dict[str, Any]:
    """Which part gives what another takes, ``PART.OUTPUT``, and ``glanced``, the frames that are
    glanced at, where they are some of those to choose from."""
    giver, told = {"frames": "frames"}, {}
    for name, part in parts.items():
        giver |= {put: f"{name}.{put}" for put in part.gives}
        giver["state"] = f"{name}.state_after"
        inputs = {put: giver[put] for put in part.takes}
        told[name] = {"file": f"{name}.onnx", "inputs": inputs, "outputs": list(part.gives)}
    if isinstance(model, UniAdaFocus) and not model.shape.apart:
        share = model.shape.share
        return {"parts": told, "glanced": [*range(model.shape.candidates)][share // 2 :: share]}
    return {"parts": told}


# --- the parts, and a GRU as ONNX has it --------------------------------------------------------


class Glance(Part):
    takes = ("frames",)
    fields: ClassVar = {"maps": "maps", "pooled": "pooled", "glance_logits": "logits"}
    """What it may give, and which part of `GlobalFeatures` that is."""

    def __init__(self, model: Model, gives: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.gives = model, gives

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        seen = self.model.glance(frames)
        return tuple(getattr(seen, self.fields[name]) for name in self.gives)


class Cells(Part):
    """A place in every frame, or none."""

    takes, gives, stepped = ("maps", "state"), ("boxes", "state_after"), ("maps",)

    def __init__(self, model: AdaFocus) -> None:
        super().__init__()
        self.model, self.policy = model, cast(GridPolicy, model.policy)
        self.hidden = self.policy.gru.hidden_size
        self.policy.gru = cast(nn.GRU, OnnxGRU(self.policy.gru))

    def forward(self, maps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        decision, after = self.policy.advance(maps, state.transpose(0, 1))
        corners = self.policy.corners(decision.actions.mode, self.model.margin)
        return self.model.looks_at(corners, maps.shape[1]).patches, after.transpose(0, 1)


class Place(Part):
    """One for all frames."""

    takes, gives = ("maps",), ("boxes",)

    def __init__(self, model: AdaFocus) -> None:
        super().__init__()
        self.model = model

    def forward(self, maps: Tensor) -> tuple[Tensor]:
        return (self.model.look(seen_as(maps=maps), 1).patches,)


class FramesAndBoxes(Part):
    takes, gives = ("maps", "pooled"), ("boxes", "looked_at")

    def __init__(self, model: UniAdaFocus) -> None:
        super().__init__()
        self.model = model

    def forward(self, maps: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        looks = self.model.look(seen_as(maps=maps, pooled=pooled))
        return looks.patches, looks.frames


class Focus(Part):
    takes, gives = ("frames", "boxes"), ("local",)

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, boxes: Tensor) -> tuple[Tensor]:
        if isinstance(self.model, AdaFocus):
            return (self.model.focus_on_all(frames, boxes),)
        return (self.model.focus(frames, Looks.at(boxes, frames.shape[1])),)


class Recurrent(Part):
    """A prediction after every frame of an AdaFocus."""

    takes, gives = ("pooled", "local", "state"), ("logits", "state_after")
    stepped = ("pooled", "local")

    def __init__(self, classifier: RecurrentClassifier) -> None:
        super().__init__()
        self.classifier, self.hidden = classifier, classifier.gru.hidden_size
        self.classifier.gru = cast(nn.GRU, OnnxGRU(classifier.gru))

    def forward(self, pooled: Tensor, local: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        joined = self.classifier.join(seen_as(pooled=pooled), local)
        states = self.classifier.remember(joined, state)
        return self.classifier.predict(states), states[:, -1:]


class Average(Part):
    """One prediction of an AdaFocus."""

    takes, gives = ("glance_logits", "local"), ("logits",)

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, glance_logits: Tensor, local: Tensor) -> tuple[Tensor]:
        return (self.classifier(seen_as(logits=glance_logits), local),)


class UniClassifier(Part):
    takes, gives = ("pooled", "local"), ("logits",)

    def __init__(self, model: UniAdaFocus) -> None:
        super().__init__()
        self.model = model

    def forward(self, pooled: Tensor, local: Tensor) -> tuple[Tensor]:
        return (self.model.classify(seen_as(pooled=pooled), local),)


def seen_as(**known: Tensor) -> GlobalFeatures:
    """What a part knows of a glance."""
    return GlobalFeatures(**dict.fromkeys(GlobalFeatures._fields, torch.empty(0)) | known)


class OnnxGRU(nn.Module):
    """`nn.GRU` of one layer as ONNX's operator, of any number of steps: the exporter would lay out
    each step. It computes nothing but in a graph."""

    inputs: Tensor
    states: Tensor
    biases: Tensor

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.hidden_size = gru.hidden_size

        def ordered(name: str) -> Tensor:
            reset, update, new = getattr(gru, f"{name}_l0").detach().chunk(3)
            return torch.cat((update, reset, new))  # as ONNX has them

        self.register_buffer("inputs", ordered("weight_ih").unsqueeze(0))
        self.register_buffer("states", ordered("weight_hh").unsqueeze(0))
        biases = torch.cat((ordered("bias_ih"), ordered("bias_hh")))
        self.register_buffer("biases", biases.unsqueeze(0))

    def forward(self, steps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) and (1, B, H) -> (B, T, H) and (1, B, H)."""
        videos, count, _ = steps.shape
        states, after = symbolic_multi_out(
            "GRU",
            (steps.transpose(0, 1), self.inputs, self.states, self.biases, None, state),
            {"hidden_size": self.hidden_size, "linear_before_reset": 1},
            dtypes=(steps.dtype, state.dtype),
            shapes=((count, 1, videos, self.hidden_size), state.shape),
        )
        return states.squeeze(1).transpose(0, 1), after
