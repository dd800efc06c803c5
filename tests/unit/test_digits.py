"""The demo's videos."""

import csv

import numpy as np
import pytest
import torch
from miniature import make_recipe

from adafocus.data import digits
from adafocus.data.digits import DIGITS, Studio, write_videos
from adafocus.data.forms import SPLITS
from adafocus.data.frames import extract
from adafocus.data.sources import fetch
from adafocus.data.store import count_frames, read_frames


@pytest.fixture
def source():
    return make_recipe().source


def test_the_digit_is_in_sight_for_a_while_and_where_the_truth_says(source):
    source = source.model_copy(update={"fragments": 0})
    studio = Studio(source)
    size, half = source.size, source.digit // 2
    for index in range(DIGITS):
        frames, truth = studio.draw("train", index)
        assert frames.shape == (source.frames, size, size, 3) and frames.dtype == np.uint8
        in_sight = np.flatnonzero((frames.min(-1) > 180).any((1, 2)))  # textures end at 160
        assert len(in_sight) == np.ptp(in_sight) + 1 == source.visible < source.frames
        for frame, centre in zip(frames[in_sight], truth.centres[in_sight], strict=True):
            bright = np.argwhere(frame.min(-1) > 180)
            assert len(bright) > 10
            assert (np.abs(bright + 0.5 - centre * size) <= half).all()


def test_digit_and_background_move_within_the_frame(source):
    source = source.model_copy(update={"frames": 60, "visible": 60, "fragments": 0})
    studio = Studio(source)
    paths = np.stack([studio.draw("val", index)[1].centres for index in range(10)])
    margin = source.digit / source.size / 2
    assert paths.min() >= margin - 1e-6 and paths.max() <= 1 - margin + 1e-6
    assert np.ptp(paths, axis=1).min() > 0.9 * (1 - 2 * margin)  # from edge to edge
    assert np.abs(np.diff(paths, axis=1)).max(axis=(1, 2)).min() > 0.02  # never at rest
    frames, _ = studio.draw("val", 0)
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 3


def test_fragments_are_bright_and_smaller_than_the_digit(source):
    plain = Studio(source.model_copy(update={"fragments": 0})).draw("train", 4)[0]
    busy = Studio(source.model_copy(update={"fragments": 8})).draw("train", 4)[0]
    assert (busy.min(-1) > 180).sum() > 1.5 * (plain.min(-1) > 180).sum()


def test_halves_share_textures_but_no_scans(source):
    studio = Studio(source)
    train, val = (np.concatenate(studio.scans[split]) for split in SPLITS)
    assert len(train) > 1300 and len(val) > 430
    assert not {scan.tobytes() for scan in train} & {scan.tobytes() for scan in val}
    assert len(studio.textures) == source.backgrounds
    paths = [studio.draw(split, index)[1].centres for split in SPLITS for index in range(3)]
    assert len({path.tobytes() for path in paths}) == 6


def test_the_same_seed_gives_the_same_videos(source, tmp_path):
    for name, workers in (("a", 1), ("b", 3)):
        write_videos(source, tmp_path / name, workers)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == source.train + source.val + 4
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    other = Studio(source.model_copy(update={"seed": 1}))
    assert (other.draw("train", 0)[0] != Studio(source).draw("train", 0)[0]).any()


def test_encoded_frames_are_the_drawn_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "VIDEOS_AT_A_TIME", 3)  # the last batch holds one video
    recipe = make_recipe(frames={"shards": 1})
    fetch(recipe, tmp_path, workers=2)
    extract(recipe, tmp_path, shard=0, threads=2)
    with (tmp_path / "annotations" / "positions.csv").open() as file:
        rows = list(csv.DictReader(file))
    studio = Studio(recipe.source)
    for index in range(recipe.source.val):
        drawn, truth = studio.draw("val", index)
        store = tmp_path / "frames" / f"{truth.video}.zip"
        assert count_frames(store) == len(drawn)
        frames = read_frames(store, range(len(drawn))).permute(0, 2, 3, 1)
        error = (frames.int() - torch.from_numpy(drawn).int()).abs().float().mean()
        assert error < 12  # what chroma subsampling and two codecs cost
        written = [(row["y"], row["x"]) for row in rows if row["video"] == truth.video]
        assert np.abs(np.array(written, float) - truth.centres).max() < 1e-6
