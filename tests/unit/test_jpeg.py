"""Cutting a stream of JPEG pictures."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adafocus.data import DataError
from adafocus.data.jpeg import Pictures


def picture(seed: int, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(24, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def with_thumbnail(seed: int) -> bytes:
    """A picture that holds another whole one in a segment of an application's."""
    whole, thumbnail = picture(seed), picture(seed + 1)
    length = (len(thumbnail) + 2).to_bytes(2)
    return whole[:2] + b"\xff\xe1" + length + thumbnail + whole[2:]


PICTURES = [
    picture(0),
    with_thumbnail(1),
    picture(3, progressive=True),  # many scans, with tables between them
    picture(4, quality=100, restart_marker_rows=1),
    picture(5, comment=b"\xff\xd9 is an end \xff\xd8"),
    b"\xff\xd8\xff\xff\xff" + picture(6)[3:],  # bytes that fill up before a marker
]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    found = []
    pictures = Pictures(lambda one: found.append(bytes(one)))
    for start, end in zip([0, *places], [*places, len(stream)], strict=True):
        pictures.feed(stream[start:end])
    pictures.close()
    return found


@given(st.lists(st.sampled_from(PICTURES), max_size=5), st.data())
def test_a_stream_is_cut_where_its_pictures_end_however_it_comes(given_pictures, data):
    stream = b"".join(given_pictures)
    places = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    assert cut(stream, places) == given_pictures


def test_byte_by_byte():
    stream = b"".join(PICTURES)
    assert cut(stream, list(range(1, len(stream)))) == PICTURES


def test_a_stream_that_ends_within_a_picture():
    whole = picture(0)
    for length in (1, 3, 30, len(whole) - 1):
        with pytest.raises(DataError, match="the last picture is not whole"):
            cut(whole + whole[:length], [])


@pytest.mark.parametrize("stream", [b"<html>login</html>", picture(0) + b"\0\0\0\0" + picture(0)])
def test_a_stream_of_something_else(stream):
    with pytest.raises(DataError, match="what follows a picture is none"):
        cut(stream, [])
