"""MLflow's pages in a real browser, as a person who compares patch sizes sees them."""

import json
import math
import re
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from PIL import Image
from servers import mlflow_server
from test_tracking import RECIPE

from adafocus import tracking
from adafocus.training.engine import write_history

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TOP1 = {20: 71.25, 28: 88.5, 40: 90.75}
EPOCHS = 10
WAIT = 60
"""Seconds for a page to show something."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Address of a server with three chains of two runs each, and the ids of its runs by name."""
    folder = tmp_path_factory.mktemp("runs")
    store = f"sqlite:///{folder}/mlflow.db"
    for patch_size in TOP1:
        _leave_chain(store, folder, patch_size)
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("demo").experiment_id
    ids = {run.info.run_name: run.info.run_id for run in client.search_runs([experiment])}
    with mlflow_server(store, folder) as server:
        yield f"{server}/#/", experiment, ids


def _leave_chain(store, folder, patch_size):
    def run(name, stage, kind, **more):
        return tracking.run(
            store,
            record=folder / f"{name}.run.json",
            name=name,
            parameters={"seed": 0},
            **tracking.identity(RECIPE, patch_size, stage, kind, seed=0),
            **more,
        )

    name = f"demo_{patch_size}_stage2"
    history = folder / f"{name}.metrics.csv"
    with run(name, "stage2", "training", history=history):
        rewards = [0.1 * math.log(epoch) for epoch in range(1, EPOCHS + 1)]
        rows = [{"epoch": e, "reward": r, "seconds": 6.0} for e, r in enumerate(rewards, start=1)]
        write_history(rows, history)
    sheet = folder / "sheet.png"
    Image.new("RGB", (64, 48), "orange").save(sheet)
    with run(f"demo_{patch_size}_stage3_evaluation", "stage3", "evaluation") as evaluation:
        figures = {"top1": TOP1[patch_size]}
        evaluation.add_figures(figures, figures)
        evaluation.add_artifacts(sheet)


def shown(browser, *texts):
    """Waits until a page shows all these texts; returns all that it shows."""
    from selenium.webdriver.support.ui import WebDriverWait

    def text(driver):
        return driver.execute_script("return document.body.innerText")

    def holds(driver):
        return all(one in text(driver) for one in texts)

    WebDriverWait(browser, WAIT).until(holds, f"not all of {texts}")
    return text(browser)


def test_the_runs_page_lists_the_chains_by_name(runs, browser):
    url, experiment, _ = runs
    browser.get(f"{url}experiments/{experiment}/runs")
    shown(browser, *(f"demo {patch_size}" for patch_size in TOP1))
    # The charts beside the list need no choice of columns.
    browser.get("about:blank")
    browser.get(f"{url}experiments/{experiment}/runs?compareRunsMode=CHART")
    shown(browser, "top1", *(f"{top1:.2f}" for top1 in TOP1.values()))


def test_the_compare_page_shows_parameters_and_accuracy_side_by_side(runs, browser):
    url, experiment, ids = runs
    chains = [ids[f"demo {patch_size}"] for patch_size in TOP1]
    browser.get(
        f"{url}compare-runs?runs={quote(json.dumps(chains))}"
        f"&experiments={quote(json.dumps([experiment]))}"
    )
    page = shown(browser, "Comparing 3 Runs", "stage2.learning_rates.policy", "Metrics\n")
    words = page.split()
    rate = str(RECIPE.stages["stage2"].learning_rates["policy"])
    for row in (
        ["patch_size", *map(str, TOP1)],
        ["stage2.learning_rates.policy", rate, rate, rate],
        ["top1", *map(str, TOP1.values())],
    ):
        assert any(words[at : at + 4] == row for at in range(len(words))), (row, page)


def test_a_stage_2_run_shows_its_reward_curve(runs, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    url, experiment, ids = runs
    browser.get(f"{url}experiments/{experiment}/runs/{ids['demo_28_stage2']}/model-metrics")
    shown(browser, "demo_28_stage2 (reward)")

    def climbs(driver):
        """Whether a line of one point per epoch goes up all the way; pixels count from the top."""
        lines = driver.execute_script(
            "return [...document.querySelectorAll('.js-plotly-plot path.js-line')]"
            ".map(line => line.getAttribute('d') || '')"
        )
        for line in lines:
            heights = [float(y) for y in re.findall(r",([\d.]+)", line)]
            if len(heights) == EPOCHS and heights == sorted(set(heights), reverse=True):
                return True
        return False

    WebDriverWait(browser, WAIT).until(climbs, "no curve of the reward")


def test_a_contact_sheet_opens(runs, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    url, experiment, ids = runs
    run = ids["demo_28_stage3_evaluation"]
    browser.get(f"{url}experiments/{experiment}/runs/{run}/artifacts/sheet.png")
    # As large as the sheet that was logged.
    WebDriverWait(browser, WAIT).until(
        lambda driver: driver.execute_script(
            "return [...document.images].some(i => i.naturalWidth == 64 && i.naturalHeight == 48)"
        ),
        "no picture of the sheet's size",
    )
