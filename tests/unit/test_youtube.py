"""Videos by their ids, by the real yt-dlp from a real server."""

import csv
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from miniature import make_recipe, make_video

from adafocus.data import DataError
from adafocus.data.ffmpeg import timeline
from adafocus.data.frames import extract
from adafocus.data.sources import fetch

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
