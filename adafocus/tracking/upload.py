"""How a store of MLflow's is brought up to what runs have left on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import yaml

from adafocus.machine.files import sha256
from adafocus.tracking import internals
from adafocus.tracking.record import Point, Record, Status, now
from adafocus.tracking.store import Store, one_line, without_password

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric
    from mlflow.entities import Run as MlflowRun

logger = logging.getLogger(__package__)

GONE = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
"""MLflow's errors about a run that was deleted."""
OF_CHAIN = ("dataset", "recipe", "patch_size", "seed")
"""Tags that a run has in common with its parent."""
METRICS, PARAMETERS = 1000, 100
"""So many MLflow takes at once."""


class Upload:
    """Brings a store up to what one run has left on disk; to be called as often as one likes.

    Attributes:
        run_id: MLflow's id of the run, None until it is known.
    """

    def __init__(self, store: Store) -> None:
        self.run_id: str | None = None
        self._store = store
        self._parent_id = ""
        self._sent: set[tuple[str, Metric]] = set()

    def __call__(
        self, record: Record, folder: Path, load: Mapping[str, float] | None = None
    ) -> bool:
        """Uploads what the store lacks; returns whether there was anything.

        Args:
            record: the run's.
            folder: where the record lies.
            load: a sample of the machine's load, for now.
        """
        internals.load_mlflow()
        from mlflow.exceptions import MlflowException

        with self._store.alone():
            try:
                return self._bring_up(record, folder, load or {})
            except MlflowException as error:
                if self.run_id is None or error.error_code not in GONE:
                    raise
                # The run or its parent was deleted on MLflow's page: it is made anew.
                self.run_id = None
                self._sent.clear()
                return self._bring_up(record, folder, load or {})

    def _bring_up(self, record: Record, folder: Path, load: Mapping[str, float]) -> bool:
        state = record.digest(folder)
        run_id = self.run_id or self._find_or_make(record, folder, state)
        if run_id is None:
            return False
        self.run_id = run_id
        self._log(run_id, record.points(folder))
        if load:
            # Goes on where a resumed run stopped.
            seconds = max(0, now() - record.started) // 1000
            sample = _metrics([Point(seconds, now(), load)])
            self._store.client.log_batch(run_id, metrics=sample)
        if record.status != "RUNNING":
            self._finish(run_id, record, folder)
            self._store.client.set_tag(run_id, "adafocus.state", state)
        return True

    def _find_or_make(self, record: Record, folder: Path, state: str) -> str | None:
        """The run's id, its parent's at hand; None where the store holds all of it already."""
        from mlflow.entities import Param

        client, experiment_id = self._store.client, self._store.experiment_id(record.experiment)
        found = self._find(experiment_id, "adafocus.run", record.key)
        if found and found.data.tags.get("adafocus.state") == state:
            return None
        with self._store.alone_in(folder):
            parent_id = self._parent_id = self._parent(experiment_id, record)
        own = {"adafocus.run": record.key, "mlflow.parentRunId": parent_id}
        if found:
            run_id: str = found.info.run_id
            if found.data.tags.get("mlflow.parentRunId") != parent_id:
                client.set_tag(run_id, "mlflow.parentRunId", parent_id)
        else:
            run_id = self._create(experiment_id, record.name, record.tags | own, record.started)
        inputs = _inputs(record)
        for one, parameters in ((parent_id, record.chain.parameters), (run_id, record.parameters)):
            params = [Param(key, value) for key, value in parameters.items()]
            for start in range(0, len(params), PARAMETERS):
                client.log_batch(one, params=params[start : start + PARAMETERS])
            if inputs:
                client.log_inputs(one, inputs)
            if record.status == "RUNNING":
                client.update_run(one, status="RUNNING")
        client.log_text(run_id, yaml.safe_dump(record.recipe, sort_keys=False), "recipe.yaml")
        return run_id

    def _parent(self, experiment_id: str, record: Record) -> str:
        """Id of the chain's run."""
        chain = record.chain
        if found := self._find(experiment_id, "adafocus.chain", chain.key):
            run_id: str = found.info.run_id
            return run_id
        tags = {k: v for k, v in record.tags.items() if k in OF_CHAIN}
        tags |= {"kind": "chain", "adafocus.chain": chain.key, "mlflow.note.content": chain.note}
        return self._create(experiment_id, chain.name, tags, record.started)

    def _find(self, experiment_id: str, tag: str, value: str) -> MlflowRun | None:
        query = f"tags.`{tag}` = '{value}'"
        found = self._store.client.search_runs([experiment_id], query, max_results=1)
        return found[0] if found else None

    def _create(self, experiment_id: str, name: str, tags: dict[str, str], started: int) -> str:
        tags = internals.tags_of_process() | tags
        made = self._store.client.create_run(experiment_id, started, tags, name)
        run_id: str = made.info.run_id
        return run_id

    def _log(self, run_id: str, points: Iterable[Point]) -> None:
        """Logs metrics; of those that another process has sent, MLflow's tables keep one."""
        lacking = [one for one in _metrics(points) if (run_id, one) not in self._sent]
        for start in range(0, len(lacking), METRICS):
            self._store.client.log_batch(run_id, metrics=lacking[start : start + METRICS])
        self._sent.update((run_id, one) for one in lacking)

    def _finish(self, run_id: str, record: Record, folder: Path) -> None:
        client, ended = self._store.client, record.ended or record.started
        for path in (folder / name for name in record.artifacts):
            if path.exists():
                client.log_artifact(run_id, str(path))
            else:
                logger.warning("%s: is gone, so that MLflow cannot keep it", path)
        final = record.points(folder)[-1]
        if record.model and record.status == "FINISHED":
            self._log_model(run_id, record, folder / record.model, final)
        self._log(self._parent_id, [Point(0, final.time, record.chain_figures)])
        # A parent ends as its latest run did, whatever is uploaded first.
        if (client.get_run(self._parent_id).info.end_time or 0) <= ended:
            client.set_terminated(self._parent_id, record.status, ended)
        client.set_terminated(run_id, record.status, ended)

    def _log_model(self, run_id: str, record: Record, checkpoint: Path, final: Point) -> None:
        """Logs the model in the steps of MLflow's `log_model`, but in another order.

        That one names a model among the run's outputs before its files are there, so that one that
        was cut off would look whole; and it knows but one store a process.
        """
        from mlflow.entities import LoggedModelOutput

        from adafocus.deploy import serving

        client = self._store.client
        logged = client.get_run(run_id)
        if not checkpoint.exists() or sha256(checkpoint) != record.model_sha256:
            logger.warning("%s: is not what was evaluated any more, and not logged", checkpoint)
            return
        if logged.outputs and logged.outputs.model_outputs:
            return
        experiment_id = logged.info.experiment_id
        begun = client.search_logged_models([experiment_id], f"name = '{checkpoint.stem}'")
        model = next((one for one in begun if one.source_run_id == run_id), None)
        model = model or client.create_logged_model(
            experiment_id,
            checkpoint.stem,
            source_run_id=run_id,
            tags=record.tags,
            params=record.chain.parameters,
        )
        with TemporaryDirectory() as aside:
            serving.save_model(checkpoint, Path(aside, "model"), model)
            client.log_model_artifacts(model.model_id, str(Path(aside, "model")))
        # The same metrics once more, which the store has: this ties them to the model.
        client.log_batch(run_id, metrics=_metrics([final], model.model_id))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def _inputs(record: Record) -> list[DatasetInput]:
    """The data sets that a run reads."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
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


def _metrics(points: Iterable[Point], model_id: str | None = None) -> list[Metric]:
    from mlflow.entities import Metric

    return [
        Metric(key, float(value), at, step, model_id=model_id)
        for step, at, metrics in points
        for key, value in metrics.items()
    ]


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
    store = Store(tracking_uri)
    paths = sorted(folder.rglob("[!.]*.run.json"))
    if not paths:
        raise ValueError(f"{folder}: holds no record of a run, *.run.json")
    records: list[tuple[Record, Path]] = []
    problems: dict[str, list[str]] = {}
    for path in paths:
        try:
            records.append((Record.read(path), path.parent))
        except ValueError as error:
            problems[f"{error}: delete it, or bring it back from a copy"] = [path.name]
    lacking = 0
    for record, where in sorted(records, key=lambda entry: entry[0].started):
        try:
            lacking += Upload(store)(record, where)
        except Exception as error:
            if not store.answers():
                raise ValueError(
                    f"MLflow's store {without_password(store.uri)} cannot be used for"
                    f" {record.name}: {one_line(error)}"
                ) from None
            problems.setdefault(one_line(error), []).append(record.name)
    for reason, names in problems.items():
        logger.warning("left out %s: %s", ", ".join(names), reason)
    return len(paths), lacking, sum(map(len, problems.values()))


def close(path: Path, status: Status, tracking_uri: str) -> None:
    """Ends a run on behalf of its process, where that could not, and uploads what is missing.

    Args:
        path: the run's record.
        status: of a run that has not ended.
        tracking_uri: MLflow's store; one that cannot be used is a warning.
    """
    record = Record.read(path)
    if record.status == "RUNNING":
        record.end(status, path)
    store = Store(tracking_uri)
    try:
        Upload(store)(record, path.parent)
    except Exception as error:
        logger.warning("%s", store.warning(error))
