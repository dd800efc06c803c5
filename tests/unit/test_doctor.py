"""What `adafocus doctor` finds, of real programs, disks and stores."""

import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from mlflow import MlflowClient

from adafocus import doctor
from adafocus.doctor import Project, examine
from adafocus.recipe import Config, load_recipe

ROOT = Path(__file__).parents[2]
DEMO = load_recipe(ROOT / "config" / "recipes" / "demo.yaml")
ACTNET = load_recipe(ROOT / "config" / "recipes" / "actnet.yaml")


@pytest.fixture
def project(tmp_path):
    """A folder with the demo's recipe and configuration."""
    (tmp_path / "config" / "recipes").mkdir(parents=True)
    shutil.copy(ROOT / "config" / "recipes" / "demo.yaml", tmp_path / "config" / "recipes")
    configure(tmp_path)
    return tmp_path


def configure(folder, **entries):
    values = {"datasets": {"demo": [28]}, "device": "cpu"} | entries
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(values))


def found(check, folder, *recipes, **entries):
    """What one check finds, as lines of ``state text``."""
    config = Config(datasets={recipe.name: recipe.patch_sizes[:1] for recipe in recipes}, **entries)
    findings = check(folder, Project(config, {recipe.name: recipe for recipe in recipes}))
    return [f"{state} {text}" for state, text in findings]


@pytest.mark.parametrize("inside", ["project", "an empty folder"])
def test_all_is_well_here(project, tmp_path_factory, inside):
    folder = project if inside == "project" else tmp_path_factory.mktemp("empty")
    before = sorted(folder.rglob("*"))
    command = [sys.executable, "-m", "adafocus", "doctor"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert all(re.match(r"(ok   |note ) \S", line) for line in lines)
    whole = " ".join(line[6:] for line in lines)
    for what in ("ffmpeg: ", "GPU", "locks: ", "MLflow: ", "disk: ", "temporary files: "):
        assert what in whole
    assert sorted(folder.rglob("*")) == before


def test_what_fails_is_said_at_the_end_too(project):
    configure(project, tracking_uri="sqlite:///broken.db")
    (project / "broken.db").write_text("not a database" * 100)
    command = [sys.executable, "-m", "adafocus", "doctor"]
    run = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert run.returncode == 1
    assert "fails MLflow: broken.db: not a store of MLflow's" in run.stdout


def test_a_wrong_configuration_does_not_end_it(project):
    configure(project, sede=1)
    first, *others = examine(project)
    assert first.state == "fails" and "'sede'" in first.text
    assert len(others) > 4


def test_a_check_that_breaks_does_not_end_the_others(project, monkeypatch):
    def broken(folder, project):
        yield from ()
        raise RuntimeError("a library\nis broken")

    monkeypatch.setattr(doctor, "CHECKS", (broken, doctor._locks))
    _, first, second = examine(project)
    assert first == ("fails", "broken: a library is broken")
    assert second.state == "ok"


# --- ffmpeg -------------------------------------------------------------------------------------


def an_ffmpeg(monkeypatch, folder, script):
    """A program that stands before the real one, and calls it as $real."""
    real = shutil.which("ffmpeg") or pytest.skip("no ffmpeg on the PATH")
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\nreal={real}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(doctor, "ffmpeg_path", lambda: str(program))
    monkeypatch.setattr("adafocus.data.ffmpeg.ffmpeg_path", lambda: str(program))


def test_an_ffmpeg_that_lacks_a_decoder(tmp_path, monkeypatch):
    without = 'case "$*" in *-decoders*|*-encoders*) $real "$@" | grep -v -e vp9 -e libx264;;'
    an_ffmpeg(monkeypatch, tmp_path, f'{without} *) exec $real "$@";; esac')
    decoders, encoders = found(doctor._ffmpeg, tmp_path)
    assert re.match(r"note ffmpeg: .* cannot read vp9: ", decoders)
    assert "no libx264" in encoders


def test_an_ffmpeg_that_knows_no_option_of_ours(tmp_path, monkeypatch):
    an_ffmpeg(
        monkeypatch,
        tmp_path,
        """case "$*" in *-fps_mode*) echo "Unrecognized option 'fps_mode'." >&2; exit 1;; esac
exec $real "$@" """,
    )
    (line,) = found(doctor._ffmpeg, tmp_path)
    assert re.match(r"fails ffmpeg: .*Unrecognized option 'fps_mode'.*install ffmpeg 4.2", line)


def test_bsdtar_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (line,) = found(doctor._bsdtar, tmp_path)
    assert re.match(r"note bsdtar: not here; .* ucf101 and hmdb51", line)
    (tmp_path / "bsdtar").write_text("#!/bin/sh\n")
    (tmp_path / "bsdtar").chmod(0o755)
    (line,) = found(doctor._bsdtar, tmp_path)
    assert line.startswith(f"ok bsdtar: {tmp_path}/bsdtar")


# --- GPUs and memory ----------------------------------------------------------------------------


def test_a_gpu_that_is_asked_for_and_not_there(two_gpus, tmp_path, monkeypatch):
    if doctor.torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    (line,) = found(doctor._gpus, tmp_path, device="cuda")
    assert re.match(r"fails GPUs: torch can use none \(.+\): let device: be auto or cpu", line)
    (line,) = found(doctor._gpus, tmp_path)
    assert line.startswith("note GPUs: torch can use none")
    (line,) = found(doctor._gpus, tmp_path, device="cpu")
    assert line.startswith("ok GPUs: not asked for")


def test_shared_memory_is_held_against_the_largest_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("adafocus.machine.shared_memory.free", lambda: 64 * 2**20)
    assert found(doctor._shared_memory, tmp_path, DEMO, device="cpu")[0].startswith("ok ")
    (line,) = found(doctor._shared_memory, tmp_path, DEMO, ACTNET, device="cpu")
    assert "0.067 GB are free in /dev/shm; a training takes up to 0.62 to load" in line
    assert line.startswith("note ") and "--shm-size" in line


# --- disks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "state"),
    [("nfs4", "nolock,hard", "note"), ("fuse.sshfs", "relatime", "note"), ("nfs4", "hard", "ok")],
)
def test_locks_that_end_at_the_machine(tmp_path, monkeypatch, kind, options, state):
    mounts = f"a / ext4 rw 0 0\nserver:/b {tmp_path} {kind} rw,{options} 0 0\n"
    monkeypatch.setattr(doctor, "_text", lambda path: mounts)
    (line,) = found(doctor._locks, tmp_path)
    assert line.startswith(f"{state} ")
    assert (f"those of {tmp_path} ({kind}) end at this machine" in line) == (state == "note")


