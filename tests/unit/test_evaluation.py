"""The evaluation run on noise: its figures equal those of plain forward passes."""

import csv
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from noise import CLASSES, SIZE, store_in, tiny_recipe
from PIL import Image
from torchvision.io import write_jpeg

from adafocus import evaluation
from adafocus.data.batches import Batch, EpochSampler, loader
from adafocus.data.clips import Clips
from adafocus.data.draws import Draws
from adafocus.evaluation.again import measured_before
from adafocus.evaluation.metrics import compute_metrics
from adafocus.evaluation.places import DRAWS
from adafocus.evaluation.predictions import Predictions
from adafocus.machine.files import keep
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint, CheckpointError, load, read, write
from adafocus.model.patches import centred_corners
from adafocus.recipe import SPECS, SweepBudget, parse_recipe

VIDEOS, FRAMES, PATCH = 7, 6, 32
CPU = torch.device("cpu")


def recipe_of(family):
    """The tiny recipe; in the GRU family the truth's positions are known."""
    values = tiny_recipe(family).to_dict()
    values["published"] = {PATCH: {"top1": 50.0, "gflops": 1.0, "verified": False}}
    if family == "gru":
        values["annotations"]["positions"] = "positions.csv"
    return parse_recipe(values, "tiny.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of noise; the first video has two labels."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "splits").mkdir()
    (folder / "annotations").mkdir()
    with (
        (folder / "splits" / "val.csv").open("w", newline="") as split,
        (folder / "annotations" / "positions.csv").open("w", newline="") as truth,
    ):
        table, positions = csv.writer(split), csv.writer(truth)
        table.writerow(["video", "path", "frames", "labels"])
        positions.writerow(["video", "frame", "y", "x"])
        for i in range(VIDEOS):
            video = folder / "videos" / f"v{i}"
            video.mkdir(parents=True)
            for t, (y, x) in enumerate(torch.rand(FRAMES, 2).tolist()):
                noise = torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)
                write_jpeg(noise, str(video / f"{t:05d}.jpg"))
                positions.writerow([f"v{i}", t, y, x])
            labels = "0;1" if i == 0 else str(i % CLASSES)
            table.writerow([f"v{i}", f"videos/v{i}", FRAMES, labels])
    return folder


@pytest.fixture(scope="module")
def evaluated(folder, tmp_path_factory):
    """Evaluates random weights of a family as a stage's checkpoint, once each."""
    results = tmp_path_factory.mktemp("results")

    @cache
    def evaluate(family, stage, seed=0, anew=None, swept=None):
        torch.manual_seed(1)
        recipe = recipe_of(family).model_copy(update={"swept": swept})
        model = build(recipe, PATCH)
        # So that policy and classifier tell their inputs apart.
        for part in (model.policy.actor, model.classifier, model.glancer.head):
            for weight in part.parameters():
                torch.nn.init.normal_(weight, std=3)
        tensors = {
            key: value
            for key, value in model.state_dict().items()
            if key.split(".")[0] in SPECS[stage].leaves
        }
        name = f"{family}_{PATCH}_{stage}"
        checkpoint = results / "checkpoints" / f"{name}.safetensors"
        names = tuple(f"class {k}" for k in range(CLASSES))
        write(checkpoint, Checkpoint(tensors, recipe, stage, PATCH, names))
        output = results / f"{name}_{seed}.json"
        store = store_in(results)
        returned = evaluation.evaluate(
            checkpoint,
            data=folder,
            output=output,
            plots=results / "plots",
            seed=seed,
            device="cpu",
            threads=1,
            tracking_uri=store,
            anew=anew,
        )
        return SimpleNamespace(
            result=returned.to_dict(),
            output=output,
            checkpoint=checkpoint,
            recipe=recipe,
            store=store,
            sheet=results / "plots" / f"{output.stem}_sheet.png",
            steps=results / "plots" / f"{output.stem}_steps.svg",
            predictions=output.with_suffix(".predictions.npz"),
        )

    return evaluate


