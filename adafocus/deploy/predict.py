"""Predictions of single videos, from the file to names, times and boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from adafocus.data import DataError
from adafocus.data.clips import Centred, centred_indices, read_centred
from adafocus.data.decoder import Unusual, decode_some, stacked
from adafocus.data.ffmpeg import decode, encode
from adafocus.data.film import Timeline
from adafocus.data.frames import extract_alone
from adafocus.data.store import count_frames, read_frames
from adafocus.deploy.runtimes import Runtime, on_runtime, pick_runtime
from adafocus.evaluation.exits import Calibration
from adafocus.evaluation.flops import per_step
from adafocus.machine.device import pick_device, pick_precision
from adafocus.machine.files import atomic
from adafocus.model.checkpoint import CheckpointError, assemble, read
from adafocus.model.exits import ConditionalExit, check_can_leave
from adafocus.model.looks import Looks
from adafocus.recipe import Precision

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a patch in pixels."""


@dataclass(frozen=True)
class Guess:
    label: str
    probability: float


@dataclass(frozen=True)
class Step:
    """One look at the video."""

    time: float
    """Seconds from the first frame to the one looked at."""
    box: Box | None
    """Of the patch on the video's own frame; None where that was skipped."""
    label: str | None
    """The running prediction after this look; None where only the last look predicts (TSM)."""
    probability: float | None


@dataclass(frozen=True)
class Prediction:
    video: str
    guesses: tuple[Guess, ...]
    """The likeliest labels, likeliest first."""
    steps: tuple[Step, ...]
    """In the order in which the frames were visited; none where the video was left before."""
    gflops: float
    """What was spent: multiply-adds in billions."""
    runtime: Runtime
    """What computed it."""
    clip: Tensor = field(repr=False, compare=False)
    """uint8 (F, 3, S, S): the frames looked at, as the model sees them; evenly spread ones, without
    a patch, where the video was left before any look."""
    boxes: Tensor = field(repr=False, compare=False)
    """float32 (F, 4): top, left, height and width of each patch on them, -1 where there is none."""
    timeline: Timeline = field(repr=False, compare=False)
    """Of the whole video."""

    def to_dict(self) -> dict[str, Any]:
        """What is fit for JSON."""
        return {
            "video": self.video,
            "predictions": [asdict(guess) for guess in self.guesses],
            "steps": [asdict(step) for step in self.steps],
            "gflops": self.gflops,
            "runtime": self.runtime,
        }


class Seen(NamedTuple):
    """What the model sees of a video."""

    video: Path
    clip: Centred
    times: np.ndarray
    """When each of its frames is shown, in seconds from the first."""
    timeline: Timeline
    """Of the whole video."""


