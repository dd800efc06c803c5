"""What a sweep draws, and what is made of its result."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noise import tiny_recipe, write_checkpoint, write_noise

from adafocus import legacy, sweeps
from adafocus.data.clips import digest_of
from adafocus.machine.files import keep
from adafocus.methods import train
from adafocus.model.checkpoint import read
from adafocus.recipe import RecipeError, Sweep, SweepBudget, parse_config, parse_recipe
from adafocus.sweeps import SweepError, best_trial, draw_rates, importance, use_best, with_rates

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


SETTINGS = Sweep(trials=2, range=(0.1, 10))


class RunsTrials(Exception):
    """Instead of hours."""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What a sweep of two trials leaves, of which the second was best and is really trained."""
    folder = tmp_path_factory.mktemp("swept")
    recipe = tiny_recipe("gru")
    (folder / "data").mkdir()
    write_noise(folder / "data", {"train": 2, "val": 2})
    init = [
        write_checkpoint(folder / f"{part}.safetensors", recipe, part, None)
        for part in ("glancer", "focuser")
    ]
    budget = SweepBudget(trials=2, range=SETTINGS.range)
    drawn = draw_rates(recipe.stages.stage1.learning_rates, budget, 0)
    trial = folder / "tiny_32_stage1" / "tiny_32_stage1_trial_01.safetensors"
    train(
        with_rates(recipe, "stage1", drawn[1]),
        "stage1",
        32,
        data=folder / "data",
        init=init,
        output=trial,
        curves=folder / "curves.svg",
        seed=0,
        device="cpu",
        threads=1,
        tracking_uri=f"sqlite:///{folder}/mlflow.db",
    )
    record = json.loads(trial.with_suffix(".run.json").read_text())
    trials = [
        {"trial": n, "learning_rates": rates, "status": "finished", "best": 50.0 + n}
        for n, rates in enumerate(drawn)
    ]
    found = {
        "stage": 1,
        "metric": "top1",
        "seed": 0,
        "budget": budget.model_dump(mode="json"),
        "best": trials[1],
        "recipe": trials[0],
        "importance": dict.fromkeys(drawn[0], 0.5),
        "trials": trials,
        "fingerprint": record["fingerprint"],
        "anew": None,
    }
    output = folder / "tiny_32_stage1.json"
    output.write_text(json.dumps(found, indent=2) + "\n")
    return folder


@pytest.fixture
def again(done, tmp_path, monkeypatch):
    """Runs its job again; returns the result's file, raises `RunsTrials` where trials would run."""

    def run_trials(*arguments):
        raise RunsTrials

    monkeypatch.setattr(sweeps, "_run_trials", run_trials)
    folder = shutil.copytree(done, tmp_path / "swept")

    def run(recipe=None, settings=SETTINGS, seed=0, **options):
        output, plot = folder / "tiny_32_stage1.json", folder / "tiny_32_stage1.svg"
        sweeps.sweep(
            recipe or tiny_recipe("gru"),
            "stage1",
            32,
            settings,
            data=folder / "data",
            init=[folder / f"{part}.safetensors" for part in ("glancer", "focuser")],
            output=output,
            plot=plot,
            seed=seed,
            device="cpu",
            threads=1,
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
            **options,
        )
        assert plot.exists()
        return output

    run.output = folder / "tiny_32_stage1.json"
    run.record = folder / "tiny_32_stage1" / "tiny_32_stage1_trial_01.run.json"
    run.data = folder / "data"
    return run


def test_a_finished_sweep_stays_as_it_is(again):
    made = again.output.read_bytes()
    for _ in range(2):
        keep(again.output)
        again.output.unlink()
        assert again().read_bytes() == made
        assert not list(again.output.parent.glob(".*.old"))


def test_a_sweep_that_was_killed_after_its_result_is_brought_to_its_end(again):
    trials = again.record.parent
    for name in ("trial_00.safetensors", "trial_00.resume.pt"):
        (trials / f"tiny_32_stage1_{name}").touch()
    told = json.loads(again.record.read_text())
    told |= {"key": "0" * 32, "status": "RUNNING", "history": None, "artifacts": []}
    record = again.output.with_name("tiny_32_stage1_sweep.run.json")
    record.write_text(json.dumps(told))
    again()
    assert json.loads(record.read_text())["status"] == "FINISHED"
    [kept] = [*trials.glob("*.resume*.pt"), *trials.glob("*.safetensors")]
    assert kept.name == "tiny_32_stage1_trial_01.resume.pt"


def test_a_sweep_of_commit_78f3339_stays_as_it_is(again):
    """Its result told no fingerprint, and its trials had those of then."""
    found = json.loads(again.output.read_text())
    recipe = with_rates(tiny_recipe("gru"), "stage1", found["best"]["learning_rates"])
    folder = again.output.parent
    [before] = legacy.fingerprints(
        recipe,
        "stage1",
        32,
        seed=0,
        data=[digest_of(again.data, split) for split in ("train", "val")],
        init=[folder / f"{part}.safetensors" for part in ("glancer", "focuser")],
    )
    record = json.loads(again.record.read_text())
    again.record.write_text(json.dumps(record | {"fingerprint": before}))
    made = json.dumps(
        {k: v for k, v in found.items() if k not in ("fingerprint", "anew")}, indent=2
    )
    again.output.write_text(made + "\n")
    assert again().read_text() == made + "\n"
    again.record.write_text(json.dumps(record | {"fingerprint": "0" * 64}))
    with pytest.raises(RunsTrials):
        again()


