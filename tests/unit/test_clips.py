"""Clips: crops, flips, keys, batches."""

import numpy as np
import pytest
import torch
from miniature import make_recipe
from noise import draws_of
from simplejpeg import encode_jpeg
from torchvision.transforms.v2 import functional as F

from adafocus.data import DataError
from adafocus.data.batches import Batch, EpochSampler, loader
from adafocus.data.clips import CROP_POSITIONS, Clips, crop_centre, draw_crop, read_augmented
from adafocus.data.frames import extract
from adafocus.data.sources import fetch
from adafocus.data.splits import write_splits
from adafocus.data.store import read_frames
from adafocus.recipe import Augmentation

TSM = {
    "shift": True,
    "padding": "first",
    "policy": {"kind": "gaussian"},
    "classifier": {"kind": "average"},
    "frames": 5,
    "glance_frames": 3,
    "frame_size": 32,
    "glance_size": 32,
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("digits")


@pytest.fixture
def recipe(folder):
    """The tiny demo, made once."""
    recipe = make_recipe(augmentation={"scales": [1.0, 0.75], "flip": True})
    if not (folder / "splits").exists():
        fetch(recipe, folder, workers=2)
        for shard in range(recipe.frames.shards):
            extract(recipe, folder, shard, threads=2)
        write_splits(recipe, folder)
    return recipe


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def equal(a, b) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a
    )


# --- transforms -------------------------------------------------------------------------------


def test_crops_are_those_of_tsn():
    rng = np.random.default_rng(0)
    crops = {draw_crop(60, 100, (1.0, 0.875, 0.75, 0.66), rng) for _ in range(20000)}
    sides = {(height, width) for _, _, height, width in crops}
    # scales of 60: 60, 52, 45, 39, at most one step apart
    assert sides == {(60, 60), (52, 52), (45, 45), (39, 39), (60, 52), (52, 60), (52, 45),
                     (45, 52), (45, 39), (39, 45)}  # fmt: skip
    # 45 by 52 has room (15, 48): steps of 3 and 12
    steps = {(top, left) for top, left, height, width in crops if (height, width) == (45, 52)}
    assert steps == {(3 * y, 12 * x) for y, x in CROP_POSITIONS}
    assert set(CROP_POSITIONS) == {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (2, 0), (2, 4),
                                   (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)}  # fmt: skip


