"""Annotations in every form, on small files written by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import make_recipe

from adafocus.data import DataError
from adafocus.data.annotations import read_annotations, read_cuts
from adafocus.data.clips import class_names
from adafocus.data.forms import _video_and_labels, join_labels
from adafocus.data.splits import write_splits
from adafocus.recipe import parse_recipe


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    write(tmp_path, "train.txt", "a,10,0\n")
    write(tmp_path, "val.txt", "b,10,1\n")
    write(tmp_path, "classes.txt", "".join(f"{digit}\n" for digit in range(10)))
    return tmp_path


def write(folder, name: str, text: str) -> None:
    (folder / "annotations" / name).write_bytes(text.encode())


def listed(recipe, folder) -> list[tuple]:
    return [tuple(row) for row in read_annotations(recipe, folder).table.itertuples(index=False)]


def test_comma_separated_with_several_labels(folder):
    write(folder, "train.txt", "\ufeffv_one,120,3\r\nv_two,9,7,0,7\r\n\r\n")
    assert listed(make_recipe(), folder) == [
        ("v_one", "train", [3]),
        ("v_two", "train", [0, 7]),
        ("b", "val", [1]),
    ]


def test_space_separated_with_spaces_in_names(folder):
    write(folder, "train.txt", "playing guitar/x y 300 4\n12 40 2")
    write(folder, "val.txt", "13 38 9\n")
    recipe = make_recipe(annotations={"separator": " "})
    assert listed(recipe, folder) == [
        ("playing guitar/x y", "train", [4]),
        ("12", "train", [2]),
        ("13", "val", [9]),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,10,0\nc,10\n", r"train\.txt, line 2: is not of the form video,frames,label: c,10"),
        ("c,ten,0\n", r"line 1: is not of the form"),
        (",10,0\n", r"line 1: is not of the form"),
        ("c,10,0,\n", r"line 1: is not of the form"),
        ("a,1,0\n\nc,10,10\n", r"line 3: label 10 of video 'c' is not one of the 10 classes"),
        ("c,10,-1\n", r"line 1: label -1 of video 'c' is not one of the 10 classes"),
        ("c,1,0\nc,1,1\n", r"line 2: video 'c' is listed before, in .*train\.txt, line 1"),
        ("b,1,0\n", r"val\.txt, line 1: video 'b' is listed before, in .*train\.txt, line 1"),
        ("\n \n", r"train\.txt.*: no video of train is listed"),
    ],
)
def test_errors_name_file_and_line(folder, text, complaint):
    write(folder, "train.txt", text)
    with pytest.raises(DataError, match=complaint):
        read_annotations(make_recipe(), folder)


def test_absent_and_undecodable_files(folder):
    (folder / "annotations" / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"val\.txt: cannot be read"):
        read_annotations(make_recipe(), folder)
    write(folder, "val.txt", "b,10,1\n")
    (folder / "annotations" / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.txt: cannot be read"):
        read_annotations(make_recipe(), folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("walk\nrun, fast\n", ["walk", "run, fast"]),
        ("0 walk\n1 run, fast\n", ["walk", "run, fast"]),
        ("2\trun, fast\r\n1\twalk\r\n", ["walk", "run, fast"]),
        ("0,walk\n1,run, fast\n", ["walk", "run, fast"]),
        ("0\n1\n", ["0", "1"]),
        ("3 point turn\n3 point shot\n", ["3 point turn", "3 point shot"]),
        ("1 legged walk\nrun\n", ["1 legged walk", "run"]),
    ],
)
def test_class_lists_with_and_without_numbers(folder, text, expected):
    write(folder, "classes.txt", text)
    assert read_annotations(make_recipe(classes=2), folder).classes == expected


@pytest.mark.parametrize("text", ["", "one\n", "one\ntwo\nthree\n"])
def test_number_of_classes_must_agree(folder, text):
    write(folder, "classes.txt", text)
    with pytest.raises(DataError, match=r"classes\.txt: lists \d classes, but the recipe has 2"):
        read_annotations(make_recipe(classes=2), folder)


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(names, st.integers(1, 10**6), st.sets(st.integers(0, 500), min_size=1))
def test_comma_lines_read_back(name, frames, labels):
    name = name.replace(",", "_")
    line = ",".join(map(str, (name, frames, *labels)))
    assert _video_and_labels(line, ",", "here", "val") == (name, "val", labels)


@given(st.lists(names, min_size=1).map(" ".join), st.integers(1, 10**6), st.integers(0, 500))
def test_space_lines_read_back(name, frames, label):
    line = f"{name} {frames} {label}"
    assert _video_and_labels(line, " ", "here", "val") == (name, "val", {label})


# --- the official forms -----------------------------------------------------------------------


def official(number, /, **annotations):
    """A recipe whose annotations are these files."""
    values = make_recipe().to_dict() | {"classes": number, "annotations": annotations}
    return parse_recipe(values, "miniature")


ACTIVITYNET = {
    "version": "VERSION 1.3",
    "database": {
        "---9CpRcKoU": {
            "subset": "training",
            "url": "https://example.org/---9CpRcKoU",
            "annotations": [
                {"segment": [0.0, 3.0], "label": 'Drinking, "beer"'},
                {"segment": [5.0, 9.0], "label": "Archery"},
                {"segment": [9.0, 9.5], "label": "Archery"},
            ],
        },
        "unseen": {"subset": "testing", "annotations": []},
        "b": {"subset": "validation", "annotations": [{"label": "Zumba"}]},
    },
}


def activitynet(folder, **changes):
    write(folder, "net.json", json.dumps(ACTIVITYNET | changes))
    return official(3, format="activitynet", file="net.json")


def test_activitynet(folder):
    table, classes = read_annotations(activitynet(folder), folder)
    # Zumba occurs in validation only.
    assert classes == ["Archery", 'Drinking, "beer"', "Zumba"]
    assert [tuple(row) for row in table.itertuples(index=False)] == [
        ("v_---9CpRcKoU", "train", [0, 1]),
        ("v_b", "val", [2]),
    ]
    write(folder, "order.txt", 'Zumba\nArchery\nDrinking, "beer"\n')
    recipe = official(3, format="activitynet", file="net.json", classes="order.txt")
    assert listed(recipe, folder)[1] == ("v_b", "val", [0])


@pytest.mark.parametrize(
    ("database", "complaint"),
    [
        ({"a": {"subset": "training", "annotations": []}}, r"net\.json, database\.a: has no label"),
        ({"a": {"subset": "holdout", "annotations": []}}, r"database\.a: lacks a known subset"),
        ({"a": {"subset": "training"}}, r"database\.a: lacks"),
        ([], r"has no object 'database'"),
        ({}, r"net\.json: no video of train is listed"),
    ],
)
def test_activitynet_gone_wrong(folder, database, complaint):
    with pytest.raises(DataError, match=complaint):
        read_annotations(activitynet(folder, database=database), folder)


def test_json_gone_wrong(folder):
    recipe = activitynet(folder)
    for text, complaint in (
        ("", r"net\.json, line 1: is not JSON"),
        ('{"database": {\n"a": 1,\n', r"net\.json, line 3: is not JSON"),
        ('{"database": {"a": {}, "a": {}}}', r"net\.json: 'a' is listed twice"),
    ):
        write(folder, "net.json", text)
        with pytest.raises(DataError, match=complaint):
            read_annotations(recipe, folder)


def fcvid(folder, splits, labels):
    write(folder, "splits.txt", splits)
    write(folder, "labels.txt", labels)
    write(folder, "names.txt", "biking\ncat\nbirthday\n")
    return official(
        3, format="fcvid", splits="splits.txt", labels="labels.txt", classes="names.txt"
    )


def test_fcvid(folder):
    splits = "biking/a b.flv train\r\ncat\\c.mp4 test\r\n"
    recipe = fcvid(folder, splits, "\ufeff1 0 1\r\n0 1 0\r\n")
    assert listed(recipe, folder) == [("biking/a b", "train", [0, 2]), ("cat/c", "val", [1])]


@pytest.mark.parametrize(
    ("splits", "labels", "complaint"),
    [
        (
            "a.mp4 train\nb.mp4 test\n",
            "1 0 0\n",
            r"splits\.txt: lists 2 videos, but .* 1 lines",
        ),
        ("a.mp4 train\nb.mp4 dev\n", "1 0 0\n1 0 0\n", r"splits\.txt, line 2: is not of the form"),
        ("a.mp4 train\nb.mp4 test\n", "1 0 0\n0 0 0\n", r"labels\.txt, line 2: is not a line of"),
        ("a.mp4 train\nb.mp4 test\n", "1 0 0\n0 0 0 1", r"line 2: label 3 .* of the 3 classes"),
        ("a.mp4 train\na.avi test\n", "1 0 0\n1 0 0\n", r"line 2: video 'a' is listed before"),
        ("", "", r"no video of train is listed"),
    ],
)
def test_fcvid_gone_wrong(folder, splits, labels, complaint):
    with pytest.raises(DataError, match=complaint):
        read_annotations(fcvid(folder, splits, labels), folder)


def kinetics(folder, train, val="label,youtube_id,time_start,time_end,split\nrun,v,0,10,val\n"):
    write(folder, "train.csv", train)
    write(folder, "val.csv", val)
    write(folder, "minik.txt", 'say "hi", wave\nrun\n')
    return official(2, format="kinetics", train="train.csv", val="val.csv", classes="minik.txt")


def test_kinetics_keeps_the_listed_classes(folder):
    train = (
        "\ufefflabel,youtube_id,time_start,time_end,split\r\n"
        '"say ""hi"", wave",-Id_1,84,94,train\r\n'
        "archery,x,1,11,train\r\n"
        "run,y,100000,100010,train\r\n"
    )
    assert listed(kinetics(folder, train), folder) == [
        ("-Id_1_000084_000094", "train", [0]),
        ("y_100000_100010", "train", [1]),
        ("v_000000_000010", "val", [1]),
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("label,youtube_id,split\n", r"train\.csv, line 1: lacks the column time_start, time_end"),
        ("", r"train\.csv, line 1: lacks the column label"),
        ("label,youtube_id,time_start,time_end,split\nrun,y,one,2,train\n", r"line 2: time_start"),
        ("label,youtube_id,time_start,time_end,split\nrun,y\n", r"line 2: has not the 5 fields"),
        ('label,youtube_id,time_start,time_end,split\n"run,y\n', r"is not CSV"),
    ],
)
def test_kinetics_gone_wrong(folder, text, complaint):
    with pytest.raises(DataError, match=complaint):
        read_annotations(kinetics(folder, text), folder)


def test_something_v1(folder):
    # The published models number the classes in alphabetical order, whatever the file's.
    write(folder, "labels.csv", 'Pretending, "badly", to pour\nHolding something\n')
    write(folder, "train.csv", '100218;Pretending, "badly", to pour\r\n2;Holding something\r\n')
    write(folder, "val.csv", "3;Holding something\n")
    files = {"train": "train.csv", "val": "val.csv", "classes": "labels.csv"}
    recipe = official(2, format="something_v1", **files)
    assert listed(recipe, folder) == [
        ("100218", "train", [1]),
        ("2", "train", [0]),
        ("3", "val", [0]),
    ]
    for text, complaint in (
        ("3;Holding\n", r"val\.csv, line 1: label 'Holding' of video '3' is not one of the 2"),
        ("3\n", r"val\.csv, line 1: is not of the form id;label"),
        ("2;Holding something\n", r"val\.csv, line 1: video '2' is listed before, in .*train\.csv"),
    ):
        write(folder, "val.csv", text)
        with pytest.raises(DataError, match=complaint):
            read_annotations(recipe, folder)


def test_something_v2(folder):
    write(folder, "labels.json", json.dumps({"Moving something up": "1", "Holding something": "0"}))
    train = [
        {"id": "78687", "label": "holding potato", "template": "Holding [something]"},
        {"id": "2", "label": "moving cup up", "template": "Moving [something] up"},
    ]
    write(folder, "train.json", json.dumps(train))
    write(folder, "validation.json", json.dumps([train[0] | {"id": 3}]))
    files = {"train": "train.json", "val": "validation.json", "classes": "labels.json"}
    recipe = official(2, format="something_v2", **files)
    assert read_annotations(recipe, folder).classes == ["Holding something", "Moving something up"]
    assert listed(recipe, folder) == [
        ("78687", "train", [0]),
        ("2", "train", [1]),
        ("3", "val", [0]),
    ]
    for value, complaint in (
        ([{"id": "4", "template": "Sawing [something]"}], r"entry 1: label 'Sawing something' of"),
        ([{"id": "4"}], r"validation\.json, entry 1: has no id or no template"),
        ({}, r"validation\.json: is not a list"),
        ([], r"no video of val is listed"),
    ):
        write(folder, "validation.json", json.dumps(value))
        with pytest.raises(DataError, match=complaint):
            read_annotations(recipe, folder)
    write(folder, "labels.json", '{"a": 0, "b": 2}')
    write(folder, "validation.json", json.dumps([train[0] | {"id": 3}]))
    with pytest.raises(DataError, match=r"labels\.json: the numbers are not 0 to 1"):
        read_annotations(recipe, folder)


def test_ones_own_table(folder):
    table = 'video,split,labels\n"a, b",train,walk;run\nc,train,run\nd,val,"say ""hi"""\n'
    write(folder, "videos.csv", table)
    recipe = official(3, format="table", file="videos.csv")
    assert read_annotations(recipe, folder).classes == ["run", 'say "hi"', "walk"]
    assert listed(recipe, folder) == [
        ("a, b", "train", [0, 2]),
        ("c", "train", [0]),
        ("d", "val", [1]),
    ]
    for line, complaint in (
        ("e,test,walk", r"videos\.csv, line 5: split is 'test'"),
        ("e,val,walk;", r"line 5: the video's name or a label is empty"),
        ("e,val,fly", r"lists 4 classes, but the recipe has 3"),
        ("c,val,walk", r"line 5: video 'c' is listed before, in .*line 3"),
    ):
        write(folder, "videos.csv", f"{table}{line}\n")
        with pytest.raises(DataError, match=complaint):
            read_annotations(recipe, folder)


