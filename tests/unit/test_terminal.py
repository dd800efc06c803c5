"""What the workflow prints while jobs run and at the end, by workflow/rules/terminal.smk."""

import json
import logging
from pathlib import Path

import pytest
from test_summary import result

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
