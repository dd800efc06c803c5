"""Resume files on damaged disks and without room."""

import random

import pytest
import torch

from adafocus.machine.files import WriteError
from adafocus.training.resume import ResumeFile

STATES = [{"weights": torch.randn(1000), "epoch": epoch} for epoch in (1, 2)]


@pytest.fixture
def file(tmp_path):
    file = ResumeFile(tmp_path / "a.resume.pt", ["this run"])
    for state in STATES:
        file.write(state)
    return file


def held(file):
    """Which state a file gives."""
    state = file.read()
    if state is None:
        return None
    assert torch.equal(state["weights"], STATES[state["epoch"] - 1]["weights"])
    return state["epoch"]


def test_any_bit_may_flip_and_any_end_may_lack(file):
    """Either it is noticed or it has changed nothing."""
    latest, before = file.path.read_bytes(), file.previous.read_bytes()
    draw = random.Random(0)
    noticed = 0
    for number in range(300):
        damaged = bytearray(latest)
        if number < 30:
            del damaged[draw.randrange(len(latest)) :]
        else:
            damaged[draw.randrange(len(latest))] ^= 1 << draw.randrange(8)
        file.path.write_bytes(damaged)
        file.previous.write_bytes(before)
        noticed += held(file) == 1
    assert noticed > 200


def test_what_is_left_of_both_is_not_taken_up(file, capsys):
    for path in (file.path, file.previous):
        path.write_bytes(path.read_bytes()[:-1])
    assert held(file) is None
    assert "starting over" in capsys.readouterr().out


def test_the_state_before_serves_where_the_latest_is_gone(file):
    file.path.unlink()
    assert held(file) == 1


def test_a_full_disk_leaves_the_state_before(mount):
    file = ResumeFile(mount("size=1m") / "a.resume.pt", ["this run"])
    file.write(STATES[0])
    with pytest.raises(WriteError, match=r"a.resume.pt: the disk is full"):
        file.write({"weights": torch.randn(1_000_000), "epoch": 2})
    assert held(file) == 1


def test_no_code_in_a_resume_file_is_run(file):
    class Harm:
        def __reduce__(self):
            return exit, (3,)

    torch.save({"fingerprint": "this run", "epoch": Harm()}, file.path)
    assert held(file) == 1
