import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from adafocus.evaluation.result import ResultError
from adafocus.evaluation.summary import write_summary
from adafocus.recipe import load_recipe, parse_recipe

RECIPES = Path(__file__).parents[2] / "config" / "recipes"


def result(dataset, patch_size, stage, accuracy, *, oracle=None, published=None, metric="top1"):
    def scores(value):
        return {"top1": -1.0, "top5": -1.0, "mAP": -1.0, metric: value}

    baselines = {"random": scores(50.0), "centre": scores(40.0), "glancer": scores(25.0)}
    return {
        "dataset": dataset,
        "patch_size": patch_size,
        "stage": stage,
        "metric": metric,
        "metrics": scores(accuracy),
        "metrics_per_step": [scores(accuracy)],
        "baselines": baselines | ({"oracle": scores(oracle)} if oracle else {}),
        "gflops_per_video": 26.52,
        "videos_per_second": 123.45,
        "published": published,
        "videos": 400,
        "seed": 0,
        "device": "x86_64 CPU",
        "versions": {"torch": "2.11.0"},
        "git_commit": "0123456789abcdef",
        "checkpoint": {"sha256": "fedcba9876543210"},
        "recipe": load_recipe(RECIPES / f"{dataset}.yaml").to_dict(),
    }


def read_table(text):
    """Rows of a Markdown table by heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.fixture
def published(tmp_path):
    """Reads the table of published figures that a summary left."""
    return lambda: read_table((tmp_path / "summary.md").read_text().partition("## Published")[2])


@pytest.fixture
def summarise(tmp_path):
    """Writes results and their summary; returns its rows in the Markdown and in the CSV."""

    def write(*results):
        paths = []
        for number, values in enumerate(results):
            paths.append(tmp_path / f"{number}.json")
            paths[-1].write_text(json.dumps(values))
        write_summary(paths, tmp_path / "summary")
        assert (tmp_path / "summary.svg").stat().st_size > 1000
        results, _, _ = (tmp_path / "summary.md").read_text().partition("\n## ")
        with (tmp_path / "summary.csv").open(newline="") as file:
            return read_table(results), list(csv.DictReader(file))

    return write


def test_the_table_a_person_reads(summarise, tmp_path):
    published = {"figure": 75.0, "gflops": 26.6, "verified": True, "difference": -0.55}
    [row], [record] = summarise(result("actnet", 128, 3, 74.45, published=published, metric="mAP"))
    assert row == {
        "data set": "actnet",
        "patch": "128",
        "stage": "3",
        "metric": "mAP",
        "accuracy": "74.5",
        "random": "50.0",
        "centre": "40.0",
        "glancer alone": "25.0",
        "GFLOPs": "26.5",
        "videos/s": "123.5",
    }
    assert float(record["adafocus"]) == 74.45
    assert record["oracle"] == ""
    assert record["verified"] == "True"


def test_the_oracle_and_its_gain_where_the_truth_is_known(summarise):
    rows, _ = summarise(result("demo", 40, 3, 82.0, oracle=90.0), result("sthv1", 144, 3, 47.0))
    assert rows[0]["oracle"] == "90.0"
    assert rows[0]["of oracle's gain"] == "80.0%"
    assert rows[1]["oracle"] == rows[1]["of oracle's gain"] == ""


def test_no_gain_where_the_oracle_has_none(summarise):
    [row], _ = summarise(result("demo", 40, 3, 50.0, oracle=50.0))
    assert "of oracle's gain" not in row


def test_rows_are_sorted(summarise):
    rows, records = summarise(
        result("demo", 40, 3, 1.0),
        result("demo", 40, 1, 1.0),
        result("actnet", 128, 3, 1.0),
        result("actnet", 96, 3, 1.0),
    )
    order = [(row["data set"], row["patch"], row["stage"]) for row in rows]
    assert order == [
        ("actnet", "96", "3"),
        ("actnet", "128", "3"),
        ("demo", "40", "1"),
        ("demo", "40", "3"),
    ]
    assert [record["dataset"] for record in records] == ["actnet", "actnet", "demo", "demo"]


def test_published_figures_stand_beside_the_measured(summarise, published):
    summarise(result("actnet", 128, 3, 74.45, metric="mAP"), result("actnet", 96, 1, 50.0))
    rows = published()
    assert [(row["model"], row["patch"], row["published"]) for row in rows] == [
        ("AdaFocus", "96", "71.9"),
        ("AdaFocus", "128", "75.0"),
        ("AdaFocus", "160", "76.0"),
        ("AdaFocus", "192", "76.7"),
        ("AdaFocus+", "128", "74.2"),
        ("AdaFocus+", "128", "74.8"),
        ("AdaFocus+", "160", "75.5"),
        ("AdaFocus+", "160", "75.9"),
    ]
    assert (rows[1]["measured"], rows[1]["difference"]) == ("74.5", "-0.5")
    assert (rows[1]["GFLOPs published"], rows[1]["counted"]) == ("26.6", "26.5")
    # Stage 1 is not what was published, and the plain model not AdaFocus+.
    assert {row["measured"] for row in rows if row is not rows[1]} == {""}


def test_figures_that_could_not_be_checked_are_marked(summarise, published, tmp_path):
    summarise(result("fcvid", 128, 3, 83.5, metric="mAP"))
    [row] = published()
    assert row["published"] == "83.4*"
    assert "could not be checked" in (tmp_path / "summary.md").read_text()


def test_titles_and_published_figures_are_of_the_recipe_of_now(summarise, published, tmp_path):
    summarise(result("actnet", 128, 3, 74.45, metric="mAP"))
    now = load_recipe(RECIPES / "actnet.yaml").to_dict() | {"title": "Corrected", "peers": []}
    now["published"] = {128: {"mAP": 75.5, "gflops": 26.0}}
    recipes = {"actnet": parse_recipe(now, "now")}
    write_summary([tmp_path / "0.json"], tmp_path / "summary", recipes)
    [row] = published()
    assert (row["published"], row["difference"], row["GFLOPs published"]) == (
        "75.5",
        "-1.0",
        "26.0",
    )
    with (tmp_path / "summary.csv").open(newline="") as file:
        [record] = csv.DictReader(file)
    assert (record["title"], record["published"]) == ("Corrected", "75.5")
    assert float(record["difference"]) == pytest.approx(-1.05)
    assert "Corrected" in (tmp_path / "summary.html").read_text()


def test_a_data_set_of_ones_own_has_no_published_figures(summarise, tmp_path):
    summarise(result("demo", 28, 3, 83.5))
    assert "Published" not in (tmp_path / "summary.md").read_text()


def test_the_page_holds_the_tables_and_what_was_run(summarise, tmp_path):
    named = result("actnet", 128, 3, 74.45, metric="mAP") | {"git_commit": "a" * 40 + "-dirty"}
    named["device"] = "a <fast> device"
    summarise(named, result("fcvid", 128, 3, 83.5, metric="mAP"))
    # Well-formed, so that it can be read as XML.
    page = ET.fromstring((tmp_path / "summary.html").read_text().partition("\n")[2])
    assert [heading.text for heading in page.iter("h2")] == [
        "Published and measured",
        "What was run",
    ]
    results, published, run = (
        [[cell.text for cell in line] for line in table] for table in page.iter("table")
    )
    assert dict(zip(*results[:2], strict=True))["accuracy"] == "74.5"
    assert [line[1:5] for line in published if line[4] == "83.4*"] == [
        ["AdaFocus", "128", "mAP", "83.4*"]
    ]
    assert any("* This figure could not" in note.text for note in page.iter("p"))
    ran = dict(zip(*run[:2], strict=True))
    assert ran["commit"] == "aaaaaaaaaaaa-dirty"
    assert ran["evaluated on"] == "a <fast> device"
    assert ran["validation videos"] == "400"
    assert "://" not in (tmp_path / "summary.html").read_text()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a result"),
        ("[]", "not a result"),
        ('{"metric": "top1"}', "'dataset' is missing"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_result_is_named(tmp_path, text, reason):
    path = tmp_path / "broken.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ResultError, match=reason) as error:
        write_summary([path], tmp_path / "summary")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_to_summarise(tmp_path):
    with pytest.raises(ResultError, match="no results"):
        write_summary([], tmp_path / "summary")


def test_experiments_on_one_data_set_stand_together(summarise, tmp_path):
    demo, variant = result("demo", 28, 3, 83.5), result("demo-gamma9", 28, 3, 84.5)
    variant |= {"dataset": "demo", "experiment": "demo-gamma9"}
    rows, records = summarise(variant, demo, demo | {"patch_size": 20, "stage": 1})
    assert [(row["experiment"], row["patch"], row["accuracy"]) for row in rows[:3]] == [
        ("demo", "20", "83.5"),
        ("demo", "28", "83.5"),
        ("demo-gamma9", "28", "84.5"),
    ]
    assert [row["dataset"] for row in records] == ["demo", "demo", "demo"]
    text = (tmp_path / "summary.md").read_text()
    entries = read_table(text.partition("## Experiments on demo differ in")[2])
    assert entries == [{"entry": "stages.stage2.gamma", "demo": "0.2", "demo-gamma9": "0.9"}]
    page = ET.fromstring((tmp_path / "summary.html").read_text().partition("\n")[2])
    assert [heading.text for heading in page.iter("h2")] == [
        "Experiments on demo differ in",
        "What was run",
    ]
    for figure in ("demo", "demo-gamma9"):
        assert figure in (tmp_path / "summary.svg").read_text()
    summarise(demo, variant | {"experiment": "a-demo"})
    [heading] = (
        line for line in (tmp_path / "summary.md").read_text().splitlines() if "entry" in line
    )
    assert [cell.strip() for cell in heading.split("|")][2:4] == ["demo", "a-demo"]
    summarise(demo)
    assert "experiment" not in (tmp_path / "summary.md").read_text().lower()


def test_models_that_skip_frames_are_rows_of_their_own(summarise, published):
    plain = result("actnet", 128, 3, 74.0, metric="mAP")
    skipping = plain | {"skip_cost": 0.05, "gflops_per_video": 19.0}
    early = plain | {"budget": 15.0, "gflops_per_video": 15.5, "metrics": {"mAP": 70.0}}
    rows, table = summarise(skipping, early, plain)
    assert [row["skip cost"] for row in rows] == ["", "", "0.05"]
    assert [row["budget"] for row in rows] == ["", "15", ""]
    assert [float(row["gflops"]) for row in table] == [26.52, 15.5, 19.0]
    # The plain model's published figure is not theirs.
    measured = [(row["model"], row["measured"]) for row in published() if row["measured"]]
    assert measured == [("AdaFocus", "74.0")]


def test_what_policies_chose_between_and_what_is_warned_of(summarise, tmp_path):
    demo = result("demo", 28, 3, 83.5)
    summarise(demo)
    assert "chose between" not in (tmp_path / "summary.md").read_text(), "of earlier versions"
    chosen = {
        "places": 3,
        "cells": 49,
        "commonest_place": 98.7,
        "centre_deviation": 0.0123,
        "side": 0.4375,
        "side_deviation": 0.0,
        "frame_entropy": None,
    }
    told = demo | {"choices": chosen, "warnings": ["always the same; do <this>"]}
    _, [_, record] = summarise(told | {"seed": 1}, demo | {"stage": 1})
    assert record["places"] == "3 of 49"
    text = (tmp_path / "summary.md").read_text().partition("## What the policies chose between")[2]
    [row] = read_table(text)
    assert (row["places"], row["at the commonest"]) == ("3 of 49", "98.7%")
    assert (row["deviation of centres"], row["side of boxes"]) == ("1.2%", "43.8%")
    assert "entropy of frames" not in row and row["seed"] == "1"
    warning = "Warning: demo, patch 28, stage 3, seed 1: always the same; do <this>."
    assert warning in text
    page = ET.fromstring((tmp_path / "summary.html").read_text().partition("\n")[2])
    assert warning in [note.text for note in page.iter("p")]