@pytest.mark.parametrize(
    "name", ["big $$ win", "two\u2028lines", "a;b", "a\x85b", "猫", "a\\b", "-"]
)
def test_names_of_classes_arrive_as_they_are(folder, name):
    rows = [("v", "train", join_labels([name])), ("w", "val", join_labels([name, "other"]))]
    rows.append(("x", "train", "other"))
    write(folder, "videos.csv", "video,split,labels\n" + "".join(f"{','.join(r)}\n" for r in rows))
    recipe = official(2, format="table", file="videos.csv")
    assert read_annotations(recipe, folder).classes == sorted([name, "other"])
    (folder / "manifests").mkdir()
    for shard in range(recipe.frames.shards):
        made = "".join(f"{v},frames/{v}.zip,ok,1,1,1,\n" for v in "vwx" if not shard)
        header = "video,path,status,frames,height,width,error\n"
        (folder / "manifests" / f"{shard}.csv").write_text(header + made)
    write_splits(recipe, folder)
    assert class_names(folder) == sorted([name, "other"])


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines", "nul\0", "\ud800"])
def test_names_of_classes_that_are_no_line_are_refused(folder, name):
    entries = [{"id": number, "template": name} for number in (1, 2)]
    write(folder, "train.json", json.dumps(entries[:1]))
    write(folder, "validation.json", json.dumps(entries[1:]))
    write(folder, "labels.json", json.dumps({name: 0, "x": 1}))
    recipe = official(
        2,
        format="something_v2",
        train="train.json",
        val="validation.json",
        classes="labels.json",
    )
    with pytest.raises(DataError, match=r"train\.json, entry 1: class .* is no line of text"):
        read_annotations(recipe, folder)


