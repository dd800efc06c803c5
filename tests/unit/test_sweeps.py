"""What a sweep draws, and what is made of its result."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import torch
from noise import tiny_recipe, write_checkpoint, write_noise

from adafocus import legacy, sweeps
from adafocus.data.clips import digest_of
from adafocus.machine.files import keep
from adafocus.methods import train
from adafocus.model.checkpoint import read
from adafocus.recipe import RecipeError, Sweep, SweepBudget, parse_config, parse_recipe
from adafocus.sweeps import SweepError, best_trial, use_best
from adafocus.sweeps.result import importance
from adafocus.sweeps.space import Number, rates_of, space, with_values
from adafocus.sweeps.trials import Job, Trial, optuna_search, trials_before, tried_first
from adafocus.tracking import Chain, stage_parameters, swept_figures

FOCUSER, CLASSIFIER = (f"stages.stage1.learning_rates.{part}" for part in ("focuser", "classifier"))


def test_rates_are_tried_around_the_recipes():
    numbers = space(tiny_recipe("gru"), "stage1", SweepBudget(range=(0.1, 10)))
    assert numbers == {
        FOCUSER: Number(0.1 * 0.05, 10 * 0.05, log=True, whole=False),
        CLASSIFIER: Number(0.1 * 0.05, 10 * 0.05, log=True, whole=False),
    }


def test_other_numbers_are_tried_by_the_stages_that_depend_on_them():
    recipe = tiny_recipe("gru")
    budget = SweepBudget(
        numbers={
            "stages.stage2.gamma": (0.3, 0.9),
            "stages.stage2.batch_size": (1, 4),
            "model.classifier.dropout": (0, 0.5),
        }
    )
    assert space(recipe, "stage2", budget) == {
        "stages.stage2.gamma": Number(0.3, 0.9, log=True, whole=False),
        "stages.stage2.batch_size": Number(1, 4, log=True, whole=True),
        "model.classifier.dropout": Number(0, 0.5, log=False, whole=False),
    }
    assert list(space(recipe, "stage1", budget)) == ["model.classifier.dropout"]
    del budget.numbers["model.classifier.dropout"]
    assert list(space(recipe, "stage1", budget)) == [FOCUSER, CLASSIFIER]


def test_what_was_rounded_over_a_bound_was_drawn_between_them():
    number = Number(0.012344, 0.123456, log=True, whole=False)
    assert all(number.rounded(end) in number for end in (number.low, number.high))
    assert 0.01233 not in number and 0.1236 not in number


@pytest.mark.parametrize(
    ("name", "bounds", "message"),
    [
        ("stages.stage2.gama", (0, 1), "tiny: stages.stage2.gama is no number there that config"),
        ("stages.stage2", (0, 1), "tiny: stages.stage2 is no number"),
        ("title.first", (0, 1), "tiny: title.first is no number"),
        ("stages.stage1.dropout", (0, 1), "write one into the recipe: the first trial has it"),
        ("stages.stage2.gamma", (0.5, 3), "tiny: stages.stage2.gamma: .* less than or equal"),
        ("stages.stage2.batch_size", (1.5, 3), "tiny: stages.stage2.batch_size: .* integer"),
        ("stages.stage2.epochs", (1, 5), "stages.stage2.epochs cannot be swept: trials are comp"),
        ("model.classifier.hidden", (8, 9), "cannot be swept: it decides the shapes of weights"),
    ],
)
def test_what_cannot_be_swept_is_named(name, bounds, message):
    with pytest.raises(RecipeError, match=message):
        space(tiny_recipe("gru"), "stage2", SweepBudget(numbers={name: bounds}))


def trial(number, focuser, classifier, best):
    return {"trial": number, "values": {FOCUSER: focuser, CLASSIFIER: classifier}, "best": best}


NUMBERS = dict.fromkeys((FOCUSER, CLASSIFIER), Number(1e-4, 1e-1, log=True, whole=False))


def test_the_number_that_decides_is_the_important_one():
    rng = np.random.default_rng(0)
    exponents = rng.uniform(-4, -1, (30, 2))
    trials = [
        trial(n, 10**f, 10**c, 80 - 20 * (f + 2.5) ** 2) for n, (f, c) in enumerate(exponents)
    ]
    found = importance(trials, NUMBERS)
    assert found[FOCUSER] > 0.9
    assert sum(found.values()) == pytest.approx(1)


def test_nothing_is_important_where_nothing_differs_or_little_is_known():
    nothing = {FOCUSER: 0, CLASSIFIER: 0}
    same = [trial(n, 10**-n, 10**-n, 50.0) for n in range(1, 9)]
    assert importance(same, NUMBERS) == nothing
    failed = [trial(n, 10**-n, 10**-n, None) for n in range(1, 9)]
    assert importance(failed, NUMBERS) == nothing
    few = [trial(n, 10**-n, 10**-n, 50.0 + n) for n in range(1, 4)]
    assert importance(few, NUMBERS) == nothing


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


def test_the_best_of_other_numbers_are_used(result):
    found = json.loads(result.read_text())
    found["best"] |= {"values": {"model.classifier.dropout": 0.25}}
    found["budget"] |= {"numbers": {"model.classifier.dropout": [0, 0.5]}}
    result.write_text(json.dumps(found))
    used = use_best(tiny_recipe("gru"), [result])
    assert used.model.classifier.dropout == 0.25
    assert used.swept.numbers == {"model.classifier.dropout": (0, 0.5)}
    other = with_values(used, {"model.classifier.dropout": 0.5})
    assert Chain.of(used, 32, 0) == Chain.of(other, 32, 0), "all of them in MLflow"
    budget = SweepBudget(numbers={"stages.stage2.gamma": (0.3, 0.9)})
    swept = tiny_recipe("gru").model_copy(update={"swept": budget})
    other = with_values(swept, {"stages.stage2.gamma": 0.5})
    assert Chain.of(swept, 32, 0) == Chain.of(other, 32, 0)


def test_swept_numbers_are_told_run_by_run_and_are_figures_of_the_chain():
    numbers = {"stages.stage2.gamma": (0.3, 0.9), "model.classifier.dropout": (0, 0.5)}
    swept = tiny_recipe("gru").model_copy(update={"swept": SweepBudget(numbers=numbers)})
    recipe = with_values(swept, {"stages.stage2.gamma": 0.4, "model.classifier.dropout": 0.1})
    rate = recipe.stages.stage2.learning_rates["policy"]
    assert swept_figures(recipe, "stage2") == {
        "stage2_learning_rate_policy": rate,
        "stage2_gamma": 0.4,
        "model.classifier.dropout": 0.1,
    }
    told = stage_parameters(recipe, "stage2")
    assert (told["gamma"], told["model.classifier.dropout"]) == (0.4, 0.1)
    assert "discount" not in told
    assert "stage2_gamma" not in swept_figures(recipe, "stage1")
    assert swept_figures(tiny_recipe("gru"), "stage2") == {}


@pytest.mark.parametrize("text", ["", "{}", '{"stage": 1, "best": {"learning_rates": {"x": 1}}}'])
def test_what_is_no_result_of_a_sweep_is_an_error(result, text):
    result.write_text(text)
    with pytest.raises(SweepError, match="tiny_32_stage1.json: not the result of a sweep"):
        use_best(tiny_recipe("gru"), [result])


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"range": [1, 0.1]}, "c.yaml: sweep: range must be two numbers"),
        ({"numbers": {"a.b": [2, 1]}}, "c.yaml: sweep: a.b must be two numbers"),
        ({"numbers": {"a.b": 2}}, "c.yaml: sweep.numbers.a.b: "),
        ({"range": [0, 1]}, "c.yaml: sweep.range.0: .* greater than 0"),
        ({"trials": 1}, "c.yaml: sweep.trials: .* greater than or equal to 2"),
        ({"gpus_per_trial": 2}, "c.yaml: sweep.gpus_per_trial: .* less than or equal to 1"),
        ({"trails": 8}, "c.yaml: sweep: unknown key 'trails'; allowed: trials, range, numbers"),
    ],
)
def test_a_wrong_setting_is_named(sweep, message):
    with pytest.raises(RecipeError, match=message):
        parse_config({"datasets": {}, "sweep": sweep}, {}, "c.yaml")


SETTINGS = Sweep(trials=2, range=(0.1, 10))


class RunsTrials(Exception):
    """Instead of hours."""


def short(values):
    """By part alone, as versions wrote it that swept rates only."""
    return {name.rpartition(".")[2]: value for name, value in values.items()}


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
    drawn = [rates_of(recipe, "stage1"), {FOCUSER: 0.02, CLASSIFIER: 0.3}]
    trial = folder / "tiny_32_stage1" / "tiny_32_stage1_trial_01.safetensors"
    train(
        with_values(recipe, drawn[1]),
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
        {"trial": n, "values": values, "learning_rates": short(values), "best": 50.0 + n}
        | {"status": "finished"}
        for n, values in enumerate(drawn)
    ]
    numbers = space(recipe, "stage1", budget)
    found = {
        "stage": 1,
        "metric": "top1",
        "seed": 0,
        "budget": budget.model_dump(mode="json"),
        "numbers": {name: asdict(number) for name, number in numbers.items()},
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

    monkeypatch.setattr(sweeps.run, "run_trials", run_trials)
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
    """Its result told no fingerprint, its trials had those of then, and all was of rates."""
    found = json.loads(again.output.read_text())
    folder = again.output.parent
    [before] = legacy.fingerprints_of_revision_1(
        with_values(tiny_recipe("gru"), found["best"]["values"]),
        "stage1",
        32,
        seed=0,
        data=[digest_of(again.data, split) for split in ("train", "val")],
        init=[folder / f"{part}.safetensors" for part in ("glancer", "focuser")],
    )
    record = json.loads(again.record.read_text())
    again.record.write_text(json.dumps(record | {"fingerprint": before}))
    for name in ("fingerprint", "anew", "numbers"):
        del found[name]
    del found["budget"]["numbers"]
    found["importance"] = short(found["importance"])
    for one in (found["best"], found["recipe"], *found["trials"]):
        del one["values"]
    made = json.dumps(found, indent=2) + "\n"
    again.output.write_text(made)
    assert again().read_text() == made
    again.record.write_text(json.dumps(record | {"fingerprint": "0" * 64}))
    with pytest.raises(RunsTrials):
        again()


def test_what_changes_a_sweep_makes_it_anew(again):
    other = with_values(tiny_recipe("gru"), {CLASSIFIER: 0.1})
    longer = tiny_recipe("gru").to_dict()
    longer["stages"]["stage1"]["epochs"] = 3
    for options in (
        {"anew": "monday"},
        {"seed": 1},
        {"settings": Sweep(trials=3, range=(0.1, 10))},
        {"settings": Sweep(trials=2, range=(0.1, 100))},
        {"settings": SETTINGS.model_copy(update={"numbers": {CLASSIFIER: (0.1, 1)}})},
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
def job(again):
    """Of a larger sweep than the one that is done."""

    def of(recipe=None, **changes):
        recipe, budget = recipe or tiny_recipe("gru"), SweepBudget(trials=3, range=(0.1, 10))
        defaults = {"budget": budget, "numbers": space(recipe, "stage1", budget), "seed": 0}
        defaults |= {"precision": "auto", "anew": None}
        return Job(
            recipe=recipe,
            stage="stage1",
            patch_size=32,
            data=again.data,
            init=tuple(again.data.parent / f"{p}.safetensors" for p in ("glancer", "focuser")),
            output=again.output,
            device="cpu",
            threads=1,
            tracking_uri=f"sqlite:///{again.data.parent}/mlflow.db",
            micro_batch="auto",
            **defaults | changes,
        )

    return of


BEFORE = Trial(1, {FOCUSER: 0.02, CLASSIFIER: 0.3}, over=True)


def test_trials_before_are_known_by_their_values(again, job):
    assert trials_before(job()) == [BEFORE]
    # That of the recipe's own numbers comes first, whether it was begun or not.
    first = Trial(0, {FOCUSER: 0.05, CLASSIFIER: 0.05})
    assert tried_first(job(), [BEFORE]) == [first, BEFORE]
    other = with_values(tiny_recipe("gru"), BEFORE.values)
    assert trials_before(job(other)) == tried_first(job(other), [BEFORE]) == [BEFORE]
    assert trials_before(job(seed=1)) == trials_before(job(precision="bf16")) == []
    longer = tiny_recipe("gru").to_dict()
    longer["stages"]["stage1"]["epochs"] = 3
    assert trials_before(job(parse_recipe(longer, "tiny.yaml"))) == []
    # Between other bounds it would not have been tried, but nothing takes its place.
    others = job(numbers=NUMBERS)
    assert trials_before(others) == [BEFORE]
    assert tried_first(others, [BEFORE._replace(number=0)]) == [first._replace(number=1)]
    # Another training under its number came to its end.
    told = json.loads(again.record.read_text()) | {"fingerprint": "0" * 64}
    again.record.with_name("tiny_32_stage1_trial_00.run.json").write_text(json.dumps(told))
    assert tried_first(job(), trials_before(job())) == [first, BEFORE] and not first.over
    again.record.write_text("half of")
    assert trials_before(job()) == []


def test_a_trial_is_over_when_nothing_is_left_to_train(again, job):
    record, state = again.record, best_trial(again.output)
    told = json.loads(record.read_text())

    def is_over():
        [trial] = trials_before(job())
        return trial.over

    assert is_over()
    state.unlink()
    assert is_over(), "its state was removed as another was better"
    state.touch()
    record.write_text(json.dumps(told | {"status": "KILLED"}))
    assert not is_over(), "the sweep was killed"
    state.unlink()
    assert is_over(), "the trial was stopped early"
    for status in ("FAILED", "RUNNING"):
        record.write_text(json.dumps(told | {"status": status}))
        assert not is_over()


def test_the_search_goes_on_from_what_there_is(job):
    """And a trial has a number that no other has."""
    own = Trial(0, {FOCUSER: 0.05, CLASSIFIER: 0.05})
    tried = []
    for before in ([own], [own, BEFORE, BEFORE._replace(number=3)]):
        begun = []
        more = job(budget=SweepBudget(trials=12, range=(0.1, 10)))
        free = iter(sorted(set(range(20)) - {trial.number for trial in before}))
        search = optuna_search(more, "val_top1", before, free, begun)
        for name in map(str, range(12)):
            config = search.suggest(name)
            result = {"val_top1": config[FOCUSER], "training_iteration": 1}
            search.on_trial_complete(name, result)
        assert begun[: len(before)] == before
        assert len({trial.number for trial in begun}) == len(begun) == 12
        tried += [tuple(trial.values.values()) for trial in begun[len(before) :]]
        for trial in begun:
            for value in trial.values.values():
                assert 0.1 * 0.05 <= value <= 10 * 0.05 and value == float(f"{value:.4g}")
    assert len(set(tried)) == len(tried), "a second sweep does not draw what the first drew"


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
