import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from adafocus import plots

HISTORY = [
    {
        "epoch": epoch,
        "learning_rate_policy": 5e-4,
        "loss": 2 / epoch,
        "policy_loss": -0.1,
        "value_loss": 0.5,
        "entropy": 3.0,
        "reward": 0.1 * epoch,
        "val_top1": 50.0,
        "val_top5": 90.0,
        "val_mAP": 60.0,
        "seconds": 1.0,
    }
    for epoch in (1, 2, 3)
]
SCORES = {"top1": 50.0, "top5": 90.0, "mAP": 60.0}
ROW = {
    "dataset": "demo",
    "patch_size": 40,
    "stage": 3,
    "metric": "top1",
    "adafocus": 85.0,
    "random": 60.0,
    "oracle": 90.0,
    "gflops": 0.22,
    "published": None,
    "published_gflops": None,
}


@pytest.fixture
def texts(monkeypatch):
    """What a figure says: draws letters as text and reads them."""
    monkeypatch.setitem(plots.STYLE, "svg.fonttype", "none")

    def read(path):
        return [element.text for element in ET.parse(path).iter() if element.tag.endswith("text")]

    return read


def test_stage_2_has_reward_and_entropy(tmp_path, texts):
    plots.training_curves(HISTORY, tmp_path / "stage2.svg", "demo_40_stage2")
    said = texts(tmp_path / "stage2.svg")
    for name in ("demo_40_stage2", "epoch", "Reward", "Entropy of the policy", "top-1", "value"):
        assert name in said


def test_other_stages_have_neither_and_one_epoch_is_enough(tmp_path, texts):
    history = [{k: v for k, v in HISTORY[0].items() if k not in ("reward", "entropy")}]
    plots.training_curves(history, tmp_path / "stage1.svg", "demo_40_stage1")
    said = texts(tmp_path / "stage1.svg")
    assert "Learning rate" in said
    assert "Reward" not in said


@pytest.mark.parametrize("steps", [1, 8])
def test_step_curve_names_the_baselines_that_are_known(tmp_path, texts, steps):
    path = tmp_path / "steps.svg"
    baselines = {"random": SCORES, "centre": SCORES, "glancer": SCORES}
    plots.step_curve([SCORES] * steps, baselines, "mAP", path, "actnet_128_stage3")
    said = " ".join(texts(path))
    assert "mAP (%)" in said
    assert "random patches" in said
    assert "true position" not in said


def test_accuracy_against_gflops_draws_the_latest_stage_of_each_data_set(tmp_path, texts):
    rows = [
        ROW,
        ROW | {"patch_size": 48, "stage": 1},
        ROW | {"stage": 2, "adafocus": 1.0},
        ROW
        | {"dataset": "actnet", "metric": "mAP", "patch_size": 128, "gflops": 26.5}
        | {"oracle": None},
    ]
    published = [
        {"model": "AdaFocus", "published": 75.0, "published_gflops": 26.6},
        {"model": "AdaFocus+", "published": 74.2, "published_gflops": 19.6},
        {"model": "AR-Net", "published": 73.8, "published_gflops": 33.5},
    ]
    plots.accuracy_against_gflops(rows, {"actnet": published, "demo": []}, tmp_path / "summary.svg")
    said = texts(tmp_path / "summary.svg")
    assert said.count("GFLOPs per video") == 2
    assert said.count("40 px") == said.count("48 px") == said.count("128 px") == 1
    assert said.count("true position") == 1
    assert said.count("AdaFocus, published") == said.count("AdaFocus+, published") == 1
    assert said.count("AR-Net") == 1


def test_the_same_data_give_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        plots.training_curves(HISTORY, tmp_path / name, "same")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("right", [True, False])
def test_contact_sheet_shows_frames_and_boxes_of_their_colour(tmp_path, right):
    frames = np.full((16, 3, 64, 64), 200, np.uint8)
    corners = np.zeros((16, 2), int) + 20
    clip = plots.SheetClip(frames, corners, "jumping", "running " * 20, right, 0.75)
    plots.contact_sheet([clip] * 3, 24, tmp_path / "sheet.png", "actnet_128_stage3")
    image = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)

    def area(colour):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return (np.abs(image - wanted).max(-1) < 40).sum()

    grey = (image == 200).all(-1)
    assert grey.mean() > 0.4
    assert area(plots.GREEN if right else plots.VERMILLION) > 1000
    assert area(plots.VERMILLION if right else plots.GREEN) == 0


def test_a_sheet_of_the_demo_is_small(tmp_path):
    """Noise is the worst case for the compression."""
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(8, 3, 112, 112), dtype=np.uint8)
    clip = plots.SheetClip(frames, np.zeros((8, 2), int), "3", "8", False, 0.5)
    plots.contact_sheet([clip] * 6, 40, tmp_path / "sheet.png", "demo_40_stage3")
    assert (tmp_path / "sheet.png").stat().st_size < 500_000
