"""Chains that commit 78f3339 has finished are used as they are, whatever was made again before."""

import json
import shutil

import pytest
import torch

from adafocus import tracking
from adafocus.machine.files import keep, sha256
from adafocus.methods import train
from adafocus.model import checkpoint
from adafocus.recipe import Frames, load_recipe
from adafocus.sweeps.space import with_values
from adafocus.training.fingerprint import REVISION

STAGE0 = ("glancer", "focuser")
BEFORE = {
    "{}_glancer_stage0": (),
    "{}_focuser_stage0": (),
    "{}_16_stage1": ("{}_glancer_stage0", "{}_focuser_stage0"),
    "{}_16_stage2": ("{}_16_stage1",),
    "{}_16_stage3": ("{}_16_stage2",),
}
SKIPPING = {
    "{}_16_skip0.04_stage2": ("{}_16_stage2",),
    "{}_16_skip0.04_stage3": ("{}_16_skip0.04_stage2",),
}
RATE = {"stages.stage3.learning_rates.classifier": 0.02}
CHAINS = {"pets": BEFORE | SKIPPING, "signs": BEFORE}


def run(project, name, before, change=lambda recipe: recipe, **options):
    """A job of the workflow, which has removed what the job makes."""
    dataset, *_ = name.split("_")
    stage = next((part for part in STAGE0 if part in name), name.rpartition("_")[2])
    recipe = load_recipe(project / "config" / "recipes" / f"{dataset}.yaml")
    folder = project / "results" / "checkpoints"
    output, curves = folder / f"{name}.safetensors", folder / "curves.svg"
    keep(output)
    output.unlink()
    train(
        change(recipe.named("_skip0.04" if "skip" in name else "")),
        stage,
        None if stage in STAGE0 else 16,
        data=project / "data" / dataset,
        init=[folder / f"{one.format(dataset)}.safetensors" for one in before],
        output=output,
        curves=curves,
        seed=0,
        device="cpu",
        threads=1,
        tracking_uri=f"sqlite:///{project}/results/mlflow.db",
        **options,
    )
    return output


def left(project, dataset):
    """What no run may change, by its digest or content."""
    results = project / "results"
    states = {path: sha256(path) for path in results.glob(f"checkpoints/{dataset}_*.resume.pt")}
    records = {path: path.read_text() for path in results.glob(f"checkpoints/{dataset}_*.run.json")}
    rows = {path: path.read_text() for path in results.glob(f"checkpoints/{dataset}_*.metrics.csv")}
    return states | records | rows | {"mlflow.db": sha256(results / "mlflow.db")}


@pytest.mark.parametrize("dataset", CHAINS)
def test_no_epoch_is_trained_anew(finished, dataset, capsys):
    checkpoints = finished / "results" / "checkpoints"
    jobs = {name.format(dataset): before for name, before in CHAINS[dataset].items()}
    old = {name: checkpoint.read(checkpoints / f"{name}.safetensors") for name in jobs}
    before = left(finished, dataset)
    assert len(before) == 3 * len(jobs) + 1
    digests = []
    for _ in range(2):
        made = {name: run(finished, name, starts) for name, starts in jobs.items()}
        said = capsys.readouterr().out
        assert said.count("trained before") == len(jobs), said
        assert left(finished, dataset) == before
        for name, path in made.items():
            new = checkpoint.read(path)
            assert checkpoint.digest(new.tensors) == checkpoint.digest(old[name].tensors)
            assert (new.recipe, new.class_names) == (old[name].recipe, old[name].class_names)
            assert new.made_by["revision"] == 1 and new.made_by["seed"] == 0
            assert new.made_by["commit"].startswith("78f3339")
        assert not list(checkpoints.glob(".*.old"))
        digests.append({name: sha256(path) for name, path in made.items()})
    assert digests[0] == digests[1], "the same content makes the same bytes"


def test_states_may_be_removed(finished, tmp_path, capsys):
    """As the README of then said."""
    project = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    checkpoints = project / "results" / "checkpoints"
    for path in checkpoints.glob("*.resume*.pt"):
        path.unlink()
    jobs = {name.format("pets"): before for name, before in CHAINS["pets"].items()}
    old = {name: checkpoint.read(checkpoints / f"{name}.safetensors") for name in jobs}
    before = left(project, "pets")
    for _ in range(2):
        for name, starts in jobs.items():
            new = checkpoint.read(run(project, name, starts))
            assert checkpoint.digest(new.tensors) == checkpoint.digest(old[name].tensors)
            assert new.made_by["commit"].startswith("78f3339")
        assert capsys.readouterr().out.count("trained before") == len(jobs)
        assert left(project, "pets") == before
    assert not list(checkpoints.glob(".*.old"))


