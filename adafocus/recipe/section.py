"""What all sections of a recipe and of the configuration share: types, and one-line errors."""

from __future__ import annotations

from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Metric = Literal["top1", "top5", "mAP"]
Precision = Literal["auto", "bf16", "fp32"]
MicroBatch = Literal["auto"] | Positive
BRIEF = Repr()
BRIEF.maxlevel = 2
BRIEF.maxstring = BRIEF.maxother = LONGEST_KEY = 60
DEEPEST = 200
"""So many sections within sections a YAML file may have."""


class RecipeError(ValueError):
    """A configuration or recipe that cannot be used; the message is one line fit for a user."""


AnySection = TypeVar("AnySection", bound="Section")


class Section(BaseModel):
    model_config = ConfigDict(frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, values: Any) -> Any:
        unknown = set(values) - set(cls.model_fields) if isinstance(values, dict) else ()
        if unknown:
            allowed = ", ".join(cls.model_fields)
            raise ValueError(f"unknown key {brief(min(map(str, unknown)))}; allowed: {allowed}")
        return values


def brief(value: Any) -> str:
    """A value as an error tells it, however much it holds."""
    try:
        return BRIEF.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"a {type(value).__name__} that is too long"


def read_yaml(path: Path, loader: Any = yaml.CSafeLoader) -> Any:
    """Plain values of a YAML file. Raises `RecipeError` that names the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        _check_nesting(text)
        # Loads as safe_load does, in C: planning reads every recipe.
        return yaml.load(text, loader)
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start}): save it as such"
        ) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, ValueError) as error:  # the last of a day that no month has
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from None


def _check_nesting(text: str) -> None:
    """Raises `ValueError` where sections nest without end, or deeper than a person writes: loading
    them in C would end the process without a word."""
    brackets = text.count("[") + text.count("{")
    # A block within another begins further to the right.
    if brackets + max(map(len, text.split("\n"))) <= DEEPEST and "&" not in text:
        return
    anchors: list[str | None] = []
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchors.pop()
        elif isinstance(event, yaml.AliasEvent) and event.anchor in anchors:
            raise ValueError(f"*{event.anchor} is within itself")
        if len(anchors) > DEEPEST:
            raise ValueError(f"is nested more than {DEEPEST} deep")


def parse_section(model: type[AnySection], values: Any, source: str) -> AnySection:
    """Plain values as a checked section. Raises `RecipeError` that names ``source`` and the key."""
    try:
        return model.model_validate(values)
    except ValidationError as errors:
        error = errors.errors()[0]
        where = ".".join(str(key)[:LONGEST_KEY] for key in error["loc"])
        what = error["msg"].removeprefix("Value error, ")
        raise RecipeError(": ".join(filter(None, (source, where, what)))) from None


def find_entry(values: dict[str, Any], place: str) -> tuple[dict[str, Any], str]:
    """The section of plain values that holds an entry such as ``stages.stage2.gamma``, empty where
    there is none, and the entry's key in it."""
    *path, key = place.split(".")
    for part in path:
        section = values.get(part)
        values = section if isinstance(section, dict) else {}
    return values, key
