"""What each job of the workflow took, from the benchmarks that Snakemake leaves and the energy that
scripts leave beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adafocus.figures import run_times
from adafocus.machine.files import atomic
from adafocus.recipe import SPECS, Phase, StageSpec
from adafocus.recipe.experiment import SKIP


def _of_stage(spec: StageSpec) -> dict[str, str]:
    """The jobs of one stage."""
    job, label = _job(spec), "training" if spec.number is None else spec.title
    if not spec.of_patch_size:
        return {job: label}
    return {
        f"{job}_sweep": f"{label}, sweep",
        job: label,
        f"{job}_evaluation": f"{label}, evaluation",
    }


def _job(spec: StageSpec) -> str:
    return f"{'' if spec.of_patch_size else spec.name}{spec.ending}".strip("_") or "training"


JOBS = {
    "download": "download",
    "frames": "frames",
    "splits": "split files",
    "pretrained": "pretrained weights",
    **{job: label for spec in SPECS.values() for job, label in _of_stage(spec).items()},
    "points": "ways to spend less",
    "curve": "curve",
}
"""Jobs in the order of the chain, and what to call them."""
COLUMNS = (
    "dataset",
    "patch_size",
    "skip_cost",
    "seed",
    "job",
    "label",
    "shards",
    "seconds",
    "cpu_seconds",
    "peak_memory_mb",
    "read_mb",
    "written_mb",
    "cpu_joules",
    "gpu_joules",
)
BENCHMARK_NAME = re.compile(
    r"(?P<dataset>[\w-]+?)_(?:(?P<patch>\d+)_)?(?:skip(?P<skip>[\d.]+)_)?"
    r"(?P<job>download|frames(?=_\d)|splits|pretrained|points|curve)(?:_\d+)?"
)
"""Names of benchmarks that are not called after a phase of training."""


def write_runtimes(benchmarks: Path, stem: Path) -> None:
    """Writes ``stem`` plus ``.csv`` and ``.svg`` from all benchmarks of data sets in a folder.

    Args:
        benchmarks: folder of Snakemake's ``*.tsv``, named as the rules of this project name them;
            others are left out.
        stem: path without its ending.
    """
    rows = read_runtimes(sorted(benchmarks.glob("[!.]*.tsv")))
    with atomic(stem.with_name(f"{stem.name}.csv")) as aside:
        pd.DataFrame(rows, columns=COLUMNS).astype({"patch_size": "Int64", "seed": "Int64"}).to_csv(
            aside, index=False
        )
    run_times(rows, stem.with_name(f"{stem.name}.svg"))


def read_runtimes(files: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per job, in the order of the chain; shards of one job together.

    Returns:
        Rows of ``dataset``, ``patch_size`` (None where all patch sizes share the job),
        ``skip_cost`` (None where the policy skips no frames), ``seed`` (None where its name tells
        none), ``job``, ``label``, ``shards``, wall-clock ``seconds`` (those of shards added up),
        ``cpu_seconds``, ``peak_memory_mb`` (that of the largest shard), ``read_mb`` and
        ``written_mb``; None where Snakemake could not measure, as the job was over at once. Then
        ``cpu_joules`` and ``gpu_joules``, see `adafocus.machine.energy`; None where the machine
        did not tell.
    """
    jobs: dict[tuple[str, int, float, int, str], list[dict[str, Any]]] = {}
    for file in files:
        if key := _key(file.stem):
            measured = pd.read_csv(file, sep="\t", na_values="-").iloc[-1]
            jobs.setdefault(key, []).append({**measured, **_energy(file)})
    order = list(JOBS)
    rows = []
    for key in sorted(jobs, key=lambda key: (*key[:4], order.index(key[4]))):
        dataset, patch_size, skip_cost, seed, job = key
        parts = pd.DataFrame(jobs[key])
        total = parts[["s", "cpu_time", "io_in", "io_out"]].sum(min_count=1)
        energy = parts[["cpu_joules", "gpu_joules"]].sum(min_count=len(parts))
        model = [f"{patch_size} px"] * (patch_size > 0)
        model += [f"skip cost {skip_cost:g}"] * (skip_cost >= 0)
        model += [f"seed {seed}"] * (seed > 0)
        label = ", ".join([*model, JOBS[job]])
        rows.append(
            {
                "dataset": dataset,
                "patch_size": patch_size or None,
                "skip_cost": skip_cost if skip_cost >= 0 else None,
                "seed": seed or None,
                "job": job,
                "label": label + (f", {len(parts)} shards" if len(parts) > 1 else ""),
                "shards": len(parts),
                "seconds": _known(total["s"]),
                "cpu_seconds": _known(total["cpu_time"]),
                "peak_memory_mb": _known(parts["max_rss"].max()),
                "read_mb": _known(total["io_in"]),
                "written_mb": _known(total["io_out"]),
                "cpu_joules": _known(energy["cpu_joules"]),
                "gpu_joules": _known(energy["gpu_joules"]),
            }
        )
    return rows


def _energy(benchmark: Path) -> dict[str, float]:
    """``cpu_joules`` and ``gpu_joules`` of a job, by its benchmark; NaN where there is none."""
    path = benchmark.with_name(f"{benchmark.stem}.energy.json")
    told = json.loads(path.read_text()) if path.exists() else {}
    return {name: told.get(name, float("nan")) for name in ("cpu_joules", "gpu_joules")}


def _key(name: str) -> tuple[str, int, float, int, str] | None:
    """Data set, patch size, skip cost, seed and job of a benchmark; 0 and, of the skip cost, -1 for
    what its name does not tell. None where it is not one of these jobs."""
    if match := BENCHMARK_NAME.fullmatch(name):
        skip_cost = -1 if match["skip"] is None else float(match["skip"])
        return match["dataset"], int(match["patch"] or 0), skip_cost, 0, match["job"]
    base, ending = next(
        (name.removesuffix(ending), ending)
        for ending in ("_sweep", "_evaluation", "")
        if name.endswith(ending)
    )
    phase = Phase.parse(base)
    if phase is None:
        return None
    skip_cost = float(phase.suffix.removeprefix(SKIP)) if phase.suffix else -1
    job = f"{_job(SPECS[phase.stage])}{ending}"
    return phase.experiment, phase.patch_size or 0, skip_cost, phase.seed or 0, job


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
