"""Split files and class lists in the authors' form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniature import make_recipe

from adafocus.data import DataError
from adafocus.data.annotations import _parse, read_annotations, read_classes


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotations").mkdir()
    write(tmp_path, "train.txt", "a,10,0\n")
    write(tmp_path, "val.txt", "b,10,1\n")
    return tmp_path


def write(folder, name: str, text: str) -> None:
    (folder / "annotations" / name).write_bytes(text.encode())


def listed(recipe, folder) -> list[tuple]:
    return [tuple(row) for row in read_annotations(recipe, folder).itertuples(index=False)]


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
        ("a,1,0\n\nc,10,10\n", r"line 3: a label is not one of 0 to 9: c,10,10"),
        ("c,10,-1\n", r"line 1: a label is not one of 0 to 9"),
        ("c,1,0\nc,1,1\n", r"line 2: video 'c' is listed before, in .*train\.txt, line 1"),
        ("b,1,0\n", r"val\.txt, line 1: video 'b' is listed before, in .*train\.txt, line 1"),
        ("\n \n", r"train\.txt: lists no video"),
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
    with pytest.raises(DataError, match=r"classes\.txt: cannot be read"):
        read_classes(make_recipe(), folder)


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
    assert read_classes(make_recipe(classes=2), folder) == expected


@pytest.mark.parametrize("text", ["", "one\n", "one\ntwo\nthree\n"])
def test_number_of_classes_must_agree(folder, text):
    write(folder, "classes.txt", text)
    with pytest.raises(DataError, match=r"classes\.txt: lists \d classes, but the recipe has 2"):
        read_classes(make_recipe(classes=2), folder)


names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1)


@given(names, st.integers(1, 10**6), st.sets(st.integers(0, 500), min_size=1))
def test_comma_lines_read_back(name, frames, labels):
    name = name.replace(",", "_")
    line = ",".join(map(str, (name, frames, *labels)))
    assert _parse(line, ",", "here") == (name, sorted(labels))


@given(st.lists(names, min_size=1).map(" ".join), st.integers(1, 10**6), st.integers(0, 500))
def test_space_lines_read_back(name, frames, label):
    assert _parse(f"{name} {frames} {label}", " ", "here") == (name, [label])
