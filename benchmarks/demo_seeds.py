"""The demo of both methods on several seeds: what do learned looks gain, and what does less cost?

    python benchmarks/demo_seeds.py FOLDER

Trains Uni-AdaFocus and AdaFocus' whole chain for each seed in a folder of its own within FOLDER
(the videos are made once), then the curve of AdaFocus' ways to spend less, prints a line for each
and writes benchmarks/results/demo_seeds.json. Takes about twenty-five minutes per seed; what is in
FOLDER already is not made again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from machine import machine

from adafocus.evaluation.curves import SHARE, accuracy_at

ROOT = Path(__file__).parents[1]
UNI, RESULT = "results/demo-uni_28.json", "results/demo_28_stage3.json"
CURVE = "results/curves/demo.csv"
TRAININGS = {
    "uni_adafocus": ["demo-uni_28"],
    "adafocus": ["demo_glancer_stage0", "demo_focuser_stage0"]
    + [f"demo_28_stage{number}" for number in (1, 2, 3)],
}
"""The jobs that train each method, as their files in results/benchmarks are called."""
SEEDS = (0, 1, 2)


def measure(seed: int, folder: Path, data: Path) -> dict[str, Any]:
    """Figures of one seed's final checkpoint of each method."""
    shutil.copytree(ROOT / "config", folder / "config", dirs_exist_ok=True)
    config = yaml.safe_load((folder / "config" / "config.yaml").read_text())
    # What a run rounds depends on how many threads share its sums.
    config |= {"seed": seed, "datasets": {"demo": [28], "demo-uni": [28]}, "threads": 1}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    if not (folder / "data").exists():
        (folder / "data").symlink_to(data)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--cores", "all", "--quiet", "all"]
    subprocess.run([*command, "--", UNI, RESULT, CURVE], check=True)
    uni, chain = (of_baselines(json.loads((folder / name).read_text())) for name in (UNI, RESULT))
    for method, found in (("uni_adafocus", uni), ("adafocus", chain)):
        found["training_cpu_seconds"] = training_seconds(folder / "results" / "benchmarks", method)
    random, oracle = chain["random"], chain["oracle"]
    return {
        "seed": seed,
        "uni_adafocus": uni | {"above_random_even": uni["learned"] - uni["random_even"]},
        "adafocus": chain
        | {
            "above_random": chain["learned"] - random,
            "share_of_oracles_gain": 100 * (chain["learned"] - random) / (oracle - random),
            "at_60_percent": cheaper(pd.read_csv(folder / CURVE), SHARE),
        },
    }


def of_baselines(result: dict[str, Any]) -> dict[str, float]:
    """Top-1 of a result's learned looks and of its baselines, and GFLOPs."""
    baselines = {name: scores["top1"] for name, scores in result["baselines"].items()}
    gflops = round(result["gflops_per_video"], 4)
    return {"gflops": gflops, "learned": result["metrics"]["top1"], **baselines}


def training_seconds(benchmarks: Path, method: str) -> float:
    """Processor time of a method's trainings, when they last ran."""
    tables = (pd.read_csv(benchmarks / f"{job}.tsv", sep="\t") for job in TRAININGS[method])
    return round(sum(table["cpu_time"].sum() for table in tables), 1)


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
        "what": "top-1 in percent of one final checkpoint per seed and method, by where it looks",
        "machine": machine(torch.device("cpu")),
        "seeds": rows,
    }
    output = ROOT / "benchmarks" / "results" / "demo_seeds.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written: {output.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
