from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from noise import noise_batch, tiny_recipe

from adafocus.data.batches import Batch
from adafocus.recipe import Recipe

torch.set_num_threads(1)
# A busy machine must not fail a test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(params=["gru", "tsm"])
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return tiny_recipe(request.param)


@pytest.fixture
def batch(recipe: Recipe) -> Batch:
    torch.manual_seed(0)
    return noise_batch(recipe)


@pytest.fixture(autouse=True)
def _no_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` is PyTorch in these tests: a graph for another runtime takes seconds to export."""
    monkeypatch.setattr("adafocus.deploy.runtimes.FASTEST", ())


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk with the options given, the same one if called again."""
    folder = tmp_path / "disk"
    mounted = False

    def mount_it(options: str) -> Path:
        nonlocal mounted
        folder.mkdir(exist_ok=True)
        command = ["mount", "-o", options, *(["-t", "tmpfs", "tmpfs"] * (not mounted)), folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    yield mount_it
    if mounted:
        # From Python 3.12 on, a file that `torch.save` could not end is open until then.
        gc.collect()
        subprocess.run(["umount", folder], check=True)
