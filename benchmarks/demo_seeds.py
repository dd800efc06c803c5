"""The demo on several seeds: does the learned policy beat random patches, and cost less for little?

    python benchmarks/demo_seeds.py FOLDER

Runs the whole chain for each seed in a folder of its own within FOLDER (the videos are made once),
then the curve of ways to spend less, prints a line for each and writes
benchmarks/results/demo_seeds.json. Takes about fifteen minutes per seed; what is in FOLDER already
is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch
import yaml
from machine import machine

from adafocus.evaluation.curves import SHARE, accuracy_at

ROOT = Path(__file__).parents[1]
RESULT, CURVE = "results/demo_28_stage3.json", "results/curves/demo.csv"
SEEDS = (0, 1, 2)


def measure(seed: int, folder: Path, data: Path) -> dict[str, float]:
    """Accuracy of one seed's final checkpoint, its baselines and its cheaper ways."""
    shutil.copytree(ROOT / "config", folder / "config", dirs_exist_ok=True)
    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    # What a run rounds depends on how many threads share its sums.
    config |= {"seed": seed, "datasets": {"demo": [28]}, "threads": 1}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    if not (folder / "data").exists():
        (folder / "data").symlink_to(data)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "all"]
    for target in (RESULT, CURVE):
        subprocess.run([*command, target, "--quiet", "all"], check=True)
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
        "at_60_percent": cheaper(pd.read_csv(folder / CURVE), SHARE),
    }


def cheaper(points: pd.DataFrame, share: float) -> dict[str, float]:
    """Accuracy of each way to spend no more than that share of the plain model's GFLOPs.

    Between the points of a way along a straight line; ``skipping`` from the plain model on through
    those that skip frames. ``both`` is the best of these: one that is cheap enough as it is, or one
    that leaves videos early.

    Args:
        points: of one patch size, see `adafocus.evaluation.curves`.
    """
    skips = points["skip_cost"].notna()
    plain = points[~skips & (points["way"] == "all frames")]
    cost = share * plain["gflops"].item()

    def at_cost(way: str, chosen: pd.Series) -> float:
        line = points[chosen & (points["way"] == way)]
        if way in ("all frames", "random frames"):
            line = pd.concat([plain, line])
        return accuracy_at(line, cost)

    costs = points.loc[skips, "skip_cost"].unique()
    cheap_enough = points[skips & (points["way"] == "all frames") & (points["gflops"] <= cost)]
    return {
        "all_frames": plain["accuracy"].item(),
        "conditional_exit": at_cost("conditional exit", ~skips),
        "skipping": at_cost("all frames", skips),
        "both": max(
            [at_cost("conditional exit", points["skip_cost"] == one) for one in costs]
            + cheap_enough["accuracy"].tolist()
        ),
        "random_exit": at_cost("random exit", ~skips),
        "random_frames": at_cost("random frames", skips),
        "fewer_frames": at_cost("fewer frames", ~skips),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in SEEDS:
        rows.append(measure(seed, folder / f"seed{seed}", data))
        print(json.dumps(rows[-1]), flush=True)
    report = {
        "what": "top-1 in percent of one final checkpoint per seed, by where the patches lie",
        "machine": machine(torch.device("cpu")),
        "seeds": rows,
    }
    output = ROOT / "benchmarks" / "results" / "demo_seeds.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {output.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
