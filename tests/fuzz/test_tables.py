"""Tables: CSV as programs and people leave it, and the other forms of annotations."""

import codecs
import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from miniature import make_recipe
from rule import tried, used
from simplejpeg import encode_jpeg

from adafocus.data.annotations import read_annotations, read_cuts
from adafocus.data.own import new_dataset
from adafocus.recipe import load_recipe

THERE = [f"{group}/{name}" for group in ("cat", "dög") for name in ("a", "b", "ü", "d 1")]
PICTURE = encode_jpeg(np.full((16, 16, 3), 90, np.uint8))
CELLS = st.sampled_from(
    [
        *(
            "",
            " ",
            "a",
            "cat/a.mp4",
            "CAT/A",
            "/old/cat/a",
            "C:\\cat\\a.avi",
            "../a",
            "gone",
            "v_a",
        ),
        *(
            "train",
            "Val",
            "dev",
            "x;y",
            "x;",
            ";",
            "x\\;y",
            "a,b",
            'a"b',
            '"',
            "a\nb",
            "a\rb",
            "\t",
        ),
        *(
            "\0",
            "\u2028",
            "\ufeff",
            "é",
            "e\u0301",
            "=1",
            "#",
            "0",
            "nan",
            "NA",
            "1e5",
            "y" * 140_000,
        ),
    ]
) | st.text(max_size=8)
HEADS = st.sampled_from(
    [
        *([["video", "split", "labels"]] * 6),
        *(
            ["video", "labels"],
            ["Video", " LABELS ", "Split"],
            ["labels", "video", "", ""],
            ["video"],
        ),
        *(
            ["video", "video", "labels"],
            [],
            ["video;labels"],
            ["id", "name"],
            ["video", "labels", "x"],
        ),
    ]
)
ENCODINGS = st.sampled_from(
    ["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "cp1252", "utf-32", "utf-7"]
)


@st.composite
def tables(draw):
    """A good table, in one of many ways to write it, with cells, rows or bytes that are not."""
    head = draw(HEADS)
    good = {"split": "", "labels": ""}
    rows = []
    for place, video in enumerate(THERE):
        good = {
            "video": video,
            "split": ("train", "val")[place % 2],
            "labels": "xy"[place // 2 % 2],
        }
        rows.append([good.get(name.strip().lower(), "") for name in head])
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.integers(0, len(rows) - 1))
        kind = draw(st.sampled_from(["cell", "cell", "twice", "short", "long", "out"]))
        if kind == "cell" and rows[row]:
            rows[row] = list(rows[row])
            rows[row][draw(st.integers(0, len(rows[row]) - 1))] = draw(CELLS)
        elif kind == "twice":
            rows.insert(draw(st.integers(0, len(rows))), rows[row])
        elif kind == "short":
            rows[row] = rows[row][:-1]
        elif kind == "long":
            rows[row] = [*rows[row], draw(CELLS)]
        elif len(rows) > 1:
            del rows[row]
    text = io.StringIO()
    style = {
        "delimiter": draw(st.sampled_from(",,,;\t|")),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    }
    csv.writer(text, **style).writerows([head, *rows])
    before = draw(st.sampled_from([""] * 5 + ["sep=;\n", "\n", "# made by hand\n"]))
    content = bytearray((before + text.getvalue()).encode(draw(ENCODINGS), "replace"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.sampled_from([None, None, None, -3, 20]))])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("tables")
    for name in THERE:
        (base / "videos" / name).mkdir(parents=True)
        (base / "videos" / name / "1.jpg").write_bytes(PICTURE)
    (base / "annotations").mkdir()
    return base


@tried(40)
@given(tables() | st.binary(max_size=60))
@example(b"video,split,labels\ncat/a,train,x\n cat/b,val,x \n")
@example(codecs.BOM_UTF16_LE + b"v")
def test_a_table_of_ones_own_is_used_or_refused(base, content):
    """And what is written of it is read as it was meant."""
    table = base / "labels.csv"
    table.write_bytes(content)
    for path in (base / "recipes").glob("*"):
        path.unlink()
    made = used(
        lambda: new_dataset("mine", base / "videos", table, base / "recipes", 0, "uni-adafocus"),
        *("labels.csv", "mine.yaml", "class ", "no video"),
    )
    if made is None:
        assert not list((base / "recipes").glob("*")), "nothing is left of what was refused"
        return
    recipe, path = made
    assert load_recipe(path) == recipe
    annotated, classes = read_annotations(recipe, base)
    assert set(annotated["video"]) <= set(THERE) and len(classes) == recipe.classes


