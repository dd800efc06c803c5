"""How fast AdaFocus is, against the plain reading of the paper and against whole frames.

    python benchmarks/speed.py [--device cuda]

Every figure is a ratio of two things that are timed alternately in one run, medians of five. Writes
benchmarks/results/speed_cpu.json or speed_cuda.json and the same as a table beside it. Weights are
random; the patch size is 128 for `actnet`, 144 for `sthv1` and 96 for `sthv1-uni-8`.

The opponents get normalised floats, ours gets bytes, whose normalisation is part of its time.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from importlib.util import find_spec
from pathlib import Path

import learning
import predicting
from bench import RESULTS, Bench, table
from machine import machine

from adafocus.machine.device import keep_freed_memory, tune_cudnn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--small", action="store_true", help="prove that all of it runs")
    parser.add_argument("--peak", choices=("ours", "stepwise"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    tune_cudnn() if options.device == "cuda" else keep_freed_memory()
    bench = Bench(options.device, options.small)
    if options.peak:
        print(predicting.peak(bench, options.peak))
        return
    report = {"machine": machine(bench.device), "rows": bench.rows}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / f"speed_{options.device}.json"
    # Memory first, as a process begins with the peak of the one that it came from.
    measures = [predicting.memory, predicting.prediction, predicting.whole_frames, learning.updates]
    if options.device == "cuda" or options.small:
        measures.append(learning.computing)
    measures += [predicting.parts, predicting.skipping, learning.decoding]
    measures += [] if options.small else [predicting.compiling]
    if find_spec("mlflow") and find_spec("ffmpeg"):
        measures += [learning.imports, learning.job]
    else:
        print("no MLflow or ffmpeg-python: imports and a job's first batch are not measured")
    for measure in measures:
        try:
            measure(bench)
        except Exception as error:  # a machine lent for minutes must tell all that it can
            traceback.print_exc()
            bench.rows.append({"what": f"{measure.__name__} failed: {type(error).__name__}"})
        # What is measured stays, though the time may run out.
        file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        file.with_suffix(".md").write_text(table(report), encoding="utf-8")
    print(table(report))
    if not all("ours" in row for row in bench.rows):
        sys.exit("Not all could be measured.")


if __name__ == "__main__":
    main()
