"""Writes what is told of keys, commands and fields from where they stand in the code.

    python docs/reference.py

writes the pages on recipes, the command line and results, and the schemas by which editors know the
keys of YAML files; ``make lint`` does so too. tests/unit/test_reference.py says if one is old.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from typer.main import get_command

from adafocus.cli import app
from adafocus.evaluation.result import Result
from adafocus.recipe import METHODS, Config
from adafocus.recipe.section import Section

ROOT = Path(__file__).parents[1]
MADE = "<!-- Written by docs/reference.py: edit what stands in the code. -->"


def everything() -> dict[Path, str]:
    """What each file has to hold."""
    schemas = ROOT / "config" / "schemas"
    return {
        ROOT / "docs" / "recipe-keys.md": recipe_keys(),
        ROOT / "docs" / "command-line.md": command_line(),
        ROOT / "docs" / "result-fields.md": result_fields(),
        schemas / "config.json": json.dumps(config_schema(), indent=1) + "\n",
        schemas / "recipe.json": json.dumps(recipe_schema(), indent=1) + "\n",
    }


# --- what the code says ------------------------------------------------------------------------


@cache
def told(owner: type) -> dict[str, str]:
    """What is said beneath each field of a class, those of its ancestors too."""
    found: dict[str, str] = {}
    for one in reversed(owner.__mro__):
        if one.__module__.startswith("adafocus"):
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
            for field, text in zip(body.body, body.body[1:], strict=False):  # type: ignore[attr-defined]
                if isinstance(field, ast.AnnAssign) and _is_text(text):
                    found[ast.unparse(field.target)] = " ".join(text.value.value.split())  # type: ignore[attr-defined]
    return found


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def sections() -> dict[str, type[Section]]:
    """All sections of recipes and of the configuration, by name."""

    def within(one: type[Section]) -> Iterator[type[Section]]:
        yield one
        for other in one.__subclasses__():
            yield from within(other)

    return {one.__name__: one for one in within(Section)}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a section: unknown keys are errors, and fields have their docstrings."""
    schema = model.model_json_schema(mode="validation")
    known = sections()
    for name, one in {**schema.get("$defs", {}), model.__name__: schema}.items():
        one["additionalProperties"] = False
        texts = told(known[name])
        for key, entry in one["properties"].items():
            entry.pop("title", None)
            if key in texts:
                entry["description"] = re.sub(r"\bNone\b", "null", texts[key])
    return schema


# --- schemas -----------------------------------------------------------------------------------


def config_schema() -> dict[str, Any]:
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | schema_of(Config) | {"title": "config/config.yaml of AdaFocus"}


def recipe_schema() -> dict[str, Any]:
    """A recipe is one of a method, or it extends another, or is another split of its data, and then
    holds any part of one."""
    defs: dict[str, Any] = {}
    whole, part = [], []
    for model in METHODS.values():
        schema = schema_of(model)
        defs |= schema.pop("$defs")
        name = model.__name__
        named = {
            "extends": {"type": "string", "description": "The recipe that it extends."},
            "split_of": {
                "type": "string",
                "description": "The recipe of whose data it is a split.",
            },
        }
        alone = {key: value for key, value in schema["properties"].items() if key not in named}
        defs[name] = schema | {"properties": alone}
        whole.append({"$ref": f"#/$defs/{name}"})
        part.append({"$ref": f"#/$defs/{name}Part"})
        properties = {key: _part(value) for key, value in alone.items()} | named
        defs[f"{name}Part"] = schema | {
            "properties": properties,
            "required": ["name", "title"],
        }
    for name, one in list(defs.items()):
        if name.endswith("Part") or name in {model.__name__ for model in METHODS.values()}:
            continue
        entries = {key: _part(value) for key, value in one["properties"].items()}
        defs[f"{name}Part"] = {k: v for k, v in one.items() if k != "required"} | {
            "properties": entries
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A recipe of AdaFocus",
        "if": {"anyOf": [{"required": ["extends"]}, {"required": ["split_of"]}]},
        "then": {"anyOf": part},
        "else": {"anyOf": whole},
        "$defs": defs,
    }


