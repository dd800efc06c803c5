"""The profiles for clusters, through a real Slurm: all that can happen to a job happens."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest
import yaml
from slurm import slurm
from test_chain import DIGITS, GIVEN, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.integration]

# Stage 0 has many epochs, so that its jobs can be stopped between two.
RECIPE = DIGITS | {
    "frames": DIGITS["frames"] | {"shards": 1},
    "stages": DIGITS["stages"]
    | {name: DIGITS["stages"][name] | {"epochs": 16} for name in ("glancer", "focuser")},
}
GLANCER, FOCUSER = (f"rule_{rule}_wildcards_digits_" for rule in ("train_glancer", "train_focuser"))
GPU_A, GPU_B = (f"GPU-{UUID(digit * 32)}" for digit in "ab")
LIMIT = 500
"""Seconds after which a run is given up."""


@pytest.fixture(scope="module")
def cluster(libcuda):
    with slurm(libcuda) as started:
        yield started


class Run:
    """A call of snakemake with one of the profiles, and what is done to its jobs meanwhile.

    Args:
        edits: what a person changes in the profile.
        during: functions that are called again and again until they return True.
    """

    def __init__(self, cluster, folder, profile, edits, targets, during):
        self.cluster, self.folder, self.logs = cluster, folder, {}
        recipes = folder / "config" / "recipes"
        recipes.mkdir(parents=True)
        for recipe in (RECIPE, GIVEN):
            (recipes / f"{recipe['name']}.yaml").write_text(yaml.safe_dump(recipe))
        config = {"datasets": {"digits": [16], "given": [16]}, "threads": 1}
        (recipes.parent / "config.yaml").write_text(yaml.safe_dump(config))

        shutil.copytree(ROOT / "workflow" / "profiles", folder / "workflow" / "profiles")
        settings_file = folder / "workflow" / "profiles" / profile / "config.yaml"
        settings = yaml.safe_load(settings_file.read_text())
        for rule, resources in edits.pop("set-resources", {}).items():
            settings["set-resources"][rule] = settings["set-resources"][rule] | resources
        settings_file.write_text(yaml.safe_dump(settings | edits))

        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--profile", f"workflow/profiles/{profile}", *targets]
        environment = cluster.environment | {"PYTHONPATH": str(ROOT)}
        with (folder / "output").open("w") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
            given_up = time.monotonic() + LIMIT
            while process.poll() is None and time.monotonic() < given_up:
                during = [step for step in during if not step(self)]
                time.sleep(0.2)
            if process.poll() is None:
                process.terminate()
                process.wait(60)
        self.status, self.output = process.returncode, (folder / "output").read_text()
        assert not during, self.output

    def reports(self, rule):
        """What was said of each failure of a rule."""
        _, *reports = self.output.split(f"Error in rule {rule}:\n")
        return [report.split("\n[")[0] for report in reports]


def log_of(folder, comment):
    network = comment.split("_")[2]
    return folder / "results" / "logs" / f"digits_{network}_stage0.log"


class Stop:
    """Does something to a training job as soon as it has finished an epoch.

    Args:
        comment: the job's, in Slurm.
        attempt: which of the jobs with this comment, from 0.
        action: is given the cluster and the job's number.
    """

    def __init__(self, comment, attempt, action):
        self.comment, self.attempt, self.action = comment, attempt, action
        self.epochs = 0

    def __call__(self, run):
        log = log_of(run.folder, self.comment)
        metrics = run.folder / "results" / "checkpoints" / f"{log.stem}.metrics.csv"
        epochs = len(metrics.read_text().splitlines()) - 1 if metrics.exists() else 0
        jobs = run.cluster.jobs(self.comment)
        if len(jobs) <= self.attempt:
            self.epochs = epochs
            return False
        if epochs <= self.epochs or jobs[self.attempt]["JobState"] != "RUNNING":
            return False
        run.logs[self.comment, self.attempt] = log.read_text()
        self.action(run.cluster, jobs[self.attempt]["JobId"])
        return True


def cancel(cluster, job):
    cluster("scancel", job)


def kill(cluster, job):
    for process in cluster.processes(job):
        os.kill(process, signal.SIGKILL)


def run_out_of_time(cluster, job):
    # Slurm looks at the clock twice a minute: meanwhile the job must not finish.
    cluster("scancel", "--signal=STOP", job)
    cluster("scontrol", "update", f"JobId={job}", "EndTime=now+1")


@pytest.fixture(scope="module")
def chain(cluster, tmp_path_factory):
    """The glancer's first job has too little memory, and stage 1 asks for two GPUs."""
    return Run(
        cluster,
        tmp_path_factory.mktemp("slurm"),
        "slurm",
        edits={
            "set-resources": {
                "train_glancer": {"mem_mb": "300 * attempt**4"},
                "stage1": {"gpu": 2},
            },
            "slurm-status-command": "squeue",
            "slurm-init-seconds-before-status-checks": 1,
            "latency-wait": 5,
        },
        targets=["results/digits_16_stage3.json"],
        during=[
            Stop(GLANCER, 1, cancel),
            Stop(FOCUSER, 0, run_out_of_time),
            Stop(FOCUSER, 1, kill),
        ],
    )


