import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adafocus.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def adafocus(monkeypatch):
    """The command line, in the repository's folder."""
    monkeypatch.chdir(ROOT)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_line(result) -> str:
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_help_does_not_wait_for_torch():
    code = "import sys, adafocus.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_flops_as_json_and_as_text(adafocus):
    asked = ("flops", "--dataset", "demo", "--patch-size", 28)
    gflops = json.loads(adafocus(*asked, "--json").stdout)
    assert gflops["total"] == pytest.approx(sum(gflops["parts"].values()))
    lines = adafocus(*asked).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*gflops["parts"], "total"]
    assert float(lines[-1].split()[1]) == pytest.approx(gflops["total"], abs=1e-3)


@pytest.mark.parametrize(
    ("dataset", "patch_size", "expected"),
    [("foo", 128, "allowed: actnet"), ("actnet", 100, "allowed: 96, 128, 160, 192")],
)
def test_flops_of_what_no_recipe_allows(adafocus, dataset, patch_size, expected):
    result = adafocus("flops", "--dataset", dataset, "--patch-size", patch_size)
    assert expected in one_line(result)


@pytest.mark.parametrize(
    ("stage", "patch", "expected"),
    [
        ("stage1", [], "needs --patch-size; config/recipes/demo.yaml allows: 20, 28, 36"),
        ("stage1", ["--patch-size", 41], "allowed: 20, 28, 36"),
        ("glancer", ["--patch-size", 28], "not for glancer"),
        ("stage1", ["--patch-size", 28, "--init", "no.safetensors"], "no.safetensors"),
    ],
)
def test_training_that_cannot_begin(adafocus, tmp_path, stage, patch, expected):
    files = ("--data", tmp_path, "--output", tmp_path / "out.safetensors")
    result = adafocus(
        "train", "--recipe", "config/recipes/demo.yaml", "--stage", stage, *files, *patch
    )
    assert expected in one_line(result)


def test_evaluation_of_what_is_no_checkpoint(adafocus, tmp_path):
    checkpoint = tmp_path / "some.safetensors"
    checkpoint.write_bytes(b"no weights")
    files = ("--data", tmp_path, "--output", tmp_path / "out.json", "--plots", tmp_path)
    assert str(checkpoint) in one_line(adafocus("evaluate", checkpoint, *files))
