import os
import subprocess
import sys
import time

import pytest

from adafocus.gpus import claim_gpus, visible_gpus

HOLD = """
import sys
from adafocus.gpus import claim_gpus
with claim_gpus(1) as gpus:
    print(*gpus, flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (None, ["GPU-aa", "GPU-bb"]),
        ("1", ["GPU-bb"]),
        ("1,0", ["GPU-bb", "GPU-aa"]),
        ("GPU-bb", ["GPU-bb"]),
        ("MIG-7", ["MIG-7"]),
        ("", []),
        ("-1", []),
        ("0,5,1", ["GPU-aa"]),
    ],
)
def test_visible_gpus(two_gpus, monkeypatch, shown, expected):
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus() == expected


def test_no_gpu_without_its_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


def test_jobs_hold_different_gpus_and_the_next_one_waits(two_gpus):
    def job():
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True)

    first, second = job(), job()
    held = [process.stdout.readline().strip() for process in (first, second)]
    assert sorted(held) == ["GPU-aa", "GPU-bb"]

    third = job()
    time.sleep(1)
    os.set_blocking(third.stdout.fileno(), False)
    assert third.stdout.readline() == ""
    os.set_blocking(third.stdout.fileno(), True)
    first.kill()
    assert third.stdout.readline().strip() == held[0]
    for process in (first, second, third):
        process.communicate("\n", timeout=20)


def test_a_claim_shows_cuda_only_what_it_holds(two_gpus):
    with claim_gpus(2) as gpus:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(gpus) == "GPU-aa,GPU-bb"


def test_more_gpus_than_there_are(two_gpus):
    with pytest.raises(ValueError, match="needs 3"), claim_gpus(3):
        pass
