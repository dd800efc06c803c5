"""Sweeps with a real Ray, on noise."""

import csv
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from noise import tiny_recipe, write_checkpoint, write_noise
from servers import free_port

from adafocus.machine.files import keep

pytestmark = [pytest.mark.slow, pytest.mark.integration]

EPOCHS = 6
TRIALS = 6
PARTS = ("focuser", "classifier")
SCRIPT = """
import json, sys
from pathlib import Path
from adafocus.recipe import Sweep, parse_recipe
from adafocus.sweeps import sweep

sweep(
    parse_recipe(json.loads(Path("recipe.json").read_text()), "recipe.json"),
    "stage1",
    32,
    Sweep(trials=int(sys.argv[1]), range=(0.01, 1e12), cpus_per_trial=1),
    data=Path("data"),
    init=[Path("glancer.safetensors"), Path("focuser.safetensors")],
    output=Path("results/tiny_32_stage1.json"),
    plot=Path("results/tiny_32_stage1.svg"),
    seed=0,
    device="cpu",
    threads=2,
    tracking_uri="sqlite:///mlflow.db",
)
"""
"""In a process of its own, as in the workflow: Ray reads its settings once."""


TEMPORARY: set[Path] = set()
"""Folders that Ray's processes were told to use."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    values = tiny_recipe("gru").to_dict()
    values["stages"]["stage1"] |= {"epochs": EPOCHS, "validate_every": 2}
    (folder / "recipe.json").write_text(json.dumps(values))
    (folder / "data").mkdir()
    write_noise(folder / "data", {"train": 6, "val": 6})
    for part in ("glancer", "focuser"):
        write_checkpoint(folder / f"{part}.safetensors", tiny_recipe("gru"), part, None)
    return folder


def start(folder, trials=TRIALS, **variables):
    command = [sys.executable, "-c", SCRIPT, str(trials)]
    hidden = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | variables
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def epochs_of(folder, trial):
    path = folder / "results" / "tiny_32_stage1" / f"tiny_32_stage1_trial_{trial:02d}.metrics.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def validations(trial):
    """How many of a trial's epochs had one: every other, and the last of all."""
    return math.ceil(trial["epochs"] / 2) if trial["epochs"] == EPOCHS else trial["epochs"] // 2


def by_place(trial):
    """A trial's learning rates by their places in the recipe."""
    rates = trial["learning_rates"].items()
    return {f"stages.stage1.learning_rates.{part}": rate for part, rate in rates}


