"""One stage from its checkpoints to its checkpoint, on noise."""

import csv
import shutil
from pathlib import Path

import psutil
import pytest
import torch
from mlflow import MlflowClient
from noise import CLASSES, skipping_recipe, store_in, tiny_recipe, write_checkpoint, write_noise

from adafocus.data.clips import digest_of_sizes
from adafocus.methods import train
from adafocus.model import checkpoint
from adafocus.model.checkpoint import CheckpointError
from adafocus.recipe import SPECS, parse_recipe
from adafocus.training import fingerprint

RECIPE = tiny_recipe("gru")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data"), {"train": 2, "val": 2})


def write(path, stage, patch_size):
    return write_checkpoint(path, RECIPE, stage, patch_size)


def run(stage, init, data, folder, patch_size=32, recipe=RECIPE, **options):
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
        tracking_uri=store_in(folder),
        **options,
    )
    return checkpoint.read(output)


def test_what_loads_clips_ends_with_the_training(data, tmp_path):
    """Left to the garbage collector, it would be waited for in vain, five seconds each."""
    others = psutil.Process().children()
    run("glancer", [], data, tmp_path, patch_size=None)
    assert set(psutil.Process().children()) <= set(others)


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
    assert SPECS[stage].takes[1] == "focuser"
    with pytest.raises(CheckpointError, match="g.safetensors: holds no focuser"):
        run(stage, [glancer], data, tmp_path)
    assert not (tmp_path / f"{stage}.safetensors").exists()


def test_a_checkpoint_of_another_patch_size_is_an_error(data, tmp_path):
    init = write(tmp_path / "c.safetensors", "stage2", 48)
    with pytest.raises(CheckpointError, match="another patch size than the recipe's: 48, not 32"):
        run("stage3", [init], data, tmp_path)


# --- what is trained anew -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A folder with a glancer's finished training."""
    folder = tmp_path_factory.mktemp("trained")
    run("glancer", [], data, folder, None)
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """Likewise, to be changed."""
    return shutil.copytree(trained, tmp_path / "copy")


def changed(**sections):
    """The recipe with sections changed key by key."""
    values = RECIPE.to_dict()
    for name, change in sections.items():
        values[name] = values[name] | change if isinstance(change, dict) else change
    return parse_recipe(values, "changed")


def fingerprints(recipe=RECIPE, stage="glancer", **facts):
    known = {"seed": 0, "data": ["a", "b"], "sizes": None, "start": {}, "init": []}
    known |= {"record": Path("none.run.json"), "precisions": ["fp32"]}
    return fingerprint.accepted_fingerprints(recipe, stage, None, **known | facts)


GLANCER = RECIPE.to_dict()["stages"]["glancer"]
HINTS = changed(
    title="Another",
    videos={"missing": 0.5, "seconds": 3.0},
    skip_costs=[0.25],
    patch_sizes=[32],
    frames={"time_limit": 5, "shards": 2},
)


@pytest.mark.parametrize(
    "recipe",
    [
        HINTS,
        changed(stages={"glancer": dict(reversed(GLANCER.items()))}),
        changed(model={"policy": {"channels": 2}, "focuser": {"name": "resnet", "depth": 18}}),
    ],
    ids=["hints", "order", "what other stages train"],
)
def test_what_does_not_decide_the_weights_is_the_same_run(recipe):
    own, *_ = fingerprints(recipe)
    assert own == fingerprints()[0]


def test_a_precision_that_the_device_chose_is_not_what_makes_another_run():
    own, *others = fingerprints(precisions=["bf16", "fp32"])
    assert own not in fingerprints()
    assert fingerprints()[0] in others


WEIGHT = {"glancer.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("recipe", "facts"),
    [
        (changed(stages={"glancer": GLANCER | {"momentum": 0.8}}), {}),
        (changed(model={"glancer": {"name": "resnet", "depth": 18}}), {}),
        (changed(augmentation={"flip": False}), {}),
        (changed(metric="mAP"), {}),
        (changed(frames={"height": 100}), {}),
        (RECIPE, {"stage": "focuser"}),
        (RECIPE, {"seed": 1}),
        (RECIPE, {"data": ["a", "c"]}),
        (RECIPE, {"sizes": "c"}),
        (RECIPE, {"replaced": "d"}),
        (RECIPE, {"precisions": ["bf16"]}),
        (RECIPE, {"start": WEIGHT}),
    ],
)
def test_what_decides_the_weights_is_another_run(recipe, facts):
    own, *_ = fingerprints(recipe, **facts)
    assert own not in fingerprints()


