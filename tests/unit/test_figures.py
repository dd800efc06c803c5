import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from adafocus import figures
from adafocus.evaluation.predictions import Predictions
from adafocus.figures import fonts, style
from adafocus.figures.evaluation import MOST_PAIRS

HISTORY = [
    {
        "epoch": epoch,
        "learning_rate_policy": 5e-4,
        "loss": 2 / epoch,
        "policy_loss": -0.1,
        "value_loss": 0.5,
        "entropy": 3.0,
        "reward": 0.1 * epoch,
        "approximate_kl": 0.01,
        "clipped_share": 0.1,
        "explained_variance": 0.2,
        "distinct_cells": 16.0,
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
    "experiment": "demo",
    "model": "AdaFocus",
    "patch_size": 40,
    "skip_cost": None,
    "budget": None,
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
    monkeypatch.setitem(style.STYLE, "svg.fonttype", "none")

    def read(path):
        return [element.text for element in ET.parse(path).iter() if element.tag.endswith("text")]

    return read


def test_stage_2_has_what_tells_how_ppo_fares(tmp_path, texts):
    figures.training_curves(HISTORY, tmp_path / "stage2.svg", "demo_40_stage2")
    said = texts(tmp_path / "stage2.svg")
    for name in ("demo_40_stage2", "epoch", "Reward", "Entropy of the policy", "top-1", "value"):
        assert name in said
    for name in (
        "KL divergence (nats)",
        "Clipped ratios",
        "explained variance",
        "Likeliest places",
    ):
        assert name in said


def test_other_stages_have_neither_and_one_epoch_is_enough(tmp_path, texts):
    history = [
        {k: v for k, v in HISTORY[0].items() if k.startswith(("epoch", "learn", "loss", "val_"))}
    ]
    figures.training_curves(history, tmp_path / "stage1.svg", "demo_40_stage1")
    said = texts(tmp_path / "stage1.svg")
    assert "Learning rate" in said
    assert "Reward" not in said


@pytest.mark.parametrize("steps", [1, 8])
def test_step_curve_names_the_baselines_that_are_known(tmp_path, texts, steps):
    path = tmp_path / "steps.svg"
    baselines = {"random": SCORES, "centre": SCORES, "glancer": SCORES}
    figures.step_curve([SCORES] * steps, baselines, "mAP", path, "actnet_128_stage3")
    said = " ".join(texts(path))
    assert "mAP (%)" in said
    assert "random patches" in said
    assert "true position" not in said


def test_accuracy_against_gflops_draws_the_latest_stage_of_each_data_set(tmp_path, texts):
    rows = [
        ROW,
        ROW | {"patch_size": 48, "stage": 1},
        ROW | {"stage": 2, "adafocus": 1.0},
        ROW | {"skip_cost": 0.05, "gflops": 0.5},
        ROW | {"budget": 0.01, "gflops": 0.01},
        ROW
        | {"dataset": "actnet", "experiment": "actnet", "metric": "mAP", "oracle": None}
        | {"patch_size": 128, "gflops": 26.5},
    ]
    published = [
        {"model": "AdaFocus", "published": 75.0, "published_gflops": 26.6},
        {"model": "AdaFocus+", "published": 74.2, "published_gflops": 19.6},
        {"model": "AR-Net", "published": 73.8, "published_gflops": 33.5},
    ]
    path = tmp_path / "summary.svg"
    figures.accuracy_against_gflops(rows, {"actnet": published, "demo": []}, path)
    said = texts(path)
    assert said.count("GFLOPs per video") == 2
    assert said.count("40 px") == said.count("48 px") == said.count("128 px") == 1
    assert said.count("true position") == 1
    assert said.count("AdaFocus, published") == said.count("AdaFocus+, published") == 1
    assert said.count("AR-Net") == 1
    assert said.count("AdaFocus+, measured") == 1


def test_experiments_on_one_data_set_share_its_panel(tmp_path, texts):
    variant = ROW | {"experiment": "demo-x", "adafocus": 86.0}
    path = tmp_path / "summary.svg"
    figures.accuracy_against_gflops([ROW, variant, variant | {"skip_cost": 0.1}], {}, path)
    said = texts(path)
    assert said.count("GFLOPs per video") == 1
    assert said.count("AdaFocus, measured") == said.count("demo-x, measured") == 1
    figures.accuracy_against_gflops([variant, variant | {"metric": "mAP"}], {}, path)
    assert texts(path).count("GFLOPs per video") == 2, "of another metric is another axis"
    assert "AdaFocus, measured" not in texts(path)


def test_both_methods_stand_beside_each_other_by_their_names(tmp_path, texts):
    uni = ROW | {"experiment": "demo-uni", "model": "Uni-AdaFocus", "stage": None}
    of_old = {"model": "AdaFocus", "published": 75.0, "published_gflops": 26.6}
    of_new = {"model": "Uni-AdaFocus", "published": 80.7, "published_gflops": 27.2}
    peer = {"model": "AR-Net", "published": 73.8, "published_gflops": 33.5}
    path = tmp_path / "summary.svg"
    published = {"demo": [of_old, peer], "demo-uni": [of_new, peer]}
    figures.accuracy_against_gflops([ROW, uni], published, path)
    said = texts(path)
    for line in ("AdaFocus, measured", "demo-uni, measured", "AR-Net"):
        assert said.count(line) == 1, line
    assert said.count("AdaFocus, published") == said.count("Uni-AdaFocus, published") == 1
    # A data set that has the newer method's recipe alone.
    figures.accuracy_against_gflops([uni | {"experiment": "demo"}], {}, path)
    assert texts(path).count("Uni-AdaFocus, measured") == 1


def test_curves_of_other_experiments_are_drawn_beside(tmp_path, texts):
    def points(accuracy, *more):
        rows = [("all frames", 0.05), ("conditional exit", 0.02), ("conditional exit", 0.05)]
        table = pd.DataFrame([*rows, *more], columns=["way", "gflops"])
        return table.assign(patch_size=28, skip_cost=None, accuracy=accuracy)

    path = tmp_path / "curve.svg"
    others = {"demo-uni": points(97.0), "demo-96": points(50.0).assign(patch_size=96)}
    given = (points(90.0, ("fewer frames", 0.03)), [], "top1", path, "Demo", "AdaFocus")
    figures.ways_to_spend_less(*given, others)
    said = texts(path)
    named = ("AdaFocus", "conditional exit", "demo-uni", "demo-uni, conditional exit")
    for line in (*named, "fewer frames"):
        assert said.count(line) == 1, line
    assert not any("demo-96" in line for line in said), "of patch sizes that are not drawn"
    figures.ways_to_spend_less(*given)
    assert not any("demo-uni" in line for line in texts(path))


def predictions_of(classes, videos=60):
    """Of each class the first video is taken for the next class; patches move down by class."""
    truth = np.arange(videos) % classes
    predicted = np.where(np.arange(videos) < classes, (truth + 1) % classes, truth)
    tops = np.minimum(truth, 6) * 11
    return Predictions(
        classes=np.array([f"doing a thing {k} of some kind" for k in range(classes)]),
        videos=np.array([f"v{n}" for n in range(videos)]),
        labels=np.eye(classes, dtype=bool)[truth],
        predicted=predicted.astype(np.int16),
        probability=np.full(videos, 0.5, np.float32),
        corners=np.stack([np.stack([tops, tops], -1)] * 4, axis=1).astype(np.int16),
        accuracy=np.linspace(50, 80, classes, dtype=np.float32),
        accuracy_random=np.full(classes, 50, np.float32),
    )


def test_patch_maps_show_the_classes_that_gain_most_and_least(tmp_path, texts):
    path = tmp_path / "patches.svg"
    found = predictions_of(10)
    figures.patch_maps(found, 28, 96, 7, "mAP", path, "demo_28_stage3", by_class=True)
    said = " ".join(texts(path))
    for text in ("left edge of the patch (px)", "share of patches (%)", "x (px)"):
        assert text in said
    assert "Most improved over random patches (mAP)" in said
    assert "+30.0 points, from 50 to 80%" in said and "+0.0 points, from 50 to 50%" in said
    assert said.count(" points, ") == 8
    figures.patch_maps(found, 28, 96, 7, "mAP", path, "demo_28_stage1", by_class=False)
    assert "points" not in " ".join(texts(path))


@pytest.mark.parametrize("classes", [1, 3])
def test_few_classes_have_few_maps(tmp_path, texts, classes):
    path = tmp_path / "patches.svg"
    found = predictions_of(classes)
    figures.patch_maps(found, 28, 96, 7, "top1", path, "own_28_stage3", by_class=True)
    assert " ".join(texts(path)).count(" points, ") == classes // 2 * 2


def test_a_small_confusion_matrix_names_each_class(tmp_path, texts):
    figures.confusion_matrix(predictions_of(10), tmp_path / "confusion.svg", "demo_28_stage3")
    said = texts(tmp_path / "confusion.svg")
    assert "9 doing a thing 9 of some kind" in said
    assert said.count("83") == 10 and said.count("17") == 10
    assert {"true class", "predicted class, by number", "share of the true class (%)"} <= set(said)


@pytest.mark.parametrize("wrong", [True, False])
def test_a_large_one_names_the_pairs_that_are_confused_most(tmp_path, texts, wrong):
    found = predictions_of(239, videos=478)
    if not wrong:
        found = Predictions(**vars(found) | {"predicted": found.labels.argmax(1)})
    figures.confusion_matrix(found, tmp_path / "confusion.svg", "fcvid_128_stage3")
    said = " ".join(texts(tmp_path / "confusion.svg"))
    assert said.count(" 1 of 2") == (MOST_PAIRS if wrong else 0)
    assert ("→ 1 doing a thing 1 of some kind" in said) == wrong
    assert (tmp_path / "confusion.svg").stat().st_size < 200_000


def test_run_times_are_in_units_that_fit(tmp_path, texts):
    job = {"cpu_seconds": 30.0, "peak_memory_mb": 2500.0, "cpu_joules": None, "gpu_joules": None}
    rows = [
        job | {"dataset": "actnet", "label": "stage 1, 128 px", "seconds": 9000.0},
        job
        | {"dataset": "fcvid", "label": "stage 1, 128 px", "seconds": 3600.0}
        | {"cpu_joules": 900.0, "gpu_joules": 9e6},
        job | {"dataset": "demo", "label": "split files", "seconds": 4.0},
    ]
    figures.run_times(rows, tmp_path / "runtimes.svg")
    said = [" ".join(text.split()) for text in texts(tmp_path / "runtimes.svg")]
    assert "2.5 h, CPU 30.0 s, 2.5 GB" in said and "4.0 s, CPU 30.0 s, 2.5 GB" in said
    assert "60.0 min, CPU 30.0 s, 2.5 GB, CPU 900.0 J, GPU 2.5 kWh" in said
    assert "wall-clock time (hours)" in said and "wall-clock time (seconds)" in said


ODD_NAMES = (
    "big $$ win",
    r"$\frac{$",
    "a $x_{2$ b",
    "two\u2028lines",
    "قط جميل",
    "bell\x07",
    "lone \ud800",
    "<b>&-->",
    "猫" * 60,
)


def test_any_name_is_drawn_as_it_is_written(tmp_path, texts, capsys):
    found = predictions_of(len(ODD_NAMES))
    found = Predictions(**vars(found) | {"classes": np.array(ODD_NAMES)})
    figures.confusion_matrix(found, tmp_path / "confusion.svg", "costs $1 and $2")
    said = texts(tmp_path / "confusion.svg")
    assert "costs $1 and $2" in said
    for name in ("0 big $$ win", r"1 $\frac{$", "3 two lines", "5 bell\ufffd", "7 <b>&-->"):
        assert name in said
    assert any(text.startswith("8 猫猫") and text.endswith("猫…") for text in said)
    figures.patch_maps(found, 28, 96, 7, "mAP", tmp_path / "maps.png", "$$", by_class=True)


@pytest.fixture
def cat(tmp_path, monkeypatch):
    """Installs a font with one letter, which is a black square."""

    def square(edge):
        pen = TTGlyphPen(None)
        pen.moveTo((0, 0))
        for corner in ((0, edge), (edge, edge), (edge, 0)):
            pen.lineTo(corner)
        pen.closePath()
        return pen.glyph()

    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "cat"])
    font.setupCharacterMap({ord("猫"): "cat"})
    font.setupGlyf({".notdef": square(10), "cat": square(900)})
    font.setupHorizontalMetrics({".notdef": (100, 0), "cat": (900, 0)})
    font.setupHorizontalHeader(ascent=900, descent=0)
    font.setupNameTable({"familyName": "Cat", "styleName": "Regular", "psName": "Cat"})
    font.setupOS2()
    font.setupPost()
    (tmp_path / "fonts").mkdir()
    font.save(tmp_path / "fonts" / "cat.ttf")
    (tmp_path / "fonts" / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr("matplotlib.font_manager.X11FontDirectories", [str(tmp_path / "fonts")])
    monkeypatch.setattr("matplotlib.font_manager._get_fontconfig_fonts", list)
    fonts._stand_ins.cache_clear()
    yield tmp_path / "fonts" / "cat.ttf"
    fonts._stand_ins.cache_clear()


def test_an_installed_font_stands_in_for_letters(tmp_path, capsys, cat):
    assert fonts.font_for("a cat") != str(cat) == fonts.font_for("猫")
    found = predictions_of(5)

    def dark(name):
        given = Predictions(**vars(found) | {"classes": np.array([name] * 5)})
        figures.confusion_matrix(given, tmp_path / "confusion.png", "t")
        image = np.asarray(Image.open(tmp_path / "confusion.png").convert("L"))
        return (image < 40).sum()

    assert dark("猫猫猫猫") > dark("....") + 5 * 4 * 60, "squares of some ten pixels"
    assert capsys.readouterr() == ("", "")
    dark("猫犬猫犬")
    said, warned = capsys.readouterr()
    assert said.count("\n") == 1 and said.startswith("no installed font has 犬: figures show boxes")
    assert warned == ""


def test_the_same_data_give_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        figures.training_curves(HISTORY, tmp_path / name, "same")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("right", [True, False])
def test_contact_sheet_shows_frames_and_boxes_of_their_colour(tmp_path, right):
    frames = np.full((16, 3, 64, 64), 200, np.uint8)
    boxes = np.tile([20.0, 20, 24, 24], (16, 1))
    clip = figures.SheetClip(frames, boxes, "jumping", "running " * 20, right, 0.75)
    figures.contact_sheet([clip] * 3, tmp_path / "sheet.png", "actnet_128_stage3")
    image = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)

    def area(colour):
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return (np.abs(image - wanted).max(-1) < 40).sum()

    grey = (image == 200).all(-1)
    assert grey.mean() > 0.4
    assert area(style.GREEN if right else style.VERMILLION) > 1000
    assert area(style.VERMILLION if right else style.GREEN) == 0


def test_a_sheet_of_the_demo_is_small(tmp_path):
    """Noise is the worst case for the compression."""
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(8, 3, 112, 112), dtype=np.uint8)
    clip = figures.SheetClip(frames, np.tile([0.0, 0, 40, 40], (8, 1)), "3", "8", False, 0.5)
    figures.contact_sheet([clip] * 6, tmp_path / "sheet.png", "demo_40_stage3")
    assert (tmp_path / "sheet.png").stat().st_size < 500_000


def test_a_sheet_without_clips_says_so(tmp_path):
    figures.contact_sheet([], tmp_path / "sheet.png", "demo_28_stage3: wrong predictions")
    assert (np.asarray(Image.open(tmp_path / "sheet.png").convert("L")) < 128).any()