def test_the_chain_ends_in_a_result(chain):
    assert chain.status == 0, chain.output
    result = json.loads((chain.folder / "results" / "digits_16_stage3.json").read_text())
    assert set(result["metrics"]) == {"top1", "top5", "mAP"}


def test_each_rule_has_its_partition_memory_time_and_gpus(cluster, chain):
    names = ("Partition", "MinMemoryNode", "TimeLimit", "TresPerJob")
    asked = {
        re.match("rule_(.*)_wildcards", job["Comment"])[1]: [job.get(name) for name in names]
        for job in cluster.jobs("rule_")
        if job["Comment"] not in (GLANCER, FOCUSER)
    }
    assert asked == {
        "download": ["cpu", "8000M", "2-00:00:00", None],
        "frames": ["cpu", "8000M", "1-00:00:00", None],
        "splits": ["cpu", "4000M", "01:00:00", None],
        "stage1": ["gpu", "32000M", "2-00:00:00", "gres:gpu:2"],
        "stage2": ["gpu", "32000M", "2-00:00:00", "gres:gpu:1"],
        "stage3": ["gpu", "32000M", "2-00:00:00", "gres:gpu:1"],
        "evaluate": ["gpu", "16000M", "08:00:00", "gres:gpu:1"],
    }


@pytest.mark.parametrize(
    ("rule", "gpus", "claimed"),
    [("stage1", "0,1", f"{GPU_A},{GPU_B}"), ("stage2", "0", GPU_A)],
)
def test_a_training_job_is_one_launch_whatever_its_gpus(cluster, chain, rule, gpus, claimed):
    (job,) = cluster.jobs(f"rule_{rule}")
    # One process, which looks twice: when it reads the Snakefile and when it claims them. The third
    # look is why torch cannot use those it has.
    *looks, last = cluster.gpus_seen(job)
    assert looks == [("0", gpus)] * 2
    assert last == ("0", claimed)


@pytest.mark.parametrize(
    ("rule", "comment", "ends", "reasons"),
    [
        (
            "train_glancer",
            GLANCER,
            ["FAILED", "CANCELLED", "COMPLETED"],
            ["exceeded memory limit", "CANCELLED"],
        ),
        (
            "train_focuser",
            FOCUSER,
            ["TIMEOUT", "FAILED", "COMPLETED"],
            ["DUE TO TIME LIMIT", "Killed"],
        ),
    ],
)
def test_a_job_that_ends_too_early_is_reported_and_tried_again(
    cluster, chain, rule, comment, ends, reasons
):
    jobs = cluster.jobs(comment)
    assert [job["JobState"] for job in jobs] == ends
    reports = chain.reports(rule)
    assert len(reports) == 2
    for job, report, reason in zip(jobs, reports, reasons, strict=False):
        assert f"SLURM status is: '{job['JobState']}'" in report
        assert f"results/logs/digits_{rule.removeprefix('train_')}_stage0.log" in report
        (log,) = re.findall(r"\S+/results/logs/slurm/\S+\.log", report)
        assert reason in Path(log).read_text()


