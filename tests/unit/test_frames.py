"""Extraction with a real ffmpeg."""

import csv
import os
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from zipfile import ZipFile

import psutil
import pytest
import torch
from miniature import make_recipe, make_video

from adafocus.data.ffmpeg import ffmpeg_path
from adafocus.data.frames import FOLDERS, extract
from adafocus.data.listing import Stamp, holds_frames
from adafocus.data.sources import fetch
from adafocus.data.store import count_frames, read_comment, read_frames
from adafocus.machine.files import WriteError, keep

MANUAL = {"kind": "manual", "homepage": "http://example.org"}
HOSTILE = [
    "plain",
    "two words",
    'it\'s; $(touch gone) & `x` | "quoted"',
    "%05d",
    "-leading",
    "colon:comma,equals=[brackets]",
    "naïve-видео-動画",
    "x" * 200,
    "class name/nested",
]


def write_listing(folder):
    """Lists what lies under videos/."""
    videos = folder / "videos"
    with (folder / "videos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("video", "path", "error"))
        for path in sorted(videos.rglob("*")):
            if path.suffix in (".mp4", ".webm", ".mkv", ".mov", ".ts") or holds_pictures(path):
                name = path.relative_to(videos).with_suffix("")
                rows.writerow((name, path.relative_to(folder), ""))


def holds_pictures(path):
    return path.is_dir() and holds_frames(path)


@pytest.fixture
def listing(tmp_path):
    """Lists what lies under videos/ and extracts one shard of all of it."""

    def extract_all(**frames):
        write_listing(tmp_path)
        recipe = make_recipe(frames={"shards": 1} | frames)
        with extract(recipe, tmp_path, shard=0, threads=2).open(newline="") as file:
            return {row["video"]: row for row in csv.DictReader(file)}

    return extract_all


def test_every_frame_is_extracted_whatever_the_name(tmp_path, listing):
    for number, name in enumerate(HOSTILE):
        make_video(tmp_path / "videos" / f"{name}.mp4", frames=3 + number)
    before = set(tmp_path.iterdir())
    rows = listing()
    assert {name: int(row["frames"]) for name, row in rows.items()} == {
        name: 3 + number for number, name in enumerate(HOSTILE)
    }
    for name, row in rows.items():
        assert row == row | {
            "path": f"frames/{name}.zip", "status": "ok", "height": "48", "width": "64", "error": ""
        }  # fmt: skip
        assert count_frames(tmp_path / row["path"]) == int(row["frames"])
    assert set(tmp_path.iterdir()) - before == {
        tmp_path / name for name in ("videos.csv", "frames", "manifests")
    }
    leftover = [path for path in (tmp_path / "frames").rglob("*") if path.name.startswith(".")]
    assert leftover == []


def test_height_is_a_limit_and_the_aspect_ratio_is_kept(tmp_path, listing):
    make_video(tmp_path / "videos" / "tall.mp4", 2, "80x60")
    make_video(tmp_path / "videos" / "small.mp4", 2, "50x30")
    make_video(tmp_path / "videos" / "odd.mkv", 2, "33x21", "-c:v", "ffv1")
    rows = listing(height=48)
    assert {name: (int(row["height"]), int(row["width"])) for name, row in rows.items()} == {
        "tall": (48, 64), "small": (30, 50), "odd": (21, 33)
    }  # fmt: skip


def test_frames_of_a_variable_rate_are_kept_as_they_are(tmp_path, listing):
    drop = "select=not(mod(n\\,5)*between(n\\,3\\,9))"  # uneven gaps
    make_video(tmp_path / "videos" / "uneven.mkv", 8, "64x48", "-vf", drop, "-fps_mode", "vfr")
    assert listing()["uneven"]["frames"] == "8"


def test_a_bad_video_is_a_row_with_its_error(tmp_path, listing):
    videos = tmp_path / "videos"
    good = make_video(videos / "good.mp4")
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("no video at all\n" * 50)
    (videos / "truncated.mp4").write_bytes(good.read_bytes()[:900])
    sound = ["-f", "lavfi", "-i", "sine=duration=1", "-map", "1:a"]
    make_video(videos / "sound.mp4", 1, "64x48", *sound)
    rows = listing()
    assert rows["good"]["status"] == "ok"
    for name in ("empty", "text", "truncated", "sound"):
        assert rows[name]["status"] == "failed" and rows[name]["frames"] == "0"
        assert rows[name]["error"] and "0x" not in rows[name]["error"]
        assert not (tmp_path / rows[name]["path"]).exists()


def test_what_is_left_of_a_damaged_video_is_kept_and_told(tmp_path, listing):
    good = make_video(tmp_path / "videos" / "good.mp4", 50, "64x48", "-movflags", "faststart")
    damaged = tmp_path / "videos" / "damaged.mp4"
    damaged.write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    rows = listing()
    assert rows["good"] == rows["good"] | {"status": "ok", "frames": "50", "error": ""}
    assert rows["damaged"]["status"] == "ok" and rows["damaged"]["error"]
    assert 5 < int(rows["damaged"]["frames"]) < 50


CODED = {
    "ten bits.mkv": ("-c:v", "libx264", "-pix_fmt", "yuv420p10le"),
    "grey.mkv": ("-c:v", "ffv1", "-pix_fmt", "gray"),
    "alpha.webm": ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p"),
    "rgb and alpha.mov": ("-c:v", "qtrle", "-pix_fmt", "argb"),
    "vp9.webm": ("-c:v", "libvpx-vp9"),
    "av1.mkv": ("-c:v", "libsvtav1"),
    "sound too.mp4": ("-f", "lavfi", "-i", "sine=duration=1", "-map", "0:v", "-map", "1:a"),
    "one frame.mp4": ("-vf", "trim=end_frame=1"),
}


def test_videos_of_many_kinds(tmp_path, listing):
    made = []
    for name, options in CODED.items():
        with suppress(subprocess.CalledProcessError):  # an encoder that this ffmpeg lacks
            make_video(tmp_path / "videos" / name, 10, "128x96", *options)
            made.append(name)
    assert {"ten bits.mkv", "grey.mkv", "one frame.mp4"} <= set(made)
    rows = listing()
    pattern = read_frames(tmp_path / rows["sound too"]["path"], [0]).float()
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    for name in made:
        row = rows[name.rpartition(".")[0]]
        frames = 1 if name.startswith("one") else 10
        assert row == row | {"status": "ok", "frames": str(frames), "height": "48", "error": ""}
        seen = read_frames(tmp_path / row["path"], [0]).float()
        expected = (luma * pattern).sum(1, keepdim=True) if name.startswith("grey") else pattern
        assert (seen - expected).abs().mean() < 12


def test_a_video_is_turned_as_its_metadata_says(tmp_path, listing):
    lying = make_video(tmp_path / "lying.mp4", 3, "80x48")
    turned = tmp_path / "videos" / "turned.mp4"
    turned.parent.mkdir()
    ways = (
        ("-i", lying, "-c", "copy", "-metadata:s:v", "rotate=90"),  # ffmpeg 5
        ("-display_rotation", "90", "-i", lying, "-c", "copy"),  # since ffmpeg 6
    )
    sizes = set()
    for way in ways:
        subprocess.run([ffmpeg_path(), "-v", "error", "-y", *way, turned])
        row = listing(height=1000).get("turned", {})
        sizes.add((row.get("height"), row.get("width")))
    assert ("80", "48") in sizes


def test_the_manifest_tells_rate_duration_and_bytes(tmp_path, listing):
    make_video(tmp_path / "videos" / "a.mp4", frames=30, rate=25)
    row = listing()["a"]
    assert (float(row["rate"]), float(row["duration"])) == (25, 1.2)
    assert int(row["bytes"]) == (tmp_path / row["path"]).stat().st_size
    row = listing(rate=5)["a"]
    assert (row["frames"], float(row["rate"]), float(row["duration"])) == ("6", 5, 1.2)


def test_a_name_that_is_too_long_fails_alone(tmp_path, listing):
    make_video(tmp_path / "videos" / "a.mp4", frames=3)
    long = tmp_path / "videos" / ("x" * 252 + ".ts")
    (tmp_path / "videos" / "b.mkv").write_bytes((tmp_path / "videos" / "a.mp4").read_bytes())
    shutil.copy(tmp_path / "videos" / "a.mp4", long)
    rows = listing()
    assert (rows["a"]["status"], rows["b"]["status"]) == ("ok", "ok")
    assert rows["x" * 252]["error"].startswith("its name is too long")


def test_a_video_whose_times_run_on_for_years_fails_alone(tmp_path, listing, monkeypatch):
    monkeypatch.setattr("adafocus.data.store.MOST_FRAMES", 1000)
    years = ["-bsf:v", "setts=pts=PTS+N*900000000000:dts=DTS+N*900000000000"]
    make_video(tmp_path / "videos" / "years.mkv", 3, "64x48", *years)
    make_video(tmp_path / "videos" / "good.mp4", frames=3)
    rows = listing(rate=5)
    assert (rows["good"]["status"], rows["years"]["status"]) == ("ok", "failed")
    assert rows["years"]["error"].startswith("more than 1,000 frames")
    assert listing()["years"]["frames"] == "3"


def test_a_video_that_takes_too_long_fails(tmp_path, listing):
    make_video(tmp_path / "videos" / "a.mp4", frames=3)
    row = listing(time_limit=0.001)["a"]
    assert (row["status"], row["error"]) == ("failed", "took longer than 0.001 seconds")
    assert listing()["a"]["status"] == "ok"


def test_hardware_decodes_where_it_is_there(tmp_path, listing):
    make_video(tmp_path / "videos" / "a.mp4", frames=3)
    assert listing(hardware="auto")["a"]["frames"] == "3"


def test_what_is_done_is_left_alone(tmp_path, listing):
    video = make_video(tmp_path / "videos" / "a.mp4", frames=3)
    listing()
    store = tmp_path / "frames" / "a.zip"
    first = store.stat().st_mtime_ns
    listing()
    assert store.stat().st_mtime_ns == first

    listing(height=20)
    assert read_frames(store, [0]).shape[-2:] == (20, 27)
    assert "height 20" in read_comment(store)

    video.unlink()
    make_video(video, frames=5)
    os.utime(video, ns=(store.stat().st_mtime_ns + 10**12,) * 2)
    assert listing(height=20)["a"]["frames"] == "5"
    first = store.stat().st_mtime_ns
    listing(height=20)
    assert store.stat().st_mtime_ns == first, "a video from the future is extracted once"

    video.unlink()
    make_video(video, frames=4)
    os.utime(video, ns=(0, 0))
    assert listing(height=20)["a"]["frames"] == "4", "one that is older is another"

    store.write_bytes(store.read_bytes()[:100])
    assert listing(height=20)["a"]["frames"] == "4"


def test_a_store_that_does_not_tell_which_video_it_is_of_is_as_good(tmp_path, listing):
    video = make_video(tmp_path / "videos" / "a.mp4", frames=3)
    listing()
    store = tmp_path / "frames" / "a.zip"
    comment = read_comment(store)
    with ZipFile(store, "a") as archive:
        archive.comment = comment.rpartition("\n")[0].encode()
    forget(tmp_path / "manifests" / "0.csv", "source", "replaced", "modified")
    first = store.stat().st_mtime_ns
    os.utime(video, ns=(0, 0))
    row = listing()["a"]
    assert store.stat().st_mtime_ns == first
    assert row["source"] == f"{video.stat().st_size} 0", "what it is of is known from now on"
    os.utime(video, ns=(10**9, 10**9))
    assert listing()["a"]["replaced"] == ""
    assert store.stat().st_mtime_ns != first
    assert read_comment(store).split("\n")[:3] == comment.split("\n")[:3]


def forget(manifest, *columns):
    """Makes a manifest as older versions wrote it."""
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with manifest.open("w", newline="") as file:
        names = [name for name in rows[0] if name not in columns]
        table = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def another(video, seconds):
    """A video in the place of that one: of as many frames, as large, and older or newer."""
    size = video.stat().st_size
    video.unlink()
    make_video(video, 5, "64x48", "-vf", "negate")
    with video.open("ab") as file:
        file.write(bytes(1))
        file.truncate(max(size, file.tell()))
    os.utime(video, (seconds, seconds))


@pytest.mark.parametrize("told", ["by the store", "by the manifest", "by their times"])
def test_frames_of_another_video_are_told_from_the_same_made_again(tmp_path, listing, told):
    """Neither a video that was copied nor a damaged store leads to other frames."""
    video = make_video(tmp_path / "videos" / "a.mp4", frames=5)
    os.utime(video, (10**9, 10**9))
    listing()
    store = tmp_path / "frames" / "a.zip"
    if told != "by the store":
        with ZipFile(store, "a") as archive:
            archive.comment = archive.comment.rpartition(b"\n")[0]
        forget(tmp_path / "manifests" / "0.csv", "source", "replaced", "modified")
    if told == "by the manifest":
        listing()

    first, later = store.read_bytes(), time.time() + 1000
    os.utime(video, (later, later))
    assert listing()["a"]["replaced"] == ""
    store.write_bytes(first[:100])
    assert listing()["a"]["replaced"] == ""
    store.write_bytes(first)
    another(video, later + 1 if told == "by their times" else 0)
    row = listing()["a"]
    assert row["replaced"]
    assert row["source"] == " ".join(Stamp.of(video))

    assert listing()["a"] == row
    (tmp_path / "manifests" / "0.csv").unlink()
    assert listing()["a"] == row, "as the store says so itself"
    store.write_bytes(store.read_bytes()[:-10])
    assert listing()["a"]["replaced"] == row["replaced"]
    assert listing(height=20)["a"]["replaced"] == row["replaced"]


def test_a_folder_of_other_pictures_is_told_from_the_same(tmp_path, listing):
    folder = tmp_path / "videos" / "a"
    make_pictures(folder, 4)
    os.utime(folder, (0, 0))
    assert listing()["a"] | {"source": " 0", "replaced": ""} == listing()["a"]
    os.utime(folder)
    assert listing()["a"]["replaced"] == ""
    shutil.rmtree(folder)
    make_video(folder / "%05d.jpg", 4, "64x48", "-vf", "negate")
    replaced = listing()["a"]["replaced"]
    assert replaced
    os.utime(folder, (1, 1))
    assert listing()["a"]["replaced"] == replaced


def test_a_store_is_read_where_it_is_not_as_it_was(tmp_path, listing, capfd):
    make_video(tmp_path / "videos" / "a.mp4", frames=5)
    before = listing()["a"]
    store = tmp_path / "frames" / "a.zip"
    whole, made = store.read_bytes(), store.stat().st_mtime_ns

    def flip_a_byte():
        content = bytearray(whole)
        content[len(whole) // 2] ^= 1
        with store.open("r+b") as file:  # in its place, as a disk does it
            file.write(content)

    os.utime(store, ns=(made + 10**9,) * 2)  # copied, say
    assert listing()["a"] == before | {"modified": str(made + 10**9)}
    assert store.stat().st_mtime_ns == made + 10**9
    flip_a_byte()
    assert listing()["a"]["status"] == "ok"
    assert store.read_bytes() == whole
    assert f"{store}: is damaged on disk" in capfd.readouterr().out

    made = store.stat().st_mtime_ns
    flip_a_byte()
    os.utime(store, ns=(made, made))
    assert listing()["a"]["modified"] == str(made)
    assert store.read_bytes() != whole  # nothing tells, but for what reads it


def test_a_manifest_of_old_is_as_good(tmp_path, listing):
    """One that does not tell when stores and folders were made: nothing is made or read again."""
    make_video(tmp_path / "videos" / "a.mp4", frames=5)
    make_pictures(tmp_path / "videos" / "b", 5)
    rows = listing()
    manifest = tmp_path / "manifests" / "0.csv"
    forget(manifest, "modified", "source", "replaced")
    assert manifest.read_text().startswith("video,path,status,frames,height,width,rate,duration,")
    (tmp_path / "videos" / "b" / "00003.jpg").write_bytes(b"broken since")
    assert listing() == rows


def test_frames_outlive_their_video(tmp_path, listing):
    make_video(tmp_path / "videos" / "a.mp4", frames=5)
    make_pictures(tmp_path / "videos" / "b", 5)
    rows = listing(pack=True)
    shutil.rmtree(tmp_path / "videos")
    with extract(make_recipe(frames={"shards": 1}), tmp_path, 0, 1).open(newline="") as file:
        assert {row["video"]: row for row in csv.DictReader(file)} == rows


def make_pictures(folder, frames, size="64x48"):
    make_video(folder / "%05d.jpg", frames, size)


def test_folders_of_images_are_packed_byte_for_byte(tmp_path, listing):
    for name, frames in (("1", 12), ("of a class/2", 3)):
        make_pictures(tmp_path / "videos" / name, frames)
    make_video(tmp_path / "videos" / "3.mp4", frames=6)
    (tmp_path / "videos" / "1" / "00012.jpg").rename(tmp_path / "videos" / "1" / "frame_9.jpg")
    (tmp_path / "videos" / "1" / "00011.jpg").rename(tmp_path / "videos" / "1" / "frame_10.jpg")
    rows = listing(pack=True)
    for name in ("1", "of a class/2"):
        store = tmp_path / rows[name]["path"]
        assert store == tmp_path / "frames" / f"{name}.zip"
        pictures = sorted((tmp_path / "videos" / name).iterdir(), key=natural)
        expected = [path.read_bytes() for path in pictures]
        with ZipFile(store) as archive:
            assert [archive.read(entry) for entry in archive.namelist()] == expected
        assert rows[name] == rows[name] | {
            "frames": str(len(expected)), "height": "48", "width": "64", "rate": "", "duration": "",
            "bytes": str(store.stat().st_size), "error": "",
        }  # fmt: skip
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("frames/**/*.zip")}
    assert len(made) == 3
    assert listing(pack=True) == rows
    assert {path: path.stat().st_mtime_ns for path in made} == made


def natural(path):
    return path.name.partition("_")[0], len(path.name), path.name


def test_many_folders_are_packed_unless_they_are_in_use(tmp_path, listing, monkeypatch):
    def packed(**settings):
        return {row["path"].startswith("frames/") for row in listing(**settings).values()}

    for number in range(4):
        make_pictures(tmp_path / "videos" / str(number), 2)
    assert FOLDERS == 10_000
    monkeypatch.setattr("adafocus.data.frames.FOLDERS", 4)
    assert packed() == {False}
    monkeypatch.setattr("adafocus.data.frames.FOLDERS", 3)
    assert packed() == {False}
    shutil.rmtree(tmp_path / "manifests")
    assert packed(pack=False) == {False}
    shutil.rmtree(tmp_path / "manifests")
    assert packed() == {True}
    make_pictures(tmp_path / "videos" / "4", 2)
    assert packed() == {True}


@pytest.mark.parametrize("pack", [False, True])
def test_each_picture_is_looked_at_once(tmp_path, listing, pack):
    folders = {name: tmp_path / "videos" / name for name in ("cut", "odd", "rotten", "sound")}
    for folder in folders.values():
        make_pictures(folder, 4)
        os.utime(folder, (0, 0))
    picture = folders["cut"] / "00003.jpg"
    picture.write_bytes(picture.read_bytes()[:-20])
    make_pictures(tmp_path / "others", 3, "64x46")
    shutil.copy(tmp_path / "others" / "00003.jpg", folders["odd"])
    picture = folders["rotten"] / "00003.jpg"
    picture.write_bytes(picture.read_bytes()[:700] + b"\xff\xc4\xff" + picture.read_bytes()[703:])
    rows = listing(pack=pack)
    for name, reason in (("cut", "broken"), ("rotten", "broken"), ("odd", "not of the size")):
        assert rows[name]["status"] == "failed"
        assert f"{folders[name]}: frame 00003.jpg is {reason}" in rows[name]["error"]
    assert rows["sound"]["status"] == "ok"
    picture = folders["sound"] / "00002.jpg"
    with picture.open("r+b") as file:
        file.write(b"broken")
    assert listing(pack=pack)["sound"] == rows["sound"]
    (folders["sound"] / "00005.jpg").write_bytes((folders["sound"] / "00001.jpg").read_bytes())
    assert "00002.jpg is broken" in listing(pack=pack)["sound"]["error"]


def test_shards_share_the_videos_and_folders_of_images_stay_in_place(tmp_path):
    for name in ("1", "2"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        make_video(tmp_path / "videos" / name / "%05d.jpg", frames=int(name) + 3)
    make_video(tmp_path / "videos" / "3.mp4", frames=6)
    (tmp_path / "annotations").mkdir()
    for name in ("train.txt", "val.txt", "classes.txt"):
        (tmp_path / "annotations" / name).touch()
    recipe = make_recipe(source=MANUAL, frames={"shards": 2})
    fetch(recipe, tmp_path, workers=1)
    rows = []
    for shard in range(2):
        with extract(recipe, tmp_path, shard, threads=1).open(newline="") as file:
            rows.append([(r["video"], r["path"], r["frames"]) for r in csv.DictReader(file)])
    assert rows == [
        [("1", "videos/1", "4"), ("3", "frames/3.zip", "6")],
        [("2", "videos/2", "5")],
    ]


def test_what_is_known_of_a_video_goes_with_it_to_another_shard(tmp_path):
    """As all are shared out anew when one is added."""
    videos, recipe = tmp_path / "videos", make_recipe(frames={"shards": 2})
    make_pictures(videos / "b", 3)
    make_video(videos / "c.mp4", 3)

    def extracted():
        """Shard and whether another video was there before, as the workflow makes manifests."""
        write_listing(tmp_path)
        for shard in range(2):
            manifest = tmp_path / "manifests" / f"{shard}.csv"
            keep(manifest)
            manifest.unlink(missing_ok=True)
        rows = {}
        for shard in range(2):
            with extract(recipe, tmp_path, shard, threads=1).open(newline="") as file:
                for row in csv.DictReader(file):
                    rows[row["video"]] = shard, row["replaced"] != ""
        return rows

    assert extracted() == {"b": (0, False), "c": (1, False)}
    shutil.rmtree(videos / "b")
    make_video(videos / "b" / "%05d.jpg", 3, "64x48", "-vf", "negate")
    make_pictures(videos / "a", 3)
    assert extracted() == {"a": (0, False), "b": (1, True), "c": (0, False)}


def test_frames_are_those_that_ffmpeg_writes_as_files(tmp_path, listing):
    """Bit by bit, so that stores made from such files stay as good as new ones."""
    for number in range(3):
        make_video(tmp_path / "videos" / f"{number}.mp4", 40, "160x120", rate=25 - number)
    for settings in ({}, {"rate": 10}):
        for name, row in listing(height=100, **settings).items():
            files = tmp_path / f"{name} {len(settings)}"
            files.mkdir()
            filters = [f"fps={settings['rate']}"] if settings else []
            command = [ffmpeg_path(), "-v", "error", "-i", tmp_path / "videos" / f"{name}.mp4"]
            command += ["-vf", ",".join([*filters, "scale=-1:min(100\\,ih)"])]
            command += ["-fps_mode", "passthrough", "-q:v", "2", files / "%06d.jpg"]
            subprocess.run(command, check=True)
            with ZipFile(tmp_path / row["path"]) as store:
                stored = {entry: store.read(entry) for entry in store.namelist()}
            assert stored == {file.name: file.read_bytes() for file in sorted(files.iterdir())}
            assert len(stored) > 10


def test_no_file_is_made_for_a_frame(mount):
    """On a disk that has room for few files, however small."""
    disk = mount("size=100m,nr_inodes=80")
    for number in range(10):
        make_video(disk / "videos" / f"{number}.mp4", 50)
    write_listing(disk)
    with extract(make_recipe(frames={"shards": 1}), disk, 0, threads=2).open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["status"], row["frames"]) for row in rows] == [("ok", "50")] * 10


