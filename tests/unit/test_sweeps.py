"""What a sweep draws, and what is made of its result."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noise import tiny_recipe

from adafocus.recipe import RecipeError, SweepBudget, parse_config
from adafocus.sweeps import SweepError, draw_rates, importance, take_over, use_best

RATES = {"focuser": 0.001, "classifier": 0.05}


@given(
    trials=st.integers(2, 40),
    low=st.floats(1e-4, 1),
    width=st.floats(1.1, 1e4),
    seed=st.integers(0, 10),
)
def test_rates_lie_around_the_recipes_which_come_first(trials, low, width, seed):
    budget = SweepBudget(trials=trials, range=(low, low * width))
    drawn = draw_rates(RATES, budget, seed)
    assert len(drawn) == trials
    assert drawn[0] == RATES
    for rates in drawn[1:]:
        for part, rate in RATES.items():
            assert 0.999 * low <= rates[part] / rate <= 1.001 * low * width
    more = draw_rates(RATES, SweepBudget(trials=trials + 5, range=budget.range), seed)
    assert more[:trials] == drawn


def test_rates_are_log_uniform():
    drawn = draw_rates(RATES, SweepBudget(trials=101, range=(0.1, 10)), seed=0)
    decades = [math.log10(rates["focuser"] / RATES["focuser"]) for rates in drawn[1:]]
    counts, _ = np.histogram(decades, bins=4, range=(-1, 1))
    assert all(23 <= count <= 27 for count in counts)


def trial(number, focuser, classifier, best):
    rates = {"focuser": focuser, "classifier": classifier}
    return {"trial": number, "learning_rates": rates, "best": best}


def test_the_rate_that_decides_is_the_important_one():
    rng = np.random.default_rng(0)
    exponents = rng.uniform(-4, -1, (30, 2))
    trials = [
        trial(n, 10**f, 10**c, 80 - 20 * (f + 2.5) ** 2) for n, (f, c) in enumerate(exponents)
    ]
    found = importance(trials)
    assert found["focuser"] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_nothing_is_important_where_nothing_differs_or_little_is_known():
    same = [trial(n, 10**-n, 10**-n, 50.0) for n in range(1, 9)]
    assert importance(same) == {"focuser": 0, "classifier": 0}
    failed = [trial(n, 10**-n, 10**-n, None) for n in range(1, 9)]
    assert importance(failed) == {"focuser": 0, "classifier": 0}


@pytest.fixture
def result(tmp_path):
    found = {
        "stage": 1,
        "budget": {"trials": 4, "range": [0.1, 10.0]},
        "best": {"trial": 2, "learning_rates": {"focuser": 0.7, "classifier": 0.2}},
    }
    path = tmp_path / "tiny_32_stage1.json"
    path.write_text(json.dumps(found))
    return path


def test_the_best_rates_are_used(result):
    recipe = tiny_recipe("gru")
    assert use_best(recipe, []) == recipe
    used = use_best(recipe, [result])
    assert used.stages.stage1.learning_rates == {"focuser": 0.7, "classifier": 0.2}
    assert used.swept == SweepBudget(trials=4, range=(0.1, 10.0))
    assert used.stages.stage2 == recipe.stages.stage2


@pytest.mark.parametrize("text", ["", "{}", '{"stage": 1, "best": {"learning_rates": {"x": 1}}}'])
def test_what_is_no_result_of_a_sweep_is_an_error(result, text):
    result.write_text(text)
    with pytest.raises(SweepError, match="tiny_32_stage1.json: not the result of a sweep"):
        use_best(tiny_recipe("gru"), [result])


def test_a_stage_takes_over_the_best_trial(result, tmp_path):
    trials = tmp_path / "tiny_32_stage1"
    trials.mkdir()
    trial = trials / "tiny_32_stage1_trial_02.resume.pt"
    torch.save({"fingerprint": "best", "epoch": 3}, trial)
    output = tmp_path / "checkpoints" / "tiny_32_stage1.safetensors"
    resume = output.with_suffix(".resume.pt")
    take_over(result, output)
    assert resume.read_bytes() == trial.read_bytes()
    # What is of the same run stays, what is of another goes.
    torch.save({"fingerprint": "best", "epoch": 4}, resume)
    take_over(result, output)
    assert torch.load(resume)["epoch"] == 4
    torch.save({"fingerprint": "at other rates", "epoch": 5}, resume)
    take_over(result, output)
    assert torch.load(resume)["epoch"] == 3


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"range": [1, 0.1]}, "c.yaml: sweep: range must be two numbers"),
        ({"range": [0, 1]}, "c.yaml: sweep.range.0: .* greater than 0"),
        ({"trials": 1}, "c.yaml: sweep.trials: .* greater than or equal to 2"),
        ({"gpus_per_trial": 2}, "c.yaml: sweep.gpus_per_trial: .* less than or equal to 1"),
        ({"trails": 8}, "c.yaml: sweep: unknown key 'trails'; allowed: trials, range"),
    ],
)
def test_a_wrong_setting_is_named(sweep, message):
    with pytest.raises(RecipeError, match=message):
        parse_config({"datasets": {}, "sweep": sweep}, {}, "c.yaml")
