"""Recipes and the configuration: any YAML."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from rule import tried, used
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError

from adafocus.data.disk import estimate
from adafocus.recipe import (
    RecipeError,
    load_recipe,
    load_recipes,
    parse_config,
    parse_recipe,
    read_config,
)
from adafocus.recipe.extending import differences

CONFIG = Path(__file__).parents[2] / "config"
NAMES = ("demo", "demo-uni", "demo-gamma9", "sthv1", "minik", "sthv1-uni-8")
GIVEN = {name: (CONFIG / "recipes" / f"{name}.yaml").read_text() for name in NAMES}
RECIPES = load_recipes(CONFIG / "recipes")
GIVEN["config"] = "datasets: {demo: [28]}\nsweep: {trials: 3}\npretrained: {}\nseeds: [0, 1]\n"

ODD = st.sampled_from(
    [
        *(None, True, "", " ", "a\nb", "\x07", "é\u2028", "x" * 5000, "{}", "../..", "demo", "no"),
        *(0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e-300, 1e300, math.inf, -math.inf, math.nan),
        *([], {}, [[]], [None], {"": ""}, {1: 2}, ["demo"], [1, 2], {"a": {"a": {}}}),
    ]
)
VALUES = ODD | st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=9) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PIECES = st.sampled_from(
    [
        *("\t", "\n", "\n\n", "  ", ":", ": ", "- ", "&a ", "*a", "&a [*a]", "<<: *a\n", "!!int x"),
        *(
            "!!python/name:os.system",
            "%",
            "---\n",
            "...\n",
            "? ",
            "|",
            ">",
            "'",
            '"',
            "#",
            "{",
            "[",
        ),
        *("}", "]", "[" * 300, "{a: " * 300, "\0", "\x85", "\u2028", "\ufeff", "é", "💥", "~", "@"),
        *(".nan", ".inf", "-.inf", "1e999", "0x1F", "1_000", "9" * 5000, "12:30:45", "2026-02-31"),
        *("name: x\n", "extends: demo\n", "extends: demo-uni\n", "method: gru\n", "name", "yes"),
        "\nx: &a [1]\ny: &b [" + "*a," * 20 + "]\nz: &c [" + "*b," * 20 + "]\n"
        "extends: [" + "*c," * 20 + "]\n",
    ]
)


@st.composite
def changed_values(draw, text):
    """Plain values of a recipe, with entries put, replaced or taken out anywhere."""
    values = {"": yaml.safe_load(text)}
    for _ in range(draw(st.integers(1, 3))):
        where, key = values, ""
        while isinstance(where[key], dict) and where[key] and draw(st.integers(0, 4)):
            where, key = where[key], draw(st.sampled_from(list(where[key])))
        if key and draw(st.booleans()):
            where[draw(st.sampled_from(["", key, f"{key}s", "skip_costs", 3]))] = draw(VALUES)
        elif key and draw(st.booleans()):
            del where[key]
        else:
            where[key] = draw(VALUES)
    return yaml.safe_dump(values[""], sort_keys=False, allow_unicode=draw(st.booleans())).encode()


@st.composite
def changed_text(draw, text):
    """The text of a recipe, with pieces put in or taken out, or other bytes."""
    for _ in range(draw(st.integers(1, 3))):
        lines = text.splitlines(keepends=True)
        line = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["put", "put", "twice", "out", "swap", "cut"]))
        at = draw(st.integers(0, len(lines[line])))
        if kind == "put":
            lines[line] = lines[line][:at] + draw(PIECES) + lines[line][at:]
        elif kind == "twice":
            lines.append(lines[line])
        elif kind == "out":
            del lines[line]
        elif kind == "swap":
            other = draw(st.integers(0, len(lines) - 1))
            lines[line], lines[other] = lines[other], lines[line]
        else:
            lines[line] = lines[line][:at]
        text = "".join(lines) or "\n"
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "cp1252"]))
    content = bytearray(text.encode(encoding, "replace"))
    if draw(st.integers(0, 9)) == 0:
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


def files(*names):
    return st.sampled_from(names).flatmap(
        lambda name: st.tuples(
            st.just(name),
            changed_values(GIVEN[name]) | changed_text(GIVEN[name]) | st.binary(max_size=40),
        )
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("config")


def lay(folder, changed):
    """A folder of the configuration, in which one file is another."""
    (folder / "recipes").mkdir(exist_ok=True)
    for name, text in GIVEN.items():
        path = folder / ("" if name == "config" else "recipes") / f"{name}.yaml"
        path.write_bytes(changed.get(name, text.encode()))


def whole(recipe):
    """All that planning asks of a recipe, before any job."""
    json.dumps(recipe.to_dict(), allow_nan=False)
    assert parse_recipe(recipe.to_dict(), "again") == recipe
    assert all(map(math.isfinite, estimate(recipe)))
    for suffix in recipe.suffixes:
        for spec in recipe.table:
            json.dumps(recipe.named(suffix).needed_by(spec.name), allow_nan=False)


@tried(80)
@given(files(*NAMES))
def test_a_recipe_is_used_or_refused(folder, changed):
    name, content = changed
    lay(folder, {name: content})
    path = folder / "recipes" / f"{name}.yaml"
    if recipe := used(lambda: load_recipe(path), *(f"{one}.yaml" for one in NAMES)):
        assert recipe.name == name
        whole(recipe)
    if recipes := used(lambda: load_recipes(path.parent), *(f"{one}.yaml" for one in NAMES)):
        for one in recipes.values():
            differences({one.name: one, one.dataset: recipes[one.dataset]})


@tried(60)
@given(files("config"))
def test_a_configuration_is_used_or_refused(folder, changed):
    """By the package, and as Snakemake reads it at its start."""
    _, content = changed
    lay(folder, {"config": content})
    path, recipes = folder / "config.yaml", RECIPES

    def as_snakemake():
        try:
            read_config(path)
            return parse_config(load_configfile(path), recipes, str(path))
        except WorkflowError as error:
            raise RecipeError(str(error)) from None

    for read in (lambda: parse_config(read_config(path), recipes, str(path)), as_snakemake):
        if found := used(read, "config.yaml"):
            json.dumps(found.model_dump(mode="json"), allow_nan=False)


@tried(30)
@given(st.sampled_from(NAMES), st.text(max_size=20), VALUES | PIECES)
@example("demo", "stages.stage2.gamma", math.nan)
@example("demo", "stages.stage2.gamma", "2026-02-31")
@example("demo", "stages.stage2.gamma", "9" * 5000)
@example("demo", "stages.stage2.gamma", "[" * 3000)
def test_a_setting_is_used_or_refused(name, place, value):
    setting = f"{place}={value}"
    used(lambda: load_recipe(CONFIG / "recipes" / f"{name}.yaml", [setting]), "--set")