def test_each_attempt_has_more_memory(cluster, chain):
    glancer, focuser = (
        [memory(job["MinMemoryNode"]) for job in cluster.jobs(comment)]
        for comment in (GLANCER, FOCUSER)
    )
    assert glancer == [300, 4800, 24300]
    assert focuser == [32000, 64000, 96000]


def memory(text):
    """Slurm's figure in MB."""
    return float(text[:-1]) * (1024 if text.endswith("G") else 1)


def test_training_goes_on_from_its_last_epoch(chain):
    def resumed_after(log):
        return [int(epoch) for epoch in re.findall(r"resuming after epoch (\d+)", log)]

    assert resumed_after(chain.logs[GLANCER, 1]) == []
    (cancelled,) = resumed_after(log_of(chain.folder, GLANCER).read_text())
    (timed_out,) = resumed_after(chain.logs[FOCUSER, 1])
    before, killed = resumed_after(log_of(chain.folder, FOCUSER).read_text())
    assert before == timed_out, "the log keeps what earlier attempts printed"
    assert cancelled >= 1
    assert killed > timed_out >= 1


@pytest.fixture(scope="module")
def other_scheduler(cluster, chain, tmp_path_factory):
    """The commands of PBS in front of the same daemons: an evaluation, whose first job is deleted;
    and of `given` there are no videos."""
    if shutil.which("qsub") is None:
        pytest.skip("qsub is not installed; on Debian: apt-get install slurm-wlm-torque")
    folder = tmp_path_factory.mktemp("generic")
    for name in ("data", "results/checkpoints"):
        shutil.copytree(chain.folder / name, folder / name)

    def delete(run):
        jobs = evaluations(run)
        if not jobs or jobs[0]["JobState"] != "RUNNING":
            return False
        cluster("qdel", jobs[0]["JobId"])
        return True

    return Run(
        cluster,
        folder,
        "cluster-generic",
        edits={"retries": 1, "latency-wait": 5, "seconds-between-status-checks": 2},
        targets=["results/digits_16_stage1.json", "data/given/videos.csv"],
        during=[delete],
    )


def evaluations(run):
    log = run.folder / "results" / "logs" / "digits_16_stage1_evaluation.log.cluster"
    return [job for job in run.cluster.jobs() if job["StdOut"] == str(log)]


def test_another_scheduler_is_asked_for_the_same(other_scheduler):
    names = ("JobState", "Partition", "MinMemoryNode", "TimeLimit", "TresPerNode")
    assert [[job.get(name) for name in names] for job in evaluations(other_scheduler)] == [
        ["CANCELLED", "gpu", "16000M", "08:00:00", "gres:gpu:1"],
        ["COMPLETED", "gpu", "32000M", "08:00:00", "gres:gpu:1"],
    ]
    assert (other_scheduler.folder / "results" / "digits_16_stage1.json").exists()


def test_another_schedulers_failures_are_reported(other_scheduler):
    (deleted,) = other_scheduler.reports("evaluate")
    assert "results/logs/digits_16_stage1_evaluation.log" in deleted
    failed = other_scheduler.reports("download")
    assert len(failed) == 2
    assert all("results/logs/given_download.log" in report for report in failed)
    assert other_scheduler.status == 1
    log = other_scheduler.folder / "results" / "logs" / "given_download.log.cluster"
    assert "Error: data/given: videos" in log.read_text()
