"""What annotations call videos, and which of those that there are they mean."""

import csv

import pytest
from miniature import make_recipe

from adafocus.data import DataError
from adafocus.data.names import Names, write_table
from adafocus.data.splits import check_names, write_splits


@pytest.mark.parametrize(
    ("wanted", "there", "found"),
    [
        ("a", ["a", "x/a"], "a"),
        ("v_a", ["a", "v_b"], "a"),
        ("a", ["part1/v_a"], "part1/v_a"),
        ("id_000001_000011", ["playing/id_000001_000011"], "playing/id_000001_000011"),
        ("train/cat/a.mp4", ["cat/a", "dog/a"], "cat/a"),
        ("/old/videos/cat/a.avi", ["a", "cat/a"], "cat/a"),
        ("A.MOV", ["a"], "a"),
        ("a", ["cat/a", "dog/a"], "is not sure: cat/a or dog/a"),
        ("dog/a", ["cat/a"], "is not among the videos"),
        ("", ["a"], "is not among the videos"),
        ("b.c", ["b"], "b"),
    ],
)
def test_which_video_is_meant(wanted, there, found):
    names, reasons = Names(there).find([wanted])
    assert {**names, **reasons} == {wanted: found}


def test_no_video_is_meant_twice():
    found, reasons = Names(["a", "b"]).find(["a", "v_a", "x/b", "y/b"])
    assert found == {"a": "a"}
    assert reasons == {
        "v_a": "is not among the videos",
        "x/b": "is not sure: b goes by another's name too",
        "y/b": "is not sure: b goes by another's name too",
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.txt").write_text("v_a,1,0\nv_b,1,1\n")
    (tmp_path / "annotations" / "val.txt").write_text("v_c,1,1\n")
    (tmp_path / "annotations" / "classes.txt").write_text("".join(f"{n}\n" for n in range(10)))
    return tmp_path


def listing(folder, *names):
    with (folder / "videos.csv").open("w", newline="") as file:
        rows = [("video", "path", "error"), *((name, f"videos/{name}.mp4", "") for name in names)]
        csv.writer(file).writerows(rows)


def test_names_that_do_not_fit_are_told_before_frames_are_extracted(folder):
    listing(folder, "one/a", "two/b", "two/c")
    check_names(make_recipe(), folder)
    listing(folder, "one/a", "two/b", "two/d")
    with pytest.raises(
        DataError, match="1 of 1 videos of val are not there.* first is v_c: is not"
    ):
        check_names(make_recipe(), folder)


def test_splits_name_videos_as_their_files_do(folder):
    """A carriage return in a name is no end of a line."""
    recipe = make_recipe(frames={"shards": 1})
    (folder / "manifests").mkdir()
    with (folder / "manifests" / "0.csv").open("w", newline="") as file:
        columns = ("video", "path", "status", "frames", "height", "width", "error")
        made = ((name, f"frames/{name}.zip", "ok", 1, 1, 1, "") for name in ("one/a", "b\r", "c"))
        write_table(file).writerows((columns, *made))
    write_splits(recipe, folder)
    assert (folder / "splits" / "train.csv").read_bytes() == (
        b'video,path,frames,labels\none/a,frames/one/a.zip,1,0\n"b\r","frames/b\r.zip",1,1\n'
    )
    assert (folder / "splits" / "train_split.txt").read_text() == "one/a,1,0\nb\\r,1,1\n"
