"""What is written for few videos trains as well as a plain fine-tuning of the glancer does.

On a set that is harder than the demo's: with less than a third of its videos of each class, and
more fragments of other digits. What the recipe says of the training is taken as it is written.
"""

from __future__ import annotations

import csv
from math import cos, pi

import numpy as np
import pytest
import torch
from simplejpeg import encode_jpeg
from torch.nn import functional

from adafocus.data.batches import Batch, EpochSampler, loader, own_batches
from adafocus.data.clips import Clips
from adafocus.data.digits import DIGITS, Studio
from adafocus.evaluation.metrics import compute_metrics
from adafocus.evaluation.places import places_of
from adafocus.methods.run import STAGES
from adafocus.model.backbones import pool
from adafocus.model.building import build
from adafocus.recipe import GenerateSource, parse_recipe
from adafocus.recipe.own import own_stages
from adafocus.training.engine import fit, validate
from adafocus.training.resume import ResumeFile

pytestmark = pytest.mark.slow
CPU, SEED, SIDE, GLANCE, PATCH = torch.device("cpu"), 0, 56, 28, 20
SHOWN = (2, 3, 5, 8)
"""Digits, the classes."""
VIDEOS = {"train": 60 * len(SHOWN), "val": 1000}
SOURCE = {
    "kind": "generate",
    **VIDEOS,
    "frames": 8,
    "visible": 5,
    "size": SIDE,
    "digit": 18,
    "fragments": 3,
    "backgrounds": 20,
}
BACKBONES = {
    "glancer": {"name": "resnet", "depth": 10, "width": 0.125, "output_stride": 4},
    "focuser": {"name": "resnet", "depth": 10, "width": 0.1875, "output_stride": 16},
}
MODELS = {
    "uni-adafocus": {
        "frames": 8,
        "glance_frames": 4,
        "focus_frames": 3,
        "policy": {"smallest": 18, "largest": SIDE, "channels": 8, "frame_channels": 16},
        "classifier": {"hidden": 128},
    },
    "adafocus": {
        "frames": 4,
        "policy": {"kind": "grid", "channels": 8, "hidden": 64},
        "classifier": {"kind": "recurrent", "hidden": 64, "dropout": 0.2},
    },
}
EPOCHS, STILLS = 15, 3000
"""Of a plain fine-tuning, and for its pretraining."""
SPREAD = 0.02
"""Root mean square of a convolution's weights, about that of ResNet-50 from ImageNet."""


