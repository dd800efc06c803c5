import torch

from adafocus.model.looks import Looks
from adafocus.model.patches import SKIPPED


def chosen():
    """Two of four frames of each of two videos; one look of four is none."""
    boxes = torch.tensor([[[1.5, 2.4, 3, 4], [0, 0, 5, 6]], [[7, 8, 9, 9], [2.5, 3.6, 1, 2]]])
    skipped = torch.tensor([[False, True], [False, False]])
    return Looks(torch.tensor([[0, 2], [1, 3]]), boxes, skipped)


def test_corners_are_whole_and_skipped_ones_are_marked():
    looks = chosen()
    assert looks.corners.tolist() == [[[2, 2], [SKIPPED] * 2], [[7, 8], [2, 4]]]
    assert looks.corners.dtype == torch.int64
    assert looks.patches[0, 1].tolist() == [SKIPPED] * 4
    assert torch.equal(looks.patches[looks.looked], looks.boxes[looks.looked])


def test_every_frame_in_order():
    looks = Looks.at(torch.zeros(2, 1, 4), 3)
    assert looks.frames.tolist() == [[0, 1, 2]] * 2
    assert looks.skipped.tolist() == [[False]] * 2


def test_elsewhere_takes_the_boxes_of_the_frames_looked_at():
    of_each = torch.arange(2 * 4 * 4).view(2, 4, 4).float()
    found = chosen().elsewhere(of_each)
    assert torch.equal(found.boxes[0], of_each[0, [0, 2]])
    assert torch.equal(found.boxes[1], of_each[1, [1, 3]])
    assert torch.equal(found.skipped, chosen().skipped)
    one = chosen().elsewhere(of_each[:, :1])
    assert one.boxes[1].tolist() == [of_each[1, 0].tolist()] * 2
    # Where one place served all frames, another may be of each.
    everywhere = Looks.at(torch.zeros(2, 1, 4), 4).elsewhere(of_each)
    assert torch.equal(everywhere.boxes, of_each)
    assert everywhere.skipped.shape == (2, 4)


def test_frames_of_another_order_and_parts():
    assert chosen().of_frames([4, 2, 6, 1]).frames.tolist() == [[4, 6], [2, 1]]
    whole = Looks.joined([chosen(), chosen()])
    assert all(torch.equal(found[2:], part) for found, part in zip(whole, chosen(), strict=True))
