"""Against real MLflow stores in SQLite."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from adafocus import tracking
from adafocus.recipe import load_recipe, parse_recipe

RECIPE_FILE = Path(__file__).parents[2] / "config" / "recipes" / "demo.yaml"
RECIPE = load_recipe(RECIPE_FILE)
FACTS = {"experiment": "demo", "name": "demo_40_stage2", "recipe": RECIPE}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A store with its tables made, which takes seconds."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{database}")
    return database


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """Address of an empty store of a test's own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def test_a_run_says_what_it_was_and_how_it_went(store, tmp_path):
    figure = tmp_path / "curves.svg"
    figure.write_text("<svg/>")
    with tracking.run(
        store,
        tags={"dataset": "demo", "patch_size": 40, "stage": "stage2", "absent": None},
        parameters={"seed": 3, "learning_rates": {"policy": 0.01}},
        **FACTS,
    ) as run:
        run.log_metrics({"loss": 2.0, "reward": 0.1}, step=1)
        run.log_metrics({"loss": 1.5, "reward": 0.2}, step=2)
        run.log_artifact(figure)
        client = MlflowClient(store)
        assert client.get_run(run.id).info.status == "RUNNING"

    logged = client.get_run(run.id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "demo_40_stage2"
    assert client.get_experiment(logged.info.experiment_id).name == "demo"
    assert logged.data.params == {"seed": "3", "learning_rates.policy": "0.01"}
    tags = logged.data.tags
    assert (tags["dataset"], tags["patch_size"], tags["stage"]) == ("demo", "40", "stage2")
    assert "absent" not in tags
    assert "mlflow.user" in tags
    losses = client.get_metric_history(run.id, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 2.0), (2, 1.5)]
    assert logged.data.metrics["reward"] == 0.2

    kept = tmp_path / "mlartifacts" / "demo" / run.id / "artifacts"
    assert (kept / "curves.svg").read_text() == "<svg/>"
    assert parse_recipe(yaml.safe_load((kept / "recipe.yaml").read_text()), "logged") == RECIPE


def test_a_run_that_raises_has_failed(store):
    with (
        pytest.raises(ZeroDivisionError),
        tracking.run(store, tags={}, parameters={}, **FACTS) as run,
    ):
        raise ZeroDivisionError
    assert MlflowClient(store).get_run(run.id).info.status == "FAILED"


def test_the_environment_goes_before_the_configuration(store, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    other = tmp_path / "other.db"
    with tracking.run(f"sqlite:///{other}", tags={}, parameters={}, **FACTS) as run:
        pass
    assert MlflowClient(store).get_run(run.id).info.run_name == "demo_40_stage2"
    assert not other.exists()


def test_runs_share_an_experiment(store):
    ids = []
    for _ in range(2):
        with tracking.run(store, tags={}, parameters={}, **FACTS) as run:
            ids.append(run.id)
    client = MlflowClient(store)
    assert len({client.get_run(one).info.experiment_id for one in ids}) == 1


@pytest.mark.parametrize("broken", ["no database", "no folder", "no server", "no such kind"])
def test_a_store_that_cannot_be_used_is_one_warning(broken, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = tmp_path / "text.db"
    text.write_text("no database at all" * 100)
    uri = {
        "no database": f"sqlite:///{text}",
        "no folder": f"sqlite:///{text}/mlflow.db",
        "no server": "http://user:secret@127.0.0.1:9",
        "no such kind": "nonsense://here",
    }[broken]
    with tracking.run(uri, tags={}, parameters={}, **FACTS) as run:
        assert run.id is None
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_artifact(text)
    [record] = [record for record in caplog.records if record.name == "adafocus.tracking"]
    assert uri.replace("user:secret@", "") in record.message
    assert "secret" not in record.message


def test_a_store_that_goes_away_does_not_stop_the_run(store, tmp_path, caplog):
    with tracking.run(store, tags={}, parameters={}, **FACTS) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        (tmp_path / "mlflow.db").write_text("gone" * 1000)
        run.log_metrics({"loss": 0.5}, step=2)
    assert run.id is not None
    assert "going on" in caplog.text


PROCESS = """
import sys
from pathlib import Path
from adafocus import tracking
from adafocus.recipe import load_recipe

recipe = load_recipe(Path(sys.argv[2]))
with tracking.run(
    sys.argv[1],
    experiment="demo",
    name=sys.argv[3],
    tags={"stage": "stage1"},
    parameters={"seed": 0},
    recipe=recipe,
) as run:
    for step in range(20):
        run.log_metrics({"loss": 1 / (1 + step), "reward": 0.0}, step)
"""


def test_processes_that_start_at_once_on_no_store_lose_nothing(tmp_path):
    count = 8
    store = f"sqlite:///{tmp_path}/results/mlflow.db"
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, store, str(RECIPE_FILE), f"run {number}"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert "cannot be used" not in errors

    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    assert sorted(run.info.run_name for run in runs) == [f"run {n}" for n in range(count)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params == {"seed": "0"}
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 20


def test_git_commit_tells_a_clean_checkout_from_a_changed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "tracking.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracking.git_commit() is None

    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", tmp_path, *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "code.py").write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1", "-m", "v1")
    commit = git("rev-parse", "HEAD")
    assert tracking.git_commit() == commit
    (tmp_path / "code.py").write_text("2\n")
    assert tracking.git_commit() == f"{commit}-dirty"


def test_importing_tracking_leaves_mlflow_alone():
    code = "import sys, adafocus.tracking; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
