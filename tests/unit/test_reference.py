"""What is told of keys, commands and fields is what the code says."""

import json
from pathlib import Path

import pytest
import reference
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "config.yaml"
RECIPES = sorted((ROOT / "config" / "recipes").glob("*.yaml"))


def test_pages_and_schemas_are_current():
    old = [p.name for p, text in reference.everything().items() if p.read_text("utf-8") != text]
    assert not old, "write them anew: make lint, or python docs/reference.py"


def validator(name):
    schema = json.loads((ROOT / "config" / "schemas" / f"{name}.json").read_text("utf-8"))
    return Draft202012Validator(schema)


def test_recipes_fit_their_schema():
    recipes = [yaml.safe_load(path.read_text("utf-8")) for path in RECIPES]
    assert len(recipes) > 15
    known = validator("recipe")
    for recipe in recipes:
        known.validate(recipe)
    assert not known.is_valid(recipes[0] | {"clases": 10}), "a key is misspelt"
    (extending,) = [one for one in recipes if one["name"] == "demo-gamma9"]
    assert not known.is_valid(extending | {"stages": {"stage2": {"gamma": 2}}})


def test_the_configuration_fits_its_schema():
    values = yaml.safe_load(CONFIG.read_text("utf-8"))
    validator("config").validate(values)
    assert not validator("config").is_valid(values | {"device": "gpu"})


@pytest.mark.parametrize("path", [CONFIG, *RECIPES], ids=lambda path: path.name)
def test_editors_find_the_schema(path):
    first = path.read_text("utf-8").partition("\n")[0]
    schema = path.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert schema.resolve().parent == ROOT / "config" / "schemas"
    assert schema.stem == ("config" if path == CONFIG else "recipe") and schema.exists()
