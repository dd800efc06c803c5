"""What other runtimes make of AdaFocus on this CPU: ONNX Runtime and OpenVINO, in float and int8.

    python benchmarks/runtimes.py

The very same models of `actnet` and `actnet-uni` at a patch size of 128, with random weights, are
computed by PyTorch, ONNX Runtime and OpenVINO, as `adafocus predict --runtime` does it. Beside them
are the plain reading of the papers, frame by frame, and what a person would pick instead: ResNet-50
on 16 whole frames in OpenVINO. What is compared takes turns in one run, medians of seven; all but
the reading frame by frame begin with bytes. Writes benchmarks/results/runtimes.json, by which
`adafocus.deploy.runtimes.FASTEST` is chosen. What `predict` takes for a file is measured by
`python benchmarks/data.py prediction`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import stepwise
import torch
from bench import RESULTS, Bench, settle
from machine import machine
from torch import Tensor, nn
from whole_frames import WholeFrames, gflops

from adafocus.deploy.export import export_onnx, to_onnx
from adafocus.deploy.quantize import quantize
from adafocus.deploy.runtimes import RUNNERS, Feed, on_runtime
from adafocus.evaluation import flops
from adafocus.model import checkpoint
from adafocus.model.checkpoint import Checkpoint
from adafocus.model.exits import ConditionalExit
from adafocus.model.video_model import VideoModel

REPEATS = 7
GOALS = {
    "four videos": 3.3,
    "one video": 3.5,
    "share of GFLOPs": 0.85,
    "share of GFLOPs in int8": 0.75,
    "int8": 1.6,
    "skipping": 0.75,
    "budget": 0.75,
}
SKIPPED, SPENT = 0.4, 0.6
WALKS: dict[str, Callable[[Any, Tensor], Any]] = {
    "actnet": lambda model, frames: stepwise.walk(model, frames, sample=False),
    "actnet-uni": stepwise.walk_uni,
}


class RuntimeBench(Bench):
    """The measurements of one model.

    Args:
        name: of its recipe.
        folder: for graphs.
        small: tiny networks and frames, to prove that all of it runs.
    """

    def __init__(self, name: str, folder: Path, small: bool) -> None:
        super().__init__("cpu", small)
        self.repeats, self.goals = 1 if small else REPEATS, GOALS
        self.name, self.folder = name, folder
        self.of_model, self.patch_size = recipe, size = self.recipe(name)
        self.plain = self.model(recipe, size)
        self.path = folder / f"{name}.safetensors"
        names = tuple(map(str, range(recipe.classes)))
        tensors = self.plain.state_dict()
        written = Checkpoint(tensors, recipe, recipe.last.name, size, names)
        checkpoint.write(self.path, written)
        self.models: dict[str, VideoModel] = {
            runtime: on_runtime(self.plain, self.path, recipe.model.glance_size, runtime)
            for runtime in ("torch", *RUNNERS)
        }
        self.whole = WholeFrames(recipe).eval()
        settle(self.whole.backbone, self.videos(recipe, 1, self.whole.frames))
        self.saved = gflops(recipe) / flops.count(recipe, size)["total"]
        self.fastest = {}
        """Runtime by number of videos."""

    def clips(self, count: int, frames: int | None = None) -> Tensor:
        return self.videos(self.of_model, count, frames or self.of_model.model.frames)

    def feed(self, frames: Tensor) -> Feed:
        return {"frames": frames.contiguous().numpy()}

    # --- the rows -----------------------------------------------------------------------------

    def float(self) -> None:
        """All runtimes, against frame by frame and against whole frames."""
        graph = self.folder / f"{self.name}-whole.onnx"
        to_onnx(self.whole, {"frames": self.clips(2, self.whole.frames)}, ["logits"]).save(graph)
        whole = RUNNERS["openvino"](graph, torch.get_num_threads())
        for count, key in ((self.batch, "four videos"), (1, "one video")):
            frames = self.clips(count)
            floats, seen = self.floats(frames), self.feed(self.clips(count, self.whole.frames))
            works = [lambda m=model, f=frames: m(f) for model in self.models.values()]
            works.append(lambda f=floats: WALKS[self.name](self.plain, f))
            works.append(lambda s=seen: whole(s))
            *seconds, plain, resnet = self.seconds(*works)
            each = dict(zip(self.models, seconds, strict=True))
            best = self.fastest[count] = min(each, key=each.__getitem__)
            ours, what = each[best], f"{self.name}, {key}, {best}"
            self.add(
                key, f"{what}, against frame by frame", ours, plain, plain / ours, seconds=each
            )
            self.add_share("share of GFLOPs", what, ours, resnet)

    def int8(self) -> None:
        """Both backbones in int8, in one graph as `adafocus export` writes it."""
        floats, int8 = self.folder / "float.onnx", self.folder / "int8.onnx"
        feed = self.feed(self.clips(self.batch))
        seen = self.feed(self.clips(self.batch, self.whole.frames))
        export_onnx(self.path, floats, "bytes")
        quantize(floats, int8, [feed])
        whole = self.folder / "whole-int8.onnx"
        quantize(self.folder / f"{self.name}-whole.onnx", whole, [seen], ["backbone.trunk"])

        threads = torch.get_num_threads()
        runs = [run(graph, threads) for run in RUNNERS.values() for graph in (floats, int8)]
        resnet = RUNNERS["openvino"](whole, threads)
        works = [lambda run=run: run(feed) for run in runs]
        *seconds, theirs = self.seconds(*works, lambda: resnet(seen))
        pairs = dict(zip(RUNNERS, zip(*[iter(seconds)] * 2, strict=True), strict=True))
        best = min(pairs, key=lambda runtime: pairs[runtime][1])
        for runtime, (before, ours) in pairs.items():
            what = f"{self.name} in int8, {self.batch} videos, {runtime}, against float"
            self.add("int8" if runtime == best else "", what, ours, before, before / ours)
        what = f"{self.name} in int8, {self.batch} videos, {best}"
        self.add_share("share of GFLOPs in int8", what, pairs[best][1], theirs)

    def skipping(self) -> None:
        """AdaFocus+, which skips frames, against the same model that does not."""
        runtime = self.fastest[self.batch]
        model, frames = self.models[runtime], self.clips(self.batch)
        policy = model.policy
        policy.learn_to_skip()
        head = policy.skip
        nn.init.normal_(head.weight)
        skips = policy(model.glance(frames).maps).actions.probs[..., -1].logit()
        with torch.no_grad():
            head.bias -= skips.flatten().quantile(1 - SKIPPED)
        share = float(model(frames).looks.skipped.float().mean())

        def predict(skip: nn.Linear | None) -> None:
            policy.skip = skip
            model(frames)

        ours, theirs = self.seconds(lambda: predict(head), lambda: predict(None))
        policy.skip = None
        what = f"{self.name}, {self.batch} videos, {runtime}, {share:.0%} of frames skipped"
        self.add("skipping", f"{what}, as a share of all", ours, theirs, ours / theirs)

    def budget(self) -> None:
        """Each video left when 60% of its GFLOPs are spent, against all frames."""
        runtime = self.fastest[1]
        model, frames = self.models[runtime], self.clips(1)
        cost = flops.per_visit(self.of_model, self.patch_size)
        total = flops.count(self.of_model, self.patch_size)["total"]
        spent = (cost.visits + cost.look).cumsum() / total
        last = max(int((spent <= SPENT).sum()), 1)
        thresholds = np.where(np.arange(1, len(spent) + 1) < last, np.inf, -np.inf)
        leaves = ConditionalExit(model, thresholds.tolist())
        ours, theirs = self.seconds(lambda: leaves(frames), lambda: model(frames))
        what = f"{self.name}, one video, {runtime}, left at {spent[last - 1]:.0%} of its GFLOPs"
        self.add("budget", f"{what}, as a share of all frames", ours, theirs, ours / theirs)

    def add_share(self, key: str, what: str, ours: float, resnet: float) -> None:
        self.add(
            key,
            f"{what}, against ResNet-50 on whole frames in OpenVINO, as a share of the ratio of"
            " GFLOPs",
            ours,
            resnet,
            resnet / ours / self.saved,
            faster=resnet / ours,
            gflops_ratio=self.saved,
        )


def facts() -> dict[str, Any]:
    """Of the machine, with what it has for int8."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    extensions = sorted(flags & {"avx_vnni", "avx512_vnni", "amx_int8"})
    versions = {name: version(name) for name in ("onnxruntime", "openvino")}
    return machine(torch.device("cpu")) | versions | {"int8_extensions": extensions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--small", action="store_true", help="prove that all of it runs")
    options = parser.parse_args()
    report: dict[str, Any] = {"machine": facts(), "rows": []}
    with TemporaryDirectory() as folder, torch.inference_mode():
        os.environ["XDG_CACHE_HOME"] = folder  # where graphs are kept
        for name in WALKS:
            bench = RuntimeBench(name, Path(folder), options.small)
            bench.rows = report["rows"]
            bench.float()
            if name == "actnet":
                bench.int8()
                bench.skipping()
            bench.budget()
    output = options.output / "runtimes.json"
    output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(output)


if __name__ == "__main__":
    main()
