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

ABSENT = (
    "ffmpeg",
    "hypothesis",
    "mlflow",
    "psutil",
    "pynvml",
    "ray",
    "requests",
    "snakemake",
    "typer",
)


@pytest.mark.slow
def test_every_figure_is_measured(tmp_path):
    """As `gpu.sh` does on a machine that is lent for minutes."""
    command = ["benchmarks/gpu.sh", "--device", "cpu", "--small", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, check=True)
    assert "skipped" in (tmp_path / "tests_cpu.txt").read_text()
    measured = (tmp_path / "memory_cpu.md").read_text()
    assert all(
        f"| {stage} |" in measured for stage in ("focuser", "stage1", "stage2", "stage3", "joint")
    )
    report = json.loads((tmp_path / "speed_cpu.json").read_text())
    assert report["machine"]["torch"] == torch.__version__
    measured = " ".join(row["what"] for row in report["rows"])
    for figure in (
        "prediction",
        "whole frames",
        "stage-1",
        "stage-2",
        "stage-3",
        "device computes",
        "% of frames",
        "Uni-AdaFocus, prediction",
        "actnet-uni",
        "decoding",
        "memory",
    ):
        assert figure in measured
    # A difference of two times at a small size may be anything.
    assert all(row["ours"] > 0 for row in report["rows"] if "the difference" not in row["what"])
    table = (tmp_path / "speed_cpu.md").read_text()
    assert all(row["what"] in table for row in report["rows"])


def test_what_a_gpu_is_asked_needs_the_core_alone():
    """A machine that is lent for minutes has torch and what comes along, and not these."""
    folders = [str(ROOT / folder) for folder in ("benchmarks", "tests/gpu", "tests/unit")]
    code = (
        f"import sys; sys.path[:0] = {folders}; sys.modules |= dict.fromkeys({ABSENT});"
        "import memory, speed, test_gpu"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, check=True)
