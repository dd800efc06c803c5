"""Files are there whole or not at all: killed writers, full disks, folders not to be written."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from adafocus.machine.files import (
    ASIDE,
    WriteError,
    atomic,
    check_outputs,
    keep,
    make_private,
    remove_abandoned,
)
from adafocus.machine.processes import Process

WRITE_AND_WAIT = """
import sys
from pathlib import Path
from adafocus.machine.files import atomic
with atomic(Path(sys.argv[1])) as aside:
    aside.write_text("half")
    print("written", flush=True)
    sys.stdin.readline()
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(KeyError), atomic(path) as aside:
        aside.write_text("half")
        raise KeyError
    assert path.read_text() == "before"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("one", "two"):
        with atomic(tmp_path / "folder") as aside:
            (aside / "deep").mkdir(parents=True)
            (aside / "deep" / content).write_text(content)
    assert names(tmp_path / "folder" / "deep") == ["two"]


def test_a_file_takes_no_folders_place(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "old").touch()
    with pytest.raises(WriteError, match="results: is a folder"), atomic(tmp_path / "results") as a:
        a.write_text("new")
    assert names(tmp_path / "results") == ["old"]
    with pytest.raises(WriteError, match="b: is read or written in this call already"):
        check_outputs([None, tmp_path / "b", tmp_path / "results" / ".." / "b"], [])
    check_outputs([Path("/dev/stdout"), Path("/dev/stdout")], [Path("/dev/stdout")])
    circle = tmp_path / "circle"
    circle.symlink_to("circle")
    check_outputs([tmp_path / "new"], [circle])  # whose reader says what it is


def test_writers_may_be_nested(tmp_path):
    with atomic(tmp_path / "a.txt") as outer, atomic(outer) as inner:
        inner.write_text("all")
    assert names(tmp_path) == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    path = tmp_path / "a.txt"
    fsync = os.fsync

    def record(descriptor):
        seen.append((os.readlink(f"/proc/self/fd/{descriptor}"), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    with atomic(path) as aside:
        aside.write_text("all")
    assert seen == [(str(aside), False), (str(tmp_path), True)]


def test_what_a_killed_writer_leaves_is_swept_and_what_a_living_one_makes_stays(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", WRITE_AND_WAIT]
    killed, living = (
        subprocess.Popen([*command, tmp_path / name], **pipes) for name in ("killed", "living")
    )
    for process in (killed, living):
        assert process.stdout.readline() == "written\n"
    killed.kill()
    killed.communicate()
    assert len(names(tmp_path)) == 2
    (tmp_path / ".mine").mkdir()
    remove_abandoned(tmp_path)
    assert len(names(tmp_path)) == 2
    [aside] = tmp_path.glob(f".living.*{ASIDE}")
    living.communicate("\n")
    assert names(tmp_path) == [".mine", "living"]
    assert (tmp_path / "living").read_text() == "half"
    assert not aside.exists()


@pytest.mark.parametrize(
    "maker", [str(Process("node7", "0123456789ab", os.getpid(), 1)), None], ids=["elsewhere", "old"]
)
def test_what_another_machine_or_an_older_version_makes_is_left_for_two_days(tmp_path, maker):
    parts = filter(None, (".a.txt", maker, f"k2x_9q{ASIDE}"))
    folder = tmp_path / ".".join(parts)
    written = folder / "deep" / "a.txt"
    written.parent.mkdir(parents=True)
    written.write_text("half")

    def written_before(seconds, *paths):
        for path in paths:
            os.utime(path, (time.time() - seconds,) * 2)

    days = 3 * 24 * 3600
    written_before(days, folder)
    remove_abandoned(tmp_path)
    assert written.exists()
    written_before(days, written, written.parent, folder)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == []


def test_what_a_process_made_whose_number_has_another_by_now_is_swept(tmp_path):
    (tmp_path / f".a.txt.{Process.this()._replace(start=1)}.k2x_9q{ASIDE}").mkdir()
    (tmp_path / f".a.txt.{Process.this()}.k2x_9q{ASIDE}").mkdir()
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [f".a.txt.{Process.this()}.k2x_9q{ASIDE}"]


def test_a_folder_that_is_not_ones_own_is_refused(tmp_path):
    own, open_to_all, link, anothers = (tmp_path / name for name in "abcd")
    make_private(own)
    make_private(own)
    assert own.stat().st_mode & 0o777 == 0o700
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.symlink_to(own)
    anothers.mkdir()
    if os.getuid() == 0:
        os.chown(anothers, 12345, 12345)
    for folder in (open_to_all, link, *[anothers] * (os.getuid() == 0)):
        with pytest.raises(WriteError, match="is another person's, or others can write to it"):
            make_private(folder)


NOISE = torch.randn(1_000_000)
WRITERS = {
    "text": lambda path: path.write_text("x" * 4_000_000),
    "torch": lambda path: torch.save(NOISE, path),
    "safetensors": lambda path: save_file({"noise": NOISE}, path),
    "numpy": lambda path: np.savez_compressed(path, noise=NOISE.numpy()),
}


def test_what_cannot_be_kept_aside_is_one_line(tmp_path):
    (tmp_path / "a.json").touch()
    (tmp_path / ".a.json.old").mkdir()
    with pytest.raises(
        WriteError, match=r"^.*\.a\.json\.old: cannot be written \(Is a directory\).*$"
    ):
        keep(tmp_path / "a.json")


def test_a_full_disk_is_one_line_and_the_file_before_stays(mount):
    disk = mount("size=2m")
    path = disk / "file.npz"
    for writer in WRITERS.values():
        path.write_text("before")
        with (
            pytest.raises(WriteError, match=r"file.npz: the disk is full.*make room"),
            atomic(path) as aside,
        ):
            writer(aside)
        assert names(disk) == ["file.npz"]
        assert path.read_text() == "before"


def test_a_disk_that_is_read_only_is_one_line(mount):
    disk = mount("size=2m")
    mount("remount,ro")
    for path in (disk / "a.txt", disk / "new" / "a.txt"):
        with (
            pytest.raises(WriteError, match=r"a.txt: cannot be written \(Read-only file system\)"),
            atomic(path) as aside,
        ):
            aside.write_text("all")


def test_a_folder_that_is_a_link_keeps_being_one(tmp_path):
    """A person has put it on a larger disk."""
    disk, link = tmp_path / "disk", tmp_path / "splits"
    disk.mkdir()
    (disk / "theirs").touch()
    (disk / "inner").mkdir()
    (disk / "inner" / "old").touch()
    link.symlink_to(disk)
    for word in ("one", "two"):
        with atomic(link) as aside:
            (aside / "inner").mkdir(parents=True)
            (aside / "inner" / "file").write_text(word)
        assert link.is_symlink() and (disk / "theirs").exists()
        assert [path.name for path in (disk / "inner").iterdir()] == ["file"]
        assert (link / "inner" / "file").read_text() == word
    assert sorted(path.name for path in disk.iterdir()) == ["inner", "theirs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "splits"]


def test_into_a_device_or_a_pipe_it_is_written(tmp_path):
    before = os.stat("/dev/null")
    with atomic(Path("/dev/null")) as aside:
        aside.write_text("whole")
    assert os.stat("/dev/null").st_ino == before.st_ino
    writes = "from pathlib import Path; from adafocus.machine.files import atomic\n"
    writes += "with atomic(Path('/dev/stdout')) as aside: aside.write_text('whole')"
    told = subprocess.run([sys.executable, "-c", writes], capture_output=True, text=True)
    assert told.stdout == "whole"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", writes], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "whole"
    assert Path("/dev/stdout").is_symlink()
