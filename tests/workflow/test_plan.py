"""What the workflow plans to do, and what it refuses before it does anything."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHAIN = {
    "pretrained": 1,
    "download": 1,
    "splits": 1,
    "train_glancer": 1,
    "train_focuser": 1,
    "stage1": 1,
    "stage2": 1,
    "stage3": 1,
    "evaluate": 1,
}


@pytest.mark.parametrize(
    ("target", "frames"),
    [
        ("actnet_128", 64),
        ("fcvid_192", 128),
        ("minik_160", 128),
        ("sthv1_144", 64),
        ("sthv2_176", 128),
        ("jester_144", 64),
        ("ucf101_128", 32),
        ("ucf101-split2_128", 32),
        ("hmdb51_128", 16),
    ],
)
def test_one_result_takes_the_whole_chain(project, target, frames):
    planned = project.planned(f"results/{target}_stage3.json")
    assert planned == CHAIN | {"frames": frames}


@pytest.mark.parametrize(
    ("target", "frames"), [("actnet-uni_128", 64), ("sthv1-uni-8_96", 64), ("ucf101-uni_96", 32)]
)
def test_a_result_of_a_method_without_stages_takes_one_training(project, target, frames):
    before = ("pretrained", "download", "splits", "evaluate")
    planned = project.planned(f"results/{target}.json")
    assert planned == dict.fromkeys(before, 1) | {"frames": frames, "joint": 1}


def test_a_workflow_that_takes_this_one_as_a_module_keeps_its_own_default(project):
    outer = project.folder / "Snakefile"
    outer.write_text(
        f'module af:\n    snakefile: "{project.snakefile}"\n'
        "use rule * from af as af_*\n"
        'rule mine:\n    output: "mine.txt"\n    shell: "touch {output}"\n'
    )
    project.snakefile = outer
    assert project.planned() == {"mine": 1}


def test_models_that_skip_frames_start_from_the_plain_stage_2(project):
    skipping = "results/actnet_128_skip0.02_stage3.json"
    assert project.planned(skipping) == CHAIN | {"frames": 64, "stage2": 2}
    planned = project.planned("results/actnet_128_stage3.json", skipping)
    assert planned == CHAIN | {"frames": 64, "stage2": 2, "stage3": 2, "evaluate": 2}


def test_a_curve_takes_all_models(project):
    planned = project.planned("results/curves/actnet.csv")
    sizes, models = 3, 3 * 4
    expected = {k: n for k, n in CHAIN.items() if k != "evaluate"} | {"frames": 64}
    expected |= {"stage1": sizes, "stage2": models, "stage3": models, "points": models}
    assert planned == expected | {"curve": 1}


def test_an_experiment_that_extends_another_shares_what_does_not_differ(project):
    of_both = ["results/demo_28_stage3.json", "results/demo-gamma9_28_stage3.json"]
    chain = {name: n for name, n in CHAIN.items() if name != "pretrained"} | {"frames": 2}
    assert project.planned(of_both[1]) == chain, "once each, what is demo's too"
    assert project.planned(*of_both) == chain | {"stage2": 2, "stage3": 2, "evaluate": 2}
    said = project.snakemake("--dry-run", of_both[1]).stdout
    assert "demo-gamma9 extends demo; other: stages.stage2.gamma 0.9 (0.2)" in said
    assert "demo-gamma9_28_stage1 is shared: demo_28_stage1" in said


def test_seeds_share_videos_frames_and_splits_and_nothing_else(project):
    project.edit("config.yaml", "seed", value=None)
    project.edit("config.yaml", "seeds", value=[0, 1, 2])
    data = {"download": 1, "frames": 2, "splits": 1}
    once = {"train_glancer": 3, "train_focuser": 3, "seeds": 3, "summary": 1, "demo": 1}
    each = dict.fromkeys(("stage1", "stage2", "stage3", "evaluate"), 3 * 3)
    assert project.planned("demo") == data | once | each
    of_both = ["results/demo_28_stage3.seeds.json", "results/demo-gamma9_28_stage3.seeds.json"]
    once |= {"seeds": 2, "stage1": 3}
    planned = project.planned(*of_both)
    own = dict.fromkeys(("stage2", "stage3", "evaluate"), 2 * 3)
    assert planned == data | {k: n for k, n in once.items() if k not in ("summary", "demo")} | own
    said = project.snakemake("--dry-run", of_both[1], "results/sweeps/demo_28_seed1_stage3.json")
    for seed in ("", "_seed1", "_seed2"):
        line = f"demo-gamma9_28{seed}_stage1 is shared: demo_28{seed}_stage1"
        assert line in said.stdout.splitlines()
    assert "results/sweeps/demo_28_seed1_stage3.json" in said.stdout


def test_a_seed_is_told_by_the_names_of_its_own_chain(project):
    """Also where the list of seeds is another one by now."""
    said = project.snakemake("--dry-run", "results/demo_28_seed7_stage3.json").stdout
    assert "results/checkpoints/demo_glancer_seed7_stage0.safetensors" in said
    assert "training the policy that picks patches of 28 pixels (stage 2, seed 7)" in said
    assert "demo_28_stage" not in said


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("data/demo-gamma9/splits/train.csv", ["no data of its own", "data/demo"]),
        (
            "results/checkpoints/demo-gamma9_28_stage1.safetensors",
            ["demo-gamma9_28_stage1 is not trained", "use results/checkpoints/demo_28_stage1."],
        ),
        (
            "results/checkpoints/demo-gamma9_glancer_stage0.safetensors",
            ["not trained", "use results/checkpoints/demo_glancer_stage0.safetensors"],
        ),
    ],
)
def test_what_is_shared_is_not_made_under_another_name(project, target, expected):
    line = project.refused(target)
    assert all(part in line for part in expected), line


def test_earlier_stages_can_be_evaluated(project):
    planned = project.planned("results/actnet_128_stage1.json")
    assert planned == {k: n for k, n in CHAIN.items() if k not in ("stage2", "stage3")} | {
        "frames": 64
    }


def test_a_sweep_takes_what_its_stage_starts_from(project):
    planned = project.planned("results/sweeps/actnet_128_stage2.json")
    before = {k: n for k, n in CHAIN.items() if k not in ("stage2", "stage3", "evaluate")}
    assert planned == before | {"frames": 64, "sweep": 1}


def test_a_sweep_of_what_is_no_number_of_its_recipe_is_refused(project):
    project.edit("config.yaml", "sweep", value={"numbers": {"stages.stage2.gama": [0, 1]}})
    line = project.refused("results/sweeps/actnet_128_stage2.json")
    assert "actnet: stages.stage2.gama is no number" in line


def test_stages_wait_for_sweeps_where_their_best_rates_are_used(project):
    project.edit("config.yaml", "sweep", value={"use_best": True})
    planned = project.planned("results/actnet_128_stage3.json")
    assert planned == CHAIN | {"frames": 64, "sweep": 3}
    planned = project.planned("results/actnet_128_skip0.02_stage3.json")
    assert planned == CHAIN | {"frames": 64, "stage2": 2, "sweep": 3}


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_all_is_five_data_sets_times_three_patch_sizes(project, snakefile):
    project.snakefile = ROOT / snakefile
    planned = project.planned()
    assert planned == {
        "pretrained": 5,
        "download": 5,
        "frames": 64 + 128 + 128 + 64 + 128,
        "splits": 5,
        "train_glancer": 5,
        "train_focuser": 5,
        "stage1": 15,
        "stage2": 15,
        "stage3": 15,
        "evaluate": 15,
        "summary": 1,
        "all": 1,
    }


@pytest.mark.parametrize(("dataset", "sizes"), [("demo", 3), ("actnet", 3)])
def test_a_data_sets_name_is_a_target(project, dataset, sizes):
    """Patch sizes are the configuration's, or the recipe's where the configuration has none."""
    planned = project.planned(dataset)
    assert (planned["train_glancer"], planned["stage3"], planned["evaluate"]) == (1, sizes, sizes)
    assert planned["summary"] == 1


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "results/foo_128_stage3.json",
            ["'foo'", "actnet, actnet-uni, demo, demo-gamma9, demo-uni, fcvid"],
        ),
        ("results/checkpoints/foo_glancer_stage0.safetensors", ["'foo'", "actnet"]),
        ("results/actnet_100_stage3.json", ["100", "actnet", "96, 128, 160, 192"]),
        ("results/checkpoints/sthv1_128_stage1.safetensors", ["128", "sthv1", "144, 160, 176"]),
        ("results/actnet_128_skip0.3_stage3.json", ["0.3", "actnet", "0.01, 0.02, 0.05"]),
        ("results/sthv1_144_skip0.01_stage3.json", ["0.01", "sthv1", "skip_costs: none"]),
        ("results/actnet_128_skip0.01_stage1.json", ["actnet", "stage 1 has no policy"]),
        ("results/actnet_128.json", ["actnet", "without stages", "results/actnet_96_stage3.json"]),
        ("results/actnet_128_seed0_stage3.json", ["actnet", "seed 0", "leave out _seed0"]),
        ("results/actnet_128_stage3.seeds.json", ["config/config.yaml: seeds: is not there"]),
    ],
)
def test_a_target_without_recipe_is_one_line(project, target, expected):
    line = project.refused(target)
    assert all(part in line for part in expected), line


@pytest.mark.parametrize(
    ("edit", "value", "expected"),
    [
        (("config.yaml", "sede"), 1, ["config/config.yaml", "'sede'", "seed"]),
        (("config.yaml", "datasets", "foo"), [128], ["datasets.foo", "allowed: actnet"]),
        (("config.yaml", "datasets", "sthv2"), [128], ["datasets.sthv2", "144, 160, 176"]),
        (
            ("recipes/actnet.yaml", "stages", "stage2", "gamm"),
            0.7,
            ["config/recipes/actnet.yaml", "stages.stage2", "'gamm'", "gamma"],
        ),
        (
            ("config.yaml", "pretrained"),
            {"actnet_128_stage4": "x"},
            ["pretrained.actnet_128_stage4", "actnet_glancer_stage0"],
        ),
        (
            ("config.yaml", "pretrained"),
            {"actnet_128_stage2": "missing.safetensors"},
            ["pretrained.actnet_128_stage2", "missing.safetensors", "not a checkpoint"],
        ),
        (
            ("recipes/sthv1.yaml", "model", "frames"),
            "twelve",
            ["config/recipes/sthv1.yaml", "model.frames", "integer"],
        ),
    ],
)
def test_a_wrong_entry_is_one_line(project, edit, value, expected):
    project.edit(*edit, value=value)
    line = project.refused("results/actnet_128_stage3.json")
    assert all(part in line for part in expected), line


def test_an_experiment_is_not_called_as_a_rule(project):
    recipes = project.folder / "config" / "recipes"
    text = (recipes / "demo-gamma9.yaml").read_text()
    (recipes / "frames.yaml").write_text(text.replace("name: demo-gamma9", "name: frames"))
    assert "config/recipes/frames.yaml: name: frames is a rule" in project.refused("demo")


def test_a_configuration_that_is_no_yaml(project):
    (project.folder / "config" / "config.yaml").write_text("datasets: [")
    assert "YAML" in project.refused()


def test_an_offline_machine_is_refused_before_it_extracts_frames(project, monkeypatch):
    # An empty cache and a proxy that is not there: the download fails as it does offline.
    monkeypatch.setenv("TORCH_HOME", str(project.folder))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    project.edit("recipes/actnet.yaml", "videos", "seconds", value=None)
    run = project.snakemake("--cores", "1", "results/actnet_128_stage3.json")
    assert run.returncode != 0
    assert "Error: actnet: model.glancer.pretrained: cannot get ImageNet weights" in run.stderr
    assert "getting the videos" not in run.stderr


def test_too_little_disk_is_told_before_any_job(project):
    project.edit("recipes/sthv2.yaml", "videos", "seconds", value=1e6)
    line = project.refused("results/sthv2_144_stage3.json")
    assert "20 GB of videos and 13,3" in line and "data/sthv2" in line and "frames.rate" in line


def test_a_second_run_is_refused_and_a_killed_one_leaves_nothing_locked(project):
    for split in ("train", "val"):
        project.edit("recipes/demo.yaml", "source", split, value=100)
    target = "data/demo/videos.csv"
    first = project.start(target)
    while not list(project.folder.glob(".snakemake/locks/*.output.lock")):
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGSTOP)  # so that it is at work for as long as this takes
    second = project.snakemake(target)
    assert second.returncode == 1
    assert "Please make sure that no other Snakemake process" in second.stderr
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert list(project.folder.glob(".snakemake/locks/*.output.lock"))
    third = project.snakemake(target)
    assert third.returncode == 0, third.stderr
    assert not list(project.folder.rglob("*.aside"))


def test_a_job_that_outlives_its_run_is_waited_for_and_not_done_twice(project):
    for split in ("train", "val"):
        project.edit("recipes/demo.yaml", "source", split, value=100)
    target = "data/demo/videos.csv"
    first = project.start(target)
    while not (project.folder / "data/demo/.videos.csv.lock").exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    os.killpg(first.pid, signal.SIGSTOP)  # so that it is at work for as long as this takes
    second = subprocess.Popen(
        project.command(target), cwd=project.folder, stderr=subprocess.PIPE, text=True
    )
    said = []
    for line in second.stderr:
        said.append(line)
        if "is at work on it" in line:
            os.killpg(first.pid, signal.SIGCONT)
    assert second.wait() == 0, "".join(said)
    [waits] = (line for line in said if "is at work on it" in line)
    [ends] = (line for line in said if "has made it" in line)
    holder = waits.removeprefix(f"{target}: ").partition(" is at work")[0]
    assert "(demo_download)" in holder
    assert ends == f"{target}: {holder} has made it\n"


def test_results_that_cannot_be_written_are_told_before_any_job(project):
    results = project.folder / "results"
    results.mkdir()
    options = ["-t", "tmpfs", "-o", "ro", "tmpfs", str(results)]
    mounted = subprocess.run(["mount", *options], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        run = project.snakemake("results/demo_28_stage3.json")
    finally:
        subprocess.run(["umount", results], check=True)
    assert run.returncode == 1
    (line,) = (line for line in run.stderr.splitlines() if line.startswith("Error: "))
    assert "results: cannot be written (read-only" in line
    assert not (project.folder / "data").exists()


def test_a_machines_gpus_are_what_its_jobs_share(project, two_gpus):
    run = project.snakemake("data/actnet/videos.csv")
    (resources,) = (line for line in run.stderr.splitlines() if "Provided resources" in line)
    assert "gpu" in resources and "2" in resources


def test_a_gpu_that_is_not_there_is_told_before_any_job(project, two_gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    why = "no CUDA-capable device is detected: look at CUDA_VISIBLE_DEVICES and at the driver"
    said = f"device: auto is the CPU, though a driver for GPUs is here: {why}"
    assert said in project.snakemake("--dry-run", "results/actnet_128_stage3.json").stdout
    project.edit("config.yaml", "device", value="cuda")
    line = project.refused("results/actnet_128_stage3.json")
    assert line == f"Error: config/config.yaml: device: is cuda, but CUDA shows no GPU ({why})"


RULES = """
import json
import sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

