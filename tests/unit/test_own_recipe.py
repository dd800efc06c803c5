"""What is written for one's own videos, by how many there are."""

from pathlib import Path

import pytest

from adafocus.recipe import METHODS, load_recipe
from adafocus.recipe.own import MANY, OwnVideos, comment, own_recipe

RECIPES = Path(__file__).parents[2] / "config" / "recipes"


def recipe_of(method, train, length=100, **known):
    videos = {
        "counts": {"train": train, "val": 40},
        "classes": 6,
        "several": False,
        "length": length,
        "folder": "/videos",
        "labels": "mine.csv",
    }
    return own_recipe("mine", method, OwnVideos(**videos | known), "mine.yaml")


@pytest.mark.parametrize("method", METHODS)
def test_few_videos_make_enough_updates_in_small_batches(method):
    for train in (2, 30, 55, 240, 600, 2400, MANY - 1):
        recipe = recipe_of(method, train)
        for spec in recipe.table:
            training = recipe.stages[spec.name]
            assert training.optimizer == "adam"
            if spec.name == "stage2":
                assert training.epochs * train >= 30_000
                assert training.epochs / training.validate_every <= 20
            if spec.name in ("stage2", "stage3"):
                continue
            updates = training.epochs * max(1, train // training.batch_size)
            assert updates >= 600 or training.epochs == 60
            assert 4 <= training.batch_size <= 32
            assert training.batch_size <= max(4, train // 10)


def test_many_videos_are_trained_on_as_the_papers_do():
    """Dropouts are those of the authors' commands for one data set."""
    uni, older = recipe_of("uni-adafocus", MANY), recipe_of("adafocus", MANY)
    assert uni.stages == load_recipe(RECIPES / "actnet-uni.yaml").stages
    published = load_recipe(RECIPES / "actnet.yaml").stages
    for spec in older.table:
        theirs = published[spec.name]
        if "dropout" in type(theirs).model_fields:
            theirs = theirs.model_copy(update={"dropout": None})
        assert older.stages[spec.name] == theirs


def test_the_recipe_says_how_many_updates_each_stage_makes():
    said = comment(recipe_of("adafocus", 55))
    shipped = (RECIPES / "demo.yaml").read_text("utf-8")
    assert said.partition("\n")[0] == shipped.partition("\n")[0]  # the schema, for editors
    assert "#   stage1: 611, in 47 epochs of 13 batches of 4 videos\n" in said
    assert "#   stage2: 4368, in 546 epochs of 1 batch of 55 videos, each used 8 times\n" in said
    assert "joint: 12500, in 50 epochs of 250" in comment(recipe_of("uni-adafocus", 8000))


@pytest.mark.parametrize(
    ("length", "counts"),
    [(1, (2, 2, 2)), (5, (4, 2, 2)), (30, (30, 10, 10)), (47, (45, 15, 15)), (300, (48, 16, 16))],
)
def test_short_videos_have_fewer_candidates(length, counts):
    model = recipe_of("uni-adafocus", 55, length).model
    assert (model.frames, model.glance_frames, model.focus_frames) == counts