# --- other forms ------------------------------------------------------------------------------

LISTED = {"train": "train", "val": "val", "classes": "classes"}
FORMS = {
    "split_files": ({"train": "a b,9,0\n", "val": "c,9,1,2\n"}, LISTED),
    "activitynet": (
        {
            "train": {
                "database": {
                    "a": {"subset": "training", "annotations": [{"label": "x"}]},
                    "b": {"subset": "validation", "annotations": [{"label": "y"}]},
                }
            }
        },
        {"file": "train", "classes": "classes"},
    ),
    "fcvid": (
        {"train": "x/a.mp4 train\ny/b.mp4 test\n", "val": "1 0\n0 1\n"},
        {"splits": "train", "labels": "val", "classes": "classes"},
    ),
    "kinetics": (
        {
            "train": "label,youtube_id,time_start,time_end,split\nx,-_a,1,11,train\n",
            "val": "label,youtube_id,time_start,time_end,split\ny,b,1,11,val\n",
        },
        LISTED,
    ),
    "something_v1": ({"train": "1;x\n", "val": "2;y\n"}, LISTED),
    "something_v2": (
        {"train": [{"id": "1", "template": "[x]"}], "val": [{"id": "2", "template": "y"}]},
        {"train": "train", "val": "val", "classes": "classes.json"},
    ),
}
PIECES = st.sampled_from(
    [
        *("\n", "\r", "\t", "\0", " ", ",", ";", '"', "\\", "-1", "0", "9" * 5000, "1e999", "NaN"),
        *(
            "Infinity",
            "-Infinity",
            "null",
            "true",
            "[" * 3000,
            '{"a":' * 3000,
            "}",
            "]",
            ":",
            "1.5",
        ),
        *("\u2028", "é", "\ufeff", "\\ud800", "\x85", "²", "٣", "x", "train", "0.5", "1_000"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@st.composite
def changed(draw, content):
    """Text or JSON with pieces put in or taken out, or other values."""
    if not isinstance(content, str):
        content = json.loads(json.dumps(content))
        where = content
        while isinstance(where, dict | list) and where and draw(st.booleans()):
            key = draw(st.sampled_from(list(where) if isinstance(where, dict) else [0]))
            if isinstance(where[key], str) or draw(st.booleans()):
                where[key] = draw(JSON | st.sampled_from([math.inf, math.nan, 10**400]))
                break
            where = where[key]
        content = json.dumps(content, ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(content)))
        out = draw(st.sampled_from([0, 0, 1, 5]))
        content = content[:at] + draw(PIECES) + content[at + out :]
    return content.encode(draw(ENCODINGS), "replace")


def files_of(form):
    """What is written for a form, by the names of its files."""
    files, entries = FORMS[form]
    classes = {"x": 0, "y": 1, "z": 2} if form == "something_v2" else "x\ny\nz\n"
    return {**files, entries.get("classes", "classes"): classes}


SPOILT = st.sampled_from(
    [(form, name, content) for form in FORMS for name, content in files_of(form).items()]
).flatmap(lambda one: st.tuples(st.just(one[0]), st.just(one[1]), changed(one[2])))


@tried(80)
@given(SPOILT)
@example(("something_v2", "classes.json", b'{"x": Infinity, "y": 0, "z": 1}'))
@example(("something_v2", "train", b"[" * 100_000))
@example(("something_v2", "train", b"9" * 5000))
@example(("something_v2", "train", b'[{"id": "\\ud800", "template": "x"}]'))
@example(("split_files", "classes", b"0 " + b"9" * 5000 + b" x\n"))
@example(("split_files", "train", "a,9,²\n".encode()))
@example(("split_files", "classes", b"9" * 5000 + b" x\n2 y\n3 z\n"))
@example(("kinetics", "train", b"label,youtube_id,time_start,time_end,split\nx,-_a,-1,11,train\n"))
def test_annotations_of_any_form_are_used_or_refused(base, spoilt):
    form, spoilt, content = spoilt
    for name, good in files_of(form).items():
        text = good if isinstance(good, str) else json.dumps(good)
        (base / "annotations" / name).write_bytes(content if name == spoilt else text.encode())
    recipe = make_recipe(annotations={"format": form, **FORMS[form][1]}, classes=3)
    used(lambda: read_annotations(recipe, base), str(base / "annotations"))
    used(lambda: read_cuts(recipe, base), str(base / "annotations"))
