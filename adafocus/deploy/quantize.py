"""Graphs whose backbones compute in int8, quantised after training by ONNX Runtime's own tools."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.clips import Clip, Clips, class_names
from adafocus.deploy.export import Input, export_onnx
from adafocus.deploy.runtimes import RUNNERS, Feed
from adafocus.evaluation.metrics import compute_metrics
from adafocus.extras import require
from adafocus.machine.files import atomic, sha256
from adafocus.model.backbones import Normalize
from adafocus.model.checkpoint import read

CLIPS = 200
"""Training videos of which the ranges of values are learned."""
TRUNKS = ("model.glancer.trunk", "model.focuser.trunk")
"""What is quantised, by the names of the exported modules: policy, heads and classifier are not."""


def export_int8(checkpoint: Path, output: Path, data: Path, input_type: Input) -> dict[str, Any]:
    """Writes what `export_onnx` does with backbones in int8, and beside it, in ``OUTPUT.json``,
    what that costs: the validation videos' accuracy in float and in int8, and the time of each.

    Args:
        checkpoint: of stage 2 or 3, or of a Uni-AdaFocus.
        output: to write.
        data: the data set's folder, with its splits.
        input_type: what the graph takes.

    Returns:
        What ``OUTPUT.json`` holds.

    Raises:
        CheckpointError: where the checkpoint cannot be used.
        DataError: where the data cannot be read, or has other classes.
        MissingExtra: where ONNX Runtime or the exporter's packages are not installed.
    """
    require("onnx", "workflow")
    source = read(checkpoint)
    if tuple(class_names(data)) != source.class_names:
        raise DataError(f"{data}: has other classes than {checkpoint} was trained on")
    train, val = (Clips(data, split, source.recipe, False, seed=0) for split in ("train", "val"))
    drawn = np.random.default_rng(0).permutation(len(train))[:CLIPS]
    with atomic(output) as int8, TemporaryDirectory(dir=int8.parent) as folder:
        floats = Path(folder, "float.onnx")
        export_onnx(checkpoint, floats, input_type)
        clips = (train[0, int(index)] for index in tqdm(drawn, "calibration", unit="video"))
        quantize(floats, int8, (feed(clip, input_type) for clip in clips))
        found = _compare({"float": floats, "int8": int8}, val, input_type)
    metric = source.recipe.metric
    scores = {name: values[metric] for name, values in found["metrics"].items()}
    cost = {
        "checkpoint": sha256(checkpoint),
        "metric": metric,
        **scores,
        "loss": scores["float"] - scores["int8"],
        "videos": len(val),
        "calibrated_on": len(drawn),
        "seconds_per_video": found["seconds"],
    }
    # Not NAME.json: beside a checkpoint of its name that may be the workflow's result.
    with atomic(output.with_name(f"{output.name}.json")) as aside:
        aside.write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")
    return cost


def feed(clip: Clip, input_type: Input) -> Feed:
    """One video as a graph takes it."""
    names = [name for name in ("frames", "glance") if name in clip]
    frames = {name: clip[name][None] for name in names}
    if input_type == "floats":
        frames = {name: Normalize()(put) for name, put in frames.items()}
    return {name: put.contiguous().numpy() for name, put in frames.items()}


def quantize(
    graph: Path, output: Path, feeds: Iterable[Feed], trunks: Sequence[str] = TRUNKS
) -> None:
    """Writes a graph with the backbones' convolutions in int8, and what lies between them.

    Args:
        graph: of `export_onnx`.
        output: to write.
        feeds: inputs by name, by which the range of each activation is learned.
        trunks: what is quantised, by the names of the modules in the one that was exported.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, feeds: Iterator[Feed]) -> None:
            self.feeds = feeds

        def get_next(self) -> Feed | None:
            return next(self.feeds, None)

    with TemporaryDirectory(dir=output.parent) as folder:
        shaped = Path(folder, "shaped.onnx")
        quant_pre_process(graph, shaped, skip_optimization=True, skip_symbolic_shape=True)
        model = onnx.load(shaped)
    model.metadata_props.add(key="backbones", value="int8")
    quantize_static(
        model,
        output,
        Reader(iter(feeds)),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=[node.name for node in model.graph.node if in_trunk(node, trunks)],
    )


def in_trunk(node: Any, trunks: Sequence[str] = TRUNKS) -> bool:
    """Whether a node of a graph is a backbone's, as the exporter tells beside it."""
    scopes = {prop.key: prop.value for prop in node.metadata_props}
    found = scopes.get("pkg.torch.onnx.name_scopes", "")
    return any(f"'{trunk}'" in found for trunk in trunks)


def _compare(graphs: dict[str, Path], clips: Clips, input_type: Input) -> dict[str, Any]:
    """Metrics and the median time of each, which take turns."""
    runs = {name: RUNNERS["onnx"](path, torch.get_num_threads()) for name, path in graphs.items()}
    logits: dict[str, list[np.ndarray]] = {name: [] for name in graphs}
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    labels = []
    for index in tqdm(range(len(clips)), "comparison", unit="video"):
        clip = clips[0, index]
        given = feed(clip, input_type)
        for name, run in runs.items():
            began = time.perf_counter()
            logits[name].append(run(given)["logits"][0, -1])
            seconds[name].append(time.perf_counter() - began)
        labels.append(clip["labels"])
    truth = torch.stack(labels)
    return {
        "metrics": {
            name: compute_metrics(torch.from_numpy(np.stack(one)), truth)
            for name, one in logits.items()
        },
        "seconds": {name: median(one) for name, one in seconds.items()},
    }
