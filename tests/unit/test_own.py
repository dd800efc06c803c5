"""Recipes for one's own videos."""

import csv
import os
import re
import shutil
from pathlib import Path

import pytest
from miniature import make_video

from adafocus.data import DataError
from adafocus.data.annotations import read_annotations
from adafocus.data.own import RULES, new_dataset
from adafocus.data.sources import fetch
from adafocus.recipe import SPECS, load_recipe


@pytest.fixture
def videos(tmp_path):
    return tmp_path / "my videos"


@pytest.fixture
def make(tmp_path, videos):
    def make(labels=None, seed=0, method="uni-adafocus"):
        return new_dataset("mine", videos, labels, tmp_path / "recipes", seed, method)

    return make


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("film") / "film.mp4", 5)


@pytest.fixture
def probe(film):
    """Puts real videos there."""

    def probe(folder, *names):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(film, folder / name)

    return probe


def rows(tmp_path):
    with (tmp_path / "recipes" / "mine.csv").open(newline="") as file:
        return {row["video"]: (row["split"], row["labels"]) for row in csv.DictReader(file)}


def test_folders_with_splits(make, probe, tmp_path, videos):
    probe(videos, "train/cat/a b.mp4", "train/dog/b.mkv", "val/cat/c.mp4")
    recipe, path = make()
    assert rows(tmp_path) == {
        "train/cat/a b": ("train", "cat"),
        "train/dog/b": ("train", "dog"),
        "val/cat/c": ("val", "cat"),
    }
    assert load_recipe(path) == recipe
    assert (recipe.classes, recipe.metric) == (2, "top1")
    assert (recipe.videos.train, recipe.videos.val) == (2, 1)
    assert recipe.method == "uni-adafocus"
    assert recipe.model.frames == 4  # no more than the videos have
    assert (recipe.videos.seconds, recipe.videos.rate) == (0.2, 25)
    assert recipe.patch_sizes == (96, 128, 160)

    fetch(recipe, tmp_path / "data", workers=1)
    with (tmp_path / "data" / "videos.csv").open(newline="") as file:
        assert {row["video"]: row["path"] for row in csv.DictReader(file)} == {
            "train/cat/a b": "videos/train/cat/a b.mp4",
            "train/dog/b": "videos/train/dog/b.mkv",
            "val/cat/c": "videos/val/cat/c.mp4",
        }
    annotated = read_annotations(recipe, tmp_path / "data")
    assert annotated.classes == ["cat", "dog"]
    fetch(recipe, tmp_path / "data", workers=1)  # as it is


def test_the_older_method(make, probe, videos):
    probe(videos, "train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4")
    recipe, path = make(method="adafocus")
    assert load_recipe(path) == recipe
    assert recipe.method == "adafocus"
    assert recipe.model.frames == 5
    assert recipe.patch_sizes == (96, 128, 160, 192)


def test_a_split_is_drawn_from_every_class(make, probe, tmp_path, videos):
    probe(videos, *(f"{name}/{i}.mp4" for name in ("cat", "dog") for i in range(5)))
    make()
    drawn = rows(tmp_path)
    for name in ("cat", "dog"):
        splits = [drawn[f"{name}/{i}"][0] for i in range(5)]
        assert splits.count("val") == 1
    for file in (tmp_path / "recipes").iterdir():
        file.unlink()
    make()
    assert rows(tmp_path) == drawn
    for file in (tmp_path / "recipes").iterdir():
        file.unlink()
    make(seed=1)
    assert rows(tmp_path) != drawn


