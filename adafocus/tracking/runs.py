"""A run that is written down, and uploaded by a thread, while it goes on."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from adafocus.tracking import internals
from adafocus.tracking.chain import Chain, flat
from adafocus.tracking.record import Record, Status, git_commit, now, to_go_on
from adafocus.tracking.store import LOCK_TIMEOUT, Store
from adafocus.tracking.upload import Upload

if TYPE_CHECKING:
    from adafocus.recipe import Recipe

logger = logging.getLogger(__package__)

START_PATIENCE, END_PATIENCE, MODEL_PATIENCE = 20, 60, 600
"""Seconds that a run waits for a server when it starts and when it ends, without a model and with
one; between them it never waits."""
RETRY_AFTER = 300
"""Seconds after a failure in which the store is left alone."""


def run(
    tracking_uri: str,
    *,
    record: Path,
    experiment: str,
    name: str,
    chain: Chain,
    tags: Mapping[str, Any],
    parameters: Mapping[str, Any],
    recipe: Recipe,
    datasets: Sequence[Mapping[str, Any]] = (),
    history: Path | None = None,
    resume: Path | None = None,
    fingerprints: Sequence[str] = (),
) -> Run:
    """A run, begun and ended by `with`.

    Args:
        tracking_uri: MLflow's store; the environment's ``MLFLOW_TRACKING_URI`` goes before it.
        record: the file to keep of the run; all files below lie in its folder or under it.
        experiment: made where it does not exist, with its artifacts beside an SQLite store or
            where a server wants them.
        name: the run's name.
        chain: the run's parent.
        tags: those that are None are left out; the git commit is added where there is one.
        parameters: may be nested, ``{"learning_rates": {"policy": 0.1}}`` becomes
            ``learning_rates.policy``.
        recipe: logged as ``recipe.yaml``.
        datasets: what the run reads, see `dataset`.
        history: CSV that gets a row per epoch; rows with ``seconds`` are placed in time.
        resume: file from which the run would go on. If it does, it is the same run in MLflow.
        fingerprints: tell whether it may, see `Record.fingerprint`; the first is this run's.
    """
    given = {**tags, "git_commit": git_commit()}
    fresh = Record(
        key=uuid.uuid4().hex,
        fingerprint=fingerprints[0] if fingerprints else None,
        experiment=experiment,
        name=name,
        chain=chain,
        tags={key: str(value) for key, value in given.items() if value is not None},
        parameters=flat(parameters),
        recipe=recipe.to_dict(),
        datasets=[dict(entry) for entry in datasets],
        history=history.name if history else None,
        started=now(),
    )
    if before := to_go_on(record, fingerprints, history, resume):
        fresh = replace(fresh, key=before.key, started=before.started)
    return Run(Store(tracking_uri), record, fresh)


class Run:
    """A run that is finished when its block ends, failed when that raises, and killed when it is
    told to exit.

    Args:
        store: MLflow's.
        path: the record's file.
        record: what the run is.
    """

    def __init__(self, store: Store, path: Path, record: Record) -> None:
        self._store, self._path, self._record = store, path, record
        self._upload = Upload(store)
        self._warned = False
        self._wake, self._begun, self._ending = (threading.Event() for _ in range(3))
        # A daemon, so that a server that hangs does not keep the process.
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    @property
    def id(self) -> str | None:
        """MLflow's id of the run, None where the store could not be used so far."""
        return self._upload.run_id

    def __enter__(self) -> Self:
        self._record.write(self._path)
        # Here, not in the thread: a process forked during an import can hang in its own.
        try:
            internals.load_mlflow()
        except Exception as error:  # a library of MLflow's may be broken in any way
            self._warn(error)
            return self
        self._thread.start()
        self._begun.wait(LOCK_TIMEOUT if self._store.database else START_PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        """Waits for the upload, but not for ever."""
        told = kind is not None and issubclass(kind, SystemExit)
        status: Status = "FINISHED" if kind is None else "KILLED" if told else "FAILED"
        self._record.end(status, self._path)
        if self._thread.ident is None:
            return
        self._ending.set()
        self._wake.set()
        patience = MODEL_PATIENCE if self._record.model else END_PATIENCE
        self._thread.join(LOCK_TIMEOUT if self._store.database else patience)
        if self._thread.is_alive():
            self._warn(TimeoutError("it takes too long"))

    def epoch_done(self) -> None:
        """Tells that the history has another row."""
        self._wake.set()

    def add_figures(
        self, figures: Mapping[str, float], chain_figures: Mapping[str, float] | None = None
    ) -> None:
        """Keeps final metrics of the run and those that its parent is to carry."""
        # New ones, as the thread may be reading the old.
        self._record.figures = {**self._record.figures, **figures}
        self._record.chain_figures = {**self._record.chain_figures, **(chain_figures or {})}
        self._record.write(self._path)

    def add_artifacts(self, *paths: Path) -> None:
        """Keeps files with the run; they are copied when it ends."""
        names = [os.path.relpath(path, self._path.parent) for path in paths]
        self._record.artifacts = list(dict.fromkeys([*self._record.artifacts, *names]))
        self._record.write(self._path)

    def add_model(self, checkpoint: Path, sha256: str) -> None:
        """Keeps a model of stage 2 or 3 in MLflow's own format, see `adafocus.deploy.serving`."""
        self._record.model = os.path.relpath(checkpoint, self._path.parent)
        self._record.model_sha256 = sha256
        self._record.write(self._path)

    def _follow(self) -> None:
        measure = None
        try:
            measure = internals.MachineLoad()
        except Exception as error:
            logger.debug("the machine's load is not logged: %r", error)
        next_sample, retry_at = 0.0, -math.inf
        while True:
            ending = self._ending.is_set()
            load: dict[str, float] = {}
            if measure and time.monotonic() >= next_sample:
                next_sample = time.monotonic() + measure.interval
                load = measure.sample()
            if time.monotonic() >= retry_at:
                # The end may come meanwhile; it has an upload of its own.
                record = self._record if ending else replace(self._record, status="RUNNING")
                try:
                    self._upload(record, self._path.parent, load)
                except Exception as error:
                    retry_at = time.monotonic() + RETRY_AFTER
                    self._warn(error)
            self._begun.set()
            if ending:
                return
            self._wake.wait(max(0.0, next_sample - time.monotonic()))
            self._wake.clear()

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning("%s", self._store.warning(error))
        self._warned = True
