"""MLflow's page with a login, as `make ui AUTH=1` opens it."""

import base64
import configparser
import os
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from servers import free_port, serving

from adafocus.tracking.login import make_login

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]


def status(address, login=None):
    """Of an attempt to list the experiments."""
    request = Request(f"{address}/api/2.0/mlflow/experiments/search?max_results=1")
    if login:
        request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    try:
        return urlopen(request, timeout=30).status
    except HTTPError as error:
        return error.code


def test_only_who_has_the_password_gets_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    path, _ = make_login(Path("results/login"))
    port = free_port()
    command = [sys.executable, "-m", "adafocus.tracking.login", "ui", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    password = config["mlflow"]["admin_password"]
    log = tmp_path / "server.log"
    with serving(command, f"http://127.0.0.1:{port}/health", log) as address:
        assert status(address) == 401
        assert status(address, "admin:password1234") == 401
        assert status(address, "adafocus:wrong") == 401
        assert status(address, f"adafocus:{password}") == 200
    assert str(path) in log.read_text()
    assert password not in log.read_text()


def test_the_password_is_drawn_once_and_for_its_owner_alone(tmp_path):
    folder = tmp_path / "login"
    path, key = make_login(folder)
    assert (folder.stat().st_mode & 0o777, path.stat().st_mode & 0o777) == (0o700, 0o600)
    text = path.read_text()
    assert make_login(folder) == (path, key)
    assert path.read_text() == text
    assert make_login(tmp_path / "other")[1] != key
    for one in (path, folder):
        mode = one.stat().st_mode
        os.chmod(one, 0o750)
        with pytest.raises(ValueError, match="not for your eyes alone: delete it"):
            make_login(folder)
        os.chmod(one, mode)
