"""Training on noise: seeds, resume, signals, damage, schedules, the best epoch."""

import csv
import math
import os
import re
import signal

import pytest
import torch
from noise import tiny_recipe, write_noise

from adafocus.data.batches import EpochSampler, loader
from adafocus.data.clips import Clips
from adafocus.figures import training_curves
from adafocus.machine.signals import Stopped
from adafocus.methods import STAGES
from adafocus.methods.adafocus import STAGES as OF_ADAFOCUS
from adafocus.model.building import build
from adafocus.training.engine import TrainingError, fit, validate
from adafocus.training.progress import write_history
from adafocus.training.resume import ResumeFile

CPU = torch.device("cpu")
VIDEOS = {"train": 6, "val": 4}


@pytest.fixture
def folder(tmp_path):
    return write_noise(tmp_path, VIDEOS)


class Killed(Exception):
    pass


def run(
    recipe,
    stage,
    folder,
    resume,
    *,
    until=None,
    on_clip=None,
    seed=3,
    fingerprint="same",
    batch_size=2,
    minutes=10.0,
    device=CPU,
    precision=torch.float32,
    micro_batch="auto",
):
    """Trains one stage, by its name or its class; ``until`` cuts it off, as a kill would, after so
    many epochs. ``on_clip`` is called with the number of each clip that is loaded."""

    class Watched(Clips):
        loaded = 0

        def __getitem__(self, key):
            Watched.loaded += 1
            if on_clip:
                on_clip(Watched.loaded)
            return super().__getitem__(key)

    rows = []

    def on_epoch(row):
        rows.append(row)
        if len(rows) == until:
            raise Killed

    torch.manual_seed(seed)
    model = build(recipe, 32)
    kind = STAGES[stage] if isinstance(stage, str) else stage
    stage = next(name for base in kind.__mro__ for name, known in STAGES.items() if base is known)
    file = ResumeFile(resume, [fingerprint])
    train = Watched(folder, "train", recipe, augment=True, seed=seed)
    val = Watched(folder, "val", recipe, augment=False, seed=seed)
    try:
        fit(
            kind(stage, model, recipe.stages[stage]),
            loader(train, batch_size, EpochSampler(len(train), seed, shuffle=True), 0, device),
            loader(val, batch_size, EpochSampler(len(val), seed, shuffle=False), 0, device),
            metric="mAP",
            seed=seed,
            device=device,
            resume=file,
            state=file.read(),
            on_epoch=on_epoch,
            checkpoint_minutes=minutes,
            precision=precision,
            micro_batch=micro_batch,
        )
    except Killed:
        return None, rows
    return model.state_dict(), rows


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


TIMINGS = {"seconds", "videos_per_second", "data_wait_share", "peak_memory_gb"}


def figures(rows) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows]


@pytest.mark.parametrize("stage", OF_ADAFOCUS)
def test_a_seed_repeats_and_a_cut_run_resumes_to_the_same(recipe, stage, folder, tmp_path):
    weights, rows = run(recipe, stage, folder, tmp_path / "a.pt")
    again, rows_again = run(recipe, stage, folder, tmp_path / "b.pt")
    assert same(weights, again)
    assert figures(rows) == figures(rows_again)

    # Killed in the second batch, when the first was saved, then after the first epoch.
    def kill(clip):
        if clip == 3:
            raise Killed

    run(recipe, stage, folder, tmp_path / "c.pt", on_clip=kill, minutes=0)
    run(recipe, stage, folder, tmp_path / "c.pt", until=1)
    resumed, rows_resumed = run(recipe, stage, folder, tmp_path / "c.pt")
    assert same(weights, resumed)
    assert figures(rows_resumed) == figures(rows)
    other, _ = run(recipe, stage, folder, tmp_path / "d.pt", seed=4)
    assert not same(weights, other)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_ends_a_run_which_goes_on_to_the_same(folder, tmp_path, number):
    """Wherever it comes: in the first or last batch of an epoch, or in validation."""
    recipe = tiny_recipe("gru")
    weights, rows = run(recipe, "stage1", folder, tmp_path / "a.pt")
    handler = signal.getsignal(number)
    where = []
    for clip in (2, 4, 5, 3, 2):
        with pytest.raises(Stopped) as stopped:
            run(
                recipe,
                "stage1",
                folder,
                tmp_path / "b.pt",
                on_clip=lambda loaded, at=clip: loaded == at and os.kill(os.getpid(), number),
            )
        assert stopped.value.code == 128 + number
        where += re.findall(r"saved (.*) in", stopped.value.message)
        assert signal.getsignal(number) is handler
    assert where == [
        "batch 1 of epoch 1",
        "batch 3 of epoch 1",
        "batch 1 of epoch 2",
        "batch 3 of epoch 2",
        "batch 3 of epoch 2",
    ]
    resumed, rows_resumed = run(recipe, "stage1", folder, tmp_path / "b.pt")
    assert same(weights, resumed)
    assert figures(rows_resumed) == figures(rows)


