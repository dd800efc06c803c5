"""The demo on several seeds: does the learned policy beat random patches on each?

    python benchmarks/demo_seeds.py

Runs the whole chain for each seed in a folder of its own (the videos are made once), prints a table
and writes benchmarks/results/demo_seeds.json. Takes some minutes per seed.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULT = "results/demo_28_stage3.json"
SEEDS = (0, 1, 2)


def measure(seed: int, folder: Path, data: Path) -> dict[str, float]:
    """Accuracy of one seed's final checkpoint and its baselines, and what the chain took."""
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "data").symlink_to(data)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += [RESULT, "--directory", str(folder), "--cores", "all", "--quiet", "all"]
    started = time.monotonic()
    subprocess.run([*command, "--config", f"seed={seed}"], check=True)
    minutes = (time.monotonic() - started) / 60
    result = json.loads((folder / RESULT).read_text())
    policy = result["metrics"]["top1"]
    baselines = {name: scores["top1"] for name, scores in result["baselines"].items()}
    random, oracle = baselines["random"], baselines["oracle"]
    return {
        "seed": seed,
        "policy": policy,
        **baselines,
        "above_random": policy - random,
        "share_of_oracles_gain": 100 * (policy - random) / (oracle - random),
        "minutes": minutes,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary, "data")
        data.mkdir()
        rows = []
        for seed in SEEDS:
            rows.append(measure(seed, Path(temporary, f"seed{seed}"), data))
            print({name: round(value, 1) for name, value in rows[-1].items()}, flush=True)
    report = {
        "what": "top-1 in percent of one final checkpoint per seed, by where the patches lie",
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "seeds": rows,
    }
    output = ROOT / "benchmarks" / "results" / "demo_seeds.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {output.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
