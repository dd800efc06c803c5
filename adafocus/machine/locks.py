"""Locks on outputs: of two jobs that would write the same files the second waits for the first.

A lock is a file beside the output, ``.{name}.lock``. It names its holder, who touches it every ten
seconds. Whoever waits takes it over when the holder is known to be dead, or when the file has not
changed for two minutes. So nothing hangs on locks of the operating system, which may end at the
machine, nor on the clocks of two machines, which may differ.
"""

from __future__ import annotations

import atexit
import errno
import json
import math
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from adafocus.machine.files import WriteError, aside, write_error
from adafocus.machine.processes import Process

BEAT, SILENCE = 10.0, 120.0
"""Seconds between a holder's signs of life, and without any after which it is taken to be dead."""
LOOK_EVERY, TELL_EVERY = 1.0, 60.0
"""Seconds between two looks at a lock that another holds, and between two lines that name it."""


class Holder(NamedTuple):
    """Who holds a lock, as its file says."""

    process: Process
    job: str
    work: str

    @classmethod
    def parse(cls, text: bytes) -> Holder | None:
        """None where the file is not written yet."""
        with suppress(ValueError, TypeError, KeyError):
            values = json.loads(text)
            if process := Process.parse(values["process"]):
                return cls(process, values["job"], values["work"])
        return None

    def __str__(self) -> str:
        return f"process {self.process.pid} on {self.process.host} ({self.job})"


class Watch:
    """What a process sees of a lock that another holds.

    Attributes:
        text: of the file when it was last there; None before.
        beats: whether it was seen to change.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text: bytes | None = None
        self.beats = False
        self._touched = 0
        self._since = math.inf

    def look(self) -> bool:
        """Whether there is a lock."""
        before = self.text, self._touched
        try:
            # Opening a file makes a network's file system look again, so that its time is of now.
            self.text = _read(self.path)
            self._touched = self.path.stat().st_mtime_ns
        except OSError as error:
            # Of a disk that is away for a while nothing is known until the next look.
            self._since = min(self._since, time.monotonic())
            return not _is_gone(error)
        if (self.text, self._touched) != before:
            self.beats = self.text == before[0]
            self._since = time.monotonic()
        return True

    @property
    def holder(self) -> Holder | None:
        return Holder.parse(self.text or b"")

    @property
    def is_dead(self) -> bool:
        known_dead = self.holder is not None and self.holder.process.is_gone()
        return known_dead or time.monotonic() - self._since > SILENCE

    @property
    def is_alive(self) -> bool:
        here = self.holder is not None and self.holder.process.is_here
        return not self.is_dead and (self.beats or here)

    def remove(self) -> None:
        """Removes the lock of a dead holder, unless it has another by now.

        Raises:
            WriteError: where it cannot be removed.
        """
        with aside(self.path.parent, self.path.name) as folder:
            if not self.look() or not self.is_dead:
                return
            try:
                moved = self.path.replace(folder / "lock")
                if _read(moved) != self.text:
                    _put_back(moved, self.path)
            except OSError as error:
                if not _is_gone(error):
                    raise write_error(self.path, error) from error


def _put_back(moved: Path, path: Path) -> None:
    """Gives a lock its name again, unless another has it by now: who holds the one that was moved
    ends when he sees that."""
    try:
        os.link(moved, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            moved.replace(path)


def _is_gone(error: OSError) -> bool:
    """Whether a file is not there, or was removed by another machine while it was being read."""
    return error.errno in (errno.ENOENT, errno.ESTALE)


def _read(path: Path) -> bytes:
    """Nothing where another person keeps it to himself."""
    try:
        return path.read_bytes()
    except PermissionError:
        return b""


class Lock:
    """The lock of one output.

    Args:
        output: the file or folder that its holder writes.
        job: what others call the holder; a scheduler's number is added.
        work: digest of all that the output depends on, where it is known.

    Attributes:
        done_by: who held it just before, did the same work, and ended by itself.
    """

    def __init__(self, output: Path, job: str, work: str = "") -> None:
        self.output, self.path = output, output.with_name(f".{output.name}.lock")
        for scheduler, variable in (("Slurm", "SLURM_JOB_ID"), ("PBS", "PBS_JOBID")):
            if number := os.environ.get(variable):
                job += f", {scheduler} job {number}"
        holder = {"process": str(Process.this()), "job": job, "work": work}
        self._text = f"{json.dumps(holder)}\n".encode()
        self._work = work
        self.done_by: Holder | None = None
        self._watch = Watch(self.path)
        self._tell_at = -math.inf
        self._thread: threading.Thread | None = None
        self._released = threading.Event()

    def acquire(self) -> None:
        """Takes the lock; waits for one who holds it, with a line a minute on stderr.

        Raises:
            WriteError: where it cannot be written.
        """
        while not self.attempt():
            time.sleep(LOOK_EVERY)

    def attempt(self) -> bool:
        """Takes the lock if it is seen to be free by now; to be called until it is.

        Raises:
            WriteError: where it cannot be written.
        """
        watch, before = self._watch, self._watch.holder
        if self._create():
            if before and before.work == self._work != "":
                self.done_by = before
            self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
            self._thread.start()
            return True
        if not watch.look():
            return False
        if watch.is_dead:
            watch.remove()
            self._watch = Watch(self.path)
        elif time.monotonic() >= self._tell_at:
            self._tell_at = time.monotonic() + TELL_EVERY
            print(
                f"{self.output}: {watch.holder or 'another process'} is at work on it; waiting"
                f" until it has ended, or has given no sign of life for {SILENCE:.0f} seconds",
                file=sys.stderr,
                flush=True,
            )
        return False

    def release(self) -> None:
        """Lets the lock go, if it is held."""
        if self._thread is None or self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        with suppress(OSError):
            if self.path.read_bytes() == self._text:
                self.path.unlink()

    def _create(self) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("xb")
        except FileExistsError:
            return False
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            with file:
                file.write(self._text)
        except OSError as error:
            self.path.unlink()
            raise write_error(self.path, error) from error
        return True

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            # Where the disk is away for a while, others cannot see the lock either.
            with suppress(OSError, WriteError):
                if not self.path.exists():  # it was removed by hand
                    self._create()
                elif (text := _read(self.path)) == self._text:
                    os.utime(self.path)
                else:
                    self._end(Holder.parse(text))

    def _end(self, holder: Holder | None) -> None:
        """Ends this process at once: it was stopped for so long that another took the lock."""
        print(
            f"{self.output}: {holder or 'another process'} has taken it over, as this process gave"
            f" no sign of life for {SILENCE:.0f} seconds, and which ends now",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def enter(folder: Path, job: str) -> bool:
    """Holds a lock of this process's own in a folder until it ends.

    Returns:
        Whether no other process does. One of another machine is watched until its next sign of
        life, or for two minutes.
    """
    own = Lock(folder / str(Process.this()), job)
    own.acquire()
    atexit.register(own.release)
    others = [Watch(path) for path in folder.glob(".*.lock") if path != own.path]
    told = False
    while others:
        for watch in tuple(others):
            if watch.look() and watch.is_dead:
                watch.remove()
            if not watch.look():
                others.remove(watch)
            elif watch.is_alive:
                return False
            elif not told:
                told = True
                print(f"looking whether {watch.holder} lives", file=sys.stderr, flush=True)
        if others:
            time.sleep(LOOK_EVERY)
    return True
