import csv
import json

import pytest

from adafocus.evaluation.summary import ResultError, write_summary


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
        "device": "x86_64 CPU",
    }


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
        lines = (tmp_path / "summary.md").read_text().splitlines()
        cells = [[c.strip() for c in li.strip("|").split("|")] for li in lines if li[:1] == "|"]
        table = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
        with (tmp_path / "summary.csv").open(newline="") as file:
            return table, list(csv.DictReader(file))

    return write


def test_the_table_a_person_reads(summarise, tmp_path):
    published = {"figure": 75.0, "gflops": 26.6, "verified": True, "difference": -0.55}
    [row], [record] = summarise(result("actnet", 128, 3, 74.45, published=published, metric="mAP"))
    assert row == {
        "data set": "actnet",
        "patch": "128",
        "stage": "3",
        "metric": "mAP",
        "AdaFocus": "74.5",
        "random": "50.0",
        "centre": "40.0",
        "glancer alone": "25.0",
        "GFLOPs": "26.5",
        "videos/s": "123.5",
        "published": "75.0",
        "difference": "-0.6",
    }
    assert float(record["adafocus"]) == 74.45
    assert record["oracle"] == ""
    assert record["verified"] == "True"


def test_the_oracle_and_its_gain_where_the_truth_is_known(summarise):
    rows, _ = summarise(result("demo", 40, 3, 82.0, oracle=90.0), result("sthv1", 144, 3, 47.0))
    assert rows[0]["oracle"] == "90.0"
    assert rows[0]["of oracle's gain"] == "80.0%"
    assert rows[1]["oracle"] == rows[1]["of oracle's gain"] == ""
    assert "published" not in rows[0]


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


def test_figures_that_could_not_be_checked_are_marked(summarise, tmp_path):
    published = {"figure": 83.4, "gflops": 26.6, "verified": False, "difference": 0.1}
    [row], _ = summarise(result("fcvid", 128, 3, 83.5, published=published))
    assert row["published"] == "83.4*"
    assert "could not be checked" in (tmp_path / "summary.md").read_text()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not a result"),
        ("[]", "not a result"),
        ('{"metric": "top1"}', "'baselines' is missing"),
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
