"""The conditional exit: the order of visits, leaving, thresholds, and the curve."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from noise import (
    CLASSES,
    noise_batch,
    skip_half,
    skipping_recipe,
    store_in,
    tiny_recipe,
    write_noise,
)
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.data.clips import Clips
from adafocus.evaluation import evaluate, flops
from adafocus.evaluation.curves import accuracy_at, write_curve, write_points
from adafocus.evaluation.exits import Calibration, calibrate, exit_steps, leave, solve
from adafocus.evaluation.metrics import compute_metrics
from adafocus.machine.files import keep, sha256
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError, load, read, write
from adafocus.model.classifier import GlobalFeatures, OutOfOrder, RecurrentClassifier
from adafocus.model.exits import ConditionalExit, classified_again, exits_of, visiting_order
from adafocus.model.patches import SKIPPED
from adafocus.recipe import SPECS

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from demo_seeds import cheaper  # noqa: E402

CPU = torch.device("cpu")
PATCH = 32
NEVER = [2.0] * 4


def test_order_halves_the_stretches():
    assert visiting_order(8) == [4, 2, 6, 1, 3, 5, 7, 0]
    order = [8, 4, 12, 2, 6, 10, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0]
    assert visiting_order(16) == order


@given(st.integers(1, 100))
def test_order_covers_a_video_early(frames):
    order = visiting_order(frames)
    assert sorted(order) == list(range(frames))
    for halvings in range(1, frames.bit_length()):
        seen = sorted([-1, *order[: 2**halvings - 1], frames])
        longest = max(after - before - 1 for before, after in pairwise(seen))
        assert longest <= frames / 2**halvings


@pytest.fixture(params=["plain", "skipping"])
def recipe(request):
    return skipping_recipe() if request.param == "skipping" else tiny_recipe("gru")


@pytest.fixture
def model(recipe):
    """Far from sure of all videos alike."""
    torch.manual_seed(6)
    model = build(recipe, PATCH).eval()
    torch.nn.init.normal_(model.classifier.fc.weight, std=1.0)
    return skip_half(model, noise_batch(recipe).frames) if model.skips else model


def test_who_never_leaves_sees_all_frames_in_the_order_of_visits(model, recipe):
    frames = noise_batch(recipe).frames
    visit = ConditionalExit(model, NEVER)(frames)
    order = visiting_order(4)
    with torch.no_grad():
        corners = model(frames[:, order]).corners
        assert torch.equal(visit.looks.corners, corners)
        assert visit.looks.frames.tolist() == [order] * len(frames)
        for step in range(4):
            so_far = sorted(order[: step + 1])
            where = [order.index(frame) for frame in so_far]
            expected = model(frames[:, so_far], corners=corners[:, where]).logits[:, -1]
            torch.testing.assert_close(visit.logits[:, step], expected)
        assert visit.steps.tolist() == [4] * len(frames)
        classified = []
        model.classifier.gru.register_forward_pre_hook(
            lambda _, inputs: classified.append(inputs[0].shape[1])
        )
        logits, looks = exits_of(model).visit_all(frames)
    torch.testing.assert_close(visit.logits, logits)
    assert torch.equal(visit.looks.corners, looks.corners)
    assert classified == [1 + again for again in classified_again(4)]


def test_exits_in_bfloat16(model, recipe):
    frames = noise_batch(recipe).frames
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        visit = ConditionalExit(model, NEVER)(frames)
        logits, looks = exits_of(model).visit_all(frames)
    assert visit.logits.dtype == torch.float32
    assert torch.equal(visit.looks.corners, looks.corners)
    torch.testing.assert_close(visit.logits, logits, atol=0.02, rtol=0)


def test_cost_of_visits_by_hand(recipe):
    """Frames 2, 1, 3, 0 of four: frame 1 has one behind it, frame 3 none, frame 0 all others."""
    assert classified_again(4) == [0, 1, 0, 3]
    counted = flops.count(recipe, PATCH)
    look, classify = (counted["parts"][part] / 4 for part in ("focuser", "classifier"))
    visit = counted["total"] / 4 - look
    cost = flops.per_visit(recipe, PATCH)
    assert cost.look == look
    assert flops.per_step(recipe, PATCH).total == pytest.approx(counted["total"])
    assert cost.visits.tolist() == pytest.approx([visit + n * classify for n in (0, 1, 0, 3)])
    first = visit + look
    third = first + visit + classify + visit + look
    spent = cost.spent(np.array([[True, False, True, False]]))[0]
    assert spent[[0, 2, 3]].tolist() == pytest.approx([first, third, third + visit + 3 * classify])


@given(st.permutations(range(5)))
def test_frames_out_of_order_are_classified_in_order(frames):
    torch.manual_seed(0)
    classifier = RecurrentClassifier(2, 3, hidden=4, classes=5, dropout=0.5).eval()
    features, local = torch.randn(2, 5, 2), torch.randn(2, 5, 3)
    running, calls = OutOfOrder(classifier), []
    classifier.gru.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape[1]))
    for step, frame in enumerate(frames):
        one = GlobalFeatures(features, features[:, [frame]], features)
        logits = running(frame, one, local[:, [frame]])
        so_far = sorted(frames[: step + 1])
        assert calls.pop() == 1 + sum(other > frame for other in so_far)
        seen = GlobalFeatures(features, features[:, so_far], features)
        expected = classifier(seen, local[:, so_far])[:, -1:]
        calls.pop()
        torch.testing.assert_close(logits, expected)


def test_videos_that_are_sure_are_left_and_cost_no_more(model, recipe):
    torch.manual_seed(8)
    frames = torch.cat([noise_batch(recipe).frames for _ in range(4)])
    whole = ConditionalExit(model, NEVER)(frames)
    confidence = whole.logits.softmax(-1).amax(-1).numpy()
    thresholds = np.append(np.median(confidence, axis=0)[:-1] + 0.01, 0)
    seen = []
    model.glancer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    visit = ConditionalExit(model, thresholds.tolist())(frames)

    last = exit_steps(confidence, thresholds)
    assert len(set(last.tolist())) > 2
    assert visit.steps.tolist() == (last + 1).tolist()
    assert seen == [int((last >= step).sum()) for step in range(len(seen))]
    for video, step in enumerate(last):
        expected = whole.logits[video].clone()
        expected[step:] = expected[step]
        torch.testing.assert_close(visit.logits[video], expected)
        looked, expected = visit.looks.corners[video], whole.looks.corners[video]
        assert torch.equal(looked[: step + 1], expected[: step + 1])
        assert (looked[step + 1 :] == SKIPPED).all()


def test_the_tsm_family_cannot_leave():
    with pytest.raises(ValueError, match="goes frame by frame"):
        ConditionalExit(build(tiny_recipe("tsm"), PATCH).eval(), NEVER)


# --- thresholds -------------------------------------------------------------------------------


def test_thresholds_by_hand():
    """Of four videos half may leave after the first of two steps: those at 0.9 and 0.8."""
    confidence = np.array([[0.9, 0.9], [0.3, 0.5], [0.8, 0.9], [0.4, 0.9]])
    gflops = np.array([[1.0, 2.0]] * 4)
    thresholds = solve(confidence, gflops, 1.5)
    assert thresholds.tolist() == [0.8, 0.0]
    assert exit_steps(confidence, thresholds).tolist() == [0, 1, 0, 1]
    assert leave(confidence, thresholds, gflops).tolist() == [1, 2, 1, 2]
    assert solve(confidence, gflops, 1.0).tolist() == [0.3, 0.0]
    assert solve(confidence, gflops, 2.0).tolist() == [np.inf, 0.0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 50), st.integers(1, 8), st.floats(0, 1.2))
def test_a_budget_is_kept(seed, videos, steps, share):
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(size=(videos, steps)).astype(np.float32)
    gflops = rng.uniform(0.1, 1, size=(videos, steps)).cumsum(axis=1)
    least, most = gflops[:, 0].mean(), gflops[:, -1].mean()
    budget = least + share * (most - least)
    spent = leave(confidence, solve(confidence, gflops, budget), gflops).mean()
    assert spent <= budget + 1e-9
    if share >= 1:
        assert spent == pytest.approx(most)


def test_who_can_pay_for_all_steps_takes_them():
    """However sure the videos are, and in whichever order their costs are added."""
    rng = np.random.default_rng(0)
    for visits in (rng.uniform(0.1, 1, size=6) for _ in range(20)):
        gflops = np.tile(visits.cumsum(), (2001, 1))
        thresholds = solve(np.ones_like(gflops), gflops, gflops.mean(axis=0)[-1])
        assert thresholds.tolist() == [np.inf] * 5 + [0]


def test_a_budget_is_used_up():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=(1000, 16))
    gflops = np.tile(np.arange(1.0, 17), (1000, 1))
    for budget in (1.5, 4, 8, 12, 15.5):
        spent = leave(confidence, solve(confidence, gflops, budget), gflops).mean()
        assert 0.97 * budget < spent <= budget


# --- on videos --------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return write_noise(tmp_path / "data", {"train": 9, "val": 11})


@pytest.fixture
def checkpoint(tmp_path, model, recipe):
    path = tmp_path / "model.safetensors"
    tensors = {
        k: v for k, v in model.state_dict().items() if k.split(".")[0] in SPECS["stage3"].leaves
    }
    names = tuple(f"class {number}" for number in range(CLASSES))
    write(path, Checkpoint(tensors, recipe, "stage3", PATCH, names))
    return path


def budget_of(recipe, share):
    return share * flops.count(recipe, PATCH)["total"]


@torch.no_grad()
def left_at(model, frames, corners, last):
    """Logits of videos left after a step each; corners are in the order of visits."""
    order, logits = visiting_order(4), []
    for video, step in enumerate(last):
        so_far = sorted(order[: step + 1])
        where = [order.index(frame) for frame in so_far]
        out = model(frames[[video]][:, so_far], corners=corners[[video]][:, where])
        logits.append(out.logits[0, -1])
    return torch.stack(logits)


def test_evaluation_keeps_to_a_budget(tmp_path, data, checkpoint, recipe, model):
    def evaluated(budget):
        return evaluate(
            checkpoint,
            data=data,
            output=tmp_path / f"{budget}.json",
            plots=tmp_path / "plots",
            seed=0,
            device="cpu",
            threads=1,
            tracking_uri=store_in(tmp_path),
            budget=budget,
        )

    budget = budget_of(recipe, 0.4)
    result = evaluated(budget)
    calibration = Calibration.of(checkpoint, read(checkpoint))
    thresholds = calibration.thresholds(budget)
    assert leave(calibration.confidence, thresholds, calibration.gflops).mean() <= budget

    clips = Clips(data, "val", recipe, augment=False, seed=0)
    frames = torch.stack([clips[0, video]["frames"] for video in range(len(clips))])
    labels = torch.stack([clips[0, video]["labels"] for video in range(len(clips))])
    visit = ConditionalExit(load(checkpoint), NEVER)(frames)
    confidence = visit.logits.softmax(-1).amax(-1).numpy()
    last = exit_steps(confidence, thresholds)
    logits = visit.logits[torch.arange(len(last)), last]
    assert result.metrics == pytest.approx(compute_metrics(logits, labels))
    looked = visit.looks.looked.numpy()
    spent = leave(confidence, thresholds, calibration.cost.spent(looked)).mean()
    assert result.gflops_per_video == pytest.approx(spent)
    centre = torch.full((len(clips), 4, 2), model.margin // 2)
    centre = centre.where(visit.looks.corners != SKIPPED, SKIPPED)
    assert result.baselines["centre"] == pytest.approx(
        compute_metrics(left_at(model, frames, centre, last), labels)
    )
    assert result.steps_per_video == (last + 1).mean()
    assert result.budget == budget
    kept = json.loads((tmp_path / f"{budget}.json").read_text())
    assert kept["metrics"] == result.metrics

    with pytest.raises(ValueError, match="less than the first step of a video takes; the least is"):
        evaluated(budget_of(recipe, 0.01))


def test_an_evaluation_says_what_it_made(tmp_path, data, checkpoint, recipe):
    output, budget = tmp_path / "early.json", budget_of(recipe, 0.4)
    options = {"data": data, "output": output, "plots": tmp_path / "plots", "budget": budget}
    options |= {"device": "cpu", "tracking-uri": store_in(tmp_path)}
    given = [f"--{name}={value}" for name, value in options.items()]
    said = CliRunner().invoke(app, ["evaluate", str(checkpoint), *given]).stdout
    result = json.loads(output.read_text())
    top1, cost = result["metrics"]["top1"], result["gflops_per_video"]
    assert f"{output}: top1 {top1:.1f} at {cost:.3g} GFLOPs per video; figures: " in said


@pytest.fixture
def calibrated(data, checkpoint, model):
    """The calibration beside the checkpoint, and whether it was there."""

    def run():
        path = Calibration.path_of(checkpoint)
        before = path.stat().st_mtime_ns if path.exists() else None
        made = calibrate(checkpoint, read(checkpoint), model, data, workers=0, device=CPU)
        return made, path.stat().st_mtime_ns == before

    return run


def test_a_calibration_is_of_its_checkpoint(data, checkpoint, calibrated):
    path, source = Calibration.path_of(checkpoint), read(checkpoint)
    with pytest.raises(CheckpointError, match="no such calibration; make it: adafocus evaluate"):
        Calibration.of(checkpoint, source)
    made, _ = calibrated()
    assert made.confidence.shape == (9, 4)
    assert calibrated()[1]
    whole = path.read_bytes()
    for broken in (b"", b"broken", whole[:-50]):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="not a calibration"):
            Calibration.of(checkpoint, source)
    made.write(path)
    table = data / "splits" / "train.csv"
    with table.open("a") as file:
        file.write(table.read_text().splitlines()[-1] + "\n")
    made, was_there = calibrated()
    assert made.confidence.shape == (10, 4) and not was_there, "it was of other videos"
    other = {name: tensor + 1 for name, tensor in source.tensors.items()}
    with pytest.raises(CheckpointError, match="is of another checkpoint"):
        Calibration.of(checkpoint, replace(source, tensors=other))


def test_a_calibration_outlives_other_names(checkpoint, recipe, calibrated):
    made, _ = calibrated()
    named = replace(
        read(checkpoint),
        class_names=tuple(f"renamed {number}" for number in range(CLASSES)),
        recipe=recipe.model_copy(update={"title": "Another title"}),
        made_by={"seed": 1},
    )
    write(checkpoint, named)
    again, was_there = calibrated()
    assert was_there and (again.confidence == made.confidence).all()
    taller = recipe.frames.model_copy(update={"height": 64})
    write(checkpoint, replace(named, recipe=recipe.model_copy(update={"frames": taller})))
    assert not calibrated()[1], "predict extracts frames by the checkpoint's recipe"


def test_a_calibration_is_made_anew_where_a_video_is_another(data, checkpoint, calibrated):
    listing = data / "videos.csv"
    sizes = [f"train{number},{1000 + number}" for number in range(9)]
    calibrated()
    listing.write_text("\n".join(["video,size", *sizes]) + "\n")
    assert calibrated()[1], "older listings do not tell sizes"
    Calibration.path_of(checkpoint).unlink()
    calibrated()
    assert calibrated()[1]
    listing.write_text("\n".join(["video,size", *sizes[:-1], "train8,7"]) + "\n")
    assert not calibrated()[1]


def test_a_calibration_of_an_older_version_is_current(data, checkpoint, calibrated):
    """It went by the digests of whole files."""
    made, _ = calibrated()
    table = data / "splits" / "train.csv"
    old = replace(made, checkpoint_sha256=sha256(checkpoint), videos_sha256=sha256(table))
    old.write(Calibration.path_of(checkpoint))
    assert calibrated()[1]
    replace(old, videos_sha256="0" * 64).write(Calibration.path_of(checkpoint))
    assert not calibrated()[1]


@pytest.fixture
def points_of_model(tmp_path, data, checkpoint):
    """Measures them; returns the table's file."""

    def run(**options):
        write_points(
            checkpoint,
            data=data,
            output=tmp_path / "points.csv",
            device="cpu",
            threads=1,
            tracking_uri=store_in(tmp_path),
            **{"seed": 0} | options,
        )
        return tmp_path / "points.csv"

    return run


