"""Leaving videos early with Uni-AdaFocus: after the glances, or after a frame focused on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from miniature import make_video
from noise import CLASSES, noise_batch, store_in, uni_recipe, write_noise
from torch.utils.flop_counter import FlopCounterMode
from uni_models import noise, tiny

from adafocus.data.clips import Clips
from adafocus.deploy.predict import Predictor, overlay
from adafocus.evaluation import evaluate, flops
from adafocus.evaluation.curves import write_curve, write_points
from adafocus.evaluation.exits import Calibration, calibrate, exit_steps, leave, solve
from adafocus.evaluation.metrics import compute_metrics
from adafocus.evaluation.places import places_of
from adafocus.evaluation.uni_flops import cost_of_exits
from adafocus.model.adafocus import FrameByFrame
from adafocus.model.building import build
from adafocus.model.checkpoint import Checkpoint, load, read, write
from adafocus.model.exits import ConditionalExit, exits_of
from adafocus.model.patches import SKIPPED

KINDS = ("long", "short")
PATCH = 32
CPU = torch.device("cpu")


@pytest.fixture(params=KINDS)
def model(request):
    return tiny(request.param).eval()


def steps_of(model):
    return 2 if model.shape.apart else 1 + model.shape.focused


@torch.inference_mode()
def test_who_never_leaves_gets_the_whole_prediction(model):
    frames, glance = noise(model)
    steps = steps_of(model)
    visit = ConditionalExit(model, [np.inf] * steps)(frames, glance)
    whole = model(frames, glance)
    opinions = model.glance(model.glanced_frames(frames, glance)).logits
    if model.shape.apart:
        expected = torch.cat((opinions.mean(1, keepdim=True), whole.logits), dim=1)
    else:
        expected = whole.logits[:, model.shape.glanced - 1 :]
    torch.testing.assert_close(visit.logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(visit.looks.boxes, whole.boxes)
    assert torch.equal(visit.looks.frames, whole.frames)
    assert visit.looks.looked.all()
    assert visit.steps.tolist() == [steps] * len(frames)
    at_once = exits_of(model).visit_all(frames, glance)
    torch.testing.assert_close(at_once.logits, expected, atol=1e-5, rtol=0)
    assert torch.equal(at_once.frames, whole.frames)


def halves(confidence):
    """Thresholds at which about half of those that are left leave at each step."""
    left, found = np.full(len(confidence), True), []
    for sure in confidence.T[:-1]:
        found.append(np.median(sure[left]) if left.any() else np.inf)
        left &= sure < found[-1]
    return [*found, 0.0]


def test_videos_that_are_sure_are_left_and_cost_no_more(model):
    torch.manual_seed(1)
    frames, glance = noise(model, videos=9)
    steps = steps_of(model)
    whole = ConditionalExit(model, [np.inf] * steps)(frames, glance)
    confidence = whole.logits.amax(-1).numpy()
    thresholds = halves(confidence)
    seen = {part: [] for part in ("glancer", "focuser", "policy.where", "policy.when")}
    for part, videos in seen.items():
        model.get_submodule(part).register_forward_pre_hook(
            lambda _, inputs, videos=videos: videos.append(len(inputs[0]))
        )
    visit = ConditionalExit(model, thresholds)(frames, glance)

    last = exit_steps(confidence, np.array(thresholds))
    assert len(set(last.tolist())) >= min(steps, 3)
    assert visit.steps.tolist() == (last + 1).tolist()
    stayed = [int((last >= step).sum()) for step in range(1, last.max() + 1)]
    assert seen["glancer"] == [9], "at once"
    assert seen["policy.where"] == seen["policy.when"] == stayed[:1], "who leaves asks no policy"
    assert seen["focuser"] == stayed
    exits = exits_of(model)
    looked = exits.looked(visit.looks)
    for video, step in enumerate(last):
        expected = whole.logits[video].clone()
        expected[step:] = expected[step]
        torch.testing.assert_close(visit.logits[video], expected, atol=1e-5, rtol=0)
        assert looked[video].tolist() == [0 < number <= step for number in range(steps)]
        patches = visit.looks.patches[video]
        assert (patches[step:] == SKIPPED).all()
        torch.testing.assert_close(patches[:step], whole.looks.boxes[video, :step])


def test_what_is_left_early_costs_what_is_counted(model):
    """At every exit, by torch's counter over the real visit."""
    frames, glance = noise(model, videos=1)
    with torch.device("meta"):
        exits = cost_of_exits(tiny("short" if model.shape.apart else "long").eval())
    for step, expected in enumerate(exits):
        thresholds = [np.inf] * len(exits)
        thresholds[step] = -np.inf
        with FlopCounterMode(display=False) as counter:
            visit = ConditionalExit(model, thresholds)(frames, glance)
        assert visit.steps.tolist() == [step + 1]
        spent = counter.get_total_flops() / 2e9
        if not model.shape.apart:
            spent -= model.shape.glanced * model.glancer.channels * 5 / 1e9  # of training alone
        assert spent == pytest.approx(expected, rel=1e-6)