def test_a_table_with_several_labels(make, probe, tmp_path, videos):
    probe(videos, "x/a.mp4", "x/b.mp4", "c.mp4")
    table = tmp_path / "labels.csv"
    table.write_text(
        "\ufeffvideo,split,labels\r\nx/a.mp4,train,cat;dog\r\nx/b,train,dog\r\nc,val,cat\r\n"
    )
    recipe, _ = make(table)
    assert recipe.metric == "mAP"
    assert rows(tmp_path) == {
        "x/a": ("train", "cat;dog"),
        "x/b": ("train", "dog"),
        "c": ("val", "cat"),
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name,labels\na,cat\n", "line 1: lacks the column video"),
        ("video,labels\nz,cat\n", "line 2: there is no video 'z' in"),
        ("video,labels\na,cat\na.mp4,cat\n", "line 3: video 'a.mp4' is listed before"),
        ("video,labels\na,cat;\n", "line 2: has no label, or an empty one"),
        ("video,split,labels\na,test,cat\n", "line 2: split is 'test'; it must be train, val"),
        ("video,split,labels\na,train,cat\nb,,cat\n", "gives a split to some videos only"),
        ("video,split,labels\na,train,cat\nb,val,dog\n", "class 'dog' occurs in validation only"),
        ("video,split,labels\na,train,cat\nb,train,dog\n", "no video is in val"),
        ("video,labels\na,cat\nb,cat\nc,dog\n", "class 'dog' has one video; two are needed"),
        ("video,labels\n", "no video has a label"),
        ("PK\3\4", "labels.csv: is a spreadsheet, not a text; save it as CSV"),
        ("video,labels\na,cat\nx,cat\ny,dog\n", "2 of 3 videos cannot be used, .* no video 'x'"),
    ],
)
def test_tables_gone_wrong(make, probe, tmp_path, videos, text, complaint):
    probe(videos, "a.mp4", "b.mp4", "c.mp4")
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(DataError, match=complaint):
        make(table)
    assert not (tmp_path / "recipes").exists()


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ([], "is not a folder"),
        (["a.mp4"], "a.mp4: lies in no class's folder"),
        (["train/a.mp4"], "a.mp4: lies in no class's folder"),
        (["train/cat/a.mp4", "dog/b.mp4"], "dog: lies beside train/; move it"),
        (["cat/a.mp4", "cat/a.avi"], "a.mp4: has the same name as .*a.avi"),
        (["training/cat/a.mp4", "Train/cat/b.mp4"], "Train/ and training/ are one split; put"),
        (["val/cat/a.mp4", "test/cat/b.mp4"], "no folder is that of the videos to train on"),
        (["a\nb/a.mp4"], "is no line of text in UTF-8"),
    ],
)
def test_folders_gone_wrong(make, probe, videos, names, complaint):
    probe(videos, *names)
    with pytest.raises(DataError, match=complaint):
        make()


@pytest.mark.parametrize(
    ("folders", "splits", "said"),
    [
        (("training", "Validation", "test"), ("train", "val", None), "test: validation has a fol"),
        (("Train", "Val"), ("train", "val"), ""),
        (("train", "valid"), ("train", "val"), ""),
        (("TRAIN", "testing"), ("train", "val"), ""),
    ],
)
def test_folders_of_splits_by_other_names(
    make, probe, tmp_path, videos, capsys, folders, splits, said
):
    probe(videos, *(f"{name}/{kind}/a.mp4" for name in folders for kind in ("cat", "d;g")))
    recipe, _ = make()
    assert recipe.classes == 2
    assert rows(tmp_path) == {
        f"{name}/{kind}/a": (split, kind.replace(";", r"\;"))
        for name, split in zip(folders, splits, strict=True)
        for kind in ("cat", "d;g")
        if split
    }
    assert said in capsys.readouterr().out
    assert read_annotations(recipe, tmp_path / "data").classes == ["cat", "d;g"]


def test_names_of_rules_are_refused(tmp_path, videos):
    workflow = Path(__file__).parents[2] / "workflow" / "rules"
    written = re.findall(
        r"^ *rule (\w+):", "".join(file.read_text() for file in workflow.glob("*.smk")), re.M
    )
    assert len(written) > 8 and {"all", *written, *(s.rule for s in SPECS.values())} == RULES
    for name in ("frames", "all", "sweep", "stage1"):
        with pytest.raises(DataError, match=f"{name} is a rule of the workflow; choose another"):
            new_dataset(name, videos, None, tmp_path / "recipes", 0, "uni")


