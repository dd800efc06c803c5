"""What only a GPU shows.

Imports the core alone, so that it runs on a machine that is lent for minutes and has no MLflow, Ray
or Snakemake: `benchmarks/gpu.sh` begins with it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from noise import noise_batch, tiny_recipe, uni_recipe, write_noise
from torch import Tensor, nn

from adafocus.data.batches import Batch, EpochSampler, loader
from adafocus.data.clips import Clips
from adafocus.machine import distributed
from adafocus.machine.device import channels_last, tune_cudnn
from adafocus.methods import STAGES
from adafocus.methods.adafocus import STAGES as OF_ADAFOCUS
from adafocus.model.adafocus import AdaFocus
from adafocus.model.building import build
from adafocus.model.uni import UniAdaFocus
from adafocus.model.video_model import VideoModel
from adafocus.recipe import Recipe, load_recipe, parse_recipe
from adafocus.training import ppo
from adafocus.training.engine import TrainingError, fit
from adafocus.training.progress import Progress
from adafocus.training.resume import ResumeFile
from adafocus.training.stage import Stage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU"),
]
GPU = torch.device("cuda")
RECIPES = Path(__file__).parents[2] / "config" / "recipes"
VIDEOS = {"train": 8, "val": 3}


TINY = ("gru", "tsm", "long", "short")
PUBLISHED = {"actnet": 128, "sthv1": 144, "actnet-uni": 128, "sthv1-uni-8": 96}
"""Recipes with the networks and frames of the papers, and their patch sizes."""


def tiny(kind: str) -> Recipe:
    return tiny_recipe(kind) if kind in ("gru", "tsm") else uni_recipe(kind)


def sized(name: str) -> tuple[Recipe, int]:
    """Recipe and patch size."""
    if name in TINY:
        return tiny(name), 32
    return load_recipe(RECIPES / f"{name}.yaml"), PUBLISHED[name]


def stages_of(name: str) -> list[str]:
    return ["joint"] if name in ("long", "short") or "uni" in name else list(OF_ADAFOCUS)


def every_stage(*names: str, but: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """All stages of each recipe, but for some."""
    pairs = [(name, stage) for name in names for stage in stages_of(name) if stage not in but]
    return pytest.mark.parametrize(("kind", "name"), pairs)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_noise(tmp_path, VIDEOS)


def start(recipe: Recipe, patch_size: int, stage: str) -> Stage:
    """A stage with settled batch norms and no dropout, on the GPU."""
    torch.manual_seed(0)
    model = channels_last(build(recipe, patch_size).to(GPU))
    settle(model, few_videos(recipe))
    begun = STAGES[stage](stage, model, recipe.stages[stage])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    begun.train_mode()
    return begun


@torch.no_grad()
def settle(model: VideoModel, batch: Batch) -> None:
    """Sets batch norms by what they see, as training does: random weights else amplify rounding."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    if isinstance(model, UniAdaFocus):
        model(batch.frames, glanced(model, batch))
    else:
        model.glance(batch.glance)
        model.focuser(batch.frames)
    for norm in norms:
        norm.momentum = 0.1


def glanced(model: UniAdaFocus, batch: Batch) -> Tensor | None:
    return batch.glance if model.shape.apart else None


def few_videos(recipe: Recipe) -> Batch:
    """Three videos of smooth noise, as bytes, of the recipe's own size, on the GPU."""
    torch.manual_seed(1)
    batch, side = noise_batch(recipe), recipe.model.frame_size

    def smooth(frames: Tensor) -> Tensor:
        coarse = torch.rand(frames.shape[0] * frames.shape[1], 3, 8, 8) * 255
        fine = nn.functional.interpolate(coarse, (side, side), mode="bilinear").byte()
        return fine.to(GPU, memory_format=torch.channels_last).unflatten(0, frames.shape[:2])

    frames = smooth(batch.frames)
    glance = smooth(batch.glance) if recipe.model.frames_apart else frames
    rest = {name: getattr(batch, name).to(GPU) for name in ("target", "labels", "rows")}
    return batch._replace(frames=frames, glance=glance, **rest)


def train(
    recipe: Recipe,
    name: str,
    folder: Path,
    *,
    patch_size: int = 32,
    precision: torch.dtype = torch.bfloat16,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    change: Callable[[Any], None] = lambda model: None,
) -> tuple[VideoModel, Progress]:
    """Trains a stage of a model that ``change`` may change before."""
    tune_cudnn()
    torch.manual_seed(3)
    model = build(recipe, patch_size)
    change(model)
    training = recipe.stages[name]
    parts = [Clips(folder, split, recipe, split == "train", seed=3) for split in VIDEOS]
    resume = ResumeFile(folder / "resume.pt", ["same"])
    progress = fit(
        STAGES[name](name, model, training),
        *(
            loader(
                part,
                training.batch_size,
                EpochSampler(len(part), 3, shuffle=part.augment),
                0,
                GPU,
            )
            for part in parts
        ),
        metric="top1",
        seed=3,
        device=GPU,
        resume=resume,
        state=resume.read(),
        on_epoch=on_epoch,
        precision=precision,
    )
    return model, progress


