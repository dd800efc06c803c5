"""Bringing videos and annotations to their folder."""

import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from miniature import make_recipe

from adafocus.data import DataError, ffmpeg
from adafocus.data.sources import fetch

ANNOTATIONS = ("train.txt", "val.txt", "classes.txt")


@pytest.fixture
def manual():
    return make_recipe(source={"kind": "manual", "homepage": "http://example.org/data"})


@pytest.fixture
def folder(tmp_path):
    for name in ("videos/b.mp4", "videos/a.b.webm", "videos/.hidden", "videos/class one/c.mp4",
                 "videos/10/00001.jpg", "videos/10/00002.jpg"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "annotations").mkdir()
    for name in ANNOTATIONS:
        (tmp_path / "annotations" / name).touch()
    return tmp_path


def test_listing(manual, folder):
    for path in folder.rglob("videos/*"):
        os.utime(path, (0, 86_400.5))
    (folder / "videos" / "class one" / "c.mp4").write_text("c")
    os.utime(folder / "videos" / "class one" / "c.mp4", (0, 2))
    fetch(manual, folder, workers=1)
    assert (folder / "videos.csv").read_text().splitlines() == [
        "video,path,error,size,time",
        "10,videos/10,,,86400",
        "a.b,videos/a.b.webm,,0,86400",
        "b,videos/b.mp4,,0,86400",
        "class one/c,videos/class one/c.mp4,,1,2",
    ]


def test_all_that_is_missing_is_listed_at_once(manual, tmp_path):
    with pytest.raises(DataError) as caught:
        fetch(manual, tmp_path, workers=1)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("videos", *(f"annotations/{name}" for name in ANNOTATIONS)):
        assert part in message
    assert str(tmp_path) in message and "http://example.org/data" in message


def test_only_what_is_missing_is_listed(manual, folder):
    (folder / "annotations" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"annotations/val\.txt not found") as caught:
        fetch(manual, folder, workers=1)
    assert "train.txt" not in str(caught.value)
    assert not (folder / "videos.csv").exists()


# --- archives ---------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path):
    """A web site with a split archive of videos under one folder, and the annotations."""
    folder = tmp_path / "site"
    folder.mkdir()
    with tarfile.open(folder / "all.tar", "w") as archive:
        for name in ("20bn/1.webm", "20bn/2.webm"):
            info = tarfile.TarInfo(name)
            info.size = 5000
            archive.addfile(info, io.BytesIO(bytes(5000)))
    content = (folder / "all.tar").read_bytes()
    (folder / "part-00").write_bytes(content[:7000])
    (folder / "part-01").write_bytes(content[7000:])
    for name in ANNOTATIONS:
        (folder / name).write_text(name)
    return folder


LISTED = {"1": "videos/1.webm", "2": "videos/2.webm"}


def listed(folder):
    with (folder / "videos.csv").open(newline="") as file:
        return {row["video"]: row["path"] for row in csv.DictReader(file)}


def test_archives_are_downloaded_and_unpacked(site, tmp_path):
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def file(name):
            digest = hashlib.sha256((site / name).read_bytes()).hexdigest()
            return {"url": f"http://127.0.0.1:{server.server_port}/{name}", "sha256": digest}

        recipe = make_recipe(
            source={
                "kind": "archive",
                "archives": [[file("part-00"), file("part-01")]],
                "strip": 1,
                "annotations": {name: file(name) for name in ANNOTATIONS},
            }
        )
        fetch(recipe, tmp_path / "data", workers=1)
        server.shutdown()
    assert listed(tmp_path / "data") == LISTED
    assert (tmp_path / "data" / "annotations" / "val.txt").read_text() == "val.txt"
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["annotations", "videos", "videos.csv"]  # an archive goes once it is unpacked
    fetch(recipe, tmp_path / "data", workers=1)  # without the server: all is there


def test_archives_come_and_go_one_by_one(site, tmp_path):
    """The second is not there at first; the first is not fetched again then."""
    for name in ("1", "2"):
        with tarfile.open(site / f"{name}.tar", "w") as archive:
            info = tarfile.TarInfo(f"{name}.webm")
            archive.addfile(info)
    late = (site / "2.tar").rename(tmp_path / "late.tar")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    data = tmp_path / "data"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def file(name, path):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            return {"url": f"http://127.0.0.1:{server.server_port}/{name}", "sha256": digest}

        archives = [[file("1.tar", site / "1.tar")], [file("2.tar", late)]]
        annotations = {name: file(name, site / name) for name in ANNOTATIONS}
        source = {"kind": "archive", "archives": archives, "annotations": annotations}
        recipe = make_recipe(source=source)
        with pytest.raises(DataError, match=r"2\.tar: the server answered 404"):
            fetch(recipe, data, workers=1)
        assert sorted(path.name for path in (data / "archives").iterdir()) == ["0.unpacked"]
        assert not (data / "videos").exists()
        late.rename(site / "2.tar")
        fetch(recipe, data, workers=1)
        server.shutdown()
    assert listed(data) == LISTED
    assert asked.count("/1.tar") == 1


