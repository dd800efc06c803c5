"""Which frames of a video a clip holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafocus.data.batches import EpochSampler
from adafocus.data.clips import sample_train, sample_val

counts = st.tuples(st.integers(1, 400), st.integers(1, 32))
families = st.sampled_from(["last", "first"])


@pytest.mark.parametrize(
    ("frames", "segments", "expected"),
    [
        (16, 16, list(range(16))),
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (10, 4, [1, 3, 6, 8]),  # tick 2.5: 1.25, 3.75, 6.25, 8.75
        (300, 3, [50, 150, 250]),
        (7, 1, [3]),
    ],
)
def test_val_takes_the_middle_of_each_segment(frames, segments, expected):
    assert sample_val(frames, segments, "last").tolist() == expected
    assert sample_val(frames, segments, "first").tolist() == expected


def test_train_draws_within_each_segment():
    rng = np.random.default_rng(0)
    drawn = np.stack([sample_train(11, 3, "last", rng) for _ in range(500)])
    # floor(11/3) = 3 offsets in each segment, so the last two frames are never drawn
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    # one offset per segment, not one for the whole clip
    assert {len(set(row % 3)) for row in drawn} == {1, 2, 3}


@pytest.mark.parametrize(("padding", "expected"), [("last", [0, 1, 2, 2, 2]), ("first", [0] * 5)])
def test_short_videos(padding, expected):
    assert sample_val(3, 5, padding).tolist() == expected
    assert sample_train(3, 5, padding, np.random.default_rng(0)).tolist() == expected


@given(counts, families, st.integers(0, 9))
def test_indices_are_ordered_and_within_the_video(count, padding, seed):
    frames, segments = count
    drawn = sample_train(frames, segments, padding, np.random.default_rng(seed))
    for indices in (drawn, sample_val(frames, segments, padding)):
        assert len(indices) == segments
        assert (np.diff(indices) >= 0).all()
        assert indices[0] >= 0 and indices[-1] < frames


def test_epoch_sampler_shuffles_by_seed_and_epoch():
    sampler = EpochSampler(20, seed=1)
    first, again = list(sampler), list(sampler)
    sampler.epoch = 3
    later = list(sampler)
    assert first == again
    assert {epoch for epoch, _ in later} == {3}
    assert sorted(index for _, index in later) == list(range(20))
    assert [index for _, index in first] != [index for _, index in later]
    assert first != list(EpochSampler(20, seed=2))


def test_epoch_sampler_keeps_the_order_when_told():
    assert list(EpochSampler(3, seed=1, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]
