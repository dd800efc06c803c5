"""Which process made something on a disk that machines share, and whether it still lives."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self


class Process(NamedTuple):
    """A process by what tells it from all others, on this machine and on others."""

    host: str
    boot: str
    """Digest of the machine's start and of the container: where a number means one process."""
    pid: int
    start: int
    """When it began, as numbers are used again: in the kernel's ticks; 0 where it does not say."""

    @classmethod
    def this(cls) -> Self:
        pid = os.getpid()
        host = re.sub(r"[^\w-]", "-", platform.node())[:32] or "unnamed"
        return cls(host, _boot(), pid, _start(pid))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The process that `__str__` gave as text, None where it is no such text."""
        if not (found := re.fullmatch(r"([\w-]+)\.([0-9a-f]+)\.(\d+)\.(\d+)", text)):
            return None
        host, boot, pid, start = found.groups()
        return cls(host, boot, int(pid), int(start))

    def __str__(self) -> str:
        return f"{self.host}.{self.boot}.{self.pid}.{self.start}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, where this process does, so that `is_gone` can tell."""
        return self.boot == _boot()

    def is_gone(self) -> bool:
        """Whether it has surely ended; of other machines' processes nothing is sure."""
        if not self.is_here:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another person's
            pass
        return _start(self.pid) not in (self.start, 0)


@cache
def _boot() -> str:
    facts = [platform.node()]
    for path, read in (
        ("/proc/sys/kernel/random/boot_id", Path.read_text),
        ("/proc/self/ns/pid", os.readlink),
    ):
        try:
            facts.append(read(Path(path)))
        except OSError:  # not on Linux
            facts.append("")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _start(pid: int) -> int:
    """0 where it cannot be told, -1 where a process has ended and waits for its parent's look."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return -1 if fields[0] in "ZX" else int(fields[19])
