from dataclasses import replace

import pytest
import torch
from uni_models import CLASSES, TINY, noise, tiny

from adafocus.model.backbones import Normalize
from adafocus.model.uni import look_at, pick


@pytest.fixture(scope="module", params=["long", "short"])
def model(request):
    return tiny(request.param).eval()


@pytest.fixture
def inputs(model):
    torch.manual_seed(0)
    return noise(model)


@torch.inference_mode()
def test_shapes(model, inputs):
    out = model(*inputs)
    short = model.shape.apart
    assert out.logits.shape == (3, 1 if short else 4 + 5, CLASSES)
    assert out.boxes.shape == (3, 1 if short else 5, 4)
    assert out.corners.shape == (3, 1 if short else 5, 2)
    assert out.frames.shape == (3, 5)
    assert out.logits.dtype == out.boxes.dtype == torch.float32
    assert out.corners.dtype == out.frames.dtype == torch.int64


@torch.inference_mode()
def test_videos_do_not_see_each_other(model, inputs):
    together = model(*inputs)
    for video in range(3):
        alone = model(*(None if clip is None else clip[video : video + 1] for clip in inputs))
        assert torch.equal(alone.frames[0], together.frames[video])
        assert torch.allclose(alone.boxes[0], together.boxes[video], atol=1e-4)
        assert torch.allclose(alone.logits[0], together.logits[video], atol=1e-4)


@torch.inference_mode()
def test_given_looks_replace_the_policys(model, inputs):
    chosen = torch.tensor([[0, 1, 2, 3, 11]]).expand(3, -1)
    looks = look_at(chosen, torch.tensor([3.0, 4, 28, 28]).expand(3, 1, 4))
    out = model(*inputs, looks=looks)
    assert torch.equal(out.frames, chosen)
    assert torch.equal(out.corners, torch.tensor([3, 4]).expand(3, 1, 2))
    seen = model.patches(inputs[0], looks)
    assert torch.allclose(seen, inputs[0][:, chosen[0], :, 3:31, 4:32], atol=1e-4)


@torch.inference_mode()
def test_a_frozen_copy_predicts_the_same(model, inputs):
    frozen = model.frozen()
    out, expected = frozen(*inputs), model(*inputs)
    assert torch.equal(out.frames, expected.frames)
    assert torch.allclose(out.logits, expected.logits, atol=1e-3)
    assert frozen.policy is model.policy
    assert not any(weight.requires_grad for weight in frozen.focuser.parameters())
    assert all(weight.requires_grad for weight in model.parameters())


@torch.inference_mode()
def test_bytes_give_what_normalised_floats_give(model, inputs):
    bytes_ = [clip if clip is None else (clip * 40 + 128).clamp(0, 255).byte() for clip in inputs]
    floats = [clip if clip is None else Normalize()(clip) for clip in bytes_]
    out, expected = model(*bytes_), model(*floats)
    assert torch.equal(out.frames, expected.frames)
    assert torch.allclose(out.logits, expected.logits, atol=1e-4)


@torch.inference_mode()
def test_backbones_alone_compute_in_low_precision():
    model = tiny("long").eval()
    inputs = noise(model)
    expected = model(*inputs)
    model.set_precision(torch.bfloat16)
    out = model(*inputs)
    assert model.precision == torch.bfloat16
    assert out.logits.dtype == out.boxes.dtype == torch.float32
    assert not torch.equal(out.logits, expected.logits)
    assert torch.allclose(out.logits, expected.logits, atol=0.3)


def test_a_long_video_is_glanced_at_in_the_middle_of_each_share():
    model = tiny("long")
    frames = torch.arange(12.0).view(1, 12, 1, 1, 1).expand(1, 12, 3, 64, 64)
    assert model.glanced_frames(frames, None)[0, :, 0, 0, 0].tolist() == [1, 4, 7, 10]
    places = torch.tensor([[0, 5, 6, 11]])
    assert model.glanced_frames(frames, None, places)[0, :, 0, 0, 0].tolist() == [0, 5, 6, 11]


@torch.inference_mode()
def test_each_step_sees_what_came_before_it():
    """The classifier equals a loop over frames."""
    model = tiny("long").eval()
    classifier = model.classifier
    glances = torch.randn(2, 4, model.glancer.channels)
    local = torch.randn(2, 5, model.focuser.channels)
    steps = classifier(glances, local)
    seen = found = torch.zeros(2, 16)  # as low as a ReLU goes
    for step in range(4):
        seen = torch.maximum(seen, classifier.global_mlp(glances[:, step]))
        heads = classifier.global_heads
        assert torch.allclose(
            steps[:, step], seen @ heads.weight[step].T + heads.bias[step], atol=1e-5
        )
    for step in range(5):
        found = torch.maximum(found, classifier.local_mlp(local[:, step]))
        heads, both = classifier.local_heads, torch.cat((found, seen), -1)
        expected = both @ heads.weight[step].T + heads.bias[step]
        assert torch.allclose(steps[:, 4 + step], expected, atol=1e-5)


def test_a_short_video_teaches_its_backbones_by_their_own_heads_alone():
    model = tiny("short").train()
    frames, glance = noise(model)
    glimpse = model.glance(glance)
    looks = model.look(glimpse._replace(maps=glimpse.maps.detach()))
    logits = model.classify(
        glimpse, model.focus(frames, looks._replace(boxes=looks.boxes.detach()))
    )
    (logits.sum() + model.weigh(glimpse)[:, 0].sum() + model.to_mix(glimpse).sum()).backward()
    for network in (model.glancer, model.focuser):
        assert all(weight.grad is None for weight in network.trunk.parameters())
        assert network.head.weight.grad is None
        assert network.others["prediction"].weight.grad is not None
    assert all(weight.grad is not None for weight in model.policy.when.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"focused": 13}, "13 frames cannot be chosen from 12 candidates"),
        ({"glanced": 5}, "12 candidates are no multiple of the 5 frames"),
        ({"patch_size": 40}, "a patch of 40 pixels is none of the boxes of 20 to 36"),
        ({"largest": 65}, "largest <= frame_size"),
    ],
)
def test_a_shape_that_cannot_be_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_wrong_frames_are_an_error():
    with pytest.raises(ValueError, match=r"frames must be \(B, 12, 3, 64, 64\); they are"):
        tiny("long")(torch.zeros(1, 11, 3, 64, 64))
    short = tiny("short")
    with pytest.raises(ValueError, match="pass glance"):
        short(torch.zeros(1, 12, 3, 64, 64))
    with pytest.raises(ValueError, match=r"glance must be \(B, 4, 3, 64, 64\)"):
        short(torch.zeros(1, 12, 3, 64, 64), torch.zeros(1, 12, 3, 64, 64))


def test_pick():
    frames = torch.arange(24).view(2, 6, 2)
    picked = pick(frames, torch.tensor([[0, 5], [1, 1]]))
    assert picked.tolist() == [[[0, 1], [10, 11]], [[14, 15], [14, 15]]]
