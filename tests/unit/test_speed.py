"""The benchmark runs from end to end at a small size; what it measures there says nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}


@pytest.mark.slow
def test_every_figure_is_measured(tmp_path):
    command = [sys.executable, "benchmarks/speed.py", "--small", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    report = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert report["machine"]["torch"] == torch.__version__
    measured = " ".join(row["what"] for row in report["rows"])
    for figure in (
        "prediction",
        "whole frames",
        "stage-1",
        "stage-2",
        "stage-3",
        "epoch",
        "% of frames",
        "memory",
    ):
        assert figure in measured
    assert all(row["ours"] > 0 for row in report["rows"])
    table = (tmp_path / "speed_cpu.md").read_text()
    assert all(row["what"] in table for row in report["rows"])


@pytest.mark.gpu
def test_every_figure_is_measured_on_a_gpu(tmp_path):
    command = ["benchmarks/gpu.sh", "--small", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    assert json.loads((tmp_path / "speed_cuda.json").read_text())["rows"]
