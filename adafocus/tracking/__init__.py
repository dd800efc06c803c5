"""Runs in MLflow: what a run leaves on disk is the truth, and a store is brought up to it.

Beside its output a run keeps ``*.run.json``, its `Record`. A thread of the run and
``adafocus sync-tracking`` upload it alike, each time only what the store lacks. So a store that is
slow, wrong or gone is a warning and never holds the work up.

In MLflow a data set is an experiment. Its runs hang under parents: `Chain` says which.
"""

from adafocus.tracking.chain import Chain, stage_parameters, swept_figures
from adafocus.tracking.record import Record, dataset, finished, git_commit, identity
from adafocus.tracking.runs import Run, run
from adafocus.tracking.store import SQLITE, absolute, chosen, database_of, without_password
from adafocus.tracking.upload import close, sync

__all__ = [
    "SQLITE",
    "Chain",
    "Record",
    "Run",
    "absolute",
    "chosen",
    "close",
    "database_of",
    "dataset",
    "finished",
    "git_commit",
    "identity",
    "run",
    "stage_parameters",
    "swept_figures",
    "sync",
    "without_password",
]
