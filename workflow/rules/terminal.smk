"""What a person sees while jobs run, and at the end."""

import csv
import logging
import sys
from contextlib import suppress
from pathlib import Path
from statistics import mean

from snakemake_interface_logger_plugins.common import LogEvent

from adafocus.evaluation.result import Result, ResultError
from adafocus.machine.board import Board
from adafocus.machine.estimate import PlannedJob
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
                self.board.end(record.job_id, done=True)
            case LogEvent.JOB_ERROR:
                self.board.end(record.jobid, done=False)
            case LogEvent.PROGRESS:
                self.board.done, self.board.total = record.done, record.total


watches = []
evaluated = []


def watch_jobs():
    """Shows from now on how far the jobs of this call are, unless another logger does: two that
    write in a terminal's last line take it from each other."""
    jobs = list(jobs_to_run())
    evaluated.extend(Path(job.output["result"]) for job in jobs if job.rule.name == "evaluate")
    if is_main_process() and not is_quiet() and not is_printed_by_plugin():
        watches.append(Watch(Board(sys.stderr, len(jobs), known_of(jobs))))
        logger.handlers.insert(0, watches[0])


def known_of(jobs):
    """What is known of jobs before they run, by their logs: what they took another time, else what
    jobs of the same rule and experiment took in the mean."""
    logs = {job: Path(job.log[0]) for job in jobs if job.log}
    took = {str(path): seconds_of(path) for path in Path("results/benchmarks").glob("*.tsv")}
    means = {}
    known = {}
    for job, log in logs.items():
        named = job.wildcards_dict
        kind = (job.rule.name, named.get("experiment") or named.get("dataset"))
        if kind not in means:
            means[kind] = mean_of_kind(job.rule.benchmark, kind[1], took)
        needs = frozenset(logs[other] for other in jobs_before(job) if other in logs)
        seconds = took.get(str(job.benchmark))
        known[log] = PlannedJob(kind, needs, means[kind] if seconds is None else seconds)
    return known


def mean_of_kind(benchmark, name, took):
    """Seconds in the mean of those benchmarks of a rule that are of one experiment or data set;
    None where there are none."""
    like = []
    for path, seconds in took.items():
        match = benchmark.match(path) if benchmark else None
        if match and seconds is not None:
            of = match.groupdict()
            if name == (of.get("experiment") or of.get("dataset")):
                like.append(seconds)
    return mean(like) if like else None


def seconds_of(benchmark):
    """What a job took; None where its benchmark cannot be read."""
    with suppress(OSError, ValueError, LookupError, TypeError, csv.Error):
        with benchmark.open(newline="") as file:
            return float([row["s"] for row in csv.DictReader(file, delimiter="\t")][-1])


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
