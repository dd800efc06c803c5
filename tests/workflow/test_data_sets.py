"""Each data set from its own kind of source, in its official form, to split files: miniatures."""

import csv
import io
import json
import os
import shutil
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from miniature import make_video
from rar_files import make_rar

from adafocus.data.store import count_frames

ROOT = Path(__file__).parents[2]
pytest.importorskip("yt_dlp", reason="yt-dlp is not installed")
if shutil.which("bsdtar") is None:
    reason = "bsdtar is not installed; on Debian: apt-get install libarchive-tools"
    pytest.skip(reason, allow_module_level=True)
pytestmark = pytest.mark.slow

DATA_SETS = ("actnet", "fcvid", "minik", "sthv1", "sthv2", "jester", "ucf101", "hmdb51")


@pytest.fixture(scope="module")
def data(tiny_project, tmp_path_factory):
    """The folder of all eight data sets after one run of the shipped recipes.

    Of a recipe only the numbers of classes, videos and shards are changed, and of Mini-Kinetics the
    site.
    """
    shutil.copytree(ROOT / "config", tiny_project.folder / "config")
    tiny_project.edit("config.yaml", "threads", value=1)
    for name in DATA_SETS:
        recipe = f"recipes/{name}.yaml"
        tiny_project.edit(recipe, "classes", value=2)
        tiny_project.edit(recipe, "videos", value={"train": 2, "val": 1, "missing": 0.5})
        tiny_project.edit(recipe, "frames", "shards", value=2 if name == "minik" else 1)
        tiny_project.edit(recipe, "published", value={})
    tiny_project.edit("recipes/hmdb51.yaml", "annotations", "names", value=["catch", "sit"])
    data = tiny_project.folder / "data"
    for name in DATA_SETS:
        (data / name / "annotations").mkdir(parents=True)
    site = tmp_path_factory.mktemp("site")
    put_actnet(data / "actnet")
    put_fcvid(data / "fcvid")
    put_minik(data / "minik", site)
    put_sthv1(data / "sthv1")
    put_sthv2(data / "sthv2")
    put_jester(data / "jester")
    put_ucf101(data / "ucf101")
    put_hmdb51(data / "hmdb51")
    handler = partial(SimpleHTTPRequestHandler, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{{id}}.mp4"
        tiny_project.edit("recipes/minik.yaml", "source", "url", value=address)
        run = tiny_project.snakemake(*(f"data/{name}/splits/train.csv" for name in DATA_SETS))
        server.shutdown()
    assert run.returncode == 0, run.stdout + run.stderr
    return data


def put_actnet(folder):
    """ActivityNet's JSON; one video of training is not there."""
    make_video(folder / "videos" / "v_--aA.mp4", 4)
    make_video(folder / "videos" / "v_bB-b.mkv", 5)
    label = [{"label": 'Making, "it"', "segment": [0, 1]}, {"label": 'Making, "it"'}]
    entries = {
        "--aA": {"subset": "training", "annotations": [*label, {"label": "Archery"}]},
        "gone": {"subset": "training", "annotations": label},
        "bB-b": {"subset": "validation", "annotations": label},
        "test": {"subset": "testing", "annotations": []},
    }
    text = json.dumps({"database": entries, "taxonomy": [], "version": "VERSION 1.3"})
    (folder / "annotations" / "activity_net.v1-3.min.json").write_text(text)


def put_fcvid(folder):
    """A list of videos in folders and a table of labels, from Windows."""
    for name in ("art/a 1.mp4", "art/b.mp4", "zoo/c.mp4"):
        make_video(folder / "videos" / name, 4)
    annotations = folder / "annotations"
    videos = "art\\a 1.mp4\ttrain\r\nart\\b.mp4\ttrain\r\nzoo\\c.mp4\ttest\r\n"
    (annotations / "FCVID_VideoName_TrainTestSplit.txt").write_bytes(videos.encode())
    (annotations / "FCVID_Label.txt").write_bytes(b"1 1\r\n1 0\r\n0 1\r\n")
    (annotations / "classInd.txt").write_text("1 painting\n2 panda\n")


def put_minik(folder, site):
    """Kinetics' lists with a class that is not used, and videos on a site, one of them gone."""
    header = "label,youtube_id,time_start,time_end,split\n"
    lists = {
        "train": "abseiling,aaaaaaaaaaa,0,1,train\nyoga,gonegonegon,0,10,train\n"
        "skiing,unusedunuse,0,10,train\n",
        "val": "yoga,bbbbbbbbbbb,1,3,val\n",
    }
    for split, rows in lists.items():
        (folder / "annotations" / f"{split}.csv").write_text(header + rows)
    (folder / "annotations" / "minik_classInd.txt").write_text("yoga\nabseiling\n")
    for name in ("aaaaaaaaaaa", "bbbbbbbbbbb"):
        make_video(site / f"{name}.mp4", 40, rate=10)


def put_sthv1(folder):
    """A split archive of JPEG files."""
    for video, frames in ((7, 3), (8, 4), (9, 5)):
        make_video(folder / "new" / f"{video}" / "%05d.jpg", frames)
    archive(folder, "20bn-something-something-v1", "")
    annotations = folder / "annotations"
    rows = {
        "train": "7;Taking one of many\n8;Holding, x\n",
        "validation": "9;Holding, x\n",
        "labels": "Taking one of many\nHolding, x\n",
    }
    for name, text in rows.items():
        (annotations / f"something-something-v1-{name}.csv").write_text(text)


def put_sthv2(folder):
    """A split, compressed archive of WebM files."""
    for video, frames in ((7, 3), (8, 4), (9, 5)):
        make_video(folder / "new" / f"{video}.webm", frames, "64x48", "-c:v", "libvpx-vp9")
    archive(folder, "20bn-something-something-v2", "gz")
    annotations = folder / "annotations"

    def entry(id, template):
        return {"id": id, "label": "", "template": template, "placeholders": []}

    up, hold = "Moving [something] up", "Holding [something]"
    (annotations / "train.json").write_text(json.dumps([entry("7", up), entry("8", hold)]))
    (annotations / "validation.json").write_text(json.dumps([entry("9", hold)]))
    labels = {"Holding something": "0", "Moving something up": "1"}
    (annotations / "labels.json").write_text(json.dumps(labels))


def put_jester(folder):
    """A split, compressed archive of JPEG files."""
    for video, frames in ((7, 3), (8, 4), (9, 5)):
        make_video(folder / "new" / f"{video}" / "%05d.jpg", frames, "176x100")
    archive(folder, "20bn-jester-v1", "gz")
    rows = {
        "train": "7;Swiping Right\n8;No gesture\n",
        "validation": "9;Swiping Right\n",
        "labels": "Swiping Right\nNo gesture\n",
    }
    for name, text in rows.items():
        (folder / "annotations" / f"jester-v1-{name}.csv").write_text(text)


def films(folder, names):
    """AVI files as older cameras write them, by their names in an archive."""
    make = partial(make_video, folder / "film.avi", 4, "64x48", "-c:v", "mpeg4", "-y")
    return {name: make().read_bytes() for name in names}


def put_ucf101(folder):
    """A RAR archive, and lists of which those to validate on tell no numbers."""
    names = [f"v_{name}_g01_c0{n}" for name, n in (("Bowling", 1), ("Bowling", 2), ("Archery", 1))]
    videos = [f"{name.split('_')[1]}/{name}.avi" for name in names]
    content = films(folder, [f"UCF-101/{video}" for video in videos])
    make_rar(folder / "archives" / "UCF101.rar", content)
    lists = folder / "annotations" / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Bowling\n")
    (lists / "trainlist01.txt").write_text(f"{videos[0]} 2\r\n{videos[2]} 1\r\n")
    (lists / "testlist01.txt").write_text(f"{videos[1]}\r\n")
    (lists / "trainlist02.txt").write_text(f"{videos[1]} 2\r\n{videos[2]} 1\r\n")
    (lists / "testlist02.txt").write_text(f"{videos[0]}\r\n")


def put_hmdb51(folder):
    """A RAR archive of one for each class, and a list of each class; one video is not used."""
    classes = {"catch": {"a_catch_u_1": 1, "b!_#1_catch": 2}, "sit": {"c_sit": 1, "d_sit": 0}}
    inner = {}
    lists = folder / "annotations" / "testTrainMulti_7030_splits"
    lists.mkdir()
    for name, videos in classes.items():
        make_rar(folder / "class.rar", films(folder, [f"{name}/{video}.avi" for video in videos]))
        inner[f"{name}.rar"] = (folder / "class.rar").read_bytes()
        lines = (f"{video}.avi {number} \n" for video, number in videos.items())
        (lists / f"{name}_test_split1.txt").write_text("".join(lines))
    make_rar(folder / "archives" / "hmdb51_org.rar", inner)


def archive(folder, name, compression):
    """Turns ``new/`` into an archive of two parts with one folder inside."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{compression}") as tar:
        tar.add(folder / "new", name)
    content = packed.getvalue()
    (folder / "archives").mkdir()
    middle = len(content) // 2
    (folder / "archives" / f"{name}-00").write_bytes(content[:middle])
    (folder / "archives" / f"{name}-01").write_bytes(content[middle:])


EXPECTED = {
    "actnet": (
        [("v_--aA", "frames/v_--aA.zip", "4", "0;1")],
        [("v_bB-b", "frames/v_bB-b.zip", "5", "1")],
        ["Archery", 'Making, "it"'],
    ),
    "fcvid": (
        [
            ("art/a 1", "frames/art/a 1.zip", "4", "0;1"),
            ("art/b", "frames/art/b.zip", "4", "0"),
        ],
        [("zoo/c", "frames/zoo/c.zip", "4", "1")],
        ["painting", "panda"],
    ),
    "minik": (
        [("aaaaaaaaaaa_000000_000001", "frames/aaaaaaaaaaa_000000_000001.zip", "10", "1")],
        [("bbbbbbbbbbb_000001_000003", "frames/bbbbbbbbbbb_000001_000003.zip", "20", "0")],
        ["yoga", "abseiling"],
    ),
    "sthv1": (
        [("7", "videos/7", "3", "1"), ("8", "videos/8", "4", "0")],
        [("9", "videos/9", "5", "0")],
        ["Holding, x", "Taking one of many"],
    ),
    "sthv2": (
        [("7", "frames/7.zip", "3", "1"), ("8", "frames/8.zip", "4", "0")],
        [("9", "frames/9.zip", "5", "0")],
        ["Holding something", "Moving something up"],
    ),
    "jester": (
        [("7", "videos/7", "3", "1"), ("8", "videos/8", "4", "0")],
        [("9", "videos/9", "5", "1")],
        ["No gesture", "Swiping Right"],
    ),
    "ucf101": (
        [
            ("Bowling/v_Bowling_g01_c01", "frames/Bowling/v_Bowling_g01_c01.zip", "4", "1"),
            ("Archery/v_Archery_g01_c01", "frames/Archery/v_Archery_g01_c01.zip", "4", "0"),
        ],
        [("Bowling/v_Bowling_g01_c02", "frames/Bowling/v_Bowling_g01_c02.zip", "4", "1")],
        ["Archery", "Bowling"],
    ),
    "hmdb51": (
        [
            ("catch/a_catch_u_1", "frames/catch/a_catch_u_1.zip", "4", "0"),
            ("sit/c_sit", "frames/sit/c_sit.zip", "4", "1"),
        ],
        [("catch/b!_#1_catch", "frames/catch/b!_#1_catch.zip", "4", "0")],
        ["catch", "sit"],
    ),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_split_files(data, name):
    splits = data / name / "splits"
    *tables, classes = EXPECTED[name]
    for split, expected in zip(("train", "val"), tables, strict=True):
        with (splits / f"{split}.csv").open(newline="") as file:
            rows = [tuple(row.values()) for row in csv.DictReader(file)]
        assert rows == expected
        lines = (splits / f"{split}_split.txt").read_text().splitlines()
        assert lines == [
            ",".join((video, frames, *labels.split(";"))) for video, _, frames, labels in expected
        ]
        assert all((data / name / path).exists() for _, path, _, _ in expected)
    assert (splits / "classes.txt").read_text().splitlines() == classes


@pytest.mark.parametrize(
    ("name", "video", "reason"),
    [("actnet", "v_gone", "is not among"), ("minik", "gonegonegon_000000_000010", "404")],
)
def test_what_is_missing_is_reported_with_its_reason(data, name, video, reason):
    report = json.loads((data / name / "splits" / "report.json").read_text())["train"]
    assert (report["published"], report["listed"], report["used"]) == (2, 2, 1)
    assert list(report["missing"]) == [video]
    assert reason in report["missing"][video]
    assert sum(report["classes"].values()) == (2 if name == "actnet" else 1)


# What follows edits the data, each test another data set's.


def test_nothing_is_done_twice(data, tiny_project):
    run = tiny_project.snakemake(*(f"data/{name}/splits/train.csv" for name in DATA_SETS))
    assert "Nothing to be done" in run.stderr
    assert not list(data.glob("*/changed"))


def test_what_was_extracted_is_known_when_its_job_runs_again(tiny_project, data):
    """Though Snakemake removes what told it. And a recipe may ask that folders become stores."""
    rotten, sound = (data / "actnet" / "frames" / f"{name}.zip" for name in ("v_--aA", "v_bB-b"))
    whole, made = rotten.read_bytes(), sound.stat().st_mtime_ns
    with rotten.open("r+b") as file:
        file.seek(300)
        file.write(b"rot")
    tiny_project.edit("recipes/sthv1.yaml", "frames", "pack", value=True)
    targets = ("data/sthv1/splits/train.csv", "data/actnet/manifests/0.csv")
    run = tiny_project.snakemake(*targets, "--forcerun", targets[1])
    assert run.returncode == 0, run.stdout + run.stderr
    assert rotten.read_bytes() == whole
    assert sound.stat().st_mtime_ns == made
    with (data / "sthv1" / "splits" / "train.csv").open(newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["frames/7.zip", "frames/8.zip"]
    assert count_frames(data / "sthv1" / "frames" / "8.zip") == 4


EDITS = {
    "actnet": ("activity_net.v1-3.min.json", "Archery", "Bowling"),
    "minik": ("minik_classInd.txt", "yoga\n", "juggling\n"),
    "sthv1": ("something-something-v1-train.csv", "8;Holding, x", "8;Taking one of many"),
}


def test_edited_annotations_make_the_splits_anew_and_extract_nothing(data, tiny_project):
    """Here by files that are older than the splits, as ones that lay ready."""
    targets = [f"data/{name}/splits/train.csv" for name in EDITS]
    old = {}
    for name, (file, before, after) in EDITS.items():
        path = data / name / "annotations" / file
        old[path] = path.read_text()
        path.write_text(old[path].replace(before, after))
        os.utime(path, (0, 0))
    assert tiny_project.planned(*targets) == {"splits": 3}
    for name, (file, *_) in EDITS.items():
        said = (data / name / "changed" / "annotations").read_text()
        assert said == f"annotations changed since the splits were made: {file}\n"
    for path, text in old.items():
        path.write_text(text)
    # A list that grows may name videos that are not there yet.
    with (data / "minik" / "annotations" / "val.csv").open("a") as file:
        file.write("yoga,ccccccccccc,1,3,val\n")
    planned = tiny_project.planned("data/minik/splits/train.csv")
    assert planned == {"download": 1, "frames": 2, "splits": 1}


def test_videos_added_replaced_and_taken_out(data, tiny_project):
    """Only what is new is extracted, and after that nothing more is to be done."""
    folder, target = data / "fcvid", "data/fcvid/splits/train.csv"
    stores = {path: path.stat().st_mtime_ns for path in folder.rglob("frames/**/*.zip")}
    assert len(stores) == 3
    anew = {"download": 1, "frames": 1, "splits": 1}
    make_video(folder / "videos" / "art" / "d.mp4", 7)
    tiny_project.edit("config.yaml", "scan_videos", value=False)
    assert tiny_project.planned(target) == {}
    tiny_project.edit("config.yaml", "scan_videos", value=True)
    assert tiny_project.planned(target) == anew
    make_video(folder / "videos" / "art" / "b.mp4", 9, "64x48", "-y")
    os.utime(folder / "videos" / "art" / "b.mp4", (0, 0))
    (folder / "videos" / "art" / "a 1.mp4").unlink()
    run = tiny_project.snakemake(target)
    assert run.returncode == 0, run.stdout + run.stderr
    changed = "1 added (videos/art/d.mp4), 1 replaced (videos/art/b.mp4), 1 taken out (videos/art/a"
    assert changed in run.stderr
    with (folder / "splits" / "train.csv").open(newline="") as file:
        assert [(row["video"], row["frames"]) for row in csv.DictReader(file)] == [("art/b", "9")]
    now = {path: path.stat().st_mtime_ns for path in folder.rglob("frames/**/*.zip")}
    assert {path.name for path in now if now[path] != stores.get(path)} == {"b.zip", "d.zip"}
    assert tiny_project.planned(target) == {}


def test_another_split_extracts_nothing(data, tiny_project):
    target = "data/ucf101-split2/splits/train.csv"
    tiny_project.edit("recipes/ucf101-split2.yaml", "videos", value={"train": 2, "val": 1})
    stores = {path: path.stat().st_mtime_ns for path in data.glob("ucf101/frames/**/*.zip")}
    assert len(stores) == 3
    assert tiny_project.planned(target) == {"splits": 1}
    run = tiny_project.snakemake(target)
    assert run.returncode == 0, run.stdout + run.stderr
    folder = data / "ucf101-split2"
    rows = {}
    for split in ("train", "val"):
        with (folder / "splits" / f"{split}.csv").open(newline="") as file:
            rows[split] = [(row["video"], row["path"]) for row in csv.DictReader(file)]
    assert [video for video, _ in rows["train"]] == [
        "Bowling/v_Bowling_g01_c02",
        "Archery/v_Archery_g01_c01",
    ]
    assert [video for video, _ in rows["val"]] == ["Bowling/v_Bowling_g01_c01"]
    assert all(count_frames(folder / path) == 4 for _, path in (*rows["train"], *rows["val"]))
    # Once for both: links lead to the frames of the first.
    assert (folder / "frames").resolve() == (data / "ucf101" / "frames").resolve()
    assert {path: path.stat().st_mtime_ns for path in data.glob("ucf101/frames/**/*.zip")} == stores
    assert tiny_project.planned(target) == {}
    # Its lists are its own.
    (data / "ucf101" / "annotations" / "ucfTrainTestlist" / "testlist02.txt").write_text(
        "Archery/v_Archery_g01_c01.avi\n"
    )
    splits = ("data/ucf101/splits/train.csv", target)
    assert tiny_project.planned(*splits) == {"splits": 1}
    run = tiny_project.snakemake("--dry-run", "data/ucf101-split2/manifests/0.csv")
    assert (
        "ucf101-split2 has no videos of its own: it is another split of data/ucf101" in run.stderr
    )
    # What a person has yet to bring is told before any job.
    run = tiny_project.snakemake("data/ucf101-split3/splits/train.csv")
    assert run.returncode and "trainlist03.txt" in run.stderr and "is to be had at" in run.stderr
    assert not (data / "ucf101-split3" / "splits").exists()
