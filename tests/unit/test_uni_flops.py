import pytest
import torch
from uni_models import RECIPES, published

from adafocus.evaluation.flops import count
from adafocus.evaluation.uni_flops import cost_of_exits, count_uni
from adafocus.recipe import UniRecipe, load_recipes


def on_meta(*which):
    with torch.device("meta"):
        return published(*which).eval()


@pytest.mark.parametrize(
    ("which", "total"),
    [
        (("long", 128), 27.23),
        (("short", 96, 8), 8.82),
        (("short", 96, 12), 11.82),
        (("short", 128, 12), 18.82),
        (("short", 128, 16), 24.16),
    ],
)
def test_totals_are_the_published_ones(which, total):
    assert sum(count_uni(on_meta(*which)).values()) == pytest.approx(total, rel=0.001)


def test_recipes_cost_what_is_published():
    recipes = [recipe for recipe in load_recipes(RECIPES).values() if isinstance(recipe, UniRecipe)]
    published = {
        (recipe.name, patch_size): figures.gflops
        for recipe in recipes
        for patch_size, figures in recipe.published.items()
    }
    assert len(published) == 3 + 4 + 4 + 1
    costs = {
        (recipe.name, patch_size): count(recipe, patch_size)["total"]
        for recipe in recipes
        for patch_size in recipe.published
    }
    assert costs == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("patch_size", "focus"), [(96, 0.7507), (128, 1.3346), (160, 2.0853), (192, 3.0028)]
)
def test_parts_of_long_videos(patch_size, focus):
    parts = count_uni(on_meta("long", patch_size))
    expected = {
        "glancer": 16 * 0.2995,
        "where": 0.8225,
        "when": 0.0041,
        "focuser": 16 * focus,
        "classifier": 0.2574,
    }
    assert parts == {name: pytest.approx(cost, rel=0.01) for name, cost in expected.items()}


def test_parts_of_short_videos():
    parts = count_uni(on_meta("short", 96, 8))
    heads = 8 * (1280 + 2048) * 174 / 1e9
    expected = {
        "glancer": 8 * 0.2995,
        "where": 0.4112,
        "when": 0.0021,
        "focuser": 8 * 0.7507,
        "classifier": heads,
    }
    assert parts == {name: pytest.approx(cost, rel=0.02) for name, cost in expected.items()}


def test_the_classifier_costs_so_much_a_frame():
    exits = cost_of_exits(on_meta("long", 128))
    glance, focus = 6.07e-3, 10.03e-3 + 1.3346
    assert exits.shape == (17,)
    assert exits[0] == pytest.approx(16 * (0.2995 + glance), rel=0.001)
    assert exits[1] - exits[0] == pytest.approx(0.8225 + 0.0041 + focus, rel=0.001)
    assert exits[2] - exits[1] == pytest.approx(focus, rel=0.001)
    assert exits[-1] == pytest.approx(27.23, rel=0.001)


def test_short_videos_have_two_exits():
    exits = cost_of_exits(on_meta("short", 96, 8))
    assert exits == pytest.approx([8 * (0.2995 + 1280 * 174 / 1e9), 8.82], rel=0.002)
