import ctypes.util
import os
import re
import subprocess
import sys
import time
from uuid import UUID

import pytest
import torch

from adafocus.machine import device
from adafocus.machine.device import pick_device, why_not_cuda
from adafocus.machine.gpus import claim_gpus, visible_gpus, why_no_gpu

HOLD = """
import sys
from adafocus.machine.gpus import claim_gpus
with claim_gpus(1) as gpus:
    print(*gpus, flush=True)
    sys.stdin.readline()
"""


GPU_A, GPU_B = (f"GPU-{UUID(digit * 32)}" for digit in "ab")
MIG_C, MIG_D = (f"MIG-{UUID(digit * 32)}" for digit in "cd")


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (None, [GPU_A, GPU_B]),
        ("1", [GPU_B]),
        ("1,0", [GPU_B, GPU_A]),
        (GPU_B, [GPU_B]),
        (GPU_B[:12], [GPU_B]),
        (f"{MIG_D},{MIG_C}", [MIG_D, MIG_C]),
        (f"{MIG_D}, 0", [MIG_D, GPU_A]),
        (f"{MIG_C},7,{MIG_D}", [MIG_C]),
        ("", []),
        ("-1", []),
        ("0,5,1", [GPU_A]),
    ],
)
def test_visible_gpus(two_gpus, monkeypatch, shown, expected):
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus() == expected


def test_the_order_is_cudas(two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert visible_gpus() == [GPU_B, GPU_A]


@pytest.fixture
def no_gpu(two_gpus, monkeypatch, tmp_path):
    """A machine with a driver whose CUDA shows nothing."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setattr("adafocus.machine.gpus.DRIVER", tmp_path)


def test_why_there_is_no_gpu_where_one_could_be(no_gpu, monkeypatch, tmp_path):
    assert why_no_gpu().startswith("no CUDA-capable device is detected: look at CUDA_VISIBLE_DEVI")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    if ctypes.util.find_library("cuda"):
        pytest.skip("there is a driver here")
    assert re.match(r"libcuda.so.1: cannot open .*: .* `docker run --gpus all`", why_no_gpu())
    monkeypatch.setattr("adafocus.machine.gpus.DRIVER", tmp_path / "nowhere")
    assert why_no_gpu() is None


def test_who_hides_the_gpus_is_told_nothing(two_gpus, monkeypatch):
    assert why_no_gpu() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_gpu() is None


def test_a_driver_that_hangs_is_not_waited_for(two_gpus, monkeypatch):
    monkeypatch.setenv("LIBCUDA_HANGS", "1")
    monkeypatch.setattr("adafocus.machine.gpus.CUDA_TIMEOUT", 0.5)
    assert visible_gpus() == []
    assert "does not answer within 0.5 seconds" in why_no_gpu()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_cpu_taken_for_want_of_a_gpu_is_told_once(no_gpu, capsys):
    device._say_why_not_cuda.cache_clear()
    for _ in range(2):
        assert pick_device("auto").type == "cpu"
    said = capsys.readouterr().err.splitlines()
    assert said == [f"device: auto is the CPU, though a driver for GPUs is here: {why_no_gpu()}"]
    with pytest.raises(ValueError, match="device: cuda, but torch can use no GPU .no CUDA-capable"):
        pick_device("cuda")


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="torch is built for CUDA")
def test_a_torch_that_is_not_built_for_the_gpus_here(two_gpus):
    assert "is not built for CUDA" in why_not_cuda()


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch is not built for CUDA")
def test_a_torch_that_cannot_use_the_gpus_here(two_gpus):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert "NVIDIA driver" in why_not_cuda()


def test_jobs_hold_different_gpus_and_the_next_one_waits(two_gpus):
    def job():
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe, text=True)

    first, second = job(), job()
    held = [process.stdout.readline().strip() for process in (first, second)]
    assert sorted(held) == [GPU_A, GPU_B]

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
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(gpus) == f"{GPU_A},{GPU_B}"


def test_more_gpus_than_there_are(two_gpus):
    with pytest.raises(ValueError, match="needs 3"), claim_gpus(3):
        pass
