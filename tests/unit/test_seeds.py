"""Results of one model with several seeds, put together."""

import json
from statistics import stdev

import pytest
from test_summary import read_table, result, summarise  # noqa: F401

from adafocus.evaluation.result import ResultError
from adafocus.evaluation.seeds import write_seeds

ACCURACIES = {0: 87.0, 1: 88.0, 2: 90.8}


def of_seed(seed, accuracy, **others):
    found = result("demo", 28, 3, accuracy, oracle=90.0) | {"seed": seed} | others
    found["baselines"] = found["baselines"] | {"random": {"top1": 50.0 + seed}}
    return found | {"checkpoint": {"sha256": f"{seed}" * 16}}


def test_mean_deviation_and_each_seeds_figures(tmp_path):
    paths = []
    for seed, accuracy in ACCURACIES.items():
        paths.append(tmp_path / f"{seed}.json")
        paths[-1].write_text(json.dumps(of_seed(seed, accuracy)))
    write_seeds(paths, tmp_path / "all.seeds.json")
    found = json.loads((tmp_path / "all.seeds.json").read_text())
    assert (found["dataset"], found["patch_size"], found["stage"]) == ("demo", 28, 3)
    assert found["mean"]["metrics"]["top1"] == pytest.approx(88.6)
    apart = found["standard_deviation"]
    assert apart["metrics"]["top1"] == pytest.approx(stdev(ACCURACIES.values()))
    assert apart["metrics"]["top1"] == pytest.approx((7.76 / 2) ** 0.5), "of a sample: over n - 1"
    assert apart["baselines"]["random"]["top1"] == pytest.approx(1.0)
    assert apart["gflops_per_video"] == 0
    assert found["mean"]["steps_per_video"] is None, "which earlier versions did not tell"
    each = {one["seed"]: one["metrics"]["top1"] for one in found["seeds"]}
    assert each == ACCURACIES
    assert [one["result"] for one in found["seeds"]] == list(map(str, paths))


def test_one_seed_has_no_deviation(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(of_seed(4, 80.0)))
    write_seeds([tmp_path / "one.json"], tmp_path / "one.seeds.json")
    found = json.loads((tmp_path / "one.seeds.json").read_text())
    assert found["mean"]["metrics"]["top1"] == 80
    assert found["standard_deviation"]["metrics"]["top1"] is None


def test_what_is_no_result_is_named(tmp_path):
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(ResultError, match=r"one\.json"):
        write_seeds([tmp_path / "one.json"], tmp_path / "one.seeds.json")


def test_the_summary_has_one_row_for_a_model(summarise, tmp_path):  # noqa: F811
    results = [of_seed(seed, accuracy) for seed, accuracy in ACCURACIES.items()]
    rows, table = summarise(*results, result("demo", 20, 3, 70.0))
    assert [(row["patch"], row["seeds"], row["accuracy"]) for row in rows] == [
        ("20", "", "70.0"),
        ("28", "3", "88.6 ± 2.0"),
    ]
    assert (rows[1]["random"], rows[1]["centre"]) == ("51.0 ± 1.0", "40.0 ± 0.0")
    assert rows[1]["GFLOPs"] == "26.5"
    assert (table[1]["seeds"], table[1]["seed"]) == ("3", "0, 1, 2")
    assert float(table[1]["adafocus"]) == pytest.approx(88.6)
    assert float(table[1]["adafocus_deviation"]) == pytest.approx(stdev(ACCURACIES.values()))
    assert table[0]["adafocus_deviation"] == ""
    text = (tmp_path / "summary.md").read_text()
    assert "(n - 1)" in text and "differ in" not in text
    page = (tmp_path / "summary.html").read_text()
    assert all(f"{seed}" * 12 in page for seed in ACCURACIES), "each seed's run is told"


def test_published_figures_stand_beside_the_mean(summarise, tmp_path):  # noqa: F811
    results = [result("actnet", 128, 3, value, metric="mAP") for value in (74.0, 76.0)]
    summarise(results[0], results[1] | {"seed": 1})
    rows = read_table((tmp_path / "summary.md").read_text().partition("## Published")[2])
    [row] = (row for row in rows if row["measured"])
    assert (row["measured"], row["difference"]) == ("75.0 ± 1.4", "+0.0")


def test_results_of_other_recipes_and_the_same_seed_stay_apart(summarise):  # noqa: F811
    first, second = of_seed(0, 80.0), of_seed(1, 82.0)
    stage3 = first["recipe"]["stages"]["stage3"] | {"epochs": 99}
    other = first["recipe"] | {"stages": first["recipe"]["stages"] | {"stage3": stage3}}
    rows, _ = summarise(first, second, second | {"seed": 2, "recipe": other}, first)
    assert sorted(row["seeds"] for row in rows) == ["", "", "2"]
    assert "81.0 ± 1.4" in [row["accuracy"] for row in rows]


def test_numbers_that_sweeps_found_may_differ_from_seed_to_seed(summarise):  # noqa: F811
    results = []
    for seed, rate in ((0, 0.001), (1, 0.002)):
        found = of_seed(seed, 80.0 + seed)
        stage2 = found["recipe"]["stages"]["stage2"] | {"learning_rates": {"policy": rate}}
        stages = found["recipe"]["stages"] | {"stage2": stage2}
        swept = {"trials": 4, "range": [0.1, 10]}
        results.append(found | {"recipe": found["recipe"] | {"stages": stages, "swept": swept}})
    [row], _ = summarise(*results)
    assert (row["seeds"], row["accuracy"]) == ("2", "80.5 ± 0.7")
