import pytest
import torch
from noise import SIZE, uni_recipe

from adafocus.data.clips import sample_val
from adafocus.model.building import build
from adafocus.model.exits import FrameByFrame

COUNT = 8
"""Candidates of the tiny models."""


@pytest.fixture(params=["long", "short"])
def model(request):
    torch.manual_seed(0)
    return build(uni_recipe(request.param), 32).eval()


@pytest.fixture
def camera():
    torch.manual_seed(1)
    return torch.randn(2, 21, 3, SIZE, SIZE)


def seen(model, frames):
    """Of a video that has just these frames."""
    shape = model.shape
    glance = None
    if shape.apart:
        glance = frames[:, sample_val(COUNT, shape.glanced, "even").tolist()]
    return model(frames, glance)


@torch.inference_mode()
@pytest.mark.parametrize(("every", "ends"), [(None, [8, 16]), (3, [8, 11, 14, 17, 20])])
def test_each_window_is_predicted_as_a_video_of_its_own(model, camera, every, ends):
    window = model.window(every)
    found = {n: window(frame) for n, frame in enumerate(camera.unbind(1), start=1)}
    assert [n for n, out in found.items() if out is not None] == ends
    for end in ends:
        alone = seen(model, camera[:, end - COUNT : end])
        torch.testing.assert_close(found[end].logits, alone.logits)
        torch.testing.assert_close(found[end].boxes, alone.boxes)
        assert torch.equal(found[end].frames, alone.frames + end - COUNT)


def test_what_cannot_be_is_one_line(model):
    with pytest.raises(ValueError, match="every 0 frames"):
        model.window(0)
    for stream in (model.stream, lambda: FrameByFrame(model)):
        with pytest.raises(ValueError, match=r"frames to come.*model\.window") as error:
            stream()
        assert "\n" not in str(error.value)
