"""Every command of the pages, run as it stands on a tiny demo, and what MLflow then shows."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
import yaml
from hook import pages
from hub_server import hub
from miniature import make_video
from mlflow import MlflowClient
from PIL import Image
from published import sections
from servers import mlflow_server
from test_chain import DIGITS

ROOT = Path(__file__).parents[2]
NOT_RUN = {
    "docs/experiments.md": "test_plan.py plans its chains",
    "docs/containers.md": "images are not built in tests; unit/test_packaging.py reads their files",
}
PAGES = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
BLOCKS = [
    (language, re.sub(r"\\\n *", "", block))
    for page in PAGES
    if page not in NOT_RUN
    for language, block in re.findall(
        r"^ *```(\w*)\n(.*?)^ *```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
]
"""Language and text, in which a line that goes on in the next is one with that."""
COMMANDS = [
    command.strip()
    for language, block in BLOCKS
    if language == "sh"
    for command in block.splitlines()
]
ON_CLUSTER = "snakemake --profile workflow/profiles"
ELSEWHERE = {
    "make demo": "test_demo.py",
    "adafocus export --int8 --data data/demo --checkpoint"
    " results/checkpoints/demo-uni_28.safetensors --onnx int8.onnx --input bytes": "likewise, where"
    " the model is trained",
    "make test": "runs this test",
    "make ui": "test_make_ui_opens_mlflow",
    "make report": "test_chain.py",
    "make bench": "test_speed.py, at a small size",
    "torchrun --nproc-per-node 2 -m adafocus train --recipe config/recipes/demo.yaml --stage stage3"
    " --patch-size 28 --data data/demo --init results/checkpoints/demo_28_stage2.safetensors"
    " --output both.safetensors": "unit/test_distributed.py, with two torchruns on the CPU",
    "snakemake --cores all results/curves/demo.csv": "test_chain.py and test_demo.py, with fewer"
    " models",
    "snakemake --cores all --forcerun stage2 --config anew=monday --"
    " results/demo_28_stage3.json": "test_later_version.py, from stage 3 on",
    "make chaos": "test_chain.py, with fewer kills",
    "createdb mlflow": "integration/test_tracking_server.py, with a PostgreSQL of its own",
    "mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri postgresql+psycopg:///mlflow"
    " --artifacts-destination mlartifacts": "likewise",
    "source .venv/bin/activate": "the environment that these tests run in",
    "snakemake --cores all results/mine_128.json": "test_own_videos.py, with small networks",
    f"{ON_CLUSTER}/slurm results/actnet_128_stage3.json": "test_slurm.py, on tiny videos",
    f"{ON_CLUSTER}/cluster-generic results/actnet_128_stage3.json": "likewise, its last step",
    "adafocus evaluate actnet_128.safetensors --data data/actnet --output theirs.json --plots"
    " theirs": "needs ActivityNet; unit/test_evaluation.py looks at its last line",
    'srun --nodes 2 --ntasks-per-node 1 --gpus-per-node 4 --signal=USR1@120 bash -c \'trap "" USR1;'
    " torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID"
    " --rdzv-endpoint $(scontrol show hostnames $SLURM_JOB_NODELIST | head -1):29500 -m adafocus"
    " train ...'": "needs two machines with GPUs; unit/test_distributed.py has two torchruns",
    "make install": "made the environment that these tests run in",
    ".venv/bin/pip install pre-commit && .venv/bin/pre-commit install": "changes the checkout",
    "make lock": "likewise, by what a package index has that day",
}
ON_REQUEST = "snakemake --cores all results/actnet_128_stage3.json"
"""Ends in what a person without ActivityNet is told."""
STAND_INS = {"rtsp://camera/stream": "camera.mp4"}
"""What a command is given in the place of what is not here."""

PATCH_SIZES = (20, 28)
UNI = {
    "model": {
        "frames": 8,
        "glance_frames": 4,
        "focus_frames": 3,
        "focuser": DIGITS["model"]["focuser"],
        "policy": {"smallest": 16, "largest": 32, "channels": 4, "frame_channels": 4},
        "classifier": {"hidden": 16},
    },
    "joint": {"epochs": 1, "batch_size": 4},
}
"""What makes the recipe of the demo's Uni-AdaFocus small."""
WAIT = 60
"""Seconds for a page to show something."""


