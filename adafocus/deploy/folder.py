"""Predictions of many videos: the next are decoded meanwhile, and what was stopped goes on."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from adafocus.data import DataError
from adafocus.data.listing import Stamp
from adafocus.data.names import one_line
from adafocus.deploy.predict import Prediction, Predictor, Seen
from adafocus.machine.distributed import alone
from adafocus.machine.files import WriteError, atomic, is_outlet, write_error

AHEAD = 2
"""Videos that are decoded before they are computed."""


def predict_all(
    predictor: Predictor,
    files: Sequence[Path],
    top: int,
    output: Path | None,
    options: Mapping[str, Any],
    draw: Callable[[Prediction], None],
) -> None:
    """Prints one line per video and writes one line of JSON for each, in the order of the files.

    Where it was stopped, the same call goes on, see `Unfinished`.

    Args:
        top: labels to name.
        output: the file of JSON, if any.
        options: what a prediction depends on, by the name of the option.
        draw: called with each prediction.

    Raises:
        ValueError: where a video could not be read, after all others are done, or where another
            call was stopped at the same output.
        WriteError: where the output cannot be written.
    """
    failed = 0
    with ExitStack() as stack:
        lines: dict[str, str] = {}
        unfinished = None
        if output is not None and not is_outlet(output):
            stack.enter_context(alone(output, "adafocus predict"))
            unfinished = stack.enter_context(Unfinished(output, options, files))
            lines = {str(path): line for path in files if (line := unfinished.find(path))}
            if lines:
                told = f"{len(lines)} of {len(files)} videos were predicted before and are kept"
                tqdm.write(one_line(f"{unfinished.path}: {told}"), file=sys.stderr)
        missing = [path for path in files if str(path) not in lines]
        for path, seen in tqdm(
            read_ahead(predictor.read, missing),
            total=len(files),
            initial=len(lines),
            unit="video",
            disable=len(files) == 1,
        ):
            try:
                prediction = predictor.predict(seen.result(), top)
                draw(prediction)
            except (DataError, WriteError) as error:
                failed += 1
                tqdm.write(one_line(f"Error: {path}: {error}"), file=sys.stderr)
                continue
            guesses = (f"{guess.label} {guess.probability:.1%}" for guess in prediction.guesses)
            tqdm.write(one_line(f"{path}: {', '.join(guesses)}"), file=sys.stdout)
            if output is not None:
                lines[str(path)] = json.dumps(prediction.to_dict())
            if unfinished is not None:
                unfinished.add(path, lines[str(path)])
        if output is not None and lines:  # no file is left that tells of none
            with atomic(output) as aside:
                found = (lines[str(path)] for path in files if str(path) in lines)
                aside.write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
        if unfinished is not None:
            unfinished.path.unlink()
    if failed:
        raise ValueError(f"{failed} of {len(files)} videos could not be read")


def read_ahead(
    read: Callable[[Path, Event], Seen], files: Iterable[Path]
) -> Iterator[tuple[Path, Future[Seen]]]:
    """Files and what is read of them, in order; the next ones are read in a thread meanwhile.

    Args:
        read: of a file; ends early when the event is set.
    """
    stopped = Event()
    pool = ThreadPoolExecutor(1, "decoder")
    try:
        waiting: deque[tuple[Path, Future[Seen]]] = deque()
        for path in files:
            waiting.append((path, pool.submit(read, path, stopped)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


class Unfinished:
    """What was predicted for an output that is not finished: ``NAME.part`` beside it.

    Its first line holds the options, and each other one a path, its `Stamp` and the prediction. A
    line that was cut off is not kept, nor is that of a video that is another by now.

    Args:
        files: that are asked for.

    Raises:
        ValueError: where it was begun with other options, holds other videos, or is not ours.
        WriteError: where it cannot be written.
    """

    def __init__(self, output: Path, options: Mapping[str, Any], files: Iterable[Path]) -> None:
        self.path = output.with_name(f"{output.name}.part")
        self.kept: dict[tuple[str, ...], str] = {}
        begun, size = {}, 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            self.file.seek(0)
            lines = self.file.read().splitlines(keepends=True)
            for row in _whole_lines(lines):
                values = json.loads(row)
                if size == 0:
                    begun = values
                elif "of" in values:
                    self.kept[tuple(values["of"])] = values["prediction"]
                size += len(row)
            if lines and not begun.keys() & options.keys():
                raise ValueError(f"{self.path}: is of another program: move it away")
            if self.kept:
                _check_same(self.path, begun, options)
                self._check_asked(files)
                self.file.truncate(size)
            else:
                self.file.truncate(0)
                self._write(options)
        except BaseException:
            self.file.close()
            raise

    def _check_asked(self, files: Iterable[Path]) -> None:
        others = {video for video, *_ in self.kept} - set(map(str, files))
        if others:
            raise ValueError(
                f"{self.path}: holds predictions of {len(others)} other videos, as {min(others)}:"
                " give the same again, or remove this file to begin anew"
            )

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def find(self, video: Path) -> str | None:
        """The line of JSON of a video, if it is there."""
        return self.kept.get((str(video), *Stamp.of(video)))

    def add(self, video: Path, line: str) -> None:
        self._write({"of": (str(video), *Stamp.of(video)), "prediction": line})

    def _write(self, values: Mapping[str, Any]) -> None:
        line = json.dumps(values).encode() + b"\n"
        try:
            if self.file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise write_error(self.path, error) from error


def _whole_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Those before the first that was cut off or is none of ours."""
    for line in lines:
        try:
            whole = line.endswith(b"\n") and isinstance(json.loads(line), dict)
        except ValueError:
            return
        if not whole:
            return
        yield line


def _check_same(path: Path, begun: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    others = [name for name in options if begun.get(name) != options[name]]
    if others:
        raise ValueError(
            f"{path}: was begun with another {', '.join(others)}: give the same again, or remove"
            " this file to begin anew"
        )
