"""Videos by their ids, by the real yt-dlp from a real server."""

import csv
import json
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

import psutil
import pytest
from miniature import make_recipe, make_video

from adafocus.data import DataError
from adafocus.data.ffmpeg import timeline
from adafocus.data.frames import extract
from adafocus.data.listing import video_changes
from adafocus.data.sources import fetch
from adafocus.machine.files import keep

pytest.importorskip("yt_dlp", reason="yt-dlp is not installed")
IDS = ("AAAAAAAAAAA", "-BBBBBBBBB_", "CCCCCCCCCCC", "gone1234567")


@pytest.fixture
def site(tmp_path):
    """Address of a site with the videos of all ids but the last, four seconds each."""
    folder = tmp_path / "site"
    for id in IDS[:3]:
        # One key frame each, so that a cut has to be encoded anew.
        make_video(folder / f"{id}.mp4", 40, "64x48", "-g", "100", rate=10)
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{{id}}.mp4"
        server.shutdown()


@pytest.fixture
def data(tmp_path):
    """A data set's folder with ActivityNet's annotations of all ids."""
    entry = {"subset": "training", "annotations": [{"label": "Archery"}]}
    annotations = tmp_path / "data" / "annotations"
    annotations.mkdir(parents=True)
    (annotations / "a.json").write_text(json.dumps({"database": dict.fromkeys(IDS, entry)}))
    return tmp_path / "data"


def recipe_of(url, missing, **annotations):
    return make_recipe(
        source={"kind": "youtube", "homepage": "http://example.org", "url": url},
        annotations=annotations or {"format": "activitynet", "file": "a.json"},
        videos={"missing": missing},
        frames={"shards": 1},
    )