@pytest.fixture(scope="module")
def demo(tiny_project, tmp_path_factory):
    """The folder in which every command has been run, with a demo that takes seconds."""
    shutil.copytree(ROOT / "config", tiny_project.folder / "config")
    recipe = DIGITS | {"name": "demo", "patch_sizes": list(PATCH_SIZES), "skip_costs": [0.02]}
    recipe["stages"] = DIGITS["stages"] | {"stage2": DIGITS["stages"]["stage2"] | {"epochs": 3}}
    recipe_file = tiny_project.folder / "config" / "recipes" / "demo.yaml"
    recipe_file.write_text(yaml.safe_dump(recipe))
    tiny_project.edit("recipes/demo-uni.yaml", "patch_sizes", value=list(PATCH_SIZES))
    for entry, value in UNI["model"].items():
        tiny_project.edit("recipes/demo-uni.yaml", "model", entry, value=value)
    for entry, value in UNI["joint"].items():
        tiny_project.edit("recipes/demo-uni.yaml", "stages", "joint", entry, value=value)
    # So that what is said of the data does not wait for weights from the network.
    tiny_project.edit("recipes/actnet.yaml", "model", "glancer", "pretrained", value=None)
    tiny_project.edit("recipes/actnet.yaml", "model", "focuser", "pretrained", value=None)
    # Nor needs more disk than a machine for tests has.
    tiny_project.edit("recipes/actnet.yaml", "videos", "seconds", value=None)
    tiny_project.edit("config.yaml", "threads", value=1)
    # Two trials show as much as sixteen.
    for entry, value in (("trials", 2), ("cpus_per_trial", 1)):
        tiny_project.edit("config.yaml", "sweep", entry, value=value)
    programs = tmp_path_factory.mktemp("programs")
    modules = {name: name for name in ("adafocus", "snakemake")} | {"hf": "huggingface_hub.cli.hf"}
    for name, module in modules.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {tiny_project.python} -m {module} "$@"\n')
        (programs / name).chmod(0o755)
    with hub() as server:
        run_all_commands(tiny_project.folder, programs, server.address)
    return tiny_project.folder