def test_an_ffmpeg_that_is_killed_leaves_no_store(tmp_path, listing):
    """As by a machine that is out of memory: what came out of the pipe before is not a video."""
    make_video(tmp_path / "videos" / "long.mp4", 3000, "320x240")
    killed = []

    def kill_it():
        while not killed:
            unfinished = list((tmp_path / "frames").rglob("long.zip"))
            if unfinished and unfinished[0].stat().st_size > 100_000:
                child = max(psutil.Process().children(), key=psutil.Process.create_time)
                child.kill()
                killed.append(child)
            time.sleep(0.01)

    killer = threading.Thread(target=kill_it, daemon=True)
    killer.start()
    row = listing()["long"]
    killer.join(timeout=10)
    assert killed
    assert (row["status"], row["error"]) == ("failed", "ffmpeg ended with status -9")
    assert not [path for path in (tmp_path / "frames").rglob("*") if path.is_file()]
    assert listing()["long"]["frames"] == "3000"


def test_a_full_disk_ends_extraction_and_the_same_call_goes_on(mount):
    """No video is called broken for it, and those that were finished are not made again."""
    disk = mount("size=2200k")
    for number in range(12):
        make_video(disk / "videos" / f"{number}.mp4", 25, "320x240")
    write_listing(disk)
    recipe = make_recipe(frames={"shards": 1, "height": 240})
    with pytest.raises(WriteError, match=r"the disk is full.*make room"):
        extract(recipe, disk, shard=0, threads=1)
    assert not list(disk.glob("manifests/*.csv"))
    assert not list(disk.rglob(".*"))
    finished = {path: path.stat().st_mtime_ns for path in disk.glob("frames/*.zip")}
    assert 0 < len(finished) < 12
    mount("remount,size=30m")
    with extract(recipe, disk, shard=0, threads=1).open(newline="") as file:
        assert [(row["status"], row["frames"]) for row in csv.DictReader(file)] == [
            ("ok", "25")
        ] * 12
    assert all(path.stat().st_mtime_ns == made for path, made in finished.items())