@pytest.mark.parametrize(
    "text",
    [
        '\ufeffvideo;split;labels\r\na b;train;walk\r\nc;val;"walk;run"\r\nd;train;run\r\n;;\r\n',
        "\ufeffvideo\tsplit\tlabels\na b\ttrain\twalk\nc\tval\twalk;run\nd\ttrain\trun",
        'sep=;\nVideo;Split;Labels\na b;train;walk\nc;val;"walk;run"\nd;train;run\n',
        "video, Split ,labels,,\ra b,train,walk,,\rc,val,walk;run,,\rd,train,run,,\r,,,,\r",
        '"video","split","labels"\n"a b","train","walk"\n"c","val","walk;run"\n"d","train","run"\n',
    ],
    ids=["semicolons", "tabs", "sep", "old-macs", "quoted"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_tables_as_programs_leave_them(folder, text, encoding):
    if encoding != "utf-8":
        text = "\ufeff" + text.removeprefix("\ufeff")
    (folder / "annotations" / "videos.csv").write_bytes(text.encode(encoding))
    recipe = official(2, format="table", file="videos.csv")
    assert listed(recipe, folder) == [
        ("a b", "train", [1]),
        ("c", "val", [0, 1]),
        ("d", "train", [0]),
    ]


def test_a_table_in_the_letters_of_one_country(folder):
    """Names in it are bytes, as those of files are; classes are text."""
    table = b"video,split,labels\ncaf\xe9,train,x;y\nc,val,x\n"
    (folder / "annotations" / "videos.csv").write_bytes(table)
    recipe = official(2, format="table", file="videos.csv")
    assert [row[0] for row in listed(recipe, folder)] == [r"caf\xe9", "c"]
    (folder / "annotations" / "videos.csv").write_bytes(table + b"d,val,caf\xe9\n")
    with pytest.raises(DataError, match=r"csv, line 4: class 'caf.*' is no .* or save .* UTF-8"):
        read_annotations(recipe, folder)


# --- where videos come from -------------------------------------------------------------------


def test_cuts(folder):
    header = "label,youtube_id,time_start,time_end,split\n"
    recipe = kinetics(folder, f"{header}run,-abc_DEFGH1,12,22,train\n")
    cuts = read_cuts(recipe, folder)
    assert cuts["-abc_DEFGH1_000012_000022"] == ("-abc_DEFGH1", 12, 22)

    for id in ("../up", "a b", "x;y"):
        recipe = kinetics(folder, f"{header}run,{id},12,22,train\n")
        with pytest.raises(DataError, match=r"train\.csv, line 2: .* is no id on YouTube"):
            read_cuts(recipe, folder)
    with pytest.raises(DataError, match=r"train\.txt, line 1: tells no id on YouTube"):
        read_cuts(make_recipe(), folder)
