"""What each job of the workflow took, from the benchmarks that Snakemake leaves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from adafocus.figures import run_times
from adafocus.machine.files import atomic

JOBS = {
    "download": "download",
    "frames": "frames",
    "splits": "split files",
    "pretrained": "pretrained weights",
    "glancer_stage0": "glancer, stage 0",
    "focuser_stage0": "focuser, stage 0",
    "stage1_sweep": "stage 1, sweep",
    "stage1": "stage 1",
    "stage1_evaluation": "stage 1, evaluation",
    "stage2_sweep": "stage 2, sweep",
    "stage2": "stage 2",
    "stage2_evaluation": "stage 2, evaluation",
    "stage3_sweep": "stage 3, sweep",
    "stage3": "stage 3",
    "stage3_evaluation": "stage 3, evaluation",
    "points": "ways to spend less",
    "curve": "curve",
}
"""Jobs in the order of the chain, and what to call them."""
COLUMNS = (
    "dataset",
    "patch_size",
    "skip_cost",
    "job",
    "label",
    "shards",
    "seconds",
    "cpu_seconds",
    "peak_memory_mb",
    "read_mb",
    "written_mb",
)
BENCHMARK_NAME = re.compile(
    rf"(?P<dataset>[\w-]+?)_(?:(?P<patch>\d+)_)?(?:skip(?P<skip>[\d.]+)_)?(?P<job>{'|'.join(JOBS)})(?:_(?P<shard>\d+))?"
)


def write_runtimes(benchmarks: Path, stem: Path) -> None:
    """Writes ``stem`` plus ``.csv`` and ``.svg`` from all benchmarks of data sets in a folder.

    Args:
        benchmarks: folder of Snakemake's ``*.tsv``, named as the rules of this project name them;
            others are left out.
        stem: path without its ending.
    """
    rows = read_runtimes(sorted(benchmarks.glob("*.tsv")))
    with atomic(stem.with_name(f"{stem.name}.csv")) as aside:
        pd.DataFrame(rows, columns=COLUMNS).astype({"patch_size": "Int64"}).to_csv(
            aside, index=False
        )
    run_times(rows, stem.with_name(f"{stem.name}.svg"))


def read_runtimes(files: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per job, in the order of the chain; shards of one job together.

    Returns:
        Rows of ``dataset``, ``patch_size`` (None where all patch sizes share the job),
        ``skip_cost`` (None where the policy skips no frames), ``job``,
        ``label``, ``shards``, wall-clock ``seconds`` (those of shards added up), ``cpu_seconds``,
        ``peak_memory_mb`` (that of the largest shard), ``read_mb`` and ``written_mb``; None where
        Snakemake could not measure, as the job was over at once.
    """
    jobs: dict[tuple[str, int, float, str], list[pd.Series]] = {}
    for file in files:
        if match := BENCHMARK_NAME.fullmatch(file.stem):
            skip_cost = -1 if match["skip"] is None else float(match["skip"])
            key = (match["dataset"], int(match["patch"] or 0), skip_cost, match["job"])
            jobs.setdefault(key, []).append(pd.read_csv(file, sep="\t", na_values="-").iloc[-1])
    order = list(JOBS)
    rows = []
    for key in sorted(jobs, key=lambda key: (*key[:3], order.index(key[3]))):
        dataset, patch_size, skip_cost, job = key
        parts = pd.DataFrame(jobs[key])
        total = parts[["s", "cpu_time", "io_in", "io_out"]].sum(min_count=1)
        model = [f"{patch_size} px"] * (patch_size > 0)
        model += [f"skip cost {skip_cost:g}"] * (skip_cost >= 0)
        label = ", ".join([*model, JOBS[job]])
        rows.append(
            {
                "dataset": dataset,
                "patch_size": patch_size or None,
                "skip_cost": skip_cost if skip_cost >= 0 else None,
                "job": job,
                "label": label + (f", {len(parts)} shards" if len(parts) > 1 else ""),
                "shards": len(parts),
                "seconds": _known(total["s"]),
                "cpu_seconds": _known(total["cpu_time"]),
                "peak_memory_mb": _known(parts["max_rss"].max()),
                "read_mb": _known(total["io_in"]),
                "written_mb": _known(total["io_out"]),
            }
        )
    return rows


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
