"""pyproject.toml, requirements.lock and environment.yml name the same packages and versions."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
WANTED = {
    requirement.name: requirement
    for requirement in map(
        Requirement,
        PROJECT["dependencies"]
        + sum((EXTRAS[name] for name in ("workflow", "tracking", "plots", "sweep", "export")), []),
    )
}
"""What the whole chain imports."""
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA_PYTHON = next(entry for entry in CONDA if str(entry).startswith("python=")).split("=")[1]


def locked(python: str) -> dict[str, str]:
    """Version of each package on Linux by its name."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in LOCK
        if pin.marker is None or pin.marker.evaluate(machine)
    }


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_meets_pyproject(python):
    pins = locked(python)
    wanted = PROJECT["dependencies"] + sum(EXTRAS.values(), [])
    for requirement in map(Requirement, wanted):
        if requirement.name == "adafocus":
            assert requirement.extras < EXTRAS.keys()
            continue
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_versions_whose_inner_parts_are_used_are_bounded():
    """MLflow's and Snakemake's, of which each has one file that uses them."""
    for name in ("mlflow", "snakemake"):
        assert any(bound.operator == "<" for bound in WANTED[name].specifier), name
    users = set()
    for path in (
        ROOT / "Snakefile",
        ROOT / "workflow/Snakefile",
        *(ROOT / "workflow").rglob("*.*"),
    ):
        used = re.findall(r"\bworkflow\.(\w+)", path.read_text())
        if set(used) - {"basedir", "rst"}:
            users.add(path.name)
    assert users == {"internals.smk"}


def test_the_lock_pins_and_names_no_registry():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^\s*-", text, flags=re.MULTILINE)
    for pin in LOCK:
        assert re.fullmatch(r"==[^*]+", str(pin.specifier)), pin


def test_each_pin_has_the_hashes_of_its_files():
    text = (ROOT / "requirements-hashed.lock").read_text()
    pins = re.split(r"\n(?=\S)", text.strip())
    for pin, hashed in zip(LOCK, pins, strict=True):
        name, *hashes = hashed.split(" \\\n    ")
        assert Requirement(name) == pin
        assert hashes and all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes)


def test_the_conda_environment_has_the_locks_pins():
    (pip,) = (entry["pip"] for entry in CONDA if isinstance(entry, dict))
    given = {r.name: (str(r.specifier), r.extras) for r in map(Requirement, pip)}
    pins = locked(CONDA_PYTHON)
    assert given == {
        r.name: (f"=={pins[canonicalize_name(r.name)]}", r.extras) for r in WANTED.values()
    }
    assert {"ffmpeg", "pip"} <= set(map(str, CONDA))


def test_what_is_imported_is_required():
    scripts = [*ROOT.glob("workflow/scripts/*.py")]
    own = {"adafocus", *(path.stem for path in scripts)}
    files = [*ROOT.glob("adafocus/**/*.py"), *scripts]
    imported = set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            imported.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported.add(node.module.split(".")[0])
    # Type checkers alone have `_typeshed`.
    imported -= own | sys.stdlib_module_names | {"_typeshed"}
    packages = packages_distributions()
    required = {
        canonicalize_name(name)
        for name in (
            *WANTED,
            "httpx2",
            "huggingface-hub",
            "onnx",
            "onnxruntime",
            "openvino",
            "yt-dlp",
        )
    }
    missing = {
        module
        for module in imported
        if not required & {canonicalize_name(name) for name in packages[module]}
    }
    assert not missing


def test_hooks_before_a_commit_do_what_make_lint_does():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    lines = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    assert [hook["entry"] for hook in local["hooks"]] == lines


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_images_are_made_of_what_is_there(name):
    """Files that are copied, extras that are installed and commands that are called. No image is
    built."""
    steps = (ROOT / name).read_text().replace("\\\n", " ")
    left_out = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", steps, re.MULTILINE):
        assert all(
            (ROOT / source).exists() and source not in left_out for source in sources.split()
        )
    (extras,) = re.findall(r'"\.\[(.+)\]"', steps)
    assert (
        {"workflow", "tracking", "plots", "sweep", "export"}
        <= set(extras.split(","))
        <= set(EXTRAS)
    )
    assert steps.count("--constraint requirements.lock") == steps.count("pip install")
    assert re.search(r"^USER (?!root)", steps, re.MULTILINE)
    (programs,) = re.findall(r"apt-get install --yes --no-install-recommends ([^&]+)", steps)
    assert programs.split() == ["ffmpeg", "libarchive-tools"]
    (program, *_) = ast.literal_eval(re.search(r"^CMD (.+)$", steps, re.MULTILINE)[1])
    assert program in PROJECT["scripts"]


def test_an_images_packages_can_be_installed_together():
    """As pip resolves them beside those of this environment, which are of the same pins."""
    (extras,) = re.findall(r'"\.\[(.+)\]"', (ROOT / "Dockerfile").read_text())
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet"]
    command += ["--no-build-isolation", "--constraint", "requirements.lock", f".[{extras}]"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
