"""Against real tracking servers: one that goes away, one that hangs, one on PostgreSQL."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
from mlflow import MlflowClient
from noise import tiny_recipe
from servers import free_port, mlflow_server
from test_tracking import RECIPE, ROWS, described, facts_in, run_at_once
from typer.testing import CliRunner

from adafocus import tracking
from adafocus.cli import app
from adafocus.model import checkpoint
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint
from adafocus.tracking import internals, runs
from adafocus.training.progress import write_history

pytestmark = pytest.mark.integration


@pytest.fixture
def facts(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return facts_in(tmp_path) | {
        "tags": {"stage": "stage2"},
        "parameters": {"seed": 3},
        "datasets": [tracking.dataset(RECIPE, "val", tmp_path, "0123" * 16, videos=9)],
        "history": tmp_path / "runs" / "demo_40_stage2.metrics.csv",
    }


def sync(folder, store):
    return CliRunner().invoke(app, ["sync-tracking", str(folder), "--tracking-uri", store])


def test_what_a_server_missed_is_uploaded_once(tmp_path, caplog, facts):
    store, port, history = f"sqlite:///{tmp_path}/server.db", free_port(), facts["history"]
    (tmp_path / "runs").mkdir()
    figure = tmp_path / "curves.svg"
    figure.write_text("<svg/>")
    with mlflow_server(store, tmp_path, port) as server:
        run = tracking.run(server, **facts)
        tracked = run.__enter__()
        write_history(ROWS[:1], history)
        tracked.epoch_done()
        client = MlflowClient(server)
        deadline = time.monotonic() + 30
        while "loss" not in client.get_run(tracked.id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    write_history(ROWS, history)
    tracked.epoch_done()
    tracked.add_artifacts(figure)
    tracked.add_figures({"best_val_top1": 50.0}, {"stage2_val_top1": 50.0})
    run.__exit__(None, None, None)
    [warning] = [record for record in caplog.records if record.name == "adafocus.tracking"]
    assert f"{server} cannot be used, going on" in warning.message
    assert "sync-tracking" in warning.message

    refused = sync(tmp_path, server)
    assert refused.exit_code == 1
    assert refused.output.startswith(f"Error: MLflow's store {server} cannot be used for demo_40")
    with mlflow_server(store, tmp_path, port) as server:
        assert MlflowClient(server).get_run(tracked.id).info.status == "RUNNING"
        assert "1 runs, of which MLflow lacked something of 1" in sync(tmp_path, server).output
        once = described(server)
        assert "1 runs, of which MLflow lacked something of 0" in sync(tmp_path, server).output
        assert described(server) == once
        # As if the first had been cut off before its end.
        MlflowClient(server).set_tag(tracked.id, "adafocus.state", "another")
        assert "lacked something of 1" in sync(tmp_path, server).output
        assert described(server) == once
        assert len(once) == 2
        name, status, *_, metrics, files, _, _ = once[tracked.id]
        assert (name, status) == ("demo_40_stage2", "FINISHED")
        assert [(step, value) for step, _, value in metrics["loss"]] == [(1, 2.0), (2, 1.5)]
        assert [(step, value) for step, _, value in metrics["best_val_top1"]] == [(2, 50.0)]
        assert files == ["curves.svg", "recipe.yaml"]

    # A store that has never heard of the run gets all of it.
    other = f"sqlite:///{tmp_path}/other.db"
    assert "lacked something of 1" in sync(tmp_path, other).output
    assert len(described(other)) == 2


def test_a_model_that_a_server_missed_is_uploaded_once(tmp_path, monkeypatch, caplog, facts):
    recipe = tiny_recipe("gru")
    path = tmp_path / "tiny_32_stage3.safetensors"
    tensors = build(recipe, 32).state_dict()
    checkpoint.write(path, Checkpoint(tensors, recipe, "stage3", 32, ("a",) * recipe.classes))
    changed = tmp_path / "changed.safetensors"
    shutil.copy(path, changed)
    for model in (path, changed):
        facts |= {"record": tmp_path / f"{model.stem}.run.json", "history": None}
        with tracking.run("http://127.0.0.1:9", **facts) as run:
            run.add_figures({"top1": 50.0}, {"top1": 50.0})
            run.add_model(model, checkpoint.sha256(model))
    changed.write_bytes(b"another")
    with mlflow_server(f"sqlite:///{tmp_path}/server.db", tmp_path) as server:
        assert "lacked something of 2" in sync(tmp_path, server).output
        assert f"{changed}: is not what was evaluated" in caplog.text
        once = described(server)
        assert "lacked something of 0" in sync(tmp_path, server).output
        client = MlflowClient(server)
        for run_id in once:
            client.delete_tag(run_id, "adafocus.state") if once[run_id][8] else None
        assert "lacked something of 1" in sync(tmp_path, server).output
        assert described(server) == once
        [(run_id, model_id)] = [(run_id, *one[8]) for run_id, one in once.items() if one[8]]
        assert client.get_logged_model(model_id).status == "READY"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
        loaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/{path.stem}")
        size, frames = recipe.model.frame_size, recipe.model.frames
        assert len(loaded.predict(np.zeros((2, frames, 3, size, size), np.uint8))) == 2


def test_a_folder_without_runs_is_an_error(tmp_path):
    refused = sync(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    assert refused.exit_code == 1
    assert "holds no record of a run" in refused.output


def test_a_server_that_hangs_holds_nothing_up(tmp_path, monkeypatch, caplog, facts):
    monkeypatch.setattr(runs, "START_PATIENCE", 1)
    monkeypatch.setattr(runs, "END_PATIENCE", 1)
    internals.load_mlflow()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with tracking.run(uri, **facts) as run:
            began = time.monotonic()
            for _ in range(100):
                run.epoch_done()
            assert time.monotonic() - began < 0.1
        assert time.monotonic() - started < 5
    [warning] = [record for record in caplog.records if record.name == "adafocus.tracking"]
    assert "it takes too long" in warning.message


@pytest.mark.parametrize(
    ("address", "driver", "told"),
    [
        ("postgresql", "psycopg2", "write postgresql+psycopg:// in the place of postgresql://"),
        ("postgresql+psycopg2", "psycopg2", "in the place of postgresql+psycopg2://"),
        ("postgresql+psycopg", "psycopg", "pip install 'adafocus[postgres]'"),
    ],
)
def test_a_driver_that_is_not_there_is_one_line(monkeypatch, caplog, facts, address, driver, told):
    monkeypatch.setitem(sys.modules, driver, None)
    with tracking.run(f"{address}://me:secret@127.0.0.1:9/runs", **facts):
        pass
    [warning] = [record for record in caplog.records if record.name == "adafocus.tracking"]
    assert told in warning.message and "secret" not in warning.message


def postgres_programs():
    """Folder of PostgreSQL's programs; Debian keeps them off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


