"""How much disk a data set takes."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from adafocus.data import DataError
from adafocus.data.disk import check_space, estimate
from adafocus.recipe import load_recipes

RECIPES = load_recipes(Path(__file__).parents[2] / "config" / "recipes")
BOTH = {"download", "frames"}


def test_activitynets_frames_are_what_the_authors_measured():
    videos, frames = estimate(RECIPES["actnet"])
    assert videos == 0
    assert frames == pytest.approx(679e9, rel=0.01)


def test_fewer_and_smaller_frames_take_less():
    recipe = RECIPES["actnet"]
    settings = recipe.frames.model_copy(update={"rate": 3.0, "height": 180, "quality": 4})
    fewer = recipe.model_copy(update={"frames": settings})
    assert estimate(fewer)[1] == pytest.approx(estimate(recipe)[1] / 10 / 4 / 2)


@pytest.fixture
def free(monkeypatch):
    def set_free(gigabytes):
        usage = SimpleNamespace(free=gigabytes * 10**9)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    return set_free


def test_what_will_come_is_told(tmp_path, free):
    free(1000)
    data = tmp_path / "not yet there"
    assert check_space({"sthv2": BOTH, "demo": BOTH}, RECIPES, data) == [
        f"about 20 GB of videos and 53 GB of frames will come to {data}/sthv2, where 1,000 GB are"
        " free"
    ]
    assert "of videos will come" in check_space({"sthv2": {"download"}}, RECIPES, data)[0]
    assert check_space({"actnet": {"download"}}, RECIPES, data) == []


def test_all_data_sets_on_a_disk_are_added_up(tmp_path, free):
    free(100)
    check_space({"sthv2": BOTH}, RECIPES, tmp_path)
    check_space({"sthv1": BOTH}, RECIPES, tmp_path)
    free(90)
    with pytest.raises(DataError, match=r"sthv1.*sthv2.*free 8 GB, name another folder"):
        check_space({"sthv2": BOTH, "sthv1": BOTH}, RECIPES, tmp_path)


def test_what_is_there_already_does_not_come(tmp_path, free):
    free(1000)
    hole(tmp_path / "sthv2" / "frames" / "1.zip", 50)
    assert "and 3 GB of frames" in check_space({"sthv2": BOTH}, RECIPES, tmp_path)[0]


def hole(path, gigabytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(gigabytes * 10**9)  # the disk holds nothing of it


def test_archives_that_a_person_gave_are_not_the_videos(tmp_path, free):
    """They stay beside what is unpacked of them, which takes no less."""
    free(1000)
    download = {"sthv2": {"download"}}
    hole(tmp_path / "sthv2" / "archives" / "20bn-something-something-v2-00", 18)
    assert "about 20 GB of videos" in check_space(download, RECIPES, tmp_path)[0]
    hole(tmp_path / "sthv2" / "archives" / "20bn-something-something-v2-01", 12)
    assert "about 30 GB of videos" in check_space(download, RECIPES, tmp_path)[0]
    free(29)
    with pytest.raises(DataError, match="free 1 GB"):
        check_space(download, RECIPES, tmp_path)
    hole(tmp_path / "sthv2" / "incoming" / "1.webm", 25)
    assert "about 5 GB of videos" in check_space(download, RECIPES, tmp_path)[0]
    hole(tmp_path / "sthv2" / "videos" / "1.webm", 1)
    assert check_space(download, RECIPES, tmp_path) == [], "all is unpacked"


def test_videos_that_were_deleted_when_their_frames_were_there_do_not_come_again(tmp_path, free):
    free(1000)
    videos = RECIPES["minik"].videos.model_copy(update={"train": 1, "val": 1})
    recipes = {"minik": RECIPES["minik"].model_copy(update={"videos": videos})}
    assert "about 130 GB of videos" in check_space({"minik": {"download"}}, recipes, tmp_path)[0]
    hole(tmp_path / "minik" / "frames" / "a.zip", 1)
    rows = "video,path,error\na,videos/a.mp4,\nb,videos/b.mp4,\n"
    (tmp_path / "minik" / "videos.csv").write_text(rows)
    assert "about 65 GB of videos" in check_space({"minik": {"download"}}, recipes, tmp_path)[0]
