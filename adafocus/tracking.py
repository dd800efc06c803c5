"""Runs in MLflow: what a run leaves on disk is the truth, and a store is brought up to it.

Beside its output a run keeps ``*.run.json``, its `Record`. A thread of the run and
``adafocus sync-tracking`` upload it alike, each time only what the store lacks. So a store that is
slow, wrong or gone is a warning and never holds the work up.

In MLflow a data set is an experiment. Its runs hang under parents: `Chain` says which.
"""

from __future__ import annotations

import csv
import getpass
import hashlib
import json
import logging
import math
import os
import re
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

import yaml
from filelock import FileLock

from adafocus.files import sha256, whole

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

    from adafocus.recipe import Recipe, SweepBudget

logger = logging.getLogger(__name__)

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""MLflow's settings unless the environment has others: by default it would try for many minutes
where a server is gone."""
SQLITE = "sqlite:///"
PASSWORD = re.compile(r"(?<=//)[^/@\s]+@")
LOCK_TIMEOUT = 120
"""Seconds to wait for the other processes that write to an SQLite store."""
START_PATIENCE, END_PATIENCE, MODEL_PATIENCE = 20, 60, 600
"""Seconds that a run waits for a server when it starts and when it ends, without a model and with
one; between them it never waits."""
RETRY_AFTER = 300
"""Seconds after a failure in which the store is left alone."""
SAMPLE_EVERY = 10
"""Seconds between two samples of the machine's load, unless MLflow's settings say otherwise."""
ARTIFACTS = "mlartifacts"
"""Folder of runs' files beside an SQLite store."""
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)
"""Where MLflow's tables keep addresses of files."""
LINE = 500
"""Characters of a reason that are shown."""
GONE = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
"""MLflow's errors about a run that was deleted."""
BATCH, PARAMETERS = 900, 100
"""Metrics and parameters sent at once; MLflow takes 1000 and 100."""

KIND = "mlflow.experimentKind"
"""Tag by which MLflow's pages show runs and models, not what is for language models."""


class TrackingError(ValueError):
    """A store that cannot take runs as it is; the message is one line that says what to do."""


Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""Killed are runs that were told to stop, such as trials of a sweep that do badly."""


@dataclass(frozen=True)
class Chain:
    """The parent of the runs that make one model.

    There is one for each patch size, named like ``actnet 128``: stages 1 to 3 and their
    evaluations. All patch sizes share stage 0, so that its two runs hang under a parent of their
    own, ``actnet backbones``; the trials of a sweep hang under ``actnet 128 stage2 sweep``. Every
    process finds the parent by its key, which stands for data set, patch size, seed,
    hyper-parameters and person. So a changed learning rate begins another parent, and the parents
    of an experiment are the configurations to compare: each carries all parameters and the final
    figures.

    Attributes:
        name: of the parent run.
        key: hexadecimal digest.
        parameters: of all its stages, such as ``stage2.learning_rates.policy``.
        note: what a person should know of it.
    """

    name: str
    key: str
    parameters: dict[str, str]
    note: str = ""

    @classmethod
    def of(cls, recipe: Recipe, patch_size: int | None, seed: int) -> Chain:
        """The chain of a patch size, or of the backbones where it is None."""
        values = recipe.to_dict()
        model, stages = values["model"], values["stages"]
        note = (
            "Stages 1 to 3 and their evaluations. The metrics without a stage's name are the"
            " finished model's, of stage 3, on the validation videos."
        )
        if patch_size is None:
            note = "Both backbones' pretraining (stage 0), which all patch sizes share."
            model = {k: v for k, v in model.items() if k not in ("policy", "classifier")}
            stages = {k: v for k, v in stages.items() if k in ("glancer", "focuser")}
        elif recipe.swept:
            # Each stage's are known when it begins, and are figures of the chain.
            for stage in ("stage1", "stage2", "stage3"):
                stages[stage].pop("learning_rates")
            stages["swept"] = values["swept"]
        return cls._of(
            _model_name(recipe, patch_size),
            {
                "patch_size": patch_size,
                "seed": seed,
                **stages,
                "model": model,
                "augmentation": values["augmentation"],
            },
            note,
        )

    @classmethod
    def of_sweep(
        cls, recipe: Recipe, patch_size: int, stage: str, budget: SweepBudget, seed: int
    ) -> Chain:
        """The parent of a sweep's trials."""
        values = recipe.to_dict()
        return cls._of(
            f"{_model_name(recipe, patch_size)} {stage} sweep",
            {
                "patch_size": patch_size,
                "seed": seed,
                "sweep": budget.model_dump(mode="json"),
                stage: values["stages"][stage],
                "model": values["model"],
                "augmentation": values["augmentation"],
            },
            "Trials of learning rates; the run called sweep has the best of them. Killed runs are"
            " trials that were stopped early, as others did better after as many epochs.",
        )

    @classmethod
    def _of(cls, name: str, parameters: Mapping[str, Any], note: str) -> Chain:
        flat = _flat(parameters)
        facts = json.dumps([name, _person(), flat], sort_keys=True)
        return cls(name, hashlib.sha256(facts.encode()).hexdigest()[:32], flat, note)


