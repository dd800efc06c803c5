"""Films of the kinds that people have, made by a real ffmpeg: which stream of a file is taken, in
which shape, and when its frames are shown."""

import subprocess

import numpy as np
import pytest
import torch
from noise import CLASSES, tiny_recipe

from adafocus.data import DataError
from adafocus.data.ffmpeg import decode, ffmpeg_path, read_headers, timeline
from adafocus.data.frames import extract_alone
from adafocus.data.store import count_frames, read_comment, read_frames
from adafocus.deploy.predict import Predictor, overlay
from adafocus.model import checkpoint
from adafocus.model.adafocus import build
from adafocus.recipe import Frames

PATTERN = "-f lavfi -i testsrc=s=64x48:r=10 -t 1 -pix_fmt yuv420p"
MADE = {
    "p.mp4": PATTERN,
    "c.png": "-f lavfi -i color=red:s=32x32 -frames:v 1",
    "sound.m4a": "-f lavfi -i sine=d=1 -i c.png -map 0 -map 1 -c:v copy"
    " -disposition:v:0 attached_pic",
    # a picture beside the film
    "cover.mp4": "-i p.mp4 -i c.png -map 0 -map 1 -c copy -disposition:v:1 attached_pic",
    "cover.mkv": "-i p.mp4 -attach c.png -metadata:s:t mimetype=image/png -c copy",
    "before.mp4": "-i c.png -i p.mp4 -map 0 -map 1 -c copy",
    "before.mkv": "-i c.png -i p.mp4 -map 0 -map 1 -c copy -disposition:v:0 0",
    "two.mkv": "-f lavfi -i color=blue:s=96x48:r=5:d=1 -i p.mp4 -map 0 -map 1"
    " -disposition:v:0 0 -disposition:v:1 default",
    "first of two.mkv": "-i p.mp4 -f lavfi -i color=blue:s=96x48:r=5:d=1 -map 0 -map 1"
    " -disposition:v:0 0 -disposition:v:1 0",
    # stamps
    "equal.mp4": "-i p.mp4 -c copy -bsf:v setts=pts=floor(PTS/2048)*2048:dts=DTS-2048",
    "late.mp4": "-i p.mp4 -c copy -bsf:v setts=pts=PTS+100000:dts=DTS+100000",
    "below zero.mkv": "-i p.mp4 -c copy -output_ts_offset -3",
    "cut away.mp4": "-i p.mp4 -c copy -output_ts_offset -3 -avoid_negative_ts disabled",
    "backwards.mkv": "-f lavfi -i testsrc=s=64x48:r=10 -t 1 -c:v mjpeg"
    " -bsf:v setts=pts=100-PTS:dts=DTS",
    "fast.mkv": "-f lavfi -i testsrc=s=64x48:r=2000 -frames:v 10 -pix_fmt yuv420p",
    # pictures in motion
    "a.y4m": PATTERN,
    "a.mjpeg": PATTERN,
    "a.apng": PATTERN,
    "a.gif": PATTERN,
}  # fmt: skip
OTHERS = {"p.mp4", "c.png", "sound.m4a"}
FRAMES = Frames(height=360, shards=1)


def run(folder, options, name):
    command = [ffmpeg_path(), "-nostdin", "-y", "-v", "error", *options.split(), name]
    subprocess.run(command, cwd=folder, check=True)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name, options in MADE.items():
        run(folder, options, name)
    for name, options in UNEVEN.items():
        run(folder, options, name)
    return folder


@pytest.mark.parametrize("rate", [None, 5.0])
@pytest.mark.parametrize("name", sorted(MADE.keys() - OTHERS))
def test_of_each_file_the_film_is_taken(films, tmp_path, name, rate):
    """All ten frames of the test pattern, and as many stamps, which never run back."""
    settings = FRAMES.model_copy(update={"rate": rate})
    store, times = extract_alone(settings, films / name, tmp_path)
    assert len(times.times) == 10
    assert (np.diff(times.times) >= 0).all() and times.times[0] == 0
    assert (times.height, times.width) == (48, 64)
    assert times.end > times.times[-1]
    taken = count_frames(store)
    assert taken == 10 if rate is None else abs(taken - times.end * rate) <= 1 and taken >= 1
    assert read_comment(store).split("\n")[2] == "", "and nothing is amiss"
    if rate is None:
        tmp_path.joinpath("pattern").mkdir()
        pattern, _ = extract_alone(FRAMES, films / "p.mp4", tmp_path / "pattern")
        seen, made = (read_frames(path, range(10)).float() for path in (store, pattern))
        assert (seen - made).abs().mean() < 30, "its colours may be coarser"
        assert np.allclose(timeline(films / name).times, times.times)
        assert sum(1 for _ in decode(films / name, times)) == 10