def test_points_of_a_model_and_the_curve(tmp_path, points_of_model, recipe):
    points = points_of_model()
    table = pd.read_csv(points)
    skips = recipe.skip_cost is not None
    ways = {"all frames", "conditional exit", "random exit"}
    assert set(table["way"]) == ways | {"random frames" if skips else "fewer frames"}
    by_way = table.groupby("way")
    [whole] = by_way.get_group("all frames").itertuples()
    assert whole.steps == 4
    assert (whole.looks < 4) == skips
    if skips:
        [drawn] = by_way.get_group("random frames").itertuples()
        assert (drawn.looks, drawn.gflops) == (whole.looks, whole.gflops)
    else:
        assert whole.gflops == pytest.approx(flops.count(recipe, PATCH)["total"])
        assert by_way.get_group("fewer frames")["steps"].tolist() == [1, 2, 3]
    ours, by_chance = (by_way.get_group(f"{how} exit") for how in ("conditional", "random"))
    assert ours["steps"].tolist() == pytest.approx(by_chance["steps"].tolist())
    [*_, dearest] = ours.itertuples()
    assert dearest.steps == 4
    cost = flops.per_visit(recipe, PATCH)
    assert dearest.gflops == pytest.approx(cost.visits.sum() + cost.look * dearest.looks)

    write_curve([points], recipe, tmp_path / "curve")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curve.csv"), table)
    label = "AdaFocus+ and exit" if skips else "conditional exit"
    assert (tmp_path / "curve.svg").read_text().count(f"<!-- {label} -->") == 1


