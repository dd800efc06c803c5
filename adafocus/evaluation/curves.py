"""Accuracy against GFLOPs: all there is to choose between for one data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from adafocus import tracking
from adafocus.data.batches import Batch
from adafocus.data.clips import Clips, sample_val
from adafocus.evaluation import again, flops
from adafocus.evaluation.exits import Calibration, calibrate, exit_steps, my_batches
from adafocus.evaluation.metrics import compute_metrics
from adafocus.evaluation.places import DRAWS
from adafocus.evaluation.summary import published_figures
from adafocus.figures import ways_to_spend_less
from adafocus.machine.device import FREE_SOME, name_what_fills_memory, pick_device, share_threads
from adafocus.machine.files import atomic, kept, remove_abandoned
from adafocus.model.adafocus import AdaFocus
from adafocus.model.checkpoint import assemble, read
from adafocus.model.exits import Exits, check_can_leave
from adafocus.model.video_model import Output, VideoModel
from adafocus.recipe import Recipe

BUDGETS = 16
"""Budgets between one step and all of them, evenly spaced."""
FEWER = 8
"""At most so many numbers of frames are tried."""
SHARE = 0.6
"""Of the GFLOPs of a model that skips nothing: there MLflow has each way's accuracy."""


def write_points(
    checkpoint: Path,
    *,
    data: Path,
    output: Path,
    seed: int,
    device: str,
    threads: int,
    tracking_uri: str,
    experiment: str | None = None,
    anew: str | None = None,
) -> None:
    """Measures one finished model in all ways to spend less, and writes a row for each point.

    All on the validation videos and on the same weights. ``all frames``: the model as it is.
    ``conditional exit``: with thresholds for `BUDGETS`, solved on the training videos. Baselines:
    ``random exit``, which leaves as many videos after each step, but which ones is drawn; and of
    AdaFocus ``fewer frames``, spread evenly, of a model that skips none; ``random frames``, where a
    model that skips frames looks at as many of each video, but which ones is drawn. An AdaFocus
    that looks once a video has the first way alone.

    Beside the checkpoint it leaves its `Calibration`. Points of which nothing has changed are not
    measured again.

    Args:
        checkpoint: of the method's last stage.
        data: the data set's folder, with its splits.
        output: the CSV to write; ``gflops``, ``steps`` and ``looks`` are means over videos of what
            was really spent, ``accuracy`` is in percent and of the recipe's metric.
        seed: fixes what is drawn.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads to use.
        tracking_uri: MLflow's store.
        experiment: the one that the points are of, where it shares the checkpoint of another.
        anew: any word; what was not measured under the same one is measured again.

    Raises:
        CheckpointError: where the checkpoint cannot be used.
        DataError: where the data cannot be read.
    """
    remove_abandoned(output.parent)
    torch_device = pick_device(device)
    workers = share_threads(threads, torch_device)
    source = read(checkpoint)
    recipe, patch_size = source.recipe.called(experiment), source.patch_size
    model = assemble(source, checkpoint).eval().to(torch_device).frozen()
    clips = Clips(data, "val", recipe, augment=False, seed=seed)
    exits, calibration = None, None
    if not (isinstance(model, AdaFocus) and recipe.model.looks_once):
        exits = check_can_leave(model, checkpoint)
        with name_what_fills_memory(FREE_SOME):
            calibration = calibrate(
                checkpoint, source, model, data, workers=workers, device=torch_device
            )
    name = f"{recipe.name}_{output.stem}_curve"
    record = output.with_name(f"{name}.run.json")
    fingerprint = again.fingerprint(
        source, data, early=calibration is not None, seed=seed, skip_cost=recipe.skip_cost
    )
    if (before := again.points_before(output, record, fingerprint, anew)) is not None:
        _leave(before, output)
        tqdm.write(f"{output}: measured before")
        return
    with tracking.run(
        tracking_uri,
        record=record,
        name=name,
        **tracking.identity(recipe, patch_size, source.stage, "curve", seed),
        parameters={"seed": seed, "checkpoint": checkpoint, "anew": anew},
        datasets=[tracking.dataset(recipe, "val", data, clips.digest, len(clips))],
        fingerprints=[fingerprint],
    ) as run:
        with name_what_fills_memory(FREE_SOME):
            passed = Pass(model, exits, clips, workers, torch_device, np.random.default_rng(seed))
            points = passed.all_frames()
            if calibration is not None:
                points += passed.early_exits(calibration)
            points += passed.baselines()
        model_facts = {"patch_size": patch_size, "skip_cost": recipe.skip_cost}
        table = pd.DataFrame([{"dataset": recipe.dataset, **model_facts, **row} for row in points])
        _leave(table.to_csv(index=False).encode(), output)
        cost = SHARE * passed.cost.total
        figures = {"all_frames": points[0]["accuracy"], "gflops_per_video": points[0]["gflops"]}
        for way, line in table.groupby("way"):
            if len(line) > 1 and line["gflops"].min() <= cost:
                name = f"{str(way).replace(' ', '_')}_at_{100 * SHARE:.0f}_percent"
                figures[name] = accuracy_at(line, cost)
        run.add_figures(figures, {})
        run.add_artifacts(output)