def wait_for(condition, process, seconds=120):
    ends = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the sweep ended"
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture(scope="module")
def swept(folder):
    """A sweep that was killed after its first trial, and then lost the process of another trial.

    With rates of up to 1e10 some trials diverge.
    """
    first = start(folder)
    wait_for(lambda: len(epochs_of(folder, 0)) == EPOCHS, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = epochs_of(folder, 0)

    second = start(folder)
    listening = set()
    wait_for(lambda: kill_a_later_trial(second, listening), second)
    assert second.wait(timeout=240) == 0, (folder / "log").read_text()[-3000:]
    result = json.loads((folder / "results" / "tiny_32_stage1.json").read_text())
    return folder, before, result, listening


def kill_a_later_trial(sweep, listening):
    """Kills a process that is at neither of the first two trials, by the folder that Ray has it in;
    notes all addresses at which the sweep's processes listen."""
    family = psutil.Process(sweep.pid).children(recursive=True)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            for option in child.cmdline():
                if at := re.fullmatch(r"--temp[-_]dir=(.+)", option):
                    TEMPORARY.add(Path(at[1]))
            for connection in child.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    listening.add(connection.laddr.ip)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            at = re.fullmatch(r"trial_(\d+)", Path(child.cwd()).name)
            if at and int(at[1]) >= 2:
                child.kill()
                return True
    return False


def test_a_killed_sweep_goes_on_from_its_finished_trials(swept):
    folder, before, result, _ = swept
    assert epochs_of(folder, 0) == before  # even the seconds that each took
    assert result["trials"][0]["status"] == "finished"
    assert result["trials"][0]["epochs"] == EPOCHS


def test_the_result_holds_all_trials_and_the_best_rates(swept):
    folder, _, result, _ = swept
    trials = result["trials"]
    assert [trial["trial"] for trial in trials] == list(range(TRIALS))
    assert trials[0]["learning_rates"] == {"focuser": 0.05, "classifier": 0.05}
    finished = [trial for trial in trials if trial["status"] == "finished"]
    best = max(finished, key=lambda trial: trial["best"])
    assert result["best"].items() <= best.items() and best["values"] == by_place(best)
    assert trials[0]["values"] == result["recipe"]["values"] == by_place(trials[0])
    for trial in trials:
        rows = epochs_of(folder, trial["trial"])
        assert len(rows) == trial["epochs"]
        accuracy = [float(row["val_top1"]) for row in rows if row.get("val_top1")]
        assert len(accuracy) == validations(trial)
        assert max(accuracy, default=None) == trial["best"]
    assert (folder / "results" / result["plot"]).stat().st_size > 1000
    assert result["importance"].keys() == best["values"].keys()


def test_trials_that_fail_are_recorded_and_do_not_stop_the_others(swept):
    _, _, result, _ = swept
    reasons = {trial["error"] for trial in result["trials"] if trial["status"] == "failed"}
    assert any("its process died" in reason for reason in reasons), reasons
    assert any("not finite any more" in reason for reason in reasons), reasons


def test_every_trial_is_a_run_under_the_sweep(swept):
    folder, _, result, _ = swept
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    [experiment] = client.search_experiments(filter_string="name = 'tiny'")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("tiny 32 stage1 sweep")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    summary = runs.pop("tiny_32_stage1_sweep")
    assert summary.data.metrics["best_val_top1"] == result["best"]["best"]
    assert parent.data.metrics["best_val_top1"] == result["best"]["best"]
    ends = {"finished": "FINISHED", "stopped early": "KILLED", "failed": "FAILED"}
    trials = {f"tiny_32_stage1_trial_{trial['trial']:02d}": trial for trial in result["trials"]}
    # The process that was killed may have had no time to begin.
    begun = {name for name, trial in trials.items() if trial["epochs"]}
    assert begun <= runs.keys() <= trials.keys()
    for name, run in runs.items():
        trial = trials[name]
        assert run.info.status == ends[trial["status"]]
        rates = {part: float(run.data.params[f"learning_rates.{part}"]) for part in PARTS}
        assert rates == trial["learning_rates"]
        logged = client.get_metric_history(run.info.run_id, "val_top1")
        assert len(logged) == validations(trial)


def test_ray_listens_on_loopback_alone(swept):
    *_, listening = swept
    assert listening and listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_ray_has_a_folder_that_nobody_can_take_before(swept):
    [folder] = TEMPORARY
    assert re.fullmatch(r"ray-\w{8}", folder.name)
    assert not folder.exists()


def test_only_the_best_trial_keeps_its_weights(swept):
    folder, _, result, _ = swept
    kept = {path.name for path in (folder / "results" / "tiny_32_stage1").glob("*.resume*.pt")}
    assert kept == {f"tiny_32_stage1_trial_{result['best']['trial']:02d}.resume.pt"}
    assert not list((folder / "results" / "tiny_32_stage1").glob("*.safetensors"))


def test_a_finished_sweep_is_not_run_again(swept):
    """Its job may have to run, after Snakemake has removed what it makes."""
    folder, *_ = swept
    output = folder / "results" / "tiny_32_stage1.json"
    made, rows = output.read_bytes(), [epochs_of(folder, trial) for trial in range(TRIALS)]
    keep(output)
    for path in (output, output.with_suffix(".svg")):
        path.unlink()
    again = start(folder)
    assert again.wait(timeout=120) == 0, (folder / "log").read_text()[-3000:]
    assert output.read_bytes() == made
    assert [epochs_of(folder, trial) for trial in range(TRIALS)] == rows
    assert output.with_suffix(".svg").stat().st_size > 1000
    assert (folder / "log").read_text().count("swept before") == 1


@pytest.fixture
def cluster(tmp_path):
    """A Ray of three CPUs; yields the variables by which it is joined."""
    port = free_port()
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += ["--port", str(port), "--num-cpus", "3", "--include-dashboard", "false"]
    ray = subprocess.Popen(
        command,
        env=os.environ | settings | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: answers(port), ray)
        yield settings | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        os.killpg(ray.pid, signal.SIGKILL)
        ray.wait()


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_larger_sweep_joins_the_cluster_at_ray_address(swept, cluster):
    """And trains none of a smaller one's trials again."""
    folder, _, before, _ = swept
    over = [trial["trial"] for trial in before["trials"] if trial["status"] != "failed"]
    rows = {trial: epochs_of(folder, trial) for trial in over}
    more = TRIALS + 2
    sweep = start(folder, trials=more, **cluster, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0")
    assert sweep.wait(timeout=240) == 0, (folder / "log").read_text()[-3000:]
    log = (folder / "log").read_text()
    assert f"Connecting to existing Ray cluster at address: {cluster['RAY_ADDRESS']}" in log
    assert "/3 CPUs" in log
    result = json.loads((folder / "results" / "tiny_32_stage1.json").read_text())
    assert len(result["trials"]) == more
    tried = {tuple(trial["values"].values()) for trial in result["trials"]}
    assert len(tried) == more
    # Even the seconds that each epoch took.
    assert {trial: epochs_of(folder, trial) for trial in over} == rows
    for trial in over:
        assert result["trials"][trial] == before["trials"][trial]
