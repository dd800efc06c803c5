"""Checkpoints that are given to others and taken from them, by folders and by the Hub's library."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, Model, hub
from noise import tiny_recipe
from test_summary import result as a_result
from typer.testing import CliRunner

import adafocus
from adafocus.cli import app
from adafocus.extras import missing_extra
from adafocus.machine.files import sha256
from adafocus.model.adafocus import build
from adafocus.model.checkpoint import Checkpoint, write

ROOT = Path(__file__).parents[2]
FILES = {"README.md", "tiny_32_stage3.json", "tiny_32_stage3.safetensors"}


def train(folder):
    """A checkpoint and its result as the workflow leaves them in a folder."""
    recipe = tiny_recipe("gru")
    path = folder / "results" / "checkpoints" / "tiny_32_stage3.safetensors"
    names = ("a [link](x)", "b|c", "<b>d", "e", "f")
    write(path, Checkpoint(build(recipe, 32).state_dict(), recipe, "stage3", 32, names))
    values = a_result("demo", 32, 3, 71.25) | {
        "dataset": "tiny",
        "checkpoint": {"sha256": sha256(path)},
        "recipe": recipe.to_dict(),
    }
    (folder / "results" / "tiny_32_stage3.json").write_text(json.dumps(values))
    return path.relative_to(folder)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A checkpoint and its result in the folder at hand."""
    monkeypatch.chdir(tmp_path)
    return train(tmp_path)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error(*arguments) -> str:
    done = run(*arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert done.stderr.startswith("Error: ")
    return done.stderr


def head_of(card: str):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_folder_gives_back_what_was_put_into_it(trained):
    done = run("push", trained, "given", "--licence", "cc-by-4.0")
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path("given").iterdir()} == FILES
    done = run("pull", "given", "taken")
    assert done.stdout == "taken/tiny_32_stage3.safetensors\n"
    for name in FILES:
        assert Path("taken", name).read_bytes() == Path("given", name).read_bytes()
    assert adafocus.load("taken").class_names[1] == "b|c"
    # What a budget needs goes along.
    trained.with_suffix(".exits.npz").write_bytes(b"as it is")
    done = run("push", trained, "and more")
    assert done.stdout.endswith("adafocus pull 'and more' FOLDER\n")
    run("pull", "and more", "all")
    assert Path("all", "tiny_32_stage3.exits.npz").read_bytes() == b"as it is"


def test_the_card_says_what_the_result_does(trained):
    run("push", trained, "given", "--licence", "cc-by-4.0")
    text = Path("given", "README.md").read_text()
    head = head_of(text)
    assert (head["license"], head["pipeline_tag"]) == ("cc-by-4.0", "video-classification")
    (measured,) = head["model-index"][0]["results"]
    assert {"type": "accuracy", "name": "top-1", "value": 71.25} in measured["metrics"]
    assert measured["dataset"] == {"name": "Tiny", "type": "tiny", "split": "validation"}
    values = json.loads(Path("given", "tiny_32_stage3.json").read_text())
    assert f"**{values['gflops_per_video']:.3g} GFLOPs**" in text
    assert "| chosen by the policy | **71.2** |" in text
    assert r"a \[link\](x), b\|c, \<b\>d" in text, "names of classes are no markup"
    assert head_of_hub(Path("given", "README.md"))["top-1"] == 71.25


def head_of_hub(path):
    """What the Hub's library reads of a card: accuracies by name."""
    from huggingface_hub import ModelCard

    found = ModelCard.load(path).data.eval_results
    return {one.metric_name: one.metric_value for one in found if one.metric_type == "accuracy"}