@pytest.mark.parametrize("older", [False, True, "half written"])
def test_archives_of_a_recipe_that_has_changed_come_anew(tmp_path, older):
    """But a part that is the same as before, at another address, does not."""
    site, data, asked = tmp_path / "site", tmp_path / "data", []
    site.mkdir()
    for name in ANNOTATIONS:
        (site / name).write_text(name)
    for version in ("a", "b"):
        pack(site / f"{version}.tar", range(2) if version == "a" else range(5, 8))
        content = (site / f"{version}.tar").read_bytes()
        (site / f"{version}-0").write_bytes(content[:5120])
        (site / f"{version}-1").write_bytes(content[5120:])
    shutil.copy(site / "a-0", site / "moved-a-0")

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site)) as server:
        Thread(target=server.serve_forever, daemon=True).start()

        def recipe(*archives, gone=False):
            def file(name):
                digest = hashlib.sha256((site / name).read_bytes()).hexdigest()
                return {"url": f"http://127.0.0.1:{server.server_port}/{name}", "sha256": digest}

            parts = [[file(name) for name in archive] for archive in archives]
            if gone:
                parts[-1][-1]["url"] += "-gone"
            annotations = {name: file(name) for name in ANNOTATIONS}
            source = {"kind": "archive", "archives": parts, "annotations": annotations}
            return make_recipe(source=source)

        def stop(recipe):
            with pytest.raises(DataError, match="the server answered 404"):
                fetch(recipe, data, workers=1)
            if older == "half written":
                (data / "unpacked" / "archives").write_text('{"archives": [')
            elif older:
                shutil.rmtree(data / "unpacked")

        stop(recipe(["a-0", "a-1"], gone=True))
        (data / "archives" / "0-1.part").write_bytes(b"of a-1")
        stop(recipe(["moved-a-0", "b-1"], gone=True))
        assert "/moved-a-0" not in asked
        assert (data / "archives" / "0-1.part").exists() == bool(older)
        fetch(recipe(["b-0", "b-1"]), data, workers=1)
        server.shutdown()
    assert sorted(listed(data)) == ["5", "6", "7"]


def test_archives_that_a_person_puts_there(site, tmp_path):
    recipe = make_recipe(
        source={
            "kind": "manual",
            "homepage": "http://example.org",
            "archives": ["part-??"],
            "strip": 1,
        }
    )
    data = tmp_path / "data"
    with pytest.raises(DataError) as error:
        fetch(recipe, data, workers=1)
    assert f"{data}: archives/part-??, annotations/train.txt" in str(error.value)
    (data / "annotations").mkdir(parents=True)
    for name in ANNOTATIONS:
        (site / name).rename(data / "annotations" / name)
    (data / "archives").mkdir()
    (site / "part-00").rename(data / "archives" / "part-00")
    with pytest.raises(DataError, match="part-00: cannot be unpacked"):
        fetch(recipe, data, workers=1)
    (site / "part-01").rename(data / "archives" / "part-01")
    fetch(recipe, data, workers=1)
    assert listed(data) == LISTED
    for part in (data / "archives").iterdir():
        part.unlink()
    fetch(recipe, data, workers=1)  # unpacked before


@pytest.mark.parametrize("place", ["folder", "link", "mount"])
def test_archives_are_unpacked_into_a_folder_of_videos_that_is_there(tmp_path, request, place):
    """Empty but for a person's other files, on a larger disk or not."""
    data = tmp_path / "data"
    for name in ANNOTATIONS:
        (data / "annotations").mkdir(parents=True, exist_ok=True)
        (data / "annotations" / name).touch()
    (data / "archives").mkdir()
    pack(tmp_path / "a-00", range(3))
    with zipfile.ZipFile(data / "archives" / "a-00.zip", "w") as archive:
        archive.write(tmp_path / "a-00", "a-00")
    shutil.copy(tmp_path / "a-00", data / "archives" / "a-00")
    videos = data / "videos"
    if place == "folder":
        videos.mkdir()
    elif place == "link":
        (tmp_path / "disk").mkdir()
        videos.symlink_to(tmp_path / "disk")
    else:
        disk = request.getfixturevalue("mount")("size=2m")
        videos.mkdir()
        subprocess.run(["mount", "--bind", disk, videos], check=True)
        request.addfinalizer(lambda: subprocess.run(["umount", videos], check=True))
    (videos / "notes.txt").write_text("mine")
    (videos / ".incoming.aside").mkdir()  # one that was killed while it put them there
    (videos / "0.webm").touch()
    source = {"kind": "manual", "homepage": "http://example.org", "archives": ["a-??"]}
    fetch(make_recipe(source=source), data, workers=1)
    assert listed(data).keys() == {"0", "1", "2"}
    names = [path.name for path in videos.iterdir()]
    assert sorted(names) == ["0.webm", "1.webm", "2.webm", "notes.txt"]
    assert (videos / "0.webm").stat().st_size == 5000


