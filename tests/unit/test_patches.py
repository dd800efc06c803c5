from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adafocus.model.patches import (
    centred_corners,
    crop,
    cut_in_two,
    cut_windows,
    grid_cells,
    grid_corners,
    random_corners,
    unit_corners,
)


def test_grid_corners_by_hand():
    # 7x7 cells, frame 224, patch 128: rows and columns at floor(i/6 · 96) = 0, 16, ..., 96.
    cells = torch.tensor([0, 6, 8, 24, 48])
    assert grid_corners(cells, 7, 96).tolist() == [[0, 0], [0, 96], [16, 16], [48, 48], [96, 96]]
    # Patch 96: floor(1/6 · 128) = 21, floor(5/6 · 128) = 106.
    assert grid_corners(torch.tensor([[5 * 7 + 1]]), 7, 128).tolist() == [[[106, 21]]]


@given(grid=st.integers(2, 9), margin=st.integers(0, 400), data=st.data())
def test_grid_corners_are_the_exact_floor(grid, margin, data):
    cell = data.draw(st.integers(0, grid**2 - 1))
    top, left = grid_corners(torch.tensor(cell), grid, margin).tolist()
    assert top == Fraction(cell // grid, grid - 1) * margin // 1
    assert left == Fraction(cell % grid, grid - 1) * margin // 1


@given(grid=st.integers(2, 9), margin=st.integers(0, 400))
def test_cells_share_all_corners_and_each_corner_of_the_grid_has_its_own(grid, margin):
    cells = grid_cells(torch.arange(margin + 1), grid, margin)
    fewest, most = (margin + 1) // grid, -(-(margin + 1) // grid)
    assert set(cells.bincount().tolist()) <= {max(fewest, 1), most}
    if margin >= grid - 1:
        rows = grid_corners(torch.arange(grid) * grid, grid, margin)[:, 0]
        assert grid_cells(rows, grid, margin).tolist() == list(range(grid))


def test_unit_corners_by_hand():
    positions = torch.tensor([[0.0, 1.0], [0.5, 0.999]])
    assert unit_corners(positions, 80).tolist() == [[0, 80], [40, 79]]


def test_centred_corners_stay_within_the_frame():
    centres = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.4, 0.7]])
    # 0.4 · 100 - 15 = 25, 0.7 · 100 - 15 = 55.
    assert centred_corners(centres, 100, 30).tolist() == [[35, 35], [0, 70], [25, 55]]


def test_random_corners_reach_both_ends_and_no_further():
    torch.manual_seed(0)
    corners = random_corners((4, 500), 3)
    assert corners.shape == (4, 500, 2)
    assert corners.unique().tolist() == [0, 1, 2, 3]


@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 4),
    height=st.integers(5, 12),
    width=st.integers(5, 12),
    size=st.integers(1, 5),
    data=st.data(),
)
def test_crop_equals_plain_indexing(batch, time, height, width, size, data):
    frames = torch.arange(batch * time * 3 * height * width).view(batch, time, 3, height, width)
    corner = st.tuples(st.integers(0, height - size), st.integers(0, width - size))
    corners = torch.tensor(
        data.draw(st.lists(corner, min_size=batch * time, max_size=batch * time))
    ).view(batch, time, 2)
    patches = crop(frames, corners, size)
    for b in range(batch):
        for t in range(time):
            top, left = corners[b, t]
            expected = frames[b, t, :, top : top + size, left : left + size]
            assert torch.equal(patches[b, t], expected)


@given(count=st.integers(1, 5), size=st.integers(1, 7), data=st.data())
def test_patches_cut_for_an_exported_graph_are_the_same(count, size, data):
    images = torch.arange(count * 3 * 7 * 8).view(count, 3, 7, 8)
    place = st.lists(st.integers(0, 7 - size), min_size=count, max_size=count)
    tops, lefts = torch.tensor([data.draw(place), data.draw(place)])
    expected = cut_windows(images, tops, lefts, size)
    assert torch.equal(cut_in_two(images, tops, lefts, size), expected)


def test_one_corner_serves_all_frames():
    frames = torch.randn(2, 5, 3, 9, 9)
    corners = torch.tensor([[[1, 2]], [[5, 0]]])
    patches = crop(frames, corners, 4)
    assert torch.equal(patches[0], frames[0, :, :, 1:5, 2:6])
    assert torch.equal(patches[1], frames[1, :, :, 5:9, 0:4])


def test_a_patch_outside_the_frame_is_an_error():
    with pytest.raises(IndexError):
        crop(torch.zeros(1, 1, 3, 8, 8), torch.tensor([[[6, 0]]]), 4)
