"""One stage from its checkpoints to its checkpoint, on noise."""

import csv

import pytest
import torch
from mlflow import MlflowClient
from noise import CLASSES, skipping_recipe, tiny_recipe, write_checkpoint, write_noise

from adafocus.model import checkpoint
from adafocus.model.checkpoint import CheckpointError
from adafocus.training import STARTS_FROM, train

RECIPE = tiny_recipe("gru")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), {"train": 2, "val": 2})


def write(path, stage, patch_size):
    return write_checkpoint(path, RECIPE, stage, patch_size)


def run(stage, init, data, folder, patch_size=32, recipe=RECIPE):
    output = folder / f"{stage}.safetensors"
    train(
        recipe,
        stage,
        patch_size,
        data=data,
        init=init,
        output=output,
        curves=folder / "curves.svg",
        seed=0,
        device="cpu",
        threads=1,
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
    )
    return checkpoint.read(output)


def test_a_policy_that_skips_frames_starts_from_one_that_skips_none(data, tmp_path):
    first = write(tmp_path / "first.safetensors", "stage2", 32)
    trained = run("stage2", [first], data, tmp_path, recipe=skipping_recipe())
    start = checkpoint.read(first).tensors["policy.actor.weight"]
    moved = (trained.tensors["policy.actor.weight"] - start).abs().max()
    assert 0 < moved < 0.1, "it learned on, from there"
    assert trained.recipe.skip_cost == skipping_recipe().skip_cost
    assert trained.tensors["policy.skip.weight"].shape == (1, 16)
    with (tmp_path / "stage2.metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0 < float(row["looked"]) < 1 for row in rows)
    # By accuracy alone the epoch would win that skips least.
    resumed = run("stage2", [first], data, tmp_path, recipe=skipping_recipe())
    state = torch.load(tmp_path / "stage2.resume.pt", weights_only=False, map_location="cpu")
    for key, value in state["tensors"].items():
        assert torch.equal(resumed.tensors[key], value), "the last epoch's weights are kept"

    second = tmp_path / "stage2.safetensors"
    third = run("stage3", [second], data, tmp_path, recipe=skipping_recipe())
    assert torch.equal(third.tensors["policy.skip.weight"], trained.tensors["policy.skip.weight"])
    with pytest.raises(CheckpointError, match="made for another skip cost than the recipe's"):
        run("stage3", [second], data, tmp_path)
    with pytest.raises(CheckpointError, match="holds no policy"):
        stage1 = write(tmp_path / "1.safetensors", "stage1", 32)
        run("stage2", [stage1], data, tmp_path, recipe=skipping_recipe())


def test_a_stage_keeps_what_it_starts_from_but_for_what_it_trains(data, tmp_path):
    glancer = write(tmp_path / "g.safetensors", "glancer", None)
    focuser = write(tmp_path / "f.safetensors", "focuser", None)
    trained = run("stage1", [glancer, focuser], data, tmp_path)
    assert trained.stage == "stage1"
    assert trained.class_names == tuple(f"class {i}" for i in range(CLASSES))
    for key, value in checkpoint.read(glancer).tensors.items():
        assert torch.equal(trained.tensors[key], value)
    stem = trained.tensors["focuser.trunk.conv1.weight"]
    start = checkpoint.read(focuser).tensors["focuser.trunk.conv1.weight"]
    assert not torch.equal(stem, start)
    assert torch.allclose(stem, start, atol=0.5)
    with (tmp_path / "stage1.metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert 0 < float(row["data_wait_share"]) < 1
        assert float(row["videos_per_second"]) > 0
        assert float(row["peak_memory_gb"]) > 0.05
    assert (tmp_path / "stage1.resume.pt").exists()
    assert (tmp_path / "curves.svg").exists()


def test_training_that_goes_on_is_the_same_run_in_mlflow(data, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    init = [write(tmp_path / f"{part}.safetensors", part, None) for part in ("glancer", "focuser")]
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    seen = []
    for _ in range(2):
        run("stage1", init, data, tmp_path)
        [experiment] = client.search_experiments(filter_string="name = 'tiny'")
        found = client.search_runs([experiment.experiment_id], order_by=["tags.kind"])
        metrics = {name for one in found for name in one.data.metrics if name[:7] != "system/"}
        seen.append(
            {
                one.info.run_id: {
                    name: [(m.step, m.timestamp, m.value) for m in history]
                    for name in metrics
                    for history in [client.get_metric_history(one.info.run_id, name)]
                }
                for one in found
            }
        )
    assert seen[0] == seen[1]
    chain, training = found
    assert (chain.info.run_name, training.info.run_name) == ("tiny 32", "stage1")
    assert len(seen[0][training.info.run_id]["val_top1"]) == 2
    best = training.data.metrics["best_val_top1"]
    assert chain.data.metrics == {"stage1_val_top1": best}
    assert best == max(value for *_, value in seen[0][training.info.run_id]["val_top1"])
    names = [one.dataset.name for one in training.inputs.dataset_inputs]
    assert sorted(names) == ["tiny train", "tiny val"]


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
def test_a_part_that_no_checkpoint_holds_is_an_error(stage, data, tmp_path):
    glancer = write(tmp_path / "g.safetensors", "glancer", None)
    assert STARTS_FROM[stage][1] == "focuser"
    with pytest.raises(CheckpointError, match="g.safetensors: holds no focuser"):
        run(stage, [glancer], data, tmp_path)
    assert not (tmp_path / f"{stage}.safetensors").exists()


def test_a_checkpoint_of_another_patch_size_is_an_error(data, tmp_path):
    init = write(tmp_path / "c.safetensors", "stage2", 48)
    with pytest.raises(CheckpointError, match="another patch size than the recipe's: 48, not 32"):
        run("stage3", [init], data, tmp_path)
