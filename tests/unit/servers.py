"""Real programs that tests start on loopback and end again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

START_TIMEOUT = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(
    command: list[str], url: str, log: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Runs a server, and what it starts, while the block lasts; yields its address.

    Args:
        command: the program and its arguments.
        url: answers when the server is up.
        log: file for what it prints.
        environment: the server's variables.
    """
    # As in an activated environment: MLflow starts programs of its own by their names alone.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**environment, "PATH": programs},
        )
        try:
            ends = time.monotonic() + START_TIMEOUT
            while True:
                try:
                    urlopen(url, timeout=5).close()
                    break
                except (URLError, ConnectionError, TimeoutError):
                    if process.poll() is not None or time.monotonic() > ends:
                        raise RuntimeError(log.read_text()) from None
                    time.sleep(0.2)
            yield url.rsplit("/", 1)[0]
        finally:
            with suppress(ProcessLookupError):  # it may have ended by itself, and all it started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def mlflow_server(store: str, folder: Path, port: int | None = None) -> Iterator[str]:
    """A tracking server that keeps its runs in ``store`` and their files in ``folder``."""
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
    command += ["--port", str(port), "--backend-store-uri", store]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    hidden = ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    url = f"http://127.0.0.1:{port}/health"
    with serving(command, url, folder / "server.log", environment) as address:
        yield address
