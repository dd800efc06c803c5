"""A Python that has imported its packages: it forks from one process what it is to run.

Snakemake, torch and MLflow take ten seconds to import, and a chain is twenty processes. `python`
is a program that does the same as Python's own. ``-m snakemake`` with the scripts of its jobs, and
``-m adafocus``, begin at once. Tests of clusters, GPUs and kills use Python's own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

START_TIMEOUT = 120
SERVERS = {
    "snakemake": ["snakemake.cli", "adafocus.data.splits", "adafocus.sweeps.space"],
    "jobs": ["adafocus.methods", "adafocus.evaluation.run", "sklearn.metrics", "torch._dynamo"]
    + ["mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking.context.registry"],
}
"""What each of both has imported when it forks: Snakemake is slower where torch is about."""


@contextmanager
def python() -> Iterator[str]:
    """Path of such a program, which runs while the block lasts."""
    # Not pytest's folder: paths of sockets must be short.
    with TemporaryDirectory(prefix="warm-") as folder:
        program = Path(folder, "python")
        libraries = os.environ.get("LD_LIBRARY_PATH", "")
        call = shlex.join([sys.executable, "-IS", __file__, "call", folder, libraries])
        program.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        program.chmod(0o755)
        servers = [
            subprocess.Popen(
                [sys.executable, __file__, "serve", folder, name], stdin=subprocess.PIPE
            )
            for name in SERVERS
        ]
        yield str(program)
        for server in servers:
            server.communicate()  # the end of its input ends it


def serve(folder: str, name: str) -> None:
    """Forks for each caller a process that waits for another, which does what it was asked for."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/{name}")
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    imported = False
    while True:
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            os._exit(0)
        if not imported:
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
            for module in SERVERS[name]:
                import_module(module)
            gc.freeze()  # what is not looked at need not be copied
            imported = True
        caller, _ = listener.accept()
        if os.fork() == 0:
            break
        caller.close()
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, *_ = socket.recv_fds(caller, 1, 3)
    arguments, where, environment = json.loads(caller.makefile().readline())
    if process := os.fork():
        caller.sendall(f"{process}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        caller.sendall(f"{status}\n".encode())
        os._exit(0)
    caller.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    # As Python opens them: those from before remember what was there.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(where)
    if name == "snakemake":
        sys.executable = f"{folder}/python"
    os._exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Does what Python does from its first line to its end; returns the exit status."""
    status = 0
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def call(folder: str, libraries: str, arguments: list[str]) -> None:
    """Ends as the process does that runs these arguments, and hands signals on to it."""
    if arguments[:2] == ["-m", "snakemake"]:
        name = "snakemake"
    elif arguments[:2] == ["-m", "adafocus"] or "/.snakemake/scripts/" in arguments[0]:
        name = "jobs"
    else:
        name = None
    # Its libraries' places are read when a program starts.
    if name is None or os.environ.get("LD_LIBRARY_PATH", "") != libraries:
        os.execv(sys.executable, [sys.executable, *arguments])
    server = socket.socket(socket.AF_UNIX)
    given_up = time.monotonic() + START_TIMEOUT
    while True:
        try:
            server.connect(f"{folder}/{name}")
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > given_up:
                raise
            time.sleep(0.1)
    socket.send_fds(server, [b"f"], [0, 1, 2])
    server.sendall(json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode() + b"\n")
    answers = server.makefile()
    process = int(answers.readline())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, _: os.kill(process, number))
    status = int(answers.readline())
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    do, folder, *others = sys.argv[1:]
    serve(folder, *others) if do == "serve" else call(folder, others[0], others[1:])
