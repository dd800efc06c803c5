"""Whether the listing of videos is still true of their folder."""

import csv
import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from miniature import make_recipe

from adafocus.data import DataError, splits
from adafocus.data.annotations import digest_annotations
from adafocus.data.listing import Stamp, video_changes, write_listing

NAMES = ("a.mp4", "class one/b.webm", "10/00001.jpg", "10/00002.jpg")
MANUAL = make_recipe(source={"kind": "manual", "homepage": "http://example.org"})


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    write_listing(tmp_path, {"gone": "404"})
    return tmp_path


def told(folder, recipe=MANUAL):
    return video_changes(recipe, folder).removeprefix("videos changed since they were listed: ")


def test_nothing_changed(folder):
    assert told(folder) == ""
    (folder / "videos" / ".hidden").touch()
    assert told(folder) == ""


def test_added_and_taken_out(folder):
    videos = folder / "videos"
    (videos / "class one" / "c.mp4").touch()
    assert told(folder) == "1 added (videos/class one/c.mp4)"
    (videos / "class two").mkdir()
    (videos / "class two" / "1.jpg").touch()
    (videos / "a.mp4").unlink()
    line = told(folder)
    assert line.startswith("2 added (") and line.endswith(", 1 taken out (videos/a.mp4)")
    write_listing(folder, {})
    assert told(folder) == ""


@pytest.mark.parametrize("hours", [-24, 24])
def test_replaced_by_one_that_is_older_or_from_the_future(folder, hours):
    video = folder / "videos" / "a.mp4"
    os.utime(video, (0, video.stat().st_mtime + hours * 3600))
    assert told(folder) == "1 replaced (videos/a.mp4)"
    write_listing(folder, {})
    assert told(folder) == ""


def test_replaced_by_one_of_the_same_time(folder):
    video = folder / "videos" / "a.mp4"
    before = video.stat()
    video.write_text("longer than before")
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert told(folder) == "1 replaced (videos/a.mp4)"


def test_a_folder_of_jpeg_files_that_grew(folder):
    video = folder / "videos" / "10"
    os.utime(video, (0, 0))
    write_listing(folder, {})
    (video / "00003.jpg").touch()
    assert told(folder) == "1 replaced (videos/10)"


def test_videos_that_are_all_gone_are_no_change(folder):
    """Their disk may not be mounted, or they were deleted when all frames were there."""
    shutil.rmtree(folder / "videos")
    assert told(folder) == ""
    (folder / "videos").mkdir()
    assert told(folder) == ""


def test_a_listing_by_an_older_version_counts_as_it_is(folder):
    with (folder / "videos.csv").open(newline="") as file:
        rows = [row[:3] for row in csv.reader(file)]
    with (folder / "videos.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    os.utime(folder / "videos" / "a.mp4")
    assert told(folder) == ""
    (folder / "videos" / "new.mp4").touch()
    assert told(folder) == "1 added (videos/new.mp4)"


def test_manifests_tell_what_a_listing_by_an_older_version_does_not(folder):
    videos = {path.stem: path for path in (folder / "videos").rglob("[ab].*")}
    (folder / "manifests").mkdir()
    rows = [f"{name},{' '.join(Stamp.of(path))}\n" for name, path in videos.items()]
    (folder / "manifests" / "0.csv").write_text(f"video,source\n{rows[0]}")
    (folder / "manifests" / "1.csv").write_text(f"video,error\n{rows[1]}")
    listed = [f"{name},{path.relative_to(folder)},\n" for name, path in videos.items()]
    (folder / "videos.csv").write_text("".join(["video,path,error\n", *listed, "10,videos/10,\n"]))
    assert told(folder) == ""
    for path in videos.values():
        os.utime(path, (0, 0))
    (first, *_) = videos.values()
    assert told(folder) == f"1 replaced ({first.relative_to(folder)})"


def test_videos_that_youtube_is_to_be_asked_for(folder):
    source = {"kind": "youtube", "homepage": "http://example.org"}
    recipe = make_recipe(source=source, annotations={"format": "activitynet", "file": "a.json"})
    entry = {"subset": "training", "annotations": [{"label": "Archery"}]}
    (folder / "annotations").mkdir()

    def annotate(*ids):
        text = json.dumps({"database": dict.fromkeys(ids, entry)})
        (folder / "annotations" / "a.json").write_text(text)

    assert told(folder, recipe) == "", "the annotations are not there yet"
    write_listing(folder, {"v_gone": "404"})
    annotate("gone")
    assert told(folder, recipe) == "", "it was asked for"
    annotate("gone", "new")
    assert told(folder, recipe) == "1 to download (v_new)"


def test_nothing_is_listed_yet(tmp_path):
    assert video_changes(MANUAL, tmp_path) == ""


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"video,path,error\na\n"])
def test_a_broken_listing_is_one_line(folder, content):
    (folder / "videos.csv").write_bytes(content)
    with pytest.raises(
        DataError, match=r"^.*videos\.csv: cannot be read.*; remove it.* snakemake .*videos\.csv$"
    ):
        told(folder)


