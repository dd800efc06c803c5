"""A store of MLflow's: its address, who may write to it, and whether it can be used."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from adafocus.tracking import internals

if TYPE_CHECKING:
    from mlflow import MlflowClient

SQLITE = "sqlite:///"
LOCK_TIMEOUT = 120
"""Seconds to wait for the other processes that write to an SQLite store."""
POSTGRESQL = "postgresql+psycopg://"
"""How an address on PostgreSQL begins, for the driver that the extra ``postgres`` brings."""
ARTIFACTS = "mlartifacts"
"""Folder of runs' files beside an SQLite store."""
LINE = 500
"""Characters of a reason that are shown."""


class TrackingError(ValueError):
    """A store that cannot take runs as it is; the message is one line that says what to do."""


class Store:
    """A store, reached when it is first asked for something.

    Args:
        tracking_uri: its address, see `chosen`.

    Attributes:
        uri: the address that was chosen.
        database: its file where it is SQLite's.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.uri = chosen(tracking_uri)
        self.database = database_of(self.uri)
        self._client: MlflowClient | None = None

    @property
    def client(self) -> MlflowClient:
        """Raises `TrackingError` where another version of MLflow made the store, or its address
        asks for a driver of PostgreSQL that is not there."""
        if self._client is None:
            internals.load_mlflow()
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            if self.database:
                # MLflow would try for two minutes to open a file that is no database.
                with closing(sqlite3.connect(self.database)) as connection:
                    connection.execute("PRAGMA schema_version")
            try:
                self._client = MlflowClient(self.uri)
            except ModuleNotFoundError as error:
                if error.name == "psycopg2":
                    raise TrackingError(
                        "its address asks for psycopg2, which is not installed: write"
                        f" {POSTGRESQL} in the place of {self.uri.partition('://')[0]}://"
                    ) from error
                if error.name == "psycopg":
                    raise TrackingError(
                        "PostgreSQL's driver is not installed: pip install 'adafocus[postgres]'"
                    ) from error
                raise
            except MlflowException as error:
                if not internals.is_of_other_version(error):
                    raise
                raise TrackingError(
                    "another version of MLflow made its tables: keep a copy of it, and run"
                    f" `mlflow db upgrade {self.uri}`; if that fails, a newer MLflow is needed"
                ) from error
        return self._client

    def alone(self) -> FileLock | nullcontext[None]:
        """MLflow makes tables without a lock, and SQLite refuses some writers that meet others."""
        return FileLock(f"{self.database}.lock", LOCK_TIMEOUT) if self.database else nullcontext()

    def alone_in(self, folder: Path) -> FileLock | nullcontext[None]:
        """Processes on a server's store meet in a folder, where their records lie."""
        return nullcontext() if self.database else FileLock(folder / ".tracking.lock", LOCK_TIMEOUT)

    def experiment_id(self, name: str) -> str:
        """Of the experiment of that name, made where there is none."""
        from mlflow.exceptions import MlflowException

        client, location = self.client, None
        if self.database:
            location = (self.database.parent / ARTIFACTS / name).absolute().as_uri()
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client.create_experiment(name, location, internals.EXPERIMENT_TAGS)
            except MlflowException:
                # On a server, another process may have made it just now.
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"its experiment {name} was deleted: `mlflow experiments restore --experiment-id"
                f" {found.experiment_id}`, with the store as MLFLOW_TRACKING_URI, brings it back;"
                " `mlflow gc` removes it for good"
            )
        if self.database and location and found.artifact_location != location:
            internals.move(self.database, found.artifact_location, location)
        return found.experiment_id

    def answers(self) -> bool:
        """Whether it can be read at all."""
        try:
            self.client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def warning(self, error: Exception) -> str:
        """One line that says why it cannot be used, for work that goes on all the same."""
        return (
            f"MLflow's store {without_password(self.uri)} cannot be used, going on:"
            f" {one_line(error)}; `adafocus sync-tracking` uploads later what it misses"
        )


def chosen(tracking_uri: str) -> str:
    """The store's address; the environment's ``MLFLOW_TRACKING_URI`` goes before a configured."""
    return os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri


def absolute(tracking_uri: str) -> str:
    """The same for processes in other folders."""
    uri = chosen(tracking_uri)
    database = database_of(uri)
    return f"{SQLITE}{database.absolute()}" if database else uri


def database_of(uri: str) -> Path | None:
    """The file of a store in SQLite; None where it is another kind of store."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def without_password(text: str) -> str:
    """A text without the user names and passwords of addresses in it."""
    return re.sub(r"(?<=//)[^/@\s]+@", "", text)


def one_line(error: Exception) -> str:
    """The reason, without passwords."""
    return without_password(" ".join(str(error).split()) or type(error).__name__)[:LINE]