def test_nothing_is_written_over_unasked(trained):
    run("push", trained, "given")
    Path("given", "README.md").write_text("mine")
    told = error("push", trained, "given")
    assert "given: holds README.md already; --replace" in told
    assert Path("given", "README.md").read_text() == "mine"
    assert run("push", trained, "given", "--replace").exit_code == 0
    assert Path("given", "README.md").read_text() != "mine"
    run("pull", "given", "taken")
    assert "taken: holds README.md already; name another folder" in error("pull", "given", "taken")
    # A place holds one checkpoint, or none could be loaded by its name alone.
    other = shutil.copy(trained, "results/checkpoints/other.safetensors")
    shutil.copy("results/tiny_32_stage3.json", "results/other.json")
    told = error("push", other, "given", "--replace")
    assert "given: holds another checkpoint, tiny_32_stage3.safetensors" in told
    assert "--public is for the Hub" in error("push", trained, "new", "--public")
    assert not Path("new").exists()


def test_what_does_not_belong_together_is_not_given_nor_taken(trained):
    values = json.loads(Path("results", "tiny_32_stage3.json").read_text())
    wrong = values | {"checkpoint": {"sha256": "0" * 64}}
    Path("wrong.json").write_text(json.dumps(wrong))
    assert "wrong.json: is the result of another" in error(
        "push", trained, "given", "--result", "wrong.json"
    )
    assert not Path("given").exists()
    run("push", trained, "given")
    shutil.copy("wrong.json", "given/tiny_32_stage3.json")
    assert "given/tiny_32_stage3.json: is the result" in error("pull", "given", "taken")
    Path("given", "tiny_32_stage3.safetensors").write_bytes(b"no weights")
    assert "given/tiny_32_stage3.safetensors: not an AdaFocus" in error("pull", "given", "taken")
    assert not Path("taken").exists()
    assert "nowhere: no such folder" in error("pull", "nowhere")
    for address in ("https://hub/me/digits", "hf:/me/digits"):
        assert f"{address}: is no folder" in error("push", trained, address)
        assert f"{address}: is no folder" in error("pull", address)
    Path("results", "tiny_32_stage3.json").unlink()
    assert "its result is neither" in error("push", trained, "elsewhere")


