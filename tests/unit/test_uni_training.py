"""Uni-AdaFocus in the engine, in evaluation and in prediction, on noise."""

import numpy as np
import pytest
import torch
from noise import CLASSES, noise_batch, store_in, uni_recipe, write_noise
from test_engine import Killed, figures, run, same

from adafocus.data.draws import Draws
from adafocus.deploy.predict import Predictor
from adafocus.evaluation import evaluate
from adafocus.evaluation.predictions import Predictions
from adafocus.evaluation.result import Result
from adafocus.methods import train
from adafocus.methods.uni import JointStage
from adafocus.model.building import build
from adafocus.recipe import RecipeError, parse_recipe

KINDS = ("long", "short")
PATCH = 32


@pytest.fixture
def folder(tmp_path):
    return write_noise(tmp_path, {"train": 6, "val": 4})


@pytest.mark.parametrize("kind", KINDS)
def test_all_parts_learn(kind):
    torch.manual_seed(0)
    recipe = uni_recipe(kind)
    model = build(recipe, PATCH)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stage = JointStage("joint", model, recipe.stages["joint"])
    stage.train_mode()
    batch = stage.prepare(noise_batch(recipe))
    loss, logs = stage.loss(batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    still = {name for name, value in model.named_parameters() if torch.equal(value, before[name])}
    # What batch norm takes away again may stay as it is.
    assert all(name.endswith("_mlp.0.bias") for name in still), still
    terms = ("steps", "glance", "focus", "where", "when")
    assert logs.keys() >= {"loss", "size", "box_side", "frame_entropy"} | {
        f"loss_{term}" for term in terms
    }
    assert stage.parts.keys() == recipe.stages["joint"].learning_rates.keys()


def test_a_video_of_several_labels_learns_one_drawn_anew():
    recipe = uni_recipe("long")
    stage = JointStage("joint", build(recipe, PATCH), recipe.stages["joint"])
    labels = torch.zeros(1, CLASSES, dtype=torch.bool)
    labels[0, [1, 3]] = True
    plain = noise_batch(recipe).part(slice(0, 1))
    drawn = [
        stage.prepare(plain._replace(labels=labels, draws=Draws(0, epoch, 0, 1, slice(0, 1))))
        for epoch in range(1, 401)
    ]
    counts = torch.cat([batch.target for batch in drawn]).sum(0)
    assert counts[[0, 2, 4]].eq(0).all()
    assert 150 < counts[1] < 250  # five standard deviations


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_repeats_and_a_cut_run_resumes_to_the_same(kind, folder, tmp_path):
    recipe = uni_recipe(kind)
    weights, rows = run(recipe, "joint", folder, tmp_path / "a.pt")

    def kill(clip):
        if clip == 3:
            raise Killed

    run(recipe, "joint", folder, tmp_path / "b.pt", on_clip=kill, minutes=0)
    run(recipe, "joint", folder, tmp_path / "b.pt", until=1)
    resumed, rows_resumed = run(recipe, "joint", folder, tmp_path / "b.pt")
    assert same(weights, resumed)
    assert figures(rows) == figures(rows_resumed)


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory):
    """A checkpoint, its recipe, data and store."""
    folder = tmp_path_factory.mktemp(request.param)
    data = write_noise(folder, {"train": 4, "val": 4})
    recipe = uni_recipe(request.param)
    checkpoint, store = folder / "tiny_32.safetensors", store_in(folder)
    train(
        recipe,
        "joint",
        PATCH,
        data=data,
        init=[],
        output=checkpoint,
        curves=folder / "curves.svg",
        seed=0,
        device="cpu",
        threads=1,
        tracking_uri=store,
    )
    return recipe, checkpoint, data, store


def test_it_is_evaluated_beside_its_baselines(trained, tmp_path):
    recipe, checkpoint, data, store = trained
    output = tmp_path / "tiny_32.json"
    evaluate(
        checkpoint,
        data=data,
        output=output,
        plots=tmp_path / "plots",
        seed=0,
        device="cpu",
        threads=1,
        tracking_uri=store,
    )
    result = Result.read(output)
    assert (result.method, result.stage) == ("uni-adafocus", None)
    assert result.is_plain and result.has_policy
    assert result.baselines.keys() == {"random", "random_even", "even", "centre", "glancer"}
    assert len(result.metrics_per_step) == recipe.model.steps
    looks = Predictions.read(Predictions.path_of(output))
    assert looks.frames.shape == (4, recipe.model.focus_frames)
    assert (np.diff(looks.frames) > 0).all()
    sides = looks.boxes[..., 2:]
    assert sides.min() >= recipe.model.policy.smallest
    assert sides.max() <= recipe.model.policy.largest


def test_a_video_is_predicted_with_its_boxes(trained):
    recipe, checkpoint, data, _ = trained
    found = Predictor(checkpoint, device="cpu")(data / "videos" / "val0", top=2).to_dict()
    assert len(found["steps"]) == recipe.model.focus_frames
    assert all(step["box"] for step in found["steps"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "unify"}, "method: is 'unify'; allowed: adafocus, uni-adafocus"),
        ({"patch_sizes": [16]}, "patch_sizes: 16 is none of the boxes' sides"),
        ({"skip_costs": [0.1]}, "skip_costs is for the method adafocus"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes, told):
    with pytest.raises(RecipeError, match=told):
        uni_recipe("long", **changes)


def test_a_short_model_has_no_classifier_of_its_own():
    values = uni_recipe("short").to_dict()
    values["stages"]["joint"]["learning_rates"]["classifier"] = 1.0
    with pytest.raises(RecipeError, match="must name exactly glancer, focuser, policy;"):
        parse_recipe(values, "tiny.yaml")


def test_a_policy_that_always_does_the_same_is_told_of(folder, tmp_path, capsys):
    """At the end of training and of evaluation, and in the result."""
    rates = dict.fromkeys(("glancer", "focuser", "policy", "classifier"), 1e-9)
    recipe = uni_recipe("long")
    training = recipe.stages["joint"].model_copy(update={"epochs": 1, "learning_rates": rates})
    stages = recipe.stages.model_copy(update={"joint": training})
    recipe = recipe.model_copy(update={"stages": stages})
    options = {"seed": 0, "device": "cpu", "threads": 1, "tracking_uri": store_in(tmp_path)}
    output = tmp_path / "joint.safetensors"
    train(
        recipe,
        "joint",
        PATCH,
        data=folder,
        init=[],
        output=output,
        curves=tmp_path / "c.svg",
        **options,
    )
    # Its weights are those it began with: all frames weigh alike, all boxes lie in the middle.
    said = capsys.readouterr()
    warning = "the policy looks at the same frames in nearly all videos"
    assert f"joint: {warning}" in said.err + said.out
    result = evaluate(output, data=folder, output=tmp_path / "r.json", plots=tmp_path, **options)
    said = capsys.readouterr()
    assert warning in said.err + said.out
    assert any(line.startswith(warning) for line in result.warnings)
    assert Result.read(tmp_path / "r.json").warnings == result.warnings
    assert result.choices["commonest_frames"] == 100
    assert result.choices["frame_entropy"] == pytest.approx(np.log2(3))
    assert 0 < result.choices["places"] <= result.choices["cells"] == 49