def rows(path):
    with path.open(newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def test_a_video_that_is_gone_is_a_row_with_its_reason(site, data):
    recipe = recipe_of(site, missing=0.25)
    fetch(recipe, data, workers=2)
    listed = rows(data / "videos.csv")
    assert {name: row["path"] for name, row in listed.items()} == {
        "v_AAAAAAAAAAA": "videos/v_AAAAAAAAAAA.mp4",
        "v_-BBBBBBBBB_": "videos/v_-BBBBBBBBB_.mp4",
        "v_CCCCCCCCCCC": "videos/v_CCCCCCCCCCC.mp4",
        "v_gone1234567": "",
    }
    assert "404" in listed["v_gone1234567"]["error"]
    assert sorted(path.name for path in data.iterdir()) == ["annotations", "videos", "videos.csv"]

    manifest = rows(extract(recipe, data, shard=0, threads=2))
    assert {name: row["frames"] for name, row in manifest.items()} == {
        "v_AAAAAAAAAAA": "40", "v_-BBBBBBBBB_": "40", "v_CCCCCCCCCCC": "40", "v_gone1234567": "0"
    }  # fmt: skip
    assert manifest["v_gone1234567"]["error"] == listed["v_gone1234567"]["error"]


def test_more_missing_than_the_recipe_allows(site, data):
    with pytest.raises(DataError, match=r"1 of 4 videos could not be had.*videos\.missing.*404"):
        fetch(recipe_of(site, missing=0.2), data, workers=1)
    assert not (data / "videos.csv").exists()


def test_what_is_there_is_not_downloaded_again(site, data):
    make_video(data / "videos" / "v_gone1234567.webm", 5)
    fetch(recipe_of(site, missing=0), data, workers=2)
    assert rows(data / "videos.csv")["v_gone1234567"]["path"] == "videos/v_gone1234567.webm"
    first = {path: path.stat().st_mtime_ns for path in (data / "videos").iterdir()}
    fetch(recipe_of("http://127.0.0.1:9/{id}", missing=0), data, workers=2)  # no server there
    assert {path: path.stat().st_mtime_ns for path in (data / "videos").iterdir()} == first


def test_videos_that_were_deleted_when_their_frames_were_there_are_not_downloaded_again(site, data):
    recipe = recipe_of(site, missing=0.25)
    fetch(recipe, data, workers=2)
    before = rows(extract(recipe, data, shard=0, threads=2))
    listed = rows(data / "videos.csv")
    shutil.rmtree(data / "videos")
    assert video_changes(recipe, data) == ""
    make_video(data / "videos" / "v_gone1234567.webm", 5)  # as if it was downloaded
    for _ in range(2):  # the second time with what the first has added
        keep(data / "videos.csv")
        (data / "videos.csv").unlink()
        elsewhere = recipe_of("http://127.0.0.1:9/{id}", missing=0)  # no server there
        fetch(elsewhere, data, workers=1)
        now = rows(data / "videos.csv")
        assert {name: now[name] for name in listed if "gone" not in name} == {
            name: row for name, row in listed.items() if "gone" not in name
        }
        assert now["v_gone1234567"]["path"] == "videos/v_gone1234567.webm"
        assert video_changes(recipe, data) == ""
        manifest = rows(extract(recipe, data, shard=0, threads=2))
        assert {name: row for name, row in manifest.items() if "gone" not in name} == {
            name: row for name, row in before.items() if "gone" not in name
        }
    assert not list(data.glob(".*.old"))
    (data / "frames" / "v_CCCCCCCCCCC.zip").unlink()
    assert video_changes(recipe, data).endswith("1 taken out (videos/v_CCCCCCCCCCC.mp4)")


def test_pieces_of_videos(site, data):
    header = "label,youtube_id,time_start,time_end,split\n"
    (data / "annotations" / "train.csv").write_text(header + f"run,{IDS[0]},1,3,train\n")
    (data / "annotations" / "val.csv").write_text(header + f"run,{IDS[0]},0,1,val\n")
    (data / "annotations" / "classes.txt").write_text("run\n")
    files = {"train": "train.csv", "val": "val.csv", "classes": "classes.txt"}
    fetch(recipe_of(site, 0, format="kinetics", **files), data, workers=2)
    lengths = {path.name: len(timeline(path).times) for path in (data / "videos").iterdir()}
    assert lengths == {f"{IDS[0]}_000001_000003.mp4": 20, f"{IDS[0]}_000000_000001.mp4": 10}


def test_annotations_have_to_be_there(data):
    (data / "annotations" / "a.json").unlink()
    with pytest.raises(DataError, match=r"annotations/a\.json not found.*http://example\.org"):
        fetch(recipe_of("http://127.0.0.1:9/{id}", missing=0), data, workers=1)


@pytest.mark.parametrize("kind", ["whole", "pieces"])
def test_a_signal_stops_what_runs_and_starts_no_other(site, data, kind):
    """Two downloads of five hang when it comes, in pieces within ffmpeg; one is done."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            id = self.path.strip("/").removesuffix(".mp4")
            asked.append(id)
            video = (data.parent / "site" / f"{IDS[0]}.mp4").read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "video/mp4")
            self.send_header("Content-Length", len(video) if id == IDS[0] else 10 * len(video))
            self.end_headers()
            if self.command == "GET":
                with suppress(OSError):
                    self.wfile.write(video if id == IDS[0] else video[: len(video) // 2])
                    while id != IDS[0] and not over.wait(0.1):
                        self.wfile.write(bytes(1))

        def log_message(self, *_):
            pass

    over = Event()
    ids = (*IDS[:3], "DDDDDDDDDDD", "EEEEEEEEEEE")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{{id}}.mp4"
        if kind == "whole":
            entry = {"subset": "training", "annotations": [{"label": "Archery"}]}
            text = json.dumps({"database": dict.fromkeys(ids, entry)})
            (data / "annotations" / "a.json").write_text(text)
            recipe = recipe_of(address, missing=0)
            first = data / "videos" / f"v_{IDS[0]}.mp4"
        else:
            header = "label,youtube_id,time_start,time_end,split\n"
            rows = "".join(f"run,{id},0,2,train\n" for id in ids)
            (data / "annotations" / "train.csv").write_text(header + rows)
            (data / "annotations" / "val.csv").write_text(header)
            (data / "annotations" / "classes.txt").write_text("run\n")
            files = {"train": "train.csv", "val": "val.csv", "classes": "classes.txt"}
            recipe = recipe_of(address, 0, format="kinetics", **files)
            first = data / "videos" / f"{IDS[0]}_000000_000002.mp4"
        log = data.parent / "log"
        with log.open("w") as file:
            command = [sys.executable, "-c", FETCH, recipe.write(data.parent), data]
            process = subprocess.Popen(command, stderr=file)
        while not first.exists() or len({*asked}) < 3:
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        time.sleep(1)
        if kind == "pieces":
            assert writing_to(data / "incoming")
        process.terminate()
        started = time.monotonic()
        assert process.wait(timeout=60) == 143, log.read_text()
        assert time.monotonic() - started < 10
        over.set()
        server.shutdown()
    assert set(asked) == set(ids[:3])
    assert not writing_to(data / "incoming")
    assert [path.name for path in (data / "videos").iterdir()] == [first.name]
    assert not (data / "videos.csv").exists()


# As the workflow's script calls it, see workflow/scripts/job.py.
FETCH = """
import signal, sys
from pathlib import Path
from adafocus.data.sources import fetch
from adafocus.recipe import load_recipe
def stop(number, _):
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
fetch(load_recipe(sys.argv[1]), Path(sys.argv[2]), workers=2)
"""


def writing_to(folder):
    """Processes whose arguments name the folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "ffmpeg" in process.name() and str(folder) in " ".join(process.cmdline()):
                found.append(process)
    return found
