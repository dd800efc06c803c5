"""Kills a chain at random moments, runs the same command again, and compares what comes out.

Snakemake and all its processes are killed at once (SIGKILL), so that none of them can tidy up, and
every other time the main process alone, whose jobs then meet those of the next. In the end every
figure of the result is that of a chain which nobody disturbed.

    python benchmarks/chaos.py                    30 kills, of a chain of a minute
    python benchmarks/chaos.py --recipe demo      of the demo
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

ROOT = Path(__file__).parents[1]
OF_THE_RUN = {
    "videos_per_second",
    "data_wait_share",
    "peak_memory_gb",
    "mlflow_run_id",
    "git_commit",
}
"""What two runs of the same seed may differ in."""
PARTS = ("data", "results")
SMALL = {
    "patch_sizes": [20],
    "source": {"train": 40, "val": 30, "frames": 8, "visible": 6, "size": 48, "digit": 16},
    "videos": {"train": 40, "val": 30},
    "frames": {"height": 48, "shards": 2},
    "model": {"frames": 4, "frame_size": 48, "glance_size": 16},
}
"""What makes the demo small."""


def run(folder: Path, target: str, seconds: float | None = None, alone: bool = False) -> bool:
    """Runs a chain, and kills it after so many seconds.

    Args:
        alone: whether only the main process is killed.

    Returns:
        Whether it ended before.
    """
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", folder]
    command += ["--snakefile", ROOT / "Snakefile", target]
    log = folder / "snakemake.log"
    with log.open("a") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    if status:
        raise RuntimeError(f"the chain ended with status {status}:\n{log.read_text()[-5000:]}")
    return True


def figures(folder: Path, target: str) -> dict[str, Any]:
    """A result without what two runs may differ in, and with the digest of its weights; of a
    checkpoint that alone."""
    result = {"checkpoint": {"path": target}}
    if target.endswith(".json"):
        result = json.loads((folder / target).read_text())
    with safe_open(folder / result["checkpoint"]["path"], "np") as file:
        result["checkpoint"] = file.metadata()["digest"]
    return {key: value for key, value in result.items() if key not in OF_THE_RUN}


def survive(
    folder: Path, target: str, expected: dict[str, Any], kills: int, seed: int, latest: float = 12
) -> int:
    """Kills a chain so many times, from its first seconds to the ``latest``, and lets it end.

    Where it ends before its time it is compared and begun anew.

    Returns:
        How often it ended with the expected figures.

    Raises:
        RuntimeError: where it fails, has other figures or leaves halves of files behind.
    """
    draw = random.Random(seed)
    ended = dealt = 0
    while dealt < kills or not ended:
        moment = draw.uniform(2, latest) if dealt < kills else None
        alone = dealt % 2 == 1
        if not run(folder, target, moment, alone):
            dealt += 1
            print(f"kill {dealt} after {moment:.1f} s{', of the main process alone' * alone}")
            continue
        ended += 1
        if left := [str(path) for part in PARTS for path in (folder / part).rglob(".*.aside")]:
            raise RuntimeError(f"left behind: {', '.join(left)}")
        if (found := figures(folder, target)) != expected:
            differing = [key for key in expected if found.get(key) != expected[key]]
            raise RuntimeError(f"{folder / target}: differs in {', '.join(differing)}")
        waited = (folder / "snakemake.log").read_text().count(" is at work on it; waiting ")
        print(f"end {ended}: as expected; so far {waited} lines of jobs that waited for others")
        if dealt < kills:
            for part in PARTS:
                shutil.rmtree(folder / part)
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--recipe", choices=("small", "demo"), default="small")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="Of the moments.")
    options = parser.parse_args()
    recipe = yaml.safe_load((ROOT / "config" / "recipes" / "demo.yaml").read_text())
    if options.recipe == "small":
        for key, value in SMALL.items():
            recipe[key] = recipe[key] | value if isinstance(value, dict) else value
        for stage in recipe["stages"].values():
            stage |= {"epochs": 2, "milestones": []}
    config = {"datasets": {}, "device": "cpu", "threads": 1, "checkpoint_minutes": 0.05}
    target = f"results/demo_{recipe['patch_sizes'][0]}_stage3.json"
    with tempfile.TemporaryDirectory() as parent:
        folders = [Path(parent, name) for name in ("undisturbed", "killed")]
        for folder in folders:
            (folder / "config" / "recipes").mkdir(parents=True)
            (folder / "config" / "recipes" / "demo.yaml").write_text(yaml.safe_dump(recipe))
            (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
        started = time.monotonic()
        run(folders[0], target)
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.0f} s; the moments' seed: {options.seed}")
        expected = figures(folders[0], target)
        # Where all is slow it must get beyond its start.
        latest = max(12, seconds / 5)
        ended = survive(folders[1], target, expected, options.kills, options.seed, latest)
    print(f"{options.kills} kills, {ended} chains ended with the figures of the undisturbed one")


if __name__ == "__main__":
    main()