@pytest.mark.parametrize("name", ["c.png", "sound.m4a", "text.mp4", "empty.mp4", "gone.mp4"])
def test_what_is_no_film_is_named_with_the_reason(films, tmp_path, name):
    (films / "text.mp4").write_text("no film\n" * 20)
    (films / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError) as error:
        timeline(films / name)
    good = films / "p.mp4"
    first, found, last = read_headers([good, films / name, good])
    assert first == last and last.film == 0
    for told in (str(error.value), str(found)):
        assert isinstance(found, DataError) and f"{name}: " in told
        assert "\n" not in told and len(told) < 250
    with pytest.raises(DataError):
        extract_alone(FRAMES, films / name, tmp_path)


def test_a_header_tells_without_decoding(films):
    names = ("two.mkv", "before.mkv", "cover.mp4")
    two, before, cover = read_headers([films / name for name in names])
    assert (two.film, two.seconds, two.rate) == (1, 1, 10)
    assert (before.film, cover.film) == (1, 0)
    assert len(list(read_headers([films / "p.mp4"] * 70))) == 70


# --- shape --------------------------------------------------------------------------------------

UNEVEN = {
    "dvd.mp4": "-f lavfi -i testsrc=s=720x576:r=5 -t 1 -pix_fmt yuv420p -vf setsar=64/45",
    "ntsc.mkv": "-f lavfi -i testsrc=s=720x480:r=5 -t 1 -pix_fmt yuv420p -vf setsar=8/9",
    "high.mkv": "-f lavfi -i testsrc=s=64x48:r=5 -t 1 -pix_fmt yuv420p -vf setsar=1/2",
    "absurd.mkv": "-f lavfi -i testsrc=s=64x48:r=5 -t 1 -pix_fmt yuv420p -vf setsar=1/1000",
}


@pytest.mark.parametrize(
    ("name", "shown", "stored"),
    [
        ("dvd.mp4", (576, 1024), (360, 640)),
        ("ntsc.mkv", (480, 640), (360, 480)),
        ("high.mkv", (48, 32), (48, 32)),
        ("absurd.mkv", (48, 64), (48, 64)),
    ],
)
def test_frames_have_the_shape_that_is_shown(films, tmp_path, name, shown, stored):
    store, times = extract_alone(FRAMES, films / name, tmp_path)
    assert (times.height, times.width) == shown
    assert read_frames(store, [0]).shape[-2:] == stored
    assert next(decode(films / name, times)).shape == (*shown, 3)


def test_where_a_prediction_looked_is_told_on_the_film_as_it_is_shown(films, tmp_path):
    recipe = tiny_recipe("gru")
    torch.manual_seed(0)
    model, weights = build(recipe, 32, with_policy=True), tmp_path / "stage3.safetensors"
    names = tuple(f"class {i}" for i in range(CLASSES))
    checkpoint.write(
        weights, checkpoint.Checkpoint(model.state_dict(), recipe, "stage3", 32, names)
    )
    predictor = Predictor(weights, "cpu")
    prediction = predictor(films / "dvd.mp4")
    left, top, right, bottom = prediction.steps[0].box
    assert right - left == pytest.approx(bottom - top, rel=0.02), "a square patch stays one"
    for name, size in (("dvd.mp4", (576, 1024)), ("two.mkv", (48, 64)), ("equal.mp4", (48, 64))):
        prediction = predictor(films / name)
        overlay(prediction, tmp_path / "look.mp4")
        drawn = timeline(tmp_path / "look.mp4")
        assert (drawn.height, drawn.width) == size
        assert len(drawn.times) == len(prediction.timeline.times)


def test_a_film_whose_size_changes_has_the_first(films, tmp_path):
    run(films, "-f lavfi -i testsrc=s=96x80:r=10 -t 1 -pix_fmt yuv420p", "larger.ts")
    run(films, PATTERN, "smaller.ts")
    film = tmp_path / "changes.ts"
    film.write_bytes((films / "smaller.ts").read_bytes() + (films / "larger.ts").read_bytes())
    store, times = extract_alone(FRAMES, film, tmp_path)
    assert count_frames(store) == len(times.times) >= 19
    assert read_frames(store, range(count_frames(store))).shape[-2:] == (48, 64)
