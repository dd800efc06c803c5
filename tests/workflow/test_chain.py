"""The real chain on tiny real videos: both model families, both sources, all stages."""

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
import yaml

from adafocus.data.digits import write_videos
from adafocus.model import checkpoint
from adafocus.recipe import GenerateSource

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
from chaos import figures, survive  # noqa: E402

STAGE = {"epochs": 1, "batch_size": 6}
POLICY = {"optimizer": "adam", "schedule": "constant", "weight_decay": 0.0}
DIGITS = {
    "name": "digits",
    "title": "Tiny digits",
    "classes": 10,
    "videos": {"train": 12, "val": 6},
    "metric": "top1",
    "patch_sizes": [16, 24],
    "skip_costs": [0.04],
    "source": {
        "kind": "generate",
        "train": 12,
        "val": 6,
        "frames": 8,
        "visible": 6,
        "size": 48,
        "digit": 16,
        "fragments": 2,
        "backgrounds": 2,
    },
    "annotations": {
        "format": "split_files",
        "train": "train.txt",
        "val": "val.txt",
        "classes": "classes.txt",
        "positions": "positions.csv",
    },
    "frames": {"height": 48, "shards": 2},
    "augmentation": {"scales": [1.0], "flip": False},
    "model": {
        "family": "gru",
        "frames": 4,
        "frame_size": 48,
        "glance_size": 16,
        "glancer": {"name": "mobilenet_v2", "width": 0.1, "output_stride": 8},
        "focuser": {"name": "resnet", "depth": 10, "width": 0.125},
        "policy": {"channels": 4, "hidden": 16, "grid": 5},
        "classifier": {"hidden": 16},
    },
    "stages": {
        "glancer": {**STAGE, "learning_rates": {"glancer": 0.01}},
        "focuser": {**STAGE, "learning_rates": {"focuser": 0.01}},
        "stage1": {**STAGE, "learning_rates": {"focuser": 0.01, "classifier": 0.05}},
        "stage2": {**STAGE, **POLICY, "learning_rates": {"policy": 0.001}},
        "stage3": {**STAGE, "learning_rates": {"classifier": 0.01}},
    },
}
# Videos that a person puts there, with the authors' split files in their spaced form.
GIVEN = DIGITS | {
    "name": "given",
    "title": "Videos on request",
    "patch_sizes": [16],
    "skip_costs": [],
    "source": {"kind": "manual", "homepage": "https://example.org"},
    "annotations": {
        "format": "split_files",
        "train": "train_videofolder.txt",
        "val": "val_videofolder.txt",
        "classes": "category.txt",
        "separator": " ",
    },
    "frames": {"height": 48, "shards": 1},
    "augmentation": {"flip": False},
    "model": DIGITS["model"] | {"family": "tsm", "glance_frames": 3, "frame_size": 32},
}
RESULTS = ["digits_16_stage3", "given_16_stage3"]


@pytest.fixture(scope="module")
def chain(tiny_project):
    """Both chains, run once; what the tests look at."""
    recipes = tiny_project.folder / "config" / "recipes"
    recipes.mkdir(parents=True)
    for recipe in (DIGITS, GIVEN):
        (recipes / f"{recipe['name']}.yaml").write_text(yaml.safe_dump(recipe))
    config = {"datasets": {"digits": [16], "given": [16]}, "device": "cpu", "threads": 1}
    config["checkpoint_minutes"] = 0
    (recipes.parent / "config.yaml").write_text(yaml.safe_dump(config))
    _put_given_videos(tiny_project.folder / "data" / "given")
    run = tiny_project.snakemake()
    assert run.returncode == 0, run.stdout + run.stderr
    return tiny_project


