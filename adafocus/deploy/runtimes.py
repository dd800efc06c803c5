"""What computes a model's backbones: PyTorch, or a runtime that takes graphs exported of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from adafocus.deploy.export import VERSION, export_trunk
from adafocus.extras import MissingExtra, require
from adafocus.machine.files import WriteError, check_writable, remove_abandoned, sha256
from adafocus.model.backbones import Backbone
from adafocus.model.checkpoint import CheckpointError
from adafocus.model.frozen import FrozenBackbone
from adafocus.model.video_model import VideoModel

Runtime = Literal["auto", "torch", "onnx", "openvino"]
FASTEST: tuple[Runtime, ...] = ("openvino", "onnx")
"""Those that are taken before PyTorch on a CPU, the fastest first, as benchmarks/runtimes.py has
measured: on two threads ONNX Runtime is as fast as PyTorch, on one faster. With a GPU PyTorch is
taken."""
Feed = dict[str, np.ndarray]


def pick_runtime(wanted: Runtime, model: VideoModel, device: torch.device) -> Runtime:
    """The runtime that ``auto`` stands for, or the one named.

    Args:
        model: in the precision in which its backbones are to compute.
        device: on which.

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
    if wanted == "auto":
        return next(iter(() if why_not else filter(_is_ready, FASTEST)), "torch")
    if why_not:
        raise ValueError(f"--runtime {wanted}: {why_not}")
    require(wanted)
    return wanted


def _is_ready(runtime: str) -> bool:
    """Whether it is installed, and graphs can be kept for it."""
    try:
        require(runtime)
        check_writable(cache_folder())
    except (MissingExtra, WriteError):
        return False
    return True


def on_runtime(
    model: VideoModel, checkpoint: Path, glance_size: int, runtime: Runtime
) -> VideoModel:
    """The same model, frozen, whose backbones another runtime computes.

    Each has a graph of its own, and all else stays PyTorch's: so a frame that is skipped, and what
    comes after a video is left, cost nothing there either.

    Args:
        model: of ``checkpoint``, in eval mode, on the CPU.
        checkpoint: by which the graphs are found in the user's cache, where they are made at first.
        glance_size: side of what its glancer sees in pixels.
        runtime: ``torch`` gives `VideoModel.frozen`; of another, as many threads compute as torch
            has.

    Raises:
        CheckpointError: where a graph in the cache cannot be read.
        WriteError: where it cannot be kept there.
    """
    if runtime == "torch":
        return model.frozen()
    graphs = cached_graphs(model, checkpoint, glance_size)
    return model.on_backbones(
        {
            name: GraphBackbone(getattr(model, name), _runner(path, runtime))
            for name, path in graphs.items()
        }
    )


class GraphBackbone(FrozenBackbone):
    """A backbone whose trunk another runtime computes.

    Args:
        backbone: in eval mode.
        run: computes its graph.
    """

    def __init__(self, backbone: Backbone, run: Callable[[Feed], Feed]) -> None:
        super().__init__(backbone)
        self.run = run

    def _in_cache(self, frames: Tensor) -> Tensor:
        seen = self._as_seen(frames).unflatten(0, (-1, self.together))
        return torch.from_numpy(self.run({"frames": seen.contiguous().numpy()})["maps"])


def _runner(path: Path, runtime: Runtime) -> Callable[[Feed], Feed]:
    try:
        return RUNNERS[runtime](path, torch.get_num_threads())
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: cannot be read ({reason}); remove it, and the same command makes it again"
        ) from None


def graph_path(checkpoint: Path, backbone: str) -> Path:
    """Where in the user's cache a graph of a checkpoint lies, by its SHA-256."""
    return cache_folder() / f"{sha256(checkpoint)}-{backbone}-{VERSION}.onnx"


def cached_graphs(model: VideoModel, checkpoint: Path, glance_size: int) -> dict[str, Path]:
    """The graphs of glancer and focuser in the user's cache; made there at first use."""
    sizes = {"glancer": glance_size, "focuser": model.patch_size}
    paths = {name: graph_path(checkpoint, name) for name in sizes}
    if not all(path.exists() for path in paths.values()):
        folder = cache_folder()
        check_writable(folder)
        remove_abandoned(folder)
        told = f"{checkpoint}: is exported for other runtimes, once, to {folder}"
        tqdm.write(told, sys.stderr)
        for name, path in paths.items():
            export_trunk(getattr(model, name), sizes[name], path)
    return paths


def cache_folder() -> Path:
    """``adafocus`` in the user's cache (XDG Base Directory Specification)."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "adafocus"


def _onnx(path: Path, threads: int) -> Callable[[Feed], Feed]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def _openvino(path: Path, threads: int) -> Callable[[Feed], Feed]:
    options = {
        # Where the processor has it, it would compute in bfloat16.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino_core().compile_model(path, "CPU", options)

    def run(feed: Feed) -> Feed:
        found = model(feed)
        return {port.any_name: found[port].copy() for port in model.outputs}

    return run


@cache
def openvino_core() -> Any:
    """OpenVINO, begun once in a process.

    Where the processor has AMX, whatever begins it gives the thread a stack for signals and takes
    that away at its end. Of two that end in the order in which they began the first takes away
    what the second goes back to, and the next signal ends the process.
    """
    # By this it would tell its makers that it is used.
    without: dict[str, Any] = {"openvino_telemetry": None}
    sys.modules.update({name: put for name, put in without.items() if name not in sys.modules})
    import openvino

    return openvino.Core()


RUNNERS = {"onnx": _onnx, "openvino": _openvino}
"""Functions of a graph's file and of how many threads compute, that give a function of its inputs
by name that gives its outputs by name."""
