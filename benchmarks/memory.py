"""How much of a GPU's memory the training of each stage takes.

    python benchmarks/memory.py                  # every recipe and stage, predicted, without a GPU
    python benchmarks/memory.py --device cuda    # some of them for real, beside what is predicted

A prediction runs a step with fake tensors, which have a shape and a type and no content, and adds
up what is alive at its peak: weights, gradients, the optimizer's state, the batch, what the
backward pass needs and what is there for a moment. Two things come on top on a real GPU: what CUDA
itself takes, about half a GiB, and cuDNN's workspaces.
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from machine import machine
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adafocus.data.batches import Batch
from adafocus.data.draws import Draws
from adafocus.machine.device import (
    channels_last,
    name_of,
    peak_memory,
    pick_precision,
    tune_cudnn,
)
from adafocus.methods import STAGES
from adafocus.model import frozen
from adafocus.model.building import build
from adafocus.recipe import SPECS, Recipe, load_recipe, parse_recipe
from adafocus.training.optimizer import build_optimizer
from adafocus.training.stage import Stage

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GIB = 2**30
PARTS = (None, 32, 16, 8)
"""Videos that go through at a time; None for the whole batch."""
MEASURED = (
    ("actnet", 128, "focuser"),
    ("actnet", 128, "glancer"),
    ("actnet", 128, "stage1"),
    ("actnet", 192, "stage1"),
    ("actnet", 192, "stage2"),
    ("actnet", 192, "stage3"),
    ("sthv1", 144, "focuser"),
    ("sthv1", 144, "stage1"),
    ("actnet-uni", 128, "joint"),
    ("sthv1-uni-8", 96, "joint"),
)


class Even(Draws):
    """Fake tensors cannot be drawn from an exponential distribution by a generator."""

    def exponential(self, shape: tuple[int, ...]) -> Tensor:
        return torch.ones((self.videos, *shape))[self.rows]


class OptimizerStep(NamedTuple):
    """A training step of a stage.

    Attributes:
        patch_size: in pixels.
        part: videos of the batch that go through at a time; None for all.
    """

    recipe: Recipe
    patch_size: int
    stage: str
    precision: torch.dtype
    part: int | None = None

    def begin(self, device: torch.device) -> Stage:
        """The stage as `fit` begins it, with random weights."""
        with device:
            model = build(self.recipe, self.patch_size)
        channels_last(model).set_precision(self.precision)
        training = self.recipe.stages[self.stage]
        stage = STAGES[self.stage](self.stage, model, training)
        stage.train_mode()
        return stage

    def optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        return build_optimizer(stage.training, stage.parts)

    def batch(self, device: torch.device) -> Batch:
        """Videos of no content."""
        shape, count = self.recipe.model, self.recipe.stages[self.stage].batch_size

        def videos(frames: int) -> Tensor:
            size = (count, frames, shape.frame_size, shape.frame_size, 3)
            return torch.zeros(size, dtype=torch.uint8, device=device).permute(0, 1, 4, 2, 3)

        frames = videos(shape.frames)
        glance = videos(shape.frames_apart) if shape.frames_apart else frames
        labels = torch.zeros((count, self.recipe.classes), dtype=torch.bool, device=device)
        index = torch.zeros(count, dtype=torch.int64, device=device)
        draws = Even(0, 1, 0, count, slice(0, count))
        return Batch(frames, glance, labels.float(), labels, index, None, draws)

    def run(
        self, stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch, parts: int | None = None
    ) -> None:
        """As the engine does it.

        Args:
            parts: ends after so many parts of the batch.
        """
        count = len(batch.labels)
        part = min(self.part or count, count)
        slices = [slice(first, first + part) for first in range(0, count, part)]

        def in_parts(batch: Batch, work: Callable[[Batch], Any]) -> list[Any]:
            return [work(batch if part == count else batch.part(rows)) for rows in slices]

        videos = stage.prepare(batch, in_parts)
        for rows in slices[:parts]:
            loss, _ = stage.loss(videos if part == count else videos.part(rows))
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


# --- predicted --------------------------------------------------------------------------------


class Tracker(TorchDispatchMode):
    """Adds up the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self._see(result.untyped_storage())
        return results

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.seen:
            self.seen.add(storage)
            size = storage.nbytes()
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.alive -= size


