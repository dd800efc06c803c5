"""The command line, `adafocus`."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Literal

import typer

from adafocus import __version__
from adafocus.commands import project, share
from adafocus.commands.errors import one_line_errors
from adafocus.machine.files import check_outputs
from adafocus.project import known_recipes
from adafocus.recipe import (
    SPECS,
    Config,
    Precision,
    UniRecipe,
    find_recipe,
    load_recipe,
    parse_micro_batch,
)

# Each command imports what it needs itself: torch takes seconds, which --help need not.

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)

# What a stage is stands in `SPECS` alone, of which mypy sees no members.
StageName = StrEnum("StageName", list(SPECS))  # type: ignore[misc]
PolicyStage = StrEnum(  # type: ignore[misc]
    "PolicyStage", [name for name, spec in SPECS.items() if spec.has_policy]
)
Device = StrEnum("Device", ["auto", "cpu", "cuda"])

RecipeFile = Annotated[Path, typer.Option("--recipe", help="The data set's recipe, a YAML file.")]
DataFolder = Annotated[Path, typer.Option("--data", help="The data set's folder; holds splits/.")]
SeedOption = Annotated[int, typer.Option(help="Fixes the run; on a CPU bit for bit.")]
DeviceName = Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")]
Threads = Annotated[
    int, typer.Option(min=1, help="CPU threads to use.", show_default="all, at most 8")
]
THREADS = min(os.cpu_count() or 1, 8)
PrecisionOption = Annotated[
    Precision,
    typer.Option(help="In which backbones compute; auto is bf16 on GPUs that are made for it."),
]
Anew = Annotated[
    str | None, typer.Option(help="Any word; what was not begun under the same one starts over.")
]
Budget = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="GFLOPs per video: leave those early that are sure; not for sthv1, sthv2.",
    ),
]
RuntimeOption = Annotated[
    Literal["auto", "torch", "onnx", "openvino"],
    typer.Option(help="What computes; auto is the fastest that is installed."),
]
Top = Annotated[int, typer.Option(min=1, help="Labels to name, likeliest first.")]
TrackingUri = Annotated[
    str, typer.Option(help="MLflow's store; MLFLOW_TRACKING_URI in the environment goes before it.")
]

DEFAULT_STORE = Config.model_fields["tracking_uri"].default


def _tell_version(asked: bool) -> None:
    if asked:
        print(f"adafocus {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True),
    ] = False,
) -> None:
    """AdaFocus: accurate, cheap video recognition by looking hard only where it matters."""
    if isinstance(sys.stdout, TextIOWrapper):  # names of files need not be text
        sys.stdout.reconfigure(errors="backslashreplace")


@app.command()
def train(
    recipe: RecipeFile,
    stage: Annotated[StageName, typer.Option(help="What to train.")],
    data: DataFolder,
    output: Annotated[Path, typer.Option(help="The checkpoint to write, *.safetensors.")],
    patch_size: Annotated[
        int | None, typer.Option(help="In pixels; for stage1, stage2 and stage3.")
    ] = None,
    skip_cost: Annotated[
        float | None,
        typer.Option(help="Let the policy skip frames, at this cost of a look; for stages 2, 3."),
    ] = None,
    init: Annotated[
        list[Path] | None,
        typer.Option(help="Checkpoint to start from; give it once for each."),
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option(help="Training curves to draw; beside the checkpoint if not given."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceName = Device.auto,
    threads: Threads = THREADS,
    tracking_uri: TrackingUri = DEFAULT_STORE,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0, help="Save the state after so many, and after every epoch.")
    ] = Config.model_fields["checkpoint_minutes"].default,
    precision: PrecisionOption = "auto",
    micro_batch: Annotated[
        str, typer.Option(help="Videos of a batch to take at a time; auto: as many as fit.")
    ] = "auto",
    anew: Anew = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value of the recipe, stages.stage2.epochs=5."),
    ] = None,
    trial: Annotated[
        Path | None,
        typer.Option(help="Resume file of a sweep's trial at the same rates, to go on from."),
    ] = None,
) -> None:
    """Train one stage."""
    with one_line_errors():
        check_outputs([output, curves], [recipe, *(init or ()), trial])
        checked = load_recipe(recipe, set_ or [])
        videos_at_a_time = parse_micro_batch(micro_batch)
        if not SPECS[stage].of_patch_size:
            if patch_size is not None:
                raise ValueError(f"--patch-size is not for {stage}: all patch sizes share it")
        elif patch_size is None:
            sizes = ", ".join(map(str, checked.patch_sizes))
            raise ValueError(f"{stage} needs --patch-size; {recipe} allows: {sizes}")
        else:
            checked.check_patch_size(patch_size)
        if skip_cost is not None:
            if not SPECS[stage].has_policy:
                raise ValueError(f"--skip-cost is not for {stage}, which has no policy")
            checked = checked.skipping(skip_cost)

        from adafocus import methods
        from adafocus.machine.distributed import alone, joined

        with joined(device.value), alone(output, "adafocus train"):
            methods.train(
                checked,
                stage.value,
                patch_size,
                data=data,
                init=init or [],
                output=output,
                curves=curves or output.with_suffix(".curves.svg"),
                seed=seed,
                device=device.value,
                threads=threads,
                tracking_uri=tracking_uri,
                checkpoint_minutes=checkpoint_minutes,
                precision=precision,
                micro_batch=videos_at_a_time,
                anew=anew,
                trial=trial,
            )


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Of stage 1, 2 or 3.")],
    data: DataFolder,
    output: Annotated[Path, typer.Option(help="The result to write, *.json.")],
    plots: Annotated[Path, typer.Option(help="Folder to draw figures in.")],
    budget: Budget = None,
    seed: SeedOption = 0,
    device: DeviceName = Device.auto,
    threads: Threads = THREADS,
    tracking_uri: TrackingUri = DEFAULT_STORE,
    precision: PrecisionOption = "fp32",
    anew: Anew = None,
    experiment: Annotated[
        str | None, typer.Option(help="What the result is of; by default what was trained.")
    ] = None,
) -> None:
    """Measure a checkpoint and its baselines on the validation videos."""
    with one_line_errors():
        check_outputs([output], [checkpoint])
        from adafocus import evaluation
        from adafocus.machine.distributed import alone, joined

        with joined(device.value), alone(output, "adafocus evaluate"):
            evaluation.evaluate(
                checkpoint,
                data=data,
                output=output,
                plots=plots,
                seed=seed,
                device=device.value,
                threads=threads,
                tracking_uri=tracking_uri,
                budget=budget,
                anew=anew,
                precision=precision,
                experiment=experiment,
            )


@app.command()
def predict(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders of them.")],
    checkpoint: Annotated[Path, typer.Option(help="Of stage 2 or 3.")],
    budget: Budget = None,
    top: Top = 5,
    json_: Annotated[
        Path | None, typer.Option("--json", help="File to write, one line of JSON per video.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="MP4 to write: the video with patch and prediction drawn.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="PNG to write: the looks side by side.")
    ] = None,
    device: DeviceName = Device.auto,
    precision: PrecisionOption = "fp32",
    runtime: RuntimeOption = "auto",
) -> None:
    """Name what videos show, and where the model looked."""
    with one_line_errors():
        from adafocus.data.listing import find_videos, holds_frames
        from adafocus.deploy import predict
        from adafocus.deploy.folder import predict_all
        from adafocus.machine.files import sha256

        files = []
        for path in videos:
            is_folder = path.is_dir() and not holds_frames(path)
            files += sorted(find_videos(path)) if is_folder else [path]
        if not files:
            raise ValueError(f"{', '.join(map(str, videos))}: holds no video")
        if len(files) > 1 and (overlay or sheet):
            raise ValueError(f"--overlay and --sheet are for one video, not {len(files)}")
        check_outputs([json_, overlay, sheet], [checkpoint, *files])
        predictor = predict.Predictor(checkpoint, device.value, budget, precision, runtime)
        options = {
            "--checkpoint": sha256(checkpoint),
            "--budget": budget,
            "--precision": str(predictor.model.precision),
            "--runtime": predictor.runtime,
            "--top": top,
        }

        def draw(prediction: predict.Prediction) -> None:
            if overlay:
                predict.overlay(prediction, overlay)
            if sheet:
                predictor.sheet(prediction, sheet)

        predict_all(predictor, files, top, json_, options, draw)


@app.command()
def watch(
    source: Annotated[str, typer.Argument(help="rtsp://, http:// or https://, a device, a file.")],
    checkpoint: Annotated[Path, typer.Option(help="Of stage 2 or 3, or of a Uni-AdaFocus.")],
    rate: Annotated[
        float, typer.Option(min=0.001, help="Frames a second that the model sees.")
    ] = 1.0,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Uni-AdaFocus: frames from one prediction to the next."),
    ] = None,
    top: Top = 5,
    overlay: Annotated[
        Path | None, typer.Option(help="MP4 to write, of these frames with box and prediction.")
    ] = None,
    tries: Annotated[int, typer.Option(min=1, help="To connect in a row, then it gives up.")] = 10,
    device: DeviceName = Device.auto,
    precision: PrecisionOption = "fp32",
    runtime: RuntimeOption = "auto",
) -> None:
    """Say what a stream shows while it goes on: a line of JSON per step."""
    with one_line_errors():
        from adafocus.data.live import check_source
        from adafocus.deploy.predict import Predictor
        from adafocus.deploy.watch import watch_source

        check_source(source)
        check_outputs([overlay], [checkpoint, Path(source)])
        predictor = Predictor(checkpoint, device.value, None, precision, runtime)
        watch_source(
            predictor, source, rate=rate, every=every, top=top, tries=tries, overlay=overlay
        )


@app.command("sync-tracking")
def sync_tracking(
    folder: Annotated[Path, typer.Argument(help="Where the runs were left.")] = Path("results"),
    tracking_uri: TrackingUri = DEFAULT_STORE,
) -> None:
    """Upload to MLflow what it missed of the runs on disk."""
    with one_line_errors():
        from adafocus import tracking

        runs, lacking, left_out = tracking.sync(folder, tracking_uri)
        print(f"{folder}: {runs} runs, of which MLflow lacked something of {lacking}")
        if left_out:
            raise ValueError(f"{left_out} of {runs} runs could not be uploaded, see above")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Option(help="Of stage 2 or 3, or of a Uni-AdaFocus.")],
    onnx: Annotated[Path | None, typer.Option(help="File to write, *.onnx.")] = None,
    parts: Annotated[
        Path | None, typer.Option(help="Folder to write instead, with a graph of each part.")
    ] = None,
    input_: Annotated[
        Literal["floats", "bytes"],
        typer.Option("--input", help="What it takes: frames already normalised, or uint8 RGB."),
    ] = "floats",
    int8: Annotated[
        bool, typer.Option("--int8", help="Backbones in int8; tells beside the file what it costs.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="With --int8: the data set's folder; holds splits/.")
    ] = None,
) -> None:
    """Write a model for other runtimes."""
    with one_line_errors():
        if int8 != (data is not None):
            raise ValueError("--int8 and --data go together: videos show the ranges of values")
        if parts is not None:
            if onnx is not None or int8:
                raise ValueError("--parts goes with neither --onnx nor --int8")
            from adafocus.deploy.parts import export_parts

            export_parts(checkpoint, parts, input_)
            print(f"{parts}: four graphs, of {input_}, and parts.json, which says how to join them")
            return
        if onnx is None:
            raise ValueError("give --onnx FILE, or --parts FOLDER")
        check_outputs([onnx], [checkpoint])
        if data is None:
            from adafocus.deploy.export import export_onnx

            told = export_onnx(checkpoint, onnx, input_)
        else:
            from adafocus.deploy.quantize import export_int8

            cost = export_int8(checkpoint, onnx, data, input_)
            told = (
                f"{cost['metric']} of {cost['videos']} videos: {cost['int8']:.2f} in int8,"
                f" {cost['float']:.2f} in float"
            )
    print(f"{onnx}: takes batches of any size, of {input_}; {told}")


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="A checkpoint that the authors published.")],
    output: Annotated[Path, typer.Argument(help="Ours to write, *.safetensors.")],
    dataset: Annotated[str, typer.Option(help="Name of a recipe in config/recipes.")],
    patch_size: Annotated[
        int | None, typer.Option(help="In pixels; all patch sizes share stage 0's, which has none.")
    ] = None,
    stage: Annotated[
        PolicyStage, typer.Option(help="What a file with a policy is; others tell themselves.")
    ] = PolicyStage["stage3"],
    classes: Annotated[
        Path | None, typer.Option(help="Class names, one a line; numbers if not given.")
    ] = None,
) -> None:
    """Turn a checkpoint of the authors into one of ours."""
    with one_line_errors():
        check_outputs([output], [source, classes])
        recipe = find_recipe(known_recipes(), dataset)
        if patch_size is not None:
            recipe.check_patch_size(patch_size)

        from adafocus.data.forms import read_class_list
        from adafocus.model import checkpoint
        from adafocus.model.published import import_published
        from adafocus.model.published_uni import import_uni

        names = None if classes is None else tuple(read_class_list(classes))
        if isinstance(recipe, UniRecipe):
            imported = import_uni(source, recipe, patch_size, class_names=names)
        else:
            imported = import_published(
                source, recipe, patch_size, class_names=names, policy_stage=stage.value
            )
        checkpoint.write(output, imported)
    print(f"{output}: {imported.stage} of {dataset}, {len(imported.tensors)} tensors")


@app.command()
def flops(
    dataset: Annotated[str, typer.Option(help="Name of a recipe in config/recipes.")],
    patch_size: Annotated[int, typer.Option(help="In pixels.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the multiply-adds of one video, part by part."""
    with one_line_errors():
        recipe = find_recipe(known_recipes(), dataset)
        recipe.check_patch_size(patch_size)

        from adafocus.evaluation.flops import count

        gflops = count(recipe, patch_size)
    if as_json:
        print(json.dumps(gflops))
        return
    for part, value in {**gflops["parts"], "total": gflops["total"]}.items():
        print(f"{part:<12} {value:8.3f} GFLOPs")


app.add_typer(project.app)
app.add_typer(share.app)