# --- precision --------------------------------------------------------------------------------


@every_stage(*TINY, but=("glancer", "focuser"))
def test_all_but_backbones_computes_in_float32(kind, name):
    recipe = tiny(kind)
    stage, seen = start(recipe, 32, name), []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output) -> None:
        tensors = (inputs[0], output[0] if isinstance(output, tuple) else output)
        seen.append((type(module).__name__, *(tensor.dtype for tensor in tensors)))

    for module in stage.model.modules():
        if isinstance(module, nn.GRU | nn.Linear | nn.Conv1d | nn.Conv3d):
            module.register_forward_hook(note)
    stage.model.set_precision(torch.bfloat16)
    loss, logs = stage.loss(stage.prepare(few_videos(recipe)))
    loss.backward()
    assert seen
    types = {kind for _, *kinds in seen for kind in kinds}
    assert types | {loss.dtype, *(value.dtype for value in logs.values())} == {torch.float32}, seen


@every_stage(*TINY, *PUBLISHED)
def test_a_step_in_bf16_is_the_step_in_fp32(kind, name, monkeypatch):
    """From the same weights and draws the same loss, and gradients that point the same way."""
    recipe, patch_size = sized(kind)
    steps, rollouts, rollout = {}, [], ppo.rollout

    def first_rollout(*given) -> ppo.Rollout:
        rollouts.append(rollout(*given))
        return rollouts[0]

    monkeypatch.setattr(ppo, "rollout", first_rollout)
    for precision in (torch.float32, torch.bfloat16):
        stage = start(recipe, patch_size, name)
        stage.model.set_precision(precision)
        # By the statistics of few videos batch norms blow up rounding as they do noise.
        for module in stage.model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                module.eval()
        loss, _ = stage.loss(stage.prepare(few_videos(recipe)))
        loss.backward()
        found = [
            (".trunk." in key, parameter.grad.flatten())
            for key, parameter in stage.model.named_parameters()
            if parameter.grad is not None
        ]
        heads, trunk = (
            torch.cat([torch.zeros(1, device=GPU), *(g for deep, g in found if deep == which)])
            for which in (False, True)
        )
        steps[precision] = loss.item(), heads, trunk
    (exact, heads, trunk), (loss, other_heads, other_trunk) = steps.values()
    assert loss == pytest.approx(exact, rel=0.02, abs=0.01)
    assert cosine(heads, other_heads) > 0.95
    # The direction of a gradient through dozens of layers of random weights is mostly rounding.
    assert other_trunk.norm().item() == pytest.approx(trunk.norm().item(), rel=0.5)
    if rollouts:
        assert cosine(rollouts[0].reward, rollouts[1].reward) > 0.8


def cosine(one: Tensor, other: Tensor) -> float:
    return nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0).item()


@pytest.mark.parametrize("family", ["gru", "tsm"])
def test_every_pass_of_ppo_computes_on_the_weights_of_the_pass_before(family):
    recipe = tiny(family)
    stage = start(recipe, 32, "stage2")
    stage.model.set_precision(torch.bfloat16)
    optimizer = torch.optim.SGD(stage.model.policy.parameters(), lr=0.1)
    experience, losses = stage.prepare(few_videos(recipe)), []
    for _ in range(3):
        loss, _ = stage.loss(experience)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(set(losses)) == 3, losses


@pytest.mark.parametrize("kind", [*TINY, *PUBLISHED])
@torch.inference_mode()
def test_a_frozen_model_predicts_what_the_plain_one_does(kind):
    recipe, patch_size = sized(kind)
    model = start(recipe, patch_size, stages_of(kind)[-1]).model.eval()
    batch = few_videos(recipe)
    is_uni = isinstance(model, UniAdaFocus)
    glance = glanced(model, batch) if is_uni else batch.glance
    # Not in TensorFloat-32, in which sums in another order differ by a thousandth.
    kept = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    plain = model(batch.frames, glance)
    # Boxes that move by a part of a pixel change what the focuser sees.
    given = (plain.looks,) if is_uni else ()
    frozen = model.frozen()(batch.frames, glance, *given)
    chosen = model.frozen()(batch.frames, glance)
    torch.backends.cudnn.conv.fp32_precision = kept
    assert torch.equal(chosen.frames, plain.frames)
    assert torch.allclose(chosen.boxes, plain.boxes, atol=0.1)
    assert torch.allclose(frozen.logits, plain.logits, rtol=1e-3, atol=1e-3)


# --- the loop of training ---------------------------------------------------------------------


@pytest.fixture
def error_if_waiting(monkeypatch):
    """Lets a wait for the GPU fail from the second batch of each epoch until its last begins.

    Between them lies all that the engine does for a batch. The first batch of a process may wait,
    for what is made once; the end of an epoch must, to read its figures.
    """
    for kind in set(STAGES.values()):
        monkeypatch.setattr(kind, "prepare", watched(kind.prepare))
    yield
    torch.cuda.set_sync_debug_mode("default")


