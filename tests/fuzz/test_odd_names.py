"""Names: any bytes that a file system takes, of videos, classes, data sets and folders."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from miniature import make_video
from rule import check_line, tried, used
from simplejpeg import encode_jpeg
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.data.annotations import read_annotations
from adafocus.data.frames import extract
from adafocus.data.names import one_line, readable
from adafocus.data.own import new_dataset
from adafocus.data.sources import fetch
from adafocus.data.splits import check_names, write_splits
from adafocus.data.store import read_frames
from adafocus.recipe import load_recipe, load_recipes

PICTURE = encode_jpeg(np.full((16, 16, 3), 90, np.uint8))
USUAL = [b"a", b"b", b"a.mp4", b"v_a", b"train", b"val", b"Test", b"cat", b"1.jpg", b"cover.jpg"]
ODD = [
    *(
        b"-",
        b"--",
        b"-x.mp4",
        b" ",
        b" a ",
        b"a.",
        b"...",
        b"~",
        b"*",
        b"?",
        b"[a]",
        b"%d",
        b"%05d.mp4",
    ),
    *(
        b"{x}",
        b"$(x)",
        b"`x`",
        b"a;b",
        b"a\\;b",
        b"\\",
        b"\\x80",
        b"a,b",
        b'"',
        b"'",
        b'a"b',
        b"#",
        b"|",
    ),
    *(
        b"a\nb",
        b"\n",
        b"\r",
        b"a\r\nb",
        b"\t",
        b"\x01",
        b"\x7f",
        b"\x1b[31m",
        b"caf\xe9.mp4",
        b"\xff",
    ),
    *(
        "é".encode(),
        "e\u0301".encode(),
        "İ".encode(),
        "ß".encode(),
        "\u2028".encode(),
        "💥".encode(),
    ),
    *(
        "\ufeffa".encode(),
        "\u202ea".encode(),
        "中文".encode(),
        b"\xed\xa0\x80",
        b"nan",
        b"NA",
        b"null",
    ),
    *(
        b"n" * 255,
        b"m" * 200,
        b"m" * 252,
        b"\xff" * 60,
        b"\xff" * 255,
        "é".encode() * 127,
        b"0",
        b"1e5",
    ),
    *(
        b"file:a",
        b"http:",
        b"C:\\a.mp4",
        b"a:b",
        b"pipe:0",
        b"con",
        b"train.csv",
        b"=1+1",
        b"@",
        b"!a",
    ),
]
NAMES = (
    st.sampled_from(USUAL + ODD)
    | st.binary(min_size=1, max_size=255)
    | st.text(min_size=1, max_size=40).map(lambda text: text.encode(errors="surrogatepass"))
).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name) and len(name) < 256)
TREES = st.dictionaries(NAMES, st.sets(NAMES, min_size=1, max_size=4), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("film") / "a.mp4", 2, "16x16")


@pytest.fixture
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("names")


def empty(base):
    shutil.rmtree(base)
    base.mkdir()


def lay(tree, folder, film=None):
    """A tree of videos: folders of one picture, or files."""
    for group, names in tree.items():
        for name in names:
            path = Path(os.fsdecode(os.path.join(os.fsencode(folder), group, name)))
            if film:
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(film, path)
            else:
                path.mkdir(parents=True)
                (path / "1.jpg").write_bytes(PICTURE)


def through(videos, data, recipes):
    """The whole way of one's own videos up to their splits, or None where that is refused."""
    made = used(lambda: new_dataset("mine", videos, None, recipes, 0, "uni-adafocus"))
    if made is None:
        assert not list(recipes.glob("*")), "nothing is left of what was refused"
        return None
    recipe, path = made
    assert load_recipe(path) == recipe
    recipe = recipe.model_copy(update={"frames": recipe.frames.model_copy(update={"shards": 1})})
    fetch(recipe, data, workers=1)
    check_names(recipe, data)
    extract(recipe, data, 0, threads=1)
    annotated, classes = read_annotations(recipe, data)
    assert len(classes) == recipe.classes
    if used(lambda: (write_splits(recipe, data), True)) is None:
        return recipe, annotated, None
    return (
        recipe,
        annotated,
        [
            row
            for split in ("train", "val")
            for row in csv.DictReader((data / "splits" / f"{split}.csv").open(newline=""))
        ],
    )


