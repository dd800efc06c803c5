"""The device that computes: which it is, its precision, its threads and its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from adafocus.machine import shared_memory
from adafocus.machine.gpus import visible_gpus, why_no_gpu

if TYPE_CHECKING:
    from adafocus.recipe import Precision

AnyModule = TypeVar("AnyModule", bound=nn.Module)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's ``mallopt``, from its malloc.h."""


def pick_device(device: str) -> torch.device:
    """The device that ``auto`` stands for, or the one named; of several GPUs that of the process,
    see `distributed.joined`.

    Raises `ValueError` where a GPU is named and torch can use none; where ``auto`` finds none
    though NVIDIA's driver is there, it says so.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            _say_why_not_cuda()
    elif device == "cuda" and not torch.cuda.is_available():
        reason = why_not_cuda() or "there is none here"
        raise ValueError(f"device: cuda, but torch can use no GPU ({reason}); auto or cpu does")
    if device == "cuda":
        tune_cudnn()
        if torch.distributed.is_initialized():
            return torch.device(device, torch.cuda.current_device())
    return torch.device(device)


def why_not_cuda() -> str | None:
    """Why torch can use no GPU though NVIDIA's driver is there; None where nobody would expect
    one."""
    gpus = visible_gpus()
    if gpus and not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is not built for CUDA, see https://pytorch.org"
    if gpus:
        try:
            torch.cuda.init()
        except RuntimeError as error:  # such as of a driver that is too old
            return " ".join(str(error).split())
    return why_no_gpu()


@cache
def _say_why_not_cuda() -> None:
    if int(os.environ.get("RANK", 0)) == 0 and (reason := why_not_cuda()):
        tqdm.write(
            f"device: auto is the CPU, though a driver for GPUs is here: {reason}", sys.stderr
        )


def share_threads(threads: int, device: torch.device) -> int:
    """Gives torch its threads and returns how many processes load clips.

    On a GPU as many as there are threads. On a CPU one, beside the threads that compute: more would
    take the cores from them.
    """
    if device.type == "cuda":
        torch.set_num_threads(1)
        return threads
    torch.set_num_threads(threads)
    keep_freed_memory()
    return 1


def keep_freed_memory() -> None:
    """Lets the C library keep what tensors leave, for the next ones.

    glibc returns large blocks to the system, which maps and clears every page anew when the next
    layer asks for them: a third of a training step's time. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def tune_cudnn() -> None:
    """Lets cuDNN compute in float32 what is float32, not in TF32: policy, classifier, and backbones
    that are not in bfloat16.

    It does not try its ways to compute each convolution (``cudnn.benchmark``): on an H100 neither
    prediction nor training was faster for it, while it took up to 12 s for each new shape and
    gigabytes of memory.
    """
    cudnn: Any = torch.backends.cudnn  # which has these at run time alone
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"


PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def name_of(precision: torch.dtype) -> str:
    """``bf16`` or ``fp32``."""
    return next(name for name, dtype in PRECISIONS.items() if dtype == precision)


def pick_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """The type in which backbones compute: bfloat16 or float32.

    ``auto`` is bfloat16 on a GPU that has units for it, compute capability 8.0 or newer. Older ones
    emulate it, and so do most CPUs.
    """
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if native else "fp32"
    return PRECISIONS[precision]


def peak_memory(device: torch.device) -> float:
    """Bytes that tensors held at most on a GPU, or that this process did in all on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


FREE_SOME = "end other programs that use it, or take --device cpu"


@contextmanager
def name_what_fills_memory(advice: str) -> Iterator[None]:
    """Turns an error of a GPU whose memory is full into a `ValueError` that says what to do."""
    try:
        with shared_memory.named():
            yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"the GPU's memory is full ({reason_of(error)}): {advice}") from error


def reason_of(full: torch.OutOfMemoryError) -> str:
    """The first sentence of what torch says."""
    return str(full).partition(". ")[0]


def channels_last(model: AnyModule) -> AnyModule:
    """The same module, with the weights of 2D convolutions in the order that is fastest."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return model
