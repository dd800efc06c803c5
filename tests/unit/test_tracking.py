"""Against real MLflow stores in SQLite."""

import ast
import getpass
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import ViewType
from typer.testing import CliRunner

from adafocus import tracking
from adafocus.cli import app
from adafocus.recipe import load_recipe, parse_recipe
from adafocus.tracking import record
from adafocus.tracking.chain import flat
from adafocus.training.progress import write_history

RECIPE_FILE = Path(__file__).parents[2] / "config" / "recipes" / "demo.yaml"
RECIPE = load_recipe(RECIPE_FILE)
CHAIN = tracking.Chain.of(RECIPE, 40, seed=3)
ROWS = [
    {"epoch": 1, "loss": 2.0, "reward": 0.1, "seconds": 60.0},
    {"epoch": 2, "loss": 1.5, "reward": 0.2, "seconds": 30.0},
]


@pytest.fixture
def facts(tmp_path):
    return facts_in(tmp_path)


def facts_in(folder):
    """What every run of these tests is told alike."""
    return {
        "record": folder / "runs" / "demo_40_stage2.run.json",
        "experiment": "demo",
        "name": "demo_40_stage2",
        "chain": CHAIN,
        "recipe": RECIPE,
    }


def described(store):
    """All that a store holds of the experiment, as one can compare it."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("demo")
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    return {
        run.info.run_id: (
            run.info.run_name,
            run.info.status,
            run.info.end_time,
            run.data.params,
            {k: v for k, v in run.data.tags.items() if k != "mlflow.source.name"},
            {
                key: [(m.step, m.timestamp, m.value) for m in history]
                for key in run.data.metrics
                if not key.startswith("system/")
                for history in [client.get_metric_history(run.info.run_id, key)]
            },
            sorted(file.path for file in client.list_artifacts(run.info.run_id)),
            [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs],
            [one.model_id for one in (run.outputs.model_outputs if run.outputs else [])],
        )
        for run in runs
    }


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


def test_a_run_says_what_it_was_and_how_it_went(store, tmp_path, facts):
    figure = tmp_path / "curves.svg"
    figure.write_text("<svg/>")
    history = tmp_path / "runs" / "demo_40_stage2.metrics.csv"
    with tracking.run(
        store,
        tags={"dataset": "demo", "patch_size": 40, "stage": "stage2", "absent": None},
        parameters={"seed": 3, "learning_rates": {"policy": 0.01}},
        datasets=[tracking.dataset(RECIPE, "train", tmp_path, "0123" * 16, videos=9)],
        history=history,
        **facts,
    ) as run:
        write_history(ROWS, history)
        run.epoch_done()
        run.add_artifacts(figure)
        run.add_figures({"best_val_top1": 50.0}, {"stage2_val_top1": 50.0})
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
    times = [metric.timestamp - logged.info.start_time for metric in losses]
    assert times == [60_000, 90_000]
    assert logged.data.metrics["reward"] == 0.2
    assert logged.data.metrics["best_val_top1"] == 50
    assert "epoch" not in logged.data.metrics
    assert logged.data.metrics["system/system_memory_usage_megabytes"] > 100
    [read] = logged.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("demo train", "0123" * 8)
    assert json.loads(read.dataset.profile) == {"videos": 9, "classes": RECIPE.classes}
    assert read.tags[0].value == "training"

    kept = tmp_path / "mlartifacts" / "demo" / run.id / "artifacts"
    assert (kept / "curves.svg").read_text() == "<svg/>"
    assert parse_recipe(yaml.safe_load((kept / "recipe.yaml").read_text()), "logged") == RECIPE


def test_an_epoch_without_a_validation_logs_none(store, tmp_path, facts):
    history = tmp_path / "runs" / "demo_40_stage2.metrics.csv"
    rows = [ROWS[0], ROWS[1] | {"val_top1": 50.0}, ROWS[1] | {"epoch": 3}]
    with tracking.run(store, tags={}, parameters={}, history=history, **facts) as run:
        write_history(rows, history)
    client = MlflowClient(store)
    validated = client.get_metric_history(run.id, "val_top1")
    assert [(metric.step, metric.value) for metric in validated] == [(2, 50.0)]
    assert len(client.get_metric_history(run.id, "loss")) == 3


def test_a_run_that_raises_has_failed(store, facts):
    with (
        pytest.raises(ZeroDivisionError),
        tracking.run(store, tags={}, parameters={}, **facts) as run,
    ):
        raise ZeroDivisionError
    assert MlflowClient(store).get_run(run.id).info.status == "FAILED"


def test_runs_of_a_chain_hang_under_a_parent_that_says_how_it_ended(store, tmp_path, facts):
    parents = set()
    client = MlflowClient(store)
    for stage in ("stage2", "stage3"):
        facts |= {"name": f"demo_40_{stage}", "record": tmp_path / f"{stage}.run.json"}
        tags = {"dataset": "demo", "patch_size": 40, "stage": stage, "seed": 1}
        with tracking.run(store, tags=tags, parameters={}, **facts) as run:
            run.add_figures({}, {f"{stage}_val_top1": 50.0})
            parent = client.get_run(client.get_run(run.id).data.tags["mlflow.parentRunId"])
            assert parent.info.status == "RUNNING"
        parents.add(parent.info.run_id)
    [parent] = map(client.get_run, parents)
    assert (parent.info.run_name, parent.info.status) == ("demo 40", "FINISHED")
    assert parent.data.metrics == {"stage2_val_top1": 50, "stage3_val_top1": 50}
    assert parent.data.params == CHAIN.parameters
    rate = str(RECIPE.stages["stage2"].learning_rates["policy"])
    assert parent.data.params["stage2.learning_rates.policy"] == rate
    assert parent.data.params | {"seed": "3", "patch_size": "40"} == parent.data.params
    assert {key: parent.data.tags[key] for key in ("dataset", "patch_size", "kind")} == {
        "dataset": "demo",
        "patch_size": "40",
        "kind": "chain",
    }


def test_recipes_that_extend_one_another_are_of_one_experiment(tmp_path):
    variant = load_recipe(RECIPE_FILE.with_name("demo-gamma9.yaml"))
    told, plain = (
        tracking.identity(recipe, 28, "stage2", "training", 0) for recipe in (variant, RECIPE)
    )
    assert told["experiment"] == plain["experiment"] == "demo"
    assert (told["tags"]["dataset"], told["tags"]["recipe"]) == ("demo", "demo-gamma9")
    other = tracking.identity(RECIPE, 28, "stage2", "training", 1)
    assert (told["tags"]["seed"], other["tags"]["seed"]) == (0, 1)
    assert other["chain"].parameters["seed"] == "1", "what Compare shows"
    assert (told["chain"].name, plain["chain"].name) == ("demo-gamma9 28", "demo 28")
    parameters = (identity["chain"].parameters.items() for identity in (told, plain))
    assert set.symmetric_difference(*map(set, parameters)) == {
        ("stage2.gamma", "0.9"),
        ("stage2.gamma", "0.2"),
    }
    names = {
        tracking.dataset(recipe, "val", tmp_path, "0", 1)["name"] for recipe in (variant, RECIPE)
    }
    assert names == {"demo val"}


def test_a_chain_is_of_one_patch_size_seed_and_recipe():
    values = RECIPE.to_dict()
    values["stages"]["stage3"]["epochs"] += 1
    changed = parse_recipe(values, "changed")
    of = tracking.Chain.of
    keys = {of(RECIPE, 40, 3).key, of(RECIPE, 28, 3).key, of(RECIPE, 40, 4).key}
    assert len(keys | {of(changed, 40, 3).key, of(RECIPE, None, 3).key}) == 5
    assert of(RECIPE, 40, 3) == CHAIN
    # Stage 0 is not trained again for another stage 3.
    assert of(changed, None, 3) == of(RECIPE, None, 3)
    assert of(RECIPE, None, 3).name == "demo backbones"


def test_mlflow_is_told_todays_words_under_the_key_that_a_chain_had(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    told = tracking.Chain.of(RECIPE, 40, seed=3)
    values = RECIPE.to_dict()
    written = values["stages"] | {key: values[key] for key in ("model", "augmentation")}
    parameters = flat({"patch_size": 40, "seed": 3, **written})
    assert {"model.family", "stage2.passes", "stage2.discount"} <= parameters.keys()
    facts = json.dumps([told.name, "somebody", parameters], sort_keys=True)
    assert told.key == hashlib.sha256(facts.encode()).hexdigest()[:32]
    assert not {"model.family", "stage2.passes", "stage2.discount"} & told.parameters.keys()
    found = {k: told.parameters[k] for k in ("model.policy.kind", "stage2.gamma", "model.shift")}
    assert found == {"model.policy.kind": "grid", "stage2.gamma": "0.2", "model.shift": "False"}


def test_a_run_that_goes_on_is_the_same_run(store, tmp_path, facts):
    history, resume = tmp_path / "runs" / "x.metrics.csv", tmp_path / "runs" / "x.resume.pt"
    facts |= {"history": history, "resume": resume, "tags": {}, "parameters": {"seed": 0}}

    def go(fingerprint, rows):
        with tracking.run(store, fingerprints=[fingerprint], **facts) as run:
            known = history.exists()
            for count in range(1, len(rows) + 1):
                write_history(rows[:count], history)
                run.epoch_done()
            resume.touch()
        return run.id, known

    first, _ = go("a", ROWS[:1])
    again, known = go("a", ROWS)
    assert again == first and known
    losses = MlflowClient(store).get_metric_history(first, "loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 2.0), (2, 1.5)]
    assert MlflowClient(store).get_run(first).info.status == "FINISHED"

    # Resumed under a recipe whose later stages are others, it moves to their chain.
    facts["chain"] = other_chain = tracking.Chain.of(RECIPE, 40, seed=4)
    assert go("a", ROWS)[0] == first
    client = MlflowClient(store)
    parent = client.get_run(client.get_run(first).data.tags["mlflow.parentRunId"])
    assert parent.data.tags["adafocus.chain"] == other_chain.key

    other, known = go("b", ROWS)
    assert other != first and not known
    # As if it were trained again from the start.
    resume.unlink()
    assert go("b", ROWS)[0] not in (first, other)


def test_the_environment_goes_before_the_configuration(store, tmp_path, monkeypatch, facts):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    other = tmp_path / "other.db"
    with tracking.run(f"sqlite:///{other}", tags={}, parameters={}, **facts) as run:
        pass
    assert MlflowClient(store).get_run(run.id).info.run_name == "demo_40_stage2"
    assert not other.exists()


def test_runs_share_an_experiment(store, facts):
    ids = []
    for _ in range(2):
        with tracking.run(store, tags={}, parameters={}, **facts) as run:
            ids.append(run.id)
    client = MlflowClient(store)
    assert len({client.get_run(one).info.experiment_id for one in ids}) == 1


@pytest.mark.parametrize("broken", ["no database", "no folder", "no server", "no such kind"])
def test_a_store_that_cannot_be_used_is_one_warning(broken, tmp_path, monkeypatch, caplog, facts):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    text = tmp_path / "text.db"
    text.write_text("no database at all" * 100)
    uri = {
        "no database": f"sqlite:///{text}",
        "no folder": f"sqlite:///{text}/mlflow.db",
        "no server": "http://user:secret@127.0.0.1:9",
        "no such kind": "nonsense://here",
    }[broken]
    with tracking.run(uri, tags={}, parameters={}, **facts) as run:
        assert run.id is None
        run.epoch_done()
        run.add_artifacts(text)
    [line] = warnings(caplog)
    assert uri.replace("user:secret@", "") in line
    assert "secret" not in line


def test_a_machine_without_mlflow_is_one_warning(monkeypatch, caplog, facts):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with tracking.run("sqlite:///never.db", tags={}, parameters={}, **facts) as run:
        run.epoch_done()
        run.add_figures({"best_val_top1": 50.0})
    [warning] = [record for record in caplog.records if record.name == "adafocus.tracking"]
    assert "mlflow" in warning.message
    kept = tracking.Record.read(facts["record"])
    assert (kept.status, kept.figures) == ("FINISHED", {"best_val_top1": 50.0})


def test_a_store_that_goes_away_does_not_stop_the_run(store, tmp_path, caplog, facts):
    with tracking.run(store, tags={}, parameters={}, **facts) as run:
        run.epoch_done()
        (tmp_path / "mlflow.db").write_text("gone" * 1000)
        run.epoch_done()
    assert run.id is not None
    assert "going on" in caplog.text


PROCESS = """
import sys
from pathlib import Path
from adafocus import tracking
from adafocus.recipe import load_recipe
from adafocus.training.progress import write_history

