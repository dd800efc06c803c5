"""How fast a model predicts, and in how much memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import stepwise
import torch
from bench import PATCH_SIZES, ROOT, Bench, settle
from torch import Tensor
from whole_frames import WholeFrames, gflops

from adafocus.evaluation import flops
from adafocus.machine.device import peak_memory
from adafocus.model.frozen import FrozenBackbone
from adafocus.model.looks import Looks


def prediction(bench: Bench) -> None:
    _step_by_step(bench, "actnet", "", lambda m, f: stepwise.walk(m, f, sample=False))
    recipe, patch_size = bench.recipe("actnet")
    plain = bench.model(recipe, patch_size)
    if bench.low == torch.bfloat16:
        model = bench.model(recipe, patch_size, bench.low).frozen()
        frames = bench.videos(recipe, bench.batch, recipe.model.frames)
        floats = bench.floats(frames)

        def walk() -> None:
            with bench.autocast():
                stepwise.walk(plain, floats, sample=False)

        with torch.inference_mode():
            ours, theirs = bench.seconds(lambda: model(frames), walk)
        what = f"prediction in bf16, {bench.batch} videos, against step by step"
        bench.add("prediction in bf16", what, ours, theirs, theirs / ours)
    _step_by_step(bench, "actnet-uni", "Uni-AdaFocus, ", stepwise.walk_uni)


def _step_by_step(bench: Bench, name: str, whose: str, walk: Callable[[Any, Tensor], Any]) -> None:
    recipe, patch_size = bench.recipe(name)
    plain = bench.model(recipe, patch_size)
    model = plain.frozen()
    for key, count in (("prediction", bench.batch), ("latency", 1)):
        frames = bench.videos(recipe, count, recipe.model.frames)
        floats = bench.floats(frames)
        with torch.inference_mode():
            ours, theirs = bench.seconds(
                lambda frames=frames: model(frames), lambda floats=floats: walk(plain, floats)
            )
        what = f"{whose}{key}, {count} videos, against step by step"
        bench.add(f"{whose}{key}", what, ours, theirs, theirs / ours)


def whole_frames(bench: Bench) -> None:
    for name in PATCH_SIZES:
        recipe, patch_size = bench.recipe(name)
        model = bench.model(recipe, patch_size, bench.low).frozen()
        whole = WholeFrames(recipe).to(bench.device)
        whole.backbone.precision = bench.low
        settle(whole.backbone, bench.videos(recipe, 1, whole.frames))
        whole.backbone = FrozenBackbone(whole.backbone)
        shape = recipe.model
        frames = bench.videos(recipe, bench.batch, shape.frames)
        # Only who glances at frames apart takes them.
        glance = bench.videos(recipe, bench.batch, shape.frames_apart or shape.frames)
        seen = bench.videos(recipe, bench.batch, whole.frames)
        with torch.inference_mode():
            ours, theirs = bench.seconds(
                lambda m=model, f=frames, g=glance: m(f, g), lambda w=whole, s=seen: w(s)
            )
        saved = gflops(recipe) / flops.count(recipe, patch_size)["total"]
        bench.add(
            "prediction, share of GFLOPs",
            f"prediction, {name} {patch_size}, {bench.batch} videos, against whole frames, "
            "as a share of the ratio of GFLOPs",
            ours,
            theirs,
            theirs / ours / saved,
            faster=theirs / ours,
            gflops_ratio=saved,
        )


def parts(bench: Bench) -> None:
    """What each network alone makes of the machine: where the share of GFLOPs is lost."""
    recipe, patch_size = bench.recipe("actnet")
    model = bench.model(recipe, patch_size, bench.low).frozen()
    frames = bench.videos(recipe, bench.batch, recipe.model.frames)
    patches = frames[..., :patch_size, :patch_size]
    counts = flops.count(recipe, patch_size)["parts"]
    works = (
        ("glancer on whole frames", counts["glancer"], lambda: model.glancer(frames)),
        ("focuser on patches", counts["focuser"], lambda: model.focuser(patches)),
        ("focuser on whole frames", gflops(recipe), lambda: model.focuser(frames)),
    )
    with torch.inference_mode():
        seconds = bench.seconds(*(work for *_, work in works))
    for (what, count, _), taken in zip(works, seconds, strict=True):
        rate = count * bench.batch / taken
        bench.rows.append({"what": f"{what}, GFLOPs a second", "ours": rate})
        print(f"{what}: {rate:.0f} GFLOPs a second", flush=True)


def skipping(bench: Bench) -> None:
    """Whether a skipped frame saves its time: the focuser where 40% of frames are skipped."""
    recipe, patch_size = bench.recipe("actnet")
    skipping = recipe.skipping(recipe.skip_costs[0])
    model = bench.model(skipping, patch_size, bench.low).frozen()
    frames = bench.videos(recipe, bench.batch, recipe.model.frames)
    looks = Looks.at(model.random_boxes(*frames.shape[:2]).to(bench.device), frames.shape[1])
    some, total = looks._replace(skipped=looks.skipped.clone()), looks.skipped.numel()
    skipped = torch.randperm(total, device=bench.device)[: round(0.4 * total)]
    some.skipped.view(-1)[skipped] = True
    with torch.inference_mode():
        ours, theirs = bench.seconds(
            lambda: model.focus(frames, some), lambda: model.focus(frames, looks)
        )
    share = 1 - len(skipped) / total
    what = f"focuser, {100 * share:.0f}% of frames, against all, as a share of that"
    bench.add("skipping", what, ours, theirs, ours / theirs / share)


def compiling(bench: Bench) -> None:
    """Whether `torch.compile` pays within an evaluation: what it takes and what it gives."""
    if bench.device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        print("no C++ compiler: torch.compile is not measured")
        return
    recipe, patch_size = bench.recipe("actnet")
    plain = bench.model(recipe, patch_size, bench.low)
    model, compiled = plain.frozen(), plain.frozen()
    for backbone in (compiled.glancer, compiled.focuser):
        for name, part in backbone.trunk.named_children():
            setattr(backbone.trunk, name, torch.compile(part, options={"freezing": True}))
    frames = bench.videos(recipe, bench.batch, recipe.model.frames)
    with torch.no_grad():
        started = bench.now()
        compiled(frames)
        taken = bench.now() - started
        ours, theirs = bench.seconds(lambda: model(frames), lambda: compiled(frames))
    what = f"prediction against compiled, which takes {taken:.0f} s to compile"
    bench.add("compiled", what, ours, theirs, theirs / ours)


def memory(bench: Bench) -> None:
    """Each in a process of its own."""
    peaks = []
    for who in ("ours", "stepwise"):
        command = [
            sys.executable,
            ROOT / "benchmarks" / "speed.py",
            "--device",
            bench.device.type,
            "--peak",
            who,
        ]
        command += ["--small"] * bench.small
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout) / 1e6)
    what = f"peak memory of prediction, {bench.batch} videos, MB, against step by step"
    bench.add("memory", what, *peaks, peaks[0] / peaks[1])


def peak(bench: Bench, who: str) -> float:
    """Bytes that one prediction takes at most, with all that it needs."""
    recipe, patch_size = bench.recipe("actnet")
    model = bench.model(recipe, patch_size)
    frames = bench.videos(recipe, bench.batch, recipe.model.frames)
    with torch.inference_mode():
        if who == "ours":
            model = model.frozen()
            model(frames)
        else:
            stepwise.walk(model, bench.floats(frames), sample=False)
    return peak_memory(bench.device)