with SnakemakeApi(OutputSettings()) as api:
    workflow = api.workflow(
        snakefile=Path(sys.argv[1]),
        workdir=Path(sys.argv[2]),
        resource_settings=ResourceSettings(nodes=1),
        config_settings=ConfigSettings(config=json.loads(sys.argv[3])),
    )
    workflow.list_rules()
    rules = workflow._workflow.rules
    asked = {
        rule.name: [rule.resources[name].value for name in ("gpu", "_cores")]
        for rule in rules
        if "gpu" in rule.resources
    }
print(json.dumps(asked))
"""


def rules(project, config):
    """GPUs and threads that each rule asks for on a cluster."""
    command = [sys.executable, "-c", RULES, project.snakefile, project.folder, json.dumps(config)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def test_every_rule_that_asks_for_a_gpu_is_in_every_profile(project):
    asked = rules(project, {"device": "auto"})
    on_gpu = {name for name, (gpus, _) in asked.items() if gpus}
    assert {"stage1", "evaluate", "points", "sweep"} <= on_gpu
    profiles = (project.snakefile.parent / "workflow/profiles").glob("*/config.yaml")
    clusters = [yaml.safe_load(path.read_text()) for path in profiles]
    clusters = [profile for profile in clusters if "executor" in profile]
    assert len(clusters) == 2
    for profile in clusters:
        asked_for = profile["set-resources"]
        elsewhere = profile["default-resources"]
        assert asked_for.keys() == on_gpu
        assert all(any(elsewhere[k] != v for k, v in own.items()) for own in asked_for.values())


def test_threads_are_for_each_gpu_of_a_job(project):
    config = {"device": "cuda", "gpus": 4, "threads": 6, "sweep": {"gpus": 2}}
    asked = rules(project, config)
    expected = {"stage2": [4, 24], "evaluate": [4, 24], "points": [1, 6], "sweep": [2, 12]}
    assert {name: asked[name] for name in expected} == expected
    assert asked["frames"] == [0, 6]
    alone = rules(project, config | {"device": "cpu"})
    assert {tuple(alone[name]) for name in expected} == {(0, 6)}


def test_reading_the_workflow_does_not_load_torch(project):
    code = "import sys\nfrom snakemake.cli import main\ntry:\n main()\nexcept SystemExit as done:\n"
    code += " assert not done.code\nassert 'torch' not in sys.modules\n"
    command = [sys.executable, "-c", code, "--dry-run", "--directory", project.folder]
    command += ["--snakefile", project.snakefile, "results/actnet_128_stage3.json"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