@tried(20)
@given(TREES, NAMES, st.booleans())
@example({b"a": {b"a", b"b", b"c"}, b"b": {b" a ", b"caf\xe9"}}, b"\xff\n", True)
@example({b"a": {b"1", b"2"}, b"\xff" * 70: {b"1", b"2"}}, b"x", False)
@example({b"a\\;b": {b"1", b"2"}, b";": {b"1", b"2"}}, b"x", True)
@example({b"a ": {b"1", b"2"}, b" a": {b"1", b"2"}}, b"x", True)
@example({b"a": {b"1\r", b"\r", b"2"}, b"b": {b"1", b"\r"}}, b"\r", True)
def test_videos_of_any_name_come_to_their_splits(base, tree, root, split):
    """Those whose names are too long for a file with frames alone may be missing, and are named."""
    empty(base)
    if split:  # so that both classes are in both splits, whatever their names
        tree = {name: {b"x%d" % n for n in range(2)} | names for name, names in tree.items()}
        tree |= {b"another": {b"1", b"2"}} if len(tree) == 1 else {}
    videos = base / os.fsdecode(root)
    lay(tree, videos)
    if found := through(videos, base / "data", base / "recipes"):
        _, annotated, rows = found
        count = sum(len(names) for names in tree.values())
        hidden = sum(
            group.startswith(b".") or name.startswith(b".")
            for group, names in tree.items()
            for name in names
        )
        assert len(annotated) == count - hidden or {b"train", b"val"} & {
            group.lower() for group in tree
        }
        for row in rows or ():
            assert read_frames(base / "data" / row["path"], [0]).shape == (1, 3, 16, 16)


@tried(2)
@given(st.lists(NAMES, min_size=4, max_size=4, unique=True))
@example([b"caf\xe9.mp4", b"-i.mp4", b"a\nb.mp4", b"%d:\\'.mp4"])
def test_films_of_any_name_come_to_their_splits(base, film, names):
    empty(base)
    tree = {b"cat": {b"1.mp4", *names[:2]}, b"dog": {b"1.mp4", *names[2:]}}
    lay(tree, base / "videos", film)
    through(base / "videos", base / "data", base / "recipes")


@tried(25)
@given(NAMES.map(os.fsdecode))
@example("x" * 251)
@example("x" * 255)
@example("x" * 300)
@example("../a")
@example("a\n")
@example("x_frames")
@example("frames")
def test_a_data_set_of_any_name_is_made_or_refused(base, name):
    """By the command line, before a video is looked at."""
    empty(base)
    lay({b"a": {b"1", b"2"}, b"b": {b"1", b"2"}}, base / "videos")
    (base / "config" / "recipes").mkdir(parents=True)
    here = os.getcwd()
    os.chdir(base)
    try:
        run = CliRunner().invoke(app, ["new-dataset", "--videos", "videos", "--", name])
    finally:
        os.chdir(here)
    assert isinstance(run.exception, SystemExit | None), run.exception
    if run.exit_code == 0:
        assert name in load_recipes(base / "config" / "recipes")
    else:
        *_, line, end = run.stderr.split("\n")
        assert line.startswith("Error: ") and not end
        check_line(line, one_line(name), repr(name))
        assert not list(base.glob("config/recipes/*"))


@tried(100)
@given(NAMES)
def test_a_name_as_text_stays_what_it_is(name):
    text = readable(os.fsdecode(name))
    assert readable(text) == text
    check_line(one_line(text), one_line(text))
