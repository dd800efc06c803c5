from pathlib import Path

import pytest

from adafocus.evaluation import flops
from adafocus.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
HAND_COUNTS = {
    "actnet": {96: 17.18, 128: 26.52, 160: 38.53, 192: 53.21},
    "sthv1": {144: 23.53, 160: 27.47, 176: 33.72},
}


@pytest.mark.parametrize(
    ("dataset", "patch_size", "total"),
    [(dataset, *entry) for dataset, counts in HAND_COUNTS.items() for entry in counts.items()],
)
def test_totals_equal_the_hand_counts(dataset, patch_size, total):
    recipe = load_recipe(RECIPES / f"{dataset}.yaml")
    assert flops.count(recipe, patch_size)["total"] == pytest.approx(total, abs=0.006)


def test_parts_make_up_the_total():
    recipe = load_recipe(RECIPES / "demo.yaml")
    small, large = (flops.count(recipe, patch_size) for patch_size in (20, 36))
    assert set(small["parts"]) == {"glancer", "policy", "focuser", "classifier"}
    assert sum(small["parts"].values()) == pytest.approx(small["total"])
    grown = {part for part in small["parts"] if large["parts"][part] != small["parts"][part]}
    assert grown == {"focuser"}


def test_classifier_and_policy_equal_a_count_by_hand():
    recipe = load_recipe(RECIPES / "actnet.yaml")
    parts = flops.count(recipe, 128)["parts"]
    gru = 3 * 1024 * (1280 + 2048 + 1024)
    assert parts["classifier"] == pytest.approx(16 * (gru + 1024 * 200) / 1e9)
    encoder = 1280 * 32 * 49 + 1568 * 1024
    gru = 3 * 1024 * (1024 + 1024)
    assert parts["policy"] == pytest.approx(16 * (encoder + gru + 1024 * (49 + 1)) / 1e9)
