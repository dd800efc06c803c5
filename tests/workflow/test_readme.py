"""Every command of the README, run as it stands in a folder where a tiny demo has been made."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
import yaml
from miniature import make_video
from published import sections
from test_chain import DIGITS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    command
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for command in block.splitlines()
]
ELSEWHERE = {
    "make demo": "test_demo.py",
    "make test": "runs this test",
    "make ui": "test_make_ui_opens_mlflow",
    "make report": "test_chain.py",
    "make bench": "test_speed.py, at a small size",
    "createdb mlflow": "integration/test_tracking_server.py, with a PostgreSQL of its own",
    "mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri postgresql:///mlflow"
    " --artifacts-destination mlartifacts": "likewise",
    "source .venv/bin/activate": "the environment that these tests run in",
    "snakemake --cores all results/mine_128_stage3.json": "test_own_videos.py, with small networks",
}
ON_REQUEST = "snakemake --cores all results/actnet_128_stage3.json"
"""Ends in what a person without ActivityNet is told."""


@pytest.fixture(scope="module")
def demo(tiny_project):
    """The shipped configuration with a demo that takes seconds."""
    shutil.copytree(ROOT / "config", tiny_project.folder / "config")
    recipe = DIGITS | {"name": "demo", "patch_sizes": [20, 28, 36]}
    recipe_file = tiny_project.folder / "config" / "recipes" / "demo.yaml"
    recipe_file.write_text(yaml.safe_dump(recipe))
    # So that what is said of the data does not wait for weights from the network.
    tiny_project.edit("recipes/actnet.yaml", "model", "glancer", "pretrained", value=None)
    tiny_project.edit("recipes/actnet.yaml", "model", "focuser", "pretrained", value=None)
    # Nor needs more disk than a machine for tests has.
    tiny_project.edit("recipes/actnet.yaml", "videos", "seconds", value=None)
    return tiny_project


def run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_commands_run_as_they_stand(demo):
    for name in ("Snakefile", "workflow", "profiles", "adafocus"):
        (demo.folder / name).symlink_to(ROOT / name)
    for name in ("cat", "dog"):
        for number in range(3):
            make_video(demo.folder / "my_videos" / name / f"{number}.mp4")
    torch.save(sections("actnet_128"), demo.folder / "published.pth.tar")
    for command in COMMANDS:
        if command in ELSEWHERE:
            continue
        done = run(demo.folder, shlex.split(command))
        output = done.stdout + done.stderr
        if command == ON_REQUEST:
            assert done.returncode == 1
            assert "http://activity-net.org/download.html" in output
        else:
            assert done.returncode == 0, f"{command}\n{output}"
    made = ("again.json", "mine.safetensors", "look.jsonl", "look.png", "look.mp4", "demo.onnx")
    for name in (*made, "actnet_128.safetensors"):
        assert (demo.folder / name).exists(), name

    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = run(demo.folder, [sys.executable, "-c", example])
    assert done.returncode == 0, done.stderr


def test_what_is_run_elsewhere_is_in_the_readme():
    assert set(ELSEWHERE) | {ON_REQUEST} <= set(COMMANDS)


@pytest.mark.integration
def test_make_ui_opens_mlflow(tmp_path):
    if not (ROOT / ".venv" / "bin" / "installed").exists():
        pytest.skip("make has not made .venv in this checkout")
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    server = subprocess.Popen(
        ["make", "ui"], cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        assert "MLflow" in _page("http://127.0.0.1:5000", server)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _page(address: str, server: subprocess.Popen) -> str:
    for _ in range(90):
        assert server.poll() is None, "make ui ended"
        try:
            return urllib.request.urlopen(address, timeout=5).read().decode()
        except OSError:
            time.sleep(1)
    raise AssertionError(f"nothing answers on {address}")