def _put_given_videos(folder):
    source = GenerateSource(**DIGITS["source"] | {"frames": 6})
    write_videos(source, folder, workers=2)
    annotations = folder / "annotations"
    for split in ("train", "val"):
        lines = []
        for line in (annotations / f"{split}.txt").read_text().splitlines():
            video, frames, label = line.split(",")
            spaced = f"a video {video}"
            (folder / "videos" / f"{video}.mp4").rename(folder / "videos" / f"{spaced}.mp4")
            lines.append(f"{spaced} {frames} {label}\n")
        (annotations / f"{split}_videofolder.txt").write_text("".join(lines))
    (annotations / "classes.txt").rename(annotations / "category.txt")
    broken = folder / "videos" / "broken.mp4"
    broken.write_text("no video")
    with (annotations / "train_videofolder.txt").open("a") as file:
        file.write("broken 6 0\n")


@pytest.mark.parametrize("name", RESULTS)
def test_the_result(chain, name):
    result = json.loads((chain.folder / "results" / f"{name}.json").read_text())
    assert set(result["metrics"]) == {"top1", "top5", "mAP"}
    assert all(0 <= value <= 100 for value in result["metrics"].values())
    oracle = {"oracle"} if name.startswith("digits") else set()
    assert set(result["baselines"]) == {"random", "centre", "glancer"} | oracle
    assert len(result["metrics_per_step"]) == (4 if name.startswith("digits") else 1)
    assert result["gflops_per_video"] > 0
    assert result["seed"] == 0


@pytest.mark.integration
def test_a_chain_that_is_killed_again_and_again_ends_the_same(chain, tmp_path):
    """As `make chaos` does it, with more kills and all of the chain."""
    shutil.copytree(chain.folder / "config", tmp_path / "config")
    target = "results/checkpoints/digits_16_stage1.safetensors"
    assert survive(tmp_path, target, figures(chain.folder, target), kills=2, seed=0) == 1


def test_a_rule_starts_as_many_processes_as_it_is_given_gpus(chain, tmp_path, two_gpus):
    """Here two GPUs which torch cannot use, so that the processes compute on the CPU."""
    project = type(chain)(tmp_path, chain.python)
    for name in ("config", "data"):
        shutil.copytree(chain.folder / name, tmp_path / name)
    checkpoint = chain.folder / "results/checkpoints/digits_16_stage3.safetensors"
    project.edit("config.yaml", "pretrained", value={"digits_16_stage3": str(checkpoint)})
    project.edit("config.yaml", "device", value="auto")
    project.edit("config.yaml", "gpus", value=3)
    target = "results/digits_16_stage3.json"
    refused = project.snakemake(target)
    assert refused.stderr.endswith("Error: config/config.yaml: gpus: is 3, of 2 here\n")
    project.edit("config.yaml", "gpus", value=2)
    run = project.snakemake(target)
    assert run.returncode == 0, run.stderr
    found, expected = (
        json.loads((folder / target).read_text()) for folder in (tmp_path, chain.folder)
    )
    for what in ("metrics", "metrics_per_step", "baselines", "videos"):
        assert found[what] == expected[what]
    log = (tmp_path / "results/logs/digits_16_stage3_evaluation.log").read_text()
    assert "evaluation: 100%" in log and "Traceback" not in log


def test_what_could_not_be_read_is_reported_and_left_out(chain):
    splits = chain.folder / "data" / "given" / "splits"
    with (splits / "train.csv").open() as file:
        videos = [row["video"] for row in csv.DictReader(file)]
    assert len(videos) == 12
    assert all(video.startswith("a video ") for video in videos)
    report = json.loads((splits / "report.json").read_text())
    assert list(report["train"]["missing"]) == ["broken"]


def test_the_summary_holds_all_results(chain):
    with (chain.folder / "results" / "summary.csv").open() as file:
        rows = [(row["dataset"], row["patch_size"]) for row in csv.DictReader(file)]
    assert rows == [("digits", "16"), ("given", "16")]
    assert "digits" in (chain.folder / "results" / "summary.md").read_text()
    assert (chain.folder / "results" / "summary.svg").stat().st_size > 1000