def _part(entry: dict[str, Any]) -> dict[str, Any]:
    """What an entry may be in a recipe that extends another: a part of it, or null."""
    described = {key: entry[key] for key in ("description",) if key in entry}
    return described | {"anyOf": [_refer_to_parts(entry), {"type": "null"}]}


def _refer_to_parts(value: Any) -> Any:
    if isinstance(value, dict):
        # A part that does not say which section it is of may be of several.
        left = {
            "anyOf" if k == "oneOf" else k: _refer_to_parts(v)
            for k, v in value.items()
            if k != "discriminator"
        }
        if "$ref" in left:
            left["$ref"] += "Part"
        return left
    if isinstance(value, list):
        return [_refer_to_parts(one) for one in value]
    return value


# --- pages -------------------------------------------------------------------------------------


def recipe_keys() -> str:
    """Every key with its type, default and meaning, section by section."""
    lines = [
        "# All keys",
        MADE,
        "What stands in `config/config.yaml` and in the recipes. A key without a default must be"
        " given. [Recipes](../config/recipes/README.md) says more of those that tell where data"
        " come from.",
        *_sections(schema_of(Config), "config.yaml", "## config/config.yaml"),
    ]
    schemas = [schema_of(model) for model in METHODS.values()]
    common = [
        key
        for key in schemas[0]["properties"]
        if all(s["properties"].get(key) == schemas[0]["properties"][key] for s in schemas)
    ]
    shown: set[str] = set()
    lines += ["## Recipes of both methods"]
    lines += _sections(_only(schemas[0], common), "", "", shown)
    for model, schema in zip(METHODS.values(), schemas, strict=True):
        own = [key for key in schema["properties"] if key not in common]
        lines += _sections(_only(schema, own), "", f"## Recipes of {model.model_name}", shown)
    return "\n\n".join(filter(None, lines)) + "\n"