def few(method, classes=None):
    values = {
        "name": "few",
        "title": "Few digits",
        "method": method,
        "classes": classes or len(SHOWN),
        "videos": VIDEOS,
        "metric": "top1",
        "patch_sizes": [PATCH],
        "source": SOURCE,
        "annotations": {"format": "table", "file": "labels.csv"},
        "augmentation": {"scales": [1.0], "flip": False},
        "model": {"frame_size": SIDE, "glance_size": GLANCE} | BACKBONES | MODELS[method],
        "stages": own_stages(method, VIDEOS["train"]),
    }
    return parse_recipe(values, "few.yaml")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set with its frames and splits."""
    folder, studio = tmp_path_factory.mktemp("few"), Studio(GenerateSource(**SOURCE))
    (folder / "splits").mkdir()
    for split, count in VIDEOS.items():
        with (folder / "splits" / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["video", "path", "frames", "labels"])
            for number in range(count):
                row, label = divmod(number, len(SHOWN))
                frames, truth = studio.draw(split, row * DIGITS + SHOWN[label])
                video = folder / "videos" / truth.video
                video.mkdir(parents=True)
                for t, frame in enumerate(frames):
                    picture = encode_jpeg(np.ascontiguousarray(frame), 95, colorsubsampling="444")
                    (video / f"{t:03d}.jpg").write_bytes(picture)
                table.writerow([truth.video, f"videos/{truth.video}", len(frames), label])
    return folder


@pytest.fixture(scope="module")
def pretrained():
    """Trunks of both backbones that have seen stills of all digits, as those of ImageNet have seen
    photographs: the glancer whole ones, the focuser parts around the digit.

    Batch norms follow all convolutions, so that their scale says nothing, but how fast they learn
    at a rate. They are scaled to what real networks have.
    """
    studio = Studio(GenerateSource(**SOURCE | {"frames": 1, "visible": 1}))
    rng, first = np.random.default_rng(SEED), VIDEOS["train"] * DIGITS
    stills, parts = [], []
    for number in range(STILLS):
        (still,), truth = studio.draw("train", first + number)
        corner = truth.centres[0] * SIDE - PATCH / 2 + rng.integers(-3, 4, 2)
        top, left = corner.clip(0, SIDE - PATCH).astype(int)
        stills.append(still)
        parts.append(still[top : top + PATCH, left : left + PATCH])
    torch.manual_seed(SEED)
    model = build(few("adafocus", DIGITS), PATCH).train()
    networks = {
        "glancer": (stills, lambda frames: model.glance(frames).logits),
        "focuser": (parts, lambda frames: model.focuser.classify(pool(model.focuser(frames)))),
    }
    trunks = {}
    for name, (pictures, predict) in networks.items():
        frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).unsqueeze(1)
        groups = [{"params": getattr(model, name).parameters(), "lr": 0.002}]
        rows = [rows for _ in range(3) for rows in torch.randperm(STILLS).split(32)]
        drawn = [(frames[some], some % DIGITS) for some in rows]
        descend(groups, drawn, lambda frames, p=predict: p(frames)[:, 0])
        trunks[name] = getattr(model, name).trunk.state_dict()
        for weights in trunks[name].values():
            if weights.ndim == 4:
                weights *= SPREAD / weights.square().mean().sqrt()
    return trunks


def descend(groups, batches, predict):
    """Adam on the cross-entropy of what is predicted of inputs, at rates that fall.

    Args:
        batches: pairs of inputs and targets.
    """
    optimizer = torch.optim.Adam(groups)
    falling = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + cos(pi * step / len(batches))) / 2
    )
    for inputs, target in batches:
        optimizer.zero_grad()
        functional.cross_entropy(predict(inputs), target).backward()
        optimizer.step()
        falling.step()


def begin(recipe, pretrained):
    torch.manual_seed(SEED)
    model = build(recipe, PATCH)
    for name, weights in pretrained.items():
        getattr(model, name).trunk.load_state_dict(weights)
    return model


def batches(folder, split, recipe, size):
    learns = split == "train"
    clips = Clips(folder, split, recipe, augment=learns, seed=SEED)
    return loader(clips, size, EpochSampler(len(clips), SEED, shuffle=learns), 0, CPU)


@pytest.fixture(scope="module")
def plain(pretrained, folder):
    """Top-1 of the glancer after a plain fine-tuning on whole frames: Adam, slower for what was
    trained before than for the new head."""
    recipe = few("adafocus")
    model = begin(recipe, pretrained)
    stage = STAGES["glancer"]("glancer", model, recipe.stages["glancer"])
    stage.train_mode()
    clips, drawn = batches(folder, "train", recipe, 8), []
    for clips.sampler.epoch in range(EPOCHS):
        drawn += [Batch.of(items, CPU, None) for items in clips]
    groups = [
        {"params": model.glancer.trunk.parameters(), "lr": 0.0003},
        {"params": model.glancer.head.parameters(), "lr": 0.001},
    ]
    descend(groups, [(one, one.target) for one in drawn], lambda one: stage.predict(one)[0])
    scores, _ = validate(stage, batches(folder, "val", recipe, 100), CPU, SEED)
    return scores["top1"]


def learn(name, model, recipe, folder):
    """Trains a stage as the recipe says; top-1 of its last epoch."""
    training = recipe.stages[name]
    training = training.model_copy(update={"validate_every": training.epochs})
    progress = fit(
        STAGES[name](name, model, training),
        batches(folder, "train", recipe, training.batch_size),
        batches(folder, "val", recipe, 100),
        metric="top1",
        seed=SEED,
        device=CPU,
        resume=ResumeFile(folder / f"{name}.resume.pt", ["few"]),
        state=None,
        on_epoch=lambda row: None,
        checkpoint_minutes=100,
    )
    return progress.best


@torch.inference_mode()
def look(model, recipe, folder):
    """Top-1 after each step, and of each baseline."""
    places, found = places_of(model.eval()), []
    for _, batch in own_batches(batches(folder, "val", recipe, 100), CPU, SEED):
        predicted = places.predict(batch)
        found.append((batch.labels, predicted.logits, places.beside(batch, predicted)))
    labels, logits = torch.cat([one[0] for one in found]), torch.cat([one[1] for one in found])
    steps = [compute_metrics(step, labels)["top1"] for step in logits.unbind(1)]
    beside = {}
    for name in found[0][2]:
        draws = torch.cat([one[2][name] for one in found], dim=1)[:, :, -1]
        scores = [compute_metrics(draw, labels)["top1"] for draw in draws]
        beside[name] = sum(scores) / len(scores)
    return steps, beside


def test_uni_adafocus_learns_few_videos_as_well_as_its_glancer_does_alone(
    pretrained, plain, folder
):
    recipe = few("uni-adafocus")
    model = begin(recipe, pretrained)
    learn("joint", model, recipe, folder)
    steps, beside = look(model, recipe, folder)
    told = f"plain {plain}, steps {steps}, beside {beside}"
    assert beside["glancer"] >= plain - 3, told
    assert steps[-1] >= plain - 3, told
    assert steps[-1] > beside["random"], told
    assert steps[-1] >= max(steps) - 3, told
