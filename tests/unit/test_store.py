"""Reading frames from stores and from folders."""

from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from simplejpeg import encode_jpeg

from adafocus.data import DataError, store


def jpeg(value: int, size: int = 16, channels: int = 3) -> bytes:
    pixels = np.full((size, size, channels), value, np.uint8)
    return encode_jpeg(pixels, colorspace="RGB" if channels == 3 else "GRAY")


@pytest.fixture
def folder(tmp_path):
    """Frames 0, 20, ..., 220 under names that only natural order sorts."""
    path = tmp_path / "video"
    path.mkdir()
    for index in range(12):
        (path / f"image_{index + 1}.jpg").write_bytes(jpeg(20 * index))
    (path / "readme.txt").write_text("not a frame")
    return path


def write(path, folder, comment):
    with store.write_store(path) as writer:
        for picture in store.read_pictures(folder):
            writer.append(picture)
        writer.comment(comment)


def archive(path, folder):
    """A store whose frames have names that extraction does not give them."""
    path.parent.mkdir(exist_ok=True)
    with ZipFile(path, "w") as file:
        for number in range(1, 13):
            file.write(folder / f"image_{number}.jpg", f"image_{number}.jpg")


@pytest.fixture(params=["archive", "store", "folder"])
def video(request, folder, tmp_path):
    if request.param == "folder":
        return folder
    path = tmp_path / "a b" / "video.zip"
    if request.param == "archive":
        archive(path, folder)
    else:
        write(path, folder, "made by a test")
    return path


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """Two frames of 40 by 52 pixels, each of which is another."""
    path = tmp_path_factory.mktemp("gradients")
    y, x = np.indices((40, 52))
    for index, blue in enumerate((0, 255)):
        pixels = np.stack([6 * y, 4 * x, np.full_like(y, blue)], -1).astype(np.uint8)
        (path / f"{index}.jpg").write_bytes(encode_jpeg(pixels, colorsubsampling="420"))
    return path


def values(frames: torch.Tensor) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_frames_come_in_the_order_asked_for(video):
    frames = store.read_frames(video, [11, 0, 3, 3])
    assert frames.dtype == torch.uint8 and frames.shape == (4, 3, 16, 16)
    assert values(frames) == [220, 0, 60, 60]
    assert store.count_frames(video) == 12


@given(st.data())
def test_a_crop_is_that_part_of_the_frame(gradients, data):
    whole = store.read_frames(gradients, [1, 0])
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 52))
    top = data.draw(st.integers(0, 40 - height))
    left = data.draw(st.integers(0, 52 - width))
    told = []
    cropped = store.read_frames(
        gradients, [1, 0, 1], lambda *size: told.append(size) or (top, left, height, width)
    )
    assert told == [(40, 52)]
    assert torch.equal(cropped[:2], whole[..., top : top + height, left : left + width])
    assert torch.equal(cropped[2], cropped[0])
    assert cropped.is_contiguous(memory_format=torch.channels_last)


def test_each_distinct_frame_is_decoded_once(video, monkeypatch):
    decoded = []
    decode = store.decode_jpeg
    monkeypatch.setattr(store, "decode_jpeg", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    store.read_frames(video, [5, 5, 5, 6])
    assert len(decoded) == 2


def test_grey_frames_get_three_channels(tmp_path):
    (tmp_path / "1.JPEG").write_bytes(jpeg(90, channels=1))
    assert store.read_frames(tmp_path, [0]).shape == (1, 3, 16, 16)


def test_a_store_is_a_plain_archive_that_repeats_byte_for_byte(folder, tmp_path):
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    for path in (first, second):
        write(path, folder, "height 16")
    assert first.read_bytes() == second.read_bytes()
    assert store.read_comment(first) == "height 16"
    with ZipFile(first) as packed:
        assert packed.testzip() is None
        assert all(entry.compress_size == entry.file_size for entry in packed.infolist())
        assert [packed.read(f"{n:06d}.jpg") for n in range(1, 13)] == [
            (folder / f"image_{n}.jpg").read_bytes() for n in range(1, 13)
        ]


def test_a_store_is_sound_until_a_byte_of_it_changes(folder, tmp_path):
    path = tmp_path / "video.zip"
    write(path, folder, "")
    assert store.is_sound(path)
    content = bytearray(path.read_bytes())
    for place in (200, len(content) // 2, len(content) - 30):
        content[place] ^= 0x10
        path.write_bytes(content)
        assert not store.is_sound(path), place
        content[place] ^= 0x10
    path.write_bytes(content[:-100])
    assert not store.is_sound(path)


@pytest.mark.parametrize("index", [12, -1])
def test_missing_frame(video, index):
    with pytest.raises(DataError, match=rf"video.*frame {index} is missing, it has 12"):
        store.read_frames(video, [0, index])


def test_missing_video(tmp_path):
    with pytest.raises(DataError, match=r"gone\.zip: cannot be read"):
        store.read_frames(tmp_path / "gone.zip", [0])


@pytest.mark.parametrize("length", [0, 40, -20])
def test_broken_frame(folder, length):
    frame = folder / "image_3.jpg"
    frame.write_bytes(frame.read_bytes()[:length])
    assert values(store.read_frames(folder, [1, 3])) == [20, 60]
    with pytest.raises(DataError, match=r"video: frame image_3\.jpg is broken"):
        store.read_frames(folder, [1, 2, 3])


def test_frames_of_an_extracted_video_are_found_without_its_directory(
    folder, tmp_path, monkeypatch
):
    path = tmp_path / "video.zip"
    write(path, folder, "a comment")
    monkeypatch.setattr(store, "ZipFile", None)
    assert values(store.read_frames(path, [7, 0])) == [140, 0]

    content = path.read_bytes()
    directory = content.rindex(b"PK\1\2", 0, content.rindex(b"000008.jpg"))
    for place in (
        directory + 10,
        directory + 16,
        directory + 46,
        content.index(b"000008.jpg") + 15,
    ):
        flipped = bytearray(content)
        flipped[place] ^= 0x01
        path.write_bytes(flipped)
        assert values(store.read_frames(path, [6])) == [120]
        with pytest.raises(DataError, match=r"video\.zip: frame 000008\.jpg is broken"):
            store.read_frames(path, [7])


@pytest.mark.parametrize("numbered", [True, False])
def test_damaged_store(folder, tmp_path, numbered):
    first = "000001.jpg" if numbered else "image_1.jpg"
    path = tmp_path / "video.zip"
    if numbered:
        write(path, folder, "")
    else:
        archive(path, folder)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF  # within the first frame
    path.write_bytes(flipped)
    with pytest.raises(DataError, match=rf"video\.zip: frame {first} is broken"):
        store.read_frames(path, [0])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"video\.zip: cannot be read"):
        store.read_frames(path, [0])


@pytest.mark.parametrize("size", [8, 24])
def test_frames_of_different_sizes(folder, size):
    (folder / "image_2.jpg").write_bytes(jpeg(9, size=size))
    with pytest.raises(DataError, match=r"frame image_2\.jpg is not of the size"):
        store.read_frames(folder, [0, 1])
