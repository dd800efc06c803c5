"""Streams: a real server on loopback that goes away and comes again, files, and what is refused."""

import json
import socket
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from miniature import make_video
from noise import tiny_recipe, uni_recipe
from test_predict import NAMES, write_weights
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.data import live
from adafocus.data.clips import crop_centre
from adafocus.data.decoder import decode_some, stacked
from adafocus.data.ffmpeg import ffmpeg_path, timeline
from adafocus.deploy.predict import Predictor
from adafocus.deploy.watch import Watcher
from adafocus.machine.signals import Stop
from adafocus.model import checkpoint
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint


def watch(*arguments):
    options = ["--device", "cpu", "--runtime", "torch"]
    return CliRunner().invoke(app, ["watch", *map(str, arguments), *options])


@pytest.fixture
def weights(tmp_path):
    return write_weights(tiny_recipe("gru"), tmp_path, "stage3")


@pytest.fixture
def uni(tmp_path):
    recipe = uni_recipe("long")
    torch.manual_seed(0)
    tensors = build(recipe, 32).state_dict()
    path = tmp_path / "uni.safetensors"
    checkpoint.write(path, Checkpoint(tensors, recipe, "joint", 32, NAMES))
    return path


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/camera"


def serve(address, frames):
    """A server of ffmpeg's that gives one caller a film, as it is made, and ends."""
    film = ["-re", "-f", "lavfi", "-i", "testsrc=size=146x74:rate=10", "-frames:v", str(frames)]
    coded = ["-c:v", "mpeg2video", "-g", "5", "-f", "mpegts", "-listen", "1", address]
    return subprocess.Popen([ffmpeg_path(), "-nostdin", "-v", "error", *film, *coded])


@pytest.fixture
def give():
    """Starts a server that gives each caller parts of a film, the first ones others, and closes the
    connection, as HTTP/1.0 does; tells its address."""
    servers = []

    def start(*parts, others=(), length=None):
        others = [*others]

        class Giver(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                for part in [others.pop(0)] if others else parts:
                    self.wfile.write(part)
                    time.sleep(0.5 if part is not parts[-1] else 0)

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Giver))
        Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/film"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def film_bytes(path, frames, *options):
    return make_video(path, frames, "64x48", *options, rate=10).read_bytes()


def seen(source, tries):
    """How many frames each connection gave, and how it ended."""
    counts, end = {}, None
    with Stop() as stop:
        moments = live.moments(source, tiny_recipe("gru").frames, 10, tries, stop)
        try:
            for moment in islice(moments, 500):
                counts[moment.connection] = counts.get(moment.connection, 0) + 1
        except live.DataError as error:
            end = str(error).removeprefix(f"{source}: ")
    return list(counts.values()), end


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4"])
def test_a_film_by_http_ends_where_the_connection_is_closed(give, weights, tmp_path, name):
    table = ["-movflags", "+faststart"] if name == "film.mp4" else []
    source = give(film_bytes(tmp_path / name, 100, *table))
    done = watch(source, "--checkpoint", weights, "--rate", 10, "--tries", 1)
    assert (done.exit_code, done.stderr) == (0, "")
    times = [json.loads(line)["time"] for line in done.stdout.splitlines()]
    assert times == pytest.approx(np.arange(100) / 10, abs=0.002)


def test_a_film_by_http_ends_where_its_length_says(give, tmp_path):
    film = film_bytes(tmp_path / "film.ts", 20)
    assert seen(give(film, length=len(film)), 2) == ([20], None)


def test_a_film_that_tells_no_length_is_not_begun_again_for_ever(give, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "WAITS", (0.01,))
    first, second, last = (film_bytes(tmp_path / f"{n}.ts", n) for n in (20, 10, 15))
    source = give(last, others=[first, second])
    # What differs is a camera's, however often it goes away.
    assert seen(source, 2) == ([20, 10, 15, 15], "given up after 2 tries (it ended)")


