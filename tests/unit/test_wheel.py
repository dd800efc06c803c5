"""The wheel, tried where there is no checkout: it knows its recipes and lays out the workflow."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from noise import uni_recipe
from published import sections

from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, write

ROOT = Path(__file__).parents[2]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
OFFLINE = ["--no-index", "--no-build-isolation"]
SOURCE = ("adafocus", "workflow", "config", "Snakefile", "pyproject.toml", "setup.py", "README.md")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Runs a command in an empty folder, with the wheel in an environment that sees the packages
    of this one."""
    source, home = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("home")
    for name in (*SOURCE, "environment.yml", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    built = ["wheel", *OFFLINE, "--no-deps", "--wheel-dir", str(home), str(source)]
    subprocess.run([*PIP, *built], check=True)
    (wheel,) = home.glob("*.whl")
    venv.create(home / "env", with_pip=False)
    python = home / "env" / "bin" / "python"
    where = sysconfig.get_path("purelib", vars={"base": str(home / "env")})
    Path(where, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # With its dependencies: pip ends in an error where one is not there in the right version.
    wanted = f"{wheel}[workflow,tracking,plots,sweep,export]"
    subprocess.run([*PIP, "--python", str(python), "install", *OFFLINE, wanted], check=True)
    folder = tmp_path_factory.mktemp("elsewhere")
    apart = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments):
        command = [python, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=apart, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run.folder = folder
    return run


def test_commands_work_without_a_checkout(elsewhere):
    folder, recipe = elsewhere.folder, uni_recipe("long")
    names = tuple(map(str, range(recipe.classes)))
    weights = build(recipe, 32).state_dict()
    write(folder / "ours.safetensors", Checkpoint(weights, recipe, "joint", 32, names))
    torch.save({"glancer": sections("actnet_128")["glancer"]}, folder / "published.pth.tar")
    film = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=8:d=1", folder / "film.mp4"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *film], check=True)
    commands = [
        "flops --dataset demo-uni --patch-size 28",
        "recipes",
        "import-checkpoint published.pth.tar actnet.safetensors --dataset actnet",
        "predict film.mp4 --checkpoint ours.safetensors --runtime torch",
    ]
    # In one process, as torch takes seconds to load.
    code = "from adafocus.cli import app\n"
    for command in commands:
        code += f"app({command.split()}, 'adafocus', standalone_mode=False)\n"
    said = elsewhere("-I", "-c", code)
    for part in ("total", "sthv2-uni-16", "glancer of actnet", "film.mp4: "):
        assert part in said


def test_the_workflow_is_laid_out_and_planned(elsewhere):
    said = elsewhere("-m", "adafocus", "init", "mine")
    assert "snakemake --cores all results/demo-uni_28.json" in said
    options = ["--directory", "mine", "--snakefile", "mine/Snakefile", "--cores", "1", "--dry-run"]
    planned = elsewhere("-m", "snakemake", *options, "results/demo-uni_28.json")
    assert re.search(r"^joint +1$", planned, re.MULTILINE)
    assert (elsewhere.folder / "mine" / "environment.yml").exists()  # of `conda:` in rules
    assert files(elsewhere.folder / "mine" / "config") == files(ROOT / "config")
    assert files(elsewhere.folder / "mine" / "workflow") == files(ROOT / "workflow")


def files(folder):
    """What lies in a folder, and whether it may be run."""
    found = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return {path.relative_to(folder): os.access(path, os.X_OK) for path in found if path.is_file()}
