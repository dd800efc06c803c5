"""Runs in MLflow: a store that is wrong or gone is a warning and never stops the work."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from adafocus.recipe import Recipe

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's settings unless the environment has others: by default it would hold a job up for many
minutes where a server is gone."""
PASSWORD = re.compile(r"(?<=//)[^/@\s]+@")
LOCK_TIMEOUT = 120
"""Seconds to wait for the other processes that write to an SQLite store."""


@contextmanager
def run(
    tracking_uri: str,
    *,
    experiment: str,
    name: str,
    tags: Mapping[str, Any],
    parameters: Mapping[str, Any],
    recipe: Recipe,
) -> Iterator[Run]:
    """Yields a run that is finished when the block ends and failed when it raises.

    Args:
        tracking_uri: MLflow's store; the environment's ``MLFLOW_TRACKING_URI`` goes before it.
        experiment: made where it does not exist, with its artifacts beside an SQLite store or
            where a server wants them.
        name: the run's name.
        tags: those that are None are left out; the git commit is added where there is one.
        parameters: may be nested, ``{"learning_rates": {"policy": 0.1}}`` becomes
            ``learning_rates.policy``.
        recipe: logged as ``recipe.yaml``.
    """
    tracked = Run(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri)
    tracked.start(experiment, name, tags, parameters, recipe)
    try:
        yield tracked
    except BaseException:
        tracked.end("FAILED")
        raise
    tracked.end("FINISHED")


def _forgiving(method: Callable[..., None]) -> Callable[..., None]:
    """Lets a method of `Run` work alone in an SQLite store; an error is a warning.

    Where the run could not be started, nothing further is tried.
    """

    @wraps(method)
    def forgiven(self: Run, *args: Any, **kwargs: Any) -> None:
        if self._given_up:
            return
        try:
            with self._lock:
                method(self, *args, **kwargs)
        except Exception as error:
            self._given_up = self.id is None
            reason = " ".join(str(error).split()) or type(error).__name__
            message = f"MLflow's store {self._uri} cannot be used, going on: {reason}"
            logger.warning("%s", PASSWORD.sub("", message)[:400])

    return forgiven


class Run:
    """A run of an MLflow store.

    Attributes:
        id: MLflow's id of the run, None where the store could not be used.
    """

    def __init__(self, uri: str) -> None:
        self.id: str | None = None
        self._uri = uri
        self._given_up = False
        sqlite = "sqlite:///"
        self._database = Path(uri.removeprefix(sqlite)) if uri.startswith(sqlite) else None
        # MLflow makes tables without a lock, and SQLite refuses some writers that meet others.
        self._lock = (
            FileLock(f"{self._database}.lock", timeout=LOCK_TIMEOUT)
            if self._database
            else nullcontext()
        )

    @_forgiving
    def start(
        self,
        experiment: str,
        name: str,
        tags: Mapping[str, Any],
        parameters: Mapping[str, Any],
        recipe: Recipe,
    ) -> None:
        """Makes the run, and the experiment where there is none; see `run`."""
        self._client = client = self._connect()
        from mlflow.entities import Param
        from mlflow.tracking.context.registry import resolve_tags

        given = {**tags, "git_commit": git_commit()}
        given = {key: str(value) for key, value in given.items() if value is not None}
        experiment_id = self._experiment(experiment)
        created = client.create_run(experiment_id, tags=resolve_tags(given), run_name=name)
        self.id = created.info.run_id
        params = [Param(key, str(value)) for key, value in _flat(parameters).items()]
        client.log_batch(self.id, params=params)
        text = yaml.safe_dump(recipe.to_dict(), sort_keys=False)
        client.log_text(self.id, text, "recipe.yaml")

    @_forgiving
    def log_metrics(self, row: Mapping[str, float], step: int) -> None:
        """Logs all metrics of a step, such as an epoch, at once."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in row.items()]
        self._client.log_batch(self.id, metrics=metrics)

    @_forgiving
    def log_artifact(self, path: Path) -> None:
        """Keeps a copy of a file with the run."""
        self._client.log_artifact(self.id, str(path))

    @_forgiving
    def end(self, status: str) -> None:
        """Marks the run as ``FINISHED`` or ``FAILED``."""
        self._client.set_terminated(self.id, status)

    def _connect(self) -> MlflowClient:
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        if self._database:
            # MLflow would try for two minutes to open a file that is no database.
            with closing(sqlite3.connect(self._database)) as connection:
                connection.execute("PRAGMA schema_version")
        from mlflow import MlflowClient

        return MlflowClient(self._uri)

    def _experiment(self, name: str) -> str:
        """Id of the experiment of that name."""
        from mlflow.exceptions import MlflowException

        location = None
        if self._database:
            location = (self._database.parent / "mlartifacts" / name).absolute().as_uri()
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, location)
            except MlflowException:
                # On a server, another process may have made it just now.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id


def git_commit() -> str | None:
    """Commit of the checkout that holds this code, with ``-dirty`` where tracked files differ."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