@contextmanager
def postgres(folder):
    """Address of an empty database in a cluster of its own on loopback."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install adafocus[postgres]")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs: Debian package postgresql")
    # PostgreSQL does not run as root.
    user = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
    cluster, log, port = folder / "cluster", folder / "postgres.log", free_port()
    cluster.mkdir()
    if user:
        shutil.chown(cluster, user["user"], user["group"])
        for above in folder.parents:
            if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
        folder.chmod(0o711)

    def run(program, *arguments, **options):
        command = [str(programs / program), *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, cwd=cluster, **options)

    run("initdb", "-D", cluster, "-U", "adafocus", "-A", "trust", "-E", "UTF8", "-N", **user)
    command = [programs / "postgres", "-D", cluster, "-p", str(port), "-k", cluster, "-F"]
    command += ["-c", "listen_addresses=127.0.0.1"]
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=cluster, stdout=output, stderr=output, **user)
    address = ("-h", "127.0.0.1", "-p", port, "-U", "adafocus")
    try:
        for _ in range(100):
            ready = subprocess.run([programs / "pg_isready", *map(str, address)])
            if ready.returncode == 0:
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        run("createdb", *address, "mlflow")
        yield f"postgresql+psycopg://adafocus@127.0.0.1:{port}/mlflow"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_a_team_shares_a_server_on_postgresql(tmp_path, facts):
    with postgres(tmp_path) as store, mlflow_server(store, tmp_path) as server:
        (tmp_path / "runs").mkdir()
        run_at_once(server, tmp_path / "runs")
        first = described(server)
        done = sync(tmp_path, server)
        assert "4 runs, of which MLflow lacked something of 0" in done.output
        assert described(server) == first
        [files] = {tuple(one[6]) for one in first.values() if one[0] != "demo 28"}
        assert files == ("recipe.yaml",)