recipe, history = load_recipe(Path(sys.argv[2])), Path(sys.argv[4], sys.argv[3] + ".metrics.csv")
with tracking.run(
    sys.argv[1],
    record=Path(sys.argv[4], sys.argv[3] + ".run.json"),
    experiment="demo",
    name=sys.argv[3],
    chain=tracking.Chain.of(recipe, 28, 0),
    tags={"stage": "stage1"},
    parameters={"seed": 0},
    recipe=recipe,
    history=history,
) as run:
    rows = []
    for step in range(20):
        rows.append({"epoch": step + 1, "loss": 1 / (1 + step), "seconds": 1.0})
        write_history(rows, history)
        run.epoch_done()
"""


def run_at_once(store, folder, count=4):
    """Processes that start together and log to one store; returns what they hung under."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, store, str(RECIPE_FILE), f"run {number}", str(folder)],
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
    [parent] = [run for run in runs if run.info.run_name == "demo 28"]
    runs.remove(parent)
    assert sorted(run.info.run_name for run in runs) == [f"run {n}" for n in range(count)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params == {"seed": "0"}
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 20
    return parent


@pytest.mark.slow
def test_processes_that_start_at_once_on_no_store_lose_nothing(tmp_path):
    run_at_once(f"sqlite:///{tmp_path}/results/mlflow.db", tmp_path)


def test_git_commit_tells_a_clean_checkout_from_a_changed_one(tmp_path, monkeypatch):
    code = tmp_path / "code.py"
    monkeypatch.setattr(record, "__file__", str(code))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracking.git_commit() is None

    def git(*arguments):
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", "-C", tmp_path, *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code.write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1", "-m", "v1")
    commit = git("rev-parse", "HEAD")
    assert tracking.git_commit() == commit
    code.write_text("2\n")
    assert tracking.git_commit() == f"{commit}-dirty"
    unpacked = tmp_path / "adafocus-1.0" / "code.py"
    unpacked.parent.mkdir()
    unpacked.write_text("1\n")
    monkeypatch.setattr(record, "__file__", str(unpacked))
    assert tracking.git_commit() is None, "it is another project's commit"


