"""Which GPUs this process may use, and how jobs that run side by side share them out."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


def visible_gpus() -> list[str]:
    """The GPUs' own ids (``GPU-...``), as far as ``CUDA_VISIBLE_DEVICES`` shows them.

    An index says nothing across containers and cluster jobs, where each may see its own GPU as
    number 0; the id does.
    """
    if not shutil.which("nvidia-smi"):
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True)
    gpus = answer.stdout.split() if answer.returncode == 0 else []
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None or not gpus:
        return gpus
    visible = []
    for name in map(str.strip, shown.split(",")):
        if name.startswith(("GPU-", "MIG-")):
            visible.append(name)
        elif name.isdecimal() and int(name) < len(gpus):
            visible.append(gpus[int(name)])
        else:  # as CUDA reads it: what follows an invalid entry is hidden
            break
    return visible


@contextmanager
def claim_gpus(count: int) -> Iterator[list[str]]:
    """Waits until ``count`` GPUs are free, then keeps them and makes only them visible.

    Enter it before CUDA is initialised. The locks are files in the system's temporary folder, one
    per GPU and user; the system drops them when the process ends, however it ends. Raises
    `ValueError` where there are fewer GPUs than asked for.
    """
    gpus = visible_gpus()
    if len(gpus) < count:
        raise ValueError(f"the job needs {count} GPU(s), but {len(gpus)} can be seen here")
    folder = Path(tempfile.gettempdir()) / f"adafocus-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
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
        time.sleep(1)