def test_every_job_leaves_a_log_a_benchmark_and_a_run(chain):
    results = chain.folder / "results"
    stages = ("glancer_stage0", "focuser_stage0", "16_stage1", "16_stage2", "16_stage3")
    jobs = {f"{name}_{stage}" for name in ("digits", "given") for stage in stages}
    jobs |= {f"{name}_evaluation" for name in RESULTS}
    others = {"digits_download", "given_download", "digits_splits", "given_splits", "summary"}
    others |= {"digits_frames_0", "digits_frames_1", "given_frames_0"}
    assert {path.stem for path in (results / "logs").iterdir()} == jobs | others
    assert {path.stem for path in (results / "benchmarks").glob("*.tsv")} == jobs | others
    with closing(sqlite3.connect(results / "mlflow.db")) as store:
        runs = {name for (name,) in store.execute("select name from runs")}
    parents = {"digits backbones", "digits 16", "given backbones", "given 16"}
    assert runs == jobs | parents
    records = {path.name.removesuffix(".run.json") for path in results.rglob("*.run.json")}
    assert records == jobs


@pytest.fixture(scope="module")
def report(chain):
    """The report of both chains, made without network."""
    with pytest.MonkeyPatch.context() as environment:
        for proxy in ("http_proxy", "https_proxy"):
            environment.setenv(proxy, "http://127.0.0.1:9")
        run = chain.snakemake("--report", "results/report.html")
    assert run.returncode == 0, run.stdout + run.stderr
    return chain.folder / "results" / "report.html"


FIGURES = {"summary.html", "summary.svg", "runtimes.svg"}
FIGURES |= {
    f"plots/{name}_{figure}"
    for name in RESULTS
    for figure in (
        "confusion.svg",
        "curves.svg",
        "patches.svg",
        "right.png",
        "sheet.png",
        "steps.svg",
        "wrong.png",
    )
}
FIGURES |= {
    f"plots/{name}_{stage}_curves.svg"
    for name in ("digits", "given")
    for stage in ("glancer_stage0", "focuser_stage0", "16_stage1", "16_stage2")
}


@pytest.mark.integration
def test_the_report_opens_without_network(report, browser):
    browser.get(report.as_uri())
    shown = [button.text for button in browser.find_elements("css selector", "nav li")]
    assert [name for name in shown if name[:1].isdigit()] == [
        "1 Results",
        "2 Training",
        "3 Accuracy",
        "4 Where it looks",
    ]
    assert "a policy picks where to" in browser.find_element("id", "app").text
    assert browser.find_element("css selector", "#rulegraph svg, #rulegraph canvas").is_displayed()
    assert set(browser.execute_script("return Object.keys(results)")) == {
        f"results/{figure}" for figure in FIGURES
    }
    assert_quiet(browser, report)


@pytest.mark.integration
def test_every_picture_of_the_report_loads_and_has_a_caption(report, browser):
    browser.get(report.as_uri())
    for figure in sorted(FIGURES):
        browser.execute_script("app.showResultInfo(arguments[0])", f"results/{figure}")
        captions = browser.find_elements("css selector", "nav .prose")
        assert [len(caption.text) > 200 for caption in captions] == [True], figure
        assert "{" not in captions[0].text
        # The eye beside the labels opens the figure.
        browser.find_element("css selector", "nav table a").click()
        if figure.endswith(".html"):
            browser.switch_to.frame(browser.find_element("tag name", "iframe"))
            assert "What was run" in browser.find_element("tag name", "body").text
            browser.switch_to.default_content()
        else:
            picture = browser.find_element("css selector", "#app img:not(nav img)")
            wide = browser.execute_async_script(
                "const [image, done] = arguments;"
                "image.decode().then(() => done(image.naturalWidth), () => done(0))",
                picture,
            )
            assert wide > 200, figure
    assert_quiet(browser, report)


