"""What a model says of a stream while it goes on."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adafocus.data import DataError
from adafocus.data.clips import crop_centre
from adafocus.data.ffmpeg import encode
from adafocus.data.live import Moment, moments, told
from adafocus.deploy.predict import Box, Guess, Predictor, Step, boxes_on_video, draw, likeliest
from adafocus.machine.files import atomic
from adafocus.machine.signals import Stop
from adafocus.model.adafocus import AdaFocus
from adafocus.model.uni import UniAdaFocus
from adafocus.model.video_model import Output


def watch_source(
    predictor: Predictor,
    source: str,
    *,
    rate: float,
    every: int | None,
    top: int,
    tries: int,
    overlay: Path | None,
) -> None:
    """Prints one line of JSON per step, until the source ends or a signal asks for the end.

    Args:
        rate: frames a second that the model sees.
        every: frames from one prediction of a Uni-AdaFocus to the next, see `Window`.
        top: labels to name.
        tries: to connect in a row.
        overlay: MP4 to write of the frames that the model saw, with box and prediction; it is
            there when all has ended.

    Raises:
        ValueError: where the source is none, the model takes no streams, or ``overlay`` would lack
            frames between two predictions.
        DataError: where the source was given up, what was drawn until then is kept, or ended before
            the first prediction.
    """
    watcher = Watcher(predictor, every, top)
    if overlay and every and every > watcher.needed:
        raise ValueError(
            f"--overlay draws the {watcher.needed} frames that a prediction sees: give an --every"
            f" of {watcher.needed} or less"
        )
    failed: list[DataError] = []
    with Stop() as stop:
        steps = _told(watcher, moments(source, predictor.recipe.frames, rate, tries, stop), source)
        steps = _until_error(steps, failed)
        if overlay is None:
            for _ in steps:
                pass
        elif first := next(steps, None):
            with atomic(overlay) as aside:
                _film(chain([first], steps), aside, rate)
    if failed:
        raise failed[0]
    if not watcher.predicted and not stop.number:
        raise DataError(
            f"{told(source)}: ended after {watcher.frame} frames, and the first prediction needs"
            f" {watcher.needed}: raise --rate"
        )


def _until_error(steps: Iterator[Shown], failed: list[DataError]) -> Iterator[Shown]:
    """Steps, which end at an error as at an end, so that a film of them is closed and kept."""
    try:
        yield from steps
    except DataError as error:
        failed.append(error)


def _told(watcher: Watcher, frames: Iterator[Moment], source: str) -> Iterator[Shown]:
    """Prints each step, and gives it to draw."""
    for moment in frames:
        step = watcher(moment)
        if step is not None:
            facts = {"source": told(source), "runtime": watcher.predictor.runtime} | step.facts
            print(json.dumps(facts), flush=True)
            yield step


def _film(steps: Iterator[Shown], path: Path, rate: float) -> None:
    """Other sizes, as after another camera took the place of one, become the first's."""
    first = next(steps)
    height, width = first.moments[0].picture.shape[:2]
    images = (image for step in chain([first], steps) for image in drawn(step))
    encode((one.resize((width, height)).tobytes() for one in images), path, height, width, rate)


@dataclass(frozen=True)
class Shown:
    """A step, and what there is to draw of it."""

    facts: dict[str, Any]
    """Fit for JSON."""
    guess: Guess
    moments: list[Moment]
    """The frames since the last step."""
    times: np.ndarray
    """(F,), of the looks, in seconds"""
    boxes: list[Box | None]
    """Of them, on the pictures."""


def drawn(step: Shown) -> Iterator[Image.Image]:
    """The frames since the last step, each with the look that is nearest in time."""
    for moment in step.moments:
        nearest = int(np.abs(step.times - moment.time).argmin())
        image = Image.fromarray(moment.picture)
        draw(image, Step(moment.time, step.boxes[nearest], None, None), step.guess)
        yield image


class Watcher:
    """Steps a model through a stream; what it saw of a connection that broke is forgotten.

    Raises `ValueError` where the model takes no frames one by one.
    """

    def __init__(self, predictor: Predictor, every: int | None, top: int) -> None:
        self.predictor, self.every, self.top = predictor, every, top
        model = predictor.model
        if every is not None and not isinstance(model, UniAdaFocus):
            raise ValueError("--every is for Uni-AdaFocus: AdaFocus steps with each frame")
        self.predicted = False
        self.begin(connection=0)

    def begin(self, connection: int) -> None:
        self.connection, self.frame, self.told = connection, 0, 0
        model = self.predictor.model
        self.step: Callable[[Tensor], Output | None]
        if isinstance(model, UniAdaFocus):
            self.step, self.needed = model.window(self.every), model.shape.candidates
        else:
            assert isinstance(model, AdaFocus)
            self.step, self.needed = model.stream(), 1
        self.latest: deque[Moment] = deque(maxlen=self.needed)

    def __call__(self, moment: Moment) -> Shown | None:
        """What the next frame makes known, None where that waits for others."""
        if moment.connection != self.connection:
            self.begin(moment.connection)
        self.frame += 1
        self.latest.append(moment)
        frame = torch.from_numpy(moment.picture).permute(2, 0, 1)[None]
        seen, extent = crop_centre(frame, self.predictor.model.frame_size)
        out = self.step(seen.to(self.predictor.device))
        if out is None:
            return None
        self.predicted = True
        latest, first = list(self.latest), self.frame - len(self.latest)
        new = latest[-(self.frame - self.told) :]
        self.told = self.frame
        return self._tell(out, [latest[n - first] for n in out.frames[0].tolist()], new, extent)

    def _tell(self, out: Output, looked: list[Moment], new: list[Moment], extent: Tensor) -> Shown:
        boxes = out.looks.patches[0].cpu().expand(len(looked), 4)
        place = partial(boxes_on_video, boxes, self.predictor.model.frame_size, extent)
        now = new[-1]
        probabilities = out.logits[0, -1].softmax(-1).cpu()
        guesses = likeliest(probabilities, self.predictor.class_names, self.top)
        facts = {
            "connection": now.connection,
            "time": round(now.time, 3),
            "predictions": [asdict(guess) for guess in guesses],
            "looks": [
                {"time": round(look.time, 3), "box": box}
                for look, box in zip(looked, place(now.height, now.width), strict=True)
            ],
        }
        times = np.array([look.time for look in looked])
        return Shown(facts, guesses[0], new, times, place(*now.picture.shape[:2]))
