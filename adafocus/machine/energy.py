"""What processors and GPUs consume while a job runs, where the machine tells."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from adafocus.machine.files import atomic

POWERCAP = Path("/sys/class/powercap")
"""Linux's counters (RAPL) of Intel's and AMD's processors, which often root alone may read."""
READ_EVERY = 30
"""Seconds. A counter begins anew after 65 kJ and more, at 500 W in two minutes."""


@contextmanager
def metered(path: Path, gpus: Sequence[str], powercap: Path = POWERCAP) -> Iterator[None]:
    """Writes as JSON what was consumed in its block, if that ends well: ``cpu_joules``, of all
    processors of the machine and their memory, whoever used them, ``gpus``, how many it had, and
    ``gpu_joules``, of those.

    What the machine does not tell is left out; where nothing is left there is no file.

    Args:
        gpus: their ids, as `claim_gpus` gives them.
        powercap: folder of the kernel's counters.
    """
    path.unlink(missing_ok=True)  # of a job before
    processors, gpus_before = Processors(powercap), gpu_joules(gpus)
    try:
        yield
    finally:
        joules = processors.close()
    gpus_after = gpu_joules(gpus)
    told: dict[str, float] = {} if joules is None else {"cpu_joules": round(joules, 3)}
    if gpus:
        told["gpus"] = len(gpus)
    if gpus_before is not None and gpus_after is not None:
        told["gpu_joules"] = round(gpus_after - gpus_before, 3)
    if told:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as aside:
            aside.write_text(json.dumps(told))


class Processors:
    """Counts from its making on what all processors and their memory consume.

    Args:
        powercap: folder of the kernel's counters.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._joules: float | None = 0.0
        self._zones: list[Path] = []
        self._ranges: list[int] = []
        try:
            # A package holds its cores; memory is beside it. What is named psys holds both.
            for zone in sorted(powercap.glob("intel-rapl:*")):
                name = (zone / "name").read_text().strip()
                if name.startswith("package") or name == "dram":
                    self._zones.append(zone)
                    self._ranges.append(int((zone / "max_energy_range_uj").read_text()))
            self._last = self._counters()
        except (OSError, ValueError):
            self._joules, self._zones = None, []
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._run, daemon=True)
        if self._zones:
            self._reader.start()

    def close(self) -> float | None:
        """Joules; None where the machine does not tell."""
        if not self._zones:
            return None
        self._closed.set()
        self._reader.join()
        self.read()
        return self._joules or None  # counters of a virtual machine may stand still

    def read(self) -> None:
        """Adds what was consumed since the last time; before any counter can go round twice."""
        if self._joules is None:
            return
        try:
            now = self._counters()
        except (OSError, ValueError):
            self._joules = None
            return
        pairs = zip(now, self._last, self._ranges, strict=True)
        self._joules += sum((new - old) % length for new, old, length in pairs) / 1e6
        self._last = now

    def _counters(self) -> list[int]:
        """In microjoules."""
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]

    def _run(self) -> None:
        while not self._closed.wait(READ_EVERY):
            self.read()


def gpu_joules(gpus: Sequence[str]) -> float | None:
    """What GPUs have consumed since their driver was loaded; None where NVML does not tell it of
    each: GPUs before Volta, and the parts of one (MIG).

    Args:
        gpus: their ids, as `claim_gpus` gives them.
    """
    if not gpus:
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            handles = [pynvml.nvmlDeviceGetHandleByUUID(gpu) for gpu in gpus]
            counters = map(pynvml.nvmlDeviceGetTotalEnergyConsumption, handles)
            return float(sum(counters)) / 1e3
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
