"""Shared memory, in which the processes that load clips hand over whole batches.

Containers often have little of it, Docker's 64 MB; on a file system of its own, what is written
beyond its end kills the process that writes (a bus error).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from multiprocessing.queues import Queue
from pathlib import Path

from tqdm import tqdm

from adafocus.machine.sockets import no_socket

SHM_FOLDER = Path("/dev/shm")
ADVICE = (
    "give the container more (docker run --shm-size=8g; in Kubernetes an emptyDir of medium Memory"
    f" at {SHM_FOLDER})"
)
SHM_FULL = re.compile(r"bus error|shared memory|torch_\S+>: No space left", re.IGNORECASE)


def free() -> int:
    """Bytes of shared memory that nobody uses."""
    disk = os.statvfs(SHM_FOLDER)
    return disk.f_bavail * disk.f_frsize


def needed(processes: int, batch: int) -> int:
    """Bytes for so many processes: each has two batches ready, and who takes them holds two."""
    return (2 * processes + 2) * batch


def processes_that_fit(wanted: int, batch: int) -> int:
    """How many processes that load clips there is room for; says so where it is less than wanted.

    Args:
        wanted: how many there are to be.
        batch: bytes that a batch of one of them takes.
    """
    if wanted and (reason := no_socket()):
        _say_once(
            f"temporary files: the processes that load clips cannot make a socket in {reason}: none"
            " but the one that computes load them, which is slower; name a folder that can be"
            " written, of a short path, in TMPDIR"
        )
        return 0
    if wanted and (reason := _no_semaphore()):
        _say_once(
            f"shared memory: nothing can be made in {SHM_FOLDER} ({reason}): none but the process"
            f" that computes loads clips, which is slower; {ADVICE}"
        )
        return 0
    if not SHM_FOLDER.is_dir():  # macOS, where it has no end of its own
        return wanted
    room = free() / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fit = max((n for n in range(1, wanted + 1) if needed(n, batch) <= room), default=0)
    if fit < wanted:
        need = needed(wanted, batch)
        _say_once(
            f"shared memory: {room / 1e9:.2g} GB are free in {SHM_FOLDER}, and {wanted} processes"
            f" that load clips need {need / 1e9:.2g}: {fit or 'none but the one that computes'}"
            f" load them, which is slower; {ADVICE}"
        )
    return fit


def _no_semaphore() -> str | None:
    """Why processes cannot wait for each other, as where there is no shared memory at all; None
    where they can."""
    try:
        multiprocessing.Lock()
    except OSError as error:
        return error.strerror or str(error)
    return None


def end_if_not_sent() -> None:
    """Lets this process, which loads clips, end where it cannot hand over what it has loaded. The
    one that computes would wait for it for ever: all that is done for it otherwise is to print a
    traceback."""

    def end(error: BaseException, _: object) -> None:
        print(f"a process that loads clips cannot hand them over ({error})", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


@contextmanager
def named() -> Iterator[None]:
    """Turns an error of processes that load clips into a `ValueError` that says what to do, if it
    comes from their memory. It may come at any time: they are children of this process."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if SHM_FULL.search(text) and SHM_FOLDER.is_dir():
            left = f"{free() / 1e9:.2g} GB are left"
            reason = f"shared memory, {SHM_FOLDER}, is full ({left}): {ADVICE}"
        elif "DataLoader worker" in text and "Killed" in text:
            reason = (
                "a process that loads clips was killed, as it happens where memory is full: give"
                " the job more, or let it have fewer `threads`"
            )
        elif "DataLoader worker" in text and "exited unexpectedly" in text:
            reason = (
                "a process that loads clips has ended, as it could not hand them over: see what it"
                f" said above, and look at what is left in {SHM_FOLDER} and in TMPDIR"
            )
        else:
            raise
        raise ValueError(reason) from error


@cache
def _say_once(line: str) -> None:
    if int(os.environ.get("RANK", 0)) == 0:
        tqdm.write(line, sys.stderr)
