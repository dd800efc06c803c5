"""What a benchmark's figures were measured on, and how."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision


def machine(device: torch.device) -> dict[str, Any]:
    """Processor or GPU, cores and threads, how busy it was, and versions."""
    name = f"{platform.machine()} CPU"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def take_turns(
    works: list[Callable[[], object]],
    repeats: int,
    now: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median seconds of each of several things, which take turns; the first turn warms up."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(-1, repeats):
        for work, taken in zip(works, times, strict=True):
            started = now()
            work()
            if turn >= 0:
                taken.append(now() - started)
    return [statistics.median(taken) for taken in times]