@pytest.mark.integration
def test_a_figure_is_found_by_clicking(report, browser):
    browser.get(report.as_uri())
    for name in ("4 Where it looks", "given"):
        browser.find_element("xpath", f"//nav//li[contains(., '{name}')]//a").click()
    row = browser.find_element("xpath", "//nav//tr[contains(., 'maps of patches')]")
    assert "16 px" in row.text
    row.find_element("tag name", "a").click()
    picture = browser.find_element("css selector", "#app img:not(nav img)")
    assert picture.get_attribute("src").startswith("data:image/svg+xml")


def assert_quiet(browser, page):
    """The console has no error, and nothing but the page itself was asked for."""
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert page.as_uri() in addresses
    assert {a for a in addresses if not a.startswith(("data:", "blob:"))} == {page.as_uri()}


def test_what_is_not_there_yet_is_named(chain):
    run = chain.snakemake("--report", "results/none.html", "results/digits_24_stage3.json")
    assert run.returncode == 1
    assert "digits_24_stage3" in run.stderr and "does not exist" in run.stderr


def test_nothing_is_done_twice(chain):
    for targets in ([], ["results/given_16_stage3.json"]):
        assert "Nothing to be done" in chain.snakemake(*targets).stderr


def test_a_changed_rate_runs_its_stage_and_what_follows(chain):
    change = ("recipes/digits.yaml", "stages", "stage3", "learning_rates", "classifier")
    chain.edit(*change, value=0.02)
    try:
        planned = chain.planned()
    finally:
        chain.edit(*change, value=0.01)
    assert planned == {"stage3": 1, "evaluate": 1, "summary": 1, "all": 1}


def test_the_order_of_entries_and_what_is_the_default_run_nothing(chain):
    file = chain.folder / "config" / "recipes" / "digits.yaml"
    before = file.read_text()
    recipe = yaml.safe_load(before)
    stage = recipe["stages"]["stage1"]
    stage["learning_rates"] = dict(sorted(stage["learning_rates"].items(), reverse=True))
    recipe["stages"]["stage1"] = stage | {"momentum": 0.9, "clip_gradient": None}
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    try:
        assert "Nothing to be done" in chain.snakemake().stderr
    finally:
        file.write_text(before)


def test_what_is_only_shown_runs_the_summary_alone(chain):
    for entry, value in (("title", "Corrected"), ("peers", [{"name": "X", "gflops": 1.0}])):
        before = DIGITS.get(entry, [])
        chain.edit("recipes/digits.yaml", entry, value=value)
        try:
            assert chain.planned() == {"summary": 1, "all": 1}
        finally:
            chain.edit("recipes/digits.yaml", entry, value=before)


@pytest.mark.parametrize("name", ["digits", "given"])
def test_a_label_that_is_fixed_trains_again_what_depends_on_it(chain, name):
    """Whether `download` made the annotations or a person brought them."""
    labels = chain.folder / "data" / name / "annotations"
    labels /= "train.txt" if name == "digits" else "train_videofolder.txt"
    before, times = labels.read_text(), labels.stat()
    first, *others = before.splitlines()
    labels.write_text("\n".join([first[:-1] + str((int(first[-1]) + 1) % 10), *others]) + "\n")
    try:
        planned = chain.planned(f"results/{name}_16_stage3.json")
    finally:
        labels.write_text(before)
        (chain.folder / "data" / name / "changed" / "annotations").unlink()
        os.utime(labels, ns=(times.st_atime_ns, times.st_mtime_ns))
    stages = ("train_glancer", "train_focuser", "stage1", "stage2", "stage3")
    assert planned == dict.fromkeys(("splits", *stages, "evaluate"), 1)


def test_another_patch_size_shares_the_data_and_both_backbones(chain):
    assert chain.planned("results/digits_24_stage3.json") == {
        "stage1": 1,
        "stage2": 1,
        "stage3": 1,
        "evaluate": 1,
    }