class Predictor:
    """Classifies video files with a checkpoint's model.

    A video becomes frames as in the data set that the checkpoint was trained on, so that a
    validation video gets the logits that its evaluation gave it, unless it is damaged where
    nothing has to be decoded, see `adafocus.data.decoder`.

    Args:
        checkpoint: of stage 2 or 3, or of a Uni-AdaFocus.
        device: ``auto``, ``cpu`` or ``cuda``.
        budget: GFLOPs per video in the mean, kept by leaving a video as soon as its prediction is
            sure enough (`adafocus.model.exits`), which the `Calibration` beside the checkpoint
            tells; None to look at all frames.
        precision: in which the backbones compute, see `pick_precision`.
        runtime: what computes; ``auto`` is the fastest that is installed, see `pick_runtime`.

    Raises:
        CheckpointError: where the checkpoint or its calibration cannot be used, or the model cannot
            leave early.
        ValueError: where the budget is too small, or the runtime cannot do it or is not installed.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "auto",
        budget: float | None = None,
        precision: Precision = "fp32",
        runtime: Runtime = "auto",
    ) -> None:
        checkpoint = Path(checkpoint)
        source = read(checkpoint)
        self.recipe, self.class_names = source.recipe, source.class_names
        # Other runtimes compute on the CPU, also where there is a GPU.
        by_torch = runtime in ("auto", "torch")
        self.device = pick_device("cpu" if device == "auto" and not by_torch else device)
        model = assemble(source, checkpoint).eval().to(self.device)
        if model.policy is None:
            raise CheckpointError(f"{checkpoint}: is of stage 1, which has no policy to look with")
        model.set_precision(pick_precision(precision, self.device))
        self.runtime = pick_runtime(runtime, model, self.device)
        self.model = on_runtime(model, checkpoint, self.recipe.model.glance_size, self.runtime)
        self.exits = None
        if budget is None:
            self.cost = per_step(self.recipe, self.model.patch_size)
        else:
            check_can_leave(self.model, checkpoint)
            calibration = Calibration.of(checkpoint, source)
            self.cost = calibration.cost
            self.exits = ConditionalExit(self.model, calibration.thresholds(budget).tolist())

    def __call__(self, video: str | Path, top: int = 5) -> Prediction:
        """Predicts one video, a file or a folder of JPEG files, which is taken as 25 per second.

        Raises:
            DataError: where it cannot be read.
        """
        return self.predict(self.read(video), top)

    def predict(self, seen: Seen, top: int = 5) -> Prediction:
        """What there is to tell of a video that is read, see `__call__`."""
        clip, times, timeline = seen.clip, seen.times, seen.timeline
        probabilities, frames, boxes, taken = self._look(clip)
        size = timeline.height, timeline.width
        on_video = boxes_on_video(boxes, self.model.frame_size, clip.extent, *size)[:taken]
        # A prediction after each look, or a single one after all.
        running = None if self.recipe.model.looks_once else probabilities[-taken:]
        steps = (
            Step(float(time), box, *self._likeliest(None if running is None else running[look]))
            for look, (time, box) in enumerate(zip(times[frames][:taken], on_video, strict=True))
        )
        visits, looks = self.cost.visits[: len(probabilities)], sum(map(bool, on_video))
        return Prediction(
            str(seen.video),
            likeliest(probabilities[-1], self.class_names, top),
            tuple(steps),
            float(visits.sum() + self.cost.look * looks),
            self.runtime,
            clip.frames[frames],
            boxes,
            timeline,
        )

    def read(self, video: str | Path, stopped: Event | None = None) -> Seen:
        """Decodes a video, of which in nearly all files only the frames that are seen are kept.

        It may be called in another thread than the rest, which sets ``stopped`` to end it.

        Raises:
            DataError: where it cannot be read.
        """
        video = Path(video)
        if video.is_fifo():  # of which nobody knows whether anything ever comes
            raise DataError("is a pipe, and parts of a film are read in turns: name a file")
        model = self.recipe.model
        try:
            pictures, film = decode_some(
                self.recipe.frames, video, partial(centred_indices, model=model), stopped
            )
        except Unusual:
            return self._extract(video)
        clip = read_centred(partial(stacked, pictures), len(film.times), model)
        return Seen(video, clip, film.times[clip.indices], film)

    def _extract(self, video: Path) -> Seen:
        """`read` of any video: all frames come to a store, as a data set's do, by one decoding."""
        with TemporaryDirectory() as folder:
            store, timeline = extract_alone(self.recipe.frames, video, Path(folder))
            count, rate = count_frames(store), self.recipe.frames.rate
            clip = read_centred(partial(read_frames, store), count, self.recipe.model)
            if timeline is None:
                height, width = read_frames(store, [0]).shape[-2:]
                timeline = Timeline(np.arange(count) / 25, count / 25, height, width)
                rate = None
        times = timeline.times if rate is None else np.arange(count) / rate
        if len(times) != count:
            raise DataError(f"{video}: {count} frames were extracted, of {len(times)}")
        return Seen(video, clip, times[clip.indices], timeline)

    @torch.inference_mode()
    def _look(self, clip: Centred) -> tuple[Tensor, np.ndarray, Tensor, int]:
        """Probabilities (S, K) after each step, F frames (F,) and the boxes (F, 4) there, see
        `Prediction.clip`, and at how many of them it got to look: all or none."""
        frames = clip.frames[None].to(self.device)
        glance = None if clip.glance is None else clip.glance[None].to(self.device)
        if self.exits is None:
            logits, looks = self.model(frames, glance)
            taken = looks.frames.shape[1]
        else:
            logits, looks, steps = self.exits(frames, glance)
            logits, taken = logits[:, : int(steps)], self.exits.exits.looks_after(int(steps))
            if taken:
                looks = Looks(*(part[:, :taken] for part in looks))
        [looked_at], [boxes] = looks.frames.cpu().numpy(), looks.patches.cpu()
        return logits[0].softmax(-1).cpu(), looked_at, boxes.expand(len(looked_at), 4), taken

    def _likeliest(self, probabilities: Tensor | None) -> tuple[str | None, float | None]:
        if probabilities is None:
            return None, None
        return self.class_names[int(probabilities.argmax())], float(probabilities.max())

    def sheet(self, prediction: Prediction, path: Path) -> None:
        """Draws the frames looked at with their patches."""
        from adafocus.figures import SheetClip, contact_sheet  # here, as matplotlib takes long

        guess = prediction.guesses[0]
        row = SheetClip(
            prediction.clip.numpy(),
            prediction.boxes.numpy(),
            truth=None,
            prediction=guess.label,
            right=False,
            probability=guess.probability,
        )
        contact_sheet([row], path, Path(prediction.video).name)