def watched(prepare):
    def watch(stage: Stage, batch: Batch):
        of_epoch = batch.draws.batch + 1
        torch.cuda.set_sync_debug_mode("error" if of_epoch in (2, 3) else "default")
        return prepare(stage, batch)

    return watch


@every_stage(*TINY)
def test_no_step_waits_for_the_gpu(kind, name, folder, error_if_waiting):
    recipe = tiny(kind)
    _, progress = train(recipe, name, folder)
    assert len(progress.history) == recipe.stages[name].epochs


def test_no_step_of_a_resumed_run_waits_for_the_gpu(folder, error_if_waiting):
    """Adam counts its steps; it reads the count at every step, and must not from the GPU."""

    class Killed(Exception):
        pass

    def kill(row):
        raise Killed

    recipe = tiny_recipe("gru")
    with pytest.raises(Killed):
        train(recipe, "stage2", folder, on_epoch=kill)
    _, progress = train(recipe, "stage2", folder)
    assert [row["epoch"] for row in progress.history] == [1, 2]


def test_a_wait_for_the_gpu_is_seen(folder, error_if_waiting, monkeypatch):
    """That the two tests above can fail."""
    loss = STAGES["glancer"].loss

    def waiting(stage: Stage, batch: Batch):
        found, logs = loss(stage, batch)
        return found, logs | {"read": torch.tensor(found.item(), device=GPU)}

    monkeypatch.setattr(STAGES["glancer"], "loss", waiting)
    with pytest.raises(RuntimeError, match="synchronizing"):
        train(tiny_recipe("gru"), "glancer", folder)


def test_a_batch_that_does_not_fit_goes_through_in_parts(folder):
    """With the focuser of the paper, as memory is given in pieces too large for tiny networks."""
    values = load_recipe(RECIPES / "actnet.yaml").to_dict()
    values["stages"]["focuser"] |= {"epochs": 1, "batch_size": 8}
    recipe = parse_recipe(values, "actnet.yaml")
    # Whole it takes more than 5 GiB (benchmarks/memory.py).
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(4 * 2**30 / torch.cuda.mem_get_info()[1])
    try:
        _, progress = train(recipe, "focuser", folder, patch_size=128)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert progress.micro_batch in (1, 2, 4)
    assert [row["epoch"] for row in progress.history] == [1]


class One(int):
    """The size of a group of one process that goes all the way which a group of many does."""

    def __eq__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


def steady(recipe: Recipe) -> Recipe:
    """Without dropout, and at rates so low that rounding does not grow from step to step."""
    values = recipe.to_dict()
    values["model"]["classifier"]["dropout"] = 0.0
    if recipe.method == "uni-adafocus":
        values["model"]["head_dropout"] = 0.0
    for stage in values["stages"].values():
        stage |= {
            "optimizer": "sgd",
            "learning_rates": dict.fromkeys(stage["learning_rates"], 1e-3),
        }
    return parse_recipe(values, "steady.yaml")


@pytest.fixture
def exactly(name):
    """In float64 where MobileNetV2 learns, in which rounding grows fastest."""
    torch.set_default_dtype(torch.float64 if name == "joint" else torch.float32)
    yield
    torch.set_default_dtype(torch.float32)


@every_stage(*TINY, but=("glancer", "stage3"))
@pytest.mark.usefixtures("exactly")
def test_a_group_of_one_learns_by_nccl_what_one_process_does(kind, name, tmp_path, monkeypatch):
    recipe = steady(tiny(kind))
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    for place in ("alone", "group"):
        (tmp_path / place).mkdir()
        write_noise(tmp_path / place, VIDEOS)
    alone, progress = train(recipe, name, tmp_path / "alone", precision=torch.float32)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        monkeypatch.setattr(distributed, "size", lambda: One(1))
        group, of_group = train(recipe, name, tmp_path / "group", precision=torch.float32)
    finally:
        monkeypatch.undo()
        torch.distributed.destroy_process_group()
    for row, expected in zip(of_group.history, progress.history, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.02, abs=0.01)
    expected = alone.state_dict()
    for key, tensor in group.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, expected[key], rtol=0.01, atol=0.01), key


def spoil(model: AdaFocus | UniAdaFocus) -> None:
    if isinstance(model, UniAdaFocus):
        for weight in model.policy.parameters():
            nn.init.constant_(weight, torch.nan)
    else:
        nn.init.constant_(model.policy.actor.bias, torch.nan)


def train_spoilt(kind: str, folder: Path) -> None:
    train(tiny(kind), "stage2" if "stage2" in stages_of(kind) else "joint", folder, change=spoil)


@pytest.mark.parametrize("kind", TINY)
def test_a_policy_that_is_not_a_number_ends_with_the_videos_names(folder, kind):
    """In a process of its own, as an assertion on the GPU would spoil all that comes after."""
    spawned = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=spawned) as pool,
        pytest.raises(TrainingError, match="not finite any more after batch 1.*train[0-7], train"),
    ):
        pool.submit(train_spoilt, kind, folder).result()
