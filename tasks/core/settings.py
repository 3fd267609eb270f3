"""Settings of a stage: the only place where a knob exists, and which of them shape files and which only measure them."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every stage's config: frozen, no unknown keys, field docstrings become help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class _ChecksOnly:
    """Marks a field that no work reads."""


_T = TypeVar("_T")
ChecksOnly = Annotated[_T, _ChecksOnly()]
"""`max_logit_diff: ChecksOnly[float]`: a limit, or another setting that only verification reads. It is no part of the work
key, and the work cannot read it: see `for_work`."""


def _is_checks_only(config: BaseModel, name: str) -> bool:
    return any(isinstance(mark, _ChecksOnly) for mark in type(config).model_fields[name].metadata)


def split_settings(config: BaseModel) -> tuple[dict, dict]:
    """(settings that shape the files, settings that only measure them), as JSON values. Nested settings are split too."""
    work, checks = {}, {}
    dumped = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value = getattr(config, name)
        if _is_checks_only(config, name):
            checks[name] = dumped[name]
        elif isinstance(value, Settings):
            work[name], inner = split_settings(value)
            checks |= {name: inner} if inner else {}
        else:
            work[name] = dumped[name]
    return work, checks


def for_work(config: BaseModel) -> BaseModel:
    """The config as the work may see it: reading a setting that is marked `ChecksOnly` raises AttributeError.

    So a limit that shapes files after all cannot stay outside the work key unnoticed.
    """
    seen = config.model_copy()
    for name in type(config).model_fields:
        value = config.__dict__[name]
        if _is_checks_only(config, name):
            del seen.__dict__[name]
        elif isinstance(value, Settings):
            seen.__dict__[name] = for_work(value)
    return seen
