"""Locks on outputs: who waits, who takes over, and what is never done by two."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from adafocus.machine import locks
from adafocus.machine.files import WriteError
from adafocus.machine.locks import Lock, enter
from adafocus.machine.processes import Process

HOLD = """
import sys
from pathlib import Path
from adafocus.machine import locks
locks.BEAT, locks.SILENCE = 0.1, 1.0
lock = locks.Lock(Path(sys.argv[1]), "training", "the same")
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""
ELSEWHERE = Process("node7", "0123456789ab", 4242, 1)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.1)
    monkeypatch.setattr(locks, "SILENCE", 1.0)
    monkeypatch.setattr(locks, "LOOK_EVERY", 0.05)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of ``a.json`` until it reads a line."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "a.json"], **pipes, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def waited(lock):
    started = time.monotonic()
    lock.acquire()
    return time.monotonic() - started


@contextmanager
def touched(path):
    """As a holder on another machine does it, whose clock is a year behind."""
    ending = threading.Event()

    def touch():
        beats = time.time() - 365 * 24 * 3600
        while not ending.wait(0.1):
            beats += 0.1
            os.utime(path, (beats, beats))

    thread = threading.Thread(target=touch)
    thread.start()
    yield
    ending.set()
    thread.join()


def held_elsewhere(path):
    path.write_text(json.dumps({"process": str(ELSEWHERE), "job": "training", "work": ""}))


def test_a_lock_is_gone_after_its_block(tmp_path):
    lock = Lock(tmp_path / "new" / "a.json", "a job")
    lock.acquire()
    text = (tmp_path / "new" / ".a.json.lock").read_text()
    assert str(os.getpid()) in text and "a job" in text
    lock.release()
    lock.release()
    assert list((tmp_path / "new").iterdir()) == []


def test_the_second_waits_for_the_first_and_names_it(tmp_path, holder, capsys):
    lock = Lock(tmp_path / "a.json", "the second", "the same")
    for _ in range(40):
        assert not lock.attempt()
        time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, "one a minute"
    assert f"process {holder.pid} on " in lines[0] and "(training)" in lines[0]
    holder.communicate("\n")
    assert waited(lock) < 1
    assert lock.done_by.process.pid == holder.pid
    lock.release()


def test_work_that_differs_or_was_cut_off_is_not_done(tmp_path, holder):
    other = Lock(tmp_path / "a.json", "the second", "other work")
    same = Lock(tmp_path / "a.json", "the third", "the same")
    assert not other.attempt() and not same.attempt()
    holder.kill()
    holder.wait()
    same.acquire()
    assert same.done_by is None
    same.release()
    other.acquire()
    assert other.done_by is None
    other.release()


def test_a_killed_holder_of_this_machine_is_known_to_be_dead_at_once(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 1000)
    lock = Lock(tmp_path / "a.json", "the second")
    assert not lock.attempt()
    holder.kill()  # its parent has not looked yet: it stays as a zombie
    assert waited(lock) < 1
    lock.release()


def test_a_number_that_another_process_has_by_now_is_no_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 1000)
    before = Process.this()._replace(start=1)
    (tmp_path / ".a.json.lock").write_text(
        json.dumps({"process": str(before), "job": "training", "work": ""})
    )
    lock = Lock(tmp_path / "a.json", "the second")
    assert waited(lock) < 1
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[]", None])
def test_a_holder_elsewhere_is_dead_when_it_is_silent(tmp_path, text):
    path = tmp_path / ".a.json.lock"
    held_elsewhere(path) if text is None else path.write_text(text)
    lock = Lock(tmp_path / "a.json", "the second")
    with touched(path):
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            assert not lock.attempt()
            time.sleep(0.05)
    assert 0.5 < waited(lock) < 2
    lock.release()