def test_a_table_from_another_machine(make, probe, tmp_path, videos):
    """With paths as they were there, in other case, and names in letters put together otherwise."""
    probe(videos, "cat/A.mp4", "dog/B.mp4", "dog/caf\u00e9.mp4", os.fsdecode(b"dog/\xe9t\xe9.mp4"))
    table = tmp_path / "labels.csv"
    table.write_text(
        "\ufeffVideo;Split;Labels\r\nC:\\Users\\me\\clips\\cat\\A.mp4;Train;cat\r\n"
        f"{videos}/dog/B.mp4;train;dog\r\nDOG/cafe\u0301.MP4;validation;dog\r\n\u00e9t\u00e9;val;dog\r\n"
    )
    make(table)
    assert rows(tmp_path) == {
        "cat/A": ("train", "cat"),
        "dog/B": ("train", "dog"),
        "dog/caf\u00e9": ("val", "dog"),
        r"dog/\xe9t\xe9": ("val", "dog"),
    }


def test_nothing_is_overwritten(make, probe, videos):
    probe(videos, "train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4")
    make()
    with pytest.raises(DataError, match="mine.yaml: exists"):
        make()


def test_a_folder_that_is_gone(make, probe, tmp_path, videos):
    probe(videos, "train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4")
    recipe, _ = make()
    videos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="my videos: not found; the recipe names it"):
        fetch(recipe, tmp_path / "data", workers=1)


# --- what cannot be used ----------------------------------------------------------------------


def test_files_that_are_no_film_are_left_out_and_named(make, probe, tmp_path, videos, capsys):
    probe(videos, *(f"{kind}/{number}.mp4" for kind in ("cat", "dog") for number in range(10)))
    (videos / "cat" / "empty.mp4").write_bytes(b"")
    (videos / "notes").write_text("in no class's folder\n")
    (videos / "cat" / "0.srt").write_text("1")
    recipe, _ = make()
    assert len(rows(tmp_path)) == 20 == recipe.videos.train + recipe.videos.val
    said = capsys.readouterr().out.splitlines()
    for name in ("cat/empty.mp4", "notes", "cat/0.srt"):
        assert [line for line in said if line.startswith(f"left out: {videos}/{name}: ")]


def test_lines_of_a_table_on_absent_videos_are_left_out(make, probe, tmp_path, videos, capsys):
    probe(videos, "a.mp4", "b.mp4", "c.mp4")
    table = tmp_path / "labels.csv"
    table.write_text('video,split,labels\na,train,x\n"q\nr",train,x\nb,train,y\nc,val,x\n')
    make(table)
    assert rows(tmp_path).keys() == {"a", "b", "c"}
    told = r"left out: .*labels.csv, line 4: there is no video 'q\\nr' in .*; it is not among the"
    assert re.search(told, capsys.readouterr().out)


def test_one_of_few_may_be_bad_and_too_many_are_refused(make, probe, tmp_path, videos, capsys):
    probe(videos, *(f"{kind}/{number}.mp4" for kind in ("cat", "dog") for number in range(2)))
    (videos / "cat" / "text.mp4").write_text("text\n" * 9)
    make()
    assert len(rows(tmp_path)) == 4
    shutil.rmtree(tmp_path / "recipes")
    (videos / "dog" / "text.avi").write_text("text\n" * 9)
    with pytest.raises(
        DataError, match=r"^2 of 6 videos cannot be used, more than 10%.*text.mp4: "
    ):
        make()
    assert not (tmp_path / "recipes").exists()
    assert f"left out: {videos}/dog/text.avi: " in capsys.readouterr().out


def test_how_long_videos_are_is_told_by_headers_or_by_decoding(make, videos):
    """A stream without a container tells no length."""
    make_video(videos / "train/cat/a.h264", 7)
    make_video(videos / "train/dog/b.h264", 7)
    make_video(videos / "val/cat/c.mp4", 20, rate=10)
    recipe, _ = make()
    assert (recipe.videos.seconds, recipe.model.frames) == (pytest.approx(2.56 / 3, 0.01), 6)