def test_confidence_is_the_largest_logit(model):
    logits = torch.tensor([[-3.0, -1.0], [2.0, 7.0]])
    assert exits_of(model).confidence(logits).tolist() == [-1, 7]
    gflops = np.array([[1.0, 2.0]] * 2)
    confidence = np.array([[-3.0, 0.0], [-1.0, 0.0]])
    assert leave(confidence, solve(confidence, gflops, 1.5), gflops).tolist() == [2, 1]


def test_a_stream_cannot_choose_among_frames_to_come(model):
    for begin in (model.stream, lambda: FrameByFrame(model)):
        with pytest.raises(ValueError, match="among frames to come.*model.window.*Predictor"):
            begin()


# --- on videos --------------------------------------------------------------------------------


@pytest.fixture(params=KINDS)
def recipe(request):
    return uni_recipe(request.param)


@torch.inference_mode()
def test_baselines_leave_where_the_model_does(recipe, costs):
    torch.manual_seed(0)
    model, batch = build(recipe, PATCH).eval(), noise_batch(recipe)
    plain = places_of(model)
    whole = plain.beside(batch, plain.predict(batch))
    for threshold in (np.inf, -np.inf):
        places = places_of(model, ConditionalExit(model, [threshold] * len(costs)))
        predicted = places.predict(batch)
        for name, logits in places.beside(batch, predicted).items():
            at_once = predicted.logits[None, :, -1:].expand_as(logits)
            left = threshold < 0 and name != "glancer"
            torch.testing.assert_close(logits, at_once if left else whole[name])


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return write_noise(tmp_path / "data", {"train": 7, "val": 9})


@pytest.fixture
def checkpoint(tmp_path, recipe):
    torch.manual_seed(6)
    path = tmp_path / "tiny_32.safetensors"
    names = tuple(f"class {number}" for number in range(CLASSES))
    tensors = build(recipe, PATCH).state_dict()
    write(path, Checkpoint(tensors, recipe, "joint", PATCH, names))
    return path


@pytest.fixture
def costs(recipe):
    """After each step."""
    with torch.device("meta"):
        return cost_of_exits(build(recipe, PATCH).eval())


def test_evaluation_keeps_to_a_budget(tmp_path, data, checkpoint, recipe, costs):
    budget = float(costs[[0, -1]].mean())
    result = evaluate(
        checkpoint,
        data=data,
        output=tmp_path / "early.json",
        plots=tmp_path / "plots",
        seed=0,
        device="cpu",
        threads=1,
        tracking_uri=store_in(tmp_path),
        budget=budget,
    )
    calibration = Calibration.of(checkpoint, read(checkpoint))
    assert calibration.confidence.shape == calibration.looked.shape == (7, len(costs))
    assert calibration.looked.tolist() == [[False, *[True] * (len(costs) - 1)]] * 7
    thresholds = calibration.thresholds(budget)
    assert leave(calibration.confidence, thresholds, calibration.gflops).mean() <= budget

    clips = Clips(data, "val", recipe, augment=False, seed=0)
    model = load(checkpoint)
    videos = [clips[0, video] for video in range(len(clips))]
    frames, labels = (torch.stack([video[key] for video in videos]) for key in ("frames", "labels"))
    glance = torch.stack([v["glance"] for v in videos]) if model.shape.apart else None
    visit = ConditionalExit(model, [np.inf] * len(costs))(frames, glance)
    last = exit_steps(visit.logits.amax(-1).numpy(), thresholds)
    assert len(set(last.tolist())) > 1
    logits = visit.logits[torch.arange(len(last)), last]
    assert result.metrics == pytest.approx(compute_metrics(logits, labels))
    assert result.gflops_per_video == pytest.approx(costs[last].mean())
    assert result.steps_per_video == (last + 1).mean()
    assert result.baselines.keys() == {"random", "random_even", "even", "centre", "glancer"}
    assert not result.is_plain
    with pytest.raises(ValueError, match="less than the first step of a video takes"):
        calibration.thresholds(0.9 * costs[0])


