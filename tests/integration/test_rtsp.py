"""Streams of a real RTSP server on loopback, Debian's rtsp-server-perl, which sends by UDP alone.

As a camera does, ffmpeg gives it a film while that is made.
"""

import shutil
import socket
import subprocess
import time

import numpy as np
import pytest
from noise import tiny_recipe
from test_predict import write_weights

from adafocus.data import live
from adafocus.data.ffmpeg import ffmpeg_path
from adafocus.deploy.predict import Predictor
from adafocus.deploy.watch import Watcher
from adafocus.machine.signals import Stop

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not shutil.which("rtsp-server-perl"), reason="apt-get install rtsp-server-perl"
    ),
]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for(port, server):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        assert server.poll() is None
        with socket.socket() as caller:
            if caller.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


@pytest.fixture
def ports():
    """Where watchers and cameras call, of a server that runs."""
    watchers, cameras = free_port(), free_port()
    here = [f"--{who}_listen_address=127.0.0.1" for who in ("client", "source")]
    command = ["rtsp-server-perl", "-c", str(watchers), "-s", str(cameras), *here]
    server = subprocess.Popen([*command, "--rtp_start_port", str(free_port() & ~1)])
    try:
        wait_for(watchers, server)
        wait_for(cameras, server)
        yield watchers, cameras
    finally:
        server.kill()
        server.wait()


def camera(port):
    """Once the server has let go of the one before."""
    film = ["-re", "-f", "lavfi", "-i", "testsrc=size=146x74:rate=10", "-frames:v", "600"]
    coded = ["-c:v", "libx264", "-g", "5", "-bf", "0", "-pix_fmt", "yuv420p", "-f", "rtsp"]
    command = [ffmpeg_path(), "-nostdin", "-v", "fatal", *film, *coded]
    for _ in range(20):
        sending = subprocess.Popen([*command, f"rtsp://127.0.0.1:{port}/camera"])
        try:
            sending.wait(1)
        except subprocess.TimeoutExpired:
            return sending
    raise TimeoutError("the server takes no film")


def test_an_rtsp_camera_is_watched_and_connected_to_again(ports, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "WAITS", (0.5,))
    monkeypatch.setattr(live, "SILENCE", 5)
    weights = write_weights(tiny_recipe("gru"), tmp_path, "stage3")
    watcher = Watcher(Predictor(weights, "cpu", runtime="torch"), None, 2)
    watchers, cameras = ports
    address = f"rtsp://127.0.0.1:{watchers}/camera"
    sending, steps = camera(cameras), []
    try:
        with Stop() as stop:
            for moment in live.moments(address, watcher.predictor.recipe.frames, 5, 10, stop):
                steps.append(watcher(moment).facts)
                if len(steps) == 8:
                    sending.terminate()  # so that it takes its leave of the server
                    sending.wait(20)
                    sending = camera(cameras)
                if moment.connection == 2:
                    stop.number = 15
    finally:
        sending.kill()
        sending.wait()
    first = [step for step in steps if step["connection"] == 1]
    times = [step["time"] for step in first]
    assert times[:8] == pytest.approx(np.arange(8) * 0.2, abs=0.11)
    left, top, right, bottom = first[0]["looks"][0]["box"]
    assert 0 <= left < right <= 146 and 0 <= top < bottom <= 74
    assert steps[-1]["connection"] == 2
    assert all(line.startswith(f"{address}: ") for line in capsys.readouterr().err.splitlines())
