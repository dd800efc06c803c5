"""A command whose processes are all told to end, as a scheduler does it."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from mlflow import MlflowClient
from noise import CLASSES, GRU, SIZE
from torchvision.io import write_jpeg
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.model import checkpoint


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Trains a glancer in a folder, with clips loaded by another process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = tmp_path / "data"
    (data / "splits").mkdir(parents=True)
    (data / "splits" / "classes.txt").write_text("".join(f"{i}\n" for i in range(CLASSES)))
    (data / "video").mkdir()
    write_jpeg(
        torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8), str(data / "video" / "1.jpg")
    )
    for split in ("train", "val"):
        with (data / "splits" / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["video", "path", "frames", "labels"])
            table.writerows([f"{split}{i}", "video", 1, i % CLASSES] for i in range(12))
    stages = GRU["stages"] | {"glancer": GRU["stages"]["glancer"] | {"epochs": 6}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(GRU | {"stages": stages}))

    def build(folder):
        options = {
            "--recipe": tmp_path / "tiny.yaml",
            "--stage": "glancer",
            "--data": data,
            "--output": folder / "glancer.safetensors",
            "--tracking-uri": f"sqlite:///{tmp_path / 'mlflow.db'}",
            "--threads": 1,
            "--device": "cpu",
            "--checkpoint-minutes": 0.001,
        }
        return ["train", *(str(part) for option in options.items() for part in option)]

    return build


def test_all_processes_are_told_to_end_and_the_same_command_goes_on(command, tmp_path):
    cut, straight = tmp_path / "cut", tmp_path / "straight"
    process = subprocess.Popen(
        [sys.executable, "-c", "from adafocus.cli import app; app()", *command(cut)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    while not (cut / "glancer.resume.pt").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM came: saved " in said and "the same command goes on" in said
    assert "Traceback" not in said and "Error" not in said
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")

    def training():
        [experiment] = client.search_experiments(filter_string="name = 'tiny'")
        [found] = client.search_runs([experiment.experiment_id], "tags.kind = 'training'")
        return found

    before = training()
    assert before.info.status == "KILLED"

    done = CliRunner().invoke(app, command(cut))
    assert done.exit_code == 0, done.output
    assert f"going on from {cut / 'glancer.resume.pt'}" in done.output
    after = training()
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert CliRunner().invoke(app, command(straight)).exit_code == 0
    tensors, expected = (
        checkpoint.read(folder / "glancer.safetensors").tensors for folder in (cut, straight)
    )
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert not list(cut.glob("*.previous.pt"))
