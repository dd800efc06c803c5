import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from published import sections
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.model import checkpoint

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


def test_recipes_are_those_of_the_project_around_the_folder(adafocus, tmp_path, monkeypatch):
    mine, below = tmp_path / "config" / "recipes", tmp_path / "results" / "plots"
    mine.mkdir(parents=True)
    below.mkdir(parents=True)
    demo = (ROOT / "config" / "recipes" / "demo.yaml").read_text()
    (mine / "demo.yaml").write_text(demo.replace("[20, 28, 36]", "[44]"))
    monkeypatch.chdir(below)
    assert "allowed: 44" in one_line(adafocus("flops", "--dataset", "demo", "--patch-size", 28))
    (mine / "demo.yaml").unlink()  # no recipe is around it now
    carried = adafocus("flops", "--dataset", "demo", "--patch-size", 28)
    assert carried.exit_code == 0
    assert carried.stderr.startswith("config/recipes: neither here nor in a folder above")
    assert carried.stderr.count("\n") == 1


def test_recipes_tell_the_gpu_hours_that_were_measured(adafocus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("benchmarks", "checkpoints"):
        (tmp_path / "results" / folder).mkdir(parents=True)
    assert "actnet  " in adafocus("recipes").stdout
    stages = ("glancer_stage0", "focuser_stage0", "128_stage1", "128_stage2", "128_stage3")
    for stage in stages:
        assert "128: 75.0," in adafocus("recipes").stdout, "not all stages are trained yet"
        history = tmp_path / "results" / "checkpoints" / f"actnet_{stage}.metrics.csv"
        history.write_text("epoch,loss,seconds\n1,2.0,1800\n2,1.0,900\n")
        gpus = tmp_path / "results" / "benchmarks" / f"actnet_{stage}.energy.json"
        gpus.write_text('{"gpus": 2, "gpu_joules": 9.5}')
    told = adafocus("recipes").stdout
    assert "96: 71.9, 128: 75.0 (7.5 GPU h), 160: 76.0," in told
    assert "160, 192; TSN: 83.0 at 400.5 GFLOPs\n" in told
    assert "AR-Net" not in told, "where AdaFocus has figures of its own, others' are left out"


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
        ("stage1", ["--patch-size", 28, "--skip-cost", 0.02], "--skip-cost is not for stage1"),
        ("stage2", ["--patch-size", 28, "--skip-cost", 0.5], "skip_costs: 0.01, 0.02, 0.04"),
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


def test_a_published_checkpoint_becomes_ours(adafocus, tmp_path):
    glancer = {"glancer": sections("actnet_128")["glancer"]}
    torch.save(glancer, tmp_path / "published.pth.tar")
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(200)))
    files = (tmp_path / "published.pth.tar", tmp_path / "ours.safetensors")
    names = ("--classes", tmp_path / "names.txt")
    result = adafocus("import-checkpoint", *files, "--dataset", "actnet", *names)
    assert result.exit_code == 0, result.output
    assert "glancer of actnet" in result.stdout
    ours = checkpoint.read(tmp_path / "ours.safetensors")
    assert (ours.stage, ours.class_names[3]) == ("glancer", "class 3")

    patch = ("--patch-size", 128)
    wrong = adafocus("import-checkpoint", *files, "--dataset", "actnet", *patch)
    assert "all patch sizes share" in one_line(wrong)
    missing = adafocus(
        "import-checkpoint", *files, "--dataset", "actnet", "--classes", tmp_path / "no"
    )
    assert "no: cannot be read" in one_line(missing)


def test_evaluation_of_what_is_no_checkpoint(adafocus, tmp_path):
    file = tmp_path / "some.safetensors"
    file.write_bytes(b"no weights")
    files = ("--data", tmp_path, "--output", tmp_path / "out.json", "--plots", tmp_path)
    assert str(file) in one_line(adafocus("evaluate", file, *files))


@pytest.mark.parametrize(
    "command",
    [
        "evaluate here --data . --plots . --output",
        "predict here --checkpoint . --overlay",
        "predict film --checkpoint here --json",
        "watch here --checkpoint . --overlay",
        "export --checkpoint here --onnx",
        "import-checkpoint here --dataset demo",
        "train --recipe demo.yaml --stage stage2 --data . --init here --output",
    ],
)
def test_no_command_writes_over_what_it_reads_nor_over_a_folder(adafocus, tmp_path, command):
    for name in ("here", "film"):
        (tmp_path / name).write_text("precious")
    (tmp_path / "link").symlink_to("here")
    (tmp_path / "results").mkdir()
    words = [tmp_path / word if word in ("here", "film") else word for word in command.split()]
    for name, told in (("link", "is read or written"), ("results", "is a folder")):
        asked = [*words[:2], tmp_path / name, *words[2:]]
        if words[-1].startswith("--"):
            asked = [*words, tmp_path / name]
        assert f"{tmp_path / name}: {told}" in one_line(adafocus(*asked))
    assert (tmp_path / "link").read_text() == "precious"