def test_the_start_is_its_tensors():
    own, *_ = fingerprints(start=WEIGHT)
    assert own in fingerprints(start={"glancer.weight": torch.ones(2, 2)})
    for other in (torch.zeros(2, 2), torch.ones(4), torch.ones(2, 2, dtype=torch.int32)):
        assert own not in fingerprints(start={"glancer.weight": other})
    assert own not in fingerprints(start={"focuser.weight": torch.ones(2, 2)})


def test_a_run_from_before_sizes_were_listed_is_accepted(tmp_path):
    (tmp_path / "splits").mkdir()
    for split in ("train", "val"):
        table = f"video,path,frames,labels\n{split},x,6,0\n"
        (tmp_path / "splits" / f"{split}.csv").write_text(table)
    listing, splits = tmp_path / "videos.csv", ("train", "val")
    assert digest_of_sizes(tmp_path, *splits) is None
    listing.write_text("video,path,error\ntrain,x,\nval,x,\n")
    assert digest_of_sizes(tmp_path, *splits) is None
    found = []
    for size in (1, 2):
        rows = f"other,x,,{size},0\nval,x,,5,{size}\ntrain,x,,{size},0\n"
        listing.write_text(f"video,path,error,size,time\n{rows}")
        found.append(digest_of_sizes(tmp_path, *splits))
        assert digest_of_sizes(tmp_path, "val") == digest_of_sizes(tmp_path, "val")
        assert fingerprints()[0] in fingerprints(sizes=found[-1])
    assert found[0] != found[1]
    assert fingerprints(sizes=found[0])[0] not in fingerprints(sizes=found[1])


def test_a_run_from_before_a_video_was_replaced_is_not_accepted():
    assert not set(fingerprints()) & set(fingerprints(replaced="d", sizes="c"))
    assert fingerprints(replaced="d")[0] in fingerprints(replaced="d", sizes="c")


def test_a_finished_run_only_has_its_checkpoint_written_again(trained, data, capsys):
    whole = (trained / "glancer.safetensors").read_bytes()
    (trained / "glancer.safetensors").unlink()
    made = run("glancer", [], data, trained, None, HINTS)
    said = capsys.readouterr().out
    assert "trained before" in said and "starting over" not in said
    assert made.recipe == HINTS
    # The recipe of before again, and so the same bytes as at first.
    run("glancer", [], data, trained, None)
    assert (trained / "glancer.safetensors").read_bytes() == whole


def test_code_that_was_mended_trains_anew_once(copied, data, capsys):
    for said in ("removed", "trained before"):
        made = run("glancer", [], data, copied, None, anew="mended")
        assert said in capsys.readouterr().out
    assert made.made_by["anew"] == "mended"

    # Cut off after the first epoch, the same call goes on, and so does one without the word.
    def cut(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("glancer", [], data, copied, None, anew="again", on_epoch=cut)
    assert "removed" in capsys.readouterr().out
    for anew in (None, "again"):
        run("glancer", [], data, copied, None, anew=anew)
        said = capsys.readouterr().out
        assert "going on" in said and "removed" not in said
    store = MlflowClient(f"sqlite:///{copied / 'mlflow.db'}")
    [experiment] = store.search_experiments(filter_string="name = 'tiny'")
    runs = store.search_runs([experiment.experiment_id], "tags.kind = 'training'")
    assert len(runs) == 3, "one for each time that it was trained"


def test_only_a_revision_that_is_taken_over_is_accepted(monkeypatch):
    revision, before = fingerprint.REVISION, fingerprints()[0]
    monkeypatch.setattr(fingerprint, "REVISION", revision + 1)
    monkeypatch.setattr(fingerprint, "TAKEN_OVER", frozenset({revision}))
    assert before in fingerprints()[1:]
    monkeypatch.setattr(fingerprint, "TAKEN_OVER", frozenset())
    assert before not in fingerprints()


def test_a_finished_run_waits_for_nothing(trained, data, capsys, monkeypatch):
    """Neither for videos nor for MLflow's store, which are not there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    aside = data / "elsewhere"
    (data / "videos").rename(aside)
    try:
        run("glancer", [], data, trained, None)
    finally:
        aside.rename(data / "videos")
    assert "trained before" in capsys.readouterr().out