def _model_name(recipe: Recipe, patch_size: int | None) -> str:
    if patch_size is None:
        return f"{recipe.name} backbones"
    skip = "" if recipe.skip_cost is None else f" skip {recipe.skip_cost:g}"
    return f"{recipe.name} {patch_size}{skip}"


@dataclass
class Record:
    """What one run has to say, as ``*.run.json`` holds it. Times are in milliseconds since 1970."""

    key: str
    """By which the run is found in any store."""
    fingerprint: str | None
    """Of what fixes the run; a run with the same one goes on where it stopped."""
    experiment: str
    name: str
    chain: Chain
    tags: dict[str, str]
    parameters: dict[str, str]
    recipe: dict[str, Any]
    datasets: list[dict[str, Any]]
    """``name``, ``context``, ``digest``, ``source`` and ``profile`` of each."""
    history: str | None
    """File with one row of metrics per epoch, beside the record like all files here."""
    started: int
    ended: int | None = None
    status: Status = "RUNNING"
    figures: dict[str, float] = field(default_factory=dict)
    """Final metrics."""
    chain_figures: dict[str, float] = field(default_factory=dict)
    """Those that the parent carries."""
    artifacts: list[str] = field(default_factory=list)
    model: str | None = None
    """Checkpoint to log in MLflow's own format."""
    model_sha256: str | None = None
    """Its digest: a later run may have replaced it."""

    @classmethod
    def read(cls, path: Path) -> Record:
        """Raises `ValueError` where the file is no record."""
        try:
            values = json.loads(path.read_text("utf-8"))
            return cls(**values | {"chain": Chain(**values["chain"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: not the record of a run ({error!r})") from None

    def write(self, path: Path) -> None:
        with whole(path) as aside:
            aside.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def rows(self, folder: Path) -> list[dict[str, float]]:
        """The epochs done, by their rows."""
        if self.history is None or not (folder / self.history).exists():
            return []
        with (folder / self.history).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [{k: float(v) for k, v in row.items() if v} for row in rows]


@contextmanager
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
) -> Iterator[Run]:
    """Yields a run that is finished when the block ends, failed when it raises, and killed when it
    is told to exit.

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
        parameters=_flat(parameters),
        recipe=recipe.to_dict(),
        datasets=[dict(entry) for entry in datasets],
        history=history and history.name,
        started=_now(),
    )
    before = _before(record, fingerprints, history, resume)
    if before is not None:
        fresh = replace(fresh, key=before.key, started=before.started)
    tracked = Run(os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri, record, fresh)
    tracked.start()
    try:
        yield tracked
    except SystemExit:
        tracked.end("KILLED")
        raise
    except BaseException:
        tracked.end("FAILED")
        raise
    tracked.end("FINISHED")


def identity(
    recipe: Recipe,
    patch_size: int | None,
    stage: str,
    kind: str,
    seed: int,
    sweep: Chain | None = None,
) -> dict[str, Any]:
    """What `run` is told of where a run belongs: experiment, chain, tags and recipe.

    Args:
        patch_size: in pixels; None for stage 0.
        kind: ``training``, ``evaluation``, ``trial`` or ``sweep``.
        sweep: the parent of a sweep and its trials.
    """
    tags = {"dataset": recipe.name, "patch_size": patch_size, "stage": stage, "kind": kind}
    chain = sweep or Chain.of(recipe, patch_size, seed)
    return {"experiment": recipe.name, "chain": chain, "tags": tags, "recipe": recipe}


def dataset(recipe: Recipe, split: str, folder: Path, digest: str, videos: int) -> dict[str, Any]:
    """An entry of a run's data sets: one split.

    Args:
        recipe: the data set's.
        split: ``train`` or ``val``.
        folder: the data set's.
        digest: hexadecimal, of the split's table.
        videos: how many it holds.
    """
    return {
        "name": f"{recipe.name} {split}",
        "context": {"train": "training", "val": "validation"}[split],
        "digest": digest[:32],
        "source": str((folder / "splits" / f"{split}.csv").absolute()),
        "profile": {"videos": videos, "classes": recipe.classes},
    }


def _before(
    path: Path, fingerprints: Sequence[str], history: Path | None, resume: Path | None
) -> Record | None:
    """The record of the run that is to go on; if none is, the epochs of the last one go."""
    if history is None or resume is None:
        return None
    if path.exists() and (resume.exists() or not history.exists()):
        try:
            record = Record.read(path)
        except ValueError as error:
            logger.warning("%s; this is another run", error)
        else:
            if record.fingerprint in fingerprints:
                return record
    history.unlink(missing_ok=True)
    return None


class Run:
    """A run that is uploaded by a thread while it goes on.

    Args:
        uri: of MLflow's store.
        path: the record's file.
        record: what the run is.
    """

    def __init__(self, uri: str, path: Path, record: Record) -> None:
        self._path, self._record = path, record
        self._upload = Upload(uri)
        self._warned = False
        self._retry_at = -math.inf
        self._wake = threading.Event()
        self._begun = threading.Event()
        self._ending = threading.Event()
        # A daemon, so that a server that hangs does not keep the process.
        self._thread = threading.Thread(target=self._follow, name="tracking", daemon=True)

    @property
    def id(self) -> str | None:
        """MLflow's id of the run, None where the store could not be used so far."""
        return self._upload.run_id

    def start(self) -> None:
        """Writes the record and makes the run, or takes it up again."""
        self._record.write(self._path)
        # Here, not in the thread: a process forked during an import can hang in its own.
        try:
            self._upload.load_mlflow()
        except Exception as error:  # a library of MLflow's may be broken in any way
            self._warn(error)
            return
        self._thread.start()
        self._begun.wait(LOCK_TIMEOUT if self._upload.database else START_PATIENCE)

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
        """Keeps a stage-2 or stage-3 model in MLflow's own format, see `adafocus.serving`."""
        self._record.model = os.path.relpath(checkpoint, self._path.parent)
        self._record.model_sha256 = sha256
        self._record.write(self._path)

    def end(self, status: Status) -> None:
        """Ends the run; waits for its upload, but not for ever."""
        # A clock may have gone backwards meanwhile.
        self._record.ended, self._record.status = max(_now(), self._record.started), status
        self._record.write(self._path)
        if self._thread.ident is None:
            return
        self._ending.set()
        self._wake.set()
        patience = MODEL_PATIENCE if self._record.model else END_PATIENCE
        self._thread.join(LOCK_TIMEOUT if self._upload.database else patience)
        if self._thread.is_alive():
            self._warn(TimeoutError("it takes too long"))

    def _follow(self) -> None:
        from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

        try:
            monitors = _monitors()
        except Exception as error:
            logger.debug("the machine's load is not logged: %r", error)
            monitors = []
        interval = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or SAMPLE_EVERY
        next_sample = 0.0
        while True:
            ending = self._ending.is_set()
            load = {}
            if time.monotonic() >= next_sample:
                next_sample = time.monotonic() + interval
                load = _load(monitors)
            if time.monotonic() >= self._retry_at:
                # The end may come meanwhile; it has an upload of its own.
                record = self._record if ending else replace(self._record, status="RUNNING")
                try:
                    self._upload(record, self._path.parent, load)
                except Exception as error:
                    self._retry_at = time.monotonic() + RETRY_AFTER
                    self._warn(error)
            self._begun.set()
            if ending:
                return
            self._wake.wait(max(0.0, next_sample - time.monotonic()))
            self._wake.clear()

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        logger.warning("%s", _not_usable(self._upload.uri, error))


class Upload:
    """Brings a store up to what one run has left on disk; to be called as often as one likes.

    Metrics carry times that follow from the files, so that a store knows those it has.

    Attributes:
        run_id: MLflow's id of the run, None until it is known.
        database: the store's file where it is SQLite's.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.run_id: str | None = None
        self.database = Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None
        self._parent_id: str | None = None
        self._sent: dict[str, set[tuple[str, int, int]]] = {}
        self._client: MlflowClient | None = None

    @staticmethod
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

    def __call__(
        self, record: Record, folder: Path, load: Mapping[str, float] | None = None
    ) -> bool:
        """Uploads what the store lacks; returns whether there was anything.

        Args:
            record: the run's.
            folder: where the record lies.
            load: a sample of the machine's load, for now.
        """
        from mlflow.exceptions import MlflowException

        # MLflow makes tables without a lock, and SQLite refuses some writers that meet others.
        with FileLock(f"{self.database}.lock", LOCK_TIMEOUT) if self.database else nullcontext():
            try:
                return self._bring_up(record, folder, load)
            except MlflowException as error:
                if self.run_id is None or error.error_code not in GONE:
                    raise
                # The run or its parent was deleted on MLflow's page: it is made anew.
                self.run_id = self._parent_id = None
                self._sent.clear()
                return self._bring_up(record, folder, load)

    def _bring_up(
        self, record: Record, folder: Path, load: Mapping[str, float] | None = None
    ) -> bool:
        from mlflow.entities import Metric

        client = self.client
        state = _digest(record, folder)
        if self.run_id is None and not self._find_or_make(client, record, folder, state):
            return False
        self._log(client, self.run_id, _placed(record, folder), "rows")
        if load:
            now = _now()
            # Goes on where a resumed run stopped.
            step = max(0, now - record.started) // 1000
            sample = [Metric(key, value, now, step) for key, value in load.items()]
            client.log_batch(self.run_id, metrics=sample)
        if record.status != "RUNNING":
            self._finish(client, record, folder, state)
        return True

    @property
    def client(self) -> MlflowClient:
        """Raises `TrackingError` where another version of MLflow made the store."""
        if self._client is None:
            self.load_mlflow()
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            if self.database:
                # MLflow would try for two minutes to open a file that is no database.
                with closing(sqlite3.connect(self.database)) as connection:
                    connection.execute("PRAGMA schema_version")
            try:
                self._client = MlflowClient(self.uri)
            except MlflowException as error:
                if "database schema" not in str(error):
                    raise
                raise TrackingError(
                    "another version of MLflow made its tables: keep a copy of it, and run"
                    f" `mlflow db upgrade {self.uri}`; if that fails, a newer MLflow is needed"
                ) from error
        return self._client

    def _find_or_make(self, client: MlflowClient, record: Record, folder: Path, state: str) -> bool:
        """Takes up the run and its parent; returns False where the store holds all already."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        experiment_id = self._experiment(client, record.experiment)
        found = _find(client, experiment_id, "adafocus.run", record.key)
        if found is not None and found.data.tags.get("adafocus.state") == state:
            return False

        # Processes on a server's store meet where their records lie.
        apart = FileLock(folder / ".tracking.lock", LOCK_TIMEOUT)
        with nullcontext() if self.database else apart:
            parent_id = self._parent(client, experiment_id, record)
        if found is not None:
            run_id = found.info.run_id
            if found.data.tags.get("mlflow.parentRunId") != parent_id:
                client.set_tag(run_id, "mlflow.parentRunId", parent_id)
        else:
            own = {"adafocus.run": record.key, "mlflow.parentRunId": parent_id}
            tags = record.tags | own
            run_id = self._create(client, experiment_id, record.name, tags, record.started)
        inputs = [
            DatasetInput(
                Dataset(
                    entry["name"],
                    entry["digest"],
                    source_type="local",
                    source=json.dumps({"uri": entry["source"]}),
                    profile=json.dumps(entry["profile"]),
                ),
                [InputTag("mlflow.data.context", entry["context"])],
            )
            for entry in record.datasets
        ]
        for one, parameters in ((parent_id, record.chain.parameters), (run_id, record.parameters)):
            params = [Param(key, value) for key, value in parameters.items()]
            for start in range(0, len(params), PARAMETERS):
                client.log_batch(one, params=params[start : start + PARAMETERS])
            if inputs:
                client.log_inputs(one, inputs)
            if record.status == "RUNNING":
                client.update_run(one, status="RUNNING")
        client.log_text(run_id, yaml.safe_dump(record.recipe, sort_keys=False), "recipe.yaml")
        self.run_id, self._parent_id = run_id, parent_id
        return True

    def _experiment(self, client: MlflowClient, name: str) -> str:
        """Id of the experiment of that name."""
        from mlflow.exceptions import MlflowException

        location = None
        if self.database:
            location = (self.database.parent / ARTIFACTS / name).absolute().as_uri()
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return client.create_experiment(name, location, {KIND: "custom_model_development"})
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
        if location and found.artifact_location != location:
            self._move(found.artifact_location, location)
        return found.experiment_id

    def _move(self, before: str, now: str) -> None:
        """Tells an SQLite store where its files are, whose folder was moved or copied.

        An experiment's files that a person put elsewhere stay there.
        """
        name = now.rpartition("/")[2]
        old, new = (Path(unquote(urlsplit(uri).path)).parent for uri in (before, now))
        ours = before.startswith("file:") and before.endswith(f"/{ARTIFACTS}/{name}")
        if not ours or not new.exists() or (old.exists() and old.samefile(new)):
            return
        logger.warning(
            "%s: was moved from %s; MLflow finds the files of %s here now",
            self.database,
            old.parent,
            unquote(name),
        )
        with closing(sqlite3.connect(self.database)) as connection, connection:
            for table, column in PLACES:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                    f" WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
                )

    def _parent(self, client: MlflowClient, experiment_id: str, record: Record) -> str:
        """Id of the chain's run."""
        chain = record.chain
        found = _find(client, experiment_id, "adafocus.chain", chain.key)
        if found is not None:
            return found.info.run_id
        tags = {k: v for k, v in record.tags.items() if k in ("dataset", "patch_size")}
        tags |= {"kind": "chain", "adafocus.chain": chain.key}
        tags["mlflow.note.content"] = chain.note
        return self._create(client, experiment_id, chain.name, tags, record.started)

    @staticmethod
    def _create(
        client: MlflowClient, experiment_id: str, name: str, tags: dict[str, str], started: int
    ) -> str:
        from mlflow.tracking.context.registry import resolve_tags

        made = client.create_run(experiment_id, started, resolve_tags(tags), name)
        return made.info.run_id

    def _log(
        self,
        client: MlflowClient,
        run_id: str,
        rows: Sequence[tuple[int, int, Mapping[str, float]]],
        what: str,
    ) -> None:
        """Logs rows of metrics (step, time, row), of which each is in the store whole or not."""
        from mlflow.entities import Metric

        if not rows:
            return
        # A row is known by its first metric.
        marked = {(next(iter(row)), step, at): row for step, at, row in rows if row}
        sent = self._sent.get(what)
        if sent is None:
            sent = self._sent[what] = {
                (marker, metric.step, metric.timestamp)
                for marker in {marker for marker, _, _ in marked}
                for metric in client.get_metric_history(run_id, marker)
            }
        lacking, batch = [mark for mark in marked if mark not in sent], []
        for mark in lacking:
            _, step, at = mark
            batch += [Metric(key, float(v), at, step) for key, v in marked[mark].items()]
            if len(batch) + len(marked[mark]) > BATCH or mark == lacking[-1]:
                client.log_batch(run_id, metrics=batch)
                batch = []
        sent.update(lacking)

    def _finish(self, client: MlflowClient, record: Record, folder: Path, state: str) -> None:
        for path in (folder / name for name in record.artifacts):
            if path.exists():
                client.log_artifact(self.run_id, str(path))
            else:
                logger.warning("%s: is gone, so that MLflow cannot keep it", path)
        if record.model and record.status == "FINISHED":
            self._log_model(client, record, folder)
        if record.chain_figures:
            *_, (_, at, _) = _placed(record, folder)
            self._log(client, self._parent_id, [(0, at, record.chain_figures)], "chain")
        # A parent ends as its latest run did, whatever is uploaded first.
        if (client.get_run(self._parent_id).info.end_time or 0) <= record.ended:
            client.set_terminated(self._parent_id, record.status, record.ended)
        client.set_terminated(self.run_id, record.status, record.ended)
        client.set_tag(self.run_id, "adafocus.state", state)

    def _log_model(self, client: MlflowClient, record: Record, folder: Path) -> None:
        """Logs the model as MLflow's own `log_model` does, which knows but one store a process."""
        from tempfile import TemporaryDirectory

        from mlflow.entities import LoggedModelOutput, Metric

        from adafocus import serving

        checkpoint = folder / record.model
        if not checkpoint.exists() or sha256(checkpoint) != record.model_sha256:
            logger.warning("%s: is not what was evaluated any more, and not logged", checkpoint)
            return
        logged = client.get_run(self.run_id)
        if logged.outputs and logged.outputs.model_outputs:
            return
        experiment_id, name = logged.info.experiment_id, Path(record.model).stem
        begun = client.search_logged_models([experiment_id], f"name = '{name}'")
        model = next((one for one in begun if one.source_run_id == self.run_id), None)
        model = model or client.create_logged_model(
            experiment_id,
            name,
            source_run_id=self.run_id,
            tags=record.tags,
            params=record.chain.parameters,
        )
        with TemporaryDirectory() as aside:
            serving.save(checkpoint, Path(aside, "model"), model)
            client.log_model_artifacts(model.model_id, str(Path(aside, "model")))
        # The same metrics once more, which the store has: this ties them to the model.
        [*_, (step, at, figures)] = _placed(record, folder)
        tied = [Metric(k, v, at, step, model_id=model.model_id) for k, v in figures.items()]
        client.log_batch(self.run_id, metrics=tied)
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])