def test_what_changes_a_sweep_makes_it_anew(again):
    other = with_rates(tiny_recipe("gru"), "stage1", {"focuser": 0.05, "classifier": 0.1})
    longer = tiny_recipe("gru").to_dict()
    longer["stages"]["stage1"]["epochs"] = 3
    for options in (
        {"anew": "monday"},
        {"seed": 1},
        {"settings": Sweep(trials=3, range=(0.1, 10))},
        {"settings": Sweep(trials=2, range=(0.1, 100))},
        {"recipe": other},
        {"recipe": parse_recipe(longer, "tiny.yaml")},
        {"precision": "bf16"},
    ):
        with pytest.raises(RunsTrials):
            again(**options)
    again()
    found = json.loads(again.output.read_text())
    again.output.write_text(json.dumps(found | {"anew": "monday"}))
    again(anew="monday")
    with (again.data / "splits" / "val.csv").open("a") as table:
        table.write("\n")
    with pytest.raises(RunsTrials):
        again()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"budget": 1}'])
def test_what_is_no_result_is_swept_anew(again, text):
    again.output.write_text(text)
    with pytest.raises(RunsTrials):
        again()


@pytest.fixture
def stage(done, tmp_path, capsys):
    """Trains the stage at the best rates of the sweep; returns what it said."""
    folder = shutil.copytree(done, tmp_path / "stage")
    swept = folder / "tiny_32_stage1.json"

    def run(**options):
        train(
            use_best(tiny_recipe("gru"), [swept]),
            "stage1",
            32,
            data=folder / "data",
            init=[folder / f"{part}.safetensors" for part in ("glancer", "focuser")],
            output=run.output,
            curves=folder / "curves.svg",
            seed=0,
            device="cpu",
            threads=1,
            tracking_uri=f"sqlite:///{folder}/mlflow.db",
            trial=run.trial,
            **options,
        )
        return capsys.readouterr().out

    run.data, run.trial = folder / "data", best_trial(swept)
    run.output = folder / "checkpoints" / "tiny_32_stage1.safetensors"
    run.state = run.output.with_suffix(".resume.pt")
    return run


def test_a_stage_takes_over_the_best_trial(stage):
    assert f"going on from {stage.trial}" in stage()
    assert stage.state.read_bytes() == stage.trial.read_bytes()
    rows = stage.trial.with_name("tiny_32_stage1_trial_01.metrics.csv").read_text()
    assert stage.output.with_name("tiny_32_stage1.metrics.csv").read_text() == rows
    assert "trained before" in stage()
    stage.trial.unlink()
    assert "trained before" in stage()


def test_a_trial_is_taken_over_where_the_stage_was_at_other_rates(stage):
    stage()
    state = torch.load(stage.state, weights_only=True)
    torch.save(state | {"fingerprint": "at other rates"}, stage.state)
    said = stage()
    assert f"going on from {stage.trial}" in said and "starting over" not in said
    assert stage.state.read_bytes() == stage.trial.read_bytes()


def test_a_trial_of_another_training_is_not_taken_over(stage):
    state = torch.load(stage.trial, weights_only=True)
    torch.save(state | {"fingerprint": "at other rates"}, stage.trial)
    assert "going on from" not in stage()


def test_a_trial_does_not_take_the_place_of_what_was_trained_anew(stage):
    stage()
    assert "going on from" not in stage(anew="mended")
    # Since then the listing tells sizes, so that fingerprints are others.
    rows = [f"{split}{number},7" for split in ("train", "val") for number in range(2)]
    (stage.data / "videos.csv").write_text("\n".join(["video,size", *rows]) + "\n")
    stage(anew="mended again")

    def word(path):
        return torch.load(path, weights_only=True)["made_by"].get("anew")

    assert torch.load(stage.state)["fingerprint"] != torch.load(stage.trial)["fingerprint"]
    assert "trained before" in stage()
    assert word(stage.state) == read(stage.output).made_by["anew"] == "mended again"
    stage.state.unlink()  # as README says one may
    assert "its state was removed" in stage()
    assert read(stage.output).made_by["anew"] == "mended again"
    assert not stage.state.exists()


def test_a_trial_that_was_swept_anew_goes_before_an_older_state(stage):
    stage()
    state = torch.load(stage.trial, weights_only=True)
    torch.save(state | {"made_by": state["made_by"] | {"anew": "mended"}}, stage.trial)
    said = stage(anew="mended")
    assert f"going on from {stage.trial}" in said
    assert read(stage.output).made_by["anew"] == "mended"