def test_points_of_a_model_and_the_curve(tmp_path, data, checkpoint, recipe, costs):
    points = tmp_path / "points.csv"
    options = {"device": "cpu", "threads": 1, "tracking_uri": store_in(tmp_path), "seed": 0}
    write_points(checkpoint, data=data, output=points, **options)
    table = pd.read_csv(points)
    by_way = table.groupby("way")
    assert set(by_way.groups) == {"all frames", "conditional exit", "random exit"}
    [whole] = by_way.get_group("all frames").itertuples()
    assert whole.gflops == pytest.approx(flops.count(recipe, PATCH)["total"])
    assert whole.steps == len(costs)
    ours, by_chance = (by_way.get_group(f"{how} exit") for how in ("conditional", "random"))
    assert ours["gflops"].tolist() == pytest.approx(by_chance["gflops"].tolist())
    assert ours["gflops"].is_monotonic_increasing
    assert ours["gflops"].iloc[-1] == pytest.approx(costs[-1])
    assert ours["accuracy"].iloc[-1] == pytest.approx(whole.accuracy)
    assert ours["gflops"].nunique() > 2
    write_curve([points], recipe, tmp_path / "curve")
    assert (tmp_path / "curve.svg").read_text().count("<!-- Uni-AdaFocus -->") == 1


def test_a_prediction_within_a_budget(tmp_path, data, checkpoint, recipe, costs):
    calibrate(checkpoint, read(checkpoint), load(checkpoint), data, workers=0, device=CPU)
    video, focused = data / "videos" / "val0", recipe.model.focus_frames
    whole = Predictor(checkpoint, "cpu")(video)
    dearest = Predictor(checkpoint, "cpu", budget=2 * costs[-1])(video)
    assert dearest.guesses == tuple(
        replace(guess, probability=pytest.approx(guess.probability, abs=1e-5))
        for guess in whole.guesses
    )
    assert [step.box for step in dearest.steps] == [step.box for step in whole.steps]
    assert dearest.gflops == pytest.approx(costs[-1])
    # Of a short video the head that predicts after the glances is paid for too.
    assert dearest.gflops == pytest.approx(whole.gflops, rel=0.01)

    predictor = Predictor(checkpoint, "cpu", budget=2 * costs[-1])
    predictor.exits = ConditionalExit(predictor.model, [-np.inf] * len(costs))
    clip = make_video(tmp_path / "clip.mp4", 10, "146x73", rate=10)
    least = predictor(clip)
    assert least.steps == () and least.to_dict()["predictions"]
    assert least.gflops == pytest.approx(costs[0])
    assert (least.boxes == SKIPPED).all() and len(least.clip) == focused
    predictor.sheet(least, tmp_path / "sheet.png")
    overlay(least, tmp_path / "overlay.mp4")
    assert all((tmp_path / name).stat().st_size for name in ("sheet.png", "overlay.mp4"))
    predictor.exits = ConditionalExit(predictor.model, [np.inf, -np.inf, *[0] * (len(costs) - 2)])
    second = predictor(video)
    assert len(second.steps) == (focused if recipe.model.looks_once else 1)
    assert all(step.box for step in second.steps)
    assert second.gflops == pytest.approx(costs[1])