def _only(schema: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    return schema | {"properties": {key: schema["properties"][key] for key in keys}}


def _sections(
    schema: dict[str, Any], root: str, heading: str, shown: set[str] | None = None
) -> Iterator[str]:
    """The table of a section, and of those in it that are not shown yet, under all places that
    each has."""
    defs = schema.get("$defs", {})
    places: dict[str, list[str]] = {}

    def visit(section: dict[str, Any], path: str) -> None:
        for key, entry in section["properties"].items():
            for name in _references(entry):
                place = f"{path}{key}" + (".…" if "additionalProperties" in entry else "")
                places.setdefault(name, []).append(place)
                visit(defs[name], f"{place}.")

    visit(schema, "")
    yield heading
    if heading:
        yield schema.get("description", "") if root else ""
    yield _table(schema)
    for name, where in places.items():
        if shown is not None:
            if name in shown:
                continue
            shown.add(name)
        kind = _kind(defs[name])
        title = ", ".join(f"`{place}`" for place in dict.fromkeys(where))
        yield f"### {title}{f', {kind}' if kind else ''}"
        about = inspect.getdoc(sections()[name])
        own = sections()[name].__doc__
        yield " ".join(about.split()).replace("``", "`") if about and own else ""
        yield _table(defs[name])


def _kind(section: dict[str, Any]) -> str:
    """What tells a section from others in its place, such as ``kind: manual``."""
    for key in ("kind", "format"):
        entry = section["properties"].get(key, {})
        values = [entry["const"]] if "const" in entry else entry.get("enum", [])
        if values and "default" not in entry:
            return f"{key}: " + ", ".join(f"`{value}`" for value in values)
    return ""


def _references(entry: Any) -> list[str]:
    if isinstance(entry, dict):
        own = [entry["$ref"].rpartition("/")[2]] if "$ref" in entry else []
        rest = [value for key, value in entry.items() if key != "discriminator"]
        return own + [name for value in rest for name in _references(value)]
    if isinstance(entry, list):
        return [name for value in entry for name in _references(value)]
    return []


def _table(section: dict[str, Any]) -> str:
    required = section.get("required", [])
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for key, entry in section["properties"].items():
        is_section = bool(_references(entry)) and "additionalProperties" not in entry
        default = ""
        if key not in required and "default" in entry and not (is_section and entry["default"]):
            default = f"`{json.dumps(entry['default'])}`"
        text = entry.get("description", "").replace("``", "`").replace("|", "\\|")
        rows.append(
            f"| `{key}` | {_type(entry).replace('|', chr(92) + '|')} | {default} | {text} |"
        )
    return "\n".join(rows)


def _type(entry: dict[str, Any]) -> str:
    """In a few words."""
    if "const" in entry:
        return f"`{entry['const']}`"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "$ref" in entry:
        return "see below"
    for key in ("anyOf", "oneOf"):
        if key in entry:
            words = dict.fromkeys(_type(one) for one in entry[key])
            return " or ".join(words)
    kind = entry.get("type", "any")
    if kind == "array":
        if "prefixItems" in entry:
            return f"{len(entry['prefixItems'])} values: {_type(entry['prefixItems'][0])}"
        return f"list: {_type(entry['items'])}"
    if kind == "object":
        return f"mapping: {_type(entry['additionalProperties'])}"
    bounds = [
        f"{sign} {entry[name]:g}"
        for name, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if name in entry
    ]
    return " ".join([{"string": "text", "null": "null"}.get(kind, kind), ", ".join(bounds)]).strip()


def command_line() -> str:
    """Every command with its arguments and options."""
    group: Any = get_command(app)
    lines = ["# Command line", MADE, "`adafocus COMMAND --help` says the same."]
    for name, command in group.commands.items():
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        shown = " ".join(
            f"{one.name.upper()}{'...' if one.nargs == -1 else ''}"
            if one.required
            else f"[{one.name.upper()}]"
            for one in arguments
        )
        lines.append(f"## adafocus {name}")
        lines.append(command.help)
        given = " ".join(f"{one.opts[0]} ..." for one in options if one.required)
        lines.append(f"    adafocus {' '.join(filter(None, (name, shown, given)))}")
        rows = [_option(one) for one in (*arguments, *options) if one.name != "help"]
        if rows:
            lines.append("\n".join(["| | type | default | |", "|---|---|---|---|", *rows]))
    return "\n\n".join(lines) + "\n"


def _option(one: Any) -> str:
    is_argument = one.param_type_name == "argument"
    name = one.name.upper() if is_argument else ", ".join(one.opts)
    default = getattr(one.default, "value", one.default)
    is_told = not one.required and default is not None and default is not False
    shown = f"`{default}`" if is_told else ""
    if isinstance(one.show_default, str):
        shown = one.show_default
    kind = _words_of(one.type_descriptor.annotation, one)
    return f"| `{name}` | {kind} | {shown} | {(one.help or '').replace('|', chr(92) + '|')} |"


def _words_of(annotation: Any, one: Any) -> str:
    """What an option takes."""
    if get_origin(annotation) is list:
        return f"{_words_of(get_args(annotation)[0], one)}, one or more"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if issubclass(annotation, Enum):
        return ", ".join(f"`{choice.value}`" for choice in annotation)
    words = {Path: "path", str: "text", int: "integer", float: "number", bool: "flag"}[annotation]
    return words if one.min is None else f"{words} ≥ {one.min:g}"


def result_fields() -> str:
    """Every field of a result's JSON file."""
    texts = told(Result)
    rows = ["| field | |", "|---|---|"]
    for one in dataclasses.fields(Result):
        rows.append(f"| `{one.name}` | {texts[one.name].replace('``', '`')} |")
    about = (
        "`results/{experiment}_{patch}_stage{n}.json`, and those without a stage in their names."
        " Accuracies are in percent, each by its metric's name. Nothing is ever taken away from"
        " these fields; older results may lack some. [What runs leave](../results/README.md) lists"
        " the other files."
    )
    return "\n\n".join(["# Fields of a result", MADE, about, "\n".join(rows)]) + "\n"


if __name__ == "__main__":
    for path, text in everything().items():
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: written anew")
