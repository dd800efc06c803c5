"""Predictions of real video files."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from miniature import make_video
from noise import CLASSES, skip_half, skipping_recipe, tiny_recipe
from typer.testing import CliRunner

from adafocus.cli import app
from adafocus.data import DataError
from adafocus.data.clips import crop_centre, sample_val
from adafocus.data.decoder import decode_some, stacked
from adafocus.data.ffmpeg import decode, timeline
from adafocus.deploy.predict import Predictor, boxes_on_video, overlay
from adafocus.evaluation.exits import Calibration
from adafocus.evaluation.flops import per_step, per_visit
from adafocus.model import checkpoint
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError
from adafocus.model.exits import ConditionalExit, exits_of

FRAMES = 10
NAMES = tuple(f"class {i}" for i in range(CLASSES))


@pytest.fixture(params=["gru", "tsm"])
def weights(request, tmp_path):
    return write_weights(tiny_recipe(request.param), tmp_path, "stage3")


def write_weights(recipe, folder, stage):
    torch.manual_seed(0)
    model = build(recipe, 32, with_policy=stage != "stage1")
    file = folder / f"{stage}.safetensors"
    checkpoint.write(file, Checkpoint(model.state_dict(), recipe, stage, 32, NAMES))
    return file


@pytest.fixture
def video(tmp_path):
    return make_video(tmp_path / "a video.mp4", FRAMES, "146x73", rate=10)


def test_it_predicts_what_the_model_does_on_the_same_frames(weights, video):
    predictor = Predictor(weights, "cpu")
    prediction = predictor(video, top=3)
    recipe = predictor.recipe
    shape = recipe.model
    pictures, _ = decode_some(recipe.frames, video, range)
    frames, glance = (
        crop_centre(stacked(pictures, sample_val(FRAMES, n or shape.frames, shape.padding)), 64)[0]
        for n in (shape.frames, shape.glance_frames)
    )
    with torch.inference_mode():
        out = checkpoint.load(weights)(frames[None], glance=glance[None])
    expected = out.logits[0, -1].softmax(-1)
    assert [guess.label for guess in prediction.guesses] == [
        NAMES[k] for k in expected.topk(3).indices
    ]
    assert prediction.guesses[0].probability == pytest.approx(expected.max().item(), abs=1e-5)
    assert len(prediction.steps) == shape.frames
    assert prediction.steps[0].time == pytest.approx(0.1 * sample_val(FRAMES, 4)[0])
    # One prediction per step, or a single one after all of them.
    if not shape.looks_once:
        assert prediction.steps[-1].probability == prediction.guesses[0].probability
        assert prediction.steps[-1].label == prediction.guesses[0].label
    else:
        assert {step.label for step in prediction.steps} == {None}
    assert json.loads(json.dumps(prediction.to_dict()))["video"] == str(video)


def test_no_frame_of_a_file_goes_to_the_disk(weights, video, monkeypatch):
    """A file that is unusual does, and one ffmpeg decodes it."""
    predictor, begun, start = Predictor(weights, "cpu"), [], subprocess.Popen

    def watched(command, **pipes):
        begun.append(command)
        return start(command, **pipes)

    monkeypatch.setattr(subprocess, "Popen", watched)
    whole = predictor(video)
    assert not begun
    frames = predictor.recipe.frames.model_copy(update={"hardware": "auto"})
    predictor.recipe = predictor.recipe.model_copy(update={"frames": frames})
    extracted = predictor(video)
    assert len(begun) == 1 and "framecrc" in begun[0]
    assert np.array_equal(whole.timeline.times, extracted.timeline.times)
    found, expected = (p.guesses[0].probability for p in (whole, extracted))
    assert found == pytest.approx(expected, abs=1e-3)


def test_frames_kept_at_a_lower_rate(tmp_path):
    recipe = tiny_recipe("gru")
    recipe = recipe.model_copy(update={"frames": recipe.frames.model_copy(update={"rate": 5.0})})
    video = make_video(tmp_path / "slow.mp4", 20, "146x73", rate=10)
    prediction = Predictor(write_weights(recipe, tmp_path, "stage3"), "cpu")(video)
    # Of ten frames, every 0.2 s, the middles of four segments.
    assert [step.time for step in prediction.steps] == pytest.approx([0.2, 0.6, 1.2, 1.6])
    overlay(prediction, tmp_path / "look.mp4")
    assert len(timeline(tmp_path / "look.mp4").times) == 20


def test_a_skipped_frame_has_no_box_and_costs_less(video, tmp_path):
    weights = write_weights(skipping_recipe(), tmp_path, "stage3")
    clip = Predictor(weights, "cpu")(video).clip
    source = checkpoint.read(weights)
    model = skip_half(checkpoint.load(weights, train=True), clip[None])
    checkpoint.write(weights, replace(source, tensors=model.state_dict()))
    prediction = Predictor(weights, "cpu")(video)
    skipped = [step.box is None for step in prediction.steps]
    assert sorted(skipped) == [False, False, True, True]
    cost = per_step(source.recipe, 32)
    assert prediction.gflops == pytest.approx(cost.visits.sum() + 2 * cost.look)
    assert json.loads(json.dumps(prediction.to_dict()))["gflops"] == prediction.gflops
    overlay(prediction, tmp_path / "look.mp4")
    assert len(timeline(tmp_path / "look.mp4").times) == FRAMES


def test_within_a_budget_a_video_is_left_when_it_is_sure(video, tmp_path):
    weights = write_weights(tiny_recipe("gru"), tmp_path, "stage3")
    whole = Predictor(weights, "cpu")(video)
    cost = per_step(tiny_recipe("gru"), 32)
    assert whole.gflops == pytest.approx(cost.visits.sum() + 4 * cost.look)
    with torch.inference_mode():
        visited = exits_of(checkpoint.load(weights)).visit_all(whole.clip[None])
    confidence = visited.logits.softmax(-1).amax(-1).numpy()
    looked = np.ones((1, 4), bool)
    cost = per_visit(tiny_recipe("gru"), 32)
    Calibration(confidence, looked, cost.visits, cost.look, checkpoint.sha256(weights), "").write(
        Calibration.path_of(weights)
    )
    predictor = Predictor(weights, "cpu", budget=2 * whole.gflops)
    assert len(predictor(video).steps) == 4, "the budget is for all of them"
    predictor.exits = ConditionalExit(predictor.model, [2, 0.999 * confidence[0, 1], 2, 0])
    prediction = predictor(video)
    assert [round(step.time, 3) for step in prediction.steps] == [0.6, 0.3]
    assert prediction.gflops == pytest.approx(cost.visits[:2].sum() + 2 * cost.look)
    assert prediction.guesses[0].probability == pytest.approx(
        visited.logits[0, 1].softmax(-1).max().item(), abs=1e-5
    )
    predictor.sheet(prediction, tmp_path / "sheet.png")
    overlay(prediction, tmp_path / "look.mp4")

    Calibration.path_of(weights).unlink()
    with pytest.raises(CheckpointError, match="no such calibration"):
        Predictor(weights, "cpu", budget=whole.gflops)
    elsewhere = write_weights(tiny_recipe("tsm"), tmp_path, "stage2")
    with pytest.raises(CheckpointError, match="stage2.*: no budget can be kept .* frame by frame"):
        Predictor(elsewhere, "cpu", budget=whole.gflops)


def test_boxes_are_in_the_videos_own_pixels():
    boxes = torch.tensor([[0, 0, 32, 32], [32, 16, 32, 32], [1.5, 0, 20, 40.25], [-1] * 4])
    # A square video, of which the crop shows all.
    whole = boxes_on_video(boxes, 64, torch.tensor([1.0, 1.0]), 128, 128)
    assert whole == [(0, 0, 64, 64), (32, 64, 96, 128), (0, 3, 80.5, 43), None]
    # Shrunk by half to 73 x 146, of which the crop shows the 64 x 64 in the middle.
    extent = torch.tensor([73 / 64, 146 / 64])
    shown = boxes_on_video(boxes[:1], 64, extent, 146, 292)
    assert shown == [(82, 9, 146, 73)]


def test_the_overlay_is_the_video_with_boxes_and_words(weights, tmp_path):
    black = ("-vf", "lutrgb=r=0:g=0:b=0")
    video = make_video(tmp_path / "black.mp4", FRAMES, "146x73", *black, rate=10)
    prediction = Predictor(weights, "cpu")(video)
    overlay(prediction, tmp_path / "overlay.mp4")
    before, after = timeline(video), timeline(tmp_path / "overlay.mp4")
    assert np.allclose(after.times, before.times, atol=1e-3)
    assert (after.height, after.width) == (74, 146)  # even, as H.264 has it
    bright = next(decode(tmp_path / "overlay.mp4", after)).max(-1) > 100
    left, top, right, bottom = (round(edge) for edge in prediction.steps[0].box)
    assert bright[bottom - 1, left:right].all()
    assert bright[20:bottom, [left, right - 1]].all()
    assert bright[:14, :60].any()  # the words
    bright[top:bottom, left:right] = False
    assert not bright[20:].any()


def test_a_timeline_by_hand(tmp_path):
    times = timeline(make_video(tmp_path / "v.mp4", 4, "64x48", rate=8))
    assert times.times.tolist() == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8])
    assert times.end == pytest.approx(4 / 8)
    assert (times.height, times.width) == (48, 64)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError):
        timeline(tmp_path / "text.mp4")


def test_stage_1_cannot_predict(tmp_path):
    with pytest.raises(CheckpointError, match="no policy"):
        Predictor(write_weights(tiny_recipe("gru"), tmp_path, "stage1"), "cpu")


# --- the command ------------------------------------------------------------------------------


def predict(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--device", "cpu"])


def test_a_folder_with_a_bad_file(weights, tmp_path):
    folder = tmp_path / "videos"
    for name in ("a", "c", "d; $(touch gone)"):
        make_video(folder / f"{name}.mp4", 5)
    (folder / "b.mp4").write_text("no video")
    lines = tmp_path / "out.jsonl"
    done = predict(folder, "--checkpoint", weights, "--json", lines, "--top", 2)
    assert done.exit_code == 1
    assert "1 of 4 videos could not be read" in done.stderr
    assert f"Error: {folder / 'b.mp4'}: " in done.stderr
    assert f"{folder / 'c.mp4'}: class " in done.stdout
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["video"] for row in rows] == [
        str(folder / f"{name}.mp4") for name in ("a", "c", "d; $(touch gone)")
    ]
    assert all(len(row["predictions"]) == 2 and len(row["steps"]) == 4 for row in rows)


def test_pictures_are_of_one_video(weights, video, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = predict(video, "--checkpoint", weights, "--sheet", sheet)
    assert done.exit_code == 0, done.output
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    done = predict(video, "--checkpoint", weights, "--sheet", tmp_path / "sheet")
    assert (tmp_path / "sheet").read_bytes()[:4] == b"\x89PNG", "whatever its name"
    done = predict(video, video, "--checkpoint", weights, "--sheet", sheet)
    assert done.exit_code == 1
    assert "--overlay and --sheet are for one video, not 2" in done.stderr


def test_what_is_no_plain_file_is_written_into(weights, video, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    done = predict(video, "--checkpoint", weights, "--json", pipe)
    reader.join(timeout=30)
    assert done.exit_code == 0, done.output
    assert json.loads(read[0])["video"] == str(video)
    assert pipe.is_fifo()
    done = predict(video, "--checkpoint", weights, "--json", tmp_path)
    assert done.exit_code == 1 and f"{tmp_path}: is a folder" in done.stderr
    # Nothing is read from one: nobody may ever write to it.
    done = subprocess.run(
        [sys.executable, "-m", "adafocus", "predict", pipe, "--checkpoint", weights],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"Error: {pipe}: is a pipe" in done.stderr
    assert video.exists()
    unread = tmp_path / "unread.jsonl"
    done = predict(tmp_path / "gone.mp4", "--checkpoint", weights, "--json", unread)
    assert done.exit_code == 1 and not unread.exists()


def test_a_full_disk_for_temporary_files_does_no_harm(weights, tmp_path, mount, monkeypatch):
    small = make_video(tmp_path / "b.mp4", 5)
    large = make_video(tmp_path / "a.mp4", 200, "64x48", "-vf", "noise=alls=60:allf=t")
    monkeypatch.setattr(tempfile, "tempdir", str(mount("size=300k")))
    done = predict(large, small, "--checkpoint", weights)
    assert done.exit_code == 0, done.output
    assert f"{large}: class " in done.stdout and f"{small}: class " in done.stdout
