"""Chains that commit 78f3339 has finished, under the workflow of now."""

import json
import os
import sqlite3
from contextlib import closing

import pandas as pd
import pytest

from adafocus.machine.files import sha256

pytestmark = pytest.mark.slow
CHAIN = ("pets_glancer_stage0", "pets_focuser_stage0", "pets_16_stage1", "pets_16_stage2")
CHAIN = (*CHAIN, "pets_16_stage3")


def stores(project):
    found = project.folder.glob("data/*/frames/**/*.zip")
    return {path: (path.stat().st_mtime_ns, sha256(path)) for path in found}


def states(project):
    return {path: sha256(path) for path in project.folder.glob("results/checkpoints/*.resume.pt")}


def runs(project):
    with closing(sqlite3.connect(project.folder / "results" / "mlflow.db")) as store:
        return sorted(name for (name,) in store.execute("select name from runs"))


def log(project, name):
    return (project.folder / "results" / "logs" / f"{name}.log").read_text()


def test_videos_are_not_brought_again(finished_project):
    targets = [f"data/{name}/splits/train.csv" for name in ("digits", "pets", "signs")]
    assert finished_project.planned(*targets) == {"frames": 4, "splits": 3}


def test_jobs_run_again_but_train_and_extract_nothing(finished_project):
    project = finished_project
    before = stores(project), states(project)
    assert len(before[0]) == 18 and len(before[1]) == 12
    runs_before = runs(project)
    targets = ["results/pets_16_stage3.json", "data/digits/splits/train.csv"]
    run = project.snakemake("--forceall", *targets)
    assert run.returncode == 0, run.stderr
    assert (stores(project), states(project)) == before
    assert runs(project) == sorted([*runs_before, "pets_16_stage3_evaluation"])
    for name in CHAIN:
        assert "trained before" in log(project, name)
        took = pd.read_csv(project.folder / f"results/benchmarks/{name}.tsv", sep="\t")["s"].item()
        assert took < 60, "seconds, on a busy machine"
    assert "Nothing to be done" in project.snakemake(*targets).stderr
    in_an_image = project.snakemake("--config", "container=later.sif", "--dry-run", *targets)
    assert "Nothing to be done" in in_an_image.stdout + in_an_image.stderr

    labels = project.folder / "config" / "recipes" / "pets.csv"
    before = labels.read_text()
    labels.write_text(before.replace("dog/0,train,dog", "dog/0,train,cat"))
    assert project.planned("data/pets/splits/train.csv") == {"splits": 1}
    labels.write_text(before)
    (project.folder / "data" / "pets" / "changed" / "annotations").unlink()


def test_a_replaced_video_is_noticed_though_the_listing_tells_no_times(finished_project):
    """One that is older, of as many frames, and as large."""
    project, table = finished_project, "data/pets/splits/train.csv"
    assert project.planned(table) == {}
    first, other = (project.folder / "my videos" / name / "1.mp4" for name in ("cat", "dog"))
    found, content = first.stat(), other.read_bytes()
    first.write_bytes(content.ljust(found.st_size, b"\0")[: max(found.st_size, len(content))])
    os.utime(first, (found.st_atime, found.st_mtime - 1000))
    assert project.planned(table) == {"download": 1, "frames": 2, "splits": 1}
    run = project.snakemake(table)
    assert run.returncode == 0, run.stderr
    report = json.loads((project.folder / "data" / "pets" / "splits" / "report.json").read_text())
    replaced = {**report["train"].get("replaced", {}), **report["val"].get("replaced", {})}
    assert list(replaced) == ["cat/1"]


def test_a_stage_is_trained_anew_where_that_is_asked_for(finished_project):
    project = finished_project
    before = states(project)
    anew = ["--forcerun", "stage3", "--config", "anew=monday", "--", "results/pets_16_stage3.json"]
    for said in ("not of 'monday'", "trained before"):
        run = project.snakemake(*anew)
        assert run.returncode == 0, run.stderr
        assert said in log(project, "pets_16_stage3")
    changed = {path.name for path, digest in states(project).items() if digest != before[path]}
    assert changed == {"pets_16_stage3.resume.pt"}
