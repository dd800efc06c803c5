import platform
import subprocess
import sys
import time

import pytest
import torch

from adafocus.machine.device import peak_memory
from adafocus.machine.meter import Meter

CPU = torch.device("cpu")


def test_waiting_is_told_from_computing(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def batches():
        for _ in range(3):
            clock[0] += 1  # to load
            yield "batch"

    meter = Meter(CPU)
    for batch in meter.watch(batches()):
        assert batch == "batch"
        clock[0] += 3  # to compute
    figures = meter.figures(videos=24)
    assert figures["videos_per_second"] == pytest.approx(24 / 12)
    assert figures["data_wait_share"] == pytest.approx(3 / 12)


def test_peak_memory_is_in_bytes():
    before = peak_memory(CPU)
    held = torch.ones(int(before) // 4 + 25_000_000)
    assert peak_memory(CPU) >= held.nbytes


FAULTS = """
import resource, torch
from adafocus.machine.device import keep_freed_memory
{setting}
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_kept():
    def faults(setting):
        command = [sys.executable, "-c", FAULTS.format(setting=setting)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    # 100 MB are 24414 pages of 4 kB; where pages are larger there is nothing to tell apart.
    if faults("") > 20_000:
        assert faults("keep_freed_memory()") < 1000
