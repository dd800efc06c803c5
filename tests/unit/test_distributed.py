"""Two processes do what one does."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from socket import socket

import pytest
import torch
from noise import write_noise
from test_engine import TIMINGS
from two_processes import VIDEOS, everything, steady_recipe
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.methods.adafocus import STAGES
from adafocus.model import checkpoint

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
FAMILIES = ("gru", "tsm")
HOW = ("policy", "random")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), VIDEOS)


@pytest.fixture(scope="module")
def together(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("together")
    command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2"]
    command += [HERE / "two_processes.py", folder, out]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(out / "found.pt", weights_only=False)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    return everything(folder, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    "what", [*(f"{f} {stage}" for f in FAMILIES for stage in STAGES), "long joint", "short joint"]
)
def test_a_stage_learns_the_same(together, alone, what):
    (weights, rows), (expected, expected_rows) = (found[what] for found in (together, alone))
    for name, tensor in expected.items():
        assert torch.allclose(weights[name], tensor, rtol=1e-4, atol=1e-4), name
    for row, expected_row in zip(rows, expected_rows, strict=True):
        for name in expected_row.keys() - TIMINGS:
            if name.startswith("val_"):
                assert row[name] == expected_row[name]
            else:
                assert row[name] == pytest.approx(expected_row[name], rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize(
    "what", ["gru evaluation exits", *(f"{f} evaluation {h}" for f in FAMILIES for h in HOW)]
)
def test_an_evaluation_is_the_same_and_counts_each_video_once(together, alone, what):
    found, expected = together[what], alone[what]
    assert found["scores"] == expected["scores"]
    assert torch.equal(found["labels"], expected["labels"])
    assert len(found["labels"]) == VIDEOS["val"]
    assert all(map(torch.equal, found["looks"], expected["looks"]))
    assert torch.equal(found["steps"], expected["steps"])
    for place, logits in expected["logits"].items():
        assert torch.equal(found["logits"][place], logits)


def test_a_calibration_is_the_same(together, alone):
    found, expected = together["calibration"], alone["calibration"]
    assert found["confidence"].shape == (VIDEOS["train"], 4)
    for name in ("confidence", "looked", "gflops_visits"):
        assert (found[name] == expected[name]).all()


def test_a_signal_to_one_process_stops_all_after_the_same_batch(together):
    assert "saved batch 2 of epoch 1" in together["stopped"]
    assert together["saved before any ends"] == [True, True]
    (weights, rows), (expected, expected_rows) = together["cut"], together["gru stage1"]
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    # Their mean is of two parts, each of which was rounded.
    losses, expected_losses = ([row["loss"] for row in of] for of in (rows, expected_rows))
    assert losses == pytest.approx(expected_losses, rel=1e-6)


def test_a_loss_that_is_not_finite_names_the_videos_of_all_processes(together, alone):
    assert "after batch 2 of epoch 1, of the videos train" in alone["broken"]
    assert together["broken"].partition(": look")[0] == alone["broken"].partition(": look")[0]


@pytest.mark.parametrize("where", ["backward", "rollout", "later"])
def test_where_the_memory_of_one_process_is_full_all_go_on_in_smaller_parts(together, where):
    assert together[f"{where} left"] == [1, 0]  # of times that it shall be full
    (weights, rows), (expected, expected_rows) = (
        together[f"{where} {what}"] for what in ("full", "expected")
    )
    if where == "later":  # whose first batch was whole
        close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
        for name, tensor in expected.items():
            close(weights[name], tensor)
        return
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert all(row[name] == expected_row[name] for name in row.keys() - TIMINGS)


def test_a_validation_that_does_not_fit_into_one_process_is_told_to_all(together):
    # The first epoch's batch was whole, the second's in two parts.
    assert together["validation losses"] == [3, 3]


def test_no_room_for_one_video_in_one_process_ends_all(together):
    assert "memory is full (CUDA out of memory in another process)" in together["no room"]


def test_two_machines_train_one_model(folder, tmp_path):
    """Each machine is a torchrun of its own, here both on this one."""
    recipe = steady_recipe("gru")
    stage = recipe.stages.focuser.model_copy(update={"batch_size": 4})
    recipe = recipe.model_copy(
        update={"stages": recipe.stages.model_copy(update={"focuser": stage})}
    )
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def options(out):
        return ["train", "--stage", "focuser", "--device", "cpu", "--threads", "1"] + [
            f"--recipe={recipe.write(tmp_path)}",
            f"--data={folder}",
            f"--output={out / 'focuser.safetensors'}",
            f"--tracking-uri=sqlite:///{tmp_path / 'mlflow.db'}",
        ]

    agents = [
        subprocess.Popen(
            [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
            + [f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=1", "--local-addr=127.0.0.1"]
            + ["-m", "adafocus", *options(tmp_path / "together")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sum("the epoch kept has top1" in one for one in said) == 1
    assert CliRunner().invoke(app, options(tmp_path / "alone")).exit_code == 0
    found, expected = (
        checkpoint.read(tmp_path / name / "focuser.safetensors").tensors
        for name in ("together", "alone")
    )
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-4, atol=1e-4), name
