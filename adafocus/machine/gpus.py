"""Which GPUs this process may use, and how jobs that run side by side share them out.

CUDA itself says, through its driver's library: not every container has ``nvidia-smi``, whose order
is another too.
"""

from __future__ import annotations

import ctypes
import getpass
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

DRIVER = Path("/proc/driver/nvidia/version")
"""Is there where NVIDIA's driver is loaded, in containers too."""
LIBRARY = "libcuda.so.1"
CUDA_TIMEOUT = 60
"""Seconds that CUDA may take to answer."""
TELL_EVERY = 60
"""Seconds between two lines of a job that waits for a GPU."""


class Gpus(NamedTuple):
    """What CUDA shows."""

    ids: list[str]
    """``GPU-...`` or ``MIG-...``, in CUDA's order. An index says nothing across containers and
    cluster jobs, where each may see its own GPU as number 0; the id does."""
    error: str
    """Why it shows none."""


def visible_gpus() -> list[str]:
    """The ids of the GPUs that this process may use, see `Gpus`."""
    return look_for_gpus().ids


def look_for_gpus() -> Gpus:
    """Asks CUDA, in another process: this one would keep the ``CUDA_VISIBLE_DEVICES`` of now."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if "MIG-" not in shown:
        return _ask()
    found: list[str] = []
    for entry in shown.split(","):  # of several parts of GPUs CUDA shows a process but one
        gpus = _ask(CUDA_VISIBLE_DEVICES=entry.strip())
        if not gpus.ids:  # it hides what follows an invalid entry
            return Gpus(found, gpus.error)
        found += gpus.ids
    return Gpus(found, "")


def why_no_gpu() -> str | None:
    """What CUDA says where it shows no GPU though a driver is there, and what to do; None where
    nobody would expect a GPU."""
    gpus = look_for_gpus()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    without_library = gpus.error.startswith(LIBRARY)
    if gpus.ids or hidden or (without_library and not DRIVER.exists()):
        return None
    if without_library:
        return f"{gpus.error}: give the container its GPUs, as `docker run --gpus all` does"
    return f"{gpus.error}: look at CUDA_VISIBLE_DEVICES and at the driver"


def _ask(**environment: str) -> Gpus:
    command = [sys.executable, "-P", __file__]
    try:
        answer = subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=CUDA_TIMEOUT,
        )
        return Gpus(*json.loads(answer.stdout))
    except subprocess.TimeoutExpired:
        return Gpus([], f"CUDA does not answer within {CUDA_TIMEOUT} seconds")
    except ValueError:  # the driver took the process with it
        return Gpus([], f"CUDA ended with status {answer.returncode}")


@contextmanager
def claim_gpus(count: int) -> Iterator[list[str]]:
    """Waits until ``count`` GPUs are free, then keeps them and makes only them visible.

    Enter it before CUDA is initialised. The locks are files in the system's temporary folder, one
    per GPU and user; the system drops them when the process ends, however it ends. Raises
    `ValueError` where there are fewer GPUs than asked for, or the folder is another person's.
    """
    from adafocus.machine.files import (
        make_private,  # here, as the other process below has no package
    )

    gpus = visible_gpus()
    if len(gpus) < count:
        raise ValueError(f"the job needs {count} GPU(s), but {len(gpus)} can be seen here")
    folder = Path(tempfile.gettempdir()) / f"adafocus-{getpass.getuser()}"
    make_private(folder)
    tell_at = time.monotonic() + TELL_EVERY
    while True:
        with ExitStack() as locks:
            claimed: list[str] = []
            for gpu in gpus:
                if len(claimed) < count:
                    with suppress(Timeout):
                        locks.enter_context(
                            FileLock(folder / f"{gpu}.lock").acquire(blocking=False)
                        )
                        claimed.append(gpu)
            if len(claimed) == count:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)
                yield claimed
                return
        if time.monotonic() >= tell_at:
            tell_at += TELL_EVERY
            print(f"waiting until {count} of {len(gpus)} GPU(s) are free of other jobs", flush=True)
        time.sleep(1)


# --- the other process --------------------------------------------------------------------------


def _answer() -> Gpus:
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        return Gpus([], str(error))

    def call(name: str, *arguments: object) -> None:
        if status := getattr(cuda, name)(*arguments):
            text = ctypes.c_char_p()
            cuda.cuGetErrorString(status, ctypes.byref(text))
            raise OSError((text.value or b"CUDA's error %d" % status).decode())

    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    bits = ctypes.create_string_buffer(16)
    ids = []
    try:
        call("cuInit", 0)
        call("cuDeviceGetCount", ctypes.byref(count))
        for number in range(count.value):
            call("cuDeviceGet", ctypes.byref(device), number)
            call("cuDeviceGetName", name, len(name), device)
            # The second version, of CUDA 11.4, tells the parts of a GPU apart.
            version = "_v2" if hasattr(cuda, "cuDeviceGetUuid_v2") else ""
            call(f"cuDeviceGetUuid{version}", bits, device)
            kind = "MIG" if b" MIG " in name.value else "GPU"
            ids.append(f"{kind}-{uuid.UUID(bytes=bits.raw)}")
    except OSError as error:
        return Gpus([], str(error))
    return Gpus(ids, "" if ids else "CUDA shows no GPU")


if __name__ == "__main__":
    print(json.dumps(_answer()))