def run(
    folder: Path,
    command: list[str],
    programs: Path = Path(sys.executable).parent,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),  # where graphs for other runtimes are kept
    }
    return subprocess.run(
        command,
        cwd=folder,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def run_all_commands(folder: Path, programs: Path, hub_address: str) -> None:
    of_hub = {"HF_ENDPOINT": hub_address, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
    of_hub["HF_TOKEN"] = ""  # that of a person who runs the tests
    for name in ("Snakefile", "workflow", "profiles", "adafocus"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("cat", "dog"):
        for number in range(3):
            make_video(folder / "my_videos" / name / f"{number}.mp4")
    make_video(folder / "camera.mp4", 12, rate=2)
    torch.save(sections("actnet_128"), folder / "published.pth.tar")
    for command in COMMANDS:
        if command in ELSEWHERE:
            continue
        words = [STAND_INS.get(word, word) for word in shlex.split(command)]
        done = run(folder, words, programs, **of_hub)
        output = done.stdout + done.stderr
        if command == ON_REQUEST:
            assert done.returncode == 1
            assert "http://activity-net.org/download.html" in output
        else:
            assert done.returncode == 0, f"{command}\n{output}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "again.json",
        "early.json",
        "results/demo_28_skip0.02_stage3.json",
        "results/demo-uni_28.json",
        "mine.safetensors",
        "look.jsonl",
        "look.png",
        "look.mp4",
        "demo.onnx",
        "actnet_128.safetensors",
        "taken/README.md",
        "digits/demo-uni_28.safetensors",
        "results/sweeps/demo_28_stage3.svg",
    ],
)
def test_commands_leave_what_they_say(demo, file):
    assert (demo / file).stat().st_size > 0


@pytest.mark.slow
def test_a_prediction_is_computed_by_the_fastest_runtime_from_a_graph_in_the_cache(demo):
    assert json.loads((demo / "look.jsonl").read_text())["runtime"] == "openvino"
    assert list((demo / "cache" / "adafocus").glob("*.onnx"))


@pytest.mark.slow
def test_a_stage_takes_over_the_best_trial_of_its_sweep(demo, tiny_project, tmp_path):
    """Only stage 3 was swept: what is before it is given."""
    name, before = "demo_28_stage3", "demo_28_stage2"
    made = json.loads((demo / "results" / f"{name}.json").read_text())
    assert made["swept"] is None
    shutil.copytree(demo, tmp_path / "mine", symlinks=True)
    folder = tmp_path / "mine"
    project = replace(tiny_project, folder=folder)
    shutil.copy2(folder / "results" / "checkpoints" / f"{before}.safetensors", folder)
    # So that a trial is all there is to go on from.
    for path in (folder / "results" / "checkpoints").glob(f"{name}.*"):
        path.unlink()
    project.edit("config.yaml", "pretrained", value={before: f"{before}.safetensors"})
    project.edit("config.yaml", "sweep", "use_best", value=True)
    # The sweep began at the same weights, elsewhere.
    call = ["--rerun-triggers", "mtime", "--", f"results/{name}.json"]
    assert project.planned(*call) == {"stage3": 1, "evaluate": 1}
    done = project.snakemake(*call)
    assert done.returncode == 0, done.stdout + done.stderr

    found = json.loads((folder / "results" / "sweeps" / f"{name}.json").read_text())
    result = json.loads((folder / "results" / f"{name}.json").read_text())
    assert result["swept"] == found["budget"] and found["budget"]["trials"] == 2
    assert result["learning_rates"]["stage3"] == found["best"]["learning_rates"]
    log = (folder / "results" / "logs" / f"{name}.log").read_text()
    assert "going on from" in log and "starting over" not in log


@pytest.mark.slow
def test_the_example_in_python_runs(demo):
    page = (ROOT / "docs" / "predict.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = run(demo, [sys.executable, "-c", example])
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_notebook_runs(demo):
    notebook = json.loads((ROOT / "docs" / "look.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with_pictures = "import matplotlib; matplotlib.use('agg')\n" + "\n".join(cells)
    done = run(demo, [sys.executable, "-W", "ignore:FigureCanvasAgg", "-c", with_pictures])
    assert done.returncode == 0, done.stderr
    told = re.findall(r"^(val_0000\d.mp4) \w+ \[", done.stdout, re.MULTILINE)
    assert told == sorted(path.name for path in demo.glob("data/demo/videos/val_*"))[:8]
    assert re.search(r"^0\.0\d+ beside 0\.0\d+$", done.stdout, re.MULTILINE)


# --- MLflow's pages, as a person who compares patch sizes sees them -----------------------------


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    """Address of a server with the demo's runs, their experiment, and the runs by name."""
    store = f"sqlite:///{demo / 'results' / 'mlflow.db'}"
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("demo").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([experiment])}
    with mlflow_server(store, tmp_path_factory.mktemp("server")) as server:
        yield f"{server}/#/", experiment, found


def shown(browser, *texts):
    """Waits until a page shows all these texts, of which it draws those in view; returns all that
    it shows."""
    from selenium.webdriver.support.ui import WebDriverWait

    shares = cycle((0, 0.25, 0.5, 0.75, 1))

    def text(driver):
        return driver.execute_script("return document.body.innerText")

    def holds(driver):
        if all(one in text(driver) for one in texts):
            return True
        driver.execute_script(
            "document.querySelectorAll('div')"
            ".forEach(box => box.scrollTop = arguments[0] * box.scrollHeight)",
            next(shares),
        )
        return False

    WebDriverWait(browser, WAIT).until(holds, f"not all of {texts}")
    return text(browser)


@pytest.mark.slow
@pytest.mark.integration
def test_the_runs_page_lists_the_chains_by_name(runs, browser):
    url, experiment, found = runs
    browser.get(f"{url}experiments/{experiment}/runs")
    shown(browser, "demo backbones", *(f"demo {patch_size}" for patch_size in PATCH_SIZES))
    # The charts beside the list need no choice of columns.
    browser.get("about:blank")
    browser.get(f"{url}experiments/{experiment}/runs?compareRunsMode=CHART")
    chains = [found[f"demo {patch_size}"] for patch_size in PATCH_SIZES]
    shown(browser, "top1", *(f"{chain.data.metrics['top1']:.2f}" for chain in chains))


@pytest.mark.slow
@pytest.mark.integration
def test_the_compare_page_shows_parameters_and_accuracy_side_by_side(runs, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    url, experiment, found = runs
    chains = [found[f"demo {patch_size}"] for patch_size in PATCH_SIZES]
    browser.get(
        f"{url}compare-runs?runs={quote(json.dumps([chain.info.run_id for chain in chains]))}"
        f"&experiments={quote(json.dumps([experiment]))}"
    )
    words = shown(
        browser, f"Comparing {len(PATCH_SIZES)} Runs", "stage2.learning_rates.policy", "top5"
    ).split()
    rate = "stage2.learning_rates.policy"
    for row in (
        ["patch_size", *map(str, PATCH_SIZES)],
        [rate, *(chain.data.params[rate] for chain in chains)],
    ):
        assert any(words[at : at + len(row)] == row for at in range(len(words))), (row, words)

    def side_by_side(driver):
        """Whether accuracy is among the metrics, of which the page draws those in view."""
        driver.execute_script(
            "document.querySelectorAll('div').forEach(box => box.scrollTop = box.scrollHeight)"
        )
        text = driver.execute_script("return document.body.innerText")
        table = re.search(r"\nMetrics\nShow diff only\n(.*?)\nArtifacts\n", text, re.DOTALL)
        cells = table[1].split() if table else []
        metrics = len(cells) // (1 + len(chains))
        names, values = cells[:metrics], cells[metrics:]
        if "top1" not in names:
            return False
        at = len(chains) * names.index("top1")
        return [float(value) for value in values[at : at + len(chains)]] == [
            pytest.approx(chain.data.metrics["top1"], abs=0.01) for chain in chains
        ]

    WebDriverWait(browser, WAIT).until(side_by_side, "accuracy is not side by side")


@pytest.mark.slow
@pytest.mark.integration
def test_a_stage_2_run_shows_its_reward_curve(demo, runs, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    url, experiment, found = runs
    stage2 = found["demo_28_stage2"].info.run_id
    browser.get(f"{url}experiments/{experiment}/runs/{stage2}/model-metrics")
    shown(browser, "demo_28_stage2 (reward)")
    with (demo / "results" / "checkpoints" / "demo_28_stage2.metrics.csv").open() as file:
        rewards = [float(row["reward"]) for row in csv.DictReader(file)]

    def is_drawn(driver):
        """Whether a line of one point per epoch rises and falls as the reward does."""
        lines = driver.execute_script(
            "return [...document.querySelectorAll('.js-plotly-plot path.js-line')]"
            ".map(line => line.getAttribute('d') || '')"
        )
        for line in lines:
            heights = [-float(y) for y in re.findall(r",([\d.]+)", line)]  # pixels from the top
            if len(heights) == len(rewards) and np.corrcoef(heights, rewards)[0, 1] > 0.99:
                return True
        return False

    WebDriverWait(browser, WAIT).until(is_drawn, "no curve of the reward")


@pytest.mark.slow
@pytest.mark.integration
def test_a_contact_sheet_opens(demo, runs, browser):
    from selenium.webdriver.support.ui import WebDriverWait

    url, experiment, found = runs
    name = "demo_28_stage3_sheet.png"
    evaluation = found["demo_28_stage3_evaluation"].info.run_id
    with Image.open(demo / "results" / "plots" / name) as sheet:
        size = list(sheet.size)
    browser.get(f"{url}experiments/{experiment}/runs/{evaluation}/artifacts/{name}")
    sizes = "return [...document.images].map(i => [i.naturalWidth, i.naturalHeight])"
    WebDriverWait(browser, WAIT).until(
        lambda driver: size in driver.execute_script(sizes), "no picture of the sheet's size"
    )


# --- the rest -----------------------------------------------------------------------------------


def test_what_is_run_elsewhere_is_on_the_pages():
    assert set(ELSEWHERE) | {ON_REQUEST} <= set(COMMANDS)
    assert set(STAND_INS) <= {word for command in COMMANDS for word in command.split()}
    here = [command for command in COMMANDS if command not in ELSEWHERE]
    assert {command.split()[0] for command in here} == {"adafocus", "snakemake", "hf"}
    assert len(here) == len(set(here)), "none is told, and run, twice"


def test_no_command_stands_in_a_block_that_is_not_run():
    programs = {command.split()[0] for command in COMMANDS} | {"pip", "python", "docker", "$"}
    others = [block for language, block in BLOCKS if language != "sh"]
    lines = [line for block in others for line in block.splitlines() if line.strip()]
    assert not [line for line in lines if line.split()[0] in programs]


@pytest.mark.integration
def test_make_ui_opens_mlflow(tmp_path):
    if not (ROOT / ".venv" / "bin" / "installed").exists():
        pytest.skip("make has not made .venv in this checkout")
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    server = subprocess.Popen(
        ["make", "ui"], cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        assert "MLflow" in _page("http://127.0.0.1:5000", server)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _page(address: str, server: subprocess.Popen) -> str:
    for _ in range(90):
        assert server.poll() is None, "make ui ended"
        try:
            return urllib.request.urlopen(address, timeout=5).read().decode()
        except OSError:
            time.sleep(1)
    raise AssertionError(f"nothing answers on {address}")
