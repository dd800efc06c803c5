"""Two processes do what one does."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from noise import write_noise
from test_engine import TIMINGS
from two_processes import VIDEOS, everything

from adafocus.training import STAGES

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
FAMILIES = ("gru", "tsm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), VIDEOS)


@pytest.fixture(scope="module")
def together(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("together")
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"]
    command += [HERE / "two_processes.py", folder, out]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(out / "found.pt", weights_only=False)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    return everything(folder, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stage_learns_the_same(together, alone, family, stage):
    (weights, rows), (expected, expected_rows) = (
        found[f"{family} {stage}"] for found in (together, alone)
    )
    for name, tensor in expected.items():
        assert torch.allclose(weights[name], tensor, rtol=1e-4, atol=1e-4), name
    for row, expected_row in zip(rows, expected_rows, strict=True):
        for name in expected_row.keys() - TIMINGS:
            if name.startswith("val_"):
                assert row[name] == expected_row[name]
            else:
                assert row[name] == pytest.approx(expected_row[name], rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize("with_policy", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_evaluation_is_the_same_and_counts_each_video_once(together, alone, family, with_policy):
    found, expected = (them[f"{family} evaluation {with_policy}"] for them in (together, alone))
    assert found["scores"] == expected["scores"]
    assert torch.equal(found["labels"], expected["labels"])
    assert len(found["labels"]) == VIDEOS["val"]
    assert torch.equal(found["corners"], expected["corners"])
    for place, logits in expected["logits"].items():
        assert torch.allclose(found["logits"][place], logits, atol=1e-5)


def test_a_signal_to_one_process_stops_all_after_the_same_batch(together):
    assert "saved batch 2 of epoch 1" in together["stopped"]
    (weights, rows), (expected, expected_rows) = together["cut"], together["gru stage1"]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected_rows]


def test_a_loss_that_is_not_finite_names_the_videos_of_all_processes(together, alone):
    assert "after batch 2 of epoch 1, of the videos train" in alone["broken"]
    assert together["broken"].partition(": look")[0] == alone["broken"].partition(": look")[0]
