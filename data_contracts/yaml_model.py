"""YAML into a checked model: every problem of a file at once, each with the field, the value and what is allowed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from data_contracts.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


class _OneKeyOnce(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing; here a second one is an error."""


def _mapping(loader: _OneKeyOnce, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"key '{key.value}' stands in line {seen[key.value]} and again in line {line}",
                key.start_mark,
            )
        seen[key.value] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_OneKeyOnce.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, stage: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, is not a mapping, or names a key twice.
    """
    where = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise ConfigError(f"{stage}: {where} is missing. Every contract folder needs one; copy another recipe's.")
    try:
        values = yaml.load(path.read_text("utf-8"), Loader=_OneKeyOnce)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{stage}: {where}{line} cannot be read: {problem}. Correct the file.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{stage}: {where} holds {type(values).__name__}, not 'name: value' lines. Correct the file.")
    return values


def validated(model: type[ModelT], values: dict[str, Any], stage: str, where: str) -> ModelT:
    """The model made from `values`.

    Raises:
        ConfigError: with one sentence for each wrong field, all of them.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(problems(error, model, stage, where)) from None


def problems(error: ValidationError, model: type[BaseModel], stage: str, where: str) -> list[str]:
    """One sentence for each wrong field: `<stage>: <where>: <field> ... Expected ... <fix>.`"""
    return [f"{stage}: {where}: {_sentence(one, model)}" for one in error.errors()]


def _sentence(one: Any, model: type[BaseModel]) -> str:
    field = ".".join(str(part) for part in one["loc"])
    if one["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(one["loc"][-1]), list(model.model_fields), n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(model.model_fields)}."
        return f"{field} is not a setting. {hint}"
    if one["type"] == "missing":
        return f"{field} is missing. Add it; its meaning stands in {model.__name__}."
    message = one["msg"].removeprefix("Value error, ")
    if not field:
        return f"{message}."
    hint = " Write the number without quotes, with a dot (1.0e-5)." if isinstance(one["input"], str) else ""
    return f"{field} is {one['input']!r}. {message}.{hint}"