def test_augmentation_is_one_crop_and_one_flip_for_all_frames(tmp_path):
    (tmp_path / "1.jpg").write_bytes(encode_jpeg(noise(40, 48, 3).numpy()))
    frame = read_frames(tmp_path, [0])[0]
    augmentation = Augmentation(scales=(0.8,), flip=True)
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        out = read_augmented(tmp_path, [0, 0, 0], 32, augmentation, rng)  # 0.8 * 40 = 32
        assert all(torch.equal(frame, out[0]) for frame in out)
        found = [
            (y, x, flipped)
            for y in range(9)
            for x in range(17)
            for flipped in (False, True)
            if torch.equal(out[0].flip(-1) if flipped else out[0], frame[:, y : y + 32, x : x + 32])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert {flipped for *_, flipped in seen} == {False, True} and len(seen) > 15


def test_without_flip_nothing_is_mirrored(tmp_path):
    (tmp_path / "1.jpg").write_bytes(encode_jpeg(noise(32, 32, 3).numpy()))
    frames = read_frames(tmp_path, [0, 0])
    for seed in range(10):
        rng = np.random.default_rng(seed)
        out = read_augmented(tmp_path, [0, 0], 32, Augmentation(scales=(1.0,), flip=False), rng)
        assert torch.equal(out, frames)


def test_centre_crop():
    frames = noise(2, 3, 64, 90)
    out, extent = crop_centre(frames, 56)  # short side to 64, so nothing is resized
    assert torch.equal(out, frames[:, :, 4:60, 17:73])
    assert extent.tolist() == pytest.approx([64 / 56, 90 / 56])
    out, extent = crop_centre(noise(2, 3, 128, 180), 56)
    expected = F.resize(noise(2, 3, 128, 180), [64, 90], antialias=True)[:, :, 4:60, 17:73]
    assert torch.equal(out, expected)
    same, extent = crop_centre(frames[..., :64], 64)
    assert torch.equal(same, frames[..., :64]) and extent.tolist() == [1, 1]


# --- clips ------------------------------------------------------------------------------------


def test_a_plain_clip(recipe, folder):
    clips = Clips(folder, "val", recipe, augment=False, seed=0)
    assert len(clips) == 10 and len(clips.digest) == 64
    clip = clips[(0, 7)]
    assert set(clip) == {"frames", "labels", "index", "positions"}
    store = folder / "frames" / "val_00007.zip"
    assert torch.equal(clip["frames"], read_frames(store, [0, 2, 3, 5]))  # 4 of 6
    assert clip["labels"].dtype == torch.bool and clip["labels"].nonzero().tolist() == [[7]]
    assert clip["index"] == 7
    assert equal(clip, clips[(5, 7)])


def test_positions_follow_the_crop(recipe, folder):
    plain = Clips(folder, "val", recipe, augment=False, seed=0)[(0, 1)]["positions"]
    rows = (folder / "annotations" / "positions.csv").read_text().splitlines()
    truth = [[float(v) for v in r.split(",")[2:]] for r in rows if r.startswith("val_00001,")]
    assert plain.dtype == torch.float32
    assert plain.tolist() == pytest.approx(np.array(truth)[[0, 2, 3, 5]], abs=1e-6)

    # 48 pixels become 37 (32 * 256/224), of which the middle 32 are left
    smaller = make_recipe(model={"frame_size": 32})
    cropped = Clips(folder, "val", smaller, augment=False, seed=0)[(0, 1)]["positions"]
    margin = (37 - 32) / 2
    assert torch.allclose(cropped, (plain * 37 - margin) / 32, atol=1e-6)


def test_augmented_clips_depend_on_seed_epoch_and_index_alone(recipe, folder):
    clips = Clips(folder, "train", recipe, augment=True, seed=0)
    again = Clips(folder, "train", recipe, augment=True, seed=0)
    other = Clips(folder, "train", recipe, augment=True, seed=1)
    list(map(clips.__getitem__, [(0, 5), (2, 1)]))  # what was loaded before does not matter
    assert equal(clips[(3, 2)], again[(3, 2)])
    assert "positions" not in clips[(3, 2)]
    frames = clips[(3, 2)]["frames"]
    assert any(not torch.equal(frames, clips[(epoch, 2)]["frames"]) for epoch in range(3))
    assert any(
        not torch.equal(other[(epoch, 2)]["frames"], clips[(epoch, 2)]["frames"])
        for epoch in range(3)
    )


def test_two_videos_of_an_epoch_are_augmented_apart(recipe, folder):
    clips = Clips(folder, "train", recipe, augment=True, seed=0)
    clips.paths = clips.paths[:1] * len(clips)
    assert any(not torch.equal(clips[(0, 0)]["frames"], clips[(0, i)]["frames"]) for i in (1, 2, 3))


@pytest.mark.parametrize("augmented", [False, True])
def test_tsm_clips_glance_at_frames_sampled_apart(recipe, folder, augmented):
    tsm = make_recipe(model=TSM, augmentation={"scales": [1.0, 0.75], "flip": True})
    clips = Clips(folder, "train", tsm, augment=augmented, seed=0)
    for epoch in range(4):
        clip = clips[(epoch, 0)]
        assert clip["frames"].shape == (5, 3, 32, 32) and clip["glance"].shape == (3, 3, 32, 32)
        # where both hold the same source frame they agree, since crop and flip are shared
        same = [(f == clip["frames"]).flatten(1).all(1).any() for f in clip["glance"]]
        assert any(same)


def test_a_damaged_store_is_extracted_again_on_the_way(recipe, folder, capfd):
    """Else it would stop each attempt at the same clip."""
    clips = Clips(folder, "val", recipe, augment=True, seed=0)
    store = clips.paths[2]
    whole, expected = store.read_bytes(), clips[(3, 2)]
    rotten = bytearray(whole)
    rotten[200:-200:100] = bytes(len(rotten[200:-200:100]))
    for damaged in (bytes(rotten), whole[: len(whole) // 2], b"not an archive", b""):
        for workers in (0, 1):
            store.write_bytes(damaged)
            sampler = EpochSampler(len(clips), seed=0, shuffle=False)
            sampler.epoch = 3
            clip = list(loader(clips, 1, sampler, workers, CPU))[2]
            assert equal(clip, {key: torch.as_tensor(v)[None] for key, v in expected.items()})
            assert store.read_bytes() == whole
            assert "val_00002.zip: " in capfd.readouterr().out


@pytest.mark.parametrize("with_end", [True, False])
def test_it_is_extracted_at_the_settings_of_the_data_set(recipe, folder, with_end):
    """Not those of the checkpoint, which may be of another; what the store itself told may be gone,
    but not what the others tell."""
    frames = recipe.frames.model_copy(update={"height": 16, "quality": 20, "rate": 1})
    clips = Clips(
        folder, "val", recipe.model_copy(update={"frames": frames}), augment=False, seed=0
    )
    store = clips.paths[2]
    whole, expected = store.read_bytes(), clips[(0, 2)]
    rotten = bytearray(whole)
    rotten[200:-200:100] = bytes(len(rotten[200:-200:100]))
    store.write_bytes(rotten if with_end else whole[:100])
    assert equal(clips[(0, 2)], expected)
    assert store.read_bytes() == whole
    clips.paths = [store] * len(clips)
    if not with_end:
        store.write_bytes(whole[:100])
        with pytest.raises(DataError, match=r"no store tells at which.*: put a sound copy there$"):
            clips._restore(2, DataError("damaged"))
        store.write_bytes(whole)


def test_what_cannot_be_extracted_again_is_named(recipe, folder, tmp_path):
    clips = Clips(folder, "val", recipe, augment=False, seed=0)
    clips.folder = tmp_path
    (tmp_path / "videos.csv").write_text("video,path,error\nval_00002,videos/gone.mp4,\n")
    clips.paths[2] = tmp_path / "val_00002.zip"
    clips.paths[2].write_bytes(b"not an archive")
    with pytest.raises(DataError, match=r"val_00002\.zip: .*gone\.mp4.*put a sound copy there"):
        clips[(0, 2)]
    assert clips.paths[2].read_bytes() == b"not an archive"
    clips.paths[2] = tmp_path / "val_00002"
    clips.paths[2].mkdir()
    for number in range(clips.frames[2]):
        (clips.paths[2] / f"{number}.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"val_00002: frame 0\.jpg is broken.*a sound copy there"):
        clips[(0, 2)]


def test_splits_must_be_there(recipe, tmp_path):
    with pytest.raises(DataError, match=r"train\.csv: cannot be read.*write the splits first"):
        Clips(tmp_path, "train", recipe, augment=True, seed=0)


# --- batches ----------------------------------------------------------------------------------


def test_batches_are_the_same_whatever_the_workers(recipe, folder):
    clips = Clips(folder, "train", recipe, augment=True, seed=0)
    batches = []
    for workers in (0, 2):
        sampler = EpochSampler(len(clips), seed=3)
        loading = loader(clips, 5, sampler, workers, CPU)
        list(loading)
        sampler.epoch = 1
        batches.append(list(loading))
    assert len(batches[0]) == len(batches[1]) == 2  # 12 clips, the last 2 are dropped
    assert all(equal(a, b) for a, b in zip(*batches, strict=True))
    assert batches[0][0]["frames"].shape == (5, 4, 3, 48, 48)
    assert batches[0][0]["index"].dtype == torch.int64


@pytest.mark.usefixtures("recipe")
def test_batches_lie_in_memory_as_their_clips_do(folder):
    clips = Clips(folder, "val", make_recipe(model=TSM), augment=False, seed=0)
    batch = next(iter(loader(clips, 3, EpochSampler(len(clips), 0, shuffle=False), 1, CPU)))
    for number in range(3):
        for key, value in clips[(0, number)].items():
            assert torch.equal(batch[key][number], torch.as_tensor(value))
            if key in ("frames", "glance"):
                assert value.stride(1) == 1, "channels lie last"
    assert all(batch[key].permute(0, 1, 3, 4, 2).is_contiguous() for key in ("frames", "glance"))


@pytest.mark.parametrize(("shuffle", "size", "expected"), [(True, 50, [12]), (False, 5, [5, 5, 2])])
def test_no_clip_is_dropped_in_order_or_from_a_lone_batch(recipe, folder, shuffle, size, expected):
    clips = Clips(folder, "train", recipe, augment=False, seed=0)
    batches = loader(clips, size, EpochSampler(len(clips), 0, shuffle), 0, CPU)
    assert [len(batch["index"]) for batch in batches] == expected


def test_batch(recipe, folder):
    clips = Clips(folder, "val", recipe, augment=False, seed=0)
    items = next(iter(loader(clips, 3, EpochSampler(len(clips), 0, shuffle=False), 0, CPU)))
    items["labels"][1, 9] = True
    batch = Batch.of(items, CPU, draws_of(3))
    assert batch.frames.dtype == torch.uint8
    assert torch.equal(batch.frames, items["frames"])
    assert batch.glance is batch.frames
    assert batch.target[:, [0, 1, 2, 9]].tolist() == [[1, 0, 0, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]]
    assert batch.rows.tolist() == [0, 1, 2]
    assert batch.positions.shape == (3, 4, 2)
    apart = Batch.of(items | {"glance": items["frames"][:, :2]}, CPU, draws_of(3))
    assert torch.equal(apart.glance, batch.frames[:, :2])
