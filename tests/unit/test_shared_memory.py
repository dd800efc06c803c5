"""Shared memory as containers have it, as a disk of its own in a namespace of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from noise import SIZE, write_noise

from adafocus.machine import shared_memory

ROOT = Path(__file__).parents[2]
LOAD = """
import sys
from pathlib import Path
import torch
from noise import tiny_recipe
from adafocus.machine import shared_memory
from adafocus.data import batches, clips

if sys.argv[2] == "too many":
    batches.processes_that_fit = lambda wanted, batch: wanted
recipe, cpu = tiny_recipe("gru"), torch.device("cpu")
videos = clips.Clips(Path(sys.argv[1]), "train", recipe, augment=False, seed=0)
sampler = batches.EpochSampler(len(videos), 0, shuffle=False)
loader = batches.loader(videos, 4, sampler, 3, cpu)
try:
    with shared_memory.named():
        print(loader.num_workers, sum(1 for _ in loader))
except ValueError as error:
    print(error)
"""
BATCH = 4 * 4 * 3 * SIZE**2
"""Bytes."""


@pytest.fixture
def load(tmp_path):
    """Loads six batches with three processes where shared memory is mounted with options."""
    folder = write_noise(tmp_path, {"train": 24})

    def run(options, processes="what fits"):
        script = f'mount -t tmpfs -o {options} tmpfs {shared_memory.SHM_FOLDER} && exec "$@"'
        # A warning counts this machine's cores.
        python = [sys.executable, "-W", "ignore", "-c", LOAD, folder, processes]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *python],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        )
        if re.match("(unshare|mount):", done.stderr):
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr.strip()

    return run


def test_with_room_for_all_nothing_is_said(load):
    assert load(f"size={9 * BATCH}") == ("3 6", "")


@pytest.mark.parametrize(
    ("batches", "processes", "so_many"),
    [(5, 1, "1 load them"), (1, 0, "none but the one that computes load them")],
)
def test_as_many_processes_load_as_there_is_room_for(load, batches, processes, so_many):
    found, said = load(f"size={batches * BATCH}")
    assert found == f"{processes} 6"
    assert re.fullmatch(
        rf"shared memory: .* GB are free in /dev/shm, and 3 processes that load clips need 0.0016:"
        rf" {so_many}, which is slower; give the container more \(docker run --shm-size=8g;.*",
        said,
    )


def test_where_nothing_can_be_made_there_the_process_that_computes_loads(load):
    found, said = load("ro")
    assert found == "0 6"
    assert said.startswith("shared memory: nothing can be made in /dev/shm (Read-only file system)")


def test_processes_that_find_no_room_are_one_line(load):
    found, _ = load(f"size={BATCH // 2}", "too many")
    assert re.fullmatch(r"shared memory, /dev/shm, is full .*: give the container more .*", found)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that"
            " dataloader's workers are out of shared memory.",
            "is full",
        ),
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "fewer `threads`"),
        ("something else", None),
    ],
)
def test_what_ends_the_processes_that_load_is_named(error, expected):
    raised = pytest.raises(ValueError if expected else RuntimeError, match=expected or error)
    with raised, shared_memory.named():
        raise RuntimeError(error)


@pytest.mark.parametrize("seen", ["before", "too late"])
def test_a_process_that_cannot_make_a_socket_keeps_nobody_waiting(tmp_path, seen):
    folder = write_noise(tmp_path, {"train": 24})
    deep = tmp_path / ("x" * 110)  # a socket's path has at most 107 bytes
    deep.mkdir()
    load = LOAD
    if seen == "too late":
        load = (
            "from adafocus.machine import shared_memory as s\ns.no_socket = lambda: None\n" + LOAD
        )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", load, folder, "what fits"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"TMPDIR": str(deep)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if seen == "before":
        assert done.stdout.strip() == "0 6"
        assert "cannot make a socket in" in done.stderr and "TMPDIR" in done.stderr
    else:
        assert "could not hand them over" in done.stdout
        assert "AF_UNIX path too long" in done.stderr and "Traceback" not in done.stderr


def test_processes_that_load_do_not_run_the_script_again(tmp_path):
    """A script of the workflow is not written for it, and from Python 3.14 they might."""
    script = tmp_path / "script.py"
    start = "import multiprocessing\nmultiprocessing.set_start_method('forkserver', force=True)\n"
    script.write_text(start + LOAD)
    folder = write_noise(tmp_path, {"train": 24})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, folder, "what fits"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])},
        timeout=120,
    )
    assert done.stdout == "3 6\n", done.stderr