def test_a_chain_starts_from_given_checkpoints(chain):
    """Here from stage 2 of the same patch size, under another configuration's results."""
    given = chain.folder / "elsewhere.safetensors"
    shutil.copy(chain.folder / "results/checkpoints/digits_16_stage2.safetensors", given)
    for trained in (chain.folder / "results/checkpoints").glob("digits_16_stage*.safetensors"):
        trained.rename(trained.with_suffix(".aside"))
    (chain.folder / "results/digits_16_stage3.json").rename(chain.folder / "stage3.json")
    chain.edit("config.yaml", "pretrained", value={"digits_16_stage2": str(given)})
    try:
        target = "results/digits_16_stage3.json"
        run = chain.snakemake(target)
        assert run.returncode == 0, run.stderr
        assert "2 of 2 steps (100%) done" in run.stderr, "stage 3 and its evaluation alone"
        result = json.loads((chain.folder / target).read_text())
        expected = json.loads((chain.folder / "stage3.json").read_text())
        assert result["metrics_per_step"] == expected["metrics_per_step"]

        assert chain.planned("results/digits_16_stage2.json") == {"evaluate": 1}
        chain.edit("config.yaml", "pretrained", value={"digits_24_stage3": str(given)})
        run = chain.snakemake("results/digits_24_stage3.json")
        (line,) = (line for line in run.stderr.splitlines() if line.startswith("Error: "))
        assert "pretrained.digits_24_stage3" in line and "another stage and patch size" in line
    finally:
        chain.edit("config.yaml", "pretrained", value={})
        for checkpoint in (chain.folder / "results/checkpoints").glob("*.aside"):
            checkpoint.rename(checkpoint.with_suffix(".safetensors"))


def test_the_summary_alone_does_not_train(chain):
    """Results of earlier calls are taken as they are, whatever became of their recipe."""
    change = ("recipes/digits.yaml", "stages", "glancer", "epochs")
    chain.edit(*change, value=2)
    try:
        assert chain.planned("results/given_16_stage3.json", "summary") == {"summary": 1}
    finally:
        chain.edit(*change, value=1)


def test_make_report_covers_all_results_on_disk(chain):
    """Whatever the configuration asks for."""
    for name in ("Snakefile", "workflow", "profiles", "adafocus"):
        (chain.folder / name).symlink_to(ROOT / name)
    programs = Path(sys.executable).parent
    make = ["make", "--file", ROOT / "Makefile", f"BIN={programs}", "PYTHON=false"]
    chain.edit("config.yaml", "datasets", value={"digits": [24]})
    try:
        run = subprocess.run(
            [*make, f"--assume-old={programs}/installed", "report"],
            cwd=chain.folder,
            capture_output=True,
            text=True,
        )
    finally:
        chain.edit("config.yaml", "datasets", value={"digits": [16], "given": [16]})
    assert run.returncode == 0, run.stdout + run.stderr
    page = (chain.folder / "results" / "report.html").read_text()
    for name in RESULTS:
        assert f"results/plots/{name}_patches.svg" in page
    test_the_summary_holds_all_results(chain)
    assert not (chain.folder / "results" / "digits_24_stage3.json").exists()


