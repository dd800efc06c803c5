"""The core works without the extras, and says in one line which of them something else needs."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import imageio_ffmpeg
import pytest
from noise import tiny_recipe
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from adafocus.extras import EXTRAS
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint, write

ROOT = Path(__file__).parents[2]


def files_of(name: str, seen: set[str]) -> set[Path]:
    """Top-level files and folders of an installed package and of all that it requires."""
    if name in seen:
        return set()
    seen.add(name)
    found = metadata.distribution(name)
    tops = {Path(str(file)).parts[0] for file in found.files or () if ".." not in file.parts}
    paths = {Path(str(found.locate_file(top))) for top in tops}
    for requirement in map(Requirement, found.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            paths |= files_of(requirement.name, seen)
    return paths


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Runs Python where nothing is installed but the core; returns what it printed and its end."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    seen: set[str] = set()
    for requirement in map(Requirement, project["dependencies"]):
        for path in files_of(requirement.name, seen):
            if not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    (folder / "adafocus").symlink_to(ROOT / "adafocus")
    assert not {"mlflow", "snakemake", "ray", "pandas", "matplotlib"} & set(os.listdir(folder))

    def run(*arguments, cwd=ROOT):
        begin = f"import sys; sys.path.append({str(folder)!r}); sys.argv[0] = 'adafocus'; "
        code = begin + "from adafocus.cli import app; app()"
        command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True)

    return run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    recipe = tiny_recipe("gru")
    path = tmp_path_factory.mktemp("model") / "tiny_32_stage3.safetensors"
    names = tuple(map(str, range(recipe.classes)))
    write(path, Checkpoint(build(recipe, 32).state_dict(), recipe, "stage3", 32, names))
    return path


def test_the_core_counts_and_predicts(core, checkpoint, tmp_path):
    counted = core("flops", "--dataset", "actnet", "--patch-size", 128)
    assert float(re.search(r"total +([\d.]+)", counted.stdout)[1]) == pytest.approx(26.5, abs=0.1)
    video = tmp_path / "film.mp4"
    source = ["-f", "lavfi", "-i", "testsrc=s=64x64:r=8:d=1"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, video], check=True)
    predicted = core("predict", video, "--checkpoint", checkpoint)
    assert predicted.stdout.startswith(f"{video}: "), predicted.stderr


def test_what_needs_an_extra_says_so_in_one_line(core, checkpoint, tmp_path):
    recipe = ROOT / "config" / "recipes" / "demo.yaml"
    stage = ["--recipe", recipe, "--stage", "glancer", "--data", tmp_path]
    evaluation = ["--data", tmp_path, "--output", tmp_path / "result.json", "--plots", tmp_path]
    for arguments, line in {
        ("train", *stage, "--output", tmp_path / "glancer.safetensors"): "tracking,plots",
        ("evaluate", checkpoint, *evaluation): "plots",
        ("export", "--checkpoint", checkpoint, "--onnx", tmp_path / "tiny.onnx"): "export",
    }.items():
        done = core(*arguments)
        assert done.returncode == 1
        [said] = done.stderr.splitlines()
        assert re.fullmatch(rf"Error: \w+ is not installed: pip install 'adafocus\[{line}\]'", said)


def test_every_module_of_an_extra_is_known():
    """By the packages that bring it."""
    packages = metadata.packages_distributions()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, modules in EXTRAS.items():
        given = map(Requirement, project["optional-dependencies"][extra])
        wanted = {canonicalize_name(one.name) for one in given} - {"nvidia-ml-py"}
        brought = [set(map(canonicalize_name, packages[module])) for module in modules]
        assert wanted <= set().union(*brought)
        assert all(wanted & names for names in brought)
