"""Downloads from a real server that misbehaves, and archives that do."""

import hashlib
import io
import re
import stat
import tarfile
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from adafocus.data import DataError
from adafocus.data.download import ATTEMPTS, download, unpack

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Each path is a way to behave."""

    asked: list[tuple[str, str | None]] = []

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        tries = sum(path == self.path for path, _ in self.asked)
        match self.path:
            case "/redirect":
                self.send_response(302)
                self.send_header("Location", "/whole")
                self.end_headers()
            case "/gone":
                self.send_error(404)
            case "/busy" if tries < 3:
                self.send_error(503)
            case "/never":
                self.send_error(503)
            case "/drops" | "/drops-without-ranges":
                ranges = "without" not in self.path
                self.answer(wanted if ranges else None, drop=tries < 3)
            case _:
                self.answer(wanted)

    def answer(self, wanted, drop=False):
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        if wanted:
            last = len(CONTENT) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + 1_200_000] if drop else CONTENT[start:])

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def get(url, tmp_path, sha256=DIGEST):
    download(url, tmp_path / "file.bin", sha256, pause=0.01)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("path", ["/whole", "/redirect", "/busy", "/drops-without-ranges"])
def test_a_file_comes_whole(url, tmp_path, path):
    get(url + path, tmp_path)


def test_it_goes_on_where_it_stopped(url, tmp_path):
    get(f"{url}/drops", tmp_path)
    starts = [wanted for _, wanted in Server.asked]
    assert starts[0] is None
    assert len(starts) == 3 and starts == sorted(starts, key=lambda s: len(s or ""))
    assert all(re.fullmatch(r"bytes=[1-9]\d+-", wanted) for wanted in starts[1:])
    get(f"{url}/drops", tmp_path)
    assert len(Server.asked) == 3  # what is there is not asked for


def test_a_part_that_was_whole_already(url, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    get(f"{url}/whole", tmp_path)


def test_a_part_of_something_longer(url, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    get(f"{url}/whole", tmp_path)


def test_what_is_gone_is_not_asked_for_again(url, tmp_path):
    with pytest.raises(DataError, match="/gone: the server answered 404"):
        get(f"{url}/gone", tmp_path)
    assert len(Server.asked) == 1


def test_it_gives_up_in_the_end(url, tmp_path):
    with pytest.raises(DataError, match=f"answered 503, {ATTEMPTS} times; run again to go on"):
        get(f"{url}/never", tmp_path)
    with pytest.raises(DataError, match="the connection broke"):
        get("http://127.0.0.1:9/nobody", tmp_path)


def test_a_hard_link_below_a_folder_that_is_taken_off(tmp_path):
    link = ("top/2.mp4", {"type": tarfile.LNKTYPE, "linkname": "top/1.mp4"})
    archive = tar(tmp_path / "a.tar", ("top/1.mp4", b"1"), link)
    unpack([archive], tmp_path / "o", lambda name: None, strip=1)
    assert [(tmp_path / "o" / name).read_bytes() for name in ("1.mp4", "2.mp4")] == [b"1", b"1"]
    lost = ("top/2.mp4", {"type": tarfile.LNKTYPE, "linkname": "top/gone.mp4"})
    with pytest.raises(DataError, match=r"^b\.tar: cannot be unpacked .*gone\.mp4"):
        unpacked([tar(tmp_path / "b.tar", lost)], tmp_path / "p", 1)


def test_a_wrong_digest_leaves_nothing(url, tmp_path):
    with pytest.raises(DataError, match=f"its SHA-256 is {DIGEST}, not 00"):
        get(f"{url}/whole", tmp_path, sha256="00")
    assert not list(tmp_path.iterdir())


# --- archives ---------------------------------------------------------------------------------


def tar(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(info, key, value)
                archive.addfile(info)
    return path


def unpacked(parts, folder, strip=0):
    told = []
    unpack(parts, folder, told.append, strip)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert sorted(told) == sorted(files)
    return files


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_in_one_or_several_parts(tmp_path, mode):
    whole = tar(tmp_path / "a.tar", ("x/1.webm", CONTENT), ("x/2.webm", b"2"), mode=mode)
    expected = {"x/1.webm": CONTENT, "x/2.webm": b"2"}
    assert unpacked([whole], tmp_path / "whole") == expected
    content = whole.read_bytes()
    parts = [tmp_path / f"a-{number}" for number in range(4)]
    for number, part in enumerate(parts):
        length = -(-len(content) // 4)
        part.write_bytes(content[number * length : (number + 1) * length])
    assert unpacked(parts, tmp_path / "joined") == expected
    with pytest.raises(DataError, match="a-0, a-1, a-2: cannot be unpacked"):
        unpacked(parts[:3], tmp_path / "truncated")


def test_a_tar_each_part_of_which_lies_in_a_zip_of_its_own(tmp_path):
    """As Something-Something V2 is given; one part may be taken out of its ZIP already."""
    whole = tar(tmp_path / "a.tar", ("x/1.webm", CONTENT), ("x/2.webm", b"2")).read_bytes()
    parts = [tmp_path / f"a-{number:02}.zip" for number in range(3)]
    third = -(-len(whole) // 3)
    for number, part in enumerate(parts):
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(part.stem, whole[number * third : (number + 1) * third])
    expected = {"x/1.webm": CONTENT, "x/2.webm": b"2"}
    assert unpacked(parts, tmp_path / "joined") == expected
    with zipfile.ZipFile(parts[1]) as archive:
        archive.extractall(tmp_path)
    mixed = [parts[0], tmp_path / "a-01", parts[2]]
    assert unpacked(mixed, tmp_path / "mixed") == expected
    with pytest.raises(DataError, match=r"a-00\.zip, a-01\.zip: cannot be unpacked"):
        unpacked(parts[:2], tmp_path / "truncated")


def test_several_zips_and_one_with_a_single_video(tmp_path):
    for number in range(2):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr(f"x/{number}.webm", CONTENT)
    parts = [tmp_path / f"{number}.zip" for number in range(2)]
    assert unpacked(parts, tmp_path / "both", 1) == {"0.webm": CONTENT, "1.webm": CONTENT}


def test_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/1.mp4", b"1")
    assert unpacked([tmp_path / "a.zip"], tmp_path / "out") == {"x/1.mp4": b"1"}
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:40])
    with pytest.raises(DataError, match="b.zip: cannot be unpacked"):
        unpacked([tmp_path / "b.zip"], tmp_path / "out")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_of_which_a_member_is_broken(tmp_path, method):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("1.mp4", bytes(range(256)) * 100)
    content = bytearray(path.read_bytes())
    content[45:70] = b"\xff" * 25
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^a\.zip: cannot be unpacked .*; download it again$"):
        unpacked([path], tmp_path / "out")


@pytest.mark.parametrize(
    ("local", "directory", "value", "reason"),
    [(6, 8, 1, "encrypted"), (8, 10, 97, "compression method")],
)
def test_a_zip_that_cannot_be_read_here(tmp_path, local, directory, value, reason):
    """Its flags, or its method, of APPNOTE.TXT 4.3.7 and 4.3.12."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.mp4", b"1")
    content = bytearray(path.read_bytes())
    content[local] = content[content.index(b"PK\1\2") + directory] = value
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"^a\.zip: .*{reason}.*; unpack it yourself, to .*$"):
        unpacked([path], tmp_path / "out")


