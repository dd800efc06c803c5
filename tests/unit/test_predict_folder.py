"""Predictions of many videos: what was killed goes on, and decoding runs beside computing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import partial

import pytest
from miniature import make_video
from noise import tiny_recipe
from test_predict import write_weights

from adafocus.data.decoder import decode_some
from adafocus.deploy.folder import AHEAD, Unfinished, read_ahead
from adafocus.machine.files import WriteError
from adafocus.recipe import Frames


@pytest.fixture
def weights(tmp_path):
    return write_weights(tiny_recipe("gru"), tmp_path, "stage3")


def test_what_was_killed_goes_on_where_it_stopped(weights, tmp_path):
    files = [tmp_path / f"{name}.mp4" for name in "abcd"]
    for path in (*files[:2], files[3]):
        make_video(path, 5)
    # Which takes a second to read, as each frame needs the one before.
    make_video(files[2], 3000, "320x240", "-g", "3000")
    output = tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.part"
    command = [sys.executable, "-m", "adafocus", "predict", *files, "--checkpoint", weights]
    command += ["--json", output, "--device", "cpu", "--runtime", "torch"]
    predict = partial(subprocess.run, capture_output=True, text=True)
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        late = time.monotonic() + 120
        while not part.exists() or len(part.read_bytes().splitlines()) < 3:
            assert time.monotonic() < late and killed.poll() is None
            time.sleep(0.01)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert not output.exists()

    # As if it had been killed while it wrote, and as if `b` were another film by now.
    header, first, second = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(header + first.replace(b"gflops", b"marked") + second + second[:-9])
    for path in files[1:3]:
        path.unlink()
    make_video(files[1], 7)
    make_video(files[2], 5)
    os.utime(files[1], (0, 0))

    other = predict([*command, "--top", "3"])
    assert other.returncode == 1
    assert f"Error: {part}: was begun with another --top: give the same again" in other.stderr

    done = predict(command)
    assert done.returncode == 0, done.stderr
    assert f"{part}: 1 of 4 videos were predicted before and are kept" in done.stderr
    assert [f"{path}: class" in done.stdout for path in files] == [False, True, True, True]
    kept, *made = map(json.loads, output.read_text().splitlines())
    assert [row["video"] for row in (kept, *made)] == list(map(str, files))
    assert "marked" in kept and all("gflops" in row for row in made)
    assert not part.exists()

    # What is finished is as the command says, and not gone on with.
    assert predict([*command, "--top", "3"]).returncode == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {len(row["predictions"]) for row in rows} == {3}


def test_a_full_disk_keeps_what_was_predicted(mount):
    output = mount("size=16k") / "out.jsonl"
    others = [output / str(number) for number in range(4)]
    with Unfinished(output, {"--top": 5}, [output, *others]) as unfinished:
        unfinished.add(output, "x" * 5000)
        with pytest.raises(WriteError, match=r"out.jsonl.part: .*full"):
            for other in others:
                unfinished.add(other, "x" * 5000)
    with Unfinished(output, {"--top": 5}, [output, *others]) as unfinished:
        assert unfinished.find(output) == "x" * 5000


def test_what_others_left_under_the_name_is_not_touched(tmp_path):
    output, part = tmp_path / "out", tmp_path / "out.part"
    for foreign in (b"\0half a download", b'{"a": 1}\n{"b": 2}\n'):
        part.write_bytes(foreign)
        with pytest.raises(ValueError, match=r"out.part: is of another program"):
            Unfinished(output, {"--top": 5}, [])
        assert part.read_bytes() == foreign
    part.unlink()
    a, b = tmp_path / "a.mp4", tmp_path / "b.mp4"
    with Unfinished(output, {"--top": 5}, [a]) as unfinished:
        unfinished.add(a, "x")
    begun = part.read_bytes()
    with pytest.raises(ValueError, match=r"out.part: holds .* of 1 other videos, as .*a.mp4: give"):
        Unfinished(output, {"--top": 5}, [b])
    assert part.read_bytes() == begun
    with Unfinished(output, {"--top": 5}, [a, b]) as unfinished:
        assert unfinished.find(a) == "x"


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])  # some frames are decoded, and all
def test_nobody_waits_for_a_film_that_is_not_wanted_any_more(name, tmp_path):
    film, began, ended = make_video(tmp_path / name), threading.Event(), []

    def read(path, stopped):
        def choose(count):
            began.set()
            assert stopped.wait(20)
            return range(count)

        try:
            return path and decode_some(Frames(), path, choose, stopped)
        except CancelledError:
            ended.append(path)
            raise

    ahead = read_ahead(read, [None, film])
    assert next(ahead)[1].result() is None and began.wait(20)
    ahead.close()
    assert ended == [film]


def test_the_next_videos_are_read_while_one_is_computed():
    read = []
    third = threading.Event()

    def reader(path, _):
        read.append(path)
        if len(read) == AHEAD + 1:
            third.set()
        return path

    ahead = read_ahead(reader, range(100))
    assert next(ahead)[1].result() == 0
    assert third.wait(10)
    time.sleep(0.05)
    assert read == list(range(AHEAD + 1)), "not the whole folder at once"
    ahead.close()
    assert len(read) <= AHEAD + 1
