"""Frames that PyAV takes out of a file are those of extraction, to which it leaves the unusual."""

import struct
import subprocess
from functools import partial

import numpy as np
import pytest
from test_films import FRAMES, MADE, UNEVEN, run

from adafocus.data import decoder
from adafocus.data.decoder import Unusual, decode_some, stacked
from adafocus.data.frames import extract_alone
from adafocus.data.store import read_frames

QUARTERS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
ALIKE = ("p.mp4", "two.mkv", "before.mkv", "below zero.mkv", "a.gif", "dvd.mp4", "high.mkv")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for name in ("c.png", "p.mp4", *ALIKE, "equal.mp4", "cut away.mp4"):
        run(folder, (MADE | UNEVEN)[name], name)
    for turn, matrix in {**QUARTERS, "mirrored": (-1, 0, 0, 1)}.items():
        (folder / f"{turn}.mp4").write_bytes(turned((folder / "p.mp4").read_bytes(), matrix))
    return folder


def turned(film, matrix):
    """An MP4 file with another display matrix in its track's header (ISO/IEC 14496-12, 8.3.2)."""
    place = film.index(b"tkhd") + 44
    a, b, c, d = (number << 16 for number in matrix)
    return film[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + film[place + 36 :]


@pytest.mark.parametrize("name", [*ALIKE, *(f"{turn}.mp4" for turn in QUARTERS)])
def test_they_are_those_of_extraction(films, tmp_path, name):
    told = []

    def choose(count):
        told.append(count)
        return [0, count // 2, count - 1]

    pictures, times = decode_some(FRAMES, films / name, choose)
    store, expected = extract_alone(FRAMES, films / name, tmp_path)
    assert told == [len(expected.times)], "as its packets are listed it is decoded once"
    assert np.allclose(times.times, expected.times, atol=1e-5)
    assert times.end == pytest.approx(expected.end, abs=1e-3)
    assert times[2:] == expected[2:], "height, width and how it is read"
    wanted = choose(len(times.times))
    assert sorted(pictures) == wanted
    found, all_made = stacked(pictures, wanted).float(), read_frames(store, range(told[0])).float()
    assert found.shape[1:] == all_made.shape[1:]
    for frame, index in zip(found, wanted, strict=True):
        differences = (all_made - frame).abs().mean((1, 2, 3))
        # ffmpeg of different versions rounds colours otherwise by one.
        assert differences[index] < 1.5 and differences.argmin() == index


NOISY = "-f lavfi -i testsrc2=s=96x64:r=30:d=1.4,noise=alls=8:allf=t -pix_fmt yuv420p -g 12"
H264 = f"{NOISY} -c:v libx264 -bf 3"
CODED = {
    "plain.mp4": f"{H264} plain.mp4",
    "open.mkv": f"{H264} -x264-params open-gop=1 open.mkv",
    "open.ts": f"{H264} -x264-params open-gop=1 open.ts",
    "hevc.mp4": f"{NOISY} -c:v libx265 -x265-params log-level=error:open-gop=1 hevc.mp4",
    "vp9.webm": f"{NOISY} -c:v libvpx-vp9 -deadline realtime -lag-in-frames 12 vp9.webm",
    "cut.mp4": "-ss 0.5 -i plain.mp4 -c copy cut.mp4",
}
WHOLE = {
    "refresh.mp4": f"{NOISY} -c:v libx264 -x264-params intra-refresh=1:bframes=0 refresh.mp4",
    "fields.mp4": f"{H264} -flags +ildct+ilme -x264-params tff=1 fields.mp4",
    "begun.ts": "-i open.ts -c copy -ss 0.5 begun.ts",
    "lost.mkv": "-i open.mkv -c copy -bsf:v noise=drop='not(mod(n+1\\,19))' lost.mkv",
    "decoded.avi": "-i plain.mp4 -c copy decoded.avi",
    "vp8.webm": f"{NOISY} -c:v libvpx -deadline realtime vp8.webm",
}


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coded")
    for line in (CODED | WHOLE).values():
        subprocess.run(["ffmpeg", "-y", "-v", "error", *line.split()], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1])
def test_frames_are_the_same_where_not_all_are_decoded(coded, name, share):
    packets = decoder._list_packets(coded / name)
    count = int(packets.shown.sum())
    rng = np.random.default_rng(int(100 * share))
    wanted = set(rng.choice(count, max(1, int(share * count)), replace=False).tolist())
    pictures, times = decoder._decode_needed(FRAMES, coded / name, packets, wanted)
    expected, all_times = decoder._decode_all(FRAMES, coded / name, wanted)
    assert pictures.keys() == expected.keys() == wanted
    assert all(np.array_equal(pictures[number], expected[number]) for number in wanted)
    assert np.array_equal(times.times, all_times.times)
    assert times[1:] == all_times[1:]
    chosen = np.isin(packets.stamps, [*packets.stamps[packets.shown]][:1]) & packets.shown
    assert packets.needed(chosen).sum() <= count / 2, "of one frame alone"


@pytest.mark.parametrize("name", WHOLE)
def test_all_is_decoded_where_packets_tell_too_little(coded, name):
    packets = decoder._list_packets(coded / name)
    wanted = {packets.shown.sum() // 2}
    assert not packets.tell or not decoder._decode_needed(FRAMES, coded / name, packets, wanted)


@pytest.mark.parametrize("name", ["equal.mp4", "cut away.mp4", "mirrored.mp4", "c.png", "gone.mp4"])
def test_what_is_unusual_is_left_to_ffmpeg(films, name):
    with pytest.raises(Unusual):
        decode_some(FRAMES, films / name, range)


def test_a_lower_rate_and_folders_are_left_to_ffmpeg(films):
    for update, path in (({"rate": 5.0}, films / "p.mp4"), ({}, films)):
        with pytest.raises(Unusual):
            decode_some(FRAMES.model_copy(update=update), path, range)


def test_a_film_that_takes_too_long_is_given_up(films):
    with pytest.raises(Unusual):
        decode_some(FRAMES.model_copy(update={"time_limit": 1e-9}), films / "p.mp4", range)


def test_a_playlist_opens_no_other_file(films, monkeypatch):
    playlist = films / "list.mp4"
    for text in ("ffconcat version 1.0\nfile p.mp4\n", "#EXTM3U\n#EXTINF:1,\np.mp4\n"):
        playlist.write_text(text)
        with pytest.raises(Unusual) as error:
            decode_some(FRAMES, playlist, partial(range, 1))
        assert error.value.__cause__ is not None
