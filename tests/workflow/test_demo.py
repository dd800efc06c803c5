"""The demo as `make demo` runs it, on seed 0; benchmarks/demo_seeds.py repeats it on three."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import torch

from adafocus.data.clips import Batch, Clips, EpochSampler, loader
from adafocus.evaluation.metrics import accuracy
from adafocus.model import checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_learned_patches_beat_random_ones(project):
    plan = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (targets,) = re.findall(r"/snakemake --cores all (.*)", plan.stdout)
    run = project.snakemake(*targets.split())
    assert run.returncode == 0, run.stdout + run.stderr
    (name,) = re.findall(r"results/(demo_\d+_stage3)\.json", targets)
    result = json.loads((project.folder / "results" / f"{name}.json").read_text())
    policy = result["metrics"]["top1"]
    random, oracle = (result["baselines"][place]["top1"] for place in ("random", "oracle"))
    assert policy - random >= 20
    assert policy - random >= 0.8 * (oracle - random)
    assert "demo" in (project.folder / "results" / "summary.md").read_text()
    assert (project.folder / "results" / "plots" / f"{name}_sheet.png").stat().st_size < 300_000
    assert "Nothing to be done" in project.snakemake(*targets.split()).stderr
    assert abs(top1_in_bf16(project.folder, name) - policy) <= 0.5


@torch.inference_mode()
def top1_in_bf16(folder, name):
    """What a GPU computes in, here on the CPU."""
    file = folder / "results" / "checkpoints" / f"{name}.safetensors"
    model, recipe = checkpoint.load(file).frozen(), checkpoint.read(file).recipe
    clips = Clips(folder / "data" / "demo", "val", recipe, augment=False, seed=0)
    sampler, device = EpochSampler(len(clips), 0, shuffle=False), torch.device("cpu")
    logits, labels = [], []
    for items in loader(clips, 50, sampler, workers=0, device=device):
        with torch.autocast("cpu", torch.bfloat16):
            logits.append(model(Batch.of(items, device).frames).logits[:, -1])
        labels.append(items["labels"])
    return accuracy(torch.cat(logits), torch.cat(labels))["top1"]