def test_a_film_that_breaks_off_is_not_begun_again_for_ever(give, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "WAITS", (0.01,))
    film = film_bytes(tmp_path / "film.mkv", 40, "-g", "10")
    half, more = film[: len(film) // 2], film[: len(film) * 3 // 4]
    counts, end = seen(give(half, others=[more]), 2)
    assert len(counts) == 2 and 10 < counts[1] < counts[0] < 40
    assert end == "given up after 2 tries (it broke off)"
    counts, end = seen(give(film, length=len(film) + 1), 2)
    assert len(counts) == 2 and end == "given up after 2 tries (Input/output error)"


def test_a_camera_that_sends_mp4_has_no_end(give, tmp_path, monkeypatch):
    """Of which FFmpeg tells how long the parts last that came first."""
    monkeypatch.setattr(live, "WAITS", (0.01,))
    parts = ["-g", "10", "-movflags", "+frag_keyframe+empty_moov+default_base_moof"]
    film = film_bytes(tmp_path / "film.mp4", 100, *parts)
    source = give(film[: len(film) // 2], film[len(film) // 2 :])
    assert seen(source, 2) == ([100] * 2, "given up after 2 tries (it ended)")


def test_a_camera_that_goes_away_is_connected_to_again(weights, address, monkeypatch, capsys):
    monkeypatch.setattr(live, "WAITS", (0.5,))
    watcher, steps, servers = Watcher(Predictor(weights, "cpu", runtime="torch"), None, 2), [], []
    servers.append(serve(address, 10))
    try:
        with Stop() as stop:
            frames = live.moments(address, watcher.predictor.recipe.frames, 5, 20, stop)
            for moment in frames:
                steps.append(watcher(moment).facts)
                if len(servers) < 2 and len(steps) == 5:
                    servers[0].wait(20)
                    servers.append(serve(address, 100))
                if len(steps) == 8:
                    stop.number = 15
    finally:
        for server in servers:
            server.kill()
            server.wait()
    assert [step["connection"] for step in steps] == [1] * 5 + [2] * 3
    times = [step["time"] for step in steps]
    assert times == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0, 0.2, 0.4], abs=0.011)
    # What the broken connection showed is forgotten.
    assert steps[5]["predictions"] == steps[0]["predictions"] != steps[1]["predictions"]
    said = capsys.readouterr().err.splitlines()
    assert said and all(line.startswith(f"{address}: ") for line in said)
    assert f"{address}: it ended; try 2 of 20 in 0.5 s" in said


def test_a_camera_that_stays_away_is_given_up(weights, address, monkeypatch):
    monkeypatch.setattr(live, "WAITS", (0.01, 0.02))
    private = address.replace("127", "me:secret@127") + "?pwd=secret"
    done = watch(private, "--checkpoint", weights, "--tries", 4)
    assert done.exit_code == 1
    said = [
        f"{address}: Connection refused; try {n} of 4 in {s} s"
        for n, s in ((2, 0.01), (3, 0.02), (4, 0.02))
    ]
    end = f"Error: {address}: given up after 4 tries (Connection refused)"
    assert done.stderr.splitlines() == [*said, end]


def test_what_was_drawn_of_a_camera_that_is_given_up_is_kept(weights, address, tmp_path):
    overlay = tmp_path / "look.mp4"
    options = ["--checkpoint", weights, "--rate", 5, "--tries", 1, "--overlay", overlay]
    server = serve(address, 10)
    try:
        while "refused" in (done := watch(address, *options)).stderr:
            assert server.poll() is None
            time.sleep(0.1)
    finally:
        server.kill()
        server.wait()
    assert done.exit_code == 1 and "given up after 1 tries (it ended)" in done.stderr
    assert len(timeline(overlay).times) == len(done.stdout.splitlines()) == 5


def test_a_signal_is_answered_between_frames_that_are_far_apart(address, monkeypatch):
    monkeypatch.setattr(live, "WAITS", (0.1,))
    server = serve(address, 100)
    try:
        with Stop() as stop:
            frames = live.moments(address, tiny_recipe("gru").frames, 0.05, 100, stop)
            next(frames)
            stop.number, began = 15, time.monotonic()
            assert list(frames) == []
            assert time.monotonic() - began < 4  # the film lasts 10 seconds
    finally:
        server.kill()
        server.wait()


def test_a_silent_server_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(live, "SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server, Stop() as stop:
        source = f"http://127.0.0.1:{server.getsockname()[1]}/"
        frames = live.moments(source, tiny_recipe("gru").frames, 5, 1, stop)
        with pytest.raises(live.DataError, match=r"after 1 tries \(silent for 0.2 s\)"):
            next(frames)


def test_times_go_on_where_stamps_run_back(tmp_path):
    """As a camera's do that begins anew, and RTSP's, once the server's clock is known."""
    film = make_video(tmp_path / "film.ts", 10, "64x48", rate=10)
    twice = tmp_path / "twice.ts"
    twice.write_bytes(film.read_bytes() * 2)
    with Stop() as stop:
        found = list(live.moments(str(twice), tiny_recipe("gru").frames, 5, 1, stop))
    assert [moment.time for moment in found] == pytest.approx(np.arange(10) / 5, abs=0.001)


def test_a_file_is_stepped_through_as_the_model_does(weights, tmp_path):
    video = make_video(tmp_path / "film.mp4", 20, "146x73", rate=10)
    overlay = tmp_path / "look.mp4"
    done = watch(video, "--checkpoint", weights, "--rate", 5, "--overlay", overlay, "--top", 5)
    assert done.exit_code == 0, done.output
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["time"] for step in steps] == pytest.approx(np.arange(10) / 5)

    pictures, _ = decode_some(tiny_recipe("gru").frames, video, range)
    frames, _ = crop_centre(stacked(pictures, range(0, 20, 2)), 64)
    stream = checkpoint.load(weights).stream()
    for frame, step in zip(frames, steps, strict=True):
        expected = stream(frame[None]).logits[0, -1].softmax(-1)
        found = {guess["label"]: guess["probability"] for guess in step["predictions"]}
        assert [found[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-5)
        left, top, right, bottom = step["looks"][0]["box"]
        assert right - left == pytest.approx(bottom - top, abs=0.02) == pytest.approx(32, abs=0.1)
    assert len(timeline(overlay).times) == 10


def test_uni_adafocus_predicts_from_windows(uni, tmp_path):
    video = make_video(tmp_path / "film.mp4", 20, "146x73", rate=10)
    overlay = tmp_path / "look.mp4"
    done = watch(video, "--checkpoint", uni, "--rate", 10, "--every", 5, "--overlay", overlay)
    assert done.exit_code == 0, done.output
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["time"] for step in steps] == pytest.approx([0.7, 1.2, 1.7])
    pictures, _ = decode_some(uni_recipe("long").frames, video, range)
    frames, _ = crop_centre(stacked(pictures, range(5, 13)), 64)
    with torch.inference_mode():
        out = checkpoint.load(uni)(frames[None])
    assert [look["time"] for look in steps[1]["looks"]] == pytest.approx(
        [0.1 * (5 + frame) for frame in out.frames[0].tolist()]
    )
    best = out.logits[0, -1].softmax(-1).max().item()
    assert steps[1]["predictions"][0]["probability"] == pytest.approx(best, abs=1e-4)
    assert len(timeline(overlay).times) == 8 + 5 + 5


def test_uni_adafocus_without_a_prediction_is_an_error(uni, tmp_path):
    video = make_video(tmp_path / "film.mp4", 20, "146x73", rate=10)
    done = watch(video, "--checkpoint", uni, "--rate", 1)
    assert done.exit_code == 1
    reason = "ended after 2 frames, and the first prediction needs 8: raise --rate"
    assert done.stderr == f"Error: {video}: {reason}\n"
    overlay = ["--overlay", tmp_path / "look.mp4"]
    done = watch(video, "--checkpoint", uni, "--rate", 10, "--every", 9, *overlay)
    assert done.exit_code == 1 and "give an --every of 8 or less" in done.stderr


def test_memory_is_constant(weights, tmp_path):
    video = make_video(tmp_path / "long.mp4", 450, "64x48")
    watcher, held = Watcher(Predictor(weights, "cpu", runtime="torch"), None, 2), []
    with Stop() as stop:
        for moment in live.moments(str(video), watcher.predictor.recipe.frames, 25, 1, stop):
            watcher(moment)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            held.append(pages * 4096)
    assert len(held) == 450
    assert max(held[350:]) - max(held[100:200]) < 2 << 20


def test_what_is_no_source_is_one_line(weights, uni, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for source, reason in (
        ("ftp://host/film", "begins with one of http://, https://, rtsp://"),
        (tmp_path / "gone.mp4", "there is no such file"),
        (tmp_path / "text.mp4", "cannot be read (Invalid data"),
    ):
        done = watch(source, "--checkpoint", weights)
        assert done.exit_code == 1 and reason in done.stderr, done.output
        assert len(done.stderr.splitlines()) == 1
    done = watch(tmp_path / "text.mp4", "--checkpoint", weights, "--every", 3)
    assert "--every is for Uni-AdaFocus" in done.stderr
    tsm = write_weights(tiny_recipe("tsm"), tmp_path, "stage2")
    done = watch(tmp_path / "text.mp4", "--checkpoint", tsm)
    assert done.exit_code == 1 and "chooses a place in every frame" in done.stderr