@pytest.fixture
def one_batch(folder):
    """All validation videos as one batch."""

    def read(recipe):
        clips = Clips(folder, "val", recipe, augment=False, seed=0)
        sampler = EpochSampler(VIDEOS, 0, shuffle=False)
        [items] = loader(clips, VIDEOS, sampler, 0, CPU)
        return Batch.of(items, CPU, Draws(0, 0, 0, VIDEOS, slice(0, VIDEOS)))

    return read


def assert_close(scores, expected):
    assert scores.keys() == expected.keys()
    for key in scores:
        assert scores[key] == pytest.approx(expected[key], abs=1e-6), key


@pytest.mark.parametrize("family", ["gru", "tsm"])
@torch.inference_mode()
def test_figures_equal_plain_forward_passes(family, evaluated, one_batch):
    done = evaluated(family, "stage3")
    batch, model = one_batch(done.recipe), load(done.checkpoint)
    out = model(batch.frames, batch.glance)
    assert len(done.result["metrics_per_step"]) == out.logits.shape[1]
    for step, scores in enumerate(done.result["metrics_per_step"]):
        assert_close(scores, compute_metrics(out.logits[:, step], batch.labels))
    assert done.result["metrics"] == done.result["metrics_per_step"][-1]

    def at(corners):
        return compute_metrics(
            model(batch.frames, batch.glance, corners).logits[:, -1], batch.labels
        )

    baselines = done.result["baselines"]
    centre = torch.full_like(out.corners, (SIZE - PATCH) // 2)
    assert_close(baselines["centre"], at(centre))
    alone = model.glance(batch.glance).logits.mean(1)
    assert_close(baselines["glancer"], compute_metrics(alone, batch.labels))
    if family == "gru":
        assert_close(baselines["oracle"], at(centred_corners(batch.positions, SIZE, PATCH)))
    else:
        assert "oracle" not in baselines
    # Were any two alike, the test could not tell them apart.
    precisions = [scores["mAP"] for scores in (done.result["metrics"], *baselines.values())]
    assert len(set(precisions)) == len(precisions)


def test_random_is_a_mean_of_draws(evaluated):
    random = evaluated("gru", "stage3").result["baselines"]["random"]
    hits = random["top1"] / 100 * VIDEOS * DRAWS
    assert hits == pytest.approx(round(hits))
    assert {"top1", "top5", "mAP"} == set(random)


@pytest.mark.parametrize("family", ["gru", "tsm"])
def test_stage_1_is_measured_on_random_patches(family, evaluated):
    result = evaluated(family, "stage1").result
    assert result["stage"] == 1
    assert result["metrics"] == result["baselines"]["random"]
    steps = recipe_of(family).model.frames if family == "gru" else 1
    assert len(result["metrics_per_step"]) == steps


def test_what_made_it(evaluated, folder):
    done = evaluated("gru", "stage3")
    result = done.result
    assert json.loads(done.output.read_text()) == result
    assert parse_recipe(result["recipe"], "result") == done.recipe
    digest = hashlib.sha256(done.checkpoint.read_bytes()).hexdigest()
    assert result["checkpoint"] == {"path": str(done.checkpoint), "sha256": digest}
    assert (result["dataset"], result["patch_size"], result["stage"]) == ("tiny", PATCH, 3)
    assert (result["metric"], result["videos"], result["seed"]) == ("top1", VIDEOS, 0)
    assert result["versions"]["torch"] == torch.__version__
    assert "git_commit" in result
    assert (result["schema"], result["made_by"]) == (3, {})
    assert result["device"].endswith("CPU")
    assert result["gflops_per_video"] > 0
    assert result["videos_per_second"] > 0
    assert 0 < result["data_wait_share"] < 1
    assert result["peak_memory_gb"] > 0.05


def test_the_published_figure_is_of_the_finished_model(evaluated, capfd):
    result = evaluated("gru", "stage3", seed=7).result
    assert " GFLOPs per video (published: 50 at 1); " in capfd.readouterr().out
    difference = result["metrics"]["top1"] - 50
    assert result["published"] == {
        "figure": 50.0,
        "gflops": 1.0,
        "verified": False,
        "difference": pytest.approx(difference),
    }
    assert evaluated("gru", "stage1").result["published"] is None


def test_figures_are_drawn(evaluated):
    done = evaluated("tsm", "stage3")
    with Image.open(done.sheet) as image:
        assert min(image.size) > 300
    assert done.steps.read_text().startswith("<?xml")
    for name in ("patches", "confusion"):
        figure = done.steps.with_name(f"{done.output.stem}_{name}.svg")
        assert figure.read_text().startswith("<?xml")
    for name in ("right", "wrong"):
        with Image.open(done.steps.with_name(f"{done.output.stem}_{name}.png")) as image:
            assert image.size[0] > 300


@pytest.mark.parametrize("family", ["gru", "tsm"])
@torch.inference_mode()
def test_predictions_lie_beside_the_result(family, evaluated, one_batch):
    done = evaluated(family, "stage3")
    found = Predictions.read(done.predictions)
    batch, model = one_batch(done.recipe), load(done.checkpoint)
    out = model(batch.frames, batch.glance)
    assert found.videos.tolist() == [f"v{i}" for i in range(VIDEOS)]
    assert (found.labels == batch.labels.numpy()).all()
    assert (found.predicted == out.logits[:, -1].argmax(-1).numpy()).all()
    assert (found.corners == out.corners.numpy()).all()
    assert (found.boxes == out.boxes.numpy()).all() and found.boxes.dtype == np.float32
    assert (found.frames == out.frames.numpy()).all()
    assert 100 * found.right.mean() == pytest.approx(done.result["metrics"]["top1"])
    assert found.classes.tolist() == [f"class {k}" for k in range(CLASSES)]
    by_class = np.stack([found.accuracy, found.accuracy_random])
    assert (np.isnan(by_class) == ~found.labels.any(0)).all()


def test_random_by_class_is_a_mean_of_draws(evaluated):
    """The model of stage 1 looks at random itself, once."""
    done = evaluated("gru", "stage1")
    found = Predictions.read(done.predictions)
    videos = found.labels.sum(0)
    hits = found.accuracy_random / 100 * videos * DRAWS
    hits = hits[videos > 0]
    assert hits == pytest.approx(hits.round(), abs=1e-4)


def test_the_run_is_in_mlflow(evaluated):
    done = evaluated("gru", "stage3")
    client = MlflowClient(done.store)
    run = client.get_run(done.result["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"{done.output.stem}_evaluation"
    assert run.data.tags["stage"] == "stage3"
    assert run.data.metrics["top1"] == done.result["metrics"]["top1"]
    for name in ("videos_per_second", "data_wait_share", "peak_memory_gb"):
        assert run.data.metrics[name] == done.result[name]
    assert run.data.metrics["random_mAP"] == done.result["baselines"]["random"]["mAP"]
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    figures = {"right.png", "wrong.png", "patches.svg", "confusion.svg"}
    figures = {f"{done.output.stem}_{name}" for name in figures}
    files = {done.output.name, done.sheet.name, done.steps.name, done.predictions.name}
    assert kept == files | figures | {"recipe.yaml"}
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == [f"{done.recipe.name} val"]

    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.info.run_name == f"{done.recipe.name} {PATCH}"
    assert parent.data.metrics["top1"] == done.result["metrics"]["top1"]
    assert parent.data.params["stage3.epochs"] == str(done.recipe.stages["stage3"].epochs)


def test_the_finished_model_is_in_mlflow(evaluated, folder, monkeypatch):
    done = evaluated("gru", "stage3")
    client = MlflowClient(done.store)
    run = client.get_run(done.result["mlflow_run_id"])
    [output] = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.status) == (done.checkpoint.stem, "READY")
    assert {m.key: m.value for m in model.metrics}["top1"] == done.result["metrics"]["top1"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", done.store)
    loaded = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    assert mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/{model.name}").metadata.signature
    clip = Clips(folder, "val", done.recipe, augment=False, seed=0)[0, 0]["frames"]
    probabilities = loaded.predict(clip[None].numpy())
    assert tuple(probabilities.columns) == tuple(f"class {k}" for k in range(CLASSES))


def test_a_seed_repeats_and_another_draws_other_patches(evaluated):
    done = evaluated("gru", "stage1")
    first = done.result
    done.output.unlink()
    again = evaluated.__wrapped__("gru", "stage1").result
    other = evaluated("gru", "stage1", seed=1).result
    assert again["metrics_per_step"] == first["metrics_per_step"]
    assert other["metrics_per_step"] != first["metrics_per_step"]


def test_what_has_not_changed_is_not_measured_again(evaluated, folder, capsys):
    """Neither where Snakemake has removed it before; its figures are drawn."""
    done = evaluated("gru", "stage3")
    for path in (done.output, done.predictions):
        keep(path)
        path.unlink()
    done.sheet.unlink()
    again = evaluated.__wrapped__("gru", "stage3")
    # Such as its speed, which would be another.
    assert again.result == done.result == json.loads(done.output.read_text())
    assert done.sheet.exists() and done.predictions.exists()
    assert not list(done.output.parent.glob(".*.old"))

    # The best of a sweep may be the recipe's own rates, whose weights are the same.
    best = evaluated.__wrapped__("gru", "stage3", swept=SweepBudget(trials=2)).result
    assert best["swept"]["trials"] == 2 and done.result["swept"] is None
    assert best["videos_per_second"] == done.result["videos_per_second"]
    assert evaluated.__wrapped__("gru", "stage3").result == done.result

    anothers = replace(Predictions.read(done.predictions), videos=np.array(["another"] * VIDEOS))
    result = done.result
    source = read(done.checkpoint)
    before = done.output, result["fingerprint"], source, None
    assert measured_before(*before)[0].to_dict() == result
    anothers.write(done.predictions)
    assert measured_before(*before) is None, "their writer was killed before he wrote the result"
    del result["predictions_sha256"]
    done.output.write_text(json.dumps(result))
    assert measured_before(*before)[0].fingerprint == result["fingerprint"], "by an older version"

    measured = evaluated.__wrapped__("gru", "stage3", anew="mended").result
    assert measured["anew"] == "mended"
    assert measured["videos_per_second"] != done.result["videos_per_second"]
    assert evaluated.__wrapped__("gru", "stage3", anew="mended").result == measured
    with (folder / "splits" / "val.csv").open("a") as table:
        table.write("\n")
    changed = evaluated.__wrapped__("gru", "stage3").result
    assert changed["fingerprint"] != measured["fingerprint"]
    assert changed["videos_per_second"] != measured["videos_per_second"]


def test_a_stage_0_checkpoint_is_no_model(folder, tmp_path):
    recipe = recipe_of("gru")
    tensors = {k: v for k, v in build(recipe, PATCH).state_dict().items() if k[:7] == "glancer"}
    path = tmp_path / "glancer.safetensors"
    write(path, Checkpoint(tensors, recipe, "glancer", None, ("a",) * CLASSES))
    with pytest.raises(CheckpointError, match="stage-0"):
        evaluation.evaluate(
            path,
            data=folder,
            output=tmp_path / "out.json",
            plots=tmp_path,
            seed=0,
            device="cpu",
            threads=1,
            tracking_uri=store_in(tmp_path),
        )
    assert not Path(tmp_path, "out.json").exists()


def test_importing_the_package_is_light():
    code = (
        "import sys, adafocus; [getattr(adafocus, name) for name in adafocus.__all__];"
        "import adafocus.methods;"
        "print({'matplotlib', 'mlflow', 'pandas', 'ray', 'scipy', 'sklearn', 'snakemake'}"
        " & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_importing_the_metrics_is_light():
    code = (
        "import sys, adafocus.evaluation.metrics;"
        "print([m for m in ('matplotlib', 'mlflow', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