def _leave(table: bytes, output: Path) -> None:
    """Writes the points."""
    with atomic(output) as aside:
        aside.write_bytes(table)
    kept(output).unlink(missing_ok=True)


def accuracy_at(points: pd.DataFrame, gflops: float) -> float:
    """The accuracy of one way at that cost, between its points along a straight line; NaN where all
    of them cost more."""
    points = points.sort_values("gflops")
    return float(np.interp(gflops, points["gflops"], points["accuracy"], left=np.nan))


class Pass:
    """One pass over the validation clips in which the model sees each batch in every way.

    Args:
        exits: by which it leaves videos early, where it can.
    """

    def __init__(
        self,
        model: VideoModel,
        exits: Exits | None,
        clips: Clips,
        workers: int,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.exits, self.recipe, self.rng = model, exits, clips.recipe, rng
        self.frames = clips.recipe.model.frames
        self.cost = flops.per_step(self.recipe, model.patch_size)
        self.random = torch.Generator().manual_seed(int(rng.integers(2**31)))
        self.seen: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        labels = []
        for _, batch in my_batches(clips, workers, device, "curve"):
            labels.append(batch.labels.cpu())
            with torch.inference_mode():
                self._keep("all frames", model(batch.frames, batch.glance))
                if exits is None:
                    continue
                visited = exits.visit_all(batch.frames, batch.glance)
                self._keep("visited", visited, exits)
                if not isinstance(model, AdaFocus):
                    continue
                if model.skips:
                    for draw in range(DRAWS):
                        random = self._at_random_frames(model, batch)
                        self._keep(f"random frames {draw}", random)
                    continue
                for number in fewer(self.frames):
                    chosen = sample_val(self.frames, number).tolist()
                    self._keep(f"{number} frames", model(batch.frames[:, chosen]))
        self.labels = torch.cat(labels)

    def all_frames(self) -> list[dict[str, Any]]:
        """The model as it is."""
        logits, looks = self._seen("all frames")
        if isinstance(self.model, AdaFocus):
            return [self._point("all frames", logits, looks, self.recipe.model.steps)]
        # Steps are those after which it may leave.
        steps = self._seen("visited")[0].shape[1]
        return [self._point("all frames", logits, looks, steps, self.cost.total)]

    def early_exits(self, calibration: Calibration) -> list[dict[str, Any]]:
        """The conditional exit for each budget, and beside it the random one."""
        assert self.exits is not None  # as there is a calibration
        logits, looked = self._seen("visited")
        confidence = self.exits.confidence(logits).numpy()
        looks = looked.cumsum(1)
        spent = calibration.cost.spent(looked.numpy())
        videos = np.arange(len(logits))
        points = []
        of_steps: np.ndarray = calibration.gflops.mean(axis=0)
        for budget in np.linspace(of_steps[0], of_steps[-1], BUDGETS):
            steps = exit_steps(confidence, calibration.thresholds(budget))
            drawn = [self.rng.permutation(steps) for _ in range(DRAWS)]
            for way, exits in (("conditional exit", [steps]), ("random exit", drawn)):
                found = [
                    self._point(
                        way,
                        logits[videos, last],
                        looks[videos, last],
                        last + 1,
                        spent[videos, last].mean(),
                    )
                    for last in exits
                ]
                points.append(_mean(found) | {"budget": budget})
        return points

    def baselines(self) -> list[dict[str, Any]]:
        """Of a model that visits frame by frame: random frames, or fewer of them."""
        if self.exits is None or not isinstance(self.model, AdaFocus):
            return []
        return self.random_frames() if self.model.skips else self.fewer_frames()

    def fewer_frames(self) -> list[dict[str, Any]]:
        """Fewer of the model's frames, spread evenly over them, in their own order."""
        return [
            self._point("fewer frames", *self._seen(f"{number} frames"), number)
            for number in fewer(self.frames)
        ]

    def random_frames(self) -> list[dict[str, Any]]:
        """As many looks at each video as the model takes, but at frames that are drawn."""
        draws = [self._seen(f"random frames {draw}") for draw in range(DRAWS)]
        return [_mean([self._point("random frames", *draw, self.frames) for draw in draws])]

    def _at_random_frames(self, model: AdaFocus, batch: Batch) -> Output:
        policy = model.required_policy
        seen = model.glance(batch.glance)
        actions = policy(seen.maps).actions
        looked = actions.mode == actions.best_cell
        order = torch.rand(looked.shape, generator=self.random).argsort(-1)
        drawn = looked.take_along_dim(order.to(looked.device), dim=-1)
        corners = policy.corners(actions.best_cell, model.margin)
        looks = model.looks_at(corners, self.frames)._replace(skipped=~drawn)
        return Output(model.classifier(seen, model.focus(batch.frames, looks)), looks)

    def _keep(self, name: str, output: Output, exits: Exits | None = None) -> None:
        """The logits and whether there was a look; at all exits, or the last and how many."""
        logits, looks = output.logits.float().cpu(), output.looks.cpu()
        kept = (logits, exits.looked(looks)) if exits else (logits[:, -1], looks.looked.sum(-1))
        self.seen[name].append(kept)

    def _seen(self, name: str) -> tuple[Tensor, Tensor]:
        logits, looked = zip(*self.seen[name], strict=True)
        return torch.cat(logits), torch.cat(looked)

    def _point(
        self,
        way: str,
        logits: Tensor,
        looks: Tensor,
        steps: np.ndarray | int,
        gflops: float | None = None,
    ) -> dict[str, Any]:
        """A row; unless told what it cost, AdaFocus saw frames in order."""
        mean_steps = float(np.broadcast_to(steps, len(logits)).mean())
        mean_looks = looks.double().mean().item()
        if gflops is None:
            gflops = self.cost.visits[0] * mean_steps + self.cost.look * mean_looks
        return {
            "way": way,
            "budget": None,
            "gflops": gflops,
            "steps": mean_steps,
            "looks": mean_looks,
            "accuracy": compute_metrics(logits, self.labels)[self.recipe.metric],
        }


def fewer(frames: int) -> list[int]:
    """Numbers of frames to try, at most `FEWER` and all below ``frames``."""
    numbers: list[int] = np.linspace(1, frames, min(FEWER, frames - 1) + 1).astype(int).tolist()
    return numbers[:-1]


def _mean(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    numbers = ("gflops", "steps", "looks", "accuracy")
    return points[0] | {key: float(np.mean([row[key] for row in points])) for key in numbers}


def write_curve(
    points: Sequence[Path],
    recipe: Recipe,
    stem: Path,
    beside: Mapping[str, Sequence[Path]] | None = None,
) -> None:
    """Writes ``stem`` plus ``.csv`` and ``.svg``: the points of all models of an experiment.

    Args:
        points: what `write_points` wrote.
        recipe: the experiment's, for the published figures that are drawn beside.
        beside: points of other experiments on the same data set, by their names, which are drawn
            too.
    """
    remove_abandoned(stem.parent)
    table = pd.concat([pd.read_csv(path) for path in points], ignore_index=True)
    with atomic(stem.with_name(f"{stem.name}.csv")) as aside:
        table.to_csv(aside, index=False)
    figure = stem.with_name(f"{stem.name}.svg")
    published = published_figures(recipe)
    ways_to_spend_less(
        table,
        published,
        recipe.metric,
        figure,
        recipe.title,
        recipe.model_name,
        {
            name: pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
            for name, paths in (beside or {}).items()
        },
    )
