"""CUDA's own ids of its GPUs are those that torch gives them. Imports the core alone."""

import pytest
import torch

from adafocus.machine.gpus import claim_gpus, visible_gpus

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]


def test_they_are_torchs_in_its_order():
    ids = [torch.cuda.get_device_properties(i).uuid for i in range(torch.cuda.device_count())]
    assert [gpu.partition("-")[2] for gpu in visible_gpus()] == [
        str(of_torch).removeprefix("GPU-") for of_torch in ids
    ]


def test_what_is_claimed_is_still_seen(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(visible_gpus()))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with claim_gpus(1) as claimed:
        assert visible_gpus() == claimed