def sync(folder: Path, tracking_uri: str) -> tuple[int, int, int]:
    """Uploads what a store lacks of the runs whose records lie under a folder.

    A record that cannot be read, and a run that the store does not take, are a warning.

    Args:
        folder: such as ``results``.
        tracking_uri: MLflow's store; the environment's ``MLFLOW_TRACKING_URI`` goes before it.

    Returns:
        How many runs there are, of how many something was missing, and how many were left out.

    Raises:
        ValueError: where there is no record, or the store cannot be used.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri
    paths = sorted(folder.rglob("*.run.json"))
    if not paths:
        raise ValueError(f"{folder}: holds no record of a run, *.run.json")
    records: list[tuple[Record, Path]] = []
    problems: dict[str, list[str]] = {}
    for path in paths:
        try:
            records.append((Record.read(path), path.parent))
        except ValueError as error:
            problems[f"{error}: delete it, or bring it back from a copy"] = [path.name]
    records.sort(key=lambda entry: entry[0].started)
    lacking = 0
    for record, where in records:
        try:
            lacking += Upload(uri)(record, where)
        except Exception as error:
            reason = _reason(error)
            if not _takes_runs(uri):
                message = f"MLflow's store {uri} cannot be used for {record.name}: {reason}"
                raise ValueError(PASSWORD.sub("", message)[:LINE]) from None
            problems.setdefault(reason[:LINE], []).append(record.name)
    for reason, names in problems.items():
        logger.warning("left out %s: %s", ", ".join(names), PASSWORD.sub("", reason))
    return len(paths), lacking, sum(map(len, problems.values()))


def _takes_runs(uri: str) -> bool:
    try:
        Upload(uri).client.search_experiments(max_results=1)
    except Exception:
        return False
    return True


def finished(path: Path, fingerprints: Sequence[str]) -> Record | None:
    """The record of a run that came to its end, if it has one of these fingerprints."""
    try:
        record = Record.read(path)
    except ValueError:
        return None
    ended = record.status == "FINISHED" and record.fingerprint in fingerprints
    return record if ended else None


def close(path: Path, status: Status, tracking_uri: str) -> None:
    """Ends a run on behalf of its process, where that could not, and uploads what is missing.

    Args:
        path: the run's record.
        status: of a run that has not ended.
        tracking_uri: MLflow's store; one that cannot be used is a warning.
    """
    record = Record.read(path)
    if record.status == "RUNNING":
        record.status, record.ended = status, _now()
        record.write(path)
    try:
        Upload(tracking_uri)(record, path.parent)
    except Exception as error:
        logger.warning("%s", _not_usable(tracking_uri, error))


def absolute(tracking_uri: str) -> str:
    """The store's address for processes in other folders; the environment's goes before it."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or tracking_uri
    if uri.startswith(SQLITE):
        return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}"
    return uri


