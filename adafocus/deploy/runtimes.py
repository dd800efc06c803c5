"""What computes a model: PyTorch, or a runtime that takes the graph exported of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from adafocus.deploy.export import OUTPUTS, VERSION, export_onnx
from adafocus.extras import MissingExtra, require
from adafocus.machine.files import WriteError, check_writable, remove_abandoned, sha256
from adafocus.model.checkpoint import CheckpointError
from adafocus.model.looks import Looks
from adafocus.model.video_model import Output, VideoModel

Runtime = Literal["auto", "torch", "onnx", "openvino"]
FASTEST: tuple[Runtime, ...] = ("onnx", "openvino")
"""Those that are faster than PyTorch on a CPU, the fastest first, as benchmarks/runtimes.py has
measured. With a GPU PyTorch is taken."""
Feed = dict[str, np.ndarray]


def pick_runtime(wanted: Runtime, model: VideoModel, device: torch.device, budget: bool) -> Runtime:
    """The runtime that ``auto`` stands for, or the one named.

    Args:
        model: in the precision in which its backbones are to compute.
        device: on which.
        budget: whether videos are to be left early.

    Raises:
        ValueError: where the one named cannot do it.
        MissingExtra: where it is not installed.
    """
    if wanted == "torch":
        return wanted
    why_not = None
    if device.type != "cpu":
        why_not = "computes on the CPU alone: give --device cpu"
    elif model.precision != torch.float32:
        why_not = "computes in fp32 alone: give --precision fp32"
    elif budget:
        why_not = "computes all frames, so that a budget saves nothing there: take --runtime torch"
    skips = bool(getattr(model, "skips", False))
    if wanted == "auto":
        found = () if why_not or skips else filter(_is_ready, FASTEST)
        return next(iter(found), "torch")
    if why_not:
        raise ValueError(f"--runtime {wanted}: {why_not}")
    require(wanted)
    if skips:
        told = "computes the frames that are skipped too, and saves no time; torch leaves them out"
        tqdm.write(f"--runtime {wanted}: {told}", sys.stderr)
    return wanted


def _is_ready(runtime: str) -> bool:
    """Whether it is installed, and graphs can be kept for it."""
    try:
        require(runtime)
        check_writable(cache_folder())
    except (MissingExtra, WriteError):
        return False
    return True


class Graph:
    """A checkpoint's exported graph in another runtime, called as its `VideoModel` is with bytes.

    Args:
        checkpoint: of which the graph is taken from the user's cache, where it is made at first.
        runtime: ``onnx`` or ``openvino``; as many threads compute as torch has.

    Raises:
        CheckpointError: where there can be no graph of the checkpoint, or that in the cache cannot
            be read.
        WriteError: where it cannot be kept there.
    """

    def __init__(self, checkpoint: Path, runtime: Runtime) -> None:
        path = cached_graph(checkpoint)
        try:
            self.run = RUNNERS[runtime](path, torch.get_num_threads())
        except Exception as error:  # each runtime has its own
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{path}: cannot be read ({reason}); remove it, and the same command makes it again"
            ) from None

    def __call__(self, frames: Tensor, glance: Tensor | None = None) -> Output:
        given = {"frames": frames, "glance": glance}
        # A loader's frames have their channels last.
        feed = {name: put.contiguous().numpy() for name, put in given.items() if put is not None}
        found = {name: torch.from_numpy(array) for name, array in self.run(feed).items()}
        boxes = found["boxes"]
        skipped = (boxes[..., 2:] < 0).all(-1)
        return Output(found["logits"], Looks(found["looked_at"], boxes, skipped))


def graph_path(checkpoint: Path) -> Path:
    """Where in the user's cache the graph of a checkpoint lies, by its SHA-256."""
    return cache_folder() / f"{sha256(checkpoint)}-{VERSION}.onnx"


def cached_graph(checkpoint: Path) -> Path:
    """The graph of a checkpoint in the user's cache; made there at first use."""
    path = graph_path(checkpoint)
    if not path.exists():
        check_writable(path.parent)
        remove_abandoned(path.parent)
        tqdm.write(f"{checkpoint}: is exported for other runtimes, once, to {path}", sys.stderr)
        export_onnx(checkpoint, path, "bytes")
    return path


def cache_folder() -> Path:
    """``adafocus`` in the user's cache (XDG Base Directory Specification)."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "adafocus"


def _onnx(path: Path, threads: int) -> Callable[[Feed], Feed]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feed: dict(zip(OUTPUTS, session.run(list(OUTPUTS), feed), strict=True))


def _openvino(path: Path, threads: int) -> Callable[[Feed], Feed]:
    # By this it would tell its makers that it is used.
    without: dict[str, Any] = {"openvino_telemetry": None}
    sys.modules.update({name: put for name, put in without.items() if name not in sys.modules})
    import openvino

    options = {
        # Where the processor has it, it would compute in bfloat16.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(path, "CPU", options)

    def run(feed: Feed) -> Feed:
        found = model(feed)
        return {name: found[name].copy() for name in OUTPUTS}

    return run


RUNNERS = {"onnx": _onnx, "openvino": _openvino}
"""Functions of a graph's file and of how many threads compute, that give a function of its inputs
by name that gives its outputs by name."""