def test_leading_folders_are_taken_off(tmp_path):
    members = (("./top", {"type": tarfile.DIRTYPE}), ("./top/x/1.mp4", b"1"), ("readme", b"r"))
    expected = {"x/1.mp4": b"1"}
    assert unpacked([tar(tmp_path / "a.tar", *members)], tmp_path / "tar", strip=1) == expected
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("top")
        archive.writestr("top/x/1.mp4", b"1")
        archive.writestr("readme", b"r")
    assert unpacked([tmp_path / "a.zip"], tmp_path / "zip", strip=1) == expected
    hostile = tar(tmp_path / "b.tar", ("top/../../outside", b"x"))
    with pytest.raises(DataError, match="not to be trusted"):
        unpacked([hostile], tmp_path / "in" / "out", strip=1)


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", b"x"),
        ("a/../../outside", b"x"),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "../outside"}),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc"}),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "../outside"}),
        ("device", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("pipe", {"type": tarfile.FIFOTYPE}),
    ],
)
def test_a_hostile_tar(tmp_path, member):
    (tmp_path / "outside").write_bytes(b"mine")
    path = tar(tmp_path / "a.tar", ("good", b"1"), member)
    with pytest.raises(DataError, match="a.tar: .* not to be trusted"):
        unpack([path], tmp_path / "in" / "out", lambda name: None)
    assert (tmp_path / "outside").read_bytes() == b"mine"
    assert not (tmp_path / "in" / "outside").exists()
    kept = list((tmp_path / "in" / "out").iterdir())
    assert [path.name for path in kept] == ["good"]


def test_an_absolute_name_stays_inside(tmp_path):
    path = tar(tmp_path / "a.tar", ("/etc/passwd", b"x"))
    unpack([path], tmp_path / "out", lambda name: None)
    assert (tmp_path / "out" / "etc" / "passwd").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "..\\outside"])
def test_a_hostile_zip(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(DataError, match="not to be trusted"):
        unpack([tmp_path / "a.zip"], tmp_path / "in" / "out", lambda name: None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_zip_makes_no_links(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    unpack([tmp_path / "a.zip"], tmp_path / "out", lambda name: None)
    assert not (tmp_path / "out" / "link").is_symlink()


MEMBERS = [(f"x/{number}.webm", f"{number}".encode() * 1000) for number in range(5)]


def zipped(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", [tar, zipped])
def test_unpacking_goes_on_after_a_stop(tmp_path, pack):
    """Of a name that comes twice, the last is what stays, as if there had been no stop."""
    members = [("x/0.webm", b"0" * 999), *MEMBERS]
    archive = pack(tmp_path / "archive", *members)
    folder, journal = tmp_path / "out", tmp_path / "state" / "journal"

    def stop(name):
        if name == "x/2.webm":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack([archive], folder, stop, journal=journal)
    assert sorted(path.name for path in (folder / "x").iterdir()) == ["0.webm", "1.webm", "2.webm"]
    before = {path: path.stat().st_ino for path in (folder / "x").iterdir()}
    (folder / "x" / "1.webm").write_bytes(b"1")  # as a power cut leaves it
    told = []
    unpack([archive], folder, told.append, journal=journal)
    assert told == [name for name, _ in members]
    assert {path.name: path.read_bytes() for path in (folder / "x").iterdir()} == {
        name.removeprefix("x/"): content for name, content in MEMBERS
    }
    assert (folder / "x" / "2.webm").stat().st_ino == before[folder / "x" / "2.webm"]
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_links_are_made_again_after_a_stop(tmp_path):
    links = (
        ("soft", {"type": tarfile.SYMTYPE, "linkname": "good"}),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "good"}),
    )
    archive = tar(tmp_path / "a.tar", ("good", b"1"), *links)
    for _ in range(2):
        unpack([archive], tmp_path / "out", lambda name: None, journal=tmp_path / "journal")
        for name in ("good", "soft", "hard"):
            assert (tmp_path / "out" / name).read_bytes() == b"1"
