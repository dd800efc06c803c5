"""What a person sees while jobs run, and at the end."""

import logging
import sys
from contextlib import suppress
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from adafocus.evaluation.result import Result, ResultError
from adafocus.machine.board import Board
from adafocus.tracking import chosen, without_password


class Watch(logging.Handler):
    """Tells a board which jobs run, and makes way for what Snakemake prints."""

    def __init__(self, board):
        super().__init__()
        self.board = board

    def emit(self, record):
        with suppress(Exception):  # what is shown must not end what runs
            self._tell(record)

    def _tell(self, record):
        self.board.clear()
        match getattr(record, "event", None):
            case LogEvent.JOB_INFO if record.log:
                self.board.begin(record.jobid, Path(record.log[0]))
            case LogEvent.JOB_FINISHED:
                self.board.end(record.job_id)
            case LogEvent.JOB_ERROR:
                self.board.end(record.jobid)
            case LogEvent.PROGRESS:
                self.board.done, self.board.total = record.done, record.total


watches = []
evaluated = []


def watch_jobs():
    """Shows from now on how far the jobs of this call are."""
    jobs = list(jobs_to_run())
    evaluated.extend(Path(job.output["result"]) for job in jobs if job.rule.name == "evaluate")
    if is_main_process() and not is_quiet():
        watches.append(Watch(Board(sys.stderr, len(jobs))))
        logger.handlers.insert(0, watches[0])


def watch_no_more():
    for watch in watches:
        logger.removeHandler(watch)
        watch.board.close()
    watches.clear()


def endings():
    """Lines on what was measured, and on what to do next."""
    for path in evaluated:
        with suppress(ResultError):
            yield f"{path}: {Result.read(path).told}"
    if evaluated:
        name = evaluated[0].stem
        weights = Result.read(evaluated[0]).checkpoint["path"]
        yield "Next:"
        yield f"  where it looked       results/plots/{name}_sheet.png"
        yield f"  on videos of yours    adafocus predict VIDEOS --checkpoint {weights}"
        if Path("Makefile").exists():
            yield "  all runs and figures  make ui, make report"
        else:
            store = without_password(chosen(settings.tracking_uri))
            if not store.startswith(("http://", "https://")):  # a server has its own pages
                store = f"mlflow ui --host 127.0.0.1 --backend-store-uri {store}"
            yield f"  all runs              {store}"


onsuccess:
    watch_no_more()
    for line in endings():
        logger.info(line)


onerror:
    watch_no_more()