def test_only_one_takes_over(tmp_path):
    """Each adds one to a number in a file, which takes it a while."""
    held_elsewhere(tmp_path / ".a.json.lock")
    output = tmp_path / "a.json"
    output.write_text("0")

    def add_one(number):
        lock = Lock(output, f"job {number}")
        lock.acquire()
        before = int(output.read_text())
        time.sleep(0.02)
        output.write_text(str(before + 1))
        lock.release()

    threads = [threading.Thread(target=add_one, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert output.read_text() == "8"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("third", [False, True])
def test_who_is_slow_to_take_over_leaves_a_lock_that_is_in_use(tmp_path, monkeypatch, links, third):
    """A second took over the dead lock after it was looked at last, and a third has made its own
    where the second's was moved away."""
    path = tmp_path / ".a.json.lock"
    held_elsewhere(path)
    watch = locks.Watch(path)
    watch.look()
    time.sleep(1.1)
    replace = Path.replace

    def slow(source, target):
        source.write_text("the second")
        replace(source, target)
        if third:
            source.write_text("the third")
        monkeypatch.setattr(Path, "replace", replace)
        return target

    def no_link(*_):
        raise PermissionError(errno.EPERM, "no links")

    monkeypatch.setattr(Path, "replace", slow)
    if not links:
        monkeypatch.setattr(os, "link", no_link)
    watch.remove()
    assert path.read_text() == ("the third" if third else "the second")
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_another_has_taken_over_is_not_touched(tmp_path):
    path = tmp_path / ".a.json.lock"
    held_elsewhere(path)
    watch = locks.Watch(path)
    watch.look()
    time.sleep(1.1)
    assert watch.is_dead
    path.write_text("the second")
    before = path.stat().st_ctime_ns  # that of a file which was moved away and back is another
    watch.remove()
    assert path.stat().st_ctime_ns == before


def test_a_lock_that_goes_while_it_is_read_is_not_there(tmp_path, monkeypatch):
    """As another machine removes it from a disk of the network."""
    held_elsewhere(tmp_path / ".a.json.lock")
    watch = locks.Watch(tmp_path / ".a.json.lock")
    failing(monkeypatch, errno.ESTALE)
    assert not watch.look()


def test_a_lock_on_a_disk_that_is_away_is_as_it_was(tmp_path, monkeypatch):
    held_elsewhere(tmp_path / ".a.json.lock")
    watch = locks.Watch(tmp_path / ".a.json.lock")
    with monkeypatch.context() as away:
        failing(away, errno.EIO)
        assert watch.look() and not watch.is_dead
    assert watch.look() and watch.holder.process == ELSEWHERE
    failing(monkeypatch, errno.EIO)
    assert watch.look() and not watch.is_dead and watch.holder.process == ELSEWHERE
    time.sleep(1.1)
    assert watch.look() and watch.is_dead


def failing(monkeypatch, number):
    def read(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", read)


def test_a_holder_that_was_stopped_for_long_ends_when_it_sees_that_another_took_over(
    tmp_path, holder
):
    lock = Lock(tmp_path / "a.json", "the second")
    assert not lock.attempt()
    holder.send_signal(signal.SIGSTOP)
    assert 0.5 < waited(lock) < 3
    holder.send_signal(signal.SIGCONT)
    assert holder.wait(10) == 1
    assert "the second) has taken it over" in holder.stderr.read()
    assert not Lock(tmp_path / "a.json", "the third").attempt()
    lock.release()


def test_a_holder_gives_signs_of_life_while_a_library_computes(tmp_path):
    import torch

    lock = Lock(tmp_path / "a.json", "a job")
    lock.acquire()
    before = lock.path.stat().st_mtime_ns
    matrix = torch.rand(1500, 1500)
    started = time.monotonic()
    matrix @ matrix @ matrix
    if time.monotonic() - started < 0.3:
        matrix = torch.rand(5000, 5000)
        matrix @ matrix
    assert lock.path.stat().st_mtime_ns > before
    lock.release()


def test_a_lock_that_cannot_be_written_is_one_line(mount):
    disk = mount("size=2m")
    mount("remount,ro")
    with pytest.raises(WriteError, match="a.json.lock: cannot be written"):
        Lock(disk / "a.json", "a job").acquire()


ENTER = "import sys; from pathlib import Path; from adafocus.machine.locks import enter\n"
ENTER += "print(enter(Path(sys.argv[1]), 'snakemake'), flush=True); sys.stdin.readline()"


def test_who_enters_a_folder_knows_whether_others_live_there(tmp_path):
    command = [sys.executable, "-c", ENTER, tmp_path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first, second = (subprocess.Popen(command, **pipes) for _ in range(2))
    assert sorted(process.stdout.readline() for process in (first, second)) in (
        ["False\n", "False\n"],
        ["False\n", "True\n"],
    )
    first.kill()
    second.communicate("\n")
    assert subprocess.check_output(command, text=True, stdin=subprocess.DEVNULL) == "True\n"
    assert list(tmp_path.iterdir()) == []


def test_one_of_another_machine_is_watched_until_its_next_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(locks.atexit, "register", lambda release: held.append(release))
    held = []
    path = tmp_path / f".{ELSEWHERE}.lock"
    held_elsewhere(path)
    with touched(path):
        assert not enter(tmp_path, "snakemake")
    held.pop()()
    started = time.monotonic()
    assert enter(tmp_path, "snakemake")
    assert time.monotonic() - started > 0.9
    held.pop()()
    assert list(tmp_path.iterdir()) == []
