"""Bringing videos and annotations to their folder."""

import subprocess

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
    fetch(manual, folder, workers=1)
    assert (folder / "videos.csv").read_text().splitlines() == [
        "video,path",
        "10,videos/10",
        "a.b,videos/a.b.webm",
        "b,videos/b.mp4",
        "class one/c,videos/class one/c.mp4",
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


def test_two_videos_of_one_name(manual, folder):
    (folder / "videos" / "b.mkv").touch()
    with pytest.raises(DataError, match=r"b\.(mkv|mp4): has the same name as .*b\.(mkv|mp4)"):
        fetch(manual, folder, workers=1)


def test_no_video_at_all(manual, folder, tmp_path_factory):
    (folder / "videos").rename(tmp_path_factory.mktemp("away") / "videos")
    (folder / "videos").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        fetch(manual, folder, workers=1)


def test_generated_videos_replace_older_ones(folder):
    fetch(make_recipe(source={"train": 2, "val": 1}), folder, workers=2)
    assert sorted(path.name for path in (folder / "videos").iterdir()) == [
        "train_00000.mp4", "train_00001.mp4", "val_00000.mp4"
    ]  # fmt: skip
    assert len((folder / "videos.csv").read_text().splitlines()) == 4
    assert sorted(path.name for path in folder.iterdir()) == ["annotations", "videos", "videos.csv"]


def test_failed_generation_leaves_nothing(tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], 1, b"", b"[libx264 @ 0x1f] no memory\nmore words\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: done)
    with pytest.raises(DataError, match="^no memory$"):
        fetch(make_recipe(), tmp_path, workers=2)
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_is_looked_for_on_the_path_first(monkeypatch):
    monkeypatch.setattr(ffmpeg.shutil, "which", lambda name: f"/somewhere/{name}")
    assert ffmpeg.ffmpeg_path.__wrapped__() == "/somewhere/ffmpeg"
    monkeypatch.setattr(ffmpeg.shutil, "which", lambda name: None)
    assert "ffmpeg" in ffmpeg.ffmpeg_path.__wrapped__()
