"""RAR archives by bsdtar, as organisers of data sets give them."""

import shutil

import pytest
from rar_files import make_rar

from adafocus.data import DataError
from adafocus.data.download import unpack

pytestmark = pytest.mark.integration
needs_bsdtar = pytest.mark.skipif(
    shutil.which("bsdtar") is None,
    reason="bsdtar is not installed; on Debian: apt-get install libarchive-tools",
)


@needs_bsdtar
def test_a_rar_and_those_within_it_are_unpacked(tmp_path):
    make_rar(tmp_path / "wave.rar", {"wave/a b.avi": b"wave", "wave/é.avi": b""})
    inner = (tmp_path / "wave.rar").read_bytes()
    make_rar(tmp_path / "all.rar", {"run/c.avi": b"run" * 1000, "wave.rar": inner, "d.avi": b"d"})
    told = []
    for _ in range(2):
        unpack([tmp_path / "all.rar"], tmp_path / "out", told.append, journal=tmp_path / "journal")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    files = {"run/c.avi": b"run" * 1000, "wave/a b.avi": b"wave", "wave/é.avi": b"", "d.avi": b"d"}
    assert found == files
    assert told == [*files] * 2


@needs_bsdtar
def test_leading_folders_are_taken_off(tmp_path):
    make_rar(tmp_path / "a.rar", {"UCF-101/Archery/v_1.avi": b"1", "UCF-101/readme": b"2"})
    unpack([tmp_path / "a.rar"], tmp_path / "out", str, strip=1)
    assert (tmp_path / "out" / "Archery" / "v_1.avi").read_bytes() == b"1"


@needs_bsdtar
@pytest.mark.parametrize(
    ("files", "links"),
    [({"../out.avi": b""}, {}), ({}, {"link": "../../outside"}), ({}, {"link": "/etc/passwd"})],
)
def test_nothing_is_written_outside(tmp_path, files, links):
    make_rar(tmp_path / "a.rar", files, links)
    with pytest.raises(DataError, match="a.rar"):
        unpack([tmp_path / "a.rar"], tmp_path / "deep" / "out", str)
    assert {path.name for path in tmp_path.rglob("*")} <= {"a.rar", "deep", "out"}


@needs_bsdtar
def test_nothing_else_on_the_disk_is_read(tmp_path):
    """A list of files anywhere, which bsdtar reads too."""
    (tmp_path / "secret").write_text("secret")
    told = f"#mtree\nstolen.avi type=file mode=0644 contents={tmp_path / 'secret'} size=6\n"
    make_rar(tmp_path / "a.rar", {"evil.rar": told.encode()})
    with pytest.raises(DataError, match=r"evil\.rar: is no RAR archive"):
        unpack([tmp_path / "a.rar"], tmp_path / "out", str)
    assert not list((tmp_path / "out").rglob("stolen*"))


@needs_bsdtar
def test_a_broken_rar_is_named(tmp_path):
    make_rar(tmp_path / "a.rar", {"a.avi": bytes(100_000)})
    content = (tmp_path / "a.rar").read_bytes()
    (tmp_path / "a.rar").write_bytes(content[:50_000])
    with pytest.raises(DataError, match=r"a\.rar.*download it again"):
        unpack([tmp_path / "a.rar"], tmp_path / "out", str)


def test_without_bsdtar_a_line_says_what_to_do(tmp_path, monkeypatch):
    make_rar(tmp_path / "a.rar", {"a.avi": b""})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"a\.rar.*bsdtar is needed.*unpack the archive yourself"):
        unpack([tmp_path / "a.rar"], tmp_path / "out", str)
