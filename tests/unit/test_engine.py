"""Training on noise: seeds, resume, schedules, the best epoch."""

import csv

import pytest
import torch
from noise import CLASSES, SIZE
from torchvision.io import write_jpeg

from adafocus.data.clips import Clips, EpochSampler, loader
from adafocus.model.adafocus import build
from adafocus.training import STAGES
from adafocus.training.engine import fit, validate

CPU = torch.device("cpu")
VIDEOS = {"train": 6, "val": 4}


@pytest.fixture
def folder(tmp_path):
    """A data set of folders of noise JPEGs with its split tables."""
    torch.manual_seed(7)
    (tmp_path / "splits").mkdir()
    for split, count in VIDEOS.items():
        with (tmp_path / "splits" / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["video", "path", "frames", "labels"])
            for i in range(count):
                video = tmp_path / "videos" / f"{split}{i}"
                video.mkdir(parents=True)
                for t in range(6):
                    noise = torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)
                    write_jpeg(noise, str(video / f"{t:05d}.jpg"))
                table.writerow([f"{split}{i}", f"videos/{split}{i}", 6, i % CLASSES])
    return tmp_path


def run(recipe, stage, folder, resume, *, until=None, seed=3, fingerprint="same", batch_size=2):
    """Trains one stage; ``until`` cuts it off, as a kill would, after so many epochs."""

    class Killed(Exception):
        pass

    rows = []

    def on_epoch(row):
        rows.append(row)
        if len(rows) == until:
            raise Killed

    torch.manual_seed(seed)
    model = build(recipe, 32)
    train = Clips(folder, "train", recipe, augment=True, seed=seed)
    val = Clips(folder, "val", recipe, augment=False, seed=seed)
    try:
        fit(
            STAGES[stage](stage, model, recipe.stages[stage]),
            loader(train, batch_size, EpochSampler(len(train), seed, shuffle=True), 0, CPU),
            loader(val, batch_size, EpochSampler(len(val), seed, shuffle=False), 0, CPU),
            metric="mAP",
            seed=seed,
            device=CPU,
            resume=resume,
            fingerprint=fingerprint,
            on_epoch=on_epoch,
        )
    except Killed:
        return None, rows
    return model.state_dict(), [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def losses(rows) -> list[float]:
    return [row["loss"] for row in rows]


@pytest.mark.parametrize("stage", STAGES)
def test_a_seed_repeats_and_a_cut_run_resumes_to_the_same(recipe, stage, folder, tmp_path):
    weights, rows = run(recipe, stage, folder, tmp_path / "a.pt")
    again, rows_again = run(recipe, stage, folder, tmp_path / "b.pt")
    assert same(weights, again)
    assert losses(rows) == losses(rows_again)
    run(recipe, stage, folder, tmp_path / "c.pt", until=1)
    resumed, rows_resumed = run(recipe, stage, folder, tmp_path / "c.pt")
    assert same(weights, resumed)
    assert losses(rows_resumed) == losses(rows)
    other, _ = run(recipe, stage, folder, tmp_path / "d.pt", seed=4)
    assert not same(weights, other)


def test_a_resume_file_of_another_run_is_not_taken_up(recipe, folder, tmp_path, capsys):
    run(recipe, "stage3", folder, tmp_path / "r.pt", until=1)
    weights, rows = run(recipe, "stage3", folder, tmp_path / "r.pt", fingerprint="other")
    assert "starting over" in capsys.readouterr().out
    assert len(rows) == 2
    fresh, _ = run(recipe, "stage3", folder, tmp_path / "fresh.pt")
    assert same(weights, fresh)


def test_a_finished_run_is_not_trained_again(recipe, folder, tmp_path):
    weights, _ = run(recipe, "stage1", folder, tmp_path / "r.pt")
    before = (tmp_path / "r.pt").stat().st_mtime_ns
    again, rows = run(recipe, "stage1", folder, tmp_path / "r.pt")
    assert same(weights, again)
    assert len(rows) == 2
    assert (tmp_path / "r.pt").stat().st_mtime_ns == before


def test_the_weights_left_are_those_of_the_best_epoch(recipe, folder, tmp_path):
    # A rate so high that the last epoch is not the best one.
    training = recipe.stages.glancer.model_copy(
        update={"epochs": 6, "learning_rates": {"glancer": 0.5}, "schedule": "constant"}
    )
    stages = recipe.stages.model_copy(update={"glancer": training})
    recipe = recipe.model_copy(update={"stages": stages})
    weights, rows = run(recipe, "glancer", folder, tmp_path / "r.pt")
    scores = [row["val_mAP"] for row in rows]
    assert scores[-1] < max(scores)
    model = build(recipe, 32)
    model.load_state_dict(weights)
    stage = STAGES["glancer"]("glancer", model, training)
    clips = Clips(folder, "val", recipe, augment=False, seed=3)
    batches = loader(clips, 2, EpochSampler(len(clips), 3, shuffle=False), 0, CPU)
    assert validate(stage, batches, CPU)["mAP"] == pytest.approx(max(scores))


def test_schedules(recipe, folder, tmp_path):
    def rates(**changes):
        training = recipe.stages.stage3.model_copy(update={"epochs": 4, **changes})
        stages = recipe.stages.model_copy(update={"stage3": training})
        _, rows = run(
            recipe.model_copy(update={"stages": stages}), "stage3", folder, tmp_path / str(changes)
        )
        return [row["learning_rate_classifier"] for row in rows]

    # Cosine over 4 epochs: the factors at their starts are (1 + cos(pi·k/4)) / 2.
    expected = [0.05, 0.05 * 0.8535534, 0.05 * 0.5, 0.05 * 0.1464466]
    assert rates(schedule="cosine") == pytest.approx(expected)
    assert rates(schedule="step", milestones=(1, 3)) == pytest.approx([0.05, 0.005, 0.005, 0.0005])
    assert rates(schedule="constant") == pytest.approx([0.05] * 4)
