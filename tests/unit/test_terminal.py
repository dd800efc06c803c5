"""What the workflow prints while jobs run and at the end, by workflow/rules/terminal.smk."""

import json
import logging
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from test_summary import result

from adafocus.machine.board import CLEARED
from adafocus.recipe import Config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def terminal():
    """What that file defines, without what only Snakemake reads."""
    text = (ROOT / "workflow" / "rules" / "terminal.smk").read_text()
    names = {"settings": Config(datasets={}, tracking_uri="sqlite:///ours.db")}
    exec(text.partition("\nonsuccess:")[0], names)
    return names


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ("", "--backend-store-uri sqlite:///ours.db"),
        ("postgresql://me:secret@base/runs", "--backend-store-uri postgresql://base/runs"),
        ("http://me:secret@127.0.0.1:5000", "  http://127.0.0.1:5000"),
    ],
)
def test_the_end_names_the_store_that_has_the_runs(
    terminal, tmp_path, monkeypatch, environment, told
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    path = Path("demo_28_stage3.json")
    values = result("demo", 28, 3, 90.0) | {"checkpoint": {"path": "demo.safetensors"}}
    path.write_text(json.dumps(values))
    terminal["evaluated"].append(path)
    first, *_, last = terminal["endings"]()
    assert first.startswith(f"{path}: top1 90.0 at")
    assert last.startswith("  all runs ") and last.endswith(told)


def test_what_cannot_be_shown_ends_nothing(terminal):
    terminal["Watch"](None).emit(logging.makeLogRecord({}))


SNAKEFILE = f"""
from adafocus.machine import board

board.REDRAWN_EVERY = board.TOLD_EVERY = 0.1

include: "{ROOT}/workflow/rules/internals.smk"
include: "{ROOT}/workflow/rules/terminal.smk"

onstart:
    watch_jobs()

rule train:
    output: "results/demo_28_stage2.safetensors"
    log: "results/logs/demo_28_stage2.log"
    shell: "{sys.executable} job.py {{log}} && touch {{output}}"
"""
JOB = """
import sys, time
from tqdm import tqdm

with open(sys.argv[1], "w") as file, tqdm(total=10, file=file) as bar:
    bar.set_postfix({"epoch": 2, "top1": "55.1"})
    bar.update(3)
    bar.refresh()
    file.flush()
    time.sleep(1.5)
"""
PLUGIN = """
import sys
from snakemake_interface_logger_plugins.base import LogHandlerBase


class LogHandler(LogHandlerBase):
    writes_to_stream = PRINTS
    writes_to_file = has_filter = has_formatter = needs_rulegraph = False

    def emit(self, record):
        if self.writes_to_stream:
            print("told by a plugin", file=sys.stderr)
"""


@pytest.fixture
def snakemake(tmp_path):
    """Command and options of a call in a folder with one job, and two loggers to choose from."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "job.py").write_text(JOB)
    for name, prints in (("printer", "True"), ("silent", "False")):
        package = tmp_path / "plugins" / f"snakemake_logger_plugin_{name}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(PLUGIN.replace("PRINTS", prints))
    path = [str(tmp_path / "plugins"), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    return command, {"cwd": tmp_path, "env": environment}


def seen_in_terminal(command, options):
    """All that a call writes into a terminal of 80 columns."""
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(other_end, (24, 80))
    with subprocess.Popen(command, stdout=other_end, stderr=other_end, **options) as process:
        os.close(other_end)
        found = b""
        while part := _read(terminal):
            found += part
    os.close(terminal)
    assert process.returncode == 0, found.decode()
    return found.decode()


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # none has it open any more
        return b""


def test_a_terminal_shows_the_bar_of_a_running_job_below_what_snakemake_prints(snakemake):
    seen = seen_in_terminal(*snakemake)
    drawn = [part for part in seen.split(CLEARED) if part.startswith("demo_28_stage2")]
    bar = r"demo_28_stage2 \[#+ *\] 30% .+ left, epoch=2, top1=55\.1; 0/1 jobs, ~\d+ s left"
    assert any(re.fullmatch(bar, line) for line in drawn), seen
    assert all("\n" not in line and len(line) < 80 for line in drawn), drawn
    assert "1 of 1 steps (100%) done" in seen.rpartition(CLEARED)[2]


def test_without_a_terminal_lines_tell_of_a_running_job(snakemake):
    command, options = snakemake
    run = subprocess.run(command, capture_output=True, text=True, **options)
    told = r"\d\d:\d\d demo_28_stage2: 30%, .+ left, epoch=2, top1=55\.1; 0/1 jobs, ~\d+ s left"
    assert any(re.fullmatch(told, line) for line in run.stderr.splitlines()), run.stderr
    assert "\x1b" not in run.stderr


@pytest.mark.parametrize(
    ("option", "shown"),
    [("--quiet", False), ("--logger=printer", False), ("--logger=silent", True)],
)
def test_a_logger_that_prints_has_the_terminal_to_itself(snakemake, option, shown):
    command, options = snakemake
    seen = seen_in_terminal([*command, option], options)
    assert ("demo_28_stage2 [" in seen) is shown, seen
    assert ("told by a plugin" in seen) is (option == "--logger=printer")
