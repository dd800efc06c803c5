"""A machine that does not reach itself, in a network of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from noise import tiny_recipe, write_checkpoint, write_noise

from adafocus.machine.sockets import no_loopback, no_server

SWEEP = """
import json, sys
from pathlib import Path
from adafocus.recipe import Sweep, parse_recipe
from adafocus.sweeps import sweep

recipe = parse_recipe(json.loads(sys.argv[1]), "recipe.json")
init, output = [Path("glancer.safetensors"), Path("focuser.safetensors")], Path("sweep.json")
options = dict(seed=0, device="cpu", threads=1, tracking_uri="sqlite:///mlflow.db")
settings = Sweep(trials=2, cpus_per_trial=1)
plot = output.with_suffix(".svg")
sweep(recipe, "stage1", 32, settings, data=Path(), init=init, output=output, plot=plot, **options)
"""
LAUNCH = """
import sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from job import launch

launch(SimpleNamespace(resources=SimpleNamespace(gpu=2), log=["log"]), None, "train", threads=2)
"""
SCRIPTS = Path(__file__).parents[2] / "workflow" / "scripts"


def alone(folder, *command):
    """Runs Python where not even loopback is on; returns the last line that it said."""
    hidden = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", *command],
        capture_output=True,
        text=True,
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        timeout=60,
    )
    if done.stderr.startswith("unshare:"):
        pytest.skip(f"no network can be made here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_this_machine_reaches_itself():
    assert no_loopback() is None


def test_a_server_is_told_from_none():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert no_server(f"ray://127.0.0.1:{port}") is None
    assert no_server(f"127.0.0.1:{port}") == "Connection refused"
    assert no_server("auto") is None


def test_a_ray_that_could_not_be_reached_is_not_begun(tmp_path):
    """It would be tried without end."""
    write_noise(tmp_path, {"train": 6, "val": 6})
    recipe = tiny_recipe("gru")
    for part in ("glancer", "focuser"):
        write_checkpoint(tmp_path / f"{part}.safetensors", recipe, part, None)
    said = alone(tmp_path, SWEEP, json.dumps(recipe.to_dict()))
    assert "Ray cannot begin: this machine cannot reach itself at 127.0.0.1" in said


def test_processes_that_could_not_reach_each_other_are_not_begun(tmp_path):
    said = alone(tmp_path, LAUNCH, SCRIPTS)
    assert "cannot train together: this machine cannot reach itself at 127.0.0.1" in said