def likeliest(probabilities: Tensor, names: Sequence[str], top: int) -> tuple[Guess, ...]:
    """The classes that (K,) probabilities say, likeliest first."""
    best = probabilities.topk(min(top, len(names)))
    return tuple(
        Guess(names[label], probability)
        for probability, label in zip(*map(Tensor.tolist, best), strict=True)
    )


def boxes_on_video(
    boxes: Tensor, frame_size: int, extent: Tensor, height: int, width: int
) -> list[Box | None]:
    """Patches in the pixels of a video, None for a frame that was skipped.

    Args:
        boxes: (F, 4) in pixels of the frames' centre, see `Prediction.boxes`.
        frame_size: side of that centre in pixels.
        extent: height and width of the whole frames in units of it.
        height: of the video's own frames.
        width: of them.
    """
    corners, sides = boxes.double().split(2, dim=-1)
    edges = torch.stack((corners, corners + sides), 1) / frame_size
    of_frame = 0.5 + (edges - 0.5) / extent
    pixels = of_frame * torch.tensor([height, width])
    skipped = (sides < 0).all(-1).tolist()
    return [
        None if skip else (left, top, right, bottom)
        for skip, (left, top, right, bottom) in zip(
            skipped, pixels.flip(-1).flatten(1).round(decimals=2).tolist(), strict=True
        )
    ]


def overlay(prediction: Prediction, path: Path) -> None:
    """Writes the video as H.264 with the patch and the running prediction drawn on it.

    Each frame shows the look that is nearest in time, where there was any. Frames are shown at the
    video's mean rate.

    Raises:
        DataError: where the video cannot be read again or ``path`` not be written.
    """
    times = prediction.timeline
    rate = len(times.times) / times.end if times.end else 25
    # A video that was left before any look has the final prediction alone.
    steps = prediction.steps or (Step(0, None, None, None),)
    looks = np.array([step.time for step in steps])
    nearest = np.abs(times.times[:, None] - looks).argmin(1)

    def drawn() -> Iterator[bytes]:
        frames = decode(Path(prediction.video), times)
        for frame, look in zip(frames, nearest, strict=True):
            image = Image.fromarray(frame)
            draw(image, steps[look], prediction.guesses[0])
            yield image.tobytes()

    with atomic(path) as aside:
        encode(drawn(), aside, times.height, times.width, rate)


def draw(image: Image.Image, step: Step, final: Guess) -> None:
    """Draws the patch as a box and the prediction as a line of text at the top."""
    from adafocus.figures import YELLOW  # here, as it takes long
    from adafocus.figures.fonts import font_for
    from adafocus.figures.style import short

    canvas = ImageDraw.Draw(image)
    thickness = max(1, image.height // 120)
    if step.box is not None:
        left, top, right, bottom = step.box
        canvas.rectangle((left, top, right - 1, bottom - 1), outline=YELLOW, width=thickness)
    text = f"{short(step.label or final.label)} {step.probability or final.probability:.0%}"
    font = ImageFont.truetype(font_for(text), max(9, image.height // 20))
    canvas.rectangle(canvas.textbbox((2, 1), text, font), fill="black")
    canvas.text((2, 1), text, fill="white", font=font)