def test_a_folder_that_is_kept_from_us_is_named(folder, monkeypatch):
    kept = folder / "videos" / "class two"
    kept.mkdir()
    iterdir = Path.iterdir

    def refuse(path):
        if path == kept:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    for look in (told, lambda folder: write_listing(folder, {})):
        with pytest.raises(
            DataError, match=r"class two: cannot be read \(Permission denied\); make"
        ):
            look(folder)


def test_many_videos_are_looked_at_in_time(tmp_path):
    """A tenth of what may take ten seconds."""
    for number in range(10_000):
        path = tmp_path / "videos" / f"{number % 100}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_listing(tmp_path, {})
    started = time.perf_counter()
    assert told(tmp_path) == ""
    assert time.perf_counter() - started < 1


# --- annotations ------------------------------------------------------------------------------


@pytest.fixture
def annotated(tmp_path):
    for name in ("train.txt", "val.txt", "classes.txt"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / name).write_text(name)
    (tmp_path / "splits").mkdir()
    report = {"annotations": digest_annotations(MANUAL, tmp_path)}
    (tmp_path / "splits" / "report.json").write_text(json.dumps(report))
    return tmp_path


@pytest.mark.parametrize("name", ["train.txt", "val.txt", "classes.txt"])
def test_an_edited_annotation_file_is_named(annotated, name):
    assert splits.annotation_changes(MANUAL, annotated) == ""
    file = annotated / "annotations" / name
    os.utime(file)
    assert splits.annotation_changes(MANUAL, annotated) == "", "it is the same"
    file.write_text("another")
    os.utime(file, (0, 0))
    assert splits.annotation_changes(MANUAL, annotated).endswith(f"splits were made: {name}")


def test_splits_by_an_older_version(annotated):
    report = annotated / "splits" / "report.json"
    report.write_text("{}")
    assert splits.annotation_changes(MANUAL, annotated) == ""
    later = report.stat().st_mtime + 1
    os.utime(annotated / "annotations" / "val.txt", (later, later))
    assert splits.annotation_changes(MANUAL, annotated).endswith("splits were made: val.txt")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"annotations": []}'])
def test_a_broken_report_is_one_line(annotated, content):
    (annotated / "splits" / "report.json").write_text(content)
    with pytest.raises(
        DataError, match=r"^.*report\.json: cannot be read.*; remove it.* snakemake .*report\.json$"
    ):
        splits.annotation_changes(MANUAL, annotated)


def test_an_annotation_file_that_cannot_be_read_is_named(annotated):
    (annotated / "annotations" / "val.txt").unlink()
    assert splits.annotation_changes(MANUAL, annotated) == ""
    (annotated / "annotations" / "val.txt").mkdir()
    with pytest.raises(DataError, match=r"val\.txt: cannot be read \(Is a directory\)"):
        splits.annotation_changes(MANUAL, annotated)


def test_ones_own_table_is_read_where_it_is(tmp_path):
    labels = tmp_path / "mine.csv"
    labels.write_text("video,split,labels\na,train,x\nb,val,y\n")
    source = {"kind": "folder", "videos": str(tmp_path), "labels": str(labels)}
    annotations = {"format": "table", "file": "labels.csv"}
    recipe = make_recipe(source=source, annotations=annotations, classes=2)
    data = tmp_path / "data"
    (data / "splits").mkdir(parents=True)
    (data / "manifests").mkdir()
    for shard in range(recipe.frames.shards):
        rows = "a,frames/a.zip,ok,1,1,1,\nb,frames/b.zip,ok,1,1,1,\n" if shard == 0 else ""
        header = "video,path,status,frames,height,width,error\n"
        (data / "manifests" / f"{shard}.csv").write_text(header + rows)
    splits.write_splits(recipe, data)
    assert splits.annotation_changes(recipe, data) == ""
    labels.write_text(labels.read_text().replace("x", "z"))
    assert splits.annotation_changes(recipe, data).endswith("splits were made: labels.csv")
    splits.write_splits(recipe, data)
    assert (data / "splits" / "classes.txt").read_text() == "y\nz\n"