def test_a_damaged_resume_file_is_noticed_and_the_one_before_taken(folder, tmp_path, capsys):
    recipe = tiny_recipe("gru")
    weights, _ = run(recipe, "stage3", folder, tmp_path / "a.pt")
    resume = tmp_path / "r.pt"
    for _ in range(2):
        run(recipe, "stage3", folder, resume, until=1, minutes=0)
        resume.write_bytes(resume.read_bytes()[:-1000])
        resumed, _ = run(recipe, "stage3", folder, resume)
        assert same(weights, resumed)
        said = capsys.readouterr().out
        assert f"{resume} is damaged on disk" in said
        assert f"going on from {tmp_path / 'r.previous.pt'}" in said
        resume.unlink()

    run(recipe, "stage3", folder, resume, until=1)
    resume.write_bytes(b"")
    resumed, _ = run(recipe, "stage3", folder, resume)
    assert same(weights, resumed)


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
    assert validate(stage, batches, CPU, 3)[0]["mAP"] == pytest.approx(max(scores))


def test_the_best_epoch_is_one_with_a_validation(folder, tmp_path):
    """The second, the fourth and the last; the resumed run has them too."""
    recipe = tiny_recipe("gru")
    training = recipe.stages.glancer.model_copy(
        update={"epochs": 5, "validate_every": 2, "learning_rates": {"glancer": 0.5}}
    )
    stages = recipe.stages.model_copy(update={"glancer": training})
    recipe = recipe.model_copy(update={"stages": stages})
    run(recipe, "glancer", folder, tmp_path / "r.pt", until=3)
    weights, rows = run(recipe, "glancer", folder, tmp_path / "r.pt")
    scores = {row["epoch"]: row["val_mAP"] for row in rows if "val_mAP" in row}
    assert list(scores) == [2, 4, 5]
    assert all(math.isfinite(row["loss"]) for row in rows)
    model = build(recipe, 32)
    model.load_state_dict(weights)
    stage = STAGES["glancer"]("glancer", model, training)
    clips = Clips(folder, "val", recipe, augment=False, seed=3)
    batches = loader(clips, 2, EpochSampler(len(clips), 3, shuffle=False), 0, CPU)
    assert validate(stage, batches, CPU, 3)[0]["mAP"] == pytest.approx(max(scores.values()))

    write_history(rows, tmp_path / "metrics.csv")
    with (tmp_path / "metrics.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["val_mAP"] != "" for row in written] == [False, True, False, True, True]
    training_curves(rows, tmp_path / "curves.svg", "some validations")


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


def test_a_loss_that_is_not_finite_names_the_videos_and_spares_the_last_state(folder, tmp_path):
    recipe = tiny_recipe("gru")
    training = recipe.stages.glancer.model_copy(update={"learning_rates": {"glancer": 1e30}})
    stages = recipe.stages.model_copy(update={"glancer": training})
    recipe = recipe.model_copy(update={"stages": stages})
    resume = tmp_path / "r.pt"
    for _ in range(2):  # a second try ends alike
        with pytest.raises(TrainingError) as error:
            run(recipe, "glancer", folder, resume, minutes=0)
        assert re.fullmatch(
            r"glancer: the loss is not finite any more after batch 2 of epoch 1, of the videos"
            r" train\d, train\d: look at them, or lower stages.glancer.learning_rates in the"
            r" recipe; .*r.pt keeps the state before",
            str(error.value),
        )
        state = torch.load(resume, weights_only=True)
        assert state["progress"]["begun"]["batches"] == 1
        assert all(tensor.isfinite().all() for tensor in state["tensors"].values())


@pytest.mark.parametrize("family", ["gru", "tsm"])
def test_a_policy_that_is_not_a_number_names_the_videos(folder, tmp_path, family):
    recipe = tiny_recipe(family)

    class Spoilt(STAGES["stage2"]):
        def train_mode(self):
            super().train_mode()
            torch.nn.init.constant_(self.model.policy.actor.bias, torch.nan)

    with pytest.raises(TrainingError, match=r"stage2: the loss is not finite .* train\d, train\d"):
        run(recipe, Spoilt, folder, tmp_path / "r.pt")


@pytest.mark.gpu
def test_a_gpu_tells_of_its_memory_and_of_losses_that_are_not_finite(folder, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    gpu, recipe = torch.device("cuda"), tiny_recipe("gru")
    training = recipe.stages.glancer.model_copy(update={"learning_rates": {"glancer": 1e30}})
    stages = recipe.stages.model_copy(update={"glancer": training})
    broken = recipe.model_copy(update={"stages": stages})
    with pytest.raises(TrainingError, match=r"after batch \d of epoch 1, of the videos train\d"):
        run(broken, "glancer", folder, tmp_path / "broken.pt", device=gpu)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(ValueError, match=r"micro_batch in config/config.yaml"):
            run(recipe, "stage1", folder, tmp_path / "r.pt", device=gpu)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_gpu_without_memory_left_names_what_to_lower(folder, tmp_path):
    def fill_memory(clip):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(ValueError, match=r"memory is full .*: .*micro_batch"):
        run(tiny_recipe("gru"), "stage1", folder, tmp_path / "r.pt", on_clip=fill_memory)


def test_shared_memory_that_is_full_is_one_line(folder, tmp_path):
    def end(clip):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")

    with pytest.raises(ValueError, match=r"^shared memory, .*, is full .* --shm-size"):
        run(tiny_recipe("gru"), "stage1", folder, tmp_path / "r.pt", on_clip=end)
