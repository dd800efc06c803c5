import csv
import json

import pytest

from adafocus.evaluation.runtimes import read_runtimes, write_runtimes

HEADINGS = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


@pytest.fixture
def benchmark(tmp_path):
    def write(name, seconds, memory="100.0", cpu="2.0"):
        values = [str(seconds), "0:00:01", memory, "0", "0", "0", "3.0", "4.0", "50.0", cpu]
        path = tmp_path / f"{name}.tsv"
        path.write_text(HEADINGS + "\t".join(values) + "\n")
        return path

    return write


def test_jobs_are_in_the_order_of_the_chain(benchmark):
    names = ["summary", "own_set_download", "own_set_128_stage2", "own_set_96_stage3_evaluation"]
    names += ["own_set_glancer_stage0", "own_set_128_stage1", "actnet_splits"]
    names += ["own_set_128_skip0.05_points", "own_set_128_skip0.05_stage2", "own_set_curve"]
    rows = read_runtimes([benchmark(name, 1) for name in names])
    assert [(row["dataset"], row["label"]) for row in rows] == [
        ("actnet", "split files"),
        ("own_set", "download"),
        ("own_set", "glancer, stage 0"),
        ("own_set", "curve"),
        ("own_set", "96 px, stage 3, evaluation"),
        ("own_set", "128 px, stage 1"),
        ("own_set", "128 px, stage 2"),
        ("own_set", "128 px, skip cost 0.05, stage 2"),
        ("own_set", "128 px, skip cost 0.05, ways to spend less"),
    ]
    assert [row["patch_size"] for row in rows[2:]] == [None, None, 96, 128, 128, 128, 128]
    assert [row["skip_cost"] for row in rows[-3:]] == [None, 0.05, 0.05]


def test_each_seed_has_jobs_of_its_own(benchmark):
    names = ["demo_glancer_seed1_stage0", "demo_glancer_stage0", "demo_28_skip0.05_seed12_stage3"]
    names += ["demo_28_seed2_stage3_evaluation", "demo_28_seed2_stage2_sweep", "x_128_64_stage1"]
    rows = read_runtimes([benchmark(name, 1) for name in (*names, "demo_28_stage3_seeds", "x_64_")])
    assert [(row["dataset"], row["seed"], row["label"]) for row in rows] == [
        ("demo", None, "glancer, stage 0"),
        ("demo", 1, "seed 1, glancer, stage 0"),
        ("demo", 2, "28 px, seed 2, stage 2, sweep"),
        ("demo", 2, "28 px, seed 2, stage 3, evaluation"),
        ("demo", 12, "28 px, skip cost 0.05, seed 12, stage 3"),
        ("x_128", None, "64 px, stage 1"),
    ]
    assert [row["patch_size"] for row in rows] == [None, None, 28, 28, 28, 64]


def test_shards_count_together(benchmark):
    files = [benchmark(f"demo_frames_{n}", n + 1, memory=f"{100 * n}.5") for n in range(11)]
    [row] = read_runtimes(files)
    assert row == {
        "dataset": "demo",
        "patch_size": None,
        "skip_cost": None,
        "seed": None,
        "job": "frames",
        "label": "frames, 11 shards",
        "shards": 11,
        "seconds": 66.0,
        "cpu_seconds": 22.0,
        "peak_memory_mb": 1000.5,
        "read_mb": 33.0,
        "written_mb": 44.0,
        "cpu_joules": None,
        "gpu_joules": None,
    }


def test_energy_stands_beside_a_benchmark(benchmark):
    files = [benchmark(f"demo_frames_{n}", 1) for n in range(2)]
    told = files[0].with_name("demo_frames_0.energy.json")
    told.write_text(json.dumps({"cpu_joules": 5.5}))
    [row] = read_runtimes(files)
    assert row["cpu_joules"] is None  # of one shard alone
    files[1].with_name("demo_frames_1.energy.json").write_text(told.read_text())
    [row] = read_runtimes(files)
    assert (row["cpu_joules"], row["gpu_joules"]) == (11.0, None)


@pytest.mark.parametrize("unknown", ["NA", "-"])
def test_what_could_not_be_measured_is_left_blank(benchmark, tmp_path, unknown):
    benchmark("demo_splits", 0.2, memory=unknown, cpu=unknown)
    write_runtimes(tmp_path, tmp_path / "runtimes")
    with (tmp_path / "runtimes.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["seconds"], row["cpu_seconds"], row["peak_memory_mb"]) == ("0.2", "", "")
    assert (tmp_path / "runtimes.svg").stat().st_size > 1000


def test_no_benchmarks(tmp_path):
    write_runtimes(tmp_path, tmp_path / "runtimes")
    assert (tmp_path / "runtimes.csv").read_text().startswith("dataset,patch_size,")
    assert (tmp_path / "runtimes.svg").stat().st_size > 1000
