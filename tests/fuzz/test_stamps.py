"""Stamps: any small film assembled from packets, whole, cut short or with other bytes."""

import math
import subprocess

import numpy as np
import pytest
from films import Track, ivf, matroska
from hypothesis import example, given
from hypothesis import strategies as st
from miniature import make_recipe
from rule import check_line, tried, used

from adafocus.data import DataError
from adafocus.data.ffmpeg import decode, ffmpeg_path, read_headers, timeline
from adafocus.data.frames import extract
from adafocus.data.listing import write_listing
from adafocus.data.manifests import read_manifests
from adafocus.data.store import count_frames, read_frames

MOST = 2000
"""Frames that extraction is to make of a film in a test."""
MISSING = 2**63
"""What stands where a packet has no stamp."""
STAMPS = st.lists(
    st.integers(0, 20)
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from([MISSING, 0, -1, 2**31, 2**33, 2**62, 10**9, 10**12]),
    min_size=1,
    max_size=12,
) | st.integers(1, 12).map(lambda count: list(range(count)))
TICKS = st.sampled_from([(1, 10), (1, 25), (1001, 30000), (1, 1000), (1, 10**6), (1, 1), (3600, 1)])
TRACKS = st.lists(
    st.builds(
        Track,
        st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=9).map(tuple)
        | st.integers(1, 9).map(lambda count: tuple(range(0, 100 * count, 100))),
        st.booleans(),
        st.sampled_from(["V_MJPEG"] * 5 + ["V_NONE", "V_VP9"]),
        st.sampled_from([(16, 16), (32, 16), (16, 40), (16, 16000), (1, 1)]),
    ),
    min_size=1,
    max_size=3,
)
JUMPS = st.sampled_from([0, 100, 2**31, 2**40, 2**62])
SECONDS = st.none() | st.sampled_from([0.0, 1.0, -1.0, 1e-9, 1e9, 1e300, math.nan, math.inf])
ASSEMBLED = st.builds(ivf, STAMPS, TICKS) | st.builds(
    matroska, TRACKS, JUMPS, st.sampled_from([10**6, 1, 10**9, 0]), SECONDS
)
ENCODED = {
    "a.mp4": "-c:v libx264",
    "a.mkv": "-c:v libx264 -bf 2",
    "a.ts": "-c:v mpeg2video -bf 2",
    "a.avi": "-c:v mpeg4",
    "a.flv": "-c:v flv1",
    "a.gif": "",
    "a.mjpeg": "",
    "a.webm": "-c:v libvpx -deadline realtime",
}
RATES = st.sampled_from([None, 0.01, 5.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a data set with one good film."""
    folder = tmp_path_factory.mktemp("stamps")
    (folder / "videos").mkdir()
    (folder / "videos" / "good.ivf").write_bytes(ivf(range(10)))
    return folder


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoded")
    pattern = ("-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc=s=32x32:r=10", "-t", "0.6")
    for name, options in ENCODED.items():
        pixels = "rgb8" if name == "a.gif" else "yuv420p"
        command = [ffmpeg_path(), *pattern, "-pix_fmt", pixels, *options.split(), folder / name]
        subprocess.run(command, check=True)
    return [(folder / name).read_bytes() for name in ENCODED]


def check(folder, content, rate):
    """What is told of a film, and what extraction beside a good one makes of it."""
    film = folder / "videos" / "film.bin"
    film.write_bytes(content)
    [header] = read_headers([film])
    if isinstance(header, DataError):
        check_line(str(header), "film.bin")
    times = used(lambda: timeline(film), "film.bin")
    if times:
        assert np.isfinite(times.times).all() and (np.diff(times.times) >= 0).all()
        assert times.times[0] == 0 and math.isfinite(times.end) and times.end >= times.times[-1]
        first = next(decode(film, times), None)
        if rate and times.end * rate > MOST:
            rate = None
        assert first is None or first.shape == (times.height, times.width, 3)

    settings = {"height": 16, "shards": 1, "rate": rate}
    write_listing(folder, {})
    used(lambda: extract(make_recipe(frames=settings), folder, 0, threads=1))
    rows = read_manifests(folder)
    assert rows["good"].frames == (10 if rate is None else max(1, round(rate)))
    if row := rows.get("film"):
        store = folder / row.path
        assert row.frames == count_frames(store) >= 1
        assert row.frames == len(times.times) or rate is not None
        assert read_frames(store, [0, row.frames - 1]).shape[0] == 2
    for store in folder.glob("frames/*"):
        store.unlink()


@tried(6)
@given(ASSEMBLED)
@example(ivf([0, 1, 10**9]))
@example(ivf([0, 2**62, -(2**62)]))
@example(ivf([MISSING] * 3))
@example(ivf([5, 4, 3, 2, 1, 0]))
@example(matroska([Track((0, 100)), Track((0, 50, 100), shown=(16, 16000))], 2**62))
def test_a_film_of_any_stamps_is_used_or_refused(folder, film):
    """At all its frames: at a rate, stamps that jump may make more than there is time for."""
    check(folder, film, None)


@tried(6)
@given(st.data(), RATES)
def test_a_film_that_was_cut_or_changed_is_used_or_refused(folder, encoded, data, rate):
    film = bytearray(data.draw(st.sampled_from(encoded)))
    for _ in range(data.draw(st.integers(0, 4))):
        film[data.draw(st.integers(0, len(film) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.just(0) | st.integers(0, len(film)))
    check(
        folder, bytes(film[start : data.draw(st.just(len(film)) | st.integers(0, len(film)))]), rate
    )