def warnings(caplog):
    return [record.message for record in caplog.records if record.name == "adafocus.tracking"]


def test_a_deleted_experiment_is_one_warning_and_what_it_missed_comes_later(
    store, tmp_path, facts, caplog
):
    facts |= {"tags": {}, "parameters": {}}
    client = MlflowClient(store)
    with tracking.run(store, **facts) as run:
        experiment = client.get_run(run.id).info.experiment_id
        client.delete_experiment(experiment)
        run.add_figures({"top1": 50.0})
    with tracking.run(store, **facts | {"record": tmp_path / "other.run.json"}):
        pass
    for line in warnings(caplog):
        assert (
            "going on: its experiment demo was deleted: `mlflow experiments restore --experi"
            in line
        )
    assert len(warnings(caplog)) == 2, "one for each run"
    caplog.clear()
    assert tracking.sync(tmp_path, store) == (2, 0, 2)
    [line] = warnings(caplog)
    assert line.startswith("left out demo_40_stage2, demo_40_stage2: its experiment demo was")
    command = [shutil.which("mlflow", path=Path(sys.executable).parent), "experiments", "restore"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": store}
    subprocess.run([*command, "--experiment-id", experiment], check=True, env=environment)
    assert tracking.sync(tmp_path, store) == (2, 2, 0)
    assert {one[1] for one in described(store).values()} == {"FINISHED"}


def test_a_run_that_is_deleted_while_it_goes_on_is_made_anew(store, facts, caplog):
    client = MlflowClient(store)
    with tracking.run(store, tags={}, parameters={}, **facts) as run:
        first = run.id
        client.delete_run(first)
        run.add_figures({"top1": 50.0})
    assert warnings(caplog) == []
    assert run.id != first
    assert client.get_run(run.id).data.metrics["top1"] == 50


@pytest.mark.parametrize("copied", [False, True])
def test_a_folder_that_was_moved_takes_its_runs_along(store, tmp_path, caplog, copied):
    before, now = tmp_path / "before it moved", tmp_path / "now"
    before.mkdir()
    (tmp_path / "mlflow.db").rename(before / "mlflow.db")

    def run_in(folder):
        address = f"sqlite:///{folder}/mlflow.db"
        facts = facts_in(folder) | {"record": folder / f"{folder.name}.run.json"}
        figure = folder / "curves.svg"
        figure.write_text(folder.name)
        with tracking.run(address, tags={}, parameters={}, **facts) as run:
            run.add_artifacts(figure)
        return run.id, MlflowClient(address)

    first, _ = run_in(before)
    shutil.copytree(before, now) if copied else before.rename(now)
    second, client = run_in(now)
    [line] = warnings(caplog)
    assert f"now/mlflow.db: was moved from {before}" in line
    for run_id, text in ((first, before.name), (second, now.name)):
        assert client.get_run(run_id).info.artifact_uri.startswith(now.as_uri())
        kept = Path(client.download_artifacts(run_id, "curves.svg"))
        assert kept.read_text() == text
    assert before.exists() == copied
    assert not copied or not (before / "mlartifacts" / "demo" / second).exists()


def test_a_store_of_another_version_of_mlflow_is_one_warning_that_says_what_to_do(
    store, tmp_path, facts, caplog
):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0584bdc529eb'")
    with tracking.run(store, tags={}, parameters={}, **facts) as run:
        run.add_figures({"top1": 50.0})
    [line] = warnings(caplog)
    assert f"`mlflow db upgrade {store}`" in line and "keep a copy" in line
    with pytest.raises(ValueError, match=r"cannot be used for demo_40.*`mlflow db upgrade"):
        tracking.sync(tmp_path, store)


def test_one_unreadable_record_among_many_is_left_out(store, tmp_path, facts, caplog):
    with tracking.run("http://127.0.0.1:9", tags={}, parameters={}, **facts):
        pass
    broken = tmp_path / "runs" / "a.run.json"
    broken.write_text("{")
    caplog.clear()
    done = CliRunner().invoke(app, ["sync-tracking", str(tmp_path), "--tracking-uri", store])
    assert done.exit_code == 1
    assert "2 runs, of which MLflow lacked something of 1" in done.output
    assert "Error: 1 of 2 runs could not be uploaded" in done.output
    [line] = warnings(caplog)
    assert line.startswith(f"left out a.run.json: {broken}: not the record of a run")
    assert "delete it" in line


def test_importing_tracking_leaves_mlflow_alone():
    code = "import sys, adafocus.tracking; print('mlflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_mlflows_inner_modules_are_used_in_one_file_alone():
    public = {"mlflow", "mlflow.entities", "mlflow.exceptions", "mlflow.models", "mlflow.pyfunc"}
    package = Path(tracking.__file__).parents[1]
    users = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                if name.split(".")[0] == "mlflow" and name not in public | {"mlflow.types"}:
                    users.add(path.relative_to(package).as_posix())
    assert users == {"tracking/internals.py"}


def test_a_clock_that_goes_backwards_does_not_end_a_run_before_it_began(
    store, tmp_path, facts, monkeypatch
):
    history = tmp_path / "runs" / "demo_40_stage2.metrics.csv"
    now = time.time
    with tracking.run(store, tags={}, parameters={}, history=history, **facts) as run:
        monkeypatch.setattr(time, "time", lambda: now() - 3600)
        write_history(ROWS, history)
        run.epoch_done()
    ended = MlflowClient(store).get_run(run.id)
    assert ended.info.status == "FINISHED"
    assert ended.info.end_time >= ended.info.start_time
    assert ended.data.metrics["loss"] == 1.5
