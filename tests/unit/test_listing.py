"""Whether the listing of videos is still true of their folder."""

import csv
import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from miniature import make_recipe, make_video
from PIL import Image

from adafocus.data import DataError, splits
from adafocus.data.annotations import digest_annotations
from adafocus.data.frames import extract
from adafocus.data.listing import Stamp, name_videos, video_changes, write_listing
from adafocus.data.manifests import read_manifests

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


# --- what people leave in a folder ------------------------------------------------------------


def test_pictures_and_titles_beside_videos_are_none(tmp_path, capsys):
    videos = tmp_path / "videos"
    for name in ("cat/a.mp4", "cat/a.srt", "cat/cover.jpg", "cat/Thumbs.db", "1/1.jpg", "1/x.txt"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).touch()
    (videos / "2" / "more").mkdir(parents=True)
    (videos / "2" / "1.jpg").touch()
    os.mkfifo(videos / "cat" / "pipe.mp4")
    assert [*name_videos(videos)] == ["1", "2", "cat/a"]
    said = capsys.readouterr().out
    for name in ("a.srt: is no video", "cover.jpg: is no video", "pipe.mp4: is neither file nor"):
        assert f"left out: {videos}/cat/{name}" in said
    (videos / "2" / "more" / "b.webm").touch()
    assert [*name_videos(videos)] == ["1", "2/more/b", "cat/a"]
    write_listing(tmp_path, {})
    assert told(tmp_path) == ""


def test_what_cameras_file_servers_and_programs_leave_is_none(tmp_path, capsys):
    """A file of the same name as a film does not stop all, nor does a folder that is kept from us,
    and a preview in a service folder is no video of one picture."""
    videos = tmp_path / "videos"
    beside = ("a.webp", "a.HEIC", "a.THM", "a.lrv", "a.wav", "a.gif", "labels.xlsx")
    beside += ("a.LRF", "a.moff", "a.mp4~", "a", "a.mp4:Zone.Identifier", "Icon\r")
    service = ("@eaDir/a.mp4/SHOT.jpg", "lost+found/x.mp4", "$RECYCLE.BIN/y.mp4", "__MACOSX/z.mp4")
    service += ("@tmp/t.mp4",)
    for name in ("a.mp4", "moves.gif", *beside, *service):
        (videos / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / "cat" / name).touch()
    for number in range(20):
        (videos / "cat" / f"{number:02}.png").touch()
    assert [*name_videos(videos)] == ["cat/a", "cat/moves"]
    said = capsys.readouterr().out
    assert f"left out: {videos}/cat/a.webp: is of the film beside it" in said
    assert f"left out: {videos}/cat/labels.xlsx and 25 more there: is no video" in said
    write_listing(tmp_path, {})
    assert told(tmp_path) == ""


def test_links_that_lead_back_are_not_followed(tmp_path, capsys):
    videos = tmp_path / "disk" / "videos"
    for name in ("train/cat/a.mp4", "val/cat/b.mp4"):
        (videos / name).parent.mkdir(parents=True)
        (videos / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.mp4").touch()
    (videos / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    there = {"train/cat/a", "train/dog/c", "val/cat/b"}
    assert name_videos(videos).keys() == there
    (videos / "again").symlink_to(videos)
    (videos / "val" / "up").symlink_to("../..")
    (videos / "val" / "more").symlink_to("../train")
    (videos / "val" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    (videos / "self").symlink_to("self")
    assert name_videos(videos).keys() == there
    assert "val/up: is a link to what is there anyhow" in capsys.readouterr().out
    (tmp_path / "videos").symlink_to(videos)
    write_listing(tmp_path, {})
    assert told(tmp_path) == ""


def test_names_of_any_bytes_are_listed_and_extracted(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    make_video(tmp_path / "ok.mp4", 3)
    (tmp_path / "videos" / odd).mkdir(parents=True)
    shutil.copy(tmp_path / "ok.mp4", tmp_path / "videos" / f"{odd}.mp4")
    for name in ("a\nb, c", "d\r"):
        shutil.copy(tmp_path / "ok.mp4", tmp_path / "videos" / f"{name}.mp4")
    store = tmp_path / "videos" / odd / "1.jpg"
    Image.new("RGB", (32, 16)).save(store)
    (tmp_path / "videos" / odd).rename(tmp_path / "videos" / f"{odd}2")
    write_listing(tmp_path, {})
    assert told(tmp_path) == ""
    recipe = make_recipe(source=MANUAL.source.model_dump(), frames={"shards": 1})
    extract(recipe, tmp_path, 0, threads=1)
    made = read_manifests(tmp_path)
    frames = {name: row.frames for name, row in made.items()}
    assert frames == {r"caf\xe9": 3, r"caf\xe92": 1, "a\nb, c": 3, "d\r": 3}
    assert all((tmp_path / row.path).exists() for row in made.values())
    (tmp_path / "manifests" / "._0.csv").write_bytes(b"\0\xb0")
    assert read_manifests(tmp_path) == made
    (tmp_path / "videos" / f"{odd}.mp4").unlink()
    assert told(tmp_path) == r"1 taken out (videos/caf\xe9.mp4)"


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
    scandir = os.scandir

    def refuse(path):
        if Path(path) == kept:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
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