@pytest.mark.parametrize("change", ["anew", "rates", "another", "damaged", "half", "failed"])
def test_without_its_state_only_the_same_run_is_used(finished, tmp_path, capsys, change):
    project = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    path = project / "results" / "checkpoints" / "pets_16_stage3.safetensors"
    path.with_suffix(".resume.pt").unlink()
    record, metrics = path.with_suffix(".run.json"), path.with_suffix(".metrics.csv")
    if change == "another":
        shutil.copy(path.with_name("pets_16_stage2.safetensors"), path)
    elif change == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    elif change == "half":
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    elif change == "failed":
        record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "FAILED"}))
    run(
        project,
        "pets_16_stage3",
        ("pets_16_stage2",),
        lambda r: with_values(r, RATE) if change == "rates" else r,
        anew="monday" if change == "anew" else None,
    )
    assert "trained before" not in capsys.readouterr().out
    assert path.with_suffix(".resume.pt").exists()


def test_what_was_begun_goes_on(finished, tmp_path, capsys):
    """From within its second epoch, as revision 1 saved it."""
    project = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    path = project / "results" / "checkpoints" / "pets_16_stage1.resume.pt"
    record = path.with_name("pets_16_stage1.run.json")
    state, told = torch.load(path, weights_only=True), json.loads(record.read_text())
    first, _ = state["progress"]["history"]
    begun = {"batches": 1, "steps": 1, "videos": 4, "sums": {"loss": torch.tensor(1.0)}}
    begun |= {"seconds": 1.0, "waited": 0.5, "random": {"cpu": torch.get_rng_state()}}
    state["progress"] |= {"epoch": 1, "history": [first], "begun": begun}
    state["scheduler"] |= {"last_epoch": 3, "_step_count": 4}
    torch.save(state, path)
    record.write_text(json.dumps(told | {"status": "KILLED"}))

    run(project, "pets_16_stage1", BEFORE["{}_16_stage1"])
    said = capsys.readouterr().out
    assert "resuming after epoch 1, batch 1 of the next" in said and "starting over" not in said
    ended = torch.load(path, weights_only=True)
    assert ended["progress"]["epoch"] == 2 and ended["progress"]["history"][0] == first
    assert ended["fingerprint"] != state["fingerprint"]
    assert ended["made_by"]["revision"] == REVISION
    now = json.loads(record.read_text())
    assert (now["key"], now["status"]) == (told["key"], "FINISHED"), "the same run in MLflow"


def test_frames_of_another_height_train_anew(finished, tmp_path, capsys):
    """Fingerprints of then do not tell it."""
    project = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    taller = Frames(height=64)
    # Killed when it had written its record, but no state.
    record = project / "results" / "checkpoints" / "pets_glancer_stage0.run.json"
    told = json.loads(record.read_text())
    told["fingerprint"] = "of the frames of that height"
    told["recipe"]["frames"]["height"] = 64
    for killed in (False, True):
        again = shutil.copytree(project, tmp_path / f"killed {killed}", symlinks=True)
        if killed:
            (again / record.relative_to(project)).write_text(json.dumps(told))
        run(again, "pets_glancer_stage0", (), lambda r: r.model_copy(update={"frames": taller}))
        assert "starting over" in capsys.readouterr().out


def test_a_replaced_video_trains_anew(finished, tmp_path, capsys):
    """Of as many frames, so that the split tables are the same."""
    project = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    path = project / "data" / "pets" / "splits" / "report.json"
    report = json.loads(path.read_text())
    report["train"]["replaced"] = {"cat/0": "other frames"}
    path.write_text(json.dumps(report))
    for said in ("starting over", "trained before"):
        run(project, "pets_glancer_stage0", ())
        assert said in capsys.readouterr().out


def test_what_changed_is_trained_anew(finished, tmp_path, capsys):
    """So that the test above can fail."""
    project = shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    path = run(project, "pets_16_stage3", ("pets_16_stage2",), lambda r: with_values(r, RATE))
    assert "starting over" in capsys.readouterr().out
    made_by = checkpoint.read(path).made_by
    assert made_by["commit"] == tracking.git_commit()
    state = torch.load(path.with_suffix(".resume.pt"), weights_only=True)
    assert state["made_by"] == made_by