def test_unpacking_that_is_killed_goes_on(tmp_path):
    """Until an archive is another than before: then nothing of the first is left."""
    data = tmp_path / "data"
    for name in ANNOTATIONS:
        (data / "annotations").mkdir(parents=True, exist_ok=True)
        (data / "annotations" / name).touch()
    (data / "archives").mkdir()
    pack(data / "archives" / "all.tar", range(3000))
    recipe = make_recipe(
        source={"kind": "manual", "homepage": "http://example.org", "archives": ["all.tar"]}
    )
    script = "import sys, pathlib; from adafocus.data.sources import fetch; from adafocus.recipe"
    script += " import load_recipe; fetch(load_recipe(sys.argv[1]), pathlib.Path(sys.argv[2]), 1)"
    command = [sys.executable, "-c", script, recipe.write(tmp_path), data]
    incoming = data / "incoming"

    def kill_halfway():
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while not (incoming / "100.webm").exists():
            assert process.poll() is None
        process.kill()
        process.wait()
        return {path.name: path.stat().st_ino for path in incoming.glob("*.webm")}

    first = kill_halfway()
    assert 100 < len(first) < 3000
    assert not (data / "videos").exists()
    fetch(recipe, data, workers=1)
    unpacked = {path.name: path.stat() for path in (data / "videos").iterdir()}
    assert len(unpacked) == len(listed(data)) == 3000
    assert all(found.st_size == 5000 for found in unpacked.values())
    *done, _ = sorted(first, key=lambda name: int(name.split(".")[0]))  # of the last it is not sure
    assert all(unpacked[name].st_ino == first[name] for name in done)
    assert sorted(path.name for path in data.iterdir()) == [
        "annotations",
        "archives",
        "videos",
        "videos.csv",
    ]

    shutil.rmtree(data / "videos")
    kill_halfway()
    pack(data / "archives" / "all.tar", range(50, 55))
    fetch(recipe, data, workers=1)
    assert len(listed(data)) == 5


def pack(path, numbers):
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            info = tarfile.TarInfo(f"{number}.webm")
            info.size = 5000
            archive.addfile(info, io.BytesIO(bytes(5000)))


def test_an_archive_that_breaks_off_leaves_no_videos(site, tmp_path):
    data = tmp_path / "data"
    (data / "archives").mkdir(parents=True)
    (data / "annotations").mkdir()
    (site / "part-00").rename(data / "archives" / "part-00")
    for name in ANNOTATIONS:
        (site / name).rename(data / "annotations" / name)
    source = {"kind": "manual", "homepage": "http://example.org", "archives": ["part-00"]}
    with pytest.raises(DataError, match="part-00: cannot be unpacked"):
        fetch(make_recipe(source=source), data, workers=1)
    assert not (data / "videos").exists()


def test_two_videos_of_one_name(manual, folder):
    (folder / "videos" / "b.mkv").touch()
    with pytest.raises(DataError, match=r"b\.(mkv|mp4): has the same name as .*b\.(mkv|mp4)"):
        fetch(manual, folder, workers=1)


def test_no_video_at_all(manual, folder, tmp_path_factory):
    (folder / "videos").rename(tmp_path_factory.mktemp("away") / "videos")
    (folder / "videos").mkdir()
    with pytest.raises(DataError, match="videos not found; .* put its files there"):
        fetch(manual, folder, workers=1)


def test_generated_videos_replace_older_ones(folder):
    fetch(make_recipe(source={"train": 2, "val": 1}), folder, workers=2)
    assert sorted(path.name for path in (folder / "videos").iterdir()) == [
        "train_00000.mp4", "train_00001.mp4", "val_00000.mp4"
    ]  # fmt: skip
    assert len((folder / "videos.csv").read_text().splitlines()) == 4
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "videos", "videos.csv"]


def test_failed_generation_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, stderr, **__):
        stderr.write(b"[libx264 @ 0x1f] [error] no memory\n[error] more words\n")
        return subprocess.CompletedProcess([], 1)

    ffmpeg.ffmpeg_path()
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(DataError, match="^no memory$"):
        fetch(make_recipe(), tmp_path, workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "used"), [("5.1.9-0+deb12u1", True), ("N-1-gab", True), ("3.4.8", False)]
)
def test_ffmpeg_is_looked_for_on_the_path_first(tmp_path, monkeypatch, version, used):
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho ffmpeg version {version} Copyright\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    found = ffmpeg.ffmpeg_path.__wrapped__()
    assert (found == str(program)) is used
    assert "ffmpeg" in found
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    if not used:
        with pytest.raises(DataError, match=r"of version 3\.4, .*; install ffmpeg 4\.2 or later"):
            ffmpeg.ffmpeg_path.__wrapped__()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"not on the PATH, .*; install ffmpeg 4\.2 or later"):
        ffmpeg.ffmpeg_path.__wrapped__()


def test_earlier_versions_get_the_option_that_they_know(tmp_path, monkeypatch):
    names = []
    for version in ("4.4.2", "5.1.0"):
        program = tmp_path / version
        program.write_text(f"#!/bin/sh\necho ffmpeg version {version} Copyright\n")
        program.chmod(0o755)
        monkeypatch.setattr(ffmpeg, "ffmpeg_path", lambda path=str(program): path)
        names.append(next(iter(ffmpeg.every_frame())))
    assert names == ["vsync", "fps_mode"]
