"""What MLflow has no public interface for; pyproject.toml bounds its version for this file's sake.

Nothing else in the package imports MLflow's inner modules or touches its tables.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

logger = logging.getLogger(__package__)

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's settings unless the environment has others: by default it would try for many minutes
where a server is gone."""
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Tag by which MLflow's pages show runs and models, not what is for language models."""
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)
"""Where MLflow's tables keep addresses of files."""


def load_mlflow() -> None:
    """Imports MLflow, which takes seconds, with settings that keep it from trying for long."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # It would warn of each try; there is one warning of ours.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    import mlflow.entities
    import mlflow.environment_variables
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.tracking.context.registry  # noqa: F401


def tags_of_process() -> dict[str, str]:
    """Those that MLflow's own `start_run` gives: user, program, commit."""
    from mlflow.tracking.context.registry import resolve_tags

    tags: dict[str, str] = resolve_tags()
    return tags


def is_of_other_version(error: Exception) -> bool:
    """Whether MLflow does not open a store since another version made its tables."""
    return "database schema" in str(error)


def tables_of(database: Path, timeout: float) -> Literal["as now", "older", "newer"]:
    """Whether the installed MLflow would make the tables of an SQLite store so, or an older or a
    newer one made them. Does not import MLflow, which takes seconds.

    Args:
        timeout: seconds to wait for who is writing to it.

    Raises:
        sqlite3.DatabaseError: where it is no store of MLflow's, or somebody writes for longer.
    """
    from alembic.script import ScriptDirectory

    spec = find_spec("mlflow")
    assert spec is not None and spec.origin is not None
    versions = ScriptDirectory(str(Path(spec.origin).with_name("store") / "db_migrations"))
    with closing(sqlite3.connect(database, timeout=timeout)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("its tables tell no version")
    if row[0] == versions.get_current_head():
        return "as now"
    known = {script.revision for script in versions.walk_revisions()}
    return "older" if row[0] in known else "newer"


def move(database: Path, before: str, now: str) -> None:
    """Tells an SQLite store where an experiment's files are, whose folder was moved or copied.

    Files that a person put elsewhere stay there.

    Args:
        database: the store's file.
        before: address of the files as the store knows it.
        now: where they would lie if the experiment were made today.
    """
    old, new = (Path(unquote(urlsplit(uri).path)) for uri in (before, now))
    ours = before.startswith("file:") and old.parts[-2:] == new.parts[-2:]
    old, new = old.parent, new.parent
    if not ours or not new.exists() or (old.exists() and old.samefile(new)):
        return
    logger.warning(
        "%s: was moved from %s; MLflow finds the files of %s here now",
        database,
        old.parent,
        unquote(now.rpartition("/")[2]),
    )
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in PLACES:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
            )


class MachineLoad:
    """MLflow's own measures of the machine, under the names that it gives them.

    Its thread that logs them ends for good when a store is away for a moment, and writes to an
    SQLite store without a lock; so they are only measured here, and sent with all else.
    """

    def __init__(self) -> None:
        from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        setting: Any = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
        self.interval: float = setting.get() or 10
        """Seconds between two samples."""
        self._monitors: list[Any] = []
        for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            try:
                self._monitors.append(kind())
            except Exception as error:  # MLflow raises many kinds where there is no GPU
                logger.debug("%s: %s", kind.__name__, error)
        self.sample()  # the processor's first figure is none

    def sample(self) -> dict[str, float]:
        load: dict[str, float] = {}
        for monitor in self._monitors:
            try:
                monitor.collect_metrics()
                load |= {f"system/{k}": v for k, v in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            except Exception as error:  # what a container hides, a run can do without
                logger.debug("%r: %s", monitor, error)
        return load
