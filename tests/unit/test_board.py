"""A terminal shows how far jobs are by the bars in their logs; elsewhere lines tell it."""

import io
import os
import pty
import re
import time

import pytest
from tqdm import tqdm

from adafocus.machine import board
from adafocus.machine.board import CLEARED, Board, last_bar
from adafocus.machine.estimate import PlannedJob


@pytest.fixture
def log(tmp_path):
    """The log of a job that has done 3 of 10 batches."""
    path = tmp_path / "demo_28_stage2.log"
    with path.open("w") as file:
        file.write("=== attempt 1\n")
        bar = tqdm(desc="training", total=10, file=file, unit="batch", mininterval=0)
        for _ in range(3):
            time.sleep(0.01)
            bar.update()
        bar.set_postfix({"epoch": 2, "top1": "55.1"})
        file.flush()
        yield path
        bar.close()


def test_the_last_bar_of_a_log_tells_time_left_epoch_and_metric(log, tmp_path):
    share, told, left = last_bar(log)
    assert share == 0.3
    assert re.fullmatch(r"00:0\d left, epoch=2, top1=55\.1", told)
    assert 0 <= left < 10
    (tmp_path / "other.log").write_text("no bar yet\n")
    assert last_bar(tmp_path / "other.log") is None
    assert last_bar(tmp_path / "none.log") is None


def read(terminal, until):
    """What a terminal got, once that is in it."""
    found = ""
    end = time.monotonic() + 20
    while until not in found:
        assert time.monotonic() < end, found
        found += os.read(terminal, 4096).decode()
    return found


def test_a_terminal_has_one_line_that_makes_way(log, monkeypatch):
    monkeypatch.setattr(board, "REDRAWN_EVERY", 0.01)
    terminal, other_end = pty.openpty()
    with os.fdopen(other_end, "w") as stream:
        shown = Board(stream, total=12, jobs={})
        shown.begin(7, log)
        shown.done = 3
        first = read(terminal, "3/12 jobs").split(CLEARED)
        assert re.match(r"demo_28_stage2 \[###      \] 30% 00:0\d left, epoch=2", first[1])
        assert "\n" not in "".join(first)
        shown.end(7, done=True)
        assert shown.lines(80) == []
        shown.close()
        stream.write("END")
        stream.flush()
        assert read(terminal, "END").endswith(f"{CLEARED}END")
    os.close(terminal)


def test_a_terminal_that_closes_ends_nothing(log, monkeypatch):
    monkeypatch.setattr(board, "REDRAWN_EVERY", 0.01)
    terminal, other_end = pty.openpty()
    with open(other_end, "wb", buffering=0) as raw:
        stream = io.TextIOWrapper(raw, write_through=True)
        shown = Board(stream, total=12, jobs={})
        shown.begin(7, log)
        read(terminal, "0/12 jobs")
        os.close(terminal)
        with pytest.raises(OSError):
            raw.write(b"gone")
        shown.clear()
        shown.close()


def test_a_terminal_of_no_size_is_taken_for_one_of_80_columns(log, monkeypatch):
    monkeypatch.setattr(board, "REDRAWN_EVERY", 0.01)
    terminal, other_end = pty.openpty()
    assert os.get_terminal_size(other_end).columns == 0
    with os.fdopen(other_end, "w") as stream:
        shown = Board(stream, total=12, jobs={})
        shown.begin(7, log.rename(log.with_stem("a" * 90)))
        line = read(terminal, CLEARED + "a")
        shown.close()
        line = (line + os.read(terminal, 4096).decode()).split(CLEARED)[1]
        assert line == "a" * 79
    os.close(terminal)


def test_a_long_line_is_cut_to_the_terminal(log):
    shown = Board(io.StringIO(), total=12, jobs={})
    shown.begin(1, log)
    (line,) = shown.lines(40)
    shown.close()
    assert len(line) == 40


def test_without_a_terminal_each_job_has_a_line_from_time_to_time(log, monkeypatch):
    monkeypatch.setattr(board, "TOLD_EVERY", 0.01)
    stream = io.StringIO()
    shown = Board(stream, total=12, jobs={})
    shown.begin(7, log)
    end = time.monotonic() + 20
    while stream.getvalue().count("\n") < 3:
        assert time.monotonic() < end, "nothing is told"
        time.sleep(0.01)
    shown.close()
    lines = stream.getvalue().splitlines()[1:-1]
    told = r"\d\d:\d\d demo_28_stage2: 30%, 00:0\d left, epoch=2, top1=55.1; 0/12 jobs, 0:0\d"
    assert all(re.fullmatch(told, line) for line in lines), lines
    assert CLEARED not in stream.getvalue()


def test_the_whole_chain_is_estimated_once_all_is_known(log):
    other = log.with_name("demo_28_stage3.log")
    jobs = {
        log: PlannedJob("stage2", frozenset(), None),
        other: PlannedJob("stage3", frozenset({log}), 90.0),
    }
    shown = Board(io.StringIO(), total=2, jobs=jobs)
    shown.begin(7, log)
    (line,) = shown.lines()
    assert re.search(r"; 0/2 jobs, ~2 min left$", line)
    log.write_text("no bar any more")
    (line,) = shown.lines()
    assert re.search(r", 0/2 jobs, 0:0\d$", line)
    shown.close()