def test_without_the_library_folders_do_and_the_hub_is_one_line(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("adafocus.extras.find_spec", lambda name: None)
    assert run("push", trained, "given").exit_code == 0
    assert run("pull", "given", "taken").exit_code == 0
    told = error("push", trained, "hf://me/digits")
    assert "is not installed: pip install 'adafocus[hub]'" in told
    assert str(missing_extra(ModuleNotFoundError(name="huggingface_hub"))) in told.replace(
        "httpx2", "huggingface_hub"
    )


CALLS = """
import json, sys
from typer.testing import CliRunner
from adafocus.cli import app
for arguments in json.load(sys.stdin):
    token, *command = arguments.split()
    done = CliRunner().invoke(app, command, env={"HF_TOKEN": token})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    print(json.dumps([done.exit_code, done.stdout, done.stderr]))
"""
OUTSIDE = ("../../escaped.safetensors", "/escaped.safetensors", "a\\b.safetensors")


class Told:
    """What commands said to a hub, and what it holds: exit, output and errors by command."""

    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        self.weights = folder / train(folder)
        given = {
            "tiny_32_stage3.safetensors": self.weights.read_bytes(),
            "tiny_32_stage3.json": (folder / "results" / "tiny_32_stage3.json").read_bytes(),
            "README.md": b"hello",
        }
        names = dict.fromkeys(OUTSIDE, self.weights.read_bytes())
        more = given | names | {"model.py": b"1", "x.bin": b"2"}
        server.models["me/hidden"] = Model(True, given)
        server.models["bad/paths"] = Model(False, names)
        server.models["bad/more"] = Model(False, more)
        server.models["bad/pickle"] = Model(False, {"x.safetensors": b"\x80\x04N."})
        push = "push results/checkpoints/tiny_32_stage3.safetensors"
        commands = [
            f"{TOKEN} {push} hf://me/refused --licence nonsense",
            f"{TOKEN} {push} hf://me/digits --licence mit",
            f"{TOKEN} {push} hf://me/digits",
            f"{TOKEN} pull hf://me/digits",
            f"{TOKEN} {push} hf://me/digits --licence cc-by-4.0 --replace",
            f"{TOKEN} {push} hf://me/open --public",
            f"{TOKEN} pull hf://me/nothing",
            f"{TOKEN} pull hf://datasets/me/digits",
            f"hf_other {push} hf://me/new",
            "hf_other pull hf://me/hidden",
            f"{TOKEN} pull hf://bad/paths",
            f"{TOKEN} pull hf://bad/more",
            f"{TOKEN} pull hf://bad/pickle",
        ]
        # The library reads the Hub's address when it is imported.
        environment = os.environ | {
            "HF_ENDPOINT": server.address,
            "HF_HOME": str(folder / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", CALLS],
            input=json.dumps(commands),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        self.said = done.stdout + done.stderr
        lines = map(json.loads, done.stdout.splitlines())
        names = (command.partition(" ")[2].replace(push, "push") for command in commands)
        self.by_command = dict(zip(names, lines, strict=True))

    def __call__(self, command):
        """What a command that succeeded put out."""
        code, out, err = self.by_command[command]
        assert code == 0, err
        return out

    def error(self, command):
        code, out, err = self.by_command[command]
        assert (code, out, err.count("\n")) == (1, "", 1), err
        return err


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    with hub() as server:
        yield Told(tmp_path_factory.mktemp("shared"), server)


def test_the_hub_gives_back_what_was_put_there(told):
    put = told("push hf://me/digits --licence mit")
    assert put.startswith("hf://me/digits@") and "private" in put
    assert told("pull hf://me/digits") == "digits/tiny_32_stage3.safetensors\n"
    digits = told.folder / "digits"
    assert {path.name for path in digits.iterdir()} == FILES
    assert (digits / "tiny_32_stage3.safetensors").read_bytes() == told.weights.read_bytes()
    card = (digits / "README.md").read_text()
    assert head_of(card)["license"] == "mit"
    assert "adafocus pull hf://me/digits tiny_32_stage3\n" in card
    assert "hf://me/nothing: is not on the Hub, or is not for you" in told.error(
        "pull hf://me/nothing"
    )
    assert "is no name of a model on the Hub" in told.error("pull hf://datasets/me/digits")


def test_repositories_are_private_and_kept_unless_one_says_otherwise(told):
    models = told.server.models
    assert "hf://me/digits: holds README.md already; --replace" in told.error("push hf://me/digits")
    told("push hf://me/digits --licence cc-by-4.0 --replace")
    assert models["me/digits"].commits == 2 and models["me/digits"].files.keys() == FILES
    assert b"cc-by-4.0" in models["me/digits"].files["README.md"]
    assert "for everybody to see" in told("push hf://me/open --public")
    assert (models["me/digits"].private, models["me/open"].private) == (True, False)
    # Nothing is made of what the Hub would refuse.
    assert "must be one of [mit" in told.error("push hf://me/refused --licence nonsense")
    assert "me/refused" not in models


def test_whom_the_hub_does_not_know(told):
    assert "Invalid credentials" in told.error("push hf://me/new")
    assert "hf auth login" in told.error("pull hf://me/hidden")
    assert "me/new" not in told.server.models
    assert not (told.folder / "hidden").exists()


def test_no_token_is_told(told):
    assert told.server.knew > 10, "the token was sent"
    written = [path for path in told.folder.rglob("*") if path.is_file()]
    assert TOKEN not in told.said
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


def test_a_hub_cannot_write_outside_nor_bring_code(told):
    assert "holds not one checkpoint but none" in told.error("pull hf://bad/paths")
    told("pull hf://bad/more")
    assert {path.name for path in (told.folder / "more").iterdir()} == FILES
    said = told.error("pull hf://bad/pickle")
    assert "hf://bad/pickle/x.safetensors: not an AdaFocus checkpoint" in said
    fetched = [path for path in told.server.asked if path.startswith("/bad")]
    assert fetched and not any(
        name in path for path in fetched for name in ("escaped", "b.safetensors", ".py", ".bin")
    )
    assert not [*told.folder.rglob("escaped*"), *told.folder.parent.glob("escaped*")]
    assert not (told.folder / "pickle").exists() and not (told.folder / "paths").exists()