def test_a_disk_that_cannot_be_written_to(mount):
    folder = mount("size=1m")
    mount("remount,ro")
    lines = [text for state, text in examine(folder) if state == "fails"]
    assert any("results: cannot be written" in line for line in lines)


def test_a_disk_that_is_too_small(tmp_path):
    huge = ACTNET.videos.model_copy(update={"seconds": 1e6})
    (line,) = (
        f"{state} {text}"
        for state, text in examine_disk(tmp_path, ACTNET.model_copy(update={"videos": huge}))
    )
    assert re.match(r"fails disk: .* GB of frames will come to .*actnet, .*: free ", line)
    (tmp_path / "data" / "actnet" / "splits").mkdir(parents=True)
    (tmp_path / "data" / "actnet" / "splits" / "report.json").touch()
    (finding,) = examine_disk(tmp_path, ACTNET.model_copy(update={"videos": huge}))
    assert finding.state == "ok"


def examine_disk(folder, recipe):
    return list(
        doctor._guarded(doctor._disk, folder, Project(Config(datasets={}), {"actnet": recipe}))
    )


def test_a_tmpdir_that_is_not_there(tmp_path, monkeypatch):
    assert found(doctor._temporary_files, tmp_path)[0].startswith(("ok ", "note "))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (line,) = found(doctor._temporary_files, tmp_path)
    assert (
        line == f"fails TMPDIR: {tmp_path}/nowhere cannot be written to; make it, or unset TMPDIR"
    )


def test_a_home_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found(doctor._caches, tmp_path) == [f"ok caches: {tmp_path}/.cache"]
    monkeypatch.setenv("HOME", "/proc/nohome")
    (line,) = found(doctor._caches, tmp_path)
    assert line.startswith("fails caches: /proc/nohome/.cache cannot be written to, and Snakemake")


# --- weights and MLflow -------------------------------------------------------------------------


def test_weights_that_are_cached_whole_or_in_part(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lines = found(doctor._weights, tmp_path, ACTNET)
    assert [line.startswith("note ") and "not there yet" in line for line in lines] == [True, True]
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "mobilenet_v2-b0353104.pth").write_text("<html>log in</html>")
    folder_project = Project(Config(datasets={}), {"actnet": ACTNET})
    (finding,) = doctor._guarded(doctor._weights, tmp_path, folder_project)
    assert finding.state == "fails" and "not the file that torchvision publishes" in finding.text


def test_weights_of_ones_own(tmp_path):
    glancer = ACTNET.model.glancer.model_copy(update={"pretrained": "my.pth"})
    model = ACTNET.model.model_copy(update={"glancer": glancer})
    recipe = ACTNET.model_copy(update={"model": model})
    assert any(
        line.startswith("fails weights: my.pth: no such file")
        for line in found(doctor._weights, tmp_path, recipe)
    )


def test_a_store_of_mlflows(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (line,) = found(doctor._mlflow, tmp_path)
    assert line.startswith("ok MLflow: ") and line.endswith("made by the first run")
    path = tmp_path / "results" / "mlflow.db"
    path.parent.mkdir()
    MlflowClient(f"sqlite:///{path}").search_experiments()
    (line,) = found(doctor._mlflow, tmp_path)
    assert line == f"ok MLflow: {path}: as MLflow makes it"
    for version, expected in (
        ("cc1f77228345", "of an older MLflow: `mlflow db"),
        ("f" * 12, "newer"),
    ):
        with closing(sqlite3.connect(path)) as store:
            store.execute("UPDATE alembic_version SET version_num = ?", (version,))
            store.commit()
        (line,) = found(doctor._mlflow, tmp_path)
        assert line.startswith("fails ") and expected in line
    monkeypatch.setattr(doctor, "ANSWER_TIMEOUT", 0.1)
    with closing(sqlite3.connect(path)) as store:
        store.execute("BEGIN IMMEDIATE")
        assert "another program is writing" in found(doctor._mlflow, tmp_path)[0]


class Server(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_server_of_mlflows(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        address = f"http://person:secret@{host}"
        assert found(doctor._mlflow, tmp_path, tracking_uri=address) == [
            f"ok MLflow: http://{host} answers"
        ]
        monkeypatch.setattr(Server, "status", 401)
        (line,) = found(doctor._mlflow, tmp_path, tracking_uri=address)
        assert line.startswith(f"note MLflow: http://{host}: it answers 401")
        server.shutdown()
    (line,) = found(doctor._mlflow, tmp_path, tracking_uri=address)
    assert "no answer" in line and "secret" not in line
