"""Recipes for one's own videos."""

import csv
import os
import re
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


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def probe(folder, *names):
    """Real videos, which are looked into; those that are only named may be empty."""
    for name in names:
        make_video(folder / name, 5)


def rows(tmp_path):
    with (tmp_path / "recipes" / "mine.csv").open(newline="") as file:
        return {row["video"]: (row["split"], row["labels"]) for row in csv.DictReader(file)}


def test_folders_with_splits(make, tmp_path, videos):
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


def test_the_older_method(make, videos):
    probe(videos, "train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4")
    recipe, path = make(method="adafocus")
    assert load_recipe(path) == recipe
    assert recipe.method == "adafocus"
    assert recipe.model.frames == 5
    assert recipe.patch_sizes == (96, 128, 160, 192)


def test_a_split_is_drawn_from_every_class(make, tmp_path, videos):
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


def test_a_table_with_several_labels(make, tmp_path, videos):
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
        ('video,labels\n"a\nb",cat\nb,cat\n', r"line 3: there is no video 'a\\nb'"),
    ],
)
def test_tables_gone_wrong(make, tmp_path, videos, text, complaint):
    touch(videos, "a.mp4", "b.mp4", "c.mp4")
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
def test_folders_gone_wrong(make, videos, names, complaint):
    touch(videos, *names)
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
def test_folders_of_splits_by_other_names(make, tmp_path, videos, capsys, folders, splits, said):
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


def test_a_table_from_another_machine(make, tmp_path, videos):
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


def test_nothing_is_overwritten(make, videos):
    probe(videos, "train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4")
    make()
    with pytest.raises(DataError, match="mine.yaml: exists"):
        make()


def test_a_folder_that_is_gone(make, tmp_path, videos):
    probe(videos, "train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4")
    recipe, _ = make()
    videos.rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="my videos: not found; the recipe names it"):
        fetch(recipe, tmp_path / "data", workers=1)