def git_commit() -> str | None:
    """Commit of the checkout that holds this code, with ``-dirty`` where tracked files differ.

    None where there is no such checkout, though the code may lie within another project's.
    """
    here = Path(__file__)
    try:
        _git(here, "ls-files", "--error-unmatch", here.name)
        return _git(here, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(file: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _find(client: MlflowClient, experiment_id: str, tag: str, value: str) -> MlflowRun | None:
    found = client.search_runs([experiment_id], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


def _placed(record: Record, folder: Path) -> list[tuple[int, int, dict[str, float]]]:
    """Step, time and metrics of each epoch, and of the final figures."""
    rows, at = [], record.started
    history = record.rows(folder)
    for number, row in enumerate(history, start=1):
        at += int(1000 * row.get("seconds", 0))
        rows.append((number, at, {k: v for k, v in row.items() if k != "epoch"}))
    if record.status != "RUNNING":
        # A run that has a history ends with it, however often it is taken up again.
        rows.append((len(history), at if history else record.ended, record.figures))
    return rows


def _digest(record: Record, folder: Path) -> str:
    """Of all that is to be uploaded."""
    known = json.dumps([asdict(record), record.rows(folder)], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()


def _monitors() -> list[BaseMetricsMonitor]:
    """MLflow's own view of the machine; its logger of them would not know when a store is gone."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors = []
    for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        try:
            monitors.append(kind())
        except Exception as error:  # MLflow raises many kinds where there is no GPU
            logger.debug("%s: %s", kind.__name__, error)
    _load(monitors)  # the processor's first figure is none
    return monitors


def _load(monitors: Sequence[BaseMetricsMonitor]) -> dict[str, float]:
    load = {}
    for monitor in monitors:
        try:
            monitor.collect_metrics()
            load |= {f"system/{k}": v for k, v in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        except Exception as error:  # what a container hides, a run can do without
            logger.debug("%r: %s", monitor, error)
    return load


def _person() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have no name
        return str(os.getuid())


def _not_usable(uri: str, error: Exception) -> str:
    remedy = "; `adafocus sync-tracking` uploads later what it misses"
    message = f"MLflow's store {uri} cannot be used, going on: {_reason(error)[:LINE]}{remedy}"
    return PASSWORD.sub("", message)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _now() -> int:
    return int(1000 * time.time())


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None and value != []:
            flat[prefix + key] = str(value)
    return flat