def test_the_curves(chain):
    """A model that skips frames is made from the plain one's stage 2, and all are measured."""
    curves = {name: f"results/curves/{name}.csv" for name in ("digits", "given")}
    skipping_result = "results/digits_16_skip0.04_stage3.json"
    run = chain.snakemake(*curves.values(), skipping_result, "results/summary.md")
    assert run.returncode == 0, run.stdout + run.stderr
    digits, given = (pd.read_csv(chain.folder / file) for file in curves.values())
    models = {(row.patch_size, row.skip_cost) for row in digits.fillna(-1).itertuples()}
    assert models == {(16, -1), (16, 0.04)}
    ways = {"all frames", "conditional exit", "random exit", "fewer frames", "random frames"}
    assert set(digits["way"]) == ways
    assert given["way"].tolist() == ["all frames"], "the TSM family looks once a video"
    assert (chain.folder / "results" / "curves" / "digits.svg").exists()
    results = chain.folder / "results"
    plain = checkpoint.read(results / "checkpoints" / "digits_16_stage3.safetensors")
    skipping = checkpoint.read(results / "checkpoints" / "digits_16_skip0.04_stage3.safetensors")
    assert (plain.recipe.skip_cost, skipping.recipe.skip_cost) == (None, 0.04)
    history = pd.read_csv(results / "checkpoints" / "digits_16_skip0.04_stage2.metrics.csv")
    assert history["looked"].between(0, 1).all()

    result = json.loads((chain.folder / skipping_result).read_text())
    [whole] = digits[(digits["way"] == "all frames") & digits["skip_cost"].notna()].itertuples()
    assert result["skip_cost"] == 0.04
    assert result["gflops_per_video"] == pytest.approx(whole.gflops)
    assert result["metrics"]["top1"] == pytest.approx(whole.accuracy)
    assert "skip cost" in (results / "summary.md").read_text()

    run = chain.snakemake("--report", "curve.html", "results/curves/digits.csv")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "results/curves/digits.svg" in (chain.folder / "curve.html").read_text()


def test_an_experiment_that_extends_another_trains_what_differs_alone(chain):
    recipe = {"name": "digits-x", "title": "Tiny digits, faster", "extends": "digits"}
    recipe |= {"stages": {"stage3": {"learning_rates": {"classifier": 0.02}}}}
    file = chain.folder / "config" / "recipes" / "digits-x.yaml"
    file.write_text(yaml.safe_dump(recipe))
    results = chain.folder / "results"
    before = {path: path.stat().st_mtime_ns for path in results.glob("checkpoints/digits_*")}
    run = chain.snakemake(
        "results/digits-x_16_stage3.json", "results/digits-x_16_stage1.json", "results/summary.md"
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "digits-x_16_stage2 is shared: digits_16_stage2" in run.stderr
    made = {path.name for path in results.glob("checkpoints/digits-x_*.safetensors")}
    assert made == {"digits-x_16_stage3.safetensors"}
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert not (chain.folder / "data" / "digits-x").exists()

    result = json.loads((results / "digits-x_16_stage3.json").read_text())
    assert (result["dataset"], result["experiment"]) == ("digits", "digits-x")
    assert result["learning_rates"]["stage3"] == {"classifier": 0.02}
    shared = json.loads((results / "digits-x_16_stage1.json").read_text())
    assert (shared["experiment"], shared["recipe"]["name"]) == ("digits-x", "digits-x")
    assert shared["checkpoint"]["path"] == "results/checkpoints/digits_16_stage1.safetensors"
    summary = (results / "summary.md").read_text()
    [line] = (line for line in summary.splitlines() if line.startswith("| stages."))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1:-1] == ["stages.stage3.learning_rates.classifier", "0.01", "0.02"]
    assert "Nothing to be done" in chain.snakemake("results/digits-x_16_stage3.json").stderr
    file.unlink()


def test_a_failed_job_is_one_line_that_names_its_log(chain):
    (chain.folder / "data" / "given" / "annotations" / "category.txt").rename(
        chain.folder / "data" / "given" / "annotations" / "categories.txt"
    )
    run = chain.snakemake("--forcerun", "download", "--", "data/given/videos.csv")
    assert run.returncode == 1
    (line,) = (line for line in run.stderr.splitlines() if line.startswith("Error: "))
    assert "annotations/category.txt" in line and "https://example.org" in line
    assert "results/logs/given_download.log" in line
    log = (chain.folder / "results" / "logs" / "given_download.log").read_text()
    assert "DataError" in log

    run = chain.snakemake("--retries", "1", "--", "data/given/videos.csv")
    assert run.returncode == 1
    log = (chain.folder / "results" / "logs" / "given_download.log").read_text()
    attempts = re.findall(r"^=== attempt (\d), \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, on ", log, re.M)
    assert attempts == ["1", "2", "3"], "all since the last that ended well"
    assert log.count("category.txt not found") >= 3
