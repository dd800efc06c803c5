"""Claims of SECURITY.md that no other test holds, and that those it names are there."""

import ast
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from miniature import make_video

from adafocus.data import DataError
from adafocus.data.decoder import Unusual, decode_some
from adafocus.data.ffmpeg import timeline
from adafocus.data.live import check_source, moments
from adafocus.data.own import new_dataset
from adafocus.machine.signals import Stop
from adafocus.recipe import Frames, RecipeError, load_recipe

ROOT = Path(__file__).parents[2]


def test_every_test_that_is_named_exists():
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 10
    for file, name in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), name


@pytest.fixture
def server():
    """A server on loopback, and the paths that it was asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("form", ["hls", "concat"])
def test_a_playlist_is_no_video(form, server, tmp_path):
    address, asked = server
    secret = make_video(tmp_path / "secret.mp4")
    assert len(timeline(tmp_path / "secret.mp4").times) > 0, secret
    for number, place in enumerate((f"file://{tmp_path}/secret.mp4", "secret.mp4", f"{address}/x")):
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", place, "#EXT-X-ENDLIST"]
        text = "\n".join(lines) if form == "hls" else f"ffconcat version 1.0\nfile '{place}'\n"
        video = tmp_path / f"{number}.mp4"
        video.write_text(text)
        with pytest.raises(DataError):
            timeline(video)
    assert asked == []


def test_only_watch_asks_other_machines_and_takes_no_playlist_from_them(tmp_path):
    make_video(tmp_path / "secret.ts", 5, "64x48", "-f", "mpegts")
    asked, lists = [], {}

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(lists[self.path].encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, Stop() as stop:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for place in (f"file://{tmp_path}/secret.ts", f"{address}/secret.ts"):
            lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:9,", place, "#EXT-X-ENDLIST"]
            lists["/list.m3u8"] = "\n".join(lines)
            lists["/list.ts"] = f"ffconcat version 1.0\nfile '{place}'\n"
            for path in ("/list.m3u8", "/list.ts"):
                with pytest.raises(DataError, match="given up after 1 tries"):
                    next(moments(f"{address}{path}", Frames(), 5, 1, stop))
        assert set(asked) == {"/list.m3u8", "/list.ts"}
        asked.clear()
        for source in (f"{address}/list.ts", "concat:secret.ts|secret.ts"):
            with pytest.raises((Unusual, DataError)):
                decode_some(Frames(), Path(source), range)
            with pytest.raises(DataError):
                timeline(Path(source))
        assert asked == []
        server.shutdown()
    for source in ("file:///etc/passwd", "concat:secret.ts|secret.ts", "udp://0.0.0.0:9"):
        with pytest.raises(ValueError):
            check_source(source)


def test_names_in_tables_are_not_paths(tmp_path, capsys):
    for letter in "abcd":
        make_video(tmp_path / "videos" / f"{letter}.mp4")
    make_video(tmp_path / "secret.mp4")
    for name in ("../secret.mp4", str(tmp_path / "secret.mp4")):
        (tmp_path / "labels.csv").write_text(
            "video,labels\n"
            + "".join(f"{letter}.mp4,{letter in 'ab'}\n" for letter in "abcd")
            + f"{name},y\n"
        )
        new_dataset(
            f"mine{len(name)}",
            tmp_path / "videos",
            tmp_path / "labels.csv",
            tmp_path,
            seed=0,
            method="uni-adafocus",
        )
        assert "secret" in capsys.readouterr().out
    assert "secret" not in "".join(path.name for path in (tmp_path / "data").rglob("*"))
    tables = (tmp_path / "data").rglob("*.csv")
    assert not any("secret" in table.read_text() for table in tables)


def test_yaml_makes_no_objects(tmp_path):
    mark = tmp_path / "run"
    recipe = tmp_path / "evil.yaml"
    recipe.write_text(f"name: !!python/object/apply:pathlib.Path.touch [{mark}]\n")
    with pytest.raises(RecipeError, match="could not determine a constructor"):
        load_recipe(recipe)
    assert not mark.exists()


def test_no_shell_strings():
    for file in [*ROOT.glob("adafocus/**/*.py"), *ROOT.glob("workflow/scripts/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg != "shell", file
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("os.system", "os.popen"), file
    for file in [ROOT / "Snakefile", *ROOT.glob("workflow/rules/*.smk")]:
        assert not re.search(r"^ *shell:", file.read_text(), re.MULTILINE), file
