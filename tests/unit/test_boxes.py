import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adafocus.model.boxes import BoxRange, over_time, resample

unit = st.floats(0, 1, width=32)


def test_boxes_by_hand():
    boxes = BoxRange(96, 224, 224)
    actions = torch.tensor([[0.0, 1.0, 0.0, 0.5], [0.25, 0.5, 0.5, 1.0]])
    # Sides 96 and 160, then 160 and 224; 224 - 160 = 64 pixels are left for the place.
    assert boxes.place(actions).tolist() == [[0, 64, 96, 160], [16, 0, 160, 224]]


@given(
    action=st.lists(unit, min_size=4, max_size=4),
    sides=st.lists(st.integers(1, 400), min_size=3, max_size=3, unique=True),
)
def test_boxes_lie_within_the_frame(action, sides):
    smallest, largest, frame = sorted(sides)
    boxes = BoxRange(smallest, largest, frame).place(torch.tensor(action))
    assert (boxes[:2] >= 0).all()
    assert (boxes[:2] + boxes[2:] <= frame * (1 + 1e-6)).all()
    assert (boxes[2:] >= smallest).all()
    assert (boxes[2:] <= largest * (1 + 1e-6)).all()


def test_squares_have_the_side_asked_for():
    places = torch.rand(3, 2, 2)
    actions = BoxRange(20, 36, 64).squares(places, 28)
    assert torch.equal(actions[..., :2], places)
    assert torch.equal(BoxRange(20, 36, 64).place(actions)[..., 2:], torch.full((3, 2, 2), 28.0))


@pytest.mark.parametrize("sizes", [(0, 8, 8), (8, 8, 16), (4, 20, 16)])
def test_a_range_without_boxes_is_an_error(sizes):
    with pytest.raises(ValueError, match="0 < smallest < largest <= frame_size"):
        BoxRange(*sizes)


def test_actions_over_time_by_hand():
    # Two glances, in the middles of two halves of four frames: at 0.5 and 2.5.
    actions = torch.tensor([[[0.0, 1.0, 0.2, 0.4], [1.0, 0.0, 0.2, 0.8]]])
    expected = [[0, 1, 0.2, 0.4], [0.25, 0.75, 0.2, 0.5], [0.75, 0.25, 0.2, 0.7], [1, 0, 0.2, 0.8]]
    assert torch.allclose(over_time(actions, 4), torch.tensor([expected]))


@given(
    size=st.integers(1, 40), height=st.integers(40, 60), width=st.integers(40, 60), data=st.data()
)
def test_a_box_of_whole_pixels_and_the_patchs_size_is_cut_as_it_is(size, height, width, data):
    top = data.draw(st.integers(0, height - size))
    left = data.draw(st.integers(0, width - size))
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[float(top), left, size, size]])
    expected = images[..., top : top + size, left : left + size]
    assert (resample(images, box, size) - expected).abs().max() <= 1e-5


def test_resampling_by_hand():
    # A box of twice the size, between pixels; half a pixel beyond the edge is zero.
    row = torch.tensor([8.0, 4.0, 2.0, 6.0])
    images = row.expand(1, 1, 4, 4)
    found = resample(images, torch.tensor([[0.0, 0, 4, 4]]), 2)
    assert torch.allclose(found, torch.tensor([6.0, 4.0]))
    expected = torch.tensor([[4.5, 5.25, 3.75, 2.625], [6.0, 7.0, 5.0, 3.5]])
    found = resample(images, torch.tensor([[0.0, 0, 2, 2]]), 4)
    assert torch.allclose(found[0, 0, :2], expected)


def test_each_image_is_seen_in_its_own_box():
    images = torch.rand(2, 3, 1, 20, 24)
    boxes = torch.tensor([[[1.0, 2, 5, 5], [3, 3, 5, 5], [0, 19, 5, 5]]] * 2)
    boxes[1] += torch.tensor([4.0, 0, 0, 0])
    seen = resample(images, boxes, 5)
    assert seen.shape == (2, 3, 1, 5, 5)
    for video in range(2):
        for frame in range(3):
            top, left = (int(place) for place in boxes[video, frame, :2])
            expected = images[video, frame, :, top : top + 5, left : left + 5]
            assert torch.allclose(seen[video, frame], expected, atol=1e-5)
    # One box serves all images of a video.
    once = resample(images, boxes[:, :1], 5)
    assert torch.allclose(once[0], images[0, ..., 1:6, 2:7], atol=1e-5)
    assert torch.allclose(once[1], images[1, ..., 5:10, 2:7], atol=1e-5)


def test_gradients_reach_boxes_and_images():
    torch.manual_seed(0)
    images = torch.rand(1, 2, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    # Away from whole pixels, where bilinear sampling has its kinks.
    boxes = torch.tensor(
        [[[1.13, 2.27, 4.39, 3.71], [0.61, 3.33, 5.17, 4.91]]], dtype=torch.float64
    )
    boxes.requires_grad_()
    assert torch.autograd.gradcheck(lambda i, b: resample(i, b, 3), (images, boxes))
