import math
from pathlib import Path

import pytest
import torch
from noise import SIZE, skipping_recipe, tiny_recipe, uni_recipe

from adafocus.model.choices import Choices
from adafocus.model.looks import Looks
from adafocus.model.patches import grid_corners, squares
from adafocus.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
VIDEOS = 40


def grid_looks(cells, grid=3, patch=32):
    """One look at each frame, in cells (B, F) of a grid."""
    corners = grid_corners(torch.as_tensor(cells), grid, SIZE - patch)
    return Looks.at(squares(corners, patch), corners.shape[1])


def box_looks(*, places=(0.0, 1.0), sides=(24.0, 48.0), frames=None):
    """Three looks of eight candidates, of boxes with places and sides drawn between these."""
    draw = torch.Generator().manual_seed(0)
    numbers = torch.rand((2, VIDEOS, 3, 2), generator=draw)
    heights = sides[0] + numbers[0] * (sides[1] - sides[0])
    tops = (places[0] + numbers[1] * (places[1] - places[0])) * (SIZE - heights)
    if frames is None:
        order = torch.rand((VIDEOS, 8), generator=draw).argsort(-1)
        frames = order[:, :3].sort(-1).values
    boxes = torch.cat((tops, heights), dim=-1)
    return Looks.at(boxes, 3)._replace(frames=frames)


def warned(looks, recipe):
    return list(Choices.of(looks, recipe).warnings(recipe))


@pytest.mark.parametrize("patch", [32, 48, 62])
def test_each_cell_of_a_policys_grid_is_a_place(patch):
    recipe = tiny_recipe("gru")
    found = Choices.of(grid_looks([[0, 1, 2, 3], [5, 6, 7, 8]], patch=patch), recipe)
    assert (found.places, found.cells) == (8, 9)
    assert found.commonest_place == 12.5
    assert found.side == patch / SIZE and found.side_deviation == 0
    assert (found.largest, found.smallest, found.frame_entropy) == (None, None, None)


def test_spread_by_hand():
    recipe = uni_recipe("long")
    boxes = torch.tensor([[[0, 0, 24, 24], [8, 0, 40, 24], [40, 0, 24, 24]]]).float()
    looks = Looks(torch.tensor([[1, 2, 6]]), boxes, torch.zeros(1, 3, dtype=torch.bool))
    found = Choices.of(looks, recipe)
    centres = torch.tensor([12.0, 28.0, 52.0]) / SIZE
    both = (centres.var(correction=0) / 2).sqrt()
    assert found.centre_deviation == pytest.approx(both.item())
    heights = torch.tensor([24.0, 40.0, 24.0]) / SIZE
    assert found.side_deviation == pytest.approx((heights.var(correction=0) / 2).sqrt().item())
    assert found.smallest == pytest.approx(200 / 3) and found.largest == 0
    assert found.frame_entropy == pytest.approx(math.log2(3)) and found.commonest_frames == 100


def test_looks_that_were_not_taken_are_left_out():
    recipe = skipping_recipe()
    looks = grid_looks([[4, 4, 4, 4], [4, 4, 4, 8]])
    skipped = torch.zeros(2, 4, dtype=torch.bool)
    skipped[1, 3] = True
    found = Choices.of(looks._replace(skipped=skipped), recipe)
    assert (found.places, found.commonest_place) == (1, 100)
    assert Choices.of(looks._replace(skipped=torch.ones_like(skipped)), recipe) is None
    # Of a video that was left early the first looks alone say nothing of which frames it chooses.
    early = box_looks(frames=torch.tensor([[0, 1, 2]]).expand(VIDEOS, -1))
    early = early._replace(skipped=torch.tensor([False, False, True]).expand(VIDEOS, -1))
    assert Choices.of(early, uni_recipe("long")).commonest_frames is None


def test_a_policy_that_chooses_is_not_warned_of():
    assert warned(grid_looks(torch.arange(VIDEOS * 4).view(-1, 4) % 9), tiny_recipe("gru")) == []
    assert warned(box_looks(), uni_recipe("long")) == []
    # Near the smallest side, as where nothing draws them to larger ones.
    assert warned(box_looks(sides=(24.0, 24.5)), uni_recipe("long")) == []


def test_one_place_in_nearly_all_frames():
    recipe = tiny_recipe("gru")
    cells = torch.full((VIDEOS, 4), 4)
    cells[0, 0] = 7
    [line] = warned(grid_looks(cells), recipe)
    assert "one and the same place" in line and "stages.stage2" in line
    cells[:2] = 7
    assert warned(grid_looks(cells), recipe) == []
    [line] = warned(box_looks(places=(0.5, 0.5), sides=(24.0, 24.5)), uni_recipe("long"))
    assert "one and the same place" in line and "stages.joint" in line


def test_one_place_a_video():
    recipe = tiny_recipe("tsm")
    boxes = squares(torch.full((VIDEOS, 1, 2), 16), 32)
    [line] = warned(Looks.at(boxes, 4), recipe)
    assert "one and the same place" in line
    boxes[: VIDEOS // 2, :, :2] = 3
    assert warned(Looks.at(boxes, 4), recipe) == []


@pytest.mark.parametrize(("side", "size"), [(48.0, "largest"), (24.0, "smallest")])
def test_all_boxes_of_one_end_of_the_sizes(side, size):
    recipe = uni_recipe("long")
    [line] = warned(box_looks(sides=(side, side)), recipe)
    assert line.startswith(f"100% of the policy's boxes have the {size} size")
    assert "size_weight" in line and "stages.joint" in line
    assert warned(box_looks(sides=(36.0, 36.0)), recipe) == []


def test_boxes_as_large_as_the_frame_are_one_warning():
    recipe = load_recipe(RECIPES / "actnet-uni.yaml")
    boxes = torch.tensor([0.0, 0.0, 224.0, 224.0]).expand(VIDEOS, 16, 4)
    frames = torch.stack([torch.randperm(48)[:16] for _ in range(VIDEOS)])
    [line] = warned(Looks.at(boxes, 16)._replace(frames=frames), recipe)
    assert "largest size" in line


def test_always_the_same_frames():
    recipe = uni_recipe("long")
    frames = torch.tensor([[1, 4, 7]]).repeat(VIDEOS, 1)
    [line] = warned(box_looks(frames=frames), recipe)
    assert "the same frames" in line and "stages.joint" in line
    frames[: VIDEOS // 4] = torch.tensor([0, 3, 6])
    assert warned(box_looks(frames=frames), recipe) == []
