"""YAML into a checked model: every problem of a file at once, each with the field, the value and what is allowed."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from data_contracts.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing; here a second one is an error. And whatever a value cannot be
    (the 30th of February, a key that is a list) is a YAML error with its line, not one of Python's."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            kind = node.tag.rpartition(":")[2]
            raise _at(node, f"{node.value!r} is no {kind} ({error}); put text in quotes") from None


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise _at(key, "a key is a list or a mapping; write plain text, and text that begins with [ or { in quotes")
        if key.value in seen:
            raise _at(key, f"key '{key.value}' stands in line {seen[key.value]} and again in line {line}")
        seen[key.value] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _at(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str | bytes, where: str) -> Any:
    """What YAML says; `where` is the place that an error names. The one way in for every YAML that a user writes.

    Raises:
        ConfigError: it is no YAML, no UTF-8, or names a key twice.
    """
    try:
        return yaml.load(text if isinstance(text, str) else text.decode("utf-8-sig"), Loader=_Loader)  # a SafeLoader
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"byte {error.object[error.start]:#04x} is not UTF-8; save the file as UTF-8"
    except RecursionError:
        line, problem = None, "nested too deeply"
    except yaml.YAMLError as error:
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
    raise ConfigError(f"{where}{f', line {line}' if line else ''} cannot be read: {problem}. Correct it.")


def read_yaml(path: Path, stage: str) -> dict[str, Any]:
    """The mapping in a YAML file of a contract folder.

    Raises:
        ConfigError: the file is missing, is not YAML, is not a mapping, or names a key twice.
    """
    where = f"{path.parent.name}/{path.name}"
    if not path.is_file():
        raise ConfigError(f"{stage}: {where} is missing. Every contract folder needs one; copy another recipe's.")
    values = parse_yaml(path.read_bytes(), f"{stage}: {where}")
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