@pytest.mark.parametrize("recipe", [tiny_recipe("gru")], ids=["plain"])
def test_points_that_have_not_changed_are_not_measured_again(
    checkpoint, data, points_of_model, recipe, capsys
):
    """Neither where Snakemake has removed them before."""

    def measured(**options):
        points_of_model(**options)
        return "measured before" not in capsys.readouterr().out

    assert measured()
    points, exits = points_of_model(), Calibration.path_of(checkpoint)
    made = points.read_bytes()
    keep(points)
    points.unlink()
    exits.unlink()
    assert not measured()
    assert points.read_bytes() == made and exits.exists()
    assert not list(points.parent.glob(".*.old"))
    write(checkpoint, replace(read(checkpoint), made_by={"seed": 1}))
    assert not measured(), "of the same tensors"

    assert measured(anew="mended") and not measured(anew="mended") and not measured()
    assert points.read_bytes() == made
    assert measured(seed=1) and measured()
    points.write_text("half of")
    assert measured()
    table = data / "splits" / "val.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert measured()


@pytest.mark.parametrize(("gflops", "both"), [(70.0, 75.0), (50.0, 85.0)])
def test_both_is_the_best_that_is_cheap_enough(gflops, both):
    """At 60: a model that skips frames leaves early for 75%, or is cheap enough as it is."""
    rows = [
        (np.nan, "all frames", 100.0, 90.0),
        (np.nan, "conditional exit", 60.0, 80.0),
        (np.nan, "random exit", 60.0, 60.0),
        (np.nan, "fewer frames", 60.0, 70.0),
        (0.02, "all frames", gflops, 85.0),
        (0.02, "conditional exit", 60.0, 75.0),
        (0.02, "random frames", gflops, 65.0),
    ]
    points = pd.DataFrame(rows, columns=["skip_cost", "way", "gflops", "accuracy"])
    assert cheaper(points, 0.6)["both"] == both


def test_accuracy_between_points():
    points = pd.DataFrame({"gflops": [4.0, 2.0], "accuracy": [80.0, 60.0]})
    assert accuracy_at(points, 3.0) == 70
    assert accuracy_at(points, 5.0) == 80
    assert np.isnan(accuracy_at(points, 1.0)), "no point is as cheap"
