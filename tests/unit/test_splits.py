"""Annotations joined with what was extracted."""

import hashlib
import json

import pytest
from miniature import make_recipe

from adafocus.data import DataError
from adafocus.data.clips import class_names, digest_of_replaced
from adafocus.data.splits import write_splits

HEADER = "video,path,status,frames,height,width,error\n"


@pytest.fixture
def recipe():
    return make_recipe(classes=3, videos={"train": 5, "val": 1, "missing": 0.4})


@pytest.fixture
def folder(tmp_path):
    files = {
        "annotations/train.txt": 'a,1,0\n"quoted" b,1,2,1\nNA,1,0\nbroken,1,2\nabsent,1,1\n',
        "annotations/val.txt": "z,1,1\n",
        "annotations/classes.txt": "walk\nrun\nsay 'hé'\n",
        "manifests/0.csv": HEADER
        + "a,frames/a.zip,ok,10,48,64,\n"
        + "NA,videos/NA,ok,7,48,64,\n"
        + "z,frames/z.zip,ok,3,48,64,\n",
        "manifests/1.csv": HEADER
        + '"""quoted"" b","frames/""quoted"" b.zip",ok,12,48,64,\n'
        + 'broken,frames/broken.zip,failed,0,0,0,"moov atom, not found"\n'
        + "unlisted,frames/unlisted.zip,ok,3,48,64,\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_tables_hold_what_was_extracted(recipe, folder):
    write_splits(recipe, folder)
    assert (folder / "splits" / "train.csv").read_text() == (
        "video,path,frames,labels\n"
        "a,frames/a.zip,10,0\n"
        '"""quoted"" b","frames/""quoted"" b.zip",12,1;2\n'
        "NA,videos/NA,7,0\n"
    )
    assert (folder / "splits" / "val.csv").read_text() == (
        "video,path,frames,labels\nz,frames/z.zip,3,1\n"
    )
    assert class_names(folder) == ["walk", "run", "say 'hé'"]
    in_the_authors_form = 'a,10,0\n"quoted" b,12,1,2\nNA,7,0\n'
    assert (folder / "splits" / "train_split.txt").read_text() == in_the_authors_form


def test_report(recipe, folder):
    write_splits(recipe, folder)
    report = json.loads((folder / "splits" / "report.json").read_text("utf-8"))
    digests = report.pop("annotations")
    assert digests.keys() == {"train.txt", "val.txt", "classes.txt"}
    assert digests["val.txt"] == hashlib.sha256(b"z,1,1\n").hexdigest()
    assert report == {
        "train": {
            "published": 5,
            "listed": 5,
            "used": 3,
            "missing": {"broken": "moov atom, not found", "absent": "is not among the videos"},
            "classes": {"walk": 2, "run": 1, "say 'hé'": 1},
        },
        "val": {
            "published": 1,
            "listed": 1,
            "used": 1,
            "missing": {},
            "classes": {"walk": 0, "run": 1, "say 'hé'": 0},
        },
    }


def test_videos_that_took_the_place_of_others(recipe, folder):
    """Manifests by older versions tell nothing of them."""
    assert digest_of_replaced(folder, "train", "val") is None
    write_splits(recipe, folder)
    assert digest_of_replaced(folder, "train", "val") is None
    manifest = folder / "manifests" / "0.csv"
    rows = manifest.read_text().splitlines()

    def replace(**replaced):
        told = [f"{row},{replaced.get(row.partition(',')[0], '')}" for row in rows[1:]]
        manifest.write_text("\n".join([f"{rows[0]},replaced", *told]) + "\n")
        before = (folder / "splits" / "train.csv").read_text()
        write_splits(recipe, folder)
        assert (folder / "splits" / "train.csv").read_text() == before
        return [digest_of_replaced(folder, *splits) for splits in (["val"], ["train", "val"])]

    assert replace(unlisted="5") == [None, None]
    assert replace(a="5")[0] is None
    found = {*replace(a="5"), *replace(a="6"), *replace(z="5"), *replace(a="5", NA="5")}
    assert len(found) == 6, "None among them"


def test_a_split_that_ends_empty(recipe, folder):
    write_splits(recipe, folder)
    manifest = folder / "manifests" / "0.csv"
    manifest.write_text(manifest.read_text().replace("z,frames/z.zip,ok", "z,frames/z.zip,failed"))
    with pytest.raises(DataError, match="no video of val has frames"):
        write_splits(recipe, folder)
    assert (folder / "splits" / "val.csv").read_text().count("\n") == 2  # the older one is whole


def test_too_many_missing(folder):
    recipe = make_recipe(classes=3, videos={"train": 5, "val": 1, "missing": 0.3})
    with pytest.raises(DataError) as error:
        write_splits(recipe, folder)
    assert "2 of 5 videos of train are missing" in str(error.value)
    assert "videos.missing allows (30%); the first is broken: moov atom" in str(error.value)
    assert not (folder / "splits").exists()


def test_a_shard_that_was_not_extracted(recipe, folder):
    (folder / "manifests" / "1.csv").unlink()
    with pytest.raises(DataError, match=r"1\.csv: not found"):
        write_splits(recipe, folder)