def fake(stage: Stage, device: torch.device) -> None:
    """Puts fake tensors of a device in the place of a stage's, which may be on ``meta``.

    Within a `FakeTensorMode`; modules of fake tensors cannot be moved.
    """
    fakes: dict[int, tuple[Tensor, Tensor]] = {}

    def faked(tensor: Tensor) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in fakes:
            new = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device
            )
            if isinstance(tensor, nn.Parameter):
                new = nn.Parameter(new, tensor.requires_grad)
            fakes[id(tensor)] = tensor, new
        return fakes[id(tensor)][1]

    for model in (stage.model, stage.frozen):
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    tensors[name] = None if tensor is None else faked(tensor)
            if isinstance(module, nn.GRU):
                module._init_flat_weights()


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Fake tensors are on a CPU, since GRUs and autocast need a real kind of device; frozen
    backbones take as many frames at once as they do on a GPU."""
    kept = frozen.MOST_PIXELS, frozen.CACHE, frozen.ONEDNN
    frozen.MOST_PIXELS, frozen.CACHE, frozen.ONEDNN = 4 * kept[0], 2**62, False
    try:
        yield
    finally:
        frozen.MOST_PIXELS, frozen.CACHE, frozen.ONEDNN = kept


def predicted(step: OptimizerStep) -> float:
    """GiB at the peak of a step, the optimizer having its state."""
    stage, cpu = step.begin(torch.device("meta")), torch.device("cpu")
    assert stage.frozen  # made before, as its layout is changed
    with as_on_a_gpu(), FakeTensorMode(), Tracker() as tracker:
        fake(stage, cpu)
        optimizer, batch = step.optimizer(stage), step.batch(cpu)
        for part in stage.parts.values():
            for weight in part.parameters():
                weight.grad = torch.zeros_like(weight)
        optimizer.step()  # which makes its state
        if step.part is None:
            optimizer.zero_grad(set_to_none=True)
        # Else it is as after the first part, which leaves gradients; all others are alike.
        step.run(stage, optimizer, batch, parts=1)
    return tracker.peak / GIB


# --- measured ---------------------------------------------------------------------------------


def measured(step: OptimizerStep, device: torch.device) -> float:
    """GiB that tensors held at most in real steps; on a CPU what the whole process did."""
    stage = step.begin(device)
    optimizer, batch = step.optimizer(stage), step.batch(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step.run(stage, optimizer, batch)
    return peak_memory(device) / GIB


# --- the tables -------------------------------------------------------------------------------


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Those that train networks of the same shapes once, with all their names."""
    names: dict[str, list[str]] = {}
    found: dict[str, Recipe] = {}
    for path in sorted((ROOT / "config" / "recipes").glob("*.yaml")):
        recipe = load_recipe(path)
        sizes = {spec.name: recipe.stages[spec.name].batch_size for spec in recipe.table}
        # The number of classes tells in megabytes, dropout in none.
        model = recipe.to_dict()["model"] | {"head_dropout": None}
        key = json.dumps([recipe.method, model, recipe.patch_sizes, sizes])
        names.setdefault(key, []).append(recipe.name)
        found.setdefault(key, recipe)
    for key, recipe in found.items():
        yield ", ".join(names[key]), recipe


def every_step(recipe: Recipe) -> Iterator[tuple[str, int]]:
    """Stages and patch sizes. Stage 0 has none, and stages 2 and 3 keep little that depends on it,
    so that the largest tells enough."""
    for stage in (spec.name for spec in recipe.table):
        first = 0 if stage in ("stage1", "joint") else -1
        yield from ((stage, size) for size in recipe.patch_sizes[first:])


def gibibytes(count: float) -> str:
    return f"{count:.1f}" if count >= 1 else f"{count:.2f}"


