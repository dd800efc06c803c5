import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published import GOLDEN

from adafocus.model.uni_policy import SpatialPolicy, TemporalPolicy, choose_frames


def cases():
    """Weights of frames, numbers of candidates and of frames to choose, and the chosen ones."""
    with np.load(GOLDEN / "uni_frames.npz") as file:
        for name in file:
            kind, _, sizes = name.partition("_")
            if kind == "weights":
                candidates, _, count = map(int, sizes.split("_"))
                yield pytest.param(
                    file[name], candidates, count, file[f"indices_{sizes}"], id=sizes
                )


@pytest.mark.parametrize(("weights", "candidates", "count", "expected"), list(cases()))
def test_frames_are_chosen_as_the_published_code_does(weights, candidates, count, expected):
    chosen = choose_frames(torch.from_numpy(weights), candidates, count)
    assert chosen.dtype == torch.int64
    assert np.array_equal(chosen, expected)


def test_frames_by_hand():
    weights = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0.25] * 4])
    # Levels 1/8, 3/8, 5/8 and 7/8, three candidates to a part. In the first row they are reached at
    # 0.75, 2.25, 3.75 and 5.25; in the second at 9.375, 10.125, 10.875 and 11.625, the second 10
    # becomes 11, and room is left for those that follow.
    assert choose_frames(weights, 12, 4).tolist() == [
        [0, 2, 3, 5],
        [8, 9, 10, 11],
        [0, 1, 2, 3],
        [1, 4, 7, 10],
    ]
    # Level 0 is reached in the first part, whatever that weighs.
    first = choose_frames(weights, 12, 4, torch.zeros(4, 4))
    assert first.tolist() == [[0, 1, 3, 4], [0, 9, 10, 11], [0, 1, 2, 3], [0, 3, 6, 9]]


@given(
    weights=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=16),
    candidates=st.integers(1, 60),
    offset=st.one_of(st.none(), st.floats(0, 1, width=32)),
    data=st.data(),
)
def test_frames_rise_and_are_candidates(weights, candidates, offset, data):
    count = data.draw(st.integers(1, candidates))
    shares = torch.tensor([weights])
    shares = shares / shares.sum()  # which may be 0 / 0
    offsets = None if offset is None else torch.full((1, count), offset)
    (chosen,) = choose_frames(shares, candidates, count, offsets)
    assert chosen.shape == (count,)
    assert (chosen.diff() > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < candidates


def test_more_weight_draws_more_frames():
    torch.manual_seed(0)
    weights = torch.rand(200, 8).softmax(-1)
    chosen = choose_frames(weights, 240, 80, torch.rand(200, 80))
    counts = torch.stack([(chosen // 30 == part).sum(1) for part in range(8)], 1)
    # A part holds as many levels as its weight is worth, give or take one at either end.
    assert (counts - 80 * weights).abs().max() <= 2


@pytest.mark.parametrize("once", [False, True])
def test_places_and_sizes_are_fractions(once):
    policy = SpatialPolicy(6, 7, 4, once=once, hidden=8)
    actions = policy(torch.randn(2, 4, 6, 7, 7))
    assert actions.shape == (2, 1 if once else 4, 4)
    assert ((actions > 0) & (actions < 1)).all()


def test_weights_sum_to_one_and_see_their_neighbours():
    policy = TemporalPolicy(6, 8).eval()
    features = torch.randn(2, 9, 6)
    weights = policy(features)
    assert weights.shape == (2, 9)
    assert torch.allclose(weights.sum(-1), torch.ones(2))
    # Two convolutions of three frames see two frames to either side.
    other = features.clone()
    other[:, 0] += 1
    moved = (policy(other) / weights).log()
    moved = moved - moved[:, -1:]
    assert (moved[:, :3].abs() > 1e-5).all()
    assert (moved[:, 3:].abs() < 1e-5).all()