def predict_all() -> str:
    """The table of all recipes as Markdown."""
    lines = []
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    heads = [f"{name}, {part or 'whole'}" for name in precisions for part in PARTS]
    for names, recipe in recipes():
        lines += [f"**{names}**", "", f"| stage | patch | batch | {' | '.join(heads)} |"]
        lines.append("|---|" + "--:|" * (len(heads) + 2))
        for stage, patch_size in every_step(recipe):
            count = recipe.stages[stage].batch_size
            cells = [
                gibibytes(predicted(OptimizerStep(recipe, patch_size, stage, precision, part)))
                if part is None or part < count
                else ""
                for precision in precisions.values()
                for part in PARTS
            ]
            size = patch_size if SPECS[stage].of_patch_size else ""
            lines.append(f"| {stage} | {size} | {count} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
        lines.append("")
    text = (
        "GiB that the training of each stage takes at most, predicted by `benchmarks/memory.py`:"
        " the whole batch at once, or 32, 16 or 8 of its videos at a time, in fp32 and with"
        " backbones in bf16. CUDA itself takes about half a GiB more, and cuDNN its workspaces."
    )
    return "\n".join([text, "", *lines])


def as_predicted(step: OptimizerStep) -> str:
    """What ``memory.md`` says of a whole batch; to predict it again takes a machine that is lent
    for minutes longer than to measure it."""
    size = str(step.patch_size) if SPECS[step.stage].of_patch_size else ""
    for section in (RESULTS / "memory.md").read_text(encoding="utf-8").split("\n**")[1:]:
        names, _, table = section.partition("**\n")
        lines = [line for line in table.splitlines() if line.startswith("|")]
        heads, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
        for row in rows:
            if step.recipe.name in names.split(", ") and row[:2] == [step.stage, size]:
                return row[heads.index(f"{name_of(step.precision)}, whole")]
    raise ValueError(f"memory.md has no {step.recipe.name} {size} {step.stage}")


def measure_some(device: torch.device, small: bool, output: Path) -> None:
    """Writes ``memory_cuda.md`` or ``memory_cpu.md``, row by row."""
    facts = ", ".join(f"{key} {value}" for key, value in machine(device).items())
    lines = ["| recipe | patch | stage | precision | predicted, GiB | measured, GiB |"]
    lines.append("|---|--:|---|---|--:|--:|")
    precision = pick_precision("auto", device)
    for name, patch_size, stage in MEASURED:
        step = OptimizerStep(
            load_recipe(ROOT / "config" / "recipes" / f"{name}.yaml"), patch_size, stage, precision
        )
        expected = as_predicted(step)
        if small:
            step, expected = step._replace(recipe=shrunk(step.recipe), patch_size=32), "-"
        try:
            found = f"{measured(step, device):.1f}"
        except torch.OutOfMemoryError:
            found = "more than there is"
        row = (name, step.patch_size, stage, name_of(precision), expected, found)
        lines.append(f"| {' | '.join(map(str, row))} |")
        print(lines[-1], flush=True)
        text = "\n".join([*lines, "", f"Machine: {facts}.", ""])
        (output / f"memory_{device.type}.md").write_text(text, encoding="utf-8")


def shrunk(recipe: Recipe) -> Recipe:
    """Small frames and few videos, to prove that all of it runs."""
    values: dict[str, Any] = recipe.to_dict()
    values["model"]["frame_size"] = values["model"]["glance_size"] = 64
    values["patch_sizes"], values["published"], values["peers"] = [32], {}, []
    if recipe.method == "uni-adafocus":
        values["model"]["policy"] |= {"smallest": 24, "largest": 48}
    for stage in values["stages"].values():
        stage["batch_size"] = 2
    return parse_recipe(values, recipe.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), help="measure there")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--small", action="store_true", help="prove that all of it runs")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    if options.device is None:
        (options.output / "memory.md").write_text(predict_all(), encoding="utf-8")
        return
    if options.device == "cuda":
        tune_cudnn()
    measure_some(torch.device(options.device), options.small, options.output)


if __name__ == "__main__":
    main()
